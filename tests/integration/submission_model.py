"""Model of the submissions that are allowed, independent of the provider's code, and the simulated environment.

:class:`SubmissionModel` records each submission that the service accepts, and checks whether it was allowed.
:class:`World` sends the requests of an attempt to the emulator. It injects the faults of an :class:`AttemptPlan`, and
kills the worker at any step.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import httpx

from airflow_provider_toapis.emulator.response_variants import RESPONSES
from airflow_provider_toapis.emulator.store import Task
from tests.airflow_task import FakeTaskInstance, stored_json
from tests.integration.emulator_in_process import EmulatorInProcess

CONTENT_POLICY = "content_policy_violation"

Identity = tuple[object, ...]
GenerationOutcome = Literal["completes", "fails", "is rejected"]


class KilledError(BaseException):
    """Simulates the end of a process."""


@dataclass(frozen=True)
class TaskSettings:
    """Arguments of a task that do not change between attempts.

    :param output: Whether and how ``output_path`` is set.
    :param waits: Value of ``wait_for_completion``.
    :param image: How the image is specified.
    :param explicit_key: Whether ``client_business_id`` is set, instead of ``identity``.
    """

    output: Literal["none", "directory", "file name"]
    waits: bool
    on_clear: Literal["reuse", "regenerate"]
    image: Literal["url", "file"]
    timeout: float
    max_generations: int
    explicit_key: bool


@dataclass(frozen=True)
class RequestVariant:
    """Arguments of a task that a user can edit between attempts.

    :param prompt: Index of the pair of prompt and length.
    :param name: Number of the ``identity`` or ``client_business_id``.
    """

    prompt: int = 0
    name: int = 0


@dataclass(frozen=True)
class InjectedFault:
    """A request that fails.

    :param response: Name of one of the emulator's responses, or the class of an httpx error.
    :param processed: Whether the service processed the request before the failure.
    """

    response: str | type[httpx.TransportError]
    processed: bool = False

    @property
    def is_permanent(self) -> bool:
        """Whether the response ends the task without a retry."""
        return self.response in ("insufficient_quota", "unauthorized")

    def outcome(self, request: httpx.Request) -> httpx.Response:
        """Return the response, or raise the error."""
        if not isinstance(self.response, str):
            raise self.response("the connection broke", request=request)
        response = RESPONSES[self.response]
        content = response["html"] if "html" in response else json.dumps(response["body"])
        # The content is a stream that has not been read, like the content of a response from a socket.
        stream = httpx.ByteStream(content.encode())
        return httpx.Response(response["status"], headers=response.get("headers"), stream=stream)


@dataclass(frozen=True)
class Crash:
    """The worker or the triggerer is killed when it reaches a step for the ``time``-th time."""

    step: str
    time: int


@dataclass
class AttemptPlan:
    """Events during one attempt.

    :param generation: Outcome of the generations that are submitted.
    :param faults: Faults of the next requests, in order, by kind of request.
    :param crash: Where the worker or the triggerer is killed.
    :param marked_failed: Whether a user marks the task failed as soon as it is deferred.
    :param disturbed: Whether a fault or a crash has happened.
    :param rejected: Whether a permanent fault has happened.
    :param sent_request: Whether the attempt has sent a request.
    """

    generation: GenerationOutcome = "completes"
    deferrable: bool = False
    faults: dict[str, list[InjectedFault]] = field(default_factory=dict)
    crash: Crash | None = None
    marked_failed: bool = False
    disturbed: bool = False
    rejected: bool = False
    sent_request: bool = False

    def keep_submissions_recorded(self) -> None:
        """Remove from the plan lost responses to submissions, and a crash between a submission and its record."""
        submissions = self.faults.get("submit", [])
        submissions[:] = [fault for fault in submissions if not fault.processed]
        if self.crash in (Crash("after submit", 1), Crash("before record", 2)):
            self.crash = None

    def remove_gateway_404s(self) -> None:
        """Remove from the plan the faults of polls in which a gateway responds that the path is unknown."""
        polls = self.faults.get("poll", [])
        polls[:] = [fault for fault in polls if fault.response != "no_route"]

    def next_fault(self, kind: str) -> InjectedFault | None:
        """Remove and return the fault of the next request of a kind."""
        faults = self.faults.get(kind)
        if not faults:
            return None
        self.disturbed = True
        self.rejected |= faults[0].is_permanent
        return faults.pop(0)

    def crashes_at(self, step: str) -> bool:
        """Whether the process is killed at this step now."""
        if self.crash is None or self.crash.step != step:
            return False
        self.crash = Crash(step, self.crash.time - 1)
        if self.crash.time:
            return False
        self.crash = None
        self.disturbed = True
        return True


class World:
    """The environment of the attempts: the emulator, the time, and the plan of the current attempt.

    :param survives_clear: Whether the task's state store keeps its content when a user clears the task (Airflow 3.3)
        or not (3.4); None without a state store (older versions).
    """

    #: Names of the steps that workers have reached in any sequence.
    passed: ClassVar[set[str]] = set()

    def __init__(self, emulator: EmulatorInProcess, *, survives_clear: bool | None) -> None:
        self.emulator = emulator
        self.survives_clear = survives_clear
        self.plan = AttemptPlan()
        self.on_submission: Callable[[Task], object] = lambda _: None
        self.on_record: Callable[[str], object] = lambda _: None

    def step(self, name: str) -> None:
        """Record a step, and kill the worker if the plan says so.

        :raises KilledError: The worker is killed at this step.
        """
        self.passed.add(name)
        if self.plan.crashes_at(name):
            raise KilledError(name)

    @contextmanager
    def steps_around(self, name: str) -> Iterator[None]:
        """Pass one step before the block and one after it."""
        self.step(f"before {name}")
        yield
        self.step(f"after {name}")

    def sleep(self, seconds: float) -> None:
        self.step("sleep")
        self.emulator.advance(seconds)

    def send(self, request: httpx.Request) -> httpx.Response:
        """Send a request to the emulator, with the next fault of its kind."""
        kind = _kind(request)
        self.plan.sent_request = True
        self.step(f"before {kind}")
        fault = self.plan.next_fault(kind)
        if fault is not None and not fault.processed:
            return fault.outcome(request)
        earlier_tasks = len(self.emulator.tasks()) if kind == "submit" else 0
        response = self.emulator.send(request)
        if kind == "submit":
            for task in self.emulator.tasks()[earlier_tasks:]:
                self._begin(task)
        self.step(f"after {kind}")
        return response if fault is None else fault.outcome(request)

    def _begin(self, task: Task) -> None:
        if self.plan.generation != "completes":
            self.emulator.plan_failure(
                task.id, CONTENT_POLICY if self.plan.generation == "is rejected" else "generation_failed"
            )
        self.on_submission(task)


def _kind(request: httpx.Request) -> str:
    path = request.url.path
    if path.startswith("/files/"):
        return "download"
    if path.startswith("/v1/uploads/"):
        return "upload"
    return "submit" if request.method == "POST" else "poll"


class Transport(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """httpx transport that sends the requests of a worker or an event loop through the simulated environment."""

    def __init__(self, world: Callable[[], World]) -> None:
        self._world = world

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._world().send(request)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return self._world().send(request)


class StateStore:
    """Simulates Airflow 3.3's task state store: JSON values by key that survive attempts."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._values: dict[str, str] = {}

    def get(self, key: str, default: Any = None) -> Any:
        return json.loads(self._values[key]) if key in self._values else default

    def set(self, key: str, value: Any) -> None:
        text = json.dumps(stored_json(value))
        with self._world.steps_around("record"):
            self._values[key] = text
            self._world.on_record(text)

    def clear(self) -> None:
        self._values.clear()


