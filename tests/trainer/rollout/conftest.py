"""A fixture that builds `hf` rollout engines without a trainer."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from skyrl_train.config.schema import RolloutConfig, RunConfig
from skyrl_train.rollout.hf.engine import HfEngine
from skyrl_train.rollout.rollout_engine import EngineSetup


@pytest.fixture(scope="session")
def hf_engine() -> Callable[..., HfEngine]:
    """Builds an engine that samples with ``trained``, or with the model that ``load_copy`` returns."""

    def build(
        tokenizer: Any, end_token: int, *, batch_size: int = 256, trained: Any = None, load_copy: Any = None
    ) -> HfEngine:
        return HfEngine(
            EngineSetup(
                config=RunConfig(rollout=RolloutConfig(batch_size=batch_size)),
                model="tiny",
                tokenizer=tokenizer,
                end_tokens=frozenset({end_token}),
                device=torch.device("cpu"),
                rank=0,
                world_size=1,
                gather=lambda value: [value],
                message=print,
                trained=trained,
                load_copy=load_copy,
            )
        )

    return build
