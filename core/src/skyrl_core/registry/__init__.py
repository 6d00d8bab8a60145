"""Losses and estimators by name, installed or registered. Imports no torch until a name is used.

Decision: a loss is rebuilt when a schedule changes one of its parameters. A class may read its parameters in its
constructor, as the scalar form does, so a change in place would go unnoticed. State from `after_step` moves to
the new instance.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
