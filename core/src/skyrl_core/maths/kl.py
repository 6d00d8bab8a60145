"""KL divergence to a reference policy, estimated from sampled tokens.

With x = log pi - log ref at a token that pi sampled, each of k1, k2 and k3 estimates KL(pi || ref); abs does not. As a
*loss* they differ, because differentiating an estimate is not estimating a derivative (arXiv 2506.09477):

| estimator | value          | gradient as a loss, on policy       |
|-----------|----------------|-------------------------------------|
| k1        | x              | zero in expectation: pure noise     |
| k2        | x² / 2         | reverse KL(pi || ref), exactly      |
| k3        | exp(-x) - 1 + x | forward KL(ref || pi)              |
| abs       | |x|            | neither; pulls by the sign of x     |

The estimators: J. Schulman, "Approximating KL divergence", 2020, http://joschu.net/blog/kl-approx.html.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from skyrl_core.parameters.algorithm_options import KlEstimator

# k3 grows like exp(-x): 4.9e8 at x = -20, infinite in float32 at -88. Only this side is bounded; beyond it the value
# is constant and the gradient zero.
_K3_MIN = -20.0


def kl_estimate(log_probs: Tensor, ref_log_probs: Tensor, estimator: KlEstimator) -> Tensor:
    """The KL divergence at every token, in nats, for logs and rewards: float [B, T], [B, T] -> [B, T].

    Args:
        log_probs: of the tokens under the policy that sampled them.
        ref_log_probs: of the same tokens under the reference.
        estimator: "k1", "k2", "k3", also called "low_var_kl", or "abs".

    Raises:
        ValueError: the estimator is unknown.
    """
    if estimator not in _ESTIMATORS:
        raise ValueError(f"unknown KL estimator {estimator!r}; known: {', '.join(_ESTIMATORS)}")
    return _ESTIMATORS[estimator](log_probs - ref_log_probs)


def kl_loss(log_probs: Tensor, ref_log_probs: Tensor, estimator: KlEstimator) -> Tensor:
    """The KL term of a loss at every token: float [B, T], [B, T] -> [B, T]. ``k2`` has the gradient of the reverse KL.

    Raises:
        ValueError: the estimator is unknown, or is k1, whose gradient as a loss is zero in expectation.
    """
    if estimator == "k1":
        raise ValueError(
            "KL estimator 'k1' is useless as a loss: its gradient is zero in expectation, so it adds noise and no pull "
            "towards the reference. Use 'k2' (gradient of the reverse KL) or 'k3' (of the forward KL)"
        )
    return kl_estimate(log_probs, ref_log_probs, estimator)


def _k1(x: Tensor) -> Tensor:
    return x


def _k2(x: Tensor) -> Tensor:
    return 0.5 * x.square()


def _k3(x: Tensor) -> Tensor:
    x = x.clamp(min=_K3_MIN)
    # expm1, not exp - 1: the value is about x² / 2, which exp(-x) - 1 + x loses in rounding for small x.
    return torch.expm1(-x) + x


_ESTIMATORS: dict[KlEstimator, Callable[[Tensor], Tensor]] = {
    "k1": _k1,
    "k2": _k2,
    "k3": _k3,
    "low_var_kl": _k3,
    "abs": torch.abs,
}
