"""A zero-shot reconstruction that is killed, and continued by the same command, ends as if nothing had happened."""

from __future__ import annotations

import itertools
import json
import os
import signal
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from helpers.scans import noise
from sansref.cli import main
from sansref.commands import zero_shot
from sansref.kspace.fourier import fft2c
from sansref.results.scores import read_scores
from sansref.training.history import read_history

pytestmark = pytest.mark.slow

SETTINGS = [
    *("--axes", "coil,row,column", "--acceleration", "2", "--center", "0.3", "--coils.kernel", "4"),
    *("--stages", "2", "--epochs", "2", "--repeats", "2", "--threads", "1", "--accelerator", "cpu"),
    *("--network.phases", "1", "--network.channels", "2", "--network.layers", "2", "--network.cg_steps", "1"),
    *("--minutes", "null"),
]

ZERO_SHOT = "sansref.commands.zero_shot:"
POINTS = {
    "before the record": (f"{ZERO_SHOT}write_text", 1),
    "while scans are prepared": ("sansref.data.scan_store:ArrayWriter.append", 1),
    "before the first image": (f"{ZERO_SHOT}save_png", 1),
    "while regularisations are chosen": (f"{ZERO_SHOT}choose_regularisation", 2),
    "between compressed sensing and its record": (f"{ZERO_SHOT}write_text", 2),
    "before the run": ("sansref.training.run:write_text", 1),
    "in an epoch": ("sansref.training.loop:Loop.step", 3),
    "between two epochs": ("sansref.training.loop:Loop.save", 2),
    "between two stages": ("sansref.training.stages:_refined", 1),
    "before the model": ("shutil:copyfile", 1),
    "before the mixture": (f"{ZERO_SHOT}mixing_weight", 1),
    "while it is judged": ("sansref.results.scorer:Scorer.score", 1),
    "before the choice": (f"{ZERO_SHOT}choose", 1),
    "while images are written": (f"{ZERO_SHOT}write_images", 1),
    "before the scores": (f"{ZERO_SHOT}write_scores", 1),
    "before the page": ("sansref.commands.zero_shot_report:write_page", 1),
    "before the end is recorded": (f"{ZERO_SHOT}write_text", 4),
}


@pytest.fixture(scope="module")
def scan_file(tmp_path_factory) -> Path:
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    image = np.zeros((32, 32))
    for top, left, height, width in np.random.default_rng(0).integers(4, 20, (12, 4)):
        image[top : top + height // 2, left : left + width // 2] += 0.3
    coils = [np.exp(-((y - row) ** 2 + (x - column) ** 2)) for row in (-1, 1) for column in (-1, 1)]
    full = fft2c(torch.tensor(np.array([image * coil for coil in coils]), dtype=torch.complex64))
    path = tmp_path_factory.mktemp("scan") / "head.npy"
    np.save(path, (full + 0.01 * noise(*full.shape, dtype=torch.complex64)).numpy())
    return path


@pytest.fixture(scope="module", autouse=True)
def quick_compressed_sensing():
    """Two regularisations instead of eleven, and 15 iterations instead of 100."""
    few = partial(zero_shot.choose_regularisation, grid=(1e-3, 1e-2), iterations=15)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zero_shot, "choose_regularisation", few)
        patch.setattr(zero_shot, "Classical", partial(zero_shot.Classical, iterations=15))
        yield


def command(file: Path, out: Path) -> list[str]:
    return ["zeroshot", str(file), "--out", str(out), *SETTINGS]


def found(out: Path) -> list[object]:
    """The model, the images, the scores but for their seconds, and the record, but for how long it took."""
    with h5py.File(out / "head.h5") as file:
        image = np.asarray(file["reconstruction"]).tobytes()
    scores = [(row.label, row.held_out, row.psnr, row.ssim_body) for row in read_scores(out / "scores.csv")]
    record = json.loads((out / "zeroshot.json").read_text())
    names = sorted(str(path.relative_to(out)) for path in out.rglob("*"))
    return [(out / "run" / "model.safetensors").read_bytes(), image, scores, record, names]


@pytest.fixture(scope="module")
def whole(scan_file, quick_compressed_sensing, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    main(command(scan_file, out))
    return out


@pytest.mark.parametrize("point", POINTS)
def test_what_is_killed_once_ends_the_same(scan_file, whole, tmp_path, killed, point):
    arguments = command(scan_file, tmp_path / "out")
    killed(arguments, *POINTS[point])
    main(arguments)
    assert found(tmp_path / "out") == found(whole)


def test_ctrl_c_from_outside_ends_the_training_alone(scan_file, tmp_path, forked):
    out, numbers = tmp_path / "out", itertools.count(1)

    def interrupt(*given: object) -> None:
        if next(numbers) == 4:  # in the second epoch of two steps
            os.kill(os.getpid(), signal.SIGINT)

    _, status = os.waitpid(forked(command(scan_file, out), "sansref.training.loop:Loop.step", interrupt), 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert [row["epoch"] for row in read_history(out / "run" / "metrics.csv")] == ["0"]
    assert "network" in {row.label for row in read_scores(out / "scores.csv")}
    before = found(out)
    main(command(scan_file, out))
    assert found(out) == before
