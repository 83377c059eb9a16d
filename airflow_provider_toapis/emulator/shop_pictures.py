"""Product photos for the shop, drawn: a still life on a backdrop, lit from the upper left."""

from __future__ import annotations

import math
from collections.abc import Callable

from PIL import Image, ImageChops, ImageDraw, ImageFilter

_EDGE = 1024

Colour = tuple[int, int, int]
Draw = Callable[[ImageDraw.ImageDraw], None]


def sneaker() -> Image.Image:
    """Draw a coral running shoe on sand."""
    scene = _backdrop((236, 214, 178), (176, 128, 84))
    _shadow(scene, (0.12, 0.70, 0.90, 0.80))
    upper = [
        (0.14, 0.50), (0.17, 0.38), (0.24, 0.34), (0.29, 0.40), (0.38, 0.42), (0.50, 0.33), (0.57, 0.36),
        (0.66, 0.48), (0.78, 0.55), (0.87, 0.60), (0.89, 0.68), (0.14, 0.68),
    ]  # fmt: skip
    _solid(scene, lambda draw: draw.polygon(_points(upper), fill=255), (255, 122, 92), (168, 36, 34))
    heel = [(0.14, 0.50), (0.28, 0.52), (0.25, 0.68), (0.14, 0.68)]
    _solid(scene, lambda draw: draw.polygon(_points(heel), fill=255), (120, 32, 52), (66, 14, 30))
    _solid(scene, _line((0.32, 0.62), (0.80, 0.62), 0.028), (255, 246, 232), (242, 214, 190))
    for number in range(5):
        x, y = 0.50 + 0.045 * number, 0.395 + 0.035 * number
        _solid(scene, _line((x, y), (x - 0.06, y + 0.045), 0.018), (255, 250, 242), (236, 222, 208))
    sole = [(0.11, 0.67), (0.90, 0.67), (0.93, 0.70), (0.90, 0.755), (0.70, 0.75), (0.40, 0.755), (0.13, 0.75)]
    _solid(scene, lambda draw: draw.polygon(_points(sole), fill=255), (252, 252, 250), (188, 184, 180))
    return scene


def lamp() -> Image.Image:
    """Draw a lit desk lamp in teal against the night."""
    scene = _backdrop((44, 58, 92), (14, 18, 38))
    _glow(scene, (0.50, 0.44), 0.46, (255, 214, 140))
    _shadow(scene, (0.30, 0.80, 0.74, 0.88))
    _solid(scene, lambda draw: draw.ellipse(_box(0.34, 0.78, 0.66, 0.86), fill=255), (64, 168, 162), (16, 70, 78))
    _solid(scene, _line((0.50, 0.40), (0.50, 0.82), 0.026), (96, 200, 190), (20, 88, 92))
    shade = [(0.40, 0.18), (0.60, 0.18), (0.74, 0.42), (0.26, 0.42)]
    _solid(scene, lambda draw: draw.polygon(_points(shade), fill=255), (72, 196, 184), (14, 92, 98))
    _solid(scene, lambda draw: draw.ellipse(_box(0.26, 0.385, 0.74, 0.455), fill=255), (255, 244, 204), (255, 206, 120))
    return scene


def mug() -> Image.Image:
    """Draw a blue mug with steam on a pale table."""
    scene = _backdrop((226, 236, 240), (148, 172, 184))
    _shadow(scene, (0.24, 0.76, 0.82, 0.86))
    handle = _box(0.60, 0.44, 0.82, 0.68)
    _solid(scene, lambda draw: draw.ellipse(handle, None, 255, _length(0.045)), (66, 128, 226), (18, 50, 128))
    body = [(0.26, 0.38), (0.68, 0.38), (0.655, 0.76), (0.60, 0.80), (0.34, 0.80), (0.285, 0.76)]
    _solid(scene, lambda draw: draw.polygon(_points(body), fill=255), (92, 152, 240), (22, 58, 142))
    _solid(scene, lambda draw: draw.ellipse(_box(0.26, 0.335, 0.68, 0.425), fill=255), (236, 242, 250), (150, 176, 216))
    _solid(scene, lambda draw: draw.ellipse(_box(0.285, 0.352, 0.655, 0.415), fill=255), (126, 76, 44), (64, 34, 18))
    _solid(scene, lambda draw: draw.ellipse(_box(0.41, 0.52, 0.53, 0.64), fill=255), (255, 252, 240), (230, 226, 210))
    _steam(scene)
    return scene


