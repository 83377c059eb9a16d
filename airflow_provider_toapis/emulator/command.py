"""The emulator's command: its command line options, and the server that it runs."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import signal
import socket
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from types import FrameType
from typing import NoReturn

import uvicorn

from airflow_provider_toapis.emulator.app import create_app
from airflow_provider_toapis.emulator.error_bodies import RejectedError
from airflow_provider_toapis.emulator.responses import BreakableProtocol
from airflow_provider_toapis.emulator.service import Service
from airflow_provider_toapis.emulator.settings import Settings
from airflow_provider_toapis.emulator.webhook_delivery import is_allowed_url

HOST = "127.0.0.1"
DEFAULT_PORT = 8790
#: Seconds for which an idle connection stays open. Longer than any poll interval in use, so that no client sends a
#: request on a connection that the server is closing.
KEEP_ALIVE_SECONDS = 75
_OPTIONS = [field for field in dataclasses.fields(Settings) if field.default is not dataclasses.MISSING]


class Server(uvicorn.Server):
    """A uvicorn server that prints a line when it accepts connections.

    :param origin: Scheme, host and port, which the printed line contains.
    """

    def __init__(self, config: uvicorn.Config, origin: str) -> None:
        super().__init__(config)
        self._origin = origin

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept connections, then print that the emulator is listening."""
        await super().startup(sockets)
        if self.started:
            sys.stdout.write(f"ToAPIs emulator listening on {self._origin}\n")
            sys.stdout.flush()


def main(arguments: list[str] | None = None) -> None:
    """Run the emulator until SIGTERM or SIGINT."""
    parser = _parser()
    options = parser.parse_args(arguments)
    _check(parser, options)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    logging.basicConfig(level=options.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    # At INFO, httpx logs the request for every reference image and every webhook.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with _listening(parser, options.port) as listener, _data_dir(options.data_dir) as data_dir:
        origin = f"http://{HOST}:{listener.getsockname()[1]}"
        try:
            service = Service(_settings(options, origin, data_dir), options.scenario)
        except RejectedError as rejection:
            parser.error(f"--scenario: {rejection.body['error']['message']}")
        except (OSError, sqlite3.Error) as error:
            parser.exit(2, f"The ToAPIs emulator cannot use {data_dir}: {error}\n")
        config = uvicorn.Config(
            create_app(service),
            http=BreakableProtocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=options.log_level == "debug",
            # DateMiddleware sets the header from the emulator's clock.
            date_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=1,
        )
        Server(config, origin).run(sockets=[listener])


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    """Exit with SystemExit, so that temporary files are removed. uvicorn repeats the signal after its shutdown."""
    sys.exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m airflow_provider_toapis.emulator",
        description="ToAPIs on localhost: real videos, play money, injected faults. See docs/emulator.md.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--port", type=int, default=DEFAULT_PORT, help="0 selects a free port")
    add("--data-dir", type=Path, help="state, uploads and videos; default: a temporary directory, removed at the end")
    add("--latency", type=_not_negative, help="seconds that a generation takes")
    add("--latency-spread", type=_not_negative, help="maximum deviation from the latency, as a fraction of the latency")
    add("--api-key", help="the only accepted key; default: any")
    add("--scenario", type=_scenario, default=[], help="JSON file with a list of faults")
    add(
        "--lookup-lag",
        type=_not_negative,
        help="seconds from a submission until its client_business_id can be looked up",
    )
    add("--no-replay", dest="replay", action="store_false", help="a repeated client_business_id creates a new video")
    add("--no-remix-ids", dest="remix_ids", action="store_false", help="remix and extend ignore client_business_id")
    add(
        "--no-progress",
        dest="report_progress",
        action="store_false",
        help="report progress 0 until a video is completed",
    )
    add("--expiry", type=_not_negative, help="seconds until a file's URL expires")
    add("--balance", type=_usd, help="balance of the account in US dollars")
    add("--submit-rps", type=_not_negative, help="submissions per second; 0: no limit")
    add("--query-rps", type=_not_negative, help="status queries per second; 0: no limit")
    add("--webhook-url", help="the token's default webhook URL")
    add("--webhook-secret", help="the token's webhook secret")
    add("--webhook-retry-scale", type=_not_negative, help="factor for the delays between delivery attempts")
    add("--seed", type=int, help="random seed for the probability of faults")
    add("--log-level", choices=["debug", "info", "warning", "error"], default="warning", help="debug logs requests")
    parser.set_defaults(**{option.name: option.default for option in _OPTIONS})
    return parser


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.latency_spread > 1:
        parser.error("--latency-spread must be from 0 to 1")
    if (options.webhook_url is None) != (options.webhook_secret is None):
        parser.error("--webhook-url and --webhook-secret must be set together")
    if options.webhook_url is not None and not is_allowed_url(options.webhook_url):
        parser.error("--webhook-url must use https, or http on a loopback host")


def _settings(options: argparse.Namespace, origin: str, data_dir: Path) -> Settings:
    return Settings(origin, data_dir, **{option.name: getattr(options, option.name) for option in _OPTIONS})


@contextlib.contextmanager
def _listening(parser: argparse.ArgumentParser, port: int) -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except (OSError, OverflowError) as error:
            parser.exit(2, f"The ToAPIs emulator cannot listen on {HOST}:{port}: {error}\n")
        yield listener


@contextlib.contextmanager
def _data_dir(option: Path | None) -> Iterator[Path]:
    if option is not None:
        yield option.resolve()
    else:
        with tempfile.TemporaryDirectory(prefix="toapis-emulator-") as directory:
            yield Path(directory)


def _scenario(name: str) -> list[object]:
    try:
        scenario = json.loads(Path(name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"cannot be read: {error}") from None
    if not isinstance(scenario, list):
        raise argparse.ArgumentTypeError("must contain a JSON list of faults")
    return scenario


def _not_negative(text: str) -> float:
    number = float(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError("must not be negative")
    return number


def _usd(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise argparse.ArgumentTypeError("must be an amount of US dollars") from None
