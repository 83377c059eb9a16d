"""The example DAGs, and two more, in a real Airflow: scheduler, DAG processor, triggerer and API server."""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import av
import httpx
import pytest
from PIL import Image, ImageChops, ImageOps, ImageStat

from dev.airflow.airflow_instance import AirflowInstance
from dev.airflow.airflow_processes import airflow_command
from tests.e2e.dag_run import Run
from tests.integration.emulator_process import EmulatorProcess

#: What the log of a deferred task says, in this order: the worker gives itself back, the triggerer wakes the task,
#: a worker resumes it.
DEFERRED, TRIGGER_FIRED, RESUMED = "Pausing task as DEFERRED", "Trigger fired event", "Pre Execute"

#: Part of the name of the file that the triggerer, and nothing else, writes a task's log lines to.
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


def picture_of(product: dict[str, Any]) -> Image.Image:
    """Open a product's picture, which the feed gives as a link or as a file."""
    place = product["image"]
    return Image.open(io.BytesIO(httpx.get(place).content) if place.startswith("http") else place)


def difference(picture: Image.Image, frame: Image.Image) -> float:
    """Return how much two pictures differ, 0 for not at all, 255 for black and white."""
    size = (32, 32)
    cropped = ImageOps.fit(picture.convert("RGB"), frame.size).resize(size)
    return sum(ImageStat.Stat(ImageChops.difference(cropped, frame.convert("RGB").resize(size))).mean) / 3


def in_order(log: str, *words: str) -> bool:
    return re.search(".*".join(map(re.escape, words)), log, re.DOTALL) is not None


def is_parked(run: Run, task_id: str) -> bool:
    """Whether a task waits for a person and its worker has gone.

    Between the two Airflow's scheduler takes the worker's end for a crash of the resumed task when the answer comes
    within the second. No person is that quick; a test is.
    """
    (instance,) = run.task_instances(task_id)
    worker_ended = rf"Received executor event with state success .*dag_id='{run.dag_id}', task_id='{task_id}'"
    return instance["state"] == "awaiting_input" and bool(
        re.search(worker_ended, run.airflow.component_log("scheduler"))
    )


def test_waiting_task_links_to_the_console_and_finished_one_to_the_video_too(
    runs: dict[str, Run], airflow: AirflowInstance, emulator: EmulatorProcess
) -> None:
    run = runs["example_video_asset"]
    place = f"dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/make_video/links"
    run.wait_until_deferred("make_video")
    waiting = airflow.api("GET", place)["extra_links"]

    assert run.wait() == "success"

    ended = airflow.api("GET", place)["extra_links"]
    assert waiting == {"Video": None, "ToAPIs console": f"{emulator.url}/console"}
    # No browser opens the file, which is kept on a disk, from Airflow's page.
    assert ended == {"Video": run.xcom("make_video")["url"], "ToAPIs console": f"{emulator.url}/console"}


def test_every_product_gets_a_video_of_the_ordered_length_and_shape(
    catalog: Run, products: list[dict[str, Any]]
) -> None:
    for index, product in enumerate(products):
        frame, length = first_frame_and_length(catalog.xcom("make_video", index)["output_path"])
        width, height = map(int, product["aspect_ratio"].split(":"))
        assert length == pytest.approx(int(product["duration"]), abs=0.2)
        assert frame.width / frame.height == pytest.approx(width / height, rel=0.02)


def test_every_video_shows_the_picture_of_its_own_product(catalog: Run, products: list[dict[str, Any]]) -> None:
    pictures = [picture_of(product) for product in products]
    for index, product in enumerate(products):
        frame, _ = first_frame_and_length(catalog.xcom("make_video", index)["output_path"])
        differences = [difference(picture, frame) for picture in pictures]
        assert differences.index(min(differences)) == index, f"{product['sku']}: {differences}"
        assert differences[index] < 25


def test_files_are_named_after_their_products_and_are_what_the_result_says(
    catalog: Run, products: list[dict[str, Any]]
) -> None:
    for index, product in enumerate(products):
        made = catalog.xcom("make_video", index)
        file = Path(made["output_path"])
        assert file == catalog.output / "catalog" / f"{product['sku']}.mp4"
        assert file.stat().st_size == made["size"]
        assert hashlib.sha256(file.read_bytes()).hexdigest() == made["sha256"]


