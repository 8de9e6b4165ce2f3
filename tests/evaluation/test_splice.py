"""What is put in the place of an activation: any way of naming features does the same, and wherever x lies."""

import numpy as np
import pytest
import torch
from far_tensor import Far, far

from unmix.dictionary.files import save_sae
from unmix.dictionary.model import new_dictionary
from unmix.errors import UserError
from unmix.evaluation.splice import error_of, splice, steered, with_feature, with_features
from unmix.interop.load import load_sae

D, F = 8, 24


@pytest.fixture
def sae():
    return new_dictionary(D, F, 1.0, 0)


@pytest.fixture
def x_BD():
    return torch.randn(50, D, generator=torch.Generator().manual_seed(1))


IDS = {
    "a generator": lambda ids: (i for i in ids),
    "an iterator": iter,
    "a dict's keys": lambda ids: dict.fromkeys(ids).keys(),
    "a tensor": torch.tensor,
    "numpy's": np.array,
}


@pytest.mark.parametrize("kind", IDS)
def test_features_may_be_named_by_any_iterable_of_whole_numbers(sae, x_BD, kind):
    ids = [3, 7, 11]
    wanted = steered(sae, ablate=ids)(x_BD)
    moved = (sae.encode(x_BD)[:, ids] @ sae.W_dec[ids]).norm()
    assert moved > 1
    torch.testing.assert_close(wanted, x_BD - sae.encode(x_BD)[:, ids] @ sae.W_dec[ids])
    change = steered(sae, ablate=IDS[kind](ids))
    assert torch.equal(change(x_BD), wanted)
    assert torch.equal(change(x_BD), wanted), "a second pass is not like the first"
    assert torch.equal(with_features(sae, IDS[kind](ids), torch.zeros_like)(x_BD), wanted)


@pytest.mark.parametrize("whole", [np.int64, torch.tensor, np.uint8])
def test_so_they_may_where_they_have_values(sae, x_BD, whole):
    wanted = steered(sae, clamp={3: 2.0}, add={7: 0.5}, multiply={11: 3.0})(x_BD)
    found = steered(sae, clamp={whole(3): 2.0}, add={whole(7): 0.5}, multiply={whole(11): 3.0})(x_BD)
    assert torch.equal(found, wanted)
    assert torch.equal(with_feature(sae, whole(3), 0)(x_BD), steered(sae, ablate=[3])(x_BD))


@pytest.mark.parametrize("wrong", [2.0, "3", None, torch.tensor(2.5), True, torch.tensor([True, False])[0], np.True_])
def test_what_is_no_feature_is_refused(sae, wrong):
    for change in ({"ablate": [wrong]}, {"add": {wrong: 1.0}}):
        with pytest.raises(UserError, match="is no whole number; give the indices of features"):
            steered(sae, **change)


def test_one_that_is_named_twice_is_refused_however_it_is_named(sae):
    for change in (
        {"ablate": iter([3, 3])},
        {"ablate": [3], "clamp": {np.int64(3): 1.0}},
        {"add": {3: 1.0, torch.tensor(3): 2.0}},
    ):
        with pytest.raises(UserError, match="feature 3 is changed in two ways"):
            steered(sae, **change)
    for absent in (F, -1):
        with pytest.raises(UserError, match=f"feature {absent} is not there"):
            steered(sae, ablate=iter([absent]))


@pytest.mark.parametrize("longest", [None, 2.5])
def test_x_is_brought_to_the_dictionary_and_back(sae, x_BD, longest):
    """As where a model runs on a GPU and the dictionary was loaded on the CPU."""
    sae.longest = longest
    model = torch.nn.Sequential(torch.nn.Identity())
    for put in (sae, error_of(sae), with_feature(sae, 3, 0), steered(sae, clamp={5: 1.0})):
        found = []
        for x in (x_BD, far(x_BD)):
            with splice(model, "0", put), torch.no_grad():
                found.append(model(x))
        assert torch.equal(*(one.as_subclass(torch.Tensor) for one in found))
        assert not torch.equal(found[0], x_BD)
    assert isinstance(far(x_BD) + far(x_BD), Far)
    with pytest.raises(RuntimeError, match="same device"):
        sae(far(x_BD))


def test_a_transcoder_is_not_put_where_it_reads(tmp_path):
    """Its Δ is of another hook: where both are of one width, x + Δ would be wrong without a word."""
    folder = tmp_path / "maps"
    kinds = {"hook": "resid_pre.0", "hook_out": "mlp_out.0", "transcoder": True}
    save_sae(new_dictionary(8, 24, 0.5, 0), folder, model="m", context=16, more={}, **kinds)
    maps = load_sae(folder)
    for put in (error_of, lambda sae: steered(sae, ablate=[3]), lambda sae: with_feature(sae, 3, 2.0)):
        with pytest.raises(UserError, match=r"^a transcoder \(resid_pre.0 -> mlp_out.0\) gives nothing of the place"):
            put(maps)
