"""What is to be evaluated, and on what: as a run says, an SAE that unmix trained, or one that it did not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import ValidationError

from unmix.config import EVERY_TOKEN, HOOK, CorpusConfig, MaskConfig, ModelConfig, RunConfig, load_resolved
from unmix.config.corpus import of_earlier
from unmix.dictionary.files import CONFIG, hook_of, metadata, origin
from unmix.dictionary.model import Dictionary
from unmix.errors import UserError
from unmix.hooknames import canonical
from unmix.interop.hub import named_on_the_hub
from unmix.interop.keys import fact
from unmix.interop.load import load_sae, one_inside, read, recognise
from unmix.interop.origin import Origin
from unmix.runlog import newest_checkpoints, read_manifest

HELD_OUT = "held_out"
UNKNOWN_SPLIT = "unknown: the dictionary may have been trained on these documents"
USUAL_LENGTH = 256  # tokens a sequence, where cfg.json names no context_size
PROCESSED = {
    "center_writing_weights": "each token's mean over its D coordinates is subtracted",
    "fold_ln": "the scales and biases of layer norms are in the weights behind them",
}
"""What TransformerLens' `from_pretrained` may do to a model, so that activations at a hook are others than raw ones."""
Config = TypeVar("Config", ModelConfig, CorpusConfig)
NO_KEYS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Subject:
    """Dictionaries, and the text that they are judged on."""

    saes: dict[str, dict[str, Dictionary]]
    """hook -> name -> SAE."""
    checkpoints: dict[str, str]
    """name -> its folder, as a path within the folder that was given."""
    model: ModelConfig
    corpus: CorpusConfig
    sequence_length: int
    trained: MaskConfig
    """What the training left out; `auto` if it was on every token."""
    split: str = HELD_OUT
    device: str = "auto"
    """Where a run was trained, see `devices.resolve`."""
    model_fingerprint: str | None = None
    """Of the model that was trained on, where that is known."""
    fits: bool = False
    """Whether longer sequences than the model takes are shortened: nobody asked for that length."""
    prepend_bos: bool = True
    """Whether sequences begin with a BOS, as those of the training did."""
    notes: tuple[str, ...] = ()
    """What its user should know."""
    processed: tuple[str, ...] = ()
    """Those of `PROCESSED` that the training's activations had; raw ones are evaluated."""
    trained_on: tuple[int, int] | None = None
    """Documents and tokens of the train split, where a run read its corpus to the end; None: not known."""
    made: Mapping[str, Origin] = field(default_factory=dict)
    """name -> what its files say of it, of those that unmix did not train."""

    @property
    def hooks(self) -> list[str]:
        """Every hook that is read, those of transcoders' outputs too."""
        outs = [out for name in self.made if (out := self.hook_out(name)) is not None]
        return list(dict.fromkeys([*self.saes, *outs]))

    def hook_out(self, name: str) -> str | None:
        """Where the y of a transcoder is read; None for one that gives its input back."""
        made = self.made.get(name)
        return made.hook_out if made is not None and made.transcoder else None

    def renamed(self, called: Callable[[str], str]) -> Subject:
        """The same, with every hook as it is called; those that have one name then are one hook."""
        saes: dict[str, dict[str, Dictionary]] = {}
        for at, of_hook in self.saes.items():
            saes.setdefault(called(at), {}).update(of_hook)
        outs = {name: called(out) for name in self.made if (out := self.hook_out(name)) is not None}
        made = {name: replace(made, hook_out=outs.get(name, made.hook_out)) for name, made in self.made.items()}
        return replace(self, saes=saes, made=made)


def find_subject(
    folder: Path,
    *,
    model: str | None,
    corpus: str | None,
    hook: str | None,
    hook_out: str | None = None,
    corpus_keys: Mapping[str, Any] = NO_KEYS,
) -> Subject:
    """What the folder speaks of, with another model, corpus or hooks where they are given, and with these keys of the
    corpus.

    Of a transcoder `made` says where y is read.

    Raises `UserError` if it is neither a run nor an SAE, does not say what is needed and not given, or for keys that do
    not fit: training would not have held out so much.
    """
    found = _find(folder, model, corpus, hook, hook_out)
    if not corpus_keys:
        return found
    changed, fraction = found.corpus.changed(corpus_keys), found.corpus.held_out_fraction
    if found.split == HELD_OUT and changed.held_out_fraction > fraction:
        raise UserError(
            f"--corpus.held_out_fraction {changed.held_out_fraction:g}: the training of {folder} held out {fraction:g} "
            "and the rest of these documents was trained on; give at most that"
        )
    return replace(found, corpus=changed, trained_on=None)


