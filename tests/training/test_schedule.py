from hypothesis import given
from hypothesis import strategies as st

from unmix.training.schedule import Schedule


def schedule(steps=100, decay_steps=20):
    return Schedule(steps=steps, lr_warmup_steps=10, l1_warmup_steps=5, decay_steps=decay_steps)


def test_warm_up_stable_decay():
    s = schedule()
    assert s.lr_at(0, 1.0) == 0.1
    assert s.lr_at(9, 1.0) == s.lr_at(50, 1.0) == s.lr_at(79, 1.0) == 1.0
    assert 0 < s.lr_at(99, 1.0) < s.lr_at(90, 1.0) < 1.0
    assert s.stable_until == 80


def test_the_coefficient_rises_from_almost_nothing_to_itself():
    s = schedule()
    assert [s.l1_at(step, 50.0) for step in (0, 4, 5, 99)] == [10.0, 50.0, 50.0, 50.0]


@given(step=st.integers(0, 79), steps=st.integers(100, 1000))
def test_the_stable_part_does_not_know_where_the_run_ends(step, steps):
    assert schedule().lr_at(step, 1.0) == schedule(steps=steps).lr_at(step, 1.0)
    assert schedule().l1_at(step, 5.0) == schedule(steps=steps).l1_at(step, 5.0)
