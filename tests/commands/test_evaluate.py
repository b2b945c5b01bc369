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
from sansref.commands.evaluate import ScoreOptions, evaluate
from sansref.data.scan_store import PreparedScans
from sansref.errors import FileError, SettingError
from sansref.metrics.held_out import held_out_mask
from sansref.metrics.lpips import LPIPS
from sansref.metrics.quality import psnr
from sansref.results.scores import BEST_SCALE, Score, score_best_scale, score_scan, scored_reference, zero_filled
from sansref.training.batches import WithoutHeldOut
from sansref.training.run import RunDirectory
from sansref.training.train import train

QUIET = Console(quiet=True)


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


def table(out) -> list[dict[str, str]]:
    with (out / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_only_subjects_that_the_run_did_not_learn_from_are_scored(play, trained):
    found, _ = play()
    split = trained.subjects()
    assert sorted({row.info.subject for row in found.rows}) == split["test"]
    assert found.left_out == sorted(split["training"] + split["validation"])
    assert len(found.rows) == 4 * len(split["test"])


@pytest.mark.parametrize(("subjects", "scored", "left_out"), [("test", 2, 4), ("all", 6, 0)])
def test_subjects_can_be_chosen(play, subjects, scored, left_out):
    found, _ = play(subjects=subjects)
    assert len({row.info.subject for row in found.rows}) == scored
    assert len(found.left_out) == left_out


@pytest.mark.parametrize(("name", "parts"), [("sub-03_T1w.nii.gz", {}), ("", {"validation": 0.0, "test": 0.5})])
def test_training_scans_are_scored_on_what_the_run_was_not_given(tiny, heads, tmp_path, monkeypatch, name, parts):
    data = heads / name
    config = tiny("ssdu", epochs=1, slices=3, seed=5, data_seed=1, **parts)
    run = train(config, data, tmp_path / "run", console=QUIET).run
    scans, given = PreparedScans(run.path / "data" / "training"), []
    learned = WithoutHeldOut(scans, config.training.held_out, config.training.seed)
    original = module.score_scan

    def watched(reconstruct, scan, family, held_out, seed, item, *rest):
        if scan.meta.subject in run.subjects()["training"]:
            given.append((scan, held_out_mask(scan, held_out, seed, item)))
        return original(reconstruct, scan, family, held_out, seed, item, *rest)

    monkeypatch.setattr(module, "score_scan", watched)
    evaluate(run, data, tmp_path / "scores", "all", console=QUIET)
    assert [meta.slice for meta in scans.metas] != list(range(len(scans)))
    assert len(given) == 2 * len(scans)  # zero-filled and SSDU
    for place, scan in enumerate(learned):
        for scored, held_out in given[2 * place : 2 * place + 2]:
            assert torch.equal(scored.mask & ~held_out, scan.mask)


def test_scores_on_simulated_data_say_so(play):
    found, out = play()
    said = "k-space simulated from magnitudes, which flatters every method"
    assert found.scoring.data == said
    assert said in json.loads((out / "summary.json").read_text())["scores"]


def test_scores_are_those_of_every_slice(play, trained, heads):
    found, out = play()
    config, method = trained.config(), trained.load()
    row = found.rows[1]
    scan = list(config.preparation.scans(row.info.path))[1]
    options = config.training
    for name, reconstruct in (("zero-filled", zero_filled), ("idr", method.reconstruct)):
        score, _ = score_scan(
            reconstruct, scan, config.sampling.family(emulated=True), options.held_out, options.seed, 1
        )
        assert row.scores[name] == score
    assert list(row.scores) == ["zero-filled", BEST_SCALE, "idr"]
    assert row.scores[BEST_SCALE] == score_best_scale(scan)
    written = table(out)
    assert len(written) == 3 * len(found.rows)
    assert list(written[0]) == ["subject", "file", "slice", "method", "psnr", "ssim", "nmse", "held_out"]
    line = next(line for line in written if line["slice"] == "1" and line["method"] == "idr")
    assert line["file"] == row.info.path.name
    assert line["subject"] == row.info.subject
    assert float(line["psnr"]) == pytest.approx(row.scores["idr"].psnr, rel=1e-5)


def test_best_scale_beats_the_zero_filled_image_and_has_no_held_out_error(play):
    found, out = play()
    summary = found.summaries()
    assert summary[BEST_SCALE].mean.nmse < summary["zero-filled"].mean.nmse
    assert summary[BEST_SCALE].known["held_out"] == 0
    assert {line["held_out"] for line in table(out) if line["method"] == BEST_SCALE} == {"nan"}
    written = json.loads((out / "summary.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert written["methods"][BEST_SCALE]["mean"]["held_out"] is None


def test_pictures_are_upright_and_scores_are_not_touched(play, trained, heads, monkeypatch):
    """Rows of these heads lead to the left, columns to anterior: they would lie on their side."""
    drawn = []
    monkeypatch.setattr(module, "error_figure", lambda path, truth, panels, title: drawn.append((truth, panels, title)))
    found, _ = play()
    assert len(drawn) == 2
    for truth, panels, title in drawn:
        subject, number = title.removeprefix("worst slice: ").removeprefix("median slice: ").split(", slice ")
        (scan,) = trained.config().preparation.scans(heads / f"{subject}_T1w.nii.gz", [int(number)])
        assert torch.equal(truth, scored_reference(scan).T.flip(0))
        given = scan.batch()
        assert torch.equal(panels[0].image, zero_filled(given)[0].abs().T.flip(0))
        (row,) = (row for row in found.rows if (row.info.subject, row.slice) == (subject, int(number)))
        assert row.scores["zero-filled"].psnr == pytest.approx(float(psnr(panels[0].image, truth, float(truth.max()))))


def test_names_of_scans_give_no_formulas(play, heads, tmp_path):
    name = "=cmd|' C calc'!A0\x07.nii.gz"
    (tmp_path / "data").mkdir()
    shutil.copy(heads / "sub-01_T1w.nii.gz", tmp_path / "data" / name)
    _, out = play(tmp_path / "data", "all")
    assert all(line["file"] == "'=cmd|' C calc'!A0\\x07.nii.gz" for line in table(out))
    assert all(float(line["psnr"]) > 0 for line in table(out))


def test_training_made_the_test_subjects_better_than_zero_filling(play):
    summary = play()[0].summaries()
    assert summary["idr"].mean.psnr > summary["zero-filled"].mean.psnr
    assert summary["idr"].mean.held_out < summary["zero-filled"].mean.held_out


def test_summary_and_figures_are_written(play, trained):
    found, out = play()
    assert sorted(path.name for path in out.glob("[!.]*")) == ["median.png", "scores.csv", "summary.json", "worst.png"]
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["subjects"] == trained.subjects()["test"]
    assert summary["methods"]["idr"]["slices"] == len(found.rows)
    assert summary["methods"]["idr"]["mean"]["psnr"] == pytest.approx(found.summaries()["idr"].mean.psnr)
    assert summary["scores"].startswith("mean ± standard deviation over 8 slices; per slice on magnitudes, data range")
    assert (summary["normalise"], summary["lpips"], summary["lpips_missing"]) == ("none", None, None)


def test_worst_and_median_slice_are_drawn(play, monkeypatch):
    drawn = {}

    def error_figure(path, truth, panels, title):
        drawn[path.stem] = panels, title

    monkeypatch.setattr(module, "error_figure", error_figure)
    found, _ = play()
    values = sorted(row.scores["idr"].psnr for row in found.rows)
    for name, value in (("worst", values[0]), ("median", values[len(values) // 2])):
        panels, title = drawn[name]
        assert [panel.title for panel in panels] == ["zero-filled", "idr"]
        assert panels[1].caption.startswith(f"{value:.2f} dB")
        assert title.startswith(f"{name} slice: sub-")


def test_other_data_are_new_subjects_whatever_their_names(play, write_heads, tmp_path):
    found, _ = play(write_heads(tmp_path / "other", subjects=2, slices=3))
    assert len(found.rows) == 6
    assert found.left_out == []


def test_a_copy_of_the_data_is_recognised(play, heads, tmp_path, trained):
    found, _ = play(shutil.copytree(heads, tmp_path / "copy"))
    assert sorted({row.info.subject for row in found.rows}) == trained.subjects()["test"]


def test_measured_undersampled_data_are_scored_without_a_reference(play, write_knee, tmp_path):
    found, out = play(write_knee(tmp_path / "under.h5", every=2))
    assert len(found.rows) == 2
    assert all(math.isnan(row.scores["idr"].psnr) and row.scores["idr"].held_out > 0 for row in found.rows)
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert summary["methods"]["idr"]["mean"]["psnr"] is None
    assert summary["methods"]["idr"]["mean"]["held_out"] > 0
    assert sorted(path.name for path in out.glob("[!.]*")) == ["median.png", "scores.csv", "summary.json", "worst.png"]
    assert found.noise is None


def test_without_any_reference_images_are_shown_by_held_out_error(play, write_knee, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(module, "error_figure", lambda path, *rest: drawn.update({path.stem: rest}))
    found, _ = play(write_knee(tmp_path / "under.h5", every=2, slices=3))
    highest = max(row.scores["idr"].held_out for row in found.rows)
    truth, panels, _ = drawn["worst"]
    assert truth is None
    assert [panel.title for panel in panels] == ["zero-filled", "idr"]
    assert panels[1].caption == f"held-out error {highest:.4f}"


def test_scores_say_whether_the_run_was_trained_on_the_scans(play, trained):
    found, out = play(subjects="all")
    split = trained.subjects()
    learned = sorted(split["training"] + split["validation"])
    assert found.learned == learned == json.loads((out / "summary.json").read_text())["learned_from"]
    assert any(note.startswith(f"the run was trained on {', '.join(learned)}:") for note in found.notes())
    found, out = play(subjects="test")
    assert found.learned == [] == json.loads((out / "summary.json").read_text())["learned_from"]
    assert "the run was trained on none of the scored subjects" in list(found.notes())


def test_measured_references_are_said_to_be_noisy(play, write_knee, tmp_path):
    found, out = play(write_knee(tmp_path / "full.h5"))
    level, limit = found.noise
    # 1 % in each part of each sample, of images of at most 1 in the whole field of view.
    assert 0.007 < level < 0.014
    assert 36 < limit < 44
    (note,) = (note for note in found.notes() if "noisy" in note)
    assert f"{level:.1%}" in note
    assert "punish smoothing" in note
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["reference_noise"], summary["psnr_of_a_perfect_image"]) == (level, limit)
    assert play()[0].noise is None  # simulated


def test_classical_methods_stand_beside_the_run(play):
    found, out = play(classical=("l1_wavelet", "total_variation"))
    names = ["zero-filled", BEST_SCALE, "L1-wavelet", "total variation", "idr"]
    assert list(found.rows[0].scores) == names
    means = {name: summary.mean for name, summary in found.summaries().items()}
    for name in ("L1-wavelet", "total variation"):
        assert means[name].psnr > means["zero-filled"].psnr + 1
        assert means[name].held_out < means["zero-filled"].held_out
    chosen = json.loads((out / "summary.json").read_text())["regularisation"]
    assert chosen == {name: choice.regularisation for name, choice in found.chosen.items()}
    assert any(note.startswith("L1-wavelet: regularisation ") for note in found.notes())


def test_slices_without_a_reference_do_not_make_the_means_undefined(play, write_knee, tmp_path):
    (tmp_path / "knees").mkdir()
    write_knee(tmp_path / "knees" / "full.h5", seed=1)
    write_knee(tmp_path / "knees" / "under.h5", seed=2, every=2)
    found, out = play(tmp_path / "knees")
    known = [row.scores["idr"].psnr for row in found.rows if not math.isnan(row.scores["idr"].psnr)]
    assert (len(found.rows), len(known)) == (4, 2)
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert "over 4 slices, against the reference over the 2 that have one" in summary["scores"]
    idr = summary["methods"]["idr"]
    assert idr["mean"]["psnr"] == pytest.approx(sum(known) / 2)
    assert (idr["known"]["psnr"], idr["known"]["held_out"]) == (2, 4)


def test_lpips_is_that_of_the_scored_images(play, trained, alexnet):
    found, out = play(lpips="alex", lpips_weights=alexnet)
    row, recipe = found.rows[2], trained.config().preparation
    scan = list(recipe.scans(row.info.path))[2]
    truth, image = scored_reference(scan), trained.load().reconstruct(scan.batch())[0]
    expected = LPIPS.load("alex", alexnet)(image.abs().detach(), truth, float(truth.max()))
    assert row.scores["idr"].lpips == pytest.approx(float(expected), rel=1e-4)
    assert all(score.lpips > 0 for row in found.rows for score in row.scores.values())
    assert (found.scoring.lpips, found.scoring.weights, found.missing) == ("alex", True, "")
    line = next(line for line in table(out) if line["slice"] == "2" and line["method"] == "idr")
    assert float(line["lpips"]) == pytest.approx(row.scores["idr"].lpips, rel=1e-5)
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["lpips"] == "alex"
    assert summary["methods"]["idr"]["mean"]["lpips"] == pytest.approx(found.summaries()["idr"].mean.lpips)


def test_missing_weights_for_lpips_cost_no_other_score(play, no_weights):
    found, out = play(lpips="vgg")
    assert (found.scoring.lpips, found.scoring.weights) == ("vgg", False)
    assert found.missing.startswith("the weights of VGG16 for LPIPS are not on this machine")
    assert all(math.isnan(row.scores["idr"].lpips) and row.scores["idr"].psnr > 0 for row in found.rows)
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
    with pytest.raises(SettingError, match="for LPIPS, which is none: add --lpips alex or vgg"):
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
    row, config = found.rows[1], trained.config()
    scan = list(config.preparation.scans(row.info.path))[1]
    expected, _ = score_scan(
        relative.reconstruct, scan, config.sampling.family(emulated=True), 0.1, 0, 1, normalise=normalise
    )
    assert row.scores["idr"] == expected
    assert row.scores[BEST_SCALE] == score_best_scale(scan, normalise=normalise)
    assert found.scoring.normalise == normalise
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["normalise"] == normalise
    assert ("after min-max" in summary["scores"]) == (normalise == "minmax")


def test_other_methods_are_scored_on_their_scale_unless_told_otherwise(play):
    assert play()[0].scoring.normalise == "none"
    assert play(normalise="minmax")[0].scoring.normalise == "minmax"


def test_figures_show_what_was_scored(play, relative, monkeypatch):
    drawn = {}

    def error_figure(path, truth, panels, title):
        drawn[path.stem] = truth, panels

    monkeypatch.setattr(module, "error_figure", error_figure)
    play()
    truth, panels = drawn["worst"]
    assert (float(truth.min()), float(truth.max())) == (0, 1)
    assert float(panels[0].image.min()) == pytest.approx(0, abs=1e-6)
    assert float(panels[0].image.max()) == pytest.approx(1)


def test_fully_sampled_measured_data_are_scored_on_the_scanners_crop(play, write_knee, tmp_path):
    found, _ = play(write_knee(tmp_path / "full.h5"))
    assert all(row.scores["idr"].psnr > 10 for row in found.rows)


def test_slices_without_a_reference_do_not_hide_the_worst_one(trained):
    def row(psnr):
        return module.Row(None, 0, {"idr": Score(psnr, 0, 0, 0)})

    rows = [row(30.0), row(math.nan), row(20.0), row(25.0), row(math.nan)]
    assert [(title, chosen.scores["idr"].psnr) for title, chosen in module._telling_rows(rows, "idr")] == [
        ("worst", 20.0),
        ("median", 25.0),
    ]


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
    assert {row.info.subject for row in found.rows} == {"sub-01", "sub-03"}


def test_nothing_but_bad_files_is_one_clear_line(play, write_heads, tmp_path):
    data = write_heads(tmp_path / "bad", subjects=1, slices=3)
    broken = data / "sub-01_T1w.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-40])
    with pytest.raises(SettingError, match=r"gave no slice to evaluate on \(.*sub-01_T1w\.nii\.gz: .*\)"):
        play(data, skip_bad=True)


def test_a_run_on_no_folder_of_subjects_has_learned_from_nobody(play, trained, tmp_path):
    copy = RunDirectory(shutil.copytree(trained.path, tmp_path / "demo"))
    copy.splits_file.unlink()
    assert len(play(directory=copy)[0].rows) == 24


def test_blank_slices_are_passed_over(play, tmp_path):
    volume = np.zeros((32, 32, 4))
    volume[8:24, 8:24, 1:3] = 100
    nibabel.save(nibabel.Nifti1Image(volume.astype(np.int16), np.eye(4)), tmp_path / "sub-90_T1w.nii.gz")
    found, _ = play(tmp_path / "sub-90_T1w.nii.gz")
    assert [row.slice for row in found.rows] == [1, 2]


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
    assert {row.info.subject for row in found.rows} == {"P000", "P001", "P002"}


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
    assert {row.info.subject for row in found.rows} == {aside}


def test_the_users_rule_may_differ_for_other_data(of_folders, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for number, name in enumerate(("P1_a", "P1_b", "P2_a")):
        np.save(data / f"{name}.npy", np.random.default_rng(number).random((2, 32, 32)))
    with pytest.raises(FileError, match="--subject_from"):
        evaluate(of_folders, data, tmp_path / "out", console=QUIET)
    found = evaluate(of_folders, data, tmp_path / "out", console=QUIET, subject_from=r"P\d")
    assert {row.info.subject for row in found.rows} == {"P1", "P2"}


def test_label_maps_are_not_scored(of_folders, tmp_path):
    others = _people(tmp_path / "others", [30])
    shutil.copyfile(others / "P000" / "T1.nii", others / "P000" / "T1_seg.nii")
    found = evaluate(of_folders, others, tmp_path / "out", console=QUIET)
    assert {row.info.path.name for row in found.rows} == {"T1.nii", "T2.nii"}
    assert "T1_seg.nii" in found.note


def test_what_cannot_be_evaluated_leaves_nothing(play, trained, heads, tmp_path):
    learned = heads / f"{trained.subjects()['training'][0]}_T1w.nii.gz"
    with pytest.raises(SettingError, match="use --subjects all"):
        play(learned)
    assert not (tmp_path / "out").exists()
