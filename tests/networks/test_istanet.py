from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from helpers import scans
from sansref.kspace.cartesian import Cartesian, RealNormal
from sansref.kspace.coils import birdcage_maps
from sansref.networks.istanet import ISTANet, Variant, load_official_weights, soft_threshold, to_channels, to_complex

PHASES, FEATURES = 3, 4


@pytest.fixture(autouse=True)
def initial_weights() -> None:
    torch.manual_seed(0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


noise = partial(scans.noise, dtype=torch.float64)


def points(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=generator(seed)) < 0.4


def official_file(variant: Variant, seed: int = 0, phases: int = PHASES) -> dict[str, Tensor]:
    """Random weights under the names, and in the shapes, of the released files."""
    inner, shapes = (FEATURES, FEATURES, 3, 3), dict[str, tuple[int, ...]]()
    first, last = (FEATURES, 1, 3, 3), (1, FEATURES, 3, 3)
    if variant == "plus":
        shapes |= {"conv_D": first, "conv_G": last}
    plus = variant == "plus"
    shapes |= {"conv1_forward": inner if plus else first, "conv2_forward": inner, "conv1_backward": inner}
    shapes |= {"conv2_backward": inner if plus else last, "lambda_step": (1,), "soft_thr": (1,)}
    names = [(f"fcs.{i}.{name}", shape) for i in range(phases) for name, shape in shapes.items()]
    weights = {name: 0.3 * noise(*shape, seed=seed + i).float() for i, (name, shape) in enumerate(names)}
    # One threshold is negative, as in one of the released networks.
    return weights | {"fcs.0.soft_thr": torch.tensor([0.2]), f"fcs.{phases - 1}.soft_thr": torch.tensor([-0.1])}


def run(
    network: ISTANet, zero_filled: Tensor, mask: Tensor, maps: Tensor | None = None, symmetry: bool = True
) -> tuple[Tensor, list[Tensor]]:
    """What a network makes of a zero-filled image under a mask."""
    real = network.in_channels == 1
    normal = RealNormal(mask, zero_filled.dtype) if real else Cartesian(mask.bool(), maps).normal
    return network(zero_filled, normal, symmetry)


def published_network(
    image: np.ndarray, corner_mask: np.ndarray, weights: dict[str, Tensor], phases: int = PHASES
) -> tuple[np.ndarray, list[np.ndarray]]:
    """ISTA-Net(+) of one real image, from the papers' equations; DC of the mask at [0, 0] as in the released code."""

    def conv(features: np.ndarray, name: str) -> np.ndarray:
        return F.conv2d(torch.from_numpy(features)[None], weights[name].double(), padding=1)[0].numpy()

    def normal(x: np.ndarray) -> np.ndarray:
        return np.fft.ifft2(corner_mask * np.fft.fft2(x)).real

    start = normal(image)
    x, residuals = start, []
    for i in range(phases):
        step, threshold = (float(weights[f"fcs.{i}.{name}"]) for name in ("lambda_step", "soft_thr"))
        r = x - step * (normal(x) - start)
        plus = f"fcs.{i}.conv_D" in weights
        d = conv(r[None], f"fcs.{i}.conv_D") if plus else r[None]
        sparse = conv(np.maximum(conv(d, f"fcs.{i}.conv1_forward"), 0), f"fcs.{i}.conv2_forward")
        shrunk = np.sign(sparse) * np.maximum(np.abs(sparse) - threshold, 0)

        def backward(s: np.ndarray, i: int = i) -> np.ndarray:
            return conv(np.maximum(conv(s, f"fcs.{i}.conv1_backward"), 0), f"fcs.{i}.conv2_backward")

        residuals.append(backward(sparse) - d)
        x = r + conv(backward(shrunk), f"fcs.{i}.conv_G")[0] if plus else backward(shrunk)[0]
    return x, residuals


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (ISTANet(), 336_978),
        (ISTANet(in_channels=2), 342_162),
        (ISTANet(bias=True), 338_427),
        (ISTANet(variant="plain"), 171_090),
    ],
    ids=["official", "complex", "bias", "plain"],
)
def test_has_as_many_parameters_as_published(network: ISTANet, expected: int) -> None:
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


