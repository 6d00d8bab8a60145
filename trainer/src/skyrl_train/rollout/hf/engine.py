"""The rollout engine `hf`: samples with the model in this process, in batches, with a KV cache."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from skyrl_core.errors import SkyrlError
from skyrl_train.rollout.hf.decoding import Decoding, ModelDecoding, PrefilledPrompts, check_decoding, eval_mode
from skyrl_train.rollout.hf.direct_decoding import DirectDecoding, can_decode_directly
from skyrl_train.rollout.rollout_engine import EngineSetup, HandOver, Sample, SampleRequest, Sampling, WeightSource
from skyrl_train.rollout.stop_strings import StopStrings

COMPACT_BELOW = 0.9
"""Finished rows leave the batch once at most this share of it is unfinished; removing rows copies the cache."""


class _Rows:
    """The rows of a batch that are still decoded: their decoding state and their random numbers."""

    def __init__(self, decoding: Decoding, uniforms: Tensor) -> None:
        self.decoding = decoding
        self.uniforms = uniforms  # float64 [B, max_new_tokens]
        self.indices = torch.arange(len(uniforms), device=uniforms.device)
        self._active = torch.ones(len(uniforms), dtype=torch.bool, device=uniforms.device)
        self.unfinished = len(uniforms)
        """How many rows are unfinished. A finished row is still decoded until it leaves the batch."""

    def finish(self, ended: Tensor) -> list[int]:
        """Mark rows as finished, bool [B]. Returns the indices of newly finished ones."""
        finished: list[int] = self.indices[ended & self._active].tolist()  # synchronises with a GPU
        if finished:
            self._active &= ~ended
            self.unfinished -= len(finished)
        return finished

    def compacted(self, sampled: Tensor) -> Tensor:
        """Remove finished rows if there are many. Returns the sampled tokens of the remaining rows."""
        if self.unfinished > COMPACT_BELOW * len(self._active):
            return sampled
        keep = self._active.nonzero().squeeze(-1)
        self.decoding.keep(keep)
        self.uniforms, self.indices, self._active = self.uniforms[keep], self.indices[keep], self._active[keep]
        return sampled[keep]


class HfEngine:
    """The default engine on a CPU, and the standard for others: samples depend only on weights and seeds."""

    works_elsewhere = False

    def __init__(self, setup: EngineSetup) -> None:
        self.shares_weights = setup.trained is not None
        self._model = setup.trained if setup.trained is not None else setup.load_copy()
        self._tokenizer = setup.tokenizer
        self._pad_id = int(setup.tokenizer.pad_token_id)
        self._eos_ids = setup.end_tokens
        self._batch_size = setup.config.rollout.batch_size
        self._policy_version = 0
        self._positions = _max_learned_positions(self._model)
        self._decodes_directly = can_decode_directly(self._model)
        if not self._decodes_directly:
            check_decoding(self._model)

    def generate(
        self, requests: Sequence[SampleRequest], sampling: Sampling, hand_over: HandOver | None = None
    ) -> list[Sample]:
        """One sample for each request, in order. Equal prompts of a batch are prefilled once.

        Raises:
            SkyrlError: the model has learned positions, but fewer than a sample may need.
        """
        self._check_positions(requests, sampling)
        samples: list[Sample] = []
        with eval_mode(self._model):
            for start in range(0, len(requests), self._batch_size):
                samples.extend(self._decode(requests[start : start + self._batch_size], sampling, start, hand_over))
                if hand_over is not None:  # also samples that reached the limit
                    for index in range(start, len(samples)):
                        hand_over(index, samples[index])
        return samples

    @torch.inference_mode()
    def log_probs(self, sequences: Sequence[Sequence[int]]) -> list[tuple[float, ...]]:
        """Log-probs of the sequences, computed one at a time: they are few, and need no padding this way."""
        values = []
        for ids in sequences:
            tokens = torch.tensor([list(ids)], device=self._model.device)
            log_p = torch.log_softmax(self._model(input_ids=tokens, use_cache=False).logits[0, :-1].float(), dim=-1)
            values.append(tuple(log_p.gather(-1, tokens[0, 1:, None]).squeeze(-1).tolist()))
        return values

    def sync_weights(self, weights: WeightSource, policy_version: int) -> None:
        """Copy the trained weights into the engine's model, unless it is the same module. Collective."""
        if not self.shares_weights:
            parameters = dict(self._model.named_parameters())
            with torch.no_grad():
                for name, tensor in weights.named_tensors():
                    parameters[name].copy_(tensor)
        self._policy_version = policy_version

    def _check_positions(self, requests: Sequence[SampleRequest], sampling: Sampling) -> None:
        longest = max((len(request.prompt_ids) for request in requests), default=0)
        if self._positions is not None and longest + sampling.max_new_tokens > self._positions:
            raise SkyrlError(
                f"a prompt of {longest} tokens and rollout.max_new_tokens = {sampling.max_new_tokens} are more than "
                f"the {self._positions} positions that the model has learned: lower rollout.max_new_tokens, or remove "
                "long prompts and set rollout.max_prompt_tokens"
            )

    def close(self) -> None:
        """Nothing to release: the model belongs to the trainer."""

    @torch.inference_mode()
    def _decode(
        self, requests: Sequence[SampleRequest], sampling: Sampling, start: int, hand_over: HandOver | None
    ) -> list[Sample]:
        device = self._model.device
        rows = self._begin(requests, sampling)
        ends = torch.tensor(sorted(self._eos_ids), device=device)
        # Positions are rows, so that each step writes to one contiguous row instead of one element of every sample.
        tokens = torch.full((sampling.max_new_tokens, len(requests)), self._pad_id, device=device)
        log_probs = torch.zeros(tokens.shape, device=device)
        lengths = [sampling.max_new_tokens] * len(requests)
        stop = StopStrings(sampling.stop, self._tokenizer)
        finished = [False] * len(requests)
        kept = _Kept(len(requests)) if sampling.return_kept else None
        for position in range(sampling.max_new_tokens):
            log_p = token_distribution(rows.decoding.logits, sampling)
            sampled, sampled_log_probs = draw_tokens(log_p, sampling, rows.uniforms[:, position])
            if kept is not None:
                kept.add(rows.indices, log_p)
            tokens[position].scatter_(0, rows.indices, sampled)
            log_probs[position].scatter_(0, rows.indices, sampled_log_probs)
            ended = torch.isin(sampled, ends)
            if stop:
                ended |= _complete_stop(stop, tokens[: position + 1], rows.indices)
            for row in rows.finish(ended):
                lengths[row], finished[row] = position + 1, True
                if hand_over is not None:
                    response = (values[: position + 1, row].tolist() for values in (tokens, log_probs))
                    hand_over(start + row, self._sample(*response, finished=True))
            if rows.unfinished == 0 or position + 1 == sampling.max_new_tokens:
                break
            rows.decoding.advance(rows.compacted(sampled))
        responses = zip(tokens.T.tolist(), log_probs.T.tolist(), lengths, finished, strict=True)
        samples = [self._sample(ids[:length], values[:length], finished=end) for ids, values, length, end in responses]
        if kept is None:
            return samples
        return [replace(s, kept=kept.sets[row][: len(s.token_ids)]) for row, s in enumerate(samples)]

    def _begin(self, requests: Sequence[SampleRequest], sampling: Sampling) -> _Rows:
        """Prefill each distinct prompt and set up a row for each request."""
        device = self._model.device
        indices = {prompt: index for index, prompt in enumerate(dict.fromkeys(r.prompt_ids for r in requests))}
        prompt_of = torch.tensor([indices[request.prompt_ids] for request in requests], device=device)
        prompts = PrefilledPrompts.of(self._model, list(indices), self._pad_id)
        decoding: Decoding
        if self._decodes_directly:
            decoding = DirectDecoding(self._model, prompts, prompt_of)
        else:
            decoding = ModelDecoding(self._model, prompts, prompt_of, sampling.max_new_tokens)
        return _Rows(decoding, uniforms([r.seed for r in requests], sampling.max_new_tokens).to(device))

    def _sample(self, token_ids: list[int], log_probs: list[float], *, finished: bool) -> Sample:
        return Sample(
            token_ids=tuple(token_ids),
            log_probs=tuple(log_probs),
            finished=finished,
            policy_version=self._policy_version,
        )


