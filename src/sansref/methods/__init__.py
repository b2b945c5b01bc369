"""How a network learns: one file a method."""

from sansref.methods.base import Draw, Method, Needs, Turn
from sansref.methods.batch import Batch, Example, Measured, Translation, collate, measured, stack
from sansref.methods.cyclegan import CycleGAN, CycleGANOptions
from sansref.methods.idr import IDR, IDROptions
from sansref.methods.iscl import ISCL, ISCLOptions
from sansref.methods.ssdu import SSDU, SSDUOptions
from sansref.methods.supervised import Supervised, SupervisedOptions
from sansref.methods.supervised_generator import SupervisedGenerator, SupervisedGeneratorOptions
from sansref.methods.switchable import SwitchableISCL, SwitchableOptions
from sansref.methods.translation import ImageTranslation

__all__ = [
    "IDR",
    "ISCL",
    "SSDU",
    "Batch",
    "CycleGAN",
    "CycleGANOptions",
    "Draw",
    "Example",
    "IDROptions",
    "ISCLOptions",
    "ImageTranslation",
    "Measured",
    "Method",
    "Needs",
    "SSDUOptions",
    "Supervised",
    "SupervisedGenerator",
    "SupervisedGeneratorOptions",
    "SupervisedOptions",
    "SwitchableISCL",
    "SwitchableOptions",
    "Translation",
    "Turn",
    "collate",
    "measured",
    "stack",
]
