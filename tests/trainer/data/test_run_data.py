"""Rows of several sources, checked by environment and tokenizer, and left out on request; the same on all ranks."""

import json
import sys

import datasets
import pytest
from pydantic import ValidationError

from skyrl_train.config.schema import RunConfig
from skyrl_train.data.row_problem import DataError
from skyrl_train.data.run_data import load_run_data
from skyrl_train.environments.gsm8k import Gsm8k
from skyrl_train.environments.load_environment import load_environment

GOOD = {"prompt": "1+1?", "ground_truth": "2"}
LONG = {"prompt": "many words " * 60, "ground_truth": "2"}
WRONG = {"prompt": "1+1?", "ground_truth": "two"}


def lines(path, *records):
    path.write_text("".join(f"{record if isinstance(record, str) else json.dumps(record)}\n" for record in records))
    return str(path)


def load(data, tokenizer=None, workers=None, **options):
    values = {"data": data, "environment": {"name": "gsm8k"}, "evaluation": {"prompts": 0}}
    config = RunConfig.model_validate(values | {"rollout": {"max_prompt_tokens": 50}} | options)
    return load_run_data(config, load_environment("gsm8k"), tokenizer, workers)


def test_generated_problems_that_do_not_fit_the_model_are_an_error_before_training(tokenizer):
    config = RunConfig.model_validate({"rollout": {"max_new_tokens": 1020}})  # of 1024 positions
    with pytest.raises(
        DataError, match=r"row \w+ \".* has \d+ tokens, and with rollout.max_new_tokens = 1020 more than"
    ):
        load_run_data(config, load_environment("arithmetic"), tokenizer)


def answers(source):
    return [row.ground_truth for row in source.take(0, source.size)]


def numbered(*numbers):
    return [{"prompt": "?", "ground_truth": number} for number in numbers]


def test_lists_patterns_and_formats_are_read_in_the_order_of_list_and_path(tmp_path):
    lines(tmp_path / "part-2.jsonl", *numbered(4))
    lines(tmp_path / "part-10.jsonl", *numbered(2, 3))
    datasets.Dataset.from_list(numbered(1)).to_parquet(tmp_path / "z.parquet")
    sources = [str(tmp_path / "z.parquet"), str(tmp_path / "part-*.jsonl"), str(tmp_path / "part-2.jsonl")]
    data = load({"train": sources, "shuffle": False})
    assert answers(data.train) == ["1", "2", "3", "4", "4"]
    assert data.train.take(1, 1)[0].place == f"{tmp_path}/part-10.jsonl:1"


def test_one_file_in_a_list_has_the_order_of_the_file_only_so_old_checkpoints_keep_their_place(tmp_path):
    path = lines(tmp_path / "rows.jsonl", *numbered(*range(30)))
    assert answers(load({"train": path}).train) == answers(load({"train": [path]}).train)


def test_a_pattern_without_a_match_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"x\*\.jsonl matches no file"):
        load({"train": str(tmp_path / "x*.jsonl")})


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"reward_model": {"ground_truth": 7}}, "7"),
        ({"reward_model.ground_truth": 8, "reward_model": {"ground_truth": 7}}, "8"),
        ({"reward_model": {"style": "rule"}, "reward_model.x": 1}, None),
    ],
)
def test_a_dotted_column_is_a_nested_value_unless_a_column_has_this_name(tmp_path, record, expected):
    path = lines(tmp_path / "rows.jsonl", {"prompt": "?"} | record)
    options = {"train": path, "ground_truth_column": "reward_model.ground_truth"}
    if expected is None:
        with pytest.raises(DataError, match=r"no column 'reward_model\.ground_truth'.*'reward_model\.style'"):
            load(options)
    else:
        row = load(options).train.take(0, 1)[0]
        assert (row.ground_truth, row.extra["reward_model"]) == (expected, {"ground_truth": 7})


def test_a_number_in_a_column_name_is_an_item_of_a_list(tmp_path):
    path = lines(tmp_path / "rows.jsonl", {"prompt": "?", "answers": [{"value": 3}, {"value": 5}]})
    assert answers(load({"train": path, "ground_truth_column": "answers.1.value"}).train) == ["5"]


def test_a_system_prompt_is_added_where_there_is_none(tmp_path):
    chat = [{"role": "system", "content": "Be long."}, {"role": "user", "content": "?"}]
    path = lines(tmp_path / "rows.jsonl", GOOD, {"prompt": chat, "ground_truth": "1"})
    first, second = load({"train": path, "system_prompt": "Be brief.", "shuffle": False}).train.take(0, 2)
    assert first.prompt == ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"})
    assert second.prompt == tuple(chat)


