"""What a server answers from: the model, and the dictionaries that the site shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from unmix.errors import UserError
from unmix.evaluation.opened import say_fits_on_few
from unmix.evaluation.subject import NO_KEYS, Subject, find_subject
from unmix.explore.manifest import read_manifest as read_store
from unmix.explore.manifest import require_asked
from unmix.explore.prompt import mask_of, special_ids
from unmix.explore.server_api import Member, Served
from unmix.explore.server_files import read_manifest
from unmix.explore.server_store import Windows
from unmix.explore.token_bytes import bytes_of
from unmix.lm.model import load_language_model

Say = Callable[[str], None]


def open_served(
    folder: Path,
    out: Path,
    *,
    model: str | None,
    corpus: str | None,
    hook: str | None,
    hook_out: str | None = None,
    corpus_keys: Mapping[str, Any] = NO_KEYS,
    say: Say,
) -> Served:
    """For the run or dictionary in `folder`, whose explorer is in `out`. What is not given is as the explorer was
    built. Of a dictionary that unmix did not train it is said how well it fits the model.

    Raises `UserError` for what `find_subject` and `load_language_model` do, if there is no site, if it was built at
    other hooks, and if it shows a member that the folder does not have.
    """
    site = out / "site"
    shown = [str(member["name"]) for member in read_manifest(site)["members"]]
    store = read_store(out) or {}
    if store:
        require_asked(out, store, None, (), hook=hook, hook_out=hook_out)
    built = store.get("inputs", {})
    if not (folder / "run.yaml").exists():  # a run says these itself
        model = model or built.get("model_name")
        about = store.get("about", {})
        corpus, corpus_keys = corpus or about.get("corpus"), corpus_keys or about.get("corpus_keys", NO_KEYS)
        rows = list(built.get("members", {}).values())
        hook = hook or next((row.get("hook") for row in rows), None)
        hook_out = hook_out or next((row.get("hook_out") for row in rows), None)
    subject = find_subject(folder, model=model, corpus=corpus, hook=hook, hook_out=hook_out, corpus_keys=corpus_keys)
    for note in subject.notes:
        say(note)
    there = {name: (at, sae) for at, saes in subject.saes.items() for name, sae in saes.items()}
    if missing := [name for name in shown if name not in there]:
        raise UserError(
            f"the site in {site} shows {missing[0]}, which {folder} does not have; build it again with "
            f"`unmix explore {folder} --build --anew`"
        )
    _warn_of_others(folder, built, subject, shown, say)
    say(f"loading the model {subject.model.name}")
    lm = load_language_model(subject.model)
    if lm.note:
        say(lm.note)
    if lm.fingerprint != built.get("model", lm.fingerprint):
        say(
            f"warning: {subject.model.name} is not the model that the site was built with (its fingerprint is "
            f"{lm.fingerprint}, was {built['model']}); what is answered differs from what is shown"
        )
    say_fits_on_few(folder, subject, lm, say)
    special, measured = special_ids(lm.tokenizer), store.get("measured", {})
    members = {}
    for name in shown:
        at, sae = there[name]
        mask = mask_of(subject.trained, special, measured.get(at), sae)
        members[name] = Member(name, at, sae, mask, site, subject.hook_out(name))
    return Served(lm, bytes_of(lm.tokenizer), members, Windows(out), subject.prepend_bos)


def _warn_of_others(folder: Path, built: dict[str, Any], subject: Subject, shown: list[str], say: Say) -> None:
    """Say it if the site was built from other checkpoints than those that answer."""
    saes = {name: sae for members in subject.saes.values() for name, sae in members.items()}
    for name in shown:
        was, now = built.get("members", {}).get(name, {}), subject.checkpoints[name]
        if not was:
            continue
        if was.get("checkpoint", now) != now:  # older sites do not name it
            other = f"the site shows {was['checkpoint']}, and {now} answers"
        elif was.get("fingerprint", saes[name].fingerprint) != saes[name].fingerprint:
            other = f"the weights of {name} are not those that the site was built with"
        else:
            continue
        say(f"warning: {other}; build it again with `unmix explore {folder} --build --anew`")
