from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from helpers.forks import held_by_another
from sansref import files
from sansref.data.prepare import Preparation
from sansref.data.scan_store import PreparedScans
from sansref.errors import FileError, SettingError, TrainingError
from sansref.files import _got
from sansref.kspace.fourier import ifft2c
from sansref.training import processes
from sansref.training import train as module
from sansref.training.batches import ValidationSet, WithoutHeldOut
from sansref.training.history import History, read_history
from sansref.training.loop import Loop
from sansref.training.run import RunDirectory
from sansref.training.train import train

QUIET = Console(quiet=True)


@pytest.fixture
def play(tiny, heads, tmp_path):
    def run(method="ssdu", name="run", data=None, skip_bad=False, **changes):
        changes = {"epochs": 1, **changes}
        return train(tiny(method, **changes), data or heads, tmp_path / name, skip_bad, QUIET)

    run.folder = tmp_path
    return run


def parts(run) -> dict[str, PreparedScans]:
    return {path.name: PreparedScans(path) for path in (run.path / "data").iterdir()}


def leaks(run) -> list[str]:
    """Parts of the run's data that hold a reference."""
    return sorted(name for name, scans in parts(run).items() if any(scan.reference is not None for scan in scans))


@pytest.mark.parametrize("method", ["idr", "ssdu"])
def test_self_supervised_training_never_has_a_reference(play, method):
    run = play(method).run
    assert parts(run).keys() == {"training", "validation"}
    assert leaks(run) == []
    assert not [path for path in run.path.rglob("*") if "reference" in path.name]


def test_a_reference_does_not_reach_a_self_supervised_example(play, monkeypatch):
    seen = []
    original = Loop.step

    def watched(loop, batch, share, epoch):
        seen.append(batch)
        return original(loop, batch, share, epoch)

    monkeypatch.setattr(Loop, "step", watched)
    run = play("ssdu").run
    acquired = PreparedScans(run.path / "data" / "training")[0].mask
    assert len(seen) == 5
    for batch in seen:
        assert not batch.target[:, 0][:, ~acquired].any()
        assert not batch.weight[:, ~acquired].any()


@pytest.mark.parametrize(
    ("method", "score", "expected"),
    [
        ("ssdu", "reference", ["validation"]),
        ("supervised", "held_out", ["training"]),
        ("supervised", "reference", ["training", "validation"]),
    ],
)
def test_references_are_kept_for_what_asks_for_them_alone(play, method, score, expected):
    assert leaks(play(method, score=score).run) == expected


def test_subjects_are_split_once_and_the_test_part_is_never_read(play, monkeypatch, heads):
    read = []
    original = Preparation.scans

    def watched(recipe, info):
        read.append(info.path.name[:6])
        return original(recipe, info)

    monkeypatch.setattr(Preparation, "scans", watched)
    run = play(validation=0.2, test=0.4).run
    split = run.subjects()
    assert {part: len(names) for part, names in split.items()} == {"training": 3, "validation": 1, "test": 2}
    assert sorted(name for names in split.values() for name in names) == [f"sub-0{number}" for number in range(1, 7)]
    assert sorted(read) == sorted(split["training"] + split["validation"])
    stored = {name: {meta.subject for meta in scans.metas} for name, scans in parts(run).items()}
    assert stored == {part: set(split[part]) for part in ("training", "validation")}


def test_one_subject_is_validated_on_samples_held_out_of_its_scans(play, heads, monkeypatch):
    sets = []
    original = ValidationSet.__init__

    def watched(self, scans, *rest):
        sets.append(scans)
        original(self, scans, *rest)

    monkeypatch.setattr(ValidationSet, "__init__", watched)
    run = play(data=heads / "sub-03_T1w.nii.gz").run
    assert run.subjects() == {"training": ["sub-03"], "validation": [], "test": []}
    assert parts(run).keys() == {"training"}
    assert [len(scans) for scans in sets] == [4]
    assert run.finished


