"""Settings from an Airflow connection: every valid form, and every invalid value."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, Connection
from airflow.secrets.environment_variables import EnvironmentVariablesBackend

from airflow_provider_toapis.api.settings import ClientSettings
from airflow_provider_toapis.exceptions import ToAPIsAuthError, ToAPIsConnectionError, ToAPIsError, ToAPIsRequestError
from airflow_provider_toapis.hooks.connection import settings_of
from airflow_provider_toapis.hooks.toapis import ToAPIsHook
from tests.errors import rejects

KEY = "sk-unit-0123456789abcdef"
NUMBER_FIELDS = ("timeout", "query_rate", "submit_rate")


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Define the connection ``toapis_default`` and return its hook."""

    def connection(**fields: Any) -> ToAPIsHook:
        fields = {"conn_type": "toapis", "password": KEY} | fields
        monkeypatch.setenv("AIRFLOW_CONN_TOAPIS_DEFAULT", json.dumps(fields))
        return ToAPIsHook()

    return connection


def rejection(hook: ToAPIsHook, error_class: type[ToAPIsError] = ToAPIsRequestError) -> str:
    """Return the error message for the connection. It must be the same with and without an event loop."""
    with pytest.raises(error_class) as rejected:
        hook.settings()
    assert isinstance(rejected.value, AirflowFailException)
    with pytest.raises(error_class) as rejected_on_a_loop:
        asyncio.run(hook.async_settings())
    assert str(rejected_on_a_loop.value) == str(rejected.value)
    return str(rejected.value)


class TestBaseUrl:
    @pytest.mark.parametrize(
        ("host", "port", "base_url"),
        [
            (None, None, "https://toapis.com"),
            ("", None, "https://toapis.com"),
            ("toapis.com", None, "https://toapis.com"),
            ("https://toapis.com", None, "https://toapis.com"),
            ("https://toapis.com/", None, "https://toapis.com"),
            ("https://toapis.com/v1", None, "https://toapis.com"),
            ("https://toapis.com/v1/", None, "https://toapis.com"),
            ("toapis.cn/v1", None, "https://toapis.cn"),
            (" https://toapis.cn ", None, "https://toapis.cn"),
            ("toapis.com", 8443, "https://toapis.com:8443"),
            ("toapis.com/v1", 8443, "https://toapis.com:8443"),
            ("http://localhost", 8790, "http://localhost:8790"),
            ("http://localhost/", 8790, "http://localhost:8790"),
            ("http://localhost:8790", None, "http://localhost:8790"),
            ("localhost:8790", None, "https://localhost:8790"),
            ("http://[::1]:8790", None, "http://[::1]:8790"),
            ("::1", None, "https://[::1]"),
            ("https://gateway.example/toapis/v1/", None, "https://gateway.example/toapis"),
            ("http://gateway.example/toapis", 81, "http://gateway.example:81/toapis"),
        ],
    )
    def test_host_is_accepted_in_every_form(
        self, connect: Any, host: str | None, port: int | None, base_url: str
    ) -> None:
        assert connect(host=host, port=port).settings().base_url == base_url

    @pytest.mark.parametrize(
        "host",
        [
            "ftp://toapis.com",
            "https://user:secret@toapis.com",
            "toapis.com:99999",
            "toapis.com:port",
            "http://",
            "[::1",
            "toapis .com",
        ],
    )
    def test_invalid_host_is_rejected_by_name(self, connect: Any, host: str) -> None:
        message = rejection(connect(host=host))
        assert "'toapis_default'" in message
        assert "host=" in message
        assert "http(s) URL" in message
        assert "secret" not in message

    def test_port_that_contradicts_the_host_is_rejected(self, connect: Any) -> None:
        message = rejection(connect(host="toapis.com:1", port=2))
        assert "port=2" in message
        assert "must be 1, as in the host" in message

    @pytest.mark.parametrize("host", ["toapis.com:8443", "https://toapis.com:8443/v1", "https://toapis.com:8443"])
    def test_same_port_in_host_and_port_field_is_accepted(self, connect: Any, host: str) -> None:
        assert connect(host=host, port=8443).settings().base_url == "https://toapis.com:8443"

    def test_port_of_an_ipv6_host_is_recognized(self, connect: Any) -> None:
        assert connect(host="http://[::1]", port=8790).settings().base_url == "http://[::1]:8790"
        assert connect(host="http://[::1]:8790", port=8790).settings().base_url == "http://[::1]:8790"

    @pytest.mark.parametrize(
        ("uri", "base_url"),
        [
            (f"http://:{KEY}@localhost:8790", "http://localhost:8790"),
            (f"http://:{KEY}@localhost:8790/https", "https://localhost:8790"),
            (f"http://:{KEY}@gateway.example:443", "https://gateway.example:443"),
            (f"http://:{KEY}@toapis.com", "https://toapis.com"),
            (f"toapis://:{KEY}@gateway.example:8443", "https://gateway.example:8443"),
            (f"http://:{KEY}@[::1]:8080", "http://[::1]:8080"),
            (f"toapis://:{KEY}@[::1]:8080", "https://[::1]:8080"),
            (f"toapis://:{KEY}@[2001:db8::1]", "https://[2001:db8::1]"),
        ],
    )
    def test_connection_uri_sets_scheme_host_and_port(
        self, monkeypatch: pytest.MonkeyPatch, uri: str, base_url: str
    ) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_TOAPIS_DEFAULT", uri)
        settings = ToAPIsHook().settings()
        assert (settings.base_url, settings.api_key) == (base_url, KEY)

    def test_settings_name_connection_and_host_for_messages(self, connect: Any) -> None:
        settings = connect(host="gateway.example", port=8443).settings()
        assert settings.via == " (connection 'toapis_default', host gateway.example:8443)"


