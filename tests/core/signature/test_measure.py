"""The measured weights of the installed losses match values worked out by hand."""

import math

import pytest
import torch

from skyrl_core.contract.policy_loss import Need, PolicyLoss, TokenLosses
from skyrl_core.contract.prepared import Prepared
from skyrl_core.parameters.loss_params import OpenLossParams
from skyrl_core.registry.function_plugins import loss_of_function
from skyrl_core.registry.loss_registry import load_policy_loss, policy_losses
from skyrl_core.signature.measure import WIDE, Probe, Scale, check_range, measure_signature

PROBE = Probe()


def weight(name: str, ratio: float, advantage: float, probe: Probe = PROBE, **params) -> float:
    return Scale(load_policy_loss(name, params), probe).weigh(ratio, advantage).weight


def breaks(name: str, probe: Probe = PROBE, **params) -> list[list[tuple[str, float]]]:
    """Return kind and ratio of the breaks, for A = +1 and for A = -1."""
    measured = measure_signature(load_policy_loss(name, params), probe=probe)
    return [[(each.kind, each.ratio) for each in curve.breaks] for curve in measured.curves]


@pytest.mark.parametrize(
    ("name", "ratio", "advantage", "expected"),
    [
        ("reinforce", 3.0, 1.0, 1.0),
        ("standard", 3.0, -1.0, -3.0),
        ("importance_sampling", 0.25, 1.0, 0.25),
        ("dual_clip", 0.5, 1.0, 0.5),  # a good token that became rarer is never clipped
        ("dual_clip", 1.3, 1.0, 0.0),
        ("dual_clip", 0.7, -1.0, 0.0),
        ("dual_clip", 2.0, -1.0, -2.0),
        ("dual_clip", 3.5, -1.0, 0.0),  # beyond c = 3
        ("cispo", 2.0, -1.0, -2.0),
        ("cispo", 7.0, -1.0, -5.0),  # clamped at 1 + 4, not dropped
        ("icepop", 4.0, 1.0, 4.0),
        ("icepop", 6.0, 1.0, 0.0),
        ("gmpo", 1.4, 1.0, 1.4),
        ("gmpo", 1.5, 1.0, 0.0),  # log 1.5 = 0.405 > 0.4
        ("cross_entropy", 2.0, -1.0, 1.0),  # for any advantage
        ("dro", 2.0, 1.0, 1 - 0.05 * math.log(2)),  # A - beta log r
        ("cpgd", 1.1, 1.0, 1 - 0.01 * 0.1),  # A - drift_coef (r - 1)
        ("cpgd", 2.0, 1.0, -0.01),  # only the drift remains beyond the clip
        ("sapo", 3.0, 1.0, 3 * 4 * 0.104993585),  # r · 4 p (1 - p), p = sigmoid(2) = 0.880797
        ("kl_cov", 2.0, 1.0, 2.0),
        ("entropy_reg", 1.3, 1.0, 0.0),
        ("decoupled_ppo", 1.3, -1.0, -1.3),
        # W = 0.9^4 = 0.6561: W^2 exp(3 (1 - W)) = 0.43046721 · exp(1.0317)
        ("vespo", 0.9, 1.0, 0.43046721 * math.exp(1.0317)),
        # W = 1.1^4 = 1.4641: -W^3 exp(2 (1 - W)) = -3.138428 · exp(-0.9282)
        ("vespo", 1.1, -1.0, -(1.4641**3) * math.exp(-0.9282)),
    ],
)
def test_the_weight_of_a_token_matches_the_formula(name: str, ratio: float, advantage: float, expected: float) -> None:
    assert weight(name, ratio, advantage) == pytest.approx(expected, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_on_policy_the_weight_is_the_advantage_for_every_loss(advantage: float) -> None:
    checked = []
    for claim in policy_losses():
        loss = load_policy_loss(claim.name)
        if claim.distribution.startswith("skyrl-") and not loss.ignores_advantages:
            assert Scale(loss).weigh(1.0, advantage).weight == pytest.approx(advantage, rel=1e-9), claim.name
            checked.append(claim.name)
    assert len(checked) > 15


@pytest.mark.parametrize(
    ("name", "params", "positive", "negative"),
    [
        ("dual_clip", {}, [("jump", 1.2)], [("jump", 0.8), ("jump", 3.0)]),
        ("dual_clip", {"clip_high": 0.28, "clip_ratio_c": None}, [("jump", 1.28)], [("jump", 0.8)]),
        ("clip_cov", {}, [("jump", 1.2)], [("jump", 0.8)]),
        ("cispo", {"clip_low": 0.5}, [("kink", 0.5), ("kink", 5.0)], [("kink", 0.5), ("kink", 5.0)]),
        ("gspo", {}, [("jump", 1.0004)], [("jump", 0.9997)]),
        ("luspo", {}, [("jump", 1.0025)], [("jump", 0.998)]),
        ("icepop", {}, [("jump", 0.5), ("jump", 5.0)], [("jump", 0.5), ("jump", 5.0)]),
        ("sapo", {}, [], []),
        ("vespo", {}, [], []),
        # pi - mu = 0.1 (r - 1) exceeds 0.2 at r = 3; it never falls below -0.2
        ("dppo", {}, [("jump", 3.0)], []),
        # -0.05 at r = 0.5
        ("dppo", {"delta_low": 0.05}, [("jump", 3.0)], [("jump", 0.5)]),
    ],
)
def test_the_bounds_of_a_loss_are_its_breaks(name: str, params: dict, positive: list, negative: list) -> None:
    def rounded(found):
        return [(kind, pytest.approx(ratio, rel=2e-6)) for kind, ratio in found]

    assert breaks(name, **params) == [rounded(positive), rounded(negative)]


def test_the_bound_of_a_divergence_depends_on_the_probability() -> None:
    # 0.05 (r - 1) = 0.2 at r = 5
    assert breaks("dppo", Probe(probability=0.05)) == [[("jump", pytest.approx(5.0))], []]


def test_the_weight_of_a_sequence_level_loss_depends_on_the_length() -> None:
    one = weight("vespo", 0.9, 1.0, Probe(length=1))
    assert one == pytest.approx(0.81 * math.exp(0.3))  # W = 0.9
    assert weight("gspo", 1.0002, 1.0, Probe(length=1)) == weight("gspo", 1.0002, 1.0, Probe(length=7))


@pytest.mark.parametrize("ratio", [0.9998, 1.0002])
def test_both_levels_of_gspo_give_a_token_the_same_weight(ratio: float) -> None:
    weights = [weight("gspo", ratio, 1.0, level=level) for level in ("token", "sequence")]
    assert weights == pytest.approx([ratio, ratio])


def test_a_token_that_kl_cov_selects_is_pulled_back() -> None:
    measured = measure_signature(load_policy_loss("kl_cov"))
    for curve in measured.singled_out:
        for ratio, each in zip(curve.ratios, curve.weights, strict=True):
            if ratio != 1.0:  # |x| has no slope at 0
                pull = math.copysign(1.0, ratio - 1)
                assert each == pytest.approx(ratio * curve.advantage - pull, abs=1e-9)
    assert [curve.advantage for curve in measured.singled_out] == [1.0, -1.0]


def test_a_token_that_clip_cov_selects_weighs_nothing() -> None:
    measured = measure_signature(load_policy_loss("clip_cov"))
    assert {each for curve in measured.singled_out for each in curve.weights} == {0.0}
    assert max(measured.curves[0].weights) > 1


@pytest.mark.parametrize("name", ["dual_clip", "gspo", "sum"])
def test_a_loss_that_selects_no_token_has_no_second_pair_of_curves(name: str) -> None:
    assert measure_signature(load_policy_loss(name)).singled_out == ()


def test_a_sum_weighs_the_sum_of_its_terms() -> None:
    terms = [{"loss": "dual_clip"}, {"loss": "cross_entropy", "weight": 0.5}]
    assert weight("sum", 2.0, 1.0, terms=terms) == pytest.approx(0.5)
    assert weight("sum", 2.0, -1.0, terms=terms) == pytest.approx(-1.5)


def test_entropy_has_a_separate_weight() -> None:
    assert measure_signature(load_policy_loss("entropy_reg", {"entropy_coef": 0.03})).entropy_weight == pytest.approx(
        0.03
    )
    assert measure_signature(load_policy_loss("dual_clip")).entropy_weight == 0.0


@pytest.mark.parametrize("length", [1, 4])
def test_a_scalar_loss_has_the_same_signature_as_its_token_form(length: int) -> None:
    def surrogate(log_probs, old_log_probs, advantages, masks):
        ratio = (log_probs - old_log_probs).exp()
        return -(torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages) * masks).sum() / masks.sum()

    scalar = measure_signature(loss_of_function("scalar", surrogate)(OpenLossParams()), probe=Probe(length=length))
    token = measure_signature(load_policy_loss("clipped_pg"), probe=Probe(length=length))
    for mine, theirs in zip(scalar.curves, token.curves, strict=True):
        assert mine.weights == pytest.approx(theirs.weights, abs=1e-12)
        assert mine.losses == pytest.approx(theirs.losses, abs=1e-12)
        assert [each.ratio for each in mine.breaks] == [each.ratio for each in theirs.breaks]


