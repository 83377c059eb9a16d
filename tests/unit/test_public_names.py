"""What users may import, and that its docstrings say what somebody has to know: the API reference is made of them.

A module with ``__all__`` is public, and so are the names in it and no others. All other modules are the provider's own.
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
#: Airflow calls them, by the names that a deferral or a listener gives.
CALLED_BY_AIRFLOW = {"execute_complete", "get_openlineage_facets_on_complete"}
#: Names that a module has from elsewhere and gives on.
HANDED_ON = {"", "exceptions"}
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
            # Retry policies came with Airflow 3.3.
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
    """Yield the public methods of the public classes that Airflow does not describe itself."""
    for name, kind in CLASSES.items():
        for owner in own_bases(kind):
            for method, value in vars(owner).items():
                plain = value.__func__ if isinstance(value, classmethod | staticmethod) else value
                is_airflow_s = method in CALLED_BY_AIRFLOW or any(
                    hasattr(base, method) for base in kind.__mro__ if base not in own_bases(kind)
                )
                if inspect.isfunction(plain) and not method.startswith("_") and not is_airflow_s:
                    yield f"{name}.{method}", inspect.unwrap(plain)


def own_bases(kind: type) -> list[type]:
    return [base for base in kind.__mro__ if base.__module__.startswith(NAME)]


def documentation(kind: type) -> str:
    """Return the docstrings of a class and of the classes of ours that it comes from."""
    return "\n".join(inspect.cleandoc(base.__doc__ or "") for base in own_bases(kind))


def described(docstring: str) -> dict[str, str]:
    """Return what is said of each parameter; of the nearest class first."""
    fields = re.findall(r"^:param (\w+):((?:.|\n(?![:\n]))*)", docstring, re.M)
    return {name: " ".join(text.split()) for name, text in reversed(fields)}


def parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    given = inspect.signature(function).parameters.values()
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [one for one in given if one.kind not in variable and one.name not in ("self", "cls")]


def constructor_parameters(kind: type) -> list[inspect.Parameter]:
    if dataclasses.is_dataclass(kind):
        return parameters(kind)
    constructors = [vars(base)["__init__"] for base in own_bases(kind) if "__init__" in vars(base)]
    return [one for constructor in constructors for one in parameters(inspect.unwrap(constructor))]


class TestExports:
    def test_public_modules_are_those_that_say_what_they_export(self) -> None:
        exporting = [
            ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__")
            for path in sorted(PACKAGE.rglob("*.py"))
            if any(isinstance(node, ast.Name) and node.id == "__all__" for node in ast.walk(source(path)))
        ]
        # It passes on names of Airflow that are called otherwise in other versions of it.
        assert sorted(set(exporting) - {"version_compat"}) == PUBLIC

    def test_every_module_that_airflow_is_told_of_is_public(self) -> None:
        info = get_provider_info()
        told = {
            name
            for kind in ("operators", "hooks", "sensors", "triggers")
            for group in info[kind]
            for name in group["python-modules"]
        }
        told |= {path.rpartition(".")[0] for path in info["extra-links"]}
        assert told <= {f"{NAME}.{name}" for name in PUBLIC}

    @pytest.mark.parametrize("name", IMPORTABLE)
    def test_names_are_there_and_are_the_module_s_own(self, name: str) -> None:
        for public in module(name).__all__:
            value = getattr(module(name), public)
            if name not in HANDED_ON and hasattr(value, "__module__"):
                assert value.__module__ == module(name).__name__, public

    @pytest.mark.parametrize("name", [name for name in IMPORTABLE if not name.startswith("api.")])
    def test_no_operator_sensor_trigger_or_error_is_left_out(self, name: str) -> None:
        ours = {
            public
            for public, value in vars(module(name)).items()
            if inspect.isclass(value) and value.__module__ == module(name).__name__ and public.startswith("ToAPIs")
        }
        assert ours <= set(module(name).__all__)


class TestDocstrings:
    @pytest.mark.parametrize("name", CLASSES)
    def test_every_parameter_of_a_public_class_is_described(self, name: str) -> None:
        said = described(documentation(CLASSES[name]))
        assert {one.name for one in constructor_parameters(CLASSES[name])} - said.keys() == set()

    @pytest.mark.parametrize("name", CLASSES)
    def test_nothing_is_described_that_is_not_there(self, name: str) -> None:
        said = described(CLASSES[name].__doc__ or "")
        assert said.keys() - {one.name for one in constructor_parameters(CLASSES[name])} == set()

    @pytest.mark.parametrize("name", CLASSES)
    def test_defaults_that_are_numbers_or_ids_are_told(self, name: str) -> None:
        said = described(documentation(CLASSES[name]))
        for one in constructor_parameters(CLASSES[name]):
            default = one.default
            if isinstance(default, bool) or default in (inspect.Parameter.empty, None, "", ()):
                continue
            if isinstance(default, int | float):
                number = f"{default:g}" if default < 1e6 else f"{default // 1024**3} GiB"
                assert number in said[one.name].replace(",", ""), one.name
            elif isinstance(default, str):
                assert str(default) in said[one.name], one.name

    @pytest.mark.parametrize("name", [name for name, kind in CLASSES.items() if issubclass(kind, BaseOperator)])
    def test_templated_parameters_are_marked_so_and_no_others(self, name: str) -> None:
        said = described(documentation(CLASSES[name]))
        marked = {field for field, text in said.items() if "(templated)" in text}
        operator: Any = CLASSES[name]
        assert marked == set(operator.template_fields)

    @pytest.mark.parametrize(("name", "function"), [*FUNCTIONS.items(), *methods()])
    def test_parameters_of_functions_and_methods_are_told_of(self, name: str, function: Callable[..., Any]) -> None:
        docstring = inspect.cleandoc(function.__doc__ or "")
        assert docstring
        told = described(docstring).keys() | set(re.findall(r"``(\w+)``", docstring))
        stated_elsewhere = "parameters as for" in docstring.lower()
        if not stated_elsewhere:
            assert {one.name for one in parameters(function)} - told == set()

    @pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
    def test_whatever_raises_an_error_of_ours_says_so(self, path: Path) -> None:
        for name, function, docstring in documented_functions(source(path)):
            if name.rpartition(".")[2].startswith("_") or PACKAGE / "emulator" in path.parents:
                continue
            for error in raised(function):
                assert f":raises {error}:" in docstring, f"{path.name}: {name} raises {error}"


def documented_functions(tree: ast.AST, of: str = "", also: str = "") -> Iterator[tuple[str, ast.AST, str]]:
    """Yield functions and methods with their docstrings, and with those of their classes."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{of}{node.name}", node, f"{also}\n{ast.get_docstring(node) or ''}"
        elif isinstance(node, ast.ClassDef):
            yield from documented_functions(node, f"{of}{node.name}.", ast.get_docstring(node) or "")


def raised(function: ast.AST) -> set[str]:
    """Return the errors of ours that a function raises itself."""
    text = {ast.unparse(node.exc) for node in ast.walk(function) if isinstance(node, ast.Raise) and node.exc}
    return {found[0] for found in (re.match(r"ToAPIs\w+Error", one) for one in text) if found}
