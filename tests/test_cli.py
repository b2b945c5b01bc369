"""Every command from its words to its files; wrong words are one line and exit code 2."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys

import h5py
import nibabel
import numpy as np
import pytest
import yaml

from sansref import __version__, cli, machine
from sansref.data.scan_store import PreparedScans
from sansref.methods import Needs
from sansref.methods.registry import METHODS
from sansref.networks import NetworkOptions
from sansref.presets import preset_file

pytestmark = pytest.mark.slow

QUICK = ["--epochs", "1", "--threads", "1", "--accelerator", "cpu"]
SMALL = ["--network.phases", "2", "--network.channels", "4", *QUICK]
SMALL_TRANSLATOR = ["--network.width", "2", "--network.extractor_layers", "3", "--crop", "[80,80]", *QUICK]


@pytest.fixture
def fails(sansref):
    """Run a command line that must end in one line on the error stream, and return that line."""

    def run(*words):
        code, _, err = sansref(*words)
        assert code == 2
        assert err.startswith("sansref: ")
        assert err.count("\n") == 1, err
        return err.removeprefix("sansref: ").rstrip()

    return run


# Help and start


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_command_and_method(sansref, words):
    code, out, err = sansref(*words)
    assert (code, err) == (0, "")
    for name in (*cli.COMMANDS, *cli.METHOD_LINES):
        assert f"  {name} " in out
    assert max(map(len, out.splitlines())) <= 110


def test_help_is_there_at_once_and_loads_no_engine():
    heavy = "torch", "pytorch_lightning", "numpy", "jsonargparse", "rich", "matplotlib", "h5py"
    code = f"import sys, sansref.cli; sansref.cli.main(['--help']); print([m for m in {heavy} if m in sys.modules])"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1
    assert out.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_keeps_freed_memory_before_it_works(monkeypatch, sansref, command):
    done = []
    monkeypatch.setattr(machine, "keep_freed_memory", lambda: done.append("kept"))
    monkeypatch.setitem(cli.COMMANDS, command, lambda _: done.append("worked"))
    assert sansref(command)[0] == 0
    assert done == ["kept", "worked"]


def test_version(sansref):
    assert sansref("--version") == (0, f"sansref {__version__}\n", "")


def test_package_can_be_run_as_a_module():
    done = subprocess.run([sys.executable, "-m", "sansref", "nonsense"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("sansref: there is no command 'nonsense'")


@pytest.mark.parametrize("command", ["demo", "zeroshot", "reconstruct", "evaluate", "info", "serve"])
def test_every_command_explains_itself(sansref, command):
    code, out, _ = sansref(command, "--help")
    assert code == 0
    assert f"usage: sansref {command}" in out
    assert " ".join(cli.COMMANDS[command].__doc__.split()) in " ".join(out.split())


@pytest.mark.parametrize("method", cli.METHOD_LINES)
def test_every_option_of_a_method_is_explained(sansref, method):
    shown = {}
    for words in (["--help"], ["--help", "all"]):
        code, out, _ = sansref("train", method, *words)
        assert code == 0
        shown[len(words)] = [line for line in out.splitlines() if line.startswith("  --")]
        assert not [mark for mark in ("`", ":class:", "None", "Optional", "typing") if mark in out]
    assert 14 <= len(shown[1]) <= 20 < 60 < len(shown[2])
    text = " ".join(out.split())
    unrolled = METHODS[method].network_type is NetworkOptions
    network = "Number of unrolled iterations of ISTA-Net" if unrolled else "Residual blocks of the generator"
    for words in (
        "Fraction of the subjects kept for validation",
        "Number of grid points divided by the number of acquired",
        network,
    ):
        assert words in text


def test_train_alone_lists_the_methods(sansref):
    for words in (["train", "--help"], ["train", "-h"]):
        code, out, _ = sansref(*words)
        assert code == 0
        assert all(f"  {method} " in out for method in cli.METHOD_LINES)


# Wrong words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["foo"], "there is no command 'foo': use one of demo, zeroshot, train, reconstruct, evaluate, compare, info"),
        (["train"], "train needs a method before its options: use one of idr, idr_paper"),
        (["train", "foo"], "there is no method 'foo': use one of idr, idr_paper, ssdu, supervised"),
        (["train", "ssud"], "there is no method 'ssud': did you mean ssdu? Use one of idr, idr_paper, ssdu"),
        (
            ["train", "total_variation"],
            "the method 'total_variation' learns nothing, and is not trained: it stands in 'sansref evaluate RUN",
        ),
        (["train", "SSDU"], "there is no method 'SSDU': did you mean ssdu?"),
        (["train", "--out", "x"], "train needs a method before its options: use one of idr, idr_paper"),
        (["trian"], "there is no command 'trian': did you mean train? Use one of demo, zeroshot, train"),
        (["info"], "these are required: PATH (see 'sansref info --help')"),
        (["evaluate", "run"], "these are required: --data (see 'sansref evaluate --help')"),
        (["demo", "--snr", "loud"], "--snr takes a number, not loud (see 'sansref demo --help')"),
        (["demo", "--matrix", "20"], "the demo's matrix must lie between 32 and 256, got 20"),
        (["demo", "--stages", "0"], "stages must be at least 1, got 0"),
        (["demo", "--phases", "0"], "network.phases must lie in 1..1000, got 0"),
        (
            ["evaluate", "run", "--data", "x", "--subjects", "some"],
            "--subjects takes one of auto, test, all, not some (see 'sansref evaluate --help')",
        ),
        (
            ["reconstruct", "run", "a.nii", "--out", "x", "--format", "gif"],
            "--format takes one of source, nifti, hdf5, png, dicom, mrd, not gif",
        ),
    ],
)
def test_wrong_words_are_one_line(fails, words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert fails(*words).startswith(message)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epochs", "many"], "--epochs takes a whole number, not many"),
        (["--epochs", "0"], "training.epochs must be at least 1, got 0"),
        (["--epoch", "3"], "there is no option --epoch: did you mean --epochs?"),
        (["-epochs", "3"], "there is no option -epochs: did you mean --epochs?"),
        (["--Phases", "3"], "there is no option --Phases: did you mean --phases?"),
        (["--lr", "3"], "there is no option --lr: did you mean --learning_rate?"),
        (["--accel=3"], "there is no option --accel: did you mean --acceleration or --accelerator?"),
        (["--skip_bad", "true"], "--skip_bad takes no value, but 'true' follows it"),
        (["data"], "'data' is not expected here: every value follows the name of its option, as in --data data"),
        (["--foo", "3"], "there is no option --foo (see"),
        (["--snr", "loud"], "--snr takes a number or null, not loud"),
        (["--matrix", "3"], "--matrix takes 2 whole numbers such as 128,128 or null, not 3"),
        (["--crop", "32,32,32"], "--crop takes 2 whole numbers such as 128,128 or null, not [32, 32, 32]"),
        (["--score", "mine"], "--score takes one of held_out, reference, not mine"),
        (["--network.name", "foo"], "--network.name takes one of ista_plus, ista, modl, unet, not foo"),
        (["--coils.maps", "esprit"], "--coils.maps takes one of espirit, none, not esprit: did you mean espirit?"),
        (["--network", "3"], "there is no option --network"),
        (["--network.phases", "0"], "network.phases must lie in 1..1000, got 0"),
        (["--learning-rate", "0"], "training.learning_rate must be positive, got 0.0"),
        (["--acceleration", "0.5"], "an acceleration of 0.5 is impossible"),
        (["--mask", "foo"], "unknown mask 'foo': use one of"),
        (["--ratio", "2"], "ratio must lie between 0 and 1, got 2"),
        (["--partitions", "0"], "partitions must be at least 1, got 0"),
        (["--slices", "-1"], "central must lie in (0, 1] and slices must not be negative"),
        (["--crop", "[0,0]"], "crop must be a positive height and width of at most 8192, got 0 and 0"),
        (["--workers", "-1"], "machine.workers must be at least 0, got -1"),
        (["--accelerator", "abacus"], "1 device(s) of accelerator 'abacus' on 1 node(s)"),
        (["--learning_rate", "1e30"], "the loss of turn 'network' is"),
        (["--validation", "0.99"], "6 subject(s) cannot be split"),
        (["--config"], "--config needs a value"),
        (["--epochs"], "--training.epochs needs a value: a whole number"),
        (["--config", "smal-4x"], "there is no configuration 'smal-4x': did you mean small-4x?"),
        (
            ["--config", "one-table-small"],
            f"{preset_file('one-table-small')}: is the plan of a comparison. Use 'sansref compare",
        ),
        (["--mask", "variabel"], "unknown mask 'variabel': did you mean variable_density?"),
        (["--config", "magic"], "there is no configuration 'magic': give a YAML file, or one of"),
        (["--stages", "3"], "there is no option --stages here: it is an option of idr"),
        (["--full", "."], "there is no option --full here: it is an option of methods that learn from unpaired scans"),
    ],
)
def test_wrong_options_of_training_are_one_line(fails, heads, tmp_path, words, message):
    line = fails("train", "ssdu", "--data", heads, "--out", tmp_path / "run", *SMALL, *words)
    assert line.startswith(message)


@pytest.mark.parametrize("command", [("train", "ssdu"), ("evaluate", "run")])
def test_data_are_one_folder_or_file(fails, trained, heads, tmp_path, monkeypatch, command):
    monkeypatch.chdir(trained.path.parent)
    words = [trained.path.name if word == "run" else word for word in command]
    for given in (["--data", heads], [f"--data={heads}"]):
        line = fails(*words, *given, tmp_path / "raw scans" / "p 1.npy")
        assert line.startswith(f"'{tmp_path}/raw scans/p 1.npy' is not expected here: --data takes one folder or file")


def test_a_file_that_stops_others_can_be_left_out(fails, trained, heads, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(heads, data)
    (data / "sub-00_T1w.nii").write_bytes(b"no volume")
    for words in (
        ("train", "ssdu", "--data", data, "--out", tmp_path / "run", *SMALL),
        ("evaluate", trained.path, "--data", data, "--out", tmp_path / "scores"),
        ("reconstruct", trained.path, data, "--out", tmp_path / "images"),
        ("info", data),
    ):
        assert fails(*words).endswith("Or leave such files out: --skip_bad.")
    one = ("reconstruct", trained.path, data / "sub-00_T1w.nii", "--out", tmp_path / "one")
    assert "--skip_bad" not in fails(*one)


def test_files_too_small_for_the_options_are_named(fails, heads, tmp_path):
    line = fails("train", "ssdu", "--data", heads, "--out", tmp_path / "run", *SMALL, "--matrix", "[64,64]")
    assert "sub-01_T1w.nii.gz: does not go with the settings (the matrix (64, 64) is larger than" in line
    assert "choose a smaller --matrix" in line


def test_pairs_of_numbers_are_written_as_people_write_them(sansref, heads, tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("data: {matrix: 16x20}\n")
    for number, words in enumerate(
        (["--matrix", "16,20"], ["--matrix=16x20"], ["--matrix", "[16, 20]"], ["--config", file])
    ):
        run = tmp_path / str(number)
        assert sansref("train", "ssdu", "--data", heads, "--out", run, *SMALL, "--slices", "1", *words)[0] == 0
        assert yaml.safe_load((run / "config.yaml").read_text())["data"]["matrix"] == [16, 20]


def test_swapped_arguments_are_named(fails, trained, heads, tmp_path):
    head = heads / "sub-01_T1w.nii.gz"
    for scan in (head, heads):
        line = fails("reconstruct", scan, trained.path, "--out", tmp_path / "images")
        assert f"the run comes first, as in 'sansref reconstruct {trained.path} {scan}'" in line
        line = fails("evaluate", scan, "--data", trained.path)
        assert f"the run comes first, as in 'sansref evaluate {trained.path} --data {scan}'" in line


def test_skipped_files_are_listed_when_nothing_is_left(sansref, trained, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for name in ("sub-01_T1w.nii", "sub-02_T1w.nii"):
        (data / name).write_bytes(b"no volume")
    for words in (
        ["train", "ssdu", "--data", data, "--out", tmp_path / "run", *SMALL],
        ["evaluate", trained.path, "--data", data, "--out", tmp_path / "scores"],
        ["reconstruct", trained.path, data, "--out", tmp_path / "images"],
    ):
        code, _, err = sansref(*words, "--skip_bad")
        assert code == 2
        *skipped, last = err.splitlines()
        assert [line.split(": is ")[0] for line in skipped] == [f"skipped: {path}" for path in sorted(data.iterdir())]
        assert last.startswith("sansref: ")


def test_files_that_break_while_they_are_read_are_listed_too(sansref, write_heads, tmp_path):
    data = write_heads(tmp_path / "data", subjects=2)
    for path in data.iterdir():
        path.write_bytes(path.read_bytes()[:-40])
    code, _, err = sansref("train", "ssdu", "--data", data, "--out", tmp_path / "run", *SMALL, "--skip_bad")
    assert code == 2
    assert sum(line.startswith("skipped: ") for line in err.splitlines()) >= 1


def test_a_small_preset_serves_one_scan_of_any_size(sansref, write_knee, tmp_path):
    """Its matrix and its share for the test are no reason to refuse, and nothing measured is cut without a word."""
    quick = ["--config", "small-4x", *SMALL, "--max_matrix", "16,40"]
    scan = write_knee(tmp_path / "knee.h5")  # measured, 32 x 36
    code, out, err = sansref("train", "ssdu", "--data", scan, "--out", tmp_path / "a", *quick)
    assert code == 0, err
    assert [line.split(None, 2)[2] for line in out.splitlines() if line.startswith("no effect")] == [
        "--test 0.3: with a single subject, nobody can be set aside",
        "--snr: no effect, the k-space was measured",
        "--max_matrix: measured k-space stays whole, 32 x 36; --matrix 16,36 would cut it",
    ]
    assert PreparedScans(tmp_path / "a" / "data" / "training").planes == [(32, 36)] * 2
    code, out, err = sansref("train", "ssdu", "--data", scan, "--out", tmp_path / "b", *quick, "--matrix", "16,20")
    assert code == 0, err
    assert "stays whole" not in out
    assert PreparedScans(tmp_path / "b" / "data" / "training").planes == [(16, 20)] * 2


def test_options_without_effect_on_undersampled_scans_are_said(sansref, write_knee, tmp_path):
    scan = write_knee(tmp_path / "knee.h5", every=2)
    words = ["train", "ssdu", "--data", scan, "--out", tmp_path / "run", *SMALL, "--acceleration", "6"]
    code, out, err = sansref(*words)
    assert code == 0, err
    assert "--mask, --acceleration: no effect, undersampled scans keep their own masks\n" in out
    facts = sansref("info", tmp_path / "run")[1]
    (line,) = (line for line in facts.splitlines() if line.startswith("sampling"))
    assert line.split(None, 1)[1] == "the scans were undersampled by the scanner (1.71x)"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("epochs: [1", "is not readable YAML (while parsing a flow sequence"),
        ("training: {epochs: many}", "training.epochs takes a whole number, not many"),
        ("epochs: 3\nepochs: 4", "gives 'epochs' twice"),
        ("network:\n  phases: 3\n  phases: 4", "gives 'phases' twice"),
        (
            "training: {schedule: plato}",
            "training.schedule takes one of plateau, linear, cooldown, not plato: did you mean",
        ),
        ("data: {matrix: 128}", "data.matrix takes 2 whole numbers such as 128,128 or null, not 128"),
        ("foo: 3", "there is no setting 'foo'"),
        ("3: foo", "there is no setting '3'"),
        ("config: small-4x", "there is no setting 'config'"),
        ("epoch: 3", "there is no setting 'epoch': did you mean training.epochs?"),
        ("method: {stages: 3}", "there is no setting 'method.stages'"),
        ("network:\n  phase: 3", "there is no setting 'network.phase': did you mean network.phases?"),
        ("network: 3", "network holds settings such as network.name, not 3"),
        ("extends: one-table-small", "is the plan of a comparison. Use 'sansref compare"),
        ("kind: comparison", "is the plan of a comparison. Use 'sansref compare"),
        ("- 3", "holds no settings"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
    ],
)
def test_wrong_configurations_are_one_line(fails, heads, tmp_path, content, message):
    file = tmp_path / "own.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    for words in (["--config", file], [f"--config={file}"]):
        line = fails("train", "ssdu", *words, "--data", heads, "--out", tmp_path / "run")
        assert line.startswith(f"{file}: {message}")


def test_missing_data_and_runs_are_one_line(fails, heads, tmp_path):
    nowhere, text, head = tmp_path / "nowhere", tmp_path / "text.nii", heads / "sub-01_T1w.nii.gz"
    text.write_text("no volume")
    train = ["train", "ssdu", "--out", tmp_path / "run", "--data"]
    for words, message in [
        ([*train, nowhere], "nowhere: does not exist. Check the spelling of the path."),
        ([*train, text], "text.nii: is not in a format that sansref reads"),
        (
            ["train", "ssdu", "--data", head, "--out", text],
            "is not empty, and sansref did not make it as a run: choose another --out",
        ),
        (
            ["train", "ssdu", "--data", head, "--out", heads],
            "scans must be safe from what is written there",
        ),
        (["train", "ssdu", "--data", head, "--out", text / "run"], "cannot be written"),
        (["train", "ssdu", "--data", heads, "--out", heads / "run"], "where its files would pass for scans"),
        (["evaluate", nowhere, "--data", heads], "nowhere: is not a run directory (no config.yaml)"),
        (["reconstruct", heads, head, "--out", nowhere], "is not a run directory (no config.yaml)"),
        (["info", nowhere], "nowhere: does not exist"),
        (["info", text], "is not in a format that sansref reads"),
    ]:
        assert message in fails(*words)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_an_interrupt_is_one_line_and_exit_code_130(sansref, monkeypatch, command):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, command, interrupted)
    goes_on = command in ("demo", "zeroshot", "train", "reconstruct", "compare")
    line = "sansref: stopped; the same command goes on where it was\n" if goes_on else "sansref: stopped\n"
    assert sansref(command) == (130, "", line)


TALK = """
import os, sys
import sansref.cli as cli
def talk(arguments):
    for _ in range(int(arguments[0])):
        print("x" * 99)
    os.write(2, b"done")
