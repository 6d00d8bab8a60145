"""Types of numeric options. Each has an upper bound, above which a value is a typo. Imports no torch.

Without one, a value such as 1e30 passes validation and fails inside torch, an allocation or a timer, or trains noise.
"""

from typing import Annotated

from pydantic import Field

from skyrl_train.config.number import Number, Scheduled

LARGEST_COUNT = 10**9
LARGEST_BATCH = 10**6
LARGEST_SEED = 2**63 - 1
"""A resumed run adds its step, and torch takes seeds below 2^64."""

PositiveInt = Annotated[int, Field(gt=0, le=LARGEST_COUNT)]
NonNegativeInt = Annotated[int, Field(ge=0, le=LARGEST_COUNT)]
BatchSize = Annotated[int, Field(gt=0, le=LARGEST_BATCH)]
"""Prompts or samples of one step, which the plan enumerates."""
Processes = Annotated[int, Field(gt=0, le=4096)]
"""Threads or processes of one rank."""
AdapterSize = Annotated[int, Field(gt=0, le=65536)]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
Seconds = Annotated[float, Field(gt=0, le=1e6)]
Gibibytes = Annotated[float, Field(gt=0, le=1e6)]
Nats = Annotated[float, Field(gt=0, le=100)]

LearningRate = Annotated[Number, Scheduled(ge=0, le=1)]
"""AdamW moves every weight by about the learning rate, and the weights of a model are below 1."""
Coefficient = Annotated[Number, Scheduled(ge=0, le=1000)]
Temperature = Annotated[Number, Scheduled(ge=0.01, le=100)]
"""Below 0.01 sampling is greedy in float32, and log-probs divided by the temperature lose their precision."""
EvaluationTemperature = Annotated[float, Field(ge=0, le=100)]
WeightDecay = Annotated[float, Field(ge=0, le=10)]
GradientNorm = Annotated[float, Field(ge=1e-6, le=1e6)]
RewardWeight = Annotated[float, Field(ge=-1e6, le=1e6)]
