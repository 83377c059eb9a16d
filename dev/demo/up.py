"""``python -m dev.demo up``: the demo's Airflow with its UI, left running."""

from __future__ import annotations

import time

import httpx

from dev.demo.environment import EXAMPLE_DAGS, Stage, running_stage
from dev.demo.target import Service

#: The ports that people expect Airflow and the emulator at.
AIRFLOW_PORT, EMULATOR_PORT = 8080, 8790


def stay_up(service: Service) -> None:
    """Start Airflow and the emulator, say where they are, and keep them until Ctrl-C.

    :param service: Who makes the videos.
    :raises ProcessError: Something did not come up, or ended by itself.
    """
    with running_stage(service, airflow_port=AIRFLOW_PORT, emulator_port=EMULATOR_PORT) as stage:
        print(_description(service, stage))
        while True:
            stage.airflow.check_running()
            stage.emulator.check_running()
            time.sleep(1)


def _description(service: Service, stage: Stage) -> str:
    airflow, emulator = stage.airflow, stage.emulator
    # Each example is named after its file.
    for file in EXAMPLE_DAGS.glob("*.py"):
        airflow.wait_for_dag(file.stem)
    pictures = httpx.get(f"{emulator.url}/{service.product_feed}", trust_env=False).json()["products"]
    dags = "\n".join(f"  {dag['dag_id']:<28} {dag['description']}" for dag in airflow.api("GET", "dags")["dags"])
    return f"""
  Airflow    {airflow.url} (no login needed)
  Shop       {emulator.url}/shop/products
  Picture    {pictures[0]["image"]} for DAGs that ask for one
  Videos     by {service.name}{f", billed at {emulator.url}/_emulator/ledger" if service.emulated else ""}

{dags}

Ctrl-C ends everything."""
