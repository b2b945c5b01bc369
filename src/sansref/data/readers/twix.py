"""Siemens twix raw data (``.dat``): measurements, their protocol and lines, and the scans that they make.

The protocol is a set of named texts; ``MeasYaps`` is what the user chose, ``Meas`` what the reconstruction was told.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from sansref.data.mrd.acquisitions import HEAD, Data, Heads, ImageKey, Role, is_role
from sansref.data.mrd.calibration import NoiseScan
from sansref.data.mrd.gridding import steps_of
from sansref.data.mrd.header import MrdHeader, StepLimits, identifier
from sansref.data.readers.acquisitions import Integers, RawFile, RawReader
from sansref.data.readers.damage import reading
from sansref.errors import FileError, SettingError, printable

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
    "A Pulseq sequence: matrix and center are told by the lines. Its axes may run against the protocol's directions, so"
    " the place of the images in the patient is unknown: check left and right, front and back."
)

Protocol = dict[str, Any]


def read_protocol(path: Path, file: BinaryIO, start: int, length: int) -> Protocol:
    """Parse the protocol of ``length`` bytes at the start of a measurement.

    Raises ``FileError`` if it is too long, or cannot be parsed safely.
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
    """How the image lines of a measurement, at least one, were encoded.

    ``centers`` are the phase-encoding and the partition step at which k-space is zero, as the lines tell it. Raises
    ``FileError`` if k-space was not acquired on a Cartesian grid, or several slices at a time.
    """
    yaps, meas = protocol["MeasYaps"], protocol["Meas"]
    _check_readable(path, yaps, meas)
    space, place = yaps["sKSpace"], yaps["sSliceArray"]["asSlice"][0]
    counters = zip(steps_of(heads), centers, strict=True)
    steps = [StepLimits(int(each.min()), int(each.max()), center) for each, center in counters]
    # Pulseq's sequences follow their own file; the protocol beside them is that of nothing in particular.
    foreign = "pulseq" in str(yaps.get("tSequenceFileName", "")).lower()
    base = max(int(_number(space, "lBaseResolution", 0)), 1)
    lines = int(_number(meas, "iPEFTLength", 0) or _number(space, "lPhaseEncodingLines", 1))
    x, y, z = _columns(heads, base), _grid(2 * centers[0] if foreign else lines, steps[0]), 1
    if _number(space, "ucDimension", 2) == THREE_DIMENSIONAL and steps[1].maximum > steps[1].minimum:
        partitions = int(_number(meas, "i3DFTLength", 0) or _number(space, "lPartitions", 1))
        z = _grid(2 * centers[1] if foreign else partitions, steps[1])
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


def _columns(heads: Heads, base: int) -> int:
    """Size of the grid along the readout: the samples of a symmetric echo, of which all may not have been acquired."""
    samples, center = heads["number_of_samples"].astype(int), heads["center_sample"].astype(int)
    symmetric = 2 * int(np.maximum(center, samples - center).max())
    # Twice the base resolution is what Siemens sequences sample.
    return symmetric if abs(symmetric - 2 * base) > 1 else 2 * base


def _grid(declared: int, limits: StepLimits) -> int:
    """The declared size of a grid, or the smallest that holds all steps where that is too small."""
    before, after = limits.center - limits.minimum, limits.maximum + 1 - limits.center
    return max(declared, 2 * before, 2 * after - 1, 1)


def _subject(protocol: Protocol) -> str | None:
    names = (identifier(str(protocol.get(name, {}).get("PatientID", ""))) for name in ("Config", "Meas", "Dicom"))
    return next(filter(None, names), None)


#: ISMRMRD's flags, counted from 1, by Siemens' names.
FLAGS = {
    "LASTSCANINSLICE": 8,
    "NOISEADJSCAN": 19,
    "PATREFSCAN": 20,
    "PATREFANDIMASCAN": 21,
    "REFLECT": 22,
    "noname60": 23,  # navigators in the free induction decay
    "B1_CONTROLLOOP": 23,
    "MDH_VOP": 23,
    "PHASCOR": 24,
    "SLICE_ACCEL_REFSCAN": 24,
    "SLICE_ACCEL_PHASCOR": 24,
    "LASTSCANINMEAS": 25,
    "HPFEEDBACK": 26,
    "RETRO_DUMMYSCAN": 27,
    "RTFEEDBACK": 28,
    "REFPHASESTABSCAN": 30,
    "PHASESTABSCAN": 31,
}
#: A block of data that no line is shorter than; what is left of a file below it is padding.
SHORTEST = 128
#: The bits of a block's first number that tell its length.
LENGTH = 2**25


