"""Reconstruct one undersampled scan with a network that learns from it alone, beside compressed sensing.

Zero-shot self-supervised learning, after Yaman et al. (ICLR 2022): the acquired samples outside the calibration center
are divided into three sets, for the loss, for stopping and for judging. The last one chooses among the network,
compressed sensing and a mixture of both, so that the images are not worse than those of compressed sensing by the error
on held-out samples. Where noise is to be taken out, noise is held out as well and judges acquired samples
(:mod:`sansref.metrics.image_error`); two images are written, with the noise and without.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from math import ceil, inf, isfinite, prod
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

import torch
from rich.console import Console
from torch import Tensor

from sansref.commands.denoised import LEARNED, MEANING, WATCH, DenoisedFile, worth
from sansref.commands.error_map import MappedFile
from sansref.commands.evaluate import CLASSICAL, with_maps
from sansref.commands.output_files import Format, Outputs, check_finite, write_images
from sansref.commands.reconstruct import scans_of, whole_volume
from sansref.commands.zero_shot_choice import (
    ADDED,
    AS_MEASURED,
    JUDGED,
    MIXTURE,
    NETWORK,
    NON_LOCAL,
    PARTS,
    START,
    Choice,
    choose,
    errors_in_parts,
    judged_mask,
    mixing_weight,
    noisier,
    scaled_without,
)
from sansref.commands.zero_shot_report import PROMISED, chosen_first, marked, write_report
from sansref.data.provenance import Provenance, file_digest, fingerprint
from sansref.data.readers.folder import one_scan
from sansref.data.scan_store import PREPARED, PreparedScans, store_scans
from sansref.data.simulate import Sampling
from sansref.errors import FileError, SettingError, TrainingError
from sansref.files import claim, keep_outside, locked, remove_leftovers, remove_made, write_text
from sansref.kspace.grid import is_full, is_rows
from sansref.kspace.measurement import Measurement
from sansref.machine import device_of, keep_freed_memory
from sansref.methods import Needs
from sansref.methods.classical.non_local_means import non_local_means
from sansref.methods.classical.regularisation import Classical, choose_regularisation, classical_names
from sansref.metrics.contradiction import SEEN
from sansref.metrics.error_maps import ErrorMapOptions
from sansref.metrics.held_out import COLUMNS_WANTED, ROWS_TOLD, HeldOut, Reconstruct, held_out_mask
from sansref.metrics.image_error import ImageError, best_share
from sansref.outputs.writers import save_png
from sansref.results.figures import error_figure
from sansref.results.scorer import ZERO_FILLED, Scorer, magnitude, zero_filled
from sansref.results.scores import ScoredSlice, read_scores, write_scores
from sansref.results.viewer.contents import SHOWN, ViewerSlice
from sansref.scan import Scan, ScanMeta
from sansref.settings import by_name
from sansref.training.batches import ShapeBatches
from sansref.training.config import RunConfig
from sansref.training.history import read_history
from sansref.training.processes import alone
from sansref.training.run import RunDirectory, load_weights
from sansref.training.stages import stage_files
from sansref.training.survey import idle_settings, tried
from sansref.training.train import end_here, learn, logged_to, on_threads
from sansref.yaml_json import read_json

logger = logging.getLogger(__name__)

REGULARISED = 2
"""Slices that a regularisation is chosen on, at most."""

MIXED = 8
"""Slices that the share of the network in a mixture is chosen on, at most, where noise is to be taken out."""

FIRST = 1e-3
"""Regularisation of the first image, before one has been chosen."""

STEPS = 8
"""Steps of an epoch, at least: each ends with a look at the samples for stopping."""

EPOCHS = 6
"""Epochs of a stage, at least; else there are fewer stages: a network that has learned nothing refines nothing."""

PICTURE_EVERY = 10.0
"""Seconds between pictures of the best image so far, at least."""

LONGEST = 1e5
"""Minutes of a training at most: ten weeks."""

LATE = 1.25
"""How many times its budget a training may take: the steps of a busy machine differ from the one that was measured."""

TAKEN_OUT_BY = {
    START: "a network that learned from other scans",
    NETWORK: f"a network, by {LEARNED}, of this scan",
    MIXTURE: f"compressed sensing or non-local means, mixed with a network, by {LEARNED}, of this scan",
}
"""How noise is taken out, by what tables call the images; others call themselves what they are."""

CHOSEN = "chosen"
"""What tables call the images that were written."""

DEFAULTS = {
    "network.name": "modl",
    "network.shared": False,
    "network.cg_steps": 3,
    "coils.virtual": 8,
    "training.batch_size": 1,
    "training.learning_rate": 3e-3,
    "training.precision": "auto",
}
"""Settings whose default is another one for a single scan, by their whole names."""

DENOISING = {"sampling.acceleration": 1.0}
"""The same where noise is to be taken out: a full scan is then left full."""

WRITTEN = {"images", "error_map"}
"""Settings of what is written in the end, which may change without a new training."""

FREE = {"cg_steps", "init", "symmetry"}
"""Settings of a network that its weights do not depend on."""

SHIPPED = Path(__file__).parents[1] / "start"
"""Run whose weights come with the package; its README.md says how they were learned."""

VERSION = 1
"""Of the record's layout."""

