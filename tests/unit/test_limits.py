"""Limits on responses: time, size, encoding and speed."""

from __future__ import annotations

import gzip
import threading
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from airflow_provider_toapis.api import limits
from airflow_provider_toapis.api.limits import (
    MAX_RESPONSE_BYTES,
    LimitedNetwork,
    LimitExceededError,
    ResponseBody,
    fast_enough,
    time_left,
    within,
)

KIB = 1024


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(limits, "time", clock)
    return clock


class TestTime:
    def test_each_read_gets_the_remaining_time(self, clock: Clock) -> None:
        with within(60):
            assert time_left(30) == 30
            clock.now += 45
            assert time_left(30) == 15
            assert time_left(None) == 15
            clock.now += 15
            with pytest.raises(LimitExceededError, match="60 s"):
                time_left(30)

    def test_timeout_applies_without_a_limit(self, clock: Clock) -> None:
        assert time_left(30) == 30
        assert time_left(None) is None

    def test_limit_ends_with_its_block_and_outer_limit_applies_again(self, clock: Clock) -> None:
        with within(60):
            with suppress(ValueError), within(10):
                assert time_left(30) == 10
                raise ValueError
            assert time_left(None) == 60
        assert time_left(None) is None

    def test_limit_applies_to_its_thread_only(self, clock: Clock) -> None:
        seen: list[float | None] = []
        with within(60):
            thread = threading.Thread(target=lambda: seen.append(time_left(None)))
            thread.start()
            thread.join()
        assert seen == [None]


class FakeStream:
    """Records its timeouts; each operation takes 20 seconds."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.timeouts: list[float | None] = []
        self.closed = False

    def connect_tcp(self, host: str, port: int, **options: Any) -> FakeStream:
        return self._done(options["timeout"])

    def start_tls(self, ssl_context: Any, **options: Any) -> FakeStream:
        return self._done(options["timeout"])

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self._done(timeout)
        return b"x"

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._done(timeout)

    def close(self) -> None:
        self.closed = True

    def _done(self, timeout: float | None) -> FakeStream:
        self.timeouts.append(timeout)
        self.clock.now += 20
        return self


def test_every_connection_phase_uses_the_time_of_the_request(clock: Clock) -> None:
    network = FakeStream(clock)
    with within(70):
        stream = LimitedNetwork(network).connect_tcp("host", 443, timeout=30)
        stream = stream.start_tls(None, server_hostname="host", timeout=30)
        stream.write(b"GET", timeout=30)
        assert stream.read(10, timeout=30) == b"x"
        with pytest.raises(LimitExceededError):
            stream.read(10, timeout=30)
    assert network.timeouts == [30, 30, 30, 10]
    stream.close()
    assert network.closed


class TestSize:
    @pytest.mark.parametrize(
        ("encoding", "encoded"),
        [
            ("identity", bytes),
            ("", bytes),
            ("gzip", gzip.compress),
            ("X-GZIP", gzip.compress),
            ("deflate", zlib.compress),
        ],
    )
    def test_body_is_decoded_in_chunks(self, encoding: str, encoded: Any) -> None:
        text = b'{"id": "video_1"}' * 100
        body = ResponseBody({"content-encoding": encoding})
        sent = encoded(text)
        for start in range(0, len(sent), 7):
            body.add(sent[start : start + 7])
        assert body.content() == text

    @pytest.mark.parametrize("encoding", ["identity", "gzip"])
    def test_body_of_maximum_size_is_accepted_and_one_more_byte_is_rejected(self, encoding: str) -> None:
        encode: Any = gzip.compress if encoding == "gzip" else bytes
        body = ResponseBody({"content-encoding": encoding})
        body.add(encode(bytes(MAX_RESPONSE_BYTES)))
        assert len(body.content()) == MAX_RESPONSE_BYTES
        body = ResponseBody({"content-encoding": encoding})
        with pytest.raises(LimitExceededError, match="8 MiB"):
            body.add(encode(bytes(MAX_RESPONSE_BYTES + 1)))

    def test_decompression_bomb_is_inflated_only_to_the_limit(self) -> None:
        body = ResponseBody({"content-encoding": "gzip"})
        with pytest.raises(LimitExceededError):
            body.add(gzip.compress(bytes(100 * 1024**2)))
        assert len(body.content()) == MAX_RESPONSE_BYTES + 1

    def test_invalid_encoding_is_rejected(self) -> None:
        with pytest.raises(LimitExceededError, match="cannot be decoded"):
            ResponseBody({"content-encoding": "gzip"}).add(b"not gzip at all")

    def test_unrequested_encoding_is_rejected(self) -> None:
        with pytest.raises(LimitExceededError, match="encoding"):
            ResponseBody({"content-encoding": "br"})


class TestSpeed:
    @staticmethod
    def arriving_chunks(clock: Clock, *chunks: tuple[float, int]) -> Iterator[bytes]:
        """Yield chunks of the given sizes, each after the given seconds."""
        for seconds, size in chunks:
            clock.now += seconds
            yield bytes(size)

    @pytest.mark.parametrize("arriving_chunks", [[100] * 25, [2500], [999, 1, 1500], [700, 700, 700, 400]], ids=str)
    def test_chunks_have_equal_size(self, clock: Clock, arriving_chunks: list[int]) -> None:
        chunks = self.arriving_chunks(clock, *[(0.1, size) for size in arriving_chunks])
        assert [len(chunk) for chunk in fast_enough(chunks, 1000)] == [1000, 1000, 500]

    def test_too_slow_transfer_ends_after_a_minute(self, clock: Clock) -> None:
        with pytest.raises(LimitExceededError, match="10 KiB"):
            list(fast_enough(self.arriving_chunks(clock, *[(2, 1)] * 1000), 1000))
        assert clock.now == 1000 + 60

    def test_transfer_at_the_minimum_speed_continues(self, clock: Clock) -> None:
        chunks = [(1.0, 10 * KIB)] * 600
        assert sum(map(len, fast_enough(self.arriving_chunks(clock, *chunks), 64 * KIB))) == 6000 * KIB

    def test_early_burst_does_not_allow_a_slow_transfer_later(self, clock: Clock) -> None:
        with pytest.raises(LimitExceededError):
            list(fast_enough(self.arriving_chunks(clock, (1, 100 * KIB * KIB), *[(2, 1)] * 1000), 1000))
        assert clock.now <= 1000 + 122

    def test_write_time_does_not_count(self, clock: Clock) -> None:
        received = 0
        for chunk in fast_enough(self.arriving_chunks(clock, *[(1, 20 * KIB)] * 200), 20 * KIB):
            received += len(chunk)
            clock.now += 30
        assert received == 4000 * KIB

    def test_wait_for_the_next_chunk_is_limited(self, clock: Clock) -> None:
        def checked_chunks() -> Iterator[bytes]:
            assert time_left(None) == limits.TRANSFER_WINDOW
            yield b"x"

        assert list(fast_enough(checked_chunks(), 10)) == [b"x"]
        assert time_left(None) is None
