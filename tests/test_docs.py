"""The Python in the documents runs as it stands: the blocks of a page one after the other, in an empty folder."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from unmix.config.reference import page

DOCS = Path(__file__).parents[1] / "docs"


def test_the_reference_of_recipe_keys_is_the_newest():
    assert (DOCS / "recipe.md").read_text(encoding="utf-8") == page(), "run scripts/recipe_reference"
    assert "|  |" not in page(), "a key without a docstring"


@pytest.mark.slow
@pytest.mark.parametrize("page", ["python.md"])
def test_every_block_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) >= 3
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"{page}, block {number}", "exec"), names)


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((DOCS / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 3
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for number, cell in enumerate(cells, start=1):
        exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), names)
    import matplotlib.pyplot

    matplotlib.pyplot.close("all")
