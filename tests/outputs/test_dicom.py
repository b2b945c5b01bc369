from __future__ import annotations

import builtins
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
from highdicom._standard_utils import check_required_attributes, get_iod_module_map
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sansref.data.placement import recut
from sansref.data.provenance import DEVIATIONS, OF_SOURCE, RELATIVE, Provenance
from sansref.data.readers import find_files, open_scan_file
from sansref.errors import FileError, SettingError
from sansref.outputs.dicom import dicom_slices

MADE = Provenance("idr", "0123456789abcdef" * 4, "c" * 64, "random_columns, 4x")
SHEARED = np.array([[0.9, 0.2, 0.3, 11.0], [-0.3, 0.6, 0.1, -7.0], [0.1, 0.2, 2.0, 5.0], [0, 0, 0, 1.0]])
VOLUME = (1 + np.random.default_rng(0).permutation(4 * 5 * 6)).reshape(4, 5, 6).astype(np.float32)


@pytest.fixture(autouse=True)
def strict() -> Iterator[None]:
    """Values that break the standard are errors when files are read back."""
    before = pydicom.config.settings.reading_validation_mode
    pydicom.config.settings.reading_validation_mode = pydicom.config.RAISE
    yield
    pydicom.config.settings.reading_validation_mode = before


def nifti(folder: Path, affine: Any = None, shape: tuple[int, int, int] = (5, 6, 4), name: str = "sub-01_T1w") -> Path:
    """A source whose native slices are those along its last axis."""
    turned = np.eye(4)
    turned[:3, :3] = [[-0.8, 0.3, 0], [0.24, 1.0, 0], [0, 0, 3]]
    path = folder / f"{name}.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.ones(shape, np.int16), turned if affine is None else affine), path)
    return path


def write(
    source: Path,
    out: Path,
    volume: Any = VOLUME,
    made: Provenance = MADE,
    stack: int | None = None,
    matrix: tuple[int, int] | None = None,
) -> list[Any]:
    """Export a volume as the reconstruction of a source, and read it with pydicom."""
    reader = open_scan_file(source)
    item = next(iter(reader.read(source)))
    meta = item.meta if matrix is None else recut(item.meta, item.image.shape, None, matrix)
    meta = meta if stack is None else replace(meta, geometry=replace(meta.geometry, stack=stack))
    with dicom_slices(out, volume.shape, reader.describe(source), meta, made) as put:
        for index in reversed(range(len(volume))):
            put(index, volume[index])
    return [pydicom.dcmread(path) for path in sorted(out.iterdir())]


def units(image: Any) -> Any:
    """Pixels in the units of the source."""
    mapping = image.RealWorldValueMappingSequence[0]
    return image.pixel_array * mapping.RealWorldValueSlope + mapping.RealWorldValueIntercept


def places(affine: Any, volume: Any) -> dict[float, Any]:
    """Patient coordinates (LPS+) of each value of a NIfTI volume."""
    return {
        float(volume[index]): nibabel.affines.apply_affine(affine, index) * [-1, -1, 1]
        for index in np.ndindex(volume.shape)
    }


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, -1)])
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0), (0, 2, 1)])
def test_every_value_lies_where_the_source_had_it(tmp_path: Path, flips: Any, order: Any) -> None:
    affine = np.eye(4)
    affine[:3, :3] = (np.diag([0.8, 1.1, 3.0]) * flips)[list(order)]
    affine[:3, 3] = (11, -7, 5)
    written = write(nifti(tmp_path, affine), tmp_path / "out")
    truth = highdicom.get_volume_from_series(written, apply_real_world_transform=True)
    expected = places(affine, np.moveaxis(VOLUME, 0, 2))
    for index in np.ndindex(truth.spatial_shape):
        value = float(np.rint(truth.array[index]))
        assert truth.array[index] == pytest.approx(value, abs=1e-3)
        place = truth.map_indices_to_reference(np.array([index]))[0]
        np.testing.assert_allclose(place, expected[value], atol=1e-5)


def test_several_volumes_lie_in_one_place(tmp_path: Path) -> None:
    written = write(nifti(tmp_path), tmp_path / "out", stack=2)
    assert [int(image.TemporalPositionIdentifier) for image in written] == [1, 1, 2, 2]
    assert written[0].ImagePositionPatient == written[2].ImagePositionPatient != written[3].ImagePositionPatient
    files = find_files(tmp_path / "out")
    assert [(path.name, open_scan_file(path).describe(path).slices) for path in files] == [
        *(("slice-0000.dcm", 2), ("slice-0002.dcm", 2)),
    ]


