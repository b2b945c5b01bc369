"""Switchable ISCL: one generator with a code, one discriminator, and acquired samples that stay."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import pytest
import torch

from sansref.data.simulate import Sampling, Simulation, simulate
from sansref.errors import SettingError
from sansref.kspace.measurement import Measurement
from sansref.methods import ISCL, Draw, ISCLOptions, Sample, SwitchableISCL, SwitchableOptions
from sansref.networks import TranslatorOptions
from sansref.randomness import seeded
from sansref.scan import Scan, ScanMeta

Build = Callable[..., SwitchableISCL]


@pytest.fixture
def build(tiny: Callable[..., Any]) -> Build:
    """A small switchable ISCL: ``build(sampling_weight=5.0)``, the same weights each time."""
    return lambda **changes: tiny("switchable", **changes).build()


def full_scan(seed: int, coils: int = 1) -> Scan:
    image = torch.rand(80, 80, generator=seeded("image", seed)) ** 3
    return simulate(image, Simulation(coils=coils), seeded("scan", seed), ScanMeta(f"s{seed}", f"head{seed}.nii"))


def scan(seed: int, coils: int = 1) -> Scan:
    sampling = Sampling(acceleration=3, center=0.2)
    return sampling.undersample(full_scan(seed, coils), seeded("mask")).without_reference()


def test_the_paper_changes_the_adversarial_loss_and_adds_the_sampling_loss() -> None:
    ours, theirs = asdict(SwitchableOptions()), asdict(ISCLOptions())
    changed = {name: value for name, value in ours.items() if name not in theirs or theirs[name] != value}
    assert changed == {"gan": "lsgan", "sampling_weight": 1.0, "code_jitter": 0.1, "code_refresh": "epoch"}


def test_it_has_about_half_of_the_parameters_of_iscl() -> None:
    sizes = [
        sum(parameter.numel() for parameter in method.parameters())
        for method in (
            SwitchableISCL(TranslatorOptions(), SwitchableOptions()),
            ISCL(TranslatorOptions(), ISCLOptions()),
        )
    ]
    assert sizes == [4_166_467, 8_045_605]


def test_the_generators_turn_moves_the_code_too_and_nothing_of_the_others(make: Any, build: Build) -> None:
    method, batch = build(), make.pictures()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    (turn,) = (turn for turn in method.turns if turn.name == "generator")
    optimizer = torch.optim.SGD(turn.parameters, lr=0.1)
    make.loss(method, "generator", batch)[0].backward()
    optimizer.step()
    moved = {name for name, value in method.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.rsplit(".", 2)[0] for name in moved} >= {
        "generators.generator.convolutions",
        "generators.code.trunk",
        "generators.code.means",
        "generators.code.stds",
    }
    assert all(name.startswith("generators.") for name in moved)
    assert "generators.vector" not in moved


def test_the_discriminator_learns_to_switch_in_its_turn(make: Any, build: Build) -> None:
    method = build()
    make.loss(method, "discriminator", make.pictures())[0].backward()
    judge = method.discriminators.discriminator
    assert len(judge.scales) == len(judge.shifts) == 5
    for weight in (*judge.scales, *judge.shifts):
        assert weight.grad is not None
        assert weight.grad.any()
    assert not any(
        weight.grad is not None for weight in [*method.generators.parameters(), *method.extractor.parameters()]
    )


@pytest.mark.parametrize("size", [1, 2])
def test_the_discriminators_loss_is_that_of_the_paper(make: Any, build: Build, size: int) -> None:
    """One network judges both domains: real, translated and, by boosting, the extractor's images."""
    method, batch = build(), make.pictures(size)
    x, y, _, noise, *_ = batch
    generator, code = method.generators.generator, method.generators.code
    judge = method.discriminators.discriminator
    restored, artefact = generator(x), method.extractor(x)
    degraded = generator(y, code(method.generators.vector + 0.1 * noise))
    expected = make.lsgan(judge(y, full=True), 1) + make.lsgan(judge(restored, full=True), 0)
    expected += make.lsgan(judge(x), 1) + make.lsgan(judge(degraded), 0)
    expected += make.lsgan(judge(x - artefact, full=True), 0) + make.lsgan(judge(y + artefact), 0)
    assert float(make.loss(method, "discriminator", batch)[0].detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("size", [1, 2])
def test_the_generators_loss_is_that_of_the_paper(make: Any, build: Build, size: int) -> None:
    """Adversarial + 30 (cycle + bypass) + sampling loss, all of one generator."""
    method, batch = build(), make.pictures(size)
    x, y, mask, noise, *_ = batch
    generator, judge = method.generators.generator, method.discriminators.discriminator
    style = method.generators.code(method.generators.vector + 0.1 * noise)
    restored, degraded, artefact = generator(x), generator(y, style), method.extractor(x)
    fooled = make.lsgan(judge(restored, full=True), 1) + make.lsgan(judge(degraded), 1)
    cycle = make.l1(generator(restored, style), x) + make.l1(generator(degraded), y)
    bypass = make.l1(restored, x - artefact) + make.l1(generator(y + artefact), y)
    sampling = make.kspace_error(x, restored, mask) + make.kspace_error(y, degraded, mask)
    loss, parts = make.loss(method, "generator", batch)
    assert float(parts["sampling"]) == pytest.approx(sampling, rel=1e-4)
    assert float(loss.detach()) == pytest.approx(fooled + 30 * (cycle + bypass) + sampling, rel=1e-4)


def test_the_code_is_a_fixed_vector_and_a_little_noise(make: Any, build: Build) -> None:
    method, (_, y, _, noise, *_) = build(code_jitter=0.3), make.pictures()
    generator, code, vector = method.generators.generator, method.generators.code, method.generators.vector
    expected = generator(y, code(vector + 0.3 * noise))
    assert torch.equal(method.generators.undersampled(y, noise), expected)
    assert make.l1(expected, generator(y, code(vector))) > 1e-6
    steady = build(code_jitter=0)
    assert torch.equal(steady.generators.undersampled(y, noise), steady.generators.undersampled(y, -noise))
    assert vector.shape == (64,)
    assert not vector.requires_grad
    assert torch.equal(method.state_dict()["generators.vector"], vector)


def test_restoring_uses_no_code(build: Build) -> None:
    """Means 0 and standard deviations 1: what the random vector is has no say in a reconstruction."""
    method, given = build(), scan(0).batch()
    before = method.reconstruct(given)
    method.generators.vector.fill_(5.0)
    torch.nn.init.constant_(method.generators.code.means[0].weight, 3.0)
    assert torch.equal(method.reconstruct(given), before)


@pytest.mark.parametrize(("refresh", "different"), [("epoch", 6), ("step", 24)])
def test_the_codes_noise_is_new_with_each_epoch_or_each_step(
    build: Build, refresh: Literal["epoch", "step"], different: int
) -> None:
    method, one, full = build(code_refresh=refresh), scan(0), full_scan(1)
    draws = [Draw(seed, epoch, item) for seed in range(2) for epoch in range(3) for item in range(4)]
    noises = [method.examples(Sample(one, full=full), draw)[0].noise.numpy().tobytes() for draw in draws]
    assert len(set(noises)) == different
    for draw, noise in zip(draws, noises, strict=True):
        (again,) = method.examples(Sample(one, full=full), draw)
        assert again.noise.numpy().tobytes() == noise
    if refresh == "epoch":
        assert len({noise for draw, noise in zip(draws, noises, strict=True) if draw.epoch == draw.seed == 0}) == 1


def test_the_codes_noise_is_standard_normal(build: Build) -> None:
    method, one, full = build(), scan(0), full_scan(1)
    noise = torch.stack([method.examples(Sample(one, full=full), Draw(0, epoch, 0))[0].noise for epoch in range(100)])
    assert noise.shape == (100, 64)
    assert float(noise.mean()) == pytest.approx(0, abs=5 / math.sqrt(6400))
    assert float(noise.var()) == pytest.approx(1, abs=5 * math.sqrt(2 / 6400))


def test_acquired_samples_of_complex_images_can_be_kept_exactly(build: Build) -> None:
    given = Measurement.stacked([scan(0).measurement, scan(1).measurement])
    errors = {}
    for kept in (False, True):
        image = build(network={"complex": True}, data_consistency="hard" if kept else "none").reconstruct(given)
        spectrum = np.fft.fftshift(
            np.fft.fft2(np.fft.ifftshift(image.detach(), axes=(1, 2)), norm="ortho"), axes=(1, 2)
        )
        errors[kept] = np.abs(spectrum - given.kspace[:, 0].numpy())[given.mask.numpy()].max()
    assert errors[False] > 0.05
    assert errors[True] < 1e-5


@pytest.mark.parametrize("jitter", [-0.1, math.nan])
def test_jitter_is_not_negative(jitter: float) -> None:
    with pytest.raises(SettingError, match=f"code_jitter must not be negative, got {jitter}"):
        SwitchableOptions(code_jitter=jitter)
