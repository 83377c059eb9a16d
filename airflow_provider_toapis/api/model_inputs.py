"""Inputs of one operation of a video model: prompt, duration, aspect ratio and images.

Each class checks a value that the author sets, and converts an accepted value to the wire format. The constructors
raise ValueError for contradictory facts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

#: Placeholder of the image URL in an item template of ``model_catalog.toml``.
_URL_PLACEHOLDER = "$url"


@dataclass(frozen=True, kw_only=True)
class PromptField:
    """The prompt.

    :param required: Whether the model requires a prompt.
    :param max_length: Maximum characters; None if it is not documented.
    """

    required: bool = True
    max_length: int | None = None


@dataclass(frozen=True, kw_only=True)
class DurationField:
    """Length of the video in seconds: one of ``values``, or a range if ``values`` is empty.

    :param field: Wire field.
    :param type: JSON type of the wire field.
    :param values: Allowed lengths.
    :param minimum: Start of the range (default 1).
    :param maximum: End of the range; None if it is not documented.
    :param special: Further values that let the model choose the length.
    :param default: Length that the model uses if the field is not sent; None if it is not documented.
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
            raise ValueError(f"maximum duration {self.maximum} is below the minimum {self.minimum}")
        if self.default is not None and not self.accepts(self.default):
            raise ValueError(f"default duration {self.default} is not allowed")

    def accepts(self, duration: object) -> bool:
        """Return whether ``duration`` is an allowed int. A bool is not allowed."""
        if not isinstance(duration, int) or isinstance(duration, bool):
            return False
        if duration in self.special:
            return True
        if self.values:
            return duration in self.values
        return duration >= self.minimum and (self.maximum is None or duration <= self.maximum)

    @property
    def allowed(self) -> str:
        """The allowed values, for messages."""
        if self.values:
            allowed = _join_or(self.values)
        elif self.maximum is None:
            allowed = f"{self.minimum} or more"
        else:
            allowed = f"{self.minimum} to {self.maximum}"
        special = f", or {_join_or(self.special)} to let the model decide" if self.special else ""
        return f"{allowed} seconds, as an integer{special}"

    def wire_value(self, duration: int) -> int | str:
        """Return ``duration`` as the JSON type of the wire field."""
        return str(duration) if self.type == "string" else duration


@dataclass(frozen=True, kw_only=True)
class AspectRatioField:
    """Aspect ratio as ``W:H`` or a word such as ``adaptive``.

    :param field: Wire field.
    :param values: Allowed values. If empty, any string is allowed.
    :param default: Aspect ratio that the model uses if the field is not sent; None if it is not documented.
    """

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
        """The allowed values, for messages."""
        return _join_or(self.values) if self.values else "a ratio such as '16:9'"


@dataclass(frozen=True, kw_only=True)
class ImageLayout:
    """Wire format of the images of a request. It is used if the request has ``minimum`` to ``maximum`` images.

    :param field: Wire field; dots separate nested objects.
    :param shape: ``list``, or ``string`` for a single image.
    :param item: Template of the object for one image, with ``$url`` for its URL. If empty, the URL itself is sent.
    :param minimum: Minimum number of images (default 1).
    :param maximum: Maximum number of images; None if it is not documented.
    :param extra: Further wire fields that are sent with this layout.
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
            raise ValueError(f"{self.field} takes a single image URL, not several")
        if self.item and _URL_PLACEHOLDER not in self.item.values():
            raise ValueError(f"the item of {self.field} does not contain {_URL_PLACEHOLDER}")
        if self.maximum is not None and self.maximum < self.minimum:
            raise ValueError(f"{self.field} has a maximum of {self.maximum} images, below the minimum {self.minimum}")

    @property
    def names(self) -> tuple[str, ...]:
        """All names of the field."""
        return (self.field, *self.aliases)

    def accepts(self, image_count: int) -> bool:
        """Return whether this layout is for ``image_count`` images."""
        return image_count >= self.minimum and (self.maximum is None or image_count <= self.maximum)

    def wire_fields(self, image_urls: Sequence[str]) -> dict[str, object]:
        """Return the wire fields for these images."""
        images = [self._wire_item(url) for url in image_urls]
        return _nested(self.field, images[0] if self.shape == "string" else images) | dict(self.extra)

    def _wire_item(self, url: str) -> object:
        if not self.item:
            return url
        return {key: url if value == _URL_PLACEHOLDER else value for key, value in self.item.items()}


@dataclass(frozen=True, kw_only=True)
class OperationInputs:
    """Inputs of one operation of a model. If an input is None or empty here, the operation does not accept it.

    :param images: Layouts in ascending order of their number of images.
    :param image_required: Whether the operation requires an image, because it cannot make a video from text alone.
    :param without_image: Further wire fields of a request without an image.
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
                raise ValueError(f"{layout.field} has a minimum of {layout.minimum} images instead of {expected}")
            expected = None if layout.maximum is None else layout.maximum + 1

    def image_layout(self, image_count: int) -> ImageLayout | None:
        """Return the layout for ``image_count`` images; None if that number is not accepted."""
        return next((layout for layout in self.images if layout.accepts(image_count)), None)

    def image_fields(self, image_urls: Sequence[str]) -> dict[str, object]:
        """Return the wire fields for these images. ``image_urls`` can be empty."""
        layout = self.image_layout(len(image_urls))
        return layout.wire_fields(image_urls) if layout else dict(self.without_image)

    def extra_fields(self, author_fields: Collection[str]) -> dict[str, object]:
        """Return the further wire fields of the layout whose image field is one of ``author_fields``.

        The result is empty if there is no such layout, or more than one.
        """
        layouts = [layout for layout in self.images if not set(author_fields).isdisjoint(layout.names)]
        return dict(layouts[0].extra) if len(layouts) == 1 else {}

    @property
    def allowed_images(self) -> str:
        """The allowed number of images, for messages."""
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


def _join_or(values: Sequence[object]) -> str:
    *others, last = map(str, values)
    return f"{', '.join(others)} or {last}" if others else last
