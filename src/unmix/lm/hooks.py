"""Names of places in a language model.

    resid_pre.L    the input of block L
    resid_post.L   the output of block L; the last one is before the final norm
    attn_out.L     the output of block L's attention module
    mlp_out.L      the output of block L's MLP
    a.b.c          the output of any module, by its path

Where a block normalises a branch before it adds it (Gemma 2 and 3), `attn_out` and `mlp_out` are what the
module gives, before that norm.
"""

from __future__ import annotations

import difflib
from typing import Any, Literal, NamedTuple

from torch import nn

from unmix.errors import UserError

KINDS = ("resid_pre", "resid_post", "attn_out", "mlp_out")
_ATTENTION = ("self_attn", "attn", "attention", "self_attention", "linear_attn")
_MLP = ("mlp", "fc2", "feed_forward", "ffn", "block_sparse_moe")  # fc2: OPT has no module around its MLP
_OTHER_TOWERS = ("vision", "visual", "audio", "image", "speech")


class Place(NamedTuple):
    """Where a hook reads."""

    module: nn.Module
    side: Literal["input", "output"]


def find_place(model: nn.Module, hook: str) -> Place:
    """The place that `hook` names. Raises `UserError` if there is none, with what the model has."""
    kind, _, layer = hook.partition(".")
    if kind in KINDS:
        blocks = find_blocks(model)
        if not (layer.isascii() and layer.isdigit() and int(layer) < len(blocks)):
            raise UserError(f"hook {hook}: the model has {kind}.0 to {kind}.{len(blocks) - 1}")
        block = blocks[int(layer)]
        if kind == "resid_pre":
            return Place(block, "input")
        if kind == "resid_post":
            return Place(block, "output")
        children = dict(block.named_children())
        for name in _ATTENTION if kind == "attn_out" else _MLP:
            if name in children:
                return Place(children[name], "output")
        raise UserError(f"hook {hook}: block {layer} has no such module; name one of {', '.join(children)} by its path")
    modules = dict(model.named_modules())
    if hook and hook in modules:
        return Place(modules[hook], "output")
    last = len(find_blocks(model)) - 1
    known = [f"{kind}.{layer}" for kind in KINDS for layer in range(last + 1)] + [path for path in modules if path]
    close = difflib.get_close_matches(hook, known, 1, 0.6)
    meant = f"did you mean {close[0]}? " if close else ""
    ranges = ", ".join(f"{kind}.0 … {kind}.{last}" for kind in KINDS)
    raise UserError(f"unknown hook {hook!r}; {meant}the model has {ranges}, or a module path such as {known[-1]}")


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
