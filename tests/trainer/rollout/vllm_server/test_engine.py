"""Samples, weights and failures of real rollout servers, which are killed, stopped and restarted."""

import copy
import signal
from typing import Any

import pytest
import torch

from skyrl_core.errors import SkyrlError
from skyrl_train.config.schema import RunConfig
from skyrl_train.policy.model_loading import end_tokens, load_model, load_tokenizer, resolve_model
from skyrl_train.rollout.hf.engine import HfEngine
from skyrl_train.rollout.rollout_engine import EngineSetup, SampleRequest, Sampling
from skyrl_train.rollout.vllm_server import startup as server_start
from skyrl_train.rollout.vllm_server.client import ServerError
from skyrl_train.rollout.vllm_server.engine import VllmServerEngine
from skyrl_train.rollout.vllm_server.http_weights import pieces_of
from skyrl_train.rollout.weights import ModelWeights, PerturbedWeights

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1200)]

LIMITS = {"max_prompt_tokens": 150, "max_new_tokens": 50}
OPTIONS = [f"rollout.{name}={value}" for name, value in LIMITS.items()]
SAMPLING = Sampling(max_new_tokens=24)


@pytest.fixture(scope="module")
def model():
    return load_model("tiny", torch.float32)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("tiny")


@pytest.fixture(scope="module")
def prompts(tokenizer):
    """Different questions of 20 to 40 tokens."""
    texts = [f"Jon has {n} shells. Then {n // 2} of them break. How many shells does Jon have? " for n in range(20, 84)]
    return [tuple(tokenizer(text)["input_ids"]) for text in texts]


@pytest.fixture(scope="module")
def server(serve):
    return serve(*OPTIONS).wait()


@pytest.fixture(scope="module")
def second(serve, server):
    return serve(*OPTIONS).wait()


@pytest.fixture
def messages():
    return []


@pytest.fixture
def setup(model, tokenizer, messages):
    """The setup of an engine of one rank, with these settings of rollout.server."""

    def make(*servers: Any, rollout: dict[str, Any] | None = None, name: str = "tiny", **settings: Any) -> EngineSetup:
        urls = [getattr(server, "url", server) for server in servers]
        options = LIMITS | {"server": {"urls": urls} | settings} | (rollout or {})
        return EngineSetup(
            config=RunConfig.model_validate({"model": name, "rollout": options}),
            model=resolve_model("tiny"),
            tokenizer=tokenizer,
            end_tokens=end_tokens(model, tokenizer),
            device=torch.device("cpu"),
            rank=0,
            world_size=1,
            gather=lambda value: [value],
            message=messages.append,
            trained=model,
            load_copy=lambda: model,
        )

    return make


@pytest.fixture
def engine(setup, server, model):
    built = VllmServerEngine(setup(server))
    built.sync_weights(ModelWeights(model), 7)
    return built


def requests_for(prompts, count, first_seed=0):
    return [SampleRequest(prompt_ids=prompts[i % len(prompts)], seed=2**62 + first_seed + i) for i in range(count)]


def assert_alike(samples, expected):
    """Check that samples are the same up to rounding, which depends on the other requests in a batch."""
    pairs = list(zip(samples, expected, strict=True))
    same = [pair for pair in pairs if pair[0].token_ids == pair[1].token_ids]
    assert len(same) >= len(pairs) - len(pairs) // 4  # occasionally another token is sampled
    for one, other in same:
        assert (one.finished, one.policy_version) == (other.finished, other.policy_version)
        torch.testing.assert_close(torch.tensor(one.log_probs), torch.tensor(other.log_probs), atol=1e-4, rtol=0)


