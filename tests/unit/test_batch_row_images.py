"""Rows with unreadable images: the plan reports each row, or raises an error that names the row."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_toapis.batch.directory import Directory
from airflow_provider_toapis.batch.feed import RowProblem, read_rows
from airflow_provider_toapis.batch.row_request import Defaults, RowRequest, RowRequests
from airflow_provider_toapis.exceptions import ToAPIsConnectionError, ToAPIsFileError
from tests.unit.object_storage import Bucket, EndpointConnectionError, NoCredentialsError, attach

VALID_IMAGE = "https://example.com/shoe.jpg"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    bucket = Bucket()
    attach(monkeypatch, bucket)
    return bucket


def check_images(*images: str) -> list[Any]:
    rows = [{"key": f"k{number}", "prompt": "It turns", "image": image} for number, image in enumerate(images)]
    return list(RowRequests(Defaults("grok-video-1.5-preview"), None).check_all(read_rows(rows)))


@pytest.mark.parametrize(
    "image", ["/dev/zero", "~nosuchuser/a.jpg", "file://[x", "/nowhere/a.jpg", "a\0b.jpg", "nosuch://bucket/a.jpg"]
)
def test_unusable_image_is_a_problem_of_its_row(image: str) -> None:
    first, problem, last = check_images(VALID_IMAGE, image, VALID_IMAGE)
    assert isinstance(first, RowRequest)
    assert isinstance(last, RowRequest)
    assert isinstance(problem, RowProblem)
    assert (problem.number, problem.key) == (2, "k1")
    assert "image=" in problem.reason


def test_pipe_is_a_problem_of_its_row(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    assert isinstance(check_images(str(tmp_path / "a.jpg"))[0], RowProblem)


def test_missing_credentials_are_a_problem_of_each_row(bucket: Bucket) -> None:
    bucket.errors["info"] = NoCredentialsError()
    problems = check_images("memory://pictures/a.jpg", "memory://pictures/b.jpg")
    assert [problem.key for problem in problems if isinstance(problem, RowProblem)] == ["k0", "k1"]


def test_storage_error_is_retryable_and_names_the_row(bucket: Bucket) -> None:
    bucket.errors["info"] = EndpointConnectionError()
    with pytest.raises(ToAPIsConnectionError, match=r"row 2 \(key 'k1'\).*image='memory://pictures/a.jpg'") as raised:
        check_images(VALID_IMAGE, "memory://pictures/a.jpg")
    assert not raised.value.sent


def test_directory_without_delete_permission_is_rejected(bucket: Bucket) -> None:
    bucket.errors["rm"] = PermissionError("Access Denied")
    with pytest.raises(ToAPIsFileError, match=r"output_path='memory:///?videos/night"):
        Directory("memory://videos/night").require_writable()
