"""Base operator: submit a video once, wait for it, and save it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow.providers.common.compat.sdk import conf

from airflow_provider_toapis import metrics
from airflow_provider_toapis.api.clock import StopSignal, clock
from airflow_provider_toapis.api.download import MAX_BYTES, video_result
from airflow_provider_toapis.api.error_responses import missing_url_message, task_failed, timeout_message
from airflow_provider_toapis.api.polling import poll_interval_after, wait_outcome
from airflow_provider_toapis.api.responses import TaskStatus
from airflow_provider_toapis.api.settings import require_whole_number
from airflow_provider_toapis.api.submit_spec import IdempotencyKeys, RequestIdentity, Submission, SubmitSpec
from airflow_provider_toapis.api.texts import name_text
from airflow_provider_toapis.api.video_request import image_references, private_texts
from airflow_provider_toapis.exceptions import (
    ACCOUNT_ERRORS,
    PERMANENT_ERRORS,
    ToAPIsConnectionError,
    ToAPIsError,
    ToAPIsFileError,
    ToAPIsRequestError,
    ToAPIsTimeoutError,
    ToAPIsWaitInterruptedError,
    keep_retryable,
)
from airflow_provider_toapis.hooks.callback_url import WebhookMode, webhook_mode
from airflow_provider_toapis.hooks.connection import seconds_or_default
from airflow_provider_toapis.hooks.request_builder import may_be_blank, request_without_images, video_request
from airflow_provider_toapis.hooks.toapis import ToAPIsHook
from airflow_provider_toapis.links.video import ToAPIsConsoleLink, ToAPIsVideoLink, push_console_link, push_video_link
from airflow_provider_toapis.media_check import CheckMode, Expected
from airflow_provider_toapis.operators.mapping import checked_partial
from airflow_provider_toapis.operators.results import VideoResultMixin
from airflow_provider_toapis.operators.submission_record import VIDEOS_KEY, SubmissionRecord, reason_of
from airflow_provider_toapis.receipts import saved_result, write_receipt
from airflow_provider_toapis.storage import require_writable
from airflow_provider_toapis.triggers.deferral import defer_until_final
from airflow_provider_toapis.triggers.events import WaitEvent
from airflow_provider_toapis.version_compat import TaskDeferralError, deferral_timed_out

if TYPE_CHECKING:
    from typing import Unpack

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_toapis.api.polling import WaitStatus
    from airflow_provider_toapis.api.responses import VideoTask
    from airflow_provider_toapis.api.submit_spec import Callback, PriorSubmission
    from airflow_provider_toapis.api.video_request import VideoRequest
    from airflow_provider_toapis.base_arguments import BaseOperatorArguments

OnClear = Literal["reuse", "regenerate"]
_ON_CLEAR: tuple[OnClear, ...] = ("reuse", "regenerate")

#: XCom key of the video's id, which is pushed before the task waits.
VIDEO_ID_KEY = "video_id"
#: XCom key of the idempotency key, which names the receipt.
BUSINESS_ID_KEY = "client_business_id"


class BaseVideoOperator(VideoResultMixin):
    """Base of the operators that make a video. The operators differ only in the request that they submit.

    Before the task waits, it pushes the XComs ``video_id`` and ``client_business_id``. The task returns a small JSON
    dict.

    :param client_business_id: Idempotency key of the video; 1 to 60 characters of ``A-Za-z0-9_-``. A second generation
        uses the key ``<key>-1``, so do not use ``<key>-1`` for another video. Default: a hash of the task instance and
        the request. (templated)
    :param output_path: Where to save the video, on local disk or in object storage: a file name, or a directory. In a
        directory, the file is named ``<video id>.<format>``. Default: the video is not saved, and its result URL
        expires after 24 hours. (templated)
    :param wait_for_completion: If False, the task returns right after the submission, and a sensor can wait for the
        video later (default True).
    :param deferrable: Wait in the triggerer, without a worker slot. Default: ``[operators] default_deferrable``.
    :param poll_interval: Seconds between two polls, unless the video's progress or earlier videos of the model suggest
        another interval. Values below 5 are raised to 5. Default: ``[toapis] poll_interval``, else 10.
    :param timeout: Seconds, or a timedelta, for which one attempt waits. After that, the service continues to make the
        video, and a retry re-attaches to it. Default: ``[toapis] timeout``, else 1800.
    :param on_clear: What happens after the task is cleared. ``reuse`` (default) returns the same video, at no cost.
        ``regenerate`` submits a new video.
    :param identity: What the video belongs to, for example an SKU. Set it for a mapped task, so that each item keeps
        its video when the list is reordered. Default: the map index. (templated)
    :param max_generations: Maximum number of videos that are submitted for one request (default 3). Another video is
        submitted only if the earlier videos failed or expired.
    :param max_bytes: Maximum size of the video file in bytes (default 2 GiB). A larger file is not saved.
    :param check: What happens if the saved video is not what was requested. ``warn`` logs warnings and adds them to the
        result, ``fail`` fails the task, ``off`` does not check the video. Videos are measured only if the extra
        ``media`` is installed. See ``docs/operators/check.md``. Default: ``[toapis] check``, else ``warn``.
    :param poster: Also save a JPEG image of the video, beside the file and with its name (default False). Needs
        ``output_path`` and the extra ``media``.
    :param webhook: Let the service send a webhook when the video is final, and poll only rarely: ``True``, ``False``,
        or ``"auto"`` to use webhooks where the account and Airflow support them. Webhooks can resume only deferred
        tasks. Default: the connection's ``webhook``, else False. See ``docs/webhooks.md``.
    :param parameters: Further fields of the request's JSON body. They are sent unchecked and take precedence over the
        other arguments. (templated)
    :param toapis_conn_id: Airflow connection (default ``toapis_default``). (templated)
    :raises ToAPIsRequestError: The model does not accept a value, or the service rejected the request. Nothing was
        billed.
    :raises ToAPIsAuthError: The API key is missing, wrong or lacks a permission. Nothing was billed.
    :raises ToAPIsQuotaError: The account's balance is too low. Nothing was billed.
    :raises ToAPIsContentPolicyError: The service rejected the content of the request. Nothing was billed.
    :raises ToAPIsTaskFailedError: The generation failed. A retry submits a new one, up to ``max_generations``.
    :raises ToAPIsFinalFailureError: The last allowed generation failed.
    :raises ToAPIsTaskRejectedError: The generation failed because of its input, so it would fail again.
    :raises ToAPIsTimeoutError: The video was not ready before the timeout. A retry re-attaches to it.
    :raises ToAPIsWaitInterruptedError: The video is, or may be, billed, but cannot be looked up right now. A retry
        re-attaches to it.
    :raises ToAPIsDownloadError: The video could not be saved. A retry downloads it again.
    :raises ToAPIsVideoCheckError: The saved video is not what was requested, and ``check`` is ``fail``. It is billed,
        and a retry submits nothing.
    :raises ToAPIsServerError: The service sent no usable response for a minute. A retry looks the video up before it
        submits.
    :raises ToAPIsConnectionError: The service sent no response for a minute. A retry looks the video up before it
        submits.
    :raises ToAPIsRateLimitError: The service limited the rate of requests for a minute. A retry looks the video up
        before it submits.
    """

    template_fields: Sequence[str] = ("parameters", "client_business_id", "output_path", "identity", "toapis_conn_id")
    template_fields_renderers: ClassVar[dict[str, str]] = {"parameters": "json"}
    operator_extra_links = (ToAPIsVideoLink(), ToAPIsConsoleLink())
    ui_color = "#e8e2f7"
    model: str
    prompt: str | None
    image: str | list[str] | None = None
    duration: int | str | None = None
    _record: SubmissionRecord

    def __init__(
        self,
        *,
        parameters: Mapping[str, Any] | None = None,
        client_business_id: str | None = None,
        output_path: str | None = None,
        wait_for_completion: bool = True,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poll_interval: float | None = None,
        timeout: timedelta | float | None = None,
        on_clear: OnClear = "reuse",
        identity: str | None = None,
        max_generations: int = 3,
        max_bytes: int = MAX_BYTES,
        check: CheckMode | None = None,
        poster: bool = False,
        webhook: WebhookMode | None = None,
        toapis_conn_id: str = "toapis_default",
        **kwargs: Unpack[BaseOperatorArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.webhook = webhook_mode(webhook)
        self.poll_interval = seconds_or_default("poll_interval", poll_interval)
        self.timeout = seconds_or_default("timeout", timeout)
        if on_clear not in _ON_CLEAR:
            raise ToAPIsRequestError.for_field("on_clear", on_clear, f"must be {' or '.join(_ON_CLEAR)}")
        self.max_generations = require_whole_number("max_generations", max_generations)
        self.max_bytes = require_whole_number("max_bytes", max_bytes)
        self._set_media_options(check, poster=poster)
        self.parameters = parameters
        self.client_business_id = client_business_id
        self.output_path = output_path
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.on_clear = on_clear
        self.identity = identity
        self.toapis_conn_id = toapis_conn_id
        self._video_id: str | None = None
        self._account_found: tuple[str, str] | None = None
        self._stop = StopSignal()

    @classmethod
    def partial(cls, **kwargs: Any) -> Any:  # type: ignore[override]  # noqa: ANN401
        """Return the partial operator of a mapped task. It rejects literals that would make the same video twice."""
        return checked_partial(super().partial(**kwargs))

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the video. If no earlier attempt has saved or submitted it, submit it first."""
        with self._attempt(context) as record:
            self._require_checkable()
            try:
                request = self._request()
            except (ToAPIsFileError, ToAPIsConnectionError) as unreadable:
                return self._reattach_without_image(record, unreadable, context)
            identity = self._identity(request, context)
            spec = self._submit_spec(request, identity, context)
            if saved := self._find_saved(record.possible_keys(spec), context):
                record.finish(saved, identity)
                return self._publish_result(saved, context)
            submission = self._hook.submit_once(spec, partial(record.remember, identity=identity))
            if submission.reattached:
                record.attach(submission, identity)
            return self._wait_and_save(submission, submission.request or request, context)

    def _require_checkable(self) -> None:
        """Reject ``check="fail"`` or ``poster`` if something that it needs is missing. Call this before submitting."""
        with self._unless_submitted():
            if self.output_path and self.wait_for_completion:
                self._media_options.require_packages()
                return
            needs = "needs output_path and wait_for_completion=True, because only a saved video is measured"
            if self.poster:
                raise ToAPIsRequestError.for_field("poster", self.poster, needs)
            if self.check == "fail":
                raise ToAPIsRequestError.for_field("check", self.check, needs)

    def _submit_spec(self, request: VideoRequest, identity: RequestIdentity, context: Context) -> SubmitSpec:
        revision = self._record.revision(identity.request)
        with self._unless_submitted():
            fallbacks = self._fallbacks(request)
        keys, *fallback_keys = (self._idempotency_keys(each, revision, context) for each in (request, *fallbacks))
        lost_revisions = self._record.lost_revisions if self.on_clear == "regenerate" else ()
        return SubmitSpec(
            request,
            keys,
            max_generations=self.max_generations,
            retry_timeout=self.timeout,
            earlier=self._earlier(identity, (keys, *fallback_keys)),
            callback=partial(self._callback, context),
            key_includes_model=not self.client_business_id,
            free_replacements=self._record.clears,
            label=self.identity or "",
            fallbacks=list(zip(fallbacks, fallback_keys, strict=True)),
            earlier_keys={
                lost: [self._idempotency_keys(each, lost, context) for each in (request, *fallbacks)]
                for lost in lost_revisions
            },
        )

    def _earlier(self, identity: RequestIdentity, keys: Sequence[IdempotencyKeys]) -> PriorSubmission | None:
        earlier = self._record.earlier(identity, *keys)
        if earlier is not None and self.on_clear == "reuse":
            # A clear does not change the keys, so all revisions are the same.
            return replace(earlier, is_current_revision=True)
        return earlier

    def _fallbacks(self, request: VideoRequest) -> list[VideoRequest]:  # noqa: ARG002 - for subclasses
        """Return the request for each fallback model, in the order in which they are tried."""
        return []

    def _reattach_without_image(
        self, record: SubmissionRecord, unreadable: ToAPIsError, context: Context
    ) -> dict[str, Any]:
        """Re-attach to an earlier video if the image cannot be read now and the rest of the request is unchanged."""
        identity = self._identity(None, context)
        known = record.submitted_with_same_images(identity)
        if known is None or (self.on_clear == "regenerate" and known.revision != record.revision(known.request)):
            raise unreadable
        if saved := self._find_saved((known.client_business_id,), context):
            record.finish(saved)
            return self._publish_result(saved, context)
        task = self._hook.get_billed_video(str(known.video_id), known_as=known.client_business_id)
        if task.status is TaskStatus.FAILED:
            raise unreadable
        self.log.warning(
            "%s The rest of the request is unchanged, so this attempt re-attaches to video %s.",
            unreadable.without_cost,
            task.id,
        )
        submission = Submission(task, known.client_business_id, known.generation, reattached=True)
        return self._wait_and_save(submission, None, context)

    def _wait_and_save(self, submission: Submission, request: VideoRequest | None, context: Context) -> dict[str, Any]:
        """Wait until a submitted and billed video is final, then save it and return its result.

        :param request: The request of the video; None if its image can no longer be read.
        """
        self._push_submission(submission, request, context)
        if not self.wait_for_completion and submission.task.status is not TaskStatus.FAILED:
            result = video_result(submission.task, submission.client_business_id)
            self._record.finish(result)
            return self._publish_result(result, context)
        end_time = clock.time() + self.timeout
        # After a re-attachment, `webhook` is False, because it is not known whether the submission had a callback URL.
        return self._resolve(submission.task, "success", end_time, context, by_webhook=submission.webhook)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Return the video after a wait. The event is advisory, so the video is looked up again."""
        ended = WaitEvent.parse(event)
        end_time = clock.time() + self.timeout if ended.end_time is None else ended.end_time
        with self._attempt(context, resumed_with=ended.video_id):
            return self._resolve(self._after_wait(ended, end_time, context), ended.status, end_time, context)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:  # noqa: ANN401
        """Resume the task. If the deferral timed out, look the video up anyway, because it may be ready.

        :raises ToAPIsTimeoutError: The wait timed out, and this task has stored no video id. A retry looks the video
            up.
        :raises ToAPIsWaitInterruptedError: The triggerer could not poll the video. A retry re-attaches to it.
        """
        if deferral_timed_out(next_method, next_kwargs):
            video_id = self._pull_own_xcom(context, VIDEO_ID_KEY)
            if video_id is None:
                raise ToAPIsTimeoutError(
                    "The wait timed out before this task stored a video id. A retry looks the video up."
                )
            return self.execute_complete(context, WaitEvent("timeout", video_id, clock.time(), "").payload())
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except TaskDeferralError as error:
            video_id = self._pull_own_xcom(context, VIDEO_ID_KEY)
            raise ToAPIsWaitInterruptedError(
                f"The triggerer could not poll video {video_id} ({error}). The video is submitted and billed. A retry"
                " re-attaches to it.",
                video_id=video_id,
            ) from error

    def on_kill(self) -> None:
        """Stop submitting and uploading, and log what happens to the submitted video."""
        self._stop.set()
        if self._video_id:
            self.log.warning(
                "Killed. Video %s cannot be canceled. It is billed and still rendering. A retry re-attaches to it.",
                self._video_id,
            )

    @abstractmethod
    def _request_arguments(self) -> dict[str, Any]:
        """Return the arguments of ``hooks.request_builder.video_request`` except the image."""

    def _request(self) -> VideoRequest:
        """Check the request, read its images and return it."""
        arguments = self._request_arguments()
        self._require_rendered(*may_be_blank(arguments["model"], arguments.get("operation", "generate")))
        self.identity = name_text("identity", self.identity)
        return video_request(**arguments, image=self._unmasked("image"))

    def _identity(self, request: VideoRequest | None, context: Context) -> RequestIdentity:
        """Return the hashes that identify a request in the submission record.

        :param request: The request; None if its images cannot be read.
        """
        return RequestIdentity.of(
            request,
            request_without_images(**self._request_arguments()),
            image_references(self.image),
            chosen_key=self.client_business_id,
            scope=(self._account[0], getattr(context.get("loop"), "index", None), self.identity),
        )

    @contextmanager
    def _attempt(self, context: Context, *, resumed_with: str | None = None) -> Iterator[SubmissionRecord]:
        """Load the submission record of an attempt. When the attempt ends, push the list of the task's videos to XCom.

        If a video is or may be billed, permanent errors are replaced with retryable ones, so that a retry re-attaches
        to the video.

        :param resumed_with: Id of the video for which this attempt was deferred.
        """
        self._video_id = resumed_with
        self._record = SubmissionRecord(context, retries=self.retries or 0, resumed=resumed_with is not None)
        try:
            with (
                self._rescheduled(context, when=lambda: not self._record.may_have_submitted),
                self._unless_submitted((*ACCOUNT_ERRORS, ToAPIsFileError)),
                keep_retryable(
                    lambda error: ToAPIsWaitInterruptedError.for_video(str(self._video_id), error),
                    when=lambda: self._video_id,
                ),
            ):
                yield self._record
        except Exception as error:
            self._list_videos(self._record, context, reason_of(error))
            raise
        except BaseException:
            # The task is deferred or killed.
            self._list_videos(self._record, context)
            raise
        self._list_videos(self._record, context)

    def _unless_submitted(
        self, errors: tuple[type[ToAPIsError], ...] = PERMANENT_ERRORS
    ) -> AbstractContextManager[None]:
        """Replace permanent errors with retryable ones if this task instance may have submitted a video."""
        return keep_retryable(
            ToAPIsWaitInterruptedError.for_unknown_submission,
            when=lambda: self._record.may_have_submitted,
            errors=errors,
        )

    def _list_videos(self, record: SubmissionRecord, context: Context, failure: str | None = None) -> None:
        videos = record.videos(failure, self.identity)
        if not videos:
            return
        try:
            context["ti"].xcom_push(key=VIDEOS_KEY, value=videos)
        except Exception as error:  # noqa: BLE001 - must not replace the error that ended the attempt
            self.log.warning("Cannot push XCom %s (%s).", VIDEOS_KEY, type(error).__name__)

    def _idempotency_keys(self, request: VideoRequest, revision: int, context: Context) -> IdempotencyKeys:
        if self.client_business_id:
            if self.on_clear == "regenerate":
                raise ToAPIsRequestError.for_field(
                    "on_clear",
                    self.on_clear,
                    "cannot be combined with client_business_id, which always names the same video."
                    " Remove one of the two",
                )
            return IdempotencyKeys.from_author(self.client_business_id)
        ti = context["ti"]
        loop: Any = context.get("loop")
        task_instance = (ti.dag_id, ti.task_id, str(ti.run_id))
        coordinates = f"identity {self.identity}" if self.identity else f"map index {ti.map_index}"
        cleared = f"cleared {revision}" if self.on_clear == "regenerate" else ""
        # All iterations of a loop (Airflow 3.4) have the same map index, so the key also depends on the loop index.
        iteration = () if loop is None else (f"loop index {loop.index}",)
        identity = (self._account[0], *task_instance, coordinates, cleared, *iteration)
        return IdempotencyKeys.derived(request.fingerprint(), identity)

    @property
    def _account(self) -> tuple[str, str]:
        """The connection's namespace and base URL. They are read once, before anything is submitted."""
        if self._account_found is None:
            with self._unless_submitted():
                settings = self._hook.settings()
            self._account_found = settings.namespace, settings.base_url
        return self._account_found

    def _callback(self, context: Context) -> Callback | None:
        """Return the callback URL for webhooks; None if the worker waits. Webhooks can resume only deferred tasks."""
        if self.wait_for_completion and not self.deferrable:
            return None
        with self._unless_submitted():
            return self._hook.callback(self.webhook, context["ti"])

    def _find_saved(self, keys: Iterable[str], context: Context) -> dict[str, Any] | None:
        """Return the result of a video that an earlier attempt saved; None if no attempt has saved one.

        :param keys: Idempotency keys of the generations. The newest is first, because its file may have replaced the
            file of an earlier generation.
        """
        if not self.output_path or not self.wait_for_completion:
            return None
        for key in keys:
            saved = saved_result(self.output_path, key)
            if saved is not None:
                self.log.info(
                    "Video %s is already saved at %s. Nothing is submitted. %s",
                    saved["id"],
                    saved["output_path"],
                    self._regenerate_hint,
                )
                context["ti"].xcom_push(key=VIDEO_ID_KEY, value=saved["id"])
                context["ti"].xcom_push(key=BUSINESS_ID_KEY, value=saved["client_business_id"])
                checked = self._checked(saved, key, self._expected)
                self._log_warnings(checked, known=saved["warnings"])
                return checked
        require_writable(self.output_path)
        return None

    def _push_submission(self, submission: Submission, request: VideoRequest | None, context: Context) -> None:
        """Push the video's ids to XCom before the task waits, so that the ids are known when the task resumes."""
        self._video_id = submission.task.id
        context["ti"].xcom_push(key=VIDEO_ID_KEY, value=submission.task.id)
        context["ti"].xcom_push(key=BUSINESS_ID_KEY, value=submission.client_business_id)
        price = self._hook.expected_price(request) if request and not submission.reattached else None
        self._record.set_price(submission.task.id, price)
        self._list_videos(self._record, context)
        push_console_link(context, self._account[1])
        push_video_link(context)
        if submission.reattached:
            self.log.info(
                "Re-attached to the video of an earlier attempt (%s). Nothing more is billed.\nVideo %s, key %s.\n%s",
                submission.task.status,
                submission.task.id,
                submission.client_business_id,
                self._regenerate_hint,
            )
        else:
            metrics.video_submitted(request.model if request else self.model)
            self.log.info(
                "Submitted video%s. Expected price: %s.\nVideo %s, key %s.",
                f" for {self.identity!r}" if self.identity else "",
                f"{price:f} USD" if price is not None else "not known",
                submission.task.id,
                submission.client_business_id,
            )

    def _resolve(
        self, task: VideoTask, event_status: WaitStatus, end_time: float, context: Context, *, by_webhook: bool = False
    ) -> dict[str, Any]:
        """Wait until the video is final, save it and return its result.

        An error is raised if the video failed or is not ready before the deadline.

        :param event_status: How the previous wait ended. This is advisory; ``task`` is authoritative.
        """
        while True:
            self._record.update(task)
            status = wait_outcome(task, event_status, end_time, clock.time())
            if status is not None:
                return self._outcome(task, status, end_time, context)
            ended = self._wait_until_final(task.id, event_status, end_time, by_webhook=by_webhook)
            event_status, by_webhook = ended.status, False
            task = self._after_wait(ended, end_time, context)

    def _after_wait(self, ended: WaitEvent, end_time: float, context: Context) -> VideoTask:
        """Look the video up after a wait."""
        ended.log_error()
        known_as = self._pull_own_xcom(context, BUSINESS_ID_KEY)
        task = self._hook.get_billed_video(ended.video_id, known_as=known_as, end_time=end_time)
        if task.is_final:
            metrics.video_finished(task)
        return task

    def _outcome(self, task: VideoTask, status: WaitStatus, end_time: float, context: Context) -> dict[str, Any]:
        if status == "success":
            result = self._save(task, end_time, context)
            self._record.finish(result)
            return self._publish_result(result, context)
        if status == "failed":
            raise task_failed(task, self.max_generations, private_texts(self.prompt, self.parameters))
        if status == "timeout":
            text = timeout_message(task.id, self.timeout, last_status=task.raw_status)
            raise ToAPIsTimeoutError(f"{text}\nA retry re-attaches to the video and waits again.", video_id=task.id)
        raise ToAPIsWaitInterruptedError(
            f"{missing_url_message(task.id)}\nA retry looks the video up again and submits nothing.", video_id=task.id
        )

    def _wait_until_final(
        self, video_id: str, event_status: WaitStatus, end_time: float, *, by_webhook: bool
    ) -> WaitEvent:
        """Defer the task. If it is not deferrable, block until the video is final or the deadline has passed."""
        self.log.info(
            "Waiting for video %s %s for at most %.0f s.",
            video_id,
            "in the triggerer" if self.deferrable else "in this worker",
            end_time - clock.time(),
        )
        if self.deferrable:
            defer_until_final(
                self,
                video_id,
                toapis_conn_id=self.toapis_conn_id,
                poll_interval=self.poll_interval,
                end_time=end_time,
                fallback_interval=self._hook.fallback_interval(self.poll_interval) if by_webhook else None,
                event_status=event_status,
            )
        poll_interval = poll_interval_after(event_status, self.poll_interval)
        result = self._hook.wait_for_video(video_id, poll_interval=poll_interval, end_time=end_time)
        return WaitEvent.from_result(result, video_id, end_time)

    def _save(self, task: VideoTask, end_time: float, context: Context) -> dict[str, Any]:
        # Prefer the idempotency key with which this task submitted the video, because receipts are looked up by that
        # key.
        business_id = self._pull_own_xcom(context, BUSINESS_ID_KEY) or task.client_business_id
        if not self.output_path:
            self.log.info("Video %s is ready. Its URL expires at %s.", task.id, task.expires_at or "an unknown time")
            return video_result(task, business_id)
        stored = self._hook.download_video(
            task, self.output_path, max_bytes=self.max_bytes, known_as=business_id, end_time=end_time
        )
        result = video_result(task, business_id, stored)
        if business_id:
            # Written before the check, which can take long. If the process dies meanwhile, the video is not lost.
            write_receipt(self.output_path, business_id, result, context["ti"])
        result = self._checked(result, business_id, self._expected)
        self._log_saved(result)
        return result

    @property
    def _expected(self) -> Expected:
        """The duration and the aspect ratio that the request sets for its video."""
        return Expected.of(request_without_images(**self._request_arguments()))

    def _publish_result(self, result: dict[str, Any], context: Context) -> dict[str, Any]:
        self._describe(context, [result], prompt=self.prompt, image=self.image, duration=self.duration)
        self._require_match(result)
        return result

    def _pull_own_xcom(self, context: Context, key: str) -> str | None:
        ti = context["ti"]
        value: str | None = ti.xcom_pull(task_ids=self.task_id, key=key, map_indexes=ti.map_index)
        return value

    @property
    def _regenerate_hint(self) -> str:
        if self.client_business_id:
            return "To get a new video, change client_business_id."
        return "To get a new video, change the request, or set on_clear='regenerate' and clear the task."

    @property
    def _hook(self) -> ToAPIsHook:
        hook = ToAPIsHook(self.toapis_conn_id)
        hook.stop = self._stop
        return hook
