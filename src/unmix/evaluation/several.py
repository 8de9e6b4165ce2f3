"""Several folders as one subject: their dictionaries side by side, on one model and the same tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from unmix.dictionary.model import Dictionary
from unmix.errors import UserError
from unmix.evaluation.subject import Subject, find_subject, tightest


def find_subjects(
    folders: Sequence[Path],
    say: Callable[[str], None],
    *,
    model: str | None,
    corpus: str | None,
    hook: str | None,
    hook_out: str | None = None,
) -> Subject:
    """All of them in one: sequences as long as the shortest, the tightest of their masks, names with their folder's.

    Raises `UserError` as `find_subject`, and where they speak of more than one model or corpus and none is given.
    """
    labels = _labels(folders)
    hooks = {folder: None if (folder / "run.yaml").exists() else hook for folder in folders}  # a run has its own
    subjects = [
        find_subject(folder, model=model, corpus=corpus, hook=hooks[folder], hook_out=hook_out, transcoders=True)
        for folder in folders
    ]
    _require_one("model", "--model NAME", labels, [subject.model.name for subject in subjects])
    _require_one("corpus", "--corpus SOURCE", labels, [subject.corpus.source for subject in subjects])
    named = [_named(label, subject, folder) for label, subject, folder in zip(labels, subjects, folders, strict=True)]
    first = next((subject for subject in named if subject.split == "held_out"), named[0])
    lengths = {subject.sequence_length for subject in named}
    if len(lengths) > 1:
        say(f"sequences of {min(lengths)} tokens, the shortest of {', '.join(map(str, sorted(lengths)))}")
    saes: dict[str, dict[str, Dictionary]] = {}
    for subject in named:
        for at, of_hook in subject.saes.items():
            saes.setdefault(at, {}).update(of_hook)
    splits = dict.fromkeys(subject.split for subject in named)
    by_split = {
        split: [label for label, subject in zip(labels, named, strict=True) if subject.split == split]
        for split in splits
    }
    said = "; ".join(f"{split} ({', '.join(of)})" for split, of in by_split.items())
    return replace(
        first,
        saes=saes,
        checkpoints={name: path for subject in named for name, path in subject.checkpoints.items()},
        sequence_length=min(lengths),
        trained=tightest([subject.trained for subject in named]),
        split=next(iter(splits)) if len(splits) == 1 else said,
        fits=any(subject.fits for subject in named),
        notes=tuple(note for subject in named for note in subject.notes),
        processed=tuple(dict.fromkeys(done for subject in named for done in subject.processed)),
        made={name: made for subject in named for name, made in subject.made.items()},
    )


def _named(label: str, subject: Subject, folder: Path) -> Subject:
    """The subject with names that tell its dictionaries from those of other folders."""
    names = [name for saes in subject.saes.values() for name in saes]
    called = {name: label if len(names) == 1 else f"{label}: {name}" for name in names}
    return replace(
        subject,
        saes={at: {called[name]: sae for name, sae in saes.items()} for at, saes in subject.saes.items()},
        checkpoints={called[name]: str(folder / path) for name, path in subject.checkpoints.items()},
        made={called[name]: made for name, made in subject.made.items()},
    )


def _labels(folders: Sequence[Path]) -> list[str]:
    """The end of each path that no other has. Raises `UserError` for one that is given twice."""
    parts = [folder.resolve().parts for folder in folders]
    for folder, own in zip(folders, parts, strict=True):
        if parts.count(own) > 1:
            raise UserError(f"{folder} is given twice; give each folder once")
    found = []
    for own in parts:
        n = next(n for n in range(1, len(own) + 1) if sum(other[-n:] == own[-n:] for other in parts) == 1)
        found.append("/".join(own[-n:]))
    return found


def _require_one(what: str, flag: str, labels: Sequence[str], values: Sequence[str]) -> None:
    if len(set(values)) > 1:
        said = "; ".join(f"{label}: {value}" for label, value in zip(labels, values, strict=True))
        raise UserError(f"they were trained on more than one {what} ({said:.300}); give {flag} for all of them")
