"""How a network learns: one file a method."""

from sansref.methods.base import Draw, Example, Measured, Method, Needs, Turn, collate, measured, stack
from sansref.methods.idr import IDR, IDROptions
from sansref.methods.ssdu import SSDU, SSDUOptions
from sansref.methods.supervised import Supervised, SupervisedOptions

__all__ = [
    "IDR",
    "SSDU",
    "Draw",
    "Example",
    "IDROptions",
    "Measured",
    "Method",
    "Needs",
    "SSDUOptions",
    "Supervised",
    "SupervisedOptions",
    "Turn",
    "collate",
    "measured",
    "stack",
]
