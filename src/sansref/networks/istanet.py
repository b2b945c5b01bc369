"""ISTA-Net+ and ISTA-Net: the iterative shrinkage-thresholding algorithm, unrolled and learned.

Zhang and Ghanem, "ISTA-Net: Interpretable Optimization-Inspired Deep Network for Image Compressive
Sensing", CVPR 2018. Each phase takes a gradient step on the data term and then a learned proximal step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from sansref.errors import FileError
from sansref.networks.convolution import conv3x3

Variant = Literal["plus", "plain"]

# Our names and those of the official files, where a convolution is its kernel alone.
_OFFICIAL = {
    "step": "lambda_step",
    "threshold": "soft_thr",
    "lift": "conv_D",
    "forward1": "conv1_forward",
    "forward2": "conv2_forward",
    "backward1": "conv1_backward",
    "backward2": "conv2_backward",
    "project": "conv_G",
}
# The same in the files of Hu et al., where a convolution is its kernel and its bias.
_HU2021 = {
    "step": "lambda_step",
    "threshold": "soft_thr",
    "lift": "conv_in",
    "forward1": "f.layers.0",
    "forward2": "f.layers.2",
    "backward1": "ft.layers.0",
    "backward2": "ft.layers.2",
    "project": "conv_out",
}


class _SoftThreshold(torch.autograd.Function):
    """Composed of PyTorch's functions it would keep five tensors for the way back instead of one."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, threshold: Tensor) -> Tensor:
        # PyTorch's own function wants a number, for which a GPU would have to be waited for, and not a negative one.
        if values.device.type == "cpu" and threshold >= 0:
            shrunk = F.softshrink(values, float(threshold))
        else:
            shrunk = values.abs().sub_(threshold).clamp_min_(0).mul_(values.sign())
        ctx.save_for_backward(shrunk)
        return shrunk

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        (shrunk,) = ctx.saved_tensors
        # With 0 as the threshold it passes on what belongs to other values than 0, whatever the real threshold is.
        passed = torch.ops.aten.softshrink_backward(gradient, shrunk, 0.0)
        return passed, -(shrunk.sign().mul_(passed)).sum().reshape(1)


def soft_threshold(values: Tensor, threshold: Tensor) -> Tensor:
    """sign(v) max(|v| - theta, 0), an expansion where the learned theta, of shape (1,), has become negative."""
    shrunk: Tensor = _SoftThreshold.apply(values, threshold)  # type: ignore[no-untyped-call]
    return shrunk


