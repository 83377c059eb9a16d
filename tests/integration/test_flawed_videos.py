"""Videos that are not what was requested: the task warns or fails, the file stays, and nothing is billed twice."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred
from PIL import Image

from airflow_provider_toapis import media_check, media_probe, media_process
from airflow_provider_toapis.api.clock import StopSignal
from airflow_provider_toapis.api.video_request import ReferenceImage, VideoRequest
from airflow_provider_toapis.batch.row_job import RowJob
from airflow_provider_toapis.exceptions import (
    ToAPIsBatchError,
    ToAPIsConnectionError,
    ToAPIsVideoCheckError,
    ToAPIsWaitInterruptedError,
)
from airflow_provider_toapis.hooks.request_builder import request_without_images
from airflow_provider_toapis.media_check import Expected
from airflow_provider_toapis.operators.batch import ToAPIsVideoBatchOperator
from airflow_provider_toapis.operators.files import ToAPIsDownloadVideoOperator
from airflow_provider_toapis.operators.video import ToAPIsExtendVideoOperator, ToAPIsSubmitVideoOperator
from tests.airflow_task import FakeTaskInstance, attempt, deferral
from tests.errors import rejects
from tests.integration.conftest import Clock, image_url
from tests.integration.emulator_process import EmulatorProcess

#: The warnings of each flaw that the emulator can render.
FLAWS: dict[str, list[str]] = {
    "short": ["duration_mismatch: 2.0 s instead of 4 s"],
    "black_start": ["black_start: the first frame is nearly black or of one color"],
    "frozen": ["frozen: the start, the middle and the end show the same image"],
    "wrong_ratio": ["aspect_ratio_mismatch: 360x360 instead of 16:9"],
    "with_audio": [],
    "truncated": ["truncated: the last second cannot be decoded"],
}
REQUEST: dict[str, Any] = {"model": "grok-video-1.5", "duration": 4, "aspect_ratio": "16:9"}
EACH_FLAW = pytest.mark.parametrize("flaw", FLAWS)


@pytest.fixture(scope="module")
def rendered(running_emulator: EmulatorProcess) -> EmulatorProcess:
    """Render each flaw once, so that later videos are complete immediately."""
    running_emulator.reset()
    for flaw in [None, *FLAWS]:
        if flaw:
            running_emulator.add_fault(on="submit", kind="flaw", name=flaw)
        image = ReferenceImage.from_url(image_url(running_emulator))
        body = VideoRequest(prompt=f"Shoe {flaw}", images=(image,), **REQUEST).wire_body([str(image.url)])
        submitted = running_emulator.api("/v1/videos/generations", "POST", json=body)
        running_emulator.finish(submitted.raise_for_status().json()["id"])
    return running_emulator


@pytest.fixture(autouse=True)
def check_by_default(
    unchecked_videos: None, rendered: EmulatorProcess, service: EmulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRFLOW__TOAPIS__CHECK")


class Videos:
    """A directory, on local disk or in a bucket, in which tasks save their videos."""

    def __init__(self, path: str, read: Callable[[str], bytes], names: Callable[[], set[str]]) -> None:
        self.path = path
        self.read = read
        self.names = names


@pytest.fixture(params=["local", "s3"])
def videos(request: pytest.FixtureRequest, tmp_path: Path) -> Videos:
    if request.param == "local":
        return Videos(
            f"{tmp_path}/videos/",
            lambda name: (tmp_path / "videos" / name).read_bytes(),
            lambda: {file.name for file in (tmp_path / "videos").iterdir()},
        )
    client, bucket = request.getfixturevalue("s3_client"), f"videos-{uuid4().hex}"
    client.create_bucket(Bucket=bucket)
    return Videos(
        f"s3://aws_default@{bucket}/videos/",
        lambda name: client.get_object(Bucket=bucket, Key=f"videos/{name}")["Body"].read(),
        lambda: {item["Key"][7:] for item in client.list_objects_v2(Bucket=bucket)["Contents"]},
    )


ONLY_LOCAL = pytest.mark.parametrize("videos", ["local"], indirect=True)


def billed_count(service: EmulatorProcess) -> int:
    return len(service.ledger()["billed"])


class Task:
    """Runs attempts of one task."""

    def __init__(self, service: EmulatorProcess, output_path: str, **fields: Any) -> None:
        self.ti = FakeTaskInstance()
        self._fields: dict[str, Any] = {
            **REQUEST,
            "task_id": "video",
            "prompt": "The camera moves",
            "image": image_url(service),
            "output_path": output_path,
            "deferrable": False,
            **fields,
        }

    def make(self, **fields: Any) -> ToAPIsSubmitVideoOperator:
        return ToAPIsSubmitVideoOperator(**(self._fields | fields))

    def run(self, **fields: Any) -> Any:
        return attempt(lambda: self.make(**fields), self.ti)

    def retry(self, **fields: Any) -> Any:
        self.ti = self.ti.next_attempt()
        return self.run(**fields)


def receipt_of(videos: Videos, ti: FakeTaskInstance) -> dict[str, Any]:
    return dict(json.loads(videos.read(f"{ti.xcoms['client_business_id']}.json")))


class TestSingleVideo:
    @EACH_FLAW
    def test_warning_is_in_result_and_receipt(self, service: EmulatorProcess, videos: Videos, flaw: str) -> None:
        service.add_fault(on="submit", kind="flaw", name=flaw)
        task = Task(service, f"{videos.path}shoe.mp4", poster=True)
        result = task.run()
        assert result["warnings"] == FLAWS[flaw]
        assert result["media"]["has_audio"] is (flaw == "with_audio")
        assert result["poster_path"] == f"{videos.path}shoe.jpg"
        receipt = receipt_of(videos, task.ti)
        for name in ("media", "warnings", "poster_path"):
            assert receipt[name] == result[name]
        assert {"shoe.mp4", "shoe.jpg"} <= videos.names()
        assert billed_count(service) == 1

    @EACH_FLAW
    def test_failed_check_keeps_the_file_and_submits_nothing_again(
        self, service: EmulatorProcess, videos: Videos, flaw: str
    ) -> None:
        service.add_fault(on="submit", kind="flaw", name=flaw)
        task = Task(service, f"{videos.path}shoe.mp4", check="fail")
        if not FLAWS[flaw]:
            assert task.run()["warnings"] == []
            return
        for attempt_again in (task.run, task.retry, task.retry):
            with pytest.raises(ToAPIsVideoCheckError) as raised:
                attempt_again()
            assert isinstance(raised.value, AirflowFailException)
            assert raised.value.warnings == tuple(FLAWS[flaw])
            assert raised.value.path == f"{videos.path}shoe.mp4"
        assert videos.read("shoe.mp4")
        assert billed_count(service) == 1
        assert task.ti.xcoms["toapis_video"][0]["output_path"] == f"{videos.path}shoe.mp4"
        assert task.retry(check="warn")["warnings"] == FLAWS[flaw]

    def test_good_video_has_facts_and_no_warnings(
        self, service: EmulatorProcess, videos: Videos, logged: Callable[[], str]
    ) -> None:
        result = Task(service, f"{videos.path}shoe.mp4", check="fail").run()
        assert result["warnings"] == []
        assert result["media"] | {"bit_rate": None} == {
            "duration": 4.0, "width": 480, "height": 270, "fps": 24.0, "video_codec": "h264", "has_audio": False,
            "bit_rate": None,
        }  # fmt: skip
        assert f"({result['size']:,} bytes): 4.00 s, 480x270, 24 fps, no audio." in logged()

    @ONLY_LOCAL
    def test_check_off_measures_nothing(self, service: EmulatorProcess, videos: Videos) -> None:
        service.add_fault(on="submit", kind="flaw", name="short")
        result = Task(service, f"{videos.path}shoe.mp4", check="off").run()
        assert (result["media"], result["warnings"], result["poster_path"]) == (None, [], None)

    @ONLY_LOCAL
    def test_poster_without_check_has_no_warnings(self, service: EmulatorProcess, videos: Videos) -> None:
        service.add_fault(on="submit", kind="flaw", name="black_start")
        result = Task(service, f"{videos.path}shoe.mp4", check="off", poster=True).run()
        assert result["warnings"] == []
        with Image.open(result["poster_path"]) as poster:
            assert max(poster.convert("L").tobytes()) > 100

    @ONLY_LOCAL
    def test_saved_video_is_checked_after_a_process_died_during_the_check(
        self, service: EmulatorProcess, videos: Videos, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def die(*_: Any, **__: Any) -> Any:
            raise KeyboardInterrupt

        service.add_fault(on="submit", kind="flaw", name="short")
        task = Task(service, f"{videos.path}shoe.mp4", check="fail")
        with monkeypatch.context() as patch:
            patch.setattr("airflow_provider_toapis.operators.results.inspect_video", die)
            with pytest.raises(KeyboardInterrupt):
                task.run()
        service.advance(48 * 3600)
        service.clear_requests()
        with pytest.raises(ToAPIsVideoCheckError):
            task.retry()
        assert service.request_counts() == {}

    @ONLY_LOCAL
    def test_missing_poster_is_made_again_from_the_saved_video(self, service: EmulatorProcess, videos: Videos) -> None:
        task = Task(service, f"{videos.path}shoe.mp4", poster=True)
        poster = Path(task.run()["poster_path"])
        poster.unlink()
        assert task.retry()["poster_path"] == str(poster)
        assert poster.exists()
        assert billed_count(service) == 1

    @ONLY_LOCAL
    def test_source_image_with_the_name_of_the_poster_is_not_replaced(
        self, service: EmulatorProcess, videos: Videos, image_file: Path
    ) -> None:
        Path(videos.path).mkdir()
        photo = image_file.rename(Path(videos.path, "shoe.jpg"))
        before = photo.read_bytes()
        task = Task(service, f"{videos.path}shoe.mp4", image=str(photo), poster=True)
        for result in (task.run(), task.retry(), task.retry()):
            assert [warning.partition(":")[0] for warning in result["warnings"]] == ["no_poster"]
            assert result["media"] is not None
        assert photo.read_bytes() == before
        assert billed_count(service) == 1

    @ONLY_LOCAL
    def test_each_of_two_videos_with_one_poster_name_has_its_own_poster_or_none(
        self, service: EmulatorProcess, videos: Videos
    ) -> None:
        first = Task(service, f"{videos.path}shoe.mp4", poster=True)
        poster = Path(first.run()["poster_path"]).read_bytes()
        second = Task(service, f"{videos.path}shoe.mov", poster=True, prompt="Another one")
        assert second.run()["poster_path"] is None
        assert Path(first.retry()["poster_path"]).read_bytes() == poster

    @ONLY_LOCAL
    def test_strict_check_after_a_run_with_only_a_poster_compares_the_video(
        self, service: EmulatorProcess, videos: Videos
    ) -> None:
        service.add_fault(on="submit", kind="flaw", name="short")
        task = Task(service, f"{videos.path}shoe.mp4", check="off", poster=True)
        assert task.run()["media"] is None
        with pytest.raises(ToAPIsVideoCheckError):
            task.retry(check="fail")

    @ONLY_LOCAL
    def test_deviations_stay_if_a_later_check_for_the_poster_fails(
        self, service: EmulatorProcess, videos: Videos, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        service.add_fault(on="submit", kind="flaw", name="short")
        task = Task(service, f"{videos.path}shoe.mp4", check="fail")
        with pytest.raises(ToAPIsVideoCheckError):
            task.run()
        monkeypatch.setattr(media_probe, "TIME_LIMIT", 0)
        monkeypatch.setattr(media_process, "_GRACE_SECONDS", 0)
        with pytest.raises(ToAPIsVideoCheckError) as raised:
            task.retry(poster=True)
        assert raised.value.warnings == tuple(FLAWS["short"])
        receipt = receipt_of(videos, task.ti)
        assert receipt["media"]["duration"] == 2.0
        assert [warning.partition(":")[0] for warning in receipt["warnings"]] == ["duration_mismatch", "not_checked"]

    @ONLY_LOCAL
    def test_unreadable_file_stays_a_deviation_if_a_later_check_fails(
        self, service: EmulatorProcess, videos: Videos, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        task = Task(service, f"{videos.path}shoe.mp4", check="fail")
        with monkeypatch.context() as patch:
            patch.setattr(media_check, "measure", lambda *_, **__: {"unreadable": "damaged"})
            with pytest.raises(ToAPIsVideoCheckError):
                task.run()
        monkeypatch.setattr(media_probe, "TIME_LIMIT", 0)
        monkeypatch.setattr(media_process, "_GRACE_SECONDS", 0)
        with pytest.raises(ToAPIsVideoCheckError) as raised:
            task.retry()
        assert raised.value.warnings == ("unreadable: damaged",)

    @ONLY_LOCAL
    def test_poster_of_an_earlier_attempt_stays_in_the_result(self, service: EmulatorProcess, videos: Videos) -> None:
        task = Task(service, f"{videos.path}shoe.mp4", check="off", poster=True)
        poster = task.run()["poster_path"]
        result = task.retry(check="warn", poster=False)
        assert result["poster_path"] == poster
        assert result["media"] is not None

    @ONLY_LOCAL
    def test_warning_of_a_later_check_is_logged_once(
        self, service: EmulatorProcess, videos: Videos, caplog: pytest.LogCaptureFixture
    ) -> None:
        service.add_fault(on="submit", kind="flaw", name="short")
        task = Task(service, f"{videos.path}shoe.mp4", check="off")
        logged: list[str] = []
        for check in ("off", "warn", "warn"):
            operator = task.make(check=check)
            operator.log.warning = lambda text, *values: logged.append(text % values)  # type: ignore[method-assign]
            operator.execute(task.ti.context)
            task.ti = task.ti.next_attempt()
        assert sum(FLAWS["short"][0] in line for line in logged) == 1

    @ONLY_LOCAL
    @pytest.mark.parametrize("parameters", [{"seconds": 10}, {"duration": 10, "seconds": 4}])
    def test_ambiguous_length_is_not_compared(
        self, service: EmulatorProcess, videos: Videos, parameters: dict[str, int]
    ) -> None:
        task = Task(service, f"{videos.path}shoe.mp4", parameters=parameters)
        assert Expected.of(request_without_images(**task.make()._request_arguments())).duration is None

    @ONLY_LOCAL
    def test_receipt_that_cannot_be_updated_does_not_fail_the_task(
        self, service: EmulatorProcess, videos: Videos, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: Any) -> None:
            raise ToAPIsConnectionError("The disk is full.")

        monkeypatch.setattr("airflow_provider_toapis.operators.results.update_receipt", fail)
        task = Task(service, videos.path)
        for result in (task.run(), task.retry()):
            assert result["media"]["duration"] == 4.0

    @ONLY_LOCAL
    @pytest.mark.parametrize(("field", "value"), [("check", "fail"), ("poster", True)])
    def test_option_that_needs_a_saved_video_is_rejected_without_one(
        self, service: EmulatorProcess, videos: Videos, field: str, value: Any
    ) -> None:
        missing: dict[str, Any]
        for missing in ({"wait_for_completion": False}, {"output_path": None}):
            with rejects(field, value):
                Task(service, videos.path).run(**{field: value}, **missing)
        assert billed_count(service) == 0

    @ONLY_LOCAL
    def test_duration_in_parameters_is_compared(self, service: EmulatorProcess, videos: Videos) -> None:
        service.add_fault(on="submit", kind="flaw", name="short")
        result = Task(service, videos.path, duration=None, parameters={"duration": 4}).run()
        assert result["warnings"] == FLAWS["short"]

    @ONLY_LOCAL
    def test_length_of_an_extension_is_not_compared(self, service: EmulatorProcess, videos: Videos) -> None:
        source = Task(service, videos.path).run()
        operator = ToAPIsExtendVideoOperator(
            task_id="longer", video_id=source["id"], prompt="Go on", output_path=videos.path, deferrable=False
        )
        submitted = deferral_free(operator, service)
        assert submitted["warnings"] == []
        assert submitted["media"]["duration"] > 4

    @ONLY_LOCAL
    def test_download_reports_flaws_of_the_file_itself(self, service: EmulatorProcess, videos: Videos) -> None:
        service.add_fault(on="submit", kind="flaw", name="frozen")
        video = Task(service, videos.path).run()
        options: dict[str, Any] = {"task_id": "get", "video_id": video["id"], "output_path": f"{videos.path}copy/"}
        assert ToAPIsDownloadVideoOperator(**options).execute(FakeTaskInstance().context)["warnings"] == FLAWS["frozen"]
        for _ in range(2):
            with pytest.raises(ToAPIsVideoCheckError) as raised:
                ToAPIsDownloadVideoOperator(**options, check="fail").execute(FakeTaskInstance().context)
            assert raised.value.path == f"{videos.path}copy/{video['id']}.mp4"


def deferral_free(operator: Any, service: EmulatorProcess) -> Any:
    """Run a task that defers, and finish its video instead of running its trigger."""
    waiting = FakeTaskInstance(task_id=operator.task_id)
    operator.deferrable = True
    trigger = deferral(lambda: operator.execute(waiting.context)).trigger
    service.finish(trigger.video_id)
    event = {"status": "success", "video_id": trigger.video_id, "end_time": trigger.end_time, "message": ""}
    return operator.execute_complete(waiting.context, event)


class TestWithoutTheExtra:
    @pytest.fixture
    def no_packages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(media_check, "find_spec", lambda _: None)
        media_check._log_limited_check.cache_clear()

    @ONLY_LOCAL
    @pytest.mark.usefixtures("no_packages")
    def test_warn_checks_the_first_bytes_only_and_says_how_to_get_more(
        self, service: EmulatorProcess, videos: Videos, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        result = Task(service, videos.path).run()
        assert (result["media"], result["warnings"]) == (None, [])
        hints = [record for record in caplog.records if "airflow-provider-toapis[media]" in record.getMessage()]
        assert [record.levelname for record in hints] == ["INFO"]

    @ONLY_LOCAL
    @pytest.mark.usefixtures("no_packages")
    @pytest.mark.parametrize(("field", "value"), [("check", "fail"), ("poster", True)])
    def test_fail_and_poster_are_rejected_before_anything_is_billed(
        self, service: EmulatorProcess, videos: Videos, field: str, value: Any
    ) -> None:
        with rejects(field, value):
            Task(service, videos.path, **{field: value}).run()
        row = {"key": "shoe", "prompt": "x", "image": image_url(service)}
        batch = ToAPIsVideoBatchOperator(
            task_id="catalog", requests=[row], output_path=videos.path, deferrable=False, **{field: value}
        )
        with rejects(field, value):
            batch.execute(FakeTaskInstance(task_id="catalog").context)
        assert billed_count(service) == 0

    @ONLY_LOCAL
    def test_billed_video_is_not_given_up(
        self, service: EmulatorProcess, videos: Videos, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        task = Task(service, videos.path, check="fail", deferrable=True)
        waiting = deferral(lambda: task.make().execute(task.ti.context)).trigger
        monkeypatch.setattr(media_check, "find_spec", lambda _: None)
        with pytest.raises(ToAPIsWaitInterruptedError):
            task.retry()
        service.finish(waiting.video_id)
        event = {"status": "success", "video_id": waiting.video_id, "end_time": waiting.end_time, "message": ""}
        result = task.make().execute_complete(task.ti.context, event)
        assert [warning.partition(":")[0] for warning in result["warnings"]] == ["not_checked"]


class TestBatch:
    @pytest.fixture
    def run(self, service: EmulatorProcess, videos: Videos) -> Callable[..., Any]:
        runs: list[int] = []

        def run_nightly(rows: Any, **fields: Any) -> Any:
            runs.append(1)
            ti = FakeTaskInstance(task_id="catalog", run_id=f"scheduled__{len(runs)}")
            arguments = REQUEST | {"requests": rows, "output_path": videos.path, "deferrable": False} | fields
            return attempt(lambda: ToAPIsVideoBatchOperator(task_id="catalog", **arguments), ti)

        return run_nightly

    def rows(self, service: EmulatorProcess) -> list[dict[str, Any]]:
        return [{"key": flaw, "prompt": f"Shoe {flaw}.", "image": image_url(service)} for flaw in [*FLAWS, "good"]]

    def add_flaws(self, service: EmulatorProcess) -> None:
        for flaw in FLAWS:
            service.add_fault(on="submit", kind="flaw", name=flaw, match=f"Shoe {flaw}.", times=-1)

    def manifest(self, videos: Videos) -> dict[str, dict[str, Any]]:
        lines = map(json.loads, videos.read("manifest.jsonl").decode().splitlines())
        return {line["key"]: line for line in lines}

    def manifest_parts(self, videos: Videos) -> dict[str, Any]:
        """Return the newest line of each row, including lines in parts of the manifest."""
        files = [Path(videos.path, "manifest.jsonl"), *Path(videos.path, ".manifest").glob("*.jsonl")]
        lines = [json.loads(line) for file in files if file.exists() for line in file.read_text().splitlines()]
        return {
            line["key"]: line for line in sorted(lines, key=lambda line: str(line.get("updated_at"))) if "key" in line
        }

    def test_warnings_and_posters_are_in_the_manifest(
        self, service: EmulatorProcess, videos: Videos, run: Callable[..., Any]
    ) -> None:
        self.add_flaws(service)
        result = run(self.rows(service), poster=True)
        assert (result["saved"], result["failed"], result["videos_with_warnings"]) == (7, 0, 5)
        lines = self.manifest(videos)
        assert {key: line["warnings"] for key, line in lines.items()} == FLAWS | {"good": []}
        assert {line["state"] for line in lines.values()} == {"saved"}
        assert {line["poster_path"] for line in lines.values()} == {f"{key}.jpg" for key in lines}
        assert {f"{key}.jpg" for key in lines} <= videos.names()
        page = videos.read("index.html").decode()
        assert "./short.jpg" in page
        assert FLAWS["short"][0] in page
        assert run(self.rows(service))["unchanged"] == 7
        assert billed_count(service) == 7

    def test_row_with_a_failed_check_is_submitted_again_only_after_a_change(
        self, service: EmulatorProcess, videos: Videos, run: Callable[..., Any]
    ) -> None:
        self.add_flaws(service)
        result = run(self.rows(service), check="fail", max_failures=10)
        assert (result["saved"], result["failed"], result["cost_usd"]) == (2, 5, pytest.approx(7 * price(service)))
        lines = self.manifest(videos)
        flawed = {flaw for flaw, warnings in FLAWS.items() if warnings}
        assert {key for key, line in lines.items() if line["state"] == "failed"} == flawed
        assert {f"{key}.mp4" for key in lines} <= videos.names()
        assert run(self.rows(service), check="fail", max_failures=0)["unchanged"] == 7
        assert billed_count(service) == 7
        service.clear_faults()
        changed = [row | {"revision": 2} if row["key"] == "short" else row for row in self.rows(service)]
        assert run(changed, check="fail", max_failures=0)["saved"] == 1
        assert billed_count(service) == 8
        assert self.manifest(videos)["short"]["state"] == "saved"

    @ONLY_LOCAL
    def test_image_of_a_row_with_the_name_of_a_poster_is_not_replaced(
        self, service: EmulatorProcess, videos: Videos, run: Callable[..., Any], image_file: Path
    ) -> None:
        Path(videos.path).mkdir()
        photo = image_file.rename(Path(videos.path, "good.jpg"))
        rows = [{"key": "good", "prompt": "Shoe good.", "image": str(photo)}]
        run(rows, poster=True)
        assert run(rows, poster=True)["unchanged"] == 1
        assert billed_count(service) == 1

    @ONLY_LOCAL
    def test_video_is_recorded_before_its_check_and_checked_by_the_next_run(
        self,
        service: EmulatorProcess,
        videos: Videos,
        run: Callable[..., Any],
        clock: Clock,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def die(*_: Any, **__: Any) -> Any:
            raise KeyboardInterrupt

        self.add_flaws(service)
        rows = self.rows(service)[:1]
        with monkeypatch.context() as patch:
            patch.setattr("airflow_provider_toapis.batch.row_job.inspect_video", die)
            assert run(rows, check="fail")["saved"] == 1
        assert self.manifest(videos)["short"]["check_pending"]
        clock.sleep(48 * 3600)
        assert run(rows, check="fail")["unchanged"] == 1
        line = self.manifest(videos)["short"]
        assert (line["state"], line["warnings"], line["check_pending"]) == ("failed", FLAWS["short"], False)
        assert billed_count(service) == 1

    @ONLY_LOCAL
    def test_deleted_file_of_a_failed_check_is_not_made_again(
        self, service: EmulatorProcess, videos: Videos, run: Callable[..., Any]
    ) -> None:
        self.add_flaws(service)
        rows = self.rows(service)[:1]
        run(rows, check="fail", max_failures=1)
        Path(videos.path, "short.mp4").unlink()
        service.advance(48 * 3600)
        assert run(rows, check="fail", max_failures=0)["unchanged"] == 1
        assert billed_count(service) == 1

    @ONLY_LOCAL
    def test_failed_check_is_accepted_by_a_run_that_only_warns(
        self, service: EmulatorProcess, videos: Videos, run: Callable[..., Any]
    ) -> None:
        self.add_flaws(service)
        rows = self.rows(service)[:1]
        run(rows, check="fail", max_failures=1)
        assert run(rows, check="warn", max_failures=0)["unchanged"] == 1
        assert self.manifest(videos)["short"]["state"] == "saved"

    @ONLY_LOCAL
    def test_failed_check_of_a_deleted_file_is_not_accepted(
        self, service: EmulatorProcess, videos: Videos, run: Callable[..., Any]
    ) -> None:
        self.add_flaws(service)
        rows = self.rows(service)[:1]
        run(rows, check="fail", max_failures=1)
        Path(videos.path, "short.mp4").unlink()
        service.advance(48 * 3600)
        for check in ("warn", "off", "fail"):
            assert run(rows, check=check, max_failures=0)["unchanged"] == 1
        assert billed_count(service) == 1

    @ONLY_LOCAL
    def test_video_that_another_run_submits_during_a_check_stays_recorded(
        self, service: EmulatorProcess, videos: Videos, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rows = self.rows(service)[-1:]
        changed = [rows[0] | {"revision": 2}]
        inspect = media_check.inspect_video

        def submit_meanwhile(*arguments: Any, **options: Any) -> Any:
            monkeypatch.setattr("airflow_provider_toapis.batch.row_job.inspect_video", inspect)
            with pytest.raises(TaskDeferred):
                run_one_step(changed)
            return inspect(*arguments, **options)

        def run_one_step(rows: Any) -> None:
            operator = ToAPIsVideoBatchOperator(
                task_id="catalog", requests=rows, output_path=videos.path, deferrable=True, **REQUEST
            )
            operator.execute(FakeTaskInstance(task_id="catalog", run_id="meanwhile").context)

        monkeypatch.setattr("airflow_provider_toapis.batch.row_job.inspect_video", submit_meanwhile)
        run(rows)
        line = self.manifest_parts(videos)["good"]
        assert (line["submission"]["state"], line["superseded"]) == ("submitted", [])
        assert line["media"] is not None
        assert billed_count(service) == 2

    @ONLY_LOCAL
    def test_check_that_ends_after_a_kill_is_made_again(
        self,
        service: EmulatorProcess,
        videos: Videos,
        run: Callable[..., Any],
        clock: Clock,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        killed: list[bool] = []
        check = RowJob.check

        def kill_meanwhile(self: RowJob, *arguments: Any) -> Any:
            killed.append(True)
            return check(self, *arguments)

        self.add_flaws(service)
        rows = self.rows(service)[:1]
        with monkeypatch.context() as patch:
            patch.setattr(RowJob, "check", kill_meanwhile)
            patch.setattr(StopSignal, "is_set", property(lambda _: bool(killed)))
            with suppress(Exception):
                run(rows, check="fail")
        assert killed
        clock.sleep(3600)
        run(rows, check="fail", max_failures=1)
        assert self.manifest(videos)["short"]["warnings"] == FLAWS["short"]
        assert billed_count(service) == 1

    @ONLY_LOCAL
    def test_video_found_under_its_claim_is_compared(
        self, service: EmulatorProcess, videos: Videos, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        submit = RowJob.submit

        def die_after_submission(self: RowJob, entry: Any, row: Any) -> Any:
            submit(self, entry, row)
            raise KeyboardInterrupt

        self.add_flaws(service)
        rows = self.rows(service)[:1]
        with monkeypatch.context() as patch:
            patch.setattr(RowJob, "submit", die_after_submission)
            with pytest.raises(KeyboardInterrupt):
                run(rows, check="fail")
        run(rows, check="fail", max_failures=1)
        assert self.manifest(videos)["short"]["warnings"] == FLAWS["short"]
        assert billed_count(service) == 1

    @ONLY_LOCAL
    def test_too_many_failed_checks_fail_the_run_and_name_the_warning(
        self, service: EmulatorProcess, run: Callable[..., Any]
    ) -> None:
        service.add_fault(on="submit", kind="flaw", name="short")
        with pytest.raises(ToAPIsBatchError, match="duration_mismatch"):
            run(self.rows(service)[:1], check="fail", max_failures=0)


def price(service: EmulatorProcess) -> float:
    """Return the price of one video, which all videos of these tests have."""
    (cost,) = {float(video["cost_usd"]) for video in service.ledger()["billed"]}
    return cost
