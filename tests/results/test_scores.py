from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from sansref.kspace.fourier import fft2c, ifft2c
from sansref.kspace.masks.family import MaskFamily
from sansref.metrics.held_out import held_out_mask
from sansref.results.scores import (
    Score,
    Summary,
    data_note,
    held_out_score,
    magnitude,
    score_best_scale,
    score_scan,
    scored_image,
    scored_reference,
    zero_filled,
)


@pytest.fixture
def scan(make_scans):
    return make_scans((32, 24))[0]


def test_zero_filled_is_the_adjoint_of_the_acquired_samples(scan):
    torch.testing.assert_close(zero_filled(scan.batch())[0], ifft2c(scan.kspace[0]))


@pytest.mark.parametrize("crop", [None, (20, 18)])
def test_scores_against_the_reference_are_those_of_scikit_image(scan, crop):
    scan = replace(scan, meta=replace(scan.meta, crop=crop))
    score, image = score_scan(zero_filled, scan, MaskFamily(), 0.1, seed=0, item=0)
    truth = np.abs(scan.reference.numpy())
    shown = np.abs(ifft2c(scan.kspace[0]).numpy())
    if crop is not None:
        truth, shown = truth[6:26, 3:21], shown[6:26, 3:21]
    np.testing.assert_allclose(image.numpy(), shown, rtol=1e-5, atol=1e-7)
    assert score.psnr == pytest.approx(peak_signal_noise_ratio(truth, shown, data_range=truth.max()), rel=1e-4)
    assert score.ssim == pytest.approx(structural_similarity(truth, shown, data_range=truth.max()), abs=1e-4)
    assert score.nmse == pytest.approx(((shown - truth) ** 2).sum() / (truth**2).sum(), rel=1e-4)
    assert math.isnan(score.lpips)


@pytest.mark.parametrize("crop", [None, (20, 18)])
def test_scores_after_min_max_are_those_of_scikit_image(scan, crop):
    """Images by the zero-filled image's range, the reference by its own, both over the whole field of view."""
    scan = replace(scan, meta=replace(scan.meta, crop=crop), reference=3 * scan.reference + 0.2)
    given, truth = np.abs(ifft2c(scan.kspace[0]).numpy()), np.abs(scan.reference.numpy())
    truth = (truth - truth.min()) / (truth.max() - truth.min())
    shown = (1.5 * given - given.min()) / (given.max() - given.min())
    if crop is not None:
        truth, shown = truth[6:26, 3:21], shown[6:26, 3:21]
    score, image = score_scan(
        lambda given: 1.5 * zero_filled(given), scan, MaskFamily(), 0.1, seed=0, item=0, normalise="minmax"
    )
    np.testing.assert_allclose(image.numpy(), shown, rtol=1e-5, atol=1e-6)
    assert score.psnr == pytest.approx(peak_signal_noise_ratio(truth, shown, data_range=1), rel=1e-4)
    assert score.ssim == pytest.approx(structural_similarity(truth, shown, data_range=1), abs=1e-4)
    assert score.nmse == pytest.approx(((shown - truth) ** 2).sum() / (truth**2).sum(), rel=1e-4)


def test_held_out_error_stays_on_the_original_scale(scan):
    def shrunk(given):
        return 0.5 * zero_filled(given)

    scores = [score_scan(shrunk, scan, MaskFamily(), 0.1, 0, 0, normalise=scale)[0] for scale in ("none", "minmax")]
    assert scores[0].held_out == scores[1].held_out
    assert scores[0].psnr != scores[1].psnr


def test_min_max_forgets_what_a_scan_and_its_reference_are_measured_in(scan):
    brighter = replace(scan, reference=7 * scan.reference)
    (one, _), (two, _) = (
        score_scan(zero_filled, s, MaskFamily(), 0.1, 0, 0, normalise="minmax") for s in (scan, brighter)
    )
    assert one.psnr == pytest.approx(two.psnr, rel=1e-5)
    assert float(scored_reference(brighter, "minmax").max()) == 1
    assert float(scored_image(zero_filled(scan.batch())[0], scan, "minmax").min()) == 0


