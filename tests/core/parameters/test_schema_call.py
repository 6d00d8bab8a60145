"""A parameter schema may run a plugin's code in many places; each failure names the plugin."""

import sys
from collections.abc import Callable

import pytest
from pydantic import Field, field_serializer, field_validator, model_validator

from skyrl_core.errors import InvalidParamsError, PluginError
from skyrl_core.parameters.loss_params import LossParams
from skyrl_core.parameters.param_validation import validate_params
from skyrl_core.parameters.parameter_plan import ParamPlan
from skyrl_core.parameters.schema_call import as_json_values, json_schema


class Mute(ValueError):
    def __str__(self):
        raise KeyError


def leave():
    sys.exit(0)


def fail():
    raise RuntimeError("a bug")


def say_nothing():
    raise Mute


def run_out():
    raise MemoryError


FAILURES = {leave: "SystemExit: 0", fail: "RuntimeError: a bug", say_nothing: "KeyError", run_out: "MemoryError"}


class Validator(LossParams):
    act: str = ""

    @field_validator("act")
    @classmethod
    def _check(cls, value):
        next(each for each in FAILURES if each.__name__ == value)()


@pytest.mark.parametrize(("act", "reason"), FAILURES.items(), ids=lambda part: getattr(part, "__name__", part))
def test_a_validator_that_raises_anything_but_a_value_error_names_the_plugin(act, reason):
    with pytest.raises(PluginError) as caught:
        validate_params(Validator, {"act": act.__name__}, "policy loss 'foo' (foo-dist 1.0)")
    first, place, *_ = str(caught.value).splitlines()
    assert first == f"policy loss 'foo' (foo-dist 1.0) could not validate its parameters: {reason}"
    assert "test_schema_call.py:" in place
    assert caught.value.exit_code == 5


def test_a_validator_may_be_interrupted():
    class Slow(LossParams):
        @model_validator(mode="before")
        @classmethod
        def _check(cls, values):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        validate_params(Slow, {}, "policy loss 'foo'")


def test_a_validator_that_returns_no_parameters_is_named():
    class Lost(LossParams):
        @model_validator(mode="wrap")
        @classmethod
        def _check(cls, values, handler):
            return None

    with pytest.raises(PluginError, match="returned NoneType instead of the parameters"):
        validate_params(Lost, {}, "policy loss 'foo'")


def test_a_validator_that_fails_at_a_later_knot_of_a_schedule_names_the_plugin():
    class Late(LossParams):
        coef: float = 1.0

        @field_validator("coef")
        @classmethod
        def _check(cls, value):
            return value if value else 1 / value

    falling = {"schedule": "linear", "start": 1.0, "end": 0.0, "steps": 4}
    with pytest.raises(PluginError, match=r"policy loss 'foo' could not .*: ZeroDivisionError"):
        ParamPlan(Late, {"coef": falling}, "policy loss 'foo'")


def test_a_long_message_of_a_validator_is_cut():
    class Verbose(LossParams):
        coef: float = 1.0

        @field_validator("coef")
        @classmethod
        def _check(cls, value):
            raise ValueError("x" * 1_000_000)

    with pytest.raises(InvalidParamsError) as caught:
        validate_params(Verbose, {"coef": 1}, "policy loss 'foo'")
    assert len(str(caught.value)) < 3000


def test_a_default_that_fails_names_the_plugin():
    class Unlucky(LossParams):
        coef: float = Field(default_factory=leave)

    with pytest.raises(PluginError, match="policy loss 'foo' could not validate its parameters: SystemExit: 0"):
        validate_params(Unlucky, {}, "policy loss 'foo'")


def test_a_serializer_that_fails_names_the_schema():
    class Closed(LossParams):
        coef: float = 1.0

        @field_serializer("coef")
        def _write(self, value):
            leave()

    with pytest.raises(PluginError, match=r"test_schema_call:.*Closed could not be written as JSON: (?s:.*)SystemExit"):
        as_json_values(Closed())


def test_a_schema_without_a_document_names_itself():
    class Callback(LossParams):
        act: Callable[[], int] = leave

    with pytest.raises(PluginError, match=r"test_schema_call:.*Callback has no JSON Schema: PydanticInvalid"):
        json_schema(Callback)