def distribution(model, request, sample, temperature):
    """log p of every token at each position of the response: [tokens, V]."""
    ids = torch.tensor([[*request.prompt_ids, *sample.token_ids]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, len(request.prompt_ids) - 1 : -1].float()
    return torch.log_softmax(logits / temperature, dim=-1)


def test_512_seeded_requests_at_once_are_repeatable_and_in_order(setup, server, model, prompts):
    # Far more prompt tokens than vLLM reads in one pass; chunked prompts with seeds would crash a server on a CPU.
    engine = VllmServerEngine(setup(server, max_concurrency=512))
    engine.sync_weights(ModelWeights(model), 0)
    requests = requests_for(prompts, 512)
    first = engine.generate(requests, SAMPLING)
    again = engine.generate(list(reversed(requests)), SAMPLING)
    same = sum(a.token_ids == b.token_ids for a, b in zip(first, reversed(again), strict=True))
    assert same >= 510  # other batches round differently: occasionally another token
    assert len({sample.token_ids for sample in first}) > 64  # different seeds give different samples
    for request, sample in list(zip(requests, first, strict=True))[::64]:
        log_p = distribution(model, request, sample, 1.0)
        expected = log_p.gather(-1, torch.tensor(sample.token_ids)[:, None]).squeeze(-1)
        torch.testing.assert_close(torch.tensor(sample.log_probs), expected, atol=1e-3, rtol=0)


def test_log_probs_are_those_of_the_sampled_distribution(engine, model, prompts):
    sampling = Sampling(max_new_tokens=16, temperature=0.7, top_p=0.8)
    requests = requests_for(prompts, 8)
    for request, sample in zip(requests, engine.generate(requests, sampling), strict=True):
        log_p = distribution(model, request, sample, 0.7)
        ordered, order = log_p.sort(dim=-1, descending=True)
        before = ordered.exp().cumsum(-1) - ordered.exp()
        kept = torch.log_softmax(ordered.masked_fill(before >= 0.8, -torch.inf), dim=-1)
        expected = torch.empty_like(kept).scatter_(-1, order, kept).gather(-1, torch.tensor(sample.token_ids)[:, None])
        torch.testing.assert_close(torch.tensor(sample.log_probs), expected.squeeze(-1), atol=1e-3, rtol=0)


def test_greedy_responses_and_their_ends_are_those_of_the_hf_engine(engine, setup, server, prompts):
    requests = requests_for(prompts, 12)
    greedy = Sampling(max_new_tokens=40, temperature=0.0)
    ours, theirs = engine.generate(requests, greedy), HfEngine(setup(server)).generate(requests, greedy)
    assert [sample.token_ids for sample in ours] == [sample.token_ids for sample in theirs]
    assert [sample.finished for sample in ours] == [sample.finished for sample in theirs]
    assert any(sample.finished for sample in ours)
    assert {sample.policy_version for sample in ours} == {7}


def test_log_probs_of_given_tokens_follow_the_weights(engine, setup, server, model, prompts):
    def deviation(of):
        theirs = torch.tensor(engine.log_probs(prompts[:1])[0])
        return float((theirs - torch.tensor(HfEngine(setup(server)).log_probs(prompts[:1])[0])).abs().mean())

    assert deviation(model) < 1e-4
    engine.sync_weights(PerturbedWeights(ModelWeights(model)), 8)
    assert deviation(model) > 1e-2


def test_a_tensor_larger_than_a_request_arrives(setup, server, model, prompts, monkeypatch):
    monkeypatch.setattr("skyrl_train.rollout.vllm_server.http_weights.REQUEST_BYTES", 50_000)
    engine = VllmServerEngine(setup(server))
    assert max(len({piece["name"] for piece in pieces}) for pieces in pieces_of(ModelWeights(model), 50_000)) > 1
    engine.sync_weights(ModelWeights(model), 0)
    theirs, ours = engine.log_probs(prompts[:1])[0], HfEngine(setup(server)).log_probs(prompts[:1])[0]
    torch.testing.assert_close(torch.tensor(theirs), torch.tensor(ours), atol=1e-3, rtol=0)


class Part:
    """Weights without one tensor."""

    def __init__(self, model, without):
        self.model, self._without = model, without

    def named_tensors(self):
        yield from (pair for pair in self.model.named_parameters() if pair[0] != self._without)


@pytest.mark.parametrize("name", ["model.layers.1.mlp.down_proj.weight", "model.layers.2.self_attn.k_proj.weight"])
def test_an_update_with_a_missing_tensor_is_refused_and_the_server_recovers(engine, model, prompts, name):
    before = engine.generate(requests_for(prompts, 4), SAMPLING)
    with pytest.raises(ServerError, match=r"layers\.[12]\.(mlp\.down_proj|self_attn\.qkv_proj)"):
        engine.sync_weights(Part(model, name), 8)
    engine.sync_weights(ModelWeights(model), 7)
    assert_alike(engine.generate(requests_for(prompts, 4), SAMPLING), before)


def test_a_half_synced_server_is_never_sampled_from(engine, setup, server, model, prompts, messages):
    expected = engine.generate(requests_for(prompts, 8), SAMPLING)

    class Interrupted(ModelWeights):
        def named_tensors(self):
            yield from list(PerturbedWeights(ModelWeights(model)).named_tensors())[:5]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        VllmServerEngine(setup(server)).sync_weights(Interrupted(model), 9)
    assert_alike(engine.generate(requests_for(prompts, 8), SAMPLING), expected)
    assert any("skyrl-incomplete" in line for line in messages)


def test_weights_of_another_run_are_noticed(engine, setup, server, model, prompts, messages):
    expected = engine.generate(requests_for(prompts, 8), SAMPLING)
    VllmServerEngine(setup(server)).sync_weights(PerturbedWeights(ModelWeights(model)), 7)
    assert_alike(engine.generate(requests_for(prompts, 8), SAMPLING), expected)
    assert any("another run uses it" in line for line in messages)


def test_a_missing_server_is_waited_for_and_then_named(setup, messages, monkeypatch):
    monkeypatch.setattr(server_start, "REPORT_EVERY", 1.0)
    with pytest.raises(ServerError, match=r"127\.0\.0\.1:9 after 4 s: start one with `skyrl serve .*--port 9`"):
        VllmServerEngine(setup("http://127.0.0.1:9", start_timeout=4.0))
    assert any("waiting for the rollout server at http://127.0.0.1:9" in line for line in messages)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"rollout": {"max_new_tokens": 300}}, r"at most 200 tokens .* needs 450"),
        ({"name": "Qwen/Qwen2.5-0.5B"}, r"serves the model 'tiny', this run needs 'Qwen/Qwen2.5-0.5B'"),
        ({"weight_transfer": "nccl"}, "its weight transfer is skyrl_http, this run needs nccl"),
    ],
)
def test_a_server_that_does_not_fit_is_refused_with_the_difference(setup, server, change, difference, monkeypatch):
    made = setup(server, **change)
    if "name" in change:
        made = copy.copy(made)
        object.__setattr__(made, "model", "elsewhere")
        monkeypatch.setattr(server_start, "longest_sequence", lambda *_: 1)
    with pytest.raises(SkyrlError, match=difference):
        VllmServerEngine(made)