def _find(folder: Path, model: str | None, corpus: str | None, hook: str | None, hook_out: str | None) -> Subject:
    ours = (folder / "run.yaml").exists() or "unmix_recipe" in metadata(folder)
    if ours and hook_out is not None:
        raise UserError(f"--hook-out {hook_out} is for transcoders, and {folder} holds none; leave it out")
    if (folder / "run.yaml").exists():
        return _of_run(folder, model, corpus, hook)
    if not (folder / CONFIG).exists() and recognise(folder) is None:
        remedy = "; give the folder that it is a part of" if folder.is_file() else ""
        if inside := one_inside(folder):
            remedy = f"; give a folder inside it that is one, such as {inside}"
        raise UserError(f"{folder} is neither a run (run.yaml) nor an SAE ({CONFIG}){remedy}")
    if ours:
        return _of_ours(folder, model, corpus, hook)
    return _of_others(folder, model, corpus, hook, hook_out)


def recipe_of(run: Path) -> RunConfig:
    """The recipe of a run."""
    return load_resolved(read_manifest(run / "run.yaml")["recipe"], run / "run.yaml")


def on_rows(folder: Path) -> bool:
    """Whether it is a run on activations that came without a model."""
    return (folder / "run.yaml").exists() and recipe_of(folder).activations.rows is not None


def members_of(run: Path) -> tuple[dict[str, dict[str, Dictionary]], dict[str, str]]:
    """(hook -> name -> the newest dictionary of each member, name -> its folder within the run)."""
    newest = newest_checkpoints(run)
    if not newest:
        raise UserError(f"{run} has no checkpoint yet; train it with `unmix sweep`")
    saes: dict[str, dict[str, Dictionary]] = {}
    for name, checkpoint in newest.items():
        saes.setdefault(hook_of(checkpoint), {})[name] = load_sae(checkpoint)
    return saes, {name: str(checkpoint.relative_to(run)) for name, checkpoint in newest.items()}


def trained_mask(recipe: RunConfig) -> MaskConfig:
    """What any member was not trained on."""
    return tightest([recipe.of_variant(variant)[1].mask for variant in recipe.variants or [""]])


def tightest(masks: Sequence[MaskConfig]) -> MaskConfig:
    """What any of them leaves out; `auto` if none leaves out anything."""
    above = [mask.norm_above for mask in masks if mask.norm_above is not None]
    found = MaskConfig(special=any(mask.special for mask in masks), norm_above=min(above, default=None))
    return MaskConfig() if found == EVERY_TOKEN else found


def _of_run(folder: Path, model: str | None, corpus: str | None, hook: str | None) -> Subject:
    if hook is not None:
        raise UserError(
            f"--hook {hook}: {folder} is a run, whose members have their hooks; leave --hook out, or give one "
            "checkpoint, members/NAME/step-000001000"
        )
    manifest = read_manifest(folder / "run.yaml")
    recipe = recipe_of(folder)
    if recipe.activations.targets is not None:
        raise UserError(
            f"{folder} was trained to give targets of its own, and does not say where these are in a model; give one "
            "of its checkpoints, members/NAME/step-000001000, with --model, --corpus, --hook and --hook-out"
        )
    if recipe.activations.rows is not None and (model is None or corpus is None):
        raise UserError(
            f"{folder} was trained on activations that came without model and text; give both, --model and --corpus"
        )
    if recipe.activations.rows is not None and HOOK in recipe.activations.hooks:
        raise UserError(
            f"{folder} does not say at which hook its activations were read; give one checkpoint, "
            "members/NAME/step-000001000, and --hook beside --model and --corpus"
        )
    saes, checkpoints = members_of(folder)
    of_rows = recipe.activations.rows is not None
    facts, read = manifest.get("model"), manifest.get("corpus") or {}
    whole = corpus is None and recipe.corpus.max_tokens is None and "train_tokens" in read
    return Subject(
        saes,
        checkpoints,
        _with(recipe.model, name=model),
        recipe.corpus if corpus is None else recipe.corpus.at(corpus),
        recipe.activations.sequence_length,
        trained_mask(recipe),
        split=UNKNOWN_SPLIT if of_rows else HELD_OUT,
        device=recipe.device,
        model_fingerprint=facts.get("fingerprint") if isinstance(facts, dict) and model is None else None,
        fits=of_rows or model is not None,
        trained_on=(read["train_documents"], read["train_tokens"]) if whole else None,
    )


