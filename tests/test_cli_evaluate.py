"""``sansref evaluate``: how images are compared, from the words to the table."""

from __future__ import annotations

import json

import pytest
import torch

from sansref import cli
from sansref.methods.classical.regularisation import Choice

pytestmark = pytest.mark.slow


@pytest.fixture
def evaluated(trained, heads, tmp_path, capsys, monkeypatch):
    """Evaluate the run with further words; return the exit code, the output, the errors and the summary."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    out = tmp_path / "scores"

    def run(*words):
        code = 0
        try:
            cli.main([str(word) for word in ("evaluate", trained.path, "--data", heads, "--out", out, *words)])
        except SystemExit as left:
            code = left.code
        captured = capsys.readouterr()
        file = out / "summary.json"
        return code, captured.out, captured.err, json.loads(file.read_text(encoding="utf-8")) if file.exists() else None

    return run


def test_table_has_the_zero_filled_image_twice_and_no_lpips(evaluated):
    code, out, err, summary = evaluated()
    assert (code, err) == (0, "")
    rows = [line.split("  ")[1].strip() for line in out.splitlines() if "±" in line and "standard" not in line]
    assert rows == 2 * ["zero-filled", "zero-filled, best scale", "total variation", "idr"]
    assert "PSNR in the body (dB)" in out
    assert "LPIPS" not in out
    assert summary["normalise"] == "none"


def test_missing_weights_are_told_in_the_table_and_below_it(evaluated):
    code, out, err, summary = evaluated("--lpips", "alex")
    assert (code, err) == (0, "")
    assert "LPIPS (alex)" in out
    assert out.count("no weights") == 4
    (line,) = [line for line in out.splitlines() if line.startswith("without LPIPS: ")]
    assert "put https://download.pytorch.org/models/alexnet-owt-7be5be79.pth at " in line
    assert summary["lpips"] == "alex"


def test_wrong_weights_are_one_line(evaluated, heads):
    code, _, err, summary = evaluated("--lpips", "vgg", "--lpips-weights", heads / "sub-01_T1w.nii.gz")
    assert code == 2
    assert err.endswith("is not a file of weights, or is damaged. Check the path, or fetch the file again.\n")
    assert summary is None


def test_download_is_asked_for_by_name(evaluated, monkeypatch):
    def unreachable(url, **_):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", unreachable)
    code, _, err, _ = evaluated("--lpips", "vgg", "--lpips_download", "true")
    assert code == 2
    assert "vgg16-397923af.pth could not be downloaded (no route to host)" in err


def test_grey_values_can_be_made_relative(evaluated):
    code, out, _, summary = evaluated("--normalise", "minmax")
    assert code == 0
    assert "after min-max" in " ".join(out.split())
    assert summary["normalise"] == "minmax"


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], ["total variation"]),
        (["--classical"], ["L1-wavelet", "total variation"]),
        (["--classical", "true"], ["L1-wavelet", "total variation"]),
        (["--classical", "false"], []),
        (["--classical", "total_variation"], ["total variation"]),
    ],
)
def test_classical_methods_by_name(evaluated, monkeypatch, words, names):
    choice = Choice(0.01, 0.5, ())
    monkeypatch.setattr("sansref.commands.evaluate.choose_regularisation", lambda *_, **__: choice)
    code, out, _, summary = evaluated(*words)
    assert code == 0
    assert list(summary["regularisation"]) == names
    assert all(name in out for name in names)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--classical", "wavelet"], "--classical takes "),
        (["--lpips", "squeeze"], "--lpips takes one of none, alex, vgg, not squeeze (see"),
        (["--normalise", "max"], "--normalise takes one of auto, none, minmax, not max"),
        (["--lpips_download", "perhaps"], "--lpips_download takes true or false"),
        (
            ["--lpips_download", "true"],
            "weights for LPIPS are given or asked for, but --lpips is none: add --lpips alex",
        ),
    ],
)
def test_wrong_words_are_one_line(evaluated, words, message):
    code, _, err, _ = evaluated(*words)
    assert code == 2
    assert err.startswith(f"sansref: {message}")
    assert err.count("\n") == 1
