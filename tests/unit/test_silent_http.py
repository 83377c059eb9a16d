"""Signed links stay out of the log; other users of httpx log as before."""

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
def test_nothing_is_logged_inside(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with silent_http():
        logging.getLogger(name).info("GET https://bucket/a.mp4?X-Amz-Signature=secret")
        logging.getLogger(name).error("GET https://bucket/a.mp4?X-Amz-Signature=secret")
    assert caplog.messages == []


@each_logger
def test_everything_is_logged_outside(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with silent_http():
        pass
    logging.getLogger(name).info("somebody else's request")
    assert caplog.messages == ["somebody else's request"]


def test_other_loggers_are_not_touched(caplog: pytest.LogCaptureFixture) -> None:
    with silent_http():
        logging.getLogger("airflow.task").info("news")
    assert caplog.messages == ["news"]


def test_blocks_may_stand_in_each_other(caplog: pytest.LogCaptureFixture) -> None:
    with silent_http():
        with silent_http():
            pass
        logging.getLogger("httpx").info("still silent")
    assert caplog.messages == []


def test_exception_ends_the_silence(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="broken"), silent_http():
        raise ValueError("broken")
    logging.getLogger("httpx").info("heard")
    assert caplog.messages == ["heard"]


def test_other_threads_are_heard_meanwhile(caplog: pytest.LogCaptureFixture) -> None:
    with silent_http():
        thread = threading.Thread(target=lambda: logging.getLogger("httpx").info("from another thread"))
        thread.start()
        thread.join()
    assert caplog.messages == ["from another thread"]


def test_filter_survives_logging_that_is_configured_anew(caplog: pytest.LogCaptureFixture) -> None:
    with silent_http():
        pass
    logger = logging.getLogger("httpx")
    for log_filter in list(logger.filters):
        logger.removeFilter(log_filter)
    with silent_http():
        logger.info("secret")
    assert caplog.messages == []


def test_filters_do_not_pile_up() -> None:
    for _ in range(3):
        with silent_http():
            pass
    assert len(logging.getLogger("httpx").filters) == 1
