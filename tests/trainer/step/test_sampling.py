"""The text of a response that rewards see."""

import pytest

from skyrl_train.policy.model_loading import load_tokenizer
from skyrl_train.step.sampling import complete


@pytest.fixture
def tokenizer():
    tokenizer = load_tokenizer("tiny")
    tokenizer.add_tokens(["<call>", "</call>", "<|im_end|>"], special_tokens=True)
    return tokenizer


@pytest.mark.parametrize(
    ("response", "finished", "skipped", "kept"),
    [
        ("<call>2+3</call><eos>", True, "2+3", "<call>2+3</call>"),
        ("<call>2+3</call><|im_end|>", True, "2+3", "<call>2+3</call>"),  # ends a turn of the chat template
        ("<call>2+3</call>", False, "2+3", "<call>2+3</call>"),  # cut off: not an end token
        ("2+3", True, "2+3", "2+3"),
        ("", True, "", ""),
    ],
)
def test_special_tokens_are_left_out_or_kept_but_the_end_token_never_is(
    tokenizer, sample, response, finished, skipped, kept
):
    made = sample(*tokenizer(response, add_special_tokens=False)["input_ids"], finished=finished)
    assert complete(made, tokenizer).text == skipped
    assert complete(made, tokenizer, skip_special_tokens=False).text == kept
    assert complete(made, tokenizer, skip_special_tokens=False).token_ids == made.token_ids
