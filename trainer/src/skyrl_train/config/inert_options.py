"""Finds given options that have no effect because of another option."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from skyrl_train.config.options import Option, all_options
from skyrl_train.config.schema import RunConfig
from skyrl_train.config.sources import DEFAULTS, Sources


@dataclass(frozen=True)
class _Inert:
    """Options, or sections, that are ignored in some configurations."""

    keys: tuple[str, ...]
    ignored: Callable[[RunConfig], bool]
    reason: str


_HF, _IN_PROCESS = ("hf",), ("hf", "vllm")
_RULES = (
    _Inert(("trainer.lora",), lambda c: c.trainer.lora.rank is None, "trainer.lora.rank is null; set it to use LoRA"),
    _Inert(
        tuple(f"trainer.algorithm.off_policy.{name}" for name in ("outside", "low", "high")),
        lambda c: c.trainer.algorithm.off_policy.weight == "none",
        "trainer.algorithm.off_policy.weight is none",
    ),
    _Inert(
        ("trainer.algorithm.off_policy.band_low", "trainer.algorithm.off_policy.band_high"),
        lambda c: c.trainer.algorithm.off_policy.band == "none",
        "trainer.algorithm.off_policy.band is none",
    ),
    _Inert(
        ("trainer.algorithm.kl_estimator",),
        lambda c: not c.trainer.algorithm.kl_coef,
        "trainer.algorithm.kl_coef is 0",
    ),
    _Inert(
        ("trainer.algorithm.kl_reward_estimator",),
        lambda c: not c.trainer.algorithm.kl_reward_coef,
        "trainer.algorithm.kl_reward_coef is 0",
    ),
    _Inert(
        ("trainer.algorithm.high_entropy_fraction",),
        lambda c: c.trainer.algorithm.high_entropy_fraction == 1,
        "1 takes all tokens; it only costs the entropies",
    ),
    _Inert(
        ("trainer.micro_batch_size",),
        lambda c: c.trainer.micro_batch_tokens is not None,
        "trainer.micro_batch_tokens replaces it",
    ),
    _Inert(("rollout.vllm",), lambda c: c.rollout.engine in _HF, "rollout.engine is not vllm"),
    _Inert(("rollout.server",), lambda c: c.rollout.engine in _IN_PROCESS, "rollout.engine is not vllm_server"),
    _Inert(
        ("rollout.batch_size",),
        lambda c: c.rollout.engine in ("vllm", "vllm_server"),
        "only the rollout engine hf reads it; vLLM reads rollout.vllm.max_num_seqs",
    ),
    _Inert(("rollout.probe_tolerance",), lambda c: not c.rollout.probe, "rollout.probe is false"),
    _Inert(
        ("evaluation", "data.evaluation", "data.evaluation_split"),
        lambda c: c.evaluation.prompts == 0,
        "evaluation.prompts is 0, so the run evaluates nothing",
    ),
    _Inert(
        ("evaluation.every",),
        lambda c: c.evaluation.prompts > 0 and c.evaluation.every >= c.trainer.steps,
        "the run has no more steps than that: it is evaluated before and after training only",
    ),
    _Inert(
        ("evaluation.top_p", "evaluation.top_k", "evaluation.min_p"),
        lambda c: c.evaluation.prompts > 0 and c.evaluation.temperature == 0,
        "evaluation.temperature is 0, which takes the most probable token",
    ),
    _Inert(
        ("checkpoint.every",),
        lambda c: c.checkpoint.every >= c.trainer.steps,
        "the run has no more steps than that: it is saved after the last step only",
    ),
    _Inert(
        ("data.train_split",),
        lambda c: c.data.train is None,
        "data.train is null, so the environment provides the rows",
    ),
    _Inert(
        tuple(f"data.{name}" for name in ("prompt_column", "ground_truth_column", "environment_column")),
        lambda c: c.data.train is None and c.data.evaluation is None,
        "data.train and data.evaluation are null, so the environment provides the rows",
    ),
    _Inert(("tracking.wandb",), lambda c: "wandb" not in c.tracking.trackers, "tracking.trackers does not name wandb"),
    _Inert(
        ("tracking.trackio",),
        lambda c: "trackio" not in c.tracking.trackers,
        "tracking.trackers does not name trackio",
    ),
)


def _is_asked(option: Option, config: RunConfig, sources: Sources) -> bool:
    keys = tuple(option.key.split("."))
    if sources.origin(keys) in DEFAULTS:
        return False
    value: Any = config.model_dump(mode="json")
    for key in keys:
        value = value[key]
    return bool(value != option.default)


def find_inert(config: RunConfig, sources: Sources) -> Iterator[str]:
    """A description of each option that was given, differs from its default, and is ignored."""
    given = [option.key for option in all_options() if _is_asked(option, config, sources)]
    for rule in _RULES:
        if rule.ignored(config):
            keys = [key for key in given if any(key == own or key.startswith(f"{own}.") for own in rule.keys)]
            keys = [key for key in keys if key != "evaluation.prompts"]
            if keys:
                yield f"{', '.join(keys)} {'have' if len(keys) > 1 else 'has'} no effect: {rule.reason}"
