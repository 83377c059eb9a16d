"""The life of a video that a task makes: ordered once, waited for, kept."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
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
from airflow_provider_toapis.api.texts import name_text
from airflow_provider_toapis.api.video_request import (
    IdempotencyKeys,
    Submission,
    SubmitSpec,
    image_references,
    private_texts,
)
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
from airflow_provider_toapis.links.video import ToAPIsConsoleLink, ToAPIsVideoLink, push_console_link
from airflow_provider_toapis.operators.described import VideoResultMixin
from airflow_provider_toapis.operators.mapping import checked_partial
from airflow_provider_toapis.operators.submission_record import (
    VIDEOS_KEY,
    RequestIdentity,
    SubmissionRecord,
)
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
    from airflow_provider_toapis.api.video_request import (
        Callback,
        IdempotencyKeys,
        PriorSubmission,
        Submission,
        SubmitSpec,
        VideoRequest,
    )
    from airflow_provider_toapis.base_arguments import BaseOperatorArguments

OnClear = Literal["reuse", "regenerate"]
_ON_CLEAR: tuple[OnClear, ...] = ("reuse", "regenerate")

#: XCom key of the video's id, pushed before any waiting.
VIDEO_ID_KEY = "video_id"
#: XCom key of its identity, which names its receipt.
BUSINESS_ID_KEY = "client_business_id"


class BaseVideoOperator(VideoResultMixin):
    """The story that all operators which make a video share; they differ in what they ask for.

    XComs: ``video_id`` and ``client_business_id`` before any waiting; the result is a small JSON dict.

    :param client_business_id: Identity of the video at the service; 1 to 60 of ``A-Za-z0-9_-``. Default: a hash of the
        Airflow task, the run and what is asked for. A second generation is ordered as ``<id>-1``: no other video may
        be called so. (templated)
    :param output_path: Where to keep the video: a directory, which gets ``<video id>.<format>``, or a file name, on
        local disk or in object storage. Default: it is not kept, and its link dies after 24 hours. (templated)
    :param wait_for_completion: False returns the video as ordered; a sensor waits for it later.
    :param deferrable: Wait in the triggerer, without a worker slot. Default: ``[operators] default_deferrable``.
    :param poll_interval: Seconds between two polls where neither progress nor earlier videos of the model tell
        more; less than 5 is raised to 5. Default: ``[toapis] poll_interval``, else 10.
    :param timeout: Seconds, or a timedelta, that one attempt waits. The video lives on, and a retry adopts it. Default:
        ``[toapis] timeout``, else 1800.
    :param on_clear: ``reuse`` (default) returns the same video when the task is cleared, which costs nothing;
        ``regenerate`` orders a new one.
    :param identity: What the video belongs to, say an SKU: it stays with it when a mapped list is re-ordered. Default:
        the map index. (templated)
    :param max_generations: How many videos may be paid for one task and run, when earlier ones failed (default 3).
    :param max_bytes: A larger file is not kept (default 2 GiB).
    :param webhook: Let the service tell when the video is final, and ask for it only rarely: ``True``, ``False``, or
        ``"auto"`` where the account and Airflow can. Wakes deferred tasks only. Default: the connection's ``webhook``,
        else False. See ``docs/webhooks.md``.
    :param parameters: Wire fields that are sent as they are, unchecked, and win over all others. (templated)
    :param toapis_conn_id: Airflow connection (default ``toapis_default``). (templated)
    :raises ToAPIsRequestError: A value that the model does not take, or an order that the service refuses; nothing was
        paid. So it is with ToAPIsAuthError, ToAPIsQuotaError and ToAPIsContentPolicyError.
    :raises ToAPIsTaskFailedError: The generation failed; a retry orders a new one, up to ``max_generations``.
    :raises ToAPIsFinalFailureError: The last one that is allowed failed.
    :raises ToAPIsTaskRejectedError: It failed because of its content, and would again.
    :raises ToAPIsTimeoutError: Not ready in time; a retry adopts the video.
    :raises ToAPIsWaitInterruptedError: The video is or may be paid, and cannot be looked after now; a retry adopts it.
    :raises ToAPIsDownloadError: The video could not be kept; a retry fetches it again.
    :raises ToAPIsServerError: No usable answer, for a minute; a retry looks for the video before it orders. So it is
        with ToAPIsConnectionError and ToAPIsRateLimitError.
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
        webhook: WebhookMode | None = None,
        toapis_conn_id: str = "toapis_default",
        **kwargs: Unpack[BaseOperatorArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.webhook = webhook_mode(webhook)
        self.poll_interval = seconds_or_default("poll_interval", poll_interval)
        self.timeout = seconds_or_default("timeout", timeout)
        if on_clear not in _ON_CLEAR:
            raise ToAPIsRequestError.for_field("on_clear", on_clear, " or ".join(_ON_CLEAR))
        self.max_generations = require_whole_number("max_generations", max_generations)
        self.max_bytes = require_whole_number("max_bytes", max_bytes)
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
        """Begin a mapped task, as every operator does; two mapped tasks that name one video are rejected."""
        return checked_partial(super().partial(**kwargs))

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the video: saved by an earlier attempt, re-attached to, or submitted now."""
        with self._attempt(context) as record:
            try:
                request = self._request()
            except (ToAPIsFileError, ToAPIsConnectionError) as unreadable:
                return self._reattach_without_image(record, unreadable, context)
            identity = self._identity(request, context)
            keys = self._idempotency_keys(request, record.revision(identity.request), context)
            if saved := self._find_saved(record.possible_keys(keys, self.max_generations), context):
                record.finish(saved, identity)
                return self._publish_result(saved, context)
            spec = self._submit_spec(request, keys, record.earlier(identity), context)
            submission = self._hook.submit_once(spec, partial(record.remember, identity=identity))
            if submission.reattached:
                record.attach(submission, identity)
            return self._wait_and_save(submission, request, context)

    def _submit_spec(
        self, request: VideoRequest, keys: IdempotencyKeys, earlier: PriorSubmission | None, context: Context
    ) -> SubmitSpec:
        return SubmitSpec(
            request,
            keys,
            max_generations=self.max_generations,
            retry_timeout=self.timeout,
            earlier=earlier,
            callback=partial(self._callback, context),
            key_includes_model=not self.client_business_id,
            free_replacements=self._record.clears,
        )

    def _reattach_without_image(
        self, record: SubmissionRecord, unreadable: ToAPIsError, context: Context
    ) -> dict[str, Any]:
        """Re-attach to a video whose image this worker cannot read, if everything else is as it was submitted."""
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
        self.log.warning("%s Everything else is unchanged: video %s is re-attached.", unreadable.without_cost, task.id)
        submission = Submission(task, known.client_business_id, known.generation, reattached=True)
        return self._wait_and_save(submission, None, context)

    def _wait_and_save(self, submission: Submission, request: VideoRequest | None, context: Context) -> dict[str, Any]:
        """Return the video of a submission that is billed, once it is final and saved.

        :param request: None where its image cannot be read any more.
        """
        self._push_submission(submission, request, context)
        if not self.wait_for_completion and submission.task.status is not TaskStatus.FAILED:
            result = video_result(submission.task, submission.client_business_id)
            self._record.finish(result)
            return self._publish_result(result, context)
        end_time = clock.time() + self.timeout
        # Only this attempt's own submission is known to carry a callback URL.
        return self._finish(submission.task, "success", end_time, context, by_webhook=submission.webhook)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Return the video after a wait. The event is advisory: the service is asked again."""
        ended = WaitEvent.parse(event)
        end_time = clock.time() + self.timeout if ended.end_time is None else ended.end_time
        with self._attempt(context, resumed_with=ended.video_id):
            return self._finish(self._after_wait(ended, end_time, context), ended.status, end_time, context)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:  # noqa: ANN401
        """Resume; when Airflow itself ended the wait, ask for the truth all the same: the video may be ready.

        :raises ToAPIsTimeoutError: It ended, and the video is not known here; a retry looks for it.
        :raises ToAPIsWaitInterruptedError: The triggerer could not watch the video; a retry adopts it.
        """
        if deferral_timed_out(next_method, next_kwargs):
            video_id = self._pull_own_xcom(context, VIDEO_ID_KEY)
            if video_id is None:
                raise ToAPIsTimeoutError("The wait timed out, and its video is not known here; a retry looks for it.")
            return self.execute_complete(context, WaitEvent("timeout", video_id, clock.time(), "").payload())
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except TaskDeferralError as error:
            video_id = self._pull_own_xcom(context, VIDEO_ID_KEY)
            raise ToAPIsWaitInterruptedError(
                f"The triggerer could not watch video {video_id} ({error}). It is ordered and paid; a retry adopts it.",
                video_id=video_id,
            ) from error

    def on_kill(self) -> None:
        """Submit and upload nothing more; say what a kill does to a video that is submitted: nothing."""
        self._stop.set()
        if self._video_id:
            self.log.warning(
                "Killed. Video %s cannot be canceled: it is still being made and is paid. A later attempt adopts it.",
                self._video_id,
            )

    @abstractmethod
    def _words(self) -> dict[str, Any]:
        """Return what this operator asks for, as ``hooks.request_builder.video_request`` takes it."""

    def _request(self) -> VideoRequest:
        """Return what this operator asks for, checked, its images read."""
        words = self._words()
        self._require_rendered(*may_be_blank(words["model"], words.get("operation", "generate")))
        self.identity = name_text("identity", self.identity)
        return video_request(**words, image=self._given("image"))

    def _identity(self, request: VideoRequest | None, context: Context) -> RequestIdentity:
        """Return what this operator requests, in hashes, for the submission record.

        :param request: None where its images cannot be read.
        """
        return RequestIdentity.of(
            request,
            request_without_images(**self._words()),
            image_references(self.image),
            chosen_key=self.client_business_id,
            scope=(self._account[0], getattr(context.get("loop"), "index", None), self.identity),
        )

    @contextmanager
    def _attempt(self, context: Context, *, resumed_with: str | None = None) -> Iterator[SubmissionRecord]:
        """Load the submission record, keep errors retryable once a video is or may be billed, list videos at the end.

        :param resumed_with: Id of the video for which this attempt was deferred.
        """
        self._video_id = resumed_with
        self._record = SubmissionRecord(context, retries=self.retries or 0, resumed=resumed_with is not None)
        try:
            with (
                self._unless_submitted((*ACCOUNT_ERRORS, ToAPIsFileError)),
                keep_retryable(
                    lambda error: ToAPIsWaitInterruptedError.for_video(str(self._video_id), error),
                    when=lambda: self._video_id,
                ),
            ):
                yield self._record
        finally:
            self._list_videos(self._record, context)

    def _unless_submitted(
        self, errors: tuple[type[ToAPIsError], ...] = PERMANENT_ERRORS
    ) -> AbstractContextManager[None]:
        """Keep errors retryable where an earlier attempt may have submitted a video that is not known yet."""
        return keep_retryable(
            ToAPIsWaitInterruptedError.for_unknown_submission,
            when=lambda: self._record.may_have_submitted,
            errors=errors,
        )

    def _list_videos(self, record: SubmissionRecord, context: Context) -> None:
        videos = record.videos()
        if not videos:
            return
        try:
            context["ti"].xcom_push(key=VIDEOS_KEY, value=videos)
        except Exception as error:  # noqa: BLE001 - whatever ends the attempt matters more
            self.log.warning("XCom %s could not be pushed (%s).", VIDEOS_KEY, type(error).__name__)

    def _idempotency_keys(self, request: VideoRequest, revision: int, context: Context) -> IdempotencyKeys:
        if self.client_business_id:
            if self.on_clear == "regenerate":
                raise ToAPIsRequestError.for_field(
                    "on_clear", self.on_clear, "a client_business_id always names the same video; leave one of them out"
                )
            return IdempotencyKeys.from_author(self.client_business_id)
        ti = context["ti"]
        loop: Any = context.get("loop")
        task_instance = (ti.dag_id, ti.task_id, str(ti.run_id))
        coordinates = f"identity {self.identity}" if self.identity else f"map index {ti.map_index}"
        cleared = f"cleared {revision}" if self.on_clear == "regenerate" else ""
        # All iterations of a loop of Airflow 3.4 have the same map index.
        iteration = () if loop is None else (f"loop index {loop.index}",)
        identity = (self._account[0], *task_instance, coordinates, cleared, *iteration)
        return IdempotencyKeys.derived(request.fingerprint(), identity)

    @property
    def _account(self) -> tuple[str, str]:
        """Return the connection's namespace and base URL, read once, before anything is submitted."""
        if self._account_found is None:
            with self._unless_submitted():
                settings = self._hook.settings()
            self._account_found = settings.namespace, settings.base_url
        return self._account_found

    def _callback(self, context: Context) -> Callback | None:
        """Return where the service is to tell of the video; nowhere while a worker waits, which nothing can wake."""
        if self.wait_for_completion and not self.deferrable:
            return None
        with self._unless_submitted():
            return self._hook.callback(self.webhook, context["ti"])

    def _find_saved(self, keys: Iterable[str], context: Context) -> dict[str, Any] | None:
        """Return the result of a video that an earlier attempt saved; nothing is requested then, and nothing billed.

        :param keys: The newest generation first: it may have the same file name as one that was lost.
        """
        if not self.output_path or not self.wait_for_completion:
            return None
        for key in keys:
            kept = saved_result(self.output_path, key)
            if kept is not None:
                self.log.info(
                    "Video %s is kept at %s already: nothing is asked and nothing is paid. %s",
                    kept["id"],
                    kept["output_path"],
                    self._regenerate_hint,
                )
                context["ti"].xcom_push(key=VIDEO_ID_KEY, value=kept["id"])
                context["ti"].xcom_push(key=BUSINESS_ID_KEY, value=kept["client_business_id"])
                return kept
        require_writable(self.output_path)
        return None

    def _push_submission(self, submission: Submission, request: VideoRequest | None, context: Context) -> None:
        """Push the video's ids to XCom, where a later step finds them, before any waiting."""
        self._video_id = submission.task.id
        context["ti"].xcom_push(key=VIDEO_ID_KEY, value=submission.task.id)
        context["ti"].xcom_push(key=BUSINESS_ID_KEY, value=submission.client_business_id)
        self._list_videos(self._record, context)
        push_console_link(context, self._account[1])
        if submission.reattached:
            self.log.info(
                "Adopted video %s (%s), ordered by an earlier attempt as %s: nothing new is paid. %s",
                submission.task.id,
                submission.task.status,
                submission.client_business_id,
                self._regenerate_hint,
            )
        else:
            metrics.video_submitted(self.model)
            price = self._hook.expected_price(request) if request else None
            self.log.info(
                "Ordered video %s%s as %s (expected price: %s).",
                submission.task.id,
                f" for {self.identity!r}" if self.identity else "",
                submission.client_business_id,
                f"{price:f} USD" if price is not None else "not known",
            )

    def _finish(
        self, task: VideoTask, event_status: WaitStatus, end_time: float, context: Context, *, by_webhook: bool = False
    ) -> dict[str, Any]:
        """Save a video that is final, or raise what became of it; wait as long as it is neither.

        :param event_status: How the wait before this ended. It is advisory: ``task`` counts.
        """
        while True:
            self._record.update(task)
            status = wait_outcome(task, event_status, end_time, clock.time())
            if status is not None:
                return self._ended(task, status, end_time, context)
            ended = self._wait(task.id, event_status, end_time, by_webhook=by_webhook)
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

    def _ended(self, task: VideoTask, status: WaitStatus, end_time: float, context: Context) -> dict[str, Any]:
        if status == "success":
            kept = self._save(task, end_time, context)
            self._record.finish(kept)
            return self._publish_result(kept, context)
        if status == "failed":
            raise task_failed(task, self.max_generations, private_texts(self.prompt, self.parameters))
        if status == "timeout":
            text = timeout_message(task.id, self.timeout, last_word=task.raw_status)
            raise ToAPIsTimeoutError(f"{text} A retry adopts it and waits again.", video_id=task.id)
        raise ToAPIsWaitInterruptedError(
            f"{missing_url_message(task.id)} A retry asks again and does not order a new one.", video_id=task.id
        )

    def _wait(self, video_id: str, event_status: WaitStatus, end_time: float, *, by_webhook: bool) -> WaitEvent:
        """Leave the worker, or block until the video is final or the deadline has passed."""
        self.log.info(
            "Waiting for video %s %s, for at most %.0f s.",
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
                hint=event_status,
            )
        poll_interval = poll_interval_after(event_status, self.poll_interval)
        result = self._hook.wait_for_video(video_id, poll_interval=poll_interval, end_time=end_time)
        return WaitEvent.of(result, video_id, end_time)

    def _save(self, task: VideoTask, end_time: float, context: Context) -> dict[str, Any]:
        # Ours first: it is the one that is looked for.
        business_id = self._pull_own_xcom(context, BUSINESS_ID_KEY) or task.client_business_id
        if not self.output_path:
            self.log.info("Video %s is ready. Its link dies at %s.", task.id, task.expires_at or "an unknown time")
            return video_result(task, business_id)
        stored = self._hook.download_video(
            task, self.output_path, max_bytes=self.max_bytes, known_as=business_id, end_time=end_time
        )
        self.log.info("Kept video %s at %s (%s bytes).", task.id, stored.path, f"{stored.size:,}")
        result = video_result(task, business_id, stored)
        if business_id:
            write_receipt(self.output_path, business_id, result, context["ti"])
        return result

    def _publish_result(self, result: dict[str, Any], context: Context) -> dict[str, Any]:
        self._describe(context, [result], prompt=self.prompt, image=self.image, duration=self.duration)
        return result

    def _pull_own_xcom(self, context: Context, key: str) -> str | None:
        ti = context["ti"]
        noted: str | None = ti.xcom_pull(task_ids=self.task_id, key=key, map_indexes=ti.map_index)
        return noted

    @property
    def _regenerate_hint(self) -> str:
        if self.client_business_id:
            return "For another take choose another client_business_id."
        return "For another take change the request, or set on_clear='regenerate' and clear the task."

    @property
    def _hook(self) -> ToAPIsHook:
        hook = ToAPIsHook(self.toapis_conn_id)
        hook.stop = self._stop
        return hook
