from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sansref.commands.compare.plan import SAME, Plan, load_plan, slug
from sansref.errors import FileError, SettingError
from sansref.presets import comparison_names

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"

METHODS = {
    "Input": {"method": "zero_filled"},
    "SSDU": {"method": "ssdu"},
    "IDR": {"method": {"name": "idr", "stages": 2}},
}


def plan(**changes):
    values = {
        "title": "t",
        "methods": METHODS,
        "accelerations": {4.0: {}, 8.0: {"sampling": {"center": 0.04}}},
        "baseline": "SSDU",
    }
    return Plan(**{**values, "shared": {"split": {"test": 0.2}, "training": {"epochs": 3}}, **changes})


def cells(given, label):
    return [cell for cell in given.cells if cell.label == label]


def test_the_grid_is_methods_by_accelerations_by_folds_by_seeds():
    grid = plan(folds=3, shared={}, seeds=(0, 5)).cells
    places = [(cell.label, cell.acceleration, cell.fold, cell.seed) for cell in grid]
    assert len(places) == len(set(places)) == 3 * 2 * 3 * 2
    assert len({cell.name for cell in grid}) == len(grid)
    assert [cell.fold for cell in plan(folds=3, shared={}, run_folds=(2,)).cells] == [2] * 6


@pytest.mark.slow
def test_every_cell_of_a_place_has_the_same_data():
    for cell in plan(seeds=(0, 1)).cells:
        others = [other for other in plan(seeds=(0, 1)).cells if other.test_set == cell.test_set]
        assert {other.config.preparation for other in others} == {cell.config.preparation}
        assert {other.config.data_seed for other in others} == {0}


def test_seeds_change_the_training_and_folds_the_split():
    configs = [cell.config for cell in cells(plan(folds=2, shared={}, seeds=(0, 1)), "SSDU")]
    assert {(c.training.seed, c.split.fold, c.split.folds) for c in configs} == {
        (seed, fold, 2) for seed in (0, 1) for fold in (0, 1)
    }


def test_a_fold_can_have_a_seed_of_its_own():
    given = plan(folds=3, shared={}, seeds=(0, 10), seed_per_fold=True)
    places = {(cell.fold, cell.seed) for cell in given.cells}
    assert places == {(0, 0), (1, 1), (2, 2), (0, 10), (1, 11), (2, 12)}
    assert [given.seed_of(fold) for fold in range(3)] == [0, 1, 2]


def test_settings_of_acceleration_method_and_preset_arrive():
    given = plan(
        methods={**METHODS, "paper": {"method": {"name": "idr_paper", "pool": 7}, "preset": "idr-fastmri-t1-4x"}}
    )
    (first, second) = cells(given, "IDR")
    assert (first.config.sampling.acceleration, first.config.sampling.center) == (4.0, None)
    assert (second.config.sampling.acceleration, second.config.sampling.center) == (8.0, 0.04)
    assert (first.config.options.stages, first.config.training.epochs) == (2, 3)
    paper = cells(given, "paper")[0].config
    assert (paper.options.reading, paper.options.pool, paper.training.epochs) == ("A", 7, 20)
    assert paper.preparation == first.config.preparation
    assert not paper.magnitude


