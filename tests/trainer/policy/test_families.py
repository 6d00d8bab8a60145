"""Families of models: a few of the table in docs/families.md, which `nox -s families` measures completely."""

import re
from pathlib import Path

import pytest
from tests.trainer.fixtures.family_table import measure

PAGE = Path(__file__).parents[3] / "docs" / "families.md"

FEW = ("llama", "qwen3", "gemma3_text", "gpt2", "gpt_neox", "opt", "phi3", "mixtral", "qwen3_moe")
"""Families that train, export and sample."""

REFUSED_BY_HF = {"mamba": "does not sample from", "rwkv": "does not sample from", "jamba": "cannot decode"}


@pytest.mark.parametrize("kind", [*FEW, *REFUSED_BY_HF])
def test_a_family_trains_exports_and_samples_as_plain_transformers_or_is_refused(kind, tmp_path, one_rank):
    cells = measure(kind, tmp_path, one_rank)
    assert re.fullmatch("ok(, shared)?", cells["train"])
    assert cells["export"] == "ok"
    assert re.match("ok" if kind in FEW else f"refused: the rollout engine hf {REFUSED_BY_HF[kind]}", cells["hf"])


@pytest.mark.parametrize("kind", ["gemma2", "phi"])
def test_a_family_that_the_trainer_does_not_compute_is_refused_when_it_is_loaded(kind, tmp_path, one_rank):
    assert measure(kind, tmp_path, one_rank)["train"].startswith("refused: ")


def test_no_family_of_the_table_is_wrong_without_an_error():
    rows = [line.split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert not [row for row in rows if "WRONG" in " ".join(row)]
