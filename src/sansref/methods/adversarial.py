"""What generator and discriminator want of each other: least squares (LSGAN), or the hinge of ISCL's authors."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

from torch import Tensor

AdversarialName = Literal["lsgan", "hinge"]


class Judged(Protocol):
    """A loss of a map of judgements, any shape, to a scalar."""

    def __call__(self, judgement: Tensor) -> Tensor:
        """Mean over all judgements."""
        ...


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
