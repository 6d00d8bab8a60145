"""The signature of a loss: the weight of a token over its importance ratio, measured and plotted."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
