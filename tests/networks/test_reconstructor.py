from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from sansref.errors import SettingError
from sansref.kspace.coils import birdcage_maps
from sansref.kspace.measurement import Measurement
from sansref.networks import NetworkOptions, Reconstructor
from sansref.networks.istanet import ISTANet
from sansref.networks.modl import MoDL
from sansref.networks.unet import UNet

NAMES = ["ista_plus", "ista", "modl", "unet"]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def options(name: str, **changes: Any) -> NetworkOptions:
    return NetworkOptions(**{"name": name, "phases": 2, "channels": 4, "pools": 2, **changes})


def samples(coils: int, height: int, width: int, batch: int = 2) -> Measurement:
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(batch, height, width, generator=generator) < 0.5
    kspace = torch.randn(batch, coils, height, width, dtype=torch.complex64, generator=generator)
    maps = birdcage_maps((height, width), coils).expand(batch, -1, -1, -1) if coils > 1 else None
    return Measurement(kspace * mask.unsqueeze(1), mask, maps)


@pytest.mark.parametrize("size", [(16, 16), (15, 13), (9, 14)])
@pytest.mark.parametrize(("is_complex", "coils"), [(False, 1), (True, 1), (True, 3)])
@pytest.mark.parametrize("name", NAMES)
def test_every_network_gives_a_complex_image(name: str, is_complex: bool, coils: int, size: tuple[int, int]) -> None:
    network = Reconstructor(options(name, complex=is_complex))
    image, penalty = network.with_penalty(samples(coils, *size))
    assert image.shape == (2, *size)
    assert image.dtype == torch.complex64
    assert bool(image.isfinite().all())
    assert bool(image.imag.any()) is is_complex
    assert (float(penalty.detach()) > 0) is name.startswith("ista")
    assert torch.equal(network(samples(coils, *size)), image)


def test_names_and_options_choose_the_network() -> None:
    plus = Reconstructor(options("ista_plus", phases=3, bias=False)).network
    assert isinstance(plus, ISTANet)
    assert (plus.variant, len(plus.phases), plus.in_channels) == ("plus", 3, 2)
    assert not any("bias" in name for name, _ in plus.named_parameters())
    plain = Reconstructor(options("ista", complex=False)).network
    assert isinstance(plain, ISTANet)
    assert (plain.variant, plain.in_channels) == ("plain", 1)
    assert any("bias" in name for name, _ in plain.named_parameters())
    modl = Reconstructor(options("modl", phases=None, cg_steps=3, layers=4, shared=False)).network
    assert isinstance(modl, MoDL)
    assert (modl.phases, modl.cg_steps, len(modl.denoisers), modl.in_channels) == (5, 3, 5, 2)
    unet = Reconstructor(options("unet", pools=3)).network
    assert isinstance(unet, UNet)
    assert unet.pools == 3


def test_the_default_is_the_network_of_the_idr_line_for_complex_images() -> None:
    count = sum(parameter.numel() for parameter in Reconstructor(NetworkOptions()).parameters())
    assert count == 9 * (38_018 + 6 * 32 - 32 + 2)  # biases: five convolutions of 32 outputs, one of 2
    real = Reconstructor(NetworkOptions(complex=False))
    assert sum(parameter.numel() for parameter in real.parameters()) == 338_427


@pytest.mark.parametrize("size", [(16, 16), (15, 13)])
def test_begins_as_the_zero_filled_image(size: tuple[int, int]) -> None:
    given = samples(1, *size)
    torch.testing.assert_close(Reconstructor(options("ista_plus"))(given), given.physics.adjoint(given.kspace))


def test_xavier_begins_elsewhere() -> None:
    given = samples(1, 16, 16)
    image = Reconstructor(options("ista_plus", init="xavier"))(given)
    assert not torch.allclose(image, given.physics.adjoint(given.kspace), atol=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_one_scan_does_not_depend_on_the_others_of_its_batch(name: str) -> None:
    network = Reconstructor(options(name, init="xavier"))
    given = samples(3, 12, 12)
    assert given.maps is not None
    alone = network(Measurement(given.kspace[1:], given.mask[1:], given.maps[1:]))
    torch.testing.assert_close(alone, network(given)[1:])


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("ista_plus", ["pools", "layers"]),
        ("ista", ["layers", "init"]),
        ("modl", ["pools"]),
        ("unet", ["shared", "bias"]),
    ],
)
def test_options_of_other_networks_are_named(name: Any, chosen: list[str]) -> None:
    other = {"pools": 3, "layers": 4, "shared": False, "bias": False, "init": "xavier"}
    found = NetworkOptions(name, **{one: other[one] for one in chosen}).without_effect
    assert sorted(found) == sorted(chosen)
    assert NetworkOptions(name, channels=8).without_effect == []
    assert NetworkOptions("modl", phases=3, cg_steps=3, layers=3, shared=False, init="xavier").without_effect == []


@pytest.mark.parametrize("name", ["phases", "channels", "pools"])
def test_impossible_options_are_refused(name: str) -> None:
    with pytest.raises(SettingError, match=rf"network\.{name} must lie in 1.*, got 0"):
        NetworkOptions(**{name: 0})


def test_several_coils_need_maps() -> None:
    given = replace(samples(2, 8, 8), maps=None)
    with pytest.raises(ValueError, match="k-space of 2 coils needs coil sensitivity maps"):
        Reconstructor(options("ista_plus"))(given)


@pytest.mark.parametrize("name", NAMES)
def test_a_real_network_takes_one_coil(name: str) -> None:
    message = "a real network cannot combine coils: use --network.complex true, or --coils.virtual 1"
    with pytest.raises(SettingError, match=message):
        Reconstructor(options(name, complex=False))(samples(2, 16, 16))
