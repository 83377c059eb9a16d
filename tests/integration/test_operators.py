"""The operators over real HTTP: one video per wanted video, whatever happens on the way."""

from __future__ import annotations

import hashlib
import json
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
}
BOTH_WAYS = pytest.mark.parametrize("deferrable", [True, False], ids=["deferrable", "in the worker"])


class KilledError(BaseException):
    """Stands for the end of a process."""


class Author:
    """Writes the task of a DAG: what is not said is as in most of these tests."""

    def __init__(self, picture: str) -> None:
        self.picture = picture
        self.ti = FakeTaskInstance()

    def writes(self, **fields: Any) -> Callable[[], ToAPIsSubmitVideoOperator]:
        defaults: dict[str, Any] = {"task_id": "video", "prompt": PROMPT, "image": self.picture, "deferrable": False}
        fields = defaults | fields
        return lambda: ToAPIsSubmitVideoOperator(**fields)

    def runs(self, ti: FakeTaskInstance | None = None, **fields: Any) -> Any:
        return attempt(self.writes(**fields), ti or self.ti)

    def runs_again(self, **fields: Any) -> Any:
        return self.runs(self.ti.next_attempt(), **fields)


@pytest.fixture
def author(picture: str) -> Author:
    return Author(picture)


def ordered(service: EmulatorProcess) -> int:
    """Videos that were ordered, given back or not."""
    return int(service.ledger()["posted"])


class TestResult:
    @BOTH_WAYS
    def test_video_is_made_and_described(self, service: EmulatorProcess, author: Author, deferrable: bool) -> None:
        result = author.runs(deferrable=deferrable)
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

    def test_without_waiting_it_is_described_as_ordered(self, service: EmulatorProcess, author: Author) -> None:
        result = author.runs(wait_for_completion=False, deferrable=True, output_path="/nowhere/at/all")
        assert result.keys() == RESULT_KEYS
        assert result["status"] == "queued"
        assert (result["url"], result["urls"], result["output_path"]) == (None, [], None)
        assert ordered(service) == 1

    @pytest.mark.parametrize("deferrable", [True, False])
    def test_id_is_in_xcom_before_any_waiting(
        self, service: EmulatorProcess, author: Author, clock: Clock, deferrable: bool
    ) -> None:
        seen: list[Any] = []

        def look(seconds: float) -> None:
            if seconds:
                seen.append(author.ti.xcoms.get("video_id"))

        clock.on_sleep = look
        if deferrable:
            deferral(lambda: author.writes(deferrable=True)().execute(author.ti.context))
            seen.append(author.ti.xcoms["video_id"])
        else:
            author.runs()
        assert seen
        assert set(seen) == {service.ledger()["billed"][0]["id"]}

    def test_author_s_words_reach_the_model(self, service: EmulatorProcess, author: Author) -> None:
        author.runs(duration="15", aspect_ratio="9:16", wait_for_completion=False)
        assert service.ledger()["billed"][0]["cost_usd"] == "0.15"

    @pytest.mark.parametrize(
        ("fields", "price"),
        [
            ({"model": "grok-video-1.5", "duration": 4}, "0.50 USD"),
            ({"model": "grok-video-1.5", "duration": 4, "image": None}, "0.50 USD"),
            ({"model": "kling-v3", "duration": 10}, "0.80 USD"),
            ({"model": "seedance-2", "duration": -1}, "not known"),
        ],
        ids=["minimum", "without an image", "the service's", "length of the model"],
    )
    def test_log_names_the_price_that_the_service_lists(
        self,
        service: EmulatorProcess,
        author: Author,
        logged: Callable[[], str],
        fields: dict[str, Any],
        price: str,
    ) -> None:
        service.list_prices(
            "grok-video-1.5", {"charge_type": "per_second", "unit_price": "0.01", "minimum_charge_usd": "0.50"}
        )
        author.runs(wait_for_completion=False, **fields)
        assert f"Expected price: {price}." in logged()

    def test_price_list_that_is_out_of_reach_holds_nothing_up(
        self, service: EmulatorProcess, author: Author, clock: Clock, logged: Callable[[], str]
    ) -> None:
        service.add_fault(on="pricing", kind="error", name="pricing_unavailable", times=-1)
        author.runs(wait_for_completion=False)
        assert "0.10 USD" in logged()
        assert service.request_counts()["pricing"] == 1
        assert ordered(service) == 1

    @pytest.mark.parametrize("inputs", ["text", "image", "references"])
    def test_mode_of_the_successor_agrees_with_the_inputs(
        self, service: EmulatorProcess, author: Author, inputs: str
    ) -> None:
        # The service takes neither text alone nor references without their mode.
        image = author.picture if inputs == "image" else None
        parameters = {"reference_images": [author.picture]} if inputs == "references" else None
        author.runs(model="grok-video-1.5", image=image, parameters=parameters, wait_for_completion=False)
        assert ordered(service) == 1

    def test_mode_of_the_author_wins(self, service: EmulatorProcess, author: Author) -> None:
        with pytest.raises(ToAPIsRequestError) as rejected:
            author.runs(model="grok-video-1.5", parameters={"video_generation_mode": "text_to_video"})
        assert rejected.value.http_status == 400
        assert ordered(service) == 0

    def test_local_picture_is_uploaded_first(
        self, service: EmulatorProcess, author: Author, picture_file: Path
    ) -> None:
        author.runs(image=str(picture_file))
        endpoints = [entry["endpoint"] for entry in service.requests()]
        assert endpoints.index("upload") < endpoints.index("submit")
        assert endpoints.count("upload") == 1

    def test_retry_with_a_local_picture_uploads_nothing(
        self, service: EmulatorProcess, author: Author, picture_file: Path
    ) -> None:
        author.runs(image=str(picture_file))
        service.clear_requests()
        author.runs_again(image=f"file://{picture_file}")
        assert "upload" not in service.request_counts()
        assert ordered(service) == 1


