"""The signature of a loss: the weight of a token as a function of its importance ratio, measured and drawn."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
