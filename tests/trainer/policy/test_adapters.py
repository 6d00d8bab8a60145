import copy
import sys
from contextlib import contextmanager

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from skyrl_core.errors import SkyrlError
from skyrl_train.config.schema import LoraConfig
from skyrl_train.policy.adapters import (
    adapters_off,
    add_adapters,
    has_adapters,
    merge_adapters,
    merged_tensors,
    save_adapters,
)
from skyrl_train.policy.policy import Policy, Sequences

IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 15, 16]])
SEQUENCES = Sequences(
    input_ids=IDS,
    attention_mask=torch.ones_like(IDS, dtype=torch.bool),
    response_start=torch.tensor([3, 3]),
    response_mask=torch.ones(2, 3, dtype=torch.bool),
)


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def base(request):
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=request.param,
    )
    return Qwen2ForCausalLM(config).eval()


def adapted(base, *, trained=True, **options):
    """A copy with adapters; trained ones are random and large, so that their effect is visible."""
    model = copy.deepcopy(base)
    add_adapters(model, LoraConfig(rank=2, **options), seed=0)
    if trained:
        generator = torch.Generator().manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(generator=generator)
    return model


def test_without_a_rank_no_adapters_are_added(base):
    model = copy.deepcopy(base)
    add_adapters(model, LoraConfig(), seed=0)
    assert not has_adapters(model)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_without_peft_the_error_names_the_command(base, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(SkyrlError, match=r"pip install 'skyrl-train\[lora\]'"):
        adapted(base)


def test_new_adapters_do_not_change_the_logits_and_only_they_are_trained(base):
    model = adapted(base, trained=False)
    assert torch.equal(model(IDS).logits, base(IDS).logits)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    # Two factors for each of seven linear layers in two blocks; the output embedding has no adapter.
    assert len(trained) == 2 * 7 * 2
    assert all("lora_" in name for name in trained)


def test_new_adapters_depend_only_on_the_seed_and_do_not_advance_the_generator(base):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one = adapted(base, trained=False).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    other = adapted(base, trained=False).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_policy_applies_adapters_in_the_blocks(base):
    model = adapted(base)
    log_probs, _ = Policy(model, chunk_size=4, temperature=1.0).log_probs(SEQUENCES, False)
    expected = model(IDS).logits.log_softmax(-1)[:, 2:5].gather(-1, IDS[:, 3:, None]).squeeze(-1)
    torch.testing.assert_close(log_probs, expected)
    assert (log_probs - Policy(base, chunk_size=4, temperature=1.0).log_probs(SEQUENCES, False)[0]).abs().max() > 0.1


@pytest.mark.parametrize("options", [{}, {"rank_stabilised": True, "alpha": 3}], ids=["plain", "rsLoRA"])
def test_a_plain_model_with_merged_tensors_computes_the_same_logits(base, options):
    model = adapted(base, **options)
    tensors = dict(merged_tensors(model))
    plain = copy.deepcopy(base)
    parameters = dict(plain.named_parameters())
    assert tensors.keys() == parameters.keys()
    with torch.no_grad():
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)
    torch.testing.assert_close(plain(IDS).logits, model(IDS).logits, rtol=1e-4, atol=1e-4)
    # By hand, for one layer: W + alpha / r B A, or alpha / sqrt(r) if rank-stabilised.
    layer = model.model.layers[1].mlp.up_proj
    scale = 3 / 2**0.5 if options else 32 / 2
    change = scale * layer.lora_B.default.weight @ layer.lora_A.default.weight
    torch.testing.assert_close(tensors["model.layers.1.mlp.up_proj.weight"], layer.base_layer.weight + change)


def test_weights_are_gathered_several_at_a_time_and_never_beyond_the_limit(base, monkeypatch):
    limit = 4 * 3000
    monkeypatch.setattr("skyrl_train.policy.adapters.GATHERED_BYTES", limit)
    gathered, complete = [], set()

    @contextmanager
    def gather(parameters):
        gathered.append(parameters)
        complete.update(map(id, parameters))
        yield
        complete.clear()

    model = adapted(base)
    names = []
    for name, tensor in merged_tensors(model, gather):
        assert id(tensor) in complete or not isinstance(tensor, torch.nn.Parameter)
        names.append(name)
    assert names == [name for name, _ in base.named_parameters()]
    sizes = [sum(4 * parameter.numel() for parameter in parameters) for parameters in gathered]
    largest = max(4 * parameter.numel() for parameter in model.parameters())
    assert all(size <= max(limit, 2 * largest) for size in sizes)
    assert len(gathered) <= 2 * sum(sizes) / limit + 1


def test_logits_with_adapters_off_are_bit_identical_to_those_of_the_base(base):
    model = adapted(base)
    wanted = model(IDS).logits
    with adapters_off(model):
        assert torch.equal(model(IDS).logits, base(IDS).logits)
    assert torch.equal(model(IDS).logits, wanted)


