"""Parts of the emulator that need no server: limits, signatures, file types, frame sizes and URLs."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import pytest

from airflow_provider_toapis.emulator.command import main
from airflow_provider_toapis.emulator.error_bodies import RejectedError
from airflow_provider_toapis.emulator.rate_limits import TokenBucket
from airflow_provider_toapis.emulator.rendering import FRAME_AREA, frame_size
from airflow_provider_toapis.emulator.settings import Settings
from airflow_provider_toapis.emulator.uploads import sniffed_type
from airflow_provider_toapis.emulator.webhook_delivery import is_allowed_url, signature


class FakeTime:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def allowed_count(bucket: TokenBucket, requests: int) -> int:
    allowed = 0
    for _ in range(requests):
        try:
            bucket.take()
        except RejectedError:
            continue
        allowed += 1
    return allowed


def test_bucket_allows_a_ten_second_burst_then_its_rate() -> None:
    time = FakeTime()
    bucket = TokenBucket("async_submit", 5, time)

    assert allowed_count(bucket, 80) == 50
    time.seconds += 2
    assert allowed_count(bucket, 80) == 10
    time.seconds += 3600
    assert allowed_count(bucket, 80) == 50


def test_rejected_request_gets_retry_after() -> None:
    time = FakeTime()
    bucket = TokenBucket("async_query", 0.1, time)
    assert bucket.take() == {
        "X-RateLimit-Limit": "6",
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": "10",
        "X-RateLimit-Category": "async_query",
    }

    with pytest.raises(RejectedError) as rejection:
        bucket.take()

    assert rejection.value.status == 429
    assert rejection.value.headers["Retry-After"] == "10"
    assert rejection.value.body["error"]["code"] == "rate_limit_exceeded"
    time.seconds += 10
    assert allowed_count(bucket, 2) == 1


def test_zero_rate_is_unlimited() -> None:
    assert allowed_count(TokenBucket("async_submit", 0, FakeTime()), 1000) == 1000


def test_signature_is_the_documented_hmac() -> None:
    expected = hmac.new(b"secret", b'evt_1.1783953302.{"a":1}', hashlib.sha256).hexdigest()

    assert signature("secret", "evt_1", "1783953302", b'{"a":1}') == expected


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://shop.example/hook?run=1", True),
        ("http://127.0.0.1:8080/hook", True),
        ("http://localhost/hook", True),
        ("http://shop.example/hook", False),
        ("https://user@shop.example/hook", False),
        ("https://shop.example/hook#top", False),
        ("https://shop.example:port/hook", False),
        ("ftp://shop.example/hook", False),
        ("hook", False),
    ],
)
def test_webhook_url_rules(url: str, allowed: bool) -> None:
    assert is_allowed_url(url) is allowed


@pytest.mark.parametrize(
    ("head", "media_type"),
    [
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"GIF89a", "image/gif"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "audio/wav"),
        (b"RIFF\x00\x00\x00\x00AVI LIST", None),
        (b"\x00\x00\x00\x20ftypisom", "video/mp4"),
        (b"\x00\x00\x00\x14ftypqt  ", "video/quicktime"),
        (b"\x00\x00\x00\x1cftypM4A ", "audio/mp4"),
        (b"\x1aE\xdf\xa3", "video/webm"),
        (b"ID3\x04", "audio/mpeg"),
        (b"<html>", None),
        (b"", None),
    ],
)
def test_file_type_is_detected_from_content(head: bytes, media_type: str | None) -> None:
    assert sniffed_type(head) == media_type


@pytest.mark.parametrize("ratio", ["16:9", "9:16", "3:2", "2:3", "1:1", "4:3", "21:9", "720:1280"])
def test_frame_has_the_exact_ratio_in_even_pixels(ratio: str) -> None:
    width, height = frame_size(ratio)
    across, down = map(int, ratio.split(":"))

    assert width * down == height * across
    assert width % 2 == height % 2 == 0
    assert width * height <= FRAME_AREA


@pytest.mark.parametrize("ratio", ["adaptive", "", "0:9", "wide", "1279:719"])
def test_invalid_ratio_becomes_widescreen(ratio: str) -> None:
    assert frame_size(ratio) == (480, 270)


def test_ratio_in_pixels_is_accepted() -> None:
    assert frame_size("720x1280") == frame_size("9:16")


def test_own_urls_are_recognized_by_host_and_port() -> None:
    settings = Settings("http://127.0.0.1:8790", Path())

    assert settings.own_path("http://localhost:8790/files/x.jpg?a=1") == "/files/x.jpg"
    assert settings.own_path("http://127.0.0.1:8791/files/x.jpg") is None
    assert settings.own_path("https://files.toapis.com/x.jpg") is None


@pytest.mark.parametrize(
    "options",
    [
        ("--latency", "-1"),
        ("--latency-spread", "2"),
        ("--webhook-url", "https://shop.example/hook"),
        ("--webhook-url", "http://shop.example/hook", "--webhook-secret", "s"),
        ("--balance", "much"),
    ],
)
def test_invalid_option_is_rejected(options: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(list(options))

    assert options[0] in capsys.readouterr().err


@pytest.mark.parametrize("content", ['{"on": "balance"}', "[", None])
def test_scenario_that_is_not_a_list_is_rejected(
    tmp_path: Path, content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario = tmp_path / "scenario.json"
    if content is not None:
        scenario.write_text(content)

    with pytest.raises(SystemExit, match="2"):
        main(["--scenario", str(scenario)])

    assert "--scenario" in capsys.readouterr().err
