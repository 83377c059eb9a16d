"""Orders that ask for webhooks, over real HTTP: what is posted, how the wait then goes, and what if there are none."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_toapis.batch.directory import Directory
from airflow_provider_toapis.batch.manifest import Manifest
from airflow_provider_toapis.exceptions import ToAPIsRequestError
from airflow_provider_toapis.hooks import callback_url
from airflow_provider_toapis.hooks.callback_url import TaskCoordinates
from airflow_provider_toapis.operators.batch import ToAPIsVideoBatchOperator
from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator
from airflow_provider_toapis.sensors.video import ToAPIsVideoSensor
from tests.airflow_task import FakeTaskInstance, attempt, deferral
from tests.airflow_versions import needs_airflow
from tests.integration.conftest import API_KEY, LATENCY, PROMPT, Clock, connect, render_once
from tests.integration.emulator_process import EmulatorProcess

pytestmark = needs_airflow("3.0", "its API server receives the webhooks")

#: Nobody listens there: what a webhook does is shown elsewhere.
AIRFLOW = "http://127.0.0.1:1"
#: Of both accounts, the one with webhooks and the one without.
OPTIONS: dict[str, Any] = {"latency": LATENCY, "latency_spread": 0, "submit_rps": 0, "query_rps": 0}


@pytest.fixture(scope="module")
def running_emulator() -> Iterator[EmulatorProcess]:
    hook = f"{AIRFLOW}/toapis/webhooks/toapis_default"
    with EmulatorProcess(api_key=API_KEY, webhook_url=hook, webhook_secret="s", **OPTIONS) as emulator:
        render_once(emulator)
        yield emulator


@pytest.fixture(scope="module")
def running_hookless() -> Iterator[EmulatorProcess]:
    with EmulatorProcess(api_key=API_KEY, **OPTIONS) as emulator:
        yield emulator


@pytest.fixture
def hookless(
    service: EmulatorProcess, running_hookless: EmulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> EmulatorProcess:
    """The service for an account without webhooks, in the place of the other one."""
    running_hookless.reset()
    connect(monkeypatch, running_hookless)
    return running_hookless


@pytest.fixture(autouse=True)
def _airflow_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callback_url, "_base_url", lambda: AIRFLOW)


def operator(image: str, **fields: Any) -> Callable[[], ToAPIsSubmitVideoOperator]:
    defaults: dict[str, Any] = {"task_id": "video", "prompt": PROMPT, "image": image, "deferrable": True}
    return lambda: ToAPIsSubmitVideoOperator(**(defaults | fields))


def callbacks(emulator: EmulatorProcess) -> list[str | None]:
    """Return the addresses that the orders named."""
    return [line["callback_url"] for line in emulator.ledger()["billed"]]


def trigger_of(run: Callable[[], Any]) -> dict[str, Any]:
    trigger = deferral(run).trigger
    assert trigger is not None
    arguments: dict[str, Any] = trigger.serialize()[1]
    return arguments


class TestOperator:
    def test_order_says_where_its_task_stands_and_the_wait_is_a_rare_one(
        self, service: EmulatorProcess, image: str
    ) -> None:
        ti = FakeTaskInstance(map_index=4)
        arguments = trigger_of(lambda: operator(image, webhook=True)().execute(ti.context))
        (address,) = callbacks(service)
        url = urlsplit(str(address))
        assert f"{url.scheme}://{url.netloc}{url.path}" == f"{AIRFLOW}/toapis/webhooks/toapis_default"
        assert TaskCoordinates.parse(
            {name: values[0] for name, values in parse_qs(url.query).items()}
        ) == TaskCoordinates.from_ti(ti)
        assert arguments["fallback_interval"] == 300.0

    def test_without_a_word_everything_is_as_ever(self, service: EmulatorProcess, image: str) -> None:
        arguments = trigger_of(lambda: operator(image)().execute(FakeTaskInstance().context))
        assert callbacks(service) == [None]
        assert "fallback_interval" not in arguments

    def test_connection_may_say_it_for_all_and_a_task_may_differ(
        self, service: EmulatorProcess, image: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        connect(monkeypatch, service, extra={"webhook": True, "webhook_poll_interval": 120})
        arguments = trigger_of(lambda: operator(image)().execute(FakeTaskInstance().context))
        assert arguments["fallback_interval"] == 120.0
        deferral(lambda: operator(image, webhook=False)().execute(FakeTaskInstance(run_id="other").context))
        assert [address is None for address in callbacks(service)] == [False, True]

    def test_longer_poll_interval_is_kept(self, service: EmulatorProcess, image: str) -> None:
        make = operator(image, webhook=True, poll_interval=600)
        assert trigger_of(lambda: make().execute(FakeTaskInstance().context))["fallback_interval"] == 600.0

    def test_worker_that_waits_itself_cannot_be_woken(self, service: EmulatorProcess, image: str) -> None:
        attempt(operator(image, webhook=True, deferrable=False), FakeTaskInstance())
        assert callbacks(service) == [None]

    def test_order_that_a_sensor_waits_for_names_an_address_too(self, service: EmulatorProcess, image: str) -> None:
        attempt(operator(image, webhook=True, deferrable=False, wait_for_completion=False), FakeTaskInstance())
        assert callbacks(service) != [None]

    def test_video_that_is_adopted_is_asked_for_as_usual(self, service: EmulatorProcess, image: str) -> None:
        ti = FakeTaskInstance()
        deferral(lambda: operator(image, webhook=True)().execute(ti.context))
        ti.next_attempt()
        arguments = trigger_of(lambda: operator(image, webhook=True)().execute(ti.context))
        assert "fallback_interval" not in arguments
        assert len(callbacks(service)) == 1

    def test_task_that_was_woken_too_early_waits_on_as_usual(self, service: EmulatorProcess, image: str) -> None:
        ti = FakeTaskInstance()
        first = trigger_of(lambda: operator(image, webhook=True)().execute(ti.context))
        event = {"status": "success", "video_id": first["video_id"], "end_time": first["end_time"], "message": ""}
        again = trigger_of(lambda: operator(image, webhook=True)().execute_complete(ti.context, event))
        assert again == {name: value for name, value in first.items() if name != "fallback_interval"}

    def test_video_without_a_webhook_that_arrives_is_found_all_the_same(
        self, service: EmulatorProcess, image: str, clock: Clock
    ) -> None:
        result = attempt(operator(image, webhook=True), FakeTaskInstance())
        assert result["status"] == "completed"
        assert LATENCY < clock.offset < 400

    def test_account_without_webhooks(self, hookless: EmulatorProcess, image: str, logged: Callable[[], str]) -> None:
        with pytest.raises(AirflowFailException, match="Enter the receiver's URL") as refused:
            attempt(operator(image, webhook=True), FakeTaskInstance())
        assert isinstance(refused.value, ToAPIsRequestError)
        assert hookless.ledger()["count"] == 0
        arguments = trigger_of(lambda: operator(image, webhook="auto")().execute(FakeTaskInstance().context))
        assert "fallback_interval" not in arguments
        assert hookless.ledger()["count"] == 1
        assert "No webhook will report this video" in logged()

    def test_address_that_cannot_be_reached_is_refused_before_anything_is_paid(
        self, service: EmulatorProcess, image: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(callback_url, "_base_url", lambda: "http://airflow.shop.example")
        with pytest.raises(AirflowFailException, match="webhooks require the public https URL"):
            attempt(operator(image, webhook=True), FakeTaskInstance())
        assert service.request_counts().get("submit", 0) == 0
        deferral(lambda: operator(image, webhook="auto")().execute(FakeTaskInstance().context))
        assert callbacks(service) == [None]

    def test_word_that_is_none_is_refused_when_the_dag_is_parsed(self, image: str) -> None:
        with pytest.raises(ToAPIsRequestError, match="webhook='always'"):
            operator(image, webhook="always")()


class TestSensor:
    def test_it_asks_rarely_when_told_that_a_webhook_will_come(self, service: EmulatorProcess, image: str) -> None:
        video = attempt(operator(image, wait_for_completion=False, webhook=True), FakeTaskInstance())["id"]

        def arguments(**fields: Any) -> dict[str, Any]:
            sensor = ToAPIsVideoSensor(task_id="wait", video_id=video, deferrable=True, **fields)
            return trigger_of(lambda: sensor.execute(FakeTaskInstance().context))

        assert arguments(webhook=True)["fallback_interval"] == 300.0
        assert "fallback_interval" not in arguments()


class TestBatch:
    @pytest.fixture
    def make(self, image: str, tmp_path: Path) -> Callable[..., ToAPIsVideoBatchOperator]:
        rows = [{"key": f"sku-{n}", "prompt": f"{PROMPT} {n}", "image": image} for n in range(4)]
        defaults: dict[str, Any] = {
            "task_id": "catalog",
            "requests": rows,
            "output_path": str(tmp_path),
            "deferrable": True,
            "max_failures": 4,
        }
        return lambda **fields: ToAPIsVideoBatchOperator(**(defaults | fields))

    def test_each_order_names_the_task_and_the_manifest_remembers(
        self, service: EmulatorProcess, make: Callable[..., ToAPIsVideoBatchOperator], tmp_path: Path
    ) -> None:
        ti = FakeTaskInstance(task_id="catalog")
        arguments = trigger_of(lambda: make(webhook=True).execute(ti.context))
        assert len(set(callbacks(service))) == 1
        assert "task_id=catalog&" in str(callbacks(service)[0])
        assert (arguments["webhook_positions"], arguments["fallback_interval"]) == ("0xf", 300.0)
        lines = [json.loads(line) for path in tmp_path.rglob("*.jsonl") for line in path.read_text().splitlines()]
        assert all(line["submission"]["webhook"] for line in lines if line["submission"]["video_id"])

    def test_next_night_goes_on_with_webhooks_for_what_was_ordered_with_them(
        self, service: EmulatorProcess, make: Callable[..., ToAPIsVideoBatchOperator]
    ) -> None:
        deferral(lambda: make(webhook=True).execute(FakeTaskInstance(task_id="catalog").context))
        tonight = FakeTaskInstance(task_id="catalog", run_id="scheduled__2")
        arguments = trigger_of(lambda: make(webhook=True).execute(tonight.context))
        assert arguments["webhook_positions"] == "0xf"
        assert service.ledger()["count"] == 4

    def test_account_without_webhooks_refuses_one_order_at_a_time_and_gets_the_others_without(
        self,
        hookless: EmulatorProcess,
        make: Callable[..., ToAPIsVideoBatchOperator],
    ) -> None:
        arguments = trigger_of(lambda: make(webhook="auto").execute(FakeTaskInstance(task_id="catalog").context))
        assert "webhook_positions" not in arguments
        assert hookless.ledger()["count"] == 4

    def test_batch_ends_well_when_no_webhook_arrives(
        self, service: EmulatorProcess, make: Callable[..., ToAPIsVideoBatchOperator], tmp_path: Path
    ) -> None:
        result = attempt(lambda: make(webhook=True), FakeTaskInstance(task_id="catalog"))
        assert result["saved"] == 4
        assert {entry.state for entry in Manifest(Directory(str(tmp_path))).entries.values()} == {"saved"}

    def test_batch_that_needs_webhooks_stops_at_the_first_row_where_the_account_has_none(
        self,
        hookless: EmulatorProcess,
        make: Callable[..., ToAPIsVideoBatchOperator],
    ) -> None:
        with pytest.raises(AirflowFailException, match="Enter the receiver's URL"):
            make(webhook=True).execute(FakeTaskInstance(task_id="catalog").context)
        assert hookless.ledger()["count"] == 0
