from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from sansref.metrics.quality import best_scale, nmse, psnr, ssim

GAUSSIAN = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


def _pair(shape: tuple[int, ...], seed: int = 0, noise: float = 0.1) -> tuple[Tensor, Tensor]:
    """A float32 reference with flat and textured parts, and a noisy copy."""
    generator = torch.Generator().manual_seed(seed)
    reference = torch.rand(shape, generator=generator)
    reference[..., : shape[-2] // 2, :] = 0.3
    reference[..., :2] = 0.0
    return (reference + noise * torch.randn(shape, generator=generator)).abs(), reference


@settings(deadline=None, max_examples=25)
@given(
    st.integers(11, 40),
    st.integers(11, 40),
    st.integers(0, 1000),
    st.sampled_from([0.05, 1.0, 300.0]),
    st.sampled_from([3, 7, 11, "gaussian"]),
)
def test_ssim_is_that_of_scikit_image(height: int, width: int, seed: int, data_range: float, window: int | str) -> None:
    image, reference = _pair((height, width), seed)
    options = GAUSSIAN if window == "gaussian" else {"win_size": window}
    expected = structural_similarity(
        reference.double().numpy(), image.double().numpy(), data_range=data_range, **options
    )
    assert float(ssim(image, reference, data_range, window)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("data_range", [1.0, 1e-3])
def test_ssim_of_flat_regions_survives_a_range_far_below_the_signal(data_range: float) -> None:
    """Where float32 sums would be wrong in the first digit: the variances are rounding error alone."""
    reference = torch.full((32, 32), 0.7)
    reference[16:] = 0.1
    image = reference.clone()
    image[0, 0] = 0.5
    expected = structural_similarity(reference.double().numpy(), image.double().numpy(), data_range=data_range)
    assert float(ssim(image, reference, data_range)) == pytest.approx(expected, abs=1e-5)


def test_default_window_is_seven_and_the_gaussian_one_differs() -> None:
    image, reference = _pair((32, 32))
    assert ssim(image, reference, 1.0) == ssim(image, reference, 1.0, window=7)
    assert abs(ssim(image, reference, 1.0) - ssim(image, reference, 1.0, window="gaussian")) > 1e-3


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.floats(0.1, 100.0))
def test_psnr_is_that_of_scikit_image(seed: int, data_range: float) -> None:
    image, reference = _pair((9, 14), seed)
    expected = peak_signal_noise_ratio(reference.double().numpy(), image.double().numpy(), data_range=data_range)
    assert float(psnr(image, reference, data_range)) == pytest.approx(expected, abs=1e-9)


def test_psnr_and_nmse_of_a_known_error() -> None:
    reference = torch.full((4, 5), 2.0)
    assert float(psnr(reference + 0.1, reference, 1.0)) == pytest.approx(20.0, abs=1e-5)
    assert float(nmse(1.1 * reference, reference)) == pytest.approx(0.01, rel=1e-5)


def test_equal_images_are_perfect() -> None:
    _, reference = _pair((2, 16, 16))
    assert psnr(reference, reference, 1.0).tolist() == [math.inf, math.inf]
    assert ssim(reference, reference, 1.0).tolist() == pytest.approx([1.0, 1.0], abs=1e-12)
    assert nmse(reference, reference).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_leading_axes_are_kept_and_the_range_is_broadcast(metric: Callable[..., Tensor]) -> None:
    image, reference = _pair((2, 3, 16, 17))
    peaks = torch.tensor([[1.0], [2.0]])
    values = metric(image, reference, peaks)
    assert values.shape == (2, 3)
    assert values.dtype == torch.float64
    for i in range(2):
        for j in range(3):
            alone = metric(image[i, j], reference[i, j], float(peaks[i, 0]))
            assert float(values[i, j]) == pytest.approx(float(alone), abs=1e-9)


def test_nmse_keeps_leading_axes() -> None:
    image, reference = _pair((2, 3, 8, 8))
    expected = ((image - reference).double().norm(dim=(-2, -1)) / reference.double().norm(dim=(-2, -1))) ** 2
    torch.testing.assert_close(nmse(image, reference), expected)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.floats(0.01, 100.0))
def test_metrics_do_not_depend_on_the_unit(seed: int, unit: float) -> None:
    image, reference = (t.double() for t in _pair((12, 12), seed))
    for metric in (psnr, ssim):
        torch.testing.assert_close(metric(unit * image, unit * reference, unit), metric(image, reference, 1.0))
    torch.testing.assert_close(nmse(unit * image, unit * reference), nmse(image, reference))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.sampled_from([3, 7]))
