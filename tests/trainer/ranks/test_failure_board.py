"""The board on a real store: one notice for all, and a store that is gone."""

import pytest
from torch.distributed import TCPStore

from skyrl_train.ranks import failure_board as notices
from skyrl_train.ranks.failure_board import ExitReason, FailureBoard


class Rank:
    def __init__(self, rank, world_size=2):
        self.rank, self.world_size = rank, world_size


@pytest.fixture
def boards(monkeypatch):
    """The boards of two ranks, and the store as its keeper has it."""
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


def test_what_one_rank_posts_the_others_read(boards):
    first, second, _ = boards
    assert second.read() is None
    first.post(notice(0))
    assert second.read() == notice(0)
    assert second.read().line == "why"


def test_only_the_first_that_claims_the_board_has_it(boards):
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


def test_a_board_whose_store_is_gone_is_empty_and_remembers_what_was_read(boards):
    reader, other, store = boards
    other.post(notice(1))
    assert reader.read() == notice(1)
    boards.clear()
    del store
    assert reader.read() == notice(1)
    assert (reader.claim(), other.claim()) == (0, 1)


def test_a_board_whose_store_is_gone_has_what_its_own_rank_posts(boards):
    reader, other, store = boards
    boards.clear()
    del store
    other.post(notice(1))
    assert other.read() == notice(1)
    assert reader.read() is None


def test_a_process_alone_needs_no_store():
    board = FailureBoard(Rank(0, world_size=1))
    board.post(notice(0))
    assert board.read() == notice(0)
