"""Samples with the model in this process: batched decoding with a KV cache; a group reads its prompt once."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from skyrl_train.rollout.engine import EngineSetup, HandOver, Sample, SampleRequest, Sampling, WeightSource
from skyrl_train.rollout.kv_cache import kv_cache

COMPACT_BELOW = 0.9
"""Finished rows leave the batch once fewer than this share of it is still being written: leaving copies the cache."""


class HfEngine:
    """The default engine on a CPU, and the reference for others: what it draws depends on weights and seeds alone."""

    works_elsewhere = False

    def __init__(self, setup: EngineSetup) -> None:
        self.shares_weights = setup.trained is not None
        self._model = setup.trained if setup.trained is not None else setup.load_copy()
        self._pad_id = int(setup.tokenizer.pad_token_id)
        self._eos_ids = setup.end_tokens
        self._batch_size = setup.config.rollout.batch_size
        self._policy_version = 0

    def generate(
        self, requests: Sequence[SampleRequest], sampling: Sampling, hand_over: HandOver | None = None
    ) -> list[Sample]:
        """One sample for each request, in order. Requests with equal prompts are read once."""
        samples: list[Sample] = []
        was_training = self._model.training
        self._model.eval()
        for start in range(0, len(requests), self._batch_size):
            samples.extend(self._decode(requests[start : start + self._batch_size], sampling, start, hand_over))
            if hand_over is not None:  # those that reached the limit
                for index in range(start, len(samples)):
                    hand_over(index, samples[index])
        self._model.train(was_training)
        return samples

    @torch.inference_mode()
    def log_probs(self, sequences: Sequence[Sequence[int]]) -> list[tuple[float, ...]]:
        """One sequence at a time: they are few, and without padding there is nothing to get wrong."""
        values = []
        for ids in sequences:
            tokens = torch.tensor([list(ids)], device=self._model.device)
            log_p = torch.log_softmax(self._model(input_ids=tokens, use_cache=False).logits[0, :-1].float(), dim=-1)
            values.append(tuple(log_p.gather(-1, tokens[0, 1:, None]).squeeze(-1).tolist()))
        return values

    def sync_weights(self, weights: WeightSource, policy_version: int) -> None:
        """Copy the trained weights into the engine's model, unless it is the same module. Collective."""
        if not self.shares_weights:
            own = dict(self._model.named_parameters())
            with torch.no_grad():
                for name, tensor in weights.named_tensors():
                    own[name].copy_(tensor)
        self._policy_version = policy_version

    def close(self) -> None:
        """Nothing to release: the model belongs to the trainer."""

    @torch.inference_mode()
    def _decode(
        self, requests: Sequence[SampleRequest], sampling: Sampling, start: int, hand_over: HandOver | None
    ) -> list[Sample]:
        device = self._model.device
        state = _Decoding(self._model, requests, sampling, self._pad_id)
        ends = torch.tensor(sorted(self._eos_ids), device=device)
        tokens = torch.full((len(requests), sampling.max_new_tokens), self._pad_id, device=device)
        log_probs = torch.zeros(tokens.shape, device=device)
        lengths = torch.full((len(requests),), sampling.max_new_tokens, device=device)
        for position in range(sampling.max_new_tokens):
            drawn, drawn_log_probs = draw(state.logits, sampling, state.uniforms[:, position])
            tokens[state.rows, position] = drawn
            log_probs[state.rows, position] = drawn_log_probs
            ended = torch.isin(drawn, ends)
            # A finished row goes on decoding until it leaves the batch; only its first end counts.
            first_end = ended & (lengths[state.rows] == sampling.max_new_tokens)
            lengths[state.rows[first_end]] = position + 1
            if hand_over is not None:
                for row in state.rows[first_end].tolist():
                    hand_over(start + row, self._sample(tokens[row, : position + 1], log_probs[row, : position + 1]))
            if state.finish(ended) == 0 or position + 1 == sampling.max_new_tokens:
                break
            state.advance(state.compacted(drawn))
        tokens, log_probs = tokens.cpu(), log_probs.cpu()
        rows = zip(tokens, log_probs, lengths.tolist(), strict=True)
        return [self._sample(ids[:length], values[:length]) for ids, values, length in rows]

    def _sample(self, ids: Tensor, log_probs: Tensor) -> Sample:
        token_ids = tuple(ids.tolist())
        return Sample(
            token_ids=token_ids,
            log_probs=tuple(log_probs.tolist()),
            finished=token_ids[-1] in self._eos_ids,
            policy_version=self._policy_version,
        )


