"""Measures a model: pass@1 and pass@k on held-out problems, with confidence intervals."""

import math
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from skyrl_train.checkpoints import manifest as checkpoint
from skyrl_train.checkpoints.checkpoint_folder import find
from skyrl_train.checkpoints.model_export import DTYPES, trained_model
from skyrl_train.config.load_config import run_folder_of
from skyrl_train.config.resolved import ResolvedRun
from skyrl_train.config.schema import RunConfig
from skyrl_train.data.run_data import load_run_data
from skyrl_train.machine.library_output import quiet
from skyrl_train.policy.model_loading import load_model, load_tokenizer
from skyrl_train.policy.policy import Policy
from skyrl_train.ranks.ranks import Ranks
from skyrl_train.rewards.scorer import Scorer
from skyrl_train.rollout.rollout_engine import RolloutEngine, Sampling
from skyrl_train.rollout.weights import ModelWeights
from skyrl_train.step.engine_agreement import EngineAgreement
from skyrl_train.step.evaluation import Evaluation
from skyrl_train.step.evaluation_sets import EvaluationSets, merged, prefixed
from skyrl_train.training.build_rollout_engine import build_rollout_engine

Z95 = 1.959964
"""The normal quantile of a two-sided 95 % interval."""

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """The measures of one model, each with its 95 % interval, all between 0 and 1.

    None if an environment does not say which rewards solve a problem.
    """

    evaluation: Evaluation
    prompts: int
    intervals: dict[str, Interval]  # by measure: pass@1, pass@k, NAME/pass@1 of an evaluation set
    notes: tuple[str, ...] = ()  # the rows that were left out

    @property
    def measures(self) -> dict[str, float]:
        """``pass@1`` and, with several samples, ``pass@k``."""
        metrics = self.evaluation.metrics
        names = {name: name.removesuffix("pass@1") for name in self.intervals}
        return {name: metrics[name if rest == name else f"{rest}accuracy"] for name, rest in names.items()}


def assess(target: str, run: ResolvedRun) -> Assessment:
    """Sample and reward a model's answers to held-out problems.

    Args:
        target: a run folder, a checkpoint in one, or any value of the option ``model``.
        run: configures data, environment, rollout and evaluation; ``evaluation.prompts`` must be above 0.

    Raises:
        SkyrlError: the model cannot be loaded, its checkpoint is damaged, or no answer could be rewarded.
    """
    quiet()
    ranks = Ranks.start()
    try:
        parts, notes = _evaluate(target, run, ranks)
    finally:
        ranks.end_run()
    evaluation = merged(parts)
    intervals = {
        prefixed(name, measure): interval
        for name, part in parts.items()
        for measure, interval in _intervals(part, run.config).items()
    }
    return Assessment(evaluation=evaluation, prompts=len(evaluation.answers), intervals=intervals, notes=notes)


def _evaluate(target: str, run: ResolvedRun, ranks: Ranks) -> tuple[dict[str, Evaluation], tuple[str, ...]]:
    config = run.config
    model, tokenizer = _model(target, config).to(ranks.device), _tokenizer(config)
    data = load_run_data(config, run.environment, tokenizer, ranks, trains=False)
    with ExitStack() as stack:
        scorer = stack.enter_context(Scorer.of(config.environment, data.environments))
        engine = _engine(model, tokenizer, run, ranks)
        stack.callback(engine.close)
        first = next(iter(data.evaluation.values()))
        agreement = EngineAgreement.of(config, engine, first, tokenizer, ranks)
        if agreement is not None:
            _check_agreement(agreement, model, config)
        sets = EvaluationSets(config, data.evaluation, tokenizer=tokenizer, engine=engine, scorer=scorer, ranks=ranks)
        return sets.evaluate_each(), data.notes


def _engine(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, run: ResolvedRun, ranks: Ranks
) -> RolloutEngine:
    engine = build_rollout_engine(
        run,
        model,
        tokenizer,
        ranks,
        message=lambda _: None,  # `skyrl eval` already shows progress
    )
    engine.sync_weights(ModelWeights(model), 0)
    return engine


def _check_agreement(agreement: EngineAgreement, model: PreTrainedModel, config: RunConfig) -> None:
    policy = Policy(model, chunk_size=config.trainer.logprob_chunk_size, temperature=1.0)
    agreement.check(
        lambda sequences: policy.log_probs(sequences, False)[0],
        Sampling(max_new_tokens=Sampling.for_evaluation(config).max_new_tokens),
    )


def _tokenizer(config: RunConfig) -> PreTrainedTokenizerBase:
    return load_tokenizer(config.model, config.model_options.revision)


def _model(target: str, config: RunConfig) -> PreTrainedModel:
    if run_folder_of(Path(target)) is None:
        return load_model(target, DTYPES[config.trainer.deepspeed.precision], config.model_options)
    found = find(Path(target))
    return trained_model(found, checkpoint.read(found), config)


def _intervals(evaluation: Evaluation, config: RunConfig) -> dict[str, Interval]:
    metrics, prompts = evaluation.metrics, len(evaluation.answers)
    if "accuracy" not in metrics:
        return {}
    samples = config.evaluation.samples_per_prompt
    if samples == 1:
        return {"pass@1": wilson(metrics["accuracy"], prompts)}
    # The samples of a prompt are not independent, so the standard error is that of the mean over prompts.
    spread = Z95 * metrics["accuracy/standard_error"]
    pass_1 = (max(metrics["accuracy"] - spread, 0.0), min(metrics["accuracy"] + spread, 1.0))
    return {"pass@1": pass_1, f"pass@{samples}": wilson(metrics[f"pass@{samples}"], prompts)}


def wilson(share: float, count: int) -> Interval:
    """The 95 % interval of a share of successes among ``count`` trials: E. B. Wilson, JASA 22 (1927).

    Unlike share ± 1.96 standard errors it is valid near 0 and 1, where the estimated error vanishes.
    """
    square = Z95 * Z95 / count
    centre = (share + square / 2) / (1 + square)
    spread = Z95 * math.sqrt(share * (1 - share) / count + square / (4 * count)) / (1 + square)
    return max(centre - spread, 0.0), min(centre + spread, 1.0)
