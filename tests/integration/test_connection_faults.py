"""Errors of wrong connections name the connection, the host and the fix within a minute."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from airflow_provider_toapis.exceptions import (
    ToAPIsAuthError,
    ToAPIsConnectionError,
    ToAPIsError,
    ToAPIsQuotaError,
    ToAPIsRequestError,
    ToAPIsServerError,
)
from airflow_provider_toapis.hooks import connection_test
from airflow_provider_toapis.hooks.toapis import ToAPIsHook
from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator
from tests.airflow_task import FakeTaskInstance
from tests.errors import rejects
from tests.integration.loopback_server import LoopbackServer

KEY = "sk-integration-0123456789abcdef"
#: Maximum seconds until a fault that is not retried is reported, even on a busy machine.
MAX_SECONDS = 8.0


class FixedResponse(BaseHTTPRequestHandler):
    """Sends the same response to every request, including those to a proxy."""

    status = 200
    body = b"{}"

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    do_CONNECT = do_POST = do_GET  # noqa: N815 - names of HTTP methods

    def log_message(self, *args: object) -> None:
        """Print nothing."""


def fixed_response(status: int, body: bytes = b"{}") -> LoopbackServer:
    return LoopbackServer(type("Handler", (FixedResponse,), {"status": status, "body": body}))


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Define the connection ``shop_videos`` and return its hook."""

    def connection(host: str, **extra: Any) -> ToAPIsHook:
        fields = {"conn_type": "toapis", "password": KEY, "host": host, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_SHOP_VIDEOS", json.dumps(fields))
        return ToAPIsHook("shop_videos")

    return connection


def failure(hook: ToAPIsHook, kind: type[ToAPIsError]) -> str:
    """Return the message of the error that a balance request raises within ``MAX_SECONDS``."""
    began = time.monotonic()
    with pytest.raises(kind) as failed:
        hook.get_balance()
    assert time.monotonic() - began < MAX_SECONDS
    assert failed.value.__cause__ is None
    assert KEY not in str(failed.value)
    return str(failed.value)


def certificate(directory: Path, address: str) -> ssl.SSLContext:
    """Return the TLS context of a host with a self-signed certificate for ``address``."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "toapis.test")])
    now = dt.datetime.now(dt.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = directory / "certificate.pem"
    file.write_bytes(
        signed.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


@contextmanager
def tls_host(context: ssl.SSLContext) -> Iterator[str]:
    """Complete TLS handshakes on a free port of 127.0.0.1 until the block ends."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:

        def serve() -> None:
            while True:
                try:
                    client, _ = listening.accept()
                    with client:
                        context.wrap_socket(client, server_side=True).close()
                except ssl.SSLError:
                    continue
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"


class TestCertificate:
    def test_untrusted_certificate_is_reported_immediately(self, connect: Any, tmp_path: Path) -> None:
        with tls_host(certificate(tmp_path, "127.0.0.1")) as host:
            message = failure(connect(host), ToAPIsConnectionError)
        for part in ("certificate", "self-signed", "verify", "'shop_videos'", host):
            assert part in message

    def test_certificate_for_another_name_is_reported_immediately(self, connect: Any, tmp_path: Path) -> None:
        with tls_host(certificate(tmp_path, "127.0.0.2")) as host:
            message = failure(connect(host, verify=str(tmp_path / "certificate.pem")), ToAPIsConnectionError)
        for part in ("certificate", "'shop_videos'", host):
            assert part in message

    def test_host_without_tls_is_reported_immediately(self, connect: Any) -> None:
        with fixed_response(200) as host:
            message = failure(connect(f"https://{host.address}"), ToAPIsConnectionError)
        for part in ("TLS", "scheme", "'shop_videos'", host.address):
            assert part in message

    async def test_untrusted_certificate_is_reported_on_an_event_loop(self, connect: Any, tmp_path: Path) -> None:
        with (
            tls_host(certificate(tmp_path, "127.0.0.1")) as host,
            pytest.raises(ToAPIsConnectionError, match="self-signed") as failed,
        ):
            await connect(host).aget_video("video_1")
        assert failed.value.lasting
        assert not failed.value.sent


class TestProxy:
    @pytest.mark.parametrize("target", ["https://toapis.test", "http://toapis.test"])
    def test_proxy_that_requires_a_password_is_reported_immediately(self, connect: Any, target: str) -> None:
        with fixed_response(407) as proxy:
            message = failure(connect(target, proxy=f"http://user:hush@{proxy.address}"), ToAPIsConnectionError)
        for part in ("proxy", "407", "password", "'shop_videos'", "toapis.test"):
            assert part in message
        assert "hush" not in message

    @pytest.mark.skipif(find_spec("socksio") is not None, reason="socksio is installed")
    @pytest.mark.parametrize("url", ["socks5://user:hush@localhost:1080", "socks5h://localhost:1080"])
    def test_socks_proxy_without_its_library_names_the_package_to_install(self, connect: Any, url: str) -> None:
        message = failure(connect("toapis.test", proxy=url), ToAPIsRequestError)
        assert 'pip install "httpx[socks]"' in message
        assert "'shop_videos'" in message
        assert "hush" not in message

    @pytest.mark.skipif(find_spec("socksio") is not None, reason="socksio is installed")
    async def test_socks_proxy_from_the_environment_is_rejected(
        self, connect: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ALL_PROXY", "socks5://localhost:1080")
        with rejects("proxy"):
            connect("toapis.test").get_balance()
        with rejects("proxy"):
            await connect("toapis.test").aget_video("video_1")


class TestInvalidName:
    @pytest.mark.parametrize("host", ["https://toapis..com", "https://xn--a.com", "https://☃☃.com"])
    def test_invalid_host_is_rejected_by_name(self, connect: Any, host: str) -> None:
        with rejects("host", host):
            connect(host).get_balance()
        connected, message = connect(host).test_connection()
        assert not connected
        assert host in message

    @pytest.mark.parametrize(("field", "value"), [("proxy", "http://proxy..lan:3128"), ("verify", "a\0b")])
    def test_invalid_proxy_and_ca_bundle_are_rejected_by_field(self, connect: Any, field: str, value: str) -> None:
        with rejects(field):
            connect("http://127.0.0.1:1", **{field: value}).get_balance()

    def test_invalid_proxy_from_the_environment_is_a_connection_error(
        self, connect: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ALL_PROXY", "http://proxy..lan:3128")
        with pytest.raises(ToAPIsConnectionError, match="'shop_videos'"):
            connect("http://toapis.test").get_video("video_1", retry_timeout=0)

    def test_test_button_reports_any_exception(self, connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connection_test, "ToAPIsClient", None)
        connected, message = connect("toapis.test").test_connection()
        assert not connected
        assert "TypeError" in message


class TestWrongService:
    @pytest.mark.parametrize(("status", "kind"), [(401, ToAPIsAuthError), (402, ToAPIsQuotaError)])
    def test_rejection_names_connection_and_host(self, connect: Any, status: int, kind: type[ToAPIsError]) -> None:
        with fixed_response(status, b'{"error": {"message": "no"}}') as host:
            message = failure(connect(host.url), kind)
        assert "connection 'shop_videos'" in message
        assert host.address in message

    @pytest.mark.parametrize("body", [b"<html>hello</html>", b'{"hello": "world"}'])
    def test_response_of_another_service_names_connection_and_host(self, connect: Any, body: bytes) -> None:
        with fixed_response(200, body) as host:
            message = failure(connect(host.url), ToAPIsServerError)
        for part in ("'shop_videos'", host.address):
            assert part in message

    @pytest.mark.parametrize(
        ("status", "body"),
        [
            *((status, b'{"hello": "world"}') for status in (200, 401, 402, 404, 405, 407)),
            *((status, b"<html>") for status in (200, 400, 501)),
            (200, b'{"status": "ok"}'),
            (204, b""),
        ],
    )
    def test_operator_names_connection_and_host_within_a_minute(self, connect: Any, status: int, body: bytes) -> None:
        with fixed_response(status, body) as host:
            connect(host.url)
            operator = ToAPIsSubmitVideoOperator(
                task_id="video", prompt="A shoe", image="https://a.example/a.jpg", toapis_conn_id="shop_videos"
            )
            began = time.monotonic()
            with pytest.raises(ToAPIsError) as failed:
                operator.execute(FakeTaskInstance().context)
        assert time.monotonic() - began < 2 * MAX_SECONDS
        assert f"(connection 'shop_videos', host {host.address})" in str(failed.value)


class TestTestButton:
    @pytest.mark.parametrize("slow_body", [False, True])
    def test_test_button_ends_in_time(self, connect: Any, monkeypatch: pytest.MonkeyPatch, slow_body: bool) -> None:
        monkeypatch.setattr(connection_test.balance_in_time, "__defaults__", (0.5,))
        ended = threading.Event()
        with closing(socket.create_server(("127.0.0.1", 0))) as listening:

            def send_slowly() -> None:
                client, _ = listening.accept()
                with client:
                    client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                    while not ended.wait(0.05):
                        client.sendall(b" ")

            if slow_body:
                threading.Thread(target=send_slowly, daemon=True).start()
            began = time.monotonic()
            connected, message = connect(f"http://127.0.0.1:{listening.getsockname()[1]}").test_connection()
            took = time.monotonic() - began
            ended.set()
        assert not connected
        assert took < MAX_SECONDS
        assert "127.0.0.1" in message

    def test_time_limit_is_far_below_airflows(self) -> None:
        assert connection_test.LIMIT <= 10

    def test_refused_connection_is_reported_immediately(self, connect: Any) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            began = time.monotonic()
            connected, message = connect(f"http://127.0.0.1:{unused.getsockname()[1]}").test_connection()
        assert time.monotonic() - began < MAX_SECONDS
        assert not connected
        assert "127.0.0.1" in message

    @pytest.mark.parametrize(
        ("status", "body"),
        [(200, b"<html>"), (200, b"{}"), (204, b""), (404, b"{}"), (501, b"<html>"), (404, b"<html>")],
    )
    def test_response_of_another_service_is_reported(self, connect: Any, status: int, body: bytes) -> None:
        with fixed_response(status, body) as host:
            began = time.monotonic()
            connected, message = connect(host.url).test_connection()
        assert time.monotonic() - began < MAX_SECONDS
        assert not connected
        assert f"host {host.address}" in message
