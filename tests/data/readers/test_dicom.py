from __future__ import annotations

import builtins
import os
import shutil
from pathlib import Path
from typing import Any

import highdicom
import nibabel
import numpy as np
import pydicom
import pydicom.data
import pytest

from sansref.data.prepare import Preparation
from sansref.data.readers import ReaderOptions, find_files, open_scan_file, scan_folder
from sansref.data.readers.dicom import DicomReader
from sansref.errors import FileError, SettingError
from sansref.outputs.writers import nifti_slices

READER = DicomReader()
REAL = Path(pydicom.data.__file__).parent / "test_files"
AXES = {
    "axial": (1, 0, 0, 0, 1, 0),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "coronal": (1, 0, 0, 0, 0, -1),
}


def read(path: Path) -> Any:
    """All slices, (slices, rows, columns)."""
    return np.stack([piece.image.numpy() for piece in READER.read(path)])


def world(geometry: Any, shape: Any) -> Any:
    """Patient coordinates (LPS) of all voxels (slices, rows, columns)."""
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)[..., [1, 2, 0]]
    return nibabel.affines.apply_affine(np.array(geometry.affine), grid) * [-1, -1, 1]


@pytest.mark.parametrize("orientation", [*AXES.values(), None])
@pytest.mark.parametrize("step", [4.0, -4.0])
def test_every_value_lies_where_highdicom_puts_it(dicom: Any, tmp_path: Path, orientation: Any, step: float) -> None:
    volume = dicom.volume()
    images = dicom.series(volume, orientation or dicom.oblique, step=step, RescaleSlope="0.25", RescaleIntercept="3")
    paths = dicom.save(tmp_path, images)
    truth = highdicom.get_volume_from_series(images)
    expected = truth.map_indices_to_reference(np.argwhere(np.ones(truth.array.shape)))
    found = read(paths[2])
    places = world(next(READER.read(paths[2])).meta.geometry, found.shape).reshape(-1, 3)
    # Every voxel has its own value, so that sorting brings the same voxels together.
    order, true_order = np.argsort(found, axis=None), np.argsort(truth.array, axis=None)
    np.testing.assert_allclose(found.ravel()[order], truth.array.ravel()[true_order], rtol=1e-6)
    np.testing.assert_allclose(places[order], expected[true_order], atol=1e-4)


def test_nifti_of_a_series_lies_where_the_series_does(dicom: Any, tmp_path: Path) -> None:
    volume = dicom.volume()
    images = dicom.series(volume)
    (first, *_) = dicom.save(tmp_path / "series", images)
    pieces = list(READER.read(first))
    with nifti_slices(tmp_path / "a.nii", volume.shape, pieces[0].meta.geometry) as put:
        for piece in pieces:
            put(piece.meta.slice, piece.image)
    written = nibabel.load(tmp_path / "a.nii")
    truth = highdicom.get_volume_from_series(images)
    for index in np.ndindex(written.shape):
        place = nibabel.affines.apply_affine(written.affine, index) * [-1, -1, 1]
        voxel = np.rint(truth.map_reference_to_indices(place[None])).astype(int)[0]
        assert truth.array[tuple(voxel)] == written.get_fdata()[index]
    assert written.header.get_zooms() == pytest.approx((0.5, 0.75, 4.0))


def test_description_and_meta(dicom: Any, tmp_path: Path) -> None:
    paths = dicom.save(tmp_path, dicom.series(dicom.volume(), AXES["sagittal"]))
    info = open_scan_file(paths[0]).describe(paths[0])
    assert (info.path, info.format, info.kind, info.coils) == (paths[0], "DICOM", "magnitude", 1)
    assert (info.slices, info.height, info.width, info.spacing) == (5, 6, 8, (0.5, 0.75))
    assert (info.subject, info.contrast, info.acquired_fraction) == ("P-17", "T2w TSE", None)
    assert info.notes == ("The slices are sagittal ones, in 5 file(s); their k-space is simulated.",)
    (meta,) = (piece.meta for piece in READER.read(paths[0], [3]))
    assert (meta.subject, meta.source, meta.slice, meta.synthetic) == ("P-17", str(paths[0]), 3, True)
    scans = list(Preparation().scans(paths[0]))
    assert len(scans) == 5
    assert all(scan.meta.synthetic and scan.meta.emulated for scan in scans)
    with pytest.raises(ValueError, match=r"slices must lie in 0..4, got \[5\]"):
        next(READER.read(paths[0], [5]))


