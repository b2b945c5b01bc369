"""One scan, reconstructed by what is learned from it alone: three sets of samples, and never worse by the last one."""

from __future__ import annotations

import csv
import json
import math
import shutil
from dataclasses import replace
from functools import cache, partial

import h5py
import nibabel
import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import sansref as package
from helpers.scans import noise
from sansref.cli import main
from sansref.commands import zero_shot as module
from sansref.commands.zero_shot import (
    JUDGED,
    MIXTURE,
    NETWORK,
    ZeroShotOptions,
    choose,
    mixing_weight,
    scaled_without,
    start_of,
    with_budget,
    zero_shot,
)
from sansref.commands.zero_shot_choice import ADDED, errors_in_parts, judged_mask
from sansref.data.prepare import Preparation, scaled
from sansref.data.readers import open_scan_file
from sansref.data.scan_store import PreparedScans
from sansref.data.simulate import Sampling, Simulation, example_image, simulate
from sansref.data.slices import Slices, resized_image
from sansref.errors import FileError, SettingError
from sansref.kspace.fourier import fft2c, ifft2c
from sansref.kspace.grid import center_crop, central_mask
from sansref.methods.classical import regularisation
from sansref.methods.unrolled import UnrolledMethod
from sansref.metrics.error_maps import ErrorMapOptions
from sansref.metrics.held_out import HeldOut, held_out_error, held_out_mask
from sansref.metrics.quality import nmse
from sansref.randomness import seeded
from sansref.results.scorer import Scorer, zero_filled
from sansref.results.scores import read_scores
from sansref.scan import ScanMeta
from sansref.training.batches import WithoutHeldOut
from sansref.training.config import RunConfig
from sansref.training.history import read_history
from sansref.training.loop import Loop
from sansref.training.run import RunDirectory
from sansref.training.subjects import learned_subjects

QUIET = Console(quiet=True)
LABELS = ["zero-filled", "L1-wavelet", "total variation", "network", "mixture"]
SETTINGS = {
    **{"axes": "slice,coil,row,column", "acceleration": 2, "center": 0.3, "kernel": 4},
    **{"stages": 2, "epochs": 2, "repeats": 2, "threads": 1, "accelerator": "cpu"},
    **{"network.phases": 1, "network.channels": 2, "network.layers": 2, "network.cg_steps": 1},
}


def config_of(method="idr", **changes):
    settings = {name: value for name, value in SETTINGS.items() if method == "idr" or name != "stages"}
    return RunConfig.from_values({"method": method}).changed(**module.DEFAULTS).changed(**{**settings, **changes})


@pytest.fixture(scope="module")
def scan_file(tmp_path_factory):
    """Two slices of four coils, fully sampled."""
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    generator, images = np.random.default_rng(0), np.zeros((2, 32, 32))
    for image in images:
        for top, left, height, width in generator.integers(4, 20, (12, 4)):
            image[top : top + height // 2, left : left + width // 2] += 0.3
    coils = [np.exp(-((y - row) ** 2 + (x - column) ** 2)) for row in (-1, 1) for column in (-1, 1)]
    full = fft2c(torch.tensor(np.array([[image * coil for coil in coils] for image in images]), dtype=torch.complex64))
    path = tmp_path_factory.mktemp("scan") / "head.npy"
    np.save(path, (full + 0.01 * noise(*full.shape, dtype=torch.complex64)).numpy())
    return path


@pytest.fixture(scope="module", autouse=True)
def quick_compressed_sensing():
    """Two regularisations instead of eleven, and 15 iterations instead of 100."""
    few = partial(module.choose_regularisation, grid=(1e-3, 1e-2), iterations=15)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "choose_regularisation", few)
        patch.setattr(module, "Classical", partial(module.Classical, iterations=15))
        yield


BY_EPOCHS = ZeroShotOptions(minutes=None)


def play(file, out, options=BY_EPOCHS, say=lambda line: None, method="idr", **changes):
    return zero_shot(config_of(method, **changes), file, out, options, QUIET, say)


@pytest.fixture(scope="module")
def played(scan_file, quick_compressed_sensing, tmp_path_factory):
    out = tmp_path_factory.mktemp("played") / "out"
    return play(scan_file, out), out


@pytest.fixture(scope="module")
def taught(scan_file, quick_compressed_sensing, tmp_path_factory):
    """A run that has learned from another scan."""
    folder = tmp_path_factory.mktemp("taught")
    np.save(folder / "other.npy", np.load(scan_file)[::-1, :, ::-1])
    play(folder / "other.npy", folder / "out")
    return folder / "out" / "run"


def images(out):
    with h5py.File(out / "head.h5") as file:
        return np.asarray(file["reconstruction"])


def whole_scans(file):
    return list(config_of().preparation.scans(file))


def test_formats_that_are_none_are_told_before_any_work():
    for formats in ("nifti", ("nifty",)):
        with pytest.raises(SettingError, match=r"formats must be a list of .*nifti.*, got"):
            ZeroShotOptions(formats=formats)


