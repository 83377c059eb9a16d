"""The example DAGs and the test DAGs in a real Airflow: scheduler, DAG processor, triggerer and API server."""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import av
import httpx
import pytest
from PIL import Image, ImageChops, ImageOps, ImageStat

from airflow_provider_toapis.links.video import VIDEOS_PATH
from dev.airflow.airflow_instance import AirflowInstance
from dev.airflow.airflow_processes import airflow_command
from tests.e2e.dag_run import Run
from tests.integration.emulator_process import EmulatorProcess

#: Texts in the log of a deferred task, in this order: the task defers, its trigger fires, a worker resumes it.
DEFERRED, TRIGGER_FIRED, RESUMED = "Pausing task as DEFERRED", "Trigger fired event", "Pre Execute"

#: Part of the name of the log file that only the triggerer writes.
TRIGGERER_LOG_FILE = ".log.trigger."

#: The tasks of ``example_variations`` that make a video.
VARIATIONS = ("hero_video", "evening_version", "long_version")


@pytest.fixture
def catalog(runs: dict[str, Run]) -> Run:
    run = runs["example_product_catalog"]
    assert run.wait() == "success", run.log("read_feed")
    return run


def first_frame_and_length(file: str) -> tuple[Image.Image, float]:
    with av.open(file) as container:
        frames = [(frame.time, frame) for frame in container.decode(video=0)]
        rate = container.streams.video[0].average_rate
    assert rate is not None
    first: Any = frames[0][1]
    return first.to_image(), float(frames[-1][0]) + float(1 / rate)


def open_image(product: dict[str, Any]) -> Image.Image:
    """Open a product's image, which is a URL or a file in the feed."""
    source = product["image"]
    return Image.open(io.BytesIO(httpx.get(source).content) if source.startswith("http") else source)


def difference(image: Image.Image, frame: Image.Image) -> float:
    """Return the mean difference of two images, from 0 (equal) to 255 (black and white)."""
    size = (32, 32)
    cropped = ImageOps.fit(image.convert("RGB"), frame.size).resize(size)
    return sum(ImageStat.Stat(ImageChops.difference(cropped, frame.convert("RGB").resize(size))).mean) / 3


def contains_in_order(log: str, *texts: str) -> bool:
    return re.search(".*".join(map(re.escape, texts)), log, re.DOTALL) is not None


def waits_for_approval(run: Run, task_id: str) -> bool:
    """Whether a task waits for its approval and its worker has ended.

    If a test approves the task before its worker has ended, Airflow's scheduler takes the end of the worker for a crash
    of the resumed task.
    """
    (instance,) = run.task_instances(task_id)
    worker_ended = rf"Received executor event with state success .*dag_id='{run.dag_id}', task_id='{task_id}'"
    return instance["state"] == "awaiting_input" and bool(
        re.search(worker_ended, run.airflow.component_log("scheduler"))
    )


def test_deferred_and_finished_task_link_to_the_page_of_the_video_and_to_the_console(
    runs: dict[str, Run], airflow: AirflowInstance, emulator: EmulatorProcess
) -> None:
    run = runs["example_video_asset"]
    path = f"dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/make_video/links"
    run.wait_until_deferred("make_video")
    waiting = airflow.api("GET", path)["extra_links"]

    assert run.wait() == "success"

    page = f"{VIDEOS_PATH}/{run.dag_id}/{quote(run.run_id)}/make_video?map_index=-1"
    assert waiting == {"Video": page, "ToAPIs console": f"{emulator.url}/console"}
    assert airflow.api("GET", path)["extra_links"] == waiting


def test_every_video_has_the_requested_length_and_ratio(catalog: Run, products: list[dict[str, Any]]) -> None:
    for index, product in enumerate(products):
        frame, length = first_frame_and_length(catalog.xcom("make_video", index)["output_path"])
        width, height = map(int, product["aspect_ratio"].split(":"))
        assert length == pytest.approx(int(product["duration"]), abs=0.2)
        assert frame.width / frame.height == pytest.approx(width / height, rel=0.02)


