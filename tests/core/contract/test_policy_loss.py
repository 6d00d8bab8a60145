"""The contract: the inputs that a loss may read, and the scalar that it returns without a trainer."""

from typing import Any

import pytest
import torch
from torch import Tensor

from skyrl_core.contract.policy_loss import LossBatch, Need, PolicyLoss, TokenLosses, is_scalar_form
from skyrl_core.contract.prepared import Prepared
from skyrl_core.errors import MissingInputError, UndeclaredInputError
from skyrl_core.parameters.loss_params import LossParams

NAN = float("nan")
MASK = torch.tensor([[True, True], [True, False]])


def batch_of(needs: set[Need], **inputs: Tensor) -> LossBatch:
    return LossBatch(
        log_probs=torch.tensor([[-1.0, -2.0], [-3.0, NAN]], requires_grad=True),
        advantages=torch.tensor([[1.0, 1.0], [2.0, NAN]]),
        mask=MASK,
        inputs={Need(name): tensor for name, tensor in inputs.items()},
        needs=frozenset(needs),
    )


class Reinforce(PolicyLoss):
    """-A log pi, and a term that only ``prepare`` can compute."""

    name = "reinforce"
    api_version = 1
    semantics_version = 1

    @classmethod
    def needs(cls, params: Any) -> frozenset[Need]:
        return frozenset()

    def prepare(self, minibatch: LossBatch) -> Prepared:
        return Prepared(per_minibatch={"largest": minibatch.log_probs.abs().max()})

    def token_losses(self, batch: LossBatch) -> TokenLosses:
        return TokenLosses(values=-batch.advantages * batch.log_probs * batch.prepared["largest"])


class ScalarLoss(PolicyLoss):
    def __init__(self, config: LossParams) -> None:
        self.my_param = config.get("my_param", 1.0)

    def compute_loss(self, log_probs, old_log_probs, advantages, masks, **kwargs):
        return (-self.my_param * log_probs * advantages * masks).sum() / masks.sum()


def test_masked_slots_are_zero_before_the_loss_sees_them() -> None:
    batch = batch_of({Need.REF_LOG_PROBS}, ref_log_probs=torch.full((2, 2), NAN))
    assert batch.log_probs.tolist() == [[-1.0, -2.0], [-3.0, 0.0]]
    assert batch.advantages.tolist() == [[1.0, 1.0], [2.0, 0.0]]
    assert batch.ref_log_probs[1, 1] == 0


def test_gradient_flows_only_to_log_probs_and_entropy() -> None:
    given = {name: torch.zeros(2, 2, requires_grad=True) for name in ("old_log_probs", "ref_log_probs", "entropy")}
    batch = batch_of({Need(name) for name in given}, **given)
    assert batch.log_probs.requires_grad
    assert batch.entropy.requires_grad
    assert not batch.old_log_probs.requires_grad
    assert not batch.ref_log_probs.requires_grad
    assert not batch.advantages.requires_grad


def test_an_undeclared_input_is_an_error_that_names_the_line_to_add() -> None:
    batch = batch_of(set(), entropy=torch.zeros(2, 2))
    with pytest.raises(UndeclaredInputError, match=r"add Need\.ENTROPY"):
        _ = batch.entropy


def test_a_declared_input_that_was_not_given_is_an_error() -> None:
    with pytest.raises(MissingInputError, match="old_log_probs="):
        batch_of({Need.OLD_LOG_PROBS})


def test_a_shape_that_would_broadcast_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"old_log_probs has shape \[2\], log_probs has \[2, 2\]"):
        batch_of({Need.OLD_LOG_PROBS}, old_log_probs=torch.zeros(2))


def test_a_mask_of_numbers_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"pass mask\.bool\(\)"):
        LossBatch(log_probs=torch.zeros(1, 1), advantages=torch.zeros(1, 1), mask=torch.ones(1, 1))


def test_groups_are_numbers_of_sequences_and_stay_as_they_are() -> None:
    assert batch_of({Need.GROUPS}, groups=torch.tensor([4, 2])).groups.tolist() == [4, 2]


def test_a_token_loss_gives_a_scalar_without_a_trainer() -> None:
    log_probs = torch.tensor([[-1.0, -2.0], [-3.0, NAN]], dtype=torch.float64, requires_grad=True)
    advantages = torch.tensor([[1.0, 1.0], [2.0, 0.0]], dtype=torch.float64)
    loss = Reinforce(Reinforce.Params()).compute_loss(log_probs, None, advantages, MASK.float())
    (gradient,) = torch.autograd.grad(loss, log_probs)
    # largest |log pi| is 3: 3 · (1 + 2 + 2 · 3) / 3 tokens; it carries no gradient
    assert loss.item() == 9.0
    assert gradient.tolist() == [[-1.0, -1.0], [-2.0, 0.0]]


def test_the_scalar_follows_the_reduction() -> None:
    log_probs = torch.tensor([[-1.0, -2.0], [-3.0, 0.0]])
    advantages = torch.tensor([[1.0, 1.0], [2.0, 0.0]])
    loss = Reinforce(Reinforce.Params())
    by_sequence = loss.compute_loss(log_probs, None, advantages, MASK, loss_reduction="sequence_mean")
    assert by_sequence.item() == pytest.approx(3 * (1.5 + 6) / 2)


def test_the_two_forms_are_distinguished() -> None:
    assert is_scalar_form(ScalarLoss)
    assert not is_scalar_form(Reinforce)


def test_a_scalar_loss_need_not_call_the_base_constructor() -> None:
    loss = ScalarLoss(ScalarLoss.Params(my_param=1.5))
    assert loss.my_param == 1.5
    assert loss.needs(loss.params) == {Need.OLD_LOG_PROBS}


def test_a_loss_that_overrides_nothing_raises() -> None:
    class Nothing(PolicyLoss):
        pass

    with pytest.raises(NotImplementedError, match="Nothing overrides neither"):
        Nothing(Nothing.Params()).token_losses(batch_of(set()))
