from __future__ import annotations

import io

from dev.demo.catalog_run import ProductProgress
from dev.demo.progress import ProgressDisplay

LAMP_WAITS = ProductProgress("Lamp", "waiting in the triggerer", finished=False)
CHAIR_WAITS = ProductProgress("Chair", "waiting in the triggerer", finished=False)
CHAIR_DONE = ProductProgress("Chair", "done", finished=True)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_other_output_gets_only_changes() -> None:
    out = io.StringIO()
    display = ProgressDisplay(out)

    display.show([LAMP_WAITS, CHAIR_WAITS])
    display.show([LAMP_WAITS, CHAIR_WAITS])
    display.show([LAMP_WAITS, CHAIR_DONE])

    lines = out.getvalue().splitlines()
    assert [line.split()[3] for line in lines] == ["Lamp", "Chair", "Chair"]
    assert lines[-1].endswith("done")
    assert "\x1b" not in out.getvalue()


def test_terminal_lines_are_updated_in_place() -> None:
    out = Terminal()
    display = ProgressDisplay(out)

    display.show([LAMP_WAITS, CHAIR_WAITS])
    assert "\x1b[2A" not in out.getvalue()
    display.show([LAMP_WAITS, CHAIR_DONE])

    assert out.getvalue().count("\x1b[2A") == 1
    assert out.getvalue().count("\n") == 4
