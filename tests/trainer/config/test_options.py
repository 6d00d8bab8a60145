"""The list of options, and the reference that is generated from it."""

import re
from pathlib import Path

import pytest
import yaml

from skyrl_train.config.option_reference import find_options, write_commented_yaml, write_markdown, write_table
from skyrl_train.config.options import all_options, all_sections
from skyrl_train.config.schema import RunConfig
from skyrl_train.config.yaml_text import parse_yaml

DOCUMENT = Path(__file__).parents[3] / "docs" / "configuration.md"


def leaves(model, prefix=""):
    values = model.model_dump(mode="json")
    for attribute, field in type(model).model_fields.items():
        name, inner = field.alias or attribute, getattr(model, attribute)
        if hasattr(inner, "model_dump"):
            yield from leaves(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", values[name]


def test_every_option_is_listed_with_its_default():
    assert {option.key: option.default for option in all_options()} == dict(leaves(RunConfig()))


@pytest.mark.parametrize("option", all_options(), ids=lambda option: option.key)
def test_every_option_has_a_description(option):
    assert re.fullmatch(r"\S.{9,}\.", option.description), f"{option.key}: {option.description!r}"


def test_types_ranges_and_choices_are_readable():
    options = {option.key: option for option in all_options()}
    rate = options["trainer.optimizer.learning_rate"]
    assert (rate.type, rate.range, rate.choices) == ("number/schedule", ">= 0, <= 1", ())
    assert options["rollout.top_p"].range == "> 0, <= 1"
    assert options["trainer.steps"].range == "> 0"  # its upper bound only catches typing errors
    assert options["trainer.threads"].type == "integer or auto"
    assert options["run_folder"].type == "text or null"
    assert options["trainer.optimizer.betas"].type == "list of 2 numbers"
    assert options["trainer.deepspeed.zero_stage"].choices == ("0", "1", "2", "3")
    assert options["trainer.algorithm.kl_estimator"].type == "choice"


@pytest.mark.parametrize("width", [80, 100, 200])
def test_the_table_fits_the_terminal(width):
    table = write_table(all_options(), width)
    assert max(map(len, table.splitlines())) <= width
    for option in all_options():
        assert f"  {option.key} " in table


def test_the_commented_yaml_is_a_configuration_of_defaults():
    text = write_commented_yaml(all_options())
    assert RunConfig.model_validate(parse_yaml(text, "all").value) == RunConfig()
    for option in all_options():
        assert option.description.split()[0] in text


def test_a_prefix_selects_a_section_and_a_name_selects_options_of_any_section():
    assert {o.section for o in find_options("trainer.optimizer")} == {"trainer.optimizer"}
    assert [o.key for o in find_options("temperature")] == ["rollout.temperature", "evaluation.temperature"]
    assert find_options("nothing") == []


def test_the_commented_yaml_of_a_section_keeps_its_nesting():
    assert yaml.safe_load(write_commented_yaml(find_options("tracking.wandb"))) == {
        "tracking": {
            "wandb": {
                "mode": "auto",
                "project": "skyrl",
                "entity": None,
                "group": None,
                "name": None,
                "tags": [],
                "notes": None,
                "id": None,
            }
        }
    }


def test_the_document_holds_the_current_reference():
    begin, end = "<!-- options: written by `skyrl config --markdown` -->\n", "<!-- end of options -->"
    written = DOCUMENT.read_text().partition(begin)[2].partition(end)[0].strip("\n")
    assert written == write_markdown(all_options()).strip("\n"), "paste the output of `skyrl config --markdown`"


def test_every_section_has_a_docstring():
    for key, section in all_sections().items():
        assert (section.__doc__ or "").strip().endswith("."), key
