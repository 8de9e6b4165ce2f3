"""`unmix evaluate`: evaluate what a folder holds on the model and the documents that it speaks of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmix.activations.rows import Rows
from unmix.config import GIVEN, CorpusConfig, MaskConfig
from unmix.corpus.tokens import Tokens, load_tokens, sample, special_ids
from unmix.devices import resolve
from unmix.dictionary.files import save_sae
from unmix.dictionary.model import Dictionary
from unmix.disk import size
from unmix.errors import UserError
from unmix.evaluation import memory
from unmix.evaluation.debias import debias as refit
from unmix.evaluation.evaluate import evaluate
from unmix.evaluation.findings import findings
from unmix.evaluation.opened import most_of, open_subject
from unmix.evaluation.rows import evaluate_rows
from unmix.evaluation.subject import NO_KEYS, Subject, on_rows, recipe_of
from unmix.interop.origin import Origin
from unmix.lm.model import LanguageModel
from unmix.machine import held
from unmix.runlog import newest_checkpoints, read_evaluation, write_json

FILE = "evaluation.json"
SUPERSEDED = "evaluation.superseded-{}.json"  # 1, 2 …: none is overwritten
DEBIAS_TOKENS = 100_000
CE_TOKENS = 100_000  # unless others are asked for
SWEEP_TOKENS, SWEEP_CE_TOKENS = 100_000, 20_000  # what a sweep evaluates itself on
SWEEP_READS = 20 * SWEEP_TOKENS  # held-out tokens that it reads, and takes those as a sample of


def evaluate_folder(
    folder: Path | Sequence[Path],
    *,
    fidelity_tokens: int,
    ce_tokens: int | None = None,
    model: str | None = None,
    corpus: str | None = None,
    hook: str | None = None,
    hook_out: str | None = None,
    batch: int | None = None,
    device: str | None = None,
    corpus_keys: Mapping[str, Any] = NO_KEYS,
    read_at_most: int | None = None,
    debias: bool = False,
    mask: Callable[[MaskConfig], MaskConfig] = lambda trained: trained,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Evaluate every member of a run, or the one SAE of a folder; or of several folders, on the same tokens.

    `mask` is given the mask of the training (`auto` where it was on every token) and answers that of the evaluation;
    `batch` sequences go through the model at once, as many as fit `memory.BUDGET` if not given. `device`: where, if
    not on the run's. `corpus_keys` change the corpus. `read_at_most` bounds the held-out tokens that are read; if it is
    not given, they all are, but of a corpus far longer than is needed. A run on rows is evaluated on those that it held
    out, unless a `model` is given. Raises `UserError` for options that are of no use then, for what
    `find_subject` and `evaluate` do, and for a model, a corpus or a device that cannot be had.
    """
    if isinstance(folder, Path) and model is None and on_rows(folder):
        unused = {"--debias": debias, "--corpus": corpus, "--hook": hook, "--hook-out": hook_out, "--batch": batch}
        unused |= {f"--corpus.{key}": True for key in corpus_keys}
        _require_none(folder, unused | {"--device": device, "--ce-tokens": ce_tokens})
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
        corpus_keys=corpus_keys,
        read_at_most=read_at_most,
        wanted=fidelity_tokens,
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
            say(f"refitting the magnitudes of {len(saes)} dictionaries on about {DEBIAS_TOKENS:,} training tokens")
            read = _trained_corpus(subject, say)
            train = load_tokens(read, lm.tokenizer, T, "train", say=say, bos=subject.prepend_bos)
            refitted = _debiased(saes, lm, train, at, folder, _made(subject, T), n, subject.trained.special)
            saes = {**saes, **refitted}
        say(f"{len(saes)} dictionaries at {at if out is None else f'{at} -> {out}'}")
        result = evaluate(
            lm,
            tokens,
            at,
            saes,
            hook_out=out,
            fidelity_tokens=fidelity_tokens,
            ce_tokens=CE_TOKENS if ce_tokens is None else ce_tokens,
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
        **({"corpus_keys": dict(corpus_keys)} if corpus_keys else {}),
        "model": subject.model.name,
        "checkpoints": subject.checkpoints,
        **({"published": {name: _published(made) for name, made in subject.made.items()}} if subject.made else {}),
        "hooks": results,
    }


def _require_none(folder: Path, unused: dict[str, Any]) -> None:
    """Raises `UserError` naming those of these options that were given: a run on rows has no use for them."""
    if given := [flag for flag, value in unused.items() if value not in (None, False)]:
        raise UserError(
            f"{', '.join(given)}: {folder} was trained on activations without a model or text and is evaluated on "
            "those that it held out, where this does nothing; leave it out, or give both, --model and --corpus"
        )


