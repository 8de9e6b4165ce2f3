"""Token sequences of one split, tokenized once and then memory-mapped.

    ids of a split = document, separator, document, separator, …        separator: EOS, else BOS
    ids_NT[n]      = BOS, then the next T - 1 of them                   the last, partial row is dropped

Where a chat model's tokenizer gives a mark of turns for either (`<|im_start|>`, `<|eot_id|>`), the mark of documents
that it was pretrained with stands in (`<|endoftext|>`, `<|end_of_text|>`): SmolLM2-135M-Instruct pays 0.01 to 0.12
nats a token less after it (records/2026-11-26_smollm2-first).

Text never yields a special token: a document that spells `<|endoftext|>` gives ordinary tokens for it.

On disk, `<cache>/tokens/KEY.bin` is ids_NT row by row, little-endian uint16 (uint32 if the largest id needs it),
and `KEY.json` its description, written last. KEY hashes the state of the source (`state.py`), the tokenizer, T,
max_tokens, and the version of unmix. What is opened is checked against its fingerprint first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from unmix import __version__
from unmix.cache import cache_folder, written_whole
from unmix.config import CorpusConfig
from unmix.corpus.documents import Document, Say, documents, silent
from unmix.corpus.split import is_held_out
from unmix.corpus.state import state_of
from unmix.errors import UserError

Split = Literal["train", "held_out"]
Progress = Callable[[int], None]
_FORMAT = "unmix-tokens-v1"
_BATCH_CHARACTERS = 1_000_000  # enough to keep the tokenizer's threads busy, little enough to hold
_BLOCK = 2**20
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Tokens:
    """The sequences of one split."""

    ids_NT: np.memmap[Any, np.dtype[Any]]
    """uint16 or uint32, read-only; column 0 is `bos_id`."""
    split: Split
    documents: int
    """Documents read; the last may be cut by max_tokens or by the end of the last row."""
    bytes: int
    """UTF-8 bytes of those documents."""
    fingerprint: str
    """16 hex digits of SHA-256 over format, shape and ids: the same sequences, the same fingerprint."""
    bos_id: int
    remarks: tuple[str, ...] = ()
    """What was said of the source when it was read: files that were passed over, splits that were not read."""


def load_tokens(
    config: CorpusConfig,
    tokenizer: Any,
    sequence_length: int,
    split: Split,
    progress: Progress | None = None,
    say: Say = silent,
) -> Tokens:
    """ids_NT of `split` with T = `sequence_length`, from the cache if they are there.

    `tokenizer` is a fast one of `transformers`; it is not changed. `max_tokens` bounds N·T, and not much more is read
    than that takes. While tokenizing, `progress` is called with the tokens so far. `say` is given what is to be known
    of the source, one line each, whether it is read or cached. Raises `UserError` for what `documents` does, for a
    tokenizer that is slow or has neither BOS nor EOS, and for a split with less than one whole sequence.
    """
    bos_id, separator_id = markers(tokenizer)
    backend = plain(tokenizer)
    limit = None if config.max_tokens is None else config.max_tokens // sequence_length
    if limit == 0:
        raise UserError(
            f"corpus.max_tokens = {config.max_tokens} is less than one sequence; "
            f"give at least activations.sequence_length = {sequence_length}"
        )
    width = _width(tokenizer)
    state = state_of(config.source)
    about = [_FORMAT, __version__, _hash(backend.to_str()), bos_id, separator_id, width, sequence_length]
    about += [config.source, config.field, config.held_out_fraction, config.max_tokens, split, state.key]
    stem = cache_folder() / "tokens" / _hash(json.dumps(about))[:32]
    cached = _open(stem, split)
    if state.doubt:
        which = f"revision {state.commit}" if state.commit else "an unknown revision"
        say(f"{state.doubt}; {'reading' if cached is None else 'using the cached tokens of'} {which}")
    if cached is not None:
        for line in cached.remarks:
            say(line)
        return cached
    if stem.with_suffix(".json").exists():
        say(f"the cached tokens in {stem}.bin are damaged, so they are made again")

    seen = _Seen()

    def remark(text: str) -> None:
        seen.remarks.append(text)
        say(text)

    digest = _digest(width, sequence_length)
    with written_whole(stem.with_suffix(".bin")) as path:
        with path.open("wb") as file, closing(documents(config, remark, state.commit)) as found:
            wanted = None if limit is None else limit * (sequence_length - 1)
            ids = _ids(_of_split(found, config, split), backend, separator_id, seen, wanted)
            for rows_nT in _first(limit, _rows(ids, bos_id, sequence_length)):
                raw = _narrow(rows_nT, width).tobytes()
                file.write(raw)
                digest.update(raw)
                seen.sequences += len(rows_nT)
                if progress is not None:
                    progress(seen.sequences * sequence_length)
        if not seen.sequences:
            raise UserError(
                f"the {split} split of corpus.source = {config.source} has {seen.tokens} tokens in {seen.documents} "
                f"documents, less than one sequence; give more or smaller documents, another "
                f"corpus.held_out_fraction, or an activations.sequence_length below {sequence_length}"
            )
    description: dict[str, Any] = {
        "format": _FORMAT,
        "dtype": f"<u{width}",
        "shape": [seen.sequences, sequence_length],
        "documents": seen.documents,
        "bytes": seen.bytes,
        "fingerprint": digest.hexdigest()[:16],
        "bos_id": bos_id,
        **({"remarks": seen.remarks} if seen.remarks else {}),
    }
    description["sha256"] = _hash(json.dumps(description))
    with written_whole(stem.with_suffix(".json")) as path:
        path.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    made = _open(stem, split)
    if made is None:
        raise UserError(f"{stem}.bin changed while it was written; run again with another UNMIX_CACHE")
    return made


@dataclass
class _Seen:
    documents: int = 0
    bytes: int = 0
    tokens: int = 0
    sequences: int = 0
    remarks: list[str] = field(default_factory=list)


_TURNS = ("<|im_start|>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")
_DOCUMENTS = ("<|endoftext|>", "<|end_of_text|>", "<eos>", "</s>")


def markers(tokenizer: Any) -> tuple[int, int]:
    """(bos_id, separator_id); each stands in for the other where there is only one."""
    bos, eos = (_of_documents(tokenizer, token) for token in (tokenizer.bos_token, tokenizer.eos_token))
    if bos is None and eos is None:
        raise UserError(
            f"the tokenizer {tokenizer.name_or_path} has neither a BOS nor an EOS token; "
            "set bos_token in its tokenizer_config.json"
        )
    return (eos if bos is None else bos), (bos if eos is None else eos)  # type: ignore[return-value]


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

    A separator belongs to the document that it ends; text never yields one, so that documents are found by it. The
    leading token of a row has the number of the token behind it.
    """
    separator_id = markers(tokenizer)[1]
    ended_N = np.zeros(len(tokens.ids_NT) + 1, dtype=np.int64)  # documents that end before each row
    for start in range(0, len(tokens.ids_NT), _ROWS_AT_ONCE):
        block = tokens.ids_NT[start : start + _ROWS_AT_ONCE, 1:]
        ended_N[start + 1 : start + 1 + len(block)] = (block == separator_id).sum(1)
    ended_N = ended_N.cumsum()
    ends_nT = tokens.ids_NT[rows_n] == separator_id
    ends_nT[:, 0] = False
    return ended_N[rows_n, None] + ends_nT.cumsum(1) - ends_nT  # type: ignore[no-any-return]


