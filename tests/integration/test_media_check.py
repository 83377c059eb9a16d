"""The check of saved videos with real files, among them broken and hostile ones, in its real child process."""

from __future__ import annotations

import io
import resource
import signal
import struct
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image, ImageDraw

from airflow_provider_toapis import media_check, media_probe
from airflow_provider_toapis.media_check import Expected, MediaCheck, MediaFacts

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


def check(path: Path, expected: Expected = REQUESTED, **options: Any) -> MediaCheck:
    return media_check.check_video(path, expected, size=path.stat().st_size, **options)


def codes(result: MediaCheck) -> list[str]:
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
    result = check(write_video(tmp_path / "v.mp4", images), wants_poster=True)
    assert codes(result) == ["black_start"]
    assert result.poster is not None
    poster = Image.open(io.BytesIO(result.poster))
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
    poster = check(wide, Expected(), wants_poster=True).poster
    assert poster is not None
    assert Image.open(io.BytesIO(poster)).size == (1920, 1080)


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
    result = check(file, wants_poster=True)
    assert codes(result) == ["not_checked"]
    assert (result.media, result.poster) == (None, None)


def test_video_without_a_video_stream_is_not_checked(tmp_path: Path) -> None:
    file = tmp_path / "v.mp4"
    with av.open(file, "w", format="mp4") as container:
        audio: Any = container.add_stream("aac", rate=44_100)
        add_silence(container, audio)
    assert codes(check(file)) == ["not_checked"]


def test_check_that_takes_too_long_is_ended(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_check, "TIMEOUT", 0.01)
    (warning,) = check(good).warnings
    assert warning.startswith("not_checked: the check took longer")


def test_killed_child_is_a_warning(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = subprocess.CompletedProcess([], -signal.SIGKILL, b"", b"")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: killed)
    assert check(good).warnings == ("not_checked: the check was ended by SIGKILL",)


def test_missing_file_is_not_checked(tmp_path: Path) -> None:
    result = media_check.check_video(tmp_path / "missing.mp4", REQUESTED, size=1)
    assert codes(result) == ["not_checked"]


def test_child_cannot_use_more_than_a_gibibyte(tmp_path: Path) -> None:
    large = write_video(tmp_path / "v.mp4", moving(0.5, (1920, 1080)))
    check(large, Expected())
    # The peak of all children so far, in KiB.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < media_probe.MEMORY_LIMIT


def test_facts_without_a_length_are_readable() -> None:
    facts = MediaFacts(None, 640, 360, None, "vp9", has_audio=True, bit_rate=None)
    assert str(facts) == "unknown length, 640x360, with audio"
