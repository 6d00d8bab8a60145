import json
from decimal import Decimal

import datasets
import pytest

from skyrl_train.data.row_problem import DataError
from skyrl_train.data.rows import Columns, load_rows

RECORDS = [
    {"prompt": "What is 2+3?", "ground_truth": 5, "source": "a"},
    {
        "prompt": [{"role": "system", "content": "Sei kurz."}, {"role": "user", "content": "Grüße?\u2028"}],
        "ground_truth": "hi",
    },
]


@pytest.fixture
def write(tmp_path):
    """Write records as JSON lines, strings unchanged; returns the path."""

    def written(*lines, name="rows.jsonl"):
        path = tmp_path / name
        texts = (line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines)
        path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
        return str(path)

    return written


def load(spec, split="train", **columns):
    return load_rows(str(spec), split, columns=Columns(**columns), default_environment="gsm8k")


def load_one(write, **record):
    return load(write({"prompt": "?", "ground_truth": "1"} | record))[0]


def test_text_becomes_a_user_message_and_messages_stay_unchanged(write):
    first, second = load(write(*RECORDS))
    assert first.prompt == ({"role": "user", "content": "What is 2+3?"},)
    assert first.ground_truth == "5"
    assert first.environment == "gsm8k"
    assert first.extra == {"source": "a"}
    assert [message["role"] for message in second.prompt] == ["system", "user"]
    assert second.prompt[1]["content"] == "Grüße?\u2028"


@pytest.mark.parametrize(
    ("value", "text"), [("18", "18"), ("", ""), (18, "18"), (-2.5, "-2.5"), (True, "True"), (10**30, "1" + "0" * 30)]
)
def test_any_scalar_is_a_ground_truth(write, value, text):
    assert load_one(write, ground_truth=value).ground_truth == text


def test_a_row_may_name_its_environment_and_null_selects_the_default(write):
    assert load_one(write, environment="arithmetic").environment == "arithmetic"
    assert load_one(write, environment=None).environment == "gsm8k"


def test_other_column_names_can_be_given(write):
    path = write({"question": "2+3?", "answer": "#### 5", "judge": "arithmetic", "prompt": "not this one"})
    (row,) = load(path, prompt="question", ground_truth="answer", environment="judge")
    assert (row.prompt[0]["content"], row.ground_truth, row.environment) == ("2+3?", "#### 5", "arithmetic")
    assert row.extra == {"prompt": "not this one"}


def test_blank_lines_and_a_byte_order_mark_are_skipped(write):
    path = write("\ufeff" + json.dumps(RECORDS[0]), "", json.dumps(RECORDS[1]), "  ")
    assert len(load(path)) == 2


def test_parquet_files_and_saved_folders_give_the_same_rows_as_jsonl(write, tmp_path):
    messages = [{"role": "user", "content": "Größe?"}]
    records = [{"prompt": messages, "ground_truth": str(n), "environment": None, "level": n} for n in range(2500)]
    dataset = datasets.Dataset.from_list(records)
    dataset.to_parquet(tmp_path / "rows.parquet")
    dataset.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": dataset, "test": dataset.select([7])}).save_to_disk(tmp_path / "splits")
    expected = load(write(*records))
    assert load(tmp_path / "rows.parquet") == expected
    assert load(tmp_path / "saved") == expected
    assert load(tmp_path / "splits") == expected
    assert load(tmp_path / "splits", "test") == [expected[7]]


def test_parquet_decimals_are_ground_truths(tmp_path):
    datasets.Dataset.from_dict({"prompt": ["?"], "ground_truth": [Decimal("1.50")]}).to_parquet(tmp_path / "r.parquet")
    assert load(tmp_path / "r.parquet")[0].ground_truth == "1.50"


WRONG_LINES = [
    (
        {"prompt": None, "ground_truth": 1},
        r"rows\.jsonl:2, column 'prompt': null is not text or a list of chat messages",
    ),
    ({"prompt": 3, "ground_truth": 1}, r":2, column 'prompt': 3 is not text"),
    ({"prompt": " \n", "ground_truth": 1}, r":2, column 'prompt': .* is not a prompt with text"),
    ({"prompt": [], "ground_truth": 1}, r":2, column 'prompt': \[\] is not text or a list"),
    ({"prompt": ["hi"], "ground_truth": 1}, r":2, message 0, column 'prompt': \"hi\" is not a chat message"),
    ({"prompt": [{"role": "user", "content": 3}], "ground_truth": 1}, r":2, message 0, column 'prompt'"),
    ({"prompt": [{"role": "user", "text": "?"}], "ground_truth": 1}, r":2, message 0, column 'prompt'"),
    ({"prompt": "?", "ground_truth": None}, r":2, column 'ground_truth': null is not text or a number"),
    ({"prompt": "?", "ground_truth": [1]}, r":2, column 'ground_truth': \[1\] is not text or a number"),
    ('{"prompt": "?", "ground_truth": NaN}', r":2, column 'ground_truth': NaN is not text or a number"),
    ({"prompt": "?", "ground_truth": 1, "environment": 7}, r":2, column 'environment': 7 is not the name"),
    ({"prompt": "?", "truth": 1}, r":2 has no column 'ground_truth'.*'prompt', 'truth'.*data\.ground_truth_column"),
    ({"promt": "?", "ground_truth": 1}, r":2 has no column 'prompt'; did you mean 'promt'\?; .*data\.prompt_column"),
    ("[1, 2]", r"rows\.jsonl:2 is \[1, 2\], not a JSON object"),
    ('{"prompt": "?"', r"rows\.jsonl:2 is not JSON"),
    ("[" * 100_000, r"rows\.jsonl:2 is not JSON"),
]