def test_a_method_of_ones_own_is_learned_and_used(scan_file, tmp_path, monkeypatch):
    code = "from sansref.methods.idr import IDR\n\n\nclass Mine(IDR):\n    pass\n"
    (tmp_path / "own_method.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    first = play(scan_file, tmp_path / "out", method="own_method:Mine", stages=1, epochs=1)
    assert {"network", "mixture"} <= {row.label for row in first.scores}
    again = play(scan_file, tmp_path / "out", method="own_method:Mine", stages=1, epochs=1)
    assert again.images == first.images


# The three sets


def test_the_three_sets_are_disjoint_and_lie_outside_the_calibration(scan_file, played):
    _, out = played
    config = RunDirectory(out / "run").config()
    stored = PreparedScans(out / "scans")
    learned = WithoutHeldOut(stored, config.split.held_out, config.training.seed)
    for item, scan in enumerate(whole_scans(scan_file)):
        judging = judged_mask(scan, config.data_seed + 1)
        stopping = held_out_mask(stored[item], config.split.held_out, config.training.seed, item)
        loss = learned[item].mask
        assert torch.equal(stored[item].mask, scan.mask & ~judging)
        assert (judging.int() + stopping.int() + loss.int()).max() == 1
        assert torch.equal(judging | stopping | loss, scan.mask)
        side = scan.meta.calibration
        assert side >= 8
        assert not ((judging | stopping) & central_mask((32, 32), (side, side))).any()
        outside = scan.mask & ~central_mask((32, 32), (side, side))
        assert int(judging.sum()) == round(JUDGED * int(outside.sum()))
        assert not stored[item].kspace[:, judging].any()
        assert stored[item].reference is None


def test_whole_columns_of_a_column_mask_are_judged(scan_file):
    recipe = config_of(mask="random_columns", acceleration=1.6).preparation
    for scan in recipe.scans(scan_file):
        judging = judged_mask(scan, 1)
        assert judging.any()
        assert torch.equal(judging.all(0), judging.any(0))


def test_samples_for_judging_reach_nothing_before_the_choice(scan_file, played, tmp_path, monkeypatch):
    found, out = played
    original = Preparation.scans

    def falsified(self, *words):
        for scan in original(self, *words):
            judging = judged_mask(scan, 1)
            yield replace(scan, kspace=torch.where(judging, 7 * scan.kspace.conj() + 3, scan.kspace))

    monkeypatch.setattr(Preparation, "scans", falsified)
    other = play(scan_file, tmp_path / "out")
    for name in ("kspace", "maps", "mask"):
        bytes_of = [(folder / "scans" / name / "arrays.bin").read_bytes() for folder in (out, tmp_path / "out")]
        assert bytes_of[0] == bytes_of[1]
    ours, theirs = (load_file(folder / "run" / "model.safetensors") for folder in (out, tmp_path / "out"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    records = [json.loads((folder / "zeroshot.json").read_text()) for folder in (out, tmp_path / "out")]
    assert records[0]["classical"] == records[1]["classical"]
    assert records[0]["mixture"] == records[1]["mixture"]
    assert found.choice.errors != other.choice.errors


def test_coil_maps_and_scale_do_not_know_the_samples_for_judging(scan_file, tmp_path):
    kspace = np.load(scan_file)
    scans = whole_scans(scan_file)
    for item, scan in enumerate(scans):
        kspace[item] = np.where(judged_mask(scan, 1).numpy(), 5 + 2j, kspace[item])
    np.save(tmp_path / "head.npy", kspace)
    for before, after in zip(scans, whole_scans(tmp_path / "head.npy"), strict=True):
        judging = judged_mask(before, 1)
        assert torch.equal(judging, judged_mask(after, 1))
        assert torch.equal(before.maps, after.maps)
        assert before.meta.scale != after.meta.scale
        one, other = (scaled_without(scan, judging).restricted(~judging) for scan in (before, after))
        torch.testing.assert_close(one.kspace, other.kspace)
        assert one.meta.scale == pytest.approx(other.meta.scale, rel=1e-5)
        largest = float(zero_filled(replace(one, maps=None, kspace=one.kspace[:1]).batch()).abs().max())
        assert 0 < largest < 1


def test_the_reference_changes_neither_images_nor_choice(scan_file, played, tmp_path, monkeypatch):
    found, out = played
    original = Preparation.scans
    monkeypatch.setattr(
        Preparation, "scans", lambda self, *words: (scan.without_reference() for scan in original(self, *words))
    )
    other = play(scan_file, tmp_path / "out")
    assert found.choice == other.choice
    np.testing.assert_array_equal(images(out), images(tmp_path / "out"))
    assert [row.held_out for row in found.scores] == [row.held_out for row in other.scores]
    assert all(row.psnr > 0 and row.psnr_body > 0 for row in found.scores)
    assert all(math.isnan(row.psnr) and math.isnan(row.ssim_body) for row in other.scores)


# The choice

CS = {"L1-wavelet": [0.2, 0.4], "total variation": [0.3, 0.5]}


@pytest.mark.parametrize(
    ("learned", "chosen"),
    [
        ({NETWORK: [0.1, 0.3]}, NETWORK),
        ({NETWORK: [0.1, 0.3], MIXTURE: [0.09, 0.3]}, MIXTURE),
        ({NETWORK: [0.2, 0.4]}, "L1-wavelet"),  # equal
        ({NETWORK: [0.1, 0.45]}, "L1-wavelet"),  # better in the mean by 0.025, with a standard error of 0.075
        ({NETWORK: [0.3, 0.6]}, "L1-wavelet"),
        ({NETWORK: [math.nan, 0.1]}, "L1-wavelet"),
        ({NETWORK: [math.inf, 0.1], MIXTURE: [0.1, 0.3]}, MIXTURE),
        ({}, "L1-wavelet"),
    ],
)
def test_compressed_sensing_gives_way_only_to_what_is_surely_better(learned, chosen):
    errors = {"zero-filled": [0.01, 0.01], **CS, **learned}
    found = choose(errors, errors)
    assert found.label == chosen
    assert found.reason.startswith(("the network", "the mixture", "L1-wavelet"))


def test_a_single_judged_column_never_prefers_a_network():
    """Nothing tells how sure its difference is."""
    errors = {"zero-filled": [0.9], "total variation": [0.5], NETWORK: [0.1]}
    found = choose(errors, errors)
    assert found.label == "total variation"
    assert "a single column" in found.reason
    assert "inf" not in found.reason


def test_a_single_slice_is_judged_by_parts_of_its_samples(scan_file):
    config, (scan, *_) = config_of(), whole_scans(scan_file)
    held_out = HeldOut(JUDGED, 1, cache(config.sampling.family))
    errors = errors_in_parts(zero_filled, scan, held_out, 0, 4)
    assert len(errors) == 4
    assert math.isclose(np.mean(errors), held_out.score(zero_filled, scan, 0), rel_tol=0.1)


def test_without_wavelets_total_variation_is_chosen_from():
    errors = {"zero-filled": [0.9], "total variation": [0.3]}
    assert choose(errors, errors).label == "total variation"


def test_the_mixture_has_the_share_that_predicts_the_samples_for_stopping_best(scan_file):
    config = config_of()
    scans = whole_scans(scan_file)
    held_out = HeldOut(0.1, 0, cache(config.sampling.family))

    def one(given):
        return 1.2 * zero_filled(given)

    def other(given):
        return zero_filled(given).roll(1, -1)

    share = mixing_weight(one, other, scans, held_out, range(2))

    def error(part):
        total = 0.0
        for item, scan in enumerate(scans):
            mask = held_out_mask(scan, 0.1, 0, item)
            given, density = scan.restricted(~mask).batch(), held_out.family(True).density(scan.mask)
            image = part * one(given) + (1 - part) * other(given)
            total += float(held_out_error(image, scan.kspace[None], mask[None], given.maps, density))
        return total

    assert 0 < share <= 1
    assert error(share) == pytest.approx(min(error(part) for part in np.linspace(0, 1, 101)), rel=1e-3)
    assert mixing_weight(one, one, scans, held_out, range(2)) == 0


@pytest.mark.parametrize("image", [0.0, 10.0, 1j])
def test_a_broken_network_never_wins(scan_file, tmp_path, monkeypatch, image):
    monkeypatch.setattr(UnrolledMethod, "reconstruct", lambda self, given: torch.full_like(zero_filled(given), image))
    found = play(scan_file, tmp_path / "out", epochs=1)
    assert found.choice.label in ("L1-wavelet", "total variation")
    assert found.choice.errors[NETWORK] > 2 * found.choice.errors[found.choice.label]


def test_a_training_that_fails_leaves_compressed_sensing(scan_file, tmp_path, monkeypatch):
    monkeypatch.setattr(
        UnrolledMethod, "reconstruct", lambda self, given: torch.full_like(zero_filled(given), math.nan)
    )
    said = []
    found = play(scan_file, tmp_path / "out", say=said.append)
    assert found.choice.label in ("L1-wavelet", "total variation")
    assert any(line.startswith("training failed: ") for line in said)
    assert play(scan_file, tmp_path / "out").choice == found.choice


# Files


def test_images_scores_record_and_page_are_written(scan_file, played):
    found, out = played
    expected = ".sansref best.png head.h5 log.txt maps.png reconstructions.png report.html run scans scores.csv"
    assert sorted(path.name for path in out.iterdir()) == [*expected.split(), "zeroshot.json", "zeroshot.lock"]
    assert not out.with_name(f"{out.name}.lock").exists()  # nothing is written beside --out
    assert found.images == (out / "head.h5",)
    assert images(out).shape == (2, 32, 32)
    rows = read_scores(out / "scores.csv")
    assert [(row.label, row.slice) for row in rows if row.label != "chosen"] == [
        (label, item) for item in range(2) for label in LABELS
    ]
    chosen = [replace(row, label=found.choice.label) for row in rows if row.label == "chosen"]
    assert list(map(repr, chosen)) == [repr(row) for row in rows if row.label == found.choice.label]
    assert all(row.seconds > 0 and row.held_out > 0 for row in rows)
    with (out / "scores.csv").open() as file:
        assert next(csv.reader(file))[-4:] == ["seconds", "risk", "noise_kept", "structure_lost"]
    record = json.loads((out / "zeroshot.json").read_text())
    assert record["choice"]["label"] == found.choice.label
    assert sum(record["mixture"].values()) == pytest.approx(1)
    assert set(record["classical"]) == {"l1_wavelet", "total_variation"}
    assert record["seeds"] == {"judging": 1, "stopping": 0}
    page = (out / "report.html").read_text()
    for words in (found.choice.reason[1:], "seconds of training", "No more is promised", "head.npy"):
        assert words in page


def test_errors_are_those_on_the_samples_for_judging(scan_file, played):
    found, _ = played
    for item, scan in enumerate(whole_scans(scan_file)):
        judging = judged_mask(scan, 1)
        given = scan.restricted(~judging).batch()
        density = config_of().sampling.family(True).density(scan.mask)
        error = held_out_error(zero_filled(given), scan.kspace[None], judging[None], given.maps, density)
        (row,) = [row for row in found.scores if (row.label, row.slice) == ("zero-filled", item)]
        assert row.held_out == pytest.approx(float(error), rel=1e-4)


def test_final_images_are_of_all_samples(scan_file, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "choose", lambda errors, parts: module.Choice("zero-filled", "x", {}))
    play(scan_file, tmp_path / "out", epochs=1)
    expected = [zero_filled(scan.batch())[0].abs() * scan.meta.scale for scan in whole_scans(scan_file)]
    np.testing.assert_allclose(images(tmp_path / "out"), torch.stack(expected).numpy(), rtol=1e-4, atol=1e-5)


def test_slices_limit_what_is_learned_and_judged_and_not_what_is_written(scan_file, tmp_path):
    found = play(scan_file, tmp_path / "out", epochs=1, slices=1)
    assert {row.slice for row in found.scores} == {1}
    assert len(PreparedScans(tmp_path / "out" / "scans")) == 1
    assert images(tmp_path / "out").any((1, 2)).all()


def test_a_scan_that_came_undersampled_keeps_its_mask(scan_file, tmp_path):
    kspace = np.load(scan_file)
    mask = whole_scans(scan_file)[0].mask.numpy()
    np.save(tmp_path / "head.npy", kspace * mask)
    said = []
    found = play(tmp_path / "head.npy", tmp_path / "out", say=said.append, epochs=1, snr=10.0, plane="axial")
    assert found.scores[0].acceleration == pytest.approx(mask.size / mask.sum())
    assert all(math.isnan(row.psnr) for row in found.scores)
    assert said[:3] == [
        "--plane: no effect, only image volumes are cut in another plane",
        "--acceleration, --center: no effect, undersampled scans keep their own masks",
        "--snr: no effect, the k-space was measured",
    ]


def test_a_mask_file_has_its_own_acceleration(scan_file, tmp_path):
    np.save(tmp_path / "mask.npy", whole_scans(scan_file)[0].mask.numpy())
    said = []
    play(scan_file, tmp_path / "out", say=said.append, epochs=1, stages=1, mask=str(tmp_path / "mask.npy"))
    assert said[0].endswith("is fully sampled: it is undersampled first, mask file mask.npy (--mask)")
    assert "--acceleration, --center: no effect, a mask file is taken as it is" in said


def test_error_maps_hold_out_what_the_network_has_not_seen(scan_file, tmp_path, monkeypatch):
    seen, original = [], module.MappedFile.slices

    def watched(self, reconstruct, scans, family, unseen):
        scans = list(scans)
        seen.extend((scan, unseen(scan)) for scan in scans)
        return original(self, reconstruct, scans, family, unseen)

    monkeypatch.setattr(module.MappedFile, "slices", watched)
    for name, learned in ((NETWORK, True), ("L1-wavelet", False)):
        choice = module.Choice(name, f"the {name} was chosen", {})
        monkeypatch.setattr(module, "choose", lambda errors, parts, choice=choice: choice)
        seen.clear()
        options = ZeroShotOptions(minutes=None, error_map=ErrorMapOptions(0.8, replicates=1, folds=4))
        found = play(scan_file, tmp_path / name, options, epochs=1, stages=1, kernel=4)
        assert [path.name for path in found.images] == ["head.h5", "head_error_maps.json"]
        assert all(path.exists() for path in found.images)
        assert len(seen) == 2
        for scan, unseen in seen:
            assert torch.equal(unseen, judged_mask(scan, 1)) if learned else unseen is None
        page = (tmp_path / name / "report.html").read_text()
        assert "the scan contradicts, red: added signal" in page
        assert "Neither map can see" in page
        with h5py.File(tmp_path / name / "head.h5") as stored:
            assert set(stored) == {"reconstruction", "error_bound", "contradiction"}
        assert play(scan_file, tmp_path / name, options, epochs=1, stages=1, kernel=4).images == found.images
    with pytest.raises(SettingError, match=r"--error_map cannot be combined with --map_sets 2"):
        play(scan_file, tmp_path / "sets", options, map_sets=2)
    assert not (tmp_path / "sets").exists()


def test_other_formats_and_maps_need_no_other_training(scan_file, tmp_path, monkeypatch):
    out = tmp_path / "out"
    first = play(scan_file, out, epochs=1, stages=1)
    assert "Neither map can see" not in (out / "report.html").read_text()
    weights = (out / "run" / "model.safetensors").read_bytes()
    monkeypatch.setattr(module, "learn", None)
    more = play(scan_file, out, ZeroShotOptions(minutes=None, formats=("source", "png")), epochs=1, stages=1)
    assert more.choice == first.choice
    assert len(more.images) == 3
    few = ErrorMapOptions(replicates=1, folds=4)
    mapped = play(scan_file, out, ZeroShotOptions(minutes=None, error_map=few), epochs=1, stages=1)
    assert all(path.exists() for path in mapped.images)
    assert (out / "run" / "model.safetensors").read_bytes() == weights
    again = play(scan_file, out, ZeroShotOptions(minutes=None, error_map=few), epochs=1, stages=1)
    assert again.images == mapped.images


def test_another_bound_is_not_answered_by_the_maps_of_the_first(scan_file, tmp_path, monkeypatch):
    out = tmp_path / "out"
    few = ErrorMapOptions(0.9, replicates=1, folds=4)
    play(scan_file, out, ZeroShotOptions(minutes=None, error_map=few), epochs=1, stages=1)
    with h5py.File(out / "head.h5") as file:
        wide = file["error_bound"][()]
    monkeypatch.setattr(module, "learn", None)
    play(scan_file, out, ZeroShotOptions(minutes=None, error_map=replace(few, bound=0.5)), epochs=1, stages=1)
    with h5py.File(out / "head.h5") as file:
        assert (file["error_bound"][()] < wide)[wide > 0].all()
    assert json.loads((out / "head_error_maps.json").read_text())["bound"] == 0.5
    play(scan_file, out, epochs=1, stages=1)
    assert "Neither map can see" not in (out / "report.html").read_text()


def test_the_run_knows_what_it_has_learned_from(scan_file, played, tmp_path):
    run = RunDirectory(played[1] / "run")
    reader = open_scan_file(scan_file, config_of().slices.reader_options)
    assert learned_subjects(run, [reader.describe(scan_file)]) == {"head"}
    with pytest.raises(SettingError, match="has already learned from this scan"):
        play(scan_file, tmp_path / "out", ZeroShotOptions(minutes=None, start=run.path))
    assert not (tmp_path / "out").exists()


def test_images_are_written_where_maps_are_impossible(tmp_path):
    kspace = fft2c(noise(4, 32, 48, dtype=torch.complex64)) * torch.linspace(1, 2, 4)[:, None, None]
    kept = torch.zeros(48, dtype=torch.bool)
    kept[16:32] = kept[::4] = True
    path = tmp_path / "columns.npy"
    np.save(path, (kspace * kept)[None].numpy())
    said = []
    options = ZeroShotOptions(minutes=None, error_map=ErrorMapOptions())
    choice = module.Choice(NETWORK, "the network was chosen", {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "choose", lambda errors, parts: choice)
        found = play(path, tmp_path / "out", options, said.append, epochs=1, stages=1, **{"coils.crop": 0.0})
    assert [path.name for path in found.images] == ["columns.h5"]
    assert any("no error maps: " in line and "too few samples" in line for line in said)


def test_whole_rows_that_are_left_out_are_warned_of_and_have_no_error_maps(tmp_path):
    kept = torch.zeros(48, 1, dtype=torch.bool)
    kept[16:32] = kept[::3] = True
    np.save(tmp_path / "rows.npy", (fft2c(noise(1, 1, 48, 40, dtype=torch.complex64)) * kept).numpy())
    said = []
    options = ZeroShotOptions(minutes=None, error_map=ErrorMapOptions())
    play(
        tmp_path / "rows.npy", tmp_path / "out", options, said.append, epochs=1, stages=1, axes="slice,coil,row,column"
    )
    assert any(line.startswith("warning: ") and "as --axes column,row does" in line for line in said)
    assert any(line.startswith("no error maps: ") and "leaves out whole rows" in line for line in said)


@pytest.mark.parametrize(
    "damage",
    [
        *({"choice": 5}, {"choice": {"label": "x"}}, {"settings": 3}, {"before": "x"}),
        *({"classical": 3}, {"classical": {}}, {"classical": {"x": {"regularisation": 1, "stopping": 1}}}),
        *(
            {"classical": {"l1_wavelet": {"regularisation": "x", "stopping": 0.1}}},
            {"non_local_means": "x"},
            {"mixture": 3},
        ),
    ],
)
def test_a_damaged_record_is_one_line(scan_file, played, tmp_path, damage):
    copy = tmp_path / "out"
    shutil.copytree(played[1], copy)
    record = json.loads((copy / "zeroshot.json").read_text())
    (copy / "zeroshot.json").write_text(json.dumps(record | damage))
    with pytest.raises(FileError, match=r"zeroshot.json: is not a record that this version can continue"):
        play(scan_file, copy)


def test_two_sets_of_maps_give_an_image_of_the_scans_size(scan_file, tmp_path):
    found = play(scan_file, tmp_path / "out", map_sets=2, epochs=1, stages=1)
    assert images(tmp_path / "out").shape == (2, 32, 32)
    assert all(row.psnr > 20 for row in found.scores if row.label == "chosen")


def test_what_has_ended_ends_at_once(scan_file, played, tmp_path, monkeypatch):
    found, out = played
    copy = tmp_path / "out"
    shutil.copytree(out, copy)
    monkeypatch.setattr(module, "learn", lambda *words, **names: pytest.fail("trained again"))
    monkeypatch.setattr(Scorer, "score", lambda *words: pytest.fail("judged again"))
    again = play(scan_file, copy)
    assert again.choice == found.choice
    assert list(map(repr, again.scores)) == list(map(repr, found.scores))


def test_lost_images_are_written_again(scan_file, played, tmp_path):
    _, out = played
    copy = tmp_path / "out"
    shutil.copytree(out, copy)
    (copy / "head.h5").unlink()
    play(scan_file, copy)
    np.testing.assert_array_equal(images(copy), images(out))


def test_the_same_without_pywavelets(scan_file, tmp_path, monkeypatch):
    def missing():
        raise SettingError("l1_wavelet needs PyWavelets")

    monkeypatch.setattr(regularisation, "pywavelets", missing)
    found = play(scan_file, tmp_path / "out", epochs=1)
    assert "L1-wavelet" not in found.choice.errors
    assert images(tmp_path / "out").any()


# Training


def test_the_budget_gives_the_number_of_epochs(scan_file, played, monkeypatch):
    scans = PreparedScans(played[1] / "scans")
    cost = module.tried(config_of(), config_of().build(), scans[0], 1)
    monkeypatch.setattr(module, "tried", lambda *words: replace(cost, step=0.5, reconstruction=0.25))
    config = with_budget(config_of(repeats=1, stages=4), scans, 90)  # epochs of 8 steps and 2 reconstructions: 4.5 s
    assert (config.training.repeats, config.training.epochs, config.options.stages) == (4, 7, 3)
    assert config.training.minutes == pytest.approx(1.25 * 1.5)
    config = with_budget(config_of(repeats=1, stages=4), scans, 10)
    assert (config.training.repeats, config.training.epochs, config.options.stages) == (4, 2, 1)
    config = with_budget(config_of(repeats=1, stages=4), scans, 1)
    assert (config.training.epochs, config.options.stages) == (1, 1)


def test_a_budget_is_measured_once(scan_file, tmp_path, monkeypatch):
    counted = []
    original = module.with_budget
    monkeypatch.setattr(module, "with_budget", lambda *words: counted.append(1) or original(*words))
    monkeypatch.setattr(Loop, "score", interrupted_at(Loop.score, 2))
    options = ZeroShotOptions(minutes=0.02)
    play(scan_file, tmp_path / "out", options)
    epochs = RunDirectory(tmp_path / "out" / "run").config().training.epochs
    (tmp_path / "out" / "head.h5").unlink()
    play(scan_file, tmp_path / "out", options)
    assert counted == [1]
    assert RunDirectory(tmp_path / "out" / "run").config().training.epochs == epochs


def interrupted_at(original, *calls):
    counted = []

    def act(*words):
        counted.append(1)
        if len(counted) in calls:
            raise KeyboardInterrupt
        return original(*words)

    return act


def test_an_interrupt_keeps_the_best_weights_and_goes_on(scan_file, tmp_path, monkeypatch):
    monkeypatch.setattr(Loop, "train", interrupted_at(Loop.train, 3))
    said, out = [], tmp_path / "out"
    found = play(scan_file, out, say=said.append)
    assert "training ended; press Ctrl-C again to stop before the images are made" in said
    assert "the best weights so far are used" in said
    assert NETWORK in found.choice.errors
    run = RunDirectory(out / "run")
    assert run.finished
    kept = load_file(run.path / "stages" / "00" / "best.safetensors")
    assert all(torch.equal(value, kept[name]) for name, value in load_file(run.weights).items())
    assert play(scan_file, out).choice == found.choice


def test_a_second_interrupt_stops_and_the_same_command_goes_on(scan_file, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "train", interrupted_at(Loop.train, 2))
        patch.setattr(Scorer, "score", interrupted_at(Scorer.score, 1))
        with pytest.raises(KeyboardInterrupt):
            play(scan_file, out)
    assert not (out / "head.h5").exists()
    assert NETWORK in play(scan_file, out).choice.errors
    assert images(out).any()


def test_an_interrupt_before_the_first_epoch_leaves_compressed_sensing(scan_file, tmp_path, monkeypatch):
    monkeypatch.setattr(Loop, "train", interrupted_at(Loop.train, 1))
    said = []
    found = play(scan_file, tmp_path / "out", say=said.append)
    assert "no epoch was completed: only compressed sensing is left" in said
    assert NETWORK not in found.choice.errors
    assert found.choice.reason.endswith("no network was trained")
    monkeypatch.undo()
    assert NETWORK in play(scan_file, tmp_path / "out").choice.errors  # the same command trains after all


def test_training_begins_with_the_weights_of_another_run(scan_file, taught, tmp_path, monkeypatch):
    start = taught
    begun = []
    original = Loop.train

    def watched(self, *words):
        begun.append({name: value.clone() for name, value in self.method.state_dict().items()})
        return original(self, *words)

    monkeypatch.setattr(Loop, "train", watched)
    options = ZeroShotOptions(minutes=None, start=start)
    found = play(scan_file, tmp_path / "out", options, epochs=1, stages=1)
    weights = load_file(RunDirectory(start).weights)
    assert all(torch.equal(value, weights[name]) for name, value in begun[0].items())
    assert set(found.choice.errors) == {*LABELS, "start"}
    record = json.loads((tmp_path / "out" / "zeroshot.json").read_text())
    assert 0 < record["before"] < 2
    with pytest.raises(SettingError, match=r"has a different network \(network.channels 2\).* or --start none"):
        play(scan_file, tmp_path / "other", options, **{"network.channels": 3})
    with pytest.raises(FileError, match="is not a run directory"):
        play(scan_file, tmp_path / "other", ZeroShotOptions(start=tmp_path), epochs=1)


def test_the_start_alone_is_chosen_where_it_predicts_best(scan_file, taught, tmp_path, monkeypatch):
    original = module.choose

    def kindly(errors, parts):
        kind = {label: [0.1 if label == "start" else 0.2 for _ in found] for label, found in errors.items()}
        return original(kind, kind)

    monkeypatch.setattr(module, "choose", kindly)
    start = RunDirectory(taught)
    found = play(scan_file, tmp_path / "out", ZeroShotOptions(minutes=None, start=start.path), epochs=1, stages=1)
    assert found.choice.label == "start"
    (scan, *_) = whole_scans(scan_file)
    expected = start.load().reconstruct(scaled_without(scan, judged_mask(scan, 1)).batch()).abs()
    seen = (scan.maps != 0).any(0)
    image = images(tmp_path / "out")[0]
    torch.testing.assert_close(
        torch.from_numpy(image / image.max())[seen], (expected[0] / expected[0][seen].max()).detach()[seen]
    )


def test_the_shipped_start_fits_the_defaults_and_is_small(tmp_path):
    config = RunConfig.from_values({"method": "idr"}).changed(**module.DEFAULTS)
    for name in ("auto", "shipped"):
        assert start_of(name, config).path == module.SHIPPED
    assert start_of("none", config) is None
    assert start_of("auto", config.changed(**{"network.channels": 8})) is None
    with pytest.raises(SettingError, match="the start shipped has a different network"):
        start_of("shipped", config.changed(**{"network.channels": 8}))
    files = [path for path in module.SHIPPED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 3e6
    card = (module.SHIPPED / "README.md").read_text()
    for word in ("ds000011", "PDDL", "ds002748", "CC0", "sansref train", "held-out error"):
        assert word in card


def test_the_shipped_start_is_better_than_its_input_on_a_scan_it_has_not_seen():
    image = resized_image(example_image(), Slices(matrix=(96, 96)))
    full = simulate(image, Simulation(coils=4), seeded(0, "start"), ScanMeta("s1045", "s1045", synthetic=True))
    scan = scaled(Sampling(acceleration=4).undersample(full, seeded(0, "mask")))
    truth = scan.reference.abs()
    with torch.inference_mode():
        found = RunDirectory(module.SHIPPED).load().reconstruct(scan.batch())[0].abs()
    assert nmse(found, truth) < 0.25 * nmse(zero_filled(scan.batch())[0].abs(), truth)


def test_the_picture_of_the_best_image_is_drawn_anew_when_the_network_is_better(scan_file, played, tmp_path):
    out = played[1]
    scan = next(iter(PreparedScans(out / "scans")))
    picture, rows = tmp_path / "best.png", read_history(out / "run" / "metrics.csv")
    first = {key: float(value) for key, value in rows[0].items()}
    watcher = module._BestPicture(RunDirectory(out / "run"), scan, picture, first["score"])
    watcher.add(0, first)
    assert not picture.exists()  # it is not better than what is there
    watcher.add(1, {**first, "score": 0.9 * first["score"]})
    drawn = picture.read_bytes()
    picture.unlink()
    watcher.add(2, {**first, "score": 0.8 * first["score"]})
    assert drawn and not picture.exists()  # not all the time


# Messages


def test_other_settings_and_another_scan_need_another_folder(scan_file, played, tmp_path):
    _, out = played
    with pytest.raises(SettingError, match=r"other settings \(training.seed 0 -> 1\): choose another --out"):
        play(scan_file, out, seed=1)
    with pytest.raises(SettingError, match="minutes None -> 3"):
        play(scan_file, out, ZeroShotOptions(minutes=3))
    copy = tmp_path / "head.npy"
    shutil.copyfile(scan_file, copy)
    play(copy, tmp_path / "out", epochs=1, stages=1)
    np.save(copy, 2 * np.load(scan_file))
    with pytest.raises(FileError, match=r"head.npy: has changed since"):
        play(copy, tmp_path / "out", epochs=1, stages=1)
    with pytest.raises(FileError, match=r"head.npy: has changed since"):
        play(copy, tmp_path / "out", replace(BY_EPOCHS, formats=("png",)), epochs=1, stages=1)


@pytest.mark.parametrize("broken", ["store_scans", "choose_regularisation"])
def test_other_settings_are_none_where_nothing_came_of_the_first(scan_file, tmp_path, monkeypatch, broken):
    """A cure that an error names can be followed in the same folder."""
    module = "sansref.commands.zero_shot"
    with monkeypatch.context() as patch:
        patch.setattr(f"{module}.{broken}", lambda *_, **__: (_ for _ in ()).throw(FileError(scan_file, "no", "Cure")))
        with pytest.raises(FileError, match="no"):
            play(scan_file, tmp_path / "out", epochs=1, stages=1)
    found = play(scan_file, tmp_path / "out", epochs=1, stages=1, acceleration=3.0)
    again = play(scan_file, tmp_path / "new", epochs=1, stages=1, acceleration=3.0)
    assert found.images[0].read_bytes() == again.images[0].read_bytes()


def test_foreign_files_are_safe(scan_file, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    with pytest.raises(SettingError, match="is not empty"):
        play(scan_file, tmp_path / "out")
    with pytest.raises(SettingError, match="holds"):
        play(scan_file, scan_file.parent)
    assert sorted(path.name for path in scan_file.parent.iterdir()) == ["head.npy"]


@pytest.mark.parametrize(
    ("method", "changes", "said"),
    [
        ("supervised", {}, "method 'supervised' cannot learn from one undersampled scan"),
        ("idr", {"devices": 2}, "one scan is learned by a single process"),
        ("ssdu", {"keep": "last"}, "leave out --keep last"),
        ("idr", {"training.score": "reference"}, "--score reference"),
        ("idr", {"precision": "16-mixed"}, "precision '16-mixed' needs a GPU"),
        ("idr", {"accelerator": "abacus"}, "accelerator 'abacus'"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_written(scan_file, tmp_path, method, changes, said):
    with pytest.raises(SettingError, match=said):
        play(scan_file, tmp_path / "out", method=method, **changes)
    assert not (tmp_path / "out").exists()


def test_minutes_must_be_positive():
    with pytest.raises(SettingError, match="minutes must be positive, and at most 100000, got 0"):
        ZeroShotOptions(minutes=0)


# Command line, Python, page

WORDS = [
    *("--axes", "slice,coil,row,column", "--acceleration", "2", "--center", "0.3", "--coils.kernel", "4"),
    *("--stages", "2", "--epochs", "2", "--repeats", "2", "--threads", "1", "--accelerator", "cpu"),
    *("--network.phases", "1", "--network.channels", "2", "--network.layers", "2", "--network.cg_steps", "1"),
    *("--minutes", "null"),
]


def test_the_command_and_python_give_the_same(scan_file, played, tmp_path, capsys):
    main(["zeroshot", str(scan_file), "--out", str(tmp_path / "command"), *WORDS])
    out = capsys.readouterr().out
    for words in ("is fully sampled: it is undersampled first", "first image (compressed sensing)"):
        assert words in out
    for words in ("L1-wavelet: error on stopping samples", "was chosen: ", "head.h5, by "):
        assert words in out
    np.testing.assert_array_equal(images(tmp_path / "command"), images(played[1]))
    found = package.zero_shot(scan_file, tmp_path / "python", minutes=None, quiet=True, **SETTINGS)
    assert found.choice == played[0].choice


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere.h5", "--out", "x"], "nowhere.h5: does not exist"),
        (["{file}"], "--out"),
        (["{file}", "--out", "x", "--method", "idrr"], "there is no method 'idrr'"),
        (["{file}", "--out", "x", "--start", "nowhere"], "nowhere: is not a run directory"),
        (["{file}", "--out", "x", "--minutes", "-1"], "minutes must be positive"),
        (["{file}", "--out", "x", "--stages", "2", "--method", "ssdu"], "stages"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(scan_file, sansref, words, said):
    code, out, err = sansref("zeroshot", *(word.format(file=scan_file) for word in words))
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert said in err


def test_a_folder_of_one_scan_stands_for_it(scan_file, tmp_path, monkeypatch):
    monkeypatch.setattr(module._Work, "_found", lambda self: self.file)
    folder = tmp_path / "series"
    folder.mkdir()
    shutil.copy(scan_file, folder)
    assert play(folder, tmp_path / "out") == folder / scan_file.name
    shutil.copy(scan_file, folder / "other.npy")
    with pytest.raises(FileError, match=r"series: holds 2 scans, not one\. Give one of them, such as .*head\.npy\."):
        play(folder, tmp_path / "out")


def test_the_help_is_short_unless_all_is_wanted(sansref):
    _, short, _ = sansref("zeroshot", "--help")
    _, long, _ = sansref("zeroshot", "--help", "all")
    for option in ("--minutes", "--start", "--format", "--acceleration", "--stages"):
        assert f"  {option}" in short
    assert short.count("\n  --") < 25 < 60 < long.count("\n  --")
    assert "--network.cg_steps" in long
    assert "--network.cg_steps" not in short


@pytest.mark.slow
def test_the_page_has_no_errors_in_the_browser(played):
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("needs Chromium and chromedriver on the path")
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.support.ui import WebDriverWait

    options = ChromeOptions()
    options.binary_location = shutil.which("chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"):
        options.add_argument(f"--{flag}")
    driver = Chrome(options, Service(shutil.which("chromedriver")))
    try:
        driver.get((played[1] / "report.html").as_uri())
        ready = "return document.querySelectorAll('#curves svg').length"
        WebDriverWait(driver, 20, 0.1).until(lambda _: driver.execute_script(ready))
        text = driver.execute_script("return document.querySelector('#curves').textContent")
        assert "seconds of training" in text
        names = "return [...document.querySelectorAll('#left option')].map((one) => one.textContent)"
        chosen = played[0].choice.label  # what the page opens with
        others = [label for label in LABELS if label != chosen]
        assert driver.execute_script(names)[: len(LABELS) + 1] == ["reference", chosen, *others]
        assert driver.get_log("browser") == []
    finally:
        driver.quit()


# Noise


@pytest.fixture(scope="module")
def noisy_file(tmp_path_factory):
    """One slice of one coil, fully sampled, at an SNR of about 10; and its image without noise."""
    image = ifft2c(center_crop(fft2c(example_image()), (64, 64))).abs()
    scan = simulate(image / image.max(), Simulation(snr=10.0), seeded("noisy"), ScanMeta("a", "b"))
    path = tmp_path_factory.mktemp("noisy") / "head.npy"
    np.save(path, scan.kspace[None].numpy())
    return path, scan.reference.abs().numpy()


@pytest.fixture(scope="module")
def cleaned(noisy_file, quick_compressed_sensing, tmp_path_factory):
    out, said = tmp_path_factory.mktemp("cleaned") / "out", []
    formats = ZeroShotOptions(minutes=None, formats=("hdf5", "nifti"))
    found = play(noisy_file[0], out, formats, said.append, denoise=True, acceleration=1)
    return found, out, said


def test_a_full_scan_is_denoised_as_it_is_and_both_images_are_written(noisy_file, cleaned):
    found, out, said = cleaned
    names = ["head.h5", "head_recon.nii.gz", "head_denoised.h5", "head_denoised_recon.nii.gz"]
    assert [path.name for path in found.images] == names
    hard, clean = (np.asarray(h5py.File(out / name)["reconstruction"][0]) for name in (names[0], names[2]))
    np.testing.assert_allclose(hard, ifft2c(torch.from_numpy(np.load(noisy_file[0])))[0, 0].abs().numpy(), atol=1e-4)
    truth = noisy_file[1]
    assert np.linalg.norm(clean - truth) < 0.8 * np.linalg.norm(hard - truth)
    told = [nibabel.load(out / name).header["descrip"].item().decode() for name in (names[1], names[3])]
    assert told[0] == "RESEARCH USE ONLY, sansref. The acquired samples are kept as they were measured"
    assert told[1].startswith("RESEARCH USE ONLY, sansref. Noise was taken out by")
    assert any(line.startswith("noise kept") for line in said)
    assert not any("a part of it is taken" in line for line in said)


def test_the_noise_alone_chooses_at_1x(cleaned):
    found, out, _ = cleaned
    assert "by SURE" in found.choice.reason
    assert {"as measured", "non-local means", "total variation"} <= found.choice.errors.keys()
    assert found.choice.errors["as measured"] == pytest.approx(1.0, abs=0.15)
    assert found.choice.errors[found.choice.label] < 0.8
    rows = {row.label: row for row in found.scores}
    assert math.isnan(rows["non-local means"].held_out)
    assert rows["as measured"].risk == pytest.approx(1.0, abs=0.1)
    assert rows["non-local means"].noise_kept + rows["non-local means"].structure_lost == pytest.approx(
        rows["non-local means"].risk, abs=1e-6
    )
    assert math.isnan(rows["as measured"].psnr)  # a noisy scan is no reference
    assert "structure lost" in (out / "report.html").read_text()


def test_the_network_never_sees_the_scan_without_the_noise_that_judges_it(noisy_file, cleaned):
    _, out, _ = cleaned
    learned = PreparedScans(out / "scans")[0]
    whole = torch.from_numpy(np.load(noisy_file[0]))[0] / learned.meta.scale
    assert learned.mask.all()
    added = (learned.kspace - whole).abs().square().mean() / 2
    level = learned.meta.noise[0] / (1 + ADDED**2) ** 0.5
    assert float(added.sqrt()) == pytest.approx(ADDED * level, rel=0.1)


def test_the_same_command_gives_what_was_denoised_at_once(noisy_file, cleaned):
    found, out, _ = cleaned
    formats = ZeroShotOptions(minutes=None, formats=("hdf5", "nifti"))
    again = play(noisy_file[0], out, formats, denoise=True, acceleration=1)
    assert again.choice == found.choice
    assert again.images == found.images


def test_an_undersampled_scan_is_judged_by_both(noisy_file, tmp_path):
    found = play(noisy_file[0], tmp_path / "out", denoise=True, acceleration=2)
    assert "by SURE and the samples for judging" in found.choice.reason
    assert [path.name for path in found.images] == ["head.h5", "head_denoised.h5"]
    assert "non-local means" not in found.choice.errors


def test_a_scan_without_noise_cannot_be_denoised(tmp_path):
    np.save(tmp_path / "still.npy", np.pad(np.ones((1, 1, 2, 2), np.complex64), ((0, 0), (0, 0), (31, 31), (31, 31))))
    with pytest.raises(FileError, match=r"still\.npy: (shows no noise|.*)"):
        play(tmp_path / "still.npy", tmp_path / "out", denoise=True, acceleration=1)


def test_a_noisy_full_scan_that_is_undersampled_is_told_what_denoising_would_be_worth(noisy_file, tmp_path):
    said = []
    play(noisy_file[0], tmp_path / "out", say=said.append)
    assert any(line.startswith("denoising is worth it, by SURE") for line in said)
