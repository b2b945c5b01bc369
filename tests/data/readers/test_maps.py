"""Coil maps in files and beside scans: on any scale, in any order of axes, and never those of another scan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from scipy.io import savemat

from sansref.data.readers import FileInfo, ReaderOptions, open_scan_file
from sansref.data.readers.arrays import SET, is_maps_name, map_axes
from sansref.errors import FileError
from sansref.kspace.coils import birdcage_maps, rss

SLICES, COILS, ROWS, COLUMNS = 3, 4, 12, 10
AXES = "slice,coil,row,column"
INFO = FileInfo(Path("a"), "", "k-space", SLICES, ROWS, COLUMNS, "s", COILS, acquired_fraction=1.0)


def truth() -> Any:
    """Maps of every slice, with a place that no coil sees."""
    turned = [birdcage_maps((ROWS, COLUMNS), COILS, torch.Generator().manual_seed(index)) for index in range(SLICES)]
    maps = torch.stack(turned).numpy()
    maps[..., :2, :3] = 0
    return maps


def taken(path: Path, maps: Path | str | None = None, slices: Any = None, axes: str | None = AXES) -> list[Any]:
    options = ReaderOptions(axes=axes, maps=None if maps is None else str(maps))
    return list(open_scan_file(path, options).read(path, slices))


@pytest.fixture
def scan(make: Any, tmp_path: Path) -> Path:
    path: Path = make.npy(tmp_path / "sub-01.npy", make.noise(SLICES, COILS, ROWS, COLUMNS))
    return path


@pytest.mark.parametrize("ending", ["npy", "npz", "mat", "h5", "v73"])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 3, 1, 0), (1, 0, 2, 3)])
def test_maps_of_any_format_and_order_and_scale(scan: Path, tmp_path: Path, ending: str, order: Any) -> None:
    stored, path = 7e3 * truth().transpose(order), tmp_path / f"maps.{ending}"
    if ending == "npy":
        np.save(path, stored)
    elif ending == "npz":
        np.savez(path, maps=stored, other=np.ones(3))
    elif ending == "mat":
        savemat(path, {"smaps": stored})
    else:
        with h5py.File(path, "w") as file:
            file["sensitivity_map"] = stored
    for index, found in zip((2, 0), taken(scan, path, (2, 0)), strict=True):
        assert np.allclose(found.maps.numpy(), truth()[index], atol=1e-6)
        assert found.meta.slice == index
    note = open_scan_file(scan, ReaderOptions(axes=AXES, maps=str(path))).describe(scan).notes[-1]
    assert str(path) in note


def test_maps_are_scaled_to_one_or_zero(scan: Path, tmp_path: Path) -> None:
    factor = np.random.default_rng(0).uniform(0.1, 5, (SLICES, 1, ROWS, COLUMNS))
    np.save(tmp_path / "maps.npy", truth() * factor)
    for found in taken(scan, tmp_path / "maps.npy"):
        size = rss(found.maps)
        assert bool((size[:2, :3] == 0).all())
        torch.testing.assert_close(size[2:], torch.ones(ROWS - 2, COLUMNS))


def wrong(**changes: int) -> Any:
    sizes = {"slices": SLICES, "coils": COILS, "rows": ROWS, "columns": COLUMNS} | changes
    return np.ones(tuple(sizes.values()), np.complex64)


BAD = {
    "coils": (wrong(coils=5), "do not fit 3 slices, 4 coils"),
    "slices": (wrong(slices=2), "do not fit"),
    "rows": (wrong(rows=24), "do not fit"),
    "columns": (wrong(columns=9), "do not fit"),
    "real": (wrong().real, "no complex arrays"),
    "NaN": (wrong() * np.nan, "NaN"),
    "zero": (0 * wrong(), "only zeros in slice 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_maps_that_cannot_be_used_are_a_fault_of_the_scan(make: Any, scan: Path, tmp_path: Path, case: str) -> None:
    stored, message = BAD[case]
    np.save(tmp_path / "maps.npy", stored)
    with make.refused(scan, message):
        taken(scan, tmp_path / "maps.npy")
    with pytest.raises(FileError, match="does not exist"):
        taken(scan, tmp_path / "nothing.npy")
    (tmp_path / "text.txt").write_text("words")
    with pytest.raises(FileError, match="not in a format from which coil maps can be read"):
        taken(scan, tmp_path / "text.txt")


def test_a_folder_has_the_maps_of_each_scan_by_its_name(make: Any, tmp_path: Path) -> None:
    folder = tmp_path / "maps"
    for person in (0, 1):
        make.npy(tmp_path / f"p{person}.npy", make.noise(COILS, ROWS, COLUMNS))
        (folder / f"p{person}").mkdir(parents=True)
        np.save(folder / f"p{person}.npy", truth()[person])
    for person in (0, 1):
        (found,) = taken(tmp_path / f"p{person}.npy", folder, axes="coil,row,column")
        assert np.allclose(found.maps.numpy(), truth()[person], atol=1e-6)
    savemat(folder / "p1.mat", {"maps": truth()[0]})
    with make.refused(tmp_path / "p1.npy", "several files of coil maps"):
        taken(tmp_path / "p1.npy", folder, axes="coil,row,column")
    with make.refused(make.npy(tmp_path / "p2.npy", make.noise(COILS, ROWS, COLUMNS)), "has no coil maps in"):
        taken(tmp_path / "p2.npy", folder, axes="coil,row,column")
    # Of scans of one name in several folders, those in the folder of that name.
    for person in (0, 1):
        (tmp_path / f"p{person}").mkdir()
        make.npy(tmp_path / f"p{person}" / "T1.npy", make.noise(COILS, ROWS, COLUMNS))
        np.save(folder / f"p{person}" / "T1.npy", truth()[person])
    for person in (0, 1):
        (found,) = taken(tmp_path / f"p{person}" / "T1.npy", folder, axes="coil,row,column")
        assert np.allclose(found.maps.numpy(), truth()[person], atol=1e-6)


@pytest.mark.parametrize("name", ["sensitivity_map", "sense", "maps", "smaps", "csm", "coil_maps"])
def test_maps_in_the_file_of_the_scan(make: Any, tmp_path: Path, name: str) -> None:
    arrays = {"kspace": make.noise(SLICES, COILS, ROWS, COLUMNS), name: 3 * truth(), "other": np.ones(3)}
    np.savez(tmp_path / "a.npz", **arrays)
    for found in taken(tmp_path / "a.npz"):
        assert np.allclose(found.maps.numpy(), truth()[found.meta.slice], atol=1e-6)
    assert (
        f"'{name}' in the file"
        in open_scan_file(tmp_path / "a.npz", ReaderOptions(axes=AXES)).describe(tmp_path / "a.npz").notes[-1]
    )
    assert all(found.maps is None for found in taken(tmp_path / "a.npz", "none"))
    other = np.ones((SLICES, COILS, ROWS, COLUMNS), np.complex64)
    np.save(tmp_path / "other.npy", other)
    assert np.allclose(taken(tmp_path / "a.npz", tmp_path / "other.npy")[0].maps.numpy(), 0.5)


@pytest.mark.parametrize("rows", [64, 32])
def test_maps_of_direct_beside_the_kspace_of_fastmri(make: Any, tmp_path: Path, rows: int) -> None:
    """They are of the whole readout or of what is left when its oversampling is cut off."""
    whole = birdcage_maps((64, 37), 5).expand(2, -1, -1, -1).numpy()
    kept = whole[..., 16:48, :]
    kspace = make.kspace((2, 5, 64, 37))
    path = make.fastmri(tmp_path / "a.h5", kspace, sensitivity_map=2 * (whole if rows == 64 else kept))
    info = open_scan_file(path).describe(path)
    assert "'sensitivity_map' in the file" in info.notes[-1]
    assert info.stored_rows == (64, 16)
    for found in open_scan_file(path).read(path):
        assert np.allclose(found.maps.numpy(), kept[0], atol=1e-6)
    assert next(iter(open_scan_file(path, ReaderOptions(maps="none")).read(path))).maps is None
    # In a file of their own, as DIRECT keeps them: a folder of the same names.
    bare = make.fastmri(tmp_path / "b.h5", kspace)
    (tmp_path / "maps").mkdir()
    with h5py.File(tmp_path / "maps" / "b.h5", "w") as file:
        file["sensitivity_map"] = whole if rows == 64 else kept
    found = next(iter(open_scan_file(bare, ReaderOptions(maps=str(tmp_path / "maps"))).read(bare)))
    assert np.allclose(found.maps.numpy(), kept[0], atol=1e-6)


def test_one_coil_and_magnitudes_need_none(make: Any, tmp_path: Path) -> None:
    path = make.npy(tmp_path / "a.npy", make.noise(ROWS, COLUMNS))
    options = ReaderOptions(maps=str(tmp_path / "nothing.npy"))
    assert "without effect" in open_scan_file(path, options).describe(path).notes[-1]
    assert next(iter(open_scan_file(path, options).read(path))).maps is None


def test_axes_by_sizes() -> None:
    assert map_axes((3, 4, 12, 10), INFO) == ("slice", "coil", "row", "column")
    assert map_axes((1, 3, 4, 12, 10, 1), INFO) == ("x", "slice", "coil", "row", "column", "x")
    assert map_axes((4, 3, 10, 12), INFO) == ("coil", "slice", "column", "row")
    assert map_axes((12, 10, 3, 4), INFO, [("row", "column", "partition", "coil")])[2] == "slice"
    assert map_axes((4, 12, 10), INFO) is None
    # Four of equal length: the usual order, or that of the k-space, but no guess.
    cube = replace(INFO, slices=4, coils=4, height=4, width=4)
    assert map_axes((4, 4, 4, 4), cube) == ("slice", "coil", "row", "column")
    assert map_axes((4, 4, 4, 4), cube, [("column", "row", "coil", "slice")])[0] == "column"
    assert SET not in map_axes((3, 4, 12, 10), INFO)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *[(name, True) for name in ("sensitivity_map", "a/b/Sens-Maps", "sense", "csm", "maps", "coilSensitivities")],
        *[(name, False) for name in ("kspace", "mask", "image", "data", "sensor", "mapping", "T1")],
    ],
)
def test_names_of_maps(name: str, expected: bool) -> None:
    assert is_maps_name(name) == expected


@pytest.mark.parametrize("ending", ["npy", "mat", "h5"])
@pytest.mark.parametrize("slices", [1, SLICES])
def test_a_smaller_kspace_of_the_same_coils_is_a_calibration_scan(
    make: Any, scan: Path, tmp_path: Path, ending: str, slices: int
) -> None:
    stored, path = make.noise(slices, COILS, 8, 6), tmp_path / f"ref.{ending}"
    stored[:, :, 4, 3] *= 50  # DC
    if ending == "npy":
        np.save(path, stored)
    elif ending == "mat":
        savemat(path, {"ref": stored})
    else:
        with h5py.File(path, "w") as file:
            file["ref"] = stored
    for index, found in zip((2, 0), taken(scan, path, (2, 0)), strict=True):
        assert found.maps is None
        inside = found.calibration[:, 2:10, 2:8]  # DC of 8 x 6 lies at (4, 3), that of 12 x 10 at (6, 5)
        np.testing.assert_allclose(inside.numpy(), stored[index if slices > 1 else 0], rtol=1e-5)
        assert int((found.calibration != 0).any(0).sum()) == 8 * 6
    note = open_scan_file(scan, ReaderOptions(axes=AXES, maps=str(path))).describe(scan).notes[-1]
    assert "estimated from the calibration scan" in note


def test_a_calibration_scan_of_other_coils_or_slices_is_refused(make: Any, scan: Path, tmp_path: Path) -> None:
    for number, shape in enumerate(((SLICES, COILS - 1, 8, 6), (2, COILS, 8, 6))):
        np.save(tmp_path / f"{number}.npy", make.noise(*shape))
        with pytest.raises(FileError, match="do not fit"):
            taken(scan, tmp_path / f"{number}.npy")