def _trained_corpus(subject: Subject, say: Callable[[str], None]) -> CorpusConfig:
    """The corpus that dictionaries are refitted on: as training read it, where that is known; else bounded."""
    corpus = subject.corpus
    if corpus.max_tokens is not None or subject.trained_on is not None:
        return corpus
    return corpus.model_copy(update={"max_tokens": most_of(corpus, DEBIAS_TOKENS, say)})


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
    return read_evaluation(folder) if folder.is_dir() else None


def evaluate_run(folder: Path, say: Callable[[str], None], given: Rows | None = None) -> None:
    """Write the evaluation of a run that has just been trained, on few tokens; one of the same checkpoints is kept.

    What was evaluated of earlier checkpoints is kept as `evaluation.superseded-1.json`, 2 … One that cannot be made is
    said in a line: what was trained is whole without it. `given`: the activations of a run on rows handed over.
    """
    try:
        there, rows = require_ours(folder), recipe_of(folder).activations.rows
        if there is not None:
            newest = {name: str(path.relative_to(folder)) for name, path in newest_checkpoints(folder).items()}
            if there.get("checkpoints", newest) == newest:  # one without them is of an earlier version
                again = "move it away, and the same call" if rows == GIVEN else f"`unmix evaluate {folder}`"
                say(f"{folder / FILE} is there; {again} makes it again")
                return
        if rows is not None:
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
    special: bool = False,
) -> dict[str, Dictionary]:
    """Each SAE refitted on a sample of the tokens that it was trained on, and saved in `folder/debiased/NAME`.

    There are about DEBIAS_TOKENS of them. `special`: training left out special tokens.

    Raises `UserError` for an SAE that was trained on none of them.
    """
    T, left_out = train.ids_NT.shape[1], special_ids(lm.tokenizer, train) if special else []
    rows = max(1, DEBIAS_TOKENS * len(train.ids_NT) // max(1, train.activations))  # of which those tokens are
    rows_N = np.sort(sample(len(train.ids_NT))[:rows])
    batches = [_trained_on(lm, train, hook, rows_N[at : at + n], left_out) for at in range(0, len(rows_N), n)]
    found = {}
    for name, sae in saes.items():
        kept = [x_BD[~sae.leaves(x_BD)] for x_BD in batches]
        if not (count := sum(len(x_KD) for x_KD in kept)):
            raise UserError(
                f"--debias: {name} was trained on none of {len(rows_N) * T:,} tokens of the train split; leave it out"
            )
        found[f"{name}, debiased"] = refitted = refit(sae, kept)
        more: dict[str, Any] = {"debiased_on_tokens": count, "prepend_bos": train.bos}
        if made is not None:
            more["unmix_recipe"] = made
        if mask := _mask_facts(sae, left_out):
            more["mask"] = mask
        save_sae(
            refitted, folder / "debiased" / name, model=lm.name, hook=hook, context=T, more=more, samples=_some(kept)
        )
    return found


def _trained_on(
    lm: LanguageModel, train: Tokens, hook: str, rows_n: NDArray[np.int64], left_out: Sequence[int]
) -> Tensor:
    """x_BD of those tokens of these rows that became activations, without a BOS at position 0 and the ids left out."""
    ids_nT = torch.from_numpy(train.ids_NT[rows_n].astype(np.int64))
    kept_nT = ~torch.isin(ids_nT, torch.tensor(left_out, dtype=torch.int64))
    if train.kept_NT is not None:
        kept_nT &= torch.from_numpy(train.kept_NT[rows_n].astype(bool))
    kept_nT[:, : train.skip] = False
    return lm.activations(ids_nT, [hook])[hook].cpu()[kept_nT]


def _mask_facts(sae: Dictionary, left_out: Sequence[int]) -> dict[str, Any]:
    """What a refitted SAE says of the tokens that it was not trained on; empty if there are none."""
    kinds = ["special tokens"] if left_out else []
    if sae.longest is not None:
        kinds.append(f"tokens with norms above {sae.longest:g}")
    if not kinds:
        return {}
    facts: dict[str, Any] = {"rule": f"{' and '.join(kinds)} were not trained on: leave x as it is there"}
    if sae.longest is not None:
        facts["longer_than"] = sae.longest
    return facts | ({"special_ids": list(left_out)} if left_out else {})


def _seldom(say: Callable[[str], None], every: int = 20) -> Callable[[str], None]:
    calls = 0

    def progress(text: str) -> None:
        nonlocal calls
        calls += 1
        if calls % every == 0:
            say(text)

    return progress
