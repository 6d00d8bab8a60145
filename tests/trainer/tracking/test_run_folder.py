"""The run folder: creation, ownership, configuration and run.json."""

import json
import os
import re
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from skyrl_train.config.yaml_text import parse_yaml
from skyrl_train.tracking import run_folder
from skyrl_train.tracking.atomic_file import RunFolderError
from skyrl_train.tracking.run_folder import RunFolder
from skyrl_train.tracking.tracker import AnswerPair, RunSummary


def test_the_default_name_is_the_title_and_the_time(tmp_path):
    with RunFolder.create(None, title="acme-losses:my loss/2", root=tmp_path / "runs") as folder:
        assert folder.path.parent == tmp_path / "runs"
        assert re.fullmatch(r"acme-losses-my-loss-2-\d{8}-\d{6}", folder.path.name)


def test_runs_started_in_the_same_second_get_different_folders(tmp_path, monkeypatch):
    class Frozen(datetime):
        @classmethod
        def now(cls):
            return datetime(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr(run_folder, "datetime", Frozen)
    names = [RunFolder.create(None, title="gspo", root=tmp_path).path.name for _ in range(3)]
    assert names == ["gspo-20260102-030405", "gspo-20260102-030405-2", "gspo-20260102-030405-3"]


def test_a_new_run_accepts_only_an_empty_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    RunFolder.create(tmp_path / "empty", title="t").close()
    RunFolder.create(tmp_path / "empty", title="t").close()  # the lock file left by the first run does not count
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "run.json").write_text("{}")
    with pytest.raises(RunFolderError, match=r"used is not empty: add --resume .* choose another run_folder"):
        RunFolder.create(tmp_path / "used", title="t")


def test_a_refused_folder_is_not_left_locked(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(RunFolderError, match="not empty"):
        RunFolder.create(tmp_path, title="t")
    assert not RunFolder(tmp_path).is_owned()


def test_a_file_instead_of_a_folder_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="file is a file"):
        RunFolder.create(tmp_path / "file", title="t")
    with pytest.raises(RunFolderError, match=r"cannot write .*file/run: Not a directory"):
        RunFolder.create(tmp_path / "file" / "run", title="t")


def test_resuming_requires_a_run(tmp_path):
    with pytest.raises(RunFolderError, match=r"no run to resume in .*nothing"):
        RunFolder.resume(tmp_path / "nothing")
    (tmp_path / "run.json").write_text("{}")
    with RunFolder.resume(tmp_path) as folder:
        assert folder.is_owned()


HOLD = """
import sys, time
from skyrl_train.tracking.run_folder import RunFolder
folder = RunFolder.create(sys.argv[1], title="t")
folder.start_run({})
print("ready", flush=True)
time.sleep(60)
"""


