"""Public names and their docstrings, from which the API reference is generated.

A module with ``__all__`` is public, and only the names in ``__all__`` are public. All other modules are private.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import BaseOperator

import airflow_provider_toapis
from airflow_provider_toapis.get_provider_info import get_provider_info

NAME = "airflow_provider_toapis"
PACKAGE = Path(airflow_provider_toapis.__file__).parent
#: Methods that Airflow calls by name.
CALLED_BY_AIRFLOW = {"execute_complete", "get_openlineage_facets_on_complete"}
#: Modules that re-export names.
REEXPORTING = {"", "exceptions"}
PUBLIC = [
    "",
    "decorators.batch",
    "decorators.video",
    "exceptions",
    "hooks.toapis",
    "links.video",
    "operators.batch",
    "operators.files",
    "operators.video",
    "plugin",
    "retry_policy",
    "sensors.video",
    "triggers.video",
]


def module(name: str) -> ModuleType:
    return importlib.import_module(f"{NAME}.{name}".rstrip("."))


def public_modules() -> Iterator[str]:
    for name in PUBLIC:
        try:
            module(name)
        except ImportError:
            # Retry policies need Airflow 3.3.
            assert name == "retry_policy"
            continue
        yield name


IMPORTABLE = list(public_modules())


def source(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def public_objects() -> Iterator[tuple[str, Any]]:
    """Yield every public class and function once."""
    seen: list[object] = []
    for name in IMPORTABLE:
        for public in module(name).__all__:
            value = getattr(module(name), public)
            if (inspect.isclass(value) or inspect.isfunction(value)) and value not in seen:
                seen.append(value)
                yield public, value


CLASSES = {name: value for name, value in public_objects() if inspect.isclass(value)}
FUNCTIONS = {name: value for name, value in public_objects() if inspect.isfunction(value)}


def methods() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the public methods of the public classes, except methods that Airflow documents."""
    for name, cls in CLASSES.items():
        for owner in own_bases(cls):
            for method, value in vars(owner).items():
                plain = value.__func__ if isinstance(value, classmethod | staticmethod) else value
                is_airflow_method = method in CALLED_BY_AIRFLOW or any(
                    hasattr(base, method) for base in cls.__mro__ if base not in own_bases(cls)
                )
                if inspect.isfunction(plain) and not method.startswith("_") and not is_airflow_method:
                    yield f"{name}.{method}", inspect.unwrap(plain)


def own_bases(cls: type) -> list[type]:
    return [base for base in cls.__mro__ if base.__module__.startswith(NAME)]


def documentation(cls: type) -> str:
    """Return the docstrings of a class and of its base classes in the provider."""
    return "\n".join(inspect.cleandoc(base.__doc__ or "") for base in own_bases(cls))


def described_parameters(docstring: str) -> dict[str, str]:
    """Return the description of each parameter; the nearest class wins."""
    fields = re.findall(r"^:param (\w+):((?:.|\n(?![:\n]))*)", docstring, re.M)
    return {name: " ".join(text.split()) for name, text in reversed(fields)}


def parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    given = inspect.signature(function).parameters.values()
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [
        parameter for parameter in given if parameter.kind not in variable and parameter.name not in ("self", "cls")
    ]


def constructor_parameters(cls: type) -> list[inspect.Parameter]:
    if dataclasses.is_dataclass(cls):
        return parameters(cls)
    constructors = [vars(base)["__init__"] for base in own_bases(cls) if "__init__" in vars(base)]
    return [parameter for constructor in constructors for parameter in parameters(inspect.unwrap(constructor))]


