"""Run random sequences of attempts against a model of the allowed submissions.

Each sequence is a task that is tried, killed, cleared and edited while the service loses responses, limits rates,
fails and does not find videos. The emulator's ledger must never contain a submission that :class:`SubmissionModel` did
not allow.

Hypothesis draws the sequences from a fixed seed, so that they are the same in every run. ``TOAPIS_MODEL_SEED=n`` draws
other sequences, and ``TOAPIS_MODEL_SEQUENCES=n`` sets their number. A failing test prints its seed, the shortest
sequence that fails, and the sequence's ``@reproduce_failure`` line. To repeat the failure, set the same seed and number
of sequences, or put the line above :class:`Attempts`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import httpx
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred
from airflow.triggers.base import BaseTrigger
from hypothesis import HealthCheck, Phase, note, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from airflow_provider_toapis import storage
from airflow_provider_toapis.api import client, connecting, rate_limit
from airflow_provider_toapis.exceptions import (
    ToAPIsError,
    ToAPIsFinalFailureError,
    ToAPIsTaskFailedError,
    ToAPIsTaskRejectedError,
    ToAPIsTimeoutError,
    ToAPIsWaitInterruptedError,
)
from airflow_provider_toapis.operators import base
from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator
from tests.airflow_task import fired, stored_and_loaded
from tests.clock import replace_clock
from tests.integration.emulator_in_process import LATENCY, ORIGIN, EmulatorInProcess, freeze_emulator_time
from tests.integration.submission_model import (
    CONTENT_POLICY,
    AllowedAction,
    AttemptPlan,
    Crash,
    InjectedFault,
    KilledError,
    RequestVariant,
    SubmissionModel,
    TaskInstance,
    TaskSettings,
    Transport,
    World,
)

SEQUENCES = int(os.environ.get("TOAPIS_MODEL_SEQUENCES", "500"))
SEED = int(os.environ.get("TOAPIS_MODEL_SEED", "1"))
ATTEMPTS_PER_SEQUENCE = 8
#: Seconds after a submission before its key can be looked up. Less than the three minutes for which the provider looks
#: up a lost submission. Also less than the latency of a video, so that a found video is not final yet.
LAG = 100.0
#: Lag of a service that never finds a video by its key, only by its own id.
NEVER = 1e9

RETRIES = 2
#: Prompts and lengths of the requests.
REQUESTS = (("The camera glides towards a shoe", 10), ("A shoe in the rain", 15))

SUBMISSION_FAULTS = [
    *(
        InjectedFault(response, processed=True)
        for response in ("internal_error", "bad_gateway", "request_timeout", "empty")
    ),
    *(InjectedFault(error, processed=True) for error in (httpx.ReadTimeout, httpx.RemoteProtocolError)),
    *(
        InjectedFault(response)
        for response in ("internal_error", "bad_gateway", "rate_limited", "rate_limit_unavailable")
    ),
    *(InjectedFault(error) for error in (httpx.ReadError, httpx.ConnectError)),
    InjectedFault("insufficient_quota"),
]
POLL_FAULTS = [
    *(
        InjectedFault(response)
        for response in ("internal_error", "bad_gateway", "rate_limited", "empty", "unauthorized")
    ),
    *[InjectedFault("no_route")] * 2,
    *(InjectedFault(error) for error in (httpx.ReadTimeout, httpx.ConnectError)),
]
DOWNLOAD_FAULTS = [InjectedFault("forbidden"), InjectedFault("internal_error"), InjectedFault(httpx.ReadError)]
STEPS = [
    f"{when} {what}"
    for what in ("poll", "submit", "upload", "record", "XCom", "download", "file", "receipt")
    for when in ("before", "after")
]
CRASHES = [
    *(Crash(step, time=1) for step in (*STEPS, "sleep")),
    # Steps that an attempt reaches several times. The second record adds the video id to the first record.
    *(Crash(step, time=2) for step in ("before poll", "before record", "after record", "before XCom")),
    *(Crash("sleep", time) for time in (3, 5)),
    # Drawn more often, because a record that is lost after a submission is the most expensive.
    *[Crash("after submit", time=1)] * 6,
    # Drawn more often, because few attempts reach these last steps.
    *(Crash(step, time=1) for step in STEPS if step.endswith(("download", "file", "receipt"))),
]

TASK_SETTINGS = st.builds(
    TaskSettings,
    output=st.sampled_from(["none", "directory", "file name"]),
    waits=st.sampled_from([True, True, False]),
    on_clear=st.sampled_from(["reuse", "regenerate"]),
    image=st.sampled_from(["url", "file"]),
    timeout=st.sampled_from([1800.0, 1800.0, LATENCY - 20]),
    max_generations=st.integers(1, 3),
    explicit_key=st.sampled_from([False, False, True]),
).filter(lambda task: not task.explicit_key or task.on_clear == "reuse")
VARIANTS = st.builds(RequestVariant, prompt=st.integers(0, len(REQUESTS) - 1), name=st.integers(0, 1))
FAULTS = st.fixed_dictionaries(
    {
        "submit": st.lists(st.sampled_from(SUBMISSION_FAULTS), max_size=4),
        # With twelve faults, every poll of an attempt fails.
        "poll": st.one_of(
            st.just([]),
            st.lists(st.sampled_from(POLL_FAULTS), max_size=2),
            st.sampled_from(POLL_FAULTS).map(lambda fault: [fault] * 12),
        ),
        "download": st.one_of(st.just([]), st.lists(st.sampled_from(DOWNLOAD_FAULTS), max_size=6)),
    }
)
PLANS = st.builds(
    AttemptPlan,
    generation=st.sampled_from(["completes", "completes", "completes", "fails", "fails", "is rejected"]),
    deferrable=st.booleans(),
    faults=st.one_of(st.just({}), FAULTS),
    crash=st.one_of(st.none(), st.sampled_from(CRASHES)),
    marked_failed=st.sampled_from([False, False, False, True]),
)


@dataclass(frozen=True)
class Service:
    """Behavior that the service does not document.

    :param replay: Whether a submission with a known key returns the existing task.
    :param lag: Seconds after a submission before its key can be looked up.
    """

    replay: bool
    lag: float


SERVICES = [
    *itertools.starmap(Service, itertools.product([True, False], [0.0, LAG, LAG])),
    Service(replay=False, lag=NEVER),
]


class Attempts(RuleBasedStateMachine):
    """One task instance, from its first attempt to a last attempt that is undisturbed."""

    emulators: ClassVar[dict[Service, EmulatorInProcess]]
    image: ClassVar[Path]
    #: World of the current sequence, which the patched provider uses.
    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="toapis-model-"))
        self.variant = RequestVariant()
        self.signatures = itertools.count()
        self.is_consistent = False
        self.has_succeeded = False

    @initialize(
        service=st.sampled_from(SERVICES),
        survives_clear=st.sampled_from([True, True, False, None]),
        task_settings=TASK_SETTINGS,
        plan=PLANS,
    )
    def is_tried_for_the_first_time(
        self, service: Service, task_settings: TaskSettings, plan: AttemptPlan, *, survives_clear: bool | None
    ) -> None:
        self.service = service
        self.emulator = self.emulators[service]
        rate_limit._found_by_key.cache_clear()
        self.emulator.reset()
        # The rate limiter of the previous sequence used another clock.
        rate_limit._limiter.cache_clear()
        type(self).world = World(self.emulator, survives_clear=service.lag == NEVER or survives_clear)
        self.ti = TaskInstance(self.world, max_tries=RETRIES)
        self.task = task_settings
        is_saved = task_settings.waits and task_settings.output != "none"
        has_record = self.world.survives_clear is not None
        self.submissions = SubmissionModel(
            task_settings,
            self.emulator,
            self.directory if is_saved else None,
            has_record=has_record,
            lag=service.lag,
        )
        self.world.on_submission = self.submissions.on_submission
        self.world.on_record = self.submissions.on_record
        self._attempt(plan)

    @rule(plan=PLANS)
    def is_tried_again(self, plan: AttemptPlan) -> None:
        self._try_again()
        self._attempt(plan)

    @rule(plan=PLANS)
    def is_cleared(self, plan: AttemptPlan) -> None:
        self._clear()
        self._attempt(plan)

    @rule(variant=VARIANTS, plan=PLANS, cleared=st.booleans())
    def is_edited(self, variant: RequestVariant, plan: AttemptPlan, *, cleared: bool) -> None:
        self.variant = variant
        if cleared:
            self._clear()
        else:
            self._try_again()
        self._attempt(plan)

    @precondition(lambda self: self.service.lag != NEVER)
    @rule(plan=PLANS)
    def is_rerun(self, plan: AttemptPlan) -> None:
        """Delete the run and start it again with the same id, without any record."""
        # Later than the lag, because only the look-up by key can find the video.
        self.emulator.advance(2 * LAG)
        self.ti = TaskInstance(self.world, max_tries=RETRIES)
        self.submissions.on_record_cleared()
        # A first attempt cannot distinguish a gateway's 404 from the service's.
        plan.remove_gateway_404s()
        self._attempt(plan)

    @rule(seconds=st.sampled_from([10.0, 100.0, 700.0, 90_000.0]))
    def time_passes(self, seconds: float) -> None:
        self.emulator.advance(seconds)

    @precondition(lambda self: any(self.directory.glob("*.mp4")))
    @rule(truncated=st.booleans())
    def files_are_lost(self, *, truncated: bool) -> None:
        for file in self.directory.glob("*.mp4"):
            if truncated:
                file.write_bytes(b"x")
            else:
                file.unlink()

    def teardown(self) -> None:
        try:
            if self.is_consistent:
                self._try_again()
                self._attempt(AttemptPlan(deferrable=True))
                assert self.emulator.posted() == self.submissions.billed()
        finally:
            shutil.rmtree(self.directory)

    def _try_again(self) -> None:
        """Start the next attempt. A task that has succeeded is cleared by a user."""
        if self.has_succeeded:
            self._clear()
        else:
            self.ti.next_attempt()

    def _clear(self) -> None:
        self.ti.cleared()
        if not self.world.survives_clear:
            self.submissions.on_record_cleared()

    def _attempt(self, plan: AttemptPlan) -> None:
        self.is_consistent = False
        if self.service.lag == NEVER:
            # A video without a record cannot be found, and the design promises nothing for it.
            plan.keep_submissions_recorded()
        self.world.plan = plan
        allowed = self.submissions.begin(self.variant, self.ti, retries=RETRIES)
        billed = self.submissions.billed()
        outcome = self._outcome(plan)
        self.has_succeeded = isinstance(outcome, dict)
        self.world.plan = AttemptPlan()
        newly_billed = self.submissions.billed() - billed
        note(f"{allowed} -> {type(outcome).__name__}, {newly_billed} billed, sent a request: {plan.sent_request}")
        assert newly_billed <= 1
        if not plan.disturbed:
            self._check_action(allowed, outcome, plan, newly_billed)
        if isinstance(outcome, dict):
            self._check_result(outcome)
        elif isinstance(outcome, Exception):
            self._check_error(outcome, plan)
        self.is_consistent = True

    def _check_action(self, allowed: AllowedAction, outcome: object, plan: AttemptPlan, newly_billed: int) -> None:
        """Check that an undisturbed attempt did exactly what was allowed."""
        if allowed.action == "submit" and isinstance(outcome, ToAPIsWaitInterruptedError):
            assert newly_billed == 0
            assert self.submissions.is_blocked_by_unknown_posts()
            return
        assert newly_billed == (allowed.action == "submit")
        video = self.submissions.current()
        if allowed.action == "give up":
            assert isinstance(outcome, ToAPIsFinalFailureError)
        elif allowed.action == "return saved":
            assert isinstance(outcome, dict)
            assert (outcome["id"], plan.sent_request) == (allowed.video_id, False)
        else:
            assert video is not None
            assert allowed.video_id in (None, video.id)
            if video.outcome == "failed":
                assert isinstance(outcome, ToAPIsTaskFailedError)
            elif video.outcome is None and self.task.waits:
                assert isinstance(outcome, ToAPIsTimeoutError)
                assert self.task.timeout < LATENCY
            else:
                assert isinstance(outcome, dict)

    def _check_result(self, result: dict[str, Any]) -> None:
        """Check that a result is the billed video, with its complete file."""
        current = self.submissions.current()
        assert current is not None
        assert result["id"] in (current.id, self.submissions.saved())
        if not self.task.waits:
            return
        assert result["status"] == "completed"
        if self.task.output != "none":
            content = Path(result["output_path"]).read_bytes()
            assert hashlib.sha256(content).hexdigest() == result["sha256"] == self.emulator.sha256(result["id"])
            assert self.submissions.saved() == result["id"]

    def _check_error(self, error: Exception, plan: AttemptPlan) -> None:
        """Check that an error is permanent only if no retry can succeed."""
        assert isinstance(error, ToAPIsError)
        video = self.submissions.current()
        if isinstance(error, ToAPIsFinalFailureError):
            assert self.submissions.allowed_action().action == "give up"
        elif isinstance(error, ToAPIsTaskFailedError):
            assert video is not None
            assert video.outcome == "failed"
            assert isinstance(error, ToAPIsTaskRejectedError) == (video.error_code == CONTENT_POLICY)
        else:
            assert plan.rejected or not isinstance(error, AirflowFailException)

    def _outcome(self, plan: AttemptPlan) -> dict[str, Any] | Exception | KilledError:
        try:
            return self._result(plan)
        except (KilledError, ToAPIsError) as end:
            return end

    def _result(self, plan: AttemptPlan) -> dict[str, Any]:
        step: Callable[[], Any] = lambda: self._operator(plan).execute(self.ti.context)  # noqa: E731
        while True:
            try:
                return cast("dict[str, Any]", step())
            except TaskDeferred as deferred:
                if plan.marked_failed:
                    plan.disturbed = True
                    raise KilledError("marked failed while deferred") from None
                method, event = deferred.method_name, _event(cast("BaseTrigger", deferred.trigger))
                step = lambda: self._operator(plan).resume_execution(method, {"event": event}, self.ti.context)  # noqa: B023, E731

    def _operator(self, plan: AttemptPlan) -> ToAPIsSubmitVideoOperator:
        prompt, duration = REQUESTS[self.variant.prompt]
        output = {"none": None, "directory": f"{self.directory}/", "file name": f"{self.directory}/shoe.mp4"}
        name: dict[str, Any] = {
            "client_business_id" if self.task.explicit_key else "identity": f"order-{self.variant.name}"
        }
        return ToAPIsSubmitVideoOperator(
            task_id=self.ti.task_id,
            retries=RETRIES,
            prompt=prompt,
            image=str(self.image) if self.task.image == "file" else self._signed_url(),
            duration=duration,
            output_path=output[self.task.output],
            wait_for_completion=self.task.waits,
            deferrable=plan.deferrable,
            poll_interval=60,
            timeout=self.task.timeout,
            on_clear=self.task.on_clear,
            max_generations=self.task.max_generations,
            **name,
        )

    def _signed_url(self) -> str:
        """Return the URL of the image with a new signature in each call, as a template with a signed URL does."""
        signature = f"X-Amz-Algorithm=A&X-Amz-Credential=C&X-Amz-Signature={next(self.signatures)}"
        return f"{ORIGIN}/shop/images/{self.image.name}?{signature}"


def _event(trigger: BaseTrigger) -> dict[str, Any]:
    """Run a trigger. If the triggerer is killed, run it again."""
    try:
        return fired(stored_and_loaded(trigger))
    except (KilledError, BaseExceptionGroup):
        return fired(stored_and_loaded(trigger))


def _now() -> float:
    return Attempts.world.emulator.time()


def _sleep(seconds: float) -> None:
    Attempts.world.sleep(seconds)


@pytest.fixture(scope="module")
def patched_provider() -> Iterator[None]:
    """Run the provider's requests, clock and files in the world of the current sequence."""
    http_options = connecting.http_options
    transport = Transport(lambda: Attempts.world)
    with pytest.MonkeyPatch.context() as patch:
        freeze_emulator_time(patch)
        replace_clock(patch, _now, _sleep)
        for module in (client, connecting):
            patch.setattr(module, "http_options", lambda given: http_options(given) | {"transport": transport})
        _watch(patch, storage._LocalPartialFile, "commit", "file")
        _watch(patch, base, "write_receipt", "receipt")
        connection = {"conn_type": "toapis", "host": ORIGIN, "password": "sk-model", "extra": {"verify": False}}
        patch.setenv("AIRFLOW_CONN_TOAPIS_DEFAULT", json.dumps(connection))
        # Disable the logs of thousands of attempts. The failing sequence prints its steps.
        patch.setattr(ToAPIsSubmitVideoOperator, "log", logging.getLogger(__name__))
        logging.disable(logging.CRITICAL)
        yield
        logging.disable(logging.NOTSET)


