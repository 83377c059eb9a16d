"""Rendering of one image as a real MP4 (H.264) with the requested length and aspect ratio and a slow camera move."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
from PIL import Image, ImageOps

FRAME_RATE = 24
#: Pixels of a frame, about 480x270. The product is recognizable, and two cores can render a whole catalog.
FRAME_AREA = 480 * 270
#: Magnification at the end of a push-in (camera move towards the product).
ZOOM = 1.25

Motion = Literal["push_in", "pull_back"]


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

    @property
    def key(self) -> str:
        """Name of the rendering."""
        width, height = frame_size(self.aspect_ratio)
        return f"{self.image}-{self.duration}s-{width}x{height}-{self.motion}"


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
    width, height = frame_size(shot.aspect_ratio)
    with Image.open(io.BytesIO(content)) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    canvas = ImageOps.fit(upright, (round(width * ZOOM), round(height * ZOOM)), Image.Resampling.LANCZOS)
    unfinished = target.with_suffix(".unfinished")
    with av.open(str(unfinished), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=FRAME_RATE, options={"preset": "ultrafast", "crf": "28"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        # One thread per video is enough, because the videos that are rendered in parallel keep every core busy.
        stream.codec_context.thread_count = 1
        frames = shot.duration * FRAME_RATE
        for number in range(frames):
            if stopped():
                raise RenderingStoppedError
            frame = _frame(canvas, (width, height), number / frames, shot.motion)
            frame.pts, frame.time_base = number, Fraction(1, FRAME_RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    unfinished.replace(target)


def _frame(canvas: Image.Image, size: tuple[int, int], moment: float, motion: Motion) -> av.VideoFrame:
    """Return the frame at ``moment`` (0 to 1). The section of the image is not rounded to pixels, to avoid stutter."""
    traveled = moment if motion == "push_in" else 1 - moment
    zoom = ZOOM ** (traveled * traveled * (3 - 2 * traveled))
    width, height = canvas.width / zoom, canvas.height / zoom
    left, top = (canvas.width - width) / 2, (canvas.height - height) / 2
    view = canvas.resize(size, Image.Resampling.BILINEAR, box=(left, top, left + width, top + height))
    frame: av.VideoFrame = av.VideoFrame.from_image(view)  # type: ignore[no-untyped-call]
    return frame
