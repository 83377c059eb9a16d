from __future__ import annotations

import pytest

from dev.demo.target import Service, TargetError

KEY = "sk-0123456789abcdef0123456789abcdef"


def test_missing_key_selects_the_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REAL", raising=False)
    monkeypatch.delenv("TOAPIS_API_KEY", raising=False)

    service = Service.from_environment()

    assert service.emulated
    connections = service.connections("http://127.0.0.1:8790")
    assert connections["toapis_default"]["host"] == "http://127.0.0.1"
    assert connections["toapis_default"]["port"] == 8790
    assert connections["shop_api"]["host"] == "http://127.0.0.1:8790"


def test_key_alone_selects_the_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REAL", raising=False)
    monkeypatch.setenv("TOAPIS_API_KEY", KEY)
    service = Service.from_environment()
    assert service.emulated
    assert KEY not in str(service.connections("http://127.0.0.1:8790"))


def test_real_service_without_a_key_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REAL", "1")
    monkeypatch.delenv("TOAPIS_API_KEY", raising=False)
    with pytest.raises(TargetError):
        Service.from_environment()


def test_real_and_key_select_the_real_service_and_keep_the_emulated_shop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REAL", "1")
    monkeypatch.setenv("TOAPIS_API_KEY", KEY)

    service = Service.from_environment()

    connections = service.connections("http://127.0.0.1:8790")
    expected = {"conn_type": "toapis", "password": KEY, "host": "https://toapis.com", "port": 443}
    assert connections["toapis_default"] == expected
    assert connections["shop_api"]["host"] == "http://127.0.0.1:8790"
    assert service.product_feed.endswith("?images=files")
    assert KEY not in repr(service)


def test_empty_key_selects_the_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REAL", raising=False)
    monkeypatch.setenv("TOAPIS_API_KEY", "")

    assert Service.from_environment().emulated
