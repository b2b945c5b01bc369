"""Reconstructed slices as MRD images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from ismrmrd import IMTYPE_MAGNITUDE, IMTYPE_REAL, AcquisitionHeader, Image, Meta
from torch import Tensor

from sansref import __version__
from sansref.data.mrd.header import MrdHeader
from sansref.data.provenance import RELATIVE, WARNING, Provenance
from sansref.scan import ScanMeta

#: What is appended to the name of the series.
SUFFIX = "sansref_RESEARCH"
#: Pixel of an image of integers.
LARGEST = 4095

Pixel = Literal["float32", "int16"]


@dataclass(frozen=True, slots=True)
class SentImage:
    """Magnitudes in the units of the lines, float32 (partitions, rows, columns), and how they came about.

    ``maps`` are error maps of the same shape by their names, each with a sentence that says what it is; ``told`` is
    what they tell of the image, sentences.
    """

    slices: Tensor
    acceleration: float
    meta: ScanMeta
    seconds: float
    maps: Mapping[str, tuple[Tensor, str]] = field(default_factory=dict)
    told: Sequence[str] = ()


def mrd_images(
    done: SentImage,
    line: AcquisitionHeader,
    header: MrdHeader,
    made: Provenance,
    number: int,
    pixel: Pixel = "float32",
) -> Iterator[Image]:
    """The MRD image of a group of lines, and then its error maps, each in a series of its own.

    One slice, or all partitions of a slab. Any of the lines says where the image lies and when it was acquired. Images
    are series 1, and numbered from 1 in it as their maps are in theirs. Pixels of int16 go from 0 to 4095, with the way
    back in the attributes RescaleSlope and RescaleIntercept, and a window.
    """
    attributes = _attributes(done, made, line)
    attributes["ImageComments"] += done.told
    yield _mrd_image(done.slices, line, header, attributes, (1, number), pixel)
    for series, (name, (values, meaning)) in enumerate(done.maps.items(), start=2):
        own = _attributes(done, made, line)
        own["ImageComments"] = [meaning, *own["ImageComments"], *done.told]
        suffix = {f"{what}DescriptionAdditional": f"sansref_{name}_RESEARCH" for what in ("Series", "Sequence")}
        yield _mrd_image(values, line, header, own | suffix, (series, number), pixel)


def _mrd_image(
    slices: Tensor,
    line: AcquisitionHeader,
    header: MrdHeader,
    attributes: dict[str, Any],
    place: tuple[int, int],
    pixel: Pixel,
) -> Image:
    """One image at its place, the numbers of a series and in it."""
    series, number = place
    slices = along_directions(slices, header.direction_sign)
    values = slices.numpy()
    if pixel == "int16":
        values, scale = _as_integers(values)
        attributes |= scale
    partitions, rows, columns = slices.shape
    x, y, z = header.spacing
    thickness = header.recon_fov[2] / header.recon[2]
    image = Image.from_array(
        # Our rows are the readout, MRD's fastest axis.
        np.ascontiguousarray(values.transpose(0, 2, 1)),
        line,
        average=0,  # averages have become one image
        field_of_view=(rows * x, columns * y, partitions * z if partitions > 1 else thickness),
        image_type=IMTYPE_REAL if bool((slices < 0).any()) else IMTYPE_MAGNITUDE,
        image_series_index=series,
        image_index=number,
    )
    image.attribute_string = Meta(attributes).serialize()
    return image


def along_directions(slices: Tensor, sign: int) -> Tensor:
    """Let axes (partitions, rows, columns) run along the slice, read and phase directions, about the center ``n // 2``.

    The sign is -1 where they run against them, see :attr:`sansref.data.mrd.header.MrdHeader.direction_sign`.
    """
    if sign > 0:
        return slices
    even = [axis for axis, size in enumerate(slices.shape) if size % 2 == 0]
    return slices.flip(0, 1, 2).roll([1] * len(even), even) if even else slices.flip(0, 1, 2)


def _as_integers(values: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int16], dict[str, str]]:
    """Values as whole numbers of 12 bits, and what tells of it; 0 stays 0 where none is negative.

    Names and range are those of the reference pipelines: ``invertcontrast.py`` of python-ismrmrd-server scales to
    4095 and gives a window; its ``mrd2dicom.py`` copies these attributes to DICOM, where a number has 16 characters.
    """
    low = f"{min(float(values.min()), 0.0):.9g}"
    span = float(values.max()) - np.float64(low)
    slope = f"{max(span / LARGEST, np.finfo(np.float32).tiny):.9g}"
    stored = np.rint((values - np.float64(low)) / np.float64(slope)).clip(0, LARGEST).astype(np.int16)
    window = {"WindowCenter": f"{(LARGEST + 1) // 2}", "WindowWidth": f"{LARGEST + 1}"}
    return stored, {"RescaleSlope": slope, "RescaleIntercept": low, **window}


def _attributes(done: SentImage, made: Provenance, line: AcquisitionHeader) -> dict[str, Any]:
    """MRD's standard attributes, and those by which Siemens' FIRE names a series and keeps its geometry."""
    said = [WARNING, f"sansref {made.method}, weights {made.weights[:16]}", f"{done.acceleration:.3g}x undersampled"]
    if done.meta.emulated:
        said.append(f"by software: {made.sampling}")
    if done.meta.synthetic:
        said.append("k-space computed from magnitudes, not measured")
    if made.units == RELATIVE:
        said.append(RELATIVE)
    return {
        "DataRole": "Image",
        "ImageProcessingHistory": ["sansref", __version__, made.method],
        "ImageComments": said,
        "SeriesDescriptionAdditional": SUFFIX,
        "SequenceDescriptionAdditional": SUFFIX,
        "ImageRowDir": [f"{value:.18f}" for value in line.read_dir],
        "ImageColumnDir": [f"{value:.18f}" for value in line.phase_dir],
        "Keep_image_geometry": 1,
    }
