"""From the store to what the page shows: every feature of a member, one record after the other.

The numbers are in `feature`, `examples`, `windows`, `coactivation`, `geometry`, `logits`, `labels`; here they are put
together. Memory is that of the tokens, of one block of features, and of the pairs that co-activation looks at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unmix.dictionary.model import Dictionary
from unmix.explore import coactivation, examples, geometry, logits
from unmix.explore.beside import Beside
from unmix.explore.feature import Lengths, Numbers, lengths, numbers, spark
from unmix.explore.labels import label
from unmix.explore.left_out import Reasons, left_out, reasons
from unmix.explore.rounding import rounded, short
from unmix.explore.store import Entries, Floats, Ints, Store, Text
from unmix.explore.windows import windows

IN_LIST = 3  # tokens of each kind in a row of the list


@dataclass(frozen=True)
class Sight:
    """What the members of one hook share."""

    out: str
    """Where decoder rows are added: the hook itself, but of transcoders."""
    text: Text
    where: Lengths
    source: examples.Places
    reason_R: Reasons
    """Why a token is left out."""
    matches: dict[str, dict[str, geometry.Match]]
    """member -> another of the hook, a member or one that is only matched -> best matches."""


@dataclass(frozen=True)
class Known:
    """What is known of all features of a member before any of them is described."""

    name: str
    norm_F: Floats
    """||W_dec_i||."""
    nearest: geometry.Nearest
    together: coactivation.Partners
    effects: logits.Effects | None
    coactivation_tokens: int
    """Tokens, from the first on, that pairs were counted on."""


def see(store: Store, hook: str, saes: dict[str, Dictionary], beside: Sequence[Beside] = ()) -> Sight:
    """The tokens as the hook has them, and how its members match each other, and those `beside` it."""
    text = store.text(hook)
    rows = {name: geometry.unit_rows(sae) for name, sae in saes.items()}
    matches: dict[str, dict[str, geometry.Match]] = {name: {} for name in saes}
    names = list(saes)
    for n, a in enumerate(names):
        for b in names[n + 1 :]:
            matches[a][b], matches[b][a] = geometry.matches(rows[a], rows[b])
    for other in beside:
        if other.hook == hook:
            rows_GE = geometry.unit_rows(other.load())
            for name in names:
                matches[name][other.name] = geometry.matches(rows[name], rows_GE)[0]
    longest = store.manifest["measured"].get(hook, {}).get("longer_than")
    out, where = store.outs.get(hook, hook), lengths(text.norm_R)
    return Sight(out, text, where, examples.places(text), reasons(text, longest), matches)


def know(store: Store, name: str, sae: Dictionary, sight: Sight, out: logits.Readout | None) -> Known:
    """Co-activation, neighbours, effects on the logits."""
    _, l0_R = store.errors(name)
    tokens = coactivation.sampled_tokens(l0_R, store.T)
    entries = store.entries(name, 0, sae.features, before_token=tokens)
    return Known(
        name,
        sae.W_dec.detach().norm(dim=1).numpy(),
        geometry.neighbours(geometry.unit_rows(sae)),
        coactivation.partners(entries, sight.text, tokens),
        logits.effects(sae, out) if out is not None and logits.attributed(sight.out) else None,
        tokens,
    )


def records(
    store: Store, known: Known, sight: Sight, of: Callable[[int], bytes], l1_R: Floats | None = None
) -> Iterator[tuple[dict[str, Any], Numbers]]:
    """(record, numbers) of each feature in turn; `of` gives the bytes of a token.

    To `l1_R`, if it is given, Σ |f_i| ||W_dec_i|| of each token is added, feature by feature.
    """
    counted = sight.text.counted
    for block in store.blocks(known.name):
        for feature in range(block.first, block.first + len(block.starts_f1) - 1):
            if l1_R is not None:
                token_n, act_n = block.of(feature)
                l1_R[token_n] += np.abs(act_n) * known.norm_F[feature]
            yield _record(feature, block, known, sight, counted, of)


def _record(
    feature: int, block: Entries, known: Known, sight: Sight, counted: int, of: Callable[[int], bytes]
) -> tuple[dict[str, Any], Numbers]:
    text, (token_n, act_n) = sight.text, block.of(feature)
    found = numbers(token_n, act_n, text, sight.where, counted)
    top_id = int(found.ids_K[0]) if len(found.ids_K) else -1
    chosen = examples.choose(feature, token_n, act_n, text, sight.source, found.edges, top_id)
    outside = left_out(token_n, act_n, sight.reason_R, found.edges, text.T)
    peaks = np.unique(np.concatenate([*examples.all_peaks(chosen), *(out.peaks for out in outside.values())]))
    shown = dict(zip(peaks.tolist(), windows(peaks, token_n, act_n, text), strict=True))

    def seen(peaks: Ints) -> list[dict[str, Any]]:
        return [shown[peak] for peak in peaks.tolist()]

    plus, minus = _effects(feature, known.effects)
    record = {
        "i": feature,
        "density": short(found.density),
        "firings": found.firings,
        "max": short(found.max),
        "mean": short(found.mean),
        "std": short(found.std),
        "q": rounded(found.q),
        "hist": {"edges": rounded(found.edges), "counts": found.counts.tolist()},
        "groups": {
            "top": seen(chosen.top),
            "uniform": seen(chosen.uniform),
            "value": [_band(band, seen) for band in chosen.value],
            "mass": [_band(band, seen) for band in chosen.mass],
            "near": seen(chosen.near),
            "silent": seen(chosen.silent),
        },
        "left_out": {
            reason: {
                "firings": out.firings,
                "mass": short(out.mass),
                "max": short(out.max),
                "counts": out.counts.tolist(),
                "windows": seen(out.peaks),
            }
            for reason, out in outside.items()
        },
        "logits": None if plus is None else {"plus": plus, "minus": minus},
        "decoder": _pairs(known.nearest.features_FK[feature], known.nearest.cosines_FK[feature]),
        "coact": _pairs(
            known.together.features_FK[feature],
            known.together.given_FK[feature],
            known.together.jaccard_FK[feature],
        ),
        "stability": [
            {"member": other, "i": int(match.features_F[feature]), "cos": short(float(match.cosines_F[feature]))}
            for other, match in sight.matches[known.name].items()
        ],
        "by_norm": rounded(found.by_norm),
        "by_position": rounded(found.by_position),
        "tokens": [
            [int(i), short(float(share)), short(float(mean))]
            for i, share, mean in zip(found.ids_K, found.shares_K, found.means_K, strict=True)
        ],
        "label": label(found.ids_K.tolist(), found.masses_K.tolist(), [i for i, _ in plus or []], found.first, of),
    }
    return record, found


def row(record: dict[str, Any], found: Numbers) -> dict[str, Any]:
    """What the list says of a feature: a row of the index, and of `features/MEMBER.parquet`."""
    promoted = record["logits"] or {"plus": [], "minus": []}
    near = record["decoder"][0] if record["decoder"] else [-1, None]
    return {
        "density": record["density"],
        "max": record["max"],
        "mean": record["mean"],
        "entropy": short(found.entropy),
        "top_share": short(found.top_share),
        "tokens": found.ids_K[:IN_LIST].tolist(),
        "promotes": [i for i, _ in promoted["plus"][:IN_LIST]],
        "suppresses": [i for i, _ in promoted["minus"][:IN_LIST]],
        "nearest": near[0],
        "nearest_cos": near[1],
        "spark": spark(found.counts),
        "first": short(found.first),
        "long": short(found.long),
        "label": record["label"],
    }


def _band(band: examples.Band, seen: Callable[[Ints], list[dict[str, Any]]]) -> dict[str, Any]:
    return {
        "low": short(band.low),
        "high": short(band.high),
        "firings": short(band.firings),
        "mass": short(band.mass),
        "windows": seen(band.peaks),
    }


def _effects(feature: int, found: logits.Effects | None) -> tuple[list[list[Any]], list[list[Any]]] | tuple[None, None]:
    if found is None:
        return None, None
    return (
        _pairs(found.plus_FK[feature], found.plus_values_FK[feature]),
        _pairs(found.minus_FK[feature], found.minus_values_FK[feature]),
    )


def _pairs(index_K: Ints, *values: Floats) -> list[list[Any]]:
    """[[index, value …] …] of those that are there."""
    columns = [rounded(column) for column in values]
    return [[int(i), *row] for i, row in zip(index_K, zip(*columns, strict=True), strict=True) if i >= 0]
