from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from dev.demo.browser import Browser, Page

# Set before Airflow is imported, so that its configuration file is not written to the user's home directory.
_home = tempfile.TemporaryDirectory(prefix="toapis-tests-airflow-")
os.environ["AIRFLOW_HOME"] = _home.name


@pytest.fixture(scope="session")
def print_now(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Return a function that prints a line immediately. pytest would show it only after a failure.

    It prints to the standard error, because the processes of ``--numprocesses`` have no standard output.
    """
    capture: Any = pytestconfig.pluginmanager.get_plugin("capturemanager")

    def write(line: str) -> None:
        with capture.global_and_fixture_disabled():
            sys.stderr.write(f"\n{line} ")
            sys.stderr.flush()

    return write


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from dev.demo.browser import Browser, find_browser  # noqa: PLC0415 - most tests need no playwright

    with Browser(find_browser()) as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.page() as page:
        yield page
