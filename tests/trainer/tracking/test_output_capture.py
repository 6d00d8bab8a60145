"""Nothing that a plugin prints controls a terminal, wherever the output goes and however the process ends."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.trainer.tracking.noisy_plugin import WAYS
from tests.trainer.tracking.terminal_window import run_in_window

NOISY = Path(__file__).with_name("noisy_plugin.py")
LONGEST = 2100


def check(text: bytes) -> list[str]:
    """The lines, after checking that they are printable and short."""
    lines = text.decode().replace("\r\n", "\n").splitlines()
    assert all(line.isprintable() for line in lines)
    assert max(map(len, lines)) < LONGEST
    return lines


@pytest.mark.parametrize("ending", ["end", "kill"])
def test_output_to_pipes_is_safe_and_stays_apart(ending):
    done = subprocess.run([sys.executable, NOISY, ending], capture_output=True, check=False)
    assert done.returncode == (0 if ending == "end" else -9)
    out, err = check(done.stdout), check(done.stderr)
    if ending == "kill":
        assert out[-1].startswith("last words")  # printed by the shell process
        return
    assert [line.split()[1] for line in err if line.startswith("buffered")] == list(WAYS)
    for way in WAYS:
        assert f"safe {way}" in " ".join(err if way == "stderr" else out), way
    assert out.count("\\xff") == 1


def test_a_reader_that_exits_ends_nothing():
    with subprocess.Popen([sys.executable, NOISY, "end"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as noisy:
        noisy.stdout.close()
    assert noisy.returncode == 0


def test_output_to_a_terminal_is_safe():
    window = run_in_window([sys.executable, str(NOISY), "end"])
    assert window.exit_code == 0
    lines = check(window.raw)
    assert [line.split()[1] for line in lines if line.startswith("safe")] == list(WAYS)


@pytest.mark.train
def test_a_run_passes_on_what_its_reward_prints_and_logs_it(train, tmp_path, capfd):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "1+1=", "ground_truth": "2"}\n' * 4)
    folder = tmp_path / "run"
    options = {"trainer.steps": 1, "evaluation.prompts": 0, "data.train": str(rows)}
    train(folder, **options, **{"environment.name": f"{NOISY}:reward"})
    printed = capfd.readouterr()
    check(printed.out.encode())
    err, log = check(printed.err.encode()), check((folder / "output.log").read_bytes())
    for way in WAYS:
        assert any(line.startswith(f"reward {way}") for line in err), way
    assert {line for line in err if line.startswith("reward")} <= set(log)
