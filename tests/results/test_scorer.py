from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from sansref.kspace.cartesian import Cartesian
from sansref.kspace.coils import birdcage_maps
from sansref.kspace.fourier import fft2c, ifft2c
from sansref.kspace.masks.family import MaskFamily
from sansref.metrics.held_out import HeldOut, held_out_mask
from sansref.metrics.quality import body_mask, psnr
from sansref.randomness import seeded
from sansref.results.scorer import Scorer, magnitude, reference_noise, scored_image, scored_reference, zero_filled
from sansref.results.scores import METRICS
from sansref.scan import Scan, ScanMeta


def held_out(share=0.1):
    return HeldOut(share, 0, lambda emulated: MaskFamily())


def scored(scan, reconstruct=zero_filled, share=0.1, **options):
    """Score one method; return the scores and the image that they are of."""
    scorer = Scorer({"it": reconstruct}, held_out(share), **options)
    (row,) = scorer.score(scan, 0)
    return row, scorer.image("it", scan)


@pytest.fixture
def scan(make_scans):
    return make_scans((32, 24))[0]


def test_zero_filled_is_the_adjoint_of_the_acquired_samples(scan):
    torch.testing.assert_close(zero_filled(scan.batch())[0], ifft2c(scan.kspace[0]))


@pytest.mark.parametrize("crop", [None, (20, 18)])
def test_scores_against_the_reference_are_those_of_scikit_image(scan, crop):
    scan = replace(scan, meta=replace(scan.meta, crop=crop))
    score, image = scored(scan)
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
    score, image = scored(scan, lambda given: 1.5 * zero_filled(given), normalise="minmax")
    np.testing.assert_allclose(image.numpy(), shown, rtol=1e-5, atol=1e-6)
    assert score.psnr == pytest.approx(peak_signal_noise_ratio(truth, shown, data_range=1), rel=1e-4)
    assert score.ssim == pytest.approx(structural_similarity(truth, shown, data_range=1), abs=1e-4)
    assert score.nmse == pytest.approx(((shown - truth) ** 2).sum() / (truth**2).sum(), rel=1e-4)


def test_held_out_error_stays_on_the_original_scale(scan):
    def shrunk(given):
        return 0.5 * zero_filled(given)

    scores = [scored(scan, shrunk, normalise=scale)[0] for scale in ("none", "minmax")]
    assert scores[0].held_out == scores[1].held_out
    assert scores[0].psnr != scores[1].psnr


def test_min_max_forgets_what_a_scan_and_its_reference_are_measured_in(scan):
    brighter = replace(scan, reference=7 * scan.reference)
    (one, _), (two, _) = (scored(s, normalise="minmax") for s in (scan, brighter))
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
    score, image = scored(scan, lpips=lpips, normalise=normalise)
    assert score.lpips == 0.25
    ((shown, truth, data_range),) = lpips.given
    assert torch.equal(shown, image)
    assert torch.equal(truth, scored_reference(scan, normalise))
    assert data_range == (1.0 if normalise == "minmax" else float(truth.max()))
    without, _ = scored(scan.without_reference(), lpips=lpips, normalise=normalise)
    assert math.isnan(without.lpips)
    assert len(lpips.given) == 1


@pytest.mark.parametrize("normalise", ["none", "minmax"])
def test_best_scale_is_the_best_that_one_factor_can_do(scan, normalise):
    dim = replace(scan, reference=2.5 * scan.reference)
    lpips = Recorder()
    best, best_image = scored(dim, lpips=lpips, normalise=normalise, rescaled={"it"})
    image, truth = (
        scored_image(zero_filled(dim.batch())[0], dim, normalise),
        scored_reference(dim, normalise),
    )
    factors = torch.linspace(0, 5, 20001, dtype=torch.float64)[:, None, None]
    errors = (factors * image - truth).square().sum((1, 2)) / truth.double().square().sum()
    assert best.nmse == pytest.approx(float(errors.min()), rel=1e-5)
    assert best.lpips == 0.25
    assert math.isnan(best.held_out)
    assert best.psnr == pytest.approx(
        peak_signal_noise_ratio(truth.numpy(), best_image.numpy(), data_range=float(truth.max())), rel=1e-4
    )
    if normalise == "none":
        assert best.psnr > scored(dim)[0].psnr + 1
    bare, _ = scored(dim.without_reference(), lpips=lpips, normalise=normalise, rescaled={"it"})
    assert all(math.isnan(getattr(bare, name)) for name in METRICS)


