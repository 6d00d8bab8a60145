"""The engine vllm on real vLLM gives the tokens and log-probs of the hf engine, and leaves the process unchanged."""

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from skyrl_core.errors import SkyrlError
from skyrl_train.config.schema import RunConfig
from skyrl_train.policy.model_loading import end_tokens, load_model, load_tokenizer, resolve_model
from skyrl_train.policy.policy import Policy
from skyrl_train.ranks.ranks import Ranks
from skyrl_train.rollout.hf.engine import HfEngine, _truncated
from skyrl_train.rollout.rollout_engine import EngineSetup, Sample, SampleRequest, Sampling
from skyrl_train.rollout.weights import ModelWeights, PerturbedWeights
from skyrl_train.step.engine_agreement import TOLERANCE
from skyrl_train.step.weight_sync import StaleEngineError, WeightSync
from skyrl_train.training.build import DTYPES

pytestmark = pytest.mark.vllm

TOKENS = 32
CONFIG = {
    "rollout": {
        "max_prompt_tokens": 224,
        "max_new_tokens": TOKENS,
        "vllm": {"kv_cache_gib": 0.1},
        "stop": ["a string that loads vLLM's tokenizer"],
    }
}
STEADY = Sampling(max_new_tokens=TOKENS, temperature=0.8, top_p=0.9)
SHORT = Sampling(max_new_tokens=8, temperature=0.8)


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model("tiny", torch.float32)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer("tiny")


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    started = Ranks.start()
    yield started
    started.end_run()


@pytest.fixture(scope="module")
def setup(model: Any, tokenizer: Any, ranks: Ranks) -> EngineSetup:
    return EngineSetup(
        config=RunConfig.model_validate(CONFIG),
        model=resolve_model("tiny"),
        tokenizer=tokenizer,
        end_tokens=end_tokens(model, tokenizer),
        device=ranks.device,
        rank=ranks.rank,
        world_size=ranks.world_size,
        gather=lambda value: [value],
        message=lambda _: None,
        trained=model,
        load_copy=lambda: model,
    )


