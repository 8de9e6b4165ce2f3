"""What a refusal says to give, typed back, is what the run began with."""

import html
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import unmix
from unmix.cli import _parser, main
from unmix.cli.arguments import SHORT, read_recipe, split_dotted
from unmix.config import RunConfig, dump
from unmix.errors import UserError
from unmix.front import _activations, _recipe
from unmix.runlog import write_manifest
from unmix.training.advice import as_options, as_then
from unmix.training.inputs import store_recipe
from unmix.training.manifest import FORMAT, agreed

X_RD = np.random.default_rng(0).normal(size=(2000, 16)).astype(np.float32)
VARIANTS = {"p": {"sae": {"architecture": "relu"}}, "q": {"training": {"lr": 0.01, "mask": {"special": True}}}}
FEW: dict[str, Any] = {
    "features": 32, "steps": 20, "l0": 4, "quiet": True, "activations.chunk_sequences": 2,
    "training": {"batch_tokens": 64, "selection": "fp32", "dense": "fp32", "border": 0.2, "checkpoint_every": 10},
}  # fmt: skip


def recipe(words: str) -> RunConfig:
    """What the command line makes of them."""
    rest, dotted = split_dotted(shlex.split(f"sweep --features 256 {words}"))
    return read_recipe(_parser().parse_args(rest), dotted)


def instead(words: str, said: str) -> str:
    """The command that was refused with these options: in the place of its own short ones for the same keys, which it
    may not have beside them."""
    keys = {word for word in shlex.split(said) if word.startswith("--")}
    replaced = {f"--{short}" for short, key in SHORT.items() if f"--{key}" in keys}
    kept, stays = [], True
    for word in shlex.split(words):
        stays = word not in replaced if word.startswith("--") else stays
        kept += [word] * stays
    return f"{shlex.join(kept)} {said}"


def began(folder: Path, recipe: RunConfig) -> Path:
    """A folder in which a run of this recipe has begun."""
    folder.mkdir()
    write_manifest(folder / "run.yaml", {"format": FORMAT, "recipe": dump(recipe)})
    return folder


