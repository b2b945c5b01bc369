from __future__ import annotations

import gc
import gzip
import logging
import math
import os
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sansref.data.readers import open_scan_file
from sansref.data.readers.nifti import NiftiReader
from sansref.data.readers.subjects import contrast_of, subject_of
from sansref.errors import FileError
from sansref.outputs.writers import nifti_slices
from sansref.scan import Geometry

READER = NiftiReader()


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64, ">i2"])
def test_voxels_are_those_of_nibabel(make: Any, tmp_path: Path, name: str, version: int, dtype: Any) -> None:
    volume = (make.volume() % 256).astype(dtype)
    path = make.nifti(tmp_path / name, volume, version=version, scl_slope=0.3, scl_inter=7)
    expected = nibabel.load(path).get_fdata().astype(np.float32)
    slices = list(READER.read(path))
    assert len(slices) == 4
    for index, piece in enumerate(slices):
        assert piece.meta.slice == index
        assert piece.image.dtype == torch.float32
        assert piece.image.is_contiguous()
        assert np.array_equal(piece.image.numpy(), expected[..., index])


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((4, 6, 6), 0), ((6, 4, 6), 1), ((6, 6, 4), 2), ((5, 5, 5), 2), ((4, 4, 6), 1), ((4, 6, 4), 2), ((6, 6, 1), 2)],
)
def test_native_slices_are_cut_across_the_axis_with_fewest_samples(
    make: Any, tmp_path: Path, shape: tuple[int, int, int], axis: int
) -> None:
    volume = make.volume(shape)
    path = make.nifti(tmp_path / "a.nii.gz", volume)
    info = READER.describe(path)
    rows, columns = (other for other in range(3) if other != axis)
    assert (info.slices, info.height, info.width) == (shape[axis], shape[rows], shape[columns])
    assert info.spacing == (rows + 1.0, columns + 1.0)
    for piece in READER.read(path):
        assert np.array_equal(piece.image.numpy(), volume.take(piece.meta.slice, axis).astype(np.float32))
        assert piece.meta.spacing == info.spacing
        assert piece.meta.geometry is not None
        assert piece.meta.geometry.slice_axis == axis


@given(order=st.permutations(range(3)), signs=st.tuples(*[st.sampled_from([-1, 1])] * 3), tilt=st.floats(-0.5, 0.5))
@settings(max_examples=30, deadline=None)
def test_planes_follow_the_affine(
    make: Any, tmp_path_factory: pytest.TempPathFactory, order: list[int], signs: tuple[int, ...], tilt: float
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, order] * signs  # array axis k runs along patient axis order[k]
    turn = np.array([[math.cos(tilt), -math.sin(tilt), 0], [math.sin(tilt), math.cos(tilt), 0], [0, 0, 1]])
    affine[:3, :3] = turn @ affine[:3, :3]
    path = make.nifti(tmp_path_factory.getbasetemp() / "tilted.nii", make.volume(), affine)
    for patient_axis, plane in enumerate(("sagittal", "coronal", "axial")):
        geometry = next(NiftiReader(plane).read(path)).meta.geometry  # type: ignore[arg-type]
        assert geometry is not None
        assert geometry.slice_axis == order.index(patient_axis)
        assert f"({plane} plane)" in NiftiReader(plane).describe(path).notes[0]  # type: ignore[arg-type]


def test_description_and_meta(make: Any, tmp_path: Path) -> None:
    path = make.nifti(tmp_path / "sub-07_T1w.nii.gz", make.volume())
    info = READER.describe(path)
    assert (info.path, info.format, info.kind, info.coils) == (path, "NIfTI", "magnitude", 1)
    assert (info.subject, info.contrast, info.acquired_fraction) == ("sub-07", "T1w", None)
    assert info.notes == ("Slices are cut across array axis 2 (axial plane); their k-space is simulated.",)
    meta = next(READER.read(path)).meta
    assert (meta.subject, meta.source, meta.synthetic, meta.scale, meta.crop) == ("sub-07", str(path), True, 1.0, None)
    affine = ((1.0, 0.0, 0.0, 0.0), (0.0, 2.0, 0.0, 0.0), (0.0, 0.0, 3.0, 0.0), (0.0, 0.0, 0.0, 1.0))
    assert meta.geometry == Geometry(affine, 2, space=2)  # as nibabel writes it