def test_raw_data_say_how_the_patient_lay(mrd: Any, tmp_path: Path) -> None:
    kspace = np.random.default_rng(0).normal(size=(1, 32, 16)).astype(np.complex64)
    source = mrd.write(tmp_path / "raw.h5", mrd.header(), mrd.lines_of(kspace))
    (image,) = write(source, tmp_path / "out", np.ones((1, 16, 16), np.float32))
    assert image.PatientPosition == "HFS"


def test_slices_stand_upright(tmp_path: Path) -> None:
    """Of a NIfTI whose axes lead to the right, anterior and superior."""
    written = write(nifti(tmp_path, np.diag([1.0, 1, 3, 1])), tmp_path / "out")
    assert [round(value) for value in written[0].ImageOrientationPatient] == [1, 0, 0, 0, 1, 0]
    assert (written[0].Rows, written[0].Columns) == (6, 5)
    assert np.argmax(written[0].pixel_array) == np.argmax(VOLUME[0][::-1, ::-1].T)


def test_required_attributes_are_there_and_values_are_legal(dicom: Any, tmp_path: Path) -> None:
    (series, *_) = dicom.save(tmp_path / "series", dicom.series(dicom.volume((4, 5, 6))))
    for number, source in enumerate((nifti(tmp_path), series)):
        for image in write(source, tmp_path / f"out{number}"):
            for module in get_iod_module_map()["mr-image"]:
                if module["usage"] == "M":
                    check_required_attributes(image, module["key"])
            assert len(list(image.iterall())) > 60  # decodes, and so checks, every value
            assert image.file_meta.MediaStorageSOPInstanceUID == image.SOPInstanceUID
            assert image.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
            assert all(pydicom.uid.UID(image[name].value).is_valid for name in ("SOPInstanceUID", "StudyInstanceUID"))


def test_what_a_series_says_of_itself(tmp_path: Path) -> None:
    written = write(nifti(tmp_path), tmp_path / "out")
    image = written[0]
    assert list(image.ImageType) == ["DERIVED", "SECONDARY", "OTHER"]
    assert (image.Modality, image.PatientID, str(image.PatientName)) == ("MR", "sub-01", "")
    assert image.SeriesDescription == "T1w sansref idr RESEARCH USE ONLY"
    for part in ("method idr", "weights 0123456789abcdef", "synthetic", "not for diagnostic use"):
        assert part in image.DerivationDescription
    assert "RESEARCH USE ONLY" in image.ImageComments
    assert (image.Manufacturer, image.BurnedInAnnotation, image.LossyImageCompression) == ("sansref", "NO", "00")
    (equipment,) = image.ContributingEquipmentSequence
    assert equipment.PurposeOfReferenceCodeSequence[0].CodeMeaning == "Processing Equipment"
    assert (image.ScanningSequence, image.SequenceVariant) == ("RM", "NONE")
    assert (float(image.SliceThickness), float(image.SpacingBetweenSlices)) == (3, 3)
    assert [one.InstanceNumber for one in written] == [1, 2, 3, 4]
    assert len({one.SOPInstanceUID for one in written}) == 4
    assert len({(one.SeriesInstanceUID, one.StudyInstanceUID, one.FrameOfReferenceUID) for one in written}) == 1


def test_a_dicom_source_is_kept_in_its_study_and_place(dicom: Any, tmp_path: Path) -> None:
    images = dicom.series(dicom.volume((4, 5, 6)), EchoNumbers=2, AccessionNumber="A1", PatientBirthDate="19700101")
    paths = dicom.save(tmp_path / "series", images)
    written = write(paths[1], tmp_path / "out")
    for image, source in zip(written, images, strict=True):
        kept = ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "StudyDate", "AccessionNumber", "EchoTime")
        acquired = ("RepetitionTime", "ScanningSequence", "EchoNumbers", "SliceThickness")
        for name in (*kept, *acquired, "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient"):
            assert image[name].value == source[name].value, name
        for name in ("SeriesInstanceUID", "SOPInstanceUID", "SeriesDescription", "SeriesNumber"):
            assert image[name].value != source[name].value, name
        (reference,) = image.SourceImageSequence
        assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert image.ContributingEquipmentSequence[0].Manufacturer == "MAKER"
        assert (str(image.PatientName), image.PatientBirthDate) == ("", "")
        assert "Doe" not in str(image)
        assert np.array_equal(np.rint(units(image)), VOLUME[image.InstanceNumber - 1])
    dicom.enhanced(images).save_as(tmp_path / "one.dcm", enforce_file_format=True)
    (first, *_) = write(tmp_path / "one.dcm", tmp_path / "other")
    assert first.SourceImageSequence[0].ReferencedFrameNumber == 1
    assert first.SliceThickness == 3


