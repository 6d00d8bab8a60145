"""The commands of `skyrl losses new` and of docs/publishing_a_loss.md, run as written, outside the checkout.

The project's packages come from wheels in an index on this machine; all others are linked from this process.
"""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.packages, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/publishing_a_loss.md").read_text()
BLOCK = re.compile(r"^```(bash|bash run|console run)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
MOST_COMMANDS = 4
"""From `skyrl losses new` to a trained step."""


def commands_of(document):
    """The scripts of the document, one for each block; of a console only its commands."""
    for kind, text in BLOCK.findall(document):
        is_console = kind == "console run"
        yield "\n".join(re.findall(r"^\$ (.*)$", text, flags=re.MULTILINE)) if is_console else text


@pytest.fixture(scope="module")
def author(tmp_path_factory, new_environment, build_wheel, wheels, index, clean_environment):
    """Run a script in a folder of its own, in an environment with only skyrl-train and what it needs."""
    index.add("skyrl-core", wheels["skyrl-core"])
    index.add("skyrl-train", build_wheel(ROOT / "trainer"))
    folder = tmp_path_factory.mktemp("author")
    environment = new_environment(folder / "venv", with_pip=True)
    environment.link_third_party()
    return Author(folder, clean_environment(**environment.settings_with(index.address)), index)


class Author:
    """Someone with pip and a shell."""

    def __init__(self, folder, environment, index):
        self.folder, self.environment, self.index = folder, environment, index

    def run(self, script):
        """Run a script that must succeed; of a command that trains, only the first step."""
        *others, last = script.strip().splitlines()
        trains = last.startswith("skyrl train") and "--dry-run" not in last
        output = self._run("\n".join(others if trains else [*others, last]))
        if trains:
            self.train_a_step(last)
        return output

    def _run(self, script):
        command = ["bash", "-ec", script]
        options = {"cwd": self.folder, "env": self.environment, "capture_output": True, "text": True}
        done = subprocess.run(command, check=False, **options)
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def train_a_step(self, command):
        """Run the command until a step is logged, then press Ctrl-C."""
        before = set(self.folder.glob("runs/*"))
        options = {"cwd": self.folder, "env": self.environment, "start_new_session": True}
        with subprocess.Popen(["bash", "-c", f"exec {command}"], **options) as process:
            try:
                while not any(map(steps, set(self.folder.glob("runs/*")) - before)):
                    assert process.poll() is None, f"{command} ended before its first step"
                    time.sleep(0.2)
            finally:
                os.killpg(process.pid, signal.SIGINT)


def steps(run):
    metrics = run / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
    return [line for line in lines if line.endswith("\n") and json.loads(line)["kind"] == "train"]


def test_from_a_name_to_a_trained_step_it_takes_four_commands_and_then_the_document_runs_as_written(author):
    author.run("pip install skyrl-train")
    started, first, *others = time.monotonic(), *commands_of(DOCUMENT)
    assert first == "skyrl losses new soft_clip"
    printed = author.run(first)
    following = re.findall(r"^  (.*)$", printed.partition("next:\n")[2].partition("after")[0], flags=re.MULTILINE)
    assert len([first, *following]) <= MOST_COMMANDS
    for command in following:
        author.run(command)
    assert following[-1] == "skyrl train --loss soft_clip"
    print(f"{len([first, *following])} commands, {(time.monotonic() - started) / 60:.1f} minutes to a trained step")

    for script in others:
        if "twine" not in script:
            author.run(script)
            continue
        # What an upload does: the index has the wheel, and users have nothing of the author.
        [wheel] = author.folder.glob("skyrl-loss-softclip/dist/*.whl")
        author.index.add("skyrl-loss-softclip", wheel)
        author.run("pip uninstall --yes skyrl-loss-softclip")
    identity = max(author.folder.glob("runs/*/run.json"), key=lambda path: path.stat().st_mtime)
    assert json.loads(identity.read_text())["loss"]["params"] == {"clip": 0.1}
