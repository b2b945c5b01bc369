"""What a command needs not be loaded for, and that what is refused early is what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import nibabel
import numpy as np
import pytest

from sansref.cli import UNPAIRED, check_early
from sansref.errors import FileError
from sansref.methods import Needs
from sansref.methods.registry import METHODS

pytestmark = pytest.mark.slow

LOADED = """
import json, sys
from sansref.cli import main
try:
    main(sys.argv[1:])
except SystemExit as left:
    print(json.dumps([left.code, sorted(sys.modules)]))
else:
    print(json.dumps([0, sorted(sys.modules)]))
"""


@pytest.fixture
def loaded():
    """The exit code of a command, what it said, and the modules that it loaded."""

    def run(*words):
        line = [sys.executable, "-c", LOADED, *map(str, words)]
        done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)
        code, modules = json.loads(done.stdout.splitlines()[-1])
        return code, done.stderr, set(modules)

    return run


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["info", "nowhere"], "nowhere: does not exist"),
        (["info", "--array"], "array"),
        (["info", ".", "--foo", "3"], "foo"),
        (["reconstruct", "nowhere", "a.nii", "--out", "x"], "nowhere: is not a run directory"),
        (["reconstruct", ".", "a.nii", "--out", "x"], "is not a run directory"),
        (["evaluate", "nowhere", "--data", "."], "nowhere: is not a run directory"),
        (["evaluate", ".", "--data=nowhere"], "nowhere: does not exist"),
        (["evaluate", "--data", ".", "--batch", "3", "nowhere"], "--batch"),
        (["evaluate", "--lpips", "alex", "--data", ".", "nowhere"], "nowhere: is not a run directory"),
        (["evaluate", ".", "--data", ".", "--normalise", "max"], "--normalise"),
        (["demo", "--epochs", "many"], "--epochs"),
        (["demo", "--epoch", "3"], "did you mean --epochs?"),
        (["zeroshot", "nowhere", "--out", "x"], "nowhere: does not exist"),
        (["serve", "."], "is not a run directory"),
        (["serve", "nowhere"], "nowhere: is not a run directory"),
        (["serve", ".", "--pixels", "int16"], "--pixels"),
        (["train", "ird", "--data", "."], "there is no method 'ird': did you mean idr?"),
        (["train", "idr", "--data", "nowhere", "--out", "x"], "nowhere: does not exist"),
        (["train", "cyclegan", "--undersampled", "nowhere", "--out", "x"], "nowhere: does not exist"),
        (["train", "idr", "--config", "smal-4x"], "there is no configuration 'smal-4x'"),
        (["compare", "nowhere.yaml", "--data", "."], "there is no configuration 'nowhere.yaml'"),
        (["compare", "--data", ".", "--out", "x", "nowhere.yaml"], "there is no configuration 'nowhere.yaml'"),
        (["compare", "--data", ".", "--jobs", "x"], "--jobs"),
        (["compare"], "these are required: PLAN, --data, --out"),
    ],
)
def test_wrong_words_are_told_before_anything_heavy_is_loaded(loaded, words, said):
    code, err, modules = loaded(*words)
    assert code == 2
    assert err.startswith("sansref: ")
    assert said in err
    assert not modules & {"torch", "numpy", "scipy", "matplotlib", "lightning_fabric", "h5py", "rich"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "idr", "--dta", "."], "did you mean --data?"),
        (["train", "idr", "--data", ".", "--epochs", "many", "--out", "x"], "--epochs"),
        (["zeroshot", "--out", "x"], "these are required: FILE"),
    ],
)
def test_wrong_settings_of_a_training_are_told_before_what_only_training_needs_is_loaded(loaded, words, said):
    code, err, modules = loaded(*words)
    assert code == 2
    assert said in err
    assert not modules & {"scipy.stats", "matplotlib", "lightning_fabric", "torchmetrics", "torch._dynamo"}


def test_files_to_be_reconstructed_are_looked_for_before_anything_is_loaded(loaded, trained):
    code, err, modules = loaded("reconstruct", trained.path, "nowhere.nii", "--out", "x")
    assert (code, err) == (2, "sansref: nowhere.nii: does not exist. Check the spelling of the path.\n")
    assert "torch" not in modules


def test_info_loads_no_more_than_it_needs(loaded, trained, tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.random.default_rng(0).random((32, 32, 2)), np.eye(4)), tmp_path / "a.nii")
    for path in (tmp_path / "a.nii", trained.path):
        code, err, modules = loaded("info", path)
        assert (code, err) == (0, "")
        assert not modules & {"pytorch_lightning", "lightning_fabric", "scipy.stats", "matplotlib", "torch._dynamo"}


@pytest.mark.parametrize(
    "words",
    [
        ["train", "mine:Method", "--own_option", "3"],
        ["train", "ssdu", "--full", "nowhere"],
        ["train", "--data", "nowhere"],
        ["train", "idr", "--full", "null", "--network.phases=3"],
        ["train"],
        ["train", "--data", "."],
        ["evaluate", "--data", "."],
        ["evaluate", "nowhere"],
        ["evaluate", "nowhere", "--data", "nowhere", "--subjects", "some"],
        ["reconstruct", "--out", "x", "run"],
        ["info"],
        ["compare", "--data=."],
    ],
)
def test_what_cannot_be_told_early_is_left_to_the_command(words):
    check_early(words[0], words[1:], METHODS)


def test_the_methods_that_learn_from_two_folders_are_known():
    assert {name for name, method in METHODS.items() if method.needs is Needs.UNPAIRED} == {*UNPAIRED}
    for name in {*METHODS} - {*UNPAIRED}:
        check_early("train", [name, "--full", "nowhere"], METHODS)
    with pytest.raises(FileError, match=r"nowhere: does not exist"):
        check_early("train", ["iscl", "--full", "nowhere"], METHODS)


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are not there")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "ssdu", "--data", ".", "--wrong", "3"], b"preparing to train ...\r\n"),
        (["zeroshot", __file__, "--wrong", "3"], b"preparing to learn from one scan ...\r\n"),
        (["train", "ssdu", "--help"], b""),
    ],
)
def test_people_are_told_what_begins_before_pytorch_is_loaded(words, said):
    import pty

    ours, theirs = pty.openpty()
    line = [sys.executable, "-m", "sansref", *words]
    done = subprocess.run(line, stdout=subprocess.PIPE, stderr=theirs, check=False, timeout=120)
    os.close(theirs)
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        try:
            told = terminal.read(4096)
        except OSError:  # nothing was written
            told = b""
    assert told.startswith(said) if said else told == b""
    assert done.returncode == (2 if said else 0)
