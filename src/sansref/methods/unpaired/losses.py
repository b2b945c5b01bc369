"""The losses of unpaired learning: adversarial ones, and those that tie translated images to the ones they come from.

``x`` is an undersampled image and ``y`` a full one of somebody else; ``G`` restores, ``F`` degrades (in switchable
ISCL one generator with two codes), ``H`` extracts the artefact. All are means over pixels, or over the k-space grid,
of absolute differences. Cycle, bypass, pseudo and noise-consistency loss are those of ISCL (Lee and Jeong, IEEE TMI
40:3238, 2021), the sampling loss is eq. (1) of the switchable ISCL paper.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import l1_loss

from sansref.kspace.cartesian import Cartesian

FourierNorm = Literal["backward", "ortho"]
AdversarialName = Literal["lsgan", "hinge"]


Judged = Callable[[Tensor], Tensor]
"""The mean loss of a map of judgements of any shape, a scalar."""


class AdversarialLoss(NamedTuple):
    """The three demands of adversarial learning.

    Attributes
    ----------
    real
        The discriminator's loss on a real image.
    fake
        The discriminator's loss on an image made by a network.
    fool
        The generator's loss on an image that it has made.
    """

    real: Judged
    fake: Judged
    fool: Judged


def lsgan_real(judgement: Tensor) -> Tensor:
    """(D - 1)^2 (Mao et al., ICCV 2017, eq. (9) with a = 0, b = c = 1, without their factor 1/2)."""
    return (judgement - 1).square().mean()


def lsgan_fake(judgement: Tensor) -> Tensor:
    """D^2."""
    return judgement.square().mean()


def hinge_real(judgement: Tensor) -> Tensor:
    """max(0, 1 - D)."""
    return (1 - judgement).relu().mean()


def hinge_fake(judgement: Tensor) -> Tensor:
    """max(0, D): ISCL's code has no margin on the side of the fakes, unlike the usual max(0, 1 + D)."""
    return judgement.relu().mean()


def hinge_fool(judgement: Tensor) -> Tensor:
    """-D."""
    return -judgement.mean()


ADVERSARIAL: dict[AdversarialName, AdversarialLoss] = {
    "lsgan": AdversarialLoss(lsgan_real, lsgan_fake, lsgan_real),
    "hinge": AdversarialLoss(hinge_real, hinge_fake, hinge_fool),
}


def cycle_loss(x: Tensor, back_to_x: Tensor, y: Tensor, back_to_y: Tensor) -> Tensor:
    """|F(G(x)) - x| + |G(F(y)) - y|: there and back is where one started."""
    return l1_loss(back_to_x, x) + l1_loss(back_to_y, y)


def identity_loss(x: Tensor, kept_x: Tensor, y: Tensor, kept_y: Tensor) -> Tensor:
    """|F(x) - x| + |G(y) - y|: what is in a domain already stays (Zhu et al., ICCV 2017, section 5.2)."""
    return l1_loss(kept_x, x) + l1_loss(kept_y, y)


def bypass_loss(restored: Tensor, x: Tensor, noise: Tensor, y: Tensor, restored_y: Tensor) -> Tensor:
    """|G(x) - (x - H(x))| + |G(y + H(x)) - y|: the generator agrees with the extractor.

    Parameters
    ----------
    restored
        G(x).
    x, y
        Undersampled and full image.
    noise
        H(x); the extractor is not moved by this loss.
    restored_y
        G(y + H(x)).
    """
    return l1_loss(restored, x - noise) + l1_loss(restored_y, y)


def pseudo_loss(noise: Tensor, x: Tensor, restored: Tensor) -> Tensor:
    """|H(x) - (x - G(x))|: the extractor learns from what the generator takes away."""
    return l1_loss(noise, x - restored)


def noise_consistency_loss(noise_of_degraded: Tensor, degraded: Tensor, y: Tensor) -> Tensor:
    """|H(F(y)) - (F(y) - y)|: the artefact of a degraded image is what degrading has added, which is known."""
    return l1_loss(noise_of_degraded, degraded - y)


def sampling_loss(
    undersampled: Tensor,
    full: Tensor,
    mask: Tensor,
    norm: FourierNorm = "backward",
    power: Literal[1, 2] = 1,
    coils: Tensor | None = None,
) -> Tensor:
    """|R F x - R F G(x)|, one of the two terms of eq. (1): translation keeps the acquired samples.

    With several coils the zero-filled image is x = E^H y of the samples y, and its Fourier transform is not y at the
    acquired places: the truth itself would have a loss. What the truth z meets is x = E^H E z; the loss is
    |E E^H E G(x) - E x|, which for one coil is the paper's.

    Parameters
    ----------
    undersampled, full
        x and G(x), or F(y) and y. Real, (batch, channels, height, width); two channels are real and imaginary part.
    mask
        R, bool (batch, height, width), DC in the center.
    norm
        Of the Fourier transform: backward is the plain sum, which at N x N is N times as large as ortho. The paper does
        not say; with the orthonormal transform the term would be a hundredth of the cycle term.
    power
        Of the modulus: 1, or 2 for the mean square.
    coils
        What each coil sees of the images, complex (batch, coils, height, width); None for one coil. The modulus is
        that of all coils together.

    Returns
    -------
    Tensor
        Mean over the whole grid, zeros included. For magnitudes, whose k-space is not the acquired one, it is an
        approximation; for complex images it is exact.
    """
    # There is no Fourier transform of half-precision numbers on every device.
    precision = torch.promote_types(undersampled.dtype, torch.float32)
    if coils is not None:
        return _coil_sampling_loss(undersampled.to(precision), full.to(precision), mask, norm, power, coils)
    difference = (undersampled - full).to(precision)
    plane = torch.complex(difference[:, 0], difference[:, -1]) if difference.shape[1] == 2 else difference[:, 0]
    kept = torch.fft.ifftshift(mask, dim=(-2, -1))
    # The modulus does not see the phase ramp by which a centered transform would differ.
    spectrum = torch.fft.fft2(plane, norm=norm)[kept]
    moduli = spectrum.abs() if power == 1 else torch.view_as_real(spectrum).square().sum(-1)
    return moduli.sum() / mask.numel()


def _coil_sampling_loss(
    undersampled: Tensor, full: Tensor, mask: Tensor, norm: FourierNorm, power: Literal[1, 2], coils: Tensor
) -> Tensor:
    encoding = Cartesian(mask, coils)
    spectrum = encoding.forward(encoding.normal(_values(full)) - _values(undersampled))
    moduli: Tensor = torch.linalg.vector_norm(spectrum, dim=1) ** power
    size = mask.shape[-2] * mask.shape[-1] if norm == "backward" else 1
    return size ** (power / 2) * moduli.sum() / mask.numel()


def _values(channels: Tensor) -> Tensor:
    """What a signal is proportional to, complex (batch, height, width): -1 is black in a magnitude."""
    if channels.shape[1] == 2:
        return torch.complex(channels[:, 0], channels[:, 1])
    return torch.complex(channels[:, 0] + 1, torch.zeros_like(channels[:, 0]))
