from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sansref.errors import SettingError
from sansref.kspace.coils import birdcage_maps
from sansref.kspace.encoding import EncodingOperator
from sansref.kspace.family import MaskFamily
from sansref.kspace.grid import Shape, central_mask, fraction_sides
from sansref.kspace.masks import SamplingMask, draw_mask
from sansref.kspace.noise import noise_level
from sansref.kspace.partition import split_uniform
from sansref.kspace.views import VIEWS
from sansref.kspace.weighting import k_weights
from sansref.methods import IDR, SSDU, Draw, Example, IDROptions, Measured, Needs, SSDUOptions, collate, measured, stack
from sansref.methods.batch import seen
from sansref.methods.unrolled import mixed_l1_l2, weighted_mse
from sansref.networks import NetworkOptions, Reconstructor
from sansref.randomness import seeded
from sansref.scan import Scan, ScanMeta

SHAPE = (40, 36)
# The paper's answers, and a small pool, so that each test says which choice it is about.
PLAIN: dict[str, Any] = {
    "selection_law": "variable_density",
    "first_loss": "all",
    "k_weighting": False,
    "impose": False,
    "input_noise": 0.0,
    "pool": 32,
}
REPLAY: dict[str, Any] = {"pool": 1, "support": "acquired", "later_selection": True, "keep_acquired": True}


def law(shape: Shape, generator: torch.Generator) -> SamplingMask:
    return draw_mask("variable_density", shape, 4, generator)


FAMILY = MaskFamily(law)


def method(family: MaskFamily | None = None, **options: Any) -> IDR:
    torch.manual_seed(0)
    network = Reconstructor(NetworkOptions(phases=1, channels=2, init="xavier"))
    return IDR(network, IDROptions(**(PLAIN | options)), family or FAMILY)


def scan(coils: int = 1) -> Scan:
    mask = law(SHAPE, seeded("acquired")).array
    kspace = torch.randn(coils, *SHAPE, dtype=torch.complex64, generator=seeded("kspace"))
    maps = birdcage_maps(SHAPE, coils) if coils > 1 else None
    return Scan(kspace * mask, mask, ScanMeta("s", "f"), maps)


def refined_of(one: Scan) -> Tensor:
    """Stand-in for what a network predicted, with the acquired samples kept."""
    predicted = torch.randn(one.kspace.shape, dtype=torch.complex64, generator=seeded("refined"))
    return torch.where(one.mask, one.kspace, predicted)


def only(examples: list[Example]) -> Example:
    (example,) = examples
    return example


def later(one: Scan, epoch: int = 0, **options: Any) -> Example:
    return only(method(**options).examples(one, Draw(0, epoch, 0), refined_of(one)))


def test_needs_undersampled_scans_alone_in_as_many_stages_as_asked() -> None:
    assert IDR.needs is Needs.UNDERSAMPLED
    assert method(stages=3).stages == 3
    assert method(start="warm").warm_start
    assert not method(start="fresh").warm_start


@pytest.mark.parametrize("coils", [1, 3])
def test_the_first_stage_predicts_all_acquired_samples_from_about_half_of_them(coils: int) -> None:
    one, inputs = scan(coils), []
    for epoch in range(20):
        example = only(method(selection=0.5).examples(one, Draw(0, epoch, 0)))
        inputs.append(example.given.mask)
        assert not (example.given.mask & ~one.mask).any()
        assert int(example.given.mask.sum()) == round(0.5 * int(one.mask.sum()))
        assert torch.equal(example.given.kspace, one.kspace * example.given.mask)
        assert example.given.maps is one.maps
        assert torch.equal(example.weight, one.mask.float())
        assert torch.equal(example.target, one.kspace)
    assert len({mask.numpy().tobytes() for mask in inputs}) == 20
    centre = central_mask(SHAPE, (2, 2))
    assert all(bool(mask[centre].all()) for mask in inputs)


def test_the_selected_share_and_centre_are_options() -> None:
    example = only(method(selection=0.7, selection_center=0.15).examples(scan(), Draw(0, 0, 0)))
    assert int(example.given.mask.sum()) == round(0.7 * int(scan().mask.sum()))
    centre = central_mask(SHAPE, (6, 5)) & scan().mask
    assert bool(example.given.mask[centre].all())


