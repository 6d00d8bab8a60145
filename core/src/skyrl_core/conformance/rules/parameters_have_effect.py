"""Rule ``parameters``: every parameter has an effect on some batch."""

import copy
from collections.abc import Iterator
from typing import Any

from skyrl_core.conformance.batches import ExampleBatch, far_batches, wide_batch
from skyrl_core.conformance.parameter_variations import (
    Path,
    RecordingParams,
    candidates,
    changed,
    dotted,
    value_at,
    variations,
)
from skyrl_core.conformance.rule import Rule, Violation
from skyrl_core.conformance.trial import Trial, needs_of, run
from skyrl_core.contract.policy_loss import PolicyLoss
from skyrl_core.errors import did_you_mean
from skyrl_core.parameters.loss_params import LossParams, OpenLossParams

# A schedule inside the loss may begin late.
LATER_STEPS = (1, 7, 60, 1000)
# An adaptive value reaches its bounds only after many steps.
MANY_STEPS = 300
# A parameter may have an effect only together with another one: so many values of both are combined.
VALUES, VALUES_OF_OTHERS = 6, 3


def check_parameters(loss: PolicyLoss, base: ExampleBatch) -> list[str]:
    """Change each parameter, on several batches and steps, then together with each other parameter."""
    params = loss.params
    if type(params) is OpenLossParams:
        params = _recorded(loss, base)
        if params is None:
            return [f"not tried: {type(loss).__name__} cannot be constructed from its parameters only"]
    notes, probes = [], _Probes(base)
    options = variations(params)
    if isinstance(params, RecordingParams):
        options |= _options_of_read(params)
    for path, others in options.items():
        if not others:
            notes.append(f"not tried: {dotted(path)}, for which no other valid value was found")
        elif not any(probes.differ(type(loss), params, other) for other in others) and not any(
            probes.differ(type(loss), one, two) for one, two in _pairs(params, path, options)
        ):
            raise Violation(_without_effect(path, params, others))
    return notes


class _Probes:
    """The results of a loss on many batches, computed lazily and once for each set of parameters."""

    def __init__(self, base: ExampleBatch) -> None:
        self.batches = [base, wide_batch(), *far_batches(base, 50.0).values(), base.on_policy()]
        self.seen: dict[str, list[Any]] = {}

    def differ(self, cls: type[PolicyLoss], one: LossParams, two: LossParams) -> bool:
        """Whether any result differs in any bit."""
        return any(mine != theirs for mine, theirs in zip(self._all(cls, one), self._all(cls, two), strict=True))

    def _all(self, cls: type[PolicyLoss], params: LossParams) -> Iterator[Any]:
        seen = self.seen.setdefault(repr(params), [])
        yield from seen
        for number, observe in enumerate(self._observations(cls, params)):
            if number >= len(seen):
                seen.append(observe())
                yield seen[-1]

    def _observations(self, cls: type[PolicyLoss], params: LossParams) -> Iterator[Any]:
        try:
            loss = cls(params)
            needs = sorted(needs_of(loss))
        except Exception as error:
            raise Violation(f"with {params!r} it raised {type(error).__name__}: {error}") from error
        yield lambda: needs
        for batch in self.batches:
            yield lambda batch=batch: _numbers(run(loss, batch))
        for step in LATER_STEPS:
            yield lambda step=step: [_numbers(run(loss, batch, step=step)) for batch in self.batches[:2]]
        yield lambda: _after_steps(loss, self.batches[:2])


def _numbers(trial: Trial) -> list[Any]:
    tensors = [trial.total.reshape(1, 1), trial.gradient, trial.entropy_gradient]
    # As text, because NaN != NaN and a metric over no tokens is NaN.
    return [[tensor.tolist() for tensor in tensors], repr(trial.logged())]


def _after_steps(loss: PolicyLoss, batches: list[ExampleBatch]) -> list[Any]:
    loss, found = copy.deepcopy(loss), []
    for batch in batches:
        metrics = run(loss, batch).logged()
        for steps in (1, MANY_STEPS):
            for _ in range(steps):
                loss.after_step(metrics)
            found += [repr(loss.state_dict()), _numbers(run(loss, batch))]
    return found


def _pairs(
    params: LossParams, path: Path, options: dict[Path, list[LossParams]]
) -> Iterator[tuple[LossParams, LossParams]]:
    """Yield the parameters with another one changed, without and with a change of this one."""
    values = [value_at(other, path) for other in options[path]]
    # A parameter that is off now, null or 0, is the likeliest to enable this one.
    for other_path, others in sorted(options.items(), key=lambda option: bool(_current(params, option[0]))):
        for other in others[:VALUES_OF_OTHERS] if other_path != path else ():
            for value in values[:VALUES]:
                both = changed(other, path, value)
                if both is not None:
                    yield other, both


def _recorded(loss: PolicyLoss, base: ExampleBatch) -> RecordingParams | None:
    """Record which parameters an untyped loss reads; None if it cannot be constructed from parameters only."""
    params = RecordingParams(**(loss.params.model_extra or {}))
    try:
        recorded = type(loss)(params)
    except Exception:  # noqa: BLE001 - a custom constructor may require anything
        return None
    run(recorded, base)
    recorded.state_dict()
    return params


def _options_of_read(params: RecordingParams) -> dict[Path, list[LossParams]]:
    unread = set(params.model_extra or {}) - params.read.keys()
    options: dict[Path, list[LossParams]] = {}
    for name, value in params.read.items():
        others = (changed(params, (name,), each) for each in candidates(type(value), value))
        options[(name,)] = [other for other in others if other is not None]
    if unread and params.read:
        name = min(unread)
        raise Violation(
            f"{name} is given, but the loss reads only {', '.join(sorted(params.read))}"
            f"{did_you_mean(name, params.read)}"
        )
    return options


def _without_effect(path: Path, params: LossParams, others: list[LossParams]) -> str:
    tried = ", ".join(repr(value_at(other, path)) for other in others[:5])
    return (
        f"{dotted(path)} has no effect: {_current(params, path)!r} and {tried} give the same loss, gradient and "
        "metrics on every batch, even with other parameters changed"
    )


def _current(params: LossParams, path: Path) -> Any:
    return params.read.get(str(path[0])) if isinstance(params, RecordingParams) else value_at(params, path)


PARAMETERS = Rule(
    name="parameters",
    explanation="every parameter changes the loss, a gradient, a metric, the needs or the state on some batch",
    remedy="use the parameter, or remove it: a config that sets it would have no effect",
    counterexample="self.beta = params.beta, but no beta in token_losses; a clip bound that another line overrides",
    check=check_parameters,
    requires=("parameter_bounds",),
    quick=False,
)
