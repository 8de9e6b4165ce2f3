"""The examples of the documents for other libraries, each as it stands, where its library is installed.

The current folder has what they name: `gpt2`, of 12 blocks with random weights, the runs `runs/demo` and `runs/first`,
and in `DST` what `unmix convert` writes for a library.
"""

from __future__ import annotations

import ast
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from code_blocks import Block, blocks
from peer_blocks import missing, peer_blocks
from tiny_models import VOCABULARY, WIDTH, tiny_model_folder

import unmix
from unmix.dictionary.model import new_dictionary
from unmix.dictionary.nonlinearities import TopK
from unmix.interop import circuit_tracer, delphi
from unmix.lm.model import LanguageModel

PAGE, HOOK, TEXT = "docs/interop.md", "resid_post.8", "A text."
"""The page that has most of them, and what its examples read."""
LAYERS, CONTEXT = 12, 128
BLOCKS = peer_blocks()
CHECKED: list[tuple[str, str]] = []
"""(page, section) of the blocks that a test of this file runs."""
Names = dict[str, Any]


def example(section: str, page: str = PAGE) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A test that is given the block of that section, and is skipped where a library that it needs is missing."""
    [block] = [one for one in BLOCKS if (one.page, one.section) == (page, section)]
    CHECKED.append((page, section))
    lacking = ", ".join(map(str, missing(block)))

    def marked(test: Callable[..., None]) -> Callable[..., None]:
        test = pytest.mark.parametrize("block", [block], ids=[block.page])(test)
        test = pytest.mark.skipif(bool(lacking), reason=f"{lacking} is not installed")(test)
        return pytest.mark.peers(pytest.mark.filterwarnings("ignore")(test))

    return marked


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model, and two runs of 100 steps on rows as wide as it."""
    folder = tmp_path_factory.mktemp("examples")
    # n_ctx, which transformers ignores: TransformerLens' HookedTransformer reads it, and GPT-2's own files have it
    made = tiny_model_folder("gpt2", num_hidden_layers=LAYERS, max_position_embeddings=CONTEXT, n_ctx=CONTEXT)
    shutil.copytree(made, folder / "gpt2")
    x_RD = np.random.default_rng(0).normal(size=(3000, WIDTH)).astype(np.float32)
    unmix.sweep(
        activations=x_RD, hook=HOOK, l0=[20, 30], features=64, steps=100, name="demo", runs=folder / "runs", quiet=True,
        training={"batch_tokens": 64}, **{"activations.chunk_sequences": 2},
    )  # fmt: skip
    shutil.copytree(folder / "runs/demo", folder / "runs/first")
    return folder


