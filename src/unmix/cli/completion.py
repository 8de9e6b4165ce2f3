"""`unmix completion`: what a shell needs to complete the commands and their options."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from unmix.errors import UserError

SHELLS = ("bash", "zsh", "fish")
_FOLDERS = {"folder", "out", "runs", "dst"}
"""Arguments that want a folder, where others of type Path want a file or a folder."""


def add_completion(commands: Any, parser: Callable[[], argparse.ArgumentParser]) -> None:
    """Add the command; `parser` makes the one that is completed, with every command in it."""
    own = commands.add_parser(
        "completion",
        help="print a script that lets bash, zsh or fish complete commands and options",
        description="Print the script for a shell; making it needs `pip install shtab`, using it nothing.\n\n"
        "  bash   unmix completion bash > ~/.local/share/bash-completion/completions/unmix\n"
        "  zsh    unmix completion zsh > ~/.zfunc/_unmix          with fpath+=~/.zfunc before compinit in ~/.zshrc\n"
        "  fish   unmix completion fish > ~/.config/fish/completions/unmix.fish",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    own.add_argument("shell", choices=SHELLS)
    own.set_defaults(run=lambda args, dotted: _run(args, parser()))


def _run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    try:
        import shtab
    except ImportError:
        raise UserError("completion needs shtab, which is not installed: pip install shtab") from None
    for action in _actions(parser):
        if action.type is Path or action.dest == "recipe":
            action.complete = shtab.DIRECTORY if action.dest in _FOLDERS else shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, args.shell))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Those of the parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
