"""Download of a finished video: the file is complete or does not exist."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pendulum
import pytest

from airflow_provider_toapis.api.download import (
    MAX_ATTEMPTS,
    MAX_BYTES,
    ByteStream,
    StoredFile,
    download,
    require_finished,
    video_result,
)
from airflow_provider_toapis.api.responses import TaskStatus, VideoTask
from airflow_provider_toapis.exceptions import ToAPIsConnectionError, ToAPIsDownloadError, ToAPIsWaitInterruptedError

HEAD = b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00"
VIDEO = HEAD + b"a playable video" * 1000
FIRST_URL = "https://files.toapis.com/videos/1.mp4?signature=first"
FRESH_URL = "https://files.toapis.com/videos/1.mp4?signature=fresh"
TASK = VideoTask(
    id="video_1",
    status=TaskStatus.COMPLETED,
    raw_status="completed",
    urls=(FIRST_URL,),
    expires_at=pendulum.datetime(2026, 10, 2),
)
#: Before the result expires.
NOW = pendulum.datetime(2026, 10, 1)
BROKEN = ToAPIsConnectionError("The request for the result file got no response (ReadError).")


@dataclass
class Disk:
    """A destination for one file that records the outcome of each attempt."""

    path: str = "/videos/1.mp4"
    file: bytes | None = None
    outcomes: list[str] = field(default_factory=list)
    failing_step: str | None = None

    def create(self) -> Partial:
        """Create a partial file."""
        return Partial(self)


class Partial:
    """A partial file."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._written = b""

    def write(self, data: bytes) -> None:
        """Append data."""
        if self._disk.failing_step == "write":
            raise OSError(28, "No space left on device")
        self._written += data

    def commit(self) -> None:
        """Publish the file."""
        if self._disk.failing_step == "commit":
            raise OSError(5, "Input/output error")
        self._disk.file = self._written
        self._disk.outcomes.append("commit")

    def discard(self) -> None:
        """Discard the file."""
        self._disk.outcomes.append("discard")


Host = dict[str, list[ByteStream | BaseException]]


def body(*chunks: bytes | BaseException) -> Iterator[bytes]:
    for chunk in chunks:
        if isinstance(chunk, BaseException):
            raise chunk
        yield chunk


def stream(chunks: Iterable[bytes] = (VIDEO,), status: int = 200, length: object = None, **headers: str) -> ByteStream:
    header_fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return ByteStream(status, header_fields | ({} if length is None else {"content-length": str(length)}), chunks)


class Run:
    """One download from a host with scripted responses."""

    def __init__(self, responses: Sequence[ByteStream | BaseException], disk: Disk | None = None) -> None:
        self.disk = disk or Disk()
        self.opened: list[str] = []
        self.headers: list[Mapping[str, str]] = []
        self.max_bytes = MAX_BYTES
        self.sleeps: list[float] = []
        self.refreshes = 0
        self.fresh_task = VideoTask(
            id="video_1", status=TaskStatus.COMPLETED, raw_status="completed", urls=(FRESH_URL,)
        )
        self._responses = iter(responses)

    def start(self, task: VideoTask = TASK) -> StoredFile:
        return download(
            task,
            self.disk,
            open_stream=self._open,
            refresh=self._refresh,
            sleep=self.sleeps.append,
            now=lambda: NOW,
            max_bytes=self.max_bytes,
        )

    @contextmanager
    def _open(self, url: str, headers: Mapping[str, str]) -> Iterator[ByteStream]:
        self.opened.append(url)
        self.headers.append(headers)
        response = next(self._responses)
        if isinstance(response, BaseException):
            raise response
        yield response

    def _refresh(self) -> VideoTask:
        self.refreshes += 1
        return self.fresh_task


