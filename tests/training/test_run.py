from __future__ import annotations

import json
import os
import sys

import pytest
import torch
import yaml
from safetensors.torch import save_file

from sansref.errors import FileError, SettingError
from sansref.files import MARK
from sansref.training.run import RunDirectory, environment

LEFT = f".part-{'0a' * 16}-"  # as writers name what is not finished


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path / "run")


@pytest.fixture
def finished(run, tiny):
    """A run directory as training leaves it, without training."""
    config = tiny("idr")
    run.start(config, "/data")
    save_file(config.build(1).state_dict(), run.weights)
    run.card.write_text("{}")
    return run


def written(config):
    """Settings with the folder of the data."""
    values = config.values()
    values["data"]["folder"] = "/data"
    return values


def test_a_new_run_records_settings_data_and_versions(run, tiny):
    run.start(tiny("idr", seed=4), "/data")
    assert yaml.safe_load(run.config_file.read_text()) == written(tiny("idr", seed=4))
    recorded = json.loads((run.path / "environment.json").read_text())
    assert recorded.keys() == environment().keys()
    assert recorded["torch"] == torch.__version__.split("+")[0] or recorded["torch"] == torch.__version__
    assert run.config() == tiny("idr", seed=4)
    assert not run.finished


def test_the_same_run_goes_on_and_drops_what_a_kill_left_half_written(run, tiny):
    run.start(tiny(), "/data")
    (run.path / "stages" / "00").mkdir(parents=True)
    (run.path / "stages" / "00" / f"{LEFT}last.ckpt").write_bytes(b"half")
    (run.path / "metrics.csv").write_text("stage,epoch\n0,0\n")
    before = (run.path / "environment.json").read_bytes()
    run.start(tiny(), "/data")
    assert not list(run.path.rglob(".part-*"))
    assert (run.path / "metrics.csv").exists()
    assert (run.path / "environment.json").read_bytes() == before


def test_a_start_that_was_killed_is_begun_again(run, tiny):
    run.path.mkdir()
    (run.path / f"{LEFT}config.yaml").write_text("half")
    run.start(tiny(), "/data")
    assert run.config() == tiny()


def test_an_empty_folder_may_become_a_run(run, tiny):
    run.path.mkdir()
    run.start(tiny(), "/data")
    assert run.config() == tiny()


@pytest.mark.parametrize(
    ("changes", "data", "named"),
    [
        ({"seed": 1}, "/data", r"\(training.seed 0 -> 1\)"),
        ({"network": {"phases": 3}}, "/data", r"\(network.phases 2 -> 3\)"),
        ({"seed": 1, "epochs": 9}, "/data", r"\(training.epochs 2 -> 9, training.seed 0 -> 1\)"),
        ({}, "/other", r"\(data.folder '/data' -> '/other'\)"),
    ],
)
def test_other_settings_for_a_run_that_has_learned_are_named(run, tiny, changes, data, named):
    run.start(tiny(), "/data")
    (run.path / "metrics.csv").touch()
    with pytest.raises(SettingError, match=f"holds a run with other settings {named}: choose another --out"):
        run.start(tiny(**changes), data)
    assert run.config() == tiny()


def test_a_run_may_go_on_elsewhere(run, tiny):
    run.start(tiny(), "/data")
    (run.path / "metrics.csv").touch()
    run.start(tiny(threads=2, workers=3, accelerator="auto", devices=2, num_nodes=4), "/data")
    assert run.config() == tiny()


def test_a_run_goes_on_after_an_update_that_brought_a_setting(run, tiny):
    run.start(tiny(), "/data")
    (run.path / "metrics.csv").touch()
    old = run.read_config()
    del old["training"]["lookahead"]
    run.config_file.write_text(yaml.safe_dump(old))
    run.start(tiny(), "/data")
    with pytest.raises(SettingError, match=r"\(training.lookahead 6 -> 5\)"):
        run.start(tiny(lookahead=5), "/data")


def test_another_method_is_named(run, tiny):
    run.start(tiny("idr"), "/data")
    (run.path / "metrics.csv").touch()
    with pytest.raises(SettingError, match=r"method.name 'idr' -> 'ssdu'.*method.stages 2 -> None"):
        run.start(tiny("ssdu"), "/data")


