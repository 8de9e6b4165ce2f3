"""Imports point downward: a module may import from its own floor or below."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import unmix

ROOT = Path(unmix.__file__).parent
FLOORS = {
    "unmix": 0, "errors": 0, "disk": 0, "yamltext": 0, "config": 0, "runlog": 0, "tensorfile": 0, "sinks": 0,
    "machine": 0, "neighbours": 0, "cache": 0, "hooknames": 0, "devices": 0, "words": 0,
    "dictionary": 1,
    "interop": 2,
    "kernels": 2, "corpus": 2, "lm": 2, "activations": 2, "precision": 2,
    "training": 3, "evaluation": 3,
    "report": 4, "verify": 4, "explore": 4,
    "bench": 5, "cli": 5, "front": 5,
}  # fmt: skip
FORBIDDEN = [
    ("corpus", "dictionary"), ("corpus", "lm"), ("corpus", "activations"), ("lm", "dictionary"), ("lm", "corpus"),
    ("activations", "dictionary"), ("dictionary", "corpus"), ("dictionary", "lm"), ("dictionary", "activations"),
    ("evaluation", "training"), ("training", "evaluation"),
    ("report", "training"), ("report", "dictionary"),
]  # fmt: skip


def imports(path: Path) -> set[str]:
    """First parts below `unmix` that the module imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "unmix":
                found.add(parts[1] if len(parts) > 1 and parts[1] in FLOORS else "unmix")
    return found


def modules() -> list[tuple[Path, str]]:
    return [
        (path, (path.relative_to(ROOT).parts[0] if path.parent != ROOT else path.stem).replace("__init__", "unmix"))
        for path in sorted(ROOT.rglob("*.py"))
    ]


def test_every_module_has_a_floor():
    assert {part for _, part in modules()} == FLOORS.keys()


def test_imports_point_downward():
    for path, part in modules():
        if path == ROOT / "__init__.py":
            continue  # the public names, each imported when it is first asked for
        for other in imports(path) - {part}:
            assert FLOORS[other] <= FLOORS[part], f"{path.relative_to(ROOT)} imports {other} from a floor above"
            assert (part, other) not in FORBIDDEN, f"{path.relative_to(ROOT)} may not import {other}"


def test_kernels_stand_alone():
    """With the mathematics that they compute, they must run where nothing else of the project is installed."""
    mathematics = [ROOT / "dictionary" / name for name in ("code.py", "nonlinearities.py", "terms.py")]
    allowed = {f"unmix.dictionary.{path.stem}" for path in mathematics}
    for path in [*mathematics, *sorted((ROOT / "kernels").glob("*.py"))]:
        found = set(re.findall(r"^\s*(?:from|import) (unmix[\w.]*)", path.read_text(), re.M))
        outside = {name for name in found if not name.startswith("unmix.kernels")} - allowed
        assert not outside, f"{path} imports {outside}"


def test_triton_is_imported_by_the_gpu_kernels_alone():
    naming = {path for path, _ in modules() if re.search(r"^\s*(import|from) triton", path.read_text(), re.M)}
    assert naming
    assert naming <= set((ROOT / "kernels").glob("gpu*.py"))
    names = ["unmix", "unmix.cli", *(f"unmix.kernels.{name}" for name in ("reference", "cpu", "dense", "dispatch"))]
    code = f"import sys; sys.modules['triton'] = None; import {', '.join(names)}"
    code += "; print(any(name.startswith('unmix.kernels.gpu') for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False", done.stderr
