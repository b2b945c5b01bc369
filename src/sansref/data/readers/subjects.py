"""Whose scans the files of a folder are: one rule over all of them, whatever their formats.

The first that holds for a file decides:

1. the patient's identifier in it (fastMRI, MRD, twix, DICOM), unless anonymisation blanked it;
2. names that state a person: IXI, BIDS, ``patient07``, of the file or of a folder;
3. the folder, where folders divide the files by people: ``P000/T1.nii.gz``, ``P001/T1.nii.gz``, or with a folder for
   each visit or contrast in between;
4. the file's name without contrast and visit: ``anna_T1``, ``anna_T2``.

Files with the same data are of one person. Where names leave it open who shares a person, nothing is guessed.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from sansref.data.readers.reader import BY_NAME, BY_PATIENT, BY_STUDY, FileInfo
from sansref.errors import FileError

BIDS = re.compile(r"(?<![A-Za-z0-9])(sub-[A-Za-z0-9]+)")
IXI = re.compile(r"^(IXI\d+)-")
WITH_NUMBER = r"(?:patient|subject|subj|sub|volunteer|person|participant|proband|case)[-_]?\d+"
NUMBERED = re.compile(rf"^({WITH_NUMBER})(?![A-Za-z0-9])", re.IGNORECASE)
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


CURE = (
    "Say whose they are: --subject_from folder (one person a folder), file (one person a file), or a regular expression"
    " that finds the person in a path, such as 'P[0-9]+' (in the plan of a comparison, subject_from under 'shared')"
)
DATE = r"(?:19|20)\d\d[-.]?(?:0[1-9]|1[0-2])[-.]?(?:[0-2]\d|3[01])"
VISIT = re.compile(
    r"(?:ses|session|visit|day|week|month|year|time|timepoint|tp|baseline|followup|follow|study|exam|pre|post)\d*|"
    + DATE,
    re.IGNORECASE,
)
#: What else tells scans of one person apart, and not people.
ACQUISITION = re.compile(
    r"\d+x\d+(?:x\d+)?|\d+(?:ch|coils?)|(?:us|acc|r)\d+|[23]?d?(?:fse|tse|gre|se|ge|epi|flash|mprage|bssfp|space)|[23]d"
    r"|t1(?:c|ce|gd|n|post)|t2f|adc|ax(?:ial)?|sag(?:ittal)?|cor(?:onal)?|tra(?:nsverse)?|(?:slice|slc|sl|echo|coil)\d*",
    re.IGNORECASE,
)
#: Folders that sort files by what they are or are used for.
SORTED = re.compile(
    r"anat|func|dwi|fmap|perf|raw|rawdata|data|source(?:data)?|derivatives|images?(?:tr|ts)?|imgs?|scans?|nifti|nii|dicoms?|dcm|mri?\d*"
    r"|h5|mat|npy|k-?space|train(?:ing)?|val(?:idation)?|(?:re)?test(?:ing)?|(?:series|ser|se|scan|run|acq|echo)\d*"
    r"|rescan|before|after|noisy|clean|denoised|inputs?|targets?|gt|ground[-_]?truth|refs?|references?|labell?ed"
    r"|(?:full|under)(?:y)?[-_]?(?:sampled)?|(?:low|high)[-_]?(?:field|res(?:olution)?)?|[lh][rq]|\d+(?:[.p]\d+)?t(?:esla)?"
    r"|orig(?:inal)?s?|(?:pre[-_]?)?processed|registered|corrected|(?:train|test)[ab]",
    re.IGNORECASE,
)
#: File names that every person's folder may have.
GENERIC = re.compile(
    r"(?:scan|image|img|im|series|ser|file|data|raw|kspace|run|acq|brain|knee|head|vol|volume|mri?)\d*", re.IGNORECASE
)
#: What stands before a contrast, or before a letter and a number, that are written onto a name.
JOINED = re.compile(
    r"(?<![A-Za-z\d])((?:[A-Z]?[a-z]{2,}\d*|[A-Za-z]{1,4}\d+)(?=(?:T[12](?:w|c|ce)?|PDw?|FLAIR|DWI|SWI)(?![A-Za-z\d]))"
    r"|[A-Za-z]{1,4}\d+(?=[A-Za-z]\d{1,3}(?![A-Za-z\d])))"
)
#: How names begin on which more may be written: ``patient07`` in ``patient07v2``.
BEGUN = re.compile(rf"(IXI\d+|{WITH_NUMBER})", re.IGNORECASE)
#: Folders that number people.
NUMBER = re.compile(r"[A-Za-z]{1,10}[-_]?\d+")


def with_subjects(files: Sequence[FileInfo], root: Path, rule: str | None = None) -> list[FileInfo]:
    """Say of all files of the folder ``root`` whose they are, by ``subject`` and ``recognised_by``.

    The subject of each description is what its file says by itself. The rule is folder, file or a regular expression,
    as ``subject_from`` of :class:`ReaderOptions`; None goes by the rules of this module. Raises ``FileError`` where no
    rule is sure.
    """
    if rule is None:
        return _one_for_same_data(_by_names(files, root))
    if rule == "file":
        names = _by_file(files, root)
    elif rule == "folder":
        names = _by_folder(files, root)
    else:
        names = [_matched(info.path, root, rule) for info in files]
    return _told(files, [(name, f"--subject_from {rule}") for name in names])


STATED = ("IXI", "BIDS", "numbered")
"""How it begins what is said of people whom names state."""

Found = tuple[str, str]
"""The name of a person, and how it was found."""


def _told(files: Sequence[FileInfo], found: Iterable[Found]) -> list[FileInfo]:
    return [replace(info, subject=name, recognised_by=how) for info, (name, how) in zip(files, found, strict=True)]


# --- by what the user says ---------------------------------------------------------------------------------------


def _by_file(files: Sequence[FileInfo], root: Path) -> list[str]:
    """One person a file; where names recur, folders belong to them."""
    stems = [stem_of(info.path) for info in files]
    often = Counter(stems)
    named = [
        "/".join((*_folders(info.path, root), stem)) if often[stem] > 1 else stem
        for info, stem in zip(files, stems, strict=True)
    ]
    again = Counter(named)  # a.nii beside a.npy
    return [name if again[name] == 1 else info.path.name for info, name in zip(files, named, strict=True)]


def _by_folder(files: Sequence[FileInfo], root: Path) -> list[str]:
    """The first folder on the way to a file that not all files have in common; one for all where there is none."""
    ways = [_folders(info.path, root) for info in files]
    common = _common(ways)
    if all(len(way) == common for way in ways):
        return [info.path.resolve().parent.name for info in files]
    for info, way in zip(files, ways, strict=True):
        if len(way) == common:
            problem = "lies beside the folders of people, in none of them"
            raise FileError(info.path, problem, "Give it a folder of its own")
    return [way[common] for way in ways]


def _matched(path: Path, root: Path, rule: str) -> str:
    """What a regular expression finds in a path below the root; for a single file, also in the folders above."""
    paths = [path.relative_to(root).as_posix()]
    if len(Path(paths[0]).parts) == 1:
        whole = path.resolve()
        paths += ["/".join(whole.parts[-depth:]) for depth in range(2, len(whole.parts))]
    for searched in paths:
        if (match := re.search(rule, searched)) and (name := match[1] if match.re.groups else match[0]):
            return name
    raise FileError(path, f"has no part that --subject_from {rule} matches", "Correct the expression, or leave it out")


# --- by rules ----------------------------------------------------------------------------------------------------


def _by_names(files: Sequence[FileInfo], root: Path) -> list[FileInfo]:
    found: dict[Path, Found] = {}
    patients: dict[str, set[str]] = defaultdict(set)
    stated = {info.path: _stated(info.path, root) for info in files}
    for info in files:
        if info.recognised_by == BY_PATIENT:
            found[info.path] = info.subject, BY_PATIENT
            if name := stated[info.path]:
                patients[name[0]].add(info.subject)
    _check_identifiers(files, stated, patients, root)
    for info in files:
        name = stated[info.path]
        if info.path in found or not name:
            continue
        same = patients.get(name[0], set())
        if len(same) > 1:
            raise FileError(info.path, f"goes by {name[0]}, as do files of the patients {_some(same)}", CURE)
        found[info.path] = (same.pop(), f"{name[1]}, patient id of others") if same else name
    if unnamed := [info for info in files if info.path not in found]:
        named = {path: name for path, (name, _) in found.items()}
        found |= dict(zip((info.path for info in unnamed), _by_places(unnamed, named, root), strict=True))
    _check_spelling(found.values(), root)
    _check_suffixes(found.values(), root)
    return _told(files, [found[info.path] for info in files])


def _check_spelling(found: Iterable[Found], root: Path) -> None:
    """Refuse people whose names differ by capitals, separators or leading zeros alone: ``sub-01``, ``Sub1``."""
    spelt: dict[str, set[Found]] = defaultdict(set)
    for name, how in found:
        plain = unicodedata.normalize("NFKC", _rest(name) or name).casefold()
        key = re.sub(r"(?<=[^\W\d])[-_ ]+(?=\d)|(?<!\d)0+(?=\d)", "", plain)
        spelt[key].add((name, BY_PATIENT if how == BY_PATIENT else ""))
    for alike in spelt.values():
        names = {name for name, _ in alike}
        if len(names) > 1 and any(how != BY_PATIENT for _, how in alike):
            raise FileError(root, f"holds files of {_some(names)}, one person or several", CURE)


def _check_suffixes(found: Iterable[Found], root: Path) -> None:
    """Refuse numbered people of whom something more may be written onto the number: ``patient07``, ``patient07v2``."""
    alike: dict[str, set[str]] = defaultdict(set)
    for name, how in found:
        # Labels of BIDS and identifiers of patients say all that they mean.
        if how != BY_PATIENT and not how.startswith("BIDS") and (begun := BEGUN.match(name)):
            alike[begun[1].casefold()].add(name)
    for names in alike.values():
        if len(names) > 1:
            raise FileError(root, f"holds files that may be of one person ({_some(names)})", CURE)


def _stated(path: Path, root: Path) -> Found | None:
    for folder in _folders(path, root):
        if numbered := NUMBERED.match(folder):
            return numbered[1], "numbered folder"
    return named_subject(path.absolute())


def _check_identifiers(
    files: Sequence[FileInfo], stated: dict[Path, Found | None], patients: dict[str, set[str]], root: Path
) -> None:
    """Refuse one identifier of several people, and one person of several: anonymisation may have written them.

    ``patients`` are the identifiers in the files of each stated person.
    """
    with_id = [info for info in files if info.recognised_by == BY_PATIENT]
    names: dict[str, set[str]] = defaultdict(set)
    for info in with_id:
        if name := stated[info.path]:
            names[info.subject].add(name[0])
    for subject, several in names.items():
        if len(several) > 1:
            raise FileError(root, f"holds files of {_some(several)} that all state the patient id {subject!r}", CURE)
    below = [info.path.relative_to(root).as_posix() for info in with_id]
    for person, ids in patients.items():
        if len(ids) > 1 and any(person in path for path in below):  # else it is that of a folder of them all
            raise FileError(root, f"holds files of {person} with several patient ids ({_some(ids)})", CURE)
    ways = [_telling(_folders(info.path, root)) for info in with_id]
    people = {way[_common(ways)] if len(way) > _common(ways) else "" for way in ways}
    if len({info.subject for info in with_id}) == 1 and len(people) > 1 and all(map(NUMBER.fullmatch, people)):
        problem = f"holds {_some(people)}, whose files all state the patient id {with_id[0].subject!r}"
        raise FileError(root, problem, CURE)


def _by_places(files: Sequence[FileInfo], known: dict[Path, str], root: Path) -> list[Found]:
    """People of files that neither they nor their names state."""
    ways = {info.path: _telling(_folders(info.path, root)) for info in files}
    ways_of_known = {path: _telling(_folders(path, root)) for path in known}
    common = _common([*ways.values(), *ways_of_known.values()])
    ways = {path: way[common:] for path, way in ways.items()}
    for path, way in ways.items():
        if len(way) > 1:
            raise FileError(path, "lies in several folders, any of which may be its person's", CURE)
    housed = [info for info in files if ways[info.path]]
    loose = [info for info in files if not ways[info.path]]
    owners: dict[str, set[str]] = defaultdict(set)
    for path, name in known.items():
        if way := ways_of_known[path][common:]:
            owners[way[0]].add(name)
    found: dict[Path, Found] = {}
    alike = Counter(_rest(folder) for folder in {ways[info.path][0] for info in housed})
    for info in housed:
        (folder,) = ways[info.path]
        own, rest = owners[folder], _rest(folder)
        if len(own) > 1:
            raise FileError(info.path, f"lies in one folder with files of {_some(own)}", CURE)
        guessed = (rest if alike[rest] > 1 else folder), "folder"
        found[info.path] = (next(iter(own)), "others of its folder") if own else guessed
    _check_folders([info for info in housed if found[info.path][1] == "folder"], ways, root)
    beside = {(path.parent, stem_of(path)): name for path, name in known.items()}
    for info in loose:
        if same := beside.get((info.path.parent, stem_of(info.path))):
            found[info.path] = same, "file of the same name"
    found |= _by_stems([info for info in loose if info.path not in found], root)
    _check_sharing({name for name, how in found.values() if how == "folder"}, root, "folders")
    others = {name for name, how in found.values() if how not in ("folder", BY_STUDY)}
    _check_sharing(others - set(known.values()), root)
    return [found[info.path] for info in files]


def _check_folders(files: Sequence[FileInfo], ways: dict[Path, tuple[str, ...]], root: Path) -> None:
    """Refuse folders that may be anything but people's."""
    inside: dict[str, list[str]] = defaultdict(list)
    for info in files:
        if info.recognised_by != BY_STUDY:  # discs of all patients have the same names of files
            inside[ways[info.path][0]].append(stem_of(info.path))
    stems = Counter(stem for names in inside.values() for stem in set(names))
    recurring = {stem for stem, often in stems.items() if often > 1}
    if recurring:
        people = {stem for stem in recurring if not (_is_generic(stem) or any(map(_tells_no_person, words_of(stem))))}
        if any(re.search(r"\d", stem) for stem in people) and not any(re.search(r"\d", name) for name in inside):
            what = f"holds files of equal names ({_some(people)}) in {len(inside)} folders"
            raise FileError(root, f"{what}, and either may be a person's", CURE)
        return
    for folder, names in inside.items():
        rests = {_rest(name) for name in names}
        if len(names) == 1 or len(rests) == 1 or all(name.startswith(folder) for name in names):
            continue
        if not all(_is_generic(name) or _tells_no_person(name) for name in names):
            problem = f"holds files of different names ({_some(names)}), of one person or several"
            raise FileError(root / folder, problem, CURE)


