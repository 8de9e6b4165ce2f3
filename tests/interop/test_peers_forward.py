"""Dictionaries that the libraries themselves made and saved, against their own forward pass, float32."""

from __future__ import annotations

import json

import pytest
import torch
from interop.looks import inputs

from unmix.interop.load import read

pytestmark = pytest.mark.peers
D, F, E, K = 12, 40, 9, 4


def fill(module) -> None:
    """Random parameters, drawn for the test."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.copy_(torch.randn(p.shape, generator=draw) * (0.3 if p.ndim == 2 else 0.2))
            if "threshold" in name:
                p.abs_()


def assert_same(sae, x, f, y) -> None:
    with torch.no_grad():
        got_f, got_y = sae.encode(x), sae(x)
    assert torch.equal(got_f != 0, f != 0)
    for got, wanted in ((got_f, f), (got_y, y)):
        assert (got - wanted).abs().max() <= 2e-5 * wanted.abs().max()
    assert (f != 0).any()


SAELENS = [
    ("standard", {}),
    ("standard", {"normalize_activations": "constant_norm_rescale"}),
    ("standard", {"apply_b_dec_to_input": False}),
    ("jumprelu", {}),
    ("gated", {}),
    ("topk", {"k": K}),
    ("topk", {"k": K, "rescale_acts_by_decoder_norm": True}),
    ("abstopk", {"k": K}),
    ("abstopk", {"k": K, "rescale_acts_by_decoder_norm": True}),
    ("transcoder", {"d_out": E, "apply_b_dec_to_input": False}),
    ("jumprelu_transcoder", {"d_out": E, "apply_b_dec_to_input": False}),
    ("skip_transcoder", {"d_out": E, "apply_b_dec_to_input": False}),
    ("jumprelu_skip_transcoder", {"d_out": E, "apply_b_dec_to_input": False}),
    ("standard", {"normalize_activations": "layer_norm"}),
    ("jumprelu", {"normalize_activations": "layer_norm"}),
    ("topk", {"k": K, "normalize_activations": "layer_norm"}),
]


def sae_lens():
    return pytest.importorskip("sae_lens", reason="sae-lens is not installed")


@pytest.mark.parametrize(("architecture", "keys"), SAELENS)
def test_saelens(architecture, keys, tmp_path):
    sae_lens()
    from sae_lens.registry import get_sae_class

    kind, config = get_sae_class(architecture)
    theirs = kind(config(d_in=D, d_sae=F, dtype="float32", device="cpu", **keys))
    fill(theirs)
    theirs.save_model(str(tmp_path))
    x = inputs(D)
    with torch.no_grad():
        f = theirs.encode(x)
        f = f.to_dense() if f.is_sparse else f
        y = theirs(x)
    found = read(tmp_path)
    assert_same(found.dictionary, x, f, y)
    assert found.origin.format == "SAELens"
    assert found.origin.version == sae_lens().__version__


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka_batchtopk"])
@pytest.mark.parametrize("scale", [None, 0.37])
def test_saelens_training_folders_equal_what_it_exports(architecture, rescale, scale, tmp_path):
    """What it saves for training on, with the factor beside it, is what it makes of that when the training ends."""
    sae_lens()
    from sae_lens.registry import get_sae_training_class

    kind, config = get_sae_training_class(architecture)
    more = {"matryoshka_widths": [10, F]} if architecture.startswith("matr") else {}
    average = "none" if scale is None else "expected_average_only_in"
    keys = {"k": float(K), "rescale_acts_by_decoder_norm": rescale, "normalize_activations": average}
    theirs = kind(config(d_in=D, d_sae=F, dtype="float32", device="cpu", **keys, **more))
    fill(theirs)
    theirs.topk_threshold = torch.tensor(0.8, dtype=torch.double)
    theirs.save_model(str(tmp_path / "training"))
    if scale is not None:
        scaler = json.dumps({"scaling_factor": scale, "has_whitening": False})
        (tmp_path / "training" / "activation_scaler.json").write_text(scaler)
        theirs.fold_activation_norm_scaling_factor(scale)
        theirs.cfg.normalize_activations = "none"
    theirs.save_inference_model(str(tmp_path / "inference"))
    exported = sae_lens().SAE.load_from_disk(str(tmp_path / "inference"), device="cpu")
    x = inputs(D)
    with torch.no_grad():
        f, y = exported.encode(x), exported(x)
    for folder in ("training", "inference"):
        sae = read(tmp_path / folder).dictionary
        with torch.no_grad():
            assert (sae(x) - y).abs().max() <= 2e-5 * y.abs().max()
            assert torch.equal(sae.encode(x) != 0, f != 0)


def dictionary_learning(module: str, name: str):
    found = pytest.importorskip(f"dictionary_learning.{module}", reason="dictionary-learning is not installed")
    import nnsight

    nnsight.DEFAULT_PATCHER.__exit__(None, None, None)  # which dictionary-learning imports, and which patches torch
    return getattr(found, name)


@pytest.mark.parametrize(
    ("module", "name", "args"),
    [
        ("dictionary", "AutoEncoder", (D, F)),
        ("dictionary", "AutoEncoderNew", (D, F)),
        ("dictionary", "GatedAutoEncoder", (D, F)),
        ("dictionary", "JumpReluAutoEncoder", (D, F)),
        ("trainers.top_k", "AutoEncoderTopK", (D, F, K)),
        ("trainers.batch_top_k", "BatchTopKSAE", (D, F, K)),
        ("trainers.matryoshka_batch_top_k", "MatryoshkaBatchTopKSAE", (D, F, K, [10, F - 10])),
    ],
)
def test_dictionary_learning(module, name, args, tmp_path):
    theirs = dictionary_learning(module, name)(*args)
    fill(theirs)
    if "Batch" in name:
        theirs.threshold.fill_(0.9)
    torch.save(theirs.state_dict(), tmp_path / "ae.pt")
    trainer = {"dict_class": name, "activation_dim": D, "dict_size": F, "submodule_name": "resid_post_layer_3"}
    (tmp_path / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 128}}))
    x = inputs(D)
    with torch.no_grad():
        f = theirs.encode(x)
        y = theirs.decode(f)
    assert_same(read(tmp_path, pickles=True).dictionary, x, f, y)


@pytest.mark.parametrize(("transcode", "skip"), [(False, False), (True, False), (True, True)])
def test_sparsify(transcode, skip, tmp_path):
    sparsify = pytest.importorskip("sparsify", reason="eai-sparsify is not installed")
    config = sparsify.SparseCoderConfig(num_latents=F, k=K, transcode=transcode, skip_connection=skip)
    theirs = sparsify.SparseCoder(D, config, device="cpu")
    fill(theirs)
    theirs.save_to_disk(tmp_path / "layers.3.mlp")
    x = inputs(D)
    with torch.no_grad():
        coded = theirs.encode(x)
        y = theirs(x, x).sae_out
    f = torch.zeros(len(x), F).scatter(-1, coded.top_indices, coded.top_acts)
    sae, origin = read(tmp_path / "layers.3.mlp")
    assert_same(sae, x, f, y)
    assert origin.transcoder == transcode
