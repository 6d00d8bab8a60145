"""Loads a model and its tokenizer by name: ``tiny``, a folder, or a hub name.

Every call of transformers that reads a model's files is here, so that none runs the model's code, or asks whether to
run it, unless ``model_options.trust_remote_code`` is true.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from skyrl_core.errors import SkyrlError
from skyrl_train.config.schema import ModelOptions
from skyrl_train.data.prompt_tokens import LIMITS, ModelLimits
from skyrl_train.policy.prompts.attention import register_attention
from skyrl_train.tiny_model import TINY_MODEL

INDICATORS = ("tokenizer_config.json", "tokenizer.json", "config.json")
"""Files of which every tokenizer of a hub has one."""
TOKENIZER_FILES = (
    *("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template*"),
    *("additional_chat_templates/*", "*.model", "*.tiktoken", "tekken.json", "normalizer.json", "sentencepiece*"),
    *("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"),  # of multimodal models
)
LARGE_LOGIT = 1000.0
"""Far above the caps that models use, which are 15 to 50."""
SMALL_LOGIT = 1e-6
"""Only rounding error, compared with a hidden state."""


def resolve_model(name: str) -> str:
    """The name for transformers: the shipped folder for ``tiny``, else the folder or hub name itself."""
    if name == "tiny":
        return str(TINY_MODEL)
    return str(Path(name).expanduser()) if Path(name).expanduser().exists() else name


def load_config(name: str, options: ModelOptions | None = None, *, part: str = "configuration") -> PreTrainedConfig:
    """The model's configuration; ``part`` is the part of the model that an error names.

    Raises:
        SkyrlError: it cannot be loaded.
    """
    try:
        return AutoConfig.from_pretrained(resolve_model(name), **_source(options))
    except Exception as error:
        raise _loading_error(part, name, error) from error


def load_tokenizer(name: str, options: ModelOptions | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer, set to pad with its end-of-sequence token.

    It carries the limits of the model, against which prompts are checked.

    Raises:
        SkyrlError: it cannot be loaded, has no end-of-sequence token, or its model is no causal language model.
    """
    config = None
    with suppress(SkyrlError):  # a folder with a tokenizer only
        config = load_config(name, options)
    if config is not None:
        _check_kind(name, config)
    try:
        tokenizer = AutoTokenizer.from_pretrained(resolve_model(name), **_source(options))
    except Exception as error:
        raise _loading_error("tokenizer", name, error) from error
    if tokenizer.eos_token_id is None:
        raise SkyrlError(f"the tokenizer of model {name!r} has no eos token to end responses: choose another model")
    # Padding is masked, so any token with an embedding will do; an added pad token may lie outside the embedding.
    tokenizer.pad_token = tokenizer.eos_token
    setattr(tokenizer, LIMITS, model_limits(name, options))
    return tokenizer


def tokenizer_files(name: str, options: ModelOptions | None = None) -> dict[str, Path]:
    """The files of the model's tokenizer, by their path in its folder, for an exact copy.

    transformers cannot write them again as they were: it adds how it loaded them, and what ``load_tokenizer`` sets.

    Raises:
        SkyrlError: they are not on this machine; ``load_tokenizer`` downloads those of a hub model.
    """
    folder = Path(resolve_model(name))
    if not folder.is_dir():
        revision = None if options is None else options.revision
        known = next((found for file in INDICATORS if (found := _cached(name, file, revision))), None)
        if known is None:
            raise SkyrlError(f"the tokenizer files of model {name!r} are no longer in the cache of this machine")
        folder = known.parent
    patterns = (*TOKENIZER_FILES, "*.py") if options and options.trust_remote_code else TOKENIZER_FILES
    return {
        str(path.relative_to(folder)): path for pattern in patterns for path in folder.glob(pattern) if path.is_file()
    }


def _cached(name: str, file: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, file, revision=revision)
    return Path(found) if isinstance(found, str) else None


def model_limits(name: str, options: ModelOptions | None = None) -> ModelLimits:
    """The sizes that prompts must respect, from the model's configuration; none if that cannot be loaded."""
    try:
        config = load_config(name, options).get_text_config()
    except Exception:  # noqa: BLE001 - loading the model reports it
        return ModelLimits()
    positions = getattr(config, "max_position_embeddings", None)
    # YaRN is configured next to the length that the model was pretrained with, and multiplies it.
    scaling = getattr(config, "rope_parameters", None) or {}
    if positions is not None and scaling.get("rope_type") == "yarn":
        original = scaling.get("original_max_position_embeddings") or positions
        positions = max(positions, int(original * scaling.get("factor", 1)))
    return ModelLimits(positions=positions, vocabulary=getattr(config, "vocab_size", None))


def load_model(name: str, dtype: torch.dtype, options: ModelOptions | None = None) -> PreTrainedModel:
    """The causal language model in this dtype, without dropout, in eval mode.

    Of the dtype in the options, the configuration has checked that it is this one.

    Raises:
        SkyrlError: it cannot be loaded, it is no causal language model, its files lack weights, or its logits are not
            just the product of hidden state and output embedding.
    """
    config = load_config(name, options, part="model")
    _check_kind(name, config)
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            resolve_model(name), dtype=dtype, output_loading_info=True, **_settings(options)
        )
    except Exception as error:
        raise _loading_error("model", name, error) from error
    if missing := sorted(found["missing_keys"]):  # transformers would fill them with random numbers
        raise SkyrlError(
            f"the files of model {name!r} lack weights of a causal language model: {', '.join(missing[:3])} "
            f"({len(missing)} in total); they hold {_architecture(config)}: choose a complete model"
        )
    prepare_model(model)
    _check_plain_head(model, name)
    return model


