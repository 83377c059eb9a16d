"""What may be shown of a value: never a key, never the query string of a signed URL, never a whole data URI."""

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
#: Where a link stands without its host.
_SIGNATURE = re.compile(
    r"\b(?P<name>x-(?:amz|goog|oss|tos|cos|obs)-(?:credential|signature|security-token)"
    r"|(?:q-)?signature|sig|(?:security-)?token)=[^\s&'\"<>]+",
    re.I,
)
_DATA_URI = re.compile(r"(?P<head>\bdata:[\w/+.;=-]*,)[^\s'\"<>]+", re.I)
_API_KEY = re.compile(r"\bsk-[A-Za-z0-9_-]{8,}")
_BEARER = re.compile(r"\bbearer\s+\S+", re.I)

#: Long enough for a path or a sentence, short enough to keep a pasted base64 image out of a log.
MAX_SHOWN_LENGTH = 200


def redacted(text: object, max_length: int = MAX_SHOWN_LENGTH) -> str:
    """Return ``text`` fit for messages and logs: without credentials and query strings, cut at ``max_length``."""
    shown = _URL_SECRETS.sub(lambda match: match["scheme"] + match["rest"], str(text)[: max_length * 20])
    shown = _DATA_URI.sub(r"\g<head>***", _SIGNATURE.sub(r"\g<name>=***", shown))
    shown = _API_KEY.sub("sk-***", _BEARER.sub("Bearer ***", shown))
    return shown if len(shown) <= max_length else f"{shown[:max_length]}..."


@dataclass(frozen=True)
class _Family:
    """A way of presigning. A URL belongs to it only with all of its ``marks``; one look-alike parameter is identity.

    :param marks: Parameters that are always there (lower case).
    :param others: Further parameters that belong to the signature.
    :param prefix: All parameters that start so belong to it too.
    :param values: What marks look like whose names are ordinary words.
    :param path: What the path looks like, where the marks alone do not suffice.
    """

    marks: frozenset[str]
    others: frozenset[str] = frozenset()
    prefix: str | None = None
    values: Mapping[str, re.Pattern[str]] = field(default_factory=dict)
    path: re.Pattern[str] | None = None

    def signs(self, path: str, parameters: Mapping[str, str]) -> bool:
        return (
            parameters.keys() >= self.marks
            and all(pattern.fullmatch(parameters[name]) for name, pattern in self.values.items())
            and (self.path is None or self.path.match(path) is not None)
        )

    def owns(self, name: str) -> bool:
        return name in self.marks or name in self.others or (self.prefix is not None and name.startswith(self.prefix))


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: A signature or token is longer; shorter values (a date, "900") may be in any text.
_SHORTEST_SECRET = 20
_SECRET = re.compile(rf"[\w.~:/+=-]{{{_SHORTEST_SECRET},}}")
_EPOCH_SECONDS = re.compile(r"[0-9]{9,11}")
_FAMILIES = (
    # Amazon S3, version 4.
    _Family(_names("x-amz-algorithm x-amz-credential x-amz-signature"), prefix="x-amz-"),
    # Amazon S3, version 2: what boto3 makes in us-east-1 and where no region is set. The token comes with a role.
    _Family(_names("awsaccesskeyid signature expires"), _names("x-amz-security-token x-obs-security-token")),
    # Google Cloud Storage, version 4, and version 2, which its Python client makes by default.
    _Family(_names("x-goog-algorithm x-goog-credential x-goog-signature"), prefix="x-goog-"),
    _Family(_names("googleaccessid signature expires")),
    # Azure SAS.
    _Family(
        _names("sig sv"),
        _names("ss srt sp se st spr sr ses sip sdd skoid sktid skt ske sks skv saoid suoid scid sduoid skdutid"),
    ),
    # Amazon CloudFront.
    _Family(_names("key-pair-id signature"), _names("expires policy hash-algorithm")),
    # Alibaba Cloud OSS, versions 1 and 4. x-oss-process is not among them: it asks for another image.
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
    # Volcengine TOS. x-tos-process is not among them.
    _Family(
        _names("x-tos-algorithm x-tos-credential x-tos-signature"),
        _names("x-tos-date x-tos-expires x-tos-signedheaders x-tos-signedqueries x-tos-security-token x-tos-policy"),
    ),
    # Huawei OBS.
    _Family(_names("accesskeyid signature expires"), _names("x-obs-security-token security-token")),
    # Qiniu: an access key and a signature, with a colon in between.
    _Family(_names("e token"), values={"e": _EPOCH_SECONDS, "token": re.compile(r"[\w=-]{20,}:[\w=:-]{20,}")}),
    # Supabase.
    _Family(
        _names("token"), values={"token": _SECRET}, path=re.compile(r".*/storage/v1/(?:object|render/image)/sign/")
    ),
    # Cloudflare: Images, and its HMAC tokens.
    _Family(_names("exp sig"), values={"exp": _EPOCH_SECONDS, "sig": _SECRET}),
    _Family(_names("verify"), values={"verify": re.compile(r"[0-9]{9,11}-[\w+/=-]{20,}")}),
    # Bunny.
    _Family(
        _names("token expires"),
        _names("token_path token_countries token_countries_blocked"),
        values={"expires": _EPOCH_SECONDS, "token": _SECRET},
    ),
)
#: Names that signatures of other families go by.
_NAME_OF_SIGNATURE = re.compile(
    r"signature|sig|sign|token|hmac|policy|verify|auth|auth_key|authorization|access_token|hdnts|hdnea|__token__"
    r"|x-[a-z0-9]{1,20}-(?:signature|security-token)"
)
_FEWEST_CHARACTERS = 10


