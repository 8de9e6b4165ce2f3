"""TransformerLens' names of places inside a block, and paths that are places of ours, in every family."""

import pytest
import torch
from tiny_models import LAYERS, tiny_model_folder
from torch import nn

from unmix.config import ModelConfig
from unmix.errors import UserError
from unmix.evaluation.splice import splice
from unmix.lm.hooks import find_blocks, find_place, module_path, usual_name
from unmix.lm.model import load_language_model

L = LAYERS - 1
Z, POST = f"blocks.{L}.attn.hook_z", f"blocks.{L}.mlp.hook_post"
MIDDLE = f"blocks.{L}.hook_resid_mid"
EXPERTS = {
    "granitemoe", "mixtral", "qwen2_moe", "qwen3_moe", "qwen3_next", "gpt_oss", "llama4_text", "olmoe", "phimoe",
    "glm4_moe", "deepseek_v3", "minimax",
}  # fmt: skip
PARALLEL = {"gpt_neox", "gptj", "codegen", "phi", "falcon", "cohere", "cohere2"}
NOT_ADDED_UP = {"gemma4_text", "minimax", "openai-gpt"}
"""Their attn_out is refused (docs/hooks.md), and what lies behind it with it."""
NO_ATTENTION = {"mamba2", "dbrx"}
"""In their blocks no module gives what attention adds."""
ADDS = {"bloom", "mpt"}
"""Their modules add the residual stream themselves."""


def read(lm, ids_NT, *hooks):
    found = lm.activations(ids_NT, hooks)
    return [found[hook] for hook in hooks]


def product(module, x_NTD):
    """What a linear layer makes of x; GPT-2's is laid out the other way round."""
    with torch.no_grad():
        return module(x_NTD)


def test_hook_z_is_what_the_output_projection_reads(family, lm, ids_NT):
    if family in NO_ATTENTION:
        with pytest.raises(UserError, match="its block has no such module"):
            find_place(lm.model, Z)
        return
    z_NTD, out_NTD = read(lm, ids_NT, Z, f"attn_out.{L}" if family in ADDS else f"blocks.{L}.attn.hook_out")
    torch.testing.assert_close(product(find_place(lm.model, Z).module, z_NTD), out_NTD, rtol=1e-4, atol=1e-6)


def test_hook_post_is_what_the_down_projection_reads(family, lm, ids_NT):
    if family in EXPERTS | NO_ATTENTION:
        with pytest.raises(UserError, match=rf"hook {POST}.*(name a module by its path|by its path)"):
            find_place(lm.model, POST)
        return
    post_NTF, out_NTD = read(lm, ids_NT, POST, f"mlp_out.{L}" if family in ADDS else f"blocks.{L}.mlp.hook_out")
    made_NTD = product(find_place(lm.model, POST).module, post_NTF)
    torch.testing.assert_close(made_NTD, out_NTD, rtol=1e-4, atol=1e-6)


