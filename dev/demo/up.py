"""``python -m dev.demo up``: run the demo's Airflow and its UI until Ctrl-C."""

from __future__ import annotations

import time

from dev.demo.environment import EXAMPLE_DAGS, Environment, running_environment
from dev.demo.target import Service

#: Usual ports of Airflow and the emulator.
AIRFLOW_PORT, EMULATOR_PORT = 8080, 8790


def stay_up(service: Service) -> None:
    """Start Airflow and the emulator, print their URLs, and run them until Ctrl-C.

    :param service: The service that generates the videos.
    :raises ProcessError: Airflow or the emulator did not start, or ended unexpectedly.
    """
    with running_environment(service, airflow_port=AIRFLOW_PORT, emulator_port=EMULATOR_PORT) as environment:
        print(_description(service, environment))
        while True:
            environment.airflow.check_running()
            environment.emulator.check_running()
            time.sleep(1)


def _description(service: Service, environment: Environment) -> str:
    airflow, emulator = environment.airflow, environment.emulator
    # The id of each example DAG is the name of its file.
    for file in EXAMPLE_DAGS.glob("*.py"):
        airflow.wait_for_dag(file.stem)
    dags = "\n".join(f"  {dag['dag_id']:<28} {dag['description']}" for dag in airflow.api("GET", "dags")["dags"])
    ledger = f"{emulator.url}/_emulator/ledger (emulated: nothing is billed)"
    return f"""
  Videos     {airflow.url}/plugin/toapis-videos (no login needed)
  Airflow    {airflow.url}
  Your DAGs  {EXAMPLE_DAGS} (put a file there; it appears within half a minute)
  Files      {environment.home} (deleted at the end), from {service.name}
  Shop       {emulator.url}/shop/products
  Cost       {ledger if service.emulated else "billed by ToAPIs"}

{dags}

Press Ctrl-C to stop everything."""
