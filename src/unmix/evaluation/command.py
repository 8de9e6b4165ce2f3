"""`unmix evaluate`: evaluate what a folder holds on the model and the documents that it speaks of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unmix.activations.rows import Rows
from unmix.config import MaskConfig
from unmix.corpus.tokens import Tokens, load_tokens
from unmix.devices import resolve
from unmix.dictionary.files import save_sae
from unmix.dictionary.model import Dictionary
from unmix.disk import size
from unmix.errors import UserError
from unmix.evaluation import memory
from unmix.evaluation.debias import debias as refit
from unmix.evaluation.evaluate import SKIP, evaluate
from unmix.evaluation.findings import findings
from unmix.evaluation.opened import open_subject
from unmix.evaluation.rows import evaluate_rows
from unmix.evaluation.subject import Subject, on_rows
from unmix.interop.origin import Origin
from unmix.lm.model import LanguageModel
from unmix.machine import held
from unmix.runlog import newest_checkpoints, read_json, write_json

FILE = "evaluation.json"
SUPERSEDED = "evaluation.superseded-{}.json"  # 1, 2 …: none is overwritten
DEBIAS_TOKENS = 100_000
SWEEP_TOKENS, SWEEP_CE_TOKENS = 100_000, 20_000  # what a sweep evaluates itself on
SWEEP_READS = 20 * SWEEP_TOKENS  # held-out tokens that it reads, and takes those as a sample of


def evaluate_folder(
    folder: Path | Sequence[Path],
    *,
    fidelity_tokens: int,
    ce_tokens: int,
    model: str | None = None,
    corpus: str | None = None,
    hook: str | None = None,
    hook_out: str | None = None,
    batch: int | None = None,
    device: str | None = None,
    read_at_most: int | None = None,
    debias: bool = False,
    mask: Callable[[MaskConfig], MaskConfig] = lambda trained: trained,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Evaluate every member of a run, or the one SAE of a folder; or of several folders, on the same tokens.

    `mask` is given the mask of the training (`auto` where it was on every token) and answers that of the evaluation;
    `batch` sequences go through the model at once, as many as fit `memory.BUDGET` if not given. `device`: where, if
    not on the run's. `read_at_most` bounds the held-out tokens that are read. Raises `UserError` for what
    `find_subject` and `evaluate` do, and for a model, a corpus or a device that cannot be had.
    """
    if isinstance(folder, Path) and model is None and on_rows(folder):
        return evaluate_rows(folder, None, tokens=fidelity_tokens, mask=mask)
    if debias and not isinstance(folder, Path):
        raise UserError("--debias writes into the folder of a dictionary; give one folder at a time")
    subject, lm, tokens = open_subject(
        folder,
        say,
        model=model,
        corpus=corpus,
        hook=hook,
        hook_out=hook_out,
        read_at_most=read_at_most,
        transcoders=True,
    )
    if debias and (into := next(filter(None, map(subject.hook_out, subject.made)), None)):
        raise UserError(
            f"--debias refits dictionaries to the x that they read, and this one gives {into}; leave it out"
        )
    where = resolve(device or subject.device)
    if where.type != "cpu":
        say(f"evaluating on {where}")
    lm.model.to(where)
    T = tokens.ids_NT.shape[1]
    if subject.split != "held_out":
        say(f"the split is {subject.split}")
    everything = [sae for saes in subject.saes.values() for sae in saes.values()]
    n = batch or memory.sequences_at_once(T, lm.vocabulary)
    counted = min(fidelity_tokens, tokens.ids_NT.size)
    needed = max(memory.peak(lm, saes.values(), T, n, counted) for saes in subject.saes.values())
    if debias:
        needed = max(needed, max(memory.refitting(sae, DEBIAS_TOKENS, n * T) for sae in everything))
    say(f"about {size(held() + needed)} of memory at the peak, {n} sequences a pass (--batch)")
    results = []
    for at, out, saes in _together(subject):
        if debias and isinstance(folder, Path):
            say(f"refitting the magnitudes of {len(saes)} dictionaries on {DEBIAS_TOKENS:,} tokens of the train split")
            train = load_tokens(subject.corpus, lm.tokenizer, T, "train", say=say)
            saes = {**saes, **_debiased(saes, lm, train, at, folder, _made(subject, T), n)}
        say(f"{len(saes)} dictionaries at {at if out is None else f'{at} -> {out}'}")
        result = evaluate(
            lm,
            tokens,
            at,
            saes,
            hook_out=out,
            fidelity_tokens=fidelity_tokens,
            ce_tokens=ce_tokens,
            mask=mask(subject.trained),
            batch_sequences=n,
            progress=_seldom(say),
        )
        result["split"] = subject.split
        if subject.processed:
            result["processed"] = list(subject.processed)
        results.append({**result, "findings": findings(result)})
    return {
        "corpus": subject.corpus.source,
        "model": subject.model.name,
        "checkpoints": subject.checkpoints,
        **({"published": {name: _published(made) for name, made in subject.made.items()}} if subject.made else {}),
        "hooks": results,
    }


