"""Models that other libraries put in a wrapper: the module that runs, and their names of places in it.

nnsight, nnterp    NNsight, LanguageModel, StandardizedTransformer, any Envoy: the module that their traces run
TransformerLens    a TransformerBridge is a module; `blocks.3.hook_mlp_out` is another name of a hook point in it
ours               LanguageModel.model
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from unmix.errors import UserError
from unmix.hooknames import KINDS, canonical, transformer_lens
from unmix.lm.model import LanguageModel, means_added

_INSIDE = ("_module", "_model", "model")
"""Where the module is: in an Envoy of nnsight 0.4 and later, in an NNsight before that, in a model of ours."""


def module_of(model: object) -> nn.Module:
    """The module that runs when the model does; a module as it is.

    Raises `UserError` if there is none, or if its weights are not loaded: then another module will run.
    """
    found = model
    if not isinstance(model, nn.Module):
        inside = getattr(model, "__dict__", {})
        found = next((inside[name] for name in _INSIDE if isinstance(inside.get(name), nn.Module)), None)
    name = type(model).__name__
    if not isinstance(found, nn.Module):
        raise UserError(
            f"{name} is no model that runs here; give a torch module, or a model of transformers, TransformerLens, "
            "nnsight or nnterp"
        )
    weights = list(found.parameters())
    if weights and all(weight.is_meta for weight in weights):
        raise UserError(f"{name}: its weights are not loaded; load them first (nnsight: dispatch=True)")
    return found


def place_name(model: nn.Module, hook: str) -> str:
    """The hook under a name that `find_place` knows: in a TransformerBridge, the path of the hook point that is meant.

    Its blocks are laid out by other names than those of `transformers`, so what a block adds is only known by its hook
    points. Raises `UserError` where it has none of that name.
    """
    hook_point = getattr(model, "get_hook_point", None)
    if hook_point is None:
        return hook
    theirs = transformer_lens(canonical(hook))
    point = hook_point(theirs)
    paths: dict[int, str] = {id(module): path for path, module in model.named_modules()}
    if id(point) in paths:
        return paths[id(point)]
    if canonical(hook).partition(".")[0] in KINDS:
        raise UserError(f"hook {hook}: the {type(model).__name__} has no {theirs}; name one that is in its hook_dict")
    return hook


def language_model_of(model: object) -> LanguageModel:
    """What reads activations in the model: ours as it is, or one around the module and the tokenizer of another
    library's. Raises `UserError` if it has no tokenizer, or is no language model of `transformers` inside.
    """
    if isinstance(model, LanguageModel):
        return model
    module, name = module_of(model), type(model).__name__
    tokenizer, config = getattr(model, "tokenizer", None), getattr(module, "config", None)
    if tokenizer is None or not hasattr(config, "get_text_config"):
        lacks = "no tokenizer" if tokenizer is None else "no configuration of transformers"
        raise UserError(f"{name} has {lacks}; give unmix.load_model(NAME), or a model of nnsight or nnterp")
    return LanguageModel(module, tokenizer, str(getattr(config, "name_or_path", "") or name), fingerprint="")


def require_added(model: nn.Module, hooks: Sequence[str]) -> None:
    """`LanguageModel.require_added` of a model of `transformers`, on a few tokens. Other modules have no hooks but
    paths and hook points, which mean what they give."""
    added = [hook for hook in hooks if means_added(hook)]
    if added and hasattr(getattr(model, "config", None), "get_text_config"):
        lm = LanguageModel(model, None, type(model).__name__, fingerprint="")
        lm.require_added(lm.few_ids(), added)
