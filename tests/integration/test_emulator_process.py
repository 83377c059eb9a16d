"""The emulator command: options, start, stop, crash, and many clients at once."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import httpx
import pytest
from PIL import Image

from tests.integration.emulator_process import EmulatorProcess

GENERATIONS = "/v1/videos/generations"
SUBMISSION = {
    "model": "grok-video-1.5",
    "prompt": "push in",
    "video_generation_mode": "text_to_video",
    "duration": 1,
}


def submit(emulator: EmulatorProcess, **fields: Any) -> dict[str, Any]:
    response = emulator.api(GENERATIONS, "POST", json=SUBMISSION | fields)
    assert response.status_code == 200, response.text
    return dict(response.json())


def until_completed(emulator: EmulatorProcess, *video_ids: str, retry_timeout: float = 180) -> list[dict[str, Any]]:
    deadline = time.monotonic() + retry_timeout
    finished: list[dict[str, Any]] = []
    for video_id in video_ids:
        while (body := emulator.api(f"{GENERATIONS}/{video_id}").json())["status"] != "completed":
            assert body["status"] in {"queued", "in_progress"}, body
            assert time.monotonic() < deadline, body
            time.sleep(0.1)
        finished.append(body)
    return finished


def run_command(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "airflow_provider_toapis.emulator", *options],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_sixty_concurrent_submissions_all_complete_while_polls_get_responses() -> None:
    colors = [(4 * number, 255 - 4 * number, (37 * number) % 256) for number in range(60)]
    with EmulatorProcess(latency=2, submit_rps=0, query_rps=0) as emulator:

        def submit_image(color: tuple[int, int, int]) -> str:
            buffer = io.BytesIO()
            Image.new("RGB", (320, 180), color).save(buffer, "PNG")
            uploaded = emulator.api("/v1/uploads/images", "POST", files={"file": ("a.png", buffer.getvalue())})
            body = {"model": "grok-video-1.5", "prompt": "x", "image": uploaded.json()["data"]["url"], "duration": 3}
            return str(emulator.api(GENERATIONS, "POST", json=body).json()["id"])

        with ThreadPoolExecutor(60) as clients:
            video_ids = list(clients.map(submit_image, colors))
        statuses = [emulator.api(f"{GENERATIONS}/{video_id}").json()["status"] for video_id in video_ids]
        finished = until_completed(emulator, *video_ids)
        ledger = emulator.ledger()
        shown = []
        for body in finished:
            with av.open(io.BytesIO(emulator.get(body["result"]["data"][0]["url"]).content), "r") as container:
                frame = next(container.decode(video=0)).to_image()  # type: ignore[no-untyped-call]
                shown.append(frame.resize((1, 1)).getpixel((0, 0)))

    assert set(statuses) <= {"queued", "in_progress", "completed"}
    assert len(set(video_ids)) == ledger["posted"] == ledger["count"] == 60
    assert {line["status"] for line in ledger["billed"]} == {"settled"}
    for color, pixel in zip(colors, shown, strict=True):
        assert isinstance(pixel, tuple)
        assert max(abs(one - other) for one, other in zip(color, pixel, strict=True)) < 16


def test_killed_emulator_finishes_its_tasks_after_a_restart(tmp_path: Path) -> None:
    emulator = EmulatorProcess(data_dir=tmp_path, latency=3)
    emulator.start()
    image = emulator.get("/shop/products").json()["products"][0]["image"]
    upload = emulator.api("/v1/uploads/images", "POST", files={"file": ("a.png", b"\x89PNG\r\n\x1a\n")}).json()
    done = emulator.finish(submit(emulator, client_business_id="done")["id"])
    in_progress = [
        submit(emulator, client_business_id="text", duration=15, prompt="killed during rendering"),
        submit(
            emulator,
            client_business_id="image",
            image=image,
            duration=15,
            video_generation_mode="first_frame_image_to_video",
        ),
    ]
    failed = submit(emulator, client_business_id="failed")
    emulator.finish(failed["id"], "failed")
    emulator.advance(100)
    before = emulator.ledger()
    emulator.kill()

    with EmulatorProcess(data_dir=tmp_path, latency=3) as restarted:
        finished = until_completed(restarted, *(video["id"] for video in in_progress))
        after = restarted.ledger()
        lengths = []
        for body in finished:
            with av.open(io.BytesIO(restarted.get(body["result"]["data"][0]["url"]).content), "r") as container:
                assert container.duration is not None
                lengths.append(container.duration / av.time_base)
        repeated = submit(restarted, client_business_id="text")
        restored = restarted.api(f"{GENERATIONS}/done").json()
        upload_path = upload["data"]["url"].removeprefix(emulator.url)

        assert restarted.get(upload_path).status_code == 200
        assert restarted.get(f"/files/videos/{done['id']}/output.mp4").status_code == 200
        assert restored["id"] == done["id"]
        assert restarted.control("clock")["offset"] == 100
        assert restarted.ledger()["posted"] == 4
    assert repeated["id"] == in_progress[0]["id"]
    assert lengths == pytest.approx([15, 15], abs=0.1)
    assert [line["id"] for line in after["billed"]] == [line["id"] for line in before["billed"]]
    assert after["total_usd"] == before["total_usd"]


def test_without_replay_every_submission_is_a_new_video() -> None:
    with EmulatorProcess(latency=600, no_replay=True) as emulator:
        first, second = (submit(emulator, client_business_id="order-1") for _ in range(2))

        assert first["id"] != second["id"]
        assert emulator.ledger()["posted"] == 2
        assert emulator.api(f"{GENERATIONS}/order-1").json()["id"] == second["id"]


def test_lookup_by_client_business_id_can_lag() -> None:
    with EmulatorProcess(latency=600, lookup_lag=30, no_remix_ids=True, no_progress=True) as emulator:
        video = submit(emulator, client_business_id="order-1")

        assert emulator.api(f"{GENERATIONS}/order-1").status_code == 404
        assert emulator.api(f"{GENERATIONS}/{video['id']}").status_code == 200
        emulator.advance(300)
        assert emulator.api(f"{GENERATIONS}/order-1").json()["id"] == video["id"]
        assert emulator.api(f"{GENERATIONS}/order-1").json()["progress"] == 0

        emulator.finish(video["id"])
        body = {"model": "grok-video-1.0", "prompt": "x", "client_business_id": "remix-1"}
        remix = emulator.api(f"/v1/videos/{video['id']}/remix", "POST", json=body).json()
        emulator.advance(300)
        assert "client_business_id" not in remix
        assert emulator.api(f"{GENERATIONS}/remix-1").status_code == 404


def test_default_rate_limits_are_those_of_the_default_group() -> None:
    with EmulatorProcess(latency=600, balance=1000) as emulator:
        responses = [emulator.api(GENERATIONS, "POST", json=SUBMISSION) for _ in range(80)]
        codes = [response.status_code for response in responses]
        query = emulator.api(f"{GENERATIONS}/video_unknown")
        limited = responses[codes.index(429)]
        unlimited = emulator.api("/v1/balance")

        assert codes[:50] == [200] * 50
        assert emulator.ledger()["posted"] == codes.count(200)
        assert responses[0].headers["x-ratelimit-limit"] == "300"
        assert responses[0].headers["x-ratelimit-category"] == "async_submit"
        assert limited.json()["error"]["code"] == "rate_limit_exceeded"
        assert int(limited.headers["retry-after"]) >= 1
        assert (query.headers["x-ratelimit-limit"], query.headers["x-ratelimit-remaining"]) == ("3000", "499")
        assert "x-ratelimit-limit" not in unlimited.headers


def test_scenario_adds_faults_at_the_start(tmp_path: Path) -> None:
    scenario = tmp_path / "scenario.json"
    scenario.write_text(json.dumps([{"on": "balance", "kind": "error", "name": "unauthorized"}]))

    with EmulatorProcess(scenario=scenario) as emulator:
        assert [emulator.api("/v1/balance").status_code for _ in range(2)] == [401, 200]


def test_malformed_scenario_is_rejected(tmp_path: Path) -> None:
    scenario = tmp_path / "scenario.json"
    scenario.write_text('[{"on": "balance", "kind": "gremlin"}]')

    ended = run_command("--port", "0", "--scenario", str(scenario))

    assert ended.returncode == 2
    assert "--scenario" in ended.stderr
    assert "gremlin" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_port_in_use_is_reported_in_one_line() -> None:
    with EmulatorProcess() as emulator:
        port = httpx.URL(emulator.url).port

        ended = run_command("--port", str(port))

    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert f"127.0.0.1:{port}" in ended.stderr


def test_unusable_data_directory_is_reported_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")

    ended = run_command("--port", "0", "--data-dir", str(file))

    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert str(file) in ended.stderr


def test_emulator_imports_neither_airflow_nor_the_rest_of_the_package() -> None:
    script = (
        "import sys, airflow_provider_toapis.emulator.command;"
        "print(*(name for name in sys.modules if name.startswith('airflow')))"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)

    foreign = [name for name in ended.stdout.split() if not name.startswith("airflow_provider_toapis.emulator")]
    # Python loads these modules when it imports the package itself.
    own = {"", ".get_provider_info", ".api", ".api.defaults"}
    assert set(foreign) <= {f"airflow_provider_toapis{name}" for name in own}


def test_missing_extra_is_reported_in_one_line() -> None:
    script = (
        "import runpy, sys; sys.modules['uvicorn'] = None;"
        "runpy.run_module('airflow_provider_toapis.emulator', run_name='__main__')"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)

    assert ended.returncode == 2
    assert ended.stderr == "The ToAPIs emulator needs uvicorn: pip install 'airflow-provider-toapis[emulator]'\n"


def test_stop_during_rendering_is_prompt_and_removes_the_temporary_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    emulator = EmulatorProcess(latency=1)
    emulator.start()
    for number in range(12):
        submit(emulator, prompt=f"video {number}", duration=15)
    assert list(tmp_path.iterdir()) != []
    started = time.monotonic()

    code = emulator.stop()

    assert code == 0
    # Twelve videos of 15 seconds take far longer to render.
    assert time.monotonic() - started < 15
    assert list(tmp_path.iterdir()) == []
