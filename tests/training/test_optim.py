from __future__ import annotations

import copy
import io
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer, RAdam

from sansref.methods import Turn
from sansref.training.config import TrainingOptions
from sansref.training.optim import WeightMean, look_ahead, optimizer_of, planned_rate

RATE = 0.01
RADAM = TrainingOptions(learning_rate=RATE, optimizer="radam")


def double(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


def pushed(optimizer: Optimizer, weight: nn.Parameter, gradients: Sequence[float]) -> list[float]:
    """Step with given gradients; the weight after each."""
    path = []
    for gradient in gradients:
        weight.grad = torch.full_like(weight, gradient)
        optimizer.step()
        path.append(float(weight.detach()))
    return path


def rectified_adam(gradients: Sequence[float], rate: float, epsilon: float = 1e-7) -> list[float]:
    """Algorithm 2 of Liu et al. (ICLR 2020) from 0 on, with their code's threshold 5 and epsilon beside sqrt(v)."""
    beta1, beta2 = 0.9, 0.999
    longest = 2 / (1 - beta2) - 1
    weight, first, second, path = 0.0, 0.0, 0.0, []
    for step, gradient in enumerate(gradients, start=1):
        first = beta1 * first + (1 - beta1) * gradient
        second = beta2 * second + (1 - beta2) * gradient**2
        mean = first / (1 - beta1**step)
        length = longest - 2 * step * beta2**step / (1 - beta2**step)
        if length > 5:
            rectification = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
            mean *= math.sqrt(rectification) * math.sqrt(1 - beta2**step) / (math.sqrt(second) + epsilon)
        weight -= rate * mean
        path.append(weight)
    return path


# --- RAdam -----------------------------------------------------------------------------------------------------

# The smallest are of the size of epsilon.
GRADIENTS = [
    [1.0, -0.5, 2.0, 0.25, -1.5, 3.0, 0.5, -0.75, 1.25, 1.0],
    [1e-7 * n for n in (1, 3, 2, 4, 1, 2, 5, 1, 3, 2)],
]


@pytest.mark.parametrize("gradients", GRADIENTS)
def test_radam_follows_its_paper(gradients: list[float]) -> None:
    weight = double(0.0)
    found = pushed(optimizer_of(Turn("t", [weight]), RADAM), weight, gradients)
    assert found == pytest.approx(rectified_adam(gradients, RATE), rel=1e-9)
    assert found != pytest.approx(rectified_adam(gradients, RATE, epsilon=1e-8), rel=1e-9)


def test_radam_is_plain_momentum_for_five_steps_and_rectified_from_the_sixth() -> None:
    """With a constant gradient g: -rate * g while the variance is unknown, then -rate * r with r far below 1."""
    weight = double(0.0)
    path = pushed(optimizer_of(Turn("t", [weight]), RADAM), weight, [4.0] * 7)
    steps = [after - before for before, after in zip([0.0, *path], path, strict=False)]
    assert steps[:5] == pytest.approx([-4 * RATE] * 5, rel=1e-12)
    # r of steps 6 and 7: sqrt((rho - 4)(rho - 2) / rho / 1999) for rho close to 6 and 7.
    assert steps[5:] == pytest.approx([-RATE * 0.0258, -RATE * 0.0327], rel=0.02)


def test_adam_is_adam() -> None:
    """Whatever the size of a constant gradient, each step is the learning rate."""
    weight = double(0.0)
    optimizer = optimizer_of(Turn("t", [weight], lookahead=True), TrainingOptions(learning_rate=RATE, lookahead=0))
    assert isinstance(optimizer, Adam)
    assert pushed(optimizer, weight, [-5.0] * 4) == pytest.approx([RATE * n for n in (1, 2, 3, 4)], rel=1e-6)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("linear", {0.0: RATE, 0.25: 0.75 * RATE, 0.9: 0.1 * RATE, 1.0: 1e-7}),
        ("cooldown", {0.0: RATE, 0.5: RATE, 0.7: RATE, 0.85: 0.5 * RATE, 1.0: 1e-7}),
    ],
)
def test_the_rate_falls_by_plan_to_almost_zero(schedule: Any, rates: dict[float, float]) -> None:
    options = TrainingOptions(learning_rate=RATE, schedule=schedule)
    assert [planned_rate(options, part) for part in rates] == pytest.approx(list(rates.values()))


