"""From a finished store to `features/` and `site/`."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import unmix
from unmix.disk import replacing, sha256
from unmix.evaluation.subject import Subject
from unmix.explore import derive, descriptions, logits, manifest, member, pages, prompts
from unmix.explore.about import chosen_members, members_about
from unmix.explore.beside import Beside
from unmix.explore.duck import write_parquet
from unmix.explore.left_out import totals
from unmix.explore.prompt import mask_of, special_ids
from unmix.explore.store import Store
from unmix.explore.table import features_table
from unmix.explore.texts import PAGE, text_pages
from unmix.explore.token_budget import Budget, packed
from unmix.explore.token_bytes import bytes_of, vocabulary
from unmix.explore.token_pages import SEQUENCES, token_pages
from unmix.lm.model import LanguageModel
from unmix.runlog import write_json

Say = Callable[[str], None]


def publish(
    folder: Path, store: Store, subject: Subject, lm: LanguageModel, say: Say, beside: Sequence[Beside] = ()
) -> Path:
    """Derive every feature of the subject's members and write features/ and site/; answers the page.

    `beside`: dictionaries that features are matched with too.

    Raises `UserError` if the folder of the site holds a file that is not the explorer's.
    """
    out, there = store.folder, store.manifest
    page = out / "site"
    pages.require_ours(page, there["site"])
    described = {name: descriptions.of_member(out, name, there["fingerprint"]) for name in store.members}
    new = pages.new_site(page)
    with pages.Site(new) as site:
        there["derived"] = _fill(site, folder, store, subject, lm, described, beside, say)
        site.copy_page()
    there["beside"] = {one.name: one.facts for one in beside}
    there["site"] = sorted({*there["site"], *site.files})  # whichever of the two is there if this is stopped
    write_json(out / manifest.FILE, there)
    pages.require_ours(page, there["site"])  # the pages took a while, in which something may have been put there
    pages.replace(new, page)
    there["site"] = sorted(site.files)
    write_json(out / manifest.FILE, there)
    size = sum((page / path).stat().st_size for path in site.files)
    say(f"the site has {size / 1e6:.1f} MB")
    return page / "index.html"


def _fill(
    site: pages.Site,
    folder: Path,
    store: Store,
    subject: Subject,
    lm: LanguageModel,
    described: dict[str, descriptions.Descriptions],
    beside: Sequence[Beside],
    say: Say,
) -> dict[str, dict[str, dict[str, str]]]:
    """Every script of the site; answers member -> `files` of features/ with their checksums."""
    members, derived = [], {}
    about, chosen = members_about(folder, subject), chosen_members(folder, subject.saes)
    readout, budget = logits.readout(lm), Budget(sum(map(len, subject.saes.values())))
    for hook, saes in subject.saes.items():
        sight = derive.see(store, hook, saes, beside)
        for name, sae in saes.items():
            say(f"features of {name}")
            known = derive.know(store, name, sae, sight, readout)
            row, files = _member(site, store, known, sight, lm, budget)
            derived[name] = {"files": files}
            where = {"hook": hook}
            if hook in store.outs:
                out = store.outs[hook]
                where = {"hook": f"{hook} -> {out}", "hook_in": hook, "hook_out": out}
            facts = {"name": name, **where, "features": sae.features, **about[name], **row}
            members.append({**facts, "chosen": name in chosen, "described": len(described[name])})
            if described[name]:
                site.put(descriptions.key(name), described[name])
    texts = _put_prompts(site, store, subject, lm, say)
    id_R = store.tokens["id"]
    site.ids.update(np.unique(id_R).tolist())
    for key, data in text_pages(id_R):
        site.put_bytes(key, data)
    site.put("vocabulary", vocabulary(lm.tokenizer, site.ids))
    facts = _manifest(folder, store, subject, lm, members, chosen)
    more = {"beside": [one.shown for one in beside], "prompts": texts}
    site.put("manifest", facts | more, packed=False)
    return derived


def _member(
    site: pages.Site, store: Store, known: derive.Known, sight: derive.Sight, lm: LanguageModel, budget: Budget
) -> tuple[dict[str, Any], dict[str, str]]:
    """(what the manifest says of the member's features, the files of features/ with checksums)."""
    name, text = known.name, sight.text
    err_R, l0_R = store.errors(name)
    l1_R = np.zeros(len(text.id_R), dtype=np.float32)
    with _no_collector():
        found = derive.records(store, known, sight, cache(bytes_of(lm.tokenizer)), l1_R)
        listed = pages.put_features(site, name, found, len(text.id_R) // text.T)
        of = budget.take(listed.windows_S, l0_R, text.T, packed(store, name, text))
        for key, data in token_pages(store, name, text, of.sequences, of.strongest):
            site.put_bytes(key, data)
    pages.put_index(site, known, sight, listed, of.sequences)
    path = f"features/{name}.parquet"
    with replacing(store.folder / path) as new:
        write_parquet(new, features_table(listed.columns, listed.firings_F))
    facts = {
        **member.facts(text, sight.where, err_R, l0_R, l1_R, listed.density_F),
        "shards": {"features": pages.FEATURES, "sequences": SEQUENCES},
        "sequences": len(of.sequences),
        "strongest": of.strongest,
        "tokens": {
            "counted": text.counted,
            "masked": len(text.id_R) - text.counted,
            "left_out": totals(sight.reason_R),
        },
        "coactivation_tokens": known.coactivation_tokens,
    }
    return facts, {path: sha256(store.folder / path)}


def _put_prompts(site: pages.Site, store: Store, subject: Subject, lm: LanguageModel, say: Say) -> int:
    """MEMBER/prompts.js of every member; answers how many texts there are."""
    special, measured = special_ids(lm.tokenizer), store.manifest["measured"]
    masks = {
        hook: {name: mask_of(subject.trained, special, measured.get(hook), sae) for name, sae in saes.items()}
        for hook, saes in subject.saes.items()
    }
    found = prompts.read_texts(lm, subject.saes, masks, say, outs=store.outs, bos=store.bos)
    for name, texts in found.items():
        site.put(prompts.key(name), texts)
        site.ids.update(i for text in texts for i in text["ids"])
    return min(map(len, found.values()))


def _manifest(
    folder: Path,
    store: Store,
    subject: Subject,
    lm: LanguageModel,
    members: list[dict[str, Any]],
    chosen: list[str],
) -> dict[str, Any]:
    """The page's `manifest`."""
    inputs = store.inputs
    return {
        "format": manifest.FORMAT,
        "run": folder.resolve().name,
        "version": unmix.__version__,
        "fingerprint": store.manifest["fingerprint"],
        "model": {"name": subject.model.name, "layers": lm.layers, "width": lm.width, "vocabulary": lm.vocabulary},
        "tokens": {
            **members[0]["tokens"],
            "split": inputs["split"],
            "sequences": inputs["sequences"],
            "context": inputs["sequence_length"],
            "page": PAGE,
            "corpus": subject.corpus.source,
            "mask": _left_out(subject),
        },
        "members": members,
        "chosen": chosen[0] if chosen else None,
        "server": False,
    }


def _left_out(subject: Subject) -> str:
    """What no number counts, in a sentence."""
    said = [*(["position 0 (BOS)"] if subject.prepend_bos else []), *filter(None, [str(subject.trained)])]
    bos = "" if subject.prepend_bos else " (sequences have no BOS: position 0 counts like any other)"
    every = "numbers by norm and the share at position 0 are over every token"
    return f"{' and '.join(said) or 'nothing'}{bos}; {every}"


@contextmanager
def _no_collector() -> Iterator[None]:
    """Millions of small lists are made and none of them is in a cycle: looking for cycles takes as long again."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