def test_the_middle_is_what_the_mlp_reads_and_what_it_adds_to(family, lm, ids_NT):
    if family in PARALLEL | NO_ATTENTION:
        said = "has no such module" if family in NO_ATTENTION else "run in parallel"
        with pytest.raises(UserError, match=rf"hook {MIDDLE}: .*{said}"):
            find_place(lm.model, MIDDLE)
        return
    if family in NOT_ADDED_UP:
        with pytest.raises(UserError, match=rf"hook {MIDDLE}: .*the residual stream in its middle"):
            lm.check_contributions(ids_NT, [MIDDLE])
        return
    lm.check_contributions(ids_NT, [MIDDLE])
    before, added, middle, mlp, after = read(
        lm, ids_NT, f"resid_pre.{L}", f"attn_out.{L}", MIDDLE, f"mlp_out.{L}", f"resid_post.{L}"
    )
    torch.testing.assert_close(middle, before + added)
    torch.testing.assert_close(middle + mlp, after, rtol=1e-4, atol=1e-5)
    # what attention adds is taken out, so that the middle is resid_pre: the MLP reads that, and adds to it
    with splice(lm.model, MIDDLE, lambda x: before.to(x.dtype)):
        _, now, then = read(lm, ids_NT, MIDDLE, f"mlp_out.{L}", f"resid_post.{L}")
    assert not torch.allclose(now, mlp, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(before + now, then, rtol=1e-4, atol=1e-5)


def test_the_middle_is_the_input_of_the_norm_before_the_mlp(ids_NT):
    """By the module that reads it, where there is one."""
    norms = {
        "gpt2": "ln_2", "llama": "post_attention_layernorm", "gemma2": "pre_feedforward_layernorm",
        "gemma3_text": "pre_feedforward_layernorm", "opt": "final_layer_norm", "bloom": "post_attention_layernorm",
        "mpt": "norm_2", "olmo2": "mlp", "granite": "post_attention_layernorm",
    }  # fmt: skip
    for family, norm in norms.items():
        lm = load_language_model(ModelConfig(name=str(tiny_model_folder(family))))
        block = find_blocks(lm.model)[L]
        path = next(path for path, module in lm.model.named_modules() if module is block)
        middle, wanted = read(lm, ids_NT, MIDDLE, f"{path}.{norm}.input")
        assert torch.equal(middle, wanted), family


def test_putting_it_back_changes_nothing_and_something_else_does(family, lm, ids_NT):
    untouched = lm.logits(ids_NT)
    for hook in (Z, POST, MIDDLE, f"blocks.{L}.mlp.hook_in", f"blocks.{L}.attn.hook_out", f"blocks.{L}.mlp.hook_out"):
        try:
            find_place(lm.model, hook)
            lm.check_contributions(ids_NT, [hook])
        except UserError:
            continue
        [x_NTD] = read(lm, ids_NT, hook)
        seen = []
        with splice(lm.model, hook, lambda x: seen.append(x.clone()) or x):  # noqa: B023
            again = lm.logits(ids_NT)
        assert torch.equal(seen[0].float(), x_NTD), hook
        assert torch.allclose(again, untouched, rtol=1e-4, atol=1e-5), hook
        with splice(lm.model, hook, lambda x: x.mean((0, 1)).expand_as(x)):
            assert not torch.allclose(lm.logits(ids_NT), untouched, rtol=1e-4, atol=1e-5), hook
    assert torch.equal(lm.logits(ids_NT), untouched), "a hook was left behind"


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text"])
def test_gemma_s_hook_out_is_before_the_norm(family, ids_NT):
    lm = load_language_model(ModelConfig(name=str(tiny_model_folder(family))))
    block = find_blocks(lm.model)[L]
    for branch, ours, norm in (
        ("attn", "attn_out", block.post_attention_layernorm),
        ("mlp", "mlp_out", block.post_feedforward_layernorm),
    ):
        before, after = read(lm, ids_NT, f"blocks.{L}.{branch}.hook_out", f"{ours}.{L}")
        torch.testing.assert_close(product(norm, before), after)
        assert not torch.allclose(before, after, rtol=0.1)


def test_both_places_at_once_in_either_order(ids_NT):
    """The middle is made of what goes into the block as another replacement leaves it."""
    lm = load_language_model(ModelConfig(name=str(tiny_model_folder("gpt2"))))
    hooks = {MIDDLE: torch.clone, f"resid_pre.{L}": lambda x: 2 * x}
    with splice(lm.model, hooks):
        one = lm.logits(ids_NT)
    with splice(lm.model, dict(reversed(hooks.items()))):
        other = lm.logits(ids_NT)
    with splice(lm.model, f"resid_pre.{L}", lambda x: 2 * x):
        wanted = lm.logits(ids_NT)
    for found in (one, other):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_layer_that_is_not_there_is_one_line(ids_NT):
    lm = load_language_model(ModelConfig(name=str(tiny_model_folder("llama"))))
    for part in ("attn.hook_z", "mlp.hook_post", "hook_resid_mid"):
        with pytest.raises(UserError, match=f"the model has blocks 0 to {L}"):
            find_place(lm.model, f"blocks.{LAYERS}.{part}")


def test_a_path_has_our_name_where_it_is_the_same_tensor(family, lm):
    for kind in ("resid_pre", "resid_post", "attn_out", "mlp_out"):
        hook = f"{kind}.1"
        try:
            path = module_path(lm.model, hook)
        except UserError:  # a family without attention
            continue
        if path is None:
            assert family in ("granite", "granitemoe", "bloom", "mpt"), hook
            continue
        assert find_place(lm.model, path) == find_place(lm.model, hook)
        assert usual_name(lm.model, path) == hook
        if path.endswith(".output"):
            assert usual_name(lm.model, path.removesuffix(".output")) == hook
    assert usual_name(lm.model, "blocks.1.hook_resid_post") == "resid_post.1"
    first = next(path for path, module in lm.model.named_modules() if isinstance(module, nn.Embedding))
    assert usual_name(lm.model, first) == first


def test_the_paths_are_those_of_transformers():
    wanted = {
        "gpt2": ("transformer.h.1.output", "transformer.h.1.attn.output", "transformer.h.1.mlp.output"),
        "gpt_neox": ("gpt_neox.layers.1.output", "gpt_neox.layers.1.attention.output", "gpt_neox.layers.1.mlp.output"),
        "gemma2": (
            "model.layers.1.output",
            "model.layers.1.post_attention_layernorm.output",
            "model.layers.1.post_feedforward_layernorm.output",
        ),
    }
    for family, paths in wanted.items():
        model = load_language_model(ModelConfig(name=str(tiny_model_folder(family)))).model
        assert tuple(module_path(model, f"{kind}.1") for kind in ("resid_post", "attn_out", "mlp_out")) == paths
        assert module_path(model, "resid_pre.1") == paths[0].replace("output", "input")
    llama = load_language_model(ModelConfig(name=str(tiny_model_folder("llama")))).model
    assert module_path(llama, "blocks.1.attn.hook_z") == "model.layers.1.self_attn.o_proj.input"
    assert module_path(llama, "blocks.1.hook_resid_mid") is None
    assert usual_name(llama, "model.layers.1.self_attn.output") == "attn_out.1"
    assert usual_name(llama, "model.layers.1.self_attn.o_proj.output") == "model.layers.1.self_attn.o_proj.output"
