"""Compare saving the videos of a batch with and without the check of saved videos.

``python -m dev.benchmarks.media_check [--quick]`` saves 100 finished videos of the emulator (10 s, 480x270),
alternately with ``check="warn"`` and with ``check="off"``. It measures two cases:

- Each download takes 1 s, the time for a video of 5 MB at 5 MB/s.
- Each download takes no time, which shows the cost of the check alone.

It also prints the peak memory of the worker and of the processes that measure.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_toapis import media_probe
from airflow_provider_toapis.media_check import CheckMode
from airflow_provider_toapis.operators import batch
from airflow_provider_toapis.operators.batch import ToAPIsVideoBatchOperator
from dev.benchmarks._measuring import is_quick
from tests.airflow_task import FakeTaskInstance
from tests.integration.conftest import image_url
from tests.integration.emulator_process import API_KEY, EmulatorProcess

ROUNDS = 3
TARGET = 1.2
DOWNLOAD_SECONDS = 1.0
KIB = 1024


def main() -> None:
    """Run the measurements and print the figures. The last line contains the ratio."""
    count = 10 if is_quick(__doc__ or "") else 100
    # The operator would otherwise wait for a minute between two resumptions of the task.
    batch.SECONDS_BETWEEN_RESUMPTIONS = 0.0
    options: dict[str, Any] = {"latency": 3600, "latency_spread": 0, "submit_rps": 0, "query_rps": 0}
    with EmulatorProcess(**options, balance=1_000_000) as emulator, PeakMemory() as peak:
        extra = {"verify": False, "submit_rate": 10_000, "query_rate": 10_000}
        connection = {"conn_type": "toapis", "host": emulator.url, "password": API_KEY, "extra": extra}
        os.environ["AIRFLOW_CONN_TOAPIS_DEFAULT"] = json.dumps(connection)
        alone = _ratio(emulator, count, "at once")
        emulator.add_fault(on="result", kind="delay", seconds=DOWNLOAD_SECONDS, times=-1)
        ratio = _ratio(emulator, count, "slowly")
    print(f"peak memory: worker {peak.worker:.0f} MiB, all processes that measure {peak.measuring:.0f} MiB together")
    print(
        f"media_check: saving {count} videos takes {ratio:.2f} of the time without checks if a download takes"
        f" {DOWNLOAD_SECONDS:g} s (target: at most {TARGET}), {alone:.2f} if it takes none; worker {peak.worker:.0f}"
        f" MiB, measuring processes {peak.measuring:.0f} MiB"
    )


def _ratio(emulator: EmulatorProcess, count: int, name: str) -> float:
    modes: tuple[CheckMode, ...] = ("warn", "off")
    seconds: dict[CheckMode, list[float]] = {mode: [] for mode in modes}
    for number in range(ROUNDS):
        for mode in modes:
            seconds[mode].append(_save(emulator, count, mode, f"{name} {number} {mode}"))
    median = {mode: statistics.median(each) for mode, each in seconds.items()}
    print(f"{count} videos: {median['warn']:.1f} s with checks, {median['off']:.1f} s without (median of {ROUNDS})")
    return median["warn"] / median["off"]


def _save(emulator: EmulatorProcess, count: int, check: CheckMode, name: str) -> float:
    """Submit rows, finish their videos, and return the seconds that saving them takes."""
    rows = [{"key": f"sku-{n}", "prompt": f"{name} {n}", "image": image_url(emulator)} for n in range(count)]
    ti = FakeTaskInstance(task_id="catalog", run_id=name)
    with tempfile.TemporaryDirectory() as directory:

        def make() -> ToAPIsVideoBatchOperator:
            return ToAPIsVideoBatchOperator(
                task_id="catalog", requests=rows, output_path=directory, check=check, deferrable=True
            )

        try:
            make().execute(ti.context)
            raise SystemExit("The task did not defer.")
        except TaskDeferred as deferred:
            trigger: Any = deferred.trigger
        for video_id in trigger.video_ids:
            emulator.finish(video_id)
        event = {"status": "success", "final": hex(2**count - 1), "waiting": 0}
        began = time.perf_counter()
        result = make().execute_complete(ti.context, event)
        seconds = time.perf_counter() - began
        measured = sum('"media": {' in line for line in (Path(directory) / "manifest.jsonl").open())
    if result["saved"] != count or measured != (count if check == "warn" else 0):
        raise SystemExit(f"Expected {count} saved videos, got {result} with {measured} measured")
    return seconds


class PeakMemory:
    """Samples the memory of this process and of the processes that measure, in MiB."""

    def __init__(self) -> None:
        self.worker = self.measuring = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(0.2):
            self.worker = max(self.worker, _own_mib(os.getpid()))
            processes = [pid for pid in _children(os.getpid()) if _is_measuring(pid)]
            forks = [fork for pid in processes for fork in _children(pid)]
            self.measuring = max(self.measuring, sum(map(_own_mib, [*processes, *forks])))


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, file.read_text().split())
    return found


def _is_measuring(pid: int) -> bool:
    with suppress(OSError):
        return media_probe.__name__.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def _own_mib(pid: int) -> float:
    """Return the memory of a process in MiB, including its share of shared memory; 0 if the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / KIB


if __name__ == "__main__":
    main()
