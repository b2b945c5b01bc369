"""The page: one HTML file with sortable tables, box plots, a viewer of images, training curves and figures."""

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
from sansref.errors import FileError
from sansref.files import write_text
from sansref.outputs.overlay import DISPLAY_PERCENTILE, OVERLAYS
from sansref.results.error_figure import BEYOND, DPI, common_error_limit, errors_of
from sansref.results.tables import finite
from sansref.results.viewer.contents import Contents, Curve, Distribution, Image, ViewerSlice

STEPS = 16384
"""Grey steps from zero to a slice's peak."""

UNIT = 10.0
"""What stands for the peak of a map that is not in the images' units."""

WHISKER = 1.5
"""Whiskers reach to the furthest value within this many interquartile ranges of the box (Tukey's rule)."""

_DIGITS = 6
_CSS_DPI = 96
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SCRIPTS = ("base", "table", "charts", "plots", "pixels", "stage", "viewer", "controls")


def write_page(path: str | Path, contents: Contents) -> None:
    """Write a page as one HTML file, which needs no network.

    Parameters
    ----------
    path
        The file.
    contents
        What it shows. An image of 256 x 256 pixels takes about 0.1 MB; it is kept in steps of 1/16384 of the slice's
        peak (see :func:`encode`), and error maps are taken from the images in the browser.

    Raises
    ------
    FileError
        If a figure cannot be read or is not PNG, or the system refuses to write.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("sansref.results.viewer"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = _source("page.css")
    script = "\n".join(_source(f"{name}.js") for name in _SCRIPTS)
    html = environment.get_template("page.html.j2").render(
        contents=contents,
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
        study=_json(study(contents)),
        pixels=[_json(pixels(shown)) for shown in contents.slices],
        pictures={figure.path: picture(figure.path) for part in contents.sections for figure in part.figures},
        number=finite,
        version=__version__,
    )
    write_text(Path(path), html)


def picture(path: Path) -> dict[str, Any]:
    """A PNG file as HTML takes it: a data URI, and the size in CSS pixels.

    Raises
    ------
    FileError
        If it cannot be read or is not PNG.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileError(path, f"cannot be read ({error.strerror})", "Make the figure again") from error
    if not data.startswith(_PNG_SIGNATURE) or len(data) < 24:
        raise FileError(path, "is not a PNG picture", "Make the figure again, as PNG")
    # Width and height are the first fields of the header chunk.
    width, height = (int.from_bytes(data[start : start + 4], "big") * _CSS_DPI // DPI for start in (16, 20))
    return {
        "uri": f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}",
        "width": width,
        "height": height,
    }


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


def study(contents: Contents) -> dict[str, Any]:
    """All that the page's script draws, but the pixels."""
    return {
        "methods": contents.methods,
        "steps": STEPS,
        "colours": error_colours(),
        "slices": [_slice(shown) for shown in contents.slices],
        "errorLimits": error_limits(contents.slices),
        "distributions": [_distribution(part) for part in contents.distributions],
        "curves": [_curve(curve) for curve in contents.curves],
        "curveLabel": contents.curve_label,
        "curveAxis": contents.curve_axis,
        "overlays": overlays(contents.slices),
    }


def _slice(shown: ViewerSlice) -> dict[str, Any]:
    height, width = shown.guide.shape
    white = float(np.percentile(shown.guide, DISPLAY_PERCENTILE) / shown.peak)
    return {
        "name": shown.name,
        "subject": shown.subject,
        "acceleration": shown.acceleration,
        "height": height,
        "width": width,
        # An image with next to no signal may be zero at the percentile.
        "white": round(100 * white, 1) or 100.0,
        "reference": shown.reference is not None,
        "methods": list(shown.images),
        "captions": dict(shown.captions),
        "details": {method: dict(details) for method, details in shown.details.items()},
        "mask": None if shown.mask is None else {"height": shown.mask.shape[0], "width": shown.mask.shape[1]},
        "noise": None if shown.noise is None else 100 * shown.noise / shown.peak,
    }


def overlays(slices: Sequence[ViewerSlice]) -> dict[str, dict[str, Any]]:
    """How the maps that any slice has are laid over images: in percent of the peak, or in their own unit."""
    there = {name for shown in slices for maps in shown.maps.values() for name in maps}
    return {
        name: {
            "label": name.replace("_", " "),
            "legend": overlay.legend,
            "positive": overlay.positive,
            "negative": overlay.negative,
            "start": overlay.start * (100 if overlay.of_maximum else 1),
            "end": overlay.end * (100 if overlay.of_maximum else 1),
            "unit": 1 if overlay.of_maximum else UNIT / 100,
        }
        for name, overlay in OVERLAYS.items()
        if name in there
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
        if shown.reference is None:
            continue
        if errors := errors_of(shown):
            limit = common_error_limit(errors)
            limits[shown.acceleration] = max(limit, limits.get(shown.acceleration, 0.0))
    return limits


def error_colours() -> str:
    """The 256 colours of the error scale, perceptually uniform, and of larger errors; six hexadecimal digits each."""
    from matplotlib import colormaps

    # 256 whole numbers pick the entries of the map's table.
    table: npt.NDArray[np.uint8] = colormaps["inferno"](range(256), bytes=True)
    return table[:, :3].tobytes().hex() + BEYOND.removeprefix("#").lower()


def pixels(shown: ViewerSlice) -> dict[str, Any]:
    """The images of a slice, and its mask, as :func:`encode` writes them; null for what there is not."""
    return {
        "reference": None if shown.reference is None else encode(shown.reference, shown.peak),
        "mask": None if shown.mask is None else encode(shown.mask.astype(np.float32), 1.0),
        "images": {method: encode(image, shown.peak) for method, image in shown.images.items()},
        "maps": {
            method: {name: encode(one, shown.peak if OVERLAYS[name].of_maximum else UNIT) for name, one in maps.items()}
            for method, maps in shown.maps.items()
        },
    }


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
        The slice's peak.

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


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
