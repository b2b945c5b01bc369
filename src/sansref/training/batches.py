"""What the loop is fed with: training batches and validation items."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from sansref.data.scan_store import ArrayStore
from sansref.errors import SettingError
from sansref.kspace.masks.family import MaskFamily, remembered
from sansref.kspace.measurement import VIEWS, Measurement
from sansref.methods import Draw, KspaceExample, Method, Sample
from sansref.metrics.held_out import held_out_mask, reachable
from sansref.randomness import seeded
from sansref.scan import Scan

Shape = TypeVar("Shape", bound=tuple[int, ...])


class UnpairedScans(Sequence[Scan]):
    """Undersampled scans, and full scans of other people beside them.

    Parameters
    ----------
    undersampled, full
        Both halves.
    undersampled_shapes, full_shapes
        Height and width of every scan.

    Raises
    ------
    SettingError
        If an undersampled scan has no full one of its size.
    """

    def __init__(
        self,
        undersampled: Sequence[Scan],
        undersampled_shapes: Sequence[tuple[int, int]],
        full: Sequence[Scan],
        full_shapes: Sequence[tuple[int, int]],
    ) -> None:
        self._undersampled, self._shapes, self._full = undersampled, undersampled_shapes, full
        self._of_shape = _by_shape(full_shapes)
        # Counted among scans of one shape: every second of all scans would meet only every second full one.
        groups = _by_shape(undersampled_shapes).values()
        self._rank = {item: rank for group in groups for rank, item in enumerate(group)}
        for height, width in set(undersampled_shapes) - self._of_shape.keys():
            found = ", ".join(f"{rows}x{columns}" for rows, columns in sorted(self._of_shape))
            raise SettingError(
                f"undersampled scans of {height}x{width} have no full scans of their size beside them, only {found}:"
                " bring all to one size with --matrix or --crop"
            )

    def __len__(self) -> int:
        return len(self._undersampled)

    def __getitem__(self, item: int) -> Scan:  # type: ignore[override]
        return self._undersampled[item]

    def companion(self, item: int, draw: Draw) -> Scan:
        """The full scan that scan ``item`` meets in an epoch; each is met as often as any other."""
        candidates = self._of_shape[self._shapes[item]]
        order = torch.randperm(len(candidates), generator=seeded(draw.seed, "companions", draw.epoch))
        return self._full[candidates[int(order[self._rank[item] % len(candidates)])]]


class ExampleSet(Dataset[list[Any]]):
    """The examples a method makes of its training scans.

    Parameters
    ----------
    method
        Makes the examples.
    scans
        The training scans.
    seed
        Of the method's random streams.
    repeats
        Visits to each scan per epoch.
    targets
        Refined k-space of every scan, or None in a first stage.
    mirror
        Show each example from one of the :data:`~sansref.kspace.measurement.VIEWS`, by chance.
    """

    def __init__(
        self,
        method: Method,
        scans: Sequence[Scan],
        seed: int,
        repeats: int,
        targets: ArrayStore | None,
        mirror: bool = False,
    ) -> None:
        self._method = method
        self._scans = scans
        self._seed = seed
        self._repeats = repeats
        self._targets = targets
        self._mirror = mirror
        self.epoch = 0

    def __len__(self) -> int:
        return len(self._scans) * self._repeats

    def __getitem__(self, index: int) -> list[Any]:
        visit, item = divmod(index, len(self._scans))
        draw = Draw(self._seed, self.epoch * self._repeats + visit, item)
        refined = None if self._targets is None else self._targets[item]
        full = self._scans.companion(item, draw) if isinstance(self._scans, UnpairedScans) else None
        examples = self._method.examples(Sample(self._scans[item], refined, full), draw)
        return [self._seen(example, draw) for example in examples] if self._mirror else examples

    def _seen(self, example: KspaceExample, draw: Draw) -> KspaceExample:
        view = VIEWS[int(torch.randint(len(VIEWS), (), generator=seeded(draw.seed, "view", draw.item, draw.epoch)))]
        return example.seen(view)


class ShapeBatches(Sampler[list[int]]):
    """Shuffled batches whose scans all have one shape.

    Parameters
    ----------
    shapes
        What every item has of its own, such as coils, sets of maps, height and width.
    batch_size
        Items per batch; the last batch of a shape may be smaller.
    seed
        Of the order, which changes with ``epoch``.
    rank, processes
        Which of how many processes this is; they share out each batch, so that no item is met twice.

    Raises
    ------
    SettingError
        If a batch has not an item for every process.
    """

    def __init__(
        self, shapes: Sequence[tuple[int, ...]], batch_size: int, seed: int, rank: int = 0, processes: int = 1
    ) -> None:
        if batch_size < processes:
            raise SettingError(
                f"a batch of {batch_size} is too small for {processes} processes: raise --batch_size, which counts the"
                " scans of all of them"
            )
        self._groups = list(_by_shape(shapes).values())
        self._size = batch_size
        self._seed = seed
        self._rank = rank
        self.processes = processes
        self.epoch = 0

    def __len__(self) -> int:
        return sum(-(-len(group) // self._size) for group in self._groups)

    def __iter__(self) -> Iterator[list[int]]:
        """What this process has of each batch; where nothing is left for it, an item that :meth:`shares` count as 0."""
        for batch in self.whole():
            yield batch[self._rank :: self.processes] or batch[:1]

    def shares(self) -> list[float]:
        """Of each batch of this epoch, the items of this process over the mean of all processes.

        The mean over processes of share x mean over the process's own items is the mean over the whole batch.
        """
        sizes = [len(batch) for batch in self.whole()]
        return [self.processes * len(range(self._rank, size, self.processes)) / size for size in sizes]

    def whole(self) -> Iterator[list[int]]:
        """The batches of all processes together."""
        generator = seeded(self._seed, "order", self.epoch)
        batches = []
        for group in self._groups:
            order = torch.tensor(group)[torch.randperm(len(group), generator=generator)].tolist()
            batches += [order[start : start + self._size] for start in range(0, len(order), self._size)]
        for position in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[position]


def _by_shape(shapes: Sequence[Shape]) -> dict[Shape, list[int]]:
    groups: dict[Shape, list[int]] = defaultdict(list)
    for index, shape in enumerate(shapes):
        groups[shape].append(index)
    return dict(groups)


class ValidationItem(NamedTuple):
    """A scan with some acquired samples held out, as a batch of one.

    Attributes
    ----------
    given
        The network's input, without the held-out samples.
    measured
        All acquired k-space, complex64 (1, coils, height, width).
    held_out
        bool (1, height, width).
    density
        Probability of acquisition, float32 (height, width).
    reference
        complex64 (1, height, width), None unless validation against references was asked for.
    """

    given: Measurement
    measured: Tensor
    held_out: Tensor
    density: Tensor
    reference: Tensor | None

    def to(self, device: torch.device) -> ValidationItem:
        """The same on another device."""
        return ValidationItem(*(None if value is None else value.to(device) for value in self))  # type: ignore[arg-type]


class ValidationSet(Dataset[ValidationItem]):
    """Scans with a fixed share of their acquired samples held out.

    Parameters
    ----------
    scans
        Validation scans.
    family
        Knows the sampling density.
    fraction
        Share of the acquired samples outside the center that is held out.
    seed
        Of the choice, the same in every epoch and stage.
    spare_full
        Hold nothing out of full scans, see :func:`~sansref.metrics.held_out.held_out_mask`.
    """

    def __init__(
        self, scans: Sequence[Scan], family: MaskFamily, fraction: float, seed: int, spare_full: bool = False
    ) -> None:
        self._spare_full = spare_full
        self._scans = scans
        self._family = family
        self._fraction = fraction
        self._seed = seed

    def __len__(self) -> int:
        return len(self._scans)

    def __getitem__(self, item: int) -> ValidationItem:
        scan = self._scans[item]
        held_out = held_out_mask(scan, self._fraction, self._seed, item, self._spare_full)
        given, density = scan.restricted(~held_out), self._family.density(scan.mask)
        return ValidationItem(
            given.batch(),
            scan.kspace[None],
            held_out[None],
            density * reachable(scan, density),
            None if scan.reference is None else scan.reference[None],
        )


REMEMBERED = 4096
"""Masks that are kept in memory, at most."""


class WithoutHeldOut(Sequence[Scan]):
    """Training scans without the samples that :class:`ValidationSet` holds out of the same scans."""

    def __init__(self, scans: Sequence[Scan], fraction: float, seed: int, spare_full: bool = False) -> None:
        self._spare_full = spare_full
        self._scans = scans
        self._fraction = fraction
        self._seed = seed
        self._kept: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._scans)

    def __getitem__(self, item: int) -> Scan:  # type: ignore[override]
        scan = self._scans[item]

        def kept() -> Tensor:
            return ~held_out_mask(scan, self._fraction, self._seed, item, self._spare_full)

        return scan.restricted(remembered(self._kept, item, kept, REMEMBERED))
