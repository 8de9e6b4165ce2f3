"""Changes of features: against the splice, against brute force, and what is written afterwards."""

import math

import pytest
import torch
from tiny_models import CONTEXT, WIDTH, tiny_model_folder
from torch.nn import functional as F

from unmix.config import ModelConfig
from unmix.dictionary.model import Dictionary, new_dictionary
from unmix.dictionary.nonlinearities import AbsTopK, Gated, JumpRelu, Relu, TanhRelu, TopK
from unmix.dictionary.per_token import ByLength, LayerNorm
from unmix.errors import UserError
from unmix.evaluation.splice import splice, with_feature
from unmix.explore import intervene as module
from unmix.explore.intervene import Cancelled, Change, Outcome, change_features, intervene
from unmix.explore.prompt import prompt_ids, separator_id
from unmix.lm.model import load_language_model

HOOK, FEATURES = "resid_post.1", 48
KINDS = [Relu(), TanhRelu(), JumpRelu(), TopK(5, weigh_by_norm=False), AbsTopK(5, weigh_by_norm=False), Gated()]
TEXT = "def of(self): return the world import"
SCALINGS = [None, ByLength(), LayerNorm()]


@pytest.fixture(scope="module")
def lm():
    return load_language_model(ModelConfig(name=str(tiny_model_folder())))


def dictionary(kind=None, *, scaling=None, longest=None, seed=0):
    """One whose features weigh something, with parameters of its nonlinearity that differ."""
    sae = new_dictionary(WIDTH, FEATURES, 2.0, seed, kind)
    generator = torch.Generator().manual_seed(seed + 1)
    own = {
        name: 0.1 * torch.rand(FEATURES, generator=generator) for name in sae.weights if name not in ("W_enc", "W_dec")
    }
    own["b_dec"] = 0.1 * torch.randn(WIDTH, generator=generator)
    return Dictionary(sae.weights | own, sae.nonlinearity, per_token=scaling, longest=longest)


def x_of(lm, ids_T, hook=HOOK):
    return lm.activations(ids_T[None], [hook])[hook][0]


def often_active(lm, sae, ids_T):
    """A feature that is active on some of the tokens behind the first."""
    return int((sae.encode(x_of(lm, ids_T))[1:] != 0).sum(0).argmax())


def spliced_logits(lm, ids_T, replacement, hook=HOOK):
    with splice(lm.model, hook, replacement):
        return lm.logits(ids_T[None])[0]


def logp_of_next(logits_TV, ids_T):
    return torch.log_softmax(logits_TV[:-1].double(), -1).gather(1, ids_T[1:, None]).squeeze(1)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_ablating_is_what_the_splice_does(lm, kind, scaling):
    sae, ids_T = dictionary(kind, scaling=scaling), prompt_ids(lm, TEXT).ids_T
    feature = often_active(lm, sae, ids_T)
    spliced = spliced_logits(lm, ids_T, with_feature(sae, feature, 0))
    plain = lm.logits(ids_T[None])[0]
    assert (spliced - plain).abs().max() > 1e-4  # else there is nothing to compare
    found = intervene(lm, HOOK, sae, ids_T, [Change(feature, "ablate")])
    assert torch.allclose(found.changed.logp_T[:-1], logp_of_next(spliced, ids_T), rtol=0, atol=1e-5)
    assert torch.allclose(found.plain.logp_T[:-1], logp_of_next(plain, ids_T), rtol=0, atol=1e-5)
    changed_TV, plain_TV = (torch.log_softmax(logits.double(), -1) for logits in (spliced, plain))
    kl_T = F.kl_div(changed_TV, plain_TV, reduction="none", log_target=True).sum(1)
    assert torch.allclose(found.kl_T, kl_T, rtol=1e-3, atol=1e-6)
    p_V = torch.softmax(spliced[-1], -1)
    assert [p for _, p in found.changed.next] == pytest.approx(p_V.topk(10).values.tolist(), abs=1e-5)
    assert [p_V[i].item() for i, _ in found.changed.next] == pytest.approx([p for _, p in found.changed.next], abs=1e-5)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_error_of_the_dictionary_is_kept(lm, kind, scaling):
    sae = dictionary(kind, scaling=scaling)
    x_TD = x_of(lm, prompt_ids(lm, TEXT).ids_T)
    f_TF = sae.encode(x_TD)
    a, b, c = f_TF.abs().sum(0).topk(3).indices.tolist()
    new_TF = f_TF.clone()
    new_TF[:, a], new_TF[:, b] = 0, 1.5 * 2
    new_TF[:, c] = new_TF[:, c] - 0.5 * 3
    wanted_TD = sae.decode(new_TF, x_TD) + (x_TD - sae.decode(f_TF, x_TD))
    changes = [Change(c, "add", -0.5, 3.0), Change(a, "ablate"), Change(b, "clamp", 1.5, 2.0)]
    assert torch.allclose(change_features(sae, changes)(x_TD), wanted_TD, atol=1e-4)


