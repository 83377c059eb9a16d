"""Submissions that request webhooks, over real HTTP: their callback URL, the wait, and accounts without webhooks."""

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

#: No server listens there, because other tests check the receiver.
AIRFLOW = "http://127.0.0.1:1"
#: Options of both emulators, with and without webhooks.
OPTIONS: dict[str, Any] = {"latency": LATENCY, "latency_spread": 0, "submit_rps": 0, "query_rps": 0}


@pytest.fixture(scope="module")
def running_emulator() -> Iterator[EmulatorProcess]:
    hook = f"{AIRFLOW}/toapis/webhooks/toapis_default"
    with EmulatorProcess(api_key=API_KEY, webhook_url=hook, webhook_secret="s", **OPTIONS) as emulator:
        render_once(emulator)
        yield emulator


@pytest.fixture(scope="module")
def running_without_webhooks() -> Iterator[EmulatorProcess]:
    with EmulatorProcess(api_key=API_KEY, **OPTIONS) as emulator:
        yield emulator


@pytest.fixture
def without_webhooks(
    service: EmulatorProcess, running_without_webhooks: EmulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> EmulatorProcess:
    """Connect to an emulator for an account without webhooks."""
    running_without_webhooks.reset()
    connect(monkeypatch, running_without_webhooks)
    return running_without_webhooks


@pytest.fixture(autouse=True)
def _airflow_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callback_url, "_base_url", lambda: AIRFLOW)


def operator(image: str, **fields: Any) -> Callable[[], ToAPIsSubmitVideoOperator]:
    defaults: dict[str, Any] = {"task_id": "video", "prompt": PROMPT, "image": image, "deferrable": True}
    return lambda: ToAPIsSubmitVideoOperator(**(defaults | fields))


def callback_urls(emulator: EmulatorProcess) -> list[str | None]:
    """Return the callback URLs of the submissions."""
    return [line["callback_url"] for line in emulator.ledger()["billed"]]


def trigger_of(run: Callable[[], Any]) -> dict[str, Any]:
    trigger = deferral(run).trigger
    assert trigger is not None
    arguments: dict[str, Any] = trigger.serialize()[1]
    return arguments


