"""The self-supervised ISTA-Net+ that Hu et al. released: their layout, safe reading, and what their weights do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sansref.data.simulate import example_image
from sansref.errors import FileError
from sansref.kspace.cartesian import RealNormal
from sansref.metrics import psnr
from sansref.networks import ISTANet, load_hu2021_weights

PHASES, FEATURES = 2, 3
RELEASED = Path(os.environ.get("SANSREF_HU2021") or "nowhere")


def layer() -> nn.Module:
    """A phase with the modules' names of the released file."""
    made, body, back = nn.Module(), nn.Module(), nn.Module()
    for part in (body, back):
        part.layers = nn.Sequential(_conv(FEATURES, FEATURES), nn.ReLU(), _conv(FEATURES, FEATURES))
    made.lambda_step, made.soft_thr = nn.Parameter(torch.rand(1)), nn.Parameter(0.05 * torch.rand(1))
    made.conv_in, made.conv_out, made.f, made.ft = _conv(1, FEATURES), _conv(FEATURES, 1), body, back
    return made


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


@pytest.fixture
def twins() -> nn.ModuleDict:
    torch.manual_seed(0)
    up, down = (nn.ModuleDict({"layers": nn.ModuleList(layer() for _ in range(PHASES))}) for _ in range(2))
    return nn.ModuleDict({"up_network": up, "down_network": down})


def released(path: Path, twins: nn.Module, **changes: Any) -> Path:
    """A checkpoint as they are released: a number of NumPy stands beside the weights."""
    torch.save({"epoch": 3, "lr": 1e-4, "best_ssim": np.float64(0.9), "model": twins.state_dict()} | changes, path)
    return path


def reconstructed(layers: Any, zero_filled: Tensor, mask: np.ndarray) -> Tensor:
    """What a network of the paper makes of a real image, by transforms of NumPy; the mask has DC in the center."""
    image = zero_filled
    for phase in layers:
        spectrum = np.fft.fftshift(np.fft.fft2(image[0, 0].numpy(), norm="ortho")) * mask
        seen = torch.from_numpy(np.fft.ifft2(np.fft.ifftshift(spectrum), norm="ortho").real)[None, None]
        image = image - phase.lambda_step * (seen - zero_filled)
        features = phase.f.layers(phase.conv_in(image))
        shrunk = features.sign() * F.relu(features.abs() - phase.soft_thr)
        image = image + phase.conv_out(phase.ft.layers(shrunk))
    return image


@pytest.mark.parametrize("which", ["up", "down"])
def test_the_network_computes_what_the_paper_describes(which: Any, twins: nn.ModuleDict, tmp_path: Path) -> None:
    network = load_hu2021_weights(released(tmp_path / "a.pth.tar", twins), which).double()
    rng = np.random.default_rng(0)
    mask, truth = rng.random((9, 10)) < 0.5, torch.from_numpy(rng.random((1, 9, 10)))
    normal = RealNormal(torch.from_numpy(mask), torch.float64)
    with torch.no_grad():
        ours, _ = network(normal(truth)[:, None], normal)
        theirs = reconstructed(twins.double()[f"{which}_network"]["layers"], normal(truth)[:, None], mask)
    torch.testing.assert_close(ours, theirs)


class Trap:
    """What a stranger's file may hold."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_no_code_in_the_file_is_executed(twins: nn.ModuleDict, tmp_path: Path) -> None:
    path = released(tmp_path / "a.pth.tar", twins, epoch=Trap(tmp_path / "caught"))
    with pytest.raises(FileError, match=r"a\.pth\.tar: .*code, which is not executed"):
        load_hu2021_weights(path)
    assert not (tmp_path / "caught").exists()


@pytest.mark.parametrize("damage", ["missing", "text", "half", "another", "no model", "a weight less", "a shape"])
def test_other_files_are_one_line(damage: str, twins: nn.ModuleDict, tmp_path: Path) -> None:
    path = tmp_path / "a.pth.tar"
    weights = twins.state_dict()
    if damage == "text":
        path.write_text("no checkpoint")
    elif damage == "half":
        released(path, twins)
        path.write_bytes(path.read_bytes()[:2000])
    elif damage == "another":
        torch.save(ISTANet(2, 3).state_dict(), path)
    elif damage == "no model":
        released(path, twins, model=3)
    elif damage == "a weight less":
        del weights["up_network.layers.1.ft.layers.2.bias"]
        released(path, twins, model=weights)
    elif damage == "a shape":
        released(path, twins, model=weights | {"up_network.layers.1.conv_out.weight": torch.zeros(2, 3, 3, 3)})
    with pytest.raises(FileError, match=r"a\.pth\.tar: (cannot be read|is not a checkpoint of Hu et al)"):
        load_hu2021_weights(path)


@pytest.mark.skipif(not RELEASED.is_dir(), reason="SANSREF_HU2021 names no folder with the released weights")
@pytest.mark.parametrize(("acceleration", "gain"), [(4, 11.5), (8, 7.0)])
def test_released_weights_reconstruct_the_example_head(acceleration: int, gain: float) -> None:
    """Of another scanner than they were trained on; weights in a wrong place lose against the zero-filled image."""
    network = load_hu2021_weights(RELEASED / f"best_checkpoint_{acceleration}x.pth.tar")
    assert sum(parameter.numel() for parameter in network.parameters()) == 338_427
    mask = torch.from_numpy(scipy.io.loadmat(RELEASED / f"mask_{acceleration}.00x_acs24.mat")["mask"] > 0)
    assert mask.sum() == 256**2 // acceleration
    truth = example_image()[None]
    normal = RealNormal(mask)
    zero_filled = normal(truth)
    with torch.no_grad():
        image, _ = network(zero_filled[:, None], normal, symmetry=False)
    assert psnr(image[:, 0], truth, 1.0) > psnr(zero_filled, truth, 1.0) + gain