def test_changes_of_one_feature_are_made_one_after_the_other(lm):
    sae, x_TD = dictionary(), x_of(lm, prompt_ids(lm, TEXT).ids_T)
    both = change_features(sae, [Change(3, "ablate"), Change(3, "add", 2.0)])(x_TD)
    assert torch.allclose(both, change_features(sae, [Change(3, "clamp", 2.0)])(x_TD), atol=1e-5)
    assert torch.equal(change_features(sae, [])(x_TD), x_TD)


def test_tokens_that_are_longer_than_it_was_trained_on_keep_x(lm):
    ids_T = prompt_ids(lm, TEXT).ids_T
    x_TD = x_of(lm, ids_T)
    norm_T = x_TD.norm(dim=1)
    sae = dictionary(longest=norm_T.median().item())
    new_TD = change_features(sae, [Change(3, "add", 1.0)])(x_TD)
    assert torch.equal((new_TD != x_TD).any(1), norm_T <= norm_T.median())


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_strength_0_changes_no_logit(lm, kind, scaling):
    sae, ids_T = dictionary(kind, scaling=scaling), prompt_ids(lm, TEXT).ids_T
    found = intervene(lm, HOOK, sae, ids_T, [Change(3, "add", 0.0, 7.0)], generate=12)
    # rows of a batch of two may differ in the last bit: threads share the work of a product
    assert found.delta_logp_T[:-1].abs().max() < 1e-5
    assert found.kl_T.max() < 1e-8
    assert [token for token, _ in found.plain.next] == [token for token, _ in found.changed.next]
    assert found.plain.generated == found.changed.generated


def test_clamping_to_the_present_value_changes_nothing(lm):
    sae, ids_T = dictionary(), prompt_ids(lm, TEXT).ids_T
    feature = often_active(lm, sae, ids_T)
    f_T = sae.encode(x_of(lm, ids_T))[:, feature]
    at = int(f_T[1:].argmax()) + 1
    found = intervene(lm, HOOK, sae, ids_T, [Change(feature, "clamp", f_T[at].item() / 3, 3.0)], where=at)
    assert found.delta_logp_T[:-1].abs().max() < 1e-6  # s u is f but for the rounding of one product
    moved = intervene(lm, HOOK, sae, ids_T, [Change(feature, "clamp", 2 * f_T[at].item())], where=at)
    assert moved.delta_logp_T[:-1].abs().max() > 1e-4


