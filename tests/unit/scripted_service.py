"""A fake service with scripted responses: it drives the flows without I/O, and records their steps."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from airflow_provider_toapis.api.error_responses import HttpResponse
from airflow_provider_toapis.api.flows import Flow, HttpRequest, RecordSubmission, Sleep, Slot, TryUrl
from airflow_provider_toapis.exceptions import ToAPIsConnectionError

T = TypeVar("T")
Answer = HttpResponse | ToAPIsConnectionError

MODEL = "grok-video-1.5-preview"
LOOK_UP = "/v1/videos/generations/"


def answer(status: int, body: object = b"", **headers: str) -> HttpResponse:
    """Return a response. Header names have ``_`` instead of ``-``."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HttpResponse(status, {name.replace("_", "-"): value for name, value in headers.items()}, raw)


def task(status: str = "queued", video_id: str = "video_1", **fields: Any) -> HttpResponse:
    """Return a response with a task of ``MODEL``."""
    return answer(200, {"id": video_id, "model": MODEL, "status": status, **fields})


def refusal(status: int, code: str, message: str = "", **headers: str) -> HttpResponse:
    """Return a response with the documented error envelope."""
    return answer(status, {"error": {"code": code, "message": message}}, **headers)


NOT_FOUND = refusal(404, "task_not_found", "Task not found")
NOT_SENT = ToAPIsConnectionError("POST got no response (ConnectError).", sent=False)
TIMED_OUT = ToAPIsConnectionError("POST got no response (ReadTimeout).", sent=True)
HTML_PAGE = answer(502, b"<html>bad gateway</html>")
UPLOADED = answer(200, {"success": True, "data": {"id": "u", "url": "https://files.toapis.com/uploads/shoe.jpg"}})


class ScriptedService:
    """Responds to look-ups, uploads and submissions from lists.

    :param look_ups: Responses by client_business_id, in order; the last one is repeated. Other ids are not found.
    :param posts: Responses to submissions, in order. A further submission fails the test.
    :param uploads: Responses to uploads, in order. A further upload fails the test.
    :param after_order: Responses to look-ups after the submission, in order; the last one is repeated.
    :param links: Responses of the result URLs' host, in order; the last one is repeated.
    :param claims: Whether each submission is allowed, in order; later ones are allowed.
    :param slots: Seconds that each submission waits for the account's rate limit, in order.
    """

    def __init__(
        self,
        *,
        look_ups: Mapping[str, Sequence[Answer]] | None = None,
        posts: Sequence[Answer] = (),
        uploads: Sequence[Answer] = (),
        after_order: Sequence[Answer] | None = None,
        links: Sequence[Answer] = (),
        claims: Sequence[bool] = (),
        slots: Sequence[float] = (),
    ) -> None:
        self._look_ups = {business_id: list(answers) for business_id, answers in (look_ups or {}).items()}
        self._posts = iter(posts)
        self._uploads = iter(uploads)
        self._after_order = list(after_order or [task()])
        self._links = list(links)
        self._claims = iter(claims)
        self._slots = iter(slots)
        #: Elapsed time in seconds.
        self.clock = 0.0
        self.remembered: list[RecordSubmission] = []
        self.requests: list[HttpRequest] = []
        self.sleeps: list[float] = []
        self.steps: list[str] = []
        self.steps_after_order: list[str] = []
        self.notes: list[tuple[str, str | None]] = []
        self._steps = self.steps

    @property
    def bodies(self) -> list[Mapping[str, Any]]:
        """The bodies of all submissions."""
        return [request.json for request in self.requests if request.json is not None]

    @property
    def sent(self) -> list[str]:
        """The requests until the submission was recorded, in order."""
        return [step for step in self.steps if not step.startswith(("sleep", "note", "take back"))]

    def run(self, flow: Flow[T]) -> T:
        """Drive ``flow`` to its end."""
        return drive(flow, self)

    def sleep(self, seconds: float) -> None:
        """Record a wait."""
        self.clock += seconds
        if self._steps is self.steps:
            self.sleeps.append(seconds)
        self._steps.append(f"sleep {seconds:g}")

    def slot(self) -> None:
        """Delay a submission for the account's rate limit."""
        self.clock += next(self._slots, 0.0)

    def try_link(self, url: str) -> Answer:
        """Return the response of the result URL's host."""
        self._steps.append(f"try {url.rpartition('/')[2]}")
        return self._links.pop(0) if len(self._links) > 1 else self._links[0]

    def remember(self, note: RecordSubmission) -> bool | None:
        """Record a note. A note about the video that was just submitted ends the submission."""
        self.remembered.append(note)
        if note.rejected:
            self._steps.append(f"take back {note.client_business_id}")
            return None
        if note.task is not None and note.task.status == "failed" and self._steps is self.steps:
            return None
        self.notes.append((note.client_business_id, note.video_id))
        if note.is_intent:
            self._steps.append(f"note {note.client_business_id}")
            return next(self._claims, None)
        if any(step.startswith("post ") for step in self.steps):
            self._steps = self.steps_after_order
        return None

    def answer(self, request: HttpRequest) -> Answer:
        """Return the scripted response."""
        self.requests.append(request)
        if request.method == "GET":
            business_id = request.path.removeprefix(LOOK_UP)
            self._steps.append(f"look up {business_id}")
            ordered = self._steps is self.steps_after_order
            answers = self._after_order if ordered else self._look_ups.get(business_id, [NOT_FOUND])
            return answers.pop(0) if len(answers) > 1 else answers[0]
        if request.file is not None:
            self._steps.append(f"upload {request.file.name}")
            return _next(self._uploads, request)
        assert request.json is not None
        self._steps.append(f"post {request.json['client_business_id']}")
        return _next(self._posts, request)


def drive(flow: Flow[T], service: Any) -> T:
    """Drive a flow with a service that has ``answer``, ``sleep`` and ``remember``."""
    outcome: Answer | bool | None = None
    try:
        while True:
            step = flow.send(outcome)
            outcome = None
            if isinstance(step, HttpRequest):
                outcome = service.answer(step)
            elif isinstance(step, RecordSubmission):
                outcome = service.remember(step)
            elif isinstance(step, Slot):
                service.slot()
            elif isinstance(step, TryUrl):
                outcome = service.try_link(step.url)
            else:
                assert isinstance(step, Sleep)
                assert step.seconds >= 0
                service.sleep(step.seconds)
    except StopIteration as done:
        result: T = done.value
        return result


def _next(answers: Iterator[Answer], request: HttpRequest) -> Answer:
    found = next(answers, None)
    assert found is not None, f"unexpected {request.label}"
    return found