RECORD = "zeroshot.json"
"""Name of the record in the folder of images."""


@dataclass(frozen=True)
class ZeroShotOptions:
    """What a zero-shot reconstruction has beside the settings of a training.

    Attributes
    ----------
    minutes
        Time for the training of the network, from which the number of epochs follows; None trains for as many epochs as
        the settings of the training say.
    start
        What weights the training begins with: shipped, those that come with the package; the folder of a run; none,
        new ones; auto, the shipped ones where the network is theirs, and new ones elsewhere.
    formats
        Formats of the images, see :class:`sansref.commands.reconstruct.Job`.
    error_map
        Write maps of where the images may be wrong beside them, in this way; None writes none.
    """

    minutes: float | None = 10.0
    start: str | Path = "auto"
    formats: Sequence[Format] = ("source",)
    error_map: ErrorMapOptions | None = None

    def __post_init__(self) -> None:
        if isinstance(self.formats, str) or not {*self.formats} <= {*get_args(Format)}:
            raise SettingError(f"formats must be a list of {', '.join(get_args(Format))}, got {self.formats!r}")
        if self.minutes is not None and not 0 < self.minutes <= LONGEST:
            raise SettingError(f"minutes must be positive, and at most {LONGEST:g}, got {self.minutes:g}")


@dataclass(frozen=True)
class ZeroShot:
    """What a zero-shot reconstruction found.

    Attributes
    ----------
    choice
        Which images were written.
    images
        Their files.
    scores
        Scores of every method and judged slice.
    """

    choice: Choice
    images: tuple[Path, ...]
    scores: list[ScoredSlice]