def special_ids(tokenizer: Any, tokens: Tokens) -> list[int]:
    """The tokenizer's special tokens, those at the start of sequences and between documents among them."""
    return sorted({int(i) for i in tokenizer.all_special_ids} | {tokens.bos_id, *markers(tokenizer)})


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


def _of_split(found: Iterator[Document], config: CorpusConfig, split: Split) -> Iterator[str]:
    for document in found:
        if is_held_out(document.key, config.held_out_fraction) == (split == "held_out"):
            yield document.text


def _ids(
    texts: Iterator[str], backend: Tokenizer, separator_id: int, seen: _Seen, wanted: int | None
) -> Iterator[NDArray[np.uint32]]:
    """The ids of each text, separator included; tokenized in batches, counted as they are drawn.

    Where only so many ids are `wanted`, a batch has no more characters than ids are missing: a token has several, so
    that little more is read than is needed.
    """

    def size() -> int:
        return _BATCH_CHARACTERS if wanted is None else min(_BATCH_CHARACTERS, wanted - seen.tokens)

    for batch in _batches(texts, size):
        for text, encoding in zip(batch, backend.encode_batch_fast(batch, add_special_tokens=False), strict=True):
            seen.documents += 1
            seen.bytes += len(text.encode())
            ids = np.array([*encoding.ids, separator_id], dtype=np.uint32)
            seen.tokens += len(ids)
            yield ids


