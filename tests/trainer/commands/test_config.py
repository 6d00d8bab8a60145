"""`skyrl config`: the formats in which it prints the options."""

import json
import re

import pytest
import yaml

from skyrl_core.errors import SkyrlError
from skyrl_train.commands.config import main
from skyrl_train.config.presets import all_presets
from skyrl_train.config.schema import RunConfig


def output(capsys, *argv):
    assert main(argv) == 0
    return capsys.readouterr().out


def test_the_table_shows_one_section(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert output(capsys, "checkpoint") == (
        "checkpoint: When the run is saved.\n"
        "\n"
        "  KEY                 TYPE        DEFAULT  RANGE\n"
        "  checkpoint.every    integer     0        >= 0\n"
        "      Steps between checkpoints; 0 saves only after the last step.\n"
        "  checkpoint.keep     integer     2        > 0\n"
        "      Number of latest checkpoints to keep on disk.\n"
        "  checkpoint.export   true/false  false\n"
        "      Export each model as a transformers folder, step_N/model, in the\n"
        "      background.\n"
        "  checkpoint.on_stop  true/false  true\n"
        "      Save when Ctrl-C, SIGTERM or an error between two steps ends the run.\n"
    )


def test_the_complete_table_explains_where_parameters_of_losses_go(capsys):
    assert "`skyrl config trainer.algorithm.NAME` lists them" in output(capsys)


def test_presets_are_listed_with_one_line_each(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    header, *rows = output(capsys, "--presets").splitlines()
    assert header.split() == ["PRESET", "SUMMARY"]
    assert [row.split()[0] for row in rows] == [preset.name for preset in all_presets()]
    assert all(row.endswith(preset.summary) for row, preset in zip(rows, all_presets(), strict=True))
    assert max(map(len, rows)) <= 80


def test_words_find_the_options_whose_key_or_description_contains_all(capsys):
    found = output(capsys, "GPU", "memory")
    assert "rollout.vllm.gpu_memory_utilization" in found
    assert "kv_cache_gib" in found
    assert "trainer.steps" not in found
    assert "trainer.optimizer.learning_rate" in output(capsys, "learning rate")


def test_below_the_option_with_the_name_are_others_that_mention_it(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = output(capsys, "model")
    assert "`tiny` (ships with the trainer)" in text
    assert "model also appears in: trainer.share_prompts, " in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_block_of_a_loss_shows_its_parameters(capsys):
    text = output(capsys, "trainer.algorithm.entropy_reg")
    assert re.search(r"trainer\.algorithm\.entropy_reg\.entropy_coef +number +0\.01 +>= 0", text)
    assert "schedule over optimizer steps" in text
    assert output(capsys, "entropy_reg") == text
    assert output(capsys, "trainer.algorithm.entropy_reg.entropy_coef").count("trainer.algorithm.entropy_reg.") == 1
    assert output(capsys, "reinforce") == "The policy loss reinforce has no parameters.\n"
    values = yaml.safe_load(output(capsys, "trainer.algorithm.entropy_reg", "--yaml"))
    assert values["trainer"]["algorithm"]["entropy_reg"]["entropy_coef"] == 0.01
    assert "entropy_coef" in json.loads(output(capsys, "trainer.algorithm.entropy_reg", "--json"))["properties"]


def test_the_block_of_an_estimator_shows_its_parameters(capsys):
    assert "trainer.algorithm.gae.gamma" in output(capsys, "trainer.algorithm.gae")


def test_json_is_the_schema_of_a_run_of_a_section_or_of_options(capsys):
    assert json.loads(output(capsys, "--json"))["properties"].keys() == RunConfig.model_fields.keys()
    assert "learning_rate" in json.loads(output(capsys, "trainer.optimizer", "--json"))["properties"]
    assert json.loads(output(capsys, "learning_rate", "--json")).keys() == {"trainer.optimizer.learning_rate"}


def test_yaml_is_a_configuration(capsys):
    assert RunConfig.model_validate(yaml.safe_load(output(capsys, "--yaml"))) == RunConfig()


def test_markdown_has_a_row_for_each_option(capsys):
    text = output(capsys, "trainer.deepspeed", "--markdown")
    assert "| `trainer.deepspeed.zero_stage` | choice | `2` |" in text


@pytest.mark.parametrize(
    ("prefix", "nearest"),
    [
        ("trainer.optimiser", "trainer.optimizer"),
        ("trainer.optimizer.lerning_rate", "trainer.optimizer.learning_rate"),
        ("trainer.algorithm.dualclip", "trainer.algorithm.dual_clip"),
        ("trainer.algorithm.dual_clip.clip_hgh", "clip_high"),
    ],
)
def test_an_unknown_prefix_is_an_error_with_the_nearest_name(prefix, nearest):
    with pytest.raises(SkyrlError, match=f"did you mean {nearest}"):
        main([prefix])
    with pytest.raises(SkyrlError, match="prints every option"):
        main(["xyzzy"])


def test_the_command_is_found_by_skyrl_and_imports_no_torch(run_skyrl):
    done = run_skyrl("config", "trainer.steps")
    assert (done.returncode, done.stderr) == (0, "")
    assert "trainer.steps" in done.stdout
    failed = run_skyrl("config", "trainer.stepz")
    assert failed.returncode == 2
    assert "did you mean trainer.steps?" in failed.stderr
