"""Saved videos on the pages inside Airflow: which paths are served, and how."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]

from airflow_provider_toapis.api.media_types import HEAD_SIZE
from airflow_provider_toapis.version_compat import AIRFLOW_V_3_1_PLUS
from tests.unit.object_storage import NoCredentialsError, attach

if not AIRFLOW_V_3_1_PLUS:
    pytest.skip("needs Airflow 3.1: earlier versions cannot show pages of plugins", allow_module_level=True)

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.testclient import TestClient
from starlette.requests import ClientDisconnect

from airflow_provider_toapis.ui import media
from airflow_provider_toapis.ui.app import _with_headers
from airflow_provider_toapis.ui.media import is_served, media_roots, serve

MP4 = b"\x00\x00\x00\x20ftypisom" + bytes(range(256)) * 8
SIZE = len(MP4)
JPEG = b"\xff\xd8\xff\xe0" + b"an image" * 20
NOT_VIDEOS = {
    "HTML": b"<!doctype html><script>alert(1)</script>",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "JSON": b'{"error": "not found"}',
    "text": b"root:x:0:0:root:/root:/bin/bash\n",
    "PDF": b"%PDF-1.7",
    "PNG": b"\x89PNG\r\n\x1a\n" + b"an image",
    "JPEG": JPEG,
    "HEIC": b"\x00\x00\x00\x20ftypheic" + b"an image",
    "MP3": b"ID3" + b"music",
    "nothing": b"",
    "zeros": b"\x00" * 100,
}
#: Range headers that are ignored: the whole file is sent.
IGNORED_RANGES = (
    *(None, "", "bytes", "bytes=", "bytes=-", "bytes=5-2", "bytes=a-b", "bytes=0x1-2", "bytes=+1-2", "bytes=1_0-20"),
    *("bytes=1-2-3", "bytes=--1", "bytes=1.0-2", "bytes= 1-2", "items=0-1", "bytes 0-1", "bytes=0-1;2-3"),
    *(
        "bytes=0-1,3-4",
        "bytes=0-9,5-14",
        "bytes=0-,0-,0-",
        "bytes=" + ",".join(["0-"] * 500),
        "bytes=" + "9" * 19 + "-",
    ),
    *("bytes=0-" + "9" * 5000, "bytes=²-³", "bytes=0-1\t"),
)
#: Range headers with the part of the file that is sent.
RANGES: tuple[tuple[str, slice], ...] = (
    ("bytes=0-", slice(0, SIZE)),
    ("bytes=0-0", slice(0, 1)),
    ("bytes=5-9", slice(5, 10)),
    ("bytes=0005-09", slice(5, 10)),
    ("bytes=7-", slice(7, SIZE)),
    ("bytes=-1", slice(SIZE - 1, SIZE)),
    ("bytes=-100", slice(SIZE - 100, SIZE)),
    ("bytes=-999999999999999999", slice(0, SIZE)),
    ("bytes=0-999999999999999999", slice(0, SIZE)),
    (f"bytes={SIZE - 1}-{SIZE}", slice(SIZE - 1, SIZE)),
)
UNSATISFIABLE_RANGES = (f"bytes={SIZE}-", f"bytes={SIZE}-{SIZE + 1}", "bytes=999999999999999999-", "bytes=-0")


SCOPE: dict[str, Any] = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}


class SigningFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """An object storage that can sign URLs."""

    def sign(self, path: str, expiration: int = 100, **_: Any) -> str:
        """Return a signed URL."""
        return f"https://signed.example{path}?expires={expiration}&signature=a%2Fb%2B"


@pytest.fixture
def roots(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that configures ``[toapis] media_roots``."""
    return lambda value: monkeypatch.setenv("AIRFLOW__TOAPIS__MEDIA_ROOTS", value)


