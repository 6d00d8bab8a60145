"""One rank of ``benchmarks/memory.py``: prints the bytes that training adds to this process at one ZeRO stage."""

import ctypes
import gc
import json
import sys
from pathlib import Path

import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from skyrl_train.config.schema import DeepSpeedConfig, OptimizerConfig
from skyrl_train.policy.model_loading import prepare_model
from skyrl_train.policy.policy import Policy, Sequences
from skyrl_train.ranks.ranks import Ranks
from skyrl_train.trainer_engine.zero import ZeroEngine

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def build_model(dtype: torch.dtype, *, layers: int = 12) -> PreTrainedModel:
    """A Qwen2 of at most 120 million random parameters: large enough to dominate all other memory."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=8192,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=layers,
        num_attention_heads=12,
        num_key_value_heads=12,
        tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM(config).to(dtype)
    prepare_model(model)
    return model


def resident() -> int:
    """The anonymous memory of this process in bytes, after freed memory has returned to the system."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return _status("RssAnon")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])


def measure(stage: int, precision: str) -> dict[str, float]:
    """The bytes beyond the memory before the model was built; the maximum over ranks."""
    torch.set_num_threads(1)
    ranks = Ranks.start()
    ranks.sum(torch.ones(1))  # opens gloo's connections, which do not count as the model's memory
    before, peak_before = resident(), _status("VmRSS")
    model = build_model(DTYPES[precision])
    parameters = sum(parameter.numel() for parameter in model.parameters())
    largest = max(sum(p.numel() for p in module.parameters(recurse=False)) for module in model.modules())
    engine = ZeroEngine(
        Policy(model, chunk_size=64, temperature=1.0),
        DeepSpeedConfig(zero_stage=stage, precision=precision),
        OptimizerConfig(max_grad_norm=None),
        ranks,
    )
    sequences = Sequences(
        input_ids=torch.arange(8)[None],
        attention_mask=torch.ones(1, 8, dtype=torch.bool),
        response_start=torch.tensor([4]),
        response_mask=torch.ones(1, 4, dtype=torch.bool),
    )
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak: measure training, not building
    found = {}
    for _ in range(2):  # the first step creates the optimizer's state
        log_probs, _ = engine.forward(sequences, with_entropy=False)
        engine.backward(-log_probs.sum(), last=True)
        del log_probs
        found["with_gradients"] = float(ranks.max(torch.tensor(resident() - before)))
        engine.step(1e-4)
        found["between_steps"] = float(ranks.max(torch.tensor(resident() - before)))
    found["peak"] = float(ranks.max(torch.tensor(_status("VmHWM") - peak_before)))
    engine.close()
    return {**found, "parameters": parameters, "largest_layer": largest, "main": ranks.is_main}


if __name__ == "__main__":
    result = measure(int(sys.argv[1]), sys.argv[2])
    if result.pop("main"):
        print(json.dumps(result), flush=True)