def without_signature(url: str) -> str:
    """Return ``url`` less the signature of a known presigning family: the same file gives the same text every day.

    A parameter that looks like the signature of another family stays, with a warning, once per process and name.
    """
    if "=" not in url:
        return url
    family = _family_of(url)
    parameters = _parameters(url)
    if family is None:
        _warn_of_look_alikes(parameters)
        return url
    kept = [(name, value) for name, value in parameters if not family.owns(name.lower())]
    # Half a surrogate pair is rejected elsewhere, with the name of the field.
    return urlunsplit(urlsplit(url)._replace(query=urlencode(kept, errors="surrogatepass")))


def without_signatures(value: Any) -> Any:  # noqa: ANN401 - what JSON holds
    """Return a text, or nested lists and objects, with each presigned URL in it less its signature, to be shown."""
    if isinstance(value, str):
        return without_signature(value) if secrets_of(value) else value
    if isinstance(value, Mapping):
        return {name: without_signatures(item) for name, item in value.items()}
    return [without_signatures(item) for item in value] if isinstance(value, list | tuple) else value


def secrets_of(url: str) -> tuple[str, ...]:
    """Return what must not be shown of a presigned URL, because it grants access; nothing for other URLs."""
    family = _family_of(url) if "=" in url else None
    if family is None:
        return ()
    values = (value for name, value in _parameters(url) if family.owns(name.lower()))
    return (_split(url)[1], *(value for value in values if len(value) >= _SHORTEST_SECRET))


def secrets_in(value: object) -> Iterator[str]:
    """Yield what :func:`secrets_of` finds in a text, or in the texts of nested lists and objects."""
    if isinstance(value, str):
        yield from secrets_of(value)
        return
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    for item in items:
        yield from secrets_in(item)


def _split(url: str) -> tuple[str, str]:
    """Return path and query."""
    try:
        parts = urlsplit(url)
    except ValueError:
        # Not a URL at all, which others report better.
        return "", ""
    return parts.path, parts.query


def _family_of(url: str) -> _Family | None:
    path = _split(url)[0]
    parameters = {name.lower(): value for name, value in _parameters(url)}
    return next((family for family in _FAMILIES if family.signs(path, parameters)), None)


def _parameters(url: str) -> list[tuple[str, str]]:
    return parse_qsl(_split(url)[1], keep_blank_values=True)


def _warn_of_look_alikes(parameters: list[tuple[str, str]]) -> None:
    for name, value in parameters:
        if _NAME_OF_SIGNATURE.fullmatch(name.lower()) and _is_random(value):
            _warn_of_look_alike(name.lower())


def _is_random(value: str) -> bool:
    kinds = (str.isdigit, str.islower, str.isupper)
    mixed = sum(any(map(kind, value)) for kind in kinds) > 1
    return bool(_SECRET.fullmatch(value)) and mixed and len(set(value)) >= _FEWEST_CHARACTERS


@functools.cache
def _warn_of_look_alike(name: str) -> None:
    log.warning(
        "URL parameter %r looks like a signature, but of no known family. It counts as part of the image: a URL that is"
        " signed again is another image, so its video is submitted and billed again. If it only grants access, give a"
        " URL without it, a file path or an object storage URI.",
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


class _OnlyOthers(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002
        return not _silent.get()


_only_others = _OnlyOthers()


@contextmanager
def silent_http() -> Iterator[None]:
    """Drop what httpx and httpcore log inside the block."""
    for logger in _HTTP_LOGGERS:
        # A no-op when it is there already; logging may have been configured anew in between.
        logger.addFilter(_only_others)
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)
