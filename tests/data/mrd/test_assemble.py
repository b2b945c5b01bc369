from __future__ import annotations

from typing import Any

import ismrmrd
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sansref.data.mrd.acquisitions import Lines, head_of
from sansref.data.mrd.assemble import assemble, layout_of
from sansref.data.mrd.calibration import Whitening
from sansref.data.mrd.gridding import planar
from sansref.data.mrd.header import parse_header
from sansref.errors import FileError
from sansref.kspace.fourier import ifft1c, ifft2c
from sansref.kspace.noise import whitened
from sansref.scan import Scan, ScanMeta

META = ScanMeta("p7", "a.h5", slice=4)
COILS, ROWS, COLUMNS = 2, 32, 16


def lines_from(acquisitions: list[Any]) -> Lines:
    return Lines(np.array([head_of(each) for each in acquisitions]), [each.data for each in acquisitions])


def scans_of(head: Any, acquisitions: list[Any], whitening: Any = None) -> list[Scan]:
    header = parse_header("a.h5", ismrmrd.xsd.ToXML(head))
    return assemble("a.h5", header, lines_from(acquisitions), META, whitening)


@pytest.fixture
def image(mrd: Any) -> Any:
    """Coil images (coils, rows, columns) of an object inside the central half of the rows."""
    return mrd.object_in(ROWS, COLUMNS, coils=COILS)


@pytest.fixture
def kspace(mrd: Any, image: Any) -> Any:
    return mrd.centered(np.fft.fft2, image, (1, 2))


def assert_close(found: torch.Tensor, expected: Any, tolerance: float = 1e-5) -> None:
    assert found.shape == expected.shape
    assert np.abs(found.numpy() - expected).max() < tolerance * np.abs(expected).max()


def test_a_full_image_without_its_readout_oversampling(mrd: Any, image: Any, kspace: Any) -> None:
    (scan,) = scans_of(mrd.header(), mrd.lines_of(kspace))
    assert_close(ifft2c(scan.kspace), image[:, 8:24])
    assert bool(scan.mask.all())
    assert (scan.reference, scan.maps) == (None, None)
    meta = scan.meta
    assert (meta.subject, meta.slice, meta.spacing, meta.crop, meta.scale) == ("p7", 4, (10.0, 10.0), (16, 16), 1.0)
    assert not (meta.synthetic or meta.emulated)


def test_one_coil_in_full_is_its_own_reference(mrd: Any, image: Any, kspace: Any) -> None:
    (scan,) = scans_of(mrd.header(), mrd.lines_of(kspace[:1]))
    assert scan.reference is not None
    assert_close(scan.reference, image[0, 8:24])


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(2 * COLUMNS)), seed=st.integers(0, 9))
def test_neither_order_nor_averages_change_the_image(mrd: Any, order: list[int], seed: int) -> None:
    kspace = mrd.centered(np.fft.fft2, mrd.object_in(ROWS, COLUMNS, coils=COILS, seed=seed), (1, 2))
    (expected,) = scans_of(mrd.header(), mrd.lines_of(kspace))
    more = [each for n in (0, 1) for each in mrd.lines_of((0.5 + n) * kspace, average=n, segment=n)]
    (scan,) = scans_of(mrd.header(), [more[index] for index in order])
    torch.testing.assert_close(scan.kspace, expected.kspace)


