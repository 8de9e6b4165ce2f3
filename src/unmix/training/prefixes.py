"""Prefixes of the features that are drawn anew for each step, in place of fixed ones."""

from __future__ import annotations

import torch


def draw(features: int, count: int, key: int) -> tuple[int, ...]:
    """`count` different sizes m below F, p(m) ∝ 1/m, rising, and F behind them. A pure function of its arguments."""
    sizes = torch.arange(1, features)
    chosen = torch.multinomial(1 / sizes, count, generator=torch.Generator().manual_seed(key))
    return (*sorted(sizes[chosen].tolist()), features)
