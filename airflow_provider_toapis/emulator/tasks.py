"""Life cycle of the generation tasks: creation and charge, rendering, completion or failure, and expiry of the file."""

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
from airflow_provider_toapis.emulator.reference_images import ReferenceFetcher, UnusableImageError, draw_for_prompt
from airflow_provider_toapis.emulator.renderer import Renderer
from airflow_provider_toapis.emulator.rendering import Flaw, Motion, RenderingStoppedError, Shot
from airflow_provider_toapis.emulator.response_variants import VARIANTS
from airflow_provider_toapis.emulator.settings import Settings
from airflow_provider_toapis.emulator.store import Store, Task
from airflow_provider_toapis.emulator.validation import GenerationRequest

logger = logging.getLogger(__name__)

#: Share of a generation task's latency for which its status is ``queued``.
QUEUED_SHARE = 0.05
#: Seconds that an extension adds to the earlier video. The vendor does not document the number.
EXTENSION_SECONDS = 8
#: Maximum number of generation tasks whose reference images are fetched at the same time.
CONCURRENT_FETCHES = 8
_ID_PREFIX = {"generate": "video_", "remix": "video_remix_", "extend": "video_extend_"}
_MOTION: dict[str, Motion] = {"generate": "push_in", "remix": "pull_back", "extend": "push_in"}


