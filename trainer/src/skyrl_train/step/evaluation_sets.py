"""Evaluates the policy on every evaluation set of a run."""

from collections.abc import Mapping
from typing import Any

from skyrl_train.config.schema import RunConfig
from skyrl_train.data.prompt_source import PromptSource
from skyrl_train.step.evaluation import Evaluation, Evaluator


class EvaluationSets:
    """One evaluator for each evaluation set. The results of a set do not depend on the other sets."""

    def __init__(self, config: RunConfig, sources: Mapping[str, PromptSource], **components: Any) -> None:
        """``sources`` are the held-out problems by set; ``components`` are those of an evaluator."""
        self._evaluators = {name: Evaluator(config, source=source, **components) for name, source in sources.items()}

    def evaluate(self) -> Evaluation:
        """All sets as one evaluation, the same on all ranks. Collective."""
        return merged(self.evaluate_each())

    def evaluate_each(self) -> dict[str, Evaluation]:
        """The evaluation of each set by name, the same on all ranks. Collective."""
        return {name: evaluator.evaluate() for name, evaluator in self._evaluators.items()}


def merged(parts: Mapping[str, Evaluation]) -> Evaluation:
    """One evaluation: the name of a set is the prefix of its metrics, ``NAME/accuracy``, if it has one."""
    return Evaluation(
        metrics={
            prefixed(name, metric): value for name, part in parts.items() for metric, value in part.metrics.items()
        },
        answers=[answer for part in parts.values() for answer in part.answers],
    )


def prefixed(name: str, metric: str) -> str:
    """The name of a metric of an evaluation set."""
    return f"{name}/{metric}" if name else metric
