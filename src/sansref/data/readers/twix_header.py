"""The protocol in a Siemens raw file, and what of it says how k-space was encoded.

The protocol is a set of named texts; ``MeasYaps`` is what the user chose, ``Meas`` what the reconstruction was told.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sansref.data.mrd.acquisitions import Heads
from sansref.data.mrd.header import Limits, MrdHeader, identifier
from sansref.errors import FileError, printable

FORMAT = "Siemens twix"
CURE = "Copy it from the scanner again"

#: Bytes of a protocol; real ones have about one million.
MOST_BYTES = 16 * 2**20
#: Sum of the squares of the lengths of all words and gaps, by which the parser takes time: some ten seconds. Real
#: protocols stay below a tenth of it.
MOST_EFFORT = 3 * 10**8
#: Index of an array, by which the parser takes memory; real protocols have some hundred entries.
LARGEST_INDEX = 9999
#: Texts in the style of ASCCONV, for each of which the parser looks through all that follows.
MOST_ASCCONV = 16

CALIBRATION_MODES = {2: "embedded", 4: "separate", 8: "separate", 16: "interleaved", 32: "interleaved"}
"""By ``sPat.ucRefScanMode``, as the converter of the ISMRMRD project names them."""
CARTESIAN = 1
THREE_DIMENSIONAL = 4
NO_REGRIDDING = 1
LARGEST_OVERSAMPLING = 8.0
FOREIGN = (
    "A Pulseq sequence: matrix and centre are told by the lines. Its axes may run against the protocol's directions, so"
    " the place of the images in the patient is unknown: check left and right, front and back."
)

Protocol = dict[str, Any]


def read_protocol(path: Path, file: BinaryIO, start: int, length: int) -> Protocol:
    """Parse the protocol at the start of a measurement.

    Parameters
    ----------
    path
        The file, for error messages.
    file
        The same, open.
    start, length
        Where the protocol begins, and its bytes.

    Raises
    ------
    FileError
        If it is too long, or cannot be parsed safely.
    """
    from twixtools.twixprot import parse_twix_hdr

    file.seek(start)
    text = file.read(length) if length <= MOST_BYTES else b""
    if len(text) != length or not _is_parsable(text):
        raise FileError(path, "has a protocol that no scanner writes; it is truncated or damaged", CURE)
    # The parser reads as far as damaged lengths tell it to, so it is given nothing beyond the protocol.
    with tempfile.TemporaryFile() as copy, contextlib.redirect_stdout(io.StringIO()):
        copy.write(text)
        copy.seek(0)
        protocol: Protocol = parse_twix_hdr(copy)
    return protocol


def _is_parsable(text: bytes) -> bool:
    """Whether a protocol can be parsed in bounded time and memory."""
    index = rb"\[0*[1-9][0-9]{%d,}\]" % len(str(LARGEST_INDEX))
    if text.count(b"ASCCONV BEGIN") > MOST_ASCCONV or re.search(index, text):
        return False
    return sum(len(run) ** 2 for run in re.findall(rb"\S+|\s+", text)) <= MOST_EFFORT


def encoding_of(path: Path, protocol: Protocol, heads: Heads, centers: tuple[int, int]) -> MrdHeader:
    """How the image lines of a measurement were encoded.

    Parameters
    ----------
    path
        The file, for error messages.
    protocol
        From :func:`read_protocol`.
    heads
        Headers of the image lines, at least one.
    centers
        Phase-encoding and partition step at which k-space is zero, as the lines tell it.

    Raises
    ------
    FileError
        If k-space was not acquired on a Cartesian grid, or several slices at a time.
    """
    yaps, meas = protocol["MeasYaps"], protocol["Meas"]
    _check_readable(path, yaps, meas)
    space, place = yaps["sKSpace"], yaps["sSliceArray"]["asSlice"][0]
    steps = [
        _limits(heads["idx"][f"kspace_encode_step_{axis}"], center)
        for axis, center in zip((1, 2), centers, strict=True)
    ]
    # Pulseq's sequences follow their own file; the protocol beside them is that of nothing in particular.
    foreign = "pulseq" in str(yaps.get("tSequenceFileName", "")).lower()
    base = max(int(_number(space, "lBaseResolution", 0)), 1)
    x, y, z = _columns(heads, base), _grid(2 * centers[0] if foreign else _lines(space, meas), steps[0]), 1
    if _number(space, "ucDimension", 2) == THREE_DIMENSIONAL and steps[1].maximum > steps[1].minimum:
        declared = int(_number(meas, "i3DFTLength", 0) or _number(space, "lPartitions", 1))
        z = _grid(2 * centers[1] if foreign else declared, steps[1])
    if foreign:
        # What the protocol calls pixels is not: the readout covers the field of view, and its oversampling.
        told = _number(protocol.get("Dicom", {}), "flReadoutOSFactor", 1.0)
        base = max(round(x / min(max(told, 1.0), LARGEST_OVERSAMPLING)), 1)
    fov = tuple(_length(path, place, name) for name in ("dReadoutFOV", "dPhaseFOV", "dThickness"))
    over = [_number(space, f"d{axis}OversamplingForDialog", 0.0) for axis in ("Phase", "Slice")]
    return MrdHeader(
        encoded=(x, y, z),
        recon=(base, max(round(base * fov[1] / fov[0]), 1), z),
        encoded_fov=(fov[0] * x / base, fov[1] * (1 + over[0]), fov[2] * (1 + over[1] if z > 1 else 1)),
        recon_fov=(fov[0], fov[1], fov[2]),
        steps1=steps[0],
        steps2=steps[1],
        averages=int(heads["idx"]["average"].max()) + 1,
        calibration=CALIBRATION_MODES.get(int(_number(yaps.get("sPat", {}), "ucRefScanMode", 0))),
        siemens=True,
        placed=not foreign,
        subject=_subject(protocol),
        contrast=printable(str(yaps.get("tProtocolName", ""))) or None,
        notes=(FOREIGN,) if foreign else (),
    )


def dwell_of(protocol: Protocol) -> float:
    """Time from one sample to the next in microseconds, 0 where it is not told."""
    for section in (protocol["MeasYaps"].get("sRXSPEC", {}), protocol["Meas"]):
        times = section.get("alDwellTime")
        if isinstance(times, list) and times and isinstance(times[0], int | float) and times[0] > 0:
            return float(times[0]) / 1000
    return 0.0


def _check_readable(path: Path, yaps: Protocol, meas: Protocol) -> None:
    if _number(yaps["sKSpace"], "ucTrajectory", CARTESIAN) != CARTESIAN:
        raise FileError(path, "was not acquired on a Cartesian grid", "Give Cartesian data, or grid them first")
    modes = meas.get("alRegridMode")
    if isinstance(modes, list) and modes and isinstance(modes[0], int | float) and modes[0] > NO_REGRIDDING:
        problem = "was sampled on the ramps of its gradients (echo-planar imaging), which needs regridding first"
        raise FileError(path, problem, "Convert it with another toolbox and give its k-space")
    if _number(yaps.get("sSliceAcceleration", {}), "lMultiBandFactor", 1) > 1:
        problem = "was acquired with several slices at a time (multi-band)"
        raise FileError(path, problem, "Separate the slices with the scanner's or another toolbox")


def _number(section: Protocol, name: str, default: float) -> float:
    """A finite number, ``default`` where it is missing, empty or something else."""
    value = section.get(name)
    if isinstance(value, int | float) and math.isfinite(value):
        return value
    return default


def _length(path: Path, place: Protocol, name: str) -> float:
    value = _number(place, name, 0.0)
    if value <= 0:
        raise FileError(path, f"has a protocol without a positive {name}", CURE)
    return value


def _lines(space: Protocol, meas: Protocol) -> int:
    return int(_number(meas, "iPEFTLength", 0) or _number(space, "lPhaseEncodingLines", 1))


def _columns(heads: Heads, base: int) -> int:
    """Size of the grid along the readout: the samples of a symmetric echo, of which all may not have been acquired."""
    samples, center = heads["number_of_samples"].astype(int), heads["center_sample"].astype(int)
    symmetric = 2 * int(np.maximum(center, samples - center).max())
    # Twice the base resolution is what Siemens sequences sample.
    return symmetric if abs(symmetric - 2 * base) > 1 else 2 * base


def _grid(declared: int, limits: Limits) -> int:
    """The declared size of a grid, or the smallest that holds all steps where that is too small."""
    before, after = limits.center - limits.minimum, limits.maximum + 1 - limits.center
    return max(declared, 2 * before, 2 * after - 1, 1)


def _limits(steps: Any, center: int) -> Limits:
    return Limits(int(steps.min()), int(steps.max()), center)


def _subject(protocol: Protocol) -> str | None:
    found = (identifier(str(protocol.get(name, {}).get("PatientID", ""))) for name in ("Config", "Meas", "Dicom"))
    return next(filter(None, found), None)
