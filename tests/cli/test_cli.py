"""The command line as a user meets it: in a process of its own where that matters."""

import base64
import hashlib
import html
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from unmix.cli import main
from unmix.runlog import read_metrics

UNMIX = [sys.executable, "-m", "unmix.cli"]


@pytest.fixture
def recipe(overrides, tmp_path):
    """A recipe on disk, as people keep them."""
    tree = {}
    for dotted, value in overrides.items():
        section, _, key = dotted.partition(".")
        if key:
            tree.setdefault(section, {})[key] = value
        else:
            tree[section] = value
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def unmix(*words, tmp_path):
    """Run in this process, with run folders in tmp_path/runs."""
    return main([str(w) for w in words] + (["--runs", str(tmp_path / "runs")] if words[0] == "sweep" else []))


def test_one_command_sweeps_chooses_extends_and_shows(recipe, tmp_path, capsys):
    extend = ["--choice.extend_to", "80", "--choice.max_active", "40", "--choice.extend_decay_fraction", "0.2"]
    assert unmix("sweep", recipe, *extend, tmp_path=tmp_path) == 0
    run = tmp_path / "runs" / "tiny"
    choice = json.loads((run / "choice.json").read_text())
    assert choice["member"]
    assert choice["came_true"]["step"] == 64  # where the decay begins
    rows = read_metrics(run / "metrics.jsonl")
    assert {r["member"] for r in rows} == {"l1-0", "l1-1", "l1-3", "l1-30"}
    assert {r["phase"] for r in rows} == {"sweep", "extend"}
    assert (run / "members" / f"{choice['member']}-extended" / "step-000000080" / "sae_weights.safetensors").exists()
    report = (run / "report.html").read_text()
    assert choice["member"] in report
    assert list((run / "plots").glob("*.png"))
    assert "report: " in capsys.readouterr().out
    # again: nothing is left to do, and nothing changes
    before = (run / "metrics.jsonl").read_bytes()
    assert unmix("sweep", recipe, *extend, tmp_path=tmp_path) == 0
    assert (run / "metrics.jsonl").read_bytes() == before


def test_the_steps_by_their_own_commands(recipe, tmp_path, capsys):
    run = tmp_path / "runs" / "tiny"
    assert unmix("sweep", recipe, "--train-only", "--l1", "1", "3", tmp_path=tmp_path) == 0
    assert not (run / "report.html").exists()
    assert unmix("choose", run, "--max-active", "45", "--at-step", "70", "--json", tmp_path=tmp_path) == 0
    choice = json.loads(capsys.readouterr().out)
    assert [c["member"] for c in choice["candidates"]] == ["l1-1", "l1-3"]
    assert unmix("choose", run, "--at-step", "0", tmp_path=tmp_path) == 2
    assert "--at-step 0 is before training; give 1 or more" in capsys.readouterr().err
    assert unmix("choose", run, "--corpus.field", "x", tmp_path=tmp_path) == 2
    assert "--corpus.field is a key of a recipe, and this command takes none" in capsys.readouterr().err
    assert unmix("choose", run, tmp_path=tmp_path) == 0
    assert "rule: " in capsys.readouterr().out
    assert unmix("extend", run, "--member", "l1-3", "--steps", "70", tmp_path=tmp_path) == 0
    assert unmix("report", run, tmp_path=tmp_path) == 0


def test_a_sweep_over_l0_compares_architectures(recipe, tmp_path, capsys):
    run = tmp_path / "runs" / "tiny"
    asked = ["--architecture", "relu", "topk", "--l0", "5", "10", "--no-evaluate", "--choice.max_active", "30"]
    assert unmix("sweep", recipe, *asked, tmp_path=tmp_path) == 0
    choice = json.loads((run / "choice.json").read_text())
    assert {(c["member"], c["target_l0"], c["l1"]) for c in choice["candidates"]} == {
        (f"{kind}-l0-{l0}", float(l0), None) for kind in ("relu", "topk") for l0 in (5, 10)
    }
    assert choice["member"] in {"relu-l0-10", "topk-l0-10", "relu-l0-5"}
    page = (run / "report.html").read_text()
    assert "relu and topk, each asked for 5 and 10 active features per token" in page
    capsys.readouterr()
    assert unmix("choose", run, tmp_path=tmp_path) == 0
    said = capsys.readouterr().out
    assert "expl. var." in said
    assert re.search(r"topk-l0-10 +10 ", said)


