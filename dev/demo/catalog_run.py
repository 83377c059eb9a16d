"""One run of the product catalog DAG: start it, follow it over Airflow's REST API, and collect its videos."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dev.airflow.airflow_instance import AirflowInstance

DAG_ID = "example_product_catalog"

_IN_QUEUE = "in Airflow's queue"

_STATUS_TEXTS = {
    "scheduled": _IN_QUEUE,
    "queued": _IN_QUEUE,
    "restarting": "restarting",
    "up_for_retry": "failed, will be retried",
    "upstream_failed": "skipped, because an earlier step failed",
    "deferred": "waiting in the triggerer, without a worker slot",
    "failed": "failed",
    "success": "done",
}


class CatalogRunError(Exception):
    """The DAG run failed. The message names the failed tasks and the reasons."""


@dataclass(frozen=True)
class ProductProgress:
    """Progress of one product."""

    name: str
    status: str
    finished: bool


@dataclass(frozen=True)
class ProductVideo:
    """One product and its video.

    :param duration: Requested length in seconds.
    :param waited: Seconds from the start of the task to its end.
    :param cost: Cost in US dollars; None if the service has not settled it yet.
    :param size: Size of ``file`` in bytes.
    """

    sku: str
    name: str
    prompt: str
    image: str
    video_id: str
    model: str
    duration: int
    waited: float
    cost: Decimal | None
    file: Path
    size: int
    sha256: str


@dataclass(frozen=True)
class CatalogRun:
    """A run of the DAG in an Airflow instance.

    :param airflow: The instance.
    :param run_id: Id of the run, which :meth:`start` has triggered.
    """

    airflow: AirflowInstance
    run_id: str

    @classmethod
    def start(cls, airflow: AirflowInstance, *, feed: str, output_directory: Path) -> CatalogRun:
        """Start a run that reads the products from ``feed`` and saves the videos in ``output_directory``."""
        run_id = airflow.trigger(DAG_ID, {"feed": feed, "output_directory": str(output_directory)})
        return cls(airflow, run_id)

    def follow(self, report: Callable[[list[ProductProgress]], None], interval: float = 1.0) -> None:
        """Report the progress of all products every ``interval`` seconds until the run has ended.

        :raises CatalogRunError: The run failed.
        :raises ProcessError: A component of Airflow ended unexpectedly.
        """
        while (state := self.airflow.run_state(DAG_ID, self.run_id)) in {"queued", "running"}:
            self.airflow.check_running()
            report(self.progress())
            time.sleep(interval)
        report(self.progress())
        if state != "success":
            raise CatalogRunError("\n".join(self._failures()))

    def progress(self) -> list[ProductProgress]:
        """Return the progress of each product; empty until the product feed has been read."""
        instances = self._instances()
        if instances.get(("read_feed", -1), {}).get("state") != "success":
            return []
        return [
            _product_progress(
                product["name"], instances.get(("make_video", index)), instances.get(("publish_video", index))
            )
            for index, product in enumerate(self._products())
        ]

    def videos(self) -> list[ProductVideo]:
        """Return the videos of a successful run, in the order of the product feed."""
        instances = self._instances()
        return [
            self._video(index, product, instances["make_video", index])
            for index, product in enumerate(self._products())
        ]

    def _video(self, index: int, product: dict[str, Any], instance: dict[str, Any]) -> ProductVideo:
        saved = self.airflow.xcom(DAG_ID, self.run_id, "make_video", map_index=index)
        cost = (saved["billing"] or {}).get("cost_usd")
        return ProductVideo(
            sku=product["sku"],
            name=product["name"],
            prompt=product["prompt"],
            image=product["image"],
            video_id=saved["id"],
            model=saved["model"],
            duration=int(product["duration"]),
            waited=_seconds_between(instance["start_date"], instance["end_date"]),
            cost=None if cost is None else Decimal(cost),
            file=Path(saved["output_path"]),
            size=saved["size"],
            sha256=saved["sha256"],
        )

    def _products(self) -> list[dict[str, Any]]:
        products: list[dict[str, Any]] = self.airflow.xcom(DAG_ID, self.run_id, "read_feed")
        return products

    def _instances(self) -> dict[tuple[str, int], dict[str, Any]]:
        listing = self.airflow.task_instances(DAG_ID, self.run_id)
        return {(instance["task_id"], instance["map_index"]): instance for instance in listing}

    def _failures(self) -> Iterator[str]:
        for (task_id, map_index), instance in self._instances().items():
            if instance["state"] == "failed":
                entries = self.airflow.task_log_entries(
                    DAG_ID, self.run_id, task_id, map_index=map_index, try_number=instance["try_number"]
                )
                product = "" if map_index < 0 else f" of {self._products()[map_index]['name']}"
                yield f"Task {task_id}{product} failed: {_reason(entries)}"


def _reason(log_entries: list[dict[str, Any]]) -> str:
    """Return the last exception in a task's log, or the log's last line if it contains no exception."""
    for entry in reversed(log_entries):
        if chain := entry.get("error_detail"):
            # The first entry is the exception itself; its causes follow.
            return f"{chain[0]['exc_value']} ({chain[0]['exc_type']})"
    return str(log_entries[-1]["event"]) if log_entries else "its log is empty"


def _product_progress(name: str, making: dict[str, Any] | None, publishing: dict[str, Any] | None) -> ProductProgress:
    making_state = making["state"] if making else None
    publishing_state = publishing["state"] if publishing else None
    if making_state != "success":
        status = _status_text(making_state, when_running="calling ToAPIs")
        if status == _IN_QUEUE and making and making["start_date"]:
            status = f"{status} again"
    elif publishing_state in {None, "scheduled", "queued"}:
        status = "video saved"
    else:
        status = _status_text(publishing_state, when_running="publishing to the shop")
    return ProductProgress(name, status, finished=making_state == publishing_state == "success")


def _status_text(state: str | None, when_running: str) -> str:
    if state == "running":
        return when_running
    return _STATUS_TEXTS.get(state or "queued", str(state))


def _seconds_between(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
