"""Cartesian acquisition: the encoding operator E = mask . Fourier . coils."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from sansref.kspace.coils import combine, unstacked
from sansref.kspace.fourier import PLANE, fft2c, ifft2c


class Cartesian:
    r"""Coil weighting, Fourier transform and sampling on a grid; a :class:`~sansref.kspace.physics.Physics`.

    .. math:: E x = M F S x

    with the mask :math:`M` (:math:`\Omega` in the papers), the centered orthonormal transform :math:`F` and
    the coil sensitivities :math:`S` (identity for a single coil).

    Inside :meth:`normal` nothing is shifted: the centering of :math:`F` is a permutation in k-space, which
    the mask absorbs once, and a phase ramp, which :math:`F^H M F` cancels. For a column mask the transform
    along the readout cancels too, so that one 1-D FFT along phase encoding is enough.

    Parameters
    ----------
    mask
        bool (height, width) or (batch, height, width), DC in the center, True where acquired.
    maps
        Coil sensitivity maps, complex (batch, coils, height, width) or (coils, height, width); None for a
        single coil whose sensitivity is part of the image. Several sets of maps lie below one another, as the
        components of the image do (:func:`~sansref.kspace.coils.unstacked`): then the height of both is that of the
        mask, times the number of sets.
    """

    def __init__(self, mask: Tensor, maps: Tensor | None = None) -> None:
        if mask.ndim not in (2, 3):
            raise ValueError(f"mask must be (height, width) or (batch, height, width), got {tuple(mask.shape)}")
        if maps is not None and (maps.shape[-1] != mask.shape[-1] or maps.shape[-2] % mask.shape[-2]):
            raise ValueError(f"maps {tuple(maps.shape)} and mask {tuple(mask.shape)} differ in height or width")
        self.mask = mask
        self.maps = maps

    @cached_property
    def _unshifted(self) -> tuple[Tensor, tuple[int, ...]]:
        """The mask with DC at the corner, and the axes along which the normal operator has to transform."""
        columns = bool((self.mask == self.mask[..., :1, :]).all())
        mask = self.mask[..., :1, :] if columns else self.mask
        return torch.fft.ifftshift(mask, dim=PLANE), (-1,) if columns else PLANE

    def forward(self, image: Tensor) -> Tensor:
        """Image (batch, height, width), complex, to acquired k-space (batch, coils, height, width)."""
        return self._coil_mask(self.mask) * self.transform(image)

    def transform(self, image: Tensor) -> Tensor:
        """Image to full k-space: the coils and the Fourier transform without the mask."""
        coil_images = image.unsqueeze(-3) if self.maps is None else self._seen(image)
        return fft2c(coil_images)

    @property
    def sets(self) -> int:
        """Number of sets of maps, and of components of the image."""
        return 1 if self.maps is None else self.maps.shape[-2] // self.mask.shape[-2]

    def _seen(self, image: Tensor) -> Tensor:
        """What the coils see of an image (batch, height, width)."""
        assert self.maps is not None
        seen = self.maps * image.unsqueeze(-3)
        return seen if self.sets == 1 else unstacked(seen, self.mask.shape[-2]).sum(-3)

    def _for_sets(self, coil_images: Tensor) -> Tensor:
        """Coil images, once for each set of maps, below one another."""
        return coil_images if self.sets == 1 else torch.cat([coil_images] * self.sets, -2)

    def adjoint(self, kspace: Tensor) -> Tensor:
        """K-space (batch, coils, height, width) to the zero-filled image (batch, height, width).

        Raises
        ------
        ValueError
            For several coils without maps.
        """
        return self._combined(self._coil_mask(self.mask) * kspace)

    def normal(self, image: Tensor) -> Tensor:
        """E^H E of a complex image (batch, height, width), without any shift."""
        mask, dims = self._unshifted
        if self.maps is None:
            spectrum = torch.fft.fftn(image, dim=dims)
            return torch.fft.ifftn(mask * spectrum, dim=dims)
        spectrum = torch.fft.fftn(self._seen(image), dim=dims)
        spectrum *= self._coil_mask(mask)
        return (self._conjugate_maps * self._for_sets(torch.fft.ifftn(spectrum, dim=dims))).sum(dim=-3)

    @cached_property
    def _conjugate_maps(self) -> Tensor:
        """For iterations, of which each would make a copy of its own from what ``conj`` gives."""
        assert self.maps is not None
        return self.maps.conj().resolve_conj()

    def impose(self, kspace: Tensor, measured: Tensor) -> Tensor:
        """Replace the acquired samples of ``kspace`` by the measured ones (hard data consistency)."""
        return torch.where(self._coil_mask(self.mask), measured, kspace)

    def data_consistent(self, image: Tensor, measured: Tensor) -> Tensor:
        """Put the measured samples into an image (batch, height, width).

        Exact for one coil; with several, the imposed k-space is combined by the maps, which keeps the part of it
        that an image can explain.
        """
        return self._combined(self.impose(self.transform(image), measured))

    @cached_property
    def largest_gain(self) -> Tensor:
        """Upper bound of the largest eigenvalue of E^H E, real (batch, 1, 1): 1 for one coil or normalised maps."""
        if self.maps is None:
            batch = 1 if self.mask.ndim == 2 else len(self.mask)
            return torch.ones(batch, 1, 1, device=self.mask.device)
        power = self.maps.abs().square().sum(-3)
        if self.sets > 1:  # of the matrix of all pairs of sets, the trace is no less than the largest eigenvalue
            power = unstacked(power, self.mask.shape[-2]).sum(-3)
        power = power.amax(PLANE, keepdim=True)
        return power.clamp(min=torch.finfo(power.dtype).tiny)

    @cached_property
    def data_diagonal(self) -> Tensor:
        """The diagonal of E^H E in unshifted k-space, real (batch, [sets,] height, width).

        It is the mask, correlated with the power spectra of the maps.
        """
        if self.maps is None:
            return torch.fft.ifftshift(self.mask, dim=PLANE).float()
        mask = torch.fft.ifftshift(self.mask, dim=PLANE).to(self.maps.real.dtype)
        maps = self.maps if self.sets == 1 else unstacked(self.maps, mask.shape[-2]).transpose(-4, -3)
        power = torch.fft.fft2(maps, norm="forward").abs().square().sum(-3)
        if self.sets > 1:
            mask = mask.unsqueeze(-3)
        diagonal = torch.fft.ifft2(torch.fft.fft2(mask) * torch.fft.fft2(power).conj()).real
        # Far from all samples nothing is left but rounding, of either sign.
        return torch.maximum(
            diagonal, 1e-6 * self.largest_gain.unsqueeze(-3) if self.sets > 1 else 1e-6 * self.largest_gain
        )

    def _combined(self, kspace: Tensor) -> Tensor:
        if self.maps is not None:
            return combine(self._for_sets(ifft2c(kspace)), self.maps)
        if kspace.shape[-3] != 1:
            raise ValueError(f"k-space of {kspace.shape[-3]} coils needs coil sensitivity maps")
        return ifft2c(kspace).squeeze(-3)

    @staticmethod
    def _coil_mask(mask: Tensor) -> Tensor:
        return mask.unsqueeze(-3) if mask.ndim == 3 else mask


class RealNormal:
    r"""Re(E^H E x) of real images with one coil, at half the cost of the complex transform.

    For a real image the real part keeps only the Hermitian part of the masked spectrum, so that a mask acts
    like the mean of itself and its mirror through DC.

    Parameters
    ----------
    mask
        bool (height, width) or (batch, height, width), DC in the center.
    """

    def __init__(self, mask: Tensor, dtype: torch.dtype = torch.float32) -> None:
        shifted = torch.fft.ifftshift(mask, dim=PLANE).to(dtype)
        mirrored = shifted.flip(PLANE).roll((1, 1), PLANE)
        self._size = tuple(mask.shape[-2:])
        self._half = (0.5 * (shifted + mirrored))[..., : self._size[1] // 2 + 1]

    def __call__(self, image: Tensor) -> Tensor:
        """Real image (batch, height, width) to Re(E^H E image)."""
        return torch.fft.irfft2(self._half * torch.fft.rfft2(image), s=self._size)
