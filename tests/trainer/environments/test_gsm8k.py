import json
import os
import sys
from pathlib import Path

import pytest

from skyrl_core.errors import InvalidParamsError, PluginLoadError
from skyrl_train.environments.environment import Completion, Row
from skyrl_train.environments.final_answer import stated_after_marker
from skyrl_train.environments.load_environment import load_environment


def reward_of(text, ground_truth="18", *, finished=True, **params):
    row = Row(prompt=({"role": "user", "content": "?"},), ground_truth=ground_truth, environment="gsm8k")
    return load_environment("gsm8k", params).reward(Completion(text=text, token_ids=(), finished=finished), row)


@pytest.mark.parametrize(
    "text", ["#### 18", "16-3-4=9\n9*2=18\n#### 18", "#### $18.00 a day.", "####18", r"#### \boxed{18}", "#### 36/2"]
)
def test_the_right_number_after_the_marker_is_rewarded(text):
    assert reward_of(text) == 1.0


@pytest.mark.parametrize(
    "text", ["", "18", "####", "#### 19", "#### 180", "#### -18", "#### 1.8", "#### 20-2", "#### 18\n#### 19"]
)
def test_anything_else_is_not_rewarded(text):
    assert reward_of(text) == 0.0


def test_the_beginning_of_the_answer_in_the_prompt_counts():
    prompt = ({"role": "user", "content": "?"}, {"role": "assistant", "content": "2*9=18\n#### "})
    row = Row(prompt=prompt, ground_truth="18", environment="gsm8k")
    assert (row.answer_start, row.question) == ("2*9=18\n#### ", "?")
    environment = load_environment("gsm8k")
    for text, reward in (("18", 1.0), ("8", 0.0), ("", 0.0)):
        assert environment.reward(Completion(text=text, token_ids=(), finished=True), row) == reward


def test_the_ground_truth_may_be_a_complete_worked_answer():
    assert reward_of("#### 1234", ground_truth="2*617=<<2*617=1234>>1234\n#### 1,234") == 1.0


@pytest.mark.parametrize(
    ("text", "reward"), [("#### 18", 0.0), ("#### 18.", 0.0), ("#### 18\n", 1.0), ("#### 18 eggs for br", 0.0)]
)
def test_an_answer_that_may_have_been_cut_off_is_not_rewarded(text, reward):
    assert reward_of(text, finished=False) == reward


@pytest.mark.parametrize(("text", "reward"), [("It is 3*6 = 18.", 1.0), ("18, or 19", 0.0), ("none", 0.0)])
def test_flexible_extraction_uses_the_last_number(text, reward):
    assert reward_of(text, extraction="flexible") == reward


def test_flexible_extraction_prefers_the_marker():
    assert reward_of("#### 18\nThat is less than 20", extraction="flexible") == 1.0


def test_a_ground_truth_that_is_not_a_number_is_an_error_with_a_remedy():
    with pytest.raises(ValueError, match=r"'2\\\\sqrt\{3\}' is not a number: .*environment.params.latex"):
        reward_of("#### 3", ground_truth=r"2\sqrt{3}")


def test_an_unknown_parameter_is_an_error_that_suggests_the_nearest():
    with pytest.raises(InvalidParamsError, match="did you mean 'extraction'"):
        reward_of("#### 18", extracton="strict")


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        (r"#### \sqrt{12}", 1.0),
        (r"#### x = \sqrt{12}", 1.0),
        (r"#### 2x = \sqrt{12}", 0.0),
        (r"#### $2\sqrt{3}$.", 1.0),
        (r"#### 3\sqrt{2}", 0.0),
        ("#### 2", 0.0),
        ("", 0.0),
    ],
)
def test_latex_answers_are_compared_by_math_verify(text, reward):
    pytest.importorskip("math_verify", reason="the extra skyrl-train[math] is not installed")
    assert reward_of(text, ground_truth=r"2\sqrt{3}", latex=True) == reward


def test_without_math_verify_the_error_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(PluginLoadError, match=r"pip install 'skyrl-train\[math\]'"):
        reward_of("#### 18", latex=True)


def test_gsm8k_generates_no_problems():
    assert load_environment("gsm8k").rows("train", seed=0) is None


FOLDER = Path(os.environ.get("SKYRL_GSM8K") or Path(__file__).parents[4] / "shared/data/gsm8k")


@pytest.mark.skipif(not FOLDER.is_dir(), reason="no GSM8K: name its folder in SKYRL_GSM8K")
@pytest.mark.parametrize(("file", "count"), [("train.jsonl", 7473), ("test.jsonl", 1319)])
def test_every_published_answer_is_rewarded_and_a_different_number_is_not(file, count):
    environment = load_environment("gsm8k")
    answers = [json.loads(line)["answer"] for line in (FOLDER / file).open(encoding="utf-8")]
    assert len(answers) == count
    for answer in answers:
        row = Row(prompt=({"role": "user", "content": "?"},), ground_truth=answer, environment="gsm8k")
        gold = float(stated_after_marker(answer).replace(",", ""))
        for text, reward in ((answer, 1.0), (f"#### ${gold:,.2f}", 1.0), (f"#### {gold + 1:.2f}", 0.0)):
            completion = Completion(text=text, token_ids=(), finished=True)
            assert environment.reward(completion, row) == reward, (answer, text)