def test_one_position_changes_nothing_before_it(lm):
    sae, ids_T, at = dictionary(), prompt_ids(lm, TEXT).ids_T, 4
    change = Change(3, "add", 4.0)
    found = intervene(lm, HOOK, sae, ids_T, [change], where=at)
    assert found.kl_T[:at].max() < 1e-9
    assert found.kl_T[at] > 1e-4

    def there(x_NTD):
        new_NTD = x_NTD.clone()
        new_NTD[:, at] = change_features(sae, [change])(x_NTD[:, at])
        return new_NTD

    wanted = logp_of_next(spliced_logits(lm, ids_T, there), ids_T)
    assert torch.allclose(found.changed.logp_T[:-1], wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("generate", [0, 1, 5])
def test_what_is_heard_grows_to_what_is_found(lm, generate):
    sae, heard = dictionary(), list[Outcome]()
    ids_T = prompt_ids(lm, TEXT).ids_T
    found = intervene(lm, HOOK, sae, ids_T, [Change(3, "add", 5.0)], generate=generate, seed=2, heard=heard.append)
    longest = max(len(found.plain.generated), len(found.changed.generated))
    assert longest == generate
    for n, outcome in enumerate(heard):
        for row, whole in ((outcome.plain, found.plain), (outcome.changed, found.changed)):
            assert row.generated == whole.generated[:n]
            assert row.next == whole.next
            assert torch.equal(row.logp_T[:-1], whole.logp_T[:-1])
    assert len(heard) == longest + 1


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3_text", "mamba2", "openai-gpt"])
def test_greedy_writing_is_what_the_model_generates(family):
    lm = load_language_model(ModelConfig(name=str(tiny_model_folder(family))))
    ids_T, steps = prompt_ids(lm, TEXT).ids_T, 12
    found = intervene(lm, HOOK, dictionary(), ids_T, [Change(3, "add", 5.0)], generate=steps, temperature=0)
    output = lm.model.generate(
        ids_T[None], attention_mask=torch.ones_like(ids_T[None]), max_new_tokens=steps, do_sample=False
    )
    assert found.plain.generated == output[0, len(ids_T) :].tolist()


@pytest.mark.parametrize("where", [None, 0, 3])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3_text", "mamba2"])
def test_changes_hold_at_every_step(family, where):
    """Against a loop that keeps nothing between steps."""
    lm = load_language_model(ModelConfig(name=str(tiny_model_folder(family))))
    sae, ids_T = dictionary(), prompt_ids(lm, TEXT).ids_T
    change = Change(3, "add", 6.0)
    replacement = change_features(sae, [change])

    def put(x_NTD):
        if where is None:
            return replacement(x_NTD)
        new_NTD = x_NTD.clone()
        new_NTD[:, where] = replacement(x_NTD[:, where])
        return new_NTD

    written = ids_T
    for _ in range(10):
        logits_V = spliced_logits(lm, written, put)[-1]
        written = torch.cat([written, logits_V.argmax()[None]])
    found = intervene(lm, HOOK, sae, ids_T, [change], where=where, generate=10, temperature=0)
    assert found.changed.generated == written[len(ids_T) :].tolist()


def test_both_are_written_with_the_same_random_numbers(lm):
    sae, ids_T = dictionary(), prompt_ids(lm, TEXT).ids_T

    def write(seed, strength):
        return intervene(lm, HOOK, sae, ids_T, [Change(3, "add", strength)], generate=30, seed=seed, temperature=1.3)

    a, again, other, little = write(5, 9.0), write(5, 9.0), write(6, 9.0), write(5, 1e-6)
    assert (a.plain.generated, a.changed.generated) == (again.plain.generated, again.changed.generated)
    assert a.plain.generated != other.plain.generated
    assert little.plain.generated == little.changed.generated == a.plain.generated
    assert a.changed.generated != a.plain.generated


def test_tokens_come_as_often_as_the_softmax_says():
    generator, logits_2V = torch.Generator().manual_seed(0), torch.tensor([[0.0, 1.0, 2.0, -30.0]]).expand(2, -1)
    temperature, n = 2.0, 4000
    drawn = torch.stack([module._choose(logits_2V, temperature, generator) for _ in range(n)])
    assert torch.equal(drawn[:, 0], drawn[:, 1])
    p_V = torch.softmax(logits_2V[0] / temperature, 0)
    counts_V = torch.bincount(drawn[:, 0], minlength=4)
    chi2 = ((counts_V - n * p_V).square() / (n * p_V))[:3].sum()
    assert counts_V[3] == 0
    assert chi2 < 13.8  # 0.1 % of two degrees of freedom


def test_a_row_ends_with_its_document(lm, monkeypatch):
    sae, ids_T, end = dictionary(), prompt_ids(lm, TEXT).ids_T, separator_id(lm.tokenizer)
    script = iter([[5, 6], [7, end], [8, 9], [end, 4], [3, 3]])
    monkeypatch.setattr(module, "_choose", lambda *_: torch.tensor(next(script)))
    found = intervene(lm, HOOK, sae, ids_T, [], generate=20)
    assert (found.plain.generated, found.changed.generated) == ([5, 7, 8, end], [6, end])
    assert not found.cut


def test_it_stops_where_the_model_takes_no_more(lm, monkeypatch):
    monkeypatch.setattr(module, "separator_id", lambda _: -1)
    sae, ids_T = dictionary(), prompt_ids(lm, TEXT * 2).ids_T
    found = intervene(lm, HOOK, sae, ids_T, [], generate=128)
    assert len(found.plain.generated) == CONTEXT - len(ids_T)
    assert found.cut
    full_T = ids_T.repeat(4)[:CONTEXT]
    nothing = intervene(lm, HOOK, sae, full_T, [], generate=3)
    assert (nothing.plain.generated, nothing.cut) == ([], True)
    assert not intervene(lm, HOOK, sae, full_T, []).cut
    with pytest.raises(UserError, match=f"exceed the context .*, {CONTEXT}"):
        intervene(lm, HOOK, sae, ids_T.repeat(4)[: CONTEXT + 1], [])


def test_it_can_be_cancelled_between_tokens(lm):
    asked = []

    def cancelled():
        asked.append(1)
        return len(asked) == 5

    with pytest.raises(Cancelled):
        intervene(lm, HOOK, dictionary(), prompt_ids(lm, TEXT).ids_T, [], generate=40, cancelled=cancelled)
    assert len(asked) == 5
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in lm.model.modules())


