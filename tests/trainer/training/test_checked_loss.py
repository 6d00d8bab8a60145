"""The start line of a run: the rules that ran and their notes; parameters that a loss ignores are errors."""

import pytest

from skyrl_core import LossParams, PolicyLoss, TokenLosses, check_policy_loss, register_policy_loss
from skyrl_core.conformance import RULES
from skyrl_core.errors import ConformanceError, InvalidParamsError
from skyrl_core.registry import LOSSES, ResolvedLoss
from skyrl_train.training.checked_loss import check_loss

QUICK = sum(rule.quick for rule in RULES)


@pytest.fixture(autouse=True)
def _nothing_is_registered(monkeypatch):
    monkeypatch.setattr(LOSSES, "_registered", {})


def checked(spec, values=None):
    resolved = ResolvedLoss.find(spec, values)
    return check_loss(resolved.scheduled(), resolved.claim, spec)


def scalar(log_probs, old_log_probs, advantages, masks, **kwargs):
    """A sum over sequences of their means, so not a mean over tokens."""
    ratio = (log_probs - old_log_probs).exp()
    return -((ratio * advantages * masks).sum(-1) / masks.sum(-1).clamp(min=1)).mean()


class Untyped(PolicyLoss):
    """Scalar form, as in SkyRL: it reads its parameters with ``get``, one only in ``compute_loss``."""

    def __init__(self, config):
        self.config, self.coef = config, config.get("entropy_coef", 0.0)

    def compute_loss(self, log_probs, old_log_probs, advantages, masks, **kwargs):
        ratio = (log_probs - old_log_probs).exp()
        loss = -(ratio * advantages * masks).sum() / masks.sum() * self.config.get("factor", 1.0)
        return loss + self.coef * (log_probs * masks).sum() / masks.sum() * 1e-3


def test_an_installed_loss_names_the_true_number_of_rules_and_the_command():
    result = checked("dual_clip")
    assert result.summary == f"passes the {QUICK} quick rules (all: `skyrl losses check dual_clip`)"
    assert result.notes == ()
    assert len(check_policy_loss(ResolvedLoss.find("dual_clip").scheduled().loss).results) == QUICK


def test_a_registered_loss_that_is_inexact_under_micro_batches_has_a_note_and_python_as_the_command():
    register_policy_loss("sequence_means", scalar)
    result = checked("sequence_means")
    assert result.summary.endswith("(all: `check_policy_loss(load_policy_loss('sequence_means'), thorough=True)`)")
    [note] = [note for note in result.notes if "not exact under micro-batches" in note]
    assert "override token_losses" in note


def test_a_waived_rule_is_not_counted():
    class Backwards(PolicyLoss):
        name, api_version, semantics_version, Params = "backwards", 1, 1, LossParams
        conformance_waivers = {"gradient_sign": "it unlearns on purpose"}

        def token_losses(self, batch):
            return TokenLosses(values=batch.advantages * (batch.log_probs - batch.old_log_probs).exp())

    register_policy_loss("backwards", Backwards)
    assert f"passes the {QUICK - 1} quick rules, waives gradient_sign" in checked("backwards").summary


def test_a_broken_rule_is_an_error():
    register_policy_loss("constant", lambda log_probs, *_, **__: log_probs.sum() * 0.0)
    with pytest.raises(ConformanceError, match="breaks"):
        checked("constant")


def test_a_parameter_that_an_untyped_loss_never_reads_is_an_error_with_the_nearest_name_it_read():
    register_policy_loss("untyped", Untyped)
    checked("untyped", {"entropy_coef": 0.1, "factor": 2.0})
    with pytest.raises(InvalidParamsError) as caught:
        checked("untyped", {"entropy_coeff": 0.1, "factor": 2.0, "zzz": 1})
    assert {p.path: (p.value, p.nearest) for p in caught.value.problems} == {
        "entropy_coeff": (0.1, "entropy_coef"),
        "zzz": (1, None),
    }
    assert "loss 'untyped' ignores parameters" in str(caught.value)
    assert "entropy_coeff = 0.1: the loss never reads it; did you mean 'entropy_coef'?" in str(caught.value)


@pytest.mark.parametrize(
    "read",
    [
        lambda config: config.entropy_coef,
        lambda config: getattr(config, "entropy_coef", 0.0),
        lambda config: dict(config)["entropy_coef"],
        lambda config: config.model_dump()["entropy_coef"],
    ],
)
def test_every_way_to_read_a_parameter_counts(read):
    class Reads(Untyped):
        def __init__(self, config):
            self.config, self.coef = config, read(config)

    register_policy_loss("reads", Reads)
    assert checked("reads", {"entropy_coef": 0.1}).summary
    describe = ResolvedLoss.find("reads", {"entropy_coef": 0.1})
    assert describe.identity.params == {"entropy_coef": 0.1}


def test_writing_down_the_parameters_does_not_count_as_reading_them():
    register_policy_loss("untyped", Untyped)
    resolved = ResolvedLoss.find("untyped", {"entropy_coeff": 0.1})
    assert resolved.identity.params == {"entropy_coeff": 0.1}
    with pytest.raises(InvalidParamsError, match="entropy_coeff"):
        check_loss(resolved.scheduled(), resolved.claim, "untyped")
