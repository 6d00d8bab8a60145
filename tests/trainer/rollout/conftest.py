"""A fixture that builds `hf` rollout engines without a trainer."""

from collections.abc import Callable
from typing import Any

import pytest
from tests.trainer.fixtures.engine_setup import engine_setup

from skyrl_train.config.schema import RolloutConfig, RunConfig
from skyrl_train.rollout.hf.engine import HfEngine


@pytest.fixture(scope="session")
def hf_engine() -> Callable[..., HfEngine]:
    """Builds an engine that samples with ``trained``, or with the model that ``load_copy`` returns."""

    def build(
        tokenizer: Any, end_token: int, *, batch_size: int = 256, trained: Any = None, load_copy: Any = None
    ) -> HfEngine:
        return HfEngine(
            engine_setup(
                tokenizer,
                {end_token},
                config=RunConfig(rollout=RolloutConfig(batch_size=batch_size)),
                trained=trained,
                load_copy=load_copy,
            )
        )

    return build
