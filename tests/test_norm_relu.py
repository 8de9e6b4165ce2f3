"""docs/norms.md: relu features and the length of a token."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from norm_theory import D, F, close, dictionary, factors, generator, losses, many, penalties, pre, randn, seeds, squares


@many
@given(seeds, factors)
def test_relu_features_scale_with_x(seed: int, c: float) -> None:
    g = generator(seed)
    w, x_BD = dictionary(g), randn(g, 5, D)
    smaller_bias = w | {"b_enc": w["b_enc"] / c}
    close(torch.relu(pre(c * x_BD, w)), c * torch.relu(pre(x_BD, smaller_bias)), rtol=1e-9, atol=1e-9 * c)
    no_bias = w | {"b_enc": torch.zeros_like(w["b_enc"])}
    close(torch.relu(pre(c * x_BD, no_bias)), c * torch.relu(pre(x_BD, no_bias)), atol=1e-9 * c)


@many
@given(seeds, st.floats(1.001, 1e3))
def test_bias_is_a_threshold_that_long_tokens_outgrow(seed: int, c: float) -> None:
    g = generator(seed)
    w, x_BD = dictionary(g), randn(g, 5, D)
    thresholds = w | {"b_enc": -w["b_enc"].abs() - 1e-3}
    head_starts = w | {"b_enc": w["b_enc"].abs()}

    long, scaled = torch.relu(pre(c * x_BD, thresholds)), c * torch.relu(pre(x_BD, thresholds))
    assert bool((long[long > 0] > scaled[long > 0]).all())
    assert bool((long >= scaled).all())
    assert bool((long - scaled <= (c - 1) * -thresholds["b_enc"] + 1e-9 * c).all())
    assert bool(((long > 0) >= (scaled > 0)).all())  # none falls silent
    assert bool((penalties(c * x_BD, thresholds) >= c * penalties(x_BD, thresholds) - 1e-9 * c).all())

    long, scaled = torch.relu(pre(c * x_BD, head_starts)), c * torch.relu(pre(x_BD, head_starts))
    assert bool((long <= scaled + 1e-9 * c).all())
    assert bool((long >= scaled - (c - 1) * head_starts["b_enc"] - 1e-9 * c).all())
    assert bool(((long > 0) <= (scaled > 0)).all())


@many
@given(seeds, factors)
def test_far_out_the_bias_no_longer_counts(seed: int, c: float) -> None:
    g = generator(seed)
    w, x_BD = dictionary(g), randn(g, 5, D)
    slope = torch.relu(x_BD @ w["W_enc"])
    assert bool(((torch.relu(pre(c * x_BD, w)) / c - slope).abs() <= w["b_enc"].abs() / c + 1e-12).all())
    far = 1e7
    bare = squares(x_BD, w | {"b_enc": torch.zeros(F).double(), "b_dec": torch.zeros(D).double()})
    close(squares(far * x_BD, w) / far**2, bare, rtol=1e-4, atol=1e-4)


@many
@given(seeds, factors, st.floats(0.0, 10.0), st.sampled_from([0, 1, 2]), st.booleans())
def test_effective_coefficient_falls_with_length(seed: int, c: float, l1: float, k: int, weigh: bool) -> None:
    g = generator(seed)
    w, x_BD = dictionary(g, bias=0.0), randn(g, 5, D)
    close(squares(c * x_BD, w), c**2 * squares(x_BD, w))
    close(penalties(c * x_BD, w, weigh=weigh), c * penalties(x_BD, w, weigh=weigh))
    effective = l1 * c ** (k - 1)
    close(losses(c * x_BD, w, l1, k, weigh=weigh), c ** (2 - k) * losses(x_BD, w, effective, k, weigh=weigh))


@many
@given(seeds, st.integers(1, 99), factors, st.sampled_from([0, 1, 2]))
def test_share_of_a_few_long_tokens(seed: int, percent: int, m: float, k: int) -> None:
    def share(power: float) -> float:
        q = percent / 100
        return q * m**power / (q * m**power + 1 - q)

    g = generator(seed)
    w, u_D = dictionary(g, bias=0.0), randn(g, D)
    length_B = torch.ones(100, dtype=torch.float64)
    length_B[:percent] = m
    x_BD = length_B[:, None] * u_D
    square, error = x_BD.square().sum(1), squares(x_BD, w) / x_BD.norm(dim=1) ** k
    close(square[:percent].sum() / square.sum(), share(2))
    close(error[:percent].sum() / error.sum(), share(2 - k))
    if (penalty := penalties(x_BD, w)).any():
        close(penalty[:percent].sum() / penalty.sum(), share(1))
    percent, m = 1, 100.0
    assert round(share(2), 3) == 0.990
    assert round(share(1), 3) == 0.503
