"""What may be paid, as a model that knows nothing of the provider's code, and the world that it is held against.

:class:`Account` is the model: it sees each order that the service accepts, and says whether another one was allowed.
:class:`World` carries an attempt's requests to the emulator, breaks what a :class:`Plan` tells it to break, and kills
the worker at any step.
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
Fate = Literal["completes", "fails", "is refused"]


class KilledError(BaseException):
    """Stands for the end of a process: nothing in it runs on."""


@dataclass(frozen=True)
class Author:
    """How a task is written; it stays as it is over all attempts.

    :param output: Whether and how ``output_path`` is set.
    :param chosen: Whether the author sets ``client_business_id``, or else ``identity``.
    """

    output: Literal["none", "directory", "file name"]
    waits: bool
    on_clear: Literal["reuse", "regenerate"]
    picture: Literal["link", "file"]
    timeout: float
    max_generations: int
    chosen: bool


@dataclass(frozen=True)
class RowRequest:
    """What is asked for now; a person may edit it between attempts.

    :param story: Which prompt and length.
    :param name: Which ``identity`` or ``client_business_id``.
    """

    story: int = 0
    name: int = 0


@dataclass(frozen=True)
class Trouble:
    """A request that goes wrong.

    :param answer: Name of one of the emulator's answers, or the class of httpx's error.
    :param processed: The service did what was asked before that.
    """

    answer: str | type[httpx.TransportError]
    processed: bool = False

    @property
    def refuses(self) -> bool:
        """Whether it is an answer after which an attempt gives up for good."""
        return self.answer in ("insufficient_quota", "unauthorized")

    def outcome(self, request: httpx.Request) -> httpx.Response:
        if not isinstance(self.answer, str):
            raise self.answer("it broke", request=request)
        answer = RESPONSES[self.answer]
        content = answer["html"] if "html" in answer else json.dumps(answer["body"])
        # Not read yet, as it would come from a socket.
        stream = httpx.ByteStream(content.encode())
        return httpx.Response(answer["status"], headers=answer.get("headers"), stream=stream)


@dataclass(frozen=True)
class Death:
    """The worker, or the triggerer, dies at a step, when it comes to it for the n-th time."""

    step: str
    time: int


@dataclass
class Plan:
    """What happens during one attempt.

    :param troubles: By kind of request: what strikes the next ones, in order.
    :param marked_failed: By a person, as soon as it is deferred.
    """

    fate: Fate = "completes"
    deferrable: bool = False
    troubles: dict[str, list[Trouble]] = field(default_factory=dict)
    death: Death | None = None
    marked_failed: bool = False
    disturbed: bool = False
    refused: bool = False
    asked: bool = False

    def spare_unnoted_orders(self) -> None:
        """Lose no answer to an order, and let nobody die between an order and the note about its video."""
        orders = self.troubles.get("order", [])
        orders[:] = [trouble for trouble in orders if not trouble.processed]
        if self.death in (Death("after order", 1), Death("before note", 2)):
            self.death = None

    def spare_foreign_answers(self) -> None:
        """Let no gateway answer a poll that it knows no such path."""
        polls = self.troubles.get("poll", [])
        polls[:] = [trouble for trouble in polls if trouble.answer != "no_route"]

    def next_trouble(self, kind: str) -> Trouble | None:
        waiting = self.troubles.get(kind)
        if not waiting:
            return None
        self.disturbed = True
        self.refused |= waiting[0].refuses
        return waiting.pop(0)

    def dies(self, step: str) -> bool:
        if self.death is None or self.death.step != step:
            return False
        self.death = Death(step, self.death.time - 1)
        if self.death.time:
            return False
        self.death = None
        self.disturbed = True
        return True


class World:
    """Everything that an attempt touches, with the plan of the present attempt in force.

    :param survives_clear: Whether the task's state store keeps its content when a person clears the task (Airflow 3.3)
        or not (3.4); None without such a store (older ones).
    """

    #: Names of the steps that workers of all worlds have come to.
    passed: ClassVar[set[str]] = set()

    def __init__(self, emulator: EmulatorInProcess, *, survives_clear: bool | None) -> None:
        self.emulator = emulator
        self.survives_clear = survives_clear
        self.plan = Plan()
        self.on_order: Callable[[Task], object] = lambda _: None
        self.on_note: Callable[[str], object] = lambda _: None

    def step(self, name: str) -> None:
        """Pass a step, unless the worker dies at it."""
        self.passed.add(name)
        if self.plan.dies(name):
            raise KilledError(name)

    @contextmanager
    def steps_around(self, name: str) -> Iterator[None]:
        """Pass a step before and one after a block."""
        self.step(f"before {name}")
        yield
        self.step(f"after {name}")

    def sleep(self, seconds: float) -> None:
        self.step("sleep")
        self.emulator.advance(seconds)

    def send(self, request: httpx.Request) -> httpx.Response:
        kind = _kind(request)
        self.plan.asked = True
        self.step(f"before {kind}")
        trouble = self.plan.next_trouble(kind)
        if trouble is not None and not trouble.processed:
            return trouble.outcome(request)
        known = len(self.emulator.tasks()) if kind == "order" else 0
        response = self.emulator.send(request)
        if kind == "order":
            for task in self.emulator.tasks()[known:]:
                self._begin(task)
        self.step(f"after {kind}")
        return response if trouble is None else trouble.outcome(request)

    def _begin(self, task: Task) -> None:
        if self.plan.fate != "completes":
            self.emulator.plan_failure(
                task.id, CONTENT_POLICY if self.plan.fate == "is refused" else "generation_failed"
            )
        self.on_order(task)


def _kind(request: httpx.Request) -> str:
    path = request.url.path
    if path.startswith("/files/"):
        return "download"
    if path.startswith("/v1/uploads/"):
        return "upload"
    return "order" if request.method == "POST" else "poll"


class Transport(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Carries what httpx sends, from a worker or an event loop, through a world."""

    def __init__(self, world: Callable[[], World]) -> None:
        self._world = world

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._world().send(request)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return self._world().send(request)


