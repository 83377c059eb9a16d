"""Batches whose feed and output are in a bucket, and images whose host sends ETags."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from airflow_provider_toapis.batch import manifest
from airflow_provider_toapis.exceptions import ToAPIsRequestError
from airflow_provider_toapis.operators.batch import ToAPIsVideoBatchOperator
from tests.airflow_task import FakeTaskInstance, attempt
from tests.integration.conftest import PROMPT
from tests.integration.emulator_process import EmulatorProcess
from tests.integration.storages import aws_connection, s3_client_at, s3_server

BUCKET = "shop"
VIDEOS = f"s3://aws_default@{BUCKET}/videos/"


def run_nightly(number: int, requests: Any, **fields: Any) -> Any:
    operator = {"task_id": "catalog", "requests": requests, "deferrable": False, **fields}
    ti = FakeTaskInstance(task_id="catalog", run_id=f"scheduled__{number}")
    return attempt(lambda: ToAPIsVideoBatchOperator(**operator), ti)


class TestBucket:
    # One server for all tests, because Airflow caches the file system of a connection.
    @pytest.fixture(scope="class")
    def bucket(self) -> Iterator[Any]:
        with s3_server() as url, pytest.MonkeyPatch.context() as patch:
            patch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(aws_connection(url)))
            client = s3_client_at(url)
            client.create_bucket(Bucket=BUCKET)
            yield client

    def test_batch_reads_its_feed_and_saves_its_videos_in_a_bucket(
        self, service: EmulatorProcess, image: str, bucket: Any
    ) -> None:
        rows = [{"key": f"sku-{n}", "prompt": f"{PROMPT} {n}", "image": image} for n in range(4)]
        feed = "\n".join(map(json.dumps, rows))
        bucket.put_object(Bucket=BUCKET, Key="feed/products.jsonl", Body=feed.encode())
        first = run_nightly(1, f"s3://aws_default@{BUCKET}/feed/products.jsonl", output_path=VIDEOS)
        assert (first["saved"], first["failed"]) == (4, 0)
        keys = {entry["Key"] for entry in bucket.list_objects_v2(Bucket=BUCKET, Prefix="videos/")["Contents"]}
        (plan,) = {key for key in keys if key.startswith("videos/.manifest/plans/")}
        files = {"manifest.jsonl", "index.html", ".manifest/owner.json", *(f"sku-{n}.mp4" for n in range(4))}
        assert keys == {plan, *(f"videos/{name}" for name in files)}
        content = bucket.get_object(Bucket=BUCKET, Key="videos/manifest.jsonl")["Body"].read().decode()
        for line in map(json.loads, content.splitlines()):
            video = bucket.get_object(Bucket=BUCKET, Key=f"videos/{line['file']}")["Body"].read()
            assert hashlib.sha256(video).hexdigest() == line["sha256"]
        assert run_nightly(2, f"s3://aws_default@{BUCKET}/feed/products.jsonl", output_path=VIDEOS)["unchanged"] == 4
        assert len(service.ledger()["billed"]) == 4

    def test_deferred_batch_in_a_bucket_reads_only_what_is_in_progress(
        self, service: EmulatorProcess, image: str, bucket: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rows = [{"key": f"sku-{n}", "prompt": f"{PROMPT} {n}", "image": image} for n in range(12)]
        feed = "\n".join(map(json.dumps, rows))
        bucket.put_object(Bucket=BUCKET, Key="feed/products.jsonl", Body=feed.encode())
        monkeypatch.setattr(manifest, "_QUEUE_BLOCK", 2000)
        monkeypatch.setattr("airflow_provider_toapis.operators.batch.SECONDS_BETWEEN_RESUMPTIONS", 0.0)
        read_all, full_reads = manifest.Manifest._read_all, []

        def counted(read: manifest.Manifest) -> None:
            full_reads.append(read)
            read_all(read)

        monkeypatch.setattr(manifest.Manifest, "_read_all", counted)
        output_path = f"s3://aws_default@{BUCKET}/deferred/"
        options: dict[str, Any] = {"output_path": output_path, "deferrable": True, "max_active": 3}
        result = run_nightly(1, f"s3://aws_default@{BUCKET}/feed/products.jsonl", **options)
        assert (result["saved"], len(service.ledger()["billed"])) == (12, 12)
        # Only the compaction at the end needs all rows, and a pass after which no video is in progress.
        assert 1 <= len(full_reads) < 4


class ImageHost:
    """Serves one image, with an ETag.

    :param content: Content of the image.
    """

    def __init__(self, content: bytes) -> None:
        self.etag: str | None = '"one"'
        self.status = 200
        self.keys_received: set[str | None] = set()
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                host.keys_received.add(self.headers.get("Authorization"))
                self.send_response(host.status)
                if host.etag is not None:
                    self.send_header("ETag", host.etag)
                self.end_headers()

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "image/jpeg")
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def rows(self) -> list[dict[str, str]]:
        url = f"http://127.0.0.1:{self.server.server_port}/shoe.jpg"
        return [{"key": "shoe", "prompt": PROMPT, "image": url}]


class TestEtag:
    @pytest.fixture
    def image_host(self, service: EmulatorProcess, image: str) -> Iterator[ImageHost]:
        image_host = ImageHost(service.get(image).raise_for_status().content)
        thread = threading.Thread(target=image_host.server.serve_forever)
        thread.start()
        yield image_host
        image_host.server.shutdown()
        thread.join()
        image_host.server.server_close()

    @pytest.fixture
    def output_path(self, tmp_path: Any) -> str:
        return str(tmp_path / "videos")

    def test_changed_etag_under_the_same_url_is_a_changed_row(
        self, service: EmulatorProcess, image_host: ImageHost, output_path: str
    ) -> None:
        assert run_nightly(1, image_host.rows, output_path=output_path, image_etag=True)["saved"] == 1
        assert run_nightly(2, image_host.rows, output_path=output_path, image_etag=True)["unchanged"] == 1
        image_host.etag = '"two"'
        assert run_nightly(3, image_host.rows, output_path=output_path, image_etag=True)["saved"] == 1
        assert len(service.ledger()["billed"]) == 2
        assert image_host.keys_received == {None}

    @pytest.mark.parametrize(("status", "etag"), [(200, None), (200, " "), (404, '"one"')])
    def test_image_without_etag_is_an_error_and_not_a_changed_row(
        self, service: EmulatorProcess, image_host: ImageHost, output_path: str, status: int, etag: str | None
    ) -> None:
        run_nightly(1, image_host.rows, output_path=output_path, image_etag=True)
        image_host.status, image_host.etag = status, etag
        with pytest.raises(ToAPIsRequestError, match="image_etag=False"):
            run_nightly(2, image_host.rows, output_path=output_path, image_etag=True)
        assert len(service.ledger()["billed"]) == 1
