"""Prefixes that are drawn."""

from collections import Counter

import pytest

from unmix.training.prefixes import draw


@pytest.mark.parametrize(("features", "count"), [(2, 1), (10, 9), (10, 3), (4096, 5)])
def test_they_rise_below_the_features_and_end_with_all(features, count):
    sizes = draw(features, count, 7)
    assert len(sizes) == count + 1
    assert sizes[-1] == features
    assert all(a < b for a, b in zip((0, *sizes), sizes, strict=False))


def test_the_draw_is_a_function_of_its_key():
    assert draw(4096, 5, 1) == draw(4096, 5, 1)
    assert draw(4096, 5, 1) != draw(4096, 5, 2)


def test_each_octave_is_drawn_about_as_often():
    octaves = Counter(draw(1024, 1, key)[0].bit_length() for key in range(3000))
    # of m from 16 to 1,023 an octave has the share 1 / log2(1024), less than 10 % of it by the sum's ends
    assert all(octaves[n] == pytest.approx(3000 * 0.692 / 7.51, rel=0.25) for n in range(5, 11))
