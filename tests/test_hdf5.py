"""Files that name other files: those in their folder are read, all others refused, and every walk ends."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from sansref.data.readers import ReaderOptions, open_scan_file
from sansref.errors import FileError
from sansref.hdf5 import MOST_OBJECTS, bytes_behind, objects_of, open_hdf5

SHAPE = (8, 9)
KSPACE = (np.arange(1, 73).reshape(SHAPE) * (1 + 0.5j)).astype(np.complex64)


def linked(path: Path, target: str) -> None:
    with h5py.File(path, "w") as file:
        file["k"] = h5py.ExternalLink(target, "/x")


def virtual(path: Path, target: str) -> None:
    layout = h5py.VirtualLayout(SHAPE, np.complex64)
    layout[:] = h5py.VirtualSource(target, "x", SHAPE)
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("k", layout)


def external(path: Path, target: str) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("k", SHAPE, np.complex64, external=[(target, 0, KSPACE.nbytes)])


WRITERS = {"link": linked, "virtual": virtual, "external": external}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a scan, where the command is given, beside a folder of another patient."""
    for name in ("mine", "other"):
        (tmp_path / name).mkdir()
        with h5py.File(tmp_path / name / "source.h5", "w") as file:
            file["x"] = KSPACE
        (tmp_path / name / "raw").write_bytes(KSPACE.tobytes())
    monkeypatch.chdir(tmp_path / "mine")
    return tmp_path / "mine"


@pytest.mark.parametrize("way", WRITERS)
@pytest.mark.parametrize("absolute", [True, False])
def test_a_regular_file_in_the_same_folder_is_opened(folder: Path, way: str, absolute: bool) -> None:
    target = "raw" if way == "external" else "source.h5"
    path = folder / "scan.h5"
    WRITERS[way](path, str(folder / target) if absolute else target)
    (scan,) = open_scan_file(path).read(path)
    assert np.array_equal(scan.kspace[0].numpy(), KSPACE)  # type: ignore[union-attr]
    with open_hdf5(path) as file:
        assert bytes_behind(file["k"]) >= (folder / target).stat().st_size


@contextmanager
def refused(path: Path, message: str) -> Iterator[None]:
    with pytest.raises(FileError, match=message) as caught:
        yield
    assert caught.value.path == path
    assert "\n" not in str(caught.value)


ELSEWHERE = ["../other/NAME", "ABSOLUTE", "sub/../NAME", "missing", "pipe", "symlink", "/etc/hostname"]


@pytest.mark.parametrize("way", WRITERS)
@pytest.mark.parametrize("target", ELSEWHERE)
@pytest.mark.parametrize("name", ["k", "kspace"])
def test_any_other_file_is_refused_at_once(folder: Path, way: str, target: str, name: str) -> None:
    source = "raw" if way == "external" else "source.h5"
    (folder / "sub").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "symlink").symlink_to(folder.parent / "other" / source)
    target = target.replace("NAME", source).replace("ABSOLUTE", str(folder.parent / "other" / source))
    path = folder / "scan.h5"
    WRITERS[way](path, target)
    with h5py.File(path, "a") as file:
        file.move("k", name)
    start = time.monotonic()
    with refused(path, "not a regular file in its folder"):
        list(open_scan_file(path).read(path))
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("way", ["link", "virtual"])
def test_what_a_linked_file_names_is_looked_at_too(folder: Path, way: str) -> None:
    with h5py.File(folder / "source.h5", "w") as file:
        file["x"] = h5py.ExternalLink("/etc/hostname", "/x")
    WRITERS[way](folder / "scan.h5", "source.h5")
    with refused(folder / "scan.h5", "/etc/hostname, which is not a regular file"):
        open_scan_file(folder / "scan.h5")


def test_parts_that_are_not_there_are_no_zeros(folder: Path) -> None:
    with h5py.File(folder / "source.h5", "w") as file:
        file["y"] = KSPACE
    virtual(folder / "scan.h5", "source.h5")
    with refused(folder / "scan.h5", "'x', which does not exist"):
        open_scan_file(folder / "scan.h5")
    (folder / "raw").write_bytes(KSPACE.tobytes()[:-1])
    external(folder / "scan.h5", "raw")
    with refused(folder / "scan.h5", "raw, which is too short"):
        open_scan_file(folder / "scan.h5")


