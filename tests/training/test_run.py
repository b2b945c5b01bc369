from __future__ import annotations

import json
import os

import pytest
import torch
import yaml
from safetensors.torch import save_file

from sansref.errors import FileError, SettingError
from sansref.training.run import RunDirectory, environment


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


def test_a_new_run_records_settings_data_and_versions(run, tiny):
    run.start(tiny("idr", seed=4), "/data")
    assert yaml.safe_load(run.config_file.read_text()) == {**tiny("idr", seed=4).flat(), "data": "/data"}
    recorded = json.loads((run.path / "environment.json").read_text())
    assert recorded.keys() == environment().keys()
    assert recorded["torch"] == torch.__version__.split("+")[0] or recorded["torch"] == torch.__version__
    assert run.config() == tiny("idr", seed=4)
    assert not run.finished


def test_the_same_run_goes_on_and_drops_what_a_kill_left_half_written(run, tiny):
    run.start(tiny(), "/data")
    (run.path / "stages" / "00").mkdir(parents=True)
    (run.path / "stages" / "00" / ".part-12-last.ckpt").write_bytes(b"half")
    (run.path / "metrics.csv").write_text("stage,epoch\n0,0\n")
    before = (run.path / "environment.json").read_bytes()
    run.start(tiny(), "/data")
    assert not list(run.path.rglob(".part-*"))
    assert (run.path / "metrics.csv").exists()
    assert (run.path / "environment.json").read_bytes() == before


def test_a_start_that_was_killed_is_begun_again(run, tiny):
    run.path.mkdir()
    (run.path / ".part-12-config.yaml").write_text("half")
    run.start(tiny(), "/data")
    assert run.config() == tiny()


def test_an_empty_folder_may_become_a_run(run, tiny):
    run.path.mkdir()
    run.start(tiny(), "/data")
    assert run.config() == tiny()


@pytest.mark.parametrize(
    ("changes", "data", "named"),
    [
        ({"seed": 1}, "/data", r"\(seed 0 -> 1\)"),
        ({"network": {"phases": 3}}, "/data", r"\(network \{.*'phases': 2.*\} -> \{.*'phases': 3.*\}\)"),
        ({"seed": 1, "epochs": 9}, "/data", r"\(epochs 2 -> 9, seed 0 -> 1\)"),
        ({}, "/other", r"\(data '/data' -> '/other'\)"),
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
    old = {name: value for name, value in run.read_config().items() if name != "lookahead"}
    run.config_file.write_text(yaml.safe_dump(old))
    run.start(tiny(), "/data")
    with pytest.raises(SettingError, match=r"\(lookahead 6 -> 5\)"):
        run.start(tiny(lookahead=5), "/data")


def test_another_method_is_named(run, tiny):
    run.start(tiny("idr"), "/data")
    (run.path / "metrics.csv").touch()
    with pytest.raises(SettingError, match=r"method 'idr' -> 'ssdu'.*stages 2 -> None"):
        run.start(tiny("ssdu"), "/data")


def test_a_run_that_has_learned_nothing_is_begun_anew_with_other_settings(run, tiny):
    # A first command with a mistake in it must not use its --out up.
    run.start(tiny(), "/date")
    for part in ("data/training", "stages/00"):
        (run.path / part).mkdir(parents=True)
    run.splits_file.write_text("{}")
    run.start(tiny(seed=1), "/data")
    assert run.read_config() == {**tiny(seed=1).flat(), "data": "/data"}
    assert sorted(path.name for path in run.path.iterdir()) == ["config.yaml", "environment.json"]


def test_a_folder_with_other_things_in_it_is_left_alone(run, tiny):
    run.path.mkdir()
    (run.path / "thesis.tex").write_text("important")
    with pytest.raises(SettingError, match="is not empty and not a run: choose another --out"):
        run.start(tiny(), "/data")
    assert [path.name for path in run.path.iterdir()] == ["thesis.tex"]


def test_a_file_is_no_run_directory(run, tiny):
    run.path.write_text("important")
    with pytest.raises(SettingError, match="is not empty and not a run: choose another --out"):
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
    with pytest.raises(FileError, match=r"holds a run that has not finished\. Run its 'sansref train' command again"):
        finished.load()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"stages: [1", "is not readable YAML"),
        (b"\xff\xfe\x00", "is not readable YAML"),
        (b"", "holds no settings"),
        (b"- 1\n- 2\n", "holds no settings"),
        (b"method: magic\n", "there is no method 'magic'"),
        (b"method: idr\nepochs: many\n", "holds an impossible setting"),
        (b"method: idr\nepochs: 0\n", r"holds an impossible setting \(epochs must be at least 1, got 0\)"),
        (b"method: idr\nnetwork: {phases: many}\n", "holds an impossible setting"),
        (b"method: idr\nflux: 3\n", "unknown setting 'flux'"),
    ],
)
def test_a_damaged_configuration_is_one_clear_line(finished, content, problem):
    finished.config_file.write_bytes(content)
    with pytest.raises(FileError, match=problem) as caught:
        finished.load()
    assert str(caught.value).startswith(f"{finished.config_file}: ")
    assert "\n" not in str(caught.value)


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
    finished.weights.unlink()
    refused("does not hold the weights of this run")


def test_subjects_are_those_of_the_split(finished):
    finished.splits_file.write_text('{"training": ["a"], "validation": ["b"], "test": []}')
    assert finished.subjects() == {"training": ["a"], "validation": ["b"], "test": []}


def test_a_run_on_other_than_a_folder_has_no_subjects(finished):
    assert finished.subjects() == {"training": [], "validation": [], "test": []}


def test_a_damaged_list_of_subjects_is_named(finished):
    finished.splits_file.write_text('{"training": ["a"')
    with pytest.raises(FileError, match=r"splits\.json: is not readable JSON\. Restore the file or train again"):
        finished.subjects()