def test_fewer_pixels_of_a_dicom_source_lie_where_they_belong(dicom: Any, tmp_path: Path) -> None:
    images = dicom.series(dicom.volume((4, 6, 8)))
    paths = dicom.save(tmp_path / "series", images)
    written = write(paths[0], tmp_path / "out", np.ones((4, 3, 4), np.float32), matrix=(3, 4))
    assert (float(written[0].SliceThickness), float(written[0].SpacingBetweenSlices)) == pytest.approx((3, 4))
    for image, source in zip(written, images, strict=True):
        sides = np.array(source.PixelSpacing, dtype=float)
        assert np.allclose(np.array(image.PixelSpacing, dtype=float), 2 * sides)
        across, down = np.array(source.ImageOrientationPatient, dtype=float).reshape(2, 3)
        assert np.allclose(np.array(image.ImageOrientationPatient, dtype=float), [*across, *down])
        # The centers of both matrices, pixels (3 // 2, 4 // 2) and (6 // 2, 8 // 2), are one place.
        moved = (3 - 1 * 2) * sides[0] * down + (4 - 2 * 2) * sides[1] * across
        place = np.array(image.ImagePositionPatient, dtype=float)
        assert np.allclose(place, np.array(source.ImagePositionPatient, dtype=float) + moved)
        assert image.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID


def test_what_breaks_the_standard_is_not_carried_over(dicom: Any, tmp_path: Path) -> None:
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    with pydicom.config.disable_value_validation():
        images = dicom.series(dicom.volume((4, 5, 6)), ScanningSequence="se", StudyInstanceUID="1.2.x")
        (path, *_) = dicom.save(tmp_path / "series", images)
    (image, *_) = write(path, tmp_path / "out")
    assert image.ScanningSequence == "RM"
    assert pydicom.uid.UID(image.StudyInstanceUID).is_valid


def test_loss_of_the_source_stays_on_record(dicom: Any, tmp_path: Path) -> None:
    images = dicom.series(dicom.volume((4, 5, 6)), LossyImageCompression="01", LossyImageCompressionRatio=8)
    (path, *_) = dicom.save(tmp_path / "series", images)
    (image, *_) = write(path, tmp_path / "out")
    assert (image.LossyImageCompression, float(image.LossyImageCompressionRatio)) == ("01", 8)


def test_the_same_command_gives_the_same_files(tmp_path: Path) -> None:
    source = nifti(tmp_path)
    first = write(source, tmp_path / "out")
    names = sorted((tmp_path / "out").iterdir())
    content = [path.read_bytes() for path in names]
    write(source, tmp_path / "out")
    assert [path.read_bytes() for path in names] == content
    copy = nifti(tmp_path / "out" / "..", name="sub-01_copy_T1w")
    assert write(copy, tmp_path / "b")[0].SeriesInstanceUID == first[0].SeriesInstanceUID
    told = write(source, tmp_path / "d", made=replace(MADE, unseen=True))
    assert told[0].SeriesInstanceUID == first[0].SeriesInstanceUID  # what is known of that can be lost
    other = write(source, tmp_path / "c", made=replace(MADE, weights="f" * 64))
    set_otherwise = write(source, tmp_path / "e", made=replace(MADE, settings="d" * 64))
    assert len({one[0].SeriesInstanceUID for one in (first, other, set_otherwise)}) == 3
    assert other[0].StudyInstanceUID == first[0].StudyInstanceUID
    assert other[0].FrameOfReferenceUID == first[0].FrameOfReferenceUID
    changed = nifti(tmp_path, np.diag([2.0, 2, 3, 1]))
    assert write(changed, tmp_path / "d")[0].StudyInstanceUID != first[0].StudyInstanceUID


@given(scale=st.floats(1e-12, 1e12), offset=st.sampled_from([0.0, -0.25]))
@settings(max_examples=25, deadline=None)
def test_the_units_of_the_file_come_back(tmp_path_factory: pytest.TempPathFactory, scale: float, offset: float) -> None:
    folder = tmp_path_factory.mktemp("units")
    volume = (scale * (VOLUME / VOLUME.max() + offset)).astype(np.float32)
    written = write(nifti(folder), folder / "out", volume)
    assert len({(one.RescaleSlope, one.RescaleIntercept) for one in written}) == 1
    truth = highdicom.get_volume_from_series(written, apply_real_world_transform=True)
    step = float(np.ptp(np.append(volume, 0))) / 65535
    np.testing.assert_allclose(np.sort(truth.array, None), np.sort(volume, None), atol=0.51 * step, rtol=1e-6)
    assert all(one.WindowWidth >= 1 for one in written)