@pytest.mark.parametrize(
    ("method", "changes", "withheld"),
    [
        ("ssdu", {}, True),
        ("ssdu", {"keep": "last"}, False),
        ("ssdu", {"keep": "last", "schedule": "plateau"}, True),  # the score lowers the learning rate
        ("idr", {"keep": "last"}, True),  # and chooses the stage that refines, goes on and stays
    ],
)
def test_held_out_samples_are_withheld_where_the_score_decides_anything(
    play, heads, monkeypatch, method, changes, withheld
):
    learned = []

    def watched(build, scans, shapes, *rest):
        learned.append(scans)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "run_stages", watched)
    with pytest.raises(KeyboardInterrupt):
        play(method, data=heads / "sub-03_T1w.nii.gz", **changes)
    assert isinstance(learned[0], WithoutHeldOut) is withheld


def test_model_and_card_tell_what_was_learned(play, tiny):
    torch.set_num_threads(2)
    try:
        run = play("idr", epochs=2).run
        assert torch.get_num_threads() == 2  # as before, though the run had one
    finally:
        torch.set_num_threads(1)
    card = json.loads(run.card.read_text())
    rows = read_history(run.path / "metrics.csv")
    scores = [stage["score"] for stage in card["stages"]]
    best = scores.index(min(scores))
    weights, kept = load_file(run.weights), load_file(run.path / "stages" / f"0{best}" / "best.safetensors")
    assert all(torch.equal(weights[name], kept[name]) for name in kept)
    assert card["score"] == min(scores) == pytest.approx(min(float(row["score"]) for row in rows), rel=1e-5)
    assert card["config"] == tiny("idr").values()
    assert card["training_scans"] == 20
    assert card["environment"]["threads"] == 1
    assert list(rows[0]) == ["stage", "epoch", "data", "loss", "score", "symmetry", "learning_rate", "seconds"]
    assert [(row["stage"], row["epoch"]) for row in rows] == [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")]
    assert sorted(path.name for path in run.path.iterdir()) == [
        ".sansref",
        "config.yaml",
        "data",
        "environment.json",
        "files.json",
        "log.txt",
        "metrics.csv",
        "model.json",
        "model.safetensors",
        "splits.json",
        "stages",
        "subjects.json",
        "training.lock",
    ]


def test_same_settings_give_the_same_file_and_another_seed_another(play):
    first, again, other = (play("idr", name, seed=seed).run for name, seed in [("a", 0), ("b", 0), ("c", 1)])
    assert first.weights.read_bytes() == again.weights.read_bytes()
    assert first.weights.read_bytes() != other.weights.read_bytes()


def test_log_holds_every_epoch_and_is_let_go(play):
    handlers = list(logging.getLogger("sansref").handlers)
    run = play("idr", epochs=2).run
    log = (run.path / "log.txt").read_text()
    assert log.count(" loss ") == 4
    assert "subjects: {'training': " in log
    assert "stage 1: best score" in log
    assert logging.getLogger("sansref").handlers == handlers


def test_a_run_that_another_command_trains_is_left_alone(play, tmp_path, monkeypatch):
    with (
        held_by_another(RunDirectory(tmp_path / "run").locked, tmp_path / "held") as child,
        monkeypatch.context() as patch,
        pytest.raises(FileError, match=f"is in use by process {child}"),
    ):
        patch.setattr(files, "_got", lambda file, patience: _got(file, 0))
        play()
    assert play().run.finished


def test_a_finished_run_is_left_as_it_is(play, monkeypatch):
    run = play().run
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    monkeypatch.setattr(module, "learn", lambda *arguments: pytest.fail("a finished run was trained again"))
    assert play().bad_files == []
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before


CHANGES = {
    "changed": (
        lambda data: shutil.copy(data / "sub-01_T1w.nii.gz", data / "sub-02_T1w.nii.gz"),
        "02_T1w.nii.gz has ch",
    ),
    "gone": (lambda data: (data / "sub-02_T1w.nii.gz").unlink(), "sub-02_T1w.nii.gz is gone"),
    "new": (
        lambda data: shutil.copy(data / "sub-01_T1w.nii.gz", data / "sub-77_T1w.nii.gz"),
        "sub-77_T1w.nii.gz is new",
    ),
    "renamed": (lambda data: (data / "sub-02_T1w.nii.gz").rename(data / "sub-04_T1w.nii.gz"), "is gone, .* is new|ch"),
}


def stopped(play, monkeypatch, data, point="learn"):
    """A training that ended when it was about to learn."""
    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(module, point, lambda *arguments: (_ for _ in ()).throw(RuntimeError))
        play(data=data)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("state", ["prepared", "finished"])
def test_data_that_changed_are_named_when_a_run_goes_on(play, write_heads, tmp_path, monkeypatch, state, change):
    data = write_heads(tmp_path / "data", subjects=4)
    stopped(play, monkeypatch, data) if state == "prepared" else play(data=data)
    act, said = CHANGES[change]
    act(data)
    with pytest.raises(FileError, match=said) as caught:
        play(data=data)
    assert "\n" not in str(caught.value)
    assert "choose another --out" in str(caught.value)


def test_data_that_are_the_same_are_no_change(play, write_heads, tmp_path, monkeypatch):
    data = write_heads(tmp_path / "data", subjects=4)
    stopped(play, monkeypatch, data)
    shutil.move(data / "sub-02_T1w.nii.gz", tmp_path)
    shutil.copyfile(tmp_path / "sub-02_T1w.nii.gz", data / "sub-02_T1w.nii.gz")
    run = play(data=data).run
    assert sorted(run.files()) == [f"sub-0{n}_T1w.nii.gz" for n in (1, 2, 3, 4)]
    shutil.rmtree(data)  # a finished run needs them no more
    assert play(data=data).run.finished


def test_a_file_that_stopped_a_run_can_be_replaced(play, write_heads, tmp_path):
    data = write_heads(tmp_path / "data", subjects=4)
    whole = (data / "sub-03_T1w.nii.gz").read_bytes()
    (data / "sub-03_T1w.nii.gz").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(FileError, match="sub-03"):
        play(data=data)
    (data / "sub-03_T1w.nii.gz").write_bytes(whole)
    assert play(data=data).run.finished


def test_a_file_that_changes_while_it_is_read_is_named(play, write_heads, tmp_path, monkeypatch):
    data = write_heads(tmp_path / "data", subjects=4)
    original = Preparation.scans

    def replaced(recipe, info, slices=None):
        yield from original(recipe, info, slices)
        info.path.write_bytes(info.path.read_bytes() + b"more")

    monkeypatch.setattr(Preparation, "scans", replaced)
    with pytest.raises(FileError, match="changed while it was read"):
        play(data=data)
    assert not (tmp_path / "run" / "data" / "training").exists()


def test_scans_prepared_with_other_settings_are_not_used(play, heads, tmp_path, monkeypatch):
    stopped(play, monkeypatch, heads)
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("acceleration: 4.0", "acceleration: 8.0"))
    with pytest.raises(FileError, match=r"prepared with another sampling\.acceleration"):
        play(acceleration=8.0)


