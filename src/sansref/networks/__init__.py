"""What learns: networks from measured samples, or a zero-filled image, to an image."""

from sansref.networks.build import NetworkOptions, Reconstructor
from sansref.networks.istanet import ISTANet, load_official_weights
from sansref.networks.unet import UNet

__all__ = ["ISTANet", "NetworkOptions", "Reconstructor", "UNet", "load_official_weights"]
