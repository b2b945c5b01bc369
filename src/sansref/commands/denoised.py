"""Reconstructions without noise beside those that keep it, with the proof that structure stayed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import fsum
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from sansref.commands.output_files import DENOISED, DENOISED_PAGE, Outputs, check_finite, write_images
from sansref.data.placement import for_people
from sansref.errors import SettingError
from sansref.kspace.measurement import Measurement
from sansref.kspace.noise import noise_of
from sansref.methods.classical.non_local_means import non_local_means
from sansref.metrics.held_out import Reconstruct
from sansref.metrics.sure import VISIBLE, Sure, sure
from sansref.randomness import seeded
from sansref.results.scorer import magnitude, zero_filled
from sansref.results.viewer.contents import SHOWN, Contents, ViewerSlice
from sansref.results.viewer.page import write_page
from sansref.scan import Scan, ScanMeta

KEPT = "The acquired samples are kept as they were measured, with their noise."
"""What is said of the image beside the denoised one."""

LEARNED = "what was learned from noisy scans alone (Recorrupted-to-Recorrupted)"
"""How a trained method takes noise out."""

PROBES = 2
"""How many times SURE probes each slice; the difference of two probes tells the part of chance."""

STRENGTHENED = 5
"""How many times the difference of both images is shown."""

RECONSTRUCTIONS = 3 + 2 * PROBES
"""How many a slice takes at most, see :func:`denoised`."""

WORTH = 0.8
"""Share of the measured error: where denoising leaves more than this, nothing is said of it."""

CHANCE = 3.0
"""Standard errors below 0 from which on an estimated error is told to be too low: no error is negative."""

CLEAN, HARD = "denoised", "with its noise"
DIFFERENCE = f"{STRENGTHENED} times the difference"
"""What pages call the images."""

MEANING = (
    "Noise kept and structure lost are those of Stein's unbiased risk estimate on the acquired samples, over the noise "
    "of the measured image: it knows no reference. Where both together are not below 1, or cannot be told, the slice "
    "is left alone."
)
WATCH = (
    f"The difference should look like noise alone. Where it is {VISIBLE:g} standard deviations stronger, structure "
    "shows in it: see the overlay 'structure lost'."
)
"""What a page says of them."""


def taken_out(how: str) -> str:
    """What is said of a denoised image; ``how`` is a noun."""
    return (
        f"Noise was taken out by {how}: acquired samples are not kept as they were measured, and faint structure may be"
        " lost."
    )


@dataclass(frozen=True)
class Denoised:
    """One slice, with its noise and without.

    Attributes
    ----------
    hard
        The reconstruction with the acquired samples put back, complex (height, width): of a full scan, as measured.
    image
        The one without noise, complex (height, width); ``hard`` where ``left_alone``.
    left_alone
        Denoising takes more structure than noise: by SURE, its error is not below that of ``hard``, or cannot be told.
    proof
        SURE of the denoised image, whether it was taken or not.
    measured
        The risk of ``hard`` by SURE: 1 for one coil. An image of several coils passes on less of their noise, since
        samples of one coil are told by the others too.
    """

    hard: Tensor
    image: Tensor
    left_alone: bool
    proof: Sure
    measured: float = 1.0

    @property
    def kept(self) -> float:
        """Noise that is still there, of 1 as measured; of an error that is less than what probes tell, all of it."""
        return max(min(self.proof.kept, self.proof.risk), 0.0) / self.measured if self.measured > 0 else 1.0

    @property
    def lost(self) -> float:
        """Structure that is gone, the rest of the error, in the same unit."""
        return max(self.proof.risk - self.proof.kept, 0.0) / self.measured if self.measured > 0 else 0.0

    def numbers(self) -> Denoised:
        """The same without images and maps, to be kept for all slices of a file."""
        empty = torch.empty(0)
        seen = self.proof.seen.max().reshape(1)  # tells whether structure shows
        proof = replace(self.proof, kept_map=empty, lost_map=empty, seen=seen)
        return replace(self, hard=empty, image=empty, proof=proof)


def with_samples(reconstruct: Reconstruct) -> Reconstruct:
    """The same reconstruction with the acquired samples put back."""
    return lambda given: given.data_consistent(reconstruct(given))


@torch.inference_mode()
def denoised(
    reconstruct: Reconstruct,
    scan: Scan,
    device: torch.device | None = None,
    risk: float | None = None,
) -> Denoised:
    """Reconstruct a scan without its noise and, where the samples say that this does harm, with it.

    Parameters
    ----------
    reconstruct
        From samples (batch of one) to a complex image (1, height, width) whose samples are not imposed.
    scan
        The scan; where no noise is known or can be found in it, it is left alone.
    device
        Where the method works, None is the CPU.
    risk
        The error of the denoised image where it is known better than by SURE, which is too good for a network that has
        learned from this very scan.
    """
    given = scan.batch().to(device or torch.device("cpu"))
    image = reconstruct(given)
    hard, sigma = given.data_consistent(image)[0], noise_of(given)
    check_finite(image, scan)
    if not bool((sigma > 0).any()):
        nothing = torch.zeros_like(hard.real)
        return Denoised(hard, hard, True, Sure(1.0, 1.0, 0.0, 0.0, nothing, nothing, nothing))
    proof = sure(reconstruct, given, sigma, seeded("proof"), PROBES)
    if risk is not None:
        proof = replace(proof, risk=risk, lost=risk - proof.kept)
    measured = _as_measured(with_samples(reconstruct), given, sigma)
    # NaN is no proof, and an error below 0 tells of nothing but an estimate of the noise that is too high.
    left_alone = not (measured > 0 and proof.risk < measured)
    return Denoised(hard, hard if left_alone else image[0], left_alone, proof, measured)


def _as_measured(imposed: Reconstruct, given: Measurement, sigma: Tensor) -> float:
    """The risk of an image that keeps the acquired samples: 1 for one coil, less for several."""
    return 1.0 if given.maps is None else sure(imposed, given, sigma, seeded("proof")).risk


def told(found: Sequence[Denoised]) -> str:
    """What denoising did to the slices of a file, in one line."""
    kept, lost = (fmean(getattr(one, name) for one in found) for name in ("kept", "lost"))
    alone = sum(one.left_alone for one in found)
    left = (
        f"; {alone} of {len(found)} slices left alone, where nothing shows that more is gained than lost"
        if alone
        else ""
    )
    return f"noise kept {kept:.2f}, structure lost {lost:.2f}, of 1 as measured{left}"


def warned(found: Sequence[tuple[ScanMeta, Denoised]]) -> str:
    """Which slices show structure in their difference, in one line; empty for none."""
    seen = [meta.slice for meta, one in found if not one.left_alone and one.proof.shows_structure]
    if not seen:
        return ""
    slices = ", ".join(map(str, seen[:10])) + (", ..." if len(seen) > 10 else "")
    return f"warning: structure shows in what was taken away, in {len(seen)} of {len(found)} slices ({slices})"


def too_good(found: Sequence[Denoised]) -> str:
    """A warning in one line where the estimated errors of a file are further below 0 than chance; empty elsewhere."""
    risk = fmean(one.proof.risk for one in found)
    doubt = fsum(one.proof.doubt**2 for one in found) ** 0.5 / len(found)
    if not risk < -CHANCE * doubt:
        return ""
    return f"warning: these numbers are too low, by {-risk:.2f} or more: the noise is weaker than was estimated"


def notes_of(found: Sequence[tuple[ScanMeta, Denoised]]) -> Iterator[str]:
    """What is to be told of the noise of slices, a line each."""
    numbers = [one for _, one in found]
    yield told(numbers)
    yield from filter(None, (warned(found), too_good(numbers)))


def shown_slice(found: Denoised, scan: Scan, label: str = CLEAN) -> ViewerSlice:
    """A slice of the viewer: the denoised image, called ``label``, its difference, and the one that keeps its noise."""
    turned = partial(for_people, geometry=scan.meta.geometry)
    clean, hard = found.image.cpu(), found.hard.cpu()
    images = {label: clean, DIFFERENCE: STRENGTHENED * (clean - hard), HARD: hard}  # the last one sets the grey scale
    numbers = {"noise kept": f"{found.kept:.2f}", "structure lost": f"{found.lost:.2f}"}
    told = ", ".join(f"{name} {value}" for name, value in numbers.items())
    if found.left_alone:
        numbers["left alone"] = "yes"
    elif found.proof.shows_structure:
        numbers["structure in the difference"] = "yes"
    lost = turned(magnitude(found.proof.seen.clamp(min=0).cpu(), scan)).numpy()
    return ViewerSlice(
        scan.meta.subject,
        scan.meta.slice,
        "",
        None,
        {name: turned(magnitude(image, scan)).numpy() for name, image in images.items()},
        {label: told},
        {label: numbers},
        scan.mask.numpy(),
        maps={label: {"structure_lost": lost}},
    )


def _joined(own: ViewerSlice, other: ViewerSlice) -> ViewerSlice:
    rest = {name: image for name, image in other.images.items() if name not in own.images}
    details = {name: {**other.details.get(name, {}), **numbers} for name, numbers in own.details.items()}
    return replace(
        other,
        images={**own.images, **rest},
        captions={**other.captions, **own.captions},
        details={**other.details, **details},
        maps={**other.maps, **own.maps},
    )


def worth(scan: Scan) -> str:
    """What denoising would be worth to a full scan, as non-local means have it, in a line; empty where it is little.

    Where errors are estimated to be below 0, which none is, the line warns of the estimate instead.
    """
    given = scan.batch()
    sigma = noise_of(given)
    if not bool((sigma > 0).any()):
        return ""
    try:
        found = sure(non_local_means, given, sigma, seeded("proof"))
    except SettingError:  # without the package that it needs
        return ""
    measured = _as_measured(zero_filled, given, sigma)
    if found.risk < -CHANCE * found.doubt or not measured > 0:
        return (
            "warning: what denoising is worth cannot be told, since errors by SURE are below 0: the noise is weaker "
            "than was estimated, or coils do not go with their maps"
        )
    left = max(found.risk, found.kept) / measured  # no structure that is lost is less than none
    if not left < WORTH:
        return ""
    return f"denoising is worth it, by SURE: non-local means leave {left:.0%} of the noise (--denoise true)"


class DenoisedFile:
    """Two images of each slice of a file, one that keeps the samples as they were measured and one without their noise.

    Whoever has a reconstruction and the scans of a file calls :meth:`slices`, gives what it yields, with the slices
    that are blank, to :meth:`write`, and prints :meth:`notes`.

    Parameters
    ----------
    outputs
        Names and formats of the images that keep the samples.
    how
        What takes the noise out, a noun; None where it stays.
    label
        What the page calls the image without noise.
    shown
        Numbers of the slices that it shows; a few of them all if none are given.
    """

    def __init__(
        self, outputs: Outputs, how: str | None = LEARNED, label: str = CLEAN, shown: Sequence[int] = ()
    ) -> None:
        begin, self.label = outputs.begin, label
        every = max(1, -(-outputs.info.slices // SHOWN))
        self._wanted = {*shown} or {*range(every // 2, outputs.info.slices, every)}
        self.outputs = replace(outputs, made=replace(outputs.made, noise=KEPT))
        noise = KEPT if how is None else taken_out(how)
        self.clean = replace(outputs, made=replace(outputs.made, noise=noise), name=f"{begin}{DENOISED}")
        self.page = outputs.out / f"{begin}{DENOISED_PAGE}"
        self.found: list[tuple[ScanMeta, Denoised]] = []
        self.shown: list[ViewerSlice] = []

    @property
    def complete(self) -> bool:
        """Whether both images are there."""
        return self.outputs.complete and self.clean.complete

    def paths(self) -> tuple[Path, ...]:
        """All files, those of the images with noise first."""
        return (*self.outputs.paths(), *self.clean.paths())

    def slices(
        self,
        reconstruct: Reconstruct,
        scans: Iterable[Scan],
        device: torch.device | None = None,
        risk: Callable[[Scan], float] | None = None,
    ) -> Iterator[tuple[Tensor, ScanMeta]]:
        """Reconstruct slices as they are wanted: pairs (2, height, width) of both images in the file's units.

        Arguments are those of :func:`denoised`.
        """
        for scan in scans:
            found = denoised(reconstruct, scan, device, None if risk is None else risk(scan))
            self.found.append((scan.meta, found.numbers()))
            if scan.meta.slice in self._wanted:
                self.shown.append(shown_slice(found, scan, self.label))
            pair = torch.stack([found.hard, found.image]).cpu()
            yield torch.stack([magnitude(one, scan) for one in pair]) * scan.meta.scale, scan.meta

    def write(self, images: Iterator[tuple[Tensor, ScanMeta]]) -> bool:
        """Write what :meth:`slices` yields; tells whether any slice was undersampled here."""
        return write_images((self.outputs, self.clean), images)

    def write_page(self, title: str, facts: Mapping[str, str]) -> None:
        """Write the page that shows both images of some slices, and what the noise tells of them."""
        lead, *warning = self.notes()
        page = Contents(title, f"{lead[0].upper()}{lead[1:]}.", [*warning, MEANING, WATCH], facts, slices=self.shown)
        write_page(self.page, page)

    def joined(self, others: Sequence[ViewerSlice]) -> list[ViewerSlice]:
        """Slices of other images with those of :attr:`shown` of the same number before them."""
        own = {one.number: one for one in self.shown}
        return [_joined(own[other.number], other) if other.number in own else other for other in others]

    def notes(self) -> Iterator[str]:
        """What is to be told of the noise, a line each."""
        return notes_of(self.found)
