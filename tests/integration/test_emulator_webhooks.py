"""The emulator's signed webhooks, as a receiver gets them."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.integration.emulator_process import EmulatorProcess

SECRET = "whsec-0123456789abcdef0123456789abcdef"
SUBMISSION = {
    "model": "grok-video-1.5",
    "prompt": "push in",
    "video_generation_mode": "text_to_video",
    "duration": 1,
    "client_business_id": "order-1",
}


@dataclass
class Delivery:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        return dict(json.loads(self.body))

    def is_signed_with(self, secret: str) -> bool:
        message = f"{self.headers['X-ToAPIs-Webhook-Id']}.{self.headers['X-ToAPIs-Webhook-Timestamp']}.".encode()
        expected = hmac.new(secret.encode(), message + self.body, hashlib.sha256).hexdigest()
        return f"v1={expected}" in self.headers["X-ToAPIs-Webhook-Signature"].split(",")


@dataclass
class Receiver:
    url: str = ""
    deliveries: list[Delivery] = field(default_factory=list)
    responses: list[int] = field(default_factory=list)

    def wait(self, count: int) -> list[Delivery]:
        deadline = time.monotonic() + 60
        while len(self.deliveries) < count:
            assert time.monotonic() < deadline, self.deliveries
            time.sleep(0.01)
        return self.deliveries


@pytest.fixture(scope="module")
def running_receiver() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            code = receiver.responses.pop(0) if receiver.responses else 200
            self.send_response(code)
            if code == 302:
                self.send_header("Location", f"{receiver.url}/elsewhere")
            self.end_headers()
            receiver.deliveries.append(Delivery(self.path, dict(self.headers.items()), body))

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield receiver
        server.shutdown()


@pytest.fixture(scope="module")
def process(running_receiver: Receiver) -> Iterator[EmulatorProcess]:
    with EmulatorProcess(
        latency=600, webhook_url=f"{running_receiver.url}/hook", webhook_secret=SECRET, webhook_retry_scale=0.001
    ) as process:
        yield process


@pytest.fixture
def emulator(process: EmulatorProcess) -> EmulatorProcess:
    process.reset()
    return process


@pytest.fixture
def receiver(running_receiver: Receiver, emulator: EmulatorProcess) -> Receiver:
    running_receiver.deliveries.clear()
    running_receiver.responses.clear()
    return running_receiver


def submit(emulator: EmulatorProcess, **fields: Any) -> Any:
    return emulator.api("/v1/videos/generations", "POST", json=SUBMISSION | fields)


def test_webhook_of_a_completed_video_has_the_documented_form(emulator: EmulatorProcess, receiver: Receiver) -> None:
    video = submit(emulator).json()
    body = emulator.finish(video["id"])

    (delivery,) = receiver.wait(1)

    event = delivery.event
    assert delivery.path == "/hook"
    assert delivery.headers["User-Agent"] == "ToAPIs-Webhook/1.0"
    assert delivery.headers["X-ToAPIs-Webhook-Id"] == event["id"]
    assert abs(int(delivery.headers["X-ToAPIs-Webhook-Timestamp"]) - time.time()) < 5
    assert delivery.is_signed_with(SECRET)
    assert not delivery.is_signed_with("another")
    assert (event["type"], event["api_version"]) == ("generation.completed", "v1")
    assert event["data"] == {
        "task_id": video["id"],
        "client_business_id": "order-1",
        "task_type": "video",
        "model": "grok-video-1.5",
        "status": "SUCCESS",
        "progress": "100%",
        "result": body["result"],
        "billing": body["billing"],
        "error": None,
        "submitted_at": body["created_at"],
        "finished_at": body["completed_at"],
    }


def test_webhook_of_a_failed_video_has_its_reason_and_refund(emulator: EmulatorProcess, receiver: Receiver) -> None:
    emulator.finish(submit(emulator).json()["id"], "failed", code="generation_failed", message="No")

    data = receiver.wait(1)[0].event["data"]

    assert (data["status"], data["progress"], data["result"]) == ("FAILURE", "100%", None)
    assert data["error"] == {"code": "generation_failed", "message": "No"}
    assert data["billing"] == {"status": "refunded", "credits": "0", "cost_usd": "0"}


def test_callback_url_can_set_path_and_query(emulator: EmulatorProcess, receiver: Receiver) -> None:
    emulator.finish(submit(emulator, callback_url=f"{receiver.url}/other?run=1").json()["id"])

    assert receiver.wait(1)[0].path == "/other?run=1"


@pytest.mark.parametrize(
    "url", ["https://127.0.0.1/hook", "http://127.0.0.1:1/hook", "http://localhost/hook", "http://u@127.0.0.1/x", "x"]
)
def test_callback_url_of_another_origin_is_rejected(emulator: EmulatorProcess, receiver: Receiver, url: str) -> None:
    response = submit(emulator, callback_url=url)

    assert response.status_code == 400
    assert response.json()["error"]["param"] == "callback_url"
    assert emulator.ledger()["posted"] == 0


def test_callback_url_without_a_configured_webhook_is_rejected() -> None:
    callback = {"callback_url": "https://shop.example/hook"}
    with EmulatorProcess(latency=600) as unconfigured:
        responses = [submit(unconfigured, **callback), submit(unconfigured, metadata=callback)]

        assert [response.status_code for response in responses] == [400, 400]
        assert {response.json()["error"]["code"] for response in responses} == {"webhook_not_configured"}
        assert unconfigured.ledger()["posted"] == 0


@pytest.mark.parametrize("response", [500, 404, 302])
def test_delivery_is_repeated_with_the_same_event_and_a_fresh_signature(
    emulator: EmulatorProcess, receiver: Receiver, response: int
) -> None:
    receiver.responses += [response, response]
    emulator.finish(submit(emulator).json()["id"])

    deliveries = receiver.wait(3)

    assert len({delivery.body for delivery in deliveries}) == 1
    assert all(delivery.is_signed_with(SECRET) for delivery in deliveries)
    assert all(delivery.path == "/hook" for delivery in deliveries), "redirects are not followed"


def test_delivery_follows_the_documented_schedule_and_ends() -> None:
    waits = (10, 30, 120, 600, 3600, 21600, 86400)
    with EmulatorProcess(latency=600, webhook_url="http://127.0.0.1:1/hook", webhook_secret=SECRET) as emulator:
        emulator.finish(submit(emulator).json()["id"])

        for attempt, wait in enumerate((*waits, None), start=1):
            deadline = time.monotonic() + 60
            while (webhook := emulator.control("webhooks")["webhooks"][0])["attempts"] < attempt:
                assert time.monotonic() < deadline, webhook
                time.sleep(0.01)
            if wait is None:
                assert webhook["next_at"] is None
            else:
                assert webhook["next_at"] - emulator.control("clock")["now"] == pytest.approx(wait, abs=3)
                emulator.advance(wait)
        assert webhook["statuses"] == [None] * 8


def test_both_secrets_sign_for_a_day_after_a_rotation(emulator: EmulatorProcess, receiver: Receiver) -> None:
    emulator.control("webhooks/rotate", "POST", {"secret": "new"})
    emulator.control("webhooks/test", "POST")
    during = receiver.wait(1)[0]
    emulator.advance(86401)
    emulator.control("webhooks/test", "POST")
    after = receiver.wait(2)[1]

    assert during.is_signed_with("new")
    assert during.is_signed_with(SECRET)
    assert after.is_signed_with("new")
    assert not after.is_signed_with(SECRET)


def test_test_event_has_no_model_and_no_times(emulator: EmulatorProcess, receiver: Receiver) -> None:
    event_id = emulator.control("webhooks/test", "POST")["id"]

    event = receiver.wait(1)[0].event

    assert (event["id"], event["type"]) == (event_id, "endpoint.test")
    assert (event["data"]["task_id"], event["data"]["task_type"]) == ("endpoint_test", "image")
    assert (event["data"]["submitted_at"], event["data"]["finished_at"]) == (0, 0)
    assert not {"model", "client_business_id"} & event["data"].keys()


def test_event_can_be_delivered_twice(emulator: EmulatorProcess, receiver: Receiver) -> None:
    emulator.add_fault(on="webhook", kind="duplicate")
    emulator.control("webhooks/test", "POST")

    first, second = receiver.wait(2)

    assert first.body == second.body


def test_lost_event_is_delivered_again(emulator: EmulatorProcess, receiver: Receiver) -> None:
    emulator.add_fault(on="webhook", kind="drop")
    emulator.control("webhooks/test", "POST")

    receiver.wait(1)

    assert emulator.faults()[0]["struck"] == 1


def test_event_can_be_delayed(emulator: EmulatorProcess, receiver: Receiver) -> None:
    emulator.add_fault(on="webhook", kind="delay", seconds=0.3)
    started = time.monotonic()
    emulator.control("webhooks/test", "POST")

    receiver.wait(1)

    assert time.monotonic() - started >= 0.3


def test_billing_in_an_event_can_be_pending(emulator: EmulatorProcess, receiver: Receiver) -> None:
    emulator.add_fault(on="webhook", kind="variant", name="event_billing_pending")
    emulator.finish(submit(emulator).json()["id"])

    assert receiver.wait(1)[0].event["data"]["billing"] == {"status": "pending"}
