"""Devices by name, and those that are not there."""

import pytest
import torch

import unmix.training.run
from unmix import devices
from unmix.cli import main
from unmix.errors import UserError


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
    assert "device" in err


def test_a_run_that_does_not_fit_on_its_device_is_refused_before_it_begins(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(unmix.training.run, "free", lambda device: 10_000_000)
    words = ["sweep", "--l1", "1", "--features", "256", "--steps", "2", "--corpus.max_tokens", "100000"]
    assert main(words) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("unmix: the run needs about ")
    assert "on cpu, which has 10.0 MB free" in last
    assert not list(tmp_path.rglob("*.safetensors"))


def test_out_of_memory_on_a_device_is_one_line(capsys, tmp_path, monkeypatch):
    def exhausted(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nmore of it")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(unmix.training.run, "sweep", exhausted)
    assert main(["sweep", "--l1", "1"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "Tried to allocate 20.00 GiB" in err
    assert "lower training.batch_tokens" in err
