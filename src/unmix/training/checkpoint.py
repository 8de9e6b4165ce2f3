"""A member on disk: the SAE for everybody, and beside it what training needs to resume with the same bits.

    members/NAME/step-000035000/cfg.json, sae_weights.safetensors     the SAE, acts on raw activations
                               /training_state.safetensors            weights before folding, c, Adam's moments, counts
                               /checksums.json                        SHA-256 of each of these; written last

A checkpoint is written into a folder of another name, flushed to disk, and renamed when it is whole.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import safetensors
import torch

from unmix.dictionary.files import CONFIG, WEIGHTS, save_sae
from unmix.dictionary.samples import KEPT
from unmix.dictionary.table import ARCHITECTURES
from unmix.dictionary.terms import L1, Gate
from unmix.disk import flush, sha256, writing
from unmix.errors import UserError
from unmix.kernels.task import Weights, on_host, wide
from unmix.runlog import write_json
from unmix.tensorfile import save_tensors
from unmix.training.controller import Controller
from unmix.training.member import Member
from unmix.training.numbers import read
from unmix.training.window import Window

STATE, CHECKSUMS = "training_state.safetensors", "checksums.json"
_FILES = (CONFIG, WEIGHTS, STATE)
_ONCE = {"W_enc": "W_enc_DF", "b_enc": "b_enc_F", "W_dec": "W_dec_FD", "b_dec": "b_dec_D"}
"""What the weights are called in older checkpoints."""
WINDOWS = ("window", "as_saved")
"""Attributes of a member that are sums since the last line of metrics."""


def step_folder(folder: Path, step: int) -> Path:
    """`members/NAME/step-000035000`."""
    return folder / f"step-{step:09d}"


def steps_on_disk(folder: Path) -> list[int]:
    """The steps that a member has checkpoints of, ascending; `damage` says whether they are whole."""
    return sorted(int(p.name[5:]) for p in folder.glob("step-?????????") if p.name[5:].isdigit() and p.is_dir())


def save(member: Member, folder: Path, step: int, facts: dict[str, Any]) -> None:
    """Write the checkpoint of `step` whole, in place of one that may be there. Raises `UserError` if it cannot."""
    if not all(w.isfinite().all() for w in member.weights.values()):
        raise UserError(
            f"the weights of {member.entry.name} are not finite at step {step:,}, and the checkpoint before it is "
            "kept; give a lower training.lr, and another --name"
        )
    target = step_folder(folder, step)
    new = target.with_name(target.name + ".new")
    asked = {"l1": member.entry.l1} if member.entry.l0 is None else {"target_l0": member.entry.l0}
    more = {**asked, "training_tokens": member.tokens, "step": step, **facts["metadata"]}
    if mask := member.mask.facts("y" if member.view.has_targets else "x"):
        more["mask"] = mask
    if member.halted_at is not None:
        more["halted_at"] = member.halted_at
    if path := facts.get("modules", {}).get(member.entry.hook):
        more["hf_hook_name"] = path
    with writing(target):
        try:
            shutil.rmtree(new, ignore_errors=True)
            hook, context = member.entry.hook, facts["context"]
            save_sae(
                member.sae(),
                new,
                model=facts["model"],
                hook=hook,
                context=context,
                more=more,
                transcoder=member.view.has_targets,
                l1_coefficient=raw_coefficient(member),
            )
            save_tensors(new / STATE, *_state(member))
            write_json(new / CHECKSUMS, {"format": 1, "sha256": {name: sha256(new / name) for name in _FILES}})
            remove(folder, step)
            new.rename(target)
            flush(folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)  # half a checkpoint is of no use, and takes room


def raw_coefficient(member: Member) -> float | None:
    """λ of the same loss in raw units, the decoder's norms in its penalty, as SAELens has it; None where there is none.

    In training u = s x, and what is saved has the same f with W_dec = W_dec,u / s (`fold_scaling`; where y is not x, s
    is the scale of y), so that

        ‖û - u‖² + β Σ f_i ‖W_dec,u,i‖  =  s² (‖x̂ - x‖² + (β / s) Σ f_i ‖W_dec,i‖),         λ = β / s

    Rows of length 1 in training (‖W_dec,u,i‖ = 1) make the plain penalty the same one. β is that of the end of its
    warm-up, or what the controller has come to. None: a penalty that is not this one (tanh, L0, plain with free rows),
    no penalty, an error that is divided by a power of ‖x‖ or is a mean over prefixes, or a scale of each token's own.
    """
    config = member.config
    row = ARCHITECTURES[config.architecture]
    penalty = row.penalty(config, 1.0) if row.penalty else None
    weighed = isinstance(penalty, Gate) or (isinstance(penalty, L1) and (penalty.weigh_by_norm or config.has_unit_rows))
    nested = config.prefixes or config.random_prefixes
    if not weighed or nested or member.training.norm_power or member.start.per_token is not None:
        return None
    facts = member.facts
    return float(member.coefficient) / (facts.scale if facts.target_scale is None else facts.target_scale)


def remove(folder: Path, step: int) -> None:
    """Delete the checkpoint of `step` if it is there."""
    target = step_folder(folder, step)
    if target.exists():
        gone = target.with_name(target.name + ".old")  # out of the way in one rename: never half a checkpoint
        shutil.rmtree(gone, ignore_errors=True)
        target.rename(gone)
        shutil.rmtree(gone)


def retain(folder: Path, step: int, *, last: int, every: int | None, always: int) -> None:
    """Of the checkpoints up to `step`, keep the `last` ones, those of every `every` steps, and the one of `always`."""
    steps = [s for s in steps_on_disk(folder) if s <= step]
    for old in steps[:-last]:
        if old != always and not (every and old % every == 0):
            remove(folder, old)


def room(width: int, features: int, target_width: int | None = None) -> int:
    """Bytes of one checkpoint: four numbers a weight (the SAE, the weights, two moments), the counts, and the samples,
    with half of the features active, as when a training begins. `target_width`: E, where it is not D."""
    E = width if target_width is None else target_width
    samples = KEPT * (4 * features + 4 * (width + E))
    return 16 * ((width + E) * features + 3 * features + E) + 8 * (features + width + E) + samples + 20_000


def damage(folder: Path) -> str:
    """What is wrong with a checkpoint folder, naming the file; nothing if every file is as it was written."""
    sums = folder / CHECKSUMS
    try:
        written = json.loads(sums.read_text(encoding="utf-8"))["sha256"]
        wanted = {name: written[name] for name in _FILES}
    except FileNotFoundError:
        return f"{sums} is missing"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return f"{sums} is damaged"
    for name, digest in wanted.items():
        path = folder / name
        try:
            if sha256(path) != digest:
                return f"{path} is damaged: its checksum is not the one in {CHECKSUMS}"
        except FileNotFoundError:
            return f"{path} is missing"
        except OSError as error:
            return f"{path} cannot be read ({error.strerror})"
    return ""


def tidy(folder: Path) -> None:
    """Clear away what a process that was killed left half written or half removed."""
    for pattern in ("step-?????????.new", "step-?????????.old"):
        for left in folder.glob(pattern):
            shutil.rmtree(left, ignore_errors=True)


def is_whole(folders: Sequence[Path], step: int) -> bool:
    """Whether every member has a whole checkpoint of the step."""
    return all(step in steps_on_disk(folder) and not damage(step_folder(folder, step)) for folder in folders)


def newest_whole(folders: Sequence[Path], say: Callable[[str], None]) -> int:
    """The newest step of which every member has a whole checkpoint; 0 if there is none.

    What is damaged is named, and put aside as `step-….damaged`.
    """
    common = set.intersection(*(set(steps_on_disk(folder)) for folder in folders))
    for step in sorted(common, reverse=True):
        found = {folder: wrong for folder in folders if (wrong := damage(step_folder(folder, step)))}
        if not found:
            return step
        for folder, wrong in found.items():
            say(f"warning: {wrong}; put aside, resuming at the checkpoint before it")
            _put_aside(step_folder(folder, step))
    return 0


def _put_aside(folder: Path) -> None:
    aside = folder.with_name(folder.name + ".damaged")
    with writing(aside):
        if aside.exists():
            shutil.rmtree(aside)
        folder.rename(aside)


def load(member: Member, folder: Path) -> None:
    """Bring a member to the state in a checkpoint folder. Raises `UserError` if the file is damaged."""
    path = folder / STATE
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            scalars = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} is damaged ({error}); remove {folder} to go on from the checkpoint before") from None
    for prefix, kept in _kept(member).items():
        for name, weight in kept.items():
            key = f"{prefix}{name}"
            weight.copy_(tensors[key if key in tensors else f"{prefix}{_ONCE[name]}"])
    member.silent_F.copy_(tensors["silent_F"])
    if member.view.centre_D is not None:
        member.view.centre_D.copy_(tensors["centre"])
    if member.view.target_centre_E is not None:
        member.view.target_centre_E.copy_(tensors["target_centre"])
    member.updates = scalars["adam_step"]
    member.tokens, member.step.sparse = scalars["tokens"], scalars["sparse"]
    member.silence = int(tensors["silent_F"].max()), member.tokens
    member.halted_at, member.skipped, member.in_a_row = (scalars[key] for key in ("halted_at", "skipped", "in_a_row"))
    for name in WINDOWS:
        there = name if name in scalars or name == "window" else "noiseless"  # its name in older checkpoints
        if there not in scalars:
            continue
        window = scalars[there]
        if "raw_error" not in window:  # an older one: what it summed was not raw where each token has its own scale
            window["raw_error"] = math.nan if member.start.per_token is not None else window["squared_error"]
        sum_x_D = tensors[f"{there}.sum_x_D"].to(member.silent_F.device, wide(member.silent_F[:0]).dtype, copy=True)
        setattr(member, name, Window(**window, sum_x_D=sum_x_D))
    member.recent.extend(member.number(error) for error in scalars.get("recent", []))
    member.threshold = member.number(scalars.get("threshold", 0.0))
    if member.controller is not None:
        told = scalars["controller"]
        moving = {name: member.number(told[name]) for name in ("log_coefficient", "mean", "slope", "first")}
        member.controller = Controller(**{**told, **moving})


def _kept(member: Member) -> dict[str, Weights]:
    return {"": member.weights, "exp_avg.": member.first, "exp_avg_sq.": member.second}


def _state(member: Member) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    tensors, windows = {"silent_F": member.silent_F}, {}
    if member.view.centre_D is not None:
        tensors["centre"] = member.view.centre_D
    if member.view.target_centre_E is not None:
        tensors["target_centre"] = member.view.target_centre_E
    for name in WINDOWS:
        if (window := getattr(member, name)) is not None:
            windows[name] = dataclasses.asdict(read(window))
            tensors[f"{name}.sum_x_D"] = windows[name].pop("sum_x_D")
    for prefix, kept in _kept(member).items():
        tensors |= {f"{prefix}{name}": weight for name, weight in kept.items()}
    scalars = {
        "adam_step": member.updates,
        "tokens": member.tokens,
        "sparse": member.step.sparse,
        "halted_at": member.halted_at,
        "skipped": member.skipped,
        "in_a_row": member.in_a_row,
        "recent": on_host(member.recent),
        "threshold": float(member.threshold),
        "controller": dataclasses.asdict(read(member.controller)) if member.controller else None,
        **windows,
    }
    return tensors, {"state": json.dumps(scalars)}