def test_the_loss_of_the_first_stage_can_be_on_the_disjoint_rest() -> None:
    one = scan()
    example = only(method(first_loss="disjoint").examples(one, Draw(0, 0, 0)))
    whole = only(method().examples(one, Draw(0, 0, 0)))
    assert torch.equal(example.given.mask, whole.given.mask)
    assert torch.equal(example.weight, (one.mask & ~example.given.mask).float())


@pytest.mark.parametrize("coils", [1, 3])
def test_refining_keeps_acquired_samples_bit_for_bit_and_predicts_the_rest(coils: int) -> None:
    learned, one = method(), scan(coils)
    given = stack([measured(one), measured(one)])
    image = learned.reconstruct(given).detach()
    refined = learned.refine(given).detach()
    predicted = EncodingOperator(torch.ones_like(given.mask), given.maps).forward(image)
    for coil in range(coils):
        assert torch.equal(refined[:, coil][given.mask], given.kspace[:, coil][given.mask])
        torch.testing.assert_close(refined[:, coil][~given.mask], predicted[:, coil][~given.mask])


def test_refining_can_leave_the_prediction_as_it_is() -> None:
    learned, given = method(keep_acquired=False), stack([measured(scan())])
    image = learned.reconstruct(given).detach()
    predicted = EncodingOperator(torch.ones_like(given.mask)).forward(image)
    torch.testing.assert_close(learned.refine(given).detach(), predicted)
    assert not torch.allclose(predicted * given.mask, given.kspace)


def assert_equally_likely(counts: list[int]) -> None:
    rounds, share = sum(counts), 1 / len(counts)
    assert all(abs(count - rounds * share) < 4 * (rounds * share * (1 - share)) ** 0.5 for count in counts)


@pytest.mark.parametrize("coils", [1, 3])
def test_a_later_stage_learns_refined_data_from_refined_data_under_another_mask_of_the_law(coils: int) -> None:
    one, learned = scan(coils), method(pool=4, refined_weight=1.0)
    others = [FAMILY.another(one.mask, number) for number in range(3)]
    counts = [0] * 3
    for epoch in range(300):
        example = only(learned.examples(one, Draw(0, epoch, 0), refined_of(one)))
        (used,) = (i for i, mask in enumerate(others) if torch.equal(mask, example.given.mask))
        counts[used] += 1
        assert torch.equal(example.given.kspace, refined_of(one) * example.given.mask)
        assert example.given.maps is one.maps
        assert torch.equal(example.target, refined_of(one))
        assert bool((example.weight == 1).all())
    assert_equally_likely(counts)


def test_a_pool_of_one_needs_the_selecting_mask() -> None:
    with pytest.raises(SettingError, match="a pool of 1 leaves later stages without a mask: use --pool 2 or more"):
        IDROptions(pool=1, later_selection=False)
    IDROptions(pool=1, later_selection=True)


def test_refined_samples_of_the_input_are_given_the_noise_of_the_acquired_ones() -> None:
    one = scan(2)
    plain, noisy = (later(one, input_noise=factor) for factor in (0.0, 2.0))
    mask = plain.given.mask
    assert torch.equal(noisy.given.mask, mask)
    assert torch.equal(noisy.given.kspace[:, mask & one.mask], plain.given.kspace[:, mask & one.mask])
    assert not noisy.given.kspace[:, ~mask].any()
    added = (noisy.given.kspace - plain.given.kspace)[:, mask & ~one.mask]
    assert torch.view_as_real(added).std(dim=(1, 2)).tolist() == pytest.approx(
        (2 * noise_level(one.kspace, one.mask)).flatten().tolist(), rel=0.25
    )
    assert torch.equal(noisy.target, plain.target)
    assert torch.equal(noisy.weight, plain.weight)
    again = later(one, epoch=1, input_noise=2.0)
    assert not torch.equal(again.given.kspace, noisy.given.kspace)


def test_predicted_samples_that_took_the_place_of_acquired_ones_are_given_noise_too() -> None:
    one = scan()
    plain, noisy = (later(one, input_noise=factor, keep_acquired=False) for factor in (0.0, 1.0))
    assert (noisy.given.kspace != plain.given.kspace)[:, plain.given.mask].all()