cli.COMMANDS["info"] = talk
"""


@pytest.fixture
def unread():
    """The end to write to of a pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize("unbuffered", [True, False])
@pytest.mark.parametrize(("lines", "said"), [(100000, b""), (1, b"done")])
def test_nobody_who_reads_is_no_error(lines, said, unbuffered, unread):
    """As behind ``| head``: found out while lines are written, or when the last ones are."""
    words = [sys.executable, "-c", f"{TALK}cli.main(['info', '{lines}'])"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1" if unbuffered else ""}
    done = subprocess.run(words, stdout=unread, stderr=subprocess.PIPE, env=environment, check=False)
    assert done.returncode == 128 + signal.SIGPIPE
    assert done.stderr == (b"" if unbuffered else said)


def test_nobody_who_reads_errors_is_no_error(unread):
    words = [sys.executable, "-c", "import sansref.cli as cli; cli.main(['nothing'])"]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=unread, check=False)
    assert (done.returncode, done.stdout) == (128 + signal.SIGPIPE, b"")


def test_a_pipe_of_somebody_else_that_breaks_is_a_bug(sansref, monkeypatch):
    def broken(arguments):
        raise BrokenPipeError

    monkeypatch.setitem(cli.COMMANDS, "info", broken)
    with pytest.raises(BrokenPipeError):
        sansref("info")


