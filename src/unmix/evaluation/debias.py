"""Refit magnitudes on a frozen support: the L1 penalty shrinks activations, a scale per feature can undo its mean.

    min_s Σ ||x - b_dec - Σ_i s_i f_i W_dec_i||² + ε Σ_i (s_i - 1)²      f, and so the support, as the encoder gives it

The normal equations are A s = y with A = (Σ f fᵀ) ∘ (W_dec W_decᵀ), y_i = Σ f_i W_dec_i·(x - b_dec). The answer is
folded into the decoder rows, W_dec_i ← s_i W_dec_i, so that the SAE stays an ordinary one. Compare Wright & Sharkey
2024 (feature suppression), who fine-tune instead.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from unmix.dictionary.model import Dictionary
from unmix.errors import UserError

LARGEST = 16_384  # features: A has F² entries
RIDGE = 1e-3  # of A's mean diagonal: features that never fire keep their scale


def debias(sae: Dictionary, batches: Iterable[Tensor]) -> Dictionary:
    """The refitted dictionary. `batches` are x_BD of the train split, never of the one it is judged on.

    Raises `UserError` if the dictionary is too large for the F x F system, or is a transcoder with a W_skip.
    """
    F = sae.features
    if sae.skip is not None:
        raise UserError("a transcoder with a W_skip cannot be refitted: x is not what it gives back")
    if F > LARGEST:
        needed = f"{F * F * 8 / 1e9:.0f} GB"
        raise UserError(f"refitting {F} features needs {needed}; it is done up to {LARGEST}: leave --debias out")
    A_FF, y_F = torch.zeros(F, F), torch.zeros(F, dtype=torch.float64)
    with torch.no_grad():
        for x_BD in batches:
            f_BF = sae.encode(x_BD)
            if sae.per_token is not None:  # what f W_dec + b_dec is to be: T⁻¹ of it is x
                _, scale_B1, shift_B1 = sae.per_token.take(x_BD)
                says_B = scale_B1.squeeze(1) > 0  # else features do not matter to it
                x_BD = (x_BD if shift_B1 is None else x_BD - shift_B1)[says_B] / scale_B1[says_B]
                f_BF = f_BF[says_B]
            A_FF.addmm_(f_BF.T, f_BF)
            y_F += (f_BF * ((x_BD - sae.b_dec) @ sae.W_dec.T)).sum(0, dtype=torch.float64)
        A_FF *= sae.W_dec @ sae.W_dec.T
        A = A_FF.double()
        ridge = RIDGE * A.diagonal().mean().clamp_min(1e-30)
        A.diagonal().add_(ridge)
        s_F = torch.linalg.solve(A, y_F + ridge).float()
        return sae.changed({"W_dec": sae.W_dec.detach() * s_F[:, None]})
