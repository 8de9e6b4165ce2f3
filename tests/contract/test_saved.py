"""A folder of every architecture: the same bits when it is read, the same function in sae-lens."""

import json

import pytest
import torch
from contract.cases import batch, every_architecture, member_of, noise_of, train
from run_pairs import same

from unmix.dictionary.files import save_sae
from unmix.dictionary.model import fold_centre, fold_scaling
from unmix.dictionary.nonlinearities import BatchTopK
from unmix.interop.load import load_sae

SCALINGS = ("none", "dataset", "token")
NOT_IN_SAE_LENS = {"tanh_relu": "unmix_tanh_relu"}
"""What cfg.json calls them."""


def raw():
    """(3, 50, D): any leading shape."""
    return torch.stack([batch(number, tokens=50).activations["h"] for number in range(3)])


def saved(member, folder):
    sae = member.sae()
    save_sae(sae, folder, model="gpt2", hook="resid_post.1", context=64, more={})
    return sae


@pytest.mark.parametrize("scaling", SCALINGS)
@every_architecture
def test_it_is_read_to_the_same_bits(architecture, scaling, tmp_path):
    sae = saved(train(member_of(architecture, scaling=scaling), 20), tmp_path)
    loaded = load_sae(tmp_path)
    assert (loaded.nonlinearity.name, loaded.per_token is not None) == (sae.nonlinearity.name, scaling == "token")
    assert same(sae.weights, loaded.weights)
    with torch.no_grad():
        assert torch.equal(sae.encode(raw()), loaded.encode(raw()))
        assert torch.equal(sae(raw()), loaded(raw()))
    save_sae(loaded, tmp_path / "again", model="gpt2", hook="resid_post.1", context=64, more={})
    for name in ("cfg.json", "sae_weights.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


@every_architecture
def test_nothing_of_the_training_is_left_in_it(architecture, tmp_path):
    """What is saved acts on each token by itself, and knows nothing of noise, prefixes or dead features."""
    sae = saved(train(member_of(architecture, noise=noise_of(architecture, 1.0), auxk=0.1), 5), tmp_path)
    assert not isinstance(sae.nonlinearity, BatchTopK)
    with torch.no_grad():
        x = raw()
        assert torch.equal(sae.encode(x)[1, 7:9], sae.encode(x[1])[7:9])
        torch.testing.assert_close(sae.encode(x[1, 7:8]), sae.encode(x)[1, 7:8])
    keys = json.loads((tmp_path / "cfg.json").read_text()).keys()
    assert not {"noise", "prefixes", "bandwidth", "auxk"} & keys


@pytest.mark.parametrize("scale", [0.02, 1.0, 30.0])
@pytest.mark.parametrize("scaling", ["none", "dataset"])
@every_architecture
def test_a_folded_scale_leaves_f_and_divides_y(architecture, scaling, scale):
    sae = train(member_of(architecture, scaling=scaling), 20).sae().double()
    folded, x = fold_scaling(sae, scale), raw().double()
    with torch.no_grad():
        assert (sae.encode(x) != 0).any()
        torch.testing.assert_close(folded.encode(x / scale), sae.encode(x))
        torch.testing.assert_close(folded(x / scale), sae(x) / scale)


@every_architecture
def test_a_folded_centre_leaves_f_and_moves_y(architecture):
    sae = train(member_of(architecture), 20).sae().double()
    c_D, x = torch.randn(sae.width, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), raw().double()
    folded = fold_centre(sae, c_D)
    with torch.no_grad():
        assert (sae.encode(x) != 0).any()
        torch.testing.assert_close(folded.encode(x + c_D), sae.encode(x))
        torch.testing.assert_close(folded(x + c_D), sae(x) + c_D)


@pytest.mark.peers
@pytest.mark.parametrize("decoder", ["free", "unit_norm"])
@pytest.mark.parametrize("scaling", SCALINGS)
@every_architecture
def test_sae_lens_computes_the_same(architecture, scaling, decoder, tmp_path):
    sae_lens = pytest.importorskip("sae_lens", reason="sae-lens is not installed")
    sae = saved(train(member_of(architecture, scaling=scaling, decoder=decoder), 20), tmp_path)
    if architecture in NOT_IN_SAE_LENS:
        with pytest.raises(KeyError, match=NOT_IN_SAE_LENS[architecture]):
            sae_lens.SAE.load_from_disk(str(tmp_path), device="cpu")
        return
    theirs = sae_lens.SAE.load_from_disk(str(tmp_path), device="cpu")
    x = raw()
    with torch.no_grad():
        f, y_hat = sae.encode(x), sae(x)
        torch.testing.assert_close(theirs.encode(x), f, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(theirs(x), y_hat, rtol=1e-4, atol=1e-4)
    assert theirs.cfg.metadata.hook_name == "blocks.1.hook_resid_post"


@pytest.mark.peers
@pytest.mark.parametrize("scaling", SCALINGS)
@every_architecture
def test_what_sae_lens_saves_of_it_is_read_back(architecture, scaling, tmp_path):
    sae_lens = pytest.importorskip("sae_lens", reason="sae-lens is not installed")
    if architecture in NOT_IN_SAE_LENS:
        pytest.skip("sae-lens does not know it")
    sae = saved(train(member_of(architecture, scaling=scaling), 20), tmp_path / "ours")
    sae_lens.SAE.load_from_disk(str(tmp_path / "ours"), device="cpu").save_model(str(tmp_path / "theirs"))
    loaded = load_sae(tmp_path / "theirs")
    with torch.no_grad():
        torch.testing.assert_close(loaded.encode(raw()), sae.encode(raw()), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(loaded(raw()), sae(raw()), rtol=1e-4, atol=1e-4)