def test_recognised_by_content_not_by_name(make: Any, tmp_path: Path) -> None:
    plain = make.nifti(tmp_path / "plain.nii", make.volume())
    for name, content in (("a.dat", plain.read_bytes()), ("b.nii", gzip.compress(plain.read_bytes()))):
        path = tmp_path / name
        path.write_bytes(content)
        assert len(list(open_scan_file(path).read(path))) == 4
    for name, content in (("c.nii", b"text " * 200), ("d.nii.gz", gzip.compress(b"text " * 200)), ("e.nii", b"n+1")):
        path = tmp_path / name
        path.write_bytes(content)
        assert not READER.recognises(path)
        with pytest.raises(FileError, match=r"is not single-file NIfTI. Give a .nii or .nii.gz file"):
            READER.describe(path)


@pytest.mark.parametrize(
    ("name", "subject", "contrast"),
    [
        ("IXI012-HH-1211-T1.nii.gz", "IXI012", "T1"),
        ("IXI002-Guys-0828-PD.nii.gz", "IXI002", "PD"),
        ("sub-01_T1w.nii.gz", "sub-01", "T1w"),
        ("sub-A1_ses-02_acq-highres_FLAIR.nii", "sub-A1", "FLAIR"),
        ("patient01_study2_T2W.nii.gz", "patient01", "T2W"),
        ("Subject-12_inplaneT2.nii", "Subject-12", "inplaneT2"),
        ("patient01b_T1.nii", "patient01b_T1", "T1"),
        ("knee.volume.nii", "knee.volume", None),
        ("brain", "brain", None),
        ("ds/sub-03/anat/T1w.nii.gz", "sub-03", "T1w"),
    ],
)
def test_names(name: str, subject: str, contrast: str | None) -> None:
    assert subject_of(Path(name)) == subject
    assert contrast_of(Path(name)) == contrast


def test_a_single_volume_in_four_dimensions(make: Any, tmp_path: Path) -> None:
    volume = make.volume((6, 5, 4, 1))
    slices = list(READER.read(make.nifti(tmp_path / "a.nii", volume)))
    assert np.array_equal(slices[3].image.numpy(), volume[:, :, 3, 0].astype(np.float32))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_slices_and_file_handles(make: Any, tmp_path: Path, name: str) -> None:
    path = make.nifti(tmp_path / name, make.volume())
    assert [piece.meta.slice for piece in READER.read(path, [3, 1])] == [3, 1]
    with pytest.raises(ValueError, match=r"slices must lie in 0..3, got \[4\]"):
        next(READER.read(path, [4]))

    def opened() -> int:
        links = Path("/proc/self/fd").iterdir()
        return sum(os.path.realpath(link) == str(path.resolve()) for link in links)

    slices = READER.read(path)
    kept = next(slices)
    assert opened() == 1
    del slices
    gc.collect()
    assert opened() == 0
    assert kept.image.sum() > 0
    READER.describe(path)
    assert opened() == 0


