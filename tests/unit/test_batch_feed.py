"""Reading the rows of a feed: each row is read or reported."""

from __future__ import annotations

import csv
import io
import json
import os
import tracemalloc
import unicodedata
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_toapis.batch.feed import Feed, Row, RowProblem, file_name, read_rows
from airflow_provider_toapis.batch.feed_files import FIELDS, FeedPosition
from airflow_provider_toapis.exceptions import ToAPIsError, ToAPIsRequestError

FULL: dict[str, Any] = {
    "key": "shoe-1",
    "prompt": 'It "turns",\nslowly',
    "image": "https://example.com/shoe.jpg",
    "model": "grok-video-1.5",
    "duration": "10",
    "aspect_ratio": "16:9",
    "parameters": {"seed": 7},
    "revision": "2",
}
#: Numbers that Python or JSON cannot convert.
UNREPRESENTABLE_NUMBERS = (
    10**400,
    10**5000,
    float("inf"),
    float("nan"),
    Decimal("1E+1000000"),
    Decimal("NaN"),
    Decimal("sNaN"),
)


def read(requests: Any) -> list[Row | RowProblem]:
    return list(read_rows(requests))


def problem(requests: Any) -> str:
    (invalid,) = [row for row in read(requests) if isinstance(row, RowProblem)]
    return str(invalid)


def write_file(directory: Path, name: str, content: str | bytes) -> str:
    file = directory / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(file)


def as_csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, FIELDS)
    table.writeheader()
    for row in rows:
        parameters = row.get("parameters")
        table.writerow(row | {"parameters": json.dumps(parameters) if parameters else ""})
    return text.getvalue()


class TestFormats:
    def test_list_json_lines_and_csv_give_the_same_rows(self, tmp_path: Path) -> None:
        rows = [FULL, {"key": "b", "prompt": "x", "image": None}]
        from_list = read(rows)
        from_lines = read(write_file(tmp_path, "feed.jsonl", "\n".join(map(json.dumps, rows))))
        from_table = read(write_file(tmp_path, "feed.csv", as_csv(rows)))
        assert from_list == from_lines
        assert [replace(row, number=0) for row in from_table] == [replace(row, number=0) for row in from_list]
        assert from_list[0] == Row(number=1, **FULL)

    def test_generator_is_read(self) -> None:
        assert len(read({"key": str(n), "prompt": "x"} for n in range(3))) == 3

    @pytest.mark.parametrize("text", ["\ufeff", "\n\n", "\r\n"])
    def test_byte_order_mark_and_blank_lines_are_skipped(self, tmp_path: Path, text: str) -> None:
        file = write_file(tmp_path, "feed.jsonl", f'{text}{{"key": "a", "prompt": "x"}}\r\n')
        assert [row.key for row in read(file)] == ["a"]

    def test_problem_names_the_line_of_the_file(self, tmp_path: Path) -> None:
        assert problem(write_file(tmp_path, "f.jsonl", '\n{"key": "a"}\nno')).startswith(
            "Row 3: not a valid JSON object"
        )

    def test_file_is_not_held_in_memory(self, tmp_path: Path) -> None:
        line = json.dumps({"key": "KEY", "prompt": "x" * 400, "image": "https://example.com/1.jpg"})
        lines = (line.replace("KEY", f"k{number}") for number in range(20_000))
        file = write_file(tmp_path, "feed.jsonl", "\n".join(lines))
        tracemalloc.start()
        try:
            assert sum(isinstance(row, Row) for row in read_rows(file)) == 20_000
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        # Only the keys stay in memory; the file has 9 MB.
        assert peak < 7_000_000

    @pytest.mark.parametrize("ending", [".jsonl", ".csv"])
    def test_line_without_end_is_rejected_before_it_is_read(self, tmp_path: Path, ending: str) -> None:
        file = write_file(tmp_path, f"feed{ending}", "key,prompt\n" if ending == ".csv" else '{"key": "a"}\n')
        os.truncate(file, 200_000_000)
        tracemalloc.start()
        try:
            with pytest.raises(ToAPIsRequestError, match="line 2"):
                read(file)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 20_000_000


ROWS = [{"key": f"größe-{n}", "prompt": f'It "turns",\r\nslowly {"ö" * n}', "revision": f"{n}"} for n in range(9)]