def _by_stems(files: Sequence[FileInfo], root: Path) -> dict[Path, Found]:
    studies = {info.subject for info in files if info.recognised_by == BY_STUDY}
    if len(studies) > 1:
        problem = f"holds {len(studies)} DICOM studies without a patient id, of one person or several"
        raise FileError(root, problem, CURE)
    named = {info.path: stem_of(info.path) for info in files if info.recognised_by != BY_STUDY}
    rests = {stem: _rest(stem) for stem in named.values()}
    shared = Counter(rests.values())
    bare = [stem for stem, rest in rests.items() if not rest]
    if len(bare) > 1 and len(bare) < len(rests):
        raise FileError(root, f"holds files whose names tell no person ({_some(bare)}) beside others", CURE)
    folders: dict[str, set[Path]] = defaultdict(set)
    for path, stem in named.items():
        folders[stem].add(path.parent)
    for stem, parents in folders.items():
        if len(parents) > 1 and (not rests[stem] or _is_generic(stem)):
            raise FileError(root, f"holds {stem} in several folders, and neither tells the person", CURE)
    found = {info.path: (info.subject, BY_STUDY) for info in files if info.path not in named}
    for path, stem in named.items():
        if shared[rests[stem]] == 1:
            found[path] = stem, BY_NAME
        elif rests[stem]:
            found[path] = rests[stem], "name without contrast or visit"
        else:
            found[path] = path.absolute().parent.name, "folder of contrasts, visits or slices alone"
    return found


