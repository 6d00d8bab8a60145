"""Evaluates the policy on every evaluation set of a run."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from skyrl_core.errors import SkyrlError
from skyrl_train.config.schema import RunConfig
from skyrl_train.data.prompt_source import PromptSource
from skyrl_train.ranks.ranks import Ranks
from skyrl_train.step.evaluation import Evaluation, Evaluator

logger = logging.getLogger(__name__)


class EvaluationSets:
    """One evaluator for each evaluation set. The results of a set do not depend on the other sets."""

    def __init__(
        self, config: RunConfig, sources: Mapping[str, PromptSource], *, ranks: Ranks, **components: Any
    ) -> None:
        """``sources`` are the held-out problems by set; ``components`` are those of an evaluator."""
        self._ranks = ranks
        self._evaluators = {
            name: Evaluator(config, source=source, ranks=ranks, **components) for name, source in sources.items()
        }

    def evaluate(self) -> Evaluation:
        """All sets as one evaluation, the same on all ranks. Collective.

        A set that fails, for example because a judge is down, does not end the run: it has an error and no metrics.
        """
        parts, errors = {}, []
        for name, evaluator in self._evaluators.items():
            try:
                parts[name] = evaluator.evaluate()
            except Exception as error:
                if not self._ranks.can_continue_after(error):
                    raise
                if not isinstance(error, SkyrlError):
                    logger.warning("an evaluation failed", exc_info=error)
                reason = str(error) if isinstance(error, SkyrlError) else f"{type(error).__name__}: {error}"
                errors.append(f"{name}: {reason}" if name else reason)
        return merged(parts, errors)

    def evaluate_each(self) -> dict[str, Evaluation]:
        """The evaluation of each set by name, the same on all ranks. Collective.

        Raises:
            SharedError: a set has no answer with a verdict.
        """
        return {name: evaluator.evaluate() for name, evaluator in self._evaluators.items()}


def merged(parts: Mapping[str, Evaluation], errors: Sequence[str] = ()) -> Evaluation:
    """One evaluation: the name of a set is the prefix of its metrics, ``NAME/accuracy``, if it has one."""
    return Evaluation(
        metrics={
            prefixed(name, metric): value for name, part in parts.items() for metric, value in part.metrics.items()
        },
        answers=[
            replace(answer, problem=(name, answer.problem[1]))
            for name, part in parts.items()
            for answer in part.answers
        ],
        errors=tuple(errors),
    )


def prefixed(name: str, metric: str) -> str:
    """The name of a metric of an evaluation set."""
    return f"{name}/{metric}" if name else metric
