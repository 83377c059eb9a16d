"""Measure one video file and print the result as JSON. Runs in a process of its own, which :mod:`media_check` limits.

``python -m airflow_provider_toapis.media_probe [--poster]`` reads the file from standard input. The process imports
PyAV and Pillow only after its memory limit is set, and FFmpeg gets an open file, so it can open nothing else.
"""

from __future__ import annotations

import base64
import io
import json
import resource
import sys
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream
    from PIL.Image import Image

#: Bytes of address space and seconds of processor time that the process can use.
MEMORY_LIMIT = 1024**3
CPU_SECONDS = 30
#: Container formats that FFmpeg may read. Playlists, which name other files, are not among them.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,ogg,flv,asf"
#: Edge in pixels of the thumbnails that are compared.
_THUMBNAIL = (32, 18)
#: Maximum brightness (0 to 255) of a nearly black frame, and maximum brightness range of a frame of one color.
_BLACK = 24
_FLAT_RANGE = 8
#: Maximum mean difference (0 to 255) of two thumbnails that show the same.
_SAME = 1.5
#: Frames from the start in which a poster is looked for, and its maximum width in pixels.
_POSTER_FRAMES = 240
POSTER_WIDTH = 1920
#: A frame with more pixels is not decoded.
_MAX_PIXELS = 64_000_000
#: Frames that are decoded after a key frame to reach a time.
_MAX_DECODED = 600
#: Seconds before the end in which the last frame must be.
_END_SECONDS = 1.0


class _Frame(NamedTuple):
    """A decoded frame.

    :param time: Seconds from the start.
    """

    time: float
    image: Image


def main() -> None:
    """Print the facts of the file on standard input as one JSON object."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    json.dump(_facts(sys.stdin.buffer.raw, wants_poster="--poster" in sys.argv[1:]), sys.stdout)


def _facts(file: Any, *, wants_poster: bool) -> dict[str, Any]:  # noqa: ANN401 - a raw file
    import av  # noqa: PLC0415 - after the limits are set

    options = {"format_whitelist": _FORMATS, "protocol_whitelist": "none"}
    with av.open(file, options=options) as container:
        if not container.streams.video:
            raise ValueError("no video stream")
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        if stream.width * stream.height > _MAX_PIXELS:
            raise ValueError(f"{stream.width}x{stream.height} pixels")
        width, height = _displayed_size(stream)
        duration = _duration(container, stream)
        facts = {
            "duration": duration,
            "width": width,
            "height": height,
            "fps": round(float(stream.average_rate), 3) if stream.average_rate else None,
            "video_codec": stream.codec_context.name,
            "has_audio": bool(container.streams.audio),
            "bit_rate": container.bit_rate or None,
        }
        end = duration or 0.0
        samples = [_frame_at(container, stream, seconds) for seconds in (0.0, end / 2, end)]
        first, _, last = samples
        images = [sample.image for sample in samples if sample is not None]
        facts["starts_black"] = first is not None and _is_blank(_thumbnail(first.image))
        facts["is_frozen"] = len(images) == len(samples) and _are_same([_thumbnail(image) for image in images])
        facts["ends_readable"] = last is not None and last.time >= end - _END_SECONDS
        if wants_poster:
            facts["poster"] = base64.b64encode(_poster(container, stream, first)).decode()
        return facts


def _displayed_size(stream: VideoStream) -> tuple[int, int]:
    """Return the size in pixels as a player shows it: with the aspect ratio of the pixels."""
    ratio = stream.sample_aspect_ratio
    width = round(stream.width * ratio) if ratio else stream.width
    return width, stream.height


def _duration(container: InputContainer, stream: VideoStream) -> float | None:
    if stream.duration and stream.time_base:
        return round(float(stream.duration * stream.time_base), 3)
    return round(container.duration / 1_000_000, 3) if container.duration else None


def _frame_at(container: InputContainer, stream: VideoStream, seconds: float) -> _Frame | None:
    """Return the frame that is shown at a time, or the last one that can be decoded before it; None without any.

    Decodes from the key frame before that time, at most ``_MAX_DECODED`` frames.
    """
    import av  # noqa: PLC0415

    found = None
    try:
        _seek(container, stream, seconds)
        for frame in islice(container.decode(stream), _MAX_DECODED):
            if found is not None and frame.time is not None and frame.time > seconds:
                break
            found = frame
    except av.FFmpegError:
        pass
    return None if found is None else _Frame(found.time or 0.0, found.to_image())  # type: ignore[no-untyped-call]


def _seek(container: InputContainer, stream: VideoStream, seconds: float) -> None:
    if stream.time_base:
        container.seek(int(seconds / stream.time_base) + (stream.start_time or 0), stream=stream)


def _frames(container: InputContainer, stream: VideoStream) -> Iterator[Image]:
    _seek(container, stream, 0.0)
    for frame in container.decode(stream):
        yield frame.to_image()  # type: ignore[no-untyped-call]


def _poster(container: InputContainer, stream: VideoStream, first: _Frame | None) -> bytes:
    """Return the first frame that shows something as JPEG, at most ``POSTER_WIDTH`` pixels wide."""
    shown = (image for image in islice(_frames(container, stream), _POSTER_FRAMES) if not _is_blank(_thumbnail(image)))
    image = next(shown, first.image if first else None)
    if image is None:
        raise ValueError("no frame can be decoded")
    image.thumbnail((POSTER_WIDTH, POSTER_WIDTH * 10))
    jpeg = io.BytesIO()
    image.convert("RGB").save(jpeg, "JPEG", quality=88)
    return jpeg.getvalue()


def _thumbnail(image: Image) -> bytes:
    return image.convert("L").resize(_THUMBNAIL).tobytes()


def _is_blank(thumbnail: bytes) -> bool:
    """Whether a frame is nearly black or of one color."""
    return max(thumbnail) <= _BLACK or max(thumbnail) - min(thumbnail) <= _FLAT_RANGE


def _are_same(thumbnails: list[bytes]) -> bool:
    first, *others = thumbnails
    return all(
        sum(abs(one - other) for one, other in zip(first, each, strict=True)) / len(first) <= _SAME for each in others
    )


if __name__ == "__main__":
    main()
