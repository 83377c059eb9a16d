"""Measure video files in processes with limited memory and time.

:mod:`media_process` starts ``python -m airflow_provider_toapis.media_probe`` with a Unix socket as its standard input.
Each request is one byte and two open files: the video, and a pipe for the result, a JSON object. The process forks for
each request, so that PyAV is loaded once and a hostile file can only end the fork. FFmpeg gets an open file and no
protocol, so that it can open nothing else.
"""

from __future__ import annotations

import base64
import io
import json
import os
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

#: The requests: facts alone, or facts and a poster.
FACTS, FACTS_AND_POSTER = b"f", b"p"
#: Bytes of address space and seconds that a fork can use.
MEMORY_LIMIT = 1024**3
TIME_LIMIT = 30
#: Container formats that FFmpeg may read. Playlists are not among them, because they name other files.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,ogg,flv,asf"
#: Width and height in pixels of the thumbnails that are compared.
_THUMBNAIL = (64, 36)
#: Maximum brightness (0 to 255) of a nearly black frame, and maximum brightness range of a frame of one color.
_BLACK = 24
_FLAT_RANGE = 8
#: Maximum difference (0 to 255) of a pixel in two thumbnails that show the same.
_SAME = 8
#: Frames from the start in which a poster is looked for, and its maximum width in pixels.
_POSTER_FRAMES = 240
POSTER_WIDTH = 1920
#: A frame with more pixels is not decoded.
_MAX_PIXELS = 64_000_000
#: Maximum number of frames that are decoded after a seek. Encoders write a key frame at least every 250 frames.
_MAX_DECODED = 600
#: Seconds before the end in which the last frame must be.
_END_SECONDS = 1.0


def main() -> None:
    """Serve requests until standard input is closed."""
    # A fork reports that a package is missing.
    with suppress(ImportError):
        import av  # noqa: F401, PLC0415
        import PIL.Image  # noqa: F401, PLC0415
    # The kernel removes forks that have ended.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    requests = socket.socket(fileno=0)
    while True:
        request, files, *_ = socket.recv_fds(requests, 1, 2)
        if not request:
            return
        if os.fork() == 0:
            requests.close()
            _serve(request, *files)
        for file in files:
            os.close(file)


def _serve(request: bytes, video: int, pipe: int) -> NoReturn:
    """Write the result of one request to a pipe, and end this process."""
    try:
        signal.alarm(TIME_LIMIT)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
        with open(video, "rb", buffering=0) as file:
            result = _facts(file, wants_poster=request == FACTS_AND_POSTER)
    except BaseException as error:  # noqa: BLE001 - whatever the file causes
        result = {"error": f"{type(error).__name__}: {error}"[:200]}
    with open(pipe, "w", encoding="utf-8") as output:
        json.dump(result, output)
    os._exit(0)


def _facts(file: Any, *, wants_poster: bool) -> dict[str, Any]:  # noqa: ANN401 - a raw file
    import av  # noqa: PLC0415

    options = {"format_whitelist": _FORMATS, "protocol_whitelist": "none"}
    with av.open(file, options=options) as container:
        stream = _video_stream(container)
        duration = _duration(container, stream)
        first, middle, last = _samples(container, stream, duration or 0.0)
        if first is None:
            raise ValueError("no frame can be decoded")
        facts = {
            **_properties(container, stream),
            "duration": duration,
            "starts_black": _is_blank(_thumbnail(first)),
            "is_frozen": _is_frozen(first, middle, last),
            "ends_readable": last is not None and _time(last) >= (duration or 0.0) - _END_SECONDS,
        }
        if wants_poster:
            facts["poster"] = base64.b64encode(_poster(container, stream, first)).decode()
        return facts


def _video_stream(container: InputContainer) -> VideoStream:
    """Return the video stream, set up to decode with one thread."""
    if not container.streams.video:
        raise ValueError("no video stream")
    stream = container.streams.video[0]
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    # Frames to which no other frame refers are not decoded, which halves the time.
    stream.codec_context.skip_frame = "NONREF"
    if stream.width * stream.height > _MAX_PIXELS:
        raise ValueError(f"{stream.width}x{stream.height} pixels")
    return stream