class TestKeeping:
    @BOTH_WAYS
    @pytest.mark.parametrize("name", ["", "shoe.mp4", "deep/er/shoe.MOV"])
    def test_directory_or_file_name(
        self, service: EmulatorProcess, author: Author, tmp_path: Path, name: str, deferrable: bool
    ) -> None:
        result = author.runs(output_path=str(tmp_path / "kept" / name), deferrable=deferrable)
        file = Path(result["output_path"])
        assert file == tmp_path / "kept" / (name or f"{result['id']}.mp4")
        content = file.read_bytes()
        assert result["size"] == len(content) > 1000
        assert result["sha256"] == hashlib.sha256(content).hexdigest()
        beside = {f"{result['client_business_id']}.json"} | ({f".{file.name}.toapis.json"} if name else set())
        assert {path.name for path in file.parent.iterdir()} == {file.name} | beside

    def test_receipt_is_the_result_without_links(
        self, service: EmulatorProcess, author: Author, tmp_path: Path
    ) -> None:
        result = author.runs(output_path=str(tmp_path))
        receipt = json.loads((tmp_path / f"{result['client_business_id']}.json").read_text())
        assert receipt == {"version": 1, **result, "url": None, "urls": []}

    @BOTH_WAYS
    def test_kept_video_is_returned_without_asking_or_paying(
        self, service: EmulatorProcess, author: Author, tmp_path: Path, deferrable: bool
    ) -> None:
        first = author.runs(output_path=str(tmp_path), deferrable=deferrable)
        service.clear_requests()
        again = author.runs_again(output_path=str(tmp_path), deferrable=deferrable)
        assert service.requests() == []
        assert again == first | {"url": None, "urls": []}
        assert author.ti.xcoms["video_id"] == first["id"]
        assert author.ti.xcoms["client_business_id"] == first["client_business_id"]

    @pytest.mark.parametrize("damage", ["missing", "truncated", "unreadable receipt"])
    def test_what_is_not_really_kept_is_fetched_again_and_not_paid_again(
        self, service: EmulatorProcess, author: Author, tmp_path: Path, damage: str
    ) -> None:
        first = author.runs(output_path=str(tmp_path))
        file, receipt = Path(first["output_path"]), tmp_path / f"{first['client_business_id']}.json"
        if damage == "missing":
            file.unlink()
        elif damage == "truncated":
            file.write_bytes(b"x")
        else:
            receipt.write_text("{")
        again = author.runs_again(output_path=str(tmp_path))
        assert (again["id"], again["sha256"]) == (first["id"], first["sha256"])
        assert hashlib.sha256(file.read_bytes()).hexdigest() == first["sha256"]
        assert ordered(service) == 1

    def test_mapped_tasks_with_one_file_name_are_told_and_never_mixed_up(
        self, service: EmulatorProcess, author: Author, tmp_path: Path, logged: Callable[[], str]
    ) -> None:
        path = str(tmp_path / "shoe.mp4")
        instances = [FakeTaskInstance(map_index=index) for index in range(3)]
        made = []
        for author.ti in instances:
            made.append(author.runs(output_path=path))
        assert len({video["id"] for video in made}) == ordered(service) == 3
        for saved, replaced in zip(made[1:], made, strict=False):
            assert re.search(rf"{saved['id']}.*{replaced['id']}", logged())
        author.ti = instances[0].cleared()
        again = author.runs(output_path=path)
        assert again["id"] == made[0]["id"]
        assert again["sha256"] == hashlib.sha256(Path(path).read_bytes()).hexdigest()
        assert ordered(service) == 3

    def test_kept_video_is_returned_after_the_service_has_let_it_expire(
        self, service: EmulatorProcess, author: Author, clock: Clock, tmp_path: Path
    ) -> None:
        author.runs(output_path=str(tmp_path))
        clock.sleep(90_000)
        author.runs_again(output_path=str(tmp_path))
        assert ordered(service) == 1

    def test_key_goes_to_the_api_only(self, service: EmulatorProcess, author: Author, tmp_path: Path) -> None:
        author.runs(output_path=str(tmp_path))
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
    def test_broken_download_starts_again_and_leaves_no_half_file(
        self, service: EmulatorProcess, author: Author, tmp_path: Path, fault: dict[str, Any]
    ) -> None:
        service.add_fault(on="result", times=2, **fault)
        result = author.runs(output_path=str(tmp_path))
        assert hashlib.sha256((tmp_path / f"{result['id']}.mp4").read_bytes()).hexdigest() == result["sha256"]
        assert len(list(tmp_path.iterdir())) == 2
        assert ordered(service) == 1

    def test_download_that_stays_broken_fails_and_a_retry_pays_nothing(
        self, service: EmulatorProcess, author: Author, tmp_path: Path
    ) -> None:
        service.add_fault(on="result", kind="truncate", times=-1)
        with pytest.raises(ToAPIsDownloadError) as failed:
            author.runs(output_path=str(tmp_path))
        assert failed.value.video_id == author.ti.xcoms["video_id"]
        assert not isinstance(failed.value, AirflowFailException)
        assert list(tmp_path.iterdir()) == []
        service.clear_faults()
        assert author.runs_again(output_path=str(tmp_path))["size"] > 0
        assert ordered(service) == 1