def test_undershoot_is_set_to_zero_and_logged(make: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    volume = make.volume().astype(np.float32)
    volume[0, 0, 0] = -0.04 * volume.max()
    path = make.nifti(tmp_path / "a.nii", volume)
    with caplog.at_level(logging.WARNING):
        slices = list(READER.read(path))
    assert slices[0].image[0, 0] == 0
    assert np.array_equal(slices[0].image.numpy(), volume[..., 0].clip(min=0))
    assert "are set to 0 (undershoot of an interpolation)" in caplog.text


def test_empty_slices_of_a_volume_are_given(make: Any, tmp_path: Path) -> None:
    volume = make.volume()
    volume[..., 0] = 0
    slices = list(READER.read(make.nifti(tmp_path / "a.nii.gz", volume)))
    assert not slices[0].image.any()
    assert slices[1].image.any()


def with_value(make: Any, value: float) -> Any:
    volume = make.volume().astype(np.float64)
    volume[1, 2, 3] = value
    return volume


WRONG: dict[str, tuple[Any, str]] = {
    "NaN": (lambda make: {"volume": with_value(make, np.nan)}, "holds NaN or infinite values"),
    "infinite": (lambda make: {"volume": with_value(make, -np.inf)}, "holds NaN or infinite values"),
    "too large": (lambda make: {"volume": with_value(make, 1e300)}, "holds NaN or infinite values"),
    "negative": (
        lambda make: {"volume": with_value(make, -500.0)},
        r"negative values \(down to -500, the largest is 99",
    ),
    "turned": (lambda make: {"volume": make.volume(), "scl_slope": -1}, "holds negative values"),
    "zero": (lambda make: {"volume": make.volume() * 0}, "holds only zeros"),
    "several": (
        lambda make: {"volume": make.volume((6, 5, 4, 2))},
        r"\(6, 5, 4, 2\): several volumes in one file. Split",
    ),
    "flat": (lambda make: {"volume": make.volume((6, 5))}, r"shape \(6, 5\), which is not a 3-D volume"),
    "complex": (lambda make: {"volume": make.volume() * np.complex64(1j)}, "holds complex64 voxels, not magnitudes"),
    "no size": (lambda make: {"volume": make.volume(), "dim": [3, 6, -5, 4, 1, 1, 1, 1]}, "which is not a 3-D volume"),
    "too big": (
        lambda make: {"volume": make.volume(), "dim": [3, 9999, 9999, 9, 1, 1, 1, 1]},
        "declares 1799640018 bytes",
    ),
    "dimensions": (
        lambda make: {"volume": make.volume(), "dim": [0, 6, 5, 4, 1, 1, 1, 1]},
        r"0 dimensions in dim\[0\]",
    ),
    "more dimensions": (lambda make: {"volume": make.volume(), "dim": [8, 6, 5, 4, 1, 1, 1, 1]}, "8 dimensions"),
    "colours": (lambda make: {"volume": make.volume(), "datatype": 128}, "holds colours voxels, not magnitudes"),
    "metres": (
        lambda make: {"volume": make.volume(), "xyzt_units": 1},
        r"has voxels of 1000 x 2000 x 3000 mm by its units, metres \(xyzt_units\). Correct its units",
    ),
    "data type": (lambda make: {"volume": make.volume(), "datatype": 77}, "cannot be read as NIfTI"),
    "intercept": (lambda make: {"volume": make.volume(), "scl_slope": 1, "scl_inter": np.nan}, "invalid intercept nan"),
}


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_used_is_named_in_one_line(make: Any, tmp_path: Path, case: str, name: str) -> None:
    change, message = WRONG[case]
    path = make.nifti(tmp_path / name, **change(make))
    with make.refused(path, message):
        list(open_scan_file(path).read(path))


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1e-3), ("micron", 1e3), ("mm", 1.0), ("unknown", 1.0)])
@pytest.mark.parametrize("code", ["sform", "qform", "neither"])
@pytest.mark.parametrize("time", ["sec", "msec", "unknown"])
def test_lengths_are_in_the_units_of_the_header(
    make: Any, tmp_path: Path, unit: str, factor: float, code: str, time: str
) -> None:
    """Voxels of a tenth of a millimetre; the bits of the unit of time beside them change nothing."""
    affine = np.diag([0.1, 0.2, 0.3, 1.0])
    affine[:3, 3] = [-1, 2, 3]
    image = nibabel.Nifti1Image(make.volume(), None)
    image.header.set_zooms(np.array([0.1, 0.2, 0.3]) * factor)
    scaled = np.diag([factor, factor, factor, 1]) @ affine
    image.set_sform(scaled, int(code == "sform"))
    image.set_qform(scaled, int(code == "qform"))
    image.header.set_xyzt_units(unit, time)
    nibabel.save(image, tmp_path / "a.nii")
    info = READER.describe(tmp_path / "a.nii")
    geometry = next(READER.read(tmp_path / "a.nii")).meta.geometry
    assert geometry is not None
    assert info.spacing == pytest.approx((0.1, 0.2), rel=1e-6)
    found = np.array(geometry.affine)
    np.testing.assert_allclose(np.abs(np.diag(found)), [0.1, 0.2, 0.3, 1], rtol=1e-6)
    if code != "neither":
        np.testing.assert_allclose(found, affine, rtol=1e-6, atol=1e-9)
    assert any("gives lengths in" in note for note in info.notes) == (factor != 1)
    assert geometry.known == (code != "neither")


@pytest.mark.parametrize(("fields", "space"), [({"sform_code": 4}, 4), ({"sform_code": 9}, 1)])
@pytest.mark.parametrize("form", ["sform", "qform"])
def test_images_lie_in_the_space_of_their_source(
    make: Any, tmp_path: Path, fields: dict[str, int], space: int, form: str
) -> None:
    codes = fields if form == "sform" else {"sform_code": 0, "qform_code": fields["sform_code"]}
    (piece, *_) = READER.read(make.nifti(tmp_path / "a.nii", make.volume(), **codes))
    assert piece.meta.geometry is not None
    assert (piece.meta.geometry.known, piece.meta.geometry.space) == (True, space)


FLAT = {"srow_x": [0, 0, 0, 0], "srow_y": [0, 0, 0, 0], "srow_z": [0, 0, 0, 0]}
ROTATED = {"qform_code": 1, "quatern_d": 1.0, "qoffset_x": 7.0}
"""Half a turn about the patient's axis."""


