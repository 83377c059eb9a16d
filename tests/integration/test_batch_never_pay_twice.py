"""Never pay twice, as :mod:`tests.integration.test_never_pay_twice` has it, for runs of a batch on one directory.

Each sequence is a catalog whose runs are tried, killed and retried, run into each other and find other feeds, while
the service loses answers, limits, fails and forgets. The emulator's ledger must never hold a video beside one that is
in progress or can still be fetched, and no run may submit two forms of a row.

``TOAPIS_MODEL_SEED=n`` draws other sequences, ``TOAPIS_BATCH_MODEL_SEQUENCES=n`` more of them.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

import httpx
import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from hypothesis import HealthCheck, Phase, note, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from airflow_provider_toapis.api import client, connecting, rate_limit
from airflow_provider_toapis.batch import worker_pass
from airflow_provider_toapis.batch.directory import Directory
from airflow_provider_toapis.emulator.store import Task
from airflow_provider_toapis.exceptions import ToAPIsError
from airflow_provider_toapis.operators.batch import ToAPIsVideoBatchOperator
from airflow_provider_toapis.triggers.video import ToAPIsVideoBatchTrigger
from tests.airflow_task import FakeTaskInstance
from tests.clock import replace_clock
from tests.integration.emulator_in_process import LATENCY, ORIGIN, EmulatorInProcess, freeze_emulator_time
from tests.integration.never_pay_twice_model import AttemptPlan, Crash, InjectedFault, KilledError, Transport, World

SEQUENCES = int(os.environ.get("TOAPIS_BATCH_MODEL_SEQUENCES", "40"))
SEED = int(os.environ.get("TOAPIS_MODEL_SEED", "1"))
STEPS_PER_SEQUENCE = 6
#: Seconds after a POST before its id can be looked up.
LAG = 45.0
#: Seconds from a deferral to the wake-up: all videos are final then.
WAKE = LATENCY + 30
RESULT_LIFETIME = 24 * 3600.0
KEYS = ("shoe", "mug", "hat")
MOST_WAKES = 20

Feed = dict[str, int | None]

FEEDS = st.fixed_dictionaries({key: st.sampled_from([0, 0, 0, 1, 2, None]) for key in KEYS})
TROUBLES = st.fixed_dictionaries(
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
DEATHS = st.builds(
    Crash, step=st.sampled_from([*STEPS, "wake", "sleep", "after submit"]), time=st.sampled_from([1, 1, 2, 3])
)
#: Where a run is, and for the how manieth time, when another one begins and ends.
MEETINGS = st.tuples(
    st.sampled_from(["before poll", "after poll", "after submit", "before download", "wake", "sleep"]),
    st.sampled_from([1, 1, 2, 3]),
)


@dataclass
class Night(AttemptPlan):
    """What happens during one attempt.

    :param meeting: The step at which another run begins and ends, counted down.
    """

    meeting: tuple[str, int] | None = None
    is_dead: bool = False
    other: Callable[[], None] = field(default=lambda: None)

    def meets(self, step: str) -> bool:
        """Whether it is the step at which another run begins."""
        if self.meeting is None or self.meeting[0] != step:
            return False
        self.meeting = (step, self.meeting[1] - 1)
        if self.meeting[1]:
            return False
        self.meeting = None
        return True


NIGHTS = st.builds(
    Night,
    generation=st.sampled_from(["completes", "completes", "completes", "fails"]),
    faults=st.one_of(st.just({}), TROUBLES),
    crash=st.one_of(st.none(), st.none(), DEATHS),
    meeting=st.one_of(st.none(), MEETINGS),
)


class BatchWorld(World):
    """A world whose worker, once it has died, does nothing at all any more, and may meet another run at any step."""

    plan: Night

    def step(self, name: str) -> None:
        plan = self.plan
        self.require_life()
        if plan.meets(name):
            plan.other()
        if plan.crashes_at(name):
            plan.is_dead = True
        self.require_life()

    def require_life(self) -> None:
        """Do nothing for a worker that has died."""
        if self.plan.is_dead:
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

    @initialize(replay=st.booleans(), lag=st.sampled_from([0.0, 0.0, LAG]), feed=FEEDS, night=NIGHTS)
    def begins(self, *, replay: bool, lag: float, feed: Feed, night: Night) -> None:
        self.emulator = self.emulators[replay, lag]
        self.emulator.reset()
        rate_limit._limiter.cache_clear()
        type(self).world = BatchWorld(self.emulator, survives_clear=None)
        self.world.on_submission = self._ordered
        self.feed = feed
        self.runs_a_night(night, other=Night())

    @rule(night=NIGHTS, other=NIGHTS)
    def runs_a_night(self, night: Night, other: Night) -> None:
        self.count += 1
        self.ti = FakeTaskInstance(task_id="catalog", run_id=f"night {self.count}")
        self._attempt(self.ti, night, other)

    @rule(night=NIGHTS, other=NIGHTS)
    def is_retried(self, night: Night, other: Night) -> None:
        self._attempt(self.ti.next_attempt(), night, other)

    @rule(feed=FEEDS)
    def feed_changes(self, feed: Feed) -> None:
        self.feed = feed

    @rule(seconds=st.sampled_from([10.0, 400.0, 90_000.0]))
    def time_passes(self, seconds: float) -> None:
        self.emulator.advance(seconds)

    def teardown(self) -> None:
        try:
            if self.count:
                self._ends_well()
        finally:
            shutil.rmtree(self.directory)

    def _ends_well(self) -> None:
        """Run undisturbed, once claims of workers that died hold nobody back: every row of the feed has its video."""
        self.emulator.advance(600.0)
        for _ in range(2):
            self.runs_a_night(Night(), Night())
        lines = map(json.loads, (self.directory / "manifest.jsonl").read_text().splitlines())
        entries = {line["key"]: line for line in lines}
        tasks = {task.id: task for task in self.emulator.tasks()}
        for key, form in self.feed.items():
            if form is not None:
                assert entries[key]["state"] == "saved"
                assert tasks[entries[key]["video_id"]].prompt == _prompt(key, form)
        assert self.emulator.posted() == self.posted

    def _ordered(self, task: Task) -> None:
        """Enter a submission that the service has accepted, and will bill."""
        prompt = task.prompt
        now = self.emulator.time()
        for earlier in self.emulator.tasks():
            if earlier.id != task.id and earlier.prompt == prompt:
                finished = earlier.finished_at
                expired = earlier.outcome == "completed" and now - cast("float", finished) >= RESULT_LIFETIME
                assert earlier.outcome == "failed" or expired, f"billed again beside {earlier.id}: {prompt}"
        self.posted += 1
        key = prompt.partition(" ")[0]
        assert self.prompts_of.setdefault((self.runs[-1], key), prompt) == prompt, "a run submits another form of a row"

    def _attempt(self, ti: FakeTaskInstance, night: Night, other: Night) -> None:
        self.count += 1
        met = FakeTaskInstance(task_id="catalog", run_id=f"other {self.count}")
        night.other = lambda: self._outcome(met, other)
        self._outcome(ti, night)

    def _outcome(self, ti: FakeTaskInstance, night: Night) -> None:
        world, before = self.world, getattr(self.world, "plan", None)
        world.plan = night
        self.runs.append(ti.run_id)
        end: object = None
        try:
            end = self._result(ti)
        except (KilledError, ToAPIsError) as error:
            end = error
        finally:
            self.runs.pop()
            if isinstance(before, Night):
                world.plan = before
        if not self.runs:
            # A run that is met is in a worker's thread, where nothing can be noted.
            note(f"{ti.run_id} -> {end if isinstance(end, dict) else repr(end)[:300]}")

    def _result(self, ti: FakeTaskInstance) -> Any:
        step: Callable[[], Any] = lambda: self._operator().execute(ti.context)  # noqa: E731
        for _ in range(MOST_WAKES):
            try:
                return step()
            except TaskDeferred as deferred:
                count = len(cast("ToAPIsVideoBatchTrigger", deferred.trigger).video_ids)
                method = deferred.method_name
            self.emulator.advance(WAKE)
            self.world.step("wake")
            event = {"event": {"status": "success", "final": hex(2**count - 1), "waiting": 0}}
            step = lambda: self._operator().resume_execution(method, event, ti.context)  # noqa: B023, E731
        raise AssertionError("it defers for ever")

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
    return f"{key} in form {form}"


def _now() -> float:
    return Runs.world.emulator.time()


def _sleep(seconds: float) -> None:
    Runs.world.sleep(seconds)


@pytest.fixture(scope="module")
def acting_provider() -> Iterator[None]:
    """Let the provider act in the world of the present sequence: its requests, its clock, its files."""
    http_options = connecting.http_options
    transport = Transport(lambda: Runs.world)
    with pytest.MonkeyPatch.context() as patch:
        freeze_emulator_time(patch)
        replace_clock(patch, _now, _sleep)
        for module in (client, connecting):
            patch.setattr(module, "http_options", lambda given: http_options(given) | {"transport": transport})
        # One row at a time, and no long wait for others: a sequence is the same in every run.
        patch.setattr(worker_pass, "THREADS", 1)
        patch.setattr(worker_pass, "CLAIM_CHECKS", 2)
        patch.setattr("airflow_provider_toapis.batch.row_request.THREADS", 1)
        _watch_files(patch)
        connection = {"conn_type": "toapis", "host": ORIGIN, "password": "sk-model", "extra": {"verify": False}}
        patch.setenv("AIRFLOW_CONN_TOAPIS_DEFAULT", json.dumps(connection))
        patch.setattr(ToAPIsVideoBatchOperator, "log", logging.getLogger(__name__))
        logging.disable(logging.CRITICAL)
        yield
        logging.disable(logging.NOTSET)


def _watch_files(patch: pytest.MonkeyPatch) -> None:
    """Let no worker that has died touch a file, and let files be written at the emulator's time."""
    for name in ("write", "create", "remove", "destination"):
        patch.setattr(Directory, name, _watched(getattr(Directory, name)))
    create, written_at = Directory._create, Directory._written_at

    def stamped(folder: Directory, name: str, content: bytes) -> None:
        create(folder, name, content)
        Runs.written[folder.path_of(name)] = _now()

    def stamp(folder: Directory, name: str) -> float | None:
        return None if written_at(folder, name) is None else Runs.written[folder.path_of(name)]

    patch.setattr(Directory, "_create", stamped)
    patch.setattr(Directory, "_written_at", stamp)


def _watched(function: Callable[..., Any]) -> Callable[..., Any]:
    def watched(*args: Any, **kwargs: Any) -> Any:
        Runs.world.require_life()
        if function.__name__ != "destination":
            return function(*args, **kwargs)
        with Runs.world.steps_around("file"):
            return function(*args, **kwargs)

    return watched


@pytest.fixture(scope="module")
def emulators(
    acting_provider: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[tuple[bool, float], EmulatorInProcess]]:
    emulators = {
        (replay, lag): EmulatorInProcess(tmp_path_factory.mktemp("emulator"), replay=replay, lookup_lag=lag)
        for replay in (True, False)
        for lag in (0.0, LAG)
    }
    yield emulators
    for emulator in emulators.values():
        emulator.close()


def test_runs_pay_what_is_allowed_and_forget_no_row(emulators: dict[tuple[bool, float], EmulatorInProcess]) -> None:
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
