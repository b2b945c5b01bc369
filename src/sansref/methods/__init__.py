"""How a network learns: one file a method.

A method makes examples of a scan, and takes steps on batches of them; :mod:`sansref.training` does the rest.

>>> import torch
>>> from sansref.kspace import MaskFamily
>>> from sansref.methods import SSDU, Draw, Sample, SSDUOptions, collate
>>> from sansref.networks import NetworkOptions, Reconstructor
>>> from sansref.scan import Scan, ScanMeta
>>> generator = torch.Generator().manual_seed(0)
>>> mask = torch.rand(32, 32, generator=generator) < 0.5
>>> kspace = torch.randn(1, 32, 32, dtype=torch.complex64, generator=generator) * mask
>>> scan = Scan(kspace, mask, ScanMeta("anna", "knee.h5"))
>>> method = SSDU(Reconstructor(NetworkOptions(phases=1, channels=2)), SSDUOptions(), MaskFamily())
>>> batch = collate([method.examples(Sample(scan), Draw(seed=0, epoch=0, item=0))])
>>> for update in method.step(batch):
...     print(update.turn.name, update.loss.requires_grad)
network True
>>> method.reconstruct(scan.batch()).shape
torch.Size([1, 32, 32])
"""

from sansref.methods.base import Draw, Method, Needs, Sample, Turn, Update
from sansref.methods.examples import Batch, ImagePair, KspaceExample, collate
from sansref.methods.idr import IDR, IDROptions
from sansref.methods.idr_paper import IDRPaper, IDRPaperOptions
from sansref.methods.ssdu import SSDU, SSDUOptions
from sansref.methods.supervised import Supervised, SupervisedOptions
from sansref.methods.unpaired.cyclegan import CycleGAN, CycleGANOptions
from sansref.methods.unpaired.iscl import ISCL, ISCLOptions, SwitchableISCL, SwitchableOptions
from sansref.methods.unpaired.supervised_generator import SupervisedGenerator
from sansref.methods.unpaired.translation import ImageTranslation
from sansref.methods.unrolled import UnrolledMethod, mixed_l1_l2, weighted_mse

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
    "SupervisedOptions",
    "SwitchableISCL",
    "SwitchableOptions",
    "Turn",
    "UnrolledMethod",
    "Update",
    "collate",
    "mixed_l1_l2",
    "weighted_mse",
]
