"""The rank of this process. Collectives between real processes are tested in test_several_ranks.py."""

import os

import pytest
import torch

from skyrl_core.errors import PluginLoadError, SkyrlError
from skyrl_train.ranks.ranks import ALONE, RankLost, Ranks, is_broken_collective
from skyrl_train.ranks.shared_error import SharedError


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in ALONE:
        monkeypatch.delenv(name, raising=False)


def test_a_single_process_needs_no_launcher_even_twice():
    for _ in range(2):
        ranks = Ranks.start()
        assert (ranks.rank, ranks.world_size, ranks.is_main) == (0, 1, True)
        assert os.environ["WORLD_SIZE"] == "1"  # DeepSpeed and accelerate look there
        ranks.end_run()
        assert not ALONE.keys() & os.environ.keys()


def test_collectives_of_one_process_return_its_values(one_rank):
    values = torch.tensor([1.0, 2.0])
    assert one_rank.gather({"a": 1}) == [{"a": 1}]
    assert one_rank.broadcast("x") == "x"
    for reduced in (one_rank.sum(values), one_rank.max(values)):
        assert torch.equal(reduced, values)
        assert reduced.data_ptr() != values.data_ptr()  # a copy, as with several ranks


def test_the_environment_of_a_launcher_is_used_and_kept(monkeypatch):
    for name, value in {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    ranks = Ranks()
    assert (ranks.rank, ranks.world_size, ranks.local_world_size, ranks.is_main) == (3, 8, 2, False)
    ranks.end_run()
    assert os.environ["RANK"] == "3"


@pytest.mark.parametrize("failing", [{0}, {1}, {0, 1}])
def test_an_error_of_one_rank_is_the_same_error_on_all(on_ranks, failing):
    def work(ranks):
        def compute():
            if ranks.rank in failing:
                raise PluginLoadError(f"the worker of rank {ranks.rank} died")
            return ranks.rank

        with pytest.raises(SharedError) as error:
            ranks.together(compute)
        assert ranks.can_continue_after(error.value)
        assert not ranks.can_continue_after(SkyrlError("of this rank only"))
        assert ranks.together(lambda: ranks.rank) == ranks.rank  # no rank waits in another collective
        return str(error.value), error.value.exit_code

    first = min(failing)
    assert on_ranks(2, work) == [(f"on rank {first}: the worker of rank {first} died", PluginLoadError.exit_code)] * 2


def test_one_process_can_continue_after_any_error(one_rank):
    with pytest.raises(ZeroDivisionError) as error:
        one_rank.together(lambda: 1 // 0)
    assert one_rank.can_continue_after(error.value)


def test_reduced_values_carry_no_gradient(one_rank):
    assert not one_rank.sum(torch.ones(2, requires_grad=True)).requires_grad


@pytest.mark.parametrize(
    ("error", "broken"),
    [
        (RankLost("gone"), True),
        (RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer"), True),
        (torch.distributed.DistNetworkError("the store does not answer"), True),
        (torch.distributed.DistBackendError("NCCL error: ncclRemoteError: a call failed"), True),
        (torch.distributed.DistBackendError("NCCL error: out of memory"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (SkyrlError("gloo/transport"), False),
    ],
)
def test_a_collective_broken_by_another_rank_differs_from_an_error_of_this_rank(error, broken):
    assert is_broken_collective(error) is broken
