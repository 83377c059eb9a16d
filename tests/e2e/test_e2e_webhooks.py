"""A real Airflow that is woken by webhooks, overlooked by them, and attacked through them."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
import pytest

from dev.airflow.airflow_instance import AirflowInstance
from dev.airflow.postgres import PostgresProcess
from dev.airflow.processes import free_port
from tests.e2e.dag_run import Run
from tests.e2e.deferring import DeferredVideos
from tests.integration.emulator_process import EmulatorProcess
from tests.signed_webhook import SECRET, body_of, headers_for, signature, signed

DAGS = Path(__file__).parent / "dags"
#: Seconds from the order to the video.
LATENCY = 20.0
#: Videos of each task that makes several.
VIDEOS = 4
#: Seconds for everything that is waited for.
TIME_LIMIT = 150.0
#: Videos that become final at the same moment, and more that are attacked, or woken while others attack.
AT_ONCE = 200
TARGETS = 30
OLD_SECRET = "0b1e" * 16


@dataclass(frozen=True)
class Woken:
    """What is there once the runs have ended."""

    airflow: AirflowInstance
    emulator: EmulatorProcess
    heard: Run
    unheard: Run
    states: dict[str, str]
    events: list[dict[str, Any]]

    def events_of(self, task_id: str) -> list[dict[str, Any]]:
        """Return the webhooks of a task's videos, with their deliveries."""
        return [event for event in self.events if f"&task_id={task_id}&" in event["url"]]


@pytest.fixture(scope="module")
def services() -> Iterator[tuple[int, EmulatorProcess, EmulatorProcess, EmulatorProcess]]:
    """Give a port for Airflow, and services that know it, that know a wrong one, and that have no webhooks at all."""
    port, wrong = free_port(0), free_port(0)
    options: dict[str, Any] = {"latency": LATENCY, "latency_spread": 0, "submit_rps": 0, "query_rps": 0}
    hook = f"http://127.0.0.1:{port}/toapis/webhooks"
    hooked = options | {"webhook_secret": SECRET, "webhook_retry_scale": 0.1}
    with (
        EmulatorProcess(**hooked, webhook_url=f"{hook}/toapis_default") as heard,
        EmulatorProcess(**hooked, webhook_url=f"http://127.0.0.1:{wrong}/") as unheard,
        EmulatorProcess(**options) as hookless,
    ):
        heard.add_fault(on="webhook", kind="duplicate", times=5)
        unheard.control("webhooks/test", "POST")
        yield port, heard, unheard, hookless


@pytest.fixture(scope="module")
def airflow(
    services: tuple[int, EmulatorProcess, EmulatorProcess, EmulatorProcess], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AirflowInstance]:
    port, heard, unheard, hookless = services
    dags = tmp_path_factory.mktemp("dags")
    for name in ("woken_videos.py", "deferred_videos.py"):
        shutil.copy(DAGS / name, dags)

    def connection(service: EmulatorProcess, **extra: object) -> dict[str, str]:
        return {"conn_type": "toapis", "host": service.url, "password": "sk-emulator", "extra": json.dumps(extra)}

    unheard_origin = unheard.control("webhooks")["webhooks"][0]["url"]
    connections = {
        "toapis_default": connection(heard, webhook_secret=f"{SECRET},{OLD_SECRET}"),
        "toapis_unheard": connection(
            unheard, webhook_secret=SECRET, webhook_url=unheard_origin, webhook_poll_interval=10
        ),
        "toapis_without_webhooks": connection(hookless),
        "of_another_kind": {"conn_type": "fs", "extra": json.dumps({"webhook_secret": SECRET})},
    }
    with PostgresProcess() as postgres:
        environment = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": postgres.url}
        directory = tmp_path_factory.mktemp("airflow")
        with AirflowInstance(directory, dags, connections=connections, port=port, environment=environment) as instance:
            yield instance


@pytest.fixture(scope="module")
def woken(
    airflow: AirflowInstance,
    services: tuple[int, EmulatorProcess, EmulatorProcess, EmulatorProcess],
    tmp_path_factory: pytest.TempPathFactory,
) -> Woken:
    _, heard, unheard, _ = services
    directory = tmp_path_factory.mktemp("videos")

    def started(dag_id: str, service: EmulatorProcess) -> Run:
        picture = f"{service.url}/shop/images/sneaker.jpg"
        conf = {"image": picture, "directory": str(directory / dag_id), "videos": VIDEOS}
        return Run(airflow, dag_id, airflow.trigger(dag_id, conf), directory)

    runs = started("woken_videos", heard), started("unheard_videos", unheard)
    states = {run.dag_id: airflow.wait_for_run(run.dag_id, run.run_id, TIME_LIMIT) for run in runs}
    return Woken(airflow, heard, *runs, states, heard.control("webhooks")["webhooks"])


