"""How long the activations of a hook are, and which tokens are the longest; from arrays alone.

**The top 1 %** of R tokens are exactly ⌈R / 100⌉ of them: the last ones in order of ||x||, where of two equal norms the
earlier token counts as the shorter. So it is the same set however often it is made, and 1 % of planted tokens fill it.

For a set S of tokens (a token kind, a place, a range of positions), with the top 1 % T and the median over all tokens:

    share of top    |S ∩ T| / |T|
    lift            (|S ∩ T| / |T|) / (|S| / R)          1: no more often in the top 1 % than anywhere
    mean / median   mean of ||x|| over S / median of ||x||

A set is called a sink if all three pass the thresholds below.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]
Flags = npt.NDArray[np.bool_]
Decode = Callable[[int], str]

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
BINS, BIN = 60, 1.04  # at least so many bins, and none wider than this ratio
NAMED = 12  # token kinds listed a hook
SINGLE = 4  # leading positions that have a row of their own; then the ranges double
SINK_NORM, SINK_LIFT, SINK_SHARE = 1.2, 2.0, 0.02  # a sink's mean / median, lift and share of the top 1 % are above
MASK = "none: the BOS at position 0 is counted"
EVERY_ROW = "none: every activation is counted"


def mask_said(*, bos: bool, counted: str) -> str:
    """What is said of numbers that no mask changes. `bos`: whether sequences begin with one; `counted`: which tokens
    become activations, if not all do (a BOS at position 0 does not then)."""
    if counted:
        return f"none; as in training, only these tokens are counted: {counted}"
    return MASK if bos else "none: sequences have no BOS, and every position is counted"


def distribution(
    norms: Mapping[str, Floats],
    ids_R: Ints,
    positions_R: Ints,
    *,
    bos_id: int,
    decode: Decode,
    split: str,
    mask: str = MASK,
) -> dict[str, Any]:
    """What `norms.json` holds: hook -> norms of the same R tokens, counted on bins that all hooks share."""
    edges = log_edges(min(float(n.min()) for n in norms.values()), max(float(n.max()) for n in norms.values()))
    texts: dict[int, str] = {}  # a token is decoded once for all hooks

    def decoded(kind: int) -> str:
        if kind not in texts:
            texts[kind] = decode(kind) if kind >= 0 else ""  # a BOS that is none of these tokens
        return texts[kind]

    return {
        "tokens": int(ids_R.size),
        "split": split,
        "mask": mask,
        "edges": edges.tolist(),
        "hooks": {
            hook: of_hook(norm_R, ids_R, positions_R, bos_id=bos_id, decode=decoded, edges=edges)
            for hook, norm_R in norms.items()
        },
    }


def log_edges(low: float, high: float) -> npt.NDArray[np.float64]:
    """Edges of bins, equal on a log scale, that hold every norm from `low` to `high`."""
    low, high = max(low, 1e-6) * 0.999, max(high, 2e-6) * 1.001
    bins = max(BINS, math.ceil(math.log(high / low) / math.log(BIN)))
    return np.geomspace(low, high, bins + 1)


def top_count(tokens: int) -> int:
    """⌈tokens / 100⌉, in whole numbers: 0.01 · 700 is above 7 in floating point."""
    return -(-tokens // 100)


def by_length(norm_R: Floats) -> npt.NDArray[np.int64]:
    """The tokens from short to long; of two equal norms the earlier is the shorter."""
    return np.argsort(norm_R, kind="stable")


def of_hook(
    norm_R: Floats, ids_R: Ints, positions_R: Ints, *, bos_id: int, decode: Decode, edges: npt.NDArray[np.float64]
) -> dict[str, Any]:
    """One hook: the norm, id and position of each of R tokens; `decode` gives the text of an id."""
    longest = by_length(norm_R)[-top_count(norm_R.size) :]
    top_R: Flags = np.zeros(norm_R.size, dtype=bool)
    top_R[longest] = True
    square_R = norm_R.astype(np.float64) ** 2
    sets = _Sets(norm_R, top_R)
    lines_K = [kind for kind in np.unique(ids_R).tolist() if kind != bos_id and _is_line_break(decode(kind))]
    places = _places(sets, ids_R, positions_R, bos_id, lines_K)
    kinds = _kinds(sets, ids_R, decode)
    return {
        "mean_norm": float(norm_R.mean(dtype=np.float64)),
        "mean_square_norm": float(square_R.mean()),
        "quantiles": {str(q): float(np.quantile(norm_R, q)) for q in QUANTILES},
        "max": float(norm_R.max()),
        "proportions": (np.histogram(norm_R, edges)[0] / norm_R.size).tolist(),
        "top_count": int(longest.size),
        "top_from": float(norm_R[longest[0]]),
        "share_of_square_in_top": _ratio(float(square_R[longest].sum()), float(square_R.sum())),
        "places": places,
        "positions": _positions(sets, positions_R),
        "top_tokens": kinds,
        "sinks": _sinks(places, kinds, bos_id, lines_K, decode, bool((ids_R[positions_R == 0] == bos_id).all())),
    }


class _Sets:
    """What is said of any set of tokens."""

    def __init__(self, norm_R: Floats, top_R: Flags) -> None:
        self.norm_R, self.top_R = norm_R, top_R
        self.median, self.top = float(np.median(norm_R)), int(top_R.sum())

    def row(self, where_R: Flags) -> dict[str, Any]:
        """Counts and ratios; a ratio is null where its set is empty or what it divides by is 0."""
        n, among = int(where_R.sum()), int((where_R & self.top_R).sum())
        mean = float(self.norm_R[where_R].mean(dtype=np.float64)) if n else None
        return {
            "tokens": n,
            "in_top": among,
            "share_of_top": among / self.top,
            "lift": (among / self.top) / (n / self.norm_R.size) if n else None,
            "mean_over_median": None if mean is None else _ratio(mean, self.median),
        }


def _places(sets: _Sets, ids_R: Ints, positions_R: Ints, bos_id: int, lines_K: list[int]) -> dict[str, Any]:
    """Every token is in one place: the first in this order that it fits."""
    first_R, bos_R, line_R = positions_R == 0, ids_R == bos_id, np.isin(ids_R, lines_K)
    return {
        "first position": sets.row(first_R),
        "BOS or separator inside": sets.row(bos_R & ~first_R),
        "newline": sets.row(line_R & ~first_R),
        "all other tokens": sets.row(~(first_R | bos_R | line_R)),
    }


def _is_line_break(text: str) -> bool:
    """White space with a line break in it: "\\n", "\\n\\n", "\\n    "."""
    return text.isspace() and "\n" in text


def _positions(sets: _Sets, positions_R: Ints) -> list[dict[str, Any]]:
    """The leading positions one by one, then ranges that double: every token is in one."""
    first, last, rows = 0, 0, []
    while first <= int(positions_R.max()):
        inside_R = (positions_R >= first) & (positions_R <= last)
        rows.append({"first": first, "last": min(last, int(positions_R.max())), **sets.row(inside_R)})
        first = last + 1
        last = first if first < SINGLE else 2 * first - 1
    return rows


def _kinds(sets: _Sets, ids_R: Ints, decode: Decode) -> list[dict[str, Any]]:
    """The token kinds that fill the top 1 %; of two that hold as many of its tokens the smaller id comes first."""
    kinds, counts = np.unique(ids_R[sets.top_R], return_counts=True)
    rows = []
    for kind in kinds[np.argsort(-counts, kind="stable")[:NAMED]].tolist():
        row = sets.row(ids_R == kind)
        rows.append({"token": decode(kind), "id": kind, "occurrences": row.pop("tokens"), **row})
    return rows


def _sinks(
    places: dict[str, Any], kinds: list[dict[str, Any]], bos_id: int, lines_K: list[int], decode: Decode, packed: bool
) -> list[str]:
    """Places, then token kinds that no named place speaks of, in plain words."""
    names = {
        "first position": f"first position ({decode(bos_id)!r})" if packed else "first position",
        "BOS or separator inside": f"{decode(bos_id)!r} inside a sequence",
        "newline": "newline",
    }
    said = [_in_words(name, places[place]) for place, name in names.items() if _is_sink(places[place])]
    told = {bos_id, *(lines_K if _is_sink(places["newline"]) else [])}
    return said + [_in_words(repr(row["token"]), row) for row in kinds if row["id"] not in told and _is_sink(row)]


def _is_sink(row: dict[str, Any]) -> bool:
    return (
        (row["mean_over_median"] or 0) > SINK_NORM
        and (row["lift"] or 0) > SINK_LIFT
        and row["share_of_top"] > SINK_SHARE
    )


def _in_words(name: str, row: dict[str, Any]) -> str:
    return (
        f"{name}: {row['mean_over_median']:.3g} times the median norm, "
        f"{100 * row['share_of_top']:.0f} % of the top 1 %, {row['lift']:.3g} times its base rate"
    )


def _ratio(a: float, b: float) -> float | None:
    return a / b if b else None
