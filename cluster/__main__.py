"""``python -m cluster``: the cluster with the emulator and the example DAGs, and what it does, until Ctrl-C."""

from __future__ import annotations

import signal
import sys
import time

import httpx
import sqlalchemy

from cluster.cluster import Cluster
from cluster.status import Screen, Status
from demo.airflow_instance import AirflowApiError
from demo.emulator_process import EmulatorProcess
from demo.processes import ProcessError
from demo.service import Service
from demo.stage import EXAMPLE_DAGS, PROJECT, state_folder

#: The ports that people expect Airflow and the emulator at.
AIRFLOW_PORT, EMULATOR_PORT = 8080, 8790
#: Seconds that an emulated video takes.
LATENCY = 30.0
#: Seconds from one look to the next.
BEAT = 3.0

_COUNTS = sqlalchemy.text("SELECT state, count(*) FROM task_instance GROUP BY state")


def main() -> int:
    """Start everything, show what happens, and end everything on Ctrl-C."""
    for signal_number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signal_number, lambda number, _: sys.exit(128 + number))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _stay_up()
    except KeyboardInterrupt:
        print("\nStopped. Nothing is left running.")
    except (ProcessError, AirflowApiError) as error:
        print("", error, *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
        return 1
    return 0


def _stay_up() -> None:
    service = Service(api_key=None)
    with state_folder(PROJECT / ".demo") as folder:
        emulator = EmulatorProcess(folder / "emulator", latency=LATENCY, port=EMULATOR_PORT)
        cluster = Cluster(folder, EXAMPLE_DAGS, connections=service.connections(emulator.url), port=AIRFLOW_PORT)
        with emulator, cluster:
            print(f"\n  Airflow    {cluster.airflow.url} (no login needed)\n  Emulator   {emulator.url}")
            print(f"  All data   {folder}\n\nCtrl-C ends everything.\n")
            screen = Screen(sys.stdout)
            database = sqlalchemy.create_engine(cluster.postgres.url, poolclass=sqlalchemy.NullPool)
            while True:
                screen.show(_status(cluster, database, emulator.url).lines())
                time.sleep(BEAT)


def _status(cluster: Cluster, database: sqlalchemy.Engine, emulator_url: str) -> Status:
    ledger = httpx.get(f"{emulator_url}/_emulator/ledger", trust_env=False).json()
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
