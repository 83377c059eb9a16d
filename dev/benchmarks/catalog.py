"""Measure a catalog of 10,000 rows: the time of the plan, the submission rate, and a complete run.

``python -m dev.benchmarks.catalog [--quick]`` uses the emulator in its own process:

- Submissions are measured at the vendor's limit of 5 per second, which the emulator enforces, with 200 ms added to each
  response.
- The plan is measured in new interpreters.
- The complete run uses an emulator without a rate limit, whose videos take seconds.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_toapis.batch.feed import Row, read_rows
from airflow_provider_toapis.batch.manifest_entry import ManifestEntry, SavedVideo
from airflow_provider_toapis.batch.row_request import Defaults, RowRequests
from airflow_provider_toapis.operators.batch import ToAPIsVideoBatchOperator
from dev.benchmarks._measuring import is_quick, resident_bytes
from tests.airflow_task import FakeTaskInstance
from tests.integration.emulator_process import API_KEY, EmulatorProcess

RATE = 5.0
_OK = 200
MIB = 1024 * 1024
#: Seconds that the network and the service need for a response.
LATENCY = 0.2
RATE_TARGET = 0.95
PLAN_TARGET_SECONDS = 30
PLAN_TARGET_MIB = 300
#: Content of the placeholder files for videos that were saved earlier.
_CONTENT = b"video"
_SAVED_AT = "2026-01-01T00:00:00Z"


def main() -> None:
    """Run the measurements and print the figures."""
    if os.environ.get("CATALOG_PLAN"):
        _plan_here()
        return
    scale = 20 if is_quick(__doc__ or "") else 1
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        share, rejected = _submissions(1_000 // scale, directory)
        plan, skip = _plans(10_000 // scale, directory)
        whole = _whole_run(10_000 // scale, directory)
    print(
        f"catalog: {share:.1%} of the allowed rate over {1_000 // scale:,} submissions, {rejected} rejected"
        f" (target: at least {RATE_TARGET:.0%}); {10_000 // scale:,} rows: dry run {plan}, unchanged {skip}"
        f" (target: {PLAN_TARGET_SECONDS} s, {PLAN_TARGET_MIB} MiB); complete run {whole}"
    )


def _submissions(count: int, directory: Path) -> tuple[float, int]:
    """Submit ``count`` rows; return the share of the allowed rate that was reached, and the number of rejections."""
    options: dict[str, Any] = {"latency": 5, "latency_spread": 0, "submit_rps": RATE, "balance": 1_000_000}
    with EmulatorProcess(**options) as emulator:
        _connect(emulator, submit_rate=RATE)
        emulator.add_fault(on="any", kind="delay", seconds=LATENCY, times=-1, match="/v1/")
        feed = _feed(directory / "submissions.jsonl", count, emulator)
        began = time.time()
        # The operator defers when all rows are submitted.
        with suppress(TaskDeferred):
            _run(feed, directory / "submitted", max_active=count, deferrable=True)
        posts = [request for request in emulator.requests() if request["endpoint"] == "submit"]
        accepted = [post["time"] for post in posts if post["status"] == _OK]
        rejected = len(posts) - len(accepted)
        seconds = max(accepted) - min(accepted)
        print(
            f"{count:,} submissions: the first after {min(accepted) - began:.1f} s, then all in {seconds:.1f} s,"
            f" {(count - 1) / seconds:.2f} per second, {rejected} rejected"
        )
        if len(emulator.ledger()["billed"]) != count:
            raise SystemExit("The number of billed videos differs from the number of rows.")
    return (count - 1) / seconds / RATE, rejected


def _plans(count: int, directory: Path) -> tuple[str, str]:
    """Return time and memory of a dry run of a new catalog, and of a run of an unchanged catalog."""
    with EmulatorProcess(latency=1, latency_spread=0, submit_rps=0, query_rps=0, balance=1_000_000) as emulator:
        _connect(emulator, submit_rate=10_000)
        feed = _feed(directory / "plan.jsonl", count, emulator)
        videos = directory / "planned"
        new = _plan_in_child(feed, videos, dry_run=True)
        _write_earlier_run(feed, videos)
        unchanged = _plan_in_child(feed, videos, dry_run=False)
        if emulator.ledger()["billed"] or unchanged["result"]["unchanged"] != count:
            raise SystemExit(f"The unchanged catalog was not skipped: {unchanged['result']}")
    return _cost(new), _cost(unchanged)


def _cost(figures: dict[str, Any]) -> str:
    return f"{figures['seconds']:.1f} s and {figures['peak'] / MIB:.0f} MiB ({figures['grown'] / MIB:+.0f})"


def _plan_in_child(feed: Path, videos: Path, *, dry_run: bool) -> dict[str, Any]:
    arguments = json.dumps({"feed": str(feed), "videos": str(videos), "dry_run": dry_run})
    run = subprocess.run(
        [sys.executable, "-m", "dev.benchmarks.catalog"],
        env=os.environ | {"CATALOG_PLAN": arguments},
        capture_output=True,
        text=True,
        check=True,
    )
    figures: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return figures


def _plan_here() -> None:
    arguments = json.loads(os.environ["CATALOG_PLAN"])
    before = resident_bytes()
    began = time.monotonic()
    result = _run(Path(arguments["feed"]), Path(arguments["videos"]), dry_run=arguments["dry_run"])
    result.pop("errors", None)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": time.monotonic() - began, "peak": peak, "grown": peak - before, "result": result}))


def _write_earlier_run(feed: Path, videos: Path) -> None:
    """Write the manifest of an earlier run, and small placeholder files for its videos."""
    videos.mkdir(exist_ok=True)
    row_requests = RowRequests(Defaults("grok-video-1.5-preview"), None)
    with (videos / "manifest.jsonl").open("w") as manifest:
        for row in read_rows(str(feed)):
            if not isinstance(row, Row):
                raise SystemExit(str(row))
            row_request = row_requests.check(row)
            file = videos / f"{row.key}.mp4"
            file.write_bytes(_CONTENT)
            saved = SavedVideo(
                fingerprint=row_request.fingerprint,
                video_id=f"video_{row.number}",
                client_business_id=f"af-{row.number}",
                generation=0,
                file=file.name,
                size=len(_CONTENT),
                sha256=hashlib.sha256(_CONTENT).hexdigest(),
                price_usd="0.10",
                billed=True,
                saved_at=_SAVED_AT,
                run_id="earlier",
                reattached=False,
            )
            entry = ManifestEntry(
                row.key, row.number, _SAVED_AT, row.prompt, row_request.images, row_request.request.model, saved=saved
            )
            manifest.write(f"{entry.as_line()}\n")


def _whole_run(count: int, directory: Path) -> str:
    """Make a complete catalog; return its time and CPU. Each row of the manifest is compared with the ledger."""
    options: dict[str, Any] = {"latency": 2, "latency_spread": 0, "submit_rps": 0, "query_rps": 0}
    with EmulatorProcess(**options, balance=1_000_000) as emulator:
        _connect(emulator, submit_rate=10_000, query_rate=10_000)
        feed = _feed(directory / "whole.jsonl", count, emulator)
        videos = directory / "saved"
        began, cpu = time.monotonic(), time.process_time()
        result = _run(feed, videos, max_active=2_000, timeout=3_600)
        seconds, cpu = time.monotonic() - began, time.process_time() - cpu
        counts = emulator.request_counts()
        billed = emulator.ledger()["billed"]
        _compare(result, videos, billed, count)
        again = _run(feed, videos, run_id="second")
        if len(emulator.ledger()["billed"]) != count or again["unchanged"] != count:
            raise SystemExit(f"The second run of the unchanged catalog was not skipped: {again}")
        per_video = ", ".join(f"{endpoint} {number / count:.1f}" for endpoint, number in sorted(counts.items()))
        cost = f"{count:,} videos in {seconds:.0f} s, {cpu / count * 1000:.0f} ms of CPU each"
        print(f"{cost}; requests per video: {per_video}")
    return f"{seconds:.0f} s, {cpu / count * 1000:.0f} ms of CPU a video, {count:,} files that match the ledger"


def _compare(result: dict[str, Any], videos: Path, billed: list[dict[str, Any]], count: int) -> None:
    lines = [json.loads(line) for line in (videos / "manifest.jsonl").read_text().splitlines()]
    ledger = {bill["id"]: bill for bill in billed}
    made = {line["video_id"] for line in lines}
    if made != ledger.keys() or not len(lines) == len(ledger) == result["saved"] == count:
        raise SystemExit(f"Expected {count} saved and billed rows, got {len(lines)} and {len(billed)}: {result}")
    for line in lines:
        bill, content = ledger[line["video_id"]], (videos / line["file"]).read_bytes()
        if (line["client_business_id"], line["price_usd"]) != (bill["client_business_id"], bill["cost_usd"]):
            raise SystemExit(f"The manifest line {line} differs from the ledger: {bill}")
        if (line["size"], line["sha256"]) != (len(content), hashlib.sha256(content).hexdigest()):
            raise SystemExit(f"The manifest line {line} differs from its file.")


def _run(feed: Path, videos: Path, *, run_id: str = "first", **fields: Any) -> dict[str, Any]:  # noqa: ANN401
    fields.setdefault("deferrable", False)
    operator = ToAPIsVideoBatchOperator(task_id="catalog", requests=str(feed), output_path=str(videos), **fields)
    return operator.execute(FakeTaskInstance(task_id="catalog", run_id=run_id).context)


def _feed(file: Path, count: int, emulator: EmulatorProcess) -> Path:
    with file.open("w") as lines:
        for number in range(count):
            row = {
                "key": f"sku-{number:05}",
                "prompt": f"Product {number} turns slowly on a table in soft light, and the camera comes closer",
                "image": f"{emulator.url}/shop/images/sneaker.jpg",
            }
            lines.write(f"{json.dumps(row)}\n")
    return file


def _connect(emulator: EmulatorProcess, **extra: float) -> None:
    connection = {"conn_type": "toapis", "host": emulator.url, "password": API_KEY, "extra": {"verify": False} | extra}
    os.environ["AIRFLOW_CONN_TOAPIS_DEFAULT"] = json.dumps(connection)


if __name__ == "__main__":
    main()
