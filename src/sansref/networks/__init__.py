"""What learns: networks from measured samples, or from an image, to an image; and those that judge images.

>>> import torch
>>> from sansref.kspace import Measurement
>>> from sansref.networks import NetworkOptions, Reconstructor
>>> network = Reconstructor(NetworkOptions(phases=2, channels=4))
>>> mask = torch.ones(1, 32, 32, dtype=torch.bool)
>>> given = Measurement(torch.randn(1, 1, 32, 32, dtype=torch.complex64), mask)
>>> network(given).shape
torch.Size([1, 32, 32])
"""

from sansref.networks.istanet import ISTANet, load_hu2021_weights, load_official_weights
from sansref.networks.modl import MoDL
from sansref.networks.reconstructor import Network, NetworkOptions, Reconstructor
from sansref.networks.translators import TranslatorOptions
from sansref.networks.unet import UNet

__all__ = [
    "ISTANet",
    "MoDL",
    "Network",
    "NetworkOptions",
    "Reconstructor",
    "TranslatorOptions",
    "UNet",
    "load_hu2021_weights",
    "load_official_weights",
]
