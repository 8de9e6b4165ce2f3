"""A plain folder of what the hub has: the files of one dictionary, or of a set, copied out of the hub's cache."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from unmix.disk import flush, writing
from unmix.errors import UserError
from unmix.interop.hub import SCHEME, asked_of, fetch


def pull(
    repo: str, subfolder: str | None, dst: Path, *, revision: str | None = None, say: Callable[[str], None]
) -> list[Path]:
    """Write `dst`, which must not exist; answers its files.

    Raises `UserError` as `hub.fetch`, and if there is something at `dst`.
    """
    if dst.exists() or dst.is_symlink():
        raise UserError(f"{dst} exists; give a folder that does not, or move it away")
    asked = asked_of(repo if SCHEME.match(repo) or "/" not in repo else f"hf://{repo}", subfolder, revision, say)
    if asked is None:
        raise UserError(f"{repo} is no id of the hub; write OWNER/REPO")
    found = fetch(asked, pickles=True, every=True, say=say)
    files = {name: found.snapshot / name for name in found.names}
    root = os.path.commonpath([str(PurePosixPath(name).parent) for name in files])
    with writing(dst):
        dst.absolute().parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{dst.name}.", dir=dst.absolute().parent))
        try:
            for name, path in files.items():
                to = beside / PurePosixPath(name).relative_to(root)
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, to)  # what a link of the cache leads to
            beside.chmod(0o755)  # a temporary folder is its owner's alone
            beside.replace(dst)
            flush(dst.absolute().parent)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return [dst / PurePosixPath(name).relative_to(root) for name in files]
