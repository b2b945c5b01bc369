from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.scans import full_head, undersampled_head
from sansref.data.simulate import Sampling, Simulation, example_image, simulate
from sansref.errors import SettingError
from sansref.kspace.fourier import fft2c, ifft2c
from sansref.kspace.grid import center_crop, distance
from sansref.kspace.masks.family import MaskFamily
from sansref.kspace.measurement import Measurement
from sansref.kspace.noise import noise_of, white_noise
from sansref.methods import IDR, SSDU, Draw, IDROptions, Sample, SSDUOptions
from sansref.methods.recorrupted import recorrupted, soft_weights, softly_consistent
from sansref.metrics.held_out import held_out_mask
from sansref.metrics.sure import response
from sansref.networks import NetworkOptions, Reconstructor
from sansref.networks.reconstructor import Network
from sansref.randomness import seeded
from sansref.scan import Scan, ScanMeta

LAW = Sampling(acceleration=3, center=0.2)
FAMILY = LAW.family(emulated=True)
SIDE = 96


def network() -> Reconstructor:
    torch.manual_seed(0)
    return Reconstructor(NetworkOptions(phases=2, channels=4))


def ssdu(**options: Any) -> SSDU:
    return SSDU(network(), SSDUOptions(denoise=True, **options), FAMILY)


def idr(**options: Any) -> IDR:
    return IDR(network(), IDROptions(denoise=True, **options), FAMILY)


def noisy_head(snr: float = 10, acceleration: float = 1.0) -> tuple[Scan, Scan]:
    """A scan, and the same without its noise."""
    image = ifft2c(center_crop(fft2c(example_image()), (SIDE, SIDE))).abs()
    law = Sampling(acceleration=acceleration)

    def scan(snr: float | None) -> Scan:
        made = simulate(image / image.max(), Simulation(snr=snr), seeded("scan"), ScanMeta("a", "b"))
        return law.undersample(made, seeded("mask"))

    return scan(snr), scan(None)


class Filling(Network):
    """A stand-in that puts something into every place of k-space."""

    penalty_weight = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(()))

    def forward(self, given: Measurement) -> Tensor:
        added = 0.1 * given.kspace.abs().amax()
        return ifft2c(given.kspace[:, 0] * self.gain + added)


class Smoothing(Network):
    """A linear stand-in: it keeps the middle of k-space, at a share of its strength, and nothing else."""

    def __init__(self, width: float, share: float = 1.0, side: int = SIDE) -> None:
        super().__init__()
        self.window = share * torch.exp(-(distance((side, side)).float() ** 2) / (2 * width**2))

    def forward(self, given: Measurement) -> Tensor:
        return given.physics.adjoint(self.window * given.kspace)


def covariance(one: Tensor, other: Tensor) -> float:
    return float((one.real * other.real + one.imag * other.imag).mean() / 2)


@pytest.mark.parametrize("alpha", [0.3, 0.5, 1.0, 2.0])
def test_the_noise_of_input_and_target_is_independent(alpha: float) -> None:
    sigma = torch.linspace(0.5, 2.0, 400).expand(1, 300, 400)
    noise = white_noise(torch.zeros(1, 300, 400, dtype=torch.complex64), sigma, seeded("n"))
    given, target = recorrupted(noise, sigma, alpha, seeded("more"))
    power = float(sigma.square().mean())
    assert covariance(given, given) == pytest.approx((1 + alpha**2) * power, rel=0.02)
    assert covariance(target, target) == pytest.approx((1 + 1 / alpha**2) * power, rel=0.02)
    assert covariance(given, target) == pytest.approx(0.0, abs=0.03 * power * (1 + 1 / alpha))


def test_the_noisy_target_asks_for_what_the_truth_asks_for() -> None:
    """Of all gains the one of the least error has the least loss, and the loss exceeds the error as derived."""
    shape, alpha, sigma = (1, 500, 400), 0.5, torch.ones(1, 500, 400)
    truth = 2 * torch.randn(shape, dtype=torch.complex64, generator=seeded("truth"))
    given, target = recorrupted(truth + white_noise(truth, 1.0, seeded("n")), sigma, alpha, seeded("more"))

    def best(wanted: Tensor) -> float:
        return float((wanted.conj() * given).real.sum() / given.abs().square().sum())

    assert best(target) == pytest.approx(best(truth), rel=0.01)
    assert best(truth) == pytest.approx(4 / (4 + 2 * (1 + alpha**2)), rel=0.01)
    gain = best(truth)
    excess = (gain * given - target).abs().square().mean() - (gain * given - truth).abs().square().mean()
    assert float(excess) == pytest.approx(2 * (1 + 1 / alpha**2), rel=0.02)


