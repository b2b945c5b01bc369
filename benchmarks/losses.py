"""The field's self-supervised losses, deepinv's own code, as methods of a comparison: all else is the same.

SSDU, equivariant imaging (EI), multi-operator imaging (MOI), both together (MO-EI) and equivariant splitting (ES,
Sechaud et al., ICLR 2026). All but the last are set up as in deepinv's benchmark of losses without ground truth
(SSIBench, arXiv 2502.14009): the measurement-consistency loss beside EI, MOI and MO-EI, MSE, rotations for EI. ES is
set up as in deepinv's example: right angles and a mirror, one of them drawn in each step and the mean over all eight
taken in use, over two splits of the samples (five there). What differs: MO-EI there uses diffeomorphisms, of a
package with a compiler of its own, and has EI's rotations here; rotations are done by PyTorch, since deepinv's need
torchvision; and the acquired samples are put into what SSDU returns, since this network does not end in data
consistency. deepinv's weighted SSDU is not here: its weights are those of column masks. The same loss for 2-D masks
is ``ssdu`` with ``k_weighting``.

For noisy scans there are the robust ones of the same benchmark: Robust SSDU, whose weights are those of its masks of
columns, and MO-EI beside Stein's unbiased risk estimate. Both are told the level of noise that is found in each scan.

    make peers
    PYTHONPATH=benchmarks sansref compare benchmarks/study/losses.yaml --data DIR --out runs/study-losses
    PYTHONPATH=benchmarks sansref compare benchmarks/study/losses-noisy.yaml --data DIR --out runs/study-losses-noisy
"""

from __future__ import annotations

import math
import sys
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import _peers
from sansref.kspace.masks.family import MaskFamily
from sansref.kspace.measurement import Measurement
from sansref.kspace.noise import noise_of
from sansref.methods import Draw, KspaceExample, Needs, Sample, Update
from sansref.methods.unrolled import UnrolledMethod
from sansref.networks.reconstructor import Reconstructor


@dataclass(frozen=True)
class LossOptions:
    """What deepinv's benchmark leaves open.

    Attributes
    ----------
    pool
        Masks that multi-operator losses draw from.
    """

    pool: int = 32


class DeepinvMethod(UnrolledMethod):
    """Losses of deepinv on the acquired samples of single-coil scans."""

    needs: ClassVar[Needs] = Needs.UNDERSAMPLED
    options_type: ClassVar[type[Any]] = LossOptions

    def __init__(self, network: Reconstructor, options: LossOptions, family: MaskFamily) -> None:
        super().__init__(network, "mse")
        self.masks = Masks(family, options.pool)
        # In lists: the weights belong to the network alone.
        self._callable: list[nn.Module] = [Callable(network)]
        self._losses: list[Any] = []
        self.noise: list[Any] = []  # deepinv's, of losses that measure again with noise

    @abstractmethod
    def losses(self, shape: tuple[int, int]) -> list[Any]:
        """deepinv's losses, whose sum is minimised."""

    def adapted(self, shape: tuple[int, int]) -> nn.Module:
        """The network as the losses want it called."""
        if not self._losses:
            self._losses = self.losses(shape)
            for loss in self._losses:
                self._callable.append(loss.adapt_model(self._callable[-1]))
        return self._callable[-1]

    def prepare(self, given: Measurement) -> None:
        """Tell losses that want to know it how noisy a batch is."""

    def examples(self, sample: Sample, draw: Draw) -> list[KspaceExample]:
        """All that was acquired; what is split or masked again is the losses' own business."""
        scan = sample.scan
        return [KspaceExample(scan.measurement, scan.kspace, scan.mask.float())]

    def step(self, batch: KspaceExample) -> Iterator[Update]:
        """As deepinv's trainer does it."""
        shape = batch.weight.shape[-2:]
        self.masks.like = batch.given.mask[0]
        model: Any = self.adapted((shape[0], shape[1]))
        self.prepare(batch.given)
        operator = operator_of(batch.given.mask, *self.noise)
        y = to_channels(batch.given.kspace[:, 0])
        x_net = model.train()(y, operator, update_parameters=True)
        parts = [loss(x_net=x_net, y=y, physics=operator, model=model) for loss in self._losses]
        total = torch.stack([part.mean() for part in parts]).sum()
        yield Update(self.turns[0], total, {"data": total.detach()})


