"""Token sequences of one split, tokenized once and then memory-mapped.

    ids of a split = document, separator, document, separator, …        separator: EOS, else BOS
    ids_NT[n]      = BOS, then the next T - 1 of them                   the last, partial row is dropped

With `bos=False` rows hold no BOS, but T of these ids: dictionaries of other libraries may have been trained so.

Where a chat model's tokenizer gives a mark of turns for either (`<|im_start|>`, `<|eot_id|>`), the mark of documents
that it was pretrained with stands in (`<|endoftext|>`, `<|end_of_text|>`): SmolLM2-135M-Instruct pays 0.01 to 0.12
nats a token less after it (records/2026-11-26_smollm2-first).

Text never yields a special token: a document that spells `<|endoftext|>` gives ordinary tokens for it. A chat yields
those of its template, and token ids stay as they are (`given_ids.py`).

They are kept in `<cache>/tokens/` (`token_files.py`), under a key that hashes the state of the source (`state.py`), the
tokenizer, T, max_tokens, how documents are read, and the version of unmix. What is opened is checked against its
fingerprint first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unmix import __version__
from unmix.cache import cache_folder
from unmix.config import CorpusConfig
from unmix.corpus import encode, token_files
from unmix.corpus.content import Content
from unmix.corpus.documents import Document, Say, documents, silent
from unmix.corpus.encode import Encoder, Piece
from unmix.corpus.encode import plain as plain
from unmix.corpus.packing import Count, counted, first, interleaved, largest_id, rows, turns
from unmix.corpus.split import is_held_out
from unmix.corpus.state import state_of
from unmix.corpus.streams import Marks
from unmix.corpus.templates import template_text
from unmix.errors import UserError

Split = Literal["train", "held_out"]
Progress = Callable[[int], None]
_ROWS_AT_ONCE = 4096
READING = 2
"""How documents are read: tokens cached by another way are made again. 2: CRLF is a line feed, and a byte order mark is
no text, alone as in a folder."""


class SourceFacts(NamedTuple):
    """What was read of one of several sources."""

    source: str
    share: float
    """Of the rows, as the weights ask; which rows are its own, `packing.turns` tells."""
    documents: int
    tokens: int
    """Those of its rows."""
    revision: str | None


@dataclass(frozen=True)
class Tokens:
    """The sequences of one split."""

    ids_NT: np.memmap[Any, np.dtype[Any]]
    """uint16 or uint32, read-only; column 0 is `bos_id`, with `bos`."""
    split: Split
    documents: int
    """Documents read; the last may be cut by max_tokens or by the end of the last row. Of packed ids, their rows."""
    bytes: int
    """UTF-8 bytes of those documents; those that were given as token ids count none."""
    fingerprint: str
    """16 hex digits of SHA-256 over format, shape and ids: the same sequences, the same fingerprint."""
    bos_id: int
    remarks: tuple[str, ...] = ()
    """What was said of the source when it was read: files that were passed over, splits that were not read."""
    kept_NT: NDArray[np.bool_] | None = None
    """Which tokens become activations; None: all of them."""
    given: bool = False
    """Whether any of it was read as token ids, which may be another tokenizer's."""
    commits: tuple[str | None, ...] = ()
    """Of each source, the revision on the hub that was read; None for what is not there. Empty if none is."""
    sources: tuple[SourceFacts, ...] = ()
    """Of several sources."""
    counted: str = ""
    """Which tokens become activations, in words; empty: all of them."""
    bos: bool = True
    """Whether rows begin with `bos_id`."""

    @property
    def skip(self) -> int:
        """Positions at the start of a row that no evaluation counts: its BOS is one and the same in every row."""
        return int(self.bos)

    @property
    def activations(self) -> int:
        """Tokens that become activations."""
        return int(self.ids_NT.size if self.kept_NT is None else np.count_nonzero(self.kept_NT))


