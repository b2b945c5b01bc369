from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.scans import noise_scan
from sansref.errors import FileError, SettingError
from sansref.kspace.cartesian import Cartesian
from sansref.kspace.coils import birdcage_maps
from sansref.kspace.grid import Shape, central_mask, distance
from sansref.kspace.masks import SamplingMask, draw_mask
from sansref.kspace.masks.family import MaskFamily
from sansref.kspace.measurement import Measurement
from sansref.kspace.noise import estimate_noise
from sansref.methods import IDR, SSDU, Draw, IDROptions, KspaceExample, Needs, Sample, SSDUOptions
from sansref.methods.unrolled import mixed_l1_l2, weighted_mse
from sansref.networks import NetworkOptions, Reconstructor
from sansref.randomness import seeded
from sansref.scan import Scan, ScanMeta

SHAPE = (40, 36)
# No weights, no noise and a small pool, so that each test says which choice it is about.
PLAIN: dict[str, Any] = {"k_weighting": False, "data_consistency": "none", "input_noise": 0.0, "pool": 32}


def law(shape: Shape, generator: torch.Generator) -> SamplingMask:
    return draw_mask("variable_density", shape, 4, generator)


FAMILY = MaskFamily(law)


def method(family: MaskFamily | None = None, **options: Any) -> IDR:
    torch.manual_seed(0)
    network = Reconstructor(NetworkOptions(phases=1, channels=2, init="xavier"))
    return IDR(network, IDROptions(**(PLAIN | options)), family or FAMILY)


def scan(coils: int = 1) -> Scan:
    maps = birdcage_maps(SHAPE, coils) if coils > 1 else None
    return noise_scan(law(SHAPE, seeded("acquired")).array, coils, maps)


def refined_of(one: Scan) -> Tensor:
    """Stand-in for what a network predicted, with the acquired samples kept."""
    predicted = torch.randn(one.kspace.shape, dtype=torch.complex64, generator=seeded("refined"))
    return torch.where(one.mask, one.kspace, predicted)


def only(examples: list[KspaceExample]) -> KspaceExample:
    (example,) = examples
    return example


def later(one: Scan, epoch: int = 0, **options: Any) -> KspaceExample:
    return only(method(**options).examples(Sample(one, refined_of(one)), Draw(0, epoch, 0)))


def between(one: Scan) -> Tensor:
    """Half way from the lower end of the noise that is found to what is found."""
    noise = estimate_noise(one.kspace, one.mask)
    return (noise.low + noise.level) / 2


def test_needs_undersampled_scans_alone_in_as_many_stages_as_asked() -> None:
    assert IDR.needs is Needs.UNDERSAMPLED
    assert method(stages=3).stages == 3
    assert method().warm_start


@pytest.mark.parametrize("coils", [1, 3])
def test_the_first_stage_predicts_a_part_of_the_acquired_samples_from_the_rest(coils: int) -> None:
    one, inputs = scan(coils), []
    outside = one.mask & ~central_mask(SHAPE, (2, 2))
    for epoch in range(20):
        example = only(method(selection=0.7).examples(Sample(one), Draw(0, epoch, 0)))
        given = example.given.mask
        inputs.append(given)
        assert not (given & ~one.mask).any()
        assert float((given & outside).sum() / outside.sum()) == pytest.approx(0.7, abs=0.01)
        assert torch.equal(example.given.kspace, one.kspace * given)
        assert example.given.maps is one.maps
        assert torch.equal(example.weight, (one.mask & ~given).float())
        assert torch.equal(example.target, one.kspace)
        assert bool(given[central_mask(SHAPE, (2, 2))].all())
    assert len({mask.numpy().tobytes() for mask in inputs}) == 20