@pytest.mark.parametrize("when", ["at once", "at the end"])
@pytest.mark.parametrize("what", ["run", "run/config.yaml", "run/.sansref"])
def test_a_run_that_is_removed_while_it_is_trained_is_no_success(play, tmp_path, monkeypatch, what, when):
    path = tmp_path / what

    def remove(*_):
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    if when == "at the end":
        monkeypatch.setattr(module, "environment", lambda: remove() or {})
    else:
        original = Loop.train
        monkeypatch.setattr(Loop, "train", lambda *given: remove() or original(*given))
    with pytest.raises(FileError, match=r"has lost .*config|has lost|cannot be written|cannot be read"):
        play()


def test_a_finished_run_without_its_weights_is_not_taken_for_trained(play):
    run = play().run
    before = run.weights.read_bytes()
    run.weights.unlink()
    assert play().run.weights.read_bytes() == before


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 half", b"\x80\x02}q\x00."])
def test_a_damaged_checkpoint_is_one_line(play, monkeypatch, damage):
    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(module, "_write_model", lambda *arguments: (_ for _ in ()).throw(RuntimeError))
        run = play().run
    run = module.RunDirectory(play.folder / "run")
    (run.path / "stages" / "00" / "done.json").unlink()
    (run.path / "stages" / "00" / "last.ckpt").write_bytes(damage)
    with pytest.raises(FileError, match=r"last\.ckpt: is not a state of this training"):
        play()


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"score": "x", "epoch": 0}'])
def test_a_damaged_end_of_a_stage_is_one_line(play, text):
    run = play().run
    run.card.unlink()
    (run.path / "stages" / "00" / "done.json").write_text(text)
    with pytest.raises(FileError, match=r"done\.json: "):
        play()


