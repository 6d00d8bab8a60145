"""Weights & Biases: the real package, offline."""

import json
import logging
import struct
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest
from wandb.proto.wandb_internal_pb2 import Record

from skyrl_train.tracking import wandb as tracking_wandb
from skyrl_train.tracking.tracker import RunInfo, RunSummary, TrackerError
from skyrl_train.tracking.wandb import Wandb


@pytest.fixture(autouse=True)
def no_key(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "wandb-cache"))


def info(folder, mode, **options):
    folder.mkdir(exist_ok=True)
    config = {"tracking": {"wandb": {"mode": mode, "project": "test", **options}}}
    return RunInfo(run_folder=folder, title="t", loss="skyrl-core:gspo@1", total_steps=2, config=config)


def log(tracker, folder):
    tracker.log_evaluation(0, {"accuracy": 0.25}, False)
    tracker.log_step(1, {"reward/mean": 0.5})
    tracker.log_step(2, {"reward/mean": 0.75})
    tracker.log_evaluation(2, {"accuracy": 0.5}, True)
    tracker.finish(RunSummary(run_folder=folder, steps=2, seconds=1.0))
    tracker.close()


def logged_records(file: Path) -> list[Record]:
    """The records that `wandb sync` would upload: the file is a LevelDB log after a header of 7 bytes."""
    content, offset, parts, records = file.read_bytes(), 7, [], []
    while offset + 7 <= len(content):
        if 32768 - offset % 32768 < 7:  # no room for a header: zeros up to the next block
            offset += 32768 - offset % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, offset)
        parts.append(content[offset + 7 : offset + 7 + length])
        offset += 7 + length
        if kind in (1, 4):  # complete, or the last part
            records.append(Record.FromString(b"".join(parts)))
            parts.clear()
    return records


def logged_rows(records: list[Record]) -> list[dict]:
    rows = [record.history.item for record in records if record.WhichOneof("record_type") == "history"]
    named = [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row} for row in rows]
    return [{key: value for key, value in row.items() if not key.startswith("_")} for row in named]


def child_processes():
    return {child.pid for child in psutil.Process().children(recursive=True)}


def test_auto_is_offline_without_a_key_and_logs_it_in_one_line(tmp_path, caplog, capfd):
    before = child_processes()
    tracker = Wandb()
    with caplog.at_level(logging.WARNING, logger=tracking_wandb.__name__):
        tracker.start(info(tmp_path / "run", "auto"))
        log(tracker, tmp_path / "run")
    [file] = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    assert caplog.messages == [
        f"W&B logs this run offline (no API key was found); upload it with `wandb sync {file.parent}`"
    ]
    records = logged_records(file)
    # The x axis of each curve is the training step: a resumed run logs steps again, which W&B would otherwise drop.
    assert [(record.metric.glob_name, record.metric.step_metric) for record in records if record.metric.glob_name] == [
        ("*", "step")
    ]
    assert logged_rows(records) == [
        {"evaluation/accuracy": 0.25, "step": 0},
        {"reward/mean": 0.5, "step": 1},
        {"reward/mean": 0.75, "step": 2},
        {"evaluation/accuracy": 0.5, "step": 2},
    ]
    assert child_processes() <= before
    assert capfd.readouterr().out == ""


def test_offline_mode_names_the_folder_to_sync(tmp_path, caplog):
    tracker = Wandb()
    tracker.start(info(tmp_path / "run", "offline"))
    tracker.close()  # an incomplete run
    assert "W&B logs this run offline; upload it with `wandb sync" in caplog.text
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))