def load_tokens(
    config: CorpusConfig,
    tokenizer: Any,
    sequence_length: int,
    split: Split,
    progress: Progress | None = None,
    say: Say = silent,
    bos: bool = True,
) -> Tokens:
    """ids_NT of `split` with T = `sequence_length`, from the cache if they are there.

    `tokenizer` is a fast one of `transformers`; it is not changed. `max_tokens` bounds N·T, and not much more is read
    than that takes. While tokenizing, `progress` is called with the tokens so far. `say` is given what is to be known
    of the source, one line each, whether it is read or cached. `bos`: whether each row begins with one.

    Raises `UserError` for what `documents` does, for a tokenizer that is slow or has neither BOS nor EOS, for ids that
    it has not, for chats without a template, and for a split with less than one whole sequence.
    """
    T, parts = sequence_length, config.parts
    marks = markers(tokenizer)
    backend = plain(tokenizer)
    limit = None if config.max_tokens is None else config.max_tokens // T
    if limit == 0:
        raise UserError(
            f"corpus.max_tokens = {config.max_tokens} is less than one sequence; "
            f"give at least activations.sequence_length = {T}"
        )
    largest = largest_id(tokenizer)
    width = 2 if largest < 2**16 else 4
    template = _hash_of_templates(config, tokenizer)
    states = [state_of(part.source, part.revision) for _, part in parts]
    about = [token_files.FORMAT, READING, __version__, token_files.hash_of(backend.to_str()), *marks, width, T]
    about += [config.source, config.settled.field, config.held_out_fraction, config.max_tokens, split]
    about += [states[0].key if not config.sources else [state.key for state in states], *_how(config)]
    about += [] if bos else ["no BOS"]  # rows with one keep their key
    about += _padding(tokenizer, marks)
    stem = cache_folder() / "tokens" / token_files.hash_of(json.dumps(about))[:32]
    cached = _open(stem, split, template, config.counted)
    for state in states:
        if state.doubt:
            which = f"revision {state.commit}" if state.commit else "an unknown revision"
            say(f"{state.doubt}; {'reading' if cached is None else 'using the cached tokens of'} {which}")
    if config.any_masks and split == "held_out":
        say(f"of chats, training counts {config.counted}; the other tokens are read too")
    if cached is not None:
        for line in cached.remarks:
            say(line)
        return cached
    if stem.with_suffix(".json").exists():
        say(f"the cached tokens in {stem}.bin are damaged, or of another chat template, so they are made again")

    remarks: list[str] = []

    def remark(text: str) -> None:
        remarks.append(text)
        say(text)

    counts = [Count(part.source, share) for share, part in parts]
    encoders = [Encoder(part, tokenizer, marks, largest) for _, part in parts]
    wanted = None if limit is None else limit * (T - int(bos))

    def check(sequences: int, kept: int) -> None:
        if not sequences:
            tokens, read = sum(count.tokens for count in counts), sum(count.documents for count in counts)
            raise UserError(
                f"the {split} split of corpus.source = {config.source} has {tokens} tokens in {read} "
                f"documents, less than one sequence; give more or smaller documents, another "
                f"corpus.held_out_fraction, or an activations.sequence_length below {T}"
            )
        if not kept:
            there = ", ".join(sorted(set().union(*(encoder.roles for encoder in encoders))))
            raise UserError(
                f"no token of corpus.source = {config.source} becomes an activation; its chats have the roles {there}; "
                "name some of these in corpus.roles, or leave it out"
            )

    def description() -> dict[str, Any]:
        for line in _said_of_sources(counts, T) if config.sources else ():
            remark(line)
        found: dict[str, Any] = {
            "documents": sum(count.documents for count in counts),
            "bytes": sum(count.bytes for count in counts),
            "bos_id": marks.bos,
        }
        more = {
            "remarks": remarks,
            "masked": config.any_masks,
            "template": template if any(encoder.roles for encoder in encoders) else None,
            "given": any(encoder.given is not None for encoder in encoders),
            "without_bos": not bos,
            "commits": [state.commit for state in states] if any(state.commit for state in states) else [],
            "sources": [
                [c.source, c.share, c.documents, c.rows * T, s.commit] for c, s in zip(counts, states, strict=True)
            ]
            if config.sources
            else [],
        }
        return found | {key: value for key, value in more.items() if value}

    with ExitStack() as stack:
        sources = []
        for (_, part), state, encoder, count in zip(parts, states, encoders, counts, strict=True):
            found = stack.enter_context(closing(documents(part, remark, state.commit, marks)))
            pieces = _encoded(found, encoder, remark, config.held_out_fraction, split, count, wanted)
            sources.append(rows(counted(pieces, count), marks.bos if bos else None, T, config.any_masks))
        drawn = first(limit, interleaved(sources, counts, remark))
        token_files.write(
            stem,
            drawn,
            width=width,
            T=T,
            masked=config.any_masks,
            progress=lambda sequences: progress(sequences * T) if progress is not None else None,
            about=description,
            check=check,
        )
    made = _open(stem, split, template, config.counted)
    if made is None:
        raise UserError(f"{stem}.bin changed while it was written; run again with another UNMIX_CACHE")
    return made


