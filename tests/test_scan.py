from __future__ import annotations

import pickle
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from helpers import scans
from sansref.kspace.fourier import ifft2c
from sansref.kspace.noise import estimate_noise
from sansref.scan import Geometry, Scan, ScanMeta

META = ScanMeta(subject="s", source="f.h5", slice=2, geometry=Geometry(((1.0, 0.0, 0.0, 0.0),) * 4, 2))


noise = partial(scans.noise, dtype=torch.complex64)


def scan(**changes: Any) -> Scan:
    values = {"kspace": noise(2, 6, 5), "mask": torch.ones(6, 5, dtype=torch.bool), "meta": META}
    return Scan(**(values | changes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kspace": noise(6, 5)}, r"kspace must be complex64 .*, got torch.complex64 \(6, 5\)"),
        ({"kspace": noise(2, 6, 5).to(torch.complex128)}, r"kspace must be complex64 .*, got torch.complex128"),
        ({"kspace": noise(2, 6, 5).real}, r"kspace must be complex64 .*, got torch.float32"),
        ({"mask": torch.ones(5, 6, dtype=torch.bool)}, r"mask must be bool \(6, 5\), got torch.bool \(5, 6\)"),
        ({"mask": torch.ones(6, 5)}, r"mask must be bool \(6, 5\), got torch.float32 \(6, 5\)"),
        ({"maps": noise(1, 6, 5)}, r"maps \(1, 6, 5\) must have the shape of kspace \(2, 6, 5\)"),
        ({"reference": noise(1, 6, 5)}, r"reference must be \(6, 5\), got \(1, 6, 5\)"),
    ],
)
def test_a_scan_that_does_not_fit_together_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scan(**change)


def test_the_acceleration_is_all_samples_over_the_acquired_ones() -> None:
    mask = torch.zeros(6, 5, dtype=torch.bool)
    mask[:, :2] = True
    assert scan().acceleration == 1
    assert scan(mask=mask).acceleration == 2.5
    assert scan(mask=torch.zeros_like(mask)).acceleration == 30


def test_a_scan_without_its_reference_has_no_way_back_to_it() -> None:
    full = scan(reference=noise(6, 5))
    bare = full.without_reference()
    assert bare.reference is None
    assert full.reference is not None
    assert bare.kspace is full.kspace
    assert bare.meta == full.meta


def test_restricting_keeps_only_acquired_samples_under_both_masks() -> None:
    acquired = torch.rand(6, 5, generator=torch.Generator().manual_seed(1)) < 0.6
    other = torch.rand(6, 5, generator=torch.Generator().manual_seed(2)) < 0.6
    full = noise(2, 6, 5)
    one = scan(kspace=full * acquired, mask=acquired, maps=noise(2, 6, 5), reference=noise(6, 5))
    kept = one.restricted(other)
    assert torch.equal(kept.mask, acquired & other)
    dropped = torch.view_as_real(kept.kspace[:, ~kept.mask])
    assert not dropped.any()
    assert not dropped.signbit().any()  # not even the sign of a dropped sample is left
    assert torch.equal(kept.kspace[:, kept.mask], full[:, kept.mask])
    assert kept.maps is one.maps
    assert kept.reference is one.reference
    again = kept.restricted(other)
    assert torch.equal(again.kspace, kept.kspace)
    assert not torch.equal(ifft2c(kept.kspace), ifft2c(one.kspace))


def test_a_scan_cannot_be_changed_but_can_be_sent_to_another_process() -> None:
    one = scan(reference=noise(6, 5))
    with pytest.raises(AttributeError):
        one.mask = one.mask  # type: ignore[misc]
    copy = pickle.loads(pickle.dumps(one))
    assert copy.meta == one.meta
    assert torch.equal(copy.kspace, one.kspace)


def test_the_noise_is_as_it_is_known_or_as_the_samples_have_it() -> None:
    kspace = 3 * noise(2, 64, 64)
    unknown = scan(kspace=kspace, mask=torch.ones(64, 64, dtype=torch.bool), maps=torch.ones_like(kspace))
    told = replace(unknown, meta=replace(META, noise=(0.5, 4.0)))
    assert torch.equal(unknown.noise_level, estimate_noise(unknown.kspace, unknown.mask).level)
    assert told.noise_level.tolist() == [[[0.5]], [[4.0]]]
    assert unknown.batch().noise is None
    assert torch.equal(told.batch().noise, told.noise_level[None])