def _together(subject: Subject) -> list[tuple[str, str | None, dict[str, Dictionary]]]:
    """(hook, where y is read, dictionaries) of those that share both."""
    found: dict[tuple[str, str | None], dict[str, Dictionary]] = {}
    for at, saes in subject.saes.items():
        for name, sae in saes.items():
            found.setdefault((at, subject.hook_out(name)), {})[name] = sae
    return [(at, out, saes) for (at, out), saes in found.items()]


def _published(made: Origin) -> dict[str, Any]:
    """What the files of a dictionary that unmix did not train say of it."""
    return {"format": made.format, "version": made.version, "architecture": made.architecture} | {
        "l0": made.l0, "explained_variance": made.explained_variance
    }  # fmt: skip


def require_ours(folder: Path) -> dict[str, Any] | None:
    """The evaluation that is in the folder, if there is one. Raises `UserError` if its file is another program's."""
    found = read_json(folder / FILE) if folder.is_dir() else None
    if found is not None and not isinstance(found.get("hooks"), list):
        raise UserError(f"{folder / FILE} was not written by unmix; move it away, so that it is not overwritten")
    return found


def evaluate_run(folder: Path, say: Callable[[str], None], given: Rows | None = None) -> None:
    """Write the evaluation of a run that has just been trained, on few tokens; one of the same checkpoints is kept.

    What was evaluated of earlier checkpoints is kept as `evaluation.superseded-1.json`, 2 … One that cannot be made is
    said in a line: what was trained is whole without it. `given`: the activations of a run on rows handed over.
    """
    try:
        there = require_ours(folder)
        if there is not None:
            newest = {name: str(path.relative_to(folder)) for name, path in newest_checkpoints(folder).items()}
            if there.get("checkpoints", newest) == newest:  # one without them is of an earlier version
                say(f"{folder / FILE} is there; `unmix evaluate {folder}` makes it again")
                return
        if on_rows(folder):
            say(f"evaluating on up to {SWEEP_TOKENS:,} held-out activations")
            _write(folder, evaluate_rows(folder, given, tokens=SWEEP_TOKENS), there, say)
            return
        say(
            f"evaluating on {SWEEP_TOKENS:,} held-out tokens, cross-entropy on {SWEEP_CE_TOKENS:,} of them; "
            f"`unmix evaluate {folder}` takes more, --no-evaluate leaves it out"
        )
        found = evaluate_folder(
            folder,
            fidelity_tokens=SWEEP_TOKENS,
            ce_tokens=SWEEP_CE_TOKENS,
            read_at_most=SWEEP_READS,
            say=say,
        )
        _write(folder, found, there, say)
    except UserError as error:
        say(f"warning: not evaluated, the report is written without held-out numbers: {error}")


def _write(folder: Path, found: dict[str, Any], there: dict[str, Any] | None, say: Callable[[str], None]) -> None:
    """Write the evaluation; the one that is there is kept beside it."""
    if there is not None:
        aside = next(path for n in count(1) if not (path := folder / SUPERSEDED.format(n)).exists())
        say(f"the evaluation of earlier checkpoints is kept as {aside.name}")
        write_json(aside, there)
    write_json(folder / FILE, found)


def _made(subject: Subject, T: int) -> dict[str, Any] | None:
    """What a refitted dictionary says of its training; nothing where the split is unknown, so that it stays so."""
    if subject.split != "held_out":
        return None
    return {
        "model": subject.model.model_dump(mode="json"),
        "corpus": subject.corpus.model_dump(mode="json"),
        "activations": {"sequence_length": T},
    }


def _some(batches: Sequence[Tensor]) -> Tensor | None:
    """A batch that is not empty."""
    return next((x_KD for x_KD in batches if len(x_KD)), None)


def _debiased(
    saes: dict[str, Dictionary],
    lm: LanguageModel,
    train: Tokens,
    hook: str,
    folder: Path,
    made: dict[str, Any] | None,
    n: int = 16,
) -> dict[str, Dictionary]:
    """Each SAE refitted on the tokens that it was trained on, and saved in `folder/debiased/NAME`."""
    T = train.ids_NT.shape[1]
    ids_NT = torch.from_numpy(train.ids_NT[: max(1, DEBIAS_TOKENS // T)].astype(np.int64))
    batches = [lm.activations(part, [hook])[hook][:, SKIP:].flatten(0, 1).cpu() for part in torch.split(ids_NT, n)]
    found = {}
    for name, sae in saes.items():
        kept = [x_BD[~sae.leaves(x_BD)] for x_BD in batches]
        found[f"{name}, debiased"] = refitted = refit(sae, kept)
        more: dict[str, Any] = {"debiased_on_tokens": sum(len(x_KD) for x_KD in kept)}
        if made is not None:
            more["unmix_recipe"] = made
        if sae.longest is not None:
            more["mask"] = {
                "rule": f"tokens longer than {sae.longest:g} were not trained on: leave x as it is there",
                "longer_than": sae.longest,
            }
        save_sae(
            refitted, folder / "debiased" / name, model=lm.name, hook=hook, context=T, more=more, samples=_some(kept)
        )
    return found


def _seldom(say: Callable[[str], None], every: int = 20) -> Callable[[str], None]:
    calls = 0

    def progress(text: str) -> None:
        nonlocal calls
        calls += 1
        if calls % every == 0:
            say(text)

    return progress
