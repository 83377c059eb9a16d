"""How often connections are looked up for the receiver of webhooks."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter

import pytest
from airflow.providers.common.compat.sdk import AirflowNotFoundException

from airflow_provider_toapis.webhooks.secrets import MAX_UNKNOWN_LOOKUPS, TTL_SECONDS, SecretStore, connection_secrets


class Connections:
    """Connections with webhook secrets, the number of their look-ups, and a clock."""

    def __init__(self) -> None:
        self.secrets = {"known": ("secret",), "other": ("second",)}
        self.look_ups: Counter[str] = Counter()
        self.now = 0.0
        self.store = SecretStore(self.look_up, lambda: self.now)

    def look_up(self, conn_id: str) -> tuple[str, ...]:
        self.look_ups[conn_id] += 1
        if conn_id == "broken":
            raise OSError("no secrets backend")
        return self.secrets.get(conn_id, ())


@pytest.fixture
def connections() -> Connections:
    return Connections()


async def test_secret_is_looked_up_once_a_minute(connections: Connections) -> None:
    for _ in range(5):
        assert await connections.store.get("known") == ("secret",)
    assert connections.look_ups["known"] == 1
    connections.now += TTL_SECONDS + 1
    connections.secrets["known"] = ("rotated",)
    assert await connections.store.get("known") == ("rotated",)
    assert connections.look_ups["known"] == 2


async def test_absence_is_remembered_too_and_forgotten_after_a_minute(connections: Connections) -> None:
    for _ in range(5):
        (decoy,) = await connections.store.get("new")
        assert decoy not in {"secret", "second"}
    assert connections.look_ups["new"] == 1
    connections.secrets["new"] = ("added",)
    connections.now += TTL_SECONDS + 1
    assert await connections.store.get("new") == ("added",)


async def test_secret_that_was_removed_is_good_for_a_minute_at_most(connections: Connections) -> None:
    await connections.store.get("known")
    del connections.secrets["known"]
    connections.now += TTL_SECONDS + 1
    assert "secret" not in await connections.store.get("known")


async def test_many_at_once_share_one_look_up(connections: Connections) -> None:
    found = await asyncio.gather(*(connections.store.get("known") for _ in range(50)))
    assert set(found) == {("secret",)}
    assert connections.look_ups["known"] == 1


async def test_invented_ids_cost_few_look_ups_and_do_not_push_known_ones_out(connections: Connections) -> None:
    await connections.store.get("known")
    connections.now += TTL_SECONDS + 1
    for number in range(3000):
        await connections.store.get(f"invented_{number}")
    assert sum(connections.look_ups.values()) <= 1 + MAX_UNKNOWN_LOOKUPS
    assert await connections.store.get("known") == ("secret",)
    connections.now += 1.1
    assert await connections.store.get("other") == ("second",)


async def test_slow_look_ups_of_invented_ids_do_not_hold_up_a_real_one(connections: Connections) -> None:
    await connections.store.get("known")
    released = threading.Event()
    quick = connections.look_up
    connections.store._look_up = lambda conn_id: quick(conn_id) if conn_id == "known" else (released.wait(), ())[1]
    asked = []
    for number in range(40):
        connections.now += 2
        asked.append(asyncio.create_task(connections.store.get(f"invented_{number}")))
        await asyncio.sleep(0)
    connections.now += TTL_SECONDS
    assert await connections.store.get("known") == ("secret",)
    assert len(connections.store._in_progress) <= MAX_UNKNOWN_LOOKUPS
    released.set()
    await asyncio.gather(*asked)


@pytest.mark.parametrize("conn_id", ["", "..", "a/b", "a\0", "é", "x" * 300, "a' OR 1=1", "{{ 7 }}"])
async def test_what_cannot_be_an_id_is_never_looked_up(connections: Connections, conn_id: str) -> None:
    assert len(await connections.store.get(conn_id)) == 1
    assert not connections.look_ups


async def test_backend_that_fails_is_asked_again(connections: Connections) -> None:
    for _ in range(2):
        with pytest.raises(OSError, match="no secrets backend"):
            await connections.store.get("broken")
    assert connections.look_ups["broken"] == 2


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
def test_secrets_of_airflow_connections(
    monkeypatch: pytest.MonkeyPatch, connection: dict[str, object], secrets: tuple[str, ...]
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_HOOKED", json.dumps(connection))
    assert connection_secrets("hooked") == secrets


def test_unknown_connection_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_provider_toapis.webhooks.secrets.Connection.get_connection_from_secrets", _unknown)
    assert connection_secrets("nobody") == ()


def _unknown(conn_id: str) -> None:
    raise AirflowNotFoundException(conn_id)
