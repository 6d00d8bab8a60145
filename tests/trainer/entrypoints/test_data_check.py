"""The dry run opens the data: problems with file and line, how many rows were checked, in limited time."""

import json
import threading

import datasets
import pytest

from skyrl_train.config.load_config import resolve_run
from skyrl_train.entrypoints import data_check
from skyrl_train.entrypoints.data_check import with_checked_data
from skyrl_train.entrypoints.dry_run import write_plan, write_plan_json
from skyrl_train.entrypoints.machine_plan import plan_machine
from skyrl_train.environments.load_environment import load_environment

GOOD = {"prompt": "1+1?", "ground_truth": "2"}


def lines(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def checked(*overrides):
    run = resolve_run(load_environment, overrides=["environment.name=gsm8k", "evaluation.prompts=0", *overrides])
    return with_checked_data(run)


def rules(run):
    return [str(problem) for problem in run.missing]


def test_each_faulty_row_is_a_problem_and_the_checked_rows_are_counted(tmp_path):
    rows = [GOOD, GOOD | {"ground_truth": "two"}, GOOD | {"prompt": "word " * 300}]
    run = checked(f"data.train={lines(tmp_path / 'rows.jsonl', *rows)}", "rollout.max_prompt_tokens=99")
    assert run.data == ("data.train: all 3 rows checked",)
    wrong, too_long = rules(run)
    machine = plan_machine(run, 1)
    assert "rows.jsonl:2: gsm8k: the ground truth 'two' is not a number" in wrong
    assert "rows.jsonl:3, column 'prompt': the prompt has" in too_long
    assert "data.train: all 3 rows checked" in write_plan(run, machine)
    assert json.loads(write_plan_json(run, machine))["data"] == list(run.data)


def test_rows_that_training_would_leave_out_are_listed_instead(tmp_path):
    path = lines(tmp_path / "rows.jsonl", GOOD, GOOD | {"ground_truth": "two"})
    run = checked(f"data.train={path}", "data.drop=invalid")
    assert run.missing == ()
    assert "1 of 2 rows left out by data.drop (1 invalid)" in run.data[1]
    assert "rows.jsonl:2" in run.data[1]


def test_a_huge_file_is_checked_only_for_a_limited_time(tmp_path, monkeypatch):
    monkeypatch.setattr(data_check, "SECONDS", 0.0)
    run = checked(f"data.train={lines(tmp_path / 'rows.jsonl', *[GOOD] * 1000)}")
    assert run.data == ("data.train: the first 1 row checked",)
    assert run.missing == ()


def test_a_hub_dataset_that_cannot_be_reached_is_named(monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    (problem,) = rules(checked("data.train=nobody/nothing"))
    assert "nobody/nothing" in problem
    assert "no network" in problem


def test_a_hub_that_never_responds_does_not_block_the_plan(monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: released.wait(60))
    monkeypatch.setattr(data_check, "SECONDS", 0.1)
    monkeypatch.setattr(data_check, "PATIENCE", 0.1)
    (problem,) = rules(checked("data.train=nobody/nothing"))
    released.set()
    assert "nobody/nothing did not respond within" in problem


@pytest.mark.parametrize(
    ("override", "key"),
    [("model=./nowhere", "model"), ("data.chat_template_args.thinking=true", "data.chat_template_args")],
)
def test_a_tokenizer_that_cannot_be_used_is_a_problem_of_its_option(tmp_path, override, key):
    run = checked(f"data.train={lines(tmp_path / 'rows.jsonl', GOOD)}", override)
    assert key in {problem.key for problem in run.missing}
    assert run.data == ("data.train: all 1 row checked, without the tokenizer",)
