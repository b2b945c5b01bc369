"""Where the body is: what air, noise and a bad reconstruction must not change."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from sansref.data.simulate import example_image
from sansref.metrics.quality import body_mask, nmse, psnr, ssim

SHAPE = (96, 80)


def ellipse(rows: float, columns: float, center: tuple[float, float] = (0, 0)) -> Tensor:
    y, x = torch.meshgrid(torch.linspace(-1, 1, SHAPE[0]), torch.linspace(-1, 1, SHAPE[1]), indexing="ij")
    return ((y - center[0]) / rows) ** 2 + ((x - center[1]) / columns) ** 2 < 1


def brain() -> Tensor:
    """White matter round darker grey matter and dark ventricles, nothing outside: a stripped skull."""
    image = 0.45 * ellipse(0.6, 0.5) + 0.45 * ellipse(0.5, 0.4)
    return image - 0.85 * ellipse(0.12, 0.1)


def with_noise(image: Tensor, level: float) -> Tensor:
    """Magnitude of the image with complex noise: air is no longer zero."""
    noise = level * torch.randn(2, *image.shape, generator=torch.Generator().manual_seed(0))
    return torch.complex(image + noise[0], noise[1]).abs()


@cache
def head() -> Tensor:
    """In-vivo: skin, dark bone and the air of the nose."""
    return example_image().abs()


def dice(one: Tensor, other: Tensor) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


@pytest.mark.parametrize("level", [0.0, 0.02, 0.1])
def test_a_stripped_brain_is_found_with_its_dark_ventricles(level: float) -> None:
    assert dice(body_mask(with_noise(brain(), level)), ellipse(0.6, 0.5)) > 0.96


@pytest.mark.parametrize("level", [0.01, 0.03, 0.06])
def test_noise_in_the_air_is_not_the_body(level: float) -> None:
    image = head() / head().max()
    clean, noisy = body_mask(image), body_mask(with_noise(image, level))
    assert 0.3 < float(clean.float().mean()) < 0.5
    assert dice(clean, noisy) > 0.96
    assert not noisy[:20].any()


def test_bone_and_air_inside_the_head_belong_to_it() -> None:
    mask = body_mask(head())
    dark = mask & (head() < 0.05 * head().max())
    assert int(dark.sum()) > 0.01 * int(mask.sum())


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_the_unit_does_not_matter(unit: float) -> None:
    assert torch.equal(body_mask(unit * brain()), body_mask(brain()))


def test_a_few_bright_pixels_do_not_hide_the_rest() -> None:
    image = brain()
    image[40:42, 30:32] = 8.0
    assert dice(body_mask(image), ellipse(0.6, 0.5)) > 0.96


def test_both_legs_are_body_and_a_speck_is_not() -> None:
    legs = ellipse(0.3, 0.3, (0, -0.5)) | ellipse(0.25, 0.25, (0, 0.5))
    image = legs.float()
    image[2:5, 2:5] = 1.0
    assert dice(body_mask(image), legs) > 0.9  # smoothing adds about a pixel at the rim
    assert not body_mask(image)[:8, :8].any()


@pytest.mark.parametrize("image", [torch.zeros(SHAPE), torch.ones(SHAPE), torch.eye(9)[4:5].T @ torch.eye(9)[4:5]])
def test_a_mask_is_never_empty(image: Tensor) -> None:
    assert body_mask(image).any()
    assert body_mask(image).shape == image.shape


@pytest.mark.parametrize("image", [brain, head])
def test_air_around_changes_no_score_inside_and_every_score_of_the_whole(image: Callable[[], Tensor]) -> None:
    reference = image() / image().max()
    found = with_noise(reference, 0.03) - 0.01 * reference
    scores = []
    for border in (0, 40):
        around = (border,) * 4
        # What a reconstruction makes of air, where nothing was acquired, is nearly nothing.
        truth, shown = pad(reference, around), pad(found, around)
        mask = body_mask(truth)
        assert torch.equal(mask, pad(body_mask(reference), around))
        inside = (psnr(shown, truth, 1.0, mask), ssim(shown, truth, 1.0, mask=mask), nmse(shown, truth, mask))
        scores.append((*map(float, inside), float(psnr(shown, truth, 1.0)), float(ssim(shown, truth, 1.0))))
    plain, padded = scores
    # Where the neck is cut off, windows of SSIM come to lie wholly inside the larger image.
    assert padded[:3] == pytest.approx(plain[:3], rel=1e-5)
    assert padded[3] > plain[3] + 1
    assert padded[4] > plain[4] + 0.02


def test_images_of_another_kind_are_refused() -> None:
    for image in (torch.ones(3, 4, 4), torch.ones(4, 4, dtype=torch.complex64)):
        with pytest.raises(ValueError, match=r"reference must be real \(height, width\)"):
            body_mask(image)
