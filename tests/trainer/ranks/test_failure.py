"""The failure of one rank ends all: real processes, with each kind of failure."""

import json
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ranks

MODULE = ["-m", "skyrl_train.entrypoints.main_base"]
TORCHRUN = [str(Path(sys.executable).parent / "torchrun"), "--nproc-per-node", "2"]

FAILING_LOSS = """\
import os
import time
from pathlib import Path

from skyrl_core import LossParams, PolicyLoss, TokenLosses
from skyrl_train.algorithms.policy_losses import register_policy_loss
from skyrl_train.entrypoints.main_base import main


class Failing(PolicyLoss):
    name = "failing"
    Params = LossParams
    api_version = 1
    semantics_version = 1
    reference = "a test"

    @classmethod
    def needs(cls, params):
        return frozenset()

    def token_losses(self, batch):
        if batch.step == 1 and os.environ["RANK"] == os.environ["BAD_RANK"]:
            if "REACHED" in os.environ:
                Path(os.environ["REACHED"]).touch()
                time.sleep(10_000)
            raise {"error": RuntimeError, "exit": SystemExit}[os.environ.get("HOW", "error")]("the first reason")
        return TokenLosses(values=-batch.log_probs * batch.advantages)


register_policy_loss("failing", Failing)
main()
"""


@pytest.fixture
def failing_loss(tmp_path):
    """A script whose loss raises, or hangs where REACHED is given, at the second step of BAD_RANK; and its options."""
    script = tmp_path / "failing.py"
    script.write_text(FAILING_LOSS)
    return script, {"trainer.algorithm.policy_loss_type": "failing", "evaluation.prompts": 0}


@pytest.mark.parametrize(("stage", "how"), [(2, "error"), (3, "exit")])
def test_the_failure_of_a_plugin_is_printed_once_before_the_one_line_errors_of_other_ranks(
    stage, how, start, tiny_run, failing_loss
):
    script, options = failing_loss
    settings = {"BAD_RANK": "1", "HOW": how, "SKYRL_TRACEBACK": "1"}
    run = start([*TORCHRUN, str(script)], tiny_run(options | {"trainer.deepspeed.zero_stage": stage}), **settings)
    assert run.exit_code() != 0
    output, kind = run.stderr, {"error": "RuntimeError", "exit": "SystemExit"}[how]
    reason = f"policy loss 'failing' (script) failed in token_losses, optimizer step 2: {kind}: the first reason\n"
    root = output.index(f"[rank 1] error: {reason}  at {script}:")
    assert root < output.index("Traceback (most recent call last):\n") < output.index("[rank 0] error: ")
    assert output.count("[rank 0]") == output.count("[rank 1]") == 1
    assert f"[rank 0] error: rank 1 failed: {reason}" in output
    assert run.run["outcome"] == "failed"
    assert f"rank 1 failed: {reason.strip()}" in run.run["error"]


def test_a_start_error_of_rank_0_is_the_reason_on_all_ranks(start, tiny_run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "other").touch()
    run = start([*TORCHRUN, *MODULE], tiny_run({}))
    assert run.exit_code() != 0
    assert run.stderr.index("[rank 0] error: the run folder") < run.stderr.index(
        "[rank 1] error: rank 0 failed: the run"
    )
    assert run.stderr.count("[rank ") == 2


@pytest.mark.parametrize("busy", ["0", "1"])
def test_a_killed_rank_is_detected_by_a_busy_and_by_a_waiting_rank(busy, start, tiny_run, failing_loss, tmp_path):
    script, options = failing_loss
    reached = tmp_path / "reached"
    run = start([*TORCHRUN, str(script)], tiny_run(options), BAD_RANK=busy, REACHED=str(reached))
    run.until(reached.exists)
    os.kill(run.process_of(rank=1), signal.SIGKILL)
    assert run.exit_code() != 0
    assert "[rank 0] error: rank 1 failed: its process exited without an error message" in run.stderr
    assert run.run["outcome"] == "failed"


SLOW_REWARD = """\
import os
import time

from skyrl_train.environments.environment import Environment


class Slow(Environment):
    name = "slow"

    def reward(self, completion, row):
        if row.ground_truth == "slow":
            time.sleep(10_000)
        return 1.0


if os.environ.get("RANK") == "1" and "SKYRL_REWARD_WORKER" not in os.environ:
    from skyrl_core.errors import SkyrlError
    from skyrl_train.step.rollout import RolloutCollector

    sample = RolloutCollector.sample

    def fail_at_the_second_step(self, step, *arguments):
        if step == 1:
            raise SkyrlError("the prompts of this rank are gone")
        return sample(self, step, *arguments)

    RolloutCollector.sample = fail_at_the_second_step
"""


@pytest.fixture
def one_slow_one_failing(distributions, tiny_run, tmp_path):
    """At the second step rank 0 waits for a reward that does not come, and rank 1 fails before it samples."""
    groups = {"skyrl.environments": {"slow": "slow_reward:Slow"}}
    distributions.add("slow-reward", groups, modules={"slow_reward.py": SLOW_REWARD})
    rows = [("a", "1"), ("b", "1"), ("c", "slow"), ("d", "1")]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": prompt, "ground_truth": truth}) for prompt, truth in rows))
    options = {
        "data.train": str(file),
        "data.shuffle": False,
        "environment.name": "slow",
        "environment.deadline": 1_500.0,
        "evaluation.prompts": 0,
        "trainer.prompts_per_step": 2,
    }
    path = os.pathsep.join(filter(None, [str(distributions.path), os.environ.get("PYTHONPATH", "")]))
    return tiny_run(options), {"PYTHONPATH": path}


def check_failed(run):
    assert "[rank 0] error: rank 1 failed: the prompts of this rank are gone" in run.stderr
    assert "rank0]: Traceback" not in run.stderr
    assert run.run["outcome"] == "failed"
    assert "rank 1 failed: the prompts of this rank are gone" in run.run["error"]


def test_a_rank_outside_of_collectives_is_ended_too(start, one_slow_one_failing):
    options, environment = one_slow_one_failing
    run = start([*TORCHRUN, *MODULE], options, **environment)
    assert run.exit_code() != 0
    check_failed(run)


def test_ranks_without_a_launcher_end_together(start, one_slow_one_failing):
    options, environment = one_slow_one_failing
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1]), "WORLD_SIZE": "2"}
    ranks = [
        start(
            [sys.executable, *MODULE], options, log=f"rank_{rank}", RANK=rank, LOCAL_RANK=rank, **where, **environment
        )
        for rank in "01"
    ]
    assert [run.exit_code() for run in ranks] == [2, 2]  # the exit code of the rank that failed
    check_failed(ranks[0])
    assert ranks[0].stderr.count("\n") == 1
