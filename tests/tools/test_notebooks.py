"""Notebooks are made of the tutorials, and run."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jupytext")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).parents[2]
PAGE = """# A page

See [another](other.md#part) and [a paper](https://example.org).

```python
print("one", 1 + 1)
```

```sh
sansref --version
```

```text
sansref 0.1.0
```

```sh
true
```

![A picture](figures/picture.png "picture.png")
"""


@pytest.fixture
def notebooks(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("notebooks")


def test_blocks_become_cells_and_links_to_the_site_become_words(notebooks: Any) -> None:
    made = notebooks.notebook(PAGE)
    assert [cell.source for cell in made.cells if cell.cell_type == "code"] == [
        'print("one", 1 + 1)',
        "%%sh\nsansref --version",
        "%%sh\ntrue",
    ]
    assert made.metadata.kernelspec.language == "python"
    text = "\n".join(cell.source for cell in made.cells if cell.cell_type == "markdown")
    assert "See another and [a paper](https://example.org)." in text
    assert "sansref 0.1.0" in text
    assert "picture" not in text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the kernel's sockets
def test_cells_run_and_keep_what_they_print(notebooks: Any, tmp_path: Path) -> None:
    done = notebooks.run(notebooks.notebook(PAGE), tmp_path, tmp_path / "bin")
    first, second = (cell.outputs[0].text for cell in done.cells if cell.get("outputs"))
    assert first == "one 2\n"
    assert second.startswith("sansref")
    with pytest.raises(nbclient.exceptions.CellExecutionError):
        notebooks.run(notebooks.notebook("```sh\nsansref info nowhere.npy\n```\n"), tmp_path, tmp_path / "bin")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_notebook_of_one_scan_runs_from_top_to_bottom(notebooks: Any, tmp_path: Path) -> None:
    text = notebooks.PAGES[0].read_text(encoding="utf-8")
    for long, short in notebooks.QUICK.items():
        text = text.replace(long, short)
    (tmp_path / "work").mkdir()
    done = notebooks.run(notebooks.notebook(text), tmp_path / "work", tmp_path / "bin")
    assert (tmp_path / "work" / "images" / "report.html").exists()
    shown = [output.get("data", {}) for cell in done.cells for output in cell.get("outputs", [])]
    assert any("image/png" in data for data in shown)