def test_a_cell_knows_whether_there_is_anything_to_train():
    assert [cell.learned for cell in plan().cells[:3]] == [False, True, True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "XY"}, "baseline names 'XY', which is not one of Input, SSDU, IDR"),
        ({"gap": ("SSDU", "XY")}, "gap names 'XY'"),
        ({"methods": {**METHODS, "ssdu!": {"method": "ssdu"}}}, "methods 'SSDU' and 'ssdu!' would share a folder"),
        ({"accelerations": {}}, "at least one acceleration and one seed"),
        ({"seeds": ()}, "at least one acceleration and one seed"),
        ({"normalise": "maybe"}, "normalise must be none or minmax, got 'maybe'"),
        ({"run_folds": (1,)}, r"run_folds must lie in 0 to 0, got \[1\]"),
        ({"run_folds": (0, 0)}, r"run_folds must not repeat, got \[0, 0\]"),
        ({"seeds": (0, 1, 0)}, r"seeds must not repeat, got \[0, 1, 0\]"),
        (
            {"shared": {"training": {"seed": 7}}},
            "'training.seed' under 'shared' would have no effect: the plan's 'seeds' sets it",
        ),
        (
            {"shared": {"split": {"folds": 5}}},
            "'split.folds' under 'shared' would have no effect: the plan's 'folds' sets it",
        ),
        (
            {"shared": {"split": {"fold": 1}}},
            "'split.fold' under 'shared' would have no effect: the plan's 'run_folds' sets it",
        ),
        (
            {"accelerations": {4.0: {"sampling": {"acceleration": 8}}}},
            "'sampling.acceleration' under '4x' .* the plan's 'accelerations'",
        ),
    ],
)
def test_impossible_plans_are_named(changes, message):
    with pytest.raises(SettingError, match=message):
        plan(**changes)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({}, "method 'X': has no 'method', such as 'method: ssdu'"),
        ({"method": "magic"}, "method 'X': there is no method 'magic': use one of idr, .* l1_wavelet, total_variation"),
        ({"method": "l1_wavelets"}, "there is no method 'l1_wavelets': did you mean l1_wavelet"),
        ({"method": "ssdu", "epoch": 1}, "method 'X': there is no setting 'epoch': did you mean training.epochs"),
        ({"like": "SSUD"}, "is 'like' 'SSUD', which is not one of Input, SSDU, IDR, X: did you mean SSDU?"),
        ({"like": "X"}, "is 'like' 'X', which is 'like' this method"),
        ({"method": "ssdu", "preset": "nothing"}, "there is no configuration 'nothing'"),
        ({"method": "ssdu", "preset": 5}, "there is no configuration '5'"),
        ({"method": "ssdu", "machine": {"devices": 2}}, "method 'X': a comparison trains each cell in one process"),
        *[({"method": "ssdu", name: {}}, f"'{name}' must be the same for all: set it under 'shared'") for name in SAME],
    ],
)
def test_impossible_methods_are_named(own, message):
    with pytest.raises(SettingError, match=message):
        _ = plan(methods={**METHODS, "X": own}).cells


def test_a_method_may_begin_with_the_settings_of_another():
    weighted = {"like": "SSDU", "method": {"k_weighting": True}, "training": {"repeats": 2}}
    given = plan(methods={**METHODS, "weighted": weighted, "shorter": {"like": "weighted", "training": {"epochs": 1}}})
    shorter = cells(given, "shorter")[0].config
    assert (shorter.method, shorter.options.k_weighting) == ("ssdu", True)
    assert (shorter.training.repeats, shorter.training.epochs) == (2, 1)
    assert cells(given, "SSDU")[0].config.options.k_weighting is False


def test_a_preset_of_another_method_is_refused(tmp_path):
    preset = tmp_path / "own.yaml"
    preset.write_text("{method: supervised, training: {epochs: 7}}")
    with pytest.raises(SettingError, match=r"'X': the preset '.*own\.yaml' belongs to method 'supervised', not 'ssdu'"):
        _ = plan(methods={**METHODS, "X": {"method": "ssdu", "preset": str(preset)}}).cells
    same = plan(methods={**METHODS, "X": {"method": "supervised", "preset": str(preset)}})
    assert {cell.config.training.epochs for cell in cells(same, "X")} == {7}


def test_trainings_on_different_splits_are_no_comparison():
    with pytest.raises(SettingError, match=r"split\.seed must be a number"):
        _ = plan(shared={"split": {"seed": None}}, seeds=(0, 1)).cells


@pytest.mark.parametrize("name", comparison_names())
def test_packaged_comparisons_can_be_carried_out(name):
    given = load_plan(name)
    assert given.gap is not None
    by_label = {cell.label: cell for cell in given.cells if cell.learned}
    relative = {cell.config.build().relative for cell in by_label.values()}
    assert relative == {given.normalise == "minmax"}
    assert all(cell.config.split.test > 0 or given.folds for cell in given.cells)


