import datetime
import json
from decimal import Decimal

import datasets
import pyarrow
import pytest
from pyarrow import parquet

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
    "text", ["18", "1.10", "1e5", "1E400", "-0", "-2.50", "1" + "0" * 5000, "0.1000000000000000055511151231257827"]
)
def test_a_number_keeps_its_exact_text(write, text):
    row = load(write(f'{{"prompt": "?", "ground_truth": {text}}}'))[0]
    assert (row.ground_truth, type(row.ground_truth)) == (text, str)


@pytest.mark.parametrize("text", ["18", "", " 5 ", "01", "1e5"])
def test_text_is_a_ground_truth_unchanged(write, text):
    assert load_one(write, ground_truth=text).ground_truth == text


def test_numbers_of_other_columns_are_numbers(write):
    extra = load_one(write, level=3, share=0.5, nested={"values": [1, 2.5, None, "x"]}).extra
    assert extra == {"level": 3, "share": 0.5, "nested": {"values": [1, 2.5, None, "x"]}}
    assert [type(value) for value in extra["nested"]["values"]] == [int, float, type(None), str]


def test_a_nested_number_is_a_ground_truth(write):
    path = write('{"prompt": "?", "reward_model": {"ground_truth": 1.50}}')
    assert load(path, ground_truth="reward_model.ground_truth")[0].ground_truth == "1.50"


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_a_short_float_has_its_shortest_text(tmp_path, kind):
    features = datasets.Features({"prompt": datasets.Value("string"), "ground_truth": datasets.Value(kind)})
    dataset = datasets.Dataset.from_dict({"prompt": ["?"], "ground_truth": [1.1]}, features=features)
    dataset.to_parquet(tmp_path / "r.parquet")
    dataset.save_to_disk(tmp_path / "saved")
    assert load(tmp_path / "r.parquet")[0].ground_truth == "1.1"
    assert load(tmp_path / "saved")[0].ground_truth == "1.1"


def test_a_message_keeps_parts_that_a_chat_template_may_read(write):
    calls = [{"name": "add", "arguments": {"a": 2}}]
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "2+3?"}], "name": "Ana"},
        {"role": "assistant", "content": None, "tool_calls": calls},
    ]
    assert load_one(write, prompt=messages).prompt == (
        {"role": "user", "content": "2+3?", "name": "Ana"},
        {"role": "assistant", "content": "", "tool_calls": calls},
    )


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
    ({"prompt": ["hi"], "ground_truth": 1}, r":2, column 'prompt': message 0: \"hi\" is not a chat message"),
    ({"prompt": [{"role": "user", "content": 3}], "ground_truth": 1}, r":2, column 'prompt': message 0"),
    ({"prompt": [{"role": " ", "content": "?"}], "ground_truth": 1}, r":2, column 'prompt': message 0"),
    (
        {
            "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}],
            "ground_truth": 1,
        },
        r"message 0: a part of type \"image\" cannot be used",
    ),
    (
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 2}], "ground_truth": 1},
        "message 0: .* join its parts",
    ),
    (
        '{"prompt": "\\ud800", "ground_truth": 1}',
        r":2, column 'prompt': message 0: character 0 is .ud800, half of a surr",
    ),
    ('{"prompt": "?", "ground_truth": "\\udc00"}', r":2, column 'ground_truth': .*half of a surrogate pair"),
    ('{"prompt": "?", "ground_truth": 1, "x": ["\\ud800"]}', r":2, column 'x': .*half of a surrogate pair"),
    ('{"prompt": "?", "ground_truth": 1, "x": 1e999}', r":2, column 'x': the number 1e999 is too large"),
    ('{"prompt": "?", "ground_truth": 1, "ground_truth": 2}', r":2 is not JSON: the key 'ground_truth' appears twice"),
    ({"prompt": "?", "ground_truth": True}, r":2, column 'ground_truth': true is not text or a finite number"),
    ({"prompt": "?", "ground_truth": {"a": 1}}, r":2, column 'ground_truth': .* is not text or a finite number"),
    (
        {"prompt": [{"role": "user", "text": 3}], "ground_truth": 1},
        r":2, column 'prompt': .* is not a prompt with text",
    ),
    ({"prompt": "?", "ground_truth": None}, r":2, column 'ground_truth': null is not text or a finite number"),
    ({"prompt": "?", "ground_truth": [1]}, r":2, column 'ground_truth': \[1\] is not text or a finite number"),
    ('{"prompt": "?", "ground_truth": NaN}', r":2 is not JSON: NaN is not a JSON number"),
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


@pytest.mark.parametrize(
    "values",
    [
        [datetime.date(2020, 1, 1)],
        [datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)],
        [datetime.timedelta(1)],
        [b"18"],
        [True],
        [float("inf")],
        [float("nan")],
        [[1]],
    ],
    ids=lambda values: type(values[0]).__name__,
)
def test_a_parquet_value_that_has_no_certain_text_is_not_a_ground_truth(tmp_path, values):
    parquet.write_table(pyarrow.table({"prompt": ["?"], "ground_truth": values}), tmp_path / "r.parquet")
    with pytest.raises(DataError, match=r"r\.parquet, row 0, column 'ground_truth': .* is not text or a finite number"):
        load(tmp_path / "r.parquet")


def test_parquet_text_that_is_not_utf_8_is_a_problem_of_its_row(tmp_path):
    broken = pyarrow.array([b"18", b"\xff", b"7"]).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"prompt": ["?"] * 3, "ground_truth": broken}), tmp_path / "r.parquet")
    with pytest.raises(
        DataError, match=r"(?s)1 of 3 rows.*r\.parquet, row 1, column 'ground_truth' cannot be read: 'utf-8'"
    ):
        load(tmp_path / "r.parquet")


def test_two_parquet_columns_of_one_name_are_an_error(tmp_path):
    table = pyarrow.table([["?"], ["1"], ["2"]], names=["prompt", "ground_truth", "ground_truth"])
    parquet.write_table(table, tmp_path / "r.parquet")
    with pytest.raises(DataError, match="has two columns 'ground_truth'"):
        load(tmp_path / "r.parquet")


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
    with pytest.raises(DataError, match=r"'nobody/nothing' \(split 'train'\) cannot be loaded: \w+: .*\.jsonl or"):
        load("nobody/nothing")
