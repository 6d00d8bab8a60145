"""Loads a model and its tokenizer by name: ``tiny``, a folder, or a hub name."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer

from skyrl_core.errors import SkyrlError
from skyrl_train.policy.prompts.attention import use_own_attention
from skyrl_train.tiny_model import TINY_MODEL

LARGE_LOGIT = 1000.0
"""Far above what models cap their logits at, 15 to 50."""
SMALL_LOGIT = 1e-6
"""Rounding, beside a hidden state."""


def resolve_model(name: str) -> str:
    """What transformers loads for this name: the shipped folder for ``tiny``, otherwise the name itself."""
    if name == "tiny":
        return str(TINY_MODEL)
    return str(Path(name).expanduser()) if Path(name).expanduser().exists() else name


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer, which pads with its end-of-sequence token.

    Raises:
        SkyrlError: it cannot be loaded, or has no end-of-sequence token.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(resolve_model(name))
    except Exception as error:
        raise _not_loaded("tokenizer", name, error) from error
    if tokenizer.eos_token_id is None:
        raise SkyrlError(f"the tokenizer of model {name!r} has no eos token: a response could never end by itself")
    # Padding is masked: any token that has an embedding will do. A pad token may have been added beyond the last one.
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(name: str, dtype: torch.dtype) -> PreTrainedModel:
    """The causal language model in this dtype, without dropout, in evaluation mode.

    Raises:
        SkyrlError: it cannot be loaded, or its logits are not a plain product of hidden state and output embedding.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(resolve_model(name), dtype=dtype)
    except Exception as error:
        raise _not_loaded("model", name, error) from error
    prepare_model(model)
    _check_plain_head(model, name)
    return model


def prepare_model(model: PreTrainedModel) -> None:
    """Make the model one that the trainer can train: without dropout, with the trainer's attention."""
    _remove_dropout(model)
    use_own_attention()
    model.eval()


def recompute_activations(model: PreTrainedModel) -> None:
    """Keep the inputs of each block alone, and compute the rest again in the backward pass."""
    # The reentrant way gives no gradient where the inputs need none: behind an embedding that adapters leave frozen.
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    # transformers recomputes in training mode only. Nothing else is in it: some experts are chosen at random there.
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    for module in layers or model.modules():  # a model's own code may ask in other places
        module.training = True


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end a response: the tokenizer's, and those of the model's generation config."""
    configured = model.generation_config.eos_token_id
    configured = configured if isinstance(configured, list) else [configured]
    return frozenset({int(tokenizer.eos_token_id)} | {int(token) for token in configured if token is not None})


def _remove_dropout(model: PreTrainedModel) -> None:
    # A ratio of two dropout draws is noise, not an update.
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if "dropout" in name and isinstance(value, float):  # attention hands it to a function
                setattr(module, name, 0.0)


@torch.no_grad()
def _check_plain_head(model: PreTrainedModel, name: str) -> None:
    head = model.get_output_embeddings()
    if head is None or getattr(head, "bias", None) is not None:
        raise SkyrlError(f"model {name!r} has no output embedding without bias; the trainer computes logits from one")
    if model.base_model is model:
        raise SkyrlError(
            f"model {name!r} gives no hidden states before its output embedding: choose another architecture"
        )
    ids = torch.arange(8).remainder(head.weight.shape[0])[None]
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    plain = torch.nn.functional.linear(hidden, head.weight)
    # As large as a cap would be felt, which a model with few or fresh weights does not reach by itself.
    largest = float(plain.abs().max())
    factor = LARGE_LOGIT / largest if largest > SMALL_LOGIT else 1.0  # a head of zeros has nothing to cap
    with head.register_forward_pre_hook(lambda _, arguments: (arguments[0] * factor, *arguments[1:])):
        logits = model(input_ids=ids, use_cache=False).logits
    if not torch.allclose(plain.float() * factor, logits.float(), rtol=1e-2, atol=1e-2 * LARGE_LOGIT):
        raise SkyrlError(
            f"model {name!r} changes its logits after the output embedding (soft-capping or scaling), which the "
            "trainer does not do: choose another architecture"
        )


def _not_loaded(what: str, name: str, error: Exception) -> SkyrlError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return SkyrlError(
        f"cannot load the {what} of model {name!r}: {reason}\n"
        "  model must be `tiny`, a folder that holds a transformers model, or a hub name that this machine can reach"
    )