class TestHttpConnection:
    def test_connection_of_type_http_is_accepted(self, connect: Any) -> None:
        settings = connect(conn_type="http", host="toapis.example").settings()
        assert (settings.base_url, settings.api_key) == ("https://toapis.example", KEY)

    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_schema_field_is_the_scheme(self, connect: Any, scheme: str) -> None:
        hook = connect(conn_type="http", host="localhost", schema=scheme, port=8790)
        assert hook.settings().base_url == f"{scheme}://localhost:8790"

    def test_scheme_in_the_host_overrides_the_schema_field(self, connect: Any) -> None:
        hook = connect(conn_type="http", host="http://localhost", schema="https")
        assert hook.settings().base_url == "http://localhost"

    def test_http_connection_uri_is_accepted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_MY_HTTP", f"http://:{KEY}@localhost:8790/http")
        settings = ToAPIsHook("my_http").settings()
        assert (settings.base_url, settings.api_key) == ("http://localhost:8790", KEY)


class TestExtra:
    def test_missing_fields_have_defaults(self, connect: Any) -> None:
        assert connect().settings() == ClientSettings(
            api_key=KEY,
            base_url="https://toapis.com",
            timeout=30.0,
            verify=True,
            proxy=None,
            namespace="",
            query_rate=40.0,
            submit_rate=5.0,
        )

    @pytest.mark.parametrize("field", NUMBER_FIELDS)
    @pytest.mark.parametrize("value", [5, 5.0, "5", "5.0"])
    def test_numbers_are_accepted_as_text(self, connect: Any, field: str, value: object) -> None:
        assert getattr(connect(extra={field: value}).settings(), field) == 5.0

    @pytest.mark.parametrize("empty", ["", None])
    def test_empty_form_fields_have_defaults(self, connect: Any, empty: object) -> None:
        extra = dict.fromkeys((*NUMBER_FIELDS, "verify", "proxy", "namespace"), empty)
        assert connect(extra=extra).settings() == connect().settings()

    @pytest.mark.parametrize("field", NUMBER_FIELDS)
    @pytest.mark.parametrize(
        ("value", "shown"),
        [
            (0, "0.0"),
            (-1, "-1.0"),
            ("-0.5", "-0.5"),
            ("nan", "nan"),
            ("inf", "inf"),
            ("1e400", "inf"),
            ("soon", "'soon'"),
            ([5], "[5]"),
            (True, "True"),
        ],
    )
    def test_invalid_number_is_rejected_with_field_and_value(
        self, connect: Any, field: str, value: object, shown: str
    ) -> None:
        message = rejection(connect(extra={field: value}))
        assert message.startswith(f"Connection 'toapis_default': Invalid {field}={shown}: must be a positive number")

    @pytest.mark.parametrize(
        ("given", "verify"),
        [(True, True), (False, False), ("true", True), ("False", False), ("/etc/ca.pem", "/etc/ca.pem")],
    )
    def test_verify_is_a_boolean_or_a_ca_bundle(self, connect: Any, given: object, verify: object) -> None:
        assert connect(extra={"verify": given}).settings().verify == verify

    def test_missing_ca_bundle_is_rejected_by_name(self, connect: Any) -> None:
        hook = connect(extra={"verify": "/no/such/bundle.pem"})
        with rejects("verify", "/no/such/bundle.pem"), hook.client():
            pass

    @pytest.mark.parametrize("proxy", ["nonsense", "user:secret@proxy:3128", "ftp://user:secret@proxy:3128", 5])
    def test_invalid_proxy_is_rejected_by_name_without_its_password(self, connect: Any, proxy: object) -> None:
        hook = connect(extra={"proxy": proxy})
        with rejects("proxy") as rejected, hook.client():
            pass
        assert "secret" not in str(rejected.value)

    def test_extra_that_is_not_an_object_is_rejected_by_name(self) -> None:
        # Some Airflow versions do not find a connection with such an extra in the environment.
        with rejects("extra", "list") as rejected:
            settings_of("shop", Connection(conn_id="shop", conn_type="toapis", password=KEY), [1])
        assert "'shop'" in str(rejected.value)

    def test_namespace_is_read(self, connect: Any) -> None:
        assert connect(extra={"namespace": "staging"}).settings().namespace == "staging"


