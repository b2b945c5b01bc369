"""Maps, virtual coils and references of measured scans: against the maps that made the data, and blind to the rest."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sansref.data.coil_maps import CoilOptions, calibration_of, calibration_side, espirit_maps, with_coils
from sansref.data.simulate import Sampling
from sansref.errors import FileError, SettingError
from sansref.kspace.cartesian import Cartesian
from sansref.kspace.coils import birdcage_maps, combine, compressed, compression_matrix, rss
from sansref.kspace.espirit import memory_needed
from sansref.kspace.fourier import fft2c, ifft2c
from sansref.kspace.grid import central_mask
from sansref.metrics.held_out import held_out_error
from sansref.randomness import seeded
from sansref.scan import Scan, ScanMeta

SIZE = (64, 48)
COILS = 5
SAMPLING = Sampling(acceleration=3, center=0.34)
FULL = torch.ones(SIZE, dtype=torch.bool)


def head() -> Tensor:
    """A smooth complex object that leaves a margin, as in a field of view chosen by a technician."""
    rows, columns = (
        torch.linspace(-1, 1, n)[:, None] if i == 0 else torch.linspace(-1, 1, n) for i, n in enumerate(SIZE)
    )
    inside = torch.hypot(rows / 0.75, columns / 0.7) < 1
    return torch.polar(inside * (1 + 0.4 * torch.sin(5 * rows) * torch.cos(7 * columns)), 0.8 * rows + 0.5 * columns**2)


def measured_scan(noise: float = 0.01, seed: int = 0, dead: int | None = None) -> Scan:
    """A fully sampled scan of several coils, as a reader gives it."""
    maps = birdcage_maps(SIZE, COILS)
    if dead is not None:
        maps[dead] = 0
    grain = torch.randn(COILS, *SIZE, dtype=torch.complex64, generator=seeded("grain", seed))
    return Scan(1e-4 * (fft2c(maps * head()) + noise * grain), FULL, ScanMeta("s", "brain.h5"))


def undersampled(scan: Scan) -> Scan:
    return SAMPLING.undersample(scan, seeded("mask"))


INSIDE = head().abs() > 0.3


# --- the center ---------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(size=st.tuples(st.integers(1, 40), st.integers(1, 40)), data=st.data())
def test_the_calibration_is_a_full_square_around_dc_and_the_next_one_is_not(size: Any, data: st.DataObject) -> None:
    sides = tuple(data.draw(st.integers(0, n)) for n in size)
    mask = central_mask(size, sides) | (torch.rand(size, generator=seeded(data.draw(st.integers(0, 99)))) < 0.5)
    side = calibration_side(mask)
    scan = Scan(torch.ones(2, *size, dtype=torch.complex64) * mask, mask, ScanMeta("s", "f"))
    if side >= 8:
        assert bool((calibration_of(scan, CoilOptions()) == 1).all())
    assert side <= min(24, *size)
    if side < min(24, *size):
        assert not mask[central_mask(size, (side + 1, side + 1))].all()


def test_a_center_that_is_too_small_is_one_line() -> None:
    scan = measured_scan().restricted(central_mask(SIZE, (7, 40)))
    message = (
        r"brain\.h5: has a fully sampled center of 7 x 7, too small for coil maps: 8 x 8 are needed\. Acquire more"
    )
    with pytest.raises(FileError, match=message):
        with_coils(scan, None, CoilOptions())
    with pytest.raises(FileError, match="center of 7 x 7"):
        with_coils(scan, None, CoilOptions(virtual=2))
    emulated = replace(scan, meta=replace(scan.meta, emulated=True))
    with pytest.raises(FileError, match=r"Give --maps, or train, or run zeroshot, with a larger --center of the mask"):
        with_coils(emulated, None, CoilOptions())
    scan = measured_scan().restricted(central_mask(SIZE, (12, 40)))
    with pytest.raises(
        FileError,
        match=r"of 12 x 12, too small for coil maps: 20 x 20 are needed\. Give --maps, or train, .* lower --cal",
    ):
        with_coils(scan, None, CoilOptions(calibration=20))


def test_maps_larger_than_the_memory_are_refused_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    scan = measured_scan()
    needed = memory_needed(COILS, 24, SIZE, 6)
    monkeypatch.setattr("sansref.data.coil_maps.available_memory", lambda: needed - 1)
    with pytest.raises(
        FileError,
        match=r"brain\.h5: has 5 coils, whose maps take 0\.0 GiB of memory; 0\.0 GiB are free\. Train, or "
        r"run zeroshot, with fewer --coils.virtual, such as 4\.",
    ):
        espirit_maps(scan, CoilOptions())
    assert with_coils(scan, None, CoilOptions(virtual=4)).maps is not None
    for enough in (needed, None):
        monkeypatch.setattr("sansref.data.coil_maps.available_memory", lambda enough=enough: enough)
        assert espirit_maps(scan, CoilOptions()).any()


def test_a_scan_without_any_signal_is_one_line_and_no_warning() -> None:
    scan = replace(measured_scan(), kspace=torch.zeros(COILS, *SIZE, dtype=torch.complex64))
    with pytest.raises(
        FileError, match=r"brain\.h5: shows no coil sensitivity in slice 0\. Train, .* with a lower --coils.crop"
    ):
        with_coils(scan, None, CoilOptions())


# --- maps ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [8, 10, 13, 16, 24])
def test_maps_are_those_that_made_the_data_up_to_one_phase_per_pixel(side: int) -> None:
    scan = measured_scan().restricted(central_mask(SIZE, (side, side)))
    maps = espirit_maps(scan, CoilOptions())
    assert maps.dtype == torch.complex64
    agreement = (birdcage_maps(SIZE, COILS).conj() * maps).sum(0).abs()[INSIDE]
    assert float(agreement.mean()) > (0.98 if side > 10 else 0.9)


@pytest.mark.parametrize("crop", [0.0, 0.8, 0.95])
def test_maps_are_normalised_where_there_is_signal_and_zero_elsewhere(crop: float) -> None:
    size = rss(espirit_maps(measured_scan(), CoilOptions(crop=crop)))
    torch.testing.assert_close(size[INSIDE], torch.ones(int(INSIDE.sum())))
    assert bool(((size == 0) | ((size - 1).abs() < 1e-5)).all())
    assert bool((size == 0).any()) == (crop > 0)


def test_the_phase_is_that_of_the_principal_component_and_smooth() -> None:
    """The combined image has the object's phase plus a smooth one, without holes where a coil sees nothing."""
    scan = with_coils(measured_scan(), None, CoilOptions())
    assert scan.maps is not None
    phase = combine(ifft2c(scan.kspace), scan.maps)
    steps = (phase[1:] * phase[:-1].conj()).angle()[INSIDE[1:] & INSIDE[:-1]]
    assert float(steps.abs().max()) < 0.5


