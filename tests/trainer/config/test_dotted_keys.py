"""Dotted keys in a file mean nested sections, and contradictions are errors with both lines."""

import pytest

from skyrl_core.errors import InvalidParamsError
from skyrl_train.config.sources import read_sources


def sources_of(folder, text):
    file = folder / "run.yaml"
    file.write_text(text)
    return read_sources([file], [])


def test_dotted_keys_are_nested_and_keep_their_lines(tmp_path):
    sources = sources_of(
        tmp_path,
        "model: tiny\n"
        "trainer.algorithm.policy_loss_type: entropy_reg\n"
        "trainer.algorithm.entropy_reg.entropy_coef: 0.02\n"
        "trainer:\n"
        "  optimizer.learning_rate: 1e-5\n"
        "  steps: 3\n"
        "  algorithm:\n"
        "    entropy_reg: {clip_low: 0.1}\n"
        "    off_policy.weight: token\n",
    )
    assert sources.values == {
        "model": "tiny",
        "trainer": {
            "algorithm": {
                "policy_loss_type": "entropy_reg",
                "entropy_reg": {"entropy_coef": 0.02, "clip_low": 0.1},
                "off_policy": {"weight": "token"},
            },
            "optimizer": {"learning_rate": 1e-5},
            "steps": 3,
        },
    }
    file = tmp_path / "run.yaml"
    assert sources.origin(("trainer", "algorithm", "policy_loss_type")) == f"{file}:2"
    assert sources.origin(("trainer", "algorithm", "entropy_reg", "entropy_coef")) == f"{file}:3"
    assert sources.origin(("trainer", "optimizer", "learning_rate")) == f"{file}:5"
    assert sources.origin(("trainer", "algorithm", "entropy_reg", "clip_low")) == f"{file}:8"


def test_a_dot_inside_a_value_is_no_section(tmp_path):
    text = "environment:\n  params:\n    a.b: 1\nunknown.key: 2\n.x: 3\n"
    values = sources_of(tmp_path, text).values
    assert values == {"environment": {"params": {"a.b": 1}}, "unknown": {"key": 2}, ".x": 3}


@pytest.mark.parametrize("text", ["trainer:\ntrainer.steps: 3\n", "trainer.steps: 3\ntrainer:\n"])
def test_an_empty_section_does_not_contradict_a_dotted_key(tmp_path, text):
    assert sources_of(tmp_path, text).values == {"trainer": {"steps": 3}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainer.steps: 3\ntrainer:\n  steps: 4\n", "run.yaml:3: trainer.steps is given twice; remove one (line 1)"),
        ("trainer:\n  steps: 4\ntrainer.steps: 4\n", "run.yaml:3: trainer.steps is given twice; remove one (line 2)"),
        (
            "trainer: 5\ntrainer.steps: 4\n",
            "trainer is a value, so it cannot have options below it (line 1)",
        ),
        ("trainer.steps: 4\ntrainer: 5\n", "run.yaml:2: trainer is given twice; remove one (line 1)"),
    ],
)
def test_a_dotted_key_that_contradicts_a_nested_one_is_an_error_with_both_lines(tmp_path, text, message):
    with pytest.raises(InvalidParamsError) as caught:
        sources_of(tmp_path, text)
    assert str(caught.value).endswith(message)
