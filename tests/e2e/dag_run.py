"""One DAG run in a real Airflow."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dev.airflow.airflow_instance import AirflowInstance


@dataclass(frozen=True)
class Run:
    """One DAG run, with the data that tests check."""

    airflow: AirflowInstance
    dag_id: str
    run_id: str
    output: Path

    def wait(self) -> str:
        """Wait until the run has ended, and return its state."""
        return self.airflow.wait_for_run(self.dag_id, self.run_id)

    def wait_until_deferred(self, task_id: str) -> None:
        """Wait until a task is deferred."""
        deadline = time.monotonic() + 240
        while self.task_instances(task_id)[0]["state"] != "deferred":
            assert time.monotonic() < deadline, self.log(task_id)
            time.sleep(0.5)

    def task_instances(self, task_id: str) -> list[dict[str, Any]]:
        """Return the instances of one task, in the order of their map indexes."""
        instances = self.airflow.task_instances(self.dag_id, self.run_id)
        return [instance for instance in instances if instance["task_id"] == task_id]

    def xcom(self, task_id: str, map_index: int = -1) -> Any:
        """Return the return value of a task."""
        return self.airflow.xcom(self.dag_id, self.run_id, task_id, map_index=map_index)

    def log(self, task_id: str, map_index: int = -1) -> str:
        """Return the log of a task's first attempt."""
        return self.airflow.task_log(self.dag_id, self.run_id, task_id, map_index=map_index)