class TestCompleteFile:
    @pytest.mark.parametrize("length", [len(VIDEO), None, "", "unknown", "-1"], ids=str)
    def test_file_is_saved_with_size_and_hash(self, length: object) -> None:
        run = Run([stream([VIDEO[:7], VIDEO[7:]], length=length)])
        assert run.start() == StoredFile("/videos/1.mp4", len(VIDEO), hashlib.sha256(VIDEO).hexdigest())
        assert run.disk.file == VIDEO
        assert run.disk.outcomes == ["commit"]
        assert run.sleeps == []

    @pytest.mark.parametrize(
        "media_type", ["video/mp4", "video/quicktime", "video/webm", "application/octet-stream", "", "Video/MP4; x=1"]
    )
    def test_media_type_of_a_video_is_accepted(self, media_type: str) -> None:
        assert Run([stream(content_type=media_type)]).start().size == len(VIDEO)

    @pytest.mark.parametrize("encoding", ["identity", "Identity"])
    def test_identity_encoding_is_accepted(self, encoding: str) -> None:
        assert Run([stream(content_encoding=encoding)]).start().size == len(VIDEO)

    def test_first_url_is_used(self) -> None:
        run = Run([stream()])
        run.start()
        assert run.opened == [FIRST_URL]
        assert run.refreshes == 0

    def test_memory_use_is_constant(self) -> None:
        class Sink(Disk):
            def create(self) -> Partial:
                return NullPartial(self)

        class NullPartial(Partial):
            def write(self, data: bytes) -> None:
                """Discard the data."""

        tracemalloc.start()
        try:
            Run([stream(bytes(1 << 20) for _ in range(64))], Sink()).start()
            assert tracemalloc.get_traced_memory()[1] < 8 << 20
        finally:
            tracemalloc.stop()


#: Responses without a complete video; the next attempt can succeed.
BROKEN_RESPONSES = {
    "connection breaks before the first byte": lambda: BROKEN,
    "connection breaks in the middle": lambda: stream(body(VIDEO[:5000], BROKEN)),
    "too short": lambda: stream([VIDEO[:-1]], length=len(VIDEO)),
    "too long": lambda: stream([VIDEO + b"x"], length=len(VIDEO)),
    "empty": lambda: stream([], length=0),
    "empty without a length": lambda: stream([]),
    "HTML page": lambda: stream([b"<html>wait</html>"], content_type="text/html; charset=utf-8"),
    "plain text": lambda: stream([b"later"], content_type="text/plain"),
    "JSON": lambda: stream([b"{}"], content_type="application/json"),
    "image": lambda: stream([b"x"], content_type="image/jpeg"),
    "XML": lambda: stream([b"<Error/>"], content_type="application/xml"),
    "HTML as a video": lambda: stream([b"\n<!DOCTYPE html><title>", b"wait</title>"], content_type="video/mp4"),
    "HTML as bytes": lambda: stream([b"<html>", b"wait</html>"], content_type="application/octet-stream"),
    "HTML without a type": lambda: stream([b"<html>wait</html>"]),
    "JSON as a video": lambda: stream([b'{"error": {"message": "later"}}'], content_type="video/mp4"),
    "XML as a video": lambda: stream([b'<?xml version="1.0"?><Error/>'], content_type="video/mp4"),
    "text as a video": lambda: stream([b"not found\n" * 200], content_type="video/mp4"),
    "image as a video": lambda: stream([b"\xff\xd8\xff\xe0" + bytes(100)], content_type="video/mp4"),
    "one byte": lambda: stream([b"\x00"], content_type="video/mp4"),
    "gzip": lambda: stream(content_encoding="gzip"),
    "a part": lambda: stream(status=206),
    "nothing": lambda: stream([], status=204),
    "redirect": lambda: stream([], status=302),
    "500": lambda: stream([b"oops"], status=500),
    "503": lambda: stream([b"<html>"], status=503, content_type="text/html"),
    "429": lambda: stream([], status=429),
}
each_broken_response = pytest.mark.parametrize("response", BROKEN_RESPONSES.values(), ids=BROKEN_RESPONSES.keys())


