"""A loss over a run: rebuilt when it changes, with the needs of all steps, and with its state."""

import sys

import pytest

from skyrl_core.contract.policy_loss import Need, PolicyLoss
from skyrl_core.errors import PluginError
from skyrl_core.parameters.loss_params import OpenLossParams
from skyrl_core.registry.loss_registry import load_policy_loss
from skyrl_core.registry.resolved_loss import ResolvedLoss
from skyrl_core.registry.scheduled_loss import ScheduledLoss

FALLING = {"schedule": "linear", "start": 0.02, "end": 0.0, "steps": 4}


def test_each_step_has_the_loss_of_its_parameters() -> None:
    scheduled = ResolvedLoss.find("entropy_reg", {"entropy_coef": FALLING}).scheduled()
    assert [scheduled.at(step).params.entropy_coef for step in (0, 1, 4, 9)] == pytest.approx([0.02, 0.015, 0, 0])


def test_the_instance_stays_while_nothing_changes() -> None:
    scheduled = ResolvedLoss.find("entropy_reg", {"entropy_coef": FALLING}).scheduled()
    assert scheduled.at(0) is scheduled.at(0)
    assert scheduled.at(4) is scheduled.at(5)
    fixed = ResolvedLoss.find("dual_clip").scheduled()
    assert fixed.at(0) is fixed.at(100)


def test_it_needs_what_the_loss_reads_at_any_step() -> None:
    rising = {"schedule": "linear", "start": 0.0, "end": 0.1, "steps": 4}
    assert ResolvedLoss.find("entropy_reg", {"entropy_coef": rising}).scheduled().needs == {
        Need.OLD_LOG_PROBS,
        Need.ENTROPY,
    }
    assert ResolvedLoss.find("entropy_reg", {"entropy_coef": 0.0}).scheduled().needs == {Need.OLD_LOG_PROBS}


def test_a_new_instance_has_the_state_of_the_old_one() -> None:
    scheduled = ResolvedLoss.find(
        "entropy_reg", {"target_entropy": 1.0, "clip_high": FALLING | {"end": 0.1}}
    ).scheduled()
    scheduled.at(0).after_step({"entropy": 0.5})
    state = scheduled.at(0).state_dict()
    assert state["entropy_coef"] == pytest.approx(0.015)
    assert scheduled.at(1).state_dict() == state


def test_variants_cover_all_steps_and_numbers_are_named_by_path() -> None:
    scheduled = ResolvedLoss.find("entropy_reg", {"entropy_coef": FALLING}).scheduled()
    assert [loss.params.entropy_coef for loss in scheduled.variants()] == pytest.approx([0.02, 0.015, 0.0])
    assert scheduled.numbers(2) == {"entropy_coef": pytest.approx(0.01)}


def test_a_given_instance_is_the_loss_of_every_step() -> None:
    loss = load_policy_loss("gspo")
    fixed = ScheduledLoss.fixed(loss)
    assert fixed.at(3) is fixed.loss is loss
    assert fixed.needs == loss.needs(loss.params)


class Odd(PolicyLoss):
    """Does what ``act`` does, in every method that a run calls."""

    name = "odd"

    def __init__(self, act) -> None:
        super().__init__(OpenLossParams())
        self.act = act

    def needs(self, params):
        return self.act()

    @property
    def adapts(self):
        return self.act()

    def after_step(self, metrics):
        self.act()

    def state_dict(self):
        return self.act()


@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("needs", lambda loss: loss.needs),
        ("adapts", lambda loss: loss.adapts(2)),
        ("after_step", lambda loss: loss.after_step({}, 2)),
        ("state_dict", lambda loss: loss.state(2)),
    ],
)
def test_a_failing_method_of_a_loss_names_the_loss_and_the_optimizer_step(method, call) -> None:
    loss = ScheduledLoss.fixed(Odd(lambda: sys.exit(0)))
    with pytest.raises(PluginError) as caught:
        call(loss)
    step = "" if method == "needs" else ", optimizer step 3"
    assert str(caught.value).startswith(f"policy loss 'odd' failed in {method}{step}: SystemExit: 0\n  at {__file__}:")


@pytest.mark.parametrize("state", [None, [1.0], {"a": "text"}, {1: 1.0}, {"a": float("nan")}, {"a": None}])
def test_a_state_that_a_checkpoint_cannot_hold_is_refused(state) -> None:
    with pytest.raises(PluginError, match=r"failed in state_dict, optimizer step 1: TypeError"):
        ScheduledLoss.fixed(Odd(lambda: state)).state(0)


def test_the_state_is_a_copy() -> None:
    state = {"a": 1.0, "n": 2}
    copied = ScheduledLoss.fixed(Odd(lambda: state)).state(0)
    assert copied == state
    assert copied is not state
