"""OpenLineage events of a video."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from airflow.providers.common.compat.sdk import BaseOperator
from airflow.providers.openlineage.extractors.base import DefaultExtractor
from airflow.providers.openlineage.utils.utils import OpenLineageRedactor
from openlineage.client.serde import Serde

import airflow_provider_toapis
from airflow_provider_toapis.assets import VideoMetadata
from airflow_provider_toapis.lineage import FACET, SCHEMA_URL, lineage

VIDEO = VideoMetadata(
    video_id="video_1",
    model="grok-video-1.5",
    prompt_sha256=None,
    path="s3://bucket/videos/video_1.mp4",
    sha256="ab" * 32,
    size=7,
    duration=6,
    price_usd=0.5,
    source_image="gs://shop/images/shoe.jpg",
)


def facet_of(metadata: VideoMetadata) -> dict[str, Any]:
    """Return the facet as it is sent, after Airflow's redaction."""
    facet = OpenLineageRedactor().redact(lineage([metadata]).run_facets[FACET])
    sent: dict[str, Any] = Serde.to_dict(facet)
    return sent


@pytest.mark.parametrize(
    ("file", "namespace", "name"),
    [
        ("s3://bucket/a b/shoe.jpg", "s3://bucket", "a b/shoe.jpg"),
        ("s3://aws_default@bucket/shoe?1#2.jpg", "s3://bucket", "shoe?1#2.jpg"),
        ("gs://bucket/shoe.jpg", "gs://bucket", "shoe.jpg"),
        ("/shop/my shoe.jpg", "file", "/shop/my shoe.jpg"),
        ("file:///shop/my%20shoe.jpg", "file", "/shop/my shoe.jpg"),
        ("https://shop.example:8443/a/shoe.jpg?token=secret#x", "https://shop.example:8443", "/a/shoe.jpg"),
        ("HTTPS://shop.example?id=7", "https://shop.example", ""),
    ],
)
def test_datasets_follow_the_openlineage_naming(file: str, namespace: str, name: str) -> None:
    result = lineage([replace(VIDEO, path=file, source_image=file)])
    for dataset in (*result.inputs, *result.outputs):
        assert (dataset.namespace, dataset.name) == (namespace, name)
    assert (len(result.inputs), len(result.outputs)) == (1, 1)


def test_relative_path_is_named_from_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (dataset,) = lineage([replace(VIDEO, path="out/video_1.mp4")]).outputs
    assert (dataset.namespace, dataset.name) == ("file", f"{tmp_path}/out/video_1.mp4")


def test_every_image_is_an_input() -> None:
    result = lineage([replace(VIDEO, source_image=("/shop/a.jpg", "/shop/b.jpg"))])
    assert [dataset.name for dataset in result.inputs] == ["/shop/a.jpg", "/shop/b.jpg"]


def test_unsaved_video_without_image_has_its_facet() -> None:
    result = lineage([replace(VIDEO, path=None, source_image=None)])
    assert (result.inputs, result.outputs) == ([], [])
    assert set(result.run_facets) == {"toapis_video"}


def test_facet_contains_video_price_and_producer() -> None:
    assert facet_of(VIDEO) == {
        "_producer": f"urn:airflow-provider-toapis:{airflow_provider_toapis.__version__}",
        "_schemaURL": SCHEMA_URL,
        "video_id": "video_1",
        "model": "grok-video-1.5",
        "price_usd": 0.5,
        "duration": 6,
        "sha256": "ab" * 32,
        "size": 7,
        "warnings": [],
    }


def test_facet_matches_the_shipped_schema() -> None:
    text = resources.files(airflow_provider_toapis).joinpath("toapis_video_run_facet.json").read_text(encoding="utf-8")
    schema = json.loads(text)
    identity, _, pointer = SCHEMA_URL.partition("#/$defs/")
    assert schema["$id"] == identity
    definition = schema["$defs"][pointer]["allOf"][1]
    empty_video = replace(
        VIDEO, model=None, price_usd=None, duration=None, path=None, sha256=None, size=None, source_image=None
    )
    for metadata in (VIDEO, empty_video):
        sent = facet_of(metadata)
        jsonschema.validate(sent, definition)
        assert {name for name in sent if not name.startswith("_")} <= definition["properties"].keys()


def test_airflow_extracts_the_lineage_of_an_operator() -> None:
    class Operator(BaseOperator):
        def get_openlineage_facets_on_complete(self, task_instance: object) -> object:
            return lineage([VIDEO])

    extracted = DefaultExtractor(Operator(task_id="video")).extract_on_complete(object())
    assert extracted is not None
    assert (extracted.inputs, extracted.outputs) == (lineage([VIDEO]).inputs, lineage([VIDEO]).outputs)
    assert set(extracted.run_facets) == {FACET}


def test_operators_do_not_import_openlineage() -> None:
    code = """
import sys
from airflow.providers.common.compat.sdk import DAG
before = set(sys.modules)
import airflow_provider_toapis.operators.video, airflow_provider_toapis.operators.files
import airflow_provider_toapis.links.video, airflow_provider_toapis.assets
added = set(sys.modules) - before
print([name for name in added if "openlineage" in name or name == "airflow_provider_toapis.lineage"])
"""
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.splitlines()[-1] == "[]"


def test_several_videos_share_images_and_have_no_facet() -> None:
    result = lineage([VIDEO, replace(VIDEO, video_id="video_2", path="/videos/2.mp4")])
    assert len(result.inputs) == 1
    assert [file.name for file in result.outputs][-1] == "/videos/2.mp4"
    assert result.run_facets == {}
