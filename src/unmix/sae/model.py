"""The sparse autoencoder as a module.

Letters: B tokens, D width of the activation, F features.

    f = relu(x W_enc + b_enc)        W_enc_DF, b_enc_F
    x̂ = f W_dec + b_dec              W_dec_FD, b_dec_D
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class SAE(nn.Module):
    """A dictionary of F features for activations of width D; acts on raw activations of any leading shape.

    Weights are float32; input of another dtype is brought to it, and `forward` answers in the input's dtype.
    """

    def __init__(self, W_enc_DF: Tensor, b_enc_F: Tensor, W_dec_FD: Tensor, b_dec_D: Tensor) -> None:
        super().__init__()
        self.W_enc = nn.Parameter(W_enc_DF)
        self.b_enc = nn.Parameter(b_enc_F)
        self.W_dec = nn.Parameter(W_dec_FD)
        self.b_dec = nn.Parameter(b_dec_D)

    @property
    def width(self) -> int:
        """D."""
        return self.W_enc.shape[0]

    @property
    def features(self) -> int:
        """F."""
        return self.W_enc.shape[1]

    def encode(self, x: Tensor) -> Tensor:
        """f = relu(x W_enc + b_enc), (..., D) -> (..., F)."""
        return torch.relu(x.to(self.W_enc.dtype) @ self.W_enc + self.b_enc)

    def decode(self, f: Tensor) -> Tensor:
        """x̂ = f W_dec + b_dec, (..., F) -> (..., D)."""
        return f @ self.W_dec + self.b_dec

    def forward(self, x: Tensor) -> Tensor:
        """x̂, (..., D) -> (..., D)."""
        return self.decode(self.encode(x)).to(x.dtype)


def new_sae(width: int, features: int, decoder_norm: float, seed: int) -> SAE:
    """A fresh dictionary: random decoder rows of norm `decoder_norm`, W_enc = W_decᵀ, biases 0.

    April 2024 update (transformer-circuits.pub/2024/april-update#training-saes). A pure function of its arguments.
    """
    generator = torch.Generator().manual_seed(seed)
    W_dec_FD = torch.randn(features, width, generator=generator)
    W_dec_FD *= decoder_norm / W_dec_FD.norm(dim=1, keepdim=True)
    return SAE(W_dec_FD.T.contiguous(), torch.zeros(features), W_dec_FD, torch.zeros(width))


def fold_scaling(sae: SAE, scale: float) -> SAE:
    """The same dictionary for raw x, given one trained on scale·x: f is unchanged, x̂ is divided by the scale.

    Raises ValueError unless the scale is positive and finite.
    """
    if not (scale > 0 and math.isfinite(scale)):
        raise ValueError(f"scale = {scale} must be positive and finite")
    with torch.no_grad():
        return SAE(
            sae.W_enc * scale if scale != 1 else sae.W_enc.clone(),
            sae.b_enc.clone(),
            sae.W_dec / scale if scale != 1 else sae.W_dec.clone(),
            sae.b_dec / scale if scale != 1 else sae.b_dec.clone(),
        )