def test_negative_noise_is_refused() -> None:
    with pytest.raises(SettingError, match="input_noise must not be negative, got -1"):
        IDROptions(input_noise=-1)


@pytest.mark.parametrize("weight", [0.0, -1.0])
def test_a_refined_weight_that_is_not_positive_is_refused(weight: float) -> None:
    with pytest.raises(SettingError, match="refined_weight must be positive"):
        IDROptions(refined_weight=weight)


def test_a_later_stage_can_select_from_the_masks_of_the_law_and_the_scans_own() -> None:
    one, learned = scan(), method(pool=4, selection=0.5, later_selection=True)
    masks = [one.mask, *(FAMILY.another(one.mask, number) for number in range(3))]
    counts, inputs = [0] * 4, set()
    for epoch in range(300):
        example = only(learned.examples(one, Draw(0, epoch, 0), refined_of(one)))
        (used,) = (i for i, mask in enumerate(masks) if not (example.given.mask & ~mask).any())
        counts[used] += 1
        inputs.add(example.given.mask.numpy().tobytes())
        assert int(example.given.mask.sum()) == round(0.5 * int(masks[used].sum()))
        assert torch.equal(example.given.kspace, refined_of(one) * example.given.mask)
    assert_equally_likely(counts)
    assert len(inputs) == 300


def equispaced(acquired: Tensor, **options: Any) -> list[Tensor]:
    """Masks of the input of later stages, of a law with three different masks."""

    def draw(shape: Shape, generator: torch.Generator) -> SamplingMask:
        columns = torch.arange(shape[1]).remainder(3) == int(torch.randint(3, (), generator=generator))
        return SamplingMask(columns.expand(shape), torch.full(shape, 1 / 3), True, "equispaced", 3.0)

    family = MaskFamily(draw)
    one = Scan(torch.ones(1, *SHAPE, dtype=torch.complex64) * acquired, acquired, ScanMeta("s", "f.h5"))
    learned = method(family, **options)
    return [only(learned.examples(one, Draw(0, epoch, 0), one.kspace)).given.mask for epoch in range(40)]


def test_a_later_stage_is_never_shown_all_that_was_acquired_where_a_law_repeats_itself() -> None:
    own = (torch.arange(SHAPE[1]).remainder(3) == 1).expand(SHAPE)
    masks = equispaced(own)
    assert all((own & ~mask).any() for mask in masks)
    assert len({mask.numpy().tobytes() for mask in masks}) == 2
    alone = own & (torch.rand(SHAPE, generator=seeded("held out")) < 0.9)
    assert all((alone & ~mask).any() for mask in equispaced(alone))


def test_a_pool_without_any_other_mask_is_one_line() -> None:
    nothing = torch.zeros(SHAPE, dtype=torch.bool)
    message = (
        r"f\.h5: none of 31 masks of its kind leaves out anything that it has acquired: use --later_selection true"
    )
    with pytest.raises(SettingError, match=message):
        equispaced(nothing)
    assert len(equispaced(nothing, later_selection=True, selection_center=0.0)) == 40


@pytest.mark.parametrize("later_selection", [False, True])
def test_nothing_is_predicted_into_the_input_where_a_padded_scan_never_reached(later_selection: bool) -> None:
    full, padded = scan(), scan()
    inside = torch.zeros(SHAPE, dtype=torch.bool)
    inside[:, 5:30] = True
    padded = replace(padded.restricted(inside), meta=replace(padded.meta, columns=(5, 30)))
    learned = method(later_selection=later_selection)
    for epoch in range(20):
        given = only(learned.examples(padded, Draw(0, epoch, 0), refined_of(full))).given
        assert given.mask.any()
        assert not (given.mask & ~inside).any()
        assert not given.kspace[:, ~inside].any()


@pytest.mark.parametrize("weight", [0.25, 2.0])
def test_refined_samples_can_weigh_less_than_acquired_ones(weight: float) -> None:
    one = scan()
    example = later(one, refined_weight=weight)
    assert bool((example.weight[one.mask] == 1).all())
    assert bool((example.weight[~one.mask] == weight).all())
    assert torch.equal(later(one, refined_weight=weight, support="acquired").weight, one.mask.float())


