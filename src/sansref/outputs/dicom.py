"""Writing a reconstruction as a derived DICOM MR series, a slice at a time.

Standard: DICOM PS3.3, A.4 (MR Image IOD) and the modules named there.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sansref import __version__
from sansref.data.placement import Orientation, Placement, placement_of, upright
from sansref.data.provenance import OF_SOURCE, WARNING, Provenance, digest, files_behind
from sansref.data.readers.dicom import series_of
from sansref.data.readers.dicom_headers import CLASSIC, FORMAT, MULTI_FRAME, Frame, header_of
from sansref.data.readers.reader import FileInfo
from sansref.errors import SettingError, printable
from sansref.files import atomic_folder, remove_made
from sansref.outputs.overlay import DISPLAY_PERCENTILE
from sansref.outputs.writers import PutSlice, mapped_array, put_into
from sansref.scan import ScanMeta

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

LONGEST_NAME = 64
LONGEST_TEXT = 1024
SERIES_OFFSET = 1000
"""Added to the number of the source's series."""

#: Required attributes, with what they are where the source does not say: mostly nothing, RM is "research mode".
REQUIRED = {
    **dict.fromkeys(("StudyDate", "StudyTime", "AccessionNumber", "StudyID", "PositionReferenceIndicator"), ""),
    **dict.fromkeys(("ScanOptions", "MRAcquisitionType", "EchoTime", "EchoTrainLength", "RepetitionTime"), ""),
    **dict.fromkeys(("PatientPosition", "Laterality"), ""),
    **{"ScanningSequence": "RM", "SequenceVariant": "NONE", "LossyImageCompression": "00"},
}
#: Attributes that are carried over where the source has them; none that names a person or an institution.
OPTIONAL = (
    *("InversionTime", "FlipAngle", "NumberOfAverages", "ImagingFrequency", "ImagedNucleus", "MagneticFieldStrength"),
    *("EchoNumbers", "BodyPartExamined", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),
)
READ = (
    *("PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "SeriesNumber", "ImageLaterality"),
    *("Manufacturer", "ManufacturerModelName"),
)


@dataclass(frozen=True)
class DicomSource:
    """What a series is made from: a digest of its files, and of DICOM its header and slices, which are else empty."""

    identity: str
    header: Any
    frames: tuple[Frame, ...] = ()


def source_of(path: Path, format_: str) -> DicomSource:
    """Look at a source, which is read as a whole for its digest.

    Raises ``FileError`` if it cannot be read any more, and ``SettingError`` if pydicom is not installed.
    """
    try:
        from pydicom.dataset import Dataset
    except ImportError:
        raise SettingError("writing DICOM needs the package pydicom: pip install pydicom") from None
    identity = digest(files_behind(path))
    if format_ != FORMAT:
        return DicomSource(identity, Dataset())
    return DicomSource(identity, header_of(path, (*REQUIRED, *OPTIONAL, *READ)), series_of(path).frames)


def uid(*parts: object) -> str:
    """A UID that is the same for the same parts."""
    from pydicom.uid import generate_uid

    return str(generate_uid(entropy_srcs=["sansref", *map(str, parts)]))


def series_header(info: FileInfo, meta: ScanMeta, made: Provenance, source: DicomSource) -> Dataset:
    """Everything but the pixels and their place; ``meta`` is that of any scan of the file.

    The study, the frame of reference and the PatientID are those of a DICOM source. No name, no date and nothing else
    that could differ when the same command is repeated is made up.
    """
    from pydicom.dataset import Dataset

    new, identity = Dataset(), source.identity
    for name, default in REQUIRED.items():
        _carry(source.header, new, name, default)
    if info.lying is not None:
        new.PatientPosition = info.lying
    for name in OPTIONAL:
        _carry(source.header, new, name)
    new.SpecificCharacterSet = "ISO_IR 192"
    new.SOPClassUID, new.Modality, new.ImageType = CLASSIC, "MR", ["DERIVED", "SECONDARY", "OTHER"]
    _carry(source.header, new, "StudyInstanceUID", uid("study", identity))
    _carry(source.header, new, "FrameOfReferenceUID", uid("frame of reference", identity))
    if source.header.get("ImageLaterality") in ("L", "R"):
        _carry(source.header, new, "Laterality", source.header.ImageLaterality)
    sentences = made.sentences(info, meta)
    lasting = replace(made, unseen=False).sentences(info, meta)  # what is known of that goes with the training scans
    new.SeriesInstanceUID = uid("series", identity, made.weights, made.settings, *lasting)
    new.PatientID = "" if source.frames else _name(info.subject)
    if source.frames:
        _carry(source.header, new, "PatientID", "")
    for name in ("PatientName", "PatientBirthDate", "PatientSex", "ReferringPhysicianName"):
        setattr(new, name, "")
    number = source.header.get("SeriesNumber")
    new.SeriesNumber = SERIES_OFFSET + number if isinstance(number, int) and 0 <= number < 2**30 else None
    new.SeriesDescription = _name(f"{_name(info.contrast or '')[: LONGEST_NAME - len(made.name) - 1]} {made.name}")
    new.DerivationDescription = " ".join(sentences)[:LONGEST_TEXT]
    new.ImageComments = WARNING
    new.BurnedInAnnotation = "NO"
    new.Manufacturer = new.ManufacturerModelName = "sansref"
    new.SoftwareVersions = __version__
    scanner = (
        [_equipment("109101", "Acquisition Equipment", source.header)] if source.header.get("Manufacturer") else []
    )
    new.ContributingEquipmentSequence = [*scanner, _equipment("109102", "Processing Equipment", new)]
    new.SamplesPerPixel, new.PhotometricInterpretation, new.PixelRepresentation = 1, "MONOCHROME2", 0
    new.BitsAllocated, new.BitsStored, new.HighBit = 16, 16, 15
    return new


def source_image(frame: Frame) -> Dataset:
    """A reference to the slice that another one was made from."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = frame.sop_class, frame.instance
    if frame.sop_class in MULTI_FRAME:
        item.ReferencedFrameNumber = frame.number + 1
    item.PurposeOfReferenceCodeSequence = [code("121322", "DCM", "Source image for image processing operation")]
    return item


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """A coded concept."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _equipment(value: str, meaning: str, header: Any) -> Dataset:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [code(value, "DCM", meaning)]
    for name in ("Manufacturer", "ManufacturerModelName", "SoftwareVersions"):
        _carry(header, item, name)
    return item


def _carry(source: Any, target: Any, name: str, default: str | None = None) -> None:
    """Copy an attribute; one that is missing or breaks the standard takes the default, or stays out without one."""
    from pydicom import config
    from pydicom.dataelem import DataElement

    try:
        element = source[name]
        if not element.is_empty:
            target.add(DataElement(element.tag, element.VR, element.value, validation_mode=config.RAISE))
            return
    except Exception:  # whatever a damaged value makes the library raise
        pass
    if default is not None:
        setattr(target, name, default)


def _name(text: str) -> str:
    """A value of one short line, in which a backslash would begin another one."""
    return printable(text).replace("\\", "/")[:LONGEST_NAME].strip()


MOST = 2**16 - 1
"""Largest stored value."""

FEWEST_GREYS = 256
"""Grey values that a screen can tell apart."""

UNKNOWN_PLACE = (
    "The source does not say where it lies in the patient: place and orientation are made up,"
    " and sizes (1 mm) too where it gives none."
)


@contextmanager
def dicom_slices(
    folder: str | Path, shape: tuple[int, int, int], info: FileInfo, meta: ScanMeta, made: Provenance
) -> Iterator[PutSlice]:
    """A folder of DICOM MR images, one a slice, named by :func:`dicom_name`.

    All slices share one scale of stored values, which uses all 16 bits; they are therefore gathered in an array on disk
    before they are written. Slices of a DICOM source keep its rows and columns, others are turned upright. The same
    source, weights and settings give the same files, with the same UIDs.

    The shape is (slices, height, width); ``meta`` is that of any scan of the file. Raises ``FileError`` if the source's
    place cannot be told in DICOM, and ``SettingError`` if pydicom is not installed.
    """
    source = source_of(info.path, info.format)
    place = placement_of(info.path, meta.geometry, meta.spacing)
    orientation = Orientation() if source.frames else upright(meta.geometry)
    at = orientation.placement(place, *shape[1:])
    frames = _frames_in_place(source, shape[1:], place)
    template = series_header(info, meta, made, source)
    _describe_size(template, at, frames)
    with atomic_folder(Path(folder)) as temporary:
        with mapped_array(temporary, shape) as slices:
            yield put_into(slices)
            scale = _Scale.of(slices, info.kind == "k-space")
            scale.describe(template, made.units)
            for index, image in enumerate(slices):
                _save(temporary, index, orientation.image(image), _Series(template, at, scale, source, frames))
        remove_made(Path(folder), r"slice-\d+\.dcm")  # a folder cannot be renamed to one that holds something


def dicom_name(index: int) -> str:
    """File name of a slice."""
    return f"slice-{index:04d}.dcm"


@dataclass(frozen=True)
class _Scale:
    """From stored values 0 to ``MOST`` to the file's units, and to the grey values that viewers show.

    Many viewers turn rescaled values into integers: of raw data, whose units may be as small as 1e-6, they would show
    nothing. Grey values are then the stored ones. The real world values are those of the images always (DICOM PS3.3,
    C.7.6.16.2.11). Values from ``dark`` to ``bright`` are shown; maps of both signs around 0.
    """

    slope: float
    intercept: float
    dark: float
    bright: float
    rescaled: bool

    @classmethod
    def of(cls, slices: npt.NDArray[np.float32], measured: bool) -> _Scale:
        """The scale of images from ``measured`` k-space, which has no grey values of its own, or from images."""
        from pydicom.valuerep import format_number_as_ds

        least, largest = min(float(slices.min()), 0.0), float(slices.max())
        signed = least < 0
        bright = max(float(np.percentile(np.abs(image), DISPLAY_PERCENTILE)) for image in slices)
        slope = (largest - least) / MOST if largest > least else 1.0
        rescaled = not measured and FEWEST_GREYS <= largest - least <= MOST
        if rescaled:
            slope, least = (float(format_number_as_ds(value)) for value in (slope, least))
        return cls(slope, least, -bright if signed else 0.0, bright, rescaled)

    def stored(self, image: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
        values = np.rint((image.astype(np.float64) - self.intercept) / self.slope)
        return np.clip(values, 0, MOST).astype("<u2")

    def describe(self, header: Dataset, units: str) -> None:
        from pydicom.dataset import Dataset
        from pydicom.valuerep import format_number_as_ds

        black, white, slope, intercept = self.dark, self.bright, self.slope, self.intercept
        if not self.rescaled:
            black, white = ((value - intercept) / slope for value in (black, white))
            slope, intercept = 1.0, 0.0
        header.RescaleSlope, header.RescaleIntercept = map(format_number_as_ds, (slope, intercept))
        header.RescaleType = "US"  # of unspecified units
        width = max(white - black, 1.0)  # the standard's windows are not narrower
        header.WindowCenter, header.WindowWidth = _decimal(black + width / 2), _decimal(width)
        mapping = Dataset()
        mapping.RealWorldValueFirstValueMapped, mapping.RealWorldValueLastValueMapped = 0, MOST
        mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = self.slope, self.intercept
        mapping.LUTLabel, mapping.LUTExplanation = "SOURCE" if units == OF_SOURCE else "OTHER", units
        mapping.MeasurementUnitsCodeSequence = [code("1", "UCUM", "no units")]
        header.RealWorldValueMappingSequence = [mapping]


@dataclass(frozen=True)
class _Series:
    template: Dataset
    place: Placement
    scale: _Scale
    source: DicomSource
    frames: Sequence[Frame]


def _frames_in_place(source: DicomSource, size: tuple[int, ...], place: Placement) -> Sequence[Frame]:
    """The source's frames where images have their pixels: places as they stand there, lest rounding should move them.

    None of another source, and where a field of view was cut or a resolution reduced.
    """
    stack = source.frames[0].stack if source.frames else None
    same = stack is not None and stack.size == size and np.allclose(stack.spacing, place.spacing[:2], rtol=1e-4)
    return source.frames if same else ()


def _describe_size(header: Dataset, place: Placement, frames: Sequence[Frame]) -> None:
    rows, columns, slices = place.spacing
    directions: tuple[float, ...] = (*(place.across / columns), *(place.down / rows))
    thickness: float | None = place.thickness or slices
    if frames:
        (rows, columns), directions, thickness = frames[0].stack.spacing, frames[0].orientation, frames[0].thickness
    header.PixelSpacing = [_decimal(rows), _decimal(columns)]
    header.ImageOrientationPatient = [_decimal(value) for value in directions]
    header.SpacingBetweenSlices = _decimal(slices)
    header.SliceThickness = None if thickness is None else _decimal(thickness)
    if not place.known:
        header.ImageComments = f"{header.ImageComments}. {UNKNOWN_PLACE}"


def _save(folder: Path, index: int, image: npt.NDArray[np.float32], series: _Series) -> None:
    from pydicom import dcmwrite
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    header, place = copy.copy(series.template), series.place
    header.SOPInstanceUID = uid("instance", header.SeriesInstanceUID, index)
    header.InstanceNumber = index + 1
    if place.stack:
        header.TemporalPositionIdentifier = place.count(index)[0] + 1
    position = np.array(series.frames[index].position) if series.frames else place.pixel(index, 0, 0)
    normal = np.cross(place.across, place.down)
    header.ImagePositionPatient = [_decimal(value) for value in position]
    header.SliceLocation = _decimal(float(position @ normal) / float(np.linalg.norm(normal)))
    if series.source.frames:
        header.SourceImageSequence = [source_image(series.source.frames[index])]
    header.Rows, header.Columns = image.shape
    header.PixelData = series.scale.stored(image).tobytes()
    header["PixelData"].VR = "OW"
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dcmwrite(folder / dicom_name(index), header, enforce_file_format=True)


def _decimal(number: float) -> str:
    """A length, direction or grey value as a decimal string of at most 16 characters."""
    from pydicom.valuerep import format_number_as_ds

    return format_number_as_ds(round(float(number), 12) + 0.0)  # no negative zeros
