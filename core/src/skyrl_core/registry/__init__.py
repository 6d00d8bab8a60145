"""Losses and estimators by name, installed or registered in this process. Imports no torch until a name is used."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
