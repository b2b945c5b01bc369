from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sansref.kspace.grid import Shape, central_mask, is_columns
from sansref.kspace.masks import SamplingMask, draw_mask
from sansref.kspace.masks.family import MaskFamily
from sansref.kspace.masks.mask import estimated_density, reached
from sansref.kspace.partitions import never_held_out
from sansref.metrics.held_out import held_out_folds, held_out_mask
from sansref.randomness import seeded
from sansref.scan import Scan, ScanMeta

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


@pytest.mark.parametrize("calibration", [0, 15])
@pytest.mark.parametrize("columnwise", [False, True])
def test_the_density_of_a_known_law_is_less_by_what_is_withheld(columnwise: bool, calibration: int) -> None:
    """Over scans of the law, samples are acquired and kept as often as the density says."""
    shape, share = (32, 40), 0.3

    def draw(shape: Shape, generator: torch.Generator) -> SamplingMask:
        return draw_mask("random_columns" if columnwise else "variable_density", shape, 3, generator)

    kept = torch.zeros(shape)
    for number in range(400):
        mask = draw(shape, seeded("mask", number)).array
        one = Scan(torch.zeros(1, *shape, dtype=torch.complex64), mask, ScanMeta("s", "f", calibration=calibration))
        kept += mask & ~held_out_mask(one, share, 0, number)
    plain, less = (MaskFamily(draw, withheld=h).density(mask, calibration) for h in (0.0, share))
    torch.testing.assert_close(kept / 400, less, atol=0.12, rtol=0)
    assert float((kept / 400 - less).mean()) == pytest.approx(0, abs=0.01)  # whole samples are withheld
    assert float((kept / 400 - plain).mean()) < -0.05
    center = central_mask(shape, never_held_out(shape, least=calibration))
    assert torch.equal(less[center], plain[center])
    assert torch.equal(MaskFamily(withheld=share).density(mask), MaskFamily().density(mask))


@pytest.mark.parametrize("columnwise", [False, True])
def test_masks_drawn_by_estimate_have_as_many_samples_as_scans_from_which_some_are_withheld(columnwise: bool) -> None:
    share, law_name = 0.3, "random_columns" if columnwise else "variable_density"
    for seed in range(3):
        mask = draw_mask(law_name, (96, 80), 4, seeded(seed)).array
        one = Scan(torch.zeros(1, 96, 80, dtype=torch.complex64), mask, ScanMeta("s", "f"))
        kept = mask & ~held_out_mask(one, share, 0, seed)
        drawn = pool(MaskFamily(withheld=share), kept, 2)
        assert [float(other.sum()) for other in drawn] == pytest.approx([float(mask.sum())] * 2, rel=0.03)
        assert int(pool(MaskFamily(), kept, 1)[0].sum()) == int(kept.sum()) < 0.9 * int(mask.sum())


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
    center = (slice(22, 26), slice(18, 22))
    assert all(bool(mask[center].all()) for mask in masks)
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


@pytest.mark.parametrize("step", [(3, 1), (2, 2)])
def test_rows_and_lattices_are_no_columns(step: tuple[int, int]) -> None:
    acquired = torch.zeros(SHAPE, dtype=torch.bool)
    acquired[:: step[0], :: step[1]] = True
    assert not is_columns(acquired)
    density = MaskFamily().density(acquired)
    assert float(density.mean()) == pytest.approx(float(acquired.float().mean()), rel=0.1)
    assert (MaskFamily().another(acquired, 0) != acquired).any()


@pytest.mark.parametrize(("withheld", "rows"), [(0.0, 1), (0.1, 1), (0.1, 64)], ids=["none", "columns", "points"])
@pytest.mark.parametrize("axis", [0, 1])
def test_masks_like_one_that_lacks_nothing_but_its_border_leave_out_some_of_it(
    axis: int, withheld: float, rows: int
) -> None:
    """Partial Fourier or an asymmetric echo alone: stages of IDR need masks that are not the scan's own."""
    acquired = torch.ones(64, 64, dtype=torch.bool)
    acquired.narrow(axis, 0, 16).fill_(False)
    acquired &= torch.rand(rows, 64, generator=seeded(0)) >= withheld
    for mask in pool(MaskFamily(withheld=withheld), acquired, 20):
        assert float((acquired & ~mask).sum() / acquired.sum()) > 0.1


