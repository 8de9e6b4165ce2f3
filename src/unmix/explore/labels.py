"""A label for a feature, by a rule and without a model: a reading aid, not an explanation.

1. Of the ten tokens with the most mass, those that differ only in the case of ASCII letters and in outer spaces
   are taken together, named by the text that they share.
2. The kinds that together hold half of the mass, the heaviest first, are the label, three at most:
   “def” or “import” “from”. Where three do not hold half, the label begins with "mixed:".
3. Behind → stand the first two kinds of the promoted tokens, where the feature has any.
4. A feature half of whose mass is at position 0 says so; one that never fired says only that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from unmix.explore.marks import shown

HALF, MOST, PROMOTED = 0.5, 3, 2
NEVER = "never fired"
FIRST = "position 0"


def label(
    ids_K: Sequence[int],
    masses_K: Sequence[float],
    promoted: Sequence[int],
    at_first: float,
    of: Callable[[int], bytes],
) -> str:
    """`masses_K` are shares of the mass of each of the ids; `at_first` is that at position 0; `of` gives bytes."""
    if not len(ids_K):
        return FIRST if at_first >= HALF else NEVER
    named, held = kinds(ids_K, masses_K, of)
    said = _quoted(named) if held >= HALF else f"mixed: {_quoted(named)}"
    if at_first >= HALF:
        said = f"{FIRST}; {said}"
    after = list(dict.fromkeys(kind(of(int(i))) for i in promoted))[:PROMOTED]
    return f"{said} → {_quoted(after)}" if after else said


def kinds(ids_K: Sequence[int], masses_K: Sequence[float], of: Callable[[int], bytes]) -> tuple[list[str], float]:
    """(the kinds of tokens that stand in the label, the share of the mass that they hold)."""
    mass: dict[str, float] = {}
    for i, share in zip(ids_K, masses_K, strict=True):
        one = kind(of(int(i)))
        mass[one] = mass.get(one, 0.0) + float(share)
    named, held = [], 0.0
    for one in sorted(mass, key=lambda one: -mass[one])[:MOST]:  # stable: of equal ones the first
        named.append(one)
        held += mass[one]
        if held >= HALF:
            break
    return named, held


@lru_cache(maxsize=2**16)
def kind(token: bytes) -> str:
    """What tokens that are taken together share; white space alone is itself."""
    return shown(token.strip().lower() or token)


def _quoted(kinds: Sequence[str]) -> str:
    return " ".join(f"“{kind}”" for kind in kinds)
