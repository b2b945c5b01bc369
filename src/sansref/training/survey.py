"""What a training will learn from and what it will take, told before it begins."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import zip_longest
from math import prod
from typing import Any

import torch

from sansref.data.placement import upright
from sansref.data.readers import FileInfo, ScanFiles
from sansref.data.readers.dicom_headers import FORMAT as DICOM
from sansref.data.readers.nifti import FORMAT as NIFTI
from sansref.data.scan_store import full_reference
from sansref.data.slices import Slices
from sansref.errors import FileError, SettingError, options_named
from sansref.kspace.grid import is_full, is_rows
from sansref.kspace.noise import received
from sansref.machine import device_of, memory_in_use, peak_of_memory
from sansref.methods import Draw, Method, Needs, Sample, collate
from sansref.metrics.held_out import COLUMNS_WANTED, ROWS_TOLD
from sansref.networks import NetworkOptions
from sansref.scan import Scan
from sansref.training.batches import ShapeBatches
from sansref.training.config import RunConfig
from sansref.training.loop import computed
from sansref.training.processes import real_precision

MOST_SHAPES = 6
"""Sizes of slices of which one is looked at."""
WARM = 2.0
"""Seconds of a first step that needs no second one to tell how long steps take."""

Row = tuple[str, str]


@dataclass(frozen=True)
class Cost:
    """What a training step and a reconstruction took when they were tried.

    Seconds are those of a step with a whole batch, and of the reconstruction of one slice; the memory, in bytes, is the
    largest of the process on a CPU, or of its tensors on a GPU.
    """

    step: float
    reconstruction: float
    memory: int
    device: str


def survey(
    config: RunConfig,
    found: ScanFiles,
    splits: Mapping[str, Sequence[str]],
    full: ScanFiles | None = None,
    skip_bad: bool = False,
    processes: int = 1,
) -> Iterator[Row]:
    """Tell, as names and values, what a training will learn from and what it will take.

    One slice of each size is read and prepared, and a few steps are tried on it, with weights that are thrown away:
    time and memory are measured, and the rest follows from the headers. With ``skip_bad``, files of which a slice
    cannot be used are passed over. Raises ``FileError`` if a slice cannot be used, and ``SettingError`` if settings are
    impossible for these scans.
    """
    yield from _people(found, "")
    if full is not None:
        yield from _people(full, "full scans: ")
    sources = {split: full if split == "full" and full is not None else found for split in splits}
    chosen = {split: [info for info in its.files if info.subject in splits[split]] for split, its in sources.items()}
    for split, files in chosen.items():
        yield split, f"{len(splits[split])} subject(s), {_slices(files, config.slices)}: {_listed(splits[split])}"
    read = [info for files in chosen.values() for info in files]
    yield "slices", _slices(read, config.slices) + " taken"
    scans = _one_of_each_size(config, chosen.get("training", []), skip_bad)
    _check_references(config, chosen.get("validation", []), [scan for _, scan in scans], skip_bad)
    check_parts(config, splits)
    yield from _sizes(config, scans)
    yield "mask", "; ".join(dict.fromkeys(_mask(config, scan) for _, scan in scans)) or "unknown"
    yield "noise level", "; ".join(dict.fromkeys(_noise(scan) for _, scan in scans)) or "unknown"
    for line in _without_effect(config, splits, read, [scan for _, scan in scans]):
        yield "no effect", line
    yield from (("warning", line) for line in _warnings(config, [scan for _, scan in scans]))
    companions = _companions(config, chosen.get("full", []), scans, skip_bad)
    yield from _expected(config, chosen, scans, companions, processes)


def _people(found: ScanFiles, what: str) -> Iterator[Row]:
    subjects: dict[str, set[str]] = defaultdict(set)
    for info in found.files:
        subjects[info.recognised_by].add(info.subject)
    counts = Counter(info.kind for info in found.files)
    kinds = ", ".join(f"{count} of {kind}" for kind, count in sorted(counts.items()))
    yield "files", f"{what}{len(found.files)} ({kinds})"
    if found.left_out:
        yield "left out", found.left_out
    if found.bad:
        yield "unreadable", f"{len(found.bad)} file(s), the first: {found.bad[0]}"
    yield "subjects", f"{what}{len({info.subject for info in found.files})}"
    for how, names in sorted(subjects.items()):
        yield "recognised by", f"{how}: {_listed(sorted(names))}"


def _slices(files: Sequence[FileInfo], selection: Slices) -> str:
    taken = sum(len(selection.indices(info.slices)) for info in files)
    return f"{taken} of {sum(info.slices for info in files)} slices"


def _one_of_each_size(
    config: RunConfig, files: Sequence[FileInfo], skip_bad: bool, undersampled: bool = True
) -> list[tuple[list[FileInfo], Scan]]:
    """Files whose slices are alike, also in how much of them was acquired, and a prepared slice of one of them.

    The largest first, and each size once before one of them is looked at again; files of a size that no longer get a
    turn count to those of this size that did.
    """
    sizes: dict[Any, dict[Any, list[FileInfo]]] = defaultdict(lambda: defaultdict(list))
    for info in files:
        acquired = None if info.acquired_fraction is None else round(info.acquired_fraction, 1)
        sizes[_slice_size(info)][acquired].append(info)
    largest = sorted(sizes, key=lambda size: prod(size[1:]), reverse=True)
    turns = [group for groups in zip_longest(*(sizes[size].values() for size in largest)) for group in groups if group]
    recipe = replace(config.preparation, undersampled=undersampled)
    examples = []
    for group in turns[:MOST_SHAPES]:
        scan = next(filter(None, (_a_slice(recipe, config.slices, info, skip_bad) for info in group[:3])), None)
        if scan is not None:
            examples.append((group, scan))
    for group in turns[MOST_SHAPES:]:
        if same := next((tried for tried, _ in examples if _slice_size(tried[0]) == _slice_size(group[0])), None):
            same += group
    return examples


def _slice_size(info: FileInfo) -> tuple[str, int, int, int]:
    """Kind, coils, height and width."""
    return info.kind, info.coils, info.height, info.width


def _check_references(config: RunConfig, scored: Sequence[FileInfo], scans: Sequence[Scan], skip_bad: bool) -> None:
    """Refuse scans without a reference where one is learned from, or scored against."""
    if config.needs is Needs.PAIRED:
        for scan in scans:
            full_reference(scan)
    if config.training.score == "reference":
        for _, scan in _one_of_each_size(config, scored, skip_bad):
            full_reference(scan)


def check_parts(config: RunConfig, splits: Mapping[str, Sequence[str]]) -> None:
    """Refuse a split in which nobody is left to learn from, or to validate on."""
    if not splits.get("training"):
        raise SettingError("no training scan is left: add subjects, or lower --validation and --test")
    options, paired = config.training, config.needs is Needs.PAIRED
    if not splits.get("validation") and (options.score == "reference" or (paired and options.score_decides(stages=1))):
        # Samples held out of a scan whose reference is the target would be no secret.
        raise SettingError("learning from references needs further subjects for validation: add some")


def _a_slice(recipe: Any, selection: Slices, info: FileInfo, skip_bad: bool) -> Scan | None:
    """A slice from the middle of a file's; None where there is nothing to see, or it cannot be used."""
    chosen = selection.indices(info.slices)
    try:
        return next(recipe.scans(info, [chosen[len(chosen) // 2]]), None)
    except FileError:
        if not skip_bad:
            raise
        return None


def _sizes(config: RunConfig, scans: Sequence[tuple[list[FileInfo], Scan]]) -> Iterator[Row]:
    files: Counter[str] = Counter()
    for group, scan in scans:
        height, width = scan.mask.shape
        changed = _resized(config.slices, group[0], (height, width))
        files[f"{height} x {width}, {len(scan.kspace)} coil(s){changed}"] += len(group)
    for size, count in files.items():
        yield "matrix", f"{size} ({count} file(s))"


def _resized(selection: Slices, info: FileInfo, size: tuple[int, int]) -> str:
    """What has become of the slices of a file, whose field of view is cut or padded before their resolution falls."""
    stored = info.height, info.width
    if size == stored:
        return ""
    field = (selection.bounded(stored) if info.kind == "magnitude" else selection).crop or stored
    how = ["cut"] * any(new < old for new, old in zip(field, stored, strict=True))
    how += ["padded"] * any(new > old for new, old in zip(field, stored, strict=True))
    how += ["resized"] * (field != size)
    return f", {' and '.join(how)} from {info.height} x {info.width}"


def _mask(config: RunConfig, scan: Scan) -> str:
    share = f"{float(scan.mask.float().mean()):.1%} of the grid"
    if not scan.meta.emulated:
        return f"the scan's own, {share}"
    sampling = config.sampling
    same = sampling.mask_per == "dataset" or sampling.from_file
    drawn = "one for all scans" if same else "a new one for each scan"
    simulated = "simulated" if scan.meta.synthetic else "measured"
    return f"{sampling.in_words()} ({share}), {drawn}; {simulated} k-space is undersampled with it"


def _without_effect(
    config: RunConfig, splits: Mapping[str, Sequence[str]], files: Sequence[FileInfo], scans: Sequence[Scan]
) -> Iterator[str]:
    """Which settings do nothing to these scans, and why."""
    if isinstance(config.network, NetworkOptions) and (idle := config.network.without_effect):
        yield f"{', '.join(f'--network.{name}' for name in idle)}: the network {config.network.name} has no such part"
    if "extractor_layers" in _changed(config.network) and not hasattr(config.build(), "extractor"):
        yield f"--network.extractor_layers: method {config.method!r} has no extractor"
    if config.split.test and not splits.get("test") and not config.split.folds:
        yield f"--test {config.split.test:g}: with a single subject, nobody can be set aside"
    yield from _of_the_training(config)
    yield from idle_settings(config, files, scans, ("mask", "acceleration"))
    measured = [scan.mask.shape for scan in scans if not scan.meta.synthetic]
    limit, largest = config.slices.max_matrix, max(measured, default=torch.Size((0, 0)), key=_size)
    if limit and config.slices.matrix is None and any(n > most for n, most in zip(largest, limit, strict=True)):
        size, bound = "{} x {}".format(*largest), "{},{}".format(*map(min, largest, limit))
        yield f"--max_matrix: measured k-space stays whole, {size}; --matrix {bound} would cut it"


def _of_the_training(config: RunConfig) -> Iterator[str]:
    """Settings of the training that others have switched off."""
    changed, plateau = _changed(config.training), config.training.schedule == "plateau"
    if not plateau and (names := [name for name in changed if name.startswith("plateau_")]):
        yield f"{options_named(names)}: no effect, the schedule is {config.training.schedule}"
    if "patience" in changed and not (plateau and config.training.keep == "best"):
        yield "--patience: no effect, only --schedule plateau with --keep best ends a stage early"
    if "lookahead" in changed and not any(turn.lookahead for turn in config.build().turns):
        yield f"--lookahead: no effect, method {config.method!r} has no discriminator"
    if hasattr(config.options, "denoise") and not config.denoises and "alpha" in _changed(config.options):
        yield "--alpha: no effect without --denoise true"


def idle_settings(
    config: RunConfig, files: Sequence[FileInfo], scans: Sequence[Scan], always: Sequence[str] = ()
) -> Iterator[str]:
    """Which settings of reading and undersampling do nothing to these scans, each with the reason.

    ``always`` are settings of a mask that are named even where they have their default.
    """
    volumes = {info.format in (NIFTI, DICOM) for info in files}
    if volumes == {True} and (names := [name for name in ("array", "axes") if getattr(config.slices, name)]):
        yield f"{options_named(names)}: no effect, image volumes say this themselves"
    if volumes == {False} and config.slices.plane != "native":
        yield "--plane: no effect, only image volumes are cut in another plane"
    changed = _changed(config.sampling)
    if any(not scan.meta.emulated and not is_full(scan.mask) for scan in scans):
        if names := [*dict.fromkeys([*always, *changed])]:
            yield f"{options_named(names)}: no effect, undersampled scans keep their own masks"
    elif config.sampling.from_file:
        if names := [name for name in changed if name not in ("mask", "mask_dc")]:
            yield f"{options_named(names)}: no effect, a mask file is taken as it is"
    elif "mask_dc" in changed:
        yield "--mask_dc: no effect, the mask is no file"
    if any(not scan.meta.synthetic for scan in scans) and (names := _changed(config.simulation)):
        yield f"{options_named(names)}: no effect, the k-space was measured"


def _warnings(config: RunConfig, scans: Sequence[Scan]) -> Iterator[str]:
    """What a training may do on these scans that its user hardly wants."""
    if config.needs is Needs.UNDERSAMPLED and not config.denoises and any(is_full(scan.mask) for scan in scans):
        yield "scans that stay fully sampled lack nothing that could be learned: use an --acceleration above 1"
    if any(is_rows(scan.mask) for scan in scans):
        yield f"some scans leave out whole rows of k-space: {ROWS_TOLD}. {COLUMNS_WANTED}"
    sizes = {name: getattr(config.slices, name) for name in ("crop", "matrix", "max_crop", "max_matrix")}
    uneven = [name for name, size in sizes.items() if size is not None and size[0] != size[1]]
    turned: dict[int, set[bool]] = defaultdict(set)  # by the direction in which slices follow each other
    for geometry in (scan.meta.geometry for scan in scans):
        if geometry is not None and geometry.known:
            through = torch.tensor(geometry.affine)[:3, geometry.slice_axis].abs().argmax()
            turned[int(through)].add(upright(geometry).transpose)
    if uneven and any(len(ways) > 1 for ways in turned.values()):
        yield (
            f"{options_named(uneven)}: rows of some files lie as columns of others, and are resized otherwise: store"
            " all files in one orientation, or give two equal numbers"
        )


def _changed(options: Any) -> list[str]:
    """Names of the settings that differ from their defaults."""
    return [entry.name for entry in fields(options) if getattr(options, entry.name) != entry.default]


def _noise(scan: Scan) -> str:
    level = float(scan.noise_level[received(scan.kspace)].mean())
    size = "x".join(map(str, scan.mask.shape))
    if not level > 0:
        return f"unknown ({size})"
    return f"{level:.2%} of the brightest pixel ({size}, slice {scan.meta.slice} of {scan.meta.subject})"


def _companions(
    config: RunConfig, files: Sequence[FileInfo], scans: Sequence[tuple[list[FileInfo], Scan]], skip_bad: bool
) -> dict[tuple[int, ...], Scan]:
    """Full scans of the same sizes, for a method that takes them."""
    if config.needs is not Needs.UNPAIRED or not scans:
        return {}
    full = _one_of_each_size(config, files, skip_bad, undersampled=False)
    return {tuple(scan.mask.shape): scan for _, scan in full}


def _expected(
    config: RunConfig,
    chosen: Mapping[str, Sequence[FileInfo]],
    scans: Sequence[tuple[list[FileInfo], Scan]],
    companions: Mapping[tuple[int, ...], Scan],
    processes: int,
) -> Iterator[Row]:
    """Time and memory, by the largest slices; those of other sizes count by their pixels."""
    usable = [scan for _, scan in scans if not companions or tuple(scan.mask.shape) in companions]
    if not usable or (config.needs is Needs.UNPAIRED and not companions):
        yield "expected time", "unknown: no training scan could be tried"
        return
    options, selection = config.training, config.slices
    largest = max(usable, key=lambda scan: scan.kspace.numel())
    shapes: list[tuple[int, ...]] = []
    for group, scan in scans:
        shapes += [tuple(scan.kspace.shape)] * sum(len(selection.indices(info.slices)) for info in group)
    batches = ShapeBatches(shapes * options.repeats, options.batch_size, options.seed, processes=processes)
    share = -(-min(options.batch_size, len(shapes) * options.repeats) // processes)
    method = config.build(0, config.sampling.family(largest.meta.emulated))
    try:
        cost = tried(config, method, largest, share, companions.get(tuple(largest.mask.shape)))
    except torch.OutOfMemoryError:
        yield "expected memory", "more than there is: lower --batch_size, or the size of the network"
        return
    scored = chosen.get("validation") or chosen["training"]
    validated = sum(len(selection.indices(info.slices)) for info in scored)
    epochs = method.stages * options.epochs
    relative = sum(map(_size, shapes)) / (len(shapes) * _size(tuple(largest.kspace.shape)))
    training = epochs * len(batches) * cost.step
    others = (epochs * validated + (method.stages - 1) * len(shapes)) * cost.reconstruction / processes
    scoring = f"{validated} slices to score at {cost.reconstruction:.2g} s"
    steps = f"{epochs} epochs of {len(batches)} steps of {cost.step:.2g} s"
    duration = f"about {_duration((training + others) * relative)} at most: {steps} and {scoring}"
    yield "expected time", f"{duration}, measured on the {cost.device}, without the time to read files"
    memory = f"about {cost.memory / 2**30:.2g} GiB on the {cost.device}" if cost.memory else "unknown"
    yield "expected memory", memory


def tried(config: RunConfig, method: Method, scan: Scan, batch_size: int, companion: Scan | None = None) -> Cost:
    """Measure a training step and a reconstruction of the largest scan, leaving random streams as they are.

    A GPU is given a whole batch. A CPU is given one slice: it takes as many times as long for a batch. Nobody needs the
    method's weights afterwards: their gradients change. ``companion`` is a full scan of the same size, for a method
    that takes one.
    """
    device = device_of(config.machine.accelerator)
    sample = Sample(scan, full=companion)
    precision = real_precision(config.machine, config.training.precision)
    half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    computing = partial(torch.autocast, device.type, half or torch.bfloat16, enabled=half is not None)
    method.to(device).train()
    if precision == "64-true":
        method.double()
    on_gpu = device.type == "cuda"
    together = batch_size if on_gpu else 1
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    before = memory_in_use()

    def step(number: int) -> None:
        groups = [method.examples(sample, Draw(config.training.seed, number, item)) for item in range(together)]
        for update in computed(method.step(collate(groups).to(device)), computing):
            method.zero_grad()
            update.loss.backward(inputs=update.turn.unfrozen)  # type: ignore[no-untyped-call]

    def reconstruct() -> None:
        with torch.inference_mode(), computing():
            method.reconstruct(scan.batch().to(device))

    with torch.random.fork_rng(), peak_of_memory() as peak:
        seconds = _timed(lambda: step(0), device)
        if seconds < WARM:  # what is done once, such as choosing algorithms, does not count
            seconds = _timed(lambda: step(1), device)
        method.eval()
        reconstruction = _timed(reconstruct, device)
    moments = 8 * sum(weight.numel() for weight in method.parameters())  # of the optimiser, two for each weight
    if on_gpu:
        return Cost(seconds, reconstruction, torch.cuda.max_memory_allocated() + moments, "GPU")
    used = before + batch_size * max(0, peak() - before) + moments
    return Cost(seconds * batch_size, reconstruction, used, f"CPU with {torch.get_num_threads()} thread(s)")


def _timed(task: Callable[[], None], device: torch.device) -> float:
    begun = time.perf_counter()
    task()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def _size(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{max(1, round(seconds))} s"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
