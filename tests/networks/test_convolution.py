"""Our convolutions equal PyTorch's own, with all gradients, in every layout and precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sansref.networks import convolution
from sansref.networks.convolution import WIDE, NarrowConv2d, WideConv2d, conv3x3

SHAPES = [(2, 7), (7, 2), (1, 5), (5, 1), (2, 2), (1, 1)]


def gradients(output: Tensor, *inputs: Tensor) -> list[Tensor]:
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float32)
    return list(torch.autograd.grad((output * weights.to(output)).sum(), inputs))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_it_is_pytorchs_convolution(inputs: int, outputs: int, bias: bool, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    layer = conv3x3(inputs, outputs, bias).double()
    assert isinstance(layer, NarrowConv2d)
    image = torch.randn(3, inputs, 6, 9).double().to(memory_format=layout).requires_grad_()
    ours, theirs = layer(image), F.conv2d(image, layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(ours, theirs)
    wanted = (image, *layer.parameters())
    for one, other in zip(gradients(ours, *wanted), gradients(theirs, *wanted), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 4), (2, 3)])
def test_images_smaller_than_the_kernel(height: int, width: int) -> None:
    layer = conv3x3(4, 2, False)
    image = torch.randn(1, 4, height, width)
    torch.testing.assert_close(layer(image), F.conv2d(image, layer.weight, padding=1))


@pytest.mark.parametrize(("inputs", "outputs"), [(2, 16), (16, 2)])
def test_half_precision_is_about_as_near_as_pytorchs(inputs: int, outputs: int) -> None:
    torch.manual_seed(0)
    layer, image = conv3x3(inputs, outputs, True), torch.randn(2, inputs, 32, 32, requires_grad=True)
    exact = layer(image)
    wanted = (image, *layer.parameters())
    of_exact = gradients(exact, *wanted)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = layer(image), nn.Conv2d.forward(layer, image)
    assert ours.dtype == theirs.dtype == torch.bfloat16

    def distance(one: Tensor, other: Tensor) -> float:
        return float((one - other).detach().norm() / other.detach().norm())

    # Nine taps are rounded, where PyTorch rounds their sum.
    assert distance(ours, exact) <= 1.5 * distance(theirs, exact)
    of_theirs = gradients(theirs, *wanted)
    for one, other, truth in zip(gradients(ours, *wanted), of_theirs, of_exact, strict=True):
        assert one.dtype == torch.float32
        assert distance(one, truth) <= 1.5 * distance(other, truth) + 1e-6


def test_an_image_without_a_batch_axis() -> None:
    layer, image = conv3x3(4, 2, True), torch.randn(4, 5, 6)
    torch.testing.assert_close(layer(image), layer(image[None])[0])


def test_only_what_is_asked_for_is_computed() -> None:
    layer = conv3x3(3, 2, False)
    layer.weight.requires_grad_(False)
    image = torch.randn(1, 3, 5, 5, requires_grad=True)
    layer(image).sum().backward()
    assert image.grad is not None
    assert layer.weight.grad is None


@pytest.fixture
def without_avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")


def own(output: Tensor) -> bool:
    return "_ToMany" in type(output.grad_fn).__name__


@pytest.mark.usefixtures("without_avx512")
@pytest.mark.parametrize("at_a_time", [1, 2000, 2**18])  # a row, a few rows with a rest, the whole image
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 4), (7, 1), (11, 9), (16, 12)])
def test_many_channels(height: int, width: int, bias: bool, at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "_AT_A_TIME", at_a_time)
    torch.manual_seed(0)
    layer = conv3x3(WIDE, 20, bias)
    assert isinstance(layer, WideConv2d)
    image = torch.randn(3, WIDE, height, width).to(memory_format=torch.channels_last).requires_grad_()
    ours, theirs = layer(image), F.conv2d(image, layer.weight, layer.bias, padding=1)
    assert own(ours)
    assert torch.equal(ours, theirs)
    exact_image, exact = image.detach().double().requires_grad_(), [one.detach().double() for one in layer.parameters()]
    exact = [one.requires_grad_() for one in exact]
    truth = F.conv2d(exact_image, *exact, padding=1)
    wanted = (image, *layer.parameters())
    for one, other in zip(gradients(ours, *wanted), gradients(truth, exact_image, *exact), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-4)


@pytest.mark.usefixtures("without_avx512")
def test_a_gradient_in_another_memory_order() -> None:
    layer = conv3x3(WIDE, WIDE, False)
    image = torch.randn(2, WIDE, 6, 5).to(memory_format=torch.channels_last)
    weights = torch.randn(2, WIDE, 6, 5)
    (ours,) = torch.autograd.grad((layer(image) * weights).sum(), [layer.weight])
    (theirs,) = torch.autograd.grad((F.conv2d(image, layer.weight, padding=1) * weights).sum(), [layer.weight])
    torch.testing.assert_close(ours, theirs)


def test_many_channels_are_pytorchs_where_those_are_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = conv3x3(WIDE, WIDE, True)
    image = torch.randn(2, WIDE, 6, 5).to(memory_format=torch.channels_last)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert not own(layer(image))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert own(layer(image))
    assert not own(layer(image.contiguous()))
    assert not own(layer(image[0]))
    assert not own(layer.double()(image.double()))
    layer.float()
    assert not own(conv3x3(WIDE - 1, WIDE, True)(image[:, 1:].contiguous(memory_format=torch.channels_last)))
    with torch.no_grad():
        assert not own(layer(image))
    with torch.autocast("cpu", torch.bfloat16):
        assert not own(layer(image))
    layer.weight.requires_grad_(False)
    assert not own(layer(image.requires_grad_()))
