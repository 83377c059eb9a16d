"""silent_http prevents log lines with signed URLs, but only those about the provider's own requests."""

from __future__ import annotations

import logging
import threading

import pytest

from airflow_provider_toapis.redaction import silent_http

LOGGERS = ["httpx", "httpcore.connection", "httpcore.http11", "httpcore.http2", "httpcore.proxy", "httpcore.socks"]
each_logger = pytest.mark.parametrize("name", LOGGERS)


@pytest.fixture(autouse=True)
def _debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore", *LOGGERS):
        caplog.set_level(logging.DEBUG, logger=name)


@each_logger
def test_nothing_is_logged_inside_the_context(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with silent_http():
        logging.getLogger(name).info("GET https://bucket/a.mp4?X-Amz-Signature=secret")
        logging.getLogger(name).error("GET https://bucket/a.mp4?X-Amz-Signature=secret")
    assert caplog.messages == []


@each_logger
def test_everything_is_logged_outside_the_context(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with silent_http():
        pass
    logging.getLogger(name).info("another request")
    assert caplog.messages == ["another request"]


def test_other_loggers_are_not_silenced(caplog: pytest.LogCaptureFixture) -> None:
    with silent_http():
        logging.getLogger("airflow.task").info("news")
    assert caplog.messages == ["news"]


def test_contexts_can_be_nested(caplog: pytest.LogCaptureFixture) -> None:
    with silent_http():
        with silent_http():
            pass
        logging.getLogger("httpx").info("still silent")
    assert caplog.messages == []


def test_exception_ends_the_context(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="broken"), silent_http():
        raise ValueError("broken")
    logging.getLogger("httpx").info("heard")
    assert caplog.messages == ["heard"]


def test_other_threads_are_not_silenced(caplog: pytest.LogCaptureFixture) -> None:
    with silent_http():
        thread = threading.Thread(target=lambda: logging.getLogger("httpx").info("from another thread"))
        thread.start()
        thread.join()
    assert caplog.messages == ["from another thread"]


def test_filter_is_restored_after_logging_is_configured_again(caplog: pytest.LogCaptureFixture) -> None:
    with silent_http():
        pass
    logger = logging.getLogger("httpx")
    for log_filter in list(logger.filters):
        logger.removeFilter(log_filter)
    with silent_http():
        logger.info("secret")
    assert caplog.messages == []


def test_filter_is_added_once() -> None:
    for _ in range(3):
        with silent_http():
            pass
    assert len(logging.getLogger("httpx").filters) == 1
