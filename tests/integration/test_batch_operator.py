"""A catalogue over real HTTP: each row is made once, kept, and made again only when it changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_toapis.operators.batch import ToAPIsVideoBatchOperator
from tests.airflow_task import FakeTaskInstance, attempt
from tests.integration.conftest import PROMPT, Clock
from tests.integration.emulator_process import EmulatorProcess

BOTH_WAYS = pytest.mark.parametrize("deferrable", [True, False], ids=["deferrable", "in the worker"])


class Shop:
    """Runs the nightly batch of a shop: each run is a new Airflow run, each attempt a new try."""

    def __init__(self, picture: str, folder: Path) -> None:
        self.folder = folder
        self.picture = picture
        self.rows: Any = []
        self.nights = 0
        self.ti = FakeTaskInstance()

    def feed(self, count: int) -> None:
        self.rows = [{"key": f"sku-{n}", "prompt": f"{PROMPT} {n}", "image": self.picture} for n in range(count)]

    def writes(self, **fields: Any) -> Callable[[], ToAPIsVideoBatchOperator]:
        defaults: dict[str, Any] = {
            "task_id": "catalogue",
            "requests": self.rows,
            "output_path": str(self.folder),
            "deferrable": False,
        }
        return lambda: ToAPIsVideoBatchOperator(**(defaults | fields))

    def night(self, **fields: Any) -> Any:
        self.nights += 1
        self.ti = FakeTaskInstance(task_id="catalogue", run_id=f"scheduled__{self.nights}")
        return attempt(self.writes(**fields), self.ti)

    def retry(self, **fields: Any) -> Any:
        return attempt(self.writes(**fields), self.ti.next_attempt())

    def manifest(self) -> dict[str, dict[str, Any]]:
        lines = (self.folder / "manifest.jsonl").read_text().splitlines()
        entries = [json.loads(line) for line in lines]
        assert len({entry["key"] for entry in entries}) == len(entries)
        return {entry["key"]: entry for entry in entries}


@pytest.fixture
def shop(picture: str, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Shop:
    # The loop of the triggerer really waits for it.
    monkeypatch.setattr("airflow_provider_toapis.operators.batch.SECONDS_BETWEEN_WAKES", 0.0)
    return Shop(picture, tmp_path / "videos")


def billed(service: EmulatorProcess) -> list[dict[str, Any]]:
    return list(service.ledger()["billed"])


class TestCatalogue:
    @BOTH_WAYS
    def test_every_row_is_made_once_and_kept(self, service: EmulatorProcess, shop: Shop, deferrable: bool) -> None:
        shop.feed(12)
        result = shop.night(deferrable=deferrable)
        assert (result["made"], result["skipped"], result["failed"]) == (12, 0, 0)
        assert result["cost_usd"] == "1.20"
        manifest = shop.manifest()
        assert {entry["video_id"] for entry in manifest.values()} == {video["id"] for video in billed(service)}
        for key, entry in manifest.items():
            content = (shop.folder / f"{key}.mp4").read_bytes()
            assert (entry["state"], entry["file"], entry["size"]) == ("kept", f"{key}.mp4", len(content))
            assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        assert "sku-11" in Path(result["index"]).read_text()
        assert list((shop.folder / ".manifest").glob("**/*.jsonl")) == []

    def test_second_night_bills_nothing(self, service: EmulatorProcess, shop: Shop) -> None:
        shop.feed(5)
        shop.night()
        service.clear_requests()
        result = shop.night()
        assert (result["made"], result["skipped"]) == (0, 5)
        assert len(billed(service)) == 5
        assert set(service.request_counts()) <= {"pricing"}
