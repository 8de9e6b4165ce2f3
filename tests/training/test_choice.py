import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from curves import curve, decays, power
from hypothesis import given
from hypothesis import strategies as st

from unmix.training.choice import NoForecast, Trend, choose, extrapolate, forecast, level, steady


def of(result, member):
    return next(c for c in result["candidates"] if c["member"] == member)


# the forecast


@given(height=st.floats(10, 1e4), slope=st.floats(0.15, 1.5), later=st.integers(1010, 3000))
def test_a_power_law_is_continued(height, slope, later):
    rows = curve("m", 1, power(height, slope), range(10, 3010, 10))
    guess, want = forecast(rows[:100], later), level(rows, later)
    assert guess.l0 == pytest.approx(want, rel=0.02)
    assert guess.low < want < guess.high


def test_what_slows_down_is_expected_to_slow_down_further():
    slower, same = (extrapolate(Trend(100, -0.5, change), 2).l0 for change in (0.6, 1.0))
    assert same == pytest.approx(100 * 2**-0.5)
    assert 5 < slower - same < 20


@given(floor=st.floats(5, 100), rate=st.floats(0.7, 1.5), horizon=st.floats(1.2, 3))
def test_a_fall_to_a_floor_lies_in_the_band(floor, rate, horizon):
    at, l0 = round(1000 * horizon), lambda s: floor * (1 + (s / 1000) ** -rate)
    guess = forecast(curve("m", 1, l0), at)
    assert guess.low <= l0(at) <= guess.high


@given(change=st.floats(0.05, 1.05), slope=st.floats(-2, -0.1))
def test_the_band_widens_with_the_distance(change, slope):
    guesses = [extrapolate(Trend(100, slope, change), horizon) for horizon in (1.01, 1.5, 2, 3)]
    wide = [guess.high / guess.low for guess in guesses]
    assert wide == sorted(wide)
    assert all(0 < guess.low < guess.l0 <= 100 for guess in guesses)


@pytest.mark.parametrize(
    ("l0", "at", "why"),
    [
        (power(100, 0.5), 3001, "more than 3 times as far as step 1,000"),
        (power(100, -0.2), 2000, "does not fall steadily"),
        (power(100, 0.05), 2000, "does not fall steadily"),
        (lambda s: 100 - s / 15, 2000, "not slowing down yet"),
        (power(0.5, 0.5), 2000, "hardly anything is active"),
        (lambda s: 0.0, 2000, "too few rows"),
    ],
)
def test_where_no_band_would_hold_there_is_no_forecast(l0, at, why):
    with pytest.raises(NoForecast, match=why):
        forecast(curve("m", 1, l0), at)


@pytest.mark.parametrize("steps", [[], [100], range(100, 800, 100), range(900, 1001)])
def test_few_rows_or_rows_of_a_short_while_are_no_trend(steps):
    with pytest.raises(NoForecast, match="too few rows"):
        forecast(curve("m", 1, power(100, 0.5), steps), 2000)


def test_the_level_is_the_median_over_the_last_tenth_of_the_steps():
    rows = curve("m", 1, lambda s: {950: 7.0, 1000: 9.0}.get(s, 100.0), range(10, 2000, 10))
    assert level(rows, 1000) == 100
    assert level(curve("m", 1, float), 1000) == (950 + 1000) / 2
    assert level(curve("m", 1, float), 70) == 50, "the row before it, where none is near"
    assert math.isnan(level(curve("m", 1, float), 49))


def test_steady_rows_are_those_of_the_full_learning_rate():
    lr = [1e-4, 1e-3, 1e-3, 1e-3, 5e-4]
    rows = curve("m", 1, float, range(1, 6), lr=lambda s: lr[s - 1])
    assert [row["step"] for row in steady(rows)] == [2, 3, 4]
    assert [row["step"] for row in steady(rows, after=2)] == [3, 4]
    assert steady([]) == []


# the rule


