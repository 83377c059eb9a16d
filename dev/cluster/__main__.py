"""``python -m dev.cluster``: run the cluster, the emulator and the example DAGs, and show a status, until Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from datetime import datetime, timedelta

import httpx
import sqlalchemy

from dev.airflow.airflow_instance import AirflowApiError
from dev.airflow.demo_emulator import DemoEmulator
from dev.airflow.processes import ProcessError
from dev.cluster.cluster import Cluster
from dev.cluster.status import Screen, Status
from dev.demo.environment import EXAMPLE_DAGS, PROJECT, prepare_home, state_directory
from dev.demo.target import Service

#: Usual ports of Airflow and the emulator.
AIRFLOW_PORT, EMULATOR_PORT = 8080, 8790
#: Seconds that an emulated generation takes.
LATENCY = 30.0
#: Seconds between two updates of the status.
BEAT = 3.0
#: Minutes after which the cluster ends, so that a forgotten one does not run for days.
MINUTES = 480.0

_COUNTS = sqlalchemy.text("SELECT state, count(*) FROM task_instance GROUP BY state")


def main() -> int:
    """Start everything, show the status, and stop everything on Ctrl-C or after the time limit."""
    minutes = _options().minutes
    for signal_number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signal_number, lambda number, _: sys.exit(128 + number))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _run_for(minutes)
    except KeyboardInterrupt:
        print()
    except (ProcessError, AirflowApiError) as error:
        print("", error, *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
        return 1
    print("Stopped. Nothing is left running.")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dev.cluster", description="A local Airflow cluster.")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"end after this time (default {MINUTES:.0f})")
    return parser.parse_args()


def _run_for(minutes: float) -> None:
    service = Service(api_key=None)
    with state_directory(PROJECT / ".demo") as directory:
        emulator = DemoEmulator(directory / "emulator", latency=LATENCY, port=EMULATOR_PORT)
        cluster = Cluster(
            directory,
            EXAMPLE_DAGS,
            connections=service.connections(emulator.url),
            port=AIRFLOW_PORT,
            environment={"HOME": str(prepare_home(directory / "home"))},
        )
        with emulator, cluster:
            print(f"\n  Airflow    {cluster.airflow.url} (no login needed)\n  Emulator   {emulator.url}")
            end = datetime.now().astimezone() + timedelta(minutes=minutes)
            print(f"  All data   {directory}\n\nTrigger example_product_catalog in Airflow to see the cluster work.")
            print(f"The cluster stops on Ctrl-C, or at {end:%H:%M on %-d %B}.\n")
            screen = Screen(sys.stdout)
            database = sqlalchemy.create_engine(cluster.postgres.url, poolclass=sqlalchemy.NullPool)
            while datetime.now().astimezone() < end:
                emulator.check_running()
                screen.show(_status(cluster, database, emulator.url).lines())
                time.sleep(BEAT)


def _status(cluster: Cluster, database: sqlalchemy.Engine, emulator_url: str) -> Status:
    ledger = httpx.get(f"{emulator_url}/_emulator/ledger", timeout=60, trust_env=False).json()
    return Status(
        revived=list(cluster.revive()),
        running={name: part.running for name, part in cluster.parts.items()},
        tasks=_tasks(database),
        billed=ledger["count"],
        usd=ledger["total_usd"],
    )


def _tasks(database: sqlalchemy.Engine) -> dict[str, int] | None:
    try:
        with database.connect() as connection:
            return {state: count for state, count in connection.execute(_COUNTS) if state}
    except sqlalchemy.exc.OperationalError:
        return None


if __name__ == "__main__":
    sys.exit(main())
