"""Reconstructed slices as MRD images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ismrmrd import IMTYPE_MAGNITUDE, AcquisitionHeader, Image, Meta
from torch import Tensor

from sansref import __version__
from sansref.data.mrd.header import MrdHeader
from sansref.data.provenance import WARNING, Provenance
from sansref.scan import ScanMeta

#: What is appended to the name of the series.
SUFFIX = "sansref_RESEARCH"


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """What became of the lines of one image.

    Attributes
    ----------
    slices
        Magnitudes in the units of the lines, float32 (partitions, rows, columns).
    acceleration
        Grid points over acquired samples.
    meta
        Of the (first) scan that was reconstructed.
    seconds
        How long it took.
    """

    slices: Tensor
    acceleration: float
    meta: ScanMeta
    seconds: float


def mrd_image(done: Reconstruction, line: AcquisitionHeader, header: MrdHeader, made: Provenance, number: int) -> Image:
    """The MRD image of a group of lines: one slice, or all partitions of a slab.

    Parameters
    ----------
    done
        The magnitudes.
    line
        Header of one of the lines; it says where the image lies and when it was acquired.
    header
        Of the measurement.
    made
        By what, for the image's history.
    number
        Of the image in its series, from 1.
    """
    slices = along_directions(done.slices, header.direction_sign)
    partitions, rows, columns = slices.shape
    x, y, z = header.spacing
    image = Image.from_array(
        # Our rows are the readout, MRD's fastest axis.
        np.ascontiguousarray(slices.numpy().transpose(0, 2, 1)),
        line,
        average=0,  # averages have become one image
        field_of_view=(rows * x, columns * y, partitions * z if partitions > 1 else header.recon_fov[2]),
        image_type=IMTYPE_MAGNITUDE,
        image_series_index=1,
        image_index=number,
    )
    image.attribute_string = _attributes(done, made, line).serialize()
    return image


def along_directions(slices: Tensor, sign: int) -> Tensor:
    """Let the axes run along the slice, read and phase directions, about the centre ``n // 2``.

    Parameters
    ----------
    slices
        (partitions, rows, columns).
    sign
        -1 where they run against the directions, see :attr:`sansref.data.mrd.header.MrdHeader.direction_sign`.
    """
    if sign > 0:
        return slices
    even = [axis for axis, size in enumerate(slices.shape) if size % 2 == 0]
    return slices.flip(0, 1, 2).roll([1] * len(even), even) if even else slices.flip(0, 1, 2)


def _attributes(done: Reconstruction, made: Provenance, line: AcquisitionHeader) -> Meta:
    """MRD's standard attributes, and those by which Siemens' FIRE names a series and keeps its geometry."""
    said = [WARNING, f"sansref {made.method}, weights {made.weights[:16]}", f"{done.acceleration:.3g}x undersampled"]
    if done.meta.emulated:
        said.append(f"by software: {made.sampling}")
    if done.meta.synthetic:
        said.append("k-space computed from magnitudes, not measured")
    return Meta(
        DataRole="Image",
        ImageProcessingHistory=["sansref", __version__, made.method],
        ImageComments=said,
        SeriesDescriptionAdditional=SUFFIX,
        SequenceDescriptionAdditional=SUFFIX,
        ImageRowDir=[f"{value:.18f}" for value in line.read_dir],
        ImageColumnDir=[f"{value:.18f}" for value in line.phase_dir],
        Keep_image_geometry=1,
    )
