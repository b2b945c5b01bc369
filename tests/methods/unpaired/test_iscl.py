"""ISCL: what the extractor adds to the turns of CycleGAN, and the ensemble of both restorations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sansref.errors import SettingError
from sansref.kspace.measurement import Measurement
from sansref.methods import ISCL, ISCLOptions
from sansref.randomness import seeded

TURNS = {"discriminator": "discriminators", "generator": "generators", "extractor": "extractor"}

Build = Callable[..., ISCL]


@pytest.fixture
def build(tiny: Callable[..., Any]) -> Build:
    """A small ISCL: ``build(bypass_weight=5.0)``, the same weights each time."""
    return lambda **changes: tiny("iscl", **changes).build()


def as_fake(gan: str, judgement: Tensor) -> float:
    cost = judgement.square() if gan == "lsgan" else judgement.clamp(min=0)
    return float(cost.detach().mean())


def test_weights_are_those_of_the_authors_code() -> None:
    options = ISCLOptions()
    assert (options.gan, options.output, options.generator_share) == ("hinge", "ensemble", 0.5)
    assert (options.cycle_weight, options.bypass_weight, options.boosting_weight) == (30, 30, 1)
    assert options.sampling_weight == 0


@pytest.mark.parametrize("turn", TURNS)
def test_a_loss_has_a_slope_for_the_networks_of_its_turn_and_takes_the_others_results_as_they_are(
    make: Any, build: Build, turn: str
) -> None:
    """But for the discriminators, through which the generators learn; they are not moved then."""
    method = build()
    make.loss(method, turn, make.pictures())[0].backward()
    learning = {name.split(".")[0] for name, weight in method.named_parameters() if weight.grad is not None}
    assert learning == ({"generators", "discriminators"} if turn == "generator" else {TURNS[turn]})


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("gan", ["hinge", "lsgan"])
def test_boosting_shows_the_discriminators_what_the_extractor_makes(
    make: Any, build: Build, gan: str, size: int
) -> None:
    """x - H(x) must not pass for a full image, nor y + H(x) for an undersampled one."""
    batch, method = make.pictures(size), build(gan=gan, boosting_weight=0.7)
    x, y, judge = batch.undersampled, batch.full, method.discriminators
    artefact = method.extractor(x)
    assert float(artefact.detach().abs().max()) > 1e-3
    boosting = as_fake(gan, judge.of_full(x - artefact)) + as_fake(gan, judge.of_undersampled(y + artefact))
    loss, parts = make.loss(method, "discriminator", batch)
    assert float(parts["boosting"]) == pytest.approx(boosting, rel=1e-5)
    without = float(make.loss(build(gan=gan, boosting_weight=0), "discriminator", batch)[0].detach())
    assert float(loss.detach()) - without == pytest.approx(0.7 * boosting, rel=1e-3)


@pytest.mark.parametrize("size", [1, 2])
def test_bypass_wants_the_generator_to_agree_with_the_extractor(make: Any, build: Build, size: int) -> None:
    batch, method = make.pictures(size), build(bypass_weight=5)
    x, y = batch.undersampled, batch.full
    restorer, artefact = method.generators.restorer, method.extractor(x)
    halves = make.l1(restorer(x), x - artefact)
    bypass = halves + make.l1(restorer(y + artefact), y)
    loss, parts = make.loss(method, "generator", batch)
    assert float(parts["bypass"]) == pytest.approx(bypass, rel=1e-5)
    assert float(parts["halves"]) == pytest.approx(halves, rel=1e-5)
    without = float(make.loss(build(bypass_weight=0), "generator", batch)[0].detach())
    assert float(loss.detach()) - without == pytest.approx(5 * bypass, rel=1e-4)


@pytest.mark.parametrize("size", [1, 2])
def test_the_extractor_learns_from_generators_that_have_had_their_turn(make: Any, build: Build, size: int) -> None:
    batch, method = make.pictures(size), build()
    x, y = batch.undersampled, batch.full
    before = float(make.loss(build(), "extractor", batch)[0].detach())
    make.play(method, batch, ["discriminator", "generator"])
    restored, degraded = method.generators.restorer(x).detach(), method.generators.degrader(y).detach()
    pseudo = (method.extractor(x) - (x - restored)).abs().mean()
    noise = (method.extractor(degraded) - (degraded - y)).abs().mean()
    loss, parts = make.loss(method, "extractor", batch)
    assert float(parts["pseudo"]) == pytest.approx(float(pseudo.detach()), rel=1e-5)
    assert float(parts["noise"]) == pytest.approx(float(noise.detach()), rel=1e-5)
    assert float(loss.detach()) == pytest.approx(float((pseudo + noise).detach()), rel=1e-5)
    assert float(loss.detach()) != pytest.approx(before, rel=1e-5)
    weights = list(method.extractor.parameters())
    # The mixtures of normalisations are without effect on a single image.
    slopes = [torch.autograd.grad(cost, weights, materialize_grads=True) for cost in (loss, pseudo + noise)]
    assert any(slope.any() for slope in slopes[0])
    for slope, wanted in zip(*slopes, strict=True):
        torch.testing.assert_close(slope, wanted, rtol=1e-4, atol=1e-6)


def test_the_extractor_looks_at_the_undersampled_image_once_before_its_own_turn(make: Any, build: Build) -> None:
    method, batch = build(), make.pictures()
    seen: list[Tensor] = []
    method.extractor.register_forward_hook(lambda module, given, found: seen.append(given[0]))
    make.play(method, batch)
    assert sum(image is batch.undersampled for image in seen) == 1
    assert len(seen) == 2


@pytest.mark.parametrize(("share", "weight"), [(None, 0.5), (0.0, 0.0), (0.3, 0.3), (1.0, 1.0)])
@pytest.mark.parametrize("channels", [1, 2])
def test_the_ensemble_mixes_both_restorations(
    make: Any, build: Build, share: float | None, weight: float, channels: int
) -> None:
    changes = {} if share is None else {"generator_share": share}
    method, x = build(network={"complex": channels == 2}, **changes), make.pictures(channels=channels).undersampled
    restored, clean = method.generators.restorer(x), x - method.extractor(x)
    torch.testing.assert_close(method.restore(x), weight * restored + (1 - weight) * clean)
    assert make.l1(restored, clean) > 0.01


def test_either_restoration_can_be_used_alone(make: Any, build: Build) -> None:
    x = make.pictures().undersampled
    generator, extractor = build(output="generator"), build(output="extractor")
    assert torch.equal(generator.restore(x), generator.generators.restorer(x))
    assert torch.equal(extractor.restore(x), x - extractor.extractor(x))


def test_the_mixture_is_cut_to_the_range_and_not_its_halves(build: Build) -> None:
    """G(x) = -1 and x - H(x) = x + 3 have a mean of 1 + x / 2; it would be 0 if each were cut first."""
    method = build(headroom=2.0)
    method.generators.restorer.forward = lambda image: torch.full_like(image, -1)
    method.extractor.forward = lambda image: torch.full_like(image, -3)
    kspace = torch.randn(1, 1, 80, 80, dtype=torch.complex64, generator=seeded("kspace"))
    mask = torch.ones(1, 80, 80, dtype=torch.bool)
    image = method.reconstruct(Measurement(kspace, mask))[0].abs()
    zero_filled = torch.fft.ifft2(torch.fft.ifftshift(kspace[0, 0]), norm="ortho").abs()
    brightest = 2 * zero_filled.max()
    unit = 2 * torch.fft.fftshift(zero_filled) / brightest - 1
    torch.testing.assert_close(image, ((1 + unit / 2).clamp(-1, 1) + 1) / 2 * brightest)


def test_mixed_precision_trains_and_reconstructs(make: Any, build: Build) -> None:
    method, batch = build(), make.pictures()
    exact = method.restore(batch.undersampled)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = method.restore(batch.undersampled)
        make.play(method, batch)
        image = method.reconstruct(Measurement(torch.ones(1, 1, 80, 80, dtype=torch.complex64), batch.mask))
    assert mixed.dtype == torch.float32
    assert make.l1(mixed, exact) < 0.02
    assert image.dtype == torch.complex64


@pytest.mark.parametrize("share", [-0.01, 1.01, math.nan])
def test_shares_lie_between_none_and_all(share: float) -> None:
    with pytest.raises(SettingError, match=rf"generator_share must lie in \[0, 1\], got {share}"):
        ISCLOptions(generator_share=share)


@pytest.mark.parametrize(
    "weight", ["cycle_weight", "identity_weight", "sampling_weight", "bypass_weight", "boosting_weight"]
)
@pytest.mark.parametrize("value", [-0.5, math.nan])
def test_weights_are_not_negative(weight: str, value: float) -> None:
    with pytest.raises(SettingError, match=f"{weight} must not be negative, got {value}"):
        ISCLOptions(**{weight: value})
