"""What a run will read, said before it begins: how much, how often, and the first row as the model will see it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from unmix.config import CorpusConfig
from unmix.corpus import hub
from unmix.corpus.tokens import Tokens
from unmix.disk import at_home

_SHOWN = 12  # tokens of the first row
LONG, MANY = 200_000_000, 20
"""Bytes of text that take minutes to tokenize; and, for each activation that is read, far more than the 5 it needs."""
LEAST = 1_000_000
"""Tokens that are read in any case: they take seconds, and a short run that is extended has something to read."""
FOREIGN = 0.8
"""Share of ln V above which ids are taken for another tokenizer's. The embedded model pays 0.53 ln V on Python's
library, 1.2 and 1.4 ln V where its ids are shifted by 17 or permuted; guessing by frequency alone pays 0.78."""


def plan(tokens: Tokens, tokenizer: Any, read: int) -> list[str]:
    """Two lines: documents, tokens, and how many times over `read` activations read them; the first row's tokens."""
    bos = repr(tokenizer.decode([tokens.bos_id]))
    if bos_stand_in(tokenizer, tokens) is not None:
        bos += f", which stands in for a BOS: {_own_bos(tokenizer)}"
    n, T = tokens.ids_NT.shape
    kept = tokens.activations
    of_which = "" if tokens.kept_NT is None else f" ({kept:,} of them, {kept / (n * T):.1%}, become activations)"
    unit = "documents" if tokens.documents != 1 else "document"
    said = (
        f"plan: {tokens.documents:,} {unit}, {n * T:,} tokens for training{of_which}; {read:,} activations are read, "
        f"{read / kept:.2g} epochs; every row begins with {bos}"
    )
    first = [tokenizer.decode([int(i)]) for i in tokens.ids_NT[0, :_SHOWN]]
    shown = [repr(token) for token in first]
    if tokens.kept_NT is not None:
        shown = [token if kept else f"({token})" for token, kept in zip(shown, tokens.kept_NT[0, :_SHOWN], strict=True)]
    more = " …" if T > _SHOWN else ""
    left_out = "; those in brackets are read and left out" if tokens.kept_NT is not None else ""
    return [said, f"the first row: {' '.join(shown)}{more}{left_out}"]


def bounded(corpus: CorpusConfig, read: int, T: int) -> tuple[CorpusConfig, str]:
    """(the corpus of a new run of `read` activations, a line of what that means): where a source is far longer than the
    run needs, the corpus ends after as many tokens of a split as the run reads, and at least `LEAST`, in whole
    sequences of T.

    Far longer is a dataset of the hub, of which nobody knows how long it is, or a folder or file of at least `LONG`
    bytes and `MANY` bytes for each activation. The line is empty where nothing changes. Of chats, some tokens become no
    activations, and nobody knows how many: these are read to their end, and the line says so.
    """
    what = far_longer(corpus, read)
    if corpus.max_tokens is not None or not what:
        return corpus, ""
    most = -(-max(read, LEAST) // T) * T
    if corpus.any_masks:
        line = f"{what}, is read to its end; this run reads {read:,} activations: --corpus.max_tokens N ends it sooner"
        return corpus, line
    line = (
        f"{what}, is read no further than to {most:,} tokens of a split, as this run reads {read:,} activations; "
        "a larger --corpus.max_tokens reads more"
    )
    return corpus.model_copy(update={"max_tokens": most}), line


def far_longer(corpus: CorpusConfig, read: int) -> str:
    """A source of the corpus and its length, if it is far longer than `read` activations need; empty if none is."""
    return next((long for _, part in corpus.parts if (long := _far_longer(part.source, read))), "")


def _far_longer(source: str, read: int) -> str:
    if source.startswith(hub.PREFIX):
        return "" if hub.named(source).folder is not None else f"{source}, of unknown length"
    there = _bytes(at_home(Path(source)))
    return f"{source}, {there / 1e9:.1f} GB" if there >= max(LONG, MANY * read) else ""


def _bytes(source: Path) -> int:
    """Of a file, or of all files below a folder; 0 where there is none."""
    files = source.rglob("*") if source.is_dir() else [source]
    return sum(path.stat().st_size for path in files if path.is_file())


def doubt_of_ids(tokens: Tokens, loss: float, vocabulary: int) -> str:
    """A warning where token ids that were given cost the model more than `FOREIGN` ln V nats each; else empty."""
    bound = FOREIGN * math.log(vocabulary)
    if not tokens.given or loss <= bound:
        return ""
    return (
        f"warning: these token ids are probably another tokenizer's: the model pays {loss:.2f} nats for each, more "
        f"than {FOREIGN:g} ln {vocabulary:,} = {bound:.2f}; give the ids of its own tokenizer, or the text"
    )


def facts_of_corpus(tokens: Tokens) -> dict[str, Any]:
    """What run.yaml says of a corpus beyond its size: only what it has.

    `revision` (the commit that was read of a dataset on the hub), `activations` (tokens that become activations, where
    some do not), `token_ids` (true: given as ids), `sources` (of several: `source`, `share`, `documents`, `tokens`,
    `revision`).
    """
    found = {
        "revision": tokens.commits[0] if len(tokens.commits) == 1 else None,
        "activations": None if tokens.kept_NT is None else tokens.activations,
        "token_ids": tokens.given or None,
        "sources": [facts._asdict() for facts in tokens.sources] or None,
    }
    return {key: value for key, value in found.items() if value is not None}


def bos_stand_in(tokenizer: Any, tokens: Tokens) -> str | None:
    """The token that rows begin with, where it is not the tokenizer's own BOS; None where it is.

    Activations behind it may not be those of the model's usual sequences, which begin with the BOS or with the text.
    """
    own = tokenizer.bos_token
    if own is not None and tokenizer.convert_tokens_to_ids(own) == tokens.bos_id:
        return None
    return str(tokenizer.convert_ids_to_tokens(tokens.bos_id))


def _own_bos(tokenizer: Any) -> str:
    if tokenizer.bos_token is None:
        return "the tokenizer has none"
    return f"the tokenizer's own, {tokenizer.bos_token!r}, marks turns of a chat"
