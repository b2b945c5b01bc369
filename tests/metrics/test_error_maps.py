from __future__ import annotations

import math
from dataclasses import replace
from functools import cache, partial

import pytest
import torch
from torch import Tensor

from sansref.data.prepare import scaled
from sansref.data.simulate import Sampling, Simulation, example_image, simulate
from sansref.data.slices import Slices, resized_image
from sansref.errors import FileError, SettingError
from sansref.kspace.fourier import fft2c
from sansref.kspace.grid import UNITS, central_mask, distance
from sansref.kspace.masks.family import MaskFamily
from sansref.kspace.measurement import Measurement
from sansref.kspace.noise import estimate_noise, white_noise
from sansref.methods.classical.total_variation import total_variation
from sansref.metrics.contradiction import THRESHOLD, contradiction_map
from sansref.metrics.error_bound import SYSTEMATIC, error_energy, error_shape, estimated_psnr, noise_doubt
from sansref.metrics.error_maps import ErrorMapOptions, ErrorMaps, error_maps
from sansref.metrics.held_out import held_out_folds
from sansref.metrics.quality import body_mask, psnr
from sansref.randomness import seeded
from sansref.scan import Scan, ScanMeta

SIDE = 96
PLACE = (50, 44)
"""In the middle of the brain."""

compressed_sensing = partial(total_variation, regularisation=1e-3, iterations=30)


def zero_filled(given: Measurement) -> Tensor:
    return given.physics.adjoint(given.kspace)


@cache
def head(mask: str = "variable_density", coils: int = 1, snr: float | None = 30.0) -> tuple[Scan, MaskFamily]:
    """A real head's slice, undersampled 4 times, and the masks of its kind."""
    image = resized_image(example_image(), Slices(matrix=(SIDE, SIDE)))
    full = simulate(image.clamp(min=0), Simulation(coils=coils, snr=snr), seeded("scan"), ScanMeta("s", "head.nii"))
    sampling = Sampling(mask=mask, acceleration=4)
    return scaled(sampling.undersample(full, seeded("mask"))), sampling.family(emulated=True)


def disc(image: Tensor, size: float, contrast: float) -> Tensor:
    """A lesion in phase with an image, its contrast relative to bright tissue."""
    rows, columns = (torch.arange(SIDE) - place for place in PLACE)
    shape = (size / 2 + 0.5 - torch.hypot(rows[:, None].float(), columns[None].float())).clamp(0, 1)
    return contrast * image.abs().quantile(0.95) * torch.polar(shape, image.angle())


@cache
def found_in(mask: str = "variable_density", coils: int = 1) -> ErrorMaps:
    return error_maps(compressed_sensing, *head(mask, coils))


def true_error(found: ErrorMaps, scan: Scan) -> Tensor:
    assert scan.reference is not None
    return found.image.abs() - scan.reference.abs()


KINDS = [("variable_density", 1), ("random_columns", 1), ("variable_density", 4), ("random_columns", 4)]


@pytest.mark.parametrize(("mask", "coils"), KINDS)
def test_the_reference_is_not_looked_at(mask: str, coils: int) -> None:
    scan, family = head(mask, coils)
    options = ErrorMapOptions(folds=4, replicates=2)
    known = error_maps(compressed_sensing, scan, family, options)
    wrong = replace(scan, reference=torch.ones_like(scan.reference))  # type: ignore[arg-type]
    for other in (scan.without_reference(), wrong):
        found = error_maps(compressed_sensing, other, family, options)
        assert torch.equal(found.bound, known.bound)
        assert torch.equal(found.contradiction, known.contradiction)
        assert (found.psnr, found.regions) == (known.psnr, known.regions)


@pytest.mark.parametrize(("mask", "coils"), KINDS)
def test_covers_the_share_of_the_body_that_was_asked_for(mask: str, coils: int) -> None:
    scan, found = head(mask, coils)[0], found_in(mask, coils)
    body = body_mask(scan.reference.abs())  # type: ignore[union-attr]
    covered = (true_error(found, scan).abs() <= found.bound)[body].float().mean()
    assert 0.82 < covered < 0.97


def test_noise_is_doubted_as_far_as_the_scan_leaves_it_open() -> None:
    air, spectrum = (torch.rand(1, 96, 96, generator=seeded("doubt")) > share for share in (0.0, 0.75))
    kspace = white_noise(torch.zeros(1, 96, 96, dtype=torch.complex64), 1.0, seeded("noise"))
    sure, unsure = (estimate_noise(kspace * mask, mask[0]) for mask in (air, spectrum))
    assert noise_doubt(sure) == 0.1
    assert noise_doubt(replace(unsure, low=unsure.low * 0, high=unsure.high * 2)) == 0.5
    known = replace(unsure, low=0.9 * unsure.level, high=1.1 * unsure.level)
    assert noise_doubt(known) == pytest.approx(0.2)


