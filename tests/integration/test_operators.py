"""The operators over real HTTP: each request is billed once, whatever fails on the way."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperator

from airflow_provider_toapis.api.client import AsyncToAPIsClient, ToAPIsClient
from airflow_provider_toapis.api.defaults import QUERY_RATE
from airflow_provider_toapis.api.settings import ClientSettings
from airflow_provider_toapis.exceptions import (
    ToAPIsAuthError,
    ToAPIsConnectionError,
    ToAPIsContentPolicyError,
    ToAPIsDownloadError,
    ToAPIsError,
    ToAPIsFinalFailureError,
    ToAPIsQuotaError,
    ToAPIsRequestError,
    ToAPIsServerError,
    ToAPIsTaskFailedError,
    ToAPIsTimeoutError,
    ToAPIsWaitInterruptedError,
)
from airflow_provider_toapis.hooks.toapis import ToAPIsHook
from airflow_provider_toapis.operators.files import ToAPIsDownloadVideoOperator, ToAPIsUploadFileOperator
from airflow_provider_toapis.operators.video import (
    ToAPIsExtendVideoOperator,
    ToAPIsRemixVideoOperator,
    ToAPIsSubmitVideoOperator,
)
from tests.airflow_task import FakeTaskInstance, attempt, deferral
from tests.errors import claims_nothing_was_billed, rejects
from tests.integration.conftest import API_KEY, LATENCY, PROMPT, Clock, connect, posts
from tests.integration.emulator_process import EmulatorProcess

RESULT_KEYS = {
    "id",
    "status",
    "model",
    "url",
    "urls",
    "format",
    "created_at",
    "completed_at",
    "expires_at",
    "client_business_id",
    "billing",
    "output_path",
    "size",
    "sha256",
    "media",
    "warnings",
    "poster_path",
}
BOTH_WAIT_MODES = pytest.mark.parametrize("deferrable", [True, False], ids=["deferrable", "in the worker"])


class KilledError(BaseException):
    """Simulates the end of a process."""


class TaskRunner:
    """Runs attempts of one task with default arguments."""

    def __init__(self, image: str) -> None:
        self.image = image
        self.ti = FakeTaskInstance()

    def dag_task(self, **fields: Any) -> Callable[[], ToAPIsSubmitVideoOperator]:
        defaults: dict[str, Any] = {"task_id": "video", "prompt": PROMPT, "image": self.image, "deferrable": False}
        fields = defaults | fields
        return lambda: ToAPIsSubmitVideoOperator(**fields)

    def run_attempt(self, ti: FakeTaskInstance | None = None, **fields: Any) -> Any:
        return attempt(self.dag_task(**fields), ti or self.ti)

    def run_retry(self, **fields: Any) -> Any:
        return self.run_attempt(self.ti.next_attempt(), **fields)


@pytest.fixture
def runner(image: str) -> TaskRunner:
    return TaskRunner(image)


def submission_count(service: EmulatorProcess) -> int:
    """Return the number of submissions, including refunded ones."""
    return int(service.ledger()["posted"])


class TestResult:
    @BOTH_WAIT_MODES
    def test_result_describes_the_completed_video(
        self, service: EmulatorProcess, runner: TaskRunner, deferrable: bool
    ) -> None:
        result = runner.run_attempt(deferrable=deferrable)
        (billed,) = service.ledger()["billed"]
        assert result.keys() == RESULT_KEYS
        assert json.loads(json.dumps(result)) == result
        assert (result["id"], result["status"]) == (billed["id"], "completed")
        assert result["model"] == "grok-video-1.5-preview"
        assert result["url"] == result["urls"][0] == f"{service.url}/files/videos/{billed['id']}/output.mp4"
        assert result["client_business_id"] == billed["client_business_id"]
        assert result["billing"]["cost_usd"] == "0.10"
        assert (result["output_path"], result["size"], result["sha256"]) == (None, None, None)
        for moment in ("created_at", "completed_at", "expires_at"):
            assert result[moment].endswith(("Z", "+00:00"))

    def test_result_without_waiting_describes_the_submitted_video(
        self, service: EmulatorProcess, runner: TaskRunner
    ) -> None:
        result = runner.run_attempt(wait_for_completion=False, deferrable=True, output_path="/nowhere/at/all")
        assert result.keys() == RESULT_KEYS
        assert result["status"] == "queued"
        assert (result["url"], result["urls"], result["output_path"]) == (None, [], None)
        assert submission_count(service) == 1

    @pytest.mark.parametrize("deferrable", [True, False])
    def test_id_is_in_xcom_before_any_waiting(
        self, service: EmulatorProcess, runner: TaskRunner, clock: Clock, deferrable: bool
    ) -> None:
        seen: list[Any] = []

        def record_video_id(seconds: float) -> None:
            if seconds:
                seen.append(runner.ti.xcoms.get("video_id"))

        clock.on_sleep = record_video_id
        if deferrable:
            deferral(lambda: runner.dag_task(deferrable=True)().execute(runner.ti.context))
            seen.append(runner.ti.xcoms["video_id"])
        else:
            runner.run_attempt()
        assert seen
        assert set(seen) == {service.ledger()["billed"][0]["id"]}

    def test_duration_and_aspect_ratio_are_submitted(self, service: EmulatorProcess, runner: TaskRunner) -> None:
        runner.run_attempt(duration="15", aspect_ratio="9:16", wait_for_completion=False)
        assert service.ledger()["billed"][0]["cost_usd"] == "0.15"

    @pytest.mark.parametrize(
        ("fields", "price"),
        [
            ({"model": "grok-video-1.5", "duration": 4}, "0.50 USD"),
            ({"model": "grok-video-1.5", "duration": 4, "image": None}, "0.50 USD"),
            ({"model": "kling-v3", "duration": 10}, "0.80 USD"),
            ({"model": "seedance-2", "duration": -1}, "not known"),
        ],
        ids=["minimum", "without an image", "listed by the service", "model chooses the length"],
    )
    def test_log_names_the_price_that_the_service_lists(
        self,
        service: EmulatorProcess,
        runner: TaskRunner,
        logged: Callable[[], str],
        fields: dict[str, Any],
        price: str,
    ) -> None:
        service.list_prices(
            "grok-video-1.5", {"charge_type": "per_second", "unit_price": "0.01", "minimum_charge_usd": "0.50"}
        )
        runner.run_attempt(wait_for_completion=False, **fields)
        assert f"Expected price: {price}." in logged()

    def test_unavailable_price_list_does_not_delay_the_submission(
        self, service: EmulatorProcess, runner: TaskRunner, clock: Clock, logged: Callable[[], str]
    ) -> None:
        service.add_fault(on="pricing", kind="error", name="pricing_unavailable", times=-1)
        runner.run_attempt(wait_for_completion=False)
        assert "0.10 USD" in logged()
        assert service.request_counts()["pricing"] == 1
        assert submission_count(service) == 1

    @pytest.mark.parametrize("inputs", ["text", "image", "references"])
    def test_generation_mode_matches_the_inputs(
        self, service: EmulatorProcess, runner: TaskRunner, inputs: str
    ) -> None:
        # The service rejects a prompt without an image, and reference images, if the request names no generation mode.
        image = runner.image if inputs == "image" else None
        parameters = {"reference_images": [runner.image]} if inputs == "references" else None
        runner.run_attempt(model="grok-video-1.5", image=image, parameters=parameters, wait_for_completion=False)
        assert submission_count(service) == 1

    def test_generation_mode_in_parameters_takes_precedence(self, service: EmulatorProcess, runner: TaskRunner) -> None:
        with pytest.raises(ToAPIsRequestError) as rejected:
            runner.run_attempt(model="grok-video-1.5", parameters={"video_generation_mode": "text_to_video"})
        assert rejected.value.http_status == 400
        assert submission_count(service) == 0

    def test_local_image_is_uploaded_before_the_submission(
        self, service: EmulatorProcess, runner: TaskRunner, image_file: Path
    ) -> None:
        runner.run_attempt(image=str(image_file))
        endpoints = [entry["endpoint"] for entry in service.requests()]
        assert endpoints.index("upload") < endpoints.index("submit")
        assert endpoints.count("upload") == 1

    def test_retry_with_a_local_image_uploads_nothing(
        self, service: EmulatorProcess, runner: TaskRunner, image_file: Path
    ) -> None:
        runner.run_attempt(image=str(image_file))
        service.clear_requests()
        runner.run_retry(image=f"file://{image_file}")
        assert "upload" not in service.request_counts()
        assert submission_count(service) == 1


class TestOutputPath:
    @BOTH_WAIT_MODES
    @pytest.mark.parametrize("name", ["", "shoe.mp4", "deep/er/shoe.MOV"])
    def test_video_is_saved_at_output_path(
        self, service: EmulatorProcess, runner: TaskRunner, tmp_path: Path, name: str, deferrable: bool
    ) -> None:
        result = runner.run_attempt(output_path=str(tmp_path / "videos" / name), deferrable=deferrable)
        file = Path(result["output_path"])
        assert file == tmp_path / "videos" / (name or f"{result['id']}.mp4")
        content = file.read_bytes()
        assert result["size"] == len(content) > 1000
        assert result["sha256"] == hashlib.sha256(content).hexdigest()
        beside = {f"{result['client_business_id']}.json"} | ({f".{file.name}.toapis.json"} if name else set())
        assert {path.name for path in file.parent.iterdir()} == {file.name} | beside

    def test_receipt_is_the_result_without_urls(
        self, service: EmulatorProcess, runner: TaskRunner, tmp_path: Path
    ) -> None:
        result = runner.run_attempt(output_path=str(tmp_path))
        receipt = json.loads((tmp_path / f"{result['client_business_id']}.json").read_text())
        assert receipt == {"version": 1, **result, "url": None, "urls": []}

    @BOTH_WAIT_MODES
    def test_saved_video_is_returned_without_any_request(
        self, service: EmulatorProcess, runner: TaskRunner, tmp_path: Path, deferrable: bool
    ) -> None:
        first = runner.run_attempt(output_path=str(tmp_path), deferrable=deferrable)
        service.clear_requests()
        again = runner.run_retry(output_path=str(tmp_path), deferrable=deferrable)
        assert service.requests() == []
        assert again == first | {"url": None, "urls": []}
        assert runner.ti.xcoms["video_id"] == first["id"]
        assert runner.ti.xcoms["client_business_id"] == first["client_business_id"]

    @pytest.mark.parametrize("damage", ["missing", "truncated", "unreadable receipt"])
    def test_damaged_output_is_downloaded_again_and_not_billed_again(
        self, service: EmulatorProcess, runner: TaskRunner, tmp_path: Path, damage: str
    ) -> None:
        first = runner.run_attempt(output_path=str(tmp_path))
        file, receipt = Path(first["output_path"]), tmp_path / f"{first['client_business_id']}.json"
        if damage == "missing":
            file.unlink()
        elif damage == "truncated":
            file.write_bytes(b"x")
        else:
            receipt.write_text("{")
        again = runner.run_retry(output_path=str(tmp_path))
        assert (again["id"], again["sha256"]) == (first["id"], first["sha256"])
        assert hashlib.sha256(file.read_bytes()).hexdigest() == first["sha256"]
        assert submission_count(service) == 1

    def test_mapped_tasks_with_the_same_file_name_are_logged_and_not_mixed_up(
        self, service: EmulatorProcess, runner: TaskRunner, tmp_path: Path, logged: Callable[[], str]
    ) -> None:
        path = str(tmp_path / "shoe.mp4")
        instances = [FakeTaskInstance(map_index=index) for index in range(3)]
        made = []
        for runner.ti in instances:
            made.append(runner.run_attempt(output_path=path))
        assert len({video["id"] for video in made}) == submission_count(service) == 3
        for saved, replaced in zip(made[1:], made, strict=False):
            assert re.search(rf"{saved['id']}.*{replaced['id']}", logged())
        runner.ti = instances[0].cleared()
        again = runner.run_attempt(output_path=path)
        assert again["id"] == made[0]["id"]
        assert again["sha256"] == hashlib.sha256(Path(path).read_bytes()).hexdigest()
        assert submission_count(service) == 3

    def test_saved_video_is_returned_after_its_result_expired(
        self, service: EmulatorProcess, runner: TaskRunner, clock: Clock, tmp_path: Path
    ) -> None:
        runner.run_attempt(output_path=str(tmp_path))
        clock.sleep(90_000)
        runner.run_retry(output_path=str(tmp_path))
        assert submission_count(service) == 1

    def test_api_key_is_sent_to_the_api_only(
        self, service: EmulatorProcess, runner: TaskRunner, tmp_path: Path
    ) -> None:
        runner.run_attempt(output_path=str(tmp_path))
        seen = {(entry["endpoint"], entry["has_authorization"]) for entry in service.requests()}
        assert seen == {("submit", True), ("pricing", True), ("status", True), ("result", False)}

    @pytest.mark.parametrize(
        "fault",
        [
            {"kind": "truncate"},
            {"kind": "wrong_length", "by": -10},
            {"kind": "drop", "reset": True},
            {"kind": "html"},
            {"kind": "status", "status": 500},
            {"kind": "url_forbidden"},
            {"kind": "url_forbidden", "status": 404},
        ],
        ids=lambda fault: "-".join(str(value) for value in fault.values()),
    )
    def test_broken_download_starts_again_and_leaves_no_partial_file(
        self, service: EmulatorProcess, runner: TaskRunner, tmp_path: Path, fault: dict[str, Any]
    ) -> None:
        service.add_fault(on="result", times=2, **fault)
        result = runner.run_attempt(output_path=str(tmp_path))
        assert hashlib.sha256((tmp_path / f"{result['id']}.mp4").read_bytes()).hexdigest() == result["sha256"]
        assert len(list(tmp_path.iterdir())) == 2
        assert submission_count(service) == 1

    def test_permanently_broken_download_fails_and_the_retry_is_not_billed(
        self, service: EmulatorProcess, runner: TaskRunner, tmp_path: Path
    ) -> None:
        service.add_fault(on="result", kind="truncate", times=-1)
        with pytest.raises(ToAPIsDownloadError) as failed:
            runner.run_attempt(output_path=str(tmp_path))
        assert failed.value.video_id == runner.ti.xcoms["video_id"]
        assert not isinstance(failed.value, AirflowFailException)
        assert list(tmp_path.iterdir()) == []
        service.clear_faults()
        assert runner.run_retry(output_path=str(tmp_path))["size"] > 0
        assert submission_count(service) == 1


class TestSubmitOnce:
    @BOTH_WAIT_MODES
    def test_every_retry_reattaches(self, service: EmulatorProcess, runner: TaskRunner, deferrable: bool) -> None:
        first = runner.run_attempt(deferrable=deferrable)
        again = [runner.run_retry(deferrable=deferrable) for _ in range(3)]
        assert again == [first] * 3
        assert submission_count(service) == 1

    def test_attempts_with_other_wait_modes_reattach(self, service: EmulatorProcess, runner: TaskRunner) -> None:
        ids = {
            runner.run_retry(wait_for_completion=False)["id"],
            runner.run_retry(deferrable=True)["id"],
            runner.run_retry(deferrable=False)["id"],
        }
        assert len(ids) == 1
        assert submission_count(service) == 1

    def test_cleared_task_reattaches_and_logs_how_to_regenerate(
        self, service: EmulatorProcess, runner: TaskRunner, logged: Callable[[], str]
    ) -> None:
        runner.run_attempt()
        runner.ti.cleared()
        runner.run_attempt()
        assert submission_count(service) == 1
        assert "on_clear='regenerate'" in logged()

    def test_retry_reattaches_to_video_submitted_by_killed_attempt(
        self, service: EmulatorProcess, runner: TaskRunner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def die(*_: object, **__: object) -> None:
            raise KilledError

        with monkeypatch.context() as patch:
            patch.setattr(FakeTaskInstance, "xcom_push", die)
            with pytest.raises(KilledError):
                runner.run_attempt(wait_for_completion=False)
        runner.run_retry(wait_for_completion=False)
        assert submission_count(service) == 1

    @pytest.mark.parametrize(
        "change",
        [
            {"prompt": "Another story"},
            {"duration": 15},
            {"aspect_ratio": "1:1"},
            {"parameters": {"seed": 2}},
            {"identity": "SKU-2"},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_changed_request_submits_another_video(
        self, service: EmulatorProcess, runner: TaskRunner, change: dict[str, Any]
    ) -> None:
        runner.run_attempt(wait_for_completion=False)
        runner.run_retry(wait_for_completion=False, **change)
        assert submission_count(service) == 2

    @pytest.mark.parametrize(
        "same", [{"poll_interval": 20.0}, {"timeout": 60.0}, {"max_generations": 5}, {"output_path": "/tmp/elsewhere"}]
    )
    def test_changed_wait_settings_reattach_to_the_same_video(
        self, service: EmulatorProcess, runner: TaskRunner, same: dict[str, Any]
    ) -> None:
        runner.run_attempt(wait_for_completion=False)
        runner.run_retry(wait_for_completion=False, **same)
        assert submission_count(service) == 1

    @pytest.mark.parametrize("other", [{"run_id": "manual__2"}, {"task_id": "b"}, {"dag_id": "b"}, {"map_index": 1}])
    def test_other_task_instances_submit_their_own_videos(
        self, service: EmulatorProcess, runner: TaskRunner, other: dict[str, Any]
    ) -> None:
        runner.run_attempt(wait_for_completion=False)
        runner.run_attempt(FakeTaskInstance(**other), wait_for_completion=False)
        assert submission_count(service) == 2

    def test_deployments_with_different_namespaces_do_not_share_videos(
        self, service: EmulatorProcess, runner: TaskRunner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        runner.run_attempt(wait_for_completion=False)
        connect(monkeypatch, service, extra={"namespace": "staging"})
        runner.run_retry(wait_for_completion=False)
        assert submission_count(service) == 2

    def test_identity_reattaches_after_the_mapped_list_is_reordered(
        self, service: EmulatorProcess, runner: TaskRunner
    ) -> None:
        def run(skus: list[str]) -> dict[str, str]:
            return {
                sku: runner.run_attempt(
                    FakeTaskInstance(map_index=index), identity=sku, prompt=f"About {sku}", wait_for_completion=False
                )["id"]
                for index, sku in enumerate(skus)
            }

        assert run(["A", "B", "C"]) == run(["C", "A", "B"])
        assert submission_count(service) == 3

    def test_mapped_tasks_without_identity_use_their_map_index(
        self, service: EmulatorProcess, runner: TaskRunner
    ) -> None:
        for index in (0, 1, 0, 1):
            runner.run_attempt(FakeTaskInstance(map_index=index), wait_for_completion=False)
        assert submission_count(service) == 2

    def test_regenerate_submits_again_only_after_a_clear(self, service: EmulatorProcess, runner: TaskRunner) -> None:
        first = runner.run_attempt(on_clear="regenerate")
        assert runner.run_retry(on_clear="regenerate")["id"] == first["id"]
        runner.ti.cleared()
        second = runner.run_attempt(on_clear="regenerate")
        assert runner.run_retry(on_clear="regenerate")["id"] == second["id"] != first["id"]
        assert submission_count(service) == 2

    def test_regenerate_ignores_a_saved_video(
        self, service: EmulatorProcess, runner: TaskRunner, tmp_path: Path
    ) -> None:
        first = runner.run_attempt(on_clear="regenerate", output_path=str(tmp_path))
        runner.ti.cleared()
        assert runner.run_attempt(on_clear="regenerate", output_path=str(tmp_path))["id"] != first["id"]

    def test_client_business_id_is_sent_unchanged(self, service: EmulatorProcess, runner: TaskRunner) -> None:
        runner.run_attempt(client_business_id="order-4711", wait_for_completion=False)
        runner.run_attempt(
            FakeTaskInstance(dag_id="other"), client_business_id="order-4711", prompt="x", wait_for_completion=False
        )
        assert [line["client_business_id"] for line in service.ledger()["billed"]] == ["order-4711"]

    def test_client_business_id_of_another_models_video_is_rejected(
        self, service: EmulatorProcess, runner: TaskRunner
    ) -> None:
        runner.run_attempt(client_business_id="order-4711", wait_for_completion=False)
        runner.ti = FakeTaskInstance(task_id=runner.ti.task_id, run_id="another run")
        with pytest.raises(ToAPIsRequestError, match=r"grok-video-1\.5-preview"):
            runner.run_attempt(client_business_id="order-4711", model="grok-video-1.5")
        assert submission_count(service) == 1


LOST_RESPONSES: list[dict[str, Any]] = [
    {"kind": "drop", "after": True},
    {"kind": "drop", "after": True, "reset": True},
    {"kind": "status", "status": 500, "after": True},
    {"kind": "status", "status": 408, "after": True},
    {"kind": "status", "status": 200, "body": "<html>", "after": True},
    {"kind": "status", "status": 200, "body": {"status": "queued"}, "after": True},
    {"kind": "html", "after": True},
    {"kind": "html", "status": 524, "after": True},
]


class TestLostResponse:
    @pytest.mark.parametrize("fault", LOST_RESPONSES, ids=lambda fault: "-".join(map(str, fault.values())))
    def test_lost_response_is_looked_up_and_reattached(
        self, service: EmulatorProcess, runner: TaskRunner, fault: dict[str, Any]
    ) -> None:
        service.add_fault(on="submit", **fault)
        result = runner.run_attempt(deferrable=True)
        assert len(posts(service)) == 1
        assert [line["id"] for line in service.ledger()["billed"]] == [result["id"]]

    @pytest.mark.parametrize("kind", ["drop", "html"])
    def test_submission_that_never_arrived_is_sent_again_with_the_same_key(
        self, service: EmulatorProcess, runner: TaskRunner, kind: str
    ) -> None:
        service.add_fault(on="submit", kind=kind)
        runner.run_attempt(wait_for_completion=False)
        assert len(posts(service)) == 2
        assert submission_count(service) == 1

    def test_retry_looks_up_before_submitting_after_three_lost_responses(
        self, service: EmulatorProcess, runner: TaskRunner
    ) -> None:
        service.add_fault(on="submit", kind="html", times=3)
        with pytest.raises(ToAPIsWaitInterruptedError):
            runner.run_attempt(wait_for_completion=False)
        assert len(posts(service)) == 3
        runner.run_retry(wait_for_completion=False)
        assert submission_count(service) == 1

    def test_failed_look_up_submits_nothing(self, service: EmulatorProcess, runner: TaskRunner) -> None:
        service.add_fault(on="status", kind="html", times=-1)
        with pytest.raises(ToAPIsServerError):
            runner.run_attempt(wait_for_completion=False)
        assert posts(service) == []

    @pytest.mark.parametrize("name", ["rate_limited", "rate_limit_unavailable"])
    def test_rate_limited_submission_is_retried(self, service: EmulatorProcess, runner: TaskRunner, name: str) -> None:
        service.add_fault(on="submit", kind="error", name=name, times=3)
        runner.run_attempt(wait_for_completion=False)
        assert len(posts(service)) == 4
        assert submission_count(service) == 1


class TestRejectedSubmissions:
    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            ("invalid_request", ToAPIsRequestError),
            ("no_channel", ToAPIsRequestError),
            ("unauthorized", ToAPIsAuthError),
            ("forbidden", ToAPIsAuthError),
            ("insufficient_quota", ToAPIsQuotaError),
            ("quota_text", ToAPIsQuotaError),
            ("content_policy", ToAPIsContentPolicyError),
            ("sensitive_content", ToAPIsContentPolicyError),
        ],
    )
    def test_rejection_fails_immediately_and_is_not_billed(
        self, service: EmulatorProcess, runner: TaskRunner, name: str, kind: type[ToAPIsError]
    ) -> None:
        service.add_fault(on="submit", kind="error", name=name, times=-1)
        with pytest.raises(kind) as rejected:
            runner.run_attempt()
        assert isinstance(rejected.value, AirflowFailException)
        assert len(posts(service)) == 1
        assert submission_count(service) == 0

    def test_unavailable_model_error_names_the_model_list_and_the_newer_model(
        self, service: EmulatorProcess, runner: TaskRunner
    ) -> None:
        service.add_fault(on="submit", kind="error", name="no_channel")
        with pytest.raises(ToAPIsRequestError, match=r"/v1/models\?type=video.*grok-video-1\.5"):
            runner.run_attempt()


def large_image(directory: Path) -> str:
    file = directory / "large.jpg"
    file.write_bytes(b"\xff\xd8\xff" + bytes(10 * 1024 * 1024))
    return str(file)


def text_as_jpg(directory: Path) -> str:
    file = directory / "image.jpg"
    file.write_text("not an image")
    return str(file)


def heic_as_png(directory: Path) -> str:
    file = directory / "image.png"
    file.write_bytes(b"\x00\x00\x00\x18ftypheic" + bytes(64))
    return str(file)


def two_images(_directory: Path) -> list[str]:
    return ["https://example.com/1.jpg", "https://example.com/2.jpg"]


BadInput = tuple[str, dict[str, Any], str, str]
#: Id of the case, arguments, field that the error names, and part of the value that it shows.
BAD_INPUTS: list[BadInput] = [
    ("no image", {"image": None}, "image", "None"),
    ("empty image", {"image": ""}, "image", "''"),
    ("no images", {"image": []}, "image", "None"),
    ("two images", {"image": two_images}, "image", "2 images"),
    ("data uri", {"image": "data:image/png;base64," + "iVBOR" * 2000}, "image", "data:image/png"),
    ("base64", {"image": "iVBORw0KGgo" * 100}, "image", "iVBORw0KGgo"),
    ("ftp url", {"image": "ftp://example.com/a.jpg"}, "image", "ftp://example.com/a.jpg"),
    ("url without host", {"image": "https:///a.jpg"}, "image", "https:///a.jpg"),
    ("text file", {"image": text_as_jpg}, "image", "image.jpg"),
    ("heic file", {"image": heic_as_png}, "image", "image.png"),
    ("over 10 MB", {"image": large_image}, "image", "large.jpg"),
    ("missing file", {"image": "/no/such/file.jpg"}, "image", "/no/such/file.jpg"),
    ("directory", {"image": str}, "image", ""),
    ("unknown ratio", {"aspect_ratio": "4:3"}, "aspect_ratio", "4:3"),
    ("duration", {"duration": 12}, "duration", "12"),
    ("rendered duration", {"duration": "12"}, "duration", "12"),
    ("duration in words", {"duration": "ten"}, "duration", "ten"),
    ("half a second", {"duration": 10.5}, "duration", "10.5"),
    ("empty prompt", {"prompt": ""}, "prompt", "''"),
    ("blank prompt", {"prompt": " \n"}, "prompt", ""),
    ("no prompt", {"prompt": None}, "prompt", "None"),
    ("no model", {"model": ""}, "model", "''"),
    ("zero poll_interval", {"poll_interval": 0}, "poll_interval", "0"),
    ("negative poll_interval", {"poll_interval": -1.5}, "poll_interval", "-1.5"),
    ("nan poll_interval", {"poll_interval": float("nan")}, "poll_interval", "nan"),
    ("zero timeout", {"timeout": 0}, "timeout", "0"),
    ("negative timeout", {"timeout": -60}, "timeout", "-60"),
    ("nan timeout", {"timeout": float("nan")}, "timeout", "nan"),
    ("infinite timeout", {"timeout": float("inf")}, "timeout", "inf"),
    ("on_clear", {"on_clear": "delete"}, "on_clear", "delete"),
    ("max_generations", {"max_generations": 0}, "max_generations", "0"),
    ("vendor-like id", {"client_business_id": "video_1"}, "client_business_id", "video_1"),
    ("long id", {"client_business_id": "x" * 61}, "client_business_id", "xxx"),
    ("parameters", {"parameters": {"seed": float("nan")}}, "parameters", "seed"),
    ("id in parameters", {"parameters": {"client_business_id": "x"}}, "parameters", "client_business_id"),
    ("output_path", {"output_path": "nosuch://bucket/x/"}, "output_path", "nosuch://bucket/x/"),
]


class TestBadInput:
    @pytest.mark.parametrize("case", BAD_INPUTS, ids=lambda case: case[0])
    def test_bad_input_is_rejected_with_its_field_before_any_request(
        self, service: EmulatorProcess, runner: TaskRunner, tmp_path: Path, case: BadInput
    ) -> None:
        _, fields, field, value = case
        given = {name: made(tmp_path) if callable(made) else made for name, made in fields.items()}
        with rejects(field) as rejected:
            runner.run_attempt(**given)
        assert value in rejected.value.value
        assert isinstance(rejected.value, AirflowFailException)
        assert len(str(rejected.value)) < 700
        assert service.requests() == []
        assert submission_count(service) == 0

    def test_missing_connection_is_an_error_that_can_be_retried(
        self, service: EmulatorProcess, runner: TaskRunner
    ) -> None:
        with rejects("toapis_conn_id", "nowhere", error=ToAPIsConnectionError) as rejected:
            runner.run_attempt(toapis_conn_id="nowhere")
        assert not isinstance(rejected.value, AirflowFailException)
        assert service.requests() == []

    def test_connection_without_api_key_is_rejected(
        self, service: EmulatorProcess, runner: TaskRunner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        connect(monkeypatch, service, password="")
        with pytest.raises(ToAPIsAuthError, match="password") as rejected:
            runner.run_attempt()
        assert isinstance(rejected.value, AirflowFailException)
        assert service.requests() == []

    def test_unknown_model_is_submitted_with_a_warning(
        self, service: EmulatorProcess, runner: TaskRunner, caplog: pytest.LogCaptureFixture
    ) -> None:
        with pytest.raises(ToAPIsRequestError, match=r"GET /v1/models"):
            runner.run_attempt(model="tomorrow-video-9", duration=7)
        assert len(posts(service)) == 1
        warned = [record.args[0] for record in caplog.records if isinstance(record.args, tuple) and record.args]
        assert "tomorrow-video-9" in warned

    def test_rejection_of_a_misspelled_model_suggests_the_right_name(
        self, service: EmulatorProcess, runner: TaskRunner
    ) -> None:
        with pytest.raises(ToAPIsRequestError, match=r"\bgrok-video-1\.5-preview\b"):
            runner.run_attempt(model="grok-video-1.5-previw")


class TestFailedGeneration:
    def fail_all(self, service: EmulatorProcess, times: int = -1, **fault: str) -> None:
        service.add_fault(on="submit", kind="task_failed", times=times, **fault)

    @BOTH_WAIT_MODES
    def test_failed_generation_has_its_error_and_the_retry_submits_again(
        self, service: EmulatorProcess, runner: TaskRunner, deferrable: bool
    ) -> None:
        self.fail_all(service, 1, code="generation_failed", message="The model had a bad day")
        with pytest.raises(ToAPIsTaskFailedError, match="bad day") as failed:
            runner.run_attempt(deferrable=deferrable, client_business_id="order-1")
        assert not isinstance(failed.value, AirflowFailException)
        assert failed.value.task is not None
        assert failed.value.video_id == failed.value.task.id
        assert "max_generations" in str(failed.value)
        assert runner.run_retry(deferrable=deferrable, client_business_id="order-1")["status"] == "completed"
        assert [line["client_business_id"] for line in service.ledger()["billed"]] == ["order-1", "order-1-1"]

    def test_failed_generations_are_limited_by_max_generations(
        self, service: EmulatorProcess, runner: TaskRunner
    ) -> None:
        self.fail_all(service)
        for _ in range(2):
            with pytest.raises(ToAPIsTaskFailedError):
                runner.run_retry(max_generations=2)
        with pytest.raises(ToAPIsFinalFailureError, match="max_generations") as ended:
            runner.run_retry(max_generations=2)
        assert isinstance(ended.value, AirflowFailException)
        assert submission_count(service) == 2

    @BOTH_WAIT_MODES
    def test_content_policy_violation_fails_permanently(
        self, service: EmulatorProcess, runner: TaskRunner, deferrable: bool
    ) -> None:
        self.fail_all(service, code="content_policy_violation", message=f"Rejected: {PROMPT}")
        for _ in range(2):
            with pytest.raises(ToAPIsContentPolicyError) as rejected:
                runner.run_retry(deferrable=deferrable)
            assert isinstance(rejected.value, AirflowFailException)
            assert isinstance(rejected.value, ToAPIsTaskFailedError)
            assert PROMPT not in str(rejected.value)
        assert submission_count(service) == 1

    def test_expired_result_that_was_not_saved_is_submitted_again(
        self, service: EmulatorProcess, runner: TaskRunner, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        first = runner.run_attempt()
        clock.sleep(90_000)
        second = runner.run_retry()
        assert second["id"] != first["id"]
        assert "0.10 USD" in caplog.text


TRANSIENT: list[dict[str, Any]] = [
    {"kind": "status", "status": 500},
    {"kind": "html"},
    {"kind": "html", "status": 524},
    {"kind": "html", "status": 404},
    {"kind": "error", "name": "browser_blocked"},
    {"kind": "drop"},
    {"kind": "drop", "reset": True},
    {"kind": "error", "name": "rate_limited"},
    {"kind": "error", "name": "task_not_exist"},
    # Only two of these responses instead of four. They contain the progress, so the provider polls less often.
    {"kind": "task_status", "value": "meditating", "when": "unfinished", "times": 2},
    {"kind": "no_url"},
]


class TestWaiting:
    @BOTH_WAIT_MODES
    @pytest.mark.parametrize("fault", TRANSIENT, ids=lambda fault: "-".join(map(str, fault.values())))
    def test_failed_poll_never_fails_a_billed_video(
        self, service: EmulatorProcess, runner: TaskRunner, clock: Clock, fault: dict[str, Any], deferrable: bool
    ) -> None:
        runner.run_attempt(wait_for_completion=False)
        service.add_fault(**{"on": "status", "times": 4, "match": "video_"} | fault)
        assert runner.run_retry(deferrable=deferrable)["status"] == "completed"
        assert [fault["struck"] for fault in service.faults()] == [fault.get("times", 4)]
        assert submission_count(service) == 1

    @BOTH_WAIT_MODES
    def test_api_key_that_is_rejected_once_is_read_again(
        self, service: EmulatorProcess, runner: TaskRunner, deferrable: bool
    ) -> None:
        runner.run_attempt(wait_for_completion=False)
        service.add_fault(on="status", kind="error", name="unauthorized", match="generations/video_")
        assert runner.run_retry(deferrable=deferrable)["status"] == "completed"

    @BOTH_WAIT_MODES
    @pytest.mark.parametrize("name", ["unauthorized", "forbidden", "insufficient_quota"])
    def test_permanently_rejected_api_key_interrupts_the_wait_and_the_retry_reattaches(
        self, service: EmulatorProcess, runner: TaskRunner, name: str, deferrable: bool
    ) -> None:
        video_id = runner.run_attempt(wait_for_completion=False)["id"]
        service.add_fault(on="status", kind="error", name=name, times=-1, match="generations/video_")
        with pytest.raises(ToAPIsWaitInterruptedError) as interrupted:
            runner.run_retry(deferrable=deferrable)
        assert not isinstance(interrupted.value, AirflowFailException)
        assert interrupted.value.video_id == video_id
        service.clear_faults()
        assert runner.run_retry(deferrable=deferrable)["id"] == video_id
        assert submission_count(service) == 1

    @BOTH_WAIT_MODES
    def test_video_that_is_permanently_not_found_interrupts_the_wait(
        self, service: EmulatorProcess, runner: TaskRunner, clock: Clock, deferrable: bool
    ) -> None:
        video_id = runner.run_attempt(wait_for_completion=False)["id"]
        service.add_fault(on="status", kind="error", name="task_not_found", times=-1, match="generations/video_")
        started = clock.time()
        with pytest.raises(ToAPIsWaitInterruptedError) as interrupted:
            runner.run_retry(deferrable=deferrable)
        assert interrupted.value.video_id == video_id
        assert 120 <= clock.time() - started < 600

    @BOTH_WAIT_MODES
    def test_timeout_names_the_video_and_the_retry_waits_for_the_full_timeout(
        self, service: EmulatorProcess, runner: TaskRunner, clock: Clock, deferrable: bool
    ) -> None:
        started = clock.time()
        with pytest.raises(ToAPIsTimeoutError, match="30 s") as ended:
            runner.run_attempt(timeout=LATENCY / 2, deferrable=deferrable)
        assert clock.time() - started == pytest.approx(LATENCY / 2, abs=2)
        assert not isinstance(ended.value, AirflowFailException)
        assert ended.value.video_id == runner.ti.xcoms["video_id"]
        assert runner.run_retry(timeout=LATENCY, deferrable=deferrable)["status"] == "completed"
        assert submission_count(service) == 1

    @BOTH_WAIT_MODES
    def test_polls_are_at_least_five_seconds_apart(
        self, service: EmulatorProcess, runner: TaskRunner, clock: Clock, deferrable: bool
    ) -> None:
        runner.run_attempt(poll_interval=0.1, deferrable=deferrable)
        # The query rate can cause short waits, for example before the look-up after the last poll.
        assert min(seconds for seconds in clock.slept if seconds > 1 / QUERY_RATE) >= 5

    @BOTH_WAIT_MODES
    def test_completed_video_that_never_has_a_url_interrupts_the_wait(
        self, service: EmulatorProcess, runner: TaskRunner, deferrable: bool
    ) -> None:
        video_id = runner.run_attempt(wait_for_completion=False)["id"]
        service.add_fault(on="status", kind="no_url", times=-1)
        with pytest.raises(ToAPIsWaitInterruptedError) as interrupted:
            runner.run_retry(deferrable=deferrable)
        assert interrupted.value.video_id == video_id
        assert submission_count(service) == 1


class TestExecuteComplete:
    @pytest.fixture
    def video_id(self, runner: TaskRunner) -> str:
        return str(runner.run_attempt(wait_for_completion=False)["id"])

    def resumed(self, runner: TaskRunner, event: dict[str, Any], **fields: Any) -> Any:
        return runner.dag_task(deferrable=True, **fields)().resume_execution(
            "execute_complete", {"event": event}, runner.ti.context
        )

    def test_error_of_the_triggerer_is_logged_and_polling_slows_down(
        self, service: EmulatorProcess, runner: TaskRunner, clock: Clock, video_id: str, logged: Callable[[], str]
    ) -> None:
        message = f"An error of the triggerer about {video_id}."
        event = {"status": "error", "video_id": video_id, "end_time": clock.time() + 1800, "message": message}
        for given, used in ((10, 300), (600, 600)):
            deferred = deferral(lambda given=given: self.resumed(runner, event, poll_interval=given))  # type: ignore[misc]
            assert deferred.trigger.serialize()[1]["poll_interval"] == used
        assert message in logged()

    def test_error_of_the_triggerer_never_ends_the_wait_before_its_deadline(
        self, service: EmulatorProcess, runner: TaskRunner, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        started = clock.time()

        class ClientWithOldKey(AsyncToAPIsClient):
            def __init__(self, settings: ClientSettings, **options: Any) -> None:
                super().__init__(replace(settings, api_key="sk-old-0123456789"), **options)

        monkeypatch.setattr("airflow_provider_toapis.triggers.poller.AsyncToAPIsClient", ClientWithOldKey)
        service.add_fault(on="status", kind="task_status", value="queued", times=-1)
        with pytest.raises(ToAPIsTimeoutError):
            runner.run_attempt(deferrable=True, timeout=1800)
        assert 1800 <= clock.time() - started < 1815

    @pytest.mark.parametrize("status", ["success", "failed", "timeout"])
    def test_event_for_an_unfinished_video_defers_again_with_the_same_deadline(
        self, service: EmulatorProcess, runner: TaskRunner, clock: Clock, video_id: str, status: str
    ) -> None:
        end_time = clock.time() + 123.25
        event = {"status": status, "video_id": video_id, "end_time": end_time, "message": ""}
        deferred = deferral(lambda: self.resumed(runner, event))
        arguments = deferred.trigger.serialize()[1]
        # A wait that has timed out too early must not time out again immediately.
        assert ("min_wait" in arguments) == (status == "timeout")
        arguments.pop("min_wait", None)
        assert arguments == {
            "video_id": video_id,
            "toapis_conn_id": "toapis_default",
            "poll_interval": 10.0,
            "end_time": end_time,
        }
        assert deferred.method_name == "execute_complete"
        assert deferred.timeout is not None
        assert deferred.timeout.total_seconds() > 123

    @pytest.mark.parametrize("status", ["failed", "timeout", "error"])
    def test_completed_video_is_returned_for_any_event_status(
        self, service: EmulatorProcess, runner: TaskRunner, video_id: str, status: str
    ) -> None:
        service.finish(video_id)
        event = {"status": status, "video_id": video_id, "end_time": 1.0, "message": ""}
        result = self.resumed(runner, event)
        assert (result["id"], result["status"]) == (video_id, "completed")

    def test_success_event_for_a_failed_video_is_not_trusted(
        self, service: EmulatorProcess, runner: TaskRunner, video_id: str
    ) -> None:
        service.finish(video_id, "failed")
        event = {"status": "success", "video_id": video_id, "end_time": 4e9, "message": ""}
        with pytest.raises(ToAPIsTaskFailedError):
            self.resumed(runner, event)

    def test_unfinished_video_past_its_deadline_raises_a_timeout(
        self, service: EmulatorProcess, runner: TaskRunner, video_id: str
    ) -> None:
        event = {"status": "success", "video_id": video_id, "end_time": 1.0, "message": ""}
        with pytest.raises(ToAPIsTimeoutError):
            self.resumed(runner, event)

    def test_look_up_after_the_wait_is_retried(
        self, service: EmulatorProcess, runner: TaskRunner, video_id: str
    ) -> None:
        service.finish(video_id)
        service.add_fault(on="status", kind="html", times=4)
        event = {"status": "success", "video_id": video_id, "end_time": 4e9, "message": ""}
        assert self.resumed(runner, event)["status"] == "completed"

    def test_trigger_timeout_of_airflow_looks_the_video_up(
        self, service: EmulatorProcess, runner: TaskRunner, video_id: str
    ) -> None:
        fail = {"error": "Trigger timeout"}
        operator = runner.dag_task(deferrable=True)
        with pytest.raises(ToAPIsTimeoutError) as ended:
            operator().resume_execution("__fail__", fail, runner.ti.context)
        assert ended.value.video_id == video_id
        service.finish(video_id)
        assert operator().resume_execution("__fail__", fail, runner.ti.context)["id"] == video_id

    def test_trigger_failure_interrupts_the_wait_and_names_the_video(
        self, service: EmulatorProcess, runner: TaskRunner, video_id: str
    ) -> None:
        failure = {"error": "Trigger failure", "traceback": ["boom"]}
        with pytest.raises(ToAPIsWaitInterruptedError) as interrupted:
            runner.dag_task(deferrable=True)().resume_execution("__fail__", failure, runner.ti.context)
        assert interrupted.value.video_id == video_id

    def test_kill_logs_the_video_that_continues(
        self,
        service: EmulatorProcess,
        runner: TaskRunner,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        operator = runner.dag_task(wait_for_completion=False)()
        video_id = operator.execute(runner.ti.context)["id"]
        service.clear_requests()
        # Airflow's own logger does not always propagate its records to pytest.
        monkeypatch.setattr(ToAPIsSubmitVideoOperator, "log", logging.getLogger(__name__))
        caplog.clear()
        operator.on_kill()
        assert [video_id in record.getMessage() for record in caplog.records] == [True]
        assert service.requests() == []


class TestDerivedVideos:
    @pytest.mark.parametrize("make", [ToAPIsRemixVideoOperator, ToAPIsExtendVideoOperator])
    @BOTH_WAIT_MODES
    def test_remix_and_extension_are_submitted_once(
        self, service: EmulatorProcess, runner: TaskRunner, clock: Clock, *, make: type[BaseOperator], deferrable: bool
    ) -> None:
        source = runner.run_attempt()["id"]
        # Finish each video directly, because rendering takes real time and this clock is faster.
        clock.on_sleep = lambda _: service.finish(service.ledger()["billed"][-1]["id"])

        def operator() -> BaseOperator:
            fields: dict[str, Any] = {"video_id": source, "prompt": "Slower", "deferrable": deferrable}
            return make(task_id="derived", **fields)

        ti = FakeTaskInstance(task_id="derived")
        result = attempt(operator, ti)
        assert attempt(operator, ti.next_attempt())["id"] == result["id"] != source
        assert result["status"] == "completed"
        assert submission_count(service) == 2

    def test_empty_video_id_is_rejected_before_any_request(self, service: EmulatorProcess) -> None:
        operator = ToAPIsRemixVideoOperator(task_id="derived", video_id="", prompt="Slower")
        with rejects("video_id", ""):
            operator.execute(FakeTaskInstance(task_id="derived").context)
        assert service.requests() == []


class TestFiles:
    def test_upload_returns_the_url_of_the_file(self, service: EmulatorProcess, image_file: Path) -> None:
        operator = ToAPIsUploadFileOperator(task_id="upload", source=str(image_file))
        result = operator.execute(FakeTaskInstance().context)
        assert result.keys() == {"id", "url", "mime_type", "size"}
        assert result["mime_type"] == "image/jpeg"
        assert result["size"] == image_file.stat().st_size
        assert service.get(result["url"]).content == image_file.read_bytes()

    def test_upload_detects_the_media_type_from_the_content(
        self, service: EmulatorProcess, runner: TaskRunner, tmp_path: Path
    ) -> None:
        saved = Path(runner.run_attempt(output_path=str(tmp_path))["output_path"])
        misnamed = saved.rename(tmp_path / "image.png")
        result = ToAPIsUploadFileOperator(task_id="upload", source=str(misnamed)).execute(runner.ti.context)
        assert result["mime_type"] == "video/mp4"

    @pytest.mark.parametrize("make", [text_as_jpg, large_image, lambda _: "/no/such/file", str])
    def test_unsupported_file_is_rejected_with_its_field(
        self, service: EmulatorProcess, tmp_path: Path, make: Callable[[Path], str]
    ) -> None:
        with rejects("source") as rejected:
            ToAPIsUploadFileOperator(task_id="upload", source=make(tmp_path)).execute(FakeTaskInstance().context)
        assert isinstance(rejected.value, AirflowFailException)
        assert service.requests() == []

    def test_download_by_either_id(self, service: EmulatorProcess, runner: TaskRunner, tmp_path: Path) -> None:
        made = runner.run_attempt(client_business_id="order-1")
        for video_id in (made["id"], "order-1"):
            operator = ToAPIsDownloadVideoOperator(task_id="get", video_id=video_id, output_path=str(tmp_path))
            result = operator.execute(FakeTaskInstance().context)
            assert result.keys() == RESULT_KEYS
            assert result["output_path"] == str(tmp_path / f"{made['id']}.mp4")
            assert result["sha256"] == hashlib.sha256((tmp_path / f"{made['id']}.mp4").read_bytes()).hexdigest()
        assert not any(entry["has_authorization"] for entry in service.requests() if entry["endpoint"] == "result")

    def test_download_of_an_unfinished_video_suggests_the_sensor(
        self, service: EmulatorProcess, runner: TaskRunner, tmp_path: Path
    ) -> None:
        video_id = runner.run_attempt(wait_for_completion=False)["id"]
        operator = ToAPIsDownloadVideoOperator(task_id="get", video_id=video_id, output_path=str(tmp_path))
        with pytest.raises(ToAPIsDownloadError, match="ToAPIsVideoSensor"):
            operator.execute(FakeTaskInstance().context)

    def test_download_error_names_the_unknown_video(self, service: EmulatorProcess, tmp_path: Path) -> None:
        operator = ToAPIsDownloadVideoOperator(task_id="get", video_id="video_nope", output_path=str(tmp_path))
        with pytest.raises(ToAPIsError) as unknown:
            operator.execute(FakeTaskInstance().context)
        assert unknown.value.video_id == "video_nope"


class TestRedaction:
    @BOTH_WAIT_MODES
    def test_log_and_errors_contain_no_api_key_prompt_or_signature(
        self,
        service: EmulatorProcess,
        runner: TaskRunner,
        tmp_path: Path,
        *,
        logged: Callable[[], str],
        deferrable: bool,
    ) -> None:
        signed = "X-Amz-Algorithm=A&X-Amz-Credential=C&X-Amz-Signature=0123456789abcdef0123456789"
        item = {"url": f"$url?{signed}", "format": "mp4"}
        service.add_fault(on="status", kind="variant", when="completed", times=-1, merge={"result": {"data": [item]}})
        service.add_fault(on="submit", kind="html", after=True)
        service.add_fault(on="status", kind="status", status=500, body={"error": {"message": PROMPT}})
        service.add_fault(on="result", kind="truncate")
        runner.run_attempt(image=f"{runner.image}?{signed}", output_path=str(tmp_path), deferrable=deferrable)
        service.add_fault(on="submit", kind="task_failed", message=f"{PROMPT} {runner.image}?{signed} {API_KEY}")
        with pytest.raises(ToAPIsTaskFailedError) as failed:
            runner.run_attempt(FakeTaskInstance(map_index=7), deferrable=deferrable)
        assert "Saved video" in logged()
        for text in (logged(), repr(failed.value), "".join(traceback.format_exception(failed.value))):
            for private in (API_KEY, PROMPT, "X-Amz-Signature", "0123456789abcdef0123456789"):
                assert private not in text

    @BOTH_WAIT_MODES
    def test_httpx_logs_requests_of_other_code_but_not_ours(
        self,
        service: EmulatorProcess,
        runner: TaskRunner,
        tmp_path: Path,
        *,
        logged: Callable[[], str],
        deferrable: bool,
    ) -> None:
        runner.run_attempt(output_path=str(tmp_path), deferrable=deferrable)
        service.get(f"{service.url}/other-user")
        lines = [line for line in logged().splitlines() if "HTTP Request:" in line and "/_emulator/" not in line]
        assert lines
        assert all("/other-user" in line for line in lines)


@pytest.mark.parametrize("moment", ["look up", "save"])
def test_deleted_connection_does_not_lose_a_billed_video(
    service: EmulatorProcess,
    clock: Clock,
    image: str,
    tmp_path: Path,
    *,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    ti = FakeTaskInstance()
    make = TaskRunner(image).dag_task(deferrable=True, output_path=f"{tmp_path}/")
    deferred = deferral(lambda: make().execute(ti.context))
    assert deferred.trigger is not None
    video_id = deferred.trigger.serialize()[1]["video_id"]
    service.finish(video_id)
    before = ToAPIsHook.download_video if moment == "save" else ToAPIsHook.get_billed_video

    def without_connection(self: ToAPIsHook, *args: Any, **kwargs: Any) -> Any:
        monkeypatch.delenv("AIRFLOW_CONN_TOAPIS_DEFAULT")
        return before(self, *args, **kwargs)  # type: ignore[operator]

    with monkeypatch.context() as patch:
        patch.setattr(ToAPIsHook, before.__name__, without_connection)
        event = {"status": "success", "video_id": video_id, "end_time": clock.time() + 600, "message": ""}
        with pytest.raises(ToAPIsWaitInterruptedError) as error:
            make().execute_complete(ti.context, event)
    assert error.value.video_id == video_id
    assert not isinstance(error.value, AirflowFailException)
    connect(monkeypatch, service)
    assert attempt(make, ti.next_attempt())["id"] == video_id
    assert service.ledger()["count"] == 1


@pytest.mark.parametrize("deferrable", [True, False])
@pytest.mark.parametrize("after", ["submit_once", "get_billed_video"])
@pytest.mark.parametrize("key", ["", None], ids=["empty key", "deleted"])
def test_connection_broken_for_30_s_does_not_end_an_attempt_with_a_billed_video(
    *,
    service: EmulatorProcess,
    image: str,
    clock: Clock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    key: str | None,
    after: str,
    deferrable: bool,
) -> None:
    since: list[float] = []
    original = getattr(ToAPIsHook, after)

    def break_after(self: ToAPIsHook, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        if not since:
            since.append(clock.time())
            if key is None:
                monkeypatch.delenv("AIRFLOW_CONN_TOAPIS_DEFAULT")
            else:
                connect(monkeypatch, service, password=key)
        return result

    def restore(_: float) -> None:
        if since and clock.time() - since[0] >= 30:
            connect(monkeypatch, service)

    clock.on_sleep = restore
    monkeypatch.setattr(ToAPIsHook, after, break_after)
    result = attempt(TaskRunner(image).dag_task(deferrable=deferrable, output_path=f"{tmp_path}/"), FakeTaskInstance())
    assert Path(result["output_path"]).is_file()
    assert service.ledger()["count"] == 1


@pytest.mark.parametrize("deferrable", [True, False])
def test_fresh_result_url_is_looked_up_until_the_deadline(
    *,
    service: EmulatorProcess,
    image: str,
    clock: Clock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    deferrable: bool,
) -> None:
    original = ToAPIsClient.download

    def fails_from_now_on(self: ToAPIsClient, *args: Any, **kwargs: Any) -> Any:
        service.add_fault(on="status", kind="status", status=500, body={"error": {"message": "x"}}, times=9)
        return original(self, *args, **kwargs)

    service.add_fault(on="result", kind="url_forbidden", times=1)
    monkeypatch.setattr(ToAPIsClient, "download", fails_from_now_on)
    result = attempt(TaskRunner(image).dag_task(deferrable=deferrable, output_path=f"{tmp_path}/"), FakeTaskInstance())
    assert Path(result["output_path"]).is_file()


@pytest.mark.parametrize("has_state_store", [True, False], ids=["with state store", "without state store"])
@pytest.mark.parametrize("key", ["", "sk-withdrawn"])
def test_missing_api_key_at_the_retry_does_not_lose_a_billed_video(
    service: EmulatorProcess, image: str, monkeypatch: pytest.MonkeyPatch, key: str, has_state_store: bool
) -> None:
    ti = FakeTaskInstance()
    if not has_state_store:
        ti.context.pop("task_state_store", None)
    make = TaskRunner(image).dag_task(deferrable=True)
    deferral(lambda: make().execute(ti.context))
    with monkeypatch.context() as patch:
        connect(patch, service, password=key)
        with pytest.raises(ToAPIsWaitInterruptedError) as interrupted:
            make().execute(ti.next_attempt().context)
    assert not isinstance(interrupted.value, AirflowFailException)
    assert not claims_nothing_was_billed(interrupted.value)
    deferral(lambda: make().execute(ti.next_attempt().context))
    assert service.ledger()["count"] == 1