def test_a_bug_keeps_its_traceback(sansref, monkeypatch):
    monkeypatch.setitem(cli.COMMANDS, "info", lambda arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sansref("info")


def test_a_folder_that_may_not_be_used_is_one_line(fails, monkeypatch):
    """Python 3.11 raises where it only looks whether something exists."""

    def refused(words):
        raise PermissionError(13, "Permission denied", "/data/theirs")

    monkeypatch.setitem(cli.COMMANDS, "info", refused)
    assert "/data/theirs: cannot be used (Permission denied)" in fails("info", "x")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_memory_that_runs_out_is_one_line(fails, monkeypatch, error):
    def fail(_):
        raise error

    monkeypatch.setitem(cli.COMMANDS, "info", fail)
    assert "memory ran out. Close other programs" in fails("info", "x")


def test_threads_wait_without_spinning_unless_told_otherwise(sansref, monkeypatch):
    monkeypatch.setitem(cli.COMMANDS, "info", lambda arguments: print(os.environ["OMP_WAIT_POLICY"]))
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert sansref("info")[1] == "passive\n"
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert sansref("info")[1] == "active\n"


# Every command


@pytest.mark.parametrize("method", cli.METHOD_LINES)
def test_train(sansref, heads, tmp_path, method):
    stages = ["--stages", "2"] if method.startswith("idr") else []
    small = SMALL if METHODS[method].network_type is NetworkOptions else SMALL_TRANSLATOR
    run = tmp_path / "runs" / method
    code, out, err = sansref("train", method, "--data", heads, "--out", run, *small, *stages)
    unpaired = METHODS[method].needs is Needs.UNPAIRED
    health = ", health.png" if unpaired else ""
    *said, last = out.splitlines()
    assert (code, last) == (0, f"trained: {run} (model.safetensors, metrics.csv, log.txt{health})")
    assert {line[:16].rstrip() for line in said} >= {"subjects", "recognised by", "training", "mask", "expected time"}
    assert (run / "health.png").exists() == unpaired
    shown = [f"stage {stage}/2 epoch 1/1" for stage in (1, 2)] if stages else ["epoch 1/1"]
    assert [line.rsplit(" ", 1)[0] for line in err.splitlines()] == [
        f"{method.upper()} {words} score" for words in shown
    ]
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert settings["method"]["name"] == method
    assert settings["data"]["folder"] == str(heads)
    network = json.loads((run / "model.json").read_text())["config"]["network"]
    assert 2 in (network.get("phases"), network.get("width"))


def test_dashes_and_underscores_are_the_same(sansref, heads, tmp_path):
    for name, words in (
        ("a", ["--batch-size", "2", "--learning-rate=0.01", "--plateau-patience", "3"]),
        ("b", ["--batch_size", "2", "--learning_rate=0.01", "--plateau_patience", "3"]),
    ):
        assert sansref("train", "ssdu", "--data", heads, "--out", tmp_path / name, *SMALL, *words)[0] == 0
    assert (tmp_path / "a" / "config.yaml").read_text() == (tmp_path / "b" / "config.yaml").read_text()
    assert "batch_size: 2" in (tmp_path / "a" / "config.yaml").read_text()


def test_dashes_in_values_stay(sansref, heads, tmp_path):
    run = tmp_path / "a-run--with-dashes"
    assert sansref("train", "ssdu", "--data", heads, f"--out={run}", *SMALL)[0] == 0
    assert (run / "model.json").exists()


def test_other_settings_need_another_place(sansref, fails, heads, tmp_path):
    words = ["train", "ssdu", "--data", heads, "--out", tmp_path / "run", *SMALL]
    assert sansref(*words)[0] == 0
    assert "(training.seed 0 -> 1): choose another --out" in fails(*words, "--seed", "1")
    assert sansref(*words)[0] == 0


def test_bad_files_stop_training_or_are_listed_at_the_end(sansref, fails, write_heads, tmp_path):
    data = write_heads(tmp_path / "data", subjects=3)
    (data / "sub-08_T1w.nii").write_bytes(b"no volume")
    broken = data / "sub-01_T1w.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-40])
    words = ["train", "ssdu", "--data", data, "--out", tmp_path / "run", *SMALL, "--validation", "0"]
    assert "sub-0" in fails(*words)
    for spelling in ("--skip-bad", "--skip_bad"):
        code, out, err = sansref(*words[:5], tmp_path / spelling, *words[6:], spelling)
        assert code == 0
        assert out.splitlines()[-1].startswith("trained: ")
        said = err.splitlines()[-2:]
        assert [line.split(": ")[0] for line in said] == ["skipped", "skipped"]
        assert {name for name in ("sub-01", "sub-08") if any(name in line for line in said)} == {"sub-01", "sub-08"}


def test_reconstruct_nifti(sansref, trained, heads, tmp_path):
    source = heads / "sub-01_T1w.nii.gz"
    code, out, _ = sansref("reconstruct", trained.path, source, "--out", tmp_path)
    assert code == 0
    assert out.splitlines() == [
        f"{source}: magnitude images; their k-space was simulated and undersampled as in training",
        f"{source} -> {tmp_path / 'sub-01_T1w_recon.nii.gz'}",
    ]
    before, after = nibabel.load(source), nibabel.load(tmp_path / "sub-01_T1w_recon.nii.gz")
    assert before.shape == after.shape
    np.testing.assert_allclose(before.affine, after.affine)


def test_reconstruct_fastmri_in_several_formats(sansref, trained, write_knee, tmp_path):
    source = write_knee(tmp_path / "file1000.h5", every=2)
    words = ["reconstruct", trained.path, source, "--out", tmp_path / "out"]
    assert sansref(*words) == (0, f"{source} -> {tmp_path / 'out' / 'file1000.h5'}\n", "")
    with h5py.File(tmp_path / "out" / "file1000.h5") as file:
        assert file["reconstruction"].shape == (2, 32, 32)
    assert sansref(*words) == (0, "1 file(s) had been reconstructed before\n", "")
    words[-1] = tmp_path / "other"
    code, out, _ = sansref(*words, "--format", "png", "nifti")
    assert (code, out) == (0, f"{source} -> 3 files in {tmp_path / 'other'}\n")
    pngs = sorted(path.name for path in (tmp_path / "other" / "file1000_png").iterdir())
    assert pngs == ["slice-000.png", "slice-001.png"]


def test_reconstruct_says_which_options_do_nothing_to_any_file(sansref, trained, heads, tmp_path):
    maps, head = tmp_path / "maps.npy", heads / "sub-01_T1w.nii.gz"
    np.save(maps, np.ones((2, 32, 32), np.complex64))
    np.save(tmp_path / "coils.npy", np.random.default_rng(0).normal(size=(2, 32, 32)) + 0j)
    words = ["reconstruct", trained.path, head, "--axes", "coil,row,column", "--maps", maps, "--bound", "0.8"]
    told = [
        "--axes: no effect, the files say themselves what they hold",
        "--maps: no effect, no file holds k-space of several coils",
        "--bound: no effect without --error_map",
    ]
    _, out, err = sansref(*words, "--out", tmp_path / "out")
    assert out.splitlines()[2:] == told, err
    _, out, err = sansref(*words, "--out", tmp_path / "out")
    assert out.splitlines()[1:] == told, err
    _, out, err = sansref(*words[:3], tmp_path / "coils.npy", *words[3:], "--out", tmp_path / "both")
    assert [line for line in out.splitlines() if "no effect" in line] == told[2:], err


def test_reconstruct_lists_bad_files(sansref, fails, trained, write_heads, tmp_path):
    data = write_heads(tmp_path / "data", subjects=1)
    (data / "sub-00_T1w.nii").write_bytes(b"no volume")
    words = ["reconstruct", trained.path, data, "--out", tmp_path / "out", "--accelerator", "cpu"]
    assert "sub-00_T1w.nii: is not in a format" in fails(*words)
    code, out, err = sansref(*words, "--skip-bad")
    assert code == 0
    assert out.splitlines()[-1] == f"{data / 'sub-01_T1w.nii.gz'} -> {tmp_path / 'out' / 'sub-01_T1w_recon.nii.gz'}"
    assert err.startswith(f"skipped: {data / 'sub-00_T1w.nii'}: is not in a format")
    assert "with other formats: choose another --out" in fails(*words, "--format", "png")
    assert fails(*words, "--accelerator", "abacus").startswith("--accelerator takes one of auto, cpu, gpu")
    assert fails(*words, "--ray", "nowhere").startswith("'nowhere' is not the address of a Ray cluster: give HOST:PORT")


def test_reconstruct_refuses_an_unfinished_run(fails, tiny, heads, tmp_path):
    from sansref.training.run import RunDirectory

    RunDirectory(tmp_path / "run").start(tiny("ssdu"), "/data")
    line = fails("reconstruct", tmp_path / "run", heads / "sub-01_T1w.nii.gz", "--out", tmp_path / "out")
    assert line.endswith("holds an unfinished run. Run its 'sansref train' command again.")


def test_evaluate(sansref, trained, heads, tmp_path):
    code, out, err = sansref("evaluate", trained.path, "--data", heads, "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    assert "zero-filled" in out
    assert "idr" in out
    assert "mean ± standard deviation over 8 slices" in " ".join(out.split())
    left_out = ", ".join(sorted(name for part in ("training", "validation") for name in trained.subjects()[part]))
    lines = out.splitlines()
    assert lines[-2].endswith(f"did not set them aside: {left_out}")
    assert lines[-1] == f"report, scores and figures: {tmp_path / 'out'}"
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {".sansref", "report.html", "scores.csv", "summary.json", "worst.png", "median.png"}


@pytest.mark.parametrize(("subjects", "slices"), [("test", 8), ("all", 24)])
def test_evaluate_chosen_subjects(sansref, trained, heads, tmp_path, subjects, slices):
    words = ["evaluate", trained.path, "--data", heads, "--out", tmp_path / "out", "--subjects", subjects]
    code, out, _ = sansref(*words)
    assert code == 0
    assert ("left out" in out) is (subjects == "test")
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["methods"]["idr"]["slices"] == slices


def test_evaluate_lists_bad_files(sansref, fails, trained, write_heads, tmp_path):
    data = write_heads(tmp_path / "data", subjects=1, slices=3)
    (data / "sub-08_T1w.nii").write_bytes(b"no volume")
    words = ["evaluate", trained.path, "--data", data, "--out", tmp_path / "out"]
    assert "sub-08_T1w.nii: is not in a format" in fails(*words)
    code, _, err = sansref(*words, "--skip-bad")
    assert code == 0
    assert err.startswith("skipped: ")
    assert "sub-08_T1w.nii: is not in a format" in err


def test_info(sansref, trained, heads):
    code, out, err = sansref("info", heads / "sub-01_T1w.nii.gz")
    assert (code, err) == (0, "")
    assert out.splitlines()[2] == "subject         sub-01"
    code, out, err = sansref("info", trained.path)
    assert (code, err) == (0, "")
    assert "state           finished" in out.splitlines()


def test_a_dry_run_and_a_folder_say_whose_scans_are_learned_from(sansref, fails, heads, tmp_path):
    for words in (["info", heads], ["train", "ssdu", "--data", heads, "--out", tmp_path / "run", *SMALL, "--dry-run"]):
        code, out, err = sansref(*words)
        assert (code, err) == (0, "")
        facts = {line[:16].rstrip(): line[16:] for line in out.splitlines()}
        assert facts["subjects"] == "6"
        assert facts["recognised by"].startswith("BIDS name: sub-01, sub-02")
        assert facts["expected time"].startswith("about ")
    assert not (tmp_path / "run").exists()


def test_whose_scans_they_are_is_asked_and_can_be_said(sansref, fails, heads, tmp_path):
    for number, name in enumerate(("P1_a", "P1_b", "P2_a")):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(number).random((2, 32, 32)))
    train = ["train", "ssdu", "--data", tmp_path, "--out", tmp_path.parent / "of-people", *SMALL]
    for words in (train, [*train, "--dry_run"], ["info", tmp_path]):
        assert "--subject_from folder" in fails(*words)
        code, out, _ = sansref(*words, "--subject_from", "P[0-9]")
        assert code == 0
        assert "recognised by   --subject_from P[0-9]: P1, P2\n" in out
    assert (
        yaml.safe_load((tmp_path.parent / "of-people" / "config.yaml").read_text())["data"]["subject_from"] == "P[0-9]"
    )
    assert "(data.subject_from 'P[0-9]' -> 'file'): choose" in fails(*train, "--subject_from", "file")
    assert "subject_from" in fails(*train, "--subject_from", "(")


def test_label_maps_are_told(sansref, fails, write_heads, tmp_path):
    data = write_heads(tmp_path / "data", subjects=3)
    label = data / "sub-01_T1w_seg.nii.gz"
    label.write_bytes((data / "sub-01_T1w.nii.gz").read_bytes())
    said = "1 label map(s) or mask(s), not images to learn from: sub-01_T1w_seg.nii.gz\n"
    for words in (["info", data], ["train", "ssdu", "--data", data, "--out", tmp_path / "run", *SMALL]):
        assert f"left out        {said}" in sansref(*words)[1]
    out = sansref("evaluate", tmp_path / "run", "--data", data, "--subjects", "all")[1]
    assert f"left out: {said}" in out
    assert "this is a label map" in sansref("info", label)[1]
    assert "is a label map" in fails("train", "ssdu", "--data", label, "--out", tmp_path / "other", *SMALL)


def test_demo(sansref, tmp_path):
    size = ["--matrix", "32", "--stages", "2", "--epochs", "1", "--repeats", "2", "--phases", "2", "--channels", "4"]
    code, out, err = sansref("demo", "--out", tmp_path / "demo", "--threads", "1", *size)
    assert code == 0
    assert all(name in out for name in ("zero-filled", "SSDU", "IDR"))
    lines = out.splitlines()
    told = ["Scan:", "Mask:", "SNR 50:", "The mask as a picture:", "Two networks"]
    assert [line for line, begin in zip(lines, told, strict=False) if not line.startswith(begin)] == []
    assert all(any(line.startswith(name) for line in lines) for name in ("PSNR:", "SSIM:", "NMSE:", "Held-out error:"))
    assert "  sansref zeroshot FILE --out images" in lines
    assert out.splitlines()[-1] == f"report and figures: {tmp_path / 'demo' / 'report.html'}"
    assert [line.rsplit(" score ")[0] for line in err.splitlines()] == [
        "SSDU epoch 1/2",
        "SSDU epoch 2/2",
        "IDR stage 1/2 epoch 1/1",
        "IDR stage 2/2 epoch 1/1",
    ]
    assert (tmp_path / "demo" / "report.html").stat().st_size > 10_000
    assert not [path for path in (tmp_path / "demo").rglob("*") if "reference" in path.name]
    assert sansref("info", tmp_path / "demo" / "idr")[0] == 0


HELPER = """
from pathlib import Path
from sansref.methods import IDR
(Path(__file__).parent / "executed").touch()
class Mine(IDR):
    pass
"""


@pytest.mark.parametrize("command", ["info", "reconstruct", "evaluate", "serve"])
def test_the_code_that_a_run_names_is_executed_only_on_demand(sansref, trained, heads, tmp_path, monkeypatch, command):
    run = tmp_path / "runs" / "x"
    shutil.copytree(trained.path, run)
    config = (run / "config.yaml").read_text()
    monkeypatch.chdir(tmp_path)
    file = heads / "sub-01_T1w.nii.gz"
    words = {
        "info": [],
        "reconstruct": [file, "--out", "images"],
        "evaluate": ["--data", file, "--subjects", "all", "--out", "scores"],
        "serve": ["--port", "0"],
    }[command]
    for method, helper in (("runs.x.helper:Mine", run), (f"own_{command}:Mine", tmp_path)):
        (helper / f"{method.partition(':')[0].split('.')[-1]}.py").write_text(HELPER)
        (run / "config.yaml").write_text(config.replace("name: idr\n", f"name: {method}\n"))
        code, _, said = sansref(command, run, *words)
        assert code == 2
        assert "--trust_code" in said
        assert len(said.splitlines()) == 1
        assert not (helper / "executed").exists()
        if helper == run:
            code, _, said = sansref(command, run, *words, "--trust_code")
            assert (code, (run / "executed").exists()) == (2, False)
            assert "lies in the run" in said
        elif command != "serve":  # which would not end
            code, _, said = sansref(command, run, *words, "--trust_code")
            assert (code, (helper / "executed").exists()) == (0, True), said


def test_training_never_removes_scans_that_lie_beside_a_configuration(sansref, write_heads, tmp_path):
    place = tmp_path / "study"
    data = write_heads(place / "data")
    shutil.copytree(data, place / "stages")
    (place / "config.yaml").write_text("training: {epochs: 1}\n")
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    for given in (data, write_heads(tmp_path.with_name(f"{tmp_path.name}-other"))):
        code, _, said = sansref("train", "idr", "--config", place / "config.yaml", "--data", given, "--out", place)
        assert code == 2
        assert "--out" in said
        assert len(said.splitlines()) == 1
        assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before
