"""The part of an ISMRMRD header that places a fastMRI file's k-space: grid sizes, field of view and limits.

Source: the ISMRMRD XML schema (Inati et al., Magn Reson Med 2017), elements of ``encoding``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from sansref.errors import FileError

CURE = "Repair the header, or remove the dataset 'ismrmrd_header' to read the file without one"


@dataclass(frozen=True, slots=True)
class EncodingHeader:
    """How k-space was encoded; x is the readout, y the phase-encoding direction.

    Attributes
    ----------
    encoded
        Size (x, y) of the encoded grid.
    recon
        Size (x, y) of the image that the scanner reconstructs.
    field_of_view
        Encoded field of view (x, y) in millimetres.
    limits
        First, last and central phase-encoding step that was acquired.
    """

    encoded: tuple[int, int]
    recon: tuple[int, int]
    field_of_view: tuple[float, float]
    limits: tuple[int, int, int]

    def acquired_columns(self) -> tuple[int, int]:
        """First acquired column of the encoded grid, and one past the last; the others are zero-padded.

        Step ``center`` lies at DC, which is column ``encoded_y // 2``.
        """
        minimum, maximum, center = self.limits
        shift = self.encoded[1] // 2 - center
        return max(shift + minimum, 0), min(shift + maximum + 1, self.encoded[1])


def parse_encoding_header(path: Path, text: str) -> EncodingHeader:
    """Read the first encoding of an ISMRMRD header.

    Parameters
    ----------
    path
        The file that holds the header, for error messages.
    text
        The XML document, in any or no namespace.

    Raises
    ------
    FileError
        If it is not XML, declares a document type (entities could expand without bound), lacks an element or
        holds a value that is not a usable number.
    """
    if "<!DOCTYPE" in text.upper():
        raise FileError(path, "has an ISMRMRD header with a document type declaration, which is unsafe", CURE)
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise FileError(path, f"has an ISMRMRD header that is not XML ({error})", CURE) from error

    def element(name: str) -> str:
        # "{*}" matches any namespace and none.
        value = root.findtext("/".join(f"{{*}}{part}" for part in f"encoding/{name}".split("/")))
        if value is None:
            raise FileError(path, f"has an ISMRMRD header without encoding/{name}", CURE)
        return value.strip()

    def whole(name: str, least: int) -> int:
        value = element(name)
        try:
            number = int(value)
        except ValueError:
            number = least - 1
        if number < least:
            raise _unusable(path, name, value, f"a whole number from {least}")
        return number

    def millimetres(name: str) -> float:
        value = element(name)
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            raise _unusable(path, name, value, "a positive length in millimetres")
        return number

    step = "encodingLimits/kspace_encoding_step_1"
    header = EncodingHeader(
        encoded=(whole("encodedSpace/matrixSize/x", 1), whole("encodedSpace/matrixSize/y", 1)),
        recon=(whole("reconSpace/matrixSize/x", 1), whole("reconSpace/matrixSize/y", 1)),
        field_of_view=(millimetres("encodedSpace/fieldOfView_mm/x"), millimetres("encodedSpace/fieldOfView_mm/y")),
        limits=(whole(f"{step}/minimum", 0), whole(f"{step}/maximum", 0), whole(f"{step}/center", 0)),
    )
    first, stop = header.acquired_columns()
    if first >= stop:
        limits = "minimum {}, maximum {}, center {}".format(*header.limits)
        raise FileError(path, f"has an ISMRMRD header whose limits ({limits}) leave no acquired column", CURE)
    return header


def _unusable(path: Path, name: str, value: str, expected: str) -> FileError:
    return FileError(path, f"has an ISMRMRD header where encoding/{name} is {value[:40]!r}, not {expected}", CURE)