def zero_shot(
    config: RunConfig,
    file: Path,
    out: Path,
    options: ZeroShotOptions | None = None,
    console: Console | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> ZeroShot:
    """Reconstruct one scan, or go on where a killed command of the same settings stopped.

    Parameters
    ----------
    config
        Everything that determines the training; its epochs are replaced where ``options`` has minutes.
    file
        The scan. A full one is undersampled first, by an acceleration that is not 1.
    out
        Folder for the images, ``scores.csv``, ``report.html``, ``zeroshot.json`` and the run.
    options
        What else there is to set.
    console
        Where progress is drawn.
    say
        Called with lines on what was found.

    Raises
    ------
    SettingError
        If settings are impossible, ``out`` holds something else, or was begun with other settings.
    FileError
        If the file cannot be read, has changed since, or shows nothing.
    """
    return _Work(config, file, out, options or ZeroShotOptions(), console or Console(stderr=True), say).done()


def with_budget(config: RunConfig, scans: PreparedScans, seconds: float) -> RunConfig:
    """A configuration with as many epochs, and if need be fewer stages, as training takes so many seconds for.

    A step and a reconstruction are measured; where they become much slower, training ends early. Epochs have at least
    :data:`STEPS` steps.
    """
    training, count = config.training, len(scans)
    largest = max(range(count), key=lambda item: prod(scans.planes[item]) * scans.shapes[item][0])
    method = config.build(0, config.sampling.family(scans.metas[largest].emulated))
    batch = min(training.batch_size, count * training.repeats)
    # The quicker of two: the first ones may be slow for reasons of their own.
    cost = min((tried(config, method, scans[largest], batch) for _ in range(2)), key=lambda one: one.step)
    repeats = max(training.repeats, ceil(STEPS * training.batch_size / count))
    steps = len(ShapeBatches(scans.shapes * repeats, training.batch_size, training.seed))
    epochs = seconds / (steps * cost.step + count * cost.reconstruction)
    stages = method.stages
    if hasattr(config.options, "stages"):
        stages = min(stages, max(1, int(epochs / EPOCHS)))
    changes: dict[str, Any] = {"training.repeats": repeats, "training.epochs": max(1, round(epochs / stages))}
    changes["training.minutes"] = LATE * seconds / 60
    return config.changed(**changes, **({} if stages == method.stages else {"method.stages": stages}))


def start_of(start: str | Path, config: RunConfig) -> RunDirectory | None:
    """The run whose weights a training begins with, see :class:`ZeroShotOptions`; None for new weights.

    Raises
    ------
    SettingError
        If it has another network.
    FileError
        If it cannot be used.
    """
    if start == "none":
        return None
    run = RunDirectory(SHIPPED if start in ("auto", "shipped") else Path(start))
    other = run.config()
    ours, theirs = asdict(config.network), asdict(other.network)
    names = [name for name in (ours.keys() | theirs.keys()) - FREE if ours.get(name) != theirs.get(name)]
    if names and start == "auto":
        return None
    if names:
        changes = ", ".join(f"network.{name} {theirs.get(name)!r}" for name in sorted(names))
        raise SettingError(
            f"the start {start} has a different network ({changes}): use the same settings, or --start none"
        )
    _ = run.load(other)
    return run


class _Measured:
    """A reconstruction that knows its last images again, and how many seconds they took."""

    def __init__(self, reconstruct: Reconstruct) -> None:
        self._reconstruct = reconstruct
        self._known: dict[bytes, tuple[Tensor, float]] = {}

    def __call__(self, given: Measurement) -> Tensor:
        return self._found(given)[0]

    def seconds(self, given: Measurement) -> float:
        return self._found(given)[1]

    def _found(self, given: Measurement) -> tuple[Tensor, float]:
        key = hashlib.sha256(given.kspace.numpy().tobytes() + given.mask.numpy().tobytes()).digest()
        if key not in self._known:
            if len(self._known) == 4:
                del self._known[next(iter(self._known))]
            began = time.perf_counter()
            image = self._reconstruct(given)
            if given.maps is not None:  # no sample depends on what no coil sees
                image = image * (given.maps != 0).any(1)
            self._known[key] = image, time.perf_counter() - began
        return self._known[key]


def _is_sound(record: object) -> bool:
    """Whether a record is one of this version, whose parts have the types that they are written with."""
    if not isinstance(record, dict) or record.get("version") != VERSION or not isinstance(record.get("settings"), dict):
        return False
    classical, choice = record.get("classical", {"": {"regularisation": 0.0, "stopping": 0.0}}), record.get("choice")
    named = choice is None or (isinstance(choice, dict) and choice.keys() == {"label", "reason", "errors"})
    return (
        named
        and isinstance(record.get("before"), float | None)
        and isinstance(classical, dict)
        and bool(classical)
        and classical.keys() <= {"", *CLASSICAL}
        and all(isinstance(one, dict) and one.keys() == {"regularisation", "stopping"} for one in classical.values())
        and all(isinstance(number, float) for one in classical.values() for number in one.values())
        and isinstance(record.get("non_local_means", 0.0), float)
        and isinstance(mixture := record.get("mixture", {}), dict)
        and all(isinstance(share, float) for share in mixture.values())
    )


class _BestPicture:
    """Follows a training as a tracker does, and draws a slice anew when the network predicts held-out samples better.

    Parameters
    ----------
    run
        The training.
    scan
        The slice.
    path
        PNG file.
    score
        To be beaten.
    """

    def __init__(self, run: RunDirectory, scan: Scan, path: Path, score: float) -> None:
        self._run, self._scan, self._path, self._score = run, scan, path, score
        self._drawn = -inf

    def add(self, step: int, row: Mapping[str, float]) -> None:
        """Draw, but not all the time."""
        now = time.monotonic()
        if row["score"] < self._score and now - self._drawn > PICTURE_EVERY:
            self._score, self._drawn = row["score"], now
            method = self._run.config().build().eval()
            load_weights(method, stage_files(self._run.path, int(row["stage"])).best)
            with torch.inference_mode():
                draw(method.reconstruct, self._scan, self._path)

    def close(self, error: BaseException | None) -> None:
        """Nothing is open."""


def draw(reconstruct: Reconstruct, scan: Scan, path: Path) -> None:
    """Write the picture of a slice."""
    save_png(path, magnitude(reconstruct(scan.batch())[0], scan), geometry=scan.meta.geometry)


class _Work:
    """One command at work."""

    def __init__(
        self,
        config: RunConfig,
        file: Path,
        out: Path,
        options: ZeroShotOptions,
        console: Console,
        say: Callable[[str], object],
    ) -> None:
        self.config, self.file, self.out, self.options = config, file, out, options
        self.console, self._tell = console, say
        self.began = time.perf_counter()
        # What the user has named may be imported again.
        self.run = RunDirectory(out / "run", trust_code=":" in config.method)
        self.picture = out / "best.png"
        self.seed = config.data_seed + 1  # of the samples for judging
        self.record: dict[str, Any] = {}
        self.stopped = False  # by Ctrl-C

    def say(self, line: str) -> None:
        """Tell the user, and the log."""
        logger.info(line)
        self._tell(line)

    def done(self) -> ZeroShot:
        """Everything, or what is left of it."""
        keep_outside(self.out, self.file)
        self.file = one_scan(self.file)
        self._check()
        self.info = self.config.preparation.describe(self.file)
        claim(self.out, "zeroshot")
        with locked(self.out / "zeroshot"):  # inside, as --out may be all that can be written
            return self._found()

    def _found(self) -> ZeroShot:
        self._begin()
        if "choice" in self.record and (found := self._earlier()) is not None:
            return found
        keep_freed_memory()
        with logged_to(self.out / "log.txt"), on_threads(self.config.machine.threads):
            self.scans = self._stored()
            self.stopping = HeldOut(self.config.split.held_out, self.config.training.seed, self._families())
            if self._middle.meta.emulated:
                sampling = self.config.sampling
                options = "--mask" if sampling.from_file else "--mask, --acceleration"
                self.say(f"{self.file} is fully sampled: it is undersampled first, {sampling.in_words()} ({options})")
                if line := self._of_noise():
                    self.say(line)
            for line in self._idle():
                self.say(line)
            self._first_picture()
            classical = self._compressed_sensing()
            self._score_start(classical)
            self._train()
            return self._written(classical)

    def _check(self) -> None:
        config = self.config
        if config.needs is not Needs.UNDERSAMPLED:
            raise SettingError(f"method {config.method!r} cannot learn from one undersampled scan: use idr or ssdu")
        if config.machine.processes > 1:
            raise SettingError("one scan is learned by a single process: leave out --devices and --num_nodes")
        if config.training.score != "held_out" or not config.training.score_decides(config.build().stages):
            raise SettingError(
                "zeroshot decides by the error on held-out samples: leave out --keep last and --score reference"
            )
        if self.options.error_map is not None and config.coils.map_sets > 1:
            raise SettingError("--error_map cannot be combined with --map_sets 2: leave out one of them")
        if self.options.error_map is not None and config.denoises:
            raise SettingError("--error_map cannot be combined with --denoise: leave out one of them")
        alone(config.machine, config.training.precision)  # refuses what this machine lacks, before any work
        self.start = start_of(self.options.start, config)
        if self.start is not None and self._content in self.start.files().values():
            raise SettingError(
                f"the start {self.start.path} has already learned from this scan, which could then not judge it: "
                "give another --start"
            )

    def _begin(self) -> None:
        """Read the record, or begin it; refuse other settings, unless nothing has come of the first ones."""
        remove_leftovers(self.out)
        settings = self.config.values()
        del settings["machine"]  # it may go on elsewhere
        named = self.config.preparation.flat()  # of files that settings name, what they hold
        settings["sampling"]["mask"], settings["data"]["maps"] = named["sampling.mask"], named["slices.maps"]
        settings |= {"file": str(self.file.resolve()), "content": self._content}
        settings |= {"minutes": self.options.minutes, "images": sorted(set(self.options.formats))}
        settings["error_map"] = None if self.options.error_map is None else self.options.error_map.bound
        settings["start"] = None if self.start is None else file_digest(self.start.weights)
        settings = json.loads(json.dumps(settings))
        path, cure = self.out / RECORD, "Choose another --out"
        if path.exists():
            self.record = read_json(path, cure)
            if not _is_sound(self.record):
                raise FileError(path, "is not a record that this version can continue", cure)
            before, now = by_name(self.record["settings"]), by_name(settings)
            names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
            refused = [name for name in names if name not in WRITTEN]
            if refused and self.record.keys() == {"version", "settings"} and not self.run.config_file.exists():
                remove_made(self.out / "scans", PREPARED)
                self.picture.unlink(missing_ok=True)
                refused = []
            if refused == ["content"]:
                raise FileError(self.file, f"has changed since {self.out} was begun", cure)
            if refused:
                changes = ", ".join(f"{name} {before.get(name)!r} -> {now.get(name)!r}" for name in refused)
                raise SettingError(
                    f"{self.out} holds a reconstruction with other settings ({changes}): choose another --out"
                )
            if "error_map" in names:  # maps and page that are there belong to the earlier bound
                self.record.pop("choice", None)
        self._note(settings=settings)

    @cached_property
    def _content(self) -> str:
        """Fingerprint of the file."""
        return fingerprint(self.file)

    def _note(self, **parts: Any) -> None:
        self.record = {"version": VERSION, **self.record, **parts}
        write_text(self.out / RECORD, json.dumps(self.record, indent=1))

    def _earlier(self) -> ZeroShot | None:
        """What a command that has ended found; None where its files are gone."""
        choice, written = Choice(**self.record["choice"]), self._files(None)
        if not written.complete or not all((self.out / name).exists() for name in ("scores.csv", "report.html")):
            return None
        return ZeroShot(choice, written.paths(), read_scores(self.out / "scores.csv"))

    def _scans(self, slices: Sequence[int] | None = None) -> Iterator[Scan]:
        """Scans of the file with all their samples, on the scale of those that are not for judging."""
        for scan in scans_of(self.config, self.info, slices):
            ready = scaled_without(scan, self._apart(scan))
            # A full scan is no reference for its image without noise.
            noisy = self.config.denoises and is_full(scan.mask) and not scan.meta.synthetic
            yield replace(ready, reference=None) if noisy else ready

    def _apart(self, scan: Scan) -> Tensor:
        """The samples of a scan that are for judging alone."""
        return judged_mask(scan, self.seed, self.config.denoises)

    def _stored(self) -> PreparedScans:
        """What is learned from: the scans without the samples for judging, and without references."""
        folder = self.out / "scans"
        if folder.exists():
            return PreparedScans(folder)
        rows = set[bool]()

        def others() -> Iterator[Scan]:
            for scan in self._scans():
                rows.add(is_rows(scan.mask))
                yield self._noisier(scan).restricted(~self._apart(scan))

        try:
            stored = store_scans(others(), folder, references=False)
        except SettingError as error:
            problem = f"has too few samples to set some apart for judging ({error})"
            raise FileError(self.file, problem, "Reconstruct it with a run that was trained on other scans") from None
        if True in rows:
            self.say(f"warning: {self.file} leaves out whole rows of k-space: {ROWS_TOLD}. {COLUMNS_WANTED}")
        return stored

    def _noisier(self, scan: Scan) -> Scan:
        """What is learned from: a scan that is to be denoised, with a little more noise."""
        if not self.config.denoises:
            return scan
        try:
            return noisier(scan, self.seed)
        except ValueError as error:
            raise FileError(self.file, f"shows no noise that could be taken out ({error})", "Give --noise") from None

    def _families(self) -> Callable[[bool], Any]:
        return cache(lambda emulated: self.config.sampling.family(emulated, JUDGED))

    def _idle(self) -> Iterator[str]:
        """Which settings do nothing to this scan, a line each."""
        config = self.config
        if config.sampling.acceleration == 1 and not config.sampling.from_file:
            config = replace(config, sampling=Sampling())  # a full scan stays as it is, and lacks what is for judging
        return idle_settings(config, [self.info], [self._middle])

    def _of_noise(self) -> str:
        """What denoising would be worth to a full scan, as a line; empty where it is not known."""
        if self._middle.meta.synthetic or self.config.denoises:
            return ""
        preparation = self.config.preparation
        whole = replace(preparation, sampling=replace(preparation.sampling, mask="variable_density", acceleration=1.0))
        (scan,) = whole.scans(self.info, [self._middle.meta.slice])
        return worth(scan)

    def _first_picture(self) -> None:
        """Draw the middle slice at once, before anything is chosen."""
        if self.picture.exists():
            return
        draw(Classical(classical_names()[0], FIRST).reconstruct, self._middle, self.picture)
        self.say(f"first image (compressed sensing) after {time.perf_counter() - self.began:.1f} s: {self.picture}")

    @property
    def _middle(self) -> Scan:
        return self.scans[len(self.scans) // 2]

    def _compressed_sensing(self) -> dict[str, Classical]:
        """Both kinds, each with the regularisation that is best on the samples for stopping; the better one first."""
        seed, count = self.config.training.seed, len(self.scans)
        if "classical" not in self.record:
            every = max(1, ceil(count / REGULARISED))
            items = range(every // 2, count, every)
            chosen = [self.scans[item] for item in items]
            masks = [
                held_out_mask(scan, self.stopping.share, seed, item) for scan, item in zip(chosen, items, strict=True)
            ]
            found = {}
            for name in classical_names():
                family = self.stopping.family(all(scan.meta.emulated for scan in chosen))
                denoise = self.config.denoises
                regularisation = choose_regularisation(name, chosen, masks, family, denoise=denoise).regularisation
                score = self._stopping_error(Classical(name, regularisation, seed=seed).reconstruct)
                found[name] = {"regularisation": regularisation, "stopping": score}
                self.say(f"{CLASSICAL[name]}: {self._errors_by} {score:.4f}, regularisation {regularisation:.2g}")
            if self._only_denoises:
                score = self._stopping_error(non_local_means)
                self._note(non_local_means=score)
                self.say(f"{NON_LOCAL}: {self._errors_by} {score:.4f}")
            self._note(classical=dict(sorted(found.items(), key=lambda item: item[1]["stopping"])))
        return {
            CLASSICAL[name]: Classical(name, found["regularisation"], seed=seed)
            for name, found in self.record["classical"].items()
        }

    def _score_start(self, classical: Mapping[str, Classical]) -> None:
        """Say what the weights that training begins with are worth, and draw the best image so far."""
        if "before" in self.record:
            return
        best, error = next(iter(self._stopping_errors().items()))
        better: Reconstruct = non_local_means if best == NON_LOCAL else classical[best].reconstruct
        before = None
        if self.start is not None:
            network = self._reconstruct(self.start)
            with torch.inference_mode():
                before = self._stopping_error(network)
            self.say(f"initial weights: {self._errors_by} {before:.4f}, before learning from this scan")
            if before < error:
                better = network
        draw(better, self._middle, self.picture)
        self._note(before=before)

    def _stopping_errors(self) -> dict[str, float]:
        """Errors of what is not learned on the samples for stopping, the least first."""
        found = {CLASSICAL[name]: found["stopping"] for name, found in self.record["classical"].items()}
        if "non_local_means" in self.record:
            found[NON_LOCAL] = self.record["non_local_means"]
        return dict(sorted(found.items(), key=lambda item: item[1]))

    def _stopping_error(self, reconstruct: Reconstruct) -> float:
        """The mean error on the samples for stopping; of a method that denoises, with that on the given samples."""
        scans = list(enumerate(self.scans))
        if not self.config.denoises:
            return fmean(self.stopping.score(reconstruct, scan, item) for item, scan in scans)
        judges = [ImageError.of(scan, self.stopping, item) for item, scan in scans]
        return fmean(judge.error(judge.answer(reconstruct)) for judge in judges)

    @property
    def _errors_by(self) -> str:
        """What the errors before judging are told by."""
        return "error by SURE" if self._only_denoises else "error on stopping samples"

    @property
    def _only_denoises(self) -> bool:
        """Whether there is nothing to predict: the noise of a full scan is to be taken out, and no more."""
        return self.config.denoises and is_full(self._middle.mask)

    def _train(self) -> None:
        """Train the network, or go on; stopped by Ctrl-C or a failure, it keeps the best weights so far."""
        config, minutes = self.config, self.options.minutes
        if self.run.config_file.exists():
            config = self.run.config()
        elif minutes is not None:
            config = with_budget(config, self.scans, 60 * minutes)
            stages, training = config.build().stages, config.training
            self.say(f"network: {stages} stage(s) of {training.epochs} epoch(s), about {minutes:g} min")
        config = replace(config, machine=self.config.machine)
        self.run.start(config, str(self.file.resolve()))
        # Whoever scores or goes on with the run is to know what it has learned from.
        subject = {"training": [self.info.subject], "validation": [], "test": []}
        write_text(self.run.splits_file, json.dumps(subject))
        write_text(self.run.files_file, json.dumps({self.file.name: self._content}))
        if self.run.finished or "failed" in self.record:
            return
        best, error = next(iter(self._stopping_errors().items()))
        # What a method that denoises learns from is not the held-out error: its scores stand for themselves.
        beaten = inf if config.denoises else min(error, self.record["before"] or inf)
        watcher = _BestPicture(self.run, self._middle, self.picture, beaten)
        start = None if self.start is None else self.start.weights
        try:
            learn(
                config,
                self.scans,
                None,
                self.run,
                self.console,
                start=start,
                withheld=JUDGED,
                beside="" if config.denoises else f"{best} {error:.4f}",
                watcher=watcher,
            )
            return
        except KeyboardInterrupt:
            kept = end_here(config, self.run, len(self.scans))
            self.say("training ended; press Ctrl-C again to stop before the images are made")
            self.stopped = True
        except TrainingError as error:
            kept = end_here(config, self.run, len(self.scans))
            self.say(f"training failed: {error}")
        self.say(
            "the best weights so far are used" if kept else "no epoch was completed: only compressed sensing is left"
        )
        if not kept and not self.stopped:
            self._note(failed=True)

    def _methods(self, classical: Mapping[str, Classical]) -> dict[str, _Measured]:
        """All that is judged, by the name that tables give it."""
        found: dict[str, _Measured] = {AS_MEASURED if self._only_denoises else ZERO_FILLED: _Measured(zero_filled)}
        found |= {label: _Measured(classical[label].reconstruct) for label in CLASSICAL.values() if label in classical}
        if self._only_denoises:
            found[NON_LOCAL] = _Measured(non_local_means)
        if self.start is not None:
            found[START] = _Measured(self._reconstruct(self.start))
        if self.run.finished:
            network = _Measured(self._reconstruct(self.run))
            best = next(iter(self._stopping_errors()))
            better = found[best]
            with torch.inference_mode():
                share = self._share(network, better)
            self._note(mixture={"network": share, best: 1 - share})
            found[NETWORK] = network
            found[MIXTURE] = _Measured(lambda given: share * network(given) + (1 - share) * better(given))
        return found

    def _share(self, network: Reconstruct, other: Reconstruct) -> float:
        """The share of the network in the mixture."""
        if not self.config.denoises:
            return mixing_weight(network, other, self.scans, self.stopping, range(len(self.scans)))
        count = len(self.scans)
        chosen = {self.scans.metas[item].slice for item in range(0, count, ceil(count / MIXED))}
        judges = [self._judge(scan) for scan in self._scans() if scan.meta.slice in chosen]
        answers = [[judge.answer(one) for judge in judges] for one in (network, other)]
        return best_share(judges, *answers)

    def _judge(self, scan: Scan) -> ImageError:
        """Tells the error of a slice's images without noise, also of those by a network that knows it by heart."""
        held_out = HeldOut(JUDGED, self.seed, cache(self.config.sampling.family))
        return ImageError.of(scan, held_out, scan.meta.slice, self._noisier(scan), ADDED)

    def _reconstruct(self, run: RunDirectory) -> Reconstruct:
        """What a trained network makes of samples."""
        device = device_of(self.config.machine.accelerator)
        method = run.load().to(device)
        return lambda given: method.reconstruct(given.to(device)).cpu()

    def _written(self, classical: Mapping[str, Classical]) -> ZeroShot:
        """Judge, choose, and write."""
        methods = self._methods(classical)
        rows, shown, parts = self._judged(methods)
        if self.config.denoises:
            choice = choose(parts, parts, "by SURE" if self._only_denoises else "by SURE and the samples for judging")
        else:
            choice = choose({label: [row.held_out for row in rows if row.label == label] for label in methods}, parts)
        rows += [replace(row, label=CHOSEN) for row in rows if row.label == choice.label]
        self.say(choice.reason)
        files = self._files(choice, [one.number for one in shown])
        with torch.inference_mode():
            mapped = self._write_images(files, choice, methods[choice.label])
        write_scores(self.out / "scores.csv", rows)
        error_figure(self.out / "reconstructions.png", marked(shown[len(shown) // 2], choice.label))
        shown = [chosen_first(one, choice.label) for one in shown]
        notes = list(PROMISED)
        if isinstance(files, DenoisedFile):
            shown, notes = files.joined(shown), [*files.notes(), MEANING, WATCH]
        elif mapped is not None:
            shown = [with_maps(one, choice.label, mapped.kept[one.number]) for one in shown]
            notes.append(f"Error maps of the written image: {'; '.join(mapped.notes())}. {SEEN}")
        write_report(self.out, self.record, choice.reason, rows, shown, self.run, self._middle, notes)
        self._note(seeds={"judging": self.seed, "stopping": self.config.training.seed})
        if self.run.finished or not self.stopped:  # else the same command is to train
            self._note(choice=asdict(choice))
        return ZeroShot(choice, tuple(path for path in files.paths() if path.exists()), rows)

    def _write_images(
        self, files: Outputs | MappedFile | DenoisedFile, choice: Choice, method: _Measured
    ) -> MappedFile | None:
        """Write the chosen images of all slices, with maps of where they may be wrong if these are asked for.

        Returns these maps where there are any.
        """
        if isinstance(files, Outputs):
            write_images(files, whole_volume(self._images(method), self.info))
            return None
        scans, learned = self._scans(range(self.info.slices)), choice.label in (NETWORK, MIXTURE)
        if isinstance(files, DenoisedFile):

            def risk(scan: Scan) -> float:
                judge = self._judge(scan)
                return judge.on_acquired(judge.answer(method))

            pairs = files.slices(method, scans, risk=risk if learned else None)
            files.write(whole_volume(pairs, self.info))
            for note in files.notes():
                self.say(note)
            return None

        def unseen(scan: Scan) -> Tensor | None:
            return self._apart(scan) if learned else None

        family = cache(self.config.sampling.family)
        self.say(files.announcement(method, self._middle))
        try:
            files.write(whole_volume(files.slices(method, scans, family, unseen), self.info))
        except FileError as error:  # such as too few samples for judging: the images are worth more than their maps
            self.say(f"no error maps: {error}")
            write_images(self._outputs(choice), whole_volume(self._images(method), self.info))
            return None
        for note in (*files.notes(), SEEN):
            self.say(note)
        return files

    def _files(self, choice: Choice | None, shown: Sequence[int] = ()) -> Outputs | MappedFile | DenoisedFile:
        """The images, with their error maps if these are asked for; of a method that denoises, with noise and without.

        ``shown`` are slices for the page.
        """
        outputs, options = self._outputs(choice), self.options.error_map
        if self.config.denoises:
            label = "" if choice is None else choice.label
            how = None if label == AS_MEASURED else TAKEN_OUT_BY.get(label, label)
            return DenoisedFile(outputs, how, label, shown)
        return outputs if options is None else MappedFile(outputs, options, shown)

    def _judged(
        self, methods: Mapping[str, _Measured]
    ) -> tuple[list[ScoredSlice], list[ViewerSlice], dict[str, list[float]]]:
        """Score every method on the samples for judging, in parts too, and against the reference if there is one."""
        held_out = HeldOut(JUDGED, self.seed, cache(self.config.sampling.family))
        scorer = Scorer(methods, held_out, denoises=self.config.denoises)
        count = ceil(PARTS / len(self.scans))
        parts: dict[str, list[float]] = {label: [] for label in methods}
        every = max(1, ceil(len(self.scans) / SHOWN))
        learning = sum(float(row["seconds"]) for row in read_history(self.run.path / "metrics.csv")) / len(self.scans)
        rows: list[ScoredSlice] = []
        shown: list[ViewerSlice] = []
        for place, scan in enumerate(self._scans()):
            own = list(scorer.score(scan, scan.meta.slice))
            judge = self._judge(scan) if self.config.denoises else None
            for number, (label, method) in enumerate(methods.items()):
                if judge is None:
                    parts[label] += errors_in_parts(method, scan, held_out, scan.meta.slice, count)
                    continue
                answer = judge.answer(method)
                parts[label] += judge.in_parts(answer, count, self.seed)
                own[number] = own[number].with_risk(judge.on_acquired(answer))
            seconds = {label: method.seconds(scan.batch()) for label, method in methods.items()}
            if MIXTURE in methods:
                seconds[NETWORK] += learning
                seconds[MIXTURE] += seconds[NETWORK] + seconds[next(iter(self._stopping_errors()))]
            own = [replace(row, seconds=seconds[row.label], file=self.file.name) for row in own]
            rows += own
            if place % every == every // 2:
                shown.append(scorer.show(scan, [row for row in own if isfinite(row.held_out) or isfinite(row.risk)]))
        return rows, shown, parts

    def _images(self, method: _Measured) -> Iterator[tuple[Tensor, ScanMeta]]:
        """Images of all slices, of all their samples."""
        for scan in self._scans(range(self.info.slices)):
            image = magnitude(method(scan.batch())[0], scan) * scan.meta.scale
            check_finite(image, scan, "Leave this file out")
            yield image, scan.meta

    def _outputs(self, choice: Choice | None) -> Outputs:
        """Names of the images, and what they say of how they came about."""
        made = Provenance("zeroshot", "", "", "")
        if choice is not None:
            networks = {START: self.start, NETWORK: self.run, MIXTURE: self.run}
            network = networks.get(choice.label)
            weights = "none" if network is None else file_digest(network.weights)
            known = {name: self.record.get(name) for name in ("settings", "classical", "mixture")}
            settings = hashlib.sha256(json.dumps(known).encode()).hexdigest()
            made = Provenance(f"zero-shot {choice.label}", weights, settings, self.config.sampling.in_words())
        return Outputs(self.info, self.out, self.options.formats, made)
