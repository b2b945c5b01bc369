"""What training is handed: examples of either kind, stacked to batches; scans' own samples are tested with the base."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sansref.kspace.measurement import Measurement
from sansref.methods import ImagePair, KspaceExample, collate
from sansref.randomness import seeded

PARTS = ("undersampled", "full", "mask", "noise")


def translation(seed: int, height: int = 6, width: int = 4, channels: int = 1) -> ImagePair:
    generator = seeded("batch", seed)
    images = torch.rand(2, channels, height, width, generator=generator)
    mask = torch.rand(height, width, generator=generator) < 0.5
    return ImagePair(images[0], images[1], mask, torch.randn(64, generator=generator))


def example(seed: int) -> KspaceExample:
    kspace = torch.randn(1, 6, 4, dtype=torch.complex64, generator=seeded("example", seed))
    mask = torch.ones(6, 4, dtype=torch.bool)
    return KspaceExample(Measurement(kspace, mask), kspace + 1, mask.float())


def parts(batch: ImagePair) -> list[Tensor]:
    return [getattr(batch, name) for name in PARTS]


@pytest.mark.parametrize("channels", [1, 2])
def test_stacking_translations_adds_a_batch_axis_to_every_part(channels: int) -> None:
    alone = [translation(seed, channels=channels) for seed in range(3)]
    batch = ImagePair.stacked(alone)
    image = (3, channels, 6, 4)
    assert [tuple(part.shape) for part in parts(batch)] == [image, image, (3, 6, 4), (3, 64)]
    assert [part.dtype for part in parts(batch)] == [torch.float32, torch.float32, torch.bool, torch.float32]
    for index, one in enumerate(alone):
        assert all(torch.equal(whole[index], part) for whole, part in zip(parts(batch), parts(one), strict=True))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=5).filter(any), st.booleans())
def test_collating_keeps_kind_number_and_order(sizes: list[int], unpaired: bool) -> None:
    seeds = iter(range(100))
    groups = [[translation(next(seeds)) if unpaired else example(next(seeds)) for _ in range(size)] for size in sizes]
    batch = collate(groups)
    assert type(batch) is (ImagePair if unpaired else KspaceExample)
    assert batch.size == sum(sizes)
    flat = [one for group in groups for one in group]
    for index, one in enumerate(flat):
        if isinstance(batch, ImagePair) and isinstance(one, ImagePair):
            assert torch.equal(batch.full[index], one.full)
        elif isinstance(batch, KspaceExample) and isinstance(one, KspaceExample):
            assert torch.equal(batch.target[index], one.target)


def test_scans_of_different_sizes_make_no_batch() -> None:
    with pytest.raises(RuntimeError, match="equal size"):
        collate([[translation(0), translation(1, height=8)]])


def test_a_batch_moves_to_a_device_as_what_it_is() -> None:
    moved = collate([[translation(0), translation(1)]]).to(torch.device("meta"))
    assert isinstance(moved, ImagePair)
    assert {part.device.type for part in parts(moved)} == {"meta"}
    assert moved.size == 2


def test_coils_are_filled_up_to_the_most_with_such_as_see_nothing() -> None:
    """A scan of one coil has none to tell of: it sees everything alike."""
    coils = [torch.randn(n, 6, 4, dtype=torch.complex64, generator=seeded("coils", n)) for n in (3, 2)]
    alone = [translation(seed)._replace(coils=one) for seed, one in enumerate((*coils, None))]
    batch = ImagePair.stacked(alone)
    assert batch.full_coils is None
    assert batch.coils is not None
    assert batch.coils.shape == (3, 3, 6, 4)
    assert torch.equal(batch.coils[0], coils[0])
    assert torch.equal(batch.coils[1, :2], coils[1])
    assert not batch.coils[1, 2].any()
    assert bool((batch.coils[2, 0] == 1).all())
    assert not batch.coils[2, 1:].any()
    moved = batch.to(torch.device("meta"))
    assert moved.coils.device.type == "meta"
