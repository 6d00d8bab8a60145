"""Rewards as plain functions, computed by real reward workers."""

import subprocess
import sys
import time

import pytest

from skyrl_core.errors import InvalidParamsError, PluginLoadError, UnknownPluginError
from skyrl_train.config.schema import RunConfig
from skyrl_train.environments.environment import Completion, Row
from skyrl_train.environments.load_environment import load_environment, load_environments
from skyrl_train.environments.reward_function import environment_of_function
from skyrl_train.rewards.reward_result import Score
from skyrl_train.rewards.scorer import Scorer

FILE = """
import asyncio, os, time

def length(completion, row):
    return len(completion.text) - float(row.ground_truth)

async def judge(completion, row):
    if completion.text == "block":
        time.sleep(60)
    if completion.text == "raise":
        raise KeyError("no verdict here")
    if completion.text == "crash":
        os._exit(3)
    await asyncio.sleep(60 if completion.text == "hang" else 1)
    return None if completion.text == "none" else {"judge": 1.0}

def one(completion):
    return 1.0

number = 3
"""


def item(text):
    row = Row(prompt=({"role": "user", "content": "?"},), ground_truth="2", environment="mine")
    return Completion(text=text, token_ids=(), finished=True), row


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("place", ["my_rewards.py", "my_rewards", "{folder}/my_rewards.py"])
def test_a_function_is_named_by_file_or_module_and_runs_in_a_worker(place, folder):
    environment = load_environment(f"{place.format(folder=folder)}:length")
    assert not environment.generates_problems
    with Scorer({"mine": environment}) as scorer:
        assert scorer.score([item("abc")]) == [Score(reward=1.0)]


@pytest.mark.parametrize("place", ["leaving.py", "leaving"])
def test_a_file_that_exits_at_import_is_an_error(place, folder):
    (folder / "leaving.py").write_text("import sys\nsys.exit(0)\ndef length(completion, row): return 1.0\n")
    with pytest.raises(PluginLoadError, match=r"leaving.* cannot be imported: SystemExit: 0\n  at .*leaving\.py:2"):
        load_environment(f"{place}:length")


def test_an_installed_module_is_imported():
    environment = load_environment("math:dist")
    assert environment.function([0.0], [2.0]) == 2.0


@pytest.mark.parametrize(
    ("reference", "kind", "message"),
    [
        ("my_rewards.py:lenght", UnknownPluginError, "has no function 'lenght'; did you mean .*:length"),
        ("missing.py:reward", UnknownPluginError, "missing.py: no such file"),
        ("missing.part:reward", UnknownPluginError, "no module 'missing.part' can be imported"),
        ("missing:reward", UnknownPluginError, "no environment is named 'missing'"),
        ("my_rewards.py:one", PluginLoadError, r"cannot be called with \(completion, row\): too many positional"),
        ("my_rewards.py:number", PluginLoadError, r"is int, not a function"),
    ],
)
def test_a_wrong_reference_is_an_error_that_says_why(reference, kind, message, folder):
    with pytest.raises(kind, match=message):
        load_environment(reference)


def test_a_function_takes_no_parameters(folder):
    with pytest.raises(InvalidParamsError) as caught:
        load_environment("my_rewards.py:length", {"level": 1})
    assert caught.value.problems[0].rule == "a reward function takes no parameters"


@pytest.mark.parametrize("reference", ["my_rewards.py:length", "my_rewards:length"])
def test_data_may_not_name_code_to_import(reference, folder):
    config = RunConfig()
    with pytest.raises(UnknownPluginError, match="cannot be used"):
        load_environments(config, load_environment("my_rewards.py:length"), [reference])


def test_256_awaited_rewards_of_a_second_take_at_most_three_more(folder):
    with Scorer({"mine": load_environment("my_rewards.py:judge")}) as scorer:
        started = time.monotonic()
        scores = scorer.score([item("none"), *[item(str(number)) for number in range(255)]])
        seconds = time.monotonic() - started
    assert scores == [Score(), *[Score(reward=1.0, parts={"judge": 1.0})] * 255]
    assert seconds < 1 + 3


def test_an_awaited_reward_that_hangs_or_raises_affects_only_its_sample(folder):
    with Scorer({"mine": load_environment("my_rewards.py:judge")}, deadline=2.0) as scorer:
        good, hung, raised, none = scorer.score([item(text) for text in ("good", "hang", "raise", "none")])
        assert (good.reward, none) == (1.0, Score())
        assert hung.error.startswith("TimeoutError: mine reward took longer than 2 s")
        assert raised.error.startswith("KeyError")
        assert "my_rewards.py:" in raised.error
        crashed = scorer.score([item("crash")])[0]
        assert crashed.error.startswith("ChildProcessError: mine reward ended its worker process")
        assert scorer.score([item("good")])[0].reward == 1.0


def test_an_awaited_reward_that_blocks_or_ends_its_process_does_not_fail_those_that_wait(folder):
    with Scorer({"mine": load_environment("my_rewards.py:judge")}, deadline=2.0) as scorer:
        scores = scorer.score([item(text) for text in ("a", "block", "b", "crash", "c")])
    assert [score.reward for score in scores] == [1.0, None, 1.0, None, 1.0]
    assert scores[1].error.startswith(
        "TimeoutError: mine reward took longer than 2 s: an async reward blocks the event"
    )
    assert scores[3].error.startswith("ChildProcessError: mine reward ended its worker process with exit code 3")


def test_a_callable_of_this_process_reaches_the_workers_with_what_it_closes_over():
    bonus = 5.0
    environment = environment_of_function(lambda completion, row: len(completion.text) + bonus)
    environment.solved_at = 7.0
    with Scorer({"mine": environment}) as scorer:
        assert scorer.score([item("ab"), item("a")]) == [
            Score(reward=7.0, solved=True),
            Score(reward=6.0, solved=False),
        ]


def test_a_function_defined_at_a_prompt_reaches_the_workers():
    code = """
from skyrl_train import Completion, Row, Scorer, environment_of_function

def reward(completion, row):
    return float(len(completion.text))

row = Row(prompt=({"role": "user", "content": "?"},), ground_truth="", environment="mine")
with Scorer({"mine": environment_of_function(reward)}) as scorer:
    print(scorer.score([(Completion(text="abc", token_ids=(), finished=True), row)])[0].reward)
"""
    result = subprocess.run([sys.executable, "-"], input=code, capture_output=True, text=True, timeout=60, check=False)
    assert result.stdout == "3.0\n", result.stderr


def test_a_callable_that_takes_no_row_is_refused():
    with pytest.raises(PluginLoadError, match="reward function <lambda> cannot be called"):
        environment_of_function(lambda completion: 1.0)
