"""Least squares and hinge, by hand on a few judgements."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from sansref.methods.unpaired.losses import ADVERSARIAL, AdversarialName

JUDGEMENTS = [2.0, 0.5, -1.0, 0.0]
BY_HAND = {
    ("lsgan", "real"): (1 + 0.25 + 4 + 1) / 4,
    ("lsgan", "fake"): (4 + 0.25 + 1 + 0) / 4,
    ("lsgan", "fool"): (1 + 0.25 + 4 + 1) / 4,
    ("hinge", "real"): (0 + 0.5 + 2 + 1) / 4,
    ("hinge", "fake"): (2 + 0.5 + 0 + 0) / 4,
    ("hinge", "fool"): -(2 + 0.5 - 1 + 0) / 4,
}
SLOPES = {
    ("lsgan", "real"): [2, -1, -4, -2],
    ("lsgan", "fake"): [4, 1, -2, 0],
    ("lsgan", "fool"): [2, -1, -4, -2],
    ("hinge", "real"): [0, -1, -1, -1],
    ("hinge", "fake"): [1, 1, 0, 0],
    ("hinge", "fool"): [-1, -1, -1, -1],
}


def judged(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).requires_grad_()


def test_every_name_an_option_can_have_is_known() -> None:
    assert set(ADVERSARIAL) == set(get_args(AdversarialName))


@pytest.mark.parametrize(("gan", "wanted"), BY_HAND)
def test_losses_are_the_mean_over_all_judgements(gan: AdversarialName, wanted: str) -> None:
    loss = getattr(ADVERSARIAL[gan], wanted)
    expected = BY_HAND[gan, wanted]
    assert float(loss(judged(JUDGEMENTS)).detach()) == pytest.approx(expected, rel=1e-12)
    for shape in ((4, 1, 1, 1), (1, 1, 2, 2), (2, 1, 2, 1)):
        assert float(loss(judged(JUDGEMENTS).reshape(shape)).detach()) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("gan", "wanted"), SLOPES)
def test_slopes_say_which_judgements_are_good_enough(gan: AdversarialName, wanted: str) -> None:
    """The hinge leaves alone what is beyond its margin: 1 for real images, 0 for made ones."""
    judgements = judged(JUDGEMENTS)
    getattr(ADVERSARIAL[gan], wanted)(judgements).backward()
    assert judgements.grad is not None
    assert (4 * judgements.grad).tolist() == SLOPES[gan, wanted]


def test_the_hinge_has_no_margin_on_the_side_of_made_images() -> None:
    """The usual one, max(0, 1 + D), would be 0.5 here."""
    assert float(ADVERSARIAL["hinge"].fake(torch.tensor(-0.5))) == 0
    assert float(ADVERSARIAL["hinge"].fake(torch.tensor(0.0))) == 0


@pytest.mark.parametrize(("gan", "best"), [("lsgan", {0.5}), ("hinge", {0.0, 0.25, 0.5, 0.75, 1.0})])
def test_a_discriminator_that_cannot_tell_does_best_between_both(gan: AdversarialName, best: set[float]) -> None:
    real, fake, _ = ADVERSARIAL[gan]
    losses = {
        value: float(real(one := torch.tensor(value)) + fake(one)) for value in torch.arange(-2, 3, 0.25).tolist()
    }
    assert {value for value, loss in losses.items() if loss == min(losses.values())} == best


@pytest.mark.parametrize("gan", ADVERSARIAL)
def test_what_fools_a_discriminator_is_what_it_holds_for_real(gan: AdversarialName) -> None:
    """A generator that follows its slope raises the judgement of its images until they pass for real ones."""
    judgements = judged([-1.0, 0.0, 0.5])
    for _ in range(500):
        (slope,) = torch.autograd.grad(ADVERSARIAL[gan].fool(judgements), judgements)
        judgements = (judgements - 0.1 * slope).detach().requires_grad_()
    assert float(ADVERSARIAL[gan].real(judgements).detach()) < 1e-6