class ReadsEverything(PolicyLoss):
    """Reads every input."""

    name = "reads_everything"
    api_version = 1

    @classmethod
    def needs(cls, params):
        return frozenset(Need)

    def prepare(self, minibatch):
        return Prepared(per_minibatch={"mean": minibatch.log_probs.mean()})

    def token_losses(self, batch):
        apart = (batch.old_log_probs - batch.rollout_log_probs) + (batch.rollout_log_probs - batch.ref_log_probs)
        values = -batch.log_probs * batch.groups.unsqueeze(-1).eq(0) + apart + 0.0 * batch.prepared["mean"]
        return TokenLosses(values=values - 2.0 * batch.entropy)


def test_the_other_policies_agree_and_every_input_is_available() -> None:
    weighed = Scale(ReadsEverything(OpenLossParams())).weigh(2.0, 1.0)
    assert (weighed.weight, weighed.entropy_weight) == (1.0, 2.0)
    assert weighed.loss == pytest.approx(-math.log(0.2) - 2.0)  # of probability 0.1 · 2, with an entropy of 1


class TestRange:
    def test_it_is_wide_and_holds_ratio_one_exactly(self) -> None:
        ratios = measure_signature(load_policy_loss("standard")).ratios
        assert (ratios[0], ratios[-1]) == pytest.approx(WIDE)
        assert 1.0 in ratios

    def test_it_is_narrow_if_all_bounds_are_close_to_one(self) -> None:
        ratios = measure_signature(load_policy_loss("gspo")).ratios
        assert 0.99 < ratios[0] < 0.9997
        assert 1.0004 < ratios[-1] < 1.01
        assert 1.0 in ratios

    def test_it_can_be_set(self) -> None:
        ratios = measure_signature(load_policy_loss("gspo"), ratios=(0.5, 4.0), points=11).ratios
        assert len(ratios) == 11
        assert (ratios[0], ratios[-1]) == pytest.approx((0.5, 4.0))

    @pytest.mark.parametrize(
        ("ratios", "probe", "message"),
        [
            ((0.0, 2.0), Probe(), "from a positive number to a larger one"),
            ((2.0, 2.0), Probe(), "from a positive number to a larger one"),
            ((1.0, math.nan), Probe(), "from a positive number to a larger one"),
            ((0.5, 10.0), Probe(), "end the ratios below 10"),
            ((0.5, 2.0), Probe(length=0), "from 1 to 4,096 tokens"),
            ((0.5, 2.0), Probe(probability=1.0), "between 0 and 1"),
        ],
    )
    def test_an_invalid_range_or_probe_is_rejected(self, ratios, probe: Probe, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            check_range(ratios, probe)


class TestPieces:
    def test_a_curve_is_split_where_it_jumps(self) -> None:
        rising, falling = measure_signature(load_policy_loss("dual_clip")).curves
        assert [(piece[0], piece[-1]) for piece in rising.pieces] == [
            (pytest.approx((1 / 8, 1 / 8)), pytest.approx((1.2, 1.2), rel=1e-5)),
            (pytest.approx((1.2, 0.0), abs=1e-5), pytest.approx((8.0, 0.0))),
        ]
        assert len(falling.pieces) == 3

    def test_a_point_at_the_jump_belongs_to_neither_side(self) -> None:
        inside = measure_signature(load_policy_loss("icepop")).curves[0].pieces[1]
        weights = [each for _, each in inside]
        assert weights == sorted(weights)
        assert weights[0] == pytest.approx(0.5, rel=1e-5)

    def test_a_kink_is_a_point_of_its_piece(self) -> None:
        [piece] = measure_signature(load_policy_loss("cispo")).curves[0].pieces
        assert any(point == pytest.approx((5.0, 5.0), rel=2e-6) for point in piece)
