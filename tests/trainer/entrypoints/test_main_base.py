"""The entry point: checks without torch, exit codes, ranks, and scripts that register a loss."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from skyrl_train.entrypoints import main_base

QUICKSTART = Path(__file__).parents[3] / "configs" / "quickstart.yaml"
WITHOUT_TORCH = """\
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "numpy", "transformers", "deepspeed", "accelerate", "datasets", "wandb"}:
            raise AssertionError(f"{name} was imported")
sys.meta_path.insert(0, Block())
from skyrl_train.entrypoints.main_base import main
sys.exit(main())
"""


def run(*command, cwd=None, **environment):
    return subprocess.run(
        [sys.executable, *map(str, command)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def without_torch(*arguments, **environment):
    return run("-c", WITHOUT_TORCH, *arguments, **environment)


@pytest.mark.parametrize("loss", ["entropy_reg", "clipped_pg", "dual_clip", "gspo"])
def test_the_plan_of_an_installed_loss_imports_no_torch(loss):
    done = without_torch("--loss", loss, "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"loss          {loss}, from skyrl-" in done.stdout


def test_the_plan_of_an_untyped_loss_imports_neither_torch_nor_the_loss(distributions):
    groups = {"skyrl.policy_losses": {"bare": "bare_loss:Loss"}}
    distributions.add("bare-loss", groups, modules={"bare_loss.py": "raise RuntimeError('imported')\n"})
    done = without_torch("--loss=bare", "trainer.algorithm.bare.x=1", "--dry-run", PYTHONPATH=str(distributions.path))
    assert (done.returncode, done.stderr) == (0, "")
    assert "bare, from bare-loss 1.0 (untyped" in done.stdout
    assert "x = 1" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["--loss", "entropy_reg", "trainer.algorithm.entropy_reg.entropy_coef=-1"],
            4,
            "entropy_coef = -1: must be >= 0",
        ),
        (["trainer.stepz=1"], 4, "did you mean trainer.steps?"),
        (["--loss", "entropyreg"], 2, "did you mean 'entropy_reg'?"),
        (["plugins.deny=[skyrl-core]"], 3, "skyrl-core is in plugins.deny"),
        (["--config", "nowhere.yaml"], 2, "nowhere.yaml: no such file"),
        (["--dryrun"], 2, "did you mean --dry-run?"),
        (["data.train=nowhere.parquet"], 2, "the run cannot start on this machine, 1 problem"),
        (["environment.name=gsm8k"], 2, "data.evaluation: environment 'gsm8k' generates no problems: set"),
    ],
)
def test_an_error_is_printed_without_traceback_and_without_torch(arguments, code, message):
    done = without_torch(*arguments)
    assert done.returncode == code
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_the_bare_command_is_the_quickstart_and_its_plan_says_so():
    bare, file = (without_torch("--loss", "entropy_reg", *more, "--dry-run") for more in ([], ["--config", QUICKSTART]))
    assert bare.stdout.splitlines()[1:3] == [
        "from          --loss entropy_reg",
        "defaults      quickstart settings for the tiny model: neither --config nor a model is given",
    ]
    assert file.stdout.splitlines()[2] == "defaults      as listed by `skyrl config`"
    assert bare.stdout.splitlines()[3:] == file.stdout.splitlines()[3:]
    assert json.loads(without_torch("--dry-run", "--json").stdout)["defaults"] == "quickstart"


def test_the_plan_says_that_another_model_changes_the_defaults():
    plan = without_torch("model=Qwen/Qwen2.5-0.5B-Instruct", "--dry-run").stdout
    assert "for a real model, as listed by `skyrl config`; the quickstart settings suit only `tiny`" in plan
    assert "AdamW, learning rate 1e-06, constant" in plan


def test_the_plan_shows_the_arithmetic_of_a_step():
    arguments = ["trainer.minibatches=2", "trainer.epochs=3", "trainer.micro_batch_size=10", "trainer.steps=5"]
    done = without_torch("--config", QUICKSTART, *arguments, "--dry-run", WORLD_SIZE="3", RANK="0")
    # 16 prompts in 2 minibatches: 8 prompts for 3 ranks, so 3 on the fullest one, 24 sequences, 3 micro-batches of 10.
    assert "16 prompts x 8 samples = 128 sequences" in done.stdout
    assert "2 minibatches x 3 epochs = 6 optimizer steps of 64 sequences" in done.stdout
    assert "on 3 ranks: 3 micro-batches of up to 10 sequences" in done.stdout
    assert "5 steps, 30 optimizer steps, 640 samples" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 110
    done = without_torch("--config", QUICKSTART, *arguments, "trainer.micro_batch_tokens=4096", "--dry-run")
    assert "on 1 rank: 64 sequences in micro-batches of up to 4,096 tokens for each" in done.stdout


def test_the_plan_lists_what_this_machine_lacks():
    done = without_torch("rollout.engine=vllm", "--dry-run")
    assert done.returncode == 7
    assert "rollout.engine = vllm: needs vLLM, which is not installed: " in " ".join(done.stdout.split())


def test_the_plan_of_several_processes_shows_idle_ranks_and_memory(tmp_path):
    arguments = ["--loss=dual_clip", "trainer.prompts_per_step=4", "--dry-run", "--num-processes=3"]
    done = without_torch(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    # Two prompts of a minibatch for three ranks.
    lines = done.stdout.splitlines()
    assert "ranks         8, 8, 0 sequences, by rank, for each optimizer step" in lines
    assert (
        "idle          ranks wait 33% of an optimizer step for the fullest one; rank 2 never gets a sample"
        in done.stdout
    )
    # Weights 4 x 845,952 bytes, gradients a third of that, 12 bytes of optimizer for a third of the parameters.
    assert "weights 3.23 MiB, gradients 1.08 MiB, optimizer 3.23 MiB, checkpoint copy" in done.stdout
    plan = json.loads(without_torch(*arguments, "--json").stdout)
    assert plan["ranks"]["sequences_per_optimizer_step"] == [8, 8, 0]
    assert plan["memory"]["parameters"] == 845_952
    assert plan["memory"]["verdict"] == "fits"
    assert {part["name"] for part in plan["memory"]["components"]} >= {"weights", "gradients", "optimizer"}


def test_a_model_that_does_not_fit_ends_the_dry_run_with_7(tmp_path):
    size = {"hidden_size": 65536, "intermediate_size": 10**6, "num_hidden_layers": 1000, "vocab_size": 10**6}
    heads = {"model_type": "llama", "num_attention_heads": 512, "num_key_value_heads": 512}
    (tmp_path / "config.json").write_text(json.dumps(size | heads))
    done = without_torch(f"model={tmp_path}", "--loss=dual_clip", "--dry-run")
    assert done.returncode == 7
    assert "training would not start on this machine" in done.stdout
    assert "memory: the rank needs" in done.stdout
    assert "or choose a smaller model" in " ".join(done.stdout.split())


def test_the_plan_reports_an_unset_source_of_prompts():
    done = without_torch("environment.name=gsm8k", "data.evaluation=nowhere/rows.jsonl", "--dry-run")
    assert "data          an unset source (see `missing`), shuffled" in done.stdout
    assert "from nowhere/rows.jsonl, temperature" in done.stdout
    assert "missing       command line  data.train: environment 'gsm8k' generates no problems: set" in done.stdout


def test_the_plan_fits_a_narrow_terminal():
    done = without_torch("--dry-run", COLUMNS="60")
    assert 50 < max(map(len, done.stdout.splitlines()[1:])) <= 60


def test_the_plan_as_json_holds_the_complete_configuration():
    chosen = ["--config", QUICKSTART, "--loss", "entropy_reg", "data.train=x.jsonl"]
    plan = json.loads(without_torch(*chosen, "--dry-run", "--json").stdout)
    assert plan["loss"]["distribution"] == "skyrl-loss-entropyreg"
    assert plan["defaults"] == "schema"
    assert plan["config"]["trainer"]["algorithm"]["entropy_reg"] == plan["loss"]["params"]
    assert plan["config"]["rollout"]["top_p"] == 1.0
    assert len(plan["missing"]) == 1


def test_the_first_rank_of_a_machine_reports_an_error_and_the_others_wait_for_it():
    command = [sys.executable, "-c", WITHOUT_TORCH, "trainer.steps=0"]
    environment = {**os.environ, "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as other:
        first = without_torch("trainer.steps=0", RANK="4", LOCAL_RANK="0", WORLD_SIZE="8")
        assert first.returncode == 4
        assert "must be > 0" in first.stderr
        other.terminate()  # as a launcher does when one of its processes has failed
        assert other.stderr.read() == ""


def test_a_rank_that_no_launcher_ends_reports_its_error(monkeypatch, capsys):
    monkeypatch.setattr(main_base, "HEAD_START", 0.01)
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stop:
        main_base.main(["trainer.steps=0"])
    assert stop.value.code == 4
    assert capsys.readouterr().err.startswith("[rank 1] error: ")


def test_only_rank_0_prints_the_plan():
    assert without_torch("--dry-run", RANK="1", LOCAL_RANK="1", WORLD_SIZE="2").stdout == ""


SCRIPT = """\
from skyrl_train.algorithms.policy_losses import PolicyLoss, register_policy_loss
from skyrl_train.entrypoints.main_base import main


