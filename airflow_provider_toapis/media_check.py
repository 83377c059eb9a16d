"""Check that a saved video is what was requested, and make its poster.

Another process measures the video (:mod:`media_process`), because a hostile file can make a decoder crash or allocate
any amount of memory. The measured facts are compared with the request. The video is saved before it is checked. If the
check is not possible, it only adds the warning ``not_checked``, which never fails the task.
"""

from __future__ import annotations

import base64
import logging
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, get_args

from airflow.providers.common.compat.sdk import conf

from airflow_provider_toapis import metrics
from airflow_provider_toapis.exceptions import ToAPIsError, ToAPIsFileError, ToAPIsRequestError, ToAPIsVideoCheckError
from airflow_provider_toapis.get_provider_info import CONFIG_OPTIONS, CONFIG_SECTION
from airflow_provider_toapis.media_process import NotMeasuredError, measure
from airflow_provider_toapis.storage import destination_at, path_of, storage_errors, write_bytes
from airflow_provider_toapis.version_compat import is_local

if TYPE_CHECKING:
    from airflow_provider_toapis.api.video_request import VideoRequest
    from airflow_provider_toapis.storage import AnyPath

log = logging.getLogger(__name__)

#: If a saved video is not what was requested, ``warn`` adds warnings to the result, and ``fail`` fails the task.
#: ``off`` does not check the video.
CheckMode = Literal["warn", "fail", "off"]

#: Codes of warnings that say that the video is not what was requested. With ``check="fail"``, they fail the task.
DEVIATIONS = frozenset(
    {"duration_mismatch", "aspect_ratio_mismatch", "black_start", "frozen", "truncated", "unreadable"}
)
NOT_CHECKED = "not_checked"
NO_POSTER = "no_poster"
#: Bytes that must stay free on the disk when a video is copied from object storage, and maximum seconds of the copy.
_DISK_RESERVE = 256 * 1024 * 1024
_COPY_SECONDS = 120.0
_CHUNK = 1024 * 1024
#: Bytes at the start of a poster that contain its comment.
_POSTER_HEAD = 2048
#: Tolerated deviations. Duration: these seconds or this share of the requested duration, whichever is more. Aspect
#: ratio: this share of the requested ratio.
_SECONDS, _DURATION_SHARE, _RATIO_SHARE = 0.5, 0.05, 0.03
_RATIO = re.compile(r"([1-9]\d{0,4})[:x]([1-9]\d{0,4})")
#: Limits how many checks run at the same time, and so the memory that they use. A batch saves videos in several
#: threads.
_checks = threading.BoundedSemaphore(max(2, os.cpu_count() or 2))


def check_mode(check: CheckMode | None) -> CheckMode:
    """Return the argument ``check``. If it is None, return ``[toapis] check``.

    :raises ToAPIsRequestError: The value is not ``warn``, ``fail`` or ``off``.
    """
    name: str = "check"
    mode: Any = check
    if check is None:
        name = f"[{CONFIG_SECTION}] check"
        mode = conf.get(CONFIG_SECTION, "check", fallback="", raw=True).strip() or CONFIG_OPTIONS["check"]["default"]
    if mode not in get_args(CheckMode):
        raise ToAPIsRequestError.for_field(name, mode, f"must be {', '.join(get_args(CheckMode))}")
    return mode  # type: ignore[no-any-return]


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
    """What was requested. A value of None is not compared with the video.

    :param duration: Seconds.
    :param aspect_ratio: For example ``16:9``. A text without two numbers, such as ``adaptive``, is not compared.
    """

    duration: float | None = None
    aspect_ratio: str | None = None

    @classmethod
    def of(cls, request: VideoRequest) -> Expected:
        """Return the duration and aspect ratio that the author requested."""
        return cls(request.requested_seconds, request.requested_aspect_ratio)


