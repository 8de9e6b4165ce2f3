"""Names of places in a language model.

    resid_pre.L    the input of block L
    resid_post.L   the output of block L; the last one is before the final norm
    attn_out.L     what block L's attention adds to the residual stream
    mlp_out.L      what block L's MLP adds to it
    a.b.c          the output of any module, by its path
    a.b.c.input    its input; the end of a path will do if no other path has it (`layers.5.mlp.input`)

    resid_pre + attn_out + mlp_out = resid_post                          (`LanguageModel.check_contributions`)

What is added is the module's output in most families. Where a norm stands behind the branch (Gemma 2 and 3, OLMo 2 and
3, EXAONE 4, GLM-4), it is the norm's output; where the block multiplies it (Granite), the product; where the module
adds the residual stream itself (BLOOM, MPT), its output without that. TransformerLens' names (`blocks.3.hook_mlp_out`)
mean the same places; in a model of TransformerLens they are its own hook points. A module that is no language model has
its paths alone. What circuit-tracer calls `blocks.3.mlp.hook_in` is the input of block 3's MLP.
"""

from __future__ import annotations

import difflib
import re
from typing import Any

from torch import nn

from unmix.errors import UserError
from unmix.hooknames import KINDS, canonical, of_layers, ranges, transformer_lens
from unmix.lm.places import Place, takes

_ATTENTION = ("self_attn", "attn", "attention", "self_attention", "linear_attn")
_MLP = ("mlp", "fc2", "feed_forward", "ffn", "block_sparse_moe")  # fc2: OPT has no module around its MLP
_NORM_BEHIND = {
    # a norm of the second name is behind attention only in blocks that have one behind the MLP too: elsewhere it is
    # the norm before the MLP
    "attn_out": ("post_self_attn_layernorm", "post_attention_layernorm"),
    "mlp_out": ("post_mlp_layernorm", "post_feedforward_layernorm"),
}
_ADDED_INSIDE = "residual"
"""What BLOOM and MPT call the argument that a module adds to its output."""
_INPUT = ".input"
_MLP_IN = re.compile(r"blocks\.(\d+)\.mlp\.hook_in")
_OTHER_TOWERS = ("vision", "visual", "audio", "image", "speech")


def find_place(model: nn.Module, hook: str) -> Place:
    """The place that `hook` names. Raises `UserError` if there is none, with what the model has."""
    kind, _, layer = canonical(hook).partition(".")
    modules = dict(model.named_modules())
    if hook and (theirs := transformer_lens(canonical(hook))) in modules:
        return Place(modules[theirs], "output")
    if kind in KINDS and _is_language_model(model):
        blocks = find_blocks(model)
        if not (layer.isascii() and layer.isdigit() and int(layer) < len(blocks)):
            raise UserError(f"hook {hook}: the model has {kind}.0 to {kind}.{len(blocks) - 1}")
        block = blocks[int(layer)]
        if kind == "resid_pre":
            return Place(block, "input")
        if kind == "resid_post":
            return Place(block, "output")
        return _contribution(block, kind, hook)
    if hook and hook in modules:
        return Place(modules[hook], "output")
    if (read := _input(model, modules, hook)) is not None:
        return Place(read, "input")
    if not _is_language_model(model):
        close = [path for path in modules if hook and path.endswith(f".{hook}")]
        some = close[:1] or difflib.get_close_matches(hook, list(modules), 1, 0.0) or list(modules)[-1:]
        raise UserError(f"{type(model).__name__} has no module {hook!r}; give the path of one, such as {some[0]}")
    layers = len(find_blocks(model))
    raise UserError(
        f"unknown hook {hook!r}; {_meant(hook, list(modules), layers)}the model has {ranges(layers)}, "
        f"or a module path such as {list(modules)[-1]}"
    )


def _is_language_model(model: nn.Module) -> bool:
    """Whether it has a configuration as those of `transformers` do."""
    return hasattr(getattr(model, "config", None), "get_text_config")


def _input(model: nn.Module, modules: dict[str, nn.Module], hook: str) -> nn.Module | None:
    """The module whose input the hook is; None if it is no such name, or there is no such module, or several."""
    if (found := _MLP_IN.fullmatch(hook)) and _is_language_model(model):
        blocks = find_blocks(model)
        children = dict(blocks[int(found[1])].named_children()) if int(found[1]) < len(blocks) else {}
        return next((children[name] for name in _MLP if name in children), None)
    path = hook.removesuffix(_INPUT)
    if path == hook:
        return None
    close = [path] if path in modules else [name for name in modules if name.endswith(f".{path}")]
    return modules[close[0]] if path and len(close) == 1 else None


def _contribution(block: nn.Module, kind: str, hook: str) -> Place:
    """What one branch of a block adds to the residual stream."""
    children = dict(block.named_children())
    found = next((name for name in (_ATTENTION if kind == "attn_out" else _MLP) if name in children), None)
    if found is None:
        there = ", ".join(children)
        raise UserError(f"hook {hook}: its block has no such module; name one of {there} by its path")
    behind = [name for name in _NORM_BEHIND[kind] if name in children]
    if behind and (behind[0] != "post_attention_layernorm" or "post_feedforward_layernorm" in children):
        return Place(children[behind[0]], "output")
    module = children[found]
    factor = float(getattr(block, "residual_multiplier", 1.0))
    return Place(module, "output", factor, _ADDED_INSIDE if takes(module, _ADDED_INSIDE) else "")


def _meant(hook: str, paths: list[str], layers: int) -> str:
    """A guess, as a question: the paths that end in what was given, else a name that is spelled like it."""
    ending = [path for path in paths if hook and path.endswith(f".{hook}")]
    known = of_layers(layers) + [path for path in paths if path]
    close = ending[:1] or difflib.get_close_matches(hook, known, 1, 0.6)
    return f"did you mean {close[0]}? " if close else ""


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks in order: the outermost ModuleList with as many entries as the model has layers."""
    layers = text_config(model).num_hidden_layers
    for path, module in model.named_modules():
        other = any(word in path for word in _OTHER_TOWERS)
        if isinstance(module, nn.ModuleList) and len(module) == layers and not other:
            return list(module)
    raise UserError(f"{type(model).__name__} has no list of {layers} blocks; name hooks by module path")


def text_config(model: nn.Module) -> Any:
    """The configuration of the text part, which for a text-only model is the whole."""
    return model.config.get_text_config()  # type: ignore[operator, union-attr]
