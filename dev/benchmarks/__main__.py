"""Run every benchmark, each in an interpreter of its own, and print their figures as a table: ``make bench``."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

_FOLDER = Path(__file__).parent


def main() -> int:
    """Return 1 when a benchmark broke; a figure that misses its target is still a figure."""
    broken = False
    print("| benchmark | minutes | figure |\n|---|---|---|", flush=True)
    for file in sorted(_FOLDER.glob("[!_]*.py")):
        began = time.monotonic()
        run = subprocess.run(
            [sys.executable, "-m", f"dev.benchmarks.{file.stem}"], capture_output=True, text=True, check=False
        )
        broken |= run.returncode != 0
        *_, figure = [f"ended with {run.returncode}", *(run.stderr if run.returncode else run.stdout).splitlines()]
        minutes = (time.monotonic() - began) / 60
        print(f"| {file.stem} | {minutes:.1f} | {figure} |", flush=True)
    return int(broken)


if __name__ == "__main__":
    raise SystemExit(main())
