"""Builds the configured rollout engine, from the entry-point group of rollout engines."""

from collections.abc import Callable
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from skyrl_core.discovery import PluginCall
from skyrl_core.errors import PluginLoadError
from skyrl_train.checkpoints.model_export import DTYPES
from skyrl_train.config.plugin_check import ENGINE_GROUP
from skyrl_train.config.resolved import ResolvedRun
from skyrl_train.policy.model_loading import end_tokens, load_model, resolve_model
from skyrl_train.ranks.ranks import Ranks
from skyrl_train.rollout.guarded_engine import GuardedEngine
from skyrl_train.rollout.rollout_engine import EngineSetup, RolloutEngine

Gather = Callable[[Any], list[Any]]


def build_rollout_engine(
    run: ResolvedRun,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    ranks: Ranks,
    *,
    complete: bool = True,
    gather: Gather | None = None,
    message: Callable[[str], None],
) -> RolloutEngine:
    """The rollout engine; it has no weights before the first sync.

    Args:
        run: names the engine.
        model: the policy.
        tokenizer: the policy's tokenizer.
        ranks: the processes of the run.
        complete: whether the model's weights are complete in this process.
        gather: gathers values of all ranks; None uses that of ``ranks``.
        message: prints a line for the user.

    Raises:
        SkyrlError: the engine cannot be loaded, or does not fit the configuration.
    """
    config = run.config

    def load_copy() -> PreTrainedModel:
        dtype = DTYPES[config.trainer.deepspeed.precision]
        return load_model(config.model, dtype, config.model_options).to(ranks.device)

    factory: Any = ENGINE_GROUP.load_claim(run.engine)
    guard = ENGINE_GROUP.guard(run.engine)
    setup = EngineSetup(
        config=config,
        model=resolve_model(config.model),
        tokenizer=tokenizer,
        end_tokens=end_tokens(model, tokenizer),
        device=ranks.device,
        rank=ranks.rank,
        world_size=ranks.world_size,
        gather=gather or ranks.gather,
        message=message,
        trained=model if complete else None,
        load_copy=load_copy,
    )
    with PluginCall(guard, "could not be started", kind=PluginLoadError):
        engine = factory(setup)
    return GuardedEngine(engine, guard)