def test_the_densest_under_the_cap_is_chosen():
    rows = curve("l1-0", 0, lambda s: 900) + curve("l1-5", 5, lambda s: 280) + curve("l1-50", 50, lambda s: 40)
    found = choose(rows, max_active=300, predict_step=1000)
    assert found["member"] == "l1-5"
    assert [c["admissible"] for c in found["candidates"]] == [False, True, True]


def test_what_will_fall_under_the_cap_is_admitted_and_the_present_is_not_enough():
    rows = curve("l1-5", 5, power(320, 0.7)) + curve("l1-50", 50, power(40, 0.7))
    now = choose(rows, max_active=300, predict_step=1000)
    later = choose(rows, max_active=300, predict_step=3000)
    json.dumps([now, later], allow_nan=False)  # plain numbers: it is written as choice.json
    assert (now["member"], later["member"]) == ("l1-50", "l1-5")
    assert "far fewer" in now["reason"]
    assert "between 5 and 50" in now["reason"]
    assert "90 % band" in later["reason"]
    assert of(later, "l1-5")["low"] < of(later, "l1-5")["predicted_l0"] < of(later, "l1-5")["high"] < 320


def test_without_an_admissible_member_the_reason_says_what_to_try():
    found = choose(curve("l1-1", 1, lambda s: 900), max_active=300, predict_step=1000)
    assert found["member"] is None
    assert "larger coefficient" in found["reason"]


def test_what_was_measured_is_not_predicted():
    """With a decay at the end, L0 at the last step is known, whatever the stable part points to."""
    rows = curve("l1-5", 5, lambda s: 280 if s <= 800 else 320, lr=decays(800, 1050))
    found = choose(rows, max_active=300, predict_step=1000)
    assert found["member"] is None
    assert found["candidates"][0]["predicted_l0"] == 320
    assert (found["candidates"][0]["low"], found["candidates"][0]["no_forecast"]) == (None, None)


def test_a_step_inside_the_curve_is_measured_there():
    found = choose(curve("l1-5", 5, power(100, 1.0)), max_active=300, predict_step=500)
    [candidate] = found["candidates"]
    assert (candidate["predicted_l0"], candidate["l0"]) == (pytest.approx(200, rel=0.01),) * 2
    assert (candidate["l0_at_step"], found["at_step"]) == (500, 500)


def test_at_a_step_inside_the_curve_the_reason_says_what_was_measured_there():
    """It said that none comes under 100, the sparsest having 50: at the last step, where 125 were compared with 100."""
    rows = curve("l1-1", 1, lambda s: 200 - 0.15 * s, range(50, 1050, 50))
    found = choose(rows, max_active=100, predict_step=510)
    assert (found["member"], found["at_step"]) == (None, 510)
    assert "the sparsest, l1-1 has 125 active features per token at step 500." in found["reason"]


def test_at_a_step_inside_the_curve_variants_are_compared_by_what_they_explained_by_then():
    early = asked("a", 50, 50, 0.9) + asked("b", 50, 50, 0.5)
    late = [row | {"step": row["step"] + 1000} for row in asked("a", 50, 50, 0.6) + asked("b", 50, 50, 0.95)]
    then, now = (choose(early + late, max_active=100, predict_step=step) for step in (1000, 2000))
    assert (then["member"], now["member"]) == ("a-l0-50", "b-l0-50")
    assert "it explains the most variance, 90.0 % at 50; b-l0-50 50.0 % at 50" in then["reason"]


def test_without_a_forecast_a_member_is_judged_by_what_is_measured_and_says_so():
    rows = curve("l1-5", 5, lambda s: 200) + curve("l1-50", 50, power(40, 0.5))
    found = choose(rows, max_active=300, predict_step=2000)
    flat = of(found, "l1-5")
    assert found["member"] == "l1-5"
    assert (flat["low"], flat["high"], flat["predicted_l0"]) == (None, None, 200)
    assert flat["why"] == "no forecast: its L0 does not fall steadily; 200 active, under 300"
    assert "(no forecast: its L0 does not fall steadily)" in found["reason"]
    assert of(found, "l1-50")["low"] is not None


