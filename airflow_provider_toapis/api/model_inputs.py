"""What one operation of a video model takes: prompt, duration, aspect ratio and images.

Each class says which of the author's values it accepts, and how an accepted value is written on the wire. Constructing
one from contradictory facts is a ``ValueError``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

#: Stands for the image in an item template of ``model_catalog.toml``.
_URL_PLACEHOLDER = "$url"


@dataclass(frozen=True, kw_only=True)
class PromptField:
    """Whether a prompt is ``required``, and its longest length in characters (None: not documented)."""

    required: bool = True
    max_length: int | None = None


@dataclass(frozen=True, kw_only=True)
class DurationField:
    """Length of the video in seconds: one of ``values``, or else from ``minimum`` to ``maximum``.

    :param field: Name on the wire.
    :param type: JSON type on the wire.
    :param maximum: None where no limit is documented.
    :param special: Further values by which the model chooses the length itself.
    """

    field: str
    type: Literal["integer", "string"] = "integer"
    values: tuple[int, ...] = ()
    minimum: int = 1
    maximum: int | None = None
    special: tuple[int, ...] = ()
    default: int | None = None

    def __post_init__(self) -> None:
        if self.values and (self.minimum != 1 or self.maximum is not None):
            raise ValueError("duration has both values and a range")
        if self.maximum is not None and self.maximum < self.minimum:
            raise ValueError(f"duration ends at {self.maximum}, before it begins at {self.minimum}")
        if self.default is not None and not self.accepts(self.default):
            raise ValueError(f"default duration {self.default} is not allowed")

    def accepts(self, duration: object) -> bool:
        """Return whether ``duration`` is allowed; only an int is, which a bool is not here."""
        if not isinstance(duration, int) or isinstance(duration, bool):
            return False
        if duration in self.special:
            return True
        if self.values:
            return duration in self.values
        return duration >= self.minimum and (self.maximum is None or duration <= self.maximum)

    @property
    def allowed(self) -> str:
        """What is allowed, in words."""
        if self.values:
            allowed = _either(self.values)
        elif self.maximum is None:
            allowed = f"{self.minimum} or more"
        else:
            allowed = f"{self.minimum} to {self.maximum}"
        by_itself = f", or {_either(self.special)} to let the model decide" if self.special else ""
        return f"{allowed} seconds, as a whole number{by_itself}"

    def wire_value(self, duration: int) -> int | str:
        """Return ``duration`` as the type that the model wants."""
        return str(duration) if self.type == "string" else duration


@dataclass(frozen=True, kw_only=True)
class AspectRatioField:
    """Shape of the picture as ``W:H`` or a word such as ``adaptive``; without ``values`` any is passed on."""

    field: str
    values: tuple[str, ...] = ()
    default: str | None = None

    def __post_init__(self) -> None:
        if self.default is not None and not self.accepts(self.default):
            raise ValueError(f"default aspect_ratio {self.default} is not allowed")

    def accepts(self, aspect_ratio: object) -> bool:
        """Return whether ``aspect_ratio`` is allowed."""
        return aspect_ratio in self.values if self.values else isinstance(aspect_ratio, str)

    @property
    def allowed(self) -> str:
        """What is allowed, in words."""
        return _either(self.values) if self.values else "a ratio such as '16:9'"


@dataclass(frozen=True, kw_only=True)
class ImageLayout:
    """How ``minimum`` to ``maximum`` images (None: no limit stated) are written on the wire.

    :param field: Name on the wire; dots stand for nested objects.
    :param shape: A list of images, or a string that is the only image.
    :param item: The object that one image becomes; empty when it is the URL itself.
    :param extra: Wire fields that go with this layout.
    :param aliases: Other names of the field.
    """

    field: str
    shape: Literal["list", "string"] = "list"
    item: Mapping[str, str] = dataclasses.field(default_factory=dict)
    minimum: int = 1
    maximum: int | None = None
    extra: Mapping[str, str] = dataclasses.field(default_factory=dict)
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.shape == "string" and (self.item or self.maximum != 1):
            raise ValueError(f"{self.field} is a string, which holds one image and no object")
        if self.item and _URL_PLACEHOLDER not in self.item.values():
            raise ValueError(f"the item of {self.field} does not hold the image")
        if self.maximum is not None and self.maximum < self.minimum:
            raise ValueError(f"{self.field} takes at most {self.maximum}, but at least {self.minimum} images")

    @property
    def names(self) -> tuple[str, ...]:
        """All names of the field."""
        return (self.field, *self.aliases)

    def holds(self, image_count: int) -> bool:
        """Return whether this layout is the one for so many images."""
        return image_count >= self.minimum and (self.maximum is None or image_count <= self.maximum)

    def wire_fields(self, image_urls: Sequence[str]) -> dict[str, object]:
        """Return the images as the model wants them."""
        images = [self._wire_item(url) for url in image_urls]
        return _nested(self.field, images[0] if self.shape == "string" else images) | dict(self.extra)

    def _wire_item(self, url: str) -> object:
        if not self.item:
            return url
        return {key: url if value == _URL_PLACEHOLDER else value for key, value in self.item.items()}


@dataclass(frozen=True, kw_only=True)
class OperationInputs:
    """What one operation of a model takes; None and empty mean that it takes no such thing.

    :param images: Layouts by ascending number of images.
    :param image_required: There is no text-to-video.
    :param without_image: Wire fields that a request without an image needs.
    """

    prompt: PromptField = PromptField()
    duration: DurationField | None = None
    aspect_ratio: AspectRatioField | None = None
    images: tuple[ImageLayout, ...] = ()
    image_required: bool = False
    without_image: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.image_required and (self.without_image or not self.images):
            raise ValueError("image_required contradicts the images")
        expected: int | None = 1
        for layout in self.images:
            if layout.minimum != expected:
                raise ValueError(f"{layout.field} begins at {layout.minimum} images instead of {expected}")
            expected = None if layout.maximum is None else layout.maximum + 1

    def image_layout(self, image_count: int) -> ImageLayout | None:
        """Return the layout for so many images, if there is one."""
        return next((layout for layout in self.images if layout.holds(image_count)), None)

    def image_fields(self, image_urls: Sequence[str]) -> dict[str, object]:
        """Return the wire fields for these images, or for none."""
        layout = self.image_layout(len(image_urls))
        return layout.wire_fields(image_urls) if layout else dict(self.without_image)

    def fields_beside(self, written: Collection[str]) -> dict[str, object]:
        """Return the wire fields that go with image fields which the author writes; none where these are ambiguous."""
        layouts = [layout for layout in self.images if not set(written).isdisjoint(layout.names)]
        return dict(layouts[0].extra) if len(layouts) == 1 else {}

    @property
    def allowed_images(self) -> str:
        """How many images are allowed, in words."""
        if not self.images:
            return "takes no image"
        maximum = self.images[-1].maximum
        if self.image_required:
            number = {1: "exactly one image", None: "at least one image"}.get(maximum, f"1 to {maximum} images")
            return f"needs {number}, {'an' if maximum == 1 else 'each an'} http(s) URL or a file"
        number = {1: "at most one image", None: "any number of images"}.get(maximum, f"at most {maximum} images")
        return f"takes {number}"


def _nested(path: str, value: object) -> dict[str, object]:
    outer, _, inner = path.partition(".")
    return {outer: _nested(inner, value) if inner else value}


def _either(values: Sequence[object]) -> str:
    *others, last = map(str, values)
    return f"{', '.join(others)} or {last}" if others else last
