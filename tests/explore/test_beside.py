"""Features are matched with those of other runs and other SAEs: by brute force, by name, never at another hook."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from explore.tiny_explored import HOOKS, files_of, train
from tiny_models import WIDTH

from unmix.dictionary.files import save_sae
from unmix.dictionary.model import new_dictionary
from unmix.errors import UserError
from unmix.explore.beside import _labels
from unmix.explore.build import Wanted, build
from unmix.explore.manifest import read_manifest
from unmix.explore.pack import read_script
from unmix.interop.load import load_sae
from unmix.runlog import read_manifest as read_run
from unmix.runlog import write_manifest

SILENT = [].append
MEMBERS = [f"{hook}-l1-{value}" for hook in HOOKS for value in (1, 3)]


@pytest.fixture(autouse=True)
def _small(small_shards):
    pass


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A run of another seed, at one of the two hooks and at a third, of another number of features."""
    folder = tmp_path_factory.mktemp("elsewhere")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNMIX_CACHE", str(folder / "cache"))
        return train(folder, [HOOKS[0], "resid_post.1"], **{"training.seed": 3, "sae.features": 40})


def sae_at(folder, hook, width=WIDTH, **more):
    """A folder that says its hook, and nothing of a training."""
    save_sae(new_dictionary(width, 24, 0.5, 5), folder, model="m", hook=hook, context=16, more={}, **more)
    return folder


def site(out, key):
    return read_script((out / "site" / f"{key}.js").read_bytes())


def best(a, b):
    """For each row of a: (the row of b with the largest cosine, the first of equals; that cosine), one by one."""
    found = []
    for row in a.double().numpy():
        cosines = [row @ one / np.linalg.norm(row) / np.linalg.norm(one) for one in b.double().numpy()]
        at = max(range(len(cosines)), key=lambda j: (cosines[j], -j))
        found.append((at, cosines[at]))
    return found


def rows_of(folder):
    return load_sae(folder).W_dec.detach()


def test_every_feature_has_its_best_match_in_another_run_and_another_sae(folder, out, other, tmp_path):
    alone = sae_at(tmp_path / "published" / "sae", HOOKS[1])
    said = []
    build(folder, out, Wanted(beside=[other, alone]), said.append)
    assert "all 5 shards are there" in said  # derived anew, and not harvested
    assert f"{other}: 2 of its 4 dictionaries are at other hooks, and not matched" in said
    label = f"{other.parent.name}/run"  # the run that is explored is called run too
    named = {f"{label}/{HOOKS[0]}-l1-{value}": other / f"members/{HOOKS[0]}-l1-{value}" for value in (1, 3)}
    for name in MEMBERS:
        beside = named if name.startswith(HOOKS[0]) else {"published/sae": alone}
        mine = rows_of(folder / "members" / name)
        records, index = site(out, f"{name}/f/00000"), site(out, f"{name}/index")
        [member] = [one for one in MEMBERS if one != name and one.rpartition("-l1")[0] == name.rpartition("-l1")[0]]
        assert list(index["match"]) == [member, *beside]
        for called, path in beside.items():
            expected = best(mine, rows_of(path))
            found = [row for record in records for row in record["stability"] if row["member"] == called]
            assert [row["i"] for row in found] == index["match"][called]["j"] == [j for j, _ in expected]
            assert [row["cos"] for row in found] == index["match"][called]["cos"]
            assert [row["cos"] for row in found] == pytest.approx([cosine for _, cosine in expected], abs=1e-4)


def test_the_same_place_by_the_path_of_its_module_is_the_same_hook(folder, out, tmp_path):
    by_path = sae_at(tmp_path / "published" / "sae", "transformer.h.0")
    build(folder, out, Wanted(beside=[by_path]), SILENT)
    assert site(out, "manifest")["beside"] == [
        {"name": "published/sae", "hook": "resid_post.0", "features": 24, "seed": None}
    ]
    name = "resid_post.0-l1-1"
    expected = [j for j, _ in best(rows_of(folder / "members" / name), rows_of(by_path))]
    assert site(out, f"{name}/index")["match"]["published/sae"]["j"] == expected


def test_what_they_are_is_said_and_kept_until_it_is_taken_back(folder, whole, out, other, tmp_path):
    alone = sae_at(tmp_path / "published" / "sae", HOOKS[1])
    build(folder, out, Wanted(beside=[other / "members" / f"{HOOKS[0]}-l1-3", alone]), SILENT)
    shown = site(out, "manifest")
    name = f"{other.parent.name}/run/{HOOKS[0]}-l1-3"
    assert shown["beside"] == [
        {"name": name, "hook": HOOKS[0], "features": 40, "seed": 3},
        {"name": "published/sae", "hook": HOOKS[1], "features": 24, "seed": None},
    ]
    assert [row["seed"] for row in shown["members"]] == [0] * 4
    kept = read_manifest(out)
    assert kept["beside"][name]["fingerprint"] == load_sae(other / "members" / f"{HOOKS[0]}-l1-3").fingerprint
    assert shown["fingerprint"] == site(whole, "manifest")["fingerprint"]  # notes and descriptions stay
    before = files_of(out)
    build(folder, out, Wanted(), SILENT)
    assert files_of(out) == before
    build(folder, out, Wanted(beside=[]), SILENT)
    assert files_of(out) == files_of(whole)


