"""run.yaml: the recipe of a run, what it ran on, and whether a recipe and its inputs are still those."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import unmix
from unmix import config as recipes
from unmix.activations.mask import Mask, longer, outliers
from unmix.activations.norms import distribution, mask_said
from unmix.activations.outliers import from_facts
from unmix.activations.stream import Batch
from unmix.config import GIVEN, OUTLIER, RunConfig
from unmix.dictionary.terms import token_weights
from unmix.errors import UserError
from unmix.kernels.task import wide
from unmix.machine import cpu_name
from unmix.precision import keep
from unmix.runlog import read_manifest
from unmix.training.advice import as_keywords, as_options, to_resume
from unmix.training.inputs import Inputs
from unmix.training.measure import kept_rows, measure, norms
from unmix.training.member import Entry
from unmix.training.schedule import Schedule

FORMAT = 1
"""Of run.yaml and what lies beside it (docs/formats.md)."""
_MAY_CHANGE = (
    "name", "device", "model.device", "sinks", "choice.", "training.keep_", "training.on_", "training.log_every",
    "training.checkpoint_every", "training.dead_after_tokens", "training.compile",
)  # fmt: skip
"""Keys in which a resumed run may differ from what it began with: no weight depends on them, but for its rounding."""
_SCHEDULE = (
    "training.steps", "training.lr_warmup_steps", "training.decay_fraction", "training.l1_warmup_fraction",
)  # fmt: skip
"""Keys that may differ as far as no step that was made would have been another one."""
LONGEST_NAME = 150
"""Bytes of a hook in the name of a member: with a variant, an L0 and `-extended` it has to fit into 255."""
_HARMLESS = (".lock", "norms.json", "norms.json.new", "run.yaml.new")  # what a run that was killed at once may leave


def entries(recipe: RunConfig) -> list[Entry]:
    """Every member; hook and variant stand in the name only where there are several hooks, and any variants.

    Raises `UserError` for a hook that cannot be part of the name of a folder, where it would be.
    """
    several = len(recipe.activations.hooks) > 1
    for hook in recipe.activations.hooks if several else ():
        _require_folder_name(hook)
    found = []
    for hook in recipe.activations.hooks:
        for variant in recipe.variants or [""]:
            before = [hook] * several + [variant] * bool(variant)
            training = recipe.of_variant(variant)[1]
            for l0 in training.l0:
                found.append(Entry("-".join([*before, f"l0-{_short(l0)}"]), hook, variant, None, l0))
            for l1 in training.l1:
                found.append(Entry("-".join([*before, f"l1-{_short(l1)}"]), hook, variant, l1))
    return found


def _require_folder_name(hook: str) -> None:
    """Raises `UserError` if no folder can have it in its name, or a search of one folder would not find it."""
    if {"/", "\\"} & set(hook) or not hook.isprintable() or len(hook.encode()) > LONGEST_NAME:
        raise UserError(
            f"hook {hook[:LONGEST_NAME]!r} would be part of the names of folders, one for each member; rename it, "
            f"without / and \\ and in at most {LONGEST_NAME} bytes"
        )


def _short(l1: float) -> str:
    """`5`, `0.001`; all digits where two coefficients would otherwise share a name."""
    return f"{l1:g}" if float(f"{l1:g}") == l1 else repr(l1)


def sweep_schedule(recipe: RunConfig) -> Schedule:
    """The schedule of the sweep."""
    t = recipe.training
    return Schedule(
        t.steps, t.lr_warmup_steps, round(t.l1_warmup_fraction * t.steps), round(t.decay_fraction * t.steps)
    )


def read_run(folder: Path) -> tuple[RunConfig, dict[str, Any]]:
    """The recipe and the manifest of a run folder. Raises `UserError` if it is none."""
    path = folder / "run.yaml"
    manifest = read_manifest(path)
    return recipes.load_resolved(manifest["recipe"], path), manifest


def agreed(recipe: RunConfig, folder: Path) -> tuple[RunConfig, dict[str, Any] | None]:
    """The recipe, and the manifest of the folder if there is one; to be called with the folder locked.

    Then what the recipe leaves open is as the run began, and it must be the recipe of that run but for what may change:
    what no weight depends on, further members, and the schedule (which `check_schedule` looks at).
    """
    if not (folder / "run.yaml").exists():
        if folder.exists() and any(path.name not in _HARMLESS for path in folder.iterdir()):
            raise UserError(f"{folder} is not empty and holds no run; give another --name")
        return recipe, None
    manifest = read_manifest(folder / "run.yaml")
    check_format(manifest, folder)
    began = keep(recipes.load_resolved(manifest["recipe"], folder / "run.yaml"), manifest["recipe"])
    recipe = _as_it_began(keep(recipe, manifest["recipe"]), began)
    mine, theirs = recipes.flat(recipes.dump(recipe)), recipes.flat(recipes.dump(began))
    further = {
        f"training.{key}"
        for key in ("l0", "l1")
        if set(getattr(began.training, key)) <= set(getattr(recipe.training, key))
    }
    if began.variants:
        new = recipe.variants.keys() - began.variants.keys()
        further |= {key for key in mine if key.startswith(tuple(f"variants.{name}." for name in new))}
        variants = [*recipe.variants.values(), *began.variants.values()]
        unused = set.intersection(*(set(variant.sae) for variant in variants))
        further |= {f"sae.{key}" for key in unused}
    if began.activations.rows is not None:  # where it never left out anything
        further |= {key for key in mine.keys() | theirs.keys() if key.endswith("training.mask.special")}
    keys = [key for key in sorted(mine.keys() | theirs.keys()) if not key.startswith((*_MAY_CHANGE, *_SCHEDULE))]
    if different := [key for key in keys if mine.get(key) != theirs.get(key) and key not in further]:
        key, more = different[0], f", and {len(different) - 1} more" if len(different) > 1 else ""
        given = began.activations.rows == GIVEN
        raise UserError(
            f"{folder} was made with {key} = {theirs.get(key)}, the recipe says {mine.get(key)}{more}; "
            f"give another {'name' if given else '--name'}, or, to resume it, {to_resume(recipe, began, different)}"
        )
    return recipe, manifest


def _as_it_began(recipe: RunConfig, began: RunConfig) -> RunConfig:
    """The recipe with what it does not give as it was: what follows from `training.steps`, for a run that began with
    fewer; `sae.bias_rate`, for one from before that was a key."""
    if "bias_rate" not in recipe.sae.model_fields_set:
        recipe = recipe.model_copy(update={"sae": recipe.sae.model_copy(update={"bias_rate": began.sae.bias_rate})})
    given, was = recipe.training, began.training
    update: dict[str, Any] = {
        key: getattr(was, key)
        for key in ("lr", "dead_after_tokens", "revive_after_tokens")
        if key not in given.model_fields_set
    }
    if "l1_warmup_fraction" not in given.model_fields_set:
        longer = given.steps != was.steps
        update["l1_warmup_fraction"] = (
            round(was.l1_warmup_fraction * was.steps) / given.steps if longer else was.l1_warmup_fraction
        )
    return recipe.model_copy(update={"training": given.model_copy(update=update)})


def check_schedule(recipe: RunConfig, manifest: dict[str, Any], folder: Path, made: int) -> None:
    """Raises `UserError` if one of the `made` steps would have been another one with this schedule, or none at all."""
    began = recipes.load_resolved(manifest["recipe"], folder / "run.yaml")
    then, now = sweep_schedule(began), sweep_schedule(recipe)
    if then == now:
        return
    for step in range(made):
        fewer = step >= now.steps
        if fewer or (then.lr_at(step, 1.0), then.l1_at(step, 1.0)) != (now.lr_at(step, 1.0), now.l1_at(step, 1.0)):
            mine, theirs = recipes.flat(recipes.dump(recipe)), recipes.flat(recipes.dump(began))
            same = {"training.l1_warmup_fraction"} if then.l1_warmup_steps == now.l1_warmup_steps else set()
            old = {k: theirs[k] for k in _SCHEDULE if mine[k] != theirs[k] and k not in same}
            given = began.activations.rows == GIVEN
            as_it_began = as_keywords(old) if given else as_options(old)
            remedy = f"give {as_it_began} to resume it as it began"
            if step >= then.stable_until and (not given or now.steps > then.steps):
                which, longer = "a member", f"unmix extend {folder} --steps {now.steps}"
                if given:
                    which, longer = "the choice", f"unmix.sweep(…, {as_it_began}, choice={{'extend_to': {now.steps}}})"
                remedy = f"to train {which} on from before its decay: {longer}; or {remedy}"
            why = f"and from step {step:,} on their learning rate or l1 would have been another one with this schedule"
            why = f"and {now.steps:,} are fewer" if fewer else why
            raise UserError(f"{folder} has {made:,} steps, {why}; {remedy}")


def renewed(manifest: dict[str, Any], recipe: RunConfig, made: int) -> dict[str, Any]:
    """The manifest of a run that is resumed with this recipe after so many steps; its name and sinks stay."""
    before = manifest["recipe"]
    now = recipes.dump(recipe) | {key: before.get(key) for key in ("name", "sinks")}
    logged = logged_in(manifest, recipes.load_resolved(before, Path("run.yaml")))
    if logged[-1][1] != recipe.training.log_every:
        logged = [*(pair for pair in logged if pair[0] < made), [made, recipe.training.log_every]]
    steps = before["training"]["steps"]
    ended = [*manifest.get("ended", []), *([steps] if made == steps != recipe.training.steps else [])]
    return manifest | {"recipe": now, "logged": logged, "ended": ended}


def ends(manifest: dict[str, Any], steps: int) -> list[int]:
    """The last steps of a sweep: that of now, and where it had ended before it was given more."""
    return [*manifest.get("ended", []), steps]


def logged_in(manifest: dict[str, Any], recipe: RunConfig) -> list[list[int]]:
    """[step, every]: after the step, the sweep logs in multiples of `every`."""
    return manifest.get("logged") or [[0, recipe.training.log_every]]


def check_format(manifest: dict[str, Any], folder: Path) -> None:
    """Raises `UserError` if another format of run folder was written here."""
    if manifest.get("format") != FORMAT:
        found = f"format {manifest['format']}" if "format" in manifest else "an older format, without a number"
        raise UserError(
            f"{folder} has {found}; this unmix resumes {FORMAT}: finish it with the unmix that made it "
            f"({manifest.get('versions', {}).get('unmix', 'unknown')}), or give another --name"
        )


def new_manifest(recipe: RunConfig, inputs: Inputs, measured: dict[str, Any]) -> dict[str, Any]:
    """What run.yaml of a run that begins now holds; `measured` is what `precision.decide` found."""
    import transformers

    head = inputs.source.head()
    return {
        "format": FORMAT,
        "recipe": recipes.dump(recipe),
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {
            "unmix": unmix.__version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "transformers": transformers.__version__,
            "numpy": np.__version__,
        },
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "devices": [str(inputs.device)],
        "measured": measured,
        "logged": [[0, recipe.training.log_every]],
        "ended": [],
        "model": inputs.model,
        "corpus": inputs.corpus,
        "hooks": {hook: _of_hook(head, hook) for hook in head.activations},
        "members": {entry.name: of_member(recipe, inputs, entry) for entry in entries(recipe)},
    }


def moved(record: dict[str, Any], device: torch.device) -> str:
    """What is to be said where what is recorded resumes on another kind of device, which is added to its `devices`;
    else nothing. Older records have none."""
    earlier = record.get("devices")
    if not earlier or earlier[-1].partition(":")[0] == device.type:
        return ""
    record["devices"] = [*earlier, str(device)]
    return (
        f"this run was on {earlier[-1]} and resumes on {device}; both compute the same, but round differently, so its "
        f"weights will not have the bits of a run that stayed on {earlier[-1]}"
    )


def of_member(recipe: RunConfig, inputs: Inputs, entry: Entry) -> dict[str, Any]:
    """What is measured on the first chunk for a member's whole life."""
    head = inputs.source.head()
    return {
        "hook": entry.hook,
        **measure(head, entry.hook, *recipe.of_variant(entry.variant), entry.l1 or 0.0, inputs.special_ids).written(),
        **_outliers_shares(head, entry, recipe, inputs.special_ids),
    }


