"""The one pass of the model: every activation of every member, over held-out sequences, as Parquet shards.

    tokens/shard-00000.parquet          token u32, seq u32, pos u16, id u32, document u32
    norms/HOOK/shard-00000.parquet      token, norm f32, deviation f32, masked bool, of transcoders target f32
    acts/MEMBER/shard-00000.parquet     feature u16|u32, token u32, act f32        sorted by (feature, token)
    errors/MEMBER/shard-00000.parquet   token, err f32, l0 u32

With R tokens in all, token = seq · T + pos counts from 0 over sequences in the fixed random order of `tokens.sample`,
the one that an evaluation takes; norm = ||x||, deviation = ||y - μ||², err = ||y - ŷ||², and y = x but of transcoders,
whose y is read at another hook: then target = ||y||. μ, the mean of y, and the median ||x|| that the mask measures by
are those of the first `HEAD_SEQUENCES` sequences, as in an evaluation. Tokens that are `masked`, position 0 among them
where it is a BOS, count in no number that does not say so; their values are kept.

A shard is 65,536 tokens in whole sequences. No batch crosses a shard, so that a build that was killed writes the same
values when it is resumed. Where a member is active so often that its entries would fill the memory, its shard has
several parts (`shard-00000-1.parquet`), each of tokens behind those of the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmix.activations.mask import Mask, longer
from unmix.config import OUTLIER, MaskConfig
from unmix.corpus.tokens import Tokens, documents_of, special_ids
from unmix.dictionary.model import Dictionary
from unmix.disk import replacing, sha256
from unmix.evaluation.memory import HEAD_SEQUENCES, pieces
from unmix.explore.duck import Columns, write_parquet
from unmix.lm.model import LanguageModel

SHARD_TOKENS = 65_536
PENDING = 2**25  # entries that wait to be written, 10 bytes each and as much again while they are sorted
Say = Callable[[str], None]


@dataclass(frozen=True)
class Pass:
    """What goes through what."""

    model: LanguageModel
    tokens: Tokens
    rows_S: NDArray[np.int64]
    """Rows of `tokens.ids_NT`, in the order of the store."""
    saes: dict[str, dict[str, Dictionary]]
    """hook -> member -> SAE."""
    mask: MaskConfig
    batch_sequences: int
    outs: Mapping[str, str] = field(default_factory=dict)
    """hook -> where y is read, of those whose dictionaries are transcoders."""

    @property
    def hooks(self) -> list[str]:
        """Every hook that is read."""
        return list(dict.fromkeys([*self.saes, *self.outs.values()]))

    def out(self, hook: str) -> str:
        """Where the y of its dictionaries is read: there, but of transcoders."""
        return self.outs.get(hook, hook)

    @property
    def T(self) -> int:
        """Tokens a sequence."""
        return int(self.tokens.ids_NT.shape[1])

    @property
    def shard_sequences(self) -> int:
        """Sequences a shard."""
        return max(1, SHARD_TOKENS // self.T)

    @property
    def shards(self) -> int:
        return -(-len(self.rows_S) // self.shard_sequences)

    def ids(self, first: int, last: int) -> Tensor:
        """ids of sequences first … last - 1 of the store, int64."""
        return torch.from_numpy(self.tokens.ids_NT[self.rows_S[first:last]].astype(np.int64))


@dataclass(frozen=True)
class Head:
    """What is measured of a hook before anything is counted."""

    leaves: Mask
    mean_E: Tensor
    """μ of y, over tokens whose x is no outlier."""


def measure_heads(job: Pass) -> dict[str, Head]:
    """hook -> its mask and mean, over the first sequences; an evaluation measures the same."""
    times = job.mask.norm_above or OUTLIER
    ids_NT = job.ids(0, HEAD_SEQUENCES)
    job.model.check_contributions(ids_NT[:1], job.hooks)
    special = special_ids(job.model.tokenizer, job.tokens)

    def read(hook: str) -> Tensor:
        parts = torch.split(ids_NT, job.batch_sequences)
        return torch.cat([job.model.activations(part, [hook])[hook].flatten(0, 1) for part in parts])

    found = {}
    with torch.no_grad():
        for hook in job.saes:  # one at a time: several would all lie in memory
            x_BD = read(hook)
            norm_B = torch.cat([part.double().norm(dim=1) for part in torch.split(x_BD, 4096)])
            median = norm_B.median().item()
            y_BE = x_BD if job.out(hook) == hook else read(job.out(hook))
            mean_E = y_BE[~longer(norm_B, times * median)].mean(0)
            found[hook] = Head(Mask(job.mask, special, median), mean_E)
    return found


def write_shard(job: Pass, heads: dict[str, Head], number: int, folder: Path) -> dict[str, Any]:
    """Write shard `number` and answer its entry of the manifest: first token, tokens, entries, files with checksums."""
    first = number * job.shard_sequences
    last = min(first + job.shard_sequences, len(job.rows_S))
    writer = _Writer(folder, number, {n: sae.features for saes in job.saes.values() for n, sae in saes.items()})
    tokens: list[dict[str, NDArray[Any]]] = []
    norms: dict[str, list[dict[str, NDArray[Any]]]] = {hook: [] for hook in job.saes}
    errors: dict[str, list[dict[str, NDArray[Any]]]] = {name: [] for name in writer.features}
    document_ST = documents_of(job.model.tokenizer, job.tokens, job.rows_S[first:last])
    with torch.no_grad():
        for start in range(first, last, job.batch_sequences):
            end = min(start + job.batch_sequences, last)
            ids_NT = job.ids(start, end)
            token_B = np.arange(start * job.T, end * job.T, dtype=np.uint32)
            tokens.append(_tokens(ids_NT, token_B, document_ST[start - first : end - first]))
            found = {hook: x_NTD.flatten(0, 1) for hook, x_NTD in job.model.activations(ids_NT, job.hooks).items()}
            for hook, saes in job.saes.items():
                x_BD, y_BE = found[hook], found[job.out(hook)]
                norms[hook].append(_norms(x_BD, y_BE, ids_NT, token_B, heads[hook], job.tokens.skip))
                if hook in job.outs:
                    norms[hook][-1]["target"] = _lengths(y_BE)
                for name, sae in saes.items():
                    errors[name].append(_encode(sae, x_BD, y_BE, token_B, name, writer))
    writer.flush()
    writer.write("tokens", _joined(tokens))
    for hook, rows in norms.items():
        writer.write(f"norms/{hook}", _joined(rows))
    for name, rows in errors.items():
        writer.write(f"errors/{name}", _joined(rows))
    return {
        "shard": number,
        "first_token": first * job.T,
        "tokens": (last - first) * job.T,
        "entries": writer.entries,
        "files": writer.files,
    }


def _tokens(ids_NT: Tensor, token_B: NDArray[np.uint32], document_NT: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    T = ids_NT.shape[1]
    return {
        "token": token_B,
        "seq": (token_B // T).astype(np.uint32),
        "pos": (token_B % T).astype(np.uint16 if T <= 2**16 else np.uint32),
        "id": ids_NT.numpy().ravel().astype(np.uint32),
        "document": document_NT.ravel().astype(np.uint32),
    }


def _norms(
    x_BD: Tensor, y_BE: Tensor, ids_NT: Tensor, token_B: NDArray[np.uint32], head: Head, skip: int
) -> dict[str, NDArray[Any]]:
    kept_NT = head.leaves.keeps(ids_NT, x_BD.view(*ids_NT.shape, -1))
    kept_NT[:, :skip] = False
    return {
        "token": token_B,
        "norm": _lengths(x_BD),
        "deviation": (y_BE.double() - head.mean_E.double()).square().sum(1).float().numpy(),
        "masked": ~kept_NT.flatten().numpy(),
    }


def _lengths(x_BD: Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = x_BD.double().norm(dim=1).float().numpy()
    return found


def _encode(
    sae: Dictionary, x_BD: Tensor, y_BE: Tensor, token_B: NDArray[np.uint32], name: str, writer: _Writer
) -> dict[str, NDArray[Any]]:
    """Give the active entries of a batch to the writer; answer error and L0 of each token."""
    err_B, l0_B = np.empty(len(x_BD), np.float32), np.empty(len(x_BD), np.uint32)
    for at in pieces(len(x_BD), sae.features):
        f_bF = sae.encode(x_BD[at])
        error_bE = sae.decode(f_bF, x_BD[at]).double() - y_BE[at].double()
        err_B[at] = error_bE.square().sum(1).float().numpy()
        f = f_bF.numpy()
        row_n, feature_n = f.nonzero()
        l0_B[at] = np.bincount(row_n, minlength=len(f))
        writer.add(name, feature_n, token_B[at][row_n], f[row_n, feature_n])
    return {"token": token_B, "err": err_B, "l0": l0_B}


class _Writer:
    """The files of one shard; entries wait, member by member, until they are many."""

    def __init__(self, folder: Path, number: int, features: dict[str, int]) -> None:
        self.folder, self.number, self.features = folder, number, features
        self.files: dict[str, str] = {}
        self.entries = dict.fromkeys(features, 0)
        self._parts = dict.fromkeys(features, 0)
        self._waiting: dict[str, list[tuple[NDArray[Any], ...]]] = {name: [] for name in features}

    def add(self, name: str, feature_n: NDArray[Any], token_n: NDArray[Any], act_n: NDArray[Any]) -> None:
        narrow = np.uint16 if self.features[name] <= 2**16 else np.uint32
        self._waiting[name].append((feature_n.astype(narrow), token_n, act_n))
        self.entries[name] += len(act_n)
        while sum(map(_size, self._waiting.values())) > PENDING:
            self._flush(max(self._waiting, key=lambda name: _size(self._waiting[name])))

    def flush(self) -> None:
        """Write what waits; a member without an entry has an empty file."""
        for name, waiting in self._waiting.items():
            if waiting or not self._parts[name]:
                self._flush(name)

    def _flush(self, name: str) -> None:
        feature_n, token_n, act_n = (np.concatenate(column) for column in zip(*self._waiting[name], strict=True))
        self._waiting[name] = []
        order_n = np.argsort(feature_n, kind="stable")  # tokens come in order
        columns = {"feature": feature_n[order_n], "token": token_n[order_n], "act": act_n[order_n]}
        self.write(f"acts/{name}", columns, self._parts[name])
        self._parts[name] += 1

    def write(self, where: str, columns: Columns, part: int = 0) -> None:
        path = f"{where}/shard-{self.number:05d}{f'-{part}' if part else ''}.parquet"
        with replacing(self.folder / path) as new:
            write_parquet(new, columns)
        self.files[path] = sha256(self.folder / path)


def _size(waiting: list[tuple[NDArray[Any], ...]]) -> int:
    return sum(len(columns[0]) for columns in waiting)


def _joined(rows: list[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def missing_shards(job: Pass, finished: list[dict[str, Any]]) -> Iterator[int]:
    """Numbers of the shards that are not there."""
    there = {shard["shard"] for shard in finished}
    return (number for number in range(job.shards) if number not in there)
