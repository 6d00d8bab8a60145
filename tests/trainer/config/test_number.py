"""Numbers of the configuration that may be schedules."""

import pytest

from skyrl_train.config.number import highest, spoken
from skyrl_train.config.schema import RunConfig
from skyrl_train.config.validation import validate

FALLING = {"schedule": "linear", "start": 0.1, "end": 0.0, "steps": 10}


def algorithm(**values: object) -> dict[str, object]:
    return {"trainer": {"algorithm": values}}


def test_a_plain_number_is_one() -> None:
    config, faults = validate(algorithm(kl_coef="1e-2"))
    assert (config.trainer.algorithm.kl_coef, faults) == (0.01, [])


def test_a_schedule_is_read_and_written_as_it_was_given() -> None:
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
        (True, "must not be true or false"),
        ("x", "must be a number"),
        (FALLING | {"start": 5, "end": -0.1}, "must be >= 0 at step 10 of its schedule, there -0.1"),
        (FALLING | {"schedule": "cosin"}, "no schedule is named 'cosin'; did you mean 'cosine'?"),
        (FALLING | {"stop": 1}, "is not a valid schedule: stop: unknown parameter"),
    ],
)
def test_what_does_not_fit_is_one_fault_at_the_option(value: object, rule: str) -> None:
    _, [fault] = validate(algorithm(kl_coef=value))
    assert fault.keys == ("trainer", "algorithm", "kl_coef")
    assert rule in fault.rule


def test_bounds_hold_at_every_knot() -> None:
    points = {"schedule": "piecewise", "points": [[0, 0.5], [10, -1.0], [20, 0.5]]}
    _, [fault] = validate({"rollout": {"temperature": points}})
    assert "at step" in fault.rule


def test_the_largest_number_decides_what_has_to_be_loaded() -> None:
    config, _ = validate(algorithm(kl_coef=FALLING | {"start": 0.0, "end": 0.3}))
    assert highest(config.trainer.algorithm.kl_coef) == 0.3
    assert highest(0.2) == 0.2


def test_in_words() -> None:
    config, _ = validate(algorithm(kl_coef=FALLING))
    assert spoken(config.trainer.algorithm.kl_coef) == "0.1 to 0 in 10 optimizer steps (linear)"
    assert spoken(0.02) == "0.02"
