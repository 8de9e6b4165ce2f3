"""unmix: sparse autoencoders for language-model activations.

run = unmix.sweep(model="gpt2", hook="resid_pre.8", corpus="texts/", l0=[20, 50])
sae = run.sae()
with unmix.splice(model, "resid_post.3", sae):
    logits = model(ids).logits
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = [
    "Run", "error_of", "load_model", "load_sae", "open_run", "splice", "steered", "sweep", "to_sae_lens",
    "top_features", "with_feature",
]  # fmt: skip

if TYPE_CHECKING:  # for editors and type checkers: as they are, not as `__getattr__` finds them
    from unmix.evaluation.splice import error_of, splice, steered, with_feature
    from unmix.front import Run, load_model, open_run, sweep, top_features
    from unmix.interop.load import load_sae
    from unmix.interop.to_sae_lens import to_sae_lens
else:
    _MODULES = {
        "Run": "front", "load_model": "front", "open_run": "front", "sweep": "front", "top_features": "front",
        "error_of": "evaluation.splice", "splice": "evaluation.splice", "steered": "evaluation.splice",
        "with_feature": "evaluation.splice",
        "load_sae": "interop.load",
        "to_sae_lens": "interop.to_sae_lens",
    }  # fmt: skip

    def __getattr__(name):
        """What `__all__` names, imported when first asked for: `import unmix` stays light."""
        if name not in _MODULES:
            raise AttributeError(f"module 'unmix' has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(f"unmix.{_MODULES[name]}"), name)

    def __dir__():
        """The names too that are not imported yet, for whoever completes them."""
        return sorted({*globals(), *__all__})
