"""The configurations that ship with the trainer, by name."""

from dataclasses import dataclass
from pathlib import Path

from skyrl_core.errors import nearest

FOLDER = Path(__file__).with_name("presets")
SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A configuration that ships with the trainer."""

    name: str
    file: Path

    @property
    def summary(self) -> str:
        """The first line of the file, which is a comment."""
        return self.file.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")


def all_presets() -> list[Preset]:
    """Every preset, the quickstart first, then by name."""
    names = sorted((file.name.removesuffix(".yaml") for file in FOLDER.glob("*.yaml")), key=_quickstart_first)
    return [Preset(name=name, file=FOLDER / f"{name}.yaml") for name in names]


def find_preset(given: Path) -> Preset | None:
    """The preset that `--config` names; None if it is the path of a file, which takes precedence."""
    if not is_preset_name(given) or given.is_file():
        return None
    return next((preset for preset in all_presets() if preset.name == given.name), None)


def is_preset_name(given: Path) -> bool:
    """Whether `--config` means a preset if no file has this name: it has neither a folder nor the suffix of YAML."""
    return len(given.parts) == 1 and given.suffix not in SUFFIXES


def source_name(given: Path) -> str:
    """What messages and the plan call the configuration: `preset NAME`, or the path."""
    preset = find_preset(given)
    return f"preset {preset.name}" if preset else str(given)


def preset_hint(given: Path) -> str:
    """The hint about presets for a `--config` that is neither a file nor a preset; empty if none is similar."""
    presets = [preset.name for preset in all_presets()]
    stem = given.name.removesuffix(given.suffix) if given.suffix in SUFFIXES else given.name
    match = nearest(stem, presets)
    if match:
        return f"; did you mean the preset `--config {match}`?"
    return "; `skyrl config --presets` lists the presets" if is_preset_name(given) else ""


def _quickstart_first(name: str) -> tuple[bool, str]:
    return name != "quickstart", name
