"""How to install the optional packages of the trainer: through its extras, as its installed metadata declares them."""

from skyrl_core.discovery import install_command

DISTRIBUTION = "skyrl-train"


def install_extra(module: str) -> str:
    """The command that installs an optional package, such as `python -m pip install 'skyrl-train[lora]'` for peft."""
    return install_command(module, DISTRIBUTION)
