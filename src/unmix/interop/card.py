"""The model card of a dictionary, from its folder and, where there is one, its evaluation."""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePath
from typing import Any

import yaml

from unmix.dictionary.files import metadata
from unmix.dictionary.model import Dictionary
from unmix.errors import UserError
from unmix.hooknames import transformer_lens
from unmix.interop.load import read
from unmix.interop.measured import Evaluated, evaluated
from unmix.interop.origin import Origin
from unmix.runlog import read_json

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_NOT_ON_THE_HUB = ("embedded", "smollm2")  # short names of ours


def card(folder: Path, repo: str, within: str, licence: str) -> str:
    """`README.md` for the hub: YAML in front, what it is and was trained on, its numbers, how to load it.

    Raises `UserError` if the folder holds no dictionary, or an evaluation that is damaged.
    """
    sae, origin = read(folder)
    facts, found = metadata(folder), evaluated(folder)
    front: dict[str, Any] = {"license": licence, "library_name": "unmix"}
    if origin.model and _is_on_the_hub(origin.model):
        front["base_model"] = origin.model
    front["tags"] = ["sparse-autoencoder", "interpretability", "unmix"]
    what = "transcoder" if origin.transcoder else "sparse autoencoder"
    called = f'"{repo}"' + (f', "{within}"' if within else "")
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {repo.partition('/')[2]}{' / ' if within else ''}{within}",
        f"A {what} of language-model activations: {origin.line(sae)}.",
        _table(_about(sae, origin, facts)),
        "## Held-out figures" if found is None or found.hook.get("split") == "held_out" else "## Figures",
        _figures(found),
        "## Loading it",
        f"```python\nimport unmix\n\nsae = unmix.load_sae({called})\nf = sae.encode(x)  # raw activations in\n```",
        "`cfg.json` and `sae_weights.safetensors` are the layout of SAELens; raw activations go in and raw ones come "
        "out, nothing has to be scaled.",
    ]
    return "\n\n".join(parts) + "\n"


def _is_on_the_hub(model: str) -> bool:
    """Whether it is a name on the hub, and no folder of this disk: `models/mine` may be somebody else's there."""
    return bool(_HUB_ID.fullmatch(model)) and model not in _NOT_ON_THE_HUB and not Path(model).exists()


def without_paths(value: Any) -> Any:
    """The value with every absolute path in it cut to its last part: they name folders, and people, of one machine."""
    if isinstance(value, dict):
        return {key: without_paths(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_paths(one) for one in value]
    return PurePath(value).name if _is_path(value) else value


def paths_in(value: Any) -> list[str]:
    """The absolute paths in it, each once."""
    if isinstance(value, dict | list):
        inside = value.values() if isinstance(value, dict) else value
        return list(dict.fromkeys(path for one in inside for path in paths_in(one)))
    return [value] if _is_path(value) else []


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and bool(re.match(r"(/|~[\w/]|[A-Za-z]:[\\/])", value)) and "\n" not in value


def _about(sae: Dictionary, origin: Origin, facts: dict[str, Any]) -> dict[str, Any]:
    """Rows of the first table; those that are not known are left out."""
    recipe = facts.get("unmix_recipe") or {}
    tokens = facts.get("training_tokens")
    hook = origin.hook and f"`{origin.hook}` (TransformerLens: `{transformer_lens(origin.hook)}`)"
    wide = f"{sae.width:,}" + (f" → {sae.W_dec.shape[1]:,}" if origin.transcoder else "")
    mask = facts.get("mask")
    return {
        "language model": origin.model and f"`{_cut(origin.model)}`",
        "hook": hook,
        "output hook": origin.hook_out and f"`{origin.hook_out}`",
        "features": f"{sae.features:,} of activations {wide} wide",
        "architecture": f"`{origin.architecture}`",
        "trained on": _corpus(recipe, facts),
        "tokens": f"{tokens:,}" if isinstance(tokens, int) else None,
        "tokens a sequence": origin.context,
        "sparsity": _sparsity(facts),
        "left out of training": mask.get("rule") if isinstance(mask, dict) else None,
        "unmix": facts.get("unmix_version"),
    }


def _corpus(recipe: dict[str, Any], facts: dict[str, Any]) -> str | None:
    source = (recipe.get("corpus") or {}).get("source") or facts.get("dataset_path")
    return f"`{_cut(str(source))}`" if source else None


def _sparsity(facts: dict[str, Any]) -> str | None:
    if (l0 := facts.get("target_l0", facts.get("l0"))) is not None:
        return f"L0 {l0:g} asked for" if isinstance(l0, int | float) else None
    l1 = facts.get("l1")
    return f"L1 coefficient {l1:g}" if isinstance(l1, int | float) else None


def _figures(found: Evaluated | None) -> str:
    if found is None:
        return "Not evaluated: `unmix evaluate` has written no figures for this dictionary."
    row, hook = found.row, found.hook
    shown = {
        "L0 (active features a token)": _number(row.get("l0"), ".1f"),
        "explained variance (0: predict the mean)": _number(row.get("explained_variance"), ".4f"),
        "ΔCE when spliced in, nats": _number(row.get("delta_ce"), "+.4f", row.get("delta_ce_standard_error")),
        "CE untouched, nats": _number(hook.get("ce_untouched"), ".4f"),
        "cosine of x and x̂": _number(row.get("cosine"), ".4f"),
        "dead features": _number(row.get("dead"), ".1%"),
    }
    split = "held out of training" if hook.get("split") == "held_out" else f"split {hook.get('split')}"
    over = f"fidelity over {_count(hook.get('fidelity_tokens'))} tokens, CE over {_count(hook.get('ce_tokens'))}"
    return f"{_table(shown)}\n\nOf `{_cut(found.corpus)}`, {split}; {over}. Mask: {hook.get('mask')}."


def _number(value: Any, form: str, error: Any = None) -> str | None:
    if not isinstance(value, int | float):
        return None
    return format(value, form) + (f" ± {error:.4f} (standard error)" if isinstance(error, int | float) else "")


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "an unknown number of"


def _table(rows: dict[str, Any]) -> str:
    lines = [f"| {name} | {_cell(value)} |" for name, value in rows.items() if value is not None]
    return "\n".join(["| | |", "|---|---|", *lines])


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _cut(text: str) -> str:
    """A path of this machine, by its last part; no backtick that would end the code."""
    return str(without_paths(text)).replace("`", "'")


def config_to_send(path: Path) -> tuple[bytes, list[str]]:
    """(cfg.json as it is sent, the paths that were cut in it). Raises `UserError` if it cannot be read."""
    found = read_json(path)
    if found is None:
        raise UserError(f"{path} is not there; give a folder that `unmix sweep` or `unmix convert` wrote")
    return (json.dumps(without_paths(found), indent=1) + "\n").encode(), paths_in(found)