def _check_sharing(names: Iterable[str], root: Path, what: str = "files") -> None:
    """Refuse names that look as if some of them shared a person: ``P1_a``, ``P1_b``, ``P2_a``."""
    split = {name: _words_of_person(name, letters=what == "files") for name in names}
    if len(split) < 2:
        return
    often = Counter(word for words in split.values() for word in set(words))
    first = Counter(words[0] for words in split.values() if len(words) > 1)
    for words in split.values():
        others = words[1:]
        counted = any(word.isdigit() for word in others)
        suspects = [word for word in words if 1 < often[word] < len(split) and re.search(r"\d", word)]
        if words and others and not counted and first[words[0]] > 1:
            everywhere = first[words[0]] == len(split)
            if not everywhere or (re.search(r"\d", words[0]) and not any(re.search(r"\d", w) for w in others)):
                suspects.append(words[0])
        if suspects:
            alike = [other for other, its in split.items() if suspects[0] in its]
            raise FileError(root, f"holds {what} that may be of one person ({_some(alike)})", CURE)


def _words_of_person(name: str, letters: bool = False) -> list[str]:
    """Parts of a name without those that tell no person."""
    together = re.sub(r"(?<![A-Za-z])([A-Za-z]+)[-_ ](?=\d+(?![A-Za-z\d]))", _with_its_number, name)
    joined = re.sub(JOINED, r"\1_", together)  # AnnaT1, P1T2, P1V2
    words = [word for word in words_of(joined) if not _tells_no_person(word)]
    if letters:  # P1a, P1b
        words = [piece for word in words for piece in re.split(r"(?<=\d)(?=[A-Za-z]$)", word)]
    return words


