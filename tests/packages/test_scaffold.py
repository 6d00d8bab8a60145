"""What `skyrl losses new` writes is a package: built, installed by pip from an index, listed, checked, tested, trained.

Everything of ours comes from wheels, the templates too; the other packages are lent by this process.
"""

import json
import re
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


class Workshop:
    """A shell of a loss author: an environment with skyrl-train, installed from an index."""

    def __init__(self, environment, index, run, folder):
        self.environment = environment
        self.index = index
        self.folder = folder
        self._run = run
        self._settings = environment.settings(index.address)

    def run(self, command):
        return self._run("bash", "-c", command, cwd=self.folder, **self._settings)

    def fails(self, command):
        """The output of a command that must not succeed."""
        return self.run(f"if {command} 2>&1; then echo it succeeded; exit 1; fi")


@pytest.fixture(scope="module")
def workshop(tmp_path_factory, new_environment, build_wheel, wheels, index, run):
    index.add("skyrl-core", wheels["skyrl-core"])
    index.add("skyrl-train", build_wheel(ROOT / "trainer"))
    folder = tmp_path_factory.mktemp("workshop")
    environment = new_environment(folder / "venv", with_pip=True)
    environment.lend_third_party()
    workshop = Workshop(environment, index, run, folder)
    said = workshop.run("pip install skyrl-train")
    assert re.search(r"Successfully installed skyrl-core-\S+ skyrl-train-\S+\s*$", said), said
    return workshop


def publish(workshop, package, build_wheel):
    """Build the package and put it on the index, as its author would."""
    wheel = build_wheel(workshop.folder / package)
    workshop.index.add(package, wheel)
    return wheel


def test_our_own_code_is_that_of_the_wheels(workshop):
    code = "import skyrl_core, skyrl_train; print(skyrl_core.__file__, skyrl_train.__file__, sep='\\n')"
    for file in workshop.run(f'python -c "{code}"').split():
        assert Path(file).is_relative_to(workshop.environment.folder / "lib")


@pytest.mark.parametrize(
    ("given", "form", "name", "distribution"),
    [
        ("SoftClip", "token", "soft_clip", "skyrl-loss-softclip"),
        ("hard-clip", "scalar", "hard_clip", "skyrl-loss-hardclip"),
    ],
)
def test_a_new_loss_is_built_installed_listed_checked_tested_and_trained(
    workshop, build_wheel, given, form, name, distribution
):
    workshop.run(f"skyrl losses new {given} --form {form}")
    publish(workshop, distribution, build_wheel)

    said = workshop.run(f"pip install {distribution}")
    assert re.search(rf"Downloading {re.escape(workshop.index.address)}/{distribution}/\S+\.whl", said)
    assert f"Successfully installed {distribution}-0.1.0" in said
    assert workshop.environment.listing()[name] == ("0.1.0", distribution, "ok")
    checked = workshop.run(f"skyrl losses check {name}")
    assert re.search(rf"^{name} \({distribution} 0\.1\.0\) keeps all \d+ rules$", checked, flags=re.MULTILINE)

    tested = workshop.run(f"python -m pytest -p no:cacheprovider {distribution}")
    assert re.search(r"=+ \d+ passed in ", tested), tested

    options = " ".join(f"{key}={json.dumps(value)}" for key, value in TINY.items())
    workshop.run(f"skyrl train --loss {name} run_folder=run_{name} trainer.algorithm.{name}.clip=0.1 {options}")
    folder = workshop.folder / f"run_{name}"
    identity = json.loads((folder / "run.json").read_text())["loss"]
    assert (identity["id"], identity["params"]) == (f"{distribution}:{name}@1", {"clip": 0.1})
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in steps] == [1, 2]
    assert all(line["grad_norm"] > 0 for line in steps)
    # Only a loss that gives a value for every token can say how many of them the clip stopped.
    assert [key for key in steps[0] if "clip_fraction" in key] == (["clip_fraction"] if form == "token" else [])


def test_the_suite_of_a_new_package_finds_a_wrong_sign(workshop):
    workshop.run("skyrl losses new wrong_sign")
    loss = workshop.folder / "skyrl-loss-wrongsign/src/skyrl_loss_wrongsign/loss.py"
    right = loss.read_text()
    assert right.count("return -torch.minimum") == 1
    loss.write_text(right.replace("return -torch.minimum", "return torch.minimum"))
    workshop.run("pip install --no-build-isolation ./skyrl-loss-wrongsign")
    said = workshop.fails("python -m pytest -p no:cacheprovider skyrl-loss-wrongsign")
    assert "gradient_sign: a step raises the log-prob of tokens with A > 0" in said
    failed = re.findall(r"^FAILED \S+::(\w+)", said, flags=re.MULTILINE)
    # The rule, with the defaults and at both ends of the range; and the numbers by hand.
    assert failed == ["test_package", "test_loss", "test_loss", *["test_each_regime_by_hand"] * 5], said