@pytest.mark.parametrize("place", ["inside", "around", "same", "link in data", "link to data", "file"])
def test_scans_and_run_lie_apart(write_heads, tiny, tmp_path, place):
    data = write_heads(tmp_path / "study" / "scans", subjects=3)
    out = {"around": data.parent, "same": data, "file": data}.get(place, data / "run")
    if place == "link in data":
        out = tmp_path / "elsewhere" / "run"
        out.parent.mkdir()
        (data / "more").symlink_to(out.parent)
    if place == "link to data":
        out = tmp_path / "link"
        out.symlink_to(data.parent)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SettingError, match=r"--out .* (lies inside|holds) --data"):
        train(tiny(), data / "sub-01_T1w.nii.gz" if place == "file" else data, out, console=QUIET)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture
def with_bad(write_heads, tmp_path):
    """Two heads, one file that is no volume at all, and one that breaks off in its voxels."""
    data = write_heads(tmp_path / "bad", subjects=3)
    (data / "sub-08_T1w.nii.gz").write_bytes(b"no volume")
    whole = (data / "sub-03_T1w.nii.gz").read_bytes()
    (data / "sub-03_T1w.nii.gz").write_bytes(whole[: len(whole) // 2])
    return data


def test_the_first_bad_file_stops_training(play, with_bad):
    with pytest.raises(FileError, match=r"sub-0[38]_T1w"):
        play(data=with_bad, validation=0.0)


def test_bad_files_are_skipped_on_demand_and_told(play, with_bad):
    outcome = play(data=with_bad, skip_bad=True, validation=0.0)
    assert sorted(error.path.name for error in outcome.bad_files) == ["sub-03_T1w.nii.gz", "sub-08_T1w.nii.gz"]
    assert outcome.run.finished
    assert (outcome.run.path / "log.txt").read_text().count("left out: ") == 2
    assert {meta.subject for meta in parts(outcome.run)["training"].metas} == {"sub-01", "sub-02"}


def test_supervised_training_needs_full_sampling(play, write_knee, tmp_path):
    file = write_knee(tmp_path / "under.h5", every=2)
    with pytest.raises(FileError, match="has no full reference"):
        play("supervised", data=file)
    assert play("ssdu", "other", data=file).run.finished


def test_several_coils_are_learned_from_with_their_maps(play):
    run = play("idr", coils=2).run
    scan = parts(run)["training"][0]
    assert scan.kspace.shape == scan.maps.shape == (2, 32, 32)
    assert leaks(run) == []


def test_a_mistake_does_not_use_the_run_directory_up(play, heads, tmp_path):
    with pytest.raises(FileError, match="does not exist"):
        play(data=tmp_path / "typo")
    with pytest.raises(SettingError, match="an acceleration of 500 leaves"):
        play(acceleration=500.0)
    assert play(acceleration=3.0).run.finished
    with pytest.raises(SettingError, match=r"other settings \(sampling\.acceleration 3\.0 -> 4\.0\)"):
        play(acceleration=4.0)


def test_divergence_leaves_the_run_unfinished(play, tmp_path):
    with pytest.raises(TrainingError, match=r"is (nan|inf) in epoch 0: train with a lower --learning_rate"):
        play(learning_rate=1e30)
    assert not (tmp_path / "run" / "model.json").exists()


@pytest.mark.parametrize("inside", ["", "runs/one"])
def test_runs_do_not_lie_among_the_scans(tiny, heads, inside):
    with pytest.raises(SettingError, match=r"--out .* lies inside --data .*, where its files would pass for scans"):
        train(tiny("ssdu"), heads, heads / inside, console=QUIET)
    assert all(path.is_file() for path in heads.iterdir())


def test_scoring_against_references_needs_subjects_to_validate_on(play, heads):
    with pytest.raises(SettingError, match="learning from references needs further subjects for validation"):
        play(data=heads / "sub-01_T1w.nii.gz", score="reference")
    with pytest.raises(SettingError, match="learning from references needs further subjects for validation"):
        play("supervised", "alone", heads / "sub-01_T1w.nii.gz")
    with pytest.raises(SettingError, match="learning from references needs further subjects for validation"):
        play("supervised", "last", heads / "sub-01_T1w.nii.gz", keep="last", schedule="plateau")


def test_validation_and_test_must_leave_something_to_train_on(play):
    with pytest.raises(
        SettingError,
        match=r"cannot be split into training and validation 0\.5, test 0\.5.* --validation or --test to 0",
    ):
        play(validation=0.5, test=0.5)


def test_training_loads_fabric_alone_and_works_without_its_bigger_sister_and_without_metrics():
    """Fabric asks for the version of torchmetrics where that is installed, and does without where it is not."""
    program = """
import sys
names = "pytorch_lightning", "lightning", "torchmetrics"
sys.modules.update(dict.fromkeys(names))  # as if they were not installed
from sansref.training.processes import alone
alone()
print([name for name in sys.modules if name.split(".")[0] in names and sys.modules[name]])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240)
    assert done.stdout == "[]\n", done.stderr
    program = (
        "import sys; from sansref.training.processes import alone; alone();"
        "print('pytorch_lightning' in sys.modules, 'lightning' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240)
    assert done.stdout == "False False\n", done.stderr


def test_training_ends_with_the_epoch_in_which_its_time_is_over(tiny, heads, tmp_path, monkeypatch):
    config = tiny("idr", stages=3, epochs=3, slices=1, minutes=1e-9)
    run = train(config, heads, tmp_path / "run", console=QUIET).run
    assert [(row["stage"], row["epoch"]) for row in read_history(run.path / "metrics.csv")] == [("0", "0")]
    assert run.finished
    spent = iter([0.1] * 5 + [60.0] * 9)
    original = History.add
    monkeypatch.setattr(History, "add", lambda self, *words: original(self, *words[:-1], next(spent)))
    run = train(tiny("idr", stages=3, epochs=3, slices=1, minutes=1), heads, tmp_path / "other", console=QUIET).run
    assert [row["stage"] for row in read_history(run.path / "metrics.csv")] == ["0"] * 3 + ["1"] * 3
    assert run.load()


def test_a_limit_of_no_time_is_refused(tiny):
    with pytest.raises(SettingError, match=r"training.minutes must be positive, or null, got 0"):
        tiny("idr", minutes=0)


@pytest.mark.parametrize(("seconds", "count"), [({1: 1.0, 2: 2.1}, 1), ({1: 1.0, 2: 0.6}, 2)])
def test_threads_are_measured_once_and_said(play, monkeypatch, seconds, count):
    measured, used, before = [], set(), torch.get_num_threads()
    monkeypatch.setattr(module, "seconds_by_threads", lambda work, most: measured.append(work()) or seconds)
    original = Loop.step

    def watched(loop, batch, share, epoch):
        used.add(torch.get_num_threads())
        return original(loop, batch, share, epoch)

    monkeypatch.setattr(Loop, "step", watched)
    run = play("idr", stages=2, threads="auto").run
    assert len(measured) == 1
    assert used == {count}
    assert torch.get_num_threads() == before
    assert f"threads: {count}, of --threads auto" in (run.path / "log.txt").read_text()
    assert run.config().machine.threads == "auto"  # so that a run that goes on elsewhere measures there


@pytest.mark.parametrize("fast", [True, False])
def test_the_precision_is_that_of_the_processor_and_said(play, monkeypatch, fast):
    monkeypatch.setattr(processes, "has_fast_bfloat16", lambda: fast)
    seen = set()
    original = Loop.step

    def watched(loop, batch, share, epoch):
        with loop.processes.autocast():
            seen.add(torch.is_autocast_enabled("cpu"))
        return original(loop, batch, share, epoch)

    monkeypatch.setattr(Loop, "step", watched)
    run = play(precision="auto", accelerator="cpu").run
    assert seen == {fast}
    log = (run.path / "log.txt").read_text()
    assert f"precision: {'bf16-mixed' if fast else '32-true'}, of --precision auto" in log


@pytest.mark.parametrize("fast", [True, False])
def test_bfloat16_is_said_to_be_slow_where_the_processor_has_no_instructions_for_it(play, monkeypatch, fast):
    monkeypatch.setattr(processes, "has_fast_bfloat16", lambda: fast)
    log = (play(precision="bf16-mixed", accelerator="cpu").run.path / "log.txt").read_text()
    assert ("has no instructions for it: use --precision auto" in log) is not fast


def test_a_number_of_threads_that_is_none_is_refused(tiny):
    with pytest.raises(SettingError, match=r"threads takes a whole number"):
        tiny("ssdu", threads="many")
    with pytest.raises(SettingError, match=r"machine.threads must be at least 0"):
        tiny("ssdu", threads=-1)


@pytest.mark.parametrize("method", ["ssdu", "idr"])
def test_full_scans_are_learned_from_as_they_are(play, method, monkeypatch):
    """Nothing is held out of them, nothing is undersampled, and the level of the noise of each slice is known."""
    shown = []

    def watched(loop, item):
        shown.append(bool(item.held_out.any()) or not bool(item.given.mask.all()))
        return score(loop, item)

    score = Loop._score
    monkeypatch.setattr(Loop, "_score", watched)
    run = play(method, denoise=True, acceleration=1.0).run
    assert shown
    assert not any(shown)
    scans = parts(run)["training"]
    assert all(bool(scan.mask.all()) for scan in scans)
    assert all(meta.noise is not None and meta.noise[0] > 0 for meta in scans.metas)


def test_one_full_scan_is_learned_from_as_it_is(play, heads):
    """Its own samples judge the weights: none of them is withheld."""
    run = play("ssdu", data=heads / "sub-01_T1w.nii.gz", denoise=True, acceleration=1.0).run
    assert run.finished


@pytest.mark.slow
def test_a_denoiser_is_learned_without_a_clean_image(play):
    """Of people whom it was not trained on, the image is nearer to the truth than the measured one."""
    run = play("ssdu", denoise=True, acceleration=1.0, epochs=30, snr=4.0, learning_rate=0.003).run
    method, config = run.load(), run.config()
    recipe = replace(config.preparation, seed=7)
    with torch.inference_mode():
        for scan in recipe.scans(Path(run.folder("folder")) / "sub-01_T1w.nii.gz"):
            image, measured = method.reconstruct(scan.batch())[0], ifft2c(scan.kspace)[0]
            gained = (measured - scan.reference).norm() / (image - scan.reference).norm()
            assert gained > 1.2
