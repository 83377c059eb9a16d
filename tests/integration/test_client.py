"""The client over real HTTP: its requests, its errors, and its open connections."""

from __future__ import annotations

import asyncio
import io
import socket
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

import psutil  # type: ignore[import-untyped]
import pytest

from airflow_provider_toapis.api.client import AsyncToAPIsClient, ToAPIsClient
from airflow_provider_toapis.api.connecting import USER_AGENT
from airflow_provider_toapis.api.responses import TaskStatus, VideoTask
from airflow_provider_toapis.api.settings import ClientSettings
from airflow_provider_toapis.api.submit_spec import IdempotencyKeys, SubmitSpec
from airflow_provider_toapis.api.video_request import FileUpload, ReferenceImage, VideoRequest
from airflow_provider_toapis.exceptions import (
    ToAPIsAuthError,
    ToAPIsConnectionError,
    ToAPIsError,
    ToAPIsNotFoundError,
    ToAPIsRateLimitError,
    ToAPIsServerError,
)
from tests.integration.conftest import API_KEY, PROMPT, Clock, posts
from tests.integration.emulator_process import EmulatorProcess

GENERATIONS = "/v1/videos/generations"


def settings(service: EmulatorProcess, **fields: Any) -> ClientSettings:
    defaults: dict[str, Any] = {"api_key": API_KEY, "base_url": service.url, "timeout": 5.0, "verify": False}
    return ClientSettings(**defaults | fields)


@pytest.fixture
def client(service: EmulatorProcess, clock: Clock) -> Iterator[ToAPIsClient]:
    with ToAPIsClient(settings(service)) as client:
        yield client


def submit(client: ToAPIsClient, image: str, business_id: str = "order-1", *, max_generations: int = 1) -> VideoTask:
    request = VideoRequest(model="grok-video-1.5-preview", prompt=PROMPT, images=(ReferenceImage.from_url(image),))
    keys = IdempotencyKeys.from_author(business_id)
    return client.submit_once(SubmitSpec(request, keys, max_generations, retry_timeout=1800)).task


def in_memory(content: bytes) -> FileUpload:
    return FileUpload(name="shoe.jpg", media_type="image/jpeg", open=lambda: io.BytesIO(content))


def connections_to(service: EmulatorProcess) -> int:
    port = urlsplit(service.url).port
    found = psutil.Process().net_connections(kind="tcp")
    return sum(1 for one in found if one.status == psutil.CONN_ESTABLISHED and one.raddr.port == port)


class TestLookUp:
    def test_video_is_found_by_either_id(self, client: ToAPIsClient, image: str) -> None:
        task = submit(client, image)
        assert client.get_video(task.id) == client.get_video("order-1")
        assert task.status is TaskStatus.QUEUED

    def test_every_request_has_user_agent_and_api_key(
        self, service: EmulatorProcess, client: ToAPIsClient, image: str
    ) -> None:
        submit(client, image)
        client.get_balance()
        assert {entry["user_agent"] for entry in service.requests()} == {USER_AGENT}
        assert all(entry["has_authorization"] for entry in service.requests())

    @pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
    def test_any_form_of_base_url_works(self, service: EmulatorProcess, suffix: str) -> None:
        with ToAPIsClient(settings(service, base_url=service.url + suffix)) as client:
            client.get_balance()
        assert [entry["path"] for entry in service.requests()] == ["/v1/balance"]

    def test_balance_models_and_prices(self, client: ToAPIsClient) -> None:
        assert client.get_balance().remain_usd == Decimal(100)
        assert "grok-video-1.5-preview" in {model.id for model in client.list_models()}
        prices = client.get_pricing()
        assert prices
        (first, *_) = prices
        assert {price.model for price in client.get_pricing(first.model)} == {first.model}

    def test_event_loop_gets_the_same_task(self, service: EmulatorProcess, client: ToAPIsClient, image: str) -> None:
        task = submit(client, image)

        async def look_up() -> VideoTask:
            async with AsyncToAPIsClient(settings(service)) as async_client:
                return await async_client.get_video(task.id)

        assert asyncio.run(look_up()) == client.get_video(task.id)

    def test_id_with_path_segments_cannot_change_the_path(self, service: EmulatorProcess, client: ToAPIsClient) -> None:
        with pytest.raises(ToAPIsError):
            client.get_video("../../balance?x=1#y", 0)
        assert not [entry for entry in service.requests() if entry["endpoint"] == "balance"]


