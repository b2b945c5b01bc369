from __future__ import annotations

import csv
import json
import math
import shutil
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch

from sansref import errors
from sansref.commands.compare import cells
from sansref.commands.compare import cells as attempt
from sansref.commands.compare import cells as choice
from sansref.commands.compare import compare as module
from sansref.commands.compare.cells import is_trained, reconstruction_of, scorer_of
from sansref.commands.compare.compare import compare
from sansref.commands.compare.plan import load_plan
from sansref.commands.compare.workplace import Workplace
from sansref.commands.options import PerceptualOptions
from sansref.data.prepare import Preparation
from sansref.data.scan_store import PreparedScans
from sansref.errors import FileError, SansrefError, SettingError
from sansref.methods.registry import METHODS
from sansref.metrics.quality import psnr
from sansref.results.scorer import zero_filled
from sansref.results.scores import METRICS, PROOF, read_scores
from sansref.settings import merged

pytestmark = pytest.mark.slow

TWO = {4.0: {}, 6.0: {}}
UNTRAINED = {
    "methods": {"Input": {"method": "zero_filled"}, "TV": {"method": "total_variation"}},
    "baseline": "Input",
    "gap": None,
}


@pytest.fixture(scope="module")
def finished(tiny_plan, heads, tmp_path_factory):
    """A finished comparison; tests do not change it."""
    from rich.console import Console

    place = Workplace(tiny_plan(accelerations=TWO), heads, None, tmp_path_factory.mktemp("finished"))
    return place, compare(place, console=Console(quiet=True))


def copy(finished, tmp_path):
    place, _ = finished
    shutil.copytree(place.out, tmp_path / "copy")
    return Workplace(place.plan, place.data, place.full, tmp_path / "copy")


def test_everything_comes_out(finished):
    place, found = finished
    names = {path.name for path in place.out.iterdir()}
    assert {"cells", "test", "figures", "report.html", "table.md", "table.tex", "table.csv", "scores.csv"} <= names
    pictures = {path.name for path in (place.out / "figures").iterdir()}
    wanted = [f"errors-{a}-{which}" for a in ("4x", "6x") for which in ("worst-1", "median")]
    wanted += [f"{metric}-{a}" for a in ("4x", "6x") for metric in METRICS if metric not in ("lpips", *PROOF)]
    wanted += ["training-4x", "training-6x"]
    assert pictures == {f"{name}.{kind}" for name in wanted for kind in ("png", "svg")}
    assert found.missing == ""
    report = (place.out / "report.html").read_text()
    for label in place.plan.methods:
        assert label in report
        assert label in (place.out / "table.md").read_text()
    assert "Small &amp; quick" in report


def test_all_methods_are_scored_on_the_same_slices_of_test_subjects(finished):
    place, _ = finished
    rows = read_scores(place.out / "scores.csv")
    slices = defaultdict(list)
    for row in rows:
        slices[row.label, row.acceleration].append((row.subject, row.slice))
    assert slices.keys() == {(label, acceleration) for label in place.plan.methods for acceleration in TWO}
    (scored,) = {tuple(found) for found in slices.values()}
    for cell in place.plan.cells:
        if cell.learned:
            parts = place.run_of(cell).subjects()
            assert {subject for subject, _ in scored} == set(parts["test"])
            assert not set(parts["test"]) & {*parts["training"], *parts["validation"]}


def test_scores_are_those_of_the_reconstructions(finished):
    place, _ = finished
    rows = read_scores(place.out / "scores.csv")
    cell = next(cell for cell in place.plan.cells if cell.label == "IDR" and cell.acceleration == 6)
    own = [row for row in rows if (row.label, row.acceleration) == ("IDR", 6)]
    scan = place.test_scans(cell)[1]
    with torch.inference_mode():
        image = reconstruction_of(place, cell)(scan.batch())[0].abs()
    truth = scan.reference.abs()
    assert own[1].psnr == pytest.approx(float(psnr(image, truth, float(truth.max()))))


