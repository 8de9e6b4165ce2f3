"""Sample activations and their codes beside the weights: what they say, and that a folder that was changed shows."""

import json
from itertools import pairwise

import pytest
import safetensors
import safetensors.torch
import torch

from unmix.dictionary.files import save_sae
from unmix.dictionary.model import Dictionary, new_dictionary
from unmix.dictionary.nonlinearities import AbsTopK, Gated, JumpRelu, Relu, TanhRelu, TopK
from unmix.dictionary.per_token import LayerNorm
from unmix.dictionary.samples import FILE, draw, wrong
from unmix.interop.load import load_sae
from unmix.verify import verify

D, F = 8, 40
KINDS = [
    Relu(),
    TanhRelu(),
    JumpRelu(start_at=0.5),
    TopK(5, weigh_by_norm=False),
    AbsTopK(5, weigh_by_norm=False),
    Gated(),
]


def made(kind=None, T=None, skip=False):
    sae = new_dictionary(D, F, 1.0, 0, kind)
    draw_of = torch.Generator().manual_seed(1)
    more = {"b_dec": torch.randn(D, generator=draw_of), "b_enc": 0.3 * torch.randn(F, generator=draw_of)}
    more |= {"W_skip": torch.randn(D, D, generator=draw_of)} if skip else {}
    return Dictionary(sae.weights | more, sae.nonlinearity, per_token=T)


def saved(folder, sae, **more):
    save_sae(sae, folder, model="gpt2", hook="resid_post.1", context=64, more={}, **more)
    return folder


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("T", [None, LayerNorm()])
@pytest.mark.parametrize("kind", KINDS)
def test_the_file_is_what_the_dictionary_answers(kind, T, skip, tmp_path):
    sae = made(kind, T, skip)
    found = safetensors.torch.load_file(saved(tmp_path, sae) / FILE)
    x_KD, starts = found["x"], found["starts"].tolist()
    f_KF = torch.zeros(64, F)
    for t, (start, end) in enumerate(pairwise(starts)):
        for i, value in zip(found["features"][start:end], found["values"][start:end], strict=True):
            f_KF[t, i] = value
    assert (x_KD.shape, len(starts), starts[-1]) == ((64, D), 65, len(found["values"]))
    assert torch.equal(f_KF, sae.encode(x_KD))
    assert torch.equal(found["y_hat"], sae(x_KD))
    assert 0 < (f_KF != 0).sum() < f_KF.numel()
    assert wrong(load_sae(tmp_path), tmp_path) == ""


def test_samples_of_a_folder_depend_on_its_weights_alone(tmp_path):
    assert torch.equal(draw(made()), draw(made()))
    one, other = saved(tmp_path / "a", made()), saved(tmp_path / "b", made())
    assert (one / FILE).read_bytes() == (other / FILE).read_bytes()
    with safetensors.safe_open(one / FILE, "pt") as file:
        assert file.metadata() == {"of": "drawn"}


def test_activations_that_were_read_are_kept_as_they_are(tmp_path):
    x_BD = torch.randn(100, D).double()
    with safetensors.safe_open(saved(tmp_path, made(), samples=x_BD) / FILE, "pt") as file:
        assert torch.equal(file.get_tensor("x"), x_BD[:64].float())
        assert file.metadata() == {"of": "read"}


def test_fewer_features_than_are_drawn_and_columns_of_length_0(tmp_path):
    sae = new_dictionary(3, 2, 1.0, 0)
    saved(tmp_path, sae.changed({"W_enc": torch.zeros(3, 2)}))
    assert safetensors.torch.load_file(tmp_path / FILE)["x"].isfinite().all()


def changed_config(folder, **keys):
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | keys))


def changed_weights(folder, **change):
    found = safetensors.torch.load_file(folder / "sae_weights.safetensors")
    safetensors.torch.save_file({n: change[n](t) if n in change else t for n, t in found.items()},
                                folder / "sae_weights.safetensors")  # fmt: skip


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: changed_config(folder, apply_b_dec_to_input=True),
        lambda folder: changed_config(folder, normalize_activations="layer_norm"),
        lambda folder: changed_config(folder, k=4),
        lambda folder: changed_weights(folder, b_dec=lambda b: b + 0.01),
        lambda folder: changed_weights(folder, W_enc=lambda w: w.flip(1)),
        lambda folder: changed_weights(folder, W_dec=lambda w: w * 1.001),
    ],
)
def test_a_folder_that_was_changed_is_named(harm, tmp_path):
    folder = saved(tmp_path / "sae", made(TopK(5, weigh_by_norm=False)))
    assert verify(folder).problems == []
    harm(folder)
    [line] = verify(folder).problems
    assert f"{FILE}: to " in line
    assert "of 64 sample activations the dictionary does not answer" in line


@pytest.mark.parametrize("content", [b"", b"x" * 100, None])
def test_a_file_that_cannot_be_read_is_named_and_load_sae_does_not_mind(content, tmp_path):
    folder = saved(tmp_path / "sae", made())
    if content is None:
        safetensors.torch.save_file({"x": torch.zeros(64, D + 1)}, folder / FILE)
    else:
        (folder / FILE).write_bytes(content)
    load_sae(folder)
    [line] = verify(folder).problems
    assert "\n" not in line
    assert "is damaged" in line
    (folder / FILE).unlink()
    assert verify(folder).problems == []