FAILED_POLLS: list[tuple[dict[str, Any], type[ToAPIsError]]] = [
    ({"kind": "error", "name": "unauthorized"}, ToAPIsAuthError),
    ({"kind": "error", "name": "unauthorized_int"}, ToAPIsAuthError),
    ({"kind": "error", "name": "forbidden"}, ToAPIsAuthError),
    ({"kind": "error", "name": "task_not_found"}, ToAPIsNotFoundError),
    ({"kind": "error", "name": "task_not_exist"}, ToAPIsNotFoundError),
    ({"kind": "error", "name": "gone"}, ToAPIsNotFoundError),
    ({"kind": "error", "name": "rate_limited"}, ToAPIsRateLimitError),
    ({"kind": "error", "name": "internal_error"}, ToAPIsServerError),
    ({"kind": "html"}, ToAPIsServerError),
    ({"kind": "html", "status": 200}, ToAPIsServerError),
    ({"kind": "status", "status": 302, "headers": {"Location": "/v1/balance"}}, ToAPIsServerError),
    ({"kind": "drop"}, ToAPIsConnectionError),
    ({"kind": "drop", "reset": True}, ToAPIsConnectionError),
]


class TestFailedPolls:
    @pytest.mark.parametrize(
        ("fault", "error"), FAILED_POLLS, ids=["-".join(map(str, fault.values())) for fault, _ in FAILED_POLLS]
    )
    def test_both_clients_raise_the_same_error(
        self, service: EmulatorProcess, client: ToAPIsClient, fault: dict[str, Any], error: type[ToAPIsError]
    ) -> None:
        service.add_fault(on="status", times=2, **fault)

        async def look_up() -> None:
            async with AsyncToAPIsClient(settings(service)) as async_client:
                await async_client.get_video("video_1")

        with pytest.raises(error) as failed:
            client.get_video("video_1", 0)
        with pytest.raises(error) as failed_on_loop:
            asyncio.run(look_up())
        assert type(failed.value) is type(failed_on_loop.value) is error
        assert GENERATIONS in str(failed.value)
        assert len(service.requests()) == 2

    def test_redirect_is_not_followed(self, service: EmulatorProcess, client: ToAPIsClient) -> None:
        fault = {"kind": "status", "status": 307, "headers": {"Location": f"{service.url}/v1/balance"}}
        service.add_fault(on="models", times=-1, **fault)
        with pytest.raises(ToAPIsServerError):
            client.list_models()
        assert {entry["endpoint"] for entry in service.requests()} == {"models"}

    def test_failed_polls_are_retried_within_retry_timeout(
        self, service: EmulatorProcess, client: ToAPIsClient, image: str, clock: Clock
    ) -> None:
        task = submit(client, image)
        service.add_fault(on="status", kind="html", times=2)
        service.add_fault(on="status", kind="drop", times=2)
        assert client.get_video(task.id, 60).id == task.id
        assert 0 < sum(clock.slept) <= 60 * 1.2

    def test_retries_end_after_retry_timeout(
        self, service: EmulatorProcess, client: ToAPIsClient, clock: Clock
    ) -> None:
        service.add_fault(on="status", kind="html", times=-1)
        with pytest.raises(ToAPIsServerError):
            client.get_video("video_1", 30)
        assert 10 < sum(clock.slept) <= 30 * 1.2

    def test_client_waits_as_long_as_retry_after(
        self, service: EmulatorProcess, client: ToAPIsClient, image: str, clock: Clock
    ) -> None:
        task = submit(client, image)
        service.add_fault(on="status", kind="status", status=429, headers={"Retry-After": "17"})
        client.get_video(task.id, 60)
        assert len(clock.slept) == 1
        assert 17 <= clock.slept[0] <= 17 * 1.2

    def test_retry_after_beyond_retry_timeout_raises_immediately(
        self, service: EmulatorProcess, client: ToAPIsClient, clock: Clock
    ) -> None:
        service.add_fault(on="status", kind="status", status=429, headers={"Retry-After": "120"})
        with pytest.raises(ToAPIsRateLimitError) as limited:
            client.get_video("video_1", 60)
        assert limited.value.retry_after == 120
        assert clock.slept == []

    def test_missing_response_is_a_connection_error_after_the_timeout(self, service: EmulatorProcess) -> None:
        service.add_fault(on="status", kind="delay", seconds=2)
        with (
            ToAPIsClient(settings(service, timeout=0.2)) as client,
            pytest.raises(ToAPIsConnectionError, match="ReadTimeout") as failed,
        ):
            client.get_video("video_1", 0)
        assert failed.value.sent

    def test_refused_connection_is_reported_as_not_sent(self, service: EmulatorProcess) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            unused_url = f"http://127.0.0.1:{unused.getsockname()[1]}"
            with (
                ToAPIsClient(settings(service, base_url=unused_url)) as client,
                pytest.raises(ToAPIsConnectionError, match="ConnectError") as failed,
            ):
                client.get_video("video_1", 0)
        assert not failed.value.sent
        assert "could not be sent (ConnectError)" in str(failed.value)
        assert failed.value.__cause__ is None

    def test_failed_upload_with_status_200_is_retried(
        self, service: EmulatorProcess, client: ToAPIsClient, image: str
    ) -> None:
        service.add_fault(on="upload", kind="upload_refused")
        content = service.get(image).content
        service.clear_requests()
        uploaded = client.upload("image", in_memory(content))
        assert uploaded.size == len(content)
        assert service.request_counts() == {"upload": 2}