def test_masks_are_kept_with_their_hash(finished):
    place, _ = finished
    record = json.loads((place.out / "test" / "4x-fold0.json").read_text())
    other = json.loads((place.out / "test" / "6x-fold0.json").read_text())
    assert len(record["sha256"]) == 64
    assert record["sha256"] != other["sha256"]
    assert record["subjects"] == other["subjects"]
    assert [record["recipe"]["sampling"][name] for name in ("acceleration", "mask")] == [4.0, "variable_density"]
    for cell in place.plan.cells:
        scored = json.loads((place.run_of(cell).path / "scored.json").read_text())
        assert scored["test"] == json.loads((place.out / "test" / f"{cell.test_set}.json").read_text())["sha256"]


def test_no_reference_is_written_but_for_the_test_and_for_those_who_need_it(finished):
    place, _ = finished
    kept = {path.parent for path in place.out.rglob("reference")}
    assert kept == {place.out / "test" / "4x-fold0", place.out / "test" / "6x-fold0"}


def test_test_scans_are_looked_at_once_and_used_when_everything_is_trained(place, quiet, monkeypatch):
    here = place()
    read, trained = [], []
    scans = Preparation.scans
    wanted = here.test_subjects(here.plan.cells[0].config)
    files = {info.path for info in here.files if info.subject in wanted}

    def watched(self, info):
        read.append(info.path)
        if info.path in files:
            trained.append(all(is_trained(here, cell) for cell in here.plan.cells))
        return scans(self, info)

    monkeypatch.setattr(Preparation, "scans", watched)
    compare(here, console=quiet)
    assert files
    assert files <= set(read)
    assert trained[: len(files)] == [False] * len(files)
    assert all(trained[len(files) :])


def test_a_test_scan_that_cannot_be_used_is_refused_before_any_training(place, write_heads, tmp_path, quiet):
    here = replace(place(**UNTRAINED), data=write_heads(tmp_path / "heads"))
    subject = min(here.test_subjects(here.plan.cells[0].config))
    file = next(info.path for info in here.files if info.subject == subject)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileError, match=file.name):
        compare(here, console=quiet)
    assert not (here.out / "cells").exists()
    file.write_bytes(whole)
    compare(replace(here), console=quiet)


def test_one_folder_holds_cells_of_one_set_of_data(place, heads, write_heads, tmp_path, quiet):
    here, others = place(**UNTRAINED), write_heads(tmp_path / "others")
    compare(here, console=quiet)
    (others / "sub-06_T1w.nii.gz").rename(others / "sub-96_T1w.nii.gz")
    another = replace(place(**UNTRAINED | {"methods": {"Input": {"method": "zero_filled_best_scale"}}}), data=others)
    with pytest.raises(FileError, match=r"others: no longer holds the files .*sub-06_T1w.nii.gz is gone"):
        compare(another, console=quiet)
    compare(here, console=quiet)


def test_full_scans_are_known_from_the_command_on_that_gave_them(place, write_heads, tmp_path):
    here, full = place(), write_heads(tmp_path / "full")
    (here.out / "cells" / "tv" / "4x").mkdir(parents=True)
    (here.out / "cells" / "tv" / "4x" / "choice.json").write_text("{}")  # something has been made of the data
    for given in (None, full, None, full):
        replace(here, full=given).check_data()
    (full / "sub-01_T1w.nii.gz").unlink()
    with pytest.raises(FileError, match="full: no longer holds the files"):
        replace(here, full=full).check_data()


def test_a_mask_file_that_has_changed_is_refused(place, tmp_path, quiet):
    mask = np.random.default_rng(0).random((32, 32)) < 0.3
    mask[12:21, 12:21] = True
    np.save(tmp_path / "mask.npy", mask)
    here = place(**UNTRAINED)
    shared = {**here.plan.shared, "sampling": {"mask": str(tmp_path / "mask.npy")}}
    here = replace(here, plan=replace(here.plan, shared=shared))
    compare(here, console=quiet)
    mask[0] = ~mask[0]
    np.save(tmp_path / "mask.npy", mask)
    with pytest.raises(FileError, match=r"mask\.npy: has changed since the comparison in .* was begun with it"):
        compare(replace(here), console=quiet)


