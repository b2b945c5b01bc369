"""Training and trained runs in Python: what ``sansref train`` and ``sansref reconstruct`` do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import Tensor

from sansref.commands.denoised import denoised, with_samples
from sansref.commands.error_map import MappedSlice, mapped_slice, options_for
from sansref.commands.output_files import Format
from sansref.commands.reconstruct import (
    Accelerator,
    reconstruct_slices,
    usable_device,
    whole_files,
    whole_volume,
    with_file_noise,
)
from sansref.commands.zero_shot import DEFAULTS, DENOISING, ZeroShot, ZeroShotOptions
from sansref.commands.zero_shot import zero_shot as run_zero_shot
from sansref.data.prepare import Preparation
from sansref.data.readers import FileInfo
from sansref.errors import SettingError
from sansref.kspace.measurement import Measurement
from sansref.machine import device_of
from sansref.methods import Needs
from sansref.metrics.contradiction import Region
from sansref.metrics.error_bound import Estimated
from sansref.metrics.error_maps import ErrorMapOptions
from sansref.results.scorer import magnitude
from sansref.scan import Scan, ScanMeta
from sansref.training import train as training
from sansref.training.config import RunConfig
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


class MappedImages(NamedTuple):
    """The slices of a file, and where they may be wrong, found without a reference.

    An error bound is no map of errors: read its height, not its pattern. Neither map can see what only samples never
    acquired carry, errors in the center of k-space, of coil maps, of motion and of scale; see ``docs/error-maps.md``.

    Attributes
    ----------
    images, metas
        As in :class:`Images`.
    error_bound
        The error of a magnitude stays below it in the wanted share of the pixels; float32 (slices, height, width), in
        the units of the file.
    contradiction
        Standard deviations by which acquired samples that were held out want more signal than the image has, or less;
        float32 (slices, height, width), 0 outside the body.
    psnr
        The estimated PSNR of each slice in dB: ``value``, ``low`` and ``high``, an interval of 95 %. None for slices
        without any signal.
    regions
        The regions of each slice where the contradiction reaches 5 standard deviations, the strongest first: ``row``,
        ``column``, ``pixels``, ``z`` and ``meaning``.
    """

    images: Tensor
    metas: tuple[ScanMeta, ...]
    error_bound: Tensor
    contradiction: Tensor
    psnr: tuple[Estimated | None, ...]
    regions: tuple[tuple[Region, ...], ...]


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

    def __repr__(self) -> str:
        return f"<{self.run.config().method}, trained in {self.run.path}>"

    def reconstruct(
        self, file: str | Path, array: str | None = None, axes: str | None = None, maps: str | None = None
    ) -> Images:
        """Reconstruct all slices of a file at full size, as the command ``sansref reconstruct`` does.

        Parameters
        ----------
        file
            A scan of any format that is read. Full k-space and magnitude images are undersampled first, as the run's
            settings say; k-space that is undersampled already is used as it is.
        array, axes
            How a file of arrays is read, where it is another way than that of the run's training data.
        maps
            Coil maps: a file, or a folder of files that are named as the scans are; ``none`` always estimates them, and
            None takes those in the scan's own file, if any.

        Returns
        -------
        Images
            Slices without any signal are zero. Of a run that learned to denoise, those that the command names
            ``_denoised``: without noise, but where more than noise would go.

        Raises
        ------
        FileError
            If the file cannot be read.
        """
        path, recipe = Path(file), whole_files(self._recipe, array, axes, maps)
        info = recipe.describe(path)
        if self._method.denoises:
            return Images(*_volume(self._without_noise(recipe, info), info))
        return Images(*_volume(reconstruct_slices(self._method, recipe, path, self._device), info))

    def _without_noise(self, recipe: Preparation, info: FileInfo) -> Iterator[tuple[Tensor, ScanMeta]]:
        for scan in with_file_noise(recipe, info):
            image = denoised(self._method.reconstruct, scan, self._device).image.cpu()
            yield magnitude(image, scan) * scan.meta.scale, scan.meta

    def error_maps(
        self,
        file: str | Path,
        bound: float = 0.9,
        array: str | None = None,
        axes: str | None = None,
        maps: str | None = None,
    ) -> MappedImages:
        """Reconstruct all slices of a file and say where they may be wrong, as ``sansref reconstruct --error_map``.

        Takes 20 reconstructions a slice. A reference that the file may have is not looked at.

        Parameters
        ----------
        file, array, axes, maps
            As for :meth:`reconstruct`.
        bound
            Share of the pixels whose error is to stay below the bound.

        Returns
        -------
        MappedImages
            Images of a run that learned to denoise are those of :meth:`reconstruct`.

        Raises
        ------
        FileError
            If the file cannot be read, leaves out whole rows, or has too few samples to hold any out.
        SettingError
            For an impossible bound, and for a run that no error maps can be made of.
        """
        config = self.run.config()
        options = options_for(self._method, config, ErrorMapOptions(bound), "take reconstruct")
        path, recipe = Path(file), whole_files(self._recipe, array, axes, maps)
        info = recipe.describe(path)
        found: dict[int, MappedSlice] = {}

        def reconstruct(given: Measurement) -> Tensor:
            return self._method.reconstruct(given.to(self._device)).cpu()

        def left_alone(scan: Scan) -> bool:
            return self._method.denoises and denoised(self._method.reconstruct, scan, self._device).left_alone

        def layers() -> Iterator[tuple[Tensor, ScanMeta]]:
            for scan in with_file_noise(recipe, info):
                how = with_samples(reconstruct) if left_alone(scan) else reconstruct
                one = mapped_slice(how, scan, config.sampling.family(scan.meta.emulated), options)
                found[scan.meta.slice] = one
                yield one.layers, scan.meta

        volume, metas = _volume(layers(), info)
        told = [found.get(meta.slice) for meta in metas]
        psnr = tuple(one and one.psnr for one in told)
        return MappedImages(
            volume[:, 0], metas, volume[:, 1], volume[:, 2], psnr, tuple(one.regions if one else () for one in told)
        )


def _volume(images: Iterable[tuple[Tensor, ScanMeta]], info: FileInfo) -> tuple[Tensor, tuple[ScanMeta, ...]]:
    """All slices of a file in their order, zeros for those without any signal, in its units."""
    slices = sorted(whole_volume(images, info), key=lambda one: one[1].slice)
    return torch.stack([image for image, _ in slices]), tuple(replace(meta, scale=1.0) for _, meta in slices)


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


def zero_shot(
    file: str | Path,
    out: str | Path,
    *,
    method: str = "idr",
    minutes: float | None = 10.0,
    start: str | Path = "auto",
    formats: Sequence[Format] = ("source",),
    error_map: bool = False,
    bound: float = 0.9,
    quiet: bool = False,
    **settings: Any,
) -> ZeroShot:
    """Reconstruct one undersampled scan by what is learned from it alone, as the command ``sansref zeroshot`` does.

    The same call goes on where a killed one was, and gives what is finished at once.

    Parameters
    ----------
    file
        A scan of any format that is read. Full k-space and magnitude images are undersampled first, unless noise is to
        be taken out (``denoise=True``).
    out
        Folder for images, ``scores.csv``, ``report.html`` and the run, new or of the same settings.
    method
        Name of the method: idr, idr_paper or ssdu, or module:Class for one of your own.
    minutes
        Time for the training of the network; None trains for as many epochs as ``epochs`` says.
    start
        Weights to begin with: shipped, those of the package; the folder of a run; none; or auto, the shipped ones
        where the network is theirs.
    formats
        Formats of the images.
    error_map
        Write maps of where the images may be wrong beside them.
    bound
        Share of the pixels whose error is to stay below the bound of these maps.
    quiet
        Draw no progress.
    settings
        As for :func:`train`.

    Returns
    -------
    ZeroShot
        ``choice`` says which images were written and why, ``images`` where they are; ``scores`` has the error of each
        method and slice on held-out samples.

    Raises
    ------
    SansrefError
        For unusable files or settings.
    """
    _refuse_config(settings)
    denoises = any(settings.get(name) for name in ("denoise", "method.denoise"))
    defaults = {**DEFAULTS, **DENOISING} if denoises else DEFAULTS
    config = RunConfig.from_values({"method": method}).changed(**defaults).changed(**settings)
    maps = ErrorMapOptions(bound) if error_map else None
    options = ZeroShotOptions(minutes, start, tuple(formats), maps)
    return run_zero_shot(config, Path(file), Path(out), options, Console(quiet=True) if quiet else None)


def train(
    method: str,
    data: str | Path,
    out: str | Path,
    *,
    full: str | Path | None = None,
    skip_bad: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> Model:
    """Train a method on a folder of scans, as the command ``sansref train`` does.

    The same call goes on where a killed one was, and gives a run that is finished at once.

    Parameters
    ----------
    method
        Name of the method, or module:Class for one of your own.
    data
        Folder of scans, or one file.
    out
        The run directory, new or of a run with the same settings.
    full
        Folder of full scans of other people, for a method that learns from unpaired scans.
    skip_bad
        Leave unreadable files out, and tell in the run's log; False stops at the first.
    quiet
        Draw no progress.
    settings
        By their names on the command line, such as ``epochs=3``; a group may stand by its name, as in
        ``network={"phases": 5}``.

    Returns
    -------
    Model
        As :func:`load` gives it.

    Raises
    ------
    SansrefError
        For unusable files or settings, or if training fails.

    Examples
    --------
    >>> import numpy
    >>> numpy.save("volume.npy", numpy.random.default_rng(0).random((4, 32, 32)))
    >>> model = train("ssdu", "volume.npy", "run", epochs=1, network={"phases": 1}, accelerator="cpu", quiet=True)
    >>> model
    <ssdu, trained in run>
    >>> model.reconstruct("volume.npy").images.shape
    torch.Size([4, 32, 32])
    """
    _refuse_config(settings)
    config = RunConfig.from_values({"method": method}).changed(**settings)
    console = Console(quiet=True) if quiet else None
    others, trust_code = None if full is None else Path(full), ":" in method
    try:
        run = training.train(config, Path(data), Path(out), skip_bad, console, others).run
    finally:
        if config.needs is Needs.UNPAIRED:
            from sansref.results.health_figure import draw_health

            draw_health(Path(out))
    return Model(RunDirectory(run.path, trust_code), device_of(config.machine.accelerator))


def _refuse_config(settings: Mapping[str, Any]) -> None:
    """Say how a file of settings, which commands take by ``--config``, is given in Python."""
    if "config" in settings:
        cure = "give the settings of the file by their names, such as acceleration=4"
        raise SettingError(f"there is no setting 'config' in Python: {cure}")
