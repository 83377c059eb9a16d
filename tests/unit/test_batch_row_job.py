"""Look-up of a row's video after a wait: only a response, the deadline or a rejected key ends the wait."""

from __future__ import annotations

from typing import Any, cast

import pytest

from airflow_provider_toapis.api.responses import VideoTask, parse_video_task
from airflow_provider_toapis.batch.manifest_entry import ManifestEntry
from airflow_provider_toapis.batch.row_job import RowJob, RowJobOptions
from airflow_provider_toapis.exceptions import (
    ToAPIsAuthError,
    ToAPIsConnectionError,
    ToAPIsError,
    ToAPIsNotFoundError,
    ToAPIsQuotaError,
    ToAPIsRateLimitError,
    ToAPIsRequestError,
    ToAPIsServerError,
)
from tests.catalog_entries import entry, submission
from tests.clock import replace_clock

NOW = 1_790_000_000.0
REJECTED = ToAPIsAuthError("GET returned 401.", http_status=401)
NOT_FOUND = ToAPIsNotFoundError("GET returned 404.", http_status=404)
LOOK_UP_ERRORS = [
    NOT_FOUND,
    ToAPIsConnectionError("timed out"),
    ToAPIsServerError("502"),
    ToAPIsRateLimitError("429", retry_after=61),
    ToAPIsRequestError("400"),
]


class Service:
    """Returns scripted responses to look-ups in order; the last one is repeated."""

    def __init__(self, *responses: VideoTask | ToAPIsError) -> None:
        self.responses = list(responses)
        self.looked_up = 0

    def get_video(self, video_id: str, **_: object) -> VideoTask:
        self.looked_up += 1
        response = self.responses.pop(0) if len(self.responses) > 1 else self.responses[0]
        if isinstance(response, ToAPIsError):
            raise response
        return response


@pytest.fixture(autouse=True)
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    replace_clock(monkeypatch, lambda: NOW, slept.append)
    return slept


def row_job(service: Service) -> RowJob:
    options = RowJobOptions(identity=(), max_generations=1, max_bytes=1, timeout=1800)
    unused = cast("Any", None)
    client = cast("Any", service)
    return RowJob(client, unused, unused, unused, options, new_client=lambda: client)


def row(*, left: float) -> ManifestEntry:
    submitted = submission("submitted", video_id="video_1", client_business_id="af-1", deadline=NOW + left)
    return entry("shoe", "submitted", submission=submitted)


@pytest.mark.parametrize("error", LOOK_UP_ERRORS, ids=lambda error: type(error).__name__)
def test_look_up_error_keeps_row_waiting_until_its_deadline(error: ToAPIsError) -> None:
    waiting = row(left=1)
    assert row_job(Service(error)).collect(waiting).entry == waiting
    assert row_job(Service(error)).collect(row(left=0)).entry.state == (
        "failed" if error is NOT_FOUND else "interrupted"
    )


@pytest.mark.parametrize("error", [REJECTED, ToAPIsQuotaError("402", http_status=402)], ids=["401", "402"])
def test_single_rejected_look_up_does_not_end_the_wait(error: ToAPIsError, slept: list[float]) -> None:
    running = parse_video_task({"id": "video_1", "status": "in_progress"})
    assert running is not None
    waiting = row(left=1000)
    assert row_job(Service(error, running)).collect(waiting).entry == waiting
    assert slept == [10]


def test_permanently_rejected_key_interrupts_every_row_and_pauses_only_once(slept: list[float]) -> None:
    service = Service(REJECTED)
    job = row_job(service)
    ended = [job.collect(row(left=1000)).entry for _ in range(3)]
    assert [entry.state for entry in ended] == ["interrupted"] * 3
    assert all(entry.submission and "video_1" in str(entry.submission.reason) for entry in ended)
    assert (service.looked_up, slept) == (4, [10])
