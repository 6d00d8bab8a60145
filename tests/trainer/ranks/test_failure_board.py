"""The failure board on a real store, and after the loss of the store."""

import pytest
from torch.distributed import TCPStore

from skyrl_train.ranks import failure_board as notices
from skyrl_train.ranks.failure_board import ExitReason, FailureBoard


class Rank:
    def __init__(self, rank, world_size=2):
        self.rank, self.world_size = rank, world_size


@pytest.fixture
def boards(monkeypatch):
    """The boards of two ranks, and their store."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    both = []
    for rank in range(2):
        monkeypatch.setattr(notices, "_boards", iter([0]))  # as in two processes
        both.append(FailureBoard(Rank(rank)))
    return [*both, store]


def notice(rank, message="why\nand how"):
    return ExitReason(rank=rank, message=message, exit_code=3)


def test_a_posted_reason_is_read_by_other_ranks(boards):
    first, second, _ = boards
    assert second.read() is None
    first.post(notice(0))
    assert second.read() == notice(0)
    assert second.read().line == "why"


def test_only_the_first_claim_succeeds(boards):
    first, second, _ = boards
    assert [second.claim(), first.claim(), second.claim()] == [1, 1, 1]


def test_the_end_of_rank_0_can_be_waited_for(boards, monkeypatch):
    first, second, _ = boards
    monkeypatch.setattr(notices, "READERS", 0.0)
    assert second.read(patience=0.3) is None
    first.close()
    second.wait_until_closed(60.0)


def test_the_next_run_of_a_process_has_an_empty_board(boards, monkeypatch):
    boards[0].post(notice(0))
    monkeypatch.setattr(notices, "_boards", iter([1]))
    assert FailureBoard(Rank(0)).read() is None


def test_a_board_without_its_store_is_empty_but_remembers_the_reason_it_read(boards):
    reader, other, store = boards
    other.post(notice(1))
    assert reader.read() == notice(1)
    boards.clear()
    del store
    assert reader.read() == notice(1)
    assert (reader.claim(), other.claim()) == (0, 1)


def test_a_board_without_its_store_keeps_the_reason_of_its_rank(boards):
    reader, other, store = boards
    boards.clear()
    del store
    other.post(notice(1))
    assert other.read() == notice(1)
    assert reader.read() is None


def test_a_single_process_needs_no_store():
    board = FailureBoard(Rank(0, world_size=1))
    board.post(notice(0))
    assert board.read() == notice(0)