@dataclass(frozen=True)
class Blocks:
    """The readout lines of a measurement: where each begins in the file, and its header.

    Headers are a structured array (lines,) of twixtools' ``Scan_header`` (VD, VE: ``modern``) or ``VB17_header``.
    """

    headers: npt.NDArray[Any]
    offsets: npt.NDArray[np.int64]
    modern: bool

    def samples(self, file: BinaryIO, index: int) -> Data:
        """Read the samples of a line, complex64 (coils, samples)."""
        from twixtools.mdb import Mdb

        file.seek(int(self.offsets[index]))
        data: Data = Mdb(file, self.modern).data
        return data

    def flags(self) -> npt.NDArray[np.uint64]:
        """ISMRMRD's flags of the lines."""
        flags = np.zeros(len(self.headers), np.uint64)
        for name, bit in FLAGS.items():
            flags |= _has(self.headers["EvalInfoMask"], name).astype(np.uint64) << np.uint64(bit - 1)
        return flags

    def centers(self, index: int) -> tuple[int, int]:
        """Phase-encoding and partition step at which k-space is zero, as a line tells it."""
        return int(self.headers["CenterLin"][index]), int(self.headers["CenterPar"][index])


def read_blocks(path: Path, file: BinaryIO, start: int, stop: int, modern: bool) -> Blocks:
    """Read the headers of all lines between two places of a file.

    Raises ``FileError`` if a block has no length, or ends after ``stop``.
    """
    from twixtools import mdh_def

    dtype = np.dtype(mdh_def.Scan_header if modern else mdh_def.VB17_header)
    per_line, per_coil = (dtype.itemsize, np.dtype(mdh_def.Channel_header).itemsize) if modern else (0, dtype.itemsize)
    found, offsets, at = bytearray(), list[int](), start
    while at + SHORTEST < stop:
        file.seek(at)
        raw = file.read(dtype.itemsize)
        if len(raw) < dtype.itemsize:
            raise _damaged(path, at, "ends in the header of a line")
        header = np.frombuffer(raw, dtype)[0]
        mask = header["EvalInfoMask"]
        if _has(mask, "ACQEND"):
            break
        samples = int(header["UsedChannels"]) * int(header["SamplesInScan"])
        if _has(mask, "SYNCDATA") or not samples:  # zeros that fill up a file are a block of no length, and refused
            at += _checked(path, at, int(header["FlagsAndDMALength"]) % LENGTH, stop)
            continue
        found += raw
        offsets.append(at)
        # Not the length that the block tells, which is wrong where lines are packed.
        at += _checked(path, at, per_line + int(header["UsedChannels"]) * per_coil + 8 * samples, stop)
    return Blocks(np.frombuffer(bytes(found), dtype), np.array(offsets, dtype=np.int64), modern)


def _has(mask: Any, name: str) -> Any:
    from twixtools.mdh_def import mask_dict

    return (np.asarray(mask) & np.uint64(1 << mask_dict[name])) != 0


def _checked(path: Path, at: int, size: int, stop: int) -> int:
    if size < SHORTEST or at + size > stop:
        raise _damaged(path, at, f"has a block of {size} bytes")
    return size


def _damaged(path: Path, at: int, problem: str) -> FileError:
    return FileError(path, f"{problem} at byte {at}, which is impossible; it is truncated or damaged", CURE)


#: Bytes of the list of measurements at the start of a file of VD or VE.
LIST_BYTES = 10240
MOST_MEASUREMENTS = 64
MOST_TEXTS = 64
#: One in so many steps, and one at least, the strongest line may lie beside the center: the object's phase moves it.
ECHO_SHIFT = 64


@dataclass(frozen=True, slots=True)
class Measurement:
    """Where a measurement lies in its file, in bytes; the blocks begin after the protocol."""

    start: int
    stop: int
    protocol_bytes: int


