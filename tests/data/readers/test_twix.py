from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import twixtools
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from twixtools import mdh_def

from sansref.data.readers import open_scan_file
from sansref.data.readers.twix import TwixReader, rotations
from sansref.errors import FileError, SettingError
from sansref.kspace.fourier import ifft2c

READER = TwixReader()
ROWS, COLUMNS, COILS = 32, 16, 2

YAPS = """### ASCCONV BEGIN ###
tProtocolName = "t1_fl2d"
tSequenceFileName = "{sequence}"
sSliceArray.asSlice[0].dThickness = 4.0
sSliceArray.asSlice[0].dPhaseFOV = 160.0
sSliceArray.asSlice[0].dReadoutFOV = 160.0
sKSpace.lBaseResolution = 16
sKSpace.lPhaseEncodingLines = {lines}
sKSpace.lPartitions = {partitions}
sKSpace.ucDimension = {dimension}
sKSpace.ucTrajectory = {trajectory}
sPat.ucRefScanMode = {calibration}
sSliceAcceleration.lMultiBandFactor = {bands}
sRXSPEC.alDwellTime[0] = {dwell}
### ASCCONV END ###"""
MEAS = """<ParamLong."iPEFTLength"> {{ {lines} }}
<ParamLong."i3DFTLength"> {{ {fourier} }}
<ParamArray."alRegridMode"> {{ }} <ParamLong."alRegridMode"> {{ {regrid} }}
<ParamString."PatientID"> {{ "{subject}" }}
"""


def protocol(**changes: Any) -> bytes:
    """The protocol of a measurement, as bytes with its length in front."""
    values = {"lines": COLUMNS, "partitions": 1, "dimension": 2, "trajectory": 1, "calibration": 1, "bands": 1}
    values |= {"dwell": 10000, "regrid": 1, "subject": "p7", "sequence": "%SiemensSeq%\\gre", "fourier": ""} | changes
    texts = {"Meas": MEAS.format(**values), "MeasYaps": YAPS.format(**values)}
    if "oversampling" in changes:
        texts["Dicom"] = '<ParamDouble."flReadoutOSFactor"> {{ <Precision> 6 {oversampling} }}\n'.format(**values)
    body = b"".join(
        name.encode() + b"\0" + struct.pack("<I", len(text)) + text.encode() for name, text in texts.items()
    )
    length = 8 + len(body) + (-(8 + len(body))) % 32
    return (struct.pack("<II", length, len(texts)) + body).ljust(length, b" ")


