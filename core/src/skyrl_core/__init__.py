"""What a policy loss is made of: contract, discovery, built-in losses, conformance. Importing it imports no torch.

Names are imported when they are first used (PEP 562), so that the `skyrl` command answers at once.
"""

TYPE_CHECKING = False  # as type checkers know it; importing typing costs more than all of this module

if TYPE_CHECKING:
    from skyrl_core.advantages.estimator import AdvantageBatch, AdvantageEstimator
    from skyrl_core.conformance import check_policy_loss
    from skyrl_core.estimator_registry import load_advantage_estimator, register_advantage_estimator
    from skyrl_core.loss_identity import LossIdentity
    from skyrl_core.metric import Metric
    from skyrl_core.params import LossParams
    from skyrl_core.plugin_policy import PluginPolicy
    from skyrl_core.policy_loss import LossBatch, Need, PolicyLoss, TokenLosses
    from skyrl_core.registry import (
        describe_loss,
        load_policy_loss,
        policy_losses,
        register_policy_loss,
        validate_loss_params,
    )

    __version__: str

__all__ = [
    "AdvantageBatch",
    "AdvantageEstimator",
    "LossBatch",
    "LossIdentity",
    "LossParams",
    "Metric",
    "Need",
    "PluginPolicy",
    "PolicyLoss",
    "TokenLosses",
    "__version__",
    "check_policy_loss",
    "describe_loss",
    "load_advantage_estimator",
    "load_policy_loss",
    "policy_losses",
    "register_advantage_estimator",
    "register_policy_loss",
    "validate_loss_params",
]

_MODULES = {
    "advantages.estimator": ("AdvantageBatch", "AdvantageEstimator"),
    "conformance": ("check_policy_loss",),
    "estimator_registry": ("load_advantage_estimator", "register_advantage_estimator"),
    "loss_identity": ("LossIdentity",),
    "metric": ("Metric",),
    "params": ("LossParams",),
    "plugin_policy": ("PluginPolicy",),
    "policy_loss": ("LossBatch", "Need", "PolicyLoss", "TokenLosses"),
    "registry": (
        "describe_loss",
        "load_policy_loss",
        "policy_losses",
        "register_policy_loss",
        "validate_loss_params",
    ),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib_metadata import version

        value: object = version("skyrl-core")
    elif name in _MODULE_OF:
        from importlib import import_module

        value = getattr(import_module(f"skyrl_core.{_MODULE_OF[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