def _properties(container: InputContainer, stream: VideoStream) -> dict[str, Any]:
    ratio = stream.sample_aspect_ratio
    return {
        # As a player shows it: with the aspect ratio of the pixels.
        "width": round(stream.width * ratio) if ratio else stream.width,
        "height": stream.height,
        "fps": round(float(stream.average_rate), 3) if stream.average_rate else None,
        "video_codec": stream.codec_context.name,
        "has_audio": bool(container.streams.audio),
        "bit_rate": container.bit_rate or None,
    }


def _duration(container: InputContainer, stream: VideoStream) -> float | None:
    if stream.duration and stream.time_base:
        return round(float(stream.duration * stream.time_base), 3)
    return round(container.duration / 1_000_000, 3) if container.duration else None


def _samples(
    container: InputContainer, stream: VideoStream, duration: float
) -> tuple[VideoFrame | None, VideoFrame | None, VideoFrame | None]:
    """Return the frames at the start, in the middle and at the end. A frame that cannot be decoded is None."""
    first = next(_frames_from(container, stream, 0.0), None)
    middle = last = None
    for frame in _frames_from(container, stream, duration):
        last = frame
        if _time(frame) <= duration / 2:
            middle = frame
    if middle is None:
        # The last key frame comes after the middle.
        for frame in _frames_from(container, stream, duration / 2):
            middle = frame
            if _time(frame) >= duration / 2:
                break
    return first, middle, last


def _frames_from(container: InputContainer, stream: VideoStream, seconds: float) -> Iterator[VideoFrame]:
    """Yield the frames after the key frame before a time, until one cannot be decoded."""
    import av  # noqa: PLC0415

    try:
        if stream.time_base:
            container.seek(int(seconds / stream.time_base) + (stream.start_time or 0), stream=stream)
        yield from islice(container.decode(stream), _MAX_DECODED)
    except av.FFmpegError:
        return


def _time(frame: VideoFrame) -> float:
    return frame.time or 0.0


def _poster(container: InputContainer, stream: VideoStream, first: VideoFrame) -> bytes:
    """Return the first frame that is not blank as JPEG, at most ``POSTER_WIDTH`` pixels wide.

    If all frames are blank, return the first one.
    """
    frames = islice(_frames_from(container, stream, 0.0), _POSTER_FRAMES)
    chosen = next((frame for frame in frames if not _is_blank(_thumbnail(frame))), first)
    image = chosen.to_image(width=_properties(container, stream)["width"], height=chosen.height)  # type: ignore[no-untyped-call]
    image.thumbnail((POSTER_WIDTH, POSTER_WIDTH * 10))
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=88)
    return jpeg.getvalue()


def _thumbnail(frame: VideoFrame) -> bytes:
    """Return the brightness of the frame's pixels after it was scaled down."""
    width, height = _THUMBNAIL
    plane = frame.reformat(width=width, height=height, format="gray").planes[0]
    rows, stride = bytes(plane), plane.line_size
    return b"".join(rows[row * stride : row * stride + width] for row in range(height))


def _is_blank(thumbnail: bytes) -> bool:
    """Return whether a frame is nearly black or of one color."""
    return max(thumbnail) <= _BLACK or max(thumbnail) - min(thumbnail) <= _FLAT_RANGE


def _is_frozen(first: VideoFrame, *others: VideoFrame | None) -> bool:
    """Return whether frames of different times show the same."""
    start = _thumbnail(first)
    return all(
        frame is not None and _time(frame) > _time(first) and _largest_difference(start, _thumbnail(frame)) <= _SAME
        for frame in others
    )


def _largest_difference(one: bytes, other: bytes) -> int:
    return max(abs(left - right) for left, right in zip(one, other, strict=True))


if __name__ == "__main__":
    main()
