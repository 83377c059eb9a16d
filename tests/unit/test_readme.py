from __future__ import annotations

import re
from pathlib import Path

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator

README = Path(__file__).parent.parent.parent / "README.md"


def readme_dag() -> DAG:
    """Run the README's only Python block, as who copies it does."""
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    exec(block.replace('with DAG("one_video"):', 'with DAG("one_video") as dag:'), names)
    dag = names["dag"]
    assert isinstance(dag, DAG)
    return dag


def test_smallest_dag_of_the_readme_is_one_task() -> None:
    (task,) = readme_dag().tasks
    assert isinstance(task, ToAPIsSubmitVideoOperator)


def test_smallest_dag_needs_no_logical_date_which_a_manual_run_may_lack() -> None:
    (task,) = readme_dag().tasks
    for field in task.template_fields:
        assert "{{" not in str(getattr(task, field))
