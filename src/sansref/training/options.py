"""Settings of a training run, apart from the method's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sansref.errors import SettingError
from sansref.training.hints import checked

MACHINE_SETTINGS = frozenset({"workers", "threads", "accelerator", "devices", "num_nodes"})
"""What says where a run is trained and not what it learns: the numbers agree to rounding whatever they are."""


@dataclass(frozen=True)
class TrainingOptions:
    """Training and model selection.

    Attributes
    ----------
    epochs
        Passes over the training scans, at most; in each stage, for a method with stages.
    repeats
        Visits to each scan per pass, each with a new partition; for training on very few scans.
    mirror
        Show a scan mirrored or as its complex conjugate, each choice by chance, instead of as it is; for methods that
        learn from k-space.
    batch_size
        Scans per step, of all processes together: the same whatever number of them shares the work.
    learning_rate
        At the start of training; see schedule.
    optimizer
        adam, or radam (rectified Adam).
    schedule
        cooldown: lower the learning rate with every step during the last 30 % of all stages together, to almost zero;
        linear: so from the beginning; plateau: lower it when the validation score stops falling, in each stage anew.
        Stages that start from new weights have the schedule for themselves.
    plateau_factor
        Multiply the learning rate by this when the validation score stops falling.
    plateau_patience
        Epochs without a better score before that happens.
    patience
        Epochs without a better score before a stage ends, with keep best and the plateau schedule; the others run to
        their end.
    keep
        The weights of the epoch with the best validation score (best), or those at the end (last); of a method with
        stages, those of the stage with the best score.
    average_from
        Use the mean of the weights over all steps after this share of them (stochastic weight averaging); null uses
        the weights as they are. In adversarial training, the generators' weights.
    lookahead
        Every so many steps, draw the weights of discriminators and noise extractor back half-way to where they were
        that many steps ago (Lookahead); 0 switches it off.
    validation
        Share of the subjects kept for validation; a single subject is validated on held-out samples of its
        own scans.
    test
        Share of the subjects never read, neither for training nor for validation.
    folds
        Cross-validation: divide the subjects into so many parts and set one aside as test; 0 uses --test instead.
    fold
        Which of them, from 0.
    held_out
        Share of a validation scan's acquired samples held out from the network's input for the reference-free
        score.
    score
        What drives learning rate, early stop and best model: the reference-free score (held_out), or the NMSE
        against full references (reference), which imitates the literature and needs them.
    snapshots
        Keep the weights of every epoch, to study how training went.
    seed
        Of everything random: splits, simulation, partitions, weights.
    data_seed
        Of splits and simulation alone, to repeat a training on the same data; null takes the seed.
    workers
        Processes that make batches; 0 makes them in the main process.
    threads
        CPU threads; 0 leaves PyTorch's choice.
    accelerator
        auto, cpu, gpu, ... as Lightning Fabric names them.
    devices
        Processes per machine, each with a GPU or its share of the cores, that train together.
    num_nodes
        Machines that train together, see docs/cluster.md.
    precision
        Precision of the network, as Lightning Fabric names it; transforms are always float32.
    """

    epochs: int = 20
    repeats: int = 1
    mirror: bool = False
    batch_size: int = 4
    learning_rate: float = 1e-3
    optimizer: Literal["adam", "radam"] = "adam"
    schedule: Literal["plateau", "linear", "cooldown"] = "cooldown"
    plateau_factor: float = 0.3
    plateau_patience: int = 5
    patience: int = 10
    keep: Literal["best", "last"] = "best"
    average_from: float | None = None
    lookahead: int = 6
    validation: float = 0.15
    test: float = 0.0
    folds: int = 0
    fold: int = 0
    held_out: float = 0.1
    score: Literal["held_out", "reference"] = "held_out"
    snapshots: bool = False
    seed: int = 0
    data_seed: int | None = None
    workers: int = 0
    threads: int = 0
    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "64-true"] = "32-true"

    @property
    def processes(self) -> int:
        """That train together, on all machines."""
        return self.devices * self.num_nodes

    def score_decides(self, stages: int) -> bool:
        """Whether the validation score has a say in what a method of so many stages learns, or in what is kept."""
        return self.keep == "best" or self.schedule == "plateau" or stages > 1

    @property
    def seed_of_data(self) -> int:
        """Of splits and simulation."""
        return self.seed if self.data_seed is None else self.data_seed

    def __post_init__(self) -> None:
        for name in ("epochs", "repeats", "batch_size", "plateau_patience", "patience", "devices", "num_nodes"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("workers", "threads", "lookahead", "folds"):
            if getattr(self, name) < 0:
                raise SettingError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name in ("seed", "data_seed"):
            checked(name, getattr(self, name), int | None)
        if self.fold > 0 and self.folds == 0:
            raise SettingError(f"fold {self.fold} of how many? give --folds too")
        for name in ("held_out", "plateau_factor"):
            if not 0 < getattr(self, name) < 1:
                raise SettingError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        if self.average_from is not None and not 0 <= self.average_from < 1:
            raise SettingError(f"average_from must lie in [0, 1), or be null, got {self.average_from}")
        if not self.learning_rate > 0:
            raise SettingError(f"learning_rate must be positive, got {self.learning_rate}")
