"""LPIPS: how different two images look, measured in the features of a network that was trained on photographs.

Zhang et al., "The unreasonable effectiveness of deep features as a perceptual metric", CVPR 2018 (arXiv 1801.03924),
version 0.1 of the weights. The features have never seen a medical image: LPIPS ranks textures much as people do, and
says nothing about anatomy. A number without its backbone ("alex" or "vgg") cannot be compared with another.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from sansref.errors import SettingError
from sansref.metrics.lpips_features import BACKBONES, BackboneName, Features, load_features, read_tensors

EPSILON = 1e-10
"""Added to the norm of a pixel's features, as in the reference implementation."""

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""ImageNet's mean and standard deviation per colour, for images in [-1, 1]."""


class LPIPS(nn.Module):
    """Learned perceptual image patch similarity; 0 for equal images, higher is worse.

    Parameters
    ----------
    name
        Backbone.
    features
        Its network.
    heads
        Weights of the channels at each tap, float32 (channels,).
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, name: BackboneName, features: Features, heads: Sequence[Tensor]) -> None:
        super().__init__()
        self.name = name
        self.features = features
        self.heads = nn.ParameterList(heads)
        self.register_buffer("shift", torch.tensor(SHIFT).reshape(3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).reshape(3, 1, 1))
        self.requires_grad_(False)

    @classmethod
    def load(cls, name: BackboneName, weights: Path | str | None = None, download: bool = False) -> LPIPS:
        """Load a backbone and its heads.

        Parameters
        ----------
        name
            "alex" (AlexNet, the reference implementation's choice for scores) or "vgg" (VGG16).
        weights
            File of the backbone's weights, torchvision's state dict (``.pth``) or ``.safetensors``; None takes them
            from PyTorch's cache.
        download
            Fetch what the cache does not hold.

        Raises
        ------
        MissingWeightsError
            If there are no weights and ``download`` is false.
        FileError
            If a file of weights cannot be read or holds those of another network.
        SettingError
            If the download fails, or the installed torchmetrics has no heads.
        """
        backbone = BACKBONES[name]
        features = load_features(backbone, None if weights is None else Path(weights), download)
        heads = read_tensors(_heads_file(name))
        return cls(name, features, [heads[f"lin{tap}.model.1.weight"].flatten() for tap in range(len(backbone.taps))])

    def forward(self, image: Tensor, reference: Tensor, data_range: float | Tensor) -> Tensor:
        """Distance of magnitude images.

        The range [0, ``data_range``] becomes [-1, 1]. Values beyond it are kept, as in PSNR and NMSE: an image that is
        too bright is not the equal of one that just reaches the peak.

        Parameters
        ----------
        image, reference
            Real, (..., height, width).
        data_range
            Positive; a tensor is broadcast over the leading axes.

        Returns
        -------
        Tensor
            (...), in the dtype of the weights, float32 unless they were converted.

        Raises
        ------
        ValueError
            If an image is complex, the shapes differ or the range is not positive.
        SettingError
            If the images are too small for the backbone.
        """
        for title, tensor in (("image", image), ("reference", reference)):
            if tensor.is_complex():
                raise ValueError(f"{title} is complex: take its magnitude first")
        if image.shape != reference.shape or image.ndim < 2:
            shapes = f"{tuple(image.shape)} and {tuple(reference.shape)}"
            raise ValueError(f"image and reference must both be (..., height, width), got {shapes}")
        peak = torch.as_tensor(data_range, dtype=torch.float64, device=image.device)
        if not bool((peak > 0).all()):
            raise ValueError(f"data_range must be positive, got {data_range}")
        peak = peak.broadcast_to(image.shape[:-2]).flatten()
        plane = image.shape[-2:]
        # One slice at a time: VGG16's first tap alone is 64 times the image.
        pairs = zip(image.reshape(-1, *plane), reference.reshape(-1, *plane), peak, strict=True)
        values = [self.distance(self._grey(x, level), self._grey(y, level)) for x, y, level in pairs]
        return torch.cat(values).reshape(image.shape[:-2]) if values else image.new_zeros(image.shape[:-2])

    def distance(self, image: Tensor, reference: Tensor) -> Tensor:
        """Distance (batch) of colour images (batch, 3, height, width) in [-1, 1], see :meth:`forward`."""
        backbone = BACKBONES[self.name]
        if min(image.shape[-2:]) < backbone.smallest:
            raise SettingError(
                f"an image of {image.shape[-2]} x {image.shape[-1]} pixels is too small for LPIPS with "
                f"{backbone.title}, which needs {backbone.smallest} x {backbone.smallest}: use --lpips none"
            )
        pair = (torch.cat([image, reference]) - self.shift) / self.scale
        total = torch.zeros((), device=image.device)
        for activations, head in zip(self.features(pair), self.heads, strict=True):
            norm = torch.linalg.vector_norm(activations, dim=1, keepdim=True)
            ours, theirs = (activations / (norm + EPSILON)).chunk(2)
            total = total + torch.einsum("c,bchw->b", head, (ours - theirs).square()) / ours[0, 0].numel()
        return total

    def _grey(self, image: Tensor, peak: Tensor) -> Tensor:
        """A magnitude image (height, width) as three equal colours (1, 3, height, width)."""
        return (2 * image.to(peak.dtype) / peak - 1).to(self.shift.dtype).expand(1, 3, -1, -1)


def _heads_file(name: BackboneName) -> Path:
    """The heads that torchmetrics ships; torchmetrics itself is not imported, its LPIPS needs torchvision."""
    package = importlib.util.find_spec("torchmetrics")
    folders = [] if package is None else package.submodule_search_locations or []
    for folder in folders:
        file = Path(folder) / "functional" / "image" / "lpips_models" / f"{name}.pth"
        if file.exists():
            return file
    raise SettingError("LPIPS takes its heads from torchmetrics 1.x, which is not installed here: install torchmetrics")
