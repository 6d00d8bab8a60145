"""What completes in an override."""

import subprocess
import sys

from skyrl_train.config.override_completion import complete_key, complete_override


def test_keys_are_completed_with_their_descriptions():
    assert list(complete_key("trainer.optimizer.w")) == [
        "trainer.optimizer.warmup_steps",
        "trainer.optimizer.weight_decay",
    ]
    completed = complete_override("trainer.optimizer.warm")
    assert list(completed) == ["trainer.optimizer.warmup_steps="]
    assert all(completed.values())
    assert complete_override("no.such.key") == {}


def test_the_parameters_of_a_loss_are_completed_in_its_block():
    assert {"trainer.algorithm.gspo.clip_low=", "trainer.algorithm.gspo.clip_high="} <= set(
        complete_override("trainer.algorithm.gspo.")
    )
    assert complete_override("trainer.algorithm.no_such_loss.") == {}


def test_values_are_completed_where_they_are_known():
    assert set(complete_override("data.shuffle=")) == {"data.shuffle=true", "data.shuffle=false"}
    assert "trainer.algorithm.advantage_estimator=rloo" in complete_override("trainer.algorithm.advantage_estimator=")
    assert "trainer.algorithm.policy_loss_type=gspo" in complete_override("trainer.algorithm.policy_loss_type=g")
    assert complete_override("trainer.steps=") == {}


NO_TORCH = """
import sys
from skyrl_train.config.override_completion import complete_override
assert complete_override("trainer.algorithm.gspo.")
assert "torch" not in sys.modules
"""


def test_completion_imports_no_torch():
    subprocess.run([sys.executable, "-c", NO_TORCH], check=True)
