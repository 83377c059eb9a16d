"""The operators that make videos: what a DAG author writes, and what Airflow does with it before anything runs."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import logging
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException, Asset, BaseOperator, TaskDeferred

from airflow_provider_toapis.api.download import StoredFile
from airflow_provider_toapis.api.responses import parse_video_task
from airflow_provider_toapis.api.submit_spec import Submission, SubmitSpec
from airflow_provider_toapis.exceptions import (
    ToAPIsFileError,
    ToAPIsRequestError,
    ToAPIsTaskFailedError,
    ToAPIsWaitInterruptedError,
)
from airflow_provider_toapis.hooks.toapis import ToAPIsHook
from airflow_provider_toapis.operators.video import (
    ToAPIsExtendVideoOperator,
    ToAPIsRemixVideoOperator,
    ToAPIsSubmitVideoOperator,
)
from tests.airflow_task import FakeTaskInstance
from tests.errors import claims_nothing_was_billed, rejects
from tests.unit.object_storage import Bucket, attach

SIGNATURE = "0123456789abcdef0123456789abcdef"
SIGNED = (
    "https://bucket.s3.amazonaws.com/shoe.jpg?X-Amz-Algorithm=AWS4-HMAC-SHA256"
    f"&X-Amz-Credential=AKIAEXAMPLEEXAMPLE%2F20260101&X-Amz-Signature={SIGNATURE}"
)
EVERY_OPERATOR = pytest.mark.parametrize(
    ("kind", "own"),
    [
        (ToAPIsSubmitVideoOperator, {"prompt": "A shoe"}),
        (ToAPIsRemixVideoOperator, {"video_id": "video_1", "prompt": "Slower"}),
        (ToAPIsExtendVideoOperator, {"video_id": "video_1", "prompt": "Go on"}),
    ],
    ids=["submit", "remix", "extend"],
)


def task(status: str, **fields: Any) -> Any:
    return parse_video_task({"id": "video_1", "status": status, "client_business_id": "order-1", **fields})


class TestConstructor:
    def test_defaults_are_those_of_the_documentation(self) -> None:
        operator = ToAPIsSubmitVideoOperator(task_id="video", prompt="A shoe")
        assert {
            name: getattr(operator, name)
            for name in (
                "model",
                "wait_for_completion",
                "deferrable",
                "poll_interval",
                "timeout",
                "on_clear",
                "max_generations",
                "toapis_conn_id",
            )
        } == {
            "model": "grok-video-1.5-preview",
            "wait_for_completion": True,
            "deferrable": False,
            "poll_interval": 10.0,
            "timeout": 1800.0,
            "on_clear": "reuse",
            "max_generations": 3,
            "toapis_conn_id": "toapis_default",
        }

    @EVERY_OPERATOR
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("poll_interval", 0),
            ("poll_interval", -1),
            ("poll_interval", float("nan")),
            ("poll_interval", float("inf")),
            ("poll_interval", "10"),
            ("poll_interval", True),
            ("timeout", 0),
            ("timeout", -0.5),
            ("timeout", float("nan")),
            ("timeout", "1800"),
            ("on_clear", "delete"),
            ("on_clear", None),
            ("max_generations", 0),
            ("max_generations", 1.5),
            ("max_generations", True),
        ],
    )
    def test_unusable_value_breaks_the_dag_file_by_name(
        self, kind: Callable[..., Any], own: dict[str, Any], field: str, value: object
    ) -> None:
        with rejects(field) as refused:
            kind(task_id="video", **own, **{field: value})
        assert isinstance(refused.value, AirflowFailException)

    @EVERY_OPERATOR
    def test_it_reads_no_connection(
        self, kind: Callable[..., Any], own: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ToAPIsHook, "get_connection", lambda *_: pytest.fail("it read the connection"))
        kind(task_id="video", **own)

    @EVERY_OPERATOR
    def test_every_template_field_is_an_attribute_and_a_parameter(
        self, kind: type[BaseOperator], own: dict[str, Any]
    ) -> None:
        shared = {"parameters", "client_business_id", "output_path", "identity", "toapis_conn_id"}
        assert shared <= set(kind.template_fields)
        given: dict[str, Any] = own | dict.fromkeys(kind.template_fields, "{{ run_id }}")
        operator = kind(task_id="video", **given)
        assert {getattr(operator, name) for name in kind.template_fields} == {"{{ run_id }}"}

    def test_every_word_about_the_request_is_templated(self) -> None:
        assert {"prompt", "image", "model", "duration", "aspect_ratio"} <= set(
            ToAPIsSubmitVideoOperator.template_fields
        )
        assert {"video_id", "prompt", "model"} <= set(ToAPIsRemixVideoOperator.template_fields)


class TestRendering:
    @pytest.fixture
    def masked(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        secrets: list[str] = []
        monkeypatch.setattr("airflow_provider_toapis.operators.rendered_fields.mask_secret", secrets.append)
        return secrets

    def context(self, operator: Any, map_index: int = -1, **values: Any) -> Any:
        ti = FakeTaskInstance(map_index=map_index)
        return {"ti": ti, "task": operator, "run_id": ti.run_id, "params": {}, **values}

    def test_signed_link_is_given_to_the_secrets_masker(self, masked: list[str]) -> None:
        operator = ToAPIsSubmitVideoOperator(task_id="video", prompt="p", image="{{ link }}")
        operator.render_template_fields(self.context(operator, link=SIGNED))
        assert operator.image == SIGNED
        assert SIGNATURE in masked
        assert SIGNED.partition("?")[2] in masked

    def test_each_link_of_a_list_is_given_to_the_secrets_masker(self, masked: list[str]) -> None:
        other = SIGNED.replace(SIGNATURE, SIGNATURE[::-1])
        operator = ToAPIsSubmitVideoOperator(task_id="video", prompt="p", image=["{{ link }}", other])
        operator.render_template_fields(self.context(operator, link=SIGNED))
        assert {SIGNATURE, SIGNATURE[::-1]} <= set(masked)

    def test_links_in_parameters_are_given_to_the_secrets_masker(self, masked: list[str]) -> None:
        parameters = {"metadata": {"image_list": [{"image_url": "{{ link }}"}]}}
        operator = ToAPIsSubmitVideoOperator(task_id="video", prompt="p", parameters=parameters)
        operator.render_template_fields(self.context(operator, link=SIGNED))
        assert SIGNATURE in masked

    def test_signed_link_of_a_mapped_task_is_given_to_the_secrets_masker(self, masked: list[str]) -> None:
        with DAG("videos", schedule=None, start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC)) as dag:
            mapped: Any = ToAPIsSubmitVideoOperator.partial(task_id="video", prompt="{{ run_id }}").expand(
                image=["https://example.com/public.jpg", SIGNED]
            )
        for map_index, expected in ((0, False), (1, True)):
            context = self.context(mapped, map_index, dag=dag, dag_run=SimpleNamespace(conf={}))
            mapped.render_template_fields(context)
            assert context["task"].prompt == context["run_id"]
            assert (SIGNATURE in masked) is expected

    def test_many_signed_links_are_shown_without_signatures_and_requested_with_them(
        self, masked: list[str], service: FakeService
    ) -> None:
        links = [SIGNED.replace(SIGNATURE, f"{number:032x}").replace("shoe", f"shoe{number}") for number in range(40)]
        operator = ToAPIsSubmitVideoOperator(
            task_id="video",
            prompt="p",
            model="of-tomorrow",
            image=["{{ links[0] }}", *links[1:]],
            parameters={"more": links},
        )
        context = self.context(operator, links=links)
        operator.render_template_fields(context)
        shown = json.dumps([operator.image, operator.parameters])
        assert "shoe39.jpg" in shown
        assert not [word for word in ("Signature", "AKIA", "X-Amz") if word in shown]
        assert masked == []
        operator.execute(FakeTaskInstance().context)
        (request,) = service.requests
        assert [image.url for image in request.images] == links
        assert request.parameters == {"more": links}

    def test_field_that_is_changed_after_rendering_is_used_as_changed(
        self, masked: list[str], service: FakeService
    ) -> None:
        links = [SIGNED.replace(SIGNATURE, f"{number:032x}") for number in range(40)]
        operator = ToAPIsSubmitVideoOperator(task_id="video", prompt="p", image=links)
        operator.render_template_fields(self.context(operator))
        operator.image = "https://example.com/a.jpg"
        operator.execute(FakeTaskInstance().context)
        assert [image.url for image in service.requests[0].images] == ["https://example.com/a.jpg"]

    @pytest.mark.parametrize(
        "image",
        [None, "", "https://example.com/a.jpg?size=large", "/pictures/a.jpg", "http://[::1", 5],
    )
    def test_what_is_no_signed_link_is_neither_masked_nor_refused_yet(self, masked: list[str], image: Any) -> None:
        operator = ToAPIsSubmitVideoOperator(task_id="video", prompt="p", image=image)
        operator.render_template_fields(self.context(operator))
        assert masked == []


class StopHereError(Exception):
    """A test has seen enough."""


def stop_here(*_: object, **__: object) -> None:
    raise StopHereError


class FakeService:
    """Stands for the hook: notes the ids and what was asked for."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.requests: list[Any] = []
        self.spec: Any = None
        self.task = task("completed", result={"data": [{"url": "https://files.example/v.mp4"}]})

    def submit_once(self, spec: SubmitSpec, remember: Any) -> Submission:
        self.requests.append(spec.request)
        self.ids.append(spec.keys.for_generation(0))
        self.spec, self.remember = spec, remember
        return Submission(
            task=self.task, client_business_id=spec.keys.for_generation(0), generation=0, reattached=False
        )


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> FakeService:
    service = FakeService()
    monkeypatch.setenv("AIRFLOW_CONN_TOAPIS_DEFAULT", '{"conn_type": "toapis", "password": "sk-unit-0123456789"}')
    monkeypatch.setattr(ToAPIsHook, "submit_once", lambda _, *given: service.submit_once(*given))
    monkeypatch.setattr(ToAPIsHook, "expected_price", lambda _, request: request.price_usd)
    return service


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Return what was logged; Airflow's own loggers may write to stdout."""
    caplog.set_level(logging.INFO)
    return lambda: caplog.text + "".join(capfd.readouterr())


