"""Replacements inside a loaded model that make it faster on a CPU and change no result beyond rounding.

`accelerate_on_cpu` is the only way in, and `policy.model_loading` its only caller. Nothing else depends on this folder:
without it a model computes the same, slower.
"""

from transformers import PreTrainedModel

from skyrl_train.policy.cpu.norm import use_fast_norm
from skyrl_train.policy.cpu.rotation import use_fast_rotation


def accelerate_on_cpu(model: PreTrainedModel) -> None:
    """Replace what this package knows to be slow on a CPU, wherever a trial gives the same numbers."""
    use_fast_norm(model)
    use_fast_rotation(model)