class DeepinvSSDU(DeepinvMethod):
    """SSDU with a Bernoulli split."""

    def losses(self, shape: tuple[int, int]) -> list[Any]:
        """Of 60 % input and 40 % loss."""
        deepinv = _peers.load("deepinv")
        split = deepinv.physics.generator.BernoulliSplittingMaskGenerator((2, *shape), split_ratio=0.6)
        return [deepinv.loss.SplittingLoss(mask_generator=split, eval_split_input=False)]

    def reconstruct(self, given: Measurement) -> Tensor:
        """From all samples given, which are put into the image."""
        return given.data_consistent(super().reconstruct(given))


class DeepinvEI(DeepinvMethod):
    """Equivariant imaging."""

    def losses(self, shape: tuple[int, int]) -> list[Any]:
        """Of rotations."""
        deepinv = _peers.load("deepinv")
        return [deepinv.loss.MCLoss(), deepinv.loss.EILoss(transform=rotated)]


class DeepinvMOI(DeepinvMethod):
    """Multi-operator imaging."""

    def losses(self, shape: tuple[int, int]) -> list[Any]:
        """Of masks like the scan's."""
        deepinv = _peers.load("deepinv")
        return [deepinv.loss.MCLoss(), deepinv.loss.MOILoss(physics_generator=self.masks)]


class DeepinvMOEI(DeepinvMethod):
    """Multi-operator equivariant imaging."""

    def losses(self, shape: tuple[int, int]) -> list[Any]:
        """Of rotations and masks like the scan's."""
        deepinv = _peers.load("deepinv")
        return [deepinv.loss.MCLoss(), deepinv.loss.MOEILoss(transform=rotated, physics_generator=self.masks)]


class DeepinvRobustSSDU(DeepinvMethod):
    """Robust SSDU: K-weights, and more noise on what is given."""

    def losses(self, shape: tuple[int, int]) -> list[Any]:
        """Of Gaussian columns, every second one, as in the benchmark; alpha as deepinv has it."""
        deepinv = _peers.load("deepinv")
        generator = deepinv.physics.generator
        columns = generator.GaussianMaskGenerator(shape, acceleration=2)
        split = generator.MultiplicativeSplittingMaskGenerator((1, *shape), columns)
        return [deepinv.loss.mri.RobustSplittingLoss(split, self.masks)]

    def prepare(self, given: Measurement) -> None:
        """The loss adds noise in proportion."""
        (loss,) = self._losses
        loss.noise_model.update_parameters(sigma=loss.alpha * levels(given))


class DeepinvRobustMOEI(DeepinvMethod):
    """MO-EI with Stein's risk for the measurement consistency, and noise on what is measured again."""

    def losses(self, shape: tuple[int, int]) -> list[Any]:
        """Of rotations and masks like the scan's."""
        deepinv = _peers.load("deepinv")
        self.noise = [deepinv.physics.GaussianNoise()]
        return [
            deepinv.loss.SureGaussianLoss(sigma=0.1),
            deepinv.loss.MOEILoss(transform=rotated, physics_generator=self.masks),
        ]

    def prepare(self, given: Measurement) -> None:
        """The noise of the samples is that of those that are measured again."""
        level = levels(given)
        self._losses[0].sigma2 = level.square()
        self.noise[0].update_parameters(sigma=level)


class DeepinvES(DeepinvMethod):
    """Equivariant splitting: 90 % of the samples are given, and the network is made equivariant by averaging."""

    def losses(self, shape: tuple[int, int]) -> list[Any]:
        """Of what was given and what was not, each by its own share."""
        return [self._of(_peers.load("deepinv").physics.generator.BernoulliSplittingMaskGenerator, shape)]

    def _of(self, generator: Any, shape: tuple[int, int]) -> Any:
        deepinv = _peers.load("deepinv")
        # torchvision, which it would turn images with, is not here.
        sys.modules["deepinv.transform.rotate"].rotate = right_angle  # type: ignore[attr-defined]
        turns = [
            deepinv.transform.Rotate(n_trans=1 if one else 4, multiples=90, positive=True)
            * deepinv.transform.Reflect(n_trans=1 if one else 2, dim=[-1])
            for one in (True, False)
        ]
        split = generator((2, *shape), split_ratio=0.9)
        # Two splits of the five by default: validation would else take twice as long as training.
        return deepinv.loss.EquivariantSplittingLoss(
            mask_generator=split, transform=turns[0], eval_transform=turns[1], eval_n_samples=2
        )

    def reconstruct(self, given: Measurement) -> Tensor:
        """The mean over all turns and two splits, with fixed ones, so that it is the same each time."""
        shape = given.mask.shape[-2:]
        model: Any = self.adapted((shape[0], shape[1]))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            image = model.eval()(to_channels(given.kspace[:, 0]), operator_of(given.mask))
        return to_complex(image)


