"""Where videos are kept: a local disk, S3 and Google Storage, looked at past the code that is tested."""

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
    """Run S3 in memory, on a free port, and give its address."""
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
    """Return Amazon's own client."""
    return boto3.client(
        "s3", endpoint_url=url, aws_access_key_id=_KEY_ID, aws_secret_access_key=_SECRET, region_name=_REGION
    )


@contextmanager
def google_server() -> Iterator[str]:
    """Run Google Storage in memory, on a free port, and give its address."""
    server = create_server("127.0.0.1", 0, in_memory=True)
    server.start()
    try:
        yield "http://{}:{}".format(*server._api._httpd.server_address)
    finally:
        server.stop()


class Place(Protocol):
    """Room for one file."""

    @property
    def output_path(self) -> str:
        """What an author calls the file."""

    def read(self) -> bytes | None:
        """Return the file's content; None where there is no file."""

    def put(self, content: bytes) -> None:
        """Make an earlier file."""

    def leftovers(self) -> list[str]:
        """Return what else is there."""


class LocalPlace:
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

    def forget_abandoned(self) -> None:
        """Let so much time pass that whoever wrote an unfinished file must be dead."""
        long_ago = time.time() - 24 * 3600
        for file in self.leftovers():
            os.utime(file, (long_ago, long_ago))


class S3Place:
    """An object in a bucket of its own, named by way of the Airflow connection ``aws_default``.

    :param client: boto3's for S3.
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

    def forget_abandoned(self) -> None:
        """Abort unfinished uploads, as the bucket's lifecycle rule does after some days."""
        for upload in self._uploads():
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=NAME, UploadId=upload)

    def vanish(self) -> None:
        """Take the bucket away from whoever is writing to it."""
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


class GooglePlace:
    """An object in a bucket of its own.

    :param client: Asks Google's JSON API.
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