def test_a_run_without_its_weights_is_not_trained(finished, tmp_path):
    here = copy(finished, tmp_path)
    cell = next(cell for cell in here.plan.cells if cell.learned)
    assert is_trained(here, cell)
    here.run_of(cell).weights.unlink()
    assert not is_trained(here, cell)


def test_a_finished_comparison_is_written_again_without_any_training(finished, tmp_path, quiet, monkeypatch):
    here = copy(finished, tmp_path)
    weights = {path: path.stat().st_mtime_ns for path in here.out.rglob("model.safetensors")}
    table, report = ((here.out / name).read_bytes() for name in ("table.csv", "report.html"))
    monkeypatch.setattr("sansref.commands.compare.cells.train", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr("sansref.commands.compare.cells.scorer_of", lambda *_: pytest.fail("scored again"))
    monkeypatch.setattr("sansref.commands.compare.compare.scorer_of", scorer_of)
    (here.out / "table.csv").unlink()
    compare(here, console=quiet)
    assert {path: path.stat().st_mtime_ns for path in here.out.rglob("model.safetensors")} == weights
    assert (here.out / "table.csv").read_bytes() == table
    assert len((here.out / "report.html").read_bytes()) == pytest.approx(len(report), abs=20)  # its time differs


def test_a_new_label_of_the_same_folder_takes_the_scores_along(finished, tmp_path, quiet):
    here = copy(finished, tmp_path)
    methods = {label.replace("SSDU", "ssdu"): own for label, own in here.plan.methods.items()}
    ends = ("ssdu", here.plan.gap[1])
    renamed = Workplace(replace(here.plan, methods=methods, baseline="ssdu", gap=ends), here.data, None, here.out)
    compare(renamed, console=quiet)
    assert {row.label for row in read_scores(here.out / "scores.csv")} == set(methods)


def test_a_missing_cell_is_made_again_with_the_same_result(finished, tmp_path, quiet):
    here = copy(finished, tmp_path)
    table = (here.out / "table.csv").read_bytes()
    gone = [cell for cell in here.plan.cells if cell.acceleration == 4 and cell.label in ("SSDU", "TV")]
    for cell in gone:
        shutil.rmtree(here.run_of(cell).path)
    compare(here, console=quiet)
    assert (here.out / "table.csv").read_bytes() == table


def test_changed_settings_are_noticed_and_named(finished, tmp_path, quiet, tiny_plan):
    here = copy(finished, tmp_path)
    shared = merged(tiny_plan().shared, {"data": {"simulation": {"snr": 20.0}}})
    changed = Workplace(tiny_plan(accelerations=TWO, shared=shared), here.data, None, here.out)
    with pytest.raises(
        SettingError, match=r"cells/tv/4x.* made with other settings \(data\.simulation\.snr .* -> 20.0\)"
    ):
        compare(changed, console=quiet)
    longer = {**tiny_plan().methods, "SSDU": {"method": "ssdu", "training": {"epochs": 3}}}
    changed = Workplace(tiny_plan(accelerations=TWO, methods=longer), here.data, None, here.out)
    with pytest.raises(SettingError, match=r"cells/ssdu/4x-fold0-seed0 was made with .* \(training\.epochs 2 -> 3\)"):
        compare(changed, console=quiet)


def more_heads(heads, tmp_path):
    """The same subjects and one more, who changes their parts."""
    data = tmp_path / "more"
    shutil.copytree(heads, data)
    first = min(data.glob("*.nii.gz"))
    shutil.copy(first, data / first.name.replace("sub-01", "sub-00"))
    return data


def test_a_comparison_does_not_go_on_with_other_subjects(finished, tmp_path, quiet, heads):
    here, data = copy(finished, tmp_path), more_heads(heads, tmp_path)
    there = Workplace(here.plan, data, None, here.out)
    for record in [*here.out.rglob("*.json"), *here.out.rglob("*.yaml")]:  # as if the folder itself had grown
        record.write_text(record.read_text().replace(str(here.data.resolve()), str(data.resolve())))
    with pytest.raises(FileError, match=r"more: no longer holds the files .*sub-00_T1w.nii.gz is new"):
        compare(there, console=quiet)


def changed(data):
    """Another scan of the same name and size."""
    volume = nibabel.load(data / "sub-02_T1w.nii.gz")
    nibabel.save(volume.slicer[::-1], data / "sub-02_T1w.nii.gz")


def test_a_finished_comparison_does_not_go_on_with_changed_files(finished, tmp_path, quiet, heads):
    here, data = copy(finished, tmp_path), Path(shutil.copytree(heads, tmp_path / "heads"))
    there = Workplace(here.plan, data, None, here.out)
    for record in [*here.out.rglob("*.json"), *here.out.rglob("*.yaml")]:
        record.write_text(record.read_text().replace(str(here.data.resolve()), str(data.resolve())))
    there.check()  # a copy is the same
    changed(data)
    with pytest.raises(FileError, match=r"sub-02_T1w.nii.gz has changed") as caught:
        compare(Workplace(here.plan, data, None, here.out), console=quiet)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["trained", "chosen", "scored"])
