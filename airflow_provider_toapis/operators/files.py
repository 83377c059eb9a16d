"""Operators that upload files to the service and download videos. Uploads and downloads cost nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from airflow_provider_toapis.api.download import MAX_BYTES, video_result
from airflow_provider_toapis.api.flows import video_path
from airflow_provider_toapis.api.settings import require_whole_number
from airflow_provider_toapis.api.texts import require_path
from airflow_provider_toapis.exceptions import (
    ToAPIsNotFoundError,
    ToAPIsRequestError,
    unknown_video,
)
from airflow_provider_toapis.hooks.toapis import ToAPIsHook
from airflow_provider_toapis.media_check import CheckMode, Expected
from airflow_provider_toapis.operators.rendered_fields import RenderedFieldsOperator
from airflow_provider_toapis.operators.results import VideoResultMixin
from airflow_provider_toapis.operators.submission_record import VIDEOS_KEY, downloaded_video
from airflow_provider_toapis.receipts import saved_result, write_receipt
from airflow_provider_toapis.storage import destination, is_file_name

if TYPE_CHECKING:
    from typing import Unpack

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_toapis.base_arguments import BaseOperatorArguments

__all__ = ["ToAPIsDownloadVideoOperator", "ToAPIsUploadFileOperator"]


class ToAPIsUploadFileOperator(RenderedFieldsOperator):
    """Upload an image, a video or an audio file; return ``id``, ``url``, ``mime_type`` and ``size``.

    The type is detected from the content. Accepted are JPEG, PNG, WebP and GIF of at most 10 MB, and MP4, WebM, MOV,
    MP3, WAV and M4A of at most 50 MB. The URL is public. It is not documented how long the service keeps a file, so
    upload the file again in each run.

    :param source: Local path or object storage URI. (templated)
    :param toapis_conn_id: Airflow connection (default ``toapis_default``). (templated)
    :raises ToAPIsRequestError: The service does not accept a file of this type or size.
    """

    template_fields: Sequence[str] = ("source", "toapis_conn_id")

    def __init__(
        self, *, source: str, toapis_conn_id: str = "toapis_default", **kwargs: Unpack[BaseOperatorArguments]
    ) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.toapis_conn_id = toapis_conn_id

    def execute(self, context: Context) -> dict[str, Any]:  # noqa: ARG002
        """Upload the file and return its description."""
        self._require_rendered()
        require_path("source", self.source)
        uploaded = ToAPIsHook(self.toapis_conn_id).upload_file(self.source)
        self.log.info("Uploaded %s (%s, %s bytes).", self.source, uploaded.mime_type, uploaded.size)
        return uploaded.as_dict()


class ToAPIsDownloadVideoOperator(VideoResultMixin):
    """Download a finished video; return a dict with its fields, ``output_path``, ``size`` and ``sha256``.

    A video that an earlier attempt saved is not downloaded again, even after its URL has expired.

    :param video_id: The video's id or client_business_id, or a list of them. For a list, the task returns a list of
        dicts in the same order. (templated)
    :param output_path: Where to save the video, on local disk or in object storage: a directory, or a file name if
        there is only one video. In a directory, the file is named ``<video id>.<format>``. A file becomes visible only
        when it is complete. (templated)
    :param max_bytes: Maximum size of a video file in bytes (default 2 GiB). A larger file is not saved.
    :param check: What happens if a saved video is black, frozen or truncated. ``warn`` logs warnings and adds them to
        the result, ``fail`` fails the task, ``off`` does not check the videos. Needs the extra ``media``. Default:
        ``[toapis] check``, else ``warn``.
    :param poster: Also save a JPEG image of each video, beside the file and with its name (default False). Needs the
        extra ``media``.
    :param max_active: Maximum number of videos that are downloaded at a time (default 4).
    :param toapis_conn_id: Airflow connection (default ``toapis_default``). (templated)
    :raises ToAPIsRequestError: The service does not find the video, or ``output_path`` cannot be used.
    :raises ToAPIsDownloadError: A video is not finished, was downloaded incompletely, or is too large. The video is
        billed. A retry downloads it again and submits nothing. The other videos of a list are saved.
    :raises ToAPIsVideoCheckError: A saved video is black, frozen or truncated, and ``check`` is ``fail``. All videos
        are saved.
    """

    template_fields: Sequence[str] = ("video_id", "output_path", "toapis_conn_id")

    def __init__(
        self,
        *,
        video_id: str | Sequence[str],
        output_path: str,
        max_bytes: int = MAX_BYTES,
        check: CheckMode | None = None,
        poster: bool = False,
        max_active: int = 4,
        toapis_conn_id: str = "toapis_default",
        **kwargs: Unpack[BaseOperatorArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.max_bytes = require_whole_number("max_bytes", max_bytes)
        self._set_media_options(check, poster=poster)
        self.max_active = require_whole_number("max_active", max_active)
        self.video_id = video_id
        self.output_path = output_path
        self.toapis_conn_id = toapis_conn_id

    def execute(self, context: Context) -> Any:  # noqa: ANN401 - a dict, or a list of them
        """Download the videos; return one dict, or a list of them for a list of ids."""
        video_ids = self._checked_ids()
        self._media_options.require_packages()
        with ThreadPoolExecutor(self.max_active) as threads:
            downloads = {
                video_id: threads.submit(self._save, video_id, context["ti"]) for video_id in dict.fromkeys(video_ids)
            }
        # All downloads have ended when the executor closes. The first error is raised only now.
        saved = {video_id: download.result() for video_id, download in downloads.items()}
        context["ti"].xcom_push(key=VIDEOS_KEY, value=[downloaded_video(result) for result in saved.values()])
        self._describe(context, list(saved.values()))
        for result in saved.values():
            self._require_match(result)
        return saved[self.video_id] if isinstance(self.video_id, str) else [saved[video_id] for video_id in video_ids]

    def _checked_ids(self) -> list[str]:
        self._require_rendered()
        video_ids = _as_list(self.video_id)
        for video_id in video_ids:
            video_path(video_id)
        if len(video_ids) > 1 and is_file_name(self.output_path):
            raise ToAPIsRequestError.for_field(
                "output_path", self.output_path, "must be a directory to download several videos"
            )
        return video_ids

    def _save(self, video_id: str, ti: Any) -> dict[str, Any]:  # noqa: ANN401 - Airflow's task instance
        saved = saved_result(self.output_path, video_id)
        if (
            saved
            and destination(self.output_path, saved["output_path"].rpartition("/")[2]).path == saved["output_path"]
        ):
            self.log.info("Video %s is already saved at %s. Nothing is downloaded.", saved["id"], saved["output_path"])
            checked = self._checked(saved, video_id, Expected())
            self._log_warnings(checked, known=saved["warnings"])
            return checked
        hook = ToAPIsHook(self.toapis_conn_id)
        try:
            task = hook.get_video(video_id)
        except ToAPIsNotFoundError as error:
            raise unknown_video(video_id) from error
        stored = hook.download_video(task, self.output_path, max_bytes=self.max_bytes)
        result = video_result(task, task.client_business_id, stored)
        write_receipt(self.output_path, video_id, result, ti)
        result = self._checked(result, video_id, Expected())
        self._log_saved(result)
        return result


def _as_list(video_id: Any) -> list[str]:  # noqa: ANN401 - whatever a template rendered to
    """Return the ids as a list, also for a single id. The caller checks each id."""
    return list(video_id) if isinstance(video_id, Iterable) and not isinstance(video_id, str) else [video_id]