@pytest.mark.parametrize("broken", [FLAT, {"srow_y": [np.nan] * 4}, {"srow_x": [1, 1, 0, 0], "srow_y": [1, 1, 0, 0]}])
@pytest.mark.parametrize(
    ("fields", "diagonal", "note"),
    [
        (ROTATED, (-1, -2, 3), "Its sform cannot be used."),
        ({**ROTATED, "pixdim": [0, -1, 2, -3, 1, 1, 1, 1]}, (-1, -2, 3), "Its sform cannot be used."),
        ({**ROTATED, "pixdim": [-1, 1, 2, 3, 1, 1, 1, 1]}, (-1, -2, -3), "Its sform cannot be used."),
        ({**ROTATED, "quatern_d": 5.0}, (-1, 2, 3), "Its qform cannot be used."),
        ({"qform_code": 0}, (-1, 2, 3), "its place is made up."),
        ({"qform_code": 0, "pixdim": [1, 0, np.nan, 3, 1, 1, 1, 1]}, (-1, 1, 3), "1 is taken."),
    ],
)
def test_what_cannot_place_a_volume_gives_way_to_what_can(
    make: Any, tmp_path: Path, broken: Any, fields: Any, diagonal: Any, note: str
) -> None:
    path = make.nifti(tmp_path / "a.nii", make.volume(), **broken, **fields)
    info, pieces = READER.describe(path), list(READER.read(path))
    geometry = pieces[0].meta.geometry
    assert geometry is not None
    assert np.diag(np.array(geometry.affine))[:3] == pytest.approx(diagonal)
    assert geometry.known == (diagonal[0] == -1 and diagonal[1] == -2)
    assert any(note in said for said in info.notes)
    with nifti_slices(tmp_path / "out.nii", (4, 6, 5), geometry, info.spacing) as put:
        for piece in pieces:
            put(piece.meta.slice, piece.image)
    written = nibabel.load(tmp_path / "out.nii")
    assert written.header.get_zooms() == pytest.approx(np.abs(diagonal))
    assert (int(written.header["sform_code"]) > 0) == geometry.known


def test_voxels_begin_where_the_length_says_if_the_header_says_nothing(make: Any, tmp_path: Path) -> None:
    volume = make.volume()
    path = make.nifti(tmp_path / "a.nii", volume)
    content = path.read_bytes()
    extension = b"\1\0\0\0" + (32).to_bytes(4, "little") + (6).to_bytes(4, "little") + b"a comment" + bytes(15)
    voxels = content[352:]
    behind = {352: bytes(4), 348: b"", 384: extension}
    for name in ("a.nii", "a.nii.gz"):
        path = tmp_path / name
        for said in (0.0, 16.0, 348.0, -1.0, np.nan, np.inf, 352.5, 352.0):
            for begin, between in behind.items():
                if said == 352 and begin == 348:
                    continue  # truncated
                changed = content[:108] + np.float32(said).tobytes() + content[112:348] + between + voxels
                path.write_bytes(gzip.compress(changed) if name.endswith("gz") else changed)
                found = np.stack([piece.image.numpy() for piece in READER.read(path)], axis=-1)
                assert np.array_equal(found, volume.astype(np.float32)), (name, said, begin)
            if said != 352:
                changed += bytes(5)
                path.write_bytes(gzip.compress(changed) if name.endswith("gz") else changed)
                with pytest.raises(FileError, match=r"does not say where its voxels begin \(vox_offset .*nor does its"):
                    READER.describe(path)


def test_sizes_of_zero_behind_the_third_and_bytes_behind_the_voxels(make: Any, tmp_path: Path) -> None:
    path = make.nifti(tmp_path / "a.nii", make.volume(), dim=[4, 6, 5, 4, 0, 0, 0, 0])
    assert READER.describe(path).slices == 4
    path = make.nifti(tmp_path / "a.nii", make.volume((6, 5, 4, 2)), dim=[3, 6, 5, 4, 2, 1, 1, 1])
    assert "240 bytes behind its voxels are not read." in READER.describe(path).notes
    assert np.array_equal(list(READER.read(path))[3].image.numpy(), make.volume((6, 5, 4, 2))[:, :, 3, 0])


@pytest.mark.parametrize("slope", [0.0, np.nan, np.inf])
def test_slopes_that_are_none_leave_the_stored_values(make: Any, tmp_path: Path, slope: float) -> None:
    path = make.nifti(tmp_path / "a.nii", make.volume(), scl_slope=slope, scl_inter=5)
    assert np.array_equal(list(READER.read(path))[1].image.numpy(), make.volume()[..., 1].astype(np.float32))


