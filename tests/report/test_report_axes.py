"""Labels apart, lines smoothed, colours in order, settings untouched; numbers as words."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from unmix.report import axes, words


def test_labels_stay_apart_in_order_and_in_sight() -> None:
    rng = np.random.default_rng(0)
    for n in range(1, 12):
        wanted = sorted(rng.uniform(0, 1, n) ** 3)
        places = axes.spread(wanted, 0.07)
        assert (np.diff(places) >= 0.07 - 1e-12).all()
        assert min(places) >= 0
        assert max(places) <= 1 + 1e-12


def test_labels_with_room_stay_where_they_belong() -> None:
    assert axes.spread([0.1, 0.5, 0.9], 0.07) == pytest.approx([0.1, 0.5, 0.9])


def test_smoothing_keeps_a_straight_line_start_a_gap_and_the_level() -> None:
    flat = np.full(400, 3.0)
    flat[200] = np.nan
    soft = axes.smooth(flat)
    assert np.isnan(soft).tolist() == np.isnan(flat).tolist()
    assert np.nanmax(np.abs(soft - 3.0)) < 1e-12
    line = np.arange(400.0)
    assert axes.smooth(line)[:390] == pytest.approx(line[:390])


def test_short_curves_are_left_alone() -> None:
    short = np.array([1.0, 5.0, 2.0])
    assert axes.smooth(short) is short


def test_the_settings_of_matplotlib_are_as_before() -> None:
    before = dict(matplotlib.rcParams)
    with axes.style():
        assert matplotlib.rcParams["axes.grid"]
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "0"),
        (1234.5, "1,234"),
        (41.96, "42.0"),
        (0.01234, "0.0123"),
        (float("nan"), "–"),
        (-2.5, "-2.50"),
        (1e-9, "1.00e-09"),
    ],
)
def test_numbers(value: float, said: str) -> None:
    assert words.number(value) == said


def test_other_words() -> None:
    assert words.amount(71_680_000) == "71.7 million"
    assert words.tick(35_000) == "35k"
    assert words.duration(4000) == "67 min"
    assert words.duration(9000) == "2 h 30 min"
    assert words.fixed(-0.2) == "−0.200"
    assert words.percent(float("nan")) == "–"


@pytest.mark.parametrize("slope", [-1, 1])
def test_no_line_runs_through_a_label(slope):
    figure = Figure(figsize=(4.8, 3.6))
    panel = figure.subplots()
    at = [(float(n), float(slope * n)) for n in range(4)]
    panel.plot(*zip(*at, strict=True))
    panel.errorbar(*zip(*at, strict=True), yerr=0.2, fmt="o")
    panel.margins(0.2)
    axes.point_labels(panel, [(x, y, f"l0-{x:g}") for x, y in at])
    figure.draw_without_rendering()
    bars = [(x, y + off) for x, y in at for off in np.linspace(-0.2, 0.2, 100)]
    path = panel.transData.transform([*((x, slope * x) for x in np.linspace(0, 3, 2000)), *bars])
    boxes = [text.get_window_extent() for text in panel.texts]
    assert len(boxes) == 4
    assert not any(box.contains(*point) for box in boxes for point in path)
