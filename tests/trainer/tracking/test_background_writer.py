"""The background writer runs one job at a time, in order, and loses no error."""

import threading

import pytest

from skyrl_train.tracking.atomic_file import RunFolderError
from skyrl_train.tracking.background_writer import BackgroundWriter


@pytest.fixture
def writer():
    made = BackgroundWriter()
    yield made
    made.close()


def test_the_caller_continues_while_a_job_runs(writer):
    caller_continued, written = threading.Event(), []

    def work():
        assert caller_continued.wait(30)
        written.append(threading.current_thread().name)

    writer.start(work)
    assert written == []
    caller_continued.set()
    writer.wait()
    assert written == ["skyrl-writer_0"]


def test_a_second_job_waits_for_the_first(writer):
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
    assert asking.is_alive()  # memory holds one job, not two
    first_may_end.set()
    asking.join(30)
    writer.wait()
    assert written == ["first", "second"]


@pytest.mark.parametrize("then", ["wait", "start"])
def test_the_next_call_raises_the_error_once(writer, then):
    def fail():
        raise RunFolderError("the disk is full")

    writer.start(fail)
    with pytest.raises(RunFolderError, match="the disk is full"):
        writer.wait() if then == "wait" else writer.start(lambda: None)
    writer.wait()


def test_another_thread_can_wait_for_the_running_job(writer):
    may_end = threading.Event()

    def fail():
        assert may_end.wait(30)
        raise RunFolderError("the disk is full")

    assert writer.latest().result(0) is None
    writer.start(fail)
    latest = writer.latest()
    assert not latest.done()
    may_end.set()
    for wait in (lambda: latest.result(30), writer.wait):  # both raise the error
        with pytest.raises(RunFolderError, match="the disk is full"):
            wait()
