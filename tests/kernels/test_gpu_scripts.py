"""The GPU scripts on a machine without one: checked in Triton's interpreter, and compiled for several."""

import json
import math
import os
import runpy
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from contract.cases import ARCHITECTURES
from gpu_cases import DEVICE, ROOT, small_blocks

from unmix.kernels import compiled, reference

pytest.importorskip("triton", reason="the GPU kernels need triton: pip install -e '.[gpu]'")
SCRIPT = str(ROOT / "scripts/check_gpu.py")


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))


def python(*args: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that knows nothing of this one's settings."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    environment.pop("TRITON_INTERPRET", None)
    return subprocess.run([sys.executable, *args], env=environment, capture_output=True, text=True, check=False)


def test_the_kernels_need_only_torch_numpy_and_triton():
    done = python(
        "-c",
        "import sys\n"
        "for name in ('numba', 'pydantic', 'yaml', 'transformers', 'tokenizers', 'safetensors', 'matplotlib'):\n"
        "    sys.modules[name] = None\n"
        "import unmix.kernels.gpu, unmix.kernels.gpu_adam, unmix.kernels.reference",
    )
    assert done.returncode == 0, done.stderr


def test_the_script_checks_in_the_interpreter(tmp_path):
    done = python(SCRIPT, "--interpret", "--json", str(tmp_path / "gpu.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "checks right" in done.stdout
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert len(found["checks"]) > 100
    assert all(check["ok"] for check in found["checks"])
    assert found["not_done"] == []
    for how in ("portable", "portable bf16"):
        rows = {check["check"].removeprefix(how + " ").split()[0] for check in found["checks"] if how in check["check"]}
        assert rows >= set(ARCHITECTURES), how


def test_every_kernel_compiles_for_gpus_that_are_not_there():
    done = python(SCRIPT, "--compile", "80", "90", "100")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [f"compiled for {n}" for n in (80, 90, 100)]


def test_a_timing_that_fails_is_told_and_the_rest_is_kept(tmp_path, capsys):
    script, found = runpy.run_path(SCRIPT), {"checks": [{"check": "step", "ok": True}]}
    assert script["verdict"](found) == 0
    script["measure"](found, {"broken": lambda: 1 / 0, "good": lambda: [{"ms": 1.0}]}, tmp_path / "gpu.json", 60.0)
    kept = json.loads((tmp_path / "gpu.json").read_text())
    assert kept["broken_failed"] == "ZeroDivisionError: division by zero"
    assert kept["good"] == [{"ms": 1.0}]
    script["measure"](found, {"late": lambda: 1}, None, 0.0)
    assert found["late_failed"] == "no time left for it"
    assert script["verdict"](found) == 1
    assert "FAILED: broken, late" in capsys.readouterr().out
    assert script["verdict"]({"checks": [{"check": "step", "ok": False}]}) == 1


def test_all_timings_run_and_their_floors_are_of_their_shapes(monkeypatch):
    """With a clock of the test's own, at sizes as small as they get."""
    for _ in small_blocks(monkeypatch):
        import gpu_times

        monkeypatch.setattr(gpu_times, "DEVICE", DEVICE)
        monkeypatch.setattr(gpu_times, "SHAPES", {"S": (5, 20, 4, 3), "M": (4, 10, 3, 2)})
        monkeypatch.setattr(gpu_times, "DENSITIES", (0.2, 0.5))
        monkeypatch.setattr(gpu_times, "median_ms", lambda call, inputs, *_: (call(inputs[0]), 1.0)[1])
        best = {"float32_tflops": 1.0, "tf32_tflops": 8.0, "copy_tb_per_s": 1.0, "gather_16_mb_tb_per_s": 0.5}
        phases = gpu_times.time_phases(best, math.inf)
        rows = [f"{row}, {how}" for row in gpu_times.tasks(1) for how in ("fp32", "tf32")]
        assert [(row["size"], row["row"]) for row in phases] == [(size, row) for size in "SM" for row in rows]
        assert all(row["ms"].keys() == row["floor"].keys() and 0 < row["L0"] <= row["F"] for row in phases)
        page = table_of(phases[:8], best)
        assert "auto would select in tf32, as above, and take sparse steps of a relu below 7.0% active" in page
        assert page.splitlines()[0].startswith("one training step on a GPU: D=5, F=20, B=4;")
        assert "encode" in page
        assert "relu" in page
        in_float32, in_tf32 = (row["floor"]["encode"] for row in phases[:2])
        assert in_float32 == pytest.approx(2 * 4 * 5 * 20 / 1e9) == 8 * in_tf32
        assert gpu_times.time_phases(best, 0.0)[0]["not_timed"] == "no time left for it"
        assert [row["size"] for row in gpu_times.crossover()] == ["S", "M"]
        assert all(row["ours"] is not None for row in gpu_times.time_adam(best))
        assert gpu_times.rivals(False)[0]["plain"] is not None
    assert gpu_times.meeting([0.1, 0.2, 0.4], [1.0, 2.0, 6.0], [4.0, 4.0, 4.0]) == pytest.approx(0.3)
    assert gpu_times.meeting([0.1, 0.2], [1.0, 2.0], [None, 4.0]) is None


def table_of(rows, best):
    """What `unmix bench step --device cuda` prints."""
    from unmix.bench.step_gpu import table

    settings = {"width": 5, "features": 20, "tokens": 4, "l0": 3.0, "repeats": 7}
    found = {"gpu": "a GPU", "memory_gb": 80.0, "torch": "2.13", "settings": settings, "best": best}
    found |= {"auto": {"selection": "tf32", "border": 0.07}}
    return table(found | {"rows": {row["row"]: row for row in rows}})


def test_the_compiled_portable_step_is_checked_and_one_that_is_not_compiled_is_wrong(monkeypatch):
    """torch.compile is the test's own: how many functions it made is what torch counts."""
    import gpu_checks
    import gpu_portable
    from torch._dynamo.utils import counters

    def compiling(*words):
        counters["stats"]["unique_graphs"] += made
        return reference.passed(*words)

    monkeypatch.setattr(compiled, "_compiled", lambda: compiling)
    monkeypatch.setattr(gpu_portable.shutil, "which", lambda name: name)
    every = gpu_portable.pairs
    for made in (1, 0):
        if not made:
            monkeypatch.setattr(gpu_portable, "pairs", lambda *shape: every(*shape)[:2])
        checks = gpu_checks.Checks()
        gpu_portable.check_compiled(checks, "cpu", tiny=True)
        torch.use_deterministic_algorithms(False)
        was = [row["ok"] for row in checks.rows if row["check"].endswith("it was")]
        assert len(was) == (len(ARCHITECTURES) if made else 2)  # not jumprelu_quadratic, but topk twice
        assert was == [bool(made)] * len(was)
        assert all(row["ok"] for row in checks.rows if not row["check"].endswith("it was"))
    checks = gpu_checks.Checks(until=0.0)
    gpu_portable.check_compiled(checks, "cpu", tiny=True)
    assert checks.rows == []
    assert checks.left_out[:2] == ["portable compiled relu", "portable compiled tanh_relu"]


@pytest.mark.parametrize(("part", "by"), [("check_portable", 1.0001), ("check_portable_bf16", 1.2)])
def test_a_portable_step_that_is_off_is_wrong(part, by, monkeypatch, capsys):
    import gpu_checks
    import gpu_portable

    class Off(gpu_portable.Step):
        def __call__(self, x_BD, y_BE, weights, gradients, task):
            sums = super().__call__(x_BD, y_BE, weights, gradients, task)
            gradients["b_enc"].mul_(by)
            return sums

    monkeypatch.setattr(gpu_portable, "Step", Off)
    every, checks = gpu_portable.pairs, gpu_checks.Checks()
    monkeypatch.setattr(gpu_portable, "pairs", lambda *shape, **keys: every(*shape, **keys)[:3])
    getattr(gpu_portable, part)(checks, "cpu", tiny=True)
    torch.use_deterministic_algorithms(False)
    assert [row["check"] for row in checks.rows if not row["ok"]] == [
        row["check"] for row in checks.rows if row["check"].endswith("b_enc")
    ]
    assert "WRONG" in capsys.readouterr().out


def test_the_portable_step_and_its_members_are_timed(monkeypatch):
    import gpu_late
    import gpu_times

    monkeypatch.setattr(compiled, "_compiled", lambda: reference.passed)
    monkeypatch.setattr(gpu_times, "DEVICE", DEVICE)
    monkeypatch.setattr(gpu_times, "SHAPES", {"S": (5, 20, 4, 3)})
    monkeypatch.setattr(gpu_times, "median_ms", lambda call, inputs, *_: (call(inputs[0]), 1.0)[1])
    ways = [f"{row}, {way}" for row in ("relu", "gated") for way in ("fp32", "bf16", "compiled")]
    rows = gpu_times.time_portable(True)
    assert [(row["row"], row["ms"]) for row in rows] == [(way, 1.0) for way in ways]
    assert len(gpu_times.time_portable(False)) == 4
    monkeypatch.setattr(gpu_late, "PORTABLE", (16, 32))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    rows = gpu_late.time_portable_members(True, device=DEVICE, D=6, F=20, steps=2)
    assert [(row["member"], row["B"], "compiled" in row) for row in rows] == [
        (name, B, B == 32) for name in ("relu", "gated") for B in (16, 32)
    ]
    assert all(row["fp32"] > 0 and row["bf16"] > 0 for row in rows)


class Clock:
    """That goes on by what is said to have been done."""

    now = 0.0

    def monotonic(self):
        return self.now

    def perf_counter(self):
        return self.now

    def passes(self, seconds, answer=None):
        self.now += seconds
        return answer


NO_TIME = "no time left for it"
CASES = [(0.2, 20), (0.1, 115), (0.6, 115), (1.4, 115), (1.9, 115), (3.0, 100), (7.0, 100)]
UPDATES = ("ours", "unit_norm", "torch_fused")


@pytest.mark.parametrize(("slower", "compiling"), CASES)
def test_ten_minutes_are_kept_and_what_was_not_done_is_listed(slower, compiling, monkeypatch, tmp_path, capsys):
    """Every part with a clock of the test's own, and nothing behind it: how long each piece takes is made up."""
    import gpu_clock
    import gpu_late
    import gpu_times

    clock, script = Clock(), runpy.run_path(SCRIPT)
    for holder in (vars(gpu_clock), vars(gpu_late), script["measure"].__globals__):
        monkeypatch.setitem(holder, "time", clock)

    def step(*_, compiled=False, **__):
        return SimpleNamespace(launch=lambda *_: clock.passes(compiling if compiled else 0), compiled=False)

    def steps(member, *_):
        clock.passes(compiling if member.step.compiled and not member.had else slower)
        member.had = member.step.compiled

    monkeypatch.setattr("unmix.kernels.dispatch.Step", step)
    monkeypatch.setattr(torch, "compile", lambda *_, **__: lambda *_: clock.passes(compiling))
    monkeypatch.setattr(gpu_times, "DEVICE", "cpu")
    monkeypatch.setattr(gpu_times, "SHAPES", dict.fromkeys("SML", (5, 20, 4, 3)))
    monkeypatch.setattr(gpu_times, "floors", lambda: clock.passes(20, {"copy_tb_per_s": 1.0}))
    monkeypatch.setattr(gpu_times, "time_row", lambda *_: clock.passes(5 * slower, {}))
    monkeypatch.setattr(gpu_times, "time_update", lambda *_: clock.passes(slower, dict.fromkeys(UPDATES, 1.0)))
    monkeypatch.setattr(
        gpu_times, "median_ms", lambda call, inputs, *_: (call(inputs[0]), clock.passes(slower, 1.0))[1]
    )
    monkeypatch.setattr(gpu_times, "gpu", SimpleNamespace(step=lambda *_: (None, 0.1), dense_step=lambda *_: None))
    monkeypatch.setattr(gpu_times, "formulas", lambda *_: None)
    monkeypatch.setattr(gpu_late, "_batch", lambda *_: None)
    monkeypatch.setattr(
        gpu_late, "_member", lambda *_: SimpleNamespace(step=SimpleNamespace(compiled=False), had=False)
    )
    monkeypatch.setattr(gpu_late, "Late", lambda member, _: member)
    monkeypatch.setattr(gpu_late, "_steps", steps)
    found = {"checks": []}
    script["measure"](found, script["every_timing"](found, 540.0, True), tmp_path / "gpu.json", 540.0)
    assert clock.now <= 600
    assert json.loads((tmp_path / "gpu.json").read_text()) == found
    late = [part.removesuffix("_failed") for part, said in found.items() if said == NO_TIME]
    assert all(part in found or part in late for part in PARTS)
    columns = [said for part in PARTS for row in found.get(part, []) for said in row.values()]
    assert len(found["not_done"]) == len(late) + columns.count(NO_TIME)
    if slower == 0.2:
        assert found["not_done"] == []
    else:
        assert any(name.startswith("rivals") for name in found["not_done"])
    assert script["verdict"](found) == bool(late)
    assert ("NO TIME LEFT FOR: " in capsys.readouterr().out) == bool(found["not_done"])


PARTS = ("phases", "members", "crossover", "adam", "portable", "portable_members", "rivals")


def test_a_compiling_rival_is_begun_early_enough_or_not_at_all(monkeypatch):
    import gpu_clock
    import gpu_times

    clock = Clock()
    monkeypatch.setattr(gpu_clock, "time", clock)
    monkeypatch.setattr(gpu_times, "DEVICE", DEVICE)
    monkeypatch.setattr(gpu_times, "SHAPES", {"S": (5, 20, 4, 3)})
    monkeypatch.setattr(gpu_times, "median_ms", lambda call, inputs, *_: 1.0)
    monkeypatch.setattr(torch, "compile", lambda call, **_: call)
    until = 540.0
    for now, timed in ((until - gpu_clock.COMPILE, True), (until - gpu_clock.COMPILE + 1, False)):
        clock.now = now
        (row,) = gpu_times.rivals(True, until)
        assert (row.get("compiled"), row.get("compiled not timed")) == ((1.0, None) if timed else (None, NO_TIME))
    assert gpu_clock.undone({"rivals": [row]}) == ["rivals: S, compiled"]


def test_checks_that_there_was_no_time_for_are_listed_and_no_success():
    import gpu_checks
    import gpu_clock

    checks = gpu_checks.check("cpu", tiny=True, compiled=True, until=0.0)
    assert checks.rows == []
    assert checks.left_out[0] == "check_steps"
    assert checks.left_out[-3:] == ["check_portable", "check_portable_bf16", "check_compiled"]
    found = {"checks": [], "checks_left_out": checks.left_out}
    assert gpu_clock.undone(found)[0] == "checks: check_steps"
    assert runpy.run_path(SCRIPT)["verdict"](found) == 1


def test_numbers_of_before_are_not_written_over(tmp_path, monkeypatch, capsys):
    (tmp_path / "gpu.json").write_text("mine")
    monkeypatch.setattr(sys, "argv", ["check_gpu.py", "--json", str(tmp_path / "gpu.json")])
    assert runpy.run_path(SCRIPT)["main"]() == 2
    assert capsys.readouterr().out == f"{tmp_path / 'gpu.json'} is there already: give another --json FILE\n"
    assert (tmp_path / "gpu.json").read_text() == "mine"


@pytest.mark.skipif(DEVICE == "cuda", reason="there is a GPU")
def test_without_a_gpu_the_script_says_so():
    done = python(SCRIPT)
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 1
    assert "--interpret" in done.stdout
