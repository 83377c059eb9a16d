"""The check of saved videos with real files, among them broken and hostile ones, in its real child process."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, cast

import av
import pytest
from PIL import Image, ImageDraw

from airflow_provider_toapis import media_check, media_probe, media_process
from airflow_provider_toapis.media_check import Expected, MediaFacts, MediaOptions, MediaReport

FPS = 24
SIZE = (320, 180)
REQUESTED = Expected(duration=4, aspect_ratio="16:9")


def frame(number: int, size: tuple[int, int] = SIZE) -> Image.Image:
    image = Image.new("RGB", size, "navy")
    left = number * 2 % size[0]
    ImageDraw.Draw(image).rectangle((left, 20, left + 60, 120), fill="orange")
    return image


def write_video(path: Path, images: list[Image.Image], *, with_audio: bool = False) -> Path:
    with av.open(path, "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream: Any = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height = images[0].size
        stream.pix_fmt = "yuv420p"
        audio: Any = container.add_stream("aac", rate=44_100) if with_audio else None
        for number, image in enumerate(images):
            picture: Any = av.VideoFrame.from_image(image)  # type: ignore[no-untyped-call]
            picture.pts, picture.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
        if audio:
            add_silence(container, audio)
    return path


def add_silence(container: Any, stream: Any) -> None:
    silence: Any = av.AudioFrame(format="fltp", layout="mono", samples=1024)
    for plane in silence.planes:
        plane.update(bytes(plane.buffer_size))
    silence.sample_rate, silence.pts = 44_100, 0
    container.mux(stream.encode(silence))
    container.mux(stream.encode())


def moving(seconds: float, size: tuple[int, int] = SIZE) -> list[Image.Image]:
    return [frame(number, size) for number in range(round(seconds * FPS))]


def check(path: Path, expected: Expected = REQUESTED, *, poster: bool = False) -> MediaReport:
    options = MediaOptions("warn", poster)
    return media_check.inspect_video(str(path), expected, options, size=path.stat().st_size, model=None)


def poster_of(report: MediaReport) -> Image.Image:
    assert report.poster_path is not None
    return Image.open(report.poster_path)


def codes(result: MediaReport) -> list[str]:
    return [warning.partition(":")[0] for warning in result.warnings]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write_video(tmp_path / "good.mp4", moving(4))


def test_facts_of_a_good_video_are_measured_without_warnings(good: Path) -> None:
    result = check(good)
    assert result.warnings == ()
    assert result.media is not None
    assert result.media.as_dict() | {"bit_rate": None} == {
        "duration": 4.0,
        "width": 320,
        "height": 180,
        "fps": 24.0,
        "video_codec": "h264",
        "has_audio": False,
        "bit_rate": None,
    }
    assert str(result.media) == "4.00 s, 320x180, 24 fps, no audio"


@pytest.mark.parametrize(
    ("seconds", "requested", "warnings"),
    [
        (4, 4.4, []),
        (4, 5, ["duration_mismatch"]),
        (6, 4, ["duration_mismatch"]),
        (4, None, []),
    ],
)
def test_duration_within_the_tolerance_is_no_warning(
    tmp_path: Path, seconds: float, requested: float | None, warnings: list[str]
) -> None:
    assert codes(check(write_video(tmp_path / "v.mp4", moving(seconds)), Expected(duration=requested))) == warnings


def test_duration_warning_shows_both_lengths(good: Path) -> None:
    assert check(good, Expected(duration=10)).warnings == ("duration_mismatch: 4.0 s instead of 10 s",)


@pytest.mark.parametrize(("ratio", "warnings"), [("9:16", ["aspect_ratio_mismatch"]), ("adaptive", []), (None, [])])
def test_aspect_ratio_is_compared_if_one_was_requested(good: Path, ratio: str | None, warnings: list[str]) -> None:
    assert codes(check(good, Expected(aspect_ratio=ratio))) == warnings


def test_black_first_frame_is_a_warning_and_not_the_poster(tmp_path: Path) -> None:
    images = [Image.new("RGB", SIZE, (4, 4, 4))] * 12 + moving(3.5)
    result = check(write_video(tmp_path / "v.mp4", images), poster=True)
    assert codes(result) == ["black_start"]
    poster = poster_of(result)
    assert poster.format == "JPEG"
    assert poster.size == SIZE
    assert max(poster.convert("L").tobytes()) > 100


def test_frozen_video_is_a_warning(tmp_path: Path) -> None:
    assert codes(check(write_video(tmp_path / "v.mp4", [frame(5)] * 96))) == ["frozen"]


def test_audio_is_reported(tmp_path: Path) -> None:
    media = check(write_video(tmp_path / "v.mp4", moving(4), with_audio=True)).media
    assert media is not None
    assert media.has_audio


def test_truncated_video_is_a_warning(good: Path) -> None:
    good.write_bytes(good.read_bytes()[: good.stat().st_size * 2 // 3])
    assert "truncated" in codes(check(good))


def test_poster_is_at_most_1920_pixels_wide(tmp_path: Path) -> None:
    wide = write_video(tmp_path / "v.mp4", moving(0.5, (2560, 1440)))
    assert poster_of(check(wide, Expected(), poster=True)).size == (1920, 1080)


def bomb() -> bytes:
    """Return a QuickTime file whose only frame claims to have 100,000 x 100,000 pixels."""

    def box(kind: bytes, *contents: bytes) -> bytes:
        body = b"".join(contents)
        return struct.pack(">I4s", len(body) + 8, kind) + body

    entry = bytes(6) + struct.pack(">H", 1) + bytes(16) + struct.pack(">HH", 65_535, 65_535) + bytes(50)
    table = box(b"stbl", box(b"stsd", bytes(4), struct.pack(">I", 1), box(b"avc1", entry)))
    handler = box(b"hdlr", bytes(8), b"vide", bytes(13))
    media = box(b"mdia", box(b"mdhd", bytes(12), struct.pack(">II", 24, 24), bytes(4)), handler, box(b"minf", table))
    return box(b"ftyp", b"isom", bytes(4)) + box(b"moov", box(b"mvhd", bytes(100)), box(b"trak", media))


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00\x00\x00\x20ftypisom", bytes(1000), bomb(), b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"],
    ids=["empty", "head only", "zeros", "bomb", "playlist"],
)
def test_file_that_cannot_be_measured_is_not_checked(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "v.mp4"
    file.write_bytes(content)
    result = check(file, poster=True)
    assert codes(result) == ["not_checked"]
    assert (result.media, result.poster_path) == (None, None)


def test_video_without_a_video_stream_is_not_checked(tmp_path: Path) -> None:
    file = tmp_path / "v.mp4"
    with av.open(file, "w", format="mp4") as container:
        audio: Any = container.add_stream("aac", rate=44_100)
        add_silence(container, audio)
    assert codes(check(file)) == ["not_checked"]


def test_check_that_takes_too_long_is_ended(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_probe, "TIME_LIMIT", 0)
    assert codes(check(good)) == ["not_checked"]


class BlockedCheck:
    """A check of a video whose content never arrives, and the process that runs it."""

    def __init__(self) -> None:
        reader, self._writer = os.pipe()
        self._file = os.fdopen(reader, "rb", buffering=0)
        self.errors: list[str] = []
        self._thread = threading.Thread(target=self._measure)
        self._thread.start()
        while not (children := self._children()):
            time.sleep(0.01)
        (self.pid,) = children

    @staticmethod
    def _children() -> list[int]:
        process = media_process._process._process
        if process is None:
            return []
        return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]

    def _measure(self) -> None:
        try:
            media_process.measure(cast("BinaryIO", self._file), wants_poster=False)
        except media_process.NotMeasuredError as error:
            self.errors.append(str(error))

    def end(self) -> None:
        self._thread.join()
        os.close(self._writer)
        self._file.close()


def test_killed_check_is_a_warning_and_the_next_one_runs(good: Path) -> None:
    blocked = BlockedCheck()
    os.kill(blocked.pid, signal.SIGKILL)
    blocked.end()
    assert len(blocked.errors) == 1
    assert check(good).warnings == ()


def test_process_of_a_check_has_limited_memory_and_time() -> None:
    assert media_probe.MEMORY_LIMIT == 1024**3
    blocked = BlockedCheck()
    deadline = time.monotonic() + 30
    # The process sets its limit first of all.
    while f" {media_probe.MEMORY_LIMIT} " not in Path(f"/proc/{blocked.pid}/limits").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(blocked.pid, signal.SIGALRM)
    blocked.end()
    assert len(blocked.errors) == 1


def test_killed_process_is_started_again(good: Path) -> None:
    assert check(good).warnings == ()
    process = media_process._process._process
    assert process is not None
    process.kill()
    process.wait()
    assert check(good).warnings == ()
    assert media_process._process._process is not process


def test_process_ends_with_the_process_that_started_it(good: Path) -> None:
    code = (
        "from airflow_provider_toapis import media_process\n"
        f"media_process.measure(open({str(good)!r}, 'rb'), wants_poster=False)\n"
        "print(media_process._process._process.pid, flush=True)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    process = Path("/proc") / run.stdout.strip()
    deadline = time.monotonic() + 30
    while process.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_missing_file_is_not_checked(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.mp4")
    result = media_check.inspect_video(missing, REQUESTED, MediaOptions("warn"), size=1, model=None)
    assert codes(result) == ["not_checked"]


def test_facts_without_a_length_are_readable() -> None:
    facts = MediaFacts(None, 640, 360, None, "vp9", has_audio=True, bit_rate=None)
    assert str(facts) == "unknown length, 640x360, with audio"
