"""Folders that SAELens wrote, versions 1 to 6, against the definition in plain torch; what is not read is refused."""

import json
import math
from dataclasses import fields

import pytest
import safetensors.torch
import torch
from run_pairs import same

from unmix.dictionary.files import save_sae
from unmix.dictionary.model import Dictionary, new_dictionary
from unmix.dictionary.nonlinearities import AbsTopK, Gated, JumpRelu, Relu, TanhRelu, TopK
from unmix.dictionary.per_token import ByLength, LayerNorm
from unmix.errors import UserError
from unmix.interop.load import load_sae, read
from unmix.interop.saelens_keys import IGNORED as _IGNORED
from unmix.interop.saelens_keys import READ as _READ

D, F = 6, 20
V1 = {  # the whole recipe of the training, no architecture
    "model_name": "gpt2-small", "hook_point": "blocks.8.hook_resid_pre", "hook_point_layer": 8, "d_in": D, "d_sae": F,
    "hook_point_head_index": None, "store_batch_size": 32, "device": "mps", "dtype": "torch.float32", "seed": 42,
    "b_dec_init_method": "geometric_median", "expansion_factor": 4, "l1_coefficient": 8e-05, "use_ghost_grads": False,
    "feature_sampling_method": None, "resample_batches": 1028, "dead_feature_estimation_method": "no_fire",
}  # fmt: skip
V2 = V1 | {"activation_fn": "relu", "normalize_activations": False, "lp_norm": 1, "noise_scale": 0.0}
V5 = {
    "architecture": "standard", "d_in": D, "d_sae": F, "dtype": "torch.float32", "device": "cpu", "hook_layer": 1,
    "model_name": "gpt2-small", "hook_name": "blocks.1.hook_resid_pre", "hook_head_index": None,
    "activation_fn_str": "relu", "activation_fn_kwargs": {}, "finetuning_scaling_factor": False, "prepend_bos": True,
    "sae_lens_training_version": None, "normalize_activations": "none", "context_size": 128,
}  # fmt: skip
V6 = {
    "architecture": "standard", "d_in": D, "d_sae": F, "dtype": "float32", "device": "cpu",
    "apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none",
    "metadata": {"sae_lens_version": "6.54.12", "hook_name": "blocks.1.hook_resid_pre", "model_name": "gpt2"},
}  # fmt: skip
FINETUNED = V5 | {"finetuning_scaling_factor": True}
CHECKPOINT = V6 | {"normalize_activations": "expected_average_only_in"}


def tensors(seed=0):
    draw = torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (D, F), "b_enc": (F,), "W_dec": (F, D), "b_dec": (D,)}
    return {name: torch.randn(*shape, generator=draw) for name, shape in shapes.items()}