def test_begins_with_the_published_steps_thresholds_and_weights() -> None:
    network = ISTANet(bias=True)
    for name, parameter in network.named_parameters():
        if name.endswith("step"):
            assert parameter.tolist() == [0.5]
        elif name.endswith("threshold"):
            assert parameter.tolist() == pytest.approx([0.01])
        elif name.endswith("bias"):
            assert not parameter.any()
        else:
            outputs, inputs = parameter.shape[:2]
            xavier = (2 / (9 * (inputs + outputs))) ** 0.5
            assert float(parameter.detach().std()) == pytest.approx(xavier, rel=0.25)


@pytest.mark.parametrize("variant", ["plus", "plain"])
@pytest.mark.parametrize("size", [(16, 16), (15, 13), (12, 17)])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_with_official_weights_it_is_the_published_network(
    variant: Variant, size: tuple[int, int], prefix: str
) -> None:
    weights = official_file(variant)
    images, masks = noise(2, *size), points(2, *size)
    stored = {prefix + name: value for name, value in weights.items()}
    network = load_official_weights(stored).double()
    assert network.variant == variant
    zero_filled = Cartesian(masks).normal(images.to(torch.complex128)).real.unsqueeze(1)
    found, residuals = run(network, zero_filled, masks)
    for i in range(2):
        corner = np.fft.ifftshift(masks[i].numpy())
        image, symmetry = published_network(images[i].numpy(), corner, weights)
        np.testing.assert_allclose(found[i, 0].detach(), image, rtol=1e-9, atol=1e-12)
        assert len(symmetry) == len(residuals) == PHASES
        for mine, theirs in zip(residuals, symmetry, strict=True):
            np.testing.assert_allclose(mine[i].detach(), theirs, rtol=1e-9, atol=1e-12)


def test_loading_copies_the_weights() -> None:
    weights = official_file("plus")
    network = load_official_weights(weights)
    weights["fcs.0.conv_D"].zero_()
    assert network.phases[0].lift.weight.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fcs.1.conv_G": None}, r"the official weights lack 'fcs.1.conv_G'"),
        ({"fcs.1.extra": torch.zeros(1), "fcs.2.extra": torch.zeros(1)}, r"have 2 names.* lacks: 'fcs.1.extra'"),
        ({"fcs.1.conv_D": torch.zeros(FEATURES, 2, 3, 3)}, r"'fcs.1.conv_D' is \(4, 2, 3, 3\), .*needs \(4, 1, 3, 3\)"),
        ({"epoch": torch.zeros(1)}, r"have 1 names that this network lacks: 'epoch'"),
        ({"fcs.3.soft_thr": torch.zeros(1)}, r"have 1 names that this network lacks: 'fcs.3.soft_thr'"),
    ],
    ids=["missing", "unknown", "shape", "foreign", "half a phase more"],
)
def test_weights_that_do_not_fit_are_refused(change: dict[str, Tensor | None], message: str) -> None:
    weights = {name: value for name, value in (official_file("plus") | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        load_official_weights(weights)


def test_a_file_of_another_network_is_no_ista_net() -> None:
    with pytest.raises(ValueError, match=r"these are not ISTA-Net weights: 'fcs\.0\.conv1_forward' is missing"):
        load_official_weights({"layers.0.conv_in": torch.zeros(1)})


@pytest.mark.parametrize(("variant", "features"), [("plus", FEATURES), ("plain", 2)])
def test_symmetry_residuals_are_only_made_when_asked_for(variant: Variant, features: int) -> None:
    network = ISTANet(PHASES, FEATURES, in_channels=2, variant=variant).double()
    zero_filled, masks = noise(2, 2, 7, 9), points(2, 7, 9)
    image, residuals = run(network, zero_filled, masks)
    assert [residual.shape for residual in residuals] == [(2, features, 7, 9)] * PHASES
    alone, none = run(network, zero_filled, masks, symmetry=False)
    assert none == []
    assert torch.equal(alone, image)


@pytest.mark.parametrize("coils", [1, 3])
def test_a_complex_phase_is_a_gradient_step_and_a_learned_correction(coils: int) -> None:
    """Re-derived from centered numpy transforms, coil by coil, with the network's own convolutions."""
    height, width = 9, 10
    mask = points(height, width)
    maps = birdcage_maps((height, width), coils, generator(1)).to(torch.complex128)
    truth = to_complex(noise(1, 2, height, width, seed=2))
    encoding = Cartesian(mask, maps[None])
    zero_filled = encoding.adjoint(encoding.forward(truth))
    network = ISTANet(1, FEATURES, in_channels=2, bias=True).double()
    (phase,) = network.phases

    x, sampled = zero_filled[0].numpy(), np.zeros((height, width), dtype=complex)
    for coil in maps.numpy():
        spectrum = mask.numpy() * np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(coil * x)))
        sampled += coil.conj() * np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(spectrum)))
    r = torch.from_numpy(x - 0.5 * (sampled - x))
    d = phase.lift(torch.stack([r.real, r.imag])[None])
    sparse = phase.forward2(phase.forward1(d).clamp(min=0))
    correction = phase.project(phase.backward2(phase.backward1(F.softshrink(sparse, 0.01)).clamp(min=0)))[0]
    expected = r + torch.complex(correction[0], correction[1])

    found, _ = run(network, to_channels(zero_filled, 2), mask, maps[None])
    torch.testing.assert_close(to_complex(found)[0], expected, rtol=1e-6, atol=1e-8)  # 0.01 is a float32 here


