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


def needed(architecture, device=CUDA, *, D=4096, F=131_072, B=16_384, sae=None, **training):
    """Bytes on a device; on the processor, of the members there."""
    asked = {"l1": [0.3]} if architecture in ("relu", "jumprelu", "gated") else {"l0": [64.0]}
    recipe = RunConfig.model_validate({
        "sae": {"features": F, "architecture": architecture, "auxk": 0.0, **(sae or {})},
        "training": {"batch_tokens": B, **asked, **training},
        "activations": {"hooks": ["h"]},
    })  # fmt: skip
    source = SimpleNamespace(widths={"h": D}, target_widths={})
    if device is None:
        return memory.members(recipe, source, entries(recipe))
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


SMALL = {"D": 768, "F": 32_768, "B": 4096}
ALL_TOKENS = 20 * 4 * 4096 * 32_768  # what autograd holds on a batch of these in one piece
TILE = 20 * 16 * 2**20  # on a tile of it


@pytest.mark.parametrize("device", [CUDA, None], ids=["cuda", "cpu"])
@pytest.mark.parametrize(("architecture", "sae"), [
    ("relu", {"auxk": 0.1}), ("jumprelu", {"auxk": 0.1}), ("topk", {"auxk": 0.1, "noise": 0.1}),
])  # fmt: skip
def test_steps_that_revive_features_by_the_definition_need_what_the_definition_does(architecture, sae, device):
    """Those of a member that is not sparse, and those with noise. What kernels have made before is still there."""
    found = needed(architecture, device, sae=sae, **SMALL)
    assert needed(architecture, device, sae=sae, kernels="portable", **SMALL) <= found
    without = needed(architecture, device, sae=sae | {"auxk": 0.0}, **SMALL)
    assert found == pytest.approx(without + ALL_TOKENS, rel=0.15)


@pytest.mark.parametrize(("architecture", "sae"), [
    ("relu", {"preactivation": 0.1}), ("jumprelu", {"preactivation": 0.1}), ("relu", {"prefixes": [4096]}),
    ("jumprelu", {"random_prefixes": 3}),
])  # fmt: skip
def test_what_the_dense_kernels_do_not_know_is_taken_by_the_definition_in_tiles(architecture, sae):
    more = needed(architecture, sae=sae, **SMALL) - needed(architecture, **SMALL)
    assert TILE < more < ALL_TOKENS / 4


@pytest.mark.parametrize(("architecture", "sae"), [
    ("topk", {"auxk": 0.1}), ("batchtopk", {"auxk": 0.1}), ("topk", {"noise": 0.1}), ("relu", {"noise": 0.1}),
    ("topk", {"prefixes": [4096]}), ("batchtopk", {"multi_k": 0.1}),
])  # fmt: skip
def test_what_the_kernels_always_know_needs_no_autograd(architecture, sae):
    assert needed(architecture, sae=sae, **SMALL) - needed(architecture, **SMALL) < ALL_TOKENS / 10
