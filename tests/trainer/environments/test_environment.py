import dataclasses
import subprocess
import sys

import pytest
from pydantic import Field, ValidationError

from skyrl_train.environments.environment import EnvironmentParams, Row

ROW = Row(prompt=({"role": "user", "content": "What is 2+3?"},), ground_truth="5", environment="arithmetic")


def test_the_uid_is_the_same_in_another_process():
    code = (
        "from skyrl_train.environments.environment import Row\n"
        "prompt = ({'content': 'What is 2+3?', 'role': 'user'},)\n"
        "print(Row(prompt=prompt, ground_truth='5', environment='arithmetic').uid)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ROW.uid
    assert len(ROW.uid) == 12


@pytest.mark.parametrize(
    "change",
    [
        {"ground_truth": "6"},
        {"environment": "gsm8k"},
        {"prompt": ({"role": "system", "content": "What is 2+3?"},)},
    ],
)
def test_another_problem_has_another_uid(change):
    assert dataclasses.replace(ROW, **change).uid != ROW.uid


def test_other_columns_do_not_change_the_uid():
    assert dataclasses.replace(ROW, extra={"source": object()}).uid == ROW.uid


def test_the_label_shows_the_start_of_the_question_on_one_line():
    long = dataclasses.replace(ROW, prompt=({"role": "user", "content": "a\n b" * 50},))
    assert ROW.label == f'{ROW.uid} "What is 2+3?"'
    assert long.label.endswith('…"')
    assert "\n" not in long.label
    assert len(long.label) < 70


@pytest.mark.parametrize("values", [{"lenght": 1}, {"length": float("nan")}, {"length": float("inf")}])
def test_params_reject_unknown_keys_infinities_and_nan(values):
    class Params(EnvironmentParams):
        length: float = Field(default=1.0)

    with pytest.raises(ValidationError):
        Params.model_validate(values)