def test_too_far_away_nothing_is_predicted_of_any_member():
    rows = curve("l1-5", 5, power(320, 0.7)) + curve("l1-50", 50, power(40, 0.7))
    found = choose(rows, max_active=300, predict_step=10_000)
    assert found["member"] == "l1-50"
    assert all(c["low"] is None and "times as far" in c["no_forecast"] for c in found["candidates"])
    assert all(c["predicted_l0"] == c["l0"] for c in found["candidates"])


def test_members_are_compared_by_what_is_measured_though_only_some_have_a_forecast():
    """The denser one is expected below what the sparser one, without a forecast, has now."""
    rows = curve("l1-3", 3, power(130, 0.7)) + curve("l1-5", 5, lambda s: 98)
    found = choose(rows, max_active=110, predict_step=3000)
    assert of(found, "l1-3")["predicted_l0"] < 98
    assert [c["member"] for c in found["candidates"]] == ["l1-3", "l1-5"]
    assert found["member"] == "l1-3"


def test_the_forecast_begins_before_a_decay_where_an_extension_begins():
    l0 = lambda s: power(100, 0.5)(s) * (1.4 if s > 1000 else 1)  # noqa: E731
    rows = curve("l1-5", 5, l0, range(50, 2050, 50), lr=decays(1000, 2001))
    found = choose(rows, max_active=300, predict_step=2400)["candidates"][0]
    assert (found["l0_at_step"], found["l0"]) == (1000, pytest.approx(100, rel=0.03))
    assert 64 < found["predicted_l0"] < 90


def test_a_planned_decay_is_named_in_the_rule():
    rows = curve("l1-5", 5, power(100, 0.5), range(50, 2050, 50), lr=decays(1000, 2001))
    found = choose(rows, max_active=300, predict_step=1200, decay_to=2400)
    assert found["rule"].endswith("at step 1,200, where the decay of the learning rate to step 2,400 begins")
    assert (found["at_step"], found["candidates"][0]["low"] is not None) == (1000, True)


def test_rows_in_which_the_penalty_still_rises_are_no_trend():
    found = choose(curve("l1-5", 5, power(100, 0.5)), max_active=300, predict_step=2000, warmup=700)["candidates"][0]
    assert "too few rows" in found["no_forecast"]


def test_a_window_in_which_every_token_was_masked_changes_nothing():
    rows = curve("l1-5", 5, power(200, 0.5))
    empty = curve("l1-5", 5, lambda s: math.nan, [975, 1000], over_tokens=0)
    whole, holed = (choose(r, max_active=300, predict_step=2000) for r in (rows[:-1], rows[:-1] + empty))
    assert whole == holed
    assert holed["member"] == "l1-5"


def test_after_a_masked_last_window_the_step_still_counts_as_reached():
    empty = curve("l1-5", 5, lambda s: math.nan, [1000], over_tokens=0)
    found = choose(curve("l1-5", 5, power(200, 0.5))[:-1] + empty, max_active=300, predict_step=1000)["candidates"][0]
    assert (found["low"], found["no_forecast"]) == (None, None)


def test_a_member_that_is_behind_the_others_is_predicted():
    behind = curve("l1-5", 5, power(200, 0.5), range(20, 820, 20))
    found = choose(curve("l1-1", 1, power(280, 0.5)) + behind, max_active=300, predict_step=1000)
    assert of(found, "l1-1")["low"] is None
    assert of(found, "l1-5")["low"] is not None


def test_a_member_whose_every_token_was_masked_is_not_chosen():
    rows = curve("l1-1", 1, lambda s: math.nan, over_tokens=0) + curve("l1-5", 5, lambda s: 200)
    assert choose(rows, max_active=300, predict_step=1000)["member"] == "l1-5"


