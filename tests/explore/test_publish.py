"""The site's files decode to what was derived, and that to what the dictionaries do: the contract with the page."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from explore.stores import World
from explore.tiny_explored import HOOKS, TOKENS, files_of

from unmix.evaluation.opened import open_subject
from unmix.evaluation.subject import find_subject
from unmix.explore import derive, geometry, publish, store, token_budget
from unmix.explore.build import Wanted, build
from unmix.explore.duck import read_parquet
from unmix.explore.examples import BANDS
from unmix.explore.logits import readout
from unmix.explore.pack import read_bytes, read_script
from unmix.explore.store import open_store
from unmix.explore.texts import SiteText
from unmix.explore.token_bytes import bytes_of
from unmix.explore.token_pages import read_tokens
from unmix.interop.load import load_sae

MEMBERS = [f"{hook}-l1-{value}" for hook in HOOKS for value in (1, 3)]


@pytest.fixture(autouse=True)
def _small(small_shards):
    pass


@pytest.fixture
def get(whole):
    return lambda key: read_script((whole / "site" / f"{key}.js").read_bytes())


@pytest.fixture
def tokens(whole):
    """(name, number of a page) -> its sequences."""
    return lambda name, n: read_tokens(read_bytes((whole / f"site/{name}/t/{n:05d}.js").read_bytes()), 16)


def dense(opened, name):
    """The store's values of a member as a World of the other tests."""
    text, facts = opened.text(opened.members[name]["hook"]), opened.members[name]
    f_RF = np.zeros((len(text.id_R), facts["features"]), np.float32)
    entries = opened.entries(name, 0, facts["features"])
    for feature in range(facts["features"]):
        token_n, act_n = entries.of(feature)
        f_RF[token_n, feature] = act_n
    return World(opened.T, f_RF, text.id_R, opened.tokens["document"], text.norm_R, ~text.counted_R)


def test_the_records_are_what_was_derived(get, whole, folder):
    opened = open_store(whole)
    subject, lm, _ = open_subject(folder, [].append)
    of, out = bytes_of(lm.tokenizer), readout(lm)
    for hook, saes in subject.saes.items():
        sight = derive.see(opened, hook, saes)
        for name, sae in saes.items():
            known, index = derive.know(opened, name, sae, sight, out), get(f"{name}/index")
            listed = get(f"{name}/f/00000")
            assert [record["i"] for record in listed] == list(range(48))
            for (record, found), written in zip(derive.records(opened, known, sight, of), listed, strict=True):
                assert written == json.loads(json.dumps(record))
                for key, value in derive.row(record, found).items():
                    assert index[key][record["i"]] == value
            [other] = saes.keys() - {name}
            assert index["match"][other]["j"] == [record["stability"][0]["i"] for record in listed]
            assert index["match"][other]["cos"] == [record["stability"][0]["cos"] for record in listed]


def test_every_value_in_a_window_is_the_dictionarys(get, whole):
    opened, text = open_store(whole), SiteText(whole / "site", 16)
    for name in MEMBERS:
        world, seen = dense(opened, name), 0
        for record in map(text.fill, get(f"{name}/f/00000")):
            for group, entries in record["groups"].items():
                for window in [w for entry in entries for w in entry.get("windows", [entry])]:
                    start = window["s"] * world.T + window["p"]
                    tokens = range(start, start + window["n"])
                    assert window["ids"] == world.id_R[start : tokens.stop].tolist()
                    expected = {t - start: world.f_RF[t, record["i"]] for t in tokens if world.f_RF[t, record["i"]]}
                    assert dict(map(tuple, window["v"])) == pytest.approx(expected, rel=1e-3)
                    assert window["m"] == [t - start for t in tokens if world.masked_R[t]]
                    assert len({int(world.document_R[t]) for t in tokens}) == 1
                    assert window["c"] not in window["m"]
                    assert (window["c"] in expected) == (group not in ("near", "silent"))
                    seen += 1
        assert seen > 500