class TestPosition:
    @pytest.fixture(params=["list", "feed.jsonl", "feed.csv"])
    def feed(self, request: pytest.FixtureRequest, tmp_path: Path) -> Any:
        if request.param == "list":
            return ROWS
        lines = "\r\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
        text = lines if request.param == "feed.jsonl" else as_csv(ROWS)
        return write_file(tmp_path, request.param, text)

    @pytest.mark.parametrize("mark", ["", "\ufeff"])
    def test_rows_from_a_position_are_those_of_the_whole_feed(self, feed: Any, mark: str) -> None:
        if isinstance(feed, str):
            Path(feed).write_bytes(mark.encode() + Path(feed).read_bytes())
        rows = read(feed)
        assert len(rows) == len(ROWS)
        for index, row in enumerate(rows):
            assert isinstance(row, Row)
            assert list(read_rows(feed, FeedPosition("", row.offset, row.number))) == rows[index:]

    def test_pass_continues_where_the_earlier_one_stopped(self, feed: Any) -> None:
        first = Feed(feed)
        rows = list(first.rows_left())
        stop = rows[4]
        assert isinstance(stop, Row)
        first.stop_at(stop)
        later = Feed(feed, first.position)
        assert list(later.rows_left()) == rows[4:]
        assert list(later.rows_left()) == rows
        assert list(later.all_rows()) == rows

    def test_changed_feed_is_read_from_its_first_row(self, feed: Any) -> None:
        first = Feed(feed)
        stop = list(first.rows_left())[4]
        assert isinstance(stop, Row)
        first.stop_at(stop)
        if isinstance(feed, str):
            content = Path(feed).read_bytes()
            Path(feed).write_bytes(content)
            os.utime(feed, ns=(0, 0))
        changed = feed if isinstance(feed, str) else ROWS[1:]
        assert list(Feed(changed, first.position).rows_left()) == read(changed)


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ("[{'key': 'a'}]", "a list of rows"),
        ("feed.parquet", "a list of rows"),
        ({"key": "a"}, "a list of rows"),
        (5, "a list of rows"),
        ("/nowhere/feed.jsonl", "does not exist"),
    ],
)
def test_invalid_feed_is_rejected(requests: Any, message: str) -> None:
    with pytest.raises(ToAPIsError, match="requests=") as rejected:
        read(requests)
    assert message in str(rejected.value)


@pytest.mark.parametrize(
    ("header", "messages"),
    [
        ("sku,prompt", ["unknown column 'sku'", "missing column 'key'"]),
        ("key,image", ["missing column 'prompt'"]),
        ("key,prompt,key", ["duplicate column 'key'"]),
        ("key,prompt,ratio", ["'ratio' (did you mean 'aspect_ratio'?)"]),
        ("key,prompt,image_url", ["'image_url' (did you mean 'image'?)"]),
        ("Key,Prompt", ["'Key' (did you mean 'key'?)", "'Prompt' (did you mean 'prompt'?)"]),
        ("key, prompt", ["' prompt' (did you mean 'prompt'?)"]),
        ("key,,prompt", ["unknown column ''"]),
        ("key;prompt;image", ["semicolons between the columns", "commas"]),
        ("key\tprompt", ["tabs between the columns"]),
        ('"key";"prompt"', ["semicolons between the columns", "commas"]),
        ('"key"\t"prompt, or not"', ["tabs between the columns"]),
        ('"key"|"prompt"', ["has | between the columns"]),
        ('"key;"x,prompt', ["not valid CSV"]),
        ("sep=,\nkey,prompt", ["'sep=,'", "remove the line"]),
        ("sep=;\nkey;prompt", ["'sep=;'", "remove the line"]),
        ("", ["empty"]),
        ("," * 16_000, ["empty"]),
        ('key,"prompt', ["not valid CSV"]),
    ],
)
def test_invalid_csv_header_is_rejected(tmp_path: Path, header: str, messages: list[str]) -> None:
    with pytest.raises(ToAPIsError, match="first line must name the columns") as rejected:
        read(write_file(tmp_path, "feed.csv", f"{header}\na,b\n"))
    for message in messages:
        assert message in str(rejected.value)


class TestSpreadsheetCsv:
    def test_empty_lines_and_cells_are_skipped(self, tmp_path: Path) -> None:
        file = write_file(tmp_path, "feed.csv", "key,prompt,image,,\r\n,,,,\r\na,x, ,,\r\n , ,\r\nb,x,,,,,\r\n,,\r\n")
        assert read(file) == [Row(number=3, key="a", prompt="x"), Row(number=5, key="b", prompt="x")]

    @pytest.mark.parametrize("malformed", ['k8,"open', 'k8,"x"y', "k8,x,y", '"k8,x'])
    def test_malformed_line_is_reported_with_its_number(self, tmp_path: Path, malformed: str) -> None:
        lines = ["key,prompt", 'k2,"two', 'lines"', "", "k5,x", ",", "k7,x", malformed, "k9,x"]
        rows = read(write_file(tmp_path, "feed.csv", "\n".join(lines)))
        assert [row.number for row in rows[:3]] == [2, 5, 7]
        assert isinstance(rows[3], RowProblem)
        assert rows[3].number == 8

    @pytest.mark.parametrize("duration", [10, 10.0, Decimal("10.00")])
    def test_whole_duration_becomes_int(self, duration: object) -> None:
        (row,) = read([{"key": "a", "prompt": "x", "duration": duration}])
        assert isinstance(row, Row)
        assert (row.duration, type(row.duration)) == (10, int)

    def test_whole_revision_becomes_integer_text(self) -> None:
        assert [
            vars(row)["revision"] for row in read([{"key": "a", "revision": 2.0}, {"key": "b", "revision": 2}])
        ] == [
            "2",
            "2",
        ]


