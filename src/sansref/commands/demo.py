"""The demo: learn from one undersampled in-vivo slice and nothing else, then uncover the truth and score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file

from sansref.commands.evaluate import CLASSICAL
from sansref.commands.options import DemoOptions
from sansref.data.prepare import scaled
from sansref.data.scan_store import PreparedScans, store_scans
from sansref.data.simulate import Sampling, Simulation, example_image, simulate
from sansref.data.slices import Slices, resized_image
from sansref.errors import SettingError
from sansref.files import claim, locked, write_text
from sansref.kspace.grid import full_center
from sansref.methods import IDROptions, Method, SSDUOptions
from sansref.methods.classical.regularisation import (
    Classical,
    ClassicalName,
    choose_regularisation,
    classical_names,
)
from sansref.metrics.held_out import HeldOut, Reconstruct, held_out_mask
from sansref.metrics.quality import psnr
from sansref.networks import NetworkOptions
from sansref.outputs.writers import save_png
from sansref.randomness import seeded
from sansref.results.figures import build_agreement_figure, build_stage_figure, error_figure, save_figure
from sansref.results.render import markdown
from sansref.results.scorer import ZERO_FILLED, Scorer, zero_filled
from sansref.results.scores import write_scores
from sansref.results.tables import Scoring, Summary, summarise
from sansref.results.viewer.contents import Contents, Curve, Figure, Section, ViewerSlice
from sansref.results.viewer.page import write_page
from sansref.scan import Scan, ScanMeta
from sansref.training.config import MachineOptions, RunConfig, TrainingOptions
from sansref.training.history import read_history
from sansref.training.run import RunDirectory, environment
from sansref.training.stages import stage_files
from sansref.training.train import learn, logged_to

MASK = "mask.png"
_SOURCE = "s1045.ima.gz of matplotlib's sample data"
_NAMES = {"ssdu": "SSDU", "idr": "IDR"}
_NUMBERS = (
    "PSNR: the squared error relative to the brightest pixel of the true image, in dB; 3 dB more is half the error.",
    "SSIM: how alike small patches of the image and of the true image are; 1 is identical.",
    "NMSE: the squared error divided by the squared true image; 0 is perfect.",
    "Held-out error: the squared error on acquired samples that the method was not given, divided by their squares. "
    "It needs no true image: you can have it for scans of your own.",
)
_NEXT = (
    "Next, look into an undersampled scan of your own (ISMRMRD, Siemens twix, fastMRI, BART, MATLAB or NumPy) and "
    "reconstruct it:",
    "sansref info FILE",
    "sansref zeroshot FILE --out images",
)


@dataclass(frozen=True)
class Snapshot:
    """A method after one epoch: the score that training saw, and the truth."""

    stage: int
    epoch: int
    score: float
    psnr: float


def run_demo(
    options: DemoOptions,
    out: Path,
    console: Console | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> Summary:
    """Play the demo and write ``report.html``, ``table.md``, ``scores.csv`` and PNG figures.

    Parameters
    ----------
    options
        Settings.
    out
        Folder; a demo that was killed continues in it.
    console
        Where progress is drawn.
    say
        Called with lines that explain what is done, before it is done.

    Returns
    -------
    Summary
        Scores of both methods, of compressed sensing and of the zero-filled image.
    """
    truth, acquired = acquire(options)
    claim(out, "demo")
    with locked(out / "demo"):
        runs = {method: RunDirectory(out / method) for method in _NAMES}
        configs = {method: config_of(options, method) for method in _NAMES}
        for method, run in runs.items():
            run.start(configs[method], _SOURCE)
        save_png(out / MASK, acquired.mask.float(), (0, 1))
        for line in scan_in_words(options, acquired):
            say(line)
        say(f"The mask as a picture: {out / MASK}")
        say("Two networks, SSDU and IDR, learn from these samples alone. The true image is read after both have ended.")
        for method, config in configs.items():
            if not runs[method].finished:
                folder = runs[method].path
                with logged_to(folder / "log.txt"):
                    learn(config, acquired_alone(acquired, folder / "data/training"), None, runs[method], console)
        # Only from here on does anything look at the truth.
        return _uncover(options, truth, runs, out)


def scan_in_words(options: DemoOptions, scan: Scan) -> list[str]:
    """What was scanned, by which mask and with how much noise, a sentence or two each."""
    rows, columns = full_center(scan.mask)
    return [
        f"Scan: one head slice, {options.matrix} x {options.matrix}, from matplotlib's sample data. Its k-space is "
        "simulated, with a smooth phase and noise.",
        f"Mask: {float(scan.mask.float().mean()):.1%} of k-space is acquired ({scan.acceleration:.2f}x): the central "
        f"{rows} x {columns} samples all, and fewer the further out (variable density).",
        f"SNR {options.snr:g}: the mean signal of the head is {options.snr:g} times the standard deviation of the "
        "noise.",
    ]


def explained() -> list[str]:
    """What the scores mean, and what to do next, a line each."""
    return [*_NUMBERS, _NEXT[0], *(f"  {command}" for command in _NEXT[1:])]


def config_of(options: DemoOptions, method: str) -> RunConfig:
    """The run configuration of one of the two methods, for equal numbers of steps."""
    alone = method == "ssdu"
    return RunConfig(
        method=method,
        options=SSDUOptions() if alone else IDROptions(stages=options.stages),
        network=NetworkOptions(phases=options.phases, channels=options.channels),
        slices=Slices(matrix=(options.matrix, options.matrix)),
        simulation=Simulation(snr=options.snr),
        sampling=Sampling(acceleration=options.acceleration, mask_seed=options.seed),
        training=TrainingOptions(
            epochs=options.epochs * options.stages if alone else options.epochs,
            repeats=options.repeats,
            batch_size=1,
            learning_rate=options.learning_rate,
            snapshots=True,
            seed=options.seed,
        ),
        machine=MachineOptions(threads=options.threads),
    )


def acquire(options: DemoOptions) -> tuple[Scan, Scan]:
    """The simulated scan with its truth, and what a scanner would have handed over of it."""
    if not 32 <= options.matrix <= 256:
        raise SettingError(f"the demo's matrix must lie between 32 and 256, got {options.matrix}")
    config = config_of(options, "idr")
    image = resized_image(example_image(), config.slices)
    meta = ScanMeta(subject="s1045", source=_SOURCE, synthetic=True)
    full = simulate(image, config.simulation, seeded(options.seed, "simulate"), meta)
    truth = scaled(config.sampling.undersample(full, seeded(options.seed, "mask")))
    return truth, truth.without_reference()


def acquired_alone(scan: Scan, folder: Path) -> PreparedScans:
    """Store the one scan, which has no reference, as training data."""
    return PreparedScans(folder) if folder.exists() else store_scans([scan], folder, references=False)


def _uncover(options: DemoOptions, truth: Scan, runs: dict[str, RunDirectory], out: Path) -> Summary:
    """Score, draw and report."""
    config = config_of(options, "idr")
    held_out = HeldOut(config.split.held_out, options.seed, cache(config.sampling.family))
    methods: dict[str, Reconstruct] = {ZERO_FILLED: zero_filled}
    methods |= {CLASSICAL[name]: chosen.reconstruct for name, chosen in _compressed_sensing(truth, held_out).items()}
    methods |= {_NAMES[name]: run.load().reconstruct for name, run in runs.items()}
    scorer = Scorer(methods, held_out)
    scores = list(scorer.score(truth, 0))
    shown, summary = scorer.show(truth, scores), summarise(scores, Scoring())
    zoom = tuple(round(options.matrix * part) for part in (0.35, 0.4, 0.25, 0.25))
    error_figure(out / "reconstructions.png", shown, zoom=(zoom[0], zoom[1], zoom[2], zoom[3]))
    snapshots = {_NAMES[name]: list_snapshots(run, truth) for name, run in runs.items()}
    curves = {name: _psnr_per_stage(found, options) for name, found in snapshots.items()}
    save_figure(build_stage_figure(curves, {ZERO_FILLED: scores[0].psnr}), out / "stages.png")
    agreement, rho = build_agreement_figure(
        {name: [snapshot.score for snapshot in found] for name, found in snapshots.items()},
        {name: [snapshot.psnr for snapshot in found] for name, found in snapshots.items()},
    )
    save_figure(agreement, out / "agreement.png")
    write_text(out / "table.md", markdown(summary.scores()))
    write_scores(out / "scores.csv", scores)
    _report(options, truth, summary, shown, rho, runs, out)
    return summary


def _compressed_sensing(truth: Scan, held_out: HeldOut) -> dict[ClassicalName, Classical]:
    """Compressed sensing of both kinds, its regularisation chosen on samples of the scan without its truth."""
    scan = truth.without_reference()
    masks, family = [held_out_mask(scan, held_out.share, held_out.seed, 0)], held_out.family(scan.meta.emulated)
    return {
        name: Classical(name, choose_regularisation(name, [scan], masks, family).regularisation)
        for name in classical_names()
    }


@torch.inference_mode()
def list_snapshots(run: RunDirectory, truth: Scan) -> list[Snapshot]:
    """Score every epoch of a run against the truth, from all acquired samples."""
    method = run.config().build().eval()
    found = []
    for row in read_history(run.path / "metrics.csv"):
        stage, epoch = int(row["stage"]), int(row["epoch"])
        method.load_state_dict(load_file(stage_files(run.path, stage).snapshot(epoch)))
        found.append(Snapshot(stage, epoch, float(row["score"]), _psnr(method, truth)))
    return found


def _psnr(method: Method, truth: Scan) -> float:
    assert truth.reference is not None
    image, reference = method.reconstruct(truth.batch())[0].abs(), truth.reference.abs()
    return float(psnr(image, reference, float(reference.max())))


def _psnr_per_stage(snapshots: list[Snapshot], options: DemoOptions) -> list[float]:
    """PSNR of the model that the reference-free score would choose after each stage's worth of training."""
    chosen = []
    for stage in range(options.stages):
        done = snapshots[: (stage + 1) * options.epochs]
        chosen.append(min(done, key=lambda snapshot: snapshot.score).psnr)
    return chosen