def _of_hook(head: Batch, hook: str) -> dict[str, Any]:
    raw = head.pair(hook)
    return _of_rows(raw.x_BD) | ({} if raw.same else {"targets": _of_rows(raw.y_BE)})


def _of_rows(x_RD: Tensor) -> dict[str, Any]:
    found = norms(x_RD)
    return {"width": x_RD.shape[1], **found, "outliers": outliers(x_RD.norm(dim=1), found["median_norm"]).facts()}


OWNED = 0.5  # share of the loss by which a few tokens are said to run it


def said_of_outliers(manifest: dict[str, Any]) -> list[str]:
    """A line for each hook with outliers: what they hold, and whether they are trained on; before any training."""
    said = []
    for hook, facts in manifest["hooks"].items():
        said += _said_of_targets(manifest, hook, facts.get("targets") or {})
        if not facts.get("outliers", {}).get("tokens"):  # none, or a run from before they were looked for
            continue
        of_hook = {name: m["outliers_share"] for name, m in manifest["members"].items() if m["hook"] == hook}
        keeping = {name: share for name, share in of_hook.items() if share > 0}
        left_out = "" if keeping else ": they are left out of training (--training.mask none keeps them)"
        said.append(f"{hook}: {from_facts(facts['outliers'])}{left_out}")
        owned = {name: share for name, share in keeping.items() if share > OWNED}
        if owned:
            who = "every member" if len(owned) == len(of_hook) else ", ".join(owned)
            most = "over 99.9%" if max(owned.values()) > 0.999 else f"{max(owned.values()):.1%}"
            said.append(
                f"warning: {hook}: {who} will be trained on them, and they make up {most} of what "
                "its error is measured against: they dominate the loss. --training.mask auto leaves them out; with "
                "--sae.scaling token or --training.norm_power 2 every token counts alike"
            )
    return said