def test_every_video_shows_the_image_of_its_product(catalog: Run, products: list[dict[str, Any]]) -> None:
    images = [open_image(product) for product in products]
    for index, product in enumerate(products):
        frame, _ = first_frame_and_length(catalog.xcom("make_video", index)["output_path"])
        differences = [difference(image, frame) for image in images]
        assert differences.index(min(differences)) == index, f"{product['sku']}: {differences}"
        assert differences[index] < 25


def test_files_are_named_after_their_products_and_match_the_results(
    catalog: Run, products: list[dict[str, Any]]
) -> None:
    for index, product in enumerate(products):
        made = catalog.xcom("make_video", index)
        file = Path(made["output_path"])
        assert file == catalog.output / "catalog" / f"{product['sku']}.mp4"
        assert file.stat().st_size == made["size"]
        assert hashlib.sha256(file.read_bytes()).hexdigest() == made["sha256"]


def test_every_video_is_posted_to_the_shop(
    catalog: Run, products: list[dict[str, Any]], emulator: EmulatorProcess
) -> None:
    posted = {(video["sku"], video["video"]["id"]) for video in emulator.get("/shop/videos").json()["videos"]}
    made = {(product["sku"], catalog.xcom("make_video", index)["id"]) for index, product in enumerate(products)}
    # Other DAGs send their videos to the shop too.
    assert made <= posted


def test_catalog_tasks_are_deferred_and_resumed_by_the_triggerer(catalog: Run) -> None:
    instances = catalog.task_instances("make_video")
    assert len(instances) == 3
    for instance in instances:
        log = catalog.log("make_video", instance["map_index"])
        assert contains_in_order(log, DEFERRED, TRIGGER_FIRED, RESUMED), log
        assert TRIGGERER_LOG_FILE in log
        assert instance["try_number"] == 1


def test_submitted_video_is_awaited_by_the_sensor_and_downloaded(
    runs: dict[str, Run], emulator: EmulatorProcess
) -> None:
    run = runs["example_submit_then_wait"]
    run.wait_until_deferred("wait_for_video")
    # The fault of this run is removed, too.
    runs["example_check_video"].wait()
    emulator.clear_faults()

    assert run.wait() == "success"

    submitted, downloaded = run.xcom("submit_video"), run.xcom("download_video")
    assert submitted["status"] != "completed"
    assert downloaded["id"] == submitted["id"]
    assert contains_in_order(run.log("wait_for_video"), DEFERRED, TRIGGER_FIRED, RESUMED)
    _, length = first_frame_and_length(str(run.output / "submitted.mp4"))
    assert length == pytest.approx(10, abs=0.2)


def test_uploaded_image_becomes_a_video_a_remix_and_an_extension(runs: dict[str, Run]) -> None:
    run = runs["example_variations"]

    assert run.wait() == "success"

    made = {task_id: run.xcom(task_id) for task_id in VARIATIONS}
    assert len({video["sha256"] for video in made.values()}) == 3
    lengths = {task_id: first_frame_and_length(video["output_path"])[1] for task_id, video in made.items()}
    assert lengths == {
        "hero_video": pytest.approx(6, abs=0.2),
        "evening_version": pytest.approx(6, abs=0.2),
        "long_version": pytest.approx(14, abs=0.2),
    }


def test_video_that_is_too_short_is_sent_to_review(runs: dict[str, Run]) -> None:
    run = runs["example_check_video"]

    assert run.wait() == "success"

    states = {task_id: run.task_instances(task_id)[0]["state"] for task_id in ("publish_video", "send_to_review")}
    assert states == {"publish_video": "skipped", "send_to_review": "success"}
    made = run.xcom("make_video")
    assert [warning.partition(":")[0] for warning in made["warnings"]] == ["duration_mismatch"]
    assert made["media"]["duration"] == pytest.approx(5, abs=0.2)
    assert made["warnings"][0] in run.log("make_video")
    assert Path(made["poster_path"]).read_bytes()[:2] == b"\xff\xd8"


