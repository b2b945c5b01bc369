from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from sansref.errors import TrainingError
from sansref.kspace.family import MaskFamily
from sansref.kspace.measurement import Measurement
from sansref.methods import KspaceExample, Method, Turn
from sansref.metrics.holdout import held_out_error
from sansref.training.batches import ValidationSet
from sansref.training.history import ResumePoint, read_history
from sansref.training.loop import Loop, StageFiles, fit
from sansref.training.options import TrainingOptions
from sansref.training.progress import Progress


@pytest.fixture
def validation(make_scans, tiny):
    config = tiny("ssdu")
    return ValidationSet(make_scans((32, 32), (32, 24)), config.sampling.family(emulated=True), 0.2, seed=0)


def scored(loop: Loop, validation: ValidationSet) -> list[float]:
    with torch.no_grad():
        for index in range(len(validation)):
            loop.validation_step(validation[index], index)
    return [float(score) for score in loop._scores]


def test_score_is_the_held_out_error_of_the_reconstruction(tiny, validation):
    config = tiny("ssdu")
    method = config.build()
    scores = scored(Loop(method, config.training), validation)
    for score, item in zip(scores, [validation[0], validation[1]], strict=True):
        image = method.reconstruct(item.given).detach()
        truth = held_out_error(image, item.measured, item.held_out, None, item.density)
        assert score == pytest.approx(float(truth), rel=1e-6)


def test_score_against_references_is_the_nmse_of_the_magnitudes(tiny, validation):
    config = tiny("ssdu", score="reference")
    method = config.build()
    scores = scored(Loop(method, config.training), validation)
    for score, item in zip(scores, [validation[0], validation[1]], strict=True):
        image, truth = method.reconstruct(item.given)[0].abs().detach(), item.reference[0].abs()
        assert score == pytest.approx(float(((image - truth) ** 2).sum() / (truth**2).sum()), rel=1e-5)


def test_scoring_against_references_needs_them(tiny, validation):
    item = validation[0]._replace(reference=None)
    with pytest.raises(ValueError, match="a scan has none"):
        Loop(tiny("ssdu").build(), tiny("ssdu", score="reference").training).validation_step(item, 0)


def test_reference_free_score_does_not_read_the_reference(tiny, validation):
    loop = Loop(tiny("ssdu").build(), tiny("ssdu").training)
    item = validation[0]
    loop.validation_step(item, 0)
    loop.validation_step(item._replace(reference=torch.full_like(item.reference, torch.nan)), 0)
    loop.validation_step(item._replace(reference=None), 0)
    assert len({float(score.detach()) for score in loop._scores}) == 1


def test_score_that_is_not_finite_stops_the_training(tiny):
    loop = Loop(tiny("ssdu").build(), tiny("ssdu").training)
    loop._scores = [torch.tensor(0.3), torch.tensor(torch.nan)]
    with pytest.raises(TrainingError, match=r"validation score is nan in epoch 0: .*lower --learning_rate .*--out"):
        loop.on_validation_epoch_end()


def test_a_turn_gets_an_optimiser_for_its_parameters_alone(tiny):
    config = tiny("ssdu", schedule="plateau", learning_rate=0.02, plateau_factor=0.2, plateau_patience=3)
    method = config.build()
    (optimiser,), (schedule,) = Loop(method, config.training).configure_optimizers()
    moved = {id(parameter) for group in optimiser.param_groups for parameter in group["params"]}
    assert moved == {id(parameter) for parameter in method.network.parameters()}
    assert optimiser.param_groups[0]["lr"] == 0.02
    assert (schedule.factor, schedule.patience, schedule.mode) == (0.2, 3, "min")


def test_loop_hands_the_network_no_more_than_the_given_samples(tiny, validation):
    method = tiny("ssdu").build()
    seen: list[Measurement] = []
    method.reconstruct = lambda given: seen.append(given) or torch.zeros(1, 32, 32, dtype=torch.complex64)
    Loop(method, tiny("ssdu").training).validation_step(validation[0], 0)
    assert seen[0] is not None
    assert not seen[0].kspace[0, 0][validation[0].held_out[0]].any()


