"""A run folder of a stranger, in which every file of a checkpoint would run code: no command runs it."""

import json
import os
import pickle
import shutil

import pytest
import torch
from tests.trainer.fixtures.plain_checkpoint import rehash

from skyrl_core.errors import SkyrlError
from skyrl_train.checkpoints.model_export import export
from skyrl_train.commands.eval import main as evaluate

pytestmark = pytest.mark.train

STEP = "checkpoints/step_000001"
MODEL, OPTIMIZER = "state/mp_rank_00_model_states.pt", "state/zero_pp_rank_0_mp_rank_00_optim_states.pt"
RANDOM = "random/rank_00000.pt"
READ_BY = {"export": {MODEL, OPTIMIZER}, "eval": {MODEL, OPTIMIZER}, "resume": {MODEL, OPTIMIZER, RANDOM}}


class Exploit:
    """Creates a folder when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def zipped(file, exploit):
    """The state with the exploit next to it, as torch writes it."""
    state = torch.load(file, weights_only=False)
    torch.save(state | {"hidden": exploit}, file)


def bare(file, exploit):
    file.write_bytes(pickle.dumps(exploit))


@pytest.fixture(scope="module")
def trained(train, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stranger") / "run"
    train(folder, trainer__steps=1, evaluation__prompts=0, rollout__max_new_tokens=4)
    return folder


@pytest.fixture
def stranger(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def run_command(command, folder, target, capsys):
    """Run it. Returns what the user reads: the error, if there is one."""
    try:
        if command == "export":
            export(folder, target)
        elif command == "eval":
            evaluate([str(folder), "--prompts", "2", "evaluation.max_new_tokens=2"])
        else:
            from skyrl_train.entrypoints.main_base import main

            main(["--resume", str(folder), "trainer.steps=2"], prog="skyrl train")
    except SkyrlError as error:
        return str(error)
    except SystemExit:
        return capsys.readouterr().err
    return ""


@pytest.mark.parametrize(
    ("command", "write"), [("export", zipped), ("export", bare), ("eval", zipped), ("resume", zipped)]
)
def test_no_command_runs_code_from_a_checkpoint(stranger, tmp_path, capsys, command, write):
    original = tmp_path / "original"
    shutil.copytree(stranger / STEP, original)
    listed = json.loads((original / "manifest.json").read_text())["sha256"]
    assert {name for name in listed if name.endswith(".pt")} == READ_BY["resume"]
    for name in sorted(READ_BY[command]):
        write(stranger / STEP / name, Exploit(tmp_path / "ran"))
        rehash(stranger / STEP)
        error = run_command(command, stranger, tmp_path / "model", capsys)
        assert not (tmp_path / "ran").exists()
        assert f"{STEP}/{name}" in error
        assert "was not loaded" in error
        assert "Traceback" not in error
        shutil.copytree(original, stranger / STEP, dirs_exist_ok=True)
    assert run_command("export", stranger, tmp_path / "intact", capsys) == ""


def test_random_states_that_are_none_are_an_error_that_names_the_file(stranger, tmp_path, capsys):
    torch.save({"python": (3, (10**30,), None), "numpy": {}, "torch": torch.ones(3)}, stranger / STEP / RANDOM)
    rehash(stranger / STEP)
    error = run_command("resume", stranger, tmp_path, capsys)
    assert f"{STEP}/{RANDOM} does not hold the states of random number generators" in error
    assert "Traceback" not in error


def test_a_base_model_with_pickled_weights_does_not_run_code(stranger, tmp_path, capsys):
    from skyrl_train.tiny_model import TINY_MODEL

    shutil.copytree(TINY_MODEL, tmp_path / "base")
    for file in (tmp_path / "base").glob("*.safetensors"):
        file.unlink()
    torch.save({"model.norm.weight": Exploit(tmp_path / "ran")}, tmp_path / "base/pytorch_model.bin")
    with pytest.raises(SkyrlError, match="cannot load the model"):
        evaluate([str(tmp_path / "base"), "--environment", "arithmetic", "--prompts", "2"])
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [{}, {"module": 3}, {"module": {"model.x": torch.ones(2)}, "param_shapes": []}])
def test_a_state_of_something_else_is_an_error_without_a_traceback(stranger, tmp_path, capsys, content):
    torch.save(content, stranger / STEP / MODEL)
    rehash(stranger / STEP)
    assert STEP in run_command("export", stranger, tmp_path / "model", capsys)


@pytest.mark.parametrize("text", ["[]", "trainer: {steps: none, unknown: 1}", "seed: [", "!!python/object:os.x {}"])
def test_a_configuration_of_something_else_is_an_error_that_names_the_file(stranger, tmp_path, capsys, text):
    (stranger / "config.yaml").write_text(text)
    assert "config.yaml" in run_command("export", stranger, tmp_path / "model", capsys)


def name_environment(folder, name):
    text = (folder / "config.yaml").read_text()
    assert "name: arithmetic" in text
    (folder / "config.yaml").write_text(text.replace("name: arithmetic", f"name: {name}"))


@pytest.mark.parametrize("command", ["eval", "resume"])
@pytest.mark.parametrize(
    "reference", ["{run}/rewards.py:reward", "rewards.py:reward", "rewards:reward", "pack.a:reward"]
)
def test_code_inside_the_run_folder_is_not_imported(stranger, tmp_path, capsys, monkeypatch, command, reference):
    code = f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\ndef reward(completion, row):\n    return 1.0\n"
    (stranger / "rewards.py").write_text(code)
    (stranger / "pack").mkdir()
    (stranger / "pack/__init__.py").write_text(code)
    name_environment(stranger, reference.format(run=stranger))
    monkeypatch.chdir(stranger)
    monkeypatch.syspath_prepend(str(stranger))
    error = run_command(command, stranger, tmp_path, capsys)
    assert "config.yaml:" in error
    assert "is code inside the run folder" in error
    assert not (tmp_path / "ran").exists()


def test_code_inside_the_run_folder_is_imported_if_the_command_names_it(stranger, tmp_path, capsys):
    (stranger / "rewards.py").write_text("def reward(completion, row):\n    return 1.0\n")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1+1=", "ground_truth": "2"}\n')
    name_environment(stranger, f"{stranger}/rewards.py:reward")
    given = ["--environment", f"{stranger}/rewards.py:reward", f"data.evaluation={tmp_path}/rows.jsonl"]
    assert evaluate([str(stranger), "--prompts", "1", "evaluation.max_new_tokens=2", *given]) == 0
    assert "reward" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["metrics.jsonl", ".lock"])
def test_a_resumed_run_does_not_write_through_a_link(stranger, tmp_path, capsys, name):
    (tmp_path / "mine").write_text("mine")
    (stranger / name).unlink(missing_ok=True)
    (stranger / name).symlink_to(tmp_path / "mine")
    assert f"{name} is a link" in run_command("resume", stranger, tmp_path, capsys)
    assert (tmp_path / "mine").read_text() == "mine"


def test_another_course_is_refused_by_the_command_and_recorded_if_accepted(stranger, capsys):
    from skyrl_train.entrypoints.main_base import main

    command = ["--resume", str(stranger), "trainer.steps=2", "seed=7"]
    with pytest.raises(SystemExit) as error:
        main(command, prog="skyrl train")
    assert error.value.code == 2
    assert "seed: 0 -> 7\n" in capsys.readouterr().err
    assert main([*command, "--accept-changes"], prog="skyrl train") == 0
    (record,) = json.loads((stranger / "run.json").read_text())["accepted_changes"]
    assert (record["step"], record["changes"][0]) == (1, "seed: 0 -> 7")
    manifest = json.loads((stranger / "checkpoints/step_000002/manifest.json").read_text())
    assert manifest["progress"]["accepted_changes"] == [record]
    assert manifest["progress"]["fingerprint"]["options"]["seed"] == 7
