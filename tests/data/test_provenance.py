from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from sansref.data.provenance import Provenance, digest, files_behind
from sansref.data.readers import FileInfo
from sansref.scan import ScanMeta

MADE = Provenance("ssdu", "0123456789abcdef" * 4, "c" * 64, "random_columns, 4x")
INFO = FileInfo(Path("a"), "NIfTI", "magnitude", 4, 5, 6, 1, "s", "T1w", None, None)


def test_sentences_tell_what_was_measured() -> None:
    meta = ScanMeta("s", "a", synthetic=True, emulated=True)
    said = " ".join(MADE.sentences(INFO, meta))
    assert "method ssdu, weights 0123456789abcdef." in said
    assert "computed from magnitude images, not measured" in said
    assert "undersampled by software: random_columns, 4x." in said
    assert said.endswith("RESEARCH USE ONLY: not for diagnostic use.")
    raw = replace(INFO, kind="k-space", acquired_fraction=0.25)
    said = " ".join(MADE.sentences(raw, ScanMeta("s", "a")))
    assert "acquired undersampled, 4x." in said
    assert "synthetic" not in said
    assert "software" not in said
    whole = " ".join(MADE.sentences(replace(raw, acquired_fraction=1.0), ScanMeta("s", "a")))
    assert "undersampled" not in whole
    assert MADE.name == "sansref ssdu RESEARCH USE ONLY"


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
