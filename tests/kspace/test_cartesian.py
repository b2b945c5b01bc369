from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers.scans import noise
from sansref.kspace.cartesian import Cartesian, RealNormal
from sansref.kspace.coils import birdcage_maps
from sansref.kspace.fourier import fft2c

SIZES = [(8, 8), (7, 9), (6, 5), (1, 6)]
KINDS = ["points", "columns", "full", "empty", "rows"]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(kind: str, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    if kind in ("full", "empty"):
        return torch.full(shape, kind == "full")
    line = {"points": shape, "columns": (*shape[:-2], 1, shape[-1]), "rows": (*shape[:-1], 1)}[kind]
    return (torch.rand(line, generator=generator(seed)) < 0.4).expand(shape).clone()


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def encode_by_numpy(image: Tensor, mask: Tensor, maps: Tensor | None) -> Tensor:
    """E x of one image, coil by coil, from its definition."""
    coils = [np.ones(image.shape)] if maps is None else list(maps.numpy())
    spectra = [np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(coil * image.numpy()), norm="ortho")) for coil in coils]
    return torch.from_numpy(np.stack([mask.numpy() * spectrum for spectrum in spectra]))


@pytest.mark.parametrize("coils", [0, 1, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_forward_and_adjoint_are_adjoint_and_normal_is_their_product(
    size: tuple[int, int], kind: str, coils: int
) -> None:
    mask = draw(kind, (2, *size))
    maps = noise(2, coils, *size, seed=1) if coils else None
    encoding = Cartesian(mask, maps)
    image, kspace = noise(2, *size, seed=2), noise(2, max(coils, 1), *size, seed=3)
    left = torch.vdot(encoding.forward(image).flatten(), kspace.flatten())
    right = torch.vdot(image.flatten(), encoding.adjoint(kspace).flatten())
    close(left, right)
    close(encoding.normal(image), encoding.adjoint(encoding.forward(image)))


@pytest.mark.parametrize("coils", [0, 3])
@pytest.mark.parametrize("size", SIZES)
def test_forward_is_coils_then_fourier_then_mask(size: tuple[int, int], coils: int) -> None:
    masks, images = draw("points", (2, *size)), noise(2, *size)
    maps = noise(2, coils, *size, seed=1) if coils else None
    found = Cartesian(masks, maps).forward(images)
    for i in range(2):
        close(found[i], encode_by_numpy(images[i], masks[i], None if maps is None else maps[i]))


def test_a_batch_may_mix_column_and_point_masks() -> None:
    masks = torch.stack([draw("columns", (6, 9)), draw("points", (6, 9))])
    images = noise(2, 6, 9)
    together = Cartesian(masks).normal(images)
    for i in range(2):
        close(together[i], Cartesian(masks[i]).normal(images[i : i + 1])[0])


@pytest.mark.parametrize("coils", [0, 2])
def test_one_mask_and_one_set_of_maps_serve_a_whole_batch(coils: int) -> None:
    mask, images = draw("points", (6, 9)), noise(3, 6, 9)
    maps = noise(coils, 6, 9, seed=1) if coils else None
    shared = Cartesian(mask, maps)
    each = Cartesian(mask.expand(3, -1, -1), None if maps is None else maps.expand(3, -1, -1, -1))
    kspace = each.forward(images)
    close(shared.forward(images), kspace)
    close(shared.adjoint(kspace), each.adjoint(kspace))
    close(shared.normal(images), each.normal(images))
    assert torch.equal(shared.impose(kspace, kspace + 1), each.impose(kspace, kspace + 1))


def test_a_column_mask_transforms_along_phase_encoding_only(monkeypatch: pytest.MonkeyPatch) -> None:
    axes: list[tuple[int, ...]] = []
    plain = torch.fft.fftn
    monkeypatch.setattr(torch.fft, "fftn", lambda data, dim, **kw: (axes.append(tuple(dim)), plain(data, dim=dim))[1])
    Cartesian(draw("columns", (2, 6, 9))).normal(noise(2, 6, 9))
    Cartesian(draw("points", (2, 6, 9))).normal(noise(2, 6, 9))
    assert axes == [(-1,), (-2, -1)]


def test_transform_is_the_forward_model_without_the_mask() -> None:
    maps, image = noise(2, 3, 6, 9, seed=1), noise(2, 6, 9)
    full = Cartesian(torch.ones(2, 6, 9, dtype=torch.bool), maps).forward(image)
    close(Cartesian(draw("points", (2, 6, 9)), maps).transform(image), full)
    close(Cartesian(draw("points", (2, 6, 9))).transform(image), fft2c(image).unsqueeze(1))


def test_with_normalised_maps_full_sampling_gives_the_image_back() -> None:
    maps, image = birdcage_maps((8, 7), 4).to(torch.complex128), noise(1, 8, 7)
    encoding = Cartesian(torch.ones(8, 7, dtype=torch.bool), maps / maps.norm(dim=0))
    close(encoding.adjoint(encoding.forward(image)), image)


def test_the_adjoint_ignores_what_was_not_acquired() -> None:
    mask, kspace = draw("points", (1, 8, 7)), noise(1, 1, 8, 7)
    close(Cartesian(mask).adjoint(kspace), Cartesian(mask).adjoint(kspace * mask))


@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 9), width=st.integers(1, 9), coils=st.integers(1, 3), seed=st.integers(0, 99))
def test_impose_puts_measured_samples_in_bit_for_bit_and_leaves_the_rest(
    height: int, width: int, coils: int, seed: int
) -> None:
    mask = draw("points", (2, height, width), seed)
    predicted = noise(2, coils, height, width, seed=seed + 1).to(torch.complex64)
    measured = noise(2, coils, height, width, seed=seed + 2).to(torch.complex64)
    result = Cartesian(mask).impose(predicted, measured)
    for coil in range(coils):
        assert torch.equal(result[:, coil][mask], measured[:, coil][mask])
        assert torch.equal(result[:, coil][~mask], predicted[:, coil][~mask])