def test_a_second_process_is_refused_with_the_pid_of_the_first(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"ready\n"
    try:
        assert RunFolder(tmp_path).is_owned()
        with pytest.raises(RunFolderError, match=f"in use by process {holder.pid}"):
            RunFolder.create(tmp_path, title="t")
        with pytest.raises(RunFolderError, match=f"in use by process {holder.pid}"):
            RunFolder.resume(tmp_path)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    RunFolder.resume(tmp_path).close()  # the lock is released when its process exits


FORK = """
import os, sys, time
from skyrl_train.tracking.run_folder import RunFolder
folder = RunFolder.create(sys.argv[1], title="t")
folder.start_run({})
child = os.fork()
if child == 0:
    print("ready", os.getpid(), flush=True)
    time.sleep(60)
time.sleep(60)
"""


def test_a_forked_worker_that_outlives_a_killed_run_does_not_keep_it_locked(tmp_path):
    owner = subprocess.Popen([sys.executable, "-c", FORK, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    worker = int(owner.stdout.readline().split()[1])
    try:
        assert RunFolder(tmp_path).is_owned()
        owner.kill()
        owner.wait()
        os.kill(worker, 0)  # it is still alive
        RunFolder.resume(tmp_path).close()
    finally:
        os.kill(worker, signal.SIGKILL)
        owner.stdout.close()


def test_the_configuration_keeps_its_order_and_types(tmp_path):
    with RunFolder.create(tmp_path, title="t") as folder:
        folder.write_config({"trainer": {"steps": 3, "betas": (0.9, 0.95)}, "model": Path("tiny"), "é": 1e-06})
        text = folder.config_file.read_text(encoding="utf-8")
    assert list(yaml.safe_load(text)) == ["trainer", "model", "é"]
    assert yaml.safe_load(text)["trainer"] == {"steps": 3, "betas": [0.9, 0.95]}


@pytest.mark.parametrize("text", ["1e-6", "1e5", "0o17", "on", "2020-01-01", "first\u2028second"])
def test_text_in_the_config_is_text_when_it_is_read_back(tmp_path, text):
    with RunFolder.create(tmp_path, title="t") as folder:
        folder.write_config({"name": text})
        written = folder.config_file.read_text(encoding="utf-8")
    assert parse_yaml(written, "config.yaml").value == {"name": text}
    assert yaml.safe_load(written) == {"name": text}


def test_the_run_file_records_start_resume_and_end(tmp_path):
    with RunFolder.create(tmp_path, title="t") as folder:
        folder.start_run({"loss": {"identity": "skyrl-core:gspo@1"}, "kl": float("nan")})
        begun = folder.read_run()
        assert begun["outcome"] == "running"
        assert begun["kl"] is None
    with RunFolder.resume(tmp_path) as folder:
        folder.start_run({"loss": {"identity": "skyrl-core:gspo@1"}})
        pair = AnswerPair(
            question="q", expected="4", before="5", before_correct=False, after="\ud800", after_correct=True
        )
        folder.end_run(RunSummary(run_folder=tmp_path, steps=9, seconds=2.5, after={"accuracy": 0.5}, answers=(pair,)))
    run = json.loads(folder.run_file.read_text(encoding="utf-8"))
    assert run["started"] == begun["started"]
    assert len(run["resumed"]) == 1
    assert (run["outcome"], run["last_step"], run["after"]) == ("finished", 9, {"accuracy": 0.5})
    assert run["answers"][0]["after"] == "\ud800"
    assert datetime.fromisoformat(run["ended"]) >= datetime.fromisoformat(run["started"])


def test_the_error_names_a_broken_run_file(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"run\.json cannot be read"):
        RunFolder(tmp_path).read_run()


def test_all_paths_are_in_the_folder(tmp_path):
    folder = RunFolder(tmp_path)
    paths = [folder.config_file, folder.run_file, folder.metrics, folder.rollouts, folder.checkpoints, folder.report]
    assert [os.path.relpath(path, tmp_path) for path in paths] == [
        "config.yaml", "run.json", "metrics.jsonl", "rollouts", "checkpoints", "report.html",
    ]  # fmt: skip


def test_resuming_deletes_the_temporary_files_of_a_killed_process(tmp_path):
    folder = RunFolder.create(tmp_path / "run", title="t")
    folder.start_run({})
    folder.close()
    left, kept = folder.path / ".metrics.jsonl.4711.0123abcd", folder.path / ".notes"
    left.touch()
    kept.touch()
    RunFolder.resume(folder.path).close()
    assert kept.exists()
    assert not left.exists()


def test_a_start_that_fails_changes_nothing(tmp_path):
    def begin(folder, value):
        with folder.restored_on_error():
            folder.write_config({"a": value})
            folder.start_run({"title": str(value)})
            folder.metrics.touch()
            raise KeyboardInterrupt

    folder = RunFolder.create(tmp_path / "run", title="t")
    with pytest.raises(KeyboardInterrupt):
        begin(folder, 1)
    folder.close()
    again = RunFolder.create(tmp_path / "run", title="t")  # the folder counts as empty
    again.write_config({"a": 1})
    again.start_run({})
    again.metrics.write_text("{}\n")
    before = {path.name: path.read_bytes() for path in again.path.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        begin(again, 2)
    assert {path.name: path.read_bytes() for path in again.path.iterdir()} == before
    again.close()


def test_a_tilde_means_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with RunFolder.create("~/runs/x", title="t") as folder:
        assert folder.path == tmp_path / "runs/x"


@pytest.mark.parametrize("earlier", [{"started": [1]}, {"started": "then", "resumed": 3}])
def test_times_of_another_type_do_not_stop_a_resumed_run(tmp_path, earlier):
    folder = RunFolder(tmp_path)
    folder.run_file.write_text(json.dumps(earlier))
    folder.start_run({"title": "t"})
    run = folder.read_run()
    assert isinstance(run["started"], str)
    assert len(run.get("resumed", [])) == (1 if earlier.get("started") == "then" else 0)


@pytest.mark.parametrize("text", ['{"a":' * 100_000, '{"started": ' + "9" * 5000 + "}", "[]", "\0"], ids=range(4))
def test_a_record_that_is_none_is_an_error_that_names_the_file(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(RunFolderError, match=r"run\.json cannot be read"):
        RunFolder(tmp_path).read_run()