def test_the_shop_is_told_about_every_video(
    catalog: Run, products: list[dict[str, Any]], emulator: EmulatorProcess
) -> None:
    told = {(video["sku"], video["video"]["id"]) for video in emulator.get("/shop/videos").json()["videos"]}
    made = {(product["sku"], catalog.xcom("make_video", index)["id"]) for index, product in enumerate(products)}
    # Other DAGs tell it of theirs.
    assert made <= told


def test_catalog_tasks_are_deferred_and_resumed_by_the_triggerer(catalog: Run) -> None:
    instances = catalog.task_instances("make_video")
    assert len(instances) == 3
    for instance in instances:
        log = catalog.log("make_video", instance["map_index"])
        assert in_order(log, DEFERRED, TRIGGER_FIRED, RESUMED), log
        assert TRIGGERER_LOG_FILE in log
        assert instance["try_number"] == 1


def test_video_that_was_ordered_first_is_awaited_by_the_sensor_and_kept(
    runs: dict[str, Run], emulator: EmulatorProcess
) -> None:
    run = runs["example_submit_then_wait"]
    run.wait_until_deferred("wait_for_video")
    emulator.clear_faults()

    assert run.wait() == "success"

    ordered, kept = run.xcom("submit_video"), run.xcom("download_video")
    assert ordered["status"] != "completed"
    assert kept["id"] == ordered["id"]
    assert in_order(run.log("wait_for_video"), DEFERRED, TRIGGER_FIRED, RESUMED)
    _, length = first_frame_and_length(str(run.output / "ordered.mp4"))
    assert length == pytest.approx(10, abs=0.2)


def test_uploaded_picture_becomes_a_video_another_version_of_it_and_a_longer_one(runs: dict[str, Run]) -> None:
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


def test_video_is_published_only_after_a_person_approved_it(
    runs: dict[str, Run], airflow: AirflowInstance, emulator: EmulatorProcess, products: list[dict[str, Any]]
) -> None:
    run = runs["example_approval"]
    approval = f"dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/approve_video/-1/hitlDetails"
    deadline = time.monotonic() + 120
    while not is_parked(run, "approve_video"):
        assert time.monotonic() < deadline, run.task_instances("approve_video")
        time.sleep(0.5)
    asked = airflow.api("GET", approval)
    made = run.xcom("make_video")
    assert products[0]["sku"] in asked["subject"]
    assert made["url"] in asked["body"]
    assert run.task_instances("publish_video")[0]["start_date"] is None

    airflow.api("PATCH", approval, json={"chosen_options": ["Approve"]})

    assert run.wait() == "success", run.log("approve_video")
    assert run.task_instances("publish_video")[0]["state"] == "success"


def test_new_video_starts_the_dag_that_is_scheduled_by_its_asset(
    runs: dict[str, Run], airflow: AirflowInstance, products: list[dict[str, Any]]
) -> None:
    assert runs["example_video_asset"].wait() == "success"
    made = runs["example_video_asset"].xcom("make_video")

    deadline = time.monotonic() + 60
    while not (started := airflow.api("GET", "dags/example_publish_new_videos/dagRuns")["dag_runs"]):
        assert time.monotonic() < deadline
        time.sleep(0.5)

    assert airflow.wait_for_run("example_publish_new_videos", started[0]["dag_run_id"]) == "success"
    (told,) = airflow.xcom("example_publish_new_videos", started[0]["dag_run_id"], "read_events")
    assert told["product"] == products[1]["sku"]
    assert told["video"] == {"id": made["id"], "output_path": made["output_path"]}
    (event,) = airflow.api("GET", "assets/events", params={"source_dag_id": "example_video_asset"})["asset_events"]
    assert event["uri"] == Path(made["output_path"]).as_uri()
    manifest = event["extra"]
    assert (manifest["path"], manifest["sha256"]) == (made["output_path"], made["sha256"])
    assert manifest["source_image"] == products[0]["image"]
    assert made["url"] not in str(event)


def test_catalog_is_made_by_one_task_and_its_asset_starts_the_next_dag(
    runs: dict[str, Run], airflow: AirflowInstance
) -> None:
    run = runs["example_nightly_catalog"]

    assert run.wait() == "success", run.log("make_videos")

    summary = run.xcom("make_videos")
    assert (summary["saved"], summary["failed"], summary["cost_usd"]) == (6, 0, 0.6)
    assert in_order(run.log("make_videos"), DEFERRED, TRIGGER_FIRED, RESUMED, "6 saved, 0 submitted")
    deadline = time.monotonic() + 60
    while not (started := airflow.api("GET", "dags/example_publish_catalog/dagRuns")["dag_runs"]):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert airflow.wait_for_run("example_publish_catalog", started[0]["dag_run_id"]) == "success"
    told = airflow.xcom("example_publish_catalog", started[0]["dag_run_id"], "list_new_videos")
    assert {video["key"]: video["sha256"] for video in told} == {
        f"p{n}": hashlib.sha256((run.output / "nightly" / f"p{n}.mp4").read_bytes()).hexdigest() for n in range(6)
    }


