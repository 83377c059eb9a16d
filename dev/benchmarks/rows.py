"""Measure how the cost of a deferrable batch grows with its rows, on local disk and in a bucket.

``python -m dev.benchmarks.rows [--quick | --large]`` runs each case in a new interpreter. The service is a stub in the
same process, so the figures contain only the cost of the batch itself. At most 500 videos are in progress. A tenth of
them is final whenever the task is resumed. The bucket is served by moto in another process, and the requests are
counted. ``--large`` adds a complete run of 100,000 rows, and ``--quick`` omits all cases with 100,000 rows.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from aiobotocore.client import AioBaseClient  # type: ignore[import-untyped]
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_toapis import storage
from airflow_provider_toapis.api.download import StoredFile
from airflow_provider_toapis.api.flows import RecordSubmission
from airflow_provider_toapis.api.pricing import OfferedPrice
from airflow_provider_toapis.api.responses import Balance, TaskStatus, VideoTask
from airflow_provider_toapis.api.submit_spec import Submission, SubmitSpec
from airflow_provider_toapis.hooks.toapis import ToAPIsHook
from airflow_provider_toapis.operators.batch import ToAPIsVideoBatchOperator
from tests.airflow_task import FakeTaskInstance
from tests.integration.storages import aws_connection, s3_client_at, s3_server

if TYPE_CHECKING:
    from airflow_provider_toapis.api.download import Destination
    from airflow_provider_toapis.triggers.video import ToAPIsVideoBatchTrigger

SIZES = (1_000, 10_000, 100_000)
#: Sizes of the complete runs in a bucket. The bucket's server needs longer than the batch.
BUCKET_RUNS = (1_000, 5_000)
ACTIVE = 500
WAKEUPS = 10
_CONTENT = b"video"
_SHA256 = hashlib.sha256(_CONTENT).hexdigest()
MIB = 1024 * 1024
#: Targets: the largest case against the smallest, and the peak memory.
WAKEUP_TARGET = 2.0
PEAK_TARGET_MIB = 500


def main() -> None:
    """Run the cases and print the figures."""
    if case := os.environ.get("ROWS_CASE"):
        print(json.dumps(_measure(**json.loads(case))))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="no case with 100,000 rows, to test the benchmark itself")
    parser.add_argument("--large", action="store_true", help="also a complete run of 100,000 rows")
    options = parser.parse_args()
    sizes = SIZES[:2] if options.quick else SIZES
    # The bucket's server logs every request.
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as temporary:
        local = [_local(Path(temporary), rows, WAKEUPS) for rows in sizes]
        runs = [_local(Path(temporary), rows, None) for rows in (SIZES if options.large else SIZES[:2])]
        bucket = [_in_bucket(Path(temporary), rows, WAKEUPS) for rows in sizes]
        bucket_runs = [_in_bucket(Path(temporary), rows, None) for rows in BUCKET_RUNS]
    peak = max(case["peak"] for case in local + runs) / MIB
    print(
        f"rows: CPU per wake-up {_growth(local, 'wakeup_cpu')} on disk, {_growth(bucket, 'wakeup_cpu')} in a bucket,"
        f" requests per wake-up {_growth(bucket, 'wakeup_requests')} (target: {WAKEUP_TARGET:.0f});"
        f" CPU per row of a run {_growth(runs, 'cpu_per_row')}, requests per row of a run"
        f" {_growth(bucket_runs, 'requests_per_row')}; peak {peak:.0f} MiB at {sizes[-1]:,} rows"
        f" (target: {PEAK_TARGET_MIB} MiB)"
    )


def _growth(cases: list[dict[str, Any]], name: str) -> str:
    return f"{cases[-1][name] / cases[0][name]:.2f}"


def _local(directory: Path, rows: int, wakeups: int | None) -> dict[str, Any]:
    output_path = directory / f"{rows}-{wakeups}"
    feed = _write_feed(directory / f"{rows}.jsonl", rows)
    return _run_case("disk", {"rows": rows, "feed": feed, "output_path": str(output_path), "wakeups": wakeups})


def _in_bucket(directory: Path, rows: int, wakeups: int | None) -> dict[str, Any]:
    feed = _write_feed(directory / f"{rows}.jsonl", rows)
    # Each case has its own bucket, because all servers of this process share their buckets.
    bucket = f"rows-{rows}-{wakeups or 'all'}"
    with s3_server() as url:
        client = s3_client_at(url)
        client.create_bucket(Bucket=bucket)
        client.upload_file(feed, bucket, "feed.jsonl")
        root = f"s3://aws_default@{bucket}"
        case = {"rows": rows, "feed": f"{root}/feed.jsonl", "output_path": f"{root}/videos/", "wakeups": wakeups}
        return _run_case("bucket", case, AIRFLOW_CONN_AWS_DEFAULT=json.dumps(aws_connection(url)))


def _run_case(storage: str, case: dict[str, Any], **environment: str) -> dict[str, Any]:
    run = subprocess.run(
        [sys.executable, "-m", "dev.benchmarks.rows"],
        env=os.environ | environment | {"ROWS_CASE": json.dumps(case)},
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        raise SystemExit(run.stderr)
    figures: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    length = "complete run" if case["wakeups"] is None else f"{case['wakeups']} wake-ups"
    print(f"{storage}, {case['rows']:,} rows, {length}: {_text(figures)}", flush=True)
    return figures


def _text(figures: dict[str, Any]) -> str:
    return (
        f"begin {figures['begin_cpu']:.1f} s; wake-up {figures['wakeup_cpu'] * 1000:.0f} ms of CPU,"
        f" {figures['wakeup_requests']:.0f} requests; in total {figures['cpu_per_row'] * 1000:.1f} ms of CPU and"
        f" {figures['requests_per_row']:.1f} requests per saved row, {figures['seconds']:.0f} s;"
        f" peak {figures['peak'] / MIB:.0f} MiB"
    )


def _write_feed(file: Path, rows: int) -> str:
    with file.open("w") as lines:
        for number in range(rows):
            row = {
                "key": f"sku-{number:06}",
                "prompt": f"Product {number} turns slowly on a table in soft light, and the camera comes closer",
                "image": f"https://shop.example/images/{number}.jpg",
            }
            lines.write(f"{json.dumps(row)}\n")
    return str(file)


@dataclass
class _StubClient:
    """A service that accepts every submission, and whose videos are complete when they are looked up."""

    _numbers: Iterator[int] = field(default_factory=count)

    def submit_once(self, spec: SubmitSpec, remember: Callable[[RecordSubmission], bool | None]) -> Submission:
        key = spec.keys.for_generation(0)
        if remember(RecordSubmission(key, None)) is False:
            raise RuntimeError(f"{spec.label} is claimed by another process.")
        task = VideoTask(f"video_{next(self._numbers):06}", TaskStatus.IN_PROGRESS, "in_progress")
        remember(RecordSubmission(key, task.id, task=task))
        return Submission(task, key, 0, reattached=False)

    def get_video(self, video_id: str, *_: object, **__: object) -> VideoTask:
        billing = {"status": "settled", "credits": "20.00", "cost_usd": "0.10"}
        return VideoTask(video_id, TaskStatus.COMPLETED, "completed", urls=("https://files/1",), billing=billing)

    def download(self, _: VideoTask, destination: Destination, **__: object) -> StoredFile:
        storage.write_bytes(destination, _CONTENT)
        return StoredFile(destination.path, len(_CONTENT), _SHA256)

    def get_pricing(self) -> list[OfferedPrice]:
        return []

    def get_balance(self) -> Balance:
        return Balance(Decimal(10**9), None, Decimal(10**6), None, Decimal(200), unlimited=False)


def _measure(rows: int, feed: str, output_path: str, wakeups: int | None) -> dict[str, Any]:
    """Begin a batch and resume it, either ``wakeups`` times or to its end; return the figures."""
    requests = _count_requests()
    client = _StubClient()
    _replace_service(client)
    ti = FakeTaskInstance(task_id="catalog", run_id="first")
    fields: dict[str, Any] = {
        "task_id": "catalog",
        "requests": feed,
        "output_path": output_path,
        "max_active": ACTIVE,
        "deferrable": True,
        "check": "off",
        "timeout": 24 * 3600,
    }
    began, cpu = time.monotonic(), time.process_time()
    step: Callable[[], dict[str, Any]] = lambda: ToAPIsVideoBatchOperator(**fields).execute(ti.context)  # noqa: E731
    costs: list[tuple[float, int]] = []
    begin_cpu = 0.0
    for _ in islice(count(), None if wakeups is None else wakeups + 1):
        # Airflow resumes a task in a new process.
        storage._remove_abandoned.cache_clear()  # noqa: SLF001
        cpu_before, requests_before = time.process_time(), len(requests)
        try:
            result = step()
        except TaskDeferred as deferred:
            active = len(cast("ToAPIsVideoBatchTrigger", deferred.trigger).video_ids)
        else:
            if result["saved"] != rows:
                raise SystemExit(f"Expected {rows} saved rows: {result}")
            break
        costs.append((time.process_time() - cpu_before, len(requests) - requests_before))
        begin_cpu = begin_cpu or costs.pop()[0]
        final = max(active // 10, min(active, 10))
        event = {"status": "success", "final": hex(2**final - 1), "waiting": active - final}
        step = lambda: ToAPIsVideoBatchOperator(**fields).execute_complete(ti.context, event)  # noqa: B023, E731
    saved = rows if wakeups is None else wakeups * ACTIVE // 10
    return {
        "begin_cpu": begin_cpu,
        "wakeup_cpu": statistics.median(cost for cost, _ in costs),
        "wakeup_requests": statistics.mean(number for _, number in costs),
        "cpu_per_row": (time.process_time() - cpu) / saved,
        "requests_per_row": len(requests) / saved,
        "seconds": time.monotonic() - began,
        "peak": _peak_bytes(),
    }


def _peak_bytes() -> int:
    """Return the peak memory of this process. ``ru_maxrss`` would also count the process that has started it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def _replace_service(client: _StubClient) -> None:
    connection = {"conn_type": "toapis", "host": "https://toapis.example", "password": "sk-benchmark"}
    os.environ["AIRFLOW_CONN_TOAPIS_DEFAULT"] = json.dumps(connection)

    @contextmanager
    def opened(_: ToAPIsHook) -> Iterator[_StubClient]:
        yield client

    ToAPIsHook.client = opened  # type: ignore[assignment, method-assign]


def _count_requests() -> list[str]:
    """Return a list to which every request to the bucket will be added."""
    requests: list[str] = []
    make_call = AioBaseClient._make_api_call  # noqa: SLF001

    async def counted(client: Any, operation: str, arguments: Any) -> Any:  # noqa: ANN401
        requests.append(operation)
        return await make_call(client, operation, arguments)

    AioBaseClient._make_api_call = counted  # noqa: SLF001
    return requests


if __name__ == "__main__":
    main()
