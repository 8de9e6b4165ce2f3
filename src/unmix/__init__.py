"""unmix: sparse autoencoders for language-model activations.

sae = unmix.load_sae("runs/demo/members/l0-40-extended/step-000001800")
with unmix.splice(model, "resid_post.3", sae):
    logits = model(ids).logits
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["error_of", "load_sae", "splice", "with_feature"]


def __getattr__(name: str) -> Any:
    """`load_sae` and the splices, imported when first asked for: `import unmix` stays light."""
    if name == "load_sae":
        from unmix.interop.load import load_sae

        return load_sae
    if name in __all__:
        from unmix.evaluation import splice

        return getattr(splice, name)
    raise AttributeError(f"module 'unmix' has no attribute {name!r}")
