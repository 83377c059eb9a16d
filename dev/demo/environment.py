"""The environment of the demo's commands: the emulator and a real Airflow with the example DAGs."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from airflow_provider_toapis.emulator.shop import PRODUCT_IMAGES, PRODUCTS
from dev.airflow.airflow_instance import AirflowInstance
from dev.airflow.demo_emulator import DemoEmulator
from dev.demo.target import Service

PROJECT = Path(__file__).resolve().parents[2]
EXAMPLE_DAGS = PROJECT / "example_dags"

#: Seconds that an emulated generation takes. Long enough to see Airflow wait, and short enough to watch.
EMULATED_LATENCY = 15.0


@dataclass(frozen=True)
class Environment:
    """The running Airflow, the running emulator, and the home directory of the example DAGs."""

    airflow: AirflowInstance
    emulator: DemoEmulator
    home: Path


@contextmanager
def running_environment(
    service: Service, *, latency: float = EMULATED_LATENCY, airflow_port: int = 0, emulator_port: int = 0
) -> Iterator[Environment]:
    """Run Airflow and the emulator until the ``with`` block ends. The steps of the start are printed.

    :param service: The service that generates the videos.
    :param latency: Seconds that an emulated generation takes.
    :param airflow_port: Preferred port of Airflow's UI; 0 selects any free port.
    :param emulator_port: Preferred port of the emulator; 0 selects any free port.
    """
    if not service.emulated:
        print("REAL=1: videos are submitted to ToAPIs and billed. DAGs are paused at first.")
    with state_directory(PROJECT / ".demo") as directory:
        emulator = DemoEmulator(directory / "emulator", latency=latency, port=emulator_port)
        airflow = AirflowInstance(
            directory / "airflow",
            EXAMPLE_DAGS,
            connections=service.connections(emulator.url),
            port=airflow_port,
            environment={
                "HOME": str(prepare_home(directory / "home")),
                # The page "Videos" plays what is saved there.
                "AIRFLOW__TOAPIS__MEDIA_ROOTS": str(directory / "home"),
                # A scheduled example must not spend money before a person enables it.
                "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": str(not service.emulated),
            },
            report=print,
        )
        with emulator, airflow:
            yield Environment(airflow, emulator, directory / "home")


def prepare_home(home: Path) -> Path:
    """Create a home directory with the image and the product feed that the example DAGs read by default."""
    home.mkdir(parents=True)
    image = home / "sneaker.jpg"
    shutil.copy(PRODUCT_IMAGES / image.name, image)
    rows = [
        {"key": product.sku, "prompt": product.prompt, "image": str(PRODUCT_IMAGES / product.image_file)}
        for product in PRODUCTS
    ]
    (home / "products.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return home


@contextmanager
def state_directory(parent: Path) -> Iterator[Path]:
    """Yield a new directory for databases and logs. It is deleted at the end unless the block raises an exception."""
    parent.mkdir(exist_ok=True)
    directory = Path(tempfile.mkdtemp(dir=parent))
    try:
        yield directory
    except Exception as error:
        error.add_note(f"All logs are in {directory}")
        raise
    except BaseException:
        shutil.rmtree(directory)
        raise
    shutil.rmtree(directory)