def test_a_run_that_has_learned_nothing_is_begun_anew_with_other_settings(run, tiny):
    # A first command with a mistake in it must not use its --out up.
    run.start(tiny(), "/date")
    for part in ("data/training", "stages/00"):
        (run.path / part).mkdir(parents=True)
    run.splits_file.write_text("{}")
    run.start(tiny(seed=1), "/data")
    assert run.read_config() == written(tiny(seed=1))
    assert sorted(path.name for path in run.path.iterdir()) == [".sansref", "config.yaml", "environment.json"]


def test_a_folder_with_other_things_in_it_is_left_alone(run, tiny):
    run.path.mkdir()
    (run.path / "thesis.tex").write_text("important")
    with pytest.raises(SettingError, match="is not empty, and sansref did not make it as a run: choose another --out"):
        run.start(tiny(), "/data")
    assert [path.name for path in run.path.iterdir()] == ["thesis.tex"]


def test_a_file_is_no_run_directory(run, tiny):
    run.path.write_text("important")
    with pytest.raises(SettingError, match="is not empty, and sansref did not make it as a run: choose another --out"):
        run.start(tiny(), "/data")
    assert run.path.read_text() == "important"


def test_a_place_that_cannot_be_written_is_named(tmp_path, tiny):
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match=r"file/run/.*: cannot be written \(.*\)"):
        RunDirectory(tmp_path / "file" / "run").start(tiny(), "/data")


def test_a_finished_run_gives_its_method_with_its_weights(finished, tiny):
    method = finished.load()
    expected = tiny("idr").build(1).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in method.state_dict().items())
    assert not method.training


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(FileError, match=r"is not a run directory \(no config\.yaml\)\. Give a directory that 'sansref"):
        RunDirectory(tmp_path).load()
    with pytest.raises(FileError, match="is not a run directory"):
        RunDirectory(tmp_path / "nowhere").config()