@pytest.fixture
def given(furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Names:
    """What the examples start from: x, and what the page does before the first of them; in a folder of their own."""
    shutil.copytree(furnished, tmp_path / "workshop")
    monkeypatch.chdir(tmp_path / "workshop")
    names: Names = {"__name__": "example", "x": torch.randn(2, 5, WIDTH)}
    for block in blocks(PAGE):
        if (block.section, block.kind) == ("Examples", "python"):
            run(block, names)
    return names


def run(block: Block, names: Names) -> list[Names]:
    """Run it from a file, in which nnsight looks up its lines; the names after each statement."""
    path = Path("example.py").absolute()
    path.write_text(block.text, encoding="utf-8")
    seen = []
    for statement in ast.parse(block.text).body:
        exec(compile(ast.Module([statement], []), str(path), "exec"), names)
        seen.append(dict(names))
    return seen


def values(seen: list[Names], name: str) -> list[torch.Tensor]:
    """Those that a name had, one after the other."""
    found: list[torch.Tensor] = []
    for names in seen:
        if name in names and (not found or names[name] is not found[-1]):
            found.append(names[name])
    return found


def close(got: torch.Tensor, wanted: torch.Tensor, within: float = 1e-4) -> None:
    assert got.shape == wanted.shape
    assert torch.isfinite(wanted).all()
    assert (got - wanted).abs().max() <= within * wanted.abs().max()


def spliced_logits(lm: LanguageModel, names: Names, ids: torch.Tensor) -> torch.Tensor:
    """With x̂ for x, by unmix alone; they are others than without."""
    plain = lm.logits(ids)
    with unmix.splice(lm.model, HOOK, names["sae"]):
        wanted = lm.logits(ids)
    assert (wanted - plain).abs().max() > 1e-2 * plain.abs().max()
    return wanted


def ids_of(lm: LanguageModel) -> torch.Tensor:
    return torch.tensor([lm.tokenizer.encode(TEXT)])


@example("SAELens")
def test_sae_lens(block: Block, given: Names):
    run(block, given)
    f = given["sae"].encode(given["x"])
    assert 0 < (f > 0).float().mean() < 1
    close(given["f"], f)
    close(given["again"].encode(given["x"]), f)
    assert given["again"].cfg.metadata.hook_name == "blocks.8.hook_resid_post"


@example("Coming from SAELens", page="docs/saelens.md")
def test_sae_lens_opens_a_member(block: Block, given: Names):
    run(block, given)
    close(given["sae"](given["x"]), unmix.open_run("runs/first").sae("l0-20")(given["x"]))


@example("TransformerLens")
def test_transformer_lens(block: Block, given: Names):
    lm = unmix.load_model("gpt2")
    seen = run(block, given)
    ids = given["model"].to_tokens(TEXT)
    close(given["f"], given["sae"].encode(lm.activations(ids, [HOOK])[HOOK]), 1e-3)
    wanted = spliced_logits(lm, given, ids)
    hooked, spliced = values(seen, "logits")
    close(hooked, wanted)
    close(spliced, wanted)


@example("nnsight")
def test_nnsight(block: Block, given: Names):
    lm = unmix.load_model("gpt2")
    seen = run(block, given)
    wanted = spliced_logits(lm, given, ids_of(lm))
    replaced, spliced = values(seen, "logits")
    close(replaced, wanted)
    close(spliced, wanted)


@example("nnterp")
def test_nnterp(block: Block, given: Names):
    lm = unmix.load_model("gpt2")
    run(block, given)
    x = lm.activations(ids_of(lm), [HOOK])[HOOK]
    close(given["x"], x)
    close(given["f"], given["sae"].encode(x), 1e-3)


@example("circuit-tracer")
def test_circuit_tracer(block: Block, given: Names):
    circuit_tracer.write_set([new_dictionary(WIDTH, 24, 1.0, L) for L in range(LAYERS)], Path("DST"), model="gpt2")
    run(block, given)
    close(given["f"], unmix.load_sae("DST/layer_3.safetensors").encode(given["x"]))
    assert not torch.equal(given["f"], unmix.load_sae("DST/layer_2.safetensors").encode(given["x"]))


@example("SAEBench")
def test_saebench(block: Block, given: Names, monkeypatch: pytest.MonkeyPatch):
    """On texts that are made here, and fewer of them; all else is what it does, to the file that it writes."""
    import datasets
    from pydantic import TypeAdapter
    from sae_bench.evals.core.eval_output import CoreEvalOutput

    draw, words = np.random.default_rng(0), ["of", "the", "world", "return", "import", "while", "self", "for", "def"]
    texts = datasets.Dataset.from_dict({"text": [" ".join(draw.choice(words, 400)) for _ in range(500)]})
    monkeypatch.setattr("sae_lens.training.activations_store.load_dataset", lambda *_, **__: texts)
    fewer = block.text.replace("_batches=200,", "_batches=4,").replace("_batches=20,", "_batches=2,")
    assert fewer != block.text
    run(replace(block, text=fewer), given)
    [result] = given["results"]
    metrics = result["metrics"]
    assert all(math.isfinite(value) for group in metrics.values() for value in group.values())
    assert 0 < metrics["sparsity"]["l0"] < given["sae"].features
    untouched = metrics["model_performance_preservation"]["ce_loss_without_sae"]
    assert untouched == pytest.approx(math.log(VOCABULARY), rel=0.2)
    assert metrics["token_stats"]["total_tokens_eval_sparsity_variance"] == 4 * 8 * CONTEXT
    [path] = Path("eval_results").rglob("*.json")
    written = TypeAdapter(CoreEvalOutput).validate_json(path.read_text(encoding="utf-8"))
    assert written.eval_result_metrics.sparsity.l0 == pytest.approx(metrics["sparsity"]["l0"])


@example("Delphi")
def test_delphi(block: Block, given: Names, capsys: pytest.CaptureFixture[str]):
    """The cache has as many features that its first file of five ends at 4,914; it prints float16 to four decimals."""
    lm, sae = unmix.load_model("gpt2"), new_dictionary(WIDTH, 768 * 32, 1.0, 0, TopK(50, weigh_by_norm=False))
    ids_NT = torch.randint(1, VOCABULARY, (2, 64), generator=torch.Generator().manual_seed(0))
    delphi.write_cache(lm, ids_NT, HOOK, sae, Path("DST"))
    capsys.readouterr()
    run(block, given)
    printed = [re.search(r"latent(\d+)\D+([\d.e-]+)", line) for line in capsys.readouterr().out.splitlines()]
    found = {int(line[1]): float(line[2]) for line in printed if line is not None}
    with torch.no_grad():
        most_F = sae.encode(lm.activations(ids_NT, [HOOK])[HOOK]).flatten(0, 1).amax(0)[:4915]
    assert found == {i: pytest.approx(most_F[i].item(), abs=1e-4) for i in most_F.nonzero().flatten().tolist()}
    assert len(found) > 10


def test_every_example_for_another_library_is_run_here():
    assert sorted((block.page, block.section) for block in BLOCKS) == sorted(CHECKED)
