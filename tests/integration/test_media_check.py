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


def write_video(
    path: Path,
    images: list[Image.Image],
    *,
    codec: str = "libx264",
    kind: str = "mp4",
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    audio_seconds: float = 0.0,
) -> Path:
    container_options = {"movflags": "faststart"} if container_options is None and kind == "mp4" else container_options
    with av.open(path, "w", format=kind, options=container_options or {}) as container:
        stream: Any = container.add_stream(codec, rate=FPS, options=options or {})
        stream.width, stream.height = images[0].size
        stream.pix_fmt = pixel_format
        audio: Any = (
            container.add_stream("libopus" if kind == "webm" else "aac", rate=48_000) if audio_seconds else None
        )
        for number, image in enumerate(images):
            picture: Any = av.VideoFrame.from_image(image)  # type: ignore[no-untyped-call]
            picture.pts, picture.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
        if audio:
            add_silence(container, audio, audio_seconds)
    return path


def add_silence(container: Any, stream: Any, seconds: float = 0.1) -> None:
    for number in range(round(seconds * stream.rate / 1024)):
        silence: Any = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        for plane in silence.planes:
            plane.update(bytes(plane.buffer_size))
        silence.sample_rate, silence.pts = stream.rate, number * 1024
        container.mux(stream.encode(silence))
    container.mux(stream.encode())


def moving(seconds: float, size: tuple[int, int] = SIZE) -> list[Image.Image]:
    return [frame(number, size) for number in range(round(seconds * FPS))]


def check(path: Path, expected: Expected = REQUESTED, *, poster: bool = False) -> MediaReport:
    options = MediaOptions("warn", poster)
    return media_check.inspect_video(
        str(path), expected, options, video_id="video_1", size=path.stat().st_size, model=None
    )


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
    media = check(write_video(tmp_path / "v.mp4", moving(4), audio_seconds=4)).media
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
    [
        b"",
        b"\x00\x00\x00\x20ftypisom",
        bytes(1000),
        bomb(),
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"<html></html>",
    ],
    ids=["empty", "head only", "zeros", "bomb", "playlist", "page"],
)
def test_file_without_a_playable_video_is_unreadable(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "v.mp4"
    file.write_bytes(content)
    result = check(file, poster=True)
    assert codes(result) == ["unreadable"]
    assert (result.media, result.poster_path) == (None, None)


def test_file_without_a_video_stream_is_unreadable(tmp_path: Path) -> None:
    file = tmp_path / "v.mp4"
    with av.open(file, "w", format="mp4") as container:
        audio: Any = container.add_stream("aac", rate=44_100)
        add_silence(container, audio)
    assert codes(check(file)) == ["unreadable"]


def test_index_at_the_end_of_a_truncated_file_is_missing(tmp_path: Path) -> None:
    file = write_video(tmp_path / "v.mp4", moving(4), container_options={})
    assert check(file).warnings == ()
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert codes(check(file)) == ["unreadable"]


def test_unknown_codec_is_not_checked(good: Path) -> None:
    good.write_bytes(good.read_bytes().replace(b"avc1", b"xyzw").replace(b"avcC", b"zzzz"))
    assert check(good).warnings == ("not_checked: ValueError: unknown codec",)


def test_file_of_two_gibibytes_is_measured(good: Path) -> None:
    os.truncate(good, 2 * 1024**3)
    assert check(good).warnings == ()


def test_frames_too_large_to_decode_are_not_checked(tmp_path: Path) -> None:
    image = Image.new("RGB", (9000, 8000), "orange")
    file = write_video(tmp_path / "v.mov", [image], codec="png", pixel_format="rgb24", kind="mov")
    assert codes(check(file)) == ["not_checked"]


def test_facts_stay_if_the_poster_cannot_be_made(tmp_path: Path) -> None:
    image = Image.new("RGB", (7900, 7900), "orange")
    file = write_video(tmp_path / "v.mov", [image], codec="png", pixel_format="rgb24", kind="mov")
    result = check(file, Expected(), poster=True)
    assert result.media is not None
    assert set(codes(result)) <= {"black_start", "no_poster"}


def test_long_video_with_one_key_frame_is_read_to_its_end(tmp_path: Path) -> None:
    file = write_video(tmp_path / "v.mp4", moving(40), options={"g": "9999", "bf": "0"})
    assert check(file, Expected(duration=40)).warnings == ()


def test_rotated_video_is_measured_as_a_player_shows_it(tmp_path: Path) -> None:
    file = write_video(tmp_path / "v.mp4", moving(2))
    content = bytearray(file.read_bytes())
    matrix = content.index(b"tkhd") + 44
    content[matrix : matrix + 36] = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, SIZE[1] << 16, 0, 0x40000000)
    file.write_bytes(content)
    result = check(file, Expected(duration=2, aspect_ratio="9:16"), poster=True)
    assert result.warnings == ()
    assert result.media is not None
    assert (result.media.width, result.media.height) == (180, 320)
    assert poster_of(result).size == (180, 320)


def test_audio_that_is_longer_than_the_video_is_not_its_length(tmp_path: Path) -> None:
    file = write_video(
        tmp_path / "v.webm", moving(4), codec="libvpx", kind="webm", options={"cpu-used": "8"}, audio_seconds=12
    )
    result = check(file)
    assert result.warnings == ()
    assert result.media is not None
    assert result.media.duration == pytest.approx(4, abs=0.1)


@pytest.mark.parametrize("kind", ["mpegts", "mpeg"])
def test_format_without_an_index_is_measured(tmp_path: Path, kind: str) -> None:
    codec = "libx264" if kind == "mpegts" else "mpeg2video"
    result = check(write_video(tmp_path / "v.mpg", moving(4), codec=codec, kind=kind), poster=True)
    assert result.warnings == ()
    assert result.media is not None
    assert result.media.duration == pytest.approx(4, abs=0.4)