def test_odd_sizes_keep_dc_in_the_center(mrd: Any) -> None:
    for rows, kept, columns in ((31, 15, 9), (32, 15, 16), (31, 16, 15)):
        kspace = np.zeros((1, rows, columns))
        kspace[0, rows // 2, columns // 2] = 1
        head = mrd.header((rows, columns, 1), (kept, columns, 1), (rows, columns, 1), (kept, columns, 1))
        (scan,) = scans_of(head, mrd.lines_of(kspace))
        assert divmod(int(scan.kspace[0].abs().argmax()), columns) == (kept // 2, columns // 2)


def test_lines_that_are_left_out_are_not_acquired(mrd: Any, kspace: Any) -> None:
    steps = [0, 3, 6, 7, 8, 9, 12, 15]
    (scan,) = scans_of(mrd.header(), mrd.lines_of(kspace, steps))
    (full,) = scans_of(mrd.header(), mrd.lines_of(kspace))
    expected = torch.zeros(16, COLUMNS, dtype=torch.bool)
    expected[:, steps] = True
    assert torch.equal(scan.mask, expected)
    torch.testing.assert_close(scan.kspace, full.kspace * expected)
    assert scan.acceleration == 2


def test_partial_fourier_begins_at_the_step_that_the_limits_tell(mrd: Any, kspace: Any) -> None:
    # Steps are counted from the first acquired line, 5 lines before DC.
    head = mrd.header(kspace_encoding_step_1=(0, 12, 5))
    (scan,) = scans_of(head, mrd.lines_of(kspace[:1, :, 3:]))
    (full,) = scans_of(mrd.header(), mrd.lines_of(kspace[:1]))
    assert scan.mask[0].nonzero().flatten().tolist() == list(range(3, 16))
    torch.testing.assert_close(scan.kspace[..., 3:], full.kspace[..., 3:])
    assert scan.reference is None  # one half of k-space reaches farther than the other
    assert not scan.kspace[..., :3].any()


def test_an_asymmetric_echo_keeps_its_oversampling_and_its_gap(mrd: Any, kspace: Any) -> None:
    # 10 samples before the echo are missing; of the rest, 2 at either end are to be discarded.
    samples = kspace[:1, 10:]
    acquired = mrd.lines_of(samples, center_sample=6, discard_pre=2, discard_post=1)
    (scan,) = scans_of(mrd.header(), acquired)
    assert scan.kspace.shape == (1, ROWS, COLUMNS)
    expected = np.zeros_like(kspace[:1])
    expected[:, 12:31] = kspace[:1, 12:31]
    assert_close(scan.kspace, expected)
    assert torch.equal(scan.mask, torch.from_numpy(expected[0] != 0))
    assert (scan.meta.crop, scan.meta.spacing, scan.reference) == ((16, 16), (10.0, 10.0), None)


def test_lines_read_backwards_are_turned_round(mrd: Any, kspace: Any) -> None:
    (expected,) = scans_of(mrd.header(), mrd.lines_of(kspace))
    mixed = mrd.lines_of(kspace)
    for step in range(1, COLUMNS, 2):
        mixed[step] = mrd.line(kspace[:, ::-1, step], ismrmrd.ACQ_IS_REVERSE, kspace_encode_step_1=step)
    (scan,) = scans_of(mrd.header(), mixed)
    torch.testing.assert_close(scan.kspace, expected.kspace)


@pytest.mark.parametrize("missing", [1, 4, 9])
@pytest.mark.parametrize(("vendor", "more"), [(None, 0), ("GE", 0), ("SIEMENS", 1)])
@pytest.mark.parametrize(("before", "after"), [(0, 0), (3, 2)])
def test_the_center_of_a_reversed_asymmetric_echo_counts_as_acquired(
    mrd: Any, kspace: Any, missing: int, vendor: str | None, more: int, before: int, after: int
) -> None:
    # Of the samples in the order in which they came, the far end of k-space first, some are missing at either end.
    stored = kspace[:, ::-1, 8]
    zero = ROWS - 1 - ROWS // 2  # of the whole line
    late = mrd.line(
        stored[:, missing:],
        ismrmrd.ACQ_IS_REVERSE,
        kspace_encode_step_1=8,
        center_sample=zero - missing + more,
        discard_pre=before,
        discard_post=after,
    )
    (scan,) = scans_of(mrd.header(vendor=vendor), [late])
    there = slice(after, ROWS - missing - before)
    assert scan.mask[:, 8].nonzero().flatten().tolist() == list(range(ROWS))[there]
    assert_close(scan.kspace[:, there, 8], kspace[:, there, 8])
    early = mrd.line(stored[:, :-missing], ismrmrd.ACQ_IS_REVERSE, kspace_encode_step_1=8, center_sample=zero + more)
    (scan,) = scans_of(mrd.header(vendor=vendor), [early])
    assert scan.mask[:, 8].nonzero().flatten().tolist() == list(range(missing, ROWS))
    assert_close(scan.kspace[:, missing:, 8], kspace[:, missing:, 8])


@pytest.mark.parametrize("step", [0, 3])
@pytest.mark.parametrize("z", [1, 2, 20])
def test_lines_of_one_partition_are_a_slice_whatever_the_header_says(
    mrd: Any, image: Any, kspace: Any, z: int, step: int
) -> None:
    sizes = ((ROWS, COLUMNS, z), (16, COLUMNS, z))
    head = mrd.header(*sizes, (320, 160, 4.0 * z), (160, 160, 4.0 * z))
    (scan,) = scans_of(head, mrd.lines_of(kspace, kspace_encode_step_2=step))
    assert_close(ifft2c(scan.kspace), image[:, 8:24])
    assert (scan.meta.slice, scan.meta.crop) == (4, (16, 16))
    flat = planar(parse_header("a.h5", ismrmrd.xsd.ToXML(head)), lines_from(mrd.lines_of(kspace)).heads)
    assert (flat.encoded, flat.spacing) == ((ROWS, COLUMNS, 1), (10.0, 10.0, 4.0))


def test_a_line_as_long_as_the_grid_fills_it_whatever_its_center(mrd: Any, kspace: Any) -> None:
    (expected,) = scans_of(mrd.header(), mrd.lines_of(kspace))
    (scan,) = scans_of(mrd.header(), mrd.lines_of(kspace, center_sample=0))
    torch.testing.assert_close(scan.kspace, expected.kspace)


@pytest.mark.parametrize(
    ("calibration", "fields", "used"),
    [
        ("embedded", {}, True),
        ("interleaved", {}, True),
        (None, {}, True),
        ("separate", {}, False),
        ("external", {}, False),
        ("other", {}, False),
        ("interleaved", {"encoding_space_ref": 1}, False),
        (None, {"sample_time_us": 5.0}, False),
        ("embedded", {"center_sample": 15}, False),
    ],
)
def test_calibration_lines_count_where_they_lie_on_the_grid(
    mrd: Any, kspace: Any, calibration: str | None, fields: dict[str, Any], used: bool
) -> None:
    image_lines = mrd.lines_of(kspace, range(0, COLUMNS, 4))
    extra = [
        mrd.line((1 + (step == 8)) * kspace[:, :, step], 20, kspace_encode_step_1=step, **fields)
        for step in range(6, 11)
    ]
    (scan,) = scans_of(mrd.header(calibration=calibration), extra + image_lines)
    expected = {0, 4, 8, 12} | ({6, 7, 9, 10} if used else set())
    assert set(scan.mask[0].nonzero().flatten().tolist()) == expected
    (full,) = scans_of(mrd.header(), mrd.lines_of(kspace))
    torch.testing.assert_close(scan.kspace, full.kspace * scan.mask)  # step 8 is that of the image


def test_lines_that_are_for_something_else_are_passed_over(mrd: Any, kspace: Any) -> None:
    others = [mrd.line(9 * kspace[:, :, 8], flag, kspace_encode_step_1=8) for flag in (19, 23, 24, 26, 27, 28, 30)]
    (scan,) = scans_of(mrd.header(), others + mrd.lines_of(kspace))
    (expected,) = scans_of(mrd.header(), mrd.lines_of(kspace))
    torch.testing.assert_close(scan.kspace, expected.kspace)


def test_coils_are_whitened(mrd: Any, kspace: Any) -> None:
    matrix = torch.tensor([[2, 0], [1j, 0.5]], dtype=torch.complex64)
    (plain,) = scans_of(mrd.header(), mrd.lines_of(kspace))
    for unit, known in ((True, (1.0,) * COILS), (False, None)):
        (scan,) = scans_of(mrd.header(), mrd.lines_of(kspace), Whitening(matrix, unit))
        torch.testing.assert_close(scan.kspace, whitened(plain.kspace, matrix))
        assert scan.meta.noise == known


def slab(mrd: Any, partitions: int = 6, kept: int = 6) -> tuple[Any, Any, Any]:
    """A header of a 3-D scan, its coil images (coils, rows, columns, partitions), and their k-space."""
    volume = mrd.object_in(ROWS, COLUMNS, partitions, coils=COILS)
    sizes = ((ROWS, COLUMNS, partitions), (16, COLUMNS, kept))
    head = mrd.header(*sizes, (320, 160, 3.0 * partitions), (160, 160, 3.0 * kept))
    return head, volume, mrd.centered(np.fft.fftn, volume, (1, 2, 3))


@pytest.mark.parametrize(("partitions", "kept"), [(6, 6), (6, 4), (5, 5), (7, 4)])
def test_a_slab_becomes_slices(mrd: Any, partitions: int, kept: int) -> None:
    head, volume, kspace = slab(mrd, partitions, kept)
    scans = scans_of(head, mrd.lines_of(kspace))
    assert [scan.meta.slice for scan in scans] == list(range(4, 4 + kept))
    first = partitions // 2 - kept // 2
    for index, scan in enumerate(scans):
        assert_close(ifft2c(scan.kspace), volume[:, 8:24, :, first + index])


def test_a_slab_may_leave_out_phase_encoding_lines_but_no_partitions(mrd: Any) -> None:
    head, volume, kspace = slab(mrd)
    scans = scans_of(head, mrd.lines_of(kspace, range(0, COLUMNS, 2)))
    assert scans[0].acceleration == 2
    hybrid = mrd.centered(np.fft.fft2, volume[:, 8:24], (1, 2))[..., 3]
    assert_close(scans[3].kspace[..., ::2], hybrid[..., ::2])
    lines = mrd.lines_of(kspace)
    with pytest.raises(FileError, match=r"a 3-D scan in which 3 lines of some partitions were not acquired"):
        scans_of(head, lines[3:])


def test_few_lines_in_a_huge_grid_are_refused_before_room_is_made(mrd: Any, kspace: Any) -> None:
    head = mrd.header((60000, 60000, 1), (60000, 60000, 1))
    acquired = mrd.lines_of(kspace)
    with pytest.raises(FileError, match="declares a grid of 60000 x 60000 x 1 for 512 acquired samples"):
        scans_of(head, acquired)
    head = mrd.header((1024, 1024, 1), (1024, 1024, 1))
    acquired = [mrd.line(np.ones((256, 2)), kspace_encode_step_1=512)]  # the coils would take two gigabytes
    with pytest.raises(FileError, match="declares a grid of 1024 x 1024 x 1 for 2 acquired samples"):
        scans_of(head, acquired)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"kspace_encode_step_1": 16},
            r"a line \(step 16, partition 0, 32 samples with the center at 16\) outside its",
        ),
        ({"kspace_encode_step_2": 1}, "partition 1"),
        ({"discard_pre": 20, "discard_post": 12}, "outside its encoded grid of 32 x 16 x 1"),
        ({"flags": 1 << 18}, "has no imaging line"),
        ({"active_channels": 1}, "has lines of 1 and of 2 coils in one image"),
        ({"number_of_samples": 31}, r"a line of \(2, 32\) coils and samples, not \(2, 31\) as declared"),
    ],
)
def test_headers_that_cannot_be_true(mrd: Any, kspace: Any, fields: dict[str, int], message: str) -> None:
    header = parse_header("a.h5", ismrmrd.xsd.ToXML(mrd.header()))
    lines = lines_from(mrd.lines_of(kspace, [7, 8]))
    for name, value in fields.items():
        if name.startswith("kspace"):
            lines.heads["idx"][name][0] = value
        elif name == "flags":
            lines.heads[name] = value
        else:
            lines.heads[name][0] = value
    with pytest.raises(FileError, match=message):
        assemble("a.h5", header, lines, META)