def _check_kind(name: str, config: PreTrainedConfig) -> None:
    """Raises a SkyrlError if transformers has no causal language model for this configuration, or only a part."""
    what = f"model {name!r} ({_architecture(config)})"
    if config.is_encoder_decoder:
        raise SkyrlError(f"{what} has an encoder, which the trainer does not support: choose a decoder-only model")
    if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or getattr(config, "auto_map", None):
        return
    parts = [part.removesuffix("_config") for part in config.sub_configs if part.endswith("_config")]
    if parts:
        raise SkyrlError(
            f"{what} is multimodal: it has a part for each of {', '.join(sorted(parts))}, and transformers cannot load "
            "it as a language model of text, which is what the trainer trains: choose a text model, perhaps the one "
            "that this model was built from"
        )
    raise SkyrlError(f"{what} is no causal language model: choose a model that continues text")


def _architecture(config: PreTrainedConfig) -> str:
    return ", ".join(config.architectures or [config.model_type])


def _settings(options: ModelOptions | None) -> dict[str, Any]:
    attention = {"attn_implementation": options.attention} if options and options.attention else {}
    return _source(options) | attention


def _source(options: ModelOptions | None) -> dict[str, Any]:
    """The revision, and whether the code of the model may run; transformers asks on the terminal if that is missing."""
    options = options or ModelOptions()
    revision = {} if options.revision is None else {"revision": options.revision}
    return {"trust_remote_code": options.trust_remote_code} | revision


def prepare_model(model: PreTrainedModel) -> None:
    """Prepare the model for training: remove dropout, register the trainer's attention, set eval mode."""
    _remove_dropout(model)
    register_attention()
    model.eval()


def recompute_activations(model: PreTrainedModel) -> None:
    """Keep only the input of each block, and recompute the other activations in the backward pass."""
    # Reentrant checkpointing gives no gradient if a block's input needs none, as after an embedding that LoRA freezes.
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    # transformers recomputes only in training mode. Others stay in eval mode: some choose random experts in training.
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    for module in layers or model.modules():  # custom model code may check the mode of other modules
        module.training = True


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end a response: of the tokenizer, the generation config, and a turn of the chat template."""
    configured = model.generation_config.eos_token_id
    configured = configured if isinstance(configured, list) else [configured]
    found = [tokenizer.eos_token_id, *configured, _turn_end(tokenizer)]
    return frozenset(int(token) for token in found if token is not None)


def _turn_end(tokenizer: Any) -> int | None:
    """The special token after a turn of the assistant in the chat template: ``<|im_end|>`` of ChatML; None without one.

    The eos token of many base models is another one, and their responses would run into the next turns.
    """
    content = "an answer"
    messages = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": content}]
    if not tokenizer.chat_template:
        return None
    try:
        text = str(tokenizer.apply_chat_template(messages, tokenize=False))
    except Exception:  # noqa: BLE001 - templates may raise anything; prompts that one rejects are errors elsewhere
        return None
    _, found, rest = text.rpartition(content)
    ids = tokenizer(rest.lstrip(), add_special_tokens=False)["input_ids"] if found else []
    added = tokenizer.added_tokens_decoder.get(ids[0]) if ids else None
    return int(ids[0]) if added is not None and added.special else None


def _remove_dropout(model: PreTrainedModel) -> None:
    # The ratio of two passes with different dropout masks is noise, not an update.
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if "dropout" in name and isinstance(value, float):  # attention passes it to a function
                setattr(module, name, 0.0)


@torch.no_grad()
def _check_plain_head(model: PreTrainedModel, name: str) -> None:
    head = model.get_output_embeddings()
    if head is None or getattr(head, "bias", None) is not None:
        raise SkyrlError(
            f"model {name!r} has no output embedding without bias, which the trainer needs to compute logits: "
            "choose another architecture"
        )
    if model.base_model is model:
        raise SkyrlError(f"model {name!r} has no base model that returns hidden states: choose another architecture")
    ids = torch.arange(8).remainder(head.weight.shape[0])[None]
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    plain = torch.nn.functional.linear(hidden, head.weight)
    # Scale the logits up until a cap would show: the logits of a small or untrained model may lie below it.
    largest = float(plain.abs().max())
    factor = LARGE_LOGIT / largest if largest > SMALL_LOGIT else 1.0  # a head of zeros cannot be scaled up
    with head.register_forward_pre_hook(lambda _, arguments: (arguments[0] * factor, *arguments[1:])):
        logits = model(input_ids=ids, use_cache=False).logits
    if not torch.allclose(plain.float() * factor, logits.float(), rtol=1e-2, atol=1e-2 * LARGE_LOGIT):
        raise SkyrlError(
            f"model {name!r} changes its logits after the output embedding (soft-capping or scaling), which the "
            "trainer does not support: choose another architecture"
        )


def _loading_error(part: str, name: str, error: Exception) -> SkyrlError:
    if "trust_remote_code" in str(error):
        return SkyrlError(
            f"cannot load the {part} of model {name!r}: it needs Python code that comes with the model, and that code "
            "could do anything on this machine\n"
            "  read the .py files of the model; if you trust them, set model_options.trust_remote_code=true (or add "
            "--trust-remote-code to `skyrl export`), or choose a model that transformers supports without such code"
        )
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return SkyrlError(
        f"cannot load the {part} of model {name!r}: {reason}\n"
        "  set model to `tiny`, a folder with a transformers model, or a hub name that this machine can reach"
    )
