"""The GPU scripts on a machine without one: checked in Triton's interpreter, and compiled for several."""

import json
import math
import os
import runpy
import subprocess
import sys

import pytest
from gpu_cases import DEVICE, ROOT, small_blocks

pytest.importorskip("triton", reason="the GPU kernels need triton: pip install -e '.[gpu]'")
SCRIPT = str(ROOT / "scripts/check_gpu.py")


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