@pytest.fixture
def root(tmp_path: Path, roots: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A media root with a video, next to directories that are not served. The home directory is not served either."""
    for directory in ("videos/sub", "videos2", "home"):
        (tmp_path / directory).mkdir(parents=True)
    for name in ("videos/1.mp4", "videos/sub/1.mp4", "videos2/1.mp4", "home/1.mp4", "1.mp4"):
        (tmp_path / name).write_bytes(MP4)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "home")
    roots(str(tmp_path / "videos"))
    return tmp_path / "videos"


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch, roots: Any) -> Iterator[MemoryFileSystem]:
    """An object storage with a video below a media root, and videos that are not below it."""
    file_system = MemoryFileSystem()
    attach(monkeypatch, file_system)
    for name in ("/shop/videos/1.mp4", "/shop/videos2/1.mp4", "/shop/1.mp4", "/other/videos/1.mp4", "/1.mp4"):
        file_system.pipe_file(name, MP4)
    roots("memory://shop/videos")
    yield file_system
    file_system.store.clear()


@pytest.fixture(params=["disk", "object storage"])
def video(request: pytest.FixtureRequest) -> str:
    """A served video on disk and in object storage."""
    if request.param == "disk":
        return str(request.getfixturevalue("root") / "1.mp4")
    request.getfixturevalue("memory")
    return "memory://shop/videos/1.mp4"


def application(path: str | None, kind: media.Kind = "video") -> FastAPI:
    """Return an application that serves one recorded path, with the headers of the pages."""

    def send(request: Request) -> Response:
        return serve(path, kind, request.headers.get("range"))

    app = FastAPI()
    app.middleware("http")(_with_headers)
    app.get("/")(send)
    return app


def served(path: str | None, kind: media.Kind = "video", requested_range: str | None = None) -> Any:
    """Return the response to a request for a recorded path."""
    headers: Any = {} if requested_range is None else {b"range": requested_range.encode("latin-1")}
    return TestClient(application(path, kind), follow_redirects=False).get("/", headers=headers)


def replace_by_link(path: Path, target: Path) -> None:
    """Replace a file or a directory by a symbolic link."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    path.symlink_to(target)


def assert_not_served(path: str | None, kind: media.Kind = "video") -> None:
    with pytest.raises(HTTPException) as rejected:
        serve(path, kind, None)
    assert rejected.value.status_code == 404
    assert rejected.value.detail == "This file is not served."


class TestPaths:
    @pytest.mark.parametrize(
        "path", ["{root}/1.mp4", "{root}/sub/1.mp4", "{root}/sub/../1.mp4", "{root}//./1.mp4", "file://{root}/1.mp4"]
    )
    def test_file_below_a_root_is_served(self, root: Path, path: str) -> None:
        response = served(path.format(root=root))
        assert (response.status_code, response.content) == (200, MP4)
        assert response.headers["content-type"] == "video/mp4"

    @pytest.mark.parametrize(
        "path",
        [
            *(None, "", " ", ".", "..", "/", "/etc/passwd", "{root}", "{root}/", "{root}/sub", "{root}/missing.mp4"),
            *("{root}/../1.mp4", "{root}/sub/../../1.mp4", "{root}/../videos2/1.mp4", "{root}2/1.mp4"),
            *("{root}/1.mp4\0", "{root}/1.mp4\0.mp4", "\0{root}/1.mp4", "{root}/\ud800.mp4", "\ud800", "{root}/\udcff"),
            *("1.mp4", "./1.mp4", "../1.mp4", "~/1.mp4", "~root/1.mp4", "~no-such-user/1.mp4", "{root}/~/1.mp4"),
            *("file:///etc/passwd", "file://{root}/../1.mp4", "file://{root}/%2e%2e/1.mp4", "file://host{root}/1.mp4"),
            *(
                "file://{root}/1.mp4%00",
                "local:///etc/passwd",
                "local://{root}2/1.mp4",
                "file://{root}",
                "file:{root}/1.mp4",
            ),
            *("{root}/%2e%2e/1.mp4", "{root}/..%2f1.mp4", "{root}\\..\\1.mp4", "{root}/" + "a" * 5000, " {root}/1.mp4"),
            *("http://127.0.0.1/1.mp4", "https://a.example/1.mp4", "s3://shop/1.mp4", "memory://shop{root}/1.mp4"),
            *("no-such-scheme://{root}/1.mp4", "://{root}/1.mp4", "data:video/mp4;base64,AAAA", "javascript:alert(1)"),
        ],
    )
    def test_other_path_is_not_served(self, root: Path, path: str | None) -> None:
        assert_not_served(path and path.format(root=root))

    @pytest.mark.parametrize("target", ["../1.mp4", "/etc/passwd", "../videos2/1.mp4", "itself.mp4", "/dev/zero"])
    def test_link_out_of_the_root_is_not_served(self, root: Path, target: str) -> None:
        (root / "itself.mp4").symlink_to(target)
        assert_not_served(f"{root}/itself.mp4")

    def test_linked_directory_out_of_the_root_is_not_served(self, root: Path) -> None:
        (root / "linked").symlink_to(root.parent / "videos2")
        assert_not_served(f"{root}/linked/1.mp4")
        assert_not_served(f"file://{root}/linked/1.mp4")

    def test_link_within_the_root_is_served(self, root: Path) -> None:
        (root / "newest.mp4").symlink_to("sub/1.mp4")
        (root / "linked").symlink_to("sub")
        assert served(f"{root}/newest.mp4").content == MP4
        assert served(f"{root}/linked/1.mp4").content == MP4

    def test_pipe_is_not_served(self, root: Path) -> None:
        os.mkfifo(root / "pipe.mp4")
        assert_not_served(f"{root}/pipe.mp4")

    @pytest.mark.parametrize("device", ["/dev/zero", "/dev/stdin", "/dev/null"])
    def test_device_is_not_served(self, roots: Any, device: str) -> None:
        roots("/dev")
        assert_not_served(device)

    def test_root_that_is_a_link_is_served(self, root: Path, roots: Any) -> None:
        (root.parent / "linked").symlink_to(root)
        roots(f"{root.parent}/linked")
        assert served(f"{root.parent}/linked/1.mp4").content == MP4
        assert served(f"{root}/1.mp4").content == MP4

    @pytest.mark.parametrize(
        "configured", ["~/videos", "{home}/videos", "file://{home}/videos", "file://{home}/videos/"]
    )
    @pytest.mark.parametrize("path", ["~/videos/1.mp4", "{home}/videos/1.mp4", "file://{home}/videos/1.mp4"])
    def test_spellings_of_a_path_are_the_same(self, root: Path, roots: Any, configured: str, path: str) -> None:
        home = root.parent / "home"
        shutil.copytree(root, home / "videos")
        roots(configured.format(home=home))
        assert served(path.format(home=home)).content == MP4
        assert_not_served(f"file://{home}/videos/%2e%2e/1.mp4")

    @pytest.mark.parametrize("value", ["", " ", ",", "\n,\n"])
    def test_nothing_is_served_without_a_root(self, root: Path, roots: Any, value: str) -> None:
        roots(value)
        assert media_roots() == ()
        assert_not_served(f"{root}/1.mp4")

    def test_roots_are_separated_by_commas_and_line_breaks(self, root: Path, roots: Any) -> None:
        roots(f"s3://shop/videos, {root}2\n{root},")
        assert media_roots() == ("s3://shop/videos", f"{root}2", str(root))
        assert is_served(f"{root}/1.mp4")
        assert is_served(f"{root}2/1.mp4")
        assert is_served("s3://shop/videos/1.mp4")


class TestReplacedPaths:
    """A DAG author can replace a part of a path while it is checked."""

    @pytest.fixture
    def outside(self, root: Path) -> Path:
        """A directory outside of the root, whose file passes for a video."""
        directory = root.parent / "outside"
        directory.mkdir()
        (directory / "1.mp4").write_bytes(MP4 + b"a secret")
        return directory

    def test_file_that_becomes_a_link_is_not_opened(self, root: Path, outside: Path) -> None:
        replace_by_link(root / "1.mp4", outside / "1.mp4")
        with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
            media._opened(root / "1.mp4")

    def test_directory_that_becomes_a_link_is_not_opened(self, root: Path, outside: Path) -> None:
        replace_by_link(root / "sub", outside)
        with pytest.raises(NotADirectoryError):
            media._opened(root / "sub" / "1.mp4")

    def test_file_that_becomes_a_pipe_is_not_opened(self, root: Path) -> None:
        (root / "1.mp4").unlink()
        os.mkfifo(root / "1.mp4")
        with pytest.raises(FileNotFoundError):
            media._opened(root / "1.mp4")

    def test_no_file_descriptor_stays_open(self, root: Path) -> None:
        before = len(list(Path("/dev/fd").iterdir()))
        media._opened(root / "sub" / "1.mp4").close()
        for path in ("missing/1.mp4", "sub/2.mp4", "sub"):
            with pytest.raises(FileNotFoundError):
                media._opened(root / path)
        assert len(list(Path("/dev/fd").iterdir())) == before

    @pytest.mark.parametrize("replaced", ["1.mp4", "sub"])
    def test_path_replaced_during_the_check_is_not_served(
        self, root: Path, outside: Path, replaced: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def check_then_replace(path: str | None) -> bool:
            is_allowed = is_served(path)
            target = outside / "1.mp4" if replaced == "1.mp4" else outside
            replace_by_link(root / replaced, target)
            return is_allowed

        path = root / "1.mp4" if replaced == "1.mp4" else root / "sub" / "1.mp4"
        monkeypatch.setattr(media, "is_served", check_then_replace)
        with pytest.raises(OSError, match=f"{os.strerror(errno.ELOOP)}|{os.strerror(errno.ENOTDIR)}"):
            media._local(path)

    def test_path_replaced_after_the_check_is_not_sent(self, root: Path, outside: Path) -> None:
        file = media._local(root / "sub" / "1.mp4")
        replace_by_link(root / "sub", outside)
        with pytest.raises(NotADirectoryError):
            next(media._pieces(file, 0, SIZE))


class TestObjects:
    def test_object_below_a_root_is_served(self, memory: MemoryFileSystem) -> None:
        response = served("memory://shop/videos/1.mp4")
        assert (response.status_code, response.content) == (200, MP4)
        assert response.headers["content-type"] == "video/mp4"

    @pytest.mark.parametrize(
        "path",
        [
            *("memory://shop/videos2/1.mp4", "memory://shop/1.mp4", "memory://other/videos/1.mp4", "memory://1.mp4"),
            *(
                "memory://shop/videos",
                "memory://shop/videos/",
                "memory://shop/videos/missing.mp4",
                "memory://",
                "memory",
            ),
            *(
                "memory://shop/videos/../1.mp4",
                "memory://shop/videos/../videos2/1.mp4",
                "memory://shop/videos/..",
                "memory:///1.mp4",
            ),
            *("memory://shop/videos/.\t./1.mp4", "memory://shop/videos/.\n./1.mp4", "memory://shop/videos/./../1.mp4"),
            *("memory://shop/videos/%2e%2e/1.mp4", "memory://shop/videos/\\../1.mp4", "memory://shop/videos\\1.mp4"),
            *("memory://shop/videos/a/../../1.mp4", "memory://shop/videos/1.mp4\0", "memory://shop/videos/\ud800.mp4"),
            *("memory://conn@shop/videos/1.mp4", "memory://shop@other/videos/1.mp4", "memory://shop:80/videos/1.mp4"),
            *(
                "MEMORY://shop/videos/1.mp4",
                "memory:/shop/videos/1.mp4",
                "/shop/videos/1.mp4",
                "s3://shop/videos/1.mp4",
            ),
        ],
    )
    def test_other_uri_is_not_served(self, memory: MemoryFileSystem, path: str) -> None:
        assert_not_served(path)

    @pytest.mark.parametrize("configured", ["memory://shop/videos", "memory://shop/videos/", "memory://shop/videos//"])
    def test_slash_at_the_end_of_a_root_is_ignored(self, memory: MemoryFileSystem, roots: Any, configured: str) -> None:
        roots(configured)
        assert is_served("memory://shop/videos/1.mp4")
        assert not is_served("memory://shop/videos2/1.mp4")

    def test_connection_of_a_root_is_required(self, roots: Any) -> None:
        roots("s3://aws_default@shop/videos")
        assert is_served("s3://aws_default@shop/videos/1.mp4")
        assert not any(map(is_served, ("s3://shop/videos/1.mp4", "s3://other@shop/videos/1.mp4")))

    def test_signed_url_is_preferred(self, memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
        attach(monkeypatch, SigningFileSystem())
        response = served("memory://shop/videos/1.mp4")
        assert response.status_code == 307
        assert response.headers["location"] == (
            "https://signed.example/shop/videos/1.mp4?expires=300&signature=a%2Fb%2B"
        )
        assert response.headers["cache-control"] == "no-store"

    def test_content_is_checked_before_a_url_is_signed(
        self, memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        attach(monkeypatch, SigningFileSystem())
        memory.pipe_file("/shop/videos/1.mp4", NOT_VIDEOS["HTML"])
        assert_not_served("memory://shop/videos/1.mp4")

    @pytest.mark.parametrize("error", [AttributeError("you need a private key"), NoCredentialsError(), ImportError()])
    def test_object_is_streamed_if_its_storage_cannot_sign(
        self, memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        def fail(*_: object, **__: object) -> str:
            raise error

        monkeypatch.setattr(MemoryFileSystem, "sign", fail)
        assert served("memory://shop/videos/1.mp4").content == MP4

    def test_only_the_beginning_is_read_before_a_url_is_signed(
        self, memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        signing = SigningFileSystem()
        attach(monkeypatch, signing)
        read: list[tuple[int, int]] = []

        def cat_file(_: str, start: int, end: int) -> bytes:
            read.append((start, end))
            return MP4[start:end]

        monkeypatch.setattr(signing, "cat_file", cat_file)
        monkeypatch.delattr(MemoryFileSystem, "_open")
        assert served("memory://shop/videos/1.mp4").status_code == 307
        assert read == [(0, HEAD_SIZE)]

    @pytest.mark.parametrize("error", [NoCredentialsError(), PermissionError(), TimeoutError(), RuntimeError()])
    def test_error_of_the_storage_is_not_raised(
        self, memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        def fail(*_: object, **__: object) -> bytes:
            raise error

        monkeypatch.setattr(memory, "cat_file", fail)
        assert_not_served("memory://shop/videos/1.mp4")


class TestContent:
    @pytest.mark.parametrize("content", NOT_VIDEOS.values(), ids=NOT_VIDEOS)
    def test_other_content_is_no_video(self, root: Path, memory: MemoryFileSystem, roots: Any, content: bytes) -> None:
        roots(f"{root}, memory://shop/videos")
        (root / "1.mp4").write_bytes(content)
        memory.pipe_file("/shop/videos/1.mp4", content)
        assert_not_served(f"{root}/1.mp4")
        assert_not_served("memory://shop/videos/1.mp4")

    @pytest.mark.parametrize("content", [MP4, *(content for name, content in NOT_VIDEOS.items() if name != "JPEG")])
    def test_other_content_is_no_poster(self, root: Path, content: bytes) -> None:
        (root / "1.jpg").write_bytes(content)
        assert_not_served(f"{root}/1.jpg", "poster")

    def test_poster_is_served(self, root: Path) -> None:
        (root / "1.jpg").write_bytes(JPEG)
        response = served(f"{root}/1.jpg", "poster")
        assert (response.content, response.headers["content-type"]) == (JPEG, "image/jpeg")

    @pytest.mark.parametrize(
        ("head", "media_type"),
        [(b"\x1aE\xdf\xa3\x9fB\x86webm", "video/webm"), (b"\x00\x00\x00\x14ftypqt  ", "video/quicktime")],
    )
    def test_media_type_is_detected_from_content(self, root: Path, head: bytes, media_type: str) -> None:
        (root / "1.mp4").write_bytes(head + b"a video")
        assert served(f"{root}/1.mp4").headers["content-type"] == media_type

    def test_served_file_cannot_run_scripts(self, video: str) -> None:
        headers = served(video).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"] == "default-src 'none'; sandbox"
        assert headers["cache-control"].startswith("private,")


class TestRanges:
    @pytest.mark.parametrize("requested", IGNORED_RANGES)
    def test_whole_file_is_sent_for_other_ranges(self, video: str, requested: str | None) -> None:
        response = served(video, requested_range=requested)
        assert (response.status_code, response.content) == (200, MP4)
        assert int(response.headers["content-length"]) == SIZE
        assert response.headers["accept-ranges"] == "bytes"
        assert "content-range" not in response.headers

    @pytest.mark.parametrize(("requested", "part"), RANGES)
    def test_requested_part_is_sent(self, video: str, requested: str, part: slice) -> None:
        response = served(video, requested_range=requested)
        assert (response.status_code, response.content) == (206, MP4[part])
        assert int(response.headers["content-length"]) == len(MP4[part])
        assert response.headers["content-range"] == f"bytes {part.start}-{part.stop - 1}/{SIZE}"

    @pytest.mark.parametrize("requested", UNSATISFIABLE_RANGES)
    def test_range_after_the_end_is_rejected(self, video: str, requested: str) -> None:
        response = served(video, requested_range=requested)
        assert response.status_code == 416
        assert response.headers["content-range"] == f"bytes */{SIZE}"
        assert int(response.headers["content-length"]) == len(response.content)

    def test_large_file_is_sent_in_pieces(self, root: Path) -> None:
        content = MP4 + os.urandom(3 * 1024 * 1024)
        (root / "1.mp4").write_bytes(content)
        response = served(f"{root}/1.mp4", requested_range=f"bytes=10-{len(content) - 10}")
        assert response.content == content[10:-9]

    def test_no_range_is_sent_after_the_end_of_a_shortened_file(self, root: Path) -> None:
        file = media._local(root / "1.mp4")
        (root / "1.mp4").write_bytes(MP4[:100])
        assert b"".join(media._pieces(file, 0, SIZE)) == MP4[:100]


class TestConcurrency:
    PATH = "memory://shop/videos/1.mp4"

    @pytest.fixture
    def slots(self, memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> BoundedSemaphore:
        """One slot for a stream. The object is large."""
        memory.pipe_file("/shop/videos/1.mp4", MP4 + bytes(8 * 1024 * 1024))
        slots = BoundedSemaphore(1)
        monkeypatch.setattr(media, "_streams", slots)
        return slots

    def test_further_stream_is_rejected(self, slots: BoundedSemaphore) -> None:
        with slots:
            response = served(self.PATH)
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) > 0
        assert served(self.PATH).status_code == 200

    def test_slot_is_released_after_each_stream(self, slots: BoundedSemaphore) -> None:
        assert [served(self.PATH, requested_range="bytes=0-9").status_code for _ in range(3)] == [206] * 3

    def test_files_on_disk_need_no_slot(self, slots: BoundedSemaphore, root: Path) -> None:
        with slots:
            assert served(f"{root}/1.mp4").status_code == 200

    def test_rejected_range_needs_no_slot(self, slots: BoundedSemaphore) -> None:
        assert served(self.PATH, requested_range="bytes=999999999999-").status_code == 416
        assert served(self.PATH).status_code == 200

    @pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
    async def test_slot_is_released_if_the_client_disconnects(self, slots: BoundedSemaphore, spec_version: str) -> None:
        assert 0 < await self.bytes_until_disconnect(spec_version) < 8 * 1024 * 1024
        assert served(self.PATH, requested_range="bytes=0-0").status_code == 206

    async def test_slot_is_released_if_the_object_vanishes(
        self, slots: BoundedSemaphore, memory: MemoryFileSystem
    ) -> None:
        response = serve(self.PATH, "video", None)
        memory.rm_file("/shop/videos/1.mp4")

        async def send(_: Any) -> None:
            """Send nothing."""

        with pytest.raises(ClientDisconnect):
            await response({**SCOPE, "asgi": {"spec_version": "2.4"}}, send, send)  # type: ignore[arg-type]
        assert slots.acquire(blocking=False)

    async def bytes_until_disconnect(self, spec_version: str) -> int:
        """Request the video, disconnect after the first piece, and return the number of bytes that were sent.

        :param spec_version: Before 2.4, a server reports a disconnected client only to ``receive``.
        """
        sent = [0]
        has_begun = asyncio.Event()
        messages = iter([{"type": "http.request", "body": b"", "more_body": False}])

        async def receive() -> dict[str, Any]:
            if message := next(messages, None):
                return message
            await has_begun.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent[0] += len(message.get("body", b""))
            if sent[0]:
                has_begun.set()
                if spec_version == "2.4":
                    raise OSError

        with suppress(OSError):
            await application(self.PATH)({**SCOPE, "asgi": {"spec_version": spec_version}}, receive, send)
        return sent[0]
