from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import ismrmrd
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sansref.commands.info import describe
from sansref.data.coil_maps import CoilOptions, with_coils
from sansref.data.readers import open_scan_file
from sansref.data.readers.ismrmrd import IsmrmrdReader
from sansref.errors import FileError
from sansref.kspace.fourier import ifft2c
from sansref.kspace.noise import noise_of
from sansref.outputs.writers import nifti_slices

READER = IsmrmrdReader()
ROWS, COLUMNS = 32, 16
LAST = ismrmrd.ACQ_LAST_IN_SLICE


def kspace_of(mrd: Any, seed: int = 0, coils: int = 2, columns: int = COLUMNS) -> Any:
    return mrd.centered(np.fft.fft2, mrd.object_in(ROWS, columns, coils=coils, seed=seed), (1, 2))


def interleaved(mrd: Any, slices: int, **fields: Any) -> list[Any]:
    """Lines of slices, one line of each in turn; slice n (an object of seed n) lies at 5 n mm, counted at random."""
    counters = np.random.default_rng(slices).permutation(slices)
    groups = [
        mrd.lines_of(kspace_of(mrd, seed), slice=int(counters[seed]), position=(0, 0, 5.0 * seed), **fields)
        for seed in range(slices)
    ]
    return [group[step] for step in range(COLUMNS) for group in groups]


def test_one_slice_of_several_coils(mrd: Any, tmp_path: Path) -> None:
    path = mrd.write(tmp_path / "a.h5", mrd.header(), mrd.lines_of(kspace_of(mrd)))
    reader = open_scan_file(path)
    assert reader.describe(path).format == "MRD (ISMRMRD) HDF5"
    info = reader.describe(path)
    assert (info.path, info.kind, info.slices, info.height, info.width) == (path, "k-space", 1, 16, 16)
    assert (info.coils, info.subject, info.contrast, info.spacing) == (2, "p7", "t1_fl2d", (10.0, 10.0))
    assert info.acquired_fraction == 1
    assert info.notes == ("Readout oversampling 2x is removed (32 to 16 rows).",)
    (scan,) = reader.read(path)
    expected = mrd.object_in(ROWS, COLUMNS)[:, 8:24]
    assert np.abs(ifft2c(scan.kspace).numpy() - expected).max() < 1e-5
    assert (scan.meta.source, scan.meta.slice, scan.meta.crop) == (str(path), 0, (16, 16))


def test_interleaved_slices_are_counted_along_their_direction(mrd: Any, tmp_path: Path) -> None:
    path = mrd.write(tmp_path / "a.h5", mrd.header(), interleaved(mrd, 5))
    scans = list(READER.read(path))
    assert [scan.meta.slice for scan in scans] == list(range(5))
    for seed, scan in enumerate(scans):
        expected = mrd.object_in(ROWS, COLUMNS, seed=seed)[:, 8:24]
        assert np.abs(ifft2c(scan.kspace).numpy() - expected).max() < 1e-5
    (chosen,) = READER.read(path, [3])
    torch.testing.assert_close(chosen.kspace, scans[3].kspace)
    assert chosen.meta == scans[3].meta
    with pytest.raises(ValueError, match=r"slices must lie in 0..4, got \[5\]"):
        next(iter(READER.read(path, [5])))


def test_a_nifti_of_the_slices_lies_right_in_the_patient(mrd: Any, tmp_path: Path) -> None:
    import nibabel

    path = mrd.write(tmp_path / "a.h5", mrd.header(), interleaved(mrd, 3))
    scans = list(READER.read(path))
    with nifti_slices(tmp_path / "a.nii", (3, 16, 16), scans[0].meta.geometry) as put:
        for scan in scans:
            put(scan.meta.slice, torch.full((16, 16), float(scan.meta.slice)))
    image = nibabel.load(tmp_path / "a.nii")
    # The middle of the field of view of the last slice, at 10 mm towards the head.
    place = image.affine @ [8, 8, 2, 1]
    assert place.tolist() == pytest.approx([0, 0, 10, 1])
    assert image.get_fdata()[8, 8].tolist() == [0, 1, 2]


