"""A DAG run in a real Airflow of the installed version, with the components that this version needs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import av
import pytest

from airflow_provider_toapis.version_compat import AIRFLOW_V_3_1_PLUS
from tests.integration.conftest import image_url
from tests.integration.emulator_process import API_KEY, EmulatorProcess
from tests.matrix.only_run import OnlyRun, States, only_run

DAG_ID = "deferred_everywhere"
#: A warning about a file of the provider, as Python prints it and as Airflow 3 logs it.
OUR_WARNING = re.compile(r"airflow_provider_toapis/[\w/]+\.py.*Warning|Warning.*airflow_provider_toapis/")


@pytest.fixture(scope="module")
def emulator() -> Iterator[EmulatorProcess]:
    # No video is ready before the test finishes it. Without progress, each is polled every few seconds.
    with EmulatorProcess(latency=3600, no_progress=True) as process:
        yield process


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file to which the video is saved."""
    return tmp_path_factory.mktemp("videos") / "turn.mp4"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, emulator: EmulatorProcess, output: Path) -> Iterator[OnlyRun]:
    """Run the DAG until it succeeds. Both waiting tasks must be deferred and resumed."""
    connection = {"conn_type": "toapis", "host": emulator.url, "password": API_KEY}
    environment = {
        "AIRFLOW_CONN_TOAPIS_DEFAULT": json.dumps(connection),
        "MATRIX_IMAGE": image_url(emulator),
        "MATRIX_OUTPUT": str(output),
        "PYTHONWARNINGS": "always",
    }
    dags = Path(__file__).parent / "deferred_dags"
    with only_run(tmp_path_factory.mktemp("airflow"), dags, DAG_ID, environment) as run:
        deferred: States = {"make_video": "deferred", "submit_video": "success", "wait_for_video": "deferred"}
        run.wait_for(lambda states: states == deferred)
        for line in emulator.ledger()["billed"]:
            emulator.finish(line["id"])
        run.wait_for(lambda states: set(states.values()) == {"success"})
        yield run


@pytest.mark.usefixtures("run")
def test_deferred_task_saves_its_video(output: Path) -> None:
    with av.open(output, "r") as container:
        assert next(container.decode(video=0))


@pytest.mark.usefixtures("run")
def test_each_video_is_submitted_and_billed_once(emulator: EmulatorProcess) -> None:
    ledger = emulator.ledger()
    assert (ledger["posted"], ledger["count"]) == (2, 2)
    assert {line["status"] for line in ledger["billed"]} == {"settled"}


@pytest.mark.skipif(not AIRFLOW_V_3_1_PLUS, reason="Before 3.1, Airflow's UI has no pages of plugins")
def test_pages_inside_airflow_show_the_saved_video(run: OnlyRun, emulator: EmulatorProcess, output: Path) -> None:
    listed = run.get_page("/toapis/videos/")
    shown = run.get_page(f"/toapis/videos/{DAG_ID}/{{run_id}}/make_video")

    assert (listed.status_code, shown.status_code) == (200, 200)
    assert output.name in listed.text
    assert len([line for line in emulator.ledger()["billed"] if line["id"] in shown.text]) == 1


def test_provider_causes_no_warnings(run: OnlyRun) -> None:
    lines = run.logs().splitlines()
    assert any("Warning" in line for line in lines), "Airflow's own warnings must be in the logs"
    assert [line for line in lines if OUR_WARNING.search(line)] == []
