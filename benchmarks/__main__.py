"""Run every benchmark, each in an interpreter of its own, and print their figures as a table: ``make bench``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_FOLDER = Path(__file__).parent


def main() -> int:
    """Return 1 when a benchmark broke; a figure that misses its target is still a figure."""
    broken = False
    print("| benchmark | figure |\n|---|---|", flush=True)
    for file in sorted(_FOLDER.glob("[!_]*.py")):
        run = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{file.stem}"], capture_output=True, text=True, check=False
        )
        broken |= run.returncode != 0
        figure = (run.stdout if run.returncode == 0 else run.stderr).strip().splitlines()[-1]
        print(f"| {file.stem} | {figure} |", flush=True)
    return int(broken)


if __name__ == "__main__":
    raise SystemExit(main())