def test_last_frame_that_is_held_is_no_truncation(tmp_path: Path) -> None:
    file, held = write_video(tmp_path / "v.mp4", moving(4)), tmp_path / "held.mp4"
    with av.open(file) as source, av.open(held, "w") as target:
        stream: Any = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.dts is not None]
        packets[-1].duration = int(3 / (packets[-1].time_base or Fraction(1)))
        for packet in packets:
            packet.stream = stream
            target.mux(packet)
    assert check(held, Expected()).warnings == ()


def test_change_of_color_alone_is_not_frozen(tmp_path: Path) -> None:
    def colored(moment: float) -> Image.Image:
        image = Image.new("RGB", SIZE, "white")
        # Red and green of the same brightness.
        ImageDraw.Draw(image).rectangle((60, 40, 260, 140), fill=(int(255 * (1 - moment)), int(130 * moment), 0))
        return image

    assert check(write_video(tmp_path / "v.mp4", [colored(number / 95) for number in range(96)])).warnings == ()


class TestPosterFile:
    def test_other_file_with_the_name_of_the_poster_is_not_replaced(self, good: Path) -> None:
        photo = good.with_suffix(".jpg")
        frame(0).save(photo)
        before = photo.read_bytes()
        result = check(good, poster=True)
        assert codes(result) == ["no_poster"]
        assert result.poster_path is None
        assert photo.read_bytes() == before

    def test_poster_of_another_video_with_the_same_name_is_not_replaced(self, good: Path) -> None:
        first = check(good, poster=True)
        other = good.rename(good.with_suffix(".mov"))
        assert codes(check(other, poster=True)) == ["no_poster"]
        assert media_check.has_poster_of(str(good), "video_1", first.poster_path)

    def test_poster_of_an_earlier_video_of_the_same_file_is_replaced(self, good: Path) -> None:
        path = check(good, poster=True).poster_path
        options = MediaOptions("warn", poster=True)
        media_check.inspect_video(
            str(good), REQUESTED, options, video_id="video_2", size=good.stat().st_size, model=None
        )
        assert not media_check.has_poster_of(str(good), "video_1", path)
        assert media_check.has_poster_of(str(good), "video_2", path)

    def test_id_that_begins_like_another_one_is_another_video(self, good: Path) -> None:
        path = check(good, poster=True).poster_path
        assert media_check.has_poster_of(str(good), "video_1", path)
        assert not media_check.has_poster_of(str(good), "video_", path)

    def test_video_named_like_a_poster_is_not_replaced(self, good: Path) -> None:
        video = good.rename(good.with_suffix(".jpg"))
        before = video.read_bytes()
        assert check(video, poster=True).poster_path == str(video.with_suffix(".poster.jpg"))
        assert video.read_bytes() == before


def test_unexpected_error_of_a_check_is_a_warning(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    media_process._process.end(media_process._process._process)
    monkeypatch.setattr(sys, "executable", None)
    assert codes(check(good)) == ["not_checked"]


def test_hung_process_is_replaced(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check(good).warnings == ()
    process = media_process._process._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    with monkeypatch.context() as patch:
        patch.setattr(media_probe, "TIME_LIMIT", 0.2)
        patch.setattr(media_process, "_GRACE_SECONDS", 0)
        assert codes(check(good)) == ["not_checked"]
    assert check(good).warnings == ()


def test_time_limit_holds_if_the_worker_ignores_its_signal() -> None:
    code = (
        "import os, signal; signal.signal(signal.SIGALRM, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})\n"
        "from airflow_provider_toapis import media_process\n"
        "video = os.fdopen(os.pipe()[0], 'rb', buffering=0)\n"
        "result = media_process._process.ask(b'f', video)\n"
        "process = media_process._process._process\n"
        "children = f'/proc/{process.pid}/task/{process.pid}/children'\n"
        "while not (pid := open(children).read().strip()): pass\n"
        "status = dict(line.split(':') for line in open(f'/proc/{pid}/status').read().splitlines())\n"
        "alarm = 1 << (signal.SIGALRM - 1)\n"
        "print([int(status[name], 16) & alarm for name in ('SigBlk', 'SigIgn')])\n"
        "process.kill(); os.kill(int(pid), signal.SIGKILL)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.strip() == "[0, 0]"


def test_check_that_takes_too_long_is_ended(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_probe, "TIME_LIMIT", 0)
    monkeypatch.setattr(media_process, "_GRACE_SECONDS", 0)
    assert codes(check(good)) == ["not_checked"]


class BlockedCheck:
    """A check of a video whose content never arrives, and the process that runs it."""

    def __init__(self) -> None:
        reader, self._writer = os.pipe()
        self._file = os.fdopen(reader, "rb", buffering=0)
        self.errors: list[str] = []
        self._thread = threading.Thread(target=self._measure)
        earlier = self._children()
        self._thread.start()
        while not (children := self._children() - earlier):
            time.sleep(0.01)
        (self.pid,) = children

    @staticmethod
    def _children() -> set[int]:
        process = media_process._process._process
        if process is None:
            return set()
        return {int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()}

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
    # Wait until the process has set its memory limit, which is the first thing that it does.
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
    result = media_check.inspect_video(missing, REQUESTED, MediaOptions("warn"), video_id="video_1", size=1, model=None)
    assert codes(result) == ["not_checked"]


def test_facts_without_a_length_are_readable() -> None:
    facts = MediaFacts(None, 640, 360, None, "vp9", has_audio=True, bit_rate=None)
    assert str(facts) == "unknown length, 640x360, with audio"