class DeepinvESKeptCenter(DeepinvES):
    """Equivariant splitting that always gives the center of k-space: deepinv's Gaussian splits, as of SSDU."""

    def losses(self, shape: tuple[int, int]) -> list[Any]:
        """Splits that keep 8 x 8 samples."""
        return [self._of(_peers.load("deepinv").physics.generator.GaussianSplittingMaskGenerator, shape)]


class Callable(nn.Module):
    """A network as deepinv calls it: real and imaginary part of k-space, and an operator, to those of an image."""

    def __init__(self, network: Reconstructor) -> None:
        super().__init__()
        self.network = network

    def forward(self, y: Tensor, operator: Any, **_: Any) -> Tensor:
        """Reconstruct (batch, 2, height, width)."""
        kspace = torch.complex(y[:, 0], y[:, 1])[:, None]
        if not hasattr(operator, "mask"):  # of turned images
            return to_channels(self.network(Operated(kspace, kspace[:, 0] != 0, operator=operator)))
        mask = operator.mask[:, 0].bool().expand(len(y), *y.shape[-2:])
        return to_channels(self.network(Measurement(kspace * mask[:, None], mask)))


@dataclass(frozen=True)
class Operated(Measurement):
    """Samples with any operator of deepinv's."""

    operator: Any = None

    @cached_property
    def physics(self) -> Any:
        """The operator itself."""
        return Operator(self.operator)


class Operator:
    """deepinv's operator on complex images."""

    def __init__(self, operator: Any) -> None:
        self.operator = operator

    def forward(self, image: Tensor) -> Tensor:
        """Image to samples."""
        return to_complex(self.operator.A(to_channels(image)))[:, None]

    def adjoint(self, kspace: Tensor) -> Tensor:
        """Samples to image."""
        return to_complex(self.operator.A_adjoint(to_channels(kspace[:, 0])))

    def normal(self, image: Tensor) -> Tensor:
        """Both."""
        return self.adjoint(self.forward(image))


def right_angle(images: Tensor, angle: float, **_: Any) -> Tensor:
    """Images turned by a multiple of 90 degrees."""
    return torch.rot90(images, round(angle / 90), (-2, -1))


class Masks:
    """Gives masks of the family that scans were acquired with, as deepinv's generators give theirs."""

    def __init__(self, family: MaskFamily, pool: int) -> None:
        self.family, self.pool = family, pool
        self.like = torch.zeros(1, 1, dtype=torch.bool)

    def step(self, *_: Any, **__: Any) -> dict[str, Tensor]:
        """The next one."""
        mask = self.family.another(self.like, int(torch.randint(self.pool, ())))
        return {"mask": mask.float().expand(1, 2, *mask.shape)}

    def average(self, img_size: tuple[int, int] | None = None) -> dict[str, Tensor]:
        """Probability of each sample, (1, 1, height, width)."""
        return {"mask": self.family.density(self.like)[None, None]}


def operator_of(mask: Tensor, noise: Any = None) -> Any:
    """deepinv's operator of masks (batch, height, width), with the noise of what it measures."""
    both = mask.float()[:, None].expand(-1, 2, -1, -1)
    return _peers.load("deepinv").physics.MRI(mask=both, img_size=tuple(both.shape[1:]), noise_model=noise)


def levels(given: Measurement) -> Tensor:
    """Standard deviation of each part of the noise of each scan of one coil, (batch,)."""
    return (noise_of(given)[:, 0].square().sum((-2, -1)) / given.mask.sum((-2, -1))).sqrt()


def rotated(images: Tensor) -> Tensor:
    """Images (batch, 2, height, width) turned by one random angle; zeros come in from outside."""
    angle = 2 * math.pi * float(torch.rand(()))
    turn = torch.tensor([[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]])
    grid = F.affine_grid(turn.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def to_channels(data: Tensor) -> Tensor:
    """Complex (batch, height, width) to real and imaginary part."""
    return torch.view_as_real(data).movedim(-1, 1).contiguous()


def to_complex(parts: Tensor) -> Tensor:
    """Real and imaginary part (batch, 2, height, width) to complex."""
    return torch.complex(parts[:, 0], parts[:, 1])