class TaskInstance(FakeTaskInstance):
    """A task instance whose worker can be killed around each XCom push and each write to the state store."""

    def __init__(self, world: World, *, max_tries: int) -> None:
        super().__init__(max_tries=max_tries)
        self._world = world
        self.store = None if world.survives_clear is None else StateStore(world)

    @property
    def context(self) -> Any:
        return {**super().context, **({} if self.store is None else {"task_state_store": self.store})}

    def cleared(self) -> FakeTaskInstance:
        if self.store is not None and not self._world.survives_clear:
            self.store.clear()
        return super().cleared()

    def xcom_push(self, key: str, value: Any) -> None:
        with self._world.steps_around("XCom"):
            super().xcom_push(key, value)


@dataclass(frozen=True)
class AllowedAction:
    """The action that the design allows the next attempt.

    :param video_id: Id of the video to return; None if the attempt must submit one or give up.
    """

    action: Literal["return saved", "re-attach", "submit", "give up"]
    video_id: str | None = None


class SubmissionModel:
    """Records the submitted videos of each request, and decides whether another submission is allowed.

    :param directory: Directory of ``output_path``; None if videos are not saved.
    :param has_record: Whether Airflow has a task state store, which keeps the submission record.
    :param lag: Seconds after a submission before its key can be looked up.
    """

    def __init__(
        self, task: TaskSettings, emulator: EmulatorInProcess, directory: Path | None, *, has_record: bool, lag: float
    ) -> None:
        self._task = task
        self._emulator = emulator
        self._directory = directory
        self._has_record = has_record
        self._lag = lag
        self._videos: dict[Identity, list[str]] = {}
        self._owners: dict[str, Identity] = {}
        #: Identities whose videos are in the submission record.
        self._in_record: set[Identity] = set()
        self._newest_revision: dict[Identity, Identity] = {}
        #: ``max_tries`` when the submission record was written, and the number of clears until then.
        self._recorded: tuple[int, int] | None = None
        self._unknown_posts = 0
        self._max_tries = self._clears = 0
        self._reattached_revisions: dict[Identity, Identity] = {}
        self._identity: Identity = ()
        #: Identity of the current revision, while ``_identity`` is that of an earlier revision whose record was lost.
        self._own_identity: Identity | None = None

    def begin(self, variant: RequestVariant, ti: FakeTaskInstance, *, retries: int) -> AllowedAction:
        """Begin an attempt, and return the action that is allowed.

        :param retries: The task's ``retries``: how often Airflow retries it without being cleared.
        """
        self._max_tries = max_tries = ti.max_tries
        if self._recorded is not None:
            written_at, clears = self._recorded
            self._clears = clears + (written_at != max_tries)
        else:
            self._clears = ti.try_number - 1 if max_tries > retries else 0
        self._request: Identity = (variant.name,) if self._task.explicit_key else (variant.prompt, variant.name)
        revision = max_tries if self._task.on_clear == "regenerate" else 0
        identity: Identity = (*self._request, revision)
        self._identity = self._reattached_revisions.get(identity, identity)
        self._own_identity = None
        if (earlier := self._unrecorded_revision_in_progress(retries)) is not None:
            self._own_identity, self._identity = self._identity, earlier
        return self.allowed_action()

    def allowed_action(self) -> AllowedAction:
        """Return the action that is allowed now."""
        if saved := self.saved():
            return AllowedAction("return saved", saved)
        if earlier := self._earlier_generation_in_progress():
            return AllowedAction("re-attach", earlier)
        videos = self._videos.get(self._identity, [])
        if videos and not self.is_lost(videos[-1]):
            return AllowedAction("re-attach", videos[-1])
        failed = sum(self._emulator.task(video_id).outcome == "failed" for video_id in videos)
        # An expired result is replaced once for each clear, in addition to max_generations.
        used = failed + max(0, len(videos) - failed - self._clears)
        return AllowedAction("submit" if used < self._task.max_generations else "give up")

    def on_submission(self, task: Task) -> None:
        """Record a submission that the service has accepted and will bill. Check that it was allowed."""
        if self._own_identity is not None and self._emulator.task(self._videos[self._identity][-1]).outcome:
            # The video of the earlier revision became final before the attempt could look it up.
            self._identity, self._own_identity = self._own_identity, None
        allowed = self.allowed_action()
        assert allowed.action == "submit", f"submitted {task.client_business_id}, but allowed was {allowed}"
        assert task.client_business_id not in self._owners, "another video has this client_business_id"
        self._owners[str(task.client_business_id)] = self._identity
        self._videos.setdefault(self._identity, []).append(task.id)
        self._newest_revision[self._request] = self._identity
        self._in_record.add(self._identity)

    def on_record(self, record: str) -> None:
        """Record what an attempt wrote into the state store, and whether it continues the previous revision."""
        self._recorded = (self._max_tries, self._clears)
        self._unknown_posts = max(item["unknown_posts"] for item in json.loads(record)["submissions"])
        earlier = self._earlier_generation_in_progress()
        if earlier is not None and earlier in record:
            self._reattached_revisions[self._identity] = self._newest_revision[self._request]
            self._identity = self._newest_revision[self._request]
        elif any(video_id in record for video_id in self._videos.get(self._identity, [])):
            self._newest_revision[self._request] = self._identity
            self._in_record.add(self._identity)

    def is_blocked_by_unknown_posts(self) -> bool:
        """Return whether the record has as many submissions of unknown outcome as are allowed."""
        return self._unknown_posts >= self._task.max_generations

    def on_record_cleared(self) -> None:
        """Record that a clear has emptied the state store."""
        self._newest_revision.clear()
        self._reattached_revisions.clear()
        self._in_record.clear()
        self._recorded = None
        self._unknown_posts = 0

    def current(self) -> Task | None:
        """Return the latest video of the current request and revision; None if none was submitted."""
        videos = self._videos.get(self._identity, [])
        return self._emulator.task(videos[-1]) if videos else None

    def billed(self) -> int:
        """Return the number of recorded submissions."""
        return sum(map(len, self._videos.values()))

    def saved(self) -> str | None:
        """Return the newest video of the current request and revision that is on disk with its receipt."""
        for video_id in reversed(self._videos.get(self._identity, []) if self._directory else []):
            if self._is_saved(self._emulator.task(video_id)):
                return video_id
        return None

    def is_lost(self, video_id: str) -> bool:
        """Whether only a new submission can replace this video."""
        task = self._emulator.task(video_id)
        if task.outcome == "failed":
            return task.error_code != CONTENT_POLICY
        return task.expires_at is not None and self._emulator.time() >= task.expires_at

    def _is_saved(self, task: Task) -> bool:
        receipt = Path(str(self._directory)) / f"{task.client_business_id}.json"
        if not receipt.exists():
            return False
        written = json.loads(receipt.read_text())
        file = Path(written["output_path"])
        return file.exists() and file.stat().st_size == written["size"]

    def _unrecorded_revision_in_progress(self, retries: int) -> Identity | None:
        """Return the newest earlier revision with a video in progress, if a clear has deleted the record.

        Its key can be looked up.
        """
        if self._task.on_clear == "reuse" or self._recorded is not None or self._videos.get(self._identity):
            return None
        for revision in range(self._max_tries - 1, retries - 1, -1):
            videos = self._videos.get((*self._request, revision), [])
            task = self._emulator.task(videos[-1]) if videos else None
            if task is not None and not task.outcome and task.created_at + self._lag <= self._emulator.time():
                return (*self._request, revision)
        return None

    def _earlier_generation_in_progress(self) -> str | None:
        """Return the video of the previous revision if it is in the record and still in progress."""
        newest = self._newest_revision.get(self._request)
        if not self._has_record or newest in (None, self._identity) or self._identity in self._in_record:
            return None
        video_id = self._videos[newest][-1]
        return None if self._emulator.task(video_id).outcome else video_id
