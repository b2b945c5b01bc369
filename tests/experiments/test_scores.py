from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from sansref.experiments.scores import Score, Summary, held_out_score, magnitude, score_scan, zero_filled
from sansref.kspace.family import MaskFamily
from sansref.kspace.fourier import fft2c, ifft2c
from sansref.methods import measured, stack
from sansref.training.batches import held_out_mask


@pytest.fixture
def scan(make_scans):
    return make_scans((32, 24))[0]


def test_zero_filled_is_the_adjoint_of_the_acquired_samples(scan):
    torch.testing.assert_close(zero_filled(stack([measured(scan)]))[0], ifft2c(scan.kspace[0]))


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


def test_without_a_reference_only_the_reference_free_score_is_a_number(scan):
    with_reference, image = score_scan(zero_filled, scan, MaskFamily(), 0.1, seed=0, item=0)
    without, same = score_scan(zero_filled, scan.without_reference(), MaskFamily(), 0.1, seed=0, item=0)
    assert all(math.isnan(value) for value in (without.psnr, without.ssim, without.nmse))
    assert without.held_out == with_reference.held_out
    assert torch.equal(image, same)


def test_reference_free_score_hides_the_samples_it_scores(scan):
    held_out = held_out_mask(scan.mask, 0.2, 0, 0)
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
    held_out = held_out_mask(clean.mask, 0.2, 0, 0)
    truth = ifft2c(fft2c(clean.reference)[None])
    assert held_out_score(lambda given: truth, clean, MaskFamily(), held_out) < 1e-6


def test_magnitude_is_that_of_the_scored_part(scan):
    image = torch.polar(torch.rand(32, 24), torch.rand(32, 24))
    assert torch.equal(magnitude(image, scan), image.abs())
    cropped = replace(scan, meta=replace(scan.meta, crop=(4, 6)))
    assert torch.equal(magnitude(image, cropped), image.abs()[14:18, 9:15])


def test_summary_is_mean_and_sample_standard_deviation():
    scores = [Score(30.0, 0.9, 0.01, 0.2), Score(32.0, 0.8, 0.03, 0.4), Score(37.0, 0.7, 0.05, 0.6)]
    summary = Summary.of(scores)
    assert summary.count == 3
    for name in ("psnr", "ssim", "nmse", "held_out"):
        values = [getattr(score, name) for score in scores]
        assert getattr(summary.mean, name) == pytest.approx(np.mean(values))
        assert getattr(summary.std, name) == pytest.approx(np.std(values, ddof=1))


def test_summary_of_one_slice_has_no_spread():
    assert Summary.of([Score(30.0, 0.9, 0.01, 0.2)]).std == Score(0.0, 0.0, 0.0, 0.0)


def test_summary_without_references_is_valid_json():
    nan = math.nan
    summary = Summary.of([Score(nan, nan, nan, 0.2), Score(nan, nan, nan, 0.4)])
    written = json.loads(json.dumps(summary.as_dict(), allow_nan=False))
    assert written["slices"] == 2
    assert written["mean"] == {"psnr": None, "ssim": None, "nmse": None, "held_out": pytest.approx(0.3)}
    assert written["std"]["psnr"] is None
