"""What stands in a path alone is taken from the release's own folders; those of the user may be called anything."""

from __future__ import annotations

import pytest
from interop.looks import LOOKS, K, Look, Weights, inputs
from interop.test_reading_foreign import assert_computes

from unmix.errors import UserError
from unmix.interop.load import read

D, F = 6, 20
GEMMA = "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71"


def moved(name: str, src, dst) -> Look:
    """A look whose folder is put elsewhere, `src` of its paths being called `dst`."""
    look = LOOKS[name](Weights(D, F))
    look.files = {at.replace(src, dst): content for at, content in look.files.items()}
    look.at = look.at.replace(src, dst)
    return look


@pytest.mark.parametrize(
    "above",
    [
        "embedding",
        "embedding/width_16k",
        "gemma-scope-2b-pt-transcoders",
        "gemma-scope-9b-pt-att/layer_3",
        "average_l0_9/layer_1",
        "transcoder",
    ],
)
def test_a_folder_above_gemma_scope_changes_nothing(above, tmp_path):
    own = "gemma-scope-9b-pt-res/layer_20/width_16k/average_l0_71"
    look = moved("gemma scope", own, f"{above}/{GEMMA}")
    sae, origin = read(look.put(tmp_path))
    assert_computes(sae, look, inputs(D))
    assert (origin.model, origin.hook, origin.l0) == ("google/gemma-2-2b", "resid_post.20", 71.0)
    assert (origin.transcoder, origin.folded) == (False, ())


@pytest.mark.parametrize(
    "at",
    [
        "gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6",
        "embedding/width_4k/average_l0_6",  # the repository is not in the path
        "gemma-scope-2b-pt-res/embedding",  # as `unmix pull` may be asked to write it
        "models--google--gemma-scope-2b-pt-res/snapshots/0123abcd/embedding/width_4k/average_l0_6",
    ],
)
def test_an_embedding_of_gemma_scope_is_one_by_its_own_level(at, tmp_path):
    look = moved("gemma scope, embedding", "gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6", at)
    sae, origin = read(look.put(tmp_path))
    assert_computes(sae, look, inputs(D))
    assert origin.hook == "resid_pre.0"


def test_embedding_is_no_level_of_the_other_parts(tmp_path):
    look = moved(
        "gemma scope", "gemma-scope-9b-pt-res/layer_20/width_16k/average_l0_71", "gemma-scope-2b-pt-mlp/embedding/mine"
    )
    sae, origin = read(look.put(tmp_path))
    assert_computes(sae, look, inputs(D))
    assert origin.hook is None


def test_what_config_json_says_of_gemma_scope_2_comes_before_the_path(tmp_path):
    look = moved("gemma scope 2", "resid_post_all/layer_17", "transcoder_all/layer_17")
    sae, origin = read(look.put(tmp_path))
    assert not origin.transcoder
    assert_computes(sae, look, inputs(D))
    for above, transcoder in (("transcoder/mine/resid_post_all", False), ("transcoder_all", True)):
        look = moved("gemma scope 2 without config", "resid_post_all", above)
        assert read(look.put(tmp_path / "plain")).origin.transcoder is transcoder


def test_k_of_qwen_scope_is_of_the_folder_that_holds_the_file(tmp_path):
    own = f"SAE-Res-Qwen3-1.7B-Base-W32K-L0_{K}"
    look = moved("qwen scope", own, f"SAE-Res-Qwen3-8B-Base-W64K-L0_7/{own}")
    sae, origin = read(look.put(tmp_path), pickles=True)
    assert_computes(sae, look, inputs(D))
    assert origin.model == "Qwen/Qwen3-1.7B-Base"
    look = moved("qwen scope", own, f"{own}/another")
    with pytest.raises(UserError, match="straight into a folder of that name"):
        read(look.put(tmp_path / "other"), pickles=True)


def test_the_hook_of_openai_is_of_its_own_folders(tmp_path):
    look = moved("openai relu", "gpt2-small/resid_post_mlp_v1", "resid_delta_attn/gpt2-small/resid_post_mlp_v5_32k")
    assert read(look.put(tmp_path), pickles=True).origin.hook == "resid_post.8"
    look = moved("openai relu", "gpt2-small/resid_post_mlp_v1/autoencoders", "gpt2-small/resid_post_mlp/mine")
    origin = read(look.put(tmp_path / "mine"), pickles=True).origin
    assert (origin.hook, origin.model) == (None, None)


def test_the_model_of_llama_scope_is_of_its_own_folder(tmp_path):
    for above, model in (("Llama3_1-8B-Base-L0R-8x", "meta-llama/Llama-3.1-8B"), ("Llama3_1-8B-Base/mine", None)):
        look = LOOKS["llama scope"](Weights(D, F))
        assert read(look.put(tmp_path / above)).origin.model == model


@pytest.mark.parametrize("name", ["sweep-l1-0.001/sae.pt", "model-l7.pt", "DeepSeek-R1-SAE-l19/mine.pt"])
def test_two_linear_layers_are_no_published_sae_without_its_name(name, tmp_path):
    look = moved("deepseek", "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt", name)
    with pytest.raises(UserError, match=r"does not say what stands between them.*DeepSeek-R1-…-SAE-l19\.pt"):
        read(look.put(tmp_path), pickles=True)


def test_the_layer_of_a_published_pair_is_that_of_its_file(tmp_path):
    look = moved("deepseek", "DeepSeek", "mine-l3/DeepSeek")
    origin = read(look.put(tmp_path), pickles=True).origin
    assert (origin.hook, origin.model) == ("resid_post.19", "DeepSeek-R1-Distill-Llama-8B")
    look = moved("goodfire", "Llama-3.1-8B-Instruct-SAE-l19.pth", "sae-l7.pth")
    sae, origin = read(look.put(tmp_path / "g"), pickles=True)
    assert origin.hook is None
    assert_computes(sae, look, inputs(D))


@pytest.mark.parametrize(("folder", "hook"), [("run.v2", None), ("l1-0.5", None), ("transformer.h.3.mlp.c_fc",) * 2])
def test_a_folder_of_sparsify_that_is_no_path_of_a_module_names_no_hook(folder, hook, tmp_path):
    look = moved("sparsify", "layers.10", folder)
    assert read(look.put(tmp_path)).origin.hook == hook


def test_the_layer_of_a_set_is_the_place_in_its_list(tmp_path):
    def listing(*names):
        look = LOOKS["circuit-tracer relu"](Weights(D, F))
        look.files["config.yaml"] += "transcoders:\n" + "".join(f"- {name}\n" for name in names)
        return read(look.put(tmp_path / str(len(list(tmp_path.iterdir()))))).origin

    assert listing("layer_0.safetensors", "layer_1.safetensors").hook == "blocks.1.ln2.hook_normalized"
    turned = listing("hf://lab/set/layer_1.safetensors@v1", "hf://lab/set/layer_0.safetensors")
    assert (turned.hook, turned.hook_out) == ("blocks.0.ln2.hook_normalized", "mlp_out.0")
    unknown = listing("hf://lab/set/a.safetensors")
    assert (unknown.hook, unknown.hook_out) == (None, None)
    assert "the layer is not known" in unknown.notes[0]


def test_a_set_without_its_configuration_says_what_is_missing(tmp_path):
    look = LOOKS["circuit-tracer relu"](Weights(D, F))
    look.files["wandb-config.yaml"] = look.files.pop("config.yaml")
    path = look.put(tmp_path)
    for given in (path, path.parent):
        with pytest.raises(UserError, match=r"no config\.yaml lies beside it; write one with model_name, model_kind"):
            read(given)
