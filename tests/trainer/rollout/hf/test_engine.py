import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, OPTConfig, Qwen2Config

from skyrl_core.errors import SkyrlError
from skyrl_train.policy.model_loading import load_model, load_tokenizer
from skyrl_train.policy.policy import Policy
from skyrl_train.rollout.hf.engine import draw_tokens, token_distribution, uniforms
from skyrl_train.rollout.rollout_engine import SampleRequest, Sampling
from skyrl_train.rollout.weights import ModelWeights
from skyrl_train.step.experience import Experience


def draw(logits, sampling, uniform):
    return draw_tokens(token_distribution(logits, sampling), sampling, uniform)


@pytest.fixture(scope="module")
def model():
    return load_model("tiny", torch.float32)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("tiny")


@pytest.fixture(scope="module")
def engine(hf_engine, model, tokenizer):
    return hf_engine(tokenizer, tokenizer.eos_token_id, batch_size=64, trained=model)


@pytest.fixture(scope="module")
def prompts(tokenizer):
    questions = (
        "Ana has 12 apples. Ana buys 7 more. How many apples does Ana have?\n",
        "Ben has 30 coins. Ben loses 11. Then 4 more arrive. Then 2 of them break. How many coins does Ben have?\n",
        "Hi\n",
    )
    return [tuple(tokenizer(question)["input_ids"]) for question in questions]


def requests(prompts, samples=4):
    return [SampleRequest(prompt_ids=p, seed=100 * i + s) for i, p in enumerate(prompts) for s in range(samples)]


def test_greedy_decoding_matches_transformers(engine, model, prompts):
    samples = engine.generate(
        [SampleRequest(prompt_ids=p, seed=0) for p in prompts], Sampling(max_new_tokens=24, temperature=0)
    )
    for prompt, sample in zip(prompts, samples, strict=True):
        expected = model.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False)[0, len(prompt) :]
        assert list(sample.token_ids) == expected.tolist()


def test_log_probs_match_those_of_the_policy(engine, model, prompts):
    batch = requests(prompts)
    samples = engine.generate(batch, Sampling(max_new_tokens=32, temperature=0.8))
    experience = Experience.build(
        [r.prompt_ids for r in batch], samples, [0] * len(batch), pad_id=0, device=torch.device("cpu")
    )
    with torch.no_grad():
        log_probs, _ = Policy(model, chunk_size=50, temperature=0.8).log_probs(experience.sequences, False)
    torch.testing.assert_close(log_probs, experience.rollout_log_probs, rtol=0, atol=2e-5)


def test_a_sample_depends_on_its_seed_and_not_on_its_neighbours(engine, prompts):
    batch = requests(prompts)
    together = engine.generate(batch, Sampling(max_new_tokens=32))
    separate = [engine.generate([request], Sampling(max_new_tokens=32))[0] for request in batch]
    assert [s.token_ids for s in together] == [s.token_ids for s in separate]
    assert len({s.token_ids for s in together[:4]}) > 1


def test_samples_of_several_batches_are_returned_in_order(engine, hf_engine, model, tokenizer, prompts):
    small = hf_engine(tokenizer, tokenizer.eos_token_id, batch_size=5, trained=model)
    batch = requests(prompts)
    sampling = Sampling(max_new_tokens=16)
    assert [s.token_ids for s in small.generate(batch, sampling)] == [
        s.token_ids for s in engine.generate(batch, sampling)
    ]
    assert engine.generate([], sampling) == []


def test_a_sample_ends_at_the_end_token_or_the_token_limit(engine, tokenizer, prompts):
    samples = engine.generate(requests(prompts, 8), Sampling(max_new_tokens=40))
    for sample in samples:
        assert len(sample.token_ids) == len(sample.log_probs)
        ends = [token == tokenizer.eos_token_id for token in sample.token_ids]
        assert not any(ends[:-1])
        assert sample.finished == ends[-1]
    cut = engine.generate(requests(prompts[1:2], 2), Sampling(max_new_tokens=2))
    assert all(len(sample.token_ids) == 2 and not sample.finished for sample in cut)