def test_a_level_of_noise_that_is_known_is_taken() -> None:
    scan, family = head()
    level = estimate_noise(scan.kspace, scan.mask).level.flatten()
    found = []
    for factor in (1.0, 2.0):
        known = replace(scan, meta=replace(scan.meta, noise=tuple((factor * level).tolist())))
        found.append(error_maps(compressed_sensing, known, family))
    assert found[0].psnr == found_in().psnr
    assert found[1].psnr.value > found[0].psnr.value + 1  # more of the residual is taken for noise


def test_another_share_takes_another_quantile() -> None:
    narrow, wide = (error_maps(zero_filled, *head(), ErrorMapOptions(bound=share)) for share in (0.5, 0.9))
    torch.testing.assert_close(wide.bound, narrow.bound * 1.6449 / 0.6745, rtol=1e-4, atol=0)


@pytest.mark.parametrize(("mask", "coils"), KINDS)
def test_the_interval_of_the_estimated_psnr_holds_the_true_one(mask: str, coils: int) -> None:
    scan, found = head(mask, coils)[0], found_in(mask, coils)
    truth = scan.reference.abs()  # type: ignore[union-attr]
    assert found.psnr.low <= psnr(found.image.abs(), truth, float(truth.max())) <= found.psnr.high
    assert (
        abs(found.psnr.value - float(psnr(found.image.abs(), truth, float(truth.max())))) < 3
    )  # of coil maps, errors are shared


def test_a_worse_reconstruction_has_a_wider_bound_and_a_lower_estimate() -> None:
    good, bad = found_in(), error_maps(zero_filled, *head())
    assert bad.bound.square().mean() > 2 * good.bound.square().mean()
    assert bad.psnr.high < good.psnr.value
    assert bad.psnr.value < good.psnr.low


@pytest.mark.parametrize("consistent", [True, False])
@pytest.mark.parametrize("added", [True, False])
def test_what_a_method_makes_up_or_leaves_out_is_marked(added: bool, consistent: bool) -> None:
    scan, family = head(snr=50.0)
    lesion = disc(compressed_sensing(scan.batch())[0], size=6, contrast=0.5)
    if not added:  # it is in the scan, and no image shows it
        scan = replace(scan, kspace=scan.kspace + fft2c(lesion) * scan.mask)

    def dishonest(given: Measurement) -> Tensor:
        bare = given if added else replace(given, kspace=given.kspace - fft2c(lesion) * given.mask[:, None])
        image = compressed_sensing(bare) + (lesion if added else 0)
        return given.data_consistent(image) if consistent else image

    found = error_maps(dishonest, scan, family)
    strongest = found.regions[0]
    assert max(abs(strongest.row - PLACE[0]), abs(strongest.column - PLACE[1])) <= 2
    assert strongest.z < 0 if added else strongest.z > 0
    assert ("added signal" in strongest.meaning) is added
    assert abs(strongest.z) > THRESHOLD
    assert strongest.z == found.contradiction[strongest.row, strongest.column]


def test_an_honest_image_is_not_marked() -> None:
    assert error_maps(compressed_sensing, *head(snr=50.0)).regions == ()


@pytest.mark.parametrize("coils", [1, 4])
def test_the_energy_of_the_error_is_estimated(coils: int) -> None:
    """Of the magnitudes, by the mean square that the estimated PSNR stands for."""
    scan, found = head(coils=coils)[0], found_in(coils=coils)
    mean = float(scan.reference.abs().max()) ** 2 / 10 ** (found.psnr.value / 10)  # type: ignore[union-attr]
    assert mean == pytest.approx(float(true_error(found, scan).square().mean()), rel=0.4)


