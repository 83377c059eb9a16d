"""Run random sequences of batch runs on one directory, like :mod:`tests.integration.test_random_attempts`.

The runs of a sequence are killed and retried, overlap with each other and get changed feeds, while the service loses
responses, limits rates and fails. Reviewers approve and redo videos, between the runs and during them. A request must
not be submitted again while its video is in progress or its result is available, unless a reviewer has requested it. A
run must not submit two versions of a row.

``TOAPIS_MODEL_SEED=n`` draws other sequences, and ``TOAPIS_BATCH_MODEL_SEQUENCES=n`` sets their number.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import httpx
import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from hypothesis import HealthCheck, Phase, note, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from airflow_provider_toapis.api import client, connecting, rate_limit
from airflow_provider_toapis.batch import manifest, worker_pass
from airflow_provider_toapis.batch.directory import Directory
from airflow_provider_toapis.batch.manifest import Manifest
from airflow_provider_toapis.batch.manifest_entry import Review, time_now
from airflow_provider_toapis.batch.reviews import Reviews
from airflow_provider_toapis.emulator.store import Task
from airflow_provider_toapis.exceptions import ToAPIsError
from airflow_provider_toapis.operators.batch import ToAPIsVideoBatchOperator
from airflow_provider_toapis.triggers.video import ToAPIsVideoBatchTrigger
from tests.airflow_task import FakeTaskInstance
from tests.clock import replace_clock
from tests.integration.emulator_in_process import LATENCY, ORIGIN, EmulatorInProcess, freeze_emulator_time
from tests.integration.submission_model import AttemptPlan, Crash, InjectedFault, KilledError, Transport, World

SEQUENCES = int(os.environ.get("TOAPIS_BATCH_MODEL_SEQUENCES", "40"))
SEED = int(os.environ.get("TOAPIS_MODEL_SEED", "1"))
STEPS_PER_SEQUENCE = 6
#: Seconds after a submission before its key can be looked up.
LAG = 45.0
#: Seconds from a deferral until the task is resumed. All videos are final by then.
RESUME_DELAY = LATENCY + 30
RESULT_LIFETIME = 24 * 3600.0
KEYS = ("shoe", "mug", "hat")
MAX_RESUMPTIONS = 20

Feed = dict[str, int | None]

FEEDS = st.fixed_dictionaries({key: st.sampled_from([0, 0, 0, 1, 2, None]) for key in KEYS})
FAULTS = st.fixed_dictionaries(
    {
        "submit": st.lists(
            st.sampled_from(
                [
                    InjectedFault("internal_error", processed=True),
                    InjectedFault(httpx.ReadTimeout, processed=True),
                    InjectedFault("bad_gateway"),
                    InjectedFault("rate_limited"),
                    InjectedFault(httpx.ConnectError),
                ]
            ),
            max_size=3,
        ),
        "poll": st.lists(
            st.sampled_from(
                [InjectedFault("internal_error"), InjectedFault("rate_limited"), InjectedFault(httpx.ReadTimeout)]
            ),
            max_size=3,
        ),
        "download": st.lists(
            st.sampled_from([InjectedFault("internal_error"), InjectedFault(httpx.ReadError)]), max_size=2
        ),
    }
)
STEPS = [f"{when} {what}" for what in ("poll", "submit", "download", "file") for when in ("before", "after")]
CRASHES = st.builds(
    Crash, step=st.sampled_from([*STEPS, "resume", "sleep", "after submit"]), time=st.sampled_from([1, 1, 2, 3])
)
#: Another run begins and ends when a run reaches this step for the nth time: the step, and n.
OVERLAPS = st.tuples(
    st.sampled_from(["before poll", "after poll", "after submit", "before download", "resume", "sleep"]),
    st.sampled_from([1, 1, 2, 3]),
)


@dataclass
class BatchPlan(AttemptPlan):
    """Events during one attempt.

    :param overlap: Step at which another run begins and ends, and how many times a run must still reach the step.
    """

    overlap: tuple[str, int] | None = None
    is_killed: bool = False
    other: Callable[[], None] = field(default=lambda: None)

    def overlaps_at(self, step: str) -> bool:
        """Whether another run begins at this step now."""
        if self.overlap is None or self.overlap[0] != step:
            return False
        self.overlap = (step, self.overlap[1] - 1)
        if self.overlap[1]:
            return False
        self.overlap = None
        return True


#: Reviews of the saved videos of rows: key and decision.
Reviewed = Sequence[tuple[str, Literal["approve", "redo"]]]
REVIEWS = st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(["redo", "redo", "approve"])), max_size=2)

PLANS = st.builds(
    BatchPlan,
    generation=st.sampled_from(["completes", "completes", "completes", "fails"]),
    faults=st.one_of(st.just({}), FAULTS),
    crash=st.one_of(st.none(), st.none(), CRASHES),
    overlap=st.one_of(st.none(), OVERLAPS),
)


class BatchWorld(World):
    """A world in which a killed worker does nothing more, and another run can begin at any step."""

    plan: BatchPlan

    def step(self, name: str) -> None:
        plan = self.plan
        self.require_alive()
        if plan.overlaps_at(name):
            plan.other()
        if plan.crashes_at(name):
            plan.is_killed = True
        self.require_alive()

    def require_alive(self) -> None:
        """Raise KilledError if the worker was killed."""
        if self.plan.is_killed:
            raise KilledError


class Runs(RuleBasedStateMachine):
    """The runs of one task on one directory."""

    emulators: ClassVar[dict[tuple[bool, float], EmulatorInProcess]]
    world: ClassVar[BatchWorld]
    written: ClassVar[dict[str, float]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="toapis-batch-model-"))
        self.written.clear()
        self.count = 0
        self.runs: list[str] = []
        self.prompts_of: dict[tuple[str, str], str] = {}
        self.posted = 0
        #: The videos that a reviewer has requested to make again, by row.
        self.redone: dict[str, set[str]] = defaultdict(set)
        #: How often a row changed, and how often a video of it was made beside an available one of the same request.
        self.changed: Counter[str] = Counter()
        self.repeated: Counter[str] = Counter()
        self.repeated_by: Counter[tuple[str, str]] = Counter()

    @initialize(replay=st.booleans(), lag=st.sampled_from([0.0, 0.0, LAG]), feed=FEEDS, main_plan=PLANS)
    def begins(self, *, replay: bool, lag: float, feed: Feed, main_plan: BatchPlan) -> None:
        self.emulator = self.emulators[replay, lag]
        self.emulator.reset()
        rate_limit._limiter.cache_clear()
        type(self).world = BatchWorld(self.emulator, survives_clear=None)
        self.world.on_submission = self._on_submission
        self.feed = feed
        self.run_nightly(main_plan, other_plan=BatchPlan())

    @rule(main_plan=PLANS, other_plan=PLANS, reviewed=REVIEWS)
    def run_nightly(self, main_plan: BatchPlan, other_plan: BatchPlan, reviewed: Reviewed = ()) -> None:
        self.count += 1
        self.ti = FakeTaskInstance(task_id="catalog", run_id=f"run {self.count}")
        self._attempt(self.ti, main_plan, other_plan, reviewed)

    @rule(main_plan=PLANS, other_plan=PLANS, reviewed=REVIEWS)
    def is_retried(self, main_plan: BatchPlan, other_plan: BatchPlan, reviewed: Reviewed) -> None:
        self._attempt(self.ti.next_attempt(), main_plan, other_plan, reviewed)

    @rule(feed=FEEDS)
    def feed_changes(self, feed: Feed) -> None:
        self.changed.update(key for key in KEYS if feed[key] != self.feed[key])
        self.feed = feed

    @rule(reviewed=REVIEWS)
    def videos_are_reviewed(self, reviewed: Reviewed) -> None:
        self.world.plan = BatchPlan()
        self._review(reviewed)

    @rule()
    def reviews_are_deleted(self) -> None:
        shutil.rmtree(self.directory / ".manifest" / "reviews", ignore_errors=True)

    @rule(seconds=st.sampled_from([10.0, 400.0, 90_000.0]))
    def time_passes(self, seconds: float) -> None:
        self.emulator.advance(seconds)

    def teardown(self) -> None:
        try:
            if self.count:
                self._check_final_state()
        finally:
            shutil.rmtree(self.directory)

    def _check_final_state(self) -> None:
        """Run undisturbed after the claims of killed workers have expired. Check that each row has its video."""
        self.emulator.advance(600.0)
        for _ in range(3):
            self.run_nightly(BatchPlan(), BatchPlan())
        lines = map(json.loads, (self.directory / "manifest.jsonl").read_text().splitlines())
        entries = {line["key"]: line for line in lines}
        tasks = {task.id: task for task in self.emulator.tasks()}
        for key, form in self.feed.items():
            if form is not None:
                assert entries[key]["state"] == "saved"
                assert tasks[entries[key]["video_id"]].prompt == _prompt(key, form)
                assert Reviews(Directory(str(self.directory))).decision(key, entries[key]["video_id"]) != "redo"
        assert self.emulator.posted() == self.posted

    def _on_submission(self, task: Task) -> None:
        """Record a submission that the service has accepted and will bill. Check that it was allowed."""
        prompt = task.prompt
        key = prompt.partition(" ")[0]
        now = self.emulator.time()
        available = []
        for earlier in self.emulator.tasks():
            if earlier.id != task.id and earlier.prompt == prompt:
                finished = earlier.finished_at
                expired = earlier.outcome == "completed" and now - cast("float", finished) >= RESULT_LIFETIME
                if earlier.outcome != "failed" and not expired:
                    available.append(earlier.id)
        if available:
            requested = len(self.redone[key]) and len(self.redone[key]) + self.changed[key]
            assert self.repeated[key] < requested, f"billed again beside {available}: {prompt}"
            assert not self.repeated_by[self.runs[-1], key], f"{self.runs[-1]} redoes {key} twice"
            if self.world.plan.generation == "completes":
                self.repeated[key] += 1
                self.repeated_by[self.runs[-1], key] += 1
        self.posted += 1
        assert self.prompts_of.setdefault((self.runs[-1], key), prompt) == prompt, (
            "a run submits another version of a row"
        )

    def _review(self, reviewed: Reviewed) -> None:
        directory = Directory(str(self.directory))
        entries = Manifest(directory).entries
        for key, decision in reviewed:
            if key in entries and (saved := entries[key].saved):
                Reviews(directory).add(key, Review(decision, saved.video_id, "", "ann", time_now()))
                if decision == "redo":
                    self.redone[key].add(saved.video_id)

    def _attempt(self, ti: FakeTaskInstance, main_plan: BatchPlan, other_plan: BatchPlan, reviewed: Reviewed) -> None:
        self.count += 1
        overlapping = FakeTaskInstance(task_id="catalog", run_id=f"other {self.count}")

        def overlap() -> None:
            self._review(reviewed)
            self._outcome(overlapping, other_plan)

        main_plan.other = overlap
        self._outcome(ti, main_plan)

    def _outcome(self, ti: FakeTaskInstance, main_plan: BatchPlan) -> None:
        world, before = self.world, getattr(self.world, "plan", None)
        world.plan = main_plan
        self.runs.append(ti.run_id)
        end: object = None
        try:
            end = self._result(ti)
        except (KilledError, ToAPIsError) as error:
            end = error
        finally:
            self.runs.pop()
            if isinstance(before, BatchPlan):
                world.plan = before
        if not self.runs:
            # Only for the outer run, because hypothesis accepts notes only in its own thread.
            note(f"{ti.run_id} -> {end if isinstance(end, dict) else repr(end)[:300]}")

    def _result(self, ti: FakeTaskInstance) -> Any:
        step: Callable[[], Any] = lambda: self._operator().execute(ti.context)  # noqa: E731
        for _ in range(MAX_RESUMPTIONS):
            try:
                return step()
            except TaskDeferred as deferred:
                count = len(cast("ToAPIsVideoBatchTrigger", deferred.trigger).video_ids)
                method = deferred.method_name
            self.emulator.advance(RESUME_DELAY)
            self.world.step("resume")
            event = {"event": {"status": "success", "final": hex(2**count - 1), "waiting": 0}}
            step = lambda: self._operator().resume_execution(method, event, ti.context)  # noqa: B023, E731
        raise AssertionError("The task keeps deferring.")

    def _operator(self) -> ToAPIsVideoBatchOperator:
        rows = [
            {"key": key, "prompt": _prompt(key, form), "image": f"{ORIGIN}/shop/images/sneaker.jpg"}
            for key, form in self.feed.items()
            if form is not None
        ]
        return ToAPIsVideoBatchOperator(
            task_id="catalog",
            requests=rows,
            output_path=str(self.directory),
            deferrable=True,
            max_failures=1.0,
            max_active=2,
        )


def _prompt(key: str, form: int) -> str:
    return f"{key} in version {form}"


def _now() -> float:
    return Runs.world.emulator.time()


def _sleep(seconds: float) -> None:
    Runs.world.sleep(seconds)


@pytest.fixture(scope="module")
def patched_provider() -> Iterator[None]:
    """Run the provider's requests, clock and files in the world of the current sequence."""
    http_options = connecting.http_options
    transport = Transport(lambda: Runs.world)
    with pytest.MonkeyPatch.context() as patch:
        freeze_emulator_time(patch)
        replace_clock(patch, _now, _sleep)
        for module in (client, connecting):
            patch.setattr(module, "http_options", lambda given: http_options(given) | {"transport": transport})
        # One row at a time and short waits for claims, so that a sequence is the same in every run.
        patch.setattr(worker_pass, "THREADS", 1)
        patch.setattr(worker_pass, "CLAIM_CHECKS", 2)
        patch.setattr("airflow_provider_toapis.batch.row_request.THREADS", 1)
        # Few rows wait in memory, and parts are joined often.
        patch.setattr(manifest, "_QUEUE_BLOCK", 500)
        patch.setattr(manifest, "_JOINED", 2)
        _watch_files(patch)
        connection = {"conn_type": "toapis", "host": ORIGIN, "password": "sk-model", "extra": {"verify": False}}
        patch.setenv("AIRFLOW_CONN_TOAPIS_DEFAULT", json.dumps(connection))
        patch.setattr(ToAPIsVideoBatchOperator, "log", logging.getLogger(__name__))
        logging.disable(logging.CRITICAL)
        yield
        logging.disable(logging.NOTSET)


