"""The operators that generate videos: arguments, rendering, idempotency keys, retries and results."""

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
SIGNED_URL = (
    "https://bucket.s3.amazonaws.com/shoe.jpg?X-Amz-Algorithm=AWS4-HMAC-SHA256"
    f"&X-Amz-Credential=AKIAEXAMPLEEXAMPLE%2F20260101&X-Amz-Signature={SIGNATURE}"
)
EVERY_OPERATOR = pytest.mark.parametrize(
    ("operator_class", "arguments"),
    [
        (ToAPIsSubmitVideoOperator, {"prompt": "A shoe"}),
        (ToAPIsRemixVideoOperator, {"video_id": "video_1", "prompt": "Slower"}),
        (ToAPIsExtendVideoOperator, {"video_id": "video_1", "prompt": "Go on"}),
    ],
    ids=["submit", "remix", "extend"],
)


def task(status: str, **fields: Any) -> Any:
    return parse_video_task({"id": "video_1", "status": status, "client_business_id": "sku-1", **fields})


class TestConstructor:
    def test_defaults_match_the_documentation(self) -> None:
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
    def test_invalid_value_breaks_the_dag_file_and_is_named(
        self, operator_class: Callable[..., Any], arguments: dict[str, Any], field: str, value: object
    ) -> None:
        with rejects(field) as rejected:
            operator_class(task_id="video", **arguments, **{field: value})
        assert isinstance(rejected.value, AirflowFailException)

    @EVERY_OPERATOR
    def test_constructor_reads_no_connection(
        self, operator_class: Callable[..., Any], arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ToAPIsHook, "get_connection", lambda *_: pytest.fail("the connection was read"))
        operator_class(task_id="video", **arguments)

    @EVERY_OPERATOR
    def test_every_template_field_is_an_attribute_and_a_parameter(
        self, operator_class: type[BaseOperator], arguments: dict[str, Any]
    ) -> None:
        shared = {"parameters", "client_business_id", "output_path", "identity", "toapis_conn_id"}
        assert shared <= set(operator_class.template_fields)
        given: dict[str, Any] = arguments | dict.fromkeys(operator_class.template_fields, "{{ run_id }}")
        operator = operator_class(task_id="video", **given)
        assert {getattr(operator, name) for name in operator_class.template_fields} == {"{{ run_id }}"}

    def test_all_request_fields_are_templated(self) -> None:
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

    def test_signed_url_is_masked(self, masked: list[str]) -> None:
        operator = ToAPIsSubmitVideoOperator(task_id="video", prompt="p", image="{{ url }}")
        operator.render_template_fields(self.context(operator, url=SIGNED_URL))
        assert operator.image == SIGNED_URL
        assert SIGNATURE in masked
        assert SIGNED_URL.partition("?")[2] in masked

    def test_each_signed_url_of_a_list_is_masked(self, masked: list[str]) -> None:
        other = SIGNED_URL.replace(SIGNATURE, SIGNATURE[::-1])
        operator = ToAPIsSubmitVideoOperator(task_id="video", prompt="p", image=["{{ url }}", other])
        operator.render_template_fields(self.context(operator, url=SIGNED_URL))
        assert {SIGNATURE, SIGNATURE[::-1]} <= set(masked)

    def test_signed_urls_in_parameters_are_masked(self, masked: list[str]) -> None:
        parameters = {"metadata": {"image_list": [{"image_url": "{{ url }}"}]}}
        operator = ToAPIsSubmitVideoOperator(task_id="video", prompt="p", parameters=parameters)
        operator.render_template_fields(self.context(operator, url=SIGNED_URL))
        assert SIGNATURE in masked

    def test_signed_url_of_a_mapped_task_is_masked(self, masked: list[str]) -> None:
        with DAG("videos", schedule=None, start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC)) as dag:
            mapped: Any = ToAPIsSubmitVideoOperator.partial(task_id="video", prompt="{{ run_id }}").expand(
                image=["https://example.com/public.jpg", SIGNED_URL]
            )
        for map_index, expected in ((0, False), (1, True)):
            context = self.context(mapped, map_index, dag=dag, dag_run=SimpleNamespace(conf={}))
            mapped.render_template_fields(context)
            assert context["task"].prompt == context["run_id"]
            assert (SIGNATURE in masked) is expected

    def test_many_signed_urls_are_displayed_without_signatures_and_requested_with_them(
        self, masked: list[str], service: FakeService
    ) -> None:
        urls = [
            SIGNED_URL.replace(SIGNATURE, f"{number:032x}").replace("shoe", f"shoe{number}") for number in range(40)
        ]
        operator = ToAPIsSubmitVideoOperator(
            task_id="video",
            prompt="p",
            model="of-tomorrow",
            image=["{{ urls[0] }}", *urls[1:]],
            parameters={"more": urls},
        )
        context = self.context(operator, urls=urls)
        operator.render_template_fields(context)
        shown = json.dumps([operator.image, operator.parameters])
        assert "shoe39.jpg" in shown
        assert not [secret for secret in ("Signature", "AKIA", "X-Amz") if secret in shown]
        assert masked == []
        operator.execute(FakeTaskInstance().context)
        (request,) = service.requests
        assert [image.url for image in request.images] == urls
        assert request.parameters == {"more": urls}

    def test_field_changed_after_rendering_is_used(self, masked: list[str], service: FakeService) -> None:
        urls = [SIGNED_URL.replace(SIGNATURE, f"{number:032x}") for number in range(40)]
        operator = ToAPIsSubmitVideoOperator(task_id="video", prompt="p", image=urls)
        operator.render_template_fields(self.context(operator))
        operator.image = "https://example.com/a.jpg"
        operator.execute(FakeTaskInstance().context)
        assert [image.url for image in service.requests[0].images] == ["https://example.com/a.jpg"]

    @pytest.mark.parametrize(
        "image",
        [None, "", "https://example.com/a.jpg?size=large", "/images/a.jpg", "http://[::1", 5],
    )
    def test_image_without_a_signed_url_is_not_masked(self, masked: list[str], image: Any) -> None:
        operator = ToAPIsSubmitVideoOperator(task_id="video", prompt="p", image=image)
        operator.render_template_fields(self.context(operator))
        assert masked == []