def block(samples: Any, *flags: str, modern: bool = True, center: int | None = None, **counters: Any) -> Any:
    """A readout line (coils, samples) with Siemens' counters; ``position`` and ``quaternion`` place it."""
    made = twixtools.mdb.Mdb_local(np.asarray(samples, np.complex64), modern)
    mdh = made.mdh
    mdh.CenterCol = samples.shape[1] // 2 if center is None else center
    mdh.CenterLin, mdh.CenterPar = counters.pop("centers", (COLUMNS // 2, 0))
    mdh.CutOff.Pre, mdh.CutOff.Post = counters.pop("cut", (0, 0))
    place = counters.pop("position", (0.0, 0.0, 0.0))
    mdh.SliceData.SlicePos.Sag, mdh.SliceData.SlicePos.Cor, mdh.SliceData.SlicePos.Tra = place
    mdh.SliceData.Quaternion[:] = counters.pop("quaternion", (1.0, 0.0, 0.0, 0.0))
    for name, value in counters.items():
        setattr(mdh.Counter, name, value)
    for flag in flags:
        made.add_flag(flag)
    return made


def blocks_of(kspace: Any, steps: Any = None, **counters: Any) -> list[Any]:
    return [block(kspace[:, :, y], Lin=y, **counters) for y in (range(kspace.shape[2]) if steps is None else steps)]


def write(path: Path, *measurements: tuple[bytes, list[Any]]) -> Path:
    """Write a file of VD or VE with twixtools."""
    scans = [{"hdr_str": np.frombuffer(head, "S1"), "mdb": list(lines)} for head, lines in measurements]
    twixtools.write_twix(scans, path)
    return path


def write_vb(path: Path, head: bytes, lines: list[Any]) -> Path:
    """Write a file of VB, in which every coil repeats the header; twixtools cannot."""
    content = bytearray(head)
    for line in lines:
        for samples in line.data:
            content += bytes(line.mdh) + samples.tobytes()
    end = mdh_def.VB17_header()
    mdh_def.add_flag(end, "ACQEND")
    path.write_bytes(content + bytes(end) + bytes(256))
    return path


@pytest.fixture
def images(mrd: Any) -> Any:
    return mrd.object_in(ROWS, COLUMNS, coils=COILS)


@pytest.fixture
def kspace(mrd: Any, images: Any) -> Any:
    return mrd.centered(np.fft.fft2, images, (1, 2))


@pytest.fixture(autouse=True)
def quiet(capsys: pytest.CaptureFixture[str]) -> Any:
    """Neither twixtools nor the reader prints anything while a file is read."""
    yield
    assert "twix header" not in capsys.readouterr().out


def assert_image(kspace: torch.Tensor, expected: Any) -> None:
    assert np.abs(ifft2c(kspace).numpy() - expected).max() < 1e-5 * np.abs(expected).max()


def test_a_file_of_ve(tmp_path: Path, images: Any, kspace: Any) -> None:
    path = write(tmp_path / "meas.dat", (protocol(), blocks_of(kspace)))
    reader = open_scan_file(path)
    assert reader.describe(path).format == "Siemens twix"
    info = reader.describe(path)
    assert (info.path, info.kind, info.slices, info.height, info.width) == (path, "k-space", 1, 16, COLUMNS)
    assert (info.coils, info.subject, info.contrast, info.spacing) == (COILS, "p7", "t1_fl2d", (10.0, 10.0))
    assert info.acquired_fraction == 1
    assert info.notes == ("Readout oversampling 2x is removed (32 to 16 rows).",)
    (scan,) = reader.read(path)
    assert_image(scan.kspace, images[:, 8:24])


def test_a_file_of_vb(tmp_path: Path, images: Any, kspace: Any) -> None:
    head = protocol(subject="p " * 5000)  # VB is told by a protocol of over 10,000 bytes
    path = write_vb(tmp_path / "meas.dat", head, blocks_of(kspace, modern=False))
    assert READER.recognises(path)
    assert READER.describe(path).coils == COILS
    (scan,) = READER.read(path)
    assert_image(scan.kspace, images[:, 8:24])


def test_the_last_measurement_is_read_and_an_earlier_one_whitens(tmp_path: Path, kspace: Any) -> None:
    generator = np.random.default_rng(0)
    mixing = np.array([[1, 0], [0.8j, 3]])
    noise = [
        block(mixing @ generator.normal(size=(2, 512, 2)).view(np.complex128)[..., 0], "NOISEADJSCAN") for _ in range(9)
    ]
    adjustment = (protocol(dwell=2500), noise)
    path = write(tmp_path / "meas.dat", adjustment, (protocol(), blocks_of(kspace)))
    info = READER.describe(path)
    assert info.notes[0] == "The last of 2 measurements is read."
    assert info.notes[-1] == "Coils are whitened by 4608 noise samples; the images are in units of the noise."
    (scan,) = READER.read(path)
    (plain,) = READER.read(write(tmp_path / "plain.dat", (protocol(), blocks_of(kspace))))
    covariance = mixing @ mixing.conj().T  # of noise sampled four times as fast: four times the power
    matrix = torch.linalg.inv(torch.linalg.cholesky(torch.from_numpy(covariance))).to(torch.complex64)
    expected = 2 * torch.einsum("ij,jxy->ixy", matrix, plain.kspace)
    assert (scan.kspace - expected).abs().max() < 0.05 * expected.abs().max()


def test_lines_that_are_no_part_of_the_image(tmp_path: Path, images: Any, kspace: Any) -> None:
    flags = ("PHASCOR", "RTFEEDBACK", "HPFEEDBACK", "noname60", "PHASESTABSCAN", "REFPHASESTABSCAN")
    others = [block(9 * kspace[:, :, 8], flag, Lin=8) for flag in (*flags, "SLICE_ACCEL_REFSCAN", "RETRO_DUMMYSCAN")]
    sync = block(np.zeros((1, 20)), "SYNCDATA")
    mdh_def.set_dma_len(sync.mdh, 192 + 160)
    lines = [*others, sync, *blocks_of(kspace)]
    path = write(tmp_path / "meas.dat", (protocol(), lines))
    (scan,) = READER.read(path)
    assert_image(scan.kspace, images[:, 8:24])


def test_reflected_averaged_and_calibration_lines(tmp_path: Path, images: Any, kspace: Any) -> None:
    lines = [block(kspace[:, ::-1, y], "REFLECT", Lin=y) for y in range(0, COLUMNS, 2)]
    for average, weight in enumerate((0.5, 1.5)):
        lines += [block(weight * kspace[:, :, y], Lin=y, Ave=average) for y in (3, 5)]
    lines += [block(kspace[:, :, y], "PATREFSCAN", Lin=y) for y in (7, 9)]
    lines += [block(kspace[:, :, 11], "PATREFSCAN", "PATREFANDIMASCAN", Lin=11)]
    path = write(tmp_path / "meas.dat", (protocol(calibration=2), lines))
    (scan,) = READER.read(path)
    expected = torch.zeros(COLUMNS, dtype=torch.bool)
    expected[[*range(0, COLUMNS, 2), 3, 5, 7, 9, 11]] = True
    assert torch.equal(scan.mask[0], expected)
    (full,) = READER.read(write(tmp_path / "full.dat", (protocol(), blocks_of(kspace))))
    torch.testing.assert_close(scan.kspace, full.kspace * expected)
    (scan,) = READER.read(write(tmp_path / "separate.dat", (protocol(calibration=4), lines)))
    assert int(scan.mask[0].sum()) == int(expected.sum()) - 2


@pytest.mark.parametrize("shift", [0, 6])
def test_a_reflected_asymmetric_echo(tmp_path: Path, kspace: Any, shift: int) -> None:
    # Siemens counts the center of a reflected line from its end, which is one more than the place of its sample.
    stored = kspace[:, ::-1][:, shift:]
    lines = [block(stored[:, :, y], "REFLECT", Lin=y, center=ROWS // 2 - shift) for y in range(COLUMNS)]
    (scan,) = READER.read(write(tmp_path / "meas.dat", (protocol(), lines)))
    found = torch.zeros(COILS, ROWS, COLUMNS, dtype=torch.complex64)
    if shift == 0:
        found = scan.kspace
        (full,) = READER.read(write(tmp_path / "full.dat", (protocol(), blocks_of(kspace))))
        torch.testing.assert_close(found, full.kspace)
        return
    expected = kspace.copy()
    expected[:, ROWS - shift :] = 0
    assert np.abs(scan.kspace.numpy() - expected).max() < 1e-5
    assert scan.mask[:, 0].nonzero().flatten().tolist() == list(range(ROWS - shift))


def test_partial_fourier_and_an_asymmetric_echo(tmp_path: Path, kspace: Any) -> None:
    lines = [block(kspace[:, 10:, y], center=6, Lin=y - 5, centers=(3, 0)) for y in range(5, COLUMNS)]
    path = write(tmp_path / "meas.dat", (protocol(), lines))
    (scan,) = READER.read(path)
    expected = kspace.copy()
    expected[:, :10] = expected[:, :, :5] = 0
    assert np.abs(scan.kspace.numpy() - expected).max() < 1e-5
    assert torch.equal(scan.mask, torch.from_numpy(expected[0] != 0))
    assert (scan.meta.crop, scan.meta.spacing) == ((16, COLUMNS), (10.0, 10.0))


def test_a_slab(mrd: Any, tmp_path: Path) -> None:
    volume = mrd.object_in(ROWS, COLUMNS, 4, coils=COILS)
    kspace = mrd.centered(np.fft.fftn, volume, (1, 2, 3))
    lines = [line for z in range(4) for line in blocks_of(kspace[..., z], Par=z, centers=(COLUMNS // 2, 2))]
    path = write(tmp_path / "meas.dat", (protocol(dimension=4, partitions=4), lines))
    scans = list(READER.read(path))
    for index, scan in enumerate(scans):
        assert_image(scan.kspace, volume[:, 8:24, :, index])
    assert len(scans) == 4


@pytest.mark.parametrize("fourier", ["", 2, 16])
def test_one_partition_is_a_slice_whatever_the_protocol_says(
    tmp_path: Path, images: Any, kspace: Any, fourier: Any
) -> None:
    path = write(
        tmp_path / "meas.dat", (protocol(dimension=4, partitions=fourier or 8, fourier=fourier), blocks_of(kspace))
    )
    info = READER.describe(path)
    assert (info.slices, info.acquired_fraction) == (1, 1)
    (scan,) = READER.read(path)
    assert_image(scan.kspace, images[:, 8:24])
    assert scan.meta.geometry is not None
    assert np.linalg.norm(np.array(scan.meta.geometry.affine)[:3, 2]) == pytest.approx(4)


def bright(images: Any) -> Any:
    """An object whose k-space is strongest in its center, as that of all real ones."""
    image = np.zeros_like(images)
    image[:, 12:22, 4:13] = 1 + np.abs(images[:, 12:22, 4:13])
    return image


@pytest.mark.parametrize("lines", [1, 7, 4 * COLUMNS])
@pytest.mark.parametrize("oversampling", [1.0, 2.0])
@pytest.mark.parametrize("steps", [range(COLUMNS), range(5, COLUMNS), [0, *range(4, 12), 15], range(12)])
def test_pulseq_leaves_a_protocol_that_tells_nothing(
    tmp_path: Path, images: Any, lines: int, oversampling: float, steps: Any, mrd: Any
) -> None:
    image = bright(images)
    kspace = mrd.centered(np.fft.fft2, image, (1, 2))
    head = protocol(sequence="%CustomerSeq%\\pulseq", lines=lines, dimension=4, fourier=2, oversampling=oversampling)
    blocks = blocks_of(kspace, steps, centers=(0, 0))
    path = write(tmp_path / "meas.dat", (head, blocks))
    info = READER.describe(path)
    assert "Pulseq" in info.notes[0]
    assert "place of the images in the patient is unknown" in info.notes[0]
    kept = int(ROWS / oversampling)
    assert (info.height, info.width, info.spacing) == (kept, COLUMNS, (160 / kept, 160 / COLUMNS))
    (scan,) = READER.read(path)
    assert scan.meta.geometry is not None
    assert not scan.meta.geometry.known  # its axes may run against the protocol's directions
    assert scan.mask[0].nonzero().flatten().tolist() == list(steps)
    first = ROWS // 2 - kept // 2
    expected = image[:, first : first + kept]
    if len(steps) == COLUMNS:
        assert_image(scan.kspace, expected)
    else:
        assert np.abs(scan.kspace.numpy() - mrd.centered(np.fft.fft2, expected, (1, 2)))[..., list(steps)].max() < 1e-4


@pytest.mark.parametrize("modern", [True, False])
@pytest.mark.parametrize("mode", [4, 8])
def test_a_reference_scan_of_its_own_is_kept_for_coil_maps(
    mrd: Any, tmp_path: Path, images: Any, modern: bool, mode: int
) -> None:
    kspace = mrd.centered(np.fft.fft2, bright(images), (1, 2))
    lines = [block(kspace[:, :, 4 + y], "PATREFSCAN", modern=modern, Lin=y, centers=(4, 0)) for y in range(8)]
    lines += [block(9 * kspace[:, :, 8], "PATREFSCAN", "PHASCOR", modern=modern, Lin=4)]
    lines += blocks_of(kspace, range(0, COLUMNS, 4), modern=modern)
    lines += blocks_of(kspace, range(1, COLUMNS, 4), modern=modern, Rep=1)
    head = protocol(calibration=mode, subject="p7" if modern else "p " * 5000)
    path = tmp_path / "meas.dat"
    write(path, (head, lines)) if modern else write_vb(path, head, lines)
    scans = list(READER.read(path))
    (full,) = READER.read(write(tmp_path / "full.dat", (protocol(), blocks_of(kspace))))
    for scan, first in zip(scans, (0, 1), strict=True):
        assert scan.mask[0].nonzero().flatten().tolist() == list(range(first, COLUMNS, 4))
        assert scan.calibration is not None
        there = (scan.calibration != 0).any(0)
        columns = there.all(0).nonzero().flatten()
        assert len(columns) == 8  # all, about the strongest of them
        assert int(there.sum()) == 8 * len(there)
        torch.testing.assert_close(scan.calibration[..., columns], full.kspace[..., 4:12])


def test_slices_lie_in_the_patient_as_twixtools_turns_them(mrd: Any, tmp_path: Path) -> None:
    turn = Rotation.from_euler("xyz", (15, -30, 70), degrees=True)
    x, y, z, w = turn.as_quat()
    matrix = turn.as_matrix()  # columns phase, read, slice
    positions = [np.array([5.0, -20, 30]) + 6.0 * index * matrix[:, 2] for index in range(3)]
    lines = []
    for counter, index in enumerate((1, 2, 0)):
        kspace = mrd.centered(np.fft.fft2, mrd.object_in(ROWS, COLUMNS, coils=COILS, seed=index), (1, 2))
        lines += blocks_of(kspace, Sli=counter, position=tuple(positions[index]), quaternion=(w, x, y, z))
    path = write(tmp_path / "meas.dat", (protocol(), lines))
    scans = list(READER.read(path))
    for index, scan in enumerate(scans):
        assert_image(scan.kspace, mrd.object_in(ROWS, COLUMNS, coils=COILS, seed=index)[:, 8:24])
    geometry = scans[0].meta.geometry
    assert geometry is not None
    affine = np.diag([-1.0, -1, 1, 1]) @ np.array(geometry.affine)  # in Siemens' (and DICOM's) coordinates
    turned = twixtools.geometry.quat_to_rotmat(w, x, y, z)
    turned[:, :2] *= -1  # as its function prs2sct_mdb does
    np.testing.assert_allclose(affine[:3, 0], 10 * turned[:, 1], atol=1e-5)
    np.testing.assert_allclose(affine[:3, 1], 10 * turned[:, 0], atol=1e-5)
    for index, position in enumerate(positions):
        np.testing.assert_allclose(affine @ [8, 8, index, 1], [*position, 1], atol=1e-3)


def test_a_quaternion_that_is_none_turns_nothing() -> None:
    found = rotations([[0, 0, 0, 0], [np.nan, 0, 0, 1], [2, 0, 0, 0]])
    np.testing.assert_array_equal(found, [np.zeros((3, 3)), np.zeros((3, 3)), np.eye(3)])


def test_an_anonymised_patient_is_named_by_the_file(tmp_path: Path, kspace: Any) -> None:
    path = write(tmp_path / "s3.dat", (protocol(subject="xxxxxxx"), blocks_of(kspace)))
    assert READER.describe(path).subject == "s3"


def test_the_protocol_may_be_all_that_tells_the_grid(tmp_path: Path, kspace: Any) -> None:
    # Fewer lines are declared than acquired: the grid holds all that were.
    path = write(tmp_path / "meas.dat", (protocol(lines=3), blocks_of(kspace)))
    assert READER.describe(path).width == COLUMNS


def test_without_the_package_one_line_says_so(tmp_path: Path, kspace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "meas.dat", (protocol(), blocks_of(kspace)))
    monkeypatch.setitem(sys.modules, "twixtools.hdr_def", None)
    with pytest.raises(SettingError, match=r"needs the package twixtools: pip install "):
        READER.describe(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trajectory": 2}, "was not acquired on a Cartesian grid"),
        ({"regrid": 2}, "was sampled on the ramps of its gradients"),
        ({"bands": 2}, "was acquired with several slices at a time"),
        ({"subject": "y" * 20000}, "has a protocol that no scanner writes"),
        ({"subject": "ASCCONV BEGIN " * 20}, "has a protocol that no scanner writes"),
        ({"subject": "asSlice[99999]"}, "has a protocol that no scanner writes"),
    ],
)
def test_measurements_that_are_not_read(tmp_path: Path, kspace: Any, change: Any, message: str) -> None:
    path = write(tmp_path / "meas.dat", (protocol(**change), blocks_of(kspace)))
    with pytest.raises(FileError, match=message):
        READER.describe(path)


@pytest.mark.parametrize(
    ("found", "put", "message"),
    [
        (b"dReadoutFOV = 160.0", b"dReadoutFOV = -60.0", "has a protocol without a positive dReadoutFOV"),
        (b"sKSpace", b"sNSpace", "cannot be read as Siemens twix; it is truncated or damaged"),
    ],
)
def test_protocols_that_lack_something(tmp_path: Path, kspace: Any, found: bytes, put: bytes, message: str) -> None:
    path = write(tmp_path / "meas.dat", (protocol().replace(found, put), blocks_of(kspace)))
    with pytest.raises(FileError, match=message):
        READER.describe(path)


def test_a_measurement_without_an_image(tmp_path: Path, kspace: Any) -> None:
    path = write(tmp_path / "meas.dat", (protocol(), [block(kspace[:, :, 0], "NOISEADJSCAN")]))
    with pytest.raises(FileError, match="holds no imaging line in its last measurement"):
        READER.describe(path)


def test_damaged_blocks(tmp_path: Path, kspace: Any) -> None:
    path = write(tmp_path / "meas.dat", (protocol(), blocks_of(kspace)))
    content = path.read_bytes()
    first = 10240 + len(protocol())
    channels = first + mdh_def.Scan_header.UsedChannels.offset
    path.write_bytes(content[:channels] + b"\xff\xff" + content[channels + 2 :])
    with pytest.raises(FileError, match=rf"a block of \d+ bytes at byte {first}, which is impossible"):
        READER.describe(path)
    flags = first + mdh_def.Scan_header.EvalInfoMask.offset
    path.write_bytes(content[:flags] + b"\x20" + content[flags + 1 : first] + content[first:])
    with pytest.raises(FileError, match="is truncated or damaged"):
        list(READER.read(path))  # a block of other data, of a length of nothing
    path.write_bytes(content[:first] + bytes(len(content) - first))
    with pytest.raises(FileError, match=rf"a block of 0 bytes at byte {first}, which is impossible"):
        READER.describe(path)
    path.write_bytes(content[:-4000])
    with pytest.raises(FileError, match="lists a measurement in bytes 10240 to"):
        READER.describe(path)
    path.write_bytes(content[:5000])
    with pytest.raises(FileError, match="ends after 5000 bytes, before its list of measurements does"):
        READER.describe(path)


def test_other_files_are_not_recognised(tmp_path: Path) -> None:
    path = tmp_path / "a.dat"
    for content in (b"", b"\0" * 20, b"\0" * 20000, b"abcdefgh" * 3000, struct.pack("<II", 20000, 3) + bytes(50)):
        path.write_bytes(content)
        assert not READER.recognises(path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_files_are_read_or_refused(make: Any, mrd: Any, tmp_path_factory: Any, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("damaged") / "meas.dat"
    kspace = mrd.centered(np.fft.fft2, mrd.object_in(ROWS, COLUMNS, coils=COILS), (1, 2))
    if data.draw(st.booleans()):
        write(path, (protocol(), blocks_of(kspace, range(0, 16, 3))))
        headers = 10240
    else:
        write_vb(path, protocol(subject="p " * 5000), blocks_of(kspace, range(0, 16, 3), modern=False))
        headers = 0
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(9, len(content) - 1))]
    else:
        for _ in range(data.draw(st.integers(1, 12))):
            at = data.draw(st.integers(0, len(content) - 1) | st.integers(headers, headers + 2000))
            content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    if READER.recognises(path):
        make.read_or_refuse(path, READER)