def test_a_dead_coil_has_no_map_and_harms_no_other() -> None:
    for dead in (0, 3):
        maps = espirit_maps(measured_scan(noise=0.0, dead=dead), CoilOptions())
        assert float(maps[dead].abs().max()) < 1e-3
        assert bool(torch.view_as_real(maps).isfinite().all())
        torch.testing.assert_close(rss(maps)[INSIDE], torch.ones(int(INSIDE.sum())))


@pytest.mark.parametrize("scale", [1e-8, 1e6])
def test_the_scale_of_the_data_is_without_effect(scale: float) -> None:
    scan = measured_scan()
    other = espirit_maps(replace(scan, kspace=scale * scan.kspace), CoilOptions())
    torch.testing.assert_close(other, espirit_maps(scan, CoilOptions()), rtol=1e-2, atol=1e-2)


def test_without_any_sensitivity_it_is_one_line() -> None:
    noise = torch.randn(COILS, *SIZE, dtype=torch.complex64, generator=seeded("noise"))
    with pytest.raises(
        FileError, match=r"brain\.h5: shows no coil sensitivity in slice 0\. Train, .* with a lower --coils.crop"
    ):
        espirit_maps(replace(measured_scan(), kspace=noise), CoilOptions(threshold=0.9, crop=0.99))


@pytest.mark.parametrize("side", [8, 10, 12, 16])
def test_a_small_center_gets_a_small_kernel(side: int) -> None:
    """Half the center as the kernel would leave so few patches that all of them pass for signal."""
    full = measured_scan(noise=0.0)
    maps = espirit_maps(full.restricted(central_mask(SIZE, (side, side))), CoilOptions())
    images = ifft2c(full.kspace)
    lost = (images - maps * combine(images, maps))[:, INSIDE].norm() / images[:, INSIDE].norm()
    assert float(lost) ** 2 < 0.05


