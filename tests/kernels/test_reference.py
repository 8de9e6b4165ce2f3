"""A pass without gradients sums what a step without noise sums, each token by itself; a step in tiles is the step."""

import pytest
import torch
from kernel_cases import nan_like, random_weights, task

from unmix.dictionary.nonlinearities import BatchTopK, Gated, JumpRelu, Relu, TopK
from unmix.dictionary.terms import L1, SquaredError
from unmix.kernels import reference, tiles
from unmix.kernels.noise import noise_key
from unmix.kernels.task import Noise, Task

D, E, F, B = 8, 5, 40, 30


def tokens() -> tuple[torch.Tensor, torch.Tensor]:
    """x, and a target narrower than it."""
    g = torch.Generator().manual_seed(1)
    x_BD, y_BE = (torch.randn(B, width, dtype=torch.float64, generator=g) for width in (D, E))
    return x_BD, y_BE


@pytest.mark.parametrize("phi", ["relu", "tanh_relu"])
@pytest.mark.parametrize("weigh_by_norm", [True, False])
@pytest.mark.parametrize("norm_power", [0, 2])
def test_it_is_the_step_without_noise(phi, weigh_by_norm, norm_power):
    weights, (x_BD, y_BE) = random_weights(D, F, 0, E=E), tokens()
    asked = task(0.3, phi=phi, weigh=weigh_by_norm, norm_power=norm_power)
    found = reference.alone(x_BD, y_BE, weights, asked._replace(noise=Noise(2.0, 7)), 0.0)
    wanted = reference.step(x_BD, y_BE, weights, nan_like(weights), asked)
    for key in ("squared_error", "terms", "penalty"):
        assert getattr(found, key) == pytest.approx(getattr(wanted, key), rel=1e-12)
    assert torch.equal(found.active_F, wanted.active_F)
    assert torch.allclose(found.square_B, wanted.square_B)


def test_a_batchtopk_says_the_least_contribution_that_it_kept_and_alone_keeps_what_is_above_that():
    weights, (x_BD, y_BE) = random_weights(D, F, 0, E=E), tokens()
    asked = Task(BatchTopK(3.0), ((1.0, SquaredError()),))
    in_batch = reference.step(x_BD, y_BE, weights, nan_like(weights), asked)
    score_BF = torch.relu(x_BD @ weights["W_enc"] + weights["b_enc"]) * weights["W_dec"].norm(dim=1)
    assert in_batch.threshold == pytest.approx(score_BF.flatten().sort(descending=True).values[3 * B - 1].item())
    assert in_batch.active_F.sum() == 3 * B
    for threshold in (0.0, in_batch.threshold * (1 - 1e-9), in_batch.threshold * 1.5):
        found = reference.alone(x_BD, y_BE, weights, asked, threshold)
        assert torch.equal(found.active_F, (score_BF > threshold).sum(0).double())
    assert reference.alone(x_BD, y_BE, weights, asked, 0.0).active_F.sum() > 3 * B
    everything = reference.step(x_BD, y_BE, weights, nan_like(weights), asked._replace(phi=BatchTopK(2.0 * F)))
    assert everything.threshold == 0
    assert reference.step(x_BD, y_BE, weights, nan_like(weights), task(0.3)).threshold is None


@pytest.mark.parametrize("sigma", [0.0, 0.7])
@pytest.mark.parametrize("phi", [Relu(), JumpRelu(0.8, 0.3), TopK(5), Gated()])
def test_in_tiles_of_tokens_a_step_is_the_same(phi, sigma, monkeypatch):
    """The noise of a token, and the mean over the batch, do not depend on the tile that it is in."""
    monkeypatch.setattr(tiles, "tokens", lambda features: 16)
    weights = random_weights(5, 40, 0, E=4)
    weights |= {name: w.double() for name, w in phi.start(40).items()}
    g = torch.Generator().manual_seed(1)
    x_BD, y_BE = (torch.randn(50, width, generator=g, dtype=torch.float64) for width in (5, 4))
    noise = Noise(sigma, noise_key(0, 1)) if sigma else None
    asked = Task(phi, ((1.0, SquaredError(1, (8, 40))), (0.3, L1())), noise)
    mine, theirs = nan_like(weights), nan_like(weights)
    got, want = tiles.step(x_BD, y_BE, weights, mine, asked), reference.step(x_BD, y_BE, weights, theirs, asked)
    assert got.terms == pytest.approx(want.terms)
    assert (got.squared_error, got.penalty) == pytest.approx((want.squared_error, want.penalty))
    torch.testing.assert_close(got.active_F, want.active_F)
    torch.testing.assert_close(got.square_B, want.square_B)
    for name in weights:
        torch.testing.assert_close(mine[name], theirs[name], msg=name)
