from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from sansref.commands.error_map import options_for
from sansref.kspace.measurement import Measurement
from sansref.methods import Draw, KspaceExample, Method, Needs, Sample, Turn, Update, collate
from sansref.methods.registry import METHODS
from sansref.metrics.error_maps import ErrorMapOptions
from sansref.networks.translators import TranslatorOptions
from sansref.scan import Scan, ScanMeta
from sansref.training.config import RunConfig


class Smallest(Method):
    """The least that a method must say."""

    needs: ClassVar[Needs] = Needs.UNDERSAMPLED

    @property
    def turns(self) -> list[Turn]:
        return []

    def examples(self, sample: Sample, draw: Draw) -> list[KspaceExample]:
        return []

    def step(self, batch: KspaceExample) -> Iterator[Update]:
        yield from ()

    def reconstruct(self, given: Measurement) -> Tensor:
        return given.kspace[:, 0]


def scan(seed: int = 0, with_maps: bool = False) -> Scan:
    generator = torch.Generator().manual_seed(seed)
    coils = 2 if with_maps else 1
    kspace = torch.randn(coils, 5, 4, dtype=torch.complex64, generator=generator)
    mask = torch.rand(5, 4, generator=generator) < 0.5
    return Scan(kspace * mask, mask, ScanMeta("s", "f"), maps=torch.ones_like(kspace) if with_maps else None)


def example(seed: int) -> KspaceExample:
    one = scan(seed)
    return KspaceExample(one.measurement, one.kspace + seed, one.mask.float() + seed)


def test_a_method_has_one_stage_and_refines_nothing_unless_it_says_so() -> None:
    method = Smallest()
    assert (method.stages, method.warm_start) == (1, True)
    with pytest.raises(NotImplementedError, match="Smallest has one stage and refines nothing"):
        method.refine(scan().measurement)


KINDS = [(name, {}) for name in METHODS] + [("ssdu", {"data_consistency": "soft"}), ("idr", {"denoise": True})]


@pytest.mark.parametrize(("name", "options"), KINDS)
def test_a_method_says_whether_the_images_of_a_batch_depend_on_each_other(
    make_scans: Callable[..., list[Scan]], tiny: Callable[..., RunConfig], name: str, options: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    moving = {} if issubclass(METHODS[name].network_type, TranslatorOptions) else {"init": "xavier"}  # no identity
    config = tiny(name, network=moving, **options)
    method = config.build().eval()
    one, other = (given.batch() for given in make_scans((80, 80), (80, 80)))
    both = replace(one, kspace=torch.cat([one.kspace, 7 * other.kspace]), mask=torch.cat([one.mask, other.mask]))
    with torch.inference_mode():
        alone, beside = method.reconstruct(one)[0], method.reconstruct(both)[0]
    if method.independent:
        torch.testing.assert_close(beside, alone, rtol=1e-3, atol=1e-4 * float(alone.abs().max()))
        return
    assert float((beside - alone).abs().max()) > 1e-3 * float(alone.abs().max())
    if not method.relative:  # error maps then give it one scan at a time
        assert options_for(method, config, ErrorMapOptions()).batch == 1


def test_a_network_is_given_samples_mask_and_maps_of_a_scan() -> None:
    one = scan(with_maps=True)
    given = one.measurement
    assert given.kspace is one.kspace
    assert given.mask is one.mask
    assert given.maps is one.maps


@pytest.mark.parametrize("with_maps", [False, True])
def test_stacking_adds_a_batch_axis(with_maps: bool) -> None:
    scans = [scan(i, with_maps) for i in range(3)]
    batch = Measurement.stacked([one.measurement for one in scans])
    for i, one in enumerate(scans):
        assert torch.equal(batch.kspace[i], one.kspace)
        assert torch.equal(batch.mask[i], one.mask)
        if batch.maps is not None and one.maps is not None:
            assert torch.equal(batch.maps[i], one.maps)
    assert (batch.maps is not None) is with_maps


def test_scans_with_and_without_maps_do_not_stack() -> None:
    """They would give fewer maps than scans, which broadcasting could hide."""
    mixed = [scan(with_maps=True).measurement, replace(scan(with_maps=True).measurement, maps=None)]
    with pytest.raises(ValueError, match=r"all or none .* sensitivity maps"):
        Measurement.stacked(mixed)


def test_collating_flattens_the_groups_of_several_scans_in_order() -> None:
    groups = [[example(0), example(1)], [example(2)]]
    batch = collate(groups)
    flat = [one for group in groups for one in group]
    for i, one in enumerate(flat):
        assert torch.equal(batch.given.kspace[i], one.given.kspace)
        assert torch.equal(batch.given.mask[i], one.given.mask)
        assert torch.equal(batch.target[i], one.target)
        assert torch.equal(batch.weight[i], one.weight)
    assert batch.given.maps is None
    assert batch.weight.shape == (3, 5, 4)


@pytest.mark.parametrize("with_maps", [False, True])
def test_measured_moves_as_a_whole(with_maps: bool) -> None:
    moved = scan(with_maps=with_maps).measurement.to(torch.device("meta"))
    assert moved.kspace.device.type == moved.mask.device.type == "meta"
    assert (moved.maps is not None and moved.maps.device.type == "meta") is with_maps


def test_random_streams_depend_on_seed_and_item_and_the_fresh_one_on_the_epoch() -> None:
    def number(draw: Draw, once: bool) -> float:
        return float(torch.rand((), generator=draw.once() if once else draw.fresh(), dtype=torch.float64))

    draws = [Draw(seed, epoch, item) for seed in (0, 1) for epoch in (0, 1, 2) for item in (0, 1, 2)]
    assert len({number(draw, once=False) for draw in draws}) == len(draws)
    once = {(draw.seed, draw.item): number(draw, once=True) for draw in draws}
    assert len(set(once.values())) == 6
    for draw in draws:
        assert number(draw, once=True) == once[draw.seed, draw.item]
        assert number(draw, once=False) == number(draw, once=False)