def test_files_replaced_between_two_cells_are_noticed(place, heads, tmp_path, quiet, monkeypatch, kind):
    methods = {name: place().plan.methods[name] for name in ("SSDU", "TV" if kind == "chosen" else "supervised")}
    data = Path(shutil.copytree(heads, tmp_path / "heads"))
    here = replace(place(methods=methods, gap=None), data=data)
    original = cells.train_cell

    def replaced(where, cell, console=None):
        original(where, cell, console)
        if cell == here.plan.cells[-1 if kind == "scored" else 0]:
            changed(data)

    monkeypatch.setattr(attempt, "train_cell", replaced)
    with pytest.raises(SansrefError, match=r"sub-02_T1w.nii.gz has changed"):
        compare(here, console=quiet)
    assert not (here.out / "table.md").exists()


def test_what_a_killed_command_has_left_is_cleaned_up(finished, tmp_path):
    here = copy(finished, tmp_path)
    cell = here.run_of(next(cell for cell in here.plan.cells if cell.label == "supervised")).path
    chosen = here.run_of(next(cell for cell in here.plan.cells if cell.label == "TV")).path
    dropped = here.out / "cells" / "dropped" / "4x-fold0-seed0"  # of a method that is not in the plan any more
    test = here.out / "test" / "4x-fold0"
    left = f".part-{'0a' * 16}-{test.name}"
    leftovers = [cell / "data" / "training", chosen / "data", dropped / "data" / "training", test.parent / left]
    for place in leftovers:
        shutil.copytree(test, place)
    mine = here.out / "cells" / "idr" / "4x-fold0-seed0" / "data" / "mine.nii"
    mine.parent.mkdir()
    mine.touch()
    here.check()
    assert not any(place.exists() for place in leftovers)
    assert not [path for path in here.out.rglob("*") if path.name.startswith(".part-")]
    assert mine.exists()


@pytest.mark.parametrize("name", ["table.md", "test/4x-fold0/scan.nii", "cells/ssdu/4x-fold0-seed0/data/scan.nii"])
def test_a_folder_of_something_else_is_left_alone(place, quiet, name):
    here = place()
    (here.out / name).parent.mkdir(parents=True)
    (here.out / name).write_text("mine")
    with pytest.raises(SettingError, match="is not empty, and sansref did not make it as a comparison"):
        compare(here, console=quiet)
    assert [path for path in here.out.rglob("*") if path.is_file()] == [here.out / name]
    assert (here.out / name).read_text() == "mine"


def test_test_scans_are_made_again_for_other_subjects(finished, tmp_path, heads):
    here, data = copy(finished, tmp_path), more_heads(heads, tmp_path)
    (cell, *_) = here.plan.cells
    before = here.test_scans(cell)
    for record in here.out.rglob("*.json"):
        record.write_text(record.read_text().replace(str(here.data.resolve()), str(data.resolve())))
    there = Workplace(here.plan, data, None, here.out)
    assert {meta.subject for meta in there.test_scans(cell).metas} == there.test_subjects(cell.config)
    assert there.test_subjects(cell.config) != {meta.subject for meta in before.metas}


