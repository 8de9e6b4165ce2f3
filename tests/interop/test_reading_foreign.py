"""Every layout that opens, against its own formula in float64; what is said of it; thresholds at equality."""

from __future__ import annotations

import json
import math

import pytest
import torch
from interop.looks import LOOKS, K, Look, Weights, inputs, sparsify

from unmix.errors import UserError
from unmix.interop.convert import convert
from unmix.interop.load import load_sae, read

SIZES = [(7, 20), (12, 12), (16, 9)]
"""(D, F): more features than dimensions, as many, fewer."""
SQUARE_UNKNOWN = [name for name in LOOKS if name.startswith("circuit-tracer")]
every_look = pytest.mark.parametrize("name", LOOKS)


def assert_computes(sae, look: Look, x) -> None:
    f, y = look.function(x)
    with torch.no_grad():
        got_f, got_y = sae.encode(x), sae(x)
    assert torch.equal(got_f != 0, f != 0)
    for got, wanted in ((got_f, f), (got_y, y)):
        assert got.shape == wanted.shape
        assert (got - wanted).norm() <= 2e-5 * wanted.norm()
        assert (got - wanted).abs().max() <= 2e-5 * wanted.abs().max()
    assert (f != 0).any()


@pytest.mark.parametrize(("D", "F"), SIZES)
@every_look
def test_it_computes_what_its_format_says(name, D, F, tmp_path):
    look = LOOKS[name](Weights(D, F))
    path = look.put(tmp_path)
    if F == D and name in SQUARE_UNKNOWN:
        with pytest.raises(UserError, match="its shape does not say which"):
            read(path)
        return
    assert_computes(read(path, pickles=True).dictionary, look, inputs(D))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_look
def test_weights_of_fewer_bits_are_read_as_they_are(name, dtype, tmp_path):
    if dtype == torch.bfloat16 and name.startswith("gemma scope,"):
        pytest.skip("numpy has no bfloat16")
    if dtype == torch.bfloat16 and name == "gemma scope":
        pytest.skip("numpy has no bfloat16")
    look = LOOKS[name](Weights(8, 24, seed=3, dtype=dtype))
    assert_computes(read(look.put(tmp_path), pickles=True).dictionary, look, inputs(8))


@every_look
def test_a_row_far_from_the_origin_keeps_its_active_features(name, tmp_path):
    """‖b_dec‖ and ‖x‖ near 500: what is folded in is summed in float64."""
    w = Weights(8, 24, seed=4)
    w.b_dec = w.b_dec + 170
    look = LOOKS[name](w)
    x = inputs(8) + (170 if "transcoder" not in name else 0)
    f, y = look.function(x)
    with torch.no_grad():
        sae = read(look.put(tmp_path), pickles=True).dictionary
        got_f, got_y = sae.encode(x), sae(x)
    scale = x.double().norm(dim=1).max() * w.W_enc.norm(dim=0).max()  # of the products that z is a difference of
    assert (got_f - f).abs().max() <= 2e-5 * max(scale, f.abs().max())
    assert (got_y - y).norm() <= 2e-5 * y.norm()


@pytest.mark.parametrize("said", [True, False, ...])
def test_b_dec_of_a_transcoder_is_never_subtracted(said, tmp_path):
    """It is of the output, whatever the file says (SAELens#516)."""
    look = LOOKS["saelens jumprelu transcoder"](Weights(6, 20))
    look.files["cfg.json"]["apply_b_dec_to_input"] = said
    if said is ...:
        del look.files["cfg.json"]["apply_b_dec_to_input"]
    sae, origin = read(look.put(tmp_path))
    assert_computes(sae, look, inputs(6))
    assert bool(origin.notes) == (said is True)


