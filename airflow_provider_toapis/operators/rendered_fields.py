"""What becomes of an operator's template fields between rendering and use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from airflow.providers.common.compat.sdk import mask_secret

from airflow_provider_toapis.api.texts import emptied, is_nothing, require_path, require_text
from airflow_provider_toapis.exceptions import ToAPIsRequestError
from airflow_provider_toapis.mapped_values import AuthorTemplatesOperator
from airflow_provider_toapis.redaction import secrets_in, without_signatures

#: Airflow compiles all its patterns again with each new one: 60 of long tokens took five seconds.
MAX_PATTERNS = 20


def mask_query(url: object) -> None:
    """Let Airflow mask the query of a result's link, whoever signed it."""
    query = str(url or "").partition("?")[2].partition("#")[0]
    if query:
        mask_secret(query)


def mask_signatures(*values: object) -> bool:
    """Let Airflow mask the signature of each presigned URL anywhere in ``values``, if they are few.

    Return whether that is done; otherwise nothing is masked.
    """
    secrets = list(dict.fromkeys(secrets_in(values)))
    if len(secrets) > MAX_PATTERNS:
        return False
    for secret in secrets:
        # A lone surrogate is rejected later; Airflow 2 cannot mask it.
        mask_secret(secret.encode(errors="ignore").decode())
    return True


#: Arguments of the author's function, who alone knows what they may be.
_FUNCTION_FIELDS = frozenset({"op_args", "op_kwargs"})
#: Names that no request checks.
_NAME_FIELDS = frozenset({"client_business_id", "identity"})
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class RenderedFieldsOperator(AuthorTemplatesOperator):
    """An operator that shows no signature in its rendered fields, and notices templates that rendered to nothing.

    Airflow stores and shows whatever the template fields hold once they are rendered. The signatures of a few presigned
    URLs are masked. The time for that grows with the square of their number, so where they are many, their fields hold
    the URLs without signatures; :meth:`_given` returns them as they were given.
    """

    # By field: what is shown, and what was given.
    _signed: Mapping[str, tuple[Any, Any]] = _NOTHING
    # By field: what a template with more in it rendered to.
    _emptied: Mapping[str, Any] = _NOTHING

    def _do_render_template_fields(
        self,
        parent: Any,  # noqa: ANN401
        template_fields: Iterable[str],
        *args: Any,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        # The one place that mapped and plain tasks pass before their rendered fields are stored and shown.
        fields = tuple(template_fields)
        if parent is not self:
            super()._do_render_template_fields(parent, fields, *args, **kwargs)
            return
        before = {name: getattr(self, name) for name in fields if name not in _FUNCTION_FIELDS}
        super()._do_render_template_fields(parent, fields, *args, **kwargs)
        after = {name: getattr(self, name) for name in before}
        self._emptied = {name: value for name, value in after.items() if emptied(before[name], value)}
        self._hide_signatures()

    def _hide_signatures(self) -> None:
        """Show the template fields without signatures from now on."""
        values = {name: getattr(self, name) for name in self.template_fields}
        if mask_signatures(*values.values()):
            return
        for name, value in values.items():
            if any(secrets_in(value)):
                shown = without_signatures(value)
                self._signed = {**self._signed, name: (shown, value)}
                setattr(self, name, shown)

    def _unmasked(self, name: str) -> Any:  # noqa: ANN401
        """Return a template field with the signatures that it was given with."""
        value = getattr(self, name)
        shown, given = self._signed.get(name, (None, None))
        return given if given is not None and value is shown else value

    def _require_rendered(self, *optional: str) -> None:
        """Reject a template that rendered to nothing: it usually means that an ``xcom_pull`` found nothing.

        :param optional: Fields that may be blank.
        :raises ToAPIsRequestError: Names the field.
        """
        for name in _NAME_FIELDS.intersection(self.template_fields):
            require_text(name, getattr(self, name))
        require_path("output_path", getattr(self, "output_path", None))
        for name, rendered in self._emptied.items():
            if self._unmasked(name) is not rendered or (name in optional and is_nothing(rendered)):
                continue
            raise ToAPIsRequestError.for_field(
                name,
                rendered if is_nothing(rendered) else type(rendered).__name__,
                "its template rendered to nothing, which usually means that an xcom_pull found nothing",
            )
