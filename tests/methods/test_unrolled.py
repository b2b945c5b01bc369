from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.scans import noise
from sansref.errors import SettingError
from sansref.kspace.cartesian import Cartesian
from sansref.kspace.coils import birdcage_maps, unstacked
from sansref.kspace.fourier import ifft2c
from sansref.kspace.masks.family import MaskFamily
from sansref.kspace.masks.laws import draw_mask
from sansref.kspace.measurement import VIEWS, Measurement, View, mean_over_views
from sansref.methods import (
    IDR,
    SSDU,
    Draw,
    IDROptions,
    IDRPaperOptions,
    KspaceExample,
    Sample,
    SSDUOptions,
    Supervised,
    SupervisedOptions,
    collate,
)
from sansref.methods.unrolled import UnrolledMethod, mixed_l1_l2, weighted_mse
from sansref.networks import NetworkOptions, Reconstructor
from sansref.networks.istanet import symmetry_penalty
from sansref.randomness import seeded
from sansref.scan import Scan, ScanMeta


@pytest.fixture(autouse=True)
def initial_weights() -> None:
    torch.manual_seed(0)


def weights(*shape: int) -> Tensor:
    """Weights of a few locations, and zero elsewhere."""
    values = torch.rand(shape, dtype=torch.float64, generator=seeded(9))
    return torch.where(values < 0.5, 0, 4 * values)


def method(name: Any = "ista_plus", symmetry: float = 0.01, loss: Any = "mse") -> UnrolledMethod:
    network = Reconstructor(NetworkOptions(name, phases=2, channels=4, pools=2, init="xavier", symmetry=symmetry))
    return Supervised(network, SupervisedOptions(loss=loss))


def batch(coils: int = 1) -> KspaceExample:
    mask = torch.rand(2, 12, 10, generator=seeded(1)) < 0.5
    kspace = noise(2, coils, 12, 10, dtype=torch.complex64)
    maps = birdcage_maps((12, 10), coils).expand(2, -1, -1, -1) if coils > 1 else None
    return KspaceExample(Measurement(kspace * mask.unsqueeze(1), mask, maps), kspace, weights(2, 12, 10).float())


def test_the_mean_squared_error_is_over_all_real_and_imaginary_entries_zeros_included() -> None:
    """The normalisation of Hu et al. (MICCAI 2021): mask both, then the mean over N x N x 2."""
    predicted, target = noise(2, 1, 6, 5, seed=1), noise(2, 1, 6, 5, seed=2)
    mask = (weights(2, 6, 5) > 0).double()
    a, b = (np.stack([k.real, k.imag], -1) * mask[:, None, :, :, None].numpy() for k in (predicted, target))
    assert float(weighted_mse(predicted, target, mask)) == pytest.approx(np.mean((a - b) ** 2), rel=1e-12)


def test_with_full_weight_it_is_the_mean_squared_error_of_the_image() -> None:
    predicted, target = noise(2, 1, 6, 5, seed=1), noise(2, 1, 6, 5, seed=2)
    error = torch.view_as_real(ifft2c(predicted) - ifft2c(target))
    found = weighted_mse(predicted, target, torch.ones(2, 6, 5, dtype=torch.float64))
    torch.testing.assert_close(found, error.square().mean())


