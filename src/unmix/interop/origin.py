"""What a file says of its dictionary, and what was done to bring it to the normal form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from unmix.dictionary.model import Dictionary
from unmix.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What the folder, its name and its configuration say; only `metrics` is measured here. None: they do not say."""

    format: str
    """Who writes such files: `SAELens`, `Gemma Scope` …"""
    architecture: str
    """What the format calls it."""
    version: str | None = None
    """Of the library that wrote it."""
    model: str | None = None
    """The language model."""
    hook: str | None = None
    """Where x was read: ours where we have the name (`resid_post.3`), else theirs."""
    hook_out: str | None = None
    """Where y was read, if it is another place: then it is a transcoder, and ŷ is no x̂."""
    head: int | None = None
    """The head whose x alone was read, where the hook has one vector for each; None: all of them."""
    positions: tuple[int | None, ...] | None = None
    """The tokens of a sequence that were read, as the arguments of `slice`; None: all of them."""
    transcoder: bool = False
    """Whether ŷ is meant to be something else than x, even where `hook_out` is not known."""
    context: int | None = None
    """Tokens a sequence."""
    prepend_bos: bool | None = None
    """Whether sequences began with a BOS."""
    without_special: bool = False
    """Whether special tokens were left out of training."""
    corpus: str | None = None
    """The text that it was trained on: a path, or a name on the hub."""
    training_tokens: int | None = None
    """How many tokens; in files of SAELens, how many were to be."""
    step: int | None = None
    """Updates made, of a checkpoint of ours."""
    asked: Mapping[str, float] = field(default_factory=dict, hash=False)
    """What the training was asked for: `l0`, active features a token, or `l1`, the coefficient."""
    metrics: Mapping[str, float] = field(default_factory=dict, hash=False)
    """What its run measured, by the names of `run.evaluation()`, or of `run.metrics()` if it was not evaluated."""
    metrics_of: str | None = None
    """Which of the two: `held_out (evaluation.json)`, or `training, step 5,000 (metrics.jsonl)`."""
    l0: float | None = None
    """Active features a token that it claims."""
    explained_variance: float | None = None
    """What it claims."""
    processed: tuple[str, ...] = ()
    """What TransformerLens did to the model before the training: `center_writing_weights`, `fold_ln`."""
    folded: tuple[str, ...] = ()
    """What was brought into the weights, so that raw x goes in and raw ŷ comes out."""
    notes: tuple[str, ...] = ()
    """What its user should know."""

    def __repr__(self) -> str:
        """Only what is known, and of `metrics` how many there are."""
        found = {one.name: (getattr(self, one.name), one.default) for one in fields(self)}
        said = {name: repr(value) for name, (value, usual) in found.items() if value not in (None, (), {}, usual)}
        if self.metrics:
            said["metrics"] = f"<{len(self.metrics)} numbers>"
        return f"Origin({', '.join(f'{name}={value}' for name, value in said.items())})"

    def metadata(self, longest: float | None = None) -> dict[str, Any]:
        """What is known of the training, by the names of cfg.json's `metadata`, beside the model, the hooks and the
        tokens a sequence. `longest`: that of the dictionary."""
        known = {
            "hook_head_index": self.head,
            "seqpos_slice": None if self.positions is None else list(self.positions),
            "prepend_bos": self.prepend_bos,
            "exclude_special_tokens": True if self.without_special else None,
            "model_from_pretrained_kwargs": dict.fromkeys(self.processed, True) or None,
            "mask": None if longest is None else {"longer_than": longest},
            "dataset_path": self.corpus,
            "training_tokens": self.training_tokens,
            "target_l0": self.asked.get("l0"),
            "l1": self.asked.get("l1"),
            "l0": self.l0,
            "explained_variance": self.explained_variance,
        }
        return {name: value for name, value in known.items() if value is not None}

    def require_all_heads(self, what: str) -> None:
        """Raises `UserError` if it reads one head alone, which no hook of unmix is. `what`: it, for the message."""
        if self.head is not None:
            raise UserError(
                f"{what} reads head {self.head} of {self.hook} alone, and no hook of unmix is a single head; give the "
                "path of a module that gives that head by itself as the hook, or read it with SAELens"
            )

    def line(self, dictionary: Dictionary) -> str:
        """`SAELens 6.54.12, topk: 24,576 features of 768 (resid_pre.8, gpt2)`."""
        who = " ".join(filter(None, (self.format, self.version)))
        E = dictionary.W_dec.shape[1]
        wide = f"{dictionary.width:,}" + (f" -> {E:,}" if self.transcoder else "")
        places = [self.hook or "hook not named", *([self.hook_out or "hook not named"] if self.transcoder else [])]
        return (
            f"{who}, {self.architecture}: {dictionary.features:,} features of {wide} "
            f"({' -> '.join(places)}, {self.model or 'model not named'})"
        )


class Reading(NamedTuple):
    """A dictionary in the normal form, and where it comes from."""

    dictionary: Dictionary
    origin: Origin
