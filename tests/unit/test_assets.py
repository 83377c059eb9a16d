"""Asset events of a task that generated a video."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import Any, cast

import pytest
from airflow.providers.common.compat.sdk import Asset, AssetAlias, Context

from airflow_provider_toapis import version_compat
from airflow_provider_toapis.assets import VideoMetadata, describe_outlets
from airflow_provider_toapis.version_compat import alias_event_extra
from tests.airflow_task import outlet_events

VIDEO = VideoMetadata(
    video_id="video_1",
    model="grok-video-1.5",
    prompt_sha256=None,
    path="s3://bucket/videos/video_1.mp4",
    sha256="ab" * 32,
    size=7,
    duration=6,
    price_usd=0.5,
    source_image="s3://bucket/shoe.jpg",
)
VIDEOS = AssetAlias("videos")


def context() -> Context:
    """Return a task's context with Airflow's own outlet events."""
    return cast("Context", {"outlet_events": outlet_events()})


def aliased(of: Context) -> list[tuple[str, dict[str, Any]]]:
    """Return the URIs of the alias's assets, with the extra of their events."""
    accessor: Any = of["outlet_events"][VIDEOS]
    if hasattr(accessor, "asset_alias_events"):
        return [(event.dest_asset_key.uri, event.extra) for event in accessor.asset_alias_events]
    # Airflow stores the extra as JSON, in which the tuples of Airflow 2 are lists.
    return [
        (event["dest_dataset_uri"], json.loads(json.dumps(event["extra"]))) for event in accessor.dataset_alias_events
    ]


def test_asset_event_contains_video_metadata() -> None:
    asset, task_context = Asset(uri="s3://bucket/videos"), context()
    task_context["outlet_events"][asset].extra["season"] = "winter"
    describe_outlets(task_context, [asset], [VIDEO])
    assert task_context["outlet_events"][asset].extra == VIDEO.as_dict() | {"season": "winter"}


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("s3://bucket/videos/video_1.mp4", "s3://bucket/videos/video_1.mp4"),
        ("s3://aws_default@bucket/videos/video_1.mp4", "s3://bucket/videos/video_1.mp4"),
        ("/videos/video_1.mp4", "file:///videos/video_1.mp4"),
    ],
)
def test_alias_gets_saved_file_as_asset_with_metadata(path: str, uri: str) -> None:
    task_context, manifest = context(), replace(VIDEO, path=path)
    describe_outlets(task_context, [VIDEOS], [manifest])
    assert aliased(task_context) == [(uri, manifest.as_dict())]


def test_each_mapped_task_instance_names_its_own_video() -> None:
    for name in ("video_1", "video_2"):
        task_context = context()
        describe_outlets(task_context, [VIDEOS], [replace(VIDEO, video_id=name, path=f"/videos/{name}.mp4")])
        ((uri, extra),) = aliased(task_context)
        assert (uri, extra["video_id"]) == (f"file:///videos/{name}.mp4", name)


def test_unsaved_video_adds_nothing_to_alias_and_logs_the_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asset, task_context = Asset(uri="s3://bucket/videos"), context()
    with caplog.at_level(logging.INFO):
        describe_outlets(task_context, [VIDEOS, asset], [replace(VIDEO, path=None)])
    assert aliased(task_context) == []
    assert [(record.levelname, record.args) for record in caplog.records] == [("INFO", (VIDEOS.name, "video_1"))]
    assert task_context["outlet_events"][asset].extra["video_id"] == "video_1"


def test_uri_that_airflow_rejects_logs_warning_and_does_not_fail_task(caplog: pytest.LogCaptureFixture) -> None:
    task_context = context()
    describe_outlets(task_context, [VIDEOS], [replace(VIDEO, path=f"s3://bucket/{'a' * 5000}.mp4")])
    assert aliased(task_context) == []
    (warning,) = caplog.records
    assert warning.levelname == "WARNING"
    assert isinstance(warning.args, tuple)
    assert warning.args[0] == VIDEOS.name


def test_outlets_of_other_types_are_ignored() -> None:
    task_context = context()
    describe_outlets(task_context, ["a table", object()], [VIDEO])
    assert len(task_context["outlet_events"]) == 0


def test_task_without_outlets_needs_no_events() -> None:
    describe_outlets(cast("Context", {}), [], [VIDEO])


def test_asset_event_of_several_videos_contains_all_metadata() -> None:
    asset, task_context, second = Asset(uri="s3://bucket/videos"), context(), replace(VIDEO, path="/videos/2.mp4")
    describe_outlets(task_context, [asset, VIDEOS], [VIDEO, second])
    assert task_context["outlet_events"][asset].extra == {"videos": [VIDEO.as_dict(), second.as_dict()]}
    assert [uri for uri, _ in aliased(task_context)] == ["s3://bucket/videos/video_1.mp4", "file:///videos/2.mp4"]


def test_airflow_2_alias_event_extra_is_hashable(monkeypatch: pytest.MonkeyPatch) -> None:
    media = {"duration": 4.0, "has_audio": False}
    extra = replace(VIDEO, source_image=("a.jpg", "b.jpg"), media=media, warnings=("frozen: x",)).as_dict()
    monkeypatch.setattr(version_compat, "_RELEASE", (3, 0, 0))
    assert alias_event_extra(extra) == extra
    monkeypatch.setattr(version_compat, "_RELEASE", (2, 11, 2))
    older = alias_event_extra(extra)
    assert len(frozenset(older.items())) == len(extra)
    assert json.loads(json.dumps(older)) == extra
