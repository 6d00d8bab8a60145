"""A policy of a few thousand weights, an engine without DeepSpeed, ranks that are threads, and runs in this process."""

import copy
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from skyrl_train.data.source import LoadedRows
from skyrl_train.environments.environment import Row
from skyrl_train.environments.score import Score
from skyrl_train.policy.loading import load_tokenizer
from skyrl_train.policy.policy import Policy, Sequences
from skyrl_train.rollout.engine import Sample
from skyrl_train.training.experience import Experience
from skyrl_train.training.ranks import ALONE, Ranks

COLLECTIVE_LIMIT = 20
"""Seconds after which a rank that waits for the others has found a collective that they do not reach."""


class Meeting:
    """Where so many threads tell each other their values."""

    def __init__(self, world_size: int) -> None:
        self.barrier, self._values = threading.Barrier(world_size), [None] * world_size

    def gather(self, rank: int, value: Any) -> list[Any]:
        self._values[rank] = copy.deepcopy(value)
        self.barrier.wait(COLLECTIVE_LIMIT)
        values = list(self._values)
        self.barrier.wait(COLLECTIVE_LIMIT)
        return values


class ThreadRanks(Ranks):
    """Ranks that are threads of this process, with the same collectives."""

    def __init__(self, rank: int, world_size: int, meeting: Meeting, aside: Meeting) -> None:
        self.rank, self.world_size, self.local_world_size = rank, world_size, world_size
        self.device = torch.device("cpu")
        self._meeting, self._aside = meeting, aside

    def gather(self, value: Any) -> list[Any]:
        return self._meeting.gather(self.rank, value)

    def gather_aside(self) -> Callable[[Any], list[Any]]:
        return partial(self._aside.gather, self.rank)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return torch.stack(self.gather(values.detach())).sum(0)

    def max(self, values: torch.Tensor) -> torch.Tensor:
        return torch.stack(self.gather(values.detach())).amax(0)

    def broadcast(self, value: Any) -> Any:
        return self.gather(value)[0]


@pytest.fixture
def on_ranks() -> Callable[[int, Callable[[Ranks], Any]], list[Any]]:
    """Run a function on so many ranks at once; what each of them returns. The first error is raised."""

    def run(world_size: int, work: Callable[[Ranks], Any]) -> list[Any]:
        meetings = [Meeting(world_size) for _ in range(2)]

        def one(rank: int) -> Any:
            try:
                return work(ThreadRanks(rank, world_size, *meetings))
            except BaseException:
                for meeting in meetings:
                    meeting.barrier.abort()  # like a process that ends: the others must not wait
                raise

        with ThreadPoolExecutor(world_size) as pool:
            futures = [pool.submit(one, rank) for rank in range(world_size)]
        errors = [future.exception() for future in futures if future.exception()]
        own = [error for error in errors if not isinstance(error, threading.BrokenBarrierError)]
        if errors:
            raise (own or errors)[0]
        return [future.result() for future in futures]

    return run


@pytest.fixture
def one_rank(monkeypatch: pytest.MonkeyPatch) -> Ranks:
    """This process alone, without a process group."""
    for name, value in ALONE.items():
        monkeypatch.setenv(name, value)
    return Ranks()