def test_a_rate_below_the_least_does_not_rise() -> None:
    options = TrainingOptions(learning_rate=1e-30, schedule="linear")
    assert [planned_rate(options, part) for part in (0.0, 0.5, 1.0)] == [1e-30, 1e-30, 1e-30]


# --- Lookahead -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("turn", "every", "pulled"), [(True, 2, True), (False, 2, False), (True, 0, False)])
def test_lookahead_needs_the_turn_and_the_option(turn: bool, every: int, pulled: bool) -> None:
    weight = double(1.0)
    options = TrainingOptions(learning_rate=RATE, lookahead=every)
    (first, second) = pushed(optimizer_of(Turn("t", [weight], lookahead=turn), options), weight, [-1.0] * 2)
    assert first == pytest.approx(1 + RATE)
    assert second == pytest.approx(1 + (RATE if pulled else 2 * RATE))


def uneven(weights: list[nn.Parameter]) -> Tensor:
    """A valley whose gradient depends on where the weights are."""
    one, other = weights
    return (one**4).sum() + (3 * other.sum() - one[0]) ** 2


def descend(optimizer: Optimizer, weights: list[nn.Parameter], steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        uneven(weights).backward()
        optimizer.step()


def fresh() -> tuple[list[nn.Parameter], Optimizer]:
    weights = [double(1.0, -2.0, 0.5), double(0.3)]
    return weights, optimizer_of(Turn("t", weights, lookahead=True), RADAM)


def fast_and_slow(steps: int) -> list[Tensor]:
    """Lookahead (Zhang et al., NeurIPS 2019, algorithm 1; k = 6, alpha = 0.5) as a loop around plain RAdam."""
    fast = [double(1.0, -2.0, 0.5), double(0.3)]
    slow = [weight.detach().clone() for weight in fast]
    inner = RAdam(fast, lr=RATE, eps=1e-7)
    for step in range(1, steps + 1):
        descend(inner, fast, 1)
        if step % 6 == 0:
            slow = [old + 0.5 * (new.detach() - old) for old, new in zip(slow, fast, strict=True)]
            for weight, start in zip(fast, slow, strict=True):
                weight.data.copy_(start)
    return [weight.detach() for weight in fast]


@pytest.mark.parametrize("steps", [5, 6, 7, 12, 20])
def test_lookahead_is_the_loop_of_its_paper(steps: int) -> None:
    weights, optimizer = fresh()
    descend(optimizer, weights, steps)
    for found, expected in zip(weights, fast_and_slow(steps), strict=True):
        torch.testing.assert_close(found.detach(), expected, rtol=1e-12, atol=1e-14)


def restored(optimizer: Optimizer, weights: list[nn.Parameter]) -> tuple[list[nn.Parameter], Optimizer]:
    """A new optimiser of new weights that has been told, through a file, where another one stands."""
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "weights": [weight.detach() for weight in weights]}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    again, successor = fresh()
    for weight, value in zip(again, state["weights"], strict=True):
        weight.data.copy_(value)
    successor.load_state_dict(state["optimizer"])
    return again, successor


@pytest.mark.parametrize("cut", [0, 1, 5, 6, 7, 11, 12, 13])
def test_lookahead_goes_on_from_a_file_as_if_it_had_not_stopped(cut: int) -> None:
    whole, optimizer = fresh()
    descend(optimizer, whole, 19)
    weights, optimizer = fresh()
    descend(optimizer, weights, cut)
    again, successor = restored(optimizer, weights)
    for weight, other in zip(weights, again, strict=True):
        assert successor.state[other].keys() == optimizer.state[weight].keys()
        if cut:
            assert torch.equal(successor.state[other]["slow"], optimizer.state[weight]["slow"])
            assert torch.equal(weight, optimizer.state[weight]["slow"]) is (cut % 6 == 0)
    descend(successor, again, 19 - cut)
    assert all(torch.equal(one, other) for one, other in zip(whole, again, strict=True))


