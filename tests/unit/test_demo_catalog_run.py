from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import pytest

from dev.airflow.airflow_instance import AirflowInstance
from dev.demo.catalog_run import CatalogRun, CatalogRunError

LAMP = {
    "sku": "LAMP-01",
    "name": "Lamp",
    "prompt": "The lamp lights up",
    "image": "http://127.0.0.1/lamp.jpg",
    "duration": 10,
}


class RecordedAirflow:
    """Returns the recorded responses of Airflow at one moment of a run with one product."""

    def __init__(self, states: dict[str, str | None], billing: dict[str, str] | None = None) -> None:
        self.states = states
        self.billing = billing

    def run_state(self, dag_id: str, run_id: str) -> str:
        return "failed" if "failed" in self.states.values() else "success"

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        return [
            {
                "task_id": task_id,
                "map_index": -1 if task_id == "read_feed" else 0,
                "state": state,
                "try_number": 1,
                "start_date": "2026-11-23T18:00:00Z" if state else None,
                "end_date": "2026-11-23T18:00:21.500000Z",
            }
            for task_id, state in self.states.items()
        ]

    def xcom(self, dag_id: str, run_id: str, task_id: str, *, map_index: int = -1) -> object:
        if task_id == "read_feed":
            return [LAMP]
        return {
            "id": "video_1",
            "model": "grok-video-1.5",
            "output_path": "/out/LAMP-01.mp4",
            "size": 1,
            "sha256": "",
            "billing": self.billing,
        }

    def check_running(self) -> None:
        pass

    def task_log_entries(
        self, dag_id: str, run_id: str, task_id: str, *, map_index: int, try_number: int
    ) -> list[dict[str, Any]]:
        chain = [("ToAPIsQuotaError", "No money."), ("HTTPStatusError", "400")]
        details = [{"exc_type": exc_type, "exc_value": exc_value} for exc_type, exc_value in chain]
        return [{"event": "all is well"}, {"event": "Task failed", "error_detail": details}]


def recorded(states: dict[str, str | None], billing: dict[str, str] | None = None) -> CatalogRun:
    return CatalogRun(cast("AirflowInstance", RecordedAirflow(states, billing)), "manual__1")


@pytest.mark.parametrize(
    ("making", "publishing", "status"),
    [
        (None, None, "in Airflow's queue"),
        ("queued", None, "in Airflow's queue again"),
        ("running", None, "calling ToAPIs"),
        ("deferred", None, "waiting in the triggerer, without a worker slot"),
        ("up_for_retry", None, "failed, will be retried"),
        ("failed", "upstream_failed", "failed"),
        ("success", None, "video saved"),
        ("success", "running", "publishing to the shop"),
        ("success", "failed", "failed"),
        ("success", "success", "done"),
    ],
)
def test_progress_shows_the_status_of_a_product(making: str | None, publishing: str | None, status: str) -> None:
    states = {"read_feed": "success", "make_video": making, "publish_video": publishing}

    (product,) = recorded(states).progress()

    assert product.status == status
    assert product.finished == (status == "done")


def test_progress_is_empty_before_the_feed_is_read() -> None:
    assert recorded({"read_feed": "running"}).progress() == []


@pytest.mark.parametrize(
    ("billing", "cost"),
    [
        ({"status": "settled", "credits": "20", "cost_usd": "0.1"}, Decimal("0.1")),
        ({"status": "pending"}, None),
        (None, None),
    ],
)
def test_cost_is_the_settled_cost_or_unknown(billing: dict[str, str] | None, cost: Decimal | None) -> None:
    done: dict[str, str | None] = dict.fromkeys(("read_feed", "make_video", "publish_video"), "success")

    (video,) = recorded(done, billing).videos()

    assert video.cost == cost
    assert video.waited == 21.5
    assert video.file == Path("/out/LAMP-01.mp4")


def test_failed_run_reports_task_product_and_reason() -> None:
    run = recorded({"read_feed": "success", "make_video": "failed", "publish_video": "upstream_failed"})

    with pytest.raises(CatalogRunError) as raised:
        run.follow(lambda _: None)

    assert str(raised.value) == "Task make_video of Lamp failed: No money. (ToAPIsQuotaError)"
