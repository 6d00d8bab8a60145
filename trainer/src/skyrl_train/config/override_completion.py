"""What a shell can complete in an override: keys of the configuration, parameters of the loss, values."""

from collections.abc import Mapping
from typing import Any

from skyrl_core.discovery import PluginGroup
from skyrl_core.errors import SkyrlError
from skyrl_core.registry import LOSSES
from skyrl_train.config.options import Option, all_options

BLOCK = "trainer.algorithm."
USABLE = ("ok", "untyped")
GROUPS = {
    "trainer.algorithm.policy_loss_type": "skyrl.policy_losses",
    "trainer.algorithm.advantage_estimator": "skyrl.advantage_estimators",
    "environment.name": "skyrl.environments",
    "rollout.engine": "skyrl.rollout_engines",
}
"""Options whose value is the name of a plugin."""


def complete_key(prefix: str, **_: Any) -> dict[str, str]:
    """The options that start with the prefix."""
    return {option.key: option.description for option in all_options() if option.key.startswith(prefix)}


def complete_override(prefix: str, **_: Any) -> Mapping[str, str]:
    """`key=` for each option or parameter of a loss that starts with the prefix; after the `=`, its values."""
    key, equals, _value = prefix.partition("=")
    if equals:
        return {f"{key}={value}": "" for value in _values(key)}
    keys = complete_key(prefix) | _loss_params(prefix)
    return {f"{name}=": description for name, description in keys.items()}


def _values(key: str) -> list[str]:
    if key in GROUPS:
        claims = PluginGroup(GROUPS[key], "plugin").claims()
        return [claim.name for claim in claims if claim.status in USABLE]
    return [value for option in all_options() if option.key == key for value in _known_values(option)]


def _known_values(option: Option) -> list[str]:
    return ["true", "false"] if option.type == "true/false" else list(option.choices)


def _loss_params(prefix: str) -> dict[str, str]:
    """The parameters of the loss whose block the prefix names, such as `trainer.algorithm.gspo.`."""
    name, dot, _start = prefix.removeprefix(BLOCK).partition(".")
    if not prefix.startswith(BLOCK) or not dot:
        return {}
    try:
        claim = LOSSES.find(name)
        schema = LOSSES.schema(claim)
    except SkyrlError:
        return {}
    fields: Mapping[str, Any] = getattr(schema, "model_fields", {})
    return {f"{BLOCK}{name}.{field}": info.description or "" for field, info in fields.items()}
