"""Proof at the door: a dictionary that fits, and one at the wrong place or scale, with what would mend it."""

import math

import pytest
import torch
from tiny_models import CONTEXT, WIDTH, tiny_model_folder
from tiny_run import write_texts

from unmix.cli import main
from unmix.config import CorpusConfig, ModelConfig
from unmix.corpus.tokens import load_tokens
from unmix.dictionary.files import save_sae
from unmix.dictionary.model import Dictionary, new_dictionary
from unmix.dictionary.nonlinearities import Relu
from unmix.errors import UserError
from unmix.evaluation.proof import changes, measure, mends, neighbours, prove, read_pair
from unmix.interop.normal import product
from unmix.interop.origin import Origin
from unmix.lm.model import load_language_model

HOOK = "resid_post.1"


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_texts(tmp_path_factory.mktemp("proof") / "texts")


@pytest.fixture(scope="module")
def setting(texts, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNMIX_CACHE", str(tmp_path_factory.mktemp("cache")))
        lm = load_language_model(ModelConfig(name=str(tiny_model_folder())))
        yield lm, load_tokens(CorpusConfig(source=str(texts)), lm.tokenizer, 16, "held_out")


def identity(*, b_dec=None) -> Dictionary:
    """x̂ = x, by features in pairs: relu(x) and relu(-x); b_dec is moved into b_enc, so that it is subtracted."""
    eye_DD = torch.eye(WIDTH)
    b_D = torch.zeros(WIDTH) if b_dec is None else b_dec
    weights = {
        "W_enc": torch.cat([eye_DD, -eye_DD], 1),
        "b_enc": torch.zeros(2 * WIDTH),
        "W_dec": torch.cat([eye_DD, -eye_DD]),
        "b_dec": b_D,
    }
    weights |= Relu().moved(weights, -product(b_D, weights["W_enc"]))
    return Dictionary(weights)


def test_what_gives_x_back_explains_everything(setting):
    lm, tokens = setting
    made = Origin(format="SAELens", architecture="standard", l0=20.0, explained_variance=0.9)
    proof = prove(lm, tokens, HOOK, identity(), made, most=200)
    assert proof.found.fvu == pytest.approx(0, abs=1e-10)
    assert not proof.fails
    assert proof.found.tokens == 200 // 16 * 15
    assert str(proof) == (
        f"at {HOOK}, over 180 tokens: explained variance 1.000 (the file says 0.900), L0 {WIDTH:.1f} (the file says 20)"
    )


def test_one_trained_on_centred_activations_says_what_raw_ones_have_more(setting):
    lm, tokens = setting
    made = Origin(format="SAELens", architecture="standard", processed=("center_writing_weights",))
    x_BD, _ = read_pair(lm, tokens, HOOK, None, False, 200)
    removed = 1 - ((x_BD - x_BD.mean(1, keepdim=True)).square().sum() / x_BD.square().sum()).item()
    proof = prove(lm, tokens, HOOK, identity(), made, most=200)
    assert proof.mean_share == pytest.approx(removed, rel=1e-5)
    assert f"which the training subtracted, holds {removed:.2%} of ‖x‖² here" in str(proof)


def test_predicting_the_mean_is_an_fvu_of_1_and_zero_is_more(setting):
    lm, tokens = setting
    x_BD, y_BD = read_pair(lm, tokens, HOOK, None, False, 300)
    assert torch.equal(x_BD, y_BD)
    nothing = identity()
    weights = nothing.weights | {"W_dec": torch.zeros(2 * WIDTH, WIDTH), "b_dec": x_BD.double().mean(0).float()}
    assert measure(Dictionary(weights), x_BD, x_BD).fvu == pytest.approx(1, abs=1e-6)
    zero = measure(Dictionary(weights | {"b_dec": torch.zeros(WIDTH)}), x_BD, x_BD).fvu
    centred_BD = x_BD.double() - x_BD.double().mean(0)
    assert zero == pytest.approx((x_BD.double().square().sum() / centred_BD.square().sum()).item())


def hows(setting, sae, hook=HOOK):
    lm, tokens = setting
    assert prove(lm, tokens, hook, sae).fails
    return [mend.how for mend in mends(lm, tokens, hook, sae)]


def test_b_dec_that_was_subtracted_twice_or_never_is_found(setting):
    b_D = 3 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(0)) + 2
    right = identity(b_dec=b_D)
    w = right.weights
    shift_F = product(w["b_dec"], w["W_enc"])
    twice = right.changed(Relu().moved(w, -shift_F))
    never = right.changed(Relu().moved(w, shift_F))
    assert hows(setting, twice)[0] == "b_dec not subtracted from x"
    assert hows(setting, never)[0] == "b_dec subtracted from x"


