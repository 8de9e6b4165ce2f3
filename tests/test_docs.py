"""What is made for the documents is the newest, and the notebooks run (code blocks: `test_code_blocks.py`)."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from unmix.config.reference import page
from unmix.evaluation import command

DOCS = Path(__file__).parents[1] / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


def test_the_reference_of_recipe_keys_is_the_newest():
    assert (DOCS / "recipe.md").read_text(encoding="utf-8") == page(), "run scripts/recipe_reference"
    assert "|  |" not in page(), "a key without a docstring"


def notebooks_script() -> Any:
    spec = importlib.util.spec_from_file_location("notebooks", DOCS.parent / "scripts" / "notebooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_shows_what_its_code_gave(path: Path):
    """Outputs are of the code that stands there: `scripts/docs --notebooks` stores them, and the hash of the code."""
    script, notebook = notebooks_script(), json.loads(path.read_text(encoding="utf-8"))
    assert notebook["metadata"]["unmix"]["sha256_of_code"] == script.source_hash(notebook), "scripts/docs --notebooks"
    outputs = [cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert sum(bool(output) for output in outputs) >= 3
    assert path.stat().st_size < script.MOST
    notebook["cells"][1]["source"].append("\n")
    assert notebook["metadata"]["unmix"]["sha256_of_code"] != script.source_hash(notebook)


def test_a_page_of_a_notebook_shows_outputs_and_pictures(tmp_path: Path):
    [path] = [path for path in NOTEBOOKS if path.stem == "first_sweep"]
    notebooks_script().page(path, tmp_path)
    page = (tmp_path / "first_sweep.md").read_text(encoding="utf-8")
    assert page.startswith("# A first sweep")
    assert "```text\nl0-10 " in page
    assert "![What the cell above draws](first_sweep-1.png)" in page
    assert (tmp_path / "first_sweep-1.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.pictures
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its sweeps for 40 steps, evaluated on few tokens; `scripts/docs --notebooks` runs it as it stands."""
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 3
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "SWEEP_TOKENS", 5000)
    monkeypatch.setattr(command, "SWEEP_CE_TOKENS", 1000)
    names: dict[str, Any] = {}
    for number, cell in enumerate(cells, start=1):
        source = re.sub(r"\bsteps=\d+", "steps=40", "".join(cell["source"]))
        exec(compile(source, f"{path.name}, cell {number}", "exec"), names)
    import matplotlib.pyplot

    matplotlib.pyplot.close("all")
