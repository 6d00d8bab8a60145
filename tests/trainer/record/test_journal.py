"""The record of a run's end, however it ends; ranks other than 0 write nothing."""

import json
import logging

import pytest

from skyrl_core.errors import SkyrlError
from skyrl_train.observers.observers import Observers
from skyrl_train.record.journal import Journal
from skyrl_train.step.evaluation import Answer, Evaluation
from skyrl_train.tracking.run_folder import RunFolder
from skyrl_train.tracking.tracker import RunInfo, Trackers


class Watcher:
    """A tracker that keeps the summaries."""

    def __init__(self):
        self.summaries, self.closed = [], 0

    def start(self, info): ...
    def log_step(self, step, metrics): ...
    def log_evaluation(self, step, metrics, final): ...
    def message(self, text): ...

    def finish(self, summary):
        self.summaries.append(summary)

    def close(self):
        self.closed += 1


@pytest.fixture
def opened(tmp_path):
    watcher = Watcher()

    def make(*, start_step=0, resume=False):
        folder = RunFolder.resume(tmp_path / "run") if resume else RunFolder.create(tmp_path / "run", title="t")
        folder.start_run({"title": "t", "loss": {"id": "a:b@1"}, "total_steps": 4})
        tracker = Trackers([watcher])
        info = RunInfo(
            run_folder=folder.path,
            title="t",
            loss="a:b@1",
            total_steps=4,
            config={},
            world_size=1,
            start_step=start_step,
        )
        folder.record.start(info)
        tracker.start(info)
        return Journal(
            folder.path,
            run_folder=folder,
            tracker=tracker,
            observers=Observers(),
            start_step=start_step,
            resume_command="resume it",
        )

    return make, watcher


def evaluation(accuracy, *texts):
    answers = [
        Answer(problem=("", i), question=f"q{i}", expected="1", text=text, reward=1.0, correct=text == "1")
        for i, text in enumerate(texts)
    ]
    return Evaluation(metrics={"accuracy": accuracy}, answers=answers)


def run_json(tmp_path):
    return json.loads((tmp_path / "run" / "run.json").read_text())


def test_a_finished_run_shows_answers_before_and_after_spread_over_the_questions(opened, tmp_path):
    make, watcher = opened
    with make() as journal:
        journal.evaluation(0, evaluation(0.0, *"aaaaaaa"), final=False)
        journal.step(1, {"loss/total": 1.0})
        journal.evaluation(1, evaluation(1.0, *"1111111"), final=True)
    (summary,) = watcher.summaries
    assert (summary.outcome, summary.steps, summary.before, summary.after) == (
        "finished",
        1,
        {"accuracy": 0.0},
        {"accuracy": 1.0},
    )
    assert [answer.question for answer in summary.answers] == ["q0", "q2", "q4"]
    assert [(answer.before, answer.after) for answer in summary.answers] == [("a", "1")] * 3
    assert summary.resume_command is None
    assert run_json(tmp_path)["outcome"] == "finished"


def test_a_resumed_run_still_knows_its_evaluation_before_training(opened, tmp_path):
    make, watcher = opened
    interrupted = make()
    interrupted.evaluation(0, evaluation(0.25, "a", "1"), final=False)
    interrupted.step(1, {"loss/total": 1.0})
    interrupted.__exit__(KeyboardInterrupt, KeyboardInterrupt())
    with make(start_step=1, resume=True) as journal:
        journal.step(2, {"loss/total": 1.0})
        journal.evaluation(2, evaluation(0.5, "1", "1"), final=True)
    summary = watcher.summaries[-1]
    assert (summary.before, summary.after) == ({"accuracy": 0.25}, {"accuracy": 0.5})
    assert run_json(tmp_path)["before"] == {"accuracy": 0.25}
    # The earlier answers are not recorded; only the later ones are shown.
    assert [(answer.before, answer.after) for answer in summary.answers] == [(None, "1"), (None, "1")]


@pytest.mark.parametrize(
    ("error", "outcome"), [(KeyboardInterrupt(), "interrupted"), (SkyrlError("no"), "failed"), (OSError(), "failed")]
)
@pytest.mark.parametrize("saved", [True, False])
def test_a_run_that_ends_early_has_a_resume_command_if_it_saved(opened, tmp_path, error, outcome, saved):
    make, watcher = opened
    journal = make()
    if saved:
        journal.checkpoint(tmp_path / "step_000001")
    with pytest.raises(type(error)), journal:
        raise error
    (summary,) = watcher.summaries
    assert summary.outcome == outcome == run_json(tmp_path)["outcome"]
    assert summary.resume_command == ("resume it" if saved else None)


