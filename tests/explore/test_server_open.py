"""What a server answers from, on a run whose explorer was built."""

import json
import shutil

import pytest
import torch
from tiny_models import tiny_model_folder
from tiny_run import make, write_texts

from unmix.errors import UserError
from unmix.explore import server_api as api
from unmix.explore.build import Wanted, build
from unmix.explore.pack import read_bytes, read_script
from unmix.explore.server_files import read_object
from unmix.explore.server_open import open_served
from unmix.explore.server_store import Windows
from unmix.explore.texts import SiteText
from unmix.explore.token_pages import read_tokens
from unmix.runlog import newest_checkpoints
from unmix.training import run

pytest.importorskip("duckdb")

RECIPE = {
    "model.matmul": "fp32",
    "activations.hooks": ["resid_post.0", "resid_post.1"],
    "activations.sequence_length": 16,
    "activations.chunk_sequences": 8,
    "sae.features": 48,
    "training.l1": [1.0],
    "training.selection": "int8",
    "training.dense": "fp32",
    "training.steps": 20,
    "training.batch_tokens": 48,
    "training.checkpoint_every": 1000,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run with two members at two hooks, and its explorer."""
    tmp = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNMIX_CACHE", str(tmp / "cache"))
        more = {"model.name": str(tiny_model_folder()), "corpus.source": str(write_texts(tmp / "texts"))}
        run.sweep(make(RECIPE | more), tmp / "run")
        build(tmp / "run", tmp / "run" / "explore", Wanted(), lambda line: None)
        yield tmp / "run"


def opened(folder, out=None, **more):
    said = []
    given = {"model": None, "corpus": None, "hook": None} | more
    return open_served(folder, out or folder / "explore", **given, say=said.append), said


def ask(served, **request):
    return api.answer_feature(served, api.FeatureRequest(**request), lambda: False, print)


def test_values_are_those_of_the_site(folder):
    """The first sequence of the site's token pages, prompted with its own text: the same features, norms and masks."""
    served, said = opened(folder)
    assert said == [f"loading the model {tiny_model_folder()}"]
    for name, member in served.members.items():
        site = folder / "explore" / "site"
        page = read_tokens(read_bytes((site / name / "t" / "00000.js").read_bytes()), 16)[0]
        page["ids"] = SiteText(site, 16).id_R[:16].tolist()
        assert member.hook in name
        text = b"".join(map(served.bytes_of, page["ids"][1:])).decode()
        answer = api.answer_prompt(served, api.PromptRequest(member=name, text=text), lambda: False, print)
        assert [token["id"] for token in answer["tokens"]] == page["ids"]
        assert [token["norm"] for token in answer["tokens"]] == pytest.approx(page["norm"], rel=1e-3)
        assert [token["err"] for token in answer["tokens"]] == pytest.approx(page["err"], rel=2e-3)
        assert [at for at, token in enumerate(answer["tokens"]) if token["masked"]] == page["m"]
        for token, shown in zip(answer["tokens"], page["f"], strict=True):
            assert dict(token["f"][: len(shown)]) == pytest.approx(dict(shown), rel=1e-3)


def test_more_examples_begin_with_those_of_the_site(folder):
    served, _ = opened(folder)
    [name, *_] = served.members
    records = read_script((folder / "explore" / "site" / name / "f" / "00000.js").read_bytes())
    record = SiteText(folder / "explore" / "site", 16).fill(max(records, key=lambda record: record["firings"]))
    for order, count in (("top", 20), ("uniform", 10)):
        found = json.loads(json.dumps(ask(served, member=name, feature=record["i"], limit=200, order=order)))
        assert found["windows"][:count] == record["groups"][order]
        for start in range(0, 21, 7):
            part = ask(served, member=name, feature=record["i"], offset=start, limit=7, order=order)
            assert json.loads(json.dumps(part["windows"])) == found["windows"][start : start + 7]
    assert found["total"] == record["firings"]
    last = ask(served, member=name, feature=record["i"], offset=found["total"], order="uniform")
    assert (last["windows"], last["total"]) == ([], found["total"])


def test_every_member_has_its_own_hook_and_maxima(folder):
    served, _ = opened(folder)
    first, second = served.members.values()
    assert {first.hook, second.hook} == {"resid_post.0", "resid_post.1"}
    for member in (first, second):
        maxima = read_object(member.site, f"{member.name}/index")["max"]
        feature = max(range(48), key=lambda i: maxima[i] or 0)
        assert member.unit(feature) == maxima[feature]
    assert not torch.equal(first.sae.W_dec, second.sae.W_dec)


def test_one_sae_is_served_as_its_explorer_was_built(folder, tmp_path):
    """The recipe that it holds is taken away: an SAE that says nothing of its model."""
    [checkpoint, *_] = newest_checkpoints(folder).values()
    alone = tmp_path / "sae"
    alone.mkdir()
    for file in ("cfg.json", "sae_weights.safetensors"):
        shutil.copyfile(checkpoint / file, alone / file)
    config = json.loads((alone / "cfg.json").read_text())
    config["metadata"] = {"hook_name": config["metadata"]["hook_name"], "context_size": 16}
    (alone / "cfg.json").write_text(json.dumps(config))
    corpus = shutil.copytree(folder.parent / "texts", tmp_path / "texts")
    out = tmp_path / "elsewhere"
    build(alone, out, Wanted(model=str(tiny_model_folder()), corpus=str(corpus)), lambda line: None)
    served, said = opened(alone, out)
    assert list(served.members) == ["sae"]
    [fit] = [line for line in said if "explained variance" in line]
    assert f"{alone} at " in fit
    assert ask(served, member="sae", feature=1)["offset"] == 0
    shutil.rmtree(corpus)
    served, said = opened(alone, out)
    [fit] = [line for line in said if "was not measured" in line]
    assert str(corpus) in fit
    assert ask(served, member="sae", feature=1)["offset"] == 0


def test_a_site_is_not_served_at_another_hook(folder, tmp_path):
    """Nor from Python: prompts would be read where the features shown were not."""
    member = next((folder / "members").iterdir())
    sae = max(member.iterdir())
    build(sae, tmp_path, Wanted(hook="resid_post.0", model=str(tiny_model_folder())), lambda line: None)
    with pytest.raises(UserError, match=r"built with --hook resid_post\.0, and --hook resid_post\.1 is asked for"):
        opened(sae, tmp_path, hook="resid_post.1")


def test_a_member_that_is_gone_is_said(folder, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    [gone, *_] = newest_checkpoints(copy)
    shutil.rmtree(copy / "members" / gone)
    with pytest.raises(UserError, match=rf"shows {gone}, which .* does not have; build it again"):
        opened(copy)


def test_other_checkpoints_than_those_shown_are_warned_of(folder, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    [name, checkpoint] = next(iter(newest_checkpoints(copy).items()))
    shutil.copytree(checkpoint, checkpoint.with_name("step-000000099"))
    _, said = opened(copy)
    assert [line for line in said if line.startswith("warning")] == [
        f"warning: the site shows members/{name}/{checkpoint.name}, and members/{name}/step-000000099 answers; "
        f"build it again with `unmix explore {copy} --build --anew`"
    ]


def test_another_model_than_that_of_the_site_is_warned_of(folder):
    _, said = opened(folder, model=str(tiny_model_folder("gpt_neox")))
    assert [line for line in said if "is not the model that the site was built with" in line]


def test_without_a_store_there_are_no_more_examples(folder, tmp_path):
    with pytest.raises(UserError, match="holds no store"):
        Windows(tmp_path)("any", api.FeatureRequest(member="any", feature=0))


def test_a_site_of_before_that_names_no_checkpoints_is_served(folder, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    path = copy / "explore" / "manifest.json"
    store = json.loads(path.read_text())
    for facts in store["inputs"]["members"].values():
        del facts["checkpoint"], facts["fingerprint"]
    path.write_text(json.dumps(store))
    _, said = opened(copy)
    assert not [line for line in said if "build it again" in line]