def put(folder, config, scaler=None, **replaced):
    """The folder; a tensor replaced by None is left out."""
    kept = {name: tensor for name, tensor in (tensors() | replaced).items() if tensor is not None}
    safetensors.torch.save_file(kept, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(config if isinstance(config, str) else json.dumps(config))
    if scaler is not None:
        (folder / "activation_scaler.json").write_text(json.dumps(scaler))
    return folder


def without(config, *keys):
    return {key: value for key, value in config.items() if key not in keys}


def inputs():
    return torch.randn(9, D, generator=torch.Generator().manual_seed(5)) * 3 + 0.7


def expected(x, *, centred=True, feature_scale=1.0, scale=1.0, per_token=False):
    """(f, x̂) in float64, step by step as the format says it."""
    W_enc, b_enc, W_dec, b_dec = (tensor.double() for tensor in tensors().values())
    x = x.double()
    length = x.norm(dim=-1, keepdim=True) / math.sqrt(D) if per_token else 1 / scale
    f = torch.relu((x / length - b_dec * centred) @ W_enc + b_enc) * feature_scale
    return f, (f @ W_dec + b_dec) * length


def assert_computes(sae, f, x_hat):
    with torch.no_grad():
        for got, wanted in ((sae.encode(inputs()), f), (sae(inputs()), x_hat)):
            assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize(
    ("config", "centred"),
    [
        (V1, True),
        (V2, True),
        (V2 | {"apply_b_dec_to_input": False}, False),
        (V5, True),
        (V5 | {"apply_b_dec_to_input": True}, True),
        (V5 | {"apply_b_dec_to_input": False}, False),
        (V5 | {"normalize_activations": None, "hook_name": "blocks.1.attn.hook_z"}, True),
        (V6, True),
        (V6 | {"apply_b_dec_to_input": False, "reshape_activations": "hook_z"}, False),
        (without(V6, "apply_b_dec_to_input", "normalize_activations", "reshape_activations"), True),
    ],
)
def test_b_dec_is_subtracted_unless_the_folder_says_no(tmp_path, config, centred):
    assert_computes(load_sae(put(tmp_path, config)), *expected(inputs(), centred=centred))


def test_scaling_by_token_comes_before_b_dec_is_subtracted(tmp_path):
    sae = load_sae(put(tmp_path, V5 | {"normalize_activations": "constant_norm_rescale"}))
    assert_computes(sae, *expected(inputs(), per_token=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_precisions_are_brought_to_float32(tmp_path, dtype):
    stored = {name: tensor.to(dtype) for name, tensor in tensors().items()}
    sae = load_sae(put(tmp_path, V6 | {"dtype": "bfloat16", "apply_b_dec_to_input": False}, **stored))
    assert all(torch.equal(getattr(sae, name), tensor.float()) for name, tensor in stored.items())


def test_a_scale_of_the_features_is_folded_into_the_encoder(tmp_path):
    scale_F = 0.5 + torch.rand(F, generator=torch.Generator().manual_seed(1))
    scale_F[3] = 0
    sae = load_sae(put(tmp_path, FINETUNED, scaling_factor=scale_F))
    assert_computes(sae, *expected(inputs(), feature_scale=scale_F.double()))
    assert torch.equal(sae.W_dec, tensors()["W_dec"])


@pytest.mark.parametrize("config", [V1, V5, FINETUNED])
def test_a_scale_of_ones_changes_no_bit(tmp_path, config):
    config = config | {"apply_b_dec_to_input": False}
    sae = load_sae(put(tmp_path, config, scaling_factor=torch.ones(F)))
    assert all(torch.equal(getattr(sae, name), tensor) for name, tensor in tensors().items())


@pytest.mark.parametrize(
    ("config", "scale", "says"),
    [
        (V5, torch.full((F,), 2.0), "set finetuning_scaling_factor to true there"),
        (V1 | {"finetuning_method": "scale"}, torch.full((F,), 2.0), "set finetuning_scaling_factor to true there"),
        (FINETUNED, None, "has no scaling_factor"),
        (FINETUNED, torch.full((F,), -0.5), "scaling_factor goes down to -0.5"),
        (FINETUNED | {"architecture": "unmix_tanh_relu"}, torch.full((F,), 2.0), "only scales >= 0 of standard ones"),
        (FINETUNED, torch.ones(F + 1), "scaling_factor is [21], wanted is [20]"),
        (V5, torch.ones(1), "scaling_factor is [1], wanted is [20]"),
        (FINETUNED, torch.full((F,), math.inf), "20 values of scaling_factor are NaN or infinite"),
    ],
)
def test_a_scale_of_the_features_that_cannot_be_folded_is_refused(tmp_path, config, scale, says):
    assert says in refusal(put(tmp_path, config, scaling_factor=scale))


@pytest.mark.parametrize("value", ["expected_average_only_in", True])
def test_the_factor_of_a_checkpoint_is_folded_in(tmp_path, value):
    config = CHECKPOINT | {"normalize_activations": value}
    sae = load_sae(put(tmp_path, config, {"scaling_factor": 0.37, "has_whitening": False}))
    assert_computes(sae, *expected(inputs(), scale=0.37))


def test_a_checkpoint_trained_without_a_factor_is_read(tmp_path):
    sae = load_sae(put(tmp_path, V6, {"scaling_factor": None, "has_whitening": False}))
    assert_computes(sae, *expected(inputs()))


@pytest.mark.parametrize(
    ("config", "scaler", "says"),
    [
        (CHECKPOINT, None, "the factor is not in the folder (scaling_factor in activation_scaler.json)"),
        (CHECKPOINT, {"scaling_factor": None}, "the factor is not in the folder"),
        (V2 | {"normalize_activations": True}, None, '"normalize_activations": true, but the factor is not in'),
        (V6, {"scaling_factor": 0.37}, "scaling_factor = 0.37"),
        (V6, {"scaling_factor": None, "has_whitening": True}, "x was whitened"),
        (CHECKPOINT, {"scaling_factor": 0}, '"scaling_factor": 0, which is not positive'),
        (CHECKPOINT, {"scaling_factor": -1.5}, '"scaling_factor": -1.5, which is not positive'),
        (CHECKPOINT, {"scaling_factor": math.nan}, '"scaling_factor": NaN, which is not positive'),
        (CHECKPOINT, {"scaling_factor": "0.37"}, '"scaling_factor": "0.37", which is not positive'),
        (CHECKPOINT, {"scaling_factor": True}, '"scaling_factor": true, which is not positive'),
    ],
)
def test_a_checkpoint_whose_factor_is_unknown_is_refused(tmp_path, config, scaler, says):
    assert says in refusal(put(tmp_path, config, scaler))


def refusal(folder):
    """The one line that says why the folder is not read, and names it."""
    with pytest.raises(UserError) as caught:
        load_sae(folder)
    line = str(caught.value)
    assert str(folder) in line
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("config", "key", "value"),
    [
        (V5, "activation_fn_str", "topk"),
        (V2, "activation_fn", "tanh-relu"),
        (V5, "activation_fn_kwargs", {"k": 8}),
        (V6, "architecture", "temporal"),
        (V6, "architecture", None),
        (V6, "architecture", ["standard"]),
        (V6, "normalize_activations", "covariance_whitening"),
        (V6, "reshape_activations", "heads"),
        (V6, "apply_b_dec_to_input", None),
        (V6, "apply_b_dec_to_input", "false"),
        (V5, "uses_scaling_factor", True),
        (V6, "k", 8),
        (V6, "rescale_acts_by_decoder_norm", True),
        (V6, "d_out", D),
        (V6, "a key of\ntomorrow", 1),
        (V6, "metadata", [1]),
    ],
)
def test_a_value_or_key_that_is_not_understood_is_named(tmp_path, config, key, value):
    assert f"cfg.json says {json.dumps(key)}: {json.dumps(value)}" in refusal(put(tmp_path, config | {key: value}))


def test_a_long_value_is_cut_short(tmp_path):
    assert len(refusal(put(tmp_path, V6 | {"groups": list(range(10_000))}))) < 400


def test_an_unknown_key_can_be_removed_as_the_line_says(tmp_path):
    assert "remove it there" in refusal(put(tmp_path, V6 | {"note": "of mine"}))
    assert_computes(load_sae(put(tmp_path, V6)), *expected(inputs()))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (without(V6, "architecture"), "has metadata but no architecture"),
        (without(V6, "d_in"), "has no d_in"),
        (without(V5, "d_sae"), "has no d_sae"),
        (V6 | {"d_sae": F // 2}, "says d_in, d_sae = (6, 10), the weights are (6, 20)"),
        (V6 | {"d_in": "6"}, "says d_in, d_sae = ('6', 20), the weights are (6, 20)"),
        ("[1]", "cfg.json is damaged: it holds no object"),
        ("{", "cfg.json is damaged"),
        ("[" * 100_000, "cfg.json is damaged"),
    ],
)
def test_a_description_that_cannot_be_of_these_weights_is_refused(tmp_path, config, says):
    assert says in refusal(put(tmp_path, config))


@pytest.mark.parametrize(
    ("replaced", "says"),
    [
        ({"W_enc": tensors()["W_enc"].index_fill(0, torch.tensor([2]), math.nan)}, "20 values of W_enc are NaN"),
        ({"b_dec": torch.full((D,), -math.inf)}, "6 values of b_dec are NaN or infinite"),
        ({"W_dec": torch.full((F, D), 1e300, dtype=torch.float64)}, "120 values of W_dec are NaN or infinite"),
        ({"W_enc": torch.ones(D, F, dtype=torch.int8)}, "W_enc is int8; save it as float32"),
        ({"threshold": torch.ones(F)}, "holds threshold, which standard does not have"),
        ({"W_skip": torch.ones(D, D), "threshold": torch.ones(F)}, "holds W_skip, threshold, which standard"),
        ({"b_enc": None, "b_gate": torch.ones(F)}, "lacks b_enc; it holds W_dec, W_enc, b_dec, b_gate"),
        ({"W_enc": tensors()["W_enc"].T.contiguous()}, "do not fit each other: W_enc [20, 6]"),
        ({"b_enc": torch.ones(1, F)}, "b_enc [1, 20]"),
    ],
)
def test_weights_that_are_wrong_are_named(tmp_path, replaced, says):
    line = refusal(put(tmp_path, V6, **replaced))
    assert "sae_weights.safetensors" in line
    assert says in line


@pytest.mark.parametrize("value", [0, -1.0, math.nan, True, "50"])
def test_a_bound_of_the_mask_that_is_no_norm_is_refused(tmp_path, value):
    config = V6 | {"metadata": {"mask": {"longer_than": value}}}
    assert f"metadata.mask.longer_than = {value!r}" in refusal(put(tmp_path, config))


NONLINEARITIES = [
    Relu(),
    TanhRelu(),
    JumpRelu(),
    TopK(3, weigh_by_norm=False),
    AbsTopK(3, weigh_by_norm=False),
    Gated(),
]


@pytest.mark.parametrize("kind", ["sae", "transcoder", "skip transcoder"])
@pytest.mark.parametrize("per_token", [None, ByLength(), LayerNorm()])
@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
def test_every_kind_that_unmix_writes_is_read_to_the_same_bits(tmp_path, nonlinearity, per_token, kind):
    weights, draw = tensors() | nonlinearity.start(F), torch.Generator().manual_seed(3)
    if kind != "sae":
        weights |= {"W_dec": torch.randn(F, D + 2, generator=draw), "b_dec": torch.randn(D + 2, generator=draw)}
    if kind == "skip transcoder":
        weights["W_skip"] = torch.randn(D, D + 2, generator=draw)
    sae, to = Dictionary(weights, nonlinearity, per_token=per_token), kind != "sae"
    out = "mlp_out.1" if to else None
    more = {"anything": 1}
    save_sae(sae, tmp_path, model="gpt2", hook="resid_post.1", context=64, more=more, hook_out=out, transcoder=to)
    loaded, made = read(tmp_path)
    assert (loaded.nonlinearity, loaded.per_token) == (nonlinearity, per_token)
    assert made.transcoder == to
    assert same(sae.weights, loaded.weights)
    assert torch.equal(sae(inputs()), loaded(inputs()))


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ([], "it has no cfg.json and no sae_weights.safetensors; give one that has them (this one holds nothing)"),
        (["config.json", "other.bin"], "(this one holds config.json, other.bin)"),
        (["cfg.json"], "it has no sae_weights.safetensors; give one that has them"),
        (["cfg.json", "sae.safetensors"], "an SAE of sparsify (cfg.json and sae.safetensors)"),
        (["config.json", "sae_weights.safetensors"], "it looks like an SAE of Language-Model-SAEs"),
        (["hyperparams.json"], "an SAE of Llama Scope (hyperparams.json)"),
        (["params.npz"], "an SAE of Gemma Scope (params.npz)"),
        (["params.safetensors", "config.json"], "an SAE of Gemma Scope 2"),
        (["ae.pt", "config.json"], "an SAE of dictionary_learning (ae.pt)"),
        (["config.yaml", "layer_0.safetensors"], "transcoders for circuit-tracer"),
        (["run.yaml"], "has no choice; give a member, such as "),
        (["b/cfg.json", "b/sae_weights.safetensors", "a/cfg.json"], "/b"),
    ],
)
def test_a_folder_of_something_else_is_recognised_by_its_files(tmp_path, files, says):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert says in refusal(tmp_path)


