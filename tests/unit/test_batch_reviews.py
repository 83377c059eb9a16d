"""Reviews of a batch: which decision counts, which files are read, and how many redos a row has."""

from __future__ import annotations

import hashlib
import json
import shutil
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import pytest

from airflow_provider_toapis.api.pricing import PriceList
from airflow_provider_toapis.api.video_request import VideoRequest
from airflow_provider_toapis.batch.directory import Directory
from airflow_provider_toapis.batch.feed import Row
from airflow_provider_toapis.batch.manifest import Manifest, newer_of
from airflow_provider_toapis.batch.manifest_entry import ManifestEntry, Review, RowStatus
from airflow_provider_toapis.batch.plan import Attempt, make_plan
from airflow_provider_toapis.batch.reviews import Reviews, RowReview, approved_videos
from airflow_provider_toapis.batch.row_request import Defaults, RowRequest, RowRequests
from airflow_provider_toapis.exceptions import ToAPIsConnectionError, ToAPIsError, ToAPIsFileError, ToAPIsRequestError
from tests.catalog_entries import entry, saved, submission
from tests.unit.object_storage import Bucket, attach

NOON = "2026-09-21T12:00:00.500+00:00"
LATER = "2026-09-21T12:00:00.501+00:00"
HOUR_EARLIER = "2026-09-21T13:00:00+02:00"
HOSTILE_KEYS = [
    "../../../etc/passwd",
    "..",
    "a/b",
    "a\\b",
    "/etc/passwd",
    "s3://other/x",
    "%2e%2e%2f",
    "a\nb\x00c",
    "<script>alert(1)</script>",
    "{{ conn.aws.password }}",
    "🙂" * 200,
    "\ud83d",
    "-redo.json",
    "",
]


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory(str(tmp_path))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Return the directory of the reviews."""
    path = tmp_path / ".manifest" / "reviews"
    path.mkdir(parents=True)
    return path


def review(
    decision: Literal["approve", "redo"] = "redo",
    video_id: str = "video_shoe",
    comment: str = "",
    reviewed_at: str = NOON,
) -> Review:
    return Review(decision, video_id, comment, "ann", reviewed_at)


def add(directory: Directory, *reviews: Review, key: str = "shoe") -> list[Path]:
    """Write the reviews, each as another request to the API server does."""
    return [Path(Reviews(directory).add(key, each)) for each in reviews]


def redos(directory: Directory, known: ManifestEntry | None) -> int:
    return Reviews(directory).of("shoe", known).redos


def hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def written(files: Path, content: object, name: str | None = None) -> str:
    """Write a file in which someone has changed something, and return its name."""
    name = name or f"{hashed('shoe')}-{hashed('video_shoe')}-1790000000500-redo.json"
    text = content if isinstance(content, str) else json.dumps(content)
    (files / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    return name


class TestFiles:
    def test_review_is_read_back(self, directory: Directory, files: Path) -> None:
        (path,) = add(directory, review("redo", comment='Zu dunkel: Größe 42, "rot"\n<b>'))
        assert path.parent == files
        found = Reviews(directory).newest("shoe", None)
        assert found == review("redo", comment='Zu dunkel: Größe 42, "rot"\n<b>')

    @pytest.mark.parametrize("key", HOSTILE_KEYS)
    def test_hostile_key_names_one_file_in_the_directory(self, directory: Directory, files: Path, key: str) -> None:
        (path,) = add(directory, review(), key=key)
        assert [path] == list(files.iterdir())
        assert sorted(file for file in Path(str(directory)).rglob("*") if file.is_file()) == [path]
        reviews = Reviews(directory)
        assert reviews.decision(key, "video_shoe") == "redo"
        assert [other for other in HOSTILE_KEYS if reviews.decision(other, "video_shoe")] == [key]

    @pytest.mark.parametrize(("written_as", "read_as"), [("NFC", "NFD"), ("NFD", "NFC")])
    def test_unicode_forms_of_a_key_are_equal(self, directory: Directory, written_as: Any, read_as: Any) -> None:
        add(directory, review(comment="dunkel"), key=unicodedata.normalize(written_as, "Größe"))
        key = unicodedata.normalize(read_as, "Größe")
        assert Reviews(directory).decision(key, "video_shoe") == "redo"
        assert Reviews(directory).newest(key, None) == review(comment="dunkel")
        known = entry(unicodedata.normalize("NFC", "Größe"), saved=saved("shoe"))
        assert Reviews(directory).of(key, known).redos == 1

    def test_lone_surrogate_in_a_comment_is_replaced(self, directory: Directory) -> None:
        add(directory, review(comment="a \ud83d b"))
        found = Reviews(directory).newest("shoe", None)
        assert found == review(comment="a ? b")

    @pytest.mark.parametrize(
        "name",
        [
            "notes.txt",
            "",
            f"{hashed('shoe')}-{hashed('video_shoe')}-1790000000500-delete.json",
            f"{hashed('shoe')}-{hashed('video_shoe')}-1790000000500-redo.json.part",
            f".{hashed('shoe')}-{hashed('video_shoe')}-1790000000500-redo.json",
            f"{hashed('shoe')}-{hashed('video_shoe')}-179000000050-redo.json",
            f"{hashed('shoe')}-{hashed('video_shoe')}-17900000005000-redo.json",
            f"{hashed('shoe')}-{hashed('video_shoe')}-١٧٩٠٠٠٠٠٠٠٥٠٠-redo.json",
            f"{hashed('shoe').upper()}-{hashed('video_shoe')}-1790000000500-redo.json",
            f"{hashed('shoe')}-1790000000500-redo.json",
            f"{hashed('shoe')}-{hashed('video_shoe')}-1790000000500-redo.json\n",
        ],
    )
    def test_file_with_another_name_is_ignored(self, directory: Directory, files: Path, name: str) -> None:
        if name:
            written(files, {"version": 1, "key": "shoe", **asdict(review())}, name)
        (files / f"{hashed('shoe')}-{hashed('video_shoe')}-1790000000500-redo.json").mkdir()
        assert Reviews(directory).of("shoe", entry("shoe")) == RowReview()

    @pytest.mark.parametrize(
        "content",
        [
            "",
            "null",
            "[" * 100_000,
            "\udcff\udcfe",
            '{"version": 1, "key": "\\ud83d"}',
            {},
            {"version": 2},
            {"decision": "approve"},
            {"decision": "delete"},
            {"key": "other"},
            {"video_id": "video_other"},
            {"reviewed_at": "2026-09-21T14:13:20.500"},
            {"reviewed_at": "2036-09-21T14:13:20.500+00:00"},
            {"reviewed_at": "yesterday"},
            {"comment": 7},
            {"reviewed_by": None},
        ],
    )
    def test_decision_of_an_unreadable_file_counts_without_its_comment(
        self, directory: Directory, files: Path, caplog: pytest.LogCaptureFixture, content: str | dict[str, Any]
    ) -> None:
        complete = {"version": 1, "key": "shoe", **asdict(review(reviewed_at="2026-09-21T14:13:20.500+00:00"))}
        name = written(files, complete | content if isinstance(content, dict) and content else content)
        known = review("approve", "video_before")
        assert Reviews(directory).of("shoe", entry("shoe", review=known)) == RowReview(1, known)
        (record,) = caplog.records
        assert name in record.getMessage()

    def test_complete_file_of_the_test_above_is_readable(self, directory: Directory, files: Path) -> None:
        at = "2026-09-21T14:13:20.500+00:00"
        written(files, {"version": 1, "key": "shoe", **asdict(review(reviewed_at=at)), "of a later release": 1})
        assert Reviews(directory).newest("shoe", None) == review(reviewed_at=at)

    @pytest.mark.parametrize("error", [ToAPIsConnectionError("The bucket is down."), ToAPIsRequestError("No access.")])
    def test_comment_that_the_storage_does_not_return_is_not_an_error_of_the_row(
        self, directory: Directory, monkeypatch: pytest.MonkeyPatch, error: ToAPIsError
    ) -> None:
        add(directory, review(comment="dark"))

        def fail(*_: object) -> None:
            raise error

        monkeypatch.setattr(Directory, "read", fail)
        reviews = Reviews(directory)
        requests = RowRequests(Defaults("grok-video-1.5"), None)
        row = Row(1, "shoe", "It turns", "https://shop.example/shoe.jpg")
        (found,) = requests.check_all([row], lambda key: reviews.of(key, entry("shoe")))
        assert isinstance(found, RowRequest)
        assert found.reviewed == RowReview(1, None)

    def test_storage_that_cannot_be_listed_is_a_typed_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        bucket = Bucket()

        def fail(*_: object, **__: object) -> None:
            raise RuntimeError("the SDK is confused")

        monkeypatch.setattr(bucket, "ls", fail)
        attach(monkeypatch, bucket)
        with pytest.raises(ToAPIsConnectionError):
            Reviews(Directory("memory://bucket/videos/"))


class TestDecisions:
    @pytest.mark.parametrize(
        "decisions",
        [["redo"], ["approve"], ["redo", "approve"], ["approve", "redo", "approve"], ["redo", "approve", "redo"]],
    )
    def test_newest_decision_counts(self, directory: Directory, decisions: list[Any]) -> None:
        paths = add(directory, *(review(each, comment=each, reviewed_at=NOON) for each in decisions))
        assert len({*paths}) == len(decisions)
        assert Reviews(directory).decision("shoe", "video_shoe") == decisions[-1]
        newest = Reviews(directory).newest("shoe", None)
        assert newest is not None
        assert newest.comment == decisions[-1]

    @pytest.mark.parametrize("decisions", [("redo", "approve"), ("approve", "redo")])
    def test_server_whose_clock_is_behind_decides_last(self, directory: Directory, decisions: tuple[Any, Any]) -> None:
        add(directory, review(decisions[0]), review(decisions[1], comment="last", reviewed_at=HOUR_EARLIER))
        assert Reviews(directory).decision("shoe", "video_shoe") == decisions[1]
        assert Reviews(directory).newest("shoe", review(decisions[0])) == review(
            decisions[1], comment="last", reviewed_at="2026-09-21T12:00:00.501000+00:00"
        )

    def test_time_is_changed_only_by_reviews_of_the_same_video(self, directory: Directory) -> None:
        add(directory, review(reviewed_at=LATER), review(video_id="video_2"))
        add(directory, review(), key="boot")
        newest = Reviews(directory).newest("boot", None)
        assert newest == review()
        assert Reviews(directory).review("shoe", "video_2", None) == review(video_id="video_2")

    def test_simultaneous_decisions_of_two_reviewers_are_both_kept(self, directory: Directory, files: Path) -> None:
        first, second = Reviews(directory), Reviews(directory)
        for reviews, comment in ((first, "dark"), (second, "blurred"), (first, "slow")):
            reviews.add("shoe", review(comment=comment))
        comments = [json.loads(file.read_text())["comment"] for file in sorted(files.iterdir())]
        assert comments == ["dark", "blurred", "slow"]
        assert redos(directory, entry("shoe")) == 1

    def test_reviews_of_many_threads_are_all_kept(self, directory: Directory, files: Path) -> None:
        def decide(number: int) -> str:
            return Reviews(directory).add("shoe", review("redo" if number % 2 else "approve", comment=str(number)))

        with ThreadPoolExecutor(16) as threads:
            paths = [*threads.map(decide, range(48))]
        assert {str(file) for file in files.iterdir()} == {*paths}
        assert len(paths) == 48
        newest = Reviews(directory).newest("shoe", None)
        assert newest is not None
        assert Reviews(directory).decision("shoe", "video_shoe") == newest.decision

    def test_newest_review_of_a_row_can_be_about_another_video(self, directory: Directory) -> None:
        add(directory, review("approve"), review("redo", "video_before", "dark", LATER))
        found = Reviews(directory).of("shoe", entry("shoe"))
        assert found == RowReview(0, review("redo", "video_before", "dark", LATER))

    def test_recorded_review_that_is_as_new_is_not_read_again(
        self, directory: Directory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        add(directory, review(comment="dark"))
        monkeypatch.delattr(Directory, "read")
        known = review(comment="as recorded")
        assert Reviews(directory).newest("shoe", known) is known

    @pytest.mark.parametrize("newer_line_has_it", [True, False])
    def test_merged_lines_have_the_newest_review(self, newer_line_has_it: bool) -> None:
        old, new = review("redo", comment="dark"), review("approve", reviewed_at=LATER)
        first = entry("shoe", review=old if newer_line_has_it else new)
        second = entry("shoe", review=new if newer_line_has_it else old, updated_at="2026-02-03T03:00:00+00:00")
        assert newer_of(first, second).review == newer_of(second, first).review == new
        assert newer_of(first, replace(second, review=None)).review == first.review


class TestRedos:
    """The number of redos changes the fingerprint of a row, so it decides what is billed."""

    @pytest.mark.parametrize(
        ("decision", "before", "after"),
        [("redo", 0, 1), ("redo", 3, 4), ("approve", 0, 0), ("approve", 3, 3)],
    )
    def test_only_a_redo_of_the_saved_video_counts(
        self, directory: Directory, decision: Any, before: int, after: int
    ) -> None:
        row = entry("shoe", saved=saved("shoe", redos=before))
        assert redos(directory, row) == before
        add(directory, review(decision))
        assert redos(directory, row) == after
        assert redos(directory, row) == after

    def test_decisions_before_the_next_run_can_be_changed(self, directory: Directory) -> None:
        found = []
        for decision in ("redo", "approve", "redo", "redo", "approve"):
            add(directory, review(decision))  # type: ignore[arg-type]
            found.append(redos(directory, entry("shoe")))
        assert found == [1, 0, 1, 1, 0]

    @pytest.mark.parametrize("videos", [["video_before"], ["video_before", "video_of_a_superseded_row", "video_2"]])
    def test_redo_of_a_video_that_is_not_the_saved_one_has_no_effect(
        self, directory: Directory, videos: list[str]
    ) -> None:
        add(directory, *(review(video_id=video_id) for video_id in videos))
        for number in (0, 2):
            assert redos(directory, entry("shoe", saved=saved("shoe", redos=number))) == number
        assert redos(directory, entry("shoe", "failed")) == 0
        assert redos(directory, None) == 0

    @pytest.mark.parametrize("state", ["submitted", "interrupted"])
    @pytest.mark.parametrize("number", [0, 1, 5])
    @pytest.mark.parametrize("decision", ["redo", "approve", None])
    def test_review_does_not_change_a_row_whose_next_video_is_in_progress(
        self, directory: Directory, state: str, number: int, decision: Any
    ) -> None:
        if decision:
            add(directory, review(decision))
        in_progress = submission(state, video_id="video_2", redos=number)
        for video in (saved("shoe", redos=3), None):
            assert redos(directory, entry("shoe", saved=video, submission=in_progress)) == number

    @pytest.mark.parametrize("state", ["pending", "postponed", "failed", "rejected", "interrupted"])
    def test_redo_without_a_video_in_progress_can_be_canceled(self, directory: Directory, state: str) -> None:
        row = entry("shoe", submission=submission(state, redos=1))
        add(directory, review("redo"))
        assert redos(directory, row) == 1
        add(directory, review("approve"))
        assert redos(directory, row) == 0

    @pytest.mark.parametrize("is_saved", [True, False])
    def test_deleted_reviews_do_not_undo_a_submitted_or_saved_redo(
        self, directory: Directory, files: Path, is_saved: bool
    ) -> None:
        add(directory, review("redo"))
        row = entry("shoe", saved=saved("shoe", video_id="video_2", redos=1))
        if not is_saved:
            row = entry("shoe", saved=saved("shoe"), submission=submission("submitted", video_id="v", redos=1))
        shutil.rmtree(files)
        assert redos(directory, row) == 1

    def test_redo_of_a_redo_counts_once_more(self, directory: Directory) -> None:
        add(directory, review("redo"), review("redo", "video_2"))
        assert redos(directory, entry("shoe", saved=saved("shoe", video_id="video_2", redos=1))) == 2


class TestFingerprint:
    @staticmethod
    def fingerprint(redos: int, revision: str | None = None) -> str:
        requests = RowRequests(Defaults("grok-video-1.5"), None)
        row = Row(1, "shoe", "It turns", "https://shop.example/shoe.jpg", revision=revision)
        return requests.check(row, RowReview(redos)).fingerprint

    def test_each_redo_and_each_revision_is_another_request(self) -> None:
        found = [self.fingerprint(redos, revision) for redos in range(4) for revision in (None, "0", "1", "2", "[1]")]
        assert len({*found}) == len(found)

    def test_row_without_redos_has_the_fingerprint_of_an_unreviewed_row(self) -> None:
        requests = RowRequests(Defaults("grok-video-1.5"), None)
        row = Row(1, "shoe", "It turns", "https://shop.example/shoe.jpg")
        assert requests.check(row).fingerprint == self.fingerprint(0)


class TestPlan:
    TONIGHT = Attempt("tonight", 1, now="2026-09-22T00:00:00Z", deadline=2_000.0)

    def test_new_comment_is_recorded_and_bills_nothing(self) -> None:
        row = entry("shoe", review=None)
        request = RowRequest(
            1,
            "shoe",
            VideoRequest(model=row.model, prompt=row.prompt),
            (),
            fingerprint="f" * 64,
            reviewed=RowReview(0, review("approve")),
        )
        prices = PriceList((), Decimal(1))
        plan = make_plan([request], {"shoe": row}, {"shoe.mp4": 1_400_000}, prices, self.TONIGHT)
        (recorded,) = plan.entries
        assert (recorded.review, recorded.saved, recorded.submission) == (review("approve"), row.saved, None)
        assert (plan.prices, plan.counts[RowStatus.UNCHANGED]) == ([], 1)
        again = make_plan([request], {"shoe": recorded}, {"shoe.mp4": 1_400_000}, prices, self.TONIGHT)
        assert again.entries == []


class TestManyReviews:
    COUNT, NEW = 10_000, 10

    @pytest.fixture
    def known(self, files: Path) -> dict[str, ManifestEntry]:
        """Write a review of each row; return the rows. The manifest contains all but some comments."""
        known = {}
        for number in range(self.COUNT):
            key = f"sku-{number}"
            each = review("approve", f"video_{key}", comment=f"Comment {number}")
            name = f"{hashed(key)}-{hashed(each.video_id)}-1789992000500-approve.json"
            (files / name).write_text(json.dumps({"version": 1, "key": key, **asdict(each)}))
            known[key] = entry(key, review=None if number < self.NEW else each)
        return known

    def test_directory_is_listed_once_and_only_new_comments_are_read(
        self, directory: Directory, known: dict[str, ManifestEntry], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[str] = []

        def counted(name: str) -> Callable[..., Any]:
            original = getattr(Directory, name)

            def call(self: Directory, *args: Any) -> Any:
                calls.append(name)
                return original(self, *args)

            return call

        for name in ("sizes", "read", "lines", "version_of"):
            monkeypatch.setattr(Directory, name, counted(name))
        reviews = Reviews(directory)
        found = {key: reviews.of(key, row) for key, row in known.items()}
        assert sorted(calls) == ["read"] * self.NEW + ["sizes"]
        assert {each.redos for each in found.values()} == {0}
        comments = {each.newest.comment for each in found.values() if each.newest}
        assert comments == {f"Comment {number}" for number in range(self.COUNT)}


class TestApprovedVideos:
    @staticmethod
    def record(directory: Directory, *entries: ManifestEntry) -> None:
        manifest = Manifest(directory)
        for each in entries:
            manifest.update(each)
        manifest.flush()

    def test_approved_videos_are_returned_with_their_files(self, directory: Directory) -> None:
        self.record(directory, entry("shoe"), entry("boot"), entry("mug"), entry("hat", "removed"), entry("bag"))
        add(directory, review("approve"))
        add(directory, review("redo", "video_mug"), key="mug")
        for key in ("boot", "hat"):
            add(directory, review("approve", f"video_{key}"), key=key)
        add(directory, review("approve", "video_bag_before"), key="bag")
        assert approved_videos(str(directory)) == [
            {
                "key": key,
                "path": f"{directory}/{key}.mp4",
                "video_id": f"video_{key}",
                "sha256": "a" * 64,
                "size": 1_400_000,
                "model": "grok-video-1.5-preview",
                "approved_by": "ann",
            }
            for key in ("boot", "shoe")
        ]

    def test_video_that_replaces_an_approved_one_must_be_approved_again(self, directory: Directory) -> None:
        self.record(directory, entry("shoe"))
        add(directory, review("approve"))
        replaced = entry("shoe", saved=saved("shoe", video_id="video_2"), updated_at="2027-01-01T00:00:00Z")
        self.record(directory, replaced)
        assert approved_videos(str(directory)) == []

    def test_approval_is_withdrawn_by_a_redo(self, directory: Directory) -> None:
        self.record(directory, entry("shoe"))
        add(directory, review("approve"), review("redo"))
        assert approved_videos(str(directory)) == []

    def test_later_review_of_another_video_does_not_hide_who_approved(self, directory: Directory) -> None:
        recorded = replace(review("redo", "video_before", reviewed_at=LATER), reviewed_by="bob")
        self.record(directory, entry("shoe", review=recorded))
        add(directory, review("approve"), recorded)
        assert [video["approved_by"] for video in approved_videos(str(directory))] == ["ann"]

    def test_recorded_approval_is_not_read_again(self, directory: Directory, files: Path) -> None:
        (path,) = add(directory, review("approve"))
        self.record(directory, entry("shoe", review=review("approve")))
        path.write_text("broken")
        assert [video["approved_by"] for video in approved_videos(str(directory))] == ["ann"]

    def test_unreadable_approval_counts_without_a_name(self, directory: Directory) -> None:
        self.record(directory, entry("shoe"))
        (path,) = add(directory, review("approve"))
        path.write_text("broken")
        assert [video["approved_by"] for video in approved_videos(str(directory))] == [None]

    def test_directory_without_a_manifest_has_no_approved_videos(self, directory: Directory) -> None:
        add(directory, review("approve"))
        assert approved_videos(str(directory)) == []

    def test_unreadable_manifest_is_a_typed_error(self, directory: Directory, tmp_path: Path) -> None:
        (tmp_path / "manifest.jsonl").write_text("{")
        with pytest.raises(ToAPIsRequestError):
            approved_videos(str(directory))


def test_batch_reads_reviews_in_a_directory_that_it_cannot_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = Directory(f"{tmp_path}/")
    Reviews(directory).add("shoe", review("redo"))

    def fail(**_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr("airflow_provider_toapis.storage.tempfile.TemporaryFile", fail)
    assert Reviews(directory).decision("shoe", review("redo").video_id) == "redo"
    with pytest.raises(ToAPIsFileError):
        Reviews(directory).add("shoe", review("approve"))
