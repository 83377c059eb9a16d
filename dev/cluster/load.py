"""Measure how much of a cluster's resources a video uses: worker seconds, database writes, processor time.

``make bench-cluster``, or ``python -m dev.cluster.load [--quick]``, makes the same number of videos twice: first with
mapped tasks, each of which submits one video, defers and saves the video, and then with one batch. The usage of an idle
cluster during the same length of time is subtracted.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import sqlalchemy

from dev.airflow.processes import ProcessError
from dev.benchmarks._measuring import is_quick
from dev.cluster.cluster import Cluster
from tests.integration.emulator_process import EmulatorProcess

_DAGS = Path(__file__).parents[2] / "tests/cluster/dags"
#: In seconds: how long a generation takes, how long the idle cluster is measured, and how often the running tasks are
#: checked.
LATENCY, IDLE, BEAT = 60.0, 60.0, 0.1

#: The log line of Celery when a task has left its worker slot.
_SLOT_FREED = re.compile(r"Task execute_workload\S+ succeeded in ([0-9.]+)s")
_WRITES = sqlalchemy.text("SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables")
_COMMITS = sqlalchemy.text("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")
_RUNNING = sqlalchemy.text(
    "SELECT count(*) FILTER (WHERE next_method IS NULL), count(*) FILTER (WHERE next_method IS NOT NULL)"
    " FROM task_instance WHERE state = 'running' AND task_id IN ('make_video', 'make_videos')"
)


@dataclass(frozen=True)
class Usage:
    """Resources that the cluster has used since its start, or between two moments.

    :param seconds: Wall-clock time in seconds.
    :param slots: Seconds for which worker slots were occupied, as Celery logs them. They include the start of each
        task's process and the wait for a core.
    :param rows: Rows written to the database.
    :param commits: Transactions of the database.
    :param cpu: Processor time of each part in seconds.
    """

    seconds: float
    slots: float
    rows: float
    commits: float
    cpu: Mapping[str, float]

    @classmethod
    def up_to_now(cls, cluster: Cluster, database: sqlalchemy.Engine) -> Self:
        """Return the usage since the cluster started."""
        with database.connect() as connection:
            connection.execute(sqlalchemy.text("SELECT pg_stat_force_next_flush()"))
            rows, commits = connection.execute(_WRITES).scalar_one(), connection.execute(_COMMITS).scalar_one()
        logs = "".join(cluster.airflow.component_log(name) for name in cluster.parts if name.startswith("worker"))
        slots = sum(map(float, _SLOT_FREED.findall(logs)))
        return cls(time.monotonic(), slots, float(rows), float(commits), cluster.processor_seconds())

    def minus(self, other: Usage, times: float = 1.0) -> Usage:
        """Return this usage minus another usage, which is multiplied by ``times``."""
        return Usage(
            self.seconds - times * other.seconds,
            self.slots - times * other.slots,
            self.rows - times * other.rows,
            self.commits - times * other.commits,
            {part: seconds - times * other.cpu[part] for part, seconds in self.cpu.items()},
        )


@dataclass(frozen=True)
class Running:
    """Total seconds of all tasks in the state running: before they were deferred, and after they were resumed."""

    submitting: float
    saving: float


class Bench:
    """Measures the idle cluster, and then one run after the other.

    :param directory: Directory for videos and feeds.
    :param videos: Number of videos in each run.
    """

    def __init__(self, cluster: Cluster, emulator: EmulatorProcess, directory: Path, videos: int) -> None:
        self._cluster = cluster
        self._directory = directory
        self._videos = videos
        self._image = f"{emulator.url}/shop/images/sneaker.jpg"
        self._database = sqlalchemy.create_engine(cluster.postgres.url)

    def run(self) -> None:
        """Measure everything and print it. Use the last line of each run to size a deployment."""
        for dag_id in ("cluster_videos", "cluster_batch"):
            self._cluster.airflow.wait_for_dag(dag_id)
        before = self._now()
        time.sleep(IDLE)
        idle = self._now().minus(before)
        print(
            f"idle: {_parts(idle.cpu, idle.seconds)} of a core; {idle.rows / idle.seconds:.1f} rows written per second"
        )
        mapped = {"image": self._image, "directory": str(self._directory / "mapped"), "videos": self._videos}
        self._measure("mapped tasks", "cluster_videos", mapped, idle)
        self._measure(
            "one batch", "cluster_batch", {"feed": self._feed(), "directory": str(self._directory / "batch")}, idle
        )
        self._database.dispose()

    def _measure(self, name: str, dag_id: str, conf: Mapping[str, object], idle: Usage) -> None:
        before = self._now()
        running = self._follow(dag_id, self._cluster.airflow.trigger(dag_id, conf))
        gross = self._now().minus(before)
        net = gross.minus(idle, gross.seconds / idle.seconds)
        each = 1 / self._videos
        print(f"{name}: {_parts(net.cpu, self._videos)} s of processor time per video")
        print(
            f"{name}: {self._videos} videos in {gross.seconds:.0f} s; per video"
            f" {net.slots * each:.2f} s of a worker slot (running {running.submitting * each:.2f} s to submit and"
            f" {running.saving * each:.2f} s to save),"
            f" {net.rows * each:.1f} rows written in {net.commits * each:.1f} transactions,"
            f" {sum(net.cpu.values()) * each:.2f} s of processor time",
            flush=True,
        )

    def _follow(self, dag_id: str, run_id: str) -> Running:
        """Wait until a run ends, and return for how long its tasks were running.

        :raises ProcessError: The run failed.
        """
        submitting = saving = 0.0
        checked_at, next_state_check = time.monotonic(), 0.0
        while True:
            with self._database.connect() as connection:
                submitters, savers = connection.execute(_RUNNING).one()
            now = time.monotonic()
            submitting += submitters * (now - checked_at)
            saving += savers * (now - checked_at)
            checked_at = now
            if now >= next_state_check:
                next_state_check = now + 2
                state = self._cluster.airflow.run_state(dag_id, run_id)
                if state == "success":
                    return Running(submitting, saving)
                if state == "failed":
                    raise ProcessError(f"Cannot measure: run {run_id} of {dag_id} failed.")
            time.sleep(BEAT)

    def _feed(self) -> str:
        rows = [{"key": f"sku-{n:04}", "prompt": f"It turns, {n}", "image": self._image} for n in range(self._videos)]
        feed = self._directory / "feed.jsonl"
        feed.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        return str(feed)

    def _now(self) -> Usage:
        return Usage.up_to_now(self._cluster, self._database)


def main() -> None:
    """Run the benchmark once and print the figures per video."""
    videos = 10 if is_quick("What a video costs a cluster.") else 100
    with (
        tempfile.TemporaryDirectory() as directory,
        EmulatorProcess(latency=LATENCY, latency_spread=0.2, submit_rps=0, query_rps=0, balance=1000) as emulator,
    ):
        connection = {"conn_type": "toapis", "host": emulator.url, "password": "sk-benchmark"}
        with Cluster(Path(directory), _DAGS, connections={"toapis_default": connection}) as cluster:
            Bench(cluster, emulator, Path(directory), videos).run()


def _parts(cpu: Mapping[str, float], divisor: float) -> str:
    return ", ".join(f"{part} {seconds / divisor:.3f}" for part, seconds in cpu.items())


if __name__ == "__main__":
    main()
