"""Names of places in a language model.

    resid_pre.L    the input of block L
    resid_post.L   the output of block L; the last one is before the final norm
    attn_out.L     what block L's attention adds to the residual stream
    mlp_out.L      what block L's MLP adds to it
    a.b.c          the output of any module, by its path; `a.b.c.output` is the same
    a.b.c.input    its input; the end of a path will do if no other path has it (`layers.5.mlp.input`)

    resid_pre + attn_out + mlp_out = resid_post                          (`LanguageModel.check_contributions`)

What is added is the module's output in most families. Where a norm stands behind the branch (Gemma 2 and 3, OLMo 2 and
3, EXAONE 4, GLM-4), it is the norm's output; where the block multiplies it (Granite), the product; where the module
adds the residual stream itself (BLOOM, MPT), its output without that. TransformerLens' names (`blocks.3.hook_mlp_out`)
mean the same places; in a model of TransformerLens they are its own hook points. A module that is no language model has
its paths alone. Of their other names these are understood:

    blocks.L.attn.hook_z         what goes into the attention's output projection, the heads side by side
    blocks.L.attn.hook_out       the output of the attention module, before a norm behind it
    blocks.L.mlp.hook_in         the input of the MLP
    blocks.L.mlp.hook_post       what goes into its down projection; a mixture of experts has none
    blocks.L.mlp.hook_out        the output of the MLP module, before a norm behind it
    blocks.L.hook_resid_mid      resid_pre + attn_out, which the MLP reads; none where both run in parallel
"""

from __future__ import annotations

import difflib
import re
from contextlib import suppress
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
_OUTPUT = ".output"
_INSIDE = re.compile(r"blocks\.(\d+)\.(attn\.hook_z|(?:attn|mlp)\.hook_out|mlp\.hook_in|mlp\.hook_post|hook_resid_mid)")
MIDDLE = re.compile(r"blocks\.(\d+)\.hook_resid_mid")
_OUT_PROJECTION = ("o_proj", "out_proj", "c_proj", "dense", "wo")
_DOWN_PROJECTION = ("down_proj", "c_proj", "dense_4h_to_h", "fc2", "fc_out", "w2")
_PARALLEL = ("use_parallel_residual", "parallel_attn", "new_decoder_architecture")
"""Keys of the configurations of GPT-NeoX and StableLM, and of Falcon, with which the MLP does not read what attention
adds; other families that have it so have one norm for both."""
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
    if (found := _INSIDE.fullmatch(hook)) and _is_language_model(model):
        return _inside(model, hook, int(found[1]), found[2])
    if (path := hook if hook in modules else hook.removesuffix(_OUTPUT)) and path in modules:
        return Place(modules[path], "output")
    if (read := _input(modules, hook)) is not None:
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


def _input(modules: dict[str, nn.Module], hook: str) -> nn.Module | None:
    """The module whose input the hook is; None if it is no such name, or there is no such module, or several."""
    path = hook.removesuffix(_INPUT)
    if path == hook:
        return None
    close = [path] if path in modules else [name for name in modules if name.endswith(f".{path}")]
    return modules[close[0]] if path and len(close) == 1 else None


def usual_name(model: nn.Module, hook: str) -> str:
    """Ours for a place of ours that has another name (`model.layers.3` -> resid_post.3); other names as they are.

    Raises `UserError` as `find_place`.
    """
    hook = canonical(hook)
    if hook.partition(".")[0] in KINDS or not _is_language_model(model):
        return hook
    place, blocks = find_place(model, hook), list[nn.Module]()
    with suppress(UserError):  # a model without a list of blocks has paths alone
        blocks = find_blocks(model)
    for layer, block in enumerate(blocks):
        if all(place.module is not module for module in block.modules()):
            continue
        for name in (f"{kind}.{layer}" for kind in KINDS):
            with suppress(UserError):  # a block without such a branch
                if find_place(model, name) == place:
                    return name
    return hook


