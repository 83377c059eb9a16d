"""The connection form for Airflow below 3.2, which asks the hook for it; made from the provider's info."""

from __future__ import annotations

from typing import Any

from airflow_provider_toapis.get_provider_info import CONNECTION_FIELDS, FIELD_BEHAVIOUR


def form_widgets() -> dict[str, Any]:
    """Return the fields of the extra as form widgets."""
    from flask_appbuilder.fieldwidgets import BS3PasswordFieldWidget, BS3TextFieldWidget
    from flask_babel import lazy_gettext
    from wtforms import StringField

    return {
        name: StringField(
            lazy_gettext(spec["label"]),
            description=spec["description"],
            widget=BS3PasswordFieldWidget() if spec["schema"].get("format") == "password" else BS3TextFieldWidget(),
        )
        for name, spec in CONNECTION_FIELDS.items()
    }


def field_behaviour() -> dict[str, Any]:
    """Return the names of the standard fields, spelt as those versions spell the keys."""
    return {key.replace("-", "_"): value for key, value in FIELD_BEHAVIOUR.items()}