def _backdrop(light: Colour, dark: Colour) -> Image.Image:
    """A wall that is lit from the upper left and a table in front of it."""
    distance = Image.radial_gradient("L").resize((_EDGE * 2, _EDGE * 2))
    wall = distance.crop((_EDGE * 3 // 4, _EDGE * 3 // 4, _EDGE * 7 // 4, _EDGE * 7 // 4))
    scene = Image.composite(_plain(dark), _plain(light), wall)
    horizon = Image.new("L", (_EDGE, _EDGE))
    ImageDraw.Draw(horizon).rectangle(_box(0, 0.72, 1, 1), fill=70)
    scene.paste(_plain(light), mask=horizon.filter(ImageFilter.GaussianBlur(_length(0.01))))
    return scene


def _solid(scene: Image.Image, draw: Draw, light: Colour, dark: Colour) -> None:
    """Put a shape into the scene, lighter where the light comes from, with a soft highlight along its edge."""
    shape = Image.new("L", (_EDGE, _EDGE))
    draw(ImageDraw.Draw(shape))
    place = _with_margin(shape.getbbox() or (0, 0, _EDGE, _EDGE))
    # Blurred and made hard again: round corners and smooth edges.
    shape = shape.crop(place).filter(ImageFilter.GaussianBlur(_length(0.008)))
    shape = shape.point(lambda value: min(255, max(0, (value - 128) * 6 + 128)))
    across = Image.linear_gradient("L").rotate(90).resize(shape.size)
    downward = Image.linear_gradient("L").resize(shape.size)
    colours = Image.composite(
        Image.new("RGB", shape.size, dark), Image.new("RGB", shape.size, light), Image.blend(across, downward, 0.45)
    )
    scene.paste(colours, place[:2], shape)
    soft = shape.filter(ImageFilter.GaussianBlur(_length(0.012)))
    moved = ImageChops.offset(soft, _length(0.008), _length(0.008))
    edge = ImageChops.multiply(ImageChops.subtract(shape, moved), shape).point(lambda value: value // 2)
    scene.paste(Image.new("RGB", shape.size, (255, 255, 255)), place[:2], edge)


def _with_margin(box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """A box that leaves room for the blur around a shape."""
    margin = _length(0.03)
    return max(0, box[0] - margin), max(0, box[1] - margin), min(_EDGE, box[2] + margin), min(_EDGE, box[3] + margin)


def _shadow(scene: Image.Image, place: tuple[float, float, float, float]) -> None:
    shape = Image.new("L", (_EDGE, _EDGE))
    ImageDraw.Draw(shape).ellipse(_box(*place), fill=150)
    scene.paste(_plain((18, 16, 22)), mask=shape.filter(ImageFilter.GaussianBlur(_length(0.02))))


def _glow(scene: Image.Image, centre: tuple[float, float], radius: float, colour: Colour) -> None:
    size = _length(radius * 2)
    light = Image.radial_gradient("L").resize((size, size)).point(lambda value: max(0, 180 - value))
    corner = (_length(centre[0]) - size // 2, _length(centre[1]) - size // 2)
    scene.paste(Image.new("RGB", (size, size), colour), corner, light)


def _steam(scene: Image.Image) -> None:
    shape = Image.new("L", (_EDGE, _EDGE))
    draw = ImageDraw.Draw(shape)
    for middle in (0.41, 0.48, 0.55):
        wave = [(middle + 0.018 * math.sin(step / 4), 0.32 - 0.006 * step) for step in range(32)]
        draw.line(_points(wave), fill=170, width=_length(0.016), joint="curve")
    scene.paste(_plain((255, 255, 255)), mask=shape.filter(ImageFilter.GaussianBlur(_length(0.012))))


def _line(start: tuple[float, float], end: tuple[float, float], width: float) -> Draw:
    return lambda draw: draw.line(_points([start, end]), fill=255, width=_length(width))


def _plain(colour: Colour) -> Image.Image:
    return Image.new("RGB", (_EDGE, _EDGE), colour)


def _length(fraction: float) -> int:
    return round(fraction * _EDGE)


def _box(left: float, top: float, right: float, bottom: float) -> tuple[int, int, int, int]:
    return _length(left), _length(top), _length(right), _length(bottom)


def _points(fractions: list[tuple[float, float]]) -> list[tuple[int, int]]:
    return [(_length(x), _length(y)) for x, y in fractions]