def test_scores_inside_a_mask_are_means_over_its_pixels(seed: int, window: int) -> None:
    image, reference = _pair((14, 17), seed)
    mask = torch.rand(14, 17, generator=torch.Generator().manual_seed(seed)) < 0.4
    x, y, kept = image.double().numpy(), reference.double().numpy(), mask.numpy()
    error = ((x - y)[kept] ** 2).mean()
    assert float(psnr(image, reference, 0.8, mask)) == pytest.approx(10 * np.log10(0.8**2 / error), abs=1e-6)
    assert float(nmse(image, reference, mask)) == pytest.approx(error * kept.sum() / (y[kept] ** 2).sum(), rel=1e-6)
    _, full = structural_similarity(y, x, data_range=0.8, win_size=window, full=True)
    edge = window // 2
    inner = np.s_[edge : 14 - edge, edge : 17 - edge]
    expected = full[inner][kept[inner]].mean()
    assert float(ssim(image, reference, 0.8, window, mask)) == pytest.approx(expected, abs=1e-9)


def test_a_mask_of_everything_changes_nothing_and_one_of_nothing_has_no_score() -> None:
    image, reference = _pair((2, 16, 17))
    whole, none = torch.ones(2, 16, 17, dtype=torch.bool), torch.zeros(2, 16, 17, dtype=torch.bool)
    for metric in (psnr, ssim):
        assert torch.equal(metric(image, reference, 1.0, mask=whole), metric(image, reference, 1.0))
        assert metric(image, reference, 1.0, mask=none).isnan().all()
    assert torch.equal(nmse(image, reference, whole), nmse(image, reference))
    with pytest.raises(ValueError, match=r"mask must be bool \(2, 16, 17\), got torch.float32 \(16, 17\)"):
        psnr(image, reference, 1.0, torch.ones(16, 17))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.floats(0.1, 10.0))
def test_no_factor_is_better_than_the_best_scale(seed: int, other: float) -> None:
    image, reference = (t.double() for t in _pair((2, 8, 8), seed))
    scale = best_scale(image, reference)
    assert scale.shape == (2,)
    best = nmse(scale[:, None, None] * image, reference)
    assert bool((best <= nmse(other * image, reference) + 1e-12).all())


def test_best_scale_of_known_images() -> None:
    _, reference = _pair((8, 8))
    assert float(best_scale(0.25 * reference, reference)) == pytest.approx(4.0, rel=1e-6)
    assert float(best_scale(torch.zeros(8, 8), reference)) == 0.0


@pytest.mark.parametrize(
    "metric",
    [
        lambda x, y: psnr(x, y, 1.0),
        lambda x, y: ssim(x, y, 1.0),
        nmse,
        best_scale,
    ],
)
def test_complex_and_mismatched_images_are_refused(metric: Callable[[Tensor, Tensor], Tensor]) -> None:
    image, reference = _pair((2, 16, 16))
    with pytest.raises(ValueError, match=r"image \(2, 16, 15\) and reference \(2, 16, 16\) differ in shape"):
        metric(image[..., 1:], reference)
    with pytest.raises(ValueError, match="image is complex: take its magnitude first"):
        metric(image + 0j, reference)
    with pytest.raises(ValueError, match="reference is complex"):
        metric(image, reference + 0j)


def test_images_without_a_plane_or_empty_are_refused() -> None:
    with pytest.raises(ValueError, match="height, width"):
        psnr(torch.ones(5), torch.ones(5), 1.0)
    with pytest.raises(ValueError, match="not empty"):
        ssim(torch.ones(0, 9, 9), torch.ones(0, 9, 9), 1.0)


@pytest.mark.parametrize("data_range", [0.0, -1.0, math.nan, torch.tensor([1.0, 0.0])])
def test_a_range_that_is_not_positive_is_refused(data_range: float | Tensor) -> None:
    image, reference = _pair((2, 16, 16))
    for metric in (psnr, ssim):
        with pytest.raises(ValueError, match="data_range must be positive"):
            metric(image, reference, data_range)


def test_ssim_refuses_a_window_that_does_not_fit() -> None:
    image, reference = _pair((10, 30))
    with pytest.raises(ValueError, match=r"\(10, 30\) is smaller than the window of 11"):
        ssim(image, reference, 1.0, window="gaussian")
    for window in (1, 6):
        with pytest.raises(ValueError, match=f"odd number of at least 3, got {window}"):
            ssim(image, reference, 1.0, window=window)


def test_nmse_of_a_blank_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="blank slice"):
        nmse(torch.ones(2, 4, 4), torch.stack([torch.ones(4, 4), torch.zeros(4, 4)]))
