"""How often a run looks its plugins up and validates their parameters, counted in real runs."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytestmark = pytest.mark.train

COUNTED = """\
import atexit, functools, json, os, pathlib
from collections import Counter

from pydantic import BaseModel

from skyrl_core.discovery.plugin_group import PluginGroup
from skyrl_core.parameters.parameter_plan import ParamPlan
from skyrl_train.entrypoints.main_base import main

counts = Counter()


def counting(method, what):
    @functools.wraps(method)
    def counted(owner, *args, **kwargs):
        counts[what(owner, *args)] += 1
        return method(owner, *args, **kwargs)

    return counted


PluginGroup.rows = counting(PluginGroup.rows, lambda group, *_: f"asked {group.group}")
ParamPlan.__init__ = counting(ParamPlan.__init__, lambda _, schema, *rest: f"planned {schema.__name__}")
validate = BaseModel.model_validate.__func__
BaseModel.model_validate = classmethod(counting(validate, lambda schema, *_: f"validated {schema.__name__}"))
rank = os.environ.get("RANK", "0")
atexit.register(lambda: pathlib.Path(f"counts_{rank}.json").write_text(json.dumps(counts)))
main()
"""

ONCE = {
    "asked skyrl.policy_losses": 1,
    "asked skyrl.advantage_estimators": 1,
    "asked skyrl.environments": 1,
    "asked skyrl.rollout_engines": 1,
    "asked skyrl.trackers": 1,
    "planned DualClipParams": 1,
    "planned GrpoParams": 1,
    "validated DualClipParams": 1,
    "validated GrpoParams": 1,
    "validated ArithmeticParams": 1,
    "validated RunConfig": 1,
}


def counted(command: list[str], folder: Path, options: list[str]) -> list[Counter[str]]:
    """The counts of each process of a run."""
    script = folder / "counted.py"
    script.write_text(COUNTED)
    command = [sys.executable, *command, str(script), *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [Counter(json.loads(path.read_text())) for path in sorted(folder.glob("counts_*.json"))]


@pytest.mark.parametrize("last", ["trainer.steps=2", "--dry-run"])
def test_a_run_looks_up_each_group_once_and_validates_each_schema_once(last, tiny_run, tmp_path):
    assert counted([], tmp_path, [*tiny_run({"run_folder": "run"}), last]) == [ONCE]


def test_a_schedule_is_validated_once_at_each_knot_and_at_each_step_that_changes_it(tiny_run, tmp_path):
    # Knots 0 and 4, and step 1 after the first knot; of the steps 0 to 4 of the run, only 2 and 3 are not among them.
    falling = {"schedule": "linear", "start": 0.3, "end": 0.1, "steps": 4}
    options = {"run_folder": "run", "trainer.steps": 5, "trainer.algorithm.dual_clip.clip_low": falling}
    [counts] = counted([], tmp_path, tiny_run(options))
    assert counts == ONCE | {"validated DualClipParams": 5}


@pytest.mark.ranks
def test_each_of_several_ranks_looks_up_and_validates_once(tiny_run, tmp_path):
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    assert counted(launcher, tmp_path, tiny_run({"run_folder": "run"})) == [ONCE, ONCE]
