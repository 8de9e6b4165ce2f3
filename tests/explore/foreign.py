"""Dictionaries that unmix did not train, as SAELens writes them, explored on a tiny model; and what is true of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from explore import stores
from explore.stores import World
from explore.tiny_explored import write_page
from interop.look import Look, Weights, jump, simple, skipping
from interop.looks_saelens import saelens, v6
from tiny_models import WIDTH, tiny_model_folder
from tiny_run import write_texts
from torch import Tensor

from unmix.config import OUTLIER, CorpusConfig, ModelConfig
from unmix.corpus.tokens import Tokens, documents_of, load_tokens, sample
from unmix.explore import build as building
from unmix.explore import harvest, pages
from unmix.explore import server_api as api
from unmix.explore.build import Wanted, build
from unmix.explore.pack import read_bytes, read_script
from unmix.explore.server_open import open_served
from unmix.explore.store import open_store
from unmix.explore.texts import SiteText
from unmix.explore.token_pages import read_tokens
from unmix.lm.model import LanguageModel, load_language_model

T, SEQUENCES, FEATURES, LAYER = 16, 23, 48, 1
TEXT = "def of(self): return the world import"
PLACES = {
    "SAE": (f"resid_post.{LAYER}", None),
    "skip transcoder": (f"transformer.h.{LAYER}.ln_2", f"mlp_out.{LAYER}"),
    "transcoder of another width": (f"blocks.{LAYER}.mlp.hook_post", f"mlp_out.{LAYER}"),
}


class Explored(NamedTuple):
    """One of them with its site, its model and its rows."""

    folder: Path
    out: Path
    look: Look
    hook: str
    hook_out: str | None
    lm: LanguageModel
    tokens: Tokens

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def words(self) -> list[str]:
        """What the command line has to be given; few tokens."""
        return ["--model", self.lm.name, "--corpus", str(self.out.parent / "texts"), "--tokens", "320"]

    @property
    def place(self) -> str:
        """Where decoder rows are added."""
        return self.hook_out or self.hook

    def site(self, key: str) -> Any:
        return read_script((self.out / "site" / f"{key}.js").read_bytes())

    def served(self) -> api.Served:
        return open_served(self.folder, self.out, model=None, corpus=None, hook=None, say=[].append)

    def prompted(self, text: str) -> api.Answer:
        """What the server answers to a text."""
        request = api.PromptRequest(member=self.name, text=text)
        return api.answer_prompt(self.served(), request, lambda: False, print)

    def intervened(self, text: str, changes: list[dict[str, Any]], **more: Any) -> api.Answer:
        """What the server answers to changes."""
        request = api.InterveneRequest.model_validate({"member": self.name, "text": text, "changes": changes, **more})
        return api.answer_intervene(self.served(), request, lambda: False, print)

    def read(self, ids_NT: Tensor) -> tuple[Tensor, Tensor]:
        """(x, y) of each token in turn."""
        found = self.lm.activations(ids_NT, list(dict.fromkeys([self.hook, self.place])))
        return found[self.hook].flatten(0, 1), found[self.place].flatten(0, 1)


class Truth(NamedTuple):
    """What the formula of its format says of every token of the site."""

    world: World
    x_RD: Tensor
    y_RE: Tensor
    error_R: np.ndarray
    """‖y - ŷ‖²."""
    deviation_R: np.ndarray
    """‖y - μ‖², μ over the tokens that are no outliers: there are no more than an exploration measures."""


def look_of(kind: str, *, prepend_bos: bool = True) -> Look:
    """The files, at the places of the tiny model, and the formula."""
    hook, hook_out = PLACES[kind]
    w = Weights(4 * WIDTH if "another width" in kind else WIDTH, FEATURES, seed=5, E=WIDTH)
    about = {"hook_name": hook, "hook_name_out": hook_out, "context_size": T, "prepend_bos": prepend_bos}
    if kind == "SAE":
        config, own, function = v6(w, "standard"), {}, simple(w, torch.relu, True)
    elif kind == "skip transcoder":
        config = v6(w, "jumprelu_skip_transcoder", d_out=w.E, apply_b_dec_to_input=False)
        own = {"threshold": w.theta, "W_skip": w.W_skip.T}
        function = skipping(simple(w, jump(w.theta), False), w.W_skip)
    else:
        config = v6(w, "transcoder", d_out=w.E, apply_b_dec_to_input=False)
        own, function = {}, simple(w, torch.relu, False)
    config["metadata"] |= {key: value for key, value in about.items() if value is not None}
    return saelens(config, w.four() | own, function)


def explore(base: Path, kind: str, *, prepend_bos: bool = True) -> Explored:
    """Its site, of shards of 5 sequences; the texts are in `base/texts`."""
    look = look_of(kind, prepend_bos=prepend_bos)
    folder, model, corpus = base / "theirs", str(tiny_model_folder()), str(write_texts(base / "texts"))
    look.put(folder)
    lm = load_language_model(ModelConfig(name=model))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNMIX_CACHE", str(base / "cache"))
        for where in (harvest, building):
            patch.setattr(where, "SHARD_TOKENS", 5 * T)
        patch.setattr(building, "sequences_at_once", lambda T, vocabulary: 2)
        patch.setattr(pages, "PAGE", write_page(base / "page"))
        build(folder, base / "out", Wanted(tokens=T * SEQUENCES, model=model, corpus=corpus), [].append)
        tokens = load_tokens(CorpusConfig(source=corpus), lm.tokenizer, T, "held_out", bos=prepend_bos)
    return Explored(folder, base / "out", look, *PLACES[kind], lm, tokens)


def truth_of(one: Explored) -> Truth:
    """By the formula, in float64."""
    rows_S = sample(len(one.tokens.ids_NT))[:SEQUENCES]
    ids_ST = one.tokens.ids_NT[rows_S].astype(np.int64)
    x_RD, y_RE = one.read(torch.from_numpy(ids_ST))
    f_RF, y_hat_RE = one.look.function(x_RD)
    norm_R = x_RD.double().norm(dim=1)
    far_R = norm_R > OUTLIER * norm_R.median()
    masked_R = far_R.numpy().copy()
    if one.tokens.bos:
        masked_R[::T] = True
    y_double_RE = y_RE.double()
    document_R = documents_of(one.lm.tokenizer, one.tokens, rows_S).ravel()
    return Truth(
        World(T, f_RF.float().numpy(), ids_ST.ravel(), document_R, norm_R.float().numpy(), masked_R),
        x_RD,
        y_RE,
        (y_double_RE - y_hat_RE).square().sum(1).numpy(),
        (y_double_RE - y_double_RE[~far_R].mean(0)).square().sum(1).numpy(),
    )


def stored(one: Explored) -> World:
    """The store's values as a World."""
    opened = open_store(one.out)
    text, f_RF = opened.text(one.hook), np.zeros((T * SEQUENCES, FEATURES), np.float32)
    entries = opened.entries(one.name, 0, FEATURES)
    for feature in range(FEATURES):
        token_n, act_n = entries.of(feature)
        f_RF[token_n, feature] = act_n
    return World(T, f_RF, text.id_R, opened.tokens["document"], text.norm_R, ~text.counted_R)


