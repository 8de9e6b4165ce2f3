"""`unmix convert`: what it understood in a line, a folder that opens, nothing overwritten, nothing run."""

from __future__ import annotations

import json

import pytest
import torch
from interop.looks import LOOKS, Weights, inputs
from interop.test_pickles import Payload

from unmix.cli import main
from unmix.interop.load import load_sae, read

D, F = 6, 20


@pytest.mark.parametrize("name", LOOKS)
def test_the_folder_computes_what_the_source_did(name, tmp_path, capsys):
    src = LOOKS[name](Weights(D, F)).put(tmp_path / "src")
    assert main(["convert", str(src), str(tmp_path / "dst")]) == 0
    sae, origin = read(src, pickles=True)
    assert capsys.readouterr().out.splitlines()[0] == origin.line(sae)
    again, found = read(tmp_path / "dst")
    with torch.no_grad():
        x = inputs(D)
        assert torch.equal(again.encode(x), sae.encode(x))
        assert torch.equal(again(x), sae(x))
    assert (found.hook, found.hook_out, found.model) == (origin.hook, origin.hook_out, origin.model)
    assert (found.context, found.l0, found.transcoder) == (origin.context, origin.l0, origin.transcoder)
    assert (found.corpus, found.training_tokens) == (origin.corpus, origin.training_tokens)
    assert not origin.asked or found.asked == origin.asked
    assert sorted(path.name for path in (tmp_path / "dst").iterdir()) == [
        "cfg.json",
        "sae_weights.safetensors",
        "samples.safetensors",
    ]


@pytest.mark.parametrize("there", ["folder", "file"])
def test_nothing_is_overwritten(there, tmp_path, capsys):
    src, dst = LOOKS["goodfire"](Weights(D, F)).put(tmp_path / "src"), tmp_path / "dst"
    if there == "folder":
        dst.mkdir()
        (dst / "mine").write_text("mine")
    else:
        dst.write_text("mine")
    assert main(["convert", str(src), str(dst)]) == 2
    assert "exists; give a folder that does not" in capsys.readouterr().err
    assert (dst / "mine" if there == "folder" else dst).read_text() == "mine"


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "dst").mkdir()
    assert main(["convert", str(LOOKS["goodfire"](Weights(D, F)).put(tmp_path / "src")), str(tmp_path / "dst")]) == 0
    assert load_sae(tmp_path / "dst").features == F


def test_a_malicious_file_is_refused_and_writes_nothing(tmp_path, capsys):
    mark = tmp_path / "ran"
    torch.save({"pre_bias": torch.ones(D), "x": Payload(mark)}, tmp_path / "8.pt")
    assert main(["convert", str(tmp_path / "8.pt"), str(tmp_path / "dst")]) == 2
    err = capsys.readouterr().err
    assert "something else than tensors and plain values" in err
    assert err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["8.pt"]


def test_model_and_hook_can_be_given(tmp_path, capsys):
    src = LOOKS["goodfire"](Weights(D, F)).put(tmp_path / "src")
    words = ["--model", "mine", "--hook", "blocks.5.hook_resid_post"]
    assert main(["convert", str(src), str(tmp_path / "dst"), *words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["model"], said["hook"], said["features"]) == ("mine", "resid_post.5", F)
    config = json.loads((tmp_path / "dst" / "cfg.json").read_text())
    assert config["metadata"]["hook_name"] == "blocks.5.hook_resid_post"
    assert config["metadata"]["converted_from"]["format"] == "Goodfire"


def test_a_folder_of_ours_is_left_as_it_is(tmp_path, capsys):
    src = LOOKS["goodfire"](Weights(D, F)).put(tmp_path / "src")
    assert main(["convert", str(src), str(tmp_path / "dst")]) == 0
    assert main(["convert", str(tmp_path / "dst"), str(tmp_path / "again")]) == 2
    assert "is a folder of unmix already" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()


def test_what_is_not_there_is_said(tmp_path, capsys):
    assert main(["convert", str(tmp_path / "none.pt"), str(tmp_path / "dst")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