class PlainEngine:
    """Stands in for ZeroEngine where DeepSpeed is not the point: autograd, and gradients averaged over ranks."""

    def __init__(self, model: torch.nn.Module, ranks: Ranks) -> None:
        self.policy = Policy(copy.deepcopy(model), chunk_size=64, temperature=1.0)
        self.ranks = ranks
        self.calls: list[str] = []
        self.gradient: dict[str, torch.Tensor] = {}

    def forward(self, sequences: Sequences, *, with_entropy: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        self.calls.append("forward" if torch.is_grad_enabled() else "score")
        return self.policy.score(sequences, with_entropy)

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        self.calls.append("last backward" if last else "backward")
        loss.backward()

    def step(self, learning_rate: float) -> float:
        self.calls.append("step")
        with torch.no_grad():
            for name, parameter in self.policy.named_parameters():
                own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                self.gradient[name] = self.ranks.sum(own) / self.ranks.world_size
                parameter -= learning_rate * self.gradient[name]
                parameter.grad = None
        return float(torch.cat([gradient.flatten() for gradient in self.gradient.values()]).norm())


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


class ScriptedEngine:
    """A rollout engine whose responses are given: by the prompt's text, one for each sample in turn."""

    def __init__(self, tokenizer: Any, answers: dict[str, list[str]]) -> None:
        self._tokenizer, self._answers = tokenizer, answers
        self.requests: list[Any] = []
        self.sampling: Any = None

    def generate(self, requests: Any, sampling: Any) -> list[Sample]:
        self.requests, self.sampling = list(requests), sampling
        samples, asked = [], dict.fromkeys(self._answers, 0)
        for request in requests:
            text = self._tokenizer.decode(list(request.prompt_ids), skip_special_tokens=True)
            question = next(question for question in self._answers if question in text)
            answer = self._answers[question][asked[question]]
            asked[question] += 1
            ids = tuple(self._tokenizer(answer)["input_ids"])
            samples.append(
                Sample(token_ids=ids, log_probs=(-1.0,) * len(ids), finished="cut" not in answer, policy_version=0)
            )
        return samples


class ScriptedStream:
    """Scores at once what it is given."""

    def __init__(self, scorer: "ScriptedScorer") -> None:
        self._scorer, self._scores = scorer, {}

    def add(self, index: int, item: Any) -> None:
        assert index not in self._scores
        self._scores[index] = self._scorer.score(*item)

    def close(self) -> None:
        pass

    def cancel(self) -> None:
        pass

    def scores(self) -> list[Score]:
        return [self._scores[index] for index in sorted(self._scores)]


class ScriptedScorer:
    """Rewards an answer with the number that it is; what is no number could not be rewarded."""

    def stream(self) -> "ScriptedStream":
        return ScriptedStream(self)

    def score(self, completion: Any, row: Row) -> Score:
        return self._score(completion.text, row)

    def _score(self, text: str, row: Row) -> Score:
        try:
            return Score(reward=float(text.replace("cut", "")))
        except ValueError:
            return Score(reward=0.0, error=f"no number: {text} (row {row.label})")


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return load_tokenizer("tiny")


@pytest.fixture
def scripted(tokenizer: Any) -> Callable[..., dict[str, Any]]:
    """Source, engine, scorer and tokenizer of a rollout whose questions and answers are given."""

    def make(answers: dict[str, list[str]]) -> dict[str, Any]:
        rows = [
            Row(prompt=({"role": "user", "content": question},), ground_truth="1", environment="scripted")
            for question in answers
        ]
        return {
            "source": LoadedRows(rows, seed=0, shuffle=False),
            "engine": ScriptedEngine(tokenizer, answers),
            "scorer": ScriptedScorer(),
            "tokenizer": tokenizer,
        }

    return make


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


@dataclass
class ForkedRun:
    """A run in a session and process group of its own."""

    group: int
    log: Path
    code_file: Path

    @property
    def code(self) -> int | None:
        """The exit code, negative for a signal; None while it goes on."""
        return int(self.code_file.read_text()) if self.code_file.exists() else None

    def kill(self) -> int:
        """End the whole group at once, as a power cut would, and wait until it is gone."""
        with suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(self.group, signal.SIGKILL)
        return self.wait()

    def wait(self, limit: float = 300) -> int:
        deadline = time.monotonic() + limit
        while (code := self.code) is None:
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.01)
        return code


