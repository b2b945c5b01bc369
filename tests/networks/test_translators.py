"""Sets of unpaired networks: how large they are, what switches a direction or a domain, what is stored."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from helpers import scans
from sansref.errors import SettingError
from sansref.networks.generator import CODE_LENGTH
from sansref.networks.translators import (
    SwitchableDiscriminator,
    SwitchableGenerator,
    TranslatorOptions,
    TwoDiscriminators,
    TwoGenerators,
)

TINY = TranslatorOptions(width=2, blocks=1, extractor_layers=3)
KINDS: list[Callable[[TranslatorOptions], nn.Module]] = [
    TwoGenerators,
    SwitchableGenerator,
    TwoDiscriminators,
    SwitchableDiscriminator,
    TranslatorOptions.extractor,
]


noise = partial(scans.noise, dtype=torch.float32)


def built(kind: Callable[[TranslatorOptions], nn.Module], seed: int = 0, complex: bool = False) -> nn.Module:
    torch.manual_seed(seed)
    return kind(TranslatorOptions(width=2, blocks=1, extractor_layers=3, complex=complex))


def switchable(seed: int = 0, jitter: float = 0.1) -> SwitchableGenerator:
    torch.manual_seed(seed)
    return SwitchableGenerator(TINY, jitter)


def size(*networks: nn.Module) -> int:
    return sum(parameter.numel() for network in networks for parameter in network.parameters())


def outputs(network: nn.Module, batch: int = 1) -> list[Tensor]:
    """All that a network, or a set of them, can make of one image, or of copies of it."""
    channels = next(network.parameters()).shape[1]
    image = noise(1, channels, 80, 80).repeat(batch, 1, 1, 1)
    if isinstance(network, TwoGenerators | SwitchableGenerator):
        random = noise(1, CODE_LENGTH, seed=1).repeat(batch, 1)
        return [network.full(image), network.undersampled(image, random)]
    if isinstance(network, TwoDiscriminators | SwitchableDiscriminator):
        return [network.full(image), network.undersampled(image)]
    return [network(image)]


def test_networks_have_as_many_parameters_as_those_of_the_papers() -> None:
    options = TranslatorOptions()
    assert size(options.generator()) == 1_148_225
    assert size(options.generator(switchable=True)) == 1_147_265
    assert size(options.discriminator()) == 2_790_177
    assert size(options.discriminator(switchable=True)) == 2_792_161
    assert size(options.extractor()) == 168_801
    assert size(SwitchableGenerator(options).code) == 58_240


def test_switchable_networks_have_about_half_of_the_parameters() -> None:
    options = TranslatorOptions()
    two = size(TwoGenerators(options), TwoDiscriminators(options), options.extractor())
    one = size(SwitchableGenerator(options), SwitchableDiscriminator(options), options.extractor())
    assert (one, two) == (4_166_467, 8_045_605)
    assert one / two == pytest.approx(0.518, abs=5e-4)


@pytest.mark.parametrize(("width", "blocks", "layers"), [(1, 0, 2), (2, 1, 3), (5, 4, 7)])
def test_sizes_follow_the_options(width: int, blocks: int, layers: int) -> None:
    options, w = TranslatorOptions(width, blocks, layers, complex=True), width
    kernels = 49 * 2 * w + 16 * w * 2 * w + 16 * 2 * w * 4 * w + 9 * 4 * w * 2 * w + 9 * 2 * w * w + 49 * w * 2
    # Biases of the outer convolutions, and three values of each normalised feature; a block has 8 w features.
    plain = kernels + 10 * w + 2 + 3 * 10 * w + blocks * (2 * 9 * 16 * w * w + 4 * 8 * w)
    assert size(options.generator()) == plain
    assert size(options.generator(switchable=True)) == plain - 3 * 10 * w
    judge = 16 * (2 * w + 2 * w**2 + 8 * w**2 + 32 * w**2 + 128 * w**2) + 31 * w + 3 * 30 * w + 16 * w + 1
    assert size(options.discriminator()) == judge
    assert size(options.discriminator(switchable=True)) == judge + 2 * 31 * w
    assert size(options.extractor()) == 9 * 2 * w + w + (layers - 2) * (9 * w**2 + 4 * w) + 9 * 2 * w + 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("complex", "channels"), [(False, 1), (True, 2)])
def test_complex_images_have_two_channels(
    kind: Callable[[TranslatorOptions], nn.Module], complex: bool, channels: int
) -> None:
    network = built(kind, complex=complex)
    assert next(network.parameters()).shape[1] == channels
    for output in outputs(network):
        judged = isinstance(network, TwoDiscriminators | SwitchableDiscriminator)
        assert output.shape == ((1, 1, 2, 2) if judged else (1, channels, 80, 80))


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides_all_weights(kind: Callable[[TranslatorOptions], nn.Module]) -> None:
    first, again, other = (built(kind, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    names = [name for name in first if name.endswith("weight") or name == "vector"]
    assert not any(torch.equal(first[name], other[name]) for name in names)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_stored_is_the_whole_network(kind: Callable[[TranslatorOptions], nn.Module]) -> None:
    source, target = built(kind, 0), built(kind, 1)
    with torch.no_grad():
        for index, parameter in enumerate(source.parameters()):
            parameter.add_(0.1 * noise(*parameter.shape, seed=index))
    target.load_state_dict(source.state_dict())
    for found, expected in zip(outputs(target), outputs(source), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_networks_do_the_same_in_use_as_in_training(kind: Callable[[TranslatorOptions], nn.Module]) -> None:
    network = built(kind)
    trained = outputs(network.train())
    assert all(torch.equal(a, b) for a, b in zip(trained, outputs(network.eval()), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(trained, outputs(network), strict=True))


@pytest.mark.parametrize("kind", [TwoGenerators, TwoDiscriminators])
def test_directions_and_domains_of_two_networks_share_nothing(kind: Callable[[TranslatorOptions], nn.Module]) -> None:
    network = built(kind)
    full, undersampled = network.children()
    full_before, under_before = outputs(network)
    assert not torch.allclose(full_before, under_before, atol=1e-3)
    nn.init.zeros_(full.out.weight)
    now = outputs(network)
    assert not now[0].any()
    assert torch.equal(now[1], under_before)
    assert not {id(p) for p in full.parameters()} & {id(p) for p in undersampled.parameters()}


def test_the_noise_of_a_code_is_without_effect_on_two_generators() -> None:
    network, image = built(TwoGenerators), noise(1, 1, 12, 8)
    first = network.undersampled(image, noise(1, CODE_LENGTH))
    assert torch.equal(network.undersampled(image, torch.full((1, CODE_LENGTH), 1e9)), first)


def test_the_code_switches_towards_undersampled_images_only() -> None:
    network, image = switchable(), noise(1, 1, 12, 8)
    full, undersampled = network.full(image), network.undersampled(image, noise(1, CODE_LENGTH))
    assert torch.equal(full, network.generator(image))
    assert not torch.allclose(undersampled, full, atol=1e-3)
    with torch.no_grad():
        for parameter in [*network.code.parameters(), network.vector]:
            parameter.add_(1)
    assert torch.equal(network.full(image), full)
    assert not torch.allclose(network.undersampled(image, noise(1, CODE_LENGTH)), undersampled, atol=1e-3)


def test_the_direction_of_full_images_leaves_the_code_without_gradient() -> None:
    network, image = switchable(), noise(1, 1, 12, 8)
    network.full(image).square().sum().backward()
    assert all(parameter.grad is None for parameter in network.code.parameters())
    network.undersampled(image, noise(1, CODE_LENGTH)).square().sum().backward()
    assert all(bool(parameter.grad.any()) for parameter in network.code.parameters())


@pytest.mark.parametrize("jitter", [0.1, 2.5])
def test_the_code_is_made_of_the_fixed_vector_plus_jitter_times_noise(jitter: float) -> None:
    network, image, random = switchable(jitter=jitter), noise(2, 1, 12, 8), noise(2, CODE_LENGTH)
    vector = torch.stack([network.vector + jitter * row for row in random])
    expected = network.generator(image, network.code(vector))
    torch.testing.assert_close(network.undersampled(image, random), expected)


def test_other_noise_makes_another_image_and_none_without_jitter() -> None:
    image = noise(1, 1, 12, 8)
    for jitter, same in ((0.1, False), (0.0, True)):
        network = switchable(jitter=jitter)
        images = [network.undersampled(image, noise(1, CODE_LENGTH, seed=seed)) for seed in range(2)]
        assert torch.allclose(*images, atol=1e-4) is same


def test_the_vector_of_the_code_is_normal_stored_and_not_learnt() -> None:
    network = switchable()
    assert network.state_dict()["vector"].shape == (CODE_LENGTH,)
    assert "vector" not in dict(network.named_parameters())
    assert torch.equal(network.vector, switchable().vector)
    drawn = torch.cat([switchable(seed).vector for seed in range(30)])
    assert float(drawn.mean()) == pytest.approx(0, abs=0.1)
    assert float(drawn.std()) == pytest.approx(1, abs=0.1)
    before = network.vector.clone()
    network.undersampled(noise(1, 1, 12, 8), noise(1, CODE_LENGTH))
    assert torch.equal(network.vector, before)


def test_the_discriminator_is_switched_by_the_scales_and_shifts_of_full_images() -> None:
    network, image = built(SwitchableDiscriminator), noise(1, 1, 80, 80)
    undersampled = network.undersampled(image)
    assert torch.equal(network.full(image), undersampled)
    with torch.no_grad():
        network.discriminator.shifts[-1].add_(torch.linspace(-1, 1, 32))
    assert torch.equal(network.undersampled(image), undersampled)
    assert not torch.allclose(network.full(image), undersampled, atol=1e-4)


@pytest.mark.parametrize(("name", "lowest"), [("width", 1), ("blocks", 0), ("extractor_layers", 2)])
def test_impossible_sizes_are_refused(name: str, lowest: int) -> None:
    TranslatorOptions(**{name: lowest})
    with pytest.raises(SettingError, match=f"network.{name} must lie in {lowest}.*, got {lowest - 1}"):
        TranslatorOptions(**{name: lowest - 1})


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_networks_work_in_mixed_precision(
    kind: Callable[[TranslatorOptions], nn.Module], batch: int, precision: torch.dtype
) -> None:
    network = built(kind)
    expected = outputs(network, batch)
    with torch.autocast("cpu", precision):
        found = outputs(network, batch)
    for half, single in zip(found, expected, strict=True):
        error = (half - single).detach().abs().mean()
        assert float(error) < 0.05 * (1 + float(single.detach().std()))
        half.float().sum().backward()


@pytest.mark.parametrize("complex", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_convolutions_in_half_precision_get_features_in_the_order_of_memory_that_they_compute_in(
    kind: Callable[[TranslatorOptions], nn.Module], complex: bool
) -> None:
    network, orders = built(kind, complex=complex), []

    def note(layer: nn.Module, inputs: tuple[Tensor]) -> None:
        orders.append(inputs[0].is_contiguous(memory_format=torch.channels_last))

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.register_forward_pre_hook(note)
    with torch.autocast("cpu", torch.bfloat16):
        outputs(network)
    assert orders
    assert all(orders)
