"""The supervised twin: pairs of one scan, and the mean absolute error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.scans import full_head
from sansref.data.simulate import Sampling
from sansref.methods import Draw, ImagePair, Needs, Sample, SupervisedGenerator, collate
from sansref.networks.norms import BatchInstanceNorm
from sansref.randomness import seeded
from sansref.scan import Scan

SIZE = (20, 24)
DRAW = Draw(seed=0, epoch=0, item=0)

Build = Callable[..., SupervisedGenerator]


@pytest.fixture
def build(tiny: Callable[..., Any]) -> Build:
    """A small generator: ``build(scaling="image")``, the same weights each time."""
    return lambda **changes: tiny("supervised_generator", **changes).build()


def scan(seed: int = 0) -> Scan:
    return Sampling(acceleration=3, center=0.2).undersample(full_head(seed, size=SIZE), seeded("mask", seed))


def zero_filled(one: Scan) -> Any:
    """Its magnitude, by NumPy."""
    return np.abs(np.fft.ifft2(np.fft.ifftshift(one.kspace[0].numpy()), norm="ortho"))


def only(examples: list[ImagePair]) -> ImagePair:
    (example,) = examples
    return example


def pictures(size: int) -> ImagePair:
    x, y = 2 * torch.rand(2, size, 1, *SIZE, generator=seeded("pictures")) - 1
    return ImagePair(x, y, torch.ones(size, *SIZE, dtype=torch.bool), torch.zeros(size, 64))


def test_it_needs_references_and_says_so(build: Build) -> None:
    assert SupervisedGenerator.needs is Needs.PAIRED
    with pytest.raises(ValueError, match=r"supervised training got head0\.nii without its reference"):
        build().examples(Sample(scan().without_reference()), DRAW)


@pytest.mark.parametrize("headroom", [1.0, 2.5])
def test_both_images_of_a_pair_are_on_the_scale_of_the_zero_filled_one(build: Build, headroom: float) -> None:
    one = scan()
    assert one.reference is not None
    made = only(build(headroom=headroom).examples(Sample(one), DRAW))
    unit = headroom * zero_filled(one).max() / 2
    assert float(made.undersampled.max()) == pytest.approx(2 / headroom - 1, abs=1e-6)
    np.testing.assert_allclose(made.full[0], one.reference.abs() / unit - 1, atol=1e-5)
    assert torch.equal(made.mask, one.mask)


def test_each_image_of_a_pair_can_be_scaled_by_itself(build: Build) -> None:
    one, method = scan(), build(scaling="image")
    made = only(method.examples(Sample(one), DRAW))
    assert method.relative
    for image in (made.undersampled, made.full):
        assert (float(image.min()), float(image.max())) == (-1, 1)
    dark = only(method.examples(Sample(replace(one, reference=0.1 * one.reference)), DRAW))
    torch.testing.assert_close(dark.full, made.full)


@pytest.mark.parametrize("complex", [False, True])
def test_references_are_taken_as_magnitudes_or_as_complex_images(build: Build, complex: bool) -> None:
    one, method = scan(), build(network={"complex": complex})
    reference = torch.polar(torch.rand(SIZE, generator=seeded("size")), 6 * torch.rand(SIZE, generator=seeded("phase")))
    made = only(method.examples(Sample(replace(one, reference=reference)), DRAW)).full
    magnitude = only(method.examples(Sample(replace(one, reference=reference.abs())), DRAW)).full
    if complex:
        torch.testing.assert_close(made.square().sum(0), magnitude[0].square())
        assert not magnitude[1].any()
        torch.testing.assert_close(torch.atan2(made[1], made[0]), reference.angle())
    else:
        torch.testing.assert_close(made, magnitude)


@pytest.mark.parametrize("size", [1, 2])
def test_the_loss_is_the_mean_absolute_error_in_the_unit_range(build: Build, size: int) -> None:
    method, batch = build(), pictures(size)
    restored = method.generator(batch.undersampled).detach().numpy()
    expected = np.abs(restored - batch.full.numpy()).mean()
    loss, parts = next(method.step(batch))[1:]
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert parts.keys() == {"l1"}
    assert float(parts["l1"]) == pytest.approx(expected, rel=1e-5)
    assert not parts["l1"].requires_grad


@pytest.mark.parametrize("size", [1, 2])
def test_one_turn_moves_the_whole_generator_towards_the_reference(build: Build, size: int) -> None:
    method = build()
    batch = collate([method.examples(Sample(scan(index)), DRAW) for index in range(size)])
    (turn,) = method.turns
    assert turn.name == "generator"
    assert turn.averaged
    assert {id(weight) for weight in turn.parameters} == {id(weight) for weight in method.parameters()}
    optimizer = torch.optim.Adam(turn.parameters, lr=0.005)
    losses = []
    for _ in range(30):
        for _, loss, _ in method.step(batch):
            losses.append(float(loss.detach()))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert losses[-1] < 0.7 * losses[0]


def test_mixtures_are_brought_back_after_an_update(build: Build) -> None:
    method = build()
    mixtures = [module.rho for module in method.modules() if isinstance(module, BatchInstanceNorm)]
    assert len(mixtures) == 7  # five of the generator, two of its one residual block
    updates = method.step(pictures(1))
    next(updates)
    for index, rho in enumerate(mixtures):
        torch.nn.init.constant_(rho, (-0.5, 1.5, 0.25)[index % 3])
    assert next(updates, None) is None
    assert [set(rho.tolist()) for rho in mixtures[:3]] == [{0.0}, {1.0}, {0.25}]
    assert {value for rho in mixtures for value in rho.tolist()} == {0.0, 1.0, 0.25}


def test_a_scan_is_reconstructed_by_the_generator(build: Build) -> None:
    one, method = scan().without_reference(), build()
    brightest = method.options.headroom * zero_filled(one).max()
    unit = torch.from_numpy(2 * np.fft.fftshift(zero_filled(one)) / brightest - 1).float()
    expected: Tensor = (method.generator(unit[None, None])[0, 0] + 1) / 2 * brightest
    image = method.reconstruct(one.batch())[0]
    torch.testing.assert_close(image.abs(), expected, rtol=1e-4, atol=1e-5)