def test_every_task_that_a_webhook_is_to_wake_ends_well(woken: Woken) -> None:
    assert woken.states["woken_videos"] == "success"
    assert woken.heard.xcom("make_batch")["saved"] == VIDEOS
    assert {woken.heard.xcom("make_video", index)["status"] for index in range(VIDEOS)} == {"completed"}
    assert woken.heard.xcom("wait")["id"] == woken.heard.xcom("submit")["id"]


def test_every_video_announces_itself_and_nothing_is_paid_twice(woken: Woken) -> None:
    counts = {task_id: len(woken.events_of(task_id)) for task_id in ("make_video", "submit", "make_batch")}
    assert counts == {"make_video": VIDEOS, "submit": 1, "make_batch": VIDEOS}
    assert all(event["statuses"][-1] == 200 for event in woken.events)


def test_each_task_is_resumed_once(woken: Woken) -> None:
    for index in range(VIDEOS):
        assert woken.heard.log("make_video", index).count("Pausing task as DEFERRED") == 1
        assert woken.heard.log("make_video", index).count("is ready. Its URL expires at") == 1
    # On a busy machine the sensor may begin after its video is ready, and then it has nothing to wait for.
    assert woken.heard.log("wait").count("Pausing task as DEFERRED") <= 1


def test_webhooks_spare_the_polls(woken: Woken) -> None:
    videos = {woken.heard.xcom("make_video", index)["id"] for index in range(VIDEOS)}
    asked = Counter(request["path"].rpartition("/")[2] for request in woken.emulator.requests())
    # After the order, when the wait begins, and when the task is resumed.
    assert max(asked[video] for video in videos) <= 3


def test_woken_task_does_not_say_that_anybody_killed_it(woken: Woken) -> None:
    logs = [woken.heard.log(task_id, index) for task_id, index in (("make_video", 0), ("wait", -1), ("make_batch", -1))]
    # A webhook that comes before the triggerer has begun leaves nothing to complete.
    assert [log for log in logs if "trigger completed" in log]
    for log in logs:
        assert not [word for word in ("kill", "user action", "cancel") if word in log.lower()]


def test_videos_whose_webhooks_never_arrive_are_found_by_asking(woken: Woken) -> None:
    assert woken.states["unheard_videos"] == "success"
    assert woken.unheard.xcom("make_batch")["saved"] == VIDEOS


def test_account_without_webhooks_is_told_and_asked_as_usual(woken: Woken) -> None:
    log = woken.unheard.log("no_webhook")
    assert "No webhook will report this video" in log
    assert "console of ToAPIs shows no webhook for this key" in log


# What follows plays the service itself, against rows of tasks that are deferred.


@dataclass(frozen=True)
class Stage:
    """Deferred tasks, and the address of the webhooks."""

    airflow: AirflowInstance
    deferred: DeferredVideos
    triggers: list[dict[str, Any]]

    def address(self, index: int, *, conn_id: str = "toapis_default", **changed: object) -> str:
        """Return where the service would tell of the video of a task."""
        place = {"dag_id": "deferred_videos", "run_id": self.deferred.run_id, "task_id": "wait", "map_index": index}
        return f"{self.airflow.url}/toapis/webhooks/{conn_id}?{urlencode(place | changed)}"

    def video(self, index: int) -> str:
        return str(self.triggers[index]["video_id"])


#: Positions of tasks that wait on other triggers than ours.
FOREIGN = AT_ONCE + TARGETS
BATCH = FOREIGN + 1


@pytest.fixture(scope="module")
def stage(woken: Woken) -> Stage:
    """Defer many tasks; the runs before have ended. Neither scheduler nor triggerer touch them."""
    woken.airflow.kill("triggerer")
    common = {"toapis_conn_id": "toapis_default", "poll_interval": 600.0, "end_time": time.time() + 3600}
    triggers: list[dict[str, Any]] = [{"video_id": f"video_{n}"} | common for n in range(AT_ONCE + TARGETS)]
    triggers.append(
        {"video_id": "video_foreign", "classpath": "airflow.providers.standard.triggers.file.FileTrigger"} | common
    )
    batch = {
        "video_ids": [f"video_of_batch_{n}" for n in range(20)],
        "classpath": "airflow_provider_toapis.triggers.video.ToAPIsVideoBatchTrigger",
        "not_before": time.time() + 3000,
    }
    triggers.append(batch | common)
    return Stage(woken.airflow, DeferredVideos(woken.airflow, [dict(trigger) for trigger in triggers]), triggers)