@pytest.mark.parametrize("brightest", [1e-9, 1.0, 1000.0, 1e7])
def test_images_keep_their_grey_values_where_viewers_show_those(tmp_path: Path, brightest: float) -> None:
    """Many viewers show rescaled values as integers: there must be enough of them, and not too many."""
    (image, *_) = write(nifti(tmp_path), tmp_path / "out", VOLUME * np.float32(brightest / VOLUME.max()))
    shown = image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept)
    assert (float(image.RescaleSlope) == 1) == (brightest != 1000)
    assert shown.max() == pytest.approx(
        65535 * VOLUME[0].max() / VOLUME.max() if brightest != 1000 else units(image).max(), rel=1e-3
    )
    black = float(image.WindowCenter) - float(image.WindowWidth) / 2
    assert black == pytest.approx(0, abs=1e-6)
    assert 0.9 * shown.max() < black + float(image.WindowWidth)


@pytest.mark.parametrize("factor", [0.1, 10])  # shown by stored values, and by rescaled ones
def test_a_map_of_both_signs_is_shown_around_zero(tmp_path: Path, factor: float) -> None:
    volume = (VOLUME - 30) * np.float32(factor)
    (image, *_) = write(nifti(tmp_path), tmp_path / "out", volume)
    mapping = image.RealWorldValueMappingSequence[0]
    stored = np.array([float(image.WindowCenter) + side * float(image.WindowWidth) / 2 for side in (-1, 1)])
    if factor > 1:
        stored = (stored - float(image.RescaleIntercept)) / float(image.RescaleSlope)
    black, white = stored * mapping.RealWorldValueSlope + mapping.RealWorldValueIntercept
    assert (black, white) == pytest.approx((-90 * factor, 90 * factor), rel=1e-2)


def test_values_that_are_none_of_the_source_do_not_claim_its_units(tmp_path: Path) -> None:
    for number, units_of in enumerate((OF_SOURCE, RELATIVE, DEVIATIONS)):
        (image, *_) = write(nifti(tmp_path), tmp_path / f"{number}", made=replace(MADE, units=units_of))
        assert image.RealWorldValueMappingSequence[0].LUTExplanation == units_of
        assert (RELATIVE in image.DerivationDescription) == (units_of == RELATIVE)


def test_raw_data_are_shown_by_what_is_stored(make_kspace_file: Path, tmp_path: Path) -> None:
    """K-space has no grey values of its own, also where its numbers look as if it had."""
    for number, factor in enumerate((5e-10, 10.0)):
        (image, *_) = write(make_kspace_file, tmp_path / f"{number}", VOLUME * np.float32(factor))
        assert (float(image.RescaleSlope), float(image.RescaleIntercept)) == (1, 0)
        assert float(image.WindowWidth) > 60_000
        np.testing.assert_allclose(units(image), VOLUME[0] * factor, atol=factor * 120 / 65535)


@pytest.mark.skipif(not (shutil.which("dcm2pnm") and shutil.which("dciodvfy")), reason="needs dcmtk and dicom3tools")
@pytest.mark.parametrize("factor", [5e-10, 1.0, 8.0])
@pytest.mark.parametrize("measured", [False, True])
def test_common_programs_show_and_accept_it(
    make_kspace_file: Path, tmp_path: Path, factor: float, measured: bool
) -> None:
    source = make_kspace_file if measured else nifti(tmp_path)
    write(source, tmp_path / "out", VOLUME * np.float32(factor))
    path = tmp_path / "out" / "slice-0003.dcm"
    for window in ([], ["+Wi", "1"]):
        subprocess.run(["dcm2pnm", "+on", *window, path, tmp_path / "a.png"], check=True, capture_output=True)
        with Image.open(tmp_path / "a.png") as picture:
            shown = np.asarray(picture)
        stored = pydicom.dcmread(path).pixel_array
        np.testing.assert_allclose(shown, np.minimum(255, stored / stored.max() * 255), atol=6)
    said = subprocess.run(["dciodvfy", path], capture_output=True, text=True).stderr
    assert "MRImage" in said
    assert "Error" not in said


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, ""), ({"Laterality": "L"}, "L"), ({"ImageLaterality": "R"}, "R"), ({"ImageLaterality": "U"}, "")],
)
def test_the_side_of_the_body_is_said(dicom: Any, tmp_path: Path, given: Any, expected: str) -> None:
    (path, *_) = dicom.save(tmp_path / "series", dicom.series(dicom.volume((4, 5, 6)), **given))
    assert write(path, tmp_path / "out")[0].Laterality == expected