class TestUnknownFormat:
    """Binary content of an unknown format is billed, so it is saved."""

    CONTENT = b"\x00\x01\x02\x03 no format that is known" * 40

    def test_unknown_format_is_saved_with_a_warning(self, caplog: pytest.LogCaptureFixture) -> None:
        run = Run([stream([self.CONTENT], content_type="video/mp4")])
        stored = run.start()
        assert stored.warnings == ("unknown_format",)
        assert run.disk.file == self.CONTENT
        assert [record.levelname for record in caplog.records if "video_1" in record.message] == ["WARNING"]
        assert video_result(TASK, None, stored)["warnings"] == ["unknown_format"]

    def test_known_format_gets_no_warning(self) -> None:
        assert Run([stream()]).start().warnings == ()

    def test_format_is_detected_across_chunks(self) -> None:
        page = b"<!DOCTYPE html><html>wait</html>"
        run = Run([stream([bytes([byte]) for byte in page]) for _ in range(MAX_ATTEMPTS)])
        with pytest.raises(ToAPIsDownloadError, match="HTML"):
            run.start()


class TestBrokenFile:
    @each_broken_response
    def test_broken_download_restarts_with_the_same_url(self, response: object) -> None:
        assert callable(response)
        run = Run([response(), stream(length=len(VIDEO))])
        assert run.start().sha256 == hashlib.sha256(VIDEO).hexdigest()
        assert run.opened == [FIRST_URL, FIRST_URL]
        assert run.disk.file == VIDEO
        assert run.sleeps == [1]

    @each_broken_response
    def test_download_fails_after_max_attempts_and_leaves_no_file(self, response: object) -> None:
        assert callable(response)
        run = Run([response() for _ in range(MAX_ATTEMPTS)])
        with pytest.raises(ToAPIsDownloadError) as raised:
            run.start()
        assert run.disk.file is None
        assert "commit" not in run.disk.outcomes
        assert run.sleeps == [1, 2, 4, 8, 15]
        assert raised.value.video_id == "video_1"

    def test_each_partial_file_is_discarded(self) -> None:
        run = Run([stream(body(b"half", BROKEN)), stream([VIDEO[:-1]], length=len(VIDEO)), stream()])
        run.start()
        assert run.disk.outcomes == ["discard", "discard", "commit"]

    def test_response_that_is_not_the_video_is_not_written(self) -> None:
        run = Run([stream([b"<html>"], content_type="text/html"), stream(status=500), stream()])
        run.start()
        assert run.disk.outcomes == ["commit"]

    def test_error_names_video_expiry_and_retry(self) -> None:
        with pytest.raises(ToAPIsDownloadError) as raised:
            Run([stream(status=500) for _ in range(MAX_ATTEMPTS)]).start()
        message = str(raised.value)
        for expected in ("video_1", "/videos/1.mp4", "HTTP 500", "2026-10-02", "retry"):
            assert expected in message
        assert "signature" not in message

    @pytest.mark.parametrize("interruption", [KeyboardInterrupt(), SystemExit(), MemoryError(), ValueError("bug")])
    def test_interruption_is_raised_and_leaves_no_file(self, interruption: BaseException) -> None:
        run = Run([stream(body(VIDEO[:9], interruption))])
        with pytest.raises(type(interruption)):
            run.start()
        assert run.disk.outcomes == ["discard"]

    @pytest.mark.parametrize("step", ["write", "commit"])
    def test_disk_error_is_reported_and_leaves_no_file(self, step: str) -> None:
        run = Run([stream()], Disk(failing_step=step))
        with pytest.raises(ToAPIsDownloadError, match=r"video_1.*(No space|Input/output)"):
            run.start()
        assert run.disk.outcomes == ["discard"]
        assert run.disk.file is None