class StateStore:
    """What Airflow 3.3 gives a task: JSON by key, which survives its attempts."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._values: dict[str, str] = {}

    def get(self, key: str, default: Any = None) -> Any:
        return json.loads(self._values[key]) if key in self._values else default

    def set(self, key: str, value: Any) -> None:
        text = json.dumps(stored_json(value))
        with self._world.steps_around("note"):
            self._values[key] = text
            self._world.on_note(text)

    def clear(self) -> None:
        self._values.clear()


class TaskInstance(FakeTaskInstance):
    """A task instance whose worker may die at each thing that it leaves behind."""

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
class Prospect:
    """What design allows the next attempt to do.

    :param video_id: Of the video to return; None where one is to be ordered, or none may be.
    """

    action: Literal["return kept", "adopt", "order", "give up"]
    video_id: str | None = None


class Account:
    """The model: which videos were ordered for which wish, and whether another one may be.

    :param folder: Where ``output_path`` leads to; None where nothing is kept.
    """

    def __init__(self, author: Author, emulator: EmulatorInProcess, folder: Path | None, *, has_notes: bool) -> None:
        self._author = author
        self._emulator = emulator
        self._folder = folder
        self._has_notes = has_notes
        self._videos: dict[Identity, list[str]] = {}
        self._owners: dict[str, Identity] = {}
        #: Whose videos the submission record holds.
        self._noted: set[Identity] = set()
        self._newest_take: dict[Identity, Identity] = {}
        #: What the submission record holds: the tries allowed when it was written, and the clears until then.
        self._recorded: tuple[int, int] | None = None
        self._unknown_posts = 0
        self._max_tries = self._clears = 0
        self._adopted_takes: dict[Identity, Identity] = {}
        self._identity: Identity = ()

    def begin(self, wish: RowRequest, ti: FakeTaskInstance, *, retries: int) -> Prospect:
        """Begin an attempt, and say what it may do.

        :param retries: How often Airflow tries again without a person's doing.
        """
        self._max_tries = max_tries = ti.max_tries
        if self._recorded is not None:
            written_at, clears = self._recorded
            self._clears = clears + (written_at != max_tries)
        else:
            self._clears = ti.try_number - 1 if max_tries > retries else 0
        self._wanted: Identity = (wish.name,) if self._author.chosen else (wish.story, wish.name)
        epoch = max_tries if self._author.on_clear == "regenerate" else 0
        take: Identity = (*self._wanted, epoch)
        self._identity = self._adopted_takes.get(take, take)
        return self.prospect()

    def prospect(self) -> Prospect:
        """Say what may be done now."""
        if kept := self.kept():
            return Prospect("return kept", kept)
        if earlier := self._earlier_generation_in_progress():
            return Prospect("adopt", earlier)
        videos = self._videos.get(self._identity, [])
        if videos and not self.is_lost(videos[-1]):
            return Prospect("adopt", videos[-1])
        failed = sum(self._emulator.task(video_id).outcome == "failed" for video_id in videos)
        # An expired result is replaced once for each clear, whatever is allowed for failures.
        used = failed + max(0, len(videos) - failed - self._clears)
        return Prospect("order" if used < self._author.max_generations else "give up")

    def ordered(self, task: Task) -> None:
        """Enter an order that the service has accepted, and will be paid."""
        prospect = self.prospect()
        assert prospect.action == "order", f"paid for {task.client_business_id}, though allowed was: {prospect}"
        assert task.client_business_id not in self._owners, "this id has a video already"
        self._owners[str(task.client_business_id)] = self._identity
        self._videos.setdefault(self._identity, []).append(task.id)
        self._newest_take[self._wanted] = self._identity
        self._noted.add(self._identity)

    def noted(self, note: str) -> None:
        """Enter what an attempt wrote into the state store: a take that it names is this attempt's own from now on."""
        self._recorded = (self._max_tries, self._clears)
        self._unknown_posts = max(item["unknown_posts"] for item in json.loads(note)["submissions"])
        earlier = self._earlier_generation_in_progress()
        if earlier is not None and earlier in note:
            self._adopted_takes[self._identity] = self._newest_take[self._wanted]
            self._identity = self._newest_take[self._wanted]
        elif any(video_id in note for video_id in self._videos.get(self._identity, [])):
            self._newest_take[self._wanted] = self._identity
            self._noted.add(self._identity)

    def waits_for_a_person(self) -> bool:
        """Return whether as many orders of unknown outcome are noted as may be sent."""
        return self._unknown_posts >= self._author.max_generations

    def forget_notes(self) -> None:
        """Enter that a clear has emptied the state store."""
        self._newest_take.clear()
        self._adopted_takes.clear()
        self._noted.clear()
        self._recorded = None
        self._unknown_posts = 0

    def current(self) -> Task | None:
        """Return the latest video of this wish."""
        videos = self._videos.get(self._identity, [])
        return self._emulator.task(videos[-1]) if videos else None

    def paid(self) -> int:
        """Return how many orders were entered."""
        return sum(map(len, self._videos.values()))

    def kept(self) -> str | None:
        """Return the newest video of this wish that is on disk with its receipt."""
        for video_id in reversed(self._videos.get(self._identity, []) if self._folder else []):
            if self._is_kept(self._emulator.task(video_id)):
                return video_id
        return None

    def is_lost(self, video_id: str) -> bool:
        """Whether only a new order can bring this video."""
        task = self._emulator.task(video_id)
        if task.outcome == "failed":
            return task.error_code != CONTENT_POLICY
        return task.expires_at is not None and self._emulator.time() >= task.expires_at

    def _is_kept(self, task: Task) -> bool:
        receipt = Path(str(self._folder)) / f"{task.client_business_id}.json"
        if not receipt.exists():
            return False
        written = json.loads(receipt.read_text())
        file = Path(written["output_path"])
        return file.exists() and file.stat().st_size == written["size"]

    def _earlier_generation_in_progress(self) -> str | None:
        """Return the video of the take before this one, where the state store shows that it is still being made."""
        newest = self._newest_take.get(self._wanted)
        if not self._has_notes or newest in (None, self._identity) or self._identity in self._noted:
            return None
        video_id = self._videos[newest][-1]
        return None if self._emulator.task(video_id).outcome else video_id
