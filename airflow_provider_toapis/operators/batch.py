"""Make the videos of a whole product catalog. Only missing and changed videos are made, within a budget."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

from airflow.providers.common.compat.sdk import BaseOperatorLink, conf

from airflow_provider_toapis import exceptions
from airflow_provider_toapis.api.clock import StopSignal, clock
from airflow_provider_toapis.api.defaults import MODEL
from airflow_provider_toapis.api.download import MAX_BYTES
from airflow_provider_toapis.api.settings import parse_usd, require_share, require_whole_number
from airflow_provider_toapis.assets import describe_catalog
from airflow_provider_toapis.exceptions import (
    ACCOUNT_ERRORS,
    ToAPIsRequestError,
    ToAPIsWaitInterruptedError,
    keep_retryable,
)
from airflow_provider_toapis.hooks.callback_url import WebhookMode, webhook_mode
from airflow_provider_toapis.hooks.connection import seconds_or_default
from airflow_provider_toapis.hooks.request_builder import fallback_model_ids
from airflow_provider_toapis.hooks.toapis import ToAPIsHook
from airflow_provider_toapis.links.video import (
    ToAPIsBatchReportLink,
    ToAPIsConsoleLink,
    push_batch_report_link,
    push_console_link,
)
from airflow_provider_toapis.mapped_values import as_data
from airflow_provider_toapis.media_check import CheckMode
from airflow_provider_toapis.operators.rendered_fields import is_literal
from airflow_provider_toapis.operators.results import OutputPathOperator
from airflow_provider_toapis.operators.submission_record import is_retry, reason_of
from airflow_provider_toapis.triggers.deferral import wait_until_some_final
from airflow_provider_toapis.triggers.events import BatchEvent
from airflow_provider_toapis.version_compat import TaskDeferralError, deferral_timed_out

if TYPE_CHECKING:
    from typing import Unpack

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_toapis.base_arguments import BaseOperatorArguments
    from airflow_provider_toapis.batch.manifest_entry import ManifestEntry
    from airflow_provider_toapis.batch.runner import Batch, BatchOptions

__all__ = ["ToAPIsVideoBatchOperator"]
#: XCom key of the state of a batch and of what its run has spent.
BATCH_KEY = "toapis_batch"
#: Minimum seconds between two resumptions of the task, because each starts a worker process.
SECONDS_BETWEEN_RESUMPTIONS = 60.0


class ToAPIsVideoBatchOperator(OutputPathOperator):
    """Make and save the videos of a product catalog with up to a hundred thousand rows.

    A video is submitted for each row that is new or that has changed since its video was saved. The manifest in
    ``output_path`` records which videos are saved. The task submits up to ``max_active`` videos and defers. It is
    resumed to save finished videos and to submit more.

    .. seealso:: ``docs/operators/batch.md``

    :param requests: The feed: a list of rows, or the path of a JSON Lines or CSV file on local disk or in object
        storage. Files are read line by line. Fields of a row: ``key`` (identifies the row in every run, for example the
        SKU), ``prompt``, ``image``, and optionally ``model``, ``duration``, ``aspect_ratio``, ``parameters`` and
        ``revision`` (change it to request a new video for an otherwise unchanged row). Every row is validated before
        anything is submitted. Text in rows is not rendered as a template. (templated)
    :param output_path: Directory, local or in object storage, for the videos, ``manifest.jsonl`` and ``index.html``.
        (templated)
    :param model: Model of rows that set no model (default ``grok-video-1.5-preview``). (templated)
    :param duration: Length in seconds of the videos of rows that set no duration. Default: the model's own default.
        (templated)
    :param aspect_ratio: Aspect ratio of rows that set none. Default: the model's own default. (templated)
    :param parameters: Further fields of the JSON body of every row's request. They are sent unchecked. A row's own
        ``parameters`` override them. (templated)
    :param fallback_models: Ids of models to use if the service does not offer ``model``, in this order (default: none).
        The rejection of ``model`` costs nothing. The plan and ``max_cost_usd`` count the most expensive of the models.
        Rows that set a model have no fallback models. (templated)
    :param max_active: Maximum number of videos in progress at a time (default 500).
    :param max_failures: Maximum number of rows that can fail: a number (int) or a fraction of the rows to submit
        (float; default 0.05). If more rows fail, the task stops submitting and fails. Finished videos stay saved, and a
        retry makes only the missing videos.
    :param max_cost_usd: Maximum expected cost, in USD, of the videos of one run. A plan that costs more is rejected.
        Default: no limit. (templated)
    :param price_usd: Price in USD of a video for which neither the service nor the model catalog has a price.
        (templated)
    :param dry_run: Return the plan (new, changed, unchanged, invalid, estimated cost) and submit nothing (default
        False).
    :param image_etag: Request the ETag of each image URL, to detect that an image changed although its URL did not
        (default False).
    :param max_generations: Maximum number of videos that a run submits for one row, if earlier videos fail (default 3).
        Each attempt submits at most one video per row.
    :param max_bytes: Maximum size of a video file in bytes (default 2 GiB). A larger file is not saved.
    :param check: What happens if a saved video is not what its row requested. ``warn`` logs warnings and adds them to
        the manifest, ``fail`` counts the row as failed, ``off`` does not check the videos. The file stays in any case,
        and only a changed row is submitted again. Videos are measured only if the extra ``media`` is installed. See
        ``docs/operators/check.md``. Default: ``[toapis] check``, else ``warn``.
    :param poster: Also save a JPEG image of each video, beside the file and with its name (default False). Needs the
        extra ``media``.
    :param deferrable: Wait in the triggerer, without a worker slot. Default: ``[operators] default_deferrable``.
    :param poll_interval: Seconds between two polls for one video, unless its progress or earlier videos suggest another
        interval. Default: ``[toapis] poll_interval``, else 10.
    :param timeout: Seconds, or a timedelta, for which an attempt waits for one video after its submission. After that,
        the service continues to make the video, and the next attempt re-attaches to it. Default: ``[toapis] timeout``,
        else 1800.
    :param webhook: Let the service send webhooks when videos are final, and poll only rarely: ``True``, ``False``, or
        ``"auto"`` to use webhooks where the account and Airflow support them. Default: the connection's ``webhook``,
        else False. See ``docs/webhooks.md``.
    :param toapis_conn_id: Airflow connection (default ``toapis_default``). (templated)
    :raises ToAPIsRequestError: Rows are invalid, or the plan costs more than ``max_cost_usd``. Nothing was submitted.
    :raises ToAPIsQuotaError: The account's balance is too low.
    :raises ToAPIsBatchError: More than ``max_failures`` rows failed.
    :raises ToAPIsWaitInterruptedError: Billed videos cannot be looked up right now. A retry re-attaches to them.
    """

    template_fields: Sequence[str] = (
        "requests",
        "output_path",
        "model",
        "duration",
        "aspect_ratio",
        "parameters",
        "fallback_models",
        "max_cost_usd",
        "price_usd",
        "toapis_conn_id",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"requests": "json", "parameters": "json"}
    operator_extra_links: Sequence[BaseOperatorLink] = (ToAPIsBatchReportLink(), ToAPIsConsoleLink())
    ui_color = "#e8e2f7"

    def __init__(
        self,
        *,
        requests: str | Iterable[Mapping[str, Any]],
        output_path: str,
        model: str = MODEL,
        duration: int | str | None = None,
        aspect_ratio: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        fallback_models: Sequence[str] | None = None,
        max_active: int = 500,
        max_failures: float = 0.05,
        max_cost_usd: float | str | None = None,
        price_usd: float | str | None = None,
        dry_run: bool = False,
        image_etag: bool = False,
        max_generations: int = 3,
        max_bytes: int = MAX_BYTES,
        check: CheckMode | None = None,
        poster: bool = False,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poll_interval: float | None = None,
        timeout: timedelta | float | None = None,
        webhook: WebhookMode | None = None,
        toapis_conn_id: str = "toapis_default",
        **kwargs: Unpack[BaseOperatorArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.webhook = webhook_mode(webhook)
        self.max_active = require_whole_number("max_active", max_active)
        self.max_failures = require_share("max_failures", max_failures)
        self.max_generations = require_whole_number("max_generations", max_generations)
        self.max_bytes = require_whole_number("max_bytes", max_bytes)
        self._set_media_options(check, poster=poster)
        self.poll_interval = seconds_or_default("poll_interval", poll_interval)
        self.timeout = seconds_or_default("timeout", timeout)
        self.requests = requests
        self.output_path = output_path
        self.model = model
        self.duration = duration
        self.aspect_ratio = aspect_ratio
        self.parameters = parameters
        if is_literal(fallback_models) and is_literal(model):
            fallback_model_ids(fallback_models, model)
        self.fallback_models = fallback_models
        self.max_cost_usd = max_cost_usd
        self.price_usd = price_usd
        # None means no limit. A template that renders to None is an error.
        self._is_limited = max_cost_usd is not None
        self._is_priced = price_usd is not None
        self._stop = StopSignal()
        # The attribute cannot be called dry_run, because operators have a method of that name.
        self.only_plan = dry_run
        self.image_etag = image_etag
        self.deferrable = deferrable
        self.toapis_conn_id = toapis_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        """Make the videos of new and changed rows. Return the counts, the cost and the path of the manifest."""
        with _keep_retries(context):
            batch = self._batch(context)
            if self.only_plan:
                return self._dry_run(batch)
            with keep_retryable(_blocked, when=lambda: batch.has_in_progress and batch.is_unreadable):
                batch.acquire_directory()
        with self._overview(batch, context):
            return self._begin(batch, context)

    def _dry_run(self, batch: Batch) -> dict[str, Any]:
        plan = batch.plan()
        self.log.info("%s. Nothing was submitted (dry_run=True).", plan)
        if plan.problems:
            self.log.warning("%s", plan.problems_text())
        return plan.as_dict()

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Continue after a wait: save finished videos and submit more videos."""
        return self._resume(context, BatchEvent.parse(event))

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:  # noqa: ANN401
        """Resume the task. If the deferral timed out, look up all videos in progress.

        :raises ToAPIsWaitInterruptedError: The triggerer could not poll the videos. A retry re-attaches to them.
        """
        if deferral_timed_out(next_method, next_kwargs):
            return self._resume(context, None)
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except TaskDeferralError as error:
            raise ToAPIsWaitInterruptedError(
                f"The triggerer could not poll this batch's videos ({error}). The videos are submitted and"
                " billed. A retry continues with them."
            ) from error

    def on_kill(self) -> None:
        """Stop submitting, and log what happens to the submitted videos."""
        self._stop.set()
        self.log.warning(
            "Killed. Submitted videos cannot be canceled. They are billed and still rendering. A later attempt or the"
            " next run continues with them."
        )

    def _resume(self, context: Context, event: BatchEvent | None) -> dict[str, Any]:
        resumed_at = clock.time()
        with keep_retryable(_interrupted):
            self._hook.wait_until_usable(resumed_at + self.timeout)
            batch = self._batch(context, is_resumed=True)
        active = batch.progress.active()
        if not active:
            if not batch.knows_rows:
                raise _lost_manifest(self.output_path)
            # Another run now waits for all videos of this attempt, so this attempt begins again with a new plan.
            return self.execute(context)
        maybe_final = active if event is None else _maybe_final(active, event)
        with self._overview(batch, context):
            return self._continue(batch, maybe_final, resumed_at, context, event)

    def _begin(self, batch: Batch, context: Context) -> dict[str, Any]:
        """Record the plan and run it.

        If the plan is rejected, wait for the billed videos in progress, and then raise the error.
        """
        with (
            _keep_retries(context),
            keep_retryable(_blocked, when=lambda: batch.has_in_progress),
            self._rescheduled(context, when=lambda: not batch.may_have_submitted),
        ):
            batch.follow_up_claims()
            try:
                self._media_options.require_packages()
                batch.apply_plan(batch.plan())
            except (exceptions.ToAPIsRequestError, exceptions.ToAPIsQuotaError) as rejection:
                if not batch.resume_in_progress():
                    raise
                self.log.warning(
                    "Not submitting new videos (%s). Waiting for videos already in progress first.", rejection
                )
        push_console_link(context, self._hook.settings().base_url)
        push_batch_report_link(context)
        # The first pass submits for hours if the feed is long, and the page of the link needs the state.
        self._push_overview(batch, context)
        return self._continue(batch, batch.progress.active(), None, context)

    def _continue(
        self,
        batch: Batch,
        maybe_final: Sequence[ManifestEntry],
        resumed_at: float | None,
        context: Context,
        event: BatchEvent | None = None,
    ) -> dict[str, Any]:
        is_plan_rejected = batch.is_plan_rejected
        while True:
            # run_pass() submits rows, so videos can be billed even if it raises an error.
            billed_before = bool(batch.progress.active())
            with keep_retryable(_interrupted, when=partial(self._is_billed, batch, billed_before)):
                batch.run_pass(maybe_final)
            self._stop.check()
            active = batch.progress.active()
            if not active:
                break
            if self.deferrable:
                batch.save_checkpoint()
            else:
                self._push_overview(batch, context)
            with keep_retryable(_interrupted):
                event = self._wait_until_some_final(active, resumed_at, event)
                self._hook.wait_until_usable(clock.time() + self.timeout)
            resumed_at = clock.time()
            maybe_final = _maybe_final(active, event)
        if is_plan_rejected:
            batch.publish()
            return self._begin(batch, context)
        result = batch.finalize()
        self._publish_result(result, context)
        return result

    @contextmanager
    def _overview(self, batch: Batch, context: Context) -> Iterator[None]:
        """Push the state of the batch to XCom when the attempt ends, fails, or is deferred or rescheduled."""
        reason = None
        try:
            with self._rescheduled(context, when=lambda: not batch.may_have_submitted):
                yield
        except Exception as error:
            reason = reason_of(error)
            raise
        finally:
            self._push_overview(batch, context, reason)

    def _push_overview(self, batch: Batch, context: Context, reason: str | None = None) -> None:
        try:
            context["ti"].xcom_push(key=BATCH_KEY, value=batch.overview() | {"reason": reason})
        except Exception as error:  # noqa: BLE001 - must not replace the error that ended the attempt
            self.log.warning("Cannot push XCom %s (%s).", BATCH_KEY, type(error).__name__)

    @staticmethod
    def _is_billed(batch: Batch, before: bool) -> bool:
        return before or bool(batch.progress.active())

    def _wait_until_some_final(
        self, active: Sequence[ManifestEntry], resumed_at: float | None, last_event: BatchEvent | None
    ) -> BatchEvent:
        """Defer the task until enough of its videos are final. If it is not deferrable, block until then."""
        submissions = [entry.submission for entry in active if entry.submission]
        with_webhook = [position for position, submission in enumerate(submissions) if submission.webhook]
        return wait_until_some_final(
            self,
            [str(submission.video_id) for submission in submissions],
            deferrable=self.deferrable,
            toapis_conn_id=self.toapis_conn_id,
            poll_interval=self.poll_interval,
            end_time=min(_deadline(entry) for entry in active),
            not_before=None if resumed_at is None else resumed_at + SECONDS_BETWEEN_RESUMPTIONS,
            fallback_interval=self._hook.fallback_interval(self.poll_interval)
            if with_webhook and self.deferrable
            else None,
            webhook_positions=with_webhook,
            event_status=last_event.status if last_event else "success",
        )

    def _publish_result(self, result: Mapping[str, Any], context: Context) -> None:
        describe_catalog(context, self.outlets, result)
        push_batch_report_link(context, result["report"])

    def _batch(self, context: Context, *, is_resumed: bool = False) -> Batch:
        from airflow_provider_toapis.batch.plan import this_attempt
        from airflow_provider_toapis.batch.runner import Batch

        self._require_rendered()
        ti = context["ti"]
        attempt = this_attempt(str(ti.run_id), int(ti.try_number or 1), self.timeout, int(ti.max_tries or 0))
        return Batch(
            self._hook,
            self._unmasked("requests"),
            self._options(context),
            attempt,
            stop=self._stop,
            earlier_result=partial(_earlier_result, ti),
            is_resumed=is_resumed,
        )

    def _options(self, context: Context) -> BatchOptions:
        from airflow_provider_toapis.batch.ownership import Owner
        from airflow_provider_toapis.batch.row_job import RowJobOptions
        from airflow_provider_toapis.batch.row_request import Defaults
        from airflow_provider_toapis.batch.runner import BatchOptions

        if self.parameters and not isinstance(self.parameters, Mapping):
            # The message does not contain the value itself, because that can contain a prompt.
            raise ToAPIsRequestError.for_field("parameters", type(self.parameters).__name__, "must be a dict")
        ti = context["ti"]
        return BatchOptions(
            title=f"{ti.dag_id} · {ti.task_id}",
            output_path=self.output_path,
            defaults=Defaults(
                self.model,
                self.duration,
                self.aspect_ratio or None,
                self._unmasked("parameters") or {},
                fallback_model_ids(self.fallback_models, self.model),
            ),
            row_job=RowJobOptions(
                identity=(self._hook.settings().namespace, ti.dag_id, ti.task_id),
                max_generations=self.max_generations,
                max_bytes=self.max_bytes,
                timeout=self.timeout,
                callback=self._hook.callback(self.webhook, ti) if self.deferrable else None,
                media=self._media_options,
            ),
            max_active=self.max_active,
            max_failures=self.max_failures,
            max_cost_usd=parse_usd("max_cost_usd", self.max_cost_usd, required=self._is_limited),
            price_usd=parse_usd("price_usd", self.price_usd, required=self._is_priced),
            image_etag=self.image_etag,
            owner=Owner(ti.dag_id, ti.task_id, str(ti.run_id), -1 if ti.map_index is None else int(ti.map_index)),
        )

    def _do_render_template_fields(self, parent: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        are_rows = parent is self and isinstance(self.requests, list | tuple)
        if are_rows:
            self.requests = cast("Iterable[Mapping[str, Any]]", as_data(self.requests))
        super()._do_render_template_fields(parent, *args, **kwargs)
        if are_rows:
            # An empty row is not reported here, because it is reported later with its row number.
            self._emptied = {name: value for name, value in self._emptied.items() if name != "requests"}

    @property
    def _hook(self) -> ToAPIsHook:
        hook = ToAPIsHook(self.toapis_conn_id)
        hook.stop = self._stop
        return hook


def _keep_retries(context: Context) -> AbstractContextManager[None]:
    earlier = ToAPIsWaitInterruptedError.for_unknown_submission
    return keep_retryable(earlier, when=lambda: is_retry(context), errors=ACCOUNT_ERRORS)


def _blocked(error: exceptions.ToAPIsError) -> ToAPIsWaitInterruptedError:
    return ToAPIsWaitInterruptedError(
        f"Cannot submit new videos: {error.without_cost} Billed videos of earlier attempts are not saved yet. A"
        " retry continues with them."
    )


def _interrupted(error: exceptions.ToAPIsError) -> ToAPIsWaitInterruptedError:
    return ToAPIsWaitInterruptedError(
        f"Cannot look up this batch's videos right now: {error.without_cost} The videos are submitted and billed. A"
        " retry continues with them."
    )


def _lost_manifest(output_path: str) -> ToAPIsWaitInterruptedError:
    return ToAPIsWaitInterruptedError(
        f"The manifest in output_path={output_path!r} is missing, although this run wrote it. It lists videos that"
        " are submitted and billed. Nothing more was submitted. Mount the directory again, or restore manifest.jsonl"
        " and .manifest. A retry then continues with these videos."
    )


def _deadline(entry: ManifestEntry) -> float:
    return entry.submission.deadline if entry.submission and entry.submission.deadline is not None else math.inf


def _maybe_final(active: Sequence[ManifestEntry], event: BatchEvent) -> list[ManifestEntry]:
    """Return the rows whose videos are final according to the event, and the rows whose deadline has passed."""
    now = clock.time()
    final = set(event.final_positions(len(active)))
    return [entry for position, entry in enumerate(active) if position in final or now >= _deadline(entry)]


def _earlier_result(ti: Any) -> object:  # noqa: ANN401 - Airflow's task instance
    """Return this task's result in its previous run; None on Airflow 3.0, which does not provide it."""
    return ti.xcom_pull(
        task_ids=ti.task_id, key="return_value", include_prior_dates=True, map_indexes=int(ti.map_index)
    )
