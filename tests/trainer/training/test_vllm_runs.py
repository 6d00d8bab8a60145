"""Complete runs with the engine vllm learn on several ranks and every ZeRO stage, and resume exactly."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.trainer.fixtures.listed_metrics import metric_names, unlisted

from skyrl_train.checkpoints.model_export import export
from skyrl_train.commands.eval import main as evaluate
from skyrl_train.policy.model_loading import load_model, load_tokenizer

pytestmark = pytest.mark.vllm

ENGINE = {"rollout.engine": "vllm", "rollout.vllm.kv_cache_gib": 0.1}


def steps(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if line["kind"] == "train"]


def numbers(line: dict[str, Any]) -> dict[str, Any]:
    """All metrics but times."""
    return {name: value for name, value in line.items() if not name.startswith(("time", "tokens_per", "memory"))}


@pytest.fixture(scope="module")
def trained(train: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A run of twelve steps on ZeRO-2: its folder and its metrics."""
    folder = tmp_path_factory.mktemp("vllm") / "run"
    options = {
        "trainer.steps": 12,
        "trainer.prompts_per_step": 16,
        "trainer.samples_per_prompt": 8,
        "trainer.optimizer.learning_rate": 2e-4,
        "rollout.max_new_tokens": 48,
        "evaluation.prompts": 60,
    }
    return folder, train(folder, **ENGINE, **options)


def test_a_run_learns(trained: Any) -> None:
    rewards = [line["reward/mean"] for line in steps(trained[1])]
    before, after = [line["accuracy"] for line in trained[1] if line["kind"] == "evaluation"]
    assert sum(rewards[-3:]) / 3 > rewards[0] + 0.1
    assert after > before + 0.1


def test_the_distance_of_engine_and_trainer_is_logged(trained: Any) -> None:
    for line in steps(trained[1]):
        assert 0 <= line["mismatch_kl"] < 1e-6
        assert 1 <= line["mismatch_ratio_max"] < 1.01
        assert line["probe_deviation"] < 1e-4


def test_every_logged_metric_is_in_the_glossary(trained: Any) -> None:
    names = metric_names(trained[1])
    assert unlisted(names) == set()
    assert names >= {"mismatch_kl", "mismatch_ratio_max", "probe_deviation", "accuracy"}


def test_skyrl_eval_with_the_engine_gives_the_last_evaluation(trained: Any, capsys: Any) -> None:
    [final] = [line for line in trained[1] if line["kind"] == "evaluation" and line.get("final")]
    capsys.readouterr()
    assert evaluate([str(trained[0]), "rollout.engine=vllm", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["measures"]["pass@1"]["value"] == final["accuracy"]


LOADED = """
import json, sys
from vllm import LLM, SamplingParams
if __name__ == "__main__":
    llm = LLM(sys.argv[1], dtype="float32", enforce_eager=True, kv_cache_memory_bytes=2**27, max_model_len=256)
    prompt = {"prompt_token_ids": json.loads(sys.argv[2])}
    output = llm.generate(prompt, SamplingParams(temperature=0, max_tokens=32), use_tqdm=False)
    print("IDS", json.dumps(list(output[0].outputs[0].token_ids)))
"""


def test_vllm_loads_an_exported_run(trained: Any, tmp_path: Path) -> None:
    folder = export(trained[0], tmp_path / "exported")
    ids = load_tokenizer(str(folder))("Ana has 12 apples. Ana buys 7 more. How many apples does Ana have?\n")[
        "input_ids"
    ]
    (tmp_path / "loaded.py").write_text(LOADED)
    done = subprocess.run(
        [sys.executable, "loaded.py", str(folder), json.dumps(ids)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"},
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    written = json.loads(done.stdout.partition("IDS ")[2].splitlines()[0])
    model = load_model(str(folder), torch.float32)
    expected = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=32)[0, len(ids) :].tolist()
    assert written == expected


def test_a_resumed_run_gives_the_same_numbers(train: Any, tmp_path: Path) -> None:
    options = ENGINE | {"trainer.minibatches": 2, "checkpoint.every": 2, "rollout.temperature": 0.9}
    complete = steps(train(tmp_path / "complete", **options, **{"trainer.steps": 4}))
    train(tmp_path / "parts", **options)
    parts = steps(train(tmp_path / "parts", "--resume", str(tmp_path / "parts"), **options, **{"trainer.steps": 4}))
    assert [numbers(line) for line in parts] == [numbers(line) for line in complete]


@pytest.mark.parametrize(
    "options",
    [
        {"trainer.deepspeed.precision": "bf16"},
        {"trainer.deepspeed.zero_stage": 0},
        {"trainer.deepspeed.zero_stage": 3, "trainer.lora.rank": 4, "trainer.optimizer.learning_rate": 1e-3},
    ],
    ids=["bf16", "no sharding", "adapters in shards"],
)
def test_the_engine_works_next_to_deepspeed(train: Any, tmp_path: Path, options: dict[str, Any]) -> None:
    lines = steps(train(tmp_path / "run", **ENGINE, **options))
    assert len(lines) == 2
    assert all(line["mismatch_kl"] < 0.01 for line in lines)


def launched(folder: Path, options: list[str], processes: int) -> "subprocess.CompletedProcess[str]":
    command = [str(Path(sys.executable).parent / "skyrl"), "train", "--num-processes", str(processes)]
    return subprocess.run(
        [*command, *options, f"run_folder={folder}"],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=500,
        check=False,
    )


@pytest.fixture(scope="module")
def single(train: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return steps(train(tmp_path_factory.mktemp("single") / "run", **ENGINE))[0]


@pytest.mark.parametrize("stage", [1, 3])
def test_two_ranks_with_an_engine_each_give_the_numbers_of_one(
    stage: int, single: dict[str, Any], tiny_run: Any, tmp_path: Path
) -> None:
    done = launched(tmp_path / "run", tiny_run(ENGINE | {"trainer.deepspeed.zero_stage": stage}), 2)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    first = steps(lines)[0]
    assert first["reward/mean"] == single["reward/mean"]
    for name in ("loss/total", "grad_norm", "response_length/mean"):
        assert first[name] == pytest.approx(single[name], rel=1e-4, abs=1e-6), name
    assert "vllm" not in done.stderr.lower()
    ours = ("starting vLLM", "rollout engine vllm: log-probs of samples are ")
    assert all(line.startswith(ours) for line in done.stdout.splitlines() if "vllm" in line.lower())
