"""Keeping a finished video over real HTTP: on disk, in S3 and in Google Storage the same, whole or not at all."""

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
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from airflow.providers.common.compat.sdk import ObjectStoragePath
from gcsfs.core import GCSFileSystem  # type: ignore[import-untyped]

from airflow_provider_toapis.api.connecting import MAX_REDIRECTS
from airflow_provider_toapis.api.download import MAX_ATTEMPTS, MAX_BYTES, StoredFile
from airflow_provider_toapis.api.transport import CHUNK_SIZE
from airflow_provider_toapis.exceptions import ToAPIsDownloadError, ToAPIsFileError
from airflow_provider_toapis.hooks.toapis import ToAPIsHook
from airflow_provider_toapis.storage import require_writable
from tests.clock import replace_clock
from tests.errors import rejects
from tests.integration.file_host import ENDLESS, Answer, FileHost, etag, redirect
from tests.integration.places import (
    GooglePlace,
    LocalPlace,
    Place,
    S3Place,
    aws_connection,
    google_server,
    s3_client_at,
    s3_server,
)
from tests.integration.status_service import VIDEO_ID, StatusService

API_KEY = "sk-keeping-0123456789abcdef"
MIB = 1024 * 1024
#: More than one part of an upload to S3, which is 8 MiB.
SIZE = 9 * MIB + 4321
HALF = 4 * MIB
MOST = SIZE * 99 // 100
#: What fits between a host and a client that does not read: both ends buffer.
IN_FLIGHT = 16 * MIB
EARLIER = b"yesterday's video"


def mp4(seed: int, size: int = SIZE) -> bytes:
    head = b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isomiso2avc1mp41"
    return head + random.Random(seed).randbytes(size - len(head))


VIDEO = mp4(1)
#: As long as the other.
OTHER_VIDEO = mp4(2)


@pytest.fixture(scope="module")
def stores() -> Iterator[Any]:
    """Airflow's module of object stores, which forgets those of this module at the end."""
    store = import_module(f"{ObjectStoragePath.__module__.rpartition('.')[0]}.store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_STORE_CACHE", {})
        yield store


@pytest.fixture(scope="module")
def s3_client(stores: Any) -> Iterator[Any]:
    with s3_server() as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(aws_connection(url)))
        yield s3_client_at(url)


@pytest.fixture(scope="module")
def google_url(stores: Any) -> Iterator[str]:
    with google_server() as url:
        stores.attach(protocol="gs", fs=GCSFileSystem(endpoint_url=url, token="anon"))
        yield url


@pytest.fixture
def local(tmp_path: Path) -> LocalPlace:
    return LocalPlace(tmp_path)


@pytest.fixture
def s3(s3_client: Any) -> S3Place:
    return S3Place(s3_client, f"videos-{uuid4().hex}")


@pytest.fixture
def google(google_url: str) -> Iterator[GooglePlace]:
    with httpx.Client(base_url=google_url, trust_env=False) as client:
        yield GooglePlace(client, f"videos-{uuid4().hex}")


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


everywhere = pytest.mark.parametrize("place", ["local", "s3", "google"], indirect=True)
on_disk = pytest.mark.parametrize("place", ["local"], indirect=True)
in_s3 = pytest.mark.parametrize("place", ["s3"], indirect=True)


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
    """The client's waits, over which no time passes."""
    slept: list[float] = []
    replace_clock(monkeypatch, time.time, slept.append)
    return slept


