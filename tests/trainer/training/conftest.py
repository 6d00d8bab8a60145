"""Fixtures of training: ranks, engines and rollouts without their weight, and runs in and beside this process."""

import json
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.trainer.training.checkpoint_values import assert_same_values
from tests.trainer.training.forked_runs import Zygote
from tests.trainer.training.plain_engine import PlainEngine
from tests.trainer.training.scripted_rollout import scripted_rollout
from tests.trainer.training.started_runs import LIMIT, Started
from tests.trainer.training.thread_ranks import run_on_ranks
from transformers import Qwen2Config, Qwen2ForCausalLM

from skyrl_train.policy.model_loading import load_tokenizer
from skyrl_train.rollout.engine import Sample
from skyrl_train.training.experience import Experience
from skyrl_train.training.ranks import ALONE, Ranks


@pytest.fixture
def on_ranks() -> Callable[[int, Callable[[Ranks], Any]], list[Any]]:
    """Run a function on so many ranks at once; what each of them returns. The first error is raised."""
    return run_on_ranks


@pytest.fixture
def one_rank(monkeypatch: pytest.MonkeyPatch) -> Ranks:
    """This process alone, without a process group."""
    for name, value in ALONE.items():
        monkeypatch.setenv(name, value)
    return Ranks()


@pytest.fixture
def plain_engine(small_model: torch.nn.Module) -> Callable[[Ranks], PlainEngine]:
    return lambda ranks: PlainEngine(small_model, ranks)


@pytest.fixture(scope="session")
def small_model() -> torch.nn.Module:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    return Qwen2ForCausalLM(config).eval()


@pytest.fixture
def sample() -> Callable[..., Sample]:
    def make(*token_ids: int, log_probs: tuple[float, ...] | None = None, finished: bool = True) -> Sample:
        values = tuple(-0.1 * (index + 1) for index in range(len(token_ids))) if log_probs is None else log_probs
        return Sample(token_ids=token_ids, log_probs=values, finished=finished, policy_version=0)

    return make


@pytest.fixture
def experience(sample: Callable[..., Sample]) -> Experience:
    """Ten sequences of five prompts with responses of 1 to 7 tokens; advantages and reference are random."""
    generator = torch.Generator().manual_seed(1)

    def tokens(count: int) -> list[int]:
        return torch.randint(1, 40, (count,), generator=generator).tolist()

    groups = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    prompts = [tokens(length) for length in (3, 1, 5, 2, 4)]
    samples = [sample(*tokens(length)) for length in (4, 1, 7, 2, 3, 6, 1, 5, 2, 2)]
    built = Experience.build([prompts[g] for g in groups], samples, groups, pad_id=0, device=torch.device("cpu"))
    noise = torch.randn(built.mask.shape, generator=generator)
    built.advantages.copy_(torch.where(built.mask, torch.randn(10, 1, generator=generator), 0.0))
    return built._map(lambda name, tensor: torch.where(built.mask, noise - 3, 0.0) if "rollout" in name else tensor)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return load_tokenizer("tiny")


@pytest.fixture
def scripted(tokenizer: Any) -> Callable[[dict[str, list[str]]], dict[str, Any]]:
    """Source, engine, scorer and tokenizer of a rollout whose questions and answers are given."""
    return partial(scripted_rollout, tokenizer)


TINY_RUN = {
    "model": "tiny",
    "trainer.steps": 2,
    "trainer.prompts_per_step": 4,
    "trainer.samples_per_prompt": 4,
    "trainer.threads": 1,
    "trainer.optimizer.learning_rate": 1e-4,
    "trainer.algorithm.policy_loss_type": "dual_clip",
    "rollout.max_new_tokens": 24,
    "evaluation.prompts": 8,
}


def _arguments(options: dict[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in (TINY_RUN | options).items()]


@pytest.fixture(scope="session")
def tiny_run() -> Callable[[dict[str, Any]], list[str]]:
    """The command line of a run of seconds, with these options changed."""
    return _arguments


@pytest.fixture(scope="session")
def train(tiny_run: Callable[[dict[str, Any]], list[str]]) -> Callable[..., list[dict[str, Any]]]:
    """Train for real in this process; the lines of metrics.jsonl. Several runs in turn save the imports."""

    def run(folder: Path, *flags: str, **options: Any) -> list[dict[str, Any]]:
        from skyrl_train.entrypoints.main_base import main

        dotted = {key.replace("__", "."): value for key, value in options.items()}
        if "--resume" not in flags:
            dotted["run_folder"] = str(folder)
        assert main([*tiny_run(dotted), *flags], prog="skyrl train") == 0
        return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]

    return run


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    started = Zygote(tmp_path_factory.mktemp("zygote"))
    yield started
    started.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A disk of so many MiB, which fills up for real."""
    mounted: list[Path] = []

    def mount(size: int) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting a small disk is not permitted here")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


VARYING = ("time", "tokens_per_second")


@pytest.fixture(scope="session")
def train_rows() -> Callable[[Path], dict[int, dict[str, Any]]]:
    """Metrics of the training steps of a run folder, without what the clock decides."""

    def read(folder: Path) -> dict[int, dict[str, Any]]:
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        rows = [line for line in lines if line["kind"] == "train"]
        return {row["step"]: {k: v for k, v in row.items() if not k.startswith(VARYING)} for row in rows}

    return read


@pytest.fixture(scope="session")
def assert_same_state() -> Callable[[Path, Path], None]:
    """Two checkpoints hold the same, to the last bit."""
    return assert_same_values


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Start a run; one that a failing test leaves behind is ended with all its processes."""
    started: list[Started] = []

    def run(
        command: list[str], options: list[str], *, name: str = "run", log: str | None = None, **environment: str
    ) -> Started:
        """In the folder ``name``; of several processes of one run each has a ``log`` of its own."""
        folder = tmp_path / name
        given = [f"run_folder={folder}"] if options else []
        started.append(Started([*command, *options, *given], folder, tmp_path / (log or name), environment))
        return started[-1]

    yield run
    for one in started:
        if one.process.poll() is None:
            one.process.terminate()
            one.process.wait(LIMIT)
