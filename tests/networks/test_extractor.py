"""The noise extractor, against the same network written out from its publication."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers import scans
from sansref.networks.discriminator import NoiseExtractor
from sansref.randomness import seeded

PLANE = (-2, -1)
WIDTH, LAYERS = 3, 5


noise = partial(scans.noise, dtype=torch.float64)


def small(channels: int = 1, layers: int = LAYERS) -> NoiseExtractor:
    """An extractor none of whose parameters has the value that it begins with."""
    made = NoiseExtractor(channels, WIDTH, layers).double()
    with torch.no_grad():
        for index, (name, parameter) in enumerate(made.named_parameters()):
            parameter.copy_(0.4 * noise(*parameter.shape, seed=index))
            if name.endswith("rho"):
                parameter.copy_(torch.rand(parameter.shape, generator=seeded(index)))
    return made


def without_normalisation(layers: int) -> NoiseExtractor:
    made = small(layers=layers)
    made.norms = nn.ModuleList(nn.Identity() for _ in range(layers - 1))
    return made


def published(image: Tensor, network: NoiseExtractor, layers: int) -> Tensor:
    """A convolution; ``layers`` - 2 normalised ones; one to the image, without activation."""
    w = network.state_dict()
    x = F.conv2d(image, w["convolutions.0.weight"], w["convolutions.0.bias"], padding=1)
    x = torch.where(x > 0, x, 0.2 * x)
    for layer in range(1, layers - 1):
        x = F.conv2d(x, w[f"convolutions.{layer}.weight"], w[f"convolutions.{layer}.bias"], padding=1)
        parts = []
        for over in ((0, *PLANE), PLANE):
            mean, variance = x.mean(over, keepdim=True), x.var(over, keepdim=True, correction=0)
            parts.append((x - mean) / torch.sqrt(variance + 1e-7))
        rho, gamma, beta = (w[f"norms.{layer}.{name}"][:, None, None] for name in ("rho", "gamma", "beta"))
        x = (rho * parts[0] + (1 - rho) * parts[1]) * gamma + beta
        x = torch.where(x > 0, x, 0.2 * x)
    return F.conv2d(x, w["out.weight"], w["out.bias"], padding=1)


def unmoved(network: nn.Module, output: Tensor) -> set[str]:
    """Names of the parameters that a loss of the output does not move."""
    (output * noise(*output.shape, seed=9)).sum().backward()
    sizes = {name: 0.0 if p.grad is None else float(p.grad.abs().max()) for name, p in network.named_parameters()}
    return {name for name, size in sizes.items() if size < 1e-9 * max(sizes.values())}


@pytest.mark.parametrize("layers", [2, 3, 6])
@pytest.mark.parametrize(("batch", "channels"), [(1, 1), (1, 2), (3, 1), (3, 2)])
def test_it_is_that_of_its_publication(layers: int, batch: int, channels: int) -> None:
    network, image = small(channels, layers), noise(batch, channels, 9, 8)
    torch.testing.assert_close(network(image), published(image, network, layers))


@pytest.mark.parametrize("layers", [2, 7, 20])
def test_it_is_as_deep_as_asked(layers: int) -> None:
    convolutions = [module for module in NoiseExtractor(layers=layers).modules() if isinstance(module, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels) for c in convolutions] == [(1, 32), *[(32, 32)] * (layers - 2), (32, 1)]


@pytest.mark.parametrize("layers", [2, 5, 20])
def test_its_convolutions_see_as_many_pixels_away_as_there_are_layers(layers: int) -> None:
    network, size = without_normalisation(layers), 2 * layers + 5
    image = noise(1, 1, size, size)
    spot = image.clone()
    center = layers + 2
    spot[0, 0, center, center] += 10
    changed = (network(spot) - network(image))[0, 0] != 0
    first, last = changed.nonzero().aminmax(dim=0)
    assert first.tolist() == [center - layers] * 2
    assert last.tolist() == [center + layers] * 2


def test_its_normalisations_see_the_whole_image() -> None:
    network, image = small(layers=3), noise(1, 1, 64, 64)
    spot = image.clone()
    spot[0, 0, 0, 0] += 10
    changed = (network(spot) - network(image))[0, 0].detach()
    assert float(changed[32:, 32:].abs().min()) > 1e-8


@pytest.mark.parametrize("size", [(1, 2), (5, 64), (33, 17)])
def test_any_size_is_kept(size: tuple[int, int]) -> None:
    output = small(2)(noise(2, 2, *size))
    assert output.shape == (2, 2, *size)
    assert bool(output.isfinite().all())


def test_artefacts_have_either_sign_and_no_bound() -> None:
    network = small()
    with torch.no_grad():
        network.out.weight.mul_(100)
    output = network(noise(1, 1, 16, 16)).detach()
    assert float(output.min()) < -10
    assert float(output.max()) > 10


@pytest.mark.parametrize("batch", [1, 2])
def test_gradients_move_all_but_what_normalisation_takes_away(batch: int) -> None:
    network = small()
    normalised = range(1, LAYERS - 1)  # neither the first nor the last
    names = {f"convolutions.{layer}.bias" for layer in normalised}
    names |= {f"norms.{layer}.rho" for layer in normalised} if batch == 1 else set()
    assert unmoved(network, network(noise(batch, 1, 9, 8))) == names


@pytest.mark.parametrize("batch", [1, 2])
def test_the_gradient_is_that_of_finite_differences(batch: int) -> None:
    assert torch.autograd.gradcheck(small(), (noise(batch, 1, 6, 5).requires_grad_(),))


def test_extracting_leaves_the_image_alone() -> None:
    image = noise(1, 1, 8, 8)
    small()(image)
    assert torch.equal(image, noise(1, 1, 8, 8))