class StopTestError(Exception):
    """Ends a test early."""


def stop(*_: object, **__: object) -> None:
    raise StopTestError


class FakeService:
    """Replaces the hook, and records the keys and requests."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.requests: list[Any] = []
        self.spec: Any = None
        self.task = task("completed", result={"data": [{"url": "https://files.example/v.mp4"}]})

    def submit_once(self, spec: SubmitSpec, record: Any) -> Submission:
        self.requests.append(spec.request)
        self.ids.append(spec.keys.for_generation(0))
        self.spec, self.record = spec, record
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
    """Return the log; Airflow's own loggers can write to stdout."""
    caplog.set_level(logging.INFO)
    return lambda: caplog.text + "".join(capfd.readouterr())


def run(ti: FakeTaskInstance, **fields: Any) -> Any:
    defaults: dict[str, Any] = {"task_id": "video", "prompt": "p", "image": "https://example.com/a.jpg"}
    return ToAPIsSubmitVideoOperator(**defaults | fields).execute(ti.context)


class TestIdentity:
    def test_key_is_short_and_plain(self, service: FakeService) -> None:
        run(FakeTaskInstance(dag_id="a" * 200, task_id="b" * 200, run_id="c" * 200), task_id="b" * 200)
        (key,) = service.ids
        assert key.startswith("af-")
        assert len(key) <= 48
        assert set(key) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")

    def test_key_does_not_change_with_attempts_and_clears(self, service: FakeService) -> None:
        ti = FakeTaskInstance()
        run(ti)
        run(ti.next_attempt())
        run(ti.cleared())
        run(ti.next_attempt())
        assert len(set(service.ids)) == 1

    def test_regenerate_changes_the_key_per_clear_but_not_per_attempt(self, service: FakeService) -> None:
        ti = FakeTaskInstance()
        run(ti, on_clear="regenerate")
        run(ti.next_attempt(), on_clear="regenerate")
        run(ti.cleared(), on_clear="regenerate")
        run(ti.next_attempt(), on_clear="regenerate")
        first, retry, cleared, retry_after_clear = service.ids
        assert first == retry != cleared == retry_after_clear

    def test_regenerate_with_a_chosen_client_business_id_is_rejected(self, service: FakeService) -> None:
        with rejects("on_clear", "regenerate") as rejected:
            run(FakeTaskInstance(), client_business_id="sku-1", on_clear="regenerate")
        assert "client_business_id" in str(rejected.value)
        assert service.requests == []

    def test_only_derived_keys_include_the_model(self, service: FakeService) -> None:
        run(FakeTaskInstance())
        assert service.spec.key_includes_model is True
        run(FakeTaskInstance(), client_business_id="sku-1")
        assert service.spec.key_includes_model is False

    def test_identity_replaces_the_map_index(self, service: FakeService) -> None:
        run(FakeTaskInstance(map_index=0), identity="SKU-1")
        run(FakeTaskInstance(map_index=7), identity="SKU-1")
        run(FakeTaskInstance(map_index=7), identity="SKU-2")
        assert service.ids[0] == service.ids[1] != service.ids[2]

    @pytest.mark.parametrize("identity", [0, Decimal(1001), UUID(int=1)], ids=repr)
    def test_identity_of_a_database_type_is_converted_to_text(self, service: FakeService, identity: object) -> None:
        run(FakeTaskInstance(map_index=7), identity=identity)
        run(FakeTaskInstance(map_index=8), identity=str(identity))
        assert service.ids[0] == service.ids[1]

    @pytest.mark.parametrize("identity", [b"SKU-1", {"SKU-1"}, 1.5, ["SKU-1"]], ids=repr)
    def test_identity_of_another_type_is_rejected_by_name(self, service: FakeService, identity: object) -> None:
        with rejects("identity"):
            run(FakeTaskInstance(), identity=identity)
        assert service.ids == []

    def test_log_names_the_identity_of_the_submission(self, service: FakeService, logged: Callable[[], str]) -> None:
        run(FakeTaskInstance(map_index=7), identity="SKU-1")
        assert re.search(r"Submitted video for 'SKU-1'", logged())

    def test_identity_that_equals_a_map_index_has_another_key(self, service: FakeService) -> None:
        run(FakeTaskInstance(map_index=3))
        run(FakeTaskInstance(map_index=-1), identity="3")
        assert len(set(service.ids)) == 2

    def test_newly_signed_image_url_has_the_same_key(self, service: FakeService) -> None:
        run(FakeTaskInstance(), image=SIGNED_URL)
        run(FakeTaskInstance(), image=SIGNED_URL.replace(SIGNATURE, SIGNATURE[::-1]))
        run(FakeTaskInstance(), image=SIGNED_URL.replace("shoe.jpg", "boot.jpg"))
        assert service.ids[0] == service.ids[1] != service.ids[2]

    def test_text_and_number_give_the_same_duration(self, service: FakeService) -> None:
        for duration in (10, "10", " 10 ", "10.0"):
            run(FakeTaskInstance(), duration=duration)
        assert len(set(service.ids)) == 1
        assert {request.duration for request in service.requests} == {10}

    @pytest.mark.parametrize("field", ["duration", "aspect_ratio"])
    def test_empty_template_uses_the_default_of_the_model(self, service: FakeService, field: str) -> None:
        run(FakeTaskInstance(), **{field: ""})
        assert getattr(service.requests[0], field) is None

    def test_timeout_is_the_retry_timeout_of_the_submission(self, service: FakeService) -> None:
        run(FakeTaskInstance(), timeout=77, max_generations=5)
        assert (service.spec.retry_timeout, service.spec.max_generations) == (77.0, 5)


