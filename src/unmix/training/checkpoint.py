"""A member on disk: the SAE for everybody, and beside it what training needs to go on with the same bits.

    members/NAME/step-000035000/cfg.json, sae_weights.safetensors     the SAE, acts on raw activations
                               /training_state.safetensors            weights before folding, Adam's moments, counts

A checkpoint is written into a folder of another name and renamed when it is whole.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import safetensors
import torch

from unmix.errors import UserError
from unmix.kernels.reference import Weights
from unmix.sae.files import save_sae
from unmix.tensorfile import save_tensors
from unmix.training.member import Member, Window

STATE = "training_state.safetensors"


def step_folder(folder: Path, step: int) -> Path:
    """`members/NAME/step-000035000`."""
    return folder / f"step-{step:09d}"


def steps_on_disk(folder: Path) -> list[int]:
    """The steps with a whole checkpoint, ascending."""
    return sorted(int(p.parent.name.removeprefix("step-")) for p in folder.glob(f"step-?????????/{STATE}"))


def save(member: Member, folder: Path, step: int, facts: dict[str, Any]) -> None:
    """Write the checkpoint of `step` whole, in place of one that may be there."""
    target = step_folder(folder, step)
    new = target.with_name(target.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    more = {"l1": member.entry.l1, "training_tokens": member.tokens, "step": step, **facts["metadata"]}
    save_sae(member.sae(), new, model=facts["model"], hook=member.entry.hook, context=facts["context"], more=more)
    save_tensors(new / STATE, *_state(member))
    remove(folder, step)
    new.rename(target)


def remove(folder: Path, step: int) -> None:
    """Delete the checkpoint of `step` if it is there."""
    target = step_folder(folder, step)
    if target.exists():
        gone = target.with_name(target.name + ".old")  # out of the way in one rename: never half a checkpoint
        shutil.rmtree(gone, ignore_errors=True)
        target.rename(gone)
        shutil.rmtree(gone)


def load(member: Member, folder: Path) -> None:
    """Bring a member to the state in a checkpoint folder. Raises `UserError` if the file is damaged."""
    path = folder / STATE
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            scalars = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} is damaged ({error}); remove {folder} to go on from the checkpoint before") from None
    for field, weight in zip(Weights._fields, member.weights, strict=True):
        weight.copy_(tensors[field])
        member.adam.state[weight] = {
            "step": torch.tensor(float(scalars["adam_step"])),
            "exp_avg": torch.empty_like(weight).copy_(tensors[f"exp_avg.{field}"]),
            "exp_avg_sq": torch.empty_like(weight).copy_(tensors[f"exp_avg_sq.{field}"]),
        }
    member.silent_F.copy_(tensors["silent_F"])
    member.tokens, member.step.sparse = scalars["tokens"], scalars["sparse"]
    member.window = Window(**scalars["window"], sum_x_D=tensors["window.sum_x_D"].clone())


def _state(member: Member) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    tensors = {"silent_F": member.silent_F, "window.sum_x_D": member.window.sum_x_D}
    adam_step = 0
    for field, weight in zip(Weights._fields, member.weights, strict=True):
        state = member.adam.state[weight]
        adam_step = int(state["step"].item())
        tensors[field] = weight
        tensors[f"exp_avg.{field}"] = state["exp_avg"]
        tensors[f"exp_avg_sq.{field}"] = state["exp_avg_sq"]
    window = dataclasses.asdict(member.window)
    del window["sum_x_D"]
    scalars = {"adam_step": adam_step, "tokens": member.tokens, "sparse": member.step.sparse, "window": window}
    return tensors, {"state": json.dumps(scalars)}
