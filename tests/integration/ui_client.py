"""A client of the pages inside Airflow, with users of Airflow's SimpleAuthManager. Only for Airflow 3.1 and newer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from airflow.api_fastapi.app import get_auth_manager, init_auth_manager, purge_cached_app
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from fastapi import FastAPI
from fastapi.testclient import TestClient

from airflow_provider_toapis.links.video import VIDEOS_PATH
from airflow_provider_toapis.ui.app import videos_app
from tests.shown_videos import Elements

SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}
#: Headers that every response has.
SECURITY_HEADERS = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}


@contextmanager
def simple_auth_manager(directory: Path) -> Iterator[None]:
    """Use Airflow's SimpleAuthManager in this process.

    :param directory: Directory for its file with passwords.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE", str(directory / "passwords.json"))
        patch.setenv(
            "AIRFLOW__API_AUTH__JWT_SECRET", "a secret of at least sixty-four bytes, which the tests use only here"
        )
        init_auth_manager()
        yield
        purge_cached_app()


class Client:
    """Sends requests to the pages, mounted as in Airflow. Each response must have the security headers."""

    def __init__(self) -> None:
        pages = videos_app()
        self.routes: list[Any] = list(pages.routes)
        app = FastAPI()
        app.mount(VIDEOS_PATH, pages)
        self._client = TestClient(app, follow_redirects=False)

    def get(self, path: str = f"{VIDEOS_PATH}/", *, role: str | None = "viewer", **query: Any) -> Any:
        """Request a page.

        :param path: Path with or without a query.
        :param role: Role of the user; None without a session.
        """
        return self.send("GET", f"{path}?{urlencode(query)}" if query else path, role=role)

    def review(self, path: str, review: Any, *, role: str | None = "user", headers: Any = SAME_ORIGIN) -> Any:
        """Send a review, as the script of the pages does."""
        content = json.dumps(review).encode()
        return self.send("POST", path, content, role=role, headers={"Content-Type": "application/json", **headers})

    def send(
        self, method: str, path: str, content: bytes | None = None, *, role: str | None = "viewer", headers: Any = None
    ) -> Any:
        """Send a request."""
        cookie = {} if role is None else {"Cookie": f"_token={_token(role)}"}
        response = self._client.request(method, path, content=content, headers=cookie | (headers or {}))
        assert SECURITY_HEADERS.items() <= response.headers.items()
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert response.headers["cache-control"].split(",")[0] in ("no-store", "private")
        return response


def _token(role: str) -> str:
    user = SimpleAuthManagerUser(username=f"a {role}", role=None if role == "nobody" else role)
    return str(get_auth_manager().generate_jwt(user))


def titles(response: Any) -> list[str]:
    """Return the titles of the cards of a page."""
    assert response.status_code == 200
    return [unescape(title) for title in re.findall(r"<h2>(?:<a [^>]*>)?<bdi>(.*?)</bdi>", response.text, re.DOTALL)]


def page_of(response: Any) -> str:
    """Return the address of the page to which the only card of a list links."""
    (found,) = re.findall(r'<h2><a href="(.*?)">', response.text)
    return unescape(found)


def address(response: Any, part: str) -> str | None:
    """Return the address on a page that contains a text; None if the page has none."""
    return next((found for found in sorted(Elements(response.text).addresses()) if part in found), None)