def test_a_server_that_hangs_is_named_after_the_deadline(setup, server, model, prompts):
    engine = VllmServerEngine(setup(server, request_timeout=20.0))
    engine.sync_weights(ModelWeights(model), 0)
    expected = engine.generate(requests_for(prompts, 4), SAMPLING)
    server.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(ServerError, match=r"within 20 s: it hangs"):
            engine.generate(requests_for(prompts, 4), SAMPLING)
    finally:
        server.send_signal(signal.SIGCONT)
    assert_alike(engine.generate(requests_for(prompts, 4), SAMPLING), expected)


def test_requests_are_spread_over_servers_and_keep_their_order(engine, setup, server, second, model, prompts):
    requests = requests_for(prompts, 21)
    expected = engine.generate(requests, SAMPLING)
    both = VllmServerEngine(setup(server, second))
    both.sync_weights(ModelWeights(model), 7)
    assert_alike(both.generate(requests, SAMPLING), expected)
    assert len(both.log_probs(prompts[:2])) == 4
    assert_alike(both.generate(requests[:1], SAMPLING), expected[:1])
    assert both.generate([], SAMPLING) == []


FEW_AT_A_TIME = {"max_concurrency": 8}
"""Concurrent requests of a server: the first of many answers arrives before most requests are sent."""


@pytest.fixture
def both(setup, server, second, model):
    built = VllmServerEngine(setup(server, second, restart_timeout=600.0, **FEW_AT_A_TIME))
    built.sync_weights(ModelWeights(model), 7)
    return built


def at_the_first_answer(count, then):
    """Call a function once, at the first answer of the second server, which has the second half of the requests."""
    done = []

    def hand_over(index, sample):
        if index >= count // 2 and not done:
            done.append(index)
            then()

    return hand_over


def test_lost_requests_are_repeated_once_a_killed_server_is_back(both, second, prompts, messages):
    requests = requests_for(prompts, 64)
    expected = both.generate(requests, Sampling(max_new_tokens=50))

    def restart():
        second.kill()
        second.start()

    samples = both.generate(requests, Sampling(max_new_tokens=50), at_the_first_answer(64, restart))
    assert_alike(samples, expected)
    assert any(second.url in line and "sending the weights and the lost requests again" in line for line in messages)


def test_a_server_that_was_restarted_between_steps_gets_the_weights_first(both, second, prompts, messages):
    requests = requests_for(prompts, 8)
    expected = both.generate(requests, SAMPLING)
    second.kill()
    second.start().wait()
    assert_alike(both.generate(requests, SAMPLING), expected)
    assert any("was restarted" in line for line in messages)


def test_a_killed_server_that_does_not_return_ends_the_run(setup, server, second, model, prompts):
    engine = VllmServerEngine(setup(server, second, restart_timeout=3.0, **FEW_AT_A_TIME))
    engine.sync_weights(ModelWeights(model), 7)
    killed = at_the_first_answer(64, second.kill)
    with pytest.raises(ServerError, match=rf"no rollout server answers at {second.url} after 3 s"):
        engine.generate(requests_for(prompts, 64), Sampling(max_new_tokens=50), killed)
