"""The policy module: token sequences in, log-probs and entropy of their response tokens out."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from skyrl_train.policy.adapters import head_factors
from skyrl_train.policy.log_probs.kept_tokens import KeptTokens
from skyrl_train.policy.log_probs.tiled_log_probs import token_statistics
from skyrl_train.policy.prompts.shared_prompts import SharedPrompts, hidden_states, pairs_per_token, plain_cost


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """Right-padded prompts and responses. Response token t of row b is at ``response_start[b] + t``."""

    input_ids: Tensor  # int64 [B, S]
    attention_mask: Tensor  # bool [B, S]
    response_start: Tensor  # int64 [B]; at least 1, since the first token has no predecessor
    response_mask: Tensor  # bool [B, T]
    kept: KeptTokens | None = None  # counts [B, T]: the entries that log-probs and entropy cover; None means all


class Policy(nn.Module):
    """A causal language model that returns log-probs and entropy without materialising its logits."""

    def __init__(
        self, model: PreTrainedModel, *, chunk_size: int, temperature: float, share_prompts: bool = False
    ) -> None:
        """``share_prompts``: compute equal prompts of a batch once; needs ``can_share_prompts(model)``."""
        super().__init__()
        self.model = model
        self.config = model.config  # accelerate and DeepSpeed read the hidden size here
        self.chunk_size = chunk_size
        self.temperature = temperature
        self._pairs_per_token = pairs_per_token(model) if share_prompts else None

    @property
    def head(self) -> nn.Module:
        """The output embedding; its weight [V, H] may be tied to the input embedding. Its forward never runs."""
        head: nn.Module = self.model.get_output_embeddings()
        return head

    def forward(self, sequences: Sequences, with_entropy: bool) -> Tensor:
        """float32 [1, B, T] log-probs, or [2, B, T] with entropy in nats; zero where response_mask is False.

        One tensor, for the reason given in the package docstring.
        """
        rows, tokens = sequences.response_mask.nonzero(as_tuple=True)
        positions = sequences.response_start[rows] + tokens
        log_probs, entropy = token_statistics(
            *head_factors(self.head, self._predicting_states(sequences, rows, tokens)),
            sequences.input_ids[rows, positions],
            temperature=self.temperature,
            chunk_size=self.chunk_size,
            with_entropy=with_entropy,
            kept=None if sequences.kept is None else sequences.kept[rows, tokens],
        )
        values = log_probs[None] if entropy is None else torch.stack([log_probs, entropy])
        padded = values.new_zeros(len(values), *sequences.response_mask.shape)
        return padded.index_put((torch.arange(len(values), device=rows.device)[:, None], rows, tokens), values)

    def _predicting_states(self, sequences: Sequences, rows: Tensor, tokens: Tensor) -> Tensor:
        """float [N, H]: the hidden states that predict these response tokens."""
        layout = self._layout(sequences)
        if layout is not None:
            # Each response reads the last state of its prompt; an embedding sums repeated rows' gradients fast.
            return nn.functional.embedding(layout.predictors[rows, tokens], hidden_states(self.model, layout))
        hidden: Tensor = self.model.base_model(
            input_ids=sequences.input_ids, attention_mask=sequences.attention_mask.long(), use_cache=False
        ).last_hidden_state
        return hidden[rows, sequences.response_start[rows] + tokens - 1]

    def _layout(self, sequences: Sequences) -> SharedPrompts | None:
        """The layout that shares prompts, or None if the plain one is cheaper or there is only one sequence."""
        if self._pairs_per_token is None or len(sequences.input_ids) == 1:
            return None
        lengths, longest = sequences.attention_mask.sum(-1), sequences.response_mask.shape[1]
        layout = SharedPrompts.of(sequences.input_ids, lengths, sequences.response_start, longest)
        plain = plain_cost(sequences.input_ids, self._pairs_per_token)
        return layout if layout.cost(self._pairs_per_token) <= plain else None

    @property
    def shares_prompts(self) -> bool:
        """Whether it shares prompts, so that its cost depends on which sequences are in a batch together."""
        return self._pairs_per_token is not None

    def cost(self, sequences: Sequences) -> float:
        """The cost of the layers in attention pairs; only for a policy that shares prompts."""
        assert self._pairs_per_token is not None
        layout = self._layout(sequences)
        if layout is None:
            return plain_cost(sequences.input_ids, self._pairs_per_token)
        return layout.cost(self._pairs_per_token)

    def log_probs(self, sequences: Sequences, with_entropy: bool) -> tuple[Tensor, Tensor | None]:
        """Log-probs [B, T] and, if requested, entropy [B, T]."""
        return unpack(self(sequences, with_entropy))


def unpack(statistics: Tensor) -> tuple[Tensor, Tensor | None]:
    """Log-probs and, if present, entropy from the tensor that ``Policy.forward`` returns."""
    return statistics[0], statistics[1] if len(statistics) > 1 else None
