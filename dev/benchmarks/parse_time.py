"""Compare the CPU time of a DAG file with 500 of our operators to that of a DAG file with 500 ``HttpOperator`` tasks.

``python -m dev.benchmarks.parse_time [--quick]`` alternates between the two files, uses a new process for each
measurement, and compares the medians.

- The DAG processor first imports the modules of Airflow that a file names. ``HttpOperator``'s module is one of them;
  our module is not. After that, it forks for each parse, parses the file and serializes its DAGs.
- A worker starts for each task. It imports all modules and parses the file, but serializes nothing.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

# These modules are imported here, because the DAG processor has loaded them before it parses a file.
import airflow.dag_processing.processor  # noqa: F401
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.serialization.serialized_objects import DagSerialization
from airflow.utils.dag_version_inflation_checker import check_dag_file_stability
from airflow.utils.file import iter_airflow_imports

TASKS = 500
ROUNDS = 7
TARGET = 1.0

#: Equivalent tasks: ours as in the README, and an ``HttpOperator`` that sends the first of several requests.
OURS = """
from airflow.sdk import DAG
from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator

with DAG("five_hundred"):
    for number in range({tasks}):
        ToAPIsSubmitVideoOperator(
            task_id=f"video_{{number}}",
            prompt="A slow camera push-in, soft morning light",
            image="/data/sneaker.jpg",
            duration=10,
            aspect_ratio="16:9",
            output_path="/data/videos/",
            deferrable=True,
        )
"""
PEER = """
from airflow.sdk import DAG
from airflow.providers.http.operators.http import HttpOperator

with DAG("five_hundred"):
    for number in range({tasks}):
        HttpOperator(
            task_id=f"video_{{number}}",
            http_conn_id="toapis_default",
            endpoint="/v1/videos/generations",
            method="POST",
            data={{"prompt": "A slow camera push-in, soft morning light", "seconds": "10", "aspect_ratio": "16:9"}},
            headers={{"Content-Type": "application/json"}},
            deferrable=True,
        )
"""


@dataclass(frozen=True)
class Cost:
    """CPU seconds for one DAG file.

    :param airflow_modules: For the import of the Airflow modules that the file names.
    :param parse: For the check and execution of the file, including the import of its other modules.
    :param serialize: For the serialization of the file's DAGs for the database.
    """

    airflow_modules: float
    parse: float
    serialize: float

    @property
    def dag_processor(self) -> float:
        """Cost each time that the DAG processor parses the file."""
        return self.parse + self.serialize

    @property
    def worker(self) -> float:
        """Cost each time that a task of the file starts."""
        return self.airflow_modules + self.parse


def main() -> None:
    """Measure both files alternately, and print their medians and the ratios."""
    # This import is here, because it loads our modules, which must not be loaded in the new processes.
    from dev.benchmarks._measuring import is_quick  # noqa: PLC0415

    quick = is_quick("CPU time of a DAG file with 500 operators, compared to HttpOperator's.")
    tasks, rounds = (20, 1) if quick else (TASKS, ROUNDS)
    costs: dict[str, list[Cost]] = {OURS: [], PEER: []}
    for _ in range(rounds):
        for source, samples in costs.items():
            samples.append(_in_a_fresh_process(source.format(tasks=tasks), tasks))
    ours, peer = (_median(samples) for samples in costs.values())
    print(f"{tasks} tasks in one DAG file; CPU time, medians of {rounds}")
    for name, cost in (("ToAPIsSubmitVideoOperator", ours), ("HttpOperator", peer)):
        print(
            f"{name}: modules of Airflow {cost.airflow_modules * 1000:.0f} ms, parse {cost.parse * 1000:.0f} ms,"
            f" serialize {cost.serialize * 1000:.0f} ms"
        )
    print(
        f"parse time: {ours.dag_processor / peer.dag_processor:.2f} of HttpOperator's in the DAG processor"
        f" ({ours.dag_processor * 1000:.0f} ms, peer {peer.dag_processor * 1000:.0f} ms),"
        f" {ours.worker / peer.worker:.2f} in a worker (target: at most {TARGET})"
    )


def cost_of(source: str, tasks: int) -> Cost:
    """Process a DAG file as the DAG processor does, in this process. The file's imports stay loaded.

    :param source: Text of the file.
    :param tasks: Number of tasks in its DAG.
    :raises RuntimeError: Airflow does not find exactly these tasks.
    """
    with tempfile.TemporaryDirectory(prefix="toapis-parse-time-") as directory:
        file = Path(directory) / "five_hundred.py"
        file.write_text(source, encoding="utf-8")
        # The DAG processor does this before it forks, so that garbage collections skip the objects of Airflow.
        gc.freeze()
        times = [time.process_time()]
        for module in iter_airflow_imports(str(file)):
            import_module(module)
        times.append(time.process_time())
        check_dag_file_stability(str(file))
        bag = BundleDagBag(dag_folder=str(file), bundle_path=file.parent, bundle_name="benchmark", load_op_links=False)
        times.append(time.process_time())
        serialized = [DagSerialization.to_dict(dag) for dag in bag.dags.values()]
        times.append(time.process_time())
    if bag.import_errors or [len(each["dag"]["tasks"]) for each in serialized] != [tasks]:
        raise RuntimeError(f"Airflow does not find {tasks} tasks in one DAG: {bag.import_errors or serialized}")
    return Cost(*(after - before for before, after in pairwise(times)))


def _in_a_fresh_process(source: str, tasks: int) -> Cost:
    # The process is spawned instead of forked, so that nothing is loaded or cached from an earlier measurement.
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as fresh_process:
        return fresh_process.submit(cost_of, source, tasks).result()


def _median(costs: list[Cost]) -> Cost:
    return Cost(
        airflow_modules=statistics.median(cost.airflow_modules for cost in costs),
        parse=statistics.median(cost.parse for cost in costs),
        serialize=statistics.median(cost.serialize for cost in costs),
    )


if __name__ == "__main__":
    main()
