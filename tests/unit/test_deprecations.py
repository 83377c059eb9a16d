"""The filter of pyproject.toml really catches what is deprecated and used by us, on every Airflow."""

from __future__ import annotations

import airflow.exceptions
import pytest
from airflow.utils import deprecation_tools

from tests.airflow_versions import needs_airflow

#: Airflow's own kinds of such warnings, as far as this version has them.
KINDS = [
    getattr(module, name)
    for module, name in (
        (airflow.exceptions, "AirflowProviderDeprecationWarning"),
        (airflow.exceptions, "RemovedInAirflow3Warning"),
        (airflow.exceptions, "RemovedInAirflow4Warning"),
        (deprecation_tools, "DeprecatedImportWarning"),
    )
    if hasattr(module, name)
]


def run_as_ours(code: str, **names: object) -> None:
    exec(code, {"__name__": "airflow_provider_toapis.operators.video", **names})


@pytest.mark.parametrize("kind", [*KINDS, DeprecationWarning, PendingDeprecationWarning, FutureWarning])
def test_deprecation_that_a_module_of_ours_causes_is_an_error(kind: type[Warning]) -> None:
    with pytest.raises(kind, match="old"):
        run_as_ours("import warnings; warnings.warn('old', kind)", kind=kind)


@needs_airflow("3.0", "this class has moved there")
def test_deprecated_import_by_a_module_of_ours_is_an_error() -> None:
    with pytest.raises((DeprecationWarning, FutureWarning), match="BaseBranchOperator"):
        run_as_ours("from airflow.operators.branch import BaseBranchOperator")