class _Kept:
    """For each token of each row of a batch, the ids that it was drawn from."""

    def __init__(self, count: int) -> None:
        self.sets: list[list[Any]] = [[] for _ in range(count)]
        """Those of a finished row continue after its last token, until it leaves the batch."""

    def add(self, rows: Tensor, log_p: Tensor) -> None:
        """Add the next token of these rows, int64 [n], with the log-probs of their distributions, [n, V]."""
        kept = log_p > -torch.inf
        ids = kept.nonzero()[:, 1].to("cpu", torch.int32).numpy()
        ends = kept.sum(-1).cumsum(0).tolist()
        for row, part in zip(rows.tolist(), np.split(ids, ends[:-1]), strict=True):
            self.sets[row].append(part)


def _max_learned_positions(model: PreTrainedModel) -> int | None:
    """The number of learned positions; None if positions are computed, which does not limit the length."""
    limit: int | None = getattr(model.config, "max_position_embeddings", None)
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding) and m is not model.get_input_embeddings()]
    # Some tables have two extra rows for padding.
    return limit if limit and any(0 <= table.num_embeddings - limit <= 2 for table in tables) else None


def token_distribution(logits: Tensor, sampling: Sampling) -> Tensor:
    """The log-probs of the sampled distribution, float32 [B, V]: temperature, min-p, top-k and top-p included.

    Tokens that are left out have -inf. Greedy decoding reports the distribution at temperature 1.
    """
    if sampling.temperature == 0:
        return torch.log_softmax(logits.float(), dim=-1)
    return _truncated(torch.log_softmax(logits.float() / sampling.temperature, dim=-1), sampling)