# --- against other programs ---------------------------------------------------------------------------------------


def agrees(maps: Tensor, others: Tensor) -> tuple[float, float]:
    """Mean sine of the angle between the vectors of both at one pixel, and the share of pixels that only one has."""
    sizes = rss(maps), rss(others)
    both = (sizes[0] > 0.5) & (sizes[1] > 0.5)
    cosine = ((maps.conj() * others).sum(0).abs() / (sizes[0] * sizes[1]).clamp(min=1e-9))[both]
    sine = (1 - cosine.clamp(max=1).square()).sqrt()
    return float(sine.mean()), float(((sizes[0] > 0.5) != (sizes[1] > 0.5)).float().mean())


def test_maps_and_their_phases_are_those_of_sigpy() -> None:
    calibrate = pytest.importorskip("sigpy.mri.app").EspiritCalib
    scan = measured_scan(noise=0.05)
    turn = compression_matrix(calibration_of(scan, CoilOptions()), COILS)
    kspace = compressed(scan.kspace, turn).numpy()
    found = torch.from_numpy(calibrate(kspace, thresh=0.02, kernel_width=6, crop=0.8, show_pbar=False).run())
    maps, others = espirit_maps(scan, CoilOptions()), compressed(found, turn.mH)
    angle, apart = agrees(maps, others)
    assert angle < 1e-3
    assert apart < 0.01
    inside = maps[:, INSIDE].conj() * others[:, INSIDE]
    assert float(inside.sum(0).angle().abs().max()) < 1e-2


@pytest.mark.skipif(shutil.which("bart") is None, reason="needs BART")
def test_maps_are_those_of_bart(tmp_path: Path) -> None:
    """BART compares energies with its threshold where we compare singular values."""
    scan = measured_scan(noise=0.05)
    kspace = scan.kspace.permute(1, 2, 0).numpy()
    (tmp_path / "k.hdr").write_text(f"# Dimensions\n{SIZE[0]} {SIZE[1]} 1 {COILS}{' 1' * 12}\n")
    (tmp_path / "k.cfl").write_bytes(kspace.tobytes(order="F"))
    command = f"bart ecalib -t {0.02**2} -c 0.8 -k 6 -r 24 -m 1 k maps"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    found = np.fromfile(tmp_path / "maps.cfl", np.complex64).reshape((*SIZE, COILS), order="F")
    angle, apart = agrees(espirit_maps(scan, CoilOptions()), torch.from_numpy(found).permute(2, 0, 1))
    assert angle < 0.01
    assert apart < 0.01


# --- what a scan becomes ------------------------------------------------------------------------------------------


def test_nothing_outside_the_mask_reaches_maps_virtual_coils_or_samples() -> None:
    """Two scans that differ in every sample that was not acquired give the same, to the last bit."""
    truth = measured_scan()
    kept = undersampled(truth).mask
    elsewhere = 40 * measured_scan(noise=1.0, seed=1).kspace
    other = replace(truth, kspace=torch.where(kept, truth.kspace, elsewhere))
    for options in (CoilOptions(), CoilOptions(virtual=3)):
        first, second = (with_coils(undersampled(full), full, options) for full in (truth, other))
        assert first.maps is not None
        assert second.maps is not None
        assert torch.equal(first.kspace, second.kspace)
        assert torch.equal(first.maps, second.maps)
        assert first.reference is not None
        assert second.reference is not None
        assert not torch.equal(first.reference, second.reference)


def test_the_reference_is_the_full_image_combined_by_the_maps() -> None:
    full = measured_scan(noise=0.0)
    scan = with_coils(undersampled(full), full, CoilOptions())
    assert scan.reference is not None
    assert scan.maps is not None
    torch.testing.assert_close(scan.reference, combine(ifft2c(full.kspace), scan.maps))
    torch.testing.assert_close(scan.reference.abs()[INSIDE], 1e-4 * head().abs()[INSIDE], rtol=0.02, atol=0)


