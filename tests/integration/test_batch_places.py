"""A catalog in a bucket, with its feed in the bucket too; and pictures whose hosts tell their versions."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from airflow_provider_toapis.exceptions import ToAPIsRequestError
from airflow_provider_toapis.operators.batch import ToAPIsVideoBatchOperator
from tests.airflow_task import FakeTaskInstance, attempt
from tests.integration.conftest import PROMPT
from tests.integration.emulator_process import EmulatorProcess
from tests.integration.places import aws_connection, s3_client_at, s3_server

BUCKET = "shop"
VIDEOS = f"s3://aws_default@{BUCKET}/videos/"


def night(number: int, requests: Any, **fields: Any) -> Any:
    operator = {"task_id": "catalog", "requests": requests, "deferrable": False, **fields}
    ti = FakeTaskInstance(task_id="catalog", run_id=f"scheduled__{number}")
    return attempt(lambda: ToAPIsVideoBatchOperator(**operator), ti)


class TestBucket:
    @pytest.fixture
    def bucket(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
        with s3_server() as url:
            monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(aws_connection(url)))
            client = s3_client_at(url)
            client.create_bucket(Bucket=BUCKET)
            yield client

    def test_catalog_is_kept_there_and_remembered(self, service: EmulatorProcess, picture: str, bucket: Any) -> None:
        rows = [{"key": f"sku-{n}", "prompt": f"{PROMPT} {n}", "image": picture} for n in range(4)]
        feed = "\n".join(map(json.dumps, rows))
        bucket.put_object(Bucket=BUCKET, Key="feed/products.jsonl", Body=feed.encode())
        first = night(1, f"s3://aws_default@{BUCKET}/feed/products.jsonl", output_path=VIDEOS)
        assert (first["saved"], first["failed"]) == (4, 0)
        keys = {entry["Key"] for entry in bucket.list_objects_v2(Bucket=BUCKET, Prefix="videos/")["Contents"]}
        (plan,) = {key for key in keys if key.startswith("videos/.manifest/plans/")}
        files = {"manifest.jsonl", "index.html", ".manifest/owner.json", *(f"sku-{n}.mp4" for n in range(4))}
        assert keys == {plan, *(f"videos/{name}" for name in files)}
        manifest = bucket.get_object(Bucket=BUCKET, Key="videos/manifest.jsonl")["Body"].read().decode()
        for line in map(json.loads, manifest.splitlines()):
            content = bucket.get_object(Bucket=BUCKET, Key=f"videos/{line['file']}")["Body"].read()
            assert hashlib.sha256(content).hexdigest() == line["sha256"]
        assert night(2, f"s3://aws_default@{BUCKET}/feed/products.jsonl", output_path=VIDEOS)["unchanged"] == 4
        assert len(service.ledger()["billed"]) == 4


class Pictures:
    """A host of pictures, of which the service fetches one.

    :param content: Of each picture.
    """

    def __init__(self, content: bytes) -> None:
        self.etag: str | None = '"one"'
        self.status = 200
        self.keys_seen: set[str | None] = set()
        pictures = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                pictures.keys_seen.add(self.headers.get("Authorization"))
                self.send_response(pictures.status)
                if pictures.etag is not None:
                    self.send_header("ETag", pictures.etag)
                self.end_headers()

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "image/jpeg")
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Be quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def rows(self) -> list[dict[str, str]]:
        link = f"http://127.0.0.1:{self.server.server_port}/shoe.jpg"
        return [{"key": "shoe", "prompt": PROMPT, "image": link}]


class TestEtag:
    @pytest.fixture
    def pictures(self, service: EmulatorProcess, picture: str) -> Iterator[Pictures]:
        pictures = Pictures(service.get(picture).raise_for_status().content)
        thread = threading.Thread(target=pictures.server.serve_forever)
        thread.start()
        yield pictures
        pictures.server.shutdown()
        thread.join()
        pictures.server.server_close()

    @pytest.fixture
    def output_path(self, tmp_path: Any) -> str:
        return str(tmp_path / "videos")

    def test_other_version_under_the_same_link_is_a_change(
        self, service: EmulatorProcess, pictures: Pictures, output_path: str
    ) -> None:
        assert night(1, pictures.rows, output_path=output_path, image_etag=True)["saved"] == 1
        assert night(2, pictures.rows, output_path=output_path, image_etag=True)["unchanged"] == 1
        pictures.etag = '"two"'
        assert night(3, pictures.rows, output_path=output_path, image_etag=True)["saved"] == 1
        assert len(service.ledger()["billed"]) == 2
        assert pictures.keys_seen == {None}

    @pytest.mark.parametrize(("status", "etag"), [(200, None), (200, " "), (404, '"one"')])
    def test_unknown_version_is_an_error_and_no_change(
        self, service: EmulatorProcess, pictures: Pictures, output_path: str, status: int, etag: str | None
    ) -> None:
        night(1, pictures.rows, output_path=output_path, image_etag=True)
        pictures.status, pictures.etag = status, etag
        with pytest.raises(ToAPIsRequestError, match="image_etag=False"):
            night(2, pictures.rows, output_path=output_path, image_etag=True)
        assert len(service.ledger()["billed"]) == 1
