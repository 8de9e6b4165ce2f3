"""What a run is said to need on an accelerator: what its kernels hold, not what the definition would."""

from types import SimpleNamespace

import pytest
import torch

from unmix.config import RunConfig
from unmix.training import memory
from unmix.training.manifest import entries

pytest.importorskip("triton", reason="the GPU kernels need triton: pip install -e '.[gpu]'")
CUDA, CPU_LIKE = torch.device("cuda:0"), torch.device("xpu")
GB, H100 = 1e9, 80e9


def needed(architecture, device=CUDA, *, D=4096, F=131_072, B=16_384, **training):
    asked = {"l1": [0.3]} if architecture in ("relu", "jumprelu", "gated") else {"l0": [64.0]}
    recipe = RunConfig.model_validate({
        "sae": {"features": F, "architecture": architecture, "auxk": 0.0},
        "training": {"batch_tokens": B, **asked, **training},
        "activations": {"hooks": ["h"]},
    })  # fmt: skip
    source = SimpleNamespace(widths={"h": D}, target_widths={})
    return memory.on_device(recipe, source, entries(recipe), 0, device)


@pytest.mark.parametrize("architecture", ["relu", "jumprelu", "topk", "batchtopk", "matryoshka"])
def test_a_large_dictionary_is_not_refused_for_arrays_that_its_kernels_never_make(architecture):
    found, weights = needed(architecture), 16 * 2 * 4096 * 131_072
    assert weights < found < H100
    assert H100 < 20 * 4 * 16_384 * 131_072  # what autograd would hold in one piece


def test_it_is_what_the_kernels_hold():
    D, F, B = 64, 1000, 500
    step = 4 * B * D * 3 + 2.5 * 17 / 16 * 4 * B * F + 40 * 0.1 * 1.25 * B * F
    assert needed("relu", D=D, F=F, B=B, border=0.1) == pytest.approx(16 * (2 * D * F + F + D) + step, abs=2)


def test_a_batchtopk_is_one_tile_and_a_relu_is_not():
    shape = {"D": 64, "F": 2**20, "B": 2**14}
    assert needed("batchtopk", **shape) > 4 * 2**34
    assert needed("relu", border=0.01, **shape) < 4 * 2**34


@pytest.mark.parametrize(("architecture", "device", "kernels"), [
    ("gated", CUDA, "auto"), ("relu", CUDA, "portable"), ("relu", CPU_LIKE, "auto"),
])  # fmt: skip
def test_the_definition_is_taken_in_tiles(architecture, device, kernels):
    shape = {"D": 64, "F": 4096, "B": 2**16}
    found = needed(architecture, device, kernels=kernels, **shape)
    assert found < 20 * 4 * 2**16 * 4096 / 10
    assert needed("batchtopk", device, kernels="portable", **shape) > 20 * 4 * 2**16 * 4096
