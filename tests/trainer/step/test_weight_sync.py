"""Weights reach a rollout engine that holds a copy, and every failure to do so stops the run."""

import copy

import pytest
import torch
from tests.trainer.fixtures.engine_setup import engine_setup

from skyrl_train.rollout.hf.engine import HfEngine
from skyrl_train.rollout.rollout_engine import Sampling
from skyrl_train.step.weight_sync import StaleEngineError, WeightSync

SAMPLING = Sampling(max_new_tokens=4)
PROBE = [(3, 9, 4, 1, 17, 30), (5, 2)]


class Engine(HfEngine):
    """The real engine; ``keep`` decides which tensors of a sync it loads."""

    keep = staticmethod(lambda name, version: True)

    def sync_weights(self, weights, policy_version):
        class Some:
            def named_tensors(this):
                yield from ((n, t) for n, t in weights.named_tensors() if self.keep(n, policy_version))

        super().sync_weights(Some(), policy_version)


class TwoCopies(Engine):
    """An engine whose second copy of the weights never changes."""

    def __init__(self, setup):
        super().__init__(setup)
        self._second = Engine(setup)

    def log_probs(self, sequences):
        return super().log_probs(sequences) + self._second.log_probs(sequences)


class Trained:
    """The part of ZeroEngine that the sync uses."""

    def __init__(self, engine, model):
        self.policy, self.model, self.forward = engine.policy, engine.policy.model, engine.forward
        self.named_tensors = engine.policy.model.named_parameters


@pytest.fixture
def trained(plain_engine, one_rank, small_model):
    return Trained(plain_engine(one_rank), small_model)


@pytest.fixture
def sync(trained, small_model, tokenizer, one_rank):
    def build(keep=None, *, kind=Engine, probe=PROBE, tolerance=1e-3):
        setup = engine_setup(tokenizer, {1}, load_copy=lambda: copy.deepcopy(small_model))
        engine = kind(setup)
        if keep is not None:
            engine.keep = keep
        return WeightSync(engine, trained, one_rank, probe=probe, tolerance=tolerance)

    return build


def train(trained):
    with torch.no_grad():
        for parameter in trained.policy.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))


def test_received_weights_agree_up_to_rounding(sync, trained):
    syncing = sync()
    syncing.start(0, SAMPLING)
    train(trained)
    assert syncing.update(1)["probe_deviation"] < 1e-5


def test_the_temperature_of_the_trainer_survives_the_probe(sync, trained):
    trained.policy.temperature = 0.7
    sync().start(0, SAMPLING)
    assert trained.policy.temperature == 0.7


def test_an_engine_that_ignores_updates_is_found_at_the_start(sync):
    with pytest.raises(StaleEngineError, match="ignores weight updates"):
        sync(lambda name, version: False).start(0, SAMPLING)


def test_an_engine_that_becomes_stale_stops_the_run(sync, trained):
    syncing = sync(lambda name, version: version < 1)
    syncing.start(0, SAMPLING)
    train(trained)
    with pytest.raises(StaleEngineError, match=r"optimizer step 1 .* stale"):
        syncing.update(1)


def test_one_missing_tensor_stops_the_run(sync, trained):
    syncing = sync(lambda name, version: version < 1 or "layers.1.mlp.down_proj" not in name)
    syncing.start(0, SAMPLING)
    train(trained)
    with pytest.raises(StaleEngineError):
        syncing.update(1)


def test_one_stale_copy_of_the_weights_among_several_stops_the_run(sync, trained):
    syncing = sync(kind=TwoCopies)
    assert syncing.update(0)["probe_deviation"] < 1e-5
    train(trained)
    with pytest.raises(StaleEngineError, match="optimizer step 1"):
        syncing.update(1)


def test_nan_log_probs_stop_the_run(sync, trained):
    syncing = sync()
    syncing.start(0, SAMPLING)
    with torch.no_grad():
        next(iter(trained.policy.parameters())).fill_(float("nan"))
    with pytest.raises(StaleEngineError, match="inf"):
        syncing.update(1)


def test_without_a_probe_nothing_is_compared(sync):
    syncing = sync(lambda name, version: False, probe=())
    syncing.start(0, SAMPLING)
    assert syncing.update(1) == {}
