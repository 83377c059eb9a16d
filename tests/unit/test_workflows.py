"""The CI workflows run only commands of the Makefile."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

PROJECT = Path(__file__).parents[2]
WORKFLOWS = sorted((PROJECT / ".github" / "workflows").glob("*.yml"))


def jobs(workflow: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"]
    return found


def commands() -> Iterator[str]:
    for workflow in WORKFLOWS:
        for job in jobs(workflow).values():
            yield from (step["run"] for step in job.get("steps", []) if "run" in step)


def test_workflows_exist_for_test_matrix_and_release() -> None:
    assert [workflow.stem for workflow in WORKFLOWS] == ["matrix", "release", "test"]


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_every_command_is_a_target_of_the_makefile(command: str) -> None:
    program, target, *_ = command.split()
    assert program == "make"
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{re.escape(target)}:.* ## ", makefile, re.MULTILINE)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_every_job_has_a_timeout(workflow: Path) -> None:
    assert all("timeout-minutes" in job for job in jobs(workflow).values() if "uses" not in job)


def test_only_publish_job_has_more_than_read_permission() -> None:
    permissions_by_job = {
        (workflow.stem, name): job["permissions"] for workflow in WORKFLOWS for name, job in jobs(workflow).items()
    }
    assert permissions_by_job.pop(("release", "publish")) == {"id-token": "write"}
    assert all(permissions == {"contents": "read"} for permissions in permissions_by_job.values())


def test_publish_job_needs_all_other_jobs() -> None:
    release = jobs(PROJECT / ".github" / "workflows" / "release.yml")
    assert set(release["publish"]["needs"]) == release.keys() - {"publish"}


def test_matrix_workflow_matches_noxfile() -> None:
    tree = ast.parse((PROJECT / "noxfile.py").read_text(encoding="utf-8"))
    (pythons,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PYTHONS"
    ]
    matrix = jobs(PROJECT / ".github" / "workflows" / "matrix.yml")["pair"]["strategy"]["matrix"]
    pairs = set(product(matrix["airflow"], matrix["python"]))
    pairs -= {(pair["airflow"], pair["python"]) for pair in matrix["exclude"]}
    assert pairs == {(airflow, python) for airflow in pythons for python in pythons[airflow]}
