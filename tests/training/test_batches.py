from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from sansref.data.simulate import Sampling
from sansref.errors import SettingError
from sansref.kspace.masks.family import MaskFamily
from sansref.kspace.measurement import VIEWS
from sansref.methods import Draw, KspaceExample, collate
from sansref.training.batches import (
    ExampleSet,
    ShapeBatches,
    UnpairedScans,
    ValidationSet,
    WithoutHeldOut,
)

SHAPES = st.lists(st.sampled_from([(4, 4), (4, 6), (8, 4)]), min_size=1, max_size=25)
MIXED = ((32, 32), (32, 24), (32, 32), (24, 32), (32, 32), (32, 24))


@settings(deadline=None)
@given(SHAPES, st.integers(1, 7), st.integers(0, 5), st.integers(0, 3))
def test_batches_hold_every_item_once_and_one_shape_each(shapes, size, seed, epoch):
    batches = ShapeBatches(shapes, size, seed)
    batches.epoch = epoch
    drawn = list(batches)
    assert len(drawn) == len(batches)
    assert sorted(item for batch in drawn for item in batch) == list(range(len(shapes)))
    assert all(len({shapes[item] for item in batch}) == 1 and 1 <= len(batch) <= size for batch in drawn)
    assert drawn == list(batches)


def test_order_and_company_change_with_epoch_and_seed():
    def drawn(seed, epoch):
        batches = ShapeBatches([(4, 4)] * 20, 4, seed)
        batches.epoch = epoch
        return list(batches)

    assert drawn(0, 0) != drawn(0, 1)
    assert drawn(0, 0) != drawn(1, 0)
    assert {frozenset(batch) for batch in drawn(0, 0)} != {frozenset(batch) for batch in drawn(0, 1)}


class Recorder:
    """Stands for a method: hands out what it was asked."""

    def examples(self, sample, draw):
        assert sample.full is None
        return [(sample.scan, draw, sample.refined)]


def test_every_visit_in_every_epoch_is_a_draw_of_its_own():
    examples = ExampleSet(Recorder(), ["a", "b", "c"], seed=5, repeats=2, targets=None)
    assert len(examples) == 6
    draws = []
    for epoch in range(3):
        examples.epoch = epoch
        asked = [examples[index][0] for index in range(6)]
        assert [scan for scan, _, _ in asked] == ["a", "b", "c"] * 2
        assert all(refined is None for _, _, refined in asked)
        draws += [draw for _, draw, _ in asked]
    assert len(set(draws)) == len(draws)
    assert {draw.item for draw in draws} == {0, 1, 2}
    assert {draw.epoch for draw in draws} == set(range(6))
    assert Draw(5, 3, 1) in draws


def test_repeats_get_the_refined_data_of_their_scan():
    examples = ExampleSet(Recorder(), ["a", "b"], seed=0, repeats=2, targets=["A", "B"])
    assert [(examples[index][0][0], examples[index][0][2]) for index in range(4)] == [("a", "A"), ("b", "B")] * 2


def flat(example: KspaceExample) -> list[torch.Tensor]:
    return [example.given.kspace, example.given.mask, example.target, example.weight]


def test_partitions_differ_between_epochs_and_repeats(make_scans, tiny):
    config = tiny("ssdu")
    examples = ExampleSet(config.build(), make_scans((32, 32)), seed=0, repeats=3, targets=None)
    masks = []
    for epoch in range(2):
        examples.epoch = epoch
        masks += [examples[visit][0].given.mask for visit in range(3)]
    assert len({mask.numpy().tobytes() for mask in masks}) == 6
    examples.epoch = 0
    assert torch.equal(examples[0][0].given.mask, masks[0])


def test_mirrored_examples_are_views_of_the_ones_they_replace(make_scans, tiny):
    """Every view of the same partition, each about as often; and again in a resumed or parallel training."""
    method, scans = tiny("ssdu").build(), make_scans((32, 32))
    plain = ExampleSet(method, scans, seed=1, repeats=1, targets=None)
    mirrored = ExampleSet(method, scans, seed=1, repeats=1, targets=None, mirror=True)
    met = [0] * len(VIEWS)
    for epoch in range(160):
        plain.epoch = mirrored.epoch = epoch
        (as_it_is,), (shown,), (again,) = plain[0], mirrored[0], mirrored[0]
        views = [
            number for number, view in enumerate(VIEWS) if all(map(torch.equal, flat(as_it_is.seen(view)), flat(shown)))
        ]
        assert len(views) == 1
        met[views[0]] += 1
        assert all(map(torch.equal, flat(shown), flat(again)))
    assert min(met) > 6


def test_only_methods_that_learn_from_kspace_can_mirror(tiny):
    with pytest.raises(SettingError, match=r"'iscl' learns from images: leave out training\.mirror"):
        tiny("iscl", mirror=True)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # two workers, also on a single core
def test_workers_make_the_same_batches_as_the_main_process(make_scans, tiny):
    scans = make_scans(*MIXED)
    examples = ExampleSet(tiny("idr").build(), scans, seed=3, repeats=2, targets=None)
    batches = ShapeBatches([tuple(scan.mask.shape) for scan in scans] * 2, 2, seed=3)

    def epoch(number, workers):
        examples.epoch = batches.epoch = number
        return list(DataLoader(examples, batch_sampler=batches, collate_fn=collate, num_workers=workers))

    here, there = epoch(1, 0), epoch(1, 2)
    assert len(here) == len(there) == len(batches)
    for one, other in zip(here, there, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(flat(one), flat(other), strict=True))


