"""Calibration beside the image's grid: that coil maps come of it, however it was numbered, cut and encoded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ismrmrd
import numpy as np
import pytest
import torch
from torch import Tensor

from sansref.data.coil_maps import CoilOptions, with_coils
from sansref.data.readers.ismrmrd import IsmrmrdReader
from sansref.errors import FileError
from sansref.kspace.coils import birdcage_maps
from sansref.kspace.fourier import fft2c
from sansref.scan import Scan, ScanMeta

READER = IsmrmrdReader()
ROWS, COLUMNS, COILS = 64, 48, 4  # of the image; the readout has twice as many samples
SEPARATE = ("separate", "external", "other")
CALIBRATION = ismrmrd.ACQ_IS_PARALLEL_CALIBRATION


def coil_images(shade: float = 1.0, weight: float = 0.0) -> Tensor:
    """Of a smooth object in the middle half of the readout, (coils, 2 * rows, columns); ``weight`` is its contrast."""
    x, y = torch.linspace(-1, 1, ROWS)[:, None], torch.linspace(-1, 1, COLUMNS)
    inside = torch.hypot(x / 0.8, y / 0.75) < 1
    grey = inside * (1 + 0.3 * torch.sin(5 * x) * torch.cos(7 * y) + weight * x)
    image = torch.zeros(COILS, 2 * ROWS, COLUMNS, dtype=torch.complex64)
    image[:, ROWS // 2 : -ROWS // 2] = shade * birdcage_maps((ROWS, COLUMNS), COILS) * grey
    return image


def kspace_of(**contrast: float) -> Any:
    grain = torch.randn(COILS, 2 * ROWS, COLUMNS, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    return (fft2c(coil_images(**contrast)) + 1e-3 * grain).numpy()


def header(mrd: Any, mode: str | None, **changes: Any) -> Any:
    sizes = ((2 * ROWS, COLUMNS, 1), (ROWS, COLUMNS, 1), (2 * 320.0, 240.0, 4.0), (320.0, 240.0, 4.0))
    return mrd.header(*sizes, calibration=mode, **changes)


def reference_lines(mrd: Any, kspace: Any, first: int = 0, **fields: Any) -> list[Any]:
    """The central 24 columns as a measurement of its own, its lines numbered from ``first``."""
    low = COLUMNS // 2 - 12
    return [
        mrd.line(kspace[:, :, low + step], CALIBRATION, kspace_encode_step_1=first + step, **fields)
        for step in range(24)
    ]


def maps_of(scan: Scan) -> Tensor:
    found = with_coils(scan, None, CoilOptions())
    assert found.maps is not None
    assert found.calibration is None
    return found.maps


@pytest.fixture(scope="module")
def expected() -> Tensor:
    """Maps of the whole image, without its oversampling."""
    image = coil_images()[:, ROWS // 2 : -ROWS // 2]
    return maps_of(Scan(fft2c(image), torch.ones(ROWS, COLUMNS, dtype=torch.bool), ScanMeta("s", "a")))


def assert_alike(maps: Tensor, expected: Tensor, most: float = 0.02) -> None:
    """Maps are the same up to a phase that coils share, inside the object."""
    inside = coil_images()[0, ROWS // 2 : -ROWS // 2].abs() > 0
    both = (maps.abs().sum(0) > 0) & (expected.abs().sum(0) > 0)
    assert (both & inside).sum() > 0.95 * inside.sum()
    overlap = (maps.conj() * expected).sum(0).abs()[both & inside]
    assert float((1 - overlap).max()) < most


def scans_of(mrd: Any, tmp_path: Path, head: Any, lines: list[Any]) -> list[Scan]:
    path = mrd.write(tmp_path / "a.h5", head, lines)
    READER.describe(path)
    return list(READER.read(path))


@pytest.mark.parametrize("mode", SEPARATE)
@pytest.mark.parametrize("first", [0, 12, 40])
def test_a_measurement_of_its_own_gives_maps_and_no_samples(
    mrd: Any, tmp_path: Path, expected: Tensor, mode: str, first: int
) -> None:
    lines = reference_lines(mrd, kspace_of(weight=0.7), first)  # of another contrast
    lines += mrd.lines_of(kspace_of(), range(0, COLUMNS, 4))
    (scan,) = scans_of(mrd, tmp_path, header(mrd, mode), lines)
    assert int(scan.mask[0].sum()) == COLUMNS // 4
    assert_alike(maps_of(scan), expected)
    ready = with_coils(scan, None, CoilOptions(virtual=3))
    assert (len(ready.kspace), ready.meta.calibration) == (3, 0)
    (note,) = [note for note in READER.describe(tmp_path / "a.h5").notes if "calibration" in note]
    assert note == "24 calibration lines are not part of an image; coil maps may use them."


def test_calibration_before_all_repetitions_serves_each(mrd: Any, tmp_path: Path, expected: Tensor) -> None:
    lines = reference_lines(mrd, kspace_of())
    for repetition in range(3):
        lines += mrd.lines_of(kspace_of(), range(repetition, COLUMNS, 4), repetition=repetition)
    scans = scans_of(mrd, tmp_path, header(mrd, "separate"), lines)
    assert len(scans) == 3
    for scan in scans:
        assert_alike(maps_of(scan), expected)


@pytest.mark.parametrize("mode", ["embedded", "interleaved"])
def test_embedded_calibration_of_the_first_repetition_serves_the_others(
    mrd: Any, tmp_path: Path, expected: Tensor, mode: str
) -> None:
    low = COLUMNS // 2 - 12
    kspace, steps = kspace_of(), range(0, COLUMNS, 4)
    lines = [
        mrd.line(kspace[:, :, y], CALIBRATION, kspace_encode_step_1=y) for y in range(low, low + 24) if y not in steps
    ]
    for repetition in range(2):
        lines += mrd.lines_of(kspace, steps, repetition=repetition)
    first, second = scans_of(mrd, tmp_path, header(mrd, mode), lines)
    assert (first.calibration, int(second.mask[0].sum())) == (None, len(steps))
    for scan in (first, second):
        assert_alike(maps_of(scan), expected)


def test_interleaved_repetitions_calibrate_each_other(mrd: Any, tmp_path: Path, expected: Tensor) -> None:
    lines = []
    for repetition in range(8):
        lines += mrd.lines_of(kspace_of(), range(repetition % 4, COLUMNS, 4), repetition=repetition)
    scans = scans_of(mrd, tmp_path, header(mrd, "interleaved"), lines)
    assert len(scans) == 8
    for scan in scans[3:5]:
        assert scan.acceleration == 4
        assert_alike(maps_of(scan), expected)


def test_every_slice_has_its_own(mrd: Any, tmp_path: Path) -> None:
    lines = []
    for number in (0, 1):
        flipped = kspace_of()[:: 1 - 2 * number]
        place = {"slice": number, "position": (0.0, 0.0, 9.0 * number)}
        lines += reference_lines(mrd, flipped, **place) + mrd.lines_of(kspace_of(), range(0, COLUMNS, 4), **place)
    first, second = scans_of(mrd, tmp_path, header(mrd, "separate"), lines)
    assert_alike(maps_of(second), maps_of(first).flip(0))


@pytest.mark.parametrize(("ratio", "space"), [(1.0, 0), (1.0, 1), (0.5, 1), (0.75, 1)])
def test_a_matrix_and_a_field_of_view_of_its_own(
    mrd: Any, tmp_path: Path, expected: Tensor, ratio: float, space: int
) -> None:
    """Of a readout field of view ``ratio`` times that of the image with its oversampling, and fewer samples."""
    rows = int(2 * ROWS * ratio)
    image = coil_images(weight=0.5)[:, ROWS - rows // 2 : ROWS - rows // 2 + rows]
    kspace = fft2c(image).numpy()[:, rows // 2 - 20 : rows // 2 + 20]
    head = header(mrd, "separate")
    if space:
        own = ((40, 24, 1), (20, 24, 1), (640.0 * ratio, 240.0, 4.0), (320.0, 240.0, 4.0))
        head.encoding.append(mrd.header(*own).encoding[0])
    lines = reference_lines(mrd, kspace, encoding_space_ref=space)
    lines += mrd.lines_of(kspace_of(), range(0, COLUMNS, 4))
    (scan,) = scans_of(mrd, tmp_path, head, lines)
    assert_alike(maps_of(scan), expected)


def test_the_encoding_of_the_image_need_not_be_the_first(mrd: Any, tmp_path: Path, expected: Tensor) -> None:
    image = header(mrd, "separate").encoding[0]
    head = mrd.header((40, 24, 1), (20, 24, 1), (640.0, 240.0, 4.0), (320.0, 240.0, 4.0))
    head.encoding.append(image)
    kspace = kspace_of()
    lines = reference_lines(mrd, kspace[:, ROWS - 20 : ROWS + 20])
    lines += mrd.lines_of(kspace, range(0, COLUMNS, 4), encoding_space_ref=1)
    (scan,) = scans_of(mrd, tmp_path, head, lines)
    assert scan.kspace.shape == (COILS, ROWS, COLUMNS)
    assert "The header describes 2 encodings; number 2 is read." in READER.describe(tmp_path / "a.h5").notes
    assert_alike(maps_of(scan), expected)


def test_reversed_and_repeated_lines(mrd: Any, tmp_path: Path, expected: Tensor) -> None:
    plain = reference_lines(mrd, kspace_of())
    turned = reference_lines(mrd, kspace_of()[:, ::-1], center_sample=ROWS - 1)
    for each in turned:
        each.setFlag(ismrmrd.ACQ_IS_REVERSE)
    lines = [*plain[::2], *turned[1::2], *turned[4:8], *mrd.lines_of(kspace_of(), range(0, COLUMNS, 4))]
    (scan,) = scans_of(mrd, tmp_path, header(mrd, "separate"), lines)
    assert_alike(maps_of(scan), expected)


@pytest.mark.parametrize("partitions", [4, 8])
def test_a_slab(mrd: Any, tmp_path: Path, expected: Tensor, partitions: int) -> None:
    """Of 8 partitions, calibrated by 4 or 8 of them; the coils see all slices alike."""
    profile = torch.fft.fftshift(torch.fft.fft(torch.fft.ifftshift(torch.linspace(1, 2, 8)), norm="ortho")).numpy()
    volume = kspace_of()[..., None] * profile
    sizes = ((2 * ROWS, COLUMNS, 8), (ROWS, COLUMNS, 6), (640.0, 240.0, 16.0), (320.0, 240.0, 12.0))
    first = 4 - partitions // 2
    lines = [
        line for z in range(partitions) for line in reference_lines(mrd, volume[..., first + z], kspace_encode_step_2=z)
    ]
    lines += mrd.lines_of(volume, range(0, COLUMNS, 4))
    scans = scans_of(mrd, tmp_path, mrd.header(*sizes, calibration="separate"), lines)
    assert len(scans) == 6
    for scan in scans[1::3]:
        assert_alike(maps_of(scan), expected)


def test_whitened_as_the_image_is(mrd: Any, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    mixing = np.eye(COILS) + 0.5j * np.eye(COILS, k=1)
    noise = mixing @ generator.normal(size=(COILS, 4096, 2)).view(np.complex128)[..., 0]
    kspace = np.einsum("ij,jxy->ixy", mixing, kspace_of())
    lines = [mrd.line(noise, ismrmrd.ACQ_IS_NOISE_MEASUREMENT), *reference_lines(mrd, kspace)]
    lines += mrd.lines_of(kspace, range(0, COLUMNS, 4))
    (scan,) = scans_of(mrd, tmp_path, header(mrd, "separate"), lines)
    whole = [mrd.line(noise, ismrmrd.ACQ_IS_NOISE_MEASUREMENT), *mrd.lines_of(kspace)]
    (full,) = READER.read(mrd.write(tmp_path / "whole.h5", header(mrd, None), whole))
    assert_alike(maps_of(scan), maps_of(full))


def test_of_no_use_is_left_aside(mrd: Any, tmp_path: Path) -> None:
    image = mrd.lines_of(kspace_of(), range(0, COLUMNS, 4))
    few = reference_lines(mrd, kspace_of()[:2])  # coils
    gap = [line for line in reference_lines(mrd, kspace_of()) if line.idx.kspace_encode_step_1 % 2]
    bad = reference_lines(mrd, np.full_like(kspace_of(), np.nan))
    for lines in (few, gap, bad):
        path = mrd.write(tmp_path / f"{len(list(tmp_path.iterdir()))}.h5", header(mrd, "separate"), lines + image)
        (scan,) = READER.read(path)
        with pytest.raises(FileError, match="fully sampled center of"):
            with_coils(scan, None, CoilOptions())


def test_a_full_scan_is_its_own_calibration(mrd: Any, tmp_path: Path) -> None:
    lines = [*reference_lines(mrd, kspace_of()[::-1]), *mrd.lines_of(kspace_of())]
    (scan,) = scans_of(mrd, tmp_path, header(mrd, "separate"), lines)
    found = with_coils(scan, scan, CoilOptions())
    assert found.meta.calibration == 24
    (plain,) = READER.read(mrd.write(tmp_path / "plain.h5", header(mrd, None), mrd.lines_of(kspace_of())))
    assert_alike(maps_of(scan), maps_of(plain))
