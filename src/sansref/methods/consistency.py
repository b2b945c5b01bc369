"""The losses that tie translated images to the ones they come from.

``x`` is an undersampled image and ``y`` a full one of somebody else; ``G`` restores, ``F`` degrades (in switchable
ISCL one generator with two codes), ``H`` extracts the artefact. All are means over pixels, or over the k-space grid,
of absolute differences. Cycle, bypass, pseudo and noise-consistency loss are those of ISCL (Lee and Jeong, IEEE TMI
40:3238, 2021), the sampling loss is eq. (1) of the switchable ISCL paper.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import l1_loss

FourierNorm = Literal["backward", "ortho"]


def cycle_loss(x: Tensor, back_to_x: Tensor, y: Tensor, back_to_y: Tensor) -> Tensor:
    """|F(G(x)) - x| + |G(F(y)) - y|: there and back is where one started."""
    return l1_loss(back_to_x, x) + l1_loss(back_to_y, y)


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
    image: Tensor,
    translated: Tensor,
    mask: Tensor,
    norm: FourierNorm = "backward",
    power: Literal[1, 2] = 1,
) -> Tensor:
    """|R F x - R F G(x)|, one of the two terms of eq. (1): translation keeps the acquired samples.

    Parameters
    ----------
    image, translated
        Real, (batch, channels, height, width); two channels are real and imaginary part.
    mask
        R, bool (batch, height, width), DC in the centre.
    norm
        Of the Fourier transform: backward is the plain sum, which at N x N is N times as large as ortho. The paper does
        not say; with the orthonormal transform the term would be a hundredth of the cycle term.
    power
        Of the modulus: 1, or 2 for the mean square.

    Returns
    -------
    Tensor
        Mean over the whole grid, zeros included. For magnitudes, whose k-space is not the acquired one, it is an
        approximation; for complex images it is exact.
    """
    difference = image - translated
    # There is no Fourier transform of half-precision numbers on every device.
    difference = difference.to(torch.promote_types(difference.dtype, torch.float32))
    plane = torch.complex(difference[:, 0], difference[:, -1]) if difference.shape[1] == 2 else difference[:, 0]
    kept = torch.fft.ifftshift(mask, dim=(-2, -1))
    # The modulus does not see the phase ramp by which a centred transform would differ.
    spectrum = torch.fft.fft2(plane, norm=norm)[kept]
    moduli = spectrum.abs() if power == 1 else torch.view_as_real(spectrum).square().sum(-1)
    return moduli.sum() / mask.numel()
