from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.scans import noise_scan
from sansref.errors import SettingError
from sansref.kspace.cartesian import Cartesian
from sansref.kspace.fourier import fft2c
from sansref.kspace.grid import Shape, central_mask
from sansref.kspace.masks import SamplingMask, draw_mask
from sansref.kspace.masks.family import MaskFamily
from sansref.kspace.partitions import k_weights, split_uniform
from sansref.methods import SSDU, Draw, KspaceExample, Needs, Sample, SSDUOptions, collate
from sansref.methods.unrolled import mixed_l1_l2, weighted_mse
from sansref.networks import NetworkOptions, Reconstructor
from sansref.randomness import seeded
from sansref.scan import Scan, ScanMeta

SHAPE = (40, 36)
VARIANTS: dict[str, dict[str, Any]] = {
    "uniform": {},
    "gaussian": {"split": "gaussian"},
    "several": {"partitions": 3},
    "drawn once": {"redraw": False},
    "weighted": {"k_weighting": True},
    "columns": {"unit": "column"},
}


def law(shape: Shape, generator: torch.Generator) -> SamplingMask:
    return draw_mask("variable_density", shape, 4, generator)


def method(**options: Any) -> SSDU:
    torch.manual_seed(0)
    network = Reconstructor(NetworkOptions(phases=1, channels=2))
    return SSDU(network, SSDUOptions(**options), MaskFamily(law))


def scan(columns: bool = False, coils: int = 1) -> Scan:
    drawn = draw_mask("random_columns", SHAPE, 2, seeded(1)) if columns else law(SHAPE, seeded(1))
    maps = torch.ones(coils, *SHAPE, dtype=torch.complex64) if coils > 1 else None
    return noise_scan(drawn.array, coils, maps)


def masks(example: KspaceExample) -> tuple[Tensor, Tensor]:
    return example.given.mask, example.weight > 0


def test_needs_undersampled_scans_alone() -> None:
    assert SSDU.needs is Needs.UNDERSAMPLED
    assert method().stages == 1


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("variant", VARIANTS)
def test_input_and_loss_are_disjoint_and_together_all_that_was_acquired(variant: str, epoch: int) -> None:
    one = scan(columns=variant == "columns", coils=2)
    examples = method(**VARIANTS[variant]).examples(Sample(one), Draw(0, epoch, 0))
    assert len(examples) == VARIANTS[variant].get("partitions", 1)
    for example in examples:
        given, target = masks(example)
        assert not (given & target).any()
        assert torch.equal(given | target, one.mask)
        assert bool(given.any())
        assert 0.3 < float(target.sum() / one.mask.sum()) <= 0.4
        assert torch.equal(example.given.kspace, one.kspace * given)
        assert torch.equal(example.target * target, one.kspace * target)
        assert example.given.maps is one.maps


def test_the_loss_can_only_see_samples_that_the_network_did_not_get() -> None:
    """Changing the input's samples in the target changes no loss; changing a held-out one does."""
    learned, one = method(loss="mse"), scan()
    (example,) = learned.examples(Sample(one), Draw(0, 0, 0))
    given, target = masks(example)

    def data(changed: Tensor) -> float:
        moved = example._replace(target=example.target + changed)
        return float(next(learned.step(collate([[moved]]))).parts["data"])

    assert data(5 * given) == data(0 * given) == data(5 * ~one.mask)
    assert data(5 * target) > data(0 * target)


@pytest.mark.parametrize(("redraw", "distinct"), [(True, 4), (False, 1)])
def test_partitions_are_redrawn_every_epoch_or_never(redraw: bool, distinct: int) -> None:
    learned = method(redraw=redraw)
    inputs = {learned.examples(Sample(scan()), Draw(0, epoch, 0))[0].given.mask.numpy().tobytes() for epoch in range(4)}
    assert len(inputs) == distinct


@pytest.mark.parametrize("redraw", [True, False])
def test_scans_and_seeds_have_their_own_partitions(redraw: bool) -> None:
    learned = method(redraw=redraw)
    draws = [Draw(0, 0, 0), Draw(0, 0, 1), Draw(1, 0, 0)]
    inputs = {learned.examples(Sample(scan()), draw)[0].given.mask.numpy().tobytes() for draw in draws}
    assert len(inputs) == 3


def test_several_partitions_differ_from_each_other() -> None:
    examples = method(partitions=4).examples(Sample(scan()), Draw(0, 0, 0))
    assert len({example.given.mask.numpy().tobytes() for example in examples}) == 4


def test_the_loss_of_several_partitions_is_the_mean_of_theirs() -> None:
    learned = method(partitions=3, loss="mixed")
    examples = learned.examples(Sample(scan()), Draw(0, 0, 0))
    together = next(learned.step(collate([examples]))).loss
    alone = torch.stack([next(learned.step(collate([[example]]))).loss for example in examples])
    torch.testing.assert_close(together, alone.mean())


def test_whole_columns_are_split_on_request() -> None:
    for epoch in range(3):
        (example,) = method(unit="column").examples(Sample(scan(columns=True)), Draw(0, epoch, 0))
        for mask in masks(example):
            assert torch.equal(mask, mask[:1].expand_as(mask))
    with pytest.raises(SettingError, match="some columns are only partly acquired"):
        method(unit="column").examples(Sample(scan()), Draw(0, 0, 0))


