"""The arguments that name a recipe and change its keys: `RECIPE --l1 0 5 50 --training.lr 1e-3`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmix.disk import at_home
from unmix.errors import UserError
from unmix.words import LISTS, value_of

if TYPE_CHECKING:
    from unmix.config import RunConfig

Dotted = dict[str, list[str]]
"""What was typed as `--section.key value`: {"training.l1": ["0", "5"]}."""
CORPUS = "corpus."
"""What the keys begin with that a command may take without a recipe."""
SHORT = {
    "model": "model.name", "corpus": "corpus.source", "features": "sae.features", "steps": "training.steps",
    "hook": "activations.hooks", "l0": "training.l0", "l1": "training.l1", "device": "device",
}  # fmt: skip


class _Last(argparse.Action):
    """A list, of which the last one counts."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        _say_which_counts(str(option), getattr(namespace, self.dest), values)
        setattr(namespace, self.dest, values)


def _say_which_counts(option: str, before: list[Any] | None, now: list[Any]) -> None:
    """Of a list that stands twice the last one does, as what is typed behind a command; both may be meant."""
    if before and before != now:
        dropped, kept = (" ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in one) for one in (before, now))
        print(
            f"note: {option} is there twice, and the last counts: {kept}; for both, give one {option} {dropped} {kept}",
            file=sys.stderr,
        )


def recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of every command that takes a recipe."""
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="a YAML file, or the name of one that ships (demo)")
    parser.add_argument("--name", help="the run's name: its folder is runs/NAME")
    parser.add_argument("--model", help="embedded, smollm2, a model folder, a .gguf file, or a name on the hub")
    parser.add_argument(
        "--hook",
        action=_Last,
        nargs="+",
        metavar="HOOK",
        help="resid_pre.L, resid_post.L, attn_out.L, mlp_out.L …; resid_post.* for every layer",
    )
    parser.add_argument(
        "--corpus",
        action="append",
        metavar="SOURCE",
        help="stdlib, a file of text, records or token ids, a folder, datasets:NAME (docs/corpora.md); several with "
        "their weights: --corpus a.jsonl=0.7 --corpus code/=0.3",
    )
    parser.add_argument("--features", type=int, help="features of each dictionary")
    parser.add_argument(
        "--architecture",
        action=_Last,
        nargs="+",
        metavar="NAME",
        help="relu, tanh_relu, topk, abstopk, batchtopk, matryoshka, jumprelu, jumprelu_tanh, jumprelu_quadratic, "
        "gated; several are trained side by side",
    )
    parser.add_argument("--l0", action=_Last, type=float, nargs="+", help="active features a token, one member each")
    parser.add_argument("--l1", action=_Last, type=float, nargs="+", help="or coefficients, one member each")
    parser.add_argument("--steps", type=int, help="steps of the sweep")
    parser.add_argument(
        "--device", help="auto (the first CUDA device, else the processor), cpu, cuda, cuda:1, mps, xpu"
    )


def force_argument(parser: argparse.ArgumentParser) -> None:
    """That of every command that needs room on the disk."""
    parser.add_argument("--force", action="store_true", help="begin although the disk seems to have no room for it")


def corpus_keys(dotted: Dotted) -> dict[str, Any]:
    """{"field": "content"} of `--corpus.field content`, for a command that takes `--corpus` and no recipe."""
    keys = {key.removeprefix(CORPUS): value for key, value in _values(dotted).items()}
    if named := next((key for key in ("source", "sources") if key in keys), None):
        raise UserError(f"--corpus.{named}: give the source as --corpus SOURCE")
    return keys


def read_recipe(args: argparse.Namespace, dotted: Dotted) -> RunConfig:
    """The recipe that the arguments name, with what they change; the demo if they name none and change nothing."""
    short = {key: getattr(args, key) for key in ("name", *SHORT) if getattr(args, key) is not None}
    return recipe_with(args.recipe, short, _values(dotted), args.architecture or [])


def recipe_with(
    named: str | None, short: dict[str, Any], dotted: dict[str, Any], architectures: list[str]
) -> RunConfig:
    """The recipe of that name, or of that YAML file, changed: {"l0": [20]}, {"training.lr": 1e-3}."""
    from unmix import config

    for key, value in [*short.items(), *([("architecture", architectures)] if architectures else [])]:
        long = "sae.architecture" if key == "architecture" else SHORT.get(key, key)
        if long in dotted and _listed(dotted[long]) != _listed(value):
            raise UserError(f"{key} = {value} and {long} = {dotted[long]} are both given; leave out one")
    given = {SHORT.get(key, key): value for key, value in short.items()} | dotted
    for asked, other in (("training.l0", "training.l1"), ("training.l1", "training.l0")):
        if asked in given and other not in given:
            given[other] = []  # in place of what the recipe has
    given |= _architectures(architectures)
    if named is None and set(given) <= {"name"}:
        return config.load(_find_recipe("demo"), given)
    recipe = _every_layer(config.load(_find_recipe(named) if named else None, given))
    for key in ("l0", "l1"):
        own = [next((k for k in ("l0", "l1") if k in variant.training), "") for variant in recipe.variants.values()]
        if given.get(f"training.{key}") and own and all(own):
            raise UserError(
                f"--{key} changes nothing: every variant of the recipe sets its own {own[0]}; give "
                f"variants.NAME.training.{own[0]} in the recipe, or a recipe without variants"
            )
    if len(architectures) < 2 and (shadowed := next((key for key in given if _set_by_each(recipe, key)), None)):
        raise UserError(
            f"--{shadowed} changes nothing: every variant of the recipe sets its own; give variants.NAME.{shadowed} in "
            "the recipe, or a recipe without variants"
        )
    if len(architectures) > 1 and recipe.variants.keys() != set(architectures):
        raise UserError(
            f"--architecture {' '.join(architectures)}: the recipe has variants of its own, "
            f"{', '.join(recipe.variants.keys() - set(architectures))}; give one architecture, or edit the recipe"
        )
    return recipe


def _set_by_each(recipe: RunConfig, key: str) -> bool:
    """Whether every variant has its own value for a key of `sae` or `training`, an L0 or a λ apart."""
    from unmix.config import MaskConfig
    from unmix.config.mask import as_keys

    section, _, name = key.partition(".")
    if not recipe.variants or section not in ("sae", "training") or name in ("l0", "l1"):
        return False
    own = [variant.sae if section == "sae" else variant.training for variant in recipe.variants.values()]
    if not name.startswith("mask"):
        return all(name in keys for keys in own)
    wanted = {name.partition(".")[2]} if "." in name else MaskConfig.model_fields.keys()  # they change the recipe's
    masks = [as_keys(keys.get("mask")) for keys in own]
    return all(isinstance(mask, dict) and wanted <= mask.keys() for mask in masks)


def _listed(value: Any) -> list[Any]:
    return [*value] if isinstance(value, list | tuple) else [value]


def _architectures(names: list[str]) -> dict[str, Any]:
    """One is that of the recipe; several are its variants, and the first of them that of the recipe too: what is said
    of `sae` has to fit it, though no member is made of it."""
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"--architecture names {twice[0]} twice; name each once")
    if not names:
        return {}
    variants = {f"variants.{name}.sae.architecture": name for name in names} if len(names) > 1 else {}
    return {"sae.architecture": names[0], **variants}


def _every_layer(recipe: RunConfig) -> RunConfig:
    """The recipe with `resid_post.*` as the hooks of the model, or of the store, that it names."""
    from unmix.hooknames import WILD, expand, of_layers

    act = recipe.activations
    wild = next((hook for hook in act.hooks if WILD & set(hook)), None)
    if wild is None:
        return recipe
    if act.rows is not None:
        raise UserError(f"hook {wild}: hooks of activations of your own are named one by one, without * and ?")
    if act.store is not None:
        from unmix.activations.store import read_manifest

        there = list(read_manifest(act.store)["widths"])
    else:
        from unmix.lm.model import count_layers

        there = of_layers(count_layers(recipe.model))
    return recipe.model_copy(update={"activations": act.model_copy(update={"hooks": expand(act.hooks, there)})})


def split_dotted(argv: list[str]) -> tuple[list[str], Dotted]:
    """Take `--section.key value` out of the arguments; a key that holds a list takes every value that follows."""
    words: list[str] = []
    dotted: Dotted = {}
    while argv:
        word = argv.pop(0)
        key, equals, value = word[2:].partition("=")
        if not (word.startswith("--") and ("." in key or key == "sinks")):
            words.append(word)
            continue
        before, dotted[key] = dotted.get(key), [value] if equals else []
        while argv and not argv[0].startswith("--") and (key in LISTS or not dotted[key]):
            dotted[key].append(argv.pop(0))
        if key in LISTS:
            _say_which_counts(f"--{key}", before, dotted[key])
    return words, dotted


def _values(dotted: Dotted) -> dict[str, Any]:
    """{"a.b": ["1", "2"]} -> {"a.b": [1, 2]}; values are read as YAML."""
    values: dict[str, Any] = {}
    for key, words in dotted.items():
        if not words:
            raise UserError(f"--{key} has no value")
        try:
            values[key] = value_of(key, words)
        except ValueError:
            raise UserError(f"--{key} {' '.join(words)} cannot be read as a value") from None
    return values


def _recipe_folder() -> Path:
    package = Path(__file__).parents[1]
    packaged = package / "recipes"
    return packaged if packaged.is_dir() else package.parents[1] / "recipes"


def _find_recipe(name: str) -> Path:
    shipped, path = _recipe_folder() / f"{name}.yaml", at_home(Path(name))
    return shipped if shipped.exists() and not path.is_file() else path


def recipes_text() -> str:
    lines = []
    for path in sorted(_recipe_folder().glob("*.yaml")):
        first = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        lines.append(f"  {path.stem:<18}{first}")
    return "recipes that ship with unmix:\n" + "\n".join(lines)