def state() -> dict[str, Any]:
    """The state of this process that the trainer relies on."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),
        "torch": torch.get_rng_state().tolist(),
        "set_num_threads": torch.set_num_threads,
        "threads": torch.get_num_threads(),
        "precision": torch.get_float32_matmul_precision(),
        "cores": os.sched_getaffinity(0),
        "environment": {name: value for name, value in os.environ.items() if not name.startswith("VLLM_")},
        "group": torch.distributed.get_world_size(),
    }


@pytest.fixture(scope="module")
def started(setup: EngineSetup) -> Iterator[tuple[Any, dict[str, Any], dict[str, Any]]]:
    """The engine, and the state of the process before and after it was built."""
    from skyrl_train.rollout.vllm.engine import VllmEngine

    torch.manual_seed(5)
    torch.set_num_threads(1)
    before = state()
    engine = VllmEngine(setup)
    after = state()
    yield engine, before, after
    engine.close()


@pytest.fixture
def engine(started: Any, model: Any) -> Any:
    started[0].sync_weights(ModelWeights(model), 7)
    return started[0]


@pytest.fixture(scope="module")
def hf(setup: EngineSetup) -> HfEngine:
    return HfEngine(setup)


@pytest.fixture(scope="module")
def requests(tokenizer: Any) -> Callable[[int, int], list[SampleRequest]]:
    def make(prompts: int, samples: int) -> list[SampleRequest]:
        texts = [f"Ben has {n} coins. Ben loses {n % 7}. How many coins does Ben have?\n" for n in range(prompts)]
        encoded = [tuple(tokenizer(text)["input_ids"]) for text in texts]
        return [SampleRequest(prompt_ids=e, seed=2**40 * i + s) for i, e in enumerate(encoded) for s in range(samples)]

    return make


def test_starting_the_engine_leaves_the_process_unchanged(started: Any) -> None:
    _, before, after = started
    assert before == after


def test_sampling_and_syncing_leave_the_random_states_unchanged(engine: Any, model: Any, requests: Any) -> None:
    before = state()
    engine.generate(requests(2, 2), STEADY)
    engine.sync_weights(ModelWeights(model), 7)
    assert state() == before


def test_greedy_decoding_and_its_log_probs_equal_those_of_the_hf_engine(engine: Any, hf: Any, requests: Any) -> None:
    greedy = Sampling(max_new_tokens=TOKENS, temperature=0)
    ours, theirs = (which.generate(requests(24, 1), greedy) for which in (engine, hf))
    assert [sample.token_ids for sample in ours] == [sample.token_ids for sample in theirs]
    assert [sample.finished for sample in ours] == [sample.finished for sample in theirs]
    for own, expected in zip(ours, theirs, strict=True):
        assert own.log_probs == pytest.approx(expected.log_probs, abs=1e-4)
        assert own.policy_version == 7


def sampled_distribution(model: Any, request: SampleRequest, sample: Sample, sampling: Sampling) -> torch.Tensor:
    """The log-probs [T, V] of the sampled distribution, from the definitions."""
    ids = torch.tensor([[*request.prompt_ids, *sample.token_ids]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, len(request.prompt_ids) - 1 : -1].float()
    ordered, order = (logits / sampling.temperature).softmax(-1).sort(dim=-1, descending=True)
    ordered[ordered.cumsum(-1) - ordered >= sampling.top_p] = 0
    return torch.zeros_like(logits).scatter_(-1, order, ordered / ordered.sum(-1, keepdim=True)).log()


def test_log_probs_are_those_of_the_distribution_that_is_sampled(engine: Any, model: Any, requests: Any) -> None:
    asked = requests(8, 2)
    for request, sample in zip(asked, engine.generate(asked, STEADY), strict=True):
        complete = sampled_distribution(model, request, sample, STEADY)
        expected = complete[torch.arange(len(sample.token_ids)), torch.tensor(sample.token_ids)]
        assert sample.log_probs == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize("options", [{"top_k": 3}, {"min_p": 0.2}, {"min_p": 0.05, "top_k": 5, "top_p": 0.8}])
def test_top_k_and_min_p_are_those_of_the_hf_engine(engine: Any, model: Any, requests: Any, options: Any) -> None:
    sampling = Sampling(max_new_tokens=TOKENS, temperature=1.3, **options)
    asked = requests(8, 2)
    for request, sample in zip(asked, engine.generate(asked, sampling), strict=True):
        complete = sampled_distribution(model, request, sample, replace(sampling, top_p=1.0))
        expected = _truncated(complete, sampling)[torch.arange(len(sample.token_ids)), torch.tensor(sample.token_ids)]
        assert sample.log_probs == pytest.approx(expected.tolist(), abs=1e-4)


def test_stop_strings_end_the_same_responses_as_in_the_hf_engine(
    engine: Any, setup: EngineSetup, tokenizer: Any, requests: Any
) -> None:
    asked, greedy = requests(8, 1), Sampling(max_new_tokens=TOKENS, temperature=0)
    hf, free = HfEngine(setup), engine.generate(asked, greedy)
    text = tokenizer.decode(free[0].token_ids, skip_special_tokens=True)
    for string in (text[3:8], text[-3:]):
        stopping = replace(greedy, stop=(string,))
        ours, expected = engine.generate(asked, stopping), hf.generate(asked, stopping)
        assert [s.token_ids for s in ours] == [s.token_ids for s in expected]
        assert [s.finished for s in ours] == [s.finished for s in expected]
        assert [len(s.log_probs) for s in ours] == [len(s.token_ids) for s in ours]
    assert len(ours[0].token_ids) <= len(free[0].token_ids)
    assert ours[0].finished


def test_sampled_tokens_follow_the_distribution(engine: Any, model: Any, requests: Any) -> None:
    (request,) = requests(1, 1)
    one = Sampling(max_new_tokens=1, temperature=1.5)
    samples = engine.generate([replace(request, seed=seed) for seed in range(4000)], one)
    counts = torch.bincount(torch.tensor([sample.token_ids[0] for sample in samples]), minlength=448)
    probability = sampled_distribution(model, request, samples[0], one)[0].exp()
    # Each count is binomial: over 448 tokens, six standard deviations and half a count are never exceeded by chance.
    spread = (4000 * probability * (1 - probability)).sqrt()
    assert ((counts - 4000 * probability).abs() <= 6 * spread + 3).all()


def test_equal_seeds_and_weights_give_equal_samples_whatever_the_neighbours(engine: Any, requests: Any) -> None:
    asked = requests(40, 4)
    together = engine.generate(asked, STEADY)
    assert engine.generate(asked, STEADY) == together
    assert engine.generate(asked[::-1], STEADY)[::-1] == together
    assert [sample for start in range(0, 160, 7) for sample in engine.generate(asked[start : start + 7], STEADY)] == (
        together
    )


def test_512_seeded_requests_whose_prompts_exceed_one_pass_are_served(engine: Any, requests: Any) -> None:
    # A chunked prompt with a seed would crash vLLM on a CPU: "CPU Generator does not use offset".
    asked = [replace(r, prompt_ids=r.prompt_ids * 8) for r in requests(512, 1)]
    assert sum(len(request.prompt_ids) for request in asked) > 65_000
    samples = engine.generate(asked, Sampling(max_new_tokens=4))
    assert len(samples) == 512
    few = engine.generate(asked[100:103], Sampling(max_new_tokens=4))
    assert samples[100:103] == few


def test_a_response_ends_with_the_first_end_token_and_keeps_it(started: Any, model: Any, requests: Any) -> None:
    engine = started[0]
    engine.sync_weights(ModelWeights(model), 0)
    asked = requests(6, 1)
    plain = engine.generate(asked, Sampling(max_new_tokens=TOKENS, temperature=0))
    assert all(sample.token_ids[-1] == 1 for sample in plain)
    other = plain[0].token_ids[1]
    engine._end_tokens = frozenset({1, other})
    try:
        cut = engine.generate(asked, Sampling(max_new_tokens=TOKENS, temperature=0))
    finally:
        engine._end_tokens = frozenset({1})
    for before, after in zip(plain, cut, strict=True):
        expected = next(i for i, token in enumerate(before.token_ids) if token in {1, other}) + 1
        assert after.token_ids == before.token_ids[:expected]
        assert after.finished


def test_given_tokens_have_the_log_probs_of_the_hf_engine(engine: Any, hf: Any, requests: Any) -> None:
    sequences = [request.prompt_ids for request in requests(3, 1)]
    ours, theirs = engine.log_probs(sequences), hf.log_probs(sequences)
    for own, expected in zip(ours, theirs, strict=True):
        assert own == pytest.approx(expected, abs=1e-4)


def test_cached_prompts_are_forgotten_with_the_weights(engine: Any, model: Any, requests: Any) -> None:
    asked = [replace(r, prompt_ids=r.prompt_ids * 8) for r in requests(3, 2)]  # longer than a block of the cache
    plain = Sampling(max_new_tokens=TOKENS)
    engine.generate(asked, plain)
    engine.sync_weights(PerturbedWeights(ModelWeights(model)), 8)
    for request, sample in zip(asked, engine.generate(asked, plain), strict=True):
        scored = engine.log_probs([[*request.prompt_ids, *sample.token_ids]])[0]  # reads no cache
        assert sample.log_probs == pytest.approx(scored[len(request.prompt_ids) - 1 :], abs=1e-4)
        assert sample.policy_version == 8


class Some:
    """Weights with some tensors removed or renamed."""

    def __init__(self, model: Any, change: Callable[[str], str | None]) -> None:
        self.model, self._change = model, change

    def named_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in self.model.named_parameters():
            if (changed := self._change(name)) is not None:
                yield changed, tensor


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n: None if "layers.1.mlp.down_proj" in n else n, r"do not fill .*layers\.1\.mlp\.down_proj"),
        (lambda n: None if "layers.2.self_attn.k_proj" in n else n, r"do not fill .*layers\.2\.self_attn\.qkv_proj"),
        (lambda n: n.replace("layers.0.input_layernorm", "layers.0.other"), r"no parameter for a tensor.*other"),
    ],
)
def test_weights_that_do_not_fit_are_named(started: Any, model: Any, hf: Any, change: Any, message: str) -> None:
    engine = started[0]
    with pytest.raises(SkyrlError, match=message):
        engine.sync_weights(Some(model, change), 9)


def test_a_prompt_beyond_the_model_is_refused_before_it_is_sampled(engine: Any, requests: Any) -> None:
    (request,) = requests(1, 1)
    with pytest.raises(SkyrlError, match=r"300 tokens .* exceed the 256 tokens"):
        engine.generate([replace(request, prompt_ids=(5,) * 300)], STEADY)
    assert engine.generate([], STEADY) == []


@pytest.mark.parametrize("where", ["add_request", "step"])
def test_an_error_inside_vllm_has_a_name(
    engine: Any, requests: Any, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of something")

    with monkeypatch.context() as patched:
        patched.setattr(engine._llm.llm_engine, where, fails)
        with pytest.raises(SkyrlError, match="vLLM could not generate: out of something"):
            engine.generate(requests(2, 1), STEADY)
    assert engine._llm.llm_engine.get_num_unfinished_requests() == 0


def test_a_sample_is_handed_over_while_others_are_generated(engine: Any, requests: Any) -> None:
    asked = requests(24, 2)
    left, handed_over = [], {}

    def hand_over(index: int, sample: Sample) -> None:
        left.append(engine._llm.llm_engine.get_num_unfinished_requests())
        handed_over[index] = sample

    samples = engine.generate(asked, STEADY, hand_over)
    assert handed_over == dict(enumerate(samples))
    assert left[0] > 0
    assert left[-1] == 0
    assert samples == engine.generate(asked, STEADY)


def test_requests_left_after_a_failed_hand_over_are_aborted(engine: Any, requests: Any) -> None:
    def fails(*_: Any) -> None:
        raise ValueError("no worker")

    asked = requests(24, 2)
    expected = engine.generate(asked, STEADY)
    with pytest.raises(ValueError, match="no worker"):
        engine.generate(asked, STEADY, fails)
    assert engine.generate(asked, STEADY) == expected


def test_autograd_of_the_trainer_is_unharmed(engine: Any, model: Any, requests: Any) -> None:
    engine.generate(requests(1, 1), STEADY)
    loss = model(input_ids=torch.tensor([[5, 6, 7]])).logits.logsumexp(-1).sum()
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert any(bool(gradient.abs().sum() > 0) for gradient in gradients)


def test_a_second_engine_whose_cache_is_too_small_gives_the_same_samples(
    engine: Any, setup: EngineSetup, model: Any, hf: Any, requests: Any
) -> None:
    from skyrl_train.rollout.vllm.engine import VllmEngine

    # Five blocks of 128 tokens: sequences that grow beyond their first block push others out, which are computed again.
    config = RunConfig.model_validate({"rollout": CONFIG["rollout"] | {"vllm": {"kv_cache_gib": 0.0012}}})
    small = VllmEngine(replace(setup, config=config))
    small.sync_weights(ModelWeights(model), 7)
    asked = [replace(r, prompt_ids=(r.prompt_ids * 7)[:124]) for r in requests(12, 2)]
    assert small.generate(asked, STEADY) == engine.generate(asked, STEADY)
    small.close()
    assert torch.distributed.is_initialized()
    prompt = requests(1, 1)[0].prompt_ids
    assert engine.log_probs([prompt])[0] == pytest.approx(hf.log_probs([prompt])[0], abs=1e-4)


def test_a_cache_for_less_than_one_sequence_does_not_start(setup: EngineSetup) -> None:
    from skyrl_train.rollout.vllm.engine import VllmEngine

    config = RunConfig.model_validate({"rollout": CONFIG["rollout"] | {"vllm": {"kv_cache_gib": 0.0001}}})
    with pytest.raises(SkyrlError, match=r"vLLM could not start: .*cache.*\n.*rollout\.vllm"):
        VllmEngine(replace(setup, config=config))


class Trained:
    """The part of ZeroEngine that the sync uses."""

    def __init__(self, model: Any) -> None:
        self.policy, self.model = Policy(model, chunk_size=64, temperature=1.0), model

    def forward(self, sequences: Any, *, with_entropy: bool) -> Any:
        return self.policy.log_probs(sequences, with_entropy)

    def named_tensors(self) -> Any:
        return self.policy.model.named_parameters()


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def synced(request: Any, started: Any, setup: EngineSetup) -> Iterator[tuple[Any, Any, str]]:
    """An engine and a separate model in this precision."""
    from skyrl_train.rollout.vllm.engine import VllmEngine

    model = load_model("tiny", DTYPES[request.param])
    if request.param == "fp32":
        yield started[0], model, request.param
        return
    config = RunConfig.model_validate(CONFIG | {"trainer": {"deepspeed": {"precision": "bf16"}}})
    engine = VllmEngine(replace(setup, config=config))
    yield engine, model, request.param
    engine.close()


@pytest.fixture
def sync(synced: Any, ranks: Ranks, requests: Any) -> WeightSync:
    engine, model, precision = synced
    probe = [request.prompt_ids for request in requests(2, 1)]
    return WeightSync(engine, Trained(model), ranks, probe=probe, tolerance=TOLERANCE[precision])


def train(model: Any) -> None:
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
            parameter.add_(0.02 * noise.to(parameter.dtype))


def test_the_probe_finds_that_weights_have_arrived(sync: WeightSync, synced: Any) -> None:
    sync.start(0, SHORT)
    train(synced[1])
    assert sync.update(1)["probe_deviation"] < TOLERANCE[synced[2]]


def test_the_probe_finds_an_engine_that_takes_nothing_over(
    sync: WeightSync, synced: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync.start(0, SHORT)
    monkeypatch.setattr("skyrl_train.rollout.vllm.engine.load_into_worker", lambda worker, weights: list(weights))
    train(synced[1])
    with pytest.raises(StaleEngineError, match=r"optimizer step 1 .* stale"):
        sync.update(1)


def test_the_probe_finds_a_tied_output_embedding_that_stayed_behind(
    sync: WeightSync, synced: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM's reload skips it: on a CPU it still uses a packed copy."""
    sync.start(0, SHORT)
    monkeypatch.setattr(
        "skyrl_train.rollout.vllm.engine.load_into_worker",
        lambda worker, weights: worker.reload_weights(weights_iterator=((n, t.detach().clone()) for n, t in weights)),
    )
    train(synced[1])
    with pytest.raises(StaleEngineError, match=r"optimizer step 1 .* stale"):
        sync.update(1)
