"""Redact API keys, URL signatures and data URIs in messages and logs, and recognize presigned URLs."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

log = logging.getLogger(__name__)

_URL_SECRETS = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*://)(?:[^\s/@'\"<>]*@)?(?P<rest>[^\s?#'\"<>]*)(?:[?#][^\s'\"<>]*)?", re.I
)
#: Signature parameters, also in a URL without scheme and host.
_SIGNATURE = re.compile(
    r"\b(?P<name>x-(?:amz|goog|oss|tos|cos|obs)-(?:credential|signature|security-token)"
    r"|(?:q-)?signature|sig|(?:security-)?token)=[^\s&'\"<>]+",
    re.I,
)
_DATA_URI = re.compile(r"(?P<head>\bdata:[\w/+.;=-]*,)[^\s'\"<>]+", re.I)
_API_KEY = re.compile(r"\bsk-[A-Za-z0-9_-]{8,}")
_BEARER = re.compile(r"\bbearer\s+\S+", re.I)

#: Maximum characters of a shown value: enough for a path or a sentence, but not for a pasted base64 image.
MAX_SHOWN_LENGTH = 200


def redacted(text: object, max_length: int = MAX_SHOWN_LENGTH) -> str:
    """Return ``text`` without credentials and query strings of URLs, cut at ``max_length`` characters."""
    shown = _URL_SECRETS.sub(lambda match: match["scheme"] + match["rest"], str(text)[: max_length * 20])
    shown = _DATA_URI.sub(r"\g<head>***", _SIGNATURE.sub(r"\g<name>=***", shown))
    shown = _API_KEY.sub("sk-***", _BEARER.sub("Bearer ***", shown))
    return shown if len(shown) <= max_length else f"{shown[:max_length]}..."


@dataclass(frozen=True)
class _Family:
    """A method of presigning URLs, such as that of Amazon S3.

    A URL is presigned by this method only if it has all parameters in ``marks``. If it has only some of them, they are
    ordinary parameters that stay in the URL.

    :param marks: Parameters that are always present, in lower case.
    :param others: Further parameters of the signature.
    :param prefix: All parameters with this prefix belong to the signature too.
    :param values: Patterns for the values of marks whose names are ordinary words.
    :param path: Pattern that the URL's path must match, if the marks are not sufficient.
    """

    marks: frozenset[str]
    others: frozenset[str] = frozenset()
    prefix: str | None = None
    values: Mapping[str, re.Pattern[str]] = field(default_factory=dict)
    path: re.Pattern[str] | None = None

    def matches(self, path: str, parameters: Mapping[str, str]) -> bool:
        return (
            parameters.keys() >= self.marks
            and all(pattern.fullmatch(parameters[name]) for name, pattern in self.values.items())
            and (self.path is None or self.path.match(path) is not None)
        )

    def includes(self, name: str) -> bool:
        return name in self.marks or name in self.others or (self.prefix is not None and name.startswith(self.prefix))


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Minimum characters of a signature or token. Shorter values, such as a date or "900", are not treated as secrets,
#: because they can occur in any text.
_MIN_SECRET_LENGTH = 20
_SECRET = re.compile(rf"[\w.~:/+=-]{{{_MIN_SECRET_LENGTH},}}")
_EPOCH_SECONDS = re.compile(r"[0-9]{9,11}")
_FAMILIES = (
    # Amazon S3, version 4.
    _Family(_names("x-amz-algorithm x-amz-credential x-amz-signature"), prefix="x-amz-"),
    # Amazon S3, version 2, the default of boto3 in us-east-1 and without a region. The token is present if the URL
    # was signed with temporary credentials.
    _Family(_names("awsaccesskeyid signature expires"), _names("x-amz-security-token x-obs-security-token")),
    # Google Cloud Storage, version 4, and version 2, the default of its Python client.
    _Family(_names("x-goog-algorithm x-goog-credential x-goog-signature"), prefix="x-goog-"),
    _Family(_names("googleaccessid signature expires")),
    # Azure SAS.
    _Family(
        _names("sig sv"),
        _names("ss srt sp se st spr sr ses sip sdd skoid sktid skt ske sks skv saoid suoid scid sduoid skdutid"),
    ),
    # Amazon CloudFront.
    _Family(_names("key-pair-id signature"), _names("expires policy hash-algorithm")),
    # Alibaba Cloud OSS, versions 1 and 4. x-oss-process is not part of the signature: it selects another image.
    _Family(_names("ossaccesskeyid signature expires"), _names("security-token")),
    _Family(
        _names("x-oss-credential x-oss-signature"),
        _names("x-oss-signature-version x-oss-date x-oss-expires x-oss-security-token x-oss-additional-headers"),
    ),
    # Tencent COS.
    _Family(
        _names("q-sign-algorithm q-ak q-signature"),
        _names("q-sign-time q-key-time q-header-list q-url-param-list x-cos-security-token"),
    ),
    # Volcengine TOS. x-tos-process is not part of the signature: it selects another image.
    _Family(
        _names("x-tos-algorithm x-tos-credential x-tos-signature"),
        _names("x-tos-date x-tos-expires x-tos-signedheaders x-tos-signedqueries x-tos-security-token x-tos-policy"),
    ),
    # Huawei OBS.
    _Family(_names("accesskeyid signature expires"), _names("x-obs-security-token security-token")),
    # Qiniu. The token contains the access key and the signature, separated by a colon.
    _Family(_names("e token"), values={"e": _EPOCH_SECONDS, "token": re.compile(r"[\w=-]{20,}:[\w=:-]{20,}")}),
    # Supabase.
    _Family(
        _names("token"), values={"token": _SECRET}, path=re.compile(r".*/storage/v1/(?:object|render/image)/sign/")
    ),
    # Cloudflare Images, and Cloudflare HMAC tokens.
    _Family(_names("exp sig"), values={"exp": _EPOCH_SECONDS, "sig": _SECRET}),
    _Family(_names("verify"), values={"verify": re.compile(r"[0-9]{9,11}-[\w+/=-]{20,}")}),
    # Bunny.
    _Family(
        _names("token expires"),
        _names("token_path token_countries token_countries_blocked"),
        values={"expires": _EPOCH_SECONDS, "token": _SECRET},
    ),
)
#: Usual names of signature parameters of presigning methods that are not listed above.
_SIGNATURE_NAME = re.compile(
    r"signature|sig|sign|token|hmac|policy|verify|auth|auth_key|authorization|access_token|hdnts|hdnea|__token__"
    r"|x-[a-z0-9]{1,20}-(?:signature|security-token)"
)
#: Minimum number of distinct characters in a value that looks random.
_MIN_DISTINCT_CHARACTERS = 10


def without_signature(url: str) -> str:
    """Return ``url`` without the signature of a known presigning method.

    The result does not change when the URL is signed again. A parameter that looks like the signature of an unknown
    method is not removed, but a warning is logged, once per process and parameter name.
    """
    if "=" not in url:
        return url
    family = _family_of(url)
    parameters = _parameters(url)
    if family is None:
        _warn_about_similar_parameters(parameters)
        return url
    remaining = [(name, value) for name, value in parameters if not family.includes(name.lower())]
    # Lone surrogates must not fail here: a later check rejects them and names the field.
    return urlunsplit(urlsplit(url)._replace(query=urlencode(remaining, errors="surrogatepass")))


def without_signatures(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Remove the signatures of presigned URLs from a value, so that it can be displayed.

    :param value: A string, or nested lists and objects.
    """
    if isinstance(value, str):
        return without_signature(value) if secrets_of(value) else value
    if isinstance(value, Mapping):
        return {name: without_signatures(item) for name, item in value.items()}
    return [without_signatures(item) for item in value] if isinstance(value, list | tuple) else value


