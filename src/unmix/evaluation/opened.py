"""A folder of dictionaries with its model and its held-out tokens: what an evaluation and an exploration begin with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from unmix.config import CorpusConfig
from unmix.corpus.tokens import Tokens, load_tokens
from unmix.evaluation.proof import Proof, prove
from unmix.evaluation.several import find_subjects
from unmix.evaluation.subject import Subject, find_subject
from unmix.lm.model import LanguageModel, load_language_model

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
    transcoders: bool = False,
    fit: bool = True,
) -> tuple[Subject, LanguageModel, Tokens]:
    """What the folder holds, or all of several; the model; the held-out tokens, no more than `read_at_most` of them.

    `transcoders` are taken too, or refused. With `fit` it is said of a dictionary that unmix did not train how well it
    fits (`proof`). Raises `UserError` for what
    `find_subject` does, and for a model or a corpus that cannot be had or does not fit.
    """
    if isinstance(folder, Path):
        subject = find_subject(
            folder, model=model, corpus=corpus, hook=hook, hook_out=hook_out, transcoders=transcoders
        )
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
    T = subject.sequence_length
    if subject.fits and lm.context is not None and lm.context < T:
        say(f"sequences of {lm.context} tokens, which is all that the model takes, where training had {T}")
        T = lm.context
    lm.check_sequence_length(T)
    lm.check_reading(T, subject.hooks)
    say(f"tokenizing the held-out documents of {subject.corpus.source}")
    tokens = load_tokens(_bounded(subject.corpus, read_at_most), lm.tokenizer, T, "held_out", say=say)
    for at, saes in subject.saes.items() if fit else ():
        for name in [name for name in saes if name in subject.made]:
            where = folder if isinstance(folder, Path) else subject.checkpoints[name]
            _say_fit(where, prove(lm, tokens, at, saes[name], subject.made[name], name=name), say)
    return subject, lm, tokens


def _of(folder: Path | Sequence[Path]) -> str:
    return str(folder) if isinstance(folder, Path) else "one of them"


def _say_fit(folder: Path | str, proof: Proof, say: Say) -> None:
    remedy = f"; `unmix verify {folder} --model … --corpus …` tries what would mend it" if proof.fails else ""
    say(f"{'warning: ' if proof.fails else ''}{folder} {proof}{remedy}")


def _bounded(corpus: CorpusConfig, most: int | None) -> CorpusConfig:
    """The corpus, read no further than so many tokens of a split."""
    bounds = [bound for bound in (corpus.max_tokens, most) if bound is not None]
    return corpus.model_copy(update={"max_tokens": min(bounds, default=None)})