def test_many_files_of_one_scan_may_be_large(folder: Path) -> None:
    """The size that is plausible is that of all files together."""
    layout = h5py.VirtualLayout((40, 300, 200), np.complex64)
    with h5py.File(folder / "source.h5", "w") as file:
        file["x"] = np.ones((40, 300, 200), np.complex64)
    layout[:] = h5py.VirtualSource("source.h5", "x", (40, 300, 200))
    with h5py.File(folder / "scan.h5", "w") as file:
        file.create_virtual_dataset("kspace", layout)
    assert open_scan_file(folder / "scan.h5").describe(folder / "scan.h5").slices == 40


def test_soft_links_inside_and_circles_of_hard_links(folder: Path) -> None:
    with h5py.File(folder / "scan.h5", "w") as file:
        file["group/deep/k"] = KSPACE
        file["group/circle"] = file["group"]
        file["again"] = file["group/deep/k"]
        file["soft"] = h5py.SoftLink("/group/deep/k")
        file["kspace"] = h5py.SoftLink("/again")
        file["nowhere"] = h5py.SoftLink("/nothing")
    with open_hdf5(folder / "scan.h5") as file:
        assert [name for name, _ in objects_of(folder / "scan.h5", file)] == ["", "again", "group", "group/deep"]
    found = open_scan_file(folder / "scan.h5", ReaderOptions(axes="row,column"))
    (scan,) = found.read(folder / "scan.h5")
    assert np.array_equal(scan.kspace[0].numpy(), KSPACE)  # type: ignore[union-attr]


def test_circles_of_files_end(folder: Path) -> None:
    for one, other in (("a", "b"), ("b", "a")):
        with h5py.File(folder / f"{one}.h5", "w") as file:
            file[f"{one}k"] = KSPACE
            file["next"] = h5py.ExternalLink(f"{other}.h5", "/")
    with open_hdf5(folder / "a.h5") as file:
        assert {name for name, _ in objects_of(folder / "a.h5", file)} >= {"ak", "next/bk"}
    for one, other in (("a", "b"), ("b", "a")):
        linked(folder / f"{one}.h5", f"{other}.h5")
    with pytest.raises(FileError):
        open_scan_file(folder / "a.h5").describe(folder / "a.h5")


def test_no_way_leads_through_what_is_not_walked(folder: Path) -> None:
    with h5py.File(folder / "scan.h5", "w") as file:
        file["#refs#/a"] = h5py.ExternalLink(str(folder.parent / "other" / "source.h5"), "/x")
        file["kspace"] = h5py.SoftLink("/#refs#/a")
    with refused(folder / "scan.h5", "MATLAB keeps for itself"):
        open_scan_file(folder / "scan.h5").describe(folder / "scan.h5")


@pytest.mark.parametrize("kind", ["link", "array"])
def test_no_other_file_and_no_array_leads_there_either(folder: Path, kind: str) -> None:
    with h5py.File(folder / "d.h5", "w") as file:
        file["#refs#/x"] = h5py.ExternalLink(str(folder.parent / "other" / "source.h5"), "/x")
        if kind == "array":
            layout = h5py.VirtualLayout(KSPACE.shape, KSPACE.dtype)
            layout[...] = h5py.VirtualSource(".", "/#refs#/x", KSPACE.shape, KSPACE.dtype)
            file.create_virtual_dataset("kspace", layout)
    path = folder / "d.h5"
    if kind == "link":
        path = folder / "scan.h5"
        with h5py.File(path, "w") as file:
            file["kspace"] = h5py.ExternalLink("d.h5", "/#refs#/x")
    with refused(path, "MATLAB keeps for itself"):
        open_scan_file(path).describe(path)


def test_nested_and_numerous_groups_take_seconds(folder: Path) -> None:
    with h5py.File(folder / "deep.h5", "w") as file:
        group: Any = file
        for _ in range(3000):
            group = group.create_group("g")
        group["k"] = KSPACE
    with h5py.File(folder / "wide.h5", "w", libver="latest") as file:
        for number in range(MOST_OBJECTS + 1):
            file.create_group(str(number))
    for name, message in (("deep", "nests groups more than"), ("wide", "holds more than")):
        start = time.process_time()
        with refused(folder / f"{name}.h5", message):
            open_scan_file(folder / f"{name}.h5").describe(folder / f"{name}.h5")
        assert time.process_time() - start < 20
