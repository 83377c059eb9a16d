"""The wheel and the sdist for the package index."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import tarfile
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from zipfile import ZipFile

import pytest

import airflow_provider_toapis
from tests.release.source import Distributions, build, copy_source, source_files

PACKAGE = "airflow_provider_toapis"
FULL_NAME = f"airflow_provider_toapis-{airflow_provider_toapis.__version__}"
DIST_INFO = f"{FULL_NAME}.dist-info"

#: Maximum size of a file in bytes.
MAX_FILE_SIZE = 1_000_000


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with ZipFile(wheel) as archive:
        return BytesParser().parsebytes(archive.read(f"{DIST_INFO}/METADATA"))


def sdist_files(sdist: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    assert all(member.isfile() for member in members)
    return {member.name.removeprefix(f"{FULL_NAME}/"): member for member in members}


def test_builds_are_reproducible(distributions: Distributions, tmp_path: Path) -> None:
    elsewhere = copy_source(tmp_path / "elsewhere")
    for path in elsewhere.rglob("*"):
        if path.is_file():
            path.chmod(path.stat().st_mode & stat.S_IRWXU)
            os.utime(path, (1_600_000_000, 1_600_000_000))
    again = build(elsewhere, tmp_path / "dist", {"TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7"})
    assert again.wheel.read_bytes() == distributions.wheel.read_bytes()
    assert again.sdist.read_bytes() == distributions.sdist.read_bytes()


def test_source_date_epoch_sets_the_time_of_every_file(tmp_path: Path) -> None:
    dated = build(copy_source(tmp_path / "source"), tmp_path / "dist", {"SOURCE_DATE_EPOCH": "1700000000"})
    assert {member.mtime for member in sdist_files(dated.sdist).values()} == {1_700_000_000}
    with ZipFile(dated.wheel) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(2023, 11, 14, 22, 13, 20)}


def test_package_index_accepts_wheel_and_sdist(distributions: Distributions) -> None:
    files = [str(distributions.wheel), str(distributions.sdist)]
    run = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_sdist_contains_exactly_the_files_under_version_control(distributions: Distributions) -> None:
    assert sdist_files(distributions.sdist).keys() == source_files() | {"PKG-INFO"}


def test_sdist_has_no_large_file(distributions: Distributions) -> None:
    large = {name for name, member in sdist_files(distributions.sdist).items() if member.size > MAX_FILE_SIZE}
    assert large == set()


def test_wheel_contains_exactly_the_package(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.startswith(f"{DIST_INFO}/")}
    assert names == {name for name in source_files() if name.startswith(f"{PACKAGE}/")}
    data = {
        "api/model_catalog.toml",
        "emulator/models.toml",
        "emulator/faults.toml",
        "emulator/images/sneaker.jpg",
        "batch/report.html.jinja",
        "py.typed",
        "ui/templates/base.html.jinja",
        "ui/templates/player.js",
        "ui/templates/style.css",
    }
    assert {f"{PACKAGE}/{name}" for name in data} <= names


def test_wheel_is_platform_independent(wheel: Path) -> None:
    assert wheel.name == f"{FULL_NAME}-py3-none-any.whl"


def test_wheel_contains_license_and_entry_points(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        assert "Apache License" in archive.read(f"{DIST_INFO}/licenses/LICENSE").decode()
        entry_points = archive.read(f"{DIST_INFO}/entry_points.txt").decode()
    assert "[apache_airflow_provider]\nprovider_info = airflow_provider_toapis:get_provider_info\n" in entry_points
    assert "[airflow.plugins]\ntoapis = airflow_provider_toapis.plugin:ToAPIsPlugin\n" in entry_points


def test_metadata_version_is_supported_by_old_tools(metadata: Message) -> None:
    assert metadata["Metadata-Version"] == "2.4"


def test_metadata_names_supported_python_and_airflow(metadata: Message) -> None:
    assert metadata["Name"] == "airflow-provider-toapis"
    assert metadata["Version"] == airflow_provider_toapis.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    classifiers = metadata.get_all("Classifier", [])
    assert {"Framework :: Apache Airflow :: Provider", "Typing :: Typed"} <= set(classifiers)
    minors = [name for name in classifiers if re.fullmatch(r"Programming Language :: Python :: 3\.\d+", name)]
    assert minors == [f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)]


def test_description_has_only_absolute_links(metadata: Message) -> None:
    description = metadata.get_payload()
    assert isinstance(description, str)
    assert "## The smallest DAG" in description
    targets = re.findall(r"\]\(([^)]*)\)|(?:src|href)=\"([^\"]*)\"", description)
    assert targets
    assert [link or source for link, source in targets if not (link or source).startswith("https://")] == []
