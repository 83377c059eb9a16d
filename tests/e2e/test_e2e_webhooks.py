"""A real Airflow with webhooks that resume tasks, that never arrive, and that are forged."""

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
#: Seconds that a video takes.
LATENCY = 20.0
#: Number of videos of each mapped task and batch.
VIDEOS = 4
#: Time limit of a run in seconds.
TIME_LIMIT = 300.0
#: Number of tasks that webhooks resume at the same time, and number of additional tasks for the other tests.
CONCURRENT = 200
TARGETS = 30
OLD_SECRET = "0b1e" * 16


@dataclass(frozen=True)
class WebhookRuns:
    """Result of the runs."""

    airflow: AirflowInstance
    emulator: EmulatorProcess
    delivered: Run
    undelivered: Run
    states: dict[str, str]
    events: list[dict[str, Any]]

    def events_of(self, task_id: str) -> list[dict[str, Any]]:
        """Return the webhooks of a task's videos, with their deliveries."""
        return [event for event in self.events if f"&task_id={task_id}&" in event["url"]]


@pytest.fixture(scope="module")
def services() -> Iterator[tuple[int, EmulatorProcess, EmulatorProcess, EmulatorProcess]]:
    """Return a port for Airflow, and emulators with Airflow's webhook URL, with a wrong URL, and without webhooks."""
    port, wrong = free_port(0), free_port(0)
    options: dict[str, Any] = {"latency": LATENCY, "latency_spread": 0, "submit_rps": 0, "query_rps": 0}
    receiver_url = f"http://127.0.0.1:{port}/toapis/webhooks"
    webhook_options = options | {"webhook_secret": SECRET, "webhook_retry_scale": 0.1}
    with (
        EmulatorProcess(**webhook_options, webhook_url=f"{receiver_url}/toapis_default") as delivered,
        EmulatorProcess(**webhook_options, webhook_url=f"http://127.0.0.1:{wrong}/") as undelivered,
        EmulatorProcess(**options) as without_webhooks,
    ):
        delivered.add_fault(on="webhook", kind="duplicate", times=5)
        undelivered.control("webhooks/test", "POST")
        yield port, delivered, undelivered, without_webhooks


@pytest.fixture(scope="module")
def airflow(
    services: tuple[int, EmulatorProcess, EmulatorProcess, EmulatorProcess], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AirflowInstance]:
    port, delivered, undelivered, without_webhooks = services
    dags = tmp_path_factory.mktemp("dags")
    for name in ("webhook_videos.py", "deferred_videos.py"):
        shutil.copy(DAGS / name, dags)

    def connection(service: EmulatorProcess, **extra: object) -> dict[str, str]:
        return {"conn_type": "toapis", "host": service.url, "password": "sk-emulator", "extra": json.dumps(extra)}

    undelivered_url = undelivered.control("webhooks")["webhooks"][0]["url"]
    connections = {
        "toapis_default": connection(delivered, webhook_secret=f"{SECRET},{OLD_SECRET}"),
        "toapis_undelivered": connection(
            undelivered, webhook_secret=SECRET, webhook_url=undelivered_url, webhook_poll_interval=10
        ),
        "toapis_without_webhooks": connection(without_webhooks),
        "of_another_kind": {"conn_type": "fs", "extra": json.dumps({"webhook_secret": SECRET})},
    }
    with PostgresProcess() as postgres:
        environment = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": postgres.url}
        directory = tmp_path_factory.mktemp("airflow")
        with AirflowInstance(directory, dags, connections=connections, port=port, environment=environment) as instance:
            yield instance


