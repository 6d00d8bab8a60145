"""What ``gradient.py`` measures on: a model, a batch and the parameters of every loss, chosen well conditioned.

What is measured is the trainer, not float32. Compared with float64, plain autograd in float32 is off by

- 2e-5 on samples of the model itself: their gradient of log-probs has the expectation zero, and what is left is a small
  difference of large parts. So the tokens are random and the advantages mostly of one sign.
- 7e-6 for `vespo` on the shipped tiny model, whose log-probs of such tokens carry an error of 5e-6 each, that of its
  large logits; `vespo` weighs a sequence by the exponential of their sum. So the weights are fresh and the vocabulary
  is small: log-probs near -3.5 carry 1e-7, and no loss is off by more than 7e-7.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from skyrl_core.registry import load_scheduled_loss
from skyrl_train.config.schema import LoraConfig
from skyrl_train.policy.adapters import add_adapters
from skyrl_train.policy.model_loading import prepare_model
from skyrl_train.policy.policy import Policy
from skyrl_train.rollout.engine import Sample
from skyrl_train.training.experience import Experience
from skyrl_train.training.objective import Objective

GROUPS, SAMPLES = 7, 4
"""Seven groups, because two ranks then have 16 and 12 sequences: one of them needs fillers."""

VOCABULARY = 32
COVARIANCE = {"clip_cov_ratio": 0.1, "clip_cov_lb": -9.0, "clip_cov_ub": 9.0}
PARAMS: dict[str, dict[str, Any]] = {
    # The narrow ranges of the papers would clip nearly all of a random batch away.
    "gspo": {"clip_low": 0.2, "clip_high": 0.2},
    "luspo": {"clip_low": 0.2, "clip_high": 0.2},
    # Bounds within the noise of the batch: each of these drops some tokens and keeps others.
    "dppo": {"delta_low": 2e-3, "delta_high": 2e-3},
    "icepop": {"ratio_low": 0.9, "ratio_high": 1.1},
    "kpop": {"phi": 1e-4},
    "decoupled_ppo": {"behave_cap": 1.1},
    # Of 0.2 of the tokens a penalty of weight 1 would cancel most of what the advantages say.
    "kl_cov": {"kl_cov_frac": 0.2, "ppo_kl_coef": 0.1},
    # The kernel multiplies what float32 loses in a sum of log-probs by k - lambda W. W goes up to 3.7 here: by the
    # defaults that is -9.
    "vespo": {"k_pos": 1.0, "lambda_pos": 1.0, "k_neg": 1.5, "lambda_neg": 1.5},
    # A share that chooses more than a single one of some 350 tokens: what is chosen depends on all ranks.
    "clip_cov": COVARIANCE,
    # An exact entropy, a statistic of the minibatch, and a term without any other policy.
    "sum": {
        "terms": [
            {"loss": "dual_clip"},
            {"loss": "entropy_reg", "weight": 0.5},
            {"loss": "clip_cov", "weight": 0.5, "params": COVARIANCE},
            {"loss": "cross_entropy", "weight": 0.1},
        ]
    },
}


def build_model(*, lora: bool) -> PreTrainedModel:
    """Half the layers of the tiny model with fresh weights, the same on every rank; float32.

    Adapters, if any, are where training would have taken them: while B is zero, A has no gradient.
    """
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM(config)
    prepare_model(model)
    if lora:
        add_adapters(model, LoraConfig(rank=8), seed=0)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.02)
    return model


def build_objective(loss_name: str, *, skips: bool = False) -> Objective:
    """The loss with its own reduction, and a KL term beside it, which there cannot be where sequences are skipped."""
    loss = load_scheduled_loss(loss_name, PARAMS.get(loss_name))
    objective = Objective(
        loss=loss,
        reduction=loss.loss.default_reduction,
        max_length=16,
        kl_coef=0.0 if skips else 0.01,
        kl_estimator="k3",
        skip_zero_advantages=skips,
    )
    objective.check()
    return objective


def without_advantages(batch: Experience) -> Experience:
    """The batch with four groups whose samples are equally good: of two ranks, the second trains on nothing else."""
    silent = torch.isin(batch.groups, torch.tensor([1, 2, 3, 5]))
    return replace(batch, advantages=torch.where(silent[:, None], 0.0, batch.advantages))


def build_batch(model: PreTrainedModel) -> Experience:
    """28 ragged sequences in 7 groups, one fully masked and one with a hole; log-probs of three other policies."""
    generator = torch.Generator().manual_seed(0)

    def tokens(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high, (1,), generator=generator))
        return torch.randint(2, VOCABULARY, (length,), generator=generator).tolist()

    count = GROUPS * SAMPLES
    groups = [index // SAMPLES for index in range(count)]
    prompts = [tokens(1, 12) for _ in range(GROUPS)]
    responses = [tokens(3, 24) for _ in range(count)]
    samples = [
        Sample(token_ids=tuple(r), log_probs=(0.0,) * len(r), finished=True, policy_version=0) for r in responses
    ]
    batch = Experience.build(
        [prompts[group] for group in groups], samples, groups, pad_id=0, device=torch.device("cpu")
    )
    mask = batch.mask.clone()
    mask[3] = False
    mask[int(mask.sum(-1).argmax()), 1] = False
    batch = replace(batch, mask=mask)
    with torch.no_grad():
        log_probs, _ = Policy(model, chunk_size=64, temperature=1.0).score(batch.sequences, False)

    def around(values: Tensor, scale: float) -> Tensor:
        return torch.where(mask, values + scale * torch.randn(mask.shape, generator=generator), 0.0)

    advantages = 1 + 0.5 * torch.randn(count, 1, generator=generator)
    return replace(
        batch,
        advantages=torch.where(mask, advantages.expand(mask.shape), 0.0),
        rollout_log_probs=around(log_probs, 0.1),
        old_log_probs=around(log_probs, 0.1),
        ref_log_probs=around(log_probs, 0.3),
    )