@pytest.mark.parametrize("coils", [1, 3])
def test_refining_keeps_acquired_samples_bit_for_bit_and_predicts_the_rest(coils: int) -> None:
    learned, one = method(), scan(coils)
    given = Measurement.stacked([one.measurement, one.measurement])
    image = learned.reconstruct(given).detach()
    refined = learned.refine(given).detach()
    predicted = Cartesian(torch.ones_like(given.mask), given.maps).forward(image)
    for coil in range(coils):
        assert torch.equal(refined[:, coil][given.mask], given.kspace[:, coil][given.mask])
        torch.testing.assert_close(refined[:, coil][~given.mask], predicted[:, coil][~given.mask])


def assert_equally_likely(counts: list[int]) -> None:
    rounds, share = sum(counts), 1 / len(counts)
    assert all(abs(count - rounds * share) < 4 * (rounds * share * (1 - share)) ** 0.5 for count in counts)


@pytest.mark.parametrize("coils", [1, 3])
def test_a_later_stage_learns_refined_data_from_refined_data_under_another_mask_of_the_law(coils: int) -> None:
    one, learned = scan(coils), method(pool=4, refined_weight=1.0)
    others = [FAMILY.another(one.mask, number) for number in range(3)]
    counts = [0] * 3
    for epoch in range(300):
        example = only(learned.examples(Sample(one, refined_of(one)), Draw(0, epoch, 0)))
        (used,) = (i for i, mask in enumerate(others) if torch.equal(mask, example.given.mask))
        counts[used] += 1
        assert torch.equal(example.given.kspace, refined_of(one) * example.given.mask)
        assert example.given.maps is one.maps
        assert torch.equal(example.target, refined_of(one))
        assert bool((example.weight == 1).all())
    assert_equally_likely(counts)


def test_refined_samples_of_the_input_are_given_the_noise_of_the_acquired_ones() -> None:
    one = scan(2)
    plain, noisy = (later(one, input_noise=factor) for factor in (0.0, 2.0))
    mask = plain.given.mask
    assert torch.equal(noisy.given.mask, mask)
    assert torch.equal(noisy.given.kspace[:, mask & one.mask], plain.given.kspace[:, mask & one.mask])
    assert not noisy.given.kspace[:, ~mask].any()
    added = (noisy.given.kspace - plain.given.kspace)[:, mask & ~one.mask]
    assert torch.view_as_real(added).std(dim=(1, 2)).tolist() == pytest.approx(
        (2 * between(one)).flatten().tolist(), rel=0.25
    )
    assert torch.equal(noisy.target, plain.target)
    assert torch.equal(noisy.weight, plain.weight)
    again = later(one, epoch=1, input_noise=2.0)
    assert not torch.equal(again.given.kspace, noisy.given.kspace)


def test_edges_at_the_rim_of_kspace_are_half_taken_for_noise_of_the_input() -> None:
    falling = distance((96, 96)).float().clamp(min=1) ** -1.5
    added, expected, found = 0.0, 0.0, 0.0
    for number in range(5):
        one = noise_scan(law((96, 96), seeded(f"acquired {number}")).array, 1, None)
        edges = replace(one, kspace=one.kspace * falling)
        example = only(method(input_noise=1.0).examples(Sample(edges, edges.kspace), Draw(0, 0, 0)))
        predicted = example.given.kspace[:, example.given.mask & ~edges.mask]
        added += float(torch.view_as_real(predicted).std())
        expected += float(between(edges))
        found += float(estimate_noise(edges.kspace, edges.mask).level)
    assert added == pytest.approx(expected, rel=0.03)
    assert expected < 0.8 * found


def test_the_noise_of_the_input_is_that_which_is_known_where_it_is() -> None:
    found = scan(2)
    known = replace(found, meta=replace(found.meta, noise=(0.5, 3.0)))
    plain, noisy = (later(known, input_noise=factor) for factor in (0.0, 1.0))
    added = (noisy.given.kspace - plain.given.kspace)[:, plain.given.mask & ~known.mask]
    assert torch.view_as_real(added).std(dim=(1, 2)).tolist() == pytest.approx([0.5, 3.0], rel=0.25)


