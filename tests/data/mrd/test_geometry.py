from __future__ import annotations

from typing import Any

import ismrmrd
import nibabel
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from sansref.data.mrd.acquisitions import HEAD, Lines, head_of
from sansref.data.mrd.assemble import assemble, geometry_of, stack_order
from sansref.data.mrd.header import MrdHeader, parse_header
from sansref.kspace.fourier import ifft2c
from sansref.scan import Geometry, ScanMeta

OBLIQUE = Rotation.from_euler("xyz", (20, -35, 110), degrees=True).as_matrix()
CENTER = np.array([12.0, -30.0, 45.0])  # of the first slice, in DICOM's coordinates
SPACING = np.array([5.0, 6.0, 4.0])


def header_of(mrd: Any, partitions: int = 1, kept: int = 1, vendor: str | None = None) -> MrdHeader:
    sizes = ((32, 15, partitions), (16, 15, kept))
    lengths = [tuple((np.array(size) * SPACING).tolist()) for size in sizes]
    return parse_header("a.h5", ismrmrd.xsd.ToXML(mrd.header(*sizes, *lengths, vendor=vendor)))


def directions(matrix: Any = OBLIQUE) -> dict[str, tuple[float, ...]]:
    names = ("read_dir", "phase_dir", "slice_dir")
    return {name: tuple(matrix[:, axis]) for axis, name in enumerate(names)}


def point_seen(point: Any, position: Any, shape: tuple[int, int, int], sign: int) -> Any:
    """K-space (rows, columns, partitions) of a point in the patient, by the equation of the signal.

    ``sign`` is that of the exponent.
    """
    offsets = OBLIQUE.T @ (point - position) / SPACING
    phases = [
        np.exp(sign * 2j * np.pi * (np.arange(size) - size // 2) / size * offset)
        for size, offset in zip(shape, offsets, strict=True)
    ]
    return np.einsum("x,y,z->xyz", *phases)


def position_in_nifti(geometry: Geometry | None, index: Any) -> Any:
    """Where a voxel lies, in DICOM's coordinates."""
    assert geometry is not None
    assert geometry.slice_axis == 2
    right, anterior, superior = nibabel.affines.apply_affine(np.array(geometry.affine), index)
    return np.array([-right, -anterior, superior])


@pytest.mark.parametrize(("vendor", "sign"), [(None, -1), ("SIEMENS", 1)])
def test_a_point_of_the_patient_lies_where_the_affine_says(mrd: Any, vendor: str | None, sign: int) -> None:
    header = header_of(mrd, vendor=vendor)
    step = OBLIQUE[:, 2] * 7.5
    centers = [CENTER + index * step for index in range(4)]
    heads = np.array([head_of(mrd.line(np.ones((1, 32)), position=tuple(c), **directions())) for c in centers])
    geometry = geometry_of(header, heads, (16, 15, 4))
    point = centers[2] + OBLIQUE @ (np.array([-5, 3, 0]) * SPACING)
    kspace = point_seen(point, centers[2], (32, 15, 1), sign)[None, ..., 0]
    lines = mrd.lines_of(kspace, position=tuple(centers[2]), **directions())
    made = Lines(np.array([head_of(line) for line in lines]), [line.data for line in lines])
    (scan,) = assemble("a.h5", header, made, ScanMeta("p7", "a.h5", slice=2, geometry=geometry))
    image = ifft2c(scan.kspace)[0].abs()
    row, column = divmod(int(image.argmax()), 15)
    assert position_in_nifti(scan.meta.geometry, (row, column, scan.meta.slice)) == pytest.approx(point, abs=1e-3)


@pytest.mark.parametrize(("partitions", "kept"), [(8, 8), (8, 5), (9, 6)])
@pytest.mark.parametrize(("vendor", "sign"), [(None, -1), ("SIEMENS", 1)])
def test_a_point_in_a_slab(mrd: Any, partitions: int, kept: int, vendor: str | None, sign: int) -> None:
    header = header_of(mrd, partitions, kept, vendor)
    point = CENTER + OBLIQUE @ (np.array([4, -2, 1]) * SPACING)
    kspace = point_seen(point, CENTER, (32, 15, partitions), sign)[None]
    lines = mrd.lines_of(kspace, position=tuple(CENTER), **directions())
    made = Lines(np.array([head_of(line) for line in lines]), [line.data for line in lines])
    geometry = geometry_of(header, made.heads[:1], (16, 15, kept))
    scans = assemble("a.h5", header, made, ScanMeta("p7", "a.h5", geometry=geometry))
    volume = np.stack([ifft2c(scan.kspace)[0].abs().numpy() for scan in scans], axis=-1)
    found = np.unravel_index(int(volume.argmax()), volume.shape)
    assert position_in_nifti(geometry, found) == pytest.approx(point, abs=1e-3)


def test_slices_are_ordered_along_their_direction() -> None:
    heads = np.zeros(4, HEAD)
    heads["slice_dir"] = (0, 0, -1)
    heads["position"][:, 2] = (5, 20, -3, 5)
    assert stack_order(heads).tolist() == [1, 0, 3, 2]
    heads["position"][0, 2] = np.nan
    assert stack_order(heads).tolist() == [0, 1, 2, 3]
    heads["slice_dir"], heads["position"] = 0, 0
    assert stack_order(heads).tolist() == [0, 1, 2, 3]


def test_a_single_slice_is_as_thick_as_its_field_of_view(mrd: Any) -> None:
    heads = np.array([head_of(mrd.line(np.ones((1, 32)), position=(0, 0, 9.0)))])
    geometry = geometry_of(header_of(mrd), heads, (16, 15, 1))
    assert geometry is not None
    np.testing.assert_allclose(geometry.affine, [[-5, 0, 0, 40], [0, -6, 0, 42], [0, 0, 4, 9], [0, 0, 0, 1]], atol=1e-6)


def test_slices_with_gaps_know_how_thick_they_are(mrd: Any) -> None:
    heads = np.array([head_of(mrd.line(np.ones((1, 32)), position=(0, 0, z))) for z in (0.0, 7.0, 14.0)])
    geometry = geometry_of(header_of(mrd), heads, (16, 15, 3))
    assert geometry is not None
    assert (geometry.affine[2][2], geometry.thickness) == (7, 4)
    slab = geometry_of(header_of(mrd, 8, 8), heads[:1], (16, 15, 8))
    assert slab is not None
    assert slab.thickness is None  # partitions lie as far apart as they are thick


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("read_dir", (0, 0, 0)),
        ("phase_dir", (1, 0, 0)),
        ("slice_dir", (np.nan, 0, 1)),
        ("position", (np.inf, 0, 0)),
        ("position", (0, 0, 4.0)),
    ],
)
def test_slices_that_do_not_stack_have_no_place(mrd: Any, name: str, value: tuple[float, ...]) -> None:
    places = [{"position": (0, 0, z)} for z in (0.0, 3.0, 6.0)]
    heads = np.array([head_of(mrd.line(np.ones((1, 32)), **place)) for place in places])
    assert geometry_of(header_of(mrd), heads, (16, 15, 3)) is not None
    heads[name][1] = value
    assert geometry_of(header_of(mrd), heads, (16, 15, 3)) is None
    heads[name] = value
    assert geometry_of(header_of(mrd), heads, (16, 15, 3)) is None


def test_several_slabs_have_no_place(mrd: Any) -> None:
    heads = np.array([head_of(mrd.line(np.ones((1, 32)), position=(0, 0, z))) for z in (0.0, 20.0)])
    assert geometry_of(header_of(mrd, 4, 4), heads, (16, 15, 8)) is None