class _Decoding:
    """The rows that are still being written: their cache, next logits and random numbers."""

    def __init__(
        self, model: PreTrainedModel, requests: Sequence[SampleRequest], sampling: Sampling, pad_id: int
    ) -> None:
        self._model = model
        device = model.device
        prompts = list(dict.fromkeys(request.prompt_ids for request in requests))
        position = {prompt: index for index, prompt in enumerate(prompts)}
        of_row = torch.tensor([position[request.prompt_ids] for request in requests], device=device)
        width = max(len(prompt) for prompt in prompts)
        # Left padded: the last column of every row is the end of its prompt.
        ids = torch.tensor([[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        mask = torch.arange(width, device=device) >= width - lengths[:, None]
        self._cache = kv_cache(model.config)
        output = model(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=(mask.long().cumsum(-1) - 1).clamp(min=0),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._cache.batch_select_indices(of_row)
        self.logits = output.logits[of_row, -1]
        self._mask = torch.cat([mask[of_row], mask.new_ones(len(requests), sampling.max_new_tokens)], dim=1).long()
        self._next_position = lengths[of_row]
        self._filled = width
        self.uniforms = uniforms([request.seed for request in requests], sampling.max_new_tokens).to(device)
        self.rows = torch.arange(len(requests), device=device)
        self._active = torch.ones(len(requests), dtype=torch.bool, device=device)
        self._left = len(requests)

    def finish(self, ended: Tensor) -> int:
        """Mark rows as finished. Returns how many are left to write."""
        self._active &= ~ended
        self._left = int(self._active.sum())  # the one number for which a GPU is waited for
        return self._left

    def compacted(self, drawn: Tensor) -> Tensor:
        """Drop the finished rows if they are many. Returns the drawn tokens of the rows that stay."""
        if self._left >= COMPACT_BELOW * len(self._active):
            return drawn
        keep = self._active.nonzero().squeeze(-1)
        self._cache.batch_select_indices(keep)
        self._mask, self._next_position = self._mask[keep], self._next_position[keep]
        self.uniforms, self.rows, self._active = self.uniforms[keep], self.rows[keep], self._active[keep]
        return drawn[keep]

    def advance(self, drawn: Tensor) -> None:
        """Feed one token to each row and compute the next logits."""
        self._filled += 1
        output = self._model(
            input_ids=drawn[:, None],
            attention_mask=self._mask[:, : self._filled],
            position_ids=self._next_position[:, None],
            past_key_values=self._cache,
            use_cache=True,
        )
        self._next_position = self._next_position + 1
        self.logits = output.logits[:, -1]


def draw(logits: Tensor, sampling: Sampling, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """A token and its log-probability for each row: logits [B, V], uniform [B] in [0, 1) -> int64 [B], float32 [B].

    The log-probability is that of the distribution that is sampled, temperature and top-p included; greedy decoding
    reports the one at temperature 1.
    """
    if sampling.temperature == 0:
        log_p = torch.log_softmax(logits.float(), dim=-1)
        tokens = log_p.argmax(-1)
    else:
        log_p = torch.log_softmax(logits.float() / sampling.temperature, dim=-1)
        if sampling.top_p < 1:
            log_p = _keep_nucleus(log_p, sampling.top_p)
        # Inverse of the distribution function, in float64: a float32 sum over a large vocabulary is off by more than
        # the smallest probabilities. The first entry above u has positive probability by construction.
        cumulative = log_p.double().exp().cumsum(-1)
        target = (uniform * cumulative[:, -1])[:, None]
        tokens = torch.searchsorted(cumulative, target, right=True).squeeze(-1).clamp(max=log_p.shape[-1] - 1)
    return tokens, log_p.gather(-1, tokens[:, None]).squeeze(-1)


def _keep_nucleus(log_p: Tensor, top_p: float) -> Tensor:
    """Renormalise over the smallest set of most probable tokens whose probabilities reach top_p (arXiv 1904.09751)."""
    ordered, order = log_p.sort(dim=-1, descending=True)
    before = ordered.exp().cumsum(-1) - ordered.exp()
    ordered = ordered.masked_fill(before >= top_p, -torch.inf)
    return torch.log_softmax(torch.empty_like(log_p).scatter_(-1, order, ordered), dim=-1)


def uniforms(seeds: Sequence[int], count: int) -> Tensor:
    """float64 [B, count] in [0, 1): row b is a function of seeds[b] alone, whatever its neighbours."""
    return torch.from_numpy(np.stack([np.random.Generator(np.random.Philox(key=s)).random(count) for s in seeds]))
