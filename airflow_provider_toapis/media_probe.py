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
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

#: The requests: return the facts, or return the facts and a poster.
FACTS, FACTS_AND_POSTER = b"f", b"p"
#: Bytes of address space and seconds that a fork can use.
MEMORY_LIMIT = 1024**3
TIME_LIMIT = 30
#: Seconds after which decoding stops. The part that is not decoded by then is treated as intact.
_DECODING_SECONDS = 20.0
#: Container formats that FFmpeg may read. Playlists are not among them, because they name other files.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,ogg,flv,asf"
#: Formats without an index. They are decoded from their start to their end.
_WITHOUT_INDEX = ("mpegts", "mpeg")
#: Width and height in pixels of the thumbnails that are compared.
_THUMBNAIL = (64, 36)
#: Maximum brightness (0 to 255) of a nearly black frame, and maximum range of each color in a frame of one color.
_BLACK = 24
_FLAT_RANGE = 8
#: Two thumbnails are treated as the same image if no color of a pixel differs by more than this (0 to 255).
_SAME = 8
#: Number of frames at the start from which the poster is selected, and maximum width of the poster in pixels.
_POSTER_FRAMES = 240
POSTER_WIDTH = 1920
#: A frame with more pixels is not decoded.
_MAX_PIXELS = 64_000_000
#: A video is complete if its last packet ends at most this many seconds before the end that the file states.
_END_SECONDS = 1.0


class _UnreadableError(Exception):
    """The file is not a playable video, for example because it is damaged or incomplete."""


class _Reader:
    """Decodes a video stream until a deadline.

    :param end: Seconds at which the last complete packet ends.
    """

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._container = container
        self._stream = stream
        self._deadline = time.monotonic() + _DECODING_SECONDS
        self.end = 0.0

    @property
    def is_late(self) -> bool:
        """Whether decoding has to stop."""
        return time.monotonic() >= self._deadline

    def frames_from(self, seconds: float) -> Iterator[VideoFrame]:
        """Yield the last key frame at or before a time, and all frames after that key frame."""
        import av  # noqa: PLC0415

        stream = self._stream
        try:
            if stream.time_base:
                self._container.seek(int(seconds / stream.time_base) + (stream.start_time or 0), stream=stream)
        except av.FFmpegError:
            return
        yield from self.frames()

    def frames(self) -> Iterator[VideoFrame]:
        """Yield the next frames, until one cannot be decoded or until the deadline."""
        import av  # noqa: PLC0415

        try:
            for packet in self._container.demux(self._stream):
                # Some formats have only one of the two times.
                begun = packet.dts if packet.pts is None else packet.pts
                if begun is not None and packet.time_base and not packet.is_corrupt:
                    self.end = max(self.end, float((begun + (packet.duration or 0)) * packet.time_base))
                for frame in packet.decode():
                    yield frame
                    if self.is_late:
                        return
        except av.FFmpegError:
            return


def main() -> None:
    """Serve requests until standard input is closed."""
    # If a package is missing, each fork fails to import it too, and reports that.
    with suppress(ImportError):
        import av  # noqa: F401, PLC0415
        import PIL.Image  # noqa: F401, PLC0415
    # The kernel removes forks that have ended.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # A worker can ignore or block this signal, and this process inherits that from the worker.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
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
        resource.setrlimit(resource.RLIMIT_CPU, (TIME_LIMIT, TIME_LIMIT))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
        with open(video, "rb", buffering=0) as file:
            result = _facts(file, wants_poster=request == FACTS_AND_POSTER)
    except _UnreadableError as error:
        result = {"unreadable": str(error)}
    except BaseException as error:  # noqa: BLE001 - whatever the file causes
        result = {"error": _text_of(error)}
    with open(pipe, "w", encoding="utf-8") as output:
        json.dump(result, output)
    os._exit(0)


def _text_of(error: BaseException) -> str:
    # The text of FFmpeg's errors ends with the name of the file, which is a number here.
    text = getattr(error, "strerror", None) or str(error)
    return f"{type(error).__name__}: {text}"[:200]


def _facts(file: Any, *, wants_poster: bool) -> dict[str, Any]:  # noqa: ANN401 - a raw file
    import av  # noqa: PLC0415

    options = {"format_whitelist": _FORMATS, "protocol_whitelist": "none"}
    try:
        container = av.open(file, options=options)
    except av.InvalidDataError as error:
        raise _UnreadableError(_text_of(error)) from None
    with container:
        stream = _video_stream(container)
        reader = _Reader(container, stream)
        frames = reader.frames()
        first = next(frames, None)
        if first is None:
            raise _UnreadableError("no frame can be decoded")
        shown = _first_shown(first, frames) if wants_poster else first
        stated = _stated_duration(container, stream)
        has_index = container.format.name not in _WITHOUT_INDEX
        middle, last = _middle_and_last(reader, stream, stated or _length(container), None if has_index else frames)
        end = reader.end - _start(stream)
        facts = {
            **_properties(container, stream, first),
            "duration": stated if stated is not None else None if reader.is_late else round(end, 3),
            "starts_black": _is_blank(_thumbnail(first)),
            "is_frozen": _is_frozen(first, middle, last),
            "ends_readable": reader.is_late or stated is None or (last is not None and end >= stated - _END_SECONDS),
        }
        return facts | (_poster(shown, facts["width"], facts["height"]) if wants_poster else {})


