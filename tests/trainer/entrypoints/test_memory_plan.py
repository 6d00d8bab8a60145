"""The memory of a rank: arithmetic by hand, and the state that DeepSpeed really keeps."""

import json

import pytest
import torch

from skyrl_train.config.schema import RunConfig
from skyrl_train.entrypoints import memory_plan
from skyrl_train.entrypoints.memory_plan import (
    KEPT_MAX_BYTES,
    KEPT_MIN_BYTES,
    KEPT_SHARE,
    TILE,
    MemoryPlan,
    plan_memory,
)
from skyrl_train.entrypoints.rank_plan import plan_ranks
from skyrl_train.policy.adapters import add_adapters
from skyrl_train.policy.log_probs import tiled_log_probs
from skyrl_train.policy.model_loading import load_model
from skyrl_train.policy.policy import Policy
from skyrl_train.ranks.ranks import Ranks
from skyrl_train.trainer_engine.zero import ZeroEngine

TINY = 845_952
GIB = 2**30


def plan(ranks=1, **options) -> MemoryPlan:
    config = RunConfig.model_validate(options)
    return plan_memory(config, plan_ranks(config, ranks))


def deepspeed(**options):
    return {"trainer": {"deepspeed": options}}


def sizes(found: MemoryPlan) -> dict[str, int]:
    return {part.name: part.bytes for part in found.components}


@pytest.fixture
def billion(tmp_path):
    """A folder with the configuration of a model of about 1.1 billion parameters, and no weights."""
    values = {
        "model_type": "llama",
        "vocab_size": 32_000,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "max_position_embeddings": 2048,
    }
    (tmp_path / "config.json").write_text(json.dumps(values))
    return str(tmp_path)


@pytest.fixture
def ranks():
    ranks = Ranks.start()
    yield ranks
    ranks.end_run()


# TinyLlama-1.1B: embeddings 2 x 32000 x 2048; a layer 2 x 2048^2 + 2 x 256 x 2048 + 3 x 5632 x 2048 + 2 x 2048; a norm.
BILLION = 2 * 32_000 * 2048 + 22 * (2 * 2048**2 + 2 * 256 * 2048 + 3 * 5632 * 2048 + 2 * 2048) + 2048


@pytest.mark.parametrize(
    ("stage", "precision", "weights", "gradients", "optimizer"),
    [  # bytes for each parameter on 4 ranks
        (0, "fp32", 4, 4, 8),
        (1, "fp32", 4, 4, 12 / 4),
        (2, "fp32", 4, 4 / 4, 12 / 4),
        (3, "fp32", 4 / 4, 4 / 4, 12 / 4),
        (0, "bf16", 2, 2, 12),
        (1, "bf16", 2, 2, 12 / 4),
        (2, "bf16", 2, 2 / 4, 12 / 4),
        (3, "bf16", 2 / 4, 2 / 4, 12 / 4),
    ],
)
def test_each_stage_shards_what_it_should(billion, stage, precision, weights, gradients, optimizer):
    found = plan(4, model=billion, **deepspeed(zero_stage=stage, precision=precision))
    assert found.parameters == found.trained == BILLION == 1_100_048_384
    measured = sizes(found)
    # On stage 2 and 3 shards are padded by a few numbers.
    assert measured["weights"] == pytest.approx(weights * BILLION, rel=1e-6)
    assert measured["gradients"] == pytest.approx(gradients * BILLION, rel=1e-6)
    assert measured["optimizer"] == pytest.approx(optimizer * BILLION, rel=1e-6)


def test_options_move_and_shrink_components(billion):
    offloaded = plan(model=billion, **deepspeed(zero_stage=2, offload_optimizer=True))
    assert {part.name for part in offloaded.components if part.place == "host"} >= {"gradients", "optimizer", "copies"}
    small = plan(model=billion, trainer={"optimizer": {"kind": "adamw_8bit"}, "deepspeed": {"zero_stage": 0}})
    # Two bytes of moments, and two float32 scales for each 256 parameters.
    assert sizes(small)["optimizer"] == pytest.approx((2 + 8 / 256) * BILLION, rel=1e-6)
    reference = plan(model=billion, trainer={"algorithm": {"kl_coef": 0.1}})
    assert sizes(reference)["reference model"] == 4 * BILLION
    assert sizes(plan(model=billion, **deepspeed(zero_stage=3)))["rollout engine's weights"] == 4 * BILLION
    bucket = {"zero_optimization": {"reduce_bucket_size": 1000}}
    assert sizes(plan(model=billion, **deepspeed(extra=bucket)))["reduction bucket"] == 4000
    vllm = plan(model=billion, rollout={"engine": "vllm", "vllm": {"kv_cache_gib": 2}})
    assert sizes(vllm)["KV cache"] == 2 * GIB
    recomputed = plan(model=billion, **deepspeed(gradient_checkpointing=True))
    # 32 sequences of up to 1024 + 256 tokens, the input of each of 22 blocks in float32.
    assert sizes(recomputed)["inputs of the blocks, at most"] == 22 * 32 * 1280 * 2048 * 4
    # 128 sequences are decoded together; a token has 4 heads of 64 keys and values in each layer.
    assert sizes(recomputed)["KV cache, at most"] == 200 * 1280 * 22 * 2 * 4 * 64 * 4