class Zygote:
    """Starts runs in a fraction of a second: see zygote.py."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runs = 0
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("zygote.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
        )
        self._expect("ready")

    def start(self, argv: list[str], *, ranks: int = 1) -> ForkedRun:
        self._runs += 1
        log, code = self._folder / f"{self._runs}.log", self._folder / f"{self._runs}.code"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        order = {"argv": argv, "log": str(log), "code": str(code), "port": port, "ranks": ranks}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return ForkedRun(int(self._process.stdout.readline()), log, code)

    def train(self, argv: list[str], *, ranks: int = 1) -> str:
        """Run to the end; what it printed."""
        run = self.start(argv, ranks=ranks)
        assert run.wait() == 0, run.log.read_text()
        return run.log.read_text()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def _expect(self, line: str) -> None:
        said = self._process.stdout.readline().strip()
        assert said == line, f"{said!r} instead of {line!r}"


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


def _values(value: object, name: str) -> Iterator[tuple[str, Any]]:
    """The tensors and numbers in nested dicts and lists, by path."""
    if isinstance(value, (dict, list, tuple)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _values(inner, f"{name}/{key}")
    elif isinstance(value, (torch.Tensor, int, float)):
        yield name, value


@pytest.fixture(scope="session")
def state_tensors() -> Callable[[Path], dict[str, Any]]:
    """All values in the files of a checkpoint, by file and name: parameters, optimizer state, random numbers."""

    def read(checkpoint: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for path in sorted(checkpoint.rglob("*.pt")):
            content = torch.load(path, weights_only=False)
            found |= _values(content, path.relative_to(checkpoint).as_posix())
        assert any("exp_avg_sq" in name for name in found)
        return found

    return read


@pytest.fixture(scope="session")
def assert_same_state(state_tensors: Callable[[Path], dict[str, Any]]) -> Callable[[Path, Path], None]:
    """Two checkpoints hold the same, to the last bit."""

    def compare(one: Path, other: Path) -> None:
        wanted, got = state_tensors(one), state_tensors(other)
        assert wanted.keys() == got.keys()
        for name, value in wanted.items():
            same = torch.equal(value, got[name]) if isinstance(value, torch.Tensor) else value == got[name]
            assert same, name

    return compare


BIN = Path(sys.executable).parent
LIMIT = 400
"""Seconds for what takes a few on an idle machine."""


class Started:
    """A run in a process group of its own, as a terminal would make it, with what it writes in files."""

    def __init__(self, command: list[str], folder: Path, log: Path, environment: dict[str, str]) -> None:
        self.folder, self.output, self.errors = folder, log.with_suffix(".out"), log.with_suffix(".err")
        search_path = os.pathsep.join([str(BIN), os.environ["PATH"]])
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PATH": search_path} | environment
        with self.output.open("ab") as out, self.errors.open("ab") as err:
            self.process = subprocess.Popen(command, stdout=out, stderr=err, env=environment, start_new_session=True)

    def until(self, event: Callable[[], bool]) -> None:
        """Wait for an event of a run that goes on."""
        limit = time.monotonic() + LIMIT
        while not event():
            assert self.process.poll() is None, self.said
            assert time.monotonic() < limit, self.said
            time.sleep(0.05)

    def until_step(self, step: int) -> None:
        self.until(lambda: any(row["step"] >= step for row in self.rows))

    def until_said(self, text: str) -> None:
        self.until(lambda: text in self.said)

    def send(self, number: int) -> None:
        """A signal to all processes of the group, as from a terminal."""
        os.killpg(self.process.pid, number)

    def ended(self) -> int:
        return self.process.wait(LIMIT)

    @property
    def said(self) -> str:
        return self.errors.read_text()

    @property
    def last_line(self) -> str:
        return self.said.splitlines()[-1]

    @property
    def checkpoints(self) -> list[str]:
        """Their names, those of hidden folders too."""
        return sorted(path.name for path in (self.folder / "checkpoints").iterdir() if path.name != "latest")

    @property
    def run(self) -> dict[str, Any]:
        return json.loads((self.folder / "run.json").read_text())

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The training steps in metrics.jsonl."""
        file = self.folder / "metrics.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        return [row for row in (json.loads(line) for line in lines if line.endswith("\n")) if row["kind"] == "train"]


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
