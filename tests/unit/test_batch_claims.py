"""Claims: only one process claims a submission, and the claim of a dead worker expires."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from airflow_provider_toapis.batch.claims import CLAIM_SECONDS, Claims, Subject
from airflow_provider_toapis.batch.directory import Directory


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory(str(tmp_path))


@pytest.fixture
def claims_dir(tmp_path: Path) -> Path:
    return tmp_path / ".manifest" / "claims"


def set_age(claim: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(claim, (then, then))


def names(claims_dir: Path) -> list[str]:
    return sorted(file.name for file in claims_dir.iterdir())


def test_claim_is_found_by_next_process_and_names_its_run_and_attempt(directory: Directory, claims_dir: Path) -> None:
    claims = Claims(directory, "tonight", 2)
    assert claims.claim("af-1")
    assert claims.found == frozenset()
    assert Claims(directory).found == {"af-1"}
    content = json.loads((claims_dir / "af-1").read_text())
    assert (content["version"], content["run_id"], content["try_number"]) == (1, "tonight", 2)


def test_unresolved_claim_returns_its_subject(directory: Directory, claims_dir: Path) -> None:
    subject = Subject("shoe", "tonight", "F", 2, "0.10")
    claims = Claims(directory)
    for key in ("af-1", "af-2"):
        assert claims.claim(key, subject)
    assert claims.claim("of an earlier release")
    again = Claims(directory)
    assert list(again.unresolved({"af-2": {"video_2"}})) == [("af-1", subject)]
    assert not again.is_abandoned("af-1")
    set_age(claims_dir / "af-1", CLAIM_SECONDS + 1)
    assert again.is_abandoned("af-1")
    again.remove_key("af-1")
    assert list(Claims(directory).unresolved({})) == [("af-2", subject)]


@pytest.mark.parametrize("content", ["", "null", "[" * 10_000, '{"row_key": "shoe"}'])
def test_claim_without_valid_content_has_no_subject(directory: Directory, claims_dir: Path, content: str) -> None:
    claims_dir.mkdir(parents=True)
    (claims_dir / "af-1").write_text(content)
    claims = Claims(directory)
    assert list(claims.unresolved({})) == []
    assert claims.found == {"af-1"}


def test_claim_of_another_submission_under_a_known_key_is_unresolved(directory: Directory, claims_dir: Path) -> None:
    """The service no longer finds the video that was recorded with this idempotency key."""
    subject = Subject("shoe", "tonight", "F", 0, "0.10", replaced_video_id="video_1")
    claims = Claims(directory)
    assert claims.claim("af-1", subject)
    again = Claims(directory)
    for process in (claims, again):
        process.remove_all({"af-1": {"video_1"}})
    assert list(Claims(directory).unresolved({"af-1": {"video_1"}})) == [("af-1", subject)]
    assert again.found == {"af-1"}
    again.remove_found({"af-1": {"video_1", "video_2"}})
    assert (list(claims_dir.iterdir()), again.found) == ([], set())


def test_only_one_of_many_processes_gets_a_claim(directory: Directory) -> None:
    processes = [Claims(directory) for _ in range(16)]
    with ThreadPoolExecutor(16) as threads:
        granted = list(threads.map(lambda claims: claims.claim("af-1"), processes))
    assert granted.count(True) == 1


def test_further_submissions_of_same_process_have_own_claims(directory: Directory, claims_dir: Path) -> None:
    claims = Claims(directory)
    assert [claims.claim("af-1") for _ in range(3)] == [True, True, True]
    assert names(claims_dir) == ["af-1", "af-1.1", "af-1.2"]


@pytest.mark.parametrize("seen_at_start", [True, False])
def test_old_claim_of_dead_worker_is_taken_over(directory: Directory, claims_dir: Path, seen_at_start: bool) -> None:
    early = Claims(directory)
    assert Claims(directory).claim("af-1")
    other = Claims(directory) if seen_at_start else early
    set_age(claims_dir / "af-1", CLAIM_SECONDS - 20)
    assert not other.claim("af-1")
    set_age(claims_dir / "af-1", CLAIM_SECONDS + 1)
    assert other.claim("af-1")
    assert names(claims_dir) == ["af-1", "af-1.1"]


def test_only_one_process_takes_over_old_claim(directory: Directory, claims_dir: Path) -> None:
    assert Claims(directory).claim("af-1")
    set_age(claims_dir / "af-1", CLAIM_SECONDS + 1)
    first, second = Claims(directory), Claims(directory)
    assert first.claim("af-1")
    assert not second.claim("af-1")


def test_slow_process_does_not_submit_again_after_its_claim_was_taken_over(
    directory: Directory, claims_dir: Path
) -> None:
    slow, other = Claims(directory), Claims(directory)
    assert slow.claim("af-1")
    set_age(claims_dir / "af-1", CLAIM_SECONDS + 1)
    assert other.claim("af-1")
    assert not slow.claim("af-1")


def test_withdrawing_claim_leaves_the_earlier_claim(directory: Directory, claims_dir: Path) -> None:
    claims, other = Claims(directory), Claims(directory)
    assert claims.claim("af-1")
    assert claims.claim("af-1")
    claims.withdraw("af-1")
    assert names(claims_dir) == ["af-1"]
    claims.withdraw("af-1")
    assert names(claims_dir) == []
    claims.withdraw("af-1")
    assert other.claim("af-1")


def test_claim_of_another_process_is_not_withdrawn(directory: Directory, claims_dir: Path) -> None:
    assert Claims(directory).claim("af-1")
    other = Claims(directory)
    other.withdraw("af-1")
    assert not other.claim("af-1")
    other.withdraw("af-1")
    assert names(claims_dir) == ["af-1"]


def test_claim_withdrawn_by_its_holder_is_free_at_next_try(directory: Directory) -> None:
    holder = Claims(directory)
    assert holder.claim("af-1")
    other = Claims(directory)
    holder.withdraw("af-1")
    assert not other.claim("af-1")
    assert other.claim("af-1")


def test_only_claims_whose_videos_are_known_are_removed(directory: Directory, claims_dir: Path) -> None:
    for key in ("af-1", "af-1", "af-2"):
        Claims(directory).claim(key)
    claims = Claims(directory)
    claims.claim("af-3")
    claims.remove_found({"af-1": {"video_1"}, "af-3": {"video_3"}, "of another one": {"video_4"}})
    assert names(claims_dir) == ["af-2", "af-3"]
    claims.remove_all({"af-3": {"video_3"}})
    assert names(claims_dir) == ["af-2"]


def test_claim_created_without_a_response_belongs_to_this_process(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = Directory.create

    def create_without_response(self: Directory, name: str, text: str) -> bool:
        create(self, name, text)
        return False

    claims = Claims(directory)
    monkeypatch.setattr(Directory, "create", create_without_response)
    assert claims.claim("af-1")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"claimed_at": "yesterday"}', "af-1"])
def test_unreadable_claim_holds(directory: Directory, claims_dir: Path, content: str) -> None:
    claims = Claims(directory)
    (claims_dir / "af-1").write_text(content)
    assert not claims.claim("af-1")


def test_claim_age_uses_its_content_if_storage_has_no_modification_time(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Claims(directory).claim("af-1")
    monkeypatch.setattr(Directory, "age", lambda self, name: None)
    other = Claims(directory)
    assert not other.claim("af-1")
    monkeypatch.setattr("airflow_provider_toapis.batch.claims.CLAIM_SECONDS", -1.0)
    assert other.claim("af-1")


def test_remaining_claims_of_this_run_count_as_submissions_of_unknown_outcome(
    directory: Directory, claims_dir: Path
) -> None:
    first = Claims(directory, "tonight", 1)
    assert [first.claim("af-1") for _ in range(2)] == [True, True]
    (claims_dir / "af-1.2").write_text("")
    assert Claims(directory, "tonight", 2).unknown_posts("af-1") == 2
    assert Claims(directory, "tomorrow", 1).unknown_posts("af-1") == 0
    assert Claims(directory, "tonight", 2).unknown_posts("af-2") == 0


def test_clear_resets_the_count_of_unknown_outcomes(directory: Directory) -> None:
    assert Claims(directory, "tonight", 1, max_tries=2).claim("af-1")
    assert Claims(directory, "tonight", 2, max_tries=2).unknown_posts("af-1") == 1
    assert Claims(directory, "tonight", 3, max_tries=4).unknown_posts("af-1") == 0