def test_one_that_is_gone_says_how_to_go_on(folder, out, tmp_path):
    alone = sae_at(tmp_path / "published" / "sae", HOOKS[1])
    build(folder, out, Wanted(beside=[alone]), SILENT)
    shutil.rmtree(alone)
    with pytest.raises(UserError, match=r"no folder .*published/sae; .*`--beside` alone leaves it out"):
        build(folder, out, Wanted(), SILENT)
    build(folder, out, Wanted(beside=[]), SILENT)


def test_a_newer_checkpoint_is_matched_anew(folder, out, tmp_path):
    alone = sae_at(tmp_path / "published" / "sae", HOOKS[0])
    build(folder, out, Wanted(beside=[alone]), SILENT)
    save_sae(new_dictionary(WIDTH, 24, 0.5, 6), alone, model="m", hook=HOOKS[0], context=16, more={})
    build(folder, out, Wanted(), SILENT)
    expected = [j for j, _ in best(rows_of(folder / "members" / MEMBERS[0]), rows_of(alone))]
    assert site(out, f"{MEMBERS[0]}/index")["match"]["published/sae"]["j"] == expected


def test_what_cannot_be_matched_is_refused_by_name_and_nothing_is_touched(folder, whole, out, other, tmp_path):
    narrow = sae_at(tmp_path / "narrow", HOOKS[0], width=8)
    elsewhere = sae_at(tmp_path / "elsewhere", "attn_out.0")
    maps = sae_at(tmp_path / "maps", HOOKS[0], hook_out="mlp_out.0", transcoder=True)
    silent = sae_at(tmp_path / "silent", None)
    foreign = shutil.copytree(other, tmp_path / "foreign")
    facts = read_run(foreign / "run.yaml")
    facts["model"]["fingerprint"] = "feed" * 4
    write_manifest(foreign / "run.yaml", facts)
    unborn = tmp_path / "unborn"
    shutil.copytree(other, unborn, ignore=lambda *_: ["members"])
    wrong = {
        narrow: "narrow is for activations of width 8, and those at mlp_out.1 have 16",
        elsewhere: "elsewhere is at attn_out.0, and what is explored at mlp_out.1, resid_post.0",
        maps: "maps is a transcoder",
        silent: "silent names no hook, and mlp_out.1, resid_post.0 are explored",
        foreign: "foreign was trained on another model",
        unborn: "unborn has no checkpoint yet",
        folder: "holds nothing but what is explored",
        tmp_path / "none": "there is no folder",
    }
    for path, says in wrong.items():
        for anew in (False, True):
            with pytest.raises(UserError) as error:
                build(folder, out, Wanted(beside=[path], anew=anew), SILENT)
            assert says in str(error.value)
            assert "\n" not in str(error.value)
    assert files_of(out) == files_of(whole)


def test_a_member_beside_its_own_run_is_not_matched_with_itself(folder, tmp_path):
    one = folder / "members" / MEMBERS[0] / "step-000000020"
    said = []
    build(one, tmp_path / "out", Wanted(tokens=64, beside=[folder]), said.append)
    assert f"among those explored, and not matched with itself: run/{MEMBERS[0]}" in said
    [name] = [row["name"] for row in site(tmp_path / "out", "manifest")["members"]]
    match = site(tmp_path / "out", f"{name}/index")["match"]
    assert match.keys() == {f"run/{MEMBERS[1]}"}


def test_a_file_without_a_hook_is_matched_where_one_hook_is_explored(folder, tmp_path):
    published = tmp_path / "published"
    published.mkdir()
    sae = new_dictionary(WIDTH, 24, 0.5, 5)
    arrays = {name: weight.numpy() for name, weight in sae.weights.items()}
    np.savez(published / "params.npz", threshold=np.zeros(24, "f4"), **arrays)
    one = folder / "members" / MEMBERS[0] / "step-000000020"
    build(one, tmp_path / "out", Wanted(tokens=64, beside=[published]), SILENT)
    [row] = site(tmp_path / "out", "manifest")["beside"]
    assert row == {"name": f"{tmp_path.name}/published", "hook": HOOKS[0], "features": 24, "seed": None}


def test_variants_of_a_run_have_seeds_of_their_own(tmp_path, monkeypatch):
    from unmix.explore.about import seeds_of

    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    variants = {"a": {"training": {"seed": 1}}, "b": {"training": {"seed": 2}}}
    run = train(tmp_path, [HOOKS[0]], variants=variants)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert seeds_of(run) == {row["member"]: {"a": 1, "b": 2}[row["variant"]] for row in rows}
    assert seeds_of(tmp_path) == {}


def test_labels_are_as_long_as_they_have_to_be(tmp_path):
    folders = [Path("/a/b/run"), Path("/a/c/run"), Path("/a/c/other")]
    assert list(_labels([*folders, folders[0]]).values()) == ["b/run", "c/run", "other"]
