"""Write the animated image of the README and the home page: ``python -m dev.scripts.render_animation VIDEO``.

VIDEO is a file that the demo saved, such as ``demo-output/SNEAKER-01.mp4``.
"""

from __future__ import annotations

import sys
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
from PIL import Image

ANIMATION = Path(__file__).parents[2] / "docs" / "images" / "sneaker.webp"
FRAMES_PER_SECOND = 8
SECONDS = 6


def render(video: Path, animation: Path = ANIMATION) -> None:
    """Write the first seconds of a video as an animated WebP image that plays forward and back."""
    with av.open(video) as container:
        rate = container.streams.video[0].average_rate or Fraction(24)
        step = round(rate / FRAMES_PER_SECOND)
        chosen = islice(container.decode(video=0), 0, SECONDS * int(rate), step)
        frames: list[Image.Image] = [frame.to_image() for frame in chosen]  # type: ignore[no-untyped-call]
    _save([*frames, *reversed(frames[1:-1])], animation)


def _save(frames: list[Image.Image], animation: Path) -> None:
    first, *others = frames
    first.save(
        animation,
        save_all=True,
        append_images=others,
        duration=1000 // FRAMES_PER_SECOND,
        loop=0,
        quality=60,
        method=6,
    )


if __name__ == "__main__":
    render(Path(sys.argv[1]))