def test_negative_noise_is_refused() -> None:
    with pytest.raises(SettingError, match="input_noise must not be negative, got -1"):
        IDROptions(input_noise=-1)


@pytest.mark.parametrize("weight", [0.0, -1.0])
def test_a_refined_weight_that_is_not_positive_is_refused(weight: float) -> None:
    with pytest.raises(SettingError, match="refined_weight must be positive"):
        IDROptions(refined_weight=weight)


def equispaced(acquired: Tensor, **options: Any) -> list[Tensor]:
    """Masks of the input of later stages, of a law with three different masks."""

    def draw(shape: Shape, generator: torch.Generator) -> SamplingMask:
        columns = torch.arange(shape[1]).remainder(3) == int(torch.randint(3, (), generator=generator))
        return SamplingMask(columns.expand(shape), torch.full(shape, 1 / 3))

    family = MaskFamily(draw)
    one = Scan(torch.ones(1, *SHAPE, dtype=torch.complex64) * acquired, acquired, ScanMeta("s", "f.h5"))
    learned = method(family, **options)
    return [only(learned.examples(Sample(one, one.kspace), Draw(0, epoch, 0))).given.mask for epoch in range(40)]


def test_a_later_stage_is_never_shown_all_that_was_acquired_where_a_law_repeats_itself() -> None:
    own = (torch.arange(SHAPE[1]).remainder(3) == 1).expand(SHAPE)
    masks = equispaced(own)
    assert all((own & ~mask).any() for mask in masks)
    assert len({mask.numpy().tobytes() for mask in masks}) == 2
    alone = own & (torch.rand(SHAPE, generator=seeded("held out")) < 0.9)
    assert all((alone & ~mask).any() for mask in equispaced(alone))


def test_a_full_scan_is_refused_before_its_first_stage() -> None:
    """No mask of a later stage could leave anything out; noise can be taken out of it, and one stage needs no mask."""
    sample = Sample(noise_scan(torch.ones(SHAPE, dtype=torch.bool)))
    with pytest.raises(FileError, match=r"is fully sampled, .* Use an --acceleration above 1, or --denoise true"):
        method().examples(sample, Draw(0, 0, 0))
    for options in ({"denoise": True}, {"stages": 1}):
        assert only(method(**options).examples(sample, Draw(0, 0, 0))).weight.any()


def test_a_pool_without_any_other_mask_is_one_line() -> None:
    nothing = torch.zeros(SHAPE, dtype=torch.bool)
    with pytest.raises(SettingError, match=r"f\.h5: none of 31 masks of its kind leaves out anything .* larger --pool"):
        equispaced(nothing)


@pytest.mark.parametrize("learned", [method(), SSDU(method().network, SSDUOptions(split_center=4 / 256), FAMILY)])
def test_dc_is_given_on_grids_of_few_rows_too(learned: Any) -> None:
    mask = torch.rand(6, 64, generator=seeded("few rows")) < 0.5
    mask[3, 32] = True
    for number in range(50):
        (example, *_) = learned.examples(Sample(noise_scan(mask)), Draw(0, number, 0))
        assert example.given.mask[3, 32]


def test_nothing_is_predicted_into_the_input_where_a_padded_scan_never_reached() -> None:
    full, padded = scan(), scan()
    inside = torch.zeros(SHAPE, dtype=torch.bool)
    inside[:, 5:30] = True
    padded = replace(padded.restricted(inside), meta=replace(padded.meta, columns=(5, 30)))
    learned = method()
    for epoch in range(20):
        given = only(learned.examples(Sample(padded, refined_of(full)), Draw(0, epoch, 0))).given
        assert given.mask.any()
        assert not (given.mask & ~inside).any()
        assert not given.kspace[:, ~inside].any()


@pytest.mark.parametrize("weight", [0.25, 2.0])
def test_refined_samples_can_weigh_less_than_acquired_ones(weight: float) -> None:
    one = scan()
    example = later(one, refined_weight=weight)
    assert bool((example.weight[one.mask] == 1).all())
    assert bool((example.weight[~one.mask] == weight).all())


