"""What DICOM files say before their pixels: their magic, and the header of every slice."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import starmap
from pathlib import Path
from typing import Any, NamedTuple

from sansref.data.readers.damage import head_of, reading
from sansref.errors import FileError, SansrefError, SettingError, printable

FORMAT = "DICOM"
PREAMBLE = 128
MAGIC = b"DICM"
#: Of a bare data set: the last element with which one begins, and the longest value of that.
LAST_ELEMENT, LONGEST_VALUE = 0x0018, 64
DIRECTORY = "1.2.840.10008.1.3.10"
DEFLATED = "1.2.840.10008.1.2.1.99"


def is_dicom(path: Path) -> bool:
    """Whether a file has the magic of DICOM files, or begins as they do behind it."""
    try:
        if not path.is_file():  # to open a pipe could take for ever
            return False
        head = head_of(path, PREAMBLE + len(MAGIC))
        return head[PREAMBLE:] == MAGIC or bare(head)
    except OSError:  # whoever opens it says why
        return False


def bare(head: bytes) -> bool:
    """Whether a file begins with elements of DICOM's first groups, as from a network, without preamble and magic."""
    group, element, kind = head[:2], int.from_bytes(head[2:4], "little"), head[4:6]
    explicit = kind in (b"UL", b"UI", b"CS", b"SH", b"DA", b"TM")
    short = 0 < int.from_bytes(head[4:8], "little") <= LONGEST_VALUE
    return group in (b"\2\0", b"\x08\0") and element <= LAST_ELEMENT and (explicit or (group == b"\x08\0" and short))


def header_of(path: Path, keywords: tuple[str, ...]) -> Any:
    """These attributes, of all that stands before the pixels, as a pydicom dataset; values are decoded on access.

    Raises ``FileError`` if it cannot be read, and ``SettingError`` if pydicom is not installed.
    """
    try:
        from pydicom import dcmread
        from pydicom.filereader import read_file_meta_info
    except ImportError:
        raise SettingError("reading DICOM needs the package pydicom: pip install pydicom") from None
    with reading(path, FORMAT):
        head = head_of(path, PREAMBLE + len(MAGIC))
        if head[PREAMBLE:] != MAGIC and bare(head):
            problem = "is DICOM without the header of a file, as sent over a network"
            raise FileError(path, problem, "Write it as a file, for example by dcmconv")
        # Expanding it could take any amount of memory, and nobody stores MR images so.
        if str(read_file_meta_info(path).get("TransferSyntaxUID")) == DEFLATED:
            problem = "is deflated as a whole that sansref does not read"
            raise FileError(path, problem, "Convert it, for example by dcmconv +te")
        return dcmread(path, stop_before_pixels=True, specific_tags=list(keywords))


def is_directory(path: Path) -> bool:
    """Whether a DICOM file only lists others (DICOMDIR)."""
    try:
        with reading(path, FORMAT):
            return str(header_of(path, ("SOPClassUID",)).file_meta.get("MediaStorageSOPClassUID")) == DIRECTORY
    except SansrefError:
        return False


CLASSIC = "1.2.840.10008.5.1.4.1.1.4"
#: Enhanced MR Image, and what converters make of classic images.
MULTI_FRAME = frozenset(("1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.4.4"))
#: Numbers of a header that differ by no more than this part of them, and directions by no more than this, were rounded.
ROUNDING, DIRECTION_ROUNDING = 1e-3, 2e-3
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
    # Without the representation of pixels, the numbers behind it cannot be told from implicit value representations.
    *("BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("ModalityLUTSequence", SHARED, PER_FRAME, *MACROS),
)

Get = Callable[[str], Any]


