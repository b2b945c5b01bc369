"""One stage in the loop: steps, scores, what is kept, and all of it across an interruption."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from helpers.scans import full_head
from sansref.data.scan_store import ArrayStore, ArrayWriter
from sansref.errors import SettingError, TrainingError
from sansref.kspace.masks.family import MaskFamily
from sansref.kspace.measurement import Measurement
from sansref.methods import Draw, KspaceExample, Method, Sample, Turn, Update, collate
from sansref.methods.ssdu import SSDU
from sansref.metrics.held_out import held_out_error
from sansref.training.batches import ValidationSet
from sansref.training.config import MachineOptions, TrainingOptions
from sansref.training.history import History, read_history
from sansref.training.loop import Loop, StageFiles, fit
from sansref.training.processes import Means, alone
from sansref.training.progress import Progress

SHAPES = [(32, 32), (32, 24), (32, 32), (32, 32)]


class Interrupted(BaseException):
    """Stands for a kill; tests of resuming send real ones."""


def rows(files: StageFiles) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in read_history(files.history)]


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


# --- the score ---------------------------------------------------------------------------------------------------


@pytest.fixture
def validation(make_scans, tiny):
    config = tiny("ssdu")
    return ValidationSet(make_scans((32, 32), (32, 24)), config.sampling.family(emulated=True), 0.2, seed=0)


@pytest.fixture
def loop_of(tiny):
    """The loop of a tiny run, at its start."""

    def make(method="ssdu", **changes):
        config = tiny(method, **changes)
        return Loop(config.build(), config.training, 0, 1, alone(config.machine, config.training.precision))

    return make


def test_score_is_the_mean_held_out_error_of_the_reconstructions(loop_of, validation):
    loop = loop_of()
    items, truths = [validation[0], validation[1]], []
    for item in items:
        image = loop.method.reconstruct(item.given).detach()
        truths.append(float(held_out_error(image, item.measured, item.held_out, None, item.density)))
        assert loop.score([item], 0) == pytest.approx(truths[-1], rel=1e-6)
    assert loop.score(items, 0) == pytest.approx(sum(truths) / 2, rel=1e-6)


def test_score_against_references_is_the_nmse_of_the_magnitudes(loop_of, validation):
    loop = loop_of(score="reference")
    for item in (validation[0], validation[1]):
        image, truth = loop.method.reconstruct(item.given)[0].abs().detach(), item.reference[0].abs()
        assert loop.score([item], 0) == pytest.approx(float(((image - truth) ** 2).sum() / (truth**2).sum()), rel=1e-5)


def test_score_of_two_sets_of_maps_is_that_of_the_image_that_is_shown(loop_of, validation):
    loop, item = loop_of(score="reference"), validation[0]
    both = torch.cat([item.reference, 0.5j * item.reference], -2)
    loop.method.reconstruct = lambda given: both
    shown = both.unflatten(-2, (2, -1)).abs().square().sum(-3).sqrt()
    reference = torch.cat([shown, torch.zeros_like(shown)], -2)  # by root sum of squares
    assert loop.score([item._replace(reference=reference)], 0) == pytest.approx(0, abs=1e-9)


def test_means_over_an_epoch_are_not_those_of_half_precision():
    means = Means()
    for _ in range(1000):
        means.add({"judgement": torch.tensor(0.5, dtype=torch.bfloat16)}, 1)
    assert means.over(alone(CPU)) == {"judgement": 0.5}


def test_scoring_against_references_needs_them(loop_of, validation):
    with pytest.raises(ValueError, match="a scan has none"):
        loop_of(score="reference").score([validation[0]._replace(reference=None)], 0)


def test_reference_free_score_does_not_read_the_reference(loop_of, validation):
    loop, item = loop_of(), validation[0]
    poisoned = item._replace(reference=torch.full_like(item.reference, torch.nan))
    without = item._replace(reference=None)
    assert len({loop.score([one], 0) for one in (item, poisoned, without)}) == 1


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_score_that_is_not_finite_stops_the_training(loop_of, validation, monkeypatch, value):
    loop, scores = loop_of(), iter([0.3, value])
    monkeypatch.setattr(Loop, "_score", lambda *_: torch.tensor(next(scores)))
    with pytest.raises(
        TrainingError, match=rf"validation score is {value} in epoch 2: .*lower --learning_rate .*--out"
    ):
        loop.score([validation[0], validation[1]], 2)


def test_loop_hands_the_network_no_more_than_the_given_samples(loop_of, validation):
    loop = loop_of()
    seen: list[Measurement] = []
    loop.method.reconstruct = lambda given: seen.append(given) or torch.zeros(1, 32, 32, dtype=torch.complex64)
    loop.score([validation[0]], 0)
    assert not seen[0].kspace[0, 0][validation[0].held_out[0]].any()


def test_a_turn_gets_an_optimiser_for_its_parameters_alone(loop_of):
    loop = loop_of(schedule="plateau", learning_rate=0.02, plateau_factor=0.2, plateau_patience=3)
    (optimizer,), (schedule,) = loop.optimizers.values(), loop.plateaus.values()
    moved = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert moved == {id(parameter) for parameter in loop.method.network.parameters()}
    assert optimizer.param_groups[0]["lr"] == loop.learning_rate == 0.02
    assert (schedule.factor, schedule.patience, schedule.mode) == (0.2, 3, "min")


# --- what is kept ------------------------------------------------------------------------------------------------


def played(loop: Loop, scores: list[float]) -> list[int]:
    """Give the epochs these scores until patience is over; the epochs whose weights are kept."""
    kept = []
    for epoch, score in enumerate(scores):
        if loop.patience_is_over(epoch):
            return kept
        kept += [epoch] if loop.keeps(score, epoch) else []
    return kept


@pytest.mark.parametrize(
    ("scores", "kept", "over"),
    [
        ([3, 2, 1, 0.5], [0, 1, 2, 3], False),
        ([3, 1, 2, 1.5, 4], [0, 1], True),
        ([3, 3, 3, 3], [0], True),
        ([5, 4, 6, 6, 3, 6, 6], [0, 1, 4], False),
        ([1, 2, 2, 0.5, 2, 2, 2], [0, 3], True),
        ([1, 2, 2, 2, 0.5], [0], True),  # too late
    ],
)
def test_best_is_kept_and_patience_counts_epochs_since(loop_of, scores, kept, over):
    loop = loop_of(schedule="plateau", patience=3)
    assert played(loop, scores) == kept
    assert (loop.kept.score, loop.kept.epoch) == (scores[kept[-1]], kept[-1])
    assert loop.patience_is_over(len(scores)) is over


@pytest.mark.parametrize(("next_epoch", "over"), [(3, False), (4, False), (5, True), (9, True)])
def test_a_run_killed_after_its_early_stop_does_not_train_on(loop_of, tmp_path, next_epoch, over):
    killed, again = (loop_of(schedule="plateau", patience=3) for _ in range(2))
    played(killed, [2, 0.1 + 0.2, 4])
    killed.save(tmp_path / "last.ckpt", next_epoch - 1)
    assert again.resume(tmp_path / "last.ckpt") == next_epoch
    assert (again.kept.score, again.kept.epoch) == (0.1 + 0.2, 1)
    assert again.patience_is_over(next_epoch) is over


def test_a_new_run_does_not_stop_at_once(loop_of, tmp_path):
    loop = loop_of(schedule="plateau", patience=1)
    assert loop.resume(tmp_path / "last.ckpt") == 0
    assert not loop.patience_is_over(0)


def test_the_last_epoch_is_kept_whatever_its_score_and_nothing_ends_early(loop_of):
    loop = loop_of(schedule="plateau", patience=1, keep="last")
    assert played(loop, [1, 3, 2, 4, 5]) == [0, 1, 2, 3, 4]
    assert (loop.kept.score, loop.kept.epoch) == (5, 4)
    assert not loop.patience_is_over(9)


HEALTHY = {"d_spread": 0.2, "output_spread": 0.3}


@pytest.mark.parametrize(
    ("sick", "message"),
    [
        ({"d_spread": 0.0}, "the discriminator has collapsed: it judges everything alike (spread 0)"),
        ({"output_spread": 0.0005}, "the generator's images are constant (spread 0.0005)"),
    ],
)
def test_what_the_method_calls_a_failure_ends_training(loop_of, sick, message):
    with pytest.raises(TrainingError) as error:
        loop_of("switchable").check(HEALTHY | sick, 3)
    assert str(error.value).startswith(f"{message} in epoch 3: ")
    assert "train with a lower --learning_rate into another --out; the epochs before are kept" in str(error.value)


def test_health_lets_training_go_on_and_asks_nothing_of_other_methods(loop_of):
    loop_of("switchable").check(HEALTHY, 3)
    loop_of("ssdu").check({"loss": 0.0}, 3)


@pytest.mark.parametrize("file", ["last.ckpt", "best.safetensors"])
def test_a_file_that_breaks_off_leaves_the_one_before(loop_of, tmp_path, monkeypatch, file):
    def breaking(content, path):
        path.write_text("half")
        raise RuntimeError

    (tmp_path / file).write_bytes(b"whole")
    loop = loop_of()
    monkeypatch.setattr(Path, "write_bytes", lambda path, content: breaking(content, path))
    with pytest.raises(RuntimeError):
        loop.save(tmp_path / file, 0) if file == "last.ckpt" else loop.save_weights(tmp_path / file)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(file, b"whole")]


# --- several turns, schedules, averaged weights ------------------------------------------------------------------


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

    def examples(self, sample, draw):
        return [KspaceExample(sample.scan.measurement, sample.scan.kspace, sample.scan.mask.float())]

    def step(self, batch):
        one, two = self.turns
        yield self.asked(one, -self.first)
        self.told.append("one moved")
        # The second turn pulls at the first one's number as well, downhill and harder; it must not move.
        yield self.asked(two, 5 * self.first - self.second)
        self.told.append("two moved")

    def asked(self, turn, loss):
        self.told.append(f"loss of {turn.name}")
        self.trained_at.append(float(self.second.detach()))
        return Update(turn, loss * (torch.nan if turn.name == self.poisoned else 1.0), {})

    def reconstruct(self, given):
        self.used_at.append(float(self.second.detach()))
        return torch.zeros_like(given.kspace[:, 0])


def test_what_a_method_logs_keeps_no_graph_alive(make_scans):
    class Careless(Uphill):
        def asked(self, turn, loss):
            return super().asked(turn, loss)._replace(parts={f"slope_{turn.name}": loss})

    loop = Loop(Careless(), TEN_STEPS, 0, 1, alone(CPU))
    scan = make_scans((32, 32))[0]
    batch = KspaceExample.stacked([KspaceExample(scan.measurement, scan.kspace, scan.mask.float())])
    logged = loop.step(batch, 1.0, 0)
    assert logged.keys() == {"slope_one", "slope_two", "loss", "loss_one", "loss_two"}
    assert not any(value.requires_grad for value in logged.values())


def test_frozen_weights_stay_and_the_others_learn(make_scans):
    class Together(Uphill):
        @property
        def turns(self):
            return [Turn("both", [self.first, self.second])]

        def step(self, batch):
            yield self.asked(self.turns[0], -self.first - self.second)

    method, scan = Together(), make_scans((32, 32))[0]
    method.first.requires_grad_(False)
    batch = KspaceExample.stacked([KspaceExample(scan.measurement, scan.kspace, scan.mask.float())])
    Loop(method, TEN_STEPS, 0, 1, alone(CPU)).step(batch, 1.0, 0)
    assert float(method.first) == 0
    assert float(method.second.detach()) > 0


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
)
CPU = MachineOptions(threads=1, accelerator="cpu")
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
        fit(method, scans, [(32, 32)] * 2, None, scored, options, files, stage, progress, alone(CPU))
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
    assert method.told == ["loss of one", "one moved", "loss of two", "two moved"] * 10
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


@pytest.mark.parametrize("epochs", [1, 2, 3, 4])
def test_schedule_and_mean_go_on_after_an_interruption(climb, monkeypatch, epochs):
    whole, files = climb("whole")
    original = Loop.save

    def interrupted(loop, path, epoch):
        if epoch == epochs:
            raise Interrupted
        original(loop, path, epoch)

    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(Loop, "save", interrupted)
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


def test_a_step_of_which_this_process_has_nothing_counts_for_nothing(make_scans):
    """Its place is taken by another's item, whose loss must neither move the weights nor enter the means."""
    loop = Loop(Uphill(), TEN_STEPS, 0, 2, alone(CPU))
    scan = make_scans((32, 32))[0]
    batch = KspaceExample.stacked([KspaceExample(scan.measurement, scan.kspace, scan.mask.float())])
    means = loop.train([batch, batch], [1.0, 0.0], 0, Progress("T", 1, 5, 2, Console(quiet=True)))
    assert (means["loss_one"], means["loss_two"]) == close(0.0, 0.5)  # of the first step alone
    slopes = [parameter.grad for parameter in loop.method.parameters()]
    assert all(slope is None or float(slope) == 0 for slope in slopes)


