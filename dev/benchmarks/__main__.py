"""Run every benchmark in its own interpreter, and print a table of their figures: ``make bench``."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

_DIRECTORY = Path(__file__).parent


def main() -> int:
    """Run the benchmarks. Return 1 if a benchmark failed; a missed target is not a failure."""
    has_failed = False
    print("| benchmark | minutes | figure |\n|---|---|---|", flush=True)
    for file in sorted(_DIRECTORY.glob("[!_]*.py")):
        began = time.monotonic()
        run = subprocess.run(
            [sys.executable, "-m", f"dev.benchmarks.{file.stem}"], capture_output=True, text=True, check=False
        )
        has_failed |= run.returncode != 0
        *_, figure = [f"exit code {run.returncode}", *(run.stderr if run.returncode else run.stdout).splitlines()]
        minutes = (time.monotonic() - began) / 60
        print(f"| {file.stem} | {minutes:.1f} | {figure} |", flush=True)
    return int(has_failed)


if __name__ == "__main__":
    raise SystemExit(main())
