"""The policy as the trainer sees it: token sequences in, log-probs and entropy of their response tokens out."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from skyrl_train.policy.adapters import head_factors
from skyrl_train.policy.log_probs.tiled_log_probs import token_statistics
from skyrl_train.policy.prompts.shared_prompts import SharedPrompts, hidden_states, pairs_of_a_token, plain_cost


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """Prompts followed by responses, right padded. Response token t of row b sits at ``response_start[b] + t``."""

    input_ids: Tensor  # int64 [B, S]
    attention_mask: Tensor  # bool [B, S]
    response_start: Tensor  # int64 [B]; at least 1, since the first token has no predecessor
    response_mask: Tensor  # bool [B, T]


class Policy(nn.Module):
    """A causal language model whose output is per-token log-probs and entropy; the logits never exist as a whole."""

    def __init__(
        self, model: PreTrainedModel, *, chunk_size: int, temperature: float, share_prompts: bool = False
    ) -> None:
        """``share_prompts``: compute equal prompts of a batch once; only for a model that ``can_share_prompts``."""
        super().__init__()
        self.model = model
        self.config = model.config  # where accelerate and DeepSpeed look for the hidden size
        self.chunk_size = chunk_size
        self.temperature = temperature
        self._pairs_of_a_token = pairs_of_a_token(model) if share_prompts else None

    @property
    def head(self) -> nn.Module:
        """The output embedding, whose weight [V, H] may be tied to the input embedding. Its own forward never runs."""
        head: nn.Module = self.model.get_output_embeddings()
        return head

    def forward(self, sequences: Sequences, with_entropy: bool) -> Tensor:
        """float32 [1, B, T] log-probs, or [2, B, T] with the entropy in nats; zero where response_mask is False.

        One tensor, because ZeRO-3 records the modules in the order in which gradients reach their outputs: a
        micro-batch that uses one of two outputs would leave its rank out of step with the others, for ever.
        """
        rows, tokens = sequences.response_mask.nonzero(as_tuple=True)
        positions = sequences.response_start[rows] + tokens
        log_probs, entropy = token_statistics(
            *head_factors(self.head, self._predicting_states(sequences, rows, tokens)),
            sequences.input_ids[rows, positions],
            temperature=self.temperature,
            chunk_size=self.chunk_size,
            with_entropy=with_entropy,
        )
        values = log_probs[None] if entropy is None else torch.stack([log_probs, entropy])
        whole = values.new_zeros(len(values), *sequences.response_mask.shape)
        return whole.index_put((torch.arange(len(values), device=rows.device)[:, None], rows, tokens), values)

    def _predicting_states(self, sequences: Sequences, rows: Tensor, tokens: Tensor) -> Tensor:
        """float [N, H]: the hidden state before each of these response tokens."""
        layout = self._layout(sequences)
        if layout is not None:
            # The last state of a prompt predicts a token of each response: an embedding is fast at adding up gradients.
            return nn.functional.embedding(layout.predictors[rows, tokens], hidden_states(self.model, layout))
        hidden: Tensor = self.model.base_model(
            input_ids=sequences.input_ids, attention_mask=sequences.attention_mask.long(), use_cache=False
        ).last_hidden_state
        return hidden[rows, sequences.response_start[rows] + tokens - 1]

    def _layout(self, sequences: Sequences) -> SharedPrompts | None:
        """One that shares prompts, where that costs no more; of one sequence there is nothing to share."""
        if self._pairs_of_a_token is None or len(sequences.input_ids) == 1:
            return None
        lengths, longest = sequences.attention_mask.sum(-1), sequences.response_mask.shape[1]
        layout = SharedPrompts.of(sequences.input_ids, lengths, sequences.response_start, longest)
        plain = plain_cost(sequences.input_ids, self._pairs_of_a_token)
        return layout if layout.cost(self._pairs_of_a_token) <= plain else None

    @property
    def shares_prompts(self) -> bool:
        """Whether what it computes depends on which sequences are in a batch together."""
        return self._pairs_of_a_token is not None

    def cost(self, sequences: Sequences) -> float:
        """How much the layers compute for these sequences, in multiplications of a pair of tokens in attention.

        Only of a policy that shares prompts.
        """
        assert self._pairs_of_a_token is not None
        layout = self._layout(sequences)
        if layout is None:
            return plain_cost(sequences.input_ids, self._pairs_of_a_token)
        return layout.cost(self._pairs_of_a_token)

    def log_probs(self, sequences: Sequences, with_entropy: bool) -> tuple[Tensor, Tensor | None]:
        """Log-probs [B, T] and, if asked for, entropy [B, T]."""
        return unpack(self(sequences, with_entropy))


def unpack(statistics: Tensor) -> tuple[Tensor, Tensor | None]:
    """Log-probs and, if it is there, entropy: what ``Policy.forward`` put into one tensor."""
    return statistics[0], statistics[1] if len(statistics) > 1 else None