def _one_for_same_data(files: list[FileInfo]) -> list[FileInfo]:
    """Give files with the same content the same person, but where identifiers or names state other ones."""
    from sansref.data.provenance import fingerprint  # which imports readers

    alike: dict[int, list[FileInfo]] = defaultdict(list)
    for info in files:
        if info.recognised_by not in (BY_PATIENT, BY_STUDY):
            alike[info.path.stat().st_size].append(info)
    twins: dict[str, FileInfo] = {}
    stated: dict[Path, FileInfo] = {}
    for group in [group for group in alike.values() if len(group) > 1]:
        group.sort(key=_is_guessed)
        first: dict[str, FileInfo] = {}
        for info in group:
            one = first.setdefault(fingerprint(info.path), info)
            if one.subject != info.subject and _is_guessed(info):
                twins.setdefault(info.subject, one)
            elif one.subject != info.subject:
                stated[info.path] = one
    settled = []
    for info in files:
        told, seen = info, {info.subject}
        while (twin := twins.get(told.subject)) is not None and twin.subject not in seen:
            seen.add(twin.subject)
            told = replace(info, subject=twin.subject, recognised_by=f"same data as {twin.path.name}")
        if other := stated.get(info.path):
            told = replace(info, recognised_by=f"{info.recognised_by}, though with the data of {other.subject}")
        settled.append(told)
    return settled


