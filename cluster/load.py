"""What a video costs a cluster: worker seconds, database writes, processor time; ``make cluster``'s parts, undisturbed.

``make bench-cluster``, or ``python -m cluster.load [--quick]``: mapped tasks order videos, are deferred,
and keep them. What the idle cluster does in as much time is taken off.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy

from benchmarks._measuring import is_quick
from cluster.cluster import Cluster
from tests.integration.emulator_process import EmulatorProcess

_DAGS = Path(__file__).parent.parent / "tests/cluster/dags"
_DAG_ID = "cluster_videos"
#: Seconds that a video takes, that the idle cluster is watched for, and from one look at the tasks to the next.
LATENCY, IDLE, BEAT = 60.0, 60.0, 0.1

_WRITES = sqlalchemy.text("SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables")
_COMMITS = sqlalchemy.text("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")
_RUNNING = sqlalchemy.text(
    "SELECT count(*) FILTER (WHERE next_method IS NULL), count(*) FILTER (WHERE next_method IS NOT NULL)"
    " FROM task_instance WHERE state = 'running'"
)


@dataclass(frozen=True)
class Reading:
    """What was used up to a moment."""

    at: float
    rows: float
    commits: float
    cpu: dict[str, float]


def main() -> None:
    """Run once and print the figures per video."""
    videos = 10 if is_quick("What a video costs a cluster.") else 200
    with (
        tempfile.TemporaryDirectory() as folder,
        EmulatorProcess(latency=LATENCY, latency_spread=0.2, submit_rps=0, query_rps=0, balance=1000) as emulator,
    ):
        connection = {"conn_type": "toapis", "host": emulator.url, "password": "sk-benchmark"}
        with Cluster(Path(folder), _DAGS, connections={"toapis_default": connection}) as cluster:
            _measure(cluster, emulator, Path(folder, "videos"), videos)


def _measure(cluster: Cluster, emulator: EmulatorProcess, output: Path, videos: int) -> None:
    cluster.airflow.wait_for_dag(_DAG_ID)
    database = sqlalchemy.create_engine(cluster.postgres.url)
    idle_from = _reading(cluster, database)
    time.sleep(IDLE)
    idle_to = _reading(cluster, database)
    conf = {"picture": f"{emulator.url}/shop/images/sneaker.jpg", "folder": str(output), "videos": videos}
    run_id = cluster.airflow.trigger(_DAG_ID, conf)
    ordering, keeping, looked_at, look_again = 0.0, 0.0, time.monotonic(), 0.0
    while True:
        with database.connect() as connection:
            orders, keeps = connection.execute(_RUNNING).one()
        now = time.monotonic()
        ordering, keeping, looked_at = ordering + orders * (now - looked_at), keeping + keeps * (now - looked_at), now
        if now >= look_again:
            if cluster.airflow.run_state(_DAG_ID, run_id) == "success":
                break
            look_again = now + 2
        time.sleep(BEAT)
    end = _reading(cluster, database)
    database.dispose()
    span = end.at - idle_to.at
    share = span / (idle_to.at - idle_from.at)
    rows = end.rows - idle_to.rows - share * (idle_to.rows - idle_from.rows)
    commits = end.commits - idle_to.commits - share * (idle_to.commits - idle_from.commits)
    cpu = {
        part: (end.cpu[part] - idle_to.cpu[part] - share * (idle_to.cpu[part] - idle_from.cpu[part])) / videos
        for part in end.cpu
    }
    print(", ".join(f"{part} {seconds:.2f} s" for part, seconds in cpu.items()) + " of processor time per video")
    print(
        f"cluster: {videos} videos in {span:.0f} s; per video {ordering / videos:.2f} s of a worker slot to order and"
        f" {keeping / videos:.2f} s to keep, {rows / videos:.0f} rows written in {commits / videos:.0f} transactions,"
        f" {sum(cpu.values()):.2f} s of processor time"
    )


def _reading(cluster: Cluster, database: sqlalchemy.Engine) -> Reading:
    with database.connect() as connection:
        connection.execute(sqlalchemy.text("SELECT pg_stat_force_next_flush()"))
        rows, commits = connection.execute(_WRITES).scalar_one(), connection.execute(_COMMITS).scalar_one()
    return Reading(time.monotonic(), float(rows), float(commits), cluster.processor_seconds())


if __name__ == "__main__":
    main()
