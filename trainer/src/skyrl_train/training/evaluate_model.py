"""Measures a model: pass@1 and pass@k on held-out problems, with confidence intervals."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from skyrl_core.discovery import exits_as_errors
from skyrl_core.errors import SkyrlError
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
from skyrl_train.step.confidence import Interval, mean_interval, paired_difference, wilson
from skyrl_train.step.engine_agreement import EngineAgreement
from skyrl_train.step.evaluation import Evaluation
from skyrl_train.step.evaluation_sets import EvaluationSets, merged, prefixed
from skyrl_train.training.build_rollout_engine import build_rollout_engine


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """The measures of one model, each with its 95 % interval, all between 0 and 1.

    None if an environment does not say which rewards solve a problem.
    """

    evaluation: Evaluation
    parts: Mapping[str, Evaluation]  # by evaluation set
    prompts: int
    intervals: dict[str, Interval]  # by measure: pass@1, pass@k, NAME/pass@1 of an evaluation set
    notes: tuple[str, ...] = ()  # the rows that were left out

    @property
    def measures(self) -> dict[str, float]:
        """``pass@1`` and, with several samples, ``pass@k``."""
        metrics = self.evaluation.metrics
        names = {name: name.removesuffix("pass@1") for name in self.intervals}
        return {name: metrics[name if rest == name else f"{rest}accuracy"] for name, rest in names.items()}


@exits_as_errors()
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
    return Assessment(
        evaluation=evaluation, parts=parts, prompts=len(evaluation.answers), intervals=intervals, notes=notes
    )


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
    return load_tokenizer(config.model, config.model_options)


def _model(target: str, config: RunConfig) -> PreTrainedModel:
    if run_folder_of(Path(target)) is None:
        return load_model(target, DTYPES[config.trainer.deepspeed.precision], config.model_options)
    found = find(Path(target))
    return trained_model(found, checkpoint.read(found), config)


def _intervals(evaluation: Evaluation, config: RunConfig) -> dict[str, Interval]:
    solved, samples = evaluation.solved.values(), config.evaluation.samples_per_prompt
    if not solved:
        return {}
    intervals = {"pass@1": mean_interval([_share(each) for each in solved], samples)}
    if samples > 1:
        intervals[f"pass@{samples}"] = wilson(evaluation.metrics[f"pass@{samples}"], len(solved))
    return intervals


@dataclass(frozen=True, kw_only=True)
class Change:
    """The change of one measure between two models, over the problems on which both have a verdict."""

    value: float
    interval: Interval  # 95 %
    problems: int


def changes(before: Assessment, after: Assessment, samples: int) -> dict[str, Change]:
    """The change of each measure on the same problems, by measure.

    Raises:
        SkyrlError: the two models answered different problems.
    """
    found = {}
    for name, part in after.parts.items():
        old, new = before.parts[name].solved if name in before.parts else {}, part.solved
        shared = sorted(old.keys() & new.keys())
        if new and not shared:
            raise SkyrlError(
                "the two models answered different problems, so their results cannot be compared: give --environment, "
                "--prompts and the data options that both should use"
            )
        measures = {"pass@1": _share} | ({f"pass@{samples}": _any} if samples > 1 else {}) if shared else {}
        for measure, share_of in measures.items():
            first, last = ([share_of(solved[key]) for key in shared] for solved in (old, new))
            value, interval = paired_difference(first, last)
            found[prefixed(name, measure)] = Change(value=value, interval=interval, problems=len(shared))
    return found


def _share(solved: Sequence[bool]) -> float:
    return sum(solved) / len(solved)


def _any(solved: Sequence[bool]) -> float:
    return float(any(solved))
