"""Samples of a synthetic world, as batches to train on and to judge by: batch s is a pure function of (seed, split, s).

`synthetic_world` says what a sample is: N features, D width, R rank; n counts the active features of a batch. Given ε
the features are independent, so a child needs to be drawn only where its parent is active. What is left to draw for
every token, the roots and the features that stand alone, is a third of all; it goes a tile of tokens at a time, with
one random byte for each, and more digits only where the byte leaves it open. At the published size (N 16,384, D 768,
34 active) that is 0.3 MFLOP and 5,632 random bytes a token, and 0.05 MFLOP for the sum of directions; the encoder's
product of one dictionary is 6.3.

No result depends on the number of threads: draws come from one generator in one order, ε and the factors have so few
digits that sums of their products are exact, and each token's x is summed by one thread.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from unmix.activations.stream import NO_WIDTHS, Batch, gather
from unmix.activations.synthetic_world import World, normal_quantile
from unmix.kernels.find import Code

HOOK = "synthetic"
"""What the activations are called where the name of a hook is wanted."""
Split = Literal["train", "fit", "held_out"]
_SPLITS: dict[Split, int] = {"train": 6, "fit": 7, "held_out": 8}  # what a generator is for
_HEAD_TOKENS = 8192  # that means and norms are measured on before training
_TILE = 256  # tokens
_EPS_DIGITS = np.float32(2**9)  # ε is in multiples of 1/_EPS_DIGITS
_LEAST = normal_quantile(np.arange(256) / 256).astype(np.float32)
"""The least that Φ⁻¹(u) can be, by the first byte of u."""


class Samples:
    """A `Source` of one hook."""

    target_widths = NO_WIDTHS

    def __init__(self, world: World, *, batch_tokens: int, seed: int, split: Split = "train") -> None:
        self.world, self.batch_tokens, self.seed, self.split = world, batch_tokens, seed, split
        self.widths = {HOOK: world.config.width}
        self.chunk_tokens = batch_tokens
        self.size = sys.maxsize
        """No activation is read twice."""

    def truth(self, step: int) -> tuple[Tensor, Code]:
        """(x_BD, which features are in it and how strongly) of batch number `step`."""
        rng = np.random.default_rng([self.seed, _SPLITS[self.split], step])
        code = draw(self.world, self.batch_tokens, rng)
        return mix(self.world, code), code

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """As `Source.batches`."""
        for step in range(first, last):
            yield self._batch(step)

    def head(self) -> Batch:
        """As `Source.head`: the first 8,192 tokens, or the first batch where that is more."""
        B, tokens = self.batch_tokens, max(_HEAD_TOKENS, self.batch_tokens)
        return gather(lambda number, start, end: _rows(self._batch(number), start, end), B, 0, tokens)

    def _batch(self, step: int) -> Batch:
        nothing_B = torch.zeros(self.batch_tokens, dtype=torch.int64)
        return Batch({HOOK: self.truth(step)[0]}, nothing_B, nothing_B)


def mix(world: World, code: Code) -> Tensor:
    """x = Σ a_i d_i + b, (B, D)."""
    features_n, starts_B = torch.from_numpy(code.features_N), torch.from_numpy(code.starts_B1[:-1])
    values_n = torch.from_numpy(code.values_N)
    x_BD = embedding_bag(features_n, world.directions_ND, starts_B, mode="sum", per_sample_weights=values_n)
    return x_BD.add_(world.bias_D)


def draw(world: World, tokens: int, rng: np.random.Generator) -> Code:
    """The features of so many tokens: int64 starts and features, float32 values, all above 0."""
    tiles = []
    for first in range(0, tokens, _TILE):
        of_tile = _tile(world, min(_TILE, tokens - first), rng)
        tiles.append(of_tile._replace(token_n=of_tile.token_n + first))
    active = _join(tiles)
    order_n = np.argsort(active.token_n * world.config.features + active.feature_n)
    starts_B1 = np.zeros(tokens + 1, np.int64)
    starts_B1[1:] = np.bincount(active.token_n, minlength=tokens).cumsum()
    return Code(starts_B1, active.feature_n[order_n], active.value_n[order_n])


class _Active(NamedTuple):
    """Active features of some tokens, in no order."""

    token_n: Any
    feature_n: Any
    value_n: Any

    def where(self, keep_n: Any) -> _Active:
        return _Active(*(each_n[keep_n] for each_n in self))


def _join(parts: Iterable[_Active]) -> _Active:
    return _Active(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def _tile(world: World, tokens: int, rng: np.random.Generator) -> _Active:
    """What is active in a few tokens: level after level of the trees, and what stands alone."""
    c = world.config
    eps_TR: Any = np.round(rng.standard_normal((tokens, c.rank), np.float32) * _EPS_DIGITS) / _EPS_DIGITS
    parents = _level(world, eps_TR, 0, c.roots, rng)
    found = [parents, _level(world, eps_TR, c.in_trees, c.features, rng)]
    for _ in range(c.depth):
        parents = _children(world, eps_TR, parents, rng)
        found.append(parents)
    return _join(found)


def _level(world: World, eps_TR: Any, first: int, last: int, rng: np.random.Generator) -> _Active:
    """Of features first … last - 1, those that are on: Φ⁻¹(u) < z = factor·ε + cut, u the byte and what follows it."""
    z_TA = eps_TR @ world.factor_NR[first:last].T
    z_TA += world.cut_N[first:last]
    byte_TA = rng.integers(256, size=z_TA.shape, dtype=np.uint8)
    maybe_n = np.flatnonzero(np.take(_LEAST, byte_TA, mode="clip") < z_TA)
    u_n = (byte_TA.ravel()[maybe_n] + rng.random(len(maybe_n))) / 256
    on_n = maybe_n[normal_quantile(u_n) < z_TA.ravel()[maybe_n]]
    token_n, feature_n = on_n // (last - first), on_n % (last - first) + first
    return _positive(_Active(token_n, feature_n, _strengths(world, feature_n, rng)))


def _children(world: World, eps_TR: Any, parents: _Active, rng: np.random.Generator) -> _Active:
    """The children of active parents: one of those that are on, or none. P parents, K children each."""
    c, token_P = world.config, parents.token_n
    child_PK = c.roots + c.branching * parents.feature_n[:, None] + np.arange(c.branching)
    z_PK = np.einsum("pr,pkr->pk", eps_TR[token_P], world.factor_NR[child_PK]) + world.cut_N[child_PK]
    on_PK = z_PK + rng.standard_normal(z_PK.shape, np.float32) > 0
    value_PK = _strengths(world, child_PK, rng) * on_PK
    lot_PK = np.where(value_PK > 0, rng.random(z_PK.shape, np.float32), -1)  # as likely one as another
    drawn_P1 = lot_PK.argmax(1)[:, None]
    child_P, value_P = (np.take_along_axis(of_PK, drawn_P1, 1)[:, 0] for of_PK in (child_PK, value_PK))
    return _positive(_Active(token_P, child_P, value_P * (parents.value_n / world.strength_N[parents.feature_n])))


def _strengths(world: World, feature: Any, rng: np.random.Generator) -> Any:
    """max(0, m_i + s_i ν)."""
    nu = rng.standard_normal(feature.shape, np.float32)
    return np.maximum(0, world.strength_N[feature] + world.spread_N[feature] * nu)


def _positive(found: _Active) -> _Active:
    return found.where(found.value_n > 0)


def _rows(batch: Batch, first: int, last: int) -> Batch:
    x = {hook: x_BD[first:last] for hook, x_BD in batch.activations.items()}
    return Batch(x, batch.token_ids_B[first:last], batch.positions_B[first:last])
