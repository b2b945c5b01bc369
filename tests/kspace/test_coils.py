from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sansref.kspace.coils import birdcage_maps, combine, rss


def _complex(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.complex64)


@settings(deadline=None)
@given(st.integers(1, 33), st.integers(1, 33), st.integers(1, 12), st.integers(0, 100))
def test_maps_are_normalised_everywhere(height: int, width: int, coils: int, seed: int) -> None:
    for generator in (None, torch.Generator().manual_seed(seed)):
        maps = birdcage_maps((height, width), coils, generator)
        assert maps.shape == (coils, height, width)
        assert maps.dtype == torch.complex64
        torch.testing.assert_close(rss(maps), torch.ones(height, width))


def test_combining_coil_images_returns_the_image() -> None:
    image, maps = _complex(3, 20, 30), birdcage_maps((20, 30), 6)
    images = maps * image.unsqueeze(1)
    torch.testing.assert_close(combine(images, maps), image)
    torch.testing.assert_close(rss(images), image.abs())


def test_combining_is_the_adjoint_of_weighting() -> None:
    image, images, maps = _complex(5, 7), _complex(4, 5, 7), _complex(4, 5, 7) + 0.3j
    weighted = torch.vdot((maps * image).flatten(), images.flatten())
    torch.testing.assert_close(weighted, torch.vdot(image.flatten(), combine(images, maps).flatten()))


def test_rss_of_known_numbers() -> None:
    images = torch.tensor([3.0, 4.0j]).reshape(2, 1, 1)
    assert rss(images).tolist() == [[5.0]]


def test_maps_are_smooth_and_each_sees_its_own_side() -> None:
    maps = birdcage_maps((64, 64), 8)
    for axis in (1, 2):
        assert float(maps.diff(dim=axis).abs().max()) < 0.2
    brightest = [divmod(int(m.abs().argmax()), 64) for m in maps]
    assert brightest[0] == (32, 63)  # The first coil is at the right,
    assert brightest[2] == (63, 32)  # the third, a quarter turn on, at the bottom,
    assert brightest[4] == (32, 0)
    assert brightest[6] == (0, 32)


def test_coils_are_far_from_dependent() -> None:
    singular = torch.linalg.svdvals(birdcage_maps((32, 32), 8).flatten(1))
    assert float(singular[-1] / singular[0]) > 0.02


def test_the_generator_turns_the_ring() -> None:
    still = birdcage_maps((16, 16), 4)
    turned = [birdcage_maps((16, 16), 4, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(turned[0], turned[1])
    assert not torch.allclose(turned[0], turned[2], atol=0.01)
    assert not torch.allclose(turned[0], still, atol=0.01)


@pytest.mark.parametrize(("shape", "coils"), [((8, 8), 0), ((0, 8), 2)])
def test_impossible_coils_are_refused(shape: tuple[int, int], coils: int) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        birdcage_maps(shape, coils)
