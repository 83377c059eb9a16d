"""Compare the import time of the operator module, after ``import airflow.sdk``, with that of ``HttpOperator``.

``python -m dev.benchmarks.import_cost`` alternates between the two modules, uses a new interpreter for each
measurement, and compares the medians.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

ROUNDS = 7
TARGET = 0.5
_OURS = "airflow_provider_toapis.operators.video"
_PEER = "airflow.providers.http.operators.http"
_MEASURE = """
import time
import airflow.sdk
from airflow.sdk import BaseOperator, conf
started = time.perf_counter()
import {module}
print(time.perf_counter() - started)
"""


def main() -> None:
    """Measure both modules alternately, and print their medians and the ratio."""
    seconds: dict[str, list[float]] = {_OURS: [], _PEER: []}
    for _ in range(ROUNDS):
        for module, samples in seconds.items():
            samples.append(_import_seconds(module))
    ours, peer = (statistics.median(seconds[module]) for module in (_OURS, _PEER))
    print(f"{_OURS}: {ours * 1000:.1f} ms; {_PEER}: {peer * 1000:.1f} ms (medians of {ROUNDS})")
    print(f"import cost: {ours / peer:.2f} of HttpOperator's (target: at most {TARGET})")


def _import_seconds(module: str) -> float:
    script = _MEASURE.format(module=module)
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return float(run.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    main()
