"""Reconstructed slices as MRD images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from ismrmrd import IMTYPE_MAGNITUDE, AcquisitionHeader, Image, Meta
from torch import Tensor

from sansref import __version__
from sansref.data.mrd.header import MrdHeader
from sansref.data.provenance import WARNING, Provenance
from sansref.scan import ScanMeta

#: What is appended to the name of the series.
SUFFIX = "sansref_RESEARCH"
#: Pixel of an image of integers.
LARGEST = 4095

Pixel = Literal["float32", "int16"]


@dataclass(frozen=True, slots=True)
class SentImage:
    """Magnitudes in the units of the lines, float32 (partitions, rows, columns), and how they came about."""

    slices: Tensor
    acceleration: float
    meta: ScanMeta
    seconds: float


def mrd_image(
    done: SentImage,
    line: AcquisitionHeader,
    header: MrdHeader,
    made: Provenance,
    number: int,
    pixel: Pixel = "float32",
) -> Image:
    """The MRD image of a group of lines: one slice, or all partitions of a slab.

    Any of its lines says where the image lies and when it was acquired. Images are numbered from 1 in their series.
    Pixels of int16 go from 0 to 4095, with the factor back in the attribute RescaleSlope, and a window.
    """
    slices = along_directions(done.slices, header.direction_sign)
    attributes = _attributes(done, made, line)
    values = slices.numpy()
    if pixel == "int16":
        values, scale = _as_integers(values)
        attributes |= scale
    partitions, rows, columns = slices.shape
    x, y, z = header.spacing
    image = Image.from_array(
        # Our rows are the readout, MRD's fastest axis.
        np.ascontiguousarray(values.transpose(0, 2, 1)),
        line,
        average=0,  # averages have become one image
        field_of_view=(rows * x, columns * y, partitions * z if partitions > 1 else header.recon_fov[2]),
        image_type=IMTYPE_MAGNITUDE,
        image_series_index=1,
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
    """Magnitudes as whole numbers of 12 bits, and what tells of it.

    Names and range are those of the reference pipelines: ``invertcontrast.py`` of python-ismrmrd-server scales to
    4095 and gives a window; its ``mrd2dicom.py`` copies these attributes to DICOM, where a number has 16 characters.
    """
    slope = f"{max(float(values.max()) / LARGEST, np.finfo(np.float32).tiny):.9g}"
    stored = np.rint(values / np.float64(slope)).clip(0, LARGEST).astype(np.int16)
    window = {"WindowCenter": f"{(LARGEST + 1) // 2}", "WindowWidth": f"{LARGEST + 1}"}
    return stored, {"RescaleSlope": slope, "RescaleIntercept": "0", **window}


def _attributes(done: SentImage, made: Provenance, line: AcquisitionHeader) -> dict[str, Any]:
    """MRD's standard attributes, and those by which Siemens' FIRE names a series and keeps its geometry."""
    said = [WARNING, f"sansref {made.method}, weights {made.weights[:16]}", f"{done.acceleration:.3g}x undersampled"]
    if done.meta.emulated:
        said.append(f"by software: {made.sampling}")
    if done.meta.synthetic:
        said.append("k-space computed from magnitudes, not measured")
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