def _said_of_targets(manifest: dict[str, Any], hook: str, facts: dict[str, Any]) -> list[str]:
    """The same of y, which no mask looks at."""
    if not facts.get("median_norm") or not facts["outliers"].get("tokens"):
        return []
    said = [f"targets of {hook}: {from_facts(facts['outliers'])}"]
    of_hook = [member for member in manifest["members"].values() if member["hook"] == hook]
    most = max((member["target_outliers_share"] for member in of_hook), default=0.0)
    if most > OWNED:
        said.append(
            f"warning: targets of {hook}: they make up {most:.1%} of what the error is measured against: they dominate "
            "the loss, and masks go by the activations. Leave these rows out, or with --training.norm_power 2 every "
            "token counts alike"
        )
    return said


def _outliers_shares(head: Batch, entry: Entry, recipe: RunConfig, special_ids: Sequence[int]) -> dict[str, float]:
    """The outliers' share of a member's error term where ŷ = c, over the tokens that its mask keeps: of Σ||y - c||² /
    ||y||^k, c = 0 if the mean stays in y; where each token has its own scale, their share of the tokens. Outliers of x;
    where y is not x, those of y too."""
    sae, training = recipe.of_variant(entry.variant)
    raw = head.pair(entry.hook)
    median = norms(raw.x_BD)["median_norm"]
    kept = kept_rows(head, entry.hook, Mask(training.mask, special_ids, median))
    outlier_K = longer(kept.x_BD.norm(dim=1), OUTLIER * median or math.inf)  # where most are 0, none is an outlier
    found = {"outliers_share": outlier_K}
    if not kept.same:
        longest = OUTLIER * norms(raw.y_BE)["median_norm"] or math.inf
        outlier_K = longer(kept.y_BE.norm(dim=1), longest)
        found["target_outliers_share"] = outlier_K
    if sae.scaling == "token":
        return {name: float(wide(far_K).mean()) for name, far_K in found.items()}
    y_KE = kept.y_BE
    centre_E = y_KE[~outlier_K].mean(0) if sae.centre != "none" and not outlier_K.all() else 0
    error_K = wide((y_KE - centre_E).square().sum(1)) * token_weights(y_KE, training.norm_power)
    return {name: float(error_K[far_K].sum() / error_K.sum()) for name, far_K in found.items()}