def test_people_without_an_id_are_told_apart_by_their_study(dicom: Any, tmp_path: Path) -> None:
    (path, *_) = dicom.save(tmp_path, dicom.series(dicom.volume(), PatientID="", SeriesDescription=None))
    info = READER.describe(path)
    assert (info.subject, info.contrast) == ("1.2.3", "protocol")
    assert "It has no PatientID: its study counts as one person." in info.notes
    assert "Doe" not in str(info)


def test_only_the_plane_of_the_series_can_be_had(dicom: Any, tmp_path: Path) -> None:
    (path, *_) = dicom.save(tmp_path, dicom.series(dicom.volume(), AXES["coronal"]))
    assert open_scan_file(path, ReaderOptions("coronal")).describe(path).slices == 5
    with pytest.raises(FileError, match=r"is a DICOM series of coronal slices, not of axial ones\. Use --plane native"):
        open_scan_file(path, ReaderOptions("axial")).describe(path)


# What belongs together


def test_a_folder_lists_each_volume_once(dicom: Any, tmp_path: Path) -> None:
    """Two series, one with two echoes, a localizer in three planes, and files that are no volume."""
    dicom.save(tmp_path / "disc", dicom.series(dicom.volume()), "A{:03d}.dcm")
    for echo in (20.0, 90.0):
        images = dicom.series(dicom.volume(), SeriesInstanceUID="1.2.9", EchoTime=echo)
        dicom.save(tmp_path / "disc", images, "B{:03d}" + f"-{echo:.0f}")
    for plane, orientation in AXES.items():
        images = dicom.series(dicom.volume(), orientation, SeriesInstanceUID="1.2.8")
        dicom.save(tmp_path / "disc" / "localizer", images, plane + "{}")
    dicom.enhanced(dicom.series(dicom.volume())).save_as(tmp_path / "disc" / "enhanced", enforce_file_format=True)
    shutil.copy(REAL / "dicomdirtests" / "DICOMDIR", tmp_path / "disc")
    (tmp_path / "disc" / ".hidden").write_bytes((tmp_path / "disc" / "A000.dcm").read_bytes())
    names = [str(path.relative_to(tmp_path / "disc")) for path in find_files(tmp_path)]
    places = ["localizer/axial0", "localizer/coronal0", "localizer/sagittal0"]
    assert names == ["A000.dcm", "B000-20", "B000-90", "enhanced", *places]
    infos, problems = scan_folder(tmp_path)
    assert [info.slices for info in infos] == [5] * 7
    assert not problems


def test_volumes_of_one_series_in_real_files() -> None:
    """Pilot scans in three planes, as a scanner wrote them: each image is a volume of its own."""
    folder = REAL / "dicomdirtests" / "98892003"
    infos, problems = scan_folder(folder / "MR2")
    assert not problems
    assert sum(info.slices for info in infos) == len(list((folder / "MR2").iterdir()))
    for info in infos:
        (piece,) = READER.read(info.path)
        truth = pydicom.dcmread(info.path)
        assert np.array_equal(piece.image.numpy(), truth.pixel_array)
        assert (info.subject, info.contrast) == (truth.PatientID, truth.SeriesDescription)


@pytest.mark.parametrize(
    "name", ["MR_small", "MR_small_RLE", "MR_small_jpeg_ls_lossless", "MR_small_bigendian", "MR_small_implicit"]
)
def test_transfer_syntaxes_of_real_files(tmp_path: Path, name: str) -> None:
    shutil.copy(REAL / f"{name}.dcm", tmp_path)
    (piece,) = READER.read(tmp_path / f"{name}.dcm")
    assert np.array_equal(piece.image.numpy(), pydicom.dcmread(REAL / "MR_small.dcm").pixel_array)
    assert piece.meta.geometry.affine[2] == pytest.approx((0, 0, 0.8, 6.6406))


