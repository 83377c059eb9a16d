"""The JSON samples of docs/data.md have the fields and types of what the provider writes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import Asset

from airflow_provider_toapis.batch.directory import Directory
from airflow_provider_toapis.batch.manifest_entry import Review, time_now
from airflow_provider_toapis.batch.reviews import Reviews
from airflow_provider_toapis.operators.batch import ToAPIsVideoBatchOperator
from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator
from tests.airflow_task import FakeTaskInstance, attempt
from tests.integration.conftest import PROMPT, Clock
from tests.integration.emulator_process import EmulatorProcess

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
_SAMPLE = re.compile(r"^<!-- sample: (?P<name>[\w-]+) -->\n```json\n(?P<json>.*?)^```$", re.M | re.S)


def shown_samples() -> dict[str, Any]:
    return {found["name"]: json.loads(found["json"]) for found in _SAMPLE.finditer(PAGE.read_text(encoding="utf-8"))}


@pytest.fixture
def written_samples(service: EmulatorProcess, clock: Clock, image: str, tmp_path: Path) -> dict[str, Any]:
    """Return the data that one video and one batch write."""
    videos = Asset("file:///videos")
    ti = FakeTaskInstance(task_id="make_video")

    def make_video() -> ToAPIsSubmitVideoOperator:
        return ToAPIsSubmitVideoOperator(
            task_id="make_video",
            prompt=PROMPT,
            image=image,
            duration=10,
            output_path=f"{tmp_path}/sneaker.mp4",
            check="warn",
            poster=True,
            deferrable=True,
            outlets=[videos],
        )

    xcom = attempt(make_video, ti)
    (receipt,) = (file for file in tmp_path.glob("*.json") if not file.name.startswith("."))
    directory = tmp_path / "catalog"
    rows = [{"key": "sku-1", "prompt": PROMPT, "image": image}, {"key": "sku-2", "prompt": "", "image": image}]

    def make_videos(*, dry_run: bool = False) -> ToAPIsVideoBatchOperator:
        feed = rows if dry_run else rows[:1]
        return ToAPIsVideoBatchOperator(
            task_id="make_videos",
            requests=feed,
            output_path=str(directory),
            check="warn",
            poster=True,
            dry_run=dry_run,
            deferrable=False,
        )

    plan = attempt(lambda: make_videos(dry_run=True), FakeTaskInstance(task_id="make_videos"))
    batch = FakeTaskInstance(task_id="make_videos")
    result = attempt(make_videos, batch)
    review = add_review(directory)
    attempt(make_videos, FakeTaskInstance(task_id="make_videos", run_id="after the review"))
    return {
        "xcom": xcom,
        "generations": ti.xcoms["toapis_video"],
        "receipt": json.loads(receipt.read_text(encoding="utf-8")),
        "asset": dict(ti.outlet_events[videos].extra),
        "dry-run": plan,
        "batch-result": result,
        "batch-state": batch.xcoms["toapis_batch"],
        "review": json.loads(review.read_text(encoding="utf-8")),
        "manifest-line": json.loads((directory / "manifest.jsonl").read_text(encoding="utf-8").splitlines()[-1]),
    }


def add_review(directory: Path) -> Path:
    """Approve the video of the batch; return the file of the review."""
    (line,) = (directory / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    review = Review("approve", json.loads(line)["video_id"], "The sole is sharp.", "ann", time_now())
    return Path(Reviews(Directory(str(directory))).add("sku-1", review))


def test_samples_have_fields_and_types_of_what_is_written(written_samples: dict[str, Any]) -> None:
    shown = shown_samples()
    assert shown.keys() == written_samples.keys()
    for name, sample in shown.items():
        assert shape(sample) == shape(written_samples[name]), name


def shape(value: Any) -> Any:
    """Return a JSON value with the types in place of the values."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    if isinstance(value, list):
        return [shape(each) for each in value]
    return type(value).__name__
