"""The blocks of a measurement in a Siemens raw file: headers of all lines, and the samples of one.

The structures are those of twixtools. Its own loop over a file is not used: it keeps an object per line and coil, and
does not end where a damaged header gives a block no length.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from sansref.data.mrd.lines import Data
from sansref.data.readers.twix_header import CURE
from sansref.errors import FileError

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