class TestKey:
    @pytest.mark.parametrize("password", [None, "", "  "])
    def test_missing_key_is_rejected_with_the_field_to_set(self, connect: Any, password: str | None) -> None:
        message = rejection(connect(password=password), ToAPIsAuthError)
        assert "'toapis_default'" in message
        assert "password" in message

    @pytest.mark.parametrize("password", ["sk-a\nb", "sk-\u00fc", "sk-a\x00b"])
    def test_key_that_is_invalid_in_a_header_is_rejected_and_not_shown(self, connect: Any, password: str) -> None:
        assert password not in rejection(connect(password=password), ToAPIsAuthError)

    def test_whitespace_around_a_key_is_removed(self, connect: Any) -> None:
        assert connect(password=f" {KEY}\n").settings().api_key == KEY

    def test_repr_shows_no_key_and_no_proxy_password(self, connect: Any) -> None:
        settings = connect(extra={"proxy": "http://user:secret@proxy:3128"}).settings()
        assert KEY not in repr(settings)
        assert "secret" not in repr(settings)


class TestMissingConnection:
    """Airflow raises the same error if a secrets backend or its database does not respond."""

    @pytest.mark.parametrize(
        "read",
        [
            ToAPIsHook.settings,
            ToAPIsHook.webhook_options,
            ToAPIsHook.get_balance,
            lambda hook: asyncio.run(hook.async_settings()),
        ],
        ids=["settings", "webhook options", "request", "event loop"],
    )
    def test_missing_connection_error_is_retryable_and_names_the_fix(
        self, read: Callable[[ToAPIsHook], object]
    ) -> None:
        with rejects("toapis_conn_id", "nowhere", error=ToAPIsConnectionError) as error:
            read(ToAPIsHook("nowhere"))
        for advice in ("retry", "'toapis'", "password"):
            assert advice in str(error.value)
        assert not isinstance(error.value, AirflowFailException)
        assert not error.value.sent

    def test_failed_secrets_backend_error_is_retryable(self, connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail_read(*_: object, **__: object) -> None:
            raise OSError("the secrets backend does not respond")

        hook = connect()
        monkeypatch.setattr(EnvironmentVariablesBackend, "get_conn_value", fail_read)
        with rejects("toapis_conn_id", "toapis_default", error=ToAPIsConnectionError):
            hook.settings()

    def test_test_connection_reports_missing_connection(self) -> None:
        assert ToAPIsHook("nowhere").test_connection()[0] is False

    def test_rotated_key_is_read_each_time(self, connect: Any) -> None:
        hook = connect()
        connect(password="sk-rotated-0123456789")
        assert hook.settings().api_key == "sk-rotated-0123456789"
        assert asyncio.run(hook.async_settings()).api_key == "sk-rotated-0123456789"


async def test_trigger_in_dag_test_finds_a_database_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    task_runner = pytest.importorskip("airflow.sdk.execution_time.task_runner", reason="Airflow 2 has no supervisor")
    comms = pytest.importorskip("airflow.sdk.execution_time.comms")

    class DagTestSupervisor:
        """Responds immediately, and cannot be awaited."""

        def send(self, message: Any) -> Any:
            if isinstance(message, comms.GetConnection):
                empty = dict.fromkeys(("host", "schema", "login", "port", "extra"))
                fields = {"conn_id": message.conn_id, "conn_type": "toapis", "password": "sk-of-dag-test", **empty}
                return comms.ConnectionResult.model_validate(fields)
            return None

    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", DagTestSupervisor(), raising=False)
    settings = await ToAPIsHook("toapis_of_dag_test").async_settings()
    assert settings.api_key == "sk-of-dag-test"
