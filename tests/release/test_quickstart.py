"""The README's quickstart, run where only Airflow and the wheel are installed."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests import quickstart
from tests.integration.emulator_process import API_KEY, EmulatorProcess
from tests.release.bare_airflow import BareAirflow
from tests.release.source import CONSTRAINTS, PROJECT

#: The newest and the oldest supported Airflow. Airflow 2.11 does not support Python 3.13.
CONSTRAINTS_BY_VERSION = {"3.3": CONSTRAINTS}
if sys.version_info < (3, 13):
    CONSTRAINTS_BY_VERSION["2.11"] = PROJECT / "dev" / "constraints" / "airflow-2.11.txt"

#: A warning that names one of these files is caused by the quickstart.
_PROVIDER_FILES = re.compile(r"one_video\.py|airflow_provider_toapis")


@pytest.mark.parametrize("version", CONSTRAINTS_BY_VERSION)
def test_quickstart_commands_run_with_the_wheel(wheel: Path, tmp_path: Path, version: str) -> None:
    install, add_connection, run_dag = quickstart.commands()
    airflow = BareAirflow(tmp_path / "home")
    assert install == "pip install airflow-provider-toapis"
    airflow.install(wheel, CONSTRAINTS_BY_VERSION[version])
    assert airflow.version().startswith(f"{version}.")
    airflow.run("airflow db migrate")
    Image.new("RGB", (640, 480), "teal").save(airflow.home / "sneaker.jpg")
    (airflow.dags_folder / "one_video.py").write_text(quickstart.dag_file(), encoding="utf-8")

    with EmulatorProcess(latency=1, api_key=API_KEY) as emulator:
        airflow.run(f"{add_connection} --conn-host {emulator.url}", TOAPIS_API_KEY=API_KEY)
        output = airflow.run(run_dag)
        posted = emulator.ledger()["posted"]

    (video,) = (airflow.home / "videos").glob("*.mp4")
    assert video.read_bytes()[4:8] == b"ftyp"
    assert posted == 1
    assert output.count("running trigger in line") == 1
    assert [line for line in output.splitlines() if "Warning" in line and _PROVIDER_FILES.search(line)] == []
    assert API_KEY not in output
