from __future__ import annotations

import gc
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sansref.data.readers import open_scan_file
from sansref.data.readers.damage import in_child
from sansref.data.readers.fastmri import FastMRIReader
from sansref.errors import FileError
from sansref.kspace.fourier import ifft2c

READER = FastMRIReader()


def center(image: Any, size: tuple[int, int]) -> Any:
    top, left = (image.shape[-2] - size[0]) // 2, (image.shape[-1] - size[1]) // 2
    return image[..., top : top + size[0], left : left + size[1]]


@pytest.mark.parametrize(
    ("shape", "size"),
    [((2, 64, 37), (32, 32)), ((1, 63, 36), (31, 32)), ((1, 65, 40), (32, 31)), ((1, 64, 37), (31, 31))],
)
def test_center_of_the_image_is_reconstruction_esc(make: Any, tmp_path: Path, shape: Any, size: Any) -> None:
    header = make.header(enc_x=shape[1], enc_y=shape[2], rec_x=size[0], rec_y=size[1], center=shape[2] // 2 - 3)
    kspace = make.kspace(shape)
    target = np.abs(center(make.centered(np.fft.ifft2, kspace.astype(np.complex128)), size)).astype(np.float32)
    path = make.fastmri(tmp_path / "knee.h5", kspace, header, reconstruction_esc=target)
    scans = list(READER.read(path))
    assert len(scans) == shape[0]
    for scan, expected in zip(scans, target, strict=True):
        assert scan.meta.crop == size
        image = center(ifft2c(scan.kspace)[0].abs(), size)
        torch.testing.assert_close(image, torch.from_numpy(expected), rtol=1e-5, atol=1e-5 * float(expected.max()))


def test_true_knee_layout(make: Any, tmp_path: Path) -> None:
    header = make.header(enc_x=640, enc_y=368, fov_y=161, rec_x=320, rec_y=320, maximum=329, center=166)
    kspace = make.kspace((2, 640, 368), first=18, stop=348)
    target = np.abs(center(make.centered(np.fft.ifft2, kspace.astype(np.complex128)), (320, 320)))
    path = make.fastmri(tmp_path / "file1000001.h5", kspace, header.encode(), reconstruction_esc=target)
    info = READER.describe(path)
    assert (info.slices, info.coils, info.height, info.width) == (2, 1, 320, 368)
    assert info.spacing == (280 / 640, 161 / 368)
    assert info.acquired_fraction == 330 / 368
    assert info.notes == (
        "38 zero-padded columns are not acquired.",
        "Readout oversampling 2x is removed (640 to 320 rows).",
    )
    (scan,) = READER.read(path, [1])
    assert scan.meta.slice == 1
    assert scan.reference is not None
    image = center(scan.reference.abs(), (320, 320)).double().numpy()
    assert np.abs(image - target[1]).max() < 1e-5 * target[1].max()


def test_description(make: Any, tmp_path: Path) -> None:
    path = make.fastmri(tmp_path / "a.h5", make.kspace((2, 64, 37)))
    info = READER.describe(path)
    assert (info.path, info.format, info.kind) == (path, "fastMRI HDF5", "k-space")
    assert (info.subject, info.contrast, info.coils) == ("0a1b", "CORPD_FBK", 1)
    assert (info.slices, info.height, info.width, info.spacing) == (2, 32, 37, (4.375, 4.375))
    assert info.acquired_fraction == pytest.approx(31 / 37)


def test_limits_may_be_missing_and_other_encodings_are_noted(make: Any, tmp_path: Path) -> None:
    header = make.header().replace("encodingLimits", "limits")
    path = make.fastmri(tmp_path / "a.h5", make.kspace((2, 64, 37)), header)
    info = READER.describe(path)
    assert info.acquired_fraction == pytest.approx(31 / 37)
    assert info.notes[0] == "6 columns hold only zeros and are taken as not acquired."
    twice = header.replace("</ismrmrdHeader>", "<encoding/></ismrmrdHeader>")
    assert "describes 2 encodings" in READER.describe(make.fastmri(path, make.kspace((2, 64, 37)), twice)).notes[0]


def test_dc_stays_in_the_center(make: Any, tmp_path: Path) -> None:
    for rows, height in ((64, 32), (63, 31), (65, 32), (64, 31)):
        kspace = np.zeros((1, rows, 37), np.complex64)
        kspace[0, rows // 2, 18] = 1
        kspace[0, :, 3:34] += 1e-6  # something is measured everywhere
        path = make.fastmri(tmp_path / "dc.h5", kspace, make.header(enc_x=rows, rec_x=height))
        (scan,) = READER.read(path)
        assert divmod(int(scan.kspace[0].abs().argmax()), 37) == (height // 2, 18)


def test_columns_outside_the_limits_are_not_acquired(make: Any, tmp_path: Path) -> None:
    kspace = make.kspace((1, 64, 37), first=0, stop=37)
    (scan,) = READER.read(make.fastmri(tmp_path / "a.h5", kspace))
    expected = torch.zeros(37, dtype=torch.bool)
    expected[3:34] = True  # 37 // 2 - 15 = 3, 31 steps
    assert torch.equal(scan.mask, expected.expand(32, 37))
    assert not scan.kspace[..., ~expected].any()
    assert scan.kspace[..., expected].any(dim=-2).all()
    (scan,) = READER.read(make.fastmri(tmp_path / "b.h5", kspace, make.header(minimum=2)))
    assert scan.mask[0].nonzero()[[0, -1]].flatten().tolist() == [5, 33]


def test_a_fully_sampled_file_gives_its_image_in_its_own_scale(make: Any, tmp_path: Path) -> None:
    kspace = make.kspace((1, 32, 37))
    (scan,) = READER.read(make.fastmri(tmp_path / "a.h5", kspace, make.header(enc_x=32)))
    torch.testing.assert_close(scan.kspace, torch.from_numpy(kspace), rtol=0, atol=0)
    assert scan.reference is not None
    expected = make.centered(np.fft.ifft2, kspace[0].astype(np.complex128))
    assert np.abs(scan.reference.numpy() - expected).max() < 1e-5 * np.abs(expected).max()
    assert (scan.meta.subject, scan.meta.scale, scan.meta.synthetic, scan.maps) == ("0a1b", 1.0, False, None)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32])
def test_a_stored_mask_is_used_and_leaves_no_reference(make: Any, tmp_path: Path, dtype: Any) -> None:
    mask = np.arange(37) % 2 == 0
    path = make.fastmri(tmp_path / "test.h5", make.kspace((1, 64, 37)), mask=mask.astype(dtype))
    (scan,) = READER.read(path)
    mask[:3] = mask[34:] = False
    assert torch.equal(scan.mask, torch.from_numpy(mask).expand(32, 37))
    assert not scan.kspace[..., ~torch.from_numpy(mask)].any()
    assert scan.reference is None
    assert READER.describe(path).acquired_fraction == mask.mean()


def test_columns_of_zeros_are_not_acquired_even_without_a_mask(make: Any, tmp_path: Path) -> None:
    kspace = make.kspace((3, 64, 37))
    kspace[..., 5:9] = 0
    path = make.fastmri(tmp_path / "a.h5", kspace)
    (scan,) = READER.read(path, [0])
    assert scan.mask[0].nonzero().flatten().tolist() == [3, 4, *range(9, 34)]
    assert scan.reference is None
    assert "4 columns hold only zeros and are taken as not acquired." in READER.describe(path).notes


def test_every_slice_may_have_a_mask_of_its_own(make: Any, tmp_path: Path) -> None:
    kspace = make.kspace((3, 64, 37))
    left_out = ([4, 9], [5, 6, 30], [12])
    for index, empty in enumerate(left_out):
        kspace[index][:, empty] = 0
    for scan, empty in zip(READER.read(make.fastmri(tmp_path / "a.h5", kspace)), left_out, strict=True):
        assert scan.mask.all(dim=0).nonzero().flatten().tolist() == [i for i in range(3, 34) if i not in empty]
        assert scan.kspace.any(dim=-2)[0].nonzero().flatten().tolist() == [i for i in range(3, 34) if i not in empty]
        assert scan.reference is None


def test_partial_fourier_and_a_narrow_center_give_no_reference(make: Any, tmp_path: Path) -> None:
    for minimum, maximum in ((9, 30), (11, 19)):
        header = make.header(minimum=minimum, maximum=maximum)
        (scan,) = READER.read(make.fastmri(tmp_path / "a.h5", make.kspace((1, 64, 37)), header))
        assert scan.mask[0].sum() == maximum - minimum + 1
        assert scan.reference is None


def test_several_coils(make: Any, tmp_path: Path) -> None:
    kspace = make.kspace((2, 3, 64, 37))
    path = make.fastmri(tmp_path / "brain.h5", kspace)
    info = READER.describe(path)
    assert (info.slices, info.coils) == (2, 3)
    scans = list(READER.read(path))
    assert [tuple(scan.kspace.shape) for scan in scans] == [(3, 32, 37)] * 2
    assert all(scan.reference is None and scan.maps is None for scan in scans)
    expected = center(make.centered(np.fft.ifft2, kspace[1, 2].astype(np.complex128)), (32, 37))
    assert np.abs(ifft2c(scans[1].kspace)[2].numpy() - expected).max() < 1e-5 * np.abs(expected).max()


def write_points(make: Any, path: Path, coils: int = 2, **options: Any) -> tuple[Path, Any, Any]:
    """Three slices sampled point by point, each with a mask of its own."""
    masks = np.random.default_rng(1).random((3, 64, 37)) < 0.4
    masks[:, 26:38, 12:25] = True
    kspace = make.kspace((3, coils, 64, 37), first=0, stop=37) * masks[:, None]
    return make.fastmri(path, kspace if coils > 1 else kspace[:, 0], None, **options), kspace, masks


@pytest.mark.parametrize("coils", [1, 2])
def test_single_samples_that_are_left_out_are_found(make: Any, tmp_path: Path, coils: int) -> None:
    path, kspace, masks = write_points(make, tmp_path / "3d.h5", coils, reconstruction_rss=np.ones((3, 32, 32)))
    info = READER.describe(path)
    assert (info.height, info.width, info.coils) == (64, 37, coils)
    assert info.acquired_fraction == pytest.approx(masks[1].mean())
    assert any(note.startswith("Single samples are left out: rows are not cut") for note in info.notes)
    for scan, expected, mask in zip(READER.read(path), kspace, masks, strict=True):
        assert torch.equal(scan.mask, torch.from_numpy(mask))
        assert torch.equal(scan.kspace, torch.from_numpy(expected))
        assert scan.meta.crop == (32, 32)
        assert scan.reference is None


def test_a_stored_mask_of_single_samples_is_used(make: Any, tmp_path: Path) -> None:
    mask = np.random.default_rng(2).random((64, 37)) < 0.5
    path = make.fastmri(tmp_path / "3d.h5", make.kspace((1, 64, 37), 0, 37), None, mask=mask)
    (scan,) = READER.read(path)
    assert torch.equal(scan.mask, torch.from_numpy(mask))
    assert not scan.kspace[0, ~scan.mask].any()


def test_lone_zeros_are_measured(make: Any, tmp_path: Path) -> None:
    kspace = make.kspace((1, 64, 37))
    kspace[0, 5, 9] = kspace[0, 60, 20] = 0
    (scan,) = READER.read(make.fastmri(tmp_path / "a.h5", kspace))
    assert scan.mask[0].nonzero().flatten().tolist() == list(range(3, 34))
    assert bool((scan.mask == scan.mask[:1]).all())


def test_brain_files_of_several_coils_have_their_own_widths(make: Any, tmp_path: Path) -> None:
    """Undersampled as fastMRI's test set: padding, a mask, 2x oversampled readout, as many coils as the scanner had."""
    for number, (coils, width) in enumerate(((4, 37), (7, 29))):
        mask = (np.arange(width) % 4 == 1) | (abs(np.arange(width) - width // 2) < 4)
        kspace = make.kspace((2, coils, 64, width), 2, width - 2) * mask
        header = make.header(enc_y=width, maximum=width - 5, center=width // 2 - 2)
        path = make.fastmri(tmp_path / f"file{number}.h5", kspace, header, mask=mask)
        info = READER.describe(path)
        assert (info.coils, info.height, info.width, info.slices) == (coils, 32, width, 2)
        for scan in READER.read(path):
            assert scan.kspace.shape == (coils, 32, width)
            mask[:2] = mask[-2:] = False
            assert torch.equal(scan.mask, torch.from_numpy(mask).expand(32, width))


def test_size_without_a_header(make: Any, tmp_path: Path) -> None:
    kspace = make.kspace((1, 64, 37), first=0, stop=37)
    path = make.fastmri(tmp_path / "a.h5", kspace, None, reconstruction_rss=np.ones((1, 30, 28)))
    (scan,) = READER.read(path)
    assert (scan.meta.crop, scan.meta.spacing, tuple(scan.kspace.shape)) == ((30, 28), None, (1, 30, 37))
    assert "the image size is that of 'reconstruction_rss'" in READER.describe(path).notes[0]
    path = make.fastmri(tmp_path / "b.h5", kspace, None)
    (scan,) = READER.read(path)
    assert scan.meta.crop == (64, 37)
    assert "its readout is taken not to be oversampled" in READER.describe(path).notes[0]
    assert scan.mask.all()
    assert scan.reference is not None
    tall = make.fastmri(tmp_path / "tall.h5", make.kspace((1, 512, 20), first=0, stop=20), None)
    assert READER.describe(tall).height == 512
    knee = make.fastmri(tmp_path / "knee.h5", make.kspace((1, 640, 20), first=0, stop=20), None)
    assert READER.describe(knee).height == 320
    assert "the image is taken to be 320 x" in READER.describe(knee).notes[0]


def test_rows_whose_oversampling_was_cut_off_before_are_as_far_apart_as_those_of_the_image(
    make: Any, tmp_path: Path
) -> None:
    header = make.header(enc_x=64, enc_y=37, rec_x=32, rec_y=32)
    whole = READER.describe(make.fastmri(tmp_path / "whole.h5", make.kspace((1, 64, 37)), header))
    cut = READER.describe(make.fastmri(tmp_path / "cut.h5", make.kspace((1, 32, 37)), header))
    assert (whole.height, cut.height) == (32, 32)
    assert cut.spacing == whole.spacing


def test_limits_of_another_grid_are_not_used(make: Any, tmp_path: Path) -> None:
    kspace = make.kspace((1, 64, 37), first=0, stop=37)
    path = make.fastmri(tmp_path / "a.h5", kspace, make.header(enc_y=50))
    assert READER.describe(path).acquired_fraction == 1
    assert "The header encodes 50 columns, not 37: its limits are not used." in READER.describe(path).notes


def test_a_header_needs_no_namespace(make: Any, tmp_path: Path) -> None:
    header = re.sub(' xmlns="[^"]*"', "", make.header())
    assert "xmlns" not in header
    kspace = make.kspace((1, 64, 37))
    path = make.fastmri(tmp_path / "a.h5", kspace, header)
    assert READER.describe(path).spacing == (4.375, 4.375)


@pytest.mark.parametrize(
    ("value", "subject"),
    [("p1", "p1"), (b"p1", "p1"), (np.bytes_(b"p1"), "p1"), (17, "17"), ("", "file7"), (0.5, "file7"), ("a\nb", "a b")],
)
def test_subject(make: Any, tmp_path: Path, value: Any, subject: str) -> None:
    path = make.fastmri(tmp_path / "file7.h5", make.kspace((1, 64, 37)), attributes={"patient_id": value})
    assert READER.describe(path).subject == subject


def test_slices_come_in_the_order_asked_for(make: Any, tmp_path: Path) -> None:
    path = make.fastmri(tmp_path / "a.h5", make.kspace((3, 64, 37)))
    assert [scan.meta.slice for scan in READER.read(path, [2, 0])] == [2, 0]
    assert list(READER.read(path, [])) == []
    for wrong in (3, -1):
        with pytest.raises(ValueError, match=rf"slices must lie in 0..2, got \[{wrong}\]"):
            next(READER.read(path, [wrong]))


def test_slices_are_read_one_at_a_time(make: Any, tmp_path: Path) -> None:
    kspace = make.kspace((3, 64, 37))
    kspace[2, 5, 7] = np.nan
    path = make.fastmri(tmp_path / "a.h5", kspace)
    scans = READER.read(path)
    assert [next(scans).meta.slice, next(scans).meta.slice] == [0, 1]
    with pytest.raises(FileError, match="NaN or infinite k-space in slice 2"):
        next(scans)


def test_the_file_is_closed_when_the_iterator_is_abandoned(make: Any, tmp_path: Path) -> None:
    path = make.fastmri(tmp_path / "a.h5", make.kspace((3, 64, 37)))
    list(READER.read(path))
    gc.collect()  # of what other tests have left open
    before = make.descriptors()
    scans = READER.read(path)
    next(scans)
    assert make.descriptors() > before
    del scans
    gc.collect()
    assert make.descriptors() == before
    READER.recognises(path)
    READER.describe(path)
    assert make.descriptors() == before


def zero_slice(make: Any) -> Any:
    kspace = make.kspace((2, 64, 37))
    kspace[0] = 0
    return kspace


WRONG: dict[str, tuple[Any, str]] = {
    "real": (lambda make: {"kspace": np.ones((1, 64, 37))}, "holds 'kspace' as float64, not as complex"),
    "flat": (lambda make: {"kspace": make.kspace((64, 37))}, r"of shape \(64, 37\), not \(slices, rows, columns\)"),
    "none": (lambda make: {"kspace": np.zeros((0, 64, 37), np.complex64)}, r"of shape \(0, 64, 37\)"),
    "zero": (lambda make: {"kspace": zero_slice(make)}, "only zeros in the k-space of slice 0"),
    "infinite": (
        lambda make: {"kspace": np.full((1, 64, 37), np.inf, np.complex64)},
        "NaN or infinite k-space in slice 0",
    ),
    "mask length": (lambda make: {"mask": np.ones(36)}, r"'mask' of float64 \(36,\) that is not 37 zeros and ones"),
    "mask values": (lambda make: {"mask": np.full(37, 0.5)}, "that is not 37 zeros and ones"),
    "mask text": (lambda make: {"mask": "all"}, "that is not 37 zeros and ones"),
    "mask empty": (lambda make: {"mask": np.zeros(37)}, "has no acquired column"),
    "not XML": (lambda make: {"header": "<a><b></a>"}, "header that is not XML"),
    "not text": (lambda make: {"header": np.arange(3)}, "'ismrmrd_header' that is not one text"),
    "not UTF-8": (lambda make: {"header": np.bytes_(b"\xff\xfe")}, "truncated or damaged"),
    "DOCTYPE": (lambda make: {"header": "<!doctype a>" + make.header()}, "document type declaration, which is unsafe"),
    "element": (
        lambda make: {"header": make.header().replace("reconSpace", "space")},
        "header without encoding/reconSpace/matrixSize/x",
    ),
    "word": (
        lambda make: {"header": make.header(rec_x="wide")},
        "reconSpace/matrixSize/x is 'wide', not a whole number",
    ),
    "negative": (lambda make: {"header": make.header(center=-1)}, "center is '-1', not a whole number from 0"),
    "length": (lambda make: {"header": make.header(fov_x="nan")}, "fieldOfView_mm/x is 'nan', not a positive length"),
    "limits": (lambda make: {"header": make.header(minimum=9, maximum=8)}, "is 9 to 8 about 15, which is impossible"),
    "centre": (
        lambda make: {"header": make.header(maximum=8, center=200)},
        r"limits \(minimum 0, maximum 8, center 200\) leave no acquired column",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_used_is_named_in_one_line(make: Any, tmp_path: Path, case: str) -> None:
    change, message = WRONG[case]
    contents: dict[str, Any] = {"kspace": make.kspace((2, 64, 37))} | change(make)
    path = make.fastmri(tmp_path / "wrong.h5", **contents)
    with make.refused(path, message):
        list(open_scan_file(path).read(path))


def test_other_hdf5_is_foreign(tmp_path: Path) -> None:
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["image"] = np.ones(3)
    assert not READER.recognises(path)
    with pytest.raises(FileError, match=r"HDF5 without a dataset 'kspace' \(it holds image\)"):
        READER.describe(path)
    with h5py.File(path, "w") as file:
        file.create_group("kspace")
    with pytest.raises(FileError, match="HDF5 without a dataset 'kspace'"):
        READER.describe(path)


def test_a_size_that_no_file_could_hold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", (10**6, 10**4, 10**4), np.complex64, chunks=(1, 100, 100), compression="gzip")
    with pytest.raises(FileError, match="declares 800000000000000 bytes of data"):
        READER.describe(path)


def test_a_truncated_file_is_recognised_and_named(make: Any, tmp_path: Path) -> None:
    path = make.fastmri(tmp_path / "a.h5", make.kspace((2, 64, 37)))
    content = path.read_bytes()
    for part in (0.1, 0.5, 0.99):
        path.write_bytes(content[: int(part * len(content))])
        with pytest.raises(
            FileError, match=r"cannot be read as fastMRI HDF5; it is truncated or damaged .*truncated file"
        ):
            open_scan_file(path).describe(path)


@pytest.fixture(scope="module")
def valid(make: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, list[int]]:
    """A file to write to, the content of a valid file, and the places in it that may be damaged.

    Left alone is the heap that holds texts of variable length, and the reference to the header in it: libhdf5
    (2.0) loops for ever over a heap object of size 0 and believes any length, and no caller can prevent that.
    """
    path = tmp_path_factory.mktemp("fuzz") / "a.h5"
    make.fastmri(path, make.kspace((1, 64, 37)), mask=np.ones(37))
    content = path.read_bytes()
    heap = content.index(b"GCOL")
    left_alone = set(range(heap, heap + 4096))
    for reference in re.finditer(re.escape(heap.to_bytes(8, "little")), content):
        left_alone |= set(range(reference.start() - 4, reference.end() + 4))
    return path, content, sorted(set(range(len(content))) - left_alone)


def test_damage_gives_a_file_error_or_valid_scans(make: Any, valid: tuple[Path, bytes, list[int]]) -> None:
    """In one child for all examples, whose crash would be an error of the file here."""
    in_child(valid[0], lambda: read_damaged(make, valid))


# The same examples in every run: what a crash leaves to be found must not depend on luck.
@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.data())
def read_damaged(make: Any, valid: tuple[Path, bytes, list[int]], data: st.DataObject) -> None:
    path, content, places = valid
    metadata = [place for place in places if place < 2500 or place > len(content) - 4096]
    path.write_bytes(make.damaged(data, content, st.sampled_from(metadata) | st.sampled_from(places)))
    make.read_or_refuse(path, READER)