class Tasks:
    """All generation tasks of the emulator.

    :param finished: Called with each task when it becomes final.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        store: Store,
        *,
        ledger: Ledger,
        renderer: Renderer,
        fetcher: ReferenceFetcher,
        finished: Callable[[Task], None],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._store = store
        self._ledger = ledger
        self._renderer = renderer
        self._fetcher = fetcher
        self._finished = finished
        self._fetches = asyncio.Semaphore(CONCURRENT_FETCHES)
        self._productions: dict[str, asyncio.Task[None]] = {}

    def resume(self) -> None:
        """Continue the generation tasks that an earlier process left unfinished."""
        for task in self._store.tasks("outcome IS NULL AND rendering IS NULL AND error_code IS NULL"):
            self._start(task)

    async def stop(self) -> None:
        """Stop rendering. The next start continues it."""
        productions = list(self._productions.values())
        for production in productions:
            production.cancel()
        await asyncio.gather(*productions, return_exceptions=True)

    def create(
        self, request: GenerationRequest, operation: str = "generate", source: Task | None = None
    ) -> tuple[Task, bool]:
        """Create a generation task, charge for it and start to render it.

        If the setting ``replay`` is on, a known idempotency key returns its existing task, and nothing is charged.

        :param source: The earlier video of a remix or an extension.
        :return: The task, and whether it is new.
        :raises RejectedError: The balance is too low.
        """
        indexed = operation == "generate" or self._settings.remix_ids
        business_id = request.client_business_id if indexed else None
        if business_id and self._settings.replay and (existing := self._store.newest_task(business_id)):
            return existing, False
        self._ledger.charge(request.model, request.cost)
        task_id = f"{_ID_PREFIX[operation]}{uuid.uuid4().hex}"
        now = self._clock.now()
        task = Task(
            id=task_id,
            client_business_id=business_id,
            operation=operation,
            model=request.model,
            prompt=request.prompt,
            reference_urls=tuple(self._settings.own_path(url) or url for url in request.references),
            picture=source.picture if source else None,
            duration=request.duration,
            aspect_ratio=request.aspect_ratio,
            callback_url=request.callback_url,
            cost_usd=f"{request.cost:f}",
            created_at=now,
            due_at=now + self._latency(task_id),
        )
        self._store.add_task(task)
        self._start(task)
        return task, True

    def _latency(self, task_id: str) -> float:
        """Return the seconds until a generation task is due: the latency, varied by a hash of the task's id."""
        fraction = int.from_bytes(hashlib.sha256(task_id.encode()).digest()[:4]) / 2**32
        return self._settings.latency * (1 + self._settings.latency_spread * (2 * fraction - 1))

    def find(self, task_id: str) -> Task:
        """Return the current state of the generation task with this id or ``client_business_id``.

        :raises RejectedError: The task does not exist, or cannot be looked up by its ``client_business_id`` yet.
        """
        task = self.get(task_id)
        if task is None:
            raise task_not_found()
        indexed_at = task.created_at + (self._settings.lookup_lag if task_id != task.id else 0)
        if self._clock.now() < indexed_at:
            raise task_not_found()
        return task

    def get(self, task_id: str) -> Task | None:
        """Return the generation task with this id or ``client_business_id``; None if it does not exist.

        Ignore ``lookup_lag``.
        """
        self.finish_due()
        return self._store.task(task_id) or self._store.newest_task(task_id)

    def source(self, task_id: str) -> Task:
        """Return an earlier video that can be remixed or extended.

        :raises RejectedError: The video does not exist, is not completed, or its file has expired.
        """
        self.finish_due()
        task = self._store.task(task_id)
        if task is None:
            raise task_not_found()
        if task.outcome != "completed" or self.is_expired(task):
            raise invalid_request("video_id", "must be a completed video whose file has not expired")
        return task

    def is_expired(self, task: Task) -> bool:
        """Return whether the file of a completed generation task is no longer served."""
        return task.expires_at is not None and self._clock.now() >= task.expires_at

    def expire(self, task: Task) -> None:
        """Expire the file of a generation task now."""
        self._store.change_task(task.id, expires_at=self._clock.now())

    def plan_failure(self, task_id: str, code: str, message: str, form: str) -> None:
        """Make a generation task fail when it is due.

        :param form: Name of the response variant that reports the reason.
        """
        self._store.change_task(task_id, error_code=code, error_message=message, error_form=form)

    def plan_flaw(self, task_id: str, flaw: Flaw) -> None:
        """Render the video of a new generation task with a flaw.

        Must be called before the event loop runs other code.
        """
        self._store.change_task(task_id, flaw=flaw)

    def finish_due(self) -> None:
        """Finish every due generation task that has a file or a planned failure."""
        due = self._store.tasks(
            "outcome IS NULL AND due_at <= ? AND (rendering IS NOT NULL OR error_code IS NOT NULL)",
            (self._clock.now(),),
        )
        for task in due:
            self._fail(task) if task.error_code else self._complete(task)

    async def force(self, task: Task, status: str, code: str, message: str, form: str = "error") -> Task:
        """Complete or fail a generation task immediately, and return it. A task that is already final does not change.

        :param status: ``completed`` or ``failed``. A task that cannot be rendered fails in both cases.
        :param code: Error code of a failure.
        :param message: Error message of a failure.
        :param form: Name of the response variant that reports the failure.
        """
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
            image = task.picture or await self._source_image(task)
            self._store.change_task(task.id, picture=image)
            stored = self._store.task(task.id)
            flaw = stored.flaw if stored else None
            shot = Shot(image, task.duration, task.aspect_ratio, _MOTION[task.operation], flaw)
            rendering = await self._renderer.produce(shot)
        except UnusableImageError as error:
            self._fail_now(task, "InvalidParameter", str(error))
        except RenderingStoppedError:
            logger.debug("Stopped rendering %s. The next start renders it again.", task.id)
        except Exception:
            logger.exception("Cannot render %s", task.id)
            self._fail_now(task, "generation_failed", "Generation failed: the emulator could not render it")
        else:
            self._store.change_task(task.id, rendering=rendering)

    def _fail_now(self, task: Task, code: str, message: str) -> None:
        current = self._store.task(task.id)
        if current and current.outcome is None:
            self.plan_failure(task.id, code, message, "error")
            self._fail(current)

    async def _source_image(self, task: Task) -> str:
        """Validate all reference images, and return the name of the image to render: the first one, or a drawn one."""
        save = self._renderer.save_image
        if not task.reference_urls:
            return save(await asyncio.to_thread(draw_for_prompt, task.prompt))
        async with self._fetches:
            names = [await asyncio.to_thread(save, await self._fetcher.fetch(url)) for url in task.reference_urls]
        return names[0]

    def status_body(self, task: Task) -> dict[str, Any]:
        """Return the documented status object of a generation task."""
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
        return VARIANTS[task.error_form].apply(body) if task.error_form and task.outcome == "failed" else body

    def result_body(self, task: Task) -> dict[str, Any]:
        """Return the ``result`` object of a completed generation task."""
        url = f"{self._settings.origin}/files/videos/{task.id}/output.mp4"
        return {"type": "video", "data": [{"url": url, "format": "mp4"}]}

    def _progress(self, task: Task) -> tuple[str, int]:
        """Return the status and the progress in percent.

        If the setting ``report_progress`` is off, the progress is 0 until the task is completed.
        """
        if task.outcome:
            return task.outcome, 100 if task.outcome == "completed" else 0
        share = (self._clock.now() - task.created_at) / max(task.due_at - task.created_at, 0.001)
        if share < QUEUED_SHARE:
            return "queued", 0
        return "in_progress", min(99, int(100 * share)) if self._settings.report_progress else 0