def advice(recipe: RunConfig, folder: Path) -> str:
    with pytest.raises(UserError, match="give another") as caught:
        agreed(recipe, folder)
    assert "\n" not in str(caught.value)
    return str(caught.value).partition("to resume it, ")[2]


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A recipe with variants of its own."""
    (tmp_path / "variants.yaml").write_text(yaml.safe_dump({"variants": VARIANTS}))
    return str(tmp_path / "variants.yaml")


PAIRS = [
    ("", "--sae.prefixes 8 16"),
    ("--sae.random_prefixes 3", "--sae.prefixes 8 16"),
    ("", "--corpus.roles assistant --corpus.template_tokens false"),
    ("--corpus.roles user assistant", "--corpus.roles user"),
    ("--corpus 'my texts/a b'", "--corpus a.jsonl=0.7 --corpus b/=0.3"),
    ("--corpus a=1 --corpus b=2", "--corpus.sources '[{source: a, field: body}, {source: c}]'"),
    ("--corpus datasets:n:c:train --corpus.revision '\"123\"'", "--corpus stdlib"),
    (
        "--activations.rows x.npy",
        "--activations.rows x.npy --activations.token_ids i.npy --activations.special_ids 3 7",
    ),
    ("", "--activations.rows x.npy --corpus.held_out_fraction 0.2"),
    ("", "--training.mask none"),
    ("--training.mask.special true", "--training.mask.norm_above 3"),
    ("--l1 1 2", "--l0 4"),
    ("--l1 1 2 --training.l1_norm_power matched", "--l1 2"),
    ("--l0 4 8", "--l0 8 16"),
    ("--l0 4", "--architecture relu topk --l0 4"),
    ("--architecture relu gated --l0 4", "--architecture jumprelu topk --l0 4"),
    ("--architecture relu --l0 4", "--architecture topk --l0 4"),
    ("--model 123 --hook resid_post.1", "--model 1e-3 --hook resid_post.1 mlp_out.2"),
    ("--training.lr 1e-05 --training.betas 0.8 0.99", ""),
    ("", "--training.clip_norm null --training.resample_every 5"),
    ("--model.name null.gguf --corpus.field '\"true\"'", "--model 'a: b'"),
    ("--sae.auxk 0 --sae.auxk_features 3 --training.steps 100", "--steps 200 --training.batch_tokens 64"),
]


@pytest.mark.parametrize(("first", "second"), [*PAIRS, *((b, a) for a, b in PAIRS)])
def test_options_typed_back(first: str, second: str, tmp_path: Path):
    """Behind the command that was refused: its other options stay."""
    first, second = (words if "--l" in words else f"{words} --l0 4" for words in (first, second))
    folder = began(tmp_path / "run", recipe(first))
    said = advice(recipe(second), folder)
    agreed(recipe(instead(second, said)), folder)


@pytest.mark.parametrize("second", ["", "--architecture relu topk", "--training.lr 0.1"])
def test_variants_of_a_recipe_typed_back(second: str, file: str, tmp_path: Path):
    folder = began(tmp_path / "run", recipe(f"{file} --l0 4"))
    said = advice(recipe(f"{second} --l0 4"), folder)
    if second.startswith("--architecture"):  # they are further members; the others are missing
        assert said.startswith("--architecture")
    agreed(recipe(f"{second} --l0 4 {said}"), folder)


def test_variants_that_no_option_takes_away_are_named(file: str, tmp_path: Path):
    folder = began(tmp_path / "run", recipe("--l0 4"))
    said = advice(recipe(f"{file} --l0 4 --training.lr 0.1"), folder)
    assert re.match(r"leave out the variants p, q and give (.*)", said)
    agreed(recipe(f"--l0 4 --training.lr 0.1 {said.partition(' and give ')[2]}"), folder)


def test_a_store_asks_for_what_can_be_typed():
    harvested = dump(recipe("--corpus a=1 --corpus b=2 --corpus.roles user --l0 4"))
    held = {"corpus.sources": harvested["corpus"]["sources"], "corpus.roles": ["user"], "model.name": "123"}
    words = as_options(as_then(["corpus.source", "corpus.roles", "corpus.template", "model.name"], held))
    found = store_recipe(recipe(instead("--l0 4 --corpus x --corpus.template t.jinja", words)))
    assert found["corpus"] == harvested["corpus"]
    assert found["model"]["name"] == "123"


def test_the_command_prints_it_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    np.save(tmp_path / "my x.npy", X_RD)
    few = (
        "--name run --steps 2 --features 32 --l0 4 --train-only --training.batch_tokens 64 --training.border 0.2 "
        "--training.selection fp32 --training.dense fp32 --activations.chunk_sequences 2"
    )
    words = ["sweep", "--runs", str(tmp_path), "--activations.rows", str(tmp_path / "my x.npy"), *few.split()]
    assert main(words) == 0
    capsys.readouterr()
    other = [*words, "--sae.prefixes", "4", "8", "--training.mask", "none"]
    assert main(other) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert main([*other, *shlex.split(line.partition("to resume it, ")[2])]) == 0


def given_in_python(**keys: Any) -> RunConfig:
    _, _, keys = _activations(X_RD, {"l0": 4, "features": 32, **keys})
    return _recipe(None, keys)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {"sae.prefixes": [4, 8]}),
        ({"sae": {"prefixes": [4, 8]}, "architecture": "relu"}, {"training.lr": 0.1}),
        ({"hook": "a"}, {"hook": "b", "activations.special_ids": [3]}),
        ({"architecture": ["relu", "topk"]}, {"architecture": "gated"}),
        ({}, {"architecture": ["relu", "topk"], "training.mask": "none"}),
    ],
)
def test_keywords_given_back(first: dict[str, Any], second: dict[str, Any], tmp_path: Path):
    """A run on activations that were handed over is resumed from Python alone."""
    for number, (one, other) in enumerate([(first, second), (second, first)]):
        folder = began(tmp_path / str(number), given_in_python(**one))
        said = advice(given_in_python(**other), folder)
        assert "--" not in said
        agreed(given_in_python(**other | eval(f"dict({said})")), folder)


def test_more_steps_of_activations_that_were_handed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Every remedy that is named, followed."""

    def sweep(**keys: Any) -> Any:
        return unmix.sweep(activations=X_RD, name="m", runs=tmp_path, evaluate=False, **{**FEW, **keys})

    folder = sweep().folder
    with pytest.raises(UserError, match=r"to train the choice on from before its decay: unmix\.sweep") as caught:
        sweep(steps=40)
    call = re.search(r"unmix\.sweep\(…, (.*)\); or give", str(caught.value))
    assert call is not None
    assert call[1] == "steps=20, choice={'extend_to': 40}"
    assert sweep(**eval(f"dict({call[1]})")).choice == "l0-4-extended"
    kept = re.search(r"; or give (.*) to resume it as it began", str(caught.value))
    assert kept is not None
    sweep(**{"steps": 40} | eval(f"dict({kept[1]})"))
    assert main(["extend", str(folder), "--steps", "60"]) == 2
    assert "unmix.sweep(activations=…) with them again" in capsys.readouterr().err
    assert sweep(choice={"extend_to": 60, "extend_decay_fraction": 0.2}).choice == "l0-4-extended"
    decayed = {"choice": {"extend_to": 90, "extend_decay_fraction": 0.2}}
    with pytest.raises(
        UserError, match=r"decays from step 48.*; move .*l0-4-extended out of the run, or give"
    ) as caught:
        sweep(**decayed)
    (folder / "members/l0-4-extended").rename(tmp_path / "aside")
    run = sweep(**decayed)
    assert run.members["l0-4-extended"].name == "step-000000090"
    assert "extend" in (folder / "metrics.superseded.jsonl").read_text()


def test_the_evaluation_is_made_again_as_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    keys = {**FEW, "quiet": False, "name": "m", "runs": tmp_path}
    run = unmix.sweep(activations=X_RD, **keys)
    path = run.folder / "evaluation.json"
    before = path.read_bytes()
    unmix.sweep(activations=X_RD, **keys)
    assert f"{path} is there; move it away, and the same call makes it again" in capsys.readouterr().err
    path.unlink()
    unmix.sweep(activations=X_RD, **keys)
    assert path.read_bytes() == before


def test_a_report_behind_its_run_names_the_call(tmp_path: Path):
    run = unmix.sweep(activations=X_RD, name="m", runs=tmp_path, **FEW)
    unmix.sweep(activations=X_RD, name="m", runs=tmp_path, **FEW, choice={"extend_to": 40}, evaluate=False)
    assert "unmix.sweep(activations=…, name='m', …)" in html.unescape(run.report().read_text(encoding="utf-8"))
