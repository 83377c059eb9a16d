"""Measure 2,000 waiting videos in the triggerer of a real Airflow, with its supervisor, logs and metadata database.

``python -m dev.benchmarks.triggerer [--quick]`` writes the tasks into the database in the state deferred. The
triggerer's capacity is raised accordingly. Its limit of open files is raised as well, because each task has a log file.
"""

from __future__ import annotations

import re
import resource
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from dev.airflow.airflow_instance import AirflowInstance
from dev.benchmarks._measuring import POLL_INTERVAL, RETRY_TIMEOUT, busiest_second, is_quick
from dev.benchmarks._stub_service import StubService, Video
from tests.e2e.deferring import DeferredVideos

_DAG = Path(__file__).parents[2] / "tests/e2e/dags/deferred_videos.py"
_MODEL = "triggerer"
_CONN_ID = "toapis_default"
#: Maximum open files of the triggerer in addition to one log file per task.
_SPARE_FILES = 200
#: Extra capacity, because a triggerer without free capacity keeps logging that it is full.
_SPARE_TRIGGERS = 100


@dataclass(frozen=True)
class Size:
    """Size of the measurement.

    :param starting: Seconds for Airflow to start all triggers.
    :param hold: Seconds after the start in which all videos wait and none is ready.
    """

    videos: int
    starting: float
    hold: float


FULL = Size(videos=2000, starting=150.0, hold=60.0)
QUICK = Size(videos=100, starting=30.0, hold=15.0)


@dataclass(frozen=True)
class Usage:
    """Total usage of the triggerer's processes: CPU seconds, resident bytes, open files."""

    cpu_seconds: float
    memory: int
    files: int


def main() -> None:
    """Run the benchmark once and print the figures of the polls and of the triggerer's processes."""
    size = QUICK if is_quick("2,000 videos waiting in a real triggerer.") else FULL
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most_files, size.videos + 2 * _SPARE_FILES), most_files))
    with tempfile.TemporaryDirectory() as directory, StubService() as service:
        dags = Path(directory, "dags")
        dags.mkdir()
        shutil.copy(_DAG, dags)
        connections = {_CONN_ID: {"conn_type": "toapis", "host": service.url, "password": "sk-benchmark"}}
        capacity = {"AIRFLOW__TRIGGERER__CAPACITY": str(size.videos + _SPARE_TRIGGERS)}
        with AirflowInstance(
            Path(directory, "airflow"), dags, connections=connections, environment=capacity
        ) as airflow:
            _measure(size, airflow, service)


def _measure(size: Size, airflow: AirflowInstance, service: StubService) -> None:
    idle = _usage()
    began = time.time()
    ready_after = size.starting + size.hold
    videos = [Video.lasting(_MODEL, index, began, ready_after) for index in range(size.videos)]
    deferred = DeferredVideos(
        airflow,
        [
            {
                "video_id": video.id,
                "toapis_conn_id": _CONN_ID,
                "poll_interval": POLL_INTERVAL,
                "end_time": video.ready_at + RETRY_TIMEOUT,
            }
            for video in videos
        ],
    )
    time.sleep(max(0.0, began + size.starting - time.time()))
    holding, clock = _usage(), time.time()
    started = len({poll.video_id for poll in service.polls(_MODEL)})
    time.sleep(max(0.0, began + ready_after - time.time()))
    held = _usage()
    cpu_share = (held.cpu_seconds - holding.cpu_seconds) / (time.time() - clock)
    while deferred.waiting() and time.time() < began + ready_after + RETRY_TIMEOUT:
        time.sleep(1)
    noticed = sum(event["status"] == "success" for event in deferred.events())
    last = time.time() - began - ready_after
    polls = service.polls(_MODEL)
    log = airflow.component_log("triggerer")
    blocks = [float(seconds) for seconds in re.findall(r"async thread was blocked for ([\d.]+) seconds", log)]
    print(f"{started:,} of {size.videos:,} were polled within {size.starting:.0f} s of being deferred")
    print(
        f"{noticed:,} of {size.videos:,} noticed, the last {last:.0f} s after they were ready;"
        f" {len(polls):,} polls, {len(polls) / size.videos:.1f} per video"
    )
    print(
        f"the triggerer's processes: {held.files:,} open files; memory {held.memory / 1e6:.0f} MB, idle"
        f" {idle.memory / 1e6:.0f} MB; {len(log.splitlines()):,} lines in its own log"
    )
    print(f"event loop blocked over 200 ms, as Airflow reports it: {len(blocks)} times, {max(blocks, default=0):.2f} s")
    print(
        f"triggerer: {noticed:,} of {size.videos:,} noticed (target: all of 2,000); busiest second"
        f" {busiest_second(poll.received_at for poll in polls)} requests (target: at most 40);"
        f" {cpu_share:.1%} of a core while they wait; {(held.memory - idle.memory) / size.videos / 1000:.0f} KB each"
    )


def _usage() -> Usage:
    """Return the usage of the triggerer and its children."""
    found = [
        process
        for process in psutil.Process().children(recursive=True)
        if "triggerer" in " ".join(process.cmdline()) or "triggerer" in process.name()
    ]
    times = [process.cpu_times() for process in found]
    return Usage(
        cpu_seconds=sum(time.user + time.system for time in times),
        memory=sum(process.memory_info().rss for process in found),
        files=sum(process.num_fds() for process in found),
    )


if __name__ == "__main__":
    main()
