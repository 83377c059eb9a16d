"""Compare the pages about videos with Airflow's own list of task instances, on the same PostgreSQL database.

``python -m dev.benchmarks.ui_pages [--quick]`` fills the database with 100,000 task instances of this provider in 20
DAGs over 30 days, and with as many of other operators. Each request goes through the API server's application, with
Airflow's authentication. The requests alternate, and their medians are compared.
"""

from __future__ import annotations

import logging
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import structlog
from airflow import settings
from airflow.api_fastapi.app import create_app, get_auth_manager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from fastapi.testclient import TestClient
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from airflow_provider_toapis.links.video import VIDEOS_PATH
from dev.airflow.airflow_processes import airflow_command
from dev.airflow.postgres import PostgresProcess
from dev.benchmarks._measuring import is_quick, resident_bytes

TASKS = 100_000
DAGS, DAYS = 20, 30
ROUNDS = 7
PAGE_TARGET, SPEND_TARGET = 1.0, 5.0

PEER = "/api/v2/dags/~/dagRuns/~/taskInstances?limit=50&order_by=-start_date"
FIRST_PAGE = f"{VIDEOS_PATH}/"
#: Of the two searches, the first matches in every run, and the second matches only the oldest video.
FILTERED = tuple(
    f"{FIRST_PAGE}?{query}"
    for query in (
        "state=saved",
        "state=failed",
        "dag_id=videos_7",
        "model=veo3.1-fast",
        "day=2000-01-01",
        "search=sku-1.mp4",
        "search=oldest-video",
    )
)
SPEND = f"{VIDEOS_PATH}/spend"

#: Statements that fill the database. DAGs named ``videos_...`` are ours. The JSON is as long as that of real tasks.
FILL = (
    "INSERT INTO dag_bundle (name, active) VALUES ('benchmark', true)",
    """
    INSERT INTO dag (dag_id, is_paused, is_stale, bundle_name, timetable_type, partition_mapper_info, max_active_tasks,
        max_consecutive_failed_dag_runs, has_task_concurrency_limits)
    SELECT kind || '_' || number, false, false, 'benchmark', '', '{}', 16, 0, false
    FROM unnest(ARRAY['videos', 'other']) AS kind, generate_series(1, :dags) AS number
    """,
    """
    INSERT INTO dag_version (id, version_number, dag_id, bundle_name, created_at, last_updated)
    SELECT gen_random_uuid(), 1, dag_id, bundle_name, now(), now() FROM dag
    """,
    """
    INSERT INTO dag_run (dag_id, run_id, run_type, state, logical_date, start_date, end_date, run_after, queued_at)
    SELECT dag_id, 'scheduled__' || day, 'scheduled', 'success', day, day, day + interval '1 hour', day, day
    FROM generate_series(now() - make_interval(days => :days - 1), now(), interval '1 day') AS day, dag
    ORDER BY day, dag_id
    """,
    """
    INSERT INTO task_instance (id, dag_id, task_id, run_id, map_index, start_date, end_date, duration, state,
        try_number, max_tries, pool, pool_slots, queue, priority_weight, operator, updated_at, dag_version_id)
    SELECT gen_random_uuid(), dag_id, 'make_video', run_id, map_index, start_date + make_interval(secs => map_index),
        start_date + make_interval(secs => map_index + 60), 60,
        CASE mod(map_index, 20) WHEN 0 THEN 'failed' WHEN 1 THEN 'deferred' ELSE 'success' END,
        1, 3, 'default_pool', 1, 'default', 1, 'AnOperator', now(), dag_version.id
    FROM dag_run JOIN dag_version USING (dag_id), generate_series(0, :per_run - 1) AS map_index
    """,
    """
    CREATE TEMPORARY TABLE video AS
    SELECT run.id AS dag_run_id, ti.*, 'video_' || md5(CAST(ti.id AS text)) AS video_id,
        's3://shop-media/catalog/' || ti.run_id || '/sku-' || ti.map_index || '.mp4' AS output_path
    FROM task_instance AS ti JOIN dag_run AS run USING (dag_id, run_id)
    """,
    """
    INSERT INTO xcom (dag_run_id, task_id, map_index, key, dag_id, run_id, timestamp, value)
    SELECT dag_run_id, task_id, map_index, 'return_value', dag_id, run_id, end_date, jsonb_build_object(
        'id', video_id, 'status', 'completed', 'model', 'grok-video-1.5-preview',
        'url', 'https://files.toapis.com/' || video_id || '.mp4?signature=' || md5(video_id), 'urls', ARRAY[video_id],
        'format', 'mp4', 'created_at', start_date, 'completed_at', end_date, 'expires_at', end_date,
        'client_business_id', 'shop-' || md5(video_id), 'billing', jsonb_build_object('cost_usd', '0.5'),
        'output_path', output_path, 'size', 4000000, 'sha256', md5(video_id) || md5(run_id), 'warnings', ARRAY[0],
        'media', jsonb_build_object('duration', 8.0, 'width', 1280, 'height', 720, 'fps', 24, 'video_codec', 'h264'))
    FROM video
    """,
    """
    INSERT INTO xcom (dag_run_id, task_id, map_index, key, dag_id, run_id, timestamp, value)
    SELECT dag_run_id, task_id, map_index, 'toapis_video', dag_id, run_id, end_date, jsonb_build_array(
        jsonb_build_object('id', video_id,
        'status', CASE state WHEN 'failed' THEN 'failed' WHEN 'deferred' THEN 'in_progress' ELSE 'completed' END,
        'model', CASE mod(map_index, 3) WHEN 0 THEN 'veo3.1-fast' ELSE 'grok-video-1.5-preview' END,
        'generation', 0, 'client_business_id', 'shop-' || md5(video_id), 'submitted_at', start_date,
        'cost_usd', CASE state WHEN 'success' THEN 0.5 WHEN 'failed' THEN 0 END, 'price_usd', 0.5,
        'output_path', output_path, 'reason', CASE state WHEN 'failed' THEN 'The service reports an error.' END))
    FROM video WHERE dag_id LIKE 'videos%'
    """,
    """
    UPDATE xcom SET value = jsonb_set(value, '{0,client_business_id}', '"oldest-video"')
    WHERE key = 'toapis_video' AND map_index = 0 AND dag_run_id IN (
        SELECT min(dag_run_id) FROM xcom WHERE key = 'toapis_video')
    """,
)


