"""What docs/migration.md says of both chains, counted by the service: the same bad night, and what it costs."""

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
def chains(service: EmulatorProcess, picture: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> list[Any]:
    """The two DAGs of the page, on a service that loses the answers to three orders."""
    host, port = service.url.removeprefix("http://").split(":")
    connection = {"conn_type": "http", "schema": "http", "host": host, "port": int(port), "password": API_KEY}
    monkeypatch.setenv("AIRFLOW_CONN_TOAPIS_HTTP", json.dumps(connection))
    service.add_fault(on="submit", kind="drop", after=True, times=ATTEMPTS - 1)
    dags = []
    for block in list(blocks_of(PROJECT / "docs" / "migration.md"))[:2]:
        code = block.code.replace("https://shop.example/sneaker.jpg", picture).replace("/data/videos", str(tmp_path))
        names: dict[str, Any] = {}
        exec(code.replace("schedule=None):", "schedule=None) as dag:"), names)
        dags.append(names)
    return dags


def test_chain_of_http_tasks_orders_again_with_every_lost_answer(chains: list[Any], service: EmulatorProcess) -> None:
    before = chains[0]
    order = before["dag"].get_task("order")
    order.data, order.headers = json.dumps(before["BODY"]), {**before["HEADERS"], "Authorization": f"Bearer {API_KEY}"}

    for _ in range(order.retries):
        with pytest.raises(requests.ConnectionError):
            order.execute({})
    order.execute({})

    assert service.ledger()["posted"] == ATTEMPTS


def test_operator_orders_once_however_many_answers_are_lost(chains: list[Any], service: EmulatorProcess) -> None:
    task = chains[1]["dag"].get_task("make_video")

    video = attempt(lambda: task, FakeTaskInstance(task_id="make_video"))

    assert service.ledger()["posted"] == 1
    assert video["output_path"].endswith("sneaker.mp4")
