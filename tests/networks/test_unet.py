from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from sansref.errors import SettingError
from sansref.networks.unet import UNet


def _input(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def small() -> UNet:
    torch.manual_seed(0)
    return UNet(channels=4, pools=3)


def _parameters(network: UNet) -> int:
    return sum(p.numel() for p in network.parameters())


def test_parameter_count_is_that_of_fastmri() -> None:
    """The number fastMRI reports for its baseline of 32 channels and 4 poolings."""
    assert _parameters(UNet(in_channels=1, out_channels=1, channels=32, pools=4)) == 7_756_097


@pytest.mark.parametrize(("inputs", "outputs", "c", "pools"), [(2, 2, 16, 4), (1, 3, 5, 1), (2, 1, 8, 2)])
def test_parameter_count_formula(inputs: int, outputs: int, c: int, pools: int) -> None:
    expected = 9 * c * (inputs + c)  # The first level down.
    for level in range(1, pools + 1):
        width = c * 2**level
        expected += 9 * width * (width // 2 + width)  # Down to this level,
        expected += 4 * width * (width // 2)  # enlarged from it,
        expected += 9 * (width // 2) * (width + width // 2)  # and up to the level above.
    expected += outputs * (c + 1)
    assert _parameters(UNet(inputs, outputs, c, pools)) == expected


def test_u_net_256_has_a_bottleneck_of_256_features() -> None:
    widths = [p.shape[0] for p in UNet(channels=16, pools=4).bottleneck.parameters()]
    assert widths == [256, 256]


def test_one_level_written_out() -> None:
    torch.manual_seed(0)
    network = UNet(in_channels=2, out_channels=1, channels=3, pools=1)
    w1, w2, w3, w4, w_enlarge, w5, w6, w_out, b_out = network.parameters()

    def active(x: torch.Tensor) -> torch.Tensor:
        mean, variance = x.mean((-2, -1), keepdim=True), x.var((-2, -1), keepdim=True, correction=0)
        x = (x - mean) / torch.sqrt(variance + 1e-5)
        return torch.where(x > 0, x, 0.2 * x)

    def double_conv(x: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return active(F.conv2d(active(F.conv2d(x, first, padding=1)), second, padding=1))

    image = _input(2, 2, 8, 12)
    fine = double_conv(image, w1, w2)
    coarse = double_conv(fine.unflatten(3, (6, 2)).unflatten(2, (4, 2)).mean((3, 5)), w3, w4)
    enlarged = active(F.conv_transpose2d(coarse, w_enlarge, stride=2))
    expected = F.conv2d(double_conv(torch.cat([enlarged, fine], 1), w5, w6), w_out, b_out)
    torch.testing.assert_close(network(image), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (9, 8), (3, 50), (256, 20)])
def test_any_size_is_kept(small: UNet, size: tuple[int, int]) -> None:
    output = small(_input(2, 2, *size))
    assert output.shape == (2, 2, *size)
    assert bool(output.isfinite().all())


def test_odd_sizes_are_enlarged_by_the_edge_and_cropped_back(small: UNet) -> None:
    image = _input(1, 2, 29, 38)  # To 32 x 40: margins 1 and 2, 1 and 1.
    enlarged = F.pad(image, (1, 1, 1, 2), mode="replicate")
    torch.testing.assert_close(small(image), small(enlarged)[..., 1:30, 1:39])


def test_output_depends_on_pixels_far_away(small: UNet) -> None:
    image = _input(1, 2, 64, 64).requires_grad_()
    small(image)[0, 0, 32, 32].backward()
    assert image.grad is not None
    assert float(image.grad[..., 8:16, 8:16].abs().max()) > 0


def test_every_parameter_and_input_gets_a_gradient(small: UNet) -> None:
    image = _input(1, 2, 24, 40).requires_grad_()
    small(image).square().sum().backward()
    assert image.grad is not None
    for tensor in (image, *small.parameters()):
        assert tensor.grad is not None
        assert bool(tensor.grad.isfinite().all())
        assert float(tensor.grad.abs().sum()) > 0


def test_slices_of_a_batch_do_not_mix(small: UNet) -> None:
    batch = _input(3, 2, 16, 24)
    torch.testing.assert_close(small(batch)[1:2], small(batch[1:2]))


def test_dropout_acts_in_training_only() -> None:
    network = UNet(channels=4, pools=2, dropout=0.5)
    image = _input(1, 2, 16, 16)
    torch.manual_seed(3)
    assert not torch.equal(network(image), network(image))
    network.eval()
    assert torch.equal(network(image), network(image))


def test_double_precision() -> None:
    assert UNet(channels=2, pools=1).double()(_input(1, 2, 8, 8).double()).dtype == torch.float64


@pytest.mark.parametrize("size", [(8, 8), (1, 8), (5, 3)])
def test_sizes_that_cannot_be_normalised_are_refused(small: UNet, size: tuple[int, int]) -> None:
    with pytest.raises(SettingError, match=f"{size[0]}x{size[1]} is too small for 3 poolings: one side must exceed 8"):
        small(_input(1, 2, *size))


@pytest.mark.parametrize("name", ["in_channels", "out_channels", "channels", "pools"])
def test_numbers_that_are_not_positive_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        UNet(**{name: 0})


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_impossible_dropout_is_refused(dropout: float) -> None:
    with pytest.raises(ValueError, match=r"dropout must lie in \[0, 1\)"):
        UNet(dropout=dropout)