def test_harvest_then_sweep_from_the_store(recipe, tmp_path, capsys):
    store = tmp_path / "store"
    assert unmix("harvest", recipe, "--out", store, "--tokens", "1000", tmp_path=tmp_path) == 0
    assert unmix("sweep", recipe, "--train-only", "--activations.store", store, tmp_path=tmp_path) == 0
    manifest = yaml.safe_load((tmp_path / "runs/tiny/run.yaml").read_text())
    assert manifest["corpus"]["store_dtype"] == "bfloat16"


def test_the_rate_of_a_resumed_harvest_is_of_what_it_writes_itself(recipe, tmp_path, capsys, monkeypatch):
    """On a clock that goes on by a second each time it is looked at, a shard takes one."""
    words = ["harvest", recipe, "--out", tmp_path / "store", "--tokens"]
    assert unmix(*words, 1000, tmp_path=tmp_path) == 0
    capsys.readouterr()
    clock = itertools.count()
    monkeypatch.setattr("unmix.cli.harvest.time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    assert unmix(*words, 70_000, tmp_path=tmp_path) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "131,072 activations (70,000 are needed), 65,536 tokens/s" in said


def test_a_store_has_what_the_sweep_and_its_extension_read(recipe, tmp_path):
    store, more = tmp_path / "store", ["--choice.extend_to", "80"]
    assert unmix("harvest", recipe, "--out", store, *more, tmp_path=tmp_path) == 0
    manifest = json.loads((store / "manifest.json").read_text())
    assert sum(shard["rows"] for shard in manifest["shards"]) >= 80 * 48  # in whole shards
    rows = manifest["distinct_rows"]
    words = ["--activations.store", store, "--choice.max_active", "40", "--no-evaluate", *more]
    assert unmix("sweep", recipe, *words, tmp_path=tmp_path) == 0
    page = (tmp_path / "runs/tiny/report.html").read_text()
    assert f"{80 * 48 / rows:.2f} times over the store ({rows:,} activations)" in page


def test_variants_that_are_chosen_apart_are_extended_apart(recipe, tmp_path):
    words = ["--architecture", "relu", "topk", "--l0", "3", "6", "--choice.per_variant", "true"]
    words += ["--choice.extend_to", "80", "--choice.max_active", "40", "--no-evaluate"]
    assert unmix("sweep", recipe, *words, tmp_path=tmp_path) == 0
    run = tmp_path / "runs" / "tiny"
    extended = json.loads((run / "extension.json").read_text())
    assert len(extended) == 2
    assert {name.split("-")[0] for name in extended} == {"relu", "topk"}
    assert all((run / f"members/{name}-extended/step-000000080/cfg.json").exists() for name in extended)


@pytest.mark.pictures
def test_evaluate_a_run_and_a_folder_and_see_it_in_the_report(recipe, tmp_path, capsys):
    run = tmp_path / "runs" / "tiny"
    assert unmix("sweep", recipe, "--train-only", "--l1", "1", "3", tmp_path=tmp_path) == 0
    assert unmix("evaluate", run, "--tokens", "300", "--ce-tokens", "100", tmp_path=tmp_path) == 0
    table = capsys.readouterr().out
    assert "predict the mean" in table
    assert "l1-3" in table
    assert unmix("evaluate", run / "members/l1-3/step-000000060", "--json", tmp_path=tmp_path) == 0
    [one] = json.loads(capsys.readouterr().out)["hooks"]
    [row] = one["saes"].values()
    both = json.loads((run / "evaluation.json").read_text())["hooks"][0]
    assert set(both["saes"]) == {"l1-1", "l1-3"}
    assert both["split"] == one["split"] == "held_out"
    assert one["fidelity_tokens"] > both["fidelity_tokens"]
    assert row["tokens"] == one["fidelity_tokens"]
    assert both["baselines"]["identity"]["delta_ce"] == pytest.approx(0, abs=1e-5)
    assert unmix("report", run, tmp_path=tmp_path) == 0
    page = (run / "report.html").read_text()
    assert "Held out" in page
    [script] = re.findall(r"<script>(.*?)</script>", page, re.S)  # the sorting of the table, allowed by its hash
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html.unescape(page)
    assert (run / "plots" / "heldout_ce.png").stat().st_size > 5000
    assert unmix("evaluate", tmp_path, tmp_path=tmp_path) == 2
    assert "neither a run" in capsys.readouterr().err


def test_several_hooks_are_several_dictionaries(recipe, tmp_path):
    words = ["--hook", "resid_pre.1", "mlp_out.0", "--l1", "1", "3", "--train-only", "--steps", "5"]
    assert unmix("sweep", recipe, *words, tmp_path=tmp_path) == 0
    names = {p.name for p in (tmp_path / "runs/tiny/members").iterdir()}
    assert names == {"resid_pre.1-l1-1", "resid_pre.1-l1-3", "mlp_out.0-l1-1", "mlp_out.0-l1-3"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--training.stpes", "3"], "did you mean steps?"),
        (["--l1", "-1"], "l1 = -1 is not a penalty"),
        (["--hook", "resid_post.9"], "resid_post.0"),
        (["--hook", "nowhere"], "resid_post"),
        (["--corpus", "EMPTY"], "no document"),
        (["--corpus", "/no/such/place"], "/no/such/place"),
        (["--model", "EMPTY"], "config.json"),
        (["--training.steps"], "has no value"),
        (["--activations.sequence_length", "100000"], "100000"),
        (["--name", "a/b"], "a/b"),
    ],
)
def test_bad_input_is_one_line_and_status_2(recipe, tmp_path, capsys, words, says):
    (tmp_path / "empty").mkdir()
    words = [str(tmp_path / "empty") if word == "EMPTY" else word for word in words]
    assert unmix("sweep", recipe, *words, tmp_path=tmp_path) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("unmix: ")
    assert says in error
    assert not (tmp_path / "runs").exists()


