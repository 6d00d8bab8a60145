"""Stop strings: split over tokens, at the very end, in the prompt; the same for every engine's output."""

import pytest
import torch

from skyrl_train.policy.model_loading import load_model, load_tokenizer
from skyrl_train.rollout.rollout_engine import SampleRequest, Sampling
from skyrl_train.rollout.stop_strings import StopStrings, before_stop
from skyrl_train.rollout.vllm.sampling_params import sample_from_output
from skyrl_train.step.sampling import complete


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny", torch.float32), load_tokenizer("tiny")


def ids(tokenizer, text):
    return tuple(tokenizer.encode(text, add_special_tokens=False))


def test_a_response_ends_with_the_token_that_completes_a_stop_string(tiny):
    _, tokenizer = tiny
    tokens = ids(tokenizer, "1 + 2 = 3, so 4 + 5 = 9")
    stop = StopStrings(("= 3,", "never"), tokenizer)
    length = stop.length(tokens)
    assert "= 3," in tokenizer.decode(tokens[:length])
    assert "= 3," not in tokenizer.decode(tokens[: length - 1])
    assert length > 1
    assert stop.length(tokens[: length - 1]) is None
    assert stop.length(tokens[:length]) == length
    assert StopStrings((), tokenizer).length(tokens) is None


def test_the_text_ends_before_the_first_stop_string():
    assert before_stop("a STOP b END", ("END", "STOP")) == "a "
    assert before_stop("nothing", ("END",)) == "nothing"
    assert before_stop("END", ("END",)) == ""


@pytest.mark.parametrize("direct", [True, False])
def test_the_hf_engine_stops_where_a_longer_sample_first_has_the_string(tiny, hf_engine, direct):
    model, tokenizer = tiny
    engine = hf_engine(tokenizer, int(tokenizer.eos_token_id), trained=model)
    engine._decodes_directly = direct
    prompts = [ids(tokenizer, text) for text in ("3 + 4 = ", "12 + 7 = ")]
    requests = [SampleRequest(prompt_ids=prompts[seed % 2], seed=seed) for seed in range(24)]
    free = engine.generate(requests, Sampling(max_new_tokens=24, temperature=1.5))
    # The start of the answers of some samples, so that it also ends others; it is several tokens long.
    text = tokenizer.decode(free[0].token_ids, skip_special_tokens=True)
    string = text[2:6]
    assert len(ids(tokenizer, string)) > 1
    handed = {}
    stopped = engine.generate(
        requests,
        Sampling(max_new_tokens=24, temperature=1.5, stop=(string,)),
        lambda i, sample: handed.update({i: sample}),
    )
    rule, cut = StopStrings((string,), tokenizer), 0
    for index, (before, after) in enumerate(zip(free, stopped, strict=True)):
        length = rule.length(before.token_ids)
        cut += length is not None and length < len(before.token_ids)
        assert after.token_ids == before.token_ids[:length]  # the ids are those that were sampled
        torch.testing.assert_close(after.log_probs, before.log_probs[:length], atol=1e-4, rtol=1e-4)
        assert after.finished == (before.finished or length is not None)
        assert handed[index] == after
        assert string not in complete(after, tokenizer, (string,)).text
        # An engine that notices the string late gives the same sample.
        late = sample_from_output(before.token_ids, before.log_probs, {int(tokenizer.eos_token_id)}, 0, rule)
        assert (late.token_ids, late.finished) == (after.token_ids, after.finished)
    assert cut > 0


def test_a_stop_string_in_the_prompt_ends_nothing(tiny, hf_engine):
    model, tokenizer = tiny
    engine = hf_engine(tokenizer, int(tokenizer.eos_token_id), trained=model)
    request = SampleRequest(prompt_ids=ids(tokenizer, "3 + 4 = "), seed=1)
    without, with_stop = (
        engine.generate([request], Sampling(max_new_tokens=8, stop=stop))[0] for stop in ((), ("3 + 4 =",))
    )
    assert with_stop == without
