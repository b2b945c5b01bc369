"""Compressed sensing by name, and its one number: chosen on held-out samples, with the reference out of reach."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from math import inf, nan
from typing import Any, get_args

import numpy as np
import pytest
import torch
from skimage.data import shepp_logan_phantom
from skimage.transform import resize
from torch import Tensor

from sansref.data.simulate import Sampling, Simulation, simulate
from sansref.errors import FileError, SettingError
from sansref.kspace.coils import birdcage_maps
from sansref.kspace.masks.family import MaskFamily
from sansref.kspace.measurement import Measurement
from sansref.kspace.partitions import hold_out
from sansref.methods.classical.regularisation import GRID, Choice, Classical, ClassicalName, choose_regularisation
from sansref.randomness import seeded
from sansref.scan import Scan, ScanMeta

NAMES = get_args(ClassicalName)
MakeScans = Callable[..., list[Scan]]
SHAPE = (32, 32)
DECADES = (1e-4, 1e-3, 1e-2, 1e-1)


class Sealed:
    """A reference that has a shape and nothing to read."""

    shape = torch.Size(SHAPE)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} of the reference was read")


def phantoms(snr: float) -> list[Scan]:
    """Two scans with edges, of 64 x 64, 3x undersampled."""
    magnitude = torch.from_numpy(resize(shepp_logan_phantom(), (64, 64), anti_aliasing=True)).float()
    scans = []
    for item, image in enumerate((magnitude, magnitude.flip(0).roll(5, 1))):
        full = simulate(image, Simulation(snr=snr), seeded(item, "scan"), ScanMeta("s", "f"))
        scans.append(Sampling(acceleration=3).undersample(full, seeded(item)))
    return scans


def held_out_of(scans: list[Scan]) -> list[Tensor]:
    return [hold_out(scan.mask, 0.2, seeded("held out", item)).target for item, scan in enumerate(scans)]


def choose(name: ClassicalName, scans: list[Scan], **options: Any) -> Choice:
    options = {"grid": DECADES, "iterations": 20, **options}
    return choose_regularisation(name, scans, held_out_of(scans), MaskFamily(), **options)


def given_of(scan: Scan) -> Measurement:
    return scan.batch()


def nmse(image: Tensor, scan: Scan) -> float:
    assert scan.reference is not None
    return float((image - scan.reference).abs().square().sum() / scan.reference.abs().square().sum())


@pytest.mark.parametrize("name", NAMES)
def test_reconstructs_better_than_zero_filling_and_always_the_same(name: ClassicalName, make_scans: MakeScans) -> None:
    (scan,) = make_scans(SHAPE)
    given, method = given_of(scan), Classical(name, 0.003)
    zero_filled = Classical("total_variation", 0, 1).reconstruct(given)
    image = method.reconstruct(given)
    assert image.shape == (1, *SHAPE)
    assert nmse(image[0], scan) < 0.5 * nmse(zero_filled[0], scan)
    assert torch.equal(image, method.reconstruct(given))


def test_wavelets_are_spun_by_the_seed(make_scans: MakeScans) -> None:
    given = given_of(make_scans(SHAPE)[0])
    images = [Classical("l1_wavelet", 0.01, 10, seed).reconstruct(given) for seed in (0, 1)]
    assert not torch.equal(*images)
    assert float((images[0] - images[1]).norm() / images[0].norm()) < 0.1


@pytest.mark.parametrize("name", NAMES)
def test_reconstruction_keeps_no_gradient(name: ClassicalName, make_scans: MakeScans) -> None:
    given = given_of(make_scans(SHAPE)[0])
    image = Classical(name, 0.01, 2).reconstruct(replace(given, kspace=given.kspace.clone().requires_grad_()))
    assert not image.requires_grad


def test_an_unknown_method_is_refused_with_the_known_ones(make_scans: MakeScans) -> None:
    unknown: Any = "ridgelet"
    message = "unknown classical method 'ridgelet': use l1_wavelet or total_variation"
    with pytest.raises(SettingError, match=message):
        Classical(unknown, 0.01)
    with pytest.raises(SettingError, match=message):
        choose(unknown, make_scans(SHAPE))


@pytest.mark.parametrize("value", [-0.1, nan, inf])
def test_an_impossible_regularisation_is_refused(value: float) -> None:
    with pytest.raises(SettingError, match=f"regularisation is {value}: give a number of at least 0"):
        Classical("total_variation", value)


def test_an_impossible_number_of_iterations_is_refused(make_scans: MakeScans) -> None:
    with pytest.raises(SettingError, match="iterations is 0: give at least 1"):
        Classical("total_variation", 0.1, 0)
    with pytest.raises(SettingError, match="iterations is -1: give at least 1"):
        choose("total_variation", make_scans(SHAPE), iterations=-1)


def test_only_wavelets_need_pywavelets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pywt", None)
    Classical("total_variation", 0.1)
    with pytest.raises(SettingError, match=r"l1_wavelet needs PyWavelets: pip install PyWavelets"):
        Classical("l1_wavelet", 0.1)


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_is_never_read(name: ClassicalName, make_scans: MakeScans) -> None:
    sealed: Any = Sealed()
    scans = make_scans(SHAPE, SHAPE)
    without = choose(name, [scan.without_reference() for scan in scans])
    assert choose(name, [replace(scan, reference=sealed) for scan in scans]) == without
    assert choose(name, scans) == without


@pytest.mark.parametrize("name", NAMES)
def test_the_choice_is_nearly_the_best_by_the_reference(name: ClassicalName) -> None:
    """Too little regularisation, and too much, would fail this."""
    scans = phantoms(snr=8)
    chosen = choose(name, scans)

    def error(regularisation: float) -> float:
        method = Classical(name, regularisation, 20)
        return sum(nmse(method.reconstruct(given_of(scan))[0], scan) for scan in scans)

    errors = [error(value) for value in DECADES]
    assert error(chosen.regularisation) < 1.1 * min(errors)
    assert min(errors[0], errors[-1]) > 1.1 * min(errors)


def test_more_noise_asks_for_more_regularisation() -> None:
    clean, noisy = (choose("total_variation", phantoms(snr)).regularisation for snr in (200, 8))
    assert noisy > clean


def test_the_score_is_the_mean_weighted_error_on_the_held_out_samples(make_scans: MakeScans) -> None:
    """In numpy, sample by sample, the image made from the rest of the samples."""
    scans, family = make_scans(SHAPE, SHAPE), MaskFamily()
    errors = []
    for scan, held_out in zip(scans, held_out_of(scans), strict=True):
        kept = Measurement((scan.kspace * ~held_out)[None], (scan.mask & ~held_out)[None])
        image = Classical("total_variation", 0.01, 20).reconstruct(kept)[0].numpy()
        spectrum = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image), norm="ortho"))
        missed, samples, density = (
            part[held_out.numpy()]
            for part in (spectrum - scan.kspace[0].numpy(), scan.kspace[0].numpy(), family.density(scan.mask).numpy())
        )
        errors.append((np.abs(missed) ** 2 / density).sum() / (np.abs(samples) ** 2 / density).sum())
    chosen = choose("total_variation", scans, grid=[0.01])
    assert chosen.tried == ((0.01, chosen.error),)
    assert chosen.error == pytest.approx(np.mean(errors), rel=1e-3)


def test_the_grid_is_two_a_decade_from_1e_5_to_a_tenth() -> None:
    assert (GRID[0], GRID[-1], len(GRID)) == (pytest.approx(1e-5), pytest.approx(0.1), 9)
    assert all(high / low == pytest.approx(10**0.5) for low, high in pairwise(GRID))


def test_the_best_of_the_grid_is_refined_between_its_neighbours(make_scans: MakeScans) -> None:
    chosen = choose("total_variation", make_scans(SHAPE, snr=12.0), grid=[1e-4, 1e-2, 1.0])
    tried = [regularisation for regularisation, _ in chosen.tried]
    assert tried == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1.0])
    assert (chosen.regularisation, chosen.error) in chosen.tried
    assert chosen.error == min(error for _, error in chosen.tried)


@pytest.mark.parametrize(
    ("grid", "tried"),
    [([0.1, 0.4, 1.6], [0.1, 0.2, 0.4, 1.6]), ([1e-9, 1e-7, 1e-5], [1e-9, 1e-7, 1e-6, 1e-5]), ([0.02], [0.02])],
)
def test_at_an_edge_of_the_grid_only_the_inner_neighbour_counts(
    grid: list[float], tried: list[float], make_scans: MakeScans
) -> None:
    chosen = choose("total_variation", make_scans(SHAPE, snr=12.0), grid=grid)
    assert [regularisation for regularisation, _ in chosen.tried] == pytest.approx(tried)


def test_of_equally_good_ones_the_smallest_is_taken(make_scans: MakeScans) -> None:
    """All samples held out: every image is empty."""
    scans = make_scans(SHAPE)
    chosen = choose_regularisation("total_variation", scans, [scans[0].mask], MaskFamily(), DECADES, 2)
    assert (chosen.regularisation, chosen.error) == (DECADES[0], pytest.approx(1.0))


def test_scans_of_several_coils_and_of_other_sizes_are_welcome(make_scans: MakeScans) -> None:
    small, large = make_scans((21, 32), SHAPE)
    coils = replace(large, kspace=large.kspace.expand(2, -1, -1), maps=torch.full((2, *SHAPE), 0.5**0.5 + 0j))
    assert choose("l1_wavelet", [small, coils]).error < 1


@pytest.mark.parametrize("count", [0, 1])
def test_scans_without_masks_or_masks_without_scans_are_refused(count: int, make_scans: MakeScans) -> None:
    scans = make_scans(SHAPE, SHAPE)
    with pytest.raises(ValueError, match=f"{2 * count} scans and {count} held-out masks: give one mask for each"):
        choose_regularisation("total_variation", scans[: 2 * count], held_out_of(scans)[:count], MaskFamily())


@pytest.mark.parametrize("grid", [[], [0.0, 0.1], [0.1, 0.1], [0.1, 0.01], [-0.1], [nan, 0.1], [0.1, inf]])
def test_a_grid_that_does_not_increase_from_above_0_is_refused(grid: list[float], make_scans: MakeScans) -> None:
    with pytest.raises(ValueError, match="grid must be positive numbers in increasing order, got"):
        choose("total_variation", make_scans(SHAPE), grid=grid)


def test_held_out_samples_that_were_not_acquired_are_refused(make_scans: MakeScans) -> None:
    scans = make_scans(SHAPE)
    with pytest.raises(ValueError, match=r"held-out samples of s0\.nii were not acquired"):
        choose_regularisation("total_variation", scans, [~scans[0].mask], MaskFamily())


def test_a_held_out_mask_of_another_plane_is_refused(make_scans: MakeScans) -> None:
    row = torch.zeros(1, 32, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"held-out mask \(1, 32\) and s0\.nii \(32, 32\) are of different planes"):
        choose_regularisation("total_variation", make_scans(SHAPE), [row], MaskFamily())


@pytest.mark.parametrize("fault", ["none held out", "zero", "not finite"])
def test_a_scan_without_a_held_out_error_is_named(fault: str, make_scans: MakeScans) -> None:
    good, scan = make_scans(SHAPE, SHAPE)
    held_out = held_out_of([good, scan])
    if fault == "none held out":
        held_out[1] = torch.zeros_like(held_out[1])
    else:
        scan = replace(scan, kspace=scan.kspace * (0 if fault == "zero" else nan))
    message = r"s1\.nii has no held-out error .* leave this scan out, or hold more samples out"
    with pytest.raises(SettingError, match=message):
        choose_regularisation("total_variation", [good, scan], held_out, MaskFamily(), DECADES, 2)


def test_several_coils_without_maps_are_refused_by_their_file(make_scans: MakeScans) -> None:
    (scan,) = make_scans(SHAPE)
    coils = birdcage_maps(SHAPE, 2) * scan.kspace
    with pytest.raises(FileError, match=r"s0\.nii: has 2 coils and no sensitivity maps"):
        choose("total_variation", [replace(scan, kspace=coils)])
