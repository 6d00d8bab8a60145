"""Our classes fit vLLM's NCCL sender; the transfer itself needs GPUs."""

import importlib

import pytest
import torch

from skyrl_train.rollout.vllm_server.client import Server
from skyrl_train.rollout.vllm_server.nccl_weights import PASSES, Client, Source, _address
from skyrl_train.rollout.weights import ModelWeights

pytestmark = pytest.mark.vllm


class Counted:
    def __init__(self):
        self._weights, self.seen = ModelWeights(torch.nn.Linear(3, 2)), 0
        self.model = self._weights.model

    def named_tensors(self):
        for pair in self._weights.named_tensors():
            self.seen += 1
            yield pair


def test_vllm_accepts_our_client_address_and_source():
    pytest.importorskip("vllm", reason="vLLM is not installed: `nox -s vllm` has it")
    # Not skipped if vLLM moves its classes: then our side must follow.
    base = importlib.import_module("vllm.distributed.weight_transfer.base")
    nccl = importlib.import_module("vllm.distributed.weight_transfer.nccl_engine")
    assert isinstance(Client([], [], None), base.VLLMWeightSyncClient)
    info = nccl.NCCLTrainerInitInfo(rank=0, world_size=3, **_address(Server("http://127.0.0.1:8000", timeout=1)))
    assert info.is_sender
    assert info.master_address == "127.0.0.1"
    source = Source(Counted())
    sent = list(nccl.NCCLTrainerWeightTransferEngine._checked_iter(source, source.metadata()))
    assert [name for name, _ in sent] == ["weight", "bias"]


@pytest.mark.parametrize("passes", range(PASSES + 1))
def test_after_a_failure_the_other_ranks_find_every_pass_iterated(passes):
    weights = Counted()
    source = Source(weights)
    for number in range(passes):
        tensors = iter(source)
        next(tensors)
        if number + 1 < passes:
            list(tensors)
    source.drain()
    assert weights.seen == PASSES * 2