def _of_ours(folder: Path, model: str | None, corpus: str | None, hook: str | None) -> Subject:
    trained_at, made = origin(folder)
    try:
        model_config, corpus_config = ModelConfig(**made["model"]), CorpusConfig(**of_earlier(made["corpus"]))
        T = int(made["activations"]["sequence_length"])
    except (KeyError, TypeError, ValueError, ValidationError):
        raise UserError(
            f"{folder / CONFIG}: metadata.unmix_recipe is damaged, or of another version; bring the file back, or "
            "remove that key and give --model, --corpus and --hook"
        ) from None
    at, notes = _hook(folder, trained_at, hook)
    return Subject(
        {at: {_name(folder): load_sae(folder)}},
        {_name(folder): "."},
        _with(model_config, name=model),
        corpus_config if corpus is None else corpus_config.at(corpus),
        T,
        tightest([_mask_of(folder)]),
        fits=model is not None,
        notes=notes,
    )


def _of_others(folder: Path, model: str | None, corpus: str | None, hook: str | None, hook_out: str | None) -> Subject:
    """An SAE of another library, or of a folder that says little of its training: what its files say is in `Origin`."""
    sae, made = read(folder)
    if hook_out is not None and not made.transcoder:
        raise UserError(f"--hook-out {hook_out} is for transcoders, and {folder} is none; leave it out")
    made = replace(made, hook_out=canonical(hook_out)) if hook_out is not None else made
    if hook is None:
        made.require_all_heads(str(folder))
    missing = [
        flag
        for flag, value in (
            ("--model NAME", model),
            ("--corpus SOURCE", corpus),
            ("--hook HOOK", hook or made.hook),
            ("--hook-out HOOK", made.hook_out if made.transcoder else ""),
        )
        if value is None
    ]
    if missing or model is None or corpus is None:
        called = f" (its model is called {made.model} there)" if made.model else ""
        raise UserError(f"{folder} does not say what unmix could evaluate it on{called}; give {_list(missing)}")
    at, notes = _hook(folder, made.hook, hook)
    notes = (made.line(sae), *made.notes, *notes)
    T = made.context
    if T is None or T < 3:
        T = USUAL_LENGTH
        notes += (f"{folder} names no context_size: sequences are of {T} tokens",)
    if made.prepend_bos is False:
        notes += (f"{folder} was trained on sequences without a BOS (prepend_bos: false): these have none",)
    if made.processed:
        done = " and ".join(f"{key} ({PROCESSED[key]})" for key in made.processed)
        notes += (
            f"warning: {folder} says that it was trained on activations of TransformerLens with {done}; it is "
            "evaluated on raw ones, on which its features may differ",
        )
    return Subject(
        {at: {_name(folder): sae}},
        {_name(folder): "."},
        ModelConfig(name=model),
        CorpusConfig(source=corpus),
        T,
        tightest([MaskConfig(special=made.without_special, norm_above=None), _mask_of(folder)]),
        split=UNKNOWN_SPLIT,
        fits=True,
        prepend_bos=made.prepend_bos is not False,
        notes=notes,
        processed=made.processed,
        made={_name(folder): made},
    )


def _name(folder: Path) -> str:
    """What a dictionary is called by: its folder's name."""
    return named_on_the_hub(folder) or folder.resolve().name


def _hook(folder: Path, trained_at: str | None, given: str | None) -> tuple[str, tuple[str, ...]]:
    """(the hook to evaluate at, a note where that is not the one of the training)."""
    at = canonical(given or trained_at or "")
    if trained_at is None or at == trained_at:
        return at, ()
    return at, (f"{folder} says that it was trained at {trained_at}; it is evaluated at {at}",)


def _mask_of(folder: Path) -> MaskConfig:
    """The mask that an SAE folder says it was trained with."""
    mask = metadata(folder).get("mask")
    facts = mask if isinstance(mask, dict) else {}
    above = fact(facts.get("norm_above_median"))
    return MaskConfig(special=bool(facts.get("special_ids")), norm_above=above if above and above > 0 else None)


def _with(config: Config, **changes: str | None) -> Config:
    """The section with the values that were given."""
    return config.model_copy(update={key: value for key, value in changes.items() if value is not None})


def _list(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
