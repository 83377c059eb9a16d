"""The hook over real HTTP: submissions, look-ups, waits and files through an Airflow connection."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import httpx
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_toapis.exceptions import (
    ToAPIsAuthError,
    ToAPIsConnectionError,
    ToAPIsDownloadError,
    ToAPIsNotFoundError,
    ToAPIsRateLimitError,
    ToAPIsServerError,
    ToAPIsWaitInterruptedError,
)
from airflow_provider_toapis.hooks.toapis import ToAPIsHook
from tests.errors import rejects
from tests.integration.conftest import API_KEY, LATENCY, PROMPT, Clock, connect, posts, recorded_clients
from tests.integration.emulator_process import EmulatorProcess


@pytest.fixture
def hook(service: EmulatorProcess) -> ToAPIsHook:
    return ToAPIsHook()


class TestConnectionTest:
    def test_connection_test_requests_only_the_balance(self, service: EmulatorProcess, hook: ToAPIsHook) -> None:
        assert hook.test_connection() == (True, "Connected. 100.00 USD left on the key.")
        assert [(entry["method"], entry["path"]) for entry in service.requests()] == [("GET", "/v1/balance")]
        assert service.ledger()["posted"] == 0

    def test_wrong_api_key_is_reported_without_the_key(
        self, service: EmulatorProcess, hook: ToAPIsHook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        connect(monkeypatch, service, password="sk-wrong-0123456789")
        connected, message = hook.test_connection()
        assert not connected
        assert "401" in message
        assert "sk-wrong" not in message

    @pytest.mark.parametrize("kind", ["html", "drop"])
    def test_failing_service_is_reported(self, service: EmulatorProcess, hook: ToAPIsHook, kind: str) -> None:
        service.add_fault(on="balance", kind=kind, times=-1)
        assert hook.test_connection()[0] is False

    def test_connection_of_type_http_reaches_the_service(
        self, service: EmulatorProcess, hook: ToAPIsHook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        host, _, port = service.url.removeprefix("http://").partition(":")
        connect(monkeypatch, service, conn_type="http", schema="http", host=host, port=int(port))
        assert hook.test_connection()[0] is True

    def test_ca_bundle_of_a_connection_is_used(
        self, service: EmulatorProcess, hook: ToAPIsHook, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        bundle = tmp_path / "ca.pem"
        bundle.write_text("no certificate")
        connect(monkeypatch, service, extra={"verify": str(bundle)})
        connected, message = hook.test_connection()
        assert not connected
        assert "verify=" in message


class TestSubmission:
    def test_each_call_submits_a_new_video_unless_client_business_id_is_known(
        self, service: EmulatorProcess, hook: ToAPIsHook, image: str
    ) -> None:
        for business_id in (None, None, "order-1", "order-1"):
            hook.submit_video(prompt=PROMPT, image=image, client_business_id=business_id)
        assert service.ledger()["posted"] == 3

    def test_lost_response_without_client_business_id_is_looked_up(
        self, service: EmulatorProcess, hook: ToAPIsHook, image: str
    ) -> None:
        service.add_fault(on="submit", kind="drop", after=True)
        task = hook.submit_video(prompt=PROMPT, image=image)
        assert [line["id"] for line in service.ledger()["billed"]] == [task.id]
        assert len(posts(service)) == 1

    def test_remix_and_extend(self, service: EmulatorProcess, hook: ToAPIsHook, image: str) -> None:
        source = hook.submit_video(prompt=PROMPT, image=image).id
        service.finish(source)
        hook.remix_video(source, prompt="Slower")
        hook.extend_video(source, prompt="Go on")
        assert [line["operation"] for line in service.ledger()["billed"]] == ["generate", "remix", "extend"]

    def test_bad_value_is_rejected_before_any_request(self, service: EmulatorProcess, hook: ToAPIsHook) -> None:
        with rejects("duration", 12) as rejected:
            hook.submit_video(prompt=PROMPT, image="https://example.com/a.jpg", duration=12)
        assert isinstance(rejected.value, AirflowFailException)
        assert service.requests() == []


class TestLookUp:
    def test_unknown_video_raises_not_found(self, hook: ToAPIsHook) -> None:
        with pytest.raises(ToAPIsNotFoundError):
            hook.get_video("video_nope")
        with pytest.raises(ToAPIsWaitInterruptedError) as interrupted:
            hook.get_billed_video("video_nope")
        assert interrupted.value.video_id == "video_nope"

    def test_rejected_api_key_is_permanent_for_get_video_but_not_for_a_billed_video(
        self, service: EmulatorProcess, hook: ToAPIsHook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        connect(monkeypatch, service, password="sk-wrong-0123456789")
        with pytest.raises(ToAPIsAuthError) as rejected:
            hook.get_video("video_1")
        assert isinstance(rejected.value, AirflowFailException)
        with pytest.raises(ToAPIsWaitInterruptedError) as interrupted:
            hook.get_billed_video("video_1")
        assert interrupted.value.video_id == "video_1"
        assert not isinstance(interrupted.value, AirflowFailException)

    @pytest.mark.parametrize(("retry_timeout", "waited"), [(60, 90), (0, 0)])
    def test_first_look_up_waits_as_long_as_retry_after(
        self,
        service: EmulatorProcess,
        hook: ToAPIsHook,
        clock: Clock,
        image: str,
        *,
        retry_timeout: float,
        waited: float,
    ) -> None:
        video_id = hook.submit_video(prompt=PROMPT, image=image).id
        service.add_fault(on="status", kind="status", status=429, headers={"Retry-After": "90"})
        clock.slept.clear()
        if retry_timeout:
            assert hook.get_video(video_id, retry_timeout=retry_timeout).id == video_id
        else:
            with pytest.raises(ToAPIsRateLimitError):
                hook.get_video(video_id, retry_timeout=0)
        assert waited <= sum(clock.slept) <= waited * 1.2

    def test_event_loop_gets_the_same_task(self, service: EmulatorProcess, hook: ToAPIsHook, image: str) -> None:
        video_id = hook.submit_video(prompt=PROMPT, image=image).id
        service.finish(video_id)
        assert asyncio.run(hook.aget_video(video_id)) == hook.get_video(video_id)

    def test_errors_on_an_event_loop_are_provider_errors(
        self, service: EmulatorProcess, hook: ToAPIsHook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        connect(monkeypatch, service, password="sk-wrong-0123456789")
        with pytest.raises(ToAPIsAuthError) as rejected:
            asyncio.run(hook.aget_video("video_1"))
        assert isinstance(rejected.value, AirflowFailException)


class TestWaiting:
    @pytest.fixture
    def video_id(self, hook: ToAPIsHook, image: str) -> str:
        return hook.submit_video(prompt=PROMPT, image=image).id

    def test_wait_for_video_blocks_until_the_video_is_ready(
        self, hook: ToAPIsHook, clock: Clock, video_id: str
    ) -> None:
        result = hook.wait_for_video(video_id, poll_interval=10, end_time=clock.time() + 600)
        assert result.status == "success"
        assert LATENCY - 1 <= sum(clock.slept) <= LATENCY + 15

    def test_deadline_is_exact_to_the_second(self, hook: ToAPIsHook, clock: Clock, video_id: str) -> None:
        result = hook.wait_for_video(video_id, poll_interval=40, end_time=clock.time() + 50)
        assert result.status == "timeout"
        assert sum(clock.slept) == pytest.approx(50, abs=1)

    def test_no_connection_stays_open_between_two_polls(
        self, service: EmulatorProcess, hook: ToAPIsHook, clock: Clock, video_id: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        service.clear_requests()
        clients = recorded_clients(monkeypatch, httpx.Client)
        closed: list[bool] = []
        clock.on_sleep = lambda _: closed.extend(client.is_closed for client in clients)
        hook.wait_for_video(video_id, poll_interval=10, end_time=clock.time() + 600)
        assert len(clients) == len(service.requests()) > 1
        assert all(closed)

    def test_api_key_rotated_during_the_wait_is_read_again(
        self,
        service: EmulatorProcess,
        hook: ToAPIsHook,
        clock: Clock,
        video_id: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        connect(monkeypatch, service, password="sk-old-0123456789")
        clock.during_sleep(2, lambda: connect(monkeypatch, service, password=API_KEY))
        result = hook.wait_for_video(video_id, poll_interval=10, end_time=clock.time() + 600)
        assert result.status == "success"
        assert [entry["status"] for entry in service.requests() if entry["endpoint"] == "status"].count(401) == 1

    def test_connection_temporarily_not_found_does_not_end_the_wait(
        self,
        service: EmulatorProcess,
        hook: ToAPIsHook,
        clock: Clock,
        video_id: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.delenv("AIRFLOW_CONN_TOAPIS_DEFAULT")
        clock.during_sleep(3, lambda: connect(monkeypatch, service))
        result = hook.wait_for_video(video_id, poll_interval=10, end_time=clock.time() + 600)
        assert result.status == "success"


def server_error(**fields: Any) -> dict[str, Any]:
    return {"on": "status", "kind": "status", "status": 502, **fields}


#: Faults of the first look-ups after a wait, with the maximum delay that each causes.
FAULTS_AFTER_WAIT = {
    "one 404": ({"on": "status", "kind": "error", "name": "task_not_found"}, 15),
    "one 401": ({"on": "status", "kind": "error", "name": "unauthorized"}, 15),
    "one 403": ({"on": "status", "kind": "error", "name": "forbidden"}, 15),
    "one 502": (server_error(), 2),
    "minutes of 502": (server_error(times=12), 900),
    "a pause": ({"on": "status", "kind": "status", "status": 429, "headers": {"Retry-After": "61"}}, 75),
}


class TestLookUpAfterWait:
    """The look-up after a wait follows the rules of polling until the deadline."""

    @pytest.mark.parametrize(("fault", "within"), FAULTS_AFTER_WAIT.values(), ids=FAULTS_AFTER_WAIT)
    def test_failed_look_ups_are_retried(
        self,
        service: EmulatorProcess,
        hook: ToAPIsHook,
        clock: Clock,
        image: str,
        *,
        fault: dict[str, Any],
        within: float,
    ) -> None:
        video_id = hook.submit_video(prompt=PROMPT, image=image).id
        service.finish(video_id)
        service.add_fault(**fault)
        assert hook.get_billed_video(video_id, end_time=clock.time() + 1700).is_ready
        assert 0 < sum(clock.slept) <= within

    @pytest.mark.parametrize(
        "broken", [{"password": ""}, {"host": "https://toapis..com"}, {"host": "https://xn--a.com"}]
    )
    def test_temporarily_wrong_connection_is_read_again(
        self,
        *,
        service: EmulatorProcess,
        hook: ToAPIsHook,
        clock: Clock,
        image: str,
        monkeypatch: pytest.MonkeyPatch,
        broken: dict[str, str],
    ) -> None:
        video_id = hook.submit_video(prompt=PROMPT, image=image).id
        service.finish(video_id)
        connect(monkeypatch, service, **broken)
        clock.during_sleep(5, lambda: connect(monkeypatch, service))
        assert hook.get_billed_video(video_id, end_time=clock.time() + 1700).is_ready

    def test_look_up_ends_at_the_deadline(self, service: EmulatorProcess, hook: ToAPIsHook, clock: Clock) -> None:
        service.add_fault(**server_error(times=-1))
        with pytest.raises(ToAPIsWaitInterruptedError) as interrupted:
            hook.get_billed_video("video_1", end_time=clock.time() + 500)
        assert interrupted.value.video_id == "video_1"
        # The waits add up to less than 500 s, because the requests take time too.
        assert 470 < sum(clock.slept) <= 500

    def test_look_up_after_the_deadline_is_retried_for_a_minute(
        self, service: EmulatorProcess, hook: ToAPIsHook, clock: Clock
    ) -> None:
        service.add_fault(**server_error(times=-1))
        with pytest.raises(ToAPIsWaitInterruptedError):
            hook.get_billed_video("video_1", end_time=clock.time() - 500)
        assert 40 < sum(clock.slept) <= 60


class TestFiles:
    def test_upload_checks_the_media_type(self, service: EmulatorProcess, hook: ToAPIsHook, image_file: Path) -> None:
        assert hook.upload_image(str(image_file)).mime_type == "image/jpeg"
        service.clear_requests()
        with rejects("source", str(image_file)):
            hook.upload_video(str(image_file))
        assert service.requests() == []

    def test_rejected_upload_raises_an_error(
        self, service: EmulatorProcess, hook: ToAPIsHook, image_file: Path
    ) -> None:
        service.add_fault(on="upload", kind="upload_refused", times=-1)
        with pytest.raises((ToAPIsServerError, ToAPIsConnectionError)):
            hook.upload_image(str(image_file))

    def test_download_accepts_an_id_or_a_task(
        self, service: EmulatorProcess, hook: ToAPIsHook, image: str, tmp_path: Path
    ) -> None:
        video_id = hook.submit_video(prompt=PROMPT, image=image).id
        with pytest.raises(ToAPIsDownloadError) as unfinished:
            hook.download_video(video_id, str(tmp_path))
        assert unfinished.value.video_id == video_id
        service.finish(video_id)
        by_id = hook.download_video(video_id, str(tmp_path))
        by_task = hook.download_video(hook.get_video(video_id), str(tmp_path / "b" / "again.mp4"))
        assert Path(by_id.path).name == f"{video_id}.mp4"
        assert by_task.sha256 == by_id.sha256 == hashlib.sha256(Path(by_id.path).read_bytes()).hexdigest()

    def test_failed_download_leaves_the_existing_file_unchanged(
        self, service: EmulatorProcess, hook: ToAPIsHook, image: str, tmp_path: Path
    ) -> None:
        video_id = hook.submit_video(prompt=PROMPT, image=image).id
        service.finish(video_id)
        file = tmp_path / "shoe.mp4"
        file.write_bytes(b"yesterday's")
        service.add_fault(on="result", kind="truncate", times=-1)
        with pytest.raises(ToAPIsDownloadError) as failed:
            hook.download_video(video_id, str(file))
        assert failed.value.video_id == video_id
        assert [path.name for path in tmp_path.iterdir()] == ["shoe.mp4"]
        assert file.read_bytes() == b"yesterday's"
