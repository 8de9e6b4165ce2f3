"""The code blocks of a page of Markdown, fenced or indented, what each of them is, and the commands in it.

A fence says what it holds. An indented block is told by what is in it: `$ ` before its first line, a command, Python,
the keys of a recipe, or none of these: a formula, a tree of files, what a command printed.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import yaml

from unmix.config import RunConfig

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
KINDS = {"python": "python", "sh": "shell", "console": "console", "yaml": "yaml", "text": "text"}
"""What may stand behind ```."""
_COMMAND = re.compile(r"([A-Z]+=\S+ )*(unmix|pip|python|ssh|scripts/\S+|benchmarks/\S+|\.ci/\S+)( |$)")


class Command(NamedTuple):
    """A command as it stands on a page."""

    words: list[str]
    printed: list[str]
    """The lines below it in a block of `$ ` lines."""
    where: str


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    """That of its first line, from 1."""
    kind: str
    text: str
    section: str
    """The heading above it."""

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    def commands(self) -> Iterator[Command]:
        """Those of a shell or console block; a line that ends in a backslash goes on in the next."""
        found: list[Command] = []
        for line in self.text.replace("\\\n", " ").splitlines():
            if self.kind == "console" and not line.startswith("$ "):
                found[-1].printed.append(line)
            elif line.strip():
                found.append(Command(shlex.split(line.removeprefix("$ "), comments=True), [], f"{self.where}: {line}"))
        yield from found


def blocks(page: str) -> list[Block]:
    """Every block of a page in order. Raises `ValueError` for a fence that does not say what it holds."""
    found, lines, section = [], (ROOT / page).read_text(encoding="utf-8").split("\n"), ""
    at = 0
    while at < len(lines):
        first = at
        if fence := re.match(r"( *)```(.*)", lines[at]):
            at += 1
            while lines[at].strip() != "```":
                at += 1
            if fence[2] not in KINDS:
                raise ValueError(f"{page}:{first + 1}: ```{fence[2]} is none of {', '.join(KINDS)}")
            text = "\n".join(line[len(fence[1]) :] for line in lines[first + 1 : at])
            found.append(Block(page, first + 2, KINDS[fence[2]], text, section))
        elif lines[at].startswith("    ") and (first == 0 or not lines[first - 1].strip()):
            while at < len(lines) and (lines[at].startswith("    ") or not lines[at].strip()):
                at += 1
            found += _indented(page, first + 1, "\n".join(line[4:] for line in lines[first:at]).rstrip(), section)
            continue
        elif heading := re.match(r"#+ (.+)", lines[at]):
            section = heading[1]
        at += 1
    return found


def _indented(page: str, line: int, text: str, section: str) -> list[Block]:
    """The block; several where what stands behind an empty line is of another kind."""
    found: list[Block] = []
    for part in text.split("\n\n"):
        if found and found[-1].kind == kind(part):
            found[-1] = replace(found[-1], text=f"{found[-1].text}\n\n{part}")
        else:
            found.append(Block(page, line, kind(part), part, section))
        line += part.count("\n") + 2
    return found


def kind(text: str) -> str:
    """What an indented block is."""
    lines = text.splitlines()
    if lines[0].startswith("$ "):
        return "console"
    if any(_COMMAND.match(line) for line in lines):
        return "shell"
    if _is_python(text):
        return "python"
    try:
        keys = yaml.safe_load(text)
    except yaml.YAMLError:
        return "text"
    return "yaml" if isinstance(keys, dict) and keys.keys() <= RunConfig.model_fields.keys() else "text"


def _is_python(text: str) -> bool:
    """Whether it parses, and does something: a formula such as `a = b` is no program."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return False
    return any(isinstance(node, ast.Call | ast.Import | ast.ImportFrom) for node in ast.walk(tree))


def inline_commands(page: str) -> list[Command]:
    """`unmix …` within the running text of a page, tables too, outside its blocks."""
    inside = {n for block in blocks(page) for n in range(block.line - 1, block.line + block.text.count("\n") + 1)}
    lines = (ROOT / page).read_text(encoding="utf-8").split("\n")
    text = "\n".join("" if n in inside else line for n, line in enumerate(lines, 1))
    words = [found.replace("\n", " ") for found in re.findall(r"`(unmix [^`]+)`", text)]
    return [Command(shlex.split(word), [], f"{page}: `{word}`") for word in words]
