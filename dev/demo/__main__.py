"""The demo's commands.

``python -m dev.demo run`` makes videos for a small product catalog. ``python -m dev.demo up`` runs Airflow until
Ctrl-C. ``python -m dev.demo screenshots`` takes the screenshots of the documentation.
"""

from __future__ import annotations

import argparse
import io
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from dev.airflow.airflow_instance import AirflowApiError
from dev.airflow.processes import ProcessError
from dev.demo.catalog_run import CatalogRunError
from dev.demo.environment import PROJECT
from dev.demo.run import run
from dev.demo.target import Service, TargetError
from dev.demo.up import stay_up

#: Exit code of a command that was interrupted with Ctrl-C.
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the commands and return the exit code."""
    options = _parser().parse_args(arguments)
    _prepare_streams()
    for signal_number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signal_number, _exit_on_signal)
    # A shell starts background processes with SIGINT ignored, so the normal handling is restored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        service = Service.from_environment()
        if options.command == "run":
            run(service, options.output.resolve())
        elif options.command == "screenshots":
            return _take_screenshots()
        else:
            stay_up(service)
    except KeyboardInterrupt:
        print("\nStopped. Nothing is left running.")
        return 0 if options.command == "up" else INTERRUPTED
    except (ProcessError, AirflowApiError, CatalogRunError, TargetError) as error:
        print("", error, *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
        return 1
    return 0


def _take_screenshots() -> int:
    # Imported here, because the other commands need no browser, and importing Airflow takes seconds.
    from playwright.sync_api import Error as PlaywrightError  # noqa: PLC0415

    from dev.demo.browser import BrowserError  # noqa: PLC0415
    from dev.demo.screenshots import IMAGES, take_screenshots  # noqa: PLC0415

    try:
        take_screenshots(IMAGES)
    except (BrowserError, PlaywrightError) as error:
        print("", error, *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dev.demo", description="A real Airflow that makes product videos.")
    commands = parser.add_subparsers(dest="command", required=True)
    run_parser = commands.add_parser("run", help="make the videos of a small product catalog, then stop")
    run_parser.add_argument(
        "--output", type=Path, default=PROJECT / "demo-output", help="directory for the videos and the page"
    )
    commands.add_parser("screenshots", help="take the screenshots of the documentation")
    commands.add_parser("up", help="run Airflow and its UI until Ctrl-C")
    return parser


def _prepare_streams() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Print lines immediately, and replace characters that the terminal cannot show, such as the check mark.
            stream.reconfigure(errors="replace", line_buffering=True)


def _exit_on_signal(signal_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + signal_number)


if __name__ == "__main__":
    sys.exit(main())
