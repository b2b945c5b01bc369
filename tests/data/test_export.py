from __future__ import annotations

import itertools
from pathlib import Path

import h5py
import nibabel
import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from sansref.data.export import write_fastmri, write_nifti, write_png
from sansref.errors import FileError
from sansref.files import atomic_path
from sansref.scan import Geometry

OBLIQUE = np.array([[0.0, -0.8, 0.3, 11.0], [1.1, 0.1, 0.0, -7.0], [0.1, 0.2, 2.0, 5.0], [0, 0, 0, 1.0]])
SHAPE = (6, 8, 10)


def _geometry(affine: npt.NDArray[np.float64], slice_axis: int) -> Geometry:
    rows = tuple(tuple(float(v) for v in row) for row in affine)
    return Geometry(affine=rows, slice_axis=slice_axis)  # type: ignore[arg-type]


def _source() -> npt.NDArray[np.float32]:
    """A source array in which every voxel has its own value."""
    return np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)


def _files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
@pytest.mark.parametrize(("offset", "step"), [((0, 0, 0), 1), ((2, 0, 0), 1), ((0, 1, 3), 1), ((1, 2, 1), 2)])
def test_every_voxel_stays_in_its_place_in_the_patient(
    tmp_path: Path, slice_axis: int, offset: tuple[int, int, int], step: int
) -> None:
    source = _source()
    slices = np.moveaxis(source, slice_axis, 0)
    part = slices[offset[0] :: step, offset[1] : offset[1] + 4, offset[2] : offset[2] + 3]
    path = tmp_path / "part.nii.gz"
    write_nifti(path, part, _geometry(OBLIQUE, slice_axis), offset=offset, step=step)

    written = nibabel.load(path)
    values = written.get_fdata()
    assert values.size == part.size
    for index in np.ndindex(values.shape):
        (origin,) = np.argwhere(source == values[index])
        world = nibabel.affines.apply_affine(written.affine, index)
        np.testing.assert_allclose(world, nibabel.affines.apply_affine(OBLIQUE, origin), atol=1e-4)


def test_nifti_header_tells_type_codes_and_units(tmp_path: Path) -> None:
    affine = np.diag([-0.5, 0.75, 2.0, 1.0])  # No shear: qform and sform can both be exact.
    write_nifti(tmp_path / "a.nii", torch.from_numpy(_source()), _geometry(affine, 0), step=3)
    header = nibabel.load(tmp_path / "a.nii").header
    assert header.get_data_dtype() == np.float32
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
    assert header.get_zooms() == pytest.approx((1.5, 0.75, 2.0))
    np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-5)
    assert header.get_xyzt_units()[0] == "mm"


@pytest.mark.parametrize(("spacing", "zooms"), [((0.5, 0.75), (0.5, 0.75, 1.0)), (None, (1.0, 1.0, 1.0))])
def test_nifti_without_placement_has_slices_last_and_says_it_knows_nothing(
    tmp_path: Path, spacing: tuple[float, float] | None, zooms: tuple[float, ...]
) -> None:
    volume = torch.from_numpy(_source()).requires_grad_()
    write_nifti(tmp_path / "a.nii.gz", volume, spacing=spacing)
    written = nibabel.load(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(np.moveaxis(written.get_fdata(), 2, 0), _source())
    assert written.header.get_zooms() == pytest.approx(zooms)
    assert (int(written.header["sform_code"]), int(written.header["qform_code"])) == (0, 0)


@pytest.mark.parametrize("name", ["a.nifti", "a.gz", "nii"])
def test_a_nifti_needs_its_ending(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileError, match=r"is not a NIfTI name\. Let it end in \.nii or \.nii\.gz\."):
        write_nifti(tmp_path / name, _source())
    assert _files(tmp_path) == []


def test_fastmri_layout(tmp_path: Path) -> None:
    write_fastmri(tmp_path / "file.h5", torch.from_numpy(_source()).double())
    with h5py.File(tmp_path / "file.h5") as file:
        assert list(file) == ["reconstruction"]
        assert file["reconstruction"].dtype == np.float32
        np.testing.assert_array_equal(file["reconstruction"][()], _source())


def test_png_maps_the_window_to_grey(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", torch.tensor([[-1.0, 1.0, 2.0], [3.0, 5.0, 9.0]]), window=(1.0, 5.0))
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "L"
        assert np.asarray(image).tolist() == [[0, 0, 64], [128, 255, 255]]


def test_the_default_window_ignores_a_few_bright_pixels(tmp_path: Path) -> None:
    image = np.full((40, 40), 0.5)
    image[0, 0], image[0, 1] = 1000.0, 0.0
    write_png(tmp_path / "a.png", image)
    with Image.open(tmp_path / "a.png") as file:
        grey = np.asarray(file)
    assert (grey[1:] == 255).all()
    assert grey[0, 1] == 0


def test_a_blank_image_is_black(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.zeros((3, 4)))
    with Image.open(tmp_path / "a.png") as file:
        assert not np.asarray(file).any()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1), (-1, -1, -1)])
