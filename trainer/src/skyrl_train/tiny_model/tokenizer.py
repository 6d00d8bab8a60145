"""Trains the tiny model's tokenizer: byte-level BPE with a separate token for each digit and operator."""

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from skyrl_train.tiny_model.corpus import sample_text

PAD, EOS = "<pad>", "<eos>"
VOCABULARY = 448
"""Rows of the embedding matrix: the number of tokens, rounded up to a multiple of 64."""

CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
"""A prompt is the text of its messages, one per line."""

_ISOLATED = r"\d|####|[-+*/=\n]"


def train_tokenizer(seed: int, documents: int = 20_000) -> PreTrainedTokenizerFast:
    """The tokenizer trained on the corpus of this seed. Deterministic; takes a few seconds."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_ISOLATED), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample_text(seed, documents), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )
