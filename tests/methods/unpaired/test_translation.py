"""How scans become images in [-1, 1] and back, told apart from what networks do to them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers.scans import full_head, undersampled_head
from sansref.data.simulate import Sampling
from sansref.errors import FileError, SettingError
from sansref.kspace.cartesian import Cartesian
from sansref.kspace.measurement import Measurement
from sansref.methods import Draw, ImagePair, ImageTranslation, Needs, Sample, Turn, Update
from sansref.methods.unpaired.losses import sampling_loss
from sansref.methods.unpaired.translation import GreyRange, ImageOptions
from sansref.networks import TranslatorOptions
from sansref.networks.generator import CODE_LENGTH
from sansref.randomness import seeded
from sansref.scan import Scan

SIZE = (24, 20)
DRAW = Draw(seed=3, epoch=1, item=2)
SCALINGS = ("zero_filled", "image")


class Identity(ImageTranslation):
    """Restores an image by giving it back, or by another function."""

    needs: ClassVar[Needs] = Needs.UNPAIRED

    def __init__(self, network: TranslatorOptions, options: ImageOptions) -> None:
        super().__init__(network, options)
        self.unused = torch.nn.Linear(1, 1)
        self.seen: list[Tensor] = []
        self.change: Any = lambda image: image

    @property
    def turns(self) -> list[Turn]:
        return []

    def step(self, batch: ImagePair) -> Iterator[Update]:
        yield from ()

    def restore(self, image: Tensor) -> Tensor:
        self.seen.append(image)
        return self.change(image)


def method(complex: bool = False, **options: Any) -> Identity:
    return Identity(TranslatorOptions(complex=complex), ImageOptions(**options))


full_scan = partial(full_head, size=SIZE)
scan = partial(undersampled_head, size=SIZE)


def example(of: ImageTranslation, one: Scan, full: Scan, draw: Draw = DRAW) -> ImagePair:
    (made,) = of.examples(Sample(one, full=full), draw)
    return made


def image_of(one: Scan, kept: Tensor | None = None) -> Any:
    """The coil-combined image of the samples under ``kept``, complex128, by NumPy."""
    kspace = (one.kspace * (one.mask if kept is None else kept)).numpy().astype(np.complex128)
    shifted = np.fft.ifftshift(kspace, axes=(1, 2))
    coils = np.fft.fftshift(np.fft.ifft2(shifted, norm="ortho"), axes=(1, 2))
    return coils[0] if one.maps is None else (one.maps.numpy().conj() * coils).sum(axis=0)


def assert_near(found: Tensor, expected: Any) -> None:
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)


def as_channels(image: Any, complex: bool) -> Any:
    return np.stack([image.real, image.imag]) if complex else np.abs(image)[None]


FINITE = st.floats(-100, 100, allow_nan=False)


@settings(deadline=None)
@given(FINITE, st.floats(0.01, 100), st.lists(FINITE, min_size=1, max_size=9))
def test_grey_values_go_to_the_unit_range_and_back(low: float, width: float, values: list[float]) -> None:
    ends = [torch.tensor(end, dtype=torch.float64).reshape(1, 1, 1, 1) for end in (low, low + width)]
    grey, channels = GreyRange(*ends), torch.tensor(values, dtype=torch.float64).reshape(1, 1, 1, -1)
    torch.testing.assert_close(grey.from_unit(grey.to_unit(channels)), channels, rtol=1e-9, atol=1e-9)
    assert [float(grey.to_unit(end)) for end in ends] == pytest.approx([-1, 1])
    middle = (ends[0] + ends[1]) / 2
    assert float(grey.to_unit(middle)) == pytest.approx(0, abs=1e-9 * (1 + abs(low) / width))


@pytest.mark.parametrize("coils", [1, 3])
@pytest.mark.parametrize("complex", [False, True])
@pytest.mark.parametrize("headroom", [1.0, 2.5])
def test_one_scale_per_scan_is_that_of_its_zero_filled_image(coils: int, complex: bool, headroom: float) -> None:
    """The full image keeps its grey values relative to what would have been its own zero-filled image."""
    one, full = scan(0, coils), full_scan(1, coils)
    made = example(method(complex, headroom=headroom), one, full)
    for found, image, zero_filled in (
        (made.undersampled, image_of(one), image_of(one)),
        (made.full, image_of(full), image_of(full, one.mask)),
    ):
        brightest = headroom * np.abs(zero_filled).max()
        channels = as_channels(image, complex) / brightest
        assert_near(found, channels if complex else 2 * channels - 1)
    assert torch.equal(made.mask, one.mask)
    assert made.noise.shape == (CODE_LENGTH,)


def test_zero_filled_pixels_reach_one_without_headroom_and_full_images_lie_beyond() -> None:
    made = example(method(headroom=1.0), scan(0), full_scan(1))
    assert float(made.undersampled.max()) == pytest.approx(1)
    assert float(made.full.max()) > 1.05  # brighter than its own zero-filled image
    assert float(example(method(headroom=2.0), scan(0), full_scan(1)).full.max()) < 1


@pytest.mark.parametrize("complex", [False, True])
def test_every_image_by_itself_reaches_both_ends(complex: bool) -> None:
    one, full = scan(0), full_scan(1)
    made = example(method(complex, scaling="image"), one, full)
    for found, image in ((made.undersampled, image_of(one)), (made.full, image_of(full))):
        low, high = np.abs(image).min(), np.abs(image).max()
        if complex:
            assert_near(found, as_channels(image, True) / high)
            assert float(found.square().sum(0).max()) == pytest.approx(1)
        else:
            assert_near(found, 2 * (as_channels(image, False) - low) / (high - low) - 1)
            assert (float(found.min()), float(found.max())) == (-1, 1)


def test_only_scaling_each_image_by_itself_makes_a_method_relative() -> None:
    assert method(scaling="image").relative
    assert not method().relative


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("complex", [False, True])
def test_the_brightness_of_scans_is_without_effect(scaling: str, complex: bool) -> None:
    plain = example(method(complex, scaling=scaling), scan(0), full_scan(1))
    one, full = scan(0), full_scan(1)
    one, full = replace(one, kspace=40 * one.kspace), replace(full, kspace=0.03 * full.kspace)
    other = example(method(complex, scaling=scaling), one, full)
    torch.testing.assert_close(other.undersampled, plain.undersampled)
    torch.testing.assert_close(other.full, plain.full)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("complex", [False, True])
def test_a_blank_image_stays_blank(scaling: str, complex: bool) -> None:
    blank = replace(scan(0), kspace=torch.zeros(1, *SIZE, dtype=torch.complex64))
    identity = method(complex, scaling=scaling)
    made = example(identity, blank, replace(full_scan(1), kspace=torch.zeros_like(blank.kspace)))
    for image in (made.undersampled, made.full):
        assert bool(image.isfinite().all())
        assert len(image.unique()) == 1
    assert not identity.reconstruct(blank.batch()).any()


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("coils", [1, 3])
@pytest.mark.parametrize("complex", [False, True])
def test_a_network_that_changes_nothing_gives_the_zero_filled_image(scaling: str, coils: int, complex: bool) -> None:
    """Real and imaginary part as such; a magnitude with the phase of the zero-filled image."""
    given = [scan(0, coils), scan(1, coils, brightness=5)]
    identity = method(complex, scaling=scaling)
    found = identity.reconstruct(Measurement.stacked([one.measurement for one in given]))
    for image, one in zip(found, given, strict=True):
        np.testing.assert_allclose(image.numpy(), image_of(one), atol=1e-5)
    ((seen),) = identity.seen
    assert float(seen.abs().max()) <= 1 + 1e-6
    for image, one in zip(seen, given, strict=True):
        torch.testing.assert_close(image, example(identity, one, full_scan(2, coils)).undersampled)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_what_a_network_makes_is_kept_within_the_range(scaling: str) -> None:
    one, identity = scan(0), method(scaling=scaling)
    zero_filled = np.abs(image_of(one))
    for value, expected in (
        (9.0, zero_filled.max() * (1 if scaling == "image" else identity.options.headroom)),
        (-9.0, zero_filled.min() if scaling == "image" else 0),
    ):
        identity.change = lambda image, value=value: torch.full_like(image, value)
        np.testing.assert_allclose(identity.reconstruct(one.batch())[0].abs(), expected, atol=1e-5)


@pytest.mark.parametrize("complex", [False, True])
@pytest.mark.parametrize("coils", [1, 3])
def test_acquired_samples_are_put_back_on_demand(complex: bool, coils: int) -> None:
    one = scan(0, coils)
    given = one.batch()
    images = {}
    for kept in (False, True):
        spoiling = method(complex, data_consistency="hard" if kept else "none")
        spoiling.change = lambda image: torch.sin(7 * image)
        images[kept] = spoiling.reconstruct(given)
    operator = Cartesian(given.mask, given.maps)
    torch.testing.assert_close(images[True], operator.data_consistent(images[False], given.kspace))
    errors = [float((operator.forward(images[kept]) - given.kspace).abs().max()) for kept in (False, True)]
    assert errors[0] > 0.05
    assert errors[1] < (1e-5 if coils == 1 else errors[0])


@pytest.mark.parametrize("complex", [False, True])
@pytest.mark.parametrize("coils", [1, 3])
def test_putting_samples_back_leads_towards_the_truth_and_stays_there(complex: bool, coils: int) -> None:
    one, truth = scan(0, coils), torch.randn(1, *SIZE, dtype=torch.complex64, generator=seeded("truth"))
    operator = Cartesian(one.mask, one.maps)
    given = Measurement.stacked([Measurement(operator.forward(truth)[0], one.mask, one.maps)])
    distances = {}
    for kept in (False, True):
        spoiling = method(complex, data_consistency="hard" if kept else "none")
        spoiling.change = lambda image: torch.sin(7 * image)
        distances[kept] = float((spoiling.reconstruct(given) - truth).norm())
    assert distances[True] < 0.95 * distances[False]
    torch.testing.assert_close(operator.data_consistent(truth, given.kspace), truth, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("complex", [False, True])
@pytest.mark.parametrize("kept", [False, True])
def test_a_scan_twice_as_bright_gives_an_image_twice_as_bright(scaling: str, complex: bool, kept: bool) -> None:
    """To the last digit, whatever the network does."""
    bending, given = method(complex, scaling=scaling, data_consistency="hard" if kept else "none"), scan(0).batch()
    bending.change = lambda image: torch.sin(7 * image)
    once, twice = (bending.reconstruct(replace(given, kspace=factor * given.kspace)) for factor in (1, 2))
    assert torch.equal(twice, 2 * once)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("brightness", [0.0, 1.0])
def test_zero_is_zero_in_complex_images_blank_ones_too(scaling: str, brightness: float) -> None:
    blackening, given = method(True, scaling=scaling), scan(0).batch()
    blackening.change = torch.zeros_like
    assert not blackening.reconstruct(replace(given, kspace=brightness * given.kspace)).any()
    assert bool(blackening.seen[0].any()) == (brightness > 0)


def test_references_are_never_read() -> None:
    one, full = scan(0), full_scan(1)
    plain = example(method(), one, full.without_reference())
    wrong = torch.full(SIZE, math.nan, dtype=torch.complex64)
    other = example(method(), replace(one, reference=wrong), replace(full, reference=wrong))
    assert all(torch.equal(a, b) for a, b in zip(plain[:4], other[:4], strict=True))


def test_examples_depend_on_nothing_but_scans_and_draw() -> None:
    torch.manual_seed(0)
    first = example(method(), scan(0), full_scan(1))
    torch.manual_seed(1)
    again = example(method(), scan(0), full_scan(1))
    assert all(torch.equal(a, b) for a, b in zip(first[:4], again[:4], strict=True))


def test_the_noise_of_the_code_belongs_to_the_epoch() -> None:
    def noise(seed: int = 0, epoch: int = 0, item: int = 0) -> bytes:
        return example(method(), scan(0), full_scan(1), Draw(seed, epoch, item)).noise.numpy().tobytes()

    assert noise() == noise(item=5)
    assert len({noise(seed, epoch) for seed in range(2) for epoch in range(3)}) == 6


def test_a_full_scan_is_needed() -> None:
    with pytest.raises(ValueError, match=r"Identity needs a full scan beside head0\.nii"):
        method().examples(Sample(scan(0)), DRAW)


def test_coils_without_maps_are_one_line_for_either_scan() -> None:
    bare, full = replace(scan(0, 2), maps=None), replace(full_scan(1, 2), maps=None)
    with pytest.raises(FileError, match=r"head0\.nii: has 2 coils and no sensitivity maps"):
        example(method(), bare, full_scan(1, 2))
    with pytest.raises(FileError, match=r"head1\.nii: has 2 coils and no sensitivity maps"):
        example(method(), scan(0, 2), full)


@pytest.mark.parametrize("headroom", [0.99, -1.0, math.nan])
def test_there_is_no_room_below_the_zero_filled_image(headroom: float) -> None:
    with pytest.raises(SettingError, match=f"headroom must be at least 1, got {headroom}"):
        ImageOptions(headroom=headroom)


def test_networks_of_double_precision_take_samples_of_single_precision() -> None:
    one = method().double()
    image = one.reconstruct(scan(0).batch())
    assert one.seen[0].dtype == torch.float64
    assert image.dtype == torch.complex64


def test_what_coils_see_of_a_complex_image_are_their_maps() -> None:
    one, full = scan(0, 3), full_scan(1, 2)
    made = example(method(complex=True), one, full)
    assert torch.equal(made.coils, one.maps)
    assert torch.equal(made.full_coils, full.maps)
    single = example(method(complex=True), scan(0), full_scan(1))
    assert (single.coils, single.full_coils) == (None, None)


def test_to_a_magnitude_belongs_the_phase_of_its_zero_filled_image() -> None:
    one, full = scan(0, 3), full_scan(1, 2)
    made = example(method(), one, full)
    for coils, of in ((made.coils, one), (made.full_coils, full)):
        assert coils is not None
        assert of.maps is not None
        expected = of.maps.numpy() * np.exp(1j * np.angle(image_of(of, one.mask)))
        np.testing.assert_allclose(coils.numpy(), expected, atol=1e-5)


def without_noise(one: Scan) -> Scan:
    assert one.maps is not None
    assert one.reference is not None
    return replace(one, kspace=Cartesian(one.mask[None], one.maps[None]).forward(one.reference[None])[0])


def test_translations_of_several_coils_keep_their_samples() -> None:
    """The truth of a complex image, without noise, has no sampling loss; nor has what the full scan would have been."""
    one, full = (without_noise(full_scan(seed, coils)) for seed, coils in ((0, 3), (1, 4)))
    assert one.reference is not None
    under = Sampling(acceleration=3, center=0.2).undersample(one, seeded("mask"))
    identity = method(complex=True)
    batch = ImagePair.stacked([example(identity, under, full)])
    zero_filled = torch.from_numpy(image_of(under)).to(torch.complex64)[None]
    truth = identity.to_unit(one.reference[None], zero_filled)
    options = {"mask": batch.mask, "coils": batch.coils}
    assert float(sampling_loss(batch.undersampled, truth, **options)) < 1e-5
    assert float(sampling_loss(batch.undersampled, batch.undersampled, **options)) > 1e-2
    degraded = torch.from_numpy(image_of(full, under.mask)).to(torch.complex64)[None]
    degraded = identity.to_unit(degraded, degraded)
    assert float(sampling_loss(degraded, batch.full, batch.mask, coils=batch.full_coils)) < 1e-4
