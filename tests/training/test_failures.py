"""Adversarial training that fails says so in one line and keeps the last good epoch."""

from __future__ import annotations

import pytest
import torch

from sansref import cli
from sansref.networks.translators import SwitchableDiscriminator, SwitchableGenerator
from sansref.results import health_figure as health
from sansref.training.history import read_history
from sansref.training.loop import Loop

SETTINGS = [
    *("--epochs", "2", "--batch_size", "1", "--learning_rate", "1e-3", "--threads", "1", "--accelerator", "cpu"),
    *("--crop", "[80,80]", "--network.width", "2", "--network.blocks", "1", "--network.extractor_layers", "3"),
]


@pytest.fixture(scope="module")
def command(write_heads, tmp_path_factory):
    heads = write_heads(tmp_path_factory.mktemp("four"), subjects=4, slices=1)
    return lambda out: ["train", "switchable", "--data", str(heads), "--out", str(out), *SETTINGS]


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    """Runs whose health was drawn; the figure itself has tests of its own."""
    runs = []
    monkeypatch.setattr(health, "draw_health", runs.append)
    return runs


class Sickness:
    """Breaks out in the second epoch, and remembers the stage's files as they were before."""

    def __init__(self, patched, stage):
        self.stage, self.files = stage, {}
        original = Loop.step

        def watched(loop, batch, share, epoch):
            if epoch == 1 and not self.files:
                self.files = self.now()
            return original(loop, self.fed(batch) if self.files else batch, share, epoch)

        patched.setattr(Loop, "step", watched)

    def now(self):
        return {path.name: path.read_bytes() for path in self.stage.iterdir()}

    def fed(self, batch):
        return batch


class NotANumber(Sickness):
    message = "the loss of turn 'discriminator' is nan in epoch 1: "

    def fed(self, batch):
        return batch._replace(undersampled=batch.undersampled * torch.nan)


class Flattened(Sickness):
    """A network whose output says nothing any more."""

    def __init__(self, patched, stage):
        super().__init__(patched, stage)
        original = self.network.full

        def flat(network, image):
            return original(network, image) * (0 if self.files else 1)

        patched.setattr(self.network, "full", flat)


class ConstantImages(Flattened):
    network = SwitchableGenerator
    message = "the generator's images are constant (spread 0) in epoch 1: "


class CollapsedDiscriminator(Flattened):
    network = SwitchableDiscriminator
    message = "the discriminator has collapsed: it judges everything alike (spread 0) in epoch 1: "


@pytest.mark.parametrize("kind", [NotANumber, ConstantImages, CollapsedDiscriminator])
def test_a_failure_is_one_line_and_keeps_the_last_good_epoch(command, tmp_path, monkeypatch, capsys, drawn, kind):
    run = tmp_path / "run"
    sickness = kind(monkeypatch, run / "stages" / "00")
    with pytest.raises(SystemExit) as left:
        cli.main(command(run))
    assert left.value.code == 2
    *progress, said = capsys.readouterr().err.splitlines()
    assert all(line.startswith("SWITCHABLE epoch ") for line in progress)
    cure = "train with a lower --learning_rate into another --out; the epochs before are kept"
    assert said == f"sansref: {kind.message}{cure}"
    assert sickness.files.keys() == {"best.safetensors", "last.ckpt"}
    assert sickness.now() == sickness.files
    assert int(torch.load(run / "stages" / "00" / "last.ckpt", weights_only=True)["epoch"]) == 0
    assert read_history(run / "metrics.csv")
    assert not (run / "model.json").exists()
    assert drawn == [run]


def test_a_learning_rate_that_is_far_too_high_fails_without_being_made_to(command, tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main([*command(tmp_path / "run"), "--learning_rate", "1e30"])
    assert left.value.code == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("sansref: the loss of turn '")
    assert " in epoch 0: train with a lower --learning_rate into another --out" in said
