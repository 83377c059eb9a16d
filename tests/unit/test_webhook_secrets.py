"""The cache of webhook secrets: how often connections are read."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter

import pytest
from airflow.providers.common.compat.sdk import AirflowNotFoundException

from airflow_provider_toapis.webhooks.secrets import MAX_UNKNOWN_LOOKUPS, TTL_SECONDS, SecretStore, connection_secrets


class Connections:
    """Connections with webhook secrets, the number of their reads, and a clock."""

    def __init__(self) -> None:
        self.secrets = {"known": ("secret",), "other": ("second",)}
        self.reads: Counter[str] = Counter()
        self.now = 0.0
        self.store = SecretStore(self.read, lambda: self.now)

    def read(self, conn_id: str) -> tuple[str, ...]:
        self.reads[conn_id] += 1
        if conn_id == "broken":
            raise OSError("no secrets backend")
        return self.secrets.get(conn_id, ())


@pytest.fixture
def connections() -> Connections:
    return Connections()


async def test_secret_is_read_once_per_minute(connections: Connections) -> None:
    for _ in range(5):
        assert await connections.store.get("known") == ("secret",)
    assert connections.reads["known"] == 1
    connections.now += TTL_SECONDS + 1
    connections.secrets["known"] = ("rotated",)
    assert await connections.store.get("known") == ("rotated",)
    assert connections.reads["known"] == 2


async def test_missing_secret_is_cached_for_one_minute(connections: Connections) -> None:
    for _ in range(5):
        (decoy,) = await connections.store.get("new")
        assert decoy not in {"secret", "second"}
    assert connections.reads["new"] == 1
    connections.secrets["new"] = ("added",)
    connections.now += TTL_SECONDS + 1
    assert await connections.store.get("new") == ("added",)


async def test_removed_secret_is_valid_for_at_most_one_minute(connections: Connections) -> None:
    await connections.store.get("known")
    del connections.secrets["known"]
    connections.now += TTL_SECONDS + 1
    assert "secret" not in await connections.store.get("known")


async def test_concurrent_requests_share_one_read(connections: Connections) -> None:
    secrets = await asyncio.gather(*(connections.store.get("known") for _ in range(50)))
    assert set(secrets) == {("secret",)}
    assert connections.reads["known"] == 1


async def test_unknown_ids_cause_few_reads_and_do_not_evict_known_ids(connections: Connections) -> None:
    await connections.store.get("known")
    connections.now += TTL_SECONDS + 1
    for number in range(3000):
        await connections.store.get(f"invented_{number}")
    assert sum(connections.reads.values()) <= 1 + MAX_UNKNOWN_LOOKUPS
    assert await connections.store.get("known") == ("secret",)
    connections.now += 1.1
    assert await connections.store.get("other") == ("second",)


async def test_slow_reads_of_unknown_ids_do_not_delay_a_known_id(connections: Connections) -> None:
    await connections.store.get("known")
    released = threading.Event()
    read_known = connections.read
    connections.store._look_up = lambda conn_id: read_known(conn_id) if conn_id == "known" else (released.wait(), ())[1]
    pending = []
    for number in range(40):
        connections.now += 2
        pending.append(asyncio.create_task(connections.store.get(f"invented_{number}")))
        await asyncio.sleep(0)
    connections.now += TTL_SECONDS
    assert await connections.store.get("known") == ("secret",)
    assert len(connections.store._in_progress) <= MAX_UNKNOWN_LOOKUPS
    released.set()
    await asyncio.gather(*pending)


@pytest.mark.parametrize("conn_id", ["", "..", "a/b", "a\0", "é", "x" * 300, "a' OR 1=1", "{{ 7 }}"])
async def test_invalid_connection_id_is_never_read(connections: Connections, conn_id: str) -> None:
    assert len(await connections.store.get(conn_id)) == 1
    assert not connections.reads


async def test_failed_read_is_retried(connections: Connections) -> None:
    for _ in range(2):
        with pytest.raises(OSError, match="no secrets backend"):
            await connections.store.get("broken")
    assert connections.reads["broken"] == 2


@pytest.mark.parametrize(
    ("connection", "secrets"),
    [
        ({"conn_type": "toapis", "extra": {"webhook_secret": "a,b"}}, ("a", "b")),
        ({"conn_type": "http", "extra": {"webhook_secret": "a"}}, ("a",)),
        ({"conn_type": "toapis", "extra": {}}, ()),
        ({"conn_type": "toapis", "extra": {"webhook_secret": 5}}, ()),
        ({"conn_type": "postgres", "extra": {"webhook_secret": "a"}}, ()),
    ],
)
def test_secrets_are_read_from_airflow_connections(
    monkeypatch: pytest.MonkeyPatch, connection: dict[str, object], secrets: tuple[str, ...]
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_HOOKED", json.dumps(connection))
    assert connection_secrets("hooked") == secrets


def test_unknown_connection_has_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_provider_toapis.webhooks.secrets.Connection.get_connection_from_secrets", _unknown)
    assert connection_secrets("unknown") == ()


def _unknown(conn_id: str) -> None:
    raise AirflowNotFoundException(conn_id)