def test_video_is_published_only_after_its_approval(
    runs: dict[str, Run], airflow: AirflowInstance, emulator: EmulatorProcess, products: list[dict[str, Any]]
) -> None:
    run = runs["example_approval"]
    approval = f"dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/approve_video/-1/hitlDetails"
    deadline = time.monotonic() + 240
    while not waits_for_approval(run, "approve_video"):
        assert time.monotonic() < deadline, run.task_instances("approve_video")
        time.sleep(0.5)
    details = airflow.api("GET", approval)
    made = run.xcom("make_video")
    assert products[0]["sku"] in details["subject"]
    assert made["url"] in details["body"]
    assert run.task_instances("publish_video")[0]["start_date"] is None

    airflow.api("PATCH", approval, json={"chosen_options": ["Approve"]})

    assert run.wait() == "success", run.log("approve_video")
    assert run.task_instances("publish_video")[0]["state"] == "success"


def test_new_video_triggers_the_dag_scheduled_by_its_asset(
    runs: dict[str, Run], airflow: AirflowInstance, products: list[dict[str, Any]]
) -> None:
    assert runs["example_video_asset"].wait() == "success"
    made = runs["example_video_asset"].xcom("make_video")

    deadline = time.monotonic() + 120
    while not (started := airflow.api("GET", "dags/example_publish_new_videos/dagRuns")["dag_runs"]):
        assert time.monotonic() < deadline
        time.sleep(0.5)

    assert airflow.wait_for_run("example_publish_new_videos", started[0]["dag_run_id"]) == "success"
    (new_video,) = airflow.xcom("example_publish_new_videos", started[0]["dag_run_id"], "read_events")
    assert new_video["product"] == products[1]["sku"]
    assert new_video["video"] == {"id": made["id"], "output_path": made["output_path"]}
    (event,) = airflow.api("GET", "assets/events", params={"source_dag_id": "example_video_asset"})["asset_events"]
    assert event["uri"] == Path(made["output_path"]).as_uri()
    manifest = event["extra"]
    assert (manifest["path"], manifest["sha256"]) == (made["output_path"], made["sha256"])
    assert manifest["source_image"] == products[0]["image"]
    assert made["url"] not in str(event)


def test_batch_saves_the_catalog_and_its_asset_triggers_the_next_dag(
    runs: dict[str, Run], airflow: AirflowInstance
) -> None:
    run = runs["example_nightly_catalog"]

    assert run.wait() == "success", run.log("make_videos")

    summary = run.xcom("make_videos")
    assert (summary["saved"], summary["failed"], summary["cost_usd"]) == (6, 0, 0.6)
    assert contains_in_order(run.log("make_videos"), DEFERRED, TRIGGER_FIRED, RESUMED, "6 saved, 0 submitted")
    deadline = time.monotonic() + 120
    while not (started := airflow.api("GET", "dags/example_publish_catalog/dagRuns")["dag_runs"]):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert airflow.wait_for_run("example_publish_catalog", started[0]["dag_run_id"]) == "success"
    new_videos = airflow.xcom("example_publish_catalog", started[0]["dag_run_id"], "list_new_videos")
    assert {video["key"]: video["sha256"] for video in new_videos} == {
        f"p{n}": hashlib.sha256((run.output / "nightly" / f"p{n}.mp4").read_bytes()).hexdigest() for n in range(6)
    }


def test_openlineage_event_has_the_image_and_the_saved_video(
    runs: dict[str, Run], lineage_file: Path, products: list[dict[str, Any]]
) -> None:
    assert runs["example_video_asset"].wait() == "success"
    made = runs["example_video_asset"].xcom("make_video")

    events = [json.loads(line) for line in lineage_file.read_text().splitlines()]

    (ended,) = [
        event
        for event in events
        if event["eventType"] == "COMPLETE" and event["job"]["name"] == "example_video_asset.make_video"
    ]
    image = urlsplit(products[0]["image"])
    assert [(file["namespace"], file["name"]) for file in ended["inputs"]] == [(f"http://{image.netloc}", image.path)]
    assert [(file["namespace"], file["name"]) for file in ended["outputs"]] == [("file", made["output_path"])]
    facet = ended["run"]["facets"]["toapis_video"]
    assert (facet["video_id"], facet["model"], facet["sha256"]) == (made["id"], made["model"], made["sha256"])
    assert facet["price_usd"] == float(made["billing"]["cost_usd"])