def test_imposing_on_an_image_makes_its_acquired_samples_the_measured_ones() -> None:
    mask, image, measured = draw("points", (2, 7, 8)), noise(2, 7, 8), noise(2, 1, 7, 8, seed=1)
    encoding = Cartesian(mask)
    imposed = encoding.data_consistent(image, measured)
    close(encoding.forward(imposed), measured * mask.unsqueeze(1))
    close(fft2c(imposed)[~mask], fft2c(image)[~mask])
    close(encoding.data_consistent(imposed, measured), imposed)


def test_with_maps_imposing_leaves_an_image_that_already_has_the_measured_samples() -> None:
    maps, image = noise(1, 3, 7, 8, seed=1), noise(1, 7, 8)
    encoding = Cartesian(draw("points", (1, 7, 8)), maps / maps.norm(dim=1, keepdim=True))
    close(encoding.data_consistent(image, encoding.forward(image)), image)
    full = Cartesian(draw("full", (1, 7, 8)), encoding.maps)
    close(full.data_consistent(0 * image, full.forward(image)), image)


def test_single_precision_stays_single() -> None:
    encoding = Cartesian(draw("points", (1, 6, 9)), noise(1, 2, 6, 9).to(torch.complex64))
    image = noise(1, 6, 9).to(torch.complex64)
    for result in (encoding.forward(image), encoding.normal(image), encoding.adjoint(encoding.forward(image))):
        assert result.dtype == torch.complex64
    assert RealNormal(draw("points", (6, 9)))(image.real).dtype == torch.float32


def test_errors_name_the_shapes() -> None:
    mask = draw("points", (6, 9))
    with pytest.raises(ValueError, match=r"mask must be \(height, width\).*got \(9,\)"):
        Cartesian(mask[0])
    with pytest.raises(ValueError, match=r"maps \(2, 9, 6\) and mask \(6, 9\) differ in height or width"):
        Cartesian(mask, noise(2, 9, 6))
    with pytest.raises(ValueError, match="k-space of 3 coils needs coil sensitivity maps"):
        Cartesian(mask).adjoint(noise(1, 3, 6, 9))
    with pytest.raises(ValueError, match="k-space of 3 coils needs coil sensitivity maps"):
        Cartesian(mask).data_consistent(noise(1, 6, 9), noise(1, 3, 6, 9))


@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("kind", ["points", "columns", "rows"])
@pytest.mark.parametrize("size", [(8, 8), (7, 7), (6, 9), (9, 6), (1, 5), (5, 1)])
def test_real_normal_is_the_real_part_of_the_complex_one(size: tuple[int, int], kind: str, batch: tuple[int]) -> None:
    mask = draw(kind, (*batch, *size))
    image = noise(2, *size).real
    found = RealNormal(mask, torch.float64)(image)
    close(found, Cartesian(mask).normal(image.to(torch.complex128)).real)
    assert found.dtype == torch.float64


def test_for_real_images_a_mask_works_like_the_mean_of_itself_and_its_mirror() -> None:
    """Which is why real images flatter random masks: one sample also gives its mirror image through DC."""
    one, other = torch.zeros(2, 7, 8, dtype=torch.bool).unbind()
    one[2, 6] = True  # DC lies at (3, 4): the mirror of a sample at an offset of (-1, 2) is at (1, -2)
    other[4, 2] = True
    image = noise(1, 7, 8).real
    close(RealNormal(one, torch.float64)(image), RealNormal(other, torch.float64)(image))
    close(2 * RealNormal(one, torch.float64)(image), RealNormal(one | other, torch.float64)(image))