class TwixReader(RawReader):
    """Reader of Siemens raw files: the image lines of the last measurement.

    Noise of this or an earlier measurement whitens the coils. Distortions are not corrected.
    """

    format = FORMAT

    def recognises(self, path: Path) -> bool:
        """Whether it begins as a list of measurements (VD, VE) or as a measurement (VB) does."""
        with path.open("rb") as file:
            first, second = _two_numbers(file, 0)
            if first >= LIST_BYTES:
                return _begins_protocol(file, 0)
            if not 1 <= second <= MOST_MEASUREMENTS:
                return False
            file.seek(16)  # the first entry's offset, after the identifiers of measurement and file
            return int.from_bytes(file.read(8), "little") == LIST_BYTES

    @contextmanager
    def opened(self, path: Path) -> Iterator[RawFile]:
        """Read the protocol, the headers of all lines, and noise of earlier measurements."""
        try:
            import twixtools.hdr_def
            import twixtools.mdb  # noqa: F401
        except ImportError as error:
            raise SettingError("reading Siemens raw data needs the package twixtools: pip install twixtools") from error
        with path.open("rb") as file:
            with reading(path, FORMAT):
                modern = _two_numbers(file, 0)[0] < LIST_BYTES
                measurements = _measurements(path, file, modern)
                *earlier, scan = measurements
                protocol = read_protocol(path, file, scan.start, scan.protocol_bytes)
                blocks = read_blocks(path, file, scan.start + scan.protocol_bytes, scan.stop, modern)
                heads = heads_of(blocks, dwell_of(protocol))
                image = is_role(heads, Role.IMAGE)
                if not image.any():
                    problem = "holds no imaging line in its last measurement"
                    raise FileError(path, problem, "Give a complete measurement of a scan")
                header = encoding_of(path, protocol, heads[image], _centers(file, blocks, heads))
                noise = _noise(path, file, earlier, modern)
            several = (f"The last of {len(measurements)} measurements is read.",) if earlier else ()

            def fetch(indices: Integers) -> list[Data]:
                with reading(path, FORMAT):
                    return [blocks.samples(file, int(index)) for index in indices]

            yield RawFile(path, FORMAT, header, heads, fetch, noise, several)


def heads_of(blocks: Blocks, dwell: float) -> Heads:
    """Siemens' headers of lines as acquisition headers; noise lines have a dwell time of their own, not told there."""
    mdh, counter = blocks.headers, blocks.headers["Counter"]
    heads = np.zeros(len(mdh), HEAD)
    heads["flags"] = blocks.flags()
    heads["number_of_samples"], heads["active_channels"] = mdh["SamplesInScan"], mdh["UsedChannels"]
    # Not told: no line of a Cartesian scan begins in the center.
    heads["center_sample"] = np.where(mdh["CenterCol"] == 0, mdh["SamplesInScan"] // 2, mdh["CenterCol"])
    heads["discard_pre"], heads["discard_post"] = mdh["CutOff"]["Pre"], mdh["CutOff"]["Post"]
    heads["sample_time_us"] = np.where(is_role(heads, Role.NOISE), 0, dwell)
    counters = {"kspace_encode_step_1": "Lin", "kspace_encode_step_2": "Par", "average": "Ave", "slice": "Sli"}
    counters |= {"contrast": "Eco", "phase": "Phs", "repetition": "Rep", "set": "Set", "segment": "Seg"}
    for ours, theirs in counters.items():
        heads["idx"][ours] = counter[theirs]
    position = mdh["SliceData"]["SlicePos"]
    heads["position"] = np.stack([position[axis] for axis in ("Sag", "Cor", "Tra")], axis=-1)
    rotation = rotations(mdh["SliceData"]["Quaternion"])
    # Siemens' matrices have columns phase, read, slice.
    for column, name in enumerate(("phase_dir", "read_dir", "slice_dir")):
        heads[name] = rotation[:, :, column]
    return heads


def _centers(file: BinaryIO, blocks: Blocks, heads: Heads) -> tuple[int, int]:
    """Phase-encoding and partition step at which k-space is zero, by the lines of the first image.

    Pulseq's interpreter leaves them at 0. Then it is the middle of the steps if they have no gap and the strongest
    line lies there, else the step of that line.
    """
    image = np.flatnonzero(is_role(heads, Role.IMAGE))
    keys = heads["idx"][list(ImageKey._fields)]
    first = image[keys[image] == keys[image[0]]]
    told, steps = blocks.centers(int(first[0])), steps_of(heads[first])
    if all(center or not each.any() for center, each in zip(told, steps, strict=True)):
        return told
    energy = [float(np.square(np.abs(blocks.samples(file, int(index)))).sum()) for index in first]
    strongest = int(np.argmax(energy))
    centers: list[int] = []
    for center, each in zip(told, steps, strict=True):
        first_step, last_step, peak = int(each.min()), int(each.max()), int(each[strongest])
        middle, count = (first_step + last_step + 1) // 2, len(np.unique(each))
        even = count == last_step - first_step + 1 and abs(peak - middle) <= max(count // ECHO_SHIFT, 1)
        centers.append(center or (middle if even else peak) if each.any() else center)
    return centers[0], centers[1]


def rotations(quaternions: Any) -> Any:
    """Rotation matrices (lines, 3, 3) of quaternions (lines, 4), scalar first; zeros where a quaternion is none."""
    q = np.asarray(quaternions, dtype=np.float64)
    norm = np.linalg.norm(q, axis=-1, keepdims=True)
    usable = np.isfinite(norm) & (norm > 0)
    w, x, y, z = np.where(usable, q / np.where(usable, norm, 1), 0).T
    columns = (
        (1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)),
        (2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)),
        (2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)),
    )
    return np.stack([np.stack(column, axis=-1) for column in columns], axis=-1) * usable[..., None]


