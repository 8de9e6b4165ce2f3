"""A dictionary as a module. An SAE is one that gives its input back: y = x.

Letters: B tokens, D width of the input, E width of the output, F features.

    u = T(x)                                    nothing, or what `per_token` says, for each token by itself
    f = phi(u W_enc + b_enc)                    W_enc [D, F], b_enc [F]; phi may have parameters of its own
    ŷ = T⁻¹(f W_dec + b_dec)  [+ x W_skip]      W_dec [F, E], b_dec [E]; W_skip [D, E] in some transcoders
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unmix.dictionary.code import Code
from unmix.dictionary.nonlinearities import Nonlinearity, Relu
from unmix.dictionary.per_token import ByLength, PerToken


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
        per_token: PerToken | None = None,
        longest: float | None = None,
    ) -> None:
        super().__init__()
        for name, weight in weights.items():
            self.register_parameter(name, nn.Parameter(weight))
        self.nonlinearity = nonlinearity or Relu()
        self.per_token = per_token
        """T; None: u = x."""
        self.cfg: Any = None
        """What its files say of it (`interop.origin.Origin`: model, hook, format, …); None where it was not loaded."""
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
    def d_in(self) -> int:
        """D, as other libraries call it."""
        return self.width

    @property
    def d_sae(self) -> int:
        """F, as other libraries call it."""
        return self.features

    @property
    def skip(self) -> Tensor | None:
        """W_skip [D, E], or None: nothing of x is added to ŷ."""
        found: Tensor | None = self._parameters.get("W_skip")
        return found

    @property
    def needs_x(self) -> bool:
        """Whether ŷ is not a function of f alone, so that `decode` has to be given the x that f was made from."""
        return self.per_token is not None or self.skip is not None

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that its answers depend on, whatever files it was read from."""
        # as it was when there was nothing but ByLength, so that what was made of older folders is still theirs
        T: object = self.per_token == ByLength() if self.per_token in (None, ByLength()) else self.per_token
        found = hashlib.sha256(repr((self.nonlinearity, T, self.longest)).encode())
        for name, weight in sorted(self.weights.items()):
            found.update(repr((name, tuple(weight.shape), weight.dtype)).encode())
            found.update(weight.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())  # bfloat16 too
        return found.hexdigest()

    def leaves(self, x: Tensor) -> Tensor:
        """Which tokens were left out of training for their length, bools (...); (..., D), measured in float32."""
        norm: Tensor = x.float().norm(dim=-1)
        if self.longest is None:
            return torch.zeros_like(norm, dtype=torch.bool)
        return (norm > self.longest) & norm.isfinite()

    def encode(self, x: Tensor) -> Tensor:
        """f = phi(T(x) W_enc + b_enc), (..., D) -> (..., F)."""
        x = x.to(self.W_enc.dtype)
        if self.per_token is not None:
            x = self.per_token.take(x).u
        return self.nonlinearity(x @ self.W_enc + self.b_enc, dict(self.named_parameters()))

    def code(self, x: Tensor) -> Code:
        """The active entries of f alone, (B, D) -> CSR by token. Raises ValueError if x has another shape."""
        if x.ndim != 2:
            raise ValueError(f"x has the shape {tuple(x.shape)}, not (B, D); flatten what stands before D")
        f_BF = self.encode(x)
        token, feature = f_BF.nonzero(as_tuple=True)
        counts_B = torch.bincount(token, minlength=len(x))
        starts = torch.cat([counts_B.new_zeros(1), counts_B.cumsum(0)])
        return Code(starts, feature, f_BF[token, feature])

    def extra_repr(self) -> str:
        """`64 -> 256 features, jumprelu`, and where it comes from."""
        wide = f"{self.width:,}" if self.W_dec.shape[1] == self.width else f"{self.width:,} -> {self.W_dec.shape[1]:,}"
        made = self.cfg
        from_where = [f"{made.hook or 'hook not named'} of {made.model or 'a model not named'}"] if made else []
        return ", ".join([f"{self.features:,} features of {wide}", self.nonlinearity.name, *from_where])

    def decode(self, f: Tensor, x: Tensor | None = None) -> Tensor:
        """ŷ = T⁻¹(f W_dec + b_dec) [+ x W_skip], (..., F) -> (..., E). x is needed where `needs_x` says so.

        Raises ValueError if it is needed and not given.
        """
        y_hat = f @ self.W_dec + self.b_dec
        if not self.needs_x:
            return y_hat
        if x is None:
            raise ValueError("ŷ depends on x beside f here: decode(f, x) needs the x that f was made from")
        x = x.to(self.W_enc.dtype)
        if self.per_token is not None:
            taken = self.per_token.take(x)
            y_hat = y_hat * taken.scale
            y_hat = y_hat if taken.shift is None else y_hat + taken.shift
        return y_hat if self.skip is None else y_hat + x @ self.skip

    def token_scale(self, x: Tensor) -> Tensor:
        """What T⁻¹ multiplies by, (..., 1): a feature's part of ŷ is f_i W_dec_i times that. Ones, where T is none."""
        return torch.ones_like(x[..., :1]) if self.per_token is None else self.per_token.take(x).scale

    def forward(self, x: Tensor) -> Tensor:
        """ŷ, (..., D) -> (..., E)."""
        return self.decode(self.encode(x), x).to(x.dtype)

    def changed(self, weights: Mapping[str, Tensor], nonlinearity: Nonlinearity | None = None) -> Dictionary:
        """One of the same kind with these weights in place of its own of those names."""
        return Dictionary(
            self.weights | dict(weights),
            nonlinearity or self.nonlinearity,
            per_token=self.per_token,
            longest=self.longest,
        )