@pytest.mark.parametrize("predict_step", [1000, 2000])
def test_a_member_gone_wrong_is_not_chosen(predict_step):
    rows = curve("l1-1", 1, lambda s: math.nan) + curve("l1-5", 5, lambda s: 200)
    halted = curve("l1-2", 2, lambda s: 250, range(50, 500, 50))
    halted += curve("l1-2", 2, lambda s: math.nan, range(500, 1050, 50), over_tokens=0, halted_at=460)
    found = choose(rows + halted, max_active=300, predict_step=predict_step)
    assert found["member"] == "l1-5"
    assert of(found, "l1-2")["why"] == "halted by batch 460"


# members that were asked for an L0


def asked(variant, target, l0, share, steps=range(50, 1050, 50), **more):
    name = f"{variant}-l0-{target:g}" if variant else f"l0-{target:g}"
    return curve(name, None, lambda s: l0, steps, target_l0=float(target), explained_variance=share, **more)


def test_of_architectures_at_about_the_same_l0_the_one_that_explains_most_is_chosen():
    """The densest is the one whose controller overshot most, and no better for it."""
    rows = asked("gated", 50, 60.2, 0.777) + asked("relu", 50, 52.5, 0.878) + asked("topk", 50, 50, 0.858)
    rows += asked("topk", 20, 20, 0.95) + asked("jumprelu", 50, 5.5, 0.99)
    found = choose(rows, max_active=100, predict_step=1000)
    json.dumps(found, allow_nan=False)
    assert found["member"] == "relu-l0-50"
    assert found["rule"].endswith(
        "; of variants near the L0 asked for, with about as many, the one with the best explained variance"
    )
    assert found["reason"].endswith(
        "Of the 3 variants at about as many active features, it explains the most variance, 87.8 % at 52.5; "
        "topk-l0-50 85.8 % at 50, gated-l0-50 77.7 % at 60.2."
    )
    relu = of(found, "relu-l0-50")
    assert (relu["l1"], relu["target_l0"], relu["explained_variance"]) == (None, 50, 0.878)


def test_a_variant_that_missed_its_l0_is_chosen_only_where_all_did():
    over = asked("relu", 50, 93.3, 0.636) + asked("relu", 20, 30.1, 0.9)
    assert choose(over, max_active=100, predict_step=1000)["member"] == "relu-l0-50"
    near = asked("tanh_relu", 50, 59, 0.717) + asked("topk", 50, 50, 0.527)
    found = choose(over + near, max_active=100, predict_step=1000)
    assert found["member"] == "tanh_relu-l0-50"
    assert "Of the 2 variants" in found["reason"]
    every = choose(over + asked("gated", 50, 80, 0.7), max_active=100, predict_step=1000)
    assert every["member"] == "gated-l0-50"


def test_of_one_variant_the_densest_under_the_cap_is_chosen_though_another_explains_more():
    found = choose(asked("", 50, 51, 0.8) + asked("", 45, 45, 0.9), max_active=100, predict_step=1000)
    assert found["member"] == "l0-50"
    assert "best explained variance" not in found["rule"]
    assert "far fewer" not in choose(asked("", 5, 5, 0.8), max_active=100, predict_step=1000)["reason"]


def test_coefficients_are_chosen_by_l0_and_the_reason_names_the_variant_that_explains_most():
    share = {"explained_variance": 0.8}, {"explained_variance": 0.9}
    rows = curve("wide-l1-1", 1, lambda s: 95, **share[0]) + curve("plain-l1-5", 5, lambda s: 90, **share[1])
    found = choose(rows, max_active=100, predict_step=1000)
    assert found["member"] == "wide-l1-1"
    assert "plain-l1-5 explains the most variance, 90.0 % at 90; wide-l1-1 80.0 % at 95." in found["reason"]


@pytest.mark.parametrize("share", [None, math.nan])
def test_an_explained_variance_that_is_not_known_is_not_compared(share):
    found = choose(asked("a", 50, 50, share) + asked("b", 50, 48, 0.9), max_active=100, predict_step=1000)
    assert found["member"] == "b-l0-50"
    assert "explains" not in found["reason"]
    json.dumps(found, allow_nan=False)