def _how(config: CorpusConfig) -> list[Any]:
    """What else of the recipe decides the tokens; nothing for text, so that its cached tokens keep their key."""
    parts = [part for _, part in config.parts]
    keys = [part.model_dump(mode="json", exclude={"held_out_fraction", "max_tokens", "revision"}) for part in parts]
    if not config.sources:
        keys = [{key: value for key, value in keys[0].items() if key not in ("source", "field")}]
    return [keys] if any(keys) else []


def _padding(tokenizer: Any, marks: Marks) -> list[Any]:
    """What else is taken for padding of token ids (`GivenIds`); tokenizer.json does not say it."""
    pad = tokenizer.pad_token_id
    return [] if pad is None or int(pad) in marks else ["pad", int(pad)]


def _hash_of_templates(config: CorpusConfig, tokenizer: Any) -> str:
    """What chats are written with; texts do not depend on it, so that it is no part of the key."""
    own = [template_text(part) for _, part in config.parts]
    return token_files.hash_of(json.dumps([getattr(tokenizer, "chat_template", None), own]))[:16]


def _encoded(
    found: Iterator[Document],
    encoder: Encoder,
    say: Say,
    fraction: float,
    split: Split,
    count: Count,
    wanted: int | None,
) -> Iterator[Piece]:
    """The documents of one source that are of this split, in tokens.

    Where only so many tokens are `wanted` of all sources, a batch has no more characters than tokens are missing: a
    token has several, so that little more is read than is needed.
    """

    def size() -> int:
        most = encode.BATCH_CHARACTERS
        return most if wanted is None else min(most, max(1, round(wanted * count.share) - count.tokens))

    def of_split() -> Iterator[Content]:
        for document in encoder.look(found, say):
            if is_held_out(document.key, fraction) == (split == "held_out"):
                yield document.content

    yield from encoder.pieces(of_split(), size)


def _said_of_sources(counts: list[Count], T: int) -> list[str]:
    whole = sum(count.rows for count in counts) or 1
    return [
        f"{count.source}: {count.documents:,} documents, {count.rows * T:,} tokens, {count.rows / whole:.1%} "
        f"({count.share:.1%} asked for)"
        for count in counts
    ]


def _open(stem: Path, split: Split, template: str, counted: str) -> Tokens | None:
    """The cached sequences of this split, if they are as they were written; chats, if with this template."""
    stored = token_files.read(stem)
    if stored is None or stored.about.get("template", template) != template:
        return None
    about = stored.about
    try:
        return Tokens(
            stored.ids_NT,
            split,
            about["documents"],
            about["bytes"],
            about["fingerprint"],
            about["bos_id"],
            tuple(about.get("remarks", ())),
            stored.kept_NT,
            bool(about.get("given")),
            tuple(about.get("commits", ())),
            tuple(SourceFacts(*facts) for facts in about.get("sources", ())),
            counted,
            not about.get("without_bos"),
        )
    except (KeyError, TypeError):
        return None


_TURNS = ("<|im_start|>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")
_DOCUMENTS = ("<|endoftext|>", "<|end_of_text|>", "<eos>", "</s>")