def _watch(patch: pytest.MonkeyPatch, owner: Any, name: str, step: str) -> None:
    """Make the worker killable before and after a function."""
    function = getattr(owner, name)

    def watched(*args: Any, **kwargs: Any) -> Any:
        with Attempts.world.steps_around(step):
            return function(*args, **kwargs)

    patch.setattr(owner, name, watched)


@pytest.fixture(scope="module")
def emulators(
    patched_provider: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Service, EmulatorInProcess]]:
    emulators = {
        service: EmulatorInProcess(tmp_path_factory.mktemp("emulator"), replay=service.replay, lookup_lag=service.lag)
        for service in set(SERVICES)
    }
    yield emulators
    for emulator in emulators.values():
        emulator.close()


@pytest.fixture(scope="module")
def image(emulators: dict[Service, EmulatorInProcess], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a local image that the emulator also serves under the same name."""
    file = tmp_path_factory.mktemp("images") / "sneaker.jpg"
    emulator = next(iter(emulators.values()))
    file.write_bytes(emulator.send(httpx.Request("GET", f"{ORIGIN}/shop/images/{file.name}")).read())
    return file


def test_random_attempts_submit_only_what_is_allowed_and_lose_no_video(
    emulators: dict[Service, EmulatorInProcess], image: Path
) -> None:
    Attempts.emulators, Attempts.image = emulators, image
    try:
        run_state_machine_as_test(
            seed(SEED)(Attempts),
            settings=settings(
                max_examples=SEQUENCES,
                stateful_step_count=ATTEMPTS_PER_SEQUENCE,
                database=None,
                deadline=None,
                print_blob=True,
                phases=(Phase.generate, Phase.shrink),
                suppress_health_check=list(HealthCheck),
            ),
        )
    except BaseException as failure:
        failure.add_note(f"To run it again: TOAPIS_MODEL_SEED={SEED} TOAPIS_MODEL_SEQUENCES={SEQUENCES}")
        raise
    # Workers reached every step. A worker cannot be killed at a step that it does not reach.
    assert World.passed >= {*STEPS, "sleep"}
