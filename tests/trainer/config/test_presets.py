"""Configurations that ship with the trainer: which there are, and what counts as the name of one."""

from pathlib import Path

import pytest

from skyrl_core.errors import SkyrlError
from skyrl_train.config.load_config import resolve_run
from skyrl_train.config.presets import FOLDER, all_presets, find_preset
from skyrl_train.config.sources import read_sources
from skyrl_train.environments.load_environment import load_environment

CONFIGS = Path(__file__).parents[3] / "configs"


def test_the_files_of_configs_are_the_presets():
    copies, packaged = ({file.name: file.read_text() for file in folder.iterdir()} for folder in (CONFIGS, FOLDER))
    assert copies == packaged
    assert [preset.name for preset in all_presets()] == [
        "quickstart",
        "gsm8k_qwen2.5_0.5b",
        "gsm8k_qwen2.5_7b_zero3",
        "gsm8k_tiny",
    ]


@pytest.mark.parametrize("preset", all_presets(), ids=lambda preset: preset.name)
def test_a_preset_is_valid_and_has_a_summary_of_one_line(preset):
    run = resolve_run(load_environment, files=[Path(preset.name)])
    assert run.files == (f"preset {preset.name}",)
    assert preset.summary.endswith(".")
    assert len(preset.summary) <= 54  # fits a terminal of 80 columns


def test_an_origin_in_a_preset_names_the_preset():
    assert read_sources([Path("quickstart")], []).origin(("model",)).startswith("preset quickstart:")


def test_a_file_of_the_same_name_takes_precedence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("quickstart").mkdir()
    assert find_preset(Path("quickstart"))  # a folder is no configuration
    Path("gsm8k_tiny").write_text("seed: 7\n")
    assert read_sources([Path("gsm8k_tiny")], []).values == {"seed": 7}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("quikstart", r"neither a file nor a preset has this name; did you mean the preset `--config quickstart`\?"),
        ("gsm8k_qwen2.5_0.5", r"did you mean the preset `--config gsm8k_qwen2.5_0.5b`\?"),
        ("xyzzy", "neither a file nor a preset has this name; `skyrl config --presets` lists the presets"),
        ("quickstart.yaml", r"no such file; did you mean the preset `--config quickstart`\?"),
        ("configs/gsm8k_tiny.yml", r"no such file; did you mean the preset `--config gsm8k_tiny`\?"),
        ("other/xyzzy.yaml", "no such file$"),
    ],
)
def test_a_wrong_name_is_an_error_with_the_nearest_preset(tmp_path, monkeypatch, given, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SkyrlError, match=message) as caught:
        read_sources([Path(given)], [])
    assert caught.value.exit_code == 2
