"""A member that ends far from the L0 it was asked for is named, with what it has and what to do."""

import pytest
from curves import curve
from tiny_run import make

from unmix.training import run
from unmix.training.missed import said_of_missed
from unmix.training.run import Watch


def rows(l0, target=300.0, **more):
    return curve("relu-l0-300", None, l0, range(50, 1050, 50), target_l0=target, **more)


def test_members_near_what_was_asked_and_those_given_a_coefficient_are_not():
    assert said_of_missed(rows(lambda s: 280) + curve("l1-1", 1, lambda s: 5)) == []


@pytest.mark.parametrize("l0", [270, 335])
def test_a_tenth_off_is_said(l0):
    [line] = said_of_missed(rows(lambda s: l0, coefficient=0.25))
    assert f"ends at {l0} active features per token, where 300 were asked for" in line


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"coefficient": 1.0e-8}, "no coefficient reaches it: 1e-08 does not either; ask for what it can have"),
        ({"coefficient": 0.25}, "its coefficient, 0.25, did not bring it there in 1,000 steps; give more --steps"),
        ({"coefficient": 0.0}, "its coefficient, 0, did not bring it there in 1,000 steps; give more --steps"),
        ({"threshold": 0.125}, "by its threshold of 0.125, which has not settled in 1,000 steps; give more --steps"),
        ({}, "no more of its features are positive; ask for fewer, or more --steps"),
    ],
)
def test_the_others_are_with_the_nearest_that_was_reached(more, why):
    [line] = said_of_missed(rows(lambda s: 250 if s == 500 else 187, **more))
    assert line.startswith(
        "warning: relu-l0-300 ends at 187 active features per token, where 300 were asked for (nearest: 250); "
    )
    assert line.endswith(why)


def test_a_sweep_says_it_when_it_ends(overrides, tmp_path):
    """k = F: a token has as many active features as are positive."""
    said = []
    recipe = make(overrides, sae__architecture="topk", training__l1=[], training__l0=[48], training__steps=20)
    run.sweep(recipe, tmp_path / "run", Watch(said.append))
    assert said[-1].startswith("warning: l0-48 ends at ")
    assert said[-1].endswith("no more of its features are positive; ask for fewer, or more --steps")