def test_a_recipe_or_folder_that_is_not_there(tmp_path, capsys):
    for words in (
        ["sweep", "no-such-recipe"],
        ["report", tmp_path],
        ["choose", tmp_path],
        ["extend", tmp_path, "--steps", 9],
    ):
        assert unmix(*words, tmp_path=tmp_path) == 2
        assert capsys.readouterr().err.startswith("unmix: ")


def test_each_hook_has_a_choice_and_an_extension(recipe, tmp_path, capsys):
    words = [
        "--hook",
        "resid_post.0",
        "resid_post.1",
        "--choice.extend_to",
        "80",
        "--choice.max_active",
        "47",
        "--no-evaluate",
    ]
    assert unmix("sweep", recipe, *words, tmp_path=tmp_path) == 0
    run = tmp_path / "runs" / "tiny"
    choices = json.loads((run / "choice.json").read_text())["hooks"]
    assert [choice["candidates"][0]["hook"] for choice in choices] == ["resid_post.0", "resid_post.1"]
    for choice, hook in zip(choices, ("resid_post.0", "resid_post.1"), strict=True):
        assert choice["member"].startswith(f"{hook}-l1-")
        assert all(c["hook"] == hook for c in choice["candidates"])
        assert (run / "members" / f"{choice['member']}-extended" / "step-000000080" / "cfg.json").exists()
    page = (run / "report.html").read_text()
    assert "The choice: resid_post.0" in page
    assert "The choice: resid_post.1" in page
    capsys.readouterr()
    assert main(["choose", str(run)]) == 0
    shown = capsys.readouterr().out
    assert all(f"{choice['member']} has" in shown for choice in choices)
    assert main(["extend", str(run), "--steps", "90"]) == 2
    assert "several choices; give --member, one of resid_post.0-l1-" in capsys.readouterr().err
    assert main(["verify", str(run)]) == 0, capsys.readouterr().out


def test_a_run_folder_whose_recipe_differs_is_left_as_it_is(recipe, tmp_path, capsys):
    assert unmix("sweep", recipe, "--train-only", "--steps", "5", tmp_path=tmp_path) == 0
    files = {p: p.read_bytes() for p in (tmp_path / "runs").rglob("*") if p.is_file()}
    assert unmix("sweep", recipe, "--train-only", "--steps", "5", "--features", "40", tmp_path=tmp_path) == 2
    assert "sae.features = 48, the recipe says 40" in capsys.readouterr().err
    assert files == {p: p.read_bytes() for p in (tmp_path / "runs").rglob("*") if p.is_file()}


