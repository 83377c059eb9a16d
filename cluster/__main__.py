"""``python -m cluster``: the cluster with the emulator and the example DAGs, and what it does, until Ctrl-C."""

from __future__ import annotations

import signal
import sys
import time
from collections import Counter

import httpx

from cluster.cluster import Cluster
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

_STATES = ("running", "queued", "scheduled", "deferred", "up_for_retry", "success", "failed")


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
            screen = Screen()
            while True:
                revived = list(cluster.revive())
                screen.show(status_page(cluster, emulator.url, revived))
                time.sleep(BEAT)


def status_page(cluster: Cluster, emulator_url: str, revived: list[str]) -> list[str]:
    """Return the lines that say how the cluster is."""
    parts = [f"{'●' if cluster.is_running(part) else '○'} {part}" for part in cluster.parts]
    lines = ["   ".join(parts[:4]), "   ".join(parts[4:])]
    try:
        instances = cluster.airflow.api("GET", "dags/~/dagRuns/~/taskInstances", params={"limit": 1000})
        counts = Counter(instance["state"] for instance in instances["task_instances"])
        lines.append("tasks      " + ", ".join(f"{counts[state]} {state}" for state in _STATES if counts[state]))
    except AirflowApiError:
        lines.append("tasks      the API server does not answer")
    billed = httpx.get(f"{emulator_url}/_emulator/ledger", trust_env=False).json()
    lines.append(f"videos     {billed['count']} billed, {billed['total_usd']} USD")
    return [*lines, *(f"started again: {part}" for part in revived)]


class Screen:
    """Shows pages; on a terminal each takes the place of the one before."""

    def __init__(self) -> None:
        self._height = 0

    def show(self, lines: list[str]) -> None:
        """Show a page."""
        back = f"\033[{self._height}F\033[J" if self._height and sys.stdout.isatty() else ""
        print(back + "\n".join(lines), flush=True)
        self._height = len(lines)


if __name__ == "__main__":
    sys.exit(main())
