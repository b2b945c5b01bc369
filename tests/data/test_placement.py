from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sansref.data.placement import Orientation, placement_of, upright
from sansref.errors import FileError
from sansref.scan import Geometry

SOURCE = Path("a.nii")


def geometry_of(affine: Any, slice_axis: int) -> Geometry:
    return Geometry(tuple(tuple(float(value) for value in row) for row in np.asarray(affine)), slice_axis)


def rotation(turns: Any) -> Any:
    """A proper rotation from three angles."""
    a, b, c = turns
    around_z = [[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]
    around_y = [[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]]
    around_x = [[1, 0, 0], [0, np.cos(c), -np.sin(c)], [0, np.sin(c), np.cos(c)]]
    return np.array(around_z) @ around_y @ around_x


@given(
    turns=st.tuples(*[st.floats(-3, 3)] * 3),
    zooms=st.tuples(*[st.floats(0.3, 5)] * 3),
    slice_axis=st.integers(0, 2),
    index=st.tuples(*[st.integers(0, 20)] * 3),
)
def test_pixels_lie_where_the_affine_says(turns: Any, zooms: Any, slice_axis: int, index: Any) -> None:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = rotation(turns) * zooms, (7, -8, 9)
    place = placement_of(SOURCE, geometry_of(affine, slice_axis), None)
    order = [slice_axis, *(axis for axis in range(3) if axis != slice_axis)]
    voxel = np.zeros(3)
    voxel[order] = index
    expected = nibabel.affines.apply_affine(affine, voxel) * [-1, -1, 1]  # RAS+ to LPS+
    np.testing.assert_allclose(place.pixel(*index), expected, atol=1e-8)
    np.testing.assert_allclose(place.spacing, [zooms[order[1]], zooms[order[2]], zooms[order[0]]], rtol=1e-8)


@given(flips=st.tuples(*[st.booleans()] * 3), height=st.integers(1, 5), width=st.integers(1, 5))
def test_turned_pixels_stay_in_their_place(flips: tuple[bool, bool, bool], height: int, width: int) -> None:
    orientation = Orientation(*flips)
    place = placement_of(SOURCE, geometry_of(np.diag([1.0, 2, 3, 1]), 2), None)
    image = np.arange(height * width).reshape(height, width)
    turned = orientation.image(image)
    moved = orientation.placement(place, height, width)
    for row, column in np.ndindex(turned.shape):
        ((old_row, old_column),) = np.argwhere(image == turned[row, column])
        np.testing.assert_allclose(moved.pixel(3, row, column), place.pixel(3, old_row, old_column))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1), (-1, -1, -1)])
@pytest.mark.parametrize(
    ("across", "up", "left"),
    [(2, 1, 0), (1, 2, 0), (0, 2, 1)],  # Axial: anterior up, right on the left; coronal; sagittal: anterior left.
)
def test_upright_images_have_superior_or_anterior_up(
    order: tuple[int, ...], signs: tuple[int, ...], across: int, up: int, left: int
) -> None:
    """World coordinates as grey values, sampled through affines of every axis order and direction."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
        affine[world, axis] = sign
    slice_axis = order.index(across)
    voxels = np.stack(np.meshgrid(np.arange(5), np.arange(6), np.arange(7), indexing="ij"), axis=-1)
    world = nibabel.affines.apply_affine(affine, voxels).take(2, axis=slice_axis)
    for direction, axis in ((up, 0), (left, 1)):
        turned = upright(geometry_of(affine, slice_axis)).image(world[..., direction])
        assert (np.diff(turned, axis=axis) < 0).all()  # Right, anterior and superior are positive in RAS+.
        assert (np.diff(turned, axis=1 - axis) == 0).all()


def test_without_directions_nothing_is_turned() -> None:
    assert upright(None) == upright(geometry_of(np.diag([1.0, 0, 1, 1]), 0)) == Orientation()


def test_a_place_that_is_not_known_turns_no_picture() -> None:
    turned = geometry_of(np.diag([-1.0, -1.0, 1.0, 1.0]), 2)
    assert upright(turned) != Orientation()
    assert upright(replace(turned, known=False)) == Orientation()


def test_a_place_that_is_not_known_is_made_up_and_says_so() -> None:
    place = placement_of(SOURCE, None, (0.5, 0.75))
    assert (place.known, place.spacing) == (False, (0.5, 0.75, 1.0))
    np.testing.assert_array_equal(place.pixel(2, 1, 1), [0.75, 0.5, 2])
    assert placement_of(SOURCE, None, None).spacing == (1.0, 1.0, 1.0)
    assert placement_of(SOURCE, geometry_of(np.eye(4), 2), None).known


def test_rounded_affines_are_straightened() -> None:
    affine = np.diag([-0.5, 0.75, 2, 1])
    affine[1, 0] = 2e-4
    place = placement_of(SOURCE, geometry_of(affine, 2), None)
    assert place.down @ place.across == pytest.approx(0, abs=1e-16)
    assert place.spacing[0] == pytest.approx(0.5, rel=1e-6)


def test_affines_that_other_formats_cannot_say() -> None:
    sheared = np.diag([1.0, 1, 1, 1])
    sheared[0, 1] = 0.1
    assert placement_of(SOURCE, geometry_of(sheared, 1), None).known  # along the slices it is no trouble
    with pytest.raises(FileError, match=r"a\.nii: has an affine whose rows and columns are not at right angles.*nifti"):
        placement_of(SOURCE, geometry_of(sheared, 2), None)
    for affine in (np.diag([1.0, 0, 1, 1]), np.full((4, 4), np.nan)):
        with pytest.raises(FileError, match=r"a\.nii: has an affine that does not place its slices in space"):
            placement_of(SOURCE, geometry_of(affine, 2), None)


def test_small_voxels_have_a_place() -> None:
    """A micrometre is no reason to take a matrix for degenerate, nor does a metre make up for a flat one."""
    assert placement_of(SOURCE, geometry_of(np.diag([1e-3, 1e-3, 1e-3, 1]), 2), None).spacing == pytest.approx(
        [1e-3] * 3
    )
    flat = np.diag([1000.0, 1000, 1000, 1])
    flat[:3, 2] = flat[:3, 1]
    with pytest.raises(FileError, match="does not place its slices in space"):
        placement_of(SOURCE, geometry_of(flat, 2), None)


def test_a_geometry_may_say_that_its_place_is_made_up() -> None:
    geometry = replace(geometry_of(np.eye(4), 2), known=False)
    assert not placement_of(SOURCE, geometry, None).known