def test_slow_weights_begin_with_the_first_gradient() -> None:
    """A parameter that no loss has reached is neither moved nor known to the optimiser."""
    early, late = double(0.0), double(1.0)
    optimizer = Adam([early, late], lr=RATE)
    look_ahead(optimizer, every=2)
    pushed(optimizer, early, [-1.0] * 2)
    assert float(late.detach()) == 1
    assert not optimizer.state[late]
    late.grad = torch.full_like(late, -1.0)
    pushed(optimizer, early, [-1.0])
    late.data.fill_(3.0)  # its slow weight is still 1
    pushed(optimizer, early, [-1.0])
    assert float(late.detach()) == pytest.approx(1 + 0.5 * (3 + RATE - 1))
    assert float(early.detach()) == pytest.approx(2 * RATE)


# --- mean of the weights ---------------------------------------------------------------------------------------


class Owner(nn.Module):
    """As the loop: weights, and their mean beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.other = nn.Linear(2, 1)
        self.mean = WeightMean(list(self.layer.parameters()))

    def walk(self, generator: torch.Generator, steps: int) -> list[list[Tensor]]:
        """Move all weights at random and take them in; where the averaged ones were after each step."""
        path = []
        for _ in range(steps):
            for weight in self.parameters_of_layers():
                weight.data.normal_(generator=generator)
            self.mean.update()
            path.append([weight.detach().clone() for weight in self.layer.parameters()])
        return path

    def parameters_of_layers(self) -> list[nn.Parameter]:
        return [*self.layer.parameters(), *self.other.parameters()]


def copies(owner: Owner) -> list[Tensor]:
    return [weight.detach().clone() for weight in owner.parameters_of_layers()]


def same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("steps", [1, 2, 30])
def test_the_mean_is_the_plain_mean_of_the_weights_taken_in(steps: int) -> None:
    owner = Owner()
    path = owner.walk(torch.Generator().manual_seed(0), steps)
    with owner.mean.applied():
        for found, *walked in zip(owner.layer.parameters(), *path, strict=True):
            torch.testing.assert_close(found.detach(), torch.stack(walked).double().mean(0).float())


def test_the_mean_stands_in_for_the_weights_while_a_block_runs_and_no_longer() -> None:
    owner = Owner()
    owner.walk(torch.Generator().manual_seed(0), 3)
    live, identities = copies(owner), [id(weight) for weight in owner.parameters_of_layers()]
    for _ in range(2):
        with owner.mean.applied():
            inside = copies(owner)
        assert not any(torch.equal(a, b) for a, b in zip(inside[:2], live[:2], strict=True))
        assert same(inside[2:], live[2:])  # those of nobody's mean
        assert same(copies(owner), live)
    assert [id(weight) for weight in owner.parameters_of_layers()] == identities


def test_weights_are_put_back_after_an_error() -> None:
    owner = Owner()
    owner.walk(torch.Generator().manual_seed(0), 3)
    live = copies(owner)
    with pytest.raises(KeyboardInterrupt), owner.mean.applied():
        raise KeyboardInterrupt
    assert same(copies(owner), live)


def test_before_the_mean_is_begun_the_weights_stand_for_themselves() -> None:
    owner = Owner()
    owner.layer.weight.data.fill_(7.0)
    with owner.mean.applied():
        assert (owner.layer.weight == 7).all()
        owner.layer.weight.data.fill_(8.0)
    assert (owner.layer.weight == 8).all()
    assert not owner.mean.begun


def test_a_checkpoint_of_the_owner_holds_the_mean_once_and_it_goes_on_from_there() -> None:
    whole, cut, again = Owner(), Owner(), Owner()
    whole.walk(torch.Generator().manual_seed(1), 5)
    generator = torch.Generator().manual_seed(1)
    cut.walk(generator, 3)
    state: dict[str, Any] = copy.deepcopy(cut.state_dict())
    assert sum(value.shape == (2, 3) for value in state.values()) == 2  # the live weight and its mean
    again.load_state_dict(state)
    assert again.mean.begun
    again.walk(generator, 2)
    with whole.mean.applied(), again.mean.applied():
        assert same(copies(whole), copies(again))