@dataclass(frozen=True)
class Attack:
    """One request that must change nothing.

    :param event: Arguments of httpx.
    :param place: What the address says differently.
    """

    name: str
    status: int
    event: Callable[[str], dict[str, Any]]
    conn_id: str = "toapis_default"
    method: str = "POST"
    place: dict[str, object] = field(default_factory=dict)


def with_signature(change: Callable[[str], str | None]) -> Callable[[str], dict[str, Any]]:
    def event(video_id: str) -> dict[str, Any]:
        made = signed(video_id)
        changed = change(made["headers"].pop("X-ToAPIs-Webhook-Signature"))
        if changed is not None:
            made["headers"]["X-ToAPIs-Webhook-Signature"] = changed
        return made

    return event


def with_body(change: Callable[[bytes], bytes]) -> Callable[[str], dict[str, Any]]:
    return lambda video_id: signed(video_id) | {"content": change(body_of(video_id))}


def signed_body(body: bytes) -> Callable[[str], dict[str, Any]]:
    return lambda _: {"content": body, "headers": headers_for(body)}


def with_options(**options: Any) -> Callable[[str], dict[str, Any]]:
    return lambda video_id: signed(video_id, **options)


def without(header: str) -> Callable[[str], dict[str, Any]]:
    def event(video_id: str) -> dict[str, Any]:
        made = signed(video_id)
        del made["headers"][header]
        return made

    return event


ATTACKS = [
    Attack("wrong secret", 401, with_options(secret="guessed")),
    Attack("no signature", 401, with_signature(lambda _: None)),
    Attack("empty signature", 401, with_signature(lambda _: "")),
    Attack("signature of another version", 401, with_signature(lambda good: good.replace("v1=", "v2="))),
    Attack("signature in capitals", 401, with_signature(lambda good: "v1=" + good[3:].upper())),
    Attack("signature cut short", 401, with_signature(lambda good: good[:-1])),
    Attack("signature without its version", 401, with_signature(lambda good: good[3:])),
    Attack("several wrong signatures", 401, with_signature(lambda _: ",".join(f"v1={n:064x}" for n in range(5)))),
    Attack("a thousand signatures", 401, with_signature(lambda good: ",".join([f"v1={0:064x}"] * 400 + [good]))),
    Attack("no id", 401, without("X-ToAPIs-Webhook-Id")),
    Attack("long id", 401, with_options(event_id="e" * 5000)),
    Attack("no timestamp", 401, without("X-ToAPIs-Webhook-Timestamp")),
    Attack("old", 401, with_options(skew=-302)),
    Attack("from the future", 401, with_options(skew=302)),
    Attack("body changed by a byte", 401, with_body(lambda body: body.replace(b"SUCCESS", b"SUCCESs"))),
    Attack("body longer by a byte", 401, with_body(lambda body: body + b" ")),
    Attack("ten megabytes", 413, with_body(lambda _: bytes(10 * 2**20))),
    Attack("unknown connection", 401, signed, conn_id="nobody"),
    Attack("connection without a secret", 401, signed, conn_id="toapis_without_webhooks"),
    Attack("connection of another kind", 401, signed, conn_id="of_another_kind"),
    Attack("another connection's event", 200, signed, conn_id="toapis_unheard"),
    *(Attack(method, 405, signed, method=method) for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS")),
    Attack("another DAG's task", 200, signed, place={"dag_id": "woken_videos", "task_id": "wait"}),
    Attack("unknown run", 200, signed, place={"run_id": "nobody's"}),
    Attack("no place", 200, signed, place={"dag_id": None}),
    Attack("map index that is none", 200, signed, place={"map_index": "1e9"}),
    Attack("map index beyond all", 200, signed, place={"run_id": "nobody's", "map_index": "9" * 12}),
    Attack("place with a zero byte", 200, signed, place={"dag_id": "deferred\0videos"}),
    Attack("another video", 200, lambda _: signed("video_of_another")),
    Attack("test event", 200, signed_body(body_of("endpoint_test", "endpoint.test"))),
    Attack("unknown kind of event", 200, signed_body(body_of("video_1", "generation.begun"))),
    Attack("not JSON", 200, signed_body(b"{")),
    Attack("not an object", 200, signed_body(b"[1]")),
    Attack("endless nesting", 200, signed_body(b"[" * 100_000)),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attack_changes_nothing(stage: Stage, attack: Attack) -> None:
    before = stage.deferred.rows()
    place = {"map_index": 0} | attack.place
    address = stage.address(0, conn_id=attack.conn_id, **place)
    if attack.place.get("dag_id", "") is None:
        address = address.partition("?")[0]
    begun = time.monotonic()
    response = httpx.request(attack.method, address, **attack.event(stage.video(0)), timeout=30, trust_env=False)
    assert response.status_code == attack.status
    assert time.monotonic() - begun < 5
    assert stage.deferred.rows() == before
    if attack.status == 401:
        assert response.content == b'{"detail":"rejected"}'


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("../webhooks/toapis_default", 404),
        ("%2e%2e/webhooks/toapis_default", 404),
        ("%2e%2e%2fwebhooks%2ftoapis_default", 404),
        ("..", 401),
        ("toapis_default/", 404),
        ("toapis_default%2f", 404),
        ("toapis_default%00", 401),
        ("toapis_default%0a", 404),
        ("toapis_default%ff", 401),
        ("TOAPIS_DEFAULT", 401),
        ("%27%20OR%201=1--", 401),
        ("%7b%7b7*7%7d%7d", 401),
        ("a" * 5000, 401),
        ("", 404),
    ],
)
def test_path_trick_changes_nothing(stage: Stage, path: str, status: int) -> None:
    before = stage.deferred.rows()
    place = urlsplit(stage.address(0)).query
    event = signed(stage.video(0))
    # Not httpx, which would tidy the path up.
    connection = http.client.HTTPConnection(urlsplit(stage.airflow.url).netloc, timeout=30)
    connection.request("POST", f"/toapis/webhooks/{path}?{place}", event["content"], event["headers"])
    assert connection.getresponse().status == status
    connection.close()
    assert stage.deferred.rows() == before


