from __future__ import annotations

import torch
from torch import Tensor

from sansref.kspace.density import estimated_density
from sansref.kspace.family import MaskFamily, is_columns
from sansref.kspace.grid import Shape
from sansref.kspace.masks import SamplingMask, draw_mask
from sansref.randomness import seeded

SHAPE = (48, 40)


def pool(family: MaskFamily, acquired: Tensor, count: int) -> list[Tensor]:
    return [family.another(acquired, number) for number in range(count)]


def law(shape: Shape, generator: torch.Generator) -> SamplingMask:
    return draw_mask("variable_density", shape, 4, generator)


def points(seed: int = 0, shape: Shape = SHAPE) -> Tensor:
    return law(shape, seeded(seed)).array


def columns(seed: int = 0) -> Tensor:
    return draw_mask("random_columns", SHAPE, 3, seeded(seed)).array


def test_a_known_law_gives_its_own_density_whatever_the_mask() -> None:
    family = MaskFamily(law)
    assert torch.equal(family.density(points(1)), law(SHAPE, seeded(5)).density)
    assert torch.equal(family.density(points(1)), family.density(points(2)))
    assert family.density(points(1, (32, 50))).shape == (32, 50)


def test_masks_of_a_known_law_come_from_that_law_and_repeat() -> None:
    family = MaskFamily(law, seed=3)
    masks = pool(family, points(), 4)
    assert [int(mask.sum()) for mask in masks] == [int(points().sum())] * 4
    assert all(mask.shape == SHAPE and mask.dtype == torch.bool for mask in masks)
    distinct = {mask.numpy().tobytes() for mask in [*masks, points()]}
    assert len(distinct) == 5
    for again in (pool(family, points(9), 4), pool(MaskFamily(law, seed=3), points(), 4)):
        assert all(torch.equal(a, b) for a, b in zip(masks, again, strict=True))
    assert not torch.equal(masks[0], pool(MaskFamily(law, seed=4), points(), 1)[0])


def test_a_larger_pool_begins_with_the_smaller_one() -> None:
    family = MaskFamily(law)
    few, many = pool(family, points(), 2), pool(family, points(), 4)
    assert all(torch.equal(a, b) for a, b in zip(few, many[:2], strict=True))


def test_an_unknown_law_is_estimated_from_each_mask() -> None:
    family = MaskFamily()
    for mask in (points(1), points(2), columns()):
        assert torch.equal(family.density(mask), estimated_density(mask, is_columns(mask)))


def test_masks_of_an_unknown_law_are_like_the_one_acquired() -> None:
    acquired = points()
    masks = pool(MaskFamily(), acquired, 40)
    assert all(int(mask.sum()) == int(acquired.sum()) for mask in masks)
    centre = (slice(22, 26), slice(18, 22))
    assert all(bool(mask[centre].all()) for mask in masks)
    average = torch.stack(masks).float().mean(0)
    density = estimated_density(acquired, columns=False)
    # Each location is a coin thrown 40 times: the squared distance from its probability is p (1 - p) / 40.
    expected = (density * (1 - density) / 40).mean()
    assert 0.8 * expected < (average - density).square().mean() < 1.25 * expected


def test_masks_like_a_column_mask_are_column_masks() -> None:
    acquired = columns()
    for mask in pool(MaskFamily(), acquired, 5):
        assert is_columns(mask)
        assert int(mask[0].sum()) == int(acquired[0].sum())


def test_columns_are_told_from_points() -> None:
    assert is_columns(columns())
    assert is_columns(torch.ones(SHAPE, dtype=torch.bool))
    assert not is_columns(points())
    almost = columns()
    almost[3, int(almost[0].nonzero()[0])] = False
    assert not is_columns(almost)
