"""What learns: networks from measured samples, or from an image, to an image; and those that judge images."""

from sansref.networks.istanet import ISTANet, load_official_weights
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
    "load_official_weights",
]
