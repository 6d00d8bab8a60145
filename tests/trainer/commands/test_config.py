"""`skyrl config`: the formats in which it prints the options."""

import json

import pytest
import yaml

from skyrl_core.errors import SkyrlError
from skyrl_train.commands.config import main
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
        "      Save when Ctrl-C or SIGTERM stops the run after a step.\n"
    )


def test_the_complete_table_explains_where_parameters_of_losses_go(capsys):
    assert "skyrl losses schema NAME" in output(capsys)


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
    ("prefix", "nearest"), [("trainer.optimiser", "trainer.optimizer"), ("learning_rat", "learning_rate")]
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
