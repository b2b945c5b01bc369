"""Where the scan contradicts an image: acquired samples that were held out, as an image of what is missing or too much.

A sample that a reconstruction was not given says how far the reconstruction is from the scan at this place of k-space.
All of them together, put back into an image in phase with the reconstruction, show structures that it has left out
(positive) or made up (negative): errors of one place add up there, those of everywhere else do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sansref.kspace.cartesian import Cartesian
from sansref.metrics.quality import body_mask

SMOOTHING = 1.5
"""Standard deviation in pixels of the Gaussian: about that of the structures that are looked for."""

THRESHOLD = 5.0
"""|z| from which on a region is listed, see ``docs/error-maps.md`` for how often honest images reach it."""

FALSE_ALARMS = (
    "of honest images, 35 of 160 slices had one at 4x too, and 84 of 160 where training was with another scanner"
)
"""How often a region is listed where a method is honest, as measured in ``docs/error-maps.md``."""

ROBUST = 1.4826
"""Standard deviation of normal numbers over their median absolute deviation."""

UNSEEN = (
    "Neither map can see what only samples never acquired carry, an error in the center of k-space, which is never held"
    " out, or errors of the coil maps, of motion and of scale, which both share with the image."
)
"""What the maps cannot see, for the reader of one of them."""

SEEN = (
    "The error bound says how large errors may be, and hardly where; a contradiction is a place where acquired samples"
    f" that were held out want more signal than the image has, or less. {UNSEEN}"
)
"""What the maps mean and what they cannot see, for the reader of an image."""


@dataclass(frozen=True)
class Region:
    """Where a scan contradicts an image.

    Attributes
    ----------
    row, column
        The strongest pixel.
    pixels
        Size.
    z
        There, in robust standard deviations: positive where signal is missing, negative where signal was added.
    """

    row: int
    column: int
    pixels: int
    z: float

    @property
    def meaning(self) -> str:
        """In words."""
        return "the image lacks signal here" if self.z > 0 else "the scan contradicts added signal here"


def contradiction_map(image: Tensor, residual: Tensor, weight: Tensor, maps: Tensor | None = None) -> Tensor:
    r"""How strongly held-out samples contradict an image, in standard deviations.

    .. math:: c = G * Re\left(e^{-i \arg x} S^H F^{-1} [w (y - F S x_{-j})]\right), \qquad z = (c - m) / s

    with x_{-j} reconstructed without the fold j that a sample belongs to, Horvitz and Thompson's weights w = (1 - p) /
    p, by which each sample stands for the places like its own that were not acquired, a Gaussian G, and the median m
    and the robust spread s of c inside the body.

    Parameters
    ----------
    image
        The reconstruction of all samples, complex (height, width).
    residual
        Measured minus predicted samples, complex (coils, height, width), zero where none was held out.
    weight
        w, real (height, width).
    maps
        Coil sensitivity maps, complex (coils, height, width), or None.

    Returns
    -------
    Tensor
        z, float32 (height, width); zeros where nothing was held out.
    """
    from scipy import ndimage

    missing = missing_signal(image, residual, weight, maps).double()
    smooth = torch.from_numpy(ndimage.gaussian_filter(missing.numpy(), SMOOTHING, mode="wrap"))
    middle, spread = robust(smooth[body_mask(image.abs())])
    return ((smooth - middle) / spread if spread > 0 else torch.zeros_like(smooth)).float()


def missing_signal(image: Tensor, residual: Tensor, weight: Tensor, maps: Tensor | None = None) -> Tensor:
    """What held-out samples want more of each pixel, in phase with it, real (height, width), in the image's units.

    Without any bias, since each sample stands for the places that were not acquired, and very noisy. For the parameters
    see :func:`contradiction_map`.
    """
    back = Cartesian(torch.ones_like(weight, dtype=torch.bool)[None], None if maps is None else maps[None])
    found = back.adjoint((weight * residual)[None])[0]
    return (found * torch.polar(torch.ones_like(image.real), -image.angle())).real


def robust(values: Tensor) -> tuple[Tensor, Tensor]:
    """Median, and the standard deviation by the median absolute deviation."""
    middle = values.median()
    return middle, ROBUST * (values - middle).abs().median()


def regions(z: Tensor, body: Tensor) -> list[Region]:
    """List connected places inside the body where z, or -z, reaches :data:`THRESHOLD`, the strongest first.

    Parameters
    ----------
    z
        Of :func:`contradiction_map`, (height, width).
    body
        bool (height, width).
    """
    return sorted((*_pieces(z, body), *_pieces(-z, body, -1)), key=lambda one: -abs(one.z))


def _pieces(z: Tensor, body: Tensor, sign: int = 1) -> Iterator[Region]:
    from scipy import ndimage

    labels, count = ndimage.label(((z >= THRESHOLD) & body).numpy())
    for place in range(1, count + 1):
        inside = torch.from_numpy(labels == place)
        row, column = divmod(int(torch.where(inside, z, -torch.inf).argmax()), z.shape[1])
        yield Region(row, column, int(inside.sum()), sign * float(z[row, column]))