def run(ti: FakeTaskInstance, **fields: Any) -> Any:
    defaults: dict[str, Any] = {"task_id": "video", "prompt": "p", "image": "https://example.com/a.jpg"}
    return ToAPIsSubmitVideoOperator(**defaults | fields).execute(ti.context)


class TestIdentity:
    def test_it_is_short_and_plain(self, service: FakeService) -> None:
        run(FakeTaskInstance(dag_id="a" * 200, task_id="b" * 200, run_id="c" * 200), task_id="b" * 200)
        (business_id,) = service.ids
        assert business_id.startswith("af-")
        assert len(business_id) <= 48
        assert set(business_id) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")

    def test_no_attempt_and_no_clear_changes_it(self, service: FakeService) -> None:
        ti = FakeTaskInstance()
        run(ti)
        run(ti.next_attempt())
        run(ti.cleared())
        run(ti.next_attempt())
        assert len(set(service.ids)) == 1

    def test_regenerate_changes_it_with_a_clear_and_not_with_an_attempt(self, service: FakeService) -> None:
        ti = FakeTaskInstance()
        run(ti, on_clear="regenerate")
        run(ti.next_attempt(), on_clear="regenerate")
        run(ti.cleared(), on_clear="regenerate")
        run(ti.next_attempt(), on_clear="regenerate")
        first, retry, cleared, retry_after_clear = service.ids
        assert first == retry != cleared == retry_after_clear

    def test_regenerate_of_a_chosen_id_is_refused_because_it_always_names_the_same_video(
        self, service: FakeService
    ) -> None:
        with rejects("on_clear", "regenerate") as rejected:
            run(FakeTaskInstance(), client_business_id="sku-1", on_clear="regenerate")
        assert "client_business_id" in str(rejected.value)
        assert service.requests == []

    def test_only_hashed_ids_name_the_model(self, service: FakeService) -> None:
        run(FakeTaskInstance())
        assert service.spec.key_includes_model is True
        run(FakeTaskInstance(), client_business_id="sku-1")
        assert service.spec.key_includes_model is False

    def test_identity_takes_the_place_of_the_map_index(self, service: FakeService) -> None:
        run(FakeTaskInstance(map_index=0), identity="SKU-1")
        run(FakeTaskInstance(map_index=7), identity="SKU-1")
        run(FakeTaskInstance(map_index=7), identity="SKU-2")
        assert service.ids[0] == service.ids[1] != service.ids[2]

    @pytest.mark.parametrize("identity", [0, Decimal(1001), UUID(int=1)], ids=repr)
    def test_identity_of_a_database_s_type_is_its_text(self, service: FakeService, identity: object) -> None:
        run(FakeTaskInstance(map_index=7), identity=identity)
        run(FakeTaskInstance(map_index=8), identity=str(identity))
        assert service.ids[0] == service.ids[1]

    @pytest.mark.parametrize("identity", [b"SKU-1", {"SKU-1"}, 1.5, ["SKU-1"]], ids=repr)
    def test_identity_of_another_type_is_rejected_by_name(self, service: FakeService, identity: object) -> None:
        with rejects("identity"):
            run(FakeTaskInstance(), identity=identity)
        assert service.ids == []

    def test_the_log_says_for_what_the_video_was_ordered(self, service: FakeService, logged: Callable[[], str]) -> None:
        run(FakeTaskInstance(map_index=7), identity="SKU-1")
        assert re.search(r"Submitted video for 'SKU-1'", logged())

    def test_identity_that_looks_like_a_map_index_is_none(self, service: FakeService) -> None:
        run(FakeTaskInstance(map_index=3))
        run(FakeTaskInstance(map_index=-1), identity="3")
        assert len(set(service.ids)) == 2

    def test_rotated_signature_of_the_same_picture_is_the_same_video(self, service: FakeService) -> None:
        run(FakeTaskInstance(), image=SIGNED)
        run(FakeTaskInstance(), image=SIGNED.replace(SIGNATURE, SIGNATURE[::-1]))
        run(FakeTaskInstance(), image=SIGNED.replace("shoe.jpg", "boot.jpg"))
        assert service.ids[0] == service.ids[1] != service.ids[2]

    def test_rendered_text_and_number_are_the_same_duration(self, service: FakeService) -> None:
        for duration in (10, "10", " 10 ", "10.0"):
            run(FakeTaskInstance(), duration=duration)
        assert len(set(service.ids)) == 1
        assert {request.duration for request in service.requests} == {10}

    @pytest.mark.parametrize("field", ["duration", "aspect_ratio"])
    def test_empty_template_leaves_the_choice_to_the_model(self, service: FakeService, field: str) -> None:
        run(FakeTaskInstance(), **{field: ""})
        assert getattr(service.requests[0], field) is None

    def test_rate_limits_may_hold_the_order_up_for_as_long_as_the_timeout(self, service: FakeService) -> None:
        run(FakeTaskInstance(), timeout=77, max_generations=5)
        assert (service.spec.retry_timeout, service.spec.max_generations) == (77.0, 5)


