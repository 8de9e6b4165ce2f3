"""What a run reads: the activations of a language model as they are made, or a store of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from unmix import config as recipes
from unmix import precision
from unmix.activations.iterated import Iterated
from unmix.activations.rows import Rows, facts_of_rows, open_rows, said_of_rows
from unmix.activations.store import Store
from unmix.activations.stream import Source, Stream
from unmix.config import RunConfig
from unmix.corpus.plan import bos_stand_in, bounded, doubt_of_ids, facts_of_corpus, plan
from unmix.corpus.tokens import Tokens, load_tokens, special_ids
from unmix.devices import resolve
from unmix.errors import UserError
from unmix.lm.hooks import module_path
from unmix.lm.loss import TextLoss, text_loss
from unmix.lm.model import LanguageModel, load_language_model
from unmix.lm.products import multiply_in_bf16
from unmix.sinks import check_sinks
from unmix.training.advice import as_options, as_then

Say = Callable[[str], None]
MEASURED = 4  # sequences on which the change by products in bf16 is measured


@dataclass(frozen=True)
class Inputs:
    """What a run reads: the source of activations, and the facts about it that go into the manifest."""

    source: Source
    model: dict[str, Any]
    corpus: dict[str, Any]
    context: int
    special_ids: list[int]
    decode: Callable[[int], str] | None
    """The text of a token id; of a store, which has no tokenizer, its number. None: rows have no tokens."""
    device: torch.device
    """Where the batches lie."""


def open_inputs(
    recipe: RunConfig, say: Say = lambda text: None, given: Rows | None = None, *, read: int | None = None
) -> Inputs:
    """Open the store or the rows that the recipe names, or load the model and tokenize the corpus.

    `given`: the rows themselves, where the recipe says that they are. `read`: how many activations of each hook will be
    read, if not `activations_read`.
    """
    check_sinks(recipe.sinks)  # a key that is missing should not wait for the model
    act, device = recipe.activations, resolve(recipe.device)
    if device.type != "cpu":
        say(f"training on {device}")
    if act.rows is not None:
        _require_no_special(recipe)
        source = open_rows(recipe, given, device)
        if isinstance(source, Iterated):
            source.say = say
        say(said_of_rows(recipe, source))
        return Inputs(source, *facts_of_rows(recipe, source), 0, [], None, device)
    if act.store is not None:
        store = Store(act.store, act.hooks, batch_tokens=recipe.training.batch_tokens, device=device)
        manifest = store.manifest
        held, asked = recipes.flat(manifest["recipe"]), recipes.flat(store_recipe(recipe))
        asked = {key: value for key, value in asked.items() if value is not None or key != "corpus.max_tokens"}
        if different := [key for key in asked if asked[key] != "auto" and held.get(key) != asked[key]]:
            raise UserError(
                f"the store {act.store} was harvested with {different[0]} = {held.get(different[0])}, the recipe says "
                f"{asked[different[0]]}; give {as_options(as_then(different, held))}, or harvest again"
            )
        twice = f", {store.size:,} of them distinct" if store.size < store.rows else ""
        say(f"reading {store.rows:,} activations from {act.store} ({manifest['dtype']}){twice}")
        if loss := manifest["model"].get("loss"):
            say(str(TextLoss(**loss)))
        facts = {
            **manifest["corpus"],
            "store": str(act.store),
            "store_fingerprint": store.fingerprint,
            "store_dtype": manifest["dtype"],
            "store_rows": store.size,
        }
        length, special = manifest["sequence_length"], manifest["special_ids"]
        return Inputs(store, manifest["model"], facts, length, special, "token {}".format, device)
    model, tokens = open_model(recipe, say, read)
    stream = open_stream(recipe, model, tokens)
    special = special_ids(model.tokenizer, tokens)
    decode = model.tokenizer.decode
    about = _describe(recipe, model, tokens)
    return Inputs(stream, *about, act.sequence_length, special, lambda i: decode([i]), device)


def _require_no_special(recipe: RunConfig) -> None:
    """Raises `UserError` if a mask is to leave out the special tokens of rows: no tokenizer says which they are."""
    for name in recipe.variants or [""]:
        if recipe.of_variant(name)[1].mask.special:
            own = "mask" in recipe.variants[name].training if name else False
            raise UserError(
                f"{f'variants.{name}.' if own else ''}training.mask.special = True needs a tokenizer, and "
                "activations of your own come without one; leave it out, and give their token ids and "
                "activations.special_ids instead"
            )


def as_new(recipe: RunConfig, read: int, say: Say) -> RunConfig:
    """The recipe of a run that begins now and reads so many activations: its corpus `bounded`, which is said."""
    if recipe.activations.rows is not None or recipe.activations.store is not None:
        return recipe
    corpus, line = bounded(recipe.corpus, read, recipe.activations.sequence_length)
    if line:
        say(line)
    return recipe.model_copy(update={"corpus": corpus})


def activations_read(recipe: RunConfig) -> int:
    """Of each hook, by the sweep and the extension that the recipe asks for."""
    return max(recipe.training.steps, recipe.choice.extend_to or 0) * recipe.training.batch_tokens


def store_recipe(recipe: RunConfig) -> dict[str, Any]:
    """The keys of a recipe that decide what a store holds."""
    data = recipes.dump(recipe)
    return {
        "model": {key: value for key, value in data["model"].items() if key != "device"},
        "corpus": data["corpus"],
        "activations": {"sequence_length": recipe.activations.sequence_length, "seed": recipe.activations.seed},
    }


def open_model(recipe: RunConfig, say: Say, read: int | None = None) -> tuple[LanguageModel, Tokens]:
    """Load the language model, its products in bf16 if the recipe says so, and the train split in its tokens.

    `read`: how many activations will be read, if not `activations_read`. Raises `UserError` for rows of one's own: they
    come without a model.
    """
    if recipe.activations.rows is not None:
        raise UserError(
            f"activations.rows = {recipe.activations.rows} has no language model, and this command reads one; leave it "
            "out, and give --model, --hook and --corpus"
        )
    device = resolve(recipe.model.device or recipe.device)  # one that is not there should not wait for the model
    say(f"loading the model {recipe.model.name}")
    model = load_language_model(recipe.model)
    model.model.to(device)
    model.check_sequence_length(recipe.activations.sequence_length)
    # what cannot be read should not wait for the tokens
    model.check_reading(recipe.activations.sequence_length, recipe.activations.hooks)
    if model.note:
        say(model.note)
    say(f"tokenizing {recipe.corpus.source}")
    tokens = load_tokens(recipe.corpus, model.tokenizer, recipe.activations.sequence_length, "train", say=say)
    for line in plan(tokens, model.tokenizer, activations_read(recipe) if read is None else read):
        say(line)
    loss = text_loss(model, tokens.ids_NT)
    say(str(loss))
    if doubt := doubt_of_ids(tokens, loss.loss, model.vocabulary):
        say(doubt)
    model = replace(model, loss=loss._asdict())
    some_NT = torch.from_numpy(tokens.ids_NT[:MEASURED].astype(np.int64))
    model.check_contributions(some_NT[:1], recipe.activations.hooks)
    matmul, rates = precision.matmul(recipe, model, some_NT, say)
    if rates:
        say(precision.said_of_model(matmul, rates))
        model = replace(model, rates=rates)
    if matmul == "bf16":
        model = multiply_in_bf16(model, some_NT, recipe.activations.hooks)
        changes = ", ".join(f"{hook} by {change:.2%}" for hook, change in model.bf16_change.items())
        say(
            f"the model's products are in bf16, which changes {changes} (||x' - x|| / ||x||, median of the first "
            f"{tokens.ids_NT[:MEASURED].size:,} tokens); --model.matmul fp32 avoids this"
        )
    return model, tokens


def open_stream(recipe: RunConfig, model: LanguageModel, tokens: Tokens) -> Stream:
    """The stream of the recipe."""
    act = recipe.activations
    return Stream(
        model,
        tokens.ids_NT,
        act.hooks,
        batch_tokens=recipe.training.batch_tokens,
        chunk_sequences=act.chunk_sequences,
        seed=act.seed,
        device=resolve(recipe.device),
        kept_NT=tokens.kept_NT,
    )


def store_facts(recipe: RunConfig, model: LanguageModel, tokens: Tokens) -> dict[str, Any]:
    """What a store's manifest says of where its activations come from."""
    model_facts, corpus_facts = _describe(recipe, model, tokens)
    return {
        "model": model_facts,
        "corpus": corpus_facts,
        "hooks": recipe.activations.hooks,
        "sequence_length": recipe.activations.sequence_length,
        "chunk_sequences": recipe.activations.chunk_sequences,
        "special_ids": special_ids(model.tokenizer, tokens),
        "recipe": store_recipe(pinned(with_matmul(recipe, model_facts["matmul"]), corpus_facts)),
    }


