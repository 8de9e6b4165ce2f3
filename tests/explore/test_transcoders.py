"""A transcoder is explored: features of x at one hook, errors and changes of y at the other."""

import gzip
import json
import re
import shutil

import numpy as np
import pytest
import torch
from explore.foreign import (
    FEATURES,
    PLACES,
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
from tiny_models import WIDTH

from unmix.cli import main
from unmix.dictionary.files import save_sae
from unmix.dictionary.model import new_dictionary
from unmix.errors import UserError
from unmix.evaluation.evaluate import evaluate
from unmix.evaluation.splice import splice
from unmix.explore import logits
from unmix.explore.build import Wanted, build
from unmix.explore.intervene import Change, intervene
from unmix.explore.prompt import prompt_ids, read_prompt
from unmix.explore.store import open_store
from unmix.interop.load import load_sae

pytest.importorskip("duckdb")
pytest.importorskip("starlette")
SILENT = [].append


@pytest.fixture(scope="module", params=[kind for kind, (_, out) in PLACES.items() if out])
def one(request, tmp_path_factory):
    return explore(tmp_path_factory.mktemp("explored"), request.param)


@pytest.fixture(scope="module")
def skipping(tmp_path_factory):
    return explore(tmp_path_factory.mktemp("explored"), "skip transcoder")


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))


def test_every_value_is_that_of_the_formula(one):
    opened, truth, found = open_store(one.out), truth_of(one), stored(one)
    text, (err_R, l0_R) = opened.text(one.hook), opened.errors(one.name)
    assert opened.members[one.name]["hook_out"] == one.hook_out
    np.testing.assert_allclose(found.f_RF, truth.world.f_RF, atol=2e-5)
    assert found.id_R.tolist() == truth.world.id_R.tolist()
    assert found.masked_R.tolist() == truth.world.masked_R.tolist()
    np.testing.assert_allclose(text.norm_R, truth.x_RD.norm(dim=1), rtol=1e-4)
    np.testing.assert_allclose(text.target_R, truth.y_RE.norm(dim=1), rtol=1e-4)
    np.testing.assert_allclose(err_R, truth.error_R, rtol=1e-3)
    np.testing.assert_allclose(text.deviation_R, truth.deviation_R, rtol=1e-3)
    assert l0_R.tolist() == (truth.world.f_RF != 0).sum(1).tolist()
    assert 0 < found.f_RF.astype(bool).mean() < 0.9


def test_examples_and_numbers_are_those_of_the_values(one):
    assert windows_seen(one, stored(one)) > 500