def test_num_latents_of_0_means_the_expansion_factor(tmp_path):
    look = sparsify("layers.29.mlp", num_latents=0)(Weights(6, 24))
    assert_computes(load_sae(look.put(tmp_path)), look, inputs(6))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "saelens topk",
            {
                "format": "SAELens", "version": "6.54.12", "architecture": "topk", "model": "gpt2",
                "hook": "resid_pre.8", "context": 128, "prepend_bos": True, "l0": 64.0, "transcoder": False,
            },
        ),
        ("saelens 1", {"version": "before 6", "hook": "resid_pre.8", "model": "gpt2-small"}),
        ("saelens transcoder", {"transcoder": True, "hook": "blocks.8.hook_mlp_in", "hook_out": "mlp_out.8"}),
        (
            "gemma scope",
            {"format": "Gemma Scope", "model": "google/gemma-2-9b", "hook": "resid_post.20", "l0": 71.0},
        ),
        ("gemma scope, lower case", {"model": "google/gemma-2-2b", "hook": "mlp_out.3"}),
        ("gemma scope, embedding", {"hook": "resid_pre.0"}),
        ("gemma scope 2", {"version": "2", "hook": "resid_post.17", "model": "google/gemma-3-1b-pt", "l0": 20.0}),
        ("gemma scope 2 without config", {"hook": "resid_post.17", "model": None}),
        ("llama scope", {"hook": "resid_post.0", "transcoder": False}),
        ("llama scope transcoder", {"hook": "resid_post.0", "hook_out": "mlp_out.0", "transcoder": True}),
        ("dictionary_learning BatchTopKSAE", {"hook": "resid_post.3", "context": 128, "l0": float(K)}),
        ("sparsify", {"hook": "resid_post.10", "model": "EleutherAI/pythia-160m", "context": 2048}),
        ("sparsify of an MLP", {"hook": "blocks.29.mlp.hook_out"}),
        ("sparsify transcoder", {"hook": "h.4.mlp.input", "hook_out": "blocks.4.mlp.hook_out", "transcoder": True}),
        ("gemma scope 2, affine transcoder", {"hook": "model.layers.12.pre_feedforward_layernorm", "transcoder": True}),
        ("openai topk", {"hook": "resid_post.8", "version": "5", "l0": float(K), "prepend_bos": False}),
        ("openai relu", {"version": "1", "hook": "resid_post.8", "model": "gpt2", "prepend_bos": False}),
        ("qwen scope", {"hook": "resid_post.7", "model": "Qwen/Qwen3-1.7B-Base", "l0": float(K)}),
        ("goodfire", {"hook": "resid_post.19", "model": "Llama-3.1-8B-Instruct"}),
        ("circuit-tracer relu", {"hook": "blocks.1.ln2.hook_normalized", "hook_out": "mlp_out.1"}),
        ("bussmann topk", {"hook": "resid_pre.8", "model": "gpt2-small", "context": 128}),
    ],
)  # fmt: skip
def test_what_the_files_say_of_it_is_known(name, says, tmp_path):
    sae, origin = read(LOOKS[name](Weights(6, 20)).put(tmp_path), pickles=True)
    assert {key: getattr(origin, key) for key in says} == says
    line = origin.line(sae)
    assert "\n" not in line
    assert all(str(value) in line for value in (origin.format, origin.architecture, 20, 6))


def test_what_was_folded_in_is_said(tmp_path):
    folded = read(LOOKS["saelens checkpoint batchtopk"](Weights(6, 20)).put(tmp_path)).origin.folded
    assert [what[:9] for what in folded] == ["b_dec is ", "z is weig", "x is mult"]
    assert read(LOOKS["saelens without b_dec"](Weights(6, 20)).put(tmp_path / "2")).origin.folded == ()


def test_models_that_were_centred_are_pointed_out(tmp_path):
    centred = read(LOOKS["saelens 1"](Weights(6, 20)).put(tmp_path)).origin
    assert "center_writing_weights" in centred.notes[0]
    assert centred.processed == ("center_writing_weights",)
    assert not read(LOOKS["saelens 5"](Weights(6, 20)).put(tmp_path / "5")).origin.notes
    look = LOOKS["saelens 1"](Weights(6, 20))
    look.files["cfg.json"]["model_name"] = "llama-7b"  # whose norms do not centre
    other = read(look.put(tmp_path / "llama")).origin
    assert "where the model has layer norms" in other.notes[0]
    assert other.processed == ()


