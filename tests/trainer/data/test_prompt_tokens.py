import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from skyrl_train.data.prompt_tokens import encode_prompt
from skyrl_train.data.row_problem import DataError
from skyrl_train.environments.environment import Row

TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "<{{ m['role'] }}>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def tokenizer(template=None):
    """Every character is a token, its id the code point; <bos>, id 0, starts a text."""
    vocabulary = {"<bos>": 0} | {chr(code): code for code in range(1, 128)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>", chat_template=template)


def row(*messages):
    return Row(
        prompt=tuple({"role": role, "content": content} for role, content in messages),
        ground_truth="5",
        environment="arithmetic",
    )


def codes(text):
    return tuple(map(ord, text))


def test_the_chat_template_and_its_generation_prompt_are_used():
    ids = encode_prompt(row(("system", "be"), ("user", "2+3")), tokenizer(TEMPLATE), 100)
    assert ids == codes("<system>be<user>2+3<assistant>")


def test_without_a_template_the_messages_are_lines_of_text():
    ids = encode_prompt(row(("system", "be"), ("user", "2+3")), tokenizer(), 100)
    assert ids == (0, *codes("be\n2+3\n"))


def test_a_prompt_may_be_as_long_as_the_limit_and_a_longer_one_is_an_error_with_row_and_option():
    prompt = row(("user", "2+3"))
    assert len(encode_prompt(prompt, tokenizer(), 5)) == 5
    with pytest.raises(DataError, match=rf"{prompt.uid}.* has 5 tokens, more than rollout\.max_prompt_tokens = 4"):
        encode_prompt(prompt, tokenizer(), 4)


def test_a_prompt_without_tokens_is_an_error():
    with pytest.raises(DataError, match="is empty"):
        encode_prompt(row(("user", "2+3")), tokenizer("{{ '' }}"), 5)


def test_a_template_that_rejects_the_messages_is_an_error_that_names_row_and_roles():
    prompt = row(("user", "2+3"), ("tool", "5"))
    with pytest.raises(DataError, match=rf"{prompt.uid}.* rejected by .* the roles user, tool: .*no tools here"):
        encode_prompt(prompt, tokenizer(TEMPLATE), 50)