def test_the_loss_of_a_later_stage_can_be_on_acquired_locations_or_measured_samples() -> None:
    one = scan()
    acquired = later(one, support="acquired")
    assert torch.equal(acquired.weight, one.mask.float())
    assert torch.equal(acquired.target, refined_of(one))
    equation = later(one, support="acquired", target="measured")
    assert torch.equal(equation.weight, one.mask.float())
    assert torch.equal(equation.target, one.kspace)


@pytest.mark.parametrize("target", ["refined", "measured"])
def test_without_another_mask_and_without_targets_elsewhere_refinement_changes_nothing(target: str) -> None:
    """Scanned samples kept, Omega~ = Omega, loss on Omega: a later stage is the first one over again."""
    one = scan()
    learned = method(**REPLAY, target=target)
    second = only(learned.examples(one, Draw(0, 5, 0), refined_of(one)))
    selected = second.given.mask
    first = Example(Measured(one.kspace * selected, selected), one.kspace, one.mask.float())
    assert int(selected.sum()) == int(only(learned.examples(one, Draw(0, 5, 0))).given.mask.sum())
    assert torch.equal(second.given.kspace, first.given.kspace)
    assert torch.equal(second.weight, first.weight)
    assert torch.equal(second.target * second.weight, first.target)
    losses = [learned.loss("network", collate([[example]]))[0] for example in (first, second)]
    assert torch.equal(*losses)


@pytest.mark.parametrize(
    "change", [{"pool": 4}, {"support": "full"}, {"keep_acquired": False}], ids=["pool", "support", "keep"]
)
def test_each_of_those_three_conditions_matters(change: dict[str, Any]) -> None:
    one = scan()
    learned = method(**(REPLAY | change))
    given = stack([measured(one)])
    refined = learned.refine(given).detach()[0]
    differs = False
    for epoch in range(8):
        second = only(learned.examples(one, Draw(0, epoch, 0), refined))
        selected = second.given.mask
        first = Example(Measured(one.kspace * selected, selected), one.kspace, one.mask.float())
        losses = [learned.loss("network", collate([[example]]))[0] for example in (first, second)]
        differs |= not torch.allclose(*losses, rtol=1e-3)
    assert differs


def test_examples_repeat_for_the_same_draw_and_differ_between_scans() -> None:
    one = scan()
    for refined in (None, refined_of(one)):
        learned = method(later_selection=True)
        inputs = [only(learned.examples(one, Draw(0, 1, item), refined)).given.mask for item in (0, 0, 1)]
        assert torch.equal(inputs[0], inputs[1])
        assert not torch.equal(inputs[0], inputs[2])