class MyCustomPolicyLoss(PolicyLoss):
    def __init__(self, config):
        self.my_param = config.get("my_param", 1.0)

    def compute_loss(self, log_probs, old_log_probs, advantages, masks, **kwargs):
        return -(self.my_param * log_probs * advantages * masks).sum() / masks.sum()


register_policy_loss("my_custom_loss", MyCustomPolicyLoss)
main()
"""


def test_a_script_uses_the_loss_that_it_registers_and_fails_when_its_run_fails(tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(SCRIPT)
    chosen = ['trainer.algorithm.policy_loss_type="my_custom_loss"', "+trainer.algorithm.my_custom_loss.my_param=1.5"]
    plan = run(script, *chosen, "--dry-run")
    assert (plan.returncode, plan.stderr) == (0, "")
    assert "loss          my_custom_loss, from script" in plan.stdout
    assert "my_param = 1.5" in plan.stdout
    failed = run(script, *chosen, "trainer.steps=0")
    assert failed.returncode == 4
    assert "Traceback" not in failed.stderr


def test_the_module_and_the_command_are_the_same_program(run_skyrl):
    arguments = ["--config", str(QUICKSTART), "--dry-run"]
    module = run("-m", "skyrl_train.entrypoints.main_base", *arguments)
    command = run_skyrl("train", *arguments)
    assert (module.returncode, command.returncode) == (0, 0)
    assert module.stdout == command.stdout
    failed = run_skyrl("train", "trainer.steps=0")
    assert failed.returncode == 4
    assert failed.stderr == (
        "error: invalid configuration, 1 problem:\n  command line  trainer.steps = 0: must be > 0\n"
    )


@pytest.mark.parametrize(
    ("outcome", "code", "message"),
    [
        ("return 0", 0, ""),
        ("raise SkyrlError('the disk is full')", 2, "[rank 1] error: the disk is full\n"),
        ("raise KeyboardInterrupt", 130, ""),
    ],
)
def test_the_outcome_of_training_is_the_exit_code(tmp_path, outcome, code, message):
    # A real run takes minutes: this replacement ends in every way that a run can.
    script = tmp_path / "ends.py"
    script.write_text(
        "import sys, types\n"
        "from skyrl_core.errors import SkyrlError\n"
        "from skyrl_train.entrypoints.main_base import main\n"
        f"def run_training(run):\n    {outcome}\n"
        "module = types.ModuleType('skyrl_train.training.build')\n"
        "module.run_training = run_training\n"
        "sys.modules[module.__name__] = module\n"
        "main()\n"
    )
    done = run(script, RANK="1", LOCAL_RANK="1", WORLD_SIZE="2")
    assert (done.returncode, done.stderr) == (code, message)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--loss", "gspo", "--dry-run"], "The configuration is valid"),
        (["config", "trainer.steps"], "trainer.steps"),
        (["confg"], "no command is named 'confg'; did you mean 'config'?"),
        (["--los", "gspo"], "unknown option --los; did you mean --loss?"),
    ],
)
def test_the_trainer_runs_as_a_module(arguments, expected):
    command = [sys.executable, "-m", "skyrl_train", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert expected in done.stdout + done.stderr
    assert done.returncode == (0 if done.stdout else 2)