def test_pairs_and_analyze_are_called_so(make: Any, tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Pair(make.volume(), np.eye(4)), tmp_path / "pair.img")
    nibabel.save(nibabel.AnalyzeImage(make.volume(), np.eye(4)), tmp_path / "old.img")
    for name, message in (
        ("pair", r"one half of a NIfTI pair \(.hdr and .img\)"),
        ("old", "is Analyze 7.5, which does"),
    ):
        for ending in (".hdr", ".img"):
            path = tmp_path / f"{name}{ending}"
            with make.refused(path, message):
                open_scan_file(path).describe(path)


# Memory


def test_a_large_volume_is_read_by_the_slice_or_refused(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The zeros of 2 MB of gzip make 2 GB; what they decompress to is compared with the memory that is free."""
    volume = np.zeros((256, 320, 512), np.int16)
    volume[5, 6, 7] = 9
    plain, small = make.nifti(tmp_path / "a.nii", volume), make.nifti(tmp_path / "b.nii.gz", volume)
    for path in (plain, small):
        with make.memory_below(int(1.2 * volume.nbytes)):
            assert sum(float(piece.image.sum()) for piece in READER.read(path)) == 9
    monkeypatch.setattr("sansref.data.readers.nifti.available_memory", lambda: volume.nbytes)
    for plane, index in (("native", 5), ("sagittal", 5), ("coronal", 6), ("axial", 7)):
        with make.memory_below(1 << 26):
            (piece,) = NiftiReader(plane).read(plain, [index])  # type: ignore[arg-type]
            assert piece.image.sum() == 9
    monkeypatch.setattr("sansref.data.readers.array_slices.available_memory", lambda: volume.nbytes - 1)
    with make.refused(small, r"holds an array of 0.1 GB, read as a whole.*Decompress it: a plain .nii is read slice"):
        next(open_scan_file(small).read(small))


def test_what_goes_on_long_after_the_voxels_is_not_decompressed(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sansref.data.readers.nifti.MOST_BEHIND", 1 << 20)
    path = make.nifti(tmp_path / "a.nii.gz", make.volume())
    path.write_bytes(path.read_bytes() + gzip.compress(bytes(1 << 20)))
    assert len(list(READER.read(path))) == 4
    path.write_bytes(path.read_bytes() + gzip.compress(bytes(1 << 23)))
    with make.refused(path, "it goes on long after its voxels"):
        list(READER.read(path))


def test_memory_that_runs_out_is_no_damage(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make.nifti(tmp_path / "a.nii.gz", make.volume())

    def refuse(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr("sansref.data.readers.nifti.np.empty", refuse)
    with make.refused(path, r"needs more memory to be read than is free. Close other programs"):
        list(READER.read(path))
    monkeypatch.undo()
    monkeypatch.setattr("sansref.data.readers.nifti._check_magnitude", refuse)
    with make.refused(path, "needs more memory to be read than is free"):
        list(open_scan_file(path).read(path))


def test_a_plane_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="plane must be native, sagittal, coronal or axial, got 'oblique'"):
        NiftiReader("oblique")  # type: ignore[arg-type]


def test_truncation_and_damage(make: Any, tmp_path: Path) -> None:
    path = make.nifti(tmp_path / "a.nii", make.volume())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FileError, match="is truncated: it has 591 bytes, its header promises 592"):
        READER.describe(path)
    path = make.nifti(tmp_path / "b.nii.gz", make.volume())
    content = path.read_bytes()
    for kept in (5, 60, len(content) - 20, len(content) - 1):
        path.write_bytes(content[:kept])
        with pytest.raises(FileError, match="cannot be read as NIfTI; it is truncated or damaged"):
            list(open_scan_file(path).read(path))
    changed = bytearray(content)
    changed[-6] ^= 1  # one bit of the checksum
    path.write_bytes(changed)
    with pytest.raises(FileError, match="CRC check failed"):
        list(READER.read(path))


@settings(max_examples=150, deadline=None)
@given(data=st.data(), name=st.sampled_from(["a.nii", "a.nii.gz"]), version=st.sampled_from([1, 2]))
def test_damage_gives_a_file_error_or_valid_slices(
    make: Any, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, name: str, version: int
) -> None:
    path = make.nifti(tmp_path_factory.getbasetemp() / name, make.volume(), version=version)
    content = path.read_bytes()
    path.write_bytes(make.damaged(data, content, st.integers(0, len(content) - 1)))
    make.read_or_refuse(path, NiftiReader(data.draw(st.sampled_from(["native", "sagittal"]))))
