"""No reward sees what another one changed, whatever the order, the batches and the number of workers."""

from functools import partial
from pathlib import Path

import pytest

from skyrl_train.environments.environment import Completion, Environment, EnvironmentParams, Row
from skyrl_train.environments.load_environment import load_environment
from skyrl_train.environments.reward_function import environment_of_function
from skyrl_train.rewards.plain_state import PlainState
from skyrl_train.rewards.scorer import Scorer

HERE = Path(__file__).parent
FILE = HERE / "polluting.py"
PROMPT = ({"role": "user", "content": "What is 2+3?"},)
ROW = Row(prompt=PROMPT, ground_truth="5", environment="polluting", extra={"tests": ["assert True"]})
COMPLETION = Completion(text="a", token_ids=(1, 2), finished=True)
ACTIONS = ("globals", "row", "functions", "environment", "state", "patches", "fails")


def items_of(*texts):
    return [(Completion(text=text, token_ids=(1, 2), finished=True), ROW) for text in texts]


def test_what_a_reward_changes_is_put_back_before_the_next():
    items = items_of("look", *(text for action in ACTIONS for text in (action, "look")))
    environment = load_environment(f"{FILE}:reward")
    with Scorer({"polluting": environment}) as scorer:
        scores = scorer.score(items)
        assert scores[-2].error.startswith("ValueError: after changes")
        first, *rest = [score.reward for score in scores[::2]]
        assert dict(zip(ACTIONS, rest, strict=True)) == dict.fromkeys(ACTIONS, first)
        one_at_a_time = [scorer.score([item])[0] for item in items]
        assert [score.reward for score in one_at_a_time] == [score.reward for score in scores]
        assert {score.reward for score in scorer.score(items[::-1])} == {first, 0.0, None}
    with Scorer({"polluting": environment}, workers=3) as scorer:
        assert [score.reward for score in scorer.score(items)] == [score.reward for score in scores]


@pytest.mark.parametrize("by_value", [False, True])
def test_a_model_that_a_reward_loads_stays_and_its_counters_do_not(by_value):
    environment = load_environment(f"{FILE}:stores_a_model")
    if by_value:  # as a function of a notebook is sent
        notebook = {"__name__": "__main__"}
        exec(compile(FILE.read_text(), "notebook", "exec"), notebook)
        environment = environment_of_function(notebook["stores_a_model"])
    with Scorer({"polluting": environment}) as scorer:
        scores = scorer.score(items_of("a", "b", "c", "d"))
    assert [score.parts["calls of the model"] for score in scores] == [1, 2, 3, 4]
    # The call that loads the model prepares the worker, so what it leaves is what the others find.
    assert [score.parts["count"] for score in scores] == [1, 2, 2, 2]


class CountingParams(EnvironmentParams):
    options: dict[str, int] = {"calls": 0}


class Counting(Environment):
    """Counts its rewards in every place that an instance has."""

    name = "counting"
    of_class = 0
    words: list[str] = []

    def __init__(self):
        super().__init__(CountingParams(options={"calls": 0}))
        self.calls, self.answers = 0, {"seen": []}

    def reward(self, completion, row):
        self.calls += 1
        self.answers["seen"].append(completion.text)
        self.words.append("a")
        self.params.options["calls"] += 1
        type(self).of_class += 1
        self.new = 1
        return float(
            self.calls + len(self.answers["seen"]) + len(self.words) + self.params.options["calls"] + self.of_class
        )

    def __call__(self, completion, row, *, extra=None):
        (extra or []).append("a")
        return self.reward(completion, row) + len(extra or ())


def counted():
    calls, rewards = 0, []

    def function(completion, row):
        nonlocal calls
        calls += 1
        rewards.append(1.0)
        return float(calls + len(rewards))

    return function


@pytest.mark.parametrize(
    "environment",
    [
        Counting(),
        environment_of_function(Counting()),
        environment_of_function(Counting().reward),
        environment_of_function(partial(Counting(), extra=["first"])),
        environment_of_function(counted()),
    ],
    ids=["environment", "callable object", "bound method", "partial", "closure"],
)
def test_plain_data_of_every_kind_of_reward_is_put_back(environment):
    state = PlainState([environment])
    first = environment.reward(COMPLETION, ROW)
    assert environment.reward(COMPLETION, ROW) != first
    state.restore()
    assert environment.reward(COMPLETION, ROW) == first
    state.restore()


def test_a_table_is_not_copied_and_other_names_of_a_list_see_it_restored():
    environment = Counting()
    environment.table, alias = {number: number for number in range(5000)}, environment.answers["seen"]
    table, seen = environment.table, environment.answers
    state = PlainState([environment])
    environment.reward(COMPLETION, ROW)
    state.restore()
    assert environment.table is table
    assert environment.answers is seen
    assert environment.answers == {"seen": []}
    assert alias == ["a"]  # of the nested list, not of the attribute