@pytest.mark.parametrize(("width", "acceleration", "center"), [(64, 4, 0.08), (128, 8, 0.04), (320, 8, 0.04)])
def test_gaps_that_chance_leaves_can_be_sampled(width: int, acceleration: int, center: float) -> None:
    """Else errors there would be taken for zero padding, in which there are none."""
    counted = []
    for seed in range(10):
        acquired = draw_mask("random_columns", (8, width), acceleration, seeded(seed), center=center).array
        density = MaskFamily().density(acquired)
        assert float(density.sum()) == pytest.approx(float(acquired.sum()))
        counted.append(float((density > 0)[~acquired].float().mean()))
    assert sum(counted) / 10 > 0.9


@pytest.mark.parametrize("step", [4, 6, 8])
def test_the_density_of_a_lattice_is_even(step: int) -> None:
    acquired = torch.zeros(8, 128, dtype=torch.bool)
    acquired[:, 64 % step :: step] = True
    acquired[:, 61:67] = True
    density = MaskFamily().density(acquired)
    assert bool((density > 0).all())
    assert float(density[0, 80:].std()) < 0.5 / step


@pytest.mark.parametrize("law", ["random_columns", "variable_density"])
def test_zero_padding_has_no_density_and_partial_fourier_has(law: str) -> None:
    whole = draw_mask(law, (64, 64), 4, seeded()).array
    padded = torch.nn.functional.pad(whole, (32, 32, 32, 32))
    inside = torch.nn.functional.pad(torch.ones_like(whole), (32, 32, 32, 32))
    density = MaskFamily().density(padded)
    beyond = ~inside
    beyond[[31, 96]] = beyond[:, [31, 96]] = False  # on the other side of DC there is one more row, and one more column
    assert not density[beyond].any()
    assert not MaskFamily().another(padded, 0)[beyond].any()
    assert float((density[inside] > 0).float().mean()) > 0.9
    part = draw_mask(law, (128, 128), 4, seeded()).array
    part[:, :40] = False
    assert float((MaskFamily().density(part)[:, :40] > 0).float().mean()) > 0.9


def test_columns_of_an_asymmetric_echo_are_columns() -> None:
    """Rows that no echo reached are out of the mask, and out of those like it."""
    acquired = columns()
    acquired[:9] = False
    assert is_columns(acquired)
    assert torch.equal(MaskFamily().density(acquired), MaskFamily().density(columns()))
    for mask in pool(MaskFamily(), acquired, 5):
        assert is_columns(mask)
        assert torch.equal(mask.any(1), acquired.any(1))
        assert int(mask.any(0).sum()) == int(acquired.any(0).sum())
    one = Scan(torch.zeros(1, *SHAPE, dtype=torch.complex64), acquired, ScanMeta("s", "f"))
    folds = held_out_folds(one, 4, 0)
    for held_out in (held_out_mask(one, 0.3, 0, 0), *folds):
        assert held_out.any()
        assert torch.equal(held_out, held_out.any(0) & acquired)
    assert torch.equal(torch.stack(folds).sum(0) > 0, sum(folds) == 1)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("columnwise", [False, True])
def test_masks_like_one_of_partial_fourier_stay_within_what_it_reached(columnwise: bool, turned: bool) -> None:
    whole = draw_mask("random_columns" if columnwise else "variable_density", (96, 96), 3, seeded(0)).array
    outside = torch.arange(96) >= 62
    acquired = whole & ~outside
    acquired[:, 0] = False  # which has nothing opposite
    if turned:  # about DC, which is at 48
        acquired, outside = (values.flip(-1).roll(1, -1) for values in (acquired, outside))
    for mask in pool(MaskFamily(), acquired, 5):
        assert int(mask.sum()) == pytest.approx(int(acquired.sum()), rel=0.01)
        assert not mask[:, outside].any()
    assert all(bool(reached(points(seed, (96, 96))).all()) for seed in range(20))
