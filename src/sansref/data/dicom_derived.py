"""The header of a derived DICOM MR series: what all its slices have in common.

Standard: DICOM PS3.3, A.4 (MR Image IOD) and the modules named there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sansref import __version__
from sansref.data.provenance import WARNING, Provenance, digest, files_behind
from sansref.data.readers.dicom_files import FORMAT, header_of
from sansref.data.readers.dicom_headers import CLASSIC, MULTI_FRAME, Frame
from sansref.data.readers.dicom_series import series_of
from sansref.data.readers.record import FileInfo
from sansref.errors import SettingError, printable
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
    """What a series is made from.

    Attributes
    ----------
    identity
        Digest of the source's files.
    header
        Of the source, empty where it is no DICOM.
    frames
        The source's slices, none where it is no DICOM.
    """

    identity: str
    header: Any
    frames: tuple[Frame, ...] = ()


def source_of(path: Path, format_: str) -> DicomSource:
    """Look at a source, which is read as a whole for its digest.

    Raises
    ------
    FileError
        If it cannot be read any more.
    SettingError
        If pydicom is not installed.
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
    """Everything but the pixels and their place.

    The study, the frame of reference and the PatientID are those of a DICOM source. No name, no date and nothing else
    that could differ when the same command is repeated is made up.

    Parameters
    ----------
    info
        The file that was reconstructed.
    meta
        Of any of its scans.
    made
        By what.
    source
        The same file, as DICOM sees it.
    """
    from pydicom.dataset import Dataset

    new, identity = Dataset(), source.identity
    for name, default in REQUIRED.items():
        _carry(source.header, new, name, default)
    for name in OPTIONAL:
        _carry(source.header, new, name)
    new.SpecificCharacterSet = "ISO_IR 192"
    new.SOPClassUID, new.Modality, new.ImageType = CLASSIC, "MR", ["DERIVED", "SECONDARY", "OTHER"]
    _carry(source.header, new, "StudyInstanceUID", uid("study", identity))
    _carry(source.header, new, "FrameOfReferenceUID", uid("frame of reference", identity))
    if source.header.get("ImageLaterality") in ("L", "R"):
        _carry(source.header, new, "Laterality", source.header.ImageLaterality)
    sentences = made.sentences(info, meta)
    new.SeriesInstanceUID = uid("series", identity, made.weights, made.settings, *sentences)
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
    new.ContributingEquipmentSequence = [*_scanner(source.header), _equipment("109102", "Processing Equipment", new)]
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


def _scanner(header: Any) -> list[Dataset]:
    if not header.get("Manufacturer"):
        return []
    return [_equipment("109101", "Acquisition Equipment", header)]


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
