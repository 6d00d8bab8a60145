"""Estimates advantages from the rewards of all ranks, optionally with a KL penalty in the reward."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from skyrl_core.contract import AdvantageBatch, AdvantageEstimator
from skyrl_core.discovery import Guard
from skyrl_core.errors import SkyrlError
from skyrl_core.maths import kl_estimate
from skyrl_core.parameters import KlEstimator
from skyrl_train.ranks.ranks import Ranks
from skyrl_train.step.experience import Experience


class AdvantagePass:
    """Calls the estimator with complete groups, whichever ranks sampled them."""

    def __init__(
        self,
        estimator: AdvantageEstimator,
        name: str,
        kl_estimator: KlEstimator,
        ranks: Ranks,
        guard: Guard | None = None,
    ) -> None:
        """``name`` is the estimator's name in messages, and ``guard`` guards its code.

        Raises:
            SkyrlError: the estimator needs a value model.
        """
        if type(estimator).needs_values:
            raise SkyrlError(
                f"trainer.algorithm.advantage_estimator = {name}: it needs a value model, and this trainer trains "
                "none; set it to grpo, rloo or reinforce_pp, which need only the rewards of a group or of the batch"
            )
        self._estimator = estimator
        self._name = name
        self._kl_estimator = kl_estimator
        self._ranks = ranks
        self._guard = guard or Guard(f"advantage estimator {name!r}", type(estimator).__module__)

    def estimate(
        self, experience: Experience, kl_reward_coef: float, when: str = ""
    ) -> tuple[Experience, dict[str, float]]:
        """The experience with advantages, and the metrics of the penalty; ``when`` is for messages. Collective.

        Raises:
            PluginError: the estimator fails.
            SkyrlError: it returns advantages of another shape, or values that are not finite.
        """
        penalty = self._penalty(experience, kl_reward_coef) if kl_reward_coef else None
        own = {"rewards": experience.rewards, "groups": experience.groups, "mask": experience.mask}
        own |= {"token_rewards": -penalty} if penalty is not None else {}
        every = self._ranks.gather(
            [{name: tensor.cpu() for name, tensor in tensors.items()} for tensors in (own, experience.reward_parts)]
        )
        parts = [tensors for tensors, _ in every]
        width = max(part["mask"].shape[1] for part in parts)
        gathered = {name: torch.cat([_widened(part[name], width) for part in parts]) for name in own}
        earned = gathered.get("token_rewards")
        batch = AdvantageBatch(
            rewards=gathered["rewards"] if earned is None else gathered["rewards"] + earned.sum(-1),
            groups=gathered["groups"],
            mask=gathered["mask"],
            token_rewards=earned,
            reward_parts=_reward_parts([(len(tensors["rewards"]), named) for tensors, named in every]),
        )
        with self._guard.calling("estimate", when):
            advantages = self._estimator.estimate(batch)
            if not isinstance(advantages, Tensor):
                raise TypeError(f"it returned {type(advantages).__name__} instead of a tensor")
        advantages = self._checked(advantages.detach(), batch)
        start = sum(len(part["rewards"]) for part in parts[: self._ranks.rank])
        logged = {} if earned is None else {"kl_reward/mean": float(-earned.sum(-1).mean())}
        return replace(
            experience, advantages=_of_tokens(advantages[start : start + len(experience)], experience)
        ), logged

    def _penalty(self, experience: Experience, coef: float) -> Tensor:
        old, reference = experience.old_log_probs, experience.ref_log_probs
        if old is None or reference is None:
            raise ValueError("a KL penalty needs the log-probs of the old policy and of the reference model")
        return torch.where(experience.mask, coef * kl_estimate(old, reference, self._kl_estimator), 0.0)

    def _checked(self, advantages: Tensor, batch: AdvantageBatch) -> Tensor:
        count = len(batch.rewards)
        if advantages.shape not in ((count,), batch.mask.shape if batch.mask is not None else (count,)):
            raise SkyrlError(
                f"advantage estimator {self._name!r} returned shape {list(advantages.shape)} for {count} sequences: it "
                "must return one value for each sequence, or one for each response token"
            )
        if not torch.isfinite(advantages).all():
            raise SkyrlError(
                f"advantage estimator {self._name!r} returned a value that is not finite for rewards "
                f"{batch.rewards.tolist()}"
            )
        return advantages


def _reward_parts(ranks: Sequence[tuple[int, Mapping[str, Tensor]]]) -> dict[str, Tensor]:
    """The named rewards of all ranks, float [N]: NaN where a rank has no sample with a reward of that name."""
    names = sorted({name for _, named in ranks for name in named})
    return {
        name: torch.cat([named.get(name, torch.full((count,), math.nan)) for count, named in ranks]) for name in names
    }


def _widened(tensor: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(tensor, (0, width - tensor.shape[1])) if tensor.ndim > 1 else tensor


def _of_tokens(advantages: Tensor, experience: Experience) -> Tensor:
    """Advantages [N] or [N, wider] as float32 [N, T]; 0 where masked."""
    advantages = advantages.to(experience.mask.device, torch.float32)
    if advantages.ndim == 1:
        advantages = advantages[:, None].expand(experience.mask.shape)
    return torch.where(experience.mask, advantages[:, : experience.mask.shape[1]], 0.0)
