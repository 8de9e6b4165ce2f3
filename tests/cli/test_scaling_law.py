"""The scaling law of `unmix plan`: through made-up runs that follow a known one, from the command line."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tiny_run import make

from unmix.cli import main
from unmix.cli.own_runs import points_like
from unmix.cli.published import BUDGETS, beside
from unmix.cli.scaling_law import Point, fit
from unmix.config import dump
from unmix.errors import UserError

A, B, C, FACTOR = 0.2, 0.1, 0.3, 2.5
L0S = (2, 4, 8)


def law(tokens: float, features: float, l0: float) -> float:
    return float(FACTOR * tokens**-A * features**-B * l0**-C)


def points(tokens: tuple[float, ...], features: tuple[int, ...], noise: float = 0.0) -> list[Point]:
    random = np.random.default_rng(0)
    return [
        Point(f"{n}-{f}", int(n), f, l0, law(n, f, l0) * math.exp(noise * random.normal()))
        for n, f, l0 in itertools.product(tokens, features, L0S)
    ]


def test_a_known_law_is_found():
    found = fit(points((1e6, 3e6, 1e7), (1024, 4096)))
    assert found.exponents == pytest.approx({"tokens": A, "features": B, "l0": C}, abs=1e-9)
    assert found.factor == pytest.approx(FACTOR)
    assert found.error < 1e-9
    assert (found.dictionaries, found.runs) == (18, 6)
    assert found.unexplained(tokens=5e7, features=2048, l0=16) == pytest.approx(law(5e7, 2048, 16))
    assert found.beyond(tokens=5e7, features=2048, l0=16) == pytest.approx({"tokens": 5.0, "l0": 2.0})


def test_the_error_is_that_of_the_noise():
    found = fit(points((1e6, 2e6, 4e6, 8e6, 16e6), (1024, 4096), noise=0.05))
    assert 0.03 < found.error < 0.1
    assert found.exponents["tokens"] == pytest.approx(A, abs=0.05)


def test_what_does_not_vary_is_left_out_and_said():
    found = fit(points((1e6, 3e6, 1e7), (1024,)))
    assert list(found.exponents) == ["tokens", "l0"]
    assert found.fixed == {"features": 1024}
    with pytest.raises(UserError, match="every run has about 1,024 features, so nothing is known of 4,096"):
        found.unexplained(tokens=1e6, features=4096, l0=4)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (points((1e6,), (1024,)), "3 dictionaries of 1 finished run have one length and width"),
        (points((1e6, 3e6), (1024,)), "6 dictionaries of 2 finished runs are too few for a law in tokens, l0"),
        (points((1e6,), (512,)) + points((2e6,), (1024,)) + points((4e6,), (2048,)), "tokens and features and l0 rise"),
    ],
)
def test_too_few_runs_are_refused(given: list[Point], why: str):
    with pytest.raises(UserError, match=why):
        fit(given)


def write_run(folder: Path, overrides: dict[str, Any], *, steps: int, features: int, **more: Any) -> None:
    """A run folder as far as `plan` reads it."""
    changed = {"training__steps": steps, "sae__features": features, "sae__architecture": "batchtopk"}
    recipe = make(overrides, **{"training__l1": [], "training__l0": list(L0S), **changed, **more})
    checkpoints, saes = {}, {}
    for l0 in L0S:
        step = f"members/l0-{l0}/step-{steps:09d}"
        (folder / step).mkdir(parents=True)
        (folder / step / "cfg.json").write_text("{}")
        checkpoints[f"l0-{l0}"] = step
        unexplained = law(steps * recipe.training.batch_tokens, features, l0)
        saes[f"l0-{l0}"] = {"features": features, "l0": l0, "explained_variance": 1 - unexplained}
    (folder / "run.yaml").write_text(yaml.safe_dump({"recipe": dump(recipe)}))
    mask = f"position 0 (BOS) left out of every number; {recipe.training.mask} left out of fidelity, and left as they"
    result = {"hook": recipe.activations.hooks[0], "mask": mask, "saes": saes}
    on = {"corpus": recipe.corpus.source, "model": recipe.model.name}
    (folder / "evaluation.json").write_text(json.dumps({**on, "checkpoints": checkpoints, "hooks": [result]}))


@pytest.fixture
def words(overrides: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "r.yaml"
    changed = {"training__l1": [], "training__l0": [4], "training__steps": 4000, "sae__architecture": "batchtopk"}
    recipe.write_text(yaml.safe_dump(dump(make(overrides, **changed, sae__features=64))))
    return ["plan", str(recipe)]


def test_plan_predicts_from_the_runs_that_are_there(words, overrides, tmp_path, capsys):
    for steps, features in itertools.product((500, 1000, 2000), (48, 96)):
        write_run(tmp_path / "runs" / f"{steps}-{features}", overrides, steps=steps, features=features)
    for name in ("damaged", "strange"):
        write_run(tmp_path / "runs" / name, overrides, steps=600, features=64)
    (tmp_path / "runs" / "damaged" / "evaluation.json").write_text("{")
    (tmp_path / "runs" / "strange" / "evaluation.json").write_text('{"hooks": [{"saes": {"l0-4": {}}}]}')
    write_run(tmp_path / "runs" / "other", overrides, steps=700, features=64, activations__hooks=["resid_post.1"])
    write_run(tmp_path / "runs" / "kind", overrides, steps=700, features=64, sae__architecture="topk")
    write_run(tmp_path / "runs" / "unmasked", overrides, steps=700, features=64, training__mask="none")
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    [outlook] = found["scaling_laws"]
    assert outlook["law"]["runs"] == 6
    assert set(outlook["unread"]) == {"damaged", "strange"}
    assert outlook["law"]["exponents"] == pytest.approx({"tokens": A, "features": B, "l0": C}, abs=1e-6)
    [prediction] = outlook["predictions"]
    assert prediction["explained_variance"] == pytest.approx(1 - law(4000 * 48, 64, 4))
    assert outlook["beyond"] == pytest.approx({"tokens": 2.0})
    assert [budget["features"] for budget in found["published"]] == [budget.features for budget in beside(64)]
    assert main(words) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "law 1 - EV = 2.5 · tokens^-0.200 · features^-0.100 · L0^-0.300, through 18 dictionaries of 6 runs" in said
    assert f"so explained variance will be {1 - law(4000 * 48, 64, 4):.3f} " in said
    assert "2.0 times outside of the tokens of these runs" in said
    assert "not counted: damaged: " in said
    assert "not counted: strange: runs/strange/evaluation.json is damaged, or of another version (KeyError" in said
    assert "published this one: 192,000 tokens, 3,000 for each of 64 features 10,000,000 tokens, 2,441 for each" in said


def test_plan_says_why_there_is_no_law(words, overrides, tmp_path, capsys):
    assert main(words) == 0
    assert "law none: no finished run like this in runs/" in " ".join(capsys.readouterr().out.split())
    write_run(tmp_path / "runs" / "one", overrides, steps=500, features=64)
    assert main(words) == 0
    assert "law none: 3 dictionaries of 1 finished run have one length" in " ".join(capsys.readouterr().out.split())


def test_a_run_that_was_not_finished_is_no_point(words, overrides, tmp_path, capsys):
    write_run(tmp_path / "runs" / "one", overrides, steps=500, features=64)
    manifest = yaml.safe_load((tmp_path / "runs" / "one" / "run.yaml").read_text())
    manifest["recipe"]["training"]["steps"] = 501
    (tmp_path / "runs" / "one" / "run.yaml").write_text(yaml.safe_dump(manifest))
    assert main(words) == 0
    assert "law none: no finished run like this" in " ".join(capsys.readouterr().out.split())


def test_a_member_that_was_halted_is_no_point(overrides, tmp_path):
    """Its weights are those of the batch that halted it, in a checkpoint of the last step."""
    recipe = make(overrides, training__l1=[], training__l0=[4], sae__architecture="batchtopk")
    write_run(tmp_path / "runs" / "one", overrides, steps=500, features=64)
    rows = [
        {"step": 500, "member": f"l0-{l0}", "phase": "sweep", **({"halted_at": 9} if l0 == 4 else {})} for l0 in L0S
    ]
    (tmp_path / "runs" / "one" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [point.l0 for point in points_like(recipe, "resid_post.0", "", tmp_path / "runs")[0]] == [2, 8]


def test_published_budgets_rise_and_name_their_sources():
    assert [budget.tokens for budget in BUDGETS] == sorted(budget.tokens for budget in BUDGETS)
    assert all(budget.source for budget in BUDGETS)
    assert {16_384, 24_576} <= {budget.features for budget in beside(20_000)}


@pytest.mark.parametrize(
    "changed",
    [
        {"corpus": "another.txt"}, {"model": "another"}, {"corpus_keys": {"field": "content"}},
        {"mask": "position 0 (BOS) left out of every number"},
        {"mask": "special tokens and tokens with norms above 10 times the median left out of fidelity, and left"},
        {"mask": "tokens with norms above 5 times the median left out of fidelity"},
    ],
    ids=str,
)  # fmt: skip
def test_an_evaluation_of_something_else_is_no_point(changed, overrides, tmp_path):
    """What it explains there is of other activations, or of other tokens of them."""
    recipe = make(overrides, training__l1=[], training__l0=[4], sae__architecture="batchtopk")
    write_run(tmp_path / "runs" / "one", overrides, steps=500, features=64)
    assert len(points_like(recipe, "resid_post.0", "", tmp_path / "runs")[0]) == len(L0S)
    path = tmp_path / "runs" / "one" / "evaluation.json"
    evaluation = json.loads(path.read_text())
    [result] = evaluation["hooks"]
    result |= {key: value for key, value in changed.items() if key in result}
    path.write_text(json.dumps(evaluation | {key: value for key, value in changed.items() if key not in result}))
    assert points_like(recipe, "resid_post.0", "", tmp_path / "runs") == ([], {})


def test_the_words_of_an_earlier_version_for_the_same_mask_are_known(overrides, tmp_path):
    recipe = make(overrides, training__l1=[], training__l0=[4], sae__architecture="batchtopk")
    write_run(tmp_path / "runs" / "one", overrides, steps=500, features=64)
    path = tmp_path / "runs" / "one" / "evaluation.json"
    now, before = "with norms above 10 times the median", "longer than 10 times the median norm"
    assert now in path.read_text()
    path.write_text(path.read_text().replace(now, before))
    assert len(points_like(recipe, "resid_post.0", "", tmp_path / "runs")[0]) == len(L0S)


@pytest.mark.parametrize(("architecture", "points"), [("batchtopk", len(L0S)), ("relu", 0)])
def test_a_run_from_before_there_was_a_rate_of_biases_counts_where_it_is_the_same(
    architecture, points, overrides, tmp_path
):
    recipe = make(overrides, training__l1=[], training__l0=[4], sae__architecture=architecture)
    write_run(tmp_path / "runs" / "one", overrides, steps=500, features=64, sae__architecture=architecture)
    assert len(points_like(recipe, "resid_post.0", "", tmp_path / "runs")[0]) == len(L0S)
    manifest = yaml.safe_load((tmp_path / "runs" / "one" / "run.yaml").read_text())
    del manifest["recipe"]["sae"]["bias_rate"]
    (tmp_path / "runs" / "one" / "run.yaml").write_text(yaml.safe_dump(manifest))
    assert len(points_like(recipe, "resid_post.0", "", tmp_path / "runs")[0]) == points


@pytest.mark.parametrize("key", ["corpus__roles", "corpus__template_tokens", "corpus__field"])
def test_chats_that_are_read_otherwise_are_other_activations(key, overrides, tmp_path):
    recipe = make(overrides, training__l1=[], training__l0=[4], sae__architecture="batchtopk")
    other = {"corpus__roles": ["assistant"], "corpus__template_tokens": False, "corpus__field": "messages"}[key]
    write_run(tmp_path / "runs" / "one", overrides, steps=500, features=64, **{key: other})
    assert points_like(recipe, "resid_post.0", "", tmp_path / "runs") == ([], {})
