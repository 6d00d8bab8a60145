"""How the end of one rank ends all: real processes, on which the ranks fail one by one."""

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
            raise RuntimeError("the first reason")
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


@pytest.mark.parametrize("stage", [2, 3])
def test_any_exception_of_a_rank_comes_first_and_whole_and_the_others_say_one_line(
    stage, start, tiny_run, failing_loss
):
    script, options = failing_loss
    run = start([*TORCHRUN, str(script)], tiny_run(options | {"trainer.deepspeed.zero_stage": stage}), BAD_RANK="1")
    assert run.ended() != 0
    said = run.said
    root = said.index("[rank 1] failed:\nTraceback (most recent call last):\n")
    assert root < said.index("in token_losses") < said.index("RuntimeError: the first reason")
    assert said.index("RuntimeError: the first reason") < said.index("[rank 0] error: ")
    assert said.count("[rank 0]") == said.count("[rank 1]") == 1
    assert "[rank 0] error: rank 1 failed: RuntimeError: the first reason\n" in said
    assert run.run["outcome"] == "failed"
    assert "rank 1 failed: RuntimeError: the first reason" in run.run["error"]


def test_what_rank_0_alone_finds_at_the_start_is_the_reason_of_all(start, tiny_run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "other").touch()
    run = start([*TORCHRUN, *MODULE], tiny_run({}))
    assert run.ended() != 0
    assert run.said.index("[rank 0] error: the run folder") < run.said.index("[rank 1] error: rank 0 failed: the run")
    assert run.said.count("[rank ") == 2


@pytest.mark.parametrize("busy", ["0", "1"])
def test_a_rank_that_is_killed_is_missed_by_the_other_busy_or_waiting(busy, start, tiny_run, failing_loss, tmp_path):
    script, options = failing_loss
    reached = tmp_path / "reached"
    run = start([*TORCHRUN, str(script)], tiny_run(options), BAD_RANK=busy, REACHED=str(reached))
    run.until(reached.exists)
    os.kill(run.process_of(rank=1), signal.SIGKILL)
    assert run.ended() != 0
    assert "[rank 0] error: rank 1 failed: its process exited without an error message" in run.said
    assert run.run["outcome"] == "failed"


SLOW_REWARD = """\
import time

from skyrl_train.environments.environment import Environment


class Slow(Environment):
    name = "slow"

    def reward(self, completion, row):
        if row.ground_truth == "slow":
            time.sleep(10_000)
        return 1.0
"""


@pytest.fixture
def one_slow_one_failing(distributions, tiny_run, tmp_path):
    """At the second step rank 0 waits for a reward that does not come, and rank 1 finds a prompt that is too long."""
    groups = {"skyrl.environments": {"slow": "slow_reward:Slow"}}
    distributions.add("slow-reward", groups, modules={"slow_reward.py": SLOW_REWARD})
    rows = [("a", "1"), ("b", "1"), ("c", "slow"), ("word " * 300, "1")]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": prompt, "ground_truth": truth}) for prompt, truth in rows))
    options = {
        "data.train": str(file),
        "data.shuffle": False,
        "environment.name": "slow",
        "environment.deadline": 10_000.0,
        "evaluation.prompts": 0,
        "trainer.prompts_per_step": 2,
        "rollout.max_prompt_tokens": 100,
    }
    path = os.pathsep.join(filter(None, [str(distributions.path), os.environ.get("PYTHONPATH", "")]))
    return tiny_run(options), {"PYTHONPATH": path}


def check_failed(run):
    assert "[rank 0] error: rank 1 failed: the prompt of row" in run.said
    assert "rank0]: Traceback" not in run.said
    assert run.run["outcome"] == "failed"
    assert "rank 1 failed: the prompt of row" in run.run["error"]


def test_a_rank_in_a_long_phase_of_its_own_is_ended_too(start, one_slow_one_failing):
    options, environment = one_slow_one_failing
    run = start([*TORCHRUN, *MODULE], options, **environment)
    assert run.ended() != 0
    check_failed(run)


def test_no_launcher_is_needed_for_it(start, one_slow_one_failing):
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
    assert [run.ended() for run in ranks] == [2, 2]  # the exit code of the rank that has failed
    check_failed(ranks[0])
    assert ranks[0].said.count("\n") == 1
