"""Which environment runs a Python block of the documents.

A block that imports none of `LIBRARIES` runs in `DEV` (test_code_blocks.py). One that does is left whole to
interop/test_peers_examples.py, which runs it in every environment of benchmarks/environment that has the library.
"""

from __future__ import annotations

import ast
from importlib.metadata import PackageNotFoundError, version

from code_blocks import PAGES, ROOT, Block, blocks
from packaging.requirements import Requirement

DEV = "dev"
"""The environment of scripts/test."""
LIBRARIES = {
    "circuit_tracer": Requirement("circuit-tracer"),
    "delphi": Requirement("eai-delphi"),
    "nnsight": Requirement("nnsight>=0.7"),
    "nnterp": Requirement("nnterp"),
    "pandas": Requirement("pandas"),
    "polars": Requirement("polars"),
    "sae_bench": Requirement("sae-bench"),
    "sae_lens": Requirement("sae-lens>=6"),
    "transformer_lens": Requirement("transformer-lens>=3"),
}
"""module -> the package that brings it, in the versions that the documents speak of."""


def imports(block: Block) -> set[str]:
    """The top-level modules that it imports."""
    found = set()
    for node in ast.walk(ast.parse(block.text, block.where)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def libraries(block: Block) -> list[Requirement]:
    """The other libraries that it needs."""
    return [LIBRARIES[module] for module in sorted(imports(block) & LIBRARIES.keys())]


def peer_blocks() -> list[Block]:
    """Those of every page that need another library."""
    return [block for page in PAGES for block in blocks(page) if block.kind == "python" and libraries(block)]


def missing(block: Block) -> list[Requirement]:
    """The libraries that it needs and that are not installed here, or not in that version."""
    return [wanted for wanted in libraries(block) if not _has(wanted)]


def _has(wanted: Requirement) -> bool:
    try:
        return wanted.specifier.contains(version(wanted.name), prereleases=True)
    except PackageNotFoundError:
        return False


def environments(block: Block) -> list[str]:
    """The names of the environments that run it: `DEV`, or those whose exact versions have all that it needs."""
    wanted = libraries(block)
    if not wanted:
        return [DEV]
    return [name for name, pins in _pins().items() if all(_pinned(pins, one) for one in wanted)]


def _pinned(pins: dict[str, str], wanted: Requirement) -> bool:
    return wanted.name in pins and wanted.specifier.contains(pins[wanted.name], prereleases=True)


def _pins() -> dict[str, dict[str, str]]:
    """environment -> package -> its exact version."""
    there = ROOT / "benchmarks"
    files = {"main": there / "constraints.txt"}
    files |= {path.stem: path for path in sorted((there / "environments").glob("*.txt"))}
    return {
        name: dict(
            line.split("==", 1) for line in path.read_text(encoding="utf-8").splitlines() if "==" in line
        )
        for name, path in files.items()
    }  # fmt: skip