# --- real methods --------------------------------------------------------------------------------------------------


@pytest.fixture
def play(make_scans, tiny, tmp_path):
    """Run one fit in a folder of ``tmp_path``; the same folder again continues it."""
    scans = [scan.without_reference() for scan in make_scans(*SHAPES)]

    def run(name="run", method="ssdu", stage=0, targets=None, **changes):
        config = tiny(method, **changes)
        trained = config.build()
        validation = ValidationSet(scans[:2], config.sampling.family(emulated=True), 0.2, seed=0)
        files = StageFiles(tmp_path / name / f"{stage:02d}", tmp_path / name / "metrics.csv")
        progress = Progress("T", 2, config.training.epochs, 1, Console(quiet=True))
        result = fit(
            trained,
            scans,
            SHAPES,
            targets,
            validation,
            config.training,
            files,
            stage,
            progress,
            alone(config.machine, config.training.precision),
        )
        return result, trained, files

    return run


@pytest.fixture
def script(monkeypatch):
    """Let the validation scores of the epochs be given ones."""

    def scores(*values):
        original = Loop.score

        def score(loop, items, epoch):
            monkeypatch.setattr(Loop, "_score", lambda *_: torch.tensor(values[epoch]))
            return original(loop, items, epoch)

        monkeypatch.setattr(Loop, "score", score)

    return scores


