"""The tensors of a model, from its configuration or the headers of its files, without loading weights.

Imports neither torch nor transformers, so that a plan is printed at once.
"""

import json
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from skyrl_train.config.schema import LoraConfig, RunConfig
from skyrl_train.tiny_model import TINY_MODEL

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose tensors follow from their configuration."""

EMBEDDINGS = ("embed", "wte", "wpe", "lm_head", "embed_out")
"""Parts of the names of matrices that are no linear layers for `all-linear`."""

BUFFERS = (".inv_freq", ".attn.bias", ".masked_bias")
"""Ends of the names of tensors that older files store and that are not trained."""

MAX_HEADER = 100 * 2**20
"""Bytes; a longer header means that the file is not in the safetensors format."""

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The parameters of a model by name, and the sizes that caches and logits depend on."""

    tensors: Shapes
    vocabulary: int
    hidden: int
    layers: int
    cached_numbers: int  # keys and values of a token in one layer
    positions: int | None  # None: not limited

    @property
    def parameters(self) -> int:
        """The number of parameters; a tied embedding counts once."""
        return sum(map(prod, self.tensors.values()))

    def adapters(self, lora: LoraConfig) -> Shapes:
        """The tensors that LoRA adds: A and B of each layer that gets an adapter."""
        if lora.rank is None:
            return {}
        chosen = {name: shape for name, shape in self.tensors.items() if _gets_adapter(name, shape, lora)}
        adapters: Shapes = {f"{name}.A": (lora.rank, shape[1]) for name, shape in chosen.items()}
        return adapters | {f"{name}.B": (shape[0], lora.rank) for name, shape in chosen.items()}


class UnknownShape(Exception):
    """The tensors of a model cannot be known without loading it; the message says why."""


def shape_of(config: RunConfig) -> ModelShape:
    """The shape of the configured model.

    Raises:
        UnknownShape: the model is not on this machine, or its files do not tell.
    """
    file = _config_file(config)
    try:
        values: dict[str, Any] = json.loads(file.read_text())
        return _shape(values.get("text_config", values), values, file.parent)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise UnknownShape(
            f"{file.name} of model {config.model!r} does not have the usual entries ({error})"
        ) from error


def _config_file(config: RunConfig) -> Path:
    folder = TINY_MODEL if config.model == "tiny" else Path(config.model).expanduser()
    if folder.exists():
        return folder / "config.json"
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(config.model, "config.json", revision=config.model_options.revision)
    except HFValidationError:
        found = None
    if not isinstance(found, str):
        raise UnknownShape(
            f"{config.model!r} is not in the cache of this machine; it is downloaded when training starts"
        )
    return Path(found)


def _shape(text: dict[str, Any], values: dict[str, Any], folder: Path) -> ModelShape:
    if "quantization_config" in values:
        raise UnknownShape("the model is quantised")
    heads = int(text.get("num_attention_heads") or text["n_head"])
    hidden = int(text.get("hidden_size") or text["n_embd"])
    size = int(text.get("head_dim") or hidden // heads)
    pairs = int(text.get("num_key_value_heads") or heads)
    if text["model_type"] in FAMILIES and text is values:
        tensors = _llama_like(text, hidden=hidden, queries=heads * size, keys=pairs * size, size=size)
    else:
        tensors = _from_headers(folder, tied=bool(text.get("tie_word_embeddings", True)))
    return ModelShape(
        tensors=tensors,
        vocabulary=int(text["vocab_size"]),
        hidden=hidden,
        layers=_layers(text),
        cached_numbers=2 * pairs * size,
        positions=text.get("max_position_embeddings") or text.get("n_positions"),
    )


def _layers(text: dict[str, Any]) -> int:
    return int(text.get("num_hidden_layers") or text["n_layer"])


def _llama_like(text: dict[str, Any], *, hidden: int, queries: int, keys: int, size: int) -> Shapes:
    """The tensors of Llama, Mistral, Qwen2 and Qwen3."""
    kind, inner, vocabulary = text["model_type"], int(text["intermediate_size"]), int(text["vocab_size"])
    biased = bool(text.get("attention_bias", False)) and kind in ("llama", "qwen3")
    linear = {
        "self_attn.q_proj": (queries, hidden, biased or kind == "qwen2"),
        "self_attn.k_proj": (keys, hidden, biased or kind == "qwen2"),
        "self_attn.v_proj": (keys, hidden, biased or kind == "qwen2"),
        "self_attn.o_proj": (hidden, queries, biased),
        "mlp.gate_proj": (inner, hidden, kind == "llama" and bool(text.get("mlp_bias", False))),
        "mlp.up_proj": (inner, hidden, kind == "llama" and bool(text.get("mlp_bias", False))),
        "mlp.down_proj": (hidden, inner, kind == "llama" and bool(text.get("mlp_bias", False))),
    }
    layer: Shapes = {f"{name}.weight": (rows, columns) for name, (rows, columns, _) in linear.items()}
    layer |= {f"{name}.bias": (rows,) for name, (rows, _, bias) in linear.items() if bias}
    layer |= {"input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,)}
    if kind == "qwen3":
        layer |= {"self_attn.q_norm.weight": (size,), "self_attn.k_norm.weight": (size,)}
    tensors: Shapes = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    for number in range(_layers(text)):
        tensors |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    if not text.get("tie_word_embeddings", False):
        tensors["lm_head.weight"] = (vocabulary, hidden)
    return tensors


def _from_headers(folder: Path, *, tied: bool) -> Shapes:
    """The tensors that the model's safetensors files describe."""
    index = folder / "model.safetensors.index.json"
    names = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    tensors: Shapes = {}
    for name in sorted(names):
        with (folder / name).open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > MAX_HEADER:
                raise ValueError(f"{name} is not in the safetensors format")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        tensors |= {key: tuple(entry["shape"]) for key, entry in header.items() if not key.endswith(BUFFERS)}
    if tied:
        tensors.pop("lm_head.weight", None)
    return tensors


def _gets_adapter(name: str, shape: tuple[int, ...], lora: LoraConfig) -> bool:
    if len(shape) != 2 or not name.endswith(".weight"):
        return False
    layer = name.removesuffix(".weight")
    if lora.target_modules == "all-linear":
        return not any(part in layer for part in EMBEDDINGS)
    return any(layer == target or layer.endswith(f".{target}") for target in lora.target_modules)