def test_slow_body_is_not_waited_for(stage: Stage) -> None:
    before = stage.deferred.rows()
    url = urlsplit(stage.address(0))
    event = signed(stage.video(0))
    head = "".join(f"{name}: {value}\r\n" for name, value in event["headers"].items())
    with socket.create_connection((str(url.hostname), url.port or 80), timeout=30) as client:
        length = len(event["content"])
        request = f"POST {url.path}?{url.query} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n{head}\r\n"
        client.sendall(request.encode() + event["content"][:-1])
        assert b" 408 " in client.recv(1000)
    assert stage.deferred.rows() == before


def test_event_for_a_finished_task_changes_nothing(stage: Stage, woken: Woken) -> None:
    before = stage.deferred.rows()
    (event,) = woken.events_of("submit")
    finished = woken.heard.task_instances("submit")
    answer = httpx.post(event["url"], **signed(event["event"]["data"]["task_id"]), timeout=30, trust_env=False)
    assert answer.status_code == 200
    assert woken.heard.task_instances("submit") == finished
    assert stage.deferred.rows() == before


def test_task_that_waits_for_another_provider_is_left_alone(stage: Stage) -> None:
    before = stage.deferred.rows()
    answer = httpx.post(stage.address(FOREIGN), **signed("video_foreign"), timeout=30, trust_env=False)
    assert answer.status_code == 200
    assert stage.deferred.rows() == before


def test_event_before_the_deferral_is_to_come_again(stage: Stage) -> None:
    index = AT_ONCE
    event = signed(stage.video(index))
    with stage.deferred.undone(index):
        assert httpx.post(stage.address(index), **event, timeout=30, trust_env=False).status_code == 503
        assert stage.deferred.states()[index] == "running"
    assert httpx.post(stage.address(index), **event, timeout=30, trust_env=False).status_code == 200
    assert stage.deferred.states()[index] == "scheduled"


@pytest.mark.parametrize("secret", [SECRET, OLD_SECRET])
def test_either_secret_of_a_rotation_is_believed(stage: Stage, secret: str) -> None:
    index = AT_ONCE + 1 + (secret == SECRET)
    event = signed(stage.video(index), secret=secret)
    other = signature("unknown", "e", 1, b"")
    event["headers"]["X-ToAPIs-Webhook-Signature"] = f"{other}, {event['headers']['X-ToAPIs-Webhook-Signature']}"
    assert httpx.post(stage.address(index), **event, timeout=30, trust_env=False).status_code == 200
    assert stage.deferred.states()[index] == "scheduled"


