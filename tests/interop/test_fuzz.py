"""Damaged and altered files: a right answer or one line, and never anything else."""

from __future__ import annotations

import copy
import json
import os
import string
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from interop.looks import LOOKS, Look, Weights, inputs

from unmix.dictionary.samples import save_samples, wrong
from unmix.errors import UserError
from unmix.interop.load import FORMATS, read

D, F = 6, 20
TENSORS = (".safetensors", ".npz", ".pt", ".pth")
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 40), st.just(10**400), st.floats(width=32),
    st.text(string.printable, max_size=8), st.sampled_from(["topk", "none", "relu", "jumprelu", "standard"]),
    st.lists(st.integers(0, 3), max_size=2),
    st.dictionaries(st.sampled_from(["k", "in", "x"]), st.floats(0, 9), max_size=2),
)  # fmt: skip
few = settings(
    max_examples=int(os.environ.get("UNMIX_FUZZ", "8")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize="UNMIX_FUZZ" not in os.environ,
    database=None,
)
"""UNMIX_FUZZ=200 tries that many of each, others every time."""


def answer(look: Look) -> Any:
    """The dictionary, or None for a refusal in one line."""
    with TemporaryDirectory() as folder:
        return read_or_line(look.put(Path(folder)))


def read_or_line(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return read(path, pickles=True).dictionary
        except UserError as error:
            line = str(error)
    assert "\n" not in line
    assert 0 < len(line) < 1000
    return None


def same(sae: Any, look: Look) -> bool:
    x = inputs(D)
    f, y = look.function(x)
    with torch.no_grad():
        got_f, got_y = sae.encode(x), sae(x)
    return (
        got_f.shape == f.shape
        and torch.allclose(got_f.double(), f, atol=1e-4)
        and torch.allclose(got_y.double(), y, atol=1e-4)
    )


def drawn(name: str) -> Look:
    return LOOKS[name](Weights(D, F))


def of_kind(look: Look, *ends: str) -> list[str]:
    return [at for at, content in look.files.items() if at.endswith(ends) and isinstance(content, dict)]


@pytest.mark.parametrize("name", LOOKS)
@few
@given(data=st.data())
def test_keys(name, data):
    """A key changed, left out or added: what opens computes the same, unless the key says what is computed."""
    look = drawn(name)
    configs = of_kind(look, ".json") + [at for at in look.files if at.endswith(".yaml")]
    if not configs:
        return
    at = data.draw(st.sampled_from(configs))
    is_yaml = at.endswith(".yaml")
    config = yaml.safe_load(look.files[at]) if is_yaml else copy.deepcopy(look.files[at])
    inner = data.draw(st.sampled_from([config, *(value for value in config.values() if isinstance(value, dict))]))
    keys = [*inner, "k", "architecture", "normalize_activations", "a key", "skip_connection", "bias"]
    key = data.draw(st.sampled_from(keys))
    if key in inner and data.draw(st.booleans()):
        del inner[key]
    else:
        inner[key] = data.draw(VALUES)
    look.files[at] = yaml.safe_dump(config) if is_yaml else config
    found = answer(look)
    if found is None or key in look.changes:
        return
    if at.endswith("activation_scaler.json") or key in ("in", "out", "trainer", "dict_class", "k", "threshold"):
        return
    assert same(found, look), (key, inner.get(key))


@pytest.mark.parametrize("name", LOOKS)
@few
@given(data=st.data())
def test_tensors(name, data):
    """A tensor left out, added, of another shape or dtype."""
    look = drawn(name)
    files = [at for at in of_kind(look, *TENSORS) if "sparsity" not in at]
    at = look.at if look.at in files else data.draw(st.sampled_from(files))
    tensors = look.files[at] = dict(look.files[at])
    key = data.draw(st.sampled_from([*tensors, "threshold", "W_skip", "log_thresholds", "b_enc", "scaling_factor"]))
    tensor = tensors.get(key)
    kinds = ["none", "shape", "dtype", "turned", "scalar", "empty", "zero"]
    how = data.draw(st.sampled_from(kinds))
    was = tensor if isinstance(tensor, torch.Tensor) else torch.ones(3)
    if how == "none":
        tensors.pop(key, None)
    else:
        tensors[key] = {
            "shape": lambda: was.reshape(-1)[: data.draw(st.integers(0, 30))].clone(),
            "dtype": lambda: was.to(data.draw(st.sampled_from([torch.int8, torch.bool, torch.float16, torch.int64]))),
            "turned": lambda: was.T.contiguous() if was.ndim == 2 else was[None],
            "scalar": lambda: torch.tensor(data.draw(st.floats(width=32))),
            "empty": lambda: torch.ones(0, data.draw(st.integers(0, 3))),
            "zero": lambda: torch.zeros_like(was),
        }[how]()
    found = answer(look)
    if found is not None and tensor is None and how != "none" and key not in ("threshold", "scaling_factor"):
        assert same(found, look), (key, how)  # something more that was passed over can have said nothing
    if (
        found is not None
        and how == "turned"
        and was.ndim == 2
        and key not in ("W_dec", "W_skip", "affine_skip_connection")
    ):
        raise AssertionError(f"{key} was turned, and nothing said so")


@pytest.mark.parametrize("name", LOOKS)
@few
@given(data=st.data())
def test_bytes(name, data):
    """A file cut short, or some of its bytes changed: one line, or the same as before, or at least a dictionary."""
    look = drawn(name)
    with TemporaryDirectory() as folder:
        path = look.put(Path(folder))
        at = Path(folder) / data.draw(st.sampled_from(sorted(look.files)))
        content = bytearray(at.read_bytes())
        if data.draw(st.booleans()):
            del content[data.draw(st.integers(0, len(content) - 1)) :]
        else:
            for _ in range(data.draw(st.integers(1, 4))):
                content[data.draw(st.integers(0, min(len(content) - 1, 2000)))] = data.draw(st.integers(0, 255))
        at.write_bytes(content)
        found = read_or_line(path)
    if found is not None:
        assert all(bool(tensor.isfinite().all()) for tensor in found.weights.values())


@few
@given(content=st.one_of(st.binary(max_size=300), VALUES.map(lambda value: json.dumps(value).encode())))
@pytest.mark.parametrize(
    "file", ["cfg.json", "config.json", "hyperparams.json", "config.yaml", "params.npz", "ae.pt", "x.pt"]
)
def test_files_of_anything(file, content):
    with TemporaryDirectory() as folder:
        for name in ("sae_weights.safetensors", "sae.safetensors", "ae.pt", "layer_0.safetensors", file):
            if file != "x.pt" or name == file:
                (Path(folder) / name).write_bytes(content)
        assert read_or_line(Path(folder)) is None


def test_every_format_has_a_look_that_is_fuzzed(tmp_path):
    """Each reader of `load`, those of lone pickles too."""
    read_by = {read(drawn(name).put(tmp_path / str(n)), pickles=True).origin.format for n, name in enumerate(LOOKS)}
    assert read_by == {
        "SAELens", "sparsify", "Llama Scope", "Language-Model-SAEs", "Gemma Scope", "dictionary_learning",
        "BatchTopK repository", "circuit-tracer", "OpenAI sparse_autoencoder", "Qwen Scope", "Goodfire",
        "DeepSeek-R1 SAE",
    }  # fmt: skip
    assert len(FORMATS) == 9, "a reader was added: give it a look in looks.py"


@few
@given(data=st.data())
def test_sample_activations(data):
    """A line or nothing, whatever stands there."""
    with TemporaryDirectory() as folder:
        sae = read(drawn("gemma scope").put(Path(folder)), pickles=True).dictionary
        save_samples(sae, Path(folder))
        at = Path(folder) / "samples.safetensors"
        if data.draw(st.booleans()):
            content = bytearray(at.read_bytes())
            if data.draw(st.booleans()):
                del content[data.draw(st.integers(0, len(content) - 1)) :]
            else:
                for _ in range(data.draw(st.integers(1, 4))):
                    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
            at.write_bytes(content)
        else:
            tensors = safetensors.torch.load_file(at)
            key = data.draw(st.sampled_from(sorted(tensors)))
            was = tensors.pop(key)
            changed = {
                "gone": None, "flat": was.reshape(-1)[: data.draw(st.integers(0, 30))].clone(), "negative": -was,
                "whole": was.to(torch.int8), "none": was[:0], "large": was + 2**20,
            }[data.draw(st.sampled_from(["gone", "flat", "negative", "whole", "none", "large"]))]  # fmt: skip
            safetensors.torch.save_file(tensors | ({} if changed is None else {key: changed}), at)
        line = wrong(sae, Path(folder))
    assert "\n" not in line
    assert len(line) < 1000
