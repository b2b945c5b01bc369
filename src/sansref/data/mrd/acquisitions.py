"""Acquisitions (readout lines): what each is for, and the image that it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sansref.errors import FileError

Heads = npt.NDArray[Any]
Data = npt.NDArray[np.complex64]

#: Lines of real scanners stay far below; a damaged header does not.
MOST_LINE_BYTES = 64 * 2**20
MOST_COILS = 1024

STEPS = ("kspace_encode_step_1", "kspace_encode_step_2")
"""Names of the phase-encoding and of the partition counter."""
COUNTERS = np.dtype(
    [(name, "<u2") for name in (*STEPS, "average", "slice", "contrast", "phase", "repetition", "set", "segment")]
)
SIZES = ("number_of_samples", "active_channels", "discard_pre", "discard_post", "center_sample", "encoding_space_ref")
HEAD = np.dtype(
    [
        *[("flags", "<u8"), *((name, "<u2") for name in SIZES), ("sample_time_us", "<f4")],
        *((name, "<f4", (3,)) for name in ("position", "read_dir", "phase_dir", "slice_dir")),
        ("idx", COUNTERS),
    ]
)
"""The fields of ISMRMRD's acquisition header that are used here, under their names there."""


def _flags(*bits: int) -> int:
    """A mask of ISMRMRD's flags, which are counted from 1."""
    return sum(1 << (bit - 1) for bit in bits)


LAST_IN_SLICE = _flags(8)
LAST_IN_REPETITION = _flags(14)
LAST_IN_MEASUREMENT = _flags(25)
NOISE = _flags(19)
CALIBRATION = _flags(20)
CALIBRATION_AND_IMAGING = _flags(21)
REVERSE = _flags(22)
#: Navigators, phase correction, feedback, dummy, surface coil correction and phase stabilisation: no part of an image.
ASIDE = _flags(23, 24, 26, 27, 28, 29, 30, 31)


class Role(Enum):
    """What a line is for."""

    IMAGE = "image"
    CALIBRATION = "calibration"
    NOISE = "noise"
    OTHER = "other"


class ImageKey(NamedTuple):
    """The image that a line belongs to; keys in order are images in order, the slices of a volume side by side.

    Averages and segments are not part of it: their lines go into one image.
    """

    set: int
    phase: int
    repetition: int
    contrast: int
    slice: int


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of one image: headers (lines,) with the fields of :data:`HEAD`, and complex64 (coils, samples) each."""

    heads: Heads
    data: list[Data]


def compact(heads: Heads) -> Heads:
    """Copy acquisition headers, of a dtype with the fields of :data:`HEAD`, to that dtype: a quarter of the memory."""
    out = np.zeros(heads.shape, HEAD)
    for name in HEAD.names or ():
        if name != "idx":
            out[name] = heads[name]
    for name in COUNTERS.names or ():
        out["idx"][name] = heads["idx"][name]
    return out


def head_of(acquisition: Any) -> Any:
    """The header of an ``ismrmrd.Acquisition`` as one element of :data:`HEAD`."""
    from ismrmrd.hdf5 import acquisition_header_dtype

    return compact(np.frombuffer(acquisition.getHead(), dtype=acquisition_header_dtype))[0]


def role_of(head: Any) -> Role:
    """What a line is for, by its flags; of other encodings than the first, only calibration is of use."""
    return next(role for role in Role if is_role(head, role))


def is_role(heads: Any, role: Role) -> Any:
    """Whether a line, or each of an array of them, is for this: a boolean, or an array of them."""
    flags = np.asarray(heads["flags"], dtype=np.uint64)

    def has(bits: int) -> Any:
        return (flags & np.uint64(bits)) != 0

    calibration = has(CALIBRATION) & ~has(CALIBRATION_AND_IMAGING)
    aside = has(ASIDE) | ((np.asarray(heads["encoding_space_ref"]) != 0) & ~calibration)
    roles = {
        Role.NOISE: has(NOISE),
        Role.OTHER: ~has(NOISE) & aside,
        Role.CALIBRATION: ~has(NOISE) & ~aside & calibration,
        Role.IMAGE: ~has(NOISE) & ~aside & ~calibration,
    }
    return roles[role]


def first_encoding(heads: Heads) -> int:
    """Let the first encoding that has lines of an image count as the first of all; say which it was.

    Calibration may come with an encoding of its own, before that of the image.
    """
    spaces = heads["encoding_space_ref"]
    plain = heads.copy()
    plain["encoding_space_ref"] = 0
    chosen = int(spaces[is_role(plain, Role.IMAGE)].min(initial=spaces.max(initial=0)))
    heads["encoding_space_ref"] = np.where(spaces == chosen, 0, spaces + (spaces < chosen))
    return chosen


def key_of(head: Any) -> ImageKey:
    """The image that a line belongs to."""
    return ImageKey(*(int(head["idx"][name]) for name in ImageKey._fields))


def check_head(source: Path | str, head: Any) -> None:
    """Refuse a line that no scanner acquires, before room is made for its samples.

    Raises ``FileError`` if it has no samples, no coils, or more of them than is plausible.
    """
    samples, coils = int(head["number_of_samples"]), int(head["active_channels"])
    if not 0 < coils <= MOST_COILS or samples == 0 or 8 * samples * coils > MOST_LINE_BYTES:
        problem = f"has a line of {samples} samples from {coils} coils, which is impossible"
        raise FileError(source, problem, "Export it again; its acquisition headers are damaged")
