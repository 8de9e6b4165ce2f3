import hashlib
import math

import pytest
import torch

from unmix.dictionary.model import Dictionary, fold_centre, fold_scaling, new_dictionary
from unmix.dictionary.nonlinearities import TopK
from unmix.dictionary.per_token import ByLength, LayerNorm


def test_it_starts_as_the_recipe_says():
    sae = new_dictionary(16, 64, 0.1, seed=3)
    assert torch.allclose(sae.W_dec.norm(dim=1), torch.full((64,), 0.1))
    assert torch.equal(sae.W_enc, sae.W_dec.T)
    assert not sae.b_enc.any()
    assert not sae.b_dec.any()
    assert torch.equal(sae.W_dec, new_dictionary(16, 64, 0.1, seed=3).W_dec)


def test_any_leading_shape_and_the_dtype_of_the_input():
    sae = new_dictionary(16, 64, 0.1, seed=0)
    x = torch.randn(2, 3, 16, dtype=torch.bfloat16)
    assert sae.encode(x).shape == (2, 3, 64)
    assert sae(x).shape == (2, 3, 16)
    assert sae(x).dtype == torch.bfloat16


@pytest.mark.parametrize("scale", [1.0, 0.03, 17.0])
def test_a_folded_dictionary_acts_on_raw_activations(scale):
    sae = new_dictionary(16, 64, 0.5, seed=0)
    with torch.no_grad():
        sae.b_enc.normal_()
        sae.b_dec.normal_()
    x = torch.randn(10, 16)
    folded = fold_scaling(sae, scale)
    torch.testing.assert_close(folded.encode(x), sae.encode(x * scale))
    torch.testing.assert_close(folded(x), sae(x * scale) / scale, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_none_is_refused(scale):
    with pytest.raises(ValueError, match="scale"):
        fold_scaling(new_dictionary(4, 8, 0.1, 0), scale)


def test_a_fingerprint_in_float32_is_what_it_was():
    """Explorers and evaluations are kept by it."""
    sae = Dictionary({name: torch.ones(shape) for name, shape in SHAPES.items()})
    assert sae.fingerprint == hashlib.sha256(_as_before(sae)).hexdigest()


SHAPES = {"W_enc": (2, 3), "b_enc": (3,), "W_dec": (3, 2), "b_dec": (2,)}


def _as_before(sae: Dictionary) -> bytes:
    """What is hashed, by numpy."""
    parts = [repr((sae.nonlinearity, False, None)).encode()]
    for name in ("W_dec", "W_enc", "b_dec", "b_enc"):
        weight = sae.weights[name]
        parts += [repr((name, tuple(weight.shape), weight.dtype)).encode(), weight.contiguous().numpy().tobytes()]
    return b"".join(parts)


def test_a_fingerprint_is_of_all_that_the_answers_depend_on():
    sae = new_dictionary(4, 8, 0.1, 0)
    assert sae.fingerprint == new_dictionary(4, 8, 0.1, 0).fingerprint
    others = [
        new_dictionary(4, 8, 0.1, 1),
        sae.changed({}, TopK(2)),
        sae.changed({}, TopK(3)),
        sae.changed({"b_dec": torch.full((4,), 1e-30)}),
        sae.changed({"threshold": torch.zeros(8)}),
        sae.changed({"W_skip": torch.zeros(4, 4)}),
    ]
    for changed in ({"per_token": ByLength()}, {"per_token": LayerNorm()}, {"longest": 3.0}):
        others.append(Dictionary(sae.weights, sae.nonlinearity, **changed))
    assert len({sae.fingerprint, *(other.fingerprint for other in others)}) == 1 + len(others)


def random(per_token=None, skip=False, D=6, F=20, E=6):
    draw = torch.Generator().manual_seed(1)
    shapes = {"W_enc": (D, F), "b_enc": (F,), "W_dec": (F, E), "b_dec": (E,)} | ({"W_skip": (D, E)} if skip else {})
    weights = {name: torch.randn(*shape, generator=draw) for name, shape in shapes.items()}
    return Dictionary(weights, per_token=per_token)


def x_of(D=6, tokens=50):
    return torch.randn(tokens, D, generator=torch.Generator().manual_seed(2)) * 3 + 0.7


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("T", [None, ByLength(), LayerNorm()])
def test_what_is_done_to_a_token_is_undone(T, skip):
    """By loops over tokens in float64: u = T(x), ŷ = T⁻¹(relu(u W_enc + b_enc) W_dec + b_dec) + x W_skip."""
    sae, x_BD = random(T, skip, E=9), x_of()
    w = {name: weight.double() for name, weight in sae.weights.items()}
    for x_D, f_F, y_E in zip(x_BD.double(), sae.encode(x_BD), sae(x_BD), strict=True):
        scale, shift, u_D = 1.0, 0.0, x_D
        if ByLength() == T:
            scale = math.sqrt(sum(v * v for v in x_D.tolist()) / 6)
            u_D = x_D / scale
        elif LayerNorm() == T:
            shift = sum(x_D.tolist()) / 6
            scale = math.sqrt(sum((v - shift) ** 2 for v in x_D.tolist()) / 5)
            u_D = (x_D - shift) / (scale + 1e-5)
        wanted_f = (u_D @ w["W_enc"] + w["b_enc"]).clamp_min(0)
        wanted_y = (wanted_f @ w["W_dec"] + w["b_dec"]) * scale + shift + (x_D @ w["W_skip"] if skip else 0)
        torch.testing.assert_close(f_F.double(), wanted_f, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(y_E.double(), wanted_y, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("T", [None, ByLength(), LayerNorm()])
def test_a_code_alone_is_enough_only_where_nothing_was_taken_out(T, skip):
    sae, x_BD = random(T, skip), x_of()
    f_BF = sae.encode(x_BD)
    assert torch.equal(sae.decode(f_BF, x_BD), sae(x_BD))
    assert sae.needs_x == (T is not None or skip)
    if sae.needs_x:
        with pytest.raises(ValueError, match="needs the x"):
            sae.decode(f_BF)
    else:
        assert torch.equal(sae.decode(f_BF), sae(x_BD))


@pytest.mark.parametrize("T", [None, ByLength(), LayerNorm()])
def test_a_part_of_y_hat_is_a_row_times_the_scale(T):
    sae, x_BD = random(T), x_of()
    f_BF = sae.encode(x_BD)
    without_BF = f_BF.clone()
    without_BF[:, 3] = 0
    part_BD = f_BF[:, 3, None] * sae.W_dec[3] * sae.token_scale(x_BD)
    torch.testing.assert_close(sae(x_BD) - sae.decode(without_BF, x_BD), part_BD, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("x", [torch.zeros(1, 6), torch.full((1, 6), 3.0), torch.full((1, 6), -1e15)])
@pytest.mark.parametrize("T", [ByLength(), LayerNorm()])
def test_tokens_that_nothing_can_be_divided_by_stay_finite(T, x):
    sae = random(T)
    assert sae(x).isfinite().all()
    assert sae.encode(x).isfinite().all()


def test_a_width_of_1_has_no_deviation():
    sae = random(LayerNorm(), D=1, E=1)
    torch.testing.assert_close(sae(torch.tensor([[5.0]])), torch.tensor([[5.0]]))


def test_a_centre_goes_past_a_skip():
    sae, x_BD = random(skip=True), x_of()
    centre_D = torch.arange(6.0)
    torch.testing.assert_close(fold_centre(sae, centre_D)(x_BD), sae(x_BD - centre_D) + centre_D, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fold_scaling(sae, 0.3)(x_BD), sae(x_BD * 0.3) / 0.3, rtol=1e-4, atol=1e-4)
