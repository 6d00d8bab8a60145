"""Numbers or schedules in the configuration."""

import pytest

from skyrl_train.config.number import describe_number, highest
from skyrl_train.config.schema import RunConfig
from skyrl_train.config.validation import validate

FALLING = {"schedule": "linear", "start": 0.1, "end": 0.0, "steps": 10}


def algorithm(**values: object) -> dict[str, object]:
    return {"trainer": {"algorithm": values}}


def test_a_number_in_text_is_refused() -> None:
    _, [fault] = validate(algorithm(kl_coef="1e-2"))
    assert fault.rule == "must be a number"


def test_a_schedule_is_read_and_written_unchanged() -> None:
    config, faults = validate(algorithm(kl_coef=FALLING))
    assert faults == []
    assert config.trainer.algorithm.kl_coef.at(5) == pytest.approx(0.05)
    written = config.model_dump(mode="json")
    assert written["trainer"]["algorithm"]["kl_coef"] == FALLING
    assert RunConfig.model_validate(written) == config


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (-1, "must be >= 0"),
        (True, "must be a number"),
        ("x", "must be a number"),
        (FALLING | {"start": 5, "end": -0.1}, "must be >= 0, but its schedule is -0.1 at step 10"),
        (FALLING | {"schedule": "cosin"}, "no schedule is named 'cosin'; did you mean 'cosine'?"),
        (FALLING | {"stop": 1}, "is not a valid schedule: stop: unknown parameter"),
    ],
)
def test_an_invalid_value_is_one_fault_of_the_option(value: object, rule: str) -> None:
    _, [fault] = validate(algorithm(kl_coef=value))
    assert fault.keys == ("trainer", "algorithm", "kl_coef")
    assert rule in fault.rule


def test_bounds_hold_at_every_knot() -> None:
    points = {"schedule": "piecewise", "points": [[0, 0.5], [10, -1.0], [20, 0.5]]}
    _, [fault] = validate({"rollout": {"temperature": points}})
    assert "at step 10" in fault.rule


def test_the_highest_value_of_a_schedule_is_known() -> None:
    config, _ = validate(algorithm(kl_coef=FALLING | {"start": 0.0, "end": 0.3}))
    assert highest(config.trainer.algorithm.kl_coef) == 0.3
    assert highest(0.2) == 0.2


def test_a_number_and_a_schedule_are_described() -> None:
    config, _ = validate(algorithm(kl_coef=FALLING))
    assert describe_number(config.trainer.algorithm.kl_coef) == "0.1 to 0 in 10 optimizer steps (linear)"
    assert describe_number(0.02) == "0.02"