class Stack(NamedTuple):
    """What the slices of one volume have in common; series hold several where this differs by more than rounding."""

    series: str
    size: tuple[int, int]
    image_type: tuple[str, ...]
    time_point: str
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    echo_time: float | str
    b_value: float | str

    @property
    def exact(self) -> tuple[object, ...]:
        """What allows for no rounding."""
        return self[:4]

    @property
    def measured(self) -> tuple[float | str, ...]:
        """Numbers that may have been rounded, or what stands in their place."""
        return (*self.spacing, self.echo_time, self.b_value)

    def resembles(self, other: Stack) -> bool:
        """Whether rounding alone may set two apart."""
        turned = (abs(a - b) for a, b in zip(self.orientation, other.orientation, strict=True))
        alike = all(starmap(_resemble, zip(self.measured, other.measured, strict=True)))
        return self.exact == other.exact and max(turned) <= DIRECTION_ROUNDING and alike


@dataclass(frozen=True, slots=True)
class Frame:
    """One slice, frame ``number`` (from 0) of a file; lengths are in millimetres, directions the patient's (LPS+).

    ``orientation`` is the direction along a row, then along a column, (6,); ``position`` the center of the first pixel;
    ``gap`` the distance of the slices' centers. What is not stated is None. ``padding`` holds the first and the last of
    the stored values that pixels outside the image have. A lookup table may give values in the place of slope and
    intercept.
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
    padding: tuple[int, int] | None
    looked_up: bool


def frames_of(path: Path) -> list[Frame]:
    """Describe the slices in one file.

    Raises ``FileError`` if it cannot be read, or holds something else than magnitude images.
    """
    header = header_of(path, KEYWORDS)
    with reading(path, FORMAT):
        sop_class = str(header.get("SOPClassUID", ""))
        if sop_class != CLASSIC and sop_class not in MULTI_FRAME:
            name = printable(_uid(sop_class).name)[:80] or "nothing known"
            raise FileError(path, f"is DICOM that holds {name}, not an MR image", "Give the files of an MR series")
        _check_pixels(path, header)
        frames = int(header.get("NumberOfFrames") or 1)
        if sop_class == CLASSIC and frames > 1:
            problem = f"holds {frames} frames in one image of a kind (classic MR) that says of one only where it lies"
            raise FileError(path, problem, "Convert it to single-frame files, or to Enhanced MR")
        getters = _per_frame(path, header) if sop_class in MULTI_FRAME else iter([header.get])
        return [_frame(path, header, get, number) for number, get in enumerate(getters)]


def settled(frames: Iterable[Frame]) -> list[Frame]:
    """Let frames whose stacks resemble each other be of one: the first of these."""
    stacks: dict[tuple[object, ...], list[Stack]] = {}
    settled = []
    for frame in frames:
        alike = stacks.setdefault(frame.stack.exact, [])
        stack = next((stack for stack in alike if stack.resembles(frame.stack)), None)
        if stack is None:
            alike.append(stack := frame.stack)
        settled.append(frame if stack is frame.stack else replace(frame, stack=stack))
    return settled


def _resemble(one: float | str, other: float | str) -> bool:
    text = isinstance(one, str) or isinstance(other, str)
    return one == other if text else math.isclose(one, other, rel_tol=ROUNDING)  # type: ignore[arg-type]


def _check_pixels(path: Path, header: Any) -> None:
    rows, columns = (_whole(path, header, name) for name in ("Rows", "Columns"))
    samples, bits = (_whole(path, header, name) for name in ("SamplesPerPixel", "BitsAllocated"))
    frames = int(header.get("NumberOfFrames") or 1)
    kind = header.get("PhotometricInterpretation")
    if samples == 1 and kind == "MONOCHROME1":
        problem = "shows its small values bright (MONOCHROME1), so it is no magnitude"
        raise FileError(path, problem, "Give the original images of the scanner")
    if samples != 1 or kind != "MONOCHROME2":
        problem = f"holds images of {samples} value(s) a pixel, {printable(str(kind))[:40]}; no grey ones"
        raise FileError(path, problem, "Give the greyscale images of the series")
    if bits not in (8, 16, 32):
        raise FileError(path, f"holds pixels of {bits} bits", "Convert it to 16 bits")
    stored, last = header.get("BitsStored", bits), header.get("HighBit")
    if last is not None and last != stored - 1:
        problem = f"stores pixels of {stored} bits from bit {last} downwards (HighBit), as no current file does"
        raise FileError(path, problem, "Export it again, or leave it out")
    if rows * columns > MOST_PIXELS:
        raise FileError(path, f"declares slices of {rows} x {columns} pixels", "Copy or download it again")
    size = path.stat().st_size
    # A compressed frame takes a header of 8 bytes at least.
    least = 8 * frames if _uid(_syntax(header)).is_compressed else frames * rows * columns * bits // 8
    if frames < 1 or least > size:
        problem = f"is truncated: it has {size} bytes, its header promises {least} of pixels"
        raise FileError(path, problem, "Copy or download it again")


def _whole(path: Path, header: Any, name: str) -> int:
    value = header.get(name)
    if not isinstance(value, int) or value < 1:
        raise _unusable(path, name)
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
    shared = list(header.get(SHARED) or [])[:1]
    for group in groups:
        yield _getter(header, [group, *shared])


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
    image_type = tuple(str(word).strip() for word in _listed(get("FrameType") or get("ImageType")))
    while image_type and not image_type[-1]:
        image_type = image_type[:-1]
    if NO_MAGNITUDE & {*image_type[2:], str(get("ComplexImageComponent"))}:
        problem = f"holds no magnitude: its image type is {printable('/'.join(image_type))[:80]}"
        raise FileError(path, problem, "Give the magnitude images")
    if "MOSAIC" in image_type:
        raise FileError(path, "is a mosaic of slices in one image", "Convert it to NIfTI, for example by dcm2niix")
    (slope,) = _numbers(path, get, "RescaleSlope", 1, (1.0,))
    (intercept,) = _numbers(path, get, "RescaleIntercept", 1, (0.0,))
    stack = Stack(
        series=str(header.get("SeriesInstanceUID", "")),
        size=(header.Rows, header.Columns),
        image_type=image_type,
        time_point=str(get("TemporalPositionIndex") or get("TemporalPositionIdentifier")),
        orientation=orientation,
        spacing=spacing,
        echo_time=_measured(get("EffectiveEchoTime") or get("EchoTime")),
        b_value=_measured(get("DiffusionBValue")),
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
        padding=_padding(header),
        looked_up=bool(header.get("ModalityLUTSequence")),
    )


def _padding(header: Any) -> tuple[int, int] | None:
    """Stored values outside the image: one, or all between two (PS3.3, C.7.5.1.1.2)."""
    value, limit = header.get("PixelPaddingValue"), header.get("PixelPaddingRangeLimit")
    ends = [as_stored(end, header) for end in (value, value if limit is None else limit)]
    return None if ends[0] is None or ends[1] is None else (min(ends[0], ends[1]), max(ends[0], ends[1]))


def as_stored(value: Any, header: Any) -> int | None:
    """A number of a header as pixels have it, None where none can have it.

    Files say such numbers without their sign, or with one that pixels do not have, and leave bits unused.
    """
    if not isinstance(value, int):
        return None
    bits = header.get("BitsStored") or header.BitsAllocated
    least = -(1 << (bits - 1)) if header.get("PixelRepresentation") == 1 else 0
    periods = (0, 1 << header.BitsAllocated, 1 << bits)
    shifted = (value + sign * period for period in periods for sign in (-1, 1))
    return next((one for one in shifted if least <= one < least + (1 << bits)), None)


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


def _measured(value: Any) -> float | str:
    """A number where there is one, to be compared with others that were rounded; else what stands there."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)


def _numbers(path: Path, get: Get, name: str, count: int, default: tuple[float, ...] = ()) -> tuple[float, ...]:
    values = tuple(float(value) for value in _listed(get(name))) or default
    if len(values) != count or not all(map(math.isfinite, values)):
        raise _unusable(path, name)
    return values


def _unusable(path: Path, name: str) -> FileError:
    return FileError(path, f"is DICOM without a usable {name}", "Export it again, or leave it out")
