"""The signature of a loss: the weight of a token as a function of its importance ratio, measured and drawn."""

from skyrl_core.signature.measure import (
    ADVANTAGES,
    WIDE,
    Curve,
    Probe,
    Scale,
    Signature,
    check_range,
    measure_signature,
)
from skyrl_core.signature.svg_chart import svg
from skyrl_core.signature.text_chart import chart

__all__ = [
    "ADVANTAGES",
    "WIDE",
    "Curve",
    "Probe",
    "Scale",
    "Signature",
    "chart",
    "check_range",
    "measure_signature",
    "svg",
]
