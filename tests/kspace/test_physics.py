"""Conjugate gradients, and a second kind of acquisition in one class: radial lines by a dense matrix."""

from __future__ import annotations

import math
from functools import cached_property, partial

import pytest
import torch
from torch import Tensor

from helpers import scans
from sansref.errors import SettingError
from sansref.kspace.coils import birdcage_maps
from sansref.kspace.masks.family import MaskFamily
from sansref.kspace.measurement import Measurement
from sansref.kspace.physics import Physics, conjugate_gradients
from sansref.methods import SSDU, Draw, Sample, SSDUOptions, collate
from sansref.networks import NetworkOptions, Reconstructor
from sansref.randomness import seeded
from sansref.scan import Scan, ScanMeta

SIZE = 12
SPOKES, READOUT = 10, 16


class Radial:
    """Samples along lines through DC, by the discrete Fourier sum over all pixels of one coil or several."""

    def __init__(self, mask: Tensor, maps: Tensor | None, places: Tensor) -> None:
        self.mask, self.maps = mask, maps
        axis = torch.arange(SIZE, dtype=torch.float32) - SIZE // 2
        pixels = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
        self.matrix = torch.polar(torch.tensor(1 / SIZE), -2 * math.pi / SIZE * (places.flatten(1, 2) @ pixels.T))

    def transform(self, image: Tensor) -> Tensor:
        coils = image.unsqueeze(1) if self.maps is None else self.maps * image.unsqueeze(1)
        return torch.einsum("bsp,bcp->bcs", self.matrix, coils.flatten(2)).unflatten(2, (SPOKES, READOUT))

    def forward(self, image: Tensor) -> Tensor:
        return self.mask.unsqueeze(1) * self.transform(image)

    def adjoint(self, kspace: Tensor) -> Tensor:
        kept = (self.mask.unsqueeze(1) * kspace).flatten(2)
        coils = torch.einsum("bsp,bcs->bcp", self.matrix.conj(), kept).unflatten(2, (SIZE, SIZE))
        return coils.squeeze(1) if self.maps is None else (self.maps.conj() * coils).sum(1)

    def normal(self, image: Tensor) -> Tensor:
        return self.adjoint(self.forward(image))


class RadialMeasurement(Measurement):
    @cached_property
    def physics(self) -> Physics:
        return Radial(self.mask, self.maps, self.trajectory)


class RadialScan(Scan):
    __slots__ = ()

    @property
    def measurement(self) -> Measurement:
        return RadialMeasurement(self.kspace, self.mask, self.maps, places())


def places() -> Tensor:
    """Spokes at even angles, in cycles per field of view."""
    angles = torch.arange(SPOKES) * math.pi / SPOKES
    along = torch.linspace(-SIZE / 2, SIZE / 2, READOUT)
    return torch.stack([angles.sin()[:, None] * along, angles.cos()[:, None] * along], -1)


noise = partial(scans.noise, dtype=torch.complex64)


def measured(image: Tensor, coils: int = 1) -> RadialMeasurement:
    maps = birdcage_maps((SIZE, SIZE), coils)[None] if coils > 1 else None
    mask = torch.ones(1, SPOKES, READOUT, dtype=torch.bool)
    mask[:, 1::2] = False
    empty = RadialMeasurement(torch.zeros(1, coils, SPOKES, READOUT, dtype=torch.complex64), mask, maps, places()[None])
    return RadialMeasurement(empty.physics.forward(image[None]), mask, maps, places()[None])


@pytest.mark.parametrize("coils", [1, 3])
def test_the_second_physics_is_adjoint_to_itself(coils: int) -> None:
    physics = measured(noise(SIZE, SIZE), coils).physics
    image, kspace = noise(1, SIZE, SIZE, seed=1), noise(1, coils, SPOKES, READOUT, seed=2)
    there = torch.vdot(physics.forward(image).flatten(), kspace.flatten())
    back = torch.vdot(image.flatten(), physics.adjoint(kspace).flatten())
    torch.testing.assert_close(there, back, rtol=1e-4, atol=1e-4)


def error_elsewhere(method: SSDU, scan: RadialScan, image: Tensor) -> float:
    """Relative error on the spokes that were never acquired."""
    given = RadialMeasurement.stacked([scan.measurement])
    found = method.reconstruct(given).detach()
    predicted, truth = (given.physics.transform(one)[:, 0][~given.mask] for one in (found, image[None]))
    return float((predicted - truth).norm() / truth.norm())


def test_ssdu_learns_from_radial_samples_with_nothing_but_their_physics() -> None:
    """The same method, network and loss as on a grid: only the operators are others."""
    blob = torch.exp(-torch.linspace(-2, 2, SIZE).square())
    image = torch.polar(blob[:, None] * blob, 0.3 * torch.ones(SIZE, SIZE))
    given = measured(image)
    scan = RadialScan(given.kspace[0], given.mask[0], ScanMeta("s", "spokes"))
    torch.manual_seed(0)
    network = Reconstructor(NetworkOptions(phases=3, channels=8))
    for phase in network.network.phases:
        torch.nn.init.constant_(phase.step, 0.3)  # spokes are dense in the middle: steps of 1 would overshoot
    method = SSDU(network, SSDUOptions(data_consistency="none", split_center=0.0), MaskFamily())
    before = error_elsewhere(method, scan, image)
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    losses = []
    for epoch in range(150):
        for _, loss, _ in method.step(collate([method.examples(Sample(scan), Draw(0, epoch, 0))])):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert error_elsewhere(method, scan, image) < 0.5 * before


def test_what_needs_a_grid_says_so() -> None:
    given = measured(noise(SIZE, SIZE))
    with pytest.raises(SettingError, match="Cartesian grid: use --data_consistency none"):
        given.data_consistent(noise(1, SIZE, SIZE))


def test_restricting_and_stacking_keep_the_kind_and_the_trajectory() -> None:
    scan = measured(noise(SIZE, SIZE))
    one = RadialMeasurement(scan.kspace[0], scan.mask[0], None, places())
    fewer = one.restricted(torch.rand(SPOKES, READOUT, generator=seeded(0)) < 0.5)
    batch = Measurement.stacked([fewer, one])
    assert type(batch) is type(fewer) is RadialMeasurement
    assert batch.trajectory is not None
    assert batch.trajectory.shape == (2, SPOKES, READOUT, 2)
    assert not batch.kspace[0][:, ~fewer.mask].any()


@pytest.mark.parametrize("preconditioned", [False, True])
def test_conjugate_gradients_solve_hermitian_systems_slice_by_slice(preconditioned: bool) -> None:
    diagonal = 1 + 9 * torch.rand(2, 5, 6, generator=seeded(1))
    truth = noise(2, 5, 6, seed=3)
    right = diagonal * truth

    def system(image: Tensor) -> Tensor:
        return diagonal * image

    inverse = {"precondition": lambda residual: residual / diagonal} if preconditioned else {}
    start = torch.zeros_like(truth)
    found, residual = conjugate_gradients(system, start, right, 1 if preconditioned else 25, **inverse)
    torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(residual, right - system(found), rtol=1e-3, atol=1e-3)
