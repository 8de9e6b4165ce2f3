"""run.yaml: the recipe of a run, what it ran on, and whether a recipe and its inputs are still those."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import unmix
from unmix import config as recipes
from unmix.activations.mask import outliers
from unmix.activations.norms import distribution
from unmix.activations.outliers import Outliers, from_facts
from unmix.config import OUTLIER, RunConfig
from unmix.errors import UserError
from unmix.machine import cpu_name
from unmix.precision import resolve
from unmix.runlog import read_manifest, write_manifest
from unmix.training.inputs import Inputs
from unmix.training.measure import measure, norms
from unmix.training.member import Entry
from unmix.training.schedule import Schedule

FORMAT = 1
"""Of run.yaml and what lies beside it (docs/formats.md)."""
_MAY_CHANGE = ("name", "sinks", "choice.", "training.keep_", "training.on_")
_HARMLESS = (".lock", "norms.json", "norms.json.new", "run.yaml.new")  # what a run that was killed at once may leave


def entries(recipe: RunConfig) -> list[Entry]:
    """Every member; hook and variant stand in the name only where there are several hooks, and any variants."""
    several = len(recipe.activations.hooks) > 1
    found = []
    for hook in recipe.activations.hooks:
        for variant in recipe.variants or [""]:
            before = [hook] * several + [variant] * bool(variant)
            for l1 in recipe.of_variant(variant)[1].l1:
                found.append(Entry("-".join([*before, f"l1-{_short(l1)}"]), hook, variant, l1))
    return found


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
    if not path.exists():
        raise UserError(f"{folder} is no run folder: it has no run.yaml")
    manifest = read_manifest(path)
    return recipes.load_resolved(manifest["recipe"], path), manifest


def agreed(recipe: RunConfig, folder: Path) -> tuple[RunConfig, dict[str, Any] | None]:
    """The recipe with nothing left open, and the manifest of the folder if there is one.

    Its recipe must be this one, but for the choice.
    """
    if not (folder / "run.yaml").exists():
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file, and a run is a folder; move it away, or give another --name")
        if folder.exists() and any(path.name not in _HARMLESS for path in folder.iterdir()):
            raise UserError(f"{folder} is not empty and holds no run; give another --name")
        return resolve(recipe), None
    manifest = read_manifest(folder / "run.yaml")
    check_format(manifest, folder)
    began = resolve(recipes.load_resolved(manifest["recipe"], folder / "run.yaml"), manifest["recipe"])
    recipe = resolve(recipe, manifest["recipe"])
    mine, theirs = recipes.flat(recipes.dump(recipe)), recipes.flat(recipes.dump(began))
    for key in sorted(mine.keys() | theirs.keys()):
        if mine.get(key) != theirs.get(key) and not key.startswith(_MAY_CHANGE):
            raise UserError(
                f"{folder} was made with {key} = {theirs.get(key)}, the recipe says {mine.get(key)}; "
                f"give another --name, or the old value to go on with it"
            )
    now = recipes.dump(recipe) | {key: manifest["recipe"].get(key) for key in ("name", "sinks")}
    if now != manifest["recipe"]:
        manifest["recipe"] = now
        write_manifest(folder / "run.yaml", manifest)
    return recipe, manifest


def check_format(manifest: dict[str, Any], folder: Path) -> None:
    """Raises `UserError` if another format of run folder was written here."""
    if manifest.get("format") != FORMAT:
        found = f"format {manifest['format']}" if "format" in manifest else "an older format, without a number"
        raise UserError(
            f"{folder} has {found}; this unmix goes on with {FORMAT}: finish it with the unmix that made it "
            f"({manifest.get('versions', {}).get('unmix', 'unknown')}), or give another --name"
        )


def new_manifest(recipe: RunConfig, inputs: Inputs) -> dict[str, Any]:
    """What run.yaml of a run that begins now holds."""
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
        "model": inputs.model,
        "corpus": inputs.corpus,
        "hooks": {hook: _of_hook(x_RD) for hook, x_RD in head.activations.items()},
        "members": {
            entry.name: {
                "hook": entry.hook,
                **measure(head, entry.hook, *recipe.of_variant(entry.variant), entry.l1, inputs.special_ids)._asdict(),
            }
            for entry in entries(recipe)
        },
    }


def _of_hook(x_RD: Tensor) -> dict[str, Any]:
    found = norms(x_RD)
    return {"width": x_RD.shape[1], **found, "outliers": outliers(x_RD.norm(dim=1), found["median_norm"]).facts()}


def said_of_outliers(recipe: RunConfig, manifest: dict[str, Any]) -> list[str]:
    """A line for each hook with outliers: what they hold, and whether they are trained on; before any training."""
    said = []
    for hook, facts in manifest["hooks"].items():
        if "outliers" not in facts or not facts["outliers"]["tokens"]:  # a run from before they were looked for
            continue
        found = from_facts(facts["outliers"])
        members = [entry for entry in entries(recipe) if entry.hook == hook]
        keeping = {entry.name: _pull(recipe, entry, found) for entry in members if _keeps(recipe, entry)}
        said.append(f"{hook}: {found}" + ("" if keeping else ": they are left out (--training.mask none keeps them)"))
        owned = {name: share for name, share in keeping.items() if share > OWNED}
        if owned:
            who = "every member" if len(owned) == len(members) else ", ".join(owned)
            said.append(
                f"warning: {hook}: they are trained on by {who}, and hold {max(owned.values()):.1%} of what the "
                "reconstruction is measured by: the loss is theirs. --training.mask auto leaves them out, "
                "--sae.scaling token or --training.norm_power 2 makes every token count alike"
            )
    return said


OWNED = 0.5  # share of the loss by which a few tokens are said to run it


def _keeps(recipe: RunConfig, entry: Entry) -> bool:
    """Whether a member is trained on tokens that are outliers."""
    above = recipe.of_variant(entry.variant)[1].mask.norm_above
    return above is None or above > OUTLIER


def _pull(recipe: RunConfig, entry: Entry, found: Outliers) -> float:
    """The outliers' share of a member's reconstruction term at the start: of Σ||x||^(2-k)."""
    sae, training = recipe.of_variant(entry.variant)
    if sae.scaling == "token" or training.norm_power == 2:
        return found.share_of_tokens
    return found.share_of_norm if training.norm_power == 1 else found.share_of_square


def first_norms(inputs: Inputs) -> dict[str, Any]:
    """How long the hooks' activations are, and which tokens are the longest, over the first chunk."""
    head = inputs.source.head()
    ids, positions = head.token_ids_B.numpy(), head.positions_B.numpy()
    return distribution(
        {hook: x_RD.norm(dim=1).numpy() for hook, x_RD in head.activations.items()},
        ids,
        positions,
        bos_id=int(ids[positions == 0][0]) if (positions == 0).any() else -1,
        decode=inputs.decode,
        split="train",
    )


def check_inputs(manifest: dict[str, Any], inputs: Inputs, folder: Path) -> None:
    """Raises `UserError` if the model, the corpus or the store are not those that the run began with."""
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
