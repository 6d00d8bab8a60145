import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from skyrl_train.config.schema import RunConfig
from skyrl_train.data.prompt_tokens import LIMITS, ModelLimits, PromptEncoder
from skyrl_train.data.row_problem import DataError
from skyrl_train.environments.environment import Row

TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "<{{ m['role'] }}>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def tokenizer(template=None, form="<bos> $A"):
    """Every character is a token, its id the code point; <bos>, id 0, starts a text, and <eos> is 128."""
    vocabulary = {"<bos>": 0} | {chr(code): code for code in range(1, 128)} | {"<eos>": 128}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.post_processor = processors.TemplateProcessing(single=form, special_tokens=[("<bos>", 0), ("<eos>", 128)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", chat_template=template
    )


def encode(row, tokenizer, max_tokens=100, **options):
    return PromptEncoder(tokenizer, max_tokens=max_tokens, **options).encode(row)


def row(*messages, extra=None):
    return Row(
        prompt=tuple(
            {"role": role, "content": content, **(rest[0] if rest else {})} for role, content, *rest in messages
        ),
        ground_truth="5",
        environment="arithmetic",
        extra=extra or {},
    )


def codes(text):
    return tuple(map(ord, text))


def test_the_chat_template_and_its_generation_prompt_are_used():
    ids = encode(row(("system", "be"), ("user", "2+3")), tokenizer(TEMPLATE), 100)
    assert ids == codes("<system>be<user>2+3<assistant>")


def test_without_a_template_the_messages_are_lines_of_text():
    ids = encode(row(("system", "be"), ("user", "2+3")), tokenizer(), 100)
    assert ids == (0, *codes("be\n2+3\n"))


def test_a_prompt_may_be_as_long_as_the_limit_and_a_longer_one_is_an_error_with_row_and_option():
    prompt = row(("user", "2+3"))
    assert len(encode(prompt, tokenizer(), 5)) == 5
    with pytest.raises(DataError, match=rf"{prompt.uid}.* has 5 tokens, more than rollout\.max_prompt_tokens = 4"):
        encode(prompt, tokenizer(), 4)


def test_a_prompt_without_tokens_is_an_error():
    with pytest.raises(DataError, match="is empty"):
        encode(row(("user", "2+3")), tokenizer("{{ '' }}"), 5)


def test_a_template_that_rejects_the_messages_is_an_error_that_names_row_and_roles():
    prompt = row(("user", "2+3"), ("tool", "5"))
    with pytest.raises(DataError, match=rf"{prompt.uid}.* rejected by .* the roles user, tool: .*no tools here"):
        encode(prompt, tokenizer(TEMPLATE), 50)


@pytest.mark.parametrize("form", ["$A <eos>", "<bos> $A <eos>", "$A", "<bos> <bos> $A <eos> <eos>"])
def test_an_end_token_that_a_tokenizer_appends_does_not_end_prompts(form):
    ids = encode(row(("user", "2+3")), tokenizer(form=form))
    assert ids == (0,) * form.count("<bos>") + codes("2+3\n")


@pytest.mark.parametrize("template", ["{{ messages[0].content }}<eos>", TEMPLATE.replace("<assistant>", "<eos>\n")])
def test_a_template_whose_prompt_ends_with_the_end_token_is_an_error(template):
    with pytest.raises(DataError, match=r"ends with the end token '<eos>'.* no generation prompt"):
        encode(row(("user", "2+3")), tokenizer(template))


@pytest.mark.parametrize("template", [TEMPLATE, None])
def test_the_beginning_of_an_answer_is_continued(template):
    ids = encode(row(("user", "2+3"), ("assistant", "It is ")), tokenizer(template))
    written = "<user>2+3<assistant>It is " if template else "2+3\nIt is "
    assert ids == (() if template else (0,)) + codes(written)


NAMED = TEMPLATE.replace("{{ m['role'] }}", "{{ m['role'] }}{{ m['name'] }}")
WITH_TOOLS = TEMPLATE + "{% if tools %}{{ tools[0]['name'] }}{% endif %}"
USER_ONLY = TEMPLATE.replace(
    "{% if m['role'] == 'tool' %}", "{% if m['role'] == 'system' %}{% continue %}{% elif false %}"
)


@pytest.mark.parametrize(
    ("prompt", "template", "problem"),
    [
        (row(("user", "2+3", {"name": "Ana"})), TEMPLATE, "has 'name' in message 0, which .* does not read"),
        (row(("assistant", "", {"tool_calls": [1]}), ("user", "?")), TEMPLATE, "has 'tool_calls' in message 0"),
        (
            row(("user", "2+3", {"name": "Ana"})),
            None,
            "has messages with 'name', and the tokenizer has no chat template",
        ),
        (
            row(("user", "2+3"), extra={"tools": [{"name": "t"}]}),
            WITH_TOOLS,
            r"column 'tools'.*template_columns=\[tools\]",
        ),
        (
            row(("user", "2+3"), extra={"documents": ["d"]}),
            TEMPLATE,
            "column 'documents', which the model would not see",
        ),
        (row(("user", "2+3"), extra={"images": ["d"]}), None, "column 'images', which the model would not see"),
        (row(("system", "be"), ("user", "2+3")), USER_ONLY, r"loses message 0 \(system\)"),
        (
            row(("human", "2+3"), ("user", "?")),
            TEMPLATE.replace("{{ m['content'] }}", "{{ m['content'][:1] }}"),
            "loses",
        ),
    ],
)
def test_nothing_that_a_template_could_use_is_dropped_silently(prompt, template, problem):
    with pytest.raises(DataError, match=problem):
        encode(prompt, tokenizer(template))


def test_parts_of_messages_and_columns_that_a_template_reads_are_used():
    assert encode(row(("user", "2+3", {"name": "Ana"})), tokenizer(NAMED)) == codes("<userAna>2+3<assistant>")
    with_tools = row(("user", "2+3"), extra={"tools": [{"name": "t"}]})
    ids = encode(with_tools, tokenizer(WITH_TOOLS), template_columns=("tools",))
    assert ids == codes("<user>2+3<assistant>t")
    assert encode(with_tools, tokenizer(WITH_TOOLS), template_columns=()) == codes("<user>2+3<assistant>")
    assert encode(row(("user", "2+3"), extra={"tools": []}), tokenizer(TEMPLATE)) == codes("<user>2+3<assistant>")
    with pytest.raises(DataError, match=r"data.template_columns.documents has no effect"):
        encode(with_tools, tokenizer(TEMPLATE), template_columns=("documents",))


def limited(positions=None, vocabulary=None):
    made = tokenizer()
    setattr(made, LIMITS, ModelLimits(positions=positions, vocabulary=vocabulary))
    return made


def of(tokenizer, sections=None, *, evaluation=False):
    config = RunConfig.model_validate({"rollout": {"max_new_tokens": 10}} | (sections or {}))
    return PromptEncoder.of(config, tokenizer, evaluation=evaluation)


def test_a_prompt_and_its_response_must_fit_the_positions_of_the_model():
    prompt = row(("user", "2+3"))  # 5 tokens
    assert len(of(limited(positions=15)).encode(prompt)) == 5
    with pytest.raises(DataError, match=r"5 tokens, and with rollout.max_new_tokens = 10 more than the 14 positions"):
        of(limited(positions=14)).encode(prompt)
    longer = {"evaluation": {"max_new_tokens": 11}}
    with pytest.raises(DataError, match=r"with evaluation.max_new_tokens = 11 more than the 15 positions"):
        of(limited(positions=15), longer, evaluation=True).encode(prompt)
    assert of(limited(positions=15), longer).encode(prompt)
    with pytest.raises(DataError, match=r"rollout.max_new_tokens = 10 leaves no room .* 10 positions"):
        of(limited(positions=10))


def test_a_tokenizer_of_another_model_is_an_error_with_both_sizes():
    with pytest.raises(
        DataError, match=r"tokenizer has 129 tokens .* token 128 \('<eos>'\).* model has only 100 tokens"
    ):
        of(limited(vocabulary=100))
    fitting = limited(vocabulary=129)
    assert of(fitting).encode(row(("user", "2+3")))
    fitting.add_tokens(["<new>"])
    with pytest.raises(DataError, match=r"contains the token 129 \('<new>'\), but the model has only 129 tokens"):
        of(fitting).encode(row(("user", "a<new>")))


@pytest.mark.parametrize("option", ["rollout", "evaluation"])
def test_a_stop_string_that_no_text_can_contain_is_an_error(option):
    with pytest.raises(DataError, match=rf"{option}.stop: 'a<eos>' contains the special token '<eos>'"):
        of(tokenizer(), {option: {"stop": ["a<eos>"]}}, evaluation=True)