def test_blank_series_and_missing_slices_are_zero(tmp_path: Path) -> None:
    source = nifti(tmp_path)
    assert not any(image.pixel_array.any() for image in write(source, tmp_path / "blank", np.zeros_like(VOLUME)))
    reader = open_scan_file(source)
    meta = next(iter(reader.read(source))).meta
    with dicom_slices(tmp_path / "out", VOLUME.shape, reader.describe(source), meta, MADE) as put:
        put(1, VOLUME[1])
    written = [pydicom.dcmread(path).pixel_array.any() for path in sorted((tmp_path / "out").iterdir())]
    assert written == [False, True, False, False]


def test_a_source_without_a_place_is_said_to_have_none(make_kspace_file: Path, tmp_path: Path) -> None:
    (image, *_) = write(make_kspace_file, tmp_path / "out")
    assert "place and orientation are made up" in image.ImageComments
    assert list(image.ImageOrientationPatient) == [1, 0, 0, 0, 1, 0]
    assert "It was acquired undersampled, 2x." in image.DerivationDescription
    assert "synthetic" not in image.DerivationDescription


@pytest.fixture
def make_kspace_file(tmp_path: Path) -> Path:
    """FastMRI's layout without a header: half of the columns."""
    import h5py

    kspace = np.random.default_rng(0).normal(size=(4, 32, 6, 2)).astype(np.float32).view(np.complex64)[..., 0]
    kspace[..., ::2] = 0
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"] = kspace
    return tmp_path / "a.h5"


# Safety


@pytest.mark.parametrize(
    "subject", ["../../x", "/etc/passwd", "a\\b", "x" * 300, "Jürgen_Ž_名", "line\nbreak\x00\x1b[31m", "..", "=cmd"]
)
def test_subjects_of_any_kind(dicom: Any, tmp_path: Path, subject: str) -> None:
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    changes = {"PatientID": subject, "SeriesDescription": subject, "SpecificCharacterSet": "ISO_IR 192"}
    with pydicom.config.disable_value_validation():
        (path, *_) = dicom.save(tmp_path / "in" / "series", dicom.series(dicom.volume((4, 5, 6)), **changes))
    write(path, tmp_path / "in" / "out")
    pydicom.config.settings.reading_validation_mode = pydicom.config.RAISE
    written = [pydicom.dcmread(path) for path in sorted((tmp_path / "in" / "out").iterdir())]
    assert [len(list(image.iterall())) > 60 for image in written] == [True] * 4
    assert [path.name for path in (tmp_path / "in" / "out").iterdir() if path.suffix != ".dcm"] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == ["out", "series"]
    assert written[0].SeriesDescription.endswith("sansref idr RESEARCH USE ONLY")
    assert len(written[0].SeriesDescription) <= 64


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = nifti(tmp_path), tmp_path / "out"
    with pytest.raises(ValueError, match="NaN or infinite"):
        write(source, out, np.full_like(VOLUME, np.nan))
    original, calls = pydicom.dcmwrite, []

    def full(*arguments: Any, **options: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        original(*arguments, **options)

    monkeypatch.setattr(pydicom, "dcmwrite", full)
    with pytest.raises(FileError, match=r"out: cannot be written \(No space left on device\)"):
        write(source, out)
    monkeypatch.setattr(os, "posix_fallocate", full)
    calls[:] = [1, 1]
    with pytest.raises(FileError, match=r"out: cannot be written \(No space left on device\)"):
        write(source, out)
    assert list(tmp_path.iterdir()) == [source]


def test_another_series_is_replaced_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "slice-0009.dcm").touch()
    assert len(write(nifti(tmp_path), tmp_path / "out")) == 4


def test_a_place_that_dicom_cannot_say_blames_the_source(tmp_path: Path) -> None:
    source = nifti(tmp_path, SHEARED)
    with pytest.raises(FileError, match="rows and columns are not at right angles") as caught:
        write(source, tmp_path / "out")
    assert caught.value.path == source
    assert list(tmp_path.iterdir()) == [source]


def test_a_package_that_is_missing_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "pydicom":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    source = nifti(tmp_path)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(SettingError, match=r"writing DICOM needs the package pydicom: pip install "):
        write(source, tmp_path / "out")