def markers(tokenizer: Any) -> Marks:
    """(bos_id, separator_id); each stands in for the other where there is only one."""
    bos, eos = (_of_documents(tokenizer, token) for token in (tokenizer.bos_token, tokenizer.eos_token))
    if bos is None and eos is None:
        raise UserError(
            f"the tokenizer {tokenizer.name_or_path} has neither a BOS nor an EOS token; "
            "set bos_token in its tokenizer_config.json"
        )
    first, last = (eos if bos is None else bos), (bos if eos is None else eos)
    return Marks(first, last)  # type: ignore[arg-type]


def _of_documents(tokenizer: Any, token: str | None) -> int | None:
    """The id of a BOS or EOS; of the mark of documents, where the token is one of turns and there is such a mark."""
    if token in _TURNS:
        special = {str(special): int(i) for i, special in tokenizer.added_tokens_decoder.items()}
        token = next((mark for mark in _DOCUMENTS if mark in special), token)
    return None if token is None else int(tokenizer.convert_tokens_to_ids(token))


def sample(sequences: int) -> NDArray[np.int64]:
    """A fixed random order of so many sequences: in the order of the corpus, the first of them are of one book."""
    return np.random.default_rng(0).permutation(sequences)


def documents_of(tokenizer: Any, tokens: Tokens, rows_n: NDArray[np.int64]) -> NDArray[np.int64]:
    """document_nT: which document of the split each token of these rows is of, counted from 0.

    A separator belongs to the document that it ends; text never yields one, so that documents are found by it. Among
    token ids, a BOS within a row begins one, too. The BOS at the start of a row has the number of the token behind it.
    """
    marks = markers(tokenizer)
    shares, N = [facts.share for facts in tokens.sources], len(tokens.ids_NT)
    source_N = np.fromiter(islice(turns(shares), N), int) if shares else np.zeros(N, int)
    next_N = np.full(N, marks.separator, tokens.ids_NT.dtype)  # what comes next in the stream of a row's source
    for source in range(max(1, len(shares))) if marks.bos != marks.separator else ():
        own = np.flatnonzero(source_N == source)
        next_N[own[:-1]] = tokens.ids_NT[own[1:], tokens.skip]
    ends_in_N = np.zeros(N, dtype=np.int64)
    for start in range(0, N, _ROWS_AT_ONCE):
        at = slice(start, start + _ROWS_AT_ONCE)
        ends_in_N[at] = _ends(tokens.ids_NT[at], next_N[at], marks, tokens.skip).sum(1)
    ended_N = np.zeros(N, dtype=np.int64)  # documents of all sources before it, and of its own before it
    before = 0
    for source in range(max(1, len(shares))):
        own = source_N == source
        ended_N[own] = before + ends_in_N[own].cumsum() - ends_in_N[own]
        before += int(ends_in_N[own].sum()) + 1  # the last of a source need not end
    ends_nT = _ends(tokens.ids_NT[rows_n], next_N[rows_n], marks, tokens.skip)
    return ended_N[rows_n, None] + ends_nT.cumsum(1) - ends_nT  # type: ignore[no-any-return]


def _ends(ids_nT: NDArray[Any], next_n: NDArray[Any], marks: Marks, skip: int) -> NDArray[np.bool_]:
    """Which tokens end a document: separators, and what stands before a BOS that is no row's own, unless one does.

    `next_n` comes behind the rows.
    """
    ends_nT: NDArray[np.bool_] = ids_nT == marks.separator
    ends_nT[:, :skip] = False
    if marks.bos != marks.separator:
        after_nT = np.concatenate([ids_nT[:, skip + 1 :], next_n[:, None]], 1)
        ends_nT[:, skip:] |= after_nT == marks.bos
    return ends_nT


def special_ids(tokenizer: Any, tokens: Tokens) -> list[int]:
    """The tokenizer's special tokens, those at the start of sequences and between documents among them."""
    return sorted({int(i) for i in tokenizer.all_special_ids} | {tokens.bos_id, *markers(tokenizer)})
