from __future__ import annotations

from typing import Any

import ismrmrd
import numpy as np
import pytest

from sansref.data.mrd.acquisitions import head_of
from sansref.data.mrd.grouping import Collector, Group
from sansref.data.mrd.header import parse_header
from sansref.errors import FileError

COLUMNS = 16
SAMPLES = np.ones((2, 32), np.complex64)
SLICE_ENDS, REPETITION_ENDS, ALL_ENDS = (
    ismrmrd.ACQ_LAST_IN_SLICE,
    ismrmrd.ACQ_LAST_IN_REPETITION,
    ismrmrd.ACQ_LAST_IN_MEASUREMENT,
)


class Sender:
    """Sends lines to a collector, and keeps which images came out after which line."""

    def __init__(self, mrd: Any, **header: Any) -> None:
        self.mrd = mrd
        text = ismrmrd.xsd.ToXML(mrd.header(**header))
        self.collector = Collector("client", parse_header("client", text))

    def send(self, *flags: int, step: int = 0, partition: int = 0, **counters: Any) -> list[Group]:
        line = self.mrd.line(SAMPLES, *flags, kspace_encode_step_1=step, kspace_encode_step_2=partition, **counters)
        return self.collector.add(head_of(line), line.data)


def counts(groups: list[Group]) -> list[tuple[int, int, int]]:
    """Repetition, slice and number of lines of each image."""
    return [(group.key.repetition, group.key.slice, len(group.lines.data)) for group in groups]


def test_interleaved_slices_come_out_as_they_end(mrd: Any) -> None:
    sender = Sender(mrd)
    for step in range(4):
        for number in (1, 0):
            found = sender.send(*([SLICE_ENDS] if step == 3 else []), step=step, slice=number)
            assert counts(found) == ([(0, number, 4)] if step == 3 else [])
    assert sender.collector.held_bytes == 0
    assert sender.collector.finish() == []


def test_an_image_without_flags_is_complete_with_its_last_declared_line(mrd: Any) -> None:
    sender = Sender(mrd)
    order = [*range(1, COLUMNS), 1, 0]  # with a repeat
    found = [counts(sender.send(step=step)) for step in order]
    assert found == [*[[]] * COLUMNS, [(0, 0, COLUMNS + 1)]]


def test_all_averages_belong_to_the_image(mrd: Any) -> None:
    sender = Sender(mrd, average=(0, 1, 0))
    for average in (0, 1):
        for step in (0, 3):
            found = sender.send(*([SLICE_ENDS] if step == 3 else []), step=step, average=average)
    assert counts(found) == [(0, 0, 4)]


def test_all_partitions_belong_to_the_image(mrd: Any) -> None:
    sender = Sender(mrd, encoded=(32, COLUMNS, 3), recon=(16, COLUMNS, 3))
    found = [counts(sender.send(SLICE_ENDS, partition=partition)) for partition in (1, 0, 2)]
    assert found == [[], [], [(0, 0, 3)]]


def test_the_end_of_a_repetition_and_of_the_measurement(mrd: Any) -> None:
    sender = Sender(mrd)
    for repetition in (0, 1):
        for number in (2, 0):
            assert sender.send(slice=number, repetition=repetition) == []
    assert counts(sender.send(REPETITION_ENDS, step=1, slice=2, repetition=0)) == [(0, 0, 1), (0, 2, 2)]
    assert sender.send(slice=5, repetition=1) == []
    # The last line may be one that is no part of an image.
    ended = sender.send(ALL_ENDS, ismrmrd.ACQ_IS_NAVIGATION_DATA, repetition=1)
    assert counts(ended) == [(1, 0, 1), (1, 2, 1), (1, 5, 1)]


def test_what_is_left_comes_out_at_the_end(mrd: Any) -> None:
    sender = Sender(mrd)
    for step in range(0, COLUMNS, 2):
        assert sender.send(step=step, slice=step % 3) == []
    assert sorted(counts(sender.collector.finish())) == [(0, 0, 3), (0, 1, 2), (0, 2, 3)]
    assert sender.collector.held_bytes == 0


def test_calibration_lines_go_with_their_image_and_are_none_by_themselves(mrd: Any) -> None:
    sender = Sender(mrd)
    for number in (0, 1):
        sender.send(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION, step=8, slice=number)
    assert counts(sender.send(SLICE_ENDS, step=4, slice=1)) == [(0, 1, 2)]
    assert sender.collector.finish() == []


def test_calibration_lines_are_kept_by_what_they_take_in_memory(mrd: Any) -> None:
    """Headers and all: of many short lines, the samples are the least."""
    text = ismrmrd.xsd.ToXML(mrd.header(calibration="separate"))
    kept = {}
    for most in (4 * 2048 * 3, 4 * 2048 * 12):
        collector = Collector("client", parse_header("client", text), most)
        for step in range(4):
            line = mrd.line(SAMPLES[:1, :1], ismrmrd.ACQ_IS_PARALLEL_CALIBRATION, kspace_encode_step_1=step)
            collector.add(head_of(line), line.data)
        line = mrd.line(SAMPLES[:1, :1], SLICE_ENDS)
        collector.add(head_of(line), line.data)
        kept[most] = len(collector._calibrated)
    assert list(kept.values()) == [0, 1]


def test_noise_is_gathered_and_the_rest_dropped(mrd: Any) -> None:
    sender = Sender(mrd)
    sender.send(ismrmrd.ACQ_IS_NOISE_MEASUREMENT, ALL_ENDS)
    sender.send(ismrmrd.ACQ_IS_DUMMYSCAN_DATA)
    assert (sender.collector.noise.samples, sender.collector.held_bytes) == (32, 0)


def test_a_line_after_the_end_opens_the_image_anew(mrd: Any) -> None:
    sender = Sender(mrd)
    assert counts(sender.send(SLICE_ENDS)) == [(0, 0, 1)]
    assert counts(sender.send(SLICE_ENDS)) == [(0, 0, 1)]


def test_memory_is_bounded(mrd: Any) -> None:
    header = parse_header("client", ismrmrd.xsd.ToXML(mrd.header()))
    collector = Collector("client", header, most_bytes=3 * SAMPLES.nbytes)
    lines = [mrd.line(SAMPLES, slice=number) for number in range(4)]
    for line in lines[:3]:
        collector.add(head_of(line), line.data)
    with pytest.raises(FileError, match=r"^client: sends more than 1536 bytes of lines before an image is complete"):
        collector.add(head_of(lines[3]), lines[3].data)


def test_an_impossible_line_is_refused(mrd: Any) -> None:
    sender = Sender(mrd)
    line = mrd.line(SAMPLES)
    head = head_of(line)
    head["number_of_samples"] = 0
    with pytest.raises(FileError, match="a line of 0 samples from 2 coils"):
        sender.collector.add(head, line.data)