@pytest.mark.parametrize("kind", ["attn", "mlp"])
def test_outputs_of_modules_are_no_contributions(kind, tmp_path):
    look = LOOKS["dictionary_learning AutoEncoder"](Weights(6, 20))
    look.files["trainer_0/config.json"]["trainer"]["submodule_name"] = f"{kind}_out_layer_3"
    assert read(look.put(tmp_path), pickles=True).origin.hook == f"blocks.3.{kind}.hook_out"


@pytest.mark.parametrize("version", ["6", "5"])
def test_one_head_and_some_positions_are_known_and_kept(version, tmp_path):
    look = LOOKS["saelens standard" if version == "6" else "saelens 5"](Weights(6, 20))
    config = look.files["cfg.json"]
    facts = {"hook_name": "blocks.2.attn.hook_z", "hook_head_index": 3, "seqpos_slice": [1, None]}
    (config["metadata"] if version == "6" else config).update(facts)
    origin = read(look.put(tmp_path / "src")).origin
    assert (origin.head, origin.positions) == (3, (1, None))
    said = ("x is that of head 3 alone", "trained on the positions (1, None) of each sequence alone (seqpos_slice)")
    assert origin.notes == said
    convert(tmp_path / "src", tmp_path / "dst")
    again = read(tmp_path / "dst").origin
    assert (again.head, again.positions) == (3, (1, None))
    assert set(said) < set(again.notes)
    written = json.loads((tmp_path / "dst/cfg.json").read_text())
    assert {name: written["metadata"][name] for name in ("hook_head_index", "seqpos_slice")} == {
        "hook_head_index": 3, "seqpos_slice": [1, None],
    }  # fmt: skip
    assert written["reshape_activations"] == "none"  # of one head there is nothing to put side by side


@pytest.mark.parametrize("whole", [[None], [0, None], [None, None, 1], None, "all", [0.5]])
def test_all_positions_are_no_choice_of_them(whole, tmp_path):
    look = LOOKS["saelens standard"](Weights(6, 20))
    look.files["cfg.json"]["metadata"]["seqpos_slice"] = whole
    origin = read(look.put(tmp_path)).origin
    assert (origin.positions, origin.notes) == (None, ())


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in LOOKS
        if any(word in name for word in ("jump", "batch", "gemma", "llama", "Batch", "Jump"))
        and "layer norm" not in name  # where tokens of equal entries are all 0
    ],
)
def test_a_feature_at_its_threshold_is_not_active(name, tmp_path):
    """> is strict: z = θ gives 0, the next number above it is kept. All scales are 1 here, all rows of length 1."""
    D = 4
    w = Weights(D, 2 * D)
    w.W_enc = torch.cat([torch.eye(D), torch.eye(D)], dim=1)
    w.W_dec, w.b_enc, w.b_dec, w.theta = w.W_enc.T.clone(), torch.zeros(2 * D), torch.zeros(D), torch.ones(2 * D)
    at = {"dictionary_learning": 1.1, "saelens batchtopk": 0.4, "saelens checkpoint": 0.5, "llama": 0.03}
    theta = next((value for start, value in at.items() if name.startswith(start) and "Jump" not in name), 1.0)
    look = LOOKS[name](w)
    if "transcoder" in name and name.startswith("saelens"):
        pytest.skip("its look draws weights of its own; the nonlinearity is that of the jumprelu")
    for file, content in look.files.items():
        if file == "activation_scaler.json":
            look.files[file] = {"scaling_factor": 1.0}
        if isinstance(content, dict) and "dataset_average_activation_norm" in content:
            content["dataset_average_activation_norm"] = {"in": 2.0, "out": 2.0}  # √D: both scales are 1
        if isinstance(content, dict):
            for key in content:
                if key.startswith("dataset_average_activation_norm."):
                    content[key] = torch.tensor(2.0)
    sae = read(look.put(tmp_path), pickles=True).dictionary
    scale = math.sqrt(D) if "embedding" in name else 1.0
    equal = torch.full((1, D), float(torch.tensor(theta))) * scale
    above = torch.nextafter(equal, torch.full_like(equal, 2 * scale))
    below = torch.nextafter(equal, torch.zeros_like(equal))
    with torch.no_grad():
        assert [int((sae.encode(x) != 0).sum()) for x in (below, equal, above)] == [0, 0, 2 * D]