def test_the_folder_is_released_and_trackers_are_closed_even_if_the_end_cannot_be_recorded(
    opened, tmp_path, monkeypatch, caplog
):
    make, watcher = opened

    def full(*_):
        raise SkyrlError("No space left on device")

    monkeypatch.setattr(RunFolder, "end_run", full)
    # The error in training must be the one that is raised.
    with caplog.at_level(logging.WARNING), pytest.raises(KeyError), make():
        raise KeyError("the first error")
    assert "No space left on device" in caplog.text
    assert watcher.closed == 1
    assert not RunFolder(tmp_path / "run").is_owned()
    with pytest.raises(SkyrlError, match="No space left"), make(resume=True):
        pass


def test_a_second_signal_while_samples_are_written_still_records_the_outcome(opened, tmp_path, monkeypatch):
    make, watcher = opened
    journal = make()

    def insists():
        raise KeyboardInterrupt

    monkeypatch.setattr(journal, "wait_for_samples", insists)
    with pytest.raises(KeyboardInterrupt), journal:
        pass
    assert run_json(tmp_path)["outcome"] == "interrupted"
    assert watcher.closed == 1
    assert not RunFolder(tmp_path / "run").is_owned()


def test_a_failing_report_does_not_affect_the_outcome(opened, tmp_path, monkeypatch, caplog):
    def fails(_):
        raise ZeroDivisionError("no ticks")

    monkeypatch.setattr("skyrl_train.record.journal.write_report", fails)
    make, watcher = opened
    with caplog.at_level(logging.WARNING), make():
        pass
    assert "report.html could not be written: ZeroDivisionError: no ticks" in caplog.text
    assert watcher.summaries[0].outcome == run_json(tmp_path)["outcome"] == "finished"


@pytest.mark.parametrize("error", [SkyrlError("the quota is used up"), ZeroDivisionError("a bug")])
@pytest.mark.parametrize("failing", ["finish", "write_report", "train_end"])
def test_what_fails_after_the_end_is_recorded_does_not_make_a_run_fail(
    opened, tmp_path, monkeypatch, caplog, failing, error
):
    make, watcher = opened

    def fail(*_):
        raise error

    target = {"finish": (watcher, "finish"), "train_end": (Observers, "train_end")}.get(failing)
    monkeypatch.setattr(*(target or ("skyrl_train.record.journal.write_report",)), fail)
    with caplog.at_level(logging.WARNING), make():
        pass
    assert str(error) in caplog.text
    assert run_json(tmp_path)["outcome"] == "finished"
    assert watcher.closed == 1


def test_failed_evaluations_survive_a_resume_except_that_of_its_step(opened, tmp_path):
    make, watcher = opened
    failed = Evaluation(metrics={}, answers=[], errors=("the judge is down",))
    stopped = make()
    for step in range(3):
        stopped.evaluation(step, failed, final=False)
    stopped.__exit__(KeyboardInterrupt, KeyboardInterrupt())
    with make(start_step=2, resume=True) as journal:
        assert not journal.restore_evaluation(final=False)
        journal.evaluation(2, evaluation(0.5, "1"), final=True)
    assert [failure["step"] for failure in run_json(tmp_path)["failed_evaluations"]] == [0, 1]
    # The answers before training are unknown, because that evaluation failed.
    assert [(answer.before, answer.after) for answer in watcher.summaries[-1].answers] == [(None, "1")]


def test_a_changed_loss_is_accepted_in_the_command_until_a_checkpoint_has_it(opened, tmp_path):
    make, _ = opened
    journal = make()
    journal.last_checkpoint, journal.accepts = tmp_path / "step_000001", "accept_loss_change"
    assert journal.resume_hint().endswith("\n  resume it --accept-loss-change")
    journal.checkpoint(tmp_path / "step_000002")
    assert journal.resume_hint().endswith("\n  resume it")


def test_the_journal_of_another_rank_writes_nothing(tmp_path):
    with Journal(tmp_path / "run") as journal:
        journal.step(1, {"a": 1.0})
        journal.evaluation(1, evaluation(1.0, "1"), final=True)
        journal.message("hello")
        journal.checkpoint(tmp_path / "step_000001")
    assert list(tmp_path.iterdir()) == []
    assert journal.checkpoints == tmp_path / "run" / "checkpoints"
