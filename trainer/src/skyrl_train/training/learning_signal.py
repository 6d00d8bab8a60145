"""Whether rewards can teach the model anything: checked before a run, watched during it."""

from skyrl_core.conformance import effect_of_zero_advantages
from skyrl_core.contract import AdvantageEstimator
from skyrl_core.errors import InvalidParamsError
from skyrl_core.parameters import smallest_group
from skyrl_train.config.number import highest
from skyrl_train.config.schema import RunConfig
from skyrl_train.step.objective import Objective

ROUNDING = 1e-8
"""A smaller advantage counts as 0: equal rewards leave a rest after subtraction."""

PATIENCE = 5
"""Steps without a signal until the first message; each later one comes after twice as many."""


def check_signal(config: RunConfig, estimator: AdvantageEstimator, objective: Objective) -> None:
    """Check that the advantages of the run can differ from 0, or that the loss needs none.

    Raises:
        InvalidParamsError: nothing would be trained.
    """
    samples, needed = config.trainer.samples_per_prompt, smallest_group(estimator.params)
    if samples >= needed or _learns_without_advantages(objective):
        return
    name, loss = config.trainer.algorithm.advantage_estimator, objective.loss.loss.name
    raise InvalidParamsError(
        f"trainer.samples_per_prompt = {samples} trains nothing: advantage estimator {name!r} compares the samples of "
        f"a prompt, so every advantage is 0, where loss {loss!r} has no gradient; set it to at least {needed}, or "
        "select an estimator that compares prompts with each other, such as reinforce_pp"
    )


def _learns_without_advantages(objective: Objective) -> bool:
    if highest(objective.kl_coef) > 0 or highest(objective.entropy_coef) > 0:
        return True
    return any(effect_of_zero_advantages(loss) is not None for loss in objective.loss.variants())


class SignalWatch:
    """Counts the steps in a row in which every advantage was 0, and says so in ever longer intervals."""

    def __init__(self) -> None:
        self._silent = self._steps = 0
        self._next = PATIENCE

    def step(self, *, has_signal: bool, last: bool) -> str | None:
        """Record a step. Returns a message if it is time for one.

        Args:
            has_signal: whether any advantage differs from 0, on any rank.
            last: whether it is the last step; a run that never had a signal ends with a message, however short.
        """
        self._steps += 1
        self._silent = 0 if has_signal else self._silent + 1
        if has_signal:
            self._next = PATIENCE
        never = last and self._silent == self._steps
        if self._silent < self._next and not never:
            return None
        self._next = 2 * self._silent
        count = "this step" if self._silent == 1 else f"the last {self._silent} steps"
        return (
            f"no learning signal in {count}: all advantages were 0, because the rewards that the estimator compares "
            "are equal. Check the reward and how hard the prompts are, or raise trainer.samples_per_prompt or "
            "rollout.temperature"
        )