def test_a_readout_longer_than_the_grid_is_refused(mrd: Any, kspace: Any) -> None:
    with pytest.raises(FileError, match=r"32 samples with the center at 16.* outside its encoded grid of 30 x 16"):
        scans_of(mrd.header((30, 16, 1), (15, 16, 1)), mrd.lines_of(kspace))


def test_samples_that_are_no_numbers_or_nothing_are_refused(mrd: Any, kspace: Any) -> None:
    for value in (np.nan, np.inf, 1e30):
        kspace[1, 3, 8] = value
        with pytest.raises(FileError, match="holds k-space in slice 4 that is NaN, infinite or beyond any scanner's"):
            scans_of(mrd.header(), mrd.lines_of(kspace))
    with pytest.raises(FileError, match="holds only zeros in the k-space of slice 4"):
        scans_of(mrd.header(), mrd.lines_of(np.zeros_like(kspace)))


def test_the_layout_is_that_of_the_scans(mrd: Any, kspace: Any) -> None:
    header = parse_header("a.h5", ismrmrd.xsd.ToXML(mrd.header()))
    lines = lines_from(mrd.lines_of(kspace, [3, 7, 8]))
    layout = layout_of("a.h5", header, lines.heads)
    (scan,) = assemble("a.h5", header, lines, META)
    assert torch.equal(layout.mask, scan.mask)
    assert (layout.scans, layout.coils, layout.cut, layout.crop) == (1, COILS, True, scan.meta.crop)


def test_oversampling_is_cut_in_image_space(mrd: Any) -> None:
    # An object that fills the oversampled field of view: nothing of the outer part folds in.
    image = np.random.default_rng(0).normal(size=(1, ROWS, COLUMNS)) + 0j
    kspace = mrd.centered(np.fft.fft2, image, (1, 2))
    (scan,) = scans_of(mrd.header(), mrd.lines_of(kspace))
    assert_close(ifft1c(scan.kspace, -1)[0], mrd.centered(np.fft.fftn, image[0, 8:24], (0,)))