def test_examples_repeat_for_the_same_draw_and_differ_between_scans() -> None:
    one = scan()
    for refined in (None, refined_of(one)):
        learned = method()
        inputs = [only(learned.examples(Sample(one, refined), Draw(0, 1, item))).given.mask for item in (0, 0, 1)]
        assert torch.equal(inputs[0], inputs[1])
        assert not torch.equal(inputs[0], inputs[2])


@pytest.mark.parametrize(("name", "expected"), [("mse", weighted_mse), ("mixed", mixed_l1_l2)])
def test_the_loss_is_chosen_by_name(name: Any, expected: object) -> None:
    assert method(loss=name).data_loss is expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": 0}, "stages must be at least 1, got 0"),
        ({"pool": 1}, "pool must be at least 2, .* got 1"),
        ({"selection": 1.0}, "selection must lie between 0 and 1, got 1"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        IDROptions(**options)


@pytest.mark.slow
def test_k_weights_make_every_unseen_location_count_alike_in_expectation() -> None:
    """Over masks and selections of the law, the weights on an unseen location add up to how often it is unseen."""
    shape, family = (12, 10), MaskFamily(lambda shape, generator: draw_mask("uniform_random", shape, 3.0, generator))
    learned = method(family=family, k_weighting=True, selection=0.6)
    total, unseen = torch.zeros(shape), torch.zeros(shape)
    for number in range(3000):
        mask = family.another(torch.zeros(shape, dtype=torch.bool), number)
        one = Scan(torch.ones(1, *shape, dtype=torch.complex64) * mask, mask, ScanMeta("s", "f"))
        example = only(learned.examples(Sample(one), Draw(0, 0, number)))
        away = ~example.given.mask
        total, unseen = total + example.weight * away, unseen + away
    outside = family.density(mask) < 1
    assert float(total[outside].mean() / unseen[outside].mean()) == pytest.approx(1, abs=0.02)
    assert float((total / unseen.clamp(min=1))[outside].std()) < 0.12


def test_k_weights_of_later_stages_are_those_of_the_sampling_density() -> None:
    one = scan()
    learned = method(k_weighting=True, refined_weight=0.25)
    example = only(learned.examples(Sample(one, refined_of(one)), Draw(0, 3, 0)))
    density = learned.family.density(one.mask)
    weighted = one.mask & ~example.given.mask
    torch.testing.assert_close(example.weight[weighted], 1 / density[weighted])
    assert bool((example.weight[one.mask & example.given.mask] == 1).all())
    assert bool((example.weight[~one.mask] == 0.25).all())


def test_it_begins_as_k_weighted_ssdu() -> None:
    one, learned = scan(), method(k_weighting=True)
    ssdu = SSDU(learned.network, SSDUOptions(ratio=0.4, k_weighting=True), FAMILY)
    ours, theirs = (only(one_method.examples(Sample(one), Draw(0, 0, 0))) for one_method in (learned, ssdu))
    assert torch.equal(ours.given.mask, theirs.given.mask)
    assert torch.equal(ours.target, theirs.target)
    torch.testing.assert_close(ours.weight, theirs.weight)


def test_imposed_samples_are_in_the_reconstruction_and_not_in_the_loss() -> None:
    one, learned = scan(), method(data_consistency="hard", k_weighting=True)
    for refined in (None, refined_of(one)):
        example = only(learned.examples(Sample(one, refined), Draw(0, 1, 0)))
        free = only(method(k_weighting=True).examples(Sample(one, refined), Draw(0, 1, 0)))
        assert not example.weight[example.given.mask].any()
        assert torch.equal(example.weight[~example.given.mask], free.weight[~example.given.mask])
    given = one.batch()
    kspace = Cartesian(given.mask).transform(learned.reconstruct(given).detach())
    torch.testing.assert_close(kspace[0][:, one.mask], one.kspace[:, one.mask])
