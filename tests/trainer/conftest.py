"""Fixtures shared by several test packages: small models, and real rollout servers (`skyrl serve`), each in a separate
process group that ends with its tests."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tests.trainer.fixtures.run_fixtures import (  # fixtures of every folder below
    assert_same_state as assert_same_state,
)
from tests.trainer.fixtures.run_fixtures import (
    experience as experience,
)
from tests.trainer.fixtures.run_fixtures import (
    on_ranks as on_ranks,
)
from tests.trainer.fixtures.run_fixtures import (
    one_rank as one_rank,
)
from tests.trainer.fixtures.run_fixtures import (
    plain_engine as plain_engine,
)
from tests.trainer.fixtures.run_fixtures import (
    sample as sample,
)
from tests.trainer.fixtures.run_fixtures import (
    scripted as scripted,
)
from tests.trainer.fixtures.run_fixtures import (
    small_disk as small_disk,
)
from tests.trainer.fixtures.run_fixtures import (
    small_model as small_model,
)
from tests.trainer.fixtures.run_fixtures import (
    start as start,
)
from tests.trainer.fixtures.run_fixtures import (
    tiny_run as tiny_run,
)
from tests.trainer.fixtures.run_fixtures import (
    tokenizer as tokenizer,
)
from tests.trainer.fixtures.run_fixtures import (
    train as train,
)
from tests.trainer.fixtures.run_fixtures import (
    train_rows as train_rows,
)
from tests.trainer.fixtures.run_fixtures import (
    zygote as zygote,
)
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from skyrl_train.policy.model_loading import prepare_model

SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
FAMILIES = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM),
}

START_LIMIT = 400
"""Seconds; 20 on an idle machine."""


@pytest.fixture(scope="session")
def model_of() -> Callable[..., PreTrainedModel]:
    """Builds a model of a family as the trainer does, with random weights that do not depend on the order of tests."""

    def build(kind: str, dtype: torch.dtype = torch.float32, **changes: object) -> PreTrainedModel:
        torch.manual_seed(0)
        if kind == "gpt2":
            model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=64, n_embd=32, n_layer=2, n_head=4))
        elif kind == "bloom":
            model = BloomForCausalLM(BloomConfig(vocab_size=50, hidden_size=32, n_layer=2, n_head=4))
        else:
            config, model_class = FAMILIES[kind]
            model = model_class(config(**(SMALL | changes)))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.2)  # with the default weights attention would hardly matter
        prepare_model(model)
        return model.to(dtype)

    return build


class ServerProcess:
    """A server that can be killed, stopped and restarted at the same address."""

    def __init__(self, folder: Path, options: list[str]) -> None:
        self.reserved = socket.socket()
        """Reserves the port. Servers can still bind to it, because this socket never listens."""
        self.reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.reserved.bind(("127.0.0.1", 0))
        self.port = int(self.reserved.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / f"server-{self.port}.log"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "ServerProcess":
        command = [str(Path(sys.executable).parent / "skyrl"), "serve", "--port", str(self.port), *self._options]
        with self.log.open("ab") as log:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        return self

    def wait(self) -> "ServerProcess":
        """Wait until the server answers."""
        deadline = time.monotonic() + START_LIMIT
        while not self.is_healthy():
            assert self._process.poll() is None, f"the server has ended:\n{self.tail()}"
            assert time.monotonic() < deadline, f"the server does not start:\n{self.tail()}"
            time.sleep(0.5)
        return self

    def is_healthy(self) -> bool:
        try:
            self._get("/health")
        except OSError:  # urllib's errors are OSErrors
            return False
        return True

    def running(self) -> int:
        """The number of running requests."""
        counts = [line for line in self._get("/metrics").splitlines() if line.startswith("vllm:num_requests_running")]
        return int(sum(float(line.rsplit(" ", 1)[1]) for line in counts))

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to every process of the server."""
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        """Kill the server, unless it has ended."""
        if self._process is not None and self._process.poll() is None:
            self.send_signal(signal.SIGKILL)
            self._process.wait()

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return str(answer.read().decode())


@pytest.fixture(scope="module")
def serve(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., object]]:
    """Start a server with these options of `skyrl serve`; call `wait` before using it."""
    servers: list[ServerProcess] = []

    def start(*options: str) -> ServerProcess:
        servers.append(ServerProcess(tmp_path_factory.mktemp("server"), list(options)))
        return servers[-1].start()

    request.node.servers = servers
    yield start
    for server in servers:
        server.kill()
        server.reserved.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Add the servers' logs to the report of a failing test."""
    report = yield
    if report.failed:
        for server in getattr(item.getparent(pytest.Module), "servers", []):
            report.sections.append((f"end of the rollout server's log {server.log}", server.tail()))
    return report
