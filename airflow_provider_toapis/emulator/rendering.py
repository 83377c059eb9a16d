"""Rendering of one image as a real MP4 (H.264) with the requested length and aspect ratio and a slow camera move."""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, get_args

import av
from av.audio.stream import AudioStream
from av.container import OutputContainer
from PIL import Image, ImageOps

FRAME_RATE = 24
#: Pixels of a frame: enough to recognize the product, but few enough to render a whole catalog on two cores.
FRAME_AREA = 480 * 270
#: Magnification at the end of a push-in (camera move towards the product).
ZOOM = 1.25

Motion = Literal["push_in", "pull_back"]
#: Names of the deviations from the request that a fault of kind ``flaw`` can cause.
Flaw = Literal["short", "black_start", "frozen", "wrong_ratio", "with_audio", "truncated"]
FLAWS: tuple[Flaw, ...] = get_args(Flaw)
#: Number of black frames at the start of a video with the flaw ``black_start``.
BLACK_FRAMES = 12
#: Size of a video with the flaw ``truncated``, as a share of the complete file.
TRUNCATED_SHARE = 0.6
_AUDIO_RATE = 44_100
_AUDIO_SAMPLES = 1024


class RenderingStoppedError(Exception):
    """The emulator is stopping, so the rendering of this video was stopped. The next start renders it again."""


@dataclass(frozen=True)
class Shot:
    """Everything that determines the content of a video. Equal shots share one file.

    :param image: Content hash of the source image.
    :param duration: Seconds.
    :param aspect_ratio: ``W:H``, or pixels as ``WxH``. Any other value, such as ``adaptive``, means 16:9.
    """

    image: str
    duration: int
    aspect_ratio: str
    motion: Motion
    flaw: Flaw | None = None

    @property
    def key(self) -> str:
        """Name of the rendering."""
        width, height = self.size
        flaw = f"-{self.flaw}" if self.flaw else ""
        return f"{self.image}-{self.duration}s-{width}x{height}-{self.motion}{flaw}"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the frames. With the flaw ``wrong_ratio``, their ratio is not the requested one."""
        width, height = frame_size(self.aspect_ratio)
        if self.flaw != "wrong_ratio":
            return width, height
        return frame_size("16:9" if width == height else "1:1")

    @property
    def frames(self) -> int:
        """Number of frames. With the flaw ``short``, it is half of the requested number."""
        return self.duration * FRAME_RATE // (2 if self.flaw == "short" else 1)


def frame_size(aspect_ratio: str) -> tuple[int, int]:
    """Return an even width and height with exactly this ``aspect_ratio`` and about :data:`FRAME_AREA` pixels.

    The size is 16:9 if the ratio is not valid, or if no frame of this area can have it exactly.
    """
    match = re.fullmatch(r"([1-9]\d{0,3})[:x]([1-9]\d{0,3})", aspect_ratio)
    across, down = (int(match[1]), int(match[2])) if match else (16, 9)
    divisor = math.gcd(across, down)
    across, down = across // divisor, down // divisor
    if 4 * across * down > FRAME_AREA:
        across, down = 16, 9
    unit = int(math.sqrt(FRAME_AREA / (across * down))) // 2 * 2
    return across * unit, down * unit


def render(content: bytes, shot: Shot, target: Path, stopped: Callable[[], bool]) -> None:
    """Write the MP4 of ``shot`` to ``target``. The file appears only when it is complete.

    :param content: An image file that Pillow can read.
    :param stopped: Called before each frame. If it returns True, the rendering stops.
    :raises RenderingStoppedError: ``stopped`` returned True.
    """
    width, height = shot.size
    with Image.open(io.BytesIO(content)) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    canvas = ImageOps.fit(upright, (round(width * ZOOM), round(height * ZOOM)), Image.Resampling.LANCZOS)
    unfinished = target.with_suffix(".unfinished")
    with av.open(str(unfinished), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=FRAME_RATE, options={"preset": "ultrafast", "crf": "28"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        # One thread per video is enough, because the videos that are rendered in parallel keep every core busy.
        stream.codec_context.thread_count = 1
        audio = container.add_stream("aac", rate=_AUDIO_RATE) if shot.flaw == "with_audio" else None
        for number in range(shot.frames):
            if stopped():
                raise RenderingStoppedError
            frame = _frame(canvas, shot, number)
            frame.pts, frame.time_base = number, Fraction(1, FRAME_RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if audio:
            _add_silence(container, audio, shot.frames / FRAME_RATE)
    if shot.flaw == "truncated":
        os.truncate(unfinished, int(unfinished.stat().st_size * TRUNCATED_SHARE))
    unfinished.replace(target)


def _add_silence(container: OutputContainer, stream: AudioStream, seconds: float) -> None:
    for number in range(int(seconds * _AUDIO_RATE / _AUDIO_SAMPLES)):
        silence = av.AudioFrame(format="fltp", layout="mono", samples=_AUDIO_SAMPLES)
        for plane in silence.planes:
            plane.update(bytes(plane.buffer_size))
        silence.sample_rate, silence.pts = _AUDIO_RATE, number * _AUDIO_SAMPLES
        container.mux(stream.encode(silence))
    container.mux(stream.encode(None))


def _frame(canvas: Image.Image, shot: Shot, number: int) -> av.VideoFrame:
    """Return a frame by its number. The section of the image is not rounded to pixels, to avoid stutter."""
    if shot.flaw == "black_start" and number < BLACK_FRAMES:
        return av.VideoFrame.from_image(Image.new("RGB", shot.size))  # type: ignore[no-untyped-call, no-any-return]
    moment = 0.5 if shot.flaw == "frozen" else number / shot.frames
    traveled = moment if shot.motion == "push_in" else 1 - moment
    zoom = ZOOM ** (traveled * traveled * (3 - 2 * traveled))
    width, height = canvas.width / zoom, canvas.height / zoom
    left, top = (canvas.width - width) / 2, (canvas.height - height) / 2
    view = canvas.resize(shot.size, Image.Resampling.BILINEAR, box=(left, top, left + width, top + height))
    frame: av.VideoFrame = av.VideoFrame.from_image(view)  # type: ignore[no-untyped-call]
    return frame