def test_wandb_gets_the_command_line_without_secrets(tmp_path, monkeypatch):
    command = ["skyrl", "train", "judge.api_key=sesame", "trainer.steps=2"]
    monkeypatch.setattr(sys, "argv", command)
    tracker = Wandb()
    tracker.start(info(tmp_path / "run", "offline"))
    tracker.close()
    (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    assert b"trainer.steps=2" in file.read_bytes()
    assert b"sesame" not in file.read_bytes()
    assert sys.argv is command


def test_a_resumed_run_keeps_its_id(tmp_path):
    for _ in range(2):
        tracker = Wandb()
        tracker.start(info(tmp_path / "run", "offline"))
        tracker.close()
    files = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    assert len({file.name for file in files}) == 1


def test_the_run_has_the_entity_group_name_tags_notes_and_id_of_the_configuration(tmp_path):
    options = {"entity": "team", "group": "seeds", "name": "first", "tags": ("a", "b"), "notes": "why", "id": "mine-1"}
    for _ in range(2):  # the second continues the first
        tracker = Wandb()
        tracker.start(info(tmp_path / "run", "offline", **options))
        tracker.close()
        options["id"] = None
    for file in (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"):
        [run] = [record.run for record in logged_records(file) if record.WhichOneof("record_type") == "run"]
        assert (run.entity, run.project, run.run_group, run.display_name) == ("team", "test", "seeds", "first")
        assert (list(run.tags), run.notes, run.run_id) == (["a", "b"], "why", "mine-1")


@pytest.mark.parametrize(("mode", "environment"), [("disabled", ""), ("auto", "disabled")])
def test_disabled_mode_writes_nothing(tmp_path, monkeypatch, mode, environment):
    monkeypatch.setenv("WANDB_MODE", environment)
    tracker = Wandb()
    tracker.start(info(tmp_path / "run", mode))
    log(tracker, tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_online_mode_without_a_key_is_an_error_before_training(tmp_path):
    tracker = Wandb()
    with pytest.raises(TrackerError, match="mode is online, but no API key was found: set WANDB_API_KEY or run"):
        tracker.start(info(tmp_path / "run", "online"))
    tracker.close()


def test_a_malformed_key_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "short")
    tracker = Wandb()
    with pytest.raises(TrackerError, match="the API key is not valid"):
        tracker.start(info(tmp_path / "run", "online"))
    tracker.close()


@pytest.fixture
def silent_server(monkeypatch):
    """A server that refuses every request, and a key for it."""

    class Refuse(BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_error(500)

        do_GET = do_POST

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Refuse)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    begin = tracking_wandb._begin

    def begin_soon(info, project, mode):
        # The timeout applies offline as well, where it must be long enough.
        monkeypatch.setattr(tracking_wandb, "CONNECT_SECONDS", 2 if mode == "online" else 60)
        return begin(info, project, mode)

    monkeypatch.setattr(tracking_wandb, "_begin", begin_soon)
    yield
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.usefixtures("silent_server")
def test_auto_is_offline_if_the_server_does_not_respond(tmp_path, caplog):
    before = child_processes()
    tracker = Wandb()
    tracker.start(info(tmp_path / "run", "auto"))
    log(tracker, tmp_path / "run")
    [file] = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    assert len(logged_rows(logged_records(file))) == 4
    assert "W&B logs this run offline (W&B refused the connection or did not respond" in caplog.text
    assert child_processes() <= before


@pytest.mark.usefixtures("silent_server")
def test_online_mode_fails_if_the_server_does_not_respond(tmp_path):
    tracker = Wandb()
    with pytest.raises(TrackerError, match="mode is online, but W&B refused the connection or did not respond"):
        tracker.start(info(tmp_path / "run", "online"))
    tracker.close()


def test_a_run_never_prompts_for_a_key(tmp_path):
    # With a pseudo-terminal as standard input W&B would prompt and wait.
    program = (
        "import pathlib, sys; from skyrl_train.tracking.wandb import Wandb; "
        "from skyrl_train.tracking.tracker import RunInfo; tracker = Wandb(); "
        "tracker.start(RunInfo(run_folder=pathlib.Path(sys.argv[1]), title='t', loss='l', total_steps=1, config={})); "
        "tracker.close(); print('done')"
    )
    command = ["script", "-qec", f'{sys.executable} -c "{program}" {tmp_path}', "/dev/null"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=True)
    assert "done" in answer.stdout
    assert "offline" in answer.stdout
