"""The report page of a run."""

import re
from html.parser import HTMLParser

import pytest

from skyrl_train.tracking.atomic_file import RunFolderError
from skyrl_train.tracking.html_report import write_report
from skyrl_train.tracking.metrics_jsonl import MetricsRecord
from skyrl_train.tracking.rollout_files import save_rollouts
from skyrl_train.tracking.run_folder import RunFolder
from skyrl_train.tracking.tracker import AnswerPair, RunInfo, RunSummary

EVIL = "<script>alert(1)</script> {{ 7*7 }} \x1b[31m &amp;"
SHOWN = r"<script>alert(1)</script> {{ 7*7 }} \x1b[31m &amp;"


class Page(HTMLParser):
    """The text of a page, its tags, and the attributes that could load something."""

    VOID = frozenset({"meta", "br", "input"})

    def __init__(self, markup):
        super().__init__()
        self.text, self.tags, self.loads, self.open = "", [], [], []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loads += [value for name, value in attributes if name in ("src", "href", "action", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text += f"{data} "


def write_run(path, *, steps=20, end=True):
    folder = RunFolder.create(path, title="t")
    folder.write_config({"model": "tiny", "note": "<b>"})
    folder.start_run(
        {
            "title": EVIL,
            "loss": {
                "id": "skyrl-core:sum@1",
                "name": "sum",
                "params": {},
                "components": [{"name": "gspo", "params": {"clip_low": 0.0003, "clip_high": None}}],
            },
            "model": "tiny",
            "total_steps": 20,
            "packages": {"torch": "2.13.0"},
            "git": {"commit": "0123456789abcdef", "dirty": True},
        }
    )
    tracker = MetricsRecord()
    tracker.start(RunInfo(run_folder=path, title="t", loss="l", total_steps=20, config={}))
    tracker.log_evaluation(0, {"accuracy": 0.469, "accuracy/standard_error": 0.035}, False)
    for step in range(1, steps + 1):
        tracker.log_step(step, {"reward/mean": step / 20, "entropy": 1 / step, "odd/metric": 7.0, "kl": float("nan")})
        record = {"prompt": EVIL, "response": f"answer {step}", "reward": 1.0, "error": None}
        save_rollouts(folder.rollouts, step, {}, [record], keep=2)
    tracker.log_evaluation(steps, {"accuracy": 0.75}, True)
    tracker.close()
    if end:
        pair = AnswerPair(question=EVIL, expected="4", before="5", before_correct=False, after="", after_correct=True)
        folder.end_run(
            RunSummary(
                run_folder=path,
                steps=20,
                seconds=75,
                before={"accuracy": 0.469},
                after={"accuracy": 0.781},
                answers=(pair,),
            )
        )
    return folder


def test_the_report_shows_the_complete_run(tmp_path):
    write_run(tmp_path / "run").close()
    path = write_report(tmp_path / "run")
    assert path == tmp_path / "run" / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    text = " ".join(page.text.split())
    assert page.open == []
    for fact in (
        "Finished: 20 of 20 steps in 1:15.", "Loss sum + gspo", "clip_low 0.0003 clip_high none", "skyrl-core:sum@1",
        "0123456789ab with changes", "accuracy 46.9% 78.1% +31.2 points", "Expected 4", "(empty)", "reward 1.00",
        "entropy 0.0500", "metric 7.00", "right 2", "answer 20", "answer 19", "note: <b>", "torch 2.13.0",
    ):  # fmt: skip
        assert fact in text, fact
    assert "answer 18" not in text


def test_the_result_comes_first_then_the_curves_then_the_facts(tmp_path):
    write_run(tmp_path / "run").close()
    text = " ".join(Page(write_report(tmp_path / "run").read_text(encoding="utf-8")).text.split())
    parts = (
        "Accuracy on held-out problems 46.9% → 78.1% +31.2 points",
        "Finished: 20 of",
        "Curves",
        "Samples",
        "Facts",
    )
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


def test_an_error_is_shown_with_the_command_that_resumes_the_run(tmp_path):
    folder = write_run(tmp_path / "run", steps=3, end=False)
    error = "OutOfMemory: 12 GB are missing"
    command = "skyrl train --resume run"
    folder.end_run(
        RunSummary(run_folder=folder.path, steps=3, seconds=5, outcome="failed", error=error, resume_command=command)
    )
    folder.close()
    text = " ".join(Page(write_report(folder.path).read_text(encoding="utf-8")).text.split())
    assert f"Failed: 3 of 20 steps in 0:05. {error} To resume: {command}" in text


def test_the_page_loads_nothing_and_executes_no_model_output(tmp_path):
    write_run(tmp_path / "run").close()
    markup = write_report(tmp_path / "run").read_text(encoding="utf-8")
    page = Page(markup)
    assert page.tags.count("script") == 1
    assert page.text.count(SHOWN) == 5  # window title, page title, question and two prompts
    assert page.loads == []
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(", markup)


def test_a_metric_without_values_has_no_chart(tmp_path):
    write_run(tmp_path / "run").close()
    assert "KL" not in Page(write_report(tmp_path / "run").read_text(encoding="utf-8")).text


def test_a_run_in_progress_and_a_killed_run_are_distinguished(tmp_path):
    folder = write_run(tmp_path / "run", steps=3, end=False)
    text = " ".join(Page(write_report(tmp_path / "run").read_text()).text.split())
    assert "running" in text
    assert "Running: 3 of 20 steps." in text
    assert "after step 3" in text
    assert "accuracy 46.9% ± 3.5 75.0% +28.1 points" in text
    folder.close()
    assert "killed" in Page(write_report(tmp_path / "run").read_text()).text


def test_a_run_that_has_just_started_has_a_report(tmp_path):
    with RunFolder.create(tmp_path / "run", title="t") as folder:
        folder.start_run({})
        text = Page(write_report(folder.path).read_text()).text
    assert "No step has been logged yet." in text


def test_an_incomplete_line_is_mentioned(tmp_path):
    write_run(tmp_path / "run").close()
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 21, "ki')
    assert "Skipped 1 unreadable line of metrics.jsonl" in write_report(tmp_path / "run").read_text()


def test_a_folder_without_a_run_is_an_error(tmp_path):
    with pytest.raises(RunFolderError, match=r"no run in .*: it has neither run\.json nor metrics\.jsonl"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []
