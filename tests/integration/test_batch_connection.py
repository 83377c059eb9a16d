"""A batch whose connection breaks for a while after its videos are billed: they are saved all the same."""

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
from tests.integration.test_batch_operator import Shop, ordered, shop

__all__ = ["shop"]

Break = Callable[[dict[str, Any] | None, float], None]
EMPTY_KEY: dict[str, Any] = {"password": ""}


@pytest.fixture
def breaks(service: EmulatorProcess, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Break:
    """Give the connection other fields, or delete it, for some seconds."""

    def break_for(fields: dict[str, Any] | None, seconds: float) -> None:
        since = clock.time()
        if fields is None:
            monkeypatch.delenv("AIRFLOW_CONN_TOAPIS_DEFAULT")
        else:
            connect(monkeypatch, service, **fields)

        def mend(_: float) -> None:
            if clock.time() - since >= seconds:
                connect(monkeypatch, service)

        clock.on_sleep = mend

    return break_for


def after_first(monkeypatch: pytest.MonkeyPatch, method: str, action: Callable[[], None], *, before: bool) -> None:
    """Do something before or after the first call of one of the operator's methods."""
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
def test_videos_are_saved(
    service: EmulatorProcess,
    shop: Shop,
    breaks: Break,
    monkeypatch: pytest.MonkeyPatch,
    case: tuple[dict[str, Any] | None, bool],
) -> None:
    shop.feed(3)
    fields, deferrable = case
    method = "_resume" if deferrable else "_wait_until_some_final"
    after_first(monkeypatch, method, lambda: breaks(fields, 30), before=deferrable)
    assert shop.night(deferrable=deferrable)["saved"] == 3
    assert ordered(service) == 3


def test_key_that_is_rotated_is_read_again(
    service: EmulatorProcess, shop: Shop, breaks: Break, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.feed(3)
    after_first(monkeypatch, "_resume", lambda: breaks({"password": "sk-old-0123456789abcdef"}, 5), before=True)
    assert shop.night(deferrable=True)["saved"] == 3
    assert ordered(service) == 3


@pytest.mark.parametrize("deferrable", [True, False])
def test_fresh_result_url_is_looked_up_until_the_deadline(
    service: EmulatorProcess, shop: Shop, monkeypatch: pytest.MonkeyPatch, deferrable: bool
) -> None:
    shop.feed(1)
    fetched = RowJob._save
    calls: list[None] = []

    def troubled(self: RowJob, entry: ManifestEntry, task: VideoTask) -> Outcome:
        if not calls:
            service.add_fault(on="result", kind="status", status=403, times=1)
            service.add_fault(on="status", kind="status", status=503, times=12)
        calls.append(None)
        return fetched(self, entry, task)

    monkeypatch.setattr(RowJob, "_save", troubled)
    assert shop.night(deferrable=deferrable)["saved"] == 1
    assert len(calls) > 1
    assert ordered(service) == 1
