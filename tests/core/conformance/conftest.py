"""A correct loss package in a folder, which each test breaks in a different way."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "skyrl-loss-scaled"
version = "0.1.0"
license-files = ["LICENSE"]
dependencies = ["skyrl-core>=0.1,<0.2"]

[project.entry-points."skyrl.policy_losses"]
scaled = "skyrl_loss_scaled.loss:ScaledLoss"

[project.entry-points."skyrl.policy_loss_params"]
scaled = "skyrl_loss_scaled.params:ScaledParams"

[tool.hatch.build.targets.wheel]
packages = ["src/skyrl_loss_scaled"]
"""
PARAMS = """\
from pydantic import Field
from skyrl_core.parameters.loss_params import LossParams


class ScaledParams(LossParams):
    scale: float = Field(default=2.0, gt=0)
"""
LOSS = """\
from skyrl_core import PolicyLoss, TokenLosses
from skyrl_loss_scaled.params import ScaledParams


class ScaledLoss(PolicyLoss):
    name = "scaled"
    Params = ScaledParams
    api_version = 1
    semantics_version = 1

    def token_losses(self, batch):
        ratio = (batch.log_probs - batch.old_log_probs).clamp(-20, 20).exp()
        return TokenLosses(values=-self.params.scale * ratio * batch.advantages)
"""
FILES = {
    "pyproject.toml": PYPROJECT,
    "LICENSE": "Apache-2.0\n",
    "src/skyrl_loss_scaled/__init__.py": "",
    "src/skyrl_loss_scaled/params.py": PARAMS,
    "src/skyrl_loss_scaled/loss.py": LOSS,
    "src/skyrl_loss_scaled/py.typed": "",
}
MakePackage = Callable[..., Path]


@pytest.fixture
def package(tmp_path: Path) -> Iterator[MakePackage]:
    """Write the package with changes by file: (old text, new text), a new file's text, or None to leave it out."""
    unload()

    def make(changes: dict[str, tuple[str, str] | str | None] | None = None) -> Path:
        folder = tmp_path / "package"
        for path, text in {**FILES, **{path: "" for path in changes or {} if path not in FILES}}.items():
            change = (changes or {}).get(path, text)
            if isinstance(change, tuple):
                assert change[0] in text, (path, change)
                change = text.replace(*change)
            if change is not None:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_text(change)
        unload()
        return folder

    yield make
    unload()


def unload() -> None:
    """Unload the package, so that the next import reads its files again."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "skyrl_loss_scaled"]:
        del sys.modules[name]