@pytest.mark.parametrize(("line", "message"), WRONG_LINES)
def test_an_invalid_row_is_an_error_with_file_line_column_and_value(write, line, message):
    with pytest.raises(DataError, match=message):
        load(write(RECORDS[0], line))


def test_an_invalid_parquet_row_is_an_error_with_its_number(tmp_path):
    path = tmp_path / "rows.parquet"
    datasets.Dataset.from_dict({"prompt": ["a", "b", None], "ground_truth": ["1", "2", "3"]}).to_parquet(path)
    with pytest.raises(DataError, match=r"rows\.parquet, row 2, column 'prompt': null"):
        load(path)


def test_a_long_value_is_shortened_in_the_error(write):
    with pytest.raises(DataError) as caught:
        load(write({"prompt": "?", "ground_truth": list(range(10_000))}))
    assert len(str(caught.value)) < 500


def test_bytes_that_are_not_utf_8_are_an_error_with_the_line(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b'{"prompt": "?", "ground_truth": "1"}\n{"prompt": "\xff"}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl:2 is not UTF-8"):
        load(tmp_path / "rows.jsonl")


def test_an_empty_file_is_an_error(write):
    with pytest.raises(DataError, match="has no rows"):
        load(write(""))


def test_a_missing_file_is_an_error_that_suggests_the_nearest(write, tmp_path):
    write(RECORDS[0], name="train.jsonl")
    with pytest.raises(DataError, match=r"trian\.jsonl does not exist; did you mean .*/train\.jsonl\?"):
        load(tmp_path / "trian.jsonl")
    with pytest.raises(DataError, match=r"there is no folder .*/nowhere"):
        load(tmp_path / "nowhere" / "train.jsonl")


def test_a_broken_parquet_file_is_an_error(tmp_path):
    (tmp_path / "rows.parquet").write_text("not parquet")
    with pytest.raises(DataError, match=r"rows\.parquet cannot be read as parquet"):
        load(tmp_path / "rows.parquet")


def test_a_folder_that_datasets_did_not_save_is_an_error_that_lists_its_files(write, tmp_path):
    write(RECORDS[0], name="train.jsonl")
    with pytest.raises(DataError, match=r"not a folder that datasets saved; name one of its files: .*train\.jsonl"):
        load(tmp_path)


def test_an_unknown_split_of_a_folder_is_an_error_that_lists_the_splits(tmp_path):
    dataset = datasets.Dataset.from_dict({"prompt": ["?"], "ground_truth": ["1"]})
    datasets.DatasetDict({"train": dataset}).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match="has no split 'test': choose one of train"):
        load(tmp_path / "saved", "test")


@pytest.mark.parametrize("spec", ["rows.csv", "./rows", "/nowhere/rows.json"])
def test_a_source_that_is_neither_a_supported_file_nor_a_hub_name_is_an_error_that_lists_both(spec):
    with pytest.raises(DataError, match=r"a \.jsonl or \.parquet file, a folder saved by datasets, or a hub name"):
        load(spec)


def test_a_hub_name_is_loaded_with_its_config_and_split(monkeypatch):
    requests = []

    def load_dataset(name, config, *, split):
        requests.append((name, config, split))
        return datasets.Dataset.from_dict({"prompt": ["?"], "ground_truth": ["1"]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert load("openai/gsm8k:main", "test")[0].ground_truth == "1"
    assert load("owner/name-v1.5")[0].ground_truth == "1"
    assert requests == [("openai/gsm8k", "main", "test"), ("owner/name-v1.5", None, "train")]


def test_a_hub_name_without_a_network_is_an_error_with_the_alternatives(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"'nobody/nothing' \(split 'train'\) cannot be loaded: \w+: [\s\S]*\.jsonl or"):
        load("nobody/nothing")
