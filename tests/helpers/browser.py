"""Chromium, for tests that look at pages as readers do."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
FLAGS = ["headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"]
FLAGS += ["disable-component-update", "disable-sync", "window-size=1400,1000", "force-device-scale-factor=1"]

needs_browser = pytest.mark.skipif(not (BROWSER and DRIVER), reason="needs Chromium and chromedriver on the path")


@contextmanager
def chromium(folder: Path) -> Iterator[Chrome]:
    """A browser without a window that keeps what it writes in ``folder``."""
    options = ChromeOptions()
    options.binary_location = BROWSER or ""
    for flag in [*FLAGS, f"user-data-dir={folder}"]:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with Chrome(options=options, service=Service(DRIVER)) as driver:
        yield driver
