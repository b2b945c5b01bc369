"""One trained run that all clients share."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from sansref.commands.reconstruct import Accelerator, Job, Worker, reconstruct_scan
from sansref.data.mrd.assemble import assemble
from sansref.data.mrd.header import MrdHeader
from sansref.data.provenance import Provenance
from sansref.errors import FileError
from sansref.scan import Scan, ScanMeta
from sansref.serving.gathering import Work
from sansref.serving.images import Reconstruction
from sansref.serving.options import Limits
from sansref.serving.turns import Turns
from sansref.training.run import RunDirectory


class Engine:
    """A trained method that reconstructs the images of all clients, who take turns.

    The network exists once, and the memory that an image takes on its way twice, however many clients there are.

    Parameters
    ----------
    run
        A finished run.
    accelerator
        Where its networks work.
    most_seconds
        That one image may take.

    Raises
    ------
    FileError
        If the run cannot be used.
    SettingError
        If there is no GPU where one is asked for.
    """

    def __init__(
        self, run: RunDirectory, accelerator: Accelerator = "auto", most_seconds: float = Limits.max_seconds
    ) -> None:
        self._worker = Worker(Job(run, run.path, accelerator=accelerator))
        self._turns = Turns(most_seconds)

    @property
    def made(self) -> Provenance:
        """What the images say of how they came about."""
        return self._worker.made

    @property
    def device(self) -> torch.device:
        """Where the networks work."""
        return self._worker.device

    def reconstruct(
        self, source: str, header: MrdHeader, work: Work, number: int, wanted: Callable[[], bool] = lambda: True
    ) -> Reconstruction:
        """Wait for the turn of an image, and reconstruct it.

        Parameters
        ----------
        source
            Who sent it, for errors.
        header
            Of the measurement.
        work
            Its lines.
        number
            Of the image in the measurement, from 0.
        wanted
            Asked again and again whether somebody still waits for it.

        Raises
        ------
        ClientError
            If it takes too long.
        UnwantedError
            If nobody waits any more.
        FileError
            If the lines cannot be an image, or not one that the method can reconstruct.
        """
        return self._turns.run(work.units, lambda: self._reconstruct(source, header, work, number), wanted)

    def close(self) -> None:
        """Wait for the images in work."""
        self._turns.close()

    def _reconstruct(self, source: str, header: MrdHeader, work: Work, number: int) -> Reconstruction:
        start = time.monotonic()
        meta = ScanMeta(header.subject or "unknown", source, slice=number)
        images: list[torch.Tensor] = []
        first = None
        for measured in assemble(source, header, work.group.lines, meta, work.whitening, work.group.others):
            scan = self._ready(measured)
            images.append(reconstruct_scan(self._worker.method, scan, self._worker.device))
            first = first or scan
        assert first is not None, "lines without an image are refused"
        slices = torch.stack(images)
        if not slices.isfinite().all():
            raise FileError(
                source, "was reconstructed to NaN or infinite values", "Check the run with 'sansref evaluate'"
            )
        return Reconstruction(slices, first.acceleration, first.meta, time.monotonic() - start)

    def _ready(self, scan: Scan) -> Scan:
        ready = self._worker.recipe.ready(scan)
        if ready is None:
            raise FileError(scan.meta.source, "sent lines without any signal", "Check the measurement")
        return ready
