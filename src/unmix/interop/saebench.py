"""A dictionary as the object that SAEBench (0.6.0, custom_saes/base_sae.py) evaluates.

It has W_enc, b_enc, W_dec, b_dec as parameters, `encode`, `decode` of f alone, `forward`, `dtype`, `device`, `to`, and
`cfg` with the fields of its `CustomSAEConfig`. SAEBench wants rows of W_dec of length 1 and warns otherwise: where phi
allows it (relu, jumprelu, gated, whose f scale with z) they are brought to that, with the same x̂.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from unmix.dictionary.files import architecture_of
from unmix.dictionary.model import Dictionary
from unmix.errors import UserError
from unmix.hooknames import transformer_lens
from unmix.interop.normal import unit_rows

SCALES = ("relu", "jumprelu", "gated")


@dataclass
class Config:
    """What its evaluations read of an SAE."""

    model_name: str
    d_in: int
    d_sae: int
    hook_layer: int
    hook_name: str
    """As TransformerLens has it."""
    context_size: int
    architecture: str
    dtype: str = "float32"
    device: str = "cpu"
    hook_head_index: int | None = None
    apply_b_dec_to_input: bool = False
    finetuning_scaling_factor: bool = False
    activation_fn_str: str = ""
    activation_fn_kwargs: dict[str, Any] = field(default_factory=dict)
    prepend_bos: bool = True
    normalize_activations: str = "none"
    model_from_pretrained_kwargs: dict[str, Any] = field(default_factory=dict)
    dataset_path: str = ""
    dataset_trust_remote_code: bool = False
    seqpos_slice: tuple[None, ...] = (None,)
    training_tokens: int = -1
    sae_lens_training_version: str | None = None
    neuronpedia_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


class SAEBenchSAE(nn.Module):
    """The adapter. Weights are its own: a change of theirs leaves the dictionary as it was."""

    W_enc: nn.Parameter
    b_enc: nn.Parameter
    W_dec: nn.Parameter
    b_dec: nn.Parameter

    def __init__(self, sae: Dictionary, cfg: Config) -> None:
        super().__init__()
        self.sae, self.cfg = sae, cfg
        for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
            self.register_parameter(name, getattr(sae, name))  # the same memory, so that both go where one goes

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.W_enc.dtype

    @property
    def device(self) -> torch.device:
        """Of the weights."""
        return self.W_enc.device

    def encode(self, x: Tensor) -> Tensor:
        """f, (..., D) -> (..., F)."""
        return self.sae.encode(x)

    def decode(self, f: Tensor) -> Tensor:
        """x̂, (..., F) -> (..., D)."""
        return self.sae.decode(f)

    def forward(self, x: Tensor) -> Tensor:
        """x̂, in the dtype of x."""
        return self.sae(x)  # type: ignore[no-any-return]

    def to(self, *args: Any, **kwargs: Any) -> SAEBenchSAE:
        """As `nn.Module.to`; the configuration says where it went."""
        super().to(*args, **kwargs)
        self.cfg.dtype, self.cfg.device = str(self.dtype).removeprefix("torch."), str(self.device)
        return self


def for_saebench(
    sae: Dictionary, *, model: str, hook: str, context: int = 128, training_tokens: int = -1
) -> SAEBenchSAE:
    """The object for `sae_bench`'s evaluations. `model`: TransformerLens' name; `hook`: ours, such as resid_post.3.

    Its sequences begin with a BOS, unless the files say no that the dictionary was loaded from.

    Raises `UserError` where x̂ is no function of f alone, E is not D, or the hook names no layer.
    """
    if sae.needs_x or sae.width != sae.W_dec.shape[1]:
        what = "is a transcoder" if sae.per_token is None else f"undoes the {sae.per_token.name} of each token"
        raise UserError(f"SAEBench decodes f alone, and this dictionary {what}; it cannot be evaluated there")
    cfg = config_of(sae, model=model, hook=hook, context=context, training_tokens=training_tokens)
    if cfg.hook_layer < 0:
        raise UserError(f"hook {hook} names no layer, which SAEBench asks for; give one such as resid_post.3")
    own = sae.changed({name: weight.clone() for name, weight in sae.weights.items()})
    if sae.nonlinearity.name in SCALES:
        own = own.changed(_unit(own))
    return SAEBenchSAE(own, cfg)


def config_of(
    sae: Dictionary,
    *,
    model: str,
    hook: str,
    context: int,
    training_tokens: int = -1,
    transcoder: bool = False,
) -> Config:
    """What its evaluations read of a dictionary; hook_layer is -1 where the hook names none."""
    layer = re.search(r"\.(\d+)(?:\.|$)", hook)
    return Config(
        model_name=model,
        d_in=sae.width,
        d_sae=sae.features,
        hook_layer=int(layer[1]) if layer else -1,
        hook_name=transformer_lens(hook),
        context_size=context,
        architecture=architecture_of(sae, transcoder),
        training_tokens=training_tokens,
        prepend_bos=getattr(sae.cfg, "prepend_bos", None) is not False,
    )


def _unit(sae: Dictionary) -> dict[str, Tensor]:
    """Weights with rows of W_dec of length 1, and f times what they are divided by; a row of length 0 is silent."""
    w = sae.weights
    norm_F = w["W_dec"].double().norm(dim=1).to(w["W_dec"].dtype)
    return unit_rows(w) | {name: w[name] * norm_F for name in ("threshold", "b_mag") if name in w}
