"""The texts that come with unmix: values are `load_sae`'s, and those that the server answers."""

import json

import pytest
import torch
from explore.tiny_explored import HOOKS
from tiny_models import CONTEXT

from unmix.activations.mask import Mask
from unmix.config import MaskConfig
from unmix.evaluation.opened import open_subject
from unmix.explore import prompts
from unmix.explore import server_api as api
from unmix.explore.build import Wanted, build
from unmix.explore.pack import read_script
from unmix.explore.prompt import prompt_ids
from unmix.explore.server_open import open_served
from unmix.explore.store import open_store
from unmix.explore.token_bytes import bytes_of
from unmix.interop.load import load_sae

MEMBERS = [f"{hook}-l1-{value}" for hook in HOOKS for value in (1, 3)]
SILENT = [].append


@pytest.fixture(autouse=True)
def _small(small_shards):
    pass


def site(out, key):
    return read_script((out / "site" / f"{key}.js").read_bytes())


@pytest.fixture
def opened(folder):
    return open_subject(folder, SILENT)


def test_they_are_many_kinds_of_text_and_short():
    names = [text.name for text in prompts.TEXTS]
    assert len(set(names)) == len(names) == 10
    assert all(20 < len(text.text) < 200 for text in prompts.TEXTS)
    whole = "".join(text.text for text in prompts.TEXTS)
    for some in ("def ", "</script>", "User:", "3 + 4", "好", "は", "न", "م", "П", "🙂", "\n"):
        assert some in whole


def test_every_value_is_the_dictionarys(whole, folder, opened):
    _, lm, _ = opened
    store = open_store(whole)
    seen = 0
    for name in MEMBERS:
        facts, shown = store.members[name], site(whole, f"{name}/prompts")
        sae = load_sae(folder / facts["checkpoint"])
        assert [(row["name"], row["text"]) for row in shown] == [tuple(text) for text in prompts.TEXTS]
        for row in shown:
            ids_T, truncated = prompt_ids(lm, row["text"])
            assert row["ids"] == ids_T.tolist()
            assert row["truncated"] == truncated == (len(ids_T) == CONTEXT)
            x_TD = lm.activations(ids_T[None], [facts["hook"]])[facts["hook"]][0]
            f_TF = sae.encode(x_TD).detach()
            error_T = (sae.decode(f_TF, x_TD).detach() - x_TD).square().sum(1) / x_TD.square().sum(1)
            assert row["norm"] == pytest.approx(x_TD.norm(dim=1).tolist(), rel=1e-3)
            assert row["err"] == pytest.approx(error_T.tolist(), rel=2e-3)
            assert row["more"] == [0] * len(ids_T)
            for f_F, pairs in zip(f_TF, row["f"], strict=True):
                active = {int(i): float(f_F[i]) for i in f_F.nonzero()}
                assert dict(map(tuple, pairs)) == pytest.approx(active, rel=1e-3)
                assert len(pairs) == len(active)
                order = sorted(active, key=lambda i: (-abs(active[i]), i))
                assert [i for i, _ in pairs] == order
                seen += len(pairs)
    assert seen > 1000
    assert site(whole, "manifest")["prompts"] == 10


def test_they_are_what_the_server_answers(whole, folder):
    served = open_served(folder, whole, model=None, corpus=None, hook=None, say=SILENT)
    for name in MEMBERS:
        for row in site(whole, f"{name}/prompts")[:4]:
            request = api.PromptRequest(member=name, text=row["text"])
            tokens = api.answer_prompt(served, request, lambda: False, print)["tokens"]
            assert [token["id"] for token in tokens] == row["ids"]
            assert [at for at, token in enumerate(tokens) if token["masked"]] == row["m"]
            assert [[i for i, _ in token["f"]] for token in tokens] == [[i for i, _ in pairs] for pairs in row["f"]]


def test_the_vocabulary_has_their_tokens(whole, opened):
    of = bytes_of(opened[1].tokenizer)
    vocabulary = site(whole, "vocabulary")
    ids = {i for row in site(whole, f"{MEMBERS[0]}/prompts") for i in row["ids"]}
    assert all(vocabulary["bytes"][str(i)].encode("latin-1") == of(i) for i in ids - {0})


def test_what_is_left_out_is_marked_and_what_is_many_is_counted(opened, monkeypatch):
    subject, lm, _ = opened
    hook, members = next(iter(subject.saes.items()))
    name, sae = next(iter(members.items()))
    norm_T = lm.activations(prompt_ids(lm, prompts.TEXTS[0].text).ids_T[None], [hook])[hook][0].norm(dim=1)
    bound = norm_T[1:].sort().values[-3].item()
    mask = Mask(MaskConfig(special=True, norm_above=10), [0], bound / 10)
    monkeypatch.setattr(prompts, "KEPT", 2)
    [row, *_] = prompts.read_texts(lm, {hook: {name: sae}}, {hook: {name: mask}}, SILENT)[name]
    longer = (norm_T > bound * (1 + 1e-6)).nonzero().flatten().tolist()
    assert row["m"] == sorted({0, *longer})
    assert len(row["m"]) >= 3
    assert max(map(len, row["f"])) == 2
    f_TF = sae.encode(lm.activations(torch.tensor([row["ids"]]), [hook])[hook][0])
    assert row["more"] == [max(0, int(n) - 2) for n in (f_TF != 0).sum(1)]


def test_a_model_without_tokens_for_them_has_none(folder, out, opened, monkeypatch):
    said = []
    monkeypatch.setattr(
        prompts, "prompt_ids", lambda lm, text, bos: prompt_ids(lm, text, bos=bos) if "3 + 4" in text else refuse()
    )
    build(folder, out, Wanted(), said.append)
    assert site(out, "manifest")["prompts"] == 1
    assert [row["name"] for row in site(out, f"{MEMBERS[0]}/prompts")] == ["numbers"]
    assert "the text “Python” is left out of the prompts: no such token" in said


def refuse():
    from unmix.errors import UserError

    raise UserError("no such token")


def test_json_has_no_number_that_it_lacks(opened):
    """A token of length 0 has no error."""
    subject, lm, _ = opened
    hook, members = next(iter(subject.saes.items()))
    masks = {hook: {name: Mask(MaskConfig(special=True, norm_above=None), [0], 0.0) for name in members}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(lm), "activations", lambda self, ids, hooks: {hook: torch.zeros(*ids.shape, 16)})
        found = prompts.read_texts(lm, {hook: members}, masks, SILENT)
    assert all(error is None for rows in found.values() for row in rows for error in row["err"])
    json.dumps(found, allow_nan=False)