def _watch_files(patch: pytest.MonkeyPatch) -> None:
    """Prevent killed workers from accessing files, and use the emulator's time as modification time."""
    for name in ("write", "create", "remove", "destination"):
        patch.setattr(Directory, name, _watched(getattr(Directory, name)))
    create, written_at = Directory._create, Directory._written_at

    def stamped(directory: Directory, name: str, content: bytes) -> None:
        create(directory, name, content)
        Runs.written[directory.path_of(name)] = _now()

    def stamp(directory: Directory, name: str) -> float | None:
        return None if written_at(directory, name) is None else Runs.written[directory.path_of(name)]

    patch.setattr(Directory, "_create", stamped)
    patch.setattr(Directory, "_written_at", stamp)


def _watched(function: Callable[..., Any]) -> Callable[..., Any]:
    def watched(*args: Any, **kwargs: Any) -> Any:
        Runs.world.require_alive()
        if function.__name__ != "destination":
            return function(*args, **kwargs)
        with Runs.world.steps_around("file"):
            return function(*args, **kwargs)

    return watched


@pytest.fixture(scope="module")
def emulators(
    patched_provider: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[tuple[bool, float], EmulatorInProcess]]:
    emulators = {
        (replay, lag): EmulatorInProcess(tmp_path_factory.mktemp("emulator"), replay=replay, lookup_lag=lag)
        for replay in (True, False)
        for lag in (0.0, LAG)
    }
    yield emulators
    for emulator in emulators.values():
        emulator.close()


def test_random_runs_submit_only_what_is_allowed_and_lose_no_row(
    emulators: dict[tuple[bool, float], EmulatorInProcess],
) -> None:
    Runs.emulators = emulators
    try:
        run_state_machine_as_test(
            seed(SEED)(Runs),
            settings=settings(
                max_examples=SEQUENCES,
                stateful_step_count=STEPS_PER_SEQUENCE,
                database=None,
                deadline=None,
                print_blob=True,
                phases=(Phase.generate, Phase.shrink),
                suppress_health_check=list(HealthCheck),
            ),
        )
    except BaseException as failure:
        failure.add_note(f"To run it again: TOAPIS_MODEL_SEED={SEED} TOAPIS_BATCH_MODEL_SEQUENCES={SEQUENCES}")
        raise