class TestKnownKeys:
    """Keys of earlier versions: another one would submit every video in progress again."""

    @pytest.mark.parametrize(
        ("map_index", "fields", "key"),
        [
            (-1, {}, "af-df6b1242f38580326559011c53ea9e58efbc372c"),
            (3, {}, "af-04d79369b2868539a5b4043646d8e12eb04d961f"),
            (3, {"identity": "SKU-1"}, "af-adab37322b2dd9d2c2f323d160257e309634aa34"),
            (-1, {"on_clear": "regenerate"}, "af-150ae789341671f0a4f0f1ea7f85f0dcebaf9548"),
            (
                -1,
                {"duration": 10, "aspect_ratio": "9:16", "parameters": {"seed": 7}},
                "af-23e337a9b7a457b49983602f28dcc3ce55355162",
            ),
            (-1, {"image": SIGNED}, "af-b4f20c45e69a7e94921adf71a6b6ab1f863d63b6"),
        ],
    )
    def test_outside_a_loop_they_stay(
        self,
        service: FakeService,
        monkeypatch: pytest.MonkeyPatch,
        map_index: int,
        fields: dict[str, Any],
        key: str,
    ) -> None:
        connection = {"conn_type": "toapis", "password": "sk-unit-0123456789", "extra": {"namespace": "shop"}}
        monkeypatch.setenv("AIRFLOW_CONN_TOAPIS_DEFAULT", json.dumps(connection))
        run(FakeTaskInstance(map_index=map_index), **fields)
        assert service.ids == [key]
        run_in_loop(None, FakeTaskInstance(map_index=map_index), **fields)
        assert service.ids == [key, key]