def test_a_reference_of_one_grey_value_scores_nothing(scan):
    """As where the maps of an edge slice see nothing: it must not end a comparison."""
    score, _ = scored(replace(scan, reference=torch.zeros_like(scan.reference)))
    numbers = score.psnr, score.ssim, score.nmse, score.psnr_body, score.ssim_body, score.nmse_body
    assert all(math.isnan(number) for number in numbers)
    assert score.held_out > 0


def test_an_image_smaller_than_the_window_has_no_ssim(make_scans):
    score, _ = scored(make_scans((6, 64))[0])
    assert math.isnan(score.ssim) and math.isnan(score.ssim_body)
    assert score.psnr > 0


def test_without_a_reference_only_the_reference_free_score_is_a_number(scan):
    with_reference, image = scored(scan)
    without, same = scored(scan.without_reference())
    assert all(math.isnan(getattr(without, name)) for name in METRICS if name != "held_out")
    assert without.held_out == with_reference.held_out
    assert torch.equal(image, same)


def test_reference_free_score_hides_the_samples_it_scores(scan):
    hidden = held_out_mask(scan, 0.2, 0, 3)
    seen = []

    def reconstruct(given):
        seen.append(given)
        return zero_filled(given)

    # The zero-filled image predicts 0 for hidden samples, an error of everything.
    assert held_out(0.2).score(reconstruct, scan, 3) == pytest.approx(1.0)
    assert not seen[0].kspace[0, 0][hidden].any()
    assert torch.equal(seen[0].mask[0], scan.mask & ~hidden)


def test_reference_free_score_of_the_truth_is_the_noise(scan, make_scans):
    (clean,) = make_scans((32, 24), snr=None)
    truth = ifft2c(fft2c(clean.reference)[None])
    assert held_out(0.2).score(lambda given: truth, clean, 0) < 1e-6


def test_magnitude_is_that_of_the_scored_part(scan):
    image = torch.polar(torch.rand(32, 24), torch.rand(32, 24))
    assert torch.equal(magnitude(image, scan), image.abs())
    cropped = replace(scan, meta=replace(scan.meta, crop=(4, 6)))
    assert torch.equal(magnitude(image, cropped), image.abs()[14:18, 9:15])


def test_scores_in_the_body_are_taken_where_the_reference_has_one(scan):
    truth = torch.zeros(32, 24)
    truth[8:24, 6:18] = 0.5 + 0.5 * torch.rand(16, 12, generator=torch.Generator().manual_seed(0))
    scan = replace(scan, reference=truth.to(torch.complex64))
    score, image = scored(scan)
    body = body_mask(truth).numpy()
    x, y, peak = image.double().numpy(), truth.double().numpy(), float(truth.max())
    error = ((x - y)[body] ** 2).mean()
    assert score.psnr_body == pytest.approx(10 * math.log10(peak**2 / error), rel=1e-5)
    assert score.nmse_body == pytest.approx(((x - y)[body] ** 2).sum() / (y[body] ** 2).sum(), rel=1e-5)
    _, full = structural_similarity(y, x, data_range=peak, full=True)
    assert score.ssim_body == pytest.approx(full[3:-3, 3:-3][body[3:-3, 3:-3]].mean(), abs=1e-6)


def test_the_body_does_not_depend_on_the_reconstruction_or_its_scale(scan, monkeypatch):
    asked = []
    monkeypatch.setattr("sansref.results.scorer.body_mask", lambda truth: asked.append(truth) or body_mask(truth))
    methods = {"good": zero_filled, "bad": lambda given: 1j * torch.ones_like(zero_filled(given))}
    for normalise in ("none", "minmax"):
        list(Scorer(methods, held_out(), normalise).score(scan, 0))
    assert len(asked) == 2
    assert all(torch.equal(one, scored_reference(scan)) for one in asked)