def _batches(texts: Iterator[str], size: Callable[[], int]) -> Iterator[list[str]]:
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


def _rows(ids: Iterator[NDArray[np.uint32]], bos_id: int, T: int) -> Iterator[NDArray[np.uint32]]:
    """[n, T] blocks, n ≥ 1: as many whole rows as the documents drawn so far fill."""
    pending: list[NDArray[np.uint32]] = []
    length = 0
    for document in ids:
        pending.append(document)
        length += len(document)
        n = length // (T - 1)
        if n:
            flat = np.concatenate(pending)
            rows_nT = np.full((n, T), bos_id, dtype=np.uint32)
            rows_nT[:, 1:] = flat[: n * (T - 1)].reshape(n, T - 1)
            pending, length = [flat[n * (T - 1) :]], length - n * (T - 1)
            yield rows_nT


def _first(limit: int | None, blocks: Iterator[NDArray[np.uint32]]) -> Iterator[NDArray[np.uint32]]:
    """The first `limit` rows, drawing no more blocks than they need."""
    left = limit
    for rows_nT in blocks:
        yield rows_nT if left is None else rows_nT[:left]
        if left is not None:
            left -= len(rows_nT)
            if left <= 0:
                return


def _width(tokenizer: Any) -> int:
    """Bytes of an id: 2 or 4, by the largest there is, which may be far above their count."""
    largest = max(len(tokenizer) - 1, *tokenizer.get_vocab().values())
    return 2 if largest < 2**16 else 4


def _narrow(rows_nT: NDArray[np.uint32], width: int) -> NDArray[Any]:
    """The rows as they are stored. Raises `UserError` rather than store another id."""
    stored = rows_nT.astype(f"<u{width}")
    if not np.array_equal(stored, rows_nT):
        raise UserError(
            f"the tokenizer gives the id {rows_nT.max()}, which its vocabulary does not have; mend its tokenizer.json"
        )
    return stored


def _digest(width: int, T: int) -> Any:
    """The beginning of the digest whose first 16 hex digits are the fingerprint; the rows follow."""
    return hashlib.sha256(json.dumps([_FORMAT, width, T]).encode())


def _open(stem: Path, split: Split) -> Tokens | None:
    """The cached sequences, or none if they or their description are absent, or not as they were written."""
    path = stem.with_suffix(".bin")
    try:
        about = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
        if about.pop("sha256") != _hash(json.dumps(about)):
            return None
        n, T = about["shape"]
        dtype = np.dtype(about["dtype"])
        if path.stat().st_size != n * T * dtype.itemsize:
            return None
        digest = _digest(dtype.itemsize, T)
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
        if digest.hexdigest()[:16] != about["fingerprint"]:
            return None
        ids_NT = np.memmap(path, dtype=dtype, mode="r", shape=(n, T))
        counts = about["documents"], about["bytes"]
        return Tokens(ids_NT, split, *counts, about["fingerprint"], about["bos_id"], tuple(about.get("remarks", ())))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