def secrets_of(url: str) -> tuple[str, ...]:
    """Return the parts of a presigned URL that grant access and must not be shown; empty for other URLs."""
    family = _family_of(url) if "=" in url else None
    if family is None:
        return ()
    values = (value for name, value in _parameters(url) if family.includes(name.lower()))
    return (_split(url)[1], *(value for value in values if len(value) >= _MIN_SECRET_LENGTH))


def secrets_in(value: object) -> Iterator[str]:
    """Yield the secrets (:func:`secrets_of`) of a string, or of all strings in nested lists and objects."""
    if isinstance(value, str):
        yield from secrets_of(value)
        return
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    for item in items:
        yield from secrets_in(item)


def _split(url: str) -> tuple[str, str]:
    """Return the path and the query of a URL; two empty strings if it is malformed."""
    try:
        parts = urlsplit(url)
    except ValueError:
        # Not a URL. The check of the field reports the error.
        return "", ""
    return parts.path, parts.query


def _family_of(url: str) -> _Family | None:
    path = _split(url)[0]
    parameters = {name.lower(): value for name, value in _parameters(url)}
    return next((family for family in _FAMILIES if family.matches(path, parameters)), None)


def _parameters(url: str) -> list[tuple[str, str]]:
    return parse_qsl(_split(url)[1], keep_blank_values=True)


def _warn_about_similar_parameters(parameters: list[tuple[str, str]]) -> None:
    for name, value in parameters:
        if _SIGNATURE_NAME.fullmatch(name.lower()) and _is_random(value):
            _warn_about_parameter(name.lower())


def _is_random(value: str) -> bool:
    kinds = (str.isdigit, str.islower, str.isupper)
    mixed = sum(any(map(kind, value)) for kind in kinds) > 1
    return bool(_SECRET.fullmatch(value)) and mixed and len(set(value)) >= _MIN_DISTINCT_CHARACTERS


@functools.cache
def _warn_about_parameter(name: str) -> None:
    log.warning(
        "URL parameter %r looks like a signature, but its type is unknown, so it counts as part of the image's URL. If"
        " you sign the URL again, the image looks new, and its video is submitted and billed again. If the parameter"
        " only grants access, pass a URL without it, a file path or an object storage URI.",
        name,
    )


_HTTP_LOGGERS = [
    logging.getLogger(name)
    for name in (
        "httpx",
        "httpcore.connection",
        "httpcore.http11",
        "httpcore.http2",
        "httpcore.proxy",
        "httpcore.socks",
    )
]
_silent: ContextVar[bool] = ContextVar("airflow_provider_toapis_silent_http", default=False)


class _SilentFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002
        return not _silent.get()


_silent_filter = _SilentFilter()


@contextmanager
def silent_http() -> Iterator[None]:
    """Drop log records of httpx and httpcore inside the block."""
    for logger in _HTTP_LOGGERS:
        # Add the filter every time, because logging can have been reconfigured. Adding it twice has no effect.
        logger.addFilter(_silent_filter)
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)