def test_each_image_of_a_batch_has_its_own_mask_and_maps() -> None:
    network = ISTANet(2, FEATURES, in_channels=2).double()
    zero_filled, masks = noise(2, 2, 8, 7), points(2, 8, 7)
    maps = torch.complex(noise(2, 3, 8, 7, seed=1), noise(2, 3, 8, 7, seed=2))
    together, _ = run(network, zero_filled, masks, maps)
    for i in range(2):
        one = slice(i, i + 1)
        torch.testing.assert_close(run(network, zero_filled[one], masks[i], maps[one])[0], together[one])


@settings(max_examples=15, deadline=None)
@given(height=st.integers(1, 11), width=st.integers(1, 11), bias=st.booleans(), seed=st.integers(0, 99))
def test_begun_as_identity_one_coil_comes_back_zero_filled(height: int, width: int, bias: bool, seed: int) -> None:
    network = ISTANet(4, FEATURES, in_channels=2, bias=bias).double()
    network.begin_as_identity()
    mask = points(1, height, width, seed=seed)
    zero_filled = to_channels(Cartesian(mask).normal(to_complex(noise(1, 2, height, width, seed=seed))), 2)
    found, _ = run(network, zero_filled, mask)
    torch.testing.assert_close(found, zero_filled, rtol=1e-12, atol=1e-12)


def test_begun_as_identity_a_real_network_needs_a_symmetric_mask() -> None:
    network = ISTANet(2, FEATURES).double()
    network.begin_as_identity()
    mask, image = points(9, 7), noise(1, 9, 7).to(torch.complex128)
    both = mask | mask.flip(0, 1)  # odd sizes: a flip is the mirror through DC
    for sampled, fixed in ((mask, False), (both, True)):
        zero_filled = Cartesian(sampled).normal(image).real.unsqueeze(1)
        assert torch.allclose(run(network, zero_filled, sampled)[0], zero_filled) is fixed


def test_begun_as_identity_each_phase_takes_a_gradient_step_of_several_coils() -> None:
    network = ISTANet(3, FEATURES, in_channels=2).double()
    network.begin_as_identity()
    mask, maps = points(1, 8, 7), birdcage_maps((8, 7), 3).to(torch.complex128)[None]
    encoding = Cartesian(mask, maps)
    zero_filled = encoding.normal(to_complex(noise(1, 2, 8, 7)))
    expected = zero_filled
    for _ in range(3):
        expected = expected - (encoding.normal(expected) - zero_filled)
    torch.testing.assert_close(to_complex(run(network, to_channels(zero_filled, 2), mask, maps)[0]), expected)


