"""Dead features start anew at tokens that are badly reconstructed (Bricken et al. 2023, transformer-circuits.pub/2023/
monosemantic-features, "Neuron Resampling"):

    p(token) ∝ (||x̂ - x||²)²
    W_dec_i = direction of x - b_dec, as long as the others' rows       W_enc_i = the same direction, a fifth as long
    b_enc_i = 0, less what b_dec gives; θ_i as at the start; Adam's means of all of these 0

There the encoder's and the error's parts are the same; the tokens are those of one batch here.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from unmix.kernels import aligned
from unmix.kernels.task import Weights

ENCODER = 0.2  # of the mean length of the other features' encoders


def resample(
    weights: Weights, moments: tuple[Weights, Weights], dead_N: Tensor, x_BD: Tensor, square_B: Tensor,
    start: Mapping[str, Tensor], key: int, *, held: bool = False,
) -> None:  # fmt: skip
    """Start the features `dead_N` anew, in place.

    `square_B`, ||x̂ - x||² of the batch; `start`, a nonlinearity's own parameters at the start; `key`, of the draw;
    `held`, that encoders and decoders have an inner product of 1 (`sae.aligned`), which the biases have to go by.
    Nothing is done where no error, or no feature that is not dead, is there.
    """
    alive_F = torch.ones_like(weights["b_enc"], dtype=torch.bool).index_fill(0, dead_N, False)
    if not len(dead_N) or not alive_F.any() or not square_B.sum() > 0:
        return
    generator = torch.Generator().manual_seed(key)
    weight_B = (square_B / square_B.max()).square().cpu()
    token_N = torch.multinomial(weight_B, len(dead_N), replacement=True, generator=generator).to(x_BD.device)
    away_ND = x_BD[token_N] - weights["b_dec"]
    direction_ND = away_ND / away_ND.norm(dim=1, keepdim=True).clamp_min(torch.finfo(x_BD.dtype).tiny)
    W_enc_FD, W_dec_FD = weights["W_enc"].T, weights["W_dec"]
    W_dec_FD[dead_N] = direction_ND * W_dec_FD[alive_F].norm(dim=1).mean()
    W_enc_FD[dead_N] = direction_ND * (ENCODER * W_enc_FD[alive_F].norm(dim=1).mean())
    if held:
        aligned.hold(weights)
    fresh = {"b_enc": torch.zeros(len(alive_F)), **start}
    for name, at_start_F in fresh.items():
        weights[name][dead_N] = at_start_F.to(weights[name])[dead_N]
    shift_N = W_enc_FD[dead_N] @ weights["b_dec"]
    for name in weights.keys() & {"b_enc", "b_mag"}:
        weights[name][dead_N] -= shift_N
    for means in moments:
        for name in means.keys() - {"b_dec"}:
            (means[name].T if name == "W_enc" else means[name])[dead_N] = 0