def test_a_plan_judges_the_memory_of_a_machine(billion, monkeypatch):
    verdicts = []
    for gib in (1000, 25, 10):
        monkeypatch.setattr(memory_plan, "main_memory", lambda gib=gib: gib * GIB)
        verdicts.append(plan(model=billion).verdict)
    # The states take 20 bytes for each parameter and the copy of a checkpoint 16 more; the rest is temporary.
    assert verdicts == ["fits", "does not fit", "does not fit"]
    monkeypatch.setattr(memory_plan, "main_memory", lambda: 40 * GIB)
    assert plan(model=billion).verdict == "may not fit"
    monkeypatch.setattr(memory_plan, "main_memory", lambda: None)
    assert plan(model=billion).verdict == "unknown"
    monkeypatch.setattr(memory_plan, "main_memory", lambda: 1000 * GIB)
    monkeypatch.setattr(memory_plan, "gpu_memory", lambda: [80 * GIB, 80 * GIB])
    on_gpus = plan(2, model=billion)
    assert (on_gpus.verdict, on_gpus.device, on_gpus.limit) == ("fits", "cuda", 80 * GIB)
    monkeypatch.setattr(memory_plan, "gpu_memory", lambda: [8 * GIB])
    assert plan(model=billion).verdict == "does not fit"
    # vLLM takes its share of the device, weights included.
    monkeypatch.setattr(memory_plan, "gpu_memory", lambda: [80 * GIB])
    cache = sizes(plan(model=billion, rollout={"engine": "vllm", "vllm": {"gpu_memory_utilization": 0.5}}))["KV cache"]
    assert cache == 40 * GIB - 4 * BILLION


def test_a_model_that_is_not_here_is_unknown():
    found = plan(model="nobody/no-such-model")
    assert (found.parameters, found.verdict) == (None, "unknown")
    assert "is not in the cache of this machine" in found.unknown[0]


def test_the_constants_are_those_of_the_log_probs():
    assert (KEPT_SHARE, KEPT_MAX_BYTES, KEPT_MIN_BYTES) == (
        tiled_log_probs.KEPT_SHARE,
        tiled_log_probs.KEPT_MAX_BYTES,
        tiled_log_probs.KEPT_MIN_BYTES,
    )
    assert {"host": tiled_log_probs.TILE["cpu"], "device": tiled_log_probs.TILE["cuda"]} == TILE


@pytest.mark.parametrize("rank", [None, 4])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_plan_equals_the_state_of_deepspeed(ranks, experience, stage, precision, rank):
    options = {"zero_stage": stage, "precision": precision}
    config = RunConfig.model_validate({"trainer": {"deepspeed": options, "lora": {"rank": rank}}})
    model = load_model("tiny", torch.float32 if precision == "fp32" else torch.bfloat16)
    add_adapters(model, config.trainer.lora, seed=0)
    engine = ZeroEngine(
        Policy(model, chunk_size=64, temperature=1.0), config.trainer.deepspeed, config.trainer.optimizer, ranks
    )
    try:
        log_probs, _ = engine.forward(experience.sequences, with_entropy=False)
        engine.backward(-log_probs.sum(), last=True)
        engine.step(1e-3)
        found = plan_memory(config, plan_ranks(config, 1))
        assert found.parameters == sum(tensor.numel() for _, tensor in engine.named_tensors()) == TINY
        assert sizes(found)["optimizer"] == _optimizer_bytes(engine)
    finally:
        engine.close()


def _optimizer_bytes(engine) -> int:
    """The moments of every parameter, and the weights that the optimizer updates if they are not the model's."""
    wrapper = engine._engine.optimizer
    inner = getattr(wrapper, "optimizer", wrapper)
    own = {tensor.data_ptr() for tensor in engine.policy.parameters()}
    total = 0
    for parameter, state in inner.state.items():
        total += sum(value.nbytes for name, value in state.items() if name != "step")
        total += parameter.nbytes if parameter.data_ptr() not in own else 0
    return total
