"""A folder of dictionaries with its model and its held-out tokens: what an evaluation and an exploration begin with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from unmix.config import CorpusConfig
from unmix.corpus.tokens import Tokens, load_tokens
from unmix.evaluation.subject import Subject, find_subject
from unmix.lm.model import LanguageModel, load_language_model

Say = Callable[[str], None]


def open_subject(
    folder: Path,
    say: Say,
    *,
    model: str | None = None,
    corpus: str | None = None,
    hook: str | None = None,
    read_at_most: int | None = None,
) -> tuple[Subject, LanguageModel, Tokens]:
    """What the folder holds, its model, its held-out tokens; of these no more than `read_at_most` are read.

    Raises `UserError` for what `find_subject` does, and for a model or a corpus that cannot be had or does not fit.
    """
    subject = find_subject(folder, model=model, corpus=corpus, hook=hook)
    for note in subject.notes:
        say(note)
    say(f"loading the model {subject.model.name}")
    lm = load_language_model(subject.model)
    if lm.note:
        say(lm.note)
    if subject.model_fingerprint not in (None, lm.fingerprint):
        say(
            f"warning: {subject.model.name} is not the model that {folder} was trained on (its fingerprint is "
            f"{lm.fingerprint}, was {subject.model_fingerprint})"
        )
    T = subject.sequence_length
    if subject.fits and lm.context is not None and lm.context < T:
        say(f"sequences of {lm.context} tokens, which is all that the model takes, where training had {T}")
        T = lm.context
    lm.check_sequence_length(T)
    lm.check_reading(T, list(subject.saes))
    say(f"tokenizing the held-out documents of {subject.corpus.source}")
    return subject, lm, load_tokens(_bounded(subject.corpus, read_at_most), lm.tokenizer, T, "held_out", say=say)


def _bounded(corpus: CorpusConfig, most: int | None) -> CorpusConfig:
    """The corpus, read no further than so many tokens of a split."""
    bounds = [bound for bound in (corpus.max_tokens, most) if bound is not None]
    return corpus.model_copy(update={"max_tokens": min(bounds, default=None)})
