"""What may be shown of a value: never a key, never the query string of a signed URL, never a whole data URI."""

from __future__ import annotations

import re

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