def first_norms(inputs: Inputs, counted: str) -> dict[str, Any]:
    """The norms of the hooks' activations, and the tokens with the largest, over the first chunk. `counted`: which
    tokens became activations, if not all did."""
    assert inputs.decode is not None
    head = inputs.source.head().to(torch.device("cpu"))
    ids, positions = head.token_ids_B.numpy(), head.positions_B.numpy()
    return distribution(
        {hook: x_RD.norm(dim=1).numpy() for hook, x_RD in head.activations.items()},
        ids,
        positions,
        bos_id=int(ids[positions == 0][0]) if (positions == 0).any() else -1,
        decode=inputs.decode,
        split="train",
        mask=mask_said(bos=True, counted=counted),
    )


def check_inputs(manifest: dict[str, Any], inputs: Inputs, folder: Path) -> None:
    """Raises `UserError` if the model, the corpus or the store are not those that the run began with."""
    if manifest["recipe"]["activations"].get("rows") is not None:
        check_rows(manifest, inputs.corpus["fingerprint"], folder)
    for what, now in (("model", inputs.model), ("corpus", inputs.corpus)):
        then = manifest[what]["fingerprint"]
        if then != now["fingerprint"]:
            raise UserError(
                f"the {what} is not the one that {folder} was made with (fingerprint {now['fingerprint']}, was "
                f"{then}); bring the old one back, or give another --name"
            )
    if manifest["corpus"].get("store_fingerprint") != inputs.corpus.get("store_fingerprint"):
        raise UserError(
            f"the store is not as it was when {folder} was made: it grew, or was harvested anew; give another --name"
        )


def check_rows(manifest: dict[str, Any], fingerprint: str, folder: Path) -> None:
    """Raises `UserError` if activations of one's own with this fingerprint are not those that the run began with."""
    then = manifest["corpus"]["fingerprint"]
    if then != fingerprint:
        name = "name" if manifest["recipe"]["activations"]["rows"] == GIVEN else "--name"
        raise UserError(
            f"the activations are not those that {folder} was made with (fingerprint {fingerprint}, was {then}); give "
            f"another {name}, or, to resume it, the same rows in the same order"
        )