def interrupted(monkeypatch, owner, name, call, play, **changes):
    """Play until the method is called for the ``call``-th time."""
    original, left = getattr(owner, name), [call]

    def counted(*arguments):
        left[0] -= 1
        if left[0] == 0:
            raise Interrupted
        return original(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, counted)
        with pytest.raises(Interrupted):
            play("cut", **changes)


def test_training_lowers_the_score_and_leaves_the_best_and_the_last_weights(play):
    result, trained, files = play(epochs=6, learning_rate=0.01)
    scores = [float(row["score"]) for row in rows(files)]
    assert len(scores) == 6
    assert scores[-1] < 0.9 * scores[0]
    assert result.score == pytest.approx(min(scores), rel=1e-5)
    assert result.epoch == scores.index(min(scores))
    if result.epoch == 5:
        assert_same(load_file(files.best), trained.state_dict())


def test_same_settings_give_the_same_weights_and_another_seed_others(play):
    first, again, other = (play(name, seed=seed)[1].state_dict() for name, seed in [("a", 0), ("b", 0), ("c", 1)])
    assert_same(first, again)
    assert not any(torch.equal(first[name], other[name]) for name in first if first[name].is_floating_point())


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # two workers, also on a single core
def test_worker_processes_change_nothing(play, tmp_path):
    with ArrayWriter(tmp_path / "targets", "complex64") as writer:
        for height, width in SHAPES:
            writer.append(torch.randn(1, height, width, dtype=torch.complex64))
    targets = ArrayStore(tmp_path / "targets")
    (_, here, files), (_, there, others) = (
        play(name, method="idr", stage=1, targets=targets, workers=workers) for name, workers in [("a", 0), ("b", 2)]
    )
    assert rows(files) == rows(others)
    assert_same(here.state_dict(), there.state_dict())


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # two workers, also on a single core
def test_worker_processes_change_nothing_after_an_interruption(play, monkeypatch):
    whole = play(epochs=3, workers=0)
    interrupted(monkeypatch, Loop, "check", 3, play, epochs=3, workers=2)
    assert_same(whole[1].state_dict(), play("cut", epochs=3, workers=2)[1].state_dict())


