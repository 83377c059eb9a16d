"""Check that a saved video is what was requested: measure it in a child process and compare it with the request."""

from __future__ import annotations

import base64
import json
import logging
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, BinaryIO

from airflow_provider_toapis.version_compat import is_local

if TYPE_CHECKING:
    from airflow_provider_toapis.storage import AnyPath

log = logging.getLogger(__name__)

#: Seconds after which the child process is killed.
TIMEOUT = 30.0
#: Bytes that must stay free on the disk when a video is copied from object storage.
_DISK_RESERVE = 256 * 1024 * 1024
#: Tolerated deviations: seconds or share of the requested duration, share of the requested aspect ratio.
_SECONDS, _DURATION_SHARE, _RATIO_SHARE = 0.5, 0.05, 0.03
_RATIO = re.compile(r"(\d+):(\d+)")


@dataclass(frozen=True)
class MediaFacts:
    """Measured facts of a video.

    :param duration: Seconds; None if the file does not state them.
    :param width: Pixels, as a player shows them.
    :param height: Pixels.
    :param fps: Frames per second; None if the file does not state them.
    :param video_codec: FFmpeg's name of the codec, for example ``h264``.
    :param has_audio: Whether the file has an audio stream.
    :param bit_rate: Bits per second; None if they are not known.
    """

    duration: float | None
    width: int
    height: int
    fps: float | None
    video_codec: str
    has_audio: bool
    bit_rate: int | None

    def as_dict(self) -> dict[str, Any]:
        """Return the field ``media`` of results, receipts and manifests."""
        return asdict(self)

    def __str__(self) -> str:
        length = "unknown length" if self.duration is None else f"{self.duration:.2f} s"
        fps = "" if self.fps is None else f", {self.fps:g} fps"
        return f"{length}, {self.width}x{self.height}{fps}, {'with' if self.has_audio else 'no'} audio"


@dataclass(frozen=True)
class Expected:
    """What was requested. None is not compared.

    :param duration: Seconds.
    :param aspect_ratio: For example ``16:9``.
    """

    duration: float | None = None
    aspect_ratio: str | None = None


@dataclass(frozen=True)
class MediaCheck:
    """The result of a check.

    :param media: The measured facts; None if the video could not be measured.
    :param warnings: Deviations, each a code, a colon and a text: ``duration_mismatch: 5.0 s instead of 10 s``.
    :param poster: A JPEG image; None if none was requested or could be made.
    """

    media: MediaFacts | None = None
    warnings: tuple[str, ...] = ()
    poster: bytes | None = None


class _NotCheckedError(Exception):
    """The video cannot be measured."""


def is_available() -> bool:
    """Return whether the packages of the extra ``media`` are installed."""
    return find_spec("av") is not None and find_spec("PIL") is not None


def check_video(path: AnyPath, expected: Expected, *, size: int, wants_poster: bool = False) -> MediaCheck:
    """Measure a saved video and compare it with the request. Never raises an error: the video is saved already.

    :param path: The saved file.
    :param size: Bytes of the file. A file in object storage is copied to the local disk if there is room.
    :param wants_poster: Also return the first frame that shows something.
    """
    try:
        with _local_file(path, size) as file:
            measured = _probe(file, wants_poster=wants_poster)
    except _NotCheckedError as error:
        return MediaCheck(warnings=(f"not_checked: {error}",))
    except OSError as error:
        return MediaCheck(warnings=(f"not_checked: the file cannot be read ({type(error).__name__})",))
    poster = measured.pop("poster", None)
    flaws = {name: measured.pop(name) for name in ("starts_black", "is_frozen", "ends_readable")}
    media = MediaFacts(**measured)
    return MediaCheck(
        media, (*_mismatches(media, expected), *_flaws(flaws)), base64.b64decode(poster) if poster else None
    )


def _mismatches(media: MediaFacts, expected: Expected) -> Iterator[str]:
    wanted = expected.duration
    if wanted and media.duration is not None:
        tolerance = max(_SECONDS, _DURATION_SHARE * wanted)
        if abs(media.duration - wanted) > tolerance:
            yield f"duration_mismatch: {media.duration:.1f} s instead of {wanted:g} s"
    ratio = _RATIO.fullmatch(expected.aspect_ratio or "")
    if ratio and media.height:
        wanted_ratio = int(ratio[1]) / int(ratio[2])
        if abs(media.width / media.height / wanted_ratio - 1) > _RATIO_SHARE:
            yield f"aspect_ratio_mismatch: {media.width}x{media.height} instead of {expected.aspect_ratio}"


def _flaws(flaws: dict[str, bool]) -> Iterator[str]:
    if flaws["starts_black"]:
        yield "black_start: the first frame is nearly black or of one color"
    if flaws["is_frozen"]:
        yield "frozen: start, middle and end show the same image"
    if not flaws["ends_readable"]:
        yield "truncated: the last second cannot be decoded"


@contextmanager
def _local_file(path: AnyPath, size: int) -> Iterator[BinaryIO]:
    """Yield an open file with a file descriptor, for a file in object storage a temporary copy of it."""
    if is_local(path):
        with path.open("rb") as file:
            yield file
        return
    if shutil.disk_usage(tempfile.gettempdir()).free < size + _DISK_RESERVE:
        raise _NotCheckedError("the disk has no room for a temporary copy")
    with path.open("rb") as source, tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(source, copy, 1024 * 1024)
        copy.seek(0)
        yield copy


def _probe(file: BinaryIO, *, wants_poster: bool) -> dict[str, Any]:
    """Run the child process on an open file and return what it prints.

    :raises _NotCheckedError: The child failed, was killed, or took too long.
    """
    command = [sys.executable, "-m", "airflow_provider_toapis.media_probe", *(["--poster"] if wants_poster else [])]
    try:
        run = subprocess.run(  # noqa: S603 - our own module
            command, stdin=file, capture_output=True, timeout=TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise _NotCheckedError(f"the check took longer than {TIMEOUT:.0f} s") from None
    if run.returncode < 0:
        raise _NotCheckedError(f"the check was ended by {signal.Signals(-run.returncode).name}")
    if run.returncode:
        raise _NotCheckedError(_reason(run.stderr))
    result: dict[str, Any] = json.loads(run.stdout)
    return result


def _reason(stderr: bytes) -> str:
    """Return the last line of a traceback without the module's name."""
    lines = stderr.decode("utf-8", "replace").strip().splitlines() or ["no error message"]
    return re.sub(r"^(?:\w+\.)+(?=\w+Error)", "", lines[-1])[:200]