@pytest.mark.parametrize(("name", "expected"), [("mse", weighted_mse), ("mixed", mixed_l1_l2)])
def test_the_loss_is_chosen_by_name(name: Any, expected: object) -> None:
    assert method(loss=name).data_loss is expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": 0}, "stages and pool must be at least 1, got 0 and 256"),
        ({"pool": 0}, "stages and pool must be at least 1, got 8 and 0"),
        ({"target": "measured"}, "target 'measured' has no values outside .*: set support to 'acquired'"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        IDROptions(**options)


def test_a_selection_that_the_centre_fills_is_refused() -> None:
    with pytest.raises(SettingError, match=r"cannot select .* use a smaller centre"):
        method(selection=0.1, selection_center=0.5).examples(scan(), Draw(0, 0, 0))


# --- weights, replay and the ensemble ---------------------------------------------------------------------------


def test_k_weights_make_every_unseen_location_count_alike_in_expectation() -> None:
    """Over masks and selections of the law, the weights on an unseen location add up to how often it is unseen."""
    shape, family = (12, 10), MaskFamily(lambda shape, generator: draw_mask("uniform_random", shape, 3.0, generator))
    learned = method(family=family, k_weighting=True, selection=0.6, selection_center=0.0)
    total, unseen = torch.zeros(shape), torch.zeros(shape)
    for number in range(3000):
        mask = family.another(torch.zeros(shape, dtype=torch.bool), number)
        one = Scan(torch.ones(1, *shape, dtype=torch.complex64) * mask, mask, ScanMeta("s", "f"))
        example = only(learned.examples(one, Draw(0, 0, number)))
        away = ~example.given.mask
        total, unseen = total + example.weight * away, unseen + away
    outside = family.density(mask) < 1
    assert float(total[outside].mean() / unseen[outside].mean()) == pytest.approx(1, abs=0.02)
    assert float((total / unseen.clamp(min=1))[outside].std()) < 0.12


def test_k_weights_of_later_stages_are_those_of_the_sampling_density() -> None:
    one = scan()
    learned = method(k_weighting=True, refined_weight=0.25)
    example = only(learned.examples(one, Draw(0, 3, 0), refined_of(one)))
    density = learned.family.density(one.mask)
    weighted = one.mask & ~example.given.mask
    torch.testing.assert_close(example.weight[weighted], 1 / density[weighted])
    assert bool((example.weight[one.mask & example.given.mask] == 1).all())
    assert bool((example.weight[~one.mask] == 0.25).all())


def test_a_share_of_later_examples_are_those_of_the_first_stage() -> None:
    one, learned = scan(), method(replay=0.25)
    first = sum(
        torch.equal(only(learned.examples(one, Draw(0, epoch, 0), refined_of(one))).weight, one.mask.float())
        for epoch in range(400)
    )
    assert_equally_likely([first * 3, 400 - first])


@pytest.mark.parametrize("replay", [-0.1, 1.0])
def test_replay_is_a_share(replay: float) -> None:
    with pytest.raises(SettingError, match=r"replay must lie in \[0, 1\)"):
        IDROptions(replay=replay)


def test_the_ensemble_refines_alike_whichever_way_round_the_scan_is() -> None:
    learned = method(ensemble=True, keep_acquired=False)
    given = stack([measured(scan(3))])
    refined = learned.refine(given).detach()
    alone = method(keep_acquired=False).refine(given).detach()
    assert not torch.allclose(refined, alone, atol=1e-5)
    for view in VIEWS:
        torch.testing.assert_close(
            learned.refine(seen(given, view)).detach(), view.kspace(refined), atol=1e-5, rtol=1e-4
        )


def test_a_uniform_selection_with_k_weights_on_the_disjoint_rest_begins_as_k_weighted_ssdu() -> None:
    one = scan()
    options: dict[str, Any] = {"selection_law": "uniform", "first_loss": "disjoint", "k_weighting": True}
    learned = method(selection=0.6, **options)
    ssdu = SSDU(learned.network, SSDUOptions(ratio=0.4, k_weighting=True), FAMILY)
    ours, theirs = (only(one_method.examples(one, Draw(0, 0, 0))) for one_method in (learned, ssdu))
    assert torch.equal(ours.given.mask, theirs.given.mask)
    assert torch.equal(ours.target, theirs.target)
    torch.testing.assert_close(ours.weight, theirs.weight)
    again = only(method(pool=1, later_selection=True, **options).examples(one, Draw(0, 0, 0), refined_of(one)))
    rest = one.mask & ~again.given.mask
    torch.testing.assert_close(
        again.weight[rest], k_weights(FAMILY.density(one.mask), uniform_share(one.mask))[rest] ** 2
    )


def uniform_share(mask: Tensor) -> Tensor:
    """The probability that SSDU's split keeps a sample."""
    return split_uniform(mask, 0.4, seeded(0, "any"), block=fraction_sides(SHAPE, 16 / 256)).selected


def test_imposed_samples_are_in_the_reconstruction_and_not_in_the_loss() -> None:
    one, learned = scan(), method(impose=True, k_weighting=True)
    for refined in (None, refined_of(one)):
        example = only(learned.examples(one, Draw(0, 1, 0), refined))
        free = only(method(k_weighting=True).examples(one, Draw(0, 1, 0), refined))
        assert not example.weight[example.given.mask].any()
        assert torch.equal(example.weight[~example.given.mask], free.weight[~example.given.mask])
    given = stack([measured(one)])
    kspace = EncodingOperator(given.mask).transform(learned.reconstruct(given).detach())
    torch.testing.assert_close(kspace[0][:, one.mask], one.kspace[:, one.mask])