def test_batches_do_not_matter() -> None:
    scan, family = head()
    alone, together = (
        error_maps(compressed_sensing, scan, family, ErrorMapOptions(folds=4, replicates=3, batch=size))
        for size in (1, 16)
    )
    torch.testing.assert_close(alone.bound, together.bound, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(alone.contradiction, together.contradiction, rtol=1e-3, atol=1e-2)


def test_maps_are_of_the_part_that_is_exported() -> None:
    scan, family = head()
    cut = replace(scan, meta=replace(scan.meta, crop=(64, 80)))
    options = ErrorMapOptions(folds=4, replicates=2)
    whole, part = (error_maps(compressed_sensing, one, family, options) for one in (scan, cut))
    assert part.bound.shape == part.contradiction.shape == (64, 80)
    assert torch.equal(part.bound, whole.bound[16:80, 8:88])


def test_as_many_reconstructions_as_are_announced() -> None:
    scan, family = head()
    count = 0

    def counted(given: Measurement) -> Tensor:
        nonlocal count
        count += len(given.kspace)
        assert len(given.kspace) <= options.batch
        return given.physics.adjoint(given.kspace)

    options = ErrorMapOptions()
    error_maps(counted, scan, family, options)
    assert count == options.reconstructions


def test_a_mask_of_unknown_law_and_a_padded_scan_work() -> None:
    scan, family = head("random_columns")
    kept = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    kept[:, 8:88] = True
    scan = replace(scan.restricted(kept), meta=replace(scan.meta, columns=(8, 88)))
    for masks in (family, MaskFamily()):
        found = error_maps(compressed_sensing, scan, masks, ErrorMapOptions(folds=6, replicates=2))
        assert bool((found.bound > 0).all())
        assert bool(found.contradiction.isfinite().all())


def test_too_few_samples_are_refused() -> None:
    scan, family = head("random_columns")
    few = scan.restricted(central_mask((SIDE, SIDE), (SIDE, 8)))
    with pytest.raises(FileError, match=r"head\.nii: has too few samples outside the center in slice 0"):
        error_maps(compressed_sensing, few, family)


def test_masks_of_whole_rows_are_refused() -> None:
    scan, family = head("random_columns")
    turned = Scan(scan.kspace.mT.contiguous(), scan.mask.mT.contiguous(), scan.meta)
    with pytest.raises(FileError, match=r"head\.nii: leaves out whole rows of k-space.* as --axes column,row does"):
        error_maps(compressed_sensing, turned, family)


def test_coils_without_maps_are_refused() -> None:
    scan, family = head(coils=4)
    with pytest.raises(FileError, match="no sensitivity maps"):
        error_maps(compressed_sensing, replace(scan, maps=None), family)


@pytest.mark.parametrize("wrong", [{"bound": 1.0}, {"bound": 0.0}, {"folds": 3}, {"folds": 2}, {"replicates": 0}])
def test_impossible_options_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingError, match=r"bound is|replicates"):
        ErrorMapOptions(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("mask", ["variable_density", "random_columns"])
def test_folds_are_disjoint_and_leave_the_centre_and_the_calibration_alone(mask: str) -> None:
    scan, _ = head(mask)
    scan = replace(scan, meta=replace(scan.meta, calibration=20))
    folds = held_out_folds(scan, 10, seed=0)
    assert len(folds) == 10
    assert int(torch.stack(folds).sum(0).max()) == 1
    held_out = torch.stack(folds).any(0)
    centre = central_mask((SIDE, SIDE), (SIDE if mask == "random_columns" else 20, 20))
    assert torch.equal(held_out, scan.mask & ~centre)
    sizes = [int(fold.any(0).sum() if mask == "random_columns" else fold.sum()) for fold in folds]
    assert max(sizes) - min(sizes) <= 1
    few = held_out_folds(scan, 4, seed=0, among=folds[0] | folds[1])
    assert torch.equal(torch.stack(few).sum(0), (folds[0] | folds[1]).long())


@pytest.mark.parametrize("mask", ["uniform_random", "random_columns"])
def test_places_around_dc_that_a_small_center_leaves_out_are_stood_for(mask: str) -> None:
    """Errors are largest there: over many masks, what held-out samples tell of them is right to a tenth."""
    law = Sampling(mask=mask, acceleration=8, center=0.02)
    family = law.family(emulated=True)
    power = 1 / (1 + (distance((SIDE, SIDE)) * SIDE / UNITS).square())
    found = truth = 0.0
    for number in range(100):
        acquired = family.another(torch.ones(SIDE, SIDE, dtype=torch.bool), number)
        scan = Scan(acquired.to(torch.complex64)[None], acquired, ScanMeta("s", "head.nii", slice=number))
        density = family.density(acquired).double().clamp(min=1e-3, max=1 - 1e-6)
        folds, weight = held_out_folds(scan, 10, seed=0), (1 - density) / density
        found += error_energy(
            0.0, [power[fold] for fold in folds], [weight[fold] for fold in folds], int((~acquired).sum())
        ).value
        truth += float(power[~acquired].sum())
    assert found == pytest.approx(truth, rel=0.12)


def test_energy_of_equal_errors_is_their_number() -> None:
    ones = [torch.full((4,), 1.0) for _ in range(10)]
    found = error_energy(5.0, [2 * one for one in ones], ones, missing=300)
    assert found.safe == found.value == pytest.approx(605)
    assert found.spread == pytest.approx(SYSTEMATIC)  # the folds agree
    doubted = error_energy(5.0, [2 * one for one in ones], ones, missing=300, noise=100.0, doubt=0.5)
    assert doubted.value == found.value
    assert doubted.safe == pytest.approx(605 + 50)
    assert doubted.spread == pytest.approx(math.hypot(SYSTEMATIC, 50 / 605))
    shared = error_energy(5.0, [2 * one for one in ones], ones, missing=300, unseen=0.2)
    assert (shared.value, shared.safe) == (found.value, pytest.approx(1.2 * 605))
    assert shared.spread == pytest.approx(math.hypot(SYSTEMATIC, 0.2))


def test_weights_count_samples_for_the_places_that_they_stand_for() -> None:
    power = [torch.tensor([1.0, 10.0])] * 4
    found = error_energy(0.0, power, [torch.tensor([1.0, 9.0])] * 4, missing=40)
    assert found.value == pytest.approx(40 * (1 + 90) / 10)


def test_a_negative_estimate_is_none() -> None:
    power = [torch.full((3,), -1.0)] * 4
    found = error_energy(-2.0, power, [torch.ones(3)] * 4, missing=40)
    assert found.safe == found.value == 0


def test_the_shape_is_that_of_the_differences_and_an_even_half() -> None:
    image, body = torch.ones(32, 32, dtype=torch.complex64), torch.zeros(32, 32, dtype=torch.bool)
    body[8:24, 8:24] = True
    replicate = image.clone()
    replicate[16, 16] += 0.5
    replicate[2, 2] += 0.5j  # in air all of it counts
    shape = error_shape(image, replicate[None], body)
    assert float(shape.sum()) == pytest.approx(1, rel=1e-3)
    assert float(shape[14:19, 14:19].sum()) > 0.25
    assert float(shape[20, 20]) == pytest.approx(0.5 / 256, rel=1e-3)
    assert float(shape[28, 28]) == pytest.approx(0, abs=1e-6)


def test_replicates_without_any_difference_spread_the_error_evenly() -> None:
    image = torch.ones(8, 8, dtype=torch.complex64)
    assert torch.allclose(error_shape(image, image[None], image.real > 0), torch.tensor(1 / 64, dtype=torch.float64))


def test_estimated_psnr_of_a_known_error() -> None:
    found = estimated_psnr(1.0, 0.01, torch.full((4, 4), 0.01), spread=0.1)
    assert found.value == pytest.approx(40)
    # The peak may be off by 1 %, its square by 2 %.
    assert found.high - 40 == pytest.approx(40 - found.low)
    assert found.high - 40 == pytest.approx(4.343 * 1.96 * 0.10198, rel=1e-3)


def test_a_peak_that_the_image_dims_is_found_in_the_scan() -> None:
    """A method that halves the brightest spot has a PSNR relative to what the spot is in the scan."""
    scan, family = head(snr=None)
    assert scan.reference is not None
    spot = disc(scan.reference, 4, 1.5)
    bright = replace(scan, kspace=scan.kspace + fft2c(spot[None]) * scan.mask, reference=scan.reference + spot)

    def dimming(given: Measurement) -> Tensor:
        own = given.grid.forward(spot.expand(len(given.kspace), -1, -1))
        return given.data_consistent(compressed_sensing(replace(given, kspace=given.kspace - 0.5 * own)))

    found = error_maps(dimming, bright, family)
    truth = bright.reference.abs()  # type: ignore[union-attr]
    true = float(psnr(found.image.abs(), truth, float(truth.max())))
    of_own_peak = float(psnr(found.image.abs(), truth, float(found.image.abs().max())))
    assert true - of_own_peak > 1
    assert abs(found.psnr.value - true) < abs(found.psnr.value - of_own_peak)
    assert found.psnr.low < true < found.psnr.high


def test_contradiction_is_zero_where_nothing_was_held_out() -> None:
    image = torch.ones(32, 32, dtype=torch.complex64)
    assert not contradiction_map(image, torch.zeros(1, 32, 32, dtype=torch.complex64), torch.ones(32, 32)).any()
