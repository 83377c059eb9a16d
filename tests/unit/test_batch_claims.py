"""Of two processes only one claims a submission, and the claim of a worker that died does not hold for ever."""

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
def folder(tmp_path: Path) -> Directory:
    return Directory(str(tmp_path))


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    return tmp_path / ".manifest" / "claims"


def age(claim: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(claim, (then, then))


def names(orders: Path) -> list[str]:
    return sorted(file.name for file in orders.iterdir())


def test_claim_is_found_by_the_next_process_and_says_whose_it_is(folder: Directory, orders: Path) -> None:
    claims = Claims(folder, "tonight", 2)
    assert claims.claim("af-1")
    assert claims.found == frozenset()
    assert Claims(folder).found == {"af-1"}
    content = json.loads((orders / "af-1").read_text())
    assert (content["version"], content["run_id"], content["try_number"]) == (1, "tonight", 2)


def test_open_claim_says_what_it_is_about(folder: Directory, orders: Path) -> None:
    subject = Subject("shoe", "tonight", "F", 2, "0.10")
    claims = Claims(folder)
    for key in ("af-1", "af-2"):
        assert claims.claim(key, subject)
    assert claims.claim("of an earlier release")
    again = Claims(folder)
    assert list(again.unresolved({"af-2": {"video_2"}})) == [("af-1", subject)]
    assert not again.is_abandoned("af-1")
    age(orders / "af-1", CLAIM_SECONDS + 1)
    assert again.is_abandoned("af-1")
    again.remove_key("af-1")
    assert list(Claims(folder).unresolved({})) == [("af-2", subject)]


@pytest.mark.parametrize("content", ["", "null", "[" * 10_000, '{"row_key": "shoe"}'])
def test_claim_that_says_nothing_is_about_nothing(folder: Directory, orders: Path, content: str) -> None:
    orders.mkdir(parents=True)
    (orders / "af-1").write_text(content)
    claims = Claims(folder)
    assert list(claims.unresolved({})) == []
    assert claims.found == {"af-1"}


def test_claim_of_another_post_under_a_known_key_is_open(folder: Directory, orders: Path) -> None:
    """The service had forgotten the video that was known under it."""
    subject = Subject("shoe", "tonight", "F", 0, "0.10", replaced_video_id="video_1")
    claims = Claims(folder)
    assert claims.claim("af-1", subject)
    again = Claims(folder)
    for process in (claims, again):
        process.remove_all({"af-1": {"video_1"}})
    assert list(Claims(folder).unresolved({"af-1": {"video_1"}})) == [("af-1", subject)]
    assert again.found == {"af-1"}
    again.remove_found({"af-1": {"video_1", "video_2"}})
    assert (list(orders.iterdir()), again.found) == ([], set())


def test_only_one_of_many_processes_gets_a_claim(folder: Directory) -> None:
    processes = [Claims(folder) for _ in range(16)]
    with ThreadPoolExecutor(16) as threads:
        granted = list(threads.map(lambda claims: claims.claim("af-1"), processes))
    assert granted.count(True) == 1


def test_further_posts_of_the_same_process_have_claims_of_their_own(folder: Directory, orders: Path) -> None:
    claims = Claims(folder)
    assert [claims.claim("af-1") for _ in range(3)] == [True, True, True]
    assert names(orders) == ["af-1", "af-1.1", "af-1.2"]


@pytest.mark.parametrize("seen_at_start", [True, False])
def test_claim_of_a_worker_that_died_is_taken_over_when_it_is_old(
    folder: Directory, orders: Path, seen_at_start: bool
) -> None:
    early = Claims(folder)
    assert Claims(folder).claim("af-1")
    other = Claims(folder) if seen_at_start else early
    age(orders / "af-1", CLAIM_SECONDS - 20)
    assert not other.claim("af-1")
    age(orders / "af-1", CLAIM_SECONDS + 1)
    assert other.claim("af-1")
    assert names(orders) == ["af-1", "af-1.1"]


def test_only_one_takes_an_old_claim_over(folder: Directory, orders: Path) -> None:
    assert Claims(folder).claim("af-1")
    age(orders / "af-1", CLAIM_SECONDS + 1)
    first, second = Claims(folder), Claims(folder)
    assert first.claim("af-1")
    assert not second.claim("af-1")


def test_process_that_was_slow_does_not_post_again_beside_the_one_that_took_over(
    folder: Directory, orders: Path
) -> None:
    slow, other = Claims(folder), Claims(folder)
    assert slow.claim("af-1")
    age(orders / "af-1", CLAIM_SECONDS + 1)
    assert other.claim("af-1")
    assert not slow.claim("af-1")


def test_withdrawn_claim_leaves_the_one_before(folder: Directory, orders: Path) -> None:
    claims, other = Claims(folder), Claims(folder)
    assert claims.claim("af-1")
    assert claims.claim("af-1")
    claims.withdraw("af-1")
    assert names(orders) == ["af-1"]
    claims.withdraw("af-1")
    assert names(orders) == []
    claims.withdraw("af-1")
    assert other.claim("af-1")


def test_claim_of_another_process_is_not_withdrawn(folder: Directory, orders: Path) -> None:
    assert Claims(folder).claim("af-1")
    other = Claims(folder)
    other.withdraw("af-1")
    assert not other.claim("af-1")
    other.withdraw("af-1")
    assert names(orders) == ["af-1"]


def test_claim_that_was_withdrawn_meanwhile_is_free_the_next_time(folder: Directory) -> None:
    holder = Claims(folder)
    assert holder.claim("af-1")
    other = Claims(folder)
    holder.withdraw("af-1")
    assert not other.claim("af-1")
    assert other.claim("af-1")


def test_only_claims_whose_videos_are_known_are_removed(folder: Directory, orders: Path) -> None:
    for key in ("af-1", "af-1", "af-2"):
        Claims(folder).claim(key)
    claims = Claims(folder)
    claims.claim("af-3")
    claims.remove_found({"af-1": {"video_1"}, "af-3": {"video_3"}, "of another one": {"video_4"}})
    assert names(orders) == ["af-2", "af-3"]
    claims.remove_all({"af-3": {"video_3"}})
    assert names(orders) == ["af-2"]


def test_claim_that_was_created_and_not_heard_of_is_this_process_s_own(
    folder: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = Directory.create

    def unheard(self: Directory, name: str, text: str) -> bool:
        create(self, name, text)
        return False

    claims = Claims(folder)
    monkeypatch.setattr(Directory, "create", unheard)
    assert claims.claim("af-1")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"claimed_at": "yesterday"}', "af-1"])
def test_claim_that_cannot_be_read_holds(folder: Directory, orders: Path, content: str) -> None:
    claims = Claims(folder)
    (orders / "af-1").write_text(content)
    assert not claims.claim("af-1")


def test_age_goes_by_the_claim_where_the_storage_does_not_tell_it(
    folder: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Claims(folder).claim("af-1")
    monkeypatch.setattr(Directory, "age", lambda self, name: None)
    other = Claims(folder)
    assert not other.claim("af-1")
    monkeypatch.setattr("airflow_provider_toapis.batch.claims.CLAIM_SECONDS", -1.0)
    assert other.claim("af-1")


def test_claims_of_this_run_that_are_left_are_posts_of_unknown_outcome(folder: Directory, orders: Path) -> None:
    first = Claims(folder, "tonight", 1)
    assert [first.claim("af-1") for _ in range(2)] == [True, True]
    (orders / "af-1.2").write_text("")
    assert Claims(folder, "tonight", 2).unknown_posts("af-1") == 2
    assert Claims(folder, "tomorrow", 1).unknown_posts("af-1") == 0
    assert Claims(folder, "tonight", 2).unknown_posts("af-2") == 0


def test_clear_starts_the_count_of_unknown_outcomes_again(folder: Directory) -> None:
    assert Claims(folder, "tonight", 1, max_tries=2).claim("af-1")
    assert Claims(folder, "tonight", 2, max_tries=2).unknown_posts("af-1") == 1
    assert Claims(folder, "tonight", 3, max_tries=4).unknown_posts("af-1") == 0