def test_it_is_the_loss_of_robust_ssdu_in_another_parametrisation() -> None:
    alpha, kspace = 0.7, torch.randn(1, 8, 8, dtype=torch.complex64, generator=seeded("y"))
    given, target = recorrupted(kspace, torch.ones(1, 8, 8), alpha, seeded("more"))
    learned = torch.randn(1, 8, 8, dtype=torch.complex64, generator=seeded("g"))
    ours = ((1 + alpha**2) * learned - given) / alpha**2
    torch.testing.assert_close(ours - target, (1 + alpha**2) / alpha**2 * (learned - kspace), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("coils", [1, 3])
def test_an_undersampled_scan_gives_noisier_samples_and_predicts_the_others_as_they_are(coils: int) -> None:
    scan, method = undersampled_head(0, coils), ssdu()
    (example,) = method.examples(Sample(scan), Draw(0, 0, 0))
    given, others = example.given.mask, scan.mask & ~example.given.mask
    assert bool((given <= scan.mask).all())
    assert bool(others.any())
    assert torch.equal(example.weight[given], torch.ones(int(given.sum())))
    assert torch.equal(example.target[:, others], scan.kspace[:, others])
    assert example.weight[others].min() >= 1
    assert example.weight[~scan.mask].abs().max() == 0
    sigma = noise_of(scan.batch())[0]
    added = (example.given.kspace - scan.kspace)[:, given] / sigma[:, given]
    taken = (scan.kspace - example.target)[:, given] / sigma[:, given]
    torch.testing.assert_close(added, 0.25 * taken, rtol=1e-2, atol=1e-3)
    assert added.real.std() == pytest.approx(0.5, rel=0.05)
    (again,) = method.examples(Sample(scan), Draw(0, 1, 0))
    assert not torch.equal(again.given.kspace, example.given.kspace)


@pytest.mark.parametrize("method", [ssdu(), idr(), ssdu(partitions=2, redraw=False)], ids=["ssdu", "idr", "multi-mask"])
def test_a_full_scan_is_learned_from_as_it_is(method: SSDU | IDR) -> None:
    scan = full_head(0)
    examples = method.examples(Sample(scan), Draw(0, 0, 0))
    for example in examples:
        assert bool(example.given.mask.all())
        assert torch.equal(example.weight, torch.ones_like(example.weight))
    assert len({float(example.target.abs().sum()) for example in examples}) == len(examples)


def test_without_denoising_a_full_scan_still_leaves_something_to_predict() -> None:
    (example,) = SSDU(network(), SSDUOptions(), FAMILY).examples(Sample(full_head(0)), Draw(0, 0, 0))
    assert not bool(example.given.mask.all())


def test_later_stages_of_idr_are_given_predicted_samples_as_noisy_as_acquired_ones() -> None:
    scan, method = undersampled_head(0), idr(alpha=0.5)
    refined = torch.full_like(scan.kspace, 3.0)
    (example,) = method.examples(Sample(scan, refined), Draw(0, 0, 0))
    given, mask = example.given.mask, scan.mask
    level = float(noise_of(scan.batch()).max())
    predicted = (example.given.kspace - 3.0)[:, given & ~mask]
    assert predicted.real.std() == pytest.approx(level * (1 + 0.25) ** 0.5, rel=0.1)
    acquired = (example.given.kspace - scan.kspace)[:, given & mask]
    assert acquired.real.std() == pytest.approx(0.5 * level, rel=0.1)
    torch.testing.assert_close(example.target[:, ~mask], refined[:, ~mask])
    torch.testing.assert_close(example.target[:, mask & ~given], scan.kspace[:, mask & ~given])
    assert not torch.equal(example.target[:, mask & given], scan.kspace[:, mask & given])
    assert example.weight[~mask].unique().tolist() == pytest.approx([0.03])
    assert example.weight[mask & given].unique().tolist() == [1.0]
    (noisy,) = method.examples(
        Sample(replace(scan, meta=replace(scan.meta, noise=(10 * level,))), refined), Draw(0, 0, 0)
    )
    predicted = (noisy.given.kspace - 3.0)[:, given & ~mask]
    assert predicted.real.std() == pytest.approx(10 * level * (1 + 0.25) ** 0.5, rel=0.1)  # as known


def test_refined_samples_of_a_denoising_method_are_not_those_that_were_acquired() -> None:
    scan = undersampled_head(0)
    with torch.inference_mode():
        method = idr()
        method.network = Smoothing(60.0, side=80)
        assert not torch.allclose(method.refine(scan.batch())[0][:, scan.mask], scan.kspace[:, scan.mask])
        plain = IDR(network(), IDROptions(), FAMILY).refine(scan.batch())[0]
    torch.testing.assert_close(plain[:, scan.mask], scan.kspace[:, scan.mask])


@pytest.mark.parametrize("acceleration", [1.0, 3.0])
@pytest.mark.parametrize(("width", "share"), [(25.0, 1.0), (60.0, 1.0), (60.0, 0.5), (1000.0, 1.0)])
def test_the_mixture_is_no_worse_than_either(acceleration: float, width: float, share: float) -> None:
    scan, clean = noisy_head(10, acceleration)
    method, given = Smoothing(width, share), scan.batch()
    mixed = softly_consistent(method, given)

    def error(image: Tensor) -> float:
        return float(((given.physics.transform(image)[0] - clean.kspace) * scan.mask).abs().square().sum())

    least = min(error(method(given)), error(given.data_consistent(method(given))))
    assert error(mixed) <= 1.03 * least
    torch.testing.assert_close(mixed, softly_consistent(method, given))  # the same scan gives the same image


def test_samples_that_were_not_acquired_stay_as_predicted() -> None:
    scan, _ = noisy_head(10, 3.0)
    method, given = Smoothing(60.0), scan.batch()
    mixed, alone = (given.physics.transform(image)[0] for image in (softly_consistent(method, given), method(given)))
    torch.testing.assert_close(mixed[:, ~scan.mask], alone[:, ~scan.mask], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(mixed[:, scan.mask], alone[:, scan.mask])


def test_without_noise_the_samples_are_imposed() -> None:
    _, clean = noisy_head(10)
    given = clean.batch()
    nothing = torch.zeros_like(given.kspace.real)
    found = response(Smoothing(30.0), given, nothing, seeded("probe"))
    weight = soft_weights(given.physics.transform(found.image), given, nothing, found.probe, found.passed)
    assert weight.abs().max() == 0


def test_the_score_of_a_denoising_method_is_that_of_its_loss() -> None:
    scan, method = full_head(0), ssdu()
    given, nothing = scan.batch(), torch.zeros(1, *scan.mask.shape, dtype=torch.bool)
    density = torch.ones(scan.mask.shape)
    with torch.inference_mode():
        score = method.validation_error(given, given.kspace, nothing, density)
        assert float(score) == float(method.validation_error(given, given.kspace, nothing, density))
        half = torch.rand(scan.mask.shape, generator=seeded("half")) < 0.5
        seen = scan.restricted(half).batch()
        assert bool(method.validation_error(seen, given.kspace, ~half[None], density).isfinite())
    # The network begins as the identity, which is off by all that was added and taken away.
    energy = 2 * noise_of(given).square().sum() / given.kspace.abs().square().sum()
    assert float(score) == pytest.approx((0.5 + 1 / 0.5) ** 2 * float(energy), rel=0.05)


@pytest.mark.parametrize("mask", ["uniform_random", "random_columns"])
def test_samples_held_out_count_for_the_places_that_are_not_given(mask: str) -> None:
    law = Sampling(mask=mask, acceleration=4, center=0.1)
    acquired = law.undersample(noisy_head()[0], seeded("mask")).mask
    scan = Scan(acquired.to(torch.complex64)[None], acquired, ScanMeta("a", "b", noise=(1e-6,)))
    held_out = held_out_mask(scan, 0.3, 0, 0)
    method = SSDU(Smoothing(1e6), SSDUOptions(denoise=True), law.family(emulated=True))
    given, density = scan.restricted(~held_out).batch(), law.family(emulated=True).density(acquired)
    score = method.validation_error(given, scan.kspace[None], held_out[None], density)
    # What is held out is all wrong, what is given all right.
    assert float(score) == pytest.approx(1 - float(given.mask.float().mean()), rel=1e-3)


def test_what_denoises_never_imposes_its_noisy_samples() -> None:
    assert ssdu().data_consistency == "soft"
    assert ssdu(data_consistency="none").data_consistency == "none"
    assert SSDU(network(), SSDUOptions(), MaskFamily()).data_consistency == "hard"
    for options in (SSDUOptions, IDROptions):
        with pytest.raises(SettingError, match="alpha must lie between"):
            options(alpha=0.0)


def test_soft_consistency_needs_no_method_that_denoises() -> None:
    method = SSDU(network(), SSDUOptions(data_consistency="soft"), FAMILY)
    scan = undersampled_head(0, coils=3)
    with torch.inference_mode():
        image = method.reconstruct(scan.batch())
    assert image.shape == (1, *scan.mask.shape)
    assert bool(image.isfinite().all())


@pytest.mark.parametrize("data_consistency", ["none", "soft"])
@torch.inference_mode()
def test_nothing_is_filled_in_where_the_scanner_of_a_full_scan_never_went(data_consistency: Any) -> None:
    scan, _ = noisy_head()
    padded = torch.ones(SIDE, SIDE, dtype=torch.bool)
    padded[:, :3] = padded[:, -4:] = False
    method = SSDU(Filling(), SSDUOptions(denoise=True, data_consistency=data_consistency), FAMILY)
    given = scan.batch().restricted(padded)
    filled = fft2c(method.reconstruct(given))[0]
    assert float(filled[~padded].abs().max()) < 1e-6 * float(filled.abs().max())
    whole = fft2c(method.reconstruct(scan.batch()))[0]
    assert float(whole[~padded].abs().max()) > 1e-3 * float(whole.abs().max())
    gaps = noisy_head(acceleration=2.0)[0].batch()  # which are to be filled
    kspace = fft2c(method.reconstruct(gaps))[0]
    assert float(kspace[~gaps.mask[0]].abs().max()) > 1e-3 * float(kspace.abs().max())
