"""The error of denoised images over the whole of k-space, against the truth that simulations know."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sansref.data.prepare import scaled
from sansref.data.simulate import Sampling, Simulation, example_image, simulate
from sansref.kspace.cartesian import Cartesian
from sansref.kspace.fourier import fft2c, ifft2c
from sansref.kspace.grid import center_crop, distance
from sansref.kspace.measurement import Measurement
from sansref.kspace.noise import noise_of, white_noise
from sansref.methods.classical.regularisation import choose_regularisation
from sansref.methods.classical.total_variation import total_variation
from sansref.metrics.held_out import HeldOut, Reconstruct, held_out_mask
from sansref.metrics.image_error import Answer, ImageError, best_share
from sansref.metrics.sure import sure
from sansref.randomness import seeded
from sansref.scan import Scan, ScanMeta

SIDE = 96


def scan_of(acceleration: float = 1.0, coils: int = 1, snr: float = 10.0) -> tuple[Scan, Sampling]:
    image = ifft2c(center_crop(fft2c(example_image()), (SIDE, SIDE))).abs()
    full = simulate(image / image.max(), Simulation(snr=snr, coils=coils), seeded("scan"), ScanMeta("a", "b"))
    sampling = Sampling(acceleration=acceleration)
    scan = scaled(sampling.undersample(full, seeded("mask")))
    level = float((noise_in(scan).abs().square().sum() / (2 * coils * scan.mask.sum())).sqrt())
    return replace(scan, meta=replace(scan.meta, noise=(level,) * coils)), sampling


def everywhere(scan: Scan) -> Cartesian:
    return Cartesian(torch.ones_like(scan.mask)[None], scan.batch().maps)


def noise_in(scan: Scan) -> Tensor:
    assert scan.reference is not None
    return (scan.kspace - everywhere(scan).transform(scan.reference[None])[0]) * scan.mask


def truth(image: Tensor, scan: Scan) -> float:
    """The squared error over the energy of the noise of a full scan."""
    assert scan.reference is not None
    full = everywhere(scan)
    noise = noise_in(scan).abs().square().sum() * scan.mask.numel() / scan.mask.sum()
    return float((full.transform(image) - full.transform(scan.reference[None])).abs().square().sum() / noise)


def varied(strength: float) -> Reconstruct:
    return lambda given: total_variation(given, strength)


def judge_of(scan: Scan, sampling: Sampling) -> ImageError:
    return ImageError.of(scan, HeldOut(0.1, 0, lambda emulated: sampling.family(emulated)), 0)


@pytest.mark.parametrize("coils", [1, 4])
@pytest.mark.parametrize("strength", [0.003, 0.01, 0.03])
def test_of_a_full_scan_it_is_the_truth_within_a_twentieth_of_the_noise(coils: int, strength: float) -> None:
    scan, sampling = scan_of(coils=coils)
    judge = judge_of(scan, sampling)
    assert not judge.held_out.any()
    answer = judge.answer(varied(strength))
    assert judge.error(answer) == pytest.approx(truth(varied(strength)(scan.batch()), scan), abs=0.05)


@pytest.mark.parametrize(("acceleration", "coils"), [(2.0, 1), (4.0, 1), (3.0, 4)])
def test_of_an_undersampled_scan_what_was_not_acquired_counts_too(acceleration: float, coils: int) -> None:
    """Slightly too much: the held-out samples are predicted from fewer than there are in the end."""
    scan, sampling = scan_of(acceleration, coils)
    judge = judge_of(scan, sampling)
    for strength in (0.01, 0.03):
        found = judge.error(judge.answer(varied(strength)))
        assert found == pytest.approx(truth(varied(strength)(scan.batch()), scan), rel=0.2, abs=0.06)


def test_the_parts_of_k_space_tell_the_same_on_average() -> None:
    judge = judge_of(*scan_of(4.0))
    answer = judge.answer(varied(0.01))
    parts = judge.in_parts(answer, 10, 0)
    assert len(parts) == 10
    assert sum(parts) / 10 == pytest.approx(judge.error(answer), rel=1e-3)


def test_the_best_mixture_is_no_worse_than_any_other() -> None:
    judge = judge_of(*scan_of(2.0))
    one, other = (judge.answer(varied(strength)) for strength in (0.003, 0.1))
    share = best_share([judge], [one], [other])
    assert 0 < share < 1
    errors = {place: judge.error(one.mixed(other, place)) for place in (0.0, share - 0.1, share, share + 0.1, 1.0)}
    assert min(errors, key=errors.__getitem__) == share
    assert best_share([judge], [other], [other]) == 0


def test_what_was_learned_by_heart_is_seen() -> None:
    """A reconstruction that remembers half of the noise of the very samples that it is judged by."""
    scan, _ = scan_of()
    window = torch.exp(-(distance((SIDE, SIDE)).float() ** 2) / (2 * 60.0**2))
    added = white_noise(scan.kspace, 0.3 * scan.meta.noise[0], seeded("added"))
    nothing = torch.zeros_like(scan.mask)

    def remembering(learned: Tensor) -> Reconstruct:
        noise = learned - (scan.kspace - noise_in(scan))

        def reconstruct(given: Measurement) -> Tensor:
            return given.physics.adjoint(window * (given.kspace - noise[None]) + 0.5 * noise[None])

        return reconstruct

    noisier = replace(scan, kspace=scan.kspace + added)
    plain = ImageError(scan, nothing, nothing.float())
    fooled = plain.error(plain.answer(remembering(scan.kspace)))
    honest = ImageError(scan, nothing, nothing.float(), noisier, 0.3)
    method = remembering(noisier.kspace)
    really = truth(method(noisier.batch()), scan)
    assert fooled < really - 0.3
    assert honest.error(honest.answer(method)) == pytest.approx(really, abs=0.12)


def test_noise_decides_the_regularisation_of_a_full_scan() -> None:
    """Its held-out samples alone would be predicted best by an image that has kept the noise, or nearly so."""
    scan, sampling = scan_of()
    held_out = held_out_mask(scan, 0.1, 0, 0)
    grid = (1e-4, 3e-3, 1e-2, 3e-2, 1e-1)
    found = choose_regularisation("total_variation", [scan], [held_out], sampling.family(True), grid)
    errors = {strength: truth(varied(strength)(scan.batch()), scan) for strength, _ in found.tried}
    assert errors[found.regularisation] < min(errors.values()) + 0.02
    assert found.error == pytest.approx(errors[found.regularisation], abs=0.05)


def test_without_noise_there_is_nothing_to_tell() -> None:
    scan, _ = scan_of()
    silent = replace(scan, kspace=torch.zeros_like(scan.kspace), meta=replace(scan.meta, noise=None))
    with pytest.raises(ValueError, match="no noise is known"):
        ImageError(silent, torch.zeros_like(scan.mask), torch.ones(SIDE, SIDE))


def test_on_acquired_samples_it_tells_what_sure_tells() -> None:
    scan, sampling = scan_of(4.0)
    judge = judge_of(scan, sampling)
    found = judge.on_acquired(judge.answer(varied(0.01)))
    given = scan.batch()
    other = sure(varied(0.01), given, noise_of(given), seeded("probe"), probes=4)
    assert found == pytest.approx(other.risk, abs=4 * other.doubt)


def test_zeros_that_were_filled_in_have_no_noise_where_they_are_held_out() -> None:
    scan, sampling = scan_of(2.0)
    received = torch.arange(SIDE)[:, None] >= 12
    judge = judge_of(replace(scan, kspace=scan.kspace * received), sampling)
    nothing = torch.zeros_like(scan.kspace)
    held_out = judge.held_out & ~received
    assert held_out.any()
    assert (judge.terms(Answer(nothing, nothing, nothing))[held_out] == 0).all()


def test_held_out_samples_stand_for_no_place_that_was_padded_with_zeros() -> None:
    scan, sampling = scan_of(3.0)
    reached = torch.arange(SIDE) < 72
    padded = replace(scan, kspace=scan.kspace * reached, mask=scan.mask & reached)
    held_out = held_out_mask(padded, 0.1, 0, 0)
    padded = replace(padded, meta=replace(scan.meta, columns=(0, 72)))
    judge = ImageError(padded, held_out, sampling.family(True).density(padded.mask))
    nothing = torch.zeros_like(scan.kspace)
    one = torch.ones_like(scan.kspace)
    more = judge.terms(Answer(nothing, nothing, one)).sum() - judge.terms(Answer(nothing, nothing, nothing)).sum()
    variance = 2 * scan.meta.noise[0] ** 2
    # Of an error of 1 at each missing place, over the noise of all places that were reached.
    assert float(more) == pytest.approx(float((~padded.mask & reached).sum()) / (variance * 72 * SIDE), rel=1e-3)
