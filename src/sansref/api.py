"""A trained run in Python: ``sansref.load("runs/x").reconstruct("scan.h5")``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sansref.commands.reconstruct import (
    Accelerator,
    reconstruct_slices,
    usable_device,
    whole_files,
    whole_volume,
)
from sansref.data.readers import open_scan_file
from sansref.scan import ScanMeta
from sansref.training.run import RunDirectory


class Images(NamedTuple):
    """The slices of a file.

    Attributes
    ----------
    images
        Magnitudes, float32 (slices, height, width), in the units of the file.
    metas
        Where each slice comes from: file, index, pixel spacing, place in the patient.
    """

    images: Tensor
    metas: tuple[ScanMeta, ...]


class Model:
    """A trained method, as :func:`load` gives it.

    Attributes
    ----------
    run
        The run directory.
    """

    def __init__(self, run: RunDirectory, device: torch.device) -> None:
        self.run, self._device = run, device
        self._method = run.load().to(device)
        self._recipe = run.config().preparation

    def reconstruct(
        self, file: str | Path, array: str | None = None, axes: str | None = None, maps: str | None = None
    ) -> Images:
        """Reconstruct all slices of a file at full size, as the command ``sansref reconstruct`` does.

        Parameters
        ----------
        file
            A scan of any format that is read. Full k-space and magnitude images are undersampled first, as in training;
            k-space that is undersampled already is used as it is.
        array, axes
            How a file of arrays is read, where it is another way than that of the run's training data.
        maps
            Coil maps: a file, or a folder of files that are named as the scans are; ``none`` always estimates them, and
            None takes those in the scan's own file, if any.

        Returns
        -------
        Images
            Slices without any signal are zero.

        Raises
        ------
        FileError
            If the file cannot be read.
        """
        path, recipe = Path(file), whole_files(self._recipe, array, axes, maps)
        info = open_scan_file(path, recipe.slices.reader_options).describe(path)
        images = reconstruct_slices(self._method, recipe, path, self._device)
        slices = sorted(whole_volume(images, info), key=lambda one: one[1].slice)
        return Images(
            torch.stack([image for image, _ in slices]), tuple(replace(meta, scale=1.0) for _, meta in slices)
        )


def load(run: str | Path, accelerator: Accelerator = "auto", trust_code: bool = False) -> Model:
    """Load a trained run.

    Parameters
    ----------
    run
        Directory that ``sansref train`` has written.
    accelerator
        Where the network works; auto takes a GPU if there is one.
    trust_code
        Import the method that the run names by module:Class; what stands in that module is executed.

    Raises
    ------
    FileError
        If the run cannot be used.
    SettingError
        If there is no GPU where one is asked for.
    """
    return Model(RunDirectory(Path(run), trust_code), usable_device(accelerator))
