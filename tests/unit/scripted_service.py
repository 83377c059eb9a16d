"""A fake service with scripted responses. It runs the flows without I/O, and records their steps."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from airflow_provider_toapis.api.error_responses import HttpResponse
from airflow_provider_toapis.api.flows import Flow, HttpRequest, RecordSubmission, Sleep, Slot, TryUrl
from airflow_provider_toapis.exceptions import ToAPIsConnectionError

T = TypeVar("T")
Response = HttpResponse | ToAPIsConnectionError

MODEL = "grok-video-1.5-preview"
LOOK_UP = "/v1/videos/generations/"


def response(status: int, body: object = b"", **headers: str) -> HttpResponse:
    """Return a response. Header names have ``_`` instead of ``-``."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HttpResponse(status, {name.replace("_", "-"): value for name, value in headers.items()}, raw)


def task(status: str = "queued", video_id: str = "video_1", **fields: Any) -> HttpResponse:
    """Return a response with a task of ``MODEL``."""
    return response(200, {"id": video_id, "model": MODEL, "status": status, **fields})


def rejection(status: int, code: str, message: str = "", **headers: str) -> HttpResponse:
    """Return a response with the documented error envelope."""
    return response(status, {"error": {"code": code, "message": message}}, **headers)


NOT_FOUND = rejection(404, "task_not_found", "Task not found")
NOT_SENT = ToAPIsConnectionError("POST got no response (ConnectError).", sent=False)
TIMED_OUT = ToAPIsConnectionError("POST got no response (ReadTimeout).", sent=True)
HTML_PAGE = response(502, b"<html>bad gateway</html>")
UPLOADED = response(200, {"success": True, "data": {"id": "u", "url": "https://files.toapis.com/uploads/shoe.jpg"}})


class ScriptedService:
    """Responds to look-ups, uploads and submissions from lists.

    :param look_ups: Responses by client_business_id, in order; the last one is repeated. Other ids are not found.
    :param posts: Responses to submissions, in order. A further submission fails the test.
    :param uploads: Responses to uploads, in order. A further upload fails the test.
    :param after_submission: Responses to look-ups after the submission, in order; the last one is repeated.
    :param url_responses: Responses of the result URLs' host, in order; the last one is repeated.
    :param claims: Whether each submission is allowed, in order; later ones are allowed.
    :param slots: Seconds that each submission waits for the account's rate limit, in order.
    """

    def __init__(
        self,
        *,
        look_ups: Mapping[str, Sequence[Response]] | None = None,
        posts: Sequence[Response] = (),
        uploads: Sequence[Response] = (),
        after_submission: Sequence[Response] | None = None,
        url_responses: Sequence[Response] = (),
        claims: Sequence[bool] = (),
        slots: Sequence[float] = (),
    ) -> None:
        self._look_ups = {key: list(responses) for key, responses in (look_ups or {}).items()}
        self._posts = iter(posts)
        self._uploads = iter(uploads)
        self._after_submission = list(after_submission or [task()])
        self._url_responses = list(url_responses)
        self._claims = iter(claims)
        self._slots = iter(slots)
        #: Elapsed time in seconds.
        self.clock = 0.0
        self.all_records: list[RecordSubmission] = []
        self.requests: list[HttpRequest] = []
        self.sleeps: list[float] = []
        self.steps: list[str] = []
        self.steps_after_submission: list[str] = []
        self.records: list[tuple[str, str | None]] = []
        self._steps = self.steps

    @property
    def bodies(self) -> list[Mapping[str, Any]]:
        """The bodies of all submissions."""
        return [request.json for request in self.requests if request.json is not None]

    @property
    def sent(self) -> list[str]:
        """The requests until the submission was recorded, in order."""
        return [step for step in self.steps if not step.startswith(("sleep", "record", "withdraw"))]

    def run(self, flow: Flow[T]) -> T:
        """Run ``flow`` to its end with the scripted responses."""
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

    def try_url(self, url: str) -> Response:
        """Return the response of the result URL's host."""
        self._steps.append(f"try {url.rpartition('/')[2]}")
        return self._url_responses.pop(0) if len(self._url_responses) > 1 else self._url_responses[0]

    def record(self, record: RecordSubmission) -> bool | None:
        """Store a record. After the record of a submitted video, steps are listed in ``steps_after_submission``."""
        self.all_records.append(record)
        if record.rejected:
            self._steps.append(f"withdraw {record.client_business_id}")
            return None
        if record.task is not None and record.task.status == "failed" and self._steps is self.steps:
            return None
        self.records.append((record.client_business_id, record.video_id))
        if record.is_intent:
            self._steps.append(f"record {record.client_business_id}")
            return next(self._claims, None)
        if any(step.startswith("post ") for step in self.steps):
            self._steps = self.steps_after_submission
        return None

    def respond(self, request: HttpRequest) -> Response:
        """Return the scripted response."""
        self.requests.append(request)
        if request.method == "GET":
            key = request.path.removeprefix(LOOK_UP)
            self._steps.append(f"look up {key}")
            is_submitted = self._steps is self.steps_after_submission
            responses = self._after_submission if is_submitted else self._look_ups.get(key, [NOT_FOUND])
            return responses.pop(0) if len(responses) > 1 else responses[0]
        if request.file is not None:
            self._steps.append(f"upload {request.file.name}")
            return _next(self._uploads, request)
        assert request.json is not None
        self._steps.append(f"post {request.json['client_business_id']}")
        return _next(self._posts, request)


def drive(flow: Flow[T], service: Any) -> T:
    """Drive a flow with a service that has ``respond``, ``sleep`` and ``record``."""
    outcome: Response | bool | None = None
    try:
        while True:
            step = flow.send(outcome)
            outcome = None
            if isinstance(step, HttpRequest):
                outcome = service.respond(step)
            elif isinstance(step, RecordSubmission):
                outcome = service.record(step)
            elif isinstance(step, Slot):
                service.slot()
            elif isinstance(step, TryUrl):
                outcome = service.try_url(step.url)
            else:
                assert isinstance(step, Sleep)
                assert step.seconds >= 0
                service.sleep(step.seconds)
    except StopIteration as done:
        result: T = done.value
        return result


def _next(responses: Iterator[Response], request: HttpRequest) -> Response:
    found = next(responses, None)
    assert found is not None, f"unexpected {request.label}"
    return found
