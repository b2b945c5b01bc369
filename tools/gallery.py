"""Make the pictures of docs/gallery.md: run its commands on the scans that it names, and draw what came out.

python tools/gallery.py --data FOLDER [--work runs/gallery] [--only NAME ...]

FOLDER holds the public scans under the names that the page gives them. The commands take about a quarter of an hour on
two cores. Those that have been run in WORK are not run again: remove its folders to begin anew.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from tutorials import ROOT, TutorialError, blocks, run

from sansref.results.figures import error_figure
from sansref.results.viewer.contents import ViewerSlice

PAGE = ROOT / "docs" / "gallery.md"
PICTURES = ROOT / "docs" / "gallery"
#: By picture: the folder with its report, the methods that are shown, and which slice of the report.
SHOWN = {
    "sixteen-coils": ("sixteen-coils", ("zero-filled", "L1-wavelet", "mixture"), 0),
    "eight-coils": ("eight-coils", ("zero-filled", "total variation", "mixture"), 0),
    "aliasing": ("aliasing", ("zero-filled", "total variation", "network"), 0),
    "low-field": ("low-field", ("zero-filled", "total variation", "mixture"), 2),
    "texture": ("runs/switchable/evaluation", ("zero-filled", "switchable"), -1),
}
WIDTH = 1000


def decoded(text: str | None, peak: float, steps: int, shape: tuple[int, int]) -> Any:
    """An image of a report, as :func:`sansref.results.viewer.page.encode` wrote it; None where there is none."""
    if text is None:
        return None
    low, high = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(2, *shape).astype(np.uint16)
    levels = np.cumsum(low + 256 * high, axis=0, dtype=np.uint16)
    return (levels.astype(np.float64) - steps) / steps * peak


def slices(report: Path) -> list[ViewerSlice]:
    """The slices of a report, in units of its brightest reference."""
    scripts = re.findall(r'<script type="application/json" id="([\w-]+)">(.*?)</script>', report.read_text(), re.S)
    study, *pixels = (json.loads(text) for _, text in scripts)
    found = []
    for told, one in zip(study["slices"], pixels, strict=True):
        shape = (told["height"], told["width"])
        images = {name: decoded(text, 1.0, study["steps"], shape) for name, text in one["images"].items()}
        reference = decoded(one["reference"], 1.0, study["steps"], shape)
        number = int(told["name"].rpartition(" ")[2])
        found.append(
            ViewerSlice(told["subject"], number, told["acceleration"], reference, images, captions=told["captions"])
        )
    return found


def draw(name: str, work: Path) -> None:
    """Draw a picture, small enough for a page."""
    folder, methods, at = SHOWN[name]
    one = slices(work / folder / "report.html")[at]
    chosen = ViewerSlice(
        one.subject, one.number, one.acceleration, one.reference, {m: one.images[m] for m in methods}, one.captions
    )
    path = PICTURES / f"{name}.png"
    path.parent.mkdir(exist_ok=True)
    error_figure(path, chosen)
    picture = PIL.Image.open(path).convert("RGB")
    size = (WIDTH, round(picture.height * WIDTH / picture.width))
    picture.resize(size, PIL.Image.Resampling.LANCZOS).quantize(256, dither=PIL.Image.Dither.NONE).save(
        path, optimize=True
    )
    print(f"{path}: {', '.join(f'{m} {one.captions[m]}' for m in methods if m in one.captions)}")


def main() -> None:
    """Run and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "gallery")
    parser.add_argument("--only", nargs="+", choices=SHOWN, default=list(SHOWN))
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    if not (given.work / "data").exists():
        (given.work / "data").symlink_to(given.data.resolve())
    commands = [code for language, code in blocks(PAGE.read_text(encoding="utf-8")) if language == "sh"]
    for code, name in zip(commands, SHOWN, strict=True):
        if name not in given.only:
            continue
        if not (given.work / SHOWN[name][0] / "report.html").exists():
            try:
                run(f"```sh\n{code}```\n", given.work, given.work / "bin")
            except TutorialError as error:
                sys.exit(f"{name}: {error}")
        draw(name, given.work)


if __name__ == "__main__":
    main()
