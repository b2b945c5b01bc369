"""What a scan file or a run directory holds, as name and value pairs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sansref.data.readers import FileInfo, open_scan_file
from sansref.networks import NetworkOptions
from sansref.training.callbacks import read_history
from sansref.training.run import RunDirectory


def describe(path: Path) -> Iterator[tuple[str, str]]:
    """Describe a run directory or a scan file.

    Raises
    ------
    FileError
        If it is neither.
    """
    return _run(RunDirectory(path)) if path.is_dir() else _file(open_scan_file(path).describe(path))


def _file(info: FileInfo) -> Iterator[tuple[str, str]]:
    yield "file", str(info.path)
    yield "format", f"{info.format}, {info.kind}"
    yield "subject", info.subject
    yield "contrast", info.contrast or "not stated"
    yield "matrix", f"{info.height} x {info.width}, {info.slices} slices, {info.coils} coil(s)"
    spacing = "not stated" if info.spacing is None else f"{info.spacing[0]:.3g} x {info.spacing[1]:.3g} mm"
    yield "pixel spacing", spacing
    if info.acquired_fraction is not None:
        acceleration = 1 / info.acquired_fraction
        yield "acquired", f"{info.acquired_fraction:.1%} of the encoded grid ({acceleration:.2f}x)"
    yield "can train", _trainable(info)
    if info.kind == "magnitude":
        yield "note", "k-space is simulated from magnitudes; scores on it are optimistic compared with raw data"
    for note in info.notes:
        yield "note", note


def _trainable(info: FileInfo) -> str:
    """Which methods can learn from a file."""
    if info.kind == "magnitude" or info.acquired_fraction == 1:
        return "all methods" if info.coils == 1 else "all methods with --magnitude true"
    if info.coils > 1:
        return "nothing without coil sensitivity maps"
    return "idr, ssdu; switchable, iscl, cyclegan beside full scans of other people"


def _run(run: RunDirectory) -> Iterator[tuple[str, str]]:
    config = run.config()
    rows = read_history(run.path / "metrics.csv")
    yield "run", str(run.path)
    yield "method", f"{config.method} (needs {config.needs} scans)"
    network = config.network
    name = network.name if isinstance(network, NetworkOptions) else f"generator of width {network.width}"
    yield "network", f"{name}, {sum(p.numel() for p in config.build().parameters()):,} parameters"
    yield "sampling", f"{config.sampling.mask}, {config.sampling.acceleration:g}x"
    yield "state", "finished" if run.finished else f"not finished, {len(rows)} epochs done"
    if rows:
        keep = config.training.keep
        kept = rows[-1] if keep == "last" else min(rows, key=lambda row: float(row["score"]))
        yield f"{keep} score", f"{float(kept['score']):.5g} (stage {kept['stage']}, epoch {kept['epoch']})"
    for part, subjects in (run.subjects() if run.splits_file.exists() else {}).items():
        yield part, f"{len(subjects)} subjects: {', '.join(subjects) or 'none'}"
