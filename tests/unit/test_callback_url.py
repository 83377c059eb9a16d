"""What a connection says about webhooks, and the address that an order names."""

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
def _airflow_at(monkeypatch: pytest.MonkeyPatch) -> None:
    base_url_is(monkeypatch, "https://airflow.shop.example")


def base_url_is(monkeypatch: pytest.MonkeyPatch, address: str | None) -> None:
    monkeypatch.setattr(callback_url, "_base_url", lambda: address)


def url_for(**extra: Any) -> str:
    callback = callback_for(TI, "toapis_default", True, WebhookOptions.from_extra("toapis_default", extra))
    assert callback is not None
    return callback.url


class TestOptions:
    def test_nothing_said_means_no_webhooks(self) -> None:
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
    def test_modes(self, given: object, mode: object) -> None:
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
    def test_one_secret_or_two(self, given: object, secrets: tuple[str, ...]) -> None:
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
    def test_what_cannot_be_used_is_named(self, field: str, value: object) -> None:
        with pytest.raises(ToAPIsRequestError, match=f"Connection 'c': Invalid {field}=") as refused:
            WebhookOptions.from_extra("c", {field: value})
        assert "12345" not in str(refused.value)

    def test_connection_that_is_deleted_after_the_submission_gives_the_default_interval(self) -> None:
        assert ToAPIsHook("deleted").fallback_interval(10.0) == DEFAULT_FALLBACK_INTERVAL

    def test_mode_that_is_not_said_is_left_to_the_connection(self) -> None:
        assert webhook_mode(None) is None


@needs_airflow("3.0", "its API server receives the webhooks")
class TestAddress:
    def test_it_is_below_the_api_server_and_says_where_the_task_stands(self) -> None:
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

    def test_place_can_be_read_back(self) -> None:
        query = {name: values[0] for name, values in parse_qs(urlsplit(url_for()).query).items()}
        assert TaskCoordinates.parse(query) == TaskCoordinates.from_ti(TI)

    @pytest.mark.parametrize("missing", ["dag_id", "run_id", "task_id"])
    def test_incomplete_place_is_none(self, missing: str) -> None:
        query = {"dag_id": "d", "run_id": "r", "task_id": "t"}
        assert TaskCoordinates.parse(query) == TaskCoordinates("d", "r", "t", -1)
        assert TaskCoordinates.parse(query | {missing: "a\nb"}) is None
        del query[missing]
        assert TaskCoordinates.parse(query) is None

    @pytest.mark.parametrize(
        ("address", "begins"),
        [
            ("https://a.example", "https://a.example/toapis/webhooks/toapis_default?dag_id="),
            ("https://a.example/", "https://a.example/toapis/webhooks/toapis_default?dag_id="),
            ("https://a.example:8443/hooks/x", "https://a.example:8443/hooks/x?dag_id="),
            ("https://a.example/hooks?token=1", "https://a.example/hooks?token=1&dag_id="),
        ],
    )
    def test_connection_may_name_another_one(self, address: str, begins: str) -> None:
        assert url_for(webhook_url=address).startswith(begins)

    def test_base_url_may_have_a_path(self, monkeypatch: pytest.MonkeyPatch) -> None:
        base_url_is(monkeypatch, "https://shop.example/airflow/")
        assert url_for().startswith("https://shop.example/airflow/toapis/webhooks/toapis_default?")

    @pytest.mark.parametrize("address", ["http://localhost:8080", "http://127.0.0.1:1", "http://[::1]:9"])
    def test_plain_http_is_for_this_machine(self, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
        base_url_is(monkeypatch, address)
        assert url_for().startswith(address)

    @pytest.mark.parametrize(
        "address",
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
    def test_address_that_the_service_cannot_use_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, address: str | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        base_url_is(monkeypatch, address)
        with pytest.raises(ToAPIsRequestError, match=r"\[api\] base_url="):
            url_for()
        assert callback_for(TI, "toapis_default", "auto", WebhookOptions()) is None
        assert "Submitting the video without a webhook." in caplog.text

    @pytest.mark.parametrize("conn_id", ["a/b", "..", "a b", "a.", "x" * 251, "é"])
    def test_connection_id_that_a_path_would_change_is_refused(self, conn_id: str) -> None:
        with pytest.raises(ToAPIsRequestError, match="toapis_conn_id="):
            callback_for(TI, conn_id, True, WebhookOptions())


class TestNoWebhook:
    def test_airflow_2_has_no_receiver(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(callback_url, "AIRFLOW_V_3_PLUS", False)
        with pytest.raises(ToAPIsRequestError, match="Airflow 3"):
            url_for()
        assert callback_for(TI, "toapis_default", "auto", WebhookOptions()) is None

    def test_off_is_off(self) -> None:
        assert callback_for(TI, "toapis_default", False, WebhookOptions(mode=True)) is None
