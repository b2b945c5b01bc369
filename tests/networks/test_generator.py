"""The generator and its codes, against the same networks written out from their publication."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from helpers import scans
from sansref.errors import SettingError
from sansref.networks.generator import CODE_LENGTH, CodeGenerator, Generator, code_widths
from sansref.networks.norms import Style
from sansref.networks.translators import TranslatorOptions
from sansref.randomness import seeded

PLANE = (-2, -1)
WIDTH, BLOCKS = 2, 2
WIDTHS = [2, 4, 8, 4, 2]


noise = partial(scans.noise, dtype=torch.float64)


def small(switchable: bool = False, channels: int = 1, seed: int = 0, blocks: int = BLOCKS) -> Generator:
    """A generator none of whose parameters has the value that it begins with."""
    made = Generator(channels, WIDTH, blocks, switchable).double()
    with torch.no_grad():
        for index, (name, parameter) in enumerate(made.named_parameters()):
            parameter.copy_(0.4 * noise(*parameter.shape, seed=seed + index))
            if name.endswith("rho"):
                parameter.copy_(torch.rand(parameter.shape, generator=seeded(index)))
    return made


def styles(batch: int) -> list[Style]:
    means = [noise(batch, width, seed=10 + layer) for layer, width in enumerate(WIDTHS)]
    stds = [noise(batch, width, seed=20 + layer).abs() for layer, width in enumerate(WIDTHS)]
    return [Style(*pair) for pair in zip(means, stds, strict=True)]


def standardised(features: Tensor, over: tuple[int, ...], eps: float) -> Tensor:
    mean, variance = features.mean(over, keepdim=True), features.var(over, keepdim=True, correction=0)
    return (features - mean) / torch.sqrt(variance + eps)


def active(features: Tensor) -> Tensor:
    return torch.where(features > 0, features, 0.2 * features)


def mirrored(features: Tensor, pad: int) -> Tensor:
    sides = ((0, 0), (0, 0), (pad, pad), (pad, pad))
    return torch.from_numpy(np.pad(features.detach().numpy(), sides, mode="symmetric"))


def enlarged(features: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """Transposed convolution of stride 2: pixels moved to even places, zeros between them, the kernel flipped."""
    batch, channels, height, width = features.shape
    sparse = torch.zeros(batch, channels, 2 * height, 2 * width, dtype=features.dtype)
    sparse[..., ::2, ::2] = features
    return F.conv2d(sparse, kernel.transpose(0, 1).flip(PLANE), bias, padding=1)


def published(
    image: Tensor, w: Mapping[str, Tensor], code: Sequence[Style] | None = None, switchable: bool = False
) -> Tensor:
    """The generator in the order of its publication; image sides are multiples of 4."""

    def mixed(features: Tensor, name: str) -> Tensor:
        rho, gamma, beta = (w[f"{name}.{part}"][:, None, None] for part in ("rho", "gamma", "beta"))
        batch, instance = standardised(features, (0, *PLANE), 1e-7), standardised(features, PLANE, 1e-7)
        return (rho * batch + (1 - rho) * instance) * gamma + beta

    def switched(features: Tensor, layer: int) -> Tensor:
        if not switchable:
            return active(mixed(features, f"norms.{layer}"))
        normal = standardised(features, PLANE, 1e-5)
        if code is not None:
            normal = code[layer].std[:, :, None, None] * normal + code[layer].mean[:, :, None, None]
        return active(normal)

    def weights(name: str) -> tuple[Tensor, Tensor]:
        return w[f"{name}.weight"], w[f"{name}.bias"]

    x = switched(F.conv2d(mirrored(image, 3), *weights("convolutions.0")), 0)
    x = switched(F.conv2d(mirrored(x, 1), *weights("convolutions.1"), stride=2), 1)
    x = switched(F.conv2d(mirrored(x, 1), *weights("convolutions.2"), stride=2), 2)
    for block in range(BLOCKS):
        name = f"blocks.{block}"
        inner = active(mixed(F.conv2d(mirrored(x, 1), *weights(f"{name}.first")), f"{name}.first_norm"))
        x = x + mixed(F.conv2d(mirrored(inner, 1), *weights(f"{name}.second")), f"{name}.second_norm")
    x = switched(enlarged(x, *weights("convolutions.3")), 3)
    x = switched(enlarged(x, *weights("convolutions.4")), 4)
    return torch.tanh(F.conv2d(mirrored(x, 3), *weights("out")))


def unmoved(network: nn.Module, output: Tensor) -> set[str]:
    """Names of the parameters that a loss of the output does not move."""
    (output * noise(*output.shape, seed=9)).sum().backward()
    sizes = {name: 0.0 if p.grad is None else float(p.grad.abs().max()) for name, p in network.named_parameters()}
    return {name for name, size in sizes.items() if size < 1e-9 * max(sizes.values())}


def normalised_away(batch: int, switchable: bool) -> set[str]:
    """Biases ahead of a normalisation, which subtracts them, and mixtures, which one image has no use for."""
    names = {f"convolutions.{i}.bias" for i in range(5)}
    names |= {f"blocks.{i}.{which}.bias" for i in range(BLOCKS) for which in ("first", "second")}
    if batch == 1:
        names |= {f"blocks.{i}.{which}_norm.rho" for i in range(BLOCKS) for which in ("first", "second")}
        names |= set() if switchable else {f"norms.{i}.rho" for i in range(5)}
    return names


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_generator_of_one_direction_is_that_of_its_publication(batch: int, channels: int) -> None:
    network, image = small(channels=channels), noise(batch, channels, 12, 8)
    torch.testing.assert_close(network(image), published(image, network.state_dict()))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("coded", [False, True])
def test_a_switchable_generator_differs_in_the_five_outer_normalisations(batch: int, coded: bool) -> None:
    network, image, code = small(switchable=True), noise(batch, 1, 12, 8), styles(batch) if coded else None
    torch.testing.assert_close(network(image, code), published(image, network.state_dict(), code, switchable=True))


@pytest.mark.parametrize("layer", [3, 4])
def test_a_pixel_is_enlarged_around_twice_its_place(layer: int) -> None:
    convolution = small().convolutions[layer]
    nn.init.zeros_(convolution.bias)
    spot = torch.zeros(1, convolution.in_channels, 4, 5, dtype=torch.float64)
    spot[0, 1, 2, 3] = 1
    found = convolution(spot)
    assert found.shape == (1, convolution.out_channels, 8, 10)
    torch.testing.assert_close(found[0, :, 3:6, 5:8], convolution.weight[1])
    assert found.count_nonzero() == 9 * convolution.out_channels


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 14), st.integers(5, 14), st.booleans(), st.booleans())
def test_any_size_is_kept_and_values_stay_in_range(height: int, width: int, coded: bool, turned: bool) -> None:
    size = (width, height) if turned else (height, width)
    network = small(switchable=coded)
    output = network(50 * noise(2, 1, *size), styles(2) if coded else None)
    assert output.shape == (2, 1, *size)
    assert float(output.detach().abs().max()) <= 1


@pytest.mark.parametrize(("size", "bottom", "right"), [((9, 12), 3, 0), ((8, 11), 0, 1), ((6, 7), 2, 1)])
def test_odd_sizes_are_enlarged_by_the_edge_and_cropped_back(size: tuple[int, int], bottom: int, right: int) -> None:
    network, image = small(), noise(1, 1, *size)
    enlarged_image = torch.cat([image, image[..., -1:, :].expand(1, 1, bottom, size[1])], -2)
    edge = enlarged_image[..., -1:].expand(1, 1, size[0] + bottom, right)
    output = network(torch.cat([enlarged_image, edge], -1))[..., : size[0], : size[1]]
    assert torch.equal(network(image), output)


@pytest.mark.parametrize("switchable", [False, True])
def test_nothing_leads_around_the_whole(switchable: bool) -> None:
    network = small(switchable)
    nn.init.zeros_(network.out.weight)
    nn.init.constant_(network.out.bias, 0.5)
    output = network(noise(1, 1, 8, 8))
    torch.testing.assert_close(output, torch.full_like(output, 0.5).tanh())


@pytest.mark.parametrize("switchable", [False, True])
def test_brightness_and_offset_of_an_image_are_not_seen(switchable: bool) -> None:
    """The first normalisation takes them away: grey values of the result are learnt from the data set as a whole."""
    network, image = small(switchable), noise(1, 1, 12, 8)
    torch.testing.assert_close(network(30 * image + 7), network(image), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(network(-image), network(image), atol=0.1)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("direction", ["one", "restoring", "degrading"])
def test_gradients_move_all_but_what_normalisation_takes_away(direction: str, batch: int) -> None:
    switchable = direction != "one"
    network = small(switchable)
    code = styles(batch) if direction == "degrading" else None
    output = network(noise(batch, 1, 12, 8), code)
    assert unmoved(network, output) == normalised_away(batch, switchable)


@pytest.mark.parametrize("switchable", [False, True])
def test_a_bias_ahead_of_a_normalisation_is_without_effect(switchable: bool) -> None:
    network, image = small(switchable), noise(2, 1, 12, 8)
    before = network(image)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name in normalised_away(2, switchable):
                parameter.add_(3)
    torch.testing.assert_close(network(image), before)


@pytest.mark.parametrize("switchable", [False, True])
def test_the_gradient_is_that_of_finite_differences(switchable: bool) -> None:
    network = small(switchable)
    code = [Style(*(part.requires_grad_() for part in style)) for style in styles(1)] if switchable else None
    flat = [] if code is None else [part for style in code for part in style]

    def translate(image: Tensor, *parts: Tensor) -> Tensor:
        pairs = [Style(*pair) for pair in zip(parts[::2], parts[1::2], strict=True)]
        return network(image, pairs or None)

    assert torch.autograd.gradcheck(translate, (noise(1, 1, 8, 8).requires_grad_(), *flat), fast_mode=True)


def test_no_code_stands_for_means_of_0_and_deviations_of_1() -> None:
    network, image = small(switchable=True), noise(2, 1, 8, 12)
    neutral = [Style(torch.zeros(2, width), torch.ones(2, width)) for width in WIDTHS]
    assert torch.equal(network(image), network(image, neutral))


@pytest.mark.parametrize("layer", range(5))
@pytest.mark.parametrize("part", ["mean", "std"])
def test_each_style_of_the_code_changes_the_image(layer: int, part: str) -> None:
    network, image, code = small(switchable=True), noise(1, 1, 8, 12), styles(1)
    # Not all channels alike: the next normalisation would take a common factor away.
    factor = torch.linspace(1.5, 3, WIDTHS[layer], dtype=torch.float64)
    changed = [*code]
    changed[layer] = code[layer]._replace(**{part: factor * getattr(code[layer], part)})
    assert not torch.allclose(network(image, changed), network(image, code), atol=1e-3)


def test_each_image_of_a_batch_gets_its_own_style() -> None:
    network = small(switchable=True, blocks=0)  # whose normalisations may mix the batch
    images, code = noise(2, 1, 8, 12), styles(2)
    together = network(images, code)
    for i in range(2):
        own = [Style(style.mean[i : i + 1], style.std[i : i + 1]) for style in code]
        torch.testing.assert_close(network(images[i : i + 1], own), together[i : i + 1])


@pytest.mark.parametrize("size", [(4, 4), (1, 3)])
@pytest.mark.parametrize("switchable", [False, True])
def test_images_that_leave_one_pixel_to_normalise_are_refused(size: tuple[int, int], switchable: bool) -> None:
    message = f"an image of {size[0]}x{size[1]} is too small for the generator: one side must exceed 4"
    with pytest.raises(SettingError, match=message):
        small(switchable)(noise(1, 1, *size))


def test_only_a_switchable_generator_takes_a_code_and_it_takes_five_styles() -> None:
    with pytest.raises(TypeError):
        small()(noise(1, 1, 8, 8), styles(1))
    for wrong in (styles(1)[:4], [*styles(1), styles(1)[0]]):
        with pytest.raises(ValueError, match=r"argument 3 is (shorter|longer)"):
            small(switchable=True)(noise(1, 1, 8, 8), wrong)


def code(seed: int = 0, widths: Sequence[int] = (32, 64, 128, 64, 32)) -> CodeGenerator:
    torch.manual_seed(seed)
    return CodeGenerator(widths).double()


def test_the_switchable_layers_are_those_outside_the_residual_blocks() -> None:
    assert code_widths(32) == [32, 64, 128, 64, 32]
    assert Generator(width=5).widths == [5, 10, 20, 10, 5]


def test_a_code_is_four_leaky_layers_and_two_heads_a_layer() -> None:
    made, vector = code(widths=WIDTHS), noise(3, CODE_LENGTH)
    w = made.state_dict()
    shared = vector
    for layer in (0, 2, 4, 6):
        shared = active(shared @ w[f"trunk.{layer}.weight"].T + w[f"trunk.{layer}.bias"])
    for i, (style, width) in enumerate(zip(made(vector), WIDTHS, strict=True)):
        mean = shared @ w[f"means.{i}.weight"].T + w[f"means.{i}.bias"]
        std = (shared @ w[f"stds.{i}.weight"].T + w[f"stds.{i}.bias"]).clamp(min=0)
        torch.testing.assert_close(style, Style(mean, std))
        assert style.mean.shape == style.std.shape == (3, width)


@pytest.mark.parametrize("seed", range(3))
def test_a_code_begins_near_means_of_0_and_deviations_of_1(seed: int) -> None:
    for style in code(seed)(noise(1, CODE_LENGTH, seed=seed)):
        assert float(style.mean.detach().abs().max()) < 0.3
        assert float((style.std.detach() - 1).abs().max()) < 0.3
        assert float(style.mean.detach().abs().max()) > 0.01


def test_deviations_are_never_negative_and_means_may_be() -> None:
    made = code()
    wild = made(1000 * noise(20, CODE_LENGTH))
    assert min(float(style.std.detach().min()) for style in wild) == 0
    assert max(float(style.std.detach().max()) for style in wild) > 1
    assert all(float(style.mean.detach().min()) < 0 < float(style.mean.detach().max()) for style in wild)


def test_every_layer_of_the_code_learns() -> None:
    made = code(widths=WIDTHS)
    output = torch.cat([part for style in made(noise(2, CODE_LENGTH)) for part in style], -1)
    assert unmoved(made, output) == set()


@pytest.mark.parametrize("switchable", [False, True])
@pytest.mark.parametrize("size", [(16, 12), (18, 13)])
def test_it_can_begin_as_the_identity_and_learn(switchable: bool, size: tuple[int, int]) -> None:
    options = TranslatorOptions(width=WIDTH, blocks=BLOCKS, start="identity")
    made, image = options.generator(switchable).double(), noise(2, 1, *size)
    code = CodeGenerator(code_widths(WIDTH)).double()(noise(2, CODE_LENGTH)) if switchable else None
    assert torch.equal(made(image), image)
    assert torch.equal(made(image, code), image)
    made(image, code).square().sum().backward()
    assert made.out.weight.grad is not None
    assert bool(made.out.weight.grad.any())
    with torch.no_grad():
        made.out.weight.copy_(noise(*made.out.weight.shape))
        assert 0 < float((made(image, code) - image).abs().max()) < 1.001
        plain = TranslatorOptions(width=WIDTH, blocks=BLOCKS).generator(switchable).double()
        plain.load_state_dict(made.state_dict())
        torch.testing.assert_close(plain(image, code), made(image, code) - image)


@pytest.mark.parametrize("switchable", [False, True])
def test_a_blank_image_can_be_left_in_mixed_precision(switchable: bool) -> None:
    """As generators pass through blank images, to lose the gradient there is to stay."""
    made, image = Generator(1, WIDTH, BLOCKS, switchable), scans.noise(1, 1, 16, 12, dtype=torch.float32)
    with torch.no_grad():
        made.out.weight.mul_(0.1)
        made.out.bias.fill_(-5.0)
    with torch.autocast("cpu", torch.bfloat16):
        blank = made(image)
    assert blank.dtype == torch.float32
    least, most = blank.detach().aminmax()
    assert -1 < float(least) <= float(most) < -0.999
    (slope,) = torch.autograd.grad(blank.mean(), made.out.bias)
    torch.testing.assert_close(slope, torch.tensor([1 - math.tanh(5.0) ** 2]), rtol=0.1, atol=0.0)
