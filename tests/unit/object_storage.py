"""In-memory object storages that a test can attach to ``memory://``."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import ObjectStoragePath
from fsspec import AbstractFileSystem  # type: ignore[import-untyped]
from fsspec.spec import AbstractBufferedFile  # type: ignore[import-untyped]

#: Size of an uploaded part in bytes.
BLOCK_SIZE = 16


class BucketFile(AbstractBufferedFile):  # type: ignore[misc]
    """An object that is uploaded in parts and exists after the commit, as in S3."""

    def _initiate_upload(self) -> None:
        self.parts: list[bytes] = []

    def _upload_chunk(self, final: bool = False) -> bool:
        self.parts.append(self.buffer.getvalue())
        if final and self.autocommit:
            self.commit()
        return True

    def commit(self) -> None:
        """Create the object from the uploaded parts."""
        self.fs.objects[self.path] = b"".join(self.parts)

    def discard(self) -> None:
        """Discard the uploaded parts."""
        self.fs.discarded.append(self.path)
        self.parts = []


class BlobFile(BucketFile):
    """An object that exists after it is closed, regardless of ``autocommit`` and ``discard``, as in Azure."""

    def close(self) -> None:
        """Create the object from the written content."""
        if not self.closed:
            super().close()
            super().commit()

    def commit(self) -> None:
        """Do nothing."""

    def discard(self) -> None:
        """Do nothing."""


class Bucket(AbstractFileSystem):  # type: ignore[misc]
    """An in-memory object storage."""

    cachable = False
    file_class: type[BucketFile] = BucketFile

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, bytes] = {}
        self.discarded: list[str] = []
        #: Errors to raise, by the name of the method.
        self.errors: dict[str, Exception] = {}

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        **_: Any,
    ) -> BucketFile:
        self.fail("open")
        return self.file_class(self, path, mode, block_size=BLOCK_SIZE, autocommit=autocommit)

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Return the name and size of an object."""
        self.fail("info")
        name = f"/{path.strip('/')}"
        if name not in self.objects:
            raise FileNotFoundError(path)
        return {"name": name, "size": len(self.objects[name]), "type": "file"}

    def cat_file(self, path: str, *_: Any, **__: Any) -> bytes:
        """Return the content of an object."""
        return self.objects[f"/{path.strip('/')}"]

    def rm(self, path: Any, **_: Any) -> None:
        """Delete objects."""
        self.fail("rm")
        for name in [path] if isinstance(path, str) else path:
            self.objects.pop(f"/{name.strip('/')}", None)

    def fail(self, method: str) -> None:
        """Raise the error that is set for a method."""
        if method in self.errors:
            raise self.errors[method]


class NoCredentialsError(Exception):
    """Like the error of botocore, which is not an OSError."""


class EndpointConnectionError(Exception):
    """Like the error of botocore, with a signed URL in its message."""

    def __init__(self) -> None:
        super().__init__("Could not connect to https://bucket.example.com/?X-Amz-Signature=a-signature")


class Blobs(Bucket):
    """An in-memory blob storage."""

    file_class = BlobFile


def attach(monkeypatch: pytest.MonkeyPatch, file_system: AbstractFileSystem) -> None:
    """Attach ``file_system`` to ``memory://``."""
    store = import_module(f"{ObjectStoragePath.__module__.rpartition('.')[0]}.store")
    monkeypatch.setattr(store, "_STORE_CACHE", {})
    store.attach(protocol="memory", fs=file_system)
