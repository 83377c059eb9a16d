"""The warning filters of pyproject.toml turn the provider's deprecation warnings into errors."""

from __future__ import annotations

import airflow.exceptions
import pytest
from airflow.utils import deprecation_tools

from tests.airflow_versions import needs_airflow

#: Airflow's warning classes that exist in this version.
WARNING_CLASSES = [
    getattr(module, name)
    for module, name in (
        (airflow.exceptions, "AirflowProviderDeprecationWarning"),
        (airflow.exceptions, "RemovedInAirflow3Warning"),
        (airflow.exceptions, "RemovedInAirflow4Warning"),
        (deprecation_tools, "DeprecatedImportWarning"),
    )
    if hasattr(module, name)
]


def run_as_provider(code: str, **names: object) -> None:
    exec(code, {"__name__": "airflow_provider_toapis.operators.video", **names})


@pytest.mark.parametrize("kind", [*WARNING_CLASSES, DeprecationWarning, PendingDeprecationWarning, FutureWarning])
def test_deprecation_warning_of_the_provider_is_an_error(kind: type[Warning]) -> None:
    with pytest.raises(kind, match="old"):
        run_as_provider("import warnings; warnings.warn('old', kind)", kind=kind)


@needs_airflow("3.0", "this class has moved there")
def test_deprecated_import_in_the_provider_is_an_error() -> None:
    with pytest.raises((DeprecationWarning, FutureWarning), match="BaseBranchOperator"):
        run_as_provider("from airflow.operators.branch import BaseBranchOperator")