def test_invalid_utf8_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ToAPIsError, match="UTF-8"):
        read(write_file(tmp_path, "feed.jsonl", b'{"key": "\xff"}'))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"key": "a", "promt": "x"}, "unknown field 'promt' (did you mean 'prompt'?)"),
        ({"prompt": "x"}, "Invalid key=None: must"),
        ({"key": " a"}, "without whitespace at its ends"),
        ({"key": "a\nb"}, "key="),
        ({"key": ""}, "key="),
        ({"key": "x" * 201}, "1 to 200"),
        ({"key": True}, "key="),
        ({"key": "None"}, "key='None'"),
        ({"key": "a\ud83d"}, "key='\\ud83d'"),
        ({"key": "a", "revision": "None"}, "revision='None'"),
        ({"key": "a", "revision": "2\ud83d"}, "revision='\\ud83d'"),
        ({"key": "a", "prompt": 5}, "Invalid prompt: expected a string, got int"),
        ({"key": "a", "image": 5}, "Invalid image: expected"),
        ({"key": "a", "image": [1]}, "Invalid image: expected"),
        ({"key": "a", "parameters": []}, "Invalid parameters: expected an object"),
        ({"key": "a", "duration": 1.5}, "duration=1.5"),
        ({"key": "a", "revision": 1.5}, "Invalid revision=1.5: must be"),
        *(
            ({"key": "a", field: number}, field)
            for field in ("duration", "revision")
            for number in UNREPRESENTABLE_NUMBERS
        ),
        *(({"key": number}, "key=") for number in UNREPRESENTABLE_NUMBERS),
        ("row", "expected a dict, got str"),
    ],
)
def test_invalid_row_is_reported(row: Any, message: str) -> None:
    assert message in problem([row])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", "expected a JSON object, got list"),
        ('{"key": "a", "key": "b"}', "duplicate field name"),
        ('{"key": "a", "parameters": {"seed": NaN}}', "NaN is not valid JSON"),
        ("[" * 100_000, "not a valid JSON object"),
    ],
)
def test_invalid_json_line_is_reported_and_later_rows_are_read(tmp_path: Path, line: str, message: str) -> None:
    file = write_file(tmp_path, "feed.jsonl", f'{line}\n{{"key": "b", "prompt": "x"}}\n')
    assert message in problem(file)
    assert isinstance(read(file)[-1], Row)


@pytest.mark.parametrize("cells", ["a,b,c", f"a,{'x' * 200_000}", 'a,"b"c'])
def test_invalid_csv_line_is_reported_and_later_rows_are_read(tmp_path: Path, cells: str) -> None:
    file = write_file(tmp_path, "feed.csv", f"key,prompt\n{cells}\nb,x\n")
    assert problem(file)
    assert [row.key for row in read(file) if isinstance(row, Row)] == ["b"]


def test_duplicate_key_is_reported() -> None:
    assert (
        problem([{"key": "a"}, {"key": "b"}, {"key": "a"}])
        == "Row 3 (key 'a'): duplicate key 'a' (first used in row 1)."
    )


def test_keys_are_compared_in_unicode_normal_form() -> None:
    key = "Größe-42"
    decomposed = unicodedata.normalize("NFD", key)
    (row,) = read([{"key": decomposed}])
    assert row.key == key
    assert (
        problem([{"key": key}, {"key": decomposed}])
        == f"Row 2 (key {key!r}): duplicate key {key!r} (first used in row 1)."
    )


def test_integer_key_becomes_text() -> None:
    assert [row.key for row in read([{"key": 5}, {"key": "6"}])] == ["5", "6"]


class TestFileName:
    @pytest.mark.parametrize("key", ["shoe-1", "a.b_c", "0"])
    def test_plain_key_is_its_file_name(self, key: str) -> None:
        assert file_name(key) == key

    @pytest.mark.parametrize("key", ["..", ".hidden", "a/b", "A", "manifest", "index", "Schuh größe 5", "x" * 200, "/"])
    def test_other_key_gets_a_safe_file_name(self, key: str) -> None:
        name = file_name(key)
        assert name.rpartition("-")[2] != name
        assert "/" not in name
        assert not name.startswith(".")
        assert len(name) <= 80

    @given(st.lists(st.text(min_size=1, max_size=20), unique=True, max_size=20))
    def test_different_keys_get_different_file_names_ignoring_case(self, keys: list[str]) -> None:
        assert len({file_name(key).lower() for key in keys}) == len(keys)
