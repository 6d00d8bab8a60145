import hashlib
import json

import pytest
import torch
from transformers import AutoTokenizer

from skyrl_train.tiny_model import TINY_MODEL
from skyrl_train.tiny_model import make as tiny
from skyrl_train.tiny_model.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def provenance():
    return json.loads((TINY_MODEL / "provenance.json").read_text())


@pytest.fixture(scope="module")
def retrained(provenance):
    return train_tokenizer(provenance["seed"])


def test_shipped_files_are_those_of_the_provenance_record(provenance):
    for name, expected in provenance["files_sha256"].items():
        assert hashlib.sha256((TINY_MODEL / name).read_bytes()).hexdigest() == expected
    assert (provenance["seed"], provenance["steps"]) == (tiny.SEED, tiny.STEPS)


def test_shipped_files_are_small():
    assert sum(path.stat().st_size for path in TINY_MODEL.iterdir()) < 2_000_000


def test_the_seed_gives_the_corpus_that_the_model_was_trained_on(provenance):
    assert tiny.corpus_digest(provenance["seed"]) == provenance["corpus_sha256"]


def test_the_seed_gives_the_shipped_tokenizer(retrained, tmp_path):
    retrained.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (TINY_MODEL / "tokenizer.json").read_bytes()


def test_training_from_the_seed_reproduces_the_first_losses(provenance, retrained):
    """The first losses of the real run depend on model, optimizer, corpus and schedule."""
    _, losses = tiny.train(retrained, seed=provenance["seed"], steps=provenance["steps"], stop_after=3)
    assert losses == pytest.approx(provenance["first_losses"][:3], abs=2e-3)


@pytest.mark.parametrize(
    "text",
    ["Ana has 3 pens.\n36+76=112\n#### 112", "7,000 € for “héllo” 日本 🎲", "\ttabs  and   spaces\n\n", "#####", ""],
)
def test_tokenizer_round_trips_any_text(text):
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_digits_and_operators_are_separate_tokens():
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL)
    tokens = tokenizer.tokenize("36+76=112\n#### 112")
    assert tokens == ["3", "6", "+", "7", "6", "=", "1", "1", "2", "Ċ", "####", "Ġ", "1", "1", "2"]


def test_weights_are_bfloat16_and_finite():
    from safetensors.torch import load_file

    weights = load_file(TINY_MODEL / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert sum(tensor.numel() for tensor in weights.values()) == 845_952