def with_matmul(recipe: RunConfig, matmul: str) -> RunConfig:
    """The recipe with `model.matmul` as it was decided."""
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"matmul": matmul})})


def pinned(recipe: RunConfig, corpus_facts: dict[str, Any]) -> RunConfig:
    """The recipe with the revisions of datasets on the hub that were read."""
    read = corpus_facts.get("sources") or [corpus_facts]
    names, commits = [one["source"] for one in read], [one.get("revision") for one in read]
    return recipe.model_copy(update={"corpus": recipe.corpus.pinned(names, commits)})


def _describe(recipe: RunConfig, model: LanguageModel, tokens: Tokens) -> tuple[dict[str, Any], dict[str, Any]]:
    """Model and corpus in plain data, fingerprints included."""
    stand_in = bos_stand_in(model.tokenizer, tokens)
    return (
        {
            "name": recipe.model.name,
            "dtype": recipe.model.dtype,
            "parameters": sum(p.numel() for p in model.model.parameters()),
            "matmul": "bf16" if model.bf16_change else "fp32",
            "rates": model.rates,
            "bf16_change": model.bf16_change,
            "loss": model.loss,
            "layers": model.layers,
            "width": model.width,
            "fingerprint": model.fingerprint,
            "modules": {hook: module_path(model.model, hook) for hook in recipe.activations.hooks},
        },
        {
            "source": recipe.corpus.source,
            "split": "train",
            "train_documents": tokens.documents,
            "train_tokens": int(tokens.ids_NT.size),
            "bytes": tokens.bytes,
            "fingerprint": tokens.fingerprint,
            **facts_of_corpus(tokens),
            **({} if stand_in is None else {"bos_stand_in": stand_in}),
        },
    )
