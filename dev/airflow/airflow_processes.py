"""The processes of an Airflow of any version, in their own directory."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Self

from dev.airflow.processes import STOP_GRACE, BackgroundProcess, ProcessError, free_port, log_tail

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType


class AirflowProcesses:
    """Runs processes of a real Airflow with a new database. They end with the ``with`` block.

    :param directory: AIRFLOW_HOME, for the metadata database and all logs. Created if missing.
    :param dags_folder: Directory with the DAG files.
    :param components: Arguments of Airflow's command line, by the names of the processes to run.
    :param port: Preferred port of the API server and UI. If it is in use, another port is selected. 0 selects any free
        port.
    :param environment: Additional environment variables for all components, such as ``AIRFLOW__SECTION__KEY``.
    :param report: Called with a short text before each step that takes seconds.
    """

    def __init__(
        self,
        directory: Path,
        dags_folder: Path,
        *,
        components: Mapping[str, tuple[str, ...]],
        port: int = 0,
        environment: Mapping[str, str] | None = None,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.directory = directory.resolve()
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
        """Start one component, without waiting until it is healthy."""
        self._components[name].start()

    def kill(self, name: str) -> None:
        """Kill one component and all its descendants with SIGKILL."""
        self._components[name].kill()

    def stop(self) -> None:
        """Stop all components at the same time. Those that still run after a few seconds are killed."""
        deadline = time.monotonic() + STOP_GRACE
        for component in self._components.values():
            component.request_stop()
        for component in self._components.values():
            component.stop(deadline)

    def component_log(self, name: str) -> str:
        """Return the output of a component so far."""
        return self._components[name].log()

    def check_running(self) -> None:
        """Check that all components run.

        :raises ProcessError: A component ended unexpectedly. The message contains the end of its log.
        """
        for component in self._components.values():
            if not component.running:
                raise component.error("ended unexpectedly")

    # Internal

    def _own_environment(self, dags_folder: Path) -> dict[str, str]:
        # This Airflow must get neither the settings of the user's own Airflow nor the service's API key.
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
            # Every running task is a separate process. More of them would be slower on a small machine.
            "CORE__PARALLELISM": "4",
            # Airflow's default of five minutes is too long for a demo.
            "CORE__DEFAULT_TASK_RETRY_DELAY": "10",
            "CORE__FERNET_KEY": urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "API__HOST": "127.0.0.1",
            "API__PORT": str(self._port),
            "API__BASE_URL": self.url,
            "API__SECRET_KEY": secrets.token_hex(32),
            "API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.directory / 'airflow.db'}",
            "DAG_PROCESSOR__REFRESH_INTERVAL": "5",
            "LOGGING__BASE_LOG_FOLDER": str(self.directory / "logs"),
            "LOGGING__COLORED_CONSOLE_LOG": "False",
            "USAGE_DATA_COLLECTION__ENABLED": "False",
        }
        return {
            **inherited,
            "AIRFLOW_HOME": str(self.directory),
            # Airflow 2.11 runs tasks with a command that it finds on the PATH.
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), inherited.get("PATH", os.defpath))),
            "PYTHONUNBUFFERED": "1",
            # All requests use the loopback address, which no proxy can reach.
            **dict.fromkeys(("NO_PROXY", "no_proxy"), _without_proxy(inherited)),
            **{f"AIRFLOW__{name}": value for name, value in settings.items()},
        }

    def _component(self, name: str, arguments: tuple[str, ...]) -> BackgroundProcess:
        return BackgroundProcess(name, airflow_command(*arguments), self.environment, self.directory / f"{name}.log")

    def _create_database(self) -> None:
        self._report("Creating Airflow's database")
        self.directory.mkdir(parents=True, exist_ok=True)
        log_path = self.directory / "db-migrate.log"
        with log_path.open("wb") as log:
            command = airflow_command("db", "migrate")
            result = subprocess.run(
                command, env=self.environment, cwd=self.directory, stdout=log, stderr=subprocess.STDOUT, check=False
            )
        if result.returncode != 0:
            ending = log_tail(log_path.read_text(encoding="utf-8", errors="replace"), log_path)
            raise ProcessError(f"Cannot create Airflow's database. {ending}")


def _without_proxy(environment: Mapping[str, str]) -> str:
    hosts = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    return ",".join(filter(None, (hosts, "127.0.0.1", "localhost")))


def airflow_command(*arguments: str) -> list[str]:
    """Return the command line that runs Airflow with the current Python interpreter."""
    return [sys.executable, "-m", "airflow", *arguments]
