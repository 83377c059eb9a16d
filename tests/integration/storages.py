"""Storage locations for videos: local disk, S3 and Google Storage, accessed independently of the tested code."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import boto3  # type: ignore[import-untyped]
import httpx
from gcp_storage_emulator.server import create_server  # type: ignore[import-untyped]
from moto.server import ThreadedMotoServer

NAME = "videos/shoe.mp4"
_KEY_ID = "testing"
_SECRET = "testing"
_REGION = "us-east-1"


@contextmanager
def s3_server() -> Iterator[str]:
    """Run an in-memory S3 server on a free port, and yield its URL."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()


def aws_connection(url: str) -> dict[str, Any]:
    """Return the Airflow connection to an S3 server."""
    extra = {"endpoint_url": url, "region_name": _REGION}
    return {"conn_type": "aws", "login": _KEY_ID, "password": _SECRET, "extra": extra}


def s3_client_at(url: str) -> Any:
    """Return Amazon's client for an S3 server."""
    return boto3.client(
        "s3", endpoint_url=url, aws_access_key_id=_KEY_ID, aws_secret_access_key=_SECRET, region_name=_REGION
    )


@contextmanager
def google_server() -> Iterator[str]:
    """Run an in-memory Google Storage server on a free port, and yield its URL."""
    server = create_server("127.0.0.1", 0, in_memory=True)
    server.start()
    try:
        yield "http://{}:{}".format(*server._api._httpd.server_address)
    finally:
        server.stop()


class Storage(Protocol):
    """A storage location for one file."""

    @property
    def output_path(self) -> str:
        """Value of ``output_path`` for the file."""

    def read(self) -> bytes | None:
        """Return the content of the file; None if it does not exist."""

    def put(self, content: bytes) -> None:
        """Write an existing file."""

    def leftovers(self) -> list[str]:
        """Return the names of other files and unfinished uploads."""


class LocalStorage:
    """A file on disk."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / NAME

    @property
    def output_path(self) -> str:
        return str(self._file)

    def read(self) -> bytes | None:
        return self._file.read_bytes() if self._file.exists() else None

    def put(self, content: bytes) -> None:
        self._file.parent.mkdir(parents=True)
        self._file.write_bytes(content)

    def leftovers(self) -> list[str]:
        return [str(file) for file in self._file.parent.glob("*") if file != self._file]

    def expire_unfinished(self) -> None:
        """Make unfinished files so old that their writers must have ended."""
        long_ago = time.time() - 24 * 3600
        for file in self.leftovers():
            os.utime(file, (long_ago, long_ago))


class S3Storage:
    """An object in its own bucket, whose path names the Airflow connection ``aws_default``.

    :param client: boto3's S3 client.
    """

    def __init__(self, client: Any, bucket: str) -> None:
        self._client = client
        self._bucket = bucket
        client.create_bucket(Bucket=bucket)

    @property
    def output_path(self) -> str:
        return f"s3://aws_default@{self._bucket}/{NAME}"

    def read(self) -> bytes | None:
        try:
            return bytes(self._client.get_object(Bucket=self._bucket, Key=NAME)["Body"].read())
        except (self._client.exceptions.NoSuchKey, self._client.exceptions.NoSuchBucket):
            return None

    def put(self, content: bytes) -> None:
        self._client.put_object(Bucket=self._bucket, Key=NAME, Body=content)

    def leftovers(self) -> list[str]:
        return [key for key in self._keys() if key != NAME] + list(self._uploads())

    def expire_unfinished(self) -> None:
        """Abort unfinished uploads, as a lifecycle rule of the bucket does after some days."""
        for upload in self._uploads():
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=NAME, UploadId=upload)

    def delete_bucket(self) -> None:
        """Delete the bucket, for example during a write."""
        self._client.delete_bucket(Bucket=self._bucket)

    def _keys(self) -> list[str]:
        return [entry["Key"] for entry in self._listed("list_objects_v2", "Contents")]

    def _uploads(self) -> list[str]:
        return [entry["UploadId"] for entry in self._listed("list_multipart_uploads", "Uploads")]

    def _listed(self, operation: str, field: str) -> list[dict[str, Any]]:
        try:
            return list(getattr(self._client, operation)(Bucket=self._bucket).get(field, []))
        except self._client.exceptions.NoSuchBucket:
            return []


class GoogleStorage:
    """An object in its own bucket.

    :param client: Client for Google's JSON API.
    """

    def __init__(self, client: httpx.Client, bucket: str) -> None:
        self._client = client
        self._bucket = bucket
        self._client.post("/storage/v1/b", json={"name": bucket}).raise_for_status()

    @property
    def output_path(self) -> str:
        return f"gs://{self._bucket}/{NAME}"

    def read(self) -> bytes | None:
        path = f"/download/storage/v1/b/{self._bucket}/o/{NAME.replace('/', '%2F')}"
        response = self._client.get(path, params={"alt": "media"})
        return None if response.status_code == httpx.codes.NOT_FOUND else response.raise_for_status().content

    def put(self, content: bytes) -> None:
        path = f"/upload/storage/v1/b/{self._bucket}/o"
        self._client.post(path, params={"uploadType": "media", "name": NAME}, content=content).raise_for_status()

    def leftovers(self) -> list[str]:
        listed = self._client.get(f"/storage/v1/b/{self._bucket}/o").raise_for_status().json()
        return [entry["name"] for entry in listed.get("items", []) if entry["name"] != NAME]
