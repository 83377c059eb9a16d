"""What httpx is given, and what its errors mean: certificates, proxies, addresses."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, TypeVar

import httpx

from airflow_provider_toapis.api.settings import ClientSettings
from airflow_provider_toapis.exceptions import ToAPIsConnectionError, ToAPIsRequestError

T = TypeVar("T")

#: Failures before a byte of the request can have left.
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)
_PROXY_STATUS = re.compile(r"(?P<status>\d{3})\b", re.ASCII)
#: What a proxy says while it is asked in the wrong way, or for what it does not allow.
_REJECTED_BY_PROXY = {"403": "it does not allow this host", "407": "it requires a user name and a password"}
#: OpenSSL's numbers of a certificate that is for another name or address.
_OTHER_NAME = (62, 64)


def opened(client: Callable[..., T], settings: ClientSettings, **options: Any) -> T:  # noqa: ANN401
    """Make a client of httpx that goes by the connection's certificates and proxy.

    :raises ToAPIsRequestError: Host, certificates or proxy cannot be used, or httpx as it is installed cannot use them.
    """
    try:
        _require_host(settings.base_url)
        return _opened(client, verify=verification(settings.verify), proxy=proxy(settings.proxy), **options)
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


def _opened(client: Callable[..., T], **options: Any) -> T:  # noqa: ANN401
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
    """Return what certificates are checked with; made once, because it reads all of them and takes tens of ms.

    :raises ToAPIsRequestError: There is no CA bundle at its path.
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
    """Return the proxy of a connection.

    :raises ToAPIsRequestError: Its URL cannot be used.
    """
    if not url:
        return None
    try:
        given = httpx.Proxy(url)
        _check_host(given.url)
    except (ValueError, TypeError, httpx.InvalidURL):
        # Neither the value nor httpx's text about it is shown: a malformed URL still holds the proxy's password.
        raise ToAPIsRequestError.for_field("proxy", "***", "must be the http(s) URL of a proxy") from None
    return given


def connection_error(asked: str, error: Exception, via: str) -> ToAPIsConnectionError:
    """Return what an error of httpx or of a host name means. Its text may hold a URL, and is not shown.

    :param asked: What was asked, for the message.
    :param via: The connection and its host, for the message, in brackets.
    """
    kind = type(error).__name__
    if isinstance(error, (ValueError, httpx.InvalidURL)):
        return ToAPIsConnectionError(
            f"{asked} was not answered: a host name cannot be used ({kind}). Check host and proxy{via}."
        )
    if not isinstance(error, _NOT_SENT):
        return ToAPIsConnectionError(f"{asked} was not answered ({kind}).")
    wrong, advice, lasting = _explained(error)
    return ToAPIsConnectionError(
        f"{asked} could not be reached ({kind}), and nothing was sent. {wrong}"
        f"{'C' if lasting else 'If it stays so, c'}heck {advice}{via}.",
        sent=False,
        lasting=lasting,
    )


def _explained(error: Exception) -> tuple[str, str, bool]:
    """Return what is wrong, what to check, and whether it lasts."""
    cause: BaseException
    for cause in _chain(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            if cause.verify_code in _OTHER_NAME:
                return f"The certificate is for another name ({cause.verify_message}). ", "host and proxy", True
            wrong = f"The certificate is not trusted ({cause.verify_message}). Where a CA of your own signed it, set"
            return f"{wrong} verify to the path of its CA bundle. ", "verify, host and proxy", True
        if isinstance(cause, ssl.SSLError):
            return "The host does not answer in TLS, as https requires. ", "scheme (http or https) and port", True
        if isinstance(cause, socket.gaierror):
            return "The host's name is not known (DNS). ", "host and proxy", False
    status = _PROXY_STATUS.match(str(error)) if isinstance(error, httpx.ProxyError) else None
    if status is None:
        return "", "host, port and proxy", False
    reason = _REJECTED_BY_PROXY.get(status["status"])
    return f"The proxy answered {status['status']}{f': {reason}' if reason else ''}. ", "proxy", reason is not None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
