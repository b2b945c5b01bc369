"""What the documentation shows must work."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
import yaml

from sansref.cli import COMMANDS, METHOD_LINES
from sansref.kspace.masks.family import MaskFamily
from sansref.methods import Draw, Sample, collate
from sansref.methods.registry import METHODS
from sansref.networks import NetworkOptions, Reconstructor
from sansref.results.scores import read_scores
from sansref.scan import Scan, ScanMeta

ROOT = Path(__file__).parents[1]


def pages(pattern: str) -> list[Path]:
    """Pages of the documentation, without those that were built."""
    return sorted(page for page in (ROOT / "docs").glob(pattern) if "_build" not in page.parts)


def test_the_help_names_every_method() -> None:
    assert list(METHOD_LINES) == list(METHODS)


def test_the_method_in_the_documentation_learns() -> None:
    text = (ROOT / "docs" / "methods.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, object] = {"__name__": "halves"}
    exec(compile(code, "docs/methods.md", "exec", dont_inherit=True), names)
    halves = names["Halves"](
        Reconstructor(NetworkOptions(phases=1, channels=2)), names["HalvesOptions"](), MaskFamily()
    )  # type: ignore[operator]
    mask = torch.rand(16, 16, generator=torch.Generator().manual_seed(0)) < 0.5
    scan = Scan(torch.ones(1, 16, 16, dtype=torch.complex64) * mask, mask, ScanMeta("s", "f"))
    examples = halves.examples(Sample(scan), Draw(0, 0, 0))
    assert len(examples) == 2
    (update,) = halves.step(collate([examples]))
    loss = update.loss
    loss.backward()
    assert bool(torch.isfinite(loss))


def test_the_tour_in_python_runs_and_prints_what_it_says(heads, tmp_path, monkeypatch, capsys) -> None:
    text = (ROOT / "docs" / "python.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    (tmp_path / "scans").symlink_to(heads)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/python.md", "exec", dont_inherit=True), names)
    assert capsys.readouterr().out.splitlines() == re.findall(r"^ *print\(.*\)  # (.*)$", code, re.MULTILINE)
    assert torch.equal(names["picture"], names["middle"].image)
    assert torch.equal(names["again"].reconstruct("scans/sub-02_T1w.nii.gz").images, names["images"])
    assert names["quality"] > 10
    residual = names["zero_filled"] - names["given"].physics.normal(names["regularised"]) - 0.01 * names["regularised"]
    assert residual.norm() < 1e-3 * names["zero_filled"].norm()


def test_the_readme_is_short_to_read_and_its_commands_are_known() -> None:
    text = (ROOT / "README.md").read_text()
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    parts = [part.splitlines() for part in re.split(r"\n\n|\n(?=- )", prose)]
    assert [part for part in parts if len(part) > 4 and not part[0].startswith("|")] == []
    code = re.findall(r"^```sh$(.*?)^```$", text, re.M | re.S) + re.findall(r"`([^`\n]+)`", prose)
    used = re.findall(r"sansref (\w+)([^\n#]*)", "\n".join(code))
    assert len(used) > 8
    assert {command for command, _ in used} <= {*COMMANDS, *METHODS}
    options = {option for _, words in used for option in re.findall(r"--[\w.]+", words)}
    known = (ROOT / "docs" / "commands.md").read_text()
    others = {"--undersampled", "--data"}  # other names of --data.folder
    assert {
        option for option in options - others if f"{option}`" not in known and f".{option[2:]}`" not in known
    } == set()


@pytest.mark.parametrize(
    "page",
    ["README.md", "CONTRIBUTING.md", *(str(page.relative_to(ROOT)) for page in pages("**/*.md"))],
)
def test_links_lead_somewhere(page: str) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)#\s]*)(?: \"[^\"]*\")?\)", (ROOT / page).read_text()):
        if target.startswith("https://"):
            continue
        file = (ROOT / page).parent / target if target else ROOT / page
        assert file.exists(), target
        if anchor:
            assert anchor in {anchor_of(line) for line in file.read_text().splitlines()}, f"{target}#{anchor}"


def anchor_of(line: str) -> str | None:
    """What a heading is linked to by; None if the line is none."""
    heading = re.match(r"#+ (.*)", line)
    return heading and re.sub(r"[^\w -]", "", heading[1].lower()).replace(" ", "-")


@pytest.mark.parametrize("scores", sorted((ROOT / "docs" / "scores").glob("*.csv")), ids=lambda path: path.name)
def test_tables_have_the_means_of_the_published_scores(scores: Path) -> None:
    texts = [page.read_text() for page in pages("results.md") + pages("appendix/*.md")]
    sections = [
        part for text in texts for part in re.split(r"^## ", text, flags=re.M) if f"scores/{scores.name})" in part
    ]
    assert sections, "linked nowhere"
    found = defaultdict(list)
    for row in read_scores(scores):
        if row.label != "zero-filled":
            found[row.label, row.acceleration].append(row.psnr)
    means = {place: f"{fmean(values):.2f}" for place, values in found.items()}
    assert {place: mean for place, mean in means.items() if mean not in "".join(sections)} == {}


def test_the_citation_is_whole_and_names_what_is_built_on() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "version", "license", "authors", "references"} <= citation.keys()
    for reference in citation["references"]:
        assert {"type", "title", "year", "authors", "notes"} <= reference.keys(), reference["title"]
        assert reference["authors"], reference["title"]
        assert "url" in reference or "doi" in reference or "collection-title" in reference, reference["title"]
        assert re.fullmatch(r"10\.\d{4}/\S+", reference.get("doi", "10.1000/none"))
    notes = " ".join(reference["notes"] for reference in citation["references"])
    for method in (
        "idr",
        "iscl",
        "switchable",
        "ssdu",
        "zeroshot",
        "cyclegan",
        "modl",
        "K-weighting",
        "denoise",
        "error_map",
    ):
        assert method in notes, method
