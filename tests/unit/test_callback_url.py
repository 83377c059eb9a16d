"""Webhook options of a connection, and the callback URL of a submission."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from airflow_provider_toapis.exceptions import ToAPIsRequestError
from airflow_provider_toapis.hooks import callback_url
from airflow_provider_toapis.hooks.callback_url import (
    DEFAULT_FALLBACK_INTERVAL,
    TaskCoordinates,
    WebhookOptions,
    callback_for,
    webhook_mode,
)
from airflow_provider_toapis.hooks.toapis import ToAPIsHook
from tests.airflow_task import FakeTaskInstance
from tests.airflow_versions import needs_airflow

TI = FakeTaskInstance(dag_id="shop é", task_id="group.video", run_id="manual__2026-01-01T00:00:00+00:00", map_index=3)


@pytest.fixture(autouse=True)
def _base_url(monkeypatch: pytest.MonkeyPatch) -> None:
    set_base_url(monkeypatch, "https://airflow.shop.example")


def set_base_url(monkeypatch: pytest.MonkeyPatch, base_url: str | None) -> None:
    monkeypatch.setattr(callback_url, "_base_url", lambda: base_url)


def url_for(**extra: Any) -> str:
    callback = callback_for(TI, "toapis_default", True, WebhookOptions.from_extra("toapis_default", extra))
    assert callback is not None
    return callback.url


class TestOptions:
    def test_empty_options_mean_no_webhooks(self) -> None:
        for extra in (
            {},
            {"webhook": None, "webhook_secret": "", "webhook_url": "", "webhook_poll_interval": None},
            "{",
        ):
            assert WebhookOptions.from_extra("c", extra) == WebhookOptions(False, None, 300.0, ())

    @pytest.mark.parametrize(
        ("given", "mode"),
        [(True, True), ("true", True), ("Auto", "auto"), ("auto", "auto"), (False, False), ("False", False)],
    )
    def test_webhook_option_sets_the_mode(self, given: object, mode: object) -> None:
        assert WebhookOptions.from_extra("c", {"webhook": given}).mode == mode

    @pytest.mark.parametrize(
        ("given", "secrets"),
        [
            ("a", ("a",)),
            (" a ", ("a",)),
            ("new,old", ("new", "old")),
            ("new, old", ("new", "old")),
            (["a", "b"], ("a", "b")),
        ],
    )
    def test_one_or_two_secrets_are_read(self, given: object, secrets: tuple[str, ...]) -> None:
        options = WebhookOptions.from_extra("c", {"webhook_secret": given})
        assert options.secrets == secrets
        assert "new" not in repr(options)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("webhook", "maybe"),
            ("webhook", 1),
            ("webhook_poll_interval", "often"),
            ("webhook_poll_interval", 0),
            ("webhook_poll_interval", "nan"),
            ("webhook_secret", "a,b,c"),
            ("webhook_secret", 12345),
            ("webhook_secret", ["a", 2]),
        ],
    )
    def test_invalid_option_is_rejected_by_name(self, field: str, value: object) -> None:
        with pytest.raises(ToAPIsRequestError, match=f"Connection 'c': Invalid {field}=") as rejected:
            WebhookOptions.from_extra("c", {field: value})
        assert "12345" not in str(rejected.value)

    def test_connection_deleted_after_submission_gives_default_interval(self) -> None:
        assert ToAPIsHook("deleted").fallback_interval(10.0) == DEFAULT_FALLBACK_INTERVAL

    def test_missing_mode_is_left_to_the_connection(self) -> None:
        assert webhook_mode(None) is None


@needs_airflow("3.0", "its API server receives the webhooks")
class TestUrl:
    def test_url_is_on_the_api_server_with_task_instance_coordinates(self) -> None:
        url = urlsplit(url_for())
        assert (url.scheme, url.netloc, url.path) == (
            "https",
            "airflow.shop.example",
            "/toapis/webhooks/toapis_default",
        )
        assert parse_qs(url.query) == {
            "dag_id": ["shop é"],
            "run_id": [TI.run_id],
            "task_id": ["group.video"],
            "map_index": ["3"],
        }

    def test_task_instance_coordinates_are_parsed_from_the_url(self) -> None:
        query = {name: values[0] for name, values in parse_qs(urlsplit(url_for()).query).items()}
        assert TaskCoordinates.parse(query) == TaskCoordinates.from_ti(TI)

    @pytest.mark.parametrize("missing", ["dag_id", "run_id", "task_id"])
    def test_incomplete_coordinates_are_ignored(self, missing: str) -> None:
        query = {"dag_id": "d", "run_id": "r", "task_id": "t"}
        assert TaskCoordinates.parse(query) == TaskCoordinates("d", "r", "t", -1)
        assert TaskCoordinates.parse(query | {missing: "a\nb"}) is None
        del query[missing]
        assert TaskCoordinates.parse(query) is None

    @pytest.mark.parametrize(
        ("base_url", "prefix"),
        [
            ("https://a.example", "https://a.example/toapis/webhooks/toapis_default?dag_id="),
            ("https://a.example/", "https://a.example/toapis/webhooks/toapis_default?dag_id="),
            ("https://a.example:8443/hooks/x", "https://a.example:8443/hooks/x?dag_id="),
            ("https://a.example/hooks?token=1", "https://a.example/hooks?token=1&dag_id="),
        ],
    )
    def test_webhook_url_of_the_connection_replaces_the_base_url(self, base_url: str, prefix: str) -> None:
        assert url_for(webhook_url=base_url).startswith(prefix)

    def test_base_url_with_a_path_is_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        set_base_url(monkeypatch, "https://shop.example/airflow/")
        assert url_for().startswith("https://shop.example/airflow/toapis/webhooks/toapis_default?")

    @pytest.mark.parametrize("base_url", ["http://localhost:8080", "http://127.0.0.1:1", "http://[::1]:9"])
    def test_plain_http_is_accepted_for_this_host(self, monkeypatch: pytest.MonkeyPatch, base_url: str) -> None:
        set_base_url(monkeypatch, base_url)
        assert url_for().startswith(base_url)

    @pytest.mark.parametrize(
        "base_url",
        [
            None,
            "",
            "http://shop.example",
            "ftp://localhost",
            "https://",
            "https://me@a.example",
            "https://a.example/#x",
            "https://[half-an-address",
        ],
    )
    def test_unreachable_base_url_is_rejected(
        self, monkeypatch: pytest.MonkeyPatch, base_url: str | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        set_base_url(monkeypatch, base_url)
        with pytest.raises(ToAPIsRequestError, match=r"\[api\] base_url="):
            url_for()
        assert callback_for(TI, "toapis_default", "auto", WebhookOptions()) is None
        assert "Submitting the video without a webhook." in caplog.text

    @pytest.mark.parametrize("conn_id", ["a/b", "..", "a b", "a.", "x" * 251, "é"])
    def test_connection_id_that_is_unsafe_in_a_path_is_rejected(self, conn_id: str) -> None:
        with pytest.raises(ToAPIsRequestError, match="toapis_conn_id="):
            callback_for(TI, conn_id, True, WebhookOptions())


class TestNoWebhook:
    def test_airflow_2_has_no_receiver(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(callback_url, "AIRFLOW_V_3_PLUS", False)
        with pytest.raises(ToAPIsRequestError, match="Airflow 3"):
            url_for()
        assert callback_for(TI, "toapis_default", "auto", WebhookOptions()) is None

    def test_disabled_webhook_gives_no_callback(self) -> None:
        assert callback_for(TI, "toapis_default", False, WebhookOptions(mode=True)) is None
