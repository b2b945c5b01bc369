"""Siemens twix raw data (``.dat``): measurements, their lines, and the scans that they make."""

from __future__ import annotations

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
from sansref.data.readers.acquisitions import Integers, RawFile, RawReader
from sansref.data.readers.damage import reading
from sansref.data.readers.twix_header import CURE, FORMAT, dwell_of, encoding_of, read_protocol
from sansref.errors import FileError, SettingError

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
    """The readout lines of a measurement.

    Attributes
    ----------
    headers
        Structured array (lines,) of twixtools' ``Scan_header`` (VD, VE) or ``VB17_header``.
    offsets
        Where each line begins in the file.
    modern
        True for VD and VE.
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

    Raises
    ------
    FileError
        If a block has no length, or ends after ``stop``.
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
#: One in so many steps, and one at least, the strongest line may lie beside the centre: the object's phase moves it.
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
                    problem = "holds no line of an image in its last measurement"
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
    names = {"number_of_samples": "SamplesInScan", "active_channels": "UsedChannels"}
    for ours, theirs in names.items():
        heads[ours] = mdh[theirs]
    # Not told: no line of a Cartesian scan begins in the centre.
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
    found = []
    for center, each in zip(told, steps, strict=True):
        low, high, peak = int(each.min()), int(each.max()), int(each[strongest])
        middle = (low + high + 1) // 2
        even = len(np.unique(each)) == high - low + 1 and abs(peak - middle) <= max(
            len(np.unique(each)) // ECHO_SHIFT, 1
        )
        found.append(center or (middle if even else peak) if each.any() else center)
    return found[0], found[1]


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
    name = file.read(32).split(b"\0")[0]
    return 1 <= texts <= MOST_TEXTS and len(name) >= 4 and name.isalnum()


def _measurements(path: Path, file: BinaryIO, modern: bool) -> list[Measurement]:
    size = path.stat().st_size
    spans = _listed(path, file, size) if modern else [(0, size)]
    found = []
    for start, stop in spans:
        protocol_bytes, _ = _two_numbers(file, start)
        if not (start < stop <= size and _begins_protocol(file, start) and start + protocol_bytes < stop):
            problem = f"lists a measurement in bytes {start} to {stop}, but there is none in its {size} bytes"
            raise FileError(path, f"{problem}; it is truncated or damaged", CURE)
        found.append(Measurement(start, stop, protocol_bytes))
    return found


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