def _two_numbers(file: BinaryIO, at: int) -> tuple[int, int]:
    file.seek(at)
    start = file.read(8)
    return int.from_bytes(start[:4], "little"), int.from_bytes(start[4:], "little")


def _begins_protocol(file: BinaryIO, at: int) -> bool:
    """Whether the first text of a protocol has a name and a length there."""
    _, texts = _two_numbers(file, at)
    name = file.read(32).split(b"\0")[0]  # behind these numbers
    return 1 <= texts <= MOST_TEXTS and len(name) >= 4 and name.isalnum()


def _measurements(path: Path, file: BinaryIO, modern: bool) -> list[Measurement]:
    size = path.stat().st_size
    spans = _listed(path, file, size) if modern else [(0, size)]
    measurements = []
    for start, stop in spans:
        protocol_bytes, _ = _two_numbers(file, start)
        if not (start < stop <= size and _begins_protocol(file, start) and start + protocol_bytes < stop):
            problem = f"lists a measurement in bytes {start} to {stop}, but there is none in its {size} bytes"
            raise FileError(path, f"{problem}; it is truncated or damaged", CURE)
        measurements.append(Measurement(start, stop, protocol_bytes))
    return measurements


def _listed(path: Path, file: BinaryIO, size: int) -> list[tuple[int, int]]:
    from twixtools.hdr_def import MultiRaidFileHeader

    file.seek(0)
    start = file.read(MultiRaidFileHeader.itemsize)
    if len(start) < MultiRaidFileHeader.itemsize:
        raise FileError(path, f"ends after {size} bytes, before its list of measurements does", CURE)
    header = np.frombuffer(start, MultiRaidFileHeader)[0]
    count = int(header["hdr"]["count_"])
    entries = [(int(entry["off_"]), int(entry["len_"])) for entry in header["entry"][:count]]
    # A scanner that is interrupted leaves the length of its only measurement at zero.
    return [(first, first + length if length or count > 1 else size) for first, length in entries]


def _noise(path: Path, file: BinaryIO, earlier: list[Measurement], modern: bool) -> NoiseScan | None:
    """The noise of the latest earlier measurement that has any."""
    for measurement in reversed(earlier):
        blocks = read_blocks(path, file, measurement.start + measurement.protocol_bytes, measurement.stop, modern)
        heads = heads_of(blocks, 0.0)
        lines = np.flatnonzero(is_role(heads, Role.NOISE))
        if not len(lines):
            continue
        noise = NoiseScan()
        heads["sample_time_us"] = dwell_of(read_protocol(path, file, measurement.start, measurement.protocol_bytes))
        for index in lines:
            if noise.full:
                break
            noise.add(heads[index], blocks.samples(file, int(index)))
        return noise
    return None
