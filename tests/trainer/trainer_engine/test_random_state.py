import os
import random

import numpy as np
import torch

from skyrl_train.trainer_engine import random_state
from skyrl_train.trainer_engine.snapshot import Snapshot


def numbers():
    return [random.random(), random.gauss(0, 1), *np.random.randn(3), *torch.randn(3).tolist()]


def save(folder, rank):
    snapshot = Snapshot()
    random_state.add(snapshot, folder, rank)
    snapshot.write()


def test_every_generator_is_restored(tmp_path):
    random_state.seed(3)
    random.gauss(0, 1), np.random.randn(3)  # both generators now cache the second of two normal numbers
    save(tmp_path, 0)
    wanted = numbers()
    random_state.seed(4)
    assert random_state.restore(tmp_path, 0)
    assert numbers() == wanted


def test_each_rank_has_a_separate_state(tmp_path):
    wanted = {}
    for rank in (0, 1):
        random_state.seed(rank)
        save(tmp_path, rank)
        wanted[rank] = numbers()
    for rank in (1, 0):
        assert random_state.restore(tmp_path, rank)
        assert numbers() == wanted[rank]
    assert wanted[0] != wanted[1]


def test_a_seed_determines_every_generator(tmp_path):
    random_state.seed(2**40)
    first = numbers()
    random_state.seed(2**40)
    assert numbers() == first


def test_restoring_from_a_checkpoint_without_states_returns_false(tmp_path):
    assert not random_state.restore(tmp_path, 0)
    assert os.listdir(tmp_path) == []
