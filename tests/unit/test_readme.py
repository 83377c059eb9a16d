from __future__ import annotations

from pathlib import Path

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator
from tests import quickstart


def readme_dag() -> DAG:
    """Run the DAG file of the README and return its DAG."""
    head = 'with DAG("one_video", schedule=None)'
    block = quickstart.dag_file()
    assert block.count(head) == 1
    names: dict[str, object] = {}
    exec(block.replace(head, f"{head} as dag"), names)
    dag = names["dag"]
    assert isinstance(dag, DAG)
    return dag


def test_readme_dag_has_one_task() -> None:
    (task,) = readme_dag().tasks
    assert isinstance(task, ToAPIsSubmitVideoOperator)


def test_readme_dag_uses_no_templates() -> None:
    (task,) = readme_dag().tasks
    for field in task.template_fields:
        assert "{{" not in str(getattr(task, field))


def test_quickstart_page_has_the_same_dag() -> None:
    page = Path(__file__).parent.parent.parent / "docs" / "quickstart.md"
    assert quickstart.dag_file() in page.read_text(encoding="utf-8")
