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
from unmix.dictionary.nonlinearities import JumpRelu
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


@pytest.mark.parametrize("dtype", ["bfloat16", "torch.bfloat16", torch.bfloat16])
def test_a_dtype_has_a_name(dtype: Any, tmp_path: Path):
    sae = unmix.load_sae(put(tmp_path / "sae"), dtype=dtype)
    assert sae.W_dec.dtype == torch.bfloat16
    assert len(sae.fingerprint) == 64
    assert sae.fingerprint != unmix.load_sae(tmp_path / "sae").fingerprint


@pytest.mark.parametrize("dtype", [torch.int8, "int8", "half", torch.bool])
def test_what_weights_cannot_be_in_is_one_line(dtype: Any, tmp_path: Path):
    folder = put(tmp_path / "sae")
    with pytest.raises(UserError, match=r"is none that a dictionary can be in; give one of float32, bfloat16, float16"):
        unmix.load_sae(folder, dtype=dtype)


@pytest.mark.parametrize("device", ["cuda:99", torch.device("cuda", 99), "gpu"])
def test_a_device_that_is_not_there_is_one_line(device: Any, tmp_path: Path):
    with pytest.raises(UserError, match="device = "):
        unmix.load_sae(put(tmp_path / "sae"), device=device)


def test_a_device_that_is_there_has_a_name(tmp_path: Path):
    assert unmix.load_sae(put(tmp_path / "sae"), device="cpu").W_dec.device.type == "cpu"


def test_float16_keeps_features_that_are_off_and_refuses_what_it_cannot_hold(tmp_path: Path):
    sae = new_dictionary(4, 12, 1.0, 0, JumpRelu())
    theta = torch.full((12,), 0.01)
    theta[3] = 1e30  # never active
    sae = sae.changed({"threshold": theta})
    save_sae(sae, tmp_path / "sae", model=None, hook=None, context=None, more={})
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    half = unmix.load_sae(tmp_path / "sae", dtype="float16")
    assert torch.equal(half.encode(x) != 0, half.encode(x) > 0)
    torch.testing.assert_close(half.encode(x).float(), sae.encode(x).detach(), rtol=0, atol=0.02)
    assert half(x).isfinite().all()
    large = sae.changed({"W_dec": sae.W_dec.detach() * 1e6})
    save_sae(large, tmp_path / "large", model=None, hook=None, context=None, more={})
    with pytest.raises(UserError, match=r"W_dec goes up to .*, which dtype = float16 cannot hold; give bfloat16"):
        unmix.load_sae(tmp_path / "large", dtype="float16")
    assert unmix.load_sae(tmp_path / "large", dtype="bfloat16").W_dec.isfinite().all()
