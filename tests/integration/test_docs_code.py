"""Run, parse or validate every code block in the documentation."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml  # type: ignore[import-untyped]
from airflow.cli.cli_parser import get_parser
from airflow.configuration import conf
from packaging.requirements import Requirement
from packaging.version import Version

from airflow_provider_toapis.emulator import command as emulator_command
from airflow_provider_toapis.get_provider_info import get_provider_info
from airflow_provider_toapis.hooks.callback_url import RECEIVER_PATH
from airflow_provider_toapis.hooks.toapis import ToAPIsHook
from dev.cluster.status import Status
from dev.scripts import render_snippets
from tests.integration.conftest import image_url
from tests.integration.emulator_process import READY, EmulatorProcess

try:
    from airflow.dag_processing.dagbag import DagBag
except ImportError:  # before Airflow 3.2
    from airflow.models.dagbag import DagBag  # type: ignore[attr-defined, no-redef]

PROJECT = Path(__file__).parents[2]
PAGES = [*sorted(PROJECT.glob("*.md")), *sorted((PROJECT / "docs").rglob("*.md"))]
PYPROJECT: dict[str, Any] = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
AIRFLOW = Version(importlib.metadata.version("apache-airflow"))

_FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<info>[^\n`]*)\n(?P<code>.*?)^(?P=indent)(?P=fence) *$", re.M | re.S
)
_OPTION = re.compile(r"AIRFLOW__(?P<section>[A-Z0-9_]+?)__(?P<option>[A-Z0-9_]+)")
_CONNECTION = re.compile(r"AIRFLOW_CONN_(?P<id>[A-Z0-9_]+)")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    :param info: Text after the opening fence: the language, and optionally a title.
    """

    page: str
    line: int
    info: str
    code: str

    @property
    def language(self) -> str:
        return self.info.split(" ", 1)[0]

    @property
    def location(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def minimum_airflow(self) -> Version:
        """Minimum Airflow version, according to the title."""
        needed = re.search(r'title="Airflow ([0-9.]+) and newer"', self.info)
        return Version(needed[1] if needed else "0")


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for fence in _FENCE.finditer(text):
        line = text.count("\n", 0, fence.start()) + 1
        yield Block(
            str(page.relative_to(PROJECT)), line, fence["info"].strip(), textwrap.dedent(fence["code"]).rstrip() + "\n"
        )


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


@pytest.fixture
def documented_setup(service: EmulatorProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EmulatorProcess:
    """Provide a connection to the service, and an image in the working directory."""
    (tmp_path / "sneaker.jpg").write_bytes(service.get(image_url(service)).raise_for_status().content)
    monkeypatch.chdir(tmp_path)
    return service


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.location} {block.language}")
def test_code_block_is_valid(block: Block, documented_setup: EmulatorProcess) -> None:
    assert block.language in CHECKS, f"{block.location}: nothing checks blocks of the language {block.language!r}"
    if block.minimum_airflow > AIRFLOW:
        pytest.skip(f"needs Airflow {block.minimum_airflow}")
    CHECKS[block.language](block, documented_setup)


def test_all_fences_are_closed_and_parsed() -> None:
    for page in PAGES:
        fences = re.findall(r"^ *(?:`{3,}|~{3,})", page.read_text(encoding="utf-8"), re.M)
        assert len(fences) == 2 * len(list(blocks_of(page))), page


# -- Python -----------------------------------------------------------------------------------------------------------


def check_python(block: Block, _service: EmulatorProcess) -> None:
    """Parse a DAG as Airflow does, and run any other code against the service."""
    if block.code.rstrip("\n") in render_snippets.sections().values():
        return  # A section of an example. tests/e2e runs the examples.
    if re.search(r"\bDAG\(|@dag\b", block.code):
        assert _parsed(block), "no DAG found"
    elif "def test_" in block.code:
        _check_test(block)
    else:
        names: dict[str, Any] = {"__name__": "documentation"}
        exec(compile(block.code, block.location, "exec"), names)


def _parsed(block: Block) -> dict[str, Any]:
    file = Path.cwd() / "documentation.py"
    file.write_text(block.code, encoding="utf-8")
    bag: Any = DagBag(str(file), collect_dags=False)
    bag.process_file(str(file))
    assert bag.import_errors == {}
    assert all(dag.tasks for dag in bag.dags.values())
    return dict(bag.dags)


def _check_test(block: Block) -> None:
    file = Path.cwd() / "test_documentation.py"
    file.write_text(block.code, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "--quiet", "-p", "no:cacheprovider", str(file)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


# -- shell ------------------------------------------------------------------------------------------------------------


def check_commands(block: Block, service: EmulatorProcess) -> None:
    """Check that every command exists and accepts its options. The output is not checked."""
    commands = list(_commands(block))
    assert commands
    for program, *arguments in commands:
        name = Path(program).name
        assert name in COMMANDS, f"{block.location}: nothing checks the command {name!r}"
        COMMANDS[name](arguments, service)


def _commands(block: Block) -> Iterator[list[str]]:
    lines = iter(block.code.splitlines())
    for line in lines:
        command = line.removeprefix("$ ")
        if block.language == "console" and command == line:
            continue  # Output of the command.
        while command.endswith("\\"):
            command = command[:-1] + next(lines)
        if words := shlex.split(command, comments=True):
            yield words


def check_make(arguments: list[str], _service: EmulatorProcess) -> None:
    targets = re.findall(r"^([a-z0-9-]+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert set(arguments) <= set(targets)


def check_pip(arguments: list[str], _service: EmulatorProcess) -> None:
    verb, *names = arguments
    assert verb == "install"
    # ".[extra]" installs a checkout.
    for requirement in (Requirement(name.replace(".[", f"{PYPROJECT['name']}[")) for name in names):
        assert requirement.name == PYPROJECT["name"]
        assert requirement.extras <= PYPROJECT["optional-dependencies"].keys()


def check_uv(arguments: list[str], service: EmulatorProcess) -> None:
    pip, *rest = arguments
    assert pip == "pip"
    check_pip(rest, service)


def check_python_command(arguments: list[str], _service: EmulatorProcess) -> None:
    flag, module, *options = arguments
    assert flag == "-m"
    assert importlib.util.find_spec(module), f"there is no module {module}"
    if module == "airflow_provider_toapis.emulator":
        _check_arguments(emulator_command._parser(), options)


def check_airflow(arguments: list[str], _service: EmulatorProcess) -> None:
    _check_arguments(get_parser(), arguments)


def check_curl(arguments: list[str], service: EmulatorProcess) -> None:
    """Send the request to the emulator of the test, instead of the documented address."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("url")
    parser.add_argument("-X", dest="method", default="GET")
    parser.add_argument("-d", dest="data")
    parser.add_argument("-o", dest="file")
    call = parser.parse_args(arguments)
    url = httpx.URL(call.url)
    assert url.host == "127.0.0.1"
    response = httpx.request(call.method, f"{service.url}{url.path}", content=call.data)
    # The emulator of the tests has no webhook.
    assert response.is_success or (url.path.endswith("/webhooks/test") and response.status_code == 400)


def check_export(arguments: list[str], _service: EmulatorProcess) -> None:
    (assignment,) = arguments
    name, _, value = assignment.partition("=")
    if option := _OPTION.fullmatch(name):
        assert _is_option(option["section"].lower(), option["option"].lower()), name
    else:
        connection = _CONNECTION.fullmatch(name)
        assert connection, f"nothing checks the variable {name}"
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv(name, value)
            ToAPIsHook(connection["id"].lower()).settings()


def _check_arguments(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    try:
        parser.parse_args(arguments)
    except SystemExit as end:
        raise AssertionError(f"{parser.prog} does not accept {arguments}") from end


COMMANDS: dict[str, Callable[[list[str], EmulatorProcess], None]] = {
    "airflow": check_airflow,
    "curl": check_curl,
    "export": check_export,
    "make": check_make,
    "pip": check_pip,
    "python": check_python_command,
    "uv": check_uv,
}


# -- data and settings ------------------------------------------------------------------------------------------------


def check_json(block: Block, _service: EmulatorProcess) -> None:
    """Parse one document, or JSON Lines."""
    try:
        json.loads(block.code)
    except json.JSONDecodeError:
        for line in block.code.splitlines():
            json.loads(line)


def check_yaml(block: Block, _service: EmulatorProcess) -> None:
    assert isinstance(yaml.safe_load(block.code), dict)


def check_toml(block: Block, _service: EmulatorProcess) -> None:
    assert tomllib.loads(block.code)


def check_airflow_cfg(block: Block, _service: EmulatorProcess) -> None:
    """Check that every option belongs to Airflow or to this provider."""
    parser = ConfigParser(interpolation=None)
    parser.read_string(block.code)
    assert parser.sections()
    for section in parser.sections():
        for option in parser[section]:
            assert _is_option(section, option), f"{block.location}: Airflow has no [{section}] {option}"


def _is_option(section: str, option: str) -> bool:
    described = [conf.configuration_description, get_provider_info().get("config", {})]
    return any(option in sections.get(section, {}).get("options", {}) for sections in described)


def check_nginx(block: Block, _service: EmulatorProcess) -> None:
    """Check that blocks and directives are closed, and that the path is the receiver's."""
    lines = [line.partition("#")[0].strip() for line in block.code.splitlines()]
    assert all(line.endswith(("{", "}", ";")) for line in lines if line)
    assert block.code.count("{") == block.code.count("}")
    assert f"location {RECEIVER_PATH}/ {{" in block.code


def check_output(block: Block, service: EmulatorProcess) -> None:
    """Check the output of a command."""
    if block.page == "docs/logs.md":
        return  # see test_log_page.py
    if "●" in block.code:
        check_cluster_status(block)
    else:
        assert READY.fullmatch(block.code)


def check_cluster_status(block: Block) -> None:
    """Check the output of `make cluster`."""
    parts = re.findall(r"● (\S+)", block.code)
    tasks = {state: int(number) for number, state in re.findall(r"(\d+) (running|deferred|success)", block.code)}
    billed, usd = re.findall(r"(\d+) billed, ([0-9.]+) USD", block.code)[0]
    status = Status(dict.fromkeys(parts, True), tasks, int(billed), usd)
    assert "\n".join(status.lines()) == block.code.rstrip()


CHECKS: dict[str, Callable[[Block, EmulatorProcess], None]] = {
    "console": check_commands,
    "ini": check_airflow_cfg,
    "json": check_json,
    "nginx": check_nginx,
    "python": check_python,
    "sh": check_commands,
    "text": check_output,
    "toml": check_toml,
    "yaml": check_yaml,
}
