"""Two sets of coil maps, for a field of view that is smaller than the object."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from helpers.scans import noise
from sansref.data.coil_maps import CoilOptions, with_coils
from sansref.errors import SettingError
from sansref.kspace.cartesian import Cartesian
from sansref.kspace.coils import birdcage_maps, combine, magnitude_of_sets
from sansref.kspace.fourier import fft2c, ifft2c
from sansref.kspace.grid import central_mask
from sansref.kspace.measurement import VIEWS, Measurement
from sansref.methods.classical.total_variation import total_variation
from sansref.methods.classical.wavelet import l1_wavelet
from sansref.metrics.error_maps import error_maps
from sansref.metrics.quality import nmse
from sansref.networks import NetworkOptions, Reconstructor
from sansref.results.scorer import magnitude, scored_reference
from sansref.scan import Scan, ScanMeta
from sansref.training.config import RunConfig

HEIGHT, WIDTH, COILS = 36, 48, 8


def product(first, second):
    return (first.conj() * second).sum()


@pytest.fixture(scope="module")
def folded():
    """A disc of 56 rows, seen through a field of view of 36: its ends lie on one another."""
    rows, columns = torch.meshgrid(torch.arange(64) - 32, torch.arange(WIDTH) - 24, indexing="ij")
    disc = ((rows / 28) ** 6 + (columns / 18) ** 6 < 1).float() * (1 + 0.3 * (columns > 3).float())
    # Without texture, the maps of both places add up to a third one, as smooth as they are.
    texture = 1 + 0.5 * noise(64, WIDTH, dtype=torch.complex64)
    seen = birdcage_maps((64, WIDTH), COILS) * disc * texture
    coils = torch.zeros(COILS, HEIGHT, WIDTH, dtype=torch.complex64)
    for row in range(64):
        coils[:, (row - 14) % HEIGHT] += seen[:, row]
    kspace = fft2c(coils)
    return Scan(kspace, torch.ones(HEIGHT, WIDTH, dtype=torch.bool), ScanMeta("folded", "folded"))


def prepared(scan, sets, mask=None, **options):
    given = scan if mask is None else scan.restricted(mask)
    return with_coils(given, scan, CoilOptions(map_sets=sets, calibration=24, **options))


def test_two_sets_explain_what_one_cannot(folded):
    lost = {}
    for sets in (1, 2):
        scan = prepared(folded, sets)
        physics = scan.batch().grid
        assert physics.sets == scan.sets == sets
        left = scan.kspace[None] - physics.transform(physics.adjoint(scan.kspace[None]))
        lost[sets] = float(left.abs().square().sum() / scan.kspace.abs().square().sum())
    assert lost[2] < 1e-3 < 1e-2 < lost[1]


def test_sets_are_orthogonal_and_of_norm_1_where_anything_is_seen(folded):
    first, second = prepared(folded, 2, crop=0.0).maps.unflatten(1, (2, HEIGHT)).unbind(1)
    torch.testing.assert_close(first.abs().square().sum(0), torch.ones(HEIGHT, WIDTH), atol=1e-4, rtol=0)
    assert float(combine(first, second).abs().max()) < 0.02
    alone = prepared(folded, 1, crop=0.0).maps
    assert torch.equal(alone, first)


@pytest.mark.parametrize("columns", [False, True])
def test_the_operator_of_two_sets_is_linear_algebra(folded, columns):
    scan = prepared(folded, 2)
    shape = (1, WIDTH) if columns else (HEIGHT, WIDTH)
    mask = (torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5).expand(HEIGHT, WIDTH)
    physics = Cartesian(mask[None], scan.maps[None])
    image, kspace = noise(1, 2 * HEIGHT, WIDTH), noise(1, COILS, HEIGHT, WIDTH, seed=1)
    torch.testing.assert_close(
        product(physics.forward(image), kspace), product(image, physics.adjoint(kspace)), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(physics.normal(image), physics.adjoint(physics.forward(image)), rtol=1e-4, atol=1e-5)
    assert float(product(image, physics.normal(image)).real / product(image, image).real) < float(physics.largest_gain)
    maps = scan.maps.unflatten(1, (2, HEIGHT))
    parts = image[0].unflatten(0, (2, HEIGHT))
    expected = mask * fft2c((maps * parts).sum(1))
    torch.testing.assert_close(physics.forward(image)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("view", VIEWS[1:])
def test_a_view_mirrors_each_set_by_itself(folded, view):
    given = prepared(folded, 2).batch()
    seen = given.seen(view)
    image = noise(1, 2 * HEIGHT, WIDTH)
    mirrored = view.image(image.unflatten(1, (2, HEIGHT))).flatten(1, 2)
    torch.testing.assert_close(
        seen.grid.forward(mirrored), view.kspace(given.grid.forward(image)), rtol=1e-4, atol=1e-5
    )


def reconstructions():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Reconstructor(NetworkOptions(name="modl", phases=3, channels=4, cg_steps=10))
    return {
        "total variation": lambda given: total_variation(given, 1e-3),
        "L1-wavelet": lambda given: l1_wavelet(given, 1e-3, 200),
        "MoDL": network,
    }


@pytest.mark.parametrize("name", ["total variation", "L1-wavelet", "MoDL"])
def test_methods_reconstruct_both_sets(folded, name):
    pytest.importorskip("pywt")
    mask = torch.rand(HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1)) < 0.5
    mask |= central_mask((HEIGHT, WIDTH), (24, 24))
    truth = ifft2c(folded.kspace).abs().square().sum(0).sqrt()
    error = {}
    for sets in (1, 2):
        scan = prepared(folded, sets, mask)
        with torch.no_grad():
            image = magnitude(reconstructions()[name](scan.batch())[0], scan)
        assert image.shape == truth.shape
        error[sets] = float(nmse(image, truth))
    assert error[2] < 0.5 * error[1]


@pytest.mark.parametrize("reference", ["combined", "rss"])
def test_the_reference_shows_both_sets(folded, reference):
    scan = prepared(folded, 2, reference=reference)
    assert scan.reference.shape == (2 * HEIGHT, WIDTH)
    whole = ifft2c(folded.kspace).abs().square().sum(0).sqrt()
    assert nmse(scored_reference(scan), whole) < (1e-9 if reference == "rss" else 0.01)


def test_one_set_is_shown_as_it_is():
    magnitudes = torch.rand(6, 5)
    assert magnitude_of_sets(magnitudes, 6) is magnitudes
    torch.testing.assert_close(magnitude_of_sets(torch.cat([magnitudes, magnitudes]), 6), 2**0.5 * magnitudes)


def test_what_takes_one_set_says_so(folded):
    scan = prepared(folded, 2)
    with pytest.raises(SettingError, match=r"two sets of coil maps .* leave out --error_map"):
        error_maps(lambda given: given.grid.adjoint(given.kspace), scan, None)
    with pytest.raises(SettingError, match="map_sets must be 1 or 2, got 3"):
        CoilOptions(map_sets=3)
    with pytest.raises(SettingError, match=r"learns from magnitudes: leave out coils.map_sets"):
        RunConfig.from_values({"method": "switchable", "coils": {"map_sets": 2}})
    with pytest.raises(SettingError, match=r"tells nothing of each set .* set coils.reference to combined"):
        RunConfig.from_values({"method": "supervised", "coils": {"map_sets": 2, "reference": "rss"}})
    with pytest.raises(ValueError, match="must have the shape of kspace"):
        replace(scan, maps=scan.maps[:, :-1])
    assert isinstance(scan.measurement, Measurement)