def test_the_weight_multiplies_squared_errors_in_every_coil() -> None:
    predicted, target, weight = noise(2, 3, 6, 5, seed=1), noise(2, 3, 6, 5, seed=2), weights(2, 6, 5)
    expected = sum(
        float(weight[i, r, c]) * float((predicted - target)[i, coil, r, c].abs()) ** 2
        for i in range(2)
        for coil in range(3)
        for r in range(6)
        for c in range(5)
    ) / (2 * 2 * 3 * 6 * 5)
    assert float(weighted_mse(predicted, target, weight)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("coils", [1, 2])
def test_the_mixed_loss_is_that_of_ssdu(coils: int) -> None:
    """0.5 |u - v|_2 / |u|_2 + 0.5 |u - v|_1 / |u|_1 over the stacked real and imaginary parts on Lambda."""
    v, u = noise(2, coils, 6, 5, seed=1), noise(2, coils, 6, 5, seed=2)
    held_out = weights(2, 6, 5) > 0
    values = []
    for i in range(2):
        lost = held_out[i].numpy()
        stacks = [np.stack([k[i].real.numpy() * lost, k[i].imag.numpy() * lost]).ravel() for k in (u, v)]
        l1, l2 = (np.linalg.norm(stacks[0] - stacks[1], n) / np.linalg.norm(stacks[0], n) for n in (1, 2))
        values.append(0.5 * l2 + 0.5 * l1)
    assert float(mixed_l1_l2(v, u, held_out.double())) == pytest.approx(np.mean(values), rel=1e-12)


def test_the_mixed_loss_does_not_see_what_has_no_weight_nor_the_scale() -> None:
    v, u, held_out = noise(1, 1, 6, 5, seed=1), noise(1, 1, 6, 5, seed=2), (weights(1, 6, 5) > 0).double()
    loss = mixed_l1_l2(v, u, held_out)
    torch.testing.assert_close(mixed_l1_l2(v * held_out, u, held_out), loss)
    torch.testing.assert_close(mixed_l1_l2(7 * v, 7 * u, held_out), loss)
    torch.testing.assert_close(mixed_l1_l2(v, u, 3 * held_out), loss)
    assert float(mixed_l1_l2(u, u, held_out)) == 0.0
    assert float(mixed_l1_l2(0 * u, u, held_out)) == pytest.approx(1)


def test_the_weights_of_the_mixed_loss_are_squares_of_those_of_the_residual() -> None:
    v, u, root = noise(1, 1, 6, 5, seed=1), noise(1, 1, 6, 5, seed=2), weights(1, 6, 5)
    ones = torch.ones(1, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(mixed_l1_l2(v, u, root.square()), mixed_l1_l2(root * v, root * u, ones))


def test_the_symmetry_penalty_is_the_sum_over_phases_of_means() -> None:
    residuals = [noise(2, 3, 4, 5, seed=i).real for i in range(4)]
    expected = sum(float(residual.square().sum()) / (2 * 3 * 4 * 5) for residual in residuals)
    assert float(symmetry_penalty(residuals)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("data_loss", "data_term"), [("mse", weighted_mse), ("mixed", mixed_l1_l2)])
@pytest.mark.parametrize("coils", [1, 3])
@pytest.mark.parametrize("name", ["ista_plus", "ista", "unet"])
def test_the_loss_is_the_data_term_plus_the_weighted_symmetry_term(
    name: str, coils: int, data_loss: str, data_term: Callable[..., Tensor]
) -> None:
    learned, examples = method(name, 0.3, data_loss), batch(coils)
    _, loss, parts = next(learned.step(examples))
    image, penalty = learned.network.with_penalty(examples.given)
    given = examples.given
    data = data_term(Cartesian(given.mask, given.maps).transform(image), examples.target, examples.weight)
    symmetry = float(penalty.detach())
    assert (symmetry > 0) is (name != "unet")
    assert float(parts["data"]) == pytest.approx(float(data.detach()), rel=1e-6)
    assert float(parts["symmetry"]) == pytest.approx(symmetry, rel=1e-6)
    assert float(loss.detach()) == pytest.approx(float(data.detach()) + 0.3 * symmetry, rel=1e-6)
    assert not any(part.requires_grad for part in parts.values())


def test_without_weight_no_symmetry_term_is_made() -> None:
    _, loss, parts = next(method(symmetry=0.0).step(batch()))
    assert float(parts["symmetry"]) == 0.0
    assert float(loss.detach()) == float(parts["data"])


def test_the_loss_is_on_the_whole_grid_not_on_the_input_mask() -> None:
    """The prediction must not be masked by the input's mask: the loss acts where the input has nothing."""
    learned, examples = method(), batch()
    weight = (~examples.given.mask).float()
    loss = next(learned.step(examples._replace(weight=weight))).loss
    image = learned.reconstruct(examples.given)
    unseen = examples._replace(target=Cartesian(examples.given.mask).transform(image).detach(), weight=weight)
    assert float(next(learned.step(unseen)).parts["data"]) < 1e-12
    assert float(loss.detach()) > 1e-3


@pytest.mark.parametrize("name", ["ista_plus", "ista", "modl", "unet"])
def test_one_turn_moves_the_whole_network(name: str) -> None:
    learned = method(name)
    (turn,) = learned.turns
    assert {id(parameter) for parameter in turn.parameters} == {id(parameter) for parameter in learned.parameters()}
    before = [parameter.detach().clone() for parameter in turn.parameters]
    optimizer = torch.optim.Adam(turn.parameters, lr=1e-2)
    examples = batch()
    first = math.inf
    for step in range(15):
        loss = next(learned.step(examples)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        first = float(loss.detach()) if step == 0 else first
    assert float(next(learned.step(examples)).loss.detach()) < first
    assert not any(torch.equal(a, b) for a, b in zip(before, turn.parameters, strict=True))


def test_reconstructs_what_the_network_gives() -> None:
    learned, given = method(), batch(3).given
    assert torch.equal(learned.reconstruct(given), learned.network(given))


def several_sets() -> Measurement:
    """Two coils, two sets of maps: the components of the image lie below one another."""
    mask = torch.rand(2, 12, 10, generator=seeded(1)) < 0.5
    kspace = noise(2, 2, 12, 10, dtype=torch.complex64) * mask.unsqueeze(1)
    return Measurement(kspace, mask, noise(2, 2, 24, 10, seed=3, dtype=torch.complex64))


@pytest.mark.parametrize("views", [2, 4, 8])
@pytest.mark.parametrize("data_consistency", ["none", "hard"])
@pytest.mark.parametrize(
    "given", [batch().given, batch(3).given, several_sets()], ids=["one coil", "three", "two sets"]
)
@pytest.mark.parametrize("name", ["ista_plus", "unet"])
def test_the_mean_over_views_commutes_with_each_of_them(name, given, data_consistency, views) -> None:
    network = Reconstructor(NetworkOptions(name, phases=2, channels=4, pools=2, init="xavier"))
    once = Supervised(network, SupervisedOptions(data_consistency=data_consistency))
    learned = Supervised(network, SupervisedOptions(data_consistency=data_consistency, views=views))

    def image_of(method: UnrolledMethod, view: View) -> Tensor:
        image = method.reconstruct(given.seen(view))
        return view.image(unstacked(image, given.mask.shape[-2]))

    with torch.no_grad():
        images = torch.stack([image_of(learned, view) for view in VIEWS[:views]])
        single = torch.stack([image_of(once, view) for view in VIEWS[:views]])
    torch.testing.assert_close(images, images[:1].expand_as(images), rtol=1e-4, atol=1e-5)
    assert float((single - single[:1]).abs().max()) > 1e-3  # the network itself does not
    torch.testing.assert_close(images[0], single.mean(0), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_refined_data_are_of_the_mean_over_views() -> None:
    given, network = batch().given, Reconstructor(NetworkOptions(phases=2, channels=4, init="xavier"))
    for options in (IDROptions(views=8), IDROptions(views=8, denoise=True)):
        learned = IDR(network, options, MaskFamily())
        image = learned.predicted(given) if options.denoise else learned.reconstruct(given)
        refined = learned.refine(given)
        missing = ~given.mask.unsqueeze(1)
        torch.testing.assert_close(refined[missing], given.grid.transform(image)[missing])
        assert float((refined - IDR(network, replace(options, views=1), MaskFamily()).refine(given)).abs().max()) > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("denoise", [False, True])
def test_held_out_samples_judge_the_mean_over_views(denoise: bool) -> None:
    example = batch()
    given, measured = example.given, example.target
    network = Reconstructor(NetworkOptions(phases=2, channels=4, init="xavier"))

    def error(network: Any, views: int) -> float:
        learned = SSDU(network, SSDUOptions(views=views, denoise=denoise), MaskFamily())
        return float(learned.validation_error(given, measured, ~given.mask, torch.full(given.mask.shape, 0.5)).mean())

    class Averaged(Reconstructor):
        def forward(self, given: Measurement) -> Tensor:
            return mean_over_views(network, given, VIEWS[:2])

    averaged = Averaged(NetworkOptions(phases=2, channels=4))
    assert error(network, 2) == pytest.approx(error(averaged, 1), rel=1e-5)
    assert error(network, 2) != pytest.approx(error(network, 1), rel=1e-2)


@pytest.mark.parametrize("options", [SupervisedOptions, SSDUOptions, IDROptions, IDRPaperOptions])
def test_a_number_of_views_that_is_no_group_is_refused(options) -> None:
    with pytest.raises(SettingError, match="views must be 1, 2, 4 or 8, got 3"):
        options(views=3)


def test_a_trajectory_has_no_mirrored_views() -> None:
    given = batch().given
    radial = replace(given, trajectory=torch.zeros(2, 12, 10, 2))
    learned = Supervised(Reconstructor(NetworkOptions(phases=1, channels=2)), SupervisedOptions(views=2))
    with pytest.raises(SettingError, match=r"needs samples on a Cartesian grid: use .*--views 1 with a trajectory"):
        learned.reconstruct(radial)


@pytest.mark.parametrize("kind", [SSDU, IDR])
def test_modl_learns_from_one_scan_of_several_coils(kind: Any, make: Any) -> None:
    torch.manual_seed(0)
    given = make.scan(make.phantom((32, 28)).to(torch.complex64), coils=4)
    assert given.maps is not None
    scan = Scan(given.kspace[0], given.mask[0], ScanMeta("s", "f"), given.maps[0])
    family = MaskFamily(lambda shape, generator: draw_mask("variable_density", shape, 3, generator))
    network = Reconstructor(NetworkOptions("modl", phases=2, channels=8, layers=3))
    learned = kind(network, kind.options_type(), family)
    examples = [collate([learned.examples(Sample(scan), Draw(0, epoch, 0))]) for epoch in range(3)]
    optimizer, losses = torch.optim.Adam(learned.parameters(), lr=5e-3), []
    for _ in range(8):
        for one in examples:
            loss = next(learned.step(one)).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


@pytest.mark.parametrize("loss", ["mse", "mixed"])
@pytest.mark.parametrize("name", ["ista_plus", "modl"])
def test_in_mixed_precision_loss_and_gradient_are_nearly_those_of_float32(name: str, loss: Any) -> None:
    """bfloat16 keeps 8 bits; Fourier transforms, iterations and the loss stay float32."""
    given = batch()

    def found(enabled: bool) -> tuple[float, Tensor]:
        torch.manual_seed(0)
        trained = method(name, loss=loss)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            value = next(trained.step(given)).loss
        value.backward()
        assert value.dtype == torch.float32
        return float(value.detach()), torch.cat([weight.grad.flatten() for weight in trained.parameters()])

    (exact, gradient), (rough, other) = found(enabled=False), found(enabled=True)
    assert rough == pytest.approx(exact, rel=5e-3)
    assert float((other - gradient).norm() / gradient.norm()) < 1e-1