def test_a_sync_copies_the_weights_of_another_module(hf_engine, model, tokenizer, prompts):
    trained = load_model("tiny", torch.float32)
    with torch.no_grad():
        trained.model.norm.weight.mul_(0.25)
    follower = hf_engine(tokenizer, tokenizer.eos_token_id, load_copy=lambda: load_model("tiny", torch.float32))
    leader = hf_engine(tokenizer, tokenizer.eos_token_id, trained=trained)
    batch, sampling = requests(prompts), Sampling(max_new_tokens=16)
    wanted = leader.generate(batch, sampling)
    assert [s.token_ids for s in follower.generate(batch, sampling)] != [s.token_ids for s in wanted]
    follower.sync_weights(ModelWeights(trained), 7)
    got = follower.generate(batch, sampling)
    assert [s.token_ids for s in got] == [s.token_ids for s in wanted]
    assert {s.policy_version for s in got} == {7}


def test_log_probs_of_given_tokens_match_transformers(engine, model, prompts):
    for ids, values in zip(prompts, engine.log_probs(prompts), strict=True):
        logits = model(input_ids=torch.tensor([ids])).logits[0].detach().double()
        expected = [float(torch.log_softmax(logits[t - 1], -1)[ids[t]]) for t in range(1, len(ids))]
        assert values == pytest.approx(expected, abs=1e-5)


def test_sampled_tokens_follow_the_distribution():
    probabilities = torch.tensor([0.5, 0.0, 0.3, 0.2])
    count = 20_000
    tokens, log_probs = draw(
        probabilities.log().expand(count, 4), Sampling(max_new_tokens=1), uniforms([3], count).squeeze(0)
    )
    frequencies = torch.bincount(tokens, minlength=4) / count
    # Five standard errors of the largest entry.
    torch.testing.assert_close(frequencies, probabilities, rtol=0, atol=5 * (0.25 / count) ** 0.5)
    assert frequencies[1] == 0
    torch.testing.assert_close(log_probs, probabilities.log()[tokens])


@pytest.mark.parametrize(
    ("options", "kept"),
    [  # of probabilities 0.5, 0.25, 0.15, 0.1, at temperature 1
        ({"top_k": 2}, [0.5 / 0.75, 0.25 / 0.75, 0, 0]),
        ({"top_k": 9}, [0.5, 0.25, 0.15, 0.1]),
        ({"min_p": 0.3}, [0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0]),  # at least 0.15 = 0.3 x 0.5
        ({"min_p": 1.0}, [1, 0, 0, 0]),
        # min_p leaves three of 0.9 together; of these top_k leaves two, 2/3 and 1/3; top_p = 0.6 leaves the first.
        ({"min_p": 0.2999, "top_k": 2, "top_p": 0.6}, [1, 0, 0, 0]),
        ({"min_p": 0.2999, "top_k": 2, "top_p": 0.7}, [2 / 3, 1 / 3, 0, 0]),
    ],
)
def test_min_p_top_k_and_top_p_keep_the_most_probable_tokens(options, kept):
    logits = torch.tensor([[0.5, 0.25, 0.15 + 1e-6, 0.1]]).log().expand(4000, 4)
    sampling = Sampling(max_new_tokens=1, **options)
    tokens, log_probs = draw(logits, sampling, uniforms([1], 4000).squeeze(0))
    expected = torch.tensor(kept, dtype=torch.float32)
    assert torch.allclose(tokens.bincount(minlength=4) / 4000, expected, atol=0.03)
    assert set(tokens.tolist()) == {index for index, share in enumerate(kept) if share}
    assert torch.allclose(log_probs, expected[tokens].log(), atol=1e-4)  # those of the sampled distribution


def test_nucleus_sampling_keeps_the_smallest_set_that_reaches_top_p():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(5000, 4)
    tokens, log_probs = draw(logits, Sampling(max_new_tokens=1, top_p=0.7), uniforms([1], 5000).squeeze(0))
    assert set(tokens.tolist()) == {0, 1}
    # Renormalised: 0.5 / 0.8 and 0.3 / 0.8.
    expected = torch.tensor([0.625, 0.375]).log()[tokens]
    torch.testing.assert_close(log_probs, expected, rtol=0, atol=1e-5)


def test_extreme_random_numbers_select_tokens_with_positive_probability():
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]] * 2)
    tokens, _ = draw(logits, Sampling(max_new_tokens=1), torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64))
    assert tokens.tolist() == [1, 2]