def test_decorated_function_is_called_once_per_video_despite_the_deferral(
    runs: dict[str, Run], products: list[dict[str, Any]]
) -> None:
    run = runs["described_by_a_function"]

    assert run.wait() == "success", run.log("make_video", 0)

    calls = (run.output / "described" / "calls.txt").read_text().splitlines()
    described = dict(call.split(": ") for call in calls)
    assert len(calls) == len(described) == 2
    for index, instance in enumerate(run.task_instances("make_video")):
        product = products[index]
        prompt, log = described[product["sku"]], run.log("make_video", index)
        assert contains_in_order(log, DEFERRED, TRIGGER_FIRED, RESUMED), log
        assert prompt not in log
        assert instance["rendered_fields"]["prompt"] == prompt
        made = run.xcom("make_video", index)
        assert Path(made["output_path"]) == run.output / "described" / f"{product['sku']}.mp4"
        assert Path(made["output_path"]).stat().st_size == made["size"]
        assert run.xcom("read_path", index) == made["output_path"]


def test_worker_waits_without_deferring_and_returns_the_same_result(runs: dict[str, Run]) -> None:
    run = runs["waiting_in_the_worker"]

    assert run.wait() == "success"

    made, log = run.xcom("make_video"), run.log("make_video")
    assert made["status"] == "completed"
    assert Path(made["output_path"]).stat().st_size == made["size"]
    assert run.xcom("make_videos")["saved"] == len(list((run.output / "worker").glob("*.mp4"))) == 2
    for log_text in (log, run.log("make_videos")):
        assert DEFERRED not in log_text
        assert TRIGGER_FIRED not in log_text


def test_failing_status_requests_do_not_fail_a_deferred_task(
    runs: dict[str, Run], unreliable_emulator: EmulatorProcess
) -> None:
    run = runs["unreliable_service"]

    assert run.wait() == "success"

    assert contains_in_order(run.log("make_video"), DEFERRED, TRIGGER_FIRED, RESUMED)
    assert (run.output / "unreliable.mp4").exists()
    assert unreliable_emulator.ledger()["posted"] == 1
    assert [fault["remaining"] for fault in unreliable_emulator.faults()] == [0, 0]


def test_every_video_was_billed_exactly_once(runs: dict[str, Run], emulator: EmulatorProcess) -> None:
    expected = {
        "example_product_catalog": 3,
        "example_approval": 1,
        "example_video_asset": 1,
        "described_by_a_function": 2,
        "waiting_in_the_worker": 1,
        "example_check_video": 1,
    }
    made = [
        runs[dag_id].xcom("make_video", index if count > 1 else -1)["id"]
        for dag_id, count in expected.items()
        if runs[dag_id].wait() == "success"
        for index in range(count)
    ]
    runs["example_submit_then_wait"].wait()
    made.append(runs["example_submit_then_wait"].xcom("submit_video")["id"])
    runs["example_variations"].wait()
    made += [runs["example_variations"].xcom(task_id)["id"] for task_id in VARIATIONS]
    for dag_id in ("example_nightly_catalog", "waiting_in_the_worker"):
        manifest = Path(runs[dag_id].xcom("make_videos")["manifest"])
        made += [json.loads(line)["video_id"] for line in manifest.read_text().splitlines()]

    ledger = emulator.ledger()

    assert sorted(line["id"] for line in ledger["billed"]) == sorted(made)
    assert ledger["posted"] == len(made) == 21


def test_airflow_lists_the_provider(airflow: AirflowInstance) -> None:
    shown = subprocess.run(
        airflow_command("providers", "get", "airflow-provider-toapis"),
        env=airflow.environment,
        cwd=airflow.directory,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "airflow-provider-toapis" in shown.stdout
    providers = airflow.api("GET", "providers", params={"limit": 100})["providers"]
    assert "airflow-provider-toapis" in [provider["package_name"] for provider in providers]


def test_connection_test_succeeds_and_submits_nothing(airflow: AirflowInstance, emulator: EmulatorProcess) -> None:
    posted_before = emulator.ledger()["posted"]
    connection = {"connection_id": "tried_out", "conn_type": "toapis", "host": emulator.url, "password": "sk-emulator"}

    outcome = airflow.api("POST", "connections/test", json=connection)

    assert outcome["status"] is True, outcome["message"]
    assert emulator.ledger()["posted"] == posted_before
