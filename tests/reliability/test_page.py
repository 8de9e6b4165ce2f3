"""docs/reliability.md: every test it names is there."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")


def test_every_test_that_is_named_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) > 40
    for path, name in named:
        there = {node.name for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body
                 if isinstance(node, ast.FunctionDef)}  # fmt: skip
        assert name in there, f"{path} has no {name}"


def test_every_fault_has_a_test():
    tables = [part for part in PAGE.split("\n\n") if part.startswith("| fault")]
    rows = [row for table in tables for row in table.splitlines()[2:]]
    assert len(rows) > 40
    assert all(re.search(r"`tests/[\w/]+\.py::\w+`", row) for row in rows)
