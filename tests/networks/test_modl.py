"""MoDL: where it begins, what its data term does, and its gradients against those through every step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sansref.errors import SettingError
from sansref.kspace.cartesian import Cartesian
from sansref.kspace.coils import birdcage_maps
from sansref.kspace.measurement import Measurement
from sansref.kspace.physics import conjugate_gradients
from sansref.networks import MoDL, NetworkOptions, Reconstructor
from sansref.networks.istanet import to_channels
from sansref.randomness import seeded

SIZE = (10, 8)


@pytest.fixture(autouse=True)
def initial_weights() -> None:
    torch.manual_seed(0)


def measured(coils: int = 3, columns: bool = False, dtype: torch.dtype = torch.complex128) -> Measurement:
    shape = (2, 1, SIZE[1]) if columns else (2, *SIZE)
    mask = (torch.rand(shape, generator=seeded("mask")) < 0.5).expand(2, *SIZE).contiguous()
    kspace = torch.randn(2, coils, *SIZE, dtype=dtype, generator=seeded("kspace"))
    maps = birdcage_maps(SIZE, coils).to(dtype).expand(2, -1, -1, -1) if coils > 1 else None
    return Measurement(kspace * mask.unsqueeze(1), mask, maps)


def network(**changes: Any) -> MoDL:
    return MoDL(**{"phases": 3, "channels": 4, "layers": 3, "cg_steps": 60, **changes}).double()


def reconstructed(net: MoDL, given: Measurement) -> Tensor:
    channels = net(to_channels(given.physics.adjoint(given.kspace), 2), given.physics.normal)
    return torch.complex(channels[:, 0], channels[:, 1])


def matrices(given: Measurement) -> Tensor:
    """E^H E of each scan as a matrix, from its images of all unit vectors."""
    pixels = math.prod(SIZE)
    units = torch.eye(pixels, dtype=torch.complex128).reshape(pixels, *SIZE)
    assert given.maps is not None
    columns = [
        Cartesian(mask, maps).normal(units).flatten(1) for mask, maps in zip(given.mask, given.maps, strict=True)
    ]
    return torch.stack(columns).mT


@pytest.mark.parametrize("columns", [False, True])
def test_begins_as_the_regularised_sense_image(columns: bool) -> None:
    """With D = 1 each iteration solves (E^H E + mu) x = E^H y + mu x, here by factorised matrices."""
    given, net = measured(columns=columns), network()
    net.begin_as_identity()
    data = given.physics.adjoint(given.kspace).flatten(1).unsqueeze(-1)
    mu = math.exp(-3)
    system, image = matrices(given) + mu * torch.eye(math.prod(SIZE)), data
    for _ in range(3):
        image = torch.linalg.solve(system, data + mu * image)
    torch.testing.assert_close(reconstructed(net, given).flatten(1), image[..., 0], rtol=1e-6, atol=1e-7)


def test_begins_as_the_zero_filled_image_of_one_coil() -> None:
    given, net = measured(coils=1), network(cg_steps=2)
    net.begin_as_identity()
    torch.testing.assert_close(reconstructed(net, given), given.physics.adjoint(given.kspace), rtol=1e-6, atol=1e-7)


def test_two_steps_are_exact_for_one_coil() -> None:
    """There E^H E has no eigenvalues but 0 and 1."""
    given = measured(coils=1)
    few, many = network(cg_steps=2), network(cg_steps=60)
    many.load_state_dict(few.state_dict())
    torch.testing.assert_close(reconstructed(few, given), reconstructed(many, given), rtol=1e-10, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("coils", [1, 3])
def test_the_image_meets_the_data_as_mu_falls(coils: int) -> None:
    given = measured(coils)
    truth = torch.randn(2, *SIZE, dtype=torch.complex128, generator=seeded("truth"))
    given = Measurement(given.physics.forward(truth), given.mask, given.maps)
    errors = []
    for log_mu in (-1.0, -4.0, -14.0):
        net = network(phases=1, cg_steps=200)
        torch.nn.init.constant_(net.log_mu, log_mu)
        left = given.physics.forward(reconstructed(net, given)) - given.kspace
        errors.append(float(left.norm() / given.kspace.norm()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-4


class Unrolled(MoDL):
    """Every step of conjugate gradients on the way back too."""

    def data_step(self, normal: Any, right: Tensor, start: Tensor) -> Tensor:
        def system(x: Tensor) -> Tensor:
            return normal(x) + self.mu * x

        return conjugate_gradients(system, start, right - system(start), self.cg_steps)[0]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("coils", [1, 3])
def test_gradients_are_those_through_every_step(coils: int, shared: bool) -> None:
    given = measured(coils)
    steps = 2 if coils == 1 else 60
    weight = torch.randn(2, *SIZE, dtype=torch.complex128, generator=seeded("weight"))
    gradients = []
    state = network(shared=shared).state_dict()
    for kind in (MoDL, Unrolled):
        net = kind(3, 4, layers=3, cg_steps=steps, shared=shared).double()
        net.load_state_dict(state)
        (weight.conj() * reconstructed(net, given)).real.sum().backward()
        gradients.append({name: one.grad for name, one in net.named_parameters()})
    assert "log_mu" in gradients[0]
    for name, gradient in gradients[0].items():
        assert gradient is not None
        assert bool(gradient.any()), name
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-6, atol=1e-8)


def test_what_is_kept_for_the_way_back_does_not_grow_with_the_steps() -> None:
    given = measured()

    def kept(kind: type[MoDL], steps: int) -> int:
        storages: dict[int, int] = {}

        def keep(saved: Tensor) -> Tensor:
            storages[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
            alive.append(saved)  # else another would get its place
            return saved

        alive: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
            reconstructed(kind(3, 4, layers=3, cg_steps=steps).double(), given)
        return sum(storages.values())

    assert kept(MoDL, 6) == kept(MoDL, 12) < kept(Unrolled, 6) < kept(Unrolled, 12)


def test_shared_weights_are_counted_once() -> None:
    count = {
        shared: sum(one.numel() for one in MoDL(channels=32, shared=shared).parameters()) for shared in (True, False)
    }
    denoiser = 9 * (2 * 32 + 3 * 32 * 32 + 32 * 2) + 4 * 32 + 2
    assert count == {True: denoiser + 1, False: 5 * denoiser + 1}


def test_without_biases_a_factor_of_the_data_is_one_of_the_image() -> None:
    given, net = measured(), network(bias=False)
    larger = Measurement(3 * given.kspace, given.mask, given.maps)
    torch.testing.assert_close(reconstructed(net, larger), 3 * reconstructed(net, given), rtol=1e-6, atol=1e-8)


def test_single_precision_gives_the_image_of_double_precision() -> None:
    given, net = measured(), network(cg_steps=6)
    exact = reconstructed(net, given)
    maps = None if given.maps is None else given.maps.to(torch.complex64)
    single = reconstructed(net.float(), Measurement(given.kspace.to(torch.complex64), given.mask, maps))
    assert single.dtype == torch.complex64
    torch.testing.assert_close(single.to(torch.complex128), exact, rtol=1e-3, atol=1e-4)


def test_weights_survive_a_file(tmp_path: Path) -> None:
    given = measured(dtype=torch.complex64)
    first, second = (Reconstructor(NetworkOptions("modl", channels=4, init="xavier")) for _ in range(2))
    assert not torch.allclose(first(given), second(given))
    save_file(first.state_dict(), tmp_path / "weights.safetensors")
    second.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert torch.equal(first(given), second(given))


def test_a_network_begun_as_identity_learns_all_its_weights_within_two_steps() -> None:
    """The last convolution, which is zero, moves first."""
    given, net = measured(), network()
    net.begin_as_identity()
    truth = torch.randn(2, *SIZE, dtype=torch.complex128, generator=seeded("truth"))
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = (reconstructed(net, given) - truth).abs().square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert all(bool(one.grad.any()) for one in net.parameters() if one.grad is not None)
    assert losses[-1] < losses[0]


def test_images_of_other_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="in_channels must be 1"):
        MoDL(in_channels=3)
    with pytest.raises(ValueError, match=r"zero_filled must be \(batch, 2, height, width\), got \(1, 1, 4, 4\)"):
        MoDL()(torch.zeros(1, 1, 4, 4), lambda image: image)


@pytest.mark.parametrize(("name", "value"), [("layers", 1), ("cg_steps", 0), ("cg_steps", 1001)])
def test_impossible_options_are_refused(name: str, value: int) -> None:
    with pytest.raises(SettingError, match=rf"network\.{name} must lie in \d\.\.1000, got {value}"):
        NetworkOptions("modl", **{name: value})


def test_too_large_a_network_is_refused_by_what_it_shares() -> None:
    assert NetworkOptions("modl", phases=100, channels=1024).iterations == 100
    with pytest.raises(SettingError, match="lower its phases, channels, layers and pools"):
        NetworkOptions("modl", phases=100, channels=1024, shared=False)