def of_measured(tiny_plan, folder, kspace, **shared):
    """A comparison on six people with this k-space, (slices, coils, rows, columns)."""
    for subject in range(6):
        np.save(folder / f"sub-0{subject}.npy", kspace)
    plan = tiny_plan(shared={**tiny_plan().shared, "data": {"axes": "slice,coil,row,column"}, **shared})
    return Workplace(plan, folder, None, folder.with_name("out"))


def test_a_single_undersampled_slice_is_refused_before_any_training(tiny_plan, tmp_path, quiet):
    kspace = np.random.default_rng(0).normal(size=(3, 1, 32, 32)).astype(np.complex64)
    kspace[0, ..., 1:12:2] = 0  # the one in the middle is full
    there = of_measured(tiny_plan, tmp_path, kspace)
    with pytest.raises(FileError, match=r"sub-0\d\.npy: is undersampled, but test scans are scored against"):
        compare(there, console=quiet)
    assert not (there.out / "cells").exists()


def test_coils_that_have_no_maps_are_no_undersampled_scans(tiny_plan, tmp_path, quiet):
    kspace = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.complex64)
    there = of_measured(tiny_plan, tmp_path, kspace, coils={"maps": "none"})
    with pytest.raises(FileError, match=r"sub-0\d\.npy: has 3 coils and no sensitivity maps"):
        compare(there, console=quiet)


def test_slices_whose_reference_shows_nothing_have_no_place_in_the_ranking():
    def scored(*values):
        return {(0, at): {"a": SimpleNamespace(psnr=value)} for at, value in enumerate(values)}

    cells = [SimpleNamespace(label="a", learned=True)]
    assert module._ranked(cells, scored(30.0, math.nan, 20.0, 25.0)) == [(0, 2), (0, 3), (0, 0)]
    assert module._ranked(cells, scored(math.nan)) == []


def test_undersampled_scans_are_refused_before_any_training(tiny_plan, tmp_path, quiet):
    kspace = np.random.default_rng(0).normal(size=(2, 1, 32, 32)).astype(np.complex64)
    kspace[..., 1:12:2] = 0
    there = of_measured(tiny_plan, tmp_path, kspace)
    with pytest.raises(FileError, match=r"sub-0\d\.npy: is undersampled, but test scans are scored against"):
        compare(there, console=quiet)


def test_other_test_scans_than_those_scored_are_noticed(finished, tmp_path, quiet):
    here = copy(finished, tmp_path)
    scored = here.run_of(here.plan.cells[0]).path / "scored.json"
    scored.write_text(scored.read_text().replace('"test": "', '"test": "0'))
    with pytest.raises(FileError, match="was scored on other test scans"):
        compare(here, console=quiet)
    scored.write_text("{")
    with pytest.raises(FileError, match=r"scored.json: is not readable JSON"):
        compare(here, console=quiet)


def test_rows_that_are_not_trained_are_scored_anew_after_a_change(place, quiet):
    methods, judged = {"Input": {"method": "zero_filled"}}, []
    for held_out in (0.1, 0.4):
        shared = merged(place().plan.shared, {"split": {"held_out": held_out}})
        here = place(methods=methods, baseline="Input", gap=None, shared=shared)
        compare(here, console=quiet)
        judged.append(json.loads((here.run_of(here.plan.cells[0]).path / "scored.json").read_text()))
    assert [record["recipe"]["split"]["held_out"] for record in judged] == [0.1, 0.4]
    assert judged[0]["test"] == judged[1]["test"]


def test_a_choice_that_was_killed_is_not_made_on_scans_of_other_settings(place):
    found = {}
    for folder, noises in (("again", (5.0, 100.0)), ("fresh", (100.0,))):
        for snr in noises:
            here = place(folder, shared={**place().plan.shared, "data": {"simulation": {"snr": snr}}})
            (cell,) = (cell for cell in here.plan.cells if cell.label == "TV")
            choice.choose(here, cell)
            record = here.choice_file(cell)
            found[folder] = json.loads(record.read_text())["error"]
            record.unlink()
    assert found["again"] == found["fresh"]