def test_volumes_follow_each_other(mrd: Any, tmp_path: Path) -> None:
    lines = []
    for contrast in (0, 1):
        for repetition in (0, 1):
            for number in (0, 1):
                seed = 4 * repetition + 2 * contrast + number
                fields = {"contrast": contrast, "repetition": repetition, "position": (0, 0, 5.0 * number)}
                lines += mrd.lines_of(kspace_of(mrd, seed), slice=number, **fields)
    path = mrd.write(tmp_path / "a.h5", mrd.header(), lines)
    scans = list(READER.read(path))
    assert [scan.meta.slice for scan in scans] == list(range(8))
    for seed, scan in enumerate(scans):
        expected = mrd.object_in(ROWS, COLUMNS, seed=seed)[:, 8:24]
        assert np.abs(ifft2c(scan.kspace).numpy() - expected).max() < 1e-5
        assert scan.meta.geometry is not None
        assert scan.meta.geometry.stack == 2
        place = np.array(scan.meta.geometry.affine) @ [8, 8, scan.meta.slice % 2, 1]
        assert place.tolist() == pytest.approx([0, 0, 5.0 * (seed % 2), 1])
    note = "Slices are counted through 4 volumes (contrast, repetition), one after another."
    assert note in READER.describe(path).notes


def test_volumes_that_lack_slices_have_no_place(mrd: Any, tmp_path: Path) -> None:
    lines = [
        mrd.line(np.ones((1, ROWS)), kspace_encode_step_1=8, repetition=n, slice=n, position=(0, 0, 5.0 * n))
        for n in (0, 1)
    ]
    path = mrd.write(tmp_path / "a.h5", mrd.header(), lines)
    assert [scan.meta.geometry for scan in READER.read(path)] == [None, None]
    assert READER.describe(path).notes[-2:] == (
        "Slices are counted through 2 volumes (repetition), one after another.",
        "The place of the slices in the patient is not known.",
    )


def test_images_of_other_coils_are_refused(mrd: Any, tmp_path: Path) -> None:
    lines = mrd.lines_of(kspace_of(mrd)) + mrd.lines_of(kspace_of(mrd, coils=3), slice=1, position=(0, 0, 5.0))
    path = mrd.write(tmp_path / "a.h5", mrd.header(), lines)
    with pytest.raises(FileError, match="has images of 2 and of 3 coils"):
        READER.describe(path)


def test_averages_are_noted(mrd: Any, tmp_path: Path) -> None:
    lines = [each for average in range(3) for each in mrd.lines_of(kspace_of(mrd), average=average)]
    path = mrd.write(tmp_path / "a.h5", mrd.header(), lines)
    assert READER.describe(path).notes[-1] == "Lines that were acquired several times (up to 3) are averaged."
    (scan,) = READER.read(path)
    assert np.abs(ifft2c(scan.kspace).numpy() - mrd.object_in(ROWS, COLUMNS)[:, 8:24]).max() < 1e-5


