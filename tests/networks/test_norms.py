"""Normalisation, padding and initialisation of the unpaired networks, against PyTorch's, NumPy's and SciPy's own."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from helpers import scans
from sansref.networks.norms import (
    BATCH_INSTANCE_EPS,
    AdaptiveInstanceNorm,
    BatchInstanceNorm,
    Style,
    initialise,
    leaky,
    symmetric_pad,
)

CHANNELS = 3
PLANE = (-2, -1)


noise = partial(scans.noise, dtype=torch.float64)


def features(batch: int = 4, scale: float = 2.0) -> Tensor:
    """Images whose means and deviations differ, so that it matters over what they are normalised."""
    level = 1 + torch.arange(batch * CHANNELS, dtype=torch.float64).reshape(batch, CHANNELS, 1, 1)
    return scale * level.sqrt() * noise(batch, CHANNELS, 6, 5) + level


def channels_last(image: Tensor) -> Tensor:
    return image.clone(memory_format=torch.channels_last)


def norm(rho: float = 1.0) -> BatchInstanceNorm:
    made = BatchInstanceNorm(CHANNELS).double()
    with torch.no_grad():
        made.rho.fill_(rho)
        made.gamma.copy_(torch.tensor([0.5, -1.0, 3.0]))
        made.beta.copy_(torch.tensor([1.0, 0.0, -2.0]))
    return made


def batch_norm(image: Tensor, like: BatchInstanceNorm) -> Tensor:
    made = nn.BatchNorm2d(CHANNELS, eps=1e-7).double().train()
    made.load_state_dict({"weight": like.gamma, "bias": like.beta}, strict=False)
    return made(image)


def instance_norm(image: Tensor, like: BatchInstanceNorm) -> Tensor:
    made = nn.InstanceNorm2d(CHANNELS, eps=1e-7, affine=True).double()
    made.load_state_dict({"weight": like.gamma, "bias": like.beta})
    return made(image)


def test_it_begins_as_batch_normalisation_without_scale_and_shift() -> None:
    mean, std = features().mean((0, *PLANE), keepdim=True), features().std((0, *PLANE), keepdim=True, correction=0)
    torch.testing.assert_close(BatchInstanceNorm(CHANNELS).double()(features()), (features() - mean) / std)


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_the_ends_of_the_mixture_are_batch_and_instance_normalisation(batch: int) -> None:
    image = features(batch)
    torch.testing.assert_close(norm(1)(image), batch_norm(image, norm()))
    torch.testing.assert_close(norm(0)(image), instance_norm(image, norm()))


def test_a_single_image_is_normalised_as_by_pytorch_in_single_precision_too() -> None:
    image = 1e3 + features(1).float()  # a mean far above the spread, where a one-pass variance would lose its digits
    expected = nn.InstanceNorm2d(CHANNELS, eps=1e-7)(image.double())
    torch.testing.assert_close(BatchInstanceNorm(CHANNELS)(image).double(), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("rho", [0.25, 0.5, 0.9])
def test_between_the_ends_it_is_their_weighted_mean_channel_by_channel(rho: float) -> None:
    mixture = norm()
    with torch.no_grad():
        mixture.rho.copy_(torch.tensor([rho, 0.0, 1.0]))
    image = features()
    batch, instance = batch_norm(image, mixture), instance_norm(image, mixture)
    found = mixture(image)
    torch.testing.assert_close(found[:, 0], rho * batch[:, 0] + (1 - rho) * instance[:, 0])
    torch.testing.assert_close(found[:, 1], instance[:, 1])
    torch.testing.assert_close(found[:, 2], batch[:, 2])


def test_batch_and_instance_normalisation_can_be_told_apart_here() -> None:
    assert not torch.allclose(norm(1)(features()), norm(0)(features()), atol=0.5)


@pytest.mark.parametrize("rho", [0.0, 0.3, 1.0])
def test_for_a_single_image_the_mixture_is_without_effect_and_gets_no_gradient(rho: float) -> None:
    mixture, image = norm(rho), features(1)
    found = mixture(image)
    torch.testing.assert_close(found, norm(0.7)(image))
    # The general path, on two copies: their common statistics are those of each.
    torch.testing.assert_close(mixture(image.repeat(2, 1, 1, 1)), found.repeat(2, 1, 1, 1))
    found.square().sum().backward()
    assert mixture.rho.grad is None
    assert mixture.gamma.grad is not None
    assert mixture.beta.grad is not None


def test_with_several_images_the_mixture_learns() -> None:
    mixture, image = norm(0.5), features()
    mixture(image).square().sum().backward()
    batch, instance = batch_norm(image, norm()), instance_norm(image, norm())
    expected = (2 * mixture(image) * (batch - instance)).sum((0, *PLANE))
    torch.testing.assert_close(mixture.rho.grad, expected.detach())


@pytest.mark.parametrize("batch", [1, 3])
def test_statistics_are_always_those_of_the_images_at_hand(batch: int) -> None:
    mixture = norm(0.4)
    before = mixture(features(batch))
    mixture(100 + 50 * features(batch))
    assert torch.equal(mixture(features(batch)), before)
    assert torch.equal(mixture.eval()(features(batch)), before)
    assert set(mixture.state_dict()) == {"rho", "gamma", "beta"}


def test_the_order_of_memory_changes_no_normalised_image() -> None:
    results = []
    for arrange in (torch.clone, channels_last):
        image, layer = arrange(features(batch=1)).requires_grad_(), norm(0.5)
        normal = layer(image)
        (normal * noise(*normal.shape, seed=1)).sum().backward()
        results.append((normal, image.grad, layer.gamma.grad, layer.beta.grad))
    torch.testing.assert_close(results[0], results[1])


def test_only_instance_normalisation_keeps_images_of_a_batch_apart() -> None:
    image = features()
    other = image.clone()
    other[1:] *= 7
    assert torch.equal(norm(0)(image)[0], norm(0)(other)[0])
    assert not torch.allclose(norm(1)(image)[0], norm(1)(other)[0], atol=0.1)


def test_the_constant_below_the_root_is_that_of_the_published_code() -> None:
    assert BATCH_INSTANCE_EPS == 1e-7
    weak = 1e-4 * noise(2, CHANNELS, 6, 5)  # its variance is a tenth of the constant
    for rho, over in ((1, (0, *PLANE)), (0, PLANE)):
        mean, variance = weak.mean(over, keepdim=True), weak.var(over, keepdim=True, correction=0)
        mixture = BatchInstanceNorm(CHANNELS).double()
        nn.init.constant_(mixture.rho, rho)
        torch.testing.assert_close(mixture(weak), (weak - mean) / (variance + 1e-7).sqrt())


@pytest.mark.parametrize("batch", [1, 2])
def test_even_features_become_the_shift(batch: int) -> None:
    found = norm(0.5)(torch.full((batch, CHANNELS, 4, 4), 7.0, dtype=torch.float64))
    torch.testing.assert_close(found, norm().beta[:, None, None].expand_as(found))


def test_clipping_brings_the_mixture_back_and_leaves_the_rest() -> None:
    mixture = norm()
    with torch.no_grad():
        mixture.rho.copy_(torch.tensor([-0.25, 0.5, 1.25]))
    before = {name: value.clone() for name, value in mixture.state_dict().items()}
    mixture.clip()
    assert torch.equal(mixture.rho, torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    assert torch.equal(mixture.gamma, before["gamma"])
    assert torch.equal(mixture.beta, before["beta"])
    assert mixture.rho.requires_grad


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("batch", [1, 2])
def test_features_of_half_precision_are_normalised(precision: torch.dtype, batch: int) -> None:
    """Mixed precision hands them over while the parameters are of single precision."""
    mixture = norm(0.5).float()
    found = mixture(features(batch).to(precision))
    torch.testing.assert_close(found.double(), norm(0.5)(features(batch)), atol=0.05, rtol=0.02)


@pytest.mark.parametrize("own", [True, False])
def test_channels_get_the_mean_and_deviation_asked_for(own: bool) -> None:
    shape = (4, CHANNELS) if own else (CHANNELS,)
    style = Style(noise(*shape, seed=1), noise(*shape, seed=2).abs())
    found = AdaptiveInstanceNorm()(features(scale=200.0), style)  # 1e-5 below the root is nothing beside it
    torch.testing.assert_close(found.mean(PLANE), style.mean.expand(4, CHANNELS))
    torch.testing.assert_close(found.std(PLANE, correction=0), style.std.expand(4, CHANNELS), rtol=1e-7, atol=1e-9)


def test_without_a_style_the_mean_is_0_and_the_deviation_1() -> None:
    found = AdaptiveInstanceNorm()(features())
    torch.testing.assert_close(found, nn.InstanceNorm2d(CHANNELS, eps=1e-5).double()(features()))
    neutral = Style(torch.zeros(CHANNELS), torch.ones(CHANNELS))
    assert torch.equal(found, AdaptiveInstanceNorm()(features(), neutral))


def test_adaptive_normalisation_has_nothing_to_learn_and_no_memory() -> None:
    made = AdaptiveInstanceNorm()
    assert not made.state_dict()
    assert torch.equal(made.train()(features()), made.eval()(features()))
    torch.testing.assert_close(made(features())[1:2], made(features()[1:2]))


def test_normalising_leaves_its_arguments_alone() -> None:
    image, style = features(), Style(noise(CHANNELS), noise(CHANNELS, seed=1))
    norm(0.5)(image)
    leaky(AdaptiveInstanceNorm()(image, style))
    leaky(AdaptiveInstanceNorm()(image))
    assert torch.equal(image, features())
    assert torch.equal(style.mean, noise(CHANNELS))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.data())
def test_symmetric_padding_is_that_of_numpy(height: int, width: int, data: st.DataObject) -> None:
    pad = data.draw(st.integers(0, min(height, width)))
    image = noise(2, 3, height, width)
    expected = np.pad(image.numpy(), ((0, 0), (0, 0), (pad, pad), (pad, pad)), mode="symmetric")
    np.testing.assert_array_equal(symmetric_pad(image, pad).numpy(), expected)


@pytest.mark.parametrize("pad", [0, 1, 3])
def test_symmetric_padding_hands_back_the_gradient_of_every_pixel_that_it_repeats(pad: int) -> None:
    assert torch.autograd.gradcheck(partial(symmetric_pad, width=pad), noise(2, 3, 4, 5).requires_grad_())


def test_padding_and_its_gradient_keep_the_order_of_memory() -> None:
    image = channels_last(noise(1, 4, 6, 5)).requires_grad_()
    padded = symmetric_pad(image, 2)
    assert padded.is_contiguous(memory_format=torch.channels_last)
    padded.backward(channels_last(torch.ones_like(padded)))
    assert image.grad is not None
    assert image.grad.is_contiguous(memory_format=torch.channels_last)


def test_symmetric_padding_repeats_the_edge() -> None:
    row = torch.tensor([[1.0, 2.0, 3.0]])
    padded = symmetric_pad(row.expand(2, 3), 2)
    assert padded.shape == (6, 7)
    assert padded[0].tolist() == [2, 1, 1, 2, 3, 3, 2]


def kernels() -> nn.Sequential:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(8, 64, 7), nn.ConvTranspose2d(64, 32, 3), nn.Conv2d(1, 2, 3, bias=False))
    made.append(nn.Linear(5, 5))
    return made


def test_kernels_are_drawn_from_a_normal_distribution_cut_at_two_deviations() -> None:
    made = kernels()
    initialise(made)
    for layer in made[:2]:
        weights = layer.weight.detach().double().flatten().numpy()
        assert np.abs(weights).max() <= 0.1
        assert stats.kstest(weights, stats.truncnorm(-2, 2, scale=0.05).cdf).pvalue > 0.01
        # A share of 4.6 % was cut off, which leaves less than 0.05.
        assert weights.std() == pytest.approx(0.05 * 0.8796, rel=0.01)
        assert not layer.bias.any()


def test_only_convolutions_are_drawn() -> None:
    made, before = kernels(), kernels()
    initialise(made)
    assert torch.equal(made[3].weight, before[3].weight)
    assert torch.equal(made[3].bias, before[3].bias)
    assert not torch.equal(made[2].weight, before[2].weight)


def test_the_leak_is_a_fifth() -> None:
    values = torch.tensor([-5.0, -1.0, 0.0, 2.0])
    assert leaky(values.clone()).tolist() == pytest.approx([-1, -0.2, 0, 2])
    assert torch.equal(leaky(values.clone()), F.leaky_relu(values, 0.2))
