"""Adapters in complete runs: only they change, the base is the reference model, and other tools load the result."""

import json

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from skyrl_core.registry.resolved_loss import ResolvedLoss
from skyrl_train.checkpoints.model_export import export
from skyrl_train.commands.eval import main as evaluate
from skyrl_train.config.schema import DeepSpeedConfig, LoraConfig, OptimizerConfig
from skyrl_train.policy.adapters import adapters_off, add_adapters
from skyrl_train.policy.model_loading import load_model
from skyrl_train.policy.policy import Policy, Sequences
from skyrl_train.ranks.ranks import Ranks
from skyrl_train.step.batching import MicroBatchSize
from skyrl_train.step.objective import Objective
from skyrl_train.step.update import PolicyUpdate
from skyrl_train.tiny_model import TINY_MODEL
from skyrl_train.trainer_engine.zero import ZeroEngine

pytestmark = pytest.mark.train

OPTIONS = {
    "trainer.lora.rank": 4,
    "trainer.optimizer.learning_rate": 5e-3,
    "trainer.algorithm.kl_coef": 0.01,
    "trainer.steps": 4,
}
IDS = torch.arange(2, 34).reshape(2, 16)
SEQUENCES = Sequences(
    input_ids=IDS,
    attention_mask=torch.ones(2, 16, dtype=torch.bool),
    response_start=torch.tensor([4, 4]),
    response_mask=torch.ones(2, 12, dtype=torch.bool),
)


@pytest.fixture(scope="module", params=[0, 2, 3])
def trained(request, train, tmp_path_factory):
    """A run on this stage, and its engine's final base weights, merged weights and log-probs."""
    held, close = {}, ZeroEngine.close

    def look(engine):
        with adapters_off(engine.policy.model):
            held["base"] = {name: tensor.detach().clone() for name, tensor in engine.named_tensors()}
        held["merged"] = {name: tensor.detach().clone() for name, tensor in engine.named_tensors()}
        with torch.no_grad():
            held["log_probs"] = engine.forward(SEQUENCES, with_entropy=False)[0]
        close(engine)

    folder = tmp_path_factory.mktemp(f"stage{request.param}") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ZeroEngine, "close", look)
        lines = train(folder, **OPTIONS, **{"trainer.deepspeed.zero_stage": request.param})
    return folder, lines, held


@pytest.mark.parametrize("stage", [2, 3])
def test_adapters_can_fit_a_batch(stage, experience):
    ranks = Ranks.start()
    model = load_model("tiny", torch.float32)
    add_adapters(model, LoraConfig(rank=4), seed=0)
    policy = Policy(model, chunk_size=64, temperature=1.0)
    engine = ZeroEngine(policy, DeepSpeedConfig(zero_stage=stage), OptimizerConfig(), ranks)
    loss = ResolvedLoss.find("cross_entropy", {}).scheduled()
    objective = Objective(loss=loss, reduction="token_mean", max_length=8)
    update = PolicyUpdate(engine, objective, ranks, micro_batch_size=MicroBatchSize(sequences=4), pad_id=0)
    logs = [update.step(experience, num_groups=5, learning_rate=1e-2, step=step) for step in range(20)]
    engine.close()
    ranks.end_run()
    first, last = (float(log.totals["loss/total"]) for log in (logs[0], logs[-1]))
    assert 0 < last < first / 3


def test_adapters_change_and_the_base_stays_to_the_last_bit(trained):
    _, lines, held = trained
    before = load_model("tiny", torch.float32).state_dict()
    assert held["base"].keys() <= before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in held["base"].items())
    changed = {name for name, tensor in held["merged"].items() if not torch.equal(tensor, before[name])}
    assert len(changed) == 4 * 7  # every linear layer of the four blocks
    steps = [line for line in lines if line["kind"] == "train"]
    assert steps[0]["kl"] == pytest.approx(0.0, abs=1e-9)
    assert steps[-1]["kl"] > 1e-3  # it has left the reference


def test_a_checkpoint_holds_only_adapters_and_their_optimizer_state(trained):
    state = trained[0] / "checkpoints" / "step_000004" / "state"
    model = load_model("tiny", torch.float32)
    frozen, sizes = sum(p.numel() for p in model.parameters()), []
    for file in state.iterdir():
        sizes.append(file.stat().st_size)
        content = torch.load(file, weights_only=False, map_location="cpu")
        for name, tensor in content.get("module", {}).items():
            assert "lora_" in name, name
            assert tensor.numel() < 4 * 400
    assert sum(sizes) < 4 * frozen  # bytes of the base in float32: the checkpoint does not contain it


def test_the_exported_model_is_the_trained_policy(trained, tmp_path):
    folder, _, held = trained
    exported = export(folder, tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32)
    for name, tensor in held["merged"].items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=0, atol=1e-6)
    with torch.no_grad():
        log_probs, _ = Policy(model, chunk_size=64, temperature=1.0).log_probs(SEQUENCES, False)
    torch.testing.assert_close(log_probs, held["log_probs"], rtol=0, atol=1e-3)
    base = AutoModelForCausalLM.from_pretrained(TINY_MODEL, dtype=torch.float32)
    with_adapters = PeftModel.from_pretrained(base, str(exported / "adapter"))
    torch.testing.assert_close(with_adapters(IDS).logits, model(IDS).logits, rtol=1e-3, atol=1e-3)


def test_a_run_measured_again_gives_its_last_evaluation(trained, capsys):
    folder, lines, _ = trained
    assert evaluate([str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["measures"]["pass@1"]["value"] == pytest.approx(lines[-1]["accuracy"], abs=0.13)  # one of 8 problems
