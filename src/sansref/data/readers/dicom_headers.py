"""What the headers of DICOM MR images say of each slice, the same for single-slice and multi-frame files.

Standard: DICOM PS3.3, MR Image (classic) and Enhanced MR Image; decoded by pydicom.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sansref.data.readers.dicom_files import FORMAT, header_of
from sansref.data.readers.guard import reading
from sansref.errors import FileError, printable

CLASSIC = "1.2.840.10008.5.1.4.1.1.4"
#: Enhanced MR Image, and what converters make of classic images.
MULTI_FRAME = frozenset(("1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.4.4"))
#: Pixels of a slice, four times more than any MR matrix: sizes beyond are damage.
MOST_PIXELS = 4096 * 4096
#: Values of ImageType and ComplexImageComponent for what is no magnitude.
NO_MAGNITUDE = frozenset(("P", "PHASE", "PHASE MAP", "R", "REAL", "I", "IMAGINARY"))
#: The functional group of multi-frame images in which each attribute stands.
MACROS = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "SpacingBetweenSlices": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "EffectiveEchoTime": "MREchoSequence",
    "FrameType": "MRImageFrameTypeSequence",
    "ComplexImageComponent": "MRImageFrameTypeSequence",
    "TemporalPositionIndex": "FrameContentSequence",
    "DiffusionBValue": "MRDiffusionSequence",
}
SHARED, PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
KEYWORDS = (
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "ImageType", "EchoTime", "TemporalPositionIdentifier"),
    *("NumberOfFrames", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated"),
    *("PixelPaddingValue", SHARED, PER_FRAME, *MACROS),
)

Get = Callable[[str], Any]


class Stack(NamedTuple):
    """What the slices of one volume have in common; series hold several where this differs."""

    series: str
    orientation: tuple[float, ...]
    size: tuple[int, int]
    spacing: tuple[float, ...]
    image_type: tuple[str, ...]
    echo_time: str
    time_point: str
    b_value: str


@dataclass(frozen=True, slots=True)
class Frame:
    """One slice.

    Attributes
    ----------
    file, number
        Where it is stored; frames of a file are counted from 0.
    instance
        The file's SOP Instance UID.
    sop_class
        The file's SOP Class UID.
    syntax
        The file's Transfer Syntax UID.
    stack
        The volume that it belongs to.
    orientation
        Direction along a row, then along a column (LPS+), (6,).
    position
        Centre of the first pixel (LPS+), in millimetres.
    thickness
        Of the slice, in millimetres, None where it is not stated; as is ``gap``.
    gap
        Distance of the slices' centres.
    slope, intercept
        From stored values to those of the file.
    padding
        Stored value of pixels outside the image.
    """

    file: Path
    number: int
    instance: str
    sop_class: str
    syntax: str
    stack: Stack
    orientation: tuple[float, ...]
    position: tuple[float, ...]
    thickness: float | None
    gap: float | None
    slope: float
    intercept: float
    padding: int | None


def frames_of(path: Path) -> list[Frame]:
    """Describe the slices in one file.

    Raises
    ------
    FileError
        If it cannot be read, or holds something else than magnitude images.
    """
    header = header_of(path, KEYWORDS)
    with reading(path, FORMAT):
        sop_class = str(header.get("SOPClassUID", ""))
        if sop_class != CLASSIC and sop_class not in MULTI_FRAME:
            name = printable(_uid(sop_class).name)[:80] or "nothing known"
            raise FileError(path, f"is DICOM that holds {name}, no MR image", "Give the files of an MR series")
        _check_pixels(path, header)
        getters = _per_frame(path, header) if sop_class in MULTI_FRAME else iter([header.get])
        return [_frame(path, header, get, number) for number, get in enumerate(getters)]


def _check_pixels(path: Path, header: Any) -> None:
    rows, columns = (_whole(path, header, name) for name in ("Rows", "Columns"))
    samples, bits = (_whole(path, header, name) for name in ("SamplesPerPixel", "BitsAllocated"))
    frames = int(header.get("NumberOfFrames") or 1)
    kind = header.get("PhotometricInterpretation")
    if samples != 1 or kind != "MONOCHROME2":
        problem = f"holds images of {samples} value(s) a pixel, {printable(str(kind))[:40]}; no grey ones"
        raise FileError(path, problem, "Give the grey images of the series")
    if bits not in (8, 16, 32):
        raise FileError(path, f"holds pixels of {bits} bits", "Convert it to 16 bits")
    if rows * columns > MOST_PIXELS:
        raise FileError(path, f"declares slices of {rows} x {columns} pixels", "Copy or download it again")
    size = path.stat().st_size
    compressed = _uid(_syntax(header)).is_compressed
    # A compressed frame takes a header of 8 bytes at least.
    least = 8 * frames if compressed else frames * rows * columns * bits // 8
    if frames < 1 or least > size:
        problem = f"is truncated: it has {size} bytes, its header promises {least} of pixels"
        raise FileError(path, problem, "Copy or download it again")


def _whole(path: Path, header: Any, name: str) -> int:
    value = header.get(name)
    if not isinstance(value, int) or value < 1:
        raise FileError(path, f"is DICOM without a usable {name}", "Export it again, or leave it out")
    return value


def _uid(text: str) -> Any:
    from pydicom.uid import UID

    return UID(text)


def _syntax(header: Any) -> str:
    return str(header.file_meta.TransferSyntaxUID)


def _per_frame(path: Path, header: Any) -> Iterator[Get]:
    """Of each frame of a multi-frame image, what gives its attributes."""
    groups = header.get(PER_FRAME) or []
    count = int(header.get("NumberOfFrames") or 0)
    if len(groups) != count or not count:
        problem = f"declares {count} frames and describes {len(groups)}"
        raise FileError(path, problem, "Export it again, or leave it out")
    shared = (header.get(SHARED) or [None])[0]
    for group in groups:
        yield _getter(header, [part for part in (group, shared) if part is not None])


def _getter(header: Any, groups: list[Any]) -> Get:
    def get(keyword: str) -> Any:
        macro = MACROS.get(keyword, "")
        for group in groups:
            if (items := group.get(macro)) and (value := items[0].get(keyword)) is not None:
                return value
        return header.get(keyword)

    return get


def _frame(path: Path, header: Any, get: Get, number: int) -> Frame:
    orientation = _numbers(path, get, "ImageOrientationPatient", 6)
    spacing = _numbers(path, get, "PixelSpacing", 2)
    if min(spacing) <= 0:
        raise FileError(path, "is DICOM whose PixelSpacing is not positive", "Export it again, or leave it out")
    image_type = tuple(str(word) for word in _listed(get("FrameType") or get("ImageType")))
    if NO_MAGNITUDE & {*image_type[2:], str(get("ComplexImageComponent"))}:
        problem = f"holds no magnitude: its image type is {printable('/'.join(image_type))[:80]}"
        raise FileError(path, problem, "Give the magnitude images")
    if "MOSAIC" in image_type:
        raise FileError(path, "is a mosaic of slices in one image", "Convert it to NIfTI, for example by dcm2niix")
    slope, intercept = _rescaling(path, get, "RescaleSlope", 1.0), _rescaling(path, get, "RescaleIntercept", 0.0)
    padding = header.get("PixelPaddingValue")
    stack = Stack(
        series=str(header.get("SeriesInstanceUID", "")),
        orientation=tuple(round(value, 3) + 0.0 for value in orientation),
        size=(header.Rows, header.Columns),
        spacing=spacing,
        image_type=image_type,
        echo_time=str(get("EffectiveEchoTime") or get("EchoTime")),
        time_point=str(get("TemporalPositionIndex") or get("TemporalPositionIdentifier")),
        b_value=str(get("DiffusionBValue")),
    )
    return Frame(
        file=path,
        number=number,
        instance=str(header.get("SOPInstanceUID", "")),
        sop_class=str(header.SOPClassUID),
        syntax=_syntax(header),
        stack=stack,
        orientation=orientation,
        position=_numbers(path, get, "ImagePositionPatient", 3),
        thickness=_number(get("SliceThickness")),
        gap=_number(get("SpacingBetweenSlices")),
        slope=slope,
        intercept=intercept,
        padding=padding if isinstance(padding, int) else None,
    )


def _listed(value: Any) -> list[Any]:
    """The values of an attribute, which pydicom gives alone where there is only one."""
    if value is None or value == "":
        return []
    return list(value) if hasattr(value, "__iter__") and not isinstance(value, str) else [value]


def _number(value: Any) -> float | None:
    """A finite number, None where nothing is stated."""
    if value is None or value == "":
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def _rescaling(path: Path, get: Get, name: str, default: float) -> float:
    value = get(name)
    if value is None or value == "":
        return default
    number = _number(value)
    if number is None:
        raise FileError(path, f"is DICOM without a usable {name}", "Export it again, or leave it out")
    return number


def _numbers(path: Path, get: Get, name: str, count: int) -> tuple[float, ...]:
    values = [float(value) for value in _listed(get(name))]
    if len(values) != count or not all(map(math.isfinite, values)):
        raise FileError(path, f"is DICOM without a usable {name}", "Export it again, or leave it out")
    return tuple(values)