def test_every_method_is_scored_and_shown_but_for_rescaled_ones(scan):
    scorer = Scorer({"a": zero_filled, "best": zero_filled, "b": zero_filled}, held_out(), rescaled={"best"})
    rows = list(scorer.score(scan, 0))
    assert [row.label for row in rows] == ["a", "best", "b"]
    assert replace(rows[2], label="a", lpips=0) == replace(rows[0], lpips=0)
    assert (rows[0].subject, rows[0].slice, rows[0].acceleration) == (
        scan.meta.subject,
        scan.meta.slice,
        scan.acceleration,
    )
    shown = scorer.show(scan, rows, "4x", is_median=True)
    assert list(shown.images) == ["a", "b"]
    assert (shown.name, shown.acceleration, shown.is_median) == (
        f"{scan.meta.subject}, slice {scan.meta.slice}",
        "4x",
        True,
    )
    assert shown.captions["a"] == f"{rows[0].psnr:.2f} dB / {rows[0].ssim:.4f}"
    assert shown.details["a"]["PSNR in the body (dB)"] == f"{rows[0].psnr_body:.2f}"
    assert np.array_equal(shown.mask, scan.mask.numpy())


def test_a_measured_slice_without_a_reference_is_shown_by_what_is_known(make_scans):
    (scan,) = make_scans((32, 24))
    scan = replace(scan.without_reference(), meta=replace(scan.meta, synthetic=False))
    scorer = Scorer({"a": zero_filled}, held_out())
    (row,) = scorer.score(scan, 0)
    shown = scorer.show(scan, [row])
    assert shown.reference is None
    assert shown.captions == {"a": f"held-out error {row.held_out:.4f}"}
    assert list(shown.details["a"]) == ["held-out error"]
    assert shown.noise is not None
    assert np.array_equal(shown.images["a"], zero_filled(scan.batch())[0].abs().numpy())


@pytest.mark.parametrize("seen", [1.0, 0.6])
@pytest.mark.parametrize("columns", [(0, 96), (14, 82)])
@pytest.mark.parametrize("coils", [1, 4])
def test_a_perfect_image_scores_what_is_told_of_it(coils, columns, seen):
    """Where maps see nothing there is no noise, and a zero-padded file has less of it in a pixel."""
    shape, level = (96, 96), 0.005
    rows, places = (torch.linspace(-1, 1, n) for n in shape)
    away = torch.hypot(rows[:, None], places)
    maps = birdcage_maps(shape, coils) * (away < 2 * seen) if coils > 1 else None
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[:, slice(*columns)] = True
    physics = Cartesian(mask[None], None if maps is None else maps[None])
    samples = physics.forward(torch.sigmoid((0.5 - away) * 30)[None] + 0j)
    noise = torch.view_as_complex(level * torch.randn(coils, *shape, 2, generator=seeded(0))) * mask
    perfect, reference = physics.adjoint(samples)[0].abs(), physics.adjoint(samples + noise)[0]
    meta = ScanMeta("s", "f.h5", noise=(level,) * coils)
    scan = Scan(samples[0] + noise, mask, meta, maps, reference=reference)
    _, told = reference_noise(scan)
    assert told == pytest.approx(float(psnr(perfect, reference.abs(), float(reference.abs().max()))), abs=0.5)
    nothing, ones = torch.zeros(1, *shape), torch.ones(1, *shape)
    with_dead = replace(
        scan,
        kspace=torch.cat([scan.kspace, nothing]),
        maps=torch.cat([ones + 0j if maps is None else maps, nothing + 0j]),
        meta=replace(meta, noise=(level,) * (coils + 1)),
    )
    assert reference_noise(with_dead) == pytest.approx(reference_noise(scan), rel=1e-5)
