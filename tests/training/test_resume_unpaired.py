"""Adversarial training killed by the system goes on with three optimisers, slow and averaged weights as they were."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sansref.cli import main
from sansref.results import health_figure as health

pytestmark = pytest.mark.slow

# Slow weights are drawn after 3 and 6 of 8 steps; the mean takes in those of the last 3, from within the third epoch.
STEPS, EPOCHS = 2, 4
SETTINGS = [
    *("--epochs", str(EPOCHS), "--batch_size", "1", "--learning_rate", "1e-3", "--lookahead", "3", "--threads", "1"),
    *("--accelerator", "cpu", "--crop", "[80,80]"),
    *("--network.width", "2", "--network.blocks", "1", "--network.extractor_layers", "3"),
]

NEXT_EPOCH = "sansref.training.loop:Loop.train"

# What is called when the kill comes, and for which time in the life of the killed process.
POINTS = {
    "between two turns in the middle of an epoch": ("sansref.methods.unpaired.turns:generator_loss", 4),
    "between the gradient and the step of the last turn": ("sansref.training.processes:Processes.average_gradients", 9),
    "right after a checkpoint between two draws of the slow weights": (NEXT_EPOCH, 3),
    "while the first mean stands in for the weights": ("sansref.training.loop:Loop._score", 3),
    "right after a checkpoint with a mean": (NEXT_EPOCH, 4),
    "while the last mean is written": ("sansref.training.loop:save", 4),
    "between the last mean and its checkpoint": ("sansref.training.loop:Loop.save", 4),
}


@pytest.fixture(scope="module")
def command(write_heads, tmp_path_factory):
    heads = write_heads(tmp_path_factory.mktemp("four"), subjects=4, slices=1)
    return lambda out: ["train", "switchable", "--data", str(heads), "--out", str(out), *SETTINGS]


@pytest.fixture(scope="module", autouse=True)
def without_figure():
    """The figure of health takes as long as the training."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(health, "draw_health", lambda run: None)
        yield


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory, rows) -> Path:
    """A run that nothing interrupts."""
    run = tmp_path_factory.mktemp("whole") / "run"
    main(command(run))
    assert [row["epoch"] for row in rows(run)] == [str(epoch) for epoch in range(EPOCHS)]
    return run


@pytest.mark.parametrize("point", POINTS)
def test_a_run_killed_once_ends_the_same(command, tmp_path, whole, point, killed, assert_same_run):
    killed(command(tmp_path / "run"), *POINTS[point])
    assert not (tmp_path / "run" / "model.json").exists()
    main(command(tmp_path / "run"))
    assert_same_run(tmp_path / "run", whole)


def test_a_run_killed_in_the_middle_of_every_epoch_ends_the_same(command, tmp_path, whole, killed, assert_same_run):
    for _ in range(EPOCHS - 1):
        killed(command(tmp_path / "run"), "sansref.training.loop:Loop.step", STEPS + 2)
    main(command(tmp_path / "run"))
    assert_same_run(tmp_path / "run", whole)


def test_a_checkpoint_holds_live_slow_and_averaged_weights_apart(command, tmp_path, killed):
    killed(command(tmp_path / "run"), "sansref.training.stages:write_text", 1)
    stage = tmp_path / "run" / "stages" / "00"
    saved, point = load_file(stage / "best.safetensors"), torch.load(stage / "last.ckpt", weights_only=True)
    live, mean, kernel = point["method"], point["mean"], "generators.generator.out.weight"
    assert int(mean["mean.n_averaged"]) == 3
    assert not torch.equal(saved[kernel], live[kernel])
    assert any(torch.equal(saved[kernel], value) for value in mean.values())
    names = ("discriminator", "generator", "extractor")
    discriminator, generator, extractor = (list(point[f"optimizer {name}"]["state"].values()) for name in names)
    assert not any("slow" in one for one in generator)
    for one in (*discriminator, *extractor):
        assert int(one["step"]) == STEPS * EPOCHS
        assert one["slow"].shape == one["exp_avg"].shape
    others = [name for name in saved if not name.startswith("generators.")]
    assert all(torch.equal(saved[name], live[name]) for name in others)
    assert any("extractor" in name for name in others)
