"""Dictionaries whose files say prepend_bos: false are explored on rows, prompts and texts without a BOS."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from explore.foreign import (
    SEQUENCES,
    TEXT,
    T,
    explore,
    stored,
    token_rows,
    truth_of,
    windows_seen,
    written_greedily,
)
from explore.stores import World, make_world

import unmix
from unmix.cli import main
from unmix.errors import UserError
from unmix.evaluation.evaluate import evaluate
from unmix.evaluation.splice import splice, with_feature
from unmix.explore.intervene import Change, intervene
from unmix.explore.left_out import reasons
from unmix.explore.prompt import prompt_ids
from unmix.explore.store import open_store
from unmix.interop.load import load_sae

pytest.importorskip("duckdb")
pytest.importorskip("starlette")


@pytest.fixture(scope="module", params=["SAE", "skip transcoder"])
def one(request, tmp_path_factory):
    return explore(tmp_path_factory.mktemp("explored"), request.param, prepend_bos=False)


@pytest.fixture(scope="module")
def sae(tmp_path_factory):
    return explore(tmp_path_factory.mktemp("explored"), "SAE", prepend_bos=False)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(sae, tmp_path):
    """A copy, to be changed."""
    return Path(shutil.copytree(sae.folder, tmp_path / "theirs"))


def test_rows_hold_none_and_every_position_counts(one):
    truth, found = truth_of(one), stored(one)
    np.testing.assert_allclose(found.f_RF, truth.world.f_RF, atol=2e-5)
    assert found.id_R.tolist() == truth.world.id_R.tolist()
    assert (found.id_R[::T] != 0).any()
    assert found.masked_R.tolist() == truth.world.masked_R.tolist()
    assert not found.masked_R[::T].all()
    assert open_store(one.out).inputs["prepend_bos"] is False


def test_numbers_places_and_examples_have_position_0(one):
    world = stored(one)
    assert windows_seen(one, world) > 500
    shown = [window for record in one.site(f"{one.name}/f/00000") for window in record["groups"]["uniform"]]
    peaks = [window["p"] + window["c"] for window in shown]
    assert 0 in peaks  # of features that fire on most tokens, a sixteenth of the firings


def test_what_the_page_says_is_left_out_is(one):
    manifest = one.site("manifest")
    tokens = manifest["tokens"]
    assert tokens["mask"].startswith(
        "tokens with norms above 10 times the median (sequences have no BOS: position 0 counts like any other); "
    )
    assert tokens["counted"] + tokens["masked"] == T * SEQUENCES
    [row] = manifest["members"]
    assert row["tokens"]["left_out"]["first"] == 0
    masked_R = stored(one).masked_R
    assert [at for page in token_rows(one) for at in page["m"]] == [t % T for t in np.flatnonzero(masked_R)]


def test_an_evaluation_counts_the_same_tokens(one):
    [row] = one.site("manifest")["members"]
    found = evaluate(
        one.lm, one.tokens, one.hook, {"it": load_sae(one.folder)}, hook_out=one.hook_out,
        fidelity_tokens=T * SEQUENCES, ce_tokens=64,
    )  # fmt: skip
    assert found["fidelity_tokens"] == row["tokens"]["counted"]
    assert found["saes"]["it"]["l0"] == pytest.approx(row["l0"], rel=1e-3)


def test_a_long_token_at_position_0_is_left_out_for_its_length():
    world = make_world(0)
    for skip, reason in ((1, 0), (0, 1)):
        norm_R = world.norm_R.copy()
        norm_R[0] = 100
        text = World(**{**vars(world), "norm_R": norm_R}).text._replace(skip=skip)
        assert reasons(text, 90.0)[0] == reason
    assert (reasons(world.text._replace(skip=0), 90.0) != 0).all()


def test_a_prompt_has_the_codes_of_the_text_alone(one):
    sae, answer = load_sae(one.folder), one.prompted(TEXT)
    ids = one.lm.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    assert [token["id"] for token in answer["tokens"]] == ids
    assert not any(token["masked"] for token in answer["tokens"])
    x_TD, _ = one.read(torch.tensor([ids]))
    for token, f_F in zip(answer["tokens"], sae.encode(x_TD).detach(), strict=True):
        assert dict(token["f"]) == pytest.approx({int(i): float(f_F[i]) for i in f_F.nonzero()}, rel=1e-5)


def test_the_built_in_texts_are_read_as_prompts_are(one):
    for row in one.site(f"{one.name}/prompts")[:3]:
        tokens = one.prompted(row["text"])["tokens"]
        assert [token["id"] for token in tokens] == row["ids"]
        assert row["ids"][0] != 0
        assert [at for at, token in enumerate(tokens) if token["masked"]] == row["m"]
        assert [[i for i, _ in token["f"]] for token in tokens] == [[i for i, _ in pairs] for pairs in row["f"]]


def test_an_empty_text_has_nothing_to_read(one):
    with pytest.raises(UserError, match="an empty text has no token to read"):
        one.prompted("")
    with pytest.raises(UserError, match="an empty text has no token to read"):
        one.intervened("", [])


def test_ablating_is_the_splice_in_python(sae):
    own = load_sae(sae.folder)
    ids_T = prompt_ids(sae.lm, TEXT, bos=False).ids_T
    f_TF = own.encode(sae.read(ids_T[None])[0])
    feature = int((f_TF != 0).sum(0).argmax())
    assert f_TF[0, feature] != 0
    with splice(sae.lm.model, sae.hook, with_feature(own, feature, 0)):
        changed_TV = torch.log_softmax(sae.lm.logits(ids_T[None])[0].double(), -1)
    plain_TV = torch.log_softmax(sae.lm.logits(ids_T[None])[0].double(), -1)
    delta_T = (changed_TV - plain_TV)[:-1].gather(1, ids_T[1:, None]).squeeze(1)
    assert delta_T.abs().max() > 1e-4
    found = sae.intervened(TEXT, [{"feature": feature, "kind": "ablate"}])
    assert [token["id"] for token in found["tokens"]] == ids_T.tolist()
    assert found["delta_logp"][:-1] == pytest.approx(delta_T.tolist(), abs=1e-5)


@pytest.mark.parametrize("where", [None, 0])
def test_what_is_written_goes_on_from_the_text_alone(one, where):
    ids_T = prompt_ids(one.lm, TEXT, bos=False).ids_T
    own = load_sae(one.folder)
    found = intervene(
        one.lm, one.hook, own, ids_T, [Change(3, "add", 6.0)], hook_out=one.hook_out, where=where, generate=10,
        temperature=0,
    )  # fmt: skip
    assert found.changed.generated == written_greedily(one, ids_T, 6 * own.W_dec[3].detach(), 10, where)


def test_top_features_reads_the_text_alone(sae):
    own = load_sae(sae.folder)
    found = unmix.top_features(sae.lm, own, TEXT, most=10_000)
    tokens = sae.prompted(TEXT)["tokens"]
    assert [[i for i, _ in active] for _, active in found] == [[i for i, _ in token["f"]] for token in tokens]


def test_the_command_line_builds_and_shows_and_mixes_no_rows(sae, folder, capsys):
    build = ["explore", str(folder), "--build", *sae.words]
    assert main(build) == 0
    assert "(prepend_bos: false): these have none" in capsys.readouterr().err
    assert main(["show", str(folder), "--text", TEXT]) == 0
    first = capsys.readouterr().out.splitlines()[1]
    assert first.startswith(f" {sae.lm.tokenizer.decode(prompt_ids(sae.lm, TEXT, bos=False).ids_T[:1])} ")
    assert "masked" not in first
    config = json.loads((folder / "cfg.json").read_text())
    config["metadata"]["prepend_bos"] = True
    (folder / "cfg.json").write_text(json.dumps(config))
    assert main(build) == 2
    assert "give --anew to build it again" in capsys.readouterr().err
    assert main([*build, "--anew"]) == 0
    assert "prepend_bos" not in json.loads((folder / "explore/manifest.json").read_text())["inputs"]
