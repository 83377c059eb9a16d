"""Create httpx clients with a connection's certificates and proxy, and translate httpx's errors."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, TypeVar

import httpx

from airflow_provider_toapis.api.settings import ClientSettings
from airflow_provider_toapis.api.transport import (
    limited,
    redirects_checked,
)
from airflow_provider_toapis.exceptions import ToAPIsConnectionError, ToAPIsRequestError

T = TypeVar("T")
#: Errors of httpx that occur before any byte of the request is sent.
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)
_PROXY_STATUS = re.compile(r"(?P<status>\d{3})\b", re.ASCII)
#: Statuses with which a proxy rejects a request, and the reasons.
_REJECTED_BY_PROXY = {"403": "it does not allow this host", "407": "it requires a user name and a password"}
#: OpenSSL's error numbers for a certificate that is for another host name or IP address.
_OTHER_NAME = (62, 64)
#: Sent with all requests, because the service is behind a filter that rejects the default User-Agent of some HTTP
#: libraries.
USER_AGENT = "airflow-provider-toapis"
#: Maximum number of redirects that are followed for a file.
MAX_REDIRECTS = 5


def create_client(client: Callable[..., T], settings: ClientSettings, **options: Any) -> T:  # noqa: ANN401
    """Create an httpx client that uses the connection's certificates and proxy.

    :param client: ``httpx.Client`` or ``httpx.AsyncClient``.
    :raises ToAPIsRequestError: The host, the CA bundle or the proxy is invalid, or httpx's extra for SOCKS proxies
        is not installed.
    """
    try:
        _require_host(settings.base_url)
        return _created(client, verify=verification(settings.verify), proxy=proxy(settings.proxy), **options)
    except ToAPIsRequestError as error:
        error.amend(after=settings.via)
        raise


def _require_host(base_url: str) -> None:
    try:
        _check_host(httpx.URL(base_url))
    except (httpx.InvalidURL, UnicodeError):
        raise ToAPIsRequestError.for_field("host", base_url, "must be a valid host name") from None


def _check_host(url: httpx.URL) -> None:
    """Raise UnicodeError for a host that httpx cannot decode or a socket cannot encode."""
    url.host.encode()
    url.raw_host.decode("ascii").encode("idna")


def _created(client: Callable[..., T], **options: Any) -> T:  # noqa: ANN401
    try:
        return client(**options)
    except ImportError:
        reason = 'SOCKS proxies require an extra: pip install "httpx[socks]"'
        raise ToAPIsRequestError.for_field("proxy", "socks5://***", reason) from None
    except (ValueError, httpx.InvalidURL):
        reason = "must be an http(s) URL. The invalid value is in HTTPS_PROXY, HTTP_PROXY or ALL_PROXY"
        raise ToAPIsRequestError.for_field("proxy", "***", reason) from None


@cache
def verification(verify: bool | str) -> bool | ssl.SSLContext:
    """Return httpx's ``verify`` argument. Cached, because loading the certificates takes tens of milliseconds.

    :raises ToAPIsRequestError: The CA bundle cannot be read.
    """
    if not verify:
        return False
    if verify is True:
        return httpx.create_ssl_context()
    try:
        return ssl.create_default_context(cafile=verify)
    except (OSError, ValueError):
        raise ToAPIsRequestError.for_field(
            "verify", verify, "must be true, false, or the path of a CA bundle"
        ) from None


def proxy(url: str | None) -> httpx.Proxy | None:
    """Return the proxy of a connection; None if it has none.

    :raises ToAPIsRequestError: The URL is invalid.
    """
    if not url:
        return None
    try:
        parsed = httpx.Proxy(url)
        _check_host(parsed.url)
    except (ValueError, TypeError, httpx.InvalidURL):
        # The message shows neither the value nor httpx's text, because a malformed URL can contain the proxy's
        # password.
        raise ToAPIsRequestError.for_field("proxy", "***", "must be the http(s) URL of a proxy") from None
    return parsed


def connection_error(request_label: str, error: Exception, via: str) -> ToAPIsConnectionError:
    """Return the error to raise for an error of httpx, or for a host name that cannot be encoded.

    The message does not contain the text of ``error``, which can contain a URL.

    :param request_label: Name of the request, for the message.
    :param via: The connection and its host in parentheses, for the message.
    """
    kind = type(error).__name__
    if isinstance(error, (ValueError, httpx.InvalidURL)):
        return ToAPIsConnectionError(
            f"{request_label} got no response: a host name is invalid ({kind}). Check host and proxy{via}."
        )
    if not isinstance(error, _NOT_SENT):
        return ToAPIsConnectionError(f"{request_label} got no response ({kind}).")
    wrong, advice, lasting = _explained(error)
    return ToAPIsConnectionError(
        f"{request_label} could not be sent ({kind}). {wrong}"
        f"{'C' if lasting else 'If the error persists, c'}heck {advice}{via}.",
        sent=False,
        lasting=lasting,
    )


def _explained(error: Exception) -> tuple[str, str, bool]:
    """Return the cause of an error of httpx, what to check, and whether a retry is unlikely to help."""
    cause: BaseException
    for cause in _chain(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            if cause.verify_code in _OTHER_NAME:
                return f"The certificate is for another name ({cause.verify_message}). ", "host and proxy", True
            wrong = f"The certificate is not trusted ({cause.verify_message}). If your own CA signed it, set"
            return f"{wrong} verify to the path of its CA bundle. ", "verify, host and proxy", True
        if isinstance(cause, ssl.SSLError):
            return "The TLS handshake failed: the host may not use https. ", "scheme (http or https) and port", True
        if isinstance(cause, socket.gaierror):
            return "The host name cannot be resolved (DNS). ", "host and proxy", False
    status = _PROXY_STATUS.match(str(error)) if isinstance(error, httpx.ProxyError) else None
    if status is None:
        return "", "host, port and proxy", False
    reason = _REJECTED_BY_PROXY.get(status["status"])
    return (
        f"The proxy responded with {status['status']}{f': {reason}' if reason else ''}. ",
        "proxy",
        reason is not None,
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def http_options(settings: ClientSettings) -> dict[str, Any]:
    """Return the options that all clients share."""
    return {
        "timeout": settings.timeout,
        # Request no content encoding: an encoded file would have another length and hash, and an encoded response could
        # be a decompression bomb.
        "headers": {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
    }


def file_client(settings: ClientSettings) -> httpx.Client:
    """Return a client for files, which does not send the API key.

    Result files are public and need no key. Their host can redirect to any other host, which must not get the key.
    """
    # A URL can contain a user name and a password. If `auth` is set, httpx does not send them.
    client = create_client(
        httpx.Client,
        settings,
        **http_options(settings),
        auth=httpx.Auth(),
        max_redirects=MAX_REDIRECTS,
        event_hooks={"response": [redirects_checked(httpx.URL(settings.base_url).host)]},
    )
    return limited(client)


def api_options(settings: ClientSettings) -> Mapping[str, Any]:
    """Return the options of a client that sends the API key."""
    # Redirects are not followed, so that the key is sent to the API's host only.
    return {"base_url": settings.base_url, "auth": _BearerAuth(settings.api_key), "follow_redirects": False}


class _BearerAuth(httpx.Auth):
    def __init__(self, api_key: str) -> None:
        self._header = f"Bearer {api_key}"

    def auth_flow(self, request: httpx.Request) -> Any:  # noqa: ANN401
        request.headers["Authorization"] = self._header
        yield request
