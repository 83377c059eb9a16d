"""The processes of an Airflow of any version, in a folder of their own."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Self

from dev.airflow.processes import STOP_GRACE, BackgroundProcess, ProcessError, free_port, log_ending

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType


class AirflowProcesses:
    """Start processes of a real Airflow with a new database, and leave nothing running.

    :param folder: Its home: metadata database, component logs, task logs. Created when missing.
    :param dags_folder: The DAG files that it serves.
    :param port: Preferred port of the API server and UI; another one is taken when it is in use. 0 means any.
    :param environment: Further environment variables for all components, such as ``AIRFLOW__SECTION__KEY``.
    :param components: Arguments of Airflow's command line by the names of the processes to run.
    :param report: Called with a short sentence whenever something begins that takes seconds.
    """

    def __init__(
        self,
        folder: Path,
        dags_folder: Path,
        *,
        components: Mapping[str, tuple[str, ...]],
        port: int = 0,
        environment: Mapping[str, str] | None = None,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.folder = folder.resolve()
        self._report = report
        self._port = free_port(port)
        self.url = f"http://127.0.0.1:{self._port}"
        self.environment = self._own_environment(dags_folder.resolve()) | dict(environment or {})
        self._components = {name: self._component(name, arguments) for name, arguments in components.items()}

    def __enter__(self) -> Self:
        try:
            self._create_database()
            self._report(f"Starting Airflow: {', '.join(self._components)}")
            for name in self._components:
                self.start(name)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def processes(self) -> Mapping[str, BackgroundProcess]:
        """The processes of the components, by their names."""
        return self._components

    def start(self, name: str) -> None:
        """Start one component; does not wait until it is healthy."""
        self._components[name].start()

    def kill(self, name: str) -> None:
        """Kill one component with all its children, as ``kill -9`` would."""
        self._components[name].kill()

    def stop(self) -> None:
        """End all components together; whatever has not ended after a few seconds is killed."""
        deadline = time.monotonic() + STOP_GRACE
        for component in self._components.values():
            component.request_stop()
        for component in self._components.values():
            component.stop(deadline)

    def component_log(self, name: str) -> str:
        """Return what a component has written so far."""
        return self._components[name].log()

    def check_running(self) -> None:
        """Raise :class:`ProcessError` when a component has ended by itself; names it and shows the end of its log."""
        for component in self._components.values():
            if not component.running:
                raise component.error("ended by itself")

    # Inside

    def _own_environment(self, dags_folder: Path) -> dict[str, str]:
        # Nothing of an Airflow that its user may have may reach this one, nor the key of the service.
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AIRFLOW", "_AIRFLOW")) and name != "TOAPIS_API_KEY"
        }
        settings = {
            "CORE__DAGS_FOLDER": str(dags_folder),
            "CORE__LOAD_EXAMPLES": "False",
            "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "CORE__TEST_CONNECTION": "Enabled",
            # Every running task is a process of its own; more of them would only be slower on a small machine.
            "CORE__PARALLELISM": "4",
            # Airflow's own default of five minutes is longer than anybody watches.
            "CORE__DEFAULT_TASK_RETRY_DELAY": "10",
            "CORE__FERNET_KEY": urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "API__HOST": "127.0.0.1",
            "API__PORT": str(self._port),
            "API__BASE_URL": self.url,
            "API__SECRET_KEY": secrets.token_hex(32),
            "API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.folder / 'airflow.db'}",
            "DAG_PROCESSOR__REFRESH_INTERVAL": "5",
            "LOGGING__BASE_LOG_FOLDER": str(self.folder / "logs"),
            "LOGGING__COLORED_CONSOLE_LOG": "False",
            "USAGE_DATA_COLLECTION__ENABLED": "False",
        }
        return {
            **inherited,
            "AIRFLOW_HOME": str(self.folder),
            # Airflow 2.11 runs tasks by a command that it looks for.
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), inherited.get("PATH", os.defpath))),
            "PYTHONUNBUFFERED": "1",
            # Everything here talks over the loopback address, which no proxy can reach.
            **dict.fromkeys(("NO_PROXY", "no_proxy"), _without_proxy(inherited)),
            **{f"AIRFLOW__{name}": value for name, value in settings.items()},
        }

    def _component(self, name: str, arguments: tuple[str, ...]) -> BackgroundProcess:
        return BackgroundProcess(name, airflow_command(*arguments), self.environment, self.folder / f"{name}.log")

    def _create_database(self) -> None:
        self._report("Creating Airflow's database")
        self.folder.mkdir(parents=True, exist_ok=True)
        log_path = self.folder / "db-migrate.log"
        with log_path.open("wb") as log:
            command = airflow_command("db", "migrate")
            result = subprocess.run(
                command, env=self.environment, cwd=self.folder, stdout=log, stderr=subprocess.STDOUT, check=False
            )
        if result.returncode != 0:
            ending = log_ending(log_path.read_text(encoding="utf-8", errors="replace"), log_path)
            raise ProcessError(f"Airflow's database cannot be created. {ending}")


def _without_proxy(environment: Mapping[str, str]) -> str:
    hosts = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    return ",".join(filter(None, (hosts, "127.0.0.1", "localhost")))


def airflow_command(*arguments: str) -> list[str]:
    """Return the command line that runs Airflow with this very Python."""
    return [sys.executable, "-m", "airflow", *arguments]
