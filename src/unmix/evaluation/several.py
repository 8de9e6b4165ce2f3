"""Several folders as one subject: their dictionaries side by side, on one model and the same tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unmix.config import CorpusConfig
from unmix.config.corpus import SourceConfig
from unmix.dictionary.model import Dictionary
from unmix.errors import UserError
from unmix.evaluation.subject import NO_KEYS, Subject, find_subject, tightest

_FINGERPRINT = "model.fingerprint"  # of the weights


def find_subjects(
    folders: Sequence[Path],
    say: Callable[[str], None],
    *,
    model: str | None,
    corpus: str | None,
    hook: str | None,
    hook_out: str | None = None,
    corpus_keys: Mapping[str, Any] = NO_KEYS,
) -> Subject:
    """All of them in one: sequences as long as the shortest, the tightest of their masks, names with their folder's.

    The corpus is held out as the smallest fraction of those that unmix trained does it. In what else their models and
    corpora differ is said, a line each, and the first one's is taken.

    Raises `UserError` as `find_subject`, where they speak of more than one model or corpus and none is given, where
    some are of sequences without a BOS and others are not, and for a hook if all of them are runs.
    """
    labels = _labels(folders)
    hooks = {folder: None if (folder / "run.yaml").exists() else hook for folder in folders}  # a run has its own
    if hook is not None and not any(hooks.values()):
        raise UserError(f"--hook {hook}: all of these are runs, whose members have their hooks; leave --hook out")
    subjects = [
        find_subject(folder, model=model, corpus=corpus, hook=hooks[folder], hook_out=hook_out, corpus_keys=corpus_keys)
        for folder in folders
    ]
    _require_one("model", "--model NAME", labels, [subject.model.name for subject in subjects])
    _require_one("corpus", "--corpus SOURCE", labels, [subject.corpus.source for subject in subjects])
    _require_one_beginning(labels, subjects)
    named = [_named(label, subject, folder) for label, subject, folder in zip(labels, subjects, folders, strict=True)]
    ours = {label: subject for label, subject in zip(labels, named, strict=True) if subject.split == "held_out"}
    first = next(iter(ours.values()), named[0])
    _say_differences(ours, say)
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
        corpus=_corpus_of_all(ours, first, say),
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


def _require_one_beginning(labels: Sequence[str], subjects: Sequence[Subject]) -> None:
    without = [label for label, subject in zip(labels, subjects, strict=True) if not subject.prepend_bos]
    if 0 < len(without) < len(labels):
        raise UserError(
            f"trained on sequences without a BOS (prepend_bos: false): {', '.join(without):.300}; the others were not: "
            "no sequences are right for both, so evaluate them apart"
        )


def _require_one(what: str, flag: str, labels: Sequence[str], values: Sequence[str]) -> None:
    if len(set(values)) > 1:
        said = "; ".join(f"{label}: {value}" for label, value in zip(labels, values, strict=True))
        raise UserError(f"they were trained on more than one {what} ({said:.300}); give {flag} for all of them")


def _corpus_of_all(ours: Mapping[str, Subject], first: Subject, say: Callable[[str], None]) -> CorpusConfig:
    """The first one's at the smallest held-out fraction: what it holds out, larger ones hold out too."""
    fractions = {label: subject.corpus.held_out_fraction for label, subject in ours.items()}
    least = min(fractions.values(), default=first.corpus.held_out_fraction)
    if len(set(fractions.values())) > 1:
        each = "; ".join(f"{label}: {fraction:g}" for label, fraction in fractions.items())
        say(f"corpus.held_out_fraction = {least:g}, the smallest ({each}): none was trained on what that holds out")
    return first.corpus.model_copy(update={"held_out_fraction": least})


def _say_differences(ours: Mapping[str, Subject], say: Callable[[str], None]) -> None:
    """A line for each key that differs where it is known, beside what is required to be one or is settled apart."""
    known = {label: _keys(subject) for label, subject in ours.items()}
    for key in dict.fromkeys(key for keys in known.values() for key in keys):
        values = {label: _said(keys[key]) for label, keys in known.items() if key in keys}
        if len(set(values.values())) > 1:
            each = "; ".join(f"{label}: {value}" for label, value in values.items())
            taken = "the model of that name" if key == _FINGERPRINT else f"that of {next(iter(values))}"
            say(f"{key} differs ({each:.300}); {taken} is taken for all")


def _keys(subject: Subject) -> dict[str, Any]:
    """What activations and documents depend on, beside the names of model and corpus and the held-out fraction."""
    corpus = subject.corpus
    found: dict[str, Any] = {"model.dtype": subject.model.dtype, "corpus.max_tokens": corpus.max_tokens}
    if subject.model_fingerprint is not None:
        found[_FINGERPRINT] = subject.model_fingerprint
    for _, part in corpus.parts:
        of = f" of {part.source}" if corpus.sources else ""
        found |= {f"corpus.{key}{of}": getattr(part, key) for key in SourceConfig.model_fields if key != "source"}
    return found


def _said(value: Any) -> str:
    if value is None or value == []:
        return "not given"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