@pytest.mark.parametrize(
    ("across", "up", "left"),
    [(2, 1, 0), (1, 2, 0), (0, 2, 1)],  # Axial: anterior up, right on the left; coronal; sagittal: anterior left.
)
def test_upright_images_have_superior_or_anterior_up(
    tmp_path: Path, order: tuple[int, ...], signs: tuple[int, ...], across: int, up: int, left: int
) -> None:
    """World coordinates as grey values, sampled through affines of every axis order and direction."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
        affine[world, axis] = sign
    slice_axis = order.index(across)
    voxels = np.stack(np.meshgrid(np.arange(5), np.arange(6), np.arange(7), indexing="ij"), axis=-1)
    world = nibabel.affines.apply_affine(affine, voxels).take(2, axis=slice_axis)
    for name, direction, axis in (("up", up, 0), ("left", left, 1)):
        write_png(
            tmp_path / f"{name}.png", world[..., direction], window=(-10, 10), upright=_geometry(affine, slice_axis)
        )
        with Image.open(tmp_path / f"{name}.png") as file:
            grey = np.asarray(file).astype(int)
        assert (np.diff(grey, axis=axis) < 0).all()  # Right, anterior and superior are positive in RAS+.
        assert (np.diff(grey, axis=1 - axis) == 0).all()


def test_a_degenerate_affine_turns_nothing(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.array([[0.0, 1.0]]), (0, 1), upright=_geometry(np.diag([1.0, 0, 1, 1]), 0))
    with Image.open(tmp_path / "a.png") as file:
        assert np.asarray(file).tolist() == [[0, 255]]


def test_an_empty_window_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"window must rise, got \(1.0, 1.0\)"):
        write_png(tmp_path / "a.png", np.ones((2, 2)), window=(1.0, 1.0))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.ones((2, 2, 2, 2)), "must be real with [23] axes"),
        (1j * np.ones((2, 2)), "must be real with [23] axes"),
        (1j * np.ones((2, 2, 2)), "must be real with [23] axes"),
    ],
)
def test_unsuitable_arrays_are_refused(tmp_path: Path, data: npt.NDArray[np.float64], message: str) -> None:
    for write, name in ((write_nifti, "a.nii"), (write_fastmri, "a.h5"), (write_png, "a.png")):
        with pytest.raises(ValueError, match=message):
            write(tmp_path / name, data)
    assert _files(tmp_path) == []


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="volume has NaN or infinite values"):
        write_fastmri(tmp_path / "a.h5", np.full((1, 2, 2), np.nan))
    with pytest.raises(ValueError, match="image has NaN or infinite values"):
        write_png(tmp_path / "a.png", np.full((2, 2), np.inf))


def test_atomic_path_replaces_the_file_and_makes_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    for text in ("one", "two"):
        with atomic_path(path) as temporary:
            assert temporary.parent == path.parent
            assert temporary.name.endswith("a.txt")
            temporary.write_text(text)
        assert path.read_text() == text
    assert _files(path.parent) == ["a.txt"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert _files(tmp_path) == ["a.txt"]


def test_a_full_disk_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with (
        pytest.raises(FileError, match=r"a\.txt: cannot be written \(No space left on device\)\. Choose a folder"),
        atomic_path(path) as temporary,
    ):
        temporary.write_text("half")
        raise OSError(28, "No space left on device")
    assert _files(tmp_path) == []


def test_a_folder_that_is_a_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(FileError, match="cannot be written"):
        write_png(tmp_path / "taken" / "a.png", np.ones((2, 2)))