def test_a_blank_scan_has_a_range_all_the_same(scan):
    blank = replace(scan, kspace=torch.zeros_like(scan.kspace))
    assert not scored_image(torch.zeros(32, 24, dtype=torch.complex64), blank, "minmax").any()


class Recorder:
    """Stands in for LPIPS and keeps what it is given."""

    def __init__(self):
        self.given = []

    def __call__(self, image, reference, data_range):
        self.given.append((image, reference, data_range))
        return torch.tensor(0.25)


@pytest.mark.parametrize("normalise", ["none", "minmax"])
def test_perceptual_distance_is_taken_of_what_psnr_is_taken_of(scan, normalise):
    lpips = Recorder()
    score, image = score_scan(zero_filled, scan, MaskFamily(), 0.1, 0, 0, lpips, normalise)
    assert score.lpips == 0.25
    ((shown, truth, data_range),) = lpips.given
    assert torch.equal(shown, image)
    assert torch.equal(truth, scored_reference(scan, normalise))
    assert data_range == (1.0 if normalise == "minmax" else float(truth.max()))
    without, _ = score_scan(zero_filled, scan.without_reference(), MaskFamily(), 0.1, 0, 0, lpips, normalise)
    assert math.isnan(without.lpips)
    assert len(lpips.given) == 1


@pytest.mark.parametrize("normalise", ["none", "minmax"])
def test_best_scale_is_the_best_that_one_factor_can_do(scan, normalise):
    dim = replace(scan, reference=2.5 * scan.reference)
    lpips = Recorder()
    best = score_best_scale(dim, lpips, normalise)
    image, truth = (
        scored_image(zero_filled(dim.batch())[0], dim, normalise),
        scored_reference(dim, normalise),
    )
    factors = torch.linspace(0, 5, 20001, dtype=torch.float64)[:, None, None]
    errors = (factors * image - truth).square().sum((1, 2)) / truth.double().square().sum()
    assert best.nmse == pytest.approx(float(errors.min()), rel=1e-5)
    assert best.lpips == 0.25
    assert math.isnan(best.held_out)
    if normalise == "none":
        assert best.psnr > score_scan(zero_filled, dim, MaskFamily(), 0.1, 0, 0)[0].psnr + 1
    assert score_best_scale(dim.without_reference(), lpips, normalise) == Score()


def test_without_a_reference_only_the_reference_free_score_is_a_number(scan):
    with_reference, image = score_scan(zero_filled, scan, MaskFamily(), 0.1, seed=0, item=0)
    without, same = score_scan(zero_filled, scan.without_reference(), MaskFamily(), 0.1, seed=0, item=0)
    assert all(math.isnan(value) for value in (without.psnr, without.ssim, without.nmse, without.lpips))
    assert without.held_out == with_reference.held_out
    assert torch.equal(image, same)


def test_reference_free_score_hides_the_samples_it_scores(scan):
    held_out = held_out_mask(scan, 0.2, 0, 0)
    seen = []

    def reconstruct(given):
        seen.append(given)
        return zero_filled(given)

    # The zero-filled image predicts 0 for hidden samples, an error of everything.
    assert held_out_score(reconstruct, scan, MaskFamily(), held_out) == pytest.approx(1.0)
    assert not seen[0].kspace[0, 0][held_out].any()
    assert torch.equal(seen[0].mask[0], scan.mask & ~held_out)


def test_reference_free_score_of_the_truth_is_the_noise(scan, make_scans):
    (clean,) = make_scans((32, 24), snr=None)
    held_out = held_out_mask(clean, 0.2, 0, 0)
    truth = ifft2c(fft2c(clean.reference)[None])
    assert held_out_score(lambda given: truth, clean, MaskFamily(), held_out) < 1e-6


