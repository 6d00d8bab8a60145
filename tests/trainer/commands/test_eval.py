"""`skyrl eval` uses every override or refuses it."""

import json

import pytest

from skyrl_core.errors import SkyrlError
from skyrl_train.commands.eval import UNUSED, _refuse_unused, main
from skyrl_train.config.options import all_options


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("trainer.steps=3", "nothing is trained"),
        ("trainer.optimizer.learning_rate=1", "nothing is trained"),
        ("rollout.temperature=0.5", "set evaluation.temperature"),
        ("model=other", "the first argument names the model"),
        ("+checkpoint.every=3", "writes no run folder"),
        ("tracking.trackers=[]", "writes no run folder"),
    ],
)
def test_an_override_without_effect_is_refused_with_the_reason(override, reason):
    with pytest.raises(SkyrlError, match=reason) as caught:
        main(["tiny", override, "data.train=x.jsonl"])
    assert "data.train=x.jsonl: nothing is trained" in str(caught.value)


def test_the_refused_options_exist_and_others_pass():
    keys = [option.key for option in all_options()]
    for start in UNUSED:
        assert any(key == start or key.startswith(f"{start}.") for key in keys), start
    _refuse_unused(["trainer.deepspeed.precision=bf16", "rollout.top_p=0.9", "model_options.attention=eager", "seed=3"])


@pytest.mark.train
def test_overrides_of_sampling_change_the_answers(capsys):
    def measure(*overrides):
        assert main(["tiny", "--prompts=8", "--json", "rollout.max_new_tokens=24", *overrides]) == 0
        return json.loads(capsys.readouterr().out)["metrics"]["response_length/mean"]

    greedy, one = measure("evaluation.temperature=0"), measure("evaluation.top_k=1", "evaluation.temperature=0.7")
    assert greedy == one  # the most probable token, whatever the temperature
    assert measure("evaluation.min_p=1", "evaluation.temperature=2") == greedy
    assert measure("evaluation.max_new_tokens=2") == 2
    assert (
        measure("evaluation.temperature=0", "rollout.stop=['1', '2', '3', '4', '5', '6', '7', '8', '9', '0']") < greedy
    )
