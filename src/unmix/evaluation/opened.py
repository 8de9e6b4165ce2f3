"""A folder of dictionaries with its model and its held-out tokens: what an evaluation and an exploration begin with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unmix.config import CorpusConfig
from unmix.corpus.tokens import Tokens, load_tokens
from unmix.errors import UserError
from unmix.evaluation.proof import FEW, Proof, prove
from unmix.evaluation.several import find_subjects
from unmix.evaluation.subject import Subject, find_subject
from unmix.lm.hooks import usual_name
from unmix.lm.model import LanguageModel, load_language_model

READ = 20  # times the tokens of a proof are read, and those taken as a sample of them
Say = Callable[[str], None]


def open_subject(
    folder: Path | Sequence[Path],
    say: Say,
    *,
    model: str | None = None,
    corpus: str | None = None,
    hook: str | None = None,
    hook_out: str | None = None,
    read_at_most: int | None = None,
    fit: bool = True,
) -> tuple[Subject, LanguageModel, Tokens]:
    """What the folder holds, or all of several; the model; the held-out tokens, no more than `read_at_most` of them.

    With `fit` it is said of a dictionary that unmix did not train how well it fits (`proof`). Of several folders, a
    hook has our name where it is one of our places, so that one place is not two.

    Raises `UserError` for what `find_subject` does, and for a model or a corpus that cannot be had or does not fit.
    """
    if isinstance(folder, Path):
        subject = find_subject(folder, model=model, corpus=corpus, hook=hook, hook_out=hook_out)
    else:
        subject = find_subjects(folder, say, model=model, corpus=corpus, hook=hook, hook_out=hook_out)
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
    if not isinstance(folder, Path):
        subject = subject.renamed(lambda hook: usual_name(lm.model, hook))
    T = _length(subject, lm, say)
    lm.check_sequence_length(T)
    lm.check_reading(T, subject.hooks)
    say(f"tokenizing the held-out documents of {subject.corpus.source}")
    bounded = _bounded(subject.corpus, read_at_most)
    tokens = load_tokens(bounded, lm.tokenizer, T, "held_out", say=say, bos=subject.prepend_bos)
    lm.check_contributions(_one(tokens), subject.hooks)
    if fit:
        say_fits(folder, subject, lm, tokens, say)
    return subject, lm, tokens


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


def _one(tokens: Tokens) -> Tensor:
    """The first sequence."""
    return torch.from_numpy(tokens.ids_NT[:1].astype(np.int64))


def _of(folder: Path | Sequence[Path]) -> str:
    return str(folder) if isinstance(folder, Path) else "one of them"


def _say_fit(folder: Path | str, proof: Proof, say: Say) -> None:
    remedy = f"; `unmix verify {folder} --model … --corpus …` tries what would mend it" if proof.fails else ""
    say(f"{'warning: ' if proof.fails else ''}{folder} {proof}{remedy}")


def _bounded(corpus: CorpusConfig, most: int | None) -> CorpusConfig:
    """The corpus, read no further than so many tokens of a split."""
    bounds = [bound for bound in (corpus.max_tokens, most) if bound is not None]
    return corpus.model_copy(update={"max_tokens": min(bounds, default=None)})
