from __future__ import annotations

import csv
import json
import math
import shutil

import nibabel
import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from sansref.commands import evaluate as module
from sansref.commands.evaluate import evaluate
from sansref.commands.options import ScoreOptions
from sansref.data.scan_store import PreparedScans
from sansref.errors import FileError, SettingError
from sansref.methods.classical.regularisation import Choice
from sansref.metrics.held_out import HeldOut, held_out_mask
from sansref.metrics.lpips import LPIPS
from sansref.metrics.quality import psnr
from sansref.results.scorer import BEST_SCALE, Scorer, scored_reference, zero_filled
from sansref.results.scores import METRICS, ScoredSlice, read_scores
from sansref.training.batches import WithoutHeldOut
from sansref.training.history import read_history
from sansref.training.run import RunDirectory
from sansref.training.train import train

QUIET = Console(quiet=True)
WRITTEN = {"median.png", "report.html", "scores.csv", "summary.json", "worst.png"}


@pytest.fixture
def play(trained, heads, tmp_path):
    def run(data=None, subjects="auto", skip_bad=False, directory=trained, **options):
        out = tmp_path / "out"
        return evaluate(directory, data or heads, out, subjects, skip_bad, QUIET, ScoreOptions(**options)), out

    return run


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory):
    """A file of AlexNet's features with random weights."""
    generator, weights = torch.Generator().manual_seed(0), {}
    kernels = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
    for position, (width, before, side) in kernels.items():
        kernel = torch.randn(width, before, side, side, generator=generator)
        weights[f"features.{position}.weight"] = kernel * (2 / kernel[0].numel()) ** 0.5
        weights[f"features.{position}.bias"] = torch.zeros(width)
    file = tmp_path_factory.mktemp("alexnet") / "alexnet.safetensors"
    save_file(weights, file)
    return file


@pytest.fixture
def no_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: pytest.fail("tried to download"))


@pytest.fixture
def relative(trained, monkeypatch):
    """The run, as if its method knew relative grey values only."""
    method = trained.load()
    method.relative = True
    monkeypatch.setattr(RunDirectory, "load", lambda self: method)
    return method


def mean(found, method: str, score: str) -> float:
    return found.summary.lines[method].estimates[score].mean


def same(one: ScoredSlice, other: ScoredSlice) -> bool:
    """Whether all scores are equal, undefined ones too."""
    return all(np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True) for name in METRICS)


def scored(config, scan, label, reconstruct, item, **options):
    """Score one method on the samples that an evaluation holds out."""
    held_out = HeldOut(config.split.held_out, config.data_seed, config.sampling.family)
    (row,) = Scorer({label: reconstruct}, held_out, **options).score(scan, item)
    return row


def test_only_subjects_that_the_run_did_not_learn_from_are_scored(play, trained):
    found, _ = play()
    split = trained.subjects()
    assert sorted({row.info.subject for row in found.slices}) == split["test"]
    assert found.left_out == sorted(split["training"] + split["validation"])
    assert len(found.slices) == 4 * len(split["test"])


@pytest.mark.parametrize(("subjects", "scored", "left_out"), [("test", 2, 4), ("all", 6, 0)])
def test_subjects_can_be_chosen(play, subjects, scored, left_out):
    found, _ = play(subjects=subjects)
    assert len({row.info.subject for row in found.slices}) == scored
    assert len(found.left_out) == left_out