def test_an_unfinished_run_is_named(finished):
    finished.card.unlink()
    with pytest.raises(FileError, match=r"holds an unfinished run\. Run its 'sansref train' command again"):
        finished.load()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"stages: [1", "is not readable YAML"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
        (b"a: &a [*a]\n", "contains itself"),
        (b"method: idr\nmethod: ssdu\n", "gives 'method' twice"),
        (b"method: [" + b"[" * 200000, "is not readable YAML"),
        (b"", "holds no settings"),
        (b"- 1\n- 2\n", "holds no settings"),
        (b"method: idr\nepochs: " + b"9" * 100000, "number of 100000 characters"),
        (b"method: idr\nepochs: 3\n", r"is not of this version \('format: 2' is missing\)"),
        (b"format: 2\nmethod: idr\ndata: 5\n", "holds no settings of the data"),
        *[
            (b"format: 2\ndata: {}\nmethod: " + settings, problem)
            for settings, problem in (
                (b"idr\nnetwork: {phases: 10000000}\n", r"network\.phases"),
                (b"idr\nnetwork: {phases: 900, channels: 4000}\n", "network"),
                (b"idr\nnetwork: {name: unet, pools: 60}\n", r"network\.pools"),
                (b"switchable\nnetwork: {width: 1000000}\n", r"network\.width"),
                (b"switchable\nnetwork: {blocks: 1000000}\n", r"network\.blocks"),
                (b"switchable\nnetwork: {extractor_layers: 1000000}\n", r"network\.extractor_layers"),
                (b'idr\nsampling: {mask: "a\\0.npy"}\n', "impossible setting"),
                (b"idr\ntraining: {epochs: " + b"x" * 100000 + b"}", "impossible setting"),
                (b"magic\n", "there is no method 'magic'"),
                (b"idr\ntraining: {epochs: many}\n", "holds an impossible setting"),
                (b"idr\ntraining: {epochs: 0}\n", r"impossible setting \(training\.epochs must be at least 1, got 0\)"),
                (b"idr\nnetwork: {phases: many}\n", "holds an impossible setting"),
                (b"idr\nflux: 3\n", "there is no setting 'flux'"),
                (b"idr\ncoils: 1000000\n", "coils holds settings"),
            )
        ],
        *[
            (b"format: 2\nmethod: idr\ndata: {" + settings + b"}\n", problem)
            for settings, problem in (
                (b"simulation: {coils: 1000000}", "coils"),
                (b"matrix: [1000000, 1000000]", "matrix"),
                (b"crop: [10000000, 3]", "crop"),
            )
        ],
    ],
)
def test_a_damaged_configuration_is_one_clear_line(finished, content, problem):
    finished.config_file.write_bytes(content)
    with pytest.raises(FileError, match=problem) as caught:
        finished.load()
    assert str(caught.value).startswith(f"{finished.config_file}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_damaged_weights_are_one_clear_line(finished, tiny):
    whole = finished.weights.read_bytes()

    def refused(problem):
        with pytest.raises(
            FileError, match=rf"model\.safetensors: {problem}.*Restore the file or train again"
        ) as caught:
            finished.load()
        assert "\n" not in str(caught.value)

    for length in (0, 5, 100, len(whole) - 1):
        finished.weights.write_bytes(whole[:length])
        refused("does not hold the weights of this run")
    finished.weights.write_bytes(os.urandom(200))
    refused("does not hold the weights of this run")
    save_file(tiny("idr", network={"phases": 3}).build().state_dict(), finished.weights)
    refused("does not hold the weights of this run")
    finished.weights.write_bytes(whole + bytes(20 << 20))
    refused("does not hold the weights of this run")
    for number in (torch.nan, torch.inf):
        weights = tiny("idr").build(1).state_dict()
        weights[min(weights)].view(-1)[0] = number
        save_file(weights, finished.weights)
        refused("holds NaN or infinite weights")
    for kind in (torch.int64, torch.complex64, torch.float8_e4m3fn):
        save_file({name: w.to(kind) for name, w in tiny("idr").build(1).state_dict().items()}, finished.weights)
        refused("does not hold the weights of this run .*numbers of type")
    finished.weights.unlink()
    os.mkfifo(finished.weights)  # would be waited for
    refused("does not hold the weights of this run")
    finished.weights.unlink()
    refused("does not hold the weights of this run")


def test_subjects_are_those_of_the_split(finished):
    finished.splits_file.write_text('{"training": ["a"], "validation": ["b"], "test": []}')
    assert finished.subjects() == {"training": ["a"], "validation": ["b"], "test": []}


def test_a_run_on_other_than_a_folder_has_no_subjects(finished):
    assert finished.subjects() == {"training": [], "validation": [], "test": []}


SHAPES = ['{"training": ["a"', "[]", "3", "null", '{"training": []}', "[[[" * 99999, '"' + "x" * 99999]


@pytest.mark.parametrize(
    "text",
    [
        *SHAPES,
        '{"training": "ab", "validation": [], "test": []}',
        '{"training": [["a"]], "validation": [], "test": []}',
        '{"training": {}, "validation": [], "test": [], "full": 3}',
    ],
)
def test_a_damaged_list_of_subjects_is_named(finished, text):
    finished.splits_file.write_text(text)
    with pytest.raises(FileError, match=r"splits\.json: .*Restore the file or train again"):
        finished.subjects()


@pytest.mark.parametrize("text", [*SHAPES[:4], *SHAPES[5:], '{"a": 3}', '[["a", 3]]', '{"a": ["b"]}'])
@pytest.mark.parametrize("name", ["files", "full_files"])
def test_a_damaged_list_of_files_is_named(finished, text, name):
    (finished.path / f"{name}.json").write_text(text)
    with pytest.raises(FileError, match=rf"{name}\.json: .*Restore the file or train again"):
        getattr(finished, name)()


def test_a_path_may_be_text(tmp_path):
    assert RunDirectory(str(tmp_path)) == RunDirectory(tmp_path)


def everything(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("scans", ["data", "stages", "targets", "data/training", "data/training/kspace"])
def test_scans_in_a_folder_that_only_looks_like_a_run_are_safe(run, tiny, scans, link):
    run.start(tiny(seed=3), "/elsewhere")
    (run.path / MARK).unlink()
    (run.path / scans).mkdir(parents=True)
    for name in ("sub-01_T1w.nii.gz", "scans.json", f"{LEFT}mine"):
        (run.path / scans / name).write_text("a scan")
    if link:
        run = RunDirectory(run.path.rename(run.path.with_name("real")).parent / "run")
        run.path.symlink_to("real")
    before = everything(run.path.resolve())
    for seed in (3, 4):
        with pytest.raises(SettingError, match="sansref did not make it as a run"):
            run.start(tiny(seed=seed), "/data")
        assert everything(run.path.resolve()) == before


@pytest.mark.parametrize("name", ["data/mine.nii.gz", "data/training/notes.txt", "stages/00/mine", "stages/plan.txt"])
def test_what_a_user_has_put_into_a_run_is_safe(run, tiny, name):
    run.start(tiny(), "/data")
    (run.path / name).parent.mkdir(parents=True, exist_ok=True)
    (run.path / name).write_text("a scan")
    before = everything(run.path)
    with pytest.raises(SettingError, match=r"not written by sansref|other settings"):
        run.start(tiny(seed=1), "/data")
    assert everything(run.path) == before


def test_links_in_a_run_are_not_followed_when_it_is_begun_anew(run, tiny, tmp_path):
    (tmp_path / "scans" / "training").mkdir(parents=True)
    (tmp_path / "scans" / "training" / "scans.json").write_text("mine")
    run.start(tiny(), "/data")
    (run.path / "data").symlink_to(tmp_path / "scans")
    with pytest.raises(SettingError, match="not written by sansref"):
        run.start(tiny(seed=1), "/data")
    assert (tmp_path / "scans" / "training" / "scans.json").read_text() == "mine"


@pytest.mark.parametrize("there", ["model.json", "model.safetensors", "stages/00/best.safetensors"])
def test_a_run_that_has_learned_is_kept_though_its_log_is_gone(run, tiny, there):
    run.start(tiny(), "/data")
    (run.path / there).parent.mkdir(parents=True, exist_ok=True)
    (run.path / there).touch()
    with pytest.raises(SettingError, match="holds a run with other settings"):
        run.start(tiny(seed=1), "/data")
    assert (run.path / there).exists()
    run.config_file.unlink()
    with pytest.raises(SettingError, match=r"whose config\.yaml is missing"):
        run.start(tiny(), "/data")


HELPER = """
from pathlib import Path
from sansref.methods import SSDU
Path("executed").touch()
class Mine(SSDU):
    pass
"""


def named(run, tiny, method):
    """A finished run of a stranger's, who names a method of his own."""
    run.start(tiny("ssdu"), "/data")
    save_file(tiny("ssdu").build().state_dict(), run.weights)
    run.card.write_text("{}")
    run.config_file.write_text(yaml.safe_dump({**run.read_config(), "method": method}))


@pytest.mark.parametrize(
    ("method", "code"),
    [
        ("run.helper:Mine", "run/helper.py"),
        ("run.deep.helper:Mine", "run/deep/helper.py"),
        ("run:Mine", "run/__init__.py"),
        ("helper_of_mine:Mine", "helper_of_mine.py"),
    ],
)
def test_the_code_of_a_stranger_is_not_executed(run, tiny, tmp_path, monkeypatch, method, code):
    named(run, tiny, method)
    (tmp_path / code).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / code).write_text(HELPER)
    monkeypatch.chdir(tmp_path)
    for act in (run.config, run.load):
        with pytest.raises(FileError, match="--trust_code"):
            act()
    trusting = RunDirectory(run.path, trust_code=True)
    if code.startswith("run/"):
        with pytest.raises(FileError, match="lies in the run"):
            trusting.load()
        assert not (tmp_path / "executed").exists()
    else:
        assert type(trusting.load()).__name__ == "Mine"
        assert (tmp_path / "executed").exists()
        sys.modules.pop("helper_of_mine")


def test_code_in_the_run_is_not_executed_when_one_stands_in_it(run, tiny, monkeypatch):
    named(run, tiny, "helper_in_run:Mine")
    (run.path / "helper_in_run.py").write_text(HELPER)
    monkeypatch.chdir(run.path)
    with pytest.raises(FileError, match="lies in the run"):
        RunDirectory(run.path, trust_code=True).config()
    assert not (run.path / "executed").exists()