def test_noise_lines_whiten_the_coils(mrd: Any, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    mixing = np.array([[1, 0], [0.8j, 3]])

    def noise(samples: int) -> Any:
        return mixing @ generator.normal(size=(2, samples, 2)).view(np.complex128)[..., 0]

    noise_lines = [mrd.line(noise(256), ismrmrd.ACQ_IS_NOISE_MEASUREMENT) for _ in range(20)]
    empty = np.stack([noise(ROWS) for _ in range(COLUMNS)], axis=-1)
    path = mrd.write(tmp_path / "a.h5", mrd.header(), noise_lines + mrd.lines_of(empty))
    (scan,) = READER.read(path)
    covariance = torch.cov(scan.kspace.flatten(1)) / 2
    assert (covariance - torch.eye(2)).abs().max() < 0.2
    note = "Coils are whitened by 5120 noise samples; the images are in units of the noise."
    assert note in READER.describe(path).notes
    assert scan.meta.noise == (1.0, 1.0)
    single = with_coils(scan, None, CoilOptions(virtual=1, maps="none"))
    assert noise_of(single.batch()).square().mean().sqrt() == pytest.approx(1.0, abs=1e-3)
    assert scan.kspace.real.std() == pytest.approx(1.0, rel=0.15)


def test_noise_that_was_sampled_at_an_untold_rate_does_not_tell_the_level(mrd: Any, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)

    def noise(samples: int, strength: float) -> Any:
        return strength * generator.normal(size=(2, samples, 2)).view(np.complex128)[..., 0]

    lines = [mrd.line(noise(256, 2.0), ismrmrd.ACQ_IS_NOISE_MEASUREMENT, sample_time_us=0) for _ in range(20)]
    empty = np.stack([noise(ROWS, 1.0) for _ in range(COLUMNS)], axis=-1)
    path = mrd.write(tmp_path / "a.h5", mrd.header(), lines + mrd.lines_of(empty))
    (scan,) = READER.read(path)
    assert scan.meta.noise is None
    assert scan.noise_level.flatten().tolist() == pytest.approx([0.5, 0.5], rel=0.2)
    assert any(
        "how fast these were sampled beside the scan is not known" in note for note in READER.describe(path).notes
    )


def test_noise_scans_tell_the_level_of_averages_and_of_virtual_coils_too(mrd: Any, tmp_path: Path) -> None:
    generator = np.random.default_rng(1)

    def noise(samples: int) -> Any:
        return np.diag([1, 7]) @ generator.normal(size=(2, samples, 2)).view(np.complex128)[..., 0]

    noise_lines = [mrd.line(noise(256), ismrmrd.ACQ_IS_NOISE_MEASUREMENT) for _ in range(20)]
    lines = [
        each
        for average in range(4)
        for each in mrd.lines_of(np.stack([noise(ROWS) for _ in range(COLUMNS)], axis=-1), average=average)
    ]
    path = mrd.write(tmp_path / "a.h5", mrd.header(), noise_lines + lines)
    (scan,) = READER.read(path)
    assert scan.meta.noise == (0.5, 0.5)
    assert scan.kspace.real.std() == pytest.approx(0.5, rel=0.15)
    single = with_coils(scan, None, CoilOptions(virtual=1, maps="none"))
    assert single.meta.noise == pytest.approx((0.5,))
    told = "0.5 (standard deviation of each part of a sample), from the file's noise scan"
    assert dict(describe(path))["noise level"] == told


def test_noise_of_no_use_leaves_the_coils_as_they_are(mrd: Any, tmp_path: Path) -> None:
    kspace = kspace_of(mrd)
    noise = np.ones((2, 64)) * [[0], [1]] * np.exp(1j * np.arange(64))
    lines = [mrd.line(noise, 19), *mrd.lines_of(kspace)]
    path = mrd.write(tmp_path / "a.h5", mrd.header(), lines)
    (scan,) = READER.read(path)
    expected = mrd.object_in(ROWS, COLUMNS)[:, 8:24]
    assert np.abs(ifft2c(scan.kspace).numpy() - expected).max() < 1e-5
    (note,) = [note for note in READER.describe(path).notes if "whitened" in note]
    assert note == (
        "Coils are not whitened: the file has noise lines that cannot whiten the coils: "
        "coils without noise, counted from 0: 0."
    )
    path = mrd.write(tmp_path / "b.h5", mrd.header(), [mrd.line(noise[:1], 19), *lines[1:]])
    (note,) = [note for note in READER.describe(path).notes if "whitened" in note]
    assert note == "Coils are not whitened: the noise is of 1 coils, the scan of another number."


def test_what_the_notes_say_of_accelerated_lines(mrd: Any, tmp_path: Path) -> None:
    kspace = kspace_of(mrd)
    calibration = [mrd.line(kspace[:, :, step], 20, kspace_encode_step_1=step) for step in (7, 8, 9)]
    lines = [*calibration, *mrd.lines_of(kspace, range(0, COLUMNS, 4))]
    notes = READER.describe(mrd.write(tmp_path / "a.h5", mrd.header(), lines)).notes
    assert notes[1:] == (
        "10 of 16 phase-encoding lines are not acquired.",
        "1 calibration lines are not part of an image; coil maps may use them.",
        "2 calibration lines lie on the grid of the image and count as acquired.",
    )
    assert READER.describe(tmp_path / "a.h5").acquired_fraction == 6 / 16
    lines = mrd.lines_of(kspace[:, 10:], center_sample=6, read_dir=(0, 0, 0))
    notes = READER.describe(mrd.write(tmp_path / "b.h5", mrd.header(), lines)).notes
    assert notes == (
        "The echo is asymmetric: its missing part is not acquired, and readout oversampling is kept.",
        "The place of the slices in the patient is not known.",
    )


def test_a_slab_is_read_by_its_slices(mrd: Any, tmp_path: Path) -> None:
    volume = mrd.object_in(ROWS, COLUMNS, 6)
    kspace = mrd.centered(np.fft.fftn, volume, (1, 2, 3))
    sizes, lengths = ((ROWS, COLUMNS, 6), (16, COLUMNS, 4)), ((320, 160, 18.0), (160, 160, 12.0))
    path = mrd.write(tmp_path / "a.h5", mrd.header(*sizes, *lengths), mrd.lines_of(kspace))
    assert READER.describe(path).slices == 4
    scans = list(READER.read(path, [3, 0]))
    assert [scan.meta.slice for scan in scans] == [3, 0]
    for scan in scans:
        expected = volume[:, 8:24, :, 1 + scan.meta.slice]
        assert np.abs(ifft2c(scan.kspace).numpy() - expected).max() < 1e-5


def test_memory_does_not_grow_with_the_number_of_images(mrd: Any, tmp_path: Path) -> None:
    samples = np.ones((8, 512), np.complex64)
    head = mrd.header((512, COLUMNS, 1), (512, COLUMNS, 1))

    def peak(slices: int) -> int:
        places = [(step, number) for step in range(6, 10) for number in range(slices)]
        lines = (mrd.line(samples, kspace_encode_step_1=step, slice=number) for step, number in places)
        path = mrd.write(tmp_path / f"{slices}.h5", head, lines)
        tracemalloc.start()
        try:
            for _ in READER.read(path):
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(2)  # imports
    assert peak(20) - peak(4) < 2 * 4 * samples.nbytes  # of 16 slices with 4 lines each


def test_handles_are_closed(mrd: Any, make: Any, tmp_path: Path) -> None:
    path = mrd.write(tmp_path / "a.h5", mrd.header(), interleaved(mrd, 3))
    gc.collect()
    before = make.descriptors()
    scans = READER.read(path)
    next(scans)
    del scans
    READER.describe(path)
    assert make.descriptors() == before


@pytest.mark.parametrize("storage", [{}, {"chunks": (5,)}, {"chunks": (4,), "compression": "gzip"}])
def test_the_list_of_lines_may_be_stored_in_any_way(mrd: Any, tmp_path: Path, storage: dict[str, Any]) -> None:
    path = mrd.write(tmp_path / "a.h5", mrd.header(), mrd.lines_of(kspace_of(mrd)))
    (expected,) = READER.read(path)

    def store(group: Any, old: Any) -> None:
        group.create_dataset("data", data=old[...], dtype=old.dtype, **storage)

    (scan,) = READER.read(rewritten(path, "data", store))
    torch.testing.assert_close(scan.kspace, expected.kspace, rtol=0, atol=0)


def test_a_description_reads_no_samples(mrd: Any, tmp_path: Path) -> None:
    lines = [mrd.line(np.ones((16, 1024)), kspace_encode_step_1=step) for step in range(COLUMNS)]
    path = mrd.write(tmp_path / "a.h5", mrd.header((1024, COLUMNS, 1), (512, COLUMNS, 1)), lines)

    def characters_read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    READER.describe(path)  # imports
    before = characters_read()
    READER.describe(path)
    assert characters_read() - before < path.stat().st_size / 10


def test_the_group_to_read(mrd: Any, tmp_path: Path) -> None:
    lines = mrd.lines_of(kspace_of(mrd))
    path = mrd.write(tmp_path / "a.h5", mrd.header(), lines, group="scan_1")
    assert READER.recognises(path)
    assert len(list(READER.read(path))) == 1
    mrd.write(path, mrd.header(), lines[:3], group="scan_2")
    with pytest.raises(FileError, match=r"holds several measurements \(scan_1, scan_2\) and none is named 'dataset'"):
        READER.describe(path)
    mrd.write(path, mrd.header(), lines[:4])
    info = READER.describe(path)
    assert info.acquired_fraction == 4 / 16
    assert info.notes[0] == "The group 'dataset' is read; there are others: scan_1, scan_2."


def test_other_hdf5_is_not_recognised(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"] = np.ones(3)
        file["xml"] = "text"
    assert not READER.recognises(tmp_path / "a.h5")
    (tmp_path / "b.h5").write_bytes(b"no")
    assert not READER.recognises(tmp_path / "b.h5")


def test_a_patient_without_a_name_is_named_by_the_file(mrd: Any, tmp_path: Path) -> None:
    head = mrd.header()
    head.subjectInformation = head.measurementInformation = None
    info = READER.describe(mrd.write(tmp_path / "s3_scan.h5", head, mrd.lines_of(kspace_of(mrd))))
    assert (info.subject, info.contrast) == ("s3_scan", None)
    (tmp_path / "sub-07").mkdir()
    head.subjectInformation = ismrmrd.xsd.subjectInformationType(patientID="xXXX")
    info = READER.describe(mrd.write(tmp_path / "sub-07" / "scan.h5", head, mrd.lines_of(kspace_of(mrd))))
    assert info.subject == "sub-07"


def rewritten(path: Path, name: str, make: Any) -> Path:
    """Replace a dataset of the group by one that ``make`` creates from the group and the old content."""
    with h5py.File(path, "r+") as file:
        group = file["dataset"]
        old = group[name]
        del group[name]
        make(group, old)
    return path


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("data", lambda group, old: None, "holds MRD without raw data"),
        ("data", lambda group, old: group.create_group("data"), "are not acquisitions with 'head' and 'data'"),
        ("data", lambda group, old: group.create_dataset("data", data=[1.0]), "are not acquisitions"),
        (
            "data",
            lambda group, old: group.create_dataset("data", (0,), old.dtype),
            r"acquisitions of shape \(0,\) whose samples",
        ),
        (
            "data",
            lambda group, old: group.create_dataset("data", (10**9,), old.dtype, chunks=(1000,)),
            "declares 372000000000 bytes of data",
        ),
        ("xml", lambda group, old: group.create_dataset("xml", data=[1.0]), "'xml' header that is not one text"),
        ("xml", lambda group, old: group.create_dataset("xml", data=[b"a", b"b"]), "'xml' header that is not one text"),
        ("xml", lambda group, old: group.create_dataset("xml", data=[b"<a>"]), "ISMRMRD header that is not XML"),
    ],
)
def test_files_that_are_no_raw_data(mrd: Any, tmp_path: Path, name: str, change: Any, message: str) -> None:
    path = mrd.write(tmp_path / "a.h5", mrd.header(), mrd.lines_of(kspace_of(mrd), [7, 8]))
    with pytest.raises(FileError, match=message):
        READER.describe(rewritten(path, name, change))


