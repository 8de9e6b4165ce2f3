"""What a controller aims at, and how fast its integral moves."""

import itertools
import math

import pytest

from unmix.training.controller import NEAR, RAMP, Controller


def fed(l0s, target=10.0):
    controller = Controller(target, 0.0)
    for l0 in l0s:
        controller.saw(l0)
    return controller


def test_the_aim_goes_from_the_first_batch_to_the_target():
    controller, aims = Controller(10.0, 0.0), []
    for _ in range(RAMP + 5):
        controller.saw(1000.0)
        aims.append(controller.aim)
    assert aims[0] == pytest.approx(10 * 100 ** (1 - 1 / RAMP))
    assert aims[RAMP // 2 - 1] == pytest.approx(100.0)  # half-way by the logarithm
    assert aims[RAMP - 1 :] == [10.0] * 6
    assert all(a >= b for a, b in itertools.pairwise(aims))


def test_a_first_batch_below_the_target_is_asked_for_it_at_once():
    assert fed([4.0]).aim == fed([10.0]).aim == 10.0


@pytest.mark.parametrize("l0", [20.0, 5.0])
def test_a_coefficient_that_does_nothing_moves_as_fast_as_a_near_one(l0):
    """L0 stays at twice, or half, the target: once the aim is long the target, I moves by e / NEAR a batch."""
    before, after = fed([l0] * (2 * RAMP + 50)), fed([l0] * (2 * RAMP + 60))
    moved = (after.log_coefficient - before.log_coefficient) / 10
    assert moved == pytest.approx(math.log(l0 / 10) / NEAR, rel=1e-3)


def test_it_waits_where_l0_is_on_its_way():
    """Far above the target, and falling by a hundredth a batch."""
    falling = [60 * 0.99**n for n in range(90)]
    controller = fed([60.0] * 700 + falling[:80])
    before = controller.log_coefficient
    for l0 in falling[80:]:
        controller.saw(l0)
    assert controller.error > 0.3
    assert abs(controller.log_coefficient - before) < 1e-9
