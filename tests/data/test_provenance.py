from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sansref.data.provenance import PIECE, PIECES, RELATIVE, Provenance, digest, files_behind, fingerprint
from sansref.data.readers import FileInfo
from sansref.errors import FileError
from sansref.scan import ScanMeta

MADE = Provenance("ssdu", "0123456789abcdef" * 4, "c" * 64, "random_columns, 4x")
INFO = FileInfo(Path("a"), "NIfTI", "magnitude", 4, 5, 6, "s", contrast="T1w")


def test_sentences_tell_what_was_measured() -> None:
    meta = ScanMeta("s", "a", synthetic=True, emulated=True)
    said = " ".join(MADE.sentences(INFO, meta))
    assert "method ssdu, weights 0123456789abcdef." in said
    assert "computed from magnitude images, not measured" in said
    assert "undersampled by software: random_columns, 4x." in said
    assert "never seen" not in said
    assert said.endswith("RESEARCH USE ONLY: not for diagnostic use.")
    assert "The method has never seen such a mask." in replace(MADE, unseen=True).sentences(INFO, meta)
    raw = replace(INFO, kind="k-space", acquired_fraction=0.25)
    said = " ".join(MADE.sentences(raw, ScanMeta("s", "a")))
    assert "acquired undersampled, 4x." in said
    assert "synthetic" not in said
    assert "software" not in said
    whole = " ".join(MADE.sentences(replace(raw, acquired_fraction=1.0), ScanMeta("s", "a")))
    assert "undersampled" not in whole
    assert MADE.name == "sansref ssdu RESEARCH USE ONLY"
    assert RELATIVE not in whole
    assert f"{RELATIVE}." in replace(MADE, units=RELATIVE).sentences(INFO, meta)


def test_a_few_words_begin_with_the_weightiest() -> None:
    assert MADE.brief == "RESEARCH USE ONLY, sansref. Method ssdu"
    bound = replace(MADE, shows="error bound", meaning="Error bound, not an image: it is.", noise="Noise was left.")
    assert bound.brief == "RESEARCH USE ONLY, sansref. Error bound, not an image: it is. Noise was left. Method ssdu"
    assert replace(MADE, units=RELATIVE).brief.startswith("RESEARCH USE ONLY, sansref. Relative grey values")


def test_a_scan_is_more_than_its_first_file(dicom: Any, tmp_path: Path) -> None:
    paths = dicom.save(tmp_path / "series", dicom.series(dicom.volume()))
    assert set(files_behind(paths[2])) == set(paths)
    for name in ("scan.hdr", "scan.cfl", "other.hdr", "volume.nii"):
        (tmp_path / name).write_text(name)
    assert files_behind(tmp_path / "scan.hdr") == (tmp_path / "scan.hdr", tmp_path / "scan.cfl")
    assert files_behind(tmp_path / "scan.cfl") == (tmp_path / "scan.cfl", tmp_path / "scan.hdr")
    assert files_behind(tmp_path / "other.hdr") == (tmp_path / "other.hdr",)
    assert files_behind(tmp_path / "volume.nii") == (tmp_path / "volume.nii",)


def test_a_digest_knows_contents_and_no_names(tmp_path: Path) -> None:
    for name, text in (("a", "one"), ("b", "two"), ("c", "two"), ("d", "one")):
        (tmp_path / name).write_text(text)
    first, second = digest([tmp_path / "a", tmp_path / "b"]), digest([tmp_path / "c", tmp_path / "d"])
    assert first == second
    assert digest([tmp_path / "a"]) != digest([tmp_path / "b"])
    assert digest([]) == hashlib.sha256(b"").hexdigest()


def test_a_fingerprint_knows_a_copy_and_every_change(tmp_path: Path, dicom: Any) -> None:
    scan, copy = tmp_path / "T1.nii", tmp_path / "other" / "scan.nii"
    copy.parent.mkdir()
    for path in (scan, copy):
        path.write_bytes(b"head" + bytes(1000))
    known = fingerprint(scan)
    assert fingerprint(copy) == known
    state = scan.stat()
    scan.write_bytes(b"dead" + bytes(1000))  # of the same size, and then of the same age
    os.utime(scan, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert fingerprint(scan) != known
    scan.write_bytes(b"head" + bytes(1001))
    assert fingerprint(scan) != known
    for name in ("scan.hdr", "scan.cfl"):
        (tmp_path / name).write_text(name)
    pair = fingerprint(tmp_path / "scan.cfl")
    (tmp_path / "scan.hdr").write_text("scan.hdx")
    assert fingerprint(tmp_path / "scan.cfl") != pair
    paths = dicom.save(tmp_path / "series", dicom.series(dicom.volume()))
    series = fingerprint(paths[0])
    assert fingerprint(paths[1]) == series
    paths[-1].unlink()
    assert fingerprint(paths[0]) != series
    with pytest.raises(FileError, match=r"gone\.nii: cannot be read"):
        fingerprint(tmp_path / "gone.nii")


@pytest.mark.parametrize("place", [0, -1, 0.5])
def test_a_fingerprint_of_a_large_file_looks_at_head_and_tail_and_between(tmp_path: Path, place: float) -> None:
    path, size = tmp_path / "large", 4 * PIECES * PIECE
    with path.open("wb") as file:
        file.truncate(size)
        known = fingerprint(path)
        file.seek(size - 1 if place == -1 else int(place * size))
        file.write(bytes([1]) * (1 if place != 0.5 else 5 * PIECE))
        file.flush()
    assert fingerprint(path) != known
