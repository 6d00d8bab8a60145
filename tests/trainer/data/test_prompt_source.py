import dataclasses
import hashlib
import itertools
import json
import random
import sys
import time

import pytest

from skyrl_core.errors import PluginError, SkyrlError
from skyrl_train.config.schema import EvaluationConfig, RunConfig
from skyrl_train.data.prompt_source import GeneratedRows, LoadedRows
from skyrl_train.data.row_problem import DataError
from skyrl_train.data.run_data import load_run_data
from skyrl_train.environments.environment import Row
from skyrl_train.environments.load_environment import load_environment


def row(number, environment="gsm8k"):
    return Row(prompt=({"role": "user", "content": str(number)},), ground_truth=str(number), environment=environment)


def build_source(config, split):
    if split == "train":
        config = config.model_copy(update={"evaluation": EvaluationConfig(prompts=0)})
    environment = load_environment(config.environment.name, config.environment.params)
    data = load_run_data(config, environment, None, trains=split == "train")
    return data.train or data.evaluation[""]


def numbers(rows):
    return [int(row.ground_truth) for row in rows]


def loaded(count=10, *, seed=0, shuffle=True):
    return LoadedRows([row(number) for number in range(count)], seed=seed, shuffle=shuffle)


def generated(started=None):
    def generate():
        if started is not None:
            started.append(True)
        return map(row, itertools.count())

    return GeneratedRows(generate, "gsm8k")


@pytest.mark.parametrize("source", [loaded(), loaded(shuffle=False), generated()])
def test_rows_are_a_function_of_the_position(source):
    rows = source.take(0, 35)
    for position, count in [(30, 5), (0, 3), (7, 20), (9, 2), (12, 0)]:
        assert source.take(position, count) == rows[position : position + count]


def test_every_epoch_has_each_row_once_in_a_different_order():
    epochs = [numbers(loaded().take(10 * epoch, 10)) for epoch in range(5)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5


def test_the_order_depends_on_the_seed():
    assert loaded(seed=1).take(0, 10) != loaded(seed=2).take(0, 10)


def fisher_yates(count, text):
    """The defined order, computed only from Mersenne Twister bits and SHA-512."""
    generator = random.Random(int.from_bytes(text.encode() + hashlib.sha512(text.encode()).digest(), "big"))
    order = list(range(count))
    for last in range(count - 1, 0, -1):
        chosen = generator.getrandbits((last + 1).bit_length())
        while chosen > last:
            chosen = generator.getrandbits((last + 1).bit_length())
        order[last], order[chosen] = order[chosen], order[last]
    return order


def test_the_order_is_the_same_on_every_platform():
    assert numbers(loaded(5).take(0, 10)) == [4, 2, 1, 0, 3, 0, 1, 2, 4, 3]
    assert numbers(loaded(100, seed=7).take(300, 100)) == fisher_yates(100, "order/7/3")


def test_unshuffled_rows_keep_their_order():
    assert numbers(loaded(4, shuffle=False).take(2, 6)) == [2, 3, 0, 1, 2, 3]


def test_a_source_knows_its_size_and_the_environments_of_its_rows():
    source = LoadedRows([row(0), row(1, "arithmetic")], seed=0, shuffle=True)
    assert source.size == 2
    assert source.environments == {"gsm8k", "arithmetic"}
    assert generated().size is None
    assert generated().environments == {"gsm8k"}


@pytest.mark.parametrize(("position", "count"), [(-1, 3), (0, -1)])
@pytest.mark.parametrize("source", [loaded(), generated()])
def test_negative_positions_and_counts_are_an_error(source, position, count):
    with pytest.raises(ValueError, match="must not be negative"):
        source.take(position, count)


def test_an_empty_source_is_an_error():
    with pytest.raises(ValueError, match="no rows"):
        LoadedRows([], seed=0, shuffle=True)


def test_recent_rows_are_kept_and_earlier_ones_are_generated_again():
    started = []
    source = generated(started)
    assert numbers(source.take(20_000, 3)) == [20_000, 20_001, 20_002]
    assert numbers(source.take(19_000, 1)) == [19_000]
    assert len(started) == 1
    assert len(source._window) < 5_000
    assert numbers(source.take(5, 2)) == [5, 6]
    assert len(started) == 2


def test_more_rows_than_are_kept_can_be_taken_at_once():
    assert numbers(generated().take(3, 10_000)) == list(range(3, 10_003))


def test_generated_rows_are_rewarded_by_the_environment_of_the_reference():
    source = GeneratedRows(lambda: map(row, itertools.count()), "another:task")
    assert source.take(0, 1)[0].environment == "another:task"


def test_an_environment_whose_rows_end_is_an_error():
    with pytest.raises(SkyrlError, match="ended after 3 rows"):
        GeneratedRows(lambda: map(row, range(3)), "gsm8k").take(0, 4)


@pytest.mark.parametrize("last", [lambda: sys.exit(0), lambda: {"prompt": "1+1"}, lambda: "text"])
def test_an_environment_that_exits_or_yields_no_row_is_named(last):
    def rows():
        yield row(1)
        yield last()

    with pytest.raises(PluginError, match=r"^environment gsm8k failed in rows: (SystemExit: 0|TypeError: row 1 is )"):
        GeneratedRows(rows, "gsm8k").take(0, 2)


def test_rows_of_a_file_take_precedence_over_generated_ones(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"q": f"{n}?", "a": n}) + "\n" for n in range(20)))
    config = RunConfig.model_validate(
        {"data": {"train": str(path), "prompt_column": "q", "ground_truth_column": "a"}, "seed": 1}
    )
    source = build_source(config, "train")
    assert source.environments == {"arithmetic"}
    assert sorted(numbers(source.take(0, 20))) == list(range(20))
    assert numbers(source.take(0, 20)) != list(range(20))
    assert build_source(config, "evaluation").size is None


