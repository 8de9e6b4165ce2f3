"""A sweep evaluates itself at the end, so that its report has held-out numbers; a failure of that loses no run."""

import json
import shutil

import pytest
import yaml

from unmix.cli import main


@pytest.fixture
def sweep(overrides, tmp_path):
    """Runs `unmix sweep` on a tiny recipe; answers the exit status."""
    tree = {}
    for dotted, value in (overrides | {"training.l1": [1.0], "training.steps": 20}).items():
        section, _, key = dotted.partition(".")
        if key:
            tree.setdefault(section, {})[key] = value
        else:
            tree[section] = value
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tree))
    return lambda *words: main(["sweep", str(tmp_path / "tiny.yaml"), "--runs", str(tmp_path / "runs"), *words])


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs" / "tiny"


def test_the_report_has_held_out_numbers_without_asking(sweep, folder, capsys):
    assert sweep() == 0
    said = capsys.readouterr()
    assert "evaluating on 100,000 held-out tokens, cross-entropy on 20,000 of them" in said.err
    assert "report: " in said.out
    found = json.loads((folder / "evaluation.json").read_text())
    assert found["checkpoints"] == {"l1-1": "members/l1-1/step-000000020"}
    assert found["hooks"][0]["split"] == "held_out"
    assert "Held out" in (folder / "report.html").read_text()


def test_after_an_extension_the_report_says_that_its_evaluation_is_older_and_how_to_renew_it(sweep, folder):
    def said():
        return f"<code>unmix evaluate {folder}</code>" in (folder / "report.html").read_text()

    assert sweep() == 0
    assert not said()
    assert main(["extend", str(folder), "--member", "l1-1", "--steps", "30"]) == 0
    assert said()
    assert main(["evaluate", str(folder), "--tokens", "200", "--ce-tokens", "64"]) == 0
    assert main(["report", str(folder)]) == 0
    assert not said()


@pytest.mark.parametrize("flag", ["--no-evaluate", "--train-only"])
def test_it_can_be_left_out(sweep, folder, flag):
    assert sweep(flag) == 0
    assert not (folder / "evaluation.json").exists()


def test_an_evaluation_of_the_same_checkpoints_is_kept(sweep, folder, capsys):
    assert sweep("--no-evaluate") == 0
    assert main(["evaluate", str(folder), "--tokens", "200", "--ce-tokens", "64"]) == 0
    before = (folder / "evaluation.json").read_bytes()
    assert sweep() == 0
    assert "evaluation.json is there" in capsys.readouterr().err
    assert (folder / "evaluation.json").read_bytes() == before


def test_one_of_earlier_checkpoints_is_put_aside(sweep, folder, capsys):
    assert sweep() == 0
    before = json.loads((folder / "evaluation.json").read_text())
    assert sweep("--choice.max_active", "48", "--choice.extend_to", "30") == 0
    assert "kept as evaluation.superseded-1.json" in capsys.readouterr().err
    assert json.loads((folder / "evaluation.superseded-1.json").read_text()) == before
    second = json.loads((folder / "evaluation.json").read_text())
    assert set(second["checkpoints"]) == {"l1-1", "l1-1-extended"}
    assert sweep("--choice.max_active", "48", "--choice.extend_to", "34") == 0
    assert json.loads((folder / "evaluation.superseded-1.json").read_text()) == before
    assert json.loads((folder / "evaluation.superseded-2.json").read_text()) == second


def test_what_cannot_be_evaluated_is_said_in_a_line_and_the_report_is_written(sweep, folder, tmp_path, capsys):
    texts = sorted((tmp_path / "texts").iterdir())
    for path in texts[1:]:
        path.unlink()
    assert sweep("--corpus.held_out_fraction", "1e-9") == 0
    said = capsys.readouterr()
    [line] = [line for line in said.err.splitlines() if line.startswith("warning: not evaluated")]
    assert "the report is written without held-out numbers: the held_out split" in line
    assert "report: " in said.out
    assert "Held out" not in (folder / "report.html").read_text()


def test_a_run_from_a_store_is_evaluated_with_the_stores_model_or_says_that_it_is_gone(
    sweep, folder, overrides, tmp_path, capsys
):
    model = tmp_path / "model"
    shutil.copytree(overrides["model.name"], model)
    words = ["--model", str(model)]
    store = str(tmp_path / "store")
    assert main(["harvest", str(tmp_path / "tiny.yaml"), *words, "--out", store, "--tokens", "1000"]) == 0
    assert sweep(*words, "--activations.store", store) == 0
    assert "Held out" in (folder / "report.html").read_text()
    shutil.rmtree(folder)
    shutil.rmtree(model)
    capsys.readouterr()
    assert sweep(*words, "--activations.store", store) == 0
    assert f"warning: not evaluated, the report is written without held-out numbers: model.name = {model}" in (
        capsys.readouterr().err
    )
    assert (folder / "report.html").exists()
