"""What both commands of the demo stand on: the emulator and a real Airflow with the example DAGs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dev.airflow.airflow_instance import AirflowInstance
from dev.airflow.demo_emulator import DemoEmulator
from dev.demo.target import Service

PROJECT = Path(__file__).resolve().parents[2]
EXAMPLE_DAGS = PROJECT / "example_dags"

#: Seconds that an emulated video takes: long enough to see Airflow wait, short enough to watch.
EMULATED_LATENCY = 15.0


@dataclass(frozen=True)
class Stage:
    """What is running."""

    airflow: AirflowInstance
    emulator: DemoEmulator


@contextmanager
def running_stage(
    service: Service, *, latency: float = EMULATED_LATENCY, airflow_port: int = 0, emulator_port: int = 0
) -> Iterator[Stage]:
    """Start everything, say so, and end it again.

    :param service: Who makes the videos.
    :param latency: Seconds that an emulated video takes.
    :param airflow_port: Preferred port of Airflow's UI; 0 means any.
    :param emulator_port: Preferred port of the emulator; 0 means any.
    """
    if not service.emulated:
        print("TOAPIS_API_KEY is set: videos are ordered from ToAPIs itself and cost real money.")
    with state_folder(PROJECT / ".demo") as folder:
        emulator = DemoEmulator(folder / "emulator", latency=latency, port=emulator_port)
        airflow = AirflowInstance(
            folder / "airflow",
            EXAMPLE_DAGS,
            connections=service.connections(emulator.url),
            port=airflow_port,
            report=print,
        )
        with emulator, airflow:
            yield Stage(airflow, emulator)


@contextmanager
def state_folder(parent: Path) -> Iterator[Path]:
    """Give a new folder for databases and logs, which outlives the block only when something went wrong."""
    parent.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=parent))
    try:
        yield folder
    except Exception as error:
        error.add_note(f"All logs are in {folder}")
        raise
    except BaseException:
        shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)