@pytest.mark.parametrize(
    ("owner", "name", "calls"),
    [
        (Loop, "step", 2),
        (Loop, "_score", 2),
        (History, "add", 1),
        (Loop, "check", 1),
        (Loop, "save_weights", 1),
        (Loop, "save", 1),
        (Loop, "patience_is_over", 1),
    ],
)
@pytest.mark.parametrize("epoch", [0, 2])
def test_a_fit_cut_anywhere_ends_as_if_it_had_not_been(play, monkeypatch, owner, name, calls, epoch):
    """No epoch may be lost or doubled."""
    whole, trained, files = play(epochs=3, keep="last")
    interrupted(monkeypatch, owner, name, epoch * calls + 1, play, epochs=3, keep="last")
    again, resumed, others = play("cut", epochs=3, keep="last")
    assert again == whole
    assert rows(others) == rows(files)
    assert [row["epoch"] for row in rows(others)] == list("012")
    assert_same(resumed.state_dict(), trained.state_dict())
    assert_same(load_file(others.best), load_file(files.best))


def test_a_stage_that_had_ended_is_not_trained_again(play):
    result, trained, files = play(epochs=3)
    before = files.history.read_bytes()
    again, resumed, _ = play(epochs=3)
    assert again == result
    assert files.history.read_bytes() == before
    assert_same(resumed.state_dict(), trained.state_dict())


