"""Count the files whose code runs for one video and one row of a batch: ``python -m dev.scripts.trace_calls``.

For each trace, the script runs an integration test and records which file of the package calls which other file.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

PACKAGE = Path(__file__).parents[2] / "airflow_provider_toapis"
_VIDEO = "tests/integration/test_operators.py::TestOutputPath::test_video_is_saved_at_output_path[shoe.mp4-deferrable]"
_ROW = "tests/integration/test_batch_operator.py::TestCatalog::test_every_row_is_submitted_once_and_saved[deferrable]"
#: For each trace: its test, the maximum number of files, and the maximum number of pairs of calling and called file.
TRACED = {"one deferrable video": (_VIDEO, 24, 60), "one row of a batch": (_ROW, 32, None)}


class CallTrace:
    """A pytest plugin that records calls between files of the package."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.edges: set[tuple[str, str]] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Iterator[None]:
        """Trace the body of a test, without its fixtures."""
        threading.setprofile(self._on_event)
        sys.setprofile(self._on_event)
        try:
            return (yield)
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    def _on_event(self, frame: FrameType, event: str, _: object) -> None:
        if event != "call" or (callee := _own_file(frame)) is None:
            return
        self.files.add(callee)
        caller = _caller(frame)
        if caller is not None and caller != callee:
            self.edges.add((caller, callee))


def main() -> int:
    """Print the files and calls of each trace. Return 1 if a trace has more than allowed, or if a test failed."""
    is_over = False
    for name, (test, most_files, most_edges) in TRACED.items():
        trace = CallTrace()
        if pytest.main(["-q", "-p", "no:cacheprovider", test], plugins=[trace]):
            return 1
        print(
            f"{name}: {len(trace.files)} files (at most {most_files}), {len(trace.edges)} edges (at most {most_edges})"
        )
        for file in sorted(trace.files):
            print(f"  {file} -> {', '.join(sorted(callee for caller, callee in trace.edges if caller == file))}")
        is_over |= len(trace.files) > most_files or (most_edges is not None and len(trace.edges) > most_edges)
    return int(is_over)


def _own_file(frame: FrameType) -> str | None:
    path = Path(frame.f_code.co_filename)
    if not path.is_relative_to(PACKAGE) or frame.f_code.co_name == "<module>":
        return None
    # The report's template is compiled to a function too, but it is not a Python file.
    return path.relative_to(PACKAGE).as_posix() if path.suffix == ".py" else None


def _caller(frame: FrameType) -> str | None:
    """Return the nearest calling file of the package. A library, such as a thread pool, can be in between."""
    outer = frame.f_back
    while outer is not None:
        if file := _own_file(outer):
            return file
        outer = outer.f_back
    return None


if __name__ == "__main__":
    sys.exit(main())