def test_a_second_process_on_the_same_run_is_refused(recipe, tmp_path, capsys):
    from unmix.training.lock import locked

    with locked(tmp_path / "runs" / "tiny"):
        assert unmix("sweep", recipe, "--train-only", tmp_path=tmp_path) == 2
    assert "another process is training in" in capsys.readouterr().err
    assert unmix("sweep", recipe, "--train-only", "--steps", "3", tmp_path=tmp_path) == 0  # the lock is gone with it


def test_a_second_harvest_into_a_store_is_refused(recipe, tmp_path, capsys):
    """Each would write into the shards of the other."""
    from unmix.training.lock import STORE, locked

    words = ["harvest", recipe, "--out", tmp_path / "store", "--tokens", "100"]
    with locked(tmp_path / "store", STORE):
        assert unmix(*words, tmp_path=tmp_path) == 2
    assert "another process is harvesting into" in capsys.readouterr().err
    assert unmix(*words, tmp_path=tmp_path) == 0
    assert unmix(*words, tmp_path=tmp_path) == 0  # a store of before
    assert main(["verify", str(tmp_path / "store")]) == 0


@pytest.mark.parametrize("command", ["harvest", "norms"])
def test_a_command_that_reads_a_model_takes_no_rows(tmp_path, capsys, command):
    """It looked for a model called unknown on the hub."""
    np.save(tmp_path / "x.npy", np.zeros((9, 4), np.float32))
    words = [command, "--activations.rows", tmp_path / "x.npy", "--out", tmp_path / "out"]
    assert unmix(*words, tmp_path=tmp_path) == 2
    assert f"activations.rows = {tmp_path}/x.npy has no language model" in capsys.readouterr().err


def test_a_file_that_may_not_be_read_is_called_that(tmp_path, capsys, monkeypatch):
    def refused(folder):
        raise PermissionError(13, "Permission denied", str(folder / "run.yaml"))

    monkeypatch.setattr("unmix.cli.report.show_report", refused)
    assert unmix("report", tmp_path, tmp_path=tmp_path) == 2
    said = capsys.readouterr().err
    assert said.startswith("unmix: cannot read or write ([Errno 13] Permission denied: ")
    assert "room" not in said


def test_every_layer_of_rows_asks_no_hub(tmp_path, capsys):
    words = ["sweep", "--activations.rows", tmp_path / "x.safetensors", "--hook", "resid_post.*"]
    assert unmix(*words, tmp_path=tmp_path) == 2
    assert "hook resid_post.*: hooks of activations of your own are named one by one" in capsys.readouterr().err


def test_help_teaches_and_comes_at_once():
    began = time.perf_counter()
    top = subprocess.run([*UNMIX, "--help"], capture_output=True, text=True, check=True).stdout
    took = time.perf_counter() - began
    sweep = subprocess.run([*UNMIX, "sweep", "--help"], capture_output=True, text=True, check=True).stdout
    assert all(command in top for command in ("sweep", "extend", "choose", "report", "harvest"))
    assert all(word in sweep for word in ("--l1", "examples:", "gpt2-l1-sweep", "--activations.store"))
    loaded = "import sys, unmix.cli; print([m for m in ('torch', 'transformers', 'numba') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout == "[]\n"
    assert took < 30  # a guard against a hang; the imports above are what makes it quick


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_same_command_goes_on(recipe, tmp_path, capsys, number, status):
    command = ["sweep", str(recipe), "--runs", str(tmp_path / "runs"), "--train-only", "--steps", "1200",
               "--l1", "1"]  # fmt: skip
    process = subprocess.Popen([*UNMIX, *command], stderr=subprocess.PIPE, text=True, env=os.environ)
    metrics = tmp_path / "runs" / "tiny" / "metrics.jsonl"
    while not metrics.exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == status, error
    assert "saved; the same command resumes it" in error
    assert "Traceback" not in error
    saved = max((tmp_path / "runs/tiny/members/l1-1").iterdir())
    assert main(command) == 0
    assert f"resuming at step {int(saved.name.removeprefix('step-')):,}" in capsys.readouterr().err


def test_output_that_nobody_reads_on_is_no_traceback():
    """`unmix … | head`: the reader has gone before the words come."""
    process = subprocess.Popen([*UNMIX, "--version"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    assert (process.wait(timeout=60), error) == (141, b"")
