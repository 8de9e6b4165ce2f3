"""A dictionary as an object of sae-lens (6.54.12), and its classes for what it does not know.

`register` makes SAELens know `unmix_tanh_relu`, and `unmix_KIND_transcoder`, `unmix_KIND_skip_transcoder`
of topk, abstopk and tanh_relu: after it, `sae_lens.SAE.load_from_disk` opens our folders of these too. Transcoders that
undo on y what was done to each token of x, and gated ones, are refused: its classes have no place for that.
"""

from __future__ import annotations

import importlib
import tempfile
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from unmix.dictionary.files import ARCHITECTURES, OUR_TRANSCODERS, architecture_of, save_sae
from unmix.dictionary.model import Dictionary
from unmix.dictionary.nonlinearities import AbsTopK, Nonlinearity, TanhRelu, TopK
from unmix.errors import UserError
from unmix.interop.origin import Origin

CHOOSES: dict[str, type[TopK] | type[AbsTopK]] = {"topk": TopK, "abstopk": AbsTopK}


def to_sae_lens(
    sae: Dictionary,
    *,
    model: str | None = None,
    hook: str | None = None,
    context: int | None = None,
    hook_out: str | None = None,
    transcoder: bool | None = None,
) -> Any:
    """A `sae_lens.SAE` on the CPU in float32 with the same f and ŷ; hooks in our names. `transcoder` as `save_sae`.

    What is not given is as the files say that the dictionary was loaded from (`sae.cfg`); its metadata has what else
    they say of the training, as `unmix convert` writes it. At a hook_z it takes x [..., heads, width of a head], as
    SAELens does.

    Raises `UserError` if sae-lens is not installed, or has no class that computes the same.
    """
    sae_lens = register()
    made = sae.cfg if isinstance(sae.cfg, Origin) else Origin(format="", architecture="")
    transcoder = made.transcoder if transcoder is None else transcoder
    maps = transcoder or sae.skip is not None
    architecture = architecture_of(sae, maps)
    registry = importlib.import_module("sae_lens.registry")
    if architecture not in registry.SAE_CLASS_REGISTRY or (maps and sae.per_token is not None):
        T = "" if sae.per_token is None else f" that undoes its {sae.per_token.name} of each token"
        raise UserError(f"sae-lens has no class for a {sae.nonlinearity.name} transcoder{T}; unmix.load_sae opens it")
    with tempfile.TemporaryDirectory() as folder:
        save_sae(
            sae,
            Path(folder),
            model=model or made.model,
            hook=hook or made.hook,
            context=context or made.context,
            more=made.metadata(sae.longest),
            hook_out=hook_out or made.hook_out,
            transcoder=transcoder,
        )
        return sae_lens.SAE.load_from_disk(folder, device="cpu")


def register() -> Any:
    """The module `sae_lens`, which then opens what it did not know. Raises `UserError` if it is not installed."""
    try:
        sae_lens = importlib.import_module("sae_lens")
    except ImportError:
        raise UserError("sae-lens is not installed; `pip install sae-lens` brings it") from None
    registry = importlib.import_module("sae_lens.registry")
    saes = importlib.import_module("sae_lens.saes.standard_sae")
    transcoders = importlib.import_module("sae_lens.saes.transcoder")
    bases = {ARCHITECTURES["tanh_relu"]: ("tanh_relu", saes.StandardSAE, saes.StandardSAEConfig)}
    for name, phi in OUR_TRANSCODERS.items():
        if phi in ("tanh_relu", *CHOOSES):
            kind = "SkipTranscoder" if name.endswith("skip_transcoder") else "Transcoder"
            bases[name] = (phi, getattr(transcoders, kind), getattr(transcoders, f"{kind}Config"))
    for name, (phi, base, config) in bases.items():
        if name not in registry.SAE_CLASS_REGISTRY:
            registry.register_sae_class(name, *_classes(name, phi, base, config))
    return sae_lens


def _classes(name: str, phi: str, base: Any, config: Any) -> tuple[Any, Any]:
    """Of an architecture: a class of theirs with another nonlinearity, and its configuration."""

    def architecture(cls: Any) -> str:
        return name

    def undoes_nothing(self: Any) -> None:
        if self.normalize_activations != "none":
            raise UserError(
                f"normalize_activations = {self.normalize_activations} of a {name} is undone on y, which sae-lens does "
                "not do in a transcoder; unmix.load_sae opens it"
            )
        config.__post_init__(self)

    keys = [("k", int, 0), ("rescale_acts_by_decoder_norm", bool, False)] if phi in CHOOSES else []
    own: dict[str, Any] = {"architecture": classmethod(architecture)}
    own |= {"__post_init__": undoes_nothing} if name in OUR_TRANSCODERS else {}
    theirs = make_dataclass(f"{name}_config", keys, bases=(config,), namespace=own)

    def get_activation_fn(self: Any) -> Any:
        return _Alone(CHOOSES[phi](self.cfg.k, weigh_by_norm=False) if phi in CHOOSES else TanhRelu())

    def fold_W_dec_norm(self: Any) -> Any:
        raise NotImplementedError(f"f of {name} does not scale with z, so that rows of W_dec keep their length")

    more: dict[str, Any] = {"get_activation_fn": get_activation_fn}
    if phi == "tanh_relu":
        more["fold_W_dec_norm"] = more["fold_and_get_W_dec_norm"] = fold_W_dec_norm
    return type(name, (base,), more), theirs


@dataclass(frozen=True)
class _Alone:
    """A nonlinearity without parameters, of z [..., F]; it can be copied and pickled, as sae-lens copies SAEs."""

    phi: Nonlinearity

    def __call__(self, z: Tensor) -> Tensor:
        return self.phi(z, {})