def test_a_file_is_no_folder(tmp_path):
    put(tmp_path, V6)
    assert "is a file; give the folder" in refusal(tmp_path / "cfg.json")


def test_a_path_that_does_not_exist_is_no_id_of_the_hub(tmp_path):
    assert "hf download" not in refusal(tmp_path / "run")


def test_no_key_is_both_read_and_passed_over():
    assert not _IGNORED & _READ.keys()


@pytest.mark.peers
@pytest.mark.parametrize("config", [V1, V2, V5, V6, V6 | {"apply_b_dec_to_input": False}])
def test_sae_lens_computes_the_same(tmp_path, config):
    sae_lens = pytest.importorskip("sae_lens", reason="sae-lens is not installed")
    put(tmp_path, config, scaling_factor=torch.ones(F) if config in (V1, V2) else None)
    theirs, ours = sae_lens.SAE.load_from_disk(str(tmp_path), device="cpu"), load_sae(tmp_path)
    torch.testing.assert_close(ours.encode(inputs()), theirs.encode(inputs()), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours(inputs()), theirs(inputs()), rtol=1e-5, atol=1e-5)


@pytest.mark.peers
def test_the_keys_that_sae_lens_trains_with_are_known():
    sae_lens = pytest.importorskip("sae_lens", reason="sae-lens is not installed")
    known = _IGNORED | _READ.keys()
    assert {field.name for field in fields(sae_lens.StandardTrainingSAEConfig)} <= known
    assert {field.name for field in fields(sae_lens.LanguageModelSAERunnerConfig)} - known <= {"sae"}


def test_a_new_dictionary_is_in_the_layout(tmp_path):
    save_sae(new_dictionary(D, F, 0.1, seed=0), tmp_path, model="gpt2", hook="resid_post.1", context=64, more={})
    assert json.loads((tmp_path / "cfg.json").read_text()).keys() <= _IGNORED | _READ.keys()