def loud_above(largest) -> Dictionary:
    """x back, but for tokens with an entry above the largest: there far more than x."""
    sae, eye_DD = identity(), torch.eye(WIDTH)
    weights = {
        "W_enc": torch.cat([sae.W_enc.detach(), eye_DD, -eye_DD], 1),
        "b_enc": torch.cat([sae.b_enc.detach(), torch.full((2 * WIDTH,), -1.01 * largest)]),
        "W_dec": torch.cat([sae.W_dec.detach(), 1e6 * torch.ones(2 * WIDTH, WIDTH)]),
        "b_dec": torch.zeros(WIDTH),
    }
    return Dictionary(weights)


def test_a_scale_that_was_not_folded_in_is_found(setting):
    lm, tokens = setting
    x_BD, _ = read_pair(lm, tokens, HOOK, None, False, 1024)
    s = math.sqrt(WIDTH) / x_BD.norm(dim=1).mean().item()
    assert s > 2  # so that x is too large for what knows x / s
    assert hows(setting, loud_above(x_BD.abs().max().item() / s))[0].startswith("x divided by √D / mean ‖x‖ = ")


def test_a_hook_that_is_the_neighbour_s_is_found(setting):
    lm, tokens = setting
    mine, _ = read_pair(lm, tokens, "mlp_out.1", None, False, 1024)
    other, _ = read_pair(lm, tokens, HOOK, None, False, 1024)
    assert other.abs().max() > 2 * mine.abs().max()
    assert "read at mlp_out.1" in hows(setting, loud_above(mine.abs().max().item()))


def test_mends_are_measured_on_the_tokens_of_the_proof(setting):
    """Those that were left out of training for their length are no part of either."""
    lm, tokens = setting
    x_BD, _ = read_pair(lm, tokens, HOOK, None, False, 1024)
    right = identity(b_dec=3 * torch.ones(WIDTH))
    w = right.weights
    wrong = right.changed(Relu().moved(w, product(w["b_dec"], w["W_enc"])))
    longest = x_BD.norm(dim=1).median().item()
    sae = Dictionary(wrong.weights, wrong.nonlinearity, longest=longest)
    kept = int((x_BD.norm(dim=1) <= longest).sum())
    said = []
    mends(lm, tokens, HOOK, sae, say=said.append)
    assert f"on {kept:,} tokens" in said[0]
    assert prove(lm, tokens, HOOK, sae).found.tokens == kept


def test_what_nothing_mends_has_no_mend(setting):
    lm, tokens = setting
    weights = identity().weights
    nothing = {"W_dec": torch.zeros(2 * WIDTH, WIDTH), "b_dec": 1e9 * torch.arange(1.0, 1 + WIDTH)}
    assert mends(lm, tokens, HOOK, Dictionary(weights | nothing)) == []


def test_each_reading_is_the_one_that_it_is_called():
    """By hand, in float64, of a dictionary that reads x as it is."""
    draw = torch.Generator().manual_seed(5)
    D, F = 6, 20
    shapes = {"W_enc": (D, F), "b_enc": (F,), "W_dec": (F, D), "b_dec": (D,)}
    w = {name: torch.randn(*shape, generator=draw) for name, shape in shapes.items()}
    x_BD = 3 * torch.randn(40, D, generator=draw) + 1
    x = x_BD.double()
    W_enc, b_enc, W_dec, b_dec = (tensor.double() for tensor in w.values())
    s = math.sqrt(D) / x.norm(dim=1).mean().item()
    length = x.norm(dim=1, keepdim=True) / math.sqrt(D)
    mean, deviation = x.mean(1, keepdim=True), x.std(1, keepdim=True)
    scales = {
        "": (x, 1.0, 0.0),
        f"x multiplied by √D / mean ‖x‖ = {s:.3g}": (x * s, 1 / s, 0.0),
        f"x divided by √D / mean ‖x‖ = {s:.3g}": (x / s, s, 0.0),
        "each token scaled to length √D": (x / length, length, 0.0),
        "a layer norm of each token": ((x - mean) / (deviation + 1e-5), deviation, mean),
    }
    biases = {"": 0.0, "b_dec subtracted from x": -b_dec, "b_dec not subtracted from x": b_dec}
    found = changes(Dictionary(w), x_BD)
    assert found.keys() == {(of_bias, how) for of_bias in biases for how in scales}
    for (of_bias, how), sae in found.items():
        u, scale, shift = scales[how]
        y = (torch.relu((u + biases[of_bias]) @ W_enc + b_enc) @ W_dec + b_dec) * scale + shift
        torch.testing.assert_close(sae(x_BD).detach().double(), y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("hook", "wanted"),
    [
        ("resid_post.1", ["resid_pre.1", "attn_out.1", "mlp_out.1", "resid_post.2"]),
        ("resid_pre.1", ["resid_post.1", "attn_out.1", "mlp_out.1", "resid_pre.0"]),
        ("blocks.0.hook_mlp_out", ["resid_pre.0", "resid_post.0", "attn_out.0", "mlp_out.1"]),
        ("transformer.h.2.mlp", ["resid_pre.2", "resid_post.2", "attn_out.2", "mlp_out.2"]),
        ("wte", []),
    ],
)
def test_neighbours(hook, wanted):
    assert neighbours(hook, 3) == wanted


