"""Every code block of the README and of `docs/` is tried.

Commands of `unmix` are parsed, all of them: by the parser of the command line, and their keys by the recipe. They are
run too, in a folder that has what they name (`workshop.py`), shortened by `SHORTER`, if they can be (`why_not_run`).
What a page shows below `$ unmix …` has to be printed, figures aside. Python runs in order, one namespace a page, with
what `given` has in it; a statement that names what is on a hub is compiled only, and a block that imports another
library runs where that library is (`peer_blocks.py`). Recipes in YAML are read. Of other commands, scripts have to
exist, and extras that are installed.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import shutil
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from code_blocks import PAGES, ROOT, Block, Command, blocks, inline_commands
from peer_blocks import environments, imports, libraries
from workshop import RUNS, furnish, place_checkpoints

import unmix
from unmix.cli import _parser, main
from unmix.cli.arguments import read_recipe, split_dotted
from unmix.config import RunConfig, load
from unmix.front import _recipe

STAND_INS = {"NAME": "embedded", "SOURCE": "texts", "RECIPE": "demo", "RUN": "runs/demo", "runs/NAME": "runs/demo"}
STAND_INS |= {"S": "10", "FEATURE": "12", "…": "embedded"}
"""Words that stand for what a reader has, and what stands in for them; a FOLDER is there."""
HUB = re.compile(r"gpt2(?!-small)|smollm2|OWNER/|owner/|google/|http://", re.IGNORECASE)
"""What is on a hub, or answers on the network."""
VERBS = ("sweep", "plan", "evaluate", "explore", "show", "choose", "report", "verify", "harvest", "extend", "norms")
"""Those that are run: the others measure (bench, doctor), fetch, or write to a hub."""
SHORTER = {
    "sweep": "--features 256 --training.batch_tokens 512 --activations.chunk_sequences 16 --steps 2 --train-only "
    "--model.matmul fp32 --training.selection fp32 --training.dense fp32 --training.border 0.1",
    "harvest": "--tokens 8192 --activations.chunk_sequences 16 --model.matmul fp32",
    "evaluate": "--tokens 2000 --ce-tokens 1000",
    "explore": "--tokens 4096",
    "norms": "--tokens 4096",
    "verify": "--tokens 1024",
    "extend": "--steps 12",
}
FIGURE = re.compile(r"\d[\d,]*(\.\d+)?(e-?\d+)?")
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]


def commands(page: str) -> list[Command]:
    return [command for block in blocks(page) if block.kind in ("shell", "console") for command in block.commands()]


def unmix_commands(page: str) -> list[Command]:
    return [command for command in commands(page) if command.words[0] == "unmix"]


def parsed(command: Command, *more: str) -> tuple[Any, dict[str, list[str]]]:
    """What the parser makes of it. Raises `UserError` or `SystemExit` for what it does not know."""
    words, dotted = split_dotted([*stand_in(command), *more])
    args = _parser().parse_args(words)
    assert not (dotted and "recipe" not in args), command.where
    if "recipe" in args:
        read_recipe(args, dotted)
    return args, dotted


def stand_in(command: Command) -> list[str]:
    """Its words behind `unmix`, with what stands for a reader's own filled in."""
    words = [STAND_INS.get(word.strip("[]"), word) for word in command.words[1:]]
    folders = iter(["FOLDER", "LAYER_0", "LAYER_1"])
    return [next(folders) if word == "FOLDER" else word for word in words]


def is_mention(command: Command) -> bool:
    """`unmix bench step`, `unmix extend --anew`: the name of a command, not a command to be typed."""
    return all(word.startswith("-") or word.islower() for word in command.words[1:]) and not any(
        set("./=") & set(word) or word[0].isdigit() for word in command.words[1:]
    )


def why_not_run(command: Command) -> str | None:
    """The stated rule; none if it is run."""
    verb, line = command.words[1], " ".join(command.words)
    if verb not in VERBS:
        return "measures, fetches or writes to a hub"
    if found := HUB.search(line):
        return f"names {found[0]}"
    if re.search(r"--device (?!cpu)", line):
        return "asks for a device"
    if verb == "explore" and "--build" not in command.words:
        return "serves until it is stopped"
    return None


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_one(page: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Its options exist, and every key of a recipe that it sets takes that value."""
    monkeypatch.chdir(ROOT)
    for command in unmix_commands(page):
        parsed(command)
    for command in inline_commands(page):
        if not is_mention(command):
            parsed(command)
            continue
        with pytest.raises(SystemExit) as stopped:
            _parser().parse_args([*[word for word in command.words[1:] if not word.startswith("-")], "--help"])
        said = capsys.readouterr().out
        assert stopped.value.code == 0, command.where
        assert [word for word in command.words if word.startswith("--") and word not in said] == [], command.where


@pytest.mark.parametrize("page", PAGES)
def test_other_commands_are_there(page: str):
    for command in commands(page):
        words = [word for word in command.words if not re.fullmatch(r"[A-Z]+=\S+", word)]
        if words[0] == "pip":
            for extra in re.findall(r"\[(\w+)\]", " ".join(words)):
                assert extra in EXTRAS, command.where
        elif words[0] not in ("unmix", "ssh") and "://" not in words[0]:
            script = ROOT / (words[1] if words[0] == "python" else words[0])
            assert script.is_file(), command.where
            text = script.read_text(encoding="utf-8")
            assert [word for word in words if word.startswith("--") and word not in text] == [], command.where


@pytest.mark.parametrize("page", PAGES)
def test_every_recipe_in_yaml_is_one(page: str, tmp_path: Path):
    for block in blocks(page):
        if block.kind == "yaml":
            path = tmp_path / "recipe.yaml"
            path.write_text(block.text, encoding="utf-8")
            load(path)
            assert yaml.safe_load(block.text).keys() <= RunConfig.model_fields.keys(), block.where


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workshop")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNMIX_CACHE", str(folder / "cache"))
        furnish(folder)
    return folder


@pytest.fixture
def workshop(furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to work in, which is the current folder."""
    shutil.copytree(furnished, tmp_path / "workshop")
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "workshop" / "cache"))
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.chdir(tmp_path / "workshop")
    return tmp_path / "workshop"


