"""Write docs/models.md from the model catalog: ``python -m dev.scripts.render_models``. A test checks the file."""

from __future__ import annotations

import tomllib
from itertools import starmap
from pathlib import Path

from airflow_provider_toapis.api.model_catalog import VideoModel, video_models
from airflow_provider_toapis.api.model_inputs import AspectRatioField, DurationField

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
_PARAMETER_NAMES = Path(__file__).parent / "model_parameters.toml"

_HEAD = """# Models

The model catalog of this version, from the vendor's pages. Other values are rejected before a submission, except in
`parameters`, which are sent unchecked. A model that is not in the catalog is submitted unchecked, with a warning.

`ToAPIsHook().list_models()` returns the models that your key can use, and `get_pricing()` their prices. Both are free.
"Newer pages list ..." means that the vendor's newest pages no longer list a model; your key can still offer it.
The prices below, in USD, are from the vendor's pages. The prices that the service lists for your key
[take precedence](cost.md#what-it-will-cost).

| Model | Duration (seconds) | Price | Aspect ratio | Images | Operations |
|---|---|---|---|---|---|
"""
_PARAMETERS = """
## Further `parameters`

Additional fields in the vendor's pages. They are sent unchecked.

| Model | `parameters` |
|---|---|
"""


def page() -> str:
    """Return the text of the page."""
    parameter_rows = starmap(_parameters_row, parameter_names().items())
    return _HEAD + "".join(map(_row, video_models())) + _PARAMETERS + "".join(parameter_rows)


def parameter_names() -> dict[str, list[str]]:
    """Return the names of the additional wire fields of each model, by its id."""
    return tomllib.loads(_PARAMETER_NAMES.read_text(encoding="utf-8"))


def _row(model: VideoModel) -> str:
    inputs = model.generate
    return _cells(
        f"`{model.id}`{f' (newer pages list `{model.successor}`)' if model.successor else ''}",
        _duration(inputs.duration),
        _price(model),
        _aspect_ratio(inputs.aspect_ratio),
        inputs.allowed_images,
        ", ".join(model.operations),
    )


def _parameters_row(model_id: str, names: list[str]) -> str:
    return _cells(f"`{model_id}`", ", ".join(f"`{name}`" for name in names))


def _cells(*cells: str) -> str:
    return f"| {' | '.join(cells)} |\n"


def _duration(field: DurationField | None) -> str:
    if field is None:
        return "not accepted"
    if field.default in field.special:
        default = "; default: the model decides"
    else:
        default = f"; default {field.default}" if field.default is not None else ""
    return f"{field.allowed.partition(' seconds')[0]}{default}"


def _aspect_ratio(field: AspectRatioField | None) -> str:
    if field is None:
        return "not accepted"
    default = f"; default {field.default}" if field.default is not None else ""
    return f"{field.allowed}{default}"


def _price(model: VideoModel) -> str:
    return ", ".join(f"{price} for {seconds} s" for seconds, price in model.price_per_request.items()) or "-"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
