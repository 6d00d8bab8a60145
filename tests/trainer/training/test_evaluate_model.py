"""A run that is measured again, and compared with another model on the same problems."""

import json
import os

import pytest

from skyrl_core.errors import InvalidParamsError, SkyrlError
from skyrl_train.commands.eval import main
from skyrl_train.step.evaluation import Evaluation
from skyrl_train.training.evaluate_model import Assessment, changes


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
        assert 0 <= measure["low"] < measure["high"] <= 1
        assert measure["low"] <= measure["value"] <= measure["high"]


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


def assessment(**solved: tuple[bool, ...]) -> Assessment:
    part = Evaluation(metrics={}, answers=[], solved=solved)
    return Assessment(evaluation=part, parts={"": part}, prompts=len(solved), intervals={})


def test_the_change_is_over_the_problems_on_which_both_models_have_a_verdict() -> None:
    before, after = (
        assessment(a=(True, False), b=(False, False)),
        assessment(a=(True, True), b=(False, True), c=(True,)),
    )
    found = changes(before, after, samples=2)
    assert [(name, change.value, change.problems) for name, change in found.items()] == [
        ("pass@1", 0.5, 2),  # shares 1/2 and 0, then 1 and 1/2
        ("pass@2", 0.5, 2),  # one of two, then two of two
    ]
    assert found["pass@1"].interval[0] < 0.5 < found["pass@1"].interval[1]


def test_models_that_answered_different_problems_cannot_be_compared() -> None:
    with pytest.raises(SkyrlError, match=r"different problems.*give --environment"):
        changes(assessment(a=(True,)), assessment(b=(True,)), samples=1)
    assert changes(assessment(), assessment(), samples=1) == {}


@pytest.mark.train
def test_a_model_compared_with_itself_has_not_changed(capsys) -> None:
    options = ("tiny", "--baseline", "tiny", "--prompts", "6", "rollout.max_new_tokens=24")
    found = evaluated(capsys, *options)["baseline"]
    change = found["changes"]["pass@1"]
    assert (found["target"], change["value"], change["problems"]) == ("tiny", 0.0, 6)
    assert -1 < change["low"] < 0 < change["high"] < 1
    assert main([*options]) == 0
    printed = capsys.readouterr().out
    assert "change from tiny, on the same problems:" in printed
    assert "+0.0" in printed