def test_magnitude_is_that_of_the_scored_part(scan):
    image = torch.polar(torch.rand(32, 24), torch.rand(32, 24))
    assert torch.equal(magnitude(image, scan), image.abs())
    cropped = replace(scan, meta=replace(scan.meta, crop=(4, 6)))
    assert torch.equal(magnitude(image, cropped), image.abs()[14:18, 9:15])


def test_scores_are_equal_where_the_same_are_undefined():
    assert Score(30.0, math.nan) == Score(30.0, float("nan"))
    assert Score(30.0, 0.9) != Score(30.0)
    assert Score(30.0) != Score(30.0, 0.9)
    assert Score(30.0) != (30.0, math.nan, math.nan, math.nan, math.nan)


def test_scores_for_json_have_no_nan_and_no_infinity():
    assert Score(math.inf, 0.9, lpips=0.3).as_dict() == {
        "psnr": None,
        "ssim": 0.9,
        "nmse": None,
        "held_out": None,
        "lpips": 0.3,
    }


def test_summary_is_mean_and_sample_standard_deviation():
    scores = [Score(30.0, 0.9, 0.01, 0.2, 0.3), Score(32.0, 0.8, 0.03, 0.4, 0.1), Score(37.0, 0.7, 0.05, 0.6, 0.8)]
    summary = Summary.of(scores)
    assert summary.count == 3
    for name in ("psnr", "ssim", "nmse", "held_out", "lpips"):
        values = [getattr(score, name) for score in scores]
        assert getattr(summary.mean, name) == pytest.approx(np.mean(values))
        assert getattr(summary.std, name) == pytest.approx(np.std(values, ddof=1))
        assert summary.known[name] == 3


def test_summary_of_one_slice_has_no_spread():
    assert Summary.of([Score(30.0, 0.9, 0.01, 0.2)]).std == Score(0.0, 0.0, 0.0, 0.0)


def test_slices_without_a_score_do_not_hide_the_others():
    scores = [Score(30.0, 0.9, 0.01, 0.2), Score(held_out=0.4), Score(34.0, 0.7, 0.05, 0.9), Score(held_out=0.5)]
    summary = Summary.of(scores)
    assert (summary.count, summary.known) == (4, {"psnr": 2, "ssim": 2, "nmse": 2, "held_out": 4, "lpips": 0})
    assert summary.mean.psnr == pytest.approx(32)
    assert summary.std.psnr == pytest.approx(math.sqrt(8))
    assert summary.mean.held_out == pytest.approx(0.5)
    assert math.isnan(summary.mean.lpips)
    assert math.isnan(summary.std.lpips)
    single = Summary.of(scores[:2])
    assert (single.mean.psnr, single.std.psnr, single.known["psnr"]) == (30.0, 0.0, 1)


def test_summary_without_references_is_valid_json():
    summary = Summary.of([Score(held_out=0.2), Score(held_out=0.4)])
    written = json.loads(json.dumps(summary.as_dict(), allow_nan=False))
    assert written["slices"] == 2
    assert written["known"] == {"psnr": 0, "ssim": 0, "nmse": 0, "held_out": 2, "lpips": 0}
    assert written["mean"] == {"psnr": None, "ssim": None, "nmse": None, "held_out": pytest.approx(0.3), "lpips": None}
    assert written["std"]["psnr"] is None


@pytest.mark.parametrize(
    ("slices", "how", "note"),
    [
        ([(False, False)], "combined", ""),
        ([(True, False), (True, False)], "rss", "k-space simulated from magnitudes, which flatters every method"),
        ([(False, True), (False, False)], "combined", "reference: coils combined by their maps"),
        (
            [(False, True), (True, False), (True, False)],
            "rss",
            "k-space of 2 slices simulated from magnitudes, which flatters every method; "
            "reference: coils as root of the sum of squares",
        ),
    ],
)
def test_what_there_is_to_say_of_the_data(slices, how, note):
    assert data_note(slices, how) == note