class TestSubmitting:
    def test_lost_response_is_looked_up_and_not_submitted_again(
        self, service: EmulatorProcess, client: ToAPIsClient, image: str
    ) -> None:
        service.add_fault(on="submit", kind="drop", after=True)
        task = submit(client, image)
        assert len(posts(service)) == 1
        assert [line["id"] for line in service.ledger()["billed"]] == [task.id]

    def test_look_up_after_a_lost_response_can_lag(
        self, service: EmulatorProcess, client: ToAPIsClient, image: str
    ) -> None:
        service.add_fault(on="submit", kind="drop", after=True)
        # The look-up before the submission and the first three look-ups after it find nothing.
        service.add_fault(on="status", kind="error", name="task_not_exist", times=4)
        submit(client, image)
        assert len(posts(service)) == 1

    def test_dropped_submission_is_sent_again(self, service: EmulatorProcess, client: ToAPIsClient, image: str) -> None:
        service.add_fault(on="submit", kind="drop", times=2)
        submit(client, image, max_generations=3)
        assert service.ledger()["posted"] == 1


class TestResources:
    """Counts open connections. The control client of these tests has one too."""

    def test_client_leaves_no_connection_open(self, service: EmulatorProcess) -> None:
        before = connections_to(service)
        with ToAPIsClient(settings(service)) as client:
            client.get_balance()
            assert connections_to(service) == before + 1
        assert connections_to(service) == before

    def test_client_for_an_event_loop_leaves_no_connection_open(
        self, service: EmulatorProcess, client: ToAPIsClient, image: str
    ) -> None:
        video_id = submit(client, image).id
        before = connections_to(service)

        async def look_up() -> None:
            async with AsyncToAPIsClient(settings(service)) as async_client:
                await async_client.get_video(video_id)
                assert connections_to(service) == before + 1

        asyncio.run(look_up())
        assert connections_to(service) == before
