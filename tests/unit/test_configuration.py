"""Section ``[toapis]`` of Airflow's configuration: defaults for tasks and connections."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException, conf, task

from airflow_provider_toapis.exceptions import ToAPIsRequestError
from airflow_provider_toapis.get_provider_info import CONFIG_OPTIONS
from airflow_provider_toapis.hooks.connection import configured_rate, seconds_or_default
from airflow_provider_toapis.hooks.toapis import ToAPIsHook
from airflow_provider_toapis.media_check import check_mode
from airflow_provider_toapis.operators.batch import ToAPIsVideoBatchOperator
from airflow_provider_toapis.operators.video import (
    ToAPIsExtendVideoOperator,
    ToAPIsRemixVideoOperator,
    ToAPIsSubmitVideoOperator,
)
from tests.errors import rejects

READERS: dict[str, Callable[[], float]] = {
    "poll_interval": lambda: seconds_or_default("poll_interval", None),
    "timeout": lambda: seconds_or_default("timeout", None),
    "query_rate": lambda: configured_rate("query_rate"),
    "submit_rate": lambda: configured_rate("submit_rate"),
}
EVERY_OPTION = pytest.mark.parametrize("option", sorted(READERS))
SECONDS = pytest.mark.parametrize("option", ["poll_interval", "timeout"])
RATES = pytest.mark.parametrize("option", ["query_rate", "submit_rate"])
EVERY_OPERATOR = pytest.mark.parametrize(
    ("operator_class", "arguments"),
    [
        (ToAPIsSubmitVideoOperator, {"prompt": "A shoe"}),
        (ToAPIsRemixVideoOperator, {"video_id": "video_1", "prompt": "Slower"}),
        (ToAPIsExtendVideoOperator, {"video_id": "video_1", "prompt": "Go on"}),
        (ToAPIsVideoBatchOperator, {"requests": [], "output_path": "/videos/"}),
    ],
    ids=["submit", "remix", "extend", "batch"],
)


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    return lambda option, value: monkeypatch.setenv(f"AIRFLOW__TOAPIS__{option.upper()}", value)


@pytest.fixture
def configuration_file(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Let Airflow read lines of the section ``[toapis]`` of an airflow.cfg."""

    def read(lines: str) -> None:
        file = tmp_path / "airflow.cfg"
        file.write_text(f"[toapis]\n{lines}\n", encoding="utf-8")
        conf.read(str(file))

    yield read
    conf.remove_section("toapis")


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return the settings of a connection with this extra."""

    def read(**extra: object) -> Any:
        connection = {"conn_type": "toapis", "password": "sk-unit-0123456789abcdef", "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_TOAPIS_DEFAULT", json.dumps(connection))
        return ToAPIsHook().settings()

    return read


def test_exactly_the_documented_options_are_read() -> None:
    # The tests of `ui.media` read "media_roots", because that module needs Airflow 3.1.
    assert CONFIG_OPTIONS.keys() == READERS.keys() | {"check", "media_roots"}


def test_default_of_the_check_is_to_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW__TOAPIS__CHECK")
    assert check_mode(None) == CONFIG_OPTIONS["check"]["default"] == "warn"
    monkeypatch.setenv("AIRFLOW__TOAPIS__CHECK", " ")
    assert check_mode(None) == CONFIG_OPTIONS["check"]["default"] == "warn"


@pytest.mark.parametrize("value", ["fail", " fail\n"])
def test_check_is_read_from_the_configuration(configure: Any, value: str) -> None:
    configure("check", value)
    assert check_mode(None) == "fail"
    assert check_mode("off") == "off"


@pytest.mark.parametrize("value", ["Fail", "true", "%"])
def test_invalid_check_names_the_option(configure: Any, value: str) -> None:
    configure("check", value)
    with rejects("[toapis] check"):
        check_mode(None)


@EVERY_OPTION
def test_default_equals_documented_default(option: str) -> None:
    assert READERS[option]() == float(CONFIG_OPTIONS[option]["default"])


@EVERY_OPTION
@pytest.mark.parametrize(("value", "number"), [("7", 7.0), ("7.5", 7.5), (" 7.0 ", 7.0)])
def test_value_is_read_from_the_environment(configure: Any, option: str, value: str, number: float) -> None:
    configure(option, value)
    assert READERS[option]() == number


@EVERY_OPTION
def test_value_is_read_from_the_configuration_file(configuration_file: Any, option: str) -> None:
    configuration_file(f"{option} = 7.5")
    assert READERS[option]() == 7.5


@EVERY_OPTION
@pytest.mark.parametrize("value", ["", "  "])
def test_empty_value_means_the_default(configure: Any, option: str, value: str) -> None:
    configure(option, value)
    assert READERS[option]() == float(CONFIG_OPTIONS[option]["default"])


@EVERY_OPTION
@pytest.mark.parametrize(
    ("value", "shown"),
    [("ten", "'ten'"), ("10s", "'10s'"), ("5%", "'5%'"), ("0", "0.0"), ("-1", "-1.0"), ("nan", "nan"), ("inf", "inf")],
)
def test_invalid_value_is_rejected_with_section_option_and_value(
    configuration_file: Any, option: str, value: str, shown: str
) -> None:
    configuration_file(f"{option} = {value}")
    with pytest.raises(AirflowFailException) as rejected:
        READERS[option]()
    assert isinstance(rejected.value, ToAPIsRequestError)
    assert (rejected.value.field, rejected.value.value) == (f"[toapis] {option}", shown)


class TestOperators:
    @EVERY_OPERATOR
    @SECONDS
    def test_configured_value_is_the_default(
        self, operator_class: Any, arguments: dict[str, Any], configure: Any, option: str
    ) -> None:
        configure(option, "77")
        assert getattr(operator_class(task_id="video", **arguments), option) == 77.0

    @EVERY_OPERATOR
    @SECONDS
    def test_argument_overrides_configured_value(
        self, operator_class: Any, arguments: dict[str, Any], configure: Any, option: str
    ) -> None:
        configure(option, "77")
        assert getattr(operator_class(task_id="video", **arguments, **{option: 8}), option) == 8.0

    @SECONDS
    def test_default_args_override_configured_value(self, configure: Any, option: str) -> None:
        configure(option, "77")
        with DAG("videos", schedule=None, default_args={option: 8}):
            assert getattr(ToAPIsSubmitVideoOperator(task_id="video", prompt="A shoe"), option) == 8.0

    @EVERY_OPERATOR
    @SECONDS
    def test_invalid_value_breaks_the_dag_file_and_is_named(
        self, operator_class: Any, arguments: dict[str, Any], configure: Any, option: str
    ) -> None:
        configure(option, "soon")
        with rejects(f"[toapis] {option}", "soon") as rejected:
            operator_class(task_id="video", **arguments)
        assert isinstance(rejected.value, AirflowFailException)

    @EVERY_OPERATOR
    @SECONDS
    def test_invalid_value_is_ignored_by_a_task_with_own_argument(
        self, operator_class: Any, arguments: dict[str, Any], configure: Any, option: str
    ) -> None:
        configure(option, "soon")
        assert getattr(operator_class(task_id="video", **arguments, **{option: 8}), option) == 8.0

    @SECONDS
    def test_decorated_task_has_the_same_default(self, configure: Any, option: str) -> None:
        configure(option, "77")
        with DAG("videos", schedule=None):

            @task.toapis_video
            def video() -> str:
                return "A shoe"

            decorated: Any = video()

        assert getattr(decorated.operator, option) == 77.0

    @SECONDS
    def test_mapped_task_has_the_same_default(self, configure: Any, option: str) -> None:
        configure(option, "77")
        with DAG("videos", schedule=None):
            mapped: Any = ToAPIsSubmitVideoOperator.partial(task_id="video").expand(prompt=["A shoe", "A boot"])
        assert getattr(mapped.unmap({"prompt": "A shoe"}), option) == 77.0


class TestConnections:
    @RATES
    def test_configured_rate_is_the_default(self, settings: Any, configure: Any, option: str) -> None:
        configure(option, "3.5")
        assert getattr(settings(), option) == 3.5

    @RATES
    @pytest.mark.parametrize("empty", ["", None])
    def test_empty_connection_field_uses_the_configured_rate(
        self, settings: Any, configure: Any, option: str, empty: object
    ) -> None:
        configure(option, "3.5")
        assert getattr(settings(**{option: empty}), option) == 3.5

    @RATES
    def test_rate_of_the_connection_overrides_configured_rate(self, settings: Any, configure: Any, option: str) -> None:
        configure(option, "3.5")
        assert getattr(settings(**{option: 2}), option) == 2.0

    @RATES
    def test_invalid_rate_is_rejected_when_the_connection_is_read(
        self, settings: Any, configure: Any, option: str
    ) -> None:
        configure(option, "fast")
        with rejects(f"[toapis] {option}", "fast") as rejected:
            settings()
        assert isinstance(rejected.value, AirflowFailException)

    @RATES
    def test_invalid_rate_is_ignored_by_a_connection_with_own_rate(
        self, settings: Any, configure: Any, option: str
    ) -> None:
        configure(option, "fast")
        assert getattr(settings(**{option: 2}), option) == 2.0

    def test_configured_timeout_does_not_change_the_request_timeout(self, settings: Any, configure: Any) -> None:
        configure("timeout", "77")
        assert settings().timeout == 30.0
