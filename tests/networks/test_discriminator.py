"""The discriminator, against the same network written out from its publication."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers import scans
from sansref.errors import SettingError
from sansref.networks.discriminator import Discriminator
from sansref.randomness import seeded

PLANE = (-2, -1)
WIDTH = 2


noise = partial(scans.noise, dtype=torch.float64)


def small(switchable: bool = False, channels: int = 1) -> Discriminator:
    """A discriminator none of whose parameters has the value that it begins with."""
    made = Discriminator(channels, WIDTH, switchable).double()
    with torch.no_grad():
        for index, (name, parameter) in enumerate(made.named_parameters()):
            parameter.copy_(0.4 * noise(*parameter.shape, seed=index))
            if name.endswith("rho"):
                parameter.copy_(torch.rand(parameter.shape, generator=seeded(index)))
    return made


def published(image: Tensor, w: Mapping[str, Tensor], full: bool = False) -> Tensor:
    """Four convolutions of stride 2, one without padding, one of 1x1; scales and shifts ahead of the activation."""

    def mixed(features: Tensor, layer: int) -> Tensor:
        parts = []
        for over in ((0, *PLANE), PLANE):
            mean, variance = features.mean(over, keepdim=True), features.var(over, keepdim=True, correction=0)
            parts.append((features - mean) / torch.sqrt(variance + 1e-7))
        rho, gamma, beta = (w[f"norms.{layer}.{name}"][:, None, None] for name in ("rho", "gamma", "beta"))
        return (rho * parts[0] + (1 - rho) * parts[1]) * gamma + beta

    x = image
    for layer, (stride, padding) in enumerate([(2, 1), (2, 1), (2, 1), (2, 1), (1, 0)]):
        x = F.conv2d(x, w[f"convolutions.{layer}.weight"], w[f"convolutions.{layer}.bias"], stride, padding)
        x = mixed(x, layer) if layer > 0 else x
        if full:
            x = w[f"scales.{layer}"][:, None, None] * x + w[f"shifts.{layer}"][:, None, None]
        x = torch.where(x > 0, x, 0.2 * x)
    return F.conv2d(x, w["out.weight"], w["out.bias"])


def unmoved(network: nn.Module, output: Tensor) -> set[str]:
    """Names of the parameters that a loss of the output does not move."""
    (output * noise(*output.shape, seed=9)).sum().backward()
    sizes = {name: 0.0 if p.grad is None else float(p.grad.abs().max()) for name, p in network.named_parameters()}
    return {name for name, size in sizes.items() if size < 1e-9 * max(sizes.values())}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_discriminator_of_one_domain_is_that_of_its_publication(batch: int, channels: int) -> None:
    network, image = small(channels=channels), noise(batch, channels, 96, 80)
    torch.testing.assert_close(network(image), published(image, network.state_dict()))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("full", [False, True])
def test_scales_and_shifts_act_ahead_of_each_activation_for_full_images_only(batch: int, full: bool) -> None:
    network, image = small(switchable=True), noise(batch, 1, 80, 96)
    torch.testing.assert_close(network(image, full), published(image, network.state_dict(), full))


@pytest.mark.parametrize("layer", range(5))
@pytest.mark.parametrize("name", ["scales", "shifts"])
def test_the_domain_of_undersampled_images_knows_no_scale_and_no_shift(layer: int, name: str) -> None:
    network, image = small(switchable=True), noise(1, 1, 80, 80)
    full, undersampled = network(image, full=True), network(image)
    with torch.no_grad():
        getattr(network, name)[layer].mul_(torch.linspace(-2, 3, WIDTH * 2**layer))
    assert torch.equal(network(image), undersampled)
    assert not torch.allclose(network(image, full=True), full, atol=1e-3)


def test_a_switchable_discriminator_begins_with_the_same_judgement_for_both_domains() -> None:
    torch.manual_seed(0)
    network, image = Discriminator(switchable=True), noise(1, 1, 80, 80).float()
    assert torch.equal(network(image, full=True), network(image))
    assert [len(scale) for scale in network.scales] == [len(shift) for shift in network.shifts]
    assert [len(scale) for scale in network.scales] == [32, 64, 128, 256, 512]


def test_a_switchable_discriminator_begins_as_one_of_a_single_domain() -> None:
    outputs = []
    for switchable in (False, True):
        torch.manual_seed(0)
        outputs.append(Discriminator(1, 4, switchable)(noise(1, 1, 80, 80).float()))
    assert torch.equal(*outputs)


@pytest.mark.parametrize(
    ("size", "judgements"),
    [((256, 256), (13, 13)), ((320, 320), (17, 17)), ((80, 80), (2, 2)), ((95, 96), (2, 3)), ((218, 170), (10, 7))],
)
def test_judgements_form_a_map(size: tuple[int, int], judgements: tuple[int, int]) -> None:
    assert small()(noise(1, 1, *size)).shape == (1, 1, *judgements)


@pytest.mark.parametrize("size", [(64, 64), (79, 80), (256, 79), (8, 8)])
@pytest.mark.parametrize("full", [False, True])
def test_images_that_are_too_small_are_refused(size: tuple[int, int], full: bool) -> None:
    message = f"images of {size[0]}x{size[1]} are too small for the discriminator, which needs 80x80: use a larger"
    with pytest.raises(SettingError, match=message):
        small(switchable=True)(noise(1, 1, *size), full)


def test_the_smallest_image_that_is_taken_still_makes_a_difference() -> None:
    """A single judgement, of 64 x 64, would be the same for every image: the last normalisation leaves its shift."""
    network = small()
    first, second = (network(noise(1, 1, 80, 80, seed=seed)) for seed in range(2))
    assert not torch.allclose(first, second, atol=0.05)
    assert float(first.detach().std()) > 0.05


@pytest.mark.parametrize("place", [(0, 0), (2, 1), (3, 2)])
def test_a_judgement_sees_a_patch_of_94_pixels(place: tuple[int, int]) -> None:
    """Told without the normalisations, which carry the whole image's mean and deviation to every judgement."""
    network = small()
    network.norms = nn.ModuleList(nn.Identity() for _ in range(5))
    image = noise(1, 1, 112, 96).requires_grad_()
    network(image)[0, 0, *place].backward()
    assert image.grad is not None
    seen = image.grad[0, 0] != 0
    expected = torch.zeros_like(seen)
    # From 15 pixels ahead of the patch's place: each convolution of stride 2 has a margin of 1.
    top, left = (16 * index - 15 for index in place)
    expected[max(top, 0) : top + 94, max(left, 0) : left + 94] = True
    assert torch.equal(seen, expected)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("domain", ["only", "full", "undersampled"])
def test_gradients_move_all_but_what_normalisation_takes_away(domain: str, batch: int) -> None:
    network = small(switchable=domain != "only")
    names = {f"convolutions.{layer}.bias" for layer in range(1, 5)}  # the first is not normalised
    names |= {f"norms.{layer}.rho" for layer in range(1, 5)} if batch == 1 else set()
    if domain == "undersampled":
        names |= {f"{name}.{layer}" for layer in range(5) for name in ("scales", "shifts")}
    assert unmoved(network, network(noise(batch, 1, 96, 80), full=domain == "full")) == names


@pytest.mark.parametrize("full", [False, True])
def test_the_gradient_is_that_of_finite_differences(full: bool) -> None:
    network, image = small(switchable=True), noise(1, 1, 80, 80).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: network(x, full), (image,), fast_mode=True)


def test_a_switchable_one_alone_judges_full_images_in_a_way_of_their_own() -> None:
    assert not list(small().scales)
    with pytest.raises(IndexError):
        small()(noise(1, 1, 80, 80), full=True)


def test_judging_leaves_the_image_alone() -> None:
    image = noise(1, 1, 80, 80)
    small(switchable=True)(image, full=True)
    assert torch.equal(image, noise(1, 1, 80, 80))