class Phase(nn.Module):
    """One phase: gradient step, sparsifying transform, soft threshold, backward transform.

    ``step`` is rho and ``threshold`` is theta in the paper, eq. (4) and (8). In the ``plus`` variant the
    transform acts on lifted features and the result is a residual (eq. (11)); in the ``plain`` variant it
    acts on the image itself (eq. (8)).
    """

    def __init__(self, channels: int, in_channels: int, bias: bool, variant: Variant) -> None:
        super().__init__()
        self.residual = variant == "plus"
        outer = channels if self.residual else in_channels
        self.step = nn.Parameter(torch.tensor([0.5]))
        self.threshold = nn.Parameter(torch.tensor([0.01]))
        if self.residual:
            self.lift = conv3x3(in_channels, channels, bias)
        self.forward1 = conv3x3(outer, channels, bias)
        self.forward2 = conv3x3(channels, channels, bias)
        self.backward1 = conv3x3(channels, channels, bias)
        self.backward2 = conv3x3(channels, outer, bias)
        if self.residual:
            self.project = conv3x3(channels, in_channels, bias)

    def forward(
        self, image: Tensor, zero_filled: Tensor, normal: Callable[[Tensor], Tensor], symmetry: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return the next image and, if asked for, the symmetry residual F~(F(d)) - d."""
        gradient_step = image - self.step * (normal(image) - zero_filled)
        features = _channels_last(self.lift(gradient_step) if self.residual else gradient_step)
        sparse = self.forward2(F.relu(self.forward1(features), inplace=True))
        backward = self._backward(soft_threshold(sparse, self.threshold))
        residual = self._backward(sparse) - features if symmetry else None
        image = gradient_step + self.project(backward) if self.residual else backward.to(gradient_step.dtype)
        return image, residual

    def _backward(self, features: Tensor) -> Tensor:
        return self.backward2(F.relu(self.backward1(features), inplace=True))


class ISTANet(nn.Module):
    """ISTA-Net+ (default) or ISTA-Net.

    Parameters
    ----------
    phases
        Unrolled iterations; their weights are not shared.
    channels
        Features per convolution.
    in_channels
        1 for real images as published, 2 (real and imaginary part) for complex images.
    bias
        Convolutions with a bias. The official MRI networks have none; the networks of the IDR line have.
    variant
        "plus" for ISTA-Net+, "plain" for ISTA-Net.
    """

    def __init__(
        self, phases: int = 9, channels: int = 32, in_channels: int = 1, bias: bool = False, variant: Variant = "plus"
    ) -> None:
        super().__init__()
        if in_channels not in (1, 2):
            raise ValueError(f"in_channels must be 1 (real) or 2 (complex), got {in_channels}")
        self.in_channels = in_channels
        self.variant: Variant = variant
        self.phases = nn.ModuleList(Phase(channels, in_channels, bias, variant) for _ in range(phases))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(
        self, zero_filled: Tensor, normal: Callable[[Tensor], Tensor], symmetry: bool = True
    ) -> tuple[Tensor, list[Tensor]]:
        """Reconstruct.

        Parameters
        ----------
        zero_filled
            E^H y, float (batch, in_channels, height, width); its real part for ``in_channels=1``.
        normal
            E^H E, on complex images (batch, height, width) for ``in_channels=2``; its real part, on real images, for
            ``in_channels=1`` (:class:`~sansref.kspace.cartesian.RealNormal`).
        symmetry
            Also compute the symmetry residuals, which only a loss needs.

        Returns
        -------
        tuple
            The image, shaped like ``zero_filled``, and the list of the phases' symmetry residuals, each
            (batch, features, height, width), empty if not asked for.
        """
        if zero_filled.ndim != 4 or zero_filled.shape[1] != self.in_channels:
            raise ValueError(
                f"zero_filled must be (batch, {self.in_channels}, height, width), got {tuple(zero_filled.shape)}"
            )

        def on_channels(image: Tensor) -> Tensor:
            if self.in_channels == 1:
                return normal(image[:, 0]).unsqueeze(1)
            return to_channels(normal(to_complex(image)), 2)

        zero_filled = _channels_last(zero_filled)
        image, residuals = zero_filled, []
        for phase in self.phases:
            image, residual = phase(image, zero_filled, on_channels, symmetry)
            if residual is not None:
                residuals.append(residual)
        return image, residuals

    def begin_as_identity(self) -> None:
        """Make every phase of ISTA-Net+ a plain gradient step of size 1: no learned correction yet.

        The zero-filled image is a fixed point of these steps for one coil (in a real network, only if the mask is
        symmetric about DC), so that training starts there.
        """
        if self.variant != "plus":
            raise ValueError("only ISTA-Net+ has a residual that can begin as zero")
        for phase in self.phases:
            assert isinstance(phase, Phase)
            nn.init.ones_(phase.step)
            nn.init.zeros_(phase.project.weight)

    def _load(self, given: dict[str, Tensor], whose: str, theirs: Callable[[str, str, str], str]) -> ISTANet:
        """Load others' weights, whose names are made from the phase, the part of it, and what of the part it is."""
        ours: dict[str, Tensor] = {}
        for name, parameter in self.named_parameters():
            _, index, part, *kind = name.split(".")
            their_name = theirs(index, part, "".join(kind))
            if their_name not in given:
                raise ValueError(f"the {whose} weights lack {their_name!r}")
            value = torch.as_tensor(given.pop(their_name))
            if value.shape != parameter.shape:
                raise ValueError(f"{their_name!r} is {tuple(value.shape)}, this network needs {tuple(parameter.shape)}")
            ours[name] = value.to(parameter)
        if given:
            raise ValueError(f"the {whose} weights have {len(given)} names that this network lacks: {min(given)!r}")
        self.load_state_dict(ours)
        return self


def symmetry_penalty(residuals: Sequence[Tensor]) -> Tensor:
    """Sum over phases of the mean squared symmetry residual (Zhang and Ghanem, CVPR 2018, eq. (13))."""
    return torch.stack([residual.square().mean() for residual in residuals]).sum()


def load_official_weights(state_dict: Mapping[str, Tensor]) -> ISTANet:
    """Build the network that weights released by the authors of ISTA-Net belong to, and load them.

    Parameters
    ----------
    state_dict
        Names ``fcs.{phase}.{name}``, optionally behind ``module.``, as ``torch.load`` (with ``weights_only=True``)
        gives them; phases, channels and variant are read from it.

    Raises
    ------
    ValueError
        Where these are not the weights of such a network: a name is missing, unknown or of another shape.
    """
    given = _without_prefix(state_dict)
    if "fcs.0.conv1_forward" not in given:
        raise ValueError("these are not ISTA-Net weights: 'fcs.0.conv1_forward' is missing")
    variant: Variant = "plus" if "fcs.0.conv_D" in given else "plain"
    phases = sum(name.endswith(".conv1_forward") for name in given)
    made = ISTANet(phases, channels=given["fcs.0.conv1_forward"].shape[0], variant=variant)
    return made._load(given, "official", lambda index, part, _: f"fcs.{index}.{_OFFICIAL[part]}")


def load_hu2021_weights(path: str | Path, network: Literal["up", "down"] = "up") -> ISTANet:
    """Build the self-supervised ISTA-Net+ of Hu et al. from their released checkpoint.

    Hu et al., "Self-Supervised Learning for MRI Reconstruction with a Parallel Network Training Framework", MICCAI
    2021. It is given real images (in_channels = 1), each scaled to [0, 1] by its own minimum and maximum, of 256 x 256,
    and a mask with DC in the center: ``network(zero_filled, RealNormal(mask))``. It was trained on T1 images of IXI.

    Nothing in the file is executed: tensors are read, and the numbers of NumPy that stand beside them are passed over.

    Parameters
    ----------
    path
        ``best_checkpoint.pth.tar``, for one acceleration.
    network
        Which of the two that were trained in parallel; the authors test ``up``.

    Raises
    ------
    FileError
        If the file cannot be read, holds anything but tensors and numbers, or is not such a checkpoint.
    """
    path = Path(path)
    scalars = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")  # of NumPy 1 and 2
    names = ("numpy.dtype", "numpy.dtypes.Float64DType", *scalars)
    known: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [(_PassedOver, name) for name in names]
    try:
        with torch.serialization.safe_globals(known):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise FileError(path, f"cannot be read ({error.strerror})", "Check the spelling of the path") from None
    except Exception as error:  # damaged files raise errors of many types
        problem = "cannot be read as a checkpoint of tensors; it is damaged, or holds code, which is not executed"
        raise FileError(path, problem, "Use the file as its authors released it") from error
    weights = checkpoint.get("model") if isinstance(checkpoint, dict) else None
    prefix = f"{network}_network.layers."
    given = {
        name.removeprefix(prefix): value
        for name, value in (_without_prefix(weights) if isinstance(weights, Mapping) else {}).items()
        if name.startswith(prefix)
    }
    try:
        if "0.conv_in.weight" not in given:
            raise ValueError(f"'model' has no weight {prefix}0.conv_in.weight")
        made = ISTANet(sum(name.endswith(".soft_thr") for name in given), len(given["0.conv_in.weight"]), bias=True)

        def theirs(index: str, part: str, kind: str) -> str:
            return ".".join(filter(None, (index, _HU2021[part], kind)))

        return made._load(given, network, theirs)
    except ValueError as error:
        raise FileError(
            path, f"is not a checkpoint of Hu et al. ({error})", "Use the file as its authors released it"
        ) from None


class _PassedOver:
    """Stands for numbers of NumPy in a file: none of their code is run."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _without_prefix(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names without what DataParallel put before them."""
    return {name.removeprefix("module."): value for name, value in state_dict.items()}


def to_complex(channels: Tensor) -> Tensor:
    """Channels (batch, 1 or 2, height, width) to a complex image (batch, height, width), of complex64 at least."""
    channels = channels.to(torch.promote_types(channels.dtype, torch.float32))  # halves have no Fourier transform
    imaginary = channels[:, 1] if channels.shape[1] == 2 else torch.zeros_like(channels[:, 0])
    return torch.complex(channels[:, 0], imaginary)


def to_channels(image: Tensor, channels: int) -> Tensor:
    """Complex image (batch, height, width) to (batch, channels, height, width); 1 channel is the real part."""
    return image.real.unsqueeze(1) if channels == 1 else torch.view_as_real(image).permute(0, 3, 1, 2)


def _channels_last(images: Tensor) -> Tensor:
    """In the layout that convolutions run in; in the other, each would reorder what it is given and what it gives."""
    return images.contiguous(memory_format=torch.channels_last)
