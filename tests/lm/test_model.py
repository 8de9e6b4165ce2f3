"""Hooks give what `output_hidden_states` gives, for every family, and stop the pass where they may."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import CONTEXT, FAMILIES, LAYERS, VOCABULARY, WIDTH, tiny_model_folder, tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from unmix.cli import main
from unmix.config import ModelConfig
from unmix.errors import UserError
from unmix.lm.hooks import find_blocks
from unmix.lm.model import LanguageModel, load_language_model

NORM_AFTER = ("gemma2", "gemma3_text")  # these normalise a branch before adding it


def load(family: str = "gpt2", dtype: str = "float32") -> LanguageModel:
    return load_language_model(ModelConfig(name=str(tiny_model_folder(family)), dtype=dtype))


@pytest.fixture(scope="module", params=FAMILIES)
def lm(request: pytest.FixtureRequest) -> LanguageModel:
    return load(request.param)


@pytest.fixture(name="ids_NT")
def ids() -> torch.Tensor:
    return torch.randint(1, VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(0))


def every(kind: str) -> list[str]:
    return [f"{kind}.{layer}" for layer in range(LAYERS)]


def test_the_residual_stream_is_what_transformers_says(lm: LanguageModel, ids_NT: torch.Tensor) -> None:
    with torch.no_grad():
        hidden = lm.model(ids_NT, output_hidden_states=True, use_cache=False).hidden_states
    got = lm.activations(ids_NT, every("resid_pre") + every("resid_post"))
    for layer in range(LAYERS):
        assert torch.equal(got[f"resid_pre.{layer}"], hidden[layer])
        if layer + 1 < LAYERS:  # the last of hidden_states is after the final norm
            assert torch.equal(got[f"resid_post.{layer}"], hidden[layer + 1])
            assert torch.equal(got[f"resid_post.{layer}"], got[f"resid_pre.{layer + 1}"])


def test_the_last_block_then_the_norm_and_head_are_the_logits(lm: LanguageModel, ids_NT: torch.Tensor) -> None:
    final = next(
        path
        for path in ("transformer.ln_f", "gpt_neox.final_layer_norm", "model.norm", "model.decoder.final_layer_norm",
                     "model.final_layernorm")
        if path in dict(lm.model.named_modules())
    )  # fmt: skip
    got = lm.activations(ids_NT, [f"resid_post.{LAYERS - 1}", final])
    with torch.no_grad():
        assert torch.equal(lm.model.get_submodule(final)(got[f"resid_post.{LAYERS - 1}"]), got[final])
    assert lm.logits(ids_NT).shape == (3, 9, VOCABULARY)


def test_branches_sum_to_the_block(lm: LanguageModel, ids_NT: torch.Tensor) -> None:
    got = lm.activations(ids_NT, [f"{kind}.1" for kind in ("resid_pre", "attn_out", "mlp_out", "resid_post")])
    pre, attention, mlp, post = (got[f"{kind}.1"] for kind in ("resid_pre", "attn_out", "mlp_out", "resid_post"))
    assert attention.shape == mlp.shape == (3, 9, WIDTH)
    if lm.model.config.model_type not in NORM_AFTER:
        torch.testing.assert_close(pre + attention + mlp, post)


def test_several_hooks_at_once_are_each_alone(lm: LanguageModel, ids_NT: torch.Tensor) -> None:
    hooks = [hook for kind in ("mlp_out", "resid_post", "attn_out", "resid_pre") for hook in every(kind)]
    together = lm.activations(ids_NT, hooks)
    assert set(together) == set(hooks)
    for hook in hooks:
        alone = lm.activations(ids_NT, [hook])[hook]
        assert torch.equal(together[hook], alone)
        assert alone.dtype == torch.float32
        assert alone.shape == (3, 9, WIDTH)


@pytest.mark.parametrize(("hook", "blocks"), [("resid_pre.0", 0), ("attn_out.0", 1), ("resid_post.1", 2), ("", 2)])
def test_later_blocks_do_not_run(lm: LanguageModel, ids_NT: torch.Tensor, hook: str, blocks: int) -> None:
    names = {module: name for name, module in lm.model.named_modules()}
    hook = hook or names[find_blocks(lm.model)[1]]  # a module by its path
    ran = []
    handles = [block.register_forward_pre_hook(lambda *_, i=i: ran.append(i)) for i, block in
               enumerate(find_blocks(lm.model))]  # fmt: skip
    lm.activations(ids_NT, [hook])
    for handle in handles:
        handle.remove()
    # the counting pre-hook of block 0 is registered first, so it counts even where resid_pre stops there
    assert ran == list(range(max(blocks, 1)))


def test_a_stopped_pass_leaves_no_trace(lm: LanguageModel, ids_NT: torch.Tensor) -> None:
    def hooks() -> int:  # transformers keeps some of its own
        return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in lm.model.modules())

    before, there = lm.logits(ids_NT), hooks()
    lm.activations(ids_NT, ["resid_post.0"])
    assert torch.equal(lm.logits(ids_NT), before)
    assert hooks() == there


def test_what_it_says_of_itself(lm: LanguageModel) -> None:
    assert (lm.width, lm.layers, lm.context, lm.vocabulary) == (WIDTH, LAYERS, CONTEXT, VOCABULARY)
    assert lm.hook_widths(["mlp_out.0", "resid_pre.2", "lm_head" if hasattr(lm.model, "lm_head") else "embed_out"])
    assert not lm.model.training
    assert not any(p.requires_grad for p in lm.model.parameters())


def test_module_paths_and_widths() -> None:
    lm = load("gpt2")
    hooks = ["transformer.h.1.mlp.c_fc", "transformer.h.1.mlp", "mlp_out.1", "lm_head"]
    widths = dict(zip(hooks, (4 * WIDTH, WIDTH, WIDTH, VOCABULARY), strict=True))
    widths["transformer.h.1.mlp.c_fc"] = lm.model.transformer.h[1].mlp.c_fc.nf
    assert lm.hook_widths(hooks) == widths


def test_activations_may_enter_a_graph_and_are_copies(ids_NT: torch.Tensor) -> None:
    x = load().activations(ids_NT, ["resid_post.0"])["resid_post.0"]
    weight = torch.ones(WIDTH, requires_grad=True)
    (x @ weight).sum().backward()
    torch.testing.assert_close(weight.grad, x.sum((0, 1)))


def test_no_hooks_no_pass(ids_NT: torch.Tensor) -> None:
    assert load().activations(ids_NT, []) == {}


def test_bfloat16_arrives_as_float32(ids_NT: torch.Tensor) -> None:
    exact, rough = (load("llama", dtype).activations(ids_NT, ["resid_post.2"]) for dtype in ("float32", "bfloat16"))
    assert rough["resid_post.2"].dtype == torch.float32
    torch.testing.assert_close(rough["resid_post.2"], exact["resid_post.2"], atol=0.02, rtol=0.05)


@pytest.mark.parametrize(
    ("hook", "said"),
    [
        ("resid_post.3", r"the model has resid_post.0 to resid_post.2"),
        ("resid_post.-1", r"resid_post.0 to resid_post.2"),
        ("resid_post", r"resid_post.0 to resid_post.2"),
        ("resid_pst.1", r"did you mean resid_post.1\?"),
        ("transformer.h.1.mpl", r"did you mean transformer.h.1.mlp\?"),
        ("", r"unknown hook ''; the model has resid_pre.0 … resid_pre.2"),
        ("transformer.wpe", r"transformer.wpe gives shape"),
        ("transformer.h.0.attn.resid_dropout.x", r"unknown hook"),
        ("transformer.h", r"transformer.h: that module does not run"),
    ],
)
def test_a_wrong_hook_is_one_line(ids_NT: torch.Tensor, hook: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        load().activations(ids_NT, [hook])
    assert "\n" not in str(error.value)


def test_a_sequence_too_long() -> None:
    lm = load()
    lm.check_sequence_length(CONTEXT)
    with pytest.raises(UserError, match=r"65 tokens exceed the context of .*, 64; lower"):
        lm.activations(torch.zeros(1, CONTEXT + 1, dtype=torch.int64), ["resid_pre.0"])


def test_an_id_outside_the_vocabulary() -> None:
    with pytest.raises(UserError, match=r"token id 288 is outside the vocabulary of .*, 288; use the tokenizer"):
        load().activations(torch.tensor([[0, VOCABULARY]]), ["resid_pre.0"])


def test_a_sequence_longer_than_the_positions_that_are_left_is_one_line_with_both_numbers(tmp_path: Path) -> None:
    # RoBERTa numbers positions from behind its padding index: of 64, 62 are left
    lm = load_language_model(ModelConfig(name=str(made(tmp_path, "roberta", is_decoder=True, pad_token_id=1))))
    lm.check_reading(CONTEXT - 2, ["resid_post.1"])
    with pytest.raises(
        UserError, match=r"64 tokens exceed what .*, 62, though .* 64 .*sequence_length to 62$"
    ) as error:
        lm.check_reading(CONTEXT, ["resid_post.1"])
    assert "\n" not in str(error.value)


def test_the_length_is_checked_before_the_corpus_is_read(
    overrides: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = made(tmp_path, "roberta", is_decoder=True, pad_token_id=1)
    overrides |= {"model.name": str(model), "activations.sequence_length": CONTEXT, "corpus.source": "/no/such/corpus"}
    words = [w for key, value in overrides.items() if "." in key for w in (f"--{key}", *listed(value))]
    assert main(["sweep", "--name", "long", "--runs", str(tmp_path / "runs"), *words]) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("lower activations.sequence_length to 62")
    assert not (tmp_path / "runs" / "long").exists()


@pytest.mark.parametrize("family", ["bert", "electra"])
def test_a_model_that_reads_later_tokens_is_refused(tmp_path: Path, family: str) -> None:
    lm = load_language_model(ModelConfig(name=str(made(tmp_path / "both", family))))
    lm.check_reading(16, ["resid_pre.0"])  # before any attention there is nothing to leak
    with pytest.raises(UserError, match=r"is not causal \(\w+\): at resid_post.2, later tokens change"):
        lm.check_reading(16, ["resid_post.2"])
    causal = load_language_model(ModelConfig(name=str(made(tmp_path / "causal", family, is_decoder=True))))
    causal.check_reading(16, ["resid_post.2"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_causal_models_are_not_taken_for_others(lm: LanguageModel, dtype: str) -> None:
    again = load_language_model(ModelConfig(name=lm.name, dtype=dtype))
    again.check_reading(CONTEXT, [*every("resid_post"), "resid_pre.0"])


def made(folder: Path, family: str, **more: Any) -> Path:
    """A model of a family that `tiny_models` does not have, saved with a tokenizer."""
    size = {"num_hidden_layers": LAYERS, "num_attention_heads": 2, "hidden_size": WIDTH, "embedding_size": WIDTH}
    known = {"vocab_size": VOCABULARY, "intermediate_size": 24, "max_position_embeddings": CONTEXT}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **size, **known, **more)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def listed(value: Any) -> list[str]:
    return [str(v) for v in value] if isinstance(value, list) else [str(value)]
