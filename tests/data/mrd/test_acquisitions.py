from __future__ import annotations

from typing import Any

import ismrmrd
import numpy as np
import pytest

from sansref.data.mrd.acquisitions import HEAD, ImageKey, Role, check_head, compact, head_of, is_role, key_of, role_of
from sansref.errors import FileError

SAMPLES = np.ones((2, 8), np.complex64)


@pytest.mark.parametrize(
    ("flags", "role"),
    [
        ((), Role.IMAGE),
        ((ismrmrd.ACQ_LAST_IN_SLICE, ismrmrd.ACQ_IS_REVERSE), Role.IMAGE),
        ((ismrmrd.ACQ_IS_NOISE_MEASUREMENT,), Role.NOISE),
        ((ismrmrd.ACQ_IS_PARALLEL_CALIBRATION,), Role.CALIBRATION),
        ((ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING,), Role.IMAGE),
        ((ismrmrd.ACQ_IS_PARALLEL_CALIBRATION, ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING), Role.IMAGE),
        ((ismrmrd.ACQ_IS_PARALLEL_CALIBRATION, ismrmrd.ACQ_IS_PHASECORR_DATA), Role.OTHER),
        ((ismrmrd.ACQ_IS_NAVIGATION_DATA,), Role.OTHER),
        ((ismrmrd.ACQ_IS_DUMMYSCAN_DATA,), Role.OTHER),
        ((ismrmrd.ACQ_IS_HPFEEDBACK_DATA,), Role.OTHER),
        ((ismrmrd.ACQ_IS_RTFEEDBACK_DATA,), Role.OTHER),
        ((ismrmrd.ACQ_IS_SURFACECOILCORRECTIONSCAN_DATA,), Role.OTHER),
        ((ismrmrd.ACQ_IS_PHASE_STABILIZATION,), Role.OTHER),
        ((ismrmrd.ACQ_IS_PHASE_STABILIZATION_REFERENCE,), Role.OTHER),
        ((ismrmrd.ACQ_IS_NOISE_MEASUREMENT, ismrmrd.ACQ_IS_DUMMYSCAN_DATA), Role.NOISE),
    ],
)
def test_the_role_of_a_line_is_told_by_its_flags(mrd: Any, flags: tuple[int, ...], role: Role) -> None:
    head = head_of(mrd.line(SAMPLES, *flags))
    assert role_of(head) is role
    assert [bool(is_role(np.array([head]), each)[0]) for each in Role] == [each is role for each in Role]


def test_lines_of_a_second_encoding_are_of_no_use(mrd: Any) -> None:
    assert role_of(head_of(mrd.line(SAMPLES, encoding_space_ref=1))) is Role.OTHER


def test_lines_of_one_image_share_its_key(mrd: Any) -> None:
    counters = {"slice": 5, "contrast": 4, "repetition": 3, "phase": 2, "set": 1}
    line = mrd.line(SAMPLES, average=7, segment=8, kspace_encode_step_1=9, kspace_encode_step_2=10, **counters)
    key = key_of(head_of(line))
    assert key == ImageKey(**counters) == (1, 2, 3, 4, 5)


def test_the_compact_header_has_the_fields_of_the_full_one(mrd: Any) -> None:
    line = mrd.line(SAMPLES, ismrmrd.ACQ_USER8, position=(1, 2, 3), discard_pre=2, slice=6)
    head = head_of(line)
    assert (head["flags"], head["discard_pre"], head["idx"]["slice"]) == (1 << 63, 2, 6)
    assert head["position"].tolist() == [1, 2, 3]
    full = np.frombuffer(line.getHead(), dtype=ismrmrd.hdf5.acquisition_header_dtype)
    assert compact(full)[0] == head
    assert HEAD.itemsize < full.itemsize / 3


@pytest.mark.parametrize(("samples", "coils"), [(0, 4), (256, 0), (256, 1025), (65535, 200)])
def test_impossible_lines_are_refused_before_their_samples_are_read(samples: int, coils: int) -> None:
    head = np.zeros(1, HEAD)[0]
    head["number_of_samples"], head["active_channels"] = samples, coils
    with pytest.raises(FileError, match=f"^client: has a line of {samples} samples from {coils} coils, which is impo"):
        check_head("client", head)
    head["number_of_samples"], head["active_channels"] = 1024, 128
    check_head("client", head)
