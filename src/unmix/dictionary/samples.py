"""64 activations and what a dictionary answers to them, beside its weights: whoever reads the folder can check itself.

`samples.safetensors`: `x` [64, D] float32; the code of each, its active features side by side, `starts` [65] int64
(those of token t are starts[t] … starts[t + 1] - 1), `features` int32 and `values` float32; `y_hat` [64, E] float32.
Its metadata says under `of` whether the activations are `read`, of a language model, or `drawn`.

Drawn ones are a function of the weights alone, so that a folder is the same however it came about:

    x = b_dec + Σ_{i ∈ S} c_i w_i / ‖w_i‖²        w_i the i-th column of W_enc; no b_dec where E is not D

with S at most 16 features at random, c_i uniform between half and twice 1 + θ_i + |b_enc_i|: so that some features are
just active and some just not.
"""

from __future__ import annotations

from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from unmix.dictionary.model import Dictionary
from unmix.tensorfile import save_tensors

FILE = "samples.safetensors"
KEPT, DRAWN = 64, 16
CLOSE = 1e-4  # of a token's largest value: sums in another order move it by 1e-6
AT_THRESHOLD = 1  # tokens that may differ by more: one of their features is active here and not there, or the reverse


def draw(sae: Dictionary) -> Tensor:
    """x [64, D]."""
    w, F = sae.weights, sae.features
    generator = torch.Generator().manual_seed(0)
    square_F = w["W_enc"].square().sum(0)
    square_F = square_F.clamp_min(1e-6 * square_F.max()).clamp_min(1e-30)  # of a column of length 0 nothing can be said
    bound_F = 1 + w["b_enc"].abs() + (w["threshold"].abs() if "threshold" in w else 0)
    x_KD = torch.zeros(KEPT, sae.width)
    if sae.width == w["b_dec"].numel():
        x_KD += w["b_dec"]
    for x_D in x_KD:
        S = torch.randperm(F, generator=generator)[: min(F, DRAWN)]
        c_S = bound_F[S] * (0.5 + 1.5 * torch.rand(len(S), generator=generator))
        x_D += w["W_enc"][:, S] @ (c_S / square_F[S])
    return x_KD


def save_samples(sae: Dictionary, folder: Path, x_BD: Tensor | None = None) -> None:
    """Write the file: the first 64 of `x_BD`, raw activations, or drawn ones. Raises `UserError` if it cannot be."""
    sae = sae.changed({name: weight.cpu() for name, weight in sae.weights.items()})
    x_KD = draw(sae) if x_BD is None else x_BD[:KEPT].detach().to("cpu", sae.W_enc.dtype)
    with torch.no_grad():
        f_KF = sae.encode(x_KD)
        y_hat_KE = sae.decode(f_KF, x_KD)
    active_KF = f_KF != 0
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), active_KF.sum(1).cumsum(0)])
    tensors = {
        "x": x_KD,
        "starts": starts,
        "features": active_KF.nonzero()[:, 1].int(),
        "values": f_KF[active_KF],
        "y_hat": y_hat_KE,
    }
    save_tensors(folder / FILE, tensors, {"of": "drawn" if x_BD is None else "read"})


def wrong(sae: Dictionary, folder: Path) -> str:
    """What is wrong with the file, in a line; nothing where there is none, or where it is answered as it says."""
    path = folder / FILE
    if not path.exists():
        return ""
    try:
        found = safetensors.torch.load_file(path)
        x_KD, y_hat_KE = found["x"], found["y_hat"]
        f_KF = torch.zeros(len(x_KD), sae.features)
        rows = torch.repeat_interleave(torch.arange(len(x_KD)), found["starts"].diff())
        f_KF[rows, found["features"].long()] = found["values"]
        with torch.no_grad():
            mine_KF = sae.encode(x_KD)
            off_K = (mine_KF - f_KF).abs().amax(1) > CLOSE * f_KF.abs().amax(1)
            mine_KE = sae.decode(mine_KF, x_KD)
            off_K |= (mine_KE - y_hat_KE).abs().amax(1) > CLOSE * y_hat_KE.abs().amax(1)
            off_K |= ~mine_KE.isfinite().all(1)
    except (OSError, KeyError, ValueError, IndexError, RuntimeError, TypeError, safetensors.SafetensorError) as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        return f"{path} is damaged ({said}); bring it back, or remove it: nothing but this check needs it"
    tokens = int(off_K.sum())
    if tokens <= AT_THRESHOLD:
        return ""
    return (
        f"{path}: to {tokens} of {len(x_KD)} sample activations the dictionary does not answer what it did when it was "
        "written; the weights, cfg.json or the samples were changed since"
    )
