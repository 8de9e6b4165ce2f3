"""A dictionary as a module. An SAE is one that gives its input back: y = x.

Letters: B tokens, D width of the input, E width of the output, F features.

    f = phi(x W_enc + b_enc)         W_enc [D, F], b_enc [F]; phi is a nonlinearity, with parameters of its own or none
    ŷ = f W_dec + b_dec              W_dec [F, E], b_dec [E]

With per-token scaling the same acts on x √D / ||x||, and ŷ is brought back to the length of x.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unmix.dictionary.nonlinearities import Nonlinearity, Relu


class Dictionary(nn.Module):
    """F features of activations of width D; acts on raw activations of any leading shape, each token by itself.

    Weights are float32; input of another dtype is brought to it, and `forward` answers in the input's dtype.
    """

    W_enc: nn.Parameter
    b_enc: nn.Parameter
    W_dec: nn.Parameter
    b_dec: nn.Parameter

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        nonlinearity: Nonlinearity | None = None,
        *,
        per_token_scaling: bool = False,
        longest: float | None = None,
    ) -> None:
        super().__init__()
        for name, weight in weights.items():
            self.register_parameter(name, nn.Parameter(weight))
        self.nonlinearity = nonlinearity or Relu()
        self.per_token_scaling = per_token_scaling
        self.longest = longest
        """Tokens with a longer ||x|| were left out of training: `splice` leaves them as they are."""

    @property
    def weights(self) -> dict[str, Tensor]:
        """All parameters by name, without a gradient; they share the module's memory."""
        return {name: weight.detach() for name, weight in self.named_parameters()}

    @property
    def width(self) -> int:
        """D."""
        return self.W_enc.shape[0]

    @property
    def features(self) -> int:
        """F."""
        return self.W_enc.shape[1]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that its answers depend on, whatever files it was read from."""
        found = hashlib.sha256(repr((self.nonlinearity, self.per_token_scaling, self.longest)).encode())
        for name, weight in sorted(self.weights.items()):
            found.update(repr((name, tuple(weight.shape), weight.dtype)).encode())
            found.update(weight.cpu().contiguous().numpy().tobytes())
        return found.hexdigest()

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
        return self.nonlinearity(x @ self.W_enc + self.b_enc, dict(self.named_parameters()))

    def decode(self, f: Tensor, x: Tensor | None = None) -> Tensor:
        """ŷ = f W_dec + b_dec, (..., F) -> (..., E). With per-token scaling x says how long; else it is not needed."""
        y_hat = f @ self.W_dec + self.b_dec
        if not self.per_token_scaling:
            return y_hat
        if x is None:
            raise ValueError("this SAE scales each token: decode(f, x) needs the x that f was made from")
        return y_hat * self.token_scale(x.to(self.W_enc.dtype))

    def token_scale(self, x: Tensor) -> Tensor:
        """||x|| / √D, (..., 1): what per-token scaling divides by."""
        norm: Tensor = x.norm(dim=-1, keepdim=True)
        return norm.clamp_min(torch.finfo(x.dtype).tiny) / math.sqrt(self.width)

    def forward(self, x: Tensor) -> Tensor:
        """ŷ, (..., D) -> (..., E)."""
        return self.decode(self.encode(x), x).to(x.dtype)

    def changed(self, weights: Mapping[str, Tensor], nonlinearity: Nonlinearity | None = None) -> Dictionary:
        """One of the same kind with these weights in place of its own of those names."""
        return Dictionary(
            self.weights | dict(weights),
            nonlinearity or self.nonlinearity,
            per_token_scaling=self.per_token_scaling,
            longest=self.longest,
        )


def new_dictionary(
    width: int, features: int, decoder_norm: float, seed: int, nonlinearity: Nonlinearity | None = None
) -> Dictionary:
    """A fresh SAE: random decoder rows of norm `decoder_norm`, W_enc = W_decᵀ, biases 0.

    April 2024 update (transformer-circuits.pub/2024/april-update#training-saes). A pure function of its arguments.
    """
    nonlinearity = nonlinearity or Relu()
    generator = torch.Generator().manual_seed(seed)
    W_dec_FD = torch.randn(features, width, generator=generator)
    W_dec_FD *= decoder_norm / W_dec_FD.norm(dim=1, keepdim=True)
    weights = {
        "W_enc": W_dec_FD.clone().T,  # a feature's encoder weights lie side by side in memory, as training wants them
        "b_enc": torch.zeros(features),
        "W_dec": W_dec_FD,
        "b_dec": torch.zeros(width),
    }
    return Dictionary(weights | nonlinearity.start(features), nonlinearity)


def fold_centre(sae: Dictionary, centre_D: Tensor) -> Dictionary:
    """The same SAE for x, given one trained on x - c: f is unchanged, x̂ is moved by c."""
    w = sae.weights
    moved = sae.nonlinearity.moved(w, -(centre_D @ w["W_enc"]))
    return sae.changed(moved | {"b_dec": w["b_dec"] + centre_D})


def fold_scaling(sae: Dictionary, scale: float) -> Dictionary:
    """The same dictionary for raw x, given one trained on scale·x: f is unchanged, ŷ is divided by the scale.

    Raises ValueError unless the scale is positive and finite.
    """
    if not (scale > 0 and math.isfinite(scale)):
        raise ValueError(f"scale = {scale} must be positive and finite")
    w = sae.weights
    if scale == 1:
        return sae.changed({name: weight.clone() for name, weight in w.items()})
    return sae.changed(
        {name: weight.clone() for name, weight in w.items()}
        | {"W_enc": w["W_enc"] * scale, "W_dec": w["W_dec"] / scale, "b_dec": w["b_dec"] / scale}
    )