PATIENT = {
    "schedule": "plateau",
    "epochs": 12,
    "patience": 3,
    "plateau_patience": 1,
    "plateau_factor": 0.5,
    "learning_rate": 0.01,
}
SCORES = [1.0, 0.8, 0.9, 0.9, 0.7, 0.75, 0.8, 0.7, 0.1, 0.1, 0.1, 0.1]
RATES = [0.01, 0.01, 0.01, 0.005, 0.005, 0.005, 0.0025, 0.0025]


def test_early_stop_and_plateau(play, script):
    script(*SCORES)
    result, _, files = play(**PATIENT)
    assert (result.score, result.epoch) == (pytest.approx(0.7), 4)
    assert [float(row["learning_rate"]) for row in rows(files)] == RATES


@pytest.mark.parametrize("schedule", ["linear", "cooldown"])
def test_a_schedule_that_falls_by_plan_has_no_early_stop(play, script, schedule):
    script(*SCORES)
    result, _, files = play(**PATIENT | {"schedule": schedule})
    assert (result.score, result.epoch) == (pytest.approx(0.1), 8)
    assert len(rows(files)) == 12


@pytest.mark.parametrize("call", [1, 4, 6, 7, 8])
def test_early_stop_and_plateau_are_the_same_after_an_interruption(play, script, monkeypatch, call):
    script(*SCORES)
    whole, trained, files = play(**PATIENT)
    interrupted(monkeypatch, Loop, "save", call, play, **PATIENT)
    again, resumed, others = play("cut", **PATIENT)
    assert again == whole
    assert rows(others) == rows(files)
    assert_same(resumed.state_dict(), trained.state_dict())


def test_a_stage_killed_after_its_early_stop_stays_stopped(play, script):
    script(*SCORES)
    whole, trained, files = play(**PATIENT)
    assert files.resume_point.exists()
    again, resumed, _ = play(**PATIENT)
    assert again == whole
    assert len(rows(files)) == len(RATES)
    assert_same(resumed.state_dict(), trained.state_dict())


def test_loss_that_is_not_finite_keeps_the_last_checkpoint(play, monkeypatch):
    play("whole", epochs=3)
    original = Loop.step

    def poisoned(loop, batch, share, epoch):
        if epoch == 1:
            batch = batch._replace(target=batch.target * torch.nan)
        return original(loop, batch, share, epoch)

    with monkeypatch.context() as patched:
        patched.setattr(Loop, "step", poisoned)
        with pytest.raises(TrainingError, match=r"loss of turn 'network' is nan in epoch 1: .*lower --learning_rate"):
            play("cut", epochs=3)
    _, resumed, files = play("cut", epochs=3)
    assert len(rows(files)) == 3
    assert_same(resumed.state_dict(), play("whole", epochs=3)[1].state_dict())


