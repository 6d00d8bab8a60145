"""Every numeric option has bounds: what is beyond them is a problem with a rule, never an error inside a library."""

import pytest

from skyrl_train.config.options import all_options
from skyrl_train.config.schema import RunConfig
from skyrl_train.config.validation import validate

NUMERIC = [option.key for option in all_options() if option.type.startswith(("integer", "number", "list of 2 numbers"))]
COMPARED_ONLY = ("environment.solved_at",)


def faults(key, value):
    values = value
    for name in reversed(key.split(".")):
        values = {name: values}
    config, found = validate(values)
    assert isinstance(config, RunConfig)
    return [(".".join(fault.keys), fault.rule) for fault in found]


@pytest.mark.parametrize("key", [key for key in NUMERIC if key not in COMPARED_ONLY])
def test_no_numeric_option_takes_an_absurd_value(key):
    pair = key.endswith("betas")
    for value in (10**30, 10**400, -1, -(10**30)):
        ((faulty, rule),) = faults(key, [value, value] if pair else value)
        assert faulty == key
        assert rule.startswith("must be "), (value, rule)


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("seed", 2**64, "must be <= 9223372036854775807"),
        ("seed", 2**63, "must be <= 9223372036854775807"),
        ("trainer.optimizer.learning_rate", 1e30, "must be <= 1"),
        (
            "trainer.optimizer.learning_rate",
            {"schedule": "linear", "start": 1, "end": 5, "steps": 9},
            "must be <= 1, but",
        ),
        ("rollout.temperature", 1e-30, "must be >= 0.01"),
        ("rollout.temperature", {"schedule": "constant", "value": 1e9}, "must be <= 100, but"),
        ("trainer.optimizer.max_grad_norm", 1e-30, "must be >= 0.000001"),
        ("trainer.algorithm.off_policy.low", 1e300, "must be <= 1000000"),
        ("environment.weights", {"style": 1e308}, "must be <= 1000000"),
    ],
)
def test_a_bound_is_named(key, value, rule):
    found = faults(key, value)
    assert found[0][0] == key
    assert found[0][1].startswith(rule)


def test_the_largest_seed_survives_the_steps_of_a_resumed_run():
    import torch

    assert faults("seed", 2**63 - 1) == []
    torch.Generator().manual_seed(2**63 - 1 + 10**9)
