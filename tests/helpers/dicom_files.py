"""DICOM series as scanners write them, small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

oblique = (0.9, 0.3, np.sqrt(0.1), *np.array([-0.3, 0.9, 0.0]) / np.sqrt(0.9))


def image(index: int, pixels: Any, orientation: Any, position: Any, spacing: Any, **changes: Any) -> Any:
    """One MR image as a pydicom dataset; None removes an attribute, all others replace it."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID, made.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", f"1.2.3.4.{index}"
    made.StudyInstanceUID, made.SeriesInstanceUID, made.FrameOfReferenceUID = "1.2.3", "1.2.3.4", "1.2.3.5"
    made.Modality, made.ImageType = "MR", ["ORIGINAL", "PRIMARY", "M", "ND"]
    made.Manufacturer, made.ManufacturerModelName, made.SeriesNumber = "MAKER", "MODEL 3T", 7
    made.PatientName, made.PatientID, made.StudyDate = "Doe^Jane", "P-17", "20200229"
    made.SeriesDescription, made.ProtocolName = "T2w TSE", "protocol"
    made.ScanningSequence, made.SequenceVariant, made.EchoTime, made.RepetitionTime = "SE", "SK", 80.0, 3000.0
    made.MRAcquisitionType, made.SliceThickness = "2D", 3.0
    made.ImageOrientationPatient = [float(value) for value in np.round(orientation, 8)]
    made.ImagePositionPatient = [float(value) for value in np.round(position, 6)]
    made.PixelSpacing = list(spacing)
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PixelRepresentation = 1, "MONOCHROME2", 0
    made.BitsAllocated, made.BitsStored, made.HighBit = 16, 16, 15
    made.Rows, made.Columns = pixels.shape
    made.PixelData = pixels.astype("<u2").tobytes()
    made["PixelData"].VR = "OW"
    made.InstanceNumber = index + 1
    for name, value in changes.items():
        if value is None:
            delattr(made, name)
        else:
            setattr(made, name, value)
    return made


def series(
    volume: Any, orientation: Any = oblique, step: float = 4.0, spacing: Any = (0.5, 0.75), **changes: Any
) -> Any:
    """The images of a volume (slices, rows, columns), along the normal."""
    normal = np.cross(orientation[:3], orientation[3:])
    places = [np.array([-40.0, -60.0, 12.5]) + number * step * normal for number in range(len(volume))]
    return [
        image(number, pixels, orientation, place, spacing, **changes)
        for number, (pixels, place) in enumerate(zip(volume, places, strict=True))
    ]


def save(folder: Path, images: Any, names: str = "IM{:04d}") -> list[Path]:
    """Write images in another order than that of their places; the paths come in the order of the images."""
    folder.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(0).permutation(len(images))
    paths = []
    for made, number in zip(images, order, strict=True):
        paths.append(folder / names.format(number))
        made.save_as(paths[-1], enforce_file_format=True)
    return paths


def enhanced(images: Any, **changes: Any) -> Any:
    """The same images in one Enhanced MR file, with functional groups as the standard has them."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    first = images[0]
    made = Dataset()
    made.update({element.tag: element for element in first if element.keyword not in PER_IMAGE})
    made.file_meta, made.SOPClassUID = first.file_meta, "1.2.840.10008.5.1.4.1.1.4.1"
    made.SOPInstanceUID, made.NumberOfFrames = "1.2.3.4.100", len(images)
    made.SharedFunctionalGroupsSequence = Sequence([Dataset()])
    made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence = [
        _item(PixelSpacing=first.PixelSpacing, SliceThickness=first.SliceThickness)
    ]
    made.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence = [
        _item(ImageOrientationPatient=first.ImageOrientationPatient)
    ]
    frames = []
    for one in images:
        frame = Dataset()
        frame.PlanePositionSequence = [_item(ImagePositionPatient=one.ImagePositionPatient)]
        frame.PixelValueTransformationSequence = [
            _item(RescaleSlope=one.get("RescaleSlope", 1), RescaleIntercept=one.get("RescaleIntercept", 0))
        ]
        frames.append(frame)
    made.PerFrameFunctionalGroupsSequence = frames
    made.PixelData = b"".join(one.PixelData for one in images)
    made["PixelData"].VR = "OW"
    for name, value in changes.items():
        setattr(made, name, value)
    return made


PER_IMAGE = frozenset(
    (
        *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "PixelData"),
        *("RescaleSlope", "RescaleIntercept", "SOPInstanceUID", "InstanceNumber", "EchoTime"),
    )
)


def _item(**values: Any) -> Any:
    from pydicom.dataset import Dataset

    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made


def volume(shape: tuple[int, int, int] = (5, 6, 8), seed: int = 0) -> Any:
    """Every voxel has its own value, from 1."""
    values = 1 + np.random.default_rng(seed).permutation(int(np.prod(shape)))
    return values.astype(np.uint16).reshape(shape)