def test_an_error_while_adapters_are_off_enables_them_again(base):
    model = adapted(base)
    wanted = model(IDS).logits
    with pytest.raises(IndexError), adapters_off(model):
        model(IDS + 40)  # beyond the vocabulary
    assert torch.equal(model(IDS).logits, wanted)


def test_transformers_loads_a_merged_model_as_a_plain_one(base, tmp_path):
    model = adapted(base)
    wanted = model(IDS).logits
    merge_adapters(model)
    assert not has_adapters(model)
    assert model.state_dict().keys() == base.state_dict().keys()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(IDS).logits, wanted, rtol=1e-4, atol=1e-4)


def test_peft_loads_the_saved_adapters(base, tmp_path):
    from peft import PeftModel

    model = adapted(base)
    save_adapters(model, tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path / "adapter"))
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)


def test_a_list_of_names_selects_the_layers(base):
    model = adapted(base, target_modules=["q_proj", "v_proj"])
    layers = {name.split(".lora_")[0].rpartition(".")[2] for name, _ in model.named_parameters() if ".lora_" in name}
    assert layers == {"q_proj", "v_proj"}


def test_an_adapter_of_the_input_embedding_is_refused(base):
    with pytest.raises(SkyrlError, match="embed_tokens cannot have an adapter, because it is not a linear layer"):
        adapted(base, target_modules=["q_proj", "embed_tokens"])


@pytest.mark.parametrize("base", [True], ids=["tied"], indirect=True)
def test_an_adapter_of_a_tied_output_embedding_is_refused(base):
    with pytest.raises(SkyrlError, match="lm_head cannot have an adapter, because its weight is also the input"):
        adapted(base, target_modules=["q_proj", "lm_head"])


@pytest.mark.parametrize("base", [False], ids=["untied"], indirect=True)
@pytest.mark.parametrize("modules", [["lm_head"], ["q_proj", "lm_head"]], ids=["only", "and another"])
def test_an_untied_output_embedding_may_have_an_adapter(base, modules):
    model = adapted(base, target_modules=modules)
    policy = Policy(model, chunk_size=4, temperature=0.7)

    def gradients(log_probs):
        model.zero_grad()
        (log_probs * torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])).sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    log_probs, _ = policy.log_probs(SEQUENCES, False)
    wanted = (model(IDS).logits / 0.7).log_softmax(-1)[:, 2:5].gather(-1, IDS[:, 3:, None]).squeeze(-1)
    torch.testing.assert_close(log_probs, wanted, rtol=1e-4, atol=1e-4)
    found, expected = gradients(log_probs), gradients(wanted)
    assert len(expected) == (2 if modules == ["lm_head"] else 6)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-3)
    with adapters_off(model), torch.no_grad():
        plain = Policy(base, chunk_size=4, temperature=0.7).log_probs(SEQUENCES, False)[0]
        assert torch.equal(policy.log_probs(SEQUENCES, False)[0], plain)
    merged = copy.deepcopy(model)
    merge_adapters(merged)
    assert torch.equal(merged.lm_head.weight, dict(merged_tensors(model))["lm_head.weight"])
    torch.testing.assert_close(merged(IDS).logits, model(IDS).logits, rtol=1e-4, atol=1e-4)


def test_the_error_for_unknown_layer_names_lists_the_linear_layers(base):
    with pytest.raises(SkyrlError, match=r"does not fit the model: .* linear layers .*down_proj, .*v_proj"):
        adapted(base, target_modules=["attention"])


EXPERTS = {
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {"num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8},
    "deepseek_v3": {
        **{"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "first_k_dense_replace": 1},
        **{"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8},
        **{"n_group": 1, "topk_group": 1},
    },
}


def mixture(kind):
    sizes = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    sizes |= {
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **EXPERTS[kind])).eval()


@pytest.mark.parametrize("kind", EXPERTS)
def test_the_default_layers_exist_in_every_mixture_of_experts_which_stay_frozen(kind, tmp_path):
    from peft import PeftModel

    base = mixture(kind)
    model = adapted(base)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any(".self_attn." in name for name in trained)
    assert not any(".experts." in name for name in trained)
    wanted = model(IDS).logits
    assert not torch.equal(wanted, base(IDS).logits)
    save_adapters(model, tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path / "adapter"))
    torch.testing.assert_close(loaded(IDS).logits, wanted, rtol=1e-4, atol=1e-4)
    merge_adapters(model)
    torch.testing.assert_close(model(IDS).logits, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("names", [["q_proj", "gate_proj"], ["gate_proj", "up_proj", "down_proj"]])
def test_the_names_of_experts_are_refused(names):
    with pytest.raises(SkyrlError, match=r"gate_proj.* include the experts of this model.*choose all-linear"):
        add_adapters(mixture("qwen3_moe"), LoraConfig(rank=4, target_modules=tuple(names)), seed=0)