def test_the_shape_of_a_record(get):
    for name in MEMBERS:
        for record in get(f"{name}/f/00000"):
            if not record["firings"]:
                assert record["mean"] is record["std"] is None
                assert record["q"] == record["tokens"] == record["groups"]["top"] == []
                continue
            assert len(record["hist"]["edges"]) == 21
            assert len(record["hist"]["counts"]) == 20
            assert sum(record["hist"]["counts"]) == record["firings"]
            for bands in (record["groups"]["value"], record["groups"]["mass"]):
                assert len(bands) == BANDS
                assert all(a["high"] == b["low"] for a, b in pairwise(bands))
                assert sum(band["mass"] for band in bands) == pytest.approx(1, abs=1e-3)
            values = [dict(map(tuple, w["v"]))[w["c"]] for w in record["groups"]["top"]]
            assert values == sorted(values, reverse=True)
            assert values[0] == record["max"]
            assert len({w["s"] for w in record["groups"]["top"]}) == len(values)
            assert len(record["by_norm"]) == 10
            assert len(record["by_position"]) == 8
            assert len(record["logits"]["plus"]) == len(record["logits"]["minus"]) == 10
            assert len(record["decoder"]) == 10
            assert record["i"] not in [j for j, *_ in record["decoder"] + record["coact"]]


def test_token_pages_hold_every_feature_of_a_token(get, tokens, whole):
    opened = open_store(whole)
    for row in get("manifest")["members"]:
        assert (row["sequences"], row["strongest"]) == (23, 64)
    for name in MEMBERS:
        world = dense(opened, name)
        err_R, _ = opened.errors(name)
        pages = [tokens(name, n) for n in range(2)]
        assert [len(page) for page in pages] == [16, 7]
        assert get(f"{name}/index")["sequence_ids"] == list(range(23))
        for s, row in enumerate(row for page in pages for row in page):
            for t, token in enumerate(range(s * world.T, (s + 1) * world.T)):
                active = np.flatnonzero(world.f_RF[token])
                expected = sorted(active.tolist(), key=lambda i: (-abs(world.f_RF[token, i]), i))
                assert dict(row["f"][t]) == pytest.approx({i: world.f_RF[token, i] for i in expected}, rel=5e-4)
                values = [abs(value) for _, value in row["f"][t]]
                assert values == sorted(values, reverse=True)
                assert row["more"][t] == 0
                assert row["norm"][t] == pytest.approx(world.norm_R[token], rel=5e-4)
                assert row["err"][t] == pytest.approx(err_R[token] / world.norm_R[token] ** 2, rel=5e-4)
                assert (t in row["m"]) == bool(world.masked_R[token])


def test_every_example_opens_its_text(get):
    for row in get("manifest")["members"]:
        kept = set(get(f"{row['name']}/index")["sequence_ids"])
        for record in get(f"{row['name']}/f/00000"):
            assert {w["s"] for group in record["groups"].values() for e in group for w in e.get("windows", [e])} <= kept


def test_what_goes_wrong_while_writing_is_raised(tmp_path):
    from unmix.errors import UserError
    from unmix.explore import pages

    (tmp_path / "m").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"), pages.Site(tmp_path) as site:
        site.put("m/index", {})
    with pytest.raises(ValueError, match="JSON"), pages.Site(tmp_path) as site:
        site.put("k", math.nan)