class TestKnownKeys:
    """Keys of earlier versions: a changed key would submit every video in progress again."""

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
            (-1, {"image": SIGNED_URL}, "af-b4f20c45e69a7e94921adf71a6b6ab1f863d63b6"),
        ],
    )
    def test_keys_outside_a_loop_are_stable(
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

    def test_iterations_with_the_same_identity_have_different_videos(self, service: FakeService) -> None:
        run_in_loop(0, identity="SKU-1")
        run_in_loop(1, identity="SKU-1")
        assert len(set(service.ids)) == 2

    def test_chosen_client_business_id_is_the_same_in_all_iterations(self, service: FakeService) -> None:
        run_in_loop(0, client_business_id="sku-1")
        run_in_loop(1, client_business_id="sku-1")
        assert service.ids == ["sku-1", "sku-1"]

    @pytest.mark.parametrize(
        ("output_path", "index", "warns"),
        [
            ("videos/shoe.mp4", 0, True),
            ("videos/shoe-{{ loop.index }}.mp4", 0, False),
            ("videos/{{ params.sku }}.mp4", 0, False),
            ("videos/", 0, False),
            (None, 0, False),
            ("videos/shoe.mp4", None, False),
        ],
    )
    def test_fixed_file_name_in_a_loop_is_warned_about(
        self, logged: Callable[[], str], output_path: str | None, index: int | None, warns: bool
    ) -> None:
        operator = ToAPIsSubmitVideoOperator(task_id="video", prompt="p", image="x.jpg", output_path=output_path)
        loop = None if index is None else SimpleNamespace(index=index)
        operator.render_template_fields({"loop": loop, "params": {"sku": "A"}})  # type: ignore[typeddict-item]
        assert ("{{ loop.index }}" in logged()) is warns


def run_in_loop(index: int | None, ti: FakeTaskInstance | None = None, **fields: Any) -> Any:
    """Run in an iteration of a loop, with the context of Airflow 3.4; None means no loop."""
    loop = None if index is None else SimpleNamespace(index=index, max_iterations=5, previous=None, result=None)
    defaults: dict[str, Any] = {"task_id": "video", "prompt": "p", "image": "https://example.com/a.jpg"}
    context: Any = {**(ti or FakeTaskInstance()).context, "loop": loop}
    return ToAPIsSubmitVideoOperator(**defaults | fields).execute(context)


class TestRetry:
    """A retry whose environment has changed keeps the video that an earlier attempt may have submitted."""

    def test_missing_image_file_is_retryable_on_a_retry(self, service: FakeService, tmp_path: Path) -> None:
        ti, missing = FakeTaskInstance(), str(tmp_path / "shoe.jpg")
        with rejects("image", missing, error=ToAPIsFileError) as raised:
            run(ti, image=missing)
        assert claims_nothing_was_billed(raised.value)
        with rejects("image", missing, error=ToAPIsWaitInterruptedError) as raised:
            run(ti.next_attempt(), image=missing)
        assert not claims_nothing_was_billed(raised.value)

    def test_unusable_output_path_is_retryable_on_a_retry(self, service: FakeService, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with rejects("output_path", error=ToAPIsWaitInterruptedError):
            run(FakeTaskInstance().next_attempt(), output_path=f"{tmp_path}/file/videos/")

    def test_missing_webhook_url_fails_only_a_new_submission(
        self, service: FakeService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def raise_missing_url(*_: object) -> None:
            raise ToAPIsRequestError("webhook_url is not set")

        monkeypatch.setattr(ToAPIsHook, "callback", raise_missing_url)
        run(FakeTaskInstance().next_attempt(), deferrable=True, webhook=True)
        with pytest.raises(ToAPIsWaitInterruptedError, match="webhook_url is not set"):
            service.spec.callback()

    def test_invalid_argument_is_rejected_at_once_on_a_retry(self, service: FakeService) -> None:
        with rejects("duration", 11):
            run(FakeTaskInstance().next_attempt(), duration=11)


class TestResult:
    def test_ids_are_pushed_to_xcom(self, service: FakeService) -> None:
        ti = FakeTaskInstance()
        run(ti)
        assert (ti.xcoms["video_id"], ti.xcoms["client_business_id"]) == ("video_1", service.ids[0])

    def test_receipt_is_named_by_the_idempotency_key(
        self, service: FakeService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(ToAPIsHook, "download_video", lambda *_, **__: StoredFile(f"{tmp_path}/v.mp4", 3, "aa"))
        run(FakeTaskInstance(), output_path=str(tmp_path))
        assert [file.name for file in tmp_path.iterdir()] == [f"{service.ids[0]}.json"]

    @pytest.mark.parametrize("query", [SIGNED_URL.partition("?")[2], "auth_key=1767225600-0-0-0123456789abcdef"])
    def test_result_url_query_is_masked_before_the_link_is_pushed(
        self, service: FakeService, monkeypatch: pytest.MonkeyPatch, query: str
    ) -> None:
        monkeypatch.setattr("airflow_provider_toapis.links.video.AIRFLOW_V_3_1_PLUS", False)
        url = f"https://files.example/v.mp4?{query}"
        service.task = task("completed", result={"data": [{"url": url}]})
        ti = FakeTaskInstance()
        masked_before: list[tuple[str, list[str]]] = []
        masked: list[str] = []
        push = ti.xcom_push

        def record_push(key: str, value: Any) -> None:
            masked_before.append((key, [*masked]))
            push(key, value)

        monkeypatch.setattr("airflow_provider_toapis.operators.rendered_fields.mask_secret", masked.append)
        monkeypatch.setattr(ti, "xcom_push", record_push)
        run(ti)
        assert ti.xcoms["toapis_video_link"] == url
        assert ("toapis_video_link", [query]) in masked_before

    def test_bucket_is_probed_before_submission(self, service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
        bucket = Bucket()
        bucket.errors["open"] = PermissionError("Access Denied")
        attach(monkeypatch, bucket)
        with rejects("output_path", "memory://videos/night", error=ToAPIsFileError):
            run(FakeTaskInstance(), output_path="memory://videos/night")
        assert service.requests == []

    def test_asset_event_contains_metadata_without_url_and_prompt(self, service: FakeService) -> None:
        ti, asset = FakeTaskInstance(), Asset(uri="s3://bucket/videos")
        run(ti, outlets=[asset], prompt="A secret shoe", image="https://example.com/a.jpg", duration="10")
        extra = ti.outlet_events[asset].extra
        assert (extra["video_id"], extra["duration"]) == ("video_1", 10)
        assert extra["source_image"] == "https://example.com/a.jpg"
        assert extra["prompt_sha256"] == hashlib.sha256(b"A secret shoe").hexdigest()
        assert "secret" not in str(extra)
        assert "files.example" not in str(extra)

    def test_openlineage_facets_exist_only_after_a_video(self, service: FakeService) -> None:
        operator = ToAPIsSubmitVideoOperator(task_id="video", prompt="p", image="https://example.com/a.jpg")
        assert operator.get_openlineage_facets_on_complete(None) is None
        operator.execute(FakeTaskInstance().context)
        facets = operator.get_openlineage_facets_on_complete(None)
        assert facets is not None
        assert facets.run_facets["toapis_video"].video_id == "video_1"

    @pytest.mark.parametrize("has_pages", [True, False])
    def test_links_that_are_known_are_pushed_before_the_wait(
        self, service: FakeService, monkeypatch: pytest.MonkeyPatch, has_pages: bool
    ) -> None:
        monkeypatch.setattr("airflow_provider_toapis.links.video.AIRFLOW_V_3_1_PLUS", has_pages)
        ti = FakeTaskInstance()
        service.task = task("queued")
        with pytest.raises(TaskDeferred):
            run(ti, deferrable=True)
        assert ti.xcoms["toapis_console_link"] == "https://toapis.com/console"
        assert ("toapis_video_link" in ti.xcoms) == has_pages

    @pytest.mark.parametrize(("deferrable", "place"), [(True, "in the triggerer"), (False, "in this worker")])
    def test_log_reports_place_and_duration_of_the_wait(
        self,
        service: FakeService,
        monkeypatch: pytest.MonkeyPatch,
        logged: Callable[[], str],
        deferrable: bool,
        place: str,
    ) -> None:
        monkeypatch.setattr(ToAPIsHook, "wait_for_video", stop)
        service.task = task("queued")
        with pytest.raises(TaskDeferred if deferrable else StopTestError):
            run(FakeTaskInstance(), deferrable=deferrable, timeout=900)
        assert f"Waiting for video video_1 {place} for at most 900 s." in logged()

    def test_failure_shows_no_text_of_the_parameters(self, service: FakeService) -> None:
        service.task = task("failed", error={"code": "x", "message": "bad words: no hats at all"})
        with pytest.raises(ToAPIsTaskFailedError) as raised:
            run(FakeTaskInstance(), parameters={"style": {"negative": ["no hats at all"]}})
        assert "hats" not in str(raised.value)

    def test_failure_shows_no_prompt(self, service: FakeService) -> None:
        service.task = task("failed", error={"code": "x", "message": "cannot draw <A secret shoe>, sorry"})
        with pytest.raises(ToAPIsTaskFailedError, match="sorry") as failed:
            run(FakeTaskInstance(), prompt="A secret shoe")
        assert "A secret shoe" not in str(failed.value)

    @pytest.mark.parametrize(
        ("billing", "text"),
        [
            (None, "refunded"),
            ({"status": "refunded", "credits": "0", "cost_usd": "0"}, "refunded"),
            ({"status": "settled", "credits": "20", "cost_usd": "0.1"}, "0.1 USD"),
        ],
    )
    def test_failure_states_the_billing(self, service: FakeService, billing: Any, text: str) -> None:
        service.task = task("failed", error={"code": "x", "message": "no"}, billing=billing)
        with pytest.raises(ToAPIsTaskFailedError, match=text):
            run(FakeTaskInstance())

    def test_unusable_output_path_after_submission_keeps_the_billed_video(
        self, service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        directory, submit_once = tmp_path / "videos", service.submit_once

        def replace_directory(*given: Any, **options: Any) -> Submission:
            directory.rmdir()
            directory.touch()
            return submit_once(*given, **options)

        monkeypatch.setattr(service, "submit_once", replace_directory)
        with rejects("output_path", error=ToAPIsWaitInterruptedError) as interrupted:
            run(FakeTaskInstance(), output_path=str(directory))
        assert interrupted.value.video_id == "video_1"
        assert not claims_nothing_was_billed(interrupted.value)

    def test_kill_before_submission_logs_nothing(self, logged: Callable[[], str]) -> None:
        ToAPIsSubmitVideoOperator(task_id="video", prompt="A shoe").on_kill()
        assert "Killed" not in logged()

    @pytest.mark.parametrize("image", [5, {"url": "https://example.com/a.jpg"}, [None]])
    def test_image_of_another_type_is_rejected_by_name(self, service: FakeService, image: object) -> None:
        with rejects("image") as rejected:
            run(FakeTaskInstance(), image=image)
        assert isinstance(rejected.value, AirflowFailException)
        assert service.requests == []

    @pytest.mark.parametrize("parameters", ["{}", ["seed"], 5])
    def test_parameters_of_another_type_are_rejected_by_name(self, service: FakeService, parameters: object) -> None:
        with rejects("parameters") as rejected:
            run(FakeTaskInstance(), parameters=parameters)
        assert isinstance(rejected.value, AirflowFailException)
        assert service.requests == []
