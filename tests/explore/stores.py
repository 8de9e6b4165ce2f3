"""Stores of made-up activations, kept dense beside the files; and slow twins of what is derived from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unmix.explore import manifest
from unmix.explore.draw import hashes
from unmix.explore.duck import write_parquet
from unmix.explore.store import Store, Text, extents, open_store

HOOK, MEMBER = "resid_post.0", "l0-5"
DEAD, ALWAYS, ONE_TOKEN, TIES, ONE_SEQUENCE, MASKED_ONLY, ONE_FIRING = range(7)  # features; behind them random ones


@dataclass(frozen=True)
class World:
    """Every activation f of R tokens and F features, and what is known of the tokens."""

    T: int
    f_RF: np.ndarray
    id_R: np.ndarray
    document_R: np.ndarray
    norm_R: np.ndarray
    masked_R: np.ndarray

    @property
    def text(self) -> Text:
        first_R, last_R = extents(self.document_R, self.T)
        deviation_R = (self.norm_R + 1).astype(np.float32)
        return Text(self.T, self.id_R, first_R, last_R, self.norm_R, deviation_R, ~self.masked_R)

    def entries(self, feature: int) -> tuple[np.ndarray, np.ndarray]:
        token_n = np.flatnonzero(self.f_RF[:, feature])
        return token_n, self.f_RF[token_n, feature]


def make_world(seed: int, sequences: int = 40, T: int = 12, features: int = 14, vocabulary: int = 9) -> World:
    """With a dead feature, one that is always on, one of a single token, ties, one sequence, masked tokens only …"""
    rng = np.random.default_rng(seed)
    R = sequences * T
    f_RF = np.where(rng.random((R, features)) < rng.uniform(0.02, 0.4, features), rng.exponential(1, (R, features)), 0)
    id_R = rng.integers(1, vocabulary, R)
    id_R[::T] = 0
    masked_R = rng.random(R) < 0.05
    masked_R[::T] = True
    f_RF[:, DEAD] = 0
    f_RF[:, ALWAYS] = rng.exponential(1, R) + 0.1
    f_RF[:, ONE_TOKEN] = np.where((id_R == 3) & (rng.random(R) < 0.7), rng.exponential(1, R), 0)
    f_RF[:, TIES] = rng.integers(0, 3, R) / 2
    f_RF[:, ONE_SEQUENCE] = 0
    f_RF[1:T, ONE_SEQUENCE] = rng.integers(1, 4, T - 1)
    f_RF[:, MASKED_ONLY] = np.where(masked_R, 1.5, 0)
    f_RF[:, ONE_FIRING] = 0
    f_RF[np.flatnonzero(~masked_R)[0], ONE_FIRING] = 2.5
    document_R = np.cumsum(rng.random(R) < 0.1)
    norm_R = rng.integers(5, 60, R).astype(np.float32)  # ties
    return World(T, f_RF.astype(np.float32), id_R, document_R, norm_R, masked_R)


def write_store(
    world: World, folder: Path, shard_sequences: int, parts: int = 1, order: list[int] | None = None
) -> Store:
    """The world as a store; the manifest lists the shards in this order."""
    T, R = world.T, len(world.id_R)
    starts = list(range(0, R, shard_sequences * T))
    shards = []
    for number in order or range(len(starts)):
        first, last = starts[number], min(R, starts[number] + shard_sequences * T)
        token = np.arange(first, last, dtype=np.uint32)
        l0 = np.count_nonzero(world.f_RF[first:last], axis=1).astype(np.uint32)
        deviation = world.text.deviation_R[first:last]
        files = {
            f"tokens/shard-{number:05d}.parquet": {
                "token": token, "seq": token // T, "pos": (token % T).astype(np.uint16),
                "id": world.id_R[first:last].astype(np.uint32),
                "document": world.document_R[first:last].astype(np.uint32),
            },
            f"norms/{HOOK}/shard-{number:05d}.parquet": {
                "token": token, "norm": world.norm_R[first:last], "deviation": deviation,
                "masked": world.masked_R[first:last],
            },
            f"errors/{MEMBER}/shard-{number:05d}.parquet": {"token": token, "err": deviation / 3, "l0": l0},
        }  # fmt: skip
        for part, rows in enumerate(np.array_split(np.arange(first, last), parts)):
            feature_n, at_n = world.f_RF[rows].T.nonzero()
            files[f"acts/{MEMBER}/shard-{number:05d}{f'-{part}' if part else ''}.parquet"] = {
                "feature": feature_n.astype(np.uint16),
                "token": rows[at_n].astype(np.uint32),
                "act": world.f_RF[rows[at_n], feature_n],
            }
        for path, columns in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            write_parquet(folder / path, columns)
        where = {"shard": number, "first_token": first, "tokens": last - first}
        shards.append({**where, "files": dict.fromkeys(files, "")})
    inputs = {
        "sequences": R // T,
        "sequence_length": T,
        "members": {MEMBER: {"hook": HOOK, "features": world.f_RF.shape[1], "checkpoint": "."}},
    }
    made = manifest.begin(folder, inputs, {})
    made["shards"] = shards
    manifest.write_json(folder / manifest.FILE, made)
    return open_store(folder)


# the slow twins: one feature, token by token


def counted(world: World, feature: int) -> list[tuple[int, float]]:
    """(token, |f|) of the firings that count."""
    return [
        (t, abs(float(world.f_RF[t, feature])))
        for t in range(len(world.id_R))
        if world.f_RF[t, feature] != 0 and not world.masked_R[t]
    ]


def top(world: World, feature: int) -> list[int]:
    best: dict[int, tuple[float, int]] = {}
    for t, a in counted(world, feature):
        s = t // world.T
        if s not in best or a > best[s][0]:
            best[s] = (a, t)
    return [t for _, t in sorted(best.values(), key=lambda row: (-row[0], row[1]))][:20]


def drawn(feature: int, tokens: list[int], seed: int = 0) -> list[int]:
    return sorted(tokens, key=lambda t: int(hashes(seed, feature, t)[0]))


def band(world: World, feature: int, edges: list[float], b: int) -> tuple[float, float, list[int]]:
    """(share of firings, of mass, the first four drawn) of the values in (edges[b], edges[b + 1]]."""
    rows = counted(world, feature)
    inside = [(t, a) for t, a in rows if edges[b] < a <= edges[b + 1]]
    mass = math.fsum(a for _, a in inside) / math.fsum(a for _, a in rows)
    return len(inside) / len(rows), mass, drawn(feature, [t for t, _ in inside])[:4]


def mass_cut(world: World, feature: int, share: float) -> float:
    """The smallest value up to which the values hold this share of the mass."""
    rows = counted(world, feature)
    total = math.fsum(a for _, a in rows)
    return min(c for _, c in rows if math.fsum(a for _, a in rows if a <= c) >= share * total * (1 - 1e-12))


def share_where(world: World, feature: int, holds: np.ndarray) -> float:
    """The share of Σ|f| over every token on those for which it holds."""
    a_R = np.abs(world.f_RF[:, feature].astype(np.float64))
    return float(a_R[holds].sum() / a_R.sum())


def window(world: World, peak: int, before: int, after: int) -> tuple[int, int]:
    """(first, last) token around the peak within its document and sequence, step by step."""
    first = last = peak

    def same(t: int) -> bool:
        inside = 0 <= t < len(world.id_R) and t // world.T == peak // world.T
        return inside and world.document_R[t] == world.document_R[peak]

    while peak - first < before and same(first - 1):
        first -= 1
    while last - peak < after and same(last + 1):
        last += 1
    return first, last
