"""Batches save their billed videos although the connection is broken for a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_toapis.api.responses import VideoTask
from airflow_provider_toapis.batch.manifest_entry import ManifestEntry
from airflow_provider_toapis.batch.row_job import RowJob
from airflow_provider_toapis.batch.transitions import Outcome
from airflow_provider_toapis.operators.batch import ToAPIsVideoBatchOperator
from tests.integration.conftest import Clock, connect
from tests.integration.emulator_process import EmulatorProcess
from tests.integration.test_batch_operator import Shop, shop, submission_count

__all__ = ["shop"]

BreakConnection = Callable[[dict[str, Any] | None, float], None]
EMPTY_KEY: dict[str, Any] = {"password": ""}


@pytest.fixture
def break_connection(service: EmulatorProcess, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> BreakConnection:
    """Return a function that changes or deletes the connection for some seconds."""

    def break_for(fields: dict[str, Any] | None, seconds: float) -> None:
        since = clock.time()
        if fields is None:
            monkeypatch.delenv("AIRFLOW_CONN_TOAPIS_DEFAULT")
        else:
            connect(monkeypatch, service, **fields)

        def restore(_: float) -> None:
            if clock.time() - since >= seconds:
                connect(monkeypatch, service)

        clock.on_sleep = restore

    return break_for


def after_first(monkeypatch: pytest.MonkeyPatch, method: str, action: Callable[[], None], *, before: bool) -> None:
    """Call ``action`` before or after the first call of one of the operator's methods."""
    original = getattr(ToAPIsVideoBatchOperator, method)
    calls: list[None] = []

    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        if before and len(calls) == 1:
            action()
        result = original(self, *args, **kwargs)
        if not before and len(calls) == 1:
            action()
        return result

    monkeypatch.setattr(ToAPIsVideoBatchOperator, method, wrapped)


@pytest.mark.parametrize("case", [(EMPTY_KEY, True), (EMPTY_KEY, False), (None, True), (None, False)])
def test_videos_are_saved_after_the_connection_was_broken(
    service: EmulatorProcess,
    shop: Shop,
    break_connection: BreakConnection,
    monkeypatch: pytest.MonkeyPatch,
    case: tuple[dict[str, Any] | None, bool],
) -> None:
    shop.feed(3)
    fields, deferrable = case
    method = "_resume" if deferrable else "_wait_until_some_final"
    after_first(monkeypatch, method, lambda: break_connection(fields, 30), before=deferrable)
    assert shop.run_nightly(deferrable=deferrable)["saved"] == 3
    assert submission_count(service) == 3


def test_rotated_api_key_is_read_again(
    service: EmulatorProcess, shop: Shop, break_connection: BreakConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.feed(3)
    after_first(
        monkeypatch, "_resume", lambda: break_connection({"password": "sk-old-0123456789abcdef"}, 5), before=True
    )
    assert shop.run_nightly(deferrable=True)["saved"] == 3
    assert submission_count(service) == 3


@pytest.mark.parametrize("deferrable", [True, False])
def test_fresh_result_url_is_looked_up_until_the_deadline(
    service: EmulatorProcess, shop: Shop, monkeypatch: pytest.MonkeyPatch, deferrable: bool
) -> None:
    shop.feed(1)
    save = RowJob._save
    calls: list[None] = []

    def save_with_faults(self: RowJob, entry: ManifestEntry, task: VideoTask) -> Outcome:
        if not calls:
            service.add_fault(on="result", kind="status", status=403, times=1)
            service.add_fault(on="status", kind="status", status=503, times=12)
        calls.append(None)
        return save(self, entry, task)

    monkeypatch.setattr(RowJob, "_save", save_with_faults)
    assert shop.run_nightly(deferrable=deferrable)["saved"] == 1
    assert len(calls) > 1
    assert submission_count(service) == 1
