"""Runs and checkpoints of older versions resume to the same bits."""

import json
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
from run_pairs import metrics, same, state, stopping
from tiny_run import make

from unmix.disk import sha256
from unmix.errors import UserError
from unmix.evaluation.subject import find_subject
from unmix.runlog import read_manifest, write_manifest
from unmix.training import run
from unmix.training.checkpoint import CHECKSUMS, STATE, damage
from unmix.training.extension import extend

ONCE = {"W_enc": "W_enc_DF", "b_enc": "b_enc_F", "W_dec": "W_dec_FD", "b_dec": "b_dec_D"}


def as_before(folder: Path) -> None:
    """A checkpoint as it was written when the weights had other names, and no threshold."""
    with safetensors.safe_open(folder / STATE, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        scalars = json.loads(file.metadata()["state"])
    renamed = {}
    for name, tensor in tensors.items():
        head, dot, last = name.rpartition(".")
        renamed[head + dot + ONCE.get(last, last)] = tensor
    assert {"W_enc_DF", "exp_avg.b_enc_F", "exp_avg_sq.W_dec_FD", "silent_F", "window.sum_x_D"} <= renamed.keys()
    assert not renamed.keys() & ONCE.keys()
    scalars.pop("threshold", None)
    safetensors.torch.save_file(renamed, folder / STATE, {"state": json.dumps(scalars)})
    sums = json.loads((folder / CHECKSUMS).read_text())
    sums["sha256"][STATE] = sha256(folder / STATE)
    (folder / CHECKSUMS).write_text(json.dumps(sums))
    assert damage(folder) == ""


def recipe_as_before(folder: Path) -> None:
    """run.yaml as it was when relu and tanh_relu were all there was."""
    manifest = read_manifest(folder / "run.yaml")
    recipe = manifest["recipe"]
    for sae in (recipe["sae"], *(variant["sae"] for variant in recipe["variants"].values())):
        if "architecture" in sae:
            sae["nonlinearity"] = sae.pop("architecture")
    centre = recipe["sae"].pop("centre")
    recipe["sae"]["bias_init"] = {"start": "mean", "none": "zero"}[centre]
    for key in ("prefixes", "bandwidth", "initial_threshold", "auxk", "auxk_features", "bias_rate"):
        del recipe["sae"][key]
    assert recipe["sae"]["decoder"] == "auto"
    recipe["sae"]["decoder"] = "free"
    for key in ("l0", "revive_after_tokens"):
        del recipe["training"][key]
    del recipe["choice"]["per_variant"]
    write_manifest(folder / "run.yaml", manifest)


@pytest.mark.parametrize("centre", ["start", "none"])
def test_a_run_from_before_there_were_more_architectures_is_resumed(overrides, tmp_path, centre):
    kinds = {"variants": {"relu": {}, "tanh": {"sae": {"architecture": "tanh_relu"}}}}
    recipe = make(overrides | kinds, sae__centre=centre)
    as_it_was = make(overrides | kinds, sae__centre=centre, sae__bias_rate=1.0)
    run.sweep(as_it_was, tmp_path / "whole")
    stopping(as_it_was, tmp_path / "cut", 30)
    recipe_as_before(tmp_path / "cut")
    with pytest.raises(UserError, match=rf"sae.centre = {centre}.* to resume it, --sae.centre {centre}$"):
        run.sweep(make(overrides | kinds), tmp_path / "cut")
    run.sweep(recipe, tmp_path / "cut")
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "cut")


def test_a_run_from_before_there_was_a_rate_of_biases_keeps_that_of_the_others(overrides, tmp_path):
    """Resumed, and extended: its biases are moved as they were, which is not what a new run would do."""
    recipe, before = make(overrides), make(overrides, sae__bias_rate=1.0)
    run.sweep(before, tmp_path / "whole")
    extend(tmp_path / "whole", "l1-1", 80)
    stopping(before, tmp_path / "cut", 30)
    manifest = read_manifest(tmp_path / "cut" / "run.yaml")
    assert manifest["recipe"]["sae"].pop("bias_rate") == 1.0
    write_manifest(tmp_path / "cut" / "run.yaml", manifest)
    run.sweep(recipe, tmp_path / "cut")
    extend(tmp_path / "cut", "l1-1", 80)
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "cut")
    for member, step in (("l1-1", 60), ("l1-1-extended", 80)):
        assert same(state(tmp_path / "whole", member, step), state(tmp_path / "cut", member, step))
    run.sweep(recipe, tmp_path / "new")
    assert not same(state(tmp_path / "whole", "l1-1", 60), state(tmp_path / "new", "l1-1", 60))


def test_a_checkpoint_with_the_older_names_of_the_weights_resumes_to_the_same_bits(overrides, tmp_path):
    recipe = make(overrides)
    run.sweep(recipe, tmp_path / "whole")
    stopping(recipe, tmp_path / "cut", 30)
    checkpoints = sorted((tmp_path / "cut" / "members").glob("*/step-000000030"))
    assert len(checkpoints) == 4
    for folder in checkpoints:
        as_before(folder)
    run.sweep(recipe, tmp_path / "cut")
    for member in (folder.parent.name for folder in checkpoints):
        assert same(state(tmp_path / "whole", member, 60), state(tmp_path / "cut", member, 60))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "cut")


def test_a_run_whose_sources_were_written_with_a_field_that_nobody_gave_is_resumed(overrides, tmp_path):
    """Then its evaluation reads what it was trained on."""
    sources = []
    for name in ("a", "b"):
        rows = [{"text": "x", "body": f"{name} {n} " + "for the world " * 40} for n in range(60)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        sources.append({"source": str(tmp_path / f"{name}.jsonl")})
    given = {key: value for key, value in overrides.items() if key != "corpus.source"}
    recipe = make(given | {"corpus": {"field": "body", "sources": sources}}, training__l1=[1.0])
    run.sweep(recipe, tmp_path / "whole")
    stopping(recipe, tmp_path / "cut", 30)
    manifest = read_manifest(tmp_path / "cut" / "run.yaml")
    written = manifest["recipe"]["corpus"]
    assert [part["field"] for part in written["sources"]] == ["body", "body"]
    written["field"] = "body"
    for part in written["sources"]:
        part["field"] = "text"
    write_manifest(tmp_path / "cut" / "run.yaml", manifest)
    subject = find_subject(tmp_path / "cut", model=None, corpus=None, hook=None)
    assert [part.field for _, part in subject.corpus.parts] == ["body", "body"]
    run.sweep(recipe, tmp_path / "cut")
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "cut")
    subject = find_subject(tmp_path / "cut", model=None, corpus=None, hook=None)
    assert [part.field for _, part in subject.corpus.parts] == ["body", "body"]
