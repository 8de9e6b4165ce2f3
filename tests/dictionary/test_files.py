import json

import pytest
import torch
from run_pairs import same

from unmix.dictionary.files import save_sae
from unmix.dictionary.model import new_dictionary
from unmix.errors import UserError
from unmix.hooknames import transformer_lens
from unmix.interop.load import load_sae


def save(folder, hook="resid_post.3"):
    sae = new_dictionary(8, 32, 0.1, seed=1)
    save_sae(sae, folder, model="gpt2", hook=hook, context=128, more={"l1": 5.0})
    return sae


def test_what_is_saved_is_what_is_loaded(tmp_path):
    sae, loaded = save(tmp_path), load_sae(tmp_path)
    assert same(sae.weights, loaded.weights)
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert (config["architecture"], config["d_in"], config["d_sae"]) == ("standard", 8, 32)
    assert config["metadata"]["hook_name"] == "blocks.3.hook_resid_post"
    assert config["metadata"]["l1"] == 5.0


@pytest.mark.peers
def test_it_opens_in_sae_lens(tmp_path):
    sae_lens = pytest.importorskip("sae_lens", reason="sae-lens is not installed")
    sae = save(tmp_path)
    theirs = sae_lens.SAE.load_from_disk(str(tmp_path), device="cpu")
    x = torch.randn(5, 8)
    torch.testing.assert_close(theirs.encode(x), sae.encode(x))
    torch.testing.assert_close(theirs(x), sae(x))


def test_a_dictionary_that_centres_its_input_is_read_as_one_bias(tmp_path):
    sae = save(tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    with torch.no_grad():
        sae.b_dec.normal_()
    save_sae(sae, tmp_path, model="gpt2", hook="resid_post.3", context=128, more={})
    (tmp_path / "cfg.json").write_text(json.dumps({**config, "apply_b_dec_to_input": True}))
    x = torch.randn(5, 8)
    torch.testing.assert_close(load_sae(tmp_path).encode(x), torch.relu((x - sae.b_dec) @ sae.W_enc + sae.b_enc))


@pytest.mark.parametrize("harm", ["no_config", "no_weights", "cut", "other"])
def test_a_folder_that_is_no_sae_is_named(tmp_path, harm):
    save(tmp_path)
    if harm == "no_config":
        (tmp_path / "cfg.json").unlink()
    elif harm == "no_weights":
        (tmp_path / "sae_weights.safetensors").unlink()
    elif harm == "cut":
        path = tmp_path / "sae_weights.safetensors"
        path.write_bytes(path.read_bytes()[:100])
    else:
        (tmp_path / "cfg.json").write_text('{"architecture": "temporal"}')
    with pytest.raises(UserError, match=str(tmp_path)):
        load_sae(tmp_path)


def test_hooks_have_the_names_that_others_use():
    assert transformer_lens("resid_pre.0") == "blocks.0.hook_resid_pre"
    assert transformer_lens("transformer.h.1.ln_1") == "transformer.h.1.ln_1"


def test_what_was_left_out_of_training_is_known_after_reading(tmp_path):
    sae = new_dictionary(64, 32, 0.1, seed=1)
    sae.longest = 50_000.0
    x = torch.ones(4, 64) * torch.tensor([1.0, 6249.0, 6251.0, torch.inf])[:, None]  # norms of 8, 49,992, 50,008
    assert sae.leaves(x).tolist() == [False, False, True, False]  # what is not finite stays, so that it shows
    assert sae.leaves((x * 1.4).half()).tolist() == [False, True, True, False]  # a norm that float16 cannot hold
    more = {"mask": {"rule": "…", "longer_than": 50_000.0}}
    save_sae(sae, tmp_path, model="gpt2", hook="resid_post.3", context=128, more=more)
    assert load_sae(tmp_path).longest == 50_000.0
    save_sae(sae, tmp_path, model="gpt2", hook="resid_post.3", context=128, more={})
    assert load_sae(tmp_path).longest is None
    assert not load_sae(tmp_path).leaves(x).any()
