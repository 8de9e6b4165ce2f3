"""What a feature does where no number counts it: the slow twin's."""

import math

import numpy as np
import pytest
from explore import stores
from explore.stores import DEAD, MASKED_ONLY, make_world

from unmix.explore.feature import lengths, numbers
from unmix.explore.left_out import REASONS, left_out, reasons, totals

WORLDS = [make_world(0), make_world(2, sequences=90, T=5, features=9)]
LONGEST = 40.0


def why(world, t):
    if not world.masked_R[t]:
        return None
    return "first" if t % world.T == 0 else "long" if world.norm_R[t] > LONGEST else "special"


@pytest.mark.parametrize("world", WORLDS)
def test_every_reason_is_counted_apart(world):
    text = world.text
    reason_R = reasons(text, LONGEST)
    of = [why(world, t) for t in range(len(world.id_R))]
    assert totals(reason_R) == {reason: of.count(reason) for reason in REASONS}
    assert sum(totals(reason_R).values()) == world.masked_R.sum()
    seen = set()
    for feature in range(world.f_RF.shape[1]):
        entries = world.entries(feature)
        found = numbers(*entries, text, lengths(text.norm_R), text.counted)
        got = left_out(*entries, reason_R, found.edges, world.T)
        for reason in REASONS:
            rows = [(t, float(world.f_RF[t, feature])) for t in range(len(of)) if of[t] == reason]
            rows = [(t, a) for t, a in rows if a]
            assert (reason in got) == bool(rows)
            if not rows:
                continue
            seen.add(reason)
            out, values = got[reason], [a for _, a in rows]
            assert out.firings == len(values)
            assert out.mass == pytest.approx(math.fsum(values))
            assert out.max == max(values)
            edges = [*found.edges.tolist(), math.inf]
            if found.firings:
                assert out.counts.tolist() == [sum(edges[b] < a <= edges[b + 1] for a in values) for b in range(21)]
            else:
                assert out.counts.tolist() == [len(values)]
            best = {}
            for t, a in rows:
                if a > best.get(t // world.T, (0, 0))[0]:
                    best[t // world.T] = (a, t)
            assert out.peaks.tolist() == [t for _, t in sorted(best.values(), key=lambda row: (-row[0], row[1]))][:3]
    assert seen == set(REASONS)


def test_a_feature_of_left_out_tokens_alone_and_a_dead_one():
    world = WORLDS[0]
    reason_R = reasons(world.text, LONGEST)
    none = np.empty(0)
    assert sum(out.firings for out in left_out(*world.entries(MASKED_ONLY), reason_R, none, world.T).values()) == int(
        world.masked_R.sum()
    )
    assert left_out(*world.entries(DEAD), reason_R, none, world.T) == {}


def test_without_a_bound_nothing_is_long():
    world = WORLDS[0]
    assert totals(reasons(world.text, None))["long"] == 0
    assert stores.counted(world, 9)
