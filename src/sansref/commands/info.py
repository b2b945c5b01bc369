"""What a scan file or a run directory holds, as name and value pairs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from sansref.data.coil_maps import SMALLEST, calibration_side
from sansref.data.readers import FileInfo, ReaderOptions, find_files, is_label_map, open_scan_file
from sansref.errors import FileError
from sansref.kspace.grid import full_center, is_columns, is_full, is_rows
from sansref.kspace.noise import estimate_noise, received
from sansref.metrics.held_out import COLUMNS_WANTED, ROWS_TOLD
from sansref.scan import Scan

if TYPE_CHECKING:  # loaded for folders and runs alone: a file is described without networks and methods
    from sansref.data.scan_store import PreparedScans
    from sansref.training.run import RunDirectory

USUAL = "idr"
"""The method whose training a folder is described for."""
ALL = "all methods"
UNDERSAMPLED = "idr, ssdu; switchable, iscl, cyclegan beside full scans of other people"


def describe(
    path: Path, options: ReaderOptions | None = None, trust_code: bool = False, *, skip_bad: bool = False
) -> Iterator[tuple[str, str]]:
    """Describe a run directory, a scan file, or a folder of them with what a training would take of it.

    With ``skip_bad``, unreadable files of a folder are left out. Raises ``FileError`` if it is none of them, holds scan
    files that cannot be used, or names a method whose code is not trusted.
    """
    if not path.is_dir():
        return _file(path, options)
    from sansref.training.run import RunDirectory

    run = RunDirectory(path, trust_code)
    return _run(run) if run.config_file.exists() else _folder(path, options or ReaderOptions(), skip_bad)


def _folder(path: Path, options: ReaderOptions, skip_bad: bool) -> Iterator[tuple[str, str]]:
    try:
        find_files(path)
    except FileError as error:
        problem = f"is not a run directory (no config.yaml), and as a folder of scans it {error.problem}"
        raise FileError(path, problem, error.cure) from None
    from sansref.training.config import RunConfig
    from sansref.training.subjects import survey_of

    yield "folder", str(path)
    yield "training", f"as by 'sansref train {USUAL} --data {path}' with its usual settings"
    reading = {name: getattr(options, name) for name in ("plane", "array", "axes", "subject_from")}
    config = RunConfig.from_values({"method": USUAL, "data": reading})
    yield from survey_of(config, path, skip_bad)


def _file(path: Path, options: ReaderOptions | None) -> Iterator[tuple[str, str]]:
    reader = open_scan_file(path, options)
    info = reader.describe(path)
    yield "file", str(info.path)
    yield "format", f"{info.format}, {info.kind}"
    yield "subject", info.subject
    yield "contrast", info.contrast or "not stated"
    yield "matrix", f"{info.height} x {info.width}, {info.slices} slices, {info.coils} coil(s)"
    spacing = "not stated" if info.spacing is None else f"{info.spacing[0]:.3g} x {info.spacing[1]:.3g} mm"
    yield "pixel spacing", spacing
    if info.kind == "k-space":
        (middle,) = reader.read(path, [info.slices // 2])
        if isinstance(middle, Scan):
            yield from _sampling(info, middle)
    else:
        yield "can train", ALL
        yield "note", "k-space is simulated from magnitudes; scores on it are optimistic compared with raw data"
    if is_label_map(info, options):
        yield "note", "this is a label map or a mask: no training uses it, and it is skipped in folders"
    for note in info.notes:
        yield "note", note


def _sampling(info: FileInfo, middle: Scan) -> Iterator[tuple[str, str]]:
    """How k-space was sampled, told from one slice, and what that is good for."""
    fraction = info.acquired_fraction or 1 / middle.acceleration
    yield "acquired", f"{fraction:.1%} of the encoded grid ({1 / fraction:.2f}x)"
    full = is_full(middle.mask)
    if not full:
        rows, columns = full_center(middle.mask)
        whole_columns, whole_rows = is_columns(middle.mask), is_rows(middle.mask)
        yield "left out", "whole columns" if whole_columns else "whole rows" if whole_rows else "single samples"
        yield "full center", f"{columns} columns" if whole_columns else f"{rows} x {columns} samples"
        if whole_rows:
            yield "note", f"{ROWS_TOLD}. {COLUMNS_WANTED}"
    usable = info.coils == 1 or middle.maps is not None
    if middle.maps is not None:
        yield "coil maps", "supplied"
    elif not usable:
        own, apart = calibration_side(middle.mask), middle.calibration
        side = own if apart is None else max(own, calibration_side((apart != 0).any(0)))
        usable = side >= SMALLEST
        source = "samples" if side == own else "samples of a calibration scan"
        yield "coil maps", f"from the central {side} x {side} {source}" if usable else f"none, {_needed(side)}"
    yield "noise level", _noise(middle)
    yield "can train", (ALL if full else UNDERSAMPLED) if usable else "nothing with several coils"


def _noise(middle: Scan) -> str:
    """Of one slice, as --noise takes it, and what it lies between."""
    if middle.meta.noise is not None:
        level = fmean(middle.meta.noise) * middle.meta.scale
        return f"{level:.3g} (standard deviation of each part of a sample), from the file's noise scan"
    found = estimate_noise(middle.kspace, middle.mask)
    parts = (part[received(middle.kspace)] * middle.meta.scale for part in (found.level, found.low, found.high))
    level, low, high = (float(part.mean()) for part in parts)
    if found.source == "spectrum":
        return f"{level:.3g}, from the fall of the spectrum: between {low:.2g} and {high:.2g}"
    strongest, weakest = float(found.colour.max()), float(found.colour[found.colour > 0].min())
    colour = f"; it varies over k-space by a factor of {strongest / weakest:.2g}" if strongest > 1 else ""
    return f"{level:.3g} (standard deviation of each part of a sample), seen in air{colour}"


def _needed(side: int) -> str:
    return f"the full center of {side} x {side} is too small, {SMALLEST} x {SMALLEST} are needed (or --maps)"


def _run(run: RunDirectory) -> Iterator[tuple[str, str]]:
    from sansref.data.scan_store import PreparedScans
    from sansref.networks import NetworkOptions
    from sansref.training.history import kept_row, read_history

    config = run.config()
    rows = read_history(run.path / "metrics.csv")
    yield "run", str(run.path)
    yield "method", f"{config.method} (needs {config.needs} scans)"
    network = config.network
    name = network.name if isinstance(network, NetworkOptions) else f"generator of width {network.width}"
    yield "network", f"{name}, {sum(p.numel() for p in config.build().parameters()):,} parameters"
    scans = PreparedScans(training) if (training := run.path / "data" / "training").exists() else None
    emulated = config.sampling.in_words()
    own = "" if scans is None else _own_masks(scans)
    if scans is not None and not any(meta.emulated for meta in scans.metas):
        yield "sampling", own
    else:
        yield "sampling", f"{emulated}; {own}" if own else emulated
    if scans is not None:
        yield "k-space", _origin(scans)
    yield "state", "finished" if run.finished else f"not finished, {len(rows)} epochs done"
    if rows:
        keep = config.training.keep
        kept = kept_row(rows, keep)
        stage, epoch = int(kept["stage"]) + 1, int(kept["epoch"]) + 1  # as while training
        yield f"{keep} score", f"{float(kept['score']):.5g} (stage {stage}, epoch {epoch})"
    for split, subjects in (run.subjects() if run.splits_file.exists() else {}).items():
        yield split, f"{len(subjects)} subject{'' if len(subjects) == 1 else 's'}: {', '.join(subjects) or 'none'}"


def _own_masks(scans: PreparedScans) -> str:
    """How many scans were undersampled before they came here, and how far; empty if none was."""
    own = [item for item, meta in enumerate(scans.metas) if not meta.emulated]
    if not own:
        return ""
    accelerations = sorted(scans[item].acceleration for item in own[:: max(1, len(own) // 16)])
    far = " to ".join(dict.fromkeys(f"{one:.3g}x" for one in (accelerations[0], accelerations[-1])))
    which = "the scans" if len(own) == len(scans) else f"{len(own)} of {len(scans)} scans"
    return f"{which} were undersampled by the scanner ({far})"


def _origin(scans: PreparedScans) -> str:
    """Where training scans come from, in words."""
    simulated = sum(meta.synthetic for meta in scans.metas)
    if simulated in (0, len(scans)):
        return "simulated from magnitudes" if simulated else "measured"
    return f"of {len(scans)} scans, {simulated} are simulated from magnitudes"