def test_held_out_rows_are_not_shuffled(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": "?", "ground_truth": n}) + "\n" for n in range(20)))
    config = RunConfig.model_validate({"data": {"evaluation": str(path)}})
    assert numbers(build_source(config, "evaluation").take(0, 20)) == list(range(20))


def test_generated_training_rows_depend_on_the_seed_and_held_out_ones_do_not():
    first, second = RunConfig(seed=1), RunConfig(seed=2)
    assert build_source(first, "train").take(0, 9) != build_source(second, "train").take(0, 9)
    assert build_source(first, "evaluation").take(0, 9) == build_source(second, "evaluation").take(0, 9)


def test_parameters_of_the_environment_apply_to_its_problems():
    config = RunConfig.model_validate({"environment": {"params": {"max_steps": 1}}})
    assert {row.extra["steps"] for row in build_source(config, "train").take(0, 50)} == {1}


def test_without_data_and_generated_problems_the_error_names_the_option_to_set():
    config = RunConfig.model_validate({"environment": {"name": "gsm8k"}})
    with pytest.raises(DataError, match=r"'gsm8k' generates no problems: set data\.train"):
        build_source(config, "train")
    with pytest.raises(DataError, match=r"set data\.evaluation .* or evaluation\.prompts to 0"):
        build_source(config, "evaluation")


@pytest.mark.timeout(60)
def test_continuing_from_a_late_position_takes_seconds():
    start = time.monotonic()
    assert len(build_source(RunConfig(), "train").take(20_000, 16)) == 16
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"ground_truth": 5}, "the ground truth 5 is not text"),
        ({"ground_truth": "\ud800"}, "half of a surrogate pair"),
        ({"prompt": ()}, "is not text or a list of chat messages"),
        ({"prompt": ({"role": "user"},)}, "message 0: .* is not a chat message"),
        ({"prompt": ({"role": "user", "content": " "},)}, "not a prompt with text in it"),
    ],
)
def test_a_generated_row_is_as_strict_as_one_of_a_file(changes, problem):
    rows = [row(0), dataclasses.replace(row(1), **changes)]
    with pytest.raises(DataError, match=f"environment 'gsm8k', row 1 of its method `rows`: .*{problem}"):
        GeneratedRows(lambda: iter(rows), "gsm8k").take(0, 2)
