"""`unmix bench` through the command line at tiny sizes: what it says hangs together. No time is judged."""

import json
import math
import re
import shlex
from pathlib import Path
from statistics import median

import pytest
import torch
import yaml

from unmix import config, precision
from unmix.bench import harvest
from unmix.cli import _parser, main
from unmix.cli.arguments import split_dotted
from unmix.kernels import active, cpu, rows, trial
from unmix.kernels.dispatch import HYSTERESIS
from unmix.training import member, run

PAGE = Path(__file__).parents[2] / "docs" / "speed.md"
STEP = ["step", "--width", "16", "--features", "400", "--tokens", "64", "--repeats", "2"]


@pytest.fixture
def recipe(overrides, tmp_path):
    tree = {"name": overrides.pop("name")}
    for dotted, value in overrides.items():
        section, _, key = dotted.partition(".")
        tree.setdefault(section, {})[key] = value
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture
def bench(capsys):
    """What a command prints as JSON; nothing else is on stdout."""

    def call(*words):
        assert main(["bench", *map(str, words), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return call


def numbers(tree):
    """Every number of the JSON, with its path."""
    if isinstance(tree, dict):
        return [(f"{key}.{path}", n) for key, value in tree.items() for path, n in numbers(value)]
    if isinstance(tree, list):
        return [(path, n) for value in tree for path, n in numbers(value)]
    return [("", tree)] if isinstance(tree, (int, float)) and not isinstance(tree, bool) else []


def sane(found, what):
    """All numbers are finite and none is negative; machine, versions and date are there."""
    assert found["bench"] == what
    assert {"cpu", "cores", "torch_threads", "numba_threads"} <= found["machine"].keys()
    assert {"unmix", "python", "torch", "numba"} <= found["versions"].keys()
    assert re.match(r"\d{4}-\d\d-\d\dT", found["date"])
    for path, number in numbers(found):
        assert math.isfinite(number), path
        assert number >= 0, path
    for path, number in numbers(found):
        if path.split(".")[-2].endswith(("_per_s", "_bytes", "median_s", "tokens", "gb_per_s")):
            assert number > 0, path


def test_a_sparse_step(bench):
    kept = active.candidates, cpu._by_feature, rows.adam, member.Member._count
    found = bench(*STEP, "--l0", "20", "--selection", "fp32", "bf16", "int8")
    sane(found, "step")
    assert found["settings"] == {
        "width": 16, "features": 400, "tokens": 64, "l0": 20, "repeats": 2, "selection": ["fp32", "bf16", "int8"]
    }  # fmt: skip
    assert found["variants"].keys() == found["floor"].keys() == {"fp32", "bf16", "int8"}
    for name, variant in found["variants"].items():
        floor = found["floor"][name]
        assert variant["kind"] == "sparse"
        assert variant["bound_products"] == 1
        assert variant["l0"] == pytest.approx(20, rel=0.2)
        assert len(variant["seconds"]) == len(floor["seconds"]) == 2
        assert variant["median_s"] == median(variant["seconds"])
        assert variant["tokens_per_s"] == pytest.approx(64 / variant["median_s"])
        ratios = [g / s for g, s in zip(floor["seconds"], variant["seconds"], strict=True)]
        assert variant["bound_share"] == pytest.approx(median(ratios))
        assert floor["gflop_per_s"] == pytest.approx(2 * 64 * 16 * 400 / floor["median_s"] / 1e9)
        phases = {"find", "by_token", "transpose", "by_feature", "finish", "adam", "counts", "rest", "whole"}
        assert variant["phases"]["seconds"].keys() == phases
        assert variant["phases"]["inside_find"].keys() == {"product", "compaction"} | (
            {"rounding"} if name == "int8" else set()
        )
        assert len(variant["phases"]["rounds"]) == 2
        for taken in variant["phases"]["rounds"]:
            whole = taken.pop("whole")
            assert all(seconds >= 0 for seconds in taken.values())  # `rest` is what the others leave
            assert sum(taken.values()) == pytest.approx(whole)
    assert (active.candidates, cpu._by_feature, rows.adam, member.Member._count) == kept  # the timers are gone


@pytest.mark.parametrize(
    ("selection", "made_in"),
    [(["fp32", "bf16"], ["fp32", "bf16"]), (["fp32", "bf16", "int8"], ["fp32", "bf16"]), (["int8"], ["bf16"])],
)
def test_a_dense_step_is_five_products_in_fp32_or_bf16(bench, selection, made_in):
    found = bench(*STEP, "--l0", "200", "--selection", *selection)
    sane(found, "step")
    assert found["floor"].keys() == {*selection, *made_in}
    assert list(found["variants"]) == made_in
    for name, variant in found["variants"].items():
        assert (variant["kind"], variant["bound_products"]) == ("dense", 5)
        assert variant["l0"] == pytest.approx(200, rel=0.1)
        ratios = [g / s for g, s in zip(found["floor"][name]["seconds"], variant["seconds"], strict=True)]
        assert variant["bound_share"] == pytest.approx(5 * median(ratios))
        assert {"activate", "back", "finish", "adam", "rest"} <= variant["phases"]["seconds"].keys()
        assert "find" not in variant["phases"]["seconds"]


def test_harvest(bench, recipe, tmp_path):
    (tmp_path / "scratch").mkdir()
    words = ["--tokens", 70, "--store-tokens", 500, "--repeats", 2, "--scratch", tmp_path / "scratch"]
    found = bench("harvest", recipe, *words, "--model.matmul", "bf16")
    sane(found, "harvest")
    assert found["settings"]["tokens"] == found["tokens_a_pass"] == 64  # whole sequences of 16
    assert found["linear_layers_a_pass"] == 4
    assert found["flops_a_token"] == 2 * (16 * 48 + 16 * 16 + 2 * 16 * 64)  # attention in and out, the MLP
    assert found["precisions"].keys() == {"fp32", "bf16"}
    assert found["precisions"]["fp32"]["change"] == {}
    assert 0 < found["precisions"]["bf16"]["change"]["resid_post.0"] < 0.1
    for of in found["precisions"].values():
        assert of["tokens_per_s"] == pytest.approx(64 / of["median_s"])
        floor = of["floor"]
        assert floor["gflop_per_s"] == pytest.approx(64 * found["flops_a_token"] / floor["median_s"] / 1e9)
        ratios = [f / s for f, s in zip(floor["seconds"], of["seconds"], strict=True)]
        assert of["floor_share"] == pytest.approx(median(ratios))
    store = found["store"]
    assert store["tokens"] >= 500
    assert store["tokens"] % store["batch_tokens"] == 0
    assert store["bytes"] >= store["tokens"] * (16 * 2 + 8)  # bfloat16; id and position
    assert store["moved_bytes"] == store["bytes"] + store["tokens"] * (16 * 4 + 16)  # float32; both as int64
    assert store["checksums"]["gb_per_s"] == pytest.approx(store["bytes"] / store["checksums"]["median_s"] / 1e9)
    for epoch in ("first", "later"):
        assert store[epoch]["gb_per_s"] == pytest.approx(store["moved_bytes"] / store[epoch]["median_s"] / 1e9)
        assert store[epoch]["tokens_per_s"] == pytest.approx(store["tokens"] / store[epoch]["median_s"])
    assert list((tmp_path / "scratch").iterdir()) == []


def test_harvest_in_fp32_alone_where_no_product_comes_before_the_hook(bench, recipe):
    words = ["--tokens", "64", "--store-tokens", "48", "--repeats", "1", "--model.matmul", "fp32"]
    found = bench("harvest", recipe, *words, "--hook", "resid_pre.0")
    sane(found, "harvest")
    assert found["precisions"].keys() == {"fp32"}
    assert found["flops_a_token"] == 0
    assert found["precisions"]["fp32"]["floor"] is None
    assert found["precisions"]["fp32"]["floor_share"] is None


def test_sweep(bench, recipe, tmp_path):
    (tmp_path / "scratch").mkdir()
    found = bench("sweep", recipe, "--steps", 10, "--scratch", tmp_path / "scratch", "--sinks", "tensorboard")
    sane(found, "sweep")
    assert found["settings"]["members"] == ["l1-0", "l1-1", "l1-3", "l1-30"]
    assert (found["settings"]["steps"], found["settings"]["steps_of_the_recipe"]) == (10, 60)
    assert found["tokens"] == 10 * 48
    assert found["tokens_per_s"] == pytest.approx(480 / found["seconds"])
    assert found["split"].keys() == {"harvest", "member_steps", "checkpoints", "metrics", "rest"}
    assert all(of["seconds"] >= 0 for of in found["split"].values())  # `rest` is what the others leave
    assert sum(of["seconds"] for of in found["split"].values()) == pytest.approx(found["seconds"])
    assert sum(of["share"] for of in found["split"].values()) == pytest.approx(1)
    assert found["harvest"]["tokens"] == 512  # four chunks of 8 sequences of 16
    assert sum(kind["steps"] for kind in found["member_steps"].values()) == 4 * 10
    of_kinds = sum(kind["seconds"] for kind in found["member_steps"].values())
    assert of_kinds <= found["split"]["member_steps"]["seconds"]
    assert found["checkpoints"]["number"] == 1
    assert found["checkpoints"]["every_steps_in_the_recipe"] == 1000
    assert list((tmp_path / "scratch").iterdir()) == []
    assert run.train.__module__ == "unmix.training.loop"  # the timers are gone


def test_a_sweep_whose_steps_are_read_late(bench, recipe):
    found = bench("sweep", recipe, "--steps", 10, "--training.kernels", "portable")
    assert found["member_steps"].keys() == {"read late"}
    assert found["member_steps"]["read late"]["steps"] == 4 * 10
    assert found["split"]["member_steps"]["seconds"] > 0


def test_sweep_from_a_store(bench, recipe, tmp_path):
    assert main(["harvest", str(recipe), "--out", str(tmp_path / "store"), "--tokens", "1000"]) == 0
    found = bench("sweep", recipe, "--steps", 3, "--activations.store", tmp_path / "store")
    assert found["harvest"]["tokens"] == 3 * 48
    assert found["settings"]["store"] == str(tmp_path / "store")


def test_tables_for_people(recipe, capsys):
    assert main(["bench", *STEP, "--l0", "20", "--selection", "fp32", "bf16"]) == 0
    table = capsys.readouterr().out
    assert all(words in table for words in ("share of the bound", "by feature", "GFLOP/s", "peak memory"))
    words = ["--tokens", "64", "--store-tokens", "48", "--repeats", "1", "--model.matmul", "bf16"]
    assert main(["bench", "harvest", str(recipe), *words]) == 0
    table = capsys.readouterr().out
    assert all(words in table for words in ("share of the floor", "reading a store", "change of the activations"))
    assert main(["bench", "sweep", str(recipe), "--steps", "3", "--training.border", "0.01"]) == 0
    table = capsys.readouterr().out
    assert all(words in table for words in ("member steps", "reading activations", "dense: 12 steps"))


def test_a_step_says_what_a_run_would_decide_and_from_what(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path))
    times = trial.Times({"fp32": 5e-3, "bf16": 9e-3}, {"fp32": 3e-3, "bf16": 4e-3, "int8": 2e-3}, 8e-3, 64)
    asked = []

    def measure(shape):
        asked.append(shape)
        return times

    monkeypatch.setattr(trial, "measure", measure)
    monkeypatch.setattr(precision, "measure", measure)
    assert main(["bench", *STEP, "--l0", "20", "--selection", "fp32"]) == 0
    said = capsys.readouterr().out
    keys = {"training.l1": [1.0], "sae.features": 400, "training.batch_tokens": 64, "device": "cpu"}
    took = precision.decide(config.load(None, keys), {"h": 16})[0].training
    assert asked[0] == asked[1]
    assert f"auto, from 64 of 64 tokens: dense {took.dense} (fp32 5.00 ms, bf16 9.00 ms)" in said
    assert f"selection {took.selection} (fp32 3.00 ms, bf16 4.00 ms, int8 2.00 ms at 1% active)" in said
    assert f"sparse below {took.border:.1%} active" in said
    assert (took.dense, took.selection) == ("fp32", "int8")


@pytest.mark.parametrize("faster", ["fp32", "bf16"])
def test_harvest_says_which_products_auto_would_take(bench, recipe, faster):
    found = bench("harvest", recipe, "--tokens", "64", "--store-tokens", "48", "--repeats", "1")
    for name, measured in found["precisions"].items():
        measured["tokens_per_s"] = 2000.0 if name == faster else 1000.0
    assert f"model.matmul: auto takes {faster}\n" in harvest.table(found)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["step", "--l0", "0"], "--l0 0 "),
        (["step", "--l0", "nan"], "--l0 nan "),
        (["step", "--l0", "10001"], "at most --features"),
        (["step", "--repeats", "0"], "--repeats 0 "),
        (["step", "--tokens", "-3"], "--tokens -3 "),
        (["step", "--features", "1000000000000"], "of memory"),
        (["step", "--training.lr", "1"], "--training.lr is a key of a recipe"),
        (["harvest", "--repeats", "0"], "--repeats 0 "),
        (["harvest", "--tokens", "0"], "--tokens 0 "),
        (["harvest", "RECIPE", "--hook", "resid_post.99"], "resid_post.0 to"),
        (["harvest", "--scratch", "/no/such/place"], "/no/such/place"),
        (["sweep", "--steps", "0"], "--steps 0 "),
        (["sweep", "no-such-recipe"], "no-such-recipe"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(recipe, capsys, words, says):
    assert main(["bench", *(str(recipe) if word == "RECIPE" else word for word in words)]) == 2
    out, error = capsys.readouterr()
    last = error.strip().splitlines()[-1]
    assert out == ""
    assert last.startswith("unmix: ")
    assert says in last


def test_stopped_it_leaves_nothing_behind(recipe, tmp_path, monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(member.Member, "update", interrupted)
    monkeypatch.setattr("unmix.bench.sweep.compile_kernels", lambda: None)
    assert main(["bench", "sweep", str(recipe), "--scratch", str(tmp_path / "scratch")]) == 130
    assert list((tmp_path / "scratch").iterdir()) == []


def test_the_page_has_the_numbers_and_commands_that_are():
    page = PAGE.read_text(encoding="utf-8")
    assert f"above {HYSTERESIS:g} times that" in page
    assert f"timed with {trial.SETTLED:.0%} and with {trial.BUSY:.0%}".replace("%", " %") in page
    commands = re.findall(r"^    unmix (bench .*?)(?:  +.*)?$", page, re.M)
    assert len(commands) >= 4
    for command in commands:
        words, _ = split_dotted(shlex.split(command))
        _parser().parse_args(words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--device", "cuda"], r"device = cuda: torch .* give --device cpu"),
        (["--device", "cuda:9"], r"device = cuda:9: .* give --device cpu"),
        (["--device", "gpu"], r"device = gpu is not a device; give auto, cpu, cuda"),
    ],
)
def test_a_device_that_is_not_there_is_one_line(words, said, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert main(["bench", *STEP, *words]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert re.search(said, err)


@pytest.mark.parametrize(
    ("kind", "words", "said"),
    [
        ("xpu", [], "has no kernels of its own; give --device cpu, or cuda"),
        ("cuda", ["--selection", "int8"], "--selection int8 is of the processor's kernels; leave it out on a GPU"),
        ("cuda", [], "its kernels need triton; pip install triton, or give --device cpu"),
    ],
)
def test_what_a_device_cannot_do_is_one_line(kind, words, said, capsys, monkeypatch):
    monkeypatch.setattr("unmix.devices.resolve", lambda name: torch.device(kind))
    monkeypatch.setattr("unmix.cli.bench.find_spec", lambda name: None)
    assert main(["bench", *STEP, "--device", kind, *words]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert said in err
