"""How Sphinx builds the site: ``make docs`` writes it to docs/_build/html.

The pages are plain Markdown that reads well without Sphinx. Two things are added here: a tutorial shows the pictures of
the run that :mod:`tools.tutorials` has just made, where there is one, and links to files of the repository that are no
pages lead to copies of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

import sansref

HERE = Path(__file__).parent
#: Where ``tools/tutorials.py`` leaves what the tutorials have made, a folder for each page.
RUNS = HERE / "_build" / "tutorials"

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
# Nothing is fetched while the site is built, so that only names of this package can be looked up.
nitpick_ignore_regex = [("py:.*", r"(?!sansref\b).*")]

myst_heading_anchors = 4
myst_enable_extensions = ["smartquotes"]
# The language of a block of text that is no code.
highlight_language = "none"

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
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
copybutton_exclude = ".linenos, .gp, .go"


def show_this_run(app: Sphinx, doctree: nodes.document) -> None:
    """Let a tutorial show the pictures that were just made by it, in the place of those that are kept."""
    run = RUNS / app.env.docname
    for image in doctree.findall(nodes.image):
        made = run / Path(image["uri"]).name
        if made.is_file():
            image["uri"] = "/" + made.relative_to(HERE).as_posix()


def setup(app: Sphinx) -> dict[str, Any]:
    """Register what is added, before Sphinx collects the images of a page."""
    app.connect("doctree-read", show_this_run, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
