"""Confidence intervals by hand, and a run that is measured again."""

import json
import os

import pytest

from skyrl_core.errors import InvalidParamsError, SkyrlError
from skyrl_train.commands.eval import main
from skyrl_train.training.evaluate_model import wilson


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [
        # z² = 3.8415: 0 of 10 gives z² / (10 + z²) as the upper end
        (0, 10, 0.0, 0.27754),
        (10, 10, 0.72246, 1.0),
        # centre (0.8 + 0.19207) / 1.38415, spread 1.95996 sqrt(0.016 + 0.0096037) / 1.38415
        (8, 10, 0.49016, 0.94332),
        (5, 10, 0.23659, 0.76341),
    ],
)
def test_wilson_by_hand(successes: int, count: int, low: float, high: float) -> None:
    assert wilson(successes / count, count) == pytest.approx((low, high), abs=1e-5)


def evaluated(capsys, *arguments: str) -> dict:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.train
def test_a_run_measured_again_gives_its_last_evaluation(train, tmp_path, capsys) -> None:
    lines = train(tmp_path / "run", **{"trainer.optimizer.learning_rate": 1e-3})
    [final] = [line for line in lines if line["kind"] == "evaluation" and line.get("final")]
    capsys.readouterr()
    found = evaluated(capsys, str(tmp_path / "run"))
    assert found["measures"]["pass@1"]["value"] == final["accuracy"]
    assert found["metrics"]["reward/mean"] == final["reward/mean"]
    by_checkpoint = evaluated(capsys, str(tmp_path / "run/checkpoints/step_000002"))
    assert by_checkpoint["measures"] == found["measures"]
    assert "RANK" not in os.environ  # otherwise the next program would look for its launcher


@pytest.mark.train
def test_a_model_is_measured_with_several_samples(capsys) -> None:
    found = evaluated(capsys, "tiny", "--prompts", "12", "--samples", "3", "rollout.max_new_tokens=24")
    assert (found["prompts"], found["samples_per_prompt"], found["environment"]) == (12, 3, "arithmetic")
    one, three = found["measures"]["pass@1"], found["measures"]["pass@3"]
    assert one["value"] <= three["value"]
    for measure in (one, three):
        assert 0 <= measure["low"] <= measure["value"] <= measure["high"] <= 1


@pytest.mark.train
def test_a_run_with_prefetching_is_measured_with_any_engine(tmp_path, capsys) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("rollout: {engine: vllm_server, async: one_step, max_new_tokens: 8}\n")
    assert evaluated(capsys, "tiny", "--config", str(file), "--prompts", "4", "rollout.engine=hf")["prompts"] == 4


@pytest.mark.train
def test_the_table_fits_a_terminal_and_names_the_interval(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["tiny", "--prompts", "4", "rollout.max_new_tokens=8"]) == 0
    out = capsys.readouterr().out
    assert "95 % interval" in out
    assert "pass@1" in out
    assert max(map(len, out.splitlines())) <= 80


def test_an_invalid_target_is_an_error_with_its_reason(tmp_path) -> None:
    with pytest.raises(SkyrlError, match="give --prompts N"):
        main(["tiny", "--prompts", "0"])
    with pytest.raises(InvalidParamsError, match="unknown option"):
        main(["tiny", "evaluation.promts=3"])
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.yaml").write_text("model: tiny\n")
    with pytest.raises(SkyrlError, match="no complete checkpoint"):
        main([str(tmp_path)])