class TestLoop:
    """Airflow 3.4: all iterations of a loop have the same map index."""

    def test_each_iteration_has_its_own_video(self, service: FakeService) -> None:
        for index in (0, 1, 2, 1):
            run_in_loop(index)
        assert len(set(service.ids)) == 3
        assert service.ids[1] == service.ids[3]
        run(FakeTaskInstance())
        assert service.ids[-1] not in service.ids[:4]

    def test_each_iteration_of_one_identity_has_its_own_video(self, service: FakeService) -> None:
        run_in_loop(0, identity="SKU-1")
        run_in_loop(1, identity="SKU-1")
        assert len(set(service.ids)) == 2

    def test_chosen_id_names_the_same_video_in_all_iterations(self, service: FakeService) -> None:
        run_in_loop(0, client_business_id="sku-1")
        run_in_loop(1, client_business_id="sku-1")
        assert service.ids == ["sku-1", "sku-1"]


def run_in_loop(index: int | None, ti: FakeTaskInstance | None = None, **fields: Any) -> Any:
    """Run in the iteration of a loop, as Airflow 3.4 puts it into the context; in none with None."""
    loop = None if index is None else SimpleNamespace(index=index, max_iterations=5, previous=None, result=None)
    defaults: dict[str, Any] = {"task_id": "video", "prompt": "p", "image": "https://example.com/a.jpg"}
    context: Any = {**(ti or FakeTaskInstance()).context, "loop": loop}
    return ToAPIsSubmitVideoOperator(**defaults | fields).execute(context)


