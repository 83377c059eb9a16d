"""Golden values of everything that the provider persists or that other software reads.

The tests run operators and triggers and check what these persist, so that a restructuring does not change the tests. A
renamed field or a changed idempotency key loses billed videos or bills them twice. Change a value here only after the
code also reads the old value and a test for the old value is added.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import time
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from importlib import import_module, resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args
from unittest.mock import ANY, MagicMock
from urllib.parse import unquote
from uuid import uuid4

import httpx
import pendulum
import pytest
from airflow.providers.common.compat.sdk import Asset, TaskDeferred
from openlineage.client.serde import Serde

from airflow_provider_toapis import exceptions, get_provider_info
from airflow_provider_toapis.batch.directory import Directory
from airflow_provider_toapis.batch.manifest_entry import Review
from airflow_provider_toapis.batch.reviews import Reviews
from airflow_provider_toapis.decorators.video import toapis_video_task
from airflow_provider_toapis.exceptions import ToAPIsRequestError, ToAPIsTaskFailedError
from airflow_provider_toapis.hooks.callback_url import TaskCoordinates
from airflow_provider_toapis.hooks.toapis import ToAPIsHook
from airflow_provider_toapis.links.video import ToAPIsBatchReportLink, push_video_link
from airflow_provider_toapis.media_check import MediaFacts, MediaReport
from airflow_provider_toapis.metrics import WebhookResult, video_warnings, webhook_received
from airflow_provider_toapis.operators.batch import ToAPIsVideoBatchOperator
from airflow_provider_toapis.operators.files import ToAPIsDownloadVideoOperator, ToAPIsUploadFileOperator
from airflow_provider_toapis.operators.video import (
    ToAPIsExtendVideoOperator,
    ToAPIsRemixVideoOperator,
    ToAPIsSubmitVideoOperator,
)
from airflow_provider_toapis.sensors.video import ToAPIsVideoSensor
from airflow_provider_toapis.triggers.video import ToAPIsVideoTrigger
from tests.airflow_task import FakeTaskInstance, deferral, fired, stored_and_loaded, stored_json
from tests.airflow_versions import needs_airflow
from tests.unit.polled_service import READY, REJECTED, RUNNING, PolledService, task
from tests.unit.virtual_time import run as run_in_virtual_time

NOW = 1_790_000_000.0
PACKAGE, RUN = "airflow_provider_toapis", "scheduled__2026-01-01"
IMAGE = "https://shop.example/shoe.jpg"
SIGNED_URL = f"{IMAGE}?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAEXAMPLE%2F2026&X-Amz-Signature={'ab' * 32}"
JPEG, VIDEO = b"\xff\xd8\xff\xe0" + bytes(12), b"\x00\x00\x00\x18ftypisom" + bytes(12)
SAVED = "videos/shoe.mp4"


class ToAPIs:
    """Replaces the service below httpx. The first word of a prompt becomes the video's id, the second one its state."""

    def __init__(self) -> None:
        self.now = NOW
        self.requests: list[str] = []
        self.posts: list[dict[str, Any]] = []
        self.videos: dict[str, dict[str, Any]] = {}
        #: The videos of the first ``failing`` POSTs fail at once. The first ``lost`` POSTs end with HTTP 500.
        self.failing = self.lost = 0

    @property
    def keys(self) -> list[str]:
        return [post["client_business_id"] for post in self.posts]

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def respond(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self.requests.append(f"{request.method} {path}")
        if request.url.host != "toapis.com":
            return response(VIDEO, headers={"ETag": '"v1"'})
        if path.startswith("/v1/uploads/"):
            return response({"data": {"id": "upload_1", "url": IMAGE, "mime_type": "image/jpeg", "size": 16}})
        if request.method == "POST":
            return self.submitted(json.loads(request.read()))
        if path.startswith("/v1/videos/"):
            video = self.videos.get(unquote(path.rpartition("/")[2]))
            return response(self.task_body(**video)) if video else error(404, "task_not_found")
        return response({"data": [], "remain_credits": 9000, "credits_per_usd": 200})

    def submitted(self, body: dict[str, Any]) -> httpx.Response:
        self.posts.append(body)
        if len(self.posts) <= self.lost:
            return error(500, "internal_error")
        if "forbidden" in body["prompt"]:
            return error(400, "content_policy_violation")
        name = body["prompt"].split()[0].lower()
        number = sum(post["prompt"].lower().startswith(name) for post in self.posts)
        outcome = "failed" if len(self.posts) <= self.failing else body["prompt"]
        return response(self.task_body(**self.add(f"video_{name}_{number}", body["client_business_id"], outcome)))

    def add(self, video_id: str, key: str, outcome: str = "") -> dict[str, Any]:
        video = {"video_id": video_id, "key": key, "outcome": outcome, "made_at": int(self.now) + 60}
        self.videos[video_id] = self.videos[key] = video
        return video

    def task_body(self, video_id: str, key: str, outcome: str, made_at: int) -> dict[str, Any]:
        model = "grok-video-1.5-preview"
        known = {"id": video_id, "model": model, "client_business_id": key, "created_at": made_at - 60}
        is_made = self.now >= made_at and "slow" not in outcome
        if outcome == "failed" or (is_made and "fails" in outcome):
            return known | {"status": "failed", "error": {"code": "generation_failed", "message": "no GPU"}}
        if not is_made:
            return known | {"status": "in_progress"}
        known |= {"status": "completed", "completed_at": made_at, "expires_at": made_at + 86400}
        billing = {"status": "settled", "credits": "20", "cost_usd": "0.10"}
        return known | {"result": {"data": [{"url": f"https://files.example/{video_id}.mp4"}]}, "billing": billing}


class Task(FakeTaskInstance):
    """A task instance whose context has a task state store and, on request, a loop."""

    def __init__(self, record: Any = None, *, loop_index: int | None = None, **fields: Any) -> None:
        super().__init__(**fields)
        self.stored: dict[str, Any] = {} if record is None else {"toapis_submissions": record}
        self._loop = {} if loop_index is None else {"loop": SimpleNamespace(index=loop_index)}

    @property
    def context(self) -> Any:
        store = SimpleNamespace(get=self.stored.get, set=self._set)
        return {**super().context, "task_state_store": store, **self._loop}

    def _set(self, key: str, value: Any) -> None:
        self.stored[key] = stored_json(value)


def response(body: object, status: int = 200, **options: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.Response(status, stream=httpx.ByteStream(content), **options)


def error(status: int, code: str) -> httpx.Response:
    return response({"error": {"code": code, "message": "no"}}, status)


def connect(monkeypatch: pytest.MonkeyPatch, **extra: Any) -> None:
    # A new API key per test, because rate limiters are cached per key. Loading CA certificates is slow.
    extra = {"verify": False, "query_rate": 1e9, "submit_rate": 1e9} | extra
    connection = {"conn_type": "toapis", "password": f"sk-{uuid4().hex}", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_TOAPIS_DEFAULT", json.dumps(connection))


@pytest.fixture(autouse=True)
def service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ToAPIs:
    """Run each test in a directory with an image, with a clock that only sleeping moves."""
    service = ToAPIs()
    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", lambda _, request: service.respond(request))
    monkeypatch.setattr(time, "time", lambda: service.now)
    monkeypatch.setattr(time, "monotonic", lambda: service.now)
    monkeypatch.setattr(time, "time_ns", lambda: int(service.now) * 10**9)
    monkeypatch.setattr(time, "sleep", service.sleep)
    monkeypatch.setattr(random, "random", lambda: 0.0)
    monkeypatch.setattr(pendulum, "now", lambda *_: pendulum.from_timestamp(service.now))
    connect(monkeypatch)
    monkeypatch.setattr(f"{PACKAGE}.links.video.AIRFLOW_V_3_1_PLUS", True)
    monkeypatch.setattr(f"{PACKAGE}.links.video.AIRFLOW_V_3_4_PLUS", False)
    monkeypatch.chdir(tmp_path)
    Path("shoe.jpg").write_bytes(JPEG)
    return service


def submit(ti: FakeTaskInstance, operator_class: Any = ToAPIsSubmitVideoOperator, **fields: Any) -> Any:
    own = {"image": IMAGE, "duration": 10} if operator_class is ToAPIsSubmitVideoOperator else {"video_id": "video_0"}
    options = {"task_id": ti.task_id, "prompt": "Shoe turns", "deferrable": False, **own, **fields}
    return operator_class(**options).execute(ti.context)


def deferred(run: Callable[[], Any]) -> tuple[str, str, dict[str, Any]]:
    """Return what the metadata database stores for a deferred task: method, trigger path and trigger arguments."""
    waiting = deferral(run)
    assert waiting.trigger is not None
    return (waiting.method_name, *waiting.trigger.serialize())


def imported(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def compact(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def key_of(text: str) -> str:
    return f"af-{digest(text)[:40]}"


def files() -> list[str]:
    """Return the paths of all files below ``videos``, with the random parts of their names replaced."""
    paths = (path.relative_to("videos").as_posix() for path in Path("videos").rglob("*") if path.is_file())
    return sorted(re.sub(r"-[0-9a-f]{8}\.jsonl$", "-<8 hex>.jsonl", path) for path in paths)


def part_files() -> list[Path]:
    return list(Path("videos/.manifest").glob("*.jsonl"))


def read_json(path: str) -> Any:
    return json.loads(Path("videos", path).read_text(encoding="utf-8"))


def write_json(path: str, content: object) -> None:
    Path("videos", path).parent.mkdir(parents=True, exist_ok=True)
    Path("videos", path).write_text(json.dumps(content), encoding="utf-8")


# -- idempotency keys --------------------------------------------------------------------------------------------------

SHOE = "1e7a2b08720165eb457081c1dc4c5cf56623ce4e5583d85428d58015246005a2"
SHOE_JSON = json.loads("""{
    "aspect_ratio": null, "duration": 10, "images": ["url:https://shop.example/shoe.jpg"],
    "model": "grok-video-1.5-preview", "operation": "generate", "parameters": {}, "prompt": "Shoe turns",
    "video_id": null
}""")
EVERY_FIELD_JSON = json.loads("""{
    "aspect_ratio": "16:9", "duration": 8,
    "images": ["url:https://shop.example/shoe.jpg", "url:https://shop.example/shoe.jpg"], "model": "grok-video-1.5",
    "operation": "generate", "parameters": {"nested": {"urls": ["https://shop.example/shoe.jpg"]}, "seed": 7},
    "prompt": "Größe 42", "video_id": null
}""")
DERIVED_JSON = json.loads("""{
    "aspect_ratio": null, "duration": null, "images": [], "model": "grok-video-1.0", "operation": "remix",
    "parameters": {}, "prompt": "Shoe turns", "video_id": "video_0"
}""")
JPEG_IDENTITY = "sha256:d8934c36079ec6d05b545f583ab2813e6ea9f1e19f372b4baabc10451d34cefe"
#: Operator, arguments, fingerprint, and the hashed JSON.
REQUESTS: list[tuple[type, dict[str, Any], str, dict[str, Any]]] = [
    (ToAPIsSubmitVideoOperator, {}, SHOE, SHOE_JSON),
    (ToAPIsSubmitVideoOperator, {"image": SIGNED_URL}, SHOE, SHOE_JSON),
    (
        ToAPIsSubmitVideoOperator,
        {"image": "shoe.jpg"},
        "693dbf63167a0396628cfcdb757206f0cbd5c390ebb043ec1a08d8251fcbada2",
        SHOE_JSON | {"images": [JPEG_IDENTITY]},
    ),
    (
        ToAPIsSubmitVideoOperator,
        {
            "prompt": "Größe 42",
            "image": [IMAGE, SIGNED_URL],
            "model": "grok-video-1.5",
            "duration": "8.0",
            "aspect_ratio": "16:9",
            "parameters": {"seed": 7, "nested": {"urls": [SIGNED_URL]}},
        },
        "d7a5f2ea8f1c32f3db19074d54820ffa9daa511297f839db092ca680950e833d",
        EVERY_FIELD_JSON,
    ),
    (
        ToAPIsRemixVideoOperator,
        {},
        "48c593978e7aa6fc3c9279e6092d937bab7f7781403c7d054db1a3184b5a779e",
        DERIVED_JSON,
    ),
    (
        ToAPIsExtendVideoOperator,
        {},
        "57daa31abde0209c6d049c5ceae780188df367a8eaf69d558b90b1e02dc824be",
        DERIVED_JSON | {"operation": "extend"},
    ),
]
#: Per case: the difference from a single video, the key, and the part of the hashed text that depends on it.
KEYS: list[tuple[dict[str, Any], str, str]] = [
    ({}, "af-2e43b52f73af63006f715ef35a9f2e6120045a92", '"map index -1", ""'),
    ({"map_index": 3}, "af-e5ae35b66f39b2d4c8ad97fb7f3f230d8965cfe2", '"map index 3", ""'),
    ({"map_index": 3, "identity": "SKU 7"}, "af-3d65159f195469231097af21ae05d38e33b75644", '"identity SKU 7", ""'),
    ({"loop_index": 2}, "af-137b40d0f6a04fb33ac6c9c1c9ea03a5186d56f8", '"map index -1", "", "loop index 2"'),
    ({"on_clear": "regenerate"}, "af-5248d7b6cd5ba876cc6c215df433130a14ce6714", '"map index -1", "cleared 2"'),
    ({"namespace": "staging"}, "af-2b2c1f6b4cb6884a7c9347341689a945af5f6ab3", '"map index -1", ""'),
]
GENERATIONS = [
    "af-2e43b52f73af63006f715ef35a9f2e6120045a92",
    "af-fca154e5ce68e2bea5ad8cf45a0ef67ace44d463",
    "af-9aa915586c1cfbd2458463ef70fe82f96007d1a2",
]


@pytest.mark.parametrize(
    ("operator_class", "fields", "fingerprint", "request_json"),
    REQUESTS,
    ids=["image URL", "signed image URL", "local file", "every field", "remix", "extend"],
)
def test_request_fingerprint_is_part_of_the_key(
    service: ToAPIs, operator_class: type, fields: dict[str, Any], fingerprint: str, request_json: dict[str, Any]
) -> None:
    submit(Task(), operator_class, **fields)
    assert service.keys == [key_of(f'["", "videos", "video", "{RUN}", "map index -1", "", "{fingerprint}", 0]')]
    assert digest(compact(request_json)) == fingerprint


@pytest.mark.parametrize(
    ("given", "key", "hashed"),
    KEYS,
    ids=["single video", "map index", "identity", "loop index", "revision", "namespace"],
)
def test_key_is_derived_from_task_instance_coordinates(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], key: str, hashed: str
) -> None:
    fields = dict(given)
    ti = Task(map_index=fields.pop("map_index", -1), loop_index=fields.pop("loop_index", None))
    namespace = fields.pop("namespace", "")
    connect(monkeypatch, namespace=namespace)
    assert submit(ti, **fields)["client_business_id"] == key
    assert key == key_of(f'["{namespace}", "videos", "video", "{RUN}", {hashed}, "{SHOE}", 0]')


@pytest.mark.parametrize(
    ("fields", "keys"),
    [({}, GENERATIONS), ({"client_business_id": "shoe"}, ["shoe", "shoe-1", "shoe-2"])],
    ids=["derived", "chosen"],
)
def test_each_generation_has_its_own_key(service: ToAPIs, fields: dict[str, Any], keys: list[str]) -> None:
    service.failing, ti = 2, Task()
    for _ in range(2):
        with pytest.raises(ToAPIsTaskFailedError):
            submit(ti, **fields)
        ti.next_attempt()
    submit(ti, **fields)
    assert service.keys == keys


def test_clear_raises_the_revision_in_the_key(service: ToAPIs) -> None:
    ti = Task()
    for _ in range(2):
        submit(ti, on_clear="regenerate")
        ti.cleared()
    hashed = f'["", "videos", "video", "{RUN}", "map index -1", "cleared 3", "{SHOE}", 0]'
    assert service.keys[1] == key_of(hashed) == "af-1d146e04aaeb46fbceac07475c68328c56e1ac0a"


def test_hook_uses_a_random_key(service: ToAPIs) -> None:
    ToAPIsHook().submit_video(prompt="Shoe turns", image=IMAGE)
    assert re.fullmatch("hook-[0-9a-f]{32}", service.keys[0])


# -- triggers ----------------------------------------------------------------------------------------------------------

VIDEO_TRIGGER = "airflow_provider_toapis.triggers.video.ToAPIsVideoTrigger"
BATCH_TRIGGER = "airflow_provider_toapis.triggers.video.ToAPIsVideoBatchTrigger"
TRIGGERS = [
    (VIDEO_TRIGGER, '{"video_id": "v", "toapis_conn_id": "c", "poll_interval": 5.0, "end_time": null}'),
    (
        VIDEO_TRIGGER,
        """{"video_id": "v", "toapis_conn_id": "c", "poll_interval": 5.0, "end_time": 4e9,
        "fallback_interval": 300.0, "min_wait": 60.0}""",
    ),
    (
        BATCH_TRIGGER,
        """{"video_ids": ["v", "w"], "toapis_conn_id": "c", "poll_interval": 5.0, "end_time": null,
        "not_before": null}""",
    ),
    (
        BATCH_TRIGGER,
        """{"video_ids": ["v", "w"], "toapis_conn_id": "c", "poll_interval": 5.0, "end_time": 4e9, "not_before": 3e9,
        "fallback_interval": 300.0, "webhook_positions": "0x3", "final": "0x2", "min_wait": 60.0}""",
    ),
]
SINGLE, SEVERAL = {"video_id": "video_1"}, {"video_ids": ["video_1", "video_2"]}
EVENTS = [
    (VIDEO_TRIGGER, SINGLE, READY, '{"status": "success", "video_id": "video_1", "end_time": 4e9, "message": ""}'),
    (VIDEO_TRIGGER, SINGLE, RUNNING, '{"status": "timeout", "video_id": "video_1", "end_time": 1.0, "message": ""}'),
    (
        VIDEO_TRIGGER,
        SINGLE,
        task("failed"),
        '{"status": "failed", "video_id": "video_1", "end_time": 4e9, "message": ""}',
    ),
    (VIDEO_TRIGGER, SINGLE, REJECTED, '{"status": "error", "video_id": "video_1", "end_time": 4e9, "message": ""}'),
    (BATCH_TRIGGER, SEVERAL, READY, '{"status": "success", "final": "0x3", "waiting": 0}'),
    (BATCH_TRIGGER, SEVERAL, RUNNING, '{"status": "timeout", "final": "0x0", "waiting": 2}'),
]


@pytest.mark.parametrize(
    ("path", "arguments"), TRIGGERS, ids=["video", "video, every argument", "batch", "batch, every argument"]
)
def test_trigger_is_rebuilt_from_the_metadata_database(path: str, arguments: str) -> None:
    trigger = imported(path)(**json.loads(arguments))
    assert stored_and_loaded(trigger).serialize() == (path, json.loads(arguments))


@pytest.mark.parametrize(
    ("path", "arguments", "state", "event"),
    EVENTS,
    ids=["success", "timeout", "failed", "error", "batch, success", "batch, timeout"],
)
def test_trigger_fires_event(
    monkeypatch: pytest.MonkeyPatch, path: str, arguments: Any, state: Any, event: str
) -> None:
    monkeypatch.setattr(asyncio, "run", run_in_virtual_time)
    PolledService.installed(monkeypatch).respond = lambda _: state
    payload = fired(imported(path)(**arguments, end_time=1.0 if state is RUNNING else 4e9))
    # The wording of messages is not part of the format.
    assert payload | ({"message": ""} if "message" in payload else {}) == json.loads(event)


def test_operator_defers_to_the_trigger_and_reads_its_event(service: ToAPIs) -> None:
    ti, end_time = Task(), NOW + 1800
    arguments = {"video_id": "video_shoe_1", "toapis_conn_id": "toapis_default", "poll_interval": 10.0}
    arguments |= {"end_time": end_time}
    assert deferred(partial(submit, ti, deferrable=True)) == ("execute_complete", VIDEO_TRIGGER, arguments)
    service.sleep(60)
    operator = ToAPIsSubmitVideoOperator(task_id="video", prompt="Shoe turns", image=IMAGE)
    event = {"status": "success", "video_id": "video_shoe_1", "end_time": end_time, "message": ""}
    assert operator.execute_complete(ti.context, event)["id"] == "video_shoe_1"


# -- submission record -------------------------------------------------------------------------------------------------

RECORD = json.loads("""{
    "version": 1, "revision": 2, "max_tries": 2, "clears": 0, "is_complete": true, "finished_try": 1,
    "submissions": [{
        "request": "ea92766d6f4c0d1bf1a03a9a81b94157731a1201071b5cb0a3b82e5fd17ddd29",
        "request_without_images": "88bc1a86d3ff892d4d6f305d3a273dbe24665486ce6751967d9546834dc20929",
        "images": "0eaddd557072951acf5c5bec5c7c37a1c88aa8e0f75995609a032d4e0448ad03",
        "client_business_id": "af-2e43b52f73af63006f715ef35a9f2e6120045a92",
        "revision": 2, "generation": 0, "video_id": "video_shoe_1", "posted_at": 1790000000.0, "unknown_posts": 0,
        "had_unknown_posts": false, "found_by_key": true, "status": "completed", "model": "grok-video-1.5-preview",
        "cost_usd": 0.1, "price_usd": 0.1, "output_path": "videos/shoe.mp4", "reattached_for": null
    }]
}""")


def test_submission_record_is_in_the_task_state_store() -> None:
    ti = Task()
    submit(ti, output_path=SAVED)
    assert ti.stored == {"toapis_submissions": RECORD}
    (submission,) = RECORD["submissions"]
    request_json = digest(compact(SHOE_JSON | {"images": []}))
    assert submission["request"] == digest(f'["{SHOE}", "", null, null]')
    assert submission["request_without_images"] == digest(f'["{request_json}", null, "", null, null]')
    assert submission["images"] == digest(f'["{IMAGE}"]')


def test_request_in_the_submission_record_is_the_chosen_key() -> None:
    ti = Task()
    submit(ti, client_business_id="shoe")
    assert ti.stored["toapis_submissions"]["submissions"][0]["request"] == digest('["shoe"]')


def test_record_reattaches_to_video_with_missing_image_and_unknown_key(service: ToAPIs) -> None:
    """Reading the record after a clear raises the revision, and resets the count of submissions of unknown outcome."""
    other = RECORD["submissions"][0] | {"request": "", "request_without_images": "", "client_business_id": "af-other-1"}
    other |= {"generation": 1, "video_id": "video_2", "unknown_posts": 1, "reattached_for": 2}
    own_submission = RECORD["submissions"][0] | {"images": digest('["shoe.jpg"]'), "status": "queued"}
    service.add("video_shoe_1", GENERATIONS[0])
    del service.videos[GENERATIONS[0]]
    Path("shoe.jpg").unlink()
    ti = Task(RECORD | {"submissions": [other, own_submission]})
    submit(ti.cleared(), image="shoe.jpg")
    assert service.posts == []
    read = {"revision": 3, "max_tries": 3, "clears": 1, "finished_try": 2}
    other |= {"unknown_posts": 0, "had_unknown_posts": True}
    own_submission |= {"status": "completed", "output_path": None}
    assert ti.stored["toapis_submissions"] == RECORD | read | {"submissions": [other, own_submission]}


# -- results, XComs, receipts ------------------------------------------------------------------------------------------

RESULT = json.loads("""{
    "id": "video_shoe_1", "status": "completed", "model": "grok-video-1.5-preview",
    "url": "https://files.example/video_shoe_1.mp4", "urls": ["https://files.example/video_shoe_1.mp4"],
    "format": "mp4", "created_at": "2026-09-21T14:13:20Z", "completed_at": "2026-09-21T14:14:20Z",
    "expires_at": "2026-09-22T14:14:20Z", "client_business_id": "af-2e43b52f73af63006f715ef35a9f2e6120045a92",
    "billing": {"status": "settled", "credits": "20", "cost_usd": "0.10"}, "output_path": "videos/shoe.mp4", "size": 24,
    "sha256": "4379cd1a23193fc2a0226914a083f4a887289e3ee3a48bf7c9724b78d6deb9d8",
    "media": {
        "duration": 10.04, "width": 1280, "height": 720, "fps": 24.0, "video_codec": "h264", "has_audio": false,
        "bit_rate": 800000
    }, "warnings": ["black_start: the first frame is nearly black or of one color"], "poster_path": null
}""")
XCOMS = json.loads("""{
    "video_id": "video_shoe_1", "client_business_id": "af-2e43b52f73af63006f715ef35a9f2e6120045a92",
    "toapis_video": [{
        "id": "video_shoe_1", "status": "completed", "model": "grok-video-1.5-preview", "generation": 0,
        "client_business_id": "af-2e43b52f73af63006f715ef35a9f2e6120045a92",
        "submitted_at": "2026-09-21T14:13:20+00:00", "cost_usd": 0.1, "price_usd": 0.1,
        "output_path": "videos/shoe.mp4", "reason": null, "identity": null
    }],
    "toapis_console_link": "https://toapis.com/console",
    "toapis_video_link": "/toapis/videos/videos/scheduled__2026-01-01/video?map_index=-1"
}""")
#: Fields of the XCom ``toapis_video`` before it had prices and reasons.
XCOM_FIELDS_WITHOUT_PRICES = ["id", "status", "model", "generation", "client_business_id", "cost_usd", "output_path"]
WITHOUT_FILE: dict[str, Any] = {"output_path": None, "size": None, "sha256": None, "media": None, "warnings": []}
WITHOUT_URLS = RESULT | {"url": None, "urls": []}
RECEIPT = {"version": 1, **WITHOUT_URLS}
LAST_SAVED = json.loads("""{
    "version": 1, "video_id": "video_shoe_1", "dag_id": "videos", "run_id": "scheduled__2026-01-01",
    "task_id": "video", "map_index": -1,
    "sha256": "4379cd1a23193fc2a0226914a083f4a887289e3ee3a48bf7c9724b78d6deb9d8"
}""")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the check of saved videos return fixed facts and a fixed warning."""
    report = MediaReport(MediaFacts(**RESULT["media"]), tuple(RESULT["warnings"]))
    monkeypatch.setenv("AIRFLOW__TOAPIS__CHECK", "warn")
    for module in ("operators.results", "batch.row_job"):
        monkeypatch.setattr(f"{PACKAGE}.{module}.inspect_video", lambda *_, **__: report)


@pytest.mark.usefixtures("measured")
def test_saved_video_has_these_result_and_xcoms() -> None:
    ti = Task()
    assert (submit(ti, output_path=SAVED), ti.xcoms) == (RESULT, XCOMS)


def test_resumed_task_without_a_state_store_reads_its_xcoms(service: ToAPIs) -> None:
    listed = XCOMS["toapis_video"][0] | {"generation": 2, "client_business_id": "af-2", "output_path": None}
    service.add("video_shoe_1", "af-2")
    service.sleep(60)
    ti = FakeTaskInstance()
    ti.xcoms = {"video_id": "video_shoe_1", "client_business_id": "af-2", "toapis_video": [listed | {"cost_usd": None}]}
    operator = ToAPIsSubmitVideoOperator(task_id="video", prompt="Shoe turns", image=IMAGE)
    event = {"status": "success", "video_id": "video_shoe_1", "end_time": NOW, "message": ""}
    assert operator.execute_complete(ti.context, event)["client_business_id"] == "af-2"
    assert ti.xcoms["toapis_video"] == [listed]


def test_resumed_task_reads_the_xcom_of_a_release_without_prices(service: ToAPIs) -> None:
    listed = {name: XCOMS["toapis_video"][0][name] for name in XCOM_FIELDS_WITHOUT_PRICES}
    service.add("video_shoe_1", listed["client_business_id"])
    service.sleep(60)
    ti = FakeTaskInstance()
    ti.xcoms = XCOMS | {"toapis_video": [listed]}
    operator = ToAPIsSubmitVideoOperator(task_id="video", prompt="Shoe turns", image=IMAGE)
    event = {"status": "success", "video_id": "video_shoe_1", "end_time": NOW, "message": ""}
    assert operator.execute_complete(ti.context, event)["id"] == "video_shoe_1"
    assert ti.xcoms["toapis_video"] == [XCOMS["toapis_video"][0] | {"price_usd": None, "output_path": None}]


@pytest.mark.parametrize(
    ("result", "link"), [({"output_path": "s3://shop/shoe.mp4"}, "https://s3.console.aws.amazon.com/"), ({}, None)]
)
def test_video_link_before_airflow_3_1_opens_the_saved_file(
    monkeypatch: pytest.MonkeyPatch, result: dict[str, Any], link: str | None
) -> None:
    monkeypatch.setattr(f"{PACKAGE}.links.video.AIRFLOW_V_3_1_PLUS", False)
    ti = FakeTaskInstance()
    push_video_link(ti.context, result)
    assert [url.startswith(link) for url in ti.xcoms.values()] == ([True] if link else [])


def test_downloaded_video_is_listed_without_generation_and_cost(service: ToAPIs) -> None:
    service.add("video_shoe_1", "af-1")
    service.sleep(60)
    ti = Task()
    options: dict[str, Any] = {"task_id": "get", "output_path": SAVED}
    ToAPIsDownloadVideoOperator(video_id="video_shoe_1", **options).execute(ti.context)
    unknown = dict.fromkeys(("generation", "submitted_at", "cost_usd", "price_usd"))
    assert ti.xcoms["toapis_video"] == [XCOMS["toapis_video"][0] | unknown | {"client_business_id": "af-1"}]


def test_unknown_format_is_a_warning_of_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.VIDEO", bytes(range(24)))
    assert submit(Task(), output_path=SAVED)["warnings"] == ["unknown_format"]


def test_sensor_returns_the_same_result_without_a_file() -> None:
    submit(Task())
    sensor = ToAPIsVideoSensor(task_id="wait", video_id="video_shoe_1", deferrable=False)
    assert sensor.execute(Task().context) == RESULT | WITHOUT_FILE


def test_upload_has_this_result() -> None:
    uploaded = ToAPIsUploadFileOperator(task_id="upload", source="shoe.jpg").execute(Task().context)
    assert uploaded == {"id": "upload_1", "url": IMAGE, "mime_type": "image/jpeg", "size": 16}


def test_decorator_and_batch_have_these_xcoms() -> None:
    ti, request = Task(), {"prompt": "Shoe turns", "image": IMAGE}
    decorated: Any = toapis_video_task(lambda: request, task_id="video", deferrable=False)
    decorated().operator.execute(ti.context)
    assert ti.xcoms["request"] == request
    assert ToAPIsBatchReportLink.xcom_key == "toapis_batch_report_link"


@pytest.mark.usefixtures("measured")
def test_receipts_are_next_to_the_saved_video() -> None:
    submit(Task(), output_path=SAVED)
    receipt = f"{GENERATIONS[0]}.json"
    assert files() == [".shoe.mp4.toapis.json", receipt, "shoe.mp4"]
    assert (read_json(receipt), read_json(".shoe.mp4.toapis.json")) == (RECEIPT, LAST_SAVED)


@pytest.mark.parametrize(
    ("receipt", "operator"),
    [
        (GENERATIONS[0], partial(ToAPIsSubmitVideoOperator, prompt="Shoe turns", image=IMAGE, duration=10)),
        ("video_shoe_1", partial(ToAPIsDownloadVideoOperator, video_id="video_shoe_1")),
    ],
    ids=["submit", "download"],
)
def test_receipt_replaces_all_requests_to_the_service(
    service: ToAPIs, receipt: str, operator: Callable[..., Any]
) -> None:
    write_json(f"{receipt}.json", RECEIPT)
    Path(SAVED).write_bytes(VIDEO)
    assert operator(task_id="video", output_path=SAVED).execute(Task().context) == WITHOUT_URLS
    assert service.requests == []
    version = f"modified {Path(SAVED).stat().st_mtime_ns}"
    assert read_json(f"{receipt}.json") == RECEIPT | {"file_version": version}


def test_warning_names_the_video_of_the_replaced_file(caplog: pytest.LogCaptureFixture) -> None:
    write_json(".shoe.mp4.toapis.json", LAST_SAVED | {"video_id": "video_before", "map_index": 0})
    submit(Task(), output_path=SAVED)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert any("video_before" in warning for warning in warnings)


# -- batch -------------------------------------------------------------------------------------------------------------

ROW = "c55a351b439a632c73645a623156f7d4910c633883693ddb3020aacdb4917615"
ROW_KEY = "af-7198c44eaca66737d7903c3d3e029af3229271fa"
PLAN = ".manifest/plans/27c719e07aeeda764ad6.json"
CHECKPOINT = ".manifest/checkpoints/27c719e07aeeda764ad6.checkpoint"
CHECKPOINT_HEADER = json.loads("""{
    "version": 1, "run_id": "scheduled__2026-01-01", "try_number": 1, "manifest": null, "queue": null, "feed": null,
    "planned": 1, "counts": {"submitted": 1}, "number": 1, "rows": 1,
    "spend": [{"model": "grok-video-1.5-preview", "status": "submitted", "videos": 1, "billed": "0",
               "expected": "0.10", "unpriced": 0}]
}""")
FEED: list[dict[str, Any]] = [
    {"key": "shoe", "prompt": "Shoe turns", "image": IMAGE, "duration": 10},
    {"key": "Größe 7/b", "prompt": "Boot turns", "image": IMAGE},
    {"key": "mug", "prompt": "Mug fails", "image": IMAGE},
    {"key": "toy", "prompt": "Toy forbidden", "image": IMAGE},
    {"key": "hat", "prompt": "Hat slow", "image": IMAGE},
]
ETAG_JSON = SHOE_JSON | {"images": ['url:https://shop.example/shoe.jpg etag:"v1"']}
#: Changes of the row and of the operator's arguments, and the hashed text of the row's fingerprint.
ROWS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {}, f'["{SHOE}", null]'),
    ({"prompt": " Shoe turns\r\n"}, {}, f'["{SHOE}", null]'),
    ({"revision": "2.0"}, {}, f'["{SHOE}", "2"]'),
    ({}, {"image_etag": True}, f'["{digest(compact(ETAG_JSON))}", null]'),
]
#: A manifest line with as few values as possible, and one with a value in every field.
PENDING = json.loads("""{
    "version": 1, "key": "shoe", "state": "pending", "fingerprint": null, "video_id": null, "client_business_id": null,
    "generation": null, "file": null, "size": null, "sha256": null, "price_usd": null, "billed": null,
    "saved_at": null, "run_id": null, "reattached": null, "posted_at": null, "duration": null,
    "aspect_ratio": null, "check_pending": null, "media": null, "warnings": null,
    "poster_path": null, "check_failed": null, "redos": null, "row": 1, "in_feed": true,
    "model": "grok-video-1.5-preview", "prompt": "Shoe turns", "images": ["https://shop.example/shoe.jpg"],
    "updated_at": "2026-09-21T14:13:20Z",
    "submission": {
        "state": "pending", "fingerprint": "c55a351b439a632c73645a623156f7d4910c633883693ddb3020aacdb4917615",
        "run_id": "scheduled__2026-01-01", "try_number": 1, "first_generation": 0, "generation": -1,
        "client_business_id": null, "video_id": null, "deadline": null, "posted_at": null, "price_usd": "0.10",
        "duration": null, "aspect_ratio": null, "reason": null,
        "webhook": false, "has_private_text": false, "plan_rejected": false, "attempts": [], "redos": 0
    },
    "superseded": [], "costs": [], "review": null
}""")
EVERY_FIELD = json.loads("""{
    "version": 1, "key": "shoe", "state": "failed", "video_id": "video_shoe_1",
    "fingerprint": "c55a351b439a632c73645a623156f7d4910c633883693ddb3020aacdb4917615",
    "client_business_id": "af-7198c44eaca66737d7903c3d3e029af3229271fa", "generation": 0, "file": "shoe.mp4",
    "size": 24, "sha256": "4379cd1a23193fc2a0226914a083f4a887289e3ee3a48bf7c9724b78d6deb9d8", "price_usd": "0.10",
    "billed": true, "saved_at": "2026-09-21T14:14:20Z", "run_id": "scheduled__2026-01-01", "reattached": true,
    "posted_at": 1790000000.0, "duration": 10, "aspect_ratio": "16:9", "check_pending": false, "media": {
        "duration": 10.04, "width": 1280, "height": 720, "fps": 24.0, "video_codec": "h264", "has_audio": false,
        "bit_rate": 800000
    }, "warnings": ["black_start: the first frame is nearly black or of one color"], "poster_path": "shoe.jpg",
    "check_failed": true, "redos": 1, "row": 1, "in_feed": false, "model": "grok-video-1.5-preview",
    "prompt": "Shoe turns", "images": ["https://shop.example/shoe.jpg"], "updated_at": "2026-09-21T14:14:20Z",
    "submission": {
        "state": "failed", "fingerprint": "of the row before", "run_id": "scheduled__2025-12-31", "try_number": 2,
        "first_generation": 1, "generation": 1, "client_business_id": "af-2", "video_id": "video_2",
        "deadline": 1790001800.0, "posted_at": 1790000000.0, "price_usd": "0.10", "duration": 10,
        "aspect_ratio": "16:9", "reason": "no GPU", "webhook": true,
        "has_private_text": true, "plan_rejected": true, "attempts": ["scheduled__2025-12-31#2"], "redos": 2
    },
    "superseded": [{
        "video_id": "video_died", "client_business_id": "af-died", "fingerprint": "of the row before",
        "price_usd": "0.25", "superseded_at": "2026-09-21T14:13:20Z", "run_id": "scheduled__2026-01-01",
        "generation": 1, "posted_at": 1790000000.0
    }],
    "costs": [{
        "video_id": "video_shoe_1", "client_business_id": "af-7198c44eaca66737d7903c3d3e029af3229271fa",
        "run_id": "scheduled__2026-01-01", "price_usd": "0.10", "billed": true
    }],
    "review": {
        "decision": "redo", "video_id": "video_shoe_1", "comment": "The sole is cut off.", "reviewed_by": "ann",
        "reviewed_at": "2026-09-21T14:20:00.123+00:00"
    }
}""")
CLAIM = json.loads("""{
    "version": 1, "run_id": "scheduled__2026-01-01", "try_number": 1, "max_tries": 2, "token": "of a process",
    "claimed_at": "2026-09-21T14:13:20Z", "row_key": "shoe", "generation": 0, "price_usd": "0.10",
    "fingerprint": "c55a351b439a632c73645a623156f7d4910c633883693ddb3020aacdb4917615", "replaced_video_id": null,
    "redos": 0
}""")
OWNER = {"version": 1, "dag_id": "videos", "task_id": "catalog"}
RUN_PLAN: dict[str, Any] = {
    "version": 1,
    "run_id": RUN,
    "map_index": -1,
    "rows": {"shoe": {"fingerprint": ROW, "price_usd": "0.10"}},
}
BATCH_RESULT = json.loads("""{
    "saved": 2, "unchanged": 0, "removed": 0, "failed": 3, "rejected": 0, "postponed": 0, "superseded": 0,
    "cost_usd": 0.2, "videos_with_estimated_cost": 0, "videos_with_warnings": 0, "manifest": "videos/manifest.jsonl",
    "report": "videos/index.html"
}""")
OVERVIEW = json.loads("""{
    "output_path": "videos", "manifest": "videos/manifest.jsonl", "saved": 2, "unchanged": 0, "submitted": 0,
    "pending": 0, "failed": 3, "rejected": 0, "postponed": 0, "removed": 0,
    "spend": [
        {
            "model": "grok-video-1.5-preview", "status": "failed", "videos": 1, "cost_usd": 0.0, "price_usd": 0.1,
            "unpriced": 0
        },
        {
            "model": "grok-video-1.5-preview", "status": "saved", "videos": 2, "cost_usd": 0.2, "price_usd": 0.0,
            "unpriced": 0
        },
        {
            "model": "grok-video-1.5-preview", "status": "submitted", "videos": 1, "cost_usd": 0.0, "price_usd": 0.1,
            "unpriced": 0
        }
    ],
    "reason": null
}""")
#: Name and content of a review.
REVIEW_NAME = "efda1c925291a74c-e973777aed34df5b-1790000400123-redo.json"
REVIEW: dict[str, Any] = {"version": 1, "key": "shoe", **EVERY_FIELD["review"]}
DRY_RUN = json.loads("""{
    "new": 5, "changed": 0, "unchanged": 0, "removed": 0, "submitted": 0, "rejected": 0, "invalid": 1, "superseded": 0,
    "estimated_cost_usd": 0.5, "errors": ["in words"]
}""")


class Batch:
    """A run of a batch on the directory ``videos``, deferred and resumed as Airflow does it."""

    def __init__(self, *rows: dict[str, Any], **fields: Any) -> None:
        self.ti = Task(task_id="catalog")
        self._fields: dict[str, Any] = {"requests": rows, "output_path": "videos/", "max_failures": 1.0} | fields

    @property
    def operator(self) -> ToAPIsVideoBatchOperator:
        return ToAPIsVideoBatchOperator(task_id="catalog", deferrable=True, **self._fields)

    def begin(self) -> Any:
        return self.operator.execute(self.ti.context)

    def run(self, service: ToAPIs) -> Any:
        """Run to the end. At the first resume, all videos except slow ones are final.

        At the second resume, the wait for the slow videos has timed out.
        """
        step = self.begin
        for seconds, status, final in ((60, "success", "0xff"), (1800, "timeout", "0x0")):
            try:
                return step()
            except TaskDeferred:
                service.sleep(seconds)
                event = {"status": status, "final": final, "waiting": 1}
                step = partial(self.operator.execute_complete, self.ti.context, event)
        return step()


def manifest(path: str = "manifest.jsonl") -> dict[str, dict[str, Any]]:
    lines = Path("videos", path).read_text(encoding="utf-8").splitlines()
    return {line["key"]: line for line in map(json.loads, lines)}


@pytest.mark.parametrize(("row", "fields", "hashed"), ROWS, ids=["row", "other blanks", "revision", "ETag"])
def test_key_of_a_row_does_not_depend_on_the_run(
    service: ToAPIs, monkeypatch: pytest.MonkeyPatch, row: Any, fields: Any, hashed: str
) -> None:
    connect(monkeypatch, namespace="staging")
    Batch(FEED[0] | row, **fields).run(service)
    assert manifest()["shoe"]["fingerprint"] == digest(hashed)
    assert service.keys == [key_of(f'["staging", "videos", "catalog", "key", "shoe", "{digest(hashed)}", 0]')]


def test_deferred_batch_has_recorded_its_submissions() -> None:
    arguments = {"video_ids": ["video_shoe_1"], "toapis_conn_id": "toapis_default", "poll_interval": 10.0}
    arguments |= {"end_time": NOW + 1800, "not_before": None}
    assert deferred(Batch(FEED[0]).begin) == ("execute_complete", BATCH_TRIGGER, arguments)
    parts = [".manifest/01790000000000000000-<8 hex>.jsonl"] * 2
    assert files() == [*parts, CHECKPOINT, f".manifest/claims/{ROW_KEY}", ".manifest/owner.json", PLAN]
    lines = [manifest(f".manifest/{part.name}")["shoe"] for part in Path("videos/.manifest").glob("*.jsonl")]
    sent = {"generation": 0, "client_business_id": ROW_KEY, "video_id": "video_shoe_1", "posted_at": NOW}
    submission = {**PENDING["submission"], **sent, "state": "submitted", "deadline": NOW + 1800}
    submission |= {"attempts": [f"{RUN}#1"], "duration": 10}
    costs = [EVERY_FIELD["costs"][0] | {"billed": False}]
    submitted = PENDING | {"state": "submitted", "updated_at": ANY, "submission": submission, "costs": costs}
    assert sorted(lines, key=lambda line: line["state"]) == [PENDING, submitted]
    assert read_json(f".manifest/claims/{ROW_KEY}") == CLAIM | {"token": ANY}
    assert (read_json(".manifest/owner.json"), read_json(PLAN)) == (OWNER, RUN_PLAN)
    header, row = map(json.loads, Path("videos", CHECKPOINT).read_text(encoding="utf-8").splitlines())
    assert header == CHECKPOINT_HEADER | {"parts": {path.name: path.stat().st_size for path in part_files()}}
    assert row == submitted


def test_deferred_batch_continues_at_its_checkpoint(service: ToAPIs, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = Batch(FEED[0])
    deferred(batch.begin)
    monkeypatch.setattr(f"{PACKAGE}.batch.manifest.Manifest._read_new", lambda _: pytest.fail("All rows are read."))
    with pytest.raises(TaskDeferred):
        batch.operator.execute_complete(batch.ti.context, {"status": "success", "final": "0x0", "waiting": 1})


@pytest.mark.usefixtures("measured")
def test_finished_batch_leaves_videos_manifest_and_report(service: ToAPIs) -> None:
    batch = Batch(*FEED)
    assert batch.run(service) == BATCH_RESULT | {"videos_with_warnings": 2}
    assert batch.ti.xcoms == {
        "toapis_console_link": "https://toapis.com/console",
        "toapis_batch_report_link": "/toapis/videos/videos/scheduled__2026-01-01/catalog?map_index=-1",
        "toapis_batch": OVERVIEW,
    }
    videos = ["Gr-e-7-b-6c59abf372e5.mp4", "index.html", "manifest.jsonl", "shoe.mp4"]
    assert files() == [".manifest/owner.json", PLAN, *videos]
    saved = {"state": "saved", "reattached": False, "in_feed": True, "submission": None, "superseded": []}
    saved |= {"aspect_ratio": None, "poster_path": None, "check_failed": False, "updated_at": ANY}
    saved |= {"redos": 0, "review": None}
    assert manifest()["shoe"] == EVERY_FIELD | saved
    states = {key: line["state"] for key, line in manifest().items()}
    assert states == {"shoe": "saved", "Größe 7/b": "saved", "mug": "failed", "toy": "rejected", "hat": "interrupted"}


def test_manifest_line_round_trips_with_every_field(service: ToAPIs) -> None:
    write_json("manifest.jsonl", EVERY_FIELD)
    Batch(check="fail").run(service)
    assert manifest() == {"shoe": EVERY_FIELD}


def test_manifest_line_without_reviews_is_read(service: ToAPIs) -> None:
    """A line of a release without reviews."""
    without_redos = {name: value for name, value in EVERY_FIELD["submission"].items() if name != "redos"}
    line = {name: value for name, value in EVERY_FIELD.items() if name not in {"redos", "review"}}
    write_json("manifest.jsonl", line | {"submission": without_redos})
    Batch(check="fail").run(service)
    expected = EVERY_FIELD | {"redos": 0, "review": None, "submission": {**without_redos, "redos": 0}}
    assert manifest() == {"shoe": expected}
    write_json("manifest.jsonl", line | {"state": "saved", "submission": None, "in_feed": True})
    Path(SAVED).write_bytes(VIDEO)
    assert Batch(FEED[0], dry_run=True).run(service)["unchanged"] == 1


def test_redo_is_a_file_that_changes_the_key_of_its_row(service: ToAPIs) -> None:
    Batch(FEED[0]).run(service)
    write_json(f".manifest/reviews/{REVIEW_NAME}", REVIEW)
    batch = Batch(FEED[0])
    batch.ti.run_id = "next"
    assert batch.run(service)["saved"] == 1
    redone = digest(f'["{SHOE}", null, 1]')
    assert service.keys == [ROW_KEY, key_of(f'["", "videos", "catalog", "key", "shoe", "{redone}", 0]')]
    line = manifest()["shoe"]
    assert (line["fingerprint"], line["redos"], line["review"]) == (redone, 1, EVERY_FIELD["review"])


def test_review_is_written_to_this_file() -> None:
    Reviews(Directory("videos/")).add("shoe", Review(**EVERY_FIELD["review"]))
    assert files() == [f".manifest/reviews/{REVIEW_NAME}"]
    assert read_json(f".manifest/reviews/{REVIEW_NAME}") == REVIEW


@pytest.mark.parametrize(
    ("state", "count_name"),
    [
        ("pending", "new"),
        ("postponed", "new"),
        ("submitted", "submitted"),
        ("interrupted", "submitted"),
        ("failed", "new"),
        ("rejected", "rejected"),
    ],
)
def test_each_state_of_a_manifest_line_is_read(service: ToAPIs, state: str, count_name: str) -> None:
    submission = {**PENDING["submission"], "state": state, "video_id": "video_shoe_1"}
    write_json("manifest.jsonl", PENDING | {"state": state, "submission": submission})
    assert Batch(FEED[0], dry_run=True).run(service)[count_name] == 1


def test_saved_manifest_row_is_unchanged(service: ToAPIs) -> None:
    write_json("manifest.jsonl", EVERY_FIELD | {"state": "saved", "submission": None, "redos": 0})
    Path(SAVED).write_bytes(VIDEO)
    assert Batch(FEED[0], dry_run=True).run(service)["unchanged"] == 1


def test_manifest_line_with_only_a_version_starts_over(service: ToAPIs) -> None:
    write_json("shoe.mp4", "a video that no manifest names")
    with pytest.raises(ToAPIsRequestError):
        Batch(FEED[0], dry_run=True).run(service)
    write_json("manifest.jsonl", {"version": 1})
    assert Batch(FEED[0], dry_run=True).run(service)["new"] == 1


def test_dry_run_returns_the_plan(service: ToAPIs) -> None:
    bad = {"key": "bad", "prompt": "x", "image": IMAGE, "duration": 99}
    assert Batch(*FEED, bad, dry_run=True).run(service) == DRY_RUN | {"errors": [ANY]}


def test_each_submission_of_a_key_has_its_own_claim(service: ToAPIs) -> None:
    service.lost = 1
    deferred(Batch(FEED[0]).begin)
    assert [path for path in files() if ROW_KEY in path] == [
        f".manifest/claims/{ROW_KEY}",
        f".manifest/claims/{ROW_KEY}.1",
    ]


def test_old_claim_finds_the_video_of_a_changed_row(service: ToAPIs) -> None:
    superseded_claim = {"fingerprint": "of the row before", "generation": 1, "price_usd": "0.25"}
    write_json(".manifest/claims/af-died", CLAIM | superseded_claim)
    os.utime("videos/.manifest/claims/af-died", (NOW - 3e8, NOW - 3e8))
    service.add("video_died", "af-died")
    Batch(FEED[0]).run(service)
    assert manifest()["shoe"]["superseded"] == EVERY_FIELD["superseded"]


def test_claim_of_the_same_run_is_a_submission_of_unknown_outcome(service: ToAPIs) -> None:
    write_json(f".manifest/claims/{ROW_KEY}", CLAIM)
    assert Batch(FEED[0], max_generations=1).run(service)["failed"] == 1
    assert service.posts == []


def test_run_submits_only_rows_of_its_plan_file(service: ToAPIs) -> None:
    write_json(PLAN, RUN_PLAN)
    assert Batch(*FEED[:2]).run(service)["postponed"] == 1
    assert service.keys == [ROW_KEY]


def test_claim_without_redos_is_read(service: ToAPIs) -> None:
    """A claim of a release without reviews."""
    write_json(f".manifest/claims/{ROW_KEY}", {name: value for name, value in CLAIM.items() if name != "redos"})
    service.add("video_shoe_1", ROW_KEY)
    assert Batch(FEED[0]).run(service)["saved"] == 1
    assert service.posts == []


@pytest.mark.parametrize(
    ("path", "content"),
    [(".manifest/owner.json", OWNER | {"task_id": "other"}), (PLAN, RUN_PLAN | {"map_index": 0})],
    ids=["task", "map index"],
)
def test_directory_of_another_task_is_rejected(path: str, content: object) -> None:
    write_json(path, content)
    with pytest.raises(ToAPIsRequestError, match=Path(path).name):
        Batch(FEED[0]).begin()


def test_missing_manifest_is_detected_by_the_result_of_an_earlier_run() -> None:
    batch = Batch(FEED[0])
    batch.ti.earlier_result = BATCH_RESULT
    with pytest.raises(ToAPIsRequestError, match=r"manifest\.jsonl"):
        batch.begin()


def test_parts_are_kept_while_another_run_compacts(service: ToAPIs) -> None:
    write_json(".manifest/compaction.lock", "2026-09-21T14:13:20Z")
    Batch(FEED[0]).run(service)
    assert "manifest.jsonl" not in files()


# -- formats for other software ----------------------------------------------------------------------------------------

ASSET = Asset(uri="s3://bucket/videos")
EXTRA = json.loads("""{
    "video_id": "video_shoe_1", "model": "grok-video-1.5-preview", "path": "videos/shoe.mp4", "size": 24,
    "prompt_sha256": "01473f073336a546e3881a47bbbcd97c669087506dcc447d49852a46b7a06aa4", "price_usd": 0.1,
    "sha256": "4379cd1a23193fc2a0226914a083f4a887289e3ee3a48bf7c9724b78d6deb9d8", "duration": 10,
    "source_image": "https://shop.example/shoe.jpg",
    "media": {
        "duration": 10.04, "width": 1280, "height": 720, "fps": 24.0, "video_codec": "h264", "has_audio": false,
        "bit_rate": 800000
    }, "warnings": ["black_start: the first frame is nearly black or of one color"], "poster_path": null
}""")
FACET = json.loads("""{
    "_schemaURL":
        "urn:airflow-provider-toapis:facets:1-0-0:toapis_video_run_facet.json#/$defs/ToAPIsVideoRunFacet",
    "video_id": "video_shoe_1", "model": "grok-video-1.5-preview", "price_usd": 0.1, "duration": 10,
    "sha256": "4379cd1a23193fc2a0226914a083f4a887289e3ee3a48bf7c9724b78d6deb9d8", "size": 24,
    "media": {
        "duration": 10.04, "width": 1280, "height": 720, "fps": 24.0, "video_codec": "h264", "has_audio": false,
        "bit_rate": 800000
    }, "warnings": ["black_start: the first frame is nearly black or of one color"]
}""")
FACET_TYPES = json.loads("""{
    "video_id": "string", "model": ["string", "null"], "price_usd": ["number", "null"], "sha256": ["string", "null"],
    "duration": ["integer", "null"], "size": ["integer", "null"], "media": ["object", "null"], "warnings": "array",
    "poster_path": ["string", "null"]
}""")
METRICS = {
    ("incr", "toapis.videos_submitted"): {"model"},
    ("incr", "toapis.videos_completed"): {"model"},
    ("incr", "toapis.videos_failed"): {"model"},
    ("timing", "toapis.video_seconds"): {"model"},
    ("incr", "toapis.billed_usd"): {"model"},
    ("incr", "toapis.polls"): {"conn_id"},
    ("incr", "toapis.video_warnings"): {"model", "code"},
    ("incr", "toapis.webhooks"): {"conn_id", "result"},
    ("gauge", "toapis.videos_waiting"): {"conn_id", "hostname"},
}
CONNECTION_FIELDS = (
    "timeout verify proxy namespace query_rate submit_rate webhook webhook_secret webhook_url webhook_poll_interval"
)
API_SERVER = needs_airflow("3.0", "its API server receives the webhooks")


@pytest.mark.usefixtures("measured")
def test_asset_event_describes_the_video() -> None:
    ti = Task()
    submit(ti, output_path=SAVED, image=SIGNED_URL, outlets=[ASSET])
    assert ti.outlet_events[ASSET].extra == EXTRA


def test_asset_event_of_several_videos_lists_all(service: ToAPIs) -> None:
    ti, video_ids = Task(), ["video_1", "video_2"]
    for video_id in video_ids:
        service.add(video_id, video_id)
    service.sleep(60)
    options: dict[str, Any] = {"task_id": "get", "output_path": "videos/", "outlets": [ASSET]}
    ToAPIsDownloadVideoOperator(video_id=video_ids, **options).execute(ti.context)
    extra = ti.outlet_events[ASSET].extra
    assert [video["video_id"] for video in extra.pop("videos")] == video_ids
    assert extra == {}


def test_asset_event_of_a_batch_is_its_result(service: ToAPIs) -> None:
    batch = Batch(*FEED, outlets=[ASSET])
    batch.run(service)
    assert batch.ti.outlet_events[ASSET].extra == BATCH_RESULT


@pytest.mark.usefixtures("measured")
def test_openlineage_facet_matches_the_schema_file() -> None:
    options: dict[str, Any] = {"task_id": "video", "prompt": "Shoe turns", "image": SIGNED_URL, "duration": 10}
    operator = ToAPIsSubmitVideoOperator(**options, output_path=SAVED, deferrable=False)
    operator.execute(Task().context)
    lineage: Any = operator.get_openlineage_facets_on_complete(None)
    facet = Serde.to_dict(lineage.run_facets["toapis_video"])
    assert facet.pop("_producer").startswith("urn:airflow-provider-toapis:")
    assert facet == FACET
    text = resources.files(PACKAGE).joinpath("toapis_video_run_facet.json").read_text(encoding="utf-8")
    properties = json.loads(text)["$defs"]["ToAPIsVideoRunFacet"]["allOf"][1]["properties"]
    assert {name: item["type"] for name, item in properties.items()} == FACET_TYPES
    assert f"{json.loads(text)['$id']}#/$defs/ToAPIsVideoRunFacet" == FACET["_schemaURL"]


def test_metrics_have_these_names_and_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    stats = MagicMock()
    monkeypatch.setattr(f"{PACKAGE}.metrics.Stats", stats)
    submit(Task())
    with pytest.raises(ToAPIsTaskFailedError):
        submit(Task(), prompt="Mug fails")
    video_warnings(["frozen: x"], "grok-video-1.5")
    webhook_received("c", "ignored")
    assert stats.incr.call_args.kwargs["tags"] == {"conn_id": "c", "result": "ignored"}
    assert get_args(WebhookResult) == ("resumed", "noted", "too_early", "ignored")
    monkeypatch.setattr(asyncio, "run", run_in_virtual_time)
    PolledService.installed(monkeypatch)
    fired(ToAPIsVideoTrigger("video_1", "c"))
    assert {
        (operator_class, given[0]): set(options["tags"]) for operator_class, given, options in stats.mock_calls
    } == METRICS


@API_SERVER
def test_webhook_url_names_the_task_instance(service: ToAPIs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example/a")
    deferred(partial(submit, Task(map_index=3), webhook=True, deferrable=True))
    url, _, query = service.posts[0]["callback_url"].partition("?")
    assert url == "https://airflow.example/a/toapis/webhooks/toapis_default"
    assert query == f"dag_id=videos&run_id={RUN}&task_id=video&map_index=3"
    assert TaskCoordinates.parse(dict(httpx.QueryParams(query))) == TaskCoordinates("videos", RUN, "video", 3)
    plugin = imported(f"{PACKAGE}.plugin.ToAPIsPlugin")()
    *_, app = plugin.fastapi_apps
    assert [f"{app['url_prefix']}{route.path}" for route in app["app"].routes] == ["/toapis/webhooks/{conn_id}"]


def test_connection_extra_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"timeout": 5, "verify": "ca.pem", "proxy": "http://p", "namespace": "n", "query_rate": 2, "submit_rate": 1}
    connect(monkeypatch, **extra)
    settings = ToAPIsHook().settings()
    assert {name: getattr(settings, name) for name in extra} == extra


@API_SERVER
def test_connection_extra_of_webhooks_is_read(service: ToAPIs, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"webhook": True, "webhook_url": "https://hooks.example/w", "webhook_poll_interval": 120}
    connect(monkeypatch, **extra, webhook_secret="new,old")
    assert deferred(partial(submit, Task(), deferrable=True))[2]["fallback_interval"] == 120.0
    assert service.posts[0]["callback_url"].startswith("https://hooks.example/w?dag_id=videos&")
    secrets = imported(f"{PACKAGE}.webhooks.secrets.connection_secrets")("toapis_default")
    assert secrets == ("new", "old")


def test_configuration_options_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, query_rate=None, submit_rate=None)
    for option, value in {"poll_interval": "7", "timeout": "70", "query_rate": "3", "submit_rate": "2"}.items():
        monkeypatch.setenv(f"AIRFLOW__TOAPIS__{option.upper()}", value)
    operator, settings = ToAPIsSubmitVideoOperator(task_id="v", prompt="p"), ToAPIsHook().settings()
    read = operator.poll_interval, operator.timeout, settings.query_rate, settings.submit_rate
    assert read == (7.0, 70.0, 3.0, 2.0)


def test_provider_info_has_these_names() -> None:
    info = get_provider_info()
    (connection,) = info["connection-types"]
    assert connection["connection-type"] == "toapis"
    assert connection["hook-class-name"] == f"{PACKAGE}.hooks.toapis.ToAPIsHook"
    assert list(connection["conn-fields"]) == CONNECTION_FIELDS.split()
    assert list(info["config"]) == ["toapis"]
    assert list(info["config"]["toapis"]["options"]) == [
        "poll_interval",
        "timeout",
        "query_rate",
        "submit_rate",
        "media_roots",
        "check",
    ]
    decorators = [f"{item['name']} {item['class-name']}" for item in info["task-decorators"]]
    assert decorators == [
        f"toapis_video {PACKAGE}.decorators.video.toapis_video_task",
        f"toapis_video_batch {PACKAGE}.decorators.batch.toapis_video_batch_task",
    ]
    links = ["ToAPIsVideoLink", "ToAPIsConsoleLink", "ToAPIsBatchReportLink"]
    assert info["extra-links"] == [f"{PACKAGE}.links.video.{name}" for name in links]
    assert info["plugins"] == [{"name": "toapis", "plugin-class": f"{PACKAGE}.plugin.ToAPIsPlugin"}]


# -- public names ------------------------------------------------------------------------------------------------------

VALUES = json.loads("""{
    "prompt": "Shoe turns", "image": "https://shop.example/shoe.jpg", "model": "grok-video-1.0", "duration": 10,
    "aspect_ratio": "16:9", "parameters": {"seed": 7}, "video_id": "video_1", "video_ids": ["video_1"],
    "client_business_id": "shoe", "identity": "SKU 7", "output_path": "videos/", "wait_for_completion": false,
    "deferrable": true, "poll_interval": 7.0, "poke_interval": 7.0, "timeout": 300, "soft_fail": true, "end_time": 4e9,
    "on_clear": "reuse", "max_generations": 2, "max_bytes": 1000, "check": "fail",
    "poster": true, "webhook": true, "requests": [], "source": "shoe.jpg",
    "max_active": 5, "max_failures": 0.5, "max_cost_usd": "2.50", "price_usd": 0.1, "dry_run": true,
    "image_etag": true, "toapis_conn_id": "c", "fallback_models": ["grok-video-1.5"]
}""")
COMMON = (
    "parameters client_business_id identity output_path wait_for_completion deferrable poll_interval timeout on_clear"
    " max_generations max_bytes check poster webhook toapis_conn_id"
)
TEMPLATED = "parameters client_business_id output_path identity toapis_conn_id"
TEMPLATED_BATCH = "requests output_path model duration aspect_ratio parameters fallback_models"
BATCH = (
    f"{TEMPLATED_BATCH} max_active max_failures max_cost_usd price_usd dry_run"
    " image_etag max_generations max_bytes check poster deferrable poll_interval timeout webhook toapis_conn_id"
)
#: Parameters and template fields of each class.
CLASSES = {
    "hooks.toapis.ToAPIsHook": ("toapis_conn_id", None),
    "operators.video.ToAPIsSubmitVideoOperator": (
        f"prompt image model duration aspect_ratio fallback_models {COMMON}",
        f"prompt image model duration aspect_ratio fallback_models {TEMPLATED}",
    ),
    "operators.video.ToAPIsRemixVideoOperator": (
        f"video_id prompt model {COMMON}",
        f"video_id prompt model {TEMPLATED}",
    ),
    "operators.video.ToAPIsExtendVideoOperator": (
        f"video_id prompt model {COMMON}",
        f"video_id prompt model {TEMPLATED}",
    ),
    "operators.batch.ToAPIsVideoBatchOperator": (
        BATCH,
        f"{TEMPLATED_BATCH} max_cost_usd price_usd toapis_conn_id",
    ),
    "operators.files.ToAPIsUploadFileOperator": ("source toapis_conn_id", "source toapis_conn_id"),
    "operators.files.ToAPIsDownloadVideoOperator": (
        "video_id output_path max_bytes check poster max_active toapis_conn_id",
        "video_id output_path toapis_conn_id",
    ),
    "sensors.video.ToAPIsVideoSensor": (
        "video_id deferrable poke_interval timeout soft_fail webhook toapis_conn_id",
        "video_id toapis_conn_id",
    ),
    "triggers.video.ToAPIsVideoTrigger": ("video_id toapis_conn_id poll_interval end_time", None),
    "triggers.video.ToAPIsVideoBatchTrigger": ("video_ids toapis_conn_id poll_interval end_time", None),
}
ERRORS = """
    ToAPIsError ToAPIsRequestError ToAPIsAuthError ToAPIsQuotaError ToAPIsContentPolicyError ToAPIsRateLimitError
    ToAPIsServerError ToAPIsConnectionError ToAPIsNotFoundError ToAPIsTaskFailedError ToAPIsTaskRejectedError
    ToAPIsFileError ToAPIsFinalFailureError ToAPIsTimeoutError ToAPIsDownloadError ToAPIsBatchError
    ToAPIsWaitInterruptedError ToAPIsVideoCheckError ToAPIsModelNotOfferedError ToAPIsUnavailableError
"""


@pytest.mark.parametrize(("path", "parameters", "templated"), [(path, *names) for path, names in CLASSES.items()])
def test_public_class_has_these_parameters(path: str, parameters: str, templated: str | None) -> None:
    operator_class = imported(f"{PACKAGE}.{path}")
    given = {name: VALUES[name] for name in parameters.split()}
    instance = operator_class(**given) if templated is None else operator_class(task_id="video", **given)
    assert instance.toapis_conn_id == "c"
    assert templated is None or list(operator_class.template_fields) == templated.split()


def test_public_errors_have_these_names() -> None:
    assert set(exceptions.__all__) == set(ERRORS.split())
    assert all(issubclass(getattr(exceptions, name), exceptions.ToAPIsError) for name in ERRORS.split())