@pytest.mark.parametrize("virtual", [None, 3, 1])
def test_the_rss_reference_has_the_magnitude_of_all_coils_and_the_phase_of_the_combined(virtual: int | None) -> None:
    full = measured_scan()
    options = CoilOptions(reference="rss", virtual=virtual)
    scan, combined = (with_coils(undersampled(full), full, one) for one in (options, CoilOptions(virtual=virtual)))
    assert scan.reference is not None
    assert combined.reference is not None
    torch.testing.assert_close(scan.reference.abs(), rss(ifft2c(full.kspace)))
    difference = (scan.reference * combined.reference.conj()).angle()[INSIDE]
    assert float(difference.abs().max()) < 1e-4


def test_what_maps_cannot_explain_is_noise_beside_the_object() -> None:
    """With zero maps beside the object the encoding operator is still adjoint, and loses no signal."""
    full = measured_scan()
    scan = with_coils(undersampled(full), full, CoilOptions(crop=0.95))
    assert scan.maps is not None
    assert scan.reference is not None
    encoding = Cartesian(scan.mask[None], scan.maps[None])
    image = torch.randn(1, *SIZE, dtype=torch.complex64, generator=seeded("x"))
    samples = torch.randn(1, COILS, *SIZE, dtype=torch.complex64, generator=seeded("y"))
    left = torch.vdot(encoding.forward(image).flatten(), samples.flatten())
    torch.testing.assert_close(
        left, torch.vdot(image.flatten(), encoding.adjoint(samples).flatten()), rtol=1e-4, atol=1e-3
    )
    unexplained = encoding.forward(scan.reference[None])[0] - scan.kspace
    assert float(unexplained.norm() / scan.kspace.norm()) < 0.07
    beside = rss(scan.maps) == 0
    assert not encoding.data_consistent(image, samples)[0, beside].any()
    assert not scan.reference[beside].any()


def test_without_maps_beside_the_object_the_truth_has_a_small_held_out_error() -> None:
    """Its floor is the noise that was measured beside the object, and it rises with every error of the image."""
    full = measured_scan(noise=0.0)
    scan = with_coils(undersampled(full), full, CoilOptions(crop=0.95))
    assert scan.maps is not None
    assert scan.reference is not None
    held_out = scan.mask & ~central_mask(SIZE, (16, 16))
    errors = [
        float(held_out_error(image[None], scan.kspace[None], held_out[None], scan.maps[None]))
        for image in (scan.reference, 1.2 * scan.reference, 0 * scan.reference)
    ]
    assert errors[0] < 0.1
    assert errors[0] < errors[1] < errors[2]
    assert errors[2] == pytest.approx(1)


def test_imposing_the_samples_leaves_the_truth_where_it_is() -> None:
    full = measured_scan(noise=0.0)
    scan = with_coils(undersampled(full), full, CoilOptions())
    assert scan.maps is not None
    assert scan.reference is not None
    encoding = Cartesian(scan.mask[None], scan.maps[None])
    again = encoding.data_consistent(scan.reference[None], scan.kspace[None])[0]
    assert float((again - scan.reference).norm() / scan.reference.norm()) < 0.02


def test_few_virtual_coils_show_the_same_image() -> None:
    full = measured_scan()
    few, all_of_them = (with_coils(full, full, CoilOptions(virtual=n)) for n in (3, None))
    assert few.kspace.shape == (3, *SIZE)
    assert few.reference is not None
    assert all_of_them.reference is not None
    error = (few.reference.abs() - all_of_them.reference.abs())[INSIDE].abs().mean()
    assert float(error / all_of_them.reference.abs()[INSIDE].mean()) < 0.05
    more = with_coils(full, full, CoilOptions(virtual=9))
    assert len(more.kspace) == COILS


