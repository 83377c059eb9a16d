"""Base of operators that return videos. It checks the output path, and provides links, asset events and lineage."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from airflow.providers.common.compat.sdk import BaseOperatorLink

from airflow_provider_toapis.api.download import UNKNOWN_FORMAT
from airflow_provider_toapis.api.settings import require_bool
from airflow_provider_toapis.api.texts import require_encodable
from airflow_provider_toapis.assets import describe_outlets, metadata_of
from airflow_provider_toapis.exceptions import (
    RESCHEDULABLE_ERRORS,
    ToAPIsError,
    ToAPIsRequestError,
    ToAPIsUnavailableError,
    keep_retryable,
)
from airflow_provider_toapis.links.video import ToAPIsVideoLink, push_video_link
from airflow_provider_toapis.media_check import (
    CheckMode,
    Expected,
    MediaFacts,
    MediaOptions,
    check_mode,
    has_poster_of,
    inspect_video,
)
from airflow_provider_toapis.operators.rendered_fields import RenderedFieldsOperator, mask_query
from airflow_provider_toapis.receipts import update_receipt
from airflow_provider_toapis.storage import is_file_name
from airflow_provider_toapis.version_compat import is_rescheduled

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_toapis.assets import VideoMetadata

#: Texts that match are used as file names unchanged. A text that ends with a hash does not match, because the filter
#: could make the same name for another text.
_PLAIN_NAME = re.compile(r"(?!.*-[0-9a-f]{12}$)[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")


def file_name(value: object) -> str:
    """Turn any text into a file name without extension. Use it as a filter: ``{{ params.sku | file_name }}``.

    Different texts get different names. On a file system that ignores case, texts that differ only in case can get the
    same name.

    :raises ToAPIsRequestError: The text is empty or contains a lone surrogate.
    """
    text = str(value)
    if value is None or text in {"", "None"}:
        raise ToAPIsRequestError.for_field("output_path", text, "must be a string that is not empty")
    require_encodable("output_path", text)
    if _PLAIN_NAME.fullmatch(text):
        return text
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")[:60] or "video"
    return f"{readable}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def require_inside(template: object, output_path: object) -> None:
    """Reject a path with more ``..`` segments than its template.

    :param template: The path as the DAG author wrote it; None if the whole path comes from data.
    :raises ToAPIsRequestError: The path contains a ``..`` segment that its template does not contain.
    """
    if isinstance(output_path, str) and _count_parents(output_path) > _count_parents(template):
        raise ToAPIsRequestError.for_field(
            "output_path",
            output_path,
            "templates and mapped values must not add '..' to a path. In a template, use the filter file_name for a"
            " safe name, for example {{ params.sku | file_name }}",
        )


def _count_parents(path: object) -> int:
    if not isinstance(path, str):
        return 0
    # File URIs are decoded here, because they are percent-decoded when they are used.
    path = unquote(path) if path.startswith(("file:", "local:")) else path
    return re.split(r"[/\\]", path).count("..")


class OutputPathOperator(RenderedFieldsOperator):
    """Base of operators with a templated ``output_path``. Adds the filter ``file_name`` to their templates."""

    output_path: Any
    check: CheckMode | None
    poster: bool

    def _set_media_options(self, check: CheckMode | None, *, poster: bool) -> None:
        """Set the arguments ``check`` and ``poster``.

        :raises ToAPIsRequestError: A value is not accepted.
        """
        self.check = None if check is None else check_mode(check)
        self.poster = require_bool("poster", poster)

    def _rescheduled(self, context: Context, when: Callable[[], bool] = lambda: True) -> AbstractContextManager[None]:
        """Let the task's retry policy reschedule the task if the service accepts no submission right now.

        :param when: Called after an error. Returns whether it is certain that no video was submitted.
        """
        return keep_retryable(
            ToAPIsUnavailableError.because_of,
            when=lambda: is_rescheduled(self, ToAPIsUnavailableError(""), context) and when(),
            errors=RESCHEDULABLE_ERRORS,
        )

    @property
    def _media_options(self) -> MediaOptions:
        """How saved videos are checked, and whether posters are saved.

        :raises ToAPIsRequestError: ``[toapis] check`` is invalid.
        """
        return MediaOptions(check_mode(self.check), self.poster)

    def _do_render_template_fields(
        self,
        parent: Any,  # noqa: ANN401
        template_fields: Iterable[str],
        context: Any,  # noqa: ANN401
        jinja_env: Any,  # noqa: ANN401
        *args: Any,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        # Airflow calls this method for both mapped and unmapped tasks.
        if parent is not self:
            super()._do_render_template_fields(parent, template_fields, context, jinja_env, *args, **kwargs)
            return
        jinja_env.filters.setdefault("file_name", file_name)
        template = self.output_path if self._is_output_path_from_author() else None
        super()._do_render_template_fields(parent, template_fields, context, jinja_env, *args, **kwargs)
        require_inside(template, self.output_path)
        if context.get("loop") is not None and isinstance(template, str):
            self._warn_of_fixed_name(template)

    def _warn_of_fixed_name(self, template: str) -> None:
        """Warn if all iterations of a loop (Airflow 3.4) save their videos as the same file."""
        if "{{" not in template and "{%" not in template and is_file_name(template):
            self.log.warning(
                "Each iteration of this loop saves its video as %s, over the video of the iteration before."
                " Use {{ loop.index }} in output_path.",
                template,
            )

    def _is_output_path_from_author(self) -> bool:
        """Return whether ``output_path`` is written in the DAG file. If not, it is a mapped value from another task."""
        declared = self.dag.task_dict.get(self.task_id) if self.has_dag() else None  # type: ignore[no-untyped-call]
        if "output_path" in getattr(declared, "partial_kwargs", {"output_path"}):
            return True
        mapped = getattr(declared, getattr(declared, "_expand_input_attr", ""), None)
        value = getattr(mapped, "value", None)
        if isinstance(value, dict):
            value = value.get("output_path")
        return isinstance(value, list | tuple) and all(isinstance(item, str | dict) for item in value)


class VideoResultMixin(OutputPathOperator):
    """Base of operators whose result is one or more videos."""

    operator_extra_links: Sequence[BaseOperatorLink] = (ToAPIsVideoLink(),)

    _videos: Sequence[VideoMetadata] = ()

    def _checked(self, result: dict[str, Any], key: str | None, expected: Expected) -> dict[str, Any]:
        """Check a saved video, unless an earlier attempt did. Return its result with facts and warnings.

        :param result: The result of a saved video. The facts and warnings are also written to the video's receipt.
        :param key: The key of the receipt; None if the video has no receipt.
        """
        options, path, video_id = self._media_options, result["output_path"], result["id"]
        if not has_poster_of(path, video_id, result["poster_path"]):
            result = result | {"poster_path": None}
        if not options.is_missing(result):
            return result
        report = inspect_video(
            path, expected, options, video_id=video_id, size=result["size"], model=result.get("model")
        )
        checked = report.merged_into(result)
        if key and checked != result:
            try:
                update_receipt(self.output_path, key, checked)
            except ToAPIsError as error:
                # The receipt already exists. If it lacks the facts, the next attempt checks the video again.
                self.log.warning(
                    "Checked the saved video %s, but cannot write the facts and warnings to its receipt: %s",
                    video_id,
                    error.without_cost,
                )
        return checked

    def _log_saved(self, result: Mapping[str, Any]) -> None:
        media = result["media"]
        self.log.info(
            "Saved video %s at %s (%s bytes)%s.",
            result["id"],
            result["output_path"],
            f"{result['size']:,}",
            f": {MediaFacts(**media)}" if media else "",
        )
        # The download has logged its own warning.
        self._log_warnings(result, known=(UNKNOWN_FORMAT,))

    def _log_warnings(self, result: Mapping[str, Any], known: Sequence[str] = ()) -> None:
        """Log the warnings of a saved video, except those that an earlier attempt has logged."""
        for warning in result["warnings"]:
            if warning not in known:
                self.log.warning("Video %s: %s.", result["id"], warning)

    def _require_match(self, result: Mapping[str, Any]) -> None:
        """Reject a saved video that is not what was requested, if ``check`` is ``fail``.

        :raises ToAPIsVideoCheckError: The video is not what was requested.
        """
        if result["output_path"]:
            self._media_options.require_match(result["id"], result["output_path"], result["warnings"])

    def get_openlineage_facets_on_complete(self, task_instance: object) -> OperatorLineage[Any, Any] | None:  # noqa: ARG002
        """Return the videos, their source images and their price for OpenLineage."""
        if not self._videos:
            return None
        from airflow_provider_toapis.lineage import lineage

        return lineage(self._videos)

    def _describe(self, context: Context, results: Sequence[Mapping[str, Any]], **request: Any) -> None:  # noqa: ANN401
        """Push the URL of the extra link, and add the videos to the asset events and the lineage.

        :param request: Fields of the request, as arguments of :func:`~airflow_provider_toapis.assets.metadata_of`.
        """
        self._videos = [metadata_of(result, **request) for result in results]
        describe_outlets(context, self.outlets, self._videos)
        if results:
            # The URL is masked first, because Airflow logs a task's extra links and its result at DEBUG level.
            mask_query(results[0].get("url"))
            push_video_link(context, results[0])