def module_path(model: nn.Module, hook: str) -> str | None:
    """`resid_post.3` -> `transformer.h.3.output`: the module of `transformers`, and the side of it that x is on.

    None where x is made of what a module gives (Granite, BLOOM, the middle of a block). Raises `UserError` as
    `find_place`.
    """
    place = find_place(model, hook)
    if place.factor != 1 or place.adds or place.onto is not None:
        return None
    return next(f"{path}.{place.side}" for path, module in model.named_modules() if module is place.module)


def _inside(model: nn.Module, hook: str, layer: int, part: str) -> Place:
    """A place in a block that TransformerLens has a name for, and we do not."""
    blocks = find_blocks(model)
    if layer >= len(blocks):
        raise UserError(f"hook {hook}: the model has blocks 0 to {len(blocks) - 1}")
    block = blocks[layer]
    if part == "hook_resid_mid":
        return _middle(model, block, hook)
    branch, _, at = part.partition(".")
    module = _branch(block, "attn_out" if branch == "attn" else "mlp_out", hook)
    match at:
        case "hook_out":
            return Place(module, "output")
        case "hook_in":
            bare = not list(module.children())  # OPT's two layers lie in the block
            return Place(dict(block.named_children()).get("fc1", module) if bare else module, "input")
        case "hook_z":
            return Place(_projection(module, hook, _OUT_PROJECTION, list(module.named_modules())), "input")
    return Place(_projection(module, hook, _DOWN_PROJECTION, list(module.named_children())), "input")


def _projection(module: nn.Module, hook: str, names: tuple[str, ...], inside: list[tuple[str, nn.Module]]) -> nn.Module:
    """The one of these modules that has such a name; the module itself if it has no parts."""
    if not list(module.children()):
        return module
    found = [part for path, part in inside if path.rpartition(".")[2] in names]
    if len(found) != 1:
        there = ", ".join(name for name, _ in module.named_children())
        what = "no output projection of its own" if not found else "several output projections"
        raise UserError(f"hook {hook}: {type(module).__name__} has {what}, but {there}; name a module by its path")
    return found[0]


def _middle(model: nn.Module, block: nn.Module, hook: str) -> Place:
    """The residual stream between attention and MLP."""
    added = _contribution(block, "attn_out", hook)
    norms = [name for name, _ in block.named_children() if "norm" in name or name.startswith("ln_")]
    if len(norms) < 2 or any(getattr(text_config(model), key, False) for key in _PARALLEL):
        raise UserError(
            f"hook {hook}: in {type(model).__name__} attention and MLP run in parallel on the same input, so there is "
            "no residual stream between them; use resid_pre or resid_post of that block"
        )
    return added._replace(onto=block)


def _branch(block: nn.Module, kind: str, hook: str) -> nn.Module:
    """The attention or the MLP of a block."""
    children = dict(block.named_children())
    found = next((name for name in (_ATTENTION if kind == "attn_out" else _MLP) if name in children), None)
    if found is None:
        there = ", ".join(children)
        raise UserError(f"hook {hook}: its block has no such module; name one of {there} by its path")
    return children[found]


def _contribution(block: nn.Module, kind: str, hook: str) -> Place:
    """What one branch of a block adds to the residual stream."""
    module, children = _branch(block, kind, hook), dict(block.named_children())
    behind = [name for name in _NORM_BEHIND[kind] if name in children]
    if behind and (behind[0] != "post_attention_layernorm" or "post_feedforward_layernorm" in children):
        return Place(children[behind[0]], "output")
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
    if getattr(model.config, "is_encoder_decoder", False):
        raise UserError(
            f"{type(model).__name__} has blocks in its encoder and in its decoder, and a number does not say which; "
            "name hooks by module path"
        )
    layers = text_config(model).num_hidden_layers
    for path, module in model.named_modules():
        other = any(word in path for word in _OTHER_TOWERS)
        if isinstance(module, nn.ModuleList) and len(module) == layers and not other:
            return list(module)
    raise UserError(f"{type(model).__name__} has no list of {layers} blocks; name hooks by module path")


def text_config(model: nn.Module) -> Any:
    """The configuration of the text part, which for a text-only model is the whole."""
    return model.config.get_text_config()  # type: ignore[operator, union-attr]
