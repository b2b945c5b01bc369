"""3x3 convolutions that are faster on a CPU than PyTorch's, and equal to them but for rounding.

Between one or two channels, an image's, and many: oneDNN pads the one or two channels to sixteen where they are the
output, or where their gradient is asked for, and so takes half as long as for 32 of them. Here such an output is a
product of all nine taps with the features at once, (9 k, channels) x (channels, pixels), whose nine images are then
added where they belong; the gradient of the kernel is the product of the nine moved images with the features. Where the
many channels are the output, oneDNN stays.

Between many and many: on a processor without AVX-512, oneDNN is slow at the gradient of the kernel where features lie
channels last. Here it is a product of the gradient with what each row of the kernel sees of the features, some rows of
the image at a time. Values and the gradient of the features stay oneDNN's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import conv2d, pad

NARROW = 2
"""Channels up to which the matrix products are faster for an image."""

WIDE = 17
"""Channels from which they are faster for the gradient of the kernel, without AVX-512."""

_AT_A_TIME = 2**18  # numbers that a product is given of the features: what a core keeps near itself


def conv3x3(inputs: int, outputs: int, bias: bool) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size of its input, the faster kind for these numbers of channels."""
    kind = NarrowConv2d if min(inputs, outputs) <= NARROW else WideConv2d
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
        kind: type[torch.autograd.Function] = _ToFew if self.out_channels <= NARROW else _ToMany
        output: Tensor = kind.apply(*given)  # type: ignore[no-untyped-call]
        return output


class WideConv2d(nn.Conv2d):
    """``nn.Conv2d`` with a 3x3 kernel and a padding of 1, whose kernel's gradient is faster without AVX-512."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (batch, inputs, height, width); faster in memory order channels last alone."""
        if not (torch.is_grad_enabled() and self.weight.requires_grad and _products_are_faster(input)):
            return super().forward(input)
        output: Tensor = _ToMany.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return output


def _products_are_faster(features: Tensor) -> bool:
    return (
        features.device.type == "cpu"
        and torch.backends.cpu.get_cpu_capability() == "AVX2"
        and features.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and features.ndim == 4
        and features.shape[1] >= WIDE
        and features.is_contiguous(memory_format=torch.channels_last)
    )


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


class _ToMany(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, given: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(given, kernel)
        return conv2d(given, kernel, bias, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        given, kernel = ctx.saved_tensors
        for_given, for_kernel, for_bias = ctx.needs_input_grad
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        found: list[Tensor | None] = [None, None, gradient.sum((0, 2, 3)) if for_bias else None]
        few = given.shape[1] <= NARROW
        if for_given:
            # The adjoint of a convolution is the one with the kernel turned by half a turn.
            found[0] = (
                _few(gradient, kernel.flip(2, 3).transpose(0, 1)) if few else _pytorchs(gradient, given, kernel, 0)
            )
        if for_kernel:
            found[1] = _pytorchs(gradient, given, kernel, 1) if few else _by_rows(given, gradient)
        return tuple(found)


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


def _by_rows(features: Tensor, gradient: Tensor) -> Tensor:
    """Gradient of a kernel (outputs, channels, 3, 3), from features and gradient channels last."""
    features, gradient = features.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1)
    batch, height, width, channels = features.shape
    outputs = gradient.shape[-1]
    rows = min(height, max(1, _AT_A_TIME * torch.get_num_threads() // (width * 3 * channels)))
    total = features.new_zeros(3, outputs, 3 * channels)
    # Each pixel between its left and its right neighbour, and a row more above and below; black beyond the image.
    seen = features.new_zeros(rows + 2, width, 3, channels)
    for first in range(0, height, rows):
        last = min(first + rows, height)
        above, below = max(first - 1, 0), min(last + 1, height)
        inside = slice(above - first + 1, below - first + 1)
        seen[inside.stop :] = 0
        for one in range(batch):
            for column, (to_columns, of_columns) in enumerate(_shifts(width)):
                seen[inside, to_columns, column] = features[one, above:below, of_columns]
            part = gradient[one, first:last].reshape(-1, outputs).t()
            for row in range(3):
                total[row].addmm_(part, seen[row : row + last - first].view(-1, 3 * channels))
    return total.view(3, outputs, 3, channels).permute(1, 3, 0, 2)
