"""Save a finished video over real HTTP to disk, S3 and Google Storage, completely or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from gcsfs.core import GCSFileSystem  # type: ignore[import-untyped]

from airflow_provider_toapis.api.connecting import MAX_REDIRECTS
from airflow_provider_toapis.api.download import MAX_ATTEMPTS, MAX_BYTES, StoredFile
from airflow_provider_toapis.api.transport import CHUNK_SIZE
from airflow_provider_toapis.exceptions import ToAPIsDownloadError, ToAPIsFileError
from airflow_provider_toapis.hooks.toapis import ToAPIsHook
from airflow_provider_toapis.storage import require_writable
from tests.clock import replace_clock
from tests.errors import rejects
from tests.integration.file_host import ENDLESS, FileHost, Response, etag, redirect
from tests.integration.status_service import VIDEO_ID, StatusService
from tests.integration.storages import (
    GoogleStorage,
    LocalStorage,
    S3Storage,
    Storage,
    google_server,
)

API_KEY = "sk-saving-0123456789abcdef"
MIB = 1024 * 1024
#: More than one part of an S3 upload (8 MiB).
SIZE = 9 * MIB + 4321
HALF = 4 * MIB
NEARLY_ALL = SIZE * 99 // 100
#: Upper limit for the bytes that both ends buffer while the client does not read.
IN_FLIGHT = 16 * MIB
EARLIER = b"yesterday's video"


def mp4(seed: int, size: int = SIZE) -> bytes:
    head = b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isomiso2avc1mp41"
    return head + random.Random(seed).randbytes(size - len(head))


VIDEO = mp4(1)
#: The same length as VIDEO.
OTHER_VIDEO = mp4(2)


@pytest.fixture(scope="module")
def google_url(stores: Any) -> Iterator[str]:
    with google_server() as url:
        stores.attach(protocol="gs", fs=GCSFileSystem(endpoint_url=url, token="anon"))
        yield url


@pytest.fixture
def local(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path)


@pytest.fixture
def s3(s3_client: Any) -> S3Storage:
    return S3Storage(s3_client, f"videos-{uuid4().hex}")


@pytest.fixture
def google(google_url: str) -> Iterator[GoogleStorage]:
    with httpx.Client(base_url=google_url, trust_env=False) as client:
        yield GoogleStorage(client, f"videos-{uuid4().hex}")


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


all_storages = pytest.mark.parametrize("storage", ["local", "s3", "google"], indirect=True)
on_disk = pytest.mark.parametrize("storage", ["local"], indirect=True)
in_s3 = pytest.mark.parametrize("storage", ["s3"], indirect=True)


@pytest.fixture
def host() -> Iterator[FileHost]:
    with FileHost(VIDEO) as host:
        yield host


@pytest.fixture
def other_host() -> Iterator[FileHost]:
    with FileHost(VIDEO) as host:
        yield host


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the list of the client's waits, which take no time."""
    slept: list[float] = []
    replace_clock(monkeypatch, time.time, slept.append)
    return slept


