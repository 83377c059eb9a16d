"""One real Airflow for several modules, with the example DAGs, three emulators, and all runs in parallel."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.remote import Producer  # type: ignore[import-untyped]
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

from dev.airflow.airflow_instance import AirflowInstance
from tests.e2e.dag_run import Run
from tests.integration.emulator_process import EmulatorProcess

PROJECT = Path(__file__).parents[2]

#: Modules whose tests share one Airflow.
SHARING = ("test_e2e_marked_failed", "test_e2e_runs", "test_e2e_ui")

#: Seconds that a video takes, long enough that all videos of a run are in progress at the same time.
LATENCY = 20.0
#: Prompt of the video that a sensor waits for.
AWAITED = "The shoe is awaited"
#: Prompt of a video that is half as long as requested.
SHORT = "The shoe is seen for a short time"


class _OneProcessPerFile(LoadFileScheduling):  # type: ignore[misc] # its package has no types
    """Runs all tests of a file in one process, and all tests that share an Airflow."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return "shared Airflow" if Path(file).stem in SHARING else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    """Distribute the tests over the processes of ``--numprocesses``."""
    return _OneProcessPerFile(config, log)


@pytest.fixture(scope="session")
def emulator() -> Iterator[EmulatorProcess]:
    with EmulatorProcess(latency=LATENCY) as process:
        yield process


@pytest.fixture(scope="session")
def unreliable_emulator() -> Iterator[EmulatorProcess]:
    with EmulatorProcess(latency=LATENCY) as process:
        yield process


@pytest.fixture(scope="session")
def slow_emulator() -> Iterator[EmulatorProcess]:
    """Serves the connection ``toapis_slow``, over which one video is submitted each second."""
    with EmulatorProcess(latency=LATENCY) as process:
        yield process


@pytest.fixture(scope="session")
def lineage_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File for the events of Airflow's OpenLineage provider."""
    return tmp_path_factory.mktemp("lineage") / "events.jsonl"


@pytest.fixture(scope="session")
def airflow(
    tmp_path_factory: pytest.TempPathFactory,
    emulator: EmulatorProcess,
    unreliable_emulator: EmulatorProcess,
    slow_emulator: EmulatorProcess,
    lineage_file: Path,
) -> Iterator[AirflowInstance]:
    dags_folder = tmp_path_factory.mktemp("dags")
    for source in (PROJECT / "example_dags", Path(__file__).parent / "dags"):
        shutil.copytree(source, dags_folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    connections = {
        "toapis_default": {"conn_type": "toapis", "host": emulator.url, "password": "sk-emulator"},
        "toapis_unreliable": {"conn_type": "toapis", "host": unreliable_emulator.url, "password": "sk-emulator"},
        "toapis_slow": {
            "conn_type": "toapis",
            "host": slow_emulator.url,
            "password": "sk-emulator",
            "extra": json.dumps({"submit_rate": 1}),
        },
        "shop_api": {"conn_type": "http", "host": emulator.url},
    }
    environment = {
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(
            {"type": "file", "log_file_path": str(lineage_file), "append": True}
        ),
    }
    with AirflowInstance(
        tmp_path_factory.mktemp("airflow"), dags_folder, connections=connections, environment=environment
    ) as instance:
        yield instance


@pytest.fixture(scope="session")
def products(emulator: EmulatorProcess) -> list[dict[str, Any]]:
    feed: list[dict[str, Any]] = emulator.get("/shop/products").json()["products"]
    return feed


@pytest.fixture(scope="session")
def runs(
    airflow: AirflowInstance,
    emulator: EmulatorProcess,
    unreliable_emulator: EmulatorProcess,
    products: list[dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Run]:
    """Trigger all DAGs at once, because most of their time is waiting."""
    output = tmp_path_factory.mktemp("videos")
    # The fault is active until a test has seen the waiting sensor, which starts late on a busy machine.
    emulator.add_fault(on="status", kind="task_status", value="in_progress", match=AWAITED, times=-1)
    emulator.add_fault(on="submit", kind="flaw", name="short", match=SHORT, times=-1)
    for kind in ({"kind": "error", "name": "internal_error"}, {"kind": "html", "status": 502}):
        unreliable_emulator.add_fault(on="status", times=3, **kind)
    image = {"image": products[0]["image"]}
    file = next(product["image"] for product in products if not product["image"].startswith("http"))
    feed = output / "feed.jsonl"
    feed.write_text("\n".join(json.dumps({"key": f"p{n}", "prompt": f"It turns {n}", **image}) for n in range(6)))
    configurations = {
        "example_product_catalog": {"output_directory": str(output / "catalog")},
        "example_submit_then_wait": {**image, "prompt": AWAITED, "output_path": str(output / "submitted.mp4")},
        "example_check_video": {**image, "prompt": SHORT, "output_directory": str(output / "checked")},
        "example_approval": {**image, "sku": products[0]["sku"], "output_directory": str(output / "approved")},
        "example_variations": {"image": file, "output_directory": str(output / "variations")},
        "example_video_asset": {**image, "sku": products[1]["sku"], "output_directory": str(output / "announced")},
        "example_nightly_catalog": {"feed": str(feed), "output_directory": str(output / "nightly")},
        "described_by_a_function": {"products": products[:2], "output_directory": str(output / "described")},
        "waiting_in_the_worker": {
            **image,
            "output_path": str(output / "worker.mp4"),
            "directory": str(output / "worker"),
        },
        "unreliable_service": {**image, "output_path": str(output / "unreliable.mp4")},
    }
    return {
        dag_id: Run(airflow, dag_id, airflow.trigger(dag_id, configuration), output)
        for dag_id, configuration in configurations.items()
    }