def test_another_width_is_refused(setting):
    lm, tokens = setting
    with pytest.raises(UserError, match=r"activations of width 4, and resid_post\.1"):
        prove(lm, tokens, HOOK, new_dictionary(4, 2, 1.0, 0))


@pytest.fixture
def words(texts, tmp_path, monkeypatch):
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    return ["--model", str(tiny_model_folder()), "--corpus", str(texts), "--tokens", "300"]


def saved(folder, sae, hook=HOOK, **more):
    save_sae(sae, folder, model="gpt2", hook=hook, context=CONTEXT, more=more)
    return folder


def test_the_command_says_what_fits(tmp_path, words, capsys):
    folder = saved(tmp_path / "sae", identity(), l0=17.0)
    assert main(["verify", str(folder), *words]) == 0
    whole, fit = capsys.readouterr().out.splitlines()
    assert "is whole" in whole
    assert "explained variance 1.000, L0 16.0 (the file says 17)" in fit


def test_the_command_says_what_would_mend_it(tmp_path, words, capsys):
    sae = identity(b_dec=5 * torch.ones(WIDTH))
    folder = saved(tmp_path / "sae", sae.changed(Relu().moved(sae.weights, product(sae.b_dec, sae.W_enc).detach())))
    assert main(["verify", str(folder), *words]) == 1
    line = capsys.readouterr().out.splitlines()[-1]
    assert "wrong place or scale; what would mend it: b_dec subtracted from x: FVU" in line
    assert main(["verify", str(folder), "--hook", HOOK]) == 2
    assert "give --model NAME and --corpus SOURCE" in capsys.readouterr().err


def test_opening_one_with_a_model_says_so_in_a_line(tmp_path, words, capsys):
    sae = identity(b_dec=5 * torch.ones(WIDTH))
    folder = saved(tmp_path / "sae", sae.changed(Relu().moved(sae.weights, product(sae.b_dec, sae.W_enc).detach())))
    assert main(["evaluate", str(folder), *words, "--ce-tokens", "100"]) == 0
    [line] = [line for line in capsys.readouterr().err.splitlines() if "wrong place or scale" in line]
    assert "warning" in line
    assert f"`unmix verify {folder} --model … --corpus …` tries what would mend it" in line


def test_a_transcoder_is_measured_by_what_it_predicts(setting, tmp_path, words, capsys):
    """By least squares from resid_pre.1 to mlp_out.1, once right and once with its output upside down."""
    lm, tokens = setting
    x_BD, y_BE = read_pair(lm, tokens, "resid_pre.1", "mlp_out.1", False, 1024)
    ones_B1 = torch.ones(len(x_BD), 1)
    map_DE = torch.linalg.lstsq(torch.cat([x_BD, ones_B1], 1), y_BE).solution
    sae = identity()
    for sign, status in ((1, 0), (-1, 1)):
        decoder = {"W_dec": sign * sae.W_dec.detach() @ map_DE[:-1], "b_dec": sign * map_DE[-1]}
        folder = tmp_path / f"transcoder{sign}"
        save_sae(
            sae.changed(decoder), folder, model="gpt2", hook="resid_pre.1", context=16, more={}, hook_out="mlp_out.1",
            transcoder=True,
        )  # fmt: skip
        assert main(["verify", str(folder), *words]) == status
        line = capsys.readouterr().out.splitlines()[-1]
        assert "at resid_pre.1 -> mlp_out.1, over" in line
        assert ("wrong place or scale" in line) == (sign == -1)
