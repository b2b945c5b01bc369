"""The header of raw data: how the acquisitions that follow were encoded, read from XML without trusting it.

Source: the ISMRMRD XML schema, version 1.14 (Inati et al., Magn Reson Med 77(1), 2017).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from sansref.errors import FileError, printable

#: Characters of a header; real ones have some ten thousand.
MOST_TEXT = 4 * 2**20


class HeaderXml:
    """The XML document of an ISMRMRD header, in any or no namespace.

    Errors blame the ``source`` (a file or a sender) and name the cure. Raises ``FileError`` if the text is too long, is
    not XML, or declares a document type (entities could expand without bound).
    """

    def __init__(self, source: Path | str, text: str, cure: str) -> None:
        self._source = source
        self._cure = cure
        if len(text) > MOST_TEXT:
            raise self.error(f"of {len(text)} characters, more than {MOST_TEXT}")
        if "<!DOCTYPE" in text.upper():
            raise self.error("with a document type declaration, which is unsafe")
        try:
            self._root = ElementTree.fromstring(text.rstrip("\0"))
        except (ElementTree.ParseError, ValueError) as error:
            raise self.error(f"that is not XML ({error})") from error

    def error(self, problem: str) -> FileError:
        """A ``FileError``: the source "has an ISMRMRD header ``problem``"."""
        return FileError(self._source, f"has an ISMRMRD header {problem}", self._cure)

    def count(self, name: str) -> int:
        """How many elements there are of this name, such as ``encoding``."""
        return len(self._root.findall(_any_namespace(name)))

    def bring_first(self, name: str, index: int) -> None:
        """Let one of the elements of this name, from 0, come before the others: it is the one that is read."""
        found = self._root.findall(_any_namespace(name))
        if index >= max(len(found), 1):
            raise self.error(f"with {len(found)} x {name}, while acquisitions refer to number {index + 1}")
        if index:
            self._root.remove(found[index])
            self._root.insert(0, found[index])

    def text(self, name: str) -> str | None:
        """One printable line of text, None where the element is missing or empty."""
        value = self._root.findtext(_any_namespace(name))
        return printable(value) or None if value is not None else None

    def whole(self, name: str, least: int, default: int | None = None) -> int:
        """A whole number of at least ``least``; ``default`` (None: an error) where the element is missing."""
        value = self.text(name)
        if value is None and default is not None:
            return default
        try:
            number = int(self._needed(name, value))
        except ValueError:
            number = least - 1
        if number < least:
            raise self._unusable(name, value, f"a whole number from {least}")
        return number

    def millimetres(self, name: str) -> float:
        """A length that a field of view may have."""
        value = self.text(name)
        try:
            number = float(self._needed(name, value))
        except ValueError:
            number = math.nan
        if not 1e-3 <= number <= 1e6:
            raise self._unusable(name, value, "a positive length in millimetres")
        return number

    def _needed(self, name: str, value: str | None) -> str:
        if value is None:
            raise self.error(f"without {name}")
        return value

    def _unusable(self, name: str, value: str | None, expected: str) -> FileError:
        return self.error(f"where {name} is {(value or '')[:40]!r}, not {expected}")


def _any_namespace(name: str) -> str:
    # "{*}" matches any namespace and none.
    return "/".join(f"{{*}}{part}" for part in name.split("/"))


CURE = "Export the data again with a complete ISMRMRD header"
#: Counters of an acquisition are 16 bits wide, so no grid can be larger.
MOST_STEPS = 65536
#: Encodings of a measurement; real headers have one to three.
MOST_ENCODINGS = 64

#: Ways to lie, by what comes first and what is down: head or feet; supine, prone, on the right or the left.
LYING = frozenset(f"{first}F{down}" for first in "HF" for down in ("S", "P", "DR", "DL"))

Size = tuple[int, int, int]
Lengths = tuple[float, float, float]

BLANKED = re.compile(
    r"(?:x+|0+|-+|anon(?!.*\d).*|de-?identified|unknown|none|null|n/?a|no(?:name|id)|patient|removed|redacted)", re.I
)
"""What anonymisation leaves where an identifier was, which is then the same for everybody."""


@dataclass(frozen=True, slots=True)
class StepLimits:
    """First, last and central value of an encoding counter; the center is where k-space is zero."""

    minimum: int
    maximum: int
    center: int


@dataclass(frozen=True, slots=True)
class MrdHeader:
    """How k-space was encoded; x is the readout, y the phase encoding, z the partitions of a 3-D slab.

    Attributes
    ----------
    encoded, recon
        Size (x, y, z) of the encoded grid, and of the image that the scanner would make of it.
    encoded_fov, recon_fov
        Field of view (x, y, z) of the two in millimetres; the encoded one includes oversampling.
    steps1, steps2
        Limits of the phase-encoding and of the partition counter.
    averages
        How often each line is acquired, as declared.
    calibration
        How lines for parallel imaging are acquired ("embedded", "separate", ...), None where it is not said.
    siemens
        Whether a scanner of Siemens acquired the data.
    subject, contrast
        Patient identifier and protocol name, None where they are missing.
    placed
        False where directions are not those of the sequence's axes, so that the place of its images is unknown.
    notes
        What a person should know about how the header is read, as sentences.
    lying
        How the patient lay in the scanner, such as HFS, as DICOM has it; None where it is not told.
    fovs
        Encoded field of view (x, y, z) in millimetres of each encoding, this one first; None where it is not told.
    """

    encoded: Size
    recon: Size
    encoded_fov: Lengths
    recon_fov: Lengths
    steps1: StepLimits
    steps2: StepLimits
    averages: int = 1
    calibration: str | None = None
    siemens: bool = False
    placed: bool = True
    subject: str | None = None
    contrast: str | None = None
    lying: str | None = None
    notes: tuple[str, ...] = ()
    fovs: tuple[Lengths | None, ...] = ()

    @property
    def direction_sign(self) -> int:
        """Whether image axes run along (1) or against (-1) the directions in the acquisitions.

        The directions of Siemens hold for a forward transform from k-space to the image (twixtools' geometry negates
        them for the same reason; so does mrpro, by conjugating the data).
        """
        return -1 if self.siemens else 1

    @property
    def pixels(self) -> Size:
        """Size (x, y, z) of the reconstructed field of view on the encoded grid: what is left without oversampling.

        ``recon`` may be larger, where the scanner interpolates.
        """
        ratios = zip(self.encoded, self.recon_fov, self.encoded_fov, strict=True)
        x, y, z = (min(max(round(size * kept / whole), 1), size) for size, kept, whole in ratios)
        return x, y, z

    @property
    def spacing(self) -> Lengths:
        """Distance of the samples of the image (x, y, z) in millimetres."""
        x, y, z = (length / size for length, size in zip(self.encoded_fov, self.encoded, strict=True))
        return x, y, z


def parse_header(source: Path | str, text: str, cure: str = CURE, encoding: int = 0) -> MrdHeader:
    """Read one encoding of an ISMRMRD header, from 0: the one that image lines refer to.

    Errors blame the ``source`` (a file or a sender) and name the cure. Raises ``FileError`` if the text is not XML or
    unsafe, lacks an element, holds a value that is not a usable number, or describes data that were not encoded on a
    Cartesian grid.
    """
    xml = HeaderXml(source, text, cure)
    encodings = xml.count("encoding")
    if encodings > MOST_ENCODINGS:
        raise xml.error(f"with {encodings} encodings, more than {MOST_ENCODINGS}")
    xml.bring_first("encoding", encoding)
    _check_trajectory(source, xml)
    which = "the first" if encoding == 0 else f"number {encoding + 1}"
    notes = (f"The header describes {encodings} encodings; {which} is read.",) if encodings > 1 else ()
    encoded, limits = _size(xml, "encodedSpace"), "encoding/encodingLimits"
    vendor = xml.text("acquisitionSystemInformation/systemVendor") or ""
    lying = xml.text("measurementInformation/patientPosition")
    return MrdHeader(
        encoded=encoded,
        recon=_size(xml, "reconSpace"),
        encoded_fov=_lengths(xml, "encodedSpace"),
        recon_fov=_lengths(xml, "reconSpace"),
        steps1=_limits(xml, f"{limits}/kspace_encoding_step_1", encoded[1]),
        steps2=_limits(xml, f"{limits}/kspace_encoding_step_2", encoded[2]),
        averages=xml.whole(f"{limits}/average/maximum", 0, 0) + 1,
        calibration=(xml.text("encoding/parallelImaging/calibrationMode") or "").lower() or None,
        siemens="siemens" in vendor.lower(),
        subject=identifier(xml.text("subjectInformation/patientID") or ""),
        contrast=xml.text("measurementInformation/protocolName"),
        lying=lying if lying in LYING else None,
        notes=notes,
        fovs=tuple(_fov_of(xml, number) for number in range(1, encodings + 1)),
    )


def identifier(text: str) -> str | None:
    """A patient's identifier in one line; None where it is missing or was blanked (``XXXX``, ``ANON``, ``0``)."""
    line = printable(text)
    return None if not line or BLANKED.fullmatch(line.replace(" ", "")) else line