def test_begun_as_identity_it_can_still_learn() -> None:
    network = ISTANet(2, FEATURES, in_channels=2)
    network.begin_as_identity()
    image, _ = run(network, noise(1, 2, 8, 8).float(), points(8, 8))
    image.square().mean().backward()
    for phase in network.phases:
        assert phase.project.weight.grad.any()


def test_the_plain_network_cannot_begin_as_identity() -> None:
    with pytest.raises(ValueError, match=r"only ISTA-Net\+ has a residual"):
        ISTANet(variant="plain").begin_as_identity()


@pytest.mark.parametrize("in_channels", [1, 2])
@pytest.mark.parametrize("variant", ["plus", "plain"])
def test_the_image_alone_moves_every_parameter(variant: Variant, in_channels: int) -> None:
    network = ISTANet(PHASES, 8, in_channels, bias=True, variant=variant).double()
    # The step of the first phase has no effect where the zero-filled image is a fixed point: any image will do.
    image, _ = run(network, noise(2, in_channels, 9, 8), points(2, 9, 8), symmetry=False)
    image.square().mean().backward()
    unmoved = [name for name, parameter in network.named_parameters() if not parameter.grad.any()]
    assert unmoved == []


def test_the_gradient_is_that_of_finite_differences() -> None:
    network = ISTANet(2, 2, in_channels=2).double()
    mask, maps = points(1, 4, 5), torch.complex(noise(1, 2, 4, 5, seed=1), noise(1, 2, 4, 5, seed=2))
    zero_filled = noise(1, 2, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda image: run(network, image, mask, maps)[0], (zero_filled,))


@pytest.mark.parametrize("theta", [0.3, 0.0, -0.3])
def test_the_soft_threshold_and_its_gradient_are_those_of_the_formula(theta: float) -> None:
    values, passed = noise(2, 3, 5, 4), noise(2, 3, 5, 4, seed=1)
    values[0, 0] = 0.0  # where a negative threshold must not expand

    def gradients(function: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, ...]:
        given = values.clone().requires_grad_(), torch.tensor([theta], dtype=torch.float64, requires_grad=True)
        result = function(*given)
        return result.detach(), *torch.autograd.grad(result, given, passed)

    expected = gradients(lambda v, t: v.sign() * F.relu(v.abs() - t))
    for ours, theirs in zip(gradients(soft_threshold), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("theta", [0.0123, -0.0123])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_soft_threshold_has_the_bits_of_its_formula(dtype: torch.dtype, theta: float) -> None:
    values, passed = (0.02 * noise(2, 8, 9, 7).to(dtype)).requires_grad_(), noise(2, 8, 9, 7, seed=1).to(dtype)
    threshold = torch.tensor([theta])
    shrunk = soft_threshold(values, threshold)
    formula = values.abs().sub(threshold).to(dtype).clamp(min=0) * values.sign()
    assert torch.equal(shrunk, formula)
    assert torch.equal(*torch.autograd.grad(shrunk, values, passed), passed * (formula != 0))


def test_errors_name_the_argument() -> None:
    normal = Cartesian(points(8, 7)).normal
    with pytest.raises(ValueError, match=r"in_channels must be 1 \(real\) or 2 \(complex\), got 3"):
        ISTANet(in_channels=3)
    with pytest.raises(ValueError, match=r"zero_filled must be \(batch, 2, height, width\), got \(1, 1, 8, 7\)"):
        ISTANet(1, 2, in_channels=2)(torch.zeros(1, 1, 8, 7), normal)
    with pytest.raises(ValueError, match=r"zero_filled must be \(batch, 1, height, width\), got \(1, 8, 7\)"):
        ISTANet(1, 2)(torch.zeros(1, 8, 7), normal)


def test_complex_images_and_channels_are_the_same_thing() -> None:
    image = to_complex(noise(3, 2, 5, 4))
    channels = to_channels(image, 2)
    assert torch.equal(channels[:, 0], image.real)
    assert torch.equal(channels[:, 1], image.imag)
    assert torch.equal(to_complex(channels), image)
    assert torch.equal(to_channels(image, 1), image.real.unsqueeze(1))
    assert torch.equal(to_complex(to_channels(image, 1)), image.real.to(torch.complex128))