@pytest.fixture
def service(
    place: Place, host: FileHost, other_host: FileHost, slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> Iterator[StatusService]:
    """The service with a link to the host; afterwards, what must hold however a download ended."""
    with StatusService() as service:
        service.links(f"{host.url}/videos/shoe.mp4?signature=first")
        # Loading the CA certificates takes longer than all that a test does, and plain http needs none.
        extra = {"timeout": 5, "verify": False}
        connection = {"conn_type": "toapis", "host": service.url, "password": API_KEY, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_TOAPIS_DEFAULT", json.dumps(connection))
        yield service
    assert service.posted == []
    assert digest(place.read()) in map(digest, (None, EARLIER, VIDEO, OTHER_VIDEO))
    assert place.leftovers() == []
    for received in host.requests + other_host.requests:
        assert "authorization" not in received.headers
        assert API_KEY not in str(received)


Keep = Callable[..., StoredFile]


@pytest.fixture
def keep(service: StatusService, place: Place) -> Keep:
    def keep(max_bytes: int = MAX_BYTES) -> StoredFile:
        return ToAPIsHook().download_video(VIDEO_ID, place.output_path, max_bytes=max_bytes)

    return keep


def digest(content: bytes | None) -> str | None:
    return hashlib.sha256(content).hexdigest() if content is not None else None


def assert_kept(stored: StoredFile, place: Place, content: bytes = VIDEO) -> None:
    assert digest(place.read()) == stored.sha256 == digest(content)
    assert stored.size == len(content)


def assert_nothing_kept(
    keep: Keep, place: Place, match: str | None = None, *, is_lost: bool = False, **options: Any
) -> None:
    with pytest.raises(ToAPIsDownloadError, match=match) as raised:
        keep(**options)
    assert (raised.value.video_id, raised.value.is_lost) == (VIDEO_ID, is_lost)
    assert "signature" not in str(raised.value)
    assert digest(place.read()) is None


class TestWholeFile:
    @everywhere
    def test_is_kept_with_its_size_and_hash(self, keep: Keep, place: Place, host: FileHost, slept: list[float]) -> None:
        stored = keep()
        assert_kept(stored, place)
        assert stored.path == place.output_path
        assert (len(host.requests), slept) == (1, [])

    def test_that_is_not_announced_is_kept(self, keep: Keep, place: Place, host: FileHost) -> None:
        host.will(Answer(chunked=True))
        assert_kept(keep(), place)

    def test_of_the_largest_size_allowed_is_kept(self, keep: Keep, place: Place) -> None:
        assert_kept(keep(max_bytes=SIZE), place)

    def test_replaces_an_earlier_one_only_when_it_is_whole(self, keep: Keep, place: Place, host: FileHost) -> None:
        seen: list[str | None] = []
        place.put(EARLIER)
        host.will(Answer(stops_after=HALF), Answer(meanwhile=lambda: seen.append(digest(place.read()))))
        assert_kept(keep(), place)
        assert seen == [digest(EARLIER)]

    def test_that_never_comes_leaves_an_earlier_one(self, keep: Keep, place: Place, host: FileHost) -> None:
        place.put(EARLIER)
        host.always(Answer(stops_after=MOST, headers={"etag": ""}))
        with pytest.raises(ToAPIsDownloadError):
            keep()
        assert digest(place.read()) == digest(EARLIER)


class TestBrokenConnection:
    @everywhere
    @pytest.mark.parametrize("arrived", [HALF, MOST])
    def test_only_the_missing_bytes_are_fetched(
        self, keep: Keep, place: Place, host: FileHost, arrived: int, slept: list[float]
    ) -> None:
        host.will(Answer(stops_after=arrived))
        assert_kept(keep(), place)
        first, second = host.requests
        assert "range" not in first.headers
        # What the client had in hand and had not passed on is fetched again.
        kept = SIZE - second.sent
        assert arrived - CHUNK_SIZE < kept <= arrived
        assert second.headers["range"] == f"bytes={kept}-"
        assert second.headers["if-range"] == etag(VIDEO)
        assert len(slept) == 1

    @pytest.mark.parametrize(
        "answer", [Answer(hangs_up=True), Answer(stops_after=0)], ids=["without an answer", "after the headers"]
    )
    def test_before_the_first_byte_begins_anew(self, keep: Keep, place: Place, host: FileHost, answer: Answer) -> None:
        host.will(answer)
        assert_kept(keep(), place)
        assert [request.headers.get("range") for request in host.requests] == [None, None]

    @pytest.mark.parametrize("arrived", [HALF, MOST])
    def test_host_without_ranges_sends_all_again(self, keep: Keep, place: Place, host: FileHost, arrived: int) -> None:
        host.ranges = False
        host.will(Answer(stops_after=arrived))
        assert_kept(keep(), place)
        assert [request.sent for request in host.requests] == [arrived, SIZE]
        assert "range" in host.requests[1].headers

    @pytest.mark.parametrize("validator", ["", f"W/{etag(VIDEO)}"], ids=["no ETag", "weak ETag"])
    def test_host_that_cannot_name_the_content_sends_all_again(
        self, keep: Keep, place: Place, host: FileHost, validator: str
    ) -> None:
        host.will(Answer(stops_after=HALF, headers={"etag": validator}))
        assert_kept(keep(), place)
        assert [request.headers.get("range") for request in host.requests] == [None, None]

    def test_every_attempt_brings_the_file_further(self, keep: Keep, place: Place, host: FileHost) -> None:
        host.will(*[Answer(stops_after=MIB) for _ in range(MAX_ATTEMPTS - 1)])
        assert_kept(keep(), place)
        broken = MAX_ATTEMPTS - 1
        assert [request.sent for request in host.requests] == [*[MIB] * broken, SIZE - broken * MIB]

    def test_host_that_sends_parts_only_is_asked_for_the_next(self, keep: Keep, place: Place, host: FileHost) -> None:
        host.will(Answer(stops_after=HALF), Answer(part=(HALF, HALF + MIB - 1)))
        assert_kept(keep(), place)
        assert host.requests[2].headers["range"] == f"bytes={HALF + MIB}-"

    @pytest.mark.parametrize("between", [403, 503])
    def test_what_has_arrived_outlives_an_answer_without_a_file(
        self, keep: Keep, place: Place, host: FileHost, between: int
    ) -> None:
        host.will(Answer(stops_after=HALF), Answer(between, content=b"no"))
        assert_kept(keep(), place)
        assert host.requests[2].sent == SIZE - HALF


class TestOtherContentUnderTheLink:
    def test_is_kept_whole_and_never_mixed(self, keep: Keep, place: Place, host: FileHost) -> None:
        host.content = OTHER_VIDEO
        host.will(Answer(content=VIDEO, stops_after=HALF))
        assert_kept(keep(), place, OTHER_VIDEO)
        assert host.requests[1].headers["if-range"] == etag(VIDEO)
        assert host.requests[1].sent == SIZE

    @pytest.mark.parametrize("content", [OTHER_VIDEO, mp4(3, SIZE + 1000)], ids=["same length", "longer"])
    def test_part_of_it_is_thrown_away(self, keep: Keep, place: Place, host: FileHost, content: bytes) -> None:
        host.will(Answer(stops_after=HALF), Answer(content=content, part=(HALF, len(content) - 1)))
        assert_kept(keep(), place)
        assert "range" not in host.requests[2].headers

    @pytest.mark.parametrize("first", [0, HALF - 1000, HALF + 1000])
    def test_part_from_another_start_is_thrown_away(self, keep: Keep, place: Place, host: FileHost, first: int) -> None:
        host.will(Answer(stops_after=HALF), Answer(part=(first, SIZE - 1)))
        assert_kept(keep(), place)
        assert "range" not in host.requests[2].headers

    def test_part_without_a_range_is_thrown_away(self, keep: Keep, place: Place, host: FileHost) -> None:
        host.will(Answer(stops_after=HALF), Answer(206, content=VIDEO[HALF:]))
        assert_kept(keep(), place)

    def test_that_ends_before_what_has_arrived_is_fetched_whole(self, keep: Keep, place: Place, host: FileHost) -> None:
        host.will(Answer(stops_after=HALF), Answer(416, content=b"no"))
        assert_kept(keep(), place)
        assert "range" not in host.requests[2].headers

    def test_part_that_nobody_asked_for_is_not_kept(self, keep: Keep, place: Place, host: FileHost) -> None:
        host.will(Answer(part=(HALF, SIZE - 1)))
        assert_kept(keep(), place)


class TestWrongLength:
    def test_more_announced_than_sent(self, keep: Keep, place: Place, host: FileHost) -> None:
        host.will(Answer(headers={"content-length": str(SIZE + 1000)}))
        assert_kept(keep(), place)

    @pytest.mark.parametrize("length", [SIZE - 1000, SIZE + 1000])
    def test_announced_beside_a_body_that_tells_its_own_length(
        self, keep: Keep, place: Place, host: FileHost, length: int
    ) -> None:
        host.will(Answer(chunked=True, headers={"content-length": str(length)}))
        assert_kept(keep(), place)
        assert len(host.requests) == 2

    def test_that_stays_wrong_is_no_file(self, keep: Keep, place: Place, host: FileHost) -> None:
        host.always(Answer(headers={"content-length": str(SIZE + 1000)}))
        assert_nothing_kept(keep, place)
        assert len(host.requests) == MAX_ATTEMPTS


class TestDeadLink:
    @pytest.mark.parametrize("status", [403, 404])
    def test_is_exchanged_for_a_fresh_one(
        self, keep: Keep, place: Place, host: FileHost, service: StatusService, status: int
    ) -> None:
        service.links(f"{host.url}/first.mp4", f"{host.url}/fresh.mp4")
        host.will(Answer(status, content=b"gone"))
        assert_kept(keep(), place)
        assert [request.path for request in host.requests] == ["/first.mp4", "/fresh.mp4"]
        assert service.polls == 2

    def test_that_died_midway_is_exchanged_for_one_at_another_host(
        self, keep: Keep, place: Place, host: FileHost, other_host: FileHost, service: StatusService
    ) -> None:
        service.links(f"{host.url}/first.mp4", f"{other_host.url}/fresh.mp4")
        host.will(Answer(stops_after=HALF), Answer(403, content=b"gone"))
        assert_kept(keep(), place)
        assert len(other_host.requests) == 1

    def test_that_stays_dead_is_no_file(self, keep: Keep, place: Place, host: FileHost) -> None:
        host.always(Answer(404, content=b"gone"))
        assert_nothing_kept(keep, place, "HTTP 404")

    def test_of_an_expired_result_says_that_it_is_lost(
        self, keep: Keep, place: Place, host: FileHost, service: StatusService
    ) -> None:
        service.expires_in = -3600
        host.always(Answer(404, content=b"gone"))
        assert_nothing_kept(keep, place, "HTTP 404", is_lost=True)
        assert len(host.requests) == 1


class TestRedirect:
    def test_to_another_host_brings_the_file(
        self, keep: Keep, place: Place, host: FileHost, other_host: FileHost
    ) -> None:
        host.always(redirect(f"{other_host.url}/shoe.mp4"))
        other_host.will(Answer(stops_after=HALF))
        assert_kept(keep(), place)
        assert other_host.requests[1].headers["range"] == f"bytes={HALF}-"

    def test_as_often_as_allowed_brings_the_file(self, keep: Keep, place: Place, host: FileHost) -> None:
        host.will(*[redirect(f"{host.url}/{number}") for number in range(MAX_REDIRECTS)])
        assert_kept(keep(), place)

    def test_once_more_is_an_error(self, keep: Keep, place: Place, host: FileHost) -> None:
        host.always(redirect(f"{host.url}/again"))
        assert_nothing_kept(keep, place)
        assert len(host.requests) == MAX_ATTEMPTS * (MAX_REDIRECTS + 1)

    @on_disk
    def test_to_a_private_address_is_rejected_at_every_hop(
        self, keep: Keep, place: Place, host: FileHost, other_host: FileHost
    ) -> None:
        host.always(redirect(f"{other_host.url}/shoe.mp4"))
        other_host.always(redirect("http://169.254.169.254/latest/meta-data/"))
        assert_nothing_kept(keep, place, "private address")
        assert len(other_host.requests) == MAX_ATTEMPTS

    @pytest.mark.parametrize("scheme", ["file", "ftp"])
    def test_out_of_http_is_an_error(
        self, keep: Keep, place: Place, host: FileHost, tmp_path: Path, scheme: str
    ) -> None:
        other = tmp_path / "other.mp4"
        other.write_bytes(OTHER_VIDEO)
        host.always(redirect(f"{scheme}://{host.address if scheme == 'ftp' else ''}{other}"))
        assert_nothing_kept(keep, place)


class TestCredentials:
    def test_in_a_link_are_not_sent(self, keep: Keep, place: Place, host: FileHost, service: StatusService) -> None:
        service.links(f"http://user:pw@{host.address}/shoe.mp4")
        assert_kept(keep(), place)
        assert len(host.requests) == 1

    def test_in_a_redirect_are_not_sent(self, keep: Keep, place: Place, host: FileHost, other_host: FileHost) -> None:
        host.will(redirect(f"http://user:pw@{other_host.address}/shoe.mp4"))
        assert_kept(keep(), place)
        assert len(other_host.requests) == 1


class TestImpossibleHost:
    @on_disk
    @pytest.mark.parametrize("url", ["https://files..toapis.com/a.mp4", "https://xn--/a.mp4"])
    def test_of_a_result_url_is_an_error_of_ours(
        self, keep: Keep, place: Place, service: StatusService, url: str
    ) -> None:
        service.links(url)
        assert_nothing_kept(keep, place, "host name is invalid")

    @on_disk
    @pytest.mark.parametrize("location", ["http://a..b/", "http://xn--/", f"http://{'a' * 70}.com"])
    def test_of_a_redirect_is_an_error_of_ours(self, keep: Keep, place: Place, host: FileHost, location: str) -> None:
        host.always(redirect(location))
        assert_nothing_kept(keep, place, "host name is invalid")


class TestTooLarge:
    @pytest.mark.parametrize("chunked", [False, True], ids=["announced", "not announced"])
    def test_is_not_kept_and_not_tried_again(self, keep: Keep, place: Place, host: FileHost, chunked: bool) -> None:
        host.always(Answer(chunked=chunked))
        assert_nothing_kept(keep, place, f"max_bytes.*{SIZE - 1:,}", max_bytes=SIZE - 1)
        assert len(host.requests) == 1

    def test_is_refused_before_it_comes(self, keep: Keep, place: Place, host: FileHost) -> None:
        host.always(Answer(headers={"content-length": str(SIZE + 1)}, stops_after=0))
        assert_nothing_kept(keep, place, f"max_bytes.*{SIZE:,}", max_bytes=SIZE)
        assert len(host.requests) == 1

    def test_body_without_an_end_is_cut_off(self, keep: Keep, place: Place, host: FileHost) -> None:
        host.always(Answer(endless=True))
        assert_nothing_kept(keep, place, "max_bytes", max_bytes=SIZE)
        assert [request.sent < SIZE + IN_FLIGHT < ENDLESS for request in host.requests] == [True]


class TestNoVideo:
    @pytest.mark.parametrize("media_type", ["text/html; charset=utf-8", "application/json", "image/jpeg"])
    def test_is_not_kept(self, keep: Keep, place: Place, host: FileHost, media_type: str) -> None:
        host.always(Answer(headers={"content-type": media_type}))
        assert_nothing_kept(keep, place, media_type.partition(";")[0])

    def test_once_is_lived_through(self, keep: Keep, place: Place, host: FileHost) -> None:
        host.will(Answer(headers={"content-type": "text/html"}, content=b"<html>wait</html>"))
        assert_kept(keep(), place)


class TestContent:
    @pytest.mark.parametrize(
        "content",
        [b"<!DOCTYPE html><title>wait</title>", b'{"error": "later"}', b'<?xml version="1.0"?><Error/>', b"x"],
        ids=["HTML", "JSON", "XML", "one byte"],
    )
    def test_that_is_known_not_to_be_a_video_is_fetched_again(
        self, keep: Keep, place: Place, host: FileHost, content: bytes
    ) -> None:
        host.will(Answer(content=content))
        assert_kept(keep(), place)
        host.always(Answer(content=content))
        with pytest.raises(ToAPIsDownloadError):
            keep()
        assert digest(place.read()) == digest(VIDEO)
        assert place.leftovers() == []

    @on_disk
    def test_of_an_unknown_kind_is_saved_with_a_warning(self, keep: Keep, place: LocalPlace, host: FileHost) -> None:
        host.content = bytes(range(256)) * 100
        stored = keep()
        assert stored.warnings == ("unknown_format",)
        assert place.read() == host.content
        # The fixture knows only videos.
        Path(stored.path).unlink()


class TestBeforeTheSubmission:
    @in_s3
    def test_bucket_is_written_to_and_left_as_it_was(self, place: S3Place) -> None:
        require_writable(place.output_path, deletable=True)
        assert place.leftovers() == []

    @in_s3
    def test_missing_bucket_is_an_error_of_the_field(self, place: S3Place) -> None:
        place.delete_bucket()
        with rejects("output_path", error=ToAPIsFileError):
            require_writable(place.output_path)


class TestNoRoom:
    @on_disk
    def test_full_disk_is_told_and_leaves_nothing(self, keep: Keep, place: Place, host: FileHost) -> None:
        with largest_file(HALF):
            assert_nothing_kept(keep, place, "File too large")
        assert len(host.requests) == 1
        assert_kept(keep(), place)

    @in_s3
    def test_bucket_that_vanishes_is_told_and_leaves_nothing(self, keep: Keep, place: S3Place, host: FileHost) -> None:
        host.will(Answer(meanwhile=place.delete_bucket))
        assert_nothing_kept(keep, place)
        assert len(host.requests) == 1


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond ``size``."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


class TestKilledWorker:
    def test_leaves_no_half_file_and_the_next_attempt_keeps_the_video(
        self, keep: Keep, place: Any, host: FileHost
    ) -> None:
        midway, over = threading.Event(), threading.Event()

        def hold_up() -> None:
            midway.set()
            over.wait()

        host.will(Answer(meanwhile=hold_up))
        code = "import sys; from airflow_provider_toapis.hooks.toapis import ToAPIsHook as Hook"
        code += "; Hook().download_video(sys.argv[1], sys.argv[2])"
        with subprocess.Popen([sys.executable, "-c", code, VIDEO_ID, place.output_path], env=os.environ) as worker:
            try:
                wait_until(lambda: midway.is_set() and place.leftovers(), worker)
            finally:
                worker.kill()
                over.set()
        assert place.leftovers() != []
        assert digest(place.read()) is None
        place.expire_unfinished()
        assert_kept(keep(), place)


def wait_until(happened: Callable[[], object], worker: subprocess.Popen[bytes]) -> None:
    """Wait for something that a living worker does."""
    deadline = time.monotonic() + 60
    while not happened():
        assert worker.poll() is None
        assert time.monotonic() < deadline
        with suppress(subprocess.TimeoutExpired):
            worker.wait(0.05)
