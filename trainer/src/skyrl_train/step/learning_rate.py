"""The learning rate of each optimizer step: linear warm-up, then constant, linear or cosine decay."""

import math

from skyrl_train.config.schema import OptimizerConfig


def learning_rate(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """The rate of optimizer step ``step`` (from 0); linear and cosine reach 0 after ``total_steps``."""
    peak = config.learning_rate
    if not isinstance(peak, float):
        return peak.at(step)
    if step < config.warmup_steps:
        return peak * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(total_steps - config.warmup_steps, 1)
    progress = min(progress, 1.0)
    scale = {
        "constant": 1.0,
        "linear": 1.0 - progress,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)),
    }[config.schedule]
    return peak * scale
