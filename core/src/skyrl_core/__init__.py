"""The public face for authors of losses and estimators. Importing it does not import torch.

A name is imported when it is first used; `__init__.pyi` lists them. These names, `skyrl_core.maths` and
`skyrl_core.testing` are stable; every other module may move.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