def test_papers_and_small_comparisons_have_the_same_rows():
    for name in ("idr-table1", "switchable-table1"):
        paper, small = ([label.split("-256")[0] for label in load_plan(n).methods] for n in (name, f"{name}-small"))
        assert paper == small


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [1", "is not readable YAML"),
        ("title: 2026-13-45", "is not readable YAML .month must be in 1..12"),
        ("- 3", "holds no settings"),
        ("slices: 3", "is not the plan of a comparison .* Use 'sansref train --config'"),
    ],
)
def test_files_that_are_no_comparison_are_named(tmp_path, content, message):
    file = tmp_path / "own.yaml"
    file.write_text(content)
    with pytest.raises(FileError, match=message):
        load_plan(str(file))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": 3}, "unknown setting 'colour': use title, methods"),
        ({"accelerations": 4}, r"'accelerations' must be a list such as \[4, 8\]"),
        ({"methods": [1]}, "'methods' must be settings by name"),
        ({"shared": 3}, "'shared' must be settings by name"),
        ({"methods": {"A": "ssdu"}}, "method 'A' must hold settings such as 'method: ssdu'"),
        ({"baseline": None}, "baseline"),
        ({"seeds": 3}, "seeds takes a list, not 3"),
        ({"run_folds": 0}, "run_folds takes a list, not 0"),
        ({"folds": "five"}, "folds takes a whole number, not five"),
        ({"title": 2026}, "title takes text, not 2026"),
        ({"gap": ["SSDU"]}, r"gap takes a list of 2 or null, not \['SSDU'\]"),
        ({"accelerations": ["4x"]}, "accelerations takes numbers, not '4x'"),
        ({"accelerations": [[4]]}, r"accelerations takes numbers, not \[4\]"),
        ({"accelerations": [4, {8: {}}]}, "accelerations takes numbers, not {8: "),
        ({"accelerations": {4: 0.08}}, "acceleration 4 must hold settings such as 'center: 0.08'"),
        ({"methods": {1: {"method": "ssdu"}}}, "method 1 must be a name: put it in quotes"),
    ],
)
def test_impossible_files_are_named(tmp_path, changes, message):
    file = tmp_path / "own.yaml"
    values = {"kind": "comparison", "title": "t", "methods": METHODS, "accelerations": [4], "baseline": "SSDU"}
    file.write_text(yaml.safe_dump({**values, **changes}))
    with pytest.raises(SettingError, match=message):
        load_plan(str(file))
    file.write_text(yaml.safe_dump({"templates": {"a": 1}, **values}))
    assert load_plan(str(file)).title == "t"