def test_one_virtual_coil_needs_no_maps() -> None:
    full = measured_scan()
    scan = with_coils(undersampled(full), full, CoilOptions(virtual=1, maps="none"))
    assert scan.kspace.shape == (1, *SIZE)
    assert scan.maps is None
    assert scan.meta.calibration == calibration_side(scan.mask) > 0
    assert scan.reference is not None
    torch.testing.assert_close(scan.kspace[0][scan.mask], fft2c(scan.reference)[scan.mask], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("side", [6, 16, 24])
def test_a_calibration_scan_serves_where_its_center_is_larger(side: int) -> None:
    full = measured_scan()
    own = full.restricted(central_mask(SIZE, (12, 12)))  # a center of 12 x 12
    apart = full.kspace * central_mask(SIZE, (side, side)) * 7j
    found = with_coils(replace(own, calibration=apart), None, CoilOptions())
    alone = with_coils(own, None, CoilOptions())
    assert found.maps is not None
    assert alone.maps is not None
    assert found.calibration is None
    assert found.meta.calibration == (12 if side < 12 else 0)
    assert torch.equal(found.maps, alone.maps) == (side < 12)
    used = with_coils(full.restricted(central_mask(SIZE, (side, side))), None, CoilOptions()) if side >= 12 else alone
    assert used.maps is not None
    assert ((found.maps.conj() * used.maps).sum(0).abs() - used.maps.abs().square().sum(0)).abs().max() < 1e-3


def test_what_needs_nothing_is_left_alone() -> None:
    full = measured_scan()
    simulated = replace(full, maps=birdcage_maps(SIZE, COILS), reference=head())
    assert with_coils(simulated, simulated, CoilOptions(virtual=2)) is simulated
    single = replace(full, kspace=full.kspace[:1])
    assert with_coils(single, None, CoilOptions()) is single
    found = with_coils(single, single, CoilOptions())
    assert found.maps is None
    assert found.reference is not None
    torch.testing.assert_close(found.reference, ifft2c(single.kspace)[0])
    without = with_coils(full, full, CoilOptions(maps="none"))
    assert (without.maps, without.reference) == (None, None)
    assert with_coils(undersampled(full), None, CoilOptions()).reference is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": 3}, "coils.kernel must be at least 4, got 3"),
        ({"calibration": 7}, "calibration must be at least 8, got 7"),
        ({"threshold": 1.0}, r"coils.threshold must lie in \[0, 1\), got 1.0"),
        ({"crop": -0.1}, r"coils.crop must lie in \[0, 1\), got -0.1"),
        ({"virtual": 0}, "coils.virtual must be at least 1, got 0"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        CoilOptions(**options)


# --- maps that came with the scan ---------------------------------------------------------------------------------


def supplied(scan: Scan) -> Scan:
    return replace(scan, maps=birdcage_maps(SIZE, COILS))


def test_maps_that_came_with_a_scan_are_taken_and_give_its_reference() -> None:
    full = supplied(measured_scan(noise=0.0))
    scan = with_coils(undersampled(full), full, CoilOptions())
    assert full.maps is not None
    assert scan.maps is not None
    assert torch.equal(scan.maps, full.maps)
    assert scan.reference is not None
    torch.testing.assert_close(scan.reference.abs(), 1e-4 * head().abs(), rtol=1e-3, atol=1e-9)
    # They may have been made of the center, as estimated ones are, so that it is never held out.
    estimated = with_coils(undersampled(measured_scan()), None, CoilOptions())
    assert scan.meta.calibration == estimated.meta.calibration > 0
    assert with_coils(full, None, CoilOptions(calibration=12)).meta.calibration == 12


def test_maps_that_came_with_a_scan_need_no_center() -> None:
    full = supplied(measured_scan())
    sparse = full.restricted(torch.rand(SIZE, generator=seeded("sparse")) < 0.3)
    assert calibration_side(sparse.mask) < 8
    assert with_coils(sparse, None, CoilOptions()).maps is full.maps


@pytest.mark.parametrize("virtual", [4, 3])
def test_virtual_coils_see_through_compressed_maps(virtual: int) -> None:
    full = supplied(measured_scan(noise=0.0))
    scan = with_coils(undersampled(full), full, CoilOptions(virtual=virtual))
    assert scan.maps is not None
    assert scan.reference is not None
    assert scan.maps.shape == scan.kspace.shape == (virtual, *SIZE)
    torch.testing.assert_close(rss(scan.maps), torch.ones(SIZE))
    encoding = Cartesian(scan.mask[None], scan.maps[None])
    left = encoding.forward(scan.reference[None])[0] - scan.kspace
    assert float(left.norm() / scan.kspace.norm()) < 1e-3


def test_one_virtual_coil_leaves_supplied_maps_out() -> None:
    scan = with_coils(supplied(measured_scan()), None, CoilOptions(virtual=1))
    assert (len(scan.kspace), scan.maps) == (1, None)
