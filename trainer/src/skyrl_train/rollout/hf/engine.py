"""Samples with the model in this process: batched decoding with a KV cache; a group reads its prompt once."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from skyrl_core.errors import SkyrlError
from skyrl_train.rollout.hf.decoding import Decoding, ModelDecoding, ReadPrompts, check_decoding, evaluated
from skyrl_train.rollout.hf.direct_decoding import DirectDecoding, can_decode_directly
from skyrl_train.rollout.rollout_engine import EngineSetup, HandOver, Sample, SampleRequest, Sampling, WeightSource

COMPACT_BELOW = 0.9
"""Finished rows leave the batch once no more than this share of it is still being written: leaving copies the cache."""


class _Rows:
    """The rows that are still being written: what decodes them, and their random numbers."""

    def __init__(self, decoding: Decoding, uniforms: Tensor) -> None:
        self.decoding = decoding
        self.uniforms = uniforms  # float64 [B, most tokens]
        self.numbers = torch.arange(len(uniforms), device=uniforms.device)
        self._active = torch.ones(len(uniforms), dtype=torch.bool, device=uniforms.device)
        self.left = len(uniforms)
        """How many are not finished. One that is goes on being written until it leaves the batch."""

    def finish(self, ended: Tensor) -> list[int]:
        """Mark rows as finished, bool [B]. Returns the numbers of those that were not before."""
        finished: list[int] = self.numbers[ended & self._active].tolist()  # what a GPU is waited for
        if finished:
            self._active &= ~ended
            self.left -= len(finished)
        return finished

    def compacted(self, drawn: Tensor) -> Tensor:
        """Drop finished rows if they are many. Returns the drawn tokens of the rows that stay."""
        if self.left > COMPACT_BELOW * len(self._active):
            return drawn
        keep = self._active.nonzero().squeeze(-1)
        self.decoding.keep(keep)
        self.uniforms, self.numbers, self._active = self.uniforms[keep], self.numbers[keep], self._active[keep]
        return drawn[keep]


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
        self._positions = _learned_positions(self._model)
        self._directly = can_decode_directly(self._model)
        if not self._directly:
            check_decoding(self._model)

    def generate(
        self, requests: Sequence[SampleRequest], sampling: Sampling, hand_over: HandOver | None = None
    ) -> list[Sample]:
        """One sample for each request, in order. Requests with equal prompts are read once.

        Raises:
            SkyrlError: the model has learned positions, and fewer than a sample may need.
        """
        self._check_room(requests, sampling)
        samples: list[Sample] = []
        with evaluated(self._model):
            for start in range(0, len(requests), self._batch_size):
                samples.extend(self._decode(requests[start : start + self._batch_size], sampling, start, hand_over))
                if hand_over is not None:  # those that reached the limit
                    for index in range(start, len(samples)):
                        hand_over(index, samples[index])
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

    def _check_room(self, requests: Sequence[SampleRequest], sampling: Sampling) -> None:
        longest = max((len(request.prompt_ids) for request in requests), default=0)
        if self._positions is not None and longest + sampling.max_new_tokens > self._positions:
            raise SkyrlError(
                f"a prompt of {longest} tokens and rollout.max_new_tokens = {sampling.max_new_tokens} are more than "
                f"the {self._positions} positions that the model has learned: lower that option, or leave longer "
                "prompts out and set rollout.max_prompt_tokens"
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
        # A row for each position, because a column would be written in as many places as there are samples.
        tokens = torch.full((sampling.max_new_tokens, len(requests)), self._pad_id, device=device)
        log_probs = torch.zeros(tokens.shape, device=device)
        lengths = [sampling.max_new_tokens] * len(requests)
        for position in range(sampling.max_new_tokens):
            drawn, drawn_log_probs = draw(rows.decoding.logits, sampling, rows.uniforms[:, position])
            tokens[position].scatter_(0, rows.numbers, drawn)
            log_probs[position].scatter_(0, rows.numbers, drawn_log_probs)
            for row in rows.finish(torch.isin(drawn, ends)):
                lengths[row] = position + 1
                if hand_over is not None:
                    written = (of_all[: position + 1, row].tolist() for of_all in (tokens, log_probs))
                    hand_over(start + row, self._sample(*written))
            if rows.left == 0 or position + 1 == sampling.max_new_tokens:
                break
            rows.decoding.advance(rows.compacted(drawn))
        drawn_rows = zip(tokens.T.tolist(), log_probs.T.tolist(), lengths, strict=True)
        return [self._sample(ids[:length], values[:length]) for ids, values, length in drawn_rows]

    def _begin(self, requests: Sequence[SampleRequest], sampling: Sampling) -> _Rows:
        """Equal prompts are read once."""
        device = self._model.device
        number = {prompt: index for index, prompt in enumerate(dict.fromkeys(r.prompt_ids for r in requests))}
        prompt_of = torch.tensor([number[request.prompt_ids] for request in requests], device=device)
        prompts = ReadPrompts.of(self._model, list(number), self._pad_id)
        decoding: Decoding
        if self._directly:
            decoding = DirectDecoding(self._model, prompts, prompt_of)
        else:
            decoding = ModelDecoding(self._model, prompts, prompt_of, sampling.max_new_tokens)
        return _Rows(decoding, uniforms([r.seed for r in requests], sampling.max_new_tokens).to(device))

    def _sample(self, token_ids: list[int], log_probs: list[float]) -> Sample:
        return Sample(
            token_ids=tuple(token_ids),
            log_probs=tuple(log_probs),
            finished=token_ids[-1] in self._eos_ids,
            policy_version=self._policy_version,
        )


def _learned_positions(model: PreTrainedModel) -> int | None:
    """How many there are; None where positions are computed, and no sequence is too long for them."""
    most: int | None = getattr(model.config, "max_position_embeddings", None)
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding) and m is not model.get_input_embeddings()]
    # Some tables have two rows more, for padding.
    return most if most and any(0 <= table.num_embeddings - most <= 2 for table in tables) else None


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
        # Inverse of the distribution function, summed in float64: a float32 sum over a large vocabulary is off by more
        # than the smallest probabilities. The first entry above u has positive probability by construction.
        cumulative = log_p.exp().cumsum(-1, dtype=torch.float64)
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
