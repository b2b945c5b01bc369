"""The page of a comparison: one HTML file with sortable tables, box plots, a viewer of images, and training curves.

It needs no network and opens from the file system. Its own script is the only one that the page's content policy lets
run; it is kept in ``templates/*.js`` as plain JavaScript.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

from markupsafe import Markup

from sansref import __version__
from sansref.experiments.comparison.contents import Comparison, finite
from sansref.experiments.comparison.payload import pixels, spread, study
from sansref.experiments.report import template_environment
from sansref.files import write_text

MAX_SLICES = 12
"""Slices that a page holds if nothing else is said: about 20 MB with 15 images of 256 x 256 pixels each."""

_SCRIPTS = ("base", "table", "charts", "plots", "pixels", "stage", "viewer", "controls")


def write_page(path: str | Path, comparison: Comparison, max_slices: int = MAX_SLICES) -> None:
    """Write the page of a comparison as one HTML file.

    Parameters
    ----------
    path
        The file.
    comparison
        What it shows.
    max_slices
        Slices that it holds at most, equally many of each acceleration and evenly spread over them: an image of
        256 x 256 pixels takes about 0.1 MB. Images are kept in steps of 1/16384 of the reference's maximum (see
        :func:`~sansref.experiments.comparison.payload.encode`), and error maps are taken from them in the browser.

    Raises
    ------
    ValueError
        If ``max_slices`` is less than the number of accelerations.
    FileError
        If the system refuses to write.
    """
    slices = spread(comparison.slices, max_slices)
    environment = template_environment("sansref.experiments.comparison")
    style = _source("page.css")
    script = "\n".join(_source(f"{name}.js") for name in _SCRIPTS)
    html = environment.get_template("page.html.j2").render(
        comparison=comparison,
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
        study=_json(study(comparison, slices)),
        pixels=[_json(pixels(shown)) for shown in slices],
        number=finite,
        version=__version__,
    )
    write_text(Path(path), html)


def _source(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    nothing_else = "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:"
    return f"{nothing_else}; style-src {_hash(style)}; script-src {_hash(script)}"


def _hash(source: str) -> str:
    """What the content policy knows a style or a script by."""
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _json(value: object) -> Markup:
    # A "<" could end the element that the text stands in.
    return Markup(json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"))
