"""3x3 convolutions between one or two channels, an image's, and many: on a CPU by matrix products.

oneDNN pads the one or two channels to sixteen where they are the output, or where their gradient is asked for, and so
takes half as long as for 32 of them. Here such an output is a product of all nine taps with the features at once,
(9 k, channels) x (channels, pixels), whose nine images are then added where they belong; the gradient of the kernel is
the product of the nine moved images with the features. Where the many channels are the output, oneDNN stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import conv2d, pad

NARROW = 2
"""Channels up to which the matrix products are faster."""


def conv3x3(inputs: int, outputs: int, bias: bool) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size of its input, the faster kind for these numbers of channels."""
    kind = NarrowConv2d if min(inputs, outputs) <= NARROW else nn.Conv2d
    return kind(inputs, outputs, 3, padding=1, bias=bias)


class NarrowConv2d(nn.Conv2d):
    """``nn.Conv2d`` with a 3x3 kernel and a padding of 1, equal to it but for rounding, and faster on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (batch, inputs, height, width); memory order channels last saves a copy."""
        if input.device.type != "cpu" or input.ndim != 4:  # such as one image without a batch axis
            return super().forward(input)
        given: tuple[Tensor | None, ...] = (input, self.weight, self.bias)
        if torch.is_autocast_enabled("cpu"):
            half = torch.get_autocast_dtype("cpu")
            given = tuple(None if one is None else one.to(half) for one in given)
        kind: type[torch.autograd.Function] = _ToFew if self.out_channels <= NARROW else _FromFew
        output: Tensor = kind.apply(*given)  # type: ignore[no-untyped-call]
        return output


class _ToFew(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(features, kernel)
        image = _few(features, kernel)
        return image if bias is None else image + bias[:, None, None]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, kernel = ctx.saved_tensors
        for_features, for_kernel, for_bias = ctx.needs_input_grad
        return (
            _pytorchs(gradient, features, kernel, 0) if for_features else None,
            _gradient_of_kernel(features, gradient) if for_kernel else None,
            gradient.sum((0, 2, 3)) if for_bias else None,
        )


class _FromFew(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(image, kernel)
        return conv2d(image, kernel, bias, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        image, kernel = ctx.saved_tensors
        for_image, for_kernel, for_bias = ctx.needs_input_grad
        return (
            # The adjoint of a convolution is the one with the kernel turned by half a turn.
            _few(gradient, kernel.flip(2, 3).transpose(0, 1)) if for_image else None,
            _pytorchs(gradient, image, kernel, 1) if for_kernel else None,
            gradient.sum((0, 2, 3)) if for_bias else None,
        )


def _pytorchs(gradient: Tensor, given: Tensor, kernel: Tensor, which: int) -> Tensor:
    """PyTorch's gradient for what a convolution is given (0) or for its kernel (1).

    ``torch.nn.grad`` has it too, but makes up one of the tensors and so loses the memory order of the real one.
    """
    mask = [which == 0, which == 1, False]
    found = torch.ops.aten.convolution_backward(
        gradient, given, kernel, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, mask
    )
    answer: Tensor = found[which]
    return answer


def _few(features: Tensor, kernel: Tensor) -> Tensor:
    """The convolution of (batch, channels, height, width) by (few, channels, 3, 3)."""
    batch, channels, height, width = features.shape
    pixels = features.permute(0, 2, 3, 1).reshape(-1, channels)
    taps = kernel.permute(2, 3, 0, 1).reshape(-1, channels) @ pixels.t()
    taps = taps.view(3, 3, len(kernel), batch, height, width)
    # Nine numbers are added to one: in half precision each sum would be rounded.
    image = taps.new_zeros(taps.shape[2:], dtype=torch.promote_types(taps.dtype, torch.float32))
    for row, (to_rows, of_rows) in enumerate(_shifts(height)):
        for column, (to_columns, of_columns) in enumerate(_shifts(width)):
            image[..., to_rows, to_columns] += taps[row, column][..., of_rows, of_columns]
    return image.to(features.dtype).transpose(0, 1).contiguous(memory_format=torch.channels_last)


def _shifts(size: int) -> Iterator[tuple[slice, slice]]:
    """For each of the three taps along an axis, which pixels of the output it adds to, and from which of the input."""
    yield slice(1, size), slice(0, size - 1)
    yield slice(0, size), slice(0, size)
    yield slice(0, size - 1), slice(1, size)


def _gradient_of_kernel(features: Tensor, gradient: Tensor) -> Tensor:
    """Of a convolution to few channels, (few, channels, 3, 3), from the gradient (batch, few, height, width)."""
    few, channels = gradient.shape[1], features.shape[1]
    height, width = gradient.shape[2:]
    framed = pad(gradient.transpose(0, 1).contiguous(), (1, 1, 1, 1))
    moved = [framed[..., 2 - row :, 2 - column :] for row in range(3) for column in range(3)]
    nine = torch.stack([one[..., :height, :width] for one in moved]).reshape(9 * few, -1)
    product = nine @ features.permute(0, 2, 3, 1).reshape(-1, channels)
    return product.view(3, 3, few, channels).permute(2, 3, 0, 1)
