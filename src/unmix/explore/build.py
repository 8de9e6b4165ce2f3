"""`unmix explore --build`: the pass, the numbers, the site."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unmix.corpus.tokens import Tokens, sample
from unmix.dictionary.model import Dictionary
from unmix.errors import UserError
from unmix.evaluation.memory import sequences_at_once
from unmix.evaluation.opened import open_subject
from unmix.evaluation.subject import Subject
from unmix.explore import manifest, pages
from unmix.explore.beside import find_beside
from unmix.explore.draw import SEED
from unmix.explore.duck import connected
from unmix.explore.harvest import SHARD_TOKENS, Pass, measure_heads, missing_shards, write_shard
from unmix.explore.publish import publish
from unmix.explore.store import open_store
from unmix.lm.model import LanguageModel
from unmix.runlog import write_json

TOKENS = 262_144
Say = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """What was asked for on the command line; nothing: as the store has it, else the defaults."""

    tokens: int | None = None
    members: Sequence[str] = ()
    model: str | None = None
    corpus: str | None = None
    hook: str | None = None
    anew: bool = False
    beside: Sequence[Path] | None = None
    """Dictionaries that features are matched with too; empty: none."""
    hook_out: str | None = None
    """Where the y of a transcoder is read."""
    corpus_keys: Mapping[str, Any] = field(default_factory=dict)
    """How the corpus is read, if not as the folder says."""


def build(folder: Path, out: Path, wanted: Wanted, say: Say) -> Path:
    """Build the store and the site of a run, or of one dictionary, in `out`; answers the page.

    A build that was stopped goes on at the first shard that is missing. Raises `UserError` if the folder is neither, if
    a store of other inputs is there and `anew` is not given, or for what `find_subject` and the model do.
    """
    with connected():  # without DuckDB nothing of this works: say so before the pass
        pass
    there = manifest.read_manifest(out)
    kept = there["inputs"] if there is not None and not wanted.anew else {}
    asked = wanted.tokens or kept.get("asked_tokens") or TOKENS
    subject, lm, tokens = open_subject(
        folder,
        say,
        model=wanted.model,
        corpus=wanted.corpus,
        hook=wanted.hook,
        hook_out=wanted.hook_out,
        corpus_keys=wanted.corpus_keys,
        wanted=asked,
    )
    job, inputs = _job(folder, subject, lm, tokens, wanted, kept, asked)
    beside = find_beside(wanted.beside, None if wanted.anew else there, folder, job.saes, lm, say, job.outs)
    if there is not None and wanted.anew:
        pages.require_ours(out / "site", there["site"])
        manifest.clear(out, there)
        there = None
    if there is None:
        keys = {"corpus_keys": dict(wanted.corpus_keys)} if wanted.corpus_keys else {}
        there = manifest.begin(out, inputs, {"folder": str(folder), "corpus": subject.corpus.source, **keys})
    manifest.require_same(out, there, inputs)
    harvest(job, out, there, say)
    return publish(folder, open_store(out), replace(subject, saes=job.saes), lm, say, beside)


def _job(
    folder: Path,
    subject: Subject,
    lm: LanguageModel,
    tokens: Tokens,
    wanted: Wanted,
    kept: Mapping[str, Any],
    asked: int,
) -> tuple[Pass, dict[str, Any]]:
    """(the pass over `asked` tokens, the inputs of its store); `kept`: those of a store that is there."""
    saes = _members(folder, subject, list(wanted.members) or kept.get("asked_members") or [])
    # a folder is a run, of SAEs, or one dictionary: a hook has no two of them
    outs = {hook: out for hook, members in saes.items() for name in members if (out := subject.hook_out(name))}
    N, T = tokens.ids_NT.shape
    sequences = min(N, max(1, asked // T))
    job = Pass(lm, tokens, sample(N)[:sequences], saes, subject.trained, sequences_at_once(T, lm.vocabulary), outs)
    _require_widths(job)
    inputs = {
        "model": lm.fingerprint,
        "model_name": subject.model.name,
        "dtype": subject.model.dtype,
        "corpus": tokens.fingerprint,
        "split": subject.split,
        "sequence_length": T,
        "asked_tokens": asked,
        "sequences": sequences,
        "shard_tokens": SHARD_TOKENS,
        "batch_sequences": job.batch_sequences,
        "mask": {"special": subject.trained.special, "norm_above": subject.trained.norm_above},
        "seed": SEED,
        "asked_members": sorted(wanted.members) or kept.get("asked_members"),
        "members": {
            name: {
                "hook": hook,
                "features": sae.features,
                "checkpoint": subject.checkpoints[name],
                "fingerprint": sae.fingerprint,
                **({"hook_out": outs[hook]} if hook in outs else {}),
            }
            for hook, members in saes.items()
            for name, sae in members.items()
        },
        **({} if tokens.bos else {"prepend_bos": False}),
    }
    return job, inputs


def _require_widths(job: Pass) -> None:
    """Raises `UserError` for a dictionary of activations of another width than its hooks have."""
    widths = job.model.hook_widths(job.hooks)
    for hook, members in job.saes.items():
        for name, sae in members.items():
            for at, width in ((hook, sae.width), (job.out(hook), sae.W_dec.shape[1])):
                if width != widths[at]:
                    raise UserError(
                        f"{name} is for activations of width {width}, and {at} of {job.model.name} has {widths[at]}; "
                        "give the model and the hook that it was trained on (--model, --hook)"
                    )


def _members(folder: Path, subject: Subject, asked: Sequence[str]) -> dict[str, dict[str, Dictionary]]:
    """hook -> name -> SAE of the members that are asked for; all of them if none is."""
    there = [name for saes in subject.saes.values() for name in saes]
    if unknown := [name for name in asked if name not in there]:
        raise UserError(f"--member {unknown[0]}: {folder} has {', '.join(there)}")
    kept = {hook: {n: sae for n, sae in saes.items() if n in asked or not asked} for hook, saes in subject.saes.items()}
    return {hook: saes for hook, saes in kept.items() if saes}


def harvest(job: Pass, out: Path, there: manifest.Manifest, say: Say) -> None:
    """Write the shards that are missing, or are not as they were written; the manifest names them as they end."""
    whole = [shard for shard in there["shards"] if manifest.whole(out, shard["files"])]
    if damaged := len(there["shards"]) - len(whole):
        say(f"{damaged} of {job.shards} shards {'is' if damaged == 1 else 'are'} damaged, and made again")
    there["shards"] = whole
    missing = list(missing_shards(job, whole))
    if not missing:
        say(f"all {job.shards} shards are there")
        return
    members = sum(map(len, job.saes.values()))
    say(f"{len(job.rows_S) * job.T:,} held-out tokens through the model, {members} dictionaries, {job.shards} shards")
    if len(missing) < job.shards:
        say(f"resuming: {job.shards - len(missing)} shards are there")
    heads = measure_heads(job)
    for hook, head in heads.items():
        there["measured"][hook] = {"median_norm": head.leaves.median_norm, "longer_than": head.leaves.longest}
    for number in missing:
        shard = write_shard(job, heads, number, out)
        there["shards"] = sorted([*there["shards"], shard], key=lambda shard: int(shard["shard"]))
        write_json(out / manifest.FILE, there)
        say(f"shard {number + 1} of {job.shards}: {sum(shard['entries'].values()):,} activations")
