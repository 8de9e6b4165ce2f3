"""The names of `import unmix`: which there are, what they take, what type checkers see, that none is loaded early."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import unmix
from unmix.dictionary.model import Dictionary
from unmix.front import Run
from unmix.interop.origin import Origin

ROOT = Path(__file__).parents[1]
FUNCTIONS = {
    "error_of": "(sae)",
    "load_model": "(name, *, dtype='float32', device='cpu')",
    "load_sae": "(path, subfolder=None, *, revision=None, device=None, dtype=None)",
    "open_run": "(folder)",
    "splice": "(model, hook, replacement=None)",
    "steered": "(sae, *, ablate=(), clamp=None, add=None, multiply=None)",
    "sweep": "(recipe=None, *, activations=None, targets=None, runs='runs', evaluate=True, quiet=False, force=False, "
    "**keys)",
    "to_sae_lens": "(sae, *, model=None, hook=None, context=None, hook_out=None, transcoder=None)",
    "top_features": "(lm, sae, text, hook=None, *, most=10)",
    "with_feature": "(sae, feature, factor)",
}
RUN = {
    "evaluation": "(self)", "metrics": "(self)", "report": "(self)", "sae": "(self, member=None)",
    "choice": None, "choices": None, "members": None, "recipe": None,
}  # fmt: skip
"""None: a property."""
SAE = {
    "encode": "(self, x)", "code": "(self, x)", "decode": "(self, f, x=None)", "forward": "(self, x)",
    "d_in": None, "d_sae": None, "width": None, "features": None, "weights": None,
}  # fmt: skip
CFG = {
    "format", "architecture", "version", "model", "hook", "hook_out", "transcoder", "context", "prepend_bos",
    "without_special", "corpus", "training_tokens", "step", "asked", "metrics", "metrics_of", "l0",
    "explained_variance", "processed", "head", "positions", "folded", "notes",
}  # fmt: skip
CHECKED = """
import unmix
run = unmix.sweep(l0=[20])
reveal_type(run)
reveal_type(run.metrics())
reveal_type(run.choice)
sae = unmix.load_sae("runs/demo")
reveal_type(sae)
reveal_type(sae.d_sae)
lm = unmix.load_model("embedded")
reveal_type(lm.layers)
reveal_type(unmix.top_features(lm, sae, "import os"))
with unmix.splice(lm.model, "resid_post.3", unmix.steered(sae, add={3: 5.0})) as inside:
    reveal_type(inside)
unmix.open_run(3)
unmix.swep()
"""
REVEALED = [
    "unmix.front.Run", "dict[str, list[Any]]", "str | None", "unmix.dictionary.model.Dictionary", "int", "int",
    "list[tuple[str, list[tuple[int, float]]]]", "None",
]  # fmt: skip


def arguments(function: Any) -> str:
    """Names, kinds and defaults."""
    found = inspect.signature(function)
    bare = [one.replace(annotation=inspect.Parameter.empty) for one in found.parameters.values()]
    return str(found.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def of_class(kind: type, names: dict[str, str | None]) -> dict[str, str | None]:
    members = {name: inspect.getattr_static(kind, name) for name in names}
    return {name: None if isinstance(found, property) else arguments(found) for name, found in members.items()}


def test_the_names_and_their_arguments_are_these():
    """Additions are welcome; a name that goes, or takes other arguments, breaks somebody's notebook."""
    assert set(unmix.__all__) == {"Run", *FUNCTIONS}
    assert {name: arguments(getattr(unmix, name)) for name in FUNCTIONS} == FUNCTIONS
    assert arguments(Run) == "(folder)"
    assert {name for name in dir(Run) if not name.startswith("_")} == RUN.keys()
    assert of_class(Run, RUN) == RUN
    assert of_class(Dictionary, SAE) == SAE
    assert {one.name for one in fields(Origin)} == CFG


def test_every_argument_has_a_type():
    for name in FUNCTIONS:
        found = inspect.signature(getattr(unmix, name))
        assert found.return_annotation is not inspect.Signature.empty, name
        assert all(one.annotation is not inspect.Parameter.empty for one in found.parameters.values()), name


def test_type_checkers_see_what_comes_at_run_time():
    """`__getattr__` gives what is imported under TYPE_CHECKING, and no more."""
    [branch] = [node for node in ast.parse(Path(unmix.__file__).read_text()).body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in branch.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen.keys() == set(unmix.__all__)
    for name, module in seen.items():
        assert getattr(unmix, name) is getattr(import_module(str(module)), name)
    assert set(unmix.__all__) < set(dir(unmix))
    with pytest.raises(AttributeError, match="module 'unmix' has no attribute 'swep'"):
        unmix.swep  # noqa: B018


def test_nothing_heavy_is_imported_before_it_is_asked_for():
    heavy = {"torch", "numba", "numpy", "transformers", "pydantic", "matplotlib"}
    code = f"import sys, unmix; dir(unmix); print(unmix.__version__, sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == [unmix.__version__, "[]"], done.stderr


def test_every_name_stands_in_the_reference():
    """docs/api.md is made of docstrings: one entry a name, of the module that the name comes from."""
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    entries = set(re.findall(r"^::: (unmix\.[\w.]+)$", page, re.M))
    wanted = {f"{getattr(unmix, name).__module__}.{name}" for name in unmix.__all__}
    assert not wanted - entries, "docs/api.md lacks these"
    for entry in entries:
        module, _, name = entry.rpartition(".")
        assert getattr(import_module(module), name).__doc__


@pytest.mark.slow
def test_mypy_knows_the_types(tmp_path: Path):
    """Not Any: what a notebook's editor shows, and a wrong argument or name is found."""
    pytest.importorskip("mypy")
    (tmp_path / "notebook.py").write_text(CHECKED)
    words = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache"), "--no-pretty"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *words, str(tmp_path / "notebook.py")],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"MYPYPATH": str(ROOT / "src")},
    )
    said = done.stdout.replace("builtins.", "").replace("typing.", "")
    assert re.findall(r'Revealed type is "(.*)"', said) == REVEALED, done.stdout + done.stderr
    errors = [line for line in said.splitlines() if " error: " in line]
    assert len(errors) == 2, done.stdout
    assert 'Argument 1 to "open_run" has incompatible type "int"' in errors[0]
    assert 'Module has no attribute "swep"' in errors[1]
