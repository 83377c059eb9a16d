"""Measure the time until a webhook resumes the task of a ready video, and the time to load the plugin.

``python -m dev.benchmarks.webhooks [--quick]`` runs a real API server, scheduler and triggerer with PostgreSQL. The
tasks are written into the database in the state deferred, and their triggers poll every 600 seconds. The
emulator completes one video every 1.5 seconds, so that this machine can start a process for each resumed task.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlencode

from dev.airflow.airflow_instance import AirflowInstance
from dev.airflow.postgres import PostgresProcess
from dev.airflow.processes import free_port
from dev.benchmarks._measuring import is_quick
from tests.e2e.deferring import DeferredVideos
from tests.integration.emulator_process import EmulatorProcess

_DAG = Path(__file__).parents[2] / "tests/e2e/dags/deferred_videos.py"
_SECRET = "c0de" * 16
_CONN_ID = "toapis_default"
#: In seconds: the time between two polls of a video, the time between two completed videos, and the time without
#: progress after which the benchmark fails.
POLL_INTERVAL = 600.0
PACE = 1.5
RETRY_TIMEOUT = 120.0
#: Seconds for the triggers to start and to poll for the first time.
SETTLING = 30.0
ROUNDS = 7
_TARGET, _PLUGIN_TARGET = 3.0, 50.0
#: Starts an API server without plugins, then measures the import of our plugin and the creation of its apps.
_PLUGIN = """
import time
from airflow import plugins_manager
from airflow.api_fastapi.app import create_app
plugins_manager._load_entrypoint_plugins = lambda: ([], {})
create_app()
started = time.perf_counter()
from airflow_provider_toapis.plugin import ToAPIsPlugin
ToAPIsPlugin.fastapi_apps
print((time.perf_counter() - started) * 1000)
"""


def main() -> None:
    """Measure the time and the cost, and print the figures."""
    quick = is_quick("Time from a ready video to its running task, with a webhook.")
    plugin = _plugin_cost()
    lags = sorted(_lags(8 if quick else 200))
    print(
        f"webhooks: {len(lags)} waiting, {statistics.median(lags):.2f} s median from ready to running, 95 % within"
        f" {lags[int(0.95 * len(lags))]:.2f} s (target: {_TARGET} s); the plugin adds {plugin:.0f} ms to the API"
        f" server's start (target: {_PLUGIN_TARGET:.0f} ms)"
    )


def _plugin_cost() -> float:
    samples = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as home:
            run = subprocess.run(
                [sys.executable, "-c", _PLUGIN],
                env=os.environ | {"AIRFLOW_HOME": home, "AIRFLOW__CORE__LOAD_EXAMPLES": "False"},
                check=True,
                capture_output=True,
                text=True,
            )
        samples.append(float(run.stdout.strip().splitlines()[-1]))
    return statistics.median(samples)


def _lags(count: int) -> list[float]:
    """Return the seconds from ready to running, one for each video."""
    port = free_port(0)
    hook = f"http://127.0.0.1:{port}/toapis/webhooks/{_CONN_ID}"
    with (
        tempfile.TemporaryDirectory() as directory,
        PostgresProcess() as postgres,
        EmulatorProcess(latency=3600, submit_rps=0, webhook_url=hook, webhook_secret=_SECRET) as service,
    ):
        dags = Path(directory, "dags")
        dags.mkdir()
        shutil.copy(_DAG, dags)
        extra = json.dumps({"webhook_secret": _SECRET})
        connection = {"conn_type": "toapis", "host": service.url, "password": "sk-emulator", "extra": extra}
        with AirflowInstance(
            Path(directory, "airflow"),
            dags,
            connections={_CONN_ID: connection},
            port=port,
            environment={"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": postgres.url},
        ) as airflow:
            return _measured(airflow, service, hook, count)


def _measured(airflow: AirflowInstance, service: EmulatorProcess, hook: str, count: int) -> list[float]:
    # The run id is set here, because the callback URLs contain it before the run exists.
    run_id = f"webhooks_{count}"
    videos = [_submit(service, hook, run_id, index) for index in range(count)]
    end_time = time.time() + 3600
    common = {"toapis_conn_id": _CONN_ID, "end_time": end_time, "fallback_interval": POLL_INTERVAL}
    deferred = DeferredVideos(airflow, [{"video_id": video} | common for video in videos], alone=False, run_id=run_id)
    while service.request_counts().get("status", 0) < count:
        time.sleep(0.5)
    time.sleep(SETTLING)
    if deferred.waiting() != count:
        raise RuntimeError(f"Only {deferred.waiting()} of {count} tasks are deferred.")
    ready: dict[int, float] = {}
    running: dict[int, float] = {}
    next_at = time.time()
    while len(running) < count:
        if len(ready) < count and time.time() >= next_at:
            ready[len(ready)] = time.time()
            service.finish(videos[len(ready) - 1])
            next_at += PACE
        for index, state in enumerate(deferred.states()):
            if state in {"running", "success"}:
                running.setdefault(index, time.time())
        if time.time() > next_at + RETRY_TIMEOUT:
            raise RuntimeError(f"Only {len(running)} of {count} tasks were resumed.")
        time.sleep(0.02)
    resumed = airflow.component_log("api-server").count("is final. Result: resumed (")
    if resumed != count:
        raise RuntimeError(f"Expected {count} tasks to be resumed by webhooks, got {resumed}.")
    return [running[index] - ready[index] for index in range(count)]


def _submit(service: EmulatorProcess, hook: str, run_id: str, index: int) -> str:
    coordinates = {"dag_id": "deferred_videos", "run_id": run_id, "task_id": "wait", "map_index": index}
    body = {
        "model": "grok-video-1.5-preview",
        "prompt": f"A slow turn {index}",
        "images": [f"{service.url}/shop/images/sneaker.jpg"],
        "callback_url": f"{hook}?{urlencode(coordinates)}",
    }
    return str(service.api("/v1/videos/generations", "POST", json=body).raise_for_status().json()["id"])


if __name__ == "__main__":
    main()