def token_rows(one: Explored) -> list[dict[str, Any]]:
    """The sequences of the token pages in turn."""
    files = sorted((one.out / "site" / one.name / "t").iterdir())
    return [row for file in files for row in read_tokens(read_bytes(file.read_bytes()), T)]


def windows_seen(one: Explored, world: World) -> int:
    """Compare every record of the site with its slow twin; answers how many windows were compared."""
    text, seen = SiteText(one.out / "site", T), 0
    for record in map(text.fill, one.site(f"{one.name}/f/00000")):
        i = record["i"]
        rows = stores.counted(world, i)
        assert record["firings"] == len(rows)
        assert abs(record["density"] - len(rows) / (~world.masked_R).sum()) <= 1e-3
        assert [w["s"] * T + w["p"] + w["c"] for w in record["groups"]["top"]] == stores.top(world, i)
        if rows:
            total = sum(a for _, a in rows)
            octiles = [sum(a for t, a in rows if t % T * 8 // T == o) / total for o in range(8)]
            np.testing.assert_allclose(record["by_position"], octiles, atol=1e-3)
        for entries in record["groups"].values():
            for window in [w for entry in entries for w in entry.get("windows", [entry])]:
                tokens = range(first := window["s"] * T + window["p"], first + window["n"])
                assert window["ids"] == world.id_R[tokens].tolist()
                active = {t - first: world.f_RF[t, i] for t in tokens if world.f_RF[t, i]}
                assert dict(map(tuple, window["v"])).keys() == active.keys()
                np.testing.assert_allclose([value for _, value in window["v"]], list(active.values()), rtol=1e-3)
                assert window["m"] == [t - first for t in tokens if world.masked_R[t]]
                seen += 1
    return seen


def written_greedily(one: Explored, ids_T: Tensor, added_E: Tensor, steps: int, where: int | None) -> list[int]:
    """What the model writes with this added at one position or at all: every token anew, by a hook of torch's own."""
    block = one.lm.model.transformer.h[LAYER]
    module = block.mlp if one.hook_out else block

    def put(_: Any, given: Any, output: Any) -> Any:
        y_NTE = output if isinstance(output, Tensor) else output[0]
        at = slice(None) if where is None else slice(where, where + 1)
        new_NTE = y_NTE.clone()
        new_NTE[:, at] += added_E
        return new_NTE if isinstance(output, Tensor) else (new_NTE, *output[1:])

    written = ids_T
    handle = module.register_forward_hook(put)
    try:
        with torch.no_grad():
            for _ in range(steps):
                logits_V = one.lm.model(written[None], use_cache=False).logits[0, -1]
                written = torch.cat([written, logits_V.argmax()[None]])
    finally:
        handle.remove()
    return written[len(ids_T) :].tolist()