@pytest.mark.parametrize("split", ["uniform", "gaussian"])
@pytest.mark.parametrize(("center", "sides"), [(16 / 256, (2, 2)), (0.25, (10, 9)), (0.0, (0, 0))])
def test_the_center_stays_in_the_input(split: str, center: float, sides: Shape) -> None:
    learned, center = method(split=split, split_center=center), central_mask(SHAPE, sides)
    targets = [masks(learned.examples(Sample(scan()), Draw(0, epoch, 0))[0])[1] for epoch in range(60)]
    assert not any(bool((target & center).any()) for target in targets)
    just_outside = central_mask(SHAPE, (sides[0] + 2, sides[1] + 2)) & ~center & scan().mask
    assert any(bool((target & just_outside).any()) for target in targets)


def test_a_gaussian_split_takes_more_of_the_low_frequencies() -> None:
    rows, columns = (torch.arange(n) - n // 2 for n in SHAPE)
    away = torch.hypot(rows[:, None].float(), columns.float())

    def mean_distance(split: str) -> float:
        draws = [Draw(0, epoch, 0) for epoch in range(20)]
        targets = [masks(method(split=split).examples(Sample(scan()), draw)[0])[1] for draw in draws]
        return float(torch.cat([away[target] for target in targets]).mean())

    assert mean_distance("gaussian") < 0.9 * mean_distance("uniform")


@pytest.mark.parametrize("split", ["uniform", "gaussian"])
def test_k_weighting_multiplies_squared_errors_by_the_square_of_the_residuals_weight(split: Any) -> None:
    one, draw = scan(), Draw(3, 2, 1)
    (plain,) = method(split=split, split_center=0.1).examples(Sample(one), draw)
    (weighted,) = method(split=split, split_center=0.1, k_weighting=True).examples(Sample(one), draw)
    assert torch.equal(plain.given.mask, weighted.given.mask)
    assert set(plain.weight.unique().tolist()) == {0.0, 1.0}
    target = plain.weight > 0
    assert torch.equal(target, weighted.weight > 0)
    assert bool((weighted.weight[target] >= 1).all())
    if split == "uniform":
        partition = split_uniform(one.mask, 0.4, draw.fresh(), block=(4, 4))
        expected = k_weights(MaskFamily(law).density(one.mask), partition.selected).square()
        torch.testing.assert_close(weighted.weight, expected * target)


def test_with_k_weighting_every_location_that_is_not_given_counts_alike() -> None:
    """Over masks of the law and over splits, the mean weight where the input has nothing is 1 (Millard and Chiew)."""
    learned = method(k_weighting=True)
    weight, absent = torch.zeros(SHAPE), torch.zeros(SHAPE)
    for i in range(400):
        mask = draw_mask("variable_density", SHAPE, 4, seeded("law", i), exact=False).array
        one = Scan(torch.zeros(1, *SHAPE, dtype=torch.complex64), mask, ScanMeta("s", "f"))
        (example,) = learned.examples(Sample(one), Draw(0, i, 0))
        weight += example.weight
        absent += ~example.given.mask
    outside = absent > 20
    rows, columns = (torch.arange(n) - n // 2 for n in SHAPE)
    away = torch.hypot(rows[:, None].float(), columns.float())
    for near, far in ((4, 9), (9, 14), (14, 30)):
        ring = outside & (away >= near) & (away < far)
        assert float(weight[ring].sum() / absent[ring].sum()) == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("coils", [1, 2])
def test_the_acquired_samples_are_put_into_the_reconstruction_unless_told_otherwise(coils: int) -> None:
    given = scan(coils=coils).batch()
    torch.manual_seed(0)
    network = Reconstructor(NetworkOptions(phases=1, channels=2, init="xavier"))
    bare = SSDU(network, SSDUOptions(data_consistency="none"), MaskFamily(law)).reconstruct(given)
    torch.testing.assert_close(bare, network(given))
    kept = SSDU(network, SSDUOptions(), MaskFamily(law)).reconstruct(given)
    torch.testing.assert_close(kept, Cartesian(given.mask, given.maps).data_consistent(bare, given.kspace))
    if coils == 1:
        mask = given.mask.unsqueeze(1)
        torch.testing.assert_close(fft2c(kept).unsqueeze(1)[mask], given.kspace[mask])
        assert not torch.allclose(fft2c(bare).unsqueeze(1)[mask], given.kspace[mask])


@pytest.mark.parametrize(("name", "expected"), [("mse", weighted_mse), ("mixed", mixed_l1_l2)])
def test_the_loss_is_chosen_by_name(name: Any, expected: object) -> None:
    assert method(loss=name).data_loss is expected


def test_impossible_options_are_refused() -> None:
    with pytest.raises(SettingError, match="partitions must be at least 1, got 0"):
        method(partitions=0)
    with pytest.raises(SettingError, match=r"ratio must lie between 0 and 1, got 1\.5"):
        method(ratio=1.5).examples(Sample(scan()), Draw(0, 0, 0))
