"""The files that lie where a dictionary is to be read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmix.errors import UserError
from unmix.hooknames import canonical
from unmix.interop.keys import Keys, read_keys
from unmix.interop.pickles import read_pickle
from unmix.interop.tensors import read_npz, read_safetensors

PICKLED = (".pt", ".pth")
IN_CACHE = re.compile(r"/models--([^/]+?)--([^/]+)/snapshots/[^/]+(/.*)?$")
"""(owner, repository, /path within it) of what lies in the hub's cache."""


@dataclass(frozen=True)
class Source:
    """A folder, or one file in it."""

    folder: Path
    names: frozenset[str]
    """Of what lies in the folder."""
    file: str | None = None
    """The one that was given, if it was not the folder."""
    pickles: bool = False
    """Whether `.pt` files may be read, as `unmix convert` does."""

    def has(self, *names: str) -> bool:
        """Whether all of them are there, and none but the last was given by itself."""
        return self.names.issuperset(names) and self.file in (None, names[-1])

    def keys(self, name: str) -> Keys:
        """A file of JSON or YAML."""
        return read_keys(self.folder / name)

    def tensors(self, name: str) -> Mapping[str, Any]:
        """The tensors of a file, and what else a pickle holds by name. Raises `UserError` if it cannot be read."""
        path = self.folder / name
        if path.suffix in PICKLED:
            if not self.pickles:
                raise UserError(
                    f"{path} is a pickle, which can run code when it is opened; "
                    f"`unmix convert {path} FOLDER` reads nothing but its tensors and writes a folder that opens"
                )
            return read_pickle(path)
        return read_npz(path) if path.suffix == ".npz" else read_safetensors(path)

    @property
    def levels(self) -> str:
        """The folder's path with slashes, a repository in the hub's cache by its own name.

        Some releases say what was trained on in names of folders alone. Levels above theirs are the user's, and may be
        called anything.
        """
        return IN_CACHE.sub(lambda found: f"/{found[2]}{found[3] or ''}", self.folder.absolute().as_posix())

    def ends(self, pattern: str) -> re.Match[str] | None:
        """What the pattern fits of the last levels: whole ones, up to the end."""
        return re.search(rf"(?<=/)(?:{pattern})$", self.levels)


_MODULE = re.compile(r"(?:\w+\.)*(?:layers|h|blocks|layer)[._](\d+)(?:\.(\w+))?(?:\.(output))?")
_BRANCH = {"mlp": "mlp", "attn": "attn", "self_attn": "attn", "attention": "attn"}


def hook_of_module(name: str) -> str | None:
    """The output of a module of `transformers`: `layers.10` -> resid_post.10, `model.layers.3.mlp` ->
    blocks.3.mlp.hook_out, which is mlp_out.3 only where the block adds it as it is.
    """
    found = _MODULE.fullmatch(name)
    if not found:
        return None
    part = None if found[2] == "output" else found[2]
    if part is None:
        return f"resid_post.{found[1]}"
    return f"blocks.{found[1]}.{_BRANCH[part]}.hook_out" if part in _BRANCH else None


def hook_named(name: str | None) -> str | None:
    """Ours for TransformerLens' name, another as it is."""
    return canonical(name) if name else None
