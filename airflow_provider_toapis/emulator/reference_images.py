"""Source images of the videos. They are fetched and validated, or drawn if a request names no image."""

from __future__ import annotations

import asyncio
import base64
import binascii
import functools
import hashlib
import io
import ipaddress
import socket
from collections.abc import Callable
from urllib.parse import unquote_to_bytes, urlsplit

import anyio
import httpx
from PIL import Image, ImageDraw, ImageFilter, ImageFont

MAX_IMAGE_BYTES = 10 * 1024 * 1024
#: More pixels than any product photo has, but few enough to decode on a machine with little memory.
MAX_IMAGE_PIXELS = 50_000_000
#: Seconds for connecting and for each read. The whole download has its own limit.
FETCH_TIMEOUT_SECONDS = 3.0
DOWNLOAD_TIMEOUT_SECONDS = 10.0
#: Number of different images for videos without a reference image. A small number saves time, because identical videos
#: are rendered only once.
PALETTES = 12
_DRAWING_SIZE = (960, 960)


class UnusableImageError(Exception):
    """The reference image cannot be used. The message gives the reason."""


class ReferenceFetcher:
    """Fetches reference images like the service: one attempt with a short timeout, no redirects and no credentials.

    :param own_file: Returns the image at a URL of this emulator; None for any other URL.
    """

    def __init__(self, own_file: Callable[[str], bytes | None]) -> None:
        self._own_file = own_file
        # Proxy settings are ignored, because the emulator must not depend on another network.
        self._client = httpx.AsyncClient(timeout=FETCH_TIMEOUT_SECONDS, trust_env=False)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def fetch(self, url: str) -> bytes:
        """Return the file at ``url``, or a placeholder image if its host is public but cannot be reached.

        :raises UnusableImageError: The file cannot be fetched.
        """
        content = decode_data_uri(url) if url.startswith("data:") else self._own_file(url)
        return await self._download(url) if content is None else content

    async def _download(self, url: str) -> bytes:
        try:
            async with asyncio.timeout(DOWNLOAD_TIMEOUT_SECONDS), self._client.stream("GET", url) as response:
                if response.status_code != httpx.codes.OK:
                    raise UnusableImageError(f"reference image returned HTTP {response.status_code}")
                content = bytearray()
                async for chunk in response.aiter_bytes():
                    content += chunk
                    if len(content) > MAX_IMAGE_BYTES:
                        raise UnusableImageError("reference image must not be larger than 10MB")
                return bytes(content)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            host = urlsplit(url).hostname or ""
            if await _is_public(host):
                return await anyio.to_thread.run_sync(draw_placeholder, host)
            raise UnusableImageError("reference image host cannot be reached") from None
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError):
            raise UnusableImageError("reference image could not be downloaded") from None


async def _is_public(host: str) -> bool:
    """Return whether a host is on the public internet.

    This depends on the host's addresses, or on its name if the name cannot be resolved.
    """
    try:
        found = await anyio.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return "." in host and not host.endswith((".local", ".localhost", ".internal"))
    return all(ipaddress.ip_address(str(address[4][0]).partition("%")[0]).is_global for address in found)


def decode_data_uri(uri: str) -> bytes:
    """Return the content of a ``data:`` URI.

    :raises UnusableImageError: The URI is malformed.
    """
    head, _, payload = uri.partition(",")
    try:
        return base64.b64decode(payload, validate=True) if head.endswith(";base64") else unquote_to_bytes(payload)
    except binascii.Error:
        raise UnusableImageError("reference image is not valid base64") from None


def check_image(content: bytes) -> None:
    """Check that ``content`` is an image that can be rendered.

    :raises UnusableImageError: The content is too large, has too many pixels, or is not an image.
    """
    if len(content) > MAX_IMAGE_BYTES:
        raise UnusableImageError("reference image must not be larger than 10MB")
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.width * image.height > MAX_IMAGE_PIXELS:
                raise UnusableImageError("reference image has too many pixels")
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise UnusableImageError("reference image is not a valid image") from None


def draw_placeholder(host: str) -> bytes:
    """Draw an image with the text that the emulator cannot reach ``host``."""
    image = Image.linear_gradient("L").resize(_DRAWING_SIZE)
    canvas = Image.merge(
        "RGB",
        (image.point(lambda v: 40 + v // 5), image.point(lambda v: 48 + v // 5), image.point(lambda v: 64 + v // 4)),
    )
    text = f"The ToAPIs emulator\ncannot reach\n{host}"
    ImageDraw.Draw(canvas).multiline_text(
        (_DRAWING_SIZE[0] / 2, _DRAWING_SIZE[1] / 2),
        text,
        fill=(235, 238, 245),
        font=ImageFont.load_default(42),
        anchor="mm",
        align="center",
        spacing=18,
    )
    return encode_jpeg(canvas)


def draw_for_prompt(prompt: str) -> bytes:
    """Draw an image for a text-to-video ``prompt``: soft lights in one of :data:`PALETTES` palettes."""
    return _lights(hashlib.sha256(prompt.encode()).digest()[0] % PALETTES)


@functools.lru_cache(PALETTES)
def _lights(seed: int) -> bytes:
    width, height = _DRAWING_SIZE
    hue = seed * 255 // PALETTES
    gradient = Image.linear_gradient("L").resize(_DRAWING_SIZE)
    canvas = Image.merge(
        "HSV",
        (
            gradient.point(lambda v: (hue + v // 6) % 256),
            gradient.point(lambda v: 150 + v // 4),
            gradient.point(lambda v: 70 + v // 2),
        ),
    ).convert("RGB")
    lights = Image.new("RGB", _DRAWING_SIZE)
    draw = ImageDraw.Draw(lights)
    for number in range(5):
        x, y = width * (1 + 2 * number) // 10, height * (2 + (seed + 3 * number) % 7) // 10
        radius = width // (7 + (seed + number) % 4)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(90 + 20 * number, 90, 150 - 20 * number))
    lights = lights.filter(ImageFilter.GaussianBlur(width // 30))
    return encode_jpeg(Image.blend(canvas, lights, 0.4))


def encode_jpeg(image: Image.Image) -> bytes:
    """Return ``image`` as a JPEG file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
