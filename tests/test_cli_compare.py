from __future__ import annotations

import pytest
import yaml

from sansref.presets import comparison_names

pytestmark = pytest.mark.slow

PLAN = {
    "kind": "comparison",
    "title": "Two methods",
    "shared": {
        "split": {"test": 0.3},
        "network": {"phases": 1, "channels": 2},
        "training": {"epochs": 1},
        "machine": {"threads": 1, "accelerator": "cpu"},
    },
    "accelerations": [4],
    "methods": {"zero-filled": {"method": "zero_filled"}, "SSDU": {"method": "ssdu"}},
    "baseline": "SSDU",
    "figures": 1,
}


@pytest.fixture
def plan(tmp_path):
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump(PLAN))
    return file


def test_the_command_trains_scores_and_prints_the_table(sansref, plan, heads, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    words = ["compare", plan, "--data", heads, "--out", tmp_path / "out"]
    code, out, err = sansref(*words, "--lpips", "alex")
    assert code == 0
    assert "## Two methods" in out
    assert "| SSDU |" in out
    assert "without LPIPS: the weights of AlexNet for LPIPS are not on this machine" in out
    assert out.splitlines()[-1].startswith(f"report, tables and figures: {tmp_path / 'out'}")
    assert "1/1 ssdu/4x-fold0-seed0 trained" in err
    code, again, err = sansref(*words)
    assert code == 0
    assert "trained" not in err
    assert again.count("| SSDU |") == out.count("| SSDU |")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["magic"], "there is no configuration 'magic': give a YAML file, or one of"),
        (["small-4x"], "small-4x.yaml: is not the plan of a comparison ('kind: comparison' is missing)"),
        (["one-table-small", "--jobs", "0"], "jobs must be at least 1"),
        (["one-table-small", "--jobs", "many"], "--jobs takes a whole number, not many"),
        (["one-table-small", "--lpips-weights", "x.pth"], "weights for LPIPS are given or asked for"),
    ],
)
def test_wrong_words_are_one_line(sansref, heads, tmp_path, words, message):
    code, _, err = sansref("compare", *words, "--data", heads, "--out", tmp_path / "out")
    assert code == 2
    assert err.startswith("sansref: ")
    assert err.count("\n") == 1
    assert message in err


def test_help_names_the_packaged_comparisons(sansref):
    code, out, _ = sansref("compare", "--help")
    assert code == 0
    assert all(name in " ".join(out.split()) for name in comparison_names())