@pytest.fixture(scope="module")
def webhook_runs(
    airflow: AirflowInstance,
    services: tuple[int, EmulatorProcess, EmulatorProcess, EmulatorProcess],
    tmp_path_factory: pytest.TempPathFactory,
) -> WebhookRuns:
    _, delivered, undelivered, _ = services
    directory = tmp_path_factory.mktemp("videos")

    def started(dag_id: str, service: EmulatorProcess) -> Run:
        image = f"{service.url}/shop/images/sneaker.jpg"
        conf = {"image": image, "directory": str(directory / dag_id), "videos": VIDEOS}
        return Run(airflow, dag_id, airflow.trigger(dag_id, conf), directory)

    runs = started("webhook_videos", delivered), started("undelivered_videos", undelivered)
    states = {run.dag_id: airflow.wait_for_run(run.dag_id, run.run_id, TIME_LIMIT) for run in runs}
    return WebhookRuns(airflow, delivered, *runs, states, delivered.control("webhooks")["webhooks"])


def test_every_task_with_webhooks_succeeds(webhook_runs: WebhookRuns) -> None:
    assert webhook_runs.states["webhook_videos"] == "success"
    assert webhook_runs.delivered.xcom("make_batch")["saved"] == VIDEOS
    assert {webhook_runs.delivered.xcom("make_video", index)["status"] for index in range(VIDEOS)} == {"completed"}
    assert webhook_runs.delivered.xcom("wait")["id"] == webhook_runs.delivered.xcom("submit")["id"]


def test_every_video_sends_one_webhook_and_is_billed_once(webhook_runs: WebhookRuns) -> None:
    counts = {task_id: len(webhook_runs.events_of(task_id)) for task_id in ("make_video", "submit", "make_batch")}
    assert counts == {"make_video": VIDEOS, "submit": 1, "make_batch": VIDEOS}
    assert all(event["statuses"][-1] == 200 for event in webhook_runs.events)


def test_each_task_is_resumed_once(webhook_runs: WebhookRuns) -> None:
    for index in range(VIDEOS):
        assert webhook_runs.delivered.log("make_video", index).count("Pausing task as DEFERRED") == 1
        assert webhook_runs.delivered.log("make_video", index).count("is ready. Its URL expires at") == 1
    # On a busy machine the sensor can start after its video is ready, and then it does not defer.
    assert webhook_runs.delivered.log("wait").count("Pausing task as DEFERRED") <= 1


def test_webhooks_replace_polls(webhook_runs: WebhookRuns) -> None:
    video_ids = {webhook_runs.delivered.xcom("make_video", index)["id"] for index in range(VIDEOS)}
    polls = Counter(request["path"].rpartition("/")[2] for request in webhook_runs.emulator.requests())
    # A video is looked up after the submission, at the start of the wait, and when the task is resumed.
    assert max(polls[video_id] for video_id in video_ids) <= 3


def test_log_of_a_resumed_task_does_not_report_a_kill(webhook_runs: WebhookRuns) -> None:
    logs = [
        webhook_runs.delivered.log(task_id, index)
        for task_id, index in (("make_video", 0), ("wait", -1), ("make_batch", -1))
    ]
    # The line is missing from a log if the webhook arrived before the trigger was started.
    assert [log for log in logs if "trigger completed" in log]
    for log in logs:
        assert not [word for word in ("kill", "user action", "cancel") if word in log.lower()]


def test_videos_whose_webhooks_never_arrive_are_found_by_polling(webhook_runs: WebhookRuns) -> None:
    assert webhook_runs.states["undelivered_videos"] == "success"
    assert webhook_runs.undelivered.xcom("make_batch")["saved"] == VIDEOS


def test_account_without_webhooks_is_logged_and_polled(webhook_runs: WebhookRuns) -> None:
    log = webhook_runs.undelivered.log("no_webhook")
    assert "No webhook will report this video" in log
    assert "This API key has no webhook." in log


# The following tests post webhooks for tasks that are deferred directly in the database.


@dataclass(frozen=True)
class DeferredTasks:
    """Deferred tasks, and their callback URLs."""

    airflow: AirflowInstance
    deferred: DeferredVideos
    triggers: list[dict[str, Any]]

    def url(self, index: int, *, conn_id: str = "toapis_default", **changed: object) -> str:
        """Return the callback URL of a task.

        :param changed: Task instance coordinates to replace.
        """
        coordinates = {
            "dag_id": "deferred_videos",
            "run_id": self.deferred.run_id,
            "task_id": "wait",
            "map_index": index,
        }
        return f"{self.airflow.url}/toapis/webhooks/{conn_id}?{urlencode(coordinates | changed)}"

    def video(self, index: int) -> str:
        return str(self.triggers[index]["video_id"])


