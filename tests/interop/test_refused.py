"""What would be read wrong is refused in one line, which says what it is and why."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from interop.looks import LOOKS, Look, Weights

from unmix.errors import UserError
from unmix.interop.load import load_sae, read, recognise

D, F = 6, 20


def refusal(path, pickles=True) -> str:
    with pytest.raises(UserError) as caught:
        read(path, pickles=pickles)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 700
    return line


def changed(name: str, folder, file: str = "", **keys) -> str:
    """The refusal of a look whose configuration says something else; a key set to ... is left out."""
    look = LOOKS[name](Weights(D, F))
    for at, content in look.files.items():
        if isinstance(content, dict) and at.endswith(file or ".json") and not at.endswith("scaler.json"):
            inner = content.get("trainer", content)
            inner.update(keys)
            for key in [key for key, value in keys.items() if value is ...]:
                del inner[key]
    return refusal(look.put(folder))


def with_tensors(name: str, folder, **tensors) -> str:
    """The refusal of a look with other tensors; one replaced by None is left out. `__` stands for a point."""
    look = LOOKS[name](Weights(D, F))
    for at, content in look.files.items():
        if at.endswith((".safetensors", ".npz", ".pt", ".pth")) and not at.startswith("sparsity"):
            content.update({key.replace("__", "."): tensor for key, tensor in tensors.items()})
            look.files[at] = {key: tensor for key, tensor in content.items() if tensor is not None}
    return refusal(look.put(folder))


@pytest.mark.parametrize(
    ("name", "keys", "says"),
    [
        ("saelens standard", {"normalize_activations": "covariance_whitening"}, 'says "normalize_activations"'),
        ("saelens standard", {"architecture": "skip_transcoder", "d_out": D}, "lacks W_skip"),
        ("saelens standard", {"architecture": "temporal"}, "reads a whole sequence"),
        ("saelens standard", {"architecture": "matching_pursuit"}, "has no encoder"),
        ("saelens transcoder", {"d_out": D}, "the weights are 8 wide at the output"),
        ("saelens transcoder", {"normalize_activations": "layer_norm"}, "does not undo it on y"),
        ("saelens skip transcoder", {"normalize_activations": "constant_norm_rescale"}, "does not undo it on y"),
        ("saelens topk", {"k": F + 1}, '"k": 21 of 20 features'),
        ("saelens topk", {"k": 2.5}, "a topk SAE has a whole k"),
        ("saelens topk", {"k": ...}, '"k": null of 20 features'),
        ("saelens 5", {"activation_fn_str": "tanh-relu"}, 'says "activation_fn_str": "tanh-relu"'),
        ("saelens 5", {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3, "postact_fn": "id"}}, "topk"),
        ("saelens checkpoint topk", {"normalize_activations": "none"}, "says scaling_factor = 0.37"),
        ("gemma scope 2", {"architecture": "gated"}, 'says "architecture": "gated"'),
        ("gemma scope 2", {"type": "crosscoder"}, 'says "type": "crosscoder"'),
        ("gemma scope 2", {"affine_connection": True}, 'says "affine_connection": true'),
        ("gemma scope 2, affine transcoder", {"affine_connection": False}, 'says "affine_connection": false'),
        ("gemma scope 2", {"width": F + 1}, "the weights have 20 features"),
        ("gemma scope 2", {"rotation": 1}, 'says "rotation": 1, which this version does not know'),
        ("llama scope", {"sparsity_include_decoder_norm": False}, "the scale of the threshold cannot be settled"),
        ("llama scope", {"sparsity_include_decoder_norm": ...}, "has no sparsity_include_decoder_norm"),
        ("llama scope", {"norm_activation": "token-wise"}, 'says "norm_activation": "token-wise"'),
        ("llama scope", {"act_fn": "topk"}, 'says "act_fn": "topk"'),
        ("llama scope", {"use_glu_encoder": True}, 'says "use_glu_encoder": true'),
        ("llama scope", {"apply_decoder_bias_to_pre_encoder": True}, "apply_decoder_bias_to_pre_encoder"),
        ("llama scope", {"jump_relu_threshold": ...}, "lacks jump_relu_threshold"),
        ("llama scope", {"jump_relu_threshold": -1.0}, "lacks jump_relu_threshold"),
        ("llama scope", {"dataset_average_activation_norm": {"in": 0.0, "out": 1.0}}, "norms are positive"),
        ("llama scope", {"dataset_average_activation_norm": {"in": 1.0}}, "lacks jump_relu_threshold or"),
        ("llama scope", {"d_sae": F + 1}, "the weights are (6, 20)"),
        ("openmoss relu", {"norm_activation": "batch-wise"}, 'says "norm_activation": "batch-wise"'),
        ("openmoss relu", {"hook_point_in": ...}, "has no hook_point_in, which Language-Model-SAEs writes"),
        ("openmoss relu", {"use_glu_encoder": True}, "use_glu_encoder"),
        ("openmoss topk", {"top_k": 99}, "no top_k that 20 features can have"),
        ("openmoss jumprelu", {"hook_point_in": "blocks.3.hook_mlp_out"}, "has no positive dataset_average"),
        ("dictionary_learning AutoEncoder", {"dict_class": "CrossCoder"}, 'says "trainer.dict_class": "CrossCoder"'),
        ("dictionary_learning AutoEncoder", {"dict_class": ...}, "has no trainer.dict_class"),
        ("dictionary_learning AutoEncoder", {"activation_dim": 7}, "says activation_dim, dict_size = (7, 20)"),
        ("dictionary_learning AutoEncoder", {"rotate": True}, 'says "trainer.rotate": true'),
        ("dictionary_learning AutoEncoderTopK", {"k": 4}, "has k = 3"),
        ("sparsify", {"activation": "groupmax"}, "groupmax keeps the largest of each of k groups"),
        ("sparsify", {"signed": True}, 'says "signed": true'),
        ("sparsify", {"skip_connection": True}, "lacks W_skip"),
        ("sparsify skip transcoder", {"skip_connection": False}, "W_skip, which a sparse coder of sparsify without"),
        ("sparsify", {"k": ...}, "has no k"),
        ("sparsify", {"k": 0}, "no whole number from 1 up"),
        ("sparsify", {"k": F + 1}, "of 20 features"),
        ("sparsify", {"num_latents": 24}, "says d_in, num_latents = (6, 24)"),
        ("bussmann vanilla", {"sae_type": "batchtopk"}, "stores no threshold"),
        ("bussmann vanilla", {"sae_type": ...}, "has no sae_type"),
        ("bussmann vanilla", {"input_unit_norm": 1}, 'says "input_unit_norm": 1'),
        ("bussmann topk layer norm", {"use_encoder_bias": True}, 'says "use_encoder_bias": true'),
        ("bussmann topk", {"top_k": 99}, "no top_k that 20 features can have"),
    ],
)
def test_a_value_that_is_not_read_is_named(name, keys, says, tmp_path):
    file = "cfg.json" if name.startswith("sparsify") else ""
    assert says in changed(name, tmp_path, file, **keys)


@pytest.mark.parametrize(
    ("name", "tensors", "says"),
    [
        ("saelens standard", {"W_skip": torch.ones(D, D)}, "holds W_skip, which standard does not have"),
        ("saelens skip transcoder", {"W_skip": torch.ones(D, D + 2)}, "W_skip [8, 6]"),
        ("saelens skip transcoder", {"W_skip": None}, "lacks W_skip"),
        ("saelens batchtopk", {"topk_threshold": torch.tensor(0.0)}, "was not measured yet"),
        ("saelens batchtopk", {"topk_threshold": torch.ones(2)}, "topk_threshold is no finite number"),
        ("saelens batchtopk", {"topk_threshold": None}, "topk_threshold is no finite number"),
        ("gemma scope", {"threshold": None}, "lacks threshold; it holds W_dec, W_enc, b_dec, b_enc"),
        ("gemma scope", {"scaling_factor": torch.full((F,), 2.0)}, "holds a scaling_factor that is not 1"),
        ("gemma scope", {"W_enc": torch.ones(F, D)}, "do not fit each other: W_enc [20, 6]"),
        ("gemma scope 2", {"affine_skip_connection": torch.ones(D, D)}, 'says "affine_connection": false'),
        ("gemma scope 2, affine transcoder", {"affine_skip_connection": torch.ones(D, 1)}, "W_skip [6, 1]"),
        ("gemma scope 2", {"w_dec": torch.ones(F, 3, D)}, "cross-layer transcoder"),
        ("llama scope", {"decoder__bias": None}, "lacks decoder.bias"),
        ("llama scope", {"encoder__weight": torch.ones(D, F)}, "encoder.weight [20, 6]"),
        ("openmoss relu", {"W_E_glu": torch.ones(D, F)}, "holds W_E_glu"),
        ("openmoss relu", {"log_jumprelu_threshold": torch.ones(F)}, "Llama-Scope-R1-Distill"),
        ("dictionary_learning BatchTopKSAE", {"threshold": torch.tensor(-1.0)}, "was never measured"),
        ("dictionary_learning BatchTopKSAE", {"threshold": torch.tensor(torch.nan)}, "no finite number"),
        ("dictionary_learning AutoEncoderTopK", {"k": torch.tensor(0)}, "says k = 0 of 20 features"),
        ("dictionary_learning AutoEncoder", {"optimizer": {}, "ae": {}}, "is a backup made during training"),
        ("sparsify", {"W_skip": torch.ones(D, D)}, "holds W_skip, which a sparse coder of sparsify without"),
        ("sparsify skip transcoder", {"W_skip": torch.ones(D, F)}, "W_skip [20, 6]"),
        ("sparsify", {"W_dec": torch.ones(D, F)}, "W_dec [6, 20]"),
        ("openai topk", {"activation_state_dict": {"k": F + 1}}, "says k = 21 of 20 features"),
        ("openai topk", {"activation_state_dict": {}}, "says k = None of 20 features"),
        ("openai topk", {"activation_state_dict": None}, "says k = None of 20 features"),
        ("openai topk", {"activation_state_dict": {"k": 3, "postact_fn": "Identity"}}, "postact_fn = 'Identity'"),
        ("openai topk", {"activation_state_dict": {"k": 3, "offset": 1}}, "has offset in activation_state_dict"),
        ("openai relu", {"activation": "Gelu"}, "says activation = 'Gelu'"),
        ("openai relu", {"extra": torch.ones(1)}, "holds extra"),
        ("qwen scope", {"W_enc": torch.ones(D, F)}, "W_enc [20, 6]"),
        ("goodfire", {"decoder_linear__bias": None}, "no layout that this version knows"),
        ("circuit-tracer with a skip", {"W_skip": torch.ones(D, 2)}, "W_skip [2, 6]"),
        ("circuit-tracer relu", {"log_thresholds": torch.ones(F)}, "holds log_thresholds"),
        ("circuit-tracer jumprelu", {"activation_function__threshold": torch.full((F,), -0.1)}, "would be negative"),
        ("bussmann topk", {"b_enc": torch.ones(F)}, "b_enc is not 0"),
    ],
)
def test_a_tensor_that_does_not_belong_is_named(name, tensors, says, tmp_path):
    assert says in with_tensors(name, tmp_path, **tensors)


@pytest.mark.parametrize("name", LOOKS)
@pytest.mark.parametrize("harm", [torch.nan, torch.inf, "whole"])
def test_weights_that_are_no_numbers_are_refused(name, harm, tmp_path):
    look = LOOKS[name](Weights(D, F))
    for at, content in look.files.items():
        if at.endswith((".safetensors", ".npz", ".pt", ".pth")) and not at.startswith("sparsity"):
            first = next(key for key, tensor in content.items() if tensor.ndim == 2)
            bad = content[first].long() if harm == "whole" else content[first].clone()
            if harm != "whole":
                bad[0, 0] = harm
            content[first] = bad
    assert ("int64" if harm == "whole" else "NaN or infinite") in refusal(look.put(tmp_path))


def test_a_pickle_says_how_it_is_converted(tmp_path):
    path = LOOKS["dictionary_learning AutoEncoder"](Weights(D, F)).put(tmp_path)
    line = refusal(path, pickles=False)
    assert "looks like an SAE of dictionary_learning" in line
    assert f"`unmix convert {path}/ae.pt FOLDER`" in line
    alone = LOOKS["goodfire"](Weights(D, F)).put(tmp_path / "g")
    with pytest.raises(UserError, match="unmix convert"):
        load_sae(alone)


def test_of_a_set_one_layer_is_given(tmp_path):
    path = LOOKS["circuit-tracer relu"](Weights(D, F)).put(tmp_path)
    assert f"give one of them: {path.parent / 'layer_0.safetensors'}" in refusal(path.parent)


def test_cross_layer_transcoders_are_named(tmp_path):
    config = "model_name: google/gemma-2-2b\nmodel_kind: cross_layer_transcoder\n"
    tensors = {"W_enc_0": torch.ones(F, D), "b_enc_0": torch.ones(F), "b_dec_0": torch.ones(D)}
    look = Look({"config.yaml": config, "W_enc_0.safetensors": tensors}, lambda x: (x, x))
    assert "cross-layer transcoder" in refusal(look.put(tmp_path))


def test_a_temporal_sae_is_named(tmp_path):
    look = Look({"conf.yaml": "llm: {}\n", "latest_ckpt.safetensors": {"D": torch.ones(2, 2)}}, lambda x: (x, x))
    assert "temporal SAE" in refusal(look.put(tmp_path))


def test_several_pickles_are_not_chosen_from(tmp_path):
    for name in ("layer0.sae.pt", "layer1.sae.pt"):
        torch.save({}, tmp_path / name)
    assert "2 pickles; give one of them" in refusal(tmp_path)


def test_a_folder_above_names_the_one_inside(tmp_path):
    LOOKS["sparsify"](Weights(D, F)).put(tmp_path)
    assert "/layers.10" in refusal(tmp_path)


def test_k_of_qwen_scope_stands_in_the_name_alone(tmp_path):
    path = LOOKS["qwen scope"](Weights(D, F)).put(tmp_path)
    moved = tmp_path / "layer7.sae.pt"
    path.rename(moved)
    assert "k stands only in the repository's name" in refusal(moved)


def test_arrays_of_objects_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "params.npz", W_enc=np.array([{}], dtype=object), allow_pickle=True)
    assert "looks like an SAE of Gemma Scope" in refusal(tmp_path)


def test_a_configuration_of_another_library_says_what_it_holds(tmp_path):
    look = LOOKS["openmoss relu"](Weights(D, F))
    look.files["config.json"] = {"hook_name": "blocks.2.hook_resid_post", "d_in": D}
    assert "it has d_in, hook_name" in refusal(look.put(tmp_path))


def test_json_that_is_no_object_is_refused(tmp_path):
    for content in ("[]", "3", "", "{", "nul", json.dumps("x"), "[" * 50_000):
        look = LOOKS["sparsify"](Weights(D, F))
        look.files["layers.10/cfg.json"] = content
        assert "damaged" in refusal(look.put(tmp_path / str(len(content))))


@pytest.mark.parametrize("name", LOOKS)
def test_every_layout_is_recognised_by_its_names(name, tmp_path):
    path = LOOKS[name](Weights(D, F)).put(tmp_path)
    library = {"saelens": "SAELens", "gemma": "Gemma Scope", "llama": "Llama Scope", "openmoss": "OpenMOSS"}
    library |= {"openai": "a pickle", "qwen": "a pickle", "goodfire": "a pickle", "deepseek": "a pickle"}
    wanted = library.get(name.split()[0], name.split()[0].rstrip(","))
    assert wanted.lower() in (recognise(path) or "").lower()


def test_nothing_else_is_recognised(tmp_path):
    (tmp_path / "cfg.json").write_text("{}")
    assert recognise(tmp_path) is None
    assert recognise(tmp_path / "none") is None
    assert recognise(tmp_path / "cfg.json") is None