def _report(
    options: DemoOptions,
    truth: Scan,
    summary: Summary,
    shown: ViewerSlice,
    rho: float,
    runs: dict[str, RunDirectory],
    out: Path,
) -> None:
    sections = [
        Section(
            "What was acquired",
            scan_in_words(options, truth),
            [Figure(out / MASK, "The mask: acquired samples are white, DC is in the center.", "Sampling mask")],
        ),
        Section("What the scores mean", _NUMBERS),
        Section(
            "Stage by stage",
            [
                "The model that the reference-free score would choose after each stage; SSDU is shown after the same "
                "number of training steps."
            ],
            [Figure(out / "stages.png", "True PSNR per stage.", "PSNR of SSDU and IDR against the stage")],
        ),
        Section(
            "Can the reference-free score be trusted?",
            [
                f"Each dot is one epoch. Spearman's rank correlation between the score, which training can see, and "
                f"the true PSNR, which it cannot, is {rho:.3f} (1 would rank all epochs perfectly)."
            ],
            [Figure(out / "agreement.png", "Held-out error against true PSNR.", "Scatter plot of score and PSNR")],
        ),
        Section("What to do next", _NEXT),
    ]
    page = Contents(
        "Learning from one undersampled scan",
        "Two networks learned to reconstruct one undersampled head slice from that slice alone.",
        [
            "Both networks saw nothing but the acquired samples of this one slice. The truth was read after training "
            "had ended."
        ],
        {
            "Image": f"{_SOURCE}, {options.matrix} x {options.matrix}, complex k-space simulated from the magnitude",
            "Sampling": f"{truth.acceleration:.2f}x, {int(truth.mask.sum()):,} of {truth.mask.numel():,} samples",
            "Noise": f"SNR {options.snr:g}",
            "Seed": str(options.seed),
        },
        summary.scores(),
        slices=[shown],
        curves=[Curve.of_run(_NAMES[name], "", run.path) for name, run in runs.items()],
        sections=sections,
        config=yaml.safe_dump({name: run.read_config() for name, run in runs.items()}, sort_keys=False),
        versions={name: str(value) for name, value in environment().items()},
    )
    write_page(out / "report.html", page)
