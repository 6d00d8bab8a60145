"""Builds the rollout engine that a configuration names, from the group in which engines are published."""

from collections.abc import Callable
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from skyrl_train.checkpoints.model_export import DTYPES
from skyrl_train.config.plugin_check import ENGINE_GROUP
from skyrl_train.config.resolved import ResolvedRun
from skyrl_train.policy.model_loading import end_tokens, load_model, resolve_model
from skyrl_train.ranks.ranks import Ranks
from skyrl_train.rollout.rollout_engine import EngineSetup, RolloutEngine

Gather = Callable[[Any], list[Any]]


def build_rollout_engine(
    run: ResolvedRun,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    ranks: Ranks,
    *,
    whole: bool = True,
    gather: Gather | None = None,
    message: Callable[[str], None],
) -> RolloutEngine:
    """The engine; it has no weights yet.

    Args:
        run: names it.
        model: the policy.
        tokenizer: of the policy.
        ranks: the processes of the run.
        whole: whether the model's weights are whole in this process.
        gather: of values of all ranks; None takes that of ``ranks``.
        message: takes a line for people.

    Raises:
        SkyrlError: it cannot be loaded, or does not fit the configuration.
    """
    config = run.config

    def load_copy() -> PreTrainedModel:
        return load_model(config.model, DTYPES[config.trainer.deepspeed.precision]).to(ranks.device)

    factory: Any = ENGINE_GROUP.load_claim(run.engine)
    engine: RolloutEngine = factory(
        EngineSetup(
            config=config,
            model=resolve_model(config.model),
            tokenizer=tokenizer,
            end_tokens=end_tokens(model, tokenizer),
            device=ranks.device,
            rank=ranks.rank,
            world_size=ranks.world_size,
            gather=gather or ranks.gather,
            message=message,
            trained=model if whole else None,
            load_copy=load_copy,
        )
    )
    return engine
