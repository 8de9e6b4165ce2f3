"""One file as a dictionary: what opens is evaluated, and its evaluation lies beside it; what does not is one line."""

import json

import pytest
from interop.looks import LOOKS, Weights
from tiny_models import WIDTH, tiny_model_folder
from tiny_run import write_texts

from unmix.cli import main
from unmix.errors import UserError
from unmix.interop.hub import kept_of
from unmix.interop.load import load_sae

FILES = {
    "gemma scope": "params.npz",
    "gemma scope 2": "params.safetensors",
    "sparsify": "sae.safetensors",
    "circuit-tracer relu": "layer_1.safetensors",
    "saelens standard": "sae_weights.safetensors",
    "openmoss relu": "sae_weights.safetensors",
}
"""Every format of which a file opens that is no pickle -> its name."""
FEW = ["--hook", "resid_pre.1", "--tokens", "300", "--ce-tokens", "100"]


@pytest.fixture
def words(tmp_path, monkeypatch):
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    return ["--model", str(tiny_model_folder()), "--corpus", str(write_texts(tmp_path / "texts")), *FEW]


def put(name, folder):
    """(the file of weights that is to be given, what its format says to give)."""
    at = LOOKS[name](Weights(WIDTH, 24)).put(folder)
    [file] = [path for path in folder.rglob("*") if path.name == FILES[name]]
    return file, at


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_evaluated_as_its_folder_is(name, tmp_path, words, capsys):
    file, at = put(name, tmp_path / "sae")
    assert main(["evaluate", str(file), *words]) == 0, capsys.readouterr().err
    kept = kept_of(file) / "evaluation.json"
    own = name.startswith("saelens")  # its cfg.json lies beside it: it means the folder
    assert kept.parent == (at if own else file.with_suffix(""))
    assert own or f"evaluation: {kept}" in capsys.readouterr().err
    [hook] = json.loads(kept.read_text())["hooks"]
    [row] = hook["saes"].values()
    if at.is_dir():
        assert main(["evaluate", str(at), *words]) == 0
        [again] = json.loads((at / "evaluation.json").read_text())["hooks"][0]["saes"].values()
        assert row == again
    assert load_sae(file).W_dec.equal(load_sae(at).W_dec)  # and still opens with the evaluation beside it


def test_every_file_that_opens_is_in_the_list(tmp_path):
    found = set()
    for name, look in LOOKS.items():
        look(Weights(WIDTH, 24)).put(tmp_path / name)
        for file in (tmp_path / name).rglob("*"):
            if file.suffix in (".npz", ".safetensors"):
                try:
                    load_sae(file)
                except UserError:
                    continue
                found.add(file.name)
    assert found - {"layer_0.safetensors"} == set(FILES.values())


def test_two_files_of_a_folder_have_an_evaluation_each(tmp_path, words):
    file, _ = put("sparsify", tmp_path / "sae")
    other, _ = put("gemma scope", file.parent.parent / "other")
    assert main(["evaluate", str(file), str(other), *words, "--out", str(tmp_path / "both")]) == 0
    [hook] = json.loads((tmp_path / "both/evaluation.json").read_text())["hooks"]
    assert list(hook["saes"]) == ["sae.safetensors", "params.npz"]


@pytest.mark.parametrize(
    ("name", "file", "remedy"),
    [
        ("llama scope", "final.safetensors", "give the folder that it is a part of"),
        ("dictionary_learning AutoEncoder", "ae.pt", "reads nothing but its tensors and writes a folder that opens"),
    ],
)
def test_a_file_that_does_not_open_is_one_line(name, file, remedy, tmp_path, words, capsys):
    LOOKS[name](Weights(WIDTH, 24)).put(tmp_path / "sae")
    [path] = (tmp_path / "sae").rglob(file)
    assert main(["evaluate", str(path), *words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert str(path) in line
    assert line.endswith(remedy)


def test_what_cannot_be_written_beside_a_file_is_said_before_the_evaluation(tmp_path, words, capsys):
    file, _ = put("gemma scope", tmp_path / "sae")
    assert main(["evaluate", str(file), *words, "--debias"]) == 2
    assert f"`unmix convert {file} DIR` makes one" in capsys.readouterr().err
    file.with_suffix("").write_text("mine")
    assert main(["evaluate", str(file), *words]) == 2
    assert "is a file, and evaluation.json is to go into a folder of that name" in capsys.readouterr().err
    assert file.with_suffix("").read_text() == "mine"


def test_a_file_is_explored_and_written_for_other_tools(tmp_path, words):
    file, _ = put("gemma scope", tmp_path / "sae")
    assert main(["evaluate", str(file), *words]) == 0
    assert main(["explore", str(file), "--build", *words[:6], "--tokens", "256"]) == 0
    assert (file.with_suffix("") / "explore/site/index.html").is_file()
    assert main(["convert", str(file), str(tmp_path / "bench"), "--to", "saebench"]) == 0
    assert main(["convert", str(file), str(tmp_path / "np"), "--to", "neuronpedia", "--model", "gpt2-small"]) == 0
    assert (tmp_path / "np/bulk/gpt2-small/1-np/features/batch-0.jsonl.gz").is_file()
    assert main(["verify", str(file)]) == 0
