"""What a changed option does to a resumed run: declared in its section, documented, and strict for new options."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from skyrl_train.config.course_options import compared_options, default_of, effect_of
from skyrl_train.config.options import all_options, all_sections
from skyrl_train.config.schema import RunConfig
from skyrl_train.config.section import EVERY, Section

DOCS = Path(__file__).parents[3] / "docs/checkpoints.md"


@pytest.mark.parametrize("section", all_sections().values(), ids=lambda section: section.__name__)
def test_only_existing_options_are_declared_and_each_once(section):
    names = {field.alias or name for name, field in section.model_fields.items()}
    free, noted = section.free_on_resume - EVERY, section.noted_on_resume - EVERY
    assert free | noted <= names
    assert not free & noted


@pytest.mark.parametrize(
    ("key", "effect"),
    [
        ("seed", "course"),
        ("trainer.samples_per_prompt", "course"),
        ("trainer.optimizer.learning_rate", "course"),
        ("rollout.async", "course"),
        ("environment.params.task", "course"),
        ("trainer.algorithm.grpo.epsilon", "course"),
        ("an.option.of.a.later.version", "course"),
        ("trainer.steps", "noted"),
        ("evaluation.prompts", "noted"),
        ("trainer.micro_batch_size", "free"),
        ("checkpoint.every", "free"),
        ("tracking.wandb.project", "free"),
        ("rollout.server.urls", "free"),
    ],
)
def test_the_effect_of_an_option(key, effect):
    assert effect_of(key) == effect


def test_a_new_option_changes_the_course_until_it_is_declared_otherwise():
    class Later(Section):
        new: int = Field(default=1)

    assert Later.free_on_resume == Later.noted_on_resume == frozenset()


def test_the_documented_table_is_that_of_the_schema():
    text = DOCS.read_text(encoding="utf-8")
    documented = {}
    for effect in ("noted", "free"):
        (row,) = re.findall(rf"^\| {effect} \|(.*)\|$", text, re.MULTILINE)
        documented |= dict.fromkeys(re.findall("`([^`]+)`", row), effect)
    for option in all_options():
        parts = option.key.split(".")
        sections = [".".join([*parts[:depth], "*"]) for depth in range(1, len(parts))]
        stated = [documented[key] for key in (option.key, *sections) if key in documented]
        assert (stated or ["course"])[0] == effect_of(option.key), option.key


def test_values_of_free_form_mappings_are_recognised_but_not_recorded():
    params: dict[str, Any] = {"level": 3, "judge": {"key": "sk-secret", "urls": ["http://me:password@host"]}}
    options = compared_options(RunConfig.model_validate({"environment": {"params": params}}))
    assert options["environment.params.level"] == 3
    assert not re.search("secret|password", str(options))
    params["judge"]["key"] = "sk-other"
    other = compared_options(RunConfig.model_validate({"environment": {"params": params}}))
    assert {key for key in options if options[key] != other[key]} == {"environment.params.judge.key"}


def test_the_default_of_an_option_is_known():
    assert default_of("trainer.optimizer.betas") == [0.9, 0.95]
    assert default_of("no.such.option") is None