def _is_guessed(info: FileInfo) -> bool:
    """Whether no name states the person."""
    return not info.recognised_by.startswith(STATED)


# --- names -------------------------------------------------------------------------------------------------------


def _folders(path: Path, root: Path) -> tuple[str, ...]:
    return path.relative_to(root).parts[:-1]


def _common(ways: Sequence[tuple[str, ...]]) -> int:
    """How many folders all ways begin with."""
    common = 0
    while all(len(way) > common for way in ways) and len({way[common] for way in ways}) == 1:
        common += 1
    return common


def _telling(way: tuple[str, ...]) -> tuple[str, ...]:
    """Folders without those of visits, contrasts and sorts of files."""
    return tuple(name for name in way if not (SORTED.fullmatch(name) or _is_numbered_visit(name)))


def _is_numbered_visit(name: str) -> bool:
    """Whether a name tells a visit, a contrast or a series, and perhaps its number (``T1_mprage_0003``)."""
    told = [word for word in words_of(name) if not word.isdigit()]
    return VISIT.fullmatch(name) is not None or (bool(told) and all(map(_tells_no_person, told)))


def _tells_no_person(word: str) -> bool:
    return any(pattern.fullmatch(word) for pattern in (CONTRAST, VISIT, ACQUISITION))


def _is_generic(stem: str) -> bool:
    return all(GENERIC.fullmatch(word) for word in words_of(stem))


def _with_its_number(found: re.Match[str]) -> str:
    """The words of a visit or of a slice, and their number behind a separator, as one word."""
    return found[1] if _tells_no_person(found[1] + "1") else found[0]


def _rest(stem: str) -> str:
    return "_".join(_words_of_person(stem))


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "")
