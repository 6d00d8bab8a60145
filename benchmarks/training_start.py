"""Time from the start of `skyrl train` to the first rollout, compared with importing the same libraries.

A run of the tiny model without a first evaluation; its rollout engine is `hf`, which records the time of the first
request for samples and all modules loaded by then. Bare Python then imports the same third-party modules, by name and
in the same order. A third process imports only their packages (`import torch, transformers, ...`), without submodules
that nothing has requested yet. All three take turns.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from processes import environment, skyrl, table, take_turns
from record import Row, record

GOAL = 1.3
RUN, MODULES, PACKAGES = "`skyrl train` until the first rollout", "import of the same modules", "import of the packages"

ENGINE = '''
"""The engine hf, which records when it is first asked for samples."""

import json, os, sys, time
from pathlib import Path
from skyrl_train.rollout.hf.engine import HfEngine

class FirstRollout(HfEngine):
    def generate(self, requests, sampling):
        moment, file = time.monotonic(), Path(os.environ["FIRST_ROLLOUT"])
        if not file.exists():
            libraries = [name for name, module in list(sys.modules.items()) if "site-packages" in origin(module)]
            file.write_text(json.dumps({"moment": moment, "modules": libraries}))
        return super().generate(requests, sampling)

def origin(module):
    return str(getattr(getattr(module, "__spec__", None), "origin", None))
'''
ENTRY_POINT = "[skyrl.rollout_engines]\nfirst_rollout = first_rollout:FirstRollout\n"
METADATA = "Metadata-Version: 2.1\nName: first-rollout\nVersion: 1.0\n"

IMPORT = """
import importlib, json, sys, time
for name in json.load(open(sys.argv[1])):
    importlib.import_module(name)
print(time.monotonic())
"""
"""Prints the time when all modules are imported; the exit of Python is not part of the start."""

FINDABLE = """
import importlib, json, sys
found = []
for name in json.load(open(sys.argv[1])):
    try:
        importlib.import_module(name)
    except ImportError:  # created by its package at run time, not importable by name
        continue
    found.append(name)
print(json.dumps(found))
"""

OPTIONS = [
    "model=tiny",
    "rollout.engine=first_rollout",
    "evaluation.prompts=0",
    "trainer.steps=1",
    "trainer.prompts_per_step=1",
    "trainer.samples_per_prompt=2",
    "rollout.max_new_tokens=2",
]


class Start:
    """The three processes, and the module lists that the first one writes for the others."""

    def __init__(self, scratch: Path, loss: str) -> None:
        self._scratch = scratch
        self._command = [skyrl(), "train", "--loss", loss, *OPTIONS]
        self._runs = 0
        info = scratch / "first_rollout-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(METADATA)
        (info / "entry_points.txt").write_text(ENTRY_POINT)
        (scratch / "first_rollout.py").write_text(ENGINE)
        found = self._train()["modules"]
        self.modules = json.loads(_run([sys.executable, "-c", FINDABLE, self._list("all", found)]))
        self.packages = list(dict.fromkeys(name.partition(".")[0] for name in self.modules))
        self._modules_file, self._packages_file = self._list("modules", self.modules), self._list("top", self.packages)

    def train(self) -> float:
        """The seconds until the first rollout."""
        started = time.monotonic()
        return float(self._train()["moment"]) - started

    def import_modules(self) -> float:
        """The seconds until the same modules are imported."""
        return self._import(self._modules_file)

    def import_packages(self) -> float:
        """The seconds until their packages are imported."""
        return self._import(self._packages_file)

    def _import(self, file: str) -> float:
        started = time.monotonic()
        return float(_run([sys.executable, "-c", IMPORT, file]).splitlines()[-1]) - started

    def _train(self) -> dict[str, object]:
        self._runs += 1
        note = self._scratch / f"{self._runs}.json"
        folder = self._scratch / f"run-{self._runs}"
        _run([*self._command, f"run_folder={folder}"], path=str(self._scratch), FIRST_ROLLOUT=str(note))
        content: dict[str, object] = json.loads(note.read_text())
        return content

    def _list(self, name: str, modules: Sequence[str]) -> str:
        file = self._scratch / f"{name}.json"
        file.write_text(json.dumps(modules))
        return str(file)


def _run(command: Sequence[str], *, path: str = "", **variables: str) -> str:
    # The trainer sets the first variable itself without a GPU; set it for both sides, so that neither looks for one.
    own = environment(path, **{"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", **variables})
    done = subprocess.run(command, env=own, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command[0]}: exit code {done.returncode}\n{done.stderr[-3000:]}")
    return done.stdout


def main() -> int:
    """Measure and print; exit code 1 if the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="processes of each kind")
    parser.add_argument("--loss", default="standard")
    parser.add_argument("--write", action="store_true", help="write the results and the summary table")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        start = Start(Path(scratch), arguments.loss)
        measures = {RUN: start.train, MODULES: start.import_modules, PACKAGES: start.import_packages}
        seconds = take_turns(measures, arguments.rounds)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio, of_packages = (medians[RUN] / medians[name] for name in (MODULES, PACKAGES))
    text = table(seconds, {MODULES: ratio, PACKAGES: of_packages})
    text += (
        f"\n\nRatio: `skyrl train` / this import. {len(start.modules)} modules of {len(start.packages)} packages: "
        f"{', '.join(start.packages)}. Rounds: {arguments.rounds}."
    )
    print(f"{text}\n\n{'met' if ratio <= GOAL else 'MISSED'}: at most {GOAL:g} times the import of the same modules")
    if arguments.write:
        how = (__doc__ or "").split("\n", 2)[2].strip()
        rows = [
            Row(measure="start to first rollout / same imports", result=f"{ratio:.2f}", goal=f"≤ {GOAL:g}"),
            Row(measure="start to first rollout / only package imports", result=f"{of_packages:.2f}"),
        ]
        packages = ("torch", "transformers", "deepspeed", "accelerate")
        record("training_start", rows, f"# Start of training\n\n{how}\n\n{text}", packages=packages)
    return 0 if ratio <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
