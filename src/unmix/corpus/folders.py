"""A folder of files: what is in it, in order; the texts of those that hold any, and a count of those that do not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from unmix.config.corpus import SourceConfig
from unmix.corpus.content import Content
from unmix.corpus.files import ARRAYS, read
from unmix.corpus.saved import is_saved
from unmix.corpus.text_files import whole
from unmix.corpus.unfit import PassedOver, Unfit, relative
from unmix.errors import UserError

FIELD = SourceConfig.model_fields["field"].default


def below(root: Path) -> list[Path]:
    """Everything below a folder, sorted, but not what is hidden (`.name`) or in a hidden folder."""
    return [p for p in sorted(root.rglob("*")) if not any(part.startswith(".") for part in p.relative_to(root).parts)]


def contents(root: Path, config: SourceConfig, passed: PassedOver) -> Iterator[Content]:
    """The documents of all files, file by file; a plain text file is one. Files without any are counted in `passed`.

    Files of numbers lie beside texts for many reasons: they are read as token ids only where `config.field` says so.

    Raises `UserError` for records that are damaged or lack the field, and for a saved dataset somewhere inside.
    """
    for path in [root, *below(root)]:
        name = relative(path, root)
        if path.is_dir():
            if path != root and is_saved(path):
                raise UserError(
                    f"{path} was written by save_to_disk of the datasets library; give it alone as corpus.source, "
                    "or move it out of the folder"
                )
            if path.is_symlink() and path != root:
                passed.add("link to a folder", name)
            elif not os.access(path, os.R_OK | os.X_OK):
                passed.add("unreadable", name, f"{path} cannot be listed: permission denied")
        elif not path.is_file():
            passed.add("not a file", name)
        elif path.suffix.lower() in ARRAYS and config.field == FIELD:
            why = f"{path} holds numbers; if they are token ids, give --corpus.field input_ids"
            passed.add(path.suffix.lower(), name, why)
        else:
            try:
                yield from read(path, config, whole)
            except Unfit as unfit:
                passed.add(unfit.kind, name, str(unfit))