def test_scans_to_choose_by_are_spread_over_all(place, monkeypatch):
    here = place(shared=merged(place().plan.shared, {"split": {"validation": 0.34}}))
    (cell,) = (cell for cell in here.plan.cells if cell.label == "TV")
    monkeypatch.setattr(choice, "SCANS", 5)
    seen = []
    monkeypatch.setattr(choice, "choose_regularisation", lambda name, scans, *_, **__: seen.extend(scans) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        choice.choose(here, cell)
    everything = PreparedScans(here.run_of(cell).path / "data").metas
    assert len(everything) == 8
    assert [scan.meta for scan in seen] == [everything[item] for item in (0, 1, 3, 4, 6)]


def test_a_method_can_be_added_to_a_finished_comparison(finished, tmp_path, quiet, tiny_plan):
    here = copy(finished, tmp_path)
    more = {**here.plan.methods, "K-weighted": {"method": {"name": "ssdu", "k_weighting": True}}}
    there = Workplace(tiny_plan(accelerations=TWO, methods=more), here.data, None, here.out)
    before = {path: path.stat().st_mtime_ns for path in here.out.rglob("model.safetensors")}
    compare(there, console=quiet)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "K-weighted" in (here.out / "table.md").read_text()


def test_weights_for_the_perceptual_distance_are_optional(finished, tmp_path, quiet, monkeypatch):
    here = copy(finished, tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    found = compare(here, perceptual=PerceptualOptions("alex"), console=quiet)
    assert "not on this machine" in found.missing
    assert "no weights" in (here.out / "table.md").read_text()
    with pytest.raises(FileError, match="cannot be read"):
        compare(here, perceptual=PerceptualOptions("alex", tmp_path / "none.pth"), console=quiet)


OWN = """
from dataclasses import dataclass

from sansref.methods import Needs, SSDU, SSDUOptions


@dataclass(frozen=True)
class ThirdOptions(SSDUOptions):
    \"\"\"SSDU that gives away a third.\"\"\"

    ratio: float = 1 / 3


class Third(SSDU):
    options_type = ThirdOptions
"""


def test_a_method_of_the_users_own_takes_part(place, quiet, tmp_path, monkeypatch):
    (tmp_path / "my_method.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    methods = {"Input": {"method": "zero_filled"}, "mine": {"method": "my_method:Third", "training": {"epochs": 1}}}
    here = place(methods=methods, baseline="Input", gap=None)
    compare(here, console=quiet)
    with (here.out / "table.csv").open() as file:
        assert "mine" in {line["method"] for line in csv.DictReader(file)}


def test_every_method_of_the_package_fits_into_one_table(heads, tmp_path, quiet):
    packaged = load_plan("one-table-small")
    small = {"stages": 2, "pool": 2, "partitions": 2}
    sizes = {"phases": 1, "channels": 2, "pools": 1, "width": 2, "extractor_layers": 2}
    methods = {}
    for label, own in packaged.methods.items():
        methods[label] = dict(own)
        for group, values in (("method", small), ("network", sizes), ("training", {"epochs": 1})):
            if isinstance(given := own.get(group), Mapping):
                methods[label][group] = {name: values.get(name, value) for name, value in given.items()}
    shared = {
        "data": {"slices": 1, "crop": [80, 80]},
        "sampling": {"mask_per": "scan"},
        "split": {"validation": 0.2},
        "machine": {"threads": 1, "accelerator": "cpu"},
    }
    plan = replace(packaged, methods=methods, shared=shared, folds=3, figures=1)
    compare(Workplace(plan, heads, None, tmp_path / "all"), console=quiet)
    rows = read_scores(tmp_path / "all" / "scores.csv")
    assert {row.label for row in rows} == set(packaged.methods)
    assert {cell.method for cell in plan.cells} == {*METHODS, *errors.UNTRAINED} - {
        "non_local_means"
    }  # which is for full scans
    assert all(np.isfinite(row.psnr) for row in rows)


def test_folds_test_everyone_once_and_seeds_repeat_the_training_alone(place, quiet):
    shared = {**place().plan.shared, "split": {"validation": 0.2}}
    methods = {"Input": {"method": "zero_filled"}, "SSDU": {"method": "ssdu", "training": {"epochs": 1}}}
    here = place(methods=methods, gap=None, shared=shared, folds=2, seeds=(0, 3), figures=5)
    compare(here, console=quiet)
    rows = read_scores(here.out / "scores.csv")
    scored = defaultdict(list)
    for row in rows:
        scored[row.label, row.seed].append((row.subject, row.slice))
    (once,) = {tuple(found) for found in scored.values()}
    assert len(once) == len(set(once)) == 6 * 4
    assert {path.name for path in (here.out / "test").glob("*.json")} == {"4x-fold0.json", "4x-fold1.json"}
    psnr_of = {(row.label, row.seed, row.subject, row.slice): row.psnr for row in rows}
    assert all(psnr_of["Input", 0, *key] == psnr_of["Input", 3, *key] for key in once)
    assert all(psnr_of["SSDU", 0, *key] != psnr_of["SSDU", 3, *key] for key in once)
    shown = module.shown_slices(here, rows)
    assert len(shown) == 5
    for one in shown:
        assert one.captions["SSDU"].startswith(f"{psnr_of['SSDU', 0, one.subject, one.number]:.2f} dB")


def test_slices_are_shown_as_the_training_of_their_own_fold_reconstructs_them(place, quiet):
    shared = {**place().plan.shared, "split": {"validation": 0.2}}
    methods = {"SSDU": {"method": "ssdu", "training": {"epochs": 1}}}
    here = place(methods=methods, gap=None, shared=shared, folds=2, seed_per_fold=True, figures=5)
    compare(here, console=quiet)
    rows = read_scores(here.out / "scores.csv")
    assert {(row.fold, row.seed) for row in rows} == {(0, 0), (1, 1)}
    psnr_of = {(row.subject, row.slice): row.psnr for row in rows}
    shown = module.shown_slices(here, rows)
    assert len(shown) == 5
    for one in shown:
        assert one.captions["SSDU"].startswith(f"{psnr_of[one.subject, one.number]:.2f} dB")


def test_shown_slices_run_from_the_worst_to_the_best(finished):
    place, _ = finished
    rows = [row for row in read_scores(place.out / "scores.csv") if row.acceleration == 4]
    trained = defaultdict(list)
    for row in rows:
        if row.label in ("SSDU", "IDR", "supervised"):
            trained[row.subject, row.slice].append(row.psnr)
    ranked = sorted(trained, key=lambda key: np.mean(trained[key]))
    shown = [one for one in module.shown_slices(place, rows) if one.acceleration == "4x"]
    assert [(one.subject, one.number) for one in shown] == [ranked[0], ranked[len(ranked) // 2]]
    assert [(one.among_worst, one.is_median) for one in shown] == [(True, False), (False, True)]
    assert list(shown[0].images) == ["Input", "TV", "SSDU", "IDR", "supervised"]


def test_shown_slices_are_upright(finished):
    """Rows of these heads lead to the left, columns to anterior: they would lie on their side."""
    place, _ = finished
    shown = module.shown_slices(place, read_scores(place.out / "scores.csv"))
    for one in shown:
        cell = next(cell for cell in place.plan.cells if f"{cell.acceleration:g}x" == one.acceleration)
        found = {(scan.meta.subject, scan.meta.slice): scan for scan in place.test_scans(cell)}
        scan = found[one.subject, one.number]
        assert np.array_equal(one.reference, scan.reference.abs().T.flip(0).numpy())
        given = zero_filled(scan.batch())[0].abs()
        assert np.array_equal(one.images["Input"], given.T.flip(0).numpy())


def test_methods_that_change_places_in_a_plan_are_scored_anew(place, quiet):
    """The folder of a cell has the name of its label."""
    kinds = {"A": "zero_filled", "B": "zero_filled_best_scale"}
    for methods in (kinds, {"A": kinds["B"], "B": kinds["A"]}):
        plain = {label: {"method": method} for label, method in methods.items()}
        here = place(methods=plain, gap=None, baseline="A")
        compare(here, console=quiet)
        rows = read_scores(here.out / "scores.csv")
        held_out = {label: [math.isnan(row.held_out) for row in rows if row.label == label] for label in methods}
        for label, method in methods.items():
            assert all(held_out[label]) == (method == "zero_filled_best_scale")  # which has no held-out error
            assert any(held_out[label]) == (method == "zero_filled_best_scale")


@pytest.mark.parametrize("denoise", [True, False])
def test_scans_that_denoisers_are_scored_on_share_the_noise_of_their_file(tiny_plan, write_knee, tmp_path, denoise):
    """As those that they learn from do."""
    (tmp_path / "knees").mkdir()
    for seed in range(4):
        write_knee(tmp_path / "knees" / f"knee{seed}.h5", seed)
    plan = tiny_plan(methods={"SSDU": {"method": {"name": "ssdu", "denoise": denoise}}}, gap=None)
    place = Workplace(plan, tmp_path / "knees", None, tmp_path / "out")
    metas = place.test_scans(plan.cells[0]).metas
    assert len(metas) >= 2
    if not denoise:
        assert all(meta.noise is None for meta in metas)
        return
    for meta in metas:
        alike = [np.multiply(one.noise, one.scale) for one in metas if one.source == meta.source]
        assert np.allclose(alike, alike[0]) and np.all(alike[0] > 0)


def test_unusable_comparisons_are_one_clear_line(place, quiet, heads, tmp_path):
    inside = Workplace(place().plan, heads, None, heads / "out")
    with pytest.raises(SettingError, match="lies inside --data"):
        compare(inside, console=quiet)
    other = tmp_path / "full"
    with pytest.raises(SettingError, match="lies inside --full"):
        compare(Workplace(place().plan, heads, other, other / "out"), console=quiet)
    with pytest.raises(SettingError, match=r"no subject is set aside for the test: give 'folds', or 'split: "):
        compare(place(shared=merged(place().plan.shared, {"split": {"test": 0.0}})), console=quiet)
    with pytest.raises(SettingError, match="none of the methods learns from unpaired scans: leave out --full"):
        compare(Workplace(place().plan, heads, heads, tmp_path / "x"), console=quiet)
    relative = {"gan": {"method": {"name": "cyclegan", "scaling": "image"}}, "SSDU": {"method": "ssdu"}}
    shared = {"split": {"test": 0.3}, "data": {"crop": [80, 80]}}
    with pytest.raises(SettingError, match=r"'gan' gives relative grey values only .*: set 'normalise: minmax'"):
        compare(place(methods=relative, shared=shared, gap=None), console=quiet)
    assert not Path(tmp_path / "comparison").exists()


def test_people_of_folders_and_label_maps(tiny_plan, write_heads, tmp_path):
    data = write_heads(tmp_path / "flat", subjects=4)
    for number, path in enumerate(sorted(data.iterdir())):
        place = tmp_path / "data" / f"P{number // 2}"
        place.mkdir(parents=True, exist_ok=True)
        path.rename(place / f"T{1 + number % 2}.nii.gz")
    (tmp_path / "data" / "P0" / "T1_mask.nii.gz").write_bytes((tmp_path / "data" / "P0" / "T1.nii.gz").read_bytes())
    place = Workplace(tiny_plan(), tmp_path / "data", None, tmp_path / "out")
    assert [info.subject for info in place.files] == ["P0", "P0", "P1", "P1"]
    assert "T1_mask.nii.gz" in place.found.left_out
    named = tiny_plan(shared={**tiny_plan().shared, "data": {"subject_from": "file"}})
    assert len({info.subject for info in Workplace(named, tmp_path / "data", None, tmp_path / "out").files}) == 4
