from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sansref.errors import FileError
from sansref.kspace.cartesian import Cartesian
from sansref.kspace.coils import birdcage_maps
from sansref.methods import Draw, Needs, Sample, Supervised, SupervisedOptions, collate
from sansref.networks import NetworkOptions, Reconstructor
from sansref.randomness import seeded
from sansref.scan import Scan, ScanMeta


def method(data_consistency: Any = "none") -> Supervised:
    torch.manual_seed(0)
    network = Reconstructor(NetworkOptions(phases=2, channels=4, init="xavier"))
    return Supervised(network, SupervisedOptions(loss="mse", data_consistency=data_consistency))


def scan(coils: int = 1, dtype: torch.dtype = torch.complex64) -> Scan:
    reference = torch.randn(12, 9, dtype=dtype, generator=seeded("image"))
    mask = torch.rand(12, 9, generator=seeded("mask")) < 0.4
    maps = birdcage_maps((12, 9), coils) if coils > 1 else None
    kspace = Cartesian(mask, maps).forward(reference.to(torch.complex64)[None])[0]
    return Scan(kspace, mask, ScanMeta("s", "head.nii"), maps, reference)


def error_of(image: Tensor, reference: Tensor) -> float:
    return float(torch.view_as_real(image - reference).square().mean())


def test_needs_references_and_says_so() -> None:
    assert Supervised.needs is Needs.PAIRED
    with pytest.raises(ValueError, match=r"supervised training got head\.nii without its reference"):
        method().examples(Sample(scan().without_reference()), Draw(0, 0, 0))


@pytest.mark.parametrize("coils", [1, 3])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.float32])
def test_the_example_is_all_acquired_samples_and_the_full_kspace_of_the_reference(
    coils: int, dtype: torch.dtype
) -> None:
    one = scan(coils, dtype)
    (example,) = method().examples(Sample(one), Draw(0, 0, 0))
    assert torch.equal(example.given.kspace, one.kspace)
    assert torch.equal(example.given.mask, one.mask)
    assert example.given.maps is one.maps
    assert bool((example.weight == 1).all())
    torch.testing.assert_close(example.target * one.mask, one.kspace)
    assert one.reference is not None
    everything = torch.ones(12, 9, dtype=torch.bool)
    full = Cartesian(everything, one.maps).forward(one.reference.to(torch.complex64)[None])[0]
    torch.testing.assert_close(example.target, full)


def test_with_one_coil_the_loss_is_the_mean_squared_error_of_the_image() -> None:
    learned, one = method(), scan()
    examples = collate([learned.examples(Sample(one), Draw(0, 0, 0))])
    loss = next(learned.step(examples)).loss
    image = learned.reconstruct(examples.given).detach()
    assert one.reference is not None
    assert float(loss.detach()) == pytest.approx(error_of(image[0], one.reference), rel=1e-5)


def test_with_several_coils_and_normalised_maps_the_loss_is_that_of_the_image_per_coil() -> None:
    learned, one = method(), scan(3)
    examples = collate([learned.examples(Sample(one), Draw(0, 0, 0))])
    loss = next(learned.step(examples)).loss
    image = learned.reconstruct(examples.given).detach()
    assert one.reference is not None
    assert float(loss.detach()) == pytest.approx(error_of(image[0], one.reference) / 3, rel=1e-5)


def test_a_full_scan_whose_samples_are_imposed_teaches_nothing_and_is_refused() -> None:
    full = scan()
    full = replace(full, mask=torch.ones_like(full.mask))
    with pytest.raises(FileError, match=r"head\.nii: is fully sampled, .* Use --data_consistency none"):
        method("hard").examples(Sample(full), Draw(0, 0, 0))
    method().examples(Sample(full), Draw(0, 0, 0))


def test_imposed_samples_are_in_the_reconstruction_and_not_in_the_loss() -> None:
    one = scan()
    free, imposing = (method(data_consistency=kind) for kind in ("none", "hard"))
    (whole,), (rest,) = free.examples(Sample(one), Draw(0, 0, 0)), imposing.examples(Sample(one), Draw(0, 0, 0))
    assert bool((whole.weight == 1).all())
    assert torch.equal(rest.weight, (~one.mask).float())
    given = collate([[rest]]).given
    kspace = Cartesian(given.mask).transform(imposing.reconstruct(given).detach())
    torch.testing.assert_close(kspace[0][:, one.mask], one.kspace[:, one.mask])
