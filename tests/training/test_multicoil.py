"""From files of several coils without maps to images: every method, by the commands that people use."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from sansref.data.coil_maps import CoilOptions, espirit_maps
from sansref.data.scan_store import PreparedScans
from sansref.kspace.coils import birdcage_maps
from sansref.kspace.fourier import fft2c
from sansref.randomness import seeded
from sansref.scan import Scan

pytestmark = pytest.mark.slow

Command = Callable[..., tuple[int, str, str]]

HEADER = """<ismrmrdHeader><encoding>
<encodedSpace><matrixSize><x>{x}</x><y>{y}</y><z>1</z></matrixSize>
<fieldOfView_mm><x>240</x><y>200</y><z>5</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>{x}</x><y>{y}</y><z>1</z></matrixSize>
<fieldOfView_mm><x>240</x><y>200</y><z>5</z></fieldOfView_mm></reconSpace>
<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>{last}</maximum>
<center>{center}</center></kspace_encoding_step_1></encodingLimits></encoding></ismrmrdHeader>"""

SIZE = (48, 40)
NETWORK = ("--network.phases", 2, "--network.channels", 4)
QUICK = ("--epochs", 1, "--threads", 1, "--accelerator", "cpu", "--batch_size", 4)
SAMPLING = ("--acceleration", 3, "--center", 0.4)
TRANSLATOR = ("--network.width", 2, "--network.blocks", 1, "--network.extractor_layers", 3)


def object_of(subject: int, number: int, size: tuple[int, int]) -> torch.Tensor:
    """A complex head with a margin around it, float32 parts."""
    rows, columns = torch.linspace(-1, 1, size[0])[:, None], torch.linspace(-1, 1, size[1])
    inside = torch.hypot(rows / 0.8, columns / 0.75) < 1
    texture = 1 + 0.4 * torch.sin(6 * rows + subject) * torch.cos((5 + number) * columns)
    return torch.polar(inside * texture, 0.7 * rows * columns + 0.1 * subject)


def write_brain(
    path: Path, subject: int, slices: int = 2, coils: int = 4, size: tuple[int, int] = SIZE, every: int = 1
) -> Path:
    """fastMRI's layout of several coils, at its scale; ``every`` second column makes it accelerated."""
    maps = birdcage_maps(size, coils)
    noise = torch.randn(slices, coils, *size, dtype=torch.complex64, generator=seeded("noise", subject))
    images = torch.stack([object_of(subject, number, size) for number in range(slices)])
    kspace = 1e-5 * (fft2c(maps * images[:, None]) + 0.03 * noise).numpy()
    mask = np.arange(size[1]) % every == 0
    mask[size[1] // 2 - 8 : size[1] // 2 + 8] = True
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace * mask
        file["ismrmrd_header"] = HEADER.format(x=size[0], y=size[1], last=size[1] - 1, center=size[1] // 2)
        file.attrs.update({"acquisition": "AXT2", "patient_id": f"brain{subject}"})
    return path


@pytest.fixture(scope="module")
def brains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three fully sampled people."""
    folder = tmp_path_factory.mktemp("brains")
    for subject in range(3):
        write_brain(folder / f"{subject}.h5", subject)
    return folder


@pytest.fixture(scope="module")
def accelerated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three people of whom no full scan exists; coils and widths differ, as in fastMRI's brains."""
    folder = tmp_path_factory.mktemp("accelerated")
    for subject, (coils, width) in enumerate(((4, 40), (3, 36), (4, 40))):
        write_brain(folder / f"{subject}.h5", subject, coils=coils, size=(48, width), every=3)
    return folder


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the k-space that maps were estimated of."""
    shapes: list[tuple[int, ...]] = []

    def count(scan: Scan, options: CoilOptions) -> torch.Tensor:
        shapes.append(tuple(scan.kspace.shape))
        return espirit_maps(scan, options)

    monkeypatch.setattr("sansref.data.coil_maps.espirit_maps", count)
    return shapes


def scores(out: Path, method: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "summary.json").read_text())["methods"][method]["mean"]
    return found


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("ssdu", NETWORK),
        ("idr", (*NETWORK, "--stages", 2)),
        ("supervised", (*NETWORK, "--coils.reference", "rss", "--coils.virtual", 3)),
    ],
)
def test_train_evaluate_reconstruct(
    sansref: Command, brains: Path, tmp_path: Path, counted: list[Any], method: str, options: tuple[object, ...]
) -> None:
    run = tmp_path / "run"
    train = ("train", method, "--data", brains, "--out", run, *QUICK, *SAMPLING, *options, "--test", 0.3)
    code, _, error = sansref(*train)
    assert code == 0, error
    slices = sum(len(PreparedScans(run / "data" / part)) for part in ("training", "validation"))
    # Two people, two slices each, and one to measure times with: nothing twice, and nothing of the test subject.
    assert len(counted) == slices + 1 == 5
    counted.clear()
    (run / "model.json").unlink()  # as if the command had been killed
    assert sansref(*train)[0] == 0
    assert counted == []

    code, out, error = sansref("evaluate", run, "--data", brains)
    assert code == 0, error
    out = " ".join(out.split())
    assert "simulated" not in out
    assert f"reference: coils {'as root of the sum' if method == 'supervised' else 'combined by their maps'}" in out
    assert scores(run / "evaluation", method)["psnr"] > 20
    assert 0 < scores(run / "evaluation", method)["held_out"] < 1

    code, _, error = sansref("reconstruct", run, brains / "0.h5", "--out", tmp_path / "images")
    assert code == 0, error
    (written,) = (path for path in (tmp_path / "images").rglob("*.h5"))
    with h5py.File(written) as file:
        images = file["reconstruction"][()]
    truth = np.stack([object_of(0, number, SIZE).abs().numpy() for number in range(2)])
    assert images.shape == truth.shape
    inside = truth > 0.3
    assert np.abs(images / 1e-5 - truth)[inside].mean() < 0.25  # of the file's units, and of its scale


def test_learning_where_no_full_scan_exists(sansref: Command, accelerated: Path, tmp_path: Path) -> None:
    """Each scan keeps the mask it came with; batches hold scans of one shape, coils included."""
    run = tmp_path / "run"
    code, _, error = sansref(
        *("train", "idr", "--data", accelerated, "--out", run, *QUICK, *NETWORK, "--stages", 2, "--validation", 0.3)
    )
    assert code == 0, error
    training = PreparedScans(run / "data" / "training")
    assert {shape[0] for shape in training.shapes} <= {3, 4}
    assert not any(meta.emulated for meta in training.metas)
    assert sorted(path.name for path in (run / "data" / "training").iterdir()) == [
        "kspace",
        "maps",
        "mask",
        "recipe.json",
        "scans.json",
    ]
    code, out, error = sansref("evaluate", run, "--data", accelerated, "--subjects", "all")
    assert code == 0, error
    out = " ".join(out.split())
    assert "without a reference" in out
    assert "reference: coils" not in out
    assert scores(run / "evaluation", "idr")["psnr"] is None
    assert 0 < scores(run / "evaluation", "idr")["held_out"] < 1
    assert sansref("reconstruct", run, accelerated / "1.h5", "--out", tmp_path / "images")[0] == 0
    with h5py.File(tmp_path / "images" / "1.h5") as file:
        assert file["reconstruction"].shape == (2, 48, 36)


def test_unpaired_learning_beside_full_scans_of_people_with_other_coils(sansref: Command, tmp_path: Path) -> None:
    for subject, coils in ((0, 3), (1, 3), (2, 2)):
        write_brain(tmp_path / "under" / f"{subject}.h5", subject, 1, coils, (80, 80), every=3)
    for subject, coils in ((5, 4), (6, 2)):
        write_brain(tmp_path / "full" / f"{subject}.h5", subject, 1, coils, (80, 80))
    run = tmp_path / "run"
    code, _, error = sansref(
        *("train", "switchable", "--data", tmp_path / "under", "--full", tmp_path / "full", "--out", run),
        *(*QUICK, *TRANSLATOR, "--validation", 0, "--batch_size", 2),
    )
    assert code == 0, error
    assert "sampling" in (run / "metrics.csv").read_text().splitlines()[0]
    assert sansref("reconstruct", run, tmp_path / "under" / "0.h5", "--out", tmp_path / "images")[0] == 0


def test_what_cannot_be_learned_is_one_line(sansref: Command, brains: Path, tmp_path: Path) -> None:
    train = ("train", "ssdu", "--data", brains, "--out", tmp_path / "run", *QUICK, *NETWORK)
    for options, message in (
        (
            ("--acceleration", 4, "--center", 0.1),
            "too small for coil maps: 8 x 8 are needed. Give --maps, or train, or run zeroshot, with a larger --center",
        ),
        ((*SAMPLING, "--coils.maps", "none"), "has 4 coils and no sensitivity maps. Train with --coils.maps espirit"),
        ((*SAMPLING, "--network.complex", "false"), "a real network cannot combine coils: use --network.complex true"),
        (("--coils.virtual", 0), "coils.virtual must be at least 1, got 0"),
    ):
        code, _, error = sansref(*train, *options)
        assert code == 2
        assert message in error
        assert error.count("\n") == 1
        shutil.rmtree(tmp_path / "run", ignore_errors=True)


def test_one_virtual_coil_is_a_single_coil_scan(sansref: Command, brains: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ("train", "ssdu", "--data", brains, "--out", run, *QUICK, *NETWORK, *SAMPLING)
    code, _, error = sansref(*words, "--coils.virtual", 1, "--coils.maps", "none", "--coils.reference", "rss")
    assert code == 0, error
    assert {shape[0] for shape in PreparedScans(run / "data" / "training").shapes} == {1}
    code, out, error = sansref("evaluate", run, "--data", brains, "--subjects", "all")
    assert code == 0, error
    out = " ".join(out.split())
    assert "reference: coils as root of the sum of squares" in out