def _check_trajectory(source: Path | str, xml: HeaderXml) -> None:
    trajectory = xml.text("encoding/trajectory") or "cartesian"
    if trajectory.lower() == "epi":
        problem = "was acquired by echo-planar imaging, which needs regridding and ghost correction first"
        raise FileError(source, problem, "Correct it with the scanner's or another toolbox and give its k-space")
    if trajectory.lower() != "cartesian":
        problem = f"has a trajectory that is {trajectory[:40]!r}, not Cartesian"
        raise FileError(source, problem, "Give Cartesian data, or grid them first")


def _size(xml: HeaderXml, space: str) -> Size:
    x, y, z = (xml.whole(f"encoding/{space}/matrixSize/{axis}", 1) for axis in "xyz")
    if max(x, y, z) > MOST_STEPS:
        raise xml.error(f"where encoding/{space}/matrixSize is {x} x {y} x {z}, more than any scan has")
    return x, y, z


def _lengths(xml: HeaderXml, space: str) -> Lengths:
    x, y, z = (xml.millimetres(f"encoding/{space}/fieldOfView_mm/{axis}") for axis in "xyz")
    return x, y, z


def _fov_of(xml: HeaderXml, number: int) -> Lengths | None:
    """Encoded field of view of one of the encodings, from 1; None where it is not told: it may not be needed."""
    name = f"encoding[{number}]/encodedSpace/fieldOfView_mm"
    try:
        x, y, z = (xml.millimetres(f"{name}/{axis}") for axis in "xyz")
    except FileError:
        return None
    return x, y, z


def _limits(xml: HeaderXml, name: str, size: int) -> StepLimits:
    """Limits of a counter; the whole grid where they are not given."""
    first, last = xml.whole(f"{name}/minimum", 0, 0), xml.whole(f"{name}/maximum", 0, size - 1)
    center = xml.whole(f"{name}/center", 0, size // 2)
    if not first <= last < MOST_STEPS or center >= MOST_STEPS:
        raise xml.error(f"where {name} is {first} to {last} about {center}, which is impossible")
    return StepLimits(first, last, center)
