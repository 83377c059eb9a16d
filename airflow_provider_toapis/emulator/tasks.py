"""The life of a task: created and charged, made, finished or failed, expired."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import uuid
from collections.abc import Callable
from typing import Any

from airflow_provider_toapis.emulator.clock import Clock
from airflow_provider_toapis.emulator.error_bodies import invalid_request, task_not_found
from airflow_provider_toapis.emulator.ledger import Ledger, billing
from airflow_provider_toapis.emulator.pictures import ReferenceFetcher, UnusablePictureError, imagined
from airflow_provider_toapis.emulator.renderer import Studio
from airflow_provider_toapis.emulator.rendering import Motion, RenderingStoppedError, Shot
from airflow_provider_toapis.emulator.response_variants import VARIANTS
from airflow_provider_toapis.emulator.settings import Settings
from airflow_provider_toapis.emulator.store import Store, Task
from airflow_provider_toapis.emulator.validation import Order

logger = logging.getLogger(__name__)

#: The part of a task's time that it spends as ``queued``.
QUEUED_SHARE = 0.05
#: Seconds that an extension adds to the earlier video; the vendor does not say how many.
EXTENSION_SECONDS = 8
#: So many reference images are fetched at the same time.
CONCURRENT_FETCHES = 8
_ID_PREFIX = {"generate": "video_", "remix": "video_remix_", "extend": "video_extend_"}
_MOTION: dict[str, Motion] = {"generate": "push_in", "remix": "pull_back", "extend": "push_in"}


class Tasks:
    """All tasks of the emulator.

    :param finished: Called with each task that has become final.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        store: Store,
        *,
        ledger: Ledger,
        studio: Studio,
        fetcher: ReferenceFetcher,
        finished: Callable[[Task], None],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._store = store
        self._ledger = ledger
        self._studio = studio
        self._fetcher = fetcher
        self._finished = finished
        self._fetches = asyncio.Semaphore(CONCURRENT_FETCHES)
        self._productions: dict[str, asyncio.Task[None]] = {}

    def resume(self) -> None:
        """Go on making what an earlier process left unfinished."""
        for task in self._store.tasks("outcome IS NULL AND rendering IS NULL AND error_code IS NULL"):
            self._start(task)

    async def stop(self) -> None:
        """Stop making videos; they are made after the next start."""
        productions = list(self._productions.values())
        for production in productions:
            production.cancel()
        await asyncio.gather(*productions, return_exceptions=True)

    def create(self, order: Order, operation: str = "generate", source: Task | None = None) -> tuple[Task, bool]:
        """Charge for an ``order`` and begin to make it, or find the task that it repeats.

        :param source: The earlier video of a remix or an extension.
        :return: The task, and whether it is new.
        :raises RefusedError: There is not enough money.
        """
        indexed = operation == "generate" or self._settings.remix_ids
        business_id = order.client_business_id if indexed else None
        if business_id and self._settings.replay and (existing := self._store.newest_task(business_id)):
            return existing, False
        self._ledger.charge(order.model, order.cost)
        task_id = f"{_ID_PREFIX[operation]}{uuid.uuid4().hex}"
        now = self._clock.now()
        task = Task(
            id=task_id,
            client_business_id=business_id,
            operation=operation,
            model=order.model,
            prompt=order.prompt,
            reference_urls=tuple(self._settings.own_path(url) or url for url in order.references),
            picture=source.picture if source else None,
            duration=order.duration,
            aspect_ratio=order.aspect_ratio,
            callback_url=order.callback_url,
            cost_usd=f"{order.cost:f}",
            created_at=now,
            due_at=now + self._latency(task_id),
        )
        self._store.add_task(task)
        self._start(task)
        return task, True

    def _latency(self, task_id: str) -> float:
        """Seconds until a task is due: spread around the latency, always the same for the same id."""
        fraction = int.from_bytes(hashlib.sha256(task_id.encode()).digest()[:4]) / 2**32
        return self._settings.latency * (1 + self._settings.latency_spread * (2 * fraction - 1))

    def find(self, task_id: str) -> Task:
        """Return the task with this id, the service's or the customer's, as it stands now.

        :raises RefusedError: There is none, or it cannot be looked up by the customer's id yet.
        """
        task = self.known(task_id)
        if task is None:
            raise task_not_found()
        indexed_at = task.created_at + (self._settings.lookup_lag if task_id != task.id else 0)
        if self._clock.now() < indexed_at:
            raise task_not_found()
        return task

    def known(self, task_id: str) -> Task | None:
        """Return the task with this id, the service's or the customer's, whether or not it can be looked up yet."""
        self.finish_due()
        return self._store.task(task_id) or self._store.newest_task(task_id)

    def source(self, task_id: str) -> Task:
        """Return an earlier video that can be remixed or extended.

        :raises RefusedError: It is unknown, not completed, or its file has expired.
        """
        self.finish_due()
        task = self._store.task(task_id)
        if task is None:
            raise task_not_found()
        if task.outcome != "completed" or self.is_expired(task):
            raise invalid_request("video_id", "must be a completed video whose file has not expired")
        return task

    def is_expired(self, task: Task) -> bool:
        """Whether the file of a completed task is no longer served."""
        return task.expires_at is not None and self._clock.now() >= task.expires_at

    def expire(self, task: Task) -> None:
        """Let the file of a task expire now."""
        self._store.change_task(task.id, expires_at=self._clock.now())

    def plan_failure(self, task_id: str, code: str, message: str, form: str) -> None:
        """Let a task fail when its time has come, and report the reason in one of the forms of a failed status."""
        self._store.change_task(task_id, error_code=code, error_message=message, error_form=form)

    def finish_due(self) -> None:
        """Finish every task whose time has come, as far as its file is there."""
        due = self._store.tasks(
            "outcome IS NULL AND due_at <= ? AND (rendering IS NOT NULL OR error_code IS NOT NULL)",
            (self._clock.now(),),
        )
        for task in due:
            self._fail(task) if task.error_code else self._complete(task)

    async def force(self, task: Task, status: str, code: str, message: str, form: str = "error") -> Task:
        """Make a task final at once; a final one keeps its outcome."""
        if task.outcome is None and status == "failed":
            self.plan_failure(task.id, code, message, form)
            self._store.change_task(task.id, due_at=self._clock.now())
        elif task.outcome is None:
            self._store.change_task(task.id, due_at=self._clock.now())
            if production := self._productions.get(task.id):
                await asyncio.shield(production)
        return self.find(task.id)

    def _complete(self, task: Task) -> None:
        now = self._clock.now()
        self._store.change_task(
            task.id,
            outcome="completed",
            finished_at=now,
            expires_at=now + self._settings.expiry,
            billing="settled",
        )
        self._announce(task)

    def _fail(self, task: Task) -> None:
        self._store.change_task(task.id, outcome="failed", finished_at=self._clock.now(), billing="refunded")
        self._ledger.refund(task)
        self._announce(task)

    def _announce(self, task: Task) -> None:
        if final := self._store.task(task.id):
            self._finished(final)

    def _start(self, task: Task) -> None:
        production = asyncio.create_task(self._produce(task), name=f"production of {task.id}")
        self._productions[task.id] = production
        production.add_done_callback(lambda _: self._productions.pop(task.id, None))

    async def _produce(self, task: Task) -> None:
        try:
            picture = task.picture or await self._picture(task)
            self._store.change_task(task.id, picture=picture)
            shot = Shot(picture, task.duration, task.aspect_ratio, _MOTION[task.operation])
            rendering = await self._studio.produce(shot)
        except UnusablePictureError as error:
            self._give_up(task, "InvalidParameter", str(error))
        except RenderingStoppedError:
            logger.debug("%s will be rendered after the next start", task.id)
        except Exception:
            logger.exception("%s could not be rendered", task.id)
            self._give_up(task, "generation_failed", "Generation failed: the emulator could not render it")
        else:
            self._store.change_task(task.id, rendering=rendering)

    def _give_up(self, task: Task, code: str, message: str) -> None:
        current = self._store.task(task.id)
        if current and current.outcome is None:
            self.plan_failure(task.id, code, message, "error")
            self._fail(current)

    async def _picture(self, task: Task) -> str:
        """The name of the picture to render: the first reference image, though each of them has to be one."""
        keep = self._studio.keep_picture
        if not task.reference_urls:
            return keep(await asyncio.to_thread(imagined, task.prompt))
        async with self._fetches:
            names = [await asyncio.to_thread(keep, await self._fetcher.fetch(url)) for url in task.reference_urls]
        return names[0]

    def status_body(self, task: Task) -> dict[str, Any]:
        """Return the documented status object of a task."""
        status, progress = self._progress(task)
        body: dict[str, Any] = {"id": task.id}
        if task.client_business_id:
            body["client_business_id"] = task.client_business_id
        body |= {
            "object": "generation.task",
            "model": task.model,
            "status": status,
            "progress": progress,
            "created_at": int(task.created_at),
        }
        if task.outcome == "completed":
            body |= {
                "completed_at": int(task.finished_at or 0),
                "expires_at": int(task.expires_at or 0),
                "result": self.result_body(task),
            }
        elif task.outcome == "failed":
            body["error"] = {"code": task.error_code, "message": task.error_message}
        body |= {"billing": billing(task), "metadata": {}}
        return VARIANTS[task.error_form].applied(body) if task.error_form and task.outcome == "failed" else body

    def result_body(self, task: Task) -> dict[str, Any]:
        """Return the ``result`` object of a completed task."""
        url = f"{self._settings.origin}/files/videos/{task.id}/output.mp4"
        return {"type": "video", "data": [{"url": url, "format": "mp4"}]}

    def _progress(self, task: Task) -> tuple[str, int]:
        """Status and whole percents: honest about the time that has passed, 100 only when it is done."""
        if task.outcome:
            return task.outcome, 100 if task.outcome == "completed" else 0
        share = (self._clock.now() - task.created_at) / max(task.due_at - task.created_at, 0.001)
        if share < QUEUED_SHARE:
            return "queued", 0
        return "in_progress", min(99, int(100 * share)) if self._settings.honest_progress else 0
