"""The notebooks of docs/notebooks: run them and store what they give, or write them as pages of the site.

    python scripts/notebooks.py run            every cell anew, in an empty folder; some minutes
    python scripts/notebooks.py pages DIR      NAME.md for each, its pictures beside it

Outputs are never typed: what `run` stores is what the cells printed, the value of their last line, and their pictures.
Beside them it notes the SHA-256 of the code, so that a test can tell outputs of other code.
"""

from __future__ import annotations

import argparse
import ast
import base64
import contextlib
import hashlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "notebooks"
MOST = 300_000
"""Bytes of a notebook."""
DPI = 90


def source_hash(notebook: dict[str, Any]) -> str:
    """Of the code cells, in order."""
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()


def run(path: Path) -> None:
    """Run every cell, and store the outputs. Raises what a cell raises, and `SystemExit` if the file gets too large."""
    notebook, names = json.loads(path.read_text(encoding="utf-8")), {"__name__": "__main__"}
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(code, start=1):
        cell["execution_count"] = number
        cell["outputs"] = _outputs("".join(cell["source"]), f"{path.name}, cell {number}", number, names)
    notebook["metadata"]["unmix"] = {"sha256_of_code": source_hash(notebook)}
    text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    if len(text.encode()) > MOST:
        raise SystemExit(f"{path.name} would have {len(text.encode()):,} bytes, more than {MOST:,}; show less")
    path.write_text(text, encoding="utf-8")


def _outputs(source: str, name: str, number: int, names: dict[str, Any]) -> list[dict[str, Any]]:
    """What a cell gives, as Jupyter stores it: its standard output, the value of its last line, its pictures."""
    import matplotlib.pyplot as plt

    tree = ast.parse(source, name)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    found: list[dict[str, Any]] = []
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(tree, name, "exec"), names)
        value = None if last is None else eval(compile(ast.Expression(last.value), name, "eval"), names)
    if text := printed.getvalue():
        found.append({"output_type": "stream", "name": "stdout", "text": text.splitlines(keepends=True)})
    if value is not None and not source.rstrip().endswith(";"):
        data = {"text/plain": repr(value).splitlines(keepends=True)}
        found.append({"output_type": "execute_result", "execution_count": number, "metadata": {}, "data": data})
    for figure in plt.get_fignums():
        png = io.BytesIO()
        plt.figure(figure).savefig(png, format="png", dpi=DPI)
        picture = base64.b64encode(png.getvalue()).decode()
        found.append({"output_type": "display_data", "metadata": {}, "data": {"image/png": picture}})
    plt.close("all")
    return found


def page(path: Path, folder: Path) -> None:
    """Write NAME.md, and NAME-1.png and so on, into the folder."""
    parts = []
    pictures = 0
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                pictures += 1
                (folder / f"{path.stem}-{pictures}.png").write_bytes(base64.b64decode(data["image/png"]))
                parts.append(f"![What the cell above draws]({path.stem}-{pictures}.png)")
            else:
                parts.append(f"```text\n{''.join(output.get('text') or data['text/plain']).rstrip()}\n```")
    parts.append(f"[The notebook itself]({path.name})")
    (folder / f"{path.stem}.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run")
    commands.add_parser("pages").add_argument("folder", type=Path)
    args = parser.parse_args()
    paths = sorted(FOLDER.glob("*.ipynb"))
    if args.command == "pages":
        for path in paths:
            page(path, args.folder)
        return
    os.environ["MPLBACKEND"] = "Agg"
    for path in paths:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            run(path)
        print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