class TestOperator:
    def test_callback_url_has_the_task_coordinates_and_the_wait_polls_rarely(
        self, service: EmulatorProcess, image: str
    ) -> None:
        ti = FakeTaskInstance(map_index=4)
        arguments = trigger_of(lambda: operator(image, webhook=True)().execute(ti.context))
        (callback,) = callback_urls(service)
        url = urlsplit(str(callback))
        assert f"{url.scheme}://{url.netloc}{url.path}" == f"{AIRFLOW}/toapis/webhooks/toapis_default"
        assert TaskCoordinates.parse(
            {name: values[0] for name, values in parse_qs(url.query).items()}
        ) == TaskCoordinates.from_ti(ti)
        assert arguments["fallback_interval"] == 300.0

    def test_default_requests_no_webhook(self, service: EmulatorProcess, image: str) -> None:
        arguments = trigger_of(lambda: operator(image)().execute(FakeTaskInstance().context))
        assert callback_urls(service) == [None]
        assert "fallback_interval" not in arguments

    def test_connection_enables_webhooks_and_a_task_disables_them(
        self, service: EmulatorProcess, image: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        connect(monkeypatch, service, extra={"webhook": True, "webhook_poll_interval": 120})
        arguments = trigger_of(lambda: operator(image)().execute(FakeTaskInstance().context))
        assert arguments["fallback_interval"] == 120.0
        deferral(lambda: operator(image, webhook=False)().execute(FakeTaskInstance(run_id="other").context))
        assert [callback is None for callback in callback_urls(service)] == [False, True]

    def test_longer_poll_interval_takes_precedence(self, service: EmulatorProcess, image: str) -> None:
        make = operator(image, webhook=True, poll_interval=600)
        assert trigger_of(lambda: make().execute(FakeTaskInstance().context))["fallback_interval"] == 600.0

    def test_wait_in_the_worker_requests_no_webhook(self, service: EmulatorProcess, image: str) -> None:
        attempt(operator(image, webhook=True, deferrable=False), FakeTaskInstance())
        assert callback_urls(service) == [None]

    def test_submission_without_waiting_has_a_callback_url(self, service: EmulatorProcess, image: str) -> None:
        attempt(operator(image, webhook=True, deferrable=False, wait_for_completion=False), FakeTaskInstance())
        assert callback_urls(service) != [None]

    def test_reattached_video_is_polled_at_the_usual_interval(self, service: EmulatorProcess, image: str) -> None:
        ti = FakeTaskInstance()
        deferral(lambda: operator(image, webhook=True)().execute(ti.context))
        ti.next_attempt()
        arguments = trigger_of(lambda: operator(image, webhook=True)().execute(ti.context))
        assert "fallback_interval" not in arguments
        assert len(callback_urls(service)) == 1

    def test_task_resumed_too_early_polls_at_the_usual_interval(self, service: EmulatorProcess, image: str) -> None:
        ti = FakeTaskInstance()
        first = trigger_of(lambda: operator(image, webhook=True)().execute(ti.context))
        event = {"status": "success", "video_id": first["video_id"], "end_time": first["end_time"], "message": ""}
        again = trigger_of(lambda: operator(image, webhook=True)().execute_complete(ti.context, event))
        assert again == {name: value for name, value in first.items() if name != "fallback_interval"}

    def test_video_whose_webhook_never_arrives_is_found_by_polling(
        self, service: EmulatorProcess, image: str, clock: Clock
    ) -> None:
        result = attempt(operator(image, webhook=True), FakeTaskInstance())
        assert result["status"] == "completed"
        assert LATENCY < clock.offset < 400

    def test_account_without_webhooks_is_rejected_or_polled(
        self, without_webhooks: EmulatorProcess, image: str, logged: Callable[[], str]
    ) -> None:
        with pytest.raises(AirflowFailException, match="Enter the receiver's URL") as rejected:
            attempt(operator(image, webhook=True), FakeTaskInstance())
        assert isinstance(rejected.value, ToAPIsRequestError)
        assert without_webhooks.ledger()["count"] == 0
        arguments = trigger_of(lambda: operator(image, webhook="auto")().execute(FakeTaskInstance().context))
        assert "fallback_interval" not in arguments
        assert without_webhooks.ledger()["count"] == 1
        assert "No webhook will report this video" in logged()

    def test_private_callback_url_is_rejected_before_any_submission(
        self, service: EmulatorProcess, image: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(callback_url, "_base_url", lambda: "http://airflow.shop.example")
        with pytest.raises(AirflowFailException, match="webhooks require the public https URL"):
            attempt(operator(image, webhook=True), FakeTaskInstance())
        assert service.request_counts().get("submit", 0) == 0
        deferral(lambda: operator(image, webhook="auto")().execute(FakeTaskInstance().context))
        assert callback_urls(service) == [None]

    def test_invalid_webhook_value_is_rejected_when_the_dag_is_parsed(self, image: str) -> None:
        with pytest.raises(ToAPIsRequestError, match="webhook='always'"):
            operator(image, webhook="always")()


class TestSensor:
    def test_sensor_with_webhook_polls_rarely(self, service: EmulatorProcess, image: str) -> None:
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

    def test_each_submission_has_the_tasks_callback_url_and_the_manifest_records_the_webhook(
        self, service: EmulatorProcess, make: Callable[..., ToAPIsVideoBatchOperator], tmp_path: Path
    ) -> None:
        ti = FakeTaskInstance(task_id="catalog")
        arguments = trigger_of(lambda: make(webhook=True).execute(ti.context))
        assert len(set(callback_urls(service))) == 1
        assert "task_id=catalog&" in str(callback_urls(service)[0])
        assert (arguments["webhook_positions"], arguments["fallback_interval"]) == ("0xf", 300.0)
        lines = [json.loads(line) for path in tmp_path.rglob("*.jsonl") for line in path.read_text().splitlines()]
        assert all(line["submission"]["webhook"] for line in lines if line["submission"]["video_id"])

    def test_next_run_expects_webhooks_for_videos_submitted_with_them(
        self, service: EmulatorProcess, make: Callable[..., ToAPIsVideoBatchOperator]
    ) -> None:
        deferral(lambda: make(webhook=True).execute(FakeTaskInstance(task_id="catalog").context))
        second_run = FakeTaskInstance(task_id="catalog", run_id="scheduled__2")
        arguments = trigger_of(lambda: make(webhook=True).execute(second_run.context))
        assert arguments["webhook_positions"] == "0xf"
        assert service.ledger()["count"] == 4

    def test_batch_with_webhook_auto_falls_back_for_an_account_without_webhooks(
        self,
        without_webhooks: EmulatorProcess,
        make: Callable[..., ToAPIsVideoBatchOperator],
    ) -> None:
        arguments = trigger_of(lambda: make(webhook="auto").execute(FakeTaskInstance(task_id="catalog").context))
        assert "webhook_positions" not in arguments
        assert without_webhooks.ledger()["count"] == 4

    def test_batch_without_arriving_webhooks_succeeds_by_polling(
        self, service: EmulatorProcess, make: Callable[..., ToAPIsVideoBatchOperator], tmp_path: Path
    ) -> None:
        result = attempt(lambda: make(webhook=True), FakeTaskInstance(task_id="catalog"))
        assert result["saved"] == 4
        assert {entry.state for entry in Manifest(Directory(str(tmp_path))).entries.values()} == {"saved"}

    def test_batch_that_requires_webhooks_stops_for_an_account_without_webhooks(
        self,
        without_webhooks: EmulatorProcess,
        make: Callable[..., ToAPIsVideoBatchOperator],
    ) -> None:
        with pytest.raises(AirflowFailException, match="Enter the receiver's URL"):
            make(webhook=True).execute(FakeTaskInstance(task_id="catalog").context)
        assert without_webhooks.ledger()["count"] == 0
