from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.scans import noise_scan
from sansref.errors import SettingError
from sansref.kspace.grid import Shape, central_mask
from sansref.kspace.masks import SamplingMask, draw_mask
from sansref.kspace.masks.family import MaskFamily
from sansref.methods import Draw, IDRPaper, IDRPaperOptions, KspaceExample, Needs, Sample, collate
from sansref.networks import NetworkOptions, Reconstructor
from sansref.randomness import seeded
from sansref.scan import Scan

SHAPE = (40, 36)


def law(shape: Shape, generator: torch.Generator) -> SamplingMask:
    return draw_mask("variable_density", shape, 4, generator)


FAMILY = MaskFamily(law)


def method(**options: Any) -> IDRPaper:
    torch.manual_seed(0)
    network = Reconstructor(NetworkOptions(phases=1, channels=2, init="xavier"))
    return IDRPaper(network, IDRPaperOptions(**options), FAMILY)


def scan() -> Scan:
    return noise_scan(law(SHAPE, seeded("acquired")).array)


def refined_of(one: Scan) -> Tensor:
    predicted = torch.randn(one.kspace.shape, dtype=torch.complex64, generator=seeded("refined"))
    return torch.where(one.mask, one.kspace, predicted)


def only(examples: list[KspaceExample]) -> KspaceExample:
    (example,) = examples
    return example


def test_the_papers_numbers_are_the_defaults() -> None:
    options = IDRPaperOptions()
    assert (options.stages, options.reading) == (15, "A")
    assert IDRPaper.defaults == {"network.symmetry": 0.01}
    assert (method().stages, method().needs, method().data_consistency) == (15, Needs.UNDERSAMPLED, "none")


def test_the_first_stage_predicts_all_acquired_samples_from_half_of_them() -> None:
    one, inputs = scan(), set()
    for epoch in range(20):
        example = only(method().examples(Sample(one), Draw(0, epoch, 0)))
        given = example.given.mask
        inputs.add(given.numpy().tobytes())
        assert int(given.sum()) == round(0.5 * int(one.mask.sum()))
        assert not (given & ~one.mask).any()
        assert bool(given[central_mask(SHAPE, (2, 2))].all())
        assert torch.equal(example.weight, one.mask.float())
        assert torch.equal(example.target, one.kspace)
    assert len(inputs) == 20


@pytest.mark.parametrize("reading", ["A", "B"])
def test_later_stages_select_from_refined_data_under_any_mask_of_the_pool(reading: str) -> None:
    one, learned = scan(), method(reading=reading)
    refined = refined_of(one)
    masks = [one.mask, *(FAMILY.another(one.mask, number) for number in range(3))]
    used = set()
    for epoch in range(60):
        example = only(learned.examples(Sample(one, refined), Draw(0, epoch, 0)))
        given = example.given.mask
        (number,) = (index for index, mask in enumerate(masks) if not (given & ~mask).any())
        used.add(number)
        assert int(given.sum()) == round(0.5 * int(masks[number].sum()))
        assert torch.equal(example.given.kspace, refined * given)
        assert torch.equal(example.target, refined if reading == "A" else one.kspace)
        assert torch.equal(example.weight, torch.ones(SHAPE) if reading == "A" else one.mask.float())
    assert used == {0, 1, 2, 3}


def test_reading_b_under_the_scans_own_mask_is_the_first_stage_over_again() -> None:
    """Scanned samples kept, Omega~ = Omega, loss on Omega: refinement changes nothing."""
    one, learned = scan(), method(reading="B", pool=1)
    second = only(learned.examples(Sample(one, refined_of(one)), Draw(0, 5, 0)))
    first = second._replace(given=one.measurement.restricted(second.given.mask), target=one.kspace)
    losses = [next(learned.step(collate([[example]]))).loss for example in (first, second)]
    assert torch.equal(*losses)


def test_refining_keeps_acquired_samples_bit_for_bit() -> None:
    given = scan().batch()
    refined = method().refine(given)
    assert torch.equal(refined[:, 0][given.mask], given.kspace[:, 0][given.mask])


@pytest.mark.parametrize("options", [{"stages": 0}, {"pool": 0}, {"selection": 0.0}])
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=f"{next(iter(options))}"):
        IDRPaperOptions(**options)