def test_folders_are_indexed_once_and_again_when_they_change(
    dicom: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sansref.data.readers import dicom as readers

    reads: list[Path] = []
    original = readers.frames_of
    monkeypatch.setattr(readers, "frames_of", lambda path: reads.append(path) or original(path))
    images = dicom.series(dicom.volume())
    paths = dicom.save(tmp_path, images[:4])
    for _ in range(3):
        assert READER.describe(find_files(tmp_path)[0]).slices == 4
    assert len(reads) == 4 + 3
    images[4].save_as(tmp_path / "IM0009", enforce_file_format=True)
    assert READER.describe(paths[0]).slices == 5


def turned(cosine: float) -> list[str]:
    return ["1", "0", "0", "0", f"{cosine:.7f}", f"{np.sqrt(1 - cosine * cosine):.7f}"]


ROUNDED: dict[str, tuple[Any, Any]] = {
    # 0.9995 is where rounding to three digits goes up or down.
    "orientation": (
        {"ImageOrientationPatient": turned(0.9995 + 1e-6)},
        {"ImageOrientationPatient": turned(0.9995 - 1e-6)},
    ),
    "signs": ({"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}, {"ImageOrientationPatient": [1, 0, -0.0, 0, 1, -1e-5]}),
    "spacing": ({"PixelSpacing": ["0.9375", "0.9375"]}, {"PixelSpacing": ["0.93750001", "0.938"]}),
    "echo time": ({"EchoTime": "4.6"}, {"EchoTime": "4.60"}),
    "rounded echo time": ({"EchoTime": "4.6"}, {"EchoTime": "4.6000001"}),
    "image type": (
        {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"]},
        {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", ""]},
    ),
    "b-value": ({"DiffusionBValue": 1000.0}, {"DiffusionBValue": 999.99999}),
}


@pytest.mark.parametrize("kind", ROUNDED)
@pytest.mark.parametrize("order", ["halves", "alternating"])
def test_rounding_does_not_split_a_volume(dicom: Any, tmp_path: Path, kind: str, order: str) -> None:
    """Of a volume of six slices, some say the same in other digits."""
    volume = dicom.volume((6, 6, 8))
    orientation = tuple(map(float, turned(0.9995))) if kind == "orientation" else AXES["axial"]
    images = dicom.series(volume, orientation)
    for number, made in enumerate(images):
        for keyword, value in ROUNDED[kind][number // 3 if order == "halves" else number % 2].items():
            setattr(made, keyword, value)
    paths = dicom.save(tmp_path / "classic", images)
    assert [READER.describe(path).slices for path in find_files(tmp_path / "classic")] == [6]
    for path in paths:
        assert np.array_equal(read(path), volume)
    geometry = next(READER.read(paths[0])).meta.geometry
    assert geometry is not None
    assert np.linalg.norm(np.array(geometry.affine)[:3, 2]) == pytest.approx(4, rel=1e-4)
    hidden = tmp_path / "classic" / ".hidden"
    paths[5].rename(hidden)
    assert READER.describe(hidden).slices == 6


@pytest.mark.parametrize(
    ("keyword", "values"),
    [
        ("EchoTime", ("4.6", "4.7")),
        ("EchoTime", ("4.6", None)),
        ("DiffusionBValue", (0.0, 5.0)),
        ("PixelSpacing", ([0.5, 0.75], [0.5, 0.76])),
    ],
)
def test_what_differs_by_more_than_rounding_is_two_volumes(
    dicom: Any, tmp_path: Path, keyword: str, values: Any
) -> None:
    for number, value in enumerate(values):
        images = dicom.series(dicom.volume(), **{keyword: value})
        dicom.save(tmp_path, images, f"{number}-" + "{}")
    assert [READER.describe(path).slices for path in find_files(tmp_path)] == [5, 5]


# Multi-frame files


def test_an_enhanced_file_is_the_series(dicom: Any, tmp_path: Path) -> None:
    images = dicom.series(dicom.volume(), RescaleSlope="0.5", RescaleIntercept="2")
    (path, *_) = dicom.save(tmp_path / "classic", images)
    one = tmp_path / "one.dcm"
    dicom.enhanced([images[k] for k in (3, 0, 4, 1, 2)]).save_as(one, enforce_file_format=True)
    assert np.array_equal(read(one), read(path))
    first, second = next(READER.read(path)).meta, next(READER.read(one)).meta
    assert first.geometry == second.geometry
    assert READER.describe(one).slices == 5
    assert [piece.meta.slice for piece in READER.read(one, [3, 1])] == [3, 1]
    assert np.array_equal(next(READER.read(one, [3])).image.numpy(), read(path)[3])


def test_a_converted_enhanced_file_of_highdicom(dicom: Any, tmp_path: Path) -> None:
    fields = {"PatientBirthDate": "", "PatientSex": "", "AccessionNumber": "", "StudyID": "", "StudyTime": "120000"}
    images = dicom.series(dicom.volume(), ReferringPhysicianName="", PositionReferenceIndicator="", **fields)
    (path, *_) = dicom.save(tmp_path / "classic", images)
    images = [pydicom.dcmread(path) for path in sorted((tmp_path / "classic").iterdir())]
    made = highdicom.legacy.LegacyConvertedEnhancedMRImage(images, highdicom.UID(), 1, highdicom.UID(), 1)
    made.save_as(tmp_path / "one.dcm")
    assert np.array_equal(read(tmp_path / "one.dcm"), read(path))
    geometry = next(READER.read(tmp_path / "one.dcm")).meta.geometry
    assert geometry == next(READER.read(path)).meta.geometry


# Pixels


def test_padding_and_undershoot_are_zero(dicom: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    volume = dicom.volume()
    volume[:, 0], volume[0, 1, 0] = 65000, 0
    (path, *_) = dicom.save(tmp_path, dicom.series(volume, PixelPaddingValue=65000, RescaleIntercept="-1"))
    found = read(path)
    assert not found[:, 0].any()
    assert found[0, 1, 0] == 0
    assert np.array_equal(found[1:, 1:], volume[1:, 1:] - 1.0)
    assert "values down to -1 are set to 0" in caplog.text


BITS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    # Name: stored values of padding, those of a slice beside it, and what the header says.
    "signed": (-2000, 5, {"PixelRepresentation": 1, "PixelPaddingValue": -2000}),
    "signed without its sign": (-100, 5, {"PixelRepresentation": 1, "PixelPaddingValue": 65436}),
    "12 bits": (0xF38, 5, {"PixelRepresentation": 1, "BitsStored": 12, "HighBit": 11, "PixelPaddingValue": -200}),
    "12 bits as they are": (
        0xF38,
        5,
        {"PixelRepresentation": 1, "BitsStored": 12, "HighBit": 11, "PixelPaddingValue": 0xF38},
    ),
    "range": (60005, 59999, {"PixelPaddingValue": 60000, "PixelPaddingRangeLimit": 60010}),
    "range downwards": (-5, 5, {"PixelRepresentation": 1, "PixelPaddingValue": -1, "PixelPaddingRangeLimit": -9}),
    "range without signs": (
        -5,
        5,
        {"PixelRepresentation": 1, "PixelPaddingValue": 65535, "PixelPaddingRangeLimit": 65527},
    ),
}


@pytest.mark.parametrize("case", BITS)
@pytest.mark.parametrize("implicit", [False, True])
def test_padding_as_pixels_have_it(dicom: Any, tmp_path: Path, case: str, implicit: bool) -> None:
    """In files that leave open whether a number has a sign, that of the pixels decides."""
    outside, inside, fields = BITS[case]
    volume = dicom.volume().astype(np.int64)
    wanted = volume.copy()
    volume[:, 0], wanted[:, 0] = outside, 0
    volume[:, 1], wanted[:, 1] = inside, inside
    for made, pixels in zip(images := dicom.series(volume), volume, strict=True):
        made.PixelData = (pixels & 0xFFFF).astype("<u2").tobytes()
        for keyword, value in fields.items():
            if keyword.startswith("PixelPadding"):
                made.add_new(keyword, "SS" if value < 0 else "US", value)
            else:
                setattr(made, keyword, value)
        if implicit:
            made.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    (path, *_) = dicom.save(tmp_path, images)
    assert np.array_equal(read(path), wanted)


def test_padding_that_no_pixel_has_is_none(dicom: Any, tmp_path: Path) -> None:
    volume = dicom.volume()
    (path, *_) = dicom.save(tmp_path, dicom.series(volume, BitsStored=12, HighBit=11, PixelPaddingValue=63536))
    assert np.array_equal(read(path), volume)


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize(("first", "signed"), [(0, False), (2, False), (-3, True)])
def test_values_by_a_lookup_table(dicom: Any, tmp_path: Path, implicit: bool, first: int, signed: bool) -> None:
    """Stored values before the first and after the last of the table are those of its ends."""
    volume = dicom.volume()
    entries = np.random.default_rng(1).permutation(200).astype(np.uint16)
    wanted = entries[np.clip(volume.astype(int) - first, 0, 199)]
    table = pydicom.Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [200, first, 16], "US"
    table.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    table["LUTDescriptor"].VR = "SS" if signed else "US"
    images = dicom.series(volume, ModalityLUTSequence=[table], PixelRepresentation=int(signed), RescaleSlope="7")
    for made in images:
        if implicit:
            made.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    (path, *_) = dicom.save(tmp_path, images)
    assert np.array_equal(read(path), wanted)
    table.add_new("LUTData", "OW", bytes(100))
    (path, *_) = dicom.save(tmp_path, images)
    with pytest.raises(FileError, match="its lookup table is shorter than it says"):
        read(path)


def test_a_data_set_without_the_header_of_a_file_is_called_so(dicom: Any, tmp_path: Path) -> None:
    (path, *_) = dicom.save(tmp_path / "files", dicom.series(dicom.volume((1, 6, 8))))
    whole = path.read_bytes()
    image = pydicom.dcmread(path)
    for name, implicit in (("explicit", False), ("implicit", True)):
        image.file_meta = pydicom.dataset.FileMetaDataset()
        image.preamble = None
        image.save_as(tmp_path / name, implicit_vr=implicit, little_endian=True)
    (tmp_path / "no preamble").write_bytes(whole[132:])
    for name in ("explicit", "implicit", "no preamble"):
        with pytest.raises(FileError, match=r"is DICOM without the header of a file.*dcmconv"):
            open_scan_file(tmp_path / name).describe(tmp_path / name)


def test_one_slice_is_in_memory_at_a_time(make: Any, dicom: Any, tmp_path: Path) -> None:
    volume = np.ones((40, 256, 256), dtype=np.uint16)
    (path, *_) = dicom.save(tmp_path, dicom.series(volume))
    for source in (path, tmp_path / "enhanced"):
        if source.name == "enhanced":
            dicom.enhanced(dicom.series(volume)).save_as(source, enforce_file_format=True)
        with make.memory_below(volume.nbytes):
            for _ in READER.read(source):
                pass


# What cannot be used


def broken(dicom: Any, name: str) -> Any:
    images = dicom.series(dicom.volume())
    if name == "frames":
        for made in images:
            made.PixelData = 5 * made.PixelData
    if name == "hole":
        del images[2]
    elif name == "fine":  # a hole in a stack of slices that are thinner than what millimetres allow
        first, second = (np.array(image.ImagePositionPatient, dtype=float) for image in images[:2])
        for number, image in enumerate(images):
            place = first + (number + (number > 2)) * 0.0375 * (second - first)
            image.ImagePositionPatient = [f"{value:.5f}" for value in place]
    elif name == "end":  # one slice out of the row
        images[4].ImagePositionPatient = [-40, -60, 90]
    elif name == "twice":
        images[3].ImagePositionPatient = images[2].ImagePositionPatient
    else:
        changes: dict[str, dict[str, Any]] = {
            "ct": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"},
            "colour": {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"},
            "inverse": {"PhotometricInterpretation": "MONOCHROME1"},
            "frames": {"NumberOfFrames": 5},
            "high bit": {"BitsStored": 12},
            "bits": {"BitsAllocated": 64},
            "phase": {"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]},
            "mosaic": {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]},
            "no place": {"ImagePositionPatient": None},
            "no direction": {"ImageOrientationPatient": None},
            "wrong direction": {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]},
            "no spacing": {"PixelSpacing": None},
            "spacing": {"PixelSpacing": [0, 1]},
            "no rows": {"Rows": None},
            "rows": {"Rows": 60000, "Columns": 60000},
            "columns": {"Columns": 3000},
            "zeros": {"PixelData": bytes(96)},
            "negative": {"RescaleIntercept": "-100"},
            "slope": {"RescaleSlope": "1e300"},
            "no slope": {"RescaleSlope": "1e400"},
        }
        for made in images:
            for keyword, value in changes[name].items():
                if value is None:
                    delattr(made, keyword)
                else:
                    setattr(made, keyword, value)
    return images


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hole", r"series of 4 slices at uneven distances \(4 to 8 mm\). Look for missing slices"),
        ("fine", r"series of 5 slices at uneven distances \(0.15 to 0.3 mm\)"),
        ("end", "at uneven distances"),
        (
            "twice",
            r"several images at one place \(IM000\d, IM000\d\). Put repetitions and copies into separate folders",
        ),
        ("ct", "is DICOM that holds CT Image Storage, not an MR image. Give the files of an MR series"),
        ("colour", r"holds images of 3 value\(s\) a pixel, RGB; no grey ones"),
        ("inverse", r"shows its small values bright \(MONOCHROME1\), so it is no magnitude"),
        ("frames", r"holds 5 frames in one image of a kind \(classic MR\) that says of one only where it lies"),
        ("high bit", r"stores pixels of 12 bits from bit 15 downwards \(HighBit\)"),
        ("bits", "holds pixels of 64 bits. Convert it to 16 bits"),
        ("phase", "holds no magnitude: its image type is ORIGINAL/PRIMARY/P/ND. Give the magnitude images"),
        ("mosaic", "is a mosaic of slices in one image. Convert it to NIfTI, for example by dcm2niix"),
        ("no place", "is DICOM without a usable ImagePositionPatient"),
        ("no direction", "is DICOM without a usable ImageOrientationPatient"),
        ("wrong direction", "has an ImageOrientationPatient that is not a pair of directions"),
        ("no spacing", "is DICOM without a usable PixelSpacing"),
        ("spacing", "is DICOM whose PixelSpacing is not positive"),
        ("no rows", "is DICOM without a usable Rows"),
        ("rows", "declares slices of 60000 x 60000 pixels. Copy or download it again"),
        ("columns", r"is truncated: it has \d+ bytes, its header promises 36000 of pixels"),
        ("zeros", "holds only zeros"),
        ("negative", r"holds negative values \(down to -99, the largest is \d+\), so it is no magnitude"),
        ("slope", "holds NaN or infinite values"),
        ("no slope", "is DICOM without a usable RescaleSlope"),
    ],
)
def test_what_cannot_be_used_is_one_line(dicom: Any, tmp_path: Path, name: str, message: str) -> None:
    paths = dicom.save(tmp_path, broken(dicom, name))
    with pytest.raises(FileError, match=message) as caught:
        list(READER.read(paths[0]))
    assert caught.value.path == paths[0]
    assert "\n" not in str(caught.value)


def test_multi_frame_files_that_cannot_be_used(dicom: Any, tmp_path: Path) -> None:
    path, images = tmp_path / "one.dcm", dicom.series(dicom.volume())
    made = dicom.enhanced(images, NumberOfFrames=4)
    made.save_as(path, enforce_file_format=True)
    with pytest.raises(FileError, match="declares 4 frames and describes 5"):
        READER.describe(path)
    made = dicom.enhanced(images)
    made.PerFrameFunctionalGroupsSequence[2].PlaneOrientationSequence = [pydicom.Dataset()]
    made.PerFrameFunctionalGroupsSequence[2].PlaneOrientationSequence[0].ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    made.save_as(path, enforce_file_format=True)
    with pytest.raises(FileError, match=r"holds 2 volumes in one file .* Split it into one file per volume"):
        READER.describe(path)


def test_files_that_cannot_be_decoded(dicom: Any, tmp_path: Path) -> None:
    shutil.copy(REAL / "image_dfl.dcm", tmp_path / "deflated")
    with pytest.raises(FileError, match="is deflated as a whole that sansref does not read"):
        READER.describe(tmp_path / "deflated")
    (path,) = dicom.save(tmp_path, dicom.series(dicom.volume((1, 6, 8))))
    made = pydicom.dcmread(path)
    made.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"  # MPEG-4
    made.PixelData = pydicom.encaps.encapsulate([b"1234"])
    made["PixelData"].is_undefined_length = True
    made.save_as(path)
    with pytest.raises(FileError, match=r"cannot be decoded here \(MPEG-4.*\). Decompress it, for example by gdcmconv"):
        READER.describe(path)


def test_jpeg_ls_streams_are_looked_at_before_they_are_decoded(dicom: Any, tmp_path: Path) -> None:
    """The decoder takes seconds for a stream without an end, and any memory for a large size."""
    images = dicom.series(dicom.volume((2, 16, 12)))
    for image in images:
        image.compress(pydicom.uid.JPEGLSLossless, generate_instance_uid=False)
    paths = sorted(dicom.save(tmp_path, images))
    assert np.array_equal(np.sort(read(paths[0]), None), np.sort(dicom.volume((2, 16, 12)), None))
    image = pydicom.dcmread(paths[1])
    (stream,) = pydicom.encaps.generate_frames(image.PixelData, number_of_frames=1)
    size = stream.find(b"\xff\xf7") + 5
    for changed, message in (
        (stream[:-40], "IM0001, which holds an image that is truncated"),
        (stream[:size] + b"\xff\xff" + stream[size + 2 :], "holds an image of another size than it says"),
    ):
        image.PixelData = pydicom.encaps.encapsulate([changed])
        image.save_as(paths[1])
        with pytest.raises(FileError, match=message) as caught:
            list(READER.read(paths[0]))
        assert caught.value.path == paths[0]


def test_a_broken_slice_is_named_and_blamed_on_its_series(dicom: Any, tmp_path: Path) -> None:
    paths = sorted(dicom.save(tmp_path, dicom.series(dicom.volume((5, 64, 64)))))
    whole = paths[3].read_bytes()
    paths[3].write_bytes(whole[:-100])
    with pytest.raises(FileError, match=r"has in its series IM0003, which cannot be read as DICOM") as caught:
        list(READER.read(paths[0]))
    assert caught.value.path == paths[0]
    # Without its header it is nobody's slice: listed by itself, and missed where it was.
    paths[3].write_bytes(whole[:400])
    assert find_files(tmp_path) == [paths[0], paths[3]]
    for path, message in ((paths[0], "4 slices at uneven distances"), (paths[3], "cannot be read as DICOM|without a")):
        with pytest.raises(FileError, match=message):
            READER.describe(path)


def test_a_folder_that_may_not_be_listed(dicom: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path, *_) = dicom.save(tmp_path, dicom.series(dicom.volume()))

    def refuse(folder: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(FileError, match=r"IM\d+: lies in a folder that cannot be listed \(Permission denied\)"):
        READER.describe(path)


def test_a_package_that_is_missing_is_one_line(dicom: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path, *_) = dicom.save(tmp_path, dicom.series(dicom.volume()))
    original = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "pydicom":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(SettingError, match=r"reading DICOM needs the package pydicom: pip install "):
        READER.describe(path)


def test_pipes_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert find_files(tmp_path) == [tmp_path / "pipe"]
