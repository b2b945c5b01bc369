"""The page of a comparison: one HTML file with sortable tables, box plots, a viewer of images, and training curves."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from sansref import __version__
from sansref.files import write_text
from sansref.results.error_figure import DISPLAY_PERCENTILE, common_error_limit
from sansref.results.report import template_environment
from sansref.results.viewer.contents import Comparison, Curve, Distribution, Image, ViewerSlice, finite

STEPS = 16384
"""Grey steps from zero to the reference's maximum."""

WHISKER = 1.5
"""Whiskers reach to the furthest value within this many interquartile ranges of the box (Tukey's rule)."""

_DIGITS = 6


def study(comparison: Comparison, slices: Sequence[ViewerSlice]) -> dict[str, Any]:
    """All that the page's script draws, but the pixels.

    Parameters
    ----------
    comparison
        What the page shows.
    slices
        Those of its slices that the page holds.
    """
    return {
        "methods": comparison.methods,
        "steps": STEPS,
        "colours": error_colours(),
        "slices": [_slice(shown) for shown in slices],
        "errorLimits": error_limits(slices),
        "distributions": [_distribution(part) for part in comparison.distributions],
        "curves": [_curve(curve) for curve in comparison.curves],
        "curveLabel": comparison.curve_label,
    }


def _slice(shown: ViewerSlice) -> dict[str, Any]:
    height, width = shown.reference.shape
    white = float(np.percentile(shown.reference, DISPLAY_PERCENTILE) / shown.reference.max())
    # A reference with next to no signal may be zero at the percentile.
    return {
        "name": shown.name,
        "subject": shown.subject,
        "acceleration": shown.acceleration,
        "height": height,
        "width": width,
        "white": round(100 * white, 1) or 100.0,
        "methods": list(shown.images),
        "captions": dict(shown.captions),
    }


def _distribution(part: Distribution) -> dict[str, Any]:
    panels = {
        acceleration: {method: five_numbers(values) for method, values in methods.items()}
        for acceleration, methods in part.values.items()
    }
    return {"metric": part.metric, "better": part.better, "panels": panels}


def _curve(curve: Curve) -> dict[str, Any]:
    scores = [_rounded(score) if isfinite(score) else None for score in curve.scores]
    return {
        "method": curve.method,
        "acceleration": curve.acceleration,
        "epochs": [_rounded(epoch) for epoch in curve.epochs],
        "scores": scores,
    }


def five_numbers(values: Sequence[float]) -> dict[str, Any] | None:
    """What a box plot draws: whiskers, quartiles (linear between values), median, mean, and the values themselves.

    Values that are not finite are left out; None if none is left.
    """
    known = np.asarray([value for value in values if isfinite(value)], float)
    if not known.size:
        return None
    first, median, third = np.percentile(known, [25, 50, 75])
    reach = WHISKER * (third - first)
    # A box's end can lie between two values, the nearest of them beyond the reach: the whisker then has no length.
    low = min(known[known >= first - reach].min(), first)
    high = max(known[known <= third + reach].max(), third)
    numbers = {"low": low, "first": first, "median": median, "third": third, "high": high, "mean": known.mean()}
    return {**{name: _rounded(number) for name, number in numbers.items()}, "values": [_rounded(v) for v in known]}


def error_limits(slices: Sequence[ViewerSlice]) -> dict[str, float]:
    """Upper end of the error scale by acceleration, in percent: one for all its slices and methods."""
    limits: dict[str, float] = {}
    for shown in slices:
        truth = shown.reference.astype(np.float64)
        errors = [100 * np.abs(image - truth) / truth.max() for image in shown.images.values()]
        if errors:
            limit = common_error_limit(errors)
            limits[shown.acceleration] = max(limit, limits.get(shown.acceleration, 0.0))
    return limits


def error_colours() -> str:
    """The 256 colours of the error scale, perceptually uniform, as six hexadecimal digits each."""
    from matplotlib import colormaps

    # 256 whole numbers pick the entries of the map's table.
    table: npt.NDArray[np.uint8] = colormaps["inferno"](range(256), bytes=True)
    return table[:, :3].tobytes().hex()


def pixels(shown: ViewerSlice) -> dict[str, Any]:
    """The images of a slice as :func:`encode` writes them, by name."""
    peak = float(shown.reference.max())
    images = {method: encode(image, peak) for method, image in shown.images.items()}
    return {"reference": encode(shown.reference, peak), "images": images}


def encode(image: Image, peak: float) -> str:
    """An image as text that a browser can unpack to the last step, which it cannot promise for a picture on a canvas.

    Values are rounded to steps of 1/16384 of ``peak``, shifted by 16384 and held within 16 bits: from -1 to just
    below 3 times ``peak``. An error map of two such images is off by one step at most, 0.006 % of ``peak``: less than
    one of 256 shades on an error scale that ends at 2 % or more.

    Parameters
    ----------
    image
        Real (height, width).
    peak
        The reference's maximum.

    Returns
    -------
    str
        Base64 of a zlib stream: the differences from the row above modulo 65536, first their low bytes, then their
        high bytes.
    """
    steps = np.rint(image.astype(np.float64) / peak * STEPS) + STEPS
    levels = np.clip(steps, 0, 65535).astype(np.uint16)
    differences = levels.copy()
    differences[1:] -= levels[:-1]
    planes = [(differences & 255).astype(np.uint8), (differences >> 8).astype(np.uint8)]
    return base64.b64encode(zlib.compress(b"".join(plane.tobytes() for plane in planes), 9)).decode("ascii")


def spread(slices: Sequence[ViewerSlice], most: int) -> list[ViewerSlice]:
    """At most so many slices, equally many of each acceleration and evenly spread over them.

    Raises
    ------
    ValueError
        If there are more accelerations.
    """
    groups: dict[str, list[ViewerSlice]] = {}
    for shown in slices:
        groups.setdefault(shown.acceleration, []).append(shown)
    if not groups:
        return []
    share = most // len(groups)
    if share < 1:
        raise ValueError(f"max_slices must be at least the number of accelerations, {len(groups)}, got {most}")
    return [group[place] for group in groups.values() for place in _places(len(group), share)]


def _places(count: int, wanted: int) -> list[int]:
    if count <= wanted:
        return list(range(count))
    # The middle of each of as many equal stretches: the ends of a stack show little.
    return [int((2 * item + 1) * count / (2 * wanted)) for item in range(wanted)]


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


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
        :func:`~sansref.results.viewer.page.encode`), and error maps are taken from them in the browser.

    Raises
    ------
    ValueError
        If ``max_slices`` is less than the number of accelerations.
    FileError
        If the system refuses to write.
    """
    slices = spread(comparison.slices, max_slices)
    environment = template_environment("sansref.results.viewer")
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
