import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmix.training.choice import choose, forecast


def curve(member, l1, l0_of, steps=range(50, 1050, 50), features=1000):
    return [
        {
            "phase": "sweep",
            "member": member,
            "hook": "resid_post.3",
            "l1": l1,
            "step": s,
            "l0": l0_of(s),
            "nonzero_proportion": l0_of(s) / features,
            "loss": 0.0 * l0_of(s),
        }
        for s in steps
    ]


@given(level=st.floats(10, 1e4), slope=st.floats(0.05, 1.5), at=st.integers(1001, 10**6))
def test_an_exact_power_law_is_foretold_exactly_with_no_band(level, slope, at):
    steps = list(range(50, 1001, 50))
    guess = forecast(steps, [level * s**-slope for s in steps], at)
    want = level * at**-slope
    assert guess.l0 == pytest.approx(want, rel=1e-6)
    assert guess.low == pytest.approx(want, rel=1e-5)
    assert guess.high == pytest.approx(want, rel=1e-5)


@given(floor=st.floats(5, 100), rate=st.floats(0.5, 1.5), at=st.integers(2000, 100_000))
def test_a_fall_to_a_floor_is_foretold_within_the_band(floor, rate, at):
    steps = list(range(50, 1001, 50))
    curve = [floor * (1 + (s / 300) ** -rate) for s in steps]
    guess = forecast(steps, curve, at)
    want = floor * (1 + (at / 300) ** -rate)
    assert guess.low <= want <= guess.high * 1.02
    assert guess.l0 == pytest.approx(want, rel=0.1)


def test_a_curve_that_rises_is_not_extrapolated_upward():
    guess = forecast([100, 200, 300, 400], [10.0, 11.0, 12.0, 13.0], 10_000)
    assert guess.l0 <= 13


def test_too_few_points_are_refused():
    with pytest.raises(ValueError, match="2 points"):
        forecast([1, 2], [3.0, 2.0], 10)


def test_the_densest_under_the_cap_is_chosen():
    rows = curve("l1-0", 0, lambda s: 900) + curve("l1-5", 5, lambda s: 280) + curve("l1-50", 50, lambda s: 40)
    choice = choose(rows, max_active=300, predict_step=1000, stable_until=1000)
    assert choice["member"] == "l1-5"
    assert [c["admissible"] for c in choice["candidates"]] == [False, True, True]


def test_what_will_fall_under_the_cap_is_admitted_and_the_present_is_not_enough():
    rows = curve("l1-5", 5, lambda s: 40_000 * s**-0.7) + curve("l1-50", 50, lambda s: 40)
    assert rows[19]["l0"] > 300
    now = choose(rows, max_active=300, predict_step=1000, stable_until=1000)
    later = choose(rows, max_active=300, predict_step=3000, stable_until=1000)
    json.dumps([now, later])  # plain numbers: it is written as choice.json
    assert (now["member"], later["member"]) == ("l1-50", "l1-5")
    assert "far fewer" in now["reason"]
    assert "between 5 and 50" in now["reason"]


def test_without_an_admissible_member_the_reason_says_what_to_try():
    choice = choose(curve("l1-1", 1, lambda s: 900), max_active=300, predict_step=1000, stable_until=1000)
    assert choice["member"] is None
    assert "larger coefficient" in choice["reason"]


def test_what_was_measured_is_not_foretold():
    """With a decay at the end, L0 at the last step is known, whatever the stable part points to."""
    rows = curve("l1-5", 5, lambda s: 280 if s <= 800 else 320)
    choice = choose(rows, max_active=300, predict_step=1000, stable_until=800)
    assert choice["member"] is None
    assert choice["candidates"][0]["predicted_l0"] == 320


def test_a_member_gone_wrong_is_not_chosen():
    rows = curve("l1-1", 1, lambda s: math.nan) + curve("l1-5", 5, lambda s: 200)
    assert choose(rows, max_active=300, predict_step=1000, stable_until=1000)["member"] == "l1-5"