def test_a_sample_is_handed_over_as_soon_as_it_is_finished_and_returned_unchanged(engine, prompts):
    batch = requests(prompts, 8)
    handed = []
    samples = engine.generate(batch, Sampling(max_new_tokens=40), lambda index, sample: handed.append((index, sample)))
    assert {index for index, _ in handed} == set(range(len(batch)))
    assert all(sample == samples[index] for index, sample in handed)
    first = dict(reversed(handed))  # when each was handed over first
    lengths = [len(sample.token_ids) for index, sample in handed if sample.finished][: len(first)]
    assert lengths[: sum(sample.finished for sample in samples)] == sorted(
        len(sample.token_ids) for sample in samples if sample.finished
    )


@pytest.mark.parametrize(
    ("config", "learned"),
    [
        (GPT2Config(vocab_size=64, n_positions=16, n_embd=16, n_layer=1, n_head=2, eos_token_id=1), True),
        (OPTConfig(vocab_size=64, max_position_embeddings=16, hidden_size=16, num_hidden_layers=1, ffn_dim=16), True),
        (Qwen2Config(vocab_size=64, max_position_embeddings=16, hidden_size=16, num_hidden_layers=1), False),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_more_tokens_than_the_learned_positions_are_refused(hf_engine, tokenizer, config, learned):
    config.num_attention_heads = config.num_key_value_heads = 2
    engine = hf_engine(tokenizer, 1, batch_size=4, trained=AutoModelForCausalLM.from_config(config).eval())
    batch = [SampleRequest(prompt_ids=(5,) * length, seed=0) for length in (6, 10)]
    assert len(engine.generate(batch, Sampling(max_new_tokens=6))) == 2
    if learned:
        with pytest.raises(SkyrlError, match=r"a prompt of 10 tokens .* are more than the 16 positions"):
            engine.generate(batch, Sampling(max_new_tokens=7))
    else:
        assert len(engine.generate(batch, Sampling(max_new_tokens=7))) == 2


TRUNCATIONS = [{"top_p": 0.8}, {"top_k": 3}, {"min_p": 0.2}, {"top_p": 0.9, "top_k": 4, "min_p": 0.01}]


@pytest.fixture(scope="module")
def truncated(engine, tokenizer):
    """Samples of different lengths for prompts of different lengths, and the experience of them in reverse order."""
    prompts = [tuple(tokenizer(text)["input_ids"]) for text in ("Ben has 3 coins.", "What is 2 + 2? Answer:", "No")]
    requests = [SampleRequest(prompt_ids=ids, seed=seed) for ids in prompts for seed in range(4)]

    def sample(temperature=1.3, **options):
        sampling = Sampling(max_new_tokens=24, temperature=temperature, return_kept=True, **options)
        samples = engine.generate(requests, sampling)
        experience = Experience.build(
            [request.prompt_ids for request in requests], samples, [0] * 12, pad_id=0, device=torch.device("cpu")
        )
        return requests, samples, experience.select(torch.arange(11, -1, -1))

    return sample


@pytest.mark.parametrize("options", TRUNCATIONS)
@pytest.mark.parametrize("share", [False, True])
def test_the_policy_has_the_log_probs_of_truncated_samples(truncated, model, options, share):
    _, _, experience = truncated(**options)
    policy = Policy(model, chunk_size=7, temperature=1.3, share_prompts=share)
    with torch.no_grad():
        log_probs, _ = policy.log_probs(experience.sequences, False)
    torch.testing.assert_close(log_probs, experience.rollout_log_probs, rtol=0, atol=2e-5)


def test_kept_tokens_are_those_with_a_probability_in_an_independent_computation(truncated, model):
    requests, samples, _ = truncated(top_k=3, temperature=0.7)
    assert len({len(sample.token_ids) for sample in samples}) > 1
    for request, sample in zip(requests, samples, strict=True):
        ids = torch.tensor([[*request.prompt_ids, *sample.token_ids]])
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits[0, len(request.prompt_ids) - 1 : -1]
        assert [sorted(kept) for kept in sample.kept] == logits.topk(3).indices.sort().values.tolist()


def test_samples_carry_kept_tokens_only_on_request(engine, model):
    requests = [SampleRequest(prompt_ids=(5, 6), seed=1)]
    assert engine.generate(requests, Sampling(max_new_tokens=2, top_k=3))[0].kept is None
    every = engine.generate(requests, Sampling(max_new_tokens=2, return_kept=True))[0].kept
    assert [len(kept) for kept in every] == [model.config.vocab_size] * 2
