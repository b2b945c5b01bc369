"""axe finds nothing on the pages of the documentation and on reports, in light and dark, on a desk and on a phone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("selenium")

from selenium.webdriver import Chrome

from helpers.browser import chromium, needs_browser
from sansref.cli import main
from sansref.data.simulate import Sampling, Simulation, example_image, simulate
from sansref.data.slices import Slices, resized_image
from sansref.randomness import seeded
from sansref.scan import ScanMeta

ROOT = Path(__file__).parents[1]
LOOKS = [("light", 1400), ("dark", 390)]
SMALL = ["--epochs", 2, "--repeats", 2, "--network.phases", 1, "--network.channels", 2, "--threads", 1]
PLAN = """
kind: comparison
title: Two methods
shared:
  split: {validation: 0.2, test: 0.3}
  network: {phases: 1, channels: 2}
  training: {epochs: 2}
  machine: {accelerator: cpu}
accelerations: [4]
methods: {zero-filled: {method: zero_filled}, SSDU: {method: ssdu}, IDR: {method: {name: idr, stages: 1}}}
baseline: SSDU
figures: 2
"""

pytestmark = [pytest.mark.slow, needs_browser]


@pytest.fixture(scope="module")
def axe() -> str:
    pytest.importorskip("axe_core_python")
    return resources.files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("browser")) as driver:
        driver.set_script_timeout(120)
        yield driver


def violations(driver: Chrome, axe: str, page: Path, scheme: str, width: int) -> list[Any]:
    """What axe finds: rule, and the first element that breaks it."""
    look = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", look)
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    driver.get(page.as_uri())
    driver.execute_script(axe)
    found = driver.execute_async_script(
        "const done = arguments[0]; axe.run().then(done, (error) => done({ error: String(error) }))"
    )
    assert "error" not in found, found
    assert found["passes"]
    return [(page.name, scheme, width, one["id"], one["nodes"][0]["html"]) for one in found["violations"]]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("sphinx", "myst_parser", "furo", "sphinx_copybutton"):
        pytest.importorskip(package)
    out = tmp_path_factory.mktemp("site")
    line = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q", "-d", out / "trees"]
    done = subprocess.run([*line, ROOT / "docs", out / "html"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out / "html"


def test_the_site_builds_without_a_warning_and_axe_finds_nothing(site: Path, driver: Chrome, axe: str) -> None:
    pages = [page for page in sorted(site.rglob("*.html")) if "_modules" not in page.parts]
    assert len(pages) > 40
    found = [one for page in pages for one in violations(driver, axe, page, "dark", 390)]
    for name in ("index", "gallery", "results", "tutorial-one-scan", "howto/arrays", "api/metrics"):
        found += violations(driver, axe, site / f"{name}.html", "light", 1400)
    assert found == []


def demo(out: Path, _: Any) -> Path:
    sizes = {"matrix": 32, "stages": 2, "epochs": 2, "repeats": 2, "phases": 2, "channels": 4, "threads": 1}
    main(["demo", *(word for name, value in sizes.items() for word in (f"--{name}", str(value))), "--out", str(out)])
    return out


def evaluate(out: Path, request: Any) -> Path:
    run, heads = request.getfixturevalue("trained"), request.getfixturevalue("heads")
    shutil.copytree(run.path, out)
    main(["evaluate", str(out), "--data", str(heads)])
    return out / "evaluation"


def compare(out: Path, request: Any) -> Path:
    plan = out.with_suffix(".yaml")
    plan.write_text(PLAN)
    main(["compare", str(plan), "--data", str(request.getfixturevalue("heads")), "--out", str(out)])
    return out


def zeroshot(out: Path, _: Any) -> Path:
    image = resized_image(example_image(), Slices(matrix=(48, 48)))
    full = simulate(image.clamp(min=0), Simulation(snr=50, coils=2), seeded(0), ScanMeta("head", "head.npy", 0))
    scan = out.with_suffix(".npy")
    np.save(scan, Sampling(acceleration=2, center=0.25).undersample(full, seeded(0)).kspace.numpy())
    words = ["--minutes", "null", "--stages", 1, *SMALL, "--error_map", "--start", "none"]
    main(["zeroshot", str(scan), "--axes", "coil,row,column", *map(str, words), "--out", str(out)])
    return out


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("made_by", [demo, evaluate, compare, zeroshot], ids=lambda command: command.__name__)
def test_axe_finds_nothing_on_reports(
    made_by: Callable[[Path, Any], Path], request: pytest.FixtureRequest, tmp_path: Path, driver: Chrome, axe: str
) -> None:
    report = made_by(tmp_path / "out", request) / "report.html"
    assert [one for scheme, width in LOOKS for one in violations(driver, axe, report, scheme, width)] == []
