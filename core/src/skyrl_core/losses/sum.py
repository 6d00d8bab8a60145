"""A weighted sum of any installed losses.

Loss of a token: sum over k of w_k l_k, with l_k the loss of the token under term k. All terms share one reduction,
``token_mean`` unless the config sets another, regardless of their defaults. A term in scalar form contributes its
scalar at every token, so under ``token_mean`` its share is exact. Value and gradient norm of each term are
logged under its label: the name of its loss, numbered if a loss occurs more than once.
"""

import json
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from skyrl_core import LossBatch, Metric, Need, PolicyLoss, Prepared, TokenLosses, load_policy_loss
from skyrl_core.contract.loss_value import scalar_loss
from skyrl_core.contract.output_check import check_scalar_loss, check_token_losses
from skyrl_core.contract.policy_loss import is_scalar_form, prepared_by
from skyrl_core.discovery.plugin_call import Guard
from skyrl_core.losses.sum_params import SumParams
from skyrl_core.registry.loss_reference import loss_name


class SumLoss(PolicyLoss):
    """The weighted sum of its terms' losses."""

    name = "sum"
    Params = SumParams
    api_version = 1
    semantics_version = 1
    reference = "That of each term; a sum of objectives as in PPO, arXiv 1707.06347, eq. 9"

    def __init__(self, params: SumParams) -> None:
        """Load the loss of each term.

        Raises:
            PluginLoadError: one of them cannot be loaded.
        """
        super().__init__(params)
        labels = _labels(params)
        self.parts = dict(zip(labels, (_load(term) for term in params.terms), strict=True))
        self._guards = {
            label: Guard(f"policy loss {term.loss!r}, a term of sum,", type(self.parts[label]).__module__)
            for label, term in zip(labels, params.terms, strict=True)
        }
        self._weights = dict(zip(self.parts, (term.weight for term in params.terms), strict=True))

    @classmethod
    def needs(cls, params: Any) -> frozenset[Need]:
        """The inputs that any term reads."""
        return frozenset().union(*(_needs_of_term(term) for term in params.terms))

    @classmethod
    def components(cls, params: Any) -> tuple[tuple[str, Mapping[str, Any]], ...]:
        """The losses of the terms."""
        return tuple((term.loss, term.params) for term in params.terms)

    def prepare(self, minibatch: LossBatch) -> Prepared:
        """The tensors that each term prepares, under its label."""
        prepared = Prepared()
        for label, part in self.parts.items():
            with self._guards[label].calling("prepare", _step(minibatch)):
                of_part = prepared_by(part, minibatch.view(_needs(part), {}))
            prepared = prepared.merged(of_part.under(label))
        return prepared

    def token_losses(self, batch: LossBatch) -> TokenLosses:
        """The weighted sum, each weighted term, and the metrics of all terms under their labels."""
        terms: dict[str, Tensor] = {}
        metrics: dict[str, Metric] = {}
        total = torch.zeros_like(batch.log_probs)
        for label, part in self.parts.items():
            with self._guards[label].calling("token_losses", _step(batch)):
                output = _evaluate(part, batch.view(_needs(part), _under(label, batch.prepared)))
            terms[label] = self._weights[label] * output.values
            terms |= {f"{label}/{name}": self._weights[label] * term for name, term in output.terms.items()}
            metrics |= {f"{label}/{name}": metric for name, metric in output.metrics.items()}
            total = total + terms[label]
        return TokenLosses(values=total, terms=terms, metrics=metrics)

    @property
    def adapts(self) -> bool:
        """Whether any term adapts."""
        return any(part.adapts for part in self.parts.values())

    def after_step(self, metrics: Mapping[str, float]) -> None:
        """Pass each term its metrics, without the label."""
        for label, part in self.parts.items():
            with self._guards[label].calling("after_step"):
                part.after_step(_under(label, metrics))

    def state_dict(self) -> dict[str, float]:
        """The states of the terms, under their labels."""
        states = {}
        for label, part in self.parts.items():
            with self._guards[label].calling("state_dict"):
                states[label] = dict(part.state_dict())
        return {f"{label}/{name}": value for label, state in states.items() for name, value in state.items()}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Load the state of each term.

        Raises:
            ValueError: the state belongs to other terms.
        """
        others = [name for name in state if name.partition("/")[0] not in self.parts]
        if others:
            raise ValueError(f"the sum of {', '.join(self.parts)} was given the state {', '.join(sorted(others))}")
        for label, part in self.parts.items():
            part.load_state_dict(_under(label, state))


def _load(term: Any) -> PolicyLoss:
    return load_policy_loss(term.loss, term.params)


def _needs_of_term(term: Any) -> frozenset[Need]:
    # An installed loss stays the same while a process runs; a registered one may change, and has no distribution.
    installed = ":" in term.loss
    return _needs_of_installed(term.loss, json.dumps(term.params)) if installed else _needs(_load(term))


@lru_cache(maxsize=64)
def _needs_of_installed(reference: str, params: str) -> frozenset[Need]:
    return _needs(load_policy_loss(reference, json.loads(params)))


def _needs(part: PolicyLoss) -> frozenset[Need]:
    return frozenset(part.needs(part.params))


def _labels(params: SumParams) -> list[str]:
    names = [loss_name(term.loss) for term in params.terms]
    counts, seen = Counter(names), Counter[str]()
    labels = []
    for name in names:
        seen[name] += 1
        labels.append(f"{name}_{seen[name]}" if counts[name] > 1 else name)
    return labels


def _step(batch: LossBatch) -> str:
    return f"optimizer step {batch.step + 1}"


def _under(label: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(f"{label}/"): value for name, value in values.items() if name.startswith(f"{label}/")}


def _evaluate(part: PolicyLoss, batch: LossBatch) -> TokenLosses:
    if not is_scalar_form(type(part)):
        output = part.token_losses(batch)
        check_token_losses(part, output, batch)
        return output
    # Without a token a mean over tokens is 0 / 0, whose gradient would be NaN although it is masked.
    scalar = scalar_loss(part, batch) if batch.mask.any() else batch.log_probs.sum() * 0.0
    check_scalar_loss(part, scalar, batch)
    return TokenLosses(values=scalar.expand_as(batch.log_probs))