class TestExpiredUrl:
    @pytest.mark.parametrize("status", [401, 403, 404, 410])
    def test_expired_url_is_replaced_by_a_fresh_one(self, status: int) -> None:
        run = Run([stream([b"gone"], status=status), stream()])
        run.start()
        assert run.opened == [FIRST_URL, FRESH_URL]
        assert (run.refreshes, run.disk.outcomes) == (1, ["commit"])

    def test_broken_download_of_fresh_url_is_retried(self) -> None:
        run = Run([stream(status=403), stream(body(b"x", BROKEN)), stream()])
        run.start()
        assert run.opened == [FIRST_URL, FRESH_URL, FRESH_URL]

    def test_urls_that_stay_expired_fail_with_the_expiry_date(self) -> None:
        run = Run([stream(status=404) for _ in range(MAX_ATTEMPTS)])
        run.fresh_task = TASK
        with pytest.raises(ToAPIsDownloadError, match=r"HTTP 404.*2026-10-02"):
            run.start()
        assert len(run.opened) == MAX_ATTEMPTS

    def test_rejected_key_during_refresh_is_raised(self) -> None:
        run = Run([stream(status=403)])

        def reject() -> VideoTask:
            raise ToAPIsWaitInterruptedError("401", video_id="video_1")

        with pytest.raises(ToAPIsWaitInterruptedError):
            download(TASK, run.disk, open_stream=run._open, refresh=reject, sleep=run.sleeps.append, now=lambda: NOW)


HALF = len(VIDEO) // 2


def broken_half(etag: str = '"v1"') -> ByteStream:
    return stream(body(VIDEO[:HALF], BROKEN), length=len(VIDEO), etag=etag)


def second_half(content_range: str = f"bytes {HALF}-{len(VIDEO) - 1}/{len(VIDEO)}", **headers: str) -> ByteStream:
    return stream([VIDEO[HALF:]], 206, **{"content_range": content_range, "etag": '"v1"', **headers})


class TestResuming:
    def test_only_missing_range_is_requested(self) -> None:
        run = Run([broken_half(), second_half()])
        assert run.start() == StoredFile("/videos/1.mp4", len(VIDEO), hashlib.sha256(VIDEO).hexdigest())
        assert run.headers == [{}, {"range": f"bytes={HALF}-", "if-range": '"v1"'}]
        assert (run.disk.file, run.disk.outcomes) == (VIDEO, ["commit"])

    @pytest.mark.parametrize("etag", ["", 'W/"v1"'], ids=["none", "weak"])
    def test_host_without_strong_etag_gets_a_full_request(self, etag: str) -> None:
        run = Run([broken_half(etag), stream(length=len(VIDEO))])
        run.start()
        assert run.headers == [{}, {}]
        assert (run.disk.file, run.disk.outcomes) == (VIDEO, ["discard", "commit"])

    def test_full_response_to_a_range_request_is_accepted(self) -> None:
        run = Run([broken_half(), stream(length=len(VIDEO), etag='"v2"')])
        run.start()
        assert (run.disk.file, run.disk.outcomes) == (VIDEO, ["discard", "commit"])

    @pytest.mark.parametrize(
        "response",
        [
            lambda: second_half(f"bytes 0-{len(VIDEO) - 1}/{len(VIDEO)}"),
            lambda: second_half(f"bytes {HALF}-{len(VIDEO)}/{len(VIDEO) + 1}"),
            lambda: second_half(""),
            lambda: second_half("bytes */16000"),
            lambda: second_half(etag='"v2"'),
            lambda: stream([], 416),
        ],
        ids=["another start", "another length", "no range", "no start", "another content", "not satisfiable"],
    )
    def test_response_with_another_range_is_discarded(self, response: Callable[[], ByteStream]) -> None:
        run = Run([broken_half(), response(), stream(length=len(VIDEO))])
        run.start()
        assert run.headers[2] == {}
        assert (run.disk.file, run.disk.outcomes) == (VIDEO, ["discard", "commit"])

    @pytest.mark.parametrize(
        "between",
        [lambda: stream([], 503), lambda: stream([b"<html>"], content_type="text/html"), lambda: stream([], 403)],
        ids=["503", "log-in page", "expired URL"],
    )
    def test_received_part_survives_response_without_a_file(self, between: Callable[[], ByteStream]) -> None:
        run = Run([broken_half(), between(), second_half()])
        run.start()
        assert (run.disk.file, run.disk.outcomes) == (VIDEO, ["commit"])

    def test_broken_range_response_continues_from_its_end(self) -> None:
        again = stream(body(VIDEO[HALF:-1], BROKEN), 206, etag='"v1"', content_range=f"bytes {HALF}-9/*")
        last = second_half(f"bytes {len(VIDEO) - 1}-{len(VIDEO) - 1}/{len(VIDEO)}")
        run = Run([broken_half(), again, ByteStream(206, last.headers, [VIDEO[-1:]])])
        assert run.start().sha256 == hashlib.sha256(VIDEO).hexdigest()


