"""A package from `skyrl losses new` can be built, installed by pip from an index, listed, checked, tested and trained.

The project's packages, templates included, come from wheels; all others are linked from this process.
"""

import json
import re
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.packages

ROOT = Path(__file__).parents[2]
TINY = {
    "model": "tiny",
    "trainer.steps": 2,
    "trainer.prompts_per_step": 8,
    "trainer.samples_per_prompt": 4,
    "trainer.minibatches": 2,
    "trainer.threads": 1,
    "trainer.optimizer.learning_rate": 1e-4,
    "rollout.max_new_tokens": 24,
    "evaluation.prompts": 2,
}


class AuthorShell:
    """The shell of an author: an environment in which skyrl-train is installed from an index."""

    def __init__(self, environment, index, run, folder):
        self.environment = environment
        self.index = index
        self.folder = folder
        self._run = run
        self._settings = environment.settings(index.address)

    def run(self, command):
        return self._run("bash", "-c", command, cwd=self.folder, **self._settings)

    def run_failing(self, command):
        """Run a command that must fail, and return its output."""
        return self.run(f"if {command} 2>&1; then echo it succeeded; exit 1; fi")


@pytest.fixture(scope="module")
def shell(tmp_path_factory, new_environment, build_wheel, wheels, index, run):
    index.add("skyrl-core", wheels["skyrl-core"])
    index.add("skyrl-train", build_wheel(ROOT / "trainer"))
    folder = tmp_path_factory.mktemp("shell")
    environment = new_environment(folder / "venv", with_pip=True)
    environment.link_third_party()
    shell = AuthorShell(environment, index, run, folder)
    output = shell.run("pip install skyrl-train")
    assert re.search(r"Successfully installed skyrl-core-\S+ skyrl-train-\S+\s*$", output), output
    return shell


def publish(shell, package, build_wheel):
    """Build the package and put it on the index, as its author would."""
    wheel = build_wheel(shell.folder / package)
    shell.index.add(package, wheel)
    return wheel


def test_the_code_of_the_project_comes_from_wheels(shell):
    code = "import skyrl_core, skyrl_train; print(skyrl_core.__file__, skyrl_train.__file__, sep='\\n')"
    for file in shell.run(f'python -c "{code}"').split():
        assert Path(file).is_relative_to(shell.environment.folder / "lib")


@pytest.mark.parametrize(
    ("given", "form", "name", "distribution"),
    [
        ("SoftClip", "token", "soft_clip", "skyrl-loss-softclip"),
        ("hard-clip", "scalar", "hard_clip", "skyrl-loss-hardclip"),
    ],
)
def test_a_new_loss_is_built_installed_listed_checked_tested_and_trained(
    shell, build_wheel, given, form, name, distribution
):
    shell.run(f"skyrl losses new {given} --form {form}")
    publish(shell, distribution, build_wheel)

    output = shell.run(f"pip install {distribution}")
    assert re.search(rf"Downloading {re.escape(shell.index.address)}/{distribution}/\S+\.whl", output)
    assert f"Successfully installed {distribution}-0.1.0" in output
    assert shell.environment.listing()[name] == ("0.1.0", distribution, "ok")
    checked = shell.run(f"skyrl losses check {name}")
    assert re.search(rf"^{name} \({distribution} 0\.1\.0\) keeps all \d+ rules$", checked, flags=re.MULTILINE)

    tested = shell.run(f"python -m pytest -p no:cacheprovider {distribution}")
    assert re.search(r"=+ \d+ passed in ", tested), tested

    options = " ".join(f"{key}={json.dumps(value)}" for key, value in TINY.items())
    shell.run(f"skyrl train --loss {name} run_folder=run_{name} trainer.algorithm.{name}.clip=0.1 {options}")
    folder = shell.folder / f"run_{name}"
    identity = json.loads((folder / "run.json").read_text())["loss"]
    assert (identity["id"], identity["params"]) == (f"{distribution}:{name}@1", {"clip": 0.1})
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in steps] == [1, 2]
    assert all(line["grad_norm"] > 0 for line in steps)
    # Only a loss in token form logs the fraction of clipped tokens.
    assert [key for key in steps[0] if "clip_fraction" in key] == (["clip_fraction"] if form == "token" else [])


def test_the_tests_of_a_new_package_find_a_wrong_sign(shell):
    shell.run("skyrl losses new wrong_sign")
    loss = shell.folder / "skyrl-loss-wrongsign/src/skyrl_loss_wrongsign/loss.py"
    source = loss.read_text()
    assert source.count("return -torch.minimum") == 1
    loss.write_text(source.replace("return -torch.minimum", "return torch.minimum"))
    shell.run("pip install --no-build-isolation ./skyrl-loss-wrongsign")
    output = shell.run_failing("python -m pytest -p no:cacheprovider skyrl-loss-wrongsign")
    assert "gradient_sign: at ratio 1 a step raises the log-prob of tokens with A > 0" in output
    failed = re.findall(r"^FAILED \S+::(\w+)", output, flags=re.MULTILINE)
    # The rule, with the defaults and at both ends of the range; and the values worked out by hand.
    assert failed == ["test_package", "test_loss", "test_loss", *["test_each_regime_by_hand"] * 5], output


def test_from_a_name_to_a_trained_step_it_takes_at_most_four_commands(shell, new_author):
    author = new_author(shell.folder, shell.environment, shell.index)
    commands, started = ["skyrl losses new first_step"], time.monotonic()
    printed = author.run(commands[0])
    commands += re.findall(r"^  (.*)$", printed.partition("next:\n")[2].partition("after")[0], flags=re.MULTILINE)
    assert len(commands) <= 4
    assert commands[-1] == "skyrl train --loss first_step"
    for command in commands[1:]:
        author.run(command)
    print(f"{len(commands)} commands, {(time.monotonic() - started) / 60:.1f} minutes to a trained step")