def test_the_manifest_says_what_the_page_needs(get, whole, folder):
    manifest, opened = get("manifest"), open_store(whole)
    assert manifest["run"] == "run"
    assert manifest["fingerprint"] == opened.manifest["fingerprint"]
    assert manifest["server"] is False
    assert manifest["chosen"] is None
    assert manifest["tokens"]["counted"] + manifest["tokens"]["masked"] == TOKENS
    assert "position 0" in manifest["tokens"]["mask"]
    assert [row["name"] for row in manifest["members"]] == MEMBERS
    for row in manifest["members"]:
        name, text = row["name"], opened.text(row["hook"])
        sae = load_sae(folder / opened.members[name]["checkpoint"])
        assert (row["features"], row["step"], row["training_tokens"]) == (sae.features, 20, 960)
        assert row["asked"] == {"l1": float(name[-1])}
        assert row["architecture"] == "relu"
        assert row["delta_ce"] is None
        world = dense(opened, name)
        on_RF = (world.f_RF != 0)[text.counted_R]
        assert row["l0"] == pytest.approx(on_RF.sum(1).mean(), rel=1e-3)
        assert row["never"] == (~on_RF.any(0)).sum()
        assert row["dead"] == pytest.approx(row["never"] / 48, rel=1e-3)
        assert row["frequent"] == pytest.approx((on_RF.mean(0) > 0.1).mean(), rel=1e-3)
        assert sum(row["density"]["counts"]) == 48 - row["never"]
        assert len(row["density"]["edges"]) == len(row["density"]["counts"]) + 1
        err_R, _ = opened.errors(name)
        kept = text.counted_R
        unexplained = err_R[kept].sum(dtype=float) / text.deviation_R[kept].sum(dtype=float)
        assert row["explained_variance"] == pytest.approx(1 - unexplained, abs=1e-3)
        assert sum(row["by_norm"]["tokens"]) == TOKENS
        assert len(row["by_norm"]["edges"]) == 11
        order = np.argsort(text.norm_R, kind="stable")[-(TOKENS - TOKENS * 9 // 10) :]
        last = 1 - err_R[order].sum(dtype=float) / text.deviation_R[order].sum(dtype=float)
        assert row["by_norm"]["explained_variance"][9] == pytest.approx(last, abs=1e-3)
        square_R = text.norm_R.astype(float) ** 2
        assert row["by_norm"]["error"][9] == pytest.approx(err_R[order].sum() / square_R[order].sum(), rel=2e-3)
        l1_R = (np.abs(world.f_RF) * sae.W_dec.detach().norm(dim=1).numpy()).sum(1)
        for column, of_R in (("error_share", err_R), ("l0_share", (world.f_RF != 0).sum(1)), ("l1_share", l1_R)):
            assert row["by_norm"][column][9] == pytest.approx(of_R[order].sum() / of_R.sum(), rel=2e-3)
            assert sum(row["by_norm"][column]) == pytest.approx(1, abs=2e-3)
        assert sum(row["tokens"]["left_out"].values()) == row["tokens"]["masked"] == TOKENS - row["tokens"]["counted"]
        assert row["tokens"]["left_out"]["first"] == 23
        assert row["described"] == 0


def test_the_vocabulary_has_every_token_of_the_site(get, whole, folder):
    text = SiteText(whole / "site", 16)
    assert text.id_R.tolist() == open_store(whole).tokens["id"].tolist()
    _, lm, _ = open_subject(folder, [].append)
    vocabulary, of = get("vocabulary"), bytes_of(lm.tokenizer)
    ids = set(text.id_R.tolist())
    for name in MEMBERS:
        for record in get(f"{name}/f/00000"):
            ids.update(i for i, *_ in record["tokens"])
            ids.update(i for side in record["logits"].values() for i, _ in side)
    for i in ids:
        if str(i) in vocabulary["special"]:
            assert vocabulary["special"][str(i)] == "<|endoftext|>"
        else:
            assert vocabulary["bytes"][str(i)].encode("latin-1") == of(i)


def test_a_table_of_features_for_whoever_wants_one(get, whole):
    name = MEMBERS[0]
    index = get(f"{name}/index")
    found = read_parquet([whole / f"features/{name}.parquet"], ["feature", "firings", "max", "entropy", "label"])
    assert found["feature"].tolist() == list(range(48))
    assert found["firings"].tolist() == [record["firings"] for record in get(f"{name}/f/00000")]
    assert found["label"].tolist() == index["label"]
    expected = [math.nan if value is None else value for value in index["entropy"]]
    np.testing.assert_array_equal(found["entropy"], expected)


def test_blocks_and_the_collector_change_nothing(folder, whole, out, monkeypatch):
    import gc

    monkeypatch.setattr(store, "BLOCK_ENTRIES", 50)
    monkeypatch.setattr(geometry, "PIECE", 1000)
    assert gc.isenabled()
    build(folder, out, Wanted(), [].append)
    assert gc.isenabled()
    assert files_of(out) == files_of(whole)


def test_all_members_token_files_keep_to_the_bytes_of_a_site(folder, whole, out, monkeypatch):
    def size(built):
        return sum(path.stat().st_size for name in MEMBERS for path in (built / "site" / name / "t").iterdir())

    monkeypatch.setattr(token_budget, "BYTES", int(0.8 * size(whole)))
    build(folder, out, Wanted(), [].append)
    assert 0.6 * size(whole) < size(out) <= 0.8 * size(whole)
    for row in read_script((out / "site" / "manifest.js").read_bytes())["members"]:
        assert row["sequences"] == 23  # every example opens, with fewer features a token
        assert token_budget.LEAST <= row["strongest"] <= token_budget.MOST
        pages = sorted((out / "site" / row["name"] / "t").iterdir())
        rows = [found for page in pages for found in read_tokens(read_bytes(page.read_bytes()), 16)]
        assert max(len(token) for found in rows for token in found["f"]) <= row["strongest"]


def test_costs_and_the_choice_of_the_run_are_shown(own, out):
    subject = find_subject(own, model=None, corpus=None, hook=None)
    name = MEMBERS[2]
    row = {"delta_ce": 0.12345678, "delta_ce_standard_error": math.nan}
    evaluation = {"checkpoints": subject.checkpoints, "hooks": [{"hook": HOOKS[1], "saes": {name: row}}]}
    (own / "evaluation.json").write_text(json.dumps(evaluation))
    (own / "choice.json").write_text(json.dumps({"member": name}))
    build(own, out, Wanted(), [].append)
    manifest = read_script((out / "site" / "manifest.js").read_bytes())
    found = {row["name"]: row for row in manifest["members"]}
    assert manifest["chosen"] == name
    assert [row["name"] for row in manifest["members"] if row["chosen"]] == [name]
    assert (found[name]["delta_ce"], found[name]["delta_ce_se"]) == (0.1235, None)
    assert found[MEMBERS[0]]["delta_ce"] is None
    there = {"model": subject.model.name, "corpus": subject.corpus.source}
    for changed, known in (
        ({}, 0.1235),
        ({"checkpoints": {name: "members/other/step-000000001"}}, None),
        ({"model": "another"}, None),
        ({"corpus": "other/texts"}, None),
        ({"hooks": [{"hook": HOOKS[0], "saes": {name: row}}]}, None),
        ({"hooks": [{"hook": f"{HOOKS[1]} -> mlp_out.1", "saes": {name: row}}]}, 0.1235),
    ):  # what stands beside it is of the explored model, text and hook
        (own / "evaluation.json").write_text(json.dumps(evaluation | there | changed))
        assert publish.members_about(own, subject)[name]["delta_ce"] == known


def test_a_dictionary_of_another_width_is_refused(own, tmp_path):
    from unmix.dictionary.files import save_sae
    from unmix.dictionary.model import new_dictionary
    from unmix.errors import UserError

    checkpoint = own / "members" / MEMBERS[0] / "step-000000020"
    metadata = json.loads((checkpoint / "cfg.json").read_text())["metadata"]
    save_sae(new_dictionary(5, 8, 0.5, 0), tmp_path / "sae", model="m", hook=HOOKS[0], context=16, more=metadata)
    with pytest.raises(UserError, match=r"sae is for activations of width 5, and mlp_out\.1 of .* has 16"):
        build(tmp_path / "sae", tmp_path / "sae" / "explore", Wanted(), [].append)
    assert not (tmp_path / "sae" / "explore").exists()
    assert torch.is_tensor(load_sae(tmp_path / "sae").W_dec)
