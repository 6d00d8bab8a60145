"""Inputs of ``gradient.py``: a model, a batch and the parameters of every loss, chosen to be well conditioned.

The benchmark measures the trainer, not float32. Compared with float64, plain autograd in float32 is off by

- 2e-5 on samples of the model itself: the gradient of their log-probs has expectation zero, so the result is a small
  difference of large parts. Therefore the tokens are random and most advantages have the same sign.
- 7e-6 for `vespo` on the bundled tiny model: its large logits give the log-probs of such tokens an error of 5e-6 each,
  and `vespo` weighs a sequence by the exponential of their sum. Therefore the weights are fresh and the vocabulary is
  small: log-probs near -3.5 have an error of 1e-7, and no loss is off by more than 7e-7.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from skyrl_core.registry import ResolvedLoss
from skyrl_train.config.schema import LoraConfig
from skyrl_train.policy.adapters import add_adapters
from skyrl_train.policy.model_loading import prepare_model
from skyrl_train.policy.policy import Policy
from skyrl_train.rollout.rollout_engine import Sample
from skyrl_train.step.experience import Experience
from skyrl_train.step.objective import Objective

GROUPS, SAMPLES = 7, 4
"""Seven groups give two ranks 16 and 12 sequences, so that one rank needs fillers."""

VOCABULARY = 32
COVARIANCE = {"clip_cov_ratio": 0.1, "clip_cov_lb": -9.0, "clip_cov_ub": 9.0}
PARAMS: dict[str, dict[str, Any]] = {
    # The narrow ranges of the papers would clip nearly all tokens of a random batch.
    "gspo": {"clip_low": 0.2, "clip_high": 0.2},
    "luspo": {"clip_low": 0.2, "clip_high": 0.2},
    # Bounds within the noise of the batch: each drops some tokens and keeps others.
    "dppo": {"delta_low": 2e-3, "delta_high": 2e-3},
    "icepop": {"ratio_low": 0.9, "ratio_high": 1.1},
    "kpop": {"phi": 1e-4},
    "decoupled_ppo": {"behave_cap": 1.1},
    # On 0.2 of the tokens, a penalty of weight 1 would cancel most of the advantages.
    "kl_cov": {"kl_cov_frac": 0.2, "ppo_kl_coef": 0.1},
    # The kernel multiplies the float32 error of a sum of log-probs by k - lambda W. W reaches 3.7 here; with the
    # defaults the factor is -9.
    "vespo": {"k_pos": 1.0, "lambda_pos": 1.0, "k_neg": 1.5, "lambda_neg": 1.5},
    # A share that selects more than one of some 350 tokens: the selection depends on all ranks.
    "clip_cov": COVARIANCE,
    # An exact entropy, a statistic of the minibatch, and a term that reads no other policy.
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

    Adapters, if any, have trained-looking weights: while B is zero, A has no gradient.
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
    """The loss with its default reduction, plus a KL term unless sequences are skipped, which rules it out."""
    loss = ResolvedLoss.find(loss_name, PARAMS.get(loss_name)).scheduled()
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
    """The batch with zero advantages in four groups, which include all groups of the second of two ranks."""
    equal = torch.isin(batch.groups, torch.tensor([1, 2, 3, 5]))
    return replace(batch, advantages=torch.where(equal[:, None], 0.0, batch.advantages))


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
        log_probs, _ = Policy(model, chunk_size=64, temperature=1.0).log_probs(batch.sequences, False)

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
