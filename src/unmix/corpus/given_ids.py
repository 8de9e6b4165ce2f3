"""Token ids that somebody else made, brought to the form that text is tokenized to.

    a document   leading BOS and padding off, trailing separators and padding off, one separator behind it
    packed rows  pieces of one stream: the BOS off that stands before every row, nothing put between them

so that BOS stands once, at the head of each row that the model reads, and a document is told by its separator. What was
found in the first rows is said in a line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unmix.corpus.content import Ids
from unmix.corpus.streams import Marks
from unmix.errors import UserError

LOOKED_AT = 64  # rows that decide whether the data are packed
_SPECIALS_NAMED = 4


class GivenIds:
    """How the ids of one source are read, from its first rows."""

    def __init__(self, first: Sequence[Ids], tokenizer: Any, marks: Marks, largest: int, packed: bool | None) -> None:
        """Raises `UserError` if one of these rows has an id that the tokenizer has not."""
        self.marks, self.largest = marks, largest
        self.name = str(tokenizer.name_or_path) or "the model"
        pad = tokenizer.pad_token_id
        self.padding = {*marks, *([] if pad is None else [int(pad)])}
        for row in first:
            self._check(row)
        rows = [row.ids for row in first if not row.of_stream]
        lengths = {len(row) for row in rows}
        self.fixed = len(rows) > 1 and len(lengths) == 1 and lengths != {1}
        padded = any(self._is_padded(row) or self._is_padded(row[:0:-1]) for row in rows)
        self.packed = self.fixed and not padded if packed is None else packed
        self.with_bos = all(row.ids[0] == marks.bos for row in first)
        self.remark = self._said(first, lengths, padded, tokenizer)

    def ids(self, document: Ids) -> NDArray[np.uint32]:
        """Its ids, without a BOS before them; with the separator behind them if a document ends there.

        Empty for a document of nothing but padding. Raises `UserError`, naming file and row, for an id that the
        tokenizer has not.
        """
        self._check(document)
        ids = np.asarray(document.ids).astype(np.uint32)
        if self.packed:
            return ids[1:] if self.with_bos and ids[0] == self.marks.bos else ids
        inside = np.flatnonzero(~np.isin(ids, list(self.padding)))
        if not len(inside):
            return ids[:0]
        begins, ends = int(inside[0]), int(inside[-1]) + 1
        return np.append(ids[begins:ends], np.uint32(self.marks.separator)) if document.ended else ids[begins:]

    def _is_padded(self, row: NDArray[Any]) -> bool:
        """Whether it ends with the same mark twice. From the left, without the first id: a row may begin with a BOS."""
        return len(row) > 1 and int(row[-1]) in self.padding and bool(row[-1] == row[-2])

    def _check(self, document: Ids) -> None:
        low, high = int(document.ids.min()), int(document.ids.max())
        if low < 0 or high > self.largest:
            raise UserError(
                f"{document.where} holds the id {low if low < 0 else high}, and those of the tokenizer of {self.name} "
                f"go from 0 to {self.largest}; these ids are another tokenizer's: give its model, or the text"
            )

    def _said(self, first: Sequence[Ids], lengths: set[int], padded: bool, tokenizer: Any) -> str:
        bos, separator = (repr(tokenizer.decode([i])) for i in self.marks)
        if self.packed:
            length = f"of {lengths.pop():,}" if len(lengths) == 1 else "of several lengths"
            said = [
                f"rows {length} ids are read as pieces of one stream, joined end to end and cut anew "
                "(--corpus.packed false: each is a document)"
            ]
            if self.with_bos:
                said.append(f"the {bos} before each of them is not doubled")
            if not any(self.marks.separator in row.ids[1:] for row in first):
                said.append(f"no {separator} stands in the first of them: document boundaries are not known")
        else:
            said = ["token ids are read as documents" + (", without their padding" if padded else "")]
            if self.with_bos:
                said.append(f"the {bos} before each of them is not doubled")
            if not any(row.ids[-1] == self.marks.separator for row in first):
                said.append(f"{separator} is put between them")
        special = {int(i) for i in tokenizer.all_special_ids} - self.padding
        counts = Counter(int(i) for row in first for i in row.ids[np.isin(row.ids, list(special))])
        if counts:
            named = [f"{tokenizer.decode([i])!r} ({n:,})" for i, n in counts.most_common(_SPECIALS_NAMED)]
            said.append(f"special tokens among the first: {', '.join(named)}")
        return "; ".join(said)
