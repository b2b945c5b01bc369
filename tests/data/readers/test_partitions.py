from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sansref.data.readers import ReaderOptions, open_scan_file
from sansref.data.readers import array_slices as partitions
from sansref.errors import FileError
from sansref.kspace.fourier import ifft2c

AXES = "partition,coil,row,column"


def kspace_of(volume: Any) -> Any:
    axes = (0, -2, -1)
    return np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(volume, axes), axes=axes, norm="ortho"), axes)


@settings(max_examples=20, deadline=None)
@given(sizes=st.tuples(*[st.integers(2, 9)] * 3), coils=st.integers(1, 3), block=st.sampled_from([1, 4000, 1 << 26]))
def test_slices_are_those_of_the_volume(
    make: Any, tmp_path_factory: pytest.TempPathFactory, sizes: tuple[int, int, int], coils: int, block: int
) -> None:
    volume = make.noise(sizes[0], coils, *sizes[1:])
    path = make.npy(tmp_path_factory.getbasetemp() / "a.npy", kspace_of(volume))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partitions, "BLOCK", block)
        found = make.scans(path, AXES)
    assert len(found) == sizes[0]
    for scan in found:
        assert np.abs(ifft2c(scan.kspace).numpy() - volume[scan.meta.slice]).max() < 1e-5
        assert (scan.reference is not None) == (coils == 1)


def test_what_is_told_and_chosen(make: Any, tmp_path: Path) -> None:
    mask = np.random.default_rng(0).random((8, 10)) < 0.4
    path = make.npy(tmp_path / "a.npy", kspace_of(make.noise(6, 2, 8, 10)) * mask)
    info = open_scan_file(path, ReaderOptions(axes=AXES)).describe(path)
    assert (info.slices, info.coils, info.height, info.width) == (6, 2, 8, 10)
    assert info.acquired_fraction == mask.mean()
    found = make.scans(path, AXES, slices=[4, 1])
    assert [scan.meta.slice for scan in found] == [4, 1]
    assert all(np.array_equal(scan.mask.numpy(), mask) for scan in found)


def test_outer_partitions_may_be_missing(make: Any, tmp_path: Path) -> None:
    kspace = kspace_of(make.noise(10, 1, 8, 9))
    kspace[:2] = 0
    assert len(make.scans(make.npy(tmp_path / "a.npy", kspace), AXES)) == 10


WRONG: dict[str, tuple[float, list[Any], str]] = {
    "gap": (0, [2], "is undersampled along the axis named partition. Name a fully sampled"),
    "half": (0, [slice(0, 3), 7], "is undersampled along the axis named partition"),
    "mixed": (0, [np.s_[3, :, :, :4]], "is undersampled along the axis named partition"),
    "NaN": (np.nan, [np.s_[..., 8]], r"NaN or infinite k-space"),
    "middle": (0, [4], "holds only zeros in the k-space of partition 4"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_transformed(make: Any, tmp_path: Path, case: str) -> None:
    value, places, message = WRONG[case]
    kspace = make.noise(8, 1, 8, 9)
    for place in places:
        kspace[place] = value
    with pytest.raises(FileError, match=message):
        make.scans(make.npy(tmp_path / "a.npy", kspace), AXES)


def test_no_room_for_the_temporary_file(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, offset: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    path = make.npy(tmp_path / "a.npy", make.noise(8, 1, 8, 9))
    with pytest.raises(FileError, match=r"needs 0.0 GB for a temporary file in .* \(No space left on device\)"):
        make.scans(path, AXES)
