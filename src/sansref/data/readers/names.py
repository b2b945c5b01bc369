"""What a file's name says about the person and the contrast."""

from __future__ import annotations

import re
from pathlib import Path

BIDS = re.compile(r"(?<![A-Za-z0-9])(sub-[A-Za-z0-9]+)")
IXI = re.compile(r"^(IXI\d+)-")
NUMBERED = re.compile(r"^((?:patient|subject|subj|volunteer|person|case)[-_]?\d+)(?![A-Za-z0-9])", re.IGNORECASE)
CONTRAST = re.compile(
    r"(?:inplane)?(?:T1|T2|PD)(?:w|star|starw|rho|map)?|PDT2|T1c|FLAIR|DWI|SWI|MRA|angio|bold", re.IGNORECASE
)


def stem_of(path: Path) -> str:
    """File name without its extension, where ``.nii.gz`` is one extension."""
    name = path.name.removesuffix(".gz")
    return name.rsplit(".", 1)[0] or name


def subject_of(path: Path) -> str:
    """The person a file belongs to: several files of one person must get one name.

    Known are IXI (``IXI012-HH-1211-T1``), BIDS (``sub-01_ses-2_T1w``, also as the name of a folder above) and
    numbered people (``patient01_study2_T2W``); otherwise it is the name of the file.
    """
    stem = stem_of(path)
    for pattern in (IXI, BIDS, NUMBERED):
        if found := pattern.search(stem):
            return found[1]
    for folder in path.parents:
        if found := BIDS.fullmatch(folder.name):
            return found[1]
    return stem


def contrast_of(path: Path) -> str | None:
    """The last part of a file's name that names a contrast (``T1w``, ``FLAIR``), as written there, or None."""
    parts = re.split(r"[-_.\s]", stem_of(path))
    return next((part for part in reversed(parts) if CONTRAST.fullmatch(part)), None)