class TestExports:
    def test_public_modules_are_the_modules_with_all(self) -> None:
        exporting = [
            ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__")
            for path in sorted(PACKAGE.rglob("*.py"))
            if any(isinstance(node, ast.Name) and node.id == "__all__" for node in ast.walk(source(path)))
        ]
        # version_compat re-exports Airflow names that differ between versions.
        assert sorted(set(exporting) - {"version_compat"}) == PUBLIC

    def test_every_module_in_the_provider_info_is_public(self) -> None:
        info = get_provider_info()
        documented = {
            name
            for cls in ("operators", "hooks", "sensors", "triggers")
            for group in info[cls]
            for name in group["python-modules"]
        }
        documented |= {path.rpartition(".")[0] for path in info["extra-links"]}
        assert documented <= {f"{NAME}.{name}" for name in PUBLIC}

    @pytest.mark.parametrize("name", IMPORTABLE)
    def test_public_names_exist_and_are_defined_in_their_module(self, name: str) -> None:
        for public in module(name).__all__:
            value = getattr(module(name), public)
            if name not in REEXPORTING and hasattr(value, "__module__"):
                assert value.__module__ == module(name).__name__, public

    @pytest.mark.parametrize("name", [name for name in IMPORTABLE if not name.startswith("api.")])
    def test_every_operator_sensor_trigger_and_error_is_in_all(self, name: str) -> None:
        own_names = {
            public
            for public, value in vars(module(name)).items()
            if inspect.isclass(value) and value.__module__ == module(name).__name__ and public.startswith("ToAPIs")
        }
        assert own_names <= set(module(name).__all__)


class TestDocstrings:
    @pytest.mark.parametrize("name", CLASSES)
    def test_every_parameter_of_a_public_class_is_described(self, name: str) -> None:
        descriptions = described_parameters(documentation(CLASSES[name]))
        assert {parameter.name for parameter in constructor_parameters(CLASSES[name])} - descriptions.keys() == set()

    @pytest.mark.parametrize("name", CLASSES)
    def test_only_existing_parameters_are_described(self, name: str) -> None:
        descriptions = described_parameters(CLASSES[name].__doc__ or "")
        assert descriptions.keys() - {parameter.name for parameter in constructor_parameters(CLASSES[name])} == set()

    @pytest.mark.parametrize("name", CLASSES)
    def test_numeric_and_text_defaults_are_documented(self, name: str) -> None:
        descriptions = described_parameters(documentation(CLASSES[name]))
        for parameter in constructor_parameters(CLASSES[name]):
            default = parameter.default
            if isinstance(default, bool) or default in (inspect.Parameter.empty, None, "", ()):
                continue
            if isinstance(default, int | float):
                number = f"{default:g}" if default < 1e6 else f"{default // 1024**3} GiB"
                assert number in descriptions[parameter.name].replace(",", ""), parameter.name
            elif isinstance(default, str):
                assert str(default) in descriptions[parameter.name], parameter.name

    @pytest.mark.parametrize("name", [name for name, cls in CLASSES.items() if issubclass(cls, BaseOperator)])
    def test_exactly_the_templated_parameters_are_marked(self, name: str) -> None:
        descriptions = described_parameters(documentation(CLASSES[name]))
        marked = {field for field, text in descriptions.items() if "(templated)" in text}
        operator: Any = CLASSES[name]
        assert marked == set(operator.template_fields)

    @pytest.mark.parametrize(("name", "function"), [*FUNCTIONS.items(), *methods()])
    def test_parameters_of_functions_and_methods_are_documented(self, name: str, function: Callable[..., Any]) -> None:
        docstring = inspect.cleandoc(function.__doc__ or "")
        assert docstring
        documented = described_parameters(docstring).keys() | set(re.findall(r"``(\w+)``", docstring))
        stated_elsewhere = "parameters as for" in docstring.lower()
        if not stated_elsewhere:
            assert {parameter.name for parameter in parameters(function)} - documented == set()

    @pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
    def test_every_raised_provider_error_is_documented(self, path: Path) -> None:
        for name, function, docstring in documented_functions(source(path)):
            if name.rpartition(".")[2].startswith("_") or PACKAGE / "emulator" in path.parents:
                continue
            for error in raised(function):
                assert f":raises {error}:" in docstring, f"{path.name}: {name} raises {error}"


def documented_functions(
    tree: ast.AST, prefix: str = "", class_docstring: str = ""
) -> Iterator[tuple[str, ast.AST, str]]:
    """Yield functions and methods with their docstrings and those of their classes."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{prefix}{node.name}", node, f"{class_docstring}\n{ast.get_docstring(node) or ''}"
        elif isinstance(node, ast.ClassDef):
            yield from documented_functions(node, f"{prefix}{node.name}.", ast.get_docstring(node) or "")


def raised(function: ast.AST) -> set[str]:
    """Return the provider errors that a function raises itself."""
    text = {ast.unparse(node.exc) for node in ast.walk(function) if isinstance(node, ast.Raise) and node.exc}
    return {found[0] for found in (re.match(r"ToAPIs\w+Error", parameter) for parameter in text) if found}