@dataclass(frozen=True)
class MediaReport:
    """The result of a check.

    :param media: The measured facts; None if the video was not measured.
    :param warnings: Each is a code, a colon and a text: ``duration_mismatch: 5.0 s instead of 10 s``.
    :param poster_path: Path or URI of the poster; None if there is none.
    """

    media: MediaFacts | None = None
    warnings: tuple[str, ...] = ()
    poster_path: str | None = None

    def merged_into(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Return the result of a saved video with the fields of this report.

        If an earlier check measured the video, or this check found neither facts nor deviations, the earlier facts and
        deviations stay. The warnings ``not_checked`` and ``no_poster`` are always those of this report.
        """
        is_new = result["media"] is None and (self.media is not None or bool(deviations(self.warnings)))
        codes = {*DEVIATIONS, NOT_CHECKED, NO_POSTER} if is_new else {NOT_CHECKED, NO_POSTER}
        earlier = [warning for warning in result["warnings"] if _code(warning) not in codes]
        added = [warning for warning in self.warnings if _code(warning) in codes]
        return {
            **result,
            "media": result["media"] or (self.media.as_dict() if self.media else None),
            "warnings": [*earlier, *added],
            "poster_path": self.poster_path or result["poster_path"],
        }


@dataclass(frozen=True)
class MediaOptions:
    """Whether a saved video is checked, and whether it gets a poster.

    :param check: Whether the video is compared with the request, and what happens if it differs.
    :param poster: Whether a poster is saved beside the video.
    """

    check: CheckMode = "off"
    poster: bool = False

    def require_packages(self) -> None:
        """Reject options that need the extra ``media`` if the extra is not installed. Call it before submissions.

        :raises ToAPIsRequestError: ``check`` is ``fail`` or ``poster`` is True, and the extra is not installed.
        """
        if is_available():
            return
        needs = "needs the extra media. Install airflow-provider-toapis[media] on the workers"
        if self.check == "fail":
            raise ToAPIsRequestError.for_field("check", self.check, needs)
        if self.poster:
            raise ToAPIsRequestError.for_field("poster", self.poster, needs)

    @property
    def is_off(self) -> bool:
        """Whether saved videos are not measured."""
        return self.check == "off" and not self.poster

    def is_missing(self, result: Mapping[str, Any]) -> bool:
        """Return whether the result of a saved video lacks facts or a poster that these options require."""
        lacks_facts = self.check != "off" and result.get("media") is None
        return lacks_facts or (self.poster and result.get("poster_path") is None)

    def require_match(self, video_id: str, path: str, warnings: Sequence[str]) -> None:
        """Raise an error if the video is not what was requested and ``check`` is ``fail``.

        :raises ToAPIsVideoCheckError: The video is not what was requested. It is saved, and nothing is submitted again.
        """
        if self.check == "fail" and (found := deviations(warnings)):
            raise ToAPIsVideoCheckError.for_video(video_id, path, found)


def is_available() -> bool:
    """Return whether the packages of the extra ``media`` are installed."""
    return find_spec("av") is not None and find_spec("PIL") is not None


def deviations(warnings: Sequence[str]) -> tuple[str, ...]:
    """Return the warnings that say that the video is not what was requested."""
    return tuple(warning for warning in warnings if _code(warning) in DEVIATIONS)


def _code(warning: str) -> str:
    return warning.partition(":")[0]


def inspect_video(
    path: str, expected: Expected, options: MediaOptions, *, video_id: str, size: int, model: str | None
) -> MediaReport:
    """Measure a saved video, compare it with the request, and save its poster. Count the warnings as a metric.

    Never raises an error, because the video is billed and saved already.

    :param path: Path or URI of the saved video. The poster is saved beside it.
    :param video_id: The video's id, for the comment in the poster.
    :param size: Bytes of the file. A file in object storage is copied to the local disk if there is room.
    :param model: The model, for the metric.
    """
    if not is_available():
        return _without_packages(options)
    try:
        with _checks, _local_file(path_of("output_path", path), size) as file:
            measured = measure(file, wants_poster=options.poster)
        report = _report(path, video_id, measured, expected, options)
    except NotMeasuredError as error:
        report = MediaReport(warnings=(f"{NOT_CHECKED}: {error}",))
    except Exception as error:  # noqa: BLE001 - the video is saved, so nothing here can fail the task
        report = MediaReport(warnings=(f"{NOT_CHECKED}: the check failed ({type(error).__name__})",))
    with suppress(Exception):
        metrics.video_warnings(report.warnings, model)
    return report


def _report(
    path: str, video_id: str, measured: dict[str, Any], expected: Expected, options: MediaOptions
) -> MediaReport:
    """Compare the measured facts with the request. With ``check="off"``, only the poster is part of the report."""
    if "unreadable" in measured:
        code = NO_POSTER if options.check == "off" else "unreadable"
        return MediaReport(warnings=(f"{code}: {measured['unreadable']}",))
    poster, problem = measured.pop("poster", None), measured.pop("no_poster", None)
    flaws = {name: measured.pop(name) for name in ("starts_black", "is_frozen", "ends_readable")}
    media = None if options.check == "off" else MediaFacts(**measured)
    warnings = [*_mismatches(media, expected), *_flaws(flaws)] if media else []
    poster_path = None
    if poster is not None:
        try:
            poster_path = _save_poster(path, video_id, base64.b64decode(poster))
        except ToAPIsError as error:
            problem = error.without_cost
    if problem is not None:
        warnings.append(f"{NO_POSTER}: {problem}")
    return MediaReport(media, tuple(warnings), poster_path)


def poster_path_of(path: str) -> str:
    """Return the path of a video's poster: ``mug.jpg`` for ``mug.mp4``."""
    directory, slash, name = path.rpartition("/")
    stem = name.rpartition(".")[0] or name
    poster = f"{stem}.jpg"
    return f"{directory}{slash}{poster if poster != name else f'{stem}.poster.jpg'}"


def has_poster_of(path: str, video_id: str, poster_path: str | None) -> bool:
    """Return whether a file is the poster of a video, as the comment in the file says.

    :param path: Path of the video.
    :param poster_path: Path of the poster; None if no poster was saved.
    """
    try:
        return poster_path is not None and _comment(path, video_id) in _head_of(poster_path)
    except Exception:  # noqa: BLE001 - object stores raise classes of their own
        return False


def _save_poster(path: str, video_id: str, jpeg: bytes) -> str:
    """Save the poster beside the video and return its path.

    An existing file is replaced only if it is a poster of a video at ``path``. Any other file can be the image from
    which the video was made.

    :raises ToAPIsError: The poster cannot be written, or another file has its name.
    """
    poster_path = poster_path_of(path)
    target = destination_at(path_of("output_path", poster_path))
    with storage_errors("output_path", poster_path, "a writable file"):
        try:
            existing = _head_of(poster_path)
        except FileNotFoundError:
            existing = None
    if existing is not None and _comment(path) not in existing:
        raise ToAPIsFileError.for_field("poster", poster_path, "another file has this name. It is not replaced")
    # Insert the comment after the first segment, which Pillow writes into every JPEG.
    end = 4 + int.from_bytes(jpeg[4:6])
    comment = _comment(path, video_id)
    write_bytes(target, b"".join([jpeg[:end], b"\xff\xfe", (len(comment) + 2).to_bytes(2), comment, jpeg[end:]]))
    return target.path


def _comment(path: str, video_id: str = "") -> bytes:
    """Return the comment in a poster: the video's file name and id. Without an id, return the part before the id."""
    ended_id = f"{video_id}\0" if video_id else ""
    return f"ToAPIs poster of {path.rpartition('/')[2]}\0{ended_id}".encode(errors="surrogatepass")


def _head_of(path: str) -> bytes:
    file: Any = path_of("output_path", path)
    if not is_local(file):
        # fsspec caches listings, which can be outdated.
        file.fs.invalidate_cache()
    with file.open("rb") as content:
        head: bytes = content.read(_POSTER_HEAD)
    return head


def _without_packages(options: MediaOptions) -> MediaReport:
    if options.check == "fail" or options.poster:
        # The worker that submitted the video had the packages.
        return MediaReport(warnings=(f"{NOT_CHECKED}: the extra media is not installed on this worker",))
    if options.check == "warn":
        _log_limited_check()
    return MediaReport()


@cache
def _log_limited_check() -> None:
    log.info(
        "Only the first bytes of saved videos are checked. To also check their length, aspect ratio and frames, install"
        " airflow-provider-toapis[media]."
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
        yield "frozen: the start, the middle and the end show the same image"
    if not flaws["ends_readable"]:
        yield "truncated: the last second cannot be decoded"


@contextmanager
def _local_file(path: AnyPath, size: int) -> Iterator[BinaryIO]:
    """Yield an open file that has a file descriptor. A file in object storage is copied to a temporary file first."""
    if is_local(path):
        with path.open("rb") as file:
            yield file
        return
    if shutil.disk_usage(tempfile.gettempdir()).free < size + _DISK_RESERVE:
        raise NotMeasuredError("the disk has no room for a temporary copy")
    with tempfile.TemporaryFile() as copy:
        try:
            _copy(path, copy, size)
        except NotMeasuredError:
            raise
        except Exception as error:  # noqa: BLE001
            # Object stores raise classes of their own, whose texts can contain keys.
            raise NotMeasuredError(f"cannot read the file ({type(error).__name__})") from None
        copy.seek(0)
        yield copy


def _copy(path: AnyPath, copy: BinaryIO, size: int) -> None:
    end = time.monotonic() + _COPY_SECONDS
    source: Any
    with path.open("rb") as source:  # type: ignore[no-untyped-call]
        while size > 0 and (chunk := source.read(min(size, _CHUNK))):
            copy.write(chunk)
            size -= len(chunk)
            if time.monotonic() > end:
                raise NotMeasuredError(f"copying the file took longer than {_COPY_SECONDS:g} s")