def main() -> None:
    """Measure the pages and Airflow's list, and print their medians and the ratios."""
    quick = is_quick("Time of the pages about videos, compared to Airflow's list of task instances.")
    per_run, rounds = (2, 1) if quick else (-(-TASKS // (DAGS * DAYS)), ROUNDS)
    # Airflow would print two lines for each request.
    logging.disable(logging.WARNING)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with PostgresProcess() as postgres:
        _create_database(postgres.url, per_run)
        get = _client()
        # The first request of a kind loads modules and templates.
        for path in (PEER, FIRST_PAGE, f"{SPEND}?from=2000-01-01&to=2000-01-01"):
            get(path)
        peak = _peak_bytes(lambda: get(SPEND))
        times: dict[str, list[float]] = {path: [] for path in (PEER, FIRST_PAGE, *FILTERED, SPEND)}
        for _ in range(rounds):
            for path, samples in times.items():
                began = time.perf_counter()
                get(path)
                samples.append(time.perf_counter() - began)
    medians = {path: statistics.median(samples) for path, samples in times.items()}
    peer = medians[PEER]
    print(f"{per_run * DAGS * DAYS:,} task instances of ours and as many others; medians of {rounds}")
    for path, median in medians.items():
        print(f"{median * 1000:6.0f} ms, {median / peer:.2f} of Airflow's list: {path}")
    filtered = max(medians[path] for path in FILTERED)
    print(
        f"first page: {medians[FIRST_PAGE] / peer:.2f} of Airflow's list of task instances, with filters at most"
        f" {filtered / peer:.2f} (target: at most {PAGE_TARGET}); spend of {DAYS} days: {medians[SPEND] / peer:.2f}"
        f" (target: at most {SPEND_TARGET}) and {peak / 2**20:.0f} MiB"
    )


def _create_database(url: str, per_run: int) -> None:
    os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = url
    subprocess.run(airflow_command("db", "migrate"), check=True, capture_output=True)
    settings.configure_vars()  # type: ignore[no-untyped-call]
    settings.configure_orm()  # type: ignore[no-untyped-call]
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        for statement in FILL:
            connection.execute(text(statement), {"dags": DAGS, "days": DAYS, "per_run": per_run})
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))


def _client() -> Callable[[str], None]:
    """Return a function that sends a request of an administrator to the API server's application."""
    application = create_app(apps="core")
    token = get_auth_manager().generate_jwt(SimpleAuthManagerUser(username="admin", role="admin"))
    client = TestClient(application, headers={"Authorization": f"Bearer {token}"})

    def get(path: str) -> None:
        client.get(path).raise_for_status()

    return get


def _peak_bytes(action: Callable[[], object]) -> int:
    """Return the additional resident memory of this process that an action needs at most."""
    before = resident_bytes()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    action()
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (peak,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(peak) * 1024 - before


if __name__ == "__main__":
    main()