def test_validation_item_hides_what_it_scores(make_scans):
    scans = [scan.without_reference() for scan in make_scans((32, 32), (32, 24))]
    items = ValidationSet(scans, MaskFamily(), 0.2, seed=1)
    assert len(items) == 2
    for scan, item in zip(scans, items, strict=False):
        held_out = item.held_out[0]
        assert torch.equal(item.given.mask[0], scan.mask & ~held_out)
        assert not item.given.kspace[0, 0][held_out].any()
        assert torch.equal(item.given.kspace[0, 0][~held_out], scan.kspace[0][~held_out])
        assert torch.equal(item.measured[0], scan.kspace)
        assert item.density.shape == scan.mask.shape
        assert item.reference is None


def test_nothing_is_expected_where_a_padded_scan_never_reached(make_scans):
    (scan,) = make_scans((32, 32))
    inside = torch.zeros_like(scan.mask)
    inside[:, 4:30] = True
    scan = replace(scan.restricted(inside), meta=replace(scan.meta, columns=(4, 30)))
    density = ValidationSet([scan], Sampling().family(emulated=True), 0.2, seed=1)[0].density
    assert bool((density[inside] > 0).all())
    assert not density[~inside].any()


def test_validation_item_carries_a_reference_only_if_the_scan_has_one(make_scans):
    (scan,) = make_scans((32, 32))
    item = ValidationSet([scan], MaskFamily(), 0.2, seed=1)[0]
    assert torch.equal(item.reference[0], scan.reference)


def test_training_never_sees_the_samples_that_validation_scores(make_scans, tiny):
    scans = make_scans((32, 32), (32, 24))
    kept, scored = WithoutHeldOut(scans, 0.2, seed=4), ValidationSet(scans, MaskFamily(), 0.2, seed=4)
    method = tiny("ssdu").build()
    examples = ExampleSet(method, kept, seed=4, repeats=3, targets=None)
    assert len(kept) == 2
    for index in range(len(examples)):
        scan, item = scans[index % 2], scored[index % 2]
        held_out = item.held_out[0]
        assert torch.equal(kept[index % 2].mask, scan.mask & ~held_out)
        (example,) = examples[index]
        assert not example.given.mask[held_out].any()
        assert not example.given.kspace[0][held_out].any()
        assert not example.target[0][held_out].any()
        assert not example.weight[held_out].any()
        assert torch.equal(kept[index % 2].measurement.kspace, item.given.kspace[0])


# --- unpaired scans --------------------------------------------------------------------------------------------


def named(kind, shapes):
    """Stand for scans: (kind, number, shape)."""
    return [(kind, index, shape) for index, shape in enumerate(shapes)]


def unpaired(shapes, full_shapes):
    return UnpairedScans(named("undersampled", shapes), shapes, named("full", full_shapes), full_shapes)


@settings(deadline=None)
@given(SHAPES, SHAPES, st.integers(0, 5), st.integers(0, 3))
def test_every_scan_meets_full_scans_of_its_shape_each_as_often_as_any_other(shapes, more, seed, epoch):
    full_shapes = [*more, *set(shapes)]
    scans = unpaired(shapes, full_shapes)
    assert list(scans) == named("undersampled", shapes)
    met = [scans.companion(item, Draw(seed, epoch, item)) for item in range(len(scans))]
    assert [shape for _, _, shape in met] == shapes
    times = Counter(met)
    for shape in set(shapes):
        counts = [times[full] for full in named("full", full_shapes) if full[2] == shape]
        assert max(counts) - min(counts) <= 1


def test_who_meets_whom_changes_with_epoch_and_seed_and_with_nothing_else():
    scans = unpaired([(4, 4)] * 12, [(4, 4)] * 12)

    def met(seed, epoch):
        return tuple(scans.companion(item, Draw(seed, epoch, item)) for item in range(12))

    assert len({met(seed, epoch) for seed in range(2) for epoch in range(3)}) == 6
    assert met(1, 2) == met(1, 2)


def test_over_the_epochs_everybody_meets_everybody():
    scans = unpaired([(4, 4)] * 3, [(4, 4)] * 4)
    met = {(item, scans.companion(item, Draw(0, epoch, item))[1]) for item in range(3) for epoch in range(60)}
    assert len(met) == 12


def test_scans_without_a_full_one_of_their_size_are_one_line_with_the_cure():
    message = r"scans of 8x4 have no full scans of their size beside them, only 4x4, 4x6: .* with --matrix or --crop"
    with pytest.raises(SettingError, match=message):
        unpaired([(4, 4), (8, 4)], [(4, 6), (4, 4)])


class Matchmaker:
    """Stands for an unpaired method."""

    def examples(self, sample, draw):
        return [(sample.scan[1], draw, sample.full[1])]


def test_every_visit_to_an_undersampled_scan_brings_a_full_one():
    scans = unpaired([(4, 4)] * 3, [(4, 4)] * 3)
    examples = ExampleSet(Matchmaker(), scans, seed=5, repeats=2, targets=None)
    assert len(examples) == 6
    rounds = []
    for epoch in range(4):
        examples.epoch = epoch
        asked = [examples[index][0] for index in range(6)]
        assert [scan for scan, _, _ in asked] == [0, 1, 2] * 2
        assert all(full == scans.companion(scan, draw)[1] for scan, draw, full in asked)
        rounds += [tuple(full for _, _, full in visit) for visit in (asked[:3], asked[3:])]
    assert all(sorted(visit) == [0, 1, 2] for visit in rounds)
    assert len(set(rounds)) > 2