def test_a_missing_title_is_one_line(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(
        yaml.safe_dump({"kind": "comparison", "methods": METHODS, "accelerations": [4], "baseline": "SSDU"})
    )
    with pytest.raises(SettingError, match="title"):
        load_plan(str(file))


def write_plans(folder, **plans):
    """Plans as files; those without 'extends' are whole."""
    whole = {
        "title": "t",
        "methods": METHODS,
        "accelerations": [4, 8],
        "baseline": "SSDU",
        "shared": {"split": {"test": 0.2}},
    }
    for name, values in plans.items():
        content = {"kind": "comparison", **({} if "extends" in values else whole), **values}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def test_a_plan_says_only_how_it_differs_from_another(tmp_path):
    shared = {"split": {"test": 0.2}, "data": {"slices": 3, "axes": "x"}, "network": {"phases": 5, "channels": 16}}
    weighted = {"method": {"name": "ssdu", "k_weighting": True}}
    methods = {"IDR": {"method": {"stages": 3}}, "Input": None, "weighted": weighted}
    own_shared = {"data": {"axes": None}, "network": {"phases": 3}}
    changes = {"shared": own_shared, "accelerations": {4: None, 6: {}}, "methods": methods}
    (tmp_path / "further").mkdir()
    write_plans(tmp_path, base={"shared": shared, "gap": ["Input", "SSDU"], "seeds": [0, 1]})
    write_plans(tmp_path / "further", own={"extends": "../base.yaml", "gap": None, "seeds": [2], **changes})
    base, own = (load_plan(str(tmp_path / file)) for file in ("base.yaml", "further/own.yaml"))
    assert (base.gap, own.gap, base.seeds, own.seeds) == (("Input", "SSDU"), None, (0, 1), (2,))
    assert own.shared == {**shared, "data": {"slices": 3, "axes": None}, "network": {"phases": 3, "channels": 16}}
    assert own.accelerations == {8.0: {}, 6.0: {}}
    assert list(own.methods) == ["SSDU", "IDR", "weighted"]
    assert own.methods["IDR"] == {"method": {"name": "idr", "stages": 3}}
    assert own.methods["weighted"] == methods["weighted"]
    assert base.shared == shared
    assert list(base.methods) == list(METHODS)


def test_options_are_added_to_a_bare_name(tmp_path):
    plain = {**METHODS, "SSDU": {"method": "ssdu"}, "IDR": {"method": "idr"}}
    changes = {"SSDU": {"method": {"k_weighting": True}}, "IDR": {"method": {"name": "idr_paper", "stages": 3}}}
    write_plans(tmp_path, base={"methods": plain}, own={"extends": "base.yaml", "methods": changes})
    own = load_plan(str(tmp_path / "own.yaml"))
    assert own.methods["SSDU"] == {"method": {"name": "ssdu", "k_weighting": True}}
    assert own.methods["IDR"] == {"method": {"name": "idr_paper", "stages": 3}}
    assert own.methods["Input"] == METHODS["Input"]


def test_a_listed_acceleration_that_has_no_settings_below_stays(tmp_path):
    write_plans(tmp_path, base={"accelerations": {4: None, 8: {"sampling": {"center": 0.04}}}})
    write_plans(tmp_path, own={"extends": "base.yaml", "accelerations": [4, 8]})
    assert load_plan(str(tmp_path / "own.yaml")).accelerations == {4.0: {}, 8.0: {"sampling": {"center": 0.04}}}


def test_a_plan_can_extend_a_packaged_one_and_what_extends_that(tmp_path):
    write_plans(tmp_path, one={"extends": "switchable-table1-small", "run_folds": [2]})
    write_plans(tmp_path, two={"extends": "one.yaml", "accelerations": {6: None}})
    packaged, two = load_plan("switchable-table1-small"), load_plan(str(tmp_path / "two.yaml"))
    assert two.methods == packaged.methods
    assert (two.accelerations, two.run_folds) == ({4.0: packaged.accelerations[4.0]}, (2,))
    write_plans(tmp_path, three={"extends": "one.yaml", "accelerations": [6, 9]})
    three = load_plan(str(tmp_path / "three.yaml"))
    assert three.accelerations == {6.0: packaged.accelerations[6.0], 9.0: {}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extends": "nothing"}, "own.yaml: extends: there is no configuration 'nothing'"),
        ({"extends": ["base.yaml"]}, "own.yaml: 'extends' must be the name of another plan"),
        ({"extends": "own.yaml"}, "own.yaml: extends 'own.yaml', which itself builds on this plan"),
        ({"extends": "round.yaml"}, "round.yaml: extends 'own.yaml', which itself builds on this plan"),
        ({"extends": "base.yaml", "methods": {"XY": None}}, "leaves out 'XY', which is not in .*base.yaml"),
        ({"extends": "base.yaml", "accelerations": {6: None}}, "accelerations: leaves out 6, which .*base.yaml"),
        ({"extends": "base.yaml", "methods": {"SSDU": None}}, "baseline names 'SSDU', which is not one of Input, IDR"),
        (
            {"extends": "list.yaml", "methods": {"SSDU": None}},
            "methods: leaves out 'SSDU', which is not in .*list.yaml",
        ),
    ],
)
def test_impossible_extensions_are_named(tmp_path, changes, message):
    write_plans(tmp_path, base={}, list={"methods": [1]}, round={"extends": "own.yaml"}, own=changes)
    with pytest.raises(SettingError, match=message):
        load_plan(str(tmp_path / "own.yaml"))


def test_a_broken_file_below_is_named(tmp_path):
    write_plans(tmp_path, own={"extends": "base.yaml"})
    (tmp_path / "base.yaml").write_text("a: [1")
    with pytest.raises(FileError, match=r"base\.yaml: is not readable YAML"):
        load_plan(str(tmp_path / "own.yaml"))


@pytest.mark.parametrize("path", sorted((BENCHMARKS / "study").glob("*.yaml")), ids=lambda path: path.stem)
def test_plans_of_the_study_can_be_carried_out(path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)  # which methods of its own are in
    given = load_plan(str(path))
    cells = {cell.label: cell for cell in given.cells}
    assert set(cells) == set(given.methods)
    for cell in cells.values():
        if cell.learned:
            cell.config.build()


def test_whose_scans_they_are_is_the_same_for_all_methods():
    assert {
        cell.config.slices.subject_from
        for cell in plan(shared={"split": {"test": 0.2}, "data": {"subject_from": "file"}}).cells
    } == {"file"}
    with pytest.raises(SettingError, match="'data' must be the same for all"):
        _ = plan(methods={**METHODS, "SSDU": {"method": "ssdu", "data": {"subject_from": "file"}}}).cells


def test_long_labels_are_folders_of_their_own() -> None:
    first, second = (slug("a" * 300 + end) for end in "xy")
    assert first != second
    assert len(first.encode()) == len(second.encode()) <= 200
