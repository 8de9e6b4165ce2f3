"""A folder of dictionaries with its model and its held-out tokens: what an evaluation and an exploration begin with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unmix.config import CorpusConfig
from unmix.corpus.plan import far_longer
from unmix.corpus.tokens import Tokens, load_tokens
from unmix.errors import UserError
from unmix.evaluation.proof import FEW, Proof, prove
from unmix.evaluation.several import find_subjects
from unmix.evaluation.subject import NO_KEYS, Subject, find_subject
from unmix.lm.hooks import usual_name
from unmix.lm.model import LanguageModel, load_language_model

DOCUMENTS = 100  # of the held-out ones, the least that are taken for a sample of them
READ = 20  # times the tokens that are wanted are read, and those taken as a sample of them
Say = Callable[[str], None]


def open_subject(
    folder: Path | Sequence[Path],
    say: Say,
    *,
    model: str | None = None,
    corpus: str | None = None,
    hook: str | None = None,
    hook_out: str | None = None,
    corpus_keys: Mapping[str, Any] = NO_KEYS,
    read_at_most: int | None = None,
    wanted: int | None = None,
    fit: bool = True,
) -> tuple[Subject, LanguageModel, Tokens]:
    """What the folder holds, or all of several; the model; the held-out tokens, about `read_at_most` of them.

    Of a run that read its corpus to the end these are a sample of the held-out documents, by their hash; else those
    that come first. `wanted`: how many will be looked at; `read_at_most` is then as `most_of` says, if not given.

    With `fit` it is said of a dictionary that unmix did not train how well it fits (`proof`). Of several folders, a
    hook has our name where it is one of our places, so that one place is not two.

    Raises `UserError` for what `find_subject` does, and for a model or a corpus that cannot be had or does not fit.
    """
    if isinstance(folder, Path):
        subject = find_subject(
            folder, model=model, corpus=corpus, hook=hook, hook_out=hook_out, corpus_keys=corpus_keys
        )
    else:
        subject = find_subjects(
            folder, say, model=model, corpus=corpus, hook=hook, hook_out=hook_out, corpus_keys=corpus_keys
        )
    for note in subject.notes:
        say(note)
    say(f"loading the model {subject.model.name}")
    lm = load_language_model(subject.model)
    if lm.note:
        say(lm.note)
    if subject.model_fingerprint not in (None, lm.fingerprint):
        say(
            f"warning: {subject.model.name} is not the model that {_of(folder)} was trained on (its fingerprint is "
            f"{lm.fingerprint}, was {subject.model_fingerprint})"
        )
    T = _length(subject, lm, say)
    lm.check_sequence_length(T)
    lm.check_reading(T, subject.hooks)
    say(f"tokenizing the held-out documents of {subject.corpus.source}")
    if read_at_most is None and wanted is not None:
        read_at_most = most_of(subject.corpus, wanted, say)
    bounded = _bounded(subject.corpus, read_at_most, subject.trained_on)
    tokens = load_tokens(bounded, lm.tokenizer, T, "held_out", say=say, bos=subject.prepend_bos)
    if not isinstance(folder, Path):
        subject = subject.renamed(lambda hook: _usual(lm, hook, _one(tokens)))
    lm.check_contributions(_one(tokens), subject.hooks)
    if fit:
        say_fits(folder, subject, lm, tokens, say)
    return subject, lm, tokens


def most_of(corpus: CorpusConfig, wanted: int, say: Say) -> int | None:
    """How many tokens of a split to read where so many are wanted: `READ` times as many if a source is far longer, or
    nobody knows how long it is, which is said; else None, which is all of them."""
    most = READ * wanted
    what = far_longer(corpus, most)
    if not what or (corpus.max_tokens is not None and corpus.max_tokens <= most):
        return None
    say(f"{what}, is read no further than to about {most:,} tokens of a split, of which {wanted:,} are a sample")
    return most


def say_fits(folder: Path | Sequence[Path], subject: Subject, lm: LanguageModel, tokens: Tokens, say: Say) -> None:
    """A line of each dictionary that unmix did not train: what it explains there, a warning if that is nothing.

    Raises `UserError` if one is for activations of another width than its hook has.
    """
    for at, saes in subject.saes.items():
        for name in [name for name in saes if name in subject.made]:
            where = folder if isinstance(folder, Path) else subject.checkpoints[name]
            _say_fit(where, prove(lm, tokens, at, saes[name], subject.made[name], name=name), say)


def say_fits_on_few(folder: Path, subject: Subject, lm: LanguageModel, say: Say) -> None:
    """The same where no tokens were read yet: on few of the corpus; why not, where these cannot be had."""
    if not subject.made:
        return
    try:
        T = _length(subject, lm, say)
        bounded = _bounded(subject.corpus, READ * FEW)
        tokens = load_tokens(bounded, lm.tokenizer, T, "held_out", say=say, bos=subject.prepend_bos)
        say_fits(folder, subject, lm, tokens, say)
    except UserError as error:
        say(f"warning: how well {folder} fits was not measured: {error}")


def _length(subject: Subject, lm: LanguageModel, say: Say) -> int:
    """Tokens a sequence; no more than the model takes, where nobody asked for that many."""
    T = subject.sequence_length
    if subject.fits and lm.context is not None and lm.context < T:
        say(f"sequences of {lm.context} tokens, which is all that the model takes, where training had {T}")
        return lm.context
    return T


def _usual(lm: LanguageModel, hook: str, ids_1T: Tensor) -> str:
    """Our name of the place, unless what a block adds is refused there: then a path is the only name that it has."""
    name = usual_name(lm.model, hook)
    try:
        lm.check_contributions(ids_1T, [name])
    except UserError:
        return hook
    return name


def _one(tokens: Tokens) -> Tensor:
    """The first sequence."""
    return torch.from_numpy(tokens.ids_NT[:1].astype(np.int64))


def _of(folder: Path | Sequence[Path]) -> str:
    return str(folder) if isinstance(folder, Path) else "one of them"


def _say_fit(folder: Path | str, proof: Proof, say: Say) -> None:
    remedy = f"; `unmix verify {folder} --model … --corpus …` tries what would mend it" if proof.fails else ""
    say(f"{'warning: ' if proof.fails else ''}{folder} {proof}{remedy}")


def _bounded(corpus: CorpusConfig, most: int | None, trained_on: tuple[int, int] | None = None) -> CorpusConfig:
    """The corpus, of which about so many held-out tokens are read, and no more where nobody knows how long it is.

    `trained_on`: documents and tokens of its train split. Then a lower `held_out_fraction` takes those of the held-out
    documents whose hash is lowest, which is a sample of them, as the split goes by the hash alone; at least about
    `DOCUMENTS`.
    """
    if most is not None and trained_on is not None:
        odds = corpus.held_out_fraction / (1 - corpus.held_out_fraction)
        documents, tokens = (max(1.0, odds * there) for there in trained_on)
        share = min(1.0, max(most / tokens, DOCUMENTS / documents))
        return corpus.model_copy(update={"held_out_fraction": corpus.held_out_fraction * share})
    bounds = [bound for bound in (corpus.max_tokens, most) if bound is not None]
    return corpus.model_copy(update={"max_tokens": min(bounds, default=None)})