class TestRetry:
    """What went bad since an attempt that may have ordered does not throw its video away."""

    def test_picture_that_is_not_on_this_worker(self, service: FakeService, tmp_path: Path) -> None:
        ti, missing = FakeTaskInstance(), str(tmp_path / "shoe.jpg")
        with rejects("image", missing, error=ToAPIsFileError) as raised:
            run(ti, image=missing)
        assert claims_nothing_was_billed(raised.value)
        with rejects("image", missing, error=ToAPIsWaitInterruptedError) as raised:
            run(ti.next_attempt(), image=missing)
        assert not claims_nothing_was_billed(raised.value)

    def test_folder_that_cannot_be_used(self, service: FakeService, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with rejects("output_path", error=ToAPIsWaitInterruptedError):
            run(FakeTaskInstance().next_attempt(), output_path=f"{tmp_path}/file/videos/")

    def test_address_for_webhooks_that_is_gone_is_needed_only_for_a_submission(
        self, service: FakeService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def without_address(*_: object) -> None:
            raise ToAPIsRequestError("webhook_url is not set")

        monkeypatch.setattr(ToAPIsHook, "callback", without_address)
        run(FakeTaskInstance().next_attempt(), deferrable=True, webhook=True)
        with pytest.raises(ToAPIsWaitInterruptedError, match="webhook_url is not set"):
            service.spec.callback()

    def test_value_that_the_author_has_changed_is_refused_at_once_all_the_same(self, service: FakeService) -> None:
        with rejects("duration", 11):
            run(FakeTaskInstance().next_attempt(), duration=11)


class TestEnd:
    def test_ids_are_in_xcom(self, service: FakeService) -> None:
        ti = FakeTaskInstance()
        run(ti)
        assert (ti.xcoms["video_id"], ti.xcoms["client_business_id"]) == ("video_1", service.ids[0])

    def test_receipt_is_named_by_the_id_that_is_looked_for_whatever_the_service_calls_it(
        self, service: FakeService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(ToAPIsHook, "download_video", lambda *_, **__: StoredFile(f"{tmp_path}/v.mp4", 3, "aa"))
        run(FakeTaskInstance(), output_path=str(tmp_path))
        assert [file.name for file in tmp_path.iterdir()] == [f"{service.ids[0]}.json"]

    @pytest.mark.parametrize("query", [SIGNED.partition("?")[2], "auth_key=1767225600-0-0-0123456789abcdef"])
    def test_query_of_the_result_is_masked_before_airflow_logs_the_link(
        self, service: FakeService, monkeypatch: pytest.MonkeyPatch, query: str
    ) -> None:
        link = f"https://files.example/v.mp4?{query}"
        service.task = task("completed", result={"data": [{"url": link}]})
        ti = FakeTaskInstance()
        masked_before: list[tuple[str, list[str]]] = []
        masked: list[str] = []
        push = ti.xcom_push

        def noted_push(key: str, value: Any) -> None:
            masked_before.append((key, [*masked]))
            push(key, value)

        monkeypatch.setattr("airflow_provider_toapis.operators.rendered_fields.mask_secret", masked.append)
        monkeypatch.setattr(ti, "xcom_push", noted_push)
        run(ti)
        assert ti.xcoms["toapis_video_link"] == link
        assert ("toapis_video_link", [query]) in masked_before

    def test_bucket_is_tried_before_anything_is_submitted(
        self, service: FakeService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bucket = Bucket()
        bucket.errors["open"] = PermissionError("Access Denied")
        attach(monkeypatch, bucket)
        with rejects("output_path", "memory://videos/night", error=ToAPIsFileError):
            run(FakeTaskInstance(), output_path="memory://videos/night")
        assert service.requests == []

    def test_event_of_an_asset_carries_the_manifest_without_link_and_prompt(self, service: FakeService) -> None:
        ti, asset = FakeTaskInstance(), Asset(uri="s3://bucket/videos")
        run(ti, outlets=[asset], prompt="A secret shoe", image="https://example.com/a.jpg", duration="10")
        extra = ti.outlet_events[asset].extra
        assert (extra["video_id"], extra["duration"]) == ("video_1", 10)
        assert extra["source_image"] == "https://example.com/a.jpg"
        assert extra["prompt_sha256"] == hashlib.sha256(b"A secret shoe").hexdigest()
        assert "secret" not in str(extra)
        assert "files.example" not in str(extra)

    def test_openlineage_is_told_only_of_a_video_that_there_is(self, service: FakeService) -> None:
        operator = ToAPIsSubmitVideoOperator(task_id="video", prompt="p", image="https://example.com/a.jpg")
        assert operator.get_openlineage_facets_on_complete(None) is None
        operator.execute(FakeTaskInstance().context)
        told = operator.get_openlineage_facets_on_complete(None)
        assert told is not None
        assert told.run_facets["toapis_video"].video_id == "video_1"

    def test_link_to_the_service_is_there_before_any_waiting(self, service: FakeService) -> None:
        ti = FakeTaskInstance()
        service.task = task("queued")
        with pytest.raises(TaskDeferred):
            run(ti, deferrable=True)
        assert ti.xcoms["toapis_console_link"] == "https://toapis.com/console"
        assert "toapis_video_link" not in ti.xcoms

    @pytest.mark.parametrize(("deferrable", "place"), [(True, "in the triggerer"), (False, "in this worker")])
    def test_log_says_where_and_for_how_long_it_waits(
        self,
        service: FakeService,
        monkeypatch: pytest.MonkeyPatch,
        logged: Callable[[], str],
        deferrable: bool,
        place: str,
    ) -> None:
        monkeypatch.setattr(ToAPIsHook, "wait_for_video", stop_here)
        service.task = task("queued")
        with pytest.raises(TaskDeferred if deferrable else StopHereError):
            run(FakeTaskInstance(), deferrable=deferrable, timeout=900)
        assert f"Waiting for video video_1 {place} for at most 900 s." in logged()

    def test_failure_that_quotes_a_text_of_the_parameters_does_not_show_it(self, service: FakeService) -> None:
        service.task = task("failed", error={"code": "x", "message": "bad words: no hats at all"})
        with pytest.raises(ToAPIsTaskFailedError) as raised:
            run(FakeTaskInstance(), parameters={"style": {"negative": ["no hats at all"]}})
        assert "hats" not in str(raised.value)

    def test_failure_that_quotes_the_prompt_does_not_show_it(self, service: FakeService) -> None:
        service.task = task("failed", error={"code": "x", "message": "cannot draw <A secret shoe>, sorry"})
        with pytest.raises(ToAPIsTaskFailedError, match="sorry") as failed:
            run(FakeTaskInstance(), prompt="A secret shoe")
        assert "A secret shoe" not in str(failed.value)

    @pytest.mark.parametrize(
        ("billing", "words"),
        [
            (None, "refunded"),
            ({"status": "refunded", "credits": "0", "cost_usd": "0"}, "refunded"),
            ({"status": "settled", "credits": "20", "cost_usd": "0.1"}, "0.1 USD"),
        ],
    )
    def test_failure_says_what_it_means_for_money(self, service: FakeService, billing: Any, words: str) -> None:
        service.task = task("failed", error={"code": "x", "message": "no"}, billing=billing)
        with pytest.raises(ToAPIsTaskFailedError, match=words):
            run(FakeTaskInstance())

    def test_folder_that_goes_bad_during_the_wait_does_not_throw_the_paid_video_away(
        self, service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder, order = tmp_path / "videos", service.submit_once

        def somebody_tidies_up(*given: Any, **options: Any) -> Submission:
            folder.rmdir()
            folder.touch()
            return order(*given, **options)

        monkeypatch.setattr(service, "submit_once", somebody_tidies_up)
        with rejects("output_path", error=ToAPIsWaitInterruptedError) as interrupted:
            run(FakeTaskInstance(), output_path=str(folder))
        assert interrupted.value.video_id == "video_1"
        assert not claims_nothing_was_billed(interrupted.value)

    def test_kill_before_the_order_says_nothing(self, logged: Callable[[], str]) -> None:
        ToAPIsSubmitVideoOperator(task_id="video", prompt="A shoe").on_kill()
        assert "Killed" not in logged()

    @pytest.mark.parametrize("image", [5, {"url": "https://example.com/a.jpg"}, [None]])
    def test_image_of_another_type_is_refused_by_name(self, service: FakeService, image: object) -> None:
        with rejects("image") as refused:
            run(FakeTaskInstance(), image=image)
        assert isinstance(refused.value, AirflowFailException)
        assert service.requests == []

    @pytest.mark.parametrize("parameters", ["{}", ["seed"], 5])
    def test_parameters_of_another_type_are_refused_by_name(self, service: FakeService, parameters: object) -> None:
        with rejects("parameters") as refused:
            run(FakeTaskInstance(), parameters=parameters)
        assert isinstance(refused.value, AirflowFailException)
        assert service.requests == []