@pytest.fixture
def service(
    storage: Storage, host: FileHost, other_host: FileHost, slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> Iterator[StatusService]:
    """Run a service with a result URL at the host. Check the invariants of all downloads afterwards."""
    with StatusService() as service:
        service.set_urls(f"{host.url}/videos/shoe.mp4?signature=first")
        # Without verification, because loading the CA certificates is slow, and http does not need them.
        extra = {"timeout": 5, "verify": False}
        connection = {"conn_type": "toapis", "host": service.url, "password": API_KEY, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_TOAPIS_DEFAULT", json.dumps(connection))
        yield service
    assert service.posted == []
    assert digest(storage.read()) in map(digest, (None, EARLIER, VIDEO, OTHER_VIDEO))
    assert storage.leftovers() == []
    for received in host.requests + other_host.requests:
        assert "authorization" not in received.headers
        assert API_KEY not in str(received)


Save = Callable[..., StoredFile]


@pytest.fixture
def save(service: StatusService, storage: Storage) -> Save:
    def save(max_bytes: int = MAX_BYTES) -> StoredFile:
        return ToAPIsHook().download_video(VIDEO_ID, storage.output_path, max_bytes=max_bytes)

    return save


def digest(content: bytes | None) -> str | None:
    return hashlib.sha256(content).hexdigest() if content is not None else None


def assert_saved(stored: StoredFile, storage: Storage, content: bytes = VIDEO) -> None:
    assert digest(storage.read()) == stored.sha256 == digest(content)
    assert stored.size == len(content)


def assert_nothing_saved(
    save: Save, storage: Storage, match: str | None = None, *, is_lost: bool = False, **options: Any
) -> None:
    with pytest.raises(ToAPIsDownloadError, match=match) as raised:
        save(**options)
    assert (raised.value.video_id, raised.value.is_lost) == (VIDEO_ID, is_lost)
    assert "signature" not in str(raised.value)
    assert digest(storage.read()) is None


class TestCompleteDownload:
    @all_storages
    def test_complete_file_is_saved_with_size_and_hash(
        self, save: Save, storage: Storage, host: FileHost, slept: list[float]
    ) -> None:
        stored = save()
        assert_saved(stored, storage)
        assert stored.path == storage.output_path
        assert (len(host.requests), slept) == (1, [])

    def test_file_without_content_length_is_saved(self, save: Save, storage: Storage, host: FileHost) -> None:
        host.respond_with(Response(chunked=True))
        assert_saved(save(), storage)

    def test_file_of_exactly_max_bytes_is_saved(self, save: Save, storage: Storage) -> None:
        assert_saved(save(max_bytes=SIZE), storage)

    def test_existing_file_is_replaced_only_by_a_complete_download(
        self, save: Save, storage: Storage, host: FileHost
    ) -> None:
        seen: list[str | None] = []
        storage.put(EARLIER)
        host.respond_with(Response(stops_after=HALF), Response(before_end=lambda: seen.append(digest(storage.read()))))
        assert_saved(save(), storage)
        assert seen == [digest(EARLIER)]

    def test_failed_download_leaves_the_existing_file_unchanged(
        self, save: Save, storage: Storage, host: FileHost
    ) -> None:
        storage.put(EARLIER)
        host.always_respond_with(Response(stops_after=NEARLY_ALL, headers={"etag": ""}))
        with pytest.raises(ToAPIsDownloadError):
            save()
        assert digest(storage.read()) == digest(EARLIER)


class TestBrokenConnection:
    @all_storages
    @pytest.mark.parametrize("arrived", [HALF, NEARLY_ALL])
    def test_only_missing_bytes_are_downloaded_again(
        self, save: Save, storage: Storage, host: FileHost, arrived: int, slept: list[float]
    ) -> None:
        host.respond_with(Response(stops_after=arrived))
        assert_saved(save(), storage)
        first, second = host.requests
        assert "range" not in first.headers
        # The client downloads again what it has received but not written.
        written = SIZE - second.sent
        assert arrived - CHUNK_SIZE < written <= arrived
        assert second.headers["range"] == f"bytes={written}-"
        assert second.headers["if-range"] == etag(VIDEO)
        assert len(slept) == 1

    @pytest.mark.parametrize(
        "response",
        [Response(drops_connection=True), Response(stops_after=0)],
        ids=["without a response", "after the headers"],
    )
    def test_connection_lost_before_the_first_byte_starts_over(
        self, save: Save, storage: Storage, host: FileHost, response: Response
    ) -> None:
        host.respond_with(response)
        assert_saved(save(), storage)
        assert [request.headers.get("range") for request in host.requests] == [None, None]

    @pytest.mark.parametrize("arrived", [HALF, NEARLY_ALL])
    def test_host_without_range_support_sends_the_whole_file_again(
        self, save: Save, storage: Storage, host: FileHost, arrived: int
    ) -> None:
        host.ranges = False
        host.respond_with(Response(stops_after=arrived))
        assert_saved(save(), storage)
        assert [request.sent for request in host.requests] == [arrived, SIZE]
        assert "range" in host.requests[1].headers

    @pytest.mark.parametrize("validator", ["", f"W/{etag(VIDEO)}"], ids=["no ETag", "weak ETag"])
    def test_host_without_strong_etag_sends_the_whole_file_again(
        self, save: Save, storage: Storage, host: FileHost, validator: str
    ) -> None:
        host.respond_with(Response(stops_after=HALF, headers={"etag": validator}))
        assert_saved(save(), storage)
        assert [request.headers.get("range") for request in host.requests] == [None, None]

    def test_each_attempt_resumes_where_the_last_one_stopped(
        self, save: Save, storage: Storage, host: FileHost
    ) -> None:
        host.respond_with(*[Response(stops_after=MIB) for _ in range(MAX_ATTEMPTS - 1)])
        assert_saved(save(), storage)
        broken = MAX_ATTEMPTS - 1
        assert [request.sent for request in host.requests] == [*[MIB] * broken, SIZE - broken * MIB]

    def test_partial_response_is_followed_by_a_request_for_the_next_part(
        self, save: Save, storage: Storage, host: FileHost
    ) -> None:
        host.respond_with(Response(stops_after=HALF), Response(part=(HALF, HALF + MIB - 1)))
        assert_saved(save(), storage)
        assert host.requests[2].headers["range"] == f"bytes={HALF + MIB}-"

    @pytest.mark.parametrize("between", [403, 503])
    def test_received_bytes_survive_an_error_response(
        self, save: Save, storage: Storage, host: FileHost, between: int
    ) -> None:
        host.respond_with(Response(stops_after=HALF), Response(between, content=b"no"))
        assert_saved(save(), storage)
        assert host.requests[2].sent == SIZE - HALF


class TestContentChangesDuringDownload:
    def test_new_content_is_saved_whole_and_never_mixed(self, save: Save, storage: Storage, host: FileHost) -> None:
        host.content = OTHER_VIDEO
        host.respond_with(Response(content=VIDEO, stops_after=HALF))
        assert_saved(save(), storage, OTHER_VIDEO)
        assert host.requests[1].headers["if-range"] == etag(VIDEO)
        assert host.requests[1].sent == SIZE

    @pytest.mark.parametrize("content", [OTHER_VIDEO, mp4(3, SIZE + 1000)], ids=["same length", "longer"])
    def test_part_of_other_content_is_discarded(
        self, save: Save, storage: Storage, host: FileHost, content: bytes
    ) -> None:
        host.respond_with(Response(stops_after=HALF), Response(content=content, part=(HALF, len(content) - 1)))
        assert_saved(save(), storage)
        assert "range" not in host.requests[2].headers

    @pytest.mark.parametrize("first", [0, HALF - 1000, HALF + 1000])
    def test_part_with_an_unexpected_start_is_discarded(
        self, save: Save, storage: Storage, host: FileHost, first: int
    ) -> None:
        host.respond_with(Response(stops_after=HALF), Response(part=(first, SIZE - 1)))
        assert_saved(save(), storage)
        assert "range" not in host.requests[2].headers

    def test_part_without_content_range_is_discarded(self, save: Save, storage: Storage, host: FileHost) -> None:
        host.respond_with(Response(stops_after=HALF), Response(206, content=VIDEO[HALF:]))
        assert_saved(save(), storage)

    def test_unsatisfiable_range_downloads_the_whole_file_again(
        self, save: Save, storage: Storage, host: FileHost
    ) -> None:
        host.respond_with(Response(stops_after=HALF), Response(416, content=b"no"))
        assert_saved(save(), storage)
        assert "range" not in host.requests[2].headers

    def test_unrequested_part_is_not_saved(self, save: Save, storage: Storage, host: FileHost) -> None:
        host.respond_with(Response(part=(HALF, SIZE - 1)))
        assert_saved(save(), storage)


class TestWrongLength:
    def test_body_shorter_than_content_length_is_downloaded_again(
        self, save: Save, storage: Storage, host: FileHost
    ) -> None:
        host.respond_with(Response(headers={"content-length": str(SIZE + 1000)}))
        assert_saved(save(), storage)

    @pytest.mark.parametrize("length", [SIZE - 1000, SIZE + 1000])
    def test_chunked_body_with_wrong_content_length_is_downloaded_again(
        self, save: Save, storage: Storage, host: FileHost, length: int
    ) -> None:
        host.respond_with(Response(chunked=True, headers={"content-length": str(length)}))
        assert_saved(save(), storage)
        assert len(host.requests) == 2

    def test_permanently_wrong_length_saves_nothing(self, save: Save, storage: Storage, host: FileHost) -> None:
        host.always_respond_with(Response(headers={"content-length": str(SIZE + 1000)}))
        assert_nothing_saved(save, storage)
        assert len(host.requests) == MAX_ATTEMPTS


class TestExpiredUrl:
    @pytest.mark.parametrize("status", [403, 404])
    def test_expired_url_is_replaced_by_a_fresh_one(
        self, save: Save, storage: Storage, host: FileHost, service: StatusService, status: int
    ) -> None:
        service.set_urls(f"{host.url}/first.mp4", f"{host.url}/fresh.mp4")
        host.respond_with(Response(status, content=b"gone"))
        assert_saved(save(), storage)
        assert [request.path for request in host.requests] == ["/first.mp4", "/fresh.mp4"]
        assert service.polls == 2

    def test_url_that_expires_midway_is_replaced_by_one_at_another_host(
        self, save: Save, storage: Storage, host: FileHost, other_host: FileHost, service: StatusService
    ) -> None:
        service.set_urls(f"{host.url}/first.mp4", f"{other_host.url}/fresh.mp4")
        host.respond_with(Response(stops_after=HALF), Response(403, content=b"gone"))
        assert_saved(save(), storage)
        assert len(other_host.requests) == 1

    def test_permanently_failing_url_saves_nothing(self, save: Save, storage: Storage, host: FileHost) -> None:
        host.always_respond_with(Response(404, content=b"gone"))
        assert_nothing_saved(save, storage, "HTTP 404")

    def test_failing_url_of_an_expired_result_reports_it_as_lost(
        self, save: Save, storage: Storage, host: FileHost, service: StatusService
    ) -> None:
        service.expires_in = -3600
        host.always_respond_with(Response(404, content=b"gone"))
        assert_nothing_saved(save, storage, "HTTP 404", is_lost=True)
        assert len(host.requests) == 1


class TestRedirect:
    def test_redirect_to_another_host_is_followed(
        self, save: Save, storage: Storage, host: FileHost, other_host: FileHost
    ) -> None:
        host.always_respond_with(redirect(f"{other_host.url}/shoe.mp4"))
        other_host.respond_with(Response(stops_after=HALF))
        assert_saved(save(), storage)
        assert other_host.requests[1].headers["range"] == f"bytes={HALF}-"

    def test_max_redirects_are_followed(self, save: Save, storage: Storage, host: FileHost) -> None:
        host.respond_with(*[redirect(f"{host.url}/{number}") for number in range(MAX_REDIRECTS)])
        assert_saved(save(), storage)

    def test_more_than_max_redirects_is_an_error(self, save: Save, storage: Storage, host: FileHost) -> None:
        host.always_respond_with(redirect(f"{host.url}/again"))
        assert_nothing_saved(save, storage)
        assert len(host.requests) == MAX_ATTEMPTS * (MAX_REDIRECTS + 1)

    @on_disk
    def test_redirect_to_a_private_address_is_rejected_at_every_hop(
        self, save: Save, storage: Storage, host: FileHost, other_host: FileHost
    ) -> None:
        host.always_respond_with(redirect(f"{other_host.url}/shoe.mp4"))
        other_host.always_respond_with(redirect("http://169.254.169.254/latest/meta-data/"))
        assert_nothing_saved(save, storage, "private address")
        assert len(other_host.requests) == MAX_ATTEMPTS

    @pytest.mark.parametrize("scheme", ["file", "ftp"])
    def test_redirect_to_another_scheme_is_an_error(
        self, save: Save, storage: Storage, host: FileHost, tmp_path: Path, scheme: str
    ) -> None:
        other = tmp_path / "other.mp4"
        other.write_bytes(OTHER_VIDEO)
        host.always_respond_with(redirect(f"{scheme}://{host.address if scheme == 'ftp' else ''}{other}"))
        assert_nothing_saved(save, storage)


class TestCredentials:
    def test_credentials_in_a_result_url_are_not_sent(
        self, save: Save, storage: Storage, host: FileHost, service: StatusService
    ) -> None:
        service.set_urls(f"http://user:pw@{host.address}/shoe.mp4")
        assert_saved(save(), storage)
        assert len(host.requests) == 1

    def test_credentials_in_a_redirect_are_not_sent(
        self, save: Save, storage: Storage, host: FileHost, other_host: FileHost
    ) -> None:
        host.respond_with(redirect(f"http://user:pw@{other_host.address}/shoe.mp4"))
        assert_saved(save(), storage)
        assert len(other_host.requests) == 1


class TestInvalidHostName:
    @on_disk
    @pytest.mark.parametrize("url", ["https://files..toapis.com/a.mp4", "https://xn--/a.mp4"])
    def test_invalid_host_in_a_result_url_raises_a_download_error(
        self, save: Save, storage: Storage, service: StatusService, url: str
    ) -> None:
        service.set_urls(url)
        assert_nothing_saved(save, storage, "host name is invalid")

    @on_disk
    @pytest.mark.parametrize("location", ["http://a..b/", "http://xn--/", f"http://{'a' * 70}.com"])
    def test_invalid_host_in_a_redirect_raises_a_download_error(
        self, save: Save, storage: Storage, host: FileHost, location: str
    ) -> None:
        host.always_respond_with(redirect(location))
        assert_nothing_saved(save, storage, "host name is invalid")


class TestTooLarge:
    @pytest.mark.parametrize("chunked", [False, True], ids=["announced", "not announced"])
    def test_file_above_max_bytes_is_not_saved_and_not_retried(
        self, save: Save, storage: Storage, host: FileHost, chunked: bool
    ) -> None:
        host.always_respond_with(Response(chunked=chunked))
        assert_nothing_saved(save, storage, f"max_bytes.*{SIZE - 1:,}", max_bytes=SIZE - 1)
        assert len(host.requests) == 1

    def test_content_length_above_max_bytes_is_rejected_before_the_body(
        self, save: Save, storage: Storage, host: FileHost
    ) -> None:
        host.always_respond_with(Response(headers={"content-length": str(SIZE + 1)}, stops_after=0))
        assert_nothing_saved(save, storage, f"max_bytes.*{SIZE:,}", max_bytes=SIZE)
        assert len(host.requests) == 1

    def test_endless_body_is_cut_off(self, save: Save, storage: Storage, host: FileHost) -> None:
        host.always_respond_with(Response(endless=True))
        assert_nothing_saved(save, storage, "max_bytes", max_bytes=SIZE)
        assert [request.sent < SIZE + IN_FLIGHT < ENDLESS for request in host.requests] == [True]


class TestMediaType:
    @pytest.mark.parametrize("media_type", ["text/html; charset=utf-8", "application/json", "image/jpeg"])
    def test_other_media_type_is_not_saved(self, save: Save, storage: Storage, host: FileHost, media_type: str) -> None:
        host.always_respond_with(Response(headers={"content-type": media_type}))
        assert_nothing_saved(save, storage, media_type.partition(";")[0])

    def test_single_html_response_is_retried(self, save: Save, storage: Storage, host: FileHost) -> None:
        host.respond_with(Response(headers={"content-type": "text/html"}, content=b"<html>wait</html>"))
        assert_saved(save(), storage)


class TestContent:
    @pytest.mark.parametrize(
        "content",
        [b"<!DOCTYPE html><title>wait</title>", b'{"error": "later"}', b'<?xml version="1.0"?><Error/>', b"x"],
        ids=["HTML", "JSON", "XML", "one byte"],
    )
    def test_content_that_is_not_a_video_is_downloaded_again(
        self, save: Save, storage: Storage, host: FileHost, content: bytes
    ) -> None:
        host.respond_with(Response(content=content))
        assert_saved(save(), storage)
        host.always_respond_with(Response(content=content))
        with pytest.raises(ToAPIsDownloadError):
            save()
        assert digest(storage.read()) == digest(VIDEO)
        assert storage.leftovers() == []

    @on_disk
    def test_unknown_format_is_saved_with_a_warning(self, save: Save, storage: LocalStorage, host: FileHost) -> None:
        host.content = bytes(range(256)) * 100
        stored = save()
        assert stored.warnings == ("unknown_format",)
        assert storage.read() == host.content
        # The service fixture expects only videos in the storage.
        Path(stored.path).unlink()


class TestRequireWritable:
    @in_s3
    def test_bucket_check_leaves_no_object_behind(self, storage: S3Storage) -> None:
        require_writable(storage.output_path, deletable=True)
        assert storage.leftovers() == []

    @in_s3
    def test_missing_bucket_is_rejected_as_output_path(self, storage: S3Storage) -> None:
        storage.delete_bucket()
        with rejects("output_path", error=ToAPIsFileError):
            require_writable(storage.output_path)


class TestWriteFailure:
    @on_disk
    def test_full_disk_is_reported_and_leaves_no_file(self, save: Save, storage: Storage, host: FileHost) -> None:
        with largest_file(HALF):
            assert_nothing_saved(save, storage, "File too large")
        assert len(host.requests) == 1
        assert_saved(save(), storage)

    @in_s3
    def test_deleted_bucket_is_reported_and_leaves_no_object(
        self, save: Save, storage: S3Storage, host: FileHost
    ) -> None:
        host.respond_with(Response(before_end=storage.delete_bucket))
        assert_nothing_saved(save, storage)
        assert len(host.requests) == 1


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Limit the size of the files that this process writes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


class TestKilledWorker:
    def test_killed_download_leaves_no_partial_file_and_the_retry_saves_the_video(
        self, save: Save, storage: Any, host: FileHost
    ) -> None:
        reached, released = threading.Event(), threading.Event()

        def block() -> None:
            reached.set()
            released.wait()

        host.respond_with(Response(before_end=block))
        code = "import sys; from airflow_provider_toapis.hooks.toapis import ToAPIsHook as Hook"
        code += "; Hook().download_video(sys.argv[1], sys.argv[2])"
        with subprocess.Popen([sys.executable, "-c", code, VIDEO_ID, storage.output_path], env=os.environ) as worker:
            try:
                wait_until(lambda: reached.is_set() and storage.leftovers(), worker)
            finally:
                worker.kill()
                released.set()
        assert storage.leftovers() != []
        assert digest(storage.read()) is None
        storage.expire_unfinished()
        assert_saved(save(), storage)


def wait_until(happened: Callable[[], object], worker: subprocess.Popen[bytes]) -> None:
    """Wait for a condition while the worker is running."""
    deadline = time.monotonic() + 60
    while not happened():
        assert worker.poll() is None
        assert time.monotonic() < deadline
        with suppress(subprocess.TimeoutExpired):
            worker.wait(0.05)
