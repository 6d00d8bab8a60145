"""Weights of models whose checkpoints differ from transformers' module reach real vLLM, more than once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.trainer.fixtures.family_table import sampled_by_vllm

from skyrl_core.errors import SkyrlError
from skyrl_train.ranks.ranks import Ranks

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    from vllm.distributed.parallel_state import destroy_model_parallel

    destroy_model_parallel()  # those of a dense model, from another test, have no group for experts
    started = Ranks.start()
    yield started
    started.end_run()


@pytest.mark.parametrize("kind", ["mixtral", "glm4_moe"])  # fused experts; a buffer that routes tokens to experts
def test_fused_experts_arrive_and_samples_agree(kind: str, tmp_path: Path, ranks: Ranks) -> None:
    assert "rollout engine vllm: log-probs of samples are" in sampled_by_vllm(kind, tmp_path, ranks)


def test_a_model_that_vllm_takes_from_transformers_is_refused_before_its_classes_change(
    tmp_path: Path, ranks: Ranks
) -> None:
    from transformers import GPTNeoXModel

    call = GPTNeoXModel.__call__
    with pytest.raises(SkyrlError, match=r"no implementation of GPTNeoXForCausalLM.*set rollout.engine"):
        sampled_by_vllm("gpt_neox", tmp_path, ranks)
    assert GPTNeoXModel.__call__ is call