@pytest.mark.parametrize(("name", "parts"), [("sub-03_T1w.nii.gz", {}), ("", {"validation": 0.0, "test": 0.5})])
def test_training_scans_are_scored_on_what_the_run_was_not_given(tiny, heads, tmp_path, monkeypatch, name, parts):
    data = heads / name
    config = tiny("ssdu", epochs=1, slices=3, seed=5, split={"seed": 1}, **parts)
    run = train(config, data, tmp_path / "run", console=QUIET).run
    scans, given = PreparedScans(run.path / "data" / "training"), []
    learned = WithoutHeldOut(scans, config.split.held_out, config.training.seed)
    original = HeldOut.score

    def watched(self, reconstruct, scan, item):
        if scan.meta.subject in run.subjects()["training"]:
            given.append((scan, held_out_mask(scan, self.share, self.seed, item)))
        return original(self, reconstruct, scan, item)

    monkeypatch.setattr(HeldOut, "score", watched)
    evaluate(run, data, tmp_path / "scores", "all", console=QUIET)
    assert [meta.slice for meta in scans.metas] != list(range(len(scans)))
    assert len(given) == 2 * len(scans)  # zero-filled and SSDU
    for place, scan in enumerate(learned):
        for scored, held_out in given[2 * place : 2 * place + 2]:
            assert torch.equal(scored.mask & ~held_out, scan.mask)


def test_scores_on_simulated_data_say_so(play):
    found, out = play()
    said = "k-space simulated from magnitude images, which flatters every method"
    assert found.scoring.data == said
    assert said in json.loads((out / "summary.json").read_text())["scores"]


def test_scores_are_those_of_every_slice(play, trained, heads):
    found, out = play()
    config, method = trained.config(), trained.load()
    row = found.slices[1]
    scan = list(config.preparation.scans(row.info.path))[1]
    for name, reconstruct in (("zero-filled", zero_filled), ("idr", method.reconstruct)):
        assert same(row.scores[name], scored(config, scan, name, reconstruct, 1))
    assert list(row.scores) == ["zero-filled", BEST_SCALE, "idr"]
    assert same(row.scores[BEST_SCALE], scored(config, scan, "it", zero_filled, 1, rescaled={"it"}))
    written = read_scores(out / "scores.csv")
    assert len(written) == 3 * len(found.slices)
    line = next(line for line in written if line.slice == 1 and line.label == "idr")
    assert (line.file, line.subject) == (row.info.path.name, row.info.subject)
    assert line == row.scores["idr"] or same(line, row.scores["idr"])
    assert line.acceleration == pytest.approx(scan.acceleration)