def test_replayed_event_does_not_wake_a_task_that_waits_again(stage: Stage) -> None:
    index = AT_ONCE + 3
    event = signed(stage.video(index))
    trigger_id = stage.deferred.trigger_id(index)
    assert httpx.post(stage.address(index), **event, timeout=30, trust_env=False).status_code == 200
    assert stage.deferred.states()[index] == "scheduled"
    stage.deferred.defer_again(index, trigger_id)
    before = stage.deferred.rows()
    assert httpx.post(stage.address(index), **event, timeout=30, trust_env=False).status_code == 200
    assert stage.deferred.rows() == before
    assert stage.deferred.states()[index] == "deferred"


def test_batch_is_woken_when_all_its_videos_have_told(stage: Stage) -> None:
    videos = stage.triggers[BATCH]["video_ids"]
    answers = in_parallel([(stage.address(BATCH), signed(video)) for video in videos[1:]])
    # Those that were at it at the same time are delivered again.
    while 503 in answers:
        late = [video for video, answer in zip(videos[1:], answers, strict=True) if answer == 503]
        answers = in_parallel([(stage.address(BATCH), signed(video)) for video in late])
        videos = [videos[0], *late]
    assert stage.deferred.states()[BATCH] == "deferred"
    assert httpx.post(stage.address(BATCH), **signed(videos[0]), timeout=30, trust_env=False).status_code == 200
    assert stage.deferred.states()[BATCH] == "scheduled"
    assert stage.deferred.events()[-1] == {"status": "success", "final": hex(2**20 - 1), "waiting": 0}


def test_two_hundred_at_once_are_each_resumed_once(stage: Stage) -> None:
    late = [(stage.address(index), signed(stage.video(index))) for index in range(AT_ONCE) for _ in range(2)]
    for _ in range(10):
        answers = in_parallel(late)
        late = [post for post, answer in zip(late, answers, strict=True) if answer == 503]
    assert not late
    assert stage.deferred.states()[:AT_ONCE] == ["scheduled"] * AT_ONCE
    told = Counter(event["video_id"] for event in stage.deferred.events() if "video_id" in event)
    assert {stage.video(index): 1 for index in range(AT_ONCE)}.items() <= told.items()
    log = stage.airflow.component_log("api-server")
    assert [log.count(f"video {stage.video(n)} is final; resumed (") for n in range(AT_ONCE)] == [1] * AT_ONCE


def test_real_events_wake_their_tasks_while_others_are_forged(stage: Stage, say: Callable[[str], None]) -> None:
    """Also when most of them name connections that do not exist."""
    targets = range(AT_ONCE + 4, AT_ONCE + TARGETS)
    command = [sys.executable, "-m", "tests.e2e.forging", stage.address(AT_ONCE + 4)]
    waits = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as forging:
        time.sleep(1)
        for index in targets:
            begun = time.monotonic()
            while httpx.post(stage.address(index), **signed(stage.video(index)), timeout=30, trust_env=False).is_error:
                assert forging.poll() is None
            waits.append(time.monotonic() - begun)
            assert stage.deferred.states()[index] == "scheduled"
        forged = json.loads(forging.communicate(timeout=60)[0])
    say(
        f"{forged['answers']} forged webhooks in {forged['seconds']:.0f} s; {len(waits)} real ones took up to"
        f" {max(waits) * 1000:.0f} ms meanwhile."
    )
    # 408 and 503: the server was too busy to read a body, or to say anything, in time.
    assert forged["statuses"].keys() <= {"401", "408", "503"}
    assert forged["statuses"]["401"] > 0
    lines = stage.airflow.component_log("api-server")
    assert "Webhooks rejected since the last such line" in lines
    assert "forged" not in "".join(line for line in lines.splitlines() if "http.access" not in line)


def test_receiver_says_nothing_about_what_it_does_not_believe(stage: Stage) -> None:
    log = stage.airflow.component_log("api-server")
    assert SECRET not in log
    assert OLD_SECRET not in log
    assert "Traceback" not in log


def in_parallel(posts: list[tuple[str, dict[str, Any]]]) -> list[int]:
    with ThreadPoolExecutor(16) as threads, httpx.Client(timeout=30, trust_env=False) as client:
        return list(threads.map(lambda post: client.post(post[0], **post[1]).status_code, posts))
