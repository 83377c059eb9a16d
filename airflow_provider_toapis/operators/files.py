"""Move files to the service and videos from it. Costs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_toapis.api.download import video_result
from airflow_provider_toapis.exceptions import ToAPIsNotFoundError, unknown_video
from airflow_provider_toapis.hooks.toapis import ToAPIsHook

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class ToAPIsUploadFileOperator(BaseOperator):
    """Upload a picture, a video or an audio file; return ``id``, ``url``, ``mime_type`` and ``size``.

    The content tells what it is: JPEG, PNG, WebP or GIF of at most 10 MB; MP4, WebM or MOV, or MP3, WAV or M4A of at
    most 50 MB. The URL is public. How long the service keeps it is not documented: upload per run.

    :param source: Local path or object storage URI. (templated)
    :param toapis_conn_id: Airflow connection. (templated)
    :raises ToAPIsRequestError: Not a file of a type and size that the service takes.
    """

    template_fields: Sequence[str] = ("source", "toapis_conn_id")

    def __init__(self, *, source: str, toapis_conn_id: str = "toapis_default", **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(**kwargs)
        self.source = source
        self.toapis_conn_id = toapis_conn_id

    def execute(self, context: Context) -> dict[str, Any]:  # noqa: ARG002
        """Upload, and return where the file stands now."""
        uploaded = ToAPIsHook(self.toapis_conn_id).upload_file(self.source)
        self.log.info("Uploaded %s (%s, %s bytes).", self.source, uploaded.mime_type, uploaded.size)
        return uploaded.as_dict()


class ToAPIsDownloadVideoOperator(BaseOperator):
    """Download a finished video; return its dict with ``output_path``, ``size`` and ``sha256``.

    :param video_id: The video's id, or its client_business_id. (templated)
    :param output_path: A directory, which gets ``<video id>.<format>``, or a file name, on local disk or in object
        storage. Nothing half-written is ever visible. (templated)
    :param toapis_conn_id: Airflow connection. (templated)
    :raises ToAPIsDownloadError: The video is not finished, or no whole file arrived. It stays paid; a retry downloads
        it again and orders nothing.
    """

    template_fields: Sequence[str] = ("video_id", "output_path", "toapis_conn_id")

    def __init__(
        self,
        *,
        video_id: str,
        output_path: str,
        toapis_conn_id: str = "toapis_default",
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(**kwargs)
        self.video_id = video_id
        self.output_path = output_path
        self.toapis_conn_id = toapis_conn_id

    def execute(self, context: Context) -> dict[str, Any]:  # noqa: ARG002
        """Download, and return the video with the place it is kept at."""
        hook = ToAPIsHook(self.toapis_conn_id)
        try:
            task = hook.get_video(self.video_id)
        except ToAPIsNotFoundError as error:
            raise unknown_video(self.video_id) from error
        stored = hook.download_video(task, self.output_path)
        self.log.info("Kept video %s at %s (%s bytes).", task.id, stored.path, f"{stored.size:,}")
        return video_result(task, task.client_business_id, stored)