#: Positions of the tasks with another provider's trigger and with a batch trigger.
FOREIGN = CONCURRENT + TARGETS
BATCH = FOREIGN + 1


@pytest.fixture(scope="module")
def tasks(webhook_runs: WebhookRuns) -> DeferredTasks:
    """Defer many tasks, without a running scheduler and triggerer."""
    webhook_runs.airflow.kill("triggerer")
    common = {"toapis_conn_id": "toapis_default", "poll_interval": 600.0, "end_time": time.time() + 3600}
    triggers: list[dict[str, Any]] = [{"video_id": f"video_{n}"} | common for n in range(CONCURRENT + TARGETS)]
    triggers.append(
        {"video_id": "video_foreign", "classpath": "airflow.providers.standard.triggers.file.FileTrigger"} | common
    )
    batch = {
        "video_ids": [f"video_of_batch_{n}" for n in range(20)],
        "classpath": "airflow_provider_toapis.triggers.video.ToAPIsVideoBatchTrigger",
        "not_before": time.time() + 3000,
    }
    triggers.append(batch | common)
    return DeferredTasks(
        webhook_runs.airflow, DeferredVideos(webhook_runs.airflow, [dict(trigger) for trigger in triggers]), triggers
    )


@dataclass(frozen=True)
class Attack:
    """A request that must change nothing.

    :param event: Returns the httpx arguments for a video id.
    :param coordinates: Task instance coordinates to replace in the URL.
    """

    name: str
    status: int
    event: Callable[[str], dict[str, Any]]
    conn_id: str = "toapis_default"
    method: str = "POST"
    coordinates: dict[str, object] = field(default_factory=dict)


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
    Attack("unknown connection", 401, signed, conn_id="unknown"),
    Attack("connection without a secret", 401, signed, conn_id="toapis_without_webhooks"),
    Attack("connection of another kind", 401, signed, conn_id="of_another_kind"),
    Attack("another connection's event", 200, signed, conn_id="toapis_undelivered"),
    *(Attack(method, 405, signed, method=method) for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS")),
    Attack("another DAG's task", 200, signed, coordinates={"dag_id": "webhook_videos", "task_id": "wait"}),
    Attack("unknown run", 200, signed, coordinates={"run_id": "unknown"}),
    Attack("no coordinates", 200, signed, coordinates={"dag_id": None}),
    Attack("map index that is not an integer", 200, signed, coordinates={"map_index": "1e9"}),
    Attack("map index out of range", 200, signed, coordinates={"run_id": "unknown", "map_index": "9" * 12}),
    Attack("coordinate with a zero byte", 200, signed, coordinates={"dag_id": "deferred\0videos"}),
    Attack("another video", 200, lambda _: signed("video_of_another")),
    Attack("test event", 200, signed_body(body_of("endpoint_test", "endpoint.test"))),
    Attack("unknown kind of event", 200, signed_body(body_of("video_1", "generation.begun"))),
    Attack("not JSON", 200, signed_body(b"{")),
    Attack("not an object", 200, signed_body(b"[1]")),
    Attack("endless nesting", 200, signed_body(b"[" * 100_000)),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attack_changes_nothing(tasks: DeferredTasks, attack: Attack) -> None:
    before = tasks.deferred.rows()
    coordinates = {"map_index": 0} | attack.coordinates
    url = tasks.url(0, conn_id=attack.conn_id, **coordinates)
    if attack.coordinates.get("dag_id", "") is None:
        url = url.partition("?")[0]
    begun = time.monotonic()
    response = httpx.request(attack.method, url, **attack.event(tasks.video(0)), timeout=30, trust_env=False)
    assert response.status_code == attack.status
    assert time.monotonic() - begun < 5
    assert tasks.deferred.rows() == before
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
def test_path_trick_changes_nothing(tasks: DeferredTasks, path: str, status: int) -> None:
    before = tasks.deferred.rows()
    query = urlsplit(tasks.url(0)).query
    event = signed(tasks.video(0))
    # Not with httpx, which would normalize the path.
    connection = http.client.HTTPConnection(urlsplit(tasks.airflow.url).netloc, timeout=30)
    connection.request("POST", f"/toapis/webhooks/{path}?{query}", event["content"], event["headers"])
    assert connection.getresponse().status == status
    connection.close()
    assert tasks.deferred.rows() == before


def test_slow_body_is_rejected_with_a_timeout(tasks: DeferredTasks) -> None:
    before = tasks.deferred.rows()
    url = urlsplit(tasks.url(0))
    event = signed(tasks.video(0))
    head = "".join(f"{name}: {value}\r\n" for name, value in event["headers"].items())
    with socket.create_connection((str(url.hostname), url.port or 80), timeout=30) as client:
        length = len(event["content"])
        request = f"POST {url.path}?{url.query} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n{head}\r\n"
        client.sendall(request.encode() + event["content"][:-1])
        assert b" 408 " in client.recv(1000)
    assert tasks.deferred.rows() == before


def test_event_for_a_finished_task_changes_nothing(tasks: DeferredTasks, webhook_runs: WebhookRuns) -> None:
    before = tasks.deferred.rows()
    (event,) = webhook_runs.events_of("submit")
    finished = webhook_runs.delivered.task_instances("submit")
    response = httpx.post(event["url"], **signed(event["event"]["data"]["task_id"]), timeout=30, trust_env=False)
    assert response.status_code == 200
    assert webhook_runs.delivered.task_instances("submit") == finished
    assert tasks.deferred.rows() == before


def test_task_of_another_provider_is_not_resumed(tasks: DeferredTasks) -> None:
    before = tasks.deferred.rows()
    response = httpx.post(tasks.url(FOREIGN), **signed("video_foreign"), timeout=30, trust_env=False)
    assert response.status_code == 200
    assert tasks.deferred.rows() == before


def test_event_before_the_deferral_must_be_delivered_again(tasks: DeferredTasks) -> None:
    index = CONCURRENT
    event = signed(tasks.video(index))
    with tasks.deferred.not_yet_deferred(index):
        assert httpx.post(tasks.url(index), **event, timeout=30, trust_env=False).status_code == 503
        assert tasks.deferred.states()[index] == "running"
    assert httpx.post(tasks.url(index), **event, timeout=30, trust_env=False).status_code == 200
    assert tasks.deferred.states()[index] == "scheduled"


@pytest.mark.parametrize("secret", [SECRET, OLD_SECRET])
def test_both_secrets_of_a_rotation_are_accepted(tasks: DeferredTasks, secret: str) -> None:
    index = CONCURRENT + 1 + (secret == SECRET)
    event = signed(tasks.video(index), secret=secret)
    other = signature("unknown", "e", 1, b"")
    event["headers"]["X-ToAPIs-Webhook-Signature"] = f"{other}, {event['headers']['X-ToAPIs-Webhook-Signature']}"
    assert httpx.post(tasks.url(index), **event, timeout=30, trust_env=False).status_code == 200
    assert tasks.deferred.states()[index] == "scheduled"


def test_replayed_event_does_not_resume_a_task_that_deferred_again(tasks: DeferredTasks) -> None:
    index = CONCURRENT + 3
    event = signed(tasks.video(index))
    trigger_id = tasks.deferred.trigger_id(index)
    assert httpx.post(tasks.url(index), **event, timeout=30, trust_env=False).status_code == 200
    assert tasks.deferred.states()[index] == "scheduled"
    tasks.deferred.defer_again(index, trigger_id)
    before = tasks.deferred.rows()
    assert httpx.post(tasks.url(index), **event, timeout=30, trust_env=False).status_code == 200
    assert tasks.deferred.rows() == before
    assert tasks.deferred.states()[index] == "deferred"


def test_batch_is_resumed_after_the_webhooks_of_all_its_videos(tasks: DeferredTasks) -> None:
    videos = tasks.triggers[BATCH]["video_ids"]
    responses = in_parallel([(tasks.url(BATCH), signed(video)) for video in videos[1:]])
    # A delivery that conflicts with another delivery gets a 503 and must be repeated.
    while 503 in responses:
        pending = [video for video, response in zip(videos[1:], responses, strict=True) if response == 503]
        responses = in_parallel([(tasks.url(BATCH), signed(video)) for video in pending])
        videos = [videos[0], *pending]
    assert tasks.deferred.states()[BATCH] == "deferred"
    assert httpx.post(tasks.url(BATCH), **signed(videos[0]), timeout=30, trust_env=False).status_code == 200
    assert tasks.deferred.states()[BATCH] == "scheduled"
    assert tasks.deferred.events()[-1] == {"status": "success", "final": hex(2**20 - 1), "waiting": 0}


def test_two_hundred_concurrent_events_resume_each_task_once(tasks: DeferredTasks) -> None:
    pending = [(tasks.url(index), signed(tasks.video(index))) for index in range(CONCURRENT) for _ in range(2)]
    for _ in range(10):
        responses = in_parallel(pending)
        pending = [post for post, response in zip(pending, responses, strict=True) if response == 503]
    assert not pending
    assert tasks.deferred.states()[:CONCURRENT] == ["scheduled"] * CONCURRENT
    resumed = Counter(event["video_id"] for event in tasks.deferred.events() if "video_id" in event)
    assert {tasks.video(index): 1 for index in range(CONCURRENT)}.items() <= resumed.items()
    log = tasks.airflow.component_log("api-server")
    assert [log.count(f"video {tasks.video(n)} is final. Result: resumed (") for n in range(CONCURRENT)] == [
        1
    ] * CONCURRENT


def test_real_events_resume_their_tasks_among_forged_ones(
    tasks: DeferredTasks, print_now: Callable[[str], None]
) -> None:
    targets = range(CONCURRENT + 4, CONCURRENT + TARGETS)
    command = [sys.executable, "-m", "tests.e2e.forging", tasks.url(CONCURRENT + 4)]
    waits = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as forging:
        time.sleep(1)
        for index in targets:
            begun = time.monotonic()
            while httpx.post(tasks.url(index), **signed(tasks.video(index)), timeout=30, trust_env=False).is_error:
                assert forging.poll() is None
            waits.append(time.monotonic() - begun)
            assert tasks.deferred.states()[index] == "scheduled"
        forged = json.loads(forging.communicate(timeout=60)[0])
    print_now(
        f"{forged['responses']} forged webhooks in {forged['seconds']:.0f} s; {len(waits)} real ones took up to"
        f" {max(waits) * 1000:.0f} ms meanwhile."
    )
    # 408 and 503: the server was too busy to read a body, or to respond in time.
    assert forged["statuses"].keys() <= {"401", "408", "503"}
    assert forged["statuses"]["401"] > 0
    lines = tasks.airflow.component_log("api-server")
    assert "Webhooks rejected since the last such line" in lines
    assert "forged" not in "".join(line for line in lines.splitlines() if "http.access" not in line)


def test_receiver_logs_no_secret_and_no_traceback(tasks: DeferredTasks) -> None:
    log = tasks.airflow.component_log("api-server")
    assert SECRET not in log
    assert OLD_SECRET not in log
    assert "Traceback" not in log


def in_parallel(posts: list[tuple[str, dict[str, Any]]]) -> list[int]:
    with ThreadPoolExecutor(16) as threads, httpx.Client(timeout=30, trust_env=False) as client:
        return list(threads.map(lambda post: client.post(post[0], **post[1]).status_code, posts))