RUN = [page for page in PAGES if any(why_not_run(command) is None for command in unmix_commands(page))]


@pytest.mark.slow
@pytest.mark.pictures
@pytest.mark.parametrize("page", RUN)
def test_commands_run(page: str, workshop: Path, capsys: pytest.CaptureFixture[str]):
    """They end well, or as the page shows, and print the lines that it shows."""
    for number, command in enumerate(unmix_commands(page)):
        if why_not_run(command) is not None:
            continue
        verb = command.words[1]
        more = [*SHORTER.get(verb, "").split(), *(["--runs", f"runs-{number}"] if verb == "sweep" else [])]
        capsys.readouterr()
        status = main([*stand_in(command), *more])
        said = "".join(capsys.readouterr())
        refused = any(line.startswith("unmix: ") for line in command.printed)
        assert status == (2 if refused else 0), f"{command.where}\n{said}"
        for line in command.printed:
            for part in filter(None, re.split(r"\S*…\S*", line)):
                assert shown(part) in shown(said), f"{command.where}\n{line}\n{said}"


def shown(text: str) -> str:
    """Without its figures, and where lines are broken."""
    return " ".join(FIGURE.sub("N", text).split())


PYTHON = [page for page in PAGES if any(block.kind == "python" for block in blocks(page))]
PROGRAMS = [block for page in PYTHON for block in blocks(page) if block.kind == "python"]


@pytest.mark.parametrize("block", PROGRAMS, ids=lambda block: f"{block.where}-{'+'.join(environments(block))}")
def test_every_python_block_runs_somewhere(block: Block):
    """`pytest -vv` lists where: `dev` is here, the others are those of benchmarks/environment."""
    assert environments(block), f"no environment of benchmarks/ has {', '.join(map(str, libraries(block)))}"
    if not libraries(block):
        unknown = [module for module in sorted(imports(block)) if importlib.util.find_spec(module) is None]
        assert unknown == [], f"{block.where}: give peer_blocks.LIBRARIES what brings them"


@pytest.mark.parametrize("page", PYTHON)
def test_every_sweep_in_python_is_a_recipe(page: str):
    """The keywords of `unmix.sweep(…)` as they stand, before anything stands in for them."""
    for block in blocks(page):
        if block.kind == "python":
            for call in ast.walk(ast.parse(block.text)):
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "unmix.sweep":
                    keys = {word.arg: ast.literal_eval(word.value) for word in call.keywords if _is_literal(word)}
                    own = inspect.signature(unmix.sweep).parameters
                    _recipe(None, {key: value for key, value in keys.items() if key and key not in own})


def _is_literal(word: ast.keyword) -> bool:
    try:
        ast.literal_eval(word.value)
    except ValueError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("page", PYTHON)
@pytest.mark.pictures
def test_python_runs(page: str, workshop: Path, monkeypatch: pytest.MonkeyPatch):
    place_checkpoints(workshop, (ROOT / page).read_text(encoding="utf-8"))
    for run in RUNS:  # a page makes its own
        shutil.rmtree(run)
    monkeypatch.setattr(unmix, "sweep", short_sweep)
    monkeypatch.setattr("unmix.evaluation.command.SWEEP_TOKENS", 2000)
    monkeypatch.setattr("unmix.evaluation.command.SWEEP_CE_TOKENS", 1000)
    names = given() | {"folder": Path("FOLDER")}
    for block in blocks(page):
        if block.kind == "python" and not libraries(block):
            run_statements(block, names)


def run_statements(block: Block, names: dict[str, Any]) -> None:
    for statement in ast.parse(block.text, block.where).body:
        ast.increment_lineno(statement, block.line - 1)
        program = compile(ast.Module([statement], []), str(ROOT / block.page), "exec")
        if not _on_hub(statement):
            exec(program, names)


def _on_hub(statement: ast.stmt) -> bool:
    """Whether it names a repository; a model of that name is stood in for by `short_sweep`."""
    return "OWNER/" in ast.unparse(statement)


@cache
def _embedded() -> Any:
    return unmix.load_model("embedded")


def given() -> dict[str, Any]:
    """What a reader of any page has: a model, token ids, activations of width 64, and those that a dictionary reads."""
    lm = _embedded()
    x_RD = np.random.default_rng(0).normal(size=(4000, 64)).astype(np.float32)
    ids = torch.tensor([lm.tokenizer.encode("<|endoftext|>import os")])
    return {"lm": lm, "model": lm.model, "ids": ids, "x_RD": x_RD, "x": torch.from_numpy(x_RD[:8])}


def short_sweep(*words: Any, **keys: Any) -> Any:
    """`unmix.sweep` of few steps and features, on the embedded model where another is named."""
    if "activations" not in keys and HUB.search(str(keys.get("model", ""))):
        keys |= {"model": "embedded", "hook": "resid_post.3"}
    return _sweep(*words, **keys | {"steps": min(20, keys.get("steps", 20)), "features": 128, "quiet": True})


_sweep = unmix.sweep
