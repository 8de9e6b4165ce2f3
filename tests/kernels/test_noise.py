"""Noise that is a function of where it falls."""

import numpy as np
import pytest
import torch

from unmix.kernels.noise import Noise, add_noise, noise_key
from unmix.kernels.portable import gaussian


def noise(rows: int, features: int, sigma: float = 1.0, seed: int = 0, step: int = 0, first: int = 0) -> np.ndarray:
    z = np.zeros((rows, features))
    add_noise(z, Noise(sigma, noise_key(seed, step)), first)
    return z


def test_it_is_normal():
    z = noise(400, 1001, sigma=2.0)
    share = torch.special.ndtr(torch.from_numpy(np.sort(z.ravel()) / 2)).numpy()
    assert np.abs(share - np.linspace(0, 1, z.size)).max() < 1.63 / z.size**0.5  # Kolmogorov-Smirnov at 1 %
    assert z.std() == pytest.approx(2.0, rel=0.01)
    assert abs(np.corrcoef(z[:, 0:-1:2].ravel(), z[:, 1::2].ravel())[0, 1]) < 0.01  # the two of a pair
    assert abs(np.corrcoef(z[:-1].ravel(), z[1:].ravel())[0, 1]) < 0.01  # neighbouring tokens


def test_it_does_not_depend_on_the_tiling():
    whole = noise(50, 7)
    np.testing.assert_array_equal(whole, np.concatenate([noise(20, 7), noise(30, 7, first=20)]))


def test_steps_and_seeds_differ():
    assert not np.allclose(noise(9, 9), noise(9, 9, step=1))
    assert not np.allclose(noise(9, 9), noise(9, 9, seed=1))


@pytest.mark.parametrize(("features", "first", "key"), [(7, 0, 5), (8, 3, 2**64 - 1), (1, 2**40, 2**63)])
def test_plain_torch_makes_the_same(features, first, key):
    """The multiplications wrap in int64 as in uint64."""
    drawn = np.zeros((20, features))
    add_noise(drawn, Noise(1.5, key), first)
    found = gaussian(torch.zeros(20, features).double(), Noise(1.5, key), first)
    np.testing.assert_allclose(found.numpy(), drawn, rtol=1e-12, atol=1e-14)
    assert gaussian(torch.zeros(20, features), Noise(1.5, key), first).dtype == torch.float32
