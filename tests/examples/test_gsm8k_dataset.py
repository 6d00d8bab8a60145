import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from skyrl_train.config.schema import RunConfig
from skyrl_train.data.run_data import load_run_data
from skyrl_train.environments.load_environment import load_environment

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples/gsm8k/gsm8k_dataset.py"
FOLDER = Path(os.environ.get("SKYRL_GSM8K") or ROOT / "../shared/data/gsm8k")


def prepare(*arguments, cwd, **environment):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def source(path, split):
    prompts = {"prompts": 200 if split == "evaluation" else 0}
    values = {"data": {split: str(path)}, "environment": {"name": "gsm8k"}, "evaluation": prompts}
    environment = load_environment("gsm8k")
    data = load_run_data(RunConfig.model_validate(values), environment, None, trains=split == "train")
    return data.train if split == "train" else data.evaluation[""]


def write(folder, split, *problems):
    folder.mkdir(exist_ok=True)
    lines = [json.dumps({"question": question, "answer": answer}, ensure_ascii=False) for question, answer in problems]
    (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_rows_hold_question_instruction_answer_and_environment(tmp_path):
    write(tmp_path / "raw", "train", ("Two\u2028plus three, é?", "2+3=<<2+3=5>>5\n#### 5"))
    write(tmp_path / "raw", "test", ("1000?", "#### 1,000"), ("8?", "#### 8"))
    done = prepare("--source", tmp_path / "raw", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (row,) = source(tmp_path / "data/gsm8k/train.parquet", "train").take(0, 1)
    question, _, instruction = row.prompt[0]["content"].rpartition("\n")
    assert question == "Two\u2028plus three, é?"
    assert "#### answer" in instruction
    assert (row.ground_truth, row.environment) == ("5", "gsm8k")
    assert [r.ground_truth for r in source(tmp_path / "data/gsm8k/test.parquet", "evaluation").take(0, 2)] == [
        "1,000",
        "8",
    ]
    assert "train        1  data/gsm8k/train.parquet" in done.stdout
    assert '"ground_truth": "8"' in done.stdout


@pytest.mark.skipif(not FOLDER.is_dir(), reason="no GSM8K: name its folder in SKYRL_GSM8K")
def test_the_published_data_set_is_prepared_whole(tmp_path):
    done = prepare("--source", FOLDER, "--output", tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for split, file, count in (("train", "train", 7473), ("evaluation", "test", 1319)):
        prepared = source(tmp_path / f"{file}.parquet", split)
        assert (prepared.size, prepared.environments) == (count, {"gsm8k"})
        raw = [json.loads(line) for line in (FOLDER / f"{file}.jsonl").open(encoding="utf-8")]
        expected = {(each["question"], each["answer"].rpartition("####")[2].strip()) for each in raw}
        found = {(r.prompt[0]["content"].rpartition("\n")[0], r.ground_truth) for r in prepared.take(0, count)}
        assert found == expected


def test_a_folder_without_the_files_is_an_error_without_a_traceback(tmp_path):
    done = prepare("--source", tmp_path, cwd=tmp_path)
    assert done.returncode == 1
    assert "train.jsonl does not exist" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_answer_without_a_result_is_an_error_without_a_traceback(tmp_path):
    write(tmp_path, "train", ("?", "no result"))
    done = prepare("--source", tmp_path, cwd=tmp_path)
    assert done.returncode == 1
    assert "answer has no result after ####: 'no result'" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_network_the_error_says_what_to_do(tmp_path):
    done = prepare(cwd=tmp_path, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert done.returncode == 1
    assert "--source FOLDER" in done.stderr
    assert "Traceback" not in done.stderr