def new_dictionary(
    width: int,
    features: int,
    decoder_norm: float,
    seed: int,
    nonlinearity: Nonlinearity | None = None,
    *,
    target_width: int | None = None,
) -> Dictionary:
    """A fresh SAE: random decoder rows of norm `decoder_norm`, W_enc = W_decᵀ, biases 0.

    April 2024 update (transformer-circuits.pub/2024/april-update#training-saes). A pure function of its arguments.

    With a `target_width` E, a fresh transcoder, whatever E is: W_dec [F, E] as above, and W_enc drawn behind it from
    the same generator. A direction of x says nothing of a direction of y; the encoder's vectors have the same norm as
    an SAE's, so that pre-activations spread as its do.
    """
    nonlinearity = nonlinearity or Relu()
    generator = torch.Generator().manual_seed(seed)

    def rows(to: int) -> Tensor:
        drawn = torch.randn(features, to, generator=generator)
        drawn *= decoder_norm / drawn.norm(dim=1, keepdim=True)
        return drawn

    W_dec_FE = rows(width if target_width is None else target_width)
    weights = {
        # a feature's encoder weights lie side by side in memory, as training wants them
        "W_enc": (W_dec_FE.clone() if target_width is None else rows(width)).T,
        "b_enc": torch.zeros(features),
        "W_dec": W_dec_FE,
        "b_dec": torch.zeros(W_dec_FE.shape[1]),
    }
    return Dictionary(weights | nonlinearity.start(features), nonlinearity)


def fold_centre(sae: Dictionary, centre_D: Tensor, centre_E: Tensor | None = None) -> Dictionary:
    """The same dictionary for x and y, given one trained on x - c and y - c': f is unchanged, ŷ is moved by c'.

    c' = `centre_E`; c, if not given: then it is an SAE.
    """
    w = sae.weights
    moved = sae.nonlinearity.moved(w, -(centre_D @ w["W_enc"]))
    skipped = 0 if sae.skip is None else centre_D @ w["W_skip"]
    return sae.changed(moved | {"b_dec": w["b_dec"] + (centre_D if centre_E is None else centre_E) - skipped})


def fold_scaling(sae: Dictionary, scale: float, target_scale: float | None = None) -> Dictionary:
    """The same dictionary for raw x, given one trained on scale·x: f is unchanged, ŷ is divided by the target's scale.

    That is `scale`, if it is not given. Raises ValueError unless both are positive and finite.
    """
    out = scale if target_scale is None else target_scale
    for value in (scale, out):
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"scale = {value} must be positive and finite")
    w = sae.weights
    whole = {name: weight.clone() for name, weight in w.items()}
    if scale == out == 1:
        return sae.changed(whole)
    folded = {"W_enc": w["W_enc"] * scale, "W_dec": w["W_dec"] / out, "b_dec": w["b_dec"] / out}
    folded |= {} if sae.skip is None or scale == out else {"W_skip": w["W_skip"] * (scale / out)}
    return sae.changed(whole | folded)
