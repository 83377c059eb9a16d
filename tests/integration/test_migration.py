"""Run both chains of docs/migration.md with the same lost responses, and count what the service bills."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

from tests.airflow_task import FakeTaskInstance, attempt
from tests.integration.conftest import API_KEY
from tests.integration.emulator_process import EmulatorProcess
from tests.integration.test_docs_code import PROJECT, blocks_of

ATTEMPTS = 4


@pytest.fixture
def chains(service: EmulatorProcess, image: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> list[Any]:
    """Return the two DAGs of the page. The service loses the responses to three submissions."""
    host, port = service.url.removeprefix("http://").split(":")
    connection = {"conn_type": "http", "schema": "http", "host": host, "port": int(port), "password": API_KEY}
    monkeypatch.setenv("AIRFLOW_CONN_TOAPIS_HTTP", json.dumps(connection))
    service.add_fault(on="submit", kind="drop", after=True, times=ATTEMPTS - 1)
    dags = []
    for block in list(blocks_of(PROJECT / "docs" / "migration.md"))[:2]:
        code = block.code.replace("https://shop.example/sneaker.jpg", image).replace("/data/videos", str(tmp_path))
        names: dict[str, Any] = {}
        exec(code.replace("schedule=None):", "schedule=None) as dag:"), names)
        dags.append(names)
    return dags


def test_chain_of_http_tasks_submits_again_after_every_lost_response(
    chains: list[Any], service: EmulatorProcess
) -> None:
    before = chains[0]
    submit = before["dag"].get_task("submit")
    submit.data, submit.headers = (
        json.dumps(before["BODY"]),
        {**before["HEADERS"], "Authorization": f"Bearer {API_KEY}"},
    )

    for _ in range(submit.retries):
        with pytest.raises(requests.ConnectionError):
            submit.execute({})
    submit.execute({})

    assert service.ledger()["posted"] == ATTEMPTS


def test_operator_submits_once_after_any_number_of_lost_responses(chains: list[Any], service: EmulatorProcess) -> None:
    task = chains[1]["dag"].get_task("make_video")

    video = attempt(lambda: task, FakeTaskInstance(task_id="make_video"))

    assert service.ledger()["posted"] == 1
    assert video["output_path"].endswith("sneaker.mp4")
