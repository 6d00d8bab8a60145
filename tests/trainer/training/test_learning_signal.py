"""A run whose advantages are all 0 is refused before it starts, or says so while it runs."""

import pytest

from skyrl_core.errors import InvalidParamsError
from skyrl_core.registry import ResolvedEstimator, ResolvedLoss
from skyrl_train.config.schema import RunConfig
from skyrl_train.step.objective import Objective
from skyrl_train.training.learning_signal import SignalWatch, check_signal


def check(loss, *, samples=1, estimator="grpo", params=None, **algorithm):
    config = RunConfig.model_validate(
        {
            "trainer": {
                "samples_per_prompt": samples,
                "algorithm": {"policy_loss_type": loss, "advantage_estimator": estimator, **algorithm},
            }
        }
    )
    resolved = ResolvedEstimator.find(estimator, params)
    objective = Objective.of(config, ResolvedLoss.find(loss).scheduled())
    check_signal(config, resolved.build(resolved.class_plan.at(0)), objective)


@pytest.mark.parametrize(
    ("estimator", "params"),
    [(name, None) for name in ("grpo", "dr_grpo", "rloo", "opo", "maxrl", "pass_at_k")]
    + [("reinforce_pp", {"baseline": True})],
)
@pytest.mark.parametrize("loss", ["dual_clip", "gspo"])
def test_groups_of_one_are_refused_where_only_advantages_teach(loss, estimator, params):
    with pytest.raises(InvalidParamsError, match=f"samples_per_prompt = 1 trains nothing: .*{estimator}.* at least 2"):
        check(loss, estimator=estimator, params=params)
    check(loss, estimator=estimator, params=params, samples=2)


@pytest.mark.parametrize(
    ("loss", "algorithm"),
    [
        ("cross_entropy", {}),
        ("entropy_reg", {}),
        ("dual_clip", {"kl_coef": 0.1}),
        ("dual_clip", {"entropy_coef": {"schedule": "linear", "start": 0.0, "end": 0.1, "steps": 5}}),
        ("dual_clip", {"estimator": "reinforce_pp"}),
    ],
)
def test_groups_of_one_train_with_another_term_or_another_estimator(loss, algorithm):
    check(loss, **algorithm)


def messages(signals):
    watch = SignalWatch()
    found = [watch.step(has_signal=signal, last=i == len(signals)) for i, signal in enumerate(signals, 1)]
    return {step: text for step, text in enumerate(found, 1) if text}


@pytest.mark.parametrize(
    ("signals", "steps"),
    [
        ([False] * 25, [5, 10, 20, 25]),  # the last one because the run never had a signal
        ([True] + [False] * 25, [6, 11, 21]),
        ([False] * 4 + [True] + [False] * 4, []),
        ([False] * 5 + [True] + [False] * 6, [5, 11]),
        ([False, False], [2]),
        ([True] * 9, []),
    ],
)
def test_silent_steps_are_reported_in_growing_intervals(signals, steps):
    assert list(messages(signals)) == steps


def test_the_message_counts_the_steps_and_says_what_to_do():
    assert messages([False] * 5)[5].startswith("no learning signal in the last 5 steps: all advantages were 0")
    assert "trainer.samples_per_prompt" in messages([False])[1]
    assert "in this step" in messages([False])[1]


@pytest.mark.train
def test_a_run_prints_its_notes_and_that_it_has_no_signal(train, tmp_path, capsys):
    options = {"trainer.samples_per_prompt": 1, "trainer.algorithm.policy_loss_type": "entropy_reg"}
    train(tmp_path / "run", **options, **{"evaluation.prompts": 0, "trainer.lora.alpha": 8})
    printed = " ".join(capsys.readouterr().out.split())
    assert "note: trainer.lora.alpha has no effect" in printed
    assert "note: trainer.samples_per_prompt = 1 gives no advantages" in printed
    assert "no learning signal in the last 2 steps" in printed
