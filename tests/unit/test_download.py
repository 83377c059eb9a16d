"""Keeping a finished video: whole or not at all, and never ordered again."""

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
#: While the result is there.
NOW = pendulum.datetime(2026, 10, 1)
BROKEN = ToAPIsConnectionError("The request of the result file got no response (ReadError).")


@dataclass
class Disk:
    """A place to keep one file, which writes down what became of every attempt."""

    path: str = "/videos/1.mp4"
    file: bytes | None = None
    ends: list[str] = field(default_factory=list)
    fails_to: str | None = None

    def create(self) -> Partial:
        """Begin to write."""
        return Partial(self)


class Partial:
    """What is being written."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._written = b""

    def write(self, data: bytes) -> None:
        """Append."""
        if self._disk.fails_to == "write":
            raise OSError(28, "No space left on device")
        self._written += data

    def commit(self) -> None:
        """Publish."""
        if self._disk.fails_to == "commit":
            raise OSError(5, "Input/output error")
        self._disk.file = self._written
        self._disk.ends.append("commit")

    def discard(self) -> None:
        """Forget."""
        self._disk.ends.append("discard")


Host = dict[str, list[ByteStream | BaseException]]


def body(*chunks: bytes | BaseException) -> Iterator[bytes]:
    for chunk in chunks:
        if isinstance(chunk, BaseException):
            raise chunk
        yield chunk


def stream(chunks: Iterable[bytes] = (VIDEO,), status: int = 200, length: object = None, **headers: str) -> ByteStream:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return ByteStream(status, named | ({} if length is None else {"content-length": str(length)}), chunks)


class Run:
    """One download from a host that answers each link from a list."""

    def __init__(self, answers: Sequence[ByteStream | BaseException], disk: Disk | None = None) -> None:
        self.disk = disk or Disk()
        self.opened: list[str] = []
        self.headers: list[Mapping[str, str]] = []
        self.max_bytes = MAX_BYTES
        self.sleeps: list[float] = []
        self.asked = 0
        self.fresh_task = VideoTask(
            id="video_1", status=TaskStatus.COMPLETED, raw_status="completed", urls=(FRESH_URL,)
        )
        self._answers = iter(answers)

    def start(self, task: VideoTask = TASK) -> StoredFile:
        return download(
            task,
            self.disk,
            open_stream=self._open,
            refresh=self._ask_again,
            sleep=self.sleeps.append,
            now=lambda: NOW,
            max_bytes=self.max_bytes,
        )

    @contextmanager
    def _open(self, url: str, headers: Mapping[str, str]) -> Iterator[ByteStream]:
        self.opened.append(url)
        self.headers.append(headers)
        answer = next(self._answers)
        if isinstance(answer, BaseException):
            raise answer
        yield answer

    def _ask_again(self) -> VideoTask:
        self.asked += 1
        return self.fresh_task


class TestWholeFile:
    @pytest.mark.parametrize("length", [len(VIDEO), None, "", "unknown", "-1"], ids=str)
    def test_is_kept_with_its_size_and_hash(self, length: object) -> None:
        run = Run([stream([VIDEO[:7], VIDEO[7:]], length=length)])
        assert run.start() == StoredFile("/videos/1.mp4", len(VIDEO), hashlib.sha256(VIDEO).hexdigest())
        assert run.disk.file == VIDEO
        assert run.disk.ends == ["commit"]
        assert run.sleeps == []

    @pytest.mark.parametrize(
        "media_type", ["video/mp4", "video/quicktime", "video/webm", "application/octet-stream", "", "Video/MP4; x=1"]
    )
    def test_media_types_that_hosts_send(self, media_type: str) -> None:
        assert Run([stream(content_type=media_type)]).start().size == len(VIDEO)

    @pytest.mark.parametrize("encoding", ["identity", "Identity"])
    def test_body_that_is_not_encoded(self, encoding: str) -> None:
        assert Run([stream(content_encoding=encoding)]).start().size == len(VIDEO)

    def test_first_link_is_taken(self) -> None:
        run = Run([stream()])
        run.start()
        assert run.opened == [FIRST_URL]
        assert run.asked == 0

    def test_memory_stays_flat(self) -> None:
        class Sink(Disk):
            def create(self) -> Partial:
                return Nowhere(self)

        class Nowhere(Partial):
            def write(self, data: bytes) -> None:
                """Keep nothing."""

        tracemalloc.start()
        try:
            Run([stream(bytes(1 << 20) for _ in range(64))], Sink()).start()
            assert tracemalloc.get_traced_memory()[1] < 8 << 20
        finally:
            tracemalloc.stop()


#: Answers that bring no whole video, though the next attempt may.
BROKEN_ANSWERS = {
    "connection breaks before the first byte": lambda: BROKEN,
    "connection breaks in the middle": lambda: stream(body(VIDEO[:5000], BROKEN)),
    "too short": lambda: stream([VIDEO[:-1]], length=len(VIDEO)),
    "too long": lambda: stream([VIDEO + b"x"], length=len(VIDEO)),
    "empty": lambda: stream([], length=0),
    "empty without a length": lambda: stream([]),
    "HTML page": lambda: stream([b"<html>wait</html>"], content_type="text/html; charset=utf-8"),
    "plain text": lambda: stream([b"later"], content_type="text/plain"),
    "JSON": lambda: stream([b"{}"], content_type="application/json"),
    "picture": lambda: stream([b"x"], content_type="image/jpeg"),
    "XML": lambda: stream([b"<Error/>"], content_type="application/xml"),
    "HTML as a video": lambda: stream([b"\n<!DOCTYPE html><title>", b"wait</title>"], content_type="video/mp4"),
    "HTML as bytes": lambda: stream([b"<html>", b"wait</html>"], content_type="application/octet-stream"),
    "HTML without a type": lambda: stream([b"<html>wait</html>"]),
    "JSON as a video": lambda: stream([b'{"error": {"message": "later"}}'], content_type="video/mp4"),
    "XML as a video": lambda: stream([b'<?xml version="1.0"?><Error/>'], content_type="video/mp4"),
    "text as a video": lambda: stream([b"not found\n" * 200], content_type="video/mp4"),
    "picture as a video": lambda: stream([b"\xff\xd8\xff\xe0" + bytes(100)], content_type="video/mp4"),
    "one byte": lambda: stream([b"\x00"], content_type="video/mp4"),
    "gzip": lambda: stream(content_encoding="gzip"),
    "a part": lambda: stream(status=206),
    "nothing": lambda: stream([], status=204),
    "redirect": lambda: stream([], status=302),
    "500": lambda: stream([b"oops"], status=500),
    "503": lambda: stream([b"<html>"], status=503, content_type="text/html"),
    "429": lambda: stream([], status=429),
}
each_broken_answer = pytest.mark.parametrize("answer", BROKEN_ANSWERS.values(), ids=BROKEN_ANSWERS.keys())


class TestUnknownFormat:
    """Binary content that no list knows is billed: it is saved."""

    CONTENT = b"\x00\x01\x02\x03 no format that is known" * 40

    def test_is_saved_with_a_warning(self, caplog: pytest.LogCaptureFixture) -> None:
        run = Run([stream([self.CONTENT], content_type="video/mp4")])
        stored = run.start()
        assert stored.warnings == ("unknown_format",)
        assert run.disk.file == self.CONTENT
        assert [record.levelname for record in caplog.records if "video_1" in record.message] == ["WARNING"]
        assert video_result(TASK, None, stored)["warnings"] == ["unknown_format"]

    def test_known_format_gets_none(self) -> None:
        assert Run([stream()]).start().warnings == ()

    def test_pieces_of_any_size_are_looked_at_together(self) -> None:
        page = b"<!DOCTYPE html><html>wait</html>"
        run = Run([stream([bytes([byte]) for byte in page]) for _ in range(MAX_ATTEMPTS)])
        with pytest.raises(ToAPIsDownloadError, match="HTML"):
            run.start()


class TestBrokenFile:
    @each_broken_answer
    def test_is_started_again_with_the_same_link(self, answer: object) -> None:
        assert callable(answer)
        run = Run([answer(), stream(length=len(VIDEO))])
        assert run.start().sha256 == hashlib.sha256(VIDEO).hexdigest()
        assert run.opened == [FIRST_URL, FIRST_URL]
        assert run.disk.file == VIDEO
        assert run.sleeps == [1]

    @each_broken_answer
    def test_is_given_up_after_a_few_attempts_and_leaves_nothing(self, answer: object) -> None:
        assert callable(answer)
        run = Run([answer() for _ in range(MAX_ATTEMPTS)])
        with pytest.raises(ToAPIsDownloadError) as raised:
            run.start()
        assert run.disk.file is None
        assert "commit" not in run.disk.ends
        assert run.sleeps == [1, 2, 4, 8, 15]
        assert raised.value.video_id == "video_1"

    def test_every_beginning_is_discarded(self) -> None:
        run = Run([stream(body(b"half", BROKEN)), stream([VIDEO[:-1]], length=len(VIDEO)), stream()])
        run.start()
        assert run.disk.ends == ["discard", "discard", "commit"]

    def test_answer_that_cannot_be_the_video_is_not_written_at_all(self) -> None:
        run = Run([stream([b"<html>"], content_type="text/html"), stream(status=500), stream()])
        run.start()
        assert run.disk.ends == ["commit"]

    def test_message_says_that_it_is_paid_and_what_a_retry_does(self) -> None:
        with pytest.raises(ToAPIsDownloadError) as raised:
            Run([stream(status=500) for _ in range(MAX_ATTEMPTS)]).start()
        message = str(raised.value)
        for named in ("video_1", "/videos/1.mp4", "HTTP 500", "2026-10-02", "retry"):
            assert named in message
        assert "signature" not in message

    @pytest.mark.parametrize("interruption", [KeyboardInterrupt(), SystemExit(), MemoryError(), ValueError("bug")])
    def test_interruption_is_passed_on_and_leaves_nothing(self, interruption: BaseException) -> None:
        run = Run([stream(body(VIDEO[:9], interruption))])
        with pytest.raises(type(interruption)):
            run.start()
        assert run.disk.ends == ["discard"]

    @pytest.mark.parametrize("step", ["write", "commit"])
    def test_full_disk_is_told_as_it_is_and_leaves_nothing(self, step: str) -> None:
        run = Run([stream()], Disk(fails_to=step))
        with pytest.raises(ToAPIsDownloadError, match=r"video_1.*(No space|Input/output)"):
            run.start()
        assert run.disk.ends == ["discard"]
        assert run.disk.file is None


class TestDeadLink:
    @pytest.mark.parametrize("status", [401, 403, 404, 410])
    def test_is_exchanged_for_a_fresh_one(self, status: int) -> None:
        run = Run([stream([b"gone"], status=status), stream()])
        run.start()
        assert run.opened == [FIRST_URL, FRESH_URL]
        assert (run.asked, run.disk.ends) == (1, ["commit"])

    def test_fresh_link_that_breaks_off_is_tried_again(self) -> None:
        run = Run([stream(status=403), stream(body(b"x", BROKEN)), stream()])
        run.start()
        assert run.opened == [FIRST_URL, FRESH_URL, FRESH_URL]

    def test_links_that_stay_dead_are_given_up_with_the_date_of_their_death(self) -> None:
        run = Run([stream(status=404) for _ in range(MAX_ATTEMPTS)])
        run.fresh_task = TASK
        with pytest.raises(ToAPIsDownloadError, match=r"HTTP 404.*2026-10-02"):
            run.start()
        assert len(run.opened) == MAX_ATTEMPTS

    def test_key_that_is_refused_when_asking_for_a_fresh_one_is_told(self) -> None:
        run = Run([stream(status=403)])

        def refuse() -> VideoTask:
            raise ToAPIsWaitInterruptedError("401", video_id="video_1")

        with pytest.raises(ToAPIsWaitInterruptedError):
            download(TASK, run.disk, open_stream=run._open, refresh=refuse, sleep=run.sleeps.append, now=lambda: NOW)


HALF = len(VIDEO) // 2


def broken_in_the_middle(etag: str = '"v1"') -> ByteStream:
    return stream(body(VIDEO[:HALF], BROKEN), length=len(VIDEO), etag=etag)


def rest(content_range: str = f"bytes {HALF}-{len(VIDEO) - 1}/{len(VIDEO)}", **headers: str) -> ByteStream:
    return stream([VIDEO[HALF:]], 206, **{"content_range": content_range, "etag": '"v1"', **headers})


class TestResuming:
    def test_only_the_missing_part_is_fetched(self) -> None:
        run = Run([broken_in_the_middle(), rest()])
        assert run.start() == StoredFile("/videos/1.mp4", len(VIDEO), hashlib.sha256(VIDEO).hexdigest())
        assert run.headers == [{}, {"range": f"bytes={HALF}-", "if-range": '"v1"'}]
        assert (run.disk.file, run.disk.ends) == (VIDEO, ["commit"])

    @pytest.mark.parametrize("etag", ["", 'W/"v1"'], ids=["none", "weak"])
    def test_a_host_that_cannot_name_the_content_is_asked_for_the_whole_file(self, etag: str) -> None:
        run = Run([broken_in_the_middle(etag), stream(length=len(VIDEO))])
        run.start()
        assert run.headers == [{}, {}]
        assert (run.disk.file, run.disk.ends) == (VIDEO, ["discard", "commit"])

    def test_a_host_that_sends_the_whole_file_all_the_same_is_believed(self) -> None:
        run = Run([broken_in_the_middle(), stream(length=len(VIDEO), etag='"v2"')])
        run.start()
        assert (run.disk.file, run.disk.ends) == (VIDEO, ["discard", "commit"])

    @pytest.mark.parametrize(
        "answer",
        [
            lambda: rest(f"bytes 0-{len(VIDEO) - 1}/{len(VIDEO)}"),
            lambda: rest(f"bytes {HALF}-{len(VIDEO)}/{len(VIDEO) + 1}"),
            lambda: rest(""),
            lambda: rest("bytes */16000"),
            lambda: rest(etag='"v2"'),
            lambda: stream([], 416),
        ],
        ids=["another start", "another length", "no range", "no start", "another content", "not satisfiable"],
    )
    def test_another_part_than_asked_for_is_never_put_together(self, answer: Callable[[], ByteStream]) -> None:
        run = Run([broken_in_the_middle(), answer(), stream(length=len(VIDEO))])
        run.start()
        assert run.headers[2] == {}
        assert (run.disk.file, run.disk.ends) == (VIDEO, ["discard", "commit"])

    @pytest.mark.parametrize(
        "between",
        [lambda: stream([], 503), lambda: stream([b"<html>"], content_type="text/html"), lambda: stream([], 403)],
        ids=["503", "log-in page", "dead link"],
    )
    def test_what_has_arrived_outlives_an_answer_without_a_file(self, between: Callable[[], ByteStream]) -> None:
        run = Run([broken_in_the_middle(), between(), rest()])
        run.start()
        assert (run.disk.file, run.disk.ends) == (VIDEO, ["commit"])

    def test_rest_that_breaks_off_too_goes_on_from_there(self) -> None:
        again = stream(body(VIDEO[HALF:-1], BROKEN), 206, etag='"v1"', content_range=f"bytes {HALF}-9/*")
        last = rest(f"bytes {len(VIDEO) - 1}-{len(VIDEO) - 1}/{len(VIDEO)}")
        run = Run([broken_in_the_middle(), again, ByteStream(206, last.headers, [VIDEO[-1:]])])
        assert run.start().sha256 == hashlib.sha256(VIDEO).hexdigest()


class TestTooLarge:
    @pytest.mark.parametrize("length", [len(VIDEO), None], ids=["announced", "not announced"])
    def test_is_not_kept_and_not_tried_again(self, length: int | None) -> None:
        run = Run([stream([VIDEO[:10], VIDEO[10:]], length=length)])
        run.max_bytes = len(VIDEO) - 1
        with pytest.raises(ToAPIsDownloadError, match=f"max_bytes.*{len(VIDEO) - 1:,}"):
            run.start()
        assert run.disk.file is None
        assert run.sleeps == []

    def test_exactly_as_large_as_allowed_is_kept(self) -> None:
        run = Run([stream(length=len(VIDEO))])
        run.max_bytes = len(VIDEO)
        assert run.start().size == len(VIDEO)


class TestExpired:
    EXPIRED = replace(TASK, expires_at=NOW)

    def test_result_is_asked_for_again_first(self) -> None:
        run = Run([stream()])
        run.start(self.EXPIRED)
        assert run.opened == [FRESH_URL]

    def test_result_whose_link_works_all_the_same_is_kept(self) -> None:
        run = Run([stream()])
        run.fresh_task = self.EXPIRED
        assert run.start(self.EXPIRED).size == len(VIDEO)

    def test_result_whose_link_is_dead_is_lost_and_not_asked_for_any_more(self) -> None:
        run = Run([stream(status=404)])
        run.fresh_task = self.EXPIRED
        with pytest.raises(ToAPIsDownloadError, match=r"HTTP 404.*2026-10-01") as raised:
            run.start(self.EXPIRED)
        assert raised.value.is_lost
        assert len(run.opened) == 1


class TestMissingLink:
    def test_is_asked_for(self) -> None:
        run = Run([stream()])
        run.start(VideoTask(id="video_1", status=TaskStatus.COMPLETED, raw_status="completed"))
        assert run.opened == [FRESH_URL]

    def test_that_never_comes_is_given_up(self) -> None:
        run = Run([])
        run.fresh_task = VideoTask(id="video_1", status=TaskStatus.COMPLETED, raw_status="completed")
        with pytest.raises(ToAPIsDownloadError) as raised:
            run.start(run.fresh_task)
        assert raised.value.video_id == "video_1"
        assert run.asked == MAX_ATTEMPTS


class TestRequireFinished:
    def test_completed_video_passes(self) -> None:
        assert require_finished(TASK) is TASK

    @pytest.mark.parametrize("status", [TaskStatus.QUEUED, TaskStatus.IN_PROGRESS, TaskStatus.FAILED])
    def test_other_is_refused_with_what_to_do(self, status: TaskStatus) -> None:
        with pytest.raises(ToAPIsDownloadError, match="ToAPIsVideoSensor") as raised:
            require_finished(VideoTask(id="video_1", status=status, raw_status=""))
        assert raised.value.video_id == "video_1"


class TestVideoResult:
    def test_with_a_kept_file(self) -> None:
        result = video_result(TASK, "af-1", StoredFile("/videos/1.mp4", 7, "aa"))
        assert set(result) == {
            "id", "status", "model", "url", "urls", "format", "created_at", "completed_at", "expires_at",
            "client_business_id", "billing", "output_path", "size", "sha256",
        }  # fmt: skip
        assert (result["output_path"], result["size"], result["sha256"]) == ("/videos/1.mp4", 7, "aa")
        assert result["client_business_id"] == "af-1"

    def test_without_a_kept_file(self) -> None:
        result = video_result(TASK, None)
        assert (result["output_path"], result["size"], result["sha256"]) == (None, None, None)
