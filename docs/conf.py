"""How Sphinx builds the site: ``make docs`` writes it to docs/_build/html.

The pages are plain Markdown that reads well without Sphinx. Two things are added here. A tutorial shows the pictures of
the run that ``tools/tutorials.py`` has just made, where there is one; a picture's title says which file of the run it
is. And what the theme lacks for readers without a mouse or without sight is put in.
"""

from __future__ import annotations

from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

import sansref

HERE = Path(__file__).parent
#: Where ``tools/tutorials.py`` leaves what the tutorials have made, a folder for each page.
RUNS = HERE / "_build" / "tutorials"

#: What is replaced in the theme's pages: levels of headings, names of landmarks, a way to scroll by keys, and headings
#: of tables without a text.
REPAIRS = {
    'class="caption" role="heading"': 'class="caption" role="heading" aria-level="2"',
    '<aside class="sidebar-drawer">': '<aside class="sidebar-drawer" aria-label="Pages">',
    '<aside class="toc-drawer">': '<aside class="toc-drawer" aria-label="This page">',
    "<pre>": '<pre tabindex="0">',
    '<div class="table-wrapper ': '<div tabindex="0" class="table-wrapper ',
    '<th class="head"><p></p></th>': "<td></td>",
}
#: The page of results of a search has no heading of its own.
SEARCH = '<article role="main" id="furo-main-content">'

project = "sansref"
author = "the sansref contributors"
project_copyright = author
version = release = sansref.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
nitpicky = True
# Nothing is fetched while the site is built, so that only names of this package can be looked up. Those that are not in
# the reference must exist at least, see name_what_exists.
nitpick_ignore_regex = [("py:.*", r"(?!sansref\b).*")]

myst_heading_anchors = 4
myst_enable_extensions = ["smartquotes"]
# The language of a block of text that is no code.
highlight_language = "none"

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
napoleon_numpy_docstring = True
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
viewcode_line_numbers = True

html_theme = "furo"
html_title = f"sansref {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_sourcelink = False
copybutton_exclude = ".linenos, .gp, .go"


def show_this_run(app: Sphinx, doctree: nodes.document) -> None:
    """Let a tutorial show the pictures that it has just made, instead of those that are kept."""
    for image in doctree.findall(nodes.image):
        made = RUNS / app.env.docname / image.get("title", "")
        if made.is_file():
            image["uri"] = "/" + made.relative_to(HERE).as_posix()


def name_what_exists(app: Sphinx, env: Any, node: nodes.Element, text: nodes.TextElement) -> nodes.TextElement | None:
    """Leave names as text that are no part of the reference, if there are such names; the others are warned of."""
    try:
        resolve_name(node["reftarget"])
    except (ImportError, AttributeError, ValueError):
        return None
    return text


def repair(app: Sphinx, failed: Exception | None) -> None:
    """Put in what the theme lacks, see :data:`REPAIRS`."""
    if failed or app.builder.format != "html":
        return
    for page in Path(app.outdir).rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        if 'aria-level="2"' in text:
            continue  # of an earlier build, not written anew
        for old, new in REPAIRS.items():
            text = text.replace(old, new)
        if page.name == "search.html":
            text = text.replace(SEARCH, f"{SEARCH}<h1>Search</h1>")
        page.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register what is added, before Sphinx collects the images of a page."""
    app.connect("doctree-read", show_this_run, priority=400)
    app.connect("missing-reference", name_what_exists)
    app.connect("build-finished", repair)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
