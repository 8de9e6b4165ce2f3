"""The pass: values are `load_sae`'s, a kill at any shard changes nothing, memory is bounded, changes are refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from explore.tiny_explored import TOKENS, files_of
from tiny_run import write_texts

from unmix.corpus.tokens import sample
from unmix.errors import UserError
from unmix.evaluation.evaluate import evaluate
from unmix.evaluation.opened import open_subject
from unmix.explore import build as module
from unmix.explore import harvest, manifest
from unmix.explore.build import Wanted, build
from unmix.explore.publish import publish
from unmix.explore.store import open_store
from unmix.interop.load import load_sae

SILENT = [].append


@pytest.fixture(autouse=True)
def _small(small_shards):
    pass


def test_every_value_is_that_of_the_saved_dictionary(folder, whole):
    store = open_store(whole)
    _, lm, tokens = open_subject(folder, SILENT)
    rows = sample(len(tokens.ids_NT))[:23]
    ids_NT = torch.from_numpy(tokens.ids_NT[rows].astype(np.int64))
    assert store.tokens["id"].tolist() == ids_NT.flatten().tolist()
    for name, facts in store.members.items():
        sae = load_sae(folder / facts["checkpoint"])
        x_BD = lm.activations(ids_NT, [facts["hook"]])[facts["hook"]].flatten(0, 1)
        f_BF, text = sae.encode(x_BD).detach(), store.text(facts["hook"])
        entries = store.entries(name, 0, sae.features)
        dense_BF = torch.zeros_like(f_BF)
        for feature in range(sae.features):
            token_n, act_n = entries.of(feature)
            dense_BF[token_n, feature] = torch.from_numpy(act_n)
        torch.testing.assert_close(dense_BF, f_BF)
        err_B, l0_B = store.errors(name)
        x_hat_BD = sae.decode(f_BF, x_BD).detach()
        np.testing.assert_allclose(err_B, (x_hat_BD - x_BD).square().sum(1), rtol=1e-3)
        assert l0_B.sum() == sum(shard["entries"][name] for shard in store.manifest["shards"])
        np.testing.assert_allclose(text.norm_R, x_BD.norm(dim=1), rtol=1e-4)
        assert not text.counted_R[:: store.T].any()


def test_what_is_counted_is_what_an_evaluation_counts(folder, tmp_path, monkeypatch):
    from unmix.config import MaskConfig
    from unmix.evaluation import subject as subjects

    strict = MaskConfig(special=True, norm_above=1.02)
    monkeypatch.setattr(subjects, "tightest", lambda masks: strict)
    build(folder, tmp_path / "out", Wanted(tokens=TOKENS), SILENT)
    store = open_store(tmp_path / "out")
    subject, lm, tokens = open_subject(folder, SILENT)
    for hook, saes in subject.saes.items():
        found = evaluate(lm, tokens, hook, saes, fidelity_tokens=TOKENS, ce_tokens=64, mask=strict)
        text = store.text(hook)
        assert 0 < text.counted == found["fidelity_tokens"] < 23 * 15
        for name, row in found["saes"].items():
            _, l0_R = store.errors(name)
            assert l0_R[text.counted_R].mean() == pytest.approx(row["l0"])


def test_a_build_that_was_killed_ends_with_the_same_files(folder, whole, tmp_path, monkeypatch):
    """At every shard in turn, of one and the same build."""
    real, stopped = module.write_shard, tmp_path / "stopped"
    done = []

    def killed(job, heads, number, out):
        if number not in done:
            done.append(number)
            real(job, heads, number, out)  # its files are there, the manifest does not name them
            raise KeyboardInterrupt
        return real(job, heads, number, out)

    monkeypatch.setattr(module, "write_shard", killed)
    monkeypatch.setattr(module, "publish", lambda *args: pytest.fail("published too early"))
    for number in range(5):
        with pytest.raises(KeyboardInterrupt):
            build(folder, stopped, Wanted(tokens=TOKENS), SILENT)
        assert len(json.loads((stopped / manifest.FILE).read_text())["shards"]) == number
        with pytest.raises(UserError, match="is not finished; resume it"):
            open_store(stopped)
    monkeypatch.setattr(module, "publish", publish)
    said = []
    build(folder, stopped, Wanted(), said.append)
    assert "resuming: 4 shards are there" in said
    one, other = files_of(whole), files_of(stopped)
    assert one.keys() == other.keys()
    for path in one:
        assert one[path] == other[path], path


def test_a_damaged_shard_is_made_again(folder, out):
    before = files_of(out)
    path = next((out / "acts").rglob("shard-00002.parquet"))
    path.write_bytes(path.read_bytes()[:-7])
    said = []
    build(folder, out, Wanted(), said.append)
    assert "1 of 5 shards is damaged, and made again" in said
    assert files_of(out) == before


def test_entries_that_are_many_are_written_in_parts(folder, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(harvest, "PENDING", 500)
    build(folder, tmp_path / "parts", Wanted(tokens=TOKENS), SILENT)
    assert list((tmp_path / "parts").rglob("shard-00000-1.parquet"))
    a, b = open_store(whole), open_store(tmp_path / "parts")
    for name, facts in a.members.items():
        both = (store.entries(name, 0, facts["features"]) for store in (a, b))
        for one, other in zip(*both, strict=True):
            np.testing.assert_array_equal(one, other)
    site = files_of(whole / "site")
    assert site == files_of(tmp_path / "parts" / "site")


def test_changed_inputs_are_refused_and_nothing_is_mixed(folder, out, tmp_path):
    other = str(write_texts(tmp_path / "other", 40))
    before = files_of(out)
    for wanted, says in (
        (Wanted(tokens=64), "--tokens 368, which is now 64"),
        (Wanted(members=["mlp_out.1-l1-1"]), "--member all, which is now mlp_out.1-l1-1"),
        (Wanted(corpus=other), "corpus = "),
    ):
        with pytest.raises(UserError, match="--anew to build it again, or --out") as error:
            build(folder, out, wanted, SILENT)
        assert says in str(error.value), error.value
        assert files_of(out) == before


def test_newer_checkpoints_are_refused_until_anew(own, out):
    folder, old = own, own / "members" / "mlp_out.1-l1-1" / "step-000000020"
    shutil.copytree(old, old.with_name("step-000000030"))
    with pytest.raises(UserError, match=r"step-000000020.*step-000000030.*--anew"):
        build(folder, out, Wanted(), SILENT)
    (out / "mine.txt").write_text("kept")
    build(folder, out, Wanted(anew=True, tokens=2000), SILENT)
    assert (out / "mine.txt").read_text() == "kept"
    store = open_store(out)
    assert store.members["mlp_out.1-l1-1"]["checkpoint"].endswith("step-000000030")
    listed = [path for shard in store.manifest["shards"] for path in shard["files"]]
    listed += [path for row in store.manifest["derived"].values() for path in row["files"]]
    listed += [f"site/{path}" for path in store.manifest["site"]] + ["manifest.json", "mine.txt"]
    assert sorted(files_of(out)) == sorted(listed)


def test_a_file_of_the_user_in_the_site_is_not_lost(folder, out):
    (out / "site" / "notes.json").write_text("{}")
    for wanted in (Wanted(), Wanted(anew=True)):
        with pytest.raises(UserError, match=r"notes\.json is not of the site.*move it away"):
            build(folder, out, wanted, SILENT)
    assert (out / "site" / "notes.json").read_text() == "{}"
    assert (out / "site" / "manifest.js").exists()


def test_what_is_put_into_the_site_during_a_build_is_not_lost(folder, out):
    def say(line):
        (out / "site" / "notes.json").write_text(line)

    with pytest.raises(UserError, match=r"notes\.json is not of the site.*move it away"):
        build(folder, out, Wanted(), lambda line: say(line) if line.startswith("features of") else None)
    assert (out / "site" / "notes.json").read_text().startswith("features of")
    (out / "site" / "notes.json").unlink()
    build(folder, out, Wanted(), SILENT)
    assert sorted(path.name for path in out.iterdir() if path.name.startswith(".")) == []


@pytest.mark.parametrize("name", ["site.old", "site.new"])
def test_a_copy_of_the_site_is_the_users(folder, out, name):
    shutil.copytree(out / "site", out / name)
    (out / name / "notes.json").write_text("{}")
    before = files_of(out / name)
    build(folder, out, Wanted(), SILENT)
    assert files_of(out / name) == before


def test_a_manifest_of_another_program_is_left_alone(folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / manifest.FILE).write_text(json.dumps({"name": "theirs"}))
    with pytest.raises(UserError, match="is no explorer store of this version"):
        build(folder, out, Wanted(tokens=64), SILENT)
    with pytest.raises(UserError, match="holds no store"):
        open_store(tmp_path)
