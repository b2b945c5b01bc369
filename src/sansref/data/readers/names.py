"""What a file's name says about the person, the contrast, and whether it holds an image at all."""

from __future__ import annotations

import re
from pathlib import Path

from sansref.errors import SettingError

BIDS = re.compile(r"(?<![A-Za-z0-9])(sub-[A-Za-z0-9]+)")
IXI = re.compile(r"^(IXI\d+)-")
NUMBERED = re.compile(
    r"^((?:patient|subject|subj|sub|volunteer|person|participant|proband|case)[-_]?\d+)(?![A-Za-z0-9])", re.IGNORECASE
)
CONTRAST = re.compile(
    r"(?:inplane)?(?:T1|T2|PD)(?:w|star|starw|rho|map)?|PDT2|T1c|FLAIR|DWI|SWI|MRA|angio|bold", re.IGNORECASE
)
#: Names of labels and masks that lie beside images: of BIDS derivatives, BraTS, MONAI, FreeSurfer, FSL.
LABELS = re.compile(
    r"(?:[dcp]|prob|auto)?seg|segmentations?|aseg|aparc|(?:brain|lesion|tissue|roi)?masks?|labels?(?:tr|ts)?|labelmap",
    re.IGNORECASE,
)


def stem_of(path: Path) -> str:
    """File name without its extension, where ``.nii.gz`` is one extension."""
    name = path.name.removesuffix(".gz")
    return name.rsplit(".", 1)[0] or name


def words_of(name: str) -> list[str]:
    """Parts of a name between ``-``, ``_``, full stops and spaces."""
    return [word for word in re.split(r"[-_.\s]+", name) if word]


def check_rule(rule: str | None) -> None:
    """Refuse what ``--subject_from`` cannot be.

    Raises
    ------
    SettingError
        If it is neither folder, nor file, nor a regular expression with at most one group.
    """
    if rule is None or rule in ("folder", "file"):
        return
    try:
        groups = re.compile(rule).groups
    except re.error as error:
        problem = f"must be folder, file or a regular expression, {rule!r} is none of them ({error})"
        raise SettingError(f"subject_from {problem}") from None
    if groups > 1 or not rule:
        raise SettingError(f"subject_from {rule!r} must have one group, around the person's name in a path")


def named_subject(path: Path) -> tuple[str, str] | None:
    """The person whom names state, and how they do: a file's name before those of its folders; None where none does.

    Known are IXI (``IXI012-HH-1211-T1``), BIDS (``sub-01_ses-2_T1w``) and numbered people (``patient01_study2_T2W``),
    the latter two also as names of folders.
    """
    stem = stem_of(path)
    for kind, pattern in (("IXI name", IXI), ("BIDS name", BIDS), ("numbered name", NUMBERED)):
        if found := pattern.search(stem):
            return found[1], kind
    for folder in path.parents:
        if found := BIDS.fullmatch(folder.name):
            return found[1], "BIDS folder"
    return None


def subject_of(path: Path) -> str:
    """The person that a single file seems to belong to: see :func:`named_subject`; otherwise the file's own name.

    Which files belong together is told by all files of a folder: :func:`sansref.data.readers.subjects.with_subjects`.
    """
    found = named_subject(path)
    return found[0] if found else stem_of(path)


def contrast_of(path: Path) -> str | None:
    """The last part of a file's name that names a contrast (``T1w``, ``FLAIR``), as written there, or None."""
    return next((word for word in reversed(words_of(stem_of(path))) if CONTRAST.fullmatch(word)), None)


def ends_with_contrast(path: Path) -> bool:
    """Whether a file's name ends with a contrast, as those of images do in BIDS and elsewhere."""
    words = words_of(stem_of(path))
    return bool(words) and CONTRAST.fullmatch(words[-1]) is not None


def names_labels(path: Path, root: Path | None = None) -> bool:
    """Whether a file's name is that of a label map or a mask (``_seg``, ``_mask``, ``dseg``, ``-label``).

    So is every name in a folder of such a name below ``root``.
    """
    folders = () if root is None else path.relative_to(root).parts[:-1]
    return any(LABELS.fullmatch(word) for word in (*words_of(stem_of(path)), *folders))