def test_the_last_position_has_no_next_token(lm):
    found = intervene(lm, HOOK, dictionary(), prompt_ids(lm, "").ids_T, [Change(3, "add", 9.0)])
    assert len(found.kl_T) == 1
    assert math.isnan(found.delta_logp_T[0])
    assert found.kl_T[0] > 0


@pytest.mark.parametrize(
    ("change", "where", "temperature", "said"),
    [
        (Change(FEATURES, "ablate"), None, 1.0, f"feature {FEATURES} is not there; the dictionary has 0 to 47"),
        (Change(-1, "ablate"), None, 1.0, "feature -1 is not there"),
        (Change(1, "burn"), None, 1.0, "'burn'; give ablate, clamp, add"),
        (Change(1, "add", 1.0), 99, 1.0, "position 99 is not in the text"),
        (Change(1, "add", 1.0), None, -1.0, "temperature -1 is below 0"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(lm, change, where, temperature, said):
    with pytest.raises(UserError, match=said) as found:
        intervene(lm, HOOK, dictionary(), prompt_ids(lm, TEXT).ids_T, [change], where=where, temperature=temperature)
    assert "\n" not in str(found.value)


@pytest.mark.slow
def test_on_the_embedded_model():
    """Ablating equals the splice, and what is written is what the model generates."""
    lm = load_language_model(ModelConfig(name="embedded"))
    generator = torch.Generator().manual_seed(0)
    sae = new_dictionary(lm.width, 1024, 1.0, 0)
    ids_T = prompt_ids(lm, "import os\n\n\ndef main(argv):\n    return os.path.join(").ids_T
    x_TD = x_of(lm, ids_T, "resid_post.3")
    feature = int(sae.encode(x_TD)[1:].sum(0).argmax())
    found = intervene(lm, "resid_post.3", sae, ids_T, [Change(feature, "ablate")], generate=16, temperature=0)
    spliced = spliced_logits(lm, ids_T, with_feature(sae, feature, 0), "resid_post.3")
    assert torch.allclose(found.changed.logp_T[:-1], logp_of_next(spliced, ids_T), rtol=0, atol=1e-5)
    assert found.kl_T.max() > 1e-5
    output = lm.model.generate(
        ids_T[None], attention_mask=torch.ones_like(ids_T[None]), max_new_tokens=16, do_sample=False
    )
    assert found.plain.generated == output[0, len(ids_T) :].tolist()
    x_other = torch.randn(7, lm.width, generator=generator)
    assert torch.equal(change_features(sae, [Change(feature, "add", 0.0, 9.0)])(x_other), x_other)
