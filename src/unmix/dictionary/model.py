"""The sparse autoencoder as a module.

Letters: B tokens, D width of the activation, F features.

    f = phi(x W_enc + b_enc)         W_enc_DF, b_enc_F;  phi = relu, or tanh(relu(·)): the normalized SAE
    x̂ = f W_dec + b_dec              W_dec_FD, b_dec_D

With per-token scaling the same acts on x √D / ||x||, and x̂ is brought back to the length of x.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

NONLINEARITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh_relu": lambda z: torch.tanh(torch.relu(z)),  # LessWrong post 3ZCKSArYwgg9P4hqQ
}


class Dictionary(nn.Module):
    """A dictionary of F features for activations of width D; acts on raw activations of any leading shape.

    Weights are float32; input of another dtype is brought to it, and `forward` answers in the input's dtype.
    """

    def __init__(
        self,
        W_enc_DF: Tensor,
        b_enc_F: Tensor,
        W_dec_FD: Tensor,
        b_dec_D: Tensor,
        *,
        nonlinearity: str = "relu",
        per_token_scaling: bool = False,
        longest: float | None = None,
    ) -> None:
        super().__init__()
        self.W_enc = nn.Parameter(W_enc_DF)
        self.b_enc = nn.Parameter(b_enc_F)
        self.W_dec = nn.Parameter(W_dec_FD)
        self.b_dec = nn.Parameter(b_dec_D)
        self.nonlinearity, self.per_token_scaling = nonlinearity, per_token_scaling
        self.longest = longest
        """Tokens with a longer ||x|| were left out of training: `splice` leaves them as they are."""

    @property
    def width(self) -> int:
        """D."""
        return self.W_enc.shape[0]

    @property
    def features(self) -> int:
        """F."""
        return self.W_enc.shape[1]

    def leaves(self, x: Tensor) -> Tensor:
        """Which tokens were left out of training for their length, bools (...); (..., D), measured in float32."""
        norm: Tensor = x.float().norm(dim=-1)
        if self.longest is None:
            return torch.zeros_like(norm, dtype=torch.bool)
        return (norm > self.longest) & norm.isfinite()

    def encode(self, x: Tensor) -> Tensor:
        """f = phi(x W_enc + b_enc), (..., D) -> (..., F)."""
        x = x.to(self.W_enc.dtype)
        if self.per_token_scaling:
            x = x / self.token_scale(x)
        return NONLINEARITIES[self.nonlinearity](x @ self.W_enc + self.b_enc)

    def decode(self, f: Tensor, x: Tensor | None = None) -> Tensor:
        """x̂ = f W_dec + b_dec, (..., F) -> (..., D). With per-token scaling x says how long; else it is not needed."""
        x_hat = f @ self.W_dec + self.b_dec
        if not self.per_token_scaling:
            return x_hat
        if x is None:
            raise ValueError("this SAE scales each token: decode(f, x) needs the x that f was made from")
        return x_hat * self.token_scale(x.to(self.W_enc.dtype))

    def token_scale(self, x: Tensor) -> Tensor:
        """||x|| / √D, (..., 1): what per-token scaling divides by."""
        norm: Tensor = x.norm(dim=-1, keepdim=True)
        return norm.clamp_min(torch.finfo(x.dtype).tiny) / math.sqrt(self.width)

    def forward(self, x: Tensor) -> Tensor:
        """x̂, (..., D) -> (..., D)."""
        return self.decode(self.encode(x), x).to(x.dtype)

    def with_weights(self, W_enc_DF: Tensor, b_enc_F: Tensor, W_dec_FD: Tensor, b_dec_D: Tensor) -> Dictionary:
        """An SAE of the same kind with these weights."""
        return Dictionary(
            W_enc_DF,
            b_enc_F,
            W_dec_FD,
            b_dec_D,
            nonlinearity=self.nonlinearity,
            per_token_scaling=self.per_token_scaling,
            longest=self.longest,
        )


def new_sae(width: int, features: int, decoder_norm: float, seed: int) -> Dictionary:
    """A fresh dictionary: random decoder rows of norm `decoder_norm`, W_enc = W_decᵀ, biases 0.

    April 2024 update (transformer-circuits.pub/2024/april-update#training-saes). A pure function of its arguments.
    """
    generator = torch.Generator().manual_seed(seed)
    W_dec_FD = torch.randn(features, width, generator=generator)
    W_dec_FD *= decoder_norm / W_dec_FD.norm(dim=1, keepdim=True)
    # a feature's encoder weights lie side by side in memory, as training wants them
    return Dictionary(W_dec_FD.clone().T, torch.zeros(features), W_dec_FD, torch.zeros(width))


def fold_scaling(sae: Dictionary, scale: float) -> Dictionary:
    """The same dictionary for raw x, given one trained on scale·x: f is unchanged, x̂ is divided by the scale.

    Raises ValueError unless the scale is positive and finite.
    """
    if not (scale > 0 and math.isfinite(scale)):
        raise ValueError(f"scale = {scale} must be positive and finite")
    with torch.no_grad():
        return sae.with_weights(
            sae.W_enc * scale if scale != 1 else sae.W_enc.clone(),
            sae.b_enc.clone(),
            sae.W_dec / scale if scale != 1 else sae.W_dec.clone(),
            sae.b_dec / scale if scale != 1 else sae.b_dec.clone(),
        )
