"""The public face for scripts, environments, rollout engines, trackers and observers. Imports no torch.

A name is imported when it is first used; `__init__.pyi` lists them. They, `skyrl_train.entrypoints.main_base` and
`skyrl_train.algorithms.policy_losses` are stable; every other module may move.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