def test_openlineage_is_told_what_a_video_was_made_from_and_where_it_lies(
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
    picture = urlsplit(products[0]["image"])
    assert [(file["namespace"], file["name"]) for file in ended["inputs"]] == [
        (f"http://{picture.netloc}", picture.path)
    ]
    assert [(file["namespace"], file["name"]) for file in ended["outputs"]] == [("file", made["output_path"])]
    facet = ended["run"]["facets"]["toapis_video"]
    assert (facet["video_id"], facet["model"], facet["sha256"]) == (made["id"], made["model"], made["sha256"])
    assert facet["price_usd"] == float(made["billing"]["cost_usd"])


def test_function_is_asked_once_for_each_video_whatever_the_deferral(
    runs: dict[str, Run], products: list[dict[str, Any]]
) -> None:
    run = runs["described_by_a_function"]

    assert run.wait() == "success", run.log("make_video", 0)

    calls = (run.output / "described" / "calls.txt").read_text().splitlines()
    described = dict(call.split(": ") for call in calls)
    assert len(calls) == len(described) == 2
    for index, instance in enumerate(run.task_instances("make_video")):
        product = products[index]
        words, log = described[product["sku"]], run.log("make_video", index)
        assert in_order(log, DEFERRED, TRIGGER_FIRED, RESUMED), log
        assert words not in log
        assert instance["rendered_fields"]["prompt"] == words
        made = run.xcom("make_video", index)
        assert Path(made["output_path"]) == run.output / "described" / f"{product['sku']}.mp4"
        assert Path(made["output_path"]).stat().st_size == made["size"]
        assert run.xcom("read_path", index) == made["output_path"]


def test_without_deferring_the_worker_waits_and_the_result_is_the_same(runs: dict[str, Run]) -> None:
    run = runs["waiting_in_the_worker"]

    assert run.wait() == "success"

    made, log = run.xcom("make_video"), run.log("make_video")
    assert made["status"] == "completed"
    assert Path(made["output_path"]).stat().st_size == made["size"]
    assert run.xcom("make_videos")["saved"] == len(list((run.output / "worker").glob("*.mp4"))) == 2
    for waited in (log, run.log("make_videos")):
        assert DEFERRED not in waited
        assert TRIGGER_FIRED not in waited


def test_failing_status_requests_do_not_fail_a_deferred_task(
    runs: dict[str, Run], unreliable_emulator: EmulatorProcess
) -> None:
    run = runs["unreliable_service"]

    assert run.wait() == "success"

    assert in_order(run.log("make_video"), DEFERRED, TRIGGER_FIRED, RESUMED)
    assert (run.output / "unreliable.mp4").exists()
    assert unreliable_emulator.ledger()["posted"] == 1
    assert [fault["remaining"] for fault in unreliable_emulator.faults()] == [0, 0]


def test_every_wanted_video_was_billed_exactly_once(runs: dict[str, Run], emulator: EmulatorProcess) -> None:
    wanted = {
        "example_product_catalog": 3,
        "example_approval": 1,
        "example_video_asset": 1,
        "described_by_a_function": 2,
        "waiting_in_the_worker": 1,
    }
    made = [
        runs[dag_id].xcom("make_video", index if count > 1 else -1)["id"]
        for dag_id, count in wanted.items()
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
    assert ledger["posted"] == len(made) == 20


def test_airflow_knows_the_provider(airflow: AirflowInstance) -> None:
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


def test_the_test_button_of_the_connection_form_works_and_costs_nothing(
    airflow: AirflowInstance, emulator: EmulatorProcess
) -> None:
    posted_before = emulator.ledger()["posted"]
    connection = {"connection_id": "tried_out", "conn_type": "toapis", "host": emulator.url, "password": "sk-emulator"}

    outcome = airflow.api("POST", "connections/test", json=connection)

    assert outcome["status"] is True, outcome["message"]
    assert emulator.ledger()["posted"] == posted_before