class TestTooLarge:
    @pytest.mark.parametrize("length", [len(VIDEO), None], ids=["announced", "not announced"])
    def test_too_large_video_is_not_saved_and_not_retried(self, length: int | None) -> None:
        run = Run([stream([VIDEO[:10], VIDEO[10:]], length=length)])
        run.max_bytes = len(VIDEO) - 1
        with pytest.raises(ToAPIsDownloadError, match=f"max_bytes.*{len(VIDEO) - 1:,}"):
            run.start()
        assert run.disk.file is None
        assert run.sleeps == []

    def test_video_of_exactly_max_bytes_is_saved(self) -> None:
        run = Run([stream(length=len(VIDEO))])
        run.max_bytes = len(VIDEO)
        assert run.start().size == len(VIDEO)


class TestExpired:
    EXPIRED = replace(TASK, expires_at=NOW)

    def test_expired_result_is_looked_up_first(self) -> None:
        run = Run([stream()])
        run.start(self.EXPIRED)
        assert run.opened == [FRESH_URL]

    def test_expired_result_with_a_working_url_is_saved(self) -> None:
        run = Run([stream()])
        run.fresh_task = self.EXPIRED
        assert run.start(self.EXPIRED).size == len(VIDEO)

    def test_expired_result_with_a_dead_url_is_lost_without_retry(self) -> None:
        run = Run([stream(status=404)])
        run.fresh_task = self.EXPIRED
        with pytest.raises(ToAPIsDownloadError, match=r"HTTP 404.*2026-10-01") as raised:
            run.start(self.EXPIRED)
        assert raised.value.is_lost
        assert len(run.opened) == 1


class TestMissingUrl:
    def test_missing_url_is_looked_up(self) -> None:
        run = Run([stream()])
        run.start(VideoTask(id="video_1", status=TaskStatus.COMPLETED, raw_status="completed"))
        assert run.opened == [FRESH_URL]

    def test_url_that_stays_missing_fails_after_max_attempts(self) -> None:
        run = Run([])
        run.fresh_task = VideoTask(id="video_1", status=TaskStatus.COMPLETED, raw_status="completed")
        with pytest.raises(ToAPIsDownloadError) as raised:
            run.start(run.fresh_task)
        assert raised.value.video_id == "video_1"
        assert run.refreshes == MAX_ATTEMPTS


class TestRequireFinished:
    def test_completed_video_passes(self) -> None:
        assert require_finished(TASK) is TASK

    @pytest.mark.parametrize("status", [TaskStatus.QUEUED, TaskStatus.IN_PROGRESS, TaskStatus.FAILED])
    def test_unfinished_video_is_rejected_with_advice(self, status: TaskStatus) -> None:
        with pytest.raises(ToAPIsDownloadError, match="ToAPIsVideoSensor") as raised:
            require_finished(VideoTask(id="video_1", status=status, raw_status=""))
        assert raised.value.video_id == "video_1"


class TestVideoResult:
    def test_result_with_saved_file(self) -> None:
        result = video_result(TASK, "af-1", StoredFile("/videos/1.mp4", 7, "aa"))
        assert set(result) == {
            "id", "status", "model", "url", "urls", "format", "created_at", "completed_at", "expires_at",
            "client_business_id", "billing", "output_path", "size", "sha256", "media", "warnings", "poster_path",
        }  # fmt: skip
        assert (result["output_path"], result["size"], result["sha256"]) == ("/videos/1.mp4", 7, "aa")
        assert result["client_business_id"] == "af-1"

    def test_result_without_saved_file(self) -> None:
        result = video_result(TASK, None)
        assert (result["output_path"], result["size"], result["sha256"]) == (None, None, None)
