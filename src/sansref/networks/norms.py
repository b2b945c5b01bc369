"""Normalisation layers of the unpaired networks, and the padding and initialisation they are published with."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

BATCH_INSTANCE_EPS = 1e-7
INSTANCE_EPS = 1e-5
NEGATIVE_SLOPE = 0.2
"""Of the leaky ReLU in all unpaired networks."""

INITIAL_STD = 0.05
"""Of the convolutions' kernels: a normal distribution cut off at two standard deviations; biases start at 0."""


class Style(NamedTuple):
    """Mean and standard deviation that adaptive instance normalisation gives each channel.

    Attributes
    ----------
    mean, std
        (batch, channels), or (channels,) for all.
    """

    mean: Tensor
    std: Tensor


class BatchInstanceNorm(nn.Module):
    """A learnt mixture of batch and instance normalisation (Nam and Kim, NeurIPS 2018).

    ``(rho * batch + (1 - rho) * instance) * gamma + beta``, always with the statistics of the images at hand, in
    use as in training. For a single image both normalisations are the same and ``rho`` has no effect.

    Parameters
    ----------
    channels
        Of the features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rho = nn.Parameter(torch.ones(channels))
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Tensor) -> Tensor:
        """Normalise (batch, channels, height, width)."""
        if features.shape[0] == 1:
            return instance_norm(features, BATCH_INSTANCE_EPS, self.gamma, self.beta)
        batch = F.batch_norm(features, None, None, training=True, eps=BATCH_INSTANCE_EPS)
        instance = instance_norm(features, BATCH_INSTANCE_EPS)
        # In mixed precision the features are of half precision, the parameters are not.
        mixed = torch.lerp(instance, batch, self.rho[:, None, None].to(batch.dtype))
        return mixed * self.gamma[:, None, None] + self.beta[:, None, None]

    @torch.no_grad()
    def clip(self) -> None:
        """Bring ``rho`` back into [0, 1], as is done after each update."""
        self.rho.clamp_(0, 1)


class AdaptiveInstanceNorm(nn.Module):
    """Instance normalisation whose mean and standard deviation are given from outside (Huang and Belongie, ICCV 2017).

    It has no parameters. Without a style the mean is 0 and the standard deviation 1.
    """

    def forward(self, features: Tensor, style: Style | None = None) -> Tensor:
        """Normalise (batch, channels, height, width), then scale and shift each channel."""
        normal = instance_norm(features, INSTANCE_EPS)
        if style is None:
            return normal
        return normal * style.std[..., None, None] + style.mean[..., None, None]


def instance_norm(features: Tensor, eps: float, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    """Bring each channel of each image (batch, channels, height, width) to mean 0 and variance 1; then scale and shift.

    As group normalisation with a group per channel, which for one image on a CPU takes a third of the time of PyTorch's
    instance normalisation: that calls its batch normalisation. Of one image with channels last batch normalisation is
    the same, and its gradient takes a tenth of the time.
    """
    if features.shape[0] == 1 and not features.is_contiguous():
        return F.batch_norm(features, None, None, scale, shift, training=True, eps=eps)
    return F.group_norm(features, features.shape[1], scale, shift, eps)


def arranged(image: Tensor) -> Tensor:
    """Lay (batch, channels, height, width) out in memory as the convolutions of the unpaired networks take least time.

    oneDNN computes in half precision with channels last, and copies what is given otherwise to and fro.
    """
    if image.shape[0] == 1 and image.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        return image.clone(memory_format=torch.channels_last)  # a mere view of one channel would not pass it on
    return image


def symmetric_pad(image: Tensor, width: int) -> Tensor:
    """Continue (..., height, width) by ``width`` pixels of its mirror image on all sides, the edge repeated.

    NumPy's and TensorFlow's "symmetric"; PyTorch's "reflect" leaves the edge pixel out.
    """
    padded: Tensor = _SymmetricPad.apply(image, width)  # type: ignore[no-untyped-call]
    return padded


class _SymmetricPad(torch.autograd.Function):
    """PyTorch's own gradient of the slices would be laid out in another order of memory than the image."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, width: int) -> Tensor:
        ctx.width = width
        for axis in (-2, -1):
            size = image.shape[axis]
            before = image.narrow(axis, 0, width).flip(axis)
            after = image.narrow(axis, size - width, width).flip(axis)
            image = torch.cat([before, image, after], dim=axis)
        return image

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        width = ctx.width
        for axis in (-1, -2):
            size = gradient.shape[axis] - 2 * width
            before, after = gradient.narrow(axis, 0, width), gradient.narrow(axis, width + size, width)
            gradient = gradient.narrow(axis, width, size).clone()
            gradient.narrow(axis, 0, width).add_(before.flip(axis))
            gradient.narrow(axis, size - width, width).add_(after.flip(axis))
        return gradient, None


def initialise(network: nn.Module) -> None:
    """Draw the kernels of all convolutions and set their biases to 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.trunc_normal_(module.weight, std=INITIAL_STD, a=-2 * INITIAL_STD, b=2 * INITIAL_STD)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def leaky(features: Tensor) -> Tensor:
    """The activation of all unpaired networks; overwrites its argument, which a normalisation has just made."""
    return F.leaky_relu_(features, NEGATIVE_SLOPE)