def test_all_faulty_rows_of_all_sets_are_in_one_error(tmp_path, tokenizer):
    train = lines(tmp_path / "train.jsonl", GOOD, LONG, WRONG, "{", {"prompt": "?"})
    held_out = lines(tmp_path / "held_out.jsonl", *[WRONG] * 23)
    with pytest.raises(DataError) as caught:
        load({"train": train, "evaluation": {"m": held_out}}, tokenizer, evaluation={"prompts": 4})
    text = str(caught.value)
    assert "4 of 5 rows of data.train" in text
    assert "train.jsonl:2, column 'prompt': the prompt has" in text
    assert "train.jsonl:3: gsm8k: the ground truth 'two' is not a number" in text
    assert "(column 'ground_truth')" in text
    assert "train.jsonl:4 is not JSON" in text
    assert "train.jsonl:5 has no column 'ground_truth'" in text
    assert "23 of 23 rows of data.evaluation.m" in text
    assert "and 3 more" in text
    assert "data.drop=[invalid,too_long]" in text


def test_rows_are_left_out_only_for_the_given_reasons_and_counted(tmp_path, tokenizer):
    train = lines(tmp_path / "train.jsonl", GOOD, LONG, WRONG, "{")
    data = load({"train": train, "drop": ["too_long", "invalid"]}, tokenizer)
    assert answers(data.train) == ["2"]
    (note,) = data.notes
    assert "3 of 4 rows left out by data.drop (1 too_long, 2 invalid)" in note
    assert all(f"train.jsonl:{line}" in note for line in (2, 3, 4))
    with pytest.raises(DataError, match=r"1 of 4 rows .*\n.*train\.jsonl:2, "):
        load({"train": train, "drop": "invalid"}, tokenizer)


def test_leaving_out_all_rows_is_an_error(tmp_path):
    with pytest.raises(DataError, match="1 of 1 row of data"):
        load({"train": lines(tmp_path / "train.jsonl", WRONG), "drop": "invalid"})


def test_all_ranks_leave_out_the_same_rows_and_each_row_is_checked_once(tmp_path, on_ranks, monkeypatch):
    checked = []
    original = Gsm8k.check_row
    monkeypatch.setattr(Gsm8k, "check_row", lambda self, row: checked.append(row.place) or original(self, row))
    records = [GOOD | {"ground_truth": "x" if number % 3 == 0 else str(number)} for number in range(20)]
    train = lines(tmp_path / "train.jsonl", *records)
    data = {"train": train, "drop": "invalid", "shuffle": False}
    results = on_ranks(3, lambda ranks: load(data, None, ranks))
    assert sorted(checked) == sorted(f"{train}:{line}" for line in range(1, 21))
    for result in results:
        assert answers(result.train) == [str(number) for number in range(20) if number % 3]
        assert result.notes == results[0].notes


def test_a_check_that_raises_is_reported_with_its_row(tmp_path, monkeypatch):
    path = lines(tmp_path / "train.jsonl", GOOD)
    for check, reason in ((lambda *_: sys.exit(0), "SystemExit: 0"), (lambda *_: True, "TypeError: it returned bool")):
        monkeypatch.setattr(Gsm8k, "check_row", check)
        with pytest.raises(DataError, match=rf"train\.jsonl:1: gsm8k: check_row raised {reason}"):
            load({"train": path})


def test_a_template_argument_that_the_template_does_not_read_is_an_error(tmp_path, tokenizer):
    path = lines(tmp_path / "train.jsonl", GOOD)
    with pytest.raises(DataError, match=r"data\.chat_template_args\.enable_thinking has no effect"):
        load({"train": path, "chat_template_args": {"enable_thinking": False}}, tokenizer)


def test_template_arguments_reach_the_chat_template(tmp_path, tokenizer, monkeypatch):
    path = lines(tmp_path / "train.jsonl", GOOD)
    monkeypatch.setattr(
        tokenizer, "chat_template", "{% if long %}{{ 'word ' * 200 }}{% endif %}{{ messages[0].content }}"
    )
    load({"train": path, "chat_template_args": {"long": False}}, tokenizer)
    with pytest.raises(DataError, match="the prompt has"):
        load({"train": path, "chat_template_args": {"long": True}}, tokenizer)


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        ({"evaluation": {"reward": "a.jsonl"}}, "cannot be named reward"),
        ({"evaluation": {"a/b": "a.jsonl"}}, "letters, digits"),
        ({"evaluation": {}}, "at least one"),
        ({"train": []}, "at least 1"),
        ({"chat_template_args": {"tokenize": False}}, "cannot be set"),
        ({"drop": ["long"]}, "too_long"),
    ],
)
def test_invalid_options_are_refused(data, rule):
    with pytest.raises(ValidationError, match=rule):
        RunConfig.model_validate({"data": data})
