"""Devices by name, and those that are not there."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from run_pairs import metrics, same, state

import unmix.training.run
from unmix import devices, load_sae
from unmix.cli import main
from unmix.errors import UserError
from unmix.training.member import Member

MEMBERS = "l1-0", "l1-1", "l1-3", "l1-30"
"""Of the tiny recipe."""


def write_recipe(overrides: dict[str, Any], folder: Path) -> Path:
    """tiny.yaml, from dotted keys."""
    nested: dict[str, Any] = {}
    for dotted, value in overrides.items():
        section, _, key = dotted.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[key] = value
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(nested))
    return path


@pytest.fixture
def bare(monkeypatch):
    """A machine without an accelerator."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.xpu, "device_count", lambda: 0)


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.usefixtures("bare")
def test_auto_is_the_processor_where_there_is_nothing_else():
    assert devices.resolve("auto") == devices.resolve("cpu") == torch.device("cpu")


@pytest.mark.usefixtures("two_gpus")
def test_auto_is_the_first_gpu_where_there_is_one():
    assert devices.resolve("auto") == devices.resolve("cuda") == torch.device("cuda:0")
    assert devices.resolve("cuda:1") == torch.device("cuda:1")
    assert devices.resolve("cpu") == torch.device("cpu")


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_that_is_not_among_them_is_named():
    with pytest.raises(UserError, match=r"device = cuda:2: this machine has 2 of them, counted from 0"):
        devices.resolve("cuda:2")


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("name", ["cuda", "cuda:3", "mps", "xpu"])
def test_a_sweep_on_a_device_that_is_not_there_is_one_line(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "--device", name, "--l1", "1", "--steps", "2"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert f"device = {name}: torch " in err
    assert "--device cpu" in err
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cpu:1", "mps:0", "CUDA"])
def test_what_is_no_device_is_refused_with_the_recipe(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "--device", name, "--l1", "1"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"device = '{name}': give auto, cpu, cuda, cuda:1, mps or xpu" in err


def test_a_device_for_the_model_that_is_not_there_is_named_before_anything_is_loaded(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert main(["sweep", "--model.device", "cuda", "--l1", "1"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "device = cuda: " in err


def test_an_accelerator_says_how_much_is_free(monkeypatch):
    """Stand-ins for what torch answers on a machine that has one."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5_000 + device.index, 9_000))
    monkeypatch.setattr(torch.xpu, "mem_get_info", lambda device: (6_000 + device.index, 9_000), raising=False)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 8_000, raising=False)
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 1_000)
    found = [devices.free(torch.device(name)) for name in ("cuda:1", "xpu:2", "mps", "cpu")]
    assert found == [5_001, 6_002, 7_000, None]
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 9_000)  # more than is recommended
    assert devices.free(torch.device("mps")) == 0


def test_an_accelerator_that_does_not_say_how_much_is_free_refuses_nothing(monkeypatch):
    cannot = RuntimeError("The device (Intel(R) Graphics) doesn't support querying the available free memory.")
    monkeypatch.setattr(torch.xpu, "mem_get_info", fails_by(cannot), raising=False)
    assert devices.free(torch.device("xpu:0")) is None
    monkeypatch.delattr(torch.xpu, "mem_get_info")
    monkeypatch.delattr(torch.mps, "recommended_max_memory", raising=False)
    assert devices.free(torch.device("xpu:0")) is devices.free(torch.device("mps")) is None


def test_a_run_that_does_not_fit_on_its_device_is_refused_before_it_begins(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(unmix.training.run, "free", lambda device: 10_000_000)
    words = ["sweep", "--l1", "1", "--features", "256", "--steps", "2", "--corpus.max_tokens", "100000"]
    assert main(words) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("unmix: the run needs about ")
    assert "on cpu, which has 10.0 MB free" in last
    for remedy in (*REMEDIES, "--force"):
        assert remedy in last
    assert not list(tmp_path.rglob("*.safetensors"))


REMEDIES = ["training.batch_tokens", "sae.features", "activations.chunk_sequences", "fewer members at once"]
OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nmore of it"),
    RuntimeError("MPS backend out of memory (MPS allocated: 17.10 GB). Tried to allocate 20.00 GiB on private pool."),
    RuntimeError("CUDA error: out of memory, Tried to allocate 20.00 GiB\nCUDA kernel errors might be reported later"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: Tried to allocate 20.00 GiB"),
    MemoryError("Unable to allocate: Tried to allocate 20.00 GiB"),
]


def fails_by(error):
    def fail(*_, **__):
        raise error

    return fail


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: str(error)[:20])
def test_out_of_memory_is_one_line(error, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(unmix.training.run, "sweep", fails_by(error))
    assert main(["sweep", "--l1", "1"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "Tried to allocate 20.00 GiB" in err
    for remedy in REMEDIES:
        assert remedy in err


@pytest.mark.parametrize("kernels", ["auto", "portable"])
def test_after_out_of_memory_inside_a_run_the_last_checkpoint_stands_and_resumes(kernels, overrides, capsys, tmp_path):
    """In step 30 of the third of four members, when two have gone further than the checkpoint of step 20."""
    often = {"training.steps": 40, "training.checkpoint_every": 10, "training.kernels": kernels}
    recipe = write_recipe(overrides | often, tmp_path)
    sweep = ["sweep", str(recipe), "--train-only", "--device", "cpu", "--runs"]
    cut, whole, look = tmp_path / "cut" / "tiny", tmp_path / "whole" / "tiny", Member.look

    def runs_out(member, *words):
        if member.entry.name == "l1-3" and member.updates == 29:
            raise OUT_OF_MEMORY[0]
        return look(member, *words)

    with pytest.MonkeyPatch.context() as small:
        small.setattr(Member, "look", runs_out)
        assert main([*sweep, str(cut.parent)]) == 2
    said = capsys.readouterr().err.splitlines()
    [line] = [line for line in said if "memory (" in line]
    assert line == said[-1]
    assert line.startswith("unmix: out of memory (CUDA out of memory. Tried to allocate 20.00 GiB.); lower ")
    for remedy in (*REMEDIES, "under another --name", "Checkpoints that were written are kept"):
        assert remedy in line
    for member in MEMBERS:
        assert max(path.name for path in (cut / "members" / member).iterdir()) == "step-000000020"
        assert load_sae(cut / "members" / member / "step-000000020").features == 48

    assert main([*sweep, str(cut.parent)]) == 0
    assert "resuming at step 20" in capsys.readouterr().err
    assert main([*sweep, str(whole.parent)]) == 0
    for member in MEMBERS:
        assert same(state(cut, member, 40), state(whole, member, 40))
    assert metrics(cut) == metrics(whole)


def test_out_of_memory_of_an_evaluation_says_what_makes_that_smaller(capsys, tmp_path, monkeypatch):
    import unmix.evaluation.command

    monkeypatch.setattr(unmix.evaluation.command, "evaluate_folder", fails_by(OUT_OF_MEMORY[0]))
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "give --batch 1, or --device cpu" in capsys.readouterr().err


def test_other_errors_are_not_called_out_of_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(unmix.training.run, "sweep", fails_by(RuntimeError("an illegal memory access")))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        main(["sweep", "--l1", "1"])


@pytest.mark.parametrize("kernels", ["auto", "portable"])
def test_a_sweep_on_the_processor_needs_nothing_that_is_for_a_gpu(kernels, overrides, tmp_path):
    """All of it, from the first line of the command, in a process of its own that has no triton."""
    write_recipe(overrides | {"training.steps": 8, "training.kernels": kernels}, tmp_path)
    code = (
        "import sys; sys.modules['triton'] = None; from unmix.cli import main; "
        "done = main(['sweep', 'tiny.yaml', '--device', 'cpu']); import torch; "
        "loaded = [name for name in sys.modules if name.startswith(('unmix.kernels.gpu', 'triton.'))]; "
        "print(done, loaded, torch.cuda.is_initialized())"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "0 [] False", ended.stderr
    assert "UserWarning" not in ended.stderr
