"""The trainer engine on every ZeRO stage: precision, clipping, offloading, recomputation, state. Real DeepSpeed."""

import copy
import sys

import pytest
import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.comm.torch import build_shm_op
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_grad, safe_get_full_optimizer_state
from safetensors.torch import load_file
from tests.trainer.fixtures.families import models
from transformers import AutoModelForCausalLM

from skyrl_core.errors import SkyrlError
from skyrl_train.config.schema import DeepSpeedConfig, LoraConfig, OptimizerConfig
from skyrl_train.policy.adapters import add_adapters
from skyrl_train.policy.model_loading import recompute_activations
from skyrl_train.policy.policy import Policy
from skyrl_train.ranks.ranks import Ranks
from skyrl_train.rollout.weights import checkpoint_tensors
from skyrl_train.trainer_engine.zero import ZeroEngine

pytestmark = pytest.mark.train

STAGES = [0, 1, 2, 3]


@pytest.fixture
def ranks():
    ranks = Ranks.start()
    yield ranks
    ranks.end_run()


@pytest.fixture
def build(ranks, small_model):
    """Builds an engine with a copy of the small model; it is closed before the next one is built and after the test."""
    engines = []

    def close():
        while engines:
            engines.pop().close()

    def make(*, model=None, clip=None, optimizer=None, **deepspeed):
        close()
        deepspeed = DeepSpeedConfig(**deepspeed)
        dtype = torch.bfloat16 if deepspeed.precision == "bf16" else torch.float32
        model = copy.deepcopy(small_model if model is None else model).to(dtype)
        policy = Policy(model, chunk_size=64, temperature=1.0)
        engines.append(ZeroEngine(policy, deepspeed, OptimizerConfig(max_grad_norm=clip, **optimizer or {}), ranks))
        return engines[-1]

    yield make
    close()


def backward(engine, experience):
    """The mean negative log-likelihood of the batch, and its gradient."""
    log_probs, _ = engine.forward(experience.sequences, with_entropy=False)
    loss = -log_probs.sum() / experience.mask.sum()
    engine.backward(loss, last=True)
    return float(loss.detach())


def gradients(engine, experience):
    backward(engine, experience)
    named = engine.policy.model.named_parameters()
    return {name: safe_get_full_grad(parameter).clone() for name, parameter in named if parameter.requires_grad}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_trains_in_both_precisions(build, experience, stage, precision):
    engine = build(zero_stage=stage, precision=precision)
    losses = []
    for _ in range(30):
        losses.append(backward(engine, experience))
        engine.step(1e-2)
    assert losses[-1] < 0.7 * losses[0]
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    assert {tensor.dtype for _, tensor in engine.named_tensors()} == {dtype}


@pytest.mark.parametrize("stage", STAGES)
def test_in_bfloat16_updates_below_its_resolution_add_up_in_float32_weights(build, experience, stage):
    engine = build(zero_stage=stage, precision="bf16")

    def norm_weights():
        return torch.cat([t.detach().float().flatten() for name, t in engine.named_tensors() if "layernorm" in name])

    # AdamW moves every weight by about the learning rate. Below 1 bfloat16 steps by 2^-8 = 0.0039.
    backward(engine, experience)
    engine.step(1e-3)
    assert (norm_weights() == 1.0).all()
    parameter = engine.policy.model.model.norm.weight
    master = float32_weight(engine, parameter)
    assert master.dtype == torch.float32
    assert 5e-4 < float((master - 1).abs().max()) < 2e-3
    for _ in range(30):
        backward(engine, experience)
        engine.step(1e-3)
    assert (norm_weights() != 1.0).float().mean() > 0.5


def float32_weight(engine, parameter):
    """The float32 weights that the optimizer updates."""
    if engine.stage > 0:
        return safe_get_full_fp32_param(parameter)
    optimizer = engine._engine.optimizer
    position = next(i for i, own in enumerate(optimizer.fp16_groups[0]) if own is parameter)
    return optimizer.fp32_groups[0][position]


