"""Dead features that start anew."""

import torch

from unmix.training.resample import ENCODER, resample

D, F, B = 6, 10, 40
DEAD = torch.tensor([2, 7])


def state(seed=0):
    g = torch.Generator().manual_seed(seed)
    weights = {
        "W_enc": torch.randn(F, D, generator=g).T,
        "b_enc": torch.randn(F, generator=g),
        "W_dec": torch.randn(F, D, generator=g),
        "b_dec": torch.randn(D, generator=g),
        "threshold": torch.rand(F, generator=g),
    }
    moments = tuple({name: torch.ones_like(w) for name, w in weights.items()} for _ in range(2))
    return weights, moments, torch.randn(B, D, generator=g), torch.rand(B, generator=g).double()


def resampled(square_B=None, dead_N=DEAD, key=3, held=False):
    weights, moments, x_BD, drawn_B = state()
    before = {name: w.clone() for name, w in weights.items()}
    start = {"threshold": torch.full((F,), 0.01)}
    resample(weights, moments, dead_N, x_BD, drawn_B if square_B is None else square_B, start, key, held=held)
    return before, weights, moments, x_BD


def test_only_dead_features_change_and_their_moments_are_zero():
    before, weights, moments, _ = resampled()
    alive = [i for i in range(F) if i not in DEAD]
    for name in ("b_enc", "W_dec", "threshold"):
        assert torch.equal(weights[name][alive], before[name][alive])
        assert not torch.equal(weights[name][DEAD], before[name][DEAD])
        for means in moments:
            assert (means[name][DEAD] == 0).all()
            assert (means[name][alive] == 1).all()
    assert torch.equal(weights["W_enc"][:, alive], before["W_enc"][:, alive])
    assert all((means["W_enc"][:, DEAD] == 0).all() and (means["W_enc"][:, alive] == 1).all() for means in moments)
    assert torch.equal(weights["b_dec"], before["b_dec"])


def test_a_feature_points_at_the_token_with_all_the_error_and_is_active_on_it():
    square_B = torch.zeros(B).double()
    square_B[11] = 4.0
    before, weights, _, x_BD = resampled(square_B)
    away_D = x_BD[11] - weights["b_dec"]
    alive = [i for i in range(F) if i not in DEAD]
    for i in DEAD.tolist():
        torch.testing.assert_close(weights["W_dec"][i] / weights["W_dec"][i].norm(), away_D / away_D.norm())
        torch.testing.assert_close(weights["W_dec"][i].norm(), before["W_dec"][alive].norm(dim=1).mean())
        torch.testing.assert_close(
            weights["W_enc"][:, i].norm(), ENCODER * before["W_enc"][:, alive].norm(dim=0).mean()
        )
        z = x_BD[11] @ weights["W_enc"][:, i] + weights["b_enc"][i]
        torch.testing.assert_close(z, away_D.norm() * weights["W_enc"][:, i].norm())
        assert weights["threshold"][i] == 0.01


def test_held_at_an_inner_product_of_one_it_is_active_by_that():
    square_B = torch.zeros(B).double()
    square_B[11] = 4.0
    _, weights, _, x_BD = resampled(square_B, held=True)
    away_D = x_BD[11] - weights["b_dec"]
    for i in DEAD.tolist():
        e_D, d_D = weights["W_enc"][:, i], weights["W_dec"][i]
        torch.testing.assert_close(e_D @ d_D, torch.tensor(1.0))
        # e_i is along x - b_dec still
        torch.testing.assert_close(x_BD[11] @ e_D + weights["b_enc"][i], away_D.norm() / d_D.norm())


def test_tokens_with_large_errors_are_taken_by_the_square_of_them():
    """Of two tokens whose errors are 1 and 3, the second is taken 9 times in 10."""
    square_B = torch.zeros(B).double()
    square_B[[4, 5]] = torch.tensor([1.0, 3.0]).double()
    second = 0
    for key in range(200):
        _, weights, _, x_BD = resampled(square_B, key=key)
        away_D = x_BD[5] - weights["b_dec"]
        second += sum(
            torch.allclose(weights["W_dec"][i] / weights["W_dec"][i].norm(), away_D / away_D.norm()) for i in DEAD
        )
    assert 330 < second < 390  # of 400; 360 expected, deviation 6


def test_the_draw_is_a_function_of_its_key():
    runs = [resampled(key=key)[1]["W_dec"] for key in (3, 3, 4)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_nothing_is_done_without_dead_features_without_live_ones_and_without_an_error():
    for dead_N, square_B in (
        (torch.tensor([], dtype=torch.int64), None),
        (torch.arange(F), None),
        (DEAD, torch.zeros(B).double()),
    ):
        before, weights, _, _ = resampled(square_B, dead_N)
        assert all(torch.equal(weights[name], before[name]) for name in before)
