"""Hook that calls ToAPIs through an Airflow connection."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_toapis import metrics
from airflow_provider_toapis.api.clock import clock
from airflow_provider_toapis.api.defaults import DERIVED_MODEL, MODEL, POLL_INTERVAL, RATE_LIMIT_TIMEOUT, RETRY_TIMEOUT
from airflow_provider_toapis.api.download import MAX_BYTES, require_finished
from airflow_provider_toapis.api.poll_schedule import ResumedSchedule, Schedule
from airflow_provider_toapis.api.polling import KeepWaiting, VideoWait, WaitResult
from airflow_provider_toapis.api.pricing import PriceList
from airflow_provider_toapis.api.submit_spec import IdempotencyKeys, SubmitSpec
from airflow_provider_toapis.exceptions import ToAPIsError, ToAPIsWaitInterruptedError
from airflow_provider_toapis.hooks.connection import ToAPIsBaseHook
from airflow_provider_toapis.hooks.request_builder import source_file, video_request
from airflow_provider_toapis.storage import destination
from airflow_provider_toapis.version_compat import AIRFLOW_V_3_2_PLUS

if TYPE_CHECKING:
    from decimal import Decimal

    from airflow_provider_toapis.api.download import StoredFile
    from airflow_provider_toapis.api.flows import RecordSubmission
    from airflow_provider_toapis.api.media_types import MediaKind
    from airflow_provider_toapis.api.polling import Decision, WaitResult
    from airflow_provider_toapis.api.pricing import OfferedPrice
    from airflow_provider_toapis.api.responses import Balance, OfferedModel, UploadedFile, VideoTask
    from airflow_provider_toapis.api.submit_spec import Submission, SubmitSpec
    from airflow_provider_toapis.api.video_request import Operation, VideoRequest

__all__ = ["ToAPIsHook"]

log = logging.getLogger(__name__)

T = TypeVar("T")


class ToAPIsHook(ToAPIsBaseHook):
    """Call ToAPIs through an Airflow connection.

    The connection's password is the API key. Host (default ``https://toapis.com``), port and extra are optional. The
    extra can contain ``timeout``, ``verify``, ``proxy``, ``namespace``, ``query_rate``, ``submit_rate`` and the
    ``webhook`` fields.

    Every method raises the errors of :mod:`airflow_provider_toapis.exceptions`. Only calls of ``submit_video``,
    ``remix_video``, ``extend_video`` and ``submit_once`` are billed.

    :param toapis_conn_id: Airflow connection, of type ``toapis`` or ``http`` (default ``toapis_default``).
    """

    # -- connection form ----------------------------------------------------------------------------------------

    def test_connection(self) -> tuple[bool, str]:
        """Test the connection for the Test button of its form. The test requests the balance, which is free."""
        from airflow_provider_toapis.hooks.connection_test import balance_in_time

        try:
            balance = balance_in_time(self.settings())
        except ToAPIsError as error:
            return False, str(error)
        if balance.unlimited:
            return True, "Connected. The key has no limit."
        left = f"{balance.remain_usd:.2f} USD" if balance.remain_usd is not None else "an unknown amount"
        return True, f"Connected. {left} left on the key."

    # Airflow 3.2 and newer read the form from get_provider_info(). Older versions call these methods of this class.
    if not AIRFLOW_V_3_2_PLUS:

        @classmethod
        def get_connection_form_widgets(cls) -> dict[str, Any]:
            """Return the form fields of the connection's extra."""
            from airflow_provider_toapis.hooks.connection import form_widgets

            return form_widgets()

        @classmethod
        def get_ui_field_behaviour(cls) -> dict[str, Any]:
            """Return the labels of the form fields."""
            from airflow_provider_toapis.hooks.connection import field_behavior

            return field_behavior()

    # -- submitting: billed -------------------------------------------------------------------------------------

    def submit_once(
        self, spec: SubmitSpec, remember: Callable[[RecordSubmission], bool | None] = lambda _: None
    ) -> Submission:
        """Re-attach to the video that an earlier attempt submitted with the same idempotency keys, or submit it.

        :param spec: The request to submit, and what is known about earlier submissions.
        :param remember: Called before each POST, and again after the response, to record the submission for the next
            attempt. If it returns False, another process has claimed the submission, and no POST is sent.
        """
        with self.client() as client:
            return client.submit_once(spec, remember)

    def submit_video(
        self,
        *,
        prompt: str | None = None,
        image: str | Iterable[str] | None = None,
        model: str = MODEL,
        duration: int | None = None,
        aspect_ratio: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        client_business_id: str | None = None,
    ) -> VideoTask:
        """Submit a video and return its task. Parameters as for ToAPIsSubmitVideoOperator.

        :param client_business_id: Idempotency key. If a video with this key exists, it is returned and nothing is
            billed. If None, every call submits a new video.
        :raises ToAPIsRequestError: The model does not accept a value. Nothing was billed.
        """
        request = video_request(
            prompt=prompt,
            image=image,
            model=model,
            duration=duration,
            aspect_ratio=aspect_ratio,
            parameters=parameters,
        )
        return self._submitted(request, client_business_id)

    def remix_video(
        self,
        video_id: str,
        *,
        prompt: str,
        model: str = DERIVED_MODEL,
        parameters: Mapping[str, Any] | None = None,
        client_business_id: str | None = None,
    ) -> VideoTask:
        """Submit a new version of an earlier video. Parameters as for ToAPIsRemixVideoOperator."""
        return self._derived(
            operation="remix",
            video_id=video_id,
            prompt=prompt,
            model=model,
            parameters=parameters,
            client_business_id=client_business_id,
        )

    def extend_video(
        self,
        video_id: str,
        *,
        prompt: str,
        model: str = DERIVED_MODEL,
        parameters: Mapping[str, Any] | None = None,
        client_business_id: str | None = None,
    ) -> VideoTask:
        """Submit a longer version of an earlier video. Parameters as for ToAPIsExtendVideoOperator."""
        return self._derived(
            operation="extend",
            video_id=video_id,
            prompt=prompt,
            model=model,
            parameters=parameters,
            client_business_id=client_business_id,
        )

    def _derived(
        self,
        *,
        operation: Operation,
        video_id: str,
        prompt: str,
        model: str,
        parameters: Mapping[str, Any] | None,
        client_business_id: str | None,
    ) -> VideoTask:
        request = video_request(
            operation=operation, video_id=video_id, prompt=prompt, model=model, parameters=parameters
        )
        return self._submitted(request, client_business_id)

    def _submitted(self, request: VideoRequest, client_business_id: str | None) -> VideoTask:
        # A key is always sent, so that the video can be found if the response to the submission is lost.
        keys = IdempotencyKeys.from_author(client_business_id or f"hook-{uuid.uuid4().hex}")
        return self.submit_once(SubmitSpec(request, keys)).task

    # -- looking up ---------------------------------------------------------------------------------------------

    def get_video(
        self, video_id: str, *, retry_timeout: float = RETRY_TIMEOUT, is_id: bool = False, known_as: str | None = None
    ) -> VideoTask:
        """Look up a video by ``video_id``, which is its id or its client_business_id.

        :param retry_timeout: Seconds for which the look-up is retried after server errors and connection errors
            (default 60). After rate limits (429), it is retried for at least six minutes. With 0, there is only one
            request.
        :param is_id: Whether ``video_id`` is the service's own id. If so, a response with another id is an error.
        :param known_as: The client_business_id of the video, if known.
        :raises ToAPIsNotFoundError: The service does not find the video.
        """
        rate_limit_timeout = max(retry_timeout, RATE_LIMIT_TIMEOUT) if retry_timeout else 0.0
        with self.client() as client:
            return client.get_video(
                video_id, retry_timeout, rate_limit_timeout=rate_limit_timeout, is_id=is_id, known_as=known_as
            )

    def get_billed_video(
        self, video_id: str, known_as: str | None = None, *, end_time: float | None = None, is_id: bool = True
    ) -> VideoTask:
        """Look up the video ``video_id``, which is known to exist and to be billed.

        A failed look-up is repeated until the deadline, by the same rules as a failed poll in :meth:`wait_for_video`.

        :param known_as: The client_business_id of the video, if known.
        :param end_time: Deadline in epoch seconds. If it is None or less than one minute away, the deadline is one
            minute from now.
        :param is_id: Whether ``video_id`` is the service's own id (default) and not a client_business_id.
        :raises ToAPIsWaitInterruptedError: The service rejected two look-ups in a row because of the API key or the
            balance, or it repeatedly did not find the video, or no look-up succeeded before the deadline. A retry
            continues with the video.
        """
        # Read the connection each time, because it can be corrected meanwhile.
        look_up = partial(self.get_video, video_id, retry_timeout=0, is_id=is_id, known_as=known_as)
        return self._until_done(look_up, video_id, end_time)

    def _until_done(self, step: Callable[[], T], video_id: str, end_time: float | None) -> T:
        """Repeat a step for a billed video until the step succeeds or the deadline passes.

        Errors are handled as in :meth:`wait_for_video`.
        """
        deadline = max(end_time or 0.0, clock.time() + RETRY_TIMEOUT)
        wait = VideoWait(video_id, ResumedSchedule(POLL_INTERVAL), end_time=deadline)
        while True:
            try:
                return step()
            except ToAPIsError as error:
                decision = wait.on_error(error, clock.time())
                if isinstance(decision, WaitResult):
                    raise ToAPIsWaitInterruptedError.for_video(video_id, error) from error
            clock.sleep(decision.seconds)

    def wait_until_usable(self, end_time: float) -> None:
        """Wait until the connection can be used, but not longer than until ``end_time`` (epoch seconds).

        A connection that is missing, has no API key or has an invalid field cannot be used. A task whose videos are
        submitted waits, because the connection can be corrected meanwhile.

        :raises ToAPIsError: The connection still cannot be used.
        """
        for attempt in count():
            try:
                self.settings()
            except ToAPIsError as error:
                if clock.time() >= end_time:
                    raise
                if not attempt:
                    log.warning("%s Waiting until the connection can be used.", error.without_cost)
            else:
                return
            clock.sleep(POLL_INTERVAL)

    def get_balance(self) -> Balance:
        """Return the remaining balance of the API key."""
        with self.client() as client:
            return client.get_balance()

    def list_models(self, kind: str = "video") -> Sequence[OfferedModel]:
        """Return the models that the API key can use; ``kind`` is video, image, audio, text or all."""
        with self.client() as client:
            return client.list_models(kind)

    def get_pricing(self, model: str | None = None) -> Sequence[OfferedPrice]:
        """Return the video prices of the API key's group, for one ``model`` or for all."""
        with self.client() as client:
            return client.get_pricing(model)

    def expected_price(self, request: VideoRequest) -> Decimal | None:
        """Return the expected price of one video in USD, for a log line; None if unknown.

        Requests the model's prices once. If that fails, the published price of the model catalog is used.

        :param request: The request for the video.
        """
        try:
            with self.client() as client:
                offered = client.get_pricing(request.model, retry_timeout=0.0)
        except ToAPIsError as error:
            log.debug("Cannot read the price list: %s", error)
            offered = ()
        return PriceList(offered).price_of(request)

    async def aget_video(self, video_id: str) -> VideoTask:
        """Look up a video once on an event loop. ``video_id`` is its id or its client_business_id."""
        async with self.async_client() as client:
            return await client.get_video(video_id)

    # -- waiting ------------------------------------------------------------------------------------------------

    def wait_for_video(self, video_id: str, *, poll_interval: float, end_time: float) -> WaitResult:
        """Block until ``video_id`` is final or ``end_time`` (epoch seconds) has passed.

        :param poll_interval: Seconds between two polls, unless the progress suggests another time. Values below 5 are
            raised to 5. The first poll is sent after at least 5 seconds.
        """
        wait = VideoWait(video_id, Schedule(poll_interval), end_time=end_time)
        decision: Decision = wait.begin(clock.time())
        while isinstance(decision, KeepWaiting):
            clock.sleep(decision.seconds)
            decision = wait.on_response(self._poll(video_id), clock.time())
        return decision

    def _poll(self, video_id: str) -> VideoTask | ToAPIsError:
        metrics.video_polled(self.toapis_conn_id)
        try:
            # Read the connection each time, because the API key can be rotated during the wait.
            return self.get_video(video_id, retry_timeout=0)
        except ToAPIsError as error:
            return error

    # -- files --------------------------------------------------------------------------------------------------

    def upload_image(self, source: str) -> UploadedFile:
        """Upload a JPEG, PNG, WebP or GIF of at most 10 MB (documented). Parameters as for :meth:`upload_file`."""
        return self.upload_file(source, "image")

    def upload_video(self, source: str) -> UploadedFile:
        """Upload an MP4, WebM or MOV of at most 50 MB (documented). Parameters as for :meth:`upload_file`."""
        return self.upload_file(source, "video")

    def upload_audio(self, source: str) -> UploadedFile:
        """Upload an MP3, WAV or M4A of at most 50 MB (documented). Parameters as for :meth:`upload_file`."""
        return self.upload_file(source, "audio")

    def upload_file(self, source: str, kind: MediaKind | None = None) -> UploadedFile:
        """Upload a file. Its content decides whether it is an image, a video or an audio file.

        :param source: Local path or object storage URI.
        :param kind: The required kind of file. If None, any of the three kinds is accepted.
        :raises ToAPIsRequestError: The service does not accept a file of this type or size.
        """
        file = source_file("source", source, kind)
        with self.client() as client:
            return client.upload(file.media_type.kind, file.upload)

    def download_video(
        self,
        video: str | VideoTask,
        output_path: str,
        *,
        max_bytes: int = MAX_BYTES,
        known_as: str | None = None,
        end_time: float | None = None,
    ) -> StoredFile:
        """Stream a finished video to local disk or object storage. No partial file is ever visible.

        :param video: The id of the video, or its task.
        :param output_path: A file name, or a directory. In a directory, the file is named ``<video id>.<format>``.
        :param max_bytes: Maximum size of the file in bytes (default 2 GiB). A larger file is not saved.
        :param known_as: The client_business_id of the video, if the service's responses do not contain it.
        :param end_time: Deadline in epoch seconds. If it is None or less than one minute away, the deadline is one
            minute from now. Until then, an unusable connection is read again, and a failed look-up of a fresh result
            URL is retried.
        :raises ToAPIsDownloadError: The video is not finished, arrived incomplete, or is too large. It is billed.
        :raises ToAPIsWaitInterruptedError: The connection could not be used before the deadline.
        """
        task = require_finished(self.get_video(video) if isinstance(video, str) else video)
        with ExitStack() as stack:
            client = self._until_done(lambda: stack.enter_context(self.client()), task.id, end_time)
            return client.download(
                task,
                destination(output_path, f"{task.id}.{task.format}"),
                refresh=lambda: self.get_billed_video(task.id, known_as or task.client_business_id, end_time=end_time),
                max_bytes=max_bytes,
            )
