"""One piece of work at a time, in order, and no error is lost."""

import threading

import pytest

from skyrl_train.tracking.atomic_file import RunFolderError
from skyrl_train.tracking.background_writer import BackgroundWriter


@pytest.fixture
def writer():
    made = BackgroundWriter()
    yield made
    made.close()


def test_the_caller_goes_on_while_a_piece_is_written(writer):
    caller_went_on, written = threading.Event(), []

    def work():
        assert caller_went_on.wait(30)
        written.append(threading.current_thread().name)

    writer.start(work)
    assert written == []
    caller_went_on.set()
    writer.wait()
    assert written == ["skyrl-writer_0"]


def test_a_second_piece_waits_for_the_first(writer):
    first_may_end, second_asked, written = threading.Event(), threading.Event(), []

    def first():
        assert first_may_end.wait(30)
        written.append("first")

    def ask():
        second_asked.set()
        writer.start(lambda: written.append("second"))

    writer.start(first)
    asking = threading.Thread(target=ask)
    asking.start()
    assert second_asked.wait(30)
    asking.join(0.2)
    assert asking.is_alive()  # memory holds one piece, not two
    first_may_end.set()
    asking.join(30)
    writer.wait()
    assert written == ["first", "second"]


@pytest.mark.parametrize("then", ["wait", "start"])
def test_an_error_is_raised_once_by_what_is_called_next(writer, then):
    def fail():
        raise RunFolderError("the disk is full")

    writer.start(fail)
    with pytest.raises(RunFolderError, match="the disk is full"):
        writer.wait() if then == "wait" else writer.start(lambda: None)
    writer.wait()


def test_another_thread_may_come_after_what_was_begun(writer):
    may_end = threading.Event()

    def fail():
        assert may_end.wait(30)
        raise RunFolderError("the disk is full")

    assert writer.latest().result(0) is None
    writer.start(fail)
    latest = writer.latest()
    assert not latest.done()
    may_end.set()
    for wait in (lambda: latest.result(30), writer.wait):  # each of them hears of it
        with pytest.raises(RunFolderError, match="the disk is full"):
            wait()