def draw_tokens(log_p: Tensor, sampling: Sampling, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """A token and its log-prob per row: log-probs [B, V], uniform [B] in [0, 1) -> int64 [B], float32 [B]."""
    if sampling.temperature == 0:
        tokens = log_p.argmax(-1)
    else:
        # Inverse of the distribution function, summed in float64: a float32 sum over a large vocabulary is off by more
        # than the smallest probabilities. The first entry above u has positive probability by construction.
        cumulative = log_p.exp().cumsum(-1, dtype=torch.float64)
        target = (uniform * cumulative[:, -1])[:, None]
        tokens = torch.searchsorted(cumulative, target, right=True).squeeze(-1).clamp(max=log_p.shape[-1] - 1)
    return tokens, log_p.gather(-1, tokens[:, None]).squeeze(-1)


def _complete_stop(stop: StopStrings, tokens: Tensor, rows: Tensor) -> Tensor:
    """bool [B]: whether the last token of these rows of int64 [T, N] completes a stop string."""
    return torch.tensor(stop.ends(tokens[-stop.window :, rows].T.tolist()), device=tokens.device)


def _truncated(log_p: Tensor, sampling: Sampling) -> Tensor:
    """Renormalise over the tokens that min-p, then top-k, then top-p leave, in the order of vLLM."""
    if sampling.min_p > 0:  # arXiv 2407.01082
        least = log_p.max(-1, keepdim=True).values + math.log(sampling.min_p)
        log_p = torch.log_softmax(log_p.masked_fill(log_p < least, -torch.inf), dim=-1)
    if sampling.top_k is not None and sampling.top_k < log_p.shape[-1]:
        least = log_p.topk(sampling.top_k, dim=-1).values[..., -1:]  # all tokens that equal the last one stay
        log_p = torch.log_softmax(log_p.masked_fill(log_p < least, -torch.inf), dim=-1)
    return _keep_nucleus(log_p, sampling.top_p) if sampling.top_p < 1 else log_p


def _keep_nucleus(log_p: Tensor, top_p: float) -> Tensor:
    """Renormalise over the fewest most probable tokens that together reach top_p (arXiv 1904.09751)."""
    ordered, order = log_p.sort(dim=-1, descending=True)
    before = ordered.exp().cumsum(-1) - ordered.exp()
    ordered = ordered.masked_fill(before >= top_p, -torch.inf)
    return torch.log_softmax(torch.empty_like(log_p).scatter_(-1, order, ordered), dim=-1)


def uniforms(seeds: Sequence[int], count: int) -> Tensor:
    """float64 [B, count] in [0, 1): row b depends only on seeds[b]."""
    return torch.from_numpy(np.stack([np.random.Generator(np.random.Philox(key=s)).random(count) for s in seeds]))
