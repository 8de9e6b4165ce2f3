"""Folders for dictionary_learning and sparsify: the same function, by their formulas, by our readers and by them."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch
from interop.looks import LOOKS, Weights, inputs

from unmix.cli import main
from unmix.interop.load import read
from unmix.interop.pickles import read_pickle

D, F = 8, 24
OF_DICTIONARY_LEARNING = {
    "gemma scope": "JumpReluAutoEncoder",
    "saelens standard": "AutoEncoderNew",
    "saelens gated": "GatedAutoEncoder",
    "saelens topk rescaled": "AutoEncoderTopK",
    "sparsify": "AutoEncoderTopK",
}
OF_SPARSIFY = (
    "saelens topk rescaled", "dictionary_learning AutoEncoderTopK", "sparsify", "sparsify transcoder",
    "sparsify skip transcoder",
)  # fmt: skip


def converted(name: str, tmp_path, to: str):
    src = LOOKS[name](Weights(D, F)).put(tmp_path / "src")
    assert main(["convert", str(src), str(tmp_path / "dst"), "--to", to]) == 0
    return read(src, pickles=True).dictionary, tmp_path / "dst"


def assert_same(f, y, sae) -> None:
    with torch.no_grad():
        wanted_f, wanted_y = sae.encode(inputs(D)), sae(inputs(D))
    assert torch.equal(f != 0, wanted_f != 0)
    assert (f - wanted_f).abs().max() <= 2e-5 * wanted_f.abs().max()
    assert (y - wanted_y).abs().max() <= 2e-5 * wanted_y.abs().max()


@pytest.mark.parametrize(("name", "kind"), OF_DICTIONARY_LEARNING.items())
def test_dictionary_learning_is_read_back(name, kind, tmp_path):
    sae, folder = converted(name, tmp_path, "dictionary_learning")
    again, made = read(folder, pickles=True)
    with torch.no_grad():
        assert_same(again.encode(inputs(D)), again(inputs(D)), sae)
    assert made.architecture == kind
    assert made.hook == read(tmp_path / "src" / LOOKS[name](Weights(D, F)).at, pickles=True).origin.hook


@pytest.mark.parametrize("name", OF_SPARSIFY)
def test_sparsify_is_read_back(name, tmp_path):
    sae, folder = converted(name, tmp_path, "sparsify")
    again, made = read(folder)
    with torch.no_grad():
        assert_same(again.encode(inputs(D)), again(inputs(D)), sae)
    assert made.transcoder == ("transcoder" in name)


def test_a_gated_one_by_its_formula(tmp_path):
    """GatedAutoEncoder subtracts b_dec from x, so that both biases are moved."""
    sae, folder = converted("saelens gated", tmp_path, "dictionary_learning")
    w = {name: tensor.double() for name, tensor in read_pickle(folder / "ae.pt").items()}
    u = (inputs(D).double() - w["decoder_bias"]) @ w["encoder.weight"].T
    f = ((u + w["gate_bias"]) > 0) * (u * w["r_mag"].exp() + w["mag_bias"]).relu()
    assert_same(f, f @ w["decoder.weight"].T + w["decoder_bias"], sae)


def test_a_topk_of_sparsify_by_its_formula(tmp_path):
    sae, folder = converted("saelens topk rescaled", tmp_path, "sparsify")
    w = {name: tensor.double() for name, tensor in safetensors.torch.load_file(folder / "sae.safetensors").items()}
    z = ((inputs(D).double() - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]).relu()
    values, at = z.topk(json.loads((folder / "cfg.json").read_text())["k"], dim=-1)
    f = torch.zeros_like(z).scatter(-1, at, values)
    assert_same(f, f @ w["W_dec"] + w["b_dec"], sae)


@pytest.mark.parametrize(
    ("name", "to", "says"),
    [
        ("gemma scope", "sparsify", "sparsify knows no jumprelu"),
        ("saelens abstopk", "dictionary_learning", "dictionary_learning knows no abstopk"),
        ("saelens per token", "dictionary_learning", "no scaling of each token"),
        ("saelens transcoder", "dictionary_learning", "knows no transcoder"),
        ("openai topk", "sparsify", "no layer norm of each token"),
    ],
)
def test_what_a_library_does_not_know_is_refused(name, to, says, tmp_path, capsys):
    src = LOOKS[name](Weights(D, F)).put(tmp_path / "src")
    assert main(["convert", str(src), str(tmp_path / "dst"), "--to", to]) == 2
    assert says in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


@pytest.mark.peers
@pytest.mark.parametrize("name", OF_DICTIONARY_LEARNING)
def test_dictionary_learning_computes_the_same(name, tmp_path):
    utils = pytest.importorskip("dictionary_learning.utils", reason="dictionary-learning is not installed")
    import nnsight

    nnsight.DEFAULT_PATCHER.__exit__(None, None, None)  # which dictionary-learning imports, and which patches torch
    sae, folder = converted(name, tmp_path, "dictionary_learning")
    theirs, _ = utils.load_dictionary(str(folder), "cpu")
    with torch.no_grad():
        f = theirs.encode(inputs(D))
        assert_same(f, theirs.decode(f), sae)


@pytest.mark.peers
@pytest.mark.parametrize("name", OF_SPARSIFY)
def test_sparsify_computes_the_same(name, tmp_path):
    sparsify = pytest.importorskip("sparsify", reason="eai-sparsify is not installed")
    sae, folder = converted(name, tmp_path, "sparsify")
    theirs = sparsify.SparseCoder.load_from_disk(folder)
    with torch.no_grad():
        coded = theirs.encode(inputs(D))
        y = theirs(inputs(D), inputs(D)).sae_out
    assert_same(torch.zeros(len(y), F).scatter(-1, coded.top_indices, coded.top_acts), y, sae)


@pytest.mark.peers
@pytest.mark.parametrize(
    "name",
    [
        "gemma scope", "sparsify", "saelens gated", "llama scope", "saelens per token", "saelens transcoder",
        "openai topk", "bussmann jumprelu layer norm", "saelens skip transcoder",
        "gemma scope 2, affine transcoder", "circuit-tracer with a skip",
    ],
)  # fmt: skip
def test_our_own_folder_computes_the_same_in_sae_lens(name, tmp_path):
    sae_lens = pytest.importorskip("sae_lens", reason="sae-lens is not installed")
    sae, folder = converted(name, tmp_path, "unmix")
    theirs = sae_lens.SAE.load_from_disk(str(folder), device="cpu")
    with torch.no_grad():
        f = theirs.encode(inputs(D))
        assert_same(f.to_dense() if f.is_sparse else f, theirs(inputs(D)), sae)
