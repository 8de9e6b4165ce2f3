"""`unmix explore` and `unmix show` as a user meets them."""

import builtins
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import safetensors.torch
from explore.tiny_explored import train
from tiny_models import WIDTH, tiny_model_folder
from tiny_run import write_texts

from unmix.cli import main
from unmix.dictionary.model import new_dictionary
from unmix.explore.pack import read_script, script


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A run of one hook and its explorer, built from the command line."""
    folder = tmp_path_factory.mktemp("cli")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNMIX_CACHE", str(folder / "cache"))
        train(folder, ["resid_post.1"])
        assert main(["explore", str(folder / "run"), "--build", "--tokens", "320"]) == 0
    return folder


@pytest.fixture
def run(base, monkeypatch):
    monkeypatch.setenv("UNMIX_CACHE", str(base / "cache"))
    return base / "run"


@pytest.fixture
def copy(run, tmp_path):
    return Path(shutil.copytree(run, tmp_path / "run"))


def said(capsys, *words, status=0):
    capsys.readouterr()
    assert main([str(word) for word in words]) == status
    return capsys.readouterr()


def test_a_build_prints_where_the_page_is_and_does_nothing_twice(run, capsys):
    out, err = said(capsys, "explore", run, "--build")
    assert out == f"explorer: {(run / 'explore' / 'site' / 'index.html').resolve()}\n"
    assert "all 1 shards are there" in err
    manifest = read_script((run / "explore/site/manifest.js").read_bytes())
    assert manifest["tokens"]["sequences"] == 20


def test_without_build_it_is_served_and_built_first_if_it_has_to_be(copy, capsys, monkeypatch):
    from unmix.explore import server

    asked = []
    monkeypatch.setattr(server, "serve", lambda *args, **more: asked.append((args, more["port"])))
    _, err = said(capsys, "explore", copy, "--port", "0")
    assert "loading" not in err
    shutil.rmtree(copy / "explore")
    out, err = said(capsys, "explore", copy, "--tokens", "64")
    assert "explorer: " in out
    assert asked == [((copy, copy / "explore"), 0), ((copy, copy / "explore"), 8200)]
    assert (copy / "explore/site/manifest.js").exists()


def test_one_member_elsewhere(run, tmp_path, capsys):
    out = tmp_path / "elsewhere"
    said(capsys, "explore", run, "--build", "--tokens", "64", "--member", "l1-3", "--out", out)
    [member] = read_script((out / "site/manifest.js").read_bytes())["members"]
    assert member["name"] == "l1-3"
    assert "feature 5 of l1-3" in said(capsys, "show", run, "5", "--out", out).out
    _, err = said(capsys, "explore", run, "--build", "--member", "l1-9", "--out", out, status=2)
    assert err.splitlines()[-1].endswith(f"--member l1-9: {run} has l1-1, l1-3")


def test_features_are_matched_with_another_run(base, copy, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "150")
    (tmp_path / "b").mkdir()
    other = train(tmp_path / "b", ["resid_post.1"], **{"training.seed": 7})
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("acts/*/*")}
    _, err = said(capsys, "explore", copy, "--build", "--beside", other)
    assert "all 1 shards are there" in err
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("acts/*/*")} == before
    shown = read_script((copy / "explore/site/manifest.js").read_bytes())["beside"]
    assert [(row["name"], row["seed"]) for row in shown] == [("b/run/l1-1", 7), ("b/run/l1-3", 7)]
    record = read_script((copy / "explore/site/l1-1/f/00000.js").read_bytes())[5]
    match = next(row for row in record["stability"] if row["member"] == "b/run/l1-3")
    assert f"b/run/l1-3:{match['i']} {match['cos']:.4g}" in said(capsys, "show", copy, "l1-1:5").out
    said(capsys, "explore", copy, "--build", "--beside")
    assert read_script((copy / "explore/site/manifest.js").read_bytes())["beside"] == []
    assert "b/run" not in said(capsys, "show", copy, "l1-1:5").out


def test_an_sae_that_unmix_did_not_train(base, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("UNMIX_CACHE", str(base / "cache"))
    folder = tmp_path / "sae"
    folder.mkdir()
    sae = new_dictionary(WIDTH, 24, 0.5, 0)
    tensors = {name: getattr(sae, name).detach().contiguous() for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    safetensors.torch.save_file(tensors, folder / "sae_weights.safetensors")
    facts = {"hook_name": "blocks.1.hook_resid_post", "context_size": 16, "model_name": "gpt2-small"}
    config = {"d_in": WIDTH, "d_sae": 24, "dtype": "float32", "apply_b_dec_to_input": False, "architecture": "standard"}
    (folder / "cfg.json").write_text(json.dumps({**config, "metadata": facts}))
    _, err = said(capsys, "explore", folder, "--build", status=2)
    assert err.splitlines()[-1].endswith("give --model NAME and --corpus SOURCE")
    texts = write_texts(tmp_path / "texts")
    words = ["--model", tiny_model_folder(), "--corpus", texts, "--tokens", "320"]
    said(capsys, "explore", folder, "--build", *words)
    manifest = read_script((folder / "explore/site/manifest.js").read_bytes())
    assert "unknown" in manifest["tokens"]["split"]
    assert manifest["members"][0]["asked"] == {}
    assert "feature 3 of sae" in said(capsys, "show", folder, "3").out
    monkeypatch.setattr("unmix.explore.server.serve", lambda *_, **__: pytest.fail("it was served"))
    for more, built in (
        (["--hook", "resid_post.0"], "--hook resid_post.1, and --hook resid_post.0"),
        (["--corpus", tmp_path / "others"], f"--corpus {texts}, and --corpus {tmp_path / 'others'}"),
        (["--corpus.field", "content"], "no keys of the corpus, and --corpus.field content"),
    ):  # it would be served as it is, with prompts read at another place than it shows
        _, err = said(capsys, "explore", folder, *more, status=2)
        assert f"was built with {built} is asked for; give --anew" in err.splitlines()[-1]


def test_a_feature_whose_values_are_not_finite_is_shown(run, tmp_path, capsys):
    out = shutil.copytree(run / "explore", tmp_path / "out")
    path = out / "site/l1-1/f/00000.js"
    records = read_script(path.read_bytes())
    record = next(record for record in records if len(record["groups"]["top"]) > 1)
    window = record["groups"]["top"][0]
    record["max"] = None
    window["v"] = [[at, None if at == window["c"] else value] for at, value in window["v"]]
    path.write_bytes(script("l1-1/f/00000", records))
    shown = said(capsys, "show", run, f"l1-1:{record['i']}", "--out", out).out
    assert "max –" in shown


def as_gemma_scope(folder, sae):
    numpy.savez(folder / "params.npz", threshold=numpy.zeros(sae.features, "f4"), **arrays(sae))


def as_sparsify(folder, sae):
    weights = {"encoder.weight": sae.W_enc.T, "encoder.bias": sae.b_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec}
    tensors = {name: weight.detach().clone().contiguous() for name, weight in weights.items()}
    safetensors.torch.save_file(tensors, folder / "sae.safetensors")
    config = {"d_in": WIDTH, "num_latents": sae.features, "k": 4, "activation": "topk", "normalize_decoder": True}
    (folder / "cfg.json").write_text(json.dumps(config | {"expansion_factor": 1, "signed": False, "multi_topk": False}))


def arrays(sae):
    return {name: weight.numpy() for name, weight in sae.weights.items()}


@pytest.mark.parametrize("write", [as_gemma_scope, as_sparsify])
def test_an_sae_of_another_library_whatever_its_files_are_called(write, base, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("UNMIX_CACHE", str(base / "cache"))
    folder = tmp_path / "published"
    folder.mkdir()
    write(folder, new_dictionary(WIDTH, 24, 0.5, 0))
    texts = write_texts(tmp_path / "texts")
    words = ["--model", tiny_model_folder(), "--corpus", texts, "--hook", "resid_post.1", "--tokens", "320"]
    said(capsys, "explore", folder, "--build", *words)
    assert "feature 3 of published" in said(capsys, "show", folder, "3").out
    write(folder, new_dictionary(WIDTH, 24, 0.5, 1))
    _, err = said(capsys, "explore", folder, "--build", *words, status=2)
    assert "give --anew" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["explore", "RUN", "--build", "--tokens", "0"], "--tokens 0 leaves nothing to see"),
        (["explore", "RUN", "--build", "--tokens", "64"], "--tokens 320, which is now 64; give --anew"),
        (["explore", "RUN", "--tokens", "64"], "built with --tokens 320, and --tokens 64 is asked for; give --anew"),
        (["explore", "RUN", "--member", "l1-3"], "built with --member all, and --member l1-3 is asked for; give --an"),
        (["explore", "RUN", "--corpus", "/no/such/place"], "and --corpus /no/such/place is asked for; give --anew"),
        (["explore", "RUN", "--features", "3"], "--features is of --explain URL, and does nothing without it"),
        (["explore", "RUN", "--explain-model", "some"], "--explain-model is of --explain URL"),
        (["explore", "RUN", "--key-variable", "KEY"], "--key-variable is of --explain URL"),
        (["explore", "RUN", "--build", "--seed", "0"], "--seed is of --explain URL"),
        (["explore", "RUN", "--build", "--hook", "resid_pre.0"], "--hook resid_pre.0: "),
        (["explore", "/no/such/place", "--build"], "/no/such/place is neither a run"),
        (["explore", "RUN", "--build", "--beside", "RUN"], "holds nothing but what is explored; give other"),
        (["explore", "RUN", "--beside", "/no/such/place"], "there is no folder /no/such/place"),
        (["show", "RUN"], "show takes a FEATURE or --text"),
        (["show", "RUN", "3", "--text", "x"], "show takes a FEATURE or --text"),
        (["show", "RUN", "3"], "give --member, one of l1-1, l1-3"),
        (["show", "RUN", "l1-1:48"], "l1-1 has no feature 48; give 0 to 47"),
        (["show", "RUN", "l1-7:4"], "shows no member l1-7; give one of l1-1, l1-3"),
        (["show", "RUN", "l1-1:4", "--member", "l1-3"], "leave one of them out"),
        (["show", "RUN", "four"], "'four' is no feature"),
        (["show", "RUN", "l1-1:4", "--most", "0"], "--most 0 shows nothing"),
        (["show", "EMPTY", "4"], "build it with `unmix explore RUN --build`"),
        (["show", "EMPTY", "--text", "x"], "build it with `unmix explore RUN --build`"),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, capsys, monkeypatch, words, says):
    monkeypatch.setattr("unmix.explore.server.serve", lambda *_, **__: pytest.fail("it was served"))
    places = {"RUN": run, "EMPTY": tmp_path}
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    _, err = said(capsys, *(places.get(word, word) for word in words), status=2)
    line = err.strip().splitlines()[-1]
    assert line.startswith("unmix: ")
    assert says in line
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_without_duckdb_one_line_says_how_to_get_it(run, capsys, monkeypatch):
    real = builtins.__import__

    def lacking(name, *args, **more):
        if name == "duckdb":
            raise ImportError(name)
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", lacking)
    _, err = said(capsys, "explore", run, "--build", status=2)
    assert err == "unmix: the explorer needs duckdb, which is not installed; pip install 'unmix[explore]'\n"


def test_a_feature_in_the_terminal_is_the_one_of_the_page(run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    records = read_script((run / "explore/site/l1-1/f/00000.js").read_bytes())
    record = max(records, key=lambda record: record["firings"])
    out = said(capsys, "show", run, f"l1-1:{record['i']}", "--most", "3").out
    assert f"feature {record['i']} of l1-1" in out
    assert record["label"] in out
    assert "of 300 tokens (split held_out)" in out
    assert f"#{record['decoder'][0][0]} {record['decoder'][0][1]:.4g}" in out
    assert f"l1-3:{record['stability'][0]['i']}" in out
    lines = out.splitlines()
    top = lines[lines.index("top") + 1 : lines.index("top") + 4]
    values = [dict(map(tuple, w["v"]))[w["c"]] for w in record["groups"]["top"][:3]]
    assert [float(line.split()[0]) for line in top] == values
    assert len({line.index("▐") for line in top}) == 1  # peaks stand below each other
    assert said(capsys, "show", run, str(record["i"]), "--member", "l1-1", "--most", "3").out == out


def test_where_a_feature_fires_uncounted_is_said(run, capsys):
    records = read_script((run / "explore/site/l1-1/f/00000.js").read_bytes())
    record = max(records, key=lambda record: record["left_out"].get("first", {"firings": 0})["firings"])
    first = record["left_out"]["first"]
    out = said(capsys, "show", run, f"l1-1:{record['i']}").out
    assert f"not counted: {first['firings']} of 20 tokens at position 0, max {first['max']:.4g}" in out


def test_a_feature_that_never_fired_is_shown_too(run, copy, capsys):
    from unmix.explore.pack import script

    path = copy / "explore/site/l1-1/f/00000.js"
    records = read_script(path.read_bytes())
    nothing = {"top": [], "uniform": [], "value": [], "mass": [], "near": [], "silent": []}
    records[4] |= {"density": 0, "max": 0, "mean": None, "tokens": [], "logits": None, "groups": nothing, "coact": []}
    path.write_bytes(script("l1-1/f/00000", records))
    out = said(capsys, "show", copy, "l1-1:4").out
    assert "fires on 0 % of 300 tokens" in out
    assert "promotes" not in out


def test_the_features_of_a_text_are_the_dictionarys(run, capsys, monkeypatch):
    import torch

    from unmix.config import ModelConfig
    from unmix.interop.load import load_sae
    from unmix.lm.model import load_language_model

    monkeypatch.setenv("COLUMNS", "150")
    out = said(capsys, "show", run, "--member", "l1-1", "--text", "for of\n", "--most", "2").out
    lm = load_language_model(ModelConfig(name=str(tiny_model_folder())))
    ids = [0, *lm.tokenizer.encode("for of\n", add_special_tokens=False)]
    x_TD = lm.activations(torch.tensor([ids]), ["resid_post.1"])["resid_post.1"][0]
    f_TF = load_sae(run / "members/l1-1/step-000000020").encode(x_TD).detach()
    index = read_script((run / "explore/site/l1-1/index.js").read_bytes())
    tokens = [line for line in out.splitlines() if "error" in line]
    assert len(tokens) == len(ids)
    assert "<|endoftext|>" in tokens[0]
    assert "masked" in tokens[0]
    assert "↵" in tokens[-1]
    shown = [line.split(None, 2) for line in out.splitlines() if line.startswith("    #")]
    best = [(int(i), float(f_TF[t, i])) for t in range(len(ids)) for i in f_TF[t].topk(2).indices]
    assert [(int(a[1:]), float(b)) for a, b, _ in shown] == [(i, pytest.approx(v, rel=1e-3)) for i, v in best]
    assert [label for *_, label in shown] == [index["label"][i] for i, _ in best]


def test_descriptions_appear_on_the_page_and_in_the_terminal(copy, capsys, monkeypatch):
    from unmix.explore import describe

    fingerprint = read_script((copy / "explore/site/manifest.js").read_bytes())["fingerprint"]

    def describe_site(out, endpoint, *, member, **more):
        path = out / "descriptions" / f"{member}.jsonl"
        path.parent.mkdir()
        line = {"i": 5, "member": member, "site": fingerprint, "model": endpoint.model, "text": "a <b>word</b>"}
        path.write_text(
            json.dumps(line | {"detection": {"accuracy": 0.75, "se": 0.1, "n": 16}, "fuzzing": None}) + "\n"
        )
        return path

    monkeypatch.setattr(describe, "describe_site", describe_site)
    words = ["--explain", "http://127.0.0.1:1/v1", "--explain-model", "some", "--member", "l1-3"]
    out, _ = said(capsys, "explore", copy, *words)
    assert out.splitlines()[-1].endswith("l1-3.jsonl; the site shows 1 of l1-3")
    shown = read_script((copy / "explore/site/l1-3/descriptions.js").read_bytes())
    assert shown["5"]["text"] == "a <b>word</b>"
    out = said(capsys, "show", copy, "l1-3:5").out
    assert "described as: a <b>word</b>" in out
    assert "by some; detection 0.75 ± 0.10 of 16; 0.5 is chance" in out
    said(capsys, "explore", copy, "--build")  # a build keeps them
    assert read_script((copy / "explore/site/l1-3/descriptions.js").read_bytes()) == shown


def test_help_is_there_and_light():
    loaded = "import sys, unmix.cli.explore, unmix.cli.show; "
    loaded += "print([m for m in ('torch', 'duckdb', 'rich') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout == "[]\n"
    for command in ("explore", "show"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
