"""Documents as token ids, whichever kind they are; with chats, also which tokens become activations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, islice, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from unmix.config.corpus import SourceConfig
from unmix.corpus.content import Chat, Content, Ids
from unmix.corpus.documents import Document
from unmix.corpus.given_ids import LOOKED_AT, GivenIds
from unmix.corpus.streams import Marks
from unmix.corpus.templates import Span, Template
from unmix.errors import UserError

BATCH_CHARACTERS = 1_000_000  # enough to keep the tokenizer's threads busy, little enough to hold


class Piece(NamedTuple):
    """One document in the tokens of the model."""

    ids: NDArray[np.uint32]
    """Its separator included."""
    kept: NDArray[np.bool_] | None
    """Which become activations; None: all of them."""
    bytes: int
    """UTF-8 bytes of its text; 0 where it was given as ids."""


class Encoder:
    """From documents to ids, for one source."""

    def __init__(self, config: SourceConfig, tokenizer: Any, marks: Marks, largest: int) -> None:
        self.config, self.tokenizer, self.marks, self.largest = config, tokenizer, marks, largest
        self.given: GivenIds | None = None
        self.roles: set[str] = set()
        """Those that the chats have so far."""

    def look(self, found: Iterator[Document], say: Callable[[str], None]) -> Iterator[Document]:
        """The same documents; of token ids, the first are looked at, and what is to be known of them is said."""
        first = next(found)
        if not isinstance(first.content, Ids):
            return chain([first], found)
        rows = [first, *islice(found, LOOKED_AT - 1)]
        ids = [row.content for row in rows if isinstance(row.content, Ids)]
        self.given = GivenIds(ids, self.tokenizer, self.marks, self.largest, self.config.packed)
        say(self.given.remark)
        return chain(rows, found)

    def pieces(self, contents: Iterator[Content], size: Callable[[], int]) -> Iterator[Piece]:
        """Each document's ids. Text is tokenized in batches of `size()` characters; no more is drawn than that takes.

        Raises `UserError` for ids and chats that cannot be read, naming file and row.
        """
        first = next(contents, None)
        if first is None:
            return
        contents = chain([first], contents)
        if isinstance(first, str):
            yield from self._of_texts(contents, size)  # type: ignore[arg-type]
        elif isinstance(first, Chat):
            yield from self._of_chats(contents, size)  # type: ignore[arg-type]
        else:
            yield from self._of_ids(contents)  # type: ignore[arg-type]

    def _of_texts(self, texts: Iterator[str], size: Callable[[], int]) -> Iterator[Piece]:
        backend = plain(self.tokenizer)
        for batch in batches(texts, size):
            for text, encoding in zip(batch, backend.encode_batch_fast(batch, add_special_tokens=False), strict=True):
                ids = np.array([*encoding.ids, self.marks.separator], dtype=np.uint32)
                yield Piece(ids, None, len(text.encode()))

    def _of_ids(self, documents: Iterator[Ids]) -> Iterator[Piece]:
        assert self.given is not None
        for document in documents:
            ids = self.given.ids(document)
            if len(ids):
                yield Piece(ids, None, 0)

    def _of_chats(self, chats: Iterator[Chat], size: Callable[[], int]) -> Iterator[Piece]:
        template = Template(self.tokenizer, self.config)
        as_text, with_specials = plain(self.tokenizer), plain(self.tokenizer)
        with_specials.encode_special_tokens = False
        specials = tuple(str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special)
        written: list[Chat] = []  # of the texts drawn so far, those that are not yet given out

        def texts() -> Iterator[str]:
            for chat in chats:
                text = template.write(chat).encode("utf-8", "replace").decode("utf-8")
                if text.strip():
                    written.append(chat)
                    yield text

        for batch in batches(texts(), size):
            found = [*written]
            written.clear()
            for text, chat, encoding in zip(
                batch, found, with_specials.encode_batch(batch, add_special_tokens=False), strict=True
            ):
                self.roles |= {message["role"] for message in chat.messages}
                spelled = any(s in (m["content"] or "") for m in chat.messages for s in specials)
                spans = template.spans(chat, text) if spelled or self.config.masks else []
                if spelled:  # a message that spells a special token is no reason for one
                    ids, offsets = _in_parts(text, spans, as_text, with_specials)
                else:
                    ids, offsets = encoding.ids, encoding.offsets
                yield self._piece(ids, self._kept(offsets, spans), len(text.encode()))

    def _kept(self, offsets: list[tuple[int, int]], spans: list[Span]) -> NDArray[np.bool_] | None:
        """Which tokens become activations: those that lie in a content that counts, and the template's if they do."""
        if not self.config.masks:
            return None
        offsets_T2 = np.array(offsets).reshape(-1, 2)
        kept_T = np.full(len(offsets_T2), self.config.counts_template)
        for first, last, role in spans:
            inside_T = (offsets_T2[:, 0] >= first) & (offsets_T2[:, 1] <= last) & (offsets_T2[:, 0] < last)
            kept_T[inside_T] = not self.config.roles or role in self.config.roles
        return kept_T

    def _piece(self, ids: list[int], kept: NDArray[np.bool_] | None, size: int) -> Piece:
        """A chat's ids with one separator behind them, and without a BOS before them: rows begin with one."""
        found = np.array(ids, dtype=np.uint32)
        first = 0
        while first < len(found) and found[first] == self.marks.bos:
            first += 1
        last = len(found)
        while last > first and found[last - 1] == self.marks.separator:
            last -= 1
        ended = np.append(found[first:last], np.uint32(self.marks.separator))
        if kept is None:
            return Piece(ended, None, size)
        of_separator = kept[last] if last < len(found) else self.config.counts_template
        return Piece(ended, np.append(kept[first:last], of_separator), size)


def plain(tokenizer: Any) -> Tokenizer:
    """A copy of the tokenizer that reads special tokens as text, adds none, and neither cuts nor pads."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise UserError(
            f"the tokenizer {tokenizer.name_or_path} has no fast form (tokenizer.json); "
            "convert it with AutoTokenizer.from_pretrained(…).save_pretrained(…)"
        )
    copy = Tokenizer.from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    copy.encode_special_tokens = True  # the library's name for: split them like any text
    return copy


def batches(texts: Iterator[str], size: Callable[[], int]) -> Iterator[list[str]]:
    """Texts of `size()` characters together, or a little more; at least one each."""
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= size():
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _in_parts(
    text: str, spans: list[Span], as_text: Tokenizer, with_specials: Tokenizer
) -> tuple[list[int], list[tuple[int, int]]]:
    """(ids, offsets): contents as plain text, what the template wrote with its special tokens."""
    ids: list[int] = []
    offsets: list[tuple[int, int]] = []
    edges = [0, *(edge for span in spans for edge in (span.first, span.last)), len(text)]
    for number, (first, last) in enumerate(pairwise(edges)):
        backend = as_text if number % 2 else with_specials
        found = backend.encode(text[first:last], add_special_tokens=False)
        ids += found.ids
        offsets += [(first + a, first + b) for a, b in found.offsets]
    return ids, offsets
