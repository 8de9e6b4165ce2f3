"""unmix: sparse autoencoders for language-model activations.

run = unmix.sweep(model="gpt2", hook="resid_pre.8", corpus="texts/", l0=[20, 50])
sae = run.sae()
with unmix.splice(model, "resid_post.3", sae):
    logits = model(ids).logits
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = [
    "Run", "error_of", "load_model", "load_sae", "open_run", "splice", "steered", "sweep", "to_sae_lens",
    "top_features", "with_feature",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """What `__all__` names, imported when first asked for: `import unmix` stays light."""
    if name == "load_sae":
        from unmix.interop.load import load_sae

        return load_sae
    if name in ("Run", "load_model", "open_run", "sweep", "top_features"):
        from unmix import front

        return getattr(front, name)
    if name == "to_sae_lens":
        from unmix.interop.to_sae_lens import to_sae_lens

        return to_sae_lens
    if name in __all__:
        from unmix.evaluation import splice

        return getattr(splice, name)
    raise AttributeError(f"module 'unmix' has no attribute {name!r}")
