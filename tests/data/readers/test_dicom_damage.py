"""Whatever happened to a file: a volume comes out, or one line."""

from __future__ import annotations

import io
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sansref.data.readers import find_files, open_scan_file
from sansref.data.readers.damage import IsolatedReader
from sansref.data.readers.dicom import DicomReader
from sansref.data.readers.dicom_headers import is_dicom

KINDS = ("classic", "enhanced", "rle", "jpeg-ls", "jpeg 2000")
SYNTAXES = {"rle": pydicom.uid.RLELossless, "jpeg-ls": pydicom.uid.JPEGLSLossless}
REAL = Path(pydicom.data.__file__).parent / "test_files"
TAGS = (
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel"),
    *("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope", "SOPClassUID", "ImageType"),
    *("SeriesInstanceUID", "PixelData", "PhotometricInterpretation"),
)

Attempt = Callable[[Path, bytes], None]


@pytest.fixture(scope="module")
def folders(dicom: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each kind; the file that is damaged is called ``b``."""
    made: dict[str, Path] = {}
    volume = np.random.default_rng(0).integers(1, 300, (3, 16, 12)).astype(np.uint16)
    for kind in KINDS:
        made[kind] = folder = tmp_path_factory.mktemp("kind") / "series"
        folder.mkdir()
        images = dicom.series(volume, RescaleSlope="2", RescaleIntercept="0")
        if kind == "enhanced":
            dicom.enhanced(images).save_as(folder / "b1", enforce_file_format=True)
            continue
        if kind == "jpeg 2000":
            shutil.copy(REAL / "MR_small_jp2klossless.dcm", folder / "b1")
            continue
        for name, image in zip(("a1", "b1", "c1"), images, strict=True):
            if kind in SYNTAXES:
                image.compress(SYNTAXES[kind], generate_instance_uid=False)
            image.save_as(folder / name, enforce_file_format=True)
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_decoders_work_in_a_process_of_their_own(folders: dict[str, Path], kind: str) -> None:
    reader = open_scan_file(folders[kind] / "b1")
    assert isinstance(reader, IsolatedReader) == (kind not in ("classic", "enhanced"))
    assert reader.describe(folders[kind] / "b1").slices == len(list(reader.read(folders[kind] / "b1")))


@pytest.fixture(scope="module")
def attempt(make: Any) -> Attempt:
    """Read every volume of a folder with this damaged file in it."""

    def read_all(folder: Path, content: bytes) -> None:
        before = (folder / "b1").read_bytes()
        (folder / "b1").write_bytes(content)
        start, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            for path in [*find_files(folder), folder / "b1"]:
                # Not in a child here: it takes time, and hides what the reader itself does.
                make.read_or_refuse(path, DicomReader() if is_dicom(path) else None)
        finally:
            (folder / "b1").write_bytes(before)
        assert time.process_time() - start < 5
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 100e3  # kB

    return read_all


FUZZ = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(kind=st.sampled_from(KINDS), part=st.floats(0, 1))
@FUZZ
def test_truncated(attempt: Attempt, folders: dict[str, Path], kind: str, part: float) -> None:
    content = (folders[kind] / "b1").read_bytes()
    attempt(folders[kind], content[: int(part * len(content))])


@given(
    kind=st.sampled_from(KINDS),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=4),
    header=st.booleans(),
)
@FUZZ
def test_flipped_bytes(
    attempt: Attempt, folders: dict[str, Path], kind: str, flips: list[tuple[float, int]], header: bool
) -> None:
    content = bytearray((folders[kind] / "b1").read_bytes())
    size = content.find(b"\xe0\x7f\x10\x00") if header else len(content)
    for place, change in flips:
        content[132 + int(place * (size - 133))] ^= change
    attempt(folders[kind], bytes(content))


@given(kind=st.sampled_from(KINDS), place=st.floats(0, 1), value=st.sampled_from([0, 2**31, 2**32 - 2, 2**32 - 1]))
@FUZZ
def test_huge_lengths(attempt: Attempt, folders: dict[str, Path], kind: str, place: float, value: int) -> None:
    content = bytearray((folders[kind] / "b1").read_bytes())
    at = 132 + 2 * int(place * (len(content) - 136) / 2)
    content[at : at + 4] = value.to_bytes(4, "little")
    attempt(folders[kind], bytes(content))


@given(
    kind=st.sampled_from(("classic", "enhanced")),
    name=st.sampled_from(TAGS),
    value=st.sampled_from([None, "", 0, 1, 7, 65535, -1, "text", "1e400", "nan", "1\\2", [1, 2], ["a", "b"], b"\xff"]),
)
@FUZZ
def test_wrong_or_missing_values(attempt: Attempt, folders: dict[str, Path], kind: str, name: str, value: Any) -> None:
    made = pydicom.dcmread(folders[kind] / "b1")
    content = io.BytesIO()
    try:
        if value is None:
            made.pop(pydicom.tag.Tag(name), None)
        else:
            with pydicom.config.disable_value_validation():
                setattr(made, name, value)
        made.save_as(content)
    except Exception:  # a value that cannot even be written
        return
    attempt(folders[kind], content.getvalue())


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_the_magic(attempt: Attempt, folders: dict[str, Path], kind: str) -> None:
    whole = (folders[kind] / "b1").read_bytes()
    for content in (whole[:132], bytes(128) + b"DICM" + bytes(1000), bytes(128) + b"DICM" + b"\xff" * 5000):
        attempt(folders[kind], content)


def test_unlimited_nesting_is_one_line(attempt: Attempt, folders: dict[str, Path]) -> None:
    """A sequence in a sequence in a sequence ..., each of undefined length."""
    whole = (folders["enhanced"] / "b1").read_bytes()
    opened = b"\x00\x52\x30\x92SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    attempt(folders["enhanced"], whole[: whole.find(b"\x00\x52\x29\x92")] + 20000 * opened)