@pytest.mark.parametrize("stage", STAGES)
def test_gradients_are_clipped_as_torch_clips_them(build, small_model, experience, stage):
    plain = copy.deepcopy(small_model)
    log_probs, _ = Policy(plain, chunk_size=64, temperature=1.0).log_probs(experience.sequences, False)
    (-log_probs.sum() / experience.mask.sum()).backward()
    norm = float(torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.1))
    assert norm > 0.5  # otherwise nothing is clipped
    engine = build(zero_stage=stage, clip=0.1)
    backward(engine, experience)
    assert engine.step(1e-3) == pytest.approx(norm, rel=1e-5)
    for (name, wanted), parameter in zip(plain.named_parameters(), engine.policy.model.parameters(), strict=True):
        # AdamW's first moment after one step is 0.1 of the gradient.
        given = first_moment(engine, parameter) / 0.1
        torch.testing.assert_close(given, wanted.grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("stage", STAGES)
def test_in_bfloat16_gradients_are_clipped_by_their_norm_in_float32(build, experience, stage):
    engine = build(zero_stage=stage, clip=0.1, precision="bf16")
    found = {name: gradient.float() for name, gradient in gradients(engine, experience).items()}
    norm = float(torch.stack([gradient.norm() for gradient in found.values()]).norm())
    assert norm > 0.5
    assert engine.step(1e-3) == pytest.approx(norm, rel=1e-5)
    for name, parameter in engine.policy.model.named_parameters():
        torch.testing.assert_close(first_moment(engine, parameter), 0.1 * found[name] * 0.1 / norm, rtol=1e-4, atol=0)


@pytest.mark.parametrize("lora", [False, True], ids=["all weights", "adapters"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", STAGES)
def test_building_an_engine_moves_no_weight_and_makes_no_step(build, small_model, experience, stage, precision, lora):
    model = copy.deepcopy(small_model)
    if lora:
        add_adapters(model, LoraConfig(rank=2), seed=0)
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    before = {name: p.detach().to(dtype).float() for name, p in model.named_parameters() if p.requires_grad}
    engine = build(model=model, zero_stage=stage, precision=precision, optimizer={"weight_decay": 0.5})
    backward(engine, experience)
    engine.step(0.0)
    trained = {name: p for name, p in engine.policy.model.named_parameters() if p.requires_grad}
    assert trained.keys() == before.keys()
    for name, parameter in trained.items():
        weight = float32_weight(engine, parameter) if precision == "bf16" else full_weight(engine, parameter)
        assert torch.equal(weight, before[name]), name
    inner = getattr(engine._engine.optimizer, "optimizer", engine._engine.optimizer)
    assert {float(state["step"]) for state in inner.state.values()} == {1.0}


@pytest.mark.parametrize("lora", [False, True], ids=["all weights", "adapters"])
@pytest.mark.parametrize("stage", STAGES)
def test_the_norm_of_the_weights_covers_what_is_trained_and_shows_damage(build, small_model, stage, lora):
    model = copy.deepcopy(small_model)
    if lora:
        add_adapters(model, LoraConfig(rank=2), seed=0)
    trained = [parameter.detach().flatten() for parameter in model.parameters() if parameter.requires_grad]
    engine = build(model=model, zero_stage=stage)
    assert engine.weight_norm() == pytest.approx(float(torch.cat(trained).norm()), rel=1e-5)
    damaged = next(parameter for parameter in engine.policy.parameters() if parameter.requires_grad)
    (damaged.ds_tensor if stage == 3 else damaged).data.view(-1)[0] = float("nan")
    assert engine.weight_norm() != engine.weight_norm()


def full_weight(engine, parameter):
    return parameter.detach() if engine.stage == 0 else safe_get_full_fp32_param(parameter)


def first_moment(engine, parameter):
    if engine.stage == 0:
        own = float32_weight(engine, parameter) if parameter.dtype == torch.bfloat16 else parameter
        return engine._optimizer.optimizer.state[own]["exp_avg"]
    return safe_get_full_optimizer_state(parameter, "exp_avg")


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_an_offloaded_optimizer_makes_the_same_steps(build, experience, stage):
    ends = []
    for offload in (False, True):
        engine = build(zero_stage=stage, offload_optimizer=offload, clip=0.5)
        assert engine._engine.zero_use_cpu_optimizer() == offload
        for _ in range(3):
            backward(engine, experience)
            engine.step(1e-2)
        ends.append({name: tensor.detach().clone() for name, tensor in engine.named_tensors()})
    for name, tensor in ends[0].items():
        # Sums in another order: AdamW's step for a gradient near zero depends on rounding.
        torch.testing.assert_close(ends[1][name], tensor, rtol=0, atol=1e-4)


@pytest.mark.parametrize("stage", STAGES)
def test_an_adapter_of_the_output_embedding_gets_its_gradient(build, small_model, experience, stage):
    config = copy.deepcopy(small_model.config)
    config.tie_word_embeddings = False
    torch.manual_seed(0)
    model = type(small_model)(config).eval()
    add_adapters(model, LoraConfig(rank=2, target_modules=["up_proj", "lm_head"]), seed=0)
    torch.nn.init.normal_(model.lm_head.lora_B["default"].weight)  # zero would leave A without a gradient
    found = gradients(build(model=model, zero_stage=stage), experience)
    log_probs, _ = Policy(model, chunk_size=64, temperature=1.0).log_probs(experience.sequences, False)
    (-log_probs.sum() / experience.mask.sum()).backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert found.keys() == expected.keys()
    assert expected["lm_head.lora_A.default.weight"].abs().max() > 0
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("lora", [False, True], ids=["all weights", "adapters"])
@pytest.mark.parametrize("stage", STAGES)
def test_recomputed_activations_give_the_same_gradient(build, small_model, experience, stage, lora):
    found, calls = [], []
    for recompute in (False, True):
        model = copy.deepcopy(small_model)
        if lora:
            add_adapters(model, LoraConfig(rank=2), seed=0)
        if recompute:
            recompute_activations(model)
        engine = build(model=model, zero_stage=stage)
        count = []
        # Before the block, not after it: torch stops recomputing once it has what the backward pass needs.
        engine.policy.model.model.layers[0].mlp.register_forward_pre_hook(lambda *_, count=count: count.append(1))
        found.append(gradients(engine, experience))
        calls.append(len(count))
    assert calls == [1, 2]  # the second time in the backward pass
    assert any(gradient.abs().max() > 0 for gradient in found[0].values())
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_the_state_of_another_model_is_refused(train, build, tmp_path, stage):
    options = {"trainer.steps": 1, "evaluation.prompts": 0, "trainer.deepspeed.zero_stage": stage}
    train(tmp_path / "run", **options)
    engine = build(zero_stage=stage)
    with pytest.raises(SkyrlError, match=r"does not fit this run: .*\n  resume with the model, optimizer"):
        engine.load(tmp_path / "run/checkpoints/step_000001")


@pytest.mark.parametrize("stage", STAGES)
def test_options_of_the_optimizer_come_from_the_run_not_the_checkpoint(build, experience, tmp_path, stage):
    saved = build(zero_stage=stage)
    backward(saved, experience)
    saved.step(1e-3)
    saved.snapshot(tmp_path).write()
    weights = []
    for weight_decay in (0.0, 0.5):
        engine = build(zero_stage=stage, optimizer={"weight_decay": weight_decay, "betas": (0.5, 0.6)})
        engine.load(tmp_path)
        assert {(*group["betas"], group["weight_decay"]) for group in engine._engine.optimizer.param_groups} == {
            (0.5, 0.6, weight_decay)
        }
        backward(engine, experience)
        engine.step(1e-3)
        weights.append({name: tensor.clone() for name, tensor in engine.named_tensors()})
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_deepspeed_compiles_no_collective_for_cpus(build):
    build(zero_stage=0)
    assert get_accelerator().create_op_builder("ShareMemCommBuilder").NAME == "deepspeed_shm_comm"
    assert build_shm_op() is None


@pytest.mark.parametrize("lora", [False, True], ids=["all weights", "adapters"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_snapshot_equals_the_files_that_deepspeed_would_have_written(
    build, small_model, experience, tmp_path, stage, precision, lora
):
    model = copy.deepcopy(small_model)
    if lora:
        add_adapters(model, LoraConfig(rank=2), seed=0)
    engine = build(model=model, zero_stage=stage, precision=precision)
    backward(engine, experience)
    engine.step(1e-2)
    for name in ("theirs", "ours", "later"):
        (tmp_path / name).mkdir()
    snapshot, capture = engine.snapshot(tmp_path / "ours"), engine._engine.checkpoint_engine
    engine._engine.checkpoint_engine = TorchCheckpointEngine(engine._engine._config)
    engine.snapshot(tmp_path / "theirs")
    backward(engine, experience)
    engine.step(1e-2)
    engine._engine.checkpoint_engine = capture
    later = engine.snapshot(tmp_path / "later")
    snapshot.write()
    later.write()
    ours, theirs, after = (contents(tmp_path / name) for name in ("ours", "theirs", "later"))
    assert ours == theirs
    assert ours.keys() == after.keys()
    assert ours != after


def contents(folder):
    """Every file by name."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_fused_adamw_makes_the_same_step(build, experience):
    results = []
    for fused in (False, True):
        engine = build(optimizer={"fused": fused})
        for _ in range(3):
            backward(engine, experience)
            engine.step(1e-2)
        assert bool(engine._engine.optimizer.optimizer.param_groups[0]["fused"]) is fused
        results.append({name: tensor.clone() for name, tensor in engine.named_tensors()})
    for name, tensor in results[0].items():
        torch.testing.assert_close(results[1][name], tensor, rtol=0, atol=1e-4)  # steps of 1e-2, up to rounding


def test_adamw_in_8_bits_without_its_package_names_the_extra(build, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(SkyrlError, match=r"needs bitsandbytes .*pip install 'skyrl-train\[8bit\]'"):
        build(optimizer={"kind": "adamw_8bit"})


def test_sharded_experts_reach_a_rollout_engine_as_a_checkpoint_has_them(build, tmp_path):
    _, model = models("qwen3_moe")
    model.save_pretrained(tmp_path)
    engine = build(model=AutoModelForCausalLM.from_pretrained(tmp_path), zero_stage=3)
    written = load_file(tmp_path / "model.safetensors")
    # A tensor of a source is valid only until the next one is requested.
    sent = {name: tensor.detach().clone() for name, tensor in checkpoint_tensors(engine)}
    assert "model.layers.1.mlp.experts.3.gate_proj.weight" in sent
    assert sent.keys() == written.keys()
    assert all(torch.equal(sent[name], tensor) for name, tensor in written.items())