@pytest.mark.parametrize("chunks", [(1,), None])
@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("number_of_samples", 31, "holds 128 numbers in line 1, not 2 x 2 coils x 31 samples"),
        ("active_channels", 0, "has a line of 32 samples from 0 coils|holds 128 numbers in line 1, not 2 x 0 coils"),
        (
            "number_of_samples",
            60000,
            r"declares \d+ bytes of samples, more than its \d+ bytes can hold|holds 128 numbers",
        ),
        ("flags", 1 << 18, "holds no imaging line"),
    ],
)
def test_headers_that_do_not_fit_the_samples(
    mrd: Any, tmp_path: Path, chunks: tuple[int] | None, field: str, value: int, message: str
) -> None:
    path = mrd.write(tmp_path / "a.h5", mrd.header(), mrd.lines_of(kspace_of(mrd), [7, 8]))

    def store(group: Any, old: Any) -> None:
        lines = old[...]
        lines["head"][field][slice(None) if field == "flags" else 1] = value
        group.create_dataset("data", data=lines, dtype=old.dtype, chunks=chunks)

    with pytest.raises(FileError, match=message):
        list(READER.read(rewritten(path, "data", store)))


@pytest.mark.parametrize("acceleration", [2, 4])
@pytest.mark.parametrize("options", [(), ("-C",), ("-k",), ("-O", 1)])
def test_files_of_the_reference_generator(
    generated: Any, tmp_path: Path, acceleration: int, options: tuple[object, ...]
) -> None:
    path = generated(tmp_path / "a.h5", "-m", 64, "-c", 4, "-a", acceleration, "-w", 24, "-n", 0.001, *options)
    with h5py.File(path) as file:
        stored = file["dataset/coil_images"][()]
        drawn = (stored["real"] + 1j * stored["imag"]).reshape(4, 64, -1).transpose(0, 2, 1)  # coils, readout, columns
    scans = list(READER.read(path))
    assert len(scans) == acceleration
    for repetition, scan in enumerate(scans):
        columns = {*range(32 - 12, 32 + 12), *range(repetition, 64, acceleration)}
        assert set(scan.mask[0].nonzero().flatten().tolist()) == columns
        assert scan.mask.shape[1] == 64
        assert with_coils(scan, None, CoilOptions()).meta.calibration == 24
    # The repetitions together are the whole image.
    filled = sum(scan.kspace * scan.mask for scan in scans) / sum(scan.mask for scan in scans)
    found, rows = ifft2c(filled), scans[0].mask.shape[0]
    first = drawn.shape[1] // 2 - rows // 2
    expected = torch.from_numpy(drawn[:, first : first + rows])
    if "-C" not in options:  # else coils are mixed
        scale = (found.conj() * expected).sum() / found.abs().square().sum()
        assert float((found * scale - expected).abs().max()) < 0.05 * float(expected.abs().max())


@pytest.fixture(scope="module")
def folder(mrd: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small file ``whole.h5``."""
    folder = tmp_path_factory.mktemp("damaged")
    mrd.write(folder / "whole.h5", mrd.header(), mrd.lines_of(kspace_of(mrd), range(0, 16, 5)))
    return folder


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_damaged_files_are_read_or_refused(make: Any, folder: Path, data: st.DataObject) -> None:
    content = bytearray((folder / "whole.h5").read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(1, len(content) - 1))]
    else:
        for _ in range(data.draw(st.integers(1, 8))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = folder / "damaged.h5"
    path.write_bytes(content)
    make.read_or_refuse(path)  # in a process of its own: some damage hangs or crashes HDF5 itself