class TestPayingOnce:
    @BOTH_WAYS
    def test_every_further_attempt_adopts(self, service: EmulatorProcess, author: Author, deferrable: bool) -> None:
        first = author.runs(deferrable=deferrable)
        again = [author.runs_again(deferrable=deferrable) for _ in range(3)]
        assert again == [first] * 3
        assert ordered(service) == 1

    def test_attempts_adopt_across_ways_of_waiting(self, service: EmulatorProcess, author: Author) -> None:
        ids = {
            author.runs_again(wait_for_completion=False)["id"],
            author.runs_again(deferrable=True)["id"],
            author.runs_again(deferrable=False)["id"],
        }
        assert len(ids) == 1
        assert ordered(service) == 1

    def test_clear_adopts_and_says_how_to_get_a_new_one(
        self, service: EmulatorProcess, author: Author, logged: Callable[[], str]
    ) -> None:
        author.runs()
        author.ti.cleared()
        author.runs()
        assert ordered(service) == 1
        assert "on_clear='regenerate'" in logged()

    def test_attempt_that_died_right_after_the_order_is_adopted(
        self, service: EmulatorProcess, author: Author, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def die(*_: object, **__: object) -> None:
            raise KilledError

        with monkeypatch.context() as patch:
            patch.setattr(FakeTaskInstance, "xcom_push", die)
            with pytest.raises(KilledError):
                author.runs(wait_for_completion=False)
        author.runs_again(wait_for_completion=False)
        assert ordered(service) == 1

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
    def test_another_wish_is_another_video(
        self, service: EmulatorProcess, author: Author, change: dict[str, Any]
    ) -> None:
        author.runs(wait_for_completion=False)
        author.runs_again(wait_for_completion=False, **change)
        assert ordered(service) == 2

    @pytest.mark.parametrize(
        "same", [{"poll_interval": 20.0}, {"timeout": 60.0}, {"max_generations": 5}, {"output_path": "/tmp/elsewhere"}]
    )
    def test_another_way_of_waiting_is_the_same_video(
        self, service: EmulatorProcess, author: Author, same: dict[str, Any]
    ) -> None:
        author.runs(wait_for_completion=False)
        author.runs_again(wait_for_completion=False, **same)
        assert ordered(service) == 1

    @pytest.mark.parametrize("other", [{"run_id": "manual__2"}, {"task_id": "b"}, {"dag_id": "b"}, {"map_index": 1}])
    def test_other_task_instances_have_videos_of_their_own(
        self, service: EmulatorProcess, author: Author, other: dict[str, Any]
    ) -> None:
        author.runs(wait_for_completion=False)
        author.runs(FakeTaskInstance(**other), wait_for_completion=False)
        assert ordered(service) == 2

    def test_deployments_with_namespaces_of_their_own_do_not_share_videos(
        self, service: EmulatorProcess, author: Author, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        author.runs(wait_for_completion=False)
        connect(monkeypatch, service, extra={"namespace": "staging"})
        author.runs_again(wait_for_completion=False)
        assert ordered(service) == 2

    def test_identity_stays_with_its_product_when_the_mapped_list_is_reordered(
        self, service: EmulatorProcess, author: Author
    ) -> None:
        def run(skus: list[str]) -> dict[str, str]:
            return {
                sku: author.runs(
                    FakeTaskInstance(map_index=index), identity=sku, prompt=f"About {sku}", wait_for_completion=False
                )["id"]
                for index, sku in enumerate(skus)
            }

        assert run(["A", "B", "C"]) == run(["C", "A", "B"])
        assert ordered(service) == 3

    def test_mapped_tasks_without_identity_go_by_their_index(self, service: EmulatorProcess, author: Author) -> None:
        for index in (0, 1, 0, 1):
            author.runs(FakeTaskInstance(map_index=index), wait_for_completion=False)
        assert ordered(service) == 2

    def test_regenerate_orders_anew_when_cleared_and_only_then(self, service: EmulatorProcess, author: Author) -> None:
        first = author.runs(on_clear="regenerate")
        assert author.runs_again(on_clear="regenerate")["id"] == first["id"]
        author.ti.cleared()
        second = author.runs(on_clear="regenerate")
        assert author.runs_again(on_clear="regenerate")["id"] == second["id"] != first["id"]
        assert ordered(service) == 2

    def test_regenerate_is_not_stopped_by_what_is_kept(
        self, service: EmulatorProcess, author: Author, tmp_path: Path
    ) -> None:
        first = author.runs(on_clear="regenerate", output_path=str(tmp_path))
        author.ti.cleared()
        assert author.runs(on_clear="regenerate", output_path=str(tmp_path))["id"] != first["id"]

    def test_chosen_id_is_sent_as_it_is(self, service: EmulatorProcess, author: Author) -> None:
        author.runs(client_business_id="order-4711", wait_for_completion=False)
        author.runs(
            FakeTaskInstance(dag_id="other"), client_business_id="order-4711", prompt="x", wait_for_completion=False
        )
        assert [line["client_business_id"] for line in service.ledger()["billed"]] == ["order-4711"]

    def test_chosen_id_of_another_model_is_refused(self, service: EmulatorProcess, author: Author) -> None:
        author.runs(client_business_id="order-4711", wait_for_completion=False)
        author.ti = FakeTaskInstance(task_id=author.ti.task_id, run_id="another run")
        with pytest.raises(ToAPIsRequestError, match=r"grok-video-1\.5-preview"):
            author.runs(client_business_id="order-4711", model="grok-video-1.5")
        assert ordered(service) == 1


LOST_ANSWERS: list[dict[str, Any]] = [
    {"kind": "drop", "after": True},
    {"kind": "drop", "after": True, "reset": True},
    {"kind": "status", "status": 500, "after": True},
    {"kind": "status", "status": 408, "after": True},
    {"kind": "status", "status": 200, "body": "<html>", "after": True},
    {"kind": "status", "status": 200, "body": {"status": "queued"}, "after": True},
    {"kind": "html", "after": True},
    {"kind": "html", "status": 524, "after": True},
]


class TestLostAnswer:
    @pytest.mark.parametrize("fault", LOST_ANSWERS, ids=lambda fault: "-".join(map(str, fault.values())))
    def test_order_whose_answer_was_lost_is_found_and_adopted(
        self, service: EmulatorProcess, author: Author, fault: dict[str, Any]
    ) -> None:
        service.add_fault(on="submit", **fault)
        result = author.runs(deferrable=True)
        assert len(posts(service)) == 1
        assert [line["id"] for line in service.ledger()["billed"]] == [result["id"]]

    @pytest.mark.parametrize("kind", ["drop", "html"])
    def test_order_that_never_arrived_is_sent_again_under_the_same_id(
        self, service: EmulatorProcess, author: Author, kind: str
    ) -> None:
        service.add_fault(on="submit", kind=kind)
        author.runs(wait_for_completion=False)
        assert len(posts(service)) == 2
        assert ordered(service) == 1

    def test_three_lost_answers_end_the_attempt_and_the_next_one_looks_first(
        self, service: EmulatorProcess, author: Author
    ) -> None:
        service.add_fault(on="submit", kind="html", times=3)
        with pytest.raises(ToAPIsWaitInterruptedError):
            author.runs(wait_for_completion=False)
        assert len(posts(service)) == 3
        author.runs_again(wait_for_completion=False)
        assert ordered(service) == 1

    def test_look_up_that_cannot_be_answered_is_no_license_to_order(
        self, service: EmulatorProcess, author: Author
    ) -> None:
        service.add_fault(on="status", kind="html", times=-1)
        with pytest.raises(ToAPIsServerError):
            author.runs(wait_for_completion=False)
        assert posts(service) == []

    @pytest.mark.parametrize("name", ["rate_limited", "rate_limit_unavailable"])
    def test_answers_that_created_nothing_are_waited_out(
        self, service: EmulatorProcess, author: Author, name: str
    ) -> None:
        service.add_fault(on="submit", kind="error", name=name, times=3)
        author.runs(wait_for_completion=False)
        assert len(posts(service)) == 4
        assert ordered(service) == 1


class TestRefusedOrders:
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
    def test_refusal_fails_at_once_and_costs_nothing(
        self, service: EmulatorProcess, author: Author, name: str, kind: type[ToAPIsError]
    ) -> None:
        service.add_fault(on="submit", kind="error", name=name, times=-1)
        with pytest.raises(kind) as refused:
            author.runs()
        assert isinstance(refused.value, AirflowFailException)
        assert len(posts(service)) == 1
        assert ordered(service) == 0

    def test_model_that_is_not_offered_names_the_list_and_the_successor(
        self, service: EmulatorProcess, author: Author
    ) -> None:
        service.add_fault(on="submit", kind="error", name="no_channel")
        with pytest.raises(ToAPIsRequestError, match=r"/v1/models\?type=video.*grok-video-1\.5"):
            author.runs()


def big_picture(folder: Path) -> str:
    file = folder / "big.jpg"
    file.write_bytes(b"\xff\xd8\xff" + bytes(10 * 1024 * 1024))
    return str(file)


def text_called_jpg(folder: Path) -> str:
    file = folder / "picture.jpg"
    file.write_text("not a picture")
    return str(file)


def heic_called_png(folder: Path) -> str:
    file = folder / "picture.png"
    file.write_bytes(b"\x00\x00\x00\x18ftypheic" + bytes(64))
    return str(file)


def two_pictures(_folder: Path) -> list[str]:
    return ["https://example.com/1.jpg", "https://example.com/2.jpg"]


BadInput = tuple[str, dict[str, Any], str, str]
#: What is wrong, the field that the error names, and what it shows of the value.
BAD_INPUTS: list[BadInput] = [
    ("no image", {"image": None}, "image", "None"),
    ("empty image", {"image": ""}, "image", "''"),
    ("no images", {"image": []}, "image", "None"),
    ("two images", {"image": two_pictures}, "image", "2 images"),
    ("data uri", {"image": "data:image/png;base64," + "iVBOR" * 2000}, "image", "data:image/png"),
    ("base64", {"image": "iVBORw0KGgo" * 100}, "image", "iVBORw0KGgo"),
    ("ftp url", {"image": "ftp://example.com/a.jpg"}, "image", "ftp://example.com/a.jpg"),
    ("url without host", {"image": "https:///a.jpg"}, "image", "https:///a.jpg"),
    ("text file", {"image": text_called_jpg}, "image", "picture.jpg"),
    ("heic file", {"image": heic_called_png}, "image", "picture.png"),
    ("over 10 MB", {"image": big_picture}, "image", "big.jpg"),
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
    def test_it_is_refused_by_name_before_anything_is_sent(
        self, service: EmulatorProcess, author: Author, tmp_path: Path, case: BadInput
    ) -> None:
        _, fields, field, value = case
        given = {name: made(tmp_path) if callable(made) else made for name, made in fields.items()}
        with rejects(field) as refused:
            author.runs(**given)
        assert value in refused.value.value
        assert isinstance(refused.value, AirflowFailException)
        assert len(str(refused.value)) < 700
        assert service.requests() == []
        assert ordered(service) == 0

    def test_missing_connection(self, service: EmulatorProcess, author: Author) -> None:
        with rejects("toapis_conn_id", "nowhere", error=ToAPIsConnectionError) as refused:
            author.runs(toapis_conn_id="nowhere")
        assert not isinstance(refused.value, AirflowFailException)
        assert service.requests() == []

    def test_connection_without_key(
        self, service: EmulatorProcess, author: Author, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        connect(monkeypatch, service, password="")
        with pytest.raises(ToAPIsAuthError, match="password") as refused:
            author.runs()
        assert isinstance(refused.value, AirflowFailException)
        assert service.requests() == []

    def test_unknown_model_is_passed_on_with_a_warning(
        self, service: EmulatorProcess, author: Author, caplog: pytest.LogCaptureFixture
    ) -> None:
        with pytest.raises(ToAPIsRequestError, match=r"GET /v1/models"):
            author.runs(model="tomorrow-video-9", duration=7)
        assert len(posts(service)) == 1
        warned = [record.args[0] for record in caplog.records if isinstance(record.args, tuple) and record.args]
        assert "tomorrow-video-9" in warned

    def test_rejected_model_that_is_misspelled_is_suggested(self, service: EmulatorProcess, author: Author) -> None:
        with pytest.raises(ToAPIsRequestError, match=r"\bgrok-video-1\.5-preview\b"):
            author.runs(model="grok-video-1.5-previw")


class TestFailedGeneration:
    def fail_all(self, service: EmulatorProcess, times: int = -1, **fault: str) -> None:
        service.add_fault(on="submit", kind="task_failed", times=times, **fault)

    @BOTH_WAYS
    def test_failure_is_typed_and_the_next_attempt_orders_anew(
        self, service: EmulatorProcess, author: Author, deferrable: bool
    ) -> None:
        self.fail_all(service, 1, code="generation_failed", message="The model had a bad day")
        with pytest.raises(ToAPIsTaskFailedError, match="bad day") as failed:
            author.runs(deferrable=deferrable, client_business_id="order-1")
        assert not isinstance(failed.value, AirflowFailException)
        assert failed.value.task is not None
        assert failed.value.video_id == failed.value.task.id
        assert "max_generations" in str(failed.value)
        assert author.runs_again(deferrable=deferrable, client_business_id="order-1")["status"] == "completed"
        assert [line["client_business_id"] for line in service.ledger()["billed"]] == ["order-1", "order-1-1"]

    def test_generations_are_bounded(self, service: EmulatorProcess, author: Author) -> None:
        self.fail_all(service)
        for _ in range(2):
            with pytest.raises(ToAPIsTaskFailedError):
                author.runs_again(max_generations=2)
        with pytest.raises(ToAPIsFinalFailureError, match="max_generations") as ended:
            author.runs_again(max_generations=2)
        assert isinstance(ended.value, AirflowFailException)
        assert ordered(service) == 2

    @BOTH_WAYS
    def test_content_policy_fails_for_good(self, service: EmulatorProcess, author: Author, deferrable: bool) -> None:
        self.fail_all(service, code="content_policy_violation", message=f"Refused: {PROMPT}")
        for _ in range(2):
            with pytest.raises(ToAPIsContentPolicyError) as refused:
                author.runs_again(deferrable=deferrable)
            assert isinstance(refused.value, AirflowFailException)
            assert isinstance(refused.value, ToAPIsTaskFailedError)
            assert PROMPT not in str(refused.value)
        assert ordered(service) == 1

    def test_expired_result_that_was_not_kept_is_ordered_anew(
        self, service: EmulatorProcess, author: Author, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        first = author.runs()
        clock.sleep(90_000)
        second = author.runs_again()
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
    # The progress goes on, so that it is not asked for as often.
    {"kind": "task_status", "value": "meditating", "when": "unfinished", "times": 2},
    {"kind": "no_url"},
]


class TestWaiting:
    @BOTH_WAYS
    @pytest.mark.parametrize("fault", TRANSIENT, ids=lambda fault: "-".join(map(str, fault.values())))
    def test_failed_poll_never_fails_a_paid_video(
        self, service: EmulatorProcess, author: Author, clock: Clock, fault: dict[str, Any], deferrable: bool
    ) -> None:
        author.runs(wait_for_completion=False)
        service.add_fault(**{"on": "status", "times": 4, "match": "video_"} | fault)
        assert author.runs_again(deferrable=deferrable)["status"] == "completed"
        assert [fault["struck"] for fault in service.faults()] == [fault.get("times", 4)]
        assert ordered(service) == 1

    @BOTH_WAYS
    def test_key_that_is_refused_once_is_read_again(
        self, service: EmulatorProcess, author: Author, deferrable: bool
    ) -> None:
        author.runs(wait_for_completion=False)
        service.add_fault(on="status", kind="error", name="unauthorized", match="generations/video_")
        assert author.runs_again(deferrable=deferrable)["status"] == "completed"

    @BOTH_WAYS
    @pytest.mark.parametrize("name", ["unauthorized", "forbidden", "insufficient_quota"])
    def test_key_that_stays_refused_interrupts_the_wait_and_keeps_the_video(
        self, service: EmulatorProcess, author: Author, name: str, deferrable: bool
    ) -> None:
        video_id = author.runs(wait_for_completion=False)["id"]
        service.add_fault(on="status", kind="error", name=name, times=-1, match="generations/video_")
        with pytest.raises(ToAPIsWaitInterruptedError) as interrupted:
            author.runs_again(deferrable=deferrable)
        assert not isinstance(interrupted.value, AirflowFailException)
        assert interrupted.value.video_id == video_id
        service.clear_faults()
        assert author.runs_again(deferrable=deferrable)["id"] == video_id
        assert ordered(service) == 1

    @BOTH_WAYS
    def test_video_that_the_service_keeps_denying_interrupts_the_wait(
        self, service: EmulatorProcess, author: Author, clock: Clock, deferrable: bool
    ) -> None:
        video_id = author.runs(wait_for_completion=False)["id"]
        service.add_fault(on="status", kind="error", name="task_not_found", times=-1, match="generations/video_")
        started = clock.time()
        with pytest.raises(ToAPIsWaitInterruptedError) as interrupted:
            author.runs_again(deferrable=deferrable)
        assert interrupted.value.video_id == video_id
        assert 120 <= clock.time() - started < 600

    @BOTH_WAYS
    def test_timeout_says_that_the_video_lives_and_a_retry_waits_in_full(
        self, service: EmulatorProcess, author: Author, clock: Clock, deferrable: bool
    ) -> None:
        started = clock.time()
        with pytest.raises(ToAPIsTimeoutError, match="30 s") as ended:
            author.runs(timeout=LATENCY / 2, deferrable=deferrable)
        assert clock.time() - started == pytest.approx(LATENCY / 2, abs=2)
        assert not isinstance(ended.value, AirflowFailException)
        assert ended.value.video_id == author.ti.xcoms["video_id"]
        assert author.runs_again(timeout=LATENCY, deferrable=deferrable)["status"] == "completed"
        assert ordered(service) == 1

    @BOTH_WAYS
    def test_nobody_asks_more_often_than_every_five_seconds(
        self, service: EmulatorProcess, author: Author, clock: Clock, deferrable: bool
    ) -> None:
        author.runs(poll_interval=0.1, deferrable=deferrable)
        # The last wait may be cut short by the deadline, which is far away here. Between the poll that finds the video
        # ready and the task's own there is no wait but for the query rate.
        assert min(seconds for seconds in clock.slept if seconds > 1 / QUERY_RATE) >= 5

    @BOTH_WAYS
    def test_completed_without_a_link_for_good_is_an_error_that_orders_nothing(
        self, service: EmulatorProcess, author: Author, deferrable: bool
    ) -> None:
        video_id = author.runs(wait_for_completion=False)["id"]
        service.add_fault(on="status", kind="no_url", times=-1)
        with pytest.raises(ToAPIsWaitInterruptedError) as interrupted:
            author.runs_again(deferrable=deferrable)
        assert interrupted.value.video_id == video_id
        assert ordered(service) == 1


class TestExecuteComplete:
    @pytest.fixture
    def video_id(self, author: Author) -> str:
        return str(author.runs(wait_for_completion=False)["id"])

    def resumed(self, author: Author, event: dict[str, Any], **fields: Any) -> Any:
        return author.writes(deferrable=True, **fields)().resume_execution(
            "execute_complete", {"event": event}, author.ti.context
        )

    def test_error_that_only_the_triggerer_has_is_told_and_costs_a_worker_every_few_minutes(
        self, service: EmulatorProcess, author: Author, clock: Clock, video_id: str, logged: Callable[[], str]
    ) -> None:
        message = f"What the triggerer found out about {video_id}."
        event = {"status": "error", "video_id": video_id, "end_time": clock.time() + 1800, "message": message}
        for given, used in ((10, 300), (600, 600)):
            deferred = deferral(lambda given=given: self.resumed(author, event, poll_interval=given))  # type: ignore[misc]
            assert deferred.trigger.serialize()[1]["poll_interval"] == used
        assert message in logged()

    def test_error_that_only_the_triggerer_has_never_ends_the_wait_before_its_deadline(
        self, service: EmulatorProcess, author: Author, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        started = clock.time()

        class OldKeyInTheTriggerer(AsyncToAPIsClient):
            def __init__(self, settings: ClientSettings, **options: Any) -> None:
                super().__init__(replace(settings, api_key="sk-old-0123456789"), **options)

        monkeypatch.setattr("airflow_provider_toapis.triggers.poller.AsyncToAPIsClient", OldKeyInTheTriggerer)
        service.add_fault(on="status", kind="task_status", value="queued", times=-1)
        with pytest.raises(ToAPIsTimeoutError):
            author.runs(deferrable=True, timeout=1800)
        assert 1800 <= clock.time() - started < 1815

    @pytest.mark.parametrize("status", ["success", "failed", "timeout"])
    def test_event_is_a_hint_and_an_unfinished_video_is_waited_for_with_the_same_deadline(
        self, service: EmulatorProcess, author: Author, clock: Clock, video_id: str, status: str
    ) -> None:
        end_time = clock.time() + 123.25
        event = {"status": status, "video_id": video_id, "end_time": end_time, "message": ""}
        deferred = deferral(lambda: self.resumed(author, event))
        arguments = deferred.trigger.serialize()[1]
        # A wait that has timed out too early must not do so again at once.
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
    def test_finished_video_is_returned_whatever_the_event_says(
        self, service: EmulatorProcess, author: Author, video_id: str, status: str
    ) -> None:
        service.finish(video_id)
        event = {"status": status, "video_id": video_id, "end_time": 1.0, "message": ""}
        result = self.resumed(author, event)
        assert (result["id"], result["status"]) == (video_id, "completed")

    def test_success_of_a_failed_video_is_not_believed(
        self, service: EmulatorProcess, author: Author, video_id: str
    ) -> None:
        service.finish(video_id, "failed")
        event = {"status": "success", "video_id": video_id, "end_time": 4e9, "message": ""}
        with pytest.raises(ToAPIsTaskFailedError):
            self.resumed(author, event)

    def test_unfinished_video_past_its_deadline_is_a_timeout(
        self, service: EmulatorProcess, author: Author, video_id: str
    ) -> None:
        event = {"status": "success", "video_id": video_id, "end_time": 1.0, "message": ""}
        with pytest.raises(ToAPIsTimeoutError):
            self.resumed(author, event)

    def test_poll_is_patient(self, service: EmulatorProcess, author: Author, video_id: str) -> None:
        service.finish(video_id)
        service.add_fault(on="status", kind="html", times=4)
        event = {"status": "success", "video_id": video_id, "end_time": 4e9, "message": ""}
        assert self.resumed(author, event)["status"] == "completed"

    def test_airflow_s_own_timeout_asks_for_the_truth(
        self, service: EmulatorProcess, author: Author, video_id: str
    ) -> None:
        fail = {"error": "Trigger timeout"}
        operator = author.writes(deferrable=True)
        with pytest.raises(ToAPIsTimeoutError) as ended:
            operator().resume_execution("__fail__", fail, author.ti.context)
        assert ended.value.video_id == video_id
        service.finish(video_id)
        assert operator().resume_execution("__fail__", fail, author.ti.context)["id"] == video_id

    def test_trigger_that_broke_interrupts_the_wait_and_keeps_the_video(
        self, service: EmulatorProcess, author: Author, video_id: str
    ) -> None:
        failure = {"error": "Trigger failure", "traceback": ["boom"]}
        with pytest.raises(ToAPIsWaitInterruptedError) as interrupted:
            author.writes(deferrable=True)().resume_execution("__fail__", failure, author.ti.context)
        assert interrupted.value.video_id == video_id

    def test_kill_says_that_the_video_goes_on(
        self, service: EmulatorProcess, author: Author, logged: Callable[[], str]
    ) -> None:
        operator = author.writes(wait_for_completion=False)()
        video_id = operator.execute(author.ti.context)["id"]
        service.clear_requests()
        said = logged().count(video_id)
        operator.on_kill()
        assert logged().count(video_id) > said
        assert service.requests() == []


class TestDerivedVideos:
    @pytest.mark.parametrize("make", [ToAPIsRemixVideoOperator, ToAPIsExtendVideoOperator])
    @BOTH_WAYS
    def test_they_are_made_from_an_earlier_video_and_paid_once(
        self, service: EmulatorProcess, author: Author, clock: Clock, *, make: type[BaseOperator], deferrable: bool
    ) -> None:
        source = author.runs()["id"]
        # Rendering takes its real time, which this clock would outrun.
        clock.on_sleep = lambda _: service.finish(service.ledger()["billed"][-1]["id"])

        def operator() -> BaseOperator:
            fields: dict[str, Any] = {"video_id": source, "prompt": "Slower", "deferrable": deferrable}
            return make(task_id="derived", **fields)

        ti = FakeTaskInstance(task_id="derived")
        result = attempt(operator, ti)
        assert attempt(operator, ti.next_attempt())["id"] == result["id"] != source
        assert result["status"] == "completed"
        assert ordered(service) == 2

    def test_empty_video_id_is_refused_before_anything_is_sent(self, service: EmulatorProcess) -> None:
        operator = ToAPIsRemixVideoOperator(task_id="derived", video_id="", prompt="Slower")
        with rejects("video_id", ""):
            operator.execute(FakeTaskInstance(task_id="derived").context)
        assert service.requests() == []


class TestFiles:
    def test_upload_returns_where_the_file_stands(self, service: EmulatorProcess, picture_file: Path) -> None:
        operator = ToAPIsUploadFileOperator(task_id="upload", source=str(picture_file))
        result = operator.execute(FakeTaskInstance().context)
        assert result.keys() == {"id", "url", "mime_type", "size"}
        assert result["mime_type"] == "image/jpeg"
        assert result["size"] == picture_file.stat().st_size
        assert service.get(result["url"]).content == picture_file.read_bytes()

    def test_upload_goes_by_content(self, service: EmulatorProcess, author: Author, tmp_path: Path) -> None:
        kept = Path(author.runs(output_path=str(tmp_path))["output_path"])
        misnamed = kept.rename(tmp_path / "picture.png")
        result = ToAPIsUploadFileOperator(task_id="upload", source=str(misnamed)).execute(author.ti.context)
        assert result["mime_type"] == "video/mp4"

    @pytest.mark.parametrize("make", [text_called_jpg, big_picture, lambda _: "/no/such/file", str])
    def test_file_that_the_service_would_not_take_is_refused_by_name(
        self, service: EmulatorProcess, tmp_path: Path, make: Callable[[Path], str]
    ) -> None:
        with rejects("source") as refused:
            ToAPIsUploadFileOperator(task_id="upload", source=make(tmp_path)).execute(FakeTaskInstance().context)
        assert isinstance(refused.value, AirflowFailException)
        assert service.requests() == []

    def test_download_by_either_id(self, service: EmulatorProcess, author: Author, tmp_path: Path) -> None:
        made = author.runs(client_business_id="order-1")
        for video_id in (made["id"], "order-1"):
            operator = ToAPIsDownloadVideoOperator(task_id="get", video_id=video_id, output_path=str(tmp_path))
            result = operator.execute(FakeTaskInstance().context)
            assert result.keys() == RESULT_KEYS
            assert result["output_path"] == str(tmp_path / f"{made['id']}.mp4")
            assert result["sha256"] == hashlib.sha256((tmp_path / f"{made['id']}.mp4").read_bytes()).hexdigest()
        assert not any(entry["has_authorization"] for entry in service.requests() if entry["endpoint"] == "result")

    def test_download_of_an_unfinished_video_says_to_wait(
        self, service: EmulatorProcess, author: Author, tmp_path: Path
    ) -> None:
        video_id = author.runs(wait_for_completion=False)["id"]
        operator = ToAPIsDownloadVideoOperator(task_id="get", video_id=video_id, output_path=str(tmp_path))
        with pytest.raises(ToAPIsDownloadError, match="ToAPIsVideoSensor"):
            operator.execute(FakeTaskInstance().context)

    def test_download_of_an_unknown_video_names_it(self, service: EmulatorProcess, tmp_path: Path) -> None:
        operator = ToAPIsDownloadVideoOperator(task_id="get", video_id="video_nope", output_path=str(tmp_path))
        with pytest.raises(ToAPIsError) as unknown:
            operator.execute(FakeTaskInstance().context)
        assert unknown.value.video_id == "video_nope"


class TestSecrecy:
    @BOTH_WAYS
    def test_log_and_errors_hold_no_key_no_prompt_and_no_signature(
        self, service: EmulatorProcess, author: Author, tmp_path: Path, *, logged: Callable[[], str], deferrable: bool
    ) -> None:
        signed = "X-Amz-Algorithm=A&X-Amz-Credential=C&X-Amz-Signature=0123456789abcdef0123456789"
        link = {"url": f"$url?{signed}", "format": "mp4"}
        service.add_fault(on="status", kind="variant", when="completed", times=-1, merge={"result": {"data": [link]}})
        service.add_fault(on="submit", kind="html", after=True)
        service.add_fault(on="status", kind="status", status=500, body={"error": {"message": PROMPT}})
        service.add_fault(on="result", kind="truncate")
        author.runs(image=f"{author.picture}?{signed}", output_path=str(tmp_path), deferrable=deferrable)
        service.add_fault(on="submit", kind="task_failed", message=f"{PROMPT} {author.picture}?{signed} {API_KEY}")
        with pytest.raises(ToAPIsTaskFailedError) as failed:
            author.runs(FakeTaskInstance(map_index=7), deferrable=deferrable)
        assert "Saved video" in logged()
        for text in (logged(), repr(failed.value), "".join(traceback.format_exception(failed.value))):
            for private in (API_KEY, PROMPT, "X-Amz-Signature", "0123456789abcdef0123456789"):
                assert private not in text

    @BOTH_WAYS
    def test_httpx_logs_other_users_requests_and_none_of_ours(
        self, service: EmulatorProcess, author: Author, tmp_path: Path, *, logged: Callable[[], str], deferrable: bool
    ) -> None:
        author.runs(output_path=str(tmp_path), deferrable=deferrable)
        service.get(f"{service.url}/somebody-else")
        lines = [line for line in logged().splitlines() if "HTTP Request:" in line and "/_emulator/" not in line]
        assert lines
        assert all("/somebody-else" in line for line in lines)


@pytest.mark.parametrize("moment", ["ask", "keep"])
def test_connection_that_vanishes_does_not_throw_a_paid_video_away(
    service: EmulatorProcess,
    clock: Clock,
    picture: str,
    tmp_path: Path,
    *,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    ti = FakeTaskInstance()
    make = Author(picture).writes(deferrable=True, output_path=f"{tmp_path}/")
    deferred = deferral(lambda: make().execute(ti.context))
    assert deferred.trigger is not None
    video_id = deferred.trigger.serialize()[1]["video_id"]
    service.finish(video_id)
    before = ToAPIsHook.download_video if moment == "keep" else ToAPIsHook.get_billed_video

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
def test_connection_that_is_broken_for_30_s_does_not_end_an_attempt_whose_video_is_billed(
    *,
    service: EmulatorProcess,
    picture: str,
    clock: Clock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    key: str | None,
    after: str,
    deferrable: bool,
) -> None:
    since: list[float] = []
    original = getattr(ToAPIsHook, after)

    def breaks_after(self: ToAPIsHook, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        if not since:
            since.append(clock.time())
            if key is None:
                monkeypatch.delenv("AIRFLOW_CONN_TOAPIS_DEFAULT")
            else:
                connect(monkeypatch, service, password=key)
        return result

    def mends(_: float) -> None:
        if since and clock.time() - since[0] >= 30:
            connect(monkeypatch, service)

    clock.on_sleep = mends
    monkeypatch.setattr(ToAPIsHook, after, breaks_after)
    result = attempt(Author(picture).writes(deferrable=deferrable, output_path=f"{tmp_path}/"), FakeTaskInstance())
    assert Path(result["output_path"]).is_file()
    assert service.ledger()["count"] == 1


@pytest.mark.parametrize("deferrable", [True, False])
def test_fresh_result_url_is_looked_up_until_the_deadline(
    *,
    service: EmulatorProcess,
    picture: str,
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
    result = attempt(Author(picture).writes(deferrable=deferrable, output_path=f"{tmp_path}/"), FakeTaskInstance())
    assert Path(result["output_path"]).is_file()


@pytest.mark.parametrize("keeps_state", [True, False], ids=["with a state store", "without one"])
@pytest.mark.parametrize("key", ["", "sk-withdrawn"])
def test_key_that_is_gone_when_a_retry_begins_does_not_throw_a_paid_video_away(
    service: EmulatorProcess, picture: str, monkeypatch: pytest.MonkeyPatch, key: str, keeps_state: bool
) -> None:
    ti = FakeTaskInstance()
    if not keeps_state:
        ti.context.pop("task_state_store", None)
    make = Author(picture).writes(deferrable=True)
    deferral(lambda: make().execute(ti.context))
    with monkeypatch.context() as patch:
        connect(patch, service, password=key)
        with pytest.raises(ToAPIsWaitInterruptedError) as interrupted:
            make().execute(ti.next_attempt().context)
    assert not isinstance(interrupted.value, AirflowFailException)
    assert not claims_nothing_was_billed(interrupted.value)
    deferral(lambda: make().execute(ti.next_attempt().context))
    assert service.ledger()["count"] == 1
