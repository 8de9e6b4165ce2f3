"""`unmix verify`: silent about what is whole, a line for each thing that is not."""

import json

import pytest
from tiny_run import make

from unmix.activations.store import harvest
from unmix.cli import main
from unmix.training import chosen, extension, run
from unmix.training.inputs import open_model, open_stream, store_facts
from unmix.verify import verify


@pytest.fixture
def finished(overrides, tmp_path):
    folder = tmp_path / "run"
    run.sweep(make(overrides, training__l1=[1.0, 3.0], training__steps=30, training__checkpoint_every=10), folder)
    chosen.make_choices(folder, 40)
    extension.extend(folder, "l1-3", 40)
    return folder


def flip(path, at=-1):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_whole_run_is_whole(finished, capsys):
    assert main(["verify", str(finished)]) == 0
    assert capsys.readouterr().out == f"{finished} is whole: 5 checkpoints, 12 lines of metrics\n"
    assert main(["verify", str(finished), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "folder": str(finished), "kind": "run", "checked": "5 checkpoints, 12 lines of metrics", "problems": []
    }  # fmt: skip


def lines(path, change):
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda f: flip(f / "members/l1-1/step-000000020/training_state.safetensors"), "training_state.safetensors is"),
        (lambda f: (f / "members/l1-3-extended/step-000000040/cfg.json").unlink(), "cfg.json is missing"),
        (lambda f: (f / "members/l1-1/step-000000030/checksums.json").unlink(), "checksums.json is missing"),
        (lambda f: lines(f / "metrics.jsonl", lambda had: had[1:]), "sweep: l1-1 lacks step 7"),
        (lambda f: lines(f / "metrics.jsonl", lambda had: had[:-1]), "extend: l1-3 lacks step 40"),
        (lambda f: lines(f / "metrics.jsonl", lambda had: [had[0], *had]), "sweep: l1-1 has twice step 7"),
        (lambda f: lines(f / "metrics.jsonl", lambda had: [*had, had[0][:9]]), "the last line is cut short"),
        (lambda f: lines(f / "metrics.jsonl", lambda had: [*had[:3], "{\n", *had[3:]]), "line 4 is damaged"),
        (
            lambda f: lines(f / "metrics.jsonl", lambda had: [*had, had[0].replace("l1-1", "who")]),
            "sweep: who is no member",
        ),
        (lambda f: (f / "choice.json").write_text("[]"), "choice.json is damaged"),
        (lambda f: (f / "choice.json").write_text('{"member": "x"}'), "choice.json names x"),
        (lambda f: (f / "extension.json").write_text("{"), "extension.json is damaged"),
        (lambda f: (f / "run.yaml").write_text("{"), "run.yaml is damaged"),
        (lambda f: (f / "run.yaml").unlink(), "has no run.yaml"),
        (lambda f: lines(f / "run.yaml", lambda had: had[1:]), "run.yaml has no format 1"),
    ],
)
def test_each_damage_is_named(finished, capsys, harm, says):
    harm(finished)
    assert main(["verify", str(finished)]) == 1
    assert says in capsys.readouterr().out


def test_an_sae_folder_whose_description_does_not_fit_its_weights(finished, capsys):
    folder = finished / "members/l1-3/step-000000030"
    assert main(["verify", str(folder)]) == 0
    (folder / "checksums.json").unlink()
    alone = folder.rename(finished / "alone")
    config = json.loads((alone / "cfg.json").read_text())
    (alone / "cfg.json").write_text(json.dumps(config | {"d_sae": 49}))
    assert verify(alone).problems == [f"{alone}/cfg.json says d_in, d_sae = (16, 49), the weights are (16, 48)"]
    flip(alone / "sae_weights.safetensors", at=3)
    assert "is damaged" in verify(alone).problems[0]


def test_a_store(overrides, tmp_path, capsys):
    recipe, folder = make(overrides), tmp_path / "store"
    model, tokens = open_model(recipe, lambda text: None)
    stream, facts = open_stream(recipe, model, tokens), store_facts(recipe, model, tokens)
    harvest(stream, folder, tokens=900, dtype="float32", shard_tokens=300, facts=facts)
    assert main(["verify", str(folder)]) == 0
    assert "3 shards, 900 activations" in capsys.readouterr().out
    flip(folder / "shard-000001.safetensors")
    (folder / "shard-000002.safetensors").unlink()
    problems = verify(folder).problems
    assert [("damaged" in p, "missing" in p) for p in problems] == [(True, False), (False, True)]
    (folder / "manifest.json").unlink()
    assert "no manifest.json" in verify(folder).problems[0]


def test_a_folder_that_is_nothing_of_ours(tmp_path, capsys):
    assert main(["verify", str(tmp_path)]) == 2
    assert "neither a run" in capsys.readouterr().err
