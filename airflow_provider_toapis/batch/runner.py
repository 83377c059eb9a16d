"""Run one attempt of a batch: read the feed, submit what is missing, save the videos and write the report."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_provider_toapis.api.clock import clock
from airflow_provider_toapis.api.pricing import PriceList, require_balance, require_budget, total
from airflow_provider_toapis.api.responses import TaskStatus
from airflow_provider_toapis.batch.checkpoint import Checkpoint, Checkpoints
from airflow_provider_toapis.batch.claims import Claims, Subject
from airflow_provider_toapis.batch.directory import Directory
from airflow_provider_toapis.batch.feed import Feed, Row, RowProblem, file_name, is_row_iterable
from airflow_provider_toapis.batch.manifest import MANIFEST, Manifest
from airflow_provider_toapis.batch.manifest_entry import ManifestEntry, RowStatus, RowSubmission, time_now
from airflow_provider_toapis.batch.ownership import Owner, Ownership, RunPlan
from airflow_provider_toapis.batch.plan import (
    Attempt,
    Plan,
    claimed_by,
    is_requested,
    make_plan,
    warn_superseded,
    with_found_video,
)
from airflow_provider_toapis.batch.progress import Progress
from airflow_provider_toapis.batch.report import REPORT, catalog_pages
from airflow_provider_toapis.batch.reviews import Reviews
from airflow_provider_toapis.batch.row_job import RowJob, RowJobOptions
from airflow_provider_toapis.batch.row_request import Defaults, RowRequests
from airflow_provider_toapis.batch.worker_pass import WorkerPass
from airflow_provider_toapis.exceptions import (
    ToAPIsAuthError,
    ToAPIsBatchError,
    ToAPIsError,
    ToAPIsNotFoundError,
    ToAPIsRequestError,
)

if TYPE_CHECKING:
    from airflow_provider_toapis.api.client import ToAPIsClient
    from airflow_provider_toapis.api.clock import StopSignal
    from airflow_provider_toapis.api.pricing import OfferedPrice
    from airflow_provider_toapis.api.responses import VideoTask
    from airflow_provider_toapis.hooks.toapis import ToAPIsHook

log = logging.getLogger(__name__)
#: File extensions of videos.
_VIDEO_EXTENSIONS = frozenset({"mp4", "webm", "mov", "m4v", "mkv", "gif"})
#: Seconds between two tries to compact the manifest while another run compacts it, and the maximum number of tries.
_COMPACT_SECONDS = 2.0
_COMPACT_TRIES = 15
#: Seconds for which a failing look-up of a claimed submission is retried.
_FOLLOW_UP_SECONDS = 10.0


@dataclass(frozen=True)
class BatchOptions:
    """The options of a batch; see ``ToAPIsVideoBatchOperator``."""

    title: str
    output_path: str
    defaults: Defaults
    row_job: RowJobOptions
    max_active: int
    max_failures: float
    max_cost_usd: Decimal | None
    price_usd: Decimal | None
    image_etag: bool
    owner: Owner


class Batch:
    """One attempt of a batch task.

    :param requests: The feed. It is read again for every pass.
    :param stop: Set when the task is killed.
    :param earlier_result: Returns the result of the task's earlier run; None if unknown.
    :param is_resumed: Whether this process continues an attempt that was deferred.
    :raises ToAPIsRequestError: The directory cannot be used, or its manifest cannot be read.
    """

    def __init__(
        self,
        hook: ToAPIsHook,
        requests: str | Iterable[Mapping[str, Any]],
        options: BatchOptions,
        attempt: Attempt,
        *,
        stop: StopSignal,
        earlier_result: Callable[[], object] = lambda: None,
        is_resumed: bool = False,
    ) -> None:
        self._hook = hook
        # The feed is read for every pass, but a generator yields its rows only once. An invalid feed is rejected when
        # it is read.
        rows = list(requests) if is_row_iterable(requests) else requests
        self._options = options
        self._attempt = attempt
        # The process that has begun the attempt has removed the partial files of killed workers.
        self._directory = Directory(options.output_path, removes_abandoned=not is_resumed)
        self._checkpoints = Checkpoints(self._directory, attempt)
        checkpoint = self._checkpoints.read() if is_resumed else None
        self._manifest = Manifest(self._directory, checkpoint.manifest if checkpoint else None)
        self._feed = Feed(rows, checkpoint.feed if checkpoint else None)
        self._planned = checkpoint.planned if checkpoint else None
        self._ownership = Ownership(self._directory, options.owner)
        self._claims: Claims | None = None
        #: Claimed submissions that the service does not find, by idempotency key.
        self._unfound: dict[str, Subject] = {}
        self._stop = stop
        self._earlier_result = earlier_result
        self.progress = Progress(
            self._manifest,
            attempt,
            options.max_failures,
            self._number_planned,
            tally=checkpoint.tally if checkpoint else None,
        )
        self._abort_error: ToAPIsError | None = None

    def acquire_directory(self) -> None:
        """Claim the directory for this task.

        :raises ToAPIsRequestError: The directory belongs to another task, or another map index of this task uses it in
            this run.
        """
        self._ownership.acquire()
        _ = self._run_plan

    @property
    def is_unreadable(self) -> bool:
        """Whether the owner file or the plan file of the directory cannot be read."""
        return self._ownership.is_unreadable

    @property
    def knows_rows(self) -> bool:
        """Whether the manifest contains any row."""
        return bool(self._manifest.entries)

    def plan(self) -> Plan:
        """Compare the feed with the manifest and the directory. Nothing is submitted or recorded."""
        files = self._directory.sizes()
        reviews = Reviews(self._directory)
        known = self._manifest.entries
        with self._hook.client() as client:
            return make_plan(
                self._row_requests(client).check_all(
                    self._require_manifest(self._feed.all_rows(), files),
                    lambda key: reviews.of(key, known.get(key)),
                ),
                known,
                files,
                PriceList(_offered_prices(client), self._options.price_usd),
                self._attempt,
                run_plan=self._run_plan,
            )

    def apply_plan(self, plan: Plan) -> None:
        """Check the plan and its cost, then record it. Nothing is submitted.

        :raises ToAPIsRequestError: Rows are invalid, the plan costs more than ``max_cost_usd``, or the directory cannot
            be written or belongs to another map index.
        :raises ToAPIsQuotaError: The account's balance is too low.
        """
        plan.require_valid()
        self._directory.require_writable()
        if self._options.max_cost_usd is not None:
            require_budget(plan.prices, plan.unpriced, spent=self._spent(plan), max_cost_usd=self._options.max_cost_usd)
        if estimate := total(plan.prices):
            require_balance(estimate, self._hook.get_balance())
        self._planned = len(self._ownership.record(plan.run_plan).rows)
        # A later plan of this attempt reads the file. Until then, the plan takes memory for each row.
        self.__dict__.pop("_run_plan", None)
        for entry in plan.entries:
            self.progress.update(entry)
        if self._options.row_job.media.check != "fail":
            self._accept_failed_checks()
        for key, video in plan.superseded.items():
            warn_superseded(key, video)
        self._report_unfound()
        if plan.counts[RowStatus.POSTPONED]:
            log.warning(
                "%s rows have changed since this run was planned. The next run submits them.",
                plan.counts[RowStatus.POSTPONED],
            )
        if self.progress.has_work:
            Claims(self._directory).remove_found(self._known_videos())
            self.progress.narrow()
        else:
            self._manifest.flush()
        log.info("%s.", plan)

    def _accept_failed_checks(self) -> None:
        """Reset ``check_failed`` of saved videos, because ``check`` is no longer ``fail``.

        A video whose file was deleted is not changed. Otherwise its row would be submitted again.
        """
        if not any(entry.saved and entry.saved.check_failed for entry in self._manifest.entries.values()):
            return
        self.progress.refresh()
        files = self._directory.sizes()
        for entry in list(self._manifest.entries.values()):
            saved = entry.saved
            if saved is not None and saved.check_failed and files.get(saved.file) == saved.size:
                self.progress.update(replace(entry, saved=replace(saved, check_failed=False)))

    def follow_up_claims(self) -> None:
        """Record the videos that workers submitted but did not record before they died.

        Videos that are not found are looked up again when their rows are submitted.
        """
        claims = Claims(self._directory)
        submitted = dict(claims.unresolved(self._known_videos()))
        if not submitted:
            return
        with self._hook.client() as client:
            for business_id, subject in submitted.items():
                try:
                    task = client.get_video(business_id, _FOLLOW_UP_SECONDS, is_key=True)
                except ToAPIsNotFoundError as error:
                    if error.by_service and claims.is_abandoned(business_id):
                        self._unfound[business_id] = subject
                except ToAPIsError as error:
                    log.warning(
                        "The submissions of workers that died cannot be looked up right now: %s", error.without_cost
                    )
                    break
                else:
                    self._record_found(business_id, subject, task)
        self._manifest.flush()

    def _record_found(self, business_id: str, subject: Subject, task: VideoTask) -> None:
        if task.id == subject.replaced_video_id:
            return
        entry = self._manifest.entries.get(subject.row_key)
        found = RowSubmission(
            RowStatus.FAILED if task.status is TaskStatus.FAILED else RowStatus.SUBMITTED,
            subject.fingerprint,
            subject.run_id,
            try_number=0,
            first_generation=subject.generation,
            generation=subject.generation,
            client_business_id=business_id,
            video_id=task.id,
            posted_at=task.created_at.timestamp() if task.created_at else clock.time(),
            price_usd=subject.price_usd,
            redos=subject.redos,
        )
        after = with_found_video(entry, found, subject.row_key, task.model or "", self._attempt)
        if task.cost_usd is not None:
            after = after.with_billed(task.id, f"{task.cost_usd:f}")
        self.progress.update(after)
        if after.submission and after.submission.is_in_progress and after.submission.video_id == task.id:
            log.info(
                "%s: re-attached to video %s, submitted by an earlier attempt. Nothing more is billed.",
                after.key,
                task.id,
            )
        if entry is not None and len(after.superseded) > len(entry.superseded):
            warn_superseded(after.key, after.superseded[-1])

    def _report_unfound(self) -> None:
        """Warn about claimed submissions that the service does not find and that no row requests any longer.

        Claims of other runs are removed after the warning. Claims of this run stay, because the cost of this run
        includes them.
        """
        for business_id, subject in self._unfound.items():
            if is_requested(self._manifest.entries.get(subject.row_key), subject.fingerprint):
                continue
            log.warning(
                "%s: a worker died while it submitted a video (client_business_id %s) for an earlier version of the"
                " row. The service does not find this video, but may have billed it (expected price: %s).",
                subject.row_key,
                business_id,
                f"{subject.price_usd} USD" if subject.price_usd else "not known",
            )
            if subject.run_id != self._attempt.run_id:
                Claims(self._directory).remove_key(business_id)

    def resume_in_progress(self) -> bool:
        """Claim the videos that earlier attempts and runs left in progress; return whether this attempt waits for any.

        Called after the plan was rejected, so this attempt only waits for these videos and submits nothing. Videos for
        which this attempt has already stopped waiting are ignored.
        """
        left = [
            (entry, submission)
            for entry, submission in self._in_progress()
            if not self._attempt.has_waited_for(submission)
            or (entry.state == RowStatus.SUBMITTED and self._attempt.owns(submission))
        ]
        for entry, submission in left:
            self.progress.update(replace(entry, submission=claimed_by(submission, self._attempt, plan_rejected=True)))
        self._manifest.flush()
        return bool(left)

    @cached_property
    def _run_plan(self) -> RunPlan | None:
        return self._ownership.planned()

    def _number_planned(self) -> int:
        if self._planned is None:
            self._planned = len(self._run_plan.rows if self._run_plan else ())
        return self._planned

    @property
    def is_plan_rejected(self) -> bool:
        """Whether this attempt only waits for videos that were already in progress, because its plan was rejected."""
        return any(entry.submission and entry.submission.plan_rejected for entry in self.progress.active())

    @property
    def has_in_progress(self) -> bool:
        """Whether any run has billed videos that are not saved yet."""
        return bool(self._in_progress())

    @property
    def may_have_submitted(self) -> bool:
        """Whether any row has, or may have, a billed video that is not saved yet."""
        submissions = (entry.submission for entry in self._manifest.entries.values())
        return any(
            submission is not None and submission.state in (RowStatus.SUBMITTED, RowStatus.INTERRUPTED)
            for submission in submissions
        )

    def _in_progress(self) -> list[tuple[ManifestEntry, RowSubmission]]:
        return [
            (entry, entry.submission)
            for entry in self._manifest.entries.values()
            if entry.submission and entry.submission.is_in_progress
        ]

    def run_pass(self, maybe_final: Iterable[ManifestEntry]) -> None:
        """Save finished videos, and submit rows until ``max_active`` videos are in progress.

        :param maybe_final: Rows whose videos may be final. Each video is looked up.
        """
        self.progress.refresh()
        self._claims = Claims(self._directory, self._attempt.run_id, self._attempt.try_number, self._attempt.max_tries)
        if self._claims.found:
            self._claims.remove_found(_videos_of(self._manifest.loaded))
        with ExitStack() as clients:
            client = clients.enter_context(self._hook.client())
            row_job = RowJob(
                client,
                self._directory,
                self._claims,
                self._row_requests(client),
                self._options.row_job,
                new_client=lambda: clients.enter_context(self._hook.client()),
            )
            one_pass = WorkerPass(
                row_job,
                self._manifest,
                self.progress,
                self._attempt,
                feed=None if self.is_plan_rejected else self._feed,
                max_active=self._options.max_active,
                stop=self._stop,
            )
            one_pass.run(maybe_final)
            row_job.release_claims()
            self._abort_error = one_pass.abort_error
        if any(self.progress.is_pending(self._manifest.loaded[key]) for key in one_pass.begun):
            # The next pass tries these rows again, and they are before the position at which this pass stopped.
            self._feed.start_over()
        # If another run has written anything, all rows are in memory now. They stay there while rows are pending,
        # because the pending rows would be written again after each pass.
        if self.progress.active() and (self._manifest.is_narrowed or not self.progress.has_pending(())):
            # The claims of the submitted rows are removed after the wait.
            self.progress.narrow(one_pass.begun)

    def save_checkpoint(self) -> None:
        """Let the process that resumes this attempt continue without reading all rows."""
        if self._manifest.is_narrowed:
            tally = self.progress.tally
            self._checkpoints.write(
                Checkpoint(self._manifest.state, tally, self._number_planned(), self._feed.position)
            )

    def publish(self) -> None:
        """Compact the manifest and write the report."""
        for _ in range(_COMPACT_TRIES):
            if self._manifest.compact():
                break
            clock.sleep(_COMPACT_SECONDS)
        else:
            log.info("Another run is writing %s. That run or the next run adds this run's rows.", self._manifest.path)
        self.progress.refresh()
        if self._claims is not None:
            self._claims.remove_all(self._known_videos())
        self._checkpoints.remove()
        pages = catalog_pages(self._manifest.entries.values(), title=self._options.title, made_at=time_now())
        for name, page in pages:
            self._directory.write(name, page)

    def finalize(self) -> dict[str, Any]:
        """Compact the manifest, write the report, and return the result of the batch.

        :raises ToAPIsBatchError: More than ``max_failures`` rows failed. Finished videos are saved.
        """
        self.publish()
        if others := self.progress.waited_for_elsewhere:
            log.warning("Another run now waits for %s videos of this run and saves them.", others)
        if self._abort_error is not None:
            raise self._abort_error
        if self.progress.has_too_many_failures:
            raise ToAPIsBatchError(f"{self.progress.failure_text()}\nAll reasons: {self._manifest.path}")
        report = self._directory.path_of(REPORT)
        log.info("%s. Cost: %s USD.\nReport: %s", self.progress, f"{self.progress.cost:f}", report)
        return {**self.progress.summary(), "manifest": self._manifest.path, "report": report}

    def overview(self) -> dict[str, Any]:
        """Return the state of the batch for the XCom ``toapis_batch``."""
        return {"output_path": str(self._directory), "manifest": self._manifest.path, **self.progress.overview()}

    def _spent(self, plan: Plan) -> Decimal:
        """Return the cost of this run so far, in USD, as far as prices are known.

        The cost includes the expected prices of POSTs with an unknown outcome. If a row still requests such a video,
        the video's price is left out, because the plan includes it.
        """
        run_id = self._attempt.run_id
        entries = self._manifest.entries | {entry.key: entry for entry in plan.entries}
        prices = [cost.price_usd for entry in entries.values() for cost in entry.costs if cost.run_id == run_id]
        for _, subject in Claims(self._directory).unresolved(self._known_videos()):
            if subject.run_id == run_id and not is_requested(entries.get(subject.row_key), subject.fingerprint):
                prices.append(subject.price_usd)
        return total(Decimal(price) for price in prices if price)

    def _known_videos(self) -> dict[str, set[str]]:
        return _videos_of(self._manifest.entries)

    def _require_manifest(
        self, rows: Iterable[Row | RowProblem], files: Mapping[str, int]
    ) -> Iterator[Row | RowProblem]:
        """Yield the rows. Reject the manifest if a row is missing in it although the row's video was saved.

        Such a row would be planned as new and billed again.

        :raises ToAPIsRequestError: The manifest is missing, empty or incomplete.
        """
        known = self._manifest.entries
        if self._manifest.starts_over:
            yield from rows
            return
        saved = {name.rpartition(".")[0] for name in files if name.rpartition(".")[2] in _VIDEO_EXTENSIONS}
        if not known and self._manifest.exists and saved:
            raise self._incomplete_manifest(f"it is empty, and {len(saved)} videos are in its directory")
        if not known and self._has_saved_earlier():
            raise self._incomplete_manifest(
                "it is missing or empty, and earlier runs of this task have saved videos in its directory"
            )
        for row in rows:
            if row.key and row.key not in known and file_name(row.key) in saved:
                what = "rows are missing in it" if known else "it is missing"
                raise self._incomplete_manifest(f"{what}, and the video of key {row.key!r} is in its directory")
            yield row

    def _has_saved_earlier(self) -> bool:
        earlier = self._earlier_result()
        if not isinstance(earlier, Mapping) or earlier.get("manifest") != self._manifest.path:
            return False
        return any(isinstance(count := earlier.get(name), int) and count > 0 for name in ("saved", "unchanged"))

    def _incomplete_manifest(self, what: str) -> ToAPIsRequestError:
        return ToAPIsRequestError.for_field(
            "output_path",
            self._manifest.path,
            f"the manifest does not list the rows that were billed: {what}. The rows would be billed again."
            f" Mount the right directory, or restore {MANIFEST} and .manifest. To submit and pay for these rows again,"
            f' add the line {{"version": 1}} to {MANIFEST}',
        )

    def _row_requests(self, client: ToAPIsClient) -> RowRequests:
        return RowRequests(self._options.defaults, client.image_etag if self._options.image_etag else None)


def _videos_of(entries: Mapping[str, ManifestEntry]) -> dict[str, set[str]]:
    """Return the ids of the recorded videos of some rows, by idempotency key."""
    known: dict[str, set[str]] = {}
    for entry in entries.values():
        for business_id, video_id in entry.videos:
            known.setdefault(business_id, set()).add(video_id)
    return known


def _offered_prices(client: ToAPIsClient) -> Iterator[OfferedPrice]:
    try:
        yield from client.get_pricing()
    except ToAPIsAuthError:
        raise
    except ToAPIsError as error:
        log.warning("Cannot read the service's prices (%s). The prices in the model catalog are used instead.", error)
