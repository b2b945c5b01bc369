from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sansref.kspace.masks.laws import draw_mask
from sansref.kspace.partitions import k_weights, split_gaussian


def test_weight_is_the_chance_of_a_hidden_location_to_be_a_target() -> None:
    """1 - K = P(in Omega but not Lambda | not in both), by drawing Omega and Lambda many times."""
    generator = torch.Generator().manual_seed(0)
    p, q = (0.05 + 0.9 * torch.rand(8, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    draws = 20_000
    acquired = torch.rand(draws, 8, 8, generator=generator) < p
    selected = torch.rand(draws, 8, 8, generator=generator) < q
    given_input = acquired & selected
    target = acquired & ~selected
    hidden = (~given_input).sum(0)
    frequency = target.sum(0) / hidden
    expected = k_weights(p, q) ** -2
    spread = (expected * (1 - expected) / hidden).sqrt()
    assert ((frequency - expected).abs() < 4.5 * spread).all()


def test_weighted_error_on_the_target_estimates_the_error_on_all_hidden_locations() -> None:
    generator = torch.Generator().manual_seed(1)
    error = torch.rand(32, 32, generator=generator, dtype=torch.float64)
    on_target, hidden = 0.0, 0.0
    for seed in range(100):
        mask = draw_mask("variable_density", (32, 32), 2, torch.Generator().manual_seed(seed), exact=False)
        part = split_gaussian(mask.array, 0.4, generator)
        weight = k_weights(mask.density.double(), part.selected.double())
        on_target += float(((weight * error)[part.target] ** 2).sum())
        hidden += float((error[~part.input & (part.selected < 1)] ** 2).sum())
    assert on_target / hidden == pytest.approx(1, abs=0.03)


@given(p=st.floats(0, 1), q=st.floats(0, 1))
def test_finite_everywhere(p: float, q: float) -> None:
    weight = k_weights(torch.tensor([[p]]), torch.tensor([[q]]))
    assert weight.dtype == torch.float32
    assert torch.isfinite(weight).all()
    assert (weight >= 1).all()


@pytest.mark.parametrize(("p", "q"), [(0.0, 0.5), (0.5, 1.0), (1.0, 1.0), (0.0, 1.0), (1.0, 0.5)])
def test_limits(p: float, q: float) -> None:
    # p = 1: every hidden location is a target. Otherwise the location can never be one, and counts as it is.
    assert k_weights(torch.tensor([[p]]), torch.tensor([[q]])) == 1
