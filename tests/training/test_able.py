"""A device that cannot take the portable step as it is asked for says so in one line, before a run begins."""

import pytest
import torch

from unmix.cli import main
from unmix.errors import UserError
from unmix.kernels import autocast, compiled
from unmix.training import able

CPU = torch.device("cpu")


def broken(*words, **more):
    raise torch._dynamo.exc.BackendCompilerFailed(lambda: None, RuntimeError("no C++ compiler found"), None)


def test_the_processor_can():
    able.require(CPU, "fp32", compiled=False)
    able.require(CPU, "bf16", compiled=False)


@pytest.mark.parametrize("error", [RuntimeError("Current device does not support bfloat16"), TypeError("BFloat16")])
def test_a_device_without_bf16_is_named(error, monkeypatch):
    def missing(*words, **more):
        raise error

    monkeypatch.setattr(autocast, "launch", missing)
    with pytest.raises(UserError, match=r"training\.dense = bf16: cpu has no products in bf16 \(.*; give --training"):
        able.require(CPU, "bf16", compiled=False)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own
def test_without_a_compiler_nothing_is_left_behind_and_the_advice_can_be_followed(
    overrides, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    words = [word for key, value in overrides.items() for word in _option(key, value)]
    words += ["--training.kernels", "portable", "--train-only", "--training.steps", "4"]
    with monkeypatch.context() as without:
        without.setattr(compiled, "_compiled", lambda: broken)
        assert main(["sweep", *words, "--training.compile", "true"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("unmix: training.compile = true: torch cannot compile here (")
    assert not (tmp_path / "runs" / "tiny" / "run.yaml").exists()
    assert main(["sweep", *words]) == 0


def _option(key, value):
    if key == "name":
        return ["--name", value]
    values = value if isinstance(value, list) else [value]
    return [f"--{key}", *(str(item) for item in values)]
