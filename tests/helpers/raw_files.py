"""Raw data as scanners send them, written by the reference library of the format."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ismrmrd
import numpy as np

Array = Any
DIRECTIONS = {"read_dir": (1.0, 0, 0), "phase_dir": (0, 1.0, 0), "slice_dir": (0, 0, 1.0)}


def centered(transform: Any, data: Array, axes: Iterable[int]) -> Array:
    """The centered orthonormal transform, by numpy in double precision."""
    axes = tuple(axes)
    return np.fft.fftshift(transform(np.fft.ifftshift(data, axes=axes), axes=axes, norm="ortho"), axes=axes)


def object_in(*shape: int, coils: int = 2, seed: int = 0) -> Array:
    """Complex images (coils, *shape) of an object inside the central half of the first axis."""
    generator = np.random.default_rng(seed)
    image = generator.normal(size=(coils, *shape, 2)).view(np.complex128)[..., 0]
    size = shape[0]
    image[:, np.abs(np.arange(size) - size // 2) >= size // 4] = 0
    return image


def header(
    encoded: tuple[int, int, int] = (32, 16, 1),
    recon: tuple[int, int, int] = (16, 16, 1),
    fov: tuple[float, float, float] = (320.0, 160.0, 4.0),
    recon_fov: tuple[float, float, float] = (160.0, 160.0, 4.0),
    trajectory: str = "cartesian",
    calibration: str | None = None,
    vendor: str | None = None,
    encodings: int = 1,
    **limits: tuple[int, int, int],
) -> Any:
    """A header; ``limits`` are minimum, maximum and center of counters, by default those of the whole grid."""
    xsd = ismrmrd.xsd

    def of_axes(kind: Any, values: Any) -> Any:
        return kind(**dict(zip("xyz", values, strict=True)))

    def space(size: Any, lengths: Any) -> Any:
        fields = {
            "matrixSize": of_axes(xsd.matrixSizeType, size),
            "fieldOfView_mm": of_axes(xsd.fieldOfViewMm, lengths),
        }
        return xsd.encodingSpaceType(**fields)

    usual = {f"kspace_encoding_step_{axis}": (0, encoded[axis] - 1, encoded[axis] // 2) for axis in (1, 2)}
    names = ("minimum", "maximum", "center")
    bounds = {
        name: xsd.limitType(**dict(zip(names, values, strict=True))) for name, values in {**usual, **limits}.items()
    }
    factor = xsd.accelerationFactorType(kspace_encoding_step_1=2, kspace_encoding_step_2=1)
    mode = calibration and xsd.calibrationModeType(calibration)
    encoding = xsd.encodingType(
        encodedSpace=space(encoded, fov),
        reconSpace=space(recon, recon_fov),
        encodingLimits=xsd.encodingLimitsType(**bounds),
        trajectory=xsd.trajectoryType(trajectory),
        parallelImaging=mode and xsd.parallelImagingType(accelerationFactor=factor, calibrationMode=mode),
    )
    return xsd.ismrmrdHeader(
        subjectInformation=xsd.subjectInformationType(patientID="p7"),
        measurementInformation=xsd.measurementInformationType(
            patientPosition=xsd.patientPositionType.HFS, protocolName="t1_fl2d"
        ),
        acquisitionSystemInformation=xsd.acquisitionSystemInformationType(systemVendor=vendor),
        experimentalConditions=xsd.experimentalConditionsType(H1resonanceFrequency_Hz=63_500_000),
        encoding=[encoding] * encodings,
    )


def line(samples: Array, *flags: int, **fields: Any) -> Any:
    """An acquisition of samples (coils, samples); fields of the header or of its counters by name."""
    samples = np.ascontiguousarray(samples, dtype=np.complex64)
    acquisition = ismrmrd.Acquisition.from_array(samples)
    values = {"center_sample": samples.shape[1] // 2, "sample_time_us": 10.0, **DIRECTIONS, **fields}
    counters = {name for name, *_ in ismrmrd.EncodingCounters._fields_}
    for name, value in values.items():
        if name in counters:
            setattr(acquisition.idx, name, value)
        elif isinstance(value, tuple):
            getattr(acquisition, name)[:] = value
        else:
            setattr(acquisition, name, value)
    for flag in flags:
        acquisition.setFlag(flag)
    return acquisition


def lines_of(kspace: Array, steps: Iterable[int] | None = None, **fields: Any) -> list[Any]:
    """Acquisitions of the columns of k-space (coils, rows, columns), or (coils, rows, columns, partitions)."""
    columns = range(kspace.shape[2]) if steps is None else list(steps)
    if kspace.ndim == 3:
        return [line(kspace[:, :, y], kspace_encode_step_1=y, **fields) for y in columns]
    places = itertools.product(range(kspace.shape[3]), columns)
    return [line(kspace[:, :, y, z], kspace_encode_step_1=y, kspace_encode_step_2=z, **fields) for z, y in places]


def write(path: Path, head: Any, lines: Iterable[Any], group: str = "dataset") -> Path:
    """Write an MRD file, or a further group of one."""
    with ismrmrd.Dataset(str(path), group) as file:
        file.write_xml_header(head if isinstance(head, bytes) else ismrmrd.xsd.ToXML(head).encode())
        for acquisition in lines:
            file.append_acquisition(acquisition)
    return path