# --- several turns, linear decay, averaged weights --------------------------------------------------------------


class Uphill(Method):
    """Two numbers that rise by the learning rate in each step: Adam on a constant slope. It tells what it was asked."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (torch.nn.Parameter(torch.tensor(0.0)) for _ in range(2))
        self.told = []
        self.trained_at, self.used_at = [], []
        self.poisoned = None

    @property
    def turns(self):
        return [Turn("one", [self.first], averaged=False, lookahead=True), Turn("two", [self.second])]

    def examples(self, scan, draw, refined=None):
        return [KspaceExample(scan.measurement, scan.kspace, scan.mask.float())]

    def loss(self, turn, batch):
        self.told.append(f"loss of {turn}")
        self.trained_at.append(float(self.second.detach()))
        # The second turn pulls at the first one's number as well, downhill and harder; it must not move.
        loss = -self.first if turn == "one" else 5 * self.first - self.second
        return loss * (torch.nan if turn == self.poisoned else 1.0), {}

    def updated(self, turn):
        self.told.append(f"{turn} updated")

    def reconstruct(self, given):
        self.used_at.append(float(self.second.detach()))
        return torch.zeros_like(given.kspace[:, 0])


class TwoStages(Uphill):
    stages = 2


# Ten steps, the learning rate falls from 0.1 by 0.01 with each; the mean takes in the last four.
TEN_STEPS = TrainingOptions(
    epochs=5,
    batch_size=1,
    learning_rate=0.1,
    schedule="linear",
    keep="last",
    average_from=0.6,
    lookahead=3,
    threads=1,
    accelerator="cpu",
)
SECOND = [0.0, 0.1, 0.19, 0.27, 0.34, 0.40, 0.45, 0.49, 0.52, 0.54, 0.55]
MEANS = {"after step 8": (0.49 + 0.52) / 2, "after step 10": (0.49 + 0.52 + 0.54 + 0.55) / 4}
# Drawn half-way back after 3, 6 and 9 steps: 0.27 to 0.135, 0.315 to 0.225, 0.315 to 0.27.
FIRST = 0.28


@pytest.fixture
def climb(make_scans, tmp_path):
    """Train for real, two steps an epoch; the same name again continues."""
    scans = [scan.without_reference() for scan in make_scans((32, 32), (32, 32))]

    def run(name="run", method=None, options=TEN_STEPS, stage=0):
        method = method or Uphill()
        files = StageFiles(tmp_path / name / "00", tmp_path / name / "metrics.csv")
        scored = ValidationSet(scans[:1], MaskFamily(), 0.2, seed=0)
        progress = Progress("T", 1, options.epochs, 2, Console(quiet=True))
        fit(method, scans, [(32, 32)] * 2, None, scored, options, files, stage, progress)
        return method, files

    return run


def close(*values: float) -> object:
    return pytest.approx(values, abs=2e-6)


def test_linear_decay_runs_over_all_stages(climb):
    """Two stages of five steps fall as one of ten does."""
    options = replace(TEN_STEPS, average_from=None)
    first, _ = climb("first", TwoStages(), options)
    second, _ = climb("second", TwoStages(), options, stage=1)
    # Ten steps of each: from 0.1 to 0.05, and on to 0.
    assert (float(first.second.detach()),) == close(sum(0.1 - 0.005 * step for step in range(10)))
    assert (float(second.second.detach()),) == close(sum(0.05 - 0.005 * step for step in range(10)))


def test_cooldown_comes_at_the_end_of_the_last_stage(climb):
    options = replace(TEN_STEPS, schedule="cooldown", average_from=None)
    first, _ = climb("first", TwoStages(), options)
    second, _ = climb("second", TwoStages(), options, stage=1)
    # The last six of all twenty steps.
    assert (float(first.second.detach()),) == close(0.1 * 10)
    assert (float(second.second.detach()),) == close(0.1 * (4 + sum(step / 6 for step in range(1, 7))))


def test_stages_of_new_weights_have_a_schedule_each(climb):
    class Anew(Uphill):
        stages, warm_start = 2, False

    for stage in range(2):
        method, _ = climb(str(stage), Anew(), replace(TEN_STEPS, average_from=None), stage)
        assert (float(method.second.detach()),) == close(SECOND[-1])


def test_cooldown_falls_during_the_last_steps_alone(climb):
    method, _ = climb(options=replace(TEN_STEPS, schedule="cooldown", average_from=None))
    # Ten steps: the last three begin at 3/3, 2/3 and 1/3 of the rate.
    assert (float(method.second.detach()),) == close(0.1 * (7 + 1 + 2 / 3 + 1 / 3))


def test_turns_are_played_in_order_and_each_moves_its_own_weights(climb):
    method, files = climb()
    assert method.told == ["loss of one", "one updated", "loss of two", "two updated"] * 10
    assert (float(method.first.detach()), float(method.second.detach())) == close(FIRST, 0.55)
    for row in read_history(files.history):
        assert float(row["loss"]) == pytest.approx(float(row["loss_one"]) + float(row["loss_two"]), abs=1e-6)


def test_learning_rate_falls_in_a_straight_line_to_almost_zero(climb):
    method, files = climb()
    assert method.trained_at[1::2] == close(*SECOND[:10])
    rates = [float(row["learning_rate"]) for row in read_history(files.history)]
    assert rates == pytest.approx([0.08, 0.06, 0.04, 0.02, 1e-7], rel=1e-4)


def test_the_mean_begins_at_its_share_of_the_steps_and_is_what_is_scored(climb):
    method, _ = climb()
    assert method.used_at == close(0.19, 0.34, 0.45, *MEANS.values())


def test_the_mean_is_what_is_saved_while_training_goes_on_with_the_weights_themselves(climb):
    method, files = climb()
    saved = load_file(files.best)
    assert (float(saved["first"]), float(saved["second"])) == close(FIRST, MEANS["after step 10"])
    assert method.trained_at[1::2] == close(*SECOND[:10])


@pytest.mark.parametrize(("share", "expected"), [(None, 0.55), (0.0, sum(SECOND) / 10), (0.8, 0.545), (0.95, 0.55)])
def test_the_share_of_the_steps_decides_what_is_averaged(climb, share, expected):
    _, files = climb(options=TrainingOptions(**{**vars(TEN_STEPS), "average_from": share}))
    assert float(load_file(files.best)["second"]) == pytest.approx(expected, abs=2e-6)


class Interrupted(BaseException):
    """Stands for a kill."""


@pytest.mark.parametrize("epochs", [1, 2, 3, 4])
def test_schedule_and_mean_go_on_after_an_interruption(climb, monkeypatch, epochs):
    whole, files = climb("whole")
    original = ResumePoint.on_train_epoch_end

    def interrupted(point, trainer, loop):
        if trainer.current_epoch == epochs:
            raise Interrupted
        original(point, trainer, loop)

    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(ResumePoint, "on_train_epoch_end", interrupted)
        climb("cut")
    again, others = climb("cut")
    assert again.used_at == whole.used_at[epochs:]
    assert again.trained_at == whole.trained_at[4 * epochs :]
    assert others.best.read_bytes() == files.best.read_bytes()
    rates = [[row["learning_rate"] for row in read_history(one.history)] for one in (files, others)]
    assert rates[0] == rates[1]


@pytest.mark.parametrize("turn", ["one", "two"])
def test_the_turn_whose_loss_is_not_finite_is_named_and_moves_nothing(climb, turn):
    method = Uphill()
    method.poisoned = turn
    with pytest.raises(TrainingError, match=f"the loss of turn '{turn}' is nan in epoch 0: train with a lower"):
        climb(method=method)
    assert float(method.second.detach()) == 0
    assert float(method.first.detach()) == pytest.approx(0.1 if turn == "two" else 0.0)