def test_where_too_many_are_active_fewer_are_to_be_asked_for():
    found = choose(asked("", 150, 160, 0.9) + asked("", 200, 200, 0.9), max_active=100, predict_step=1000)
    assert found["member"] is None
    assert found["reason"].endswith("Ask for fewer: --l0 75 150 200.")
    within = choose(asked("", 50, 52, 0.9) + asked("", 5, 4.8, 0.9), max_active=45, predict_step=1000)
    assert within["reason"].endswith("An L0 between 5 and 50 would come closer to the cap.")


@pytest.mark.parametrize(("target", "got"), [(120, 98), (110, 109), (104, 84)])
def test_where_all_were_asked_for_more_than_the_cap_the_remedy_is_named_though_fewer_are_measured(target, got):
    rows = asked("", target, got, 0.9) + asked("", 200, 199, 0.9)
    found = choose(rows, max_active=100, predict_step=1000)
    assert found["member"] is None
    assert found["reason"].startswith(
        f"No member was asked for at most 100 active features per token: the sparsest, l0-{target} has {got} active"
    )
    fewer, *others = map(float, found["reason"].partition("Ask for fewer: --l0 ")[2].rstrip(".").split())
    assert 60 < fewer <= 100
    assert others == [target, 200]


def test_a_member_far_from_what_it_was_asked_for_says_so():
    far = choose(asked("", 50, 5.5, 0.5), max_active=100, predict_step=1000)
    near = choose(asked("", 50, 49, 0.5), max_active=100, predict_step=1000)
    assert "l0-50 has 5.5 active features per token at step 1,000, where 50 were asked for: under 100." in far["reason"]
    assert "l0-50 has 49 active features per token at step 1,000: as asked for, and not over 100." in near["reason"]


@pytest.mark.parametrize("got", [97.2, 100, 102.9])
def test_an_l0_asked_for_is_compared_with_the_cap_and_not_what_a_few_tokens_make_of_it(got):
    """As with topk, which has exactly 100, and a batchtopk, which moves about it from line to line."""
    rows = asked("", 20, 20, 0.8) + asked("", 50, 50, 0.9) + asked("", 100, got, 0.95)
    found = choose(rows, max_active=100, predict_step=1000)
    assert found["member"] == "l0-100"
    assert found["rule"].startswith("the most active features per token asked for, at most 100,")
    over = choose(rows + asked("", 101, 99.5, 0.96), max_active=100, predict_step=1000)
    assert (over["member"], of(over, "l0-101")["why"]) == ("l0-100", "101 asked for, 99.5 active, over 100")
    assert "not over 100, where the next denser member, l0-101, was asked for 101." in over["reason"]
    far = asked("", 70, 99, 0.9) + asked("", 90, 130, 0.9)
    missed = choose(asked("", 50, 50, 0.9) + far, max_active=100, predict_step=1000)
    assert missed["member"] == "l0-70"


def test_variants_are_compared_over_many_lines_and_not_by_the_last():
    steps = range(10, 1010, 10)
    noisy = asked("a", 50, 50, 0.90, steps)
    noisy[-1]["explained_variance"] = 0.96
    found = choose(noisy + asked("b", 50, 49, 0.92, steps), max_active=100, predict_step=1000)
    assert (found["member"], of(found, "a-l0-50")["explained_variance"]) == ("b-l0-50", 0.90)


def test_nothing_is_predicted_of_a_member_that_is_held_at_an_l0():
    found = choose(asked("", 50, 52, 0.9), max_active=100, predict_step=2000)["candidates"][0]
    assert (found["low"], found["predicted_l0"]) == (None, 52)
    assert found["no_forecast"] == "it is held at the 50 that it was asked for"


def test_the_table_of_how_good_the_forecast_is_is_of_these_records():
    root = Path(__file__).parents[2]
    command = [sys.executable, root / "scripts" / "calibrate_forecast.py"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root).stdout
    page = (root / "docs" / "choice.md").read_text(encoding="utf-8")
    rows = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(rows) > 8
    assert [row for row in rows if row not in page] == [], (
        "docs/choice.md shows what scripts/calibrate_forecast.py prints"
    )
