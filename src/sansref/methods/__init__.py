"""How a network learns: one file a method."""

from sansref.methods.base import Draw, Method, Needs, Sample, Turn, Update
from sansref.methods.examples import Batch, ImagePair, KspaceExample, collate
from sansref.methods.idr import IDR, IDROptions
from sansref.methods.idr_paper import IDRPaper, IDRPaperOptions
from sansref.methods.ssdu import SSDU, SSDUOptions
from sansref.methods.supervised import Supervised, SupervisedOptions
from sansref.methods.unpaired.cyclegan import CycleGAN, CycleGANOptions
from sansref.methods.unpaired.iscl import ISCL, ISCLOptions, SwitchableISCL, SwitchableOptions
from sansref.methods.unpaired.supervised_generator import SupervisedGenerator, SupervisedGeneratorOptions
from sansref.methods.unpaired.translation import ImageTranslation
from sansref.methods.unrolled import UnrolledMethod

__all__ = [
    "IDR",
    "ISCL",
    "SSDU",
    "Batch",
    "CycleGAN",
    "CycleGANOptions",
    "Draw",
    "IDROptions",
    "IDRPaper",
    "IDRPaperOptions",
    "ISCLOptions",
    "ImagePair",
    "ImageTranslation",
    "KspaceExample",
    "Method",
    "Needs",
    "SSDUOptions",
    "Sample",
    "Supervised",
    "SupervisedGenerator",
    "SupervisedGeneratorOptions",
    "SupervisedOptions",
    "SwitchableISCL",
    "SwitchableOptions",
    "Turn",
    "UnrolledMethod",
    "Update",
    "collate",
]
