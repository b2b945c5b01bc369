"""The part of an ISMRMRD header that places a fastMRI file's k-space: grid sizes, field of view and limits.

Source: the ISMRMRD XML schema (Inati et al., Magn Reson Med 2017), elements of ``encoding``. Raw data need more of the
header: :mod:`sansref.data.mrd.header`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sansref.data.mrd.xml import HeaderXml

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
    xml = HeaderXml(path, text, CURE)
    encoded, recon = "encoding/encodedSpace", "encoding/reconSpace"
    step = "encoding/encodingLimits/kspace_encoding_step_1"
    header = EncodingHeader(
        encoded=(xml.whole(f"{encoded}/matrixSize/x", 1), xml.whole(f"{encoded}/matrixSize/y", 1)),
        recon=(xml.whole(f"{recon}/matrixSize/x", 1), xml.whole(f"{recon}/matrixSize/y", 1)),
        field_of_view=(xml.millimetres(f"{encoded}/fieldOfView_mm/x"), xml.millimetres(f"{encoded}/fieldOfView_mm/y")),
        limits=(xml.whole(f"{step}/minimum", 0), xml.whole(f"{step}/maximum", 0), xml.whole(f"{step}/center", 0)),
    )
    first, stop = header.acquired_columns()
    if first >= stop:
        limits = "minimum {}, maximum {}, center {}".format(*header.limits)
        raise xml.error(f"whose limits ({limits}) leave no acquired column")
    return header