def _video_stream(container: InputContainer) -> VideoStream:
    """Return the video stream, set up to decode with one thread."""
    if not container.streams.video:
        raise _UnreadableError("no video stream")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise ValueError("unknown codec")
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    # Frames to which no other frame refers are not decoded, which halves the time.
    stream.codec_context.skip_frame = "NONREF"
    if stream.width * stream.height > _MAX_PIXELS:
        raise ValueError(f"{stream.width}x{stream.height} pixels")
    return stream


def _properties(container: InputContainer, stream: VideoStream, first: VideoFrame) -> dict[str, Any]:
    ratio = stream.sample_aspect_ratio
    # The size is that which a player shows: it depends on the aspect ratio of the pixels, and on the rotation.
    width, height = round(stream.width * ratio) if ratio else stream.width, stream.height
    return {
        "width": height if _is_turned(first) else width,
        "height": width if _is_turned(first) else height,
        "fps": round(float(stream.average_rate), 3) if stream.average_rate else None,
        "video_codec": stream.codec_context.codec.canonical_name,
        "has_audio": bool(container.streams.audio),
        "bit_rate": container.bit_rate or None,
    }


def _is_turned(frame: VideoFrame) -> bool:
    """Return whether a player rotates the frame by a quarter turn."""
    return round(frame.rotation) % 180 == 90  # noqa: PLR2004 - degrees


def _stated_duration(container: InputContainer, stream: VideoStream) -> float | None:
    """Return the video's length in seconds as the file states it; None if the file states none.

    The length of the container includes the audio, so it is used only if the file has no audio.
    """
    if stream.duration and stream.time_base:
        return round(float(stream.duration * stream.time_base), 3)
    if container.streams.audio or container.format.name in _WITHOUT_INDEX:
        return None
    return round(_length(container), 3) or None


def _length(container: InputContainer) -> float:
    return (container.duration or 0) / 1_000_000


def _first_shown(first: VideoFrame, frames: Iterator[VideoFrame]) -> VideoFrame:
    """Return the first frame that is not blank; the first frame if all are."""
    candidates = chain([first], islice(frames, _POSTER_FRAMES))
    return next((frame for frame in candidates if not _is_blank(_thumbnail(frame))), first)


def _middle_and_last(
    reader: _Reader, stream: VideoStream, duration: float, rest: Iterator[VideoFrame] | None
) -> tuple[VideoFrame | None, VideoFrame | None]:
    """Return the frames in the middle and at the end. A frame that cannot be decoded is None.

    :param rest: The frames that are not decoded yet, for a format without an index; None for other formats.
    """
    half = _start(stream) + duration / 2
    middle = last = None
    for frame in reader.frames_from(duration) if rest is None else rest:
        last = frame
        if _time(frame) <= half:
            middle = frame
    if middle is None and rest is None:
        # The last key frame is after the middle, so decode from the key frame before the middle.
        for frame in reader.frames_from(duration / 2):
            middle = frame
            if _time(frame) >= half:
                break
    return middle, last


def _time(frame: VideoFrame) -> float:
    return frame.time or 0.0


def _start(stream: VideoStream) -> float:
    """Return the time of the first frame. In some formats it is not 0."""
    return float((stream.start_time or 0) * (stream.time_base or 0))


def _poster(frame: VideoFrame, width: int, height: int) -> dict[str, str]:
    """Return a frame as JPEG in base64, at most ``POSTER_WIDTH`` pixels wide, or the reason why it cannot be made."""
    try:
        size = (height, width) if _is_turned(frame) else (width, height)
        image = frame.to_image(width=size[0], height=size[1])  # type: ignore[no-untyped-call]
        if frame.rotation:
            image = image.rotate(frame.rotation, expand=True)
        image.thumbnail((POSTER_WIDTH, POSTER_WIDTH * 10))
        jpeg = io.BytesIO()
        image.save(jpeg, "JPEG", quality=88)
    except Exception as error:  # noqa: BLE001 - the facts are known already
        return {"no_poster": _text_of(error)}
    return {"poster": base64.b64encode(jpeg.getvalue()).decode()}


def _thumbnail(frame: VideoFrame) -> bytes:
    """Return the colors (red, green, blue) of the frame's pixels after it was scaled down."""
    width, height = _THUMBNAIL
    plane = frame.reformat(width=width, height=height, format="rgb24").planes[0]
    rows, stride = bytes(plane), plane.line_size
    return b"".join(rows[row * stride : row * stride + 3 * width] for row in range(height))


def _is_blank(thumbnail: bytes) -> bool:
    """Return whether a frame is nearly black or of one color."""
    colors = [thumbnail[color::3] for color in range(3)]
    return max(thumbnail) <= _BLACK or all(max(color) - min(color) <= _FLAT_RANGE for color in colors)


def _is_frozen(first: VideoFrame, *others: VideoFrame | None) -> bool:
    """Return whether all frames show the same image.

    The result is False if a frame is missing or is not after ``first``.
    """
    start = _thumbnail(first)
    return all(
        frame is not None and _time(frame) > _time(first) and _largest_difference(start, _thumbnail(frame)) <= _SAME
        for frame in others
    )


def _largest_difference(one: bytes, other: bytes) -> int:
    return max(abs(left - right) for left, right in zip(one, other, strict=True))


if __name__ == "__main__":
    main()