def test_best_scale_beats_the_zero_filled_image_and_has_no_held_out_error(play):
    found, out = play()
    assert mean(found, BEST_SCALE, "nmse") < mean(found, "zero-filled", "nmse")
    assert found.summary.lines[BEST_SCALE].estimates["held_out"].slices == 0
    assert all(math.isnan(line.held_out) for line in read_scores(out / "scores.csv") if line.label == BEST_SCALE)
    written = json.loads((out / "summary.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert written["methods"][BEST_SCALE]["mean"]["held_out"] is None


def test_pictures_are_upright_and_scores_are_not_touched(play, trained, heads, monkeypatch):
    """Rows of these heads lead to the left, columns to anterior: they would lie on their side."""
    drawn = []
    monkeypatch.setattr(module, "error_figure", lambda path, shown, title: drawn.append(shown))
    found, _ = play()
    assert len(drawn) == 2
    for shown in drawn:
        (scan,) = trained.config().preparation.scans(heads / f"{shown.subject}_T1w.nii.gz", [shown.number])
        assert np.array_equal(shown.reference, scored_reference(scan).T.flip(0).numpy())
        image = zero_filled(scan.batch())[0].abs().T.flip(0)
        assert np.array_equal(shown.images["zero-filled"], image.numpy())
        (row,) = (row for row in found.slices if (row.info.subject, row.slice) == (shown.subject, shown.number))
        truth = torch.from_numpy(shown.reference.copy())
        assert row.scores["zero-filled"].psnr == pytest.approx(float(psnr(image, truth, float(truth.max()))))


def test_names_of_scans_give_no_formulas(play, heads, tmp_path):
    name = "=cmd|' C calc'!A0\x07.nii.gz"
    (tmp_path / "data").mkdir()
    shutil.copy(heads / "sub-01_T1w.nii.gz", tmp_path / "data" / name)
    _, out = play(tmp_path / "data", "all")
    with (out / "scores.csv").open(newline="") as file:
        assert {line["file"] for line in csv.DictReader(file)} == {"'=cmd|' C calc'!A0\\x07.nii.gz"}
    assert all(line.psnr > 0 for line in read_scores(out / "scores.csv"))


def test_training_made_the_test_subjects_better_than_zero_filling(play):
    found, _ = play()
    for score in ("psnr", "psnr_body"):
        assert mean(found, "idr", score) > mean(found, "zero-filled", score)
    assert mean(found, "idr", "held_out") < mean(found, "zero-filled", "held_out")


def test_summary_and_figures_are_written(play, trained):
    found, out = play()
    assert {path.name for path in out.glob("[!.]*")} == WRITTEN
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["subjects"] == trained.subjects()["test"]
    assert summary["methods"]["idr"]["slices"] == len(found.slices)
    assert summary["methods"]["idr"]["mean"]["psnr"] == pytest.approx(mean(found, "idr", "psnr"))
    assert summary["scores"].startswith("mean ± standard deviation over 8 slices of 2 subjects; per slice on")
    assert (summary["normalise"], summary["lpips"], summary["lpips_missing"]) == ("none", None, None)


def test_worst_and_median_slice_are_drawn(play, monkeypatch):
    drawn = {}
    monkeypatch.setattr(module, "error_figure", lambda path, *rest: drawn.update({path.stem: rest}))
    found, _ = play()
    values = sorted(row.scores["idr"].psnr for row in found.slices)
    for name, value in (("worst", values[0]), ("median", values[len(values) // 2])):
        shown, title = drawn[name]
        assert list(shown.images) == ["zero-filled", "idr"]
        assert shown.captions["idr"].startswith(f"{value:.2f} dB")
        assert title.startswith(f"{name} slice: sub-")


def test_the_page_shows_slices_from_the_worst_to_the_best(play, trained, monkeypatch):
    pages = []
    monkeypatch.setattr(module, "write_page", lambda path, contents: pages.append(contents))
    found, _ = play()
    (page,) = pages
    values = sorted(row.scores["idr"].psnr for row in found.slices)
    captions = [shown.captions["idr"] for shown in page.slices]
    assert len(captions) == module.SHOWN
    assert captions == sorted(captions)
    assert captions[0].startswith(f"{values[0]:.2f} dB")
    assert captions[-1].startswith(f"{values[-1]:.2f} dB")
    assert [shown.among_worst for shown in page.slices] == [True, *[False] * 5]
    assert [table.caption for table in page.tables[:2]] == ["Scores", "Scores in the body"]
    assert list(page.notes) == list(found.notes())
    assert [curve.method for curve in page.curves] == ["idr"]
    assert "  name: idr\n" in page.config


def test_what_an_evaluation_replaces_is_told(sansref, play, trained, heads, tmp_path):
    head = heads / f"{trained.subjects()['test'][0]}_T1w.nii.gz"
    assert [play(data)[0].replaced for data in (heads, heads, head)] == ["", "", str(heads)]
    out = tmp_path / "out"
    _, said, err = sansref(
        "evaluate", trained.path, "--data", heads, "--subjects", "test", "--out", out, "--bound", 0.8
    )
    *_, bound, place = said.splitlines()
    assert (bound, err) == ("--bound: no effect without --error_map", "")
    assert place == f"report, scores and figures: {out} (in place of those of {head})"


def test_other_data_are_new_subjects_whatever_their_names(play, write_heads, tmp_path):
    found, _ = play(write_heads(tmp_path / "other", subjects=2, slices=3))
    assert len(found.slices) == 6
    assert found.left_out == []


def test_a_copy_of_the_data_is_recognised(play, heads, tmp_path, trained):
    found, _ = play(shutil.copytree(heads, tmp_path / "copy"))
    assert sorted({row.info.subject for row in found.slices}) == trained.subjects()["test"]


def test_measured_undersampled_data_are_scored_without_a_reference(play, write_knee, tmp_path):
    found, out = play(write_knee(tmp_path / "under.h5", every=2))
    assert len(found.slices) == 2
    assert all(math.isnan(row.scores["idr"].psnr) and row.scores["idr"].held_out > 0 for row in found.slices)
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert summary["methods"]["idr"]["mean"]["psnr"] is None
    assert summary["methods"]["idr"]["mean"]["held_out"] > 0
    assert {path.name for path in out.glob("[!.]*")} == WRITTEN
    assert found.noise is None


def test_without_any_reference_images_are_shown_by_held_out_error(play, write_knee, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(module, "error_figure", lambda path, *rest: drawn.update({path.stem: rest}))
    found, out = play(write_knee(tmp_path / "under.h5", every=2, slices=3))
    highest = max(row.scores["idr"].held_out for row in found.slices)
    shown, _ = drawn["worst"]
    assert shown.reference is None
    assert list(shown.images) == ["zero-filled", "idr"]
    assert shown.captions["idr"] == f"held-out error {highest:.4f}"
    assert shown.noise > 0
    assert "there is no reference" in (out / "report.html").read_text()


def test_scores_say_whether_the_run_was_trained_on_the_scans(play, trained):
    found, out = play(subjects="all")
    split = trained.subjects()
    learned = sorted(split["training"] + split["validation"])
    assert found.learned == learned == json.loads((out / "summary.json").read_text())["learned_from"]
    assert any(note.startswith(f"the run was trained on {', '.join(learned)}, which") for note in found.notes())
    found, out = play(subjects="test")
    assert found.learned == [] == json.loads((out / "summary.json").read_text())["learned_from"]
    assert "none of the scored subjects was used for training" in list(found.notes())


def test_measured_references_are_said_to_be_noisy(play, write_knee, tmp_path):
    found, out = play(write_knee(tmp_path / "full.h5"))
    level, limit = found.noise
    # 1 % in each part of each sample, of images of at most 1 in the whole field of view.
    assert 0.007 < level < 0.014
    assert 36 < limit < 44
    (note,) = (note for note in found.notes() if "noisy" in note)
    assert f"{level:.1%}" in note
    assert "penalise smoothing" in note
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["reference_noise"], summary["psnr_of_a_perfect_image"]) == (level, limit)
    assert play()[0].noise is None  # simulated


def of_held_out(own, others, validated=None, subjects="aaa"):
    """An evaluation whose slices have these errors on held-out samples, by the run and by total variation."""
    labels = ("idr", "total variation", "zero-filled")
    slices = [
        module.EvaluatedSlice(
            None,
            number,
            {
                label: ScoredSlice(label, 4, 0, 0, subjects[number], number, held_out=value)
                for label, value in zip(labels, (*errors, 1.0), strict=True)
            },
        )
        for number, errors in enumerate(zip(own, others, strict=True))
    ]
    choice = Choice(0.01, 0.5, ())
    return module.Evaluation(slices, chosen={"total variation": choice}, method="idr", validated=validated)


@pytest.mark.parametrize(
    ("own", "others", "warned"),
    [
        ([0.1, 0.12, 0.11], [0.2, 0.21, 0.22], False),
        ([0.1, 0.12, 0.11], [0.1, 0.13, 0.1], True),  # no clear difference
        ([0.3, 0.3], [0.2, 0.2], True),
        ([0.2], [0.25], False),
        ([0.2], [0.2], True),
        ([math.nan, 0.1], [0.2, 0.2], False),
    ],
)
def test_a_run_that_is_no_better_than_compressed_sensing_is_warned_of(own, others, warned):
    notes = list(of_held_out(own, others, 0.09).notes())
    assert any("no better than total variation" in note for note in notes) == warned
    (told,) = [note for note in notes if note.startswith("error on held-out samples: idr ")]
    assert "total variation" in told
    assert told.endswith("validation scans the run had 0.09")


def test_slices_of_one_person_are_no_further_witnesses():
    own, others = [0.1] * 12, [0.2] * 6 + [0.09] * 6
    for subjects, warned in (("abcdefghijkl", False), ("aaaaaabbbbbb", True)):
        notes = of_held_out(own, others, subjects=subjects).notes()
        assert any("no better than total variation" in note for note in notes) == warned


@pytest.mark.slow
def test_what_the_run_had_at_home_is_what_its_log_says(play, trained):
    found, _ = play()
    rows = read_history(trained.path / "metrics.csv")
    assert found.validated == pytest.approx(min(float(row["score"]) for row in rows))


@pytest.mark.slow
def test_classical_methods_stand_beside_the_run(play):
    found, out = play(classical=("l1_wavelet", "total_variation"))
    names = ["zero-filled", BEST_SCALE, "L1-wavelet", "total variation", "idr"]
    assert list(found.slices[0].scores) == names
    for name in ("L1-wavelet", "total variation"):
        assert mean(found, name, "psnr") > mean(found, "zero-filled", "psnr") + 1
        assert mean(found, name, "held_out") < mean(found, "zero-filled", "held_out")
    chosen = json.loads((out / "summary.json").read_text())["regularisation"]
    assert chosen == {name: choice.regularisation for name, choice in found.chosen.items()}
    assert any(note.startswith("L1-wavelet: regularisation ") for note in found.notes())


def test_slices_without_a_reference_do_not_make_the_means_undefined(play, write_knee, tmp_path):
    (tmp_path / "knees").mkdir()
    write_knee(tmp_path / "knees" / "full.h5", seed=1)
    write_knee(tmp_path / "knees" / "under.h5", seed=2, every=2)
    found, out = play(tmp_path / "knees")
    known = [row.scores["idr"].psnr for row in found.slices if not math.isnan(row.scores["idr"].psnr)]
    assert (len(found.slices), len(known)) == (4, 2)
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert "over 4 slices of 2 subjects, against the reference over the 2 that have one" in summary["scores"]
    idr = summary["methods"]["idr"]
    assert idr["mean"]["psnr"] == pytest.approx(sum(known) / 2)
    assert (idr["known"]["psnr"], idr["known"]["held_out"]) == (2, 4)


def test_lpips_is_that_of_the_scored_images(play, trained, alexnet):
    found, out = play(lpips="alex", lpips_weights=alexnet)
    row, recipe = found.slices[2], trained.config().preparation
    scan = list(recipe.scans(row.info.path))[2]
    truth, image = scored_reference(scan), trained.load().reconstruct(scan.batch())[0]
    expected = LPIPS.load("alex", alexnet)(image.abs().detach(), truth, float(truth.max()))
    assert row.scores["idr"].lpips == pytest.approx(float(expected), rel=1e-4)
    assert all(score.lpips > 0 for row in found.slices for score in row.scores.values())
    assert (found.scoring.lpips, found.scoring.weights, found.missing) == ("alex", True, "")
    line = next(line for line in read_scores(out / "scores.csv") if line.slice == 2 and line.label == "idr")
    assert line.lpips == row.scores["idr"].lpips
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["lpips"] == "alex"
    assert summary["methods"]["idr"]["mean"]["lpips"] == pytest.approx(mean(found, "idr", "lpips"))


def test_missing_weights_for_lpips_cost_no_other_score(play, no_weights):
    found, out = play(lpips="vgg")
    assert (found.scoring.lpips, found.scoring.weights) == ("vgg", False)
    assert found.missing.startswith("the weights of VGG16 for LPIPS are not on this machine")
    assert all(math.isnan(row.scores["idr"].lpips) and row.scores["idr"].psnr > 0 for row in found.slices)
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert summary["methods"]["idr"]["mean"]["lpips"] is None
    assert (summary["lpips"], summary["lpips_missing"]) == ("vgg", found.missing)
    assert (out / "worst.png").exists()


def test_weights_that_were_given_must_be_there(play, tmp_path, monkeypatch, no_weights):
    with pytest.raises(FileError, match=r"nowhere\.pth: cannot be read"):
        play(lpips="alex", lpips_weights=tmp_path / "nowhere.pth")

    def unreachable(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", unreachable)
    with pytest.raises(SettingError, match="could not be downloaded"):
        play(lpips="alex", lpips_download=True)


@pytest.mark.parametrize("options", [{"lpips_weights": "alex.pth"}, {"lpips_download": True}])
def test_weights_for_no_lpips_are_a_contradiction(options):
    with pytest.raises(SettingError, match="but --lpips is none: add --lpips alex or --lpips vgg"):
        ScoreOptions(**options)


def test_images_too_small_for_lpips_are_one_clear_line(play, alexnet, tmp_path):
    volume = np.zeros((24, 24, 3))
    volume[6:18, 6:18] = 100
    nibabel.save(nibabel.Nifti1Image(volume.astype(np.int16), np.eye(4)), tmp_path / "sub-90_T1w.nii.gz")
    with pytest.raises(SettingError, match=r"24 x 24 pixels is too small for LPIPS with AlexNet.* use --lpips none"):
        play(tmp_path / "sub-90_T1w.nii.gz", lpips="alex", lpips_weights=alexnet)


@pytest.mark.parametrize(("asked", "normalise"), [("auto", "minmax"), ("none", "none"), ("minmax", "minmax")])
def test_relative_methods_are_scored_after_min_max_unless_told_otherwise(play, trained, relative, asked, normalise):
    found, out = play(normalise=asked)
    row, config = found.slices[1], trained.config()
    scan = list(config.preparation.scans(row.info.path))[1]
    assert same(row.scores["idr"], scored(config, scan, "idr", relative.reconstruct, 1, normalise=normalise))
    rescaled = scored(config, scan, "it", zero_filled, 1, normalise=normalise, rescaled={"it"})
    assert same(row.scores[BEST_SCALE], rescaled)
    assert found.scoring.normalise == normalise
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["normalise"] == normalise
    assert ("after min-max" in summary["scores"]) == (normalise == "minmax")


def test_other_methods_are_scored_on_their_scale_unless_told_otherwise(play):
    assert play()[0].scoring.normalise == "none"
    assert play(normalise="minmax")[0].scoring.normalise == "minmax"


def test_figures_show_what_was_scored(play, relative, monkeypatch):
    drawn = {}
    monkeypatch.setattr(module, "error_figure", lambda path, shown, title: drawn.update({path.stem: shown}))
    play()
    shown = drawn["worst"]
    assert (shown.reference.min(), shown.reference.max()) == (0, 1)
    assert shown.images["zero-filled"].min() == pytest.approx(0, abs=1e-6)
    assert shown.images["zero-filled"].max() == pytest.approx(1)


def test_fully_sampled_measured_data_are_scored_on_the_scanners_crop(play, write_knee, tmp_path):
    found, _ = play(write_knee(tmp_path / "full.h5"))
    assert all(row.scores["idr"].psnr > 10 for row in found.slices)


def test_slices_without_a_reference_do_not_hide_the_worst_one():
    def row(psnr, held_out=0.1):
        return module.EvaluatedSlice(None, 0, {"idr": ScoredSlice("idr", 4, 0, 0, "a", 0, psnr, held_out=held_out)})

    rows = [row(30.0), row(math.nan), row(20.0), row(25.0), row(math.nan)]
    assert [one.scores["idr"].psnr for one in module._ranked(rows, "idr")] == [20.0, 25.0, 30.0]
    bare = [row(math.nan, held_out) for held_out in (0.1, 0.3, math.nan, 0.2)]
    assert [one.scores["idr"].held_out for one in module._ranked(bare, "idr")] == [0.3, 0.2, 0.1]


def test_nobody_left_is_one_clear_line(play, tiny, heads, tmp_path):
    run = train(tiny("ssdu", epochs=1), heads, tmp_path / "run", console=QUIET).run
    with pytest.raises(SettingError, match=r"none of the 6 subject\(s\) is left .*--test 0\.2 .*--subjects all"):
        play(directory=run)


def test_bad_files_stop_or_are_told(play, write_heads, tmp_path):
    data = write_heads(tmp_path / "bad", subjects=3, slices=3)
    (data / "sub-08_T1w.nii.gz").write_bytes(b"no volume")
    broken = data / "sub-02_T1w.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-40])
    with pytest.raises(FileError, match=r"sub-0[28]_T1w"):
        play(data)
    found, _ = play(data, skip_bad=True)
    assert sorted(error.path.name for error in found.bad_files) == ["sub-02_T1w.nii.gz", "sub-08_T1w.nii.gz"]
    assert {row.info.subject for row in found.slices} == {"sub-01", "sub-03"}


def test_nothing_but_bad_files_is_one_clear_line(play, write_heads, tmp_path):
    data = write_heads(tmp_path / "bad", subjects=1, slices=3)
    broken = data / "sub-01_T1w.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-40])
    with pytest.raises(SettingError, match=r"has no slice to evaluate on \(.*sub-01_T1w\.nii\.gz: .*\)"):
        play(data, skip_bad=True)


def test_a_run_on_no_folder_of_subjects_has_learned_from_nobody(play, trained, tmp_path):
    copy = RunDirectory(shutil.copytree(trained.path, tmp_path / "demo"))
    copy.splits_file.unlink()
    assert len(play(directory=copy)[0].slices) == 24


def test_blank_slices_are_passed_over(play, tmp_path):
    volume = np.zeros((32, 32, 4))
    volume[8:24, 8:24, 1:3] = 100
    nibabel.save(nibabel.Nifti1Image(volume.astype(np.int16), np.eye(4)), tmp_path / "sub-90_T1w.nii.gz")
    found, _ = play(tmp_path / "sub-90_T1w.nii.gz")
    assert [row.slice for row in found.slices] == [1, 2]


def test_evaluation_does_not_move_the_weights(play, trained):
    before = {name: value.clone() for name, value in trained.load().state_dict().items()}
    play()
    assert all(torch.equal(value, before[name]) for name, value in trained.load().state_dict().items())


# --- who is known ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_folders(tiny, tmp_path_factory):
    """A run on folders of four people whose files have the same names and sizes, two of them set aside."""
    root = tmp_path_factory.mktemp("people")
    _people(root / "data", range(4))
    config = tiny("ssdu", epochs=1, validation=0.2, test=0.3)
    return train(config, root / "data", root / "run", console=QUIET).run


def _people(folder, seeds):
    for place, seed in enumerate(seeds):
        for name in ("T1", "T2"):
            path = folder / f"P{place:03d}" / f"{name}.nii"
            path.parent.mkdir(parents=True) if name == "T1" else None
            volume = np.random.default_rng([seed, len(name), ord(name[1])]).random((32, 32, 2)).astype(np.float32)
            nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), path)
    return folder


def test_people_of_folders_stand_on_one_side_each(of_folders):
    parts = of_folders.subjects()
    assert sorted(name for names in parts.values() for name in names) == ["P000", "P001", "P002", "P003"]
    said = json.loads((of_folders.path / "subjects.json").read_text())["data"]
    assert {(one["subject"], one["recognised_by"]) for one in said} == {(f"P{n:03d}", "folder") for n in range(4)}


def test_another_persons_file_of_equal_name_and_size_is_new(of_folders, tmp_path):
    others = _people(tmp_path / "others", range(10, 13))
    found = evaluate(of_folders, others, tmp_path / "out", console=QUIET)
    assert found.left_out == []
    assert {row.info.subject for row in found.slices} == {"P000", "P001", "P002"}


def test_a_known_file_under_another_name_is_known(of_folders, tmp_path):
    learned = of_folders.subjects()["training"][0]
    home = of_folders.path.parent / "data"
    shutil.copyfile(home / learned / "T1.nii", tmp_path / "somebody.nii")
    with pytest.raises(SettingError, match="none of the 1 subject"):
        evaluate(of_folders, tmp_path / "somebody.nii", tmp_path / "out", console=QUIET)
    _people(tmp_path / "new", [20])
    shutil.move(tmp_path / "somebody.nii", tmp_path / "new" / "P000" / "T3.nii")
    _people(tmp_path / "more", [21])
    shutil.move(tmp_path / "more" / "P000", tmp_path / "new" / "P001")
    found = evaluate(of_folders, tmp_path / "new", tmp_path / "out", console=QUIET)
    assert found.left_out == ["P000"]


def test_a_part_of_the_runs_data_is_known_by_the_runs_names(of_folders, tmp_path):
    home = of_folders.path.parent / "data"
    learned, aside = of_folders.subjects()["training"][0], of_folders.subjects()["test"][0]
    for data in (home / learned, home / learned / "T2.nii"):
        with pytest.raises(SettingError, match="none of the 1 subject"):
            evaluate(of_folders, data, tmp_path / "out", console=QUIET)
    found = evaluate(of_folders, home / aside / "T2.nii", tmp_path / "out", console=QUIET)
    assert {row.info.subject for row in found.slices} == {aside}


def test_the_users_rule_may_differ_for_other_data(of_folders, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for number, name in enumerate(("P1_a", "P1_b", "P2_a")):
        np.save(data / f"{name}.npy", np.random.default_rng(number).random((2, 32, 32)))
    with pytest.raises(FileError, match="--subject_from"):
        evaluate(of_folders, data, tmp_path / "out", console=QUIET)
    found = evaluate(of_folders, data, tmp_path / "out", console=QUIET, subject_from=r"P\d")
    assert {row.info.subject for row in found.slices} == {"P1", "P2"}


def test_label_maps_are_not_scored(of_folders, tmp_path):
    others = _people(tmp_path / "others", [30])
    shutil.copyfile(others / "P000" / "T1.nii", others / "P000" / "T1_seg.nii")
    found = evaluate(of_folders, others, tmp_path / "out", console=QUIET)
    assert {row.info.path.name for row in found.slices} == {"T1.nii", "T2.nii"}
    assert "T1_seg.nii" in found.note


def test_what_cannot_be_evaluated_leaves_nothing(play, trained, heads, tmp_path):
    learned = heads / f"{trained.subjects()['training'][0]}_T1w.nii.gz"
    with pytest.raises(SettingError, match="use --subjects all"):
        play(learned)
    assert not (tmp_path / "out").exists()


def test_error_maps_stand_beside_the_scores(play) -> None:
    found, out = play(subjects="test", error_map=True)
    estimates = [one.estimated for one in found.slices]
    assert all(one.low < one.value < one.high for one in estimates)
    (told,) = [note for note in found.notes() if "estimated without references" in note]
    assert "with them it is" in told
    summary = json.loads((out / "summary.json").read_text())
    assert summary["psnr_estimated"]["value"] == pytest.approx(np.mean([one.value for one in estimates]))
    page = (out / "report.html").read_text()
    assert "the scan contradicts, red: added signal" in page
    assert "Neither map can see" in page
    plain, _ = play(subjects="test")
    assert plain.estimated is None
    assert [one.psnr for one in plain.rows] == [one.psnr for one in found.rows]