def test_a_method_that_ends_the_program_keeps_its_last_words(play, monkeypatch):
    def leave(*_):
        sys.exit("a package is missing")

    monkeypatch.setattr(Loop, "step", leave)
    with pytest.raises(SystemExit, match="a package is missing"):
        play()


def test_snapshots_are_kept_on_demand(play):
    _, trained, files = play("with", epochs=2, snapshots=True)
    assert_same(load_file(files.snapshot(1)), trained.state_dict())
    assert sorted(path.name for path in files.folder.iterdir()) == [
        "best.safetensors",
        "epoch-000.safetensors",
        "epoch-001.safetensors",
        "last.ckpt",
    ]
    assert not list(play("without", epochs=1)[2].folder.glob("epoch-*"))


ABSENT = [name for name in ("mps", "cuda") if not getattr(torch, name).is_available()]


@pytest.mark.parametrize("accelerator", ["abacus", "tpu", *(["gpu"] if len(ABSENT) == 2 else []), *ABSENT])
def test_an_accelerator_that_is_not_there_is_named(play, accelerator):
    with pytest.raises(SettingError, match=rf"accelerator '{accelerator}' .* cannot be used here .*--accelerator auto"):
        play(accelerator=accelerator)


def test_a_precision_that_the_processor_does_not_have_is_named(play):
    with pytest.raises(SettingError, match=r"precision '16-mixed' needs a GPU: use --precision bf16-mixed"):
        play(precision="16-mixed")


@pytest.mark.parametrize("name", ["ista_plus", "ista", "modl", "unet"])
@pytest.mark.parametrize(("precision", "weights"), [("bf16-mixed", torch.float32), ("64-true", torch.float64)])
def test_every_network_trains_in_every_precision_without_a_warning(play, name, precision, weights):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, trained, files = play(network={"name": name}, precision=precision, epochs=1)
    assert all(value.dtype == weights for value in trained.state_dict().values() if value.is_floating_point())
    assert len(rows(files)) == 1


@pytest.mark.parametrize("method", ["cyclegan", "iscl", "switchable", "supervised_generator"])
def test_unpaired_networks_work_in_double_precision(tiny, make_scans, method):
    config = tiny(method, precision="64-true", network={"width": 4, "blocks": 1, "extractor_layers": 3})
    processes = alone(CPU, "64-true")
    learned = processes.placed(config.build())
    (scan,) = make_scans((80, 80))
    batch = collate([learned.examples(Sample(scan, full=full_head(1)), Draw(0, 0, 0))])
    for update in learned.step(batch):
        update.loss.backward(inputs=update.turn.parameters)
        assert all(one.grad.dtype == torch.float64 for one in update.turn.parameters if one.grad is not None)
    assert learned.reconstruct(scan.batch()).dtype == torch.complex64


def test_a_first_gradient_that_overflows_half_precision_is_left_out_without_a_warning(make_scans):
    """As a GPU has it: the scaler then halves its factor and skips the optimiser's step."""

    class Steep(Uphill):
        def asked(self, turn, loss):
            return super().asked(turn, 4 * loss)

    loop = Loop(Steep(), replace(TEN_STEPS, average_from=None), 0, 2, alone(CPU))
    loop.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    scan = make_scans((32, 32))[0]
    batch = KspaceExample.stacked([KspaceExample(scan.measurement, scan.kspace, scan.mask.float())])
    loop.train([batch, batch], [1.0, 1.0], 0, Progress("T", 1, 5, 2, Console(quiet=True)))
    assert loop.scaler.get_scale() == 2.0**125  # both turns of the first step
    assert (float(loop.method.second.detach()), loop.learning_rate) == close(0.09, 0.08)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_impossible_setting_is_one_line_whoever_makes_the_batches(play, monkeypatch, workers):
    def refuse(*_):
        raise SettingError("cannot be split")

    monkeypatch.setattr(SSDU, "examples", refuse)
    with pytest.raises(SettingError, match=r"^cannot be split$"):
        play(workers=workers)