def test_the_site_says_where_it_reads_and_where_it_writes(one):
    truth, kept_R = truth_of(one), ~truth_of(one).world.masked_R
    [row] = one.site("manifest")["members"]
    assert (row["hook_in"], row["hook_out"], row["hook"]) == (one.hook, one.hook_out, f"{one.hook} -> {one.hook_out}")
    explained = 1 - truth.error_R[kept_R].sum() / truth.deviation_R[kept_R].sum()
    assert row["explained_variance"] == pytest.approx(explained, rel=2e-3)
    assert row["l0"] == pytest.approx((truth.world.f_RF != 0)[kept_R].sum(1).mean(), rel=1e-3)
    last = np.argsort(stored(one).norm_R, kind="stable")[-(T * SEQUENCES - T * SEQUENCES * 9 // 10) :]
    square_R = truth.y_RE.double().square().sum(1).numpy()
    assert row["by_norm"]["error"][9] == pytest.approx(truth.error_R[last].sum() / square_R[last].sum(), rel=2e-3)
    error_ST = (truth.error_R / square_R).reshape(-1, T)
    norm_ST = truth.world.norm_R.reshape(-1, T)
    shown = token_rows(one)
    np.testing.assert_allclose([page["err"] for page in shown], error_ST, rtol=2e-3)
    np.testing.assert_allclose([page["norm"] for page in shown], norm_ST, rtol=1e-3)


def test_what_is_promoted_goes_by_the_output_hook(one):
    out = logits.readout(one.lm)
    wanted = logits.effects(load_sae(one.folder), out)
    for record in one.site(f"{one.name}/f/00000"):
        assert [i for i, _ in record["logits"]["plus"]] == wanted.plus_FK[record["i"]].tolist()


def test_an_evaluation_counts_the_same_tokens(one):
    [row] = one.site("manifest")["members"]
    found = evaluate(
        one.lm, one.tokens, one.hook, {"it": load_sae(one.folder)}, hook_out=one.hook_out,
        fidelity_tokens=T * SEQUENCES, ce_tokens=64,
    )  # fmt: skip
    assert found["fidelity_tokens"] == row["tokens"]["counted"]
    assert found["saes"]["it"]["l0"] == pytest.approx(row["l0"], rel=1e-3)


def test_a_prompt_and_the_built_in_texts_are_read_at_both_hooks(one):
    sae, answer = load_sae(one.folder), one.prompted(TEXT)
    ids_T = prompt_ids(one.lm, TEXT).ids_T
    x_TD, y_TE = one.read(ids_T[None])
    f_TF = sae.encode(x_TD).detach()
    _, y_hat_TE = one.look.function(x_TD)
    assert [token["id"] for token in answer["tokens"]] == ids_T.tolist()
    for token, f_F in zip(answer["tokens"], f_TF, strict=True):
        assert dict(token["f"]) == pytest.approx({int(i): float(f_F[i]) for i in f_F.nonzero()}, rel=1e-5)
    assert [token["norm"] for token in answer["tokens"]] == pytest.approx(x_TD.norm(dim=1).tolist(), rel=1e-5)
    error_T = (y_TE - y_hat_TE).square().sum(1) / y_TE.double().square().sum(1)
    assert [token["err"] for token in answer["tokens"]] == pytest.approx(error_T.tolist(), rel=1e-3)
    [row, *_] = one.site(f"{one.name}/prompts")
    tokens = one.prompted(row["text"])["tokens"]
    assert [token["id"] for token in tokens] == row["ids"]
    assert [token["err"] for token in tokens] == pytest.approx(row["err"], rel=1e-3)
    assert [[i for i, _ in token["f"]] for token in tokens] == [[i for i, _ in pairs] for pairs in row["f"]]


def test_ablating_is_the_splice_at_the_output_hook(one):
    """y' = ŷ of the changed features + (y - ŷ): the error stays, W_skip with it."""
    sae, ids_T = load_sae(one.folder), prompt_ids(one.lm, TEXT).ids_T
    x_TD, _ = one.read(ids_T[None])
    f_TF = sae.encode(x_TD).detach()
    feature = int((f_TF[1:] != 0).sum(0).argmax())
    without_TF = f_TF.clone()
    without_TF[:, feature] = 0
    with (
        torch.no_grad(),
        splice(one.lm.model, one.hook_out, lambda y: sae.decode(without_TF, x_TD) + (y - sae.decode(f_TF, x_TD))),
    ):
        changed_TV = torch.log_softmax(one.lm.logits(ids_T[None])[0].double(), -1)
    plain_TV = torch.log_softmax(one.lm.logits(ids_T[None])[0].double(), -1)
    delta_T = (changed_TV - plain_TV)[:-1].gather(1, ids_T[1:, None]).squeeze(1)
    assert delta_T.abs().max() > 1e-4
    found = one.intervened(TEXT, [{"feature": feature, "kind": "ablate"}])
    assert found["delta_logp"][:-1] == pytest.approx(delta_T.tolist(), abs=1e-5)
    kl_T = (plain_TV.exp() * (plain_TV - changed_TV)).sum(1)
    assert found["kl"] == pytest.approx(kl_T.tolist(), abs=1e-5)


def test_strength_0_changes_no_logit(one):
    feature = int(np.argmax([value or 0 for value in one.site(f"{one.name}/index")["max"]]))
    changes = [{"feature": feature, "kind": "add", "strength": 0.0}]
    found = one.intervened(TEXT, changes, generate=8, seed=3, temperature=1.2)
    assert set(found["kl"]) == {0.0}
    assert set(found["delta_logp"][:-1]) == {0.0}
    assert found["generated"]["plain"] == found["generated"]["changed"]


@pytest.mark.parametrize("where", [None, 0, 3])
def test_changes_hold_at_every_step(one, where):
    sae, ids_T = load_sae(one.folder), prompt_ids(one.lm, TEXT).ids_T
    found = intervene(
        one.lm, one.hook, sae, ids_T, [Change(3, "add", 6.0)], hook_out=one.hook_out, where=where, generate=10,
        temperature=0,
    )  # fmt: skip
    assert found.kl_T.max() > 1e-4
    assert found.changed.generated == written_greedily(one, ids_T, 6 * sae.W_dec[3].detach(), 10, where)


def test_a_clamp_is_by_the_x_of_the_same_pass(skipping):
    """Held at its own value, a feature changes nothing: f is of the x that is there."""
    one, sae = skipping, load_sae(skipping.folder)
    ids_T = prompt_ids(one.lm, TEXT).ids_T
    f_TF = sae.encode(one.read(ids_T[None])[0]).detach()
    at, feature = max((t, i) for t, i in f_TF.nonzero().tolist() if t < len(ids_T) - 1)
    own, double = (
        intervene(
            one.lm, one.hook, sae, ids_T, [Change(feature, "clamp", times * f_TF[at, feature].item())],
            hook_out=one.hook_out, where=at,
        )
        for times in (1, 2)
    )  # fmt: skip
    assert own.kl_T.max() < 1e-9 < 1e-6 < double.kl_T[at]


def test_an_output_that_comes_first_is_refused_in_one_line(skipping):
    sae, ids_T = load_sae(skipping.folder), prompt_ids(skipping.lm, TEXT).ids_T
    with pytest.raises(UserError, match="comes after the one whose y is replaced"):
        intervene(skipping.lm, skipping.hook, sae, ids_T, [Change(3, "ablate")], hook_out="mlp_out.0")
    plain = skipping.lm.logits(ids_T[None])
    intervene(skipping.lm, skipping.hook, sae, ids_T, [Change(3, "ablate")], hook_out=skipping.hook_out)
    assert torch.equal(skipping.lm.logits(ids_T[None]), plain)  # the model is as it was


def test_a_width_that_is_not_the_output_hooks_is_refused(skipping):
    sae = load_sae(skipping.folder)
    with pytest.raises(UserError, match=r"of width 16, and blocks\.1\.mlp\.hook_post of .* has 64"):
        read_prompt(skipping.lm, skipping.hook, sae, TEXT, hook_out="blocks.1.mlp.hook_post")


def test_the_command_line_explores_shows_and_asks_for_what_is_missing(skipping, tmp_path, capsys):
    words, folder = skipping.words, tmp_path / "theirs"
    shutil.copytree(skipping.folder, folder)
    config = json.loads((folder / "cfg.json").read_text())
    del config["metadata"]["hook_name_out"]
    (folder / "cfg.json").write_text(json.dumps(config))
    assert main(["explore", str(folder), "--build", *words]) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("give --hook-out HOOK")
    assert main(["explore", str(folder), "--build", *words, "--hook-out", skipping.hook_out]) == 0
    capsys.readouterr()
    assert main(["show", str(folder), "3"]) == 0
    assert "feature 3 of theirs" in capsys.readouterr().out
    assert main(["show", str(folder), "--text", TEXT, "--most", "2"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"theirs at {skipping.hook} -> {skipping.hook_out}; the 2 strongest features of each token")
    shown = [float(percent) / 100 for percent in re.findall(r"error ([\d.]+)%", said)]
    assert shown == pytest.approx([token["err"] for token in skipping.prompted(TEXT)["tokens"]], rel=1e-4)


def test_transcoders_are_matched_with_transcoders_of_the_same_hooks(skipping, tmp_path):
    def asked(path):
        wanted = Wanted(tokens=320, model=skipping.lm.name, corpus=str(skipping.out.parent / "texts"), beside=[path])
        build(skipping.folder, tmp_path / "out", wanted, SILENT)
        return json.loads((tmp_path / "out/manifest.json").read_text())["beside"]

    made = {"model": "gpt2", "context": T, "more": {}, "transcoder": True}
    other = new_dictionary(WIDTH, 24, 1.0, 7)
    save_sae(other, tmp_path / "alike", hook=skipping.hook, hook_out=skipping.hook_out, **made)
    save_sae(other, tmp_path / "elsewhere", hook=skipping.hook, hook_out="mlp_out.2", **made)
    save_sae(other, tmp_path / "sae", hook=skipping.hook, model="gpt2", context=T, more={})
    assert [row["features"] for row in asked(tmp_path / "alike").values()] == [24]
    for name, says in (("elsewhere", "mlp_out.2, and what"), ("sae", "ln_2, an SAE, and what is explored at")):
        with pytest.raises(UserError, match="give a transcoder of the same two hooks") as error:
            asked(tmp_path / name)
        assert says in str(error.value)


def test_pages_for_neuronpedia_have_no_vectors_for_the_wrong_place(skipping, tmp_path, capsys):
    folder = tmp_path / "theirs"
    shutil.copytree(skipping.folder, folder)
    shutil.copytree(skipping.out, folder / "explore")
    assert main(["convert", str(folder), str(tmp_path / "np"), "--to", "neuronpedia", "--model", "tiny"]) == 0
    assert f"it reads {skipping.hook}, and they belong to {skipping.hook_out}" in capsys.readouterr().err
    [batch] = (tmp_path / "np/bulk").rglob("features/batch-0.jsonl.gz")
    rows = [json.loads(line) for line in gzip.decompress(batch.read_bytes()).decode().splitlines()]
    assert len(rows) == FEATURES
    assert not any(row["hasVector"] for row in rows)
