"""Which dictionary a path means: of a run, of a folder that holds others."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import unmix
from unmix.dictionary.files import save_sae
from unmix.dictionary.model import new_dictionary
from unmix.errors import UserError
from unmix.interop.load import one_inside
from unmix.runlog import write_choices


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two members with two checkpoints each; l0-8 is chosen."""
    run = tmp_path / "runs" / "demo"
    for seed, name in enumerate(("l0-4", "l0-8")):
        for step in (10, 20):
            put(run / "members" / name / f"step-{step:09d}", seed + step)
    (run / "run.yaml").write_text("recipe: {}\n")
    write_choices(run, [{"member": "l0-8", "candidates": [{"member": "l0-8"}]}])
    return run


def put(folder: Path, seed: int = 0) -> Path:
    save_sae(new_dictionary(4, 12, 1.0, seed), folder, model="gpt2", hook="resid_post.0", context=8, more={})
    return folder


def is_of(sae: Any, folder: Path) -> bool:
    return torch.equal(sae.W_dec, load_file(folder / "sae_weights.safetensors")["W_dec"])


def test_a_run_means_the_newest_checkpoint_of_its_choice(run: Path):
    assert is_of(unmix.load_sae(run), run / "members/l0-8/step-000000020")
    assert is_of(unmix.load_sae(run / "members" / "l0-4"), run / "members/l0-4/step-000000020")
    put(run / "members" / "l0-8-extended" / "step-000000030", 99)
    assert is_of(unmix.load_sae(run), run / "members/l0-8-extended/step-000000030")


def test_a_choice_whose_folder_is_gone_is_one_line(run: Path):
    shutil.rmtree(run / "members" / "l0-8")
    with pytest.raises(UserError, match=r"has no checkpoint of its choice, l0-8; train it with `unmix sweep`$"):
        unmix.load_sae(run)


def test_folders_that_may_not_be_read_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The one that is above it by name is forbidden, at the first level and at the second."""
    there, plain = put(tmp_path / "b" / "inside"), Path.iterdir
    for name in ("a", "b/a"):
        put(tmp_path / name)

    def forbidden(self: Path) -> Iterator[Path]:
        if self.name == "a":
            raise PermissionError(13, "Permission denied", str(self))
        return plain(self)

    assert one_inside(tmp_path) == tmp_path / "a"
    monkeypatch.setattr(Path, "iterdir", forbidden)
    assert one_inside(tmp_path) == there
    with pytest.raises(UserError, match=f"give a folder inside it that is one, such as {there}"):
        unmix.load_sae(tmp_path)
